"""How long to wait before trying again: doubling, capped, jittered."""

from __future__ import annotations

import random
from collections.abc import Callable

from marketd.market.errors import InvalidArgument


class Backoff:
    """`next()` after each failure; `reset()` once things have been well for a while."""

    def __init__(self, first_seconds: float, cap_seconds: float, *, rng: Callable[[], float] = random.random) -> None:
        if not 0 < first_seconds <= cap_seconds:
            raise InvalidArgument(f"backoff: {first_seconds} s first and {cap_seconds} s at most; 0 < first <= most")
        self._first = first_seconds
        self._cap = cap_seconds
        self._rng = rng
        self.failures = 0

    def next(self) -> float:
        """Seconds to wait, half to all of the step: many clients of one venue must not return at once."""
        step = min(self._cap, self._first * 2.0 ** min(self.failures, 60))
        self.failures += 1
        return step * (0.5 + 0.5 * self._rng())

    def reset(self) -> None:
        self.failures = 0
