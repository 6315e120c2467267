"""`DataIngestionPipeline`: the producer. Every call returns what was accepted, and what was refused and why.

    pipeline = DataIngestionPipeline(name="my feed")
    pipeline.declare("XYZUSD.MYVENUE", price_scale=2, size_scale=5)
    result = pipeline.ingest_trade("XYZUSD.MYVENUE", ts, "61837.63", "0.5", "buy", trade_id=17)
    result.accepted, result.refused, result.durable

A call returns once its records are on disk in the daemon's journal. For many small calls, `buffered()` gathers them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import numpy as np

from marketd.client.buffer import Limits, WhenFull
from marketd.client.calls import Call, Plan, ask, deadline_after
from marketd.client.catalogue import Catalogue
from marketd.client.connection import AsyncRequester, Requester
from marketd.client.delivery import Batch, Lanes, deliver, send
from marketd.client.encode import Encoded
from marketd.client.endpoints import Endpoints, Url, locate
from marketd.client.offers import Ingestion, IngestResult, Offer, result_of
from marketd.ipc.protocol import Declare, Declared
from marketd.market.errors import InvalidArgument, MarketdError, UnknownInstrument
from marketd.market.instruments import MAX_SCALE, Instrument
from marketd.market.records import BY_NAME

if TYPE_CHECKING:
    from marketd.client.buffered import AsyncBufferedIngestion, BufferedIngestion

T = TypeVar("T")
DEFAULT_TIMEOUT_SECONDS = 10.0
DEFAULT_QUOTE_SCALE = 8
DEFAULT_NAME = "producer"
_NO_RECORDS = np.empty(0)


class PipelineBase(ABC):
    """What both pipelines are made of."""

    def __init__(
        self,
        url: Url = None,
        *,
        producer: bytes | UUID | None = None,
        first_batch: int = 1,
        name: str = DEFAULT_NAME,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        batch_size: int = 1_000,
        batch_timeout: float = 0.05,
        max_pending: int = 100_000,
        when_full: WhenFull = "wait",
    ) -> None:
        deadline_after(timeout)  # refuses what is no budget
        if not name or len(name) > 64:
            raise InvalidArgument("name: 1 to 64 characters, to be found by in the quarantine", field="name")
        self.endpoints: Endpoints = locate(url)
        self.name = name
        self.timeout = timeout
        self.limits = Limits(batch_size, batch_timeout, max_pending, when_full).checked()
        self._lanes = Lanes(producer, first_batch)
        self._catalogue = self.catalogue = Catalogue()
        self._connect()

    @abstractmethod
    def _connect(self) -> None:
        """Makes the requester; no socket is opened yet."""

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        if self._lanes.given is not None:
            raise TypeError("a pipeline with a producer id belongs to one process and is not copied")
        url = str(self.endpoints.directory or self.endpoints.query)
        return _rebuild, (type(self), url, self.name, self.timeout, tuple(self.limits))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} to {self.endpoints.directory or self.endpoints.query}>"

    def _sending(self, plan: Plan[Offer]) -> Plan[IngestResult]:
        """Plan: an offer made and delivered."""
        offer = yield from plan
        return (yield from self.delivering(offer))

    def delivering(self, offer: Offer) -> Plan[IngestResult]:
        """Plan: an offer delivered under this producer's name."""
        try:
            return (yield from deliver(self._lanes, offer, self.name))
        except UnknownInstrument:
            with suppress(MarketdError):  # a finer precision, perhaps: the next rows are written in its scales
                yield from self._catalogue.describe(fresh=True)
            raise

    def _retrying(self, batch: Batch) -> Plan[IngestResult]:
        outcome = yield from send(batch, in_doubt=True)
        return result_of(Encoded(_NO_RECORDS, None, ()), [(0, outcome)])

    def _declaring(self, instruments: list[Instrument]) -> Plan[list[Instrument]]:
        declared, _ = yield from ask(Call("ingest", Declare(instruments=instruments)), Declared)
        self._catalogue.declared(declared.instruments)
        return declared.instruments


def _rebuild(kind: type[Any], url: str, name: str, timeout: float, limits: tuple[Any, ...]) -> Any:
    size, seconds, pending, when_full = limits
    return kind(
        url,
        name=name,
        timeout=timeout,
        batch_size=size,
        batch_timeout=seconds,
        max_pending=pending,
        when_full=when_full,
    )


