"""A day of one-second bars, from PostgreSQL to numpy columns in the client.

Beside it a bare binary COPY of the same rows to bytes (nobody can use those yet), and `asyncpg.fetch` with a DataFrame.
All ways are called in turn, `ROUNDS` times; the medians count.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import asyncpg
import numpy as np
from daemon_under_test import daemon_under_test, wait_for
from options import Options
from profiling import profiled
from report import Goal, Report

from marketd.client.pipeline import DataIngestionPipeline
from marketd.client.provider import UnifiedDataProvider
from marketd.market.records import BY_NAME
from marketd.market.rows import codec

BARS = 86_400
ROUNDS = 25
SYMBOL = "DAYUSD.BENCH"
CANDLES = codec("candles_1s", BY_NAME["candle"])
REALS = ("open", "high", "low", "close", "volume")


def run(options: Options) -> Report:
    rounds = 3 if options.quick else ROUNDS
    report = Report("read", f"{BARS:,} one-second bars from PostgreSQL to numpy columns")
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=2)
    end = start + timedelta(days=1)
    with daemon_under_test() as daemon:
        _store_a_day(str(daemon.runtime_dir), start)
        with UnifiedDataProvider(str(daemon.runtime_dir), timeout=60.0) as provider:
            wait_for(lambda: len(provider.query_ohlcv_data(SYMBOL, "1s", start, end)) == BARS, 60.0, "a day of bars")
            with profiled(options, "read", daemon.pids()):
                taken = asyncio.run(_measure(provider, daemon.dsn, start, end, rounds))
    bare = median(taken["bare binary COPY to bytes"])
    for way, times in taken.items():
        report.rows.append(
            {
                "way": way,
                "median ms": median(times) * 1e3,
                "fastest ms": min(times) * 1e3,
                "of the bare COPY": median(times) / bare,
            }
        )
    ours = median(taken["query_ohlcv_data, five real columns"])
    report.facts = {"rounds": rounds}
    report.goals = [Goal("of the bare COPY", 1.5, ours / bare, True, " times")]
    return report


def _store_a_day(runtime_dir: str, start: datetime) -> None:
    times = int(start.timestamp()) * 10**9 + np.arange(BARS) * 10**9
    walk = 60_000 + np.cumsum(np.random.default_rng(3).integers(-3, 4, BARS)) * 0.01
    rows: dict[str, Any] = {
        "time": times,
        "open": np.round(walk, 2),
        "high": np.round(walk + 0.5, 2),
        "low": np.round(walk - 0.5, 2),
        "close": np.round(walk + 0.1, 2),
        "volume": np.full(BARS, 1.25),
        "quote_volume": np.full(BARS, 75_000.5),
        "buy_volume": np.full(BARS, 0.5),
        "trade_count": np.full(BARS, 17),
    }
    with DataIngestionPipeline(runtime_dir, timeout=60.0) as pipeline:
        pipeline.declare(SYMBOL, price_scale=2, size_scale=6)
        result = pipeline.ingest_ohlcv_candles(SYMBOL, "1s", rows)
    if result.accepted != BARS:
        raise RuntimeError(f"of {BARS} bars {result.accepted} were accepted: {result.refused[:3]}")


async def _measure(
    provider: UnifiedDataProvider, dsn: str, start: datetime, end: datetime, rounds: int
) -> dict[str, list[float]]:
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "marketd,public"})
    instrument = await connection.fetchval("SELECT instrument_id FROM instruments WHERE symbol = 'DAYUSD'")
    columns = ", ".join(CANDLES.columns)
    where = f"FROM candles_1s WHERE instrument_id = {instrument} AND ts >= $1 AND ts < $2"

    async def bare(order: str) -> int:
        parts: list[bytes] = []

        async def collect(part: bytes) -> None:
            parts.append(part)

        query = f"SELECT {columns} {where} {order}"
        await connection.copy_from_query(query, start, end, output=collect, format="binary")
        return CANDLES.count(b"".join(parts))

    async def fetch() -> int:
        import pandas as pd

        rows = await connection.fetch(f"SELECT {columns} {where} ORDER BY ts", start, end)
        return len(pd.DataFrame([tuple(row) for row in rows], columns=list(CANDLES.columns)))

    async def ours_columns() -> int:
        frame = provider.query_ohlcv_data(SYMBOL, "1s", start, end)
        return min(len(frame[name]) for name in ("time", *REALS))

    async def ours_frame() -> int:
        return len(provider.query_ohlcv_data(SYMBOL, "1s", start, end))

    ways: dict[str, Callable[[], Awaitable[int]]] = {
        "bare binary COPY to bytes": lambda: bare(""),
        "bare binary COPY to bytes, ORDER BY ts": lambda: bare("ORDER BY ts"),
        "query_ohlcv_data, records": ours_frame,
        "query_ohlcv_data, five real columns": ours_columns,
        "asyncpg.fetch and a DataFrame": fetch,
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, call in ways.items():
            started = time.perf_counter()
            count = await call()
            if count != BARS:
                raise RuntimeError(f"{way}: {count} bars instead of {BARS}")
            if number:  # the first round warms up
                taken[way].append(time.perf_counter() - started)
    await connection.close()
    return taken
