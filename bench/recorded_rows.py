"""What marketd stores of real markets: records of the recordings in shared/data, by kind, as its import lane made them.

Four instruments of some six to eleven minutes (Binance spot, USD-M and COIN-M, 2024). Importing them takes a minute, so
the records are kept in MARKETD_BENCH_DIR (by default /var/tmp) for the next benchmark; a change of a record's layout
makes them anew.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

import asyncpg
import numpy as np
from daemon_under_test import MARKETD, DaemonUnderTest, daemon_under_test
from recorded_traffic import BINANCE_RAW, DATA

from marketd.market.records import BY_NAME, Records
from marketd.market.rows import codec
from marketd.sql.copy import copy_out

KEPT = Path(os.environ.get("MARKETD_BENCH_DIR", "/var/tmp")) / "marketd-bench-recorded.npz"
TABLES = {
    "trades": "trade",
    "candles_1s": "candle",
    "book_snapshots": "book",
    "book_buckets": "buckets",
    "imbalances": "imbalance",
}


class Recording(NamedTuple):
    """Files of one market, in order, and the scales of its instrument."""

    symbol: str
    venue: str
    files: tuple[str, ...]
    price_scale: int
    size_scale: int
    quote_scale: int


RECORDINGS = (
    Recording("BTCUSDT", "BINANCE", ("spot_btcusdt_20240808.gz", "spot_btcusdt_20240809.gz"), 2, 6, 8),
    Recording("BTCUSDT", "BINANCE_FUTURES", ("usdm_btcusdt_20240718.gz", "usdm_btcusdt_20240719.gz"), 1, 3, 4),
    Recording("ETHUSDT", "BINANCE_FUTURES", ("usdm_ethusdt_20240718.gz", "usdm_ethusdt_20240719.gz"), 2, 3, 5),
    Recording("ETHUSD_PERP", "BINANCE_DELIVERY", ("cm_ethusd_perp_20240808.gz",), 2, 0, 2),
)


@cache
def recorded(number: int) -> dict[str, Records]:
    """By table, the records of `RECORDINGS[number]`, as they were known; `keep_recorded` comes first."""
    with np.load(KEPT) as kept:
        return {table: kept[f"{table}.{number}"] for table in TABLES}


def keep_recorded() -> None:
    """Import the recordings, unless the records are kept from before. Not within an event loop."""
    if not _is_kept():
        _keep()


def _is_kept() -> bool:
    if not KEPT.exists():
        return False
    with np.load(KEPT) as kept:
        names = {f"{table}.{number}": kind for table, kind in TABLES.items() for number in range(len(RECORDINGS))}
        return set(kept.files) == set(names) and all(
            kept[name].dtype == BY_NAME[kind].dtype for name, kind in names.items()
        )


def _keep() -> None:
    found: dict[str, Records] = {}
    with daemon_under_test("[book]\nconsolidated = false\n") as daemon:
        for number, recording in enumerate(RECORDINGS):
            _import(daemon, recording)
            found |= {f"{table}.{number}": rows for table, rows in asyncio.run(_stored(daemon.dsn, recording)).items()}
    made = KEPT.with_suffix(f".{os.getpid()}.npz")
    np.savez_compressed(made, **found)
    made.replace(KEPT)  # at once: another benchmark may be reading it


def _import(daemon: DaemonUnderTest, recording: Recording) -> None:
    files = [str(DATA / BINANCE_RAW / name) for name in recording.files]
    command = [*MARKETD, "import", "capture", "--venue", recording.venue, "--config", str(daemon.config), *files]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{recording.files[0]} was not imported: {done.stderr[-500:]}")


async def _stored(dsn: str, recording: Recording) -> dict[str, Records]:
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "marketd,public"})
    row = await connection.fetchrow(
        "SELECT instrument_id, price_scale, size_scale, quote_scale FROM instruments WHERE symbol = $1 AND venue = $2",
        recording.symbol,
        recording.venue,
    )
    assert row is not None, f"{recording} was not imported"
    instrument, *scales = row.values()
    assert tuple(scales) == recording[3:], f"{recording}: its scales are {scales}"
    found = {}
    for table, kind in TABLES.items():
        of_table = codec(table, BY_NAME[kind])
        second = "AND timeframe = 1" if table == "book_buckets" else ""
        query = f"SELECT {', '.join(of_table.columns)} FROM {table} WHERE instrument_id = $1 {second} ORDER BY seq"
        found[table] = of_table.decode(await copy_out(connection, query, instrument))[1]
    await connection.close()
    return found
