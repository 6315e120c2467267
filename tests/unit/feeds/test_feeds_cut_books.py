"""Cut snapshots against a market that knows its whole book: whatever is told of one is right, or is not told."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.daemon.feeds.adapter import BookDelta, BookSnapshot, Levels
from marketd.daemon.feeds.binance_markets import FUTURES_RULE, SPOT_RULE
from marketd.daemon.feeds.books import BookKeeper
from marketd.daemon.feeds.feed_model import BookSettings
from marketd.daemon.feeds.symbol_state import Part
from marketd.market.book_deltas import BookReplay
from marketd.market.instruments import Instrument
from marketd.market.records import BookState, ImbalanceReason
from marketd.market.times import ABSENT, NS_PER_SECOND

NOW = 1_723_161_600 * NS_PER_SECOND
BTC = Instrument(id=1, symbol="BTCUSDT", venue="BINANCE", price_scale=2, size_scale=5, quote_scale=8)
MID, WIDTH, STEPS = 1_000, 400, 50
LIMIT, DEPTH, BAND_BPS, BUCKET = 12, 3, 60.0, 2
Side = dict[int, int]


class State(NamedTuple):
    bids: Side
    asks: Side


def market(seed: int, trend: int) -> tuple[list[State], list[BookDelta]]:
    """A market that moves, and its messages: message n leads from state n to state n + 1, a second later."""
    rng, mid = random.Random(seed), MID
    sides: tuple[Side, Side] = (
        {price: rng.randint(1, 9) for price in range(MID - WIDTH, MID) if rng.random() < 0.8},
        {price: rng.randint(1, 9) for price in range(MID + 1, MID + WIDTH) if rng.random() < 0.8},
    )
    states, deltas = [State(sides[0].copy(), sides[1].copy())], []
    for number in range(1, STEPS):
        mid += rng.randint(-3, 3) + (trend if rng.random() < 0.5 else 0)
        changes: tuple[Side, Side] = {}, {}
        for side, change, sign in zip(sides, changes, (1, -1), strict=True):
            change.update({price: 0 for price in side if sign * price >= sign * mid})
            for distance in (1, 2, 3, *rng.choices(range(4, 40), k=2)):
                if rng.random() < 0.6:
                    change[mid - sign * distance] = rng.choice([0, rng.randint(1, 9)])
            side.update(change)
            for price in [price for price, size in side.items() if not size]:
                del side[price]
        states.append(State(sides[0].copy(), sides[1].copy()))
        bids, asks = (Levels(list(change), list(change.values())) for change in changes)
        deltas.append(BookDelta("BTCUSDT", number, number, number - 1, NOW + number * NS_PER_SECOND, bids, asks))
    return states, deltas


def snapshot(states: list[State], number: int) -> BookSnapshot:
    bids, asks = sorted(states[number].bids, reverse=True)[:LIMIT], sorted(states[number].asks)[:LIMIT]
    return BookSnapshot(
        "BTCUSDT",
        number,
        ABSENT,
        Levels(bids, [states[number].bids[price] for price in bids]),
        Levels(asks, [states[number].asks[price] for price in asks]),
        limit=LIMIT,
    )


def replayed(
    seed: int, trend: int, rule: Any, willing: float, seen: Callable[[BookKeeper, list[Part]], None] | None = None
) -> tuple[list[State], list[Part], BookKeeper]:
    """The market through a keeper; the venue answers each wish with a probability, and with any moment's book.
    `seen`: called after each message."""
    states, deltas = market(seed, trend)
    rng, parts = random.Random(seed + 1), list[Part]()
    books = BookSettings(DEPTH, NS_PER_SECOND // 10, 1.0, BAND_BPS, deltas=True, buckets={"BTCUSDT.BINANCE": "0.02"})
    keeper = BookKeeper(rule, BTC, books)
    keeper.subscribed()
    for number, delta in enumerate(deltas, 1):
        parts += keeper.take(delta)
        assert_knows_within_edges(keeper, states)
        if (keeper.needs_snapshot or keeper.sync.wants_fresh) and rng.random() < willing:
            ahead = rng.randint(-4, 4 if keeper.sync.wants_fresh else 0)
            parts += keeper.take(snapshot(states, max(0, min(number + ahead, STEPS - 1))))
            assert_knows_within_edges(keeper, states)
        parts += keeper.time(delta.ts_ns)
        if seen is not None:
            seen(keeper, parts)
    return states, parts, keeper


def assert_knows_within_edges(keeper: BookKeeper, states: list[State]) -> None:
    sync, book = keeper.sync, keeper.sync.book
    if sync.state is not BookState.LIVE:
        return
    true = states[sync.sequence]
    assert {p: s for p, s in book.bids.items() if p >= book.bid_edge} == within(true.bids, book.bid_edge, 2**64)
    assert {p: s for p, s in book.asks.items() if p <= book.ask_edge} == within(true.asks, 0, book.ask_edge)
    assert book.top(DEPTH).bid_prices == sorted(true.bids, reverse=True)[:DEPTH]
    assert book.top(DEPTH).ask_prices == sorted(true.asks)[:DEPTH]


def within(side: Side, low: float, high: float) -> Side:
    return {price: size for price, size in side.items() if low <= price <= high}


MARKETS = {
    "seed": st.integers(0, 2**16),
    "trend": st.integers(-6, 6),
    "rule": st.sampled_from([SPOT_RULE, FUTURES_RULE]),
    "willing": st.sampled_from([0.1, 0.5, 1.0]),
}


@settings(max_examples=40, deadline=None)
@given(**MARKETS)
def test_a_book_of_cut_snapshots_is_right_as_deep_as_it_is_told_or_is_not_live(
    seed: int, trend: int, rule: Any, willing: float
) -> None:
    states, parts, keeper = replayed(seed, trend, rule, willing)
    assert not keeper.events["contradicted"] and not keeper.events["gap"]
    for kind, records in parts:
        for row in records if kind == "book" else ():
            if row["state"] == BookState.LIVE:
                true = states[int(row["sequence"])]
                bids, asks = sorted(true.bids.items(), reverse=True)[:DEPTH], sorted(true.asks.items())[:DEPTH]
                assert list(zip(row["bid_price"].tolist(), row["bid_size"].tolist(), strict=True)) == bids
                assert list(zip(row["ask_price"].tolist(), row["ask_size"].tolist(), strict=True)) == asks


@settings(max_examples=25, deadline=None)
@given(**MARKETS)
def test_figures_of_a_book_of_cut_snapshots_are_those_of_the_whole_book_or_absent(
    seed: int, trend: int, rule: Any, willing: float
) -> None:
    states, parts, _ = replayed(seed, trend, rule, willing)
    for kind, records in parts:
        for row in records if kind == "imbalance" else ():
            true = states[(int(row["ts_event"]) - NOW) // NS_PER_SECOND - 1]  # message n comes as its second begins
            if row["reason"] not in (ImbalanceReason.NOT_LIVE, ImbalanceReason.BEYOND_EDGE):
                assert (row["bid_size"], row["ask_size"]) == near(true)
        for row in records[records["timeframe"] == 1] if kind == "buckets" else ():
            true, base = states[(int(row["ts"]) - NOW) // NS_PER_SECOND], int(row["base"])
            for j, (bid, ask) in enumerate(zip(row["bid_size"].tolist(), row["ask_size"].tolist(), strict=True)):
                assert bid in (ABSENT, resting(true.bids, base - j))
                assert ask in (ABSENT, resting(true.asks, base + j))


@settings(max_examples=25, deadline=None)
@given(**MARKETS)
def test_a_book_that_is_made_again_from_its_changes_knows_its_edges(
    seed: int, trend: int, rule: Any, willing: float
) -> None:
    replay, told = BookReplay(), 0

    def as_known(keeper: BookKeeper, parts: list[Part]) -> None:
        nonlocal told
        for kind, records in parts[told:]:
            if kind == "book_delta":
                replay.apply(records)
        told = len(parts)
        book, again = keeper.sync.book, replay.book
        assert replay.is_live == (keeper.sync.state is BookState.LIVE)
        if replay.is_live:
            assert again == book
            assert (again.bid_edge, again.ask_edge, again.is_cut) == (book.bid_edge, book.ask_edge, book.is_cut)
            known, depth = again.known(10_000), len(again)
            assert dict(zip(known.bid_prices, known.bid_sizes, strict=True)) == within(book.bids, book.bid_edge, 2**64)
            assert dict(zip(known.ask_prices, known.ask_sizes, strict=True)) == within(book.asks, 0, book.ask_edge)
            assert (again.knows_bids(depth), again.knows_asks(depth)) == (False, False)

    replayed(seed, trend, rule, willing, as_known)


def near(true: State) -> tuple[int, int]:
    mid2, band = max(true.bids) + min(true.asks), round(BAND_BPS * 1000)
    return tuple(  # type: ignore[return-value]
        sum(size for price, size in side.items() if abs(2 * price - mid2) * 10**7 <= band * mid2)
        for side in (true.bids, true.asks)
    )


def resting(side: Side, bucket: int) -> int:
    return sum(within(side, bucket * BUCKET, (bucket + 1) * BUCKET - 1).values())


def test_the_markets_of_these_tests_come_near_their_edges_go_beyond_them_and_come_back() -> None:
    seen: dict[str, int] = {}
    for seed in range(20):
        _, parts, keeper = replayed(seed, -4 if seed % 2 else 4, SPOT_RULE, 0.3)
        for event, count in keeper.events.items():
            seen[event] = seen.get(event, 0) + count
        reasons = {row["reason"].item() for kind, rows in parts if kind == "coverage" for row in rows}
        seen["said"] = seen.get("said", 0) + (b"beyond_edge" in reasons)
    assert {"refreshed", "unspliced", "unproven", "beyond_edge", "returned", "joined", "said"} <= set(seen)
    assert min(seen[name] for name in ("refreshed", "beyond_edge", "returned", "said")) > 3
