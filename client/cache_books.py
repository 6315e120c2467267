"""The reads of shared memory that are about order books; `DataCacheManager` is made of them too.

A read copies the newest records of one ring. What they say of the market is theirs alone: a book that was not LIVE has
no numbers; `meta.book_state` says what the newest one is, and STALE while the daemon shows no sign of life, since
nobody keeps its books in step then.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TypeVar

from marketd.client.book_venues import STREAM, is_consolidated, with_venues
from marketd.client.books import OrderBookDataFrame, cut_depth
from marketd.client.frames import Frame
from marketd.client.require import Require
from marketd.market.errors import BeyondCache, MarketdError
from marketd.market.records import BookState
from marketd.market.times import NS_PER_SECOND, parse_timeframe, timeframe_name

TRUSTED_NS = NS_PER_SECOND  # the daemon beats ten times as often
F = TypeVar("F", bound=Frame)
_STALE = BookState.STALE.name
_MEANWHILE = 16  # books of an instrument in the moment between two reads
_WINDOW, _BARS = "cache.window", "cache.bars"


class BookReads:
    """`get_latest_orderbook`, `get_latest_imbalances`, `get_latest_buckets`."""

    @abstractmethod
    def _latest(
        self, stream: str, symbol: str, limit: int, *, ring: str, setting: str, timeframe: int | None = None
    ) -> Frame:
        """The newest records of one ring."""

    @abstractmethod
    def _refused(self) -> None:
        """Count an answer that was not given."""

    def get_latest_orderbook(
        self, symbol: str, depth: int | None = None, limit: int = 1, require: Require | None = None
    ) -> OrderBookDataFrame:
        """The newest `limit` books, oldest first: the best `depth` levels a side, None: all that are kept.

        Raises UnknownInstrument, AmbiguousSymbol, BeyondCache (more books or levels than are kept), Warming,
        NotRunning, RequirementNotMet.
        """
        found = self._latest("book", symbol, limit, ring="book", setting=_WINDOW)
        if is_consolidated(found.instrument):
            found = self._with_venues(found, symbol, limit)
        return self._judged(lambda: cut_depth(_stamped(found, require), depth))

    def _with_venues(self, found: Frame, symbol: str, limit: int) -> Frame:
        """Whose the levels are; a few more are read, since some may have come after the books."""
        assert isinstance(found, OrderBookDataFrame)
        try:
            venues = self._latest(STREAM, symbol, limit + _MEANWHILE, ring=STREAM, setting=_WINDOW)
        except BeyondCache:
            venues = self.whole_ring(STREAM, symbol)
        return with_venues(found, venues.records)

    @abstractmethod
    def whole_ring(self, stream: str, symbol: str, timeframe: int | None = None) -> Frame:
        """All records of a ring."""

    def get_latest_imbalances(self, symbol: str, limit: int = 1, require: Require | None = None) -> Frame:
        """The newest `limit` seconds, oldest first: ratios over 1, 5, 15 and 60 s, mid, spread, sizes in the band."""
        found = self._latest("imbalance", symbol, limit, ring="imbalance", setting=_BARS)
        return self._judged(lambda: _stamped(found, require))

    def get_latest_buckets(
        self, symbol: str, timeframe: str | int = "1s", limit: int = 1, require: Require | None = None
    ) -> Frame:
        """The newest `limit` records of what rested in each price bucket, over a second or a minute; oldest first."""
        seconds = parse_timeframe(timeframe)
        ring, setting = f"buckets.{timeframe_name(seconds)}", _WINDOW if seconds == 1 else _BARS
        found = self._latest("buckets", symbol, limit, ring=ring, setting=setting, timeframe=seconds)
        return self._judged(lambda: _stamped(found, require))

    def _judged(self, judge: Callable[[], F]) -> F:
        try:
            return judge()
        except MarketdError:
            self._refused()
            raise


def _stamped(frame: Frame, require: Require | None) -> Frame:
    if (frame.meta.stale_ns or 0) > TRUSTED_NS and frame.meta.book_state is not None:
        frame.meta.book_state = _STALE
    return frame if require is None else require.check(frame)
