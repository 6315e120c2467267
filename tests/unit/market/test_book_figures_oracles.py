"""Imbalance and buckets against their definitions, computed anew for each second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from book_oracles import SECOND, Moment, Trade, applied, buckets, imbalance, levels
from marketd.market.book import Change, Levels, OrderBook
from marketd.market.buckets import BucketKernel, default_width
from marketd.market.errors import InvalidArgument
from marketd.market.imbalance import Band, ImbalanceKernel, ratio_ppm
from marketd.market.layouts import TRADE, BookState, ImbalanceReason, TradeFlag
from marketd.market.times import ABSENT

MS = 1_000_000
BEGIN = 1_609_459_198 * SECOND  # two seconds before 2021, so that a minute ends soon
BAND_BPS = 60.0  # at prices of about 1000 some 6 price units to each side
WIDTH = 3
ABSENT_RATIO = -(2**31)

bid_changes = st.lists(st.tuples(st.integers(985, 1000), st.integers(0, 9)), max_size=4)
ask_changes = st.lists(st.tuples(st.integers(1001, 1015), st.integers(0, 9)), max_size=4)
pauses_ms = st.integers(0, 900) | st.integers(0, 6_000)
changed = st.tuples(st.just("change"), pauses_ms, bid_changes, ask_changes)
anew = st.tuples(st.just("anew"), pauses_ms, bid_changes, ask_changes)
left = st.tuples(
    st.just("leave"), pauses_ms, st.sampled_from((BookState.SYNCING, BookState.STALE, BookState.EMPTY)), st.none()
)
traded = st.tuples(
    st.just("trade"), pauses_ms, st.integers(0, 249), st.tuples(st.integers(1, 9), st.sampled_from((-1, 0, 1)))
)
scripts = st.lists(changed | changed | changed | anew | left | traded, min_size=1, max_size=25)


class Run:
    """Both kernels and what they were told."""

    def __init__(self, width: int = WIDTH) -> None:
        self.imbalance, self.buckets = ImbalanceKernel(BAND_BPS), BucketKernel(width)
        self.book = OrderBook()
        self.moments: list[Moment] = []
        self.trades: list[Trade] = []
        self.now = BEGIN
        self.found: dict[str, list[Any]] = {"imbalance": [], "buckets": []}

    def play(self, script: list[Any]) -> None:
        self.act("anew", 0, [(1000, 5)], [(1001, 5)])
        for action in script:
            self.act(*action)
        self.advance(self.now + 61 * SECOND)

    def act(self, what: str, pause_ms: int, first: Any, second: Any) -> None:
        self.now += pause_ms * MS
        if what == "trade":
            self.trades.append(Trade(max(self.now - first * MS, BEGIN), *second))
            self.imbalance.trades(trade_records(self.trades[-1:]))
        elif what == "leave":
            self.leave(first)
        else:
            self.live(first, second, anew=what == "anew")
        self.advance(self.now)

    def leave(self, state: BookState) -> None:
        self.book.clear()
        self.moments.append(Moment(self.now, state, {}, {}))
        self.imbalance.leave(self.now, state)
        self.buckets.leave(self.now, state)

    def live(self, bids: list[Any], asks: list[Any], *, anew: bool) -> None:
        change: Change | None = None
        if anew:
            self.book.reset(levels(applied({}, bids)), levels(applied({}, asks)))
        else:
            change = self.book.apply(levels(bids), levels(asks))
        self.moments.append(Moment(self.now, BookState.LIVE, dict(self.book.bids), dict(self.book.asks)))
        self.imbalance.book(self.now, self.book, change)
        self.buckets.book(self.now, self.book, change)

    def advance(self, newest: int) -> None:
        self.found["imbalance"] += self.imbalance.advance(newest).tolist()
        self.found["buckets"] += self.buckets.advance(newest).tolist()


def trade_records(trades: list[Trade]) -> np.ndarray:
    records = np.zeros(len(trades), dtype=TRADE)
    for i, trade in enumerate(trades):
        records[i] = (trade.ts, 0, 0, i, 1000, trade.size, trade.side, 0)
    return records


@settings(deadline=None, max_examples=40)
@given(scripts)
def test_every_second_has_the_imbalance_of_its_definition(script):
    run = Run()
    run.play(script)
    ends = [row[0] for row in run.found["imbalance"]]
    assert ends == list(range(BEGIN + SECOND, ends[-1] + SECOND, SECOND))
    assert ends[-1] > run.now + 59 * SECOND
    for row in run.found["imbalance"]:
        assert row[3:] == imbalance(run.moments, run.trades, BEGIN, row[0], round(BAND_BPS * 1000))


@settings(deadline=None, max_examples=40)
@given(scripts)
@example([("anew", 1000, [], [])])  # it loses its mid just when a second begins
@example([("anew", 2000, [], [])])  # and a minute
@example([("leave", 2000, BookState.STALE, None), ("anew", 100, [], [])])
def test_every_second_and_minute_has_the_buckets_of_its_definition(script):
    run = Run()
    run.play(script)
    assert {row[5] for row in run.found["buckets"]} == {1, 60}
    for timeframe in (1, 60):
        rows = [row for row in run.found["buckets"] if row[5] == timeframe]
        step = timeframe * SECOND
        first = BEGIN - BEGIN % step
        assert [row[0] for row in rows] == list(range(first, rows[-1][0] + step, step))
        for ts, _, _, width, base, _, state, flags, bids, asks in rows:
            found = (state, base, list(bids), list(asks))
            assert found == buckets(run.moments, timeframe, ts + step, WIDTH)
            assert (width, flags) == (WIDTH, 0)


levels_near = st.dictionaries(st.integers(950, 1000), st.integers(1, 9), max_size=12)


@given(
    levels_near,
    st.lists(st.tuples(bid_changes, ask_changes, st.booleans()), max_size=12),
    st.floats(0.1, 300, allow_nan=False),
)
def test_the_band_follows_the_changes_as_if_it_were_counted_anew(bids, messages, band_bps):
    book, band = OrderBook(), Band(band_bps)
    book.reset(levels(bids), Levels([1001], [1]))
    band.follow(book, None)
    for bid_rows, ask_rows, is_anew in messages:
        change = book.apply(levels(bid_rows), levels(ask_rows))
        band.follow(book, None if is_anew else change)
        fresh = Band(band_bps)
        fresh.follow(book, None)
        assert (band.bids, band.asks, band.mid2) == (fresh.bids, fresh.asks, fresh.mid2)


@settings(deadline=None, max_examples=40)
@given(scripts, scripts)
def test_a_kernel_that_was_restored_goes_on_as_if_nothing_had_happened(before, after):
    run = Run()
    run.act("anew", 0, [(1000, 5)], [(1001, 5)])
    for action in before:
        run.act(*action)
    restored = ImbalanceKernel(BAND_BPS)
    restored.restore(run.imbalance.state())
    assert restored.state() == run.imbalance.state()
    run.imbalance = restored
    for action in after:
        run.act(*action)
    run.advance(run.now + 10 * SECOND)
    for row in run.found["imbalance"]:
        assert row[3:] == imbalance(run.moments, run.trades, BEGIN, row[0], round(BAND_BPS * 1000))


def test_a_state_holds_sums_that_leave_64_bits():
    kernel, restored = ImbalanceKernel(BAND_BPS), ImbalanceKernel(BAND_BPS)
    kernel.trades(trade_records([Trade(BEGIN, 2**63 - 1, 1)] * 3 + [Trade(BEGIN, 2**63 - 1, -1)]))
    restored.restore(kernel.state())
    assert restored.advance(BEGIN + 2 * SECOND)["volume_1s"].tolist() == [500_000]


def test_bytes_that_are_no_state_are_refused():
    for state in (b"", b"nonsense", msgspec.msgpack.encode([9, 0, [], 0, [], None, 0, 0, [], [], 0])):
        with pytest.raises(InvalidArgument, match="state"):
            ImbalanceKernel(BAND_BPS).restore(state)


# ---- examples -------------------------------------------------------------------------------------------------


def play(*actions: Callable[[Run], None]) -> Run:
    run = Run()
    for action in actions:
        action(run)
    return run


def test_swapping_the_sides_swaps_the_sign_and_nothing_else():
    assert ratio_ppm(1, 2) == -333_333
    assert ratio_ppm(2, 1) == 333_333
    assert ratio_ppm(0, 0) is None


def test_windows_are_absent_until_they_are_full_and_the_reason_says_so():
    run = Run()
    run.act("anew", 0, [(1000, 3)], [(1001, 1)])
    run.advance(BEGIN + 61 * SECOND)
    rows = np.array(run.found["imbalance"], dtype=object)
    by_window = {w: rows[:, 9 + i].tolist() for i, w in enumerate((1, 5, 15, 60))}
    for window, found in by_window.items():
        assert found == [ABSENT_RATIO] * (window - 1) + [500_000] * (60 - window + 1)
    assert rows[:, 18].tolist() == [ImbalanceReason.WARMING] * 59 + [ImbalanceReason.NONE]


def test_a_book_that_left_live_for_a_moment_leaves_its_windows_unfilled():
    run = Run()
    run.act("anew", 0, [(1000, 3)], [(1001, 1)])
    run.act("leave", 1500, BookState.SYNCING, None)
    run.act("anew", 100, [(1000, 3)], [(1001, 1)])
    run.advance(BEGIN + 5 * SECOND)
    assert [row[9] for row in run.found["imbalance"]] == [500_000, ABSENT_RATIO, 500_000, 500_000]
    assert [row[3] for row in run.found["imbalance"]] == [2001] * 4


def test_a_book_that_is_not_live_yields_no_numbers_but_its_state():
    run = Run()
    run.act("anew", 0, [(1000, 3)], [(1001, 1)])
    run.act("leave", 900, BookState.STALE, None)
    run.advance(BEGIN + 2 * SECOND)
    (row,) = run.found["imbalance"]
    assert set(row[3:9]) == {ABSENT}
    assert row[17:] == (BookState.STALE, ImbalanceReason.NOT_LIVE)


def test_levels_outside_the_band_are_no_levels():
    run = Run()
    run.act("anew", 0, [(900, 3)], [(1100, 1)])
    run.advance(BEGIN + 2 * SECOND)
    (row,) = run.found["imbalance"]
    assert row[3:9] == (2000, 200, 0, 0, 3, 1)
    assert row[17:] == (BookState.LIVE, ImbalanceReason.NO_LEVELS)


def test_a_book_with_one_side_has_no_mid():
    run = Run()
    run.act("anew", 0, [(900, 3)], [])
    run.advance(BEGIN + 2 * SECOND)
    assert set(run.found["imbalance"][0][3:9]) == {ABSENT}
    assert run.found["imbalance"][0][18] == ImbalanceReason.NO_LEVELS
    assert run.found["buckets"][0][4] == ABSENT


def test_a_trade_within_the_grace_counts_to_its_own_second():
    kernel = ImbalanceKernel(BAND_BPS)
    kernel.trades(trade_records([Trade(BEGIN, 1, -1)]))
    assert not len(kernel.advance(BEGIN + SECOND + 249 * MS))
    kernel.trades(trade_records([Trade(BEGIN + SECOND - 1000, 3, 1)]))
    (row,) = kernel.advance(BEGIN + SECOND + 250 * MS)
    assert row["volume_1s"] == 500_000
    assert row["volume_5s"] == ABSENT_RATIO


def test_trades_off_the_market_or_without_an_aggressor_do_not_count():
    kernel = ImbalanceKernel(BAND_BPS)
    trades = trade_records([Trade(BEGIN, 1, 1), Trade(BEGIN, 5, 0), Trade(BEGIN, 7, -1)])
    trades["flags"][2] = TradeFlag.NOT_MARKET
    kernel.trades(trades)
    assert kernel.advance(BEGIN + 2 * SECOND)["volume_1s"].tolist() == [1_000_000]


def test_lost_trades_begin_the_windows_of_volume_anew():
    kernel = ImbalanceKernel(BAND_BPS)
    for second in range(8):
        kernel.trades(trade_records([Trade(BEGIN + second * SECOND, 1, 1)]))
    kernel.trades_lost(BEGIN + 2 * SECOND)
    rows = kernel.advance(BEGIN + 9 * SECOND)
    assert rows["volume_5s"].tolist() == [ABSENT_RATIO] * 6 + [1_000_000] * 2


def test_a_late_event_of_the_book_takes_effect_at_the_end_of_the_closed_second():
    run = Run()
    run.act("anew", 0, [(1000, 3)], [(1001, 1)])
    run.advance(BEGIN + SECOND + 250 * MS)
    run.now = BEGIN + 900 * MS
    run.live([(1000, 1)], [], anew=False)
    run.advance(BEGIN + 3 * SECOND)
    assert [row[9] for row in run.found["imbalance"]] == [500_000, 0]


@pytest.mark.parametrize("leap", [-3600 * SECOND, 3600 * SECOND])
def test_a_leap_of_time_is_a_new_begin_without_records_between(leap):
    run = Run()
    run.act("anew", 0, [(1000, 3)], [(1001, 1)])
    run.advance(BEGIN + 10 * SECOND)
    run.found["imbalance"].clear()
    run.now = BEGIN + leap
    run.live([(1000, 1)], [], anew=False)
    run.advance(run.now + 3 * SECOND)
    ends = [row[0] for row in run.found["imbalance"]]
    assert ends == [run.now + SECOND, run.now + 2 * SECOND]
    assert [row[10] for row in run.found["imbalance"]] == [ABSENT_RATIO] * 2
    assert run.found["buckets"][-1][8][0] == 1


def test_trades_long_past_change_nothing_and_trades_far_ahead_move_time():
    kernel = ImbalanceKernel(BAND_BPS)
    kernel.trades(trade_records([Trade(BEGIN, 1, 1), Trade(BEGIN - 3600 * SECOND, 9, -1)]))
    assert kernel.advance(BEGIN + 2 * SECOND)["volume_1s"].tolist() == [1_000_000]
    kernel.trades(trade_records([Trade(BEGIN + 3600 * SECOND, 1, -1)]))
    assert kernel.advance(BEGIN + 3602 * SECOND)["volume_1s"].tolist() == [-1_000_000]


def test_sums_beyond_64_bits_are_absent_rather_than_wrong():
    run = Run()
    run.act("anew", 0, [(1000, 2**63 - 1), (999, 2**63 - 1)], [(1001, 1)])
    run.advance(BEGIN + 2 * SECOND)
    assert run.found["imbalance"][0][5] == ABSENT
    assert run.found["imbalance"][0][9] == 999_999
    assert run.found["buckets"][0][8][0] == ABSENT


@pytest.mark.parametrize(
    ("mid2", "tick", "width"),
    [(2, 1, 1), (20_000, 1, 1), (20_001, 1, 2), (40_001, 1, 5), (100_001, 1, 10), (12_000_000, 1, 1000), (7, 5, 5)],
)
def test_a_bucket_is_about_a_basis_point_wide(mid2, tick, width):
    assert default_width(mid2, tick) == width


def test_without_a_width_counting_begins_with_the_first_mid():
    run = Run(width=0)
    run.act("anew", 0, [(20_000, 4)], [])
    run.act("change", 500, [], [(20_002, 4)])
    run.advance(BEGIN + 2 * SECOND)
    (row,) = run.found["buckets"]
    assert row[3:5] == (5, 40_002 // 10)
    assert row[8][0] == 4


def test_buckets_that_cannot_be_are_refused():
    with pytest.raises(InvalidArgument):
        BucketKernel(-1)
    with pytest.raises(InvalidArgument):
        BucketKernel(0, tick_size=0)
