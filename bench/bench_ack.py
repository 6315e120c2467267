"""From a message of one trade to its acknowledgement from disk, at 10,000 messages a second over 50 instruments.

An open loop: messages go out by the clock whatever the answers do. `since due` begins when a message should have gone
(so a producer that falls behind makes it worse); `since sent` when it was handed to ZeroMQ.

After each rate the same producer sends at the same rate to a bare echo (`echo.py`): the floor, below which producer,
ZeroMQ and this machine let nobody go. What is marketd's own is the ratio to it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from daemon_under_test import CpuMeter, DaemonUnderTest, daemon_under_test
from echo import GATHER_NS, echo
from options import Options
from profiling import profiled
from report import Goal, Report, quantiles
from traffic import Load, Traffic

MESSAGES_PER_SECOND = 10_000  # of the goal
RATES = (MESSAGES_PER_SECOND, 5_000, 2_000)
INSTRUMENTS = 50
SECONDS = 20.0
WARM_SECONDS = 3.0
NS_PER_MS = 1e6


def run(options: Options) -> Report:
    seconds = options.seconds or (4.0 if options.quick else SECONDS)
    report = Report("ack", f"single trades, each a message, over {INSTRUMENTS} instruments")
    report.facts["the floor"] = f"a bare ZeroMQ echo that gathers for {GATHER_NS / NS_PER_MS:g} ms, after each rate"
    with daemon_under_test() as daemon, profiled(options, "ack", daemon.pids()):
        for rate in RATES:
            _at_rate(report, daemon, rate, seconds)
    return report


def _at_rate(report: Report, daemon: DaemonUnderTest, rate: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as place:
        load = Load(
            runtime_dir=str(daemon.runtime_dir),
            prefix=f"R{rate}N",  # trades of other ids: new instruments
            instruments=INSTRUMENTS,
            rate=rate,
            seconds=seconds + WARM_SECONDS,
            latencies=str(Path(place) / "latencies.npy"),
        )
        traffic = Traffic(load)
        try:
            flushes, flush_ns = _syncs(daemon)
            meter = CpuMeter(daemon)
            traffic.start()
            summary = traffic.finish()
            used = meter.read(summary.cpu_seconds)
        finally:
            traffic.kill()
        after_flushes, after_ns = _syncs(daemon)
        latencies, floor = _latencies(load), _floor(load)
    flushes, flush_ns = after_flushes - flushes, after_ns - flush_ns
    report.facts[f"at {rate:,} a second"] = {
        "answers counted": len(latencies),
        "messages a disk flush": round(summary.accepted / max(1, flushes), 1),
        "mean disk flush, ms": round(flush_ns / max(1, flushes) / NS_PER_MS, 2),
        "cores used": used,
    }
    for name, column in (("since due", 0), ("since sent", 1)):
        found = quantiles(latencies[:, column], NS_PER_MS)
        lowest = quantiles(floor[:, column], NS_PER_MS)
        report.rows.append(
            {
                "messages/s": rate,
                "latency": name,
                **{f"{q} ms": value for q, value in found.items()},
                **{f"floor {q} ms": value for q, value in lowest.items()},
                **{f"{q}, times the floor": round(found[q] / lowest[q], 2) for q in ("p50", "p99")},
            }
        )
        if rate == MESSAGES_PER_SECOND:
            report.goals.append(Goal(f"p99 {name}, {rate:,} a second", 5.0, found["p99"], True, " ms"))


def _latencies(load: Load) -> npt.NDArray[np.int64]:
    """ns since due and since sent, one row an answer, without those of the first seconds."""
    found: npt.NDArray[np.int64] = np.load(load.latencies)[round(WARM_SECONDS * load.rate) :]
    return found


def _floor(load: Load) -> npt.NDArray[np.int64]:
    """As `_latencies`, of a bare echo under the same load."""
    with tempfile.TemporaryDirectory() as place, echo(Path(place)):
        load = msgspec.structs.replace(load, runtime_dir=place, latencies=str(Path(place) / "latencies.npy"))
        traffic = Traffic(load)
        try:
            traffic.start()
            traffic.finish()
        finally:
            traffic.kill()
        return _latencies(load)


def _syncs(daemon: DaemonUnderTest) -> tuple[int, int]:
    """(flushes, ns they took) so far."""
    for actor in daemon.status().actors:
        if actor.name == "ingest":
            journal = actor.statistics["journal"]
            return journal["syncs"], journal["sync_ns"]
    raise RuntimeError("the daemon has no ingest actor")
