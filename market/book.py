"""One instrument's order book at full depth: what rests at each price. Pure, single-threaded, no times.

Prices and sizes are fixed-point integers at the instrument's scales. A level is a price with a size above zero; a size
of 0 removes it, and removing a level that is not there changes nothing, since venues do send that. The book does not
judge: whether it may be believed is `BookSync`'s affair, and a crossed book is one that says so.

Sizes stand in a dict, the prices once more in an ascending list, so that a changed size costs a dict's store, a new
price a bisection, and the best price nothing.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import NamedTuple


class Levels(NamedTuple):
    """Levels of one side at the instrument's scales; a size of 0 removes the level."""

    prices: list[int]
    sizes: list[int]


class Change(NamedTuple):
    """What one `OrderBook.apply` did: the levels that were set, and the size that each had just before (0: none).

    The sum of `size - before` over the rows of a price is that price's change, also where a price comes twice.
    """

    bids: Levels
    asks: Levels
    bids_before: list[int]
    asks_before: list[int]

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


class OrderBook:
    """Both sides. `bids` and `asks` (price → size) and the ascending price lists may be read, not changed."""

    __slots__ = ("ask_prices", "asks", "bid_prices", "bids")

    def __init__(self) -> None:
        self.bids: dict[int, int] = {}
        self.asks: dict[int, int] = {}
        self.bid_prices: list[int] = []
        self.ask_prices: list[int] = []

    def __repr__(self) -> str:
        return f"<OrderBook {len(self.bids)} bids to {self.best_bid}, {len(self.asks)} asks from {self.best_ask}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OrderBook):
            return NotImplemented
        return self.bids == other.bids and self.asks == other.asks

    __hash__ = None  # type: ignore[assignment]  # it changes

    def reset(self, bids: Levels, asks: Levels) -> None:
        """Begin anew with these levels, in any order; those of size 0 are none, of a price's rows the last holds."""
        self.bids, self.bid_prices = _side(bids)
        self.asks, self.ask_prices = _side(asks)

    def clear(self) -> None:
        self.reset(NO_LEVELS, NO_LEVELS)

    def apply(self, bids: Levels, asks: Levels) -> Change:
        """Set these levels, in their order."""
        before = _set(self.bids, self.bid_prices, bids)
        return Change(bids, asks, before, _set(self.asks, self.ask_prices, asks))

    def cut(self, depth: int) -> Change:
        """Drop what lies deeper than `depth` levels: some venues speak of no deeper one again. What was dropped."""
        bids, asks = self.bid_prices[:-depth], self.ask_prices[depth:]
        bids_before, asks_before = [self.bids.pop(p) for p in bids], [self.asks.pop(p) for p in asks]
        del self.bid_prices[:-depth], self.ask_prices[depth:]
        return Change(Levels(bids, [0] * len(bids)), Levels(asks, [0] * len(asks)), bids_before, asks_before)

    @property
    def best_bid(self) -> int | None:
        return self.bid_prices[-1] if self.bid_prices else None

    @property
    def best_ask(self) -> int | None:
        return self.ask_prices[0] if self.ask_prices else None

    @property
    def is_crossed(self) -> bool:
        """The best bid is not below the best ask: no venue's book looks like that, so this one is wrong."""
        return bool(self.bid_prices and self.ask_prices and self.bid_prices[-1] >= self.ask_prices[0])

    def __len__(self) -> int:
        """Levels of both sides."""
        return len(self.bids) + len(self.asks)

    def top(self, depth: int) -> BestLevels:
        """At most `depth` levels a side, the best first."""
        bid_prices, ask_prices = self.bid_prices[: -depth - 1 : -1], self.ask_prices[:depth]
        bid_sizes, ask_sizes = map(self.bids.__getitem__, bid_prices), map(self.asks.__getitem__, ask_prices)
        return BestLevels(bid_prices, list(bid_sizes), ask_prices, list(ask_sizes))


def _side(levels: Levels) -> tuple[dict[int, int], list[int]]:
    sizes = dict(zip(levels.prices, levels.sizes, strict=True))
    if not all(sizes.values()):
        sizes = {price: size for price, size in sizes.items() if size}
    return sizes, sorted(sizes)


def _set(sizes: dict[int, int], prices: list[int], levels: Levels) -> list[int]:
    """Set levels of one side; the sizes that were there before."""
    before = []
    for price, size in zip(levels.prices, levels.sizes, strict=True):
        was = sizes.get(price, 0)
        before.append(was)
        if size:
            if not was:
                insort(prices, price)
            sizes[price] = size
        elif was:
            del sizes[price]
            del prices[bisect_left(prices, price)]
    return before
