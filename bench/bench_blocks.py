"""Packed blocks: bytes a row of recorded trades, bars and books as rows with their indexes, as blocks, and as Parquet.

Eleven minutes of BTCUSDT of a real exchange are imported, and repeated to a day: at other times, other prices, with
other sizes, so that no repetition is like another. All sizes are of the relations, with indexes and TOAST. Packing is
told beside what it cannot do without: taking the same rows out of their table. What is read, out of the database into
records, is read from blocks as they are cut and from such as hold a day.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

import asyncpg
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from options import Options
from recorded_traffic import BINANCE_RAW, DATA
from report import Goal, Report

from marketd.daemon.config import convert
from marketd.daemon.import_ids import OwnIds
from marketd.daemon.import_lane import CaptureImport
from marketd.daemon.registry import REGISTRY_NAME, Registry
from marketd.market.block_stretch import unpacked_stretch
from marketd.market.records import BY_NAME, Kind, Records
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.copy import copy_out
from marketd.sql.embedded import EmbeddedPostgres
from marketd.sql.installations import find_installations
from marketd.sql.packed_tables import PACKED_TABLES
from marketd.sql.packing import Place, days_of, pack_next
from marketd.sql.partitions import PartitionKeeper
from marketd.sql.profiles import Profile
from marketd.sql.read import Span, columns_of, read_bars, read_rows
from marketd.sql.read_books import read_versions
from marketd.sql.retention import pieces_of_table
from marketd.sql.schema_runner import SchemaRunner
from marketd.sql.store import Commit, commit, split_rows

FILES = [DATA / BINANCE_RAW / f"spot_btcusdt_2024080{day}.gz" for day in (8, 9)]
TABLES = ("trades", "candles_1s", "book_snapshots", "imbalances", "book_buckets")
GOALS = {"candles_1s": 0.10, "trades": 0.08}  # of the rows with their indexes
REPETITIONS, QUICK_REPETITIONS = 132, 6
MOST = {"book_snapshots": 12, "book_buckets": 24}  # repetitions: two hours of books are 80,000, and 70 MB
LENGTH_NS = 660 * 10**9  # of a repetition: a little more than the recording
NS_PER_US = 1000
DAY_NS = 86_400 * 10**9
INSTRUMENT = 65_600
WIDE, WIDE_ROWS = INSTRUMENT + 1, 90_000  # an instrument of the same records in blocks of a day
_BUCKETS = BY_NAME["buckets"]
ROUNDS = 15


def run(options: Options) -> Report:
    return asyncio.run(_run(QUICK_REPETITIONS if options.quick else REPETITIONS))


async def _run(repetitions: int) -> Report:
    report = Report("blocks", "bytes a row: rows with indexes, packed blocks, Parquet with zstd")
    async with _database() as manager, manager.acquire() as conn:
        recorded = await _recorded(manager, conn)
        stored: dict[str, Records] = {}
        for table in TABLES:
            kind = PACKED_TABLES[table].kind
            records = _repeated(kind, recorded[table], min(repetitions, MOST.get(table, repetitions)))
            row = await _sizes(conn, table, kind, records)
            stored[table] = records
            report.rows.append({"table": table, "rows": len(records), **row})
            share = GOALS.get(table)
            if share is not None:
                report.goals.append(Goal(f"{table}: of the rows", share * 100, 100 * row["of the rows"], True, " %"))
            report.goals.append(Goal(f"{table}: of Parquet", 1.1, row["blocks"] / row["Parquet"], True, " times"))
        report.facts = {"repetitions": repetitions, **await _reading(conn, stored)}
    return report


@asynccontextmanager
async def _database() -> AsyncIterator[DatabaseConnectionManager]:
    """A PostgreSQL without TimescaleDB, with our schema."""
    with tempfile.TemporaryDirectory(prefix="marketd-bench-") as directory:
        os.chmod(directory, 0o711)
        plain = [i for i in find_installations() if not i.has_timescale]
        postgres = EmbeddedPostgres(Path(directory) / "state", installation=plain[0])
        await postgres.start()
        try:
            conn = await asyncpg.connect(postgres.dsn)
            await SchemaRunner(conn).apply()
            await conn.close()
            async with DatabaseConnectionManager(postgres.dsn, actor="bench") as manager:
                yield manager
        finally:
            await postgres.stop()


async def _recorded(manager: DatabaseConnectionManager, conn: Any) -> dict[str, Records]:
    """What an import of the recording stores, a table each, the oldest first."""
    with tempfile.TemporaryDirectory() as state:
        registry = Registry(Path(state) / REGISTRY_NAME, 1)
        importing = CaptureImport(convert({"state_dir": state}), manager, OwnIds(registry), venue="BINANCE", close=True)
        found = await importing.run(FILES)
        registry.close()
    (instrument,) = found.instruments
    recorded = {
        "trades": await read_rows(conn, instrument.id, BY_NAME["trade"], Span()),
        "candles_1s": await read_bars(conn, instrument.id, 1, Span(), bar_source="own"),
        "book_snapshots": await read_rows(conn, instrument.id, BY_NAME["book"], Span()),
        "imbalances": await read_versions(conn, instrument.id, BY_NAME["imbalance"], Span()),
        "book_buckets": await read_versions(conn, instrument.id, BY_NAME["buckets"], Span(), timeframe=1),
    }
    return {table: np.sort(rows.records(), order=[rows.kind.time, "seq"]) for table, rows in recorded.items()}


def _repeated(kind: Kind, records: Records, times: int) -> Records:
    """One after another from a midnight on, each at another price and with other sizes."""
    start = int(records[kind.time][0]) // DAY_NS * DAY_NS
    parts = [_shifted(kind, records, number, start) for number in range(times)]
    return np.concatenate(parts)


def _shifted(kind: Kind, records: Records, number: int, start: int) -> Records:
    random = np.random.default_rng(number)
    part = records.copy()
    first = int(records[kind.time][0]) // 10**9 * 10**9
    moved = start + number * LENGTH_NS - first
    price, share = int(random.integers(-20_000, 20_000)), int(random.integers(60, 140))
    latency = random.integers(0, 20, len(part)) * NS_PER_US
    for name in part.dtype.names or ():
        values, role = part[name], kind.scales.get(name)
        absent = values == np.iinfo(values.dtype).min
        if name in (kind.time, "ts_known"):
            values += moved + (latency if name == "ts_known" else 0)
        elif name in ("seq", "trade_id"):
            values += number * (int(values.max() - values.min()) + 1)
        elif role == "price" and name not in ("spread", "width"):
            values += (2 if name == "mid2" else 1) * price
        elif role in ("size", "quote"):
            values[:] = values // 100 * share + values % 100 * share // 100
        elif name == "base":
            values += price // int(part["width"][0])
        values[absent] = np.iinfo(values.dtype).min
    return part


async def _sizes(conn: Any, table: str, kind: Kind, records: Records) -> dict[str, float]:
    count = len(records)
    await conn.execute(f"DELETE FROM {table}")
    await conn.execute(f"VACUUM FULL {table}")
    await _store(conn, kind, records, INSTRUMENT)
    plain = await conn.fetchval(_ROW_BYTES, table)
    empty = await conn.fetchval(_BLOCK_BYTES)
    taking = await _taking(conn, table, kind)
    began = time.perf_counter()
    await _pack(conn, table, INSTRUMENT)
    took = time.perf_counter() - began
    packed = await conn.fetchval(_BLOCK_BYTES) - empty
    return {
        "as rows": plain / count,
        "blocks": packed / count,
        "of the rows": packed / plain,
        "Parquet": _parquet_bytes(records) / count,
        "packed rows/s": count / took,
        "of taking them": took / taking,
    }


async def _store(conn: Any, kind: Kind, records: Records, instrument: int) -> None:
    lane, offset, at_once = uuid4(), 0, 50_000
    keeper = PartitionKeeper(Profile.POSTGRES)
    ids = np.full(at_once, instrument, np.int32)
    for start in range(0, len(records), at_once):
        part = records[start : start + at_once]
        rows = split_rows(kind, ids[: len(part)], part)
        offset = await commit(conn, Commit(lane, "bench", offset + 8, 1, rows, None, [], [], offset), keeper)


async def _taking(conn: Any, table: str, kind: Kind) -> float:
    """Seconds of a bare `DELETE … RETURNING` of all rows, which is taken back."""
    transaction = conn.transaction()
    await transaction.start()
    began = time.perf_counter()
    await copy_out(conn, f"DELETE FROM {table} WHERE instrument_id = {INSTRUMENT} RETURNING {columns_of(table, kind)}")
    took = time.perf_counter() - began
    await transaction.rollback()
    return took


async def _pack(conn: Any, table: str, instrument: int, block_rows: int | None = None) -> None:
    packed = PACKED_TABLES[table]
    for piece in await pieces_of_table(conn, table):
        for timeframe in packed.timeframes:
            place = Place(packed, instrument, timeframe)
            for start, end in days_of(piece, piece.end):
                while done := await pack_next(conn, place, start, end, block_rows):
                    start = done.end


def _parquet_bytes(records: Records) -> int:
    columns: dict[str, Any] = {}
    for name in records.dtype.names or ():
        values = np.ascontiguousarray(records[name])
        columns[name] = (
            values if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(values.reshape(-1), values.shape[1])
        )
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(pa.table(columns), sink, compression="zstd")
    return int(sink.getvalue().size)


async def _reading(conn: Any, stored: dict[str, Records]) -> dict[str, Any]:
    """Out of the database into records, ms: of blocks as they are cut, and of such as hold all that there is."""
    bars, buckets = stored["candles_1s"], stored["book_buckets"]
    for table, records in (("candles_1s", bars), ("book_buckets", buckets)):
        await _store(conn, PACKED_TABLES[table].kind, records, WIDE)
        await _pack(conn, table, WIDE, WIDE_ROWS)
    blocks = [row["data"] for row in await conn.fetch(_BLOCKS_OF_BARS, INSTRUMENT)]
    told: dict[str, Any] = {"bars": len(bars), "decoding them, ms": await _median_ms(lambda _: _decoded(blocks), 0)}
    for name, read in {
        "5 minutes of bars": lambda i: read_bars(conn, i, 1, _middle(bars, 300)),
        "an hour of bars": lambda i: read_bars(conn, i, 1, _middle(bars, 3600)),
        "all bars": lambda i: read_bars(conn, i, 1, Span()),
        "10 minutes of buckets": lambda i: read_versions(conn, i, _BUCKETS, _middle(buckets, 600), timeframe=1),
    }.items():
        told[f"{name}, ms"] = [await _median_ms(read, instrument) for instrument in (INSTRUMENT, WIDE)]
    return told


def _middle(records: Records, seconds: int) -> Span:
    middle = int(records["ts"][len(records) // 2])
    return Span(middle, middle + seconds * 10**9)


async def _decoded(blocks: list[bytes]) -> Records:
    return unpacked_stretch(blocks, BY_NAME["candle"])


async def _median_ms(ask: Callable[[int], Awaitable[Any]], instrument: int) -> float:
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await ask(instrument)
        took.append(time.perf_counter() - began)
    return round(1e3 * median(took), 2)


_BLOCKS_OF_BARS = "SELECT data FROM packed_blocks WHERE table_name = 'candles_1s' AND instrument_id = $1"
_ROW_BYTES = """
SELECT sum(pg_total_relation_size(inhrelid))::bigint FROM pg_inherits
WHERE inhparent = to_regclass(format('marketd.%I', $1::text))
"""
_BLOCK_BYTES = "SELECT pg_total_relation_size('marketd.packed_blocks')"
