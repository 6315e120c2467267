"""How long answers about the week take while 10,000 rows a second come in: through the client's API, and as bare SQL.

Each question is asked of a symbol and a stretch that are drawn anew each time, once through the API and twice by hand
(as rows of the driver, and as a COPY that nobody reads), in turns; as it is, and
as it was known at the end of the stretch; first of rows, then of what they were closed into.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import asyncpg
import numpy as np
from closing import close
from daemon_under_test import DaemonUnderTest, profiles
from options import Options
from profiling import profiled
from report import Goal, Report
from traffic import VENUE, Load, Traffic
from week import SYMBOLS, Week, daemon_with_week
from week_questions import QUESTIONS, Asked, BareSql, Client, Question, chosen

from marketd.client.provider import UnifiedDataProvider
from marketd.market.instruments import Instrument
from marketd.sql.profiles import Profile

ROUNDS = 60
ROWS_PER_SECOND, ROWS_A_MESSAGE = 10_000, 100
LOAD_SECONDS = 3600.0  # at most: it is ended when all is answered
SETTLE_SECONDS = 3.0
MS = 1e3
P99_MS, OF_BARE = 100.0, 1.3
A_DAY_MS = {Profile.TIMESCALE: 40.0, Profile.POSTGRES: 15.0}  # p50 of a day of 1s, closed
CLOSED = "closed"  # compressed or packed; else "rows"
A_DAY = "a day of 1s"
LAST_BARS = f"last bar of all {SYMBOLS} symbols"


def run(options: Options) -> Report:
    week, rounds = Week.of(options.quick), 10 if options.quick else ROUNDS
    report = Report("query", f"answers about a week of ten symbols while {ROWS_PER_SECOND:,} rows a second come in")
    report.facts = {"rounds": rounds}
    for profile in profiles():
        with (
            daemon_with_week(week, profile) as (daemon, stored),
            profiled(options, f"query.{profile}", daemon.pids()),
        ):
            asyncio.run(_measure(daemon, week, stored.instruments, rounds, profile, report))
    _set_goals(report)
    return report


async def _measure(
    daemon: DaemonUnderTest,
    week: Week,
    instruments: list[Instrument],
    rounds: int,
    profile: Profile,
    report: Report,
) -> None:
    connection = await asyncpg.connect(daemon.dsn, server_settings={"search_path": "marketd,public"})
    traffic = Traffic(_load(daemon))
    try:
        traffic.start()
        await asyncio.sleep(SETTLE_SECONDS)
        await _ask_all(daemon, week, instruments, connection, rounds, report, (profile, "rows"))
        took = await close(connection)
        report.facts[f"{profile}: seconds to close the week"] = took
        await _ask_all(daemon, week, instruments, connection, rounds, report, (profile, CLOSED))
        if not traffic.running:
            raise RuntimeError("the load ended before the questions did")
    finally:
        traffic.kill()
        await connection.close()


def _load(daemon: DaemonUnderTest) -> Load:
    return Load(
        runtime_dir=str(daemon.runtime_dir),
        instruments=SYMBOLS,
        batch=ROWS_A_MESSAGE,
        rate=ROWS_PER_SECOND / ROWS_A_MESSAGE,
        seconds=LOAD_SECONDS,
    )


async def _ask_all(
    daemon: DaemonUnderTest,
    week: Week,
    instruments: list[Instrument],
    connection: asyncpg.Connection[Any],
    rounds: int,
    report: Report,
    where: tuple[Profile, str],
) -> None:
    random = np.random.default_rng(11)
    client, bare = Client(str(daemon.runtime_dir)), BareSql(connection)
    taken: dict[tuple[Question, bool], list[tuple[float, ...]]] = {}
    try:
        for number in range(rounds + 1):
            for question in QUESTIONS:
                for known in (False, True):
                    asked = chosen(question, week, instruments, random, known)
                    times, counts = await _ask(client, bare, asked)
                    if not counts[0] or len(set(counts)) > 1:
                        raise RuntimeError(f"{question.name}: {counts} records of the API and by hand")
                    if number:  # the first round warms up
                        taken.setdefault((question, known), []).append(times)
    finally:
        client.close()
    _tell_last_bars(report, where, _last_bars(str(daemon.runtime_dir), rounds))
    for (question, known), times in taken.items():
        _tell(report, where, question, known, np.array(times) * MS)


async def _ask(client: Client, bare: BareSql, asked: Asked) -> tuple[tuple[float, ...], list[int]]:
    """Seconds and records: of the API, of rows by hand, of a COPY by hand."""
    at, counts = [time.perf_counter()], []
    for ask in (client.ask, bare.fetch, bare.copy):
        found = ask(asked)
        counts.append(found if isinstance(found, int) else await found)
        at.append(time.perf_counter())
    return tuple(np.diff(at).tolist()), counts


def _last_bars(runtime_dir: str, rounds: int) -> list[float]:
    names = [f"SYM{number}USD.{VENUE}" for number in range(SYMBOLS)]
    taken = []
    with UnifiedDataProvider(runtime_dir) as provider:
        for number in range(rounds + 1):
            began = time.perf_counter()
            bars = [provider.get_latest_ohlcv(name, "1s") for name in names]
            if number:  # the first one attaches to shared memory
                taken.append((time.perf_counter() - began) * MS)
            if not all(len(bar) == 1 for bar in bars):
                raise RuntimeError("a symbol has no last bar")
            time.sleep(0.01)  # something new each time
    return taken


def _tell_last_bars(report: Report, where: tuple[Profile, str], taken: list[float]) -> None:
    p50, p99 = np.quantile(taken, [0.5, 0.99]).tolist()
    report.rows.append(
        {"question": LAST_BARS, "profile": str(where[0]), "of": "shared memory", "p50 ms": p50, "p99 ms": p99}
    )
    report.goals.append(Goal(f"{LAST_BARS}, {where[0]}, p99", P99_MS, p99, True, " ms"))


def _tell(report: Report, where: tuple[Profile, str], question: Question, known: bool, times: Any) -> None:
    profile, state = where
    (p50, p99), (bare_p50, bare_p99), (copy_p50, _) = np.quantile(times, [0.5, 0.99], axis=0).T.tolist()
    name = f"{question.name}{', as known' if known else ''}"
    report.rows.append(
        {
            "question": name,
            "profile": str(profile),
            "of": state,
            "p50 ms": p50,
            "p99 ms": p99,
            "bare p50 ms": bare_p50,
            "bare p99 ms": bare_p99,
            "of bare": p50 / bare_p50,
            "bare COPY p50 ms": copy_p50,
        }
    )


def _set_goals(report: Report) -> None:
    """Of each profile and state the worst of all questions, and a day of 1s of what is closed."""
    for profile, state in sorted({(row["profile"], row["of"]) for row in report.rows if "of bare" in row}):
        rows = [row for row in report.rows if (row["profile"], row["of"]) == (profile, state)]
        slowest = max(rows, key=lambda row: row["p99 ms"])
        what = f"{profile}, {state}: slowest p99 ({slowest['question']})"
        report.goals.append(Goal(what, P99_MS, slowest["p99 ms"], True, " ms"))
        dearest = max(rows, key=lambda row: row["of bare"])
        what = f"{profile}, {state}: most of bare SQL ({dearest['question']})"
        report.goals.append(Goal(what, OF_BARE, dearest["of bare"], True, " times"))
        a_day = next(row["p50 ms"] for row in rows if row["question"] == A_DAY)
        if state == CLOSED:
            report.goals.append(
                Goal(f"{profile}, {state}: {A_DAY}, p50", A_DAY_MS[Profile(profile)], a_day, True, " ms")
            )
