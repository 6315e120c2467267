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

from marketd.daemon import metrics
from marketd.daemon.journal_rows import commit_of
from marketd.daemon.pieces import MAX_PIECES, pieces_of
from marketd.daemon.verdict import SLOW_SECONDS
from marketd.ipc.journal_errors import JournalMismatch
from marketd.ipc.journal_reader import JournalReader
from marketd.market.records import KindTable
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.lag import LagMeter
from marketd.sql.partitions import PartitionKeeper
from marketd.sql.retry import DRIVER_ERRORS, RetryableDBOperation, can_be_waited_for
from marketd.sql.sieve import Sifted, commit_sifted
from marketd.sql.store import Commit, Connection, commit, read_committed
from marketd.sql.troubles import Trouble, is_about_records, is_missing_piece

_log = logging.getLogger(__name__)
_WAITS = metrics.gauge("writer_waits", "1 while the writer waits for this trouble of the database to end", ["trouble"])

_MARK_SECONDS = 0.1  # how often is noted how far the journal was
PATIENCE_SECONDS = 30 * 86_400.0  # a database that is away is waited for; the journal holds the records meanwhile


class WriterStatistics(NamedTuple):
    committed_offset: int
    durable_offset: int
    lag_bytes: int
    lag_seconds: float  # how long ago the journal ended where the database is now
    transactions: int
    rows: int
    refused: int  # records that PostgreSQL refused, now in quarantine
    last_commit_seconds: float
    last_commit_monotonic_ns: int
    running_seconds: float  # of the transaction under way, with all its tries; 0 between them
    trouble: str  # what it waits for, and the way out; "" while all is well


