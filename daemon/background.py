"""Works that go on beside each other for as long as an actor lives, and never in each other's way.

A work is an object with a name. One that fails is logged, counted, and begun again after a while, longer each time; one
that returns has nothing to do here (on this profile, with this configuration) and is begun again when the
configuration changes.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

from marketd.daemon import metrics
from marketd.daemon.settings import Config
from marketd.sql.troubles import said_by

_log = logging.getLogger(__name__)
_FAILED = metrics.counter("storage_works_failed_total", "Background works that failed and are begun again", ["work"])

FIRST_DELAY_SECONDS = 1.0
MAX_DELAY_SECONDS = 300.0  # what fails for hours is not worth more than a look every few minutes
HEALTHY_SECONDS = 600.0  # a run that lasted this long had nothing to do with the failures before it


class Work(Protocol):
    """Something that is done in the background, again and again."""

    @property
    def name(self) -> str:
        """In logs and metrics: words with `_` between them."""
        ...

    async def run(self) -> None:
        """Until cancelled; whatever was begun then is a transaction that the database rolls back."""
        ...

    def change(self, config: Config) -> None:
        """From now on this configuration."""
        ...


class WorkStatistics(NamedTuple):
    """`state`: "running", "waiting" (it failed, and is begun again), "idle" (nothing to do here)."""

    state: str
    failures: int
    last_error: str


class BackgroundWorks:
    """Runs works side by side, until cancelled."""

    def __init__(
        self,
        works: Sequence[Work],
        *,
        first_delay_seconds: float = FIRST_DELAY_SECONDS,
        max_delay_seconds: float = MAX_DELAY_SECONDS,
    ) -> None:
        self._runners = [_Runner(work, first_delay_seconds, max_delay_seconds) for work in works]

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for runner in self._runners:
                group.create_task(runner.run(), name=f"work {runner.work.name}")

    def change(self, config: Config) -> None:
        for runner in self._runners:
            runner.work.change(config)
            runner.wake()

    def statistics(self) -> dict[str, WorkStatistics]:
        return {runner.work.name: runner.statistics() for runner in self._runners}


class _Runner:
    """One work, begun again and again."""

    def __init__(self, work: Work, first_delay_seconds: float, max_delay_seconds: float) -> None:
        self.work = work
        self._first_delay, self._max_delay = first_delay_seconds, max_delay_seconds
        self._state = "idle"
        self._failures = self._in_a_row = 0
        self._last_error = ""
        self._woken = asyncio.Event()
        self._failed = _FAILED.labels(work.name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.work.name} {self._state}>"

    def wake(self) -> None:
        """The configuration changed: what waits begins at once."""
        self._woken.set()

    def statistics(self) -> WorkStatistics:
        return WorkStatistics(self._state, self._failures, self._last_error)

    async def run(self) -> None:
        while True:
            self._woken.clear()
            self._state, began = "running", time.monotonic()
            try:
                await self.work.run()
            except Exception as error:  # the border between works: one that fails must not end the others
                self._state = "waiting"
                await self._wait(self._note(error, time.monotonic() - began))
            else:
                self._state = "idle"
                await self._woken.wait()

    def _note(self, error: Exception, lasted_seconds: float) -> float:
        """Count a failure; how long to wait, s."""
        self._failures += 1
        self._failed.inc()
        self._in_a_row = 1 if lasted_seconds > HEALTHY_SECONDS else self._in_a_row + 1
        self._last_error = f"{type(error).__name__}: {said_by(error)}"
        longest = min(self._max_delay, self._first_delay * 2.0 ** min(self._in_a_row - 1, 30))
        delay = longest * random.uniform(0.5, 1.0)  # several daemons of one database do not come back in step
        _log.warning(
            "the background work %s failed and is begun again in %.1f s: %s",
            self.work.name,
            delay,
            self._last_error,
            extra={"action": "work_failed", "work": self.work.name},
        )
        return delay

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):  # that is the wait
            async with asyncio.timeout(seconds):
                await self._woken.wait()
