"""One instrument's order book at full depth: what rests at each price. Pure, single-threaded, no times.

Prices and sizes are fixed-point integers at the instrument's scales. A level is a price with a size above zero; a size
of 0 removes it, and removing a level that is not there changes nothing, since venues do send that. The book does not
judge: whether it may be believed is `BookSync`'s affair, and a crossed book is one that says so.

What lies beyond the *edges* is not known to the book: a venue's snapshot may have the best levels only, and a level
below them is told when it changes, and never if it does not. Within the edges (a bid at `bid_edge` or above, an ask at
`ask_edge` or below) each level is known, also those that are not there. Prices that the other side has passed are
known too: while an ask rests at a price, no bid rests there or above.

Some venues keep a *window* in step, so many best levels a side: a side that has as many may go on beyond the last of
them, which is its edge, and one that has fewer is known whole.

Sizes stand in a dict, the prices once more in an ascending list, so that a changed size costs a dict's store, a new
price a bisection, and the best price nothing. The list of the asks has their prices negated: levels come and go near
the best, and at the end of a list few others have to move.

This is the reference: `market/book.py` gives out the same classes in C where these were built.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from operator import ne
from typing import NamedTuple

from msgspec import Struct

from marketd.market.fixed import MAX_FIXED


class Levels(Struct, gc=False):
    """Levels of one side at the instrument's scales; a size of 0 removes the level.

    As all values that are made for each message it is a Struct: made in a fifth of a NamedTuple's time.
    """

    prices: list[int]
    sizes: list[int]

    @property
    def is_possible(self) -> bool:
        """Prices above zero, no size below, and as many of both: anything else are no levels."""
        prices, sizes = self.prices, self.sizes
        if len(prices) != len(sizes):
            return False
        if len(prices) == 1:
            return 0 < prices[0] <= MAX_FIXED and 0 <= sizes[0] <= MAX_FIXED
        if not prices:
            return True
        return min(prices) > 0 and min(sizes) >= 0 and max(prices) <= MAX_FIXED and max(sizes) <= MAX_FIXED


class Change(Struct, gc=False):
    """What one `OrderBook.apply` did: the levels that were set, and the size that each had just before (0: none).

    The sum of `size - before` over the rows of a price is that price's change, also where a price comes twice.
    """

    bids: Levels
    asks: Levels
    bids_before: list[int]
    asks_before: list[int]

    @property
    def is_exact(self) -> bool:
        """Each of these levels had another size before."""
        bids, asks = self.bids.sizes, self.asks.sizes
        return all(map(ne, bids, self.bids_before)) and all(map(ne, asks, self.asks_before))

    def then(self, later: Change) -> Change:
        """This change and a later one, as one."""
        return Change(
            Levels(self.bids.prices + later.bids.prices, self.bids.sizes + later.bids.sizes),
            Levels(self.asks.prices + later.asks.prices, self.asks.sizes + later.asks.sizes),
            self.bids_before + later.bids_before,
            self.asks_before + later.asks_before,
        )


class BestLevels(NamedTuple):
    """The best levels of both sides, the best first."""

    bid_prices: list[int]
    bid_sizes: list[int]
    ask_prices: list[int]
    ask_sizes: list[int]


NO_LEVELS = Levels([], [])  # an empty side
NO_BID_EDGE, NO_ASK_EDGE = -(2**64), 2**64  # the side is known whole: below and above any price


class OrderBook:
    """Both sides. `bids` and `asks` (price → size), the best prices and the edges may be read, not changed."""

    __slots__ = (
        *("_ask_keys", "_bid_keys", "ask_edge", "asks", "best_ask", "best_bid", "bid_edge", "bids"),
        *("is_cut", "window"),
    )

    def __init__(self) -> None:
        self.bids: dict[int, int] = {}
        self.asks: dict[int, int] = {}
        self._bid_keys: list[int] = []  # prices, ascending: the best is the last
        self._ask_keys: list[int] = []  # prices negated, ascending: the best is the last
        self.best_bid: int | None = None  # None: there is none
        self.best_ask: int | None = None
        self.bid_edge, self.ask_edge = NO_BID_EDGE, NO_ASK_EDGE
        self.is_cut = False  # a side has an edge
        self.window = 0  # levels a side that are told; 0: all

    def __repr__(self) -> str:
        return f"<OrderBook {len(self.bids)} bids to {self.best_bid}, {len(self.asks)} asks from {self.best_ask}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OrderBook):
            return NotImplemented
        return self.bids == other.bids and self.asks == other.asks

    __hash__ = None  # type: ignore[assignment]  # it changes

    def reset(self, bids: Levels, asks: Levels, limit: int = 0, window: int = 0) -> None:
        """Begin anew with these levels, in any order; those of size 0 are none, of a price's rows the last holds.

        `limit`: how many levels a side were asked for. A side that has as many may go on beyond them. 0: all there are.
        `window`: how many the venue tells, now and from now on; 0: all.
        """
        self.bids, self.asks, self.window = _sizes(bids), _sizes(asks), window
        self._bid_keys, self._ask_keys = sorted(self.bids), sorted([-price for price in self.asks])
        self.bid_edge = self._bid_keys[0] if 0 < limit <= len(self.bids) else NO_BID_EDGE
        self.ask_edge = -self._ask_keys[0] if 0 < limit <= len(self.asks) else NO_ASK_EDGE
        self.is_cut = self.bid_edge != NO_BID_EDGE or self.ask_edge != NO_ASK_EDGE
        if window and self.is_deeper_than(window):
            self.cut(window)
        self._find_best()

    def clear(self, window: int = 0) -> None:
        self.reset(NO_LEVELS, NO_LEVELS, window=window)

    def apply(self, bids: Levels, asks: Levels) -> Change:
        """Set these levels, in their order."""
        # most messages of some venues change one side only
        bids_before = _set(self.bids, self._bid_keys, 1, bids) if bids.prices or bids.sizes else []
        asks_before = _set(self.asks, self._ask_keys, -1, asks) if asks.prices or asks.sizes else []
        self._find_best()
        return Change(bids, asks, bids_before, asks_before)

    def follow(self, bids: Levels, asks: Levels, most: int) -> Change | None:
        """`apply` and, where there is a window, `cut`. None where these are no levels, or where the book would not be
        sound then (crossed, or of more than so many levels): it stays as it was."""
        if not (bids.is_possible and asks.is_possible):
            return None
        change = self.apply(bids, asks)
        if self.window and self.is_deeper_than(self.window):
            change = change.then(self.cut(self.window))
        if self.is_crossed or len(self) > most:
            self.revert(change)
            return None
        return change

    def revert(self, change: Change) -> None:
        """Take the newest change back."""
        bids, asks = change.bids.prices[::-1], change.asks.prices[::-1]
        self.apply(Levels(bids, change.bids_before[::-1]), Levels(asks, change.asks_before[::-1]))

    def cut(self, depth: int) -> Change:
        """Drop what lies deeper than `depth` levels, such as the window's: the venue tells of no deeper one again. What
        was dropped."""
        bids, asks = self._bid_keys[:-depth], [-key for key in self._ask_keys[:-depth]]
        bids_before, asks_before = [self.bids.pop(p) for p in bids], [self.asks.pop(p) for p in asks]
        del self._bid_keys[:-depth], self._ask_keys[:-depth]
        return Change(Levels(bids, [0] * len(bids)), Levels(asks, [0] * len(asks)), bids_before, asks_before)

    def widen(self, bids: Levels, asks: Levels, bid_edge: int, ask_edge: int) -> Change:
        """Levels from beyond the edges come to be known, and with them all up to new edges that lie further out."""
        change = self.apply(bids, asks)
        self.know(min(self.bid_edge, bid_edge), max(self.ask_edge, ask_edge))
        return change

    def know(self, bid_edge: int, ask_edge: int) -> None:
        """From now on the book is known up to these edges."""
        self.bid_edge, self.ask_edge = bid_edge, ask_edge
        self.is_cut = bid_edge != NO_BID_EDGE or ask_edge != NO_ASK_EDGE

    def copy(self) -> OrderBook:
        """Another book that is like this one."""
        made = OrderBook()
        made.bids, made.asks = self.bids.copy(), self.asks.copy()
        made._bid_keys, made._ask_keys = self._bid_keys[:], self._ask_keys[:]
        made.best_bid, made.best_ask = self.best_bid, self.best_ask
        made.bid_edge, made.ask_edge, made.is_cut = self.bid_edge, self.ask_edge, self.is_cut
        made.window = self.window
        return made

    def _find_best(self) -> None:
        bids, asks = self._bid_keys, self._ask_keys
        self.best_bid = bids[-1] if bids else None
        self.best_ask = -asks[-1] if asks else None
        if self.window:
            self._draw_edges(self.window)
        elif self.is_cut:
            self._move_edges()

    def _draw_edges(self, window: int) -> None:
        """Of a side with as many levels as are told the last of these is the edge."""
        bids, asks = self._bid_keys, self._ask_keys
        self.know(
            bids[-window] if len(bids) >= window else NO_BID_EDGE,
            -asks[-window] if len(asks) >= window else NO_ASK_EDGE,
        )

    def _move_edges(self) -> None:
        """Where one side rests, the other has nothing: that is known from now on, since what comes there is told."""
        bid, ask = self.best_bid, self.best_ask
        if ask is not None and ask < self.bid_edge:
            self.bid_edge = ask
        if bid is not None and bid > self.ask_edge:
            self.ask_edge = bid

    @property
    def bid_prices(self) -> list[int]:
        """Ascending, the best last."""
        return self._bid_keys[:]

    @property
    def ask_prices(self) -> list[int]:
        """Ascending, the best first."""
        return [-key for key in reversed(self._ask_keys)]

    @property
    def best_bid_size(self) -> int:
        """0: there is none."""
        return self.bids[self._bid_keys[-1]] if self._bid_keys else 0

    @property
    def best_ask_size(self) -> int:
        return self.asks[-self._ask_keys[-1]] if self._ask_keys else 0

    @property
    def is_crossed(self) -> bool:
        """The best bid is not below the best ask: no venue's book looks like that, so this one is wrong."""
        return bool(self._bid_keys and self._ask_keys) and self._bid_keys[-1] >= -self._ask_keys[-1]

    def __len__(self) -> int:
        """Levels of both sides."""
        return len(self.bids) + len(self.asks)

    def is_deeper_than(self, depth: int) -> bool:
        """A side has more levels than that."""
        return len(self.bids) > depth or len(self.asks) > depth

    def knows(self, depth: int) -> bool:
        """Whether the best `depth` levels of both sides lie within the edges: none that is better can be missing."""
        return self.knows_bids(depth) and self.knows_asks(depth)

    def knows_bids(self, depth: int) -> bool:
        bids = self._bid_keys
        return self.bid_edge == NO_BID_EDGE or (len(bids) >= depth and bids[-depth] >= self.bid_edge)

    def knows_asks(self, depth: int) -> bool:
        asks = self._ask_keys
        return self.ask_edge == NO_ASK_EDGE or (len(asks) >= depth and -asks[-depth] <= self.ask_edge)

    def top(self, depth: int) -> BestLevels:
        """At most `depth` levels a side, the best first."""
        bid_prices, ask_prices = self._bid_keys[: -depth - 1 : -1], [-key for key in self._ask_keys[: -depth - 1 : -1]]
        bid_sizes, ask_sizes = map(self.bids.__getitem__, bid_prices), map(self.asks.__getitem__, ask_prices)
        return BestLevels(bid_prices, list(bid_sizes), ask_prices, list(ask_sizes))

    def known(self, depth: int) -> BestLevels:
        """At most `depth` levels a side, the best first, and none from beyond the edges."""
        bids = min(depth, len(self._bid_keys) - bisect_left(self._bid_keys, self.bid_edge))
        asks = min(depth, len(self._ask_keys) - bisect_left(self._ask_keys, -self.ask_edge))
        top = self.top(max(bids, asks))
        return BestLevels(top.bid_prices[:bids], top.bid_sizes[:bids], top.ask_prices[:asks], top.ask_sizes[:asks])

    def bids_within(self, low: int, high: int) -> int:
        """What rests on the bid side at low <= price <= high."""
        keys = self._bid_keys
        return sum(map(self.bids.__getitem__, keys[bisect_left(keys, low) : bisect_right(keys, high)]))

    def asks_within(self, low: int, high: int) -> int:
        """What rests on the ask side at low <= price <= high."""
        keys = self._ask_keys
        within = keys[bisect_left(keys, -high) : bisect_right(keys, -low)]
        return sum([self.asks[-key] for key in within])


def _sizes(levels: Levels) -> dict[int, int]:
    sizes = dict(zip(levels.prices, levels.sizes, strict=True))
    return sizes if all(sizes.values()) else {price: size for price, size in sizes.items() if size}


def _set(sizes: dict[int, int], keys: list[int], sign: int, levels: Levels) -> list[int]:
    """Set levels of one side; the sizes that were there before."""
    before = []
    for price, size in zip(levels.prices, levels.sizes, strict=True):
        was = sizes.get(price, 0)
        before.append(was)
        if size:
            if not was:
                insort(keys, sign * price)
            sizes[price] = size
        elif was:
            del sizes[price]
            del keys[bisect_left(keys, sign * price)]
    return before
