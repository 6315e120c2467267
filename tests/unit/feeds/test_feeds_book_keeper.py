"""The keeper of a book: what a feed tells of it, and that damaged traffic never makes it wrong and LIVE."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.daemon.feeds.adapter import BookDelta, BookSnapshot, Levels, Rejected, VenueTime
from marketd.daemon.feeds.binance import BinanceAdapter
from marketd.daemon.feeds.binance_markets import COIN_M, FUTURES_RULE, SPOT, SPOT_RULE, USD_M, Market
from marketd.daemon.feeds.books import BookKeeper
from marketd.daemon.feeds.feed_model import BookSettings
from marketd.daemon.feeds.symbol_state import CoverageEvent, Part
from marketd.market.book_deltas import BookReplay
from marketd.market.instruments import Instrument
from marketd.market.records import ABSENT, TRADE, BookFlag, BookState, Coverage, Records
from marketd.market.timeline import Seen, timeline

SECOND = 10**9
NOW = 1_723_161_600 * SECOND
BTC = Instrument(id=1, symbol="BTCUSDT", venue="BINANCE", price_scale=2, size_scale=5, quote_scale=7)
NONE = Levels([], [])


def snapshot(sequence: int, ts_ns: int = NOW) -> BookSnapshot:
    return BookSnapshot("BTCUSDT", sequence, ts_ns, Levels([99, 100], [5, 7]), Levels([102, 103], [2, 9]))


def delta(first: int, last: int, ts_ns: int, bids: Levels = NONE, asks: Levels = NONE) -> BookDelta:
    return BookDelta("BTCUSDT", first, last, None, ts_ns, bids, asks)


def keeper(tick_size: int = 1, **changes: Any) -> BookKeeper:
    return BookKeeper(SPOT_RULE, msgspec.structs.replace(BTC, tick_size=tick_size), BookSettings(**changes))


def live_keeper(**changes: Any) -> tuple[BookKeeper, list[Part]]:
    made = keeper(**changes)
    parts = made.subscribed() + made.take(delta(1, 10, NOW)) + made.take(snapshot(10))
    assert made.sync.state is BookState.LIVE
    return made, parts


def of(parts: list[Part], kind: str) -> Records:
    return np.concatenate([records for name, records in parts if name == kind])


def test_a_book_that_comes_into_step_is_told_at_once_with_its_levels() -> None:
    _, parts = live_keeper(depth=3)
    (book,) = of(parts, "book")
    assert (book["state"], book["flags"], book["sequence"]) == (BookState.LIVE, BookFlag.STATE, 10)
    assert (book["bid_count"], book["ask_count"]) == (2, 2)
    assert book["bid_price"].tolist()[:2] == [100, 99]
    assert of(parts, "coverage")["state"].tolist() == [Coverage.OBSERVED]


def test_changes_within_an_interval_are_told_once_and_a_jump_at_once() -> None:
    made, _ = live_keeper(jump_bps=50.0)
    for number in range(11, 16):
        parts = made.take(delta(number, number, NOW + number * 10**6, Levels([99], [number])))
        assert parts + made.time(NOW + number * 10**6) == []
    jump = made.take(delta(16, 16, NOW + 20 * 10**6, Levels([101], [1]))) + made.time(NOW + 20 * 10**6)
    assert of(jump, "book")["flags"].tolist() == [BookFlag.JUMP]
    parts = made.take(delta(17, 17, NOW + 30 * 10**6, Levels([99], [0])))
    later = made.time(NOW + 120 * 10**6)
    assert of(parts + later, "book")["sequence"].tolist() == [17]


def test_a_gap_leaves_live_asks_for_a_snapshot_and_is_in_the_ledger_at_once_and_with_its_end_when_it_is_over() -> None:
    made, _ = live_keeper(deltas=True)
    parts = made.take(delta(12, 12, NOW + SECOND))
    (gap,) = of(parts, "coverage")
    assert (gap["state"], gap["stream"], gap["reason"]) == (Coverage.GAP, 3, b"gap")
    assert (gap["ts_event"], gap["ts_start"], gap["ts_end"]) == (NOW + SECOND, NOW + SECOND, ABSENT)
    assert [name for name, _ in parts].index("book_delta") < [name for name, _ in parts].index("coverage")
    (left,) = of(parts, "book")
    assert (left["state"], left["flags"], left["bid_count"]) == (BookState.SYNCING, BookFlag.STATE, 0)
    assert made.needs_snapshot
    parts = made.take(snapshot(12, NOW + 2 * SECOND))
    assert not made.needs_snapshot
    gap, observed = of(parts, "coverage")
    assert (gap["state"], gap["stream"], gap["reason"]) == (Coverage.GAP, 3, b"gap")
    assert (gap["ts_start"], gap["ts_end"]) == (NOW + SECOND, NOW + 2 * SECOND)
    assert (observed["state"], observed["stream"], observed["ts_start"]) == (Coverage.OBSERVED, 3, NOW + 2 * SECOND)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["next", "gap", "cut", "snapshot", "silent", "stop", "away", "heard"]), max_size=30))
def test_at_every_moment_the_ledger_says_whether_the_book_is_live(script: list[str]) -> None:
    made, number = live_keeper()[0], 10
    ledger, now = [coverage_of(Coverage.OBSERVED, NOW)], NOW
    for what in script:
        now += SECOND
        number += 2 if what == "gap" else 1
        parts: list[Part] = []
        if what in ("next", "gap"):
            parts = made.take(delta(number, number, now, Levels([99], [number])))
        elif what == "snapshot":
            parts = made.take(snapshot(number, now))
        elif what == "cut":
            parts = made.disconnected() + made.subscribed()
        elif what == "silent":
            parts = made.silent()
        elif what == "away":
            parts = made.away(now, "gone")[1]
        elif what == "heard":
            parts = made.heard(now)
        parts += made.time(now)
        ledger += [records for name, records in parts if name == "coverage"]
        events = np.concatenate(ledger)
        events["seq"] = np.arange(len(events))
        is_live = made.sync.state is BookState.LIVE
        (moment,) = timeline(events, 3, now, now + 1)
        assert (moment.state is Seen.OBSERVED) == is_live, script
        assert is_live or moment.state in (Seen.GAP, Seen.VENUE_DOWN), script


def test_a_book_is_not_live_while_its_venue_is_away() -> None:
    """Else the gap that it had then would be told to end as the outage, and would itself never end."""
    made = live_keeper()[0]
    since_ns, parts = made.away(NOW + SECOND, "gone")
    assert (made.sync.state, since_ns) == (BookState.STALE, NOW)
    assert of(parts, "coverage")[["state", "ts_start"]].tolist() == [(Coverage.GAP, NOW), (Coverage.VENUE_DOWN, NOW)]
    parts = made.take(delta(99, 99, NOW + 2 * SECOND))
    assert not [records for kind, records in parts if kind == "coverage"]
    parts = made.heard(NOW + 3 * SECOND)
    assert of(parts, "coverage")[["state", "ts_start", "ts_end"]].tolist() == [
        (Coverage.VENUE_DOWN, NOW, NOW + 3 * SECOND),
        (Coverage.GAP, NOW + 3 * SECOND, ABSENT),
    ]


def coverage_of(state: Coverage, start: int) -> Records:
    return CoverageEvent(state, start, start, "book").part()[1]


def test_a_lost_connection_makes_the_book_stale_and_a_new_one_begins_it_anew() -> None:
    made, _ = live_keeper()
    assert of(made.disconnected(), "book")["state"].tolist() == [BookState.STALE]
    assert not made.needs_snapshot
    assert of(made.subscribed(), "book")["state"].tolist() == [BookState.SYNCING]
    assert made.needs_snapshot
    assert made.take(delta(11, 11, NOW + SECOND)) == []
    parts = made.take(snapshot(11, NOW + SECOND))
    assert of(parts, "book")["state"].tolist() == [BookState.LIVE]


def test_an_imbalance_comes_each_second_and_says_why_it_is_absent() -> None:
    made = keeper(band_bps=1000.0)
    made.subscribed()
    parts = made.time(NOW) + made.time(NOW + SECOND + SECOND // 2)
    assert of(parts, "imbalance")[["ts_event", "reason"]].tolist() == [(NOW + SECOND, 1)]
    made.take(delta(1, 10, NOW + 2 * SECOND - 1))
    made.take(snapshot(10, NOW + 2 * SECOND - 1))
    parts = made.time(NOW + 3 * SECOND + SECOND // 2)
    told = of(parts, "imbalance")
    assert told["ts_event"].tolist() == [NOW + 2 * SECOND, NOW + 3 * SECOND]
    assert (told["mid2"].tolist(), told["book_1s"].tolist()[1]) == ([202, 202], (12 - 11) * 10**6 // 23)
    assert of(parts, "buckets")["timeframe"].tolist() == [1, 1]


def test_nothing_is_told_before_the_first_time_of_the_venue() -> None:
    made = keeper()
    parts = made.subscribed() + made.time(ABSENT) + made.take(snapshot(10, ABSENT)) + made.time(ABSENT)
    assert parts == []
    parts = made.take(delta(11, 11, NOW)) + made.time(NOW)
    assert of(parts, "book")["ts_event"].tolist() == [NOW]


@pytest.mark.parametrize("first", ["time", "delta"])
def test_a_book_that_is_in_step_before_any_time_is_known_is_told_with_the_first(first: str) -> None:
    made = BookKeeper(SPOT_RULE._replace(snapshot="stream"), BTC, BookSettings(deltas=True))
    assert made.subscribed() + made.take(snapshot(10, ABSENT)) + made.time(ABSENT) == []
    assert made.sync.state is BookState.LIVE
    parts = made.time(NOW) if first == "time" else made.take(delta(11, 11, NOW, Levels([98], [1])))
    (book,) = of(parts, "book")
    assert (book["ts_event"], book["state"], book["flags"]) == (NOW, BookState.LIVE, BookFlag.STATE)
    assert book["bid_count"] == (2 if first == "time" else 3)
    assert of(parts, "coverage")["state"].tolist() == [Coverage.OBSERVED]
    replay = BookReplay()
    replay.apply(of(parts, "book_delta"))
    assert replay.book == made.sync.book


def test_seconds_wait_while_trades_of_them_are_being_fetched() -> None:
    made, _ = live_keeper()
    held = made.time(NOW + 3 * SECOND, trades_complete=False)
    assert [name for name, _ in held] == []
    trade = np.zeros(1, dtype=TRADE)
    trade["ts_event"], trade["size"], trade["side"], trade["price"] = NOW + SECOND // 2, 3, 1, 100
    made.trades(trade)
    told = of(made.time(NOW + 3 * SECOND), "imbalance")
    assert told["volume_1s"].tolist()[0] == 10**6


def test_deltas_rebuild_the_book_when_they_are_asked_for() -> None:
    made, parts = live_keeper(deltas=True)
    parts += made.take(delta(11, 11, NOW + 1, Levels([99, 98], [0, 4]), Levels([102], [1])))
    parts += made.time(NOW + 1)
    replay = BookReplay()
    replay.apply(of(parts, "book_delta"))
    assert replay.is_live
    assert (replay.book, replay.sequence) == (made.sync.book, 11)
    replay.apply(of(made.take(delta(13, 13, NOW + 2)), "book_delta"))
    assert not replay.is_live


def test_seconds_do_not_wait_for_ever_for_trades_and_have_no_volumes_then() -> None:
    made, _ = live_keeper(band_bps=200.0)
    made.time(NOW)
    parts: list[Part] = []
    for second in range(1, 201):
        made.take(delta(10 + second, 10 + second, NOW + second * SECOND, Levels([99], [second])))
        parts += made.time(NOW + second * SECOND, trades_complete=False)
    told = of(parts, "imbalance")
    assert told["ts_event"].tolist() == [NOW + second * SECOND for second in range(1, 200)]
    assert (told["volume_1s"] == np.iinfo(np.int32).min).all()
    assert told["book_1s"][-1] != np.iinfo(np.int32).min


def test_a_time_that_was_wrong_costs_seconds_and_no_more() -> None:
    made, _ = live_keeper()
    made.time(NOW + SECOND)
    made.time(NOW + 10**9 * SECOND)
    parts: list[Part] = []
    for second in range(2, 12):
        parts += made.take(delta(9 + second, 9 + second, NOW + second * SECOND, Levels([99], [second])))
        parts += made.time(NOW + second * SECOND)
    assert of(parts, "imbalance")["ts_event"].tolist() == [NOW + second * SECOND for second in range(3, 11)]
    (left,) = of(made.disconnected(), "book")
    assert left["ts_event"] == NOW + 11 * SECOND


@pytest.mark.parametrize(
    ("width", "tick", "said"),
    [
        ("0.001", 1, "0.001"),
        ("0.02", 5, "0.02 is no multiple of the tick 0.05"),
        ("0.07", 5, "0.07 is no multiple of the tick 0.05"),
    ],
)
def test_a_bucket_width_that_the_instruments_prices_do_not_allow_is_refused_by_name(
    width: str, tick: int, said: str
) -> None:
    made, _ = live_keeper(buckets={"BTCUSDT.BINANCE": width}, tick_size=tick)
    assert made.refused_setting.startswith("book.buckets.BTCUSDT.BINANCE") and said in made.refused_setting
    (row,) = of(made.time(NOW + SECOND + SECOND // 2), "buckets")
    assert row["width"] == tick  # the default


def test_a_bucket_width_of_whole_ticks_is_used() -> None:
    made, _ = live_keeper(buckets={"BTCUSDT.BINANCE": "0.10"}, tick_size=5)
    (row,) = of(made.time(NOW + SECOND + SECOND // 2), "buckets")
    assert (made.refused_setting, row["width"]) == ("", 10)


def test_a_book_that_is_no_longer_followed_is_not_live_and_its_ledger_is_closed() -> None:
    made, _ = live_keeper()
    made.take(delta(11, 11, NOW + SECOND, Levels([99], [1])))
    parts = made.ended("symbol was removed")
    assert of(parts, "book")["state"].tolist()[-1] == BookState.STALE
    assert of(parts, "coverage")["state"].tolist() == [Coverage.ENDED]


def test_the_ledger_of_a_book_that_ends_out_of_step_says_since_when() -> None:
    made, _ = live_keeper()
    made.take(delta(12, 12, NOW + SECOND))  # a gap
    made.time(NOW + 9 * SECOND)
    gap, ended = of(made.ended("symbol was removed"), "coverage")
    assert (gap["state"], gap["ts_start"], gap["ts_end"]) == (Coverage.GAP, NOW + SECOND, NOW + 9 * SECOND)
    assert ended["state"] == Coverage.ENDED


def test_a_change_that_waited_when_the_book_was_lost_is_told_with_its_levels() -> None:
    made, _ = live_keeper()
    made.take(delta(11, 11, NOW + 1, Levels([98], [4])))
    told = of(made.take(delta(13, 13, NOW + 2)) + made.time(NOW + SECOND), "book")
    assert told["state"].tolist() == [BookState.LIVE, BookState.SYNCING]
    assert told["bid_count"].tolist() == [3, 0]


def test_what_waited_is_told_as_it_was_when_the_next_change_is_wrong() -> None:
    made, _ = live_keeper()
    made.take(delta(11, 11, NOW + 1, Levels([98], [4])))
    parts = made.take(delta(12, 12, NOW + 2, Levels([103, 98], [1, 0])))  # crosses the best ask
    books = of(parts, "book")
    assert books["state"].tolist() == [BookState.LIVE, BookState.SYNCING]
    assert books["sequence"][0] == 11
    assert books["bid_price"][0].tolist()[:3] == [100, 99, 98]
    assert books["bid_size"][0].tolist()[:3] == [7, 5, 4]


def test_new_scales_drop_the_book_and_begin_it_anew_at_them() -> None:
    made, _ = live_keeper()
    finer = Instrument(id=2, symbol="BTCUSDT", venue="BINANCE", price_scale=3, size_scale=5, quote_scale=8)
    parts = made.tick_changed(finer)
    assert of(parts, "book")["state"].tolist() == [BookState.SYNCING]
    assert made.needs_snapshot
    made.take(delta(11, 11, NOW + SECOND))
    assert of(made.take(snapshot(11, NOW + SECOND)), "book")["state"].tolist() == [BookState.LIVE]


# ---- damaged traffic --------------------------------------------------------------------------------


def market_frames(market: Market, seed: int, count: int) -> tuple[list[bytes], dict[int, tuple[Any, Any]]]:
    """Depth messages of a made market, and its book by the number of each update."""
    rng, number, known = random.Random(seed), 1000, {}
    bids = {10_000 - k: k + 1 for k in range(8)}
    asks = {10_001 + k: k + 1 for k in range(8)}
    known[number] = (dict(bids), dict(asks))
    frames = []
    for step in range(count):
        first, previous = number + 1, number
        number += rng.randint(1, 4)
        rows: dict[str, list[list[str]]] = {"b": [], "a": []}
        for _ in range(rng.randint(0, 4)):
            side = rng.random() < 0.5
            price = rng.randint(9_990, 10_000) if side else rng.randint(10_001, 10_011)
            size = rng.choice([0, 0, rng.randint(1, 99)])
            book = bids if side else asks
            book.pop(price, None)
            if size:
                book[price] = size
            rows["b" if side else "a"].append([f"{price / 100:.2f}", f"{size / 100_000:.5f}"])
        known[number] = (dict(bids), dict(asks))
        data = {"e": "depthUpdate", "E": 1723161600000 + 100 * step, "s": "BTCUSDT", "U": first, "u": number, **rows}
        if not market.is_spot:
            data |= {"T": data["E"], "pu": previous}
        frames.append(json.dumps({"stream": "btcusdt@depth@100ms", "data": data}).encode())
    return frames, known


def as_snapshot(market: Market, known: dict[int, tuple[Any, Any]], number: int) -> BookSnapshot:
    bids, asks = known[number]
    return BookSnapshot(
        "BTCUSDT", number, -(2**63), Levels(list(bids), list(bids.values())), Levels(list(asks), list(asks.values()))
    )


HARMS = st.sampled_from(["drop", "repeat", "swap", "cut", "garble", "snapshot", "old snapshot", "disconnect"])


@pytest.mark.parametrize("market", [SPOT, USD_M, COIN_M], ids=lambda market: market.venue)
@settings(max_examples=60)
@given(seed=st.integers(0, 2**16), harms=st.dictionaries(st.integers(0, 79), HARMS, max_size=30))
def test_a_book_is_right_or_not_live_whatever_is_dropped_repeated_reordered_or_damaged(
    market: Market, seed: int, harms: dict[int, str]
) -> None:
    frames, known = market_frames(market, seed, 80)
    numbers, rng = list(known), random.Random(seed)
    adapter = BinanceAdapter(book=True, market=market)
    adapter.adopt(BTC)
    made = BookKeeper(market.rule, BTC, BookSettings())
    made.subscribed()
    sent = list(enumerate(frames))
    for at, harm in sorted(harms.items()):
        if harm == "swap" and at + 3 < len(sent):
            sent[at], sent[at + 3] = sent[at + 3], sent[at]
    for at, (original, frame) in enumerate(sent):
        harm = harms.get(at, "")
        cut = frame[: rng.randrange(1, len(frame))]
        copies = {"drop": [], "repeat": [frame, frame], "cut": [cut]}.get(harm, [frame])
        if harm == "garble":
            place = rng.randrange(len(frame))
            copies = [frame[:place] + b"\x00" + frame[place + 1 :]]
        if harm == "disconnect":
            made.disconnected()
            made.subscribed()
        for each in copies:
            for event in adapter.decode_many([each]):
                if isinstance(event, BookDelta):
                    made.take(event)
                elif isinstance(event, Rejected) and event.book:
                    made.damaged()
                elif isinstance(event, VenueTime):
                    made.time(event.ts_ns)
                assert_right(made, known)
        if (made.needs_snapshot and rng.random() < 0.3) or "snapshot" in harm:
            behind = rng.randint(1, 5) if harm == "old snapshot" else 0
            made.take(as_snapshot(market, known, numbers[max(0, original + 1 - behind)]))
            assert_right(made, known)


def assert_right(made: BookKeeper, known: dict[int, tuple[Any, Any]]) -> None:
    sync = made.sync
    if sync.state is BookState.LIVE:
        assert (sync.book.bids, sync.book.asks) == known[sync.sequence]


def test_a_futures_delta_follows_the_one_that_it_names() -> None:
    book = BookKeeper(FUTURES_RULE, BTC, BookSettings())
    book.subscribed()
    book.take(BookDelta("BTCUSDT", 21, 25, 18, NOW, NONE, NONE))
    book.take(snapshot(20))  # between the delta's predecessor and the delta nothing changed
    assert book.sync.state is BookState.LIVE
    book.take(BookDelta("BTCUSDT", 40, 41, 25, NOW + 1, NONE, NONE))
    assert (book.sync.state, book.sync.sequence) == (BookState.LIVE, 41)
    book.take(BookDelta("BTCUSDT", 42, 44, 40, NOW + 2, NONE, NONE))
    assert book.sync.sequence == 44  # it reaches back over what is known
    book.take(BookDelta("BTCUSDT", 50, 51, 48, NOW + 3, NONE, NONE))
    assert book.needs_snapshot
