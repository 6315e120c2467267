"""Background works: one that fails is begun again and is nobody else's trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from marketd.daemon import background
from marketd.daemon.background import BackgroundWorks
from marketd.daemon.settings import Config
from support import eventually_async


class Stub:
    """Fails as often as it is told, then goes on, or returns."""

    def __init__(self, name: str, failures: int = 0, *, returns: bool = False) -> None:
        self.name = name
        self.failures, self.returns = failures, returns
        self.runs = 0
        self.configs: list[Config] = []

    async def run(self) -> None:
        self.runs += 1
        if self.runs <= self.failures:
            raise ValueError(f"failure {self.runs}")
        if not self.returns:
            await asyncio.Event().wait()

    def change(self, config: Config) -> None:
        self.configs.append(config)


@pytest.fixture
def quick() -> Iterator[dict[str, float]]:
    yield {"first_delay_seconds": 0.001, "max_delay_seconds": 0.002}


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_work_that_fails_is_begun_again_and_the_others_never_notice(
    quick: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = Stub("bad", failures=3), Stub("good")
    works = BackgroundWorks([bad, good], **quick)
    task = asyncio.create_task(works.run())
    await eventually_async(lambda: bad.runs == 4)
    found = works.statistics()
    assert (found["bad"].state, found["bad"].failures, found["bad"].last_error) == (
        "running",
        3,
        "ValueError: failure 3",
    )
    assert (good.runs, found["good"].failures) == (1, 0)
    assert "the background work bad failed" in caplog.text
    await ended(task)


async def test_a_work_that_has_nothing_to_do_is_asked_again_when_the_configuration_changes(
    quick: dict[str, float],
) -> None:
    idle, busy = Stub("idle", returns=True), Stub("busy")
    works = BackgroundWorks([idle, busy], **quick)
    task = asyncio.create_task(works.run())
    await eventually_async(lambda: works.statistics()["idle"].state == "idle" and idle.runs == 1)
    works.change(Config())
    await eventually_async(lambda: idle.runs == 2)
    assert busy.runs == 1
    assert idle.configs == busy.configs == [Config()]
    await ended(task)


async def test_a_changed_configuration_does_not_wait_for_a_works_backoff() -> None:
    bad = Stub("bad", failures=1)
    works = BackgroundWorks([bad], first_delay_seconds=3600.0, max_delay_seconds=3600.0)
    task = asyncio.create_task(works.run())
    await eventually_async(lambda: works.statistics()["bad"].state == "waiting")
    works.change(Config())
    await eventually_async(lambda: works.statistics()["bad"].state == "running")
    await ended(task)


async def test_waits_grow_with_failures_in_a_row_and_are_capped() -> None:
    runner = background._Runner(Stub("bad"), 1.0, 4.0)
    waits = [runner._note(ValueError(), 0.0) for _ in range(6)]
    assert all(low <= wait <= 2 * low for wait, low in zip(waits, (0.5, 1, 2, 2, 2, 2), strict=True))
    assert runner._note(ValueError(), background.HEALTHY_SECONDS + 1) <= 1.0
