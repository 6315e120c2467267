"""Does upkeep of the database hold up ingest? Acknowledgements and the writer's lag, second by second, while it runs.

10,000 trades a second come in, ten a message, by the clock (an open loop: a stall counts for every message that was due
in it). Meanwhile a week of ten symbols is compressed or packed, its longer bars are refreshed (TimescaleDB), and all of
it is dropped. Between the phases is a rest, so that what a phase leaves behind is seen. docs/upkeep.svg shows it.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import numpy as np
import numpy.typing as npt
from closing import close, refresh
from daemon_under_test import DaemonUnderTest, profiles
from options import Options
from profiling import profiled
from report import Goal, Report
from svg_plot import Panel, Series, Span, draw
from traffic import VENUE, Load, Traffic
from week import SYMBOLS, WEEK_TABLES, Week, daemon_with_week

from marketd.ipc import paths
from marketd.ipc.arena_reader import ArenaReader
from marketd.sql.profiles import Profile
from marketd.sql.retention import drop_old_pieces

MESSAGES_PER_SECOND, TRADES_A_MESSAGE = 1_000, 10
REST_SECONDS = 10.0
LOAD_SECONDS = 1_800.0  # at most
LOOK_SECONDS = 0.1  # between two looks at the lag
NS_PER_MS, MIB = 1e6, 2**20
STALL_MS = 1_000.0  # what an acknowledgement may take at most
PICTURE = Path(__file__).resolve().parents[1] / "docs" / "upkeep.svg"


class Phase(NamedTuple):
    """What ran from when to when, in seconds since the load began."""

    name: str
    start: float
    end: float


class Course(NamedTuple):
    """What was seen: latency of each message (ms) at the second when it was due, lag (MiB) at the second of a look."""

    due: npt.NDArray[np.float64]
    latency: npt.NDArray[np.float64]
    looked: npt.NDArray[np.float64]
    lag: npt.NDArray[np.float64]
    phases: list[Phase]

    def latencies(self, start: float, end: float) -> npt.NDArray[np.float64]:
        return self.latency[(self.due >= start) & (self.due < end)]

    def lags(self, start: float, end: float) -> npt.NDArray[np.float64]:
        return self.lag[(self.looked >= start) & (self.looked < end)]


def run(options: Options) -> Report:
    week = Week.of(options.quick)
    rate = MESSAGES_PER_SECOND * TRADES_A_MESSAGE
    report = Report("upkeep", f"{rate:,} trades a second while a week is compressed or packed, refreshed and dropped")
    courses = {}
    for profile in profiles():
        with (
            daemon_with_week(week, profile) as (daemon, _),
            profiled(options, f"upkeep.{profile}", daemon.pids()),
        ):
            courses[profile] = _course(daemon, week, 2.0 if options.quick else REST_SECONDS)
        _tell(report, profile, courses[profile])
    if not (options.quick or options.profile):
        PICTURE.write_text(draw("Upkeep beside ingest", _panels(courses)))
        report.facts["picture"] = "docs/upkeep.svg"
    return report


# ---- one profile ----------------------------------------------------------------------------------


def _course(daemon: DaemonUnderTest, week: Week, rest_seconds: float) -> Course:
    with tempfile.TemporaryDirectory() as place:
        load = _load(daemon, str(Path(place) / "latencies.npy"))
        traffic = Traffic(load)
        try:
            began = time.monotonic()
            traffic.start()
            with _lag_watch(daemon.runtime_dir, began) as looks:
                phases = asyncio.run(_upkeep(daemon.dsn, week, began, rest_seconds))
            traffic.interrupt()
            traffic.finish()
        finally:
            traffic.kill()
        latencies = np.load(load.latencies)[:, 0] / NS_PER_MS
    looked, lag = np.array(looks).T
    # messages are due by the clock and answered nearly in their order: the nth was due at n / rate
    return Course(np.arange(len(latencies)) / load.rate, latencies, looked, lag / MIB, phases)


def _load(daemon: DaemonUnderTest, latencies: str) -> Load:
    return Load(
        runtime_dir=str(daemon.runtime_dir),
        instruments=SYMBOLS,
        batch=TRADES_A_MESSAGE,
        rate=MESSAGES_PER_SECOND,
        seconds=LOAD_SECONDS,
        latencies=latencies,
    )


@contextmanager
def _lag_watch(runtime_dir: Path, began: float) -> Iterator[list[tuple[float, int]]]:
    """Looks at the writer's lag until the end: (seconds, bytes)."""
    looks: list[tuple[float, int]] = []
    stop = threading.Event()

    def look() -> None:
        with ArenaReader.open(paths.arena_path(runtime_dir, f"SYM0USD.{VENUE}")) as arena:
            while not stop.wait(LOOK_SECONDS):
                looks.append((time.monotonic() - began, arena.durable_offset - arena.committed_offset))

    thread = threading.Thread(target=look, name="lag watch")
    thread.start()
    try:
        yield looks
    finally:
        stop.set()
        thread.join()


