"""Torn reads: reader processes against a writer at full speed that is stopped, killed and replaced all the while.

    PYTHONPATH=src:tests python -m adversity.torn_reads --cuts 10000000

Every cut is judged by its content (`arena_market`): none may be torn or mixed, none may be older than the reader's
last one, and a stopped writer must show within a second. `--break A2` lets the writer store in the wrong
order at that sync point; then the readers must find flaws. Exit code 0: as it should be.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import NamedTuple

from adversity.arena_market import BARS, BREAKS, attach, create, read_flaw, versions_flaw, write_for_ever
from marketd.ipc.arena import ArenaContended
from marketd.ipc.arena_reader import ArenaReader

STALE_NS = 250_000_000  # a writer silent for so long counts as stopped; it beats every few hundred microseconds
NOTICED_WITHIN_NS = 1_000_000_000
_REPORT_EVERY = 2000  # cuts
_EXACT_EVERY = 5000
_SPAWN = get_context("spawn")


class ReaderReport(NamedTuple):
    """What one reader has seen so far."""

    cuts: int
    fresh: int  # cuts with a publication that it had not seen before
    lapped: int
    backwards: int
    flaws: int
    examples: list[str]


class Outcome(NamedTuple):
    """What a run has shown."""

    wanted: int
    cuts: int
    fresh: int
    publications: int
    lapped: int
    backwards: int
    flaws: int
    examples: list[str]
    stopped: int
    killed: int
    slowest_notice_ns: int
    seconds: float

    @property
    def sound(self) -> bool:
        whole = not self.flaws and not self.backwards and self.cuts >= self.wanted
        return whole and self.slowest_notice_ns <= NOTICED_WITHIN_NS


def read_cuts(path: str, cuts: int, enough: Event, connection: Connection) -> None:
    """A reader process: `cuts` cuts, each judged, and as many more as it takes until `enough` has happened."""
    os.nice(10)  # where there are fewer cores than processes, the writer's full speed is worth more than the cuts
    with ArenaReader.open(Path(path)) as reader:
        fresh = backwards = flaws = last = number = 0
        examples: list[str] = []
        for turn in itertools.count():
            try:
                flaw, cut = read_flaw(reader, turn)
                number = cut.number
                if flaw is None and turn % _EXACT_EVERY == _EXACT_EVERY - 1:
                    flaw = _exact_flaw(reader, turn)
            except ArenaContended as error:  # nobody waits for a writer, stopped or not
                flaw = str(error)
            if flaw is not None:
                flaws += 1
                examples = [*examples, flaw][:3]
            fresh += number > last
            backwards += number < last
            last = number
            if turn % _REPORT_EVERY == _REPORT_EVERY - 1:
                connection.send(ReaderReport(turn + 1, fresh, reader.lapped, backwards, flaws, examples))
                if turn + 1 >= cuts and enough.is_set():
                    return


def _exact_flaw(reader: ArenaReader, turn: int) -> str | None:
    bars = BARS[turn // _EXACT_EVERY % len(BARS)]
    records, cut = reader.last(bars.name, 100)
    return versions_flaw(bars, records, cut)


class Torture:
    """One run: the readers, the present writer, and what befalls it."""

    def __init__(self, path: Path, *, readers: int, cuts: int, broken: str | None, seed: int) -> None:
        self._path, self._broken, self._wanted = path, broken, cuts
        self._random = random.Random(seed)
        create(path).close()
        self._enough = _SPAWN.Event()  # set once the writer was stopped and killed
        self._writer = self._start_writer()
        self._readers: list[SpawnProcess] = []
        self._reports: dict[Connection, ReaderReport] = {}
        self._open: list[Connection] = []
        for _ in range(readers):
            ours, theirs = _SPAWN.Pipe(duplex=False)
            reader = _SPAWN.Process(target=read_cuts, args=(str(path), -(-cuts // readers), self._enough, theirs))
            reader.start()
            theirs.close()
            self._readers.append(reader)
            self._open.append(ours)
            self._reports[ours] = ReaderReport(0, 0, 0, 0, 0, [])
        self.stopped = self.killed = self.slowest_notice_ns = 0

    def _start_writer(self) -> SpawnProcess:
        writer = _SPAWN.Process(target=write_for_ever, args=(str(self._path), self._broken))
        writer.start()
        return writer

    def run(self, *, pause_seconds: float, until_flaw: bool = False, progress: bool = False) -> Outcome:
        """Until the readers have their cuts (or the first flaw); something befalls the writer after each pause."""
        start = time.monotonic()
        with ArenaReader.open(self._path) as watch:
            while self._collect(pause_seconds):
                if until_flaw and any(report.flaws for report in self._reports.values()):
                    break
                if watch.stale_ns() > STALE_NS:
                    continue  # the new writer is not there yet
                if not self.stopped or (self.killed and self._random.random() < 0.5):
                    self._stop(watch)
                else:
                    self._kill()
                    self._enough.set()
                if progress:
                    sys.stderr.write(f"\r{sum(report.cuts for report in self._reports.values()):>12,} cuts")
            return self._outcome(watch.cut().number, time.monotonic() - start)

    def _collect(self, seconds: float) -> bool:
        """Take the readers' reports for a while; False once all are done."""
        deadline = time.monotonic() + seconds
        while self._open and (left := deadline - time.monotonic()) > 0:
            for connection in wait(self._open, left):
                assert isinstance(connection, Connection)
                try:
                    self._reports[connection] = connection.recv()
                except EOFError:
                    self._open.remove(connection)
                    connection.close()
        return bool(self._open)

    def _stop(self, watch: ArenaReader) -> None:
        """SIGSTOP wherever it is; how long until a reader can tell; SIGCONT."""
        assert self._writer.pid is not None
        os.kill(self._writer.pid, signal.SIGSTOP)
        stopped_ns = time.monotonic_ns()
        while watch.stale_ns() <= STALE_NS:
            self._collect(0.01)
        self.slowest_notice_ns = max(self.slowest_notice_ns, time.monotonic_ns() - stopped_ns)
        os.kill(self._writer.pid, signal.SIGCONT)
        self.stopped += 1

    def _kill(self) -> None:
        """SIGKILL wherever it is; the next one attaches and goes on."""
        self._writer.kill()
        self._writer.join()
        self._writer.close()
        self._writer = self._start_writer()
        self.killed += 1

    def _outcome(self, publications: int, seconds: float) -> Outcome:
        reports = self._reports.values()
        return Outcome(
            wanted=self._wanted,
            cuts=sum(report.cuts for report in reports),
            fresh=sum(report.fresh for report in reports),
            publications=publications,
            lapped=sum(report.lapped for report in reports),
            backwards=sum(report.backwards for report in reports),
            flaws=sum(report.flaws for report in reports),
            examples=[example for report in reports for example in report.examples][:3],
            stopped=self.stopped,
            killed=self.killed,
            slowest_notice_ns=self.slowest_notice_ns,
            seconds=round(seconds, 1),
        )

    def end(self) -> None:
        for process in (self._writer, *self._readers):
            process.kill()
            process.join()
            process.close()
        for connection in self._open:
            connection.close()
        attach(self._path).retire()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--cuts", type=int, default=200_000, help="of all readers together")
    parser.add_argument("--readers", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between what befalls the writer")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--break", dest="broken", choices=sorted(BREAKS), help="store in the wrong order there")
    options = parser.parse_args(arguments)
    directory = Path("/dev/shm") / f"marketd-test-{os.getpid()}-torn"
    torture = Torture(
        directory / "torn.arena",
        readers=options.readers,
        cuts=options.cuts,
        broken=options.broken,
        seed=options.seed,
    )
    try:
        outcome = torture.run(pause_seconds=options.pause, progress=sys.stderr.isatty())
    finally:
        torture.end()
        directory.rmdir()
    sys.stdout.write(json.dumps({**outcome._asdict(), "sound": outcome.sound}, indent=2) + "\n")
    return int(outcome.sound == bool(options.broken))


if __name__ == "__main__":
    sys.exit(main())
