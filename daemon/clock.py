"""The clock of a lane: where `ts_known` comes from.

Live: the monotonic clock, slewed to wall time, strictly increasing in whole microseconds over the life of the lane,
restarts included. A step of the wall clock of over a second is reported (`CLOCK_STEP`): forward it is followed at
once, backward time goes on, slower, until the wall clock has caught up.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from marketd.market.times import NS_PER_SECOND, NS_PER_US

STEP_NS = NS_PER_SECOND  # beyond this a difference is a step, not drift
SLEW = 0.05  # of the time that passed: how fast a difference below a step is worked off


class LiveClock:
    """`next()` for every batch; `correct()` now and then, which returns the step in ns if there was one."""

    def __init__(
        self,
        last_known_ns: int,
        *,
        wall: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._offset = wall() - monotonic()
        self._corrected = monotonic()
        self._left = 0  # of the difference to the wall clock, what the last correction did not work off
        self.last = last_known_ns

    def next(self) -> int:
        now = self._monotonic() + self._offset
        now -= now % NS_PER_US
        if now <= self.last:
            now = self.last + NS_PER_US
        self.last = now
        return now

    def now(self) -> int:
        return self._monotonic() + self._offset

    def correct(self) -> int:
        """Follow the wall clock; the size of a step in ns, 0 when there was none."""
        monotonic = self._monotonic()
        elapsed, self._corrected = monotonic - self._corrected, monotonic
        difference = self._wall() - (monotonic + self._offset)
        # what the wall clock did since the last look; a step back that is still being worked off is none again
        step = difference - self._left
        if difference > STEP_NS:
            self._offset += difference
            self._left = 0
            return step if step > STEP_NS else difference
        limit = int(elapsed * SLEW)
        slewed = max(-limit, min(limit, difference))
        self._offset += slewed
        self._left = difference - slewed
        return step if abs(step) > STEP_NS else 0


class RecordedClock:
    """The clock of an import: the recorded receive times, whole microseconds, strictly increasing."""

    def __init__(self, last_known_ns: int = 0) -> None:
        self.last = last_known_ns
        self._recorded = last_known_ns

    def set(self, received_ns: int) -> None:
        self._recorded = received_ns - received_ns % NS_PER_US

    def next(self) -> int:
        self.last = max(self._recorded, self.last + NS_PER_US)
        return self.last
