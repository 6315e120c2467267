"""The calls about order books that both providers have, defined once.

They differ in what they give: an answer, or something to await. What is in shared memory is read there; everything else
is a plan of `marketd.client.book_requests`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

from marketd.client.arguments import check_count
from marketd.client.book_rebuild import rebuilt_book
from marketd.client.book_requests import (
    Aggregation,
    books,
    books_with_imbalances,
    seconds_of,
    stretch_of,
    with_ratios,
)
from marketd.client.books import OrderBookDataFrame, check_depth
from marketd.client.cache import DataCacheManager
from marketd.client.calls import Plan
from marketd.client.catalogue import Catalogue
from marketd.client.frames import Frame
from marketd.client.further import ASK_FURTHER
from marketd.client.requests import rows
from marketd.client.require import Require
from marketd.market.times import NS_PER_SECOND, parse_timeframe, type_time

B = TypeVar("B", covariant=True)  # what is given for books
F = TypeVar("F", covariant=True)  # … and for frames
T = TypeVar("T")
_Frame = TypeVar("_Frame", bound=Frame)
Found = Callable[[], T | Plan[T]]


class BookCalls(ABC, Generic[B, F]):
    """Calls about order books, and what is made of them."""

    _catalogue: Catalogue
    _cache: DataCacheManager | None

    @abstractmethod
    def _give_books(self, find: Found[OrderBookDataFrame]) -> B:
        """What this provider makes of books, or of a plan that gets them."""

    @abstractmethod
    def _give(self, find: Found[Frame]) -> F:
        """What this provider makes of a frame, or of a plan that gets it."""

    # ---- the newest -----------------------------------------------------------------------------

    def get_latest_orderbook(
        self, symbol: str, depth: int | None = None, limit: int = 1, require: Require | None = None
    ) -> B:
        """The newest `limit` books, oldest first, with the best `depth` levels a side (None: all that are kept).

        require: RequirementNotMet instead of an answer that is worth less.
        """

        def find() -> OrderBookDataFrame | Plan[OrderBookDataFrame]:
            _check(limit, depth)
            if self._cache is not None:
                try:
                    return self._cache.get_latest_orderbook(symbol, depth, limit, require)
                except ASK_FURTHER:
                    pass
            return _required(books(self._catalogue, symbol, None, None, limit, depth), require)

        return self._give_books(find)

    def get_latest_imbalances(self, symbol: str, limit: int = 1, require: Require | None = None) -> F:
        """The newest `limit` seconds, oldest first: imbalance of the book and of the traded volume over 1, 5, 15 and
        60 s, mid, weighted mid, spread, and the sizes within `book.band_bps` of mid."""

        def find() -> Frame | Plan[Frame]:
            check_count(limit)
            if self._cache is not None:
                try:
                    return self._cache.get_latest_imbalances(symbol, limit, require)
                except ASK_FURTHER:
                    pass
            return _required(rows(self._catalogue, "imbalance", symbol, limit=limit), require)

        return self._give(find)

    def get_latest_buckets(
        self, symbol: str, timeframe: str | int = "1s", limit: int = 1, require: Require | None = None
    ) -> F:
        """The newest `limit` records of what rested in each price bucket, over a second or a minute (`"1m"`)."""

        def find() -> Frame | Plan[Frame]:
            check_count(limit)
            seconds = parse_timeframe(timeframe)
            if self._cache is not None:
                try:
                    return self._cache.get_latest_buckets(symbol, seconds, limit, require)
                except ASK_FURTHER:
                    pass
            return _required(rows(self._catalogue, "buckets", symbol, limit=limit, timeframe=seconds), require)

        return self._give(find)

    def get_order_book_data(
        self,
        symbol: str,
        timestamp: type_time = None,
        aggregation: Aggregation = "raw",
        limit: int = 1,
        depth: int | None = None,
        require: Require | None = None,
    ) -> B:
        """The newest `limit` books as they were known at `timestamp` (None: now), oldest first.

        aggregation: `"raw"` snapshots as they came, `"1s"` or `"1m"` the last LIVE one of each interval, with means
        over it. Further columns `book_1s` … `volume_60s`: the imbalance that was known beside each.
        """

        def find() -> OrderBookDataFrame | Plan[OrderBookDataFrame]:
            _check(limit, depth)
            if self._cache is not None and timestamp is None and seconds_of(aggregation) is None:
                try:
                    return _live_books(self._cache, symbol, limit, depth, require)
                except ASK_FURTHER:
                    pass
            plan = books_with_imbalances(self._catalogue, symbol, timestamp, aggregation, limit, depth)
            return _required(plan, require)

        return self._give_books(find)

    # ---- what is stored -------------------------------------------------------------------------

    def query_orderbook_snapshots(
        self,
        symbol: str,
        start: type_time = None,
        end: type_time = None,
        limit: int | None = None,
        depth: int | None = None,
    ) -> B:
        """Snapshots with start <= time < end, the newest `limit`, oldest first."""
        return self._give_books(lambda: books(self._catalogue, symbol, start, end, limit, depth))

    def query_orderbook_aggregated(
        self,
        symbol: str,
        timeframe: str | int = "1s",
        start: type_time = None,
        end: type_time = None,
        limit: int | None = None,
        depth: int | None = None,
    ) -> B:
        """One row an interval that has a LIVE snapshot: the last one, and means over all of them."""

        def find() -> Plan[OrderBookDataFrame]:
            return books(self._catalogue, symbol, start, end, limit, depth, parse_timeframe(timeframe))

        return self._give_books(find)

    def rebuild_orderbook(self, symbol: str, timestamp: type_time, depth: int | None = None) -> B:
        """The whole book as it was at event time `timestamp`, one row with the best `depth` levels a side (None: all),
        made again from its stored changes (`book.deltas = true`). `time` is that of the last change.

        Raises NotStored when changes that it needs were not stored, NotYetStored when they may still come.
        """
        return self._give_books(lambda: rebuilt_book(self._catalogue, symbol, timestamp, depth))

    def query_orderbook_imbalances(
        self, symbol: str, start: type_time = None, end: type_time = None, limit: int | None = None
    ) -> F:
        """Imbalances of the seconds that end in [start, end), the newest `limit`, oldest first."""
        return self._give(lambda: rows(self._catalogue, "imbalance", symbol, start, end, limit))


def _check(limit: int, depth: int | None) -> None:
    check_count(limit)
    if depth is not None:
        check_depth(depth)


def _required(plan: Plan[_Frame], require: Require | None) -> Plan[_Frame]:
    found = yield from plan
    return found if require is None else require.check(found)


def _live_books(
    cache: DataCacheManager, symbol: str, limit: int, depth: int | None, require: Require | None
) -> OrderBookDataFrame:
    """Books and imbalances of shared memory: two reads, which `seq` puts together as they were known."""
    found = cache.get_latest_orderbook(symbol, depth, limit, require)
    seconds = 0
    if len(found):
        start, end = stretch_of(found)
        seconds = (end - start) // NS_PER_SECOND
    beside = cache.get_latest_imbalances(symbol, seconds + 2)
    return with_ratios(found, beside.records)
