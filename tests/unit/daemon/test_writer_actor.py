"""The end of the writer's process: what is not committed is safe in the journal, and nobody waits for a database that
is away.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from marketd.daemon.actors import writer
from marketd.daemon.actors.writer import WriterActor
from marketd.daemon.config import convert
from marketd.daemon.writer import Writer

PATIENCE_SECONDS = 30.0


class Alone(WriterActor):
    """Without a supervisor to tell."""

    told: asyncio.Event

    def _tell_state(self) -> None:
        self.told.set()


def make_actor(tmp_path: Path) -> Alone:
    nobody = "postgresql://127.0.0.1:1/nobody"
    actor = Alone("writer", convert({"state_dir": str(tmp_path), "database": {"url": nobody}}))
    actor.stopping, actor.told = asyncio.Event(), asyncio.Event()
    return actor


async def test_a_writer_whose_database_never_came_stops_when_it_is_asked(tmp_path: Path) -> None:
    actor = make_actor(tmp_path)
    work = asyncio.create_task(actor._work(), name="work")
    await actor.told.wait()
    assert actor.state == "warming"
    actor.stopping.set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await work
        await actor.drain()
        await actor.end()


class Stubborn:
    """Of the actor's parts what draining uses: `commits` says whether the rest gets into the database."""

    def __init__(self, *, commits: bool, state: str) -> None:
        self.offset = 64
        self.drained = self.cut = False
        self._commits, self._state = commits, state
        self.said: list[Any] = []

    async def poll(self, _: int) -> bool:
        return False

    async def drain(self) -> None:
        try:
            if not self._commits:
                await asyncio.Event().wait()
            self.drained = True
        except asyncio.CancelledError:
            self.cut = True
            raise

    def statistics(self) -> Any:
        return SimpleNamespace(state=self._state, lag_bytes=10)

    async def wait_until_up(self, _: float) -> bool:
        return False


def draining(tmp_path: Path, parts: Stubborn) -> Alone:
    actor = make_actor(tmp_path)
    actor._is_ready = True
    for name in ("_socket", "_writer", "_database"):
        setattr(actor, name, parts)
    actor._reader = SimpleNamespace(uuid=bytes(16))  # type: ignore[assignment]
    actor._say = parts.said.append  # type: ignore[method-assign]
    return actor


async def test_draining_ends_early_when_the_database_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "LOOK_SECONDS", 0.0)
    parts = Stubborn(commits=False, state="down")
    async with asyncio.timeout(PATIENCE_SECONDS):
        await draining(tmp_path, parts).drain()
    assert parts.cut
    assert "10 bytes of the journal are left for the next start" in caplog.text
    assert parts.said[-1].offset == 64


async def test_draining_commits_everything_while_the_database_is_there(tmp_path: Path) -> None:
    parts = Stubborn(commits=True, state="up")
    async with asyncio.timeout(PATIENCE_SECONDS):
        await draining(tmp_path, parts).drain()
    assert parts.drained and not parts.cut


async def test_what_draining_fails_with_comes_out(tmp_path: Path) -> None:
    parts = Stubborn(commits=True, state="up")

    async def broken() -> None:
        raise ZeroDivisionError

    parts.drain = broken  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        await draining(tmp_path, parts).drain()


def test_a_database_behind_a_journal_that_fell_silent_lags(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("marketd.daemon.writer.time.monotonic", lambda: now[0])
    parts: Any = SimpleNamespace(uuid=bytes(16))
    follower = Writer(parts, parts, parts, lane="live", batch_bytes=1, batch_age_seconds=0, committed=parts)
    for later, offset in ((1.0, 10), (0.02, 20)):
        now[0] += later
        follower.on_durable(offset)
    follower._offset = 10
    now[0] += 60
    assert follower.statistics().lag_seconds >= 60
    follower._offset = 20
    assert follower.statistics().lag_seconds == 0
