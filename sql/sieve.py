"""Storing what PostgreSQL takes of a frame, and keeping what it refuses, with its reason, in the quarantine.

PostgreSQL can refuse a record that every rule of ours let through: a DBA's CHECK, a trigger that raises, a domain, a
text that it cannot hold. One such record fails the transaction of all its neighbours. Here it is found by halving:
what fails as a whole is tried in two halves, each under a savepoint, down to single records. All of it, the quarantine
and the journal's offset are one transaction, so that a record is stored or in quarantine, and once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

from marketd.market.records import BY_NAME, Kind, Records
from marketd.sql.errors import QuarantineRefuses
from marketd.sql.partitions import PartitionKeeper
from marketd.sql.retry import DRIVER_ERRORS
from marketd.sql.store import (
    Commit,
    Connection,
    Ids,
    StoredQuarantine,
    TableRows,
    claim,
    ensure_pieces,
    meeting_blocks,
    note_late_seconds,
    read_committed,
    write_coverage,
    write_instruments,
    write_quarantine,
    write_rows,
)
from marketd.sql.troubles import is_about_records, said_by, sqlstate_of

RULE = "refused_by_database"
SOURCE = "journal"
FIRST_ITEM = 1 << 29  # apart from the items of a frame's own quarantine, and from those of undeclared streams
_INSTRUMENT, _COVERAGE = BY_NAME["instrument"], BY_NAME["coverage"]

type_write = Callable[[Ids, Records], Awaitable[None]]


class Sifted(NamedTuple):
    """How far the database is now, and what was put aside."""

    offset: int
    refused: list[StoredQuarantine]


async def commit_sifted(connection: Connection, work: Commit, partitions: PartitionKeeper) -> Sifted:
    """As `store.commit`, of one frame, but for the records that PostgreSQL refuses.

    Raises what is not about records; QuarantineRefuses when there is no place for one that was refused.
    """
    await ensure_pieces(connection, work, partitions)
    sieve = _Sieve(connection, work)
    async with connection.transaction():
        if not await claim(connection, work):
            return Sifted(await read_committed(connection, work.journal) or 0, [])
        # a deferred constraint would speak at the end, of no record in particular
        await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        await sieve.store(partitions)
        await _keep(connection, work, sieve.refused)
    return Sifted(work.offset, sieve.refused)


async def _keep(connection: Connection, work: Commit, refused: list[StoredQuarantine]) -> None:
    try:
        await write_quarantine(connection, work.journal, [*work.quarantine, *refused])
    except DRIVER_ERRORS as error:
        if is_about_records(error):
            raise QuarantineRefuses(f"the table quarantine refuses a row: {said_by(error)}") from error
        raise


class _Sieve:
    def __init__(self, connection: Connection, work: Commit) -> None:
        self._connection = connection
        self._work = work
        self.refused: list[StoredQuarantine] = []

    async def store(self, partitions: PartitionKeeper) -> None:
        """Everything but the quarantine, in the order of `store.commit`."""
        work = self._work
        if work.instruments is not None:
            await self._sift(_INSTRUMENT, work.instruments["instrument"], work.instruments, self._write_instruments)
        for ids, records in work.coverage:
            await self._sift(_COVERAGE, ids, records, partial(write_coverage, self._connection))
        for rows in await meeting_blocks(self._connection, work, partitions):
            await self._sift(rows.kind, rows.instruments, rows.records, partial(self._write_rows, rows))
        await note_late_seconds(self._connection, work, partitions)

    async def _write_instruments(self, _: Ids, records: Records) -> None:
        await write_instruments(self._connection, records)

    async def _write_rows(self, rows: TableRows, ids: Ids, records: Records) -> None:
        await write_rows(self._connection, rows._replace(instruments=ids, records=records))

    async def _sift(self, kind: Kind, ids: Ids, records: Records, write: type_write) -> None:
        """Write all that is taken. Of what fails the first half is tried first, as versions of a bar follow each
        other."""
        rest = [(0, len(records))]
        while rest:
            start, stop = rest.pop()
            try:
                async with self._connection.transaction():
                    await write(ids[start:stop], records[start:stop])
            except DRIVER_ERRORS as error:
                if not is_about_records(error):
                    raise
                if stop - start > 1:
                    middle = (start + stop) // 2
                    rest += [(middle, stop), (start, middle)]
                else:
                    self._refuse(kind, int(ids[start]), records[start:stop], error)

    def _refuse(self, kind: Kind, instrument: int, record: Records, error: BaseException) -> None:
        self.refused.append(
            StoredQuarantine(
                instrument=instrument,
                ts_known=int(record["ts_known"][0]),
                offset=self._work.start,
                item=FIRST_ITEM + len(self.refused),
                kind=kind.name,
                rule=RULE,
                detail=f"SQLSTATE {sqlstate_of(error) or 'unknown'}: {said_by(error)}",
                source=SOURCE,
                payload=record.tobytes(),
            )
        )
