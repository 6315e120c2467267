"""What an answer needs beside its records: how far the database is, what only shared memory has beyond that, and the
ledger. One statement, sent once whoever makes the answer asks for any of it: as a rule behind the rows, in whose
message the transaction begins.
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
from marketd.market.times import require_past
from marketd.sql.read import read_facts
from marketd.sql.store import Connection


class Unsettled(Exception):
    """Why an answer as of a moment might be another one later."""


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
        *,
        is_replica: bool,
        seen: MutableMapping[bytes, int],
    ) -> None:
        self._connection = connection
        self._instrument = instrument
        self._live = live
        self._known_at = known_at
        self._rings = rings
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

    async def ledger(self) -> Records:
        """What is stored of it, and what is not yet."""
        tail = await self.tail()
        assert self._ledger is not None
        return np.concatenate([self._ledger, tail.ledger()])

    async def _read(self) -> None:
        arena, journal = self._live
        uuid = None if journal is None else UUID(bytes=journal)
        stored, ledger = await read_facts(self._connection, self._instrument.id, uuid, self._known_at)
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
