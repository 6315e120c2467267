"""Producers that gather: `BufferedIngestion` (a thread sends) and `AsyncBufferedIngestion` (a task sends).

    with pipeline.buffered() as buffer:
        future = buffer.ingest_trade("BTC/USDT", ts, "61837.63", "0.5", "buy", trade_id=17)
        …
        buffer.flush()                # everything so far is answered
        future.result().accepted

Rows of one instrument and kind keep their order. A batch that fails fails the futures of its calls, is counted in
`statistics().failed`, and is logged; nothing is dropped in silence. Batches that stayed unconfirmed can be
sent again with the pipeline's `retry(error.batch)`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Awaitable, Coroutine
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any

from marketd.client.buffer import Buffer, BufferStatistics, Pile
from marketd.client.calls import Plan, deadline_after
from marketd.client.offers import Ingestion, IngestResult, Offer
from marketd.market.errors import Busy, MarketdError, Timeout

if TYPE_CHECKING:
    from marketd.client.pipeline import AsyncDataIngestionPipeline, DataIngestionPipeline

log = logging.getLogger("marketd.client")
_IDLE_SECONDS = 3600.0  # with nothing to send, the sender wakes only when it is told


def _log_failure(pile: Pile[Any], error: BaseException) -> None:
    log.error(
        "%d rows of %s for %s were not confirmed: %s",
        pile.rows,
        pile.kind.name,
        pile.instrument.name,
        error,
        extra={"action": "ingest_failed", "instrument": pile.instrument.name, "rows": pile.rows},
    )


def _full(buffer: Buffer[Any], waited: float) -> Busy:
    limit = buffer.limits.max_pending
    return Busy(
        f"{buffer.pending} rows are pending and max_pending is {limit} (waited {waited:.3g} s): the daemon takes them "
        "more slowly than they come"
    )


class BufferedIngestion(Ingestion[Future[IngestResult]]):
    """The calls of a producer, answered with futures. Thread-safe; belongs to the process that made it."""

    def __init__(self, pipeline: DataIngestionPipeline) -> None:
        self._pipeline = pipeline
        self._catalogue = pipeline.catalogue
        self._buffer: Buffer[Future[IngestResult]] = Buffer(pipeline.limits)
        self._changed = threading.Condition()
        self._flushing = 0
        self._closed = False
        self._pid = os.getpid()
        self._sender = threading.Thread(target=self._run, name=f"marketd-{pipeline.name}", daemon=True)
        self._sender.start()

    def __repr__(self) -> str:
        return f"<BufferedIngestion of {self._pipeline!r}: {self._buffer.pending} pending>"

    def _take(self, plan: Plan[Offer]) -> Future[IngestResult]:
        if self._pid != os.getpid():  # before the lock, which a fork may have left locked
            raise MarketdError("this buffer belongs to the parent process; make another one here")
        offer = self._pipeline.run(plan)
        future: Future[IngestResult] = Future()
        rows = len(offer.encoded.records)
        if not rows and not offer.encoded.rejected:
            future.set_result(IngestResult(0, offer.encoded.refused))
            return future
        started = time.monotonic()
        with self._changed:
            self._wait_for_room(rows, started)
            self._buffer.add(offer, future, time.monotonic())
            self._changed.notify_all()
        return future

    def _wait_for_room(self, rows: int, started: float) -> None:
        allowed = self._pipeline.timeout if self._buffer.limits.when_full == "wait" else 0.0
        while True:
            if self._closed:
                raise MarketdError("this buffer was closed; make another one")
            if self._buffer.has_room(rows):
                return
            left = started + allowed - time.monotonic()
            if left <= 0:
                raise _full(self._buffer, time.monotonic() - started)
            self._changed.wait(left)

    def flush(self, timeout: float | None = None) -> BufferStatistics:
        """Sends what was gathered and waits until all of it is answered; Timeout says how much is not."""
        seconds = self._pipeline.timeout if timeout is None else timeout
        deadline_after(seconds)  # refuses what is no budget
        with self._changed:
            futures = self._buffer.outstanding()
            self._flushing += 1
            self._changed.notify_all()
        _, open_ones = wait(futures, seconds)
        with self._changed:
            self._flushing -= 1
            statistics = self._buffer.statistics()
        if open_ones:
            raise Timeout(f"flush: {len(open_ones)} calls are not answered yet; their rows stay on their way")
        return statistics

    def statistics(self) -> BufferStatistics:
        with self._changed:
            return self._buffer.statistics()

    def close(self, timeout: float | None = None) -> BufferStatistics:
        """Takes no more, flushes, ends the thread. Timeout says how many rows are not answered in time."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._sender.join(self._pipeline.timeout if timeout is None else timeout)
        statistics = self.statistics()
        if self._sender.is_alive():
            raise Timeout(f"close: {statistics.pending} rows are not answered yet; the thread goes on with them")
        return statistics

    def __enter__(self) -> BufferedIngestion:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                piles = self._next_piles()
            if piles is None:
                return
            for pile in piles:
                self._send(pile)

    def _next_piles(self) -> list[Pile[Future[IngestResult]]] | None:
        """Waits for piles to be due; None when closed and empty. Under the lock."""
        while True:
            everything = self._closed or self._flushing > 0
            piles = self._buffer.take_due(time.monotonic(), everything=everything)
            if piles:
                return piles
            if self._closed:
                return None
            due = self._buffer.next_due()
            self._changed.wait(_IDLE_SECONDS if due is None else max(0.0, due - time.monotonic()))

    def _send(self, pile: Pile[Future[IngestResult]]) -> None:
        try:
            whole = self._pipeline.run(self._pipeline.delivering(pile.offer()))
        except Exception as error:  # the border of the thread: whatever it is, the futures must hear of it
            _log_failure(pile, error)
            with self._changed:
                self._buffer.failed(pile)
                self._changed.notify_all()
            for item in pile.items:
                if item.future.set_running_or_notify_cancel():
                    item.future.set_exception(error)
            return
        with self._changed:  # before the futures: who waits for them finds them counted
            self._buffer.settled(pile, whole)
            self._changed.notify_all()
        for future, result in pile.results(whole):
            if future.set_running_or_notify_cancel():  # its caller may have cancelled it
                future.set_result(result)


