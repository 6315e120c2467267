"""When an actor that died is started again, and when that is given up. Pure: times in, delays out."""

from __future__ import annotations

import random
from collections import deque

from marketd.daemon.settings import Supervision


class Restarts:
    """The deaths of one actor within `crash_window`; older ones are forgiven."""

    def __init__(self, settings: Supervision, chance: random.Random | None = None) -> None:
        self.settings = settings  # replaced by a reload
        self._chance = chance or random.Random()
        self._deaths: deque[float] = deque()

    @property
    def recent(self) -> int:
        return len(self._deaths)

    def died(self, now: float) -> float | None:
        """Seconds until the next start: doubled with every recent death up to the cap, and jittered, so that
        actors that died of one cause do not come back all at once. None when it is the death too many."""
        self._deaths.append(now)
        while self._deaths[0] <= now - self.settings.crash_window.seconds:
            self._deaths.popleft()
        if len(self._deaths) >= self.settings.crash_limit:
            return None
        doubled = self.settings.restart_backoff.seconds * 2.0 ** (len(self._deaths) - 1)
        capped = min(doubled, self.settings.restart_backoff_max.seconds)
        return capped * self._chance.uniform(0.5, 1.0)
