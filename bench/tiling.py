"""A recording of minutes made into hours and days: how it repeats, and what differs from one repetition to the next.

Each repetition is the same market on another day: it begins somewhere else in the recording, goes as it went or the
other way round (a rise becomes a fall, buyers become sellers), slower or faster; and prices walk on from where the
repetition before left them. All is seeded and done for all rows at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

type_ints = npt.NDArray[np.int64]
NS_PER_MS = 1_000_000
FARTHEST = 0.15  # of its first price: then repetitions go back
STRETCH = (0.8, 1.25)  # of time, in a repetition


class Tiling:
    """Which record of the recording each of `count` rows is made of, and how its repetition differs.

    place (count,): the record; repetition (count,): which one; mirrored (count,): does it go the other way round?
    """

    def __init__(self, prices: type_ints, count: int, seed: Any) -> None:
        self.random = np.random.default_rng(seed)
        self.count = count
        size = len(prices)
        repetitions = -(-count // size)
        row = np.arange(count)
        self.repetition = row // size
        self.place = (row + self.random.integers(0, size, repetitions)[self.repetition]) % size
        self._steps = np.diff(prices, prepend=prices[:1])
        self.start = int(prices[0])
        self._ways = self._choose_ways(int(self._steps.sum()), repetitions)
        self.mirrored = self._ways[self.repetition] < 0

    def _choose_ways(self, drift: int, repetitions: int) -> type_ints:
        ways = self.random.choice([-1, 1], repetitions)
        at = 0
        for number in range(repetitions):
            if abs(at) > FARTHEST * self.start:
                ways[number] = -np.sign(at) * (np.sign(drift) or 1)
            at += ways[number] * drift
        return ways

    def of_repetition(self, low: float, high: float) -> npt.NDArray[np.float64]:
        """One number for each repetition, given to each of its rows; (count,)."""
        return self.random.uniform(low, high, len(self._ways))[self.repetition]

    def walk(self, noise: float) -> type_ints:
        """The price of each row: the recorded steps, and at a share `noise` of the rows up to three units more."""
        steps = self._steps[self.place] * self._ways[self.repetition]
        own = self.random.random(self.count) < noise
        steps[own] += self.random.integers(-3, 4, int(own.sum()))
        return np.maximum(1, self.start + np.cumsum(steps))

    def times(self, recorded_ns: type_ints, start_ns: int, end_ns: int) -> type_ints:
        """Whole milliseconds in [start_ns, end_ns), with the recorded gaps between them, stretched to fill it."""
        gaps = np.maximum(0, np.diff(recorded_ns, prepend=recorded_ns[:1]))
        passed = np.cumsum(gaps[self.place] * self.of_repetition(*STRETCH))
        return (
            start_ns
            + (passed * ((end_ns - start_ns - NS_PER_MS) / passed[-1])).astype(np.int64) // NS_PER_MS * NS_PER_MS
        )

    def known(self, delays_ns: type_ints, after_ns: type_ints) -> type_ints:
        """Strictly rising whole microseconds: 3 ms and (nearly) the recorded delay after `after_ns`."""
        delays = delays_ns - delays_ns.min()
        jitter = self.random.uniform(0.9, 1.1, self.count)
        micros = (after_ns + 3 * NS_PER_MS + (delays[self.place] * jitter).astype(np.int64)) // 1000
        row = np.arange(self.count)
        return (np.maximum.accumulate(micros - row) + row) * 1000

    def numbers(self, recorded: type_ints, first: int, *, exact: bool = False) -> type_ints:
        """Rising numbers from `first`, in the recorded steps, give or take a third; `exact`: in just those."""
        steps = np.maximum(1, np.diff(recorded, prepend=recorded[:1] - 1))[self.place]
        if not exact:
            steps = np.maximum(1, (steps * self.random.uniform(0.7, 1.4, self.count)).astype(np.int64))
        return first + np.cumsum(steps) - steps[0]

    def redrawn(self, values: type_ints, share: float) -> type_ints:
        """The recorded values, of which a share is drawn anew among all of them."""
        found = values[self.place]
        anew = self.random.random(self.count) < share
        found[anew] = self.random.choice(values, int(anew.sum()))
        return found


def scaled(values: type_ints, factors: npt.NDArray[np.float64], step: int) -> type_ints:
    """Sizes times factors, whole multiples of `step`; what was there stays there."""
    found = np.rint(np.maximum(values, 0) * (factors / step)).astype(np.int64) * step  # what is absent is below 0
    return np.where(values > 0, np.maximum(step, found), values)


def step_of(sizes: type_ints) -> int:
    """The largest number of which all sizes are multiples: what the market trades in."""
    return max(1, int(np.gcd.reduce(sizes[sizes > 0], initial=0)))
