"""A reader process, attached to an arena all the time, that judges every cut: `python -m adversity.watcher ARENA`.

It says in JSON, on SIGTERM, what it has seen. A picture is mixed or torn when, within one cut, sequence numbers or
trade ids do not follow each other, or a bar is not what the trades of the same cut make of it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from marketd.ipc.arena import ArenaContended
from marketd.ipc.arena_cut import Cut
from marketd.ipc.arena_reader import ArenaReader
from marketd.market.errors import NotRunning
from marketd.market.records import Records
from support import REPOSITORY

SECOND_NS = 1_000_000_000
TRADES, BARS = 4_000, 20
PAUSE_SECONDS = 0.002


class Judge:
    """What is wrong with one cut after the other; None when nothing is."""

    def __init__(self) -> None:
        self._seq = self._ts_known = 0

    def flaw(self, trades: Records, seconds: Records, minutes: Records, cut: Cut) -> str | None:
        if cut.seq < self._seq or cut.ts_known < self._ts_known:
            return f"went back: seq {self._seq} to {cut.seq}, ts_known {self._ts_known} to {cut.ts_known}"
        self._seq, self._ts_known = cut.seq, cut.ts_known
        return _order_flaw(trades, cut) or _bars_flaw(trades, seconds, minutes, cut)


def _order_flaw(trades: Records, cut: Cut) -> str | None:
    if not len(trades):
        return None
    if int(trades["seq"][-1]) > cut.seq or int(trades["ts_known"][-1]) > cut.ts_known:
        return f"a trade beyond the cut: seq {trades['seq'][-1]} after {cut.seq}"
    if (np.diff(trades["seq"]) <= 0).any():
        return "sequence numbers do not rise"
    steps = np.diff(trades["trade_id"])
    if (steps != 1).any():
        at = int(np.flatnonzero(steps != 1)[0])
        return f"trade {trades['trade_id'][at + 1]} follows {trades['trade_id'][at]}"
    return None


def _bars_flaw(trades: Records, seconds: Records, minutes: Records, cut: Cut) -> str | None:
    if not len(trades):
        return None
    # the bar of the oldest trade may have more than is here
    since = int(trades["ts_event"].min()) + 2 * SECOND_NS
    if int(trades["trade_id"][0]) == 1:
        since = 0
    for bar in [*seconds, *minutes, *cut.open_bars]:
        begin, length = int(bar["ts"]), int(bar["timeframe"]) * SECOND_NS
        if begin < since:
            continue
        inside = trades[(trades["ts_event"] >= begin) & (trades["ts_event"] < begin + length)]
        inside = inside[np.argsort(inside["ts_event"], kind="stable")]
        if not len(inside):
            return f"a bar of {bar['timeframe']} s at {begin} without trades"
        expected = (
            int(inside["price"][0]),
            int(inside["price"].max()),
            int(inside["price"].min()),
            int(inside["price"][-1]),
            int(inside["size"].sum()),
            len(inside),
        )
        have = tuple(int(bar[name]) for name in ("open", "high", "low", "close", "volume", "trade_count"))
        if have != expected:
            return f"the bar of {bar['timeframe']} s at {begin} is {have}, its trades make {expected}"
    return None


def watch(path: Path) -> dict[str, Any]:
    """Until SIGTERM."""
    over: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: over.append(number))
    os.nice(5)
    judge = Judge()
    cuts = fresh = flaws = 0
    longest_stale_ns = last = 0
    examples: list[str] = []
    reader = _open(path, over)
    while not over and reader is not None:
        stale_before_ns = reader.stale_ns()
        try:
            found = reader.snapshot({"trade": TRADES, "candle.1s.own": BARS, "candle.1m.own": BARS})
        except ArenaContended as error:
            flaw: str | None = str(error)
        else:
            cut = found.cut
            flaw = judge.flaw(*found.records.values(), cut)
            fresh += cut.number > last
            last = cut.number
            if last:  # before the first publication there is no heartbeat to be missed
                longest_stale_ns = max(longest_stale_ns, stale_before_ns)
        cuts += 1
        if flaw is not None:
            flaws += 1
            examples = [*examples, flaw][:3]
        if cuts == 1:
            sys.stdout.write("attached\n")
            sys.stdout.flush()
        time.sleep(PAUSE_SECONDS)
    return {
        "cuts": cuts,
        "fresh": fresh,
        "flaws": flaws,
        "examples": examples,
        "longest_stale_ns": longest_stale_ns,
        "lapped": reader.lapped if reader is not None else 0,
    }


def _open(path: Path, over: list[int]) -> ArenaReader | None:
    while not over:
        try:
            return ArenaReader.open(path)
        except NotRunning:
            time.sleep(PAUSE_SECONDS)
    return None


class Watcher:
    """The reader as a process. A context manager; `report` is there after it."""

    def __init__(self, path: Path) -> None:
        self.report: dict[str, Any] = {}
        places = os.pathsep.join(str(REPOSITORY / name) for name in ("src", "tests"))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "adversity.watcher", str(path)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": places},
        )

    def until_attached(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "attached\n"

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._process.send_signal(signal.SIGTERM)
        said, _unused = self._process.communicate(timeout=20)
        if kind is None:
            assert self._process.returncode == 0
            self.report = json.loads(said.splitlines()[-1])


if __name__ == "__main__":
    sys.stdout.write(json.dumps(watch(Path(sys.argv[1]))) + "\n")
