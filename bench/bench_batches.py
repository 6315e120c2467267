"""Answers out of TimescaleDB's columnstore: as rows, and as compressed batches that are decoded here.

Both ways in turns, of the same stretches of the week, which differ each time; from the question to the records of an
answer, in one process: milliseconds by the clock, and of processor, of PostgreSQL's session and of the reader. Where
both take as long is where batches begin to pay (`marketd.sql.read_batches.LEAST_ROWS`, which is not heeded here).
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import numpy as np
from closing import close
from options import Options
from report import Goal, Report
from week import DAY, HOUR, Week, daemon_with_week

from marketd.daemon.answers import finish_rows
from marketd.market import compiled
from marketd.market.bars import finish_bars
from marketd.market.records import BY_NAME, Records
from marketd.market.times import NS_PER_SECOND
from marketd.sql import read_batches
from marketd.sql.connections import DatabaseConnectionManager, type_connection
from marketd.sql.picture import one_picture
from marketd.sql.profiles import Profile
from marketd.sql.read import Span, read_bars, read_rows
from marketd.sql.read_books import read_versions

ROUNDS = 20
MS = 1e3
A_DAY, A_DAY_MS = "a day of 1s", 40.0
_TIMEOUT_SECONDS = 60.0


class Question(NamedTuple):
    """`timeframe`: of bars, s; 0: the table's records."""

    name: str
    table: str
    seconds: int
    timeframe: int = 0
    known: bool = False


QUESTIONS = (
    Question("20 minutes of 1s", "candles_1s", HOUR // 3, 1),
    Question("an hour of 1s", "candles_1s", HOUR, 1),
    Question("2 hours of 1s", "candles_1s", 2 * HOUR, 1),
    Question("4 hours of 1s", "candles_1s", 4 * HOUR, 1),
    Question(A_DAY, "candles_1s", DAY, 1),
    Question("a day of 1s, as known", "candles_1s", DAY, 1, known=True),
    Question("30 days of 1m", "candles", 30 * DAY, 60),
    Question("2 hours of trades", "trades", 2 * HOUR),
    Question("12 hours of trades", "trades", 12 * HOUR),
    Question("imbalances of a day", "imbalances", DAY),
)


def run(options: Options) -> Report:
    week = Week.of(options.quick)
    with daemon_with_week(week, Profile.TIMESCALE) as (daemon, stored):
        ids = [instrument.id for instrument in stored.instruments]
        return asyncio.run(measured(daemon.dsn, week, ids, 3 if options.quick else ROUNDS))


async def measured(dsn: str, week: Week, ids: list[int], rounds: int) -> Report:
    report = Report("batches", "answers out of the columnstore, as rows and as batches")
    report.facts = {"rounds": rounds, "compiled part": compiled.STANDING}
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "marketd,public"})
    await close(connection)
    await connection.close()
    read_batches.LEAST_ROWS = 1
    async with DatabaseConnectionManager(dsn, actor="bench", read_only=True) as database:
        for question in QUESTIONS:
            await _compare(database, week, ids, rounds, question, report)
    day = next(row["batches: p50 ms"] for row in report.rows if row["question"] == A_DAY)
    report.goals.append(Goal(f"{A_DAY}, batches, p50", A_DAY_MS, day, True, " ms"))
    return report


async def _compare(
    database: DatabaseConnectionManager, week: Week, ids: list[int], rounds: int, question: Question, report: Report
) -> None:
    random = np.random.default_rng(11)
    taken: dict[bool, list[tuple[float, ...]]] = {True: [], False: []}
    records = []
    for number in range(rounds + 1):
        start = week.start_ns(question.table)
        seconds = min(question.seconds, (week.end_ns - start) // NS_PER_SECOND)
        start += int(random.integers(0, (week.end_ns - start) // NS_PER_SECOND - seconds + 1)) * NS_PER_SECOND
        span = Span(start, start + seconds * NS_PER_SECOND)
        found: dict[bool, Records] = {}
        for batches in (number % 2 == 0, number % 2 == 1):
            found[batches], times = await _read(database, ids[number % len(ids)], question, span, batches)
            if number:  # the first round warms up
                taken[batches].append(times)
        if found[True].tobytes() != found[False].tobytes():
            raise RuntimeError(f"{question.name}: batches and rows give different answers")
        records.append(len(found[True]))
    row: dict[str, Any] = {"question": question.name, "records": int(np.median(records))}
    for batches, name in ((False, "rows"), (True, "batches")):
        clock, server, reader = (np.array(taken[batches]) * MS).T
        row |= {f"{name}: p50 ms": float(np.median(clock)), f"{name}: least ms": float(clock.min())}
        row |= {f"{name}: server ms": float(np.median(server)), f"{name}: reader ms": float(np.median(reader))}
    report.rows.append(row)


async def _read(
    database: DatabaseConnectionManager, instrument: int, question: Question, span: Span, batches: bool
) -> tuple[Records, tuple[float, float, float]]:
    """The records of an answer; seconds by the clock, of the server's processor and of ours."""
    async with one_picture(database, time.monotonic() + _TIMEOUT_SECONDS) as connection:
        spent = Path(f"/proc/{connection.get_server_pid()}/schedstat")
        began = time.perf_counter(), _seconds(spent), time.process_time()
        records = await _records(connection, instrument, question, span, batches)
        ended = time.perf_counter(), _seconds(spent), time.process_time()
    clock, server, reader = (after - before for after, before in zip(ended, began, strict=True))
    return records, (clock, server, reader)


def _seconds(spent: Path) -> float:
    return int(spent.read_text().split()[0]) / NS_PER_SECOND


async def _records(
    connection: type_connection, instrument: int, question: Question, span: Span, batches: bool
) -> Records:
    options: Any = {"known_at": span.end if question.known else None, "pictured": batches}
    if question.timeframe:
        bars = await read_bars(connection, instrument, question.timeframe, span, **options)
        return finish_bars(bars.records(), "best", None)
    if question.table == "trades":
        rows = await read_rows(connection, instrument, BY_NAME["trade"], span, **options)
    else:
        rows = await read_versions(connection, instrument, BY_NAME["imbalance"], span, **options)
    return finish_rows(rows.records(), None)
