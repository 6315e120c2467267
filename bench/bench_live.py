"""From an exchange's socket to the arena: what a trade and a change of the book take through a whole daemon.

A capture is played at its real speed and at ten times that by the exchange of `marketd emulate`, which notes when it
hands each frame to its socket. The daemon runs as a user runs it, with books, journal and database. A reader beside it
looks at the arenas every 0.2 ms or so, and notes when it first sees each record there. A latency is the time between
the two, by the one clock of this machine:

    trade   from its frame to its record
    book    from the frame that made the record due to the record: the change itself when it was told at once (a jump,
            or the interval was over), else the first frame whose time is an interval after the record before

The first third of a run, in which the connection is subscribed and the books come into step, does not count.

At ten times the real speed the same exchange then plays the same to a bare relay (`relay`): what the hops alone cost.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import psutil
from arena_watch import ArenaWatch, Seen
from daemon_under_test import CpuMeter, DaemonUnderTest, daemon_under_test
from options import Options
from profiling import profiled
from recorded_traffic import CAPTURES, Capture
from relay import Watch
from report import Goal, Report, quantiles

from marketd.daemon.feeds.adapter import BookDelta, Trades, VenueTime
from marketd.daemon.feeds.captures import CaptureReader
from marketd.daemon.feeds.survey import survey
from marketd.ipc.paths import arena_path
from marketd.market.records import BookFlag, BookState
from marketd.market.times import NS_PER_MS
from marketd.ops.verbs.emulate import config_lines

HERE = Path(__file__).parent
INTERVAL_NS = 100 * NS_PER_MS  # book.interval
WANTED_MS = 5.0  # p99 at ten times the real speed
PLAYED = (("COINBASE", ("1", "10")), ("BYBIT_LINEAR", ("1", "10")), ("BINANCE", ("10",)))
"""The busiest capture by messages a second, by bytes a second, and one of the deepest books (11 minutes)."""


class Sent(NamedTuple):
    """What the exchange sent of one instrument, in its order."""

    trades: dict[int, int]  # number of the frame by trade id
    changes: dict[int, int]  # number of the last frame with this time (ns) of the book
    times: list[int]  # the newest time of the venue, up to each frame
    sent_ns: list[int]  # of each frame


def run(options: Options) -> Report:
    report = Report("live", "from the exchange's socket to the arena, through a whole daemon with books")
    for venue, speeds in PLAYED:
        capture = next(capture for capture in CAPTURES if capture.venue == venue)
        if not capture.is_there:
            report.facts[venue] = "skipped: its files are not in shared/data"
            continue
        for speed in speeds[-1:] if options.quick else speeds:
            _measure(report, options, capture, speed)
        _measure_floor(report, capture, speeds[-1])
    return report


def _measure(report: Report, options: Options, capture: Capture, speed: str) -> None:
    with tempfile.TemporaryDirectory() as place, _exchange(capture, speed, Path(place) / "sent") as exchange:
        settings = config_lines(exchange.ws_url, exchange.rest_url, exchange.symbols, capture.venue)
        with daemon_under_test(settings) as daemon:
            names = [f"{symbol}.{capture.venue}" for symbol in exchange.symbols]
            with ArenaWatch(daemon.runtime_dir, names, ("trade", "book")) as watch:
                meter = CpuMeter(daemon)
                with profiled(options, f"live.{capture.venue}.{speed}", daemon.pids()):
                    exchange.wait_until_over()
                used = meter.read(0.0)
            sizes = _sizes(daemon, capture.venue, names)
        sent = _sent(capture, exchange)
    label = f"{capture.venue} at {speed}x"
    first_ns, last_ns = (pick(one.sent_ns[index] for one in sent.values()) for pick, index in ((min, 0), (max, -1)))
    counted_from = first_ns + (last_ns - first_ns) // 3
    latencies = {"trade": _trades(sent, watch, counted_from), "book": _books(sent, watch, counted_from)}
    for what, found in latencies.items():
        told = {f"{name} ms": value for name, value in quantiles(found, NS_PER_MS).items()} if len(found) else {}
        row = {"capture": label, "what": what, "records": len(found)}
        report.rows.append(row | {"p50 ms": "", "p99 ms": "", "p99.9 ms": ""} | told)
    frames = sum(len(one.sent_ns) for one in sent.values())
    report.facts[label] = {"frames a second": round(frames / ((last_ns - first_ns) / 1e9)), "cores": used, **sizes}
    both = np.concatenate(list(latencies.values()))
    if speed == "10" and len(both):
        p99 = quantiles(both, NS_PER_MS)["p99"]
        report.goals.append(Goal(f"p99 of trades and books, {label} real speed", WANTED_MS, p99, True, " ms"))


def _measure_floor(report: Report, capture: Capture, speed: str) -> None:
    """Every frame, by way of a relay that reads none of them."""
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as place,
        _exchange(capture, speed, Path(place) / "sent") as exchange,
    ):
        socket_url, counted = f"ipc://{place}/socket", Path(place) / "counted"
        relay = "relay", exchange.ws_url, capture.venue, socket_url, *exchange.symbols
        with Watch(counted) as watch, _relaying("write", socket_url, counted), _relaying(*relay):
            exchange.wait_until_over()
        sent_ns = np.array([line.recv_ns for line in CaptureReader(exchange.log)], dtype=np.int64)
    count = min(len(sent_ns), len(watch.seen_ns))
    found = (np.array(watch.seen_ns[:count], dtype=np.int64) - sent_ns[:count])[count // 3 :]
    row = {"capture": f"{capture.venue} at {speed}x", "what": "floor: a bare relay", "records": len(found)}
    report.rows.append(row | {f"{name} ms": value for name, value in quantiles(found, NS_PER_MS).items()})


@contextmanager
def _relaying(*arguments: str | Path) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, HERE / "relay.py", *map(os.fspath, arguments)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


# ---- the exchange ---------------------------------------------------------------------------------


class _Exchange(NamedTuple):
    process: subprocess.Popen[bytes]
    log: Path
    ws_url: str
    rest_url: str
    symbols: list[str]

    def wait_until_over(self) -> None:
        """Until all was sent, and what came of it has had time to arrive."""
        assert self.process.stdout is not None
        if self.process.stdout.readline() != b"ended\n":
            raise RuntimeError("the exchange ended before its recording did")


@contextmanager
def _exchange(capture: Capture, speed: str, log: Path) -> Iterator[_Exchange]:
    command = [sys.executable, HERE / "exchange_with_clock.py", capture.venue, speed, log, *capture.paths]
    process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        yield _Exchange(process, log, told["ws_url"], told["rest_url"], told["symbols"])
    finally:
        process.kill()
        process.communicate()


def _sent(capture: Capture, exchange: _Exchange) -> dict[str, Sent]:
    """By the instrument's name."""
    found = survey(capture.paths, capture.venue)
    adapter = found.adapter(book=True)
    sent = {instrument.symbol: Sent({}, {}, [], []) for instrument in found.instruments}
    for line in CaptureReader(exchange.log):
        times: dict[str, int] = {}
        for event in adapter.decode_many([line.payload]):
            if isinstance(event, (Trades, BookDelta, VenueTime)) and event.symbol in sent:
                one, ts_ns = sent[event.symbol], 0
                if isinstance(event, Trades):
                    one.trades.update(dict.fromkeys(event.records["trade_id"].tolist(), len(one.sent_ns)))
                else:
                    ts_ns = event.ts_ns
                if isinstance(event, BookDelta):
                    one.changes[ts_ns] = len(one.sent_ns)
                times[event.symbol] = max(ts_ns, times.get(event.symbol, 0))
        for symbol, ts_ns in times.items():
            one = sent[symbol]
            one.sent_ns.append(line.recv_ns)
            one.times.append(max(ts_ns, one.times[-1] if one.times else 0))
    return {f"{symbol}.{capture.venue}": one for symbol, one in sent.items() if one.sent_ns}


