"""Fixtures: daemons of dummy actors, and a query service over a database with a declared series."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from daemons import Daemon, type_start

from desk import Desk, fresh_desk
from lane import FUNDING
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.series import ensure_series_table


@pytest.fixture
def start(runtime_dir: Path) -> Iterator[type_start]:
    """Starts daemons in the test's runtime directory; whatever still runs afterwards is killed."""
    daemons: list[Daemon] = []

    def begin(behaviours: dict[str, str] | None = None, *options: str, text: str = "", **environment: str) -> Daemon:
        daemon = Daemon(runtime_dir, behaviours or {}, *options, text=text, **environment)
        daemons.append(daemon)
        return daemon

    yield begin
    for daemon in daemons:
        if daemon.process.poll() is None:
            daemon.process.kill()
        daemon.process.wait()


@pytest.fixture
async def desk(database: str, tmp_path: Path, runtime_dir: Path) -> AsyncIterator[Desk]:
    async with DatabaseConnectionManager(database, actor="query-test") as manager:
        async with manager.acquire() as conn:
            await ensure_series_table(conn, "funding", dict(FUNDING.fields))
        desk = await fresh_desk(manager, tmp_path, runtime_dir)
        yield desk
        desk.close()
