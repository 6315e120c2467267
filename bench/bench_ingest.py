"""Trades acknowledged on disk and committed in PostgreSQL, a second, for a minute, with everything on this machine.

Then the same rows, read back from the table in the order of their arrival, go into the same table of a fresh
database of the same server with a bare asyncpg binary COPY: rows ready in memory, 100,000 a transaction (as the
writer's), nothing else running.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import numpy as np
from daemon_under_test import COMMIT_SECONDS, CpuMeter, DaemonUnderTest, daemon_under_test, wait_for
from options import Options
from profiling import profiled
from report import Goal, Report
from traffic import VENUE, Load, Traffic

from marketd.ipc.arena_reader import ArenaReader
from marketd.ipc.paths import arena_path
from marketd.market.records import BY_NAME, TRADE
from marketd.market.rows import codec
from marketd.sql.copy import HEADER, TRAILER
from marketd.sql.partitions import ensure_partitions
from marketd.sql.schema_runner import SchemaRunner

SECONDS = 60.0
BATCH = 1_000
INSTRUMENTS = 50
ROWS_A_COPY = 100_000
TRADES = codec("trades", BY_NAME["trade"])
ROW_BYTES = len(TRADES.encode(np.zeros(1, np.int32), np.zeros(1, TRADE))) - len(HEADER) - len(TRAILER)
SEARCH_PATH = {"search_path": "marketd,public"}


def run(options: Options) -> Report:
    seconds = options.seconds or (6.0 if options.quick else SECONDS)
    report = Report("ingest", f"trades acknowledged on disk and committed in PostgreSQL, for {seconds:g} s")
    with daemon_under_test() as daemon:
        pids = daemon.pids()
        traffic = Traffic(
            Load(runtime_dir=str(daemon.runtime_dir), instruments=INSTRUMENTS, batch=BATCH, seconds=seconds)
        )
        try:
            meter = CpuMeter(daemon)
            with profiled(options, "ingest", pids):
                traffic.start()
                summary = traffic.finish()
                _wait_committed(daemon)
                done = time.monotonic()
            used = meter.read(summary.cpu_seconds)
        finally:
            traffic.kill()
        rate = summary.accepted / (done - summary.first_sent)
        with tempfile.TemporaryFile() as rows:
            stored = asyncio.run(_copy_out(daemon.dsn, rows))
            if stored != summary.accepted:
                raise RuntimeError(f"{summary.accepted} trades were acknowledged, {stored} are in the database")
            bare = asyncio.run(_bare_copy(daemon.dsn, rows))
    report.facts = {
        "trades acknowledged, and found in the database": summary.accepted,
        "seconds from the first trade to the last commit": done - summary.first_sent,
        "trades acknowledged a second": summary.accepted / (summary.last_answer - summary.first_sent),
        "producer waited for the database, s": summary.paused_seconds,
        "cores used": used,
    }
    report.rows = [
        {"way": "marketd, on disk and committed", "trades/s": rate, "of the bare COPY": rate / bare},
        {"way": "bare asyncpg binary COPY", "trades/s": bare, "of the bare COPY": 1.0},
    ]
    report.goals = [
        Goal("trades a second", 150_000, rate, False),
        Goal("of the bare COPY", 0.4, rate / bare, False),
    ]
    return report


def _wait_committed(daemon: DaemonUnderTest) -> None:
    """Until the database has all that the journal has; the arena's header says so."""
    with ArenaReader.open(arena_path(daemon.runtime_dir, f"SYM0USD.{VENUE}")) as arena:
        end = next(a.statistics["journal"]["end"] for a in daemon.status().actors if a.name == "ingest")
        wait_for(lambda: arena.committed_offset >= max(end, arena.durable_offset), COMMIT_SECONDS, "the last commit")


async def _copy_out(dsn: str, file: Any) -> int:
    """All trades in the order of their arrival, as rows of binary COPY; how many."""
    connection = await asyncpg.connect(dsn, server_settings=SEARCH_PATH)
    columns = ", ".join(TRADES.columns)
    await connection.copy_from_query(
        f"SELECT {columns} FROM trades ORDER BY ts_known, instrument_id, seq", output=file, format="binary"
    )
    await connection.close()
    return (file.tell() - len(HEADER) - len(TRAILER)) // ROW_BYTES


async def _bare_copy(dsn: str, file: Any) -> float:
    """Rows a second into a fresh table."""
    maintenance = await asyncpg.connect(dsn)
    await maintenance.execute("CREATE DATABASE bare")
    bare = await asyncpg.connect(dsn.replace("/marketd?", "/bare?"))
    await SchemaRunner(bare).apply()
    await bare.close()
    # connected anew: TimescaleDB loads its library when a session begins
    bare = await asyncpg.connect(dsn.replace("/marketd?", "/bare?"), server_settings=SEARCH_PATH)
    await ensure_partitions(bare, "trades", time.time_ns() - 600 * 10**9, time.time_ns())
    file.seek(len(HEADER))
    rows, taken = 0, 0.0
    while True:
        data = file.read(ROWS_A_COPY * ROW_BYTES)
        if len(data) < ROW_BYTES:
            break
        data = data[: len(data) // ROW_BYTES * ROW_BYTES]
        started = time.perf_counter()
        await bare.copy_to_table("trades", source=_stream(data), columns=list(TRADES.columns), format="binary")
        taken += time.perf_counter() - started
        rows += len(data) // ROW_BYTES
    await bare.close()
    await maintenance.execute("DROP DATABASE bare WITH (FORCE)")
    await maintenance.close()
    return rows / taken


async def _stream(data: bytes) -> AsyncIterator[Any]:
    yield HEADER
    view = memoryview(data)
    for at in range(0, len(data), 1 << 18):
        yield view[at : at + (1 << 18)]
    yield TRAILER
