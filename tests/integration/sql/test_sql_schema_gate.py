"""A schema that this marketd does not work with is noticed by whoever uses it, waited for, and gone on with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import zmq.asyncio

from integration.conftest import Server
from journaled import Journaled, count, drained, draining
from lane import FUNDING
from marketd.daemon import metrics
from marketd.daemon.actor import AsyncActor
from marketd.daemon.actors.query import QueryActor
from marketd.daemon.actors.storage import StorageActor
from marketd.daemon.actors.writer import WriterActor
from marketd.daemon.config import convert
from marketd.daemon.verdict import judge
from marketd.daemon.writer import show_trouble
from marketd.ipc.protocol import ActorReport
from marketd.sql.connections import DatabaseConnectionManager, type_connection
from marketd.sql.errors import DatabaseUnavailable, SchemaBehind, SchemaTooNew
from marketd.sql.schema_runner import SchemaRunner, schema_gate
from marketd.sql.series import ensure_series_table
from support import eventually_async

FUTURE = (
    "INSERT INTO schema_changes (name, checksum, profile, took_ms)"
    " SELECT '9999_future', 'none', profile, 0 FROM schema_changes LIMIT 1"
)
PAST = "DELETE FROM schema_changes WHERE name = '9999_future'"


def gated(dsn: str) -> DatabaseConnectionManager:
    return DatabaseConnectionManager(dsn, actor="writer", health_interval_seconds=0.05, gate=schema_gate())


@pytest.fixture
def journaled(tmp_path: Path) -> Iterator[Journaled]:
    journaled = Journaled(tmp_path / "journal")
    yield journaled
    journaled.close()


@pytest.fixture
async def waiting(database: str, conn: type_connection) -> AsyncIterator[DatabaseConnectionManager]:
    """Connections that were opened while the schema was right, and whose schema is a newer one now."""
    await ensure_series_table(conn, "funding", dict(FUNDING.fields))
    async with gated(database) as manager:
        await conn.execute(FUTURE)
        await eventually_async(lambda: manager.statistics().state == "down")
        yield manager


def said_in_health(manager: DatabaseConnectionManager) -> str:
    parts = {"database": manager.statistics()._asdict()}
    status, problems = judge("live", [ActorReport(name="writer", state="live", statistics=parts)], "")
    assert status == "degraded"
    return problems[0]


async def test_a_newer_schema_is_noticed_by_a_daemon_that_runs_and_named(
    waiting: DatabaseConnectionManager, conn: type_connection, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SchemaTooNew, match="9999_future"):
        async with waiting.acquire():
            pytest.fail("the schema is not checked")
    assert "schema" in said_in_health(waiting) and "9999_future" in said_in_health(waiting)
    said = [record.getMessage() for record in caplog.get_records("setup")]
    assert any("PostgreSQL cannot be used: SchemaTooNew" in each for each in said)
    await conn.execute(PAST)
    assert await waiting.wait_until_up(30)
    async with waiting.acquire() as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_a_writer_waits_for_the_schema_that_it_knows_and_goes_on_by_itself(
    waiting: DatabaseConnectionManager, conn: type_connection, journaled: Journaled
) -> None:
    end = journaled.take(0)
    async with draining(journaled, waiting, end) as (writer, task):
        await eventually_async(lambda: "9999_future" in writer.statistics().trouble)
        assert b'marketd_writer_waits{trouble="schema"} 1.0' in metrics.exposition()
        assert (await count(conn, "trades"), task.done()) == (0, False)
        await conn.execute(PAST)
        await task
    assert (await count(conn, "trades"), writer.statistics().trouble) == (3, "")


async def test_a_writer_that_is_started_on_a_schema_it_does_not_know_waits_and_says_so(
    database: str, conn: type_connection, journaled: Journaled, caplog: pytest.LogCaptureFixture
) -> None:
    await ensure_series_table(conn, "funding", dict(FUNDING.fields))
    await conn.execute(FUTURE)
    manager = gated(database)
    opening = asyncio.create_task(manager.open(60, patient=True, told=show_trouble), name="open")
    try:
        await eventually_async(lambda: "9999_future" in said_in_health(manager))
        assert b'marketd_writer_waits{trouble="schema"} 1.0' in metrics.exposition()
        with pytest.raises(DatabaseUnavailable, match="9999_future"):
            async with manager.acquire():
                pytest.fail("it is not open")
        await conn.execute(PAST)
        await opening
        assert b'trouble="schema"' not in metrics.exposition()
        await drained(journaled, manager, journaled.take(0))
    finally:
        opening.cancel()
        await manager.close()
    assert await count(conn, "trades") == 3
    assert "marketd schema status" in caplog.text


async def test_an_older_schema_is_waited_for_until_it_is_applied(server: Server, empty_database: str) -> None:
    manager = gated(empty_database)
    with pytest.raises(SchemaBehind, match=r"0001_ledgers, .* and \d+ more"):
        await manager.open(60)
    opening = asyncio.create_task(manager.open(60, patient=True), name="open")
    try:
        await eventually_async(lambda: "SchemaBehind" in manager.statistics().trouble)
        async with DatabaseConnectionManager(empty_database) as plain, plain.acquire() as conn:
            await SchemaRunner(conn).apply()
        await opening
        assert await manager.profile() is server.profile
    finally:
        opening.cancel()
        await manager.close()


async def test_who_comes_while_the_first_connection_is_made_waits_for_it(database: str) -> None:
    manager = gated(database)
    opening = asyncio.create_task(manager.open(60), name="open")
    await asyncio.sleep(0)
    async with manager.acquire() as conn:
        assert await conn.fetchval("SELECT 1") == 1
    await opening
    await manager.close()


@pytest.fixture(autouse=True)
def _told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.mark.parametrize("role", [WriterActor, StorageActor, QueryActor])
async def test_each_actor_with_a_database_waits_for_a_schema_that_it_knows(
    database: str, conn: type_connection, tmp_path: Path, runtime_dir: Path, role: type[AsyncActor]
) -> None:
    await conn.execute(FUTURE)
    places = {"state_dir": str(tmp_path), "runtime_dir": str(runtime_dir)}
    actor = role("query-1", convert({**places, "database": {"url": database}}))
    actor.stopping, actor.context = asyncio.Event(), zmq.asyncio.Context()
    actor._tell_state = lambda: None  # type: ignore[method-assign]  # there is no supervisor
    work = asyncio.create_task(actor._work(), name="work")
    try:
        await eventually_async(lambda: "9999_future" in getattr(actor.statistics().get("database"), "trouble", ""))
        assert actor.state == "warming"
    finally:
        actor.stopping.set()
        await work
        await actor.end()
        actor.context.destroy()
