"""The whole book at any moment from its stored changes: equal to the book that was, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_daemon import BTC, FakeDaemon
from marketd.client import book_rebuild
from marketd.client.book_rebuild import DISORDER_NS, rebuilt_book
from marketd.client.book_requests import books_with_imbalances
from marketd.client.books import OrderBookDataFrame
from marketd.client.calls import Call, Reply
from marketd.client.catalogue import Catalogue
from marketd.client.frames import Frame
from marketd.client.grid import SETTLE_NS
from marketd.market import book_deltas
from marketd.market.book import Levels, OrderBook
from marketd.market.book_deltas import DeltaRecorder
from marketd.market.errors import InvalidArgument, NotStored, NotYetStored
from marketd.market.records import ABSENT, BOOK_DELTA, BY_NAME, BookFlag, Coverage, Records, empty

FUTURE = "2222-01-01T00:00:00+00:00"
SECOND, MS = 1_000_000_000, 1_000_000
START = 100 * SECOND
BOOK_STREAM = BY_NAME["book"].id
CUT = BookFlag.BIDS_CUT | BookFlag.ASKS_CUT


@pytest.fixture
def daemon(tmp_path: Path) -> FakeDaemon:
    return daemon_in(tmp_path)


def daemon_in(directory: Path) -> FakeDaemon:
    daemon = FakeDaemon(directory)  # answers without being started
    daemon.watermark = START + 3600 * SECOND
    return daemon


def rebuilt(daemon: FakeDaemon, ts_ns: int, depth: int | None = None) -> OrderBookDataFrame:
    plan, reply = rebuilt_book(Catalogue(), "BTC/USDT", ts_ns, depth), None
    try:
        while True:
            call = next(plan) if reply is None else plan.send(reply)
            assert isinstance(call, Call)
            daemon.received.append(call.message)
            message, frames = daemon._handle(call.message, list(call.frames))
            reply = Reply(message, frames, 1_000)
    except StopIteration as end:
        assert isinstance(end.value, OrderBookDataFrame)
        return end.value


def numbered(changes: Records, first: int = 1) -> Records:
    changes["seq"] = first + np.arange(len(changes))
    changes["ts_known"] = changes["ts_event"] + 50 * MS
    return changes


def event(state: Coverage, start: int, end: int, seq: int, stream: int = BOOK_STREAM) -> Records:
    record = empty(BY_NAME["coverage"], 1)
    record["ts_event"] = record["ts_start"] = start
    record["ts_end"], record["seq"], record["stream"], record["state"] = end, seq, stream, state
    record["ts_known"], record["reason"] = end, b""
    return record


class Told:
    """A book of two levels, and a level more every 100 ms."""

    def __init__(self) -> None:
        self.recorder, self.book = DeltaRecorder(), OrderBook()

    def begin(self, ts: int) -> None:
        self.book.reset(Levels([9_999, 9_998], [1, 2]), Levels([10_001], [5]))
        self.recorder.book(ts, 1, self.book)

    def change(self, ts: int, size: int) -> None:
        self.recorder.book(ts, size, self.book, self.book.apply(Levels([9_990 - size], [size]), Levels([], [])))


def told_steps(count: int, first_ts: int = START) -> Told:
    told = Told()
    told.begin(first_ts)
    for number in range(1, count):
        told.change(first_ts + number * 100 * MS, number)
    return told


# ---- what it is -------------------------------------------------------------------------------------


def test_the_book_at_a_moment_has_every_level_in_real_numbers(daemon: FakeDaemon) -> None:
    daemon.store("book_delta", numbered(told_steps(10).recorder.take()))
    found = rebuilt(daemon, START + 250 * MS)
    assert (len(found), found.depth, found["time"].tolist()) == (1, 4, [START + 200 * MS])
    assert found["bid_price"][0].tolist() == [99.99, 99.98, 99.89, 99.88]
    assert found["ask_price"][0, 0] == 100.01
    assert np.isnan(found["ask_price"][0, 1:]).all()
    assert (found["bid_count"][0], found["ask_count"][0], found["sequence"][0]) == (4, 1, 2)
    assert found.is_live.all()
    assert found.meta.book_state == "LIVE"
    assert found.mid.tolist() == [100.0]
    assert Frame.from_bytes(found.to_bytes()).digest == found.digest


@pytest.mark.parametrize("depth", [1, 2, 30])
def test_the_depth_is_the_one_that_is_asked_for(daemon: FakeDaemon, depth: int) -> None:
    daemon.store("book_delta", numbered(told_steps(10).recorder.take()))
    found = rebuilt(daemon, START + SECOND, depth)
    assert found.depth == depth
    assert found["bid_count"].tolist() == [min(depth, 11)]
    assert found["bid_price"][0, 0] == 99.99


def test_a_book_may_be_deeper_than_any_that_is_kept(daemon: FakeDaemon) -> None:
    told = Told()
    told.book.reset(Levels(list(range(1, 1501)), [7] * 1500), Levels([2_000], [1]))
    told.recorder.book(START, 1, told.book)
    daemon.store("book_delta", numbered(told.recorder.take()))
    found = rebuilt(daemon, START)
    assert (found.depth, found["bid_count"][0]) == (1500, 1500)
    assert found["bid_price"][0, -1] == 0.01
    assert Frame.from_bytes(found.to_bytes()).digest == found.digest


@pytest.mark.parametrize("depth", [0, -1, True, "5"])
def test_what_is_no_depth_is_refused(daemon: FakeDaemon, depth: Any) -> None:
    with pytest.raises(InvalidArgument, match="depth"):
        rebuilt(daemon, START, depth)


@pytest.mark.parametrize(
    ("depth", "bids", "flags"),
    [(None, 3, CUT), (3, 3, CUT), (2, 2, BookFlag(0)), (30, 3, CUT)],
)
def test_a_book_of_which_a_window_was_told_says_so(daemon: FakeDaemon, depth: int, bids: int, flags: BookFlag) -> None:
    told = Told()
    told.book.reset(Levels([9_999, 9_998, 9_990], [1, 2, 3]), Levels([10_001, 10_002], [5, 5]), window=3)
    told.recorder.book(START, 1, told.book)
    change = told.book.apply(Levels([], []), Levels([10_007, 10_008], [7, 8]))
    told.recorder.book(START + SECOND, 2, told.book, change.then(told.book.cut(3)))
    daemon.store("book_delta", numbered(told.recorder.take()))
    whole, found = rebuilt(daemon, START, depth), rebuilt(daemon, START + SECOND, depth)
    assert whole["flags"].tolist() == [flags & BookFlag.BIDS_CUT]  # two asks are all there are
    assert (found["flags"].tolist(), found["bid_count"].tolist()) == ([flags], [bids])
    assert found.is_cut.tolist() == [bool(flags)]
    assert found["ask_price"][0, :2].tolist() == [100.01, 100.02]


def test_levels_from_beyond_an_edge_are_left_out_until_the_venue_has_told_all_before_them(daemon: FakeDaemon) -> None:
    told, none = Told(), Levels([], [])
    told.book.reset(Levels([9_999, 9_998, 9_990], [1, 2, 3]), Levels([10_001], [5]), 3)
    told.recorder.book(START, 1, told.book)
    told.recorder.book(START + SECOND, 2, told.book, told.book.apply(Levels([9_980], [8]), none))
    told.recorder.book(START + 2 * SECOND, 3, told.book, told.book.widen(Levels([9_985], [4]), none, 9_980, 2**64))
    told.recorder.book(START + 3 * SECOND, 4, told.book, told.book.widen(none, none, -(2**64), 2**64))
    daemon.store("book_delta", numbered(told.recorder.take()))
    for second, bids, is_cut in ((0, 3, True), (1, 3, True), (2, 5, True), (3, 5, False)):
        found = rebuilt(daemon, START + second * SECOND)
        assert (found["bid_count"][0], found.is_cut[0]) == (bids, is_cut)
        assert found["bid_price"][0, bids - 1] == {3: 99.90, 5: 99.80}[bids]


messages = st.lists(
    st.tuples(
        st.sampled_from(("change", "change", "change", "anew", "leave")),
        st.integers(0, int(DISORDER_NS // SECOND) - 1),  # how much later than its turn its time is, s
        st.lists(st.tuples(st.integers(90, 99), st.integers(0, 3)), max_size=4),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(messages, st.integers(-1, 50), st.integers(70, 120))  # no moment has 70
def test_at_every_moment_it_is_the_book_after_the_last_message_until_then(
    tmp_path_factory: pytest.TempPathFactory, script: list[Any], second: int, page: int
) -> None:
    told, states = Told(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(book_deltas, "DENSE_ROWS", 3)
        patch.setattr(book_deltas, "DENSE_TIMES", 0)
        patch.setattr(book_rebuild, "FIRST_PAGE", page)
        patch.setattr(book_rebuild, "PAGE", page)
        told.begin(START)
        states.append((START, dict(told.book.bids), len(told.recorder._prices)))
        is_live = True
        for number, (what, later, rows) in enumerate(script, 1):
            ts = START + (number + later) * SECOND
            levels = Levels([price for price, _ in rows], [size for _, size in rows])
            if what == "leave":
                told.recorder.leave(ts)
                is_live = False
            elif what == "anew" or not is_live:
                told.book.reset(levels, Levels([101], [1]))
                told.recorder.book(ts, number, told.book)
                is_live = True
            else:
                told.recorder.book(ts, number, told.book, told.book.apply(levels, Levels([], [])))
            rows_now = len(told.recorder._prices)
            if rows_now > states[-1][2]:  # a message that changes nothing is none
                states.append((ts, dict(told.book.bids) if is_live else {}, rows_now))
            elif is_live:
                states[-1] = (states[-1][0], dict(told.book.bids), rows_now)
        daemon = daemon_in(tmp_path_factory.getbasetemp())
        daemon.store("book_delta", numbered(told.recorder.take()))
        moment = START + second * SECOND
        known = [bids for ts, bids, _ in states if ts <= moment]
        until = [index for index, (ts, *_) in enumerate(states) if ts <= moment]
        if not until or (not known[-1] and not is_live_at(daemon, moment)):
            with pytest.raises(NotStored):
                rebuilt(daemon, moment)
            return
        found = rebuilt(daemon, moment)
        shown = {
            round(price * 100): round(size * 10**5) for price, size in found.bids[0].tolist() if not np.isnan(price)
        }
        assert shown == states[until[-1]][1]


def is_live_at(daemon: FakeDaemon, moment: int) -> bool:
    return book_deltas.book_at(daemon.stored["book_delta"], moment).is_live


def test_the_whole_book_is_told_again_after_many_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_deltas, "DENSE_ROWS", 10)
    monkeypatch.setattr(book_deltas, "DENSE_TIMES", 2)
    told = Told()
    told.begin(START)
    for number in range(1, 60):
        told.recorder.book(
            START + number, number, told.book, told.book.apply(Levels([9_990], [number]), Levels([], []))
        )
    changes = told.recorder.take()
    begins = np.flatnonzero(changes["flags"] & book_deltas.BookDeltaFlag.FIRST)
    assert np.diff(begins).tolist() == [3 + 10, *[4 + 10] * 4]  # a snapshot's levels, and ten changes
    plain = changes["flags"] & book_deltas.BookDeltaFlag.SNAPSHOT == 0
    assert plain.sum() + len(begins) == 60  # each message once: as a change, or as the whole book


# ---- what is missing --------------------------------------------------------------------------------


def test_where_nothing_is_stored_it_says_so(daemon: FakeDaemon) -> None:
    with pytest.raises(NotStored, match=r"none of its changes is stored.*book\.deltas = true") as error:
        rebuilt(daemon, START)
    assert error.value.field == "timestamp"
    daemon.store("book_delta", numbered(told_steps(3).recorder.take()))
    with pytest.raises(NotStored, match="none of its changes"):
        rebuilt(daemon, START - 1)


def test_changes_without_their_snapshot_are_no_book(daemon: FakeDaemon) -> None:
    daemon.store("book_delta", numbered(told_steps(10).recorder.take())[3:])
    with pytest.raises(NotStored, match="no snapshot"):
        rebuilt(daemon, START + SECOND)


def test_while_the_book_is_out_of_step_there_is_none(daemon: FakeDaemon) -> None:
    told = told_steps(5)
    told.recorder.leave(START + SECOND)
    told.begin(START + 20 * SECOND)
    daemon.store("book_delta", numbered(told.recorder.take()))
    rebuilt(daemon, START + SECOND - 1)
    for ts in (START + SECOND, START + 19 * SECOND):
        with pytest.raises(NotStored, match="not in step"):
            rebuilt(daemon, ts)
    assert len(rebuilt(daemon, START + 20 * SECOND)) == 1


def test_what_the_database_may_still_lack_is_not_guessed(daemon: FakeDaemon) -> None:
    daemon.store("book_delta", numbered(told_steps(10).recorder.take()))
    daemon.watermark = START + SECOND + SETTLE_NS
    rebuilt(daemon, START + SECOND)
    with pytest.raises(NotYetStored, match="a little later"):
        rebuilt(daemon, START + SECOND + 1)
    daemon.watermark = None
    with pytest.raises(NotYetStored, match="nothing yet"):
        rebuilt(daemon, START + SECOND)


@pytest.mark.parametrize("stream", [0, BY_NAME["book_delta"].id])
@pytest.mark.parametrize("state", [Coverage.GAP, Coverage.UNSTORED, Coverage.VENUE_DOWN])
def test_a_hole_between_snapshot_and_moment_is_told(daemon: FakeDaemon, state: Coverage, stream: int) -> None:
    told = told_steps(100)
    daemon.store("book_delta", numbered(told.recorder.take()))
    daemon.store("coverage", event(state, START + 4 * SECOND, START + 5 * SECOND, 5_000, stream))
    assert len(rebuilt(daemon, START + 2 * SECOND - 1)) == 1
    for ts in (START + 5 * SECOND, START + 9 * SECOND):
        with pytest.raises(NotStored, match=f"the ledger has {state.name}"):
            rebuilt(daemon, ts)


def test_a_new_snapshot_heals_a_hole(daemon: FakeDaemon) -> None:
    told = told_steps(50)
    told.begin(START + 20 * SECOND)
    daemon.store("book_delta", numbered(told.recorder.take()))
    daemon.store("coverage", event(Coverage.UNSTORED, START + 4 * SECOND, START + 6 * SECOND, 5_000, 0))
    with pytest.raises(NotStored):
        rebuilt(daemon, START + 19 * SECOND)
    assert len(rebuilt(daemon, START + 20 * SECOND)) == 1


def test_a_gap_that_ended_with_the_snapshot_is_none_whatever_its_nanoseconds(daemon: FakeDaemon) -> None:
    daemon.store("book_delta", numbered(told_steps(50).recorder.take(), 10))
    daemon.store("coverage", event(Coverage.GAP, START - SECOND, START + 999, 9))
    assert len(rebuilt(daemon, START + SECOND)) == 1


def test_gaps_of_other_streams_are_none_of_the_book(daemon: FakeDaemon) -> None:
    daemon.store("book_delta", numbered(told_steps(100).recorder.take()))
    daemon.store("coverage", event(Coverage.GAP, START + 4 * SECOND, START + 5 * SECOND, 5_000, BY_NAME["trade"].id))
    assert len(rebuilt(daemon, START + 6 * SECOND)) == 1


def killed_feed(daemon: FakeDaemon, down_seconds: int) -> int:
    """A feed that was killed without a word after 10 s, and the next one; when that was in step."""
    first = numbered(told_steps(100).recorder.take())
    again_ns = START + (10 + down_seconds) * SECOND
    second = numbered(told_steps(10, again_ns).recorder.take(), 1_001)
    daemon.store("book_delta", np.concatenate((first, second)))
    daemon.store("coverage", event(Coverage.OBSERVED, START, START, 0))
    daemon.store("coverage", event(Coverage.OBSERVED, again_ns, again_ns, 1_000))
    return again_ns


@pytest.mark.parametrize("down_seconds", [1, 60])
def test_between_two_feeds_nothing_is_known(daemon: FakeDaemon, down_seconds: int) -> None:
    again_ns = killed_feed(daemon, down_seconds)
    assert len(rebuilt(daemon, START + 9 * SECOND)) == 1
    for ts in (START + 9_900 * MS, again_ns - 1):
        with pytest.raises(NotStored, match="nothing is known of it"):
            rebuilt(daemon, ts)
    assert len(rebuilt(daemon, again_ns)) == 1


def test_a_killed_feeds_book_is_known_up_to_its_last_change_whatever_the_gap_is_estimated(daemon: FakeDaemon) -> None:
    """The gap begins with the last that the old feed sent of anything but the book."""
    again_ns = killed_feed(daemon, 60)
    daemon.stored["coverage"] = event(Coverage.GAP, START + 2 * SECOND, again_ns, 1_000)
    for ts in (START + SECOND, START + 2 * SECOND, START + 9_899 * MS):
        assert len(rebuilt(daemon, ts)) == 1
    for ts in (START + 9_900 * MS, START + 30 * SECOND, again_ns - 1):
        with pytest.raises(NotStored, match="nothing is known of it"):
            rebuilt(daemon, ts)
    assert len(rebuilt(daemon, again_ns)) == 1


@pytest.mark.parametrize("is_back", [False, True])
def test_while_a_killed_feeds_gap_is_open_its_book_is_known_up_to_the_last_that_it_sent(
    daemon: FakeDaemon, is_back: bool
) -> None:
    """Ingest told of it as soon as the feed was gone: from the newest event on."""
    again_ns = killed_feed(daemon, 60)
    newest = START + 9_900 * MS
    gone = event(Coverage.GAP, newest, ABSENT, 900)
    back = [event(Coverage.GAP, newest, again_ns, 1_000), event(Coverage.OBSERVED, again_ns, again_ns, 1_000)]
    daemon.stored["coverage"] = np.concatenate([gone, *back]) if is_back else gone
    if not is_back:
        daemon.stored["book_delta"] = daemon.stored["book_delta"][:-10]
    for ts in (START + SECOND, newest - 1):
        assert len(rebuilt(daemon, ts)) == 1
    for ts in (newest, newest + 2 * SECOND, START + 30 * SECOND, again_ns - 1):
        with pytest.raises(NotStored, match="nothing is known of it"):
            rebuilt(daemon, ts)


def test_a_book_that_was_lost_and_came_back_is_known_before_and_after(daemon: FakeDaemon) -> None:
    told = told_steps(50)
    lost, back = START + 5 * SECOND, START + 60 * SECOND
    told.recorder.leave(lost)
    first = numbered(told.recorder.take())
    told.begin(back)
    daemon.store("book_delta", np.concatenate((first, numbered(told.recorder.take(), 1_001))))
    daemon.store("coverage", event(Coverage.GAP, lost, ABSENT, 999))
    for closed in (False, True):
        if closed:
            daemon.store("coverage", event(Coverage.GAP, lost, back, 1_000))
            daemon.store("coverage", event(Coverage.OBSERVED, back, back, 1_000))
        assert rebuilt(daemon, lost - 1)["time"].tolist() == [START + 4_900 * MS]
        with pytest.raises(NotStored, match="not in step"):
            rebuilt(daemon, lost + 20 * SECOND)
        assert len(rebuilt(daemon, back)) == 1


def test_what_else_a_killed_feed_sent_tells_that_it_still_followed_the_book(daemon: FakeDaemon) -> None:
    again_ns = killed_feed(daemon, 60)
    daemon.stored["coverage"] = event(Coverage.GAP, START + 30 * SECOND, again_ns, 1_000)
    assert rebuilt(daemon, START + 29 * SECOND)["time"].tolist() == [START + 9_900 * MS]


def test_a_quiet_book_is_no_hole_because_of_a_feed_much_later(daemon: FakeDaemon) -> None:
    quiet = told_steps(2)
    quiet.change(START + 60 * SECOND, 7)
    daemon.store("book_delta", numbered(quiet.recorder.take()))
    daemon.store("coverage", event(Coverage.OBSERVED, START + 600 * SECOND, START + 600 * SECOND, 1_000))
    found = rebuilt(daemon, START + 30 * SECOND)
    assert found["time"].tolist() == [START + 100 * MS]
    with pytest.raises(NotStored, match="nothing is known of it"):
        rebuilt(daemon, START + 61 * SECOND)


def test_after_its_symbol_was_removed_there_is_no_book(daemon: FakeDaemon) -> None:
    daemon.store("book_delta", numbered(told_steps(10).recorder.take()))
    daemon.store("coverage", event(Coverage.ENDED, START + 2 * SECOND, START + 2 * SECOND, 500))
    assert len(rebuilt(daemon, START + SECOND)) == 1
    with pytest.raises(NotStored, match="ENDED"):
        rebuilt(daemon, START + 3 * SECOND)


def test_snapshots_of_one_moment_that_fill_a_page_are_not_searched_for_ever(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book_rebuild, "FIRST_PAGE", 2)
    told = Told()
    told.begin(START)
    daemon.store("book_delta", numbered(told.recorder.take()))
    with pytest.raises(NotStored, match="no snapshot"):
        rebuilt(daemon, START)


def test_the_answer_is_about_the_instrument_that_was_asked_for(daemon: FakeDaemon) -> None:
    daemon.store("book_delta", numbered(told_steps(3).recorder.take()))
    assert rebuilt(daemon, START).instrument == BTC
    assert BOOK_DELTA.itemsize == 56  # FIRST_PAGE of them are some 6 MB


def test_a_book_of_the_future_is_refused_before_anything_is_sent() -> None:
    """Nobody can say how it will be, and a later answer would be another one."""
    for plan in (
        rebuilt_book(Catalogue(), "BTC/USDT", FUTURE, None),
        books_with_imbalances(Catalogue(), "BTC/USDT", FUTURE, "raw", 1, None),
    ):
        with pytest.raises(InvalidArgument, match=r"timestamp: 2222-.* is in the future") as raised:
            next(plan)
        assert raised.value.field == "timestamp" and "ask again" not in str(raised.value)
