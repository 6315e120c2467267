"""What the thread that appends and its flusher tell each other without a message: words in page 0 of the front buffer.

Each word has one side that stores it, but for two that change hands. They mean the same whether the flusher is a thread
or a process of its own (`flush_thread`, `flush_process`), and the loads and stores of a side stay in their order, as
x86-64 keeps them (elsewhere the arena refuses to open). Only "store mine, then load yours" needs a fence.

    J1 boundary-before-frame   the appender notes where a segment begins, then that the spare is taken, and only
                               then lets `written` of the front buffer cover a frame there
    J2 asleep-before-look      the flusher says that it will sleep, then looks a last time at `written`; the appender
                               stores `written`, then looks whether to ring: one of the two sees the other
    J3 listening-before-look   the same the other way: the appender says that it will sleep, then looks at `durable`
    J4 base-before-end         of a state; a pair that is half of the next state has base >= end, and is no pair
    J5 orders-before-hurry     what is to be done at once is stored before `hurries` counts on

A ring that is missed all the same costs `LOOK_SECONDS`: nobody sleeps longer without a look.
"""

from __future__ import annotations

import threading
from typing import Self

LOOK_SECONDS = 0.1

_lock = threading.Lock()


def fence() -> None:
    """No load behind this is made before the stores ahead of it are seen by all: a lock is taken with a locked
    instruction, and that is a full barrier of x86-64."""
    with _lock:
        pass


class _Word:
    """One word, by its number in page 0."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __get__(self, words: FlushWords, owner: type[FlushWords]) -> int:
        return words.view[self._number]

    def __set__(self, words: FlushWords, value: int) -> None:
        words.view[self._number] = value


# looked at for every frame, where a call would cost more than the look
DURABLE, ASLEEP = 10, 16


class FlushWords:
    """`view`: page 0 as signed 8-byte words."""

    # the flusher's; the first is of the front buffer itself
    durable = _Word(DURABLE)
    asleep = _Word(ASLEEP)  # ring when there is something to flush; whoever rings takes it back
    spare_ready = _Word(17)  # the next segment is allocated; the appender takes it
    oldest = _Word(24)
    segments = _Word(25)
    disk_bytes = _Word(26)
    removed = _Word(27)
    removed_early = _Word(28)
    syncs = _Word(32)
    sync_ns = _Word(33)
    longest_sync_ns = _Word(34)
    # the appender's
    listening = _Word(40)  # ring when something is durable
    stopping = _Word(41)
    hurries = _Word(42)  # counts: commit and tend now
    boundary = _Word(43)  # where the newest segment begins that the flusher was told of
    state_base = _Word(44)  # the newest state that was put whole
    state_end = _Word(45)
    committed = _Word(46)  # by the database
    keep_ns = _Word(47)
    budget_bytes = _Word(48)

    _FIRST, _LAST = 16, 48

    def __init__(self, view: memoryview) -> None:
        self.view = view

    def reset(self, budget_bytes: int) -> None:
        """Nothing of what an earlier pair said counts."""
        for number in range(self._FIRST, self._LAST + 1):
            self.view[number] = 0
        self.budget_bytes = budget_bytes

    def tell_state(self, base: int, end: int) -> None:
        self.state_base = base  # J4 base-before-end
        self.state_end = end

    def whole_state(self) -> tuple[int, int] | None:
        """(base, end) of the newest state that was put; None: none, or one is just being told."""
        end = self.state_end  # J4 base-before-end
        base = self.state_base
        return (base, end) if base < end else None

    def copy(self) -> Self:
        """What they say now, for when the memory is gone."""
        return type(self)(memoryview(bytearray(self.view)).cast("B").cast("q"))