async def _upkeep(dsn: str, week: Week, began: float, rest_seconds: float) -> list[Phase]:
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "marketd,public"})
    work: dict[str, Callable[[asyncpg.Connection[Any]], Awaitable[object]]] = {
        "closing": close,
        "refreshing": lambda connection: refresh(connection, *week.days()),
        "dropping": _drop,
    }
    phases = []
    await asyncio.sleep(rest_seconds)
    for name, run_it in work.items():
        start = time.monotonic() - began
        await run_it(connection)
        phases.append(Phase(name, start, time.monotonic() - began))
        await asyncio.sleep(rest_seconds)
    await connection.close()
    return phases


async def _drop(connection: asyncpg.Connection[Any]) -> None:
    """All pieces that are over, as retention does it."""
    for table in WEEK_TABLES:
        await drop_old_pieces(connection, table, datetime.now(UTC))


# ---- what is told ---------------------------------------------------------------------------------


def _tell(report: Report, profile: Profile, course: Course) -> None:
    first, last = course.phases[0].start, course.phases[-1].end
    stretches = [Phase("before", first / 2, first), *course.phases, Phase("after", last + (first / 2), last + first)]
    for phase in stretches:
        latencies, lags = course.latencies(phase.start, phase.end), course.lags(phase.start, phase.end)
        row: dict[str, Any] = {"profile": str(profile), "phase": phase.name, "seconds": phase.end - phase.start}
        if len(latencies) and len(lags):
            p50, p99 = np.quantile(latencies, [0.5, 0.99])
            row |= {"ack p50 ms": p50, "ack p99 ms": p99, "longest ms": latencies.max(), "lag MiB, most": lags.max()}
        report.rows.append(row)
    longest = float(course.latencies(first, last).max())
    report.goals.append(Goal(f"{profile}: longest acknowledgement meanwhile", STALL_MS, longest, True, " ms"))
    before, after = course.lags(0.0, first).max(), course.lags(last + first / 2, last + first).max()
    what = f"{profile}: lag after it, of the lag before"
    report.goals.append(Goal(what, 2.0, float(after / max(before, 0.1)), True, " times"))


def _panels(courses: dict[Profile, Course]) -> list[Panel]:
    panels = []
    for profile, course in courses.items():
        spans = [Span(phase.name, phase.start, phase.end) for phase in course.phases]
        end = float(course.due[-1])
        worst = _by_second(course.due, course.latency, max)
        middle = _by_second(course.due, course.latency, np.median)
        panels.append(
            Panel(f"{profile}: acknowledgement, ms", [Series("longest", worst), Series("median", middle)], spans, end)
        )
        lag = list(zip(course.looked.tolist(), course.lag.tolist(), strict=True))
        panels.append(Panel(f"{profile}: the writer's lag, MiB", [Series("lag", lag)], spans, end))
    return panels


def _by_second(
    at: npt.NDArray[np.float64], values: npt.NDArray[np.float64], of: Callable[[Any], Any]
) -> list[tuple[float, float]]:
    edges = np.searchsorted(at, np.arange(int(at[-1]) + 1))
    return [(float(number), float(of(part))) for number, part in enumerate(np.split(values, edges[1:])) if len(part)]
