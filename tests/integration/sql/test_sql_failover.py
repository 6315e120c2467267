"""Two servers, of which one fails: real replication, a real promotion, and no restart of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest
from standbys import Standby, both, pair

from integration.conftest import Server, installation_for
from journaled import Journaled, count, drained, draining
from lane import FUNDING
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.embedded import EmbeddedPostgres
from marketd.sql.errors import SchemaTooNew
from marketd.sql.hosts import wanted_server
from marketd.sql.lag import LagMeter
from marketd.sql.profiles import Profile
from marketd.sql.replica import ReadReplica
from marketd.sql.retry import can_be_waited_for
from marketd.sql.schema_runner import SchemaRunner
from marketd.sql.series import ensure_series_table
from marketd.sql.troubles import is_about_records, said_by, trouble_of
from support import eventually_async


class Pair(NamedTuple):
    primary: EmbeddedPostgres
    standby: Standby
    state: Path

    def connections(self, dsn: str = "", **options: bool) -> DatabaseConnectionManager:
        return DatabaseConnectionManager(
            dsn or both(self.primary, self.standby), health_interval_seconds=0.1, connect_timeout_seconds=2.0, **options
        )


@pytest.fixture
async def servers(state_dir: Path) -> AsyncIterator[Pair]:
    postgres = EmbeddedPostgres(state_dir, installation=installation_for(Profile.POSTGRES))
    conn = await asyncpg.connect(await postgres.start())
    await SchemaRunner(conn).apply()
    await ensure_series_table(conn, "funding", dict(FUNDING.fields))
    await conn.close()
    async with pair(postgres, state_dir / "standby") as standby:
        yield Pair(postgres, standby, state_dir)
    await postgres.stop()


async def test_the_writer_goes_on_at_the_promoted_standby_with_nothing_lost_and_nothing_twice(
    servers: Pair, tmp_path: Path
) -> None:
    journaled = Journaled(tmp_path / "journal")
    async with servers.connections() as database:
        first = journaled.take(0)
        await drained(journaled, database, first)
        async with servers.connections(servers.standby.dsn) as standby, standby.acquire() as conn:
            await eventually_async(lambda: _has(conn, 3))
        await servers.primary.stop()
        end = journaled.take(3)
        async with draining(journaled, database, end) as (writer, drain):
            await eventually_async(lambda: writer.statistics().trouble.startswith("away: "))
            await servers.standby.execute("SELECT pg_promote()")
            await drain
        async with database.acquire() as conn:
            assert (await count(conn, "trades"), await count(conn, "coverage")) == (6, 2)
    journaled.close()


async def _has(conn: asyncpg.Connection, trades: int) -> bool:
    return await count(conn, "trades") == trades


async def test_a_session_that_finds_itself_on_a_standby_is_replaced_by_one_on_the_primary(servers: Pair) -> None:
    """A switchover underneath: the session stays, and its server refuses to write."""
    async with servers.connections() as database:
        async with database.acquire() as conn:
            first = conn.get_server_pid()
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            async with database.acquire() as conn:
                await conn.execute("DO $$ BEGIN RAISE SQLSTATE '25006'; END $$")
        async with database.acquire() as conn:
            assert conn.get_server_pid() != first


async def test_the_replica_answers_while_it_is_near_enough_and_the_primary_else(servers: Pair) -> None:
    async with servers.connections(servers.primary.dsn) as primary:
        replica = ReadReplica(primary, servers.connections(servers.standby.dsn, read_only=True), 0.4)
        looking = asyncio.create_task(replica.run(30.0))
        await eventually_async(replica.is_usable)
        await servers.standby.execute("SELECT pg_wal_replay_pause()")
        async with primary.acquire() as conn:
            await conn.execute("INSERT INTO series_fields VALUES ('a', 'b', 'f8', 0)")
        await eventually_async(lambda: replica.statistics().state == "behind")
        assert replica.statistics().lag_seconds > 0.4
        await servers.standby.execute("SELECT pg_wal_replay_resume()")
        await eventually_async(replica.is_usable)
        await servers.primary.stop()
        await eventually_async(lambda: primary.statistics().state == "down")
        assert replica.is_usable()
        servers.standby.stop()
        await eventually_async(lambda: replica.statistics().state == "away")
        looking.cancel()
        await replica.database.close()


def test_a_lag_is_the_age_of_the_newest_position_that_was_reached() -> None:
    meter = LagMeter()
    assert meter.lag(10.0, 0) == float("inf")  # nothing is known yet
    for now, position in ((10.0, 100), (11.0, 200), (12.0, 300)):
        meter.mark(now, position)
    assert meter.lag(12.5, 99) == float("inf")
    assert meter.lag(12.5, 100) == 2.5
    assert meter.lag(12.5, 299) == 1.5
    assert meter.lag(12.5, 300) == 0.0
    assert meter.lag(99.0, 300) == 0.0  # a market that is silent
    meter.mark(100.0, 400)
    assert meter.lag(100.5, 300) == 1.5


def test_of_positions_that_come_close_together_the_last_is_not_forgotten() -> None:
    meter = LagMeter(apart=0.1)
    for now, position in ((10.0, 100), (10.05, 200), (10.09, 300), (10.1, 400)):
        meter.mark(now, position)
    assert meter.lag(10.2, 400) == 0.0
    meter.mark(11.0, 500)
    assert meter.lag(11.02, 500) == 0.0
    meter.mark(11.05, 600)
    meter.mark(11.06, 700)
    assert meter.lag(71.0, 600) == pytest.approx(59.98)  # the journal is silent, and the database not at its end
    assert meter.lag(72.0, 700) == 0.0


def test_what_postgresql_says_on_several_lines_is_one() -> None:
    said = said_by(RuntimeError("violates a check\nDETAIL:  row 1\nHINT:  none"))
    assert said == "violates a check; DETAIL:  row 1; HINT:  none"


@pytest.mark.parametrize(
    ("dsn", "read_only", "wanted"),
    [
        ("postgresql://u:p@a/db", False, None),
        ("postgresql://u:p,q@a/db", False, None),
        ("postgresql://u:p@a:1,b:2/db", False, "primary"),
        ("postgresql:///db?host=/a,/b", True, "primary"),
        ("postgresql://a,b/db?target_session_attrs=any", False, None),
        ("postgresql://a,b/db?target_session_attrs=read-write", False, None),
        ("postgresql://a/db?target_session_attrs=read-write", True, "primary"),
    ],
)
def test_of_several_hosts_the_primary_is_meant(dsn: str, read_only: bool, wanted: str | None) -> None:
    assert wanted_server(dsn, read_only=read_only) == wanted


@pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)
async def test_an_actor_waits_for_a_database_that_does_not_exist_yet_and_says_so(server: Server) -> None:
    manager = DatabaseConnectionManager(server.dsn("later"))
    opening = asyncio.create_task(manager.open(patient=True))
    await eventually_async(lambda: manager.statistics().trouble.startswith("no_such_database: "))
    maintenance = await asyncpg.connect(server.dsn("postgres"))
    await maintenance.execute("CREATE DATABASE later")
    await opening
    assert (manager.statistics().state, manager.statistics().trouble) == ("up", "")
    await manager.close()
    await maintenance.execute("DROP DATABASE later")
    await maintenance.close()


@pytest.mark.parametrize(
    ("error", "trouble", "about_records"),
    [
        (asyncpg.DiskFullError("x"), "disk_full", False),
        (asyncpg.InvalidPasswordError("x"), "login_refused", False),
        (asyncpg.InsufficientPrivilegeError("x"), "right_missing", False),
        (asyncpg.UndefinedColumnError("x"), "schema", False),
        (asyncpg.UndefinedFileError("x"), "stale_session", False),
        (asyncpg.InternalServerError("x"), "broken", False),
        (asyncpg.UniqueViolationError("x"), "unknown", False),
        (ConnectionRefusedError(), "away", False),
        (SchemaTooNew(), "schema", False),
        (asyncpg.NumericValueOutOfRangeError("x"), "records", True),
        (asyncpg.CheckViolationError("x"), "records", True),
        (asyncpg.ProgramLimitExceededError("x"), "records", True),
        (asyncpg.RaiseError("x"), "records", True),
        (asyncpg.UntranslatableCharacterError("x"), "records", True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_a_refusal_is_about_the_records_or_is_waited_for(error: Exception, trouble: str, about_records: bool) -> None:
    assert (trouble_of(error).name, is_about_records(error)) == (trouble, about_records)
    assert can_be_waited_for(error) is not about_records
