"""Long work on the terminal: what is under way, how much of it is done, how long the rest will take. On stderr."""

from __future__ import annotations

import sys
import time

from marketd.ops import words

EVERY_SECONDS = 1.0


class Progress:
    """Tells at most once a second; `done` and `total` are of one unit, `total` 0 where nobody knows it."""

    def __init__(self) -> None:
        self._began = self._shown = time.monotonic()
        self._total = 0
        self._first = 0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if total != self._total:  # another piece of work: its pace is its own
            self._began, self._total, self._first = now, total, done
        if now - self._shown < EVERY_SECONDS:
            return
        self._shown = now
        print(f"{what}{self._share(done, now)}", file=sys.stderr, flush=True)

    def _share(self, done: int, now: float) -> str:
        if not self._total:
            return ""
        share = min(1.0, done / self._total)
        since = done - self._first
        left = (now - self._began) * (self._total - done) / since if since > 0 else None
        estimate = "" if left is None else f", about {words.duration(max(0.0, left))} left"
        return f": {share:.0%}{estimate}"
