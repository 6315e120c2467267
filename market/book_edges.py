"""How far a book is known, against how much of it is told. Pure.

Of some venues a book is known up to its edges only (`OrderBook`). It may be told as long as the levels that are told
lie within them: `BEYOND` is not LIVE. A fresh snapshot is asked for earlier (`NEAR`): once half of the way is used up
from where the best price stood when the edges were drawn to where it may not come, or when fewer than twice the told
levels are known (if thrice were, in the beginning). Where it may not come is the edge, and so much before it as the
band of the imbalance is wide, if the venue's snapshots reach beyond the band at all.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from marketd.market.book import NO_ASK_EDGE, NO_BID_EDGE, Levels, OrderBook

_BP = 10_000


class Reach(NamedTuple):
    """How much of a book is told."""

    levels: int  # best ones a side
    band_bps: float = 0.0  # around the mid


class Standing(Enum):
    FAR = "far"
    NEAR = "near"  # a fresh snapshot is wanted
    BEYOND = "beyond"  # of the levels that are told some may be missing


class EdgeWatch:
    """Of one book. `begin` when its edges were drawn, `look` after each change."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._near_levels = reach.levels
        self._near_bid, self._near_ask = NO_BID_EDGE, NO_ASK_EDGE

    def begin(self, book: OrderBook) -> None:
        bid, ask, told = book.best_bid, book.best_ask, self._reach.levels
        self._near_bid, self._near_ask, known = NO_BID_EDGE, NO_ASK_EDGE, 3 * told
        if book.bid_edge != NO_BID_EDGE and bid is not None:
            self._near_bid = bid - self._half(bid, bid - book.bid_edge)
            known = min(known, len(book.bids))
        if book.ask_edge != NO_ASK_EDGE and ask is not None:
            self._near_ask = ask + self._half(ask, book.ask_edge - ask)
            known = min(known, len(book.asks))
        # else each fresh snapshot would be near at once, and the next one asked for
        self._near_levels = 2 * told if known >= 3 * told else told

    def _half(self, best: int, distance: int) -> int:
        """Of the way from the best price that may be used up, half."""
        band = int(best * self._reach.band_bps / _BP)
        return (distance - band if band < distance else distance) // 2

    def look(self, book: OrderBook) -> Standing:
        if book.knows(self._near_levels):
            bid, ask = book.best_bid, book.best_ask
            # a side that has an edge and is known has a best price
            if (bid is None or bid > self._near_bid) and (ask is None or ask < self._near_ask):
                return Standing.FAR
            return Standing.NEAR
        return Standing.NEAR if book.knows(self._reach.levels) else Standing.BEYOND


def found_beyond(book: OrderBook, fresh: OrderBook) -> tuple[Levels, Levels] | None:
    """Levels that another book of the same moment has beyond this one's edges; None: they contradict each other.

    What both know must be the same: a level of this one that lies within the other's edges, and the other way round.
    """
    bids = _found(book.bids, fresh.bids, book.bid_edge, fresh.bid_edge, 1)
    asks = _found(book.asks, fresh.asks, book.ask_edge, fresh.ask_edge, -1)
    return None if bids is None or asks is None else (bids, asks)


def _found(mine: dict[int, int], theirs: dict[int, int], edge: int, their_edge: int, sign: int) -> Levels | None:
    """Of one side; times `sign` a price within an edge is not below it."""
    edge, their_edge = sign * edge, sign * their_edge
    if any(sign * price >= their_edge and price not in theirs for price in mine):
        return None
    found = [(price, size) for price, size in theirs.items() if mine.get(price) != size]
    if any(price in mine or sign * price >= edge for price, _ in found):
        return None
    return Levels([price for price, _ in found], [size for _, size in found])
