"""A pool that survives its server, and what it tells about it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import asyncpg
import pytest

from integration.conftest import Server, installation_for
from marketd.market.errors import InvalidArgument
from marketd.sql import sessions
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.embedded import EmbeddedPostgres
from marketd.sql.errors import DatabaseError, DatabaseUnavailable, ProfileError, RetryBudgetExceeded
from marketd.sql.profiles import Profile, ServerFacts, profile_for
from marketd.sql.retry import is_retryable
from marketd.sql.schema_runner import SchemaRunner
from support import eventually_async

_ONE_PROFILE = pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)


async def test_a_session_says_who_it_is_and_what_it_may_hold_up(database: str) -> None:
    manager = DatabaseConnectionManager(
        database, actor="writer", statement_timeout_seconds=7, lock_timeout_seconds=3, idle_in_transaction_seconds=9
    )
    async with manager, manager.acquire() as conn:
        shown = {
            name: await conn.fetchval(f"SHOW {name}")
            for name in (
                "application_name",
                "timezone",
                "search_path",
                "statement_timeout",
                "lock_timeout",
                "idle_in_transaction_session_timeout",
            )
        }
    assert shown == {
        "application_name": "marketd-writer",
        "timezone": "UTC",
        "search_path": "marketd, public",
        "statement_timeout": "7s",
        "lock_timeout": "3s",
        "idle_in_transaction_session_timeout": "9s",
    }


async def test_a_reader_cannot_write(database: str) -> None:
    manager = DatabaseConnectionManager(database, read_only=True)
    async with manager, manager.acquire() as conn:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await conn.execute("DELETE FROM trades")


async def test_the_profile_of_the_database_is_found(server: Server, connections: DatabaseConnectionManager) -> None:
    assert await connections.profile() is server.profile
    facts = await connections.facts()
    assert bool(facts.timescale_installed) == (server.profile is Profile.TIMESCALE)
    assert await connections.facts() is facts


@_ONE_PROFILE
async def test_statistics_count_what_happened(connections: DatabaseConnectionManager) -> None:
    before = connections.statistics()
    async with connections.acquire() as conn:
        await conn.execute("SELECT 1")
        assert connections.statistics().idle == before.idle - 1
    after = connections.statistics()
    assert (after.state, after.acquires - before.acquires, after.failures) == ("up", 1, 0)
    assert "marketd-test up" in repr(connections)
    assert await connections.check() > 0


@_ONE_PROFILE
async def test_an_error_of_a_statement_is_no_failure_of_the_connection(
    connections: DatabaseConnectionManager,
) -> None:
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with connections.acquire() as conn:
            await conn.execute("SELECT 1/0")
    assert connections.statistics()[0] == "up"
    assert connections.statistics().failures == 0


@_ONE_PROFILE
async def test_a_pool_in_full_use_says_so_and_is_not_taken_for_a_dead_server(database: str) -> None:
    async with DatabaseConnectionManager(database, max_size=1) as manager, manager.acquire():
        with pytest.raises(DatabaseUnavailable, match="1 of 1 in use"):
            async with manager.acquire(timeout_seconds=0.05):
                raise AssertionError("there was no connection left")
        assert manager.statistics().state == "up"


@_ONE_PROFILE
async def test_a_session_that_the_server_ends_is_replaced(
    server: Server, connections: DatabaseConnectionManager
) -> None:
    with pytest.raises((asyncpg.PostgresError, DatabaseUnavailable)) as caught:
        async with connections.acquire() as conn:
            killer = await asyncpg.connect(server.dsn("postgres"))
            await killer.execute("SELECT pg_terminate_backend($1)", conn.get_server_pid())
            await killer.close()
            await conn.fetchval("SELECT pg_sleep(5)")
    assert is_retryable(caught.value)
    async with connections.acquire() as conn:
        assert await conn.fetchval("SELECT 1") == 1
    assert connections.statistics().failures == 1


async def test_a_session_that_is_old_is_replaced_when_it_is_given_back_and_not_before(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what it keeps of every partition or chunk that it has touched grows for as long as the daemon lives."""
    monkeypatch.setattr(sessions, "SESSION_SECONDS", 0.0)
    async with DatabaseConnectionManager(database, max_size=1) as manager:
        async with manager.acquire() as conn:
            first = conn.get_server_pid()
            assert await conn.fetchval("SELECT 1") == 1
        monkeypatch.setattr(sessions, "SESSION_SECONDS", 300.0)
        async with manager.acquire() as conn:
            second = conn.get_server_pid()
            known = await conn.fetch("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
        async with manager.acquire() as conn:
            assert conn.get_server_pid() == second != first
        assert first not in {row["pid"] for row in known}
        assert manager.statistics().failures == 0


async def test_the_pool_goes_on_by_itself_when_the_server_is_back(state_dir: Path) -> None:
    postgres = EmbeddedPostgres(state_dir, installation=installation_for(Profile.POSTGRES))
    await postgres.start()
    manager = DatabaseConnectionManager(postgres.dsn, health_interval_seconds=0.05)
    await manager.open()
    assert postgres.pid is not None
    os.kill(postgres.pid, signal.SIGKILL)
    await eventually_async(lambda: manager.statistics().state == "down")
    with pytest.raises(DatabaseUnavailable, match="does not answer"):
        async with manager.acquire():
            raise AssertionError("there is no server")
    assert not await manager.wait_until_up(0.05)
    assert manager.statistics().down_seconds > 0
    await postgres.start()
    assert await manager.wait_until_up(20)
    async with manager.acquire() as conn:
        assert await conn.fetchval("SELECT 1") == 1
    statistics = manager.statistics()
    assert (statistics.state, statistics.reconnects) == ("up", 1)
    assert statistics.failures >= 1
    await manager.close()
    assert manager.statistics().state == "closed"
    await postgres.stop()


async def test_a_server_that_stands_still_is_noticed(state_dir: Path) -> None:
    postgres = EmbeddedPostgres(state_dir, installation=installation_for(Profile.POSTGRES))
    await postgres.start()
    manager = DatabaseConnectionManager(postgres.dsn, connect_timeout_seconds=0.3, health_interval_seconds=0.05)
    await manager.open()
    async with manager.acquire() as conn:
        pids = [postgres.pid, conn.get_server_pid()]
    for pid in pids:
        os.kill(pid or 0, signal.SIGSTOP)
    await eventually_async(lambda: manager.statistics().state == "down")
    for pid in pids:
        os.kill(pid or 0, signal.SIGCONT)
    assert await manager.wait_until_up(20)
    await manager.close()
    await postgres.stop()


async def test_opening_gives_up_within_its_budget_and_names_it(tmp_path: Path) -> None:
    manager = DatabaseConnectionManager(f"postgresql://x@/x?host={tmp_path}", actor="query")
    with pytest.raises(RetryBudgetExceeded, match=r"connect as marketd-query: .*budget of 0\.2 s"):
        await manager.open(timeout_seconds=0.2)
    assert manager.statistics().failures >= 1
    with pytest.raises(DatabaseError, match="not open"):
        async with manager.acquire():
            raise AssertionError("it was never opened")
    await manager.close()


@_ONE_PROFILE
async def test_opening_waits_for_no_database_that_does_not_exist(server: Server) -> None:
    manager = DatabaseConnectionManager(server.dsn("nowhere"))
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await manager.open()


@_ONE_PROFILE
async def test_closing_cuts_a_connection_that_is_not_given_back(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marketd.sql.connections._CLOSE_BUDGET_SECONDS", 0.05)
    manager = DatabaseConnectionManager(database)
    await manager.open()
    taken = asyncio.Event()

    async def keep() -> None:
        async with manager.acquire() as conn:
            taken.set()
            await conn.fetchval("SELECT pg_sleep(60)")

    keeper = asyncio.create_task(keep())
    await taken.wait()
    await manager.close()
    with pytest.raises((asyncpg.PostgresError, DatabaseUnavailable)):
        await keeper


def test_pools_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="pool of 5 to 4"):
        DatabaseConnectionManager("postgresql:///x", min_size=5)


_FACTS = ServerFacts("18.4", 180004, "2.29.2", "2.29.2", True, "timescale", None)


@pytest.mark.parametrize(
    ("facts", "profile"),
    [
        (_FACTS, Profile.TIMESCALE),
        (_FACTS._replace(licence="apache"), Profile.POSTGRES),
        (_FACTS._replace(timescale_installed="2.19.3"), Profile.POSTGRES),
        (_FACTS._replace(timescale_installed="", licence=""), Profile.TIMESCALE),
        (_FACTS._replace(timescale_installed="", timescale_preloaded=False), Profile.POSTGRES),
        (_FACTS._replace(timescale_installed="", timescale_available="2.9.0"), Profile.POSTGRES),
        (_FACTS._replace(timescale_installed="", timescale_available=""), Profile.POSTGRES),
        (_FACTS._replace(recorded=Profile.POSTGRES), Profile.POSTGRES),
    ],
)
def test_timescale_is_chosen_only_when_it_can_do_everything(facts: ServerFacts, profile: Profile) -> None:
    assert profile_for(facts) is profile


@pytest.mark.parametrize("change", [{"licence": "apache"}, {"timescale_installed": ""}])
def test_a_schema_on_timescale_is_not_served_without_it(change: dict[str, str]) -> None:
    with pytest.raises(ProfileError, match="made for TimescaleDB Community"):
        profile_for(_FACTS._replace(recorded=Profile.TIMESCALE, **change))  # type: ignore[arg-type]


async def test_timescales_apache_edition_is_served_as_postgres(state_dir: Path) -> None:
    installation = installation_for(Profile.TIMESCALE)
    settings = {"timescaledb.license": "apache"}
    postgres = EmbeddedPostgres(state_dir, installation=installation, settings=settings)
    conn = await asyncpg.connect(await postgres.start())
    assert (await SchemaRunner(conn).status()).profile is Profile.POSTGRES
    await conn.execute("CREATE EXTENSION timescaledb")
    await SchemaRunner(conn).apply()
    assert await SchemaRunner(conn).require_current() is Profile.POSTGRES
    await conn.close()
    await postgres.stop()


async def test_a_server_that_turns_out_to_be_apache_loses_the_extension_again(state_dir: Path) -> None:
    installation = installation_for(Profile.TIMESCALE)
    postgres = EmbeddedPostgres(state_dir, installation=installation)
    conn = await asyncpg.connect(await postgres.start())
    # as on a server whose configuration says nothing of the licence: it shows only after CREATE EXTENSION
    await conn.execute("ALTER SYSTEM SET timescaledb.license = 'apache'")
    await conn.execute("SELECT pg_reload_conf()")
    await conn.close()
    conn = await asyncpg.connect(postgres.dsn)
    assert await conn.fetchval("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'") == 0
    await SchemaRunner(conn).apply()
    assert await SchemaRunner(conn).require_current() is Profile.POSTGRES
    assert await conn.fetchval("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'") == 0
    await conn.close()
    await postgres.stop()
