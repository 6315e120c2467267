"""Two parsers, each in a process of its own, on the same frames in turns: what they are given, and what they answer.

A contestant is started with the path of a file of traffic. For each line on its stdin it plays all of it anew, and
prints one JSON object, a round. Its processor time counts, not the time on the wall: another process on the core costs
neither side anything.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec


class Traffic(msgspec.Struct):
    """What both sides are given: the messages of one venue, as texts, and the REST snapshots of its books."""

    venue: str  # as in marketd's table
    url: str  # that the capture was made at: it tells the protocol
    exchange: str  # cryptofeed's class
    trades: str  # "trade" | "aggTrade"
    candles: list[str]
    symbols: list[str]  # the venue's own names
    instruments: list[dict[str, Any]]  # `marketd.market.instruments.Instrument`
    books: dict[str, str]  # by the venue's own name
    frames: list[str]


class Round(msgspec.Struct):
    """What a side did in one round. Books: the best levels as bid prices, bid sizes, ask prices, ask sizes in 1e-18."""

    messages: int
    cpu_seconds: float
    wall_seconds: float
    trades: int
    candles: int
    faults: int  # messages that were refused or warned of
    books: dict[str, list[list[int]]]
    records: dict[str, int] = {}
    held_bytes: int = 0  # where it was asked for


def serve(play: Callable[[], Round]) -> None:
    """A contestant's life."""
    for _ in sys.stdin:
        sys.stdout.buffer.write(msgspec.json.encode(play()) + b"\n")
        sys.stdout.buffer.flush()


class Contestant:
    """A running one."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def round(self) -> Round:
        asked, answers = self._pipes
        asked.write(b"\n")
        asked.flush()
        line = answers.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait(10)}")
        return msgspec.json.decode(line, type=Round)

    @property
    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout


@contextmanager
def contestant(command: Sequence[str | Path], environment: dict[str, str] | None = None) -> Iterator[Contestant]:
    """Start one, and end it. `environment` replaces the variables that it names."""
    process = subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )
    try:
        yield Contestant(process)
    finally:
        process.kill()
        process.communicate()


def rate(rounds: Sequence[Round]) -> float:
    """Messages a second of one core, by the median round."""
    return statistics.median(each.messages / each.cpu_seconds for each in rounds)