# ---- latencies ------------------------------------------------------------------------------------


def _trades(sent: dict[str, Sent], watch: ArenaWatch, since_ns: int) -> npt.NDArray[np.int64]:
    found = []
    for name, one in sent.items():
        seen = watch.seen(name, "trade")
        if seen is None:
            continue
        for trade_id, seen_ns in zip(seen.records["trade_id"].tolist(), seen.seen_ns.tolist(), strict=True):
            frame = one.trades.get(trade_id)
            if frame is not None and one.sent_ns[frame] >= since_ns:
                found.append(seen_ns - one.sent_ns[frame])
    return np.array(found, dtype=np.int64)


def _books(sent: dict[str, Sent], watch: ArenaWatch, since_ns: int) -> npt.NDArray[np.int64]:
    found: list[int] = []
    for name, one in sent.items():
        seen = watch.seen(name, "book")
        if seen is not None:
            found += _of_one_book(one, seen, since_ns)
    return np.array(found, dtype=np.int64)


def _of_one_book(one: Sent, seen: Seen, since_ns: int) -> Iterator[int]:
    told_ns = 0  # the record before
    columns = (seen.records[name].tolist() for name in ("ts_event", "state", "flags"))
    for ts_event, state, flags, seen_ns in zip(*columns, seen.seen_ns.tolist(), strict=True):
        frame, due_ns, told_ns = one.changes.get(ts_event), told_ns + INTERVAL_NS, ts_event
        if frame is None or state != BookState.LIVE:
            continue
        if not flags & BookFlag.JUMP and ts_event < due_ns:
            frame = max(frame, bisect_left(one.times, due_ns))
        # without a frame that made it due, or before it, the feed's own clock told it
        if frame < len(one.sent_ns) and seen_ns >= one.sent_ns[frame] >= since_ns:
            yield seen_ns - one.sent_ns[frame]


def _sizes(daemon: DaemonUnderTest, venue: str, names: list[str]) -> dict[str, Any]:
    """Of the arenas and of the feed's process, in MiB."""
    files = [arena_path(daemon.runtime_dir, name).stat() for name in names]
    feed = next(pid for name, pid in daemon.pids().items() if "feed" in name or venue.lower() in name.lower())
    return {
        "instruments": len(names),
        "MiB an arena": round(sum(file.st_size for file in files) / len(files) / 2**20, 2),
        "MiB an arena, in memory": round(sum(file.st_blocks * 512 for file in files) / len(files) / 2**20, 2),
        "MiB the feed": round(psutil.Process(feed).memory_info().rss / 2**20, 1),
    }
