"""The order of one instrument's numbered records: what may be handed on, and what is missing. Pure.

Trades are numbered by their id, a venue's bars by their place on the time axis. `NumberSequence` hands each number
on once, ascending: while numbers are missing, what came after them is held back, until they were fetched
(`fetched`), came by themselves (`live`), or are given up (`skip`).

    begin_catch_up   after a (re)connect: something may be missing after `last`; how much is not known yet
    begin_from       the same before the first record of a stream whose past is not known
    live             records of the stream, of any order and overlap -> what may be handed on now
    missing          the numbers to be fetched, or None
    fetched          records fetched from `missing.first` on -> what may be handed on now
    skip             go on without what is missing -> what is given up, and what may be handed on now

`last` is None before the first record of a stream whose past is not known: it begins with the first record that comes.
It is NOTHING_YET where the venue is known to have had no record: then the first is fetched too, should it be missed,
and whatever number it bears, nothing was lost before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.market.records import Records
from marketd.market.times import ABSENT, NS_PER_SECOND

Numbers = npt.NDArray[np.int64]

NOTHING_YET = -1
MAX_HELD = 200_000  # records held back while something is missing; beyond it the owner must skip


class Missing(NamedTuple):
    """Numbers first … last; last None: up to whatever the venue has."""

    first: int
    last: int | None


class Lost(NamedTuple):
    """Numbers first … last were not handed on.

    `ts_end` is the time of the record that follows them, `ts_start` that of the one before; ABSENT where that one was
    handed on earlier.
    """

    first: int
    last: int
    ts_end: int
    ts_start: int = ABSENT

    @property
    def size(self) -> int:
        return self.last - self.first + 1


class Step(NamedTuple):
    """What may be handed on now, what had to be passed over before it, and how many of them were fetched."""

    records: Records
    lost: list[Lost]
    fetched: int = 0


def trade_numbers(records: Records) -> Numbers:
    numbers: Numbers = records["trade_id"]
    return numbers


def bar_numbers(timeframe: int) -> Callable[[Records], Numbers]:
    """Bars of one timeframe (s) are numbered by their open time."""
    step = timeframe * NS_PER_SECOND

    def numbers(records: Records) -> Numbers:
        return np.asarray(records["ts"] // step, dtype=np.int64)

    return numbers


class NumberSequence:
    is_numbered = True

    def __init__(
        self,
        dtype: np.dtype[Any],
        numbers: Callable[[Records], Numbers],
        *,
        time_field: str = "ts_event",
        max_held: int = MAX_HELD,
    ) -> None:
        self._nothing = np.zeros(0, dtype=dtype)
        self._numbers = numbers
        self._time_field = time_field
        self._max_held = max_held
        self._held: list[Records] = []
        self._held_count = 0
        self._gap_end: int | None = None  # the first held number, while it does not follow `last`
        self._catching_up = False
        self._beginning = NOTHING_YET  # numbers that follow it were not lost if the venue has none of them
        self.last: int | None = None  # the newest number handed on, given up included
        self.duplicates = 0

    @property
    def missing(self) -> Missing | None:
        if self.last is None:
            return None
        if self._gap_end is not None and self._gap_end > self.last + 1:
            return Missing(self.last + 1, self._gap_end - 1)
        return Missing(self.last + 1, None) if self._catching_up else None

    @property
    def is_catching_up(self) -> bool:
        return self._catching_up

    @property
    def held(self) -> int:
        """Records that wait for missing ones."""
        return self._held_count

    @property
    def overfull(self) -> bool:
        return self._held_count > self._max_held

    def has_newer(self, records: Records) -> bool:
        """Whether some of these come after all that was handed on."""
        return self.last is not None and bool((self._numbers(records) > self.last).any())

    def begin_catch_up(self, last: int | None = None) -> None:
        """A new connection: whatever came after `last` (or after what was handed on) may have been missed."""
        if last is not None and (self.last is None or last > self.last):
            self.last = last
            self._drop_held_up_to_last()
        self._catching_up = self.last is not None

    def begin_from(self, last: int) -> None:
        """What came after `last` is fetched; numbers between it and the first that the venue has were not lost."""
        self._beginning = last
        self.begin_catch_up(last)

    def _drop_held_up_to_last(self) -> None:
        held, self._held, self._held_count, self._gap_end = self._held, [], 0, None
        for records in held:
            self._hold(self._after_last(records))

    def _after_last(self, records: Records) -> Records:
        return records if self.last is None else records[self._numbers(records) > self.last]

    def drop_held(self) -> None:
        """Forget what is held back (its scales changed); the venue has it still."""
        self._catching_up = self.last is not None
        self._held, self._held_count, self._gap_end = [], 0, None

    def live(self, records: Records) -> Records:
        """Take in records of the stream; what may be handed on now."""
        count = len(records)
        if not count:
            return self._nothing
        numbers = self._numbers(records)
        if self.last is None:
            self.last = int(numbers.min()) - 1  # the first ever seen: observation begins here
        if self._gap_end is None and self._follows(numbers, count):
            self._catching_up = False
            self.last = int(numbers[-1])
            return records
        self._hold(records[numbers > self.last])
        self.duplicates += count - int((numbers > self.last).sum())
        if int(numbers.min()) > self.last + 1:
            return self._nothing
        if int(numbers.max()) > self.last:
            self._catching_up = False  # the stream reaches back to what was handed on
        return self._release()

    def _follows(self, numbers: Numbers, count: int) -> bool:
        first = int(numbers[0])
        if first != (self.last or 0) + 1 or int(numbers[-1]) - first != count - 1:
            return False
        return count < 3 or bool((np.diff(numbers) == 1).all())

    def fetched(self, records: Records, *, at_present: bool) -> Step:
        """Records fetched from `missing.first` on, ascending; `at_present`: the venue had no more of them.

        Numbers that the venue left out between them are given up: it does not have them.
        """
        if self.last is None:
            return Step(self.live(records), [])
        numbers = self._numbers(records)
        fresh, numbers = records[numbers > self.last], numbers[numbers > self.last]
        lost: list[Lost] = []
        if len(numbers):
            lost = self._holes(fresh, numbers)
            self.last = int(numbers[-1])
        if at_present:
            self._catching_up = False
        released = self._release()
        if not len(released):
            return Step(fresh, lost, len(fresh))
        return Step(np.concatenate([fresh, released]) if len(fresh) else released, lost, len(fresh))

    def _holes(self, records: Records, numbers: Numbers) -> list[Lost]:
        before = np.concatenate([[self.last], numbers[:-1]])
        times = records[self._time_field]
        return [
            Lost(int(before[i]) + 1, int(numbers[i]) - 1, int(times[i]), int(times[i - 1]) if i else ABSENT)
            for i in np.flatnonzero((numbers - before > 1) & (before != self._beginning))
        ]

    def skip(self) -> Step:
        """Give up what is missing before the first held record, and go on from there."""
        self._catching_up = False
        if self._gap_end is None or self.last is None:
            return Step(self._nothing, [])
        first, self.last = self.last + 1, self._gap_end - 1
        released = self._release()
        if first == self._beginning + 1:
            return Step(released, [])
        return Step(released, [Lost(first, int(self._numbers(released)[0]) - 1, int(released[self._time_field][0]))])

    def _hold(self, records: Records) -> None:
        if not len(records):
            return
        # a copy: the batch that the records are a part of would otherwise be kept whole
        self._held.append(records.copy())
        self._held_count += len(records)
        first = int(self._numbers(records).min())
        self._gap_end = first if self._gap_end is None else min(self._gap_end, first)

    def _release(self) -> Records:
        """The held records that follow `last` without a hole, in order and each once."""
        if not self._held:
            return self._nothing
        held = np.concatenate(self._held)
        numbers, first = np.unique(self._numbers(held), return_index=True)
        held, before = held[first], len(held)
        self.duplicates += before - len(held)
        last = self.last or 0
        held, numbers = held[numbers > last], numbers[numbers > last]
        run = int((numbers == last + 1 + np.arange(len(numbers))).sum())
        if run:
            self.last = int(numbers[run - 1])
        self._held = [held[run:]] if len(numbers) > run else []
        self._held_count = len(numbers) - run
        self._gap_end = int(numbers[run]) if self._held else None
        released: Records = held[:run]
        return released
