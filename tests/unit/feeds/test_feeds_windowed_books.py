"""Books of venues that tell a window of levels, against the market that knows them all: what is told is the market's.

The market of `test_feeds_cut_books`: message n comes as its second begins, so that each second has one book.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_feeds_cut_books import BAND_BPS, BTC, BUCKET, DEPTH, NOW, Side, State, market, near, resting, within

from marketd.daemon.feeds.adapter import BookDelta, BookRule, BookSnapshot, Levels
from marketd.daemon.feeds.books import BookKeeper
from marketd.daemon.feeds.feed_model import BookSettings
from marketd.daemon.feeds.symbol_state import Part
from marketd.daemon.feeds.venue_books import unnumbered
from marketd.market.book_deltas import BookReplay, book_at
from marketd.market.records import BookFlag, BookState, ImbalanceReason, Records
from marketd.market.times import ABSENT, NS_PER_SECOND


def told_window(side: Side, sign: int, window: int) -> Side:
    return {price: side[price] for price in sorted(side, reverse=sign > 0)[:window]}


def told(before: Side, now: Side, truth: Side, *, names_fallen: bool) -> Levels:
    """What a venue says of one side's window: each level that is new or changed, each that is gone, and those that
    have only fallen out of the window if it is such a venue."""
    changes = {price: size for price, size in now.items() if before.get(price) != size}
    changes |= {price: 0 for price in before if price not in now and (names_fallen or price not in truth)}
    return Levels(list(changes), list(changes.values()))


def replayed(seed: int, trend: int, window: int, *, names_fallen: bool) -> tuple[list[State], list[Part], BookKeeper]:
    states, deltas = market(seed, trend)
    windows = [State(told_window(s.bids, 1, window), told_window(s.asks, -1, window)) for s in states]
    books = BookSettings(DEPTH, NS_PER_SECOND // 10, 1.0, BAND_BPS, deltas=True, buckets={"BTCUSDT.BINANCE": "0.02"})
    keeper = BookKeeper(BookRule("stream", unnumbered, unnumbered, depth=window), BTC, books)
    first = windows[0]
    parts = keeper.subscribed()
    bids, asks = (Levels(list(side), list(side.values())) for side in first)
    parts += keeper.take(BookSnapshot("BTCUSDT", 0, NOW, bids, asks))
    for number, delta in enumerate(deltas, 1):
        before, now, truth = windows[number - 1], windows[number], states[number]
        bids = told(before.bids, now.bids, truth.bids, names_fallen=names_fallen)
        asks = told(before.asks, now.asks, truth.asks, names_fallen=names_fallen)
        parts += keeper.take(BookDelta("BTCUSDT", number, number, None, delta.ts_ns, bids, asks))
        assert keeper.sync.state is BookState.LIVE
        assert (keeper.sync.book.bids, keeper.sync.book.asks) == now
        assert not keeper.sync.wants_fresh  # a venue has no deeper one
        parts += keeper.time(delta.ts_ns)
    return states, parts, keeper


def edges(state: State, window: int) -> tuple[float, float]:
    bids, asks = sorted(state.bids, reverse=True), sorted(state.asks)
    return (
        bids[window - 1] if len(bids) >= window else float("-inf"),
        asks[window - 1] if len(asks) >= window else float("inf"),
    )


def rows_of(parts: list[Part], name: str) -> Records:
    return np.concatenate([records for kind, records in parts if kind == name])


MARKETS = {
    "seed": st.integers(0, 2**16),
    "trend": st.integers(-6, 6),
    "window": st.sampled_from([1, 2, 4, 8, 12, 25, 500]),
    "names_fallen": st.booleans(),
}


@settings(max_examples=40, deadline=None)
@given(**MARKETS)
def test_an_imbalance_is_the_whole_books_exactly_where_its_band_lies_within_the_window(
    seed: int, trend: int, window: int, names_fallen: bool
) -> None:
    states, parts, _ = replayed(seed, trend, window, names_fallen=names_fallen)
    rows = rows_of(parts, "imbalance")
    assert len(rows)
    for row in rows:
        true = states[(int(row["ts_event"]) - NOW) // NS_PER_SECOND - 1]
        low, high = edges(true, window)
        mid2, band = max(true.bids) + min(true.asks), round(BAND_BPS * 1000)
        is_within = all(
            low <= price <= high
            for price in range(min(true.bids), max(true.asks) + 1)
            if abs(2 * price - mid2) * 10**7 <= band * mid2
        )
        if is_within:
            assert (row["bid_size"], row["ask_size"]) == near(true)
        else:
            assert row["reason"] == ImbalanceReason.BEYOND_EDGE
            assert (row["bid_size"], row["ask_size"], row["book_1s"]) == (ABSENT, ABSENT, -(2**31))
        assert row["mid2"] == mid2  # what is known for certain is told


@settings(max_examples=40, deadline=None)
@given(**MARKETS)
def test_a_bucket_is_the_whole_books_where_it_lies_within_the_window_and_absent_elsewhere(
    seed: int, trend: int, window: int, names_fallen: bool
) -> None:
    states, parts, _ = replayed(seed, trend, window, names_fallen=names_fallen)
    rows = rows_of(parts, "buckets")
    for row in rows[rows["timeframe"] == 1]:
        number, base = (int(row["ts"]) - NOW) // NS_PER_SECOND, int(row["base"])
        low, high = edges(states[number], window)
        before = edges(states[max(0, number - 1)], window)  # stood for no time, but was told within the second
        for j, (bid, ask) in enumerate(zip(row["bid_size"].tolist(), row["ask_size"].tolist(), strict=True)):
            bid_low, ask_high = (base - j) * BUCKET, (base + j + 1) * BUCKET - 1
            if bid_low < low:
                assert bid == ABSENT
            elif bid_low >= before[0]:
                assert bid == resting(states[number].bids, base - j)
            if ask_high > high:
                assert ask == ABSENT
            elif ask_high <= before[1]:
                assert ask == resting(states[number].asks, base + j)


@settings(max_examples=40, deadline=None)
@given(**MARKETS)
def test_a_book_that_is_told_and_one_that_is_made_again_say_where_they_are_cut(
    seed: int, trend: int, window: int, names_fallen: bool
) -> None:
    states, parts, keeper = replayed(seed, trend, window, names_fallen=names_fallen)
    cut_bids, cut_asks = int(BookFlag.BIDS_CUT), int(BookFlag.ASKS_CUT)
    for row in rows_of(parts, "book"):
        true = states[(int(row["ts_event"]) - NOW) // NS_PER_SECOND]
        for side, sign, name, flag in ((true.bids, 1, "bid", cut_bids), (true.asks, -1, "ask", cut_asks)):
            count = int(row[f"{name}_count"])
            assert row[f"{name}_price"][:count].tolist() == sorted(side, reverse=sign > 0)[: min(window, DEPTH)]
            assert bool(row["flags"] & flag) == (window <= DEPTH and len(side) >= window)
    changes = rows_of(parts, "book_delta")
    for number, true in enumerate(states[: keeper.sync.sequence + 1]):
        book = book_at(changes, NOW + number * NS_PER_SECOND).book
        assert (book.bids, book.asks) == (told_window(true.bids, 1, window), told_window(true.asks, -1, window))
        low, high = edges(true, window)
        assert within(true.bids, low, 2**64) == book.bids and within(true.asks, 0, high) == book.asks
        is_whole = len(true.bids) < window, len(true.asks) < window
        assert (book.knows_bids(window + 1), book.knows_asks(window + 1)) == is_whole


@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_changes_in_pieces_of_any_size_make_the_same_edges(size: int) -> None:
    _, parts, keeper = replayed(7, 3, 4, names_fallen=False)
    changes, replay = rows_of(parts, "book_delta"), BookReplay()
    for start in range(0, len(changes), size):
        replay.apply(changes[start : start + size])
    book = keeper.sync.book
    assert (replay.book, replay.book.window) == (book, 4)
    assert (replay.book.bid_edge, replay.book.ask_edge) == (book.bid_edge, book.ask_edge)


def test_the_windows_of_these_tests_cut_some_figures_and_not_others() -> None:
    reasons: set[int] = set()
    for window in (1, 4, 8, 12, 500):
        _, parts, _ = replayed(3, 0, window, names_fallen=True)
        reasons |= set(rows_of(parts, "imbalance")["reason"].tolist())
    assert {ImbalanceReason.BEYOND_EDGE, ImbalanceReason.WARMING} <= reasons
