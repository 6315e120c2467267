"""What tests of the writer share: a kernel with its journal on disk, a writer that drains it, and the rows it left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lane import BTC, CANDLES, KINDS, SECOND, START, bars, make_kernel, observed, trades
from marketd.daemon.kernel import COVERAGE_KIND, TRADE_KIND, Kernel
from marketd.daemon.writer import Writer
from marketd.ipc.journal import Journal
from marketd.ipc.journal_reader import JournalReader
from marketd.ipc.journal_settings import MIN_BYTES
from marketd.market.records import Records
from marketd.market.rows import codec
from marketd.sql.connections import type_connection

KNOWN = START + 3600 * SECOND


def stamped(records: Records, seq: int, known: int = KNOWN) -> Records:
    records["seq"] = np.arange(seq, seq + len(records))
    records["ts_known"] = known
    return records


async def stored(conn: type_connection, table: str, kind: Any, instrument: int = BTC.id) -> Records:
    names = ", ".join(f'"{name}"' for name in codec(table, kind).columns)
    rows = await conn.fetch(f"SELECT {names} FROM {table} WHERE instrument_id = $1 ORDER BY 2, 3, seq", instrument)
    records = np.zeros(len(rows), dtype=kind.dtype)
    for index, row in enumerate(rows):
        for name in codec(table, kind).columns[1:]:
            value = row[name]
            records[name][index] = round(value.timestamp() * 10**6) * 1000 if hasattr(value, "timestamp") else value
    return records


async def count(conn: type_connection, table: str) -> int:
    return int(await conn.fetchval(f"SELECT count(*) FROM {table}"))


class Journaled:
    """A kernel and its journal on disk."""

    def __init__(self, directory: Path) -> None:
        self.kernel: Kernel = make_kernel()
        self.directory = directory
        self.journal = Journal.open(
            directory,
            checkpoint=self.kernel.checkpoint,
            front_bytes=MIN_BYTES,
            segment_bytes=MIN_BYTES,
            budget_bytes=64 * MIN_BYTES,
        )
        self.readers: list[JournalReader] = []
        self.told: list[int] = []

    def take(self, first: int, count: int = 3) -> int:
        return self.accept(
            (TRADE_KIND, trades([((first + n) * 1000, first + n, 100, 1) for n in range(count)])),
            (COVERAGE_KIND, observed(first)),
            (CANDLES, bars([first % 5], first + 1)),
            known=KNOWN + first * 1000,
        )

    def accept(self, *parts: tuple[Any, Records], known: int) -> int:
        """A batch, as it is once it is on disk; where its frame ends."""
        lot = self.kernel.accept(BTC, list(parts), known, source="me")
        assert self.journal.wait_room(10)
        end = self.journal.append(BTC.id, lot.seq, lot.ts_known, lot.body)
        assert self.journal.wait_durable(end, 10)
        return end

    def writer(self, database: Any, **options: Any) -> Writer:
        async def committed(offset: int) -> None:
            self.told.append(offset)

        reader = JournalReader(self.directory)
        self.readers.append(reader)
        settings: dict[str, Any] = {"batch_bytes": 1 << 20, "committed": committed, **options}
        return Writer(database, reader, KINDS, lane="live", batch_age_seconds=0.0, **settings)

    def close(self) -> None:
        self.journal.close()
        for reader in self.readers:
            reader.close()


async def drained(journaled: Journaled, database: Any, end: int, **options: Any) -> Writer:
    writer = journaled.writer(database, **options)
    await writer.start()
    writer.on_durable(end)
    await writer.drain()
    return writer


@asynccontextmanager
async def draining(journaled: Journaled, database: Any, end: int) -> AsyncIterator[tuple[Writer, asyncio.Task[None]]]:
    """A writer at work, for tests in which something is in its way; await the task to see it through."""
    writer = journaled.writer(database)

    async def drain() -> None:
        await writer.start()
        writer.on_durable(end)
        await writer.drain()

    task = asyncio.create_task(drain(), name="drain")
    try:
        yield writer, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
