"""What trades say of a book that is LIVE: whether it can be the venue's. Pure, in event time.

A book whose changes stop, or of which some were lost, looks like any other: nothing of it comes that could be judged.
But trades do come, and each of them takes what rests in the book. They deny it when, for a while,

    they come, and the book does not change at all, or
    all of them were dealt at prices that it cannot have: above its best ask, or below its best bid. The first trade of
    an order is dealt at the best price, so one such trade means that a change is still on its way, and many that it
    never came

One alone proves nothing: changes come up to a second after their trades, and some orders rest in no book that is told
(Bybit's RPI). Hence the patience: of the books that were recorded the busy ones were denied for half a second at most,
and the quiet ones by four trades in a row.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from marketd.market.book import OrderBook
from marketd.market.layouts import TradeFlag
from marketd.market.records import Records
from marketd.market.times import ABSENT, NS_PER_SECOND

PATIENCE_NS = 30 * NS_PER_SECOND
PATIENCE_MOMENTS = 10
MOMENT_NS = NS_PER_SECOND  # what comes within it is one moment; a book that nothing denies is looked at so often
_NOT_MARKET = int(TradeFlag.NOT_MARKET)


class TradeWitness:
    """Of one book. `begin` when it is LIVE anew, `hear` trades in the order in which they and its changes come."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self._still, self._beyond = _Run(), _Run()
        self._changes = -1
        self._look_ns = ABSENT

    def hear(self, book: OrderBook, changes: int, trades: Records) -> bool:
        """Whether trades deny the book, which has had so many changes."""
        ts_ns = int(trades["ts_event"][-1])
        if changes != self._changes:
            self._changes = changes
            self._still.end()
        elif self._still.is_moment(ts_ns) and len(_prices(trades)) and self._still.goes_on(ts_ns):
            return True
        if not self._beyond.moments and 0 <= ts_ns - self._look_ns < MOMENT_NS:
            return False
        prices = _prices(trades)
        if not len(prices):
            return False  # they say nothing, for the book neither
        self._look_ns = ts_ns
        if _are_beyond(book, prices):
            return self._beyond.goes_on(ts_ns)
        self._beyond.end()
        return False


class _Run:
    """Moments, one after the other, that say the same."""

    def __init__(self) -> None:
        self.end()

    def end(self) -> None:
        self.moments = 0
        self._first_ns = self._last_ns = ABSENT

    def is_moment(self, ts_ns: int) -> bool:
        """Another one than the last."""
        return not self.moments or not 0 <= ts_ns - self._last_ns < MOMENT_NS

    def goes_on(self, ts_ns: int) -> bool:
        """What is said goes on; whether that is enough now."""
        if not self.moments or ts_ns < self._last_ns:
            self.moments, self._first_ns, self._last_ns = 1, ts_ns, ts_ns
        elif self.is_moment(ts_ns):
            self.moments, self._last_ns = self.moments + 1, ts_ns
        return self.moments >= PATIENCE_MOMENTS and ts_ns - self._first_ns >= PATIENCE_NS


def _are_beyond(book: OrderBook, prices: npt.NDArray[np.int64]) -> bool:
    """Whether all were dealt above the best ask, or all below the best bid."""
    bid, ask = book.best_bid, book.best_ask
    return (ask is not None and bool(prices.min() > ask)) or (bid is not None and bool(prices.max() < bid))


def _prices(trades: Records) -> npt.NDArray[np.int64]:
    """Of the market's trades."""
    prices: npt.NDArray[np.int64] = trades["price"][trades["flags"] & _NOT_MARKET == 0]
    return prices
