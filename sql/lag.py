"""How far a follower of a log is behind, in time: a standby, or the database behind the journal. Pure."""

from __future__ import annotations

from collections import deque

_MARKS = 10_000  # positions that are remembered; of those forgotten the lag is told as longer than it is


class LagMeter:
    """How far a follower is behind, from positions of a log and the moments at which they were the newest.

    `apart`: those that come within so many seconds count as one, the last, as of the first of these moments.
    """

    def __init__(self, apart: float = 0.0) -> None:
        self._apart = apart
        self._marks: deque[tuple[float, int]] = deque(maxlen=_MARKS)
        self._reached_at = float("-inf")

    def mark(self, now: float, position: int) -> None:
        """The log ends at `position`."""
        if self._marks and now - self._marks[-1][0] < self._apart:
            now, _ = self._marks.pop()
        self._marks.append((now, position))

    def lag(self, now: float, position: int) -> float:
        """Seconds of lag of who has followed up to `position`."""
        while self._marks and self._marks[0][1] <= position:
            self._reached_at = self._marks.popleft()[0]
        if not self._marks and self._reached_at > float("-inf"):
            self._reached_at = now  # it has all there is: a long silence is no lag of what comes after it
            return 0.0
        return now - self._reached_at
