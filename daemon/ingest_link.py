"""A feed's line to ingest: numbered batches, a bounded window of unanswered ones, resent until they are answered.

A batch keeps its number for life, so that sending it again is safe: ingest answers a repeated number with the first
outcome, also across its own restarts. Batches are taken in order: when one came before its predecessors, which were
on their way to an ingest that died, it is Busy, and all unanswered ones are sent again, oldest first. Whoever sends
faster than ingest answers waits in `send`; that is the back-pressure of a feed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import zmq

from marketd.daemon.halves import halves
from marketd.daemon.link_socket import LinkSocket
from marketd.ipc import protocol, sockets
from marketd.ipc.protocol import Alive, Declare, Declared, Failure, Ingest, Outcome, Part, Recall, Rejection, Resume
from marketd.market.errors import Busy, JournalFull, MarketdError, ProtocolError
from marketd.market.instruments import Instrument
from marketd.market.records import Records

_log = logging.getLogger(__name__)

MAX_BATCH_BYTES = 64 << 10  # of records: a frame of the smallest journal that can be configured holds twice as much
WINDOW = 256  # unanswered batches; as many outcomes as ingest remembers of a producer
RESEND_SECONDS = 1.0
ALIVE_SECONDS = 0.2  # between two signs of life
GO_BACK_SECONDS = 0.05  # between two times of sending everything again: the first makes the answers to the others
FIRST_QUESTION = 1 << 40  # questions are numbered apart: the numbers of batches have no holes
PASSING = frozenset({Busy.code, JournalFull.code})  # the same batch may be taken a little later


class LinkStatistics(NamedTuple):
    batches: int
    records: int
    accepted: int
    refused: int
    resent: int
    unanswered: int
    live_only: int
    dropped: int


class _Pending:
    __slots__ = ("message", "payloads", "records", "sent")

    def __init__(self, message: Ingest, payloads: list[Any], records: int) -> None:
        self.message = message
        self.payloads = payloads
        self.records = records
        self.sent = 0.0


class IngestLink:
    """`open()`, then `declare` and `send`; `flush()` waits for every answer; `close()`."""

    def __init__(self, context: zmq.Context[Any], url: str, *, source: str, live: bool = True, venue: str = "") -> None:
        """`live`: records may be shown although they cannot be stored; else such batches wait. `venue`: whose feed it
        is."""
        self._socket = LinkSocket(context, self._heard, high_water=2 * WINDOW)
        self._url = url
        self._source = source
        self._live = live
        self._venue = venue
        self._producer = os.urandom(16)
        self._numbers = itertools.count(1)
        self._questions = itertools.count(FIRST_QUESTION)
        self._overtaken = asyncio.Event()
        self._decoder = protocol.Decoder(protocol.FromIngest)
        self._pending: OrderedDict[int, _Pending] = OrderedDict()
        self._declares: dict[int, asyncio.Future[Declared]] = {}
        self._answered = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._batches = self._records = self._accepted = self._refused = 0
        self._resent = self._live_only = self._dropped = 0

    def open(self) -> None:
        self._socket.open(self._url)
        self._tasks = [
            asyncio.create_task(self._resend(), name=f"resend for {self._source}"),
            asyncio.create_task(self._live_on(), name=f"signs of life of {self._source}"),
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._socket.close()

    # ---- sending ------------------------------------------------------------------------------

    async def declare(self, instruments: Sequence[Instrument]) -> list[tuple[Instrument, Resume]]:
        """The instruments with their ids, and what ingest has of each; asks until it is answered."""
        return await self._ask(Declare(id=next(self._questions), instruments=list(instruments)))

    async def recall(self, names: Sequence[str]) -> list[tuple[Instrument, Resume]]:
        """The same of those of these names that ingest knows from before."""
        return await self._ask(Recall(id=next(self._questions), names=list(names)))

    async def _ask(self, question: Declare | Recall) -> list[tuple[Instrument, Resume]]:
        number = question.id
        answer = self._declares[number] = asyncio.get_running_loop().create_future()
        try:
            while True:
                await self._socket.send([protocol.encode(question)])
                try:
                    declared = await asyncio.wait_for(asyncio.shield(answer), RESEND_SECONDS)
                except TimeoutError:
                    continue
                return list(zip(declared.instruments, declared.resume, strict=True))
        finally:
            del self._declares[number]

    async def send(
        self,
        instrument: Instrument,
        parts: Sequence[tuple[str, Records]],
        rejected: Sequence[Rejection] = (),
    ) -> None:
        """One batch, or several of a long one (a whole book as its levels), in order. Returns once it is on its way and
        the window has room; the answer is seen to by the link.
        """
        if sum(records.nbytes for _, records in parts) > MAX_BATCH_BYTES:
            for half_parts, half_rejected in halves(parts, rejected):
                await self.send(instrument, half_parts, half_rejected)
            return
        await self._until_fewer_than(WINDOW)
        number = next(self._numbers)
        message = Ingest(
            id=number,
            instrument=instrument.id,
            producer=self._producer,
            batch=number,
            parts=[Part(kind, len(records)) for kind, records in parts],
            source=self._source,
            live=self._live,
            rejected=list(rejected),
        )
        payloads = [np.ascontiguousarray(records).view(np.uint8).data for _, records in parts]
        records = sum(len(each) for _, each in parts)
        self._pending[number] = pending = _Pending(message, payloads, records)
        self._batches += 1
        self._records += records
        await self._transmit(pending)

    async def _transmit(self, pending: _Pending) -> None:
        pending.sent = time.monotonic()
        message = pending.message
        message.oldest = next(iter(self._pending), message.batch)
        await self._socket.send([protocol.encode(message), *pending.payloads])

    async def flush(self) -> None:
        """Wait until every batch has its answer."""
        await self._until_fewer_than(1)

    async def _until_fewer_than(self, count: int) -> None:
        """Unanswered batches."""
        while len(self._pending) >= count:
            self._answered.clear()
            await self._answered.wait()

    # ---- answers ------------------------------------------------------------------------------

    def _heard(self, frames: list[bytes]) -> None:
        try:
            message, _ = sockets.unpack(frames, self._decoder)
        except ProtocolError as error:
            _log.error("ingest's answer cannot be read: %s", error, extra={"action": "link_unreadable"})
            return
        if isinstance(message, Outcome):
            self._on_outcome(message)
        elif isinstance(message, Declared):
            self._settle(message.id, message)
        elif isinstance(message, Failure):
            self._on_failure(message)
        self._answered.set()

    def _settle(self, number: int, result: Declared | MarketdError) -> None:
        waiting = self._declares.get(number)
        if waiting is None or waiting.done():
            return
        if isinstance(result, Declared):
            waiting.set_result(result)
        else:
            waiting.set_exception(result)

    def _on_outcome(self, outcome: Outcome) -> None:
        if self._pending.pop(outcome.batch, None) is None:
            return  # the second answer to a batch that was sent twice
        self._accepted += outcome.accepted
        self._refused += len(outcome.refused)
        self._live_only += 0 if outcome.durable else outcome.accepted

    def _on_failure(self, failure: Failure) -> None:
        if failure.code in PASSING and failure.id in self._pending:
            if failure.code == Busy.code:
                self._overtaken.set()
            return  # it is sent again
        if failure.id in self._declares:
            self._settle(failure.id, MarketdError(failure.message, field=failure.field))
            return
        dropped = self._pending.pop(failure.id, None)
        if dropped is not None:
            self._dropped += dropped.records
            _log.error(
                "ingest refused a batch of %d records: %s",
                dropped.records,
                failure.message,
                extra={"action": "batch_refused", "code": failure.code, "records": dropped.records},
            )

    async def _live_on(self) -> None:
        alive = protocol.encode(Alive(producer=self._producer, pid=os.getpid(), venue=self._venue))
        while self._live:
            self._socket.try_send([alive])  # else ingest is away, or far behind: it has other worries
            await asyncio.sleep(ALIVE_SECONDS)

    async def _resend(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RESEND_SECONDS / 4):
                    await self._overtaken.wait()
            late = time.monotonic() - (0.0 if self._overtaken.is_set() else RESEND_SECONDS)
            self._overtaken.clear()
            for number in [number for number, p in self._pending.items() if p.sent <= late]:
                pending = self._pending.get(number)
                if pending is not None:  # not answered meanwhile
                    self._resent += 1
                    await self._transmit(pending)
            await asyncio.sleep(GO_BACK_SECONDS)

    def statistics(self) -> LinkStatistics:
        return LinkStatistics(
            self._batches,
            self._records,
            self._accepted,
            self._refused,
            self._resent,
            len(self._pending),
            self._live_only,
            self._dropped,
        )
