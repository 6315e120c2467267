"""`UnifiedDataProvider`: one place to ask, whether the answer is live in shared memory or years old.

    md = UnifiedDataProvider()                          # the local daemon; MARKETD_URL or an argument picks another
    md.get_latest_ohlcv("BTC/USDT", "1m", 300)          # shared memory, without a message to the daemon
    md.query_trades("BTC/USDT", start, end)             # the query actor

`get_latest_…` reads shared memory when the daemon is on this host, and asks the query actor for what is not there;
`meta.served_from` says which it was. All requests are the plans of `marketd.client.requests`; the asyncio twin is
`marketd.client.async_provider`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from marketd.client import requests
from marketd.client.arguments import BarSource, check_count, known_ns
from marketd.client.book_calls import BookCalls, Found
from marketd.client.books import OrderBookDataFrame
from marketd.client.cache import CacheStatistics, DataCacheManager
from marketd.client.calls import Plan, deadline_after
from marketd.client.catalogue import Catalogue
from marketd.client.connection import Requester
from marketd.client.endpoints import Endpoints, Url, locate
from marketd.client.frames import Frame
from marketd.client.further import ASK_FURTHER
from marketd.client.grid import Fill
from marketd.client.latest import latest_ohlcv
from marketd.client.paging import DEFAULT_PAGE, BarPager, RowPager, pages
from marketd.client.stream import Follower
from marketd.client.subscription import Subscription
from marketd.ipc.protocol import HealthReport
from marketd.market.errors import BeyondCache
from marketd.market.instruments import Instrument
from marketd.market.times import parse_timeframe, type_time

T = TypeVar("T")
DEFAULT_TIMEOUT_SECONDS = 10.0

_NO_CACHE = CacheStatistics(0, 0, 0, 0, 0, 0, None, None)


class ProviderBase:
    """What both providers are made of, and what neither needs a daemon for."""

    def __init__(self, url: Url = None, *, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        deadline_after(timeout)  # refuses what is no budget
        self.endpoints: Endpoints = locate(url)
        self.timeout = timeout
        directory = self.endpoints.directory
        self._cache = DataCacheManager(directory) if directory is not None else None
        self._catalogue = Catalogue()

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return _rebuild, (type(self), str(self.endpoints.directory or self.endpoints.query), self.timeout)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.endpoints.directory or self.endpoints.query}>"

    def cache_statistics(self) -> CacheStatistics:
        """Reads of shared memory, counted; all zero for a daemon elsewhere."""
        return self._cache.cache_statistics() if self._cache is not None else _NO_CACHE

    def _latest_bars(
        self, symbol: str, timeframe: str | int, limit: int, bar_source: BarSource, forming: bool
    ) -> Frame | Plan[Frame]:
        """The frame, or the plan that gets it where shared memory does not have it."""
        check_count(limit)
        if self._cache is not None:
            try:
                return self._cache.get_latest_ohlcv(symbol, timeframe, limit, bar_source, forming)
            except ASK_FURTHER:
                if forming:
                    raise
        elif forming:
            raise BeyondCache("forming: bars that are still forming are in shared memory only", field="forming")
        return requests.ohlcv(self._catalogue, symbol, timeframe, None, None, limit, bar_source)

    def _latest_rows(self, stream: str, symbol: str | None, limit: int) -> Frame | Plan[Frame]:
        check_count(limit)
        if self._cache is not None and symbol is not None:
            try:
                return self._cache.get_latest(stream, symbol, limit)
            except ASK_FURTHER:
                pass
        return requests.rows(self._catalogue, stream, symbol, None, None, limit)

    def _rows(
        self,
        stream: str,
        symbol: str | None,
        start: type_time,
        end: type_time,
        limit: int | None,
        timeframe: str | int | None,
        known_at: int | None,
    ) -> Plan[Frame]:
        seconds = None if timeframe is None else parse_timeframe(timeframe)
        return requests.rows(self._catalogue, stream, symbol, start, end, limit, timeframe=seconds, known_at=known_at)

    def _follow(self, kind: str, symbol: str, timeframe: str | int | None, since: type_time) -> Follower:
        return Follower(self._catalogue, self._cache, kind, symbol, timeframe, since)


def _rebuild(kind: type[Any], url: str, timeout: float) -> Any:
    return kind(url, timeout=timeout)


class UnifiedDataProvider(ProviderBase, BookCalls[OrderBookDataFrame, Frame]):
    """Market data, live and stored. Thread-safe, fork-safe, picklable; a context manager.

    url: a runtime directory, `ipc://` of one, or `tcp://host:port`; None: MARKETD_URL, else the local daemon.
    timeout: seconds that each call may take in all.
    Every call raises NotRunning, Timeout, Busy, UnknownInstrument, AmbiguousSymbol or InvalidArgument as they apply.
    """

    def __init__(self, url: Url = None, *, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        super().__init__(url, timeout=timeout)
        self._requester = Requester(self.endpoints)

    def get_latest_ohlcv(
        self,
        symbol: str,
        timeframe: str | int = "1m",
        limit: int = 1,
        bar_source: BarSource = "best",
        forming: bool = False,
    ) -> Frame:
        """The newest `limit` closed bars, oldest first; see `DataCacheManager.get_latest_ohlcv`."""
        return self._finish(self._latest_bars(symbol, timeframe, limit, bar_source, forming))

    def get_latest_trades(self, symbol: str, limit: int = 100) -> Frame:
        """The newest `limit` trades, oldest first."""
        return self._finish(self._latest_rows("trade", symbol, limit))

    def get_latest(self, stream: str, symbol: str | None, limit: int = 1) -> Frame:
        """The newest `limit` records of any stream; symbol None: of one that belongs to no instrument."""
        return self._finish(self._latest_rows(stream, symbol, limit))

    def query_latest_ohlcv(
        self, symbols: Sequence[str] | None = None, timeframe: str | int = "1m", bar_source: BarSource = "best"
    ) -> dict[str, Frame]:
        """The newest closed bar of all instruments (or of `symbols`), by canonical name, in one request; an instrument
        without a bar is not in it.
        """
        return self._run(latest_ohlcv(symbols, timeframe, bar_source))

    def query_ohlcv_data(
        self,
        symbol: str,
        timeframe: str | int = "1m",
        start: type_time = None,
        end: type_time = None,
        limit: int | None = None,
        bar_source: BarSource = "best",
        fill: Fill = None,
        known_at: type_time = None,
    ) -> Frame:
        """Closed bars with start <= time < end, the newest `limit`, oldest first.

        fill: None gives the bars that there are; `"quiet"` and `"nan"` lay them on their grid (see
        `Frame.grid`), where what was observed is taken from the coverage ledger. known_at: as it was known at that
        moment: no bar that was not there yet, none in a later version.
        """
        return self._run(
            requests.ohlcv(self._catalogue, symbol, timeframe, start, end, limit, bar_source, fill, known_ns(known_at))
        )

    def query_multi_timeframe_ohlcv(
        self,
        symbol: str,
        timeframes: Sequence[str | int],
        start: type_time = None,
        end: type_time = None,
        limit: int | None = None,
        bar_source: BarSource = "best",
        known_at: type_time = None,
    ) -> dict[str, Frame]:
        """Closed bars of several timeframes, by their names; `limit` counts for each. known_at: as known then."""
        return self._run(
            requests.bars(self._catalogue, symbol, timeframes, start, end, limit, bar_source, known_ns(known_at))
        )

    def query_trades(
        self,
        symbol: str,
        start: type_time = None,
        end: type_time = None,
        limit: int | None = None,
        known_at: type_time = None,
    ) -> Frame:
        """Trades with start <= time < end, the newest `limit`, oldest first. known_at: those that were known then."""
        return self._run(
            requests.rows(self._catalogue, "trade", symbol, start, end, limit, known_at=known_ns(known_at))
        )

    def query(
        self,
        stream: str,
        symbol: str | None,
        start: type_time = None,
        end: type_time = None,
        limit: int | None = None,
        timeframe: str | int | None = None,
        known_at: type_time = None,
    ) -> Frame:
        """Records of any stream, as `query_trades`: `book`, `coverage`, a declared series (symbol None: a global one).

        timeframe: of `buckets` (`"1s"` or `"1m"`); of `book`, one row an interval. known_at: as it was known then.
        """
        return self._run(self._rows(stream, symbol, start, end, limit, timeframe, known_ns(known_at)))

    def iter_trades(
        self, symbol: str, start: type_time = None, end: type_time = None, page: int = DEFAULT_PAGE
    ) -> Iterator[Frame]:
        """Trades with start <= time < end, oldest first, in frames of at most `page`."""
        return self.iter_query("trade", symbol, start, end, page)

    def iter_query(
        self,
        stream: str,
        symbol: str | None,
        start: type_time = None,
        end: type_time = None,
        page: int = DEFAULT_PAGE,
        timeframe: str | int | None = None,
    ) -> Iterator[Frame]:
        """Records of any stream, as `iter_trades`. `timeout` holds for each page."""
        seconds = None if timeframe is None else parse_timeframe(timeframe)
        return pages(RowPager(self._catalogue, stream, symbol, start, end, page, seconds), self._run)

    def iter_ohlcv_data(
        self,
        symbol: str,
        timeframe: str | int,
        start: type_time,
        end: type_time = None,
        page: int = DEFAULT_PAGE,
        bar_source: BarSource = "best",
    ) -> Iterator[Frame]:
        """Closed bars with start <= time < end (None: now), oldest first, in frames of at most `page`."""
        return pages(BarPager(self._catalogue, symbol, timeframe, start, end, page, bar_source), self._run)

    def subscribe(
        self, kind: str, symbol: str, timeframe: str | int | None = None, since: type_time = None
    ) -> Subscription:
        """Records as they are published: an iterator of frames, without a hole and without a duplicate.

        kind: `trade`, `candle` (with a timeframe; own and venue bars, new versions too), `book`, `imbalance`, `buckets`
        (with a timeframe), `book_delta`, `activity_bar`, `coverage`, `tick` or a declared series.
        since: begin with what is stored from this time on. Close it, or use it in a `with` statement.
        """
        return Subscription(self._requester, self._follow(kind, symbol, timeframe, since), self.timeout)

    def instruments(self) -> list[Instrument]:
        """The daemon's instruments, asked anew."""
        return self._run(requests.instruments(self._catalogue))

    def streams(self) -> dict[str, int]:
        """The names of all streams and the numbers by which the ledger calls them, declared series too; asked anew."""
        return self._run(requests.streams(self._catalogue))

    def health(self) -> HealthReport:
        """What the daemon says of itself: `status` ok, degraded or failed, and the report behind it."""
        return self._run(requests.health(self._catalogue))

    def close(self) -> None:
        """Closes sockets and maps. Harmless when repeated."""
        self._requester.close()
        if self._cache is not None:
            self._cache.close()

    def __enter__(self) -> UnifiedDataProvider:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _give_books(self, find: Found[OrderBookDataFrame]) -> OrderBookDataFrame:
        found = find()
        return found if isinstance(found, OrderBookDataFrame) else self._run(found)

    def _give(self, find: Found[Frame]) -> Frame:
        return self._finish(find())

    def _finish(self, found: Frame | Plan[Frame]) -> Frame:
        return found if isinstance(found, Frame) else self._run(found)

    def _run(self, plan: Plan[T]) -> T:
        return self._requester.run(plan, deadline_after(self.timeout))
