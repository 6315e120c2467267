"""Event time, second by second: what the kernels over a book have in common.

Nothing here looks at a clock. A kernel is moved on by the event times of what it is told, so a replay of 2021 gives
what 2021 gave. A second is closed when a book's event passes its end, and answered (`advance`) once the instrument's
newest event time, whatever it is of, has passed that end by the grace: streams of one venue run a little apart. What
comes for a second that is closed takes effect at its end. A leap over `MAX_LEAP_NS`, forward or back, is a new begin
without records for what lies between: a bad timestamp costs a second's figures, and cannot stop the kernel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import numpy as np

from marketd.market.records import Records
from marketd.market.times import ABSENT, NS_PER_MS, NS_PER_SECOND

GRACE_NS = 250 * NS_PER_MS  # as bars have
MAX_LEAP_NS = 120 * NS_PER_SECOND

Closed = TypeVar("Closed")


class SecondsKernel(ABC, Generic[Closed]):
    """Walks over the ends of seconds. A subclass integrates over stretches of time and closes seconds.

    What is known of a second when it closes is a `Closed`; its grace over, that becomes the bytes of its records.
    """

    def __init__(self, dtype: np.dtype[Any], grace_ns: int) -> None:
        self._none = np.empty(0, dtype)
        self._grace_ns = grace_ns
        self._now = ABSENT  # the kernel has integrated up to here
        self._end_ns = ABSENT  # of the second that holds `_now`; ABSENT: not known
        self._closed: list[tuple[int, Closed]] = []  # (end, …) that wait for the grace; bounded by MAX_LEAP_NS

    def advance(self, newest_ns: int) -> Records:
        """Records of the seconds that have ended by `newest_ns`, the newest event time of the instrument."""
        due = newest_ns - self._grace_ns
        if due - due % NS_PER_SECOND > self._now:
            self._move(due - due % NS_PER_SECOND)
        if not self._closed or self._closed[0][0] > due:
            return self._none
        ready = [self._finish(end, closed) for end, closed in self._closed if end <= due]
        self._closed = [(end, closed) for end, closed in self._closed if end > due]
        return np.frombuffer(bytearray().join(ready), dtype=self._none.dtype)

    def most(self, times: Iterable[int]) -> int:
        """How many seconds end on the way over these times, one after the other."""
        now, count = self._now, 0
        for ts_ns in times:
            if now == ABSENT or abs(ts_ns - now) > MAX_LEAP_NS:
                now = ts_ns
            elif ts_ns > now:
                count += ts_ns // NS_PER_SECOND - now // NS_PER_SECOND
                now = ts_ns
        return count

    def _move(self, ts_ns: int) -> None:
        """Bring the kernel to `ts_ns`, closing the seconds that end on the way or there."""
        now = self._now
        if now <= ts_ns < self._end_ns:  # as nearly always
            if ts_ns > now:
                self._integrate(ts_ns - now)
                self._now = ts_ns
            return
        if now == ABSENT or not -MAX_LEAP_NS <= ts_ns - now <= MAX_LEAP_NS:
            self._now, self._end_ns = ts_ns, ABSENT
            self._closed.clear()
            self._begin(ts_ns)
            return
        end = now - now % NS_PER_SECOND + NS_PER_SECOND
        while end <= ts_ns:
            self._integrate(end - now)
            self._now = now = end
            self._closed.append((end, self._close(end)))
            end += NS_PER_SECOND
        self._end_ns = end
        if ts_ns > now:
            self._integrate(ts_ns - now)
            self._now = ts_ns

    @abstractmethod
    def _begin(self, ts_ns: int) -> None:
        """Nothing before `ts_ns` counts. The book, if there is one, stands."""

    @abstractmethod
    def _integrate(self, ns: int) -> None:
        """So much time passes over the book as it stands."""

    @abstractmethod
    def _close(self, end_ns: int) -> Closed:
        """The second ends here, at the kernel's now."""

    @abstractmethod
    def _finish(self, end_ns: int, closed: Closed) -> bytes:
        """The grace of the second that ended at `end_ns` is over: its records, with unset stamps of knowledge."""
