"""`AsyncUnifiedDataProvider`: the asyncio twin of `UnifiedDataProvider`, with the same names, plans and answers.

Reads of shared memory take microseconds and are made where they are asked for, without a turn of the event loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import TypeVar

from marketd.client import requests
from marketd.client.arguments import BarSource, known_ns
from marketd.client.book_calls import BookCalls, Found
from marketd.client.books import OrderBookDataFrame
from marketd.client.calls import Plan, deadline_after
from marketd.client.connection import AsyncRequester
from marketd.client.endpoints import Url
from marketd.client.frames import Frame
from marketd.client.grid import Fill
from marketd.client.latest import latest_ohlcv
from marketd.client.paging import DEFAULT_PAGE, BarPager, RowPager, async_pages
from marketd.client.provider import DEFAULT_TIMEOUT_SECONDS, ProviderBase
from marketd.client.subscription import AsyncSubscription
from marketd.ipc.protocol import HealthReport
from marketd.market.instruments import Instrument
from marketd.market.times import parse_timeframe, type_time

T = TypeVar("T")


class AsyncUnifiedDataProvider(ProviderBase, BookCalls[Awaitable[OrderBookDataFrame], Awaitable[Frame]]):
    """As `UnifiedDataProvider`; every call but `subscribe` and `cache_statistics` is awaited."""

    def __init__(self, url: Url = None, *, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        super().__init__(url, timeout=timeout)
        self._requester = AsyncRequester(self.endpoints)

    async def get_latest_ohlcv(
        self,
        symbol: str,
        timeframe: str | int = "1m",
        limit: int = 1,
        bar_source: BarSource = "best",
        forming: bool = False,
    ) -> Frame:
        """The newest `limit` closed bars, oldest first; see `DataCacheManager.get_latest_ohlcv`."""
        return await self._finish(self._latest_bars(symbol, timeframe, limit, bar_source, forming))

    async def get_latest_trades(self, symbol: str, limit: int = 100) -> Frame:
        """The newest `limit` trades, oldest first."""
        return await self._finish(self._latest_rows("trade", symbol, limit))

    async def get_latest(self, stream: str, symbol: str | None, limit: int = 1) -> Frame:
        """The newest `limit` records of any stream; symbol None: of one that belongs to no instrument."""
        return await self._finish(self._latest_rows(stream, symbol, limit))

    async def query_latest_ohlcv(
        self, symbols: Sequence[str] | None = None, timeframe: str | int = "1m", bar_source: BarSource = "best"
    ) -> dict[str, Frame]:
        """The newest closed bar of all instruments (or of `symbols`), by canonical name, in one request; an instrument
        without a bar is not in it.
        """
        return await self._run(latest_ohlcv(symbols, timeframe, bar_source))

    async def query_ohlcv_data(
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
        """Closed bars with start <= time < end; see `UnifiedDataProvider.query_ohlcv_data`."""
        return await self._run(
            requests.ohlcv(self._catalogue, symbol, timeframe, start, end, limit, bar_source, fill, known_ns(known_at))
        )

    async def query_multi_timeframe_ohlcv(
        self,
        symbol: str,
        timeframes: Sequence[str | int],
        start: type_time = None,
        end: type_time = None,
        limit: int | None = None,
        bar_source: BarSource = "best",
        known_at: type_time = None,
    ) -> dict[str, Frame]:
        """Closed bars of several timeframes, by their names; `limit` counts for each."""
        return await self._run(
            requests.bars(self._catalogue, symbol, timeframes, start, end, limit, bar_source, known_ns(known_at))
        )

    async def query_trades(
        self,
        symbol: str,
        start: type_time = None,
        end: type_time = None,
        limit: int | None = None,
        known_at: type_time = None,
    ) -> Frame:
        """Trades with start <= time < end, the newest `limit`, oldest first."""
        return await self._run(
            requests.rows(self._catalogue, "trade", symbol, start, end, limit, known_at=known_ns(known_at))
        )

    async def query(
        self,
        stream: str,
        symbol: str | None,
        start: type_time = None,
        end: type_time = None,
        limit: int | None = None,
        timeframe: str | int | None = None,
        known_at: type_time = None,
    ) -> Frame:
        """Records of any stream; see `UnifiedDataProvider.query`."""
        return await self._run(self._rows(stream, symbol, start, end, limit, timeframe, known_ns(known_at)))

    def iter_trades(
        self, symbol: str, start: type_time = None, end: type_time = None, page: int = DEFAULT_PAGE
    ) -> AsyncIterator[Frame]:
        """Trades with start <= time < end, oldest first, in frames of at most `page`: `async for frame in …`."""
        return self.iter_query("trade", symbol, start, end, page)

    def iter_query(
        self,
        stream: str,
        symbol: str | None,
        start: type_time = None,
        end: type_time = None,
        page: int = DEFAULT_PAGE,
        timeframe: str | int | None = None,
    ) -> AsyncIterator[Frame]:
        """Records of any stream, as `iter_trades`. `timeout` holds for each page."""
        seconds = None if timeframe is None else parse_timeframe(timeframe)
        return async_pages(RowPager(self._catalogue, stream, symbol, start, end, page, seconds), self._run)

    def iter_ohlcv_data(
        self,
        symbol: str,
        timeframe: str | int,
        start: type_time,
        end: type_time = None,
        page: int = DEFAULT_PAGE,
        bar_source: BarSource = "best",
    ) -> AsyncIterator[Frame]:
        """Closed bars with start <= time < end (None: now), oldest first, in frames of at most `page`."""
        return async_pages(BarPager(self._catalogue, symbol, timeframe, start, end, page, bar_source), self._run)

    def subscribe(
        self, kind: str, symbol: str, timeframe: str | int | None = None, since: type_time = None
    ) -> AsyncSubscription:
        """Records as they are published: `async for frame in …`; see `UnifiedDataProvider.subscribe`."""
        return AsyncSubscription(self._requester, self._follow(kind, symbol, timeframe, since), self.timeout)

    async def instruments(self) -> list[Instrument]:
        """The daemon's instruments, asked anew."""
        return await self._run(requests.instruments(self._catalogue))

    async def streams(self) -> dict[str, int]:
        """The names of all streams and the numbers by which the ledger calls them, declared series too; asked anew."""
        return await self._run(requests.streams(self._catalogue))

    async def health(self) -> HealthReport:
        """What the daemon says of itself: `status` ok, degraded or failed, and the report behind it."""
        return await self._run(requests.health(self._catalogue))

    async def close(self) -> None:
        """Closes sockets and maps. Harmless when repeated."""
        await self._requester.close()
        if self._cache is not None:
            self._cache.close()

    async def __aenter__(self) -> AsyncUnifiedDataProvider:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _give_books(self, find: Found[OrderBookDataFrame]) -> OrderBookDataFrame:
        found = find()
        return found if isinstance(found, OrderBookDataFrame) else await self._run(found)

    async def _give(self, find: Found[Frame]) -> Frame:
        return await self._finish(find())

    async def _finish(self, found: Frame | Plan[Frame]) -> Frame:
        return found if isinstance(found, Frame) else await self._run(found)

    async def _run(self, plan: Plan[T]) -> T:
        return await self._requester.run(plan, deadline_after(self.timeout))
