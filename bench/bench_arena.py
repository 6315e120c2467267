"""Reading live bars on the same host, while ingest takes 10,000 trades a second.

Calls of all ways are interleaved in rounds, so that each sees the same machine. The arena's own calls are measured
too at a slower pace (`PAUSE_SECONDS` between two), as a trading loop makes them: caches are cold then, and the
processor may have slept.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from daemon_under_test import daemon_under_test, wait_for
from options import Options
from profiling import profiled
from report import Goal, Report, quantiles
from rivals import rivals
from traffic import VENUE, Load, Traffic

from marketd.client.cache import DataCacheManager
from marketd.ipc.arena_reader import ArenaReader
from marketd.ipc.paths import arena_path

TRADES_PER_SECOND = 10_000
BATCH = 10
INSTRUMENTS = 10
WINDOW = 300
SYMBOL = f"SYM0USD.{VENUE}"
RING = "candle.1s.own"
ROUNDS, CALLS = 50, 2_000
PAUSE_SECONDS = 0.001
MOST_SECONDS = 900.0  # of the trades meanwhile; they end with the benchmark
HERE = Path(__file__).parent
CACHE, READER, IN_C = "DataCacheManager.get_latest_ohlcv", "ArenaReader.last", "marketd.h, in C"
CACHE_ANEW, READER_ANEW = f"{CACHE}, all new", f"{READER}, all new"
ONE, MANY = "last bar", f"{WINDOW} bars"

Read = Callable[[], object]


def run(options: Options) -> Report:
    rounds = 5 if options.quick else ROUNDS
    report = Report("arena", f"reads of live bars while ingest takes {TRADES_PER_SECOND:,} trades a second")
    with daemon_under_test() as daemon:
        load = Load(
            runtime_dir=str(daemon.runtime_dir),
            instruments=INSTRUMENTS,
            batch=BATCH,
            rate=TRADES_PER_SECOND / BATCH,
            seconds=MOST_SECONDS,
            history_seconds=WINDOW + 60,
        )
        traffic = Traffic(load)
        try:
            traffic.start()
            with (
                DataCacheManager(str(daemon.runtime_dir)) as cache,
                ArenaReader.open(arena_path(daemon.runtime_dir, SYMBOL)) as reader,
            ):
                wait_for(lambda: len(reader.last(RING, WINDOW)[0]) == WINDOW, 30.0, "the arena's bars")
                values = {ONE: reader.last(RING, 1)[0].tobytes(), MANY: reader.last(RING, WINDOW)[0].tobytes()}
                with rivals(values) as others, profiled(options, "arena", daemon.pids()):
                    ways: dict[str, dict[str, Read]] = {
                        CACHE: {
                            ONE: lambda: cache.get_latest_ohlcv(SYMBOL, "1s", 1),
                            MANY: lambda: cache.get_latest_ohlcv(SYMBOL, "1s", WINDOW),
                        },
                        READER: {
                            ONE: lambda: reader.last(RING, 1),
                            MANY: lambda: reader.last(RING, WINDOW),
                        },
                        CACHE_ANEW: {
                            ONE: lambda: _anew(cache).get_latest_ohlcv(SYMBOL, "1s", 1),
                            MANY: lambda: _anew(cache).get_latest_ohlcv(SYMBOL, "1s", WINDOW),
                        },
                        READER_ANEW: {
                            ONE: lambda: _anew(reader).last(RING, 1),
                            MANY: lambda: _anew(reader).last(RING, WINDOW),
                        },
                    }
                    before = reader.cut().seq
                    started = time.monotonic()
                    found = measure(ways | others, rounds)
                    found |= measure_in_c(reader.path, rounds * CALLS)
                    taken = (reader.cut().seq - before) * INSTRUMENTS / (time.monotonic() - started)
                    slow = measure_slowly(ways | others, 300 if options.quick else 3_000)
        finally:
            traffic.kill()
    report.facts = {
        "records a second into the arenas meanwhile": taken,
        "calls of each way": rounds * CALLS,
        "bytes": {name: len(value) for name, value in values.items()},
    }
    for (way, what), latencies in found.items():
        report.rows.append(_row(way, what, "one after the other", latencies))
    for (way, what), latencies in slow.items():
        report.rows.append(_row(way, what, "one a millisecond", latencies))
    report.goals = list(_goals(found))
    return report


def _anew(reader: Any) -> Any:
    """As if something had been published since its last answer."""
    reader._repeated.clear()
    return reader


def measure(ways: dict[str, dict[str, Read]], rounds: int) -> dict[tuple[str, str], np.ndarray]:
    """Nanoseconds of each call, by way and value."""
    reads = {(way, what): read for way, each in ways.items() for what, read in each.items()}
    taken = {key: np.zeros((rounds, CALLS), dtype=np.int64) for key in reads}
    clock = time.perf_counter_ns
    for number in range(rounds):
        for key, read in reads.items():
            for _ in range(20):
                read()
            times = [0] * CALLS
            for index in range(CALLS):
                started = clock()
                read()
                times[index] = clock() - started
            taken[key][number] = times
    return {key: times.ravel() for key, times in taken.items()}


def measure_in_c(path: Path, calls: int) -> dict[tuple[str, str], np.ndarray]:
    """The same two reads with ipc/marketd.h, in a process of its own; nothing where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return {}
    with tempfile.TemporaryDirectory() as place:
        program = Path(place) / "read_arena"
        options = ["-O2", "-std=c11", "-I", str(HERE.parent / "ipc"), "-o", str(program)]
        subprocess.run([compiler, *options, str(HERE / "read_arena.c")], check=True)
        found = {}
        for what, count in ((ONE, 1), (MANY, WINDOW)):
            command = [str(program), str(path), RING, str(count), str(calls)]
            taken = subprocess.run(command, check=True, capture_output=True).stdout
            found[IN_C, what] = np.frombuffer(taken, dtype=np.int64)
    return found


def measure_slowly(ways: dict[str, dict[str, Read]], calls: int) -> dict[tuple[str, str], np.ndarray]:
    reads = {(way, what): read for way, each in ways.items() for what, read in each.items()}
    taken = {key: np.zeros(calls, dtype=np.int64) for key in reads}
    for number in range(calls):
        for key, read in reads.items():
            time.sleep(PAUSE_SECONDS)
            started = time.perf_counter_ns()
            read()
            taken[key][number] = time.perf_counter_ns() - started
    return taken


def _row(way: str, what: str, pace: str, latencies: np.ndarray) -> dict[str, object]:
    return {"way": way, "what": what, "pace": pace, **{f"{q} µs": v for q, v in quantiles(latencies).items()}}


def _goals(found: dict[tuple[str, str], np.ndarray]) -> list[Goal]:
    figures = {key: quantiles(times) for key, times in found.items()}
    goals = []
    for way in (CACHE, READER):
        goals.append(Goal(f"p99 of the last bar, {way}", 10.0, figures[way, ONE]["p99"], True, " µs"))
        goals.append(Goal(f"p99 of {WINDOW} bars, {way}", 20.0, figures[way, MANY]["p99"], True, " µs"))
    ours = [way for way, what in found if way in (CACHE, READER, IN_C) and what == ONE]
    for rival in (way for way, what in found if way.startswith("Redis") and what == ONE):
        for way in ours:
            for what in (ONE, MANY):
                ratio = figures[rival, what]["p50"] / figures[way, what]["p50"]
                goals.append(Goal(f"p50 of {rival} over {way}, {what}", 40.0, ratio, False, " times"))
    return goals
