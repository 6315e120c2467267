"""A soak: everything on for N minutes, and then: is memory flat, are file descriptors flat, and what did the logs say?

    bench/soak.py --minutes 20 --profile postgres

An exchange (synthetic: trades, books, repair), a producer, readers, and upkeep of the database that never ends: stored
hours are added, compressed or packed, refreshed, dropped. Some half a core in all: it may run in the background.
The first quarter of the time does not count for memory and descriptors: caches and rings fill.

Prints tables and a verdict, writes results/soak.<profile>.json, and exits with 1 when something was not as it should:
a process that grew or was started again, a WARNING or ERROR whose action docs/operations.md does not name.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg
import numpy as np
from closing import close, refresh
from daemon_under_test import MARKETD, DaemonUnderTest, daemon_under_test
from recorded_rows import TABLES, keep_recorded
from report import Goal, Report
from soak_logs import spoken
from soak_watch import ProcessWatch
from traffic import Load, Traffic
from week import HOUR, Week, declare, fill
from week_questions import QUESTIONS, Client, chosen

from marketd.market.instruments import Instrument
from marketd.market.times import NS_PER_SECOND
from marketd.ops.verbs.emulate import config_lines
from marketd.sql.profiles import Profile
from marketd.sql.retention import drop_old_pieces

SYMBOLS, TRADES_PER_SECOND = ("BTCUSDT", "ETHUSDT", "SOLUSDT"), 20
MESSAGES_PER_SECOND, TRADES_A_MESSAGE = 100, 10
LOOK_SECONDS = 5.0
QUESTION_SECONDS = 0.5  # between two questions
UPKEEP_SECONDS = 60.0  # between two rounds of it
ROUNDS_KEPT = 5  # then what was stored is dropped
STORED = ("trades", "book_snapshots")
# PostgreSQL's checkpointer keeps the files that it wrote open until the next checkpoint: each quarter has some.
SETTINGS = """
[log]
format = "json"
[book]
deltas = true
[embedded.settings]
checkpoint_timeout = "1min"
"""


def main() -> int:
    args = _arguments()
    report = soak(Profile(args.profile), args.minutes * 60)
    report.quick = args.minutes < 20
    report.keep()
    if args.json:
        print(json.dumps(report.plain(), indent=2))
    else:
        report.show()
    return 0 if all(goal.met for goal in report.goals) else 1


def soak(profile: Profile, seconds: float) -> Report:
    report = Report(f"soak.{profile}", f"{seconds / 60:g} minutes with everything on, {profile}")
    keep_recorded()
    with _exchange() as lines, daemon_under_test(SETTINGS + lines, profile) as daemon:
        instruments = declare(daemon)
        watch = ProcessWatch(daemon)
        with ExitStack() as loads:
            for load in (_traffic(daemon, seconds), _questions(daemon, instruments), _upkeep(daemon, instruments)):
                loads.enter_context(load)
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                time.sleep(min(LOOK_SECONDS, left))
                watch.look()
            report.facts["health at the end"] = daemon.status().problems or "ok"
        report.rows = watch.table()
        found = spoken(daemon.home)
    report.facts["WARNING and ERROR lines, by action"] = found.named or "none"
    report.facts["… that the runbook does not name"] = found.unnamed or "none"
    for what, worst in watch.growth().items():
        report.goals.append(Goal(f"{what}: most that a process grew beyond what is allowed", 0.0, worst, True))
    report.goals.append(Goal("processes that were started again", 0, watch.restarts, True))
    report.goals.append(Goal("lines that the runbook does not name", 0, sum(found.unnamed.values()), True))
    return report


# ---- the loads, each until the end ----------------------------------------------------------------


@contextmanager
def _exchange() -> Iterator[str]:
    """A synthetic one; the lines of a configuration that point a daemon to it."""
    command = [*MARKETD, "emulate", "--synthetic", "--json", "--rate", str(TRADES_PER_SECOND)]
    process = subprocess.Popen([*command, "--symbols", ",".join(SYMBOLS)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        drain = threading.Thread(target=process.stdout.read, name="exchange's progress", daemon=True)
        drain.start()
        yield config_lines(told["ws_url"], told["rest_url"], SYMBOLS)
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextmanager
def _traffic(daemon: DaemonUnderTest, seconds: float) -> Iterator[None]:
    load = Load(
        runtime_dir=str(daemon.runtime_dir),
        instruments=10,
        batch=TRADES_A_MESSAGE,
        rate=MESSAGES_PER_SECOND,
        seconds=seconds + HOUR,
    )
    traffic = Traffic(load)
    try:
        traffic.start()
        yield
        traffic.interrupt()
        traffic.finish()
    finally:
        traffic.kill()


@contextmanager
def _repeated(name: str, every_seconds: float, act: Callable[[], object]) -> Iterator[None]:
    """Act again and again in a thread; what it raised is raised at the end."""
    stop, failed = threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            while not stop.wait(every_seconds):
                act()
        except BaseException as error:  # raised again by the thread that waits for this one
            failed.append(error)

    thread = threading.Thread(target=run, name=name)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failed:
        raise RuntimeError(f"{name} ended early") from failed[0]


@contextmanager
def _questions(daemon: DaemonUnderTest, instruments: list[Instrument]) -> Iterator[None]:
    client, random, week = Client(str(daemon.runtime_dir)), np.random.default_rng(5), Week.of(quick=True)

    def ask() -> None:
        question = QUESTIONS[int(random.integers(len(QUESTIONS)))]
        client.ask(chosen(question, week, instruments, random, bool(random.integers(2))))

    try:
        with _repeated("questions", QUESTION_SECONDS, ask):
            yield
    finally:
        client.close()


@contextmanager
def _upkeep(daemon: DaemonUnderTest, instruments: list[Instrument]) -> Iterator[None]:
    """Each round stores the hour before the one of the round before, and closes it."""
    rounds = 0

    def act() -> None:
        nonlocal rounds
        asyncio.run(_round(daemon.dsn, instruments, rounds))
        rounds += 1

    with _repeated("upkeep", UPKEEP_SECONDS, act):
        yield


async def _round(dsn: str, instruments: list[Instrument], number: int) -> None:
    connection: asyncpg.Connection[Any] = await asyncpg.connect(dsn, server_settings={"search_path": "marketd,public"})
    try:
        if number % ROUNDS_KEPT == ROUNDS_KEPT - 1:
            for table in STORED:
                await drop_old_pieces(connection, table, datetime.now(UTC))
        week = Week.of(quick=True)
        earlier = week._replace(end_ns=week.end_ns - number * HOUR * NS_PER_SECOND)
        await fill(dsn, earlier, instruments, tuple(TABLES))
        await close(connection)
        await refresh(connection, *earlier.days())
    finally:
        await connection.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="how long (default 20)")
    parser.add_argument("--profile", choices=list(Profile), default=Profile.TIMESCALE, help="of the database")
    parser.add_argument("--json", action="store_true", help="the report as JSON instead of tables")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
