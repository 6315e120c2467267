"""Recorded lines of several files, or of several connections in one file, in the order in which they were received.

A recorder may write a file for each connection, and REST answers into another one: these are of the same time, and what
one says belongs between what the others say. Within one file the order is the file's, whatever its clock did.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar


class Received(Protocol):
    @property
    def recv_ns(self) -> int: ...


Line = TypeVar("Line", bound=Received)
Source = Callable[[], Iterator[Line]]


def merged(sources: Sequence[Source[Line]]) -> Iterator[tuple[int, Line]]:
    """Each line with the number of its source; of equal times the first source's first.

    A source is opened when its time has come: a year of hourly files is not a year of open files.
    """
    if len(sources) == 1:
        yield from ((0, line) for line in sources[0]())
        return
    waiting = sorted((begin, number) for number, begin in enumerate(map(_begin_of, sources)) if begin is not None)
    waiting.reverse()
    heads: list[tuple[int, int, Line, Iterator[Line]]] = []  # a source is in it once, so that lines are never compared
    while waiting or heads:
        while waiting and (not heads or waiting[-1] < heads[0][:2]):
            begin, number = waiting.pop()
            _push(heads, begin, number, sources[number]())
        if heads:
            at_ns, number, line, lines = heapq.heappop(heads)
            yield number, line
            _push(heads, at_ns, number, lines)


def _begin_of(source: Source[Line]) -> int | None:
    first = next(source(), None)
    return None if first is None else first.recv_ns


def _push(heads: list[tuple[int, int, Line, Iterator[Line]]], at_ns: int, number: int, lines: Iterator[Line]) -> None:
    line = next(lines, None)
    if line is not None:
        heapq.heappush(heads, (max(at_ns, line.recv_ns), number, line, lines))
