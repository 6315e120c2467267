"""The life of the storage process: it waits for a database that is away, and stops at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from marketd.daemon.actors.storage import StorageActor
from marketd.daemon.config import convert
from marketd.daemon.metrics import REGISTRY

PATIENCE_SECONDS = 30.0


class Alone(StorageActor):
    """Without a supervisor to tell."""

    def _tell_state(self) -> None:
        self.told.set()


async def test_a_storage_actor_whose_database_never_came_stops_when_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(REGISTRY, "register", lambda _: None)  # of a process that this is not
    nobody = "postgresql://127.0.0.1:1/nobody"
    actor = Alone("storage", convert({"state_dir": str(tmp_path), "database": {"url": nobody}}))
    actor.stopping, actor.told = asyncio.Event(), asyncio.Event()
    work = asyncio.create_task(actor._work(), name="work")
    await actor.told.wait()
    assert actor.state == "warming"
    assert actor.statistics()["works"]["retention"]["state"] == "idle"
    actor.stopping.set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await work
        await actor.end()
