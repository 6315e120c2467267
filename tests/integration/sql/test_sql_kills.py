"""The writer, or its session, killed at each statement of a transaction that merges: nothing lost, nothing twice."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from journaled import Journaled, count, drained, stored
from lane import FUNDING
from marketd.daemon.kernel import TRADE_KIND
from marketd.sql.connections import DatabaseConnectionManager, type_connection
from marketd.sql.profiles import Profile
from marketd.sql.series import ensure_series_table

STATEMENTS = frozenset({"execute", "executemany", "fetch", "fetchrow", "fetchval", "copy_to_table"})


class Killed(BaseException):
    """The writer's process ends here."""


class Faults:
    """Connections of `database`; the `at`-th statement meets a session that was just ended, or is not reached."""

    def __init__(self, database: DatabaseConnectionManager, judge: type_connection, at: int, victim: str) -> None:
        self._database, self._judge = database, judge
        self._at, self._victim = at, victim
        self.statements = 0

    async def profile(self) -> Profile:
        return await self._database.profile()

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Any]:
        async with self._database.acquire() as conn:
            yield _Connection(conn, self)

    async def before(self, conn: type_connection) -> None:
        self.statements += 1
        if self.statements != self._at:
            return
        if self._victim == "writer":
            raise Killed
        await self._judge.execute("SELECT pg_terminate_backend($1, 5000)", conn.get_server_pid())


class _Connection:
    def __init__(self, conn: type_connection, faults: Faults) -> None:
        self._conn, self._faults = conn, faults

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._conn, name)
        if name not in STATEMENTS:
            return found

        async def run(*args: Any, **options: Any) -> Any:
            await self._faults.before(self._conn)
            return await found(*args, **options)

        return run


@pytest.fixture
async def journaled(tmp_path: Path, conn: type_connection) -> AsyncIterator[Journaled]:
    await ensure_series_table(conn, "funding", dict(FUNDING.fields))
    journaled = Journaled(tmp_path / "journal")
    yield journaled
    journaled.close()


@pytest.mark.parametrize("victim", ["writer", "session"])
@pytest.mark.parametrize("refusing", [False, True], ids=["well", "with a record that is refused"])
async def test_killed_at_any_statement_everything_is_stored_once(
    connections: DatabaseConnectionManager, conn: type_connection, journaled: Journaled, victim: str, refusing: bool
) -> None:
    await drained(journaled, connections, journaled.take(0))
    if refusing:
        await conn.execute("ALTER TABLE candles ADD CONSTRAINT none_of_these CHECK (open < 0) NOT VALID")
    for at in itertools.count(1):
        end = journaled.take(3 * at)
        faults = Faults(connections, conn, at, victim)
        try:
            await drained(journaled, faults, end)
        except Killed:
            await drained(journaled, connections, end)
        if faults.statements < at:
            break
    assert at > 10  # there was something to kill
    assert (await stored(conn, "trades", TRADE_KIND))["trade_id"].tolist() == list(range(3 * at + 3))
    assert await count(conn, "coverage") == at + 1
    bars = await conn.fetchval(
        "SELECT count(*) FROM (SELECT seq FROM candles WHERE source = 2"
        " UNION ALL SELECT seq FROM candle_versions WHERE source = 2) AS all_versions"
    )
    aside = await conn.fetchval("SELECT count(*) FROM quarantine WHERE rule = 'refused_by_database'")
    assert bars + aside >= at + 1 if refusing else (bars, aside) == (at + 1, 0)
