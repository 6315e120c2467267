"""A week of ten symbols in a daemon's database, of both profiles alike: what the benchmarks of storage measure on.

    week = Week.of(quick=False)
    with daemon_with_week(week, profile) as (daemon, stored):
        stored.instruments, stored.told
    week.of_symbol("trades", 0)          # the same records, for others

MARKETD_BENCH_WEEK names a directory in which the filled databases are kept: each benchmark then begins with a copy.

It is the last whole one as marketd cuts the tables of seconds (from Thursday to Thursday, UTC), so that all of it is
over, and what it is closed into gives its space back. Rows go in as marketd's writer would have stored them while they
came: all symbols together, in the order in which they were known, by binary COPY of the row codecs. What a week of
a kind would be too much of (ten gigabytes and more) is there for its end only; `Week.in_words` says how much there is.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import numpy as np
import numpy.typing as npt
from closing import refresh
from daemon_under_test import DaemonUnderTest, daemon_under_test
from recorded_rows import RECORDINGS, TABLES, keep_recorded, recorded
from week_rows import longer_bars, make

from marketd.client.pipeline import DataIngestionPipeline
from marketd.market.aggregate import aggregate
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME, Records
from marketd.market.rows import codec
from marketd.market.times import NS_PER_SECOND, timeframe_name
from marketd.sql.copy import copy_in
from marketd.sql.partitions import PartitionKeeper
from marketd.sql.profiles import Profile, detect_profile
from marketd.sql.store import to_datetime

KEPT = "MARKETD_BENCH_WEEK"
SYMBOLS = 10
VENUE = "WEEK"
HOUR, DAY = 3600, 86_400
LONGER = (60, 300, 900, 3600, 14_400, 86_400)  # timeframes of `candles`
_LET_JOBS_REST = (
    "SELECT alter_job(job_id, next_start => now() + interval '1000 days') FROM timescaledb_information.jobs"
)
_BATCH_ROWS = 100_000  # of a transaction, as the writer's
_MINUTE = 60
# Trades a second of each symbol, on average: from a busy pair to a quiet one, as markets are; 24.8 in all.
_TRADES_PER_SECOND = (8.0, 5.0, 3.5, 2.5, 2.0, 1.5, 1.0, 0.7, 0.4, 0.2)


class Week(NamedTuple):
    """How much there is of each table, in seconds before `end_ns`; of longer bars `bar_days`."""

    end_ns: int
    trades: int
    candles_1s: int
    book_snapshots: int
    book_buckets: int
    imbalances: int
    bar_days: int

    @classmethod
    def of(cls, quick: bool) -> Week:
        end_ns = int(time.time()) // (7 * DAY) * 7 * DAY * NS_PER_SECOND
        if quick:
            return cls(end_ns, HOUR, HOUR, 5 * _MINUTE, HOUR, HOUR, 1)
        return cls(end_ns, 7 * DAY, 7 * DAY, HOUR, DAY, DAY, 30)

    def start_ns(self, table: str) -> int:
        seconds: int = self.bar_days * DAY if table == "candles" else getattr(self, table)
        return self.end_ns - seconds * NS_PER_SECOND

    def days(self) -> tuple[datetime, datetime]:
        """The whole days that have bars of a second: first, and the one after the last."""
        first, last = (ns // (DAY * NS_PER_SECOND) for ns in (self.start_ns("candles_1s"), self.end_ns - 1))
        return to_datetime(first * DAY * NS_PER_SECOND), to_datetime((last + 1) * DAY * NS_PER_SECOND)

    def of_symbol(self, table: str, number: int) -> Records:
        """All records of a table of the symbol with this number, oldest first."""
        if table == "candles":
            return self._longer_bars(number)
        rate = {"trades": _TRADES_PER_SECOND[number], "book_snapshots": 10.0}.get(table, 1.0)
        count = round(getattr(self, table) * rate)
        rows = recorded(number % len(RECORDINGS))[table]
        return make(table, rows, number, count, self.start_ns(table), self.end_ns)

    def _longer_bars(self, number: int) -> Records:
        """Of the week made from its seconds, of the time before from bars such as these."""
        minutes = _aggregated(self.of_symbol("candles_1s", number), _MINUTE)
        earlier = (self.bar_days * DAY - self.candles_1s) // _MINUTE
        before = longer_bars(minutes, _MINUTE, number, earlier, self.start_ns("candles"))
        minutes = np.concatenate([before, minutes])
        return np.concatenate([_aggregated(minutes, seconds) for seconds in LONGER])

    def in_words(self) -> dict[str, str]:
        return {
            "trades": f"{self.trades / DAY:.3g} days, {sum(_TRADES_PER_SECOND):g} a second in all",
            "candles_1s": f"{self.candles_1s / DAY:.3g} days, each second of each symbol",
            "candles": f"{self.bar_days} days of {', '.join(timeframe_name(each) for each in LONGER)}",
            "book_snapshots": f"{self.book_snapshots / HOUR:.3g} hours, 10 a second of each symbol, 20 levels a side",
            "book_buckets": f"{self.book_buckets / HOUR:.3g} hours, of seconds",
            "imbalances": f"{self.imbalances / HOUR:.3g} hours, of seconds",
        }


def _aggregated(bars: Records, seconds: int) -> Records:
    """Day by day: turnovers of a month do not fit into 64 bits, and the arithmetic asks that they do."""
    days = np.flatnonzero(np.diff(bars["ts"] // (DAY * NS_PER_SECOND))) + 1
    return np.concatenate([aggregate(day, seconds) for day in np.split(bars, days)])


WEEK_TABLES = (*TABLES, "candles")


def names() -> list[str]:
    """Of the symbols, as users call them."""
    return [f"W{number}{RECORDINGS[number % len(RECORDINGS)].symbol}.{VENUE}" for number in range(SYMBOLS)]


class Stored(NamedTuple):
    """What a daemon has of a week: the symbols, and rows and seconds of each table."""

    instruments: list[Instrument]
    told: dict[str, Any]


@contextmanager
def daemon_with_week(week: Week, profile: Profile) -> Iterator[tuple[DaemonUnderTest, Stored]]:
    """A daemon of its own, in whose database the week is."""
    keep_recorded()
    kept = os.environ.get(KEPT)
    if not kept:
        with daemon_under_test(profile=profile) as daemon:
            yield daemon, _store(daemon, week)
        return
    place = Path(kept) / f"{profile}.{'.'.join(map(str, week))}"
    if not (place / "told.json").exists():
        _keep(place, week, profile)
    told = json.loads((place / "told.json").read_text())
    with daemon_under_test(profile=profile, state=place / "state") as daemon:
        yield daemon, Stored(declare(daemon), told)


def _keep(place: Path, week: Week, profile: Profile) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True, mode=0o711)
    with daemon_under_test(profile=profile, leave=place / "state") as daemon:
        told = _store(daemon, week).told
    (place / "told.json").write_text(json.dumps(told))


def _store(daemon: DaemonUnderTest, week: Week) -> Stored:
    instruments = declare(daemon)
    told = asyncio.run(fill(daemon.dsn, week, instruments))
    asyncio.run(settle(daemon.dsn, week))
    return Stored(instruments, told)


async def settle(dsn: str, week: Week) -> None:
    """Sum up the longer bars, as TimescaleDB's jobs do while bars come; its jobs rest from now on.

    A daemon that finds a week which it has not seen coming would be busy with it for minutes, whatever is measured.
    """
    connection = await asyncpg.connect(dsn)
    if await detect_profile(connection) is Profile.TIMESCALE:
        await connection.execute(_LET_JOBS_REST)
        await refresh(connection, *week.days())
    await connection.close()


def declare(daemon: DaemonUnderTest) -> list[Instrument]:
    """Make the symbols known to the daemon; in their order."""
    found = []
    with DataIngestionPipeline(str(daemon.runtime_dir), timeout=60.0) as pipeline:
        for number, name in enumerate(names()):
            scales = RECORDINGS[number % len(RECORDINGS)]
            found.append(
                pipeline.declare(
                    name,
                    price_scale=scales.price_scale,
                    size_scale=scales.size_scale,
                    quote_scale=scales.quote_scale,
                )
            )
    return found


def rows_by_knowledge(
    week: Week, table: str, ids: npt.NDArray[np.int32]
) -> Iterator[tuple[npt.NDArray[np.int32], Records]]:
    """Batches of all symbols' records in the order in which they were known, as a writer meets them."""
    of_symbols = [week.of_symbol(table, number) for number in range(SYMBOLS)]
    if table == "candles":
        of_symbols = [records[np.argsort(records["ts_known"], kind="stable")] for records in of_symbols]
    edges = np.linspace(week.start_ns(table), week.end_ns, 1 + _slices(of_symbols), dtype=np.int64)
    places = [np.searchsorted(records["ts_known"], edges[1:-1]).tolist() for records in of_symbols]
    starts = [0] * SYMBOLS
    for number in range(len(edges) - 1):
        ends = [
            place[number] if number < len(place) else len(rows) for place, rows in zip(places, of_symbols, strict=True)
        ]
        parts = [rows[start:end] for rows, start, end in zip(of_symbols, starts, ends, strict=True)]
        starts = ends
        records = np.concatenate(parts)
        order = np.argsort(records["ts_known"], kind="stable")
        yield np.repeat(ids, [len(part) for part in parts])[order], records[order]


def _slices(of_symbols: list[Records]) -> int:
    return max(1, sum(len(records) for records in of_symbols) // _BATCH_ROWS)


async def fill(
    dsn: str, week: Week, instruments: list[Instrument], tables: Sequence[str] = WEEK_TABLES
) -> dict[str, Any]:
    """Store all of it, of these tables; rows and seconds of each."""
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "marketd,public"})
    keeper = PartitionKeeper(await detect_profile(connection))
    ids = np.array([instrument.id for instrument in instruments], dtype=np.int32)
    told = {}
    for table in tables:
        kind = BY_NAME[TABLES.get(table, "candle")]
        of_table = codec(table, kind)
        rows, seconds = 0, 0.0
        for instrument_ids, records in rows_by_knowledge(week, table, ids):
            if not len(records):
                continue
            began = time.perf_counter()
            times = records[kind.time]
            await keeper.ensure(connection, table, int(times.min()), int(times.max()))
            await copy_in(connection, table, of_table.columns, of_table.encode(instrument_ids, records))
            rows += len(records)
            seconds += time.perf_counter() - began
        told[table] = {"rows": rows, "seconds": round(seconds, 1)}
    await connection.execute("ANALYZE")
    await connection.close()
    return told