def instrument_to_declare(
    name: str,
    *,
    price_scale: int,
    size_scale: int,
    quote_scale: int | None = None,
    base: str = "",
    quote: str = "",
    market: str = "spot",
    tick_size: int = 1,
    step_size: int = 1,
) -> Instrument:
    """An instrument before it has an id; `name` is SYMBOL.VENUE. InvalidArgument for what cannot be one."""
    symbol, _, venue = name.rpartition(".")
    record = BY_NAME["instrument"].dtype
    if not symbol or len(symbol.encode()) > record["symbol"].itemsize or len(venue.encode()) > record["venue"].itemsize:
        raise InvalidArgument(f"symbol: {name!r} is no SYMBOL.VENUE such as 'BTCUSDT.BINANCE'", field="symbol")
    quote_scale = min(price_scale + size_scale, DEFAULT_QUOTE_SCALE) if quote_scale is None else quote_scale
    for field, scale in (("price_scale", price_scale), ("size_scale", size_scale), ("quote_scale", quote_scale)):
        if not 0 <= scale <= MAX_SCALE:
            raise InvalidArgument(f"{field}: {scale} decimal places; 0 to {MAX_SCALE} can be kept", field=field)
    return Instrument(
        id=0,
        symbol=symbol,
        venue=venue,
        price_scale=price_scale,
        size_scale=size_scale,
        quote_scale=quote_scale,
        base=base,
        quote=quote,
        market=market,
        tick_size=tick_size,
        step_size=step_size,
    )


class DataIngestionPipeline(PipelineBase, Ingestion[IngestResult]):
    """Sends market data to the daemon and waits for it to be on disk. Thread-safe, fork-safe, picklable.

    url: as of `UnifiedDataProvider`. name: who made the data; it stands in the quarantine beside what was refused.
    timeout: seconds that each call may take; after it `Unconfirmed` bears the batch, for `retry`.
    producer, first_batch: for a producer that numbers its batches over restarts of its own: a repeated number gets
    its first answer. Without them each pipeline has ids of its own, and retries only within it are recognised.
    batch_size, batch_timeout, max_pending, when_full: of `buffered()`.
    """

    def _connect(self) -> None:
        self._requester = Requester(self.endpoints)

    def _take(self, plan: Plan[Offer]) -> IngestResult:
        return self.run(self._sending(plan))

    def retry(self, batch: Batch) -> IngestResult:
        """Sends a batch that stayed unconfirmed again, under its number: it is stored once whatever happened.

        Indexes of refusals count within the batch. Raises Unconfirmed, with the same batch, while no answer comes.
        """
        return self.run(self._retrying(batch))

    def declare(self, name: str, **properties: Any) -> Instrument:
        """Makes an instrument known: `declare("XYZUSD.MYVENUE", price_scale=2, size_scale=5)`.

        Returns it with its id; the other properties are those of `instrument_to_declare`. An instrument that is there
        already must have the same scales.
        """
        return self.run(self._declaring([instrument_to_declare(name, **properties)]))[0]

    def buffered(self) -> BufferedIngestion:
        """The same calls without the wait: they return futures, and a thread sends what was gathered."""
        from marketd.client.buffered import BufferedIngestion

        return BufferedIngestion(self)

    def run(self, plan: Plan[T]) -> T:
        """Drives a plan within this pipeline's timeout."""
        return self._requester.run(plan, deadline_after(self.timeout))

    def close(self) -> None:
        """Closes the sockets. Harmless when repeated."""
        self._requester.close()

    def __enter__(self) -> DataIngestionPipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncDataIngestionPipeline(PipelineBase, Ingestion[Awaitable[IngestResult]]):
    """The asyncio twin of `DataIngestionPipeline`: the same calls, to be awaited."""

    def _connect(self) -> None:
        self._requester = AsyncRequester(self.endpoints)

    def _take(self, plan: Plan[Offer]) -> Coroutine[Any, Any, IngestResult]:
        return self.run(self._sending(plan))

    async def retry(self, batch: Batch) -> IngestResult:
        """As `DataIngestionPipeline.retry`."""
        return await self.run(self._retrying(batch))

    async def declare(self, name: str, **properties: Any) -> Instrument:
        """As `DataIngestionPipeline.declare`."""
        return (await self.run(self._declaring([instrument_to_declare(name, **properties)])))[0]

    def buffered(self) -> AsyncBufferedIngestion:
        """The same calls without the wait for the disk: awaiting one gives a future, a task sends what was gathered."""
        from marketd.client.buffered import AsyncBufferedIngestion

        return AsyncBufferedIngestion(self)

    async def run(self, plan: Plan[T]) -> T:
        """Drives a plan within this pipeline's timeout."""
        return await self._requester.run(plan, deadline_after(self.timeout))

    async def close(self) -> None:
        """Closes the sockets. Harmless when repeated."""
        await self._requester.close()

    async def __aenter__(self) -> AsyncDataIngestionPipeline:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
