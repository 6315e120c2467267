"""What an answer needs beside its records: how far the database is, what only shared memory has beyond that, and the
ledger of its stretch. One statement, sent once whoever makes the answer asks for any of it: as a rule behind the rows,
in whose message the transaction begins.
"""

from __future__ import annotations

import time
from collections.abc import MutableMapping, Sequence
from typing import NamedTuple
from uuid import UUID

import numpy as np

from marketd.daemon.ledger import coverage_records
from marketd.daemon.query_servers import Lacking
from marketd.daemon.query_tail import Tail
from marketd.ipc.arena_reader import ArenaReader
from marketd.market.instruments import Instrument
from marketd.market.records import Records
from marketd.market.times import NS_PER_SECOND, require_past
from marketd.sql.read import Span, read_facts, read_line
from marketd.sql.store import Connection

DAY_NS = 86_400 * NS_PER_SECOND


class Unsettled(Exception):
    """Why an answer as of a moment might be another one later."""


class Judged(NamedTuple):
    """Which part of the ledger an answer is judged by."""

    stream: int  # a kind's number
    span: Span  # as far as it is known before the records; its start is a guess where the caller named none


class Live(NamedTuple):
    """What is alive of an instrument: its arena, and the journal that it comes through."""

    arena: ArenaReader | None
    journal: bytes | None


class Facts:
    """Of one instrument, in one picture of the database. `seen`: up to which ts_known each journal was seen stored on
    the primary.
    """

    def __init__(
        self,
        connection: Connection,
        instrument: Instrument,
        live: Live,
        known_at: int | None,
        rings: Sequence[str],
        judged: Judged,
        *,
        is_replica: bool,
        seen: MutableMapping[bytes, int],
    ) -> None:
        self._connection = connection
        self._instrument = instrument
        self._live = live
        self._known_at = known_at
        self._rings = rings
        self._judged = judged
        self._is_replica = is_replica
        self._seen = seen
        self._tail: Tail | None = None
        self._ledger: Records | None = None

    @property
    def come_first(self) -> bool:
        """May they refuse the answer? Then reading its records before would be in vain."""
        if self._is_replica:
            return True
        known_at, journal = self._known_at, self._live.journal
        return known_at is not None and (journal is None or known_at > self._seen.get(journal, 0))

    async def tail(self) -> Tail:
        """Raises InvalidArgument for a moment that is still to come, Unsettled, and of a replica Lacking."""
        if self._tail is None:
            await self._read()
        assert self._tail is not None
        return self._tail

    async def ledger(self, start_ns: int) -> Records:
        """All that the line of the stream is made of from `start_ns` on: what is stored of it, and what is not yet."""
        tail = await self.tail()
        stream, span = self._judged
        if span.start is not None and start_ns < span.start:  # it begins before what was guessed
            self._judged = Judged(stream, span._replace(start=start_ns))
            line = read_line(self._connection, self._instrument.id, *self._judged, known_at=self._known_at)
            self._ledger = coverage_records(await line)
        assert self._ledger is not None
        beyond = tail.ledger()
        return np.concatenate([self._ledger, beyond]) if len(beyond) else self._ledger

    async def _read(self) -> None:
        arena, journal = self._live
        uuid = None if journal is None else UUID(bytes=journal)
        stored, ledger = await read_facts(
            self._connection, self._instrument.id, uuid, *self._judged, known_at=self._known_at
        )
        tail = Tail(arena, stored, self._known_at, self._rings)
        if self._known_at is not None:
            require_past(self._known_at, max(time.time_ns(), tail.clock_ns), field="known_at")
        if self._is_replica and tail.lacks_stored:
            raise Lacking
        if tail.unsettled is not None:
            raise Unsettled(tail.unsettled)
        if journal is not None and stored is not None and not self._is_replica:
            self._seen[journal] = stored.ts_known
        self._ledger = coverage_records(ledger)
        self._tail = tail


def guessed(span: Span, limit: int | None, step_ns: int) -> Span:
    """The stretch that a limited answer without a start will probably speak of: the newest records, a step apart."""
    if span.start is not None or limit is None:
        return span
    end = time.time_ns() if span.end is None else span.end
    return span._replace(start=max(0, end - max(DAY_NS, 2 * limit * step_ns)))