class AsyncBufferedIngestion(Ingestion[Awaitable[asyncio.Future[IngestResult]]]):
    """The calls of a producer; awaiting one waits for room and gives a future of its result. For one event loop."""

    def __init__(self, pipeline: AsyncDataIngestionPipeline) -> None:
        self._pipeline = pipeline
        self._catalogue = pipeline.catalogue
        self._buffer: Buffer[asyncio.Future[IngestResult]] = Buffer(pipeline.limits)
        self._changed = asyncio.Condition()
        self._flushing = 0
        self._closed = False
        self._sender: asyncio.Task[None] | None = None
        self._taken: deque[Pile[asyncio.Future[IngestResult]]] = deque()  # due, not yet sent

    def __repr__(self) -> str:
        return f"<AsyncBufferedIngestion of {self._pipeline!r}: {self._buffer.pending} pending>"

    def _take(self, plan: Plan[Offer]) -> Coroutine[Any, Any, asyncio.Future[IngestResult]]:
        return self._gather(plan)

    async def _gather(self, plan: Plan[Offer]) -> asyncio.Future[IngestResult]:
        offer = await self._pipeline.run(plan)
        future: asyncio.Future[IngestResult] = asyncio.get_running_loop().create_future()
        rows = len(offer.encoded.records)
        if not rows and not offer.encoded.rejected:
            future.set_result(IngestResult(0, offer.encoded.refused))
            return future
        async with self._changed:
            await self._wait_for_room(rows)
            if self._sender is None:
                self._sender = asyncio.create_task(self._run(), name=f"marketd-{self._pipeline.name}")
            self._buffer.add(offer, future, time.monotonic())
            self._changed.notify_all()
        return future

    async def _wait_for_room(self, rows: int) -> None:
        started = time.monotonic()
        allowed = self._pipeline.timeout if self._buffer.limits.when_full == "wait" else 0.0
        try:
            async with asyncio.timeout(allowed):
                await self._changed.wait_for(lambda: self._closed or self._buffer.has_room(rows))
        except TimeoutError:
            raise _full(self._buffer, time.monotonic() - started) from None
        if self._closed:
            raise MarketdError("this buffer was closed; make another one")

    async def flush(self, timeout: float | None = None) -> BufferStatistics:
        """Sends what was gathered and waits until all of it is answered; Timeout says how much is not."""
        seconds = self._pipeline.timeout if timeout is None else timeout
        deadline_after(seconds)  # refuses what is no budget
        futures = self._buffer.outstanding()
        if not futures:
            return self._buffer.statistics()
        self._flushing += 1
        await self._tell()
        try:
            _, open_ones = await asyncio.wait(futures, timeout=seconds)
        finally:
            self._flushing -= 1
        if open_ones:
            raise Timeout(f"flush: {len(open_ones)} calls are not answered yet; their rows stay on their way")
        return self._buffer.statistics()

    def statistics(self) -> BufferStatistics:
        return self._buffer.statistics()

    async def close(self, timeout: float | None = None) -> BufferStatistics:
        """Takes no more, flushes, ends the task. Rows not answered in time fail, and Timeout says how many."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._sender is not None:
            _, late = await asyncio.wait({self._sender}, timeout=timeout or self._pipeline.timeout)
            if late:
                await self._abandon(self._sender)
        return self._buffer.statistics()

    async def _abandon(self, sender: asyncio.Task[None]) -> None:
        left = self._buffer.pending
        sender.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sender
        error = Timeout(f"close: {left} rows were not answered in time")
        for pile in (*self._taken, *self._buffer.take_due(time.monotonic(), everything=True)):
            self._fail(pile, error)
        raise error

    async def __aenter__(self) -> AsyncBufferedIngestion:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ---- the task -------------------------------------------------------------------------------

    async def _run(self) -> None:
        while piles := await self._next_piles():
            self._taken.extend(piles)
            while self._taken:
                await self._send(self._taken.popleft())

    async def _next_piles(self) -> list[Pile[asyncio.Future[IngestResult]]]:
        """Waits for piles to be due; none when closed and empty."""
        async with self._changed:
            while True:
                everything = self._closed or self._flushing > 0
                piles = self._buffer.take_due(time.monotonic(), everything=everything)
                if piles or self._closed:
                    return piles
                due = self._buffer.next_due()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if due is None else max(0.0, due - time.monotonic())):
                        await self._changed.wait()

    async def _send(self, pile: Pile[asyncio.Future[IngestResult]]) -> None:
        try:
            whole = await self._pipeline.run(self._pipeline.delivering(pile.offer()))
        except asyncio.CancelledError:
            # a future that bears a cancellation would look cancelled by its own caller
            self._fail(pile, Timeout("the buffer was closed before the answer came"))
            raise
        except Exception as error:  # the border of the task: whatever it is, the futures must hear of it
            self._fail(pile, error)
        else:
            self._buffer.settled(pile, whole)
            for future, result in pile.results(whole):
                if not future.done():  # its caller may have cancelled it
                    future.set_result(result)
        await self._tell()

    def _fail(self, pile: Pile[asyncio.Future[IngestResult]], error: Exception) -> None:
        _log_failure(pile, error)
        self._buffer.failed(pile)
        for item in pile.items:
            if not item.future.done():
                item.future.set_exception(error)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()
