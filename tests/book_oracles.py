"""Naive answers for books: everything computed anew from the definitions, nothing kept from one step to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from marketd.market.book import Levels
from marketd.market.layouts import BookState
from marketd.market.times import ABSENT

SECOND = 1_000_000_000
Side = dict[int, int]


class Moment(NamedTuple):
    """From `ts` on the book is like this; without sides when it is not LIVE."""

    ts: int
    state: BookState
    bids: Side
    asks: Side


class Trade(NamedTuple):
    ts: int
    size: int
    side: int


def levels(side: Side | Sequence[tuple[int, int]]) -> Levels:
    pairs = list(side.items()) if isinstance(side, dict) else list(side)
    return Levels([price for price, _ in pairs], [size for _, size in pairs])


def applied(side: Side, changes: Sequence[tuple[int, int]]) -> Side:
    found = {**side, **dict(changes)}
    return {price: size for price, size in found.items() if size > 0}


def towards_zero(numerator: int, denominator: int) -> int:
    return abs(numerator) // denominator * (1 if numerator >= 0 else -1)


def stretches(moments: Sequence[Moment], start: int, end: int) -> list[tuple[int, Moment]]:
    """How long (ns) each state of the book stood within [start, end)."""
    found = []
    for i, moment in enumerate(moments):
        until = moments[i + 1].ts if i + 1 < len(moments) else end
        ns = min(until, end) - max(moment.ts, start)
        if ns > 0:
            found.append((ns, moment))
    return found


def at_end(moments: Sequence[Moment], end: int) -> Moment:
    """What stood just before `end`."""
    return stretches(moments, end - 1, end)[-1][1]


def figures(moment: Moment, band_milli_bps: int) -> tuple[int, int, int, int, int, int] | None:
    if moment.state is not BookState.LIVE or not moment.bids or not moment.asks:
        return None
    bid, ask = max(moment.bids), min(moment.asks)
    mid2 = bid + ask

    def is_within(price: int) -> bool:
        return abs(2 * price - mid2) * 10**7 <= band_milli_bps * mid2

    near_bids = sum(size for price, size in moment.bids.items() if is_within(price))
    near_asks = sum(size for price, size in moment.asks.items() if is_within(price))
    return mid2, ask - bid, near_bids, near_asks, moment.bids[bid], moment.asks[ask]


def ratio(moment: Moment, band_milli_bps: int) -> int | None:
    found = figures(moment, band_milli_bps)
    if found is None or found[2] + found[3] == 0:
        return None
    return towards_zero((found[2] - found[3]) * 10**6, found[2] + found[3])


def imbalance(moments: Sequence[Moment], trades: Sequence[Trade], begin: int, end: int, band_milli_bps: int) -> tuple:
    """The fields of the IMBALANCE record of the second that ends at `end`, from mid2 on."""
    last = at_end(moments, end)
    is_live = last.state is BookState.LIVE
    books, volumes, is_full = [], [], True
    for window in (1, 5, 15, 60):
        start = end - window * SECOND
        parts = [(ns, ratio(moment, band_milli_bps)) for ns, moment in stretches(moments, start, end)]
        known = [(ns, r) for ns, r in parts if r is not None]
        book_full = sum(ns for ns, _ in known) == window * SECOND
        mean = towards_zero(sum(ns * r for ns, r in known), window * SECOND) if book_full and is_live else -(2**31)
        books.append(mean)
        bought = sum(trade.size for trade in trades if start <= trade.ts < end and trade.side > 0)
        sold = sum(trade.size for trade in trades if start <= trade.ts < end and trade.side < 0)
        is_heard = start >= begin and bought + sold > 0
        volumes.append(towards_zero((bought - sold) * 10**6, bought + sold) if is_heard else -(2**31))
        is_full = is_full and book_full and start >= begin
    reason = 1 if not is_live else 2 if ratio(last, band_milli_bps) is None else 0 if is_full else 3
    return (*(figures(last, band_milli_bps) or (ABSENT,) * 6), *books, *volumes, int(last.state), reason)


def buckets(moments: Sequence[Moment], timeframe: int, end: int, width: int) -> tuple:
    """(state, base, bid sizes, ask sizes) of the interval that ends at `end`."""
    parts = stretches(moments, end - timeframe * SECOND, end)
    live = [(ns, moment) for ns, moment in parts if moment.state is BookState.LIVE]
    # a state that stood for no time at all still tells the mid, as the last change of its moment did
    told = [m for m in moments if end - timeframe * SECOND <= m.ts < end] or []
    before = [moment for _, moment in parts[:1]]
    mids = [max(m.bids) + min(m.asks) for m in (*before, *told) if m.bids and m.asks]
    live_ns = sum(ns for ns, _ in live)
    state = int(at_end(moments, end).state)
    if not live_ns or not mids:
        return state, ABSENT, [ABSENT] * 32, [ABSENT] * 32
    base = mids[-1] // (2 * width)

    def mean(side: str, bucket: int) -> int:
        resting = [
            ns * sum(size for price, size in getattr(moment, side).items() if price // width == bucket)
            for ns, moment in live
        ]
        return sum(resting) // live_ns

    return (
        state,
        base,
        [mean("bids", base - j) for j in range(32)],
        [mean("asks", base + j) for j in range(32)],
    )
