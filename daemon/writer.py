"""The writer: a consumer of the journal that commits it to PostgreSQL. Its start is its recovery.

It asks the database how far the journal is committed, reads on from there up to what is durable, and commits rows
and the new offset in one transaction. Whatever happens to any process, the next start goes on at the offset that
the database has.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple
from uuid import UUID

import asyncpg

from marketd.daemon.journal_rows import commit_of
from marketd.daemon.pieces import MAX_PIECES, pieces_of
from marketd.ipc.journal_errors import JournalMismatch
from marketd.ipc.journal_reader import JournalReader
from marketd.market.records import KindTable
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.partitions import PartitionKeeper
from marketd.sql.retry import RetryableDBOperation
from marketd.sql.store import Commit, commit, read_committed

_log = logging.getLogger(__name__)

# no partition for a row; or the partition itself went while its row was on the way
_PIECE_IS_GONE = (asyncpg.CheckViolationError, asyncpg.UndefinedTableError)
_WAITED_FOR_A_LOCK = frozenset({"55P03"})  # a killed writer's transaction may still hold the journal's row
PATIENCE_SECONDS = 30 * 86_400.0  # a database that is away is waited for; the journal holds the records meanwhile


class WriterStatistics(NamedTuple):
    committed_offset: int
    durable_offset: int
    lag_bytes: int
    transactions: int
    rows: int
    last_commit_seconds: float
    last_commit_monotonic_ns: int


class Writer:
    """Follows one journal. `durable` is told by ingest (`on_durable`); `committed` is called after each transaction."""

    def __init__(
        self,
        database: DatabaseConnectionManager,
        reader: JournalReader,
        kinds: KindTable,
        *,
        lane: str,
        batch_bytes: int,
        batch_age_seconds: float,
        committed: Callable[[int], Awaitable[None]],
    ) -> None:
        self._database = database
        self._reader = reader
        self._journal = UUID(bytes=reader.uuid)
        self._kinds = kinds
        self._lane = lane
        self._batch_bytes = batch_bytes
        self._batch_age_seconds = batch_age_seconds
        self._committed = committed
        self._durable = 0
        self._more = asyncio.Event()
        self._offset = 0
        self._transactions = self._rows = 0
        self._last_seconds = 0.0
        self._last_at = time.monotonic_ns()

    def set_batch(self, batch_bytes: int, batch_age_seconds: float) -> None:
        """From now on transactions of about so many bytes of journal, and so long a wait for company."""
        self._batch_bytes = batch_bytes
        self._batch_age_seconds = batch_age_seconds

    def on_durable(self, offset: int) -> None:
        """The journal is on disk up to `offset`: that much may be committed."""
        if offset > self._durable:
            self._durable = offset
            self._more.set()

    @property
    def offset(self) -> int:
        return self._offset

    async def start(self) -> int:
        """Find out how far the database is; the offset to go on from."""

        async def read() -> int | None:
            async with self._database.acquire() as connection:
                return await read_committed(connection, self._journal)

        known = await RetryableDBOperation("read the committed offset", budget_seconds=PATIENCE_SECONDS).run(read)
        oldest = self._reader.oldest
        if known is None and oldest > 0:
            raise JournalMismatch(
                f"the database does not know the journal {self._reader.uuid.hex()}, whose records before {oldest} are "
                "gone: point database.url at the database that has them, or move the journal away "
                "(marketd journal list)"
            )
        self._offset = oldest if known is None else known
        self._reader.read(self._offset, max_bytes=1)  # refuses by name an offset that the journal does not have
        self._partitions = PartitionKeeper(await self._database.profile())
        _log.info(
            "the database has the %s journal up to offset %d",
            self._lane,
            self._offset,
            extra={"action": "writer_start", "offset": self._offset},
        )
        return self._offset

    async def run(self) -> None:
        """Commit whatever becomes durable, until cancelled."""
        await self._more.wait()
        self._check_end()
        while True:
            await self._more.wait()
            self._more.clear()
            while self._offset < self._durable:
                await self.step()
                if self._durable - self._offset < self._batch_bytes:
                    # a little company makes transactions larger, and the database's work less
                    await asyncio.sleep(self._batch_age_seconds)

    async def drain(self) -> None:
        """Commit all that is durable now."""
        self._check_end()
        while self._offset < self._durable:
            await self.step()

    def _check_end(self) -> None:
        """The database cannot have more of a journal than there is; waiting for the rest would be waiting for ever."""
        if 0 < self._durable < self._offset:
            raise JournalMismatch(
                f"the database has the journal {self._reader.uuid.hex()} up to offset {self._offset}, and it ends at "
                f"{self._durable}: it is a copy of an earlier time; move it away (marketd journal list)"
            )

    async def step(self) -> None:
        """One transaction."""
        work = await asyncio.to_thread(self._read)
        if work is None:
            return
        started = time.monotonic()

        async def write() -> int:
            async with self._database.acquire() as connection:
                try:
                    return await commit(connection, work, self._partitions)
                except _PIECE_IS_GONE as error:
                    _log.warning(
                        "a piece of a table was dropped behind our back (%s): looking again which there are",
                        error,
                        extra={"action": "pieces_forgotten"},
                    )
                    self._partitions.forget()
                    return await commit(connection, work, self._partitions)

        retry = RetryableDBOperation("commit journal rows", budget_seconds=PATIENCE_SECONDS, also=_WAITED_FOR_A_LOCK)
        self._offset = await retry.run(write)
        if self._offset != work.offset:
            _log.warning(
                "the database has the journal up to %d, and not up to %d as was thought: going on from there",
                self._offset,
                work.start,
                extra={"action": "writer_moved", "offset": self._offset},
            )
            return
        self._transactions += 1
        self._rows += sum(len(rows.records) for rows in work.rows)
        self._last_seconds = time.monotonic() - started
        self._last_at = time.monotonic_ns()
        await self._committed(self._offset)

    def _read(self) -> Commit | None:
        frames = self._reader.read(self._offset, self._durable, self._batch_bytes)
        if not frames:
            return None
        work = commit_of(frames, self._kinds, self._journal, self._lane)
        while len(frames) > 1 and pieces_of(work.rows) > MAX_PIECES:
            # scattered over years: a transaction of so many tables would find no room for its locks
            frames = frames[: len(frames) // 2]
            work = commit_of(frames, self._kinds, self._journal, self._lane)
        return work

    def statistics(self) -> WriterStatistics:
        return WriterStatistics(
            committed_offset=self._offset,
            durable_offset=self._durable,
            lag_bytes=max(0, self._durable - self._offset),
            transactions=self._transactions,
            rows=self._rows,
            last_commit_seconds=self._last_seconds,
            last_commit_monotonic_ns=self._last_at,
        )