class _Batch(NamedTuple):
    """What one transaction is to write."""

    work: Commit
    frames: int
    suspected: bool  # PostgreSQL refused records of it before


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
        self._suspects_end = 0  # between the offset and here lies a record that PostgreSQL refused
        self._transactions = self._rows = self._refused = 0
        self._last_seconds = 0.0
        self._last_at = time.monotonic_ns()
        self._began = 0.0
        self._lag = LagMeter(apart=_MARK_SECONDS)
        self._lag.mark(time.monotonic(), 0)
        self._is_slow = False
        self._retry = self._patiently("read the committed offset")

    def set_batch(self, batch_bytes: int, batch_age_seconds: float) -> None:
        """From now on transactions of about so many bytes of journal, and so long a wait for company."""
        self._batch_bytes = batch_bytes
        self._batch_age_seconds = batch_age_seconds

    def on_durable(self, offset: int) -> None:
        """The journal is on disk up to `offset`: that much may be committed."""
        if offset > self._durable:
            self._durable = offset
            now = time.monotonic()
            self._lag.lag(now, self._offset)
            self._lag.mark(now, offset)
            self._more.set()

    @property
    def offset(self) -> int:
        return self._offset

    async def start(self) -> int:
        """Find out how far the database is; the offset to go on from."""

        async def read() -> int | None:
            async with self._database.acquire() as connection:
                return await read_committed(connection, self._journal)

        known = await self._retry.run(read)
        oldest = self._reader.oldest
        if known is None and oldest > 0:
            raise JournalMismatch(
                f"the database does not know the journal {self._reader.uuid.hex()}, whose records before {oldest} are "
                "gone: point database.url at the database that has them, or move the journal away "
                "(marketd journal list)"
            )
        self._offset = oldest if known is None else known
        self._reader.read(self._offset, max_bytes=1)  # refuses by name an offset that the journal does not have
        self._partitions = PartitionKeeper(await self._retry.run(self._database.profile))
        self._retry = self._patiently("commit journal rows")
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
        """One transaction; or, when PostgreSQL refuses a record of it, one step of the search for that record."""
        batch = await asyncio.to_thread(self._read)
        if batch is None:
            return
        started = self._began = time.monotonic()
        try:
            sifted = await self._retry.run(lambda: self._write(batch))
        except DRIVER_ERRORS as error:
            if not is_about_records(error):
                raise
            self._suspect(batch, error)
            return
        finally:
            self._began = 0.0
        await self._note(batch, sifted, time.monotonic() - started)

    async def _write(self, batch: _Batch) -> Sifted:
        async with self._database.acquire() as connection:
            try:
                return await self._commit(connection, batch)
            except DRIVER_ERRORS as error:
                if not is_missing_piece(error):
                    raise
                _log.warning(
                    "a piece of a table was dropped behind our back (%s): looking again which there are",
                    error,
                    extra={"action": "pieces_forgotten"},
                )
                self._partitions.forget()
                return await self._commit(connection, batch)

    async def _commit(self, connection: Connection, batch: _Batch) -> Sifted:
        if batch.suspected and batch.frames == 1:
            return await commit_sifted(connection, batch.work, self._partitions)
        return Sifted(await commit(connection, batch.work, self._partitions), [])

    def _suspect(self, batch: _Batch, error: BaseException) -> None:
        """The next step takes half of these frames; a single one is sifted record by record."""
        self._suspects_end = batch.work.offset
        _log.warning(
            "PostgreSQL refuses a record between offsets %d and %d of the journal, which is looked for: %s",
            batch.work.start,
            batch.work.offset,
            error,
            extra={"action": "record_suspected", "offset": batch.work.start, "frames": batch.frames},
        )

    async def _note(self, batch: _Batch, sifted: Sifted, seconds: float) -> None:
        work = batch.work
        self._offset = sifted.offset
        if sifted.offset != work.offset:
            _log.warning(
                "the database has the journal up to %d, and not up to %d as was thought: going on from there",
                self._offset,
                work.start,
                extra={"action": "writer_moved", "offset": self._offset},
            )
            return
        if batch.suspected and (batch.frames == 1 or self._offset >= self._suspects_end):
            self._suspects_end = 0
        self._note_refused(sifted)
        self._transactions += 1
        self._rows += sum(len(rows.records) for rows in work.rows)
        self._last_seconds = seconds
        self._last_at = time.monotonic_ns()
        await self._committed(self._offset)

    def _note_refused(self, sifted: Sifted) -> None:
        if not sifted.refused:
            return
        self._refused += len(sifted.refused)
        first = sifted.refused[0]
        _log.error(
            "PostgreSQL refused %d records of the frame at %d, which are in quarantine; the first, a %s: %s",
            len(sifted.refused),
            first.offset,
            first.kind,
            first.detail,
            extra={"action": "records_refused", "offset": first.offset, "records": len(sifted.refused)},
        )

    def _read(self) -> _Batch | None:
        suspected = self._suspects_end > self._offset
        until = min(self._suspects_end, self._durable) if suspected else self._durable
        frames = self._reader.read(self._offset, until, self._batch_bytes)
        if not frames:
            return None
        if suspected and len(frames) > 1:
            frames = frames[: len(frames) // 2]  # all of them were tried together already
        work = commit_of(frames, self._kinds, self._journal, self._lane)
        while len(frames) > 1 and pieces_of(work.rows) > MAX_PIECES:
            # scattered over years: a transaction of so many tables would find no room for its locks
            frames = frames[: len(frames) // 2]
            work = commit_of(frames, self._kinds, self._journal, self._lane)
        return _Batch(work, len(frames), suspected)

    def tell_if_slow(self) -> None:
        """Say so in the log once the database has fallen behind, or a transaction does not end, and once it is over."""
        figures = self.statistics()
        is_slow = max(figures.lag_seconds, figures.running_seconds) > SLOW_SECONDS
        if is_slow == self._is_slow or figures.trouble:  # a trouble is told by its own name
            return
        self._is_slow = is_slow
        _log.warning(
            "the database is %.0f s behind the journal, and the transaction under way runs for %.0f s: it is slow, "
            "or its disk, or it is catching up"
            if is_slow
            else "the database has caught up: it is %.1f s behind the journal, its transactions take %.1f s",
            figures.lag_seconds,
            figures.running_seconds if is_slow else figures.last_commit_seconds,
            extra={"action": "db_slow" if is_slow else "db_caught_up", "lag_bytes": figures.lag_bytes},
        )

    def _patiently(self, name: str) -> RetryableDBOperation:
        return RetryableDBOperation(
            name, budget_seconds=PATIENCE_SECONDS, waits_for=can_be_waited_for, told=show_trouble
        )

    def statistics(self) -> WriterStatistics:
        return WriterStatistics(
            committed_offset=self._offset,
            durable_offset=self._durable,
            lag_bytes=max(0, self._durable - self._offset),
            lag_seconds=self._lag.lag(time.monotonic(), self._offset),
            transactions=self._transactions,
            rows=self._rows,
            refused=self._refused,
            last_commit_seconds=self._last_seconds,
            last_commit_monotonic_ns=self._last_at,
            running_seconds=time.monotonic() - self._began if self._began else 0.0,
            trouble=self._retry.waits,
        )


def show_trouble(trouble: Trouble | None) -> None:
    """As a metric; None: it is over."""
    _WAITS.clear()
    if trouble is not None:
        _WAITS.labels(trouble.name).set(1)
