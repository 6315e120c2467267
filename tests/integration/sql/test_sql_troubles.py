"""Troubles of a real server, each brought about as life does it: a disk that is full, a password that was changed, a
server that stands still, a deadlock. Each is named in log, metric and health, waited for, and costs no record.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from integration.conftest import Server, installation_for
from journaled import Journaled, count, drained, draining
from marketd.daemon import metrics, verdict
from marketd.daemon import writer as writer_module
from marketd.daemon.verdict import judge
from marketd.daemon.writer import Writer
from marketd.ipc.protocol import ActorReport
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.embedded import EmbeddedPostgres
from marketd.sql.errors import DatabaseUnavailable
from marketd.sql.postmaster import server_processes
from marketd.sql.profiles import Profile
from marketd.sql.schema_runner import SchemaRunner
from support import eventually_async

BATCHES = 20
DISK_BYTES = 48 << 20  # a database with our schema takes a quarter
PASSWORD, OTHER_PASSWORD = "right", "another"


@pytest.fixture
async def postgres(state_dir: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A server that may be maltreated."""
    postgres = EmbeddedPostgres(state_dir, installation=installation_for(Profile.POSTGRES))
    await postgres.start()
    yield postgres
    await postgres.stop()


@pytest.fixture
def journaled(tmp_path: Path) -> Iterator[Journaled]:
    journaled = Journaled(tmp_path / "journal")
    yield journaled
    journaled.close()


def connections(dsn: str) -> DatabaseConnectionManager:
    return DatabaseConnectionManager(
        dsn, actor="writer", connect_timeout_seconds=1.0, health_interval_seconds=0.1, statement_timeout_seconds=0
    )


async def execute(dsn: str, *statements: str) -> None:
    conn = await asyncpg.connect(dsn)
    for statement in statements:
        await conn.execute(statement)
    await conn.close()


async def with_schema(dsn: str) -> None:
    conn = await asyncpg.connect(dsn)
    await SchemaRunner(conn).apply()
    await conn.close()


def health(writer: Writer, database: DatabaseConnectionManager) -> list[str]:
    """What `/health` says of a daemon with this writer."""
    statistics = {"writer": writer.statistics()._asdict(), "database": database.statistics()._asdict()}
    report = ActorReport(name="writer", state="live", restarts=0, statistics=statistics)
    return judge("live", [report], "")[1]


async def outlives(
    journaled: Journaled,
    database: DatabaseConnectionManager,
    trouble: str,
    begin: Callable[[], Awaitable[None]],
    end: Callable[[], Awaitable[None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The writer has stored a batch; then the trouble begins, and it is given some more; it says what it waits for;
    then the trouble ends. Everything is there once.
    """
    await drained(journaled, database, journaled.take(0))
    await begin()
    last = [journaled.take(3 * number) for number in range(1, BATCHES)][-1]
    with caplog.at_level(logging.WARNING):
        async with draining(journaled, database, last) as (writer, drain):
            try:
                await eventually_async(lambda: any(trouble in each for each in health(writer, database)))
                if writer.statistics().trouble:
                    assert f'marketd_writer_waits{{trouble="{trouble}"}} 1.0' in metrics.exposition().decode()
                assert any(getattr(each, "trouble", "") == trouble for each in caplog.records)
                assert not drain.done()
            finally:
                await end()
            await asyncio.wait_for(drain, 30.0)
            await eventually_async(lambda: not health(writer, database))
    async with database.acquire() as conn:
        assert await count(conn, "trades") == 3 * BATCHES
        assert await conn.fetchval("SELECT count(DISTINCT trade_id) FROM trades") == 3 * BATCHES
        assert await count(conn, "coverage") == BATCHES
        assert await count(conn, "quarantine") == 0


# ---- a full disk --------------------------------------------------------------------------------------


@contextmanager
def small_disk(directory: Path, owner: str) -> Iterator[None]:
    """A file system of its own there, of DISK_BYTES; skipped where none can be made."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    directory.mkdir()
    options = f"size={DISK_BYTES},uid={owner},mode=700"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)]
    made = subprocess.run(command, capture_output=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {made.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


async def test_a_full_disk_of_the_database_is_named_and_waited_for(
    postgres: EmbeddedPostgres, journaled: Journaled, state_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = state_dir / "small"
    with small_disk(disk, str(postgres.data_dir.stat().st_uid)):
        await execute(
            postgres.dsn, f"CREATE TABLESPACE small LOCATION '{disk}'", "CREATE DATABASE small TABLESPACE small"
        )
        dsn = postgres.dsn.replace("/marketd?", "/small?")
        await with_schema(dsn)
        ballast = disk / "ballast"

        async def fill() -> None:
            free = os.statvfs(disk)
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)

        async def make_room() -> None:
            ballast.unlink(missing_ok=True)

        async with connections(dsn) as database:
            await outlives(journaled, database, "disk_full", fill, make_room, caplog)
        await execute(postgres.dsn, "DROP DATABASE small WITH (FORCE)", "DROP TABLESPACE small")


# ---- a password that was changed -----------------------------------------------------------------------


async def test_a_password_that_is_wrong_now_is_named_and_waited_for(
    postgres: EmbeddedPostgres, journaled: Journaled, caplog: pytest.LogCaptureFixture
) -> None:
    await with_schema(postgres.dsn)
    access = postgres.data_dir.parent / "pg_hba.conf"
    access.write_text("local all marketd_writer scram-sha-256\n" + access.read_text())
    set_password = "ALTER ROLE marketd_writer PASSWORD '{}'"
    end_sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'marketd_writer'"
    await execute(postgres.dsn, set_password.format(PASSWORD), "SELECT pg_reload_conf()")

    async def change() -> None:
        await execute(postgres.dsn, set_password.format(OTHER_PASSWORD), end_sessions)

    async def change_back() -> None:
        await execute(postgres.dsn, set_password.format(PASSWORD))

    dsn = postgres.dsn.replace("//marketd@", f"//marketd_writer:{PASSWORD}@")
    async with connections(dsn) as database:
        await outlives(journaled, database, "login_refused", change, change_back, caplog)


# ---- a server that stands still ------------------------------------------------------------------------


async def test_a_server_that_stands_still_is_named_and_waited_for(
    postgres: EmbeddedPostgres, journaled: Journaled, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a disk that answers no more: every process of it stops in the middle of what it does."""
    await with_schema(postgres.dsn)
    stopped: list[int] = []

    async def stop() -> None:
        stopped.extend(server_processes(postgres.data_dir))
        _signal(stopped, signal.SIGSTOP)
        with pytest.raises(DatabaseUnavailable, match=r"within 0\.2 s|does not answer"):
            await _asked_for_nothing(database)

    async def go_on() -> None:
        _signal(stopped, signal.SIGCONT)

    async with connections(postgres.dsn) as database:
        try:
            await outlives(journaled, database, "away", stop, go_on, caplog)
        finally:
            await go_on()


async def _asked_for_nothing(database: DatabaseConnectionManager) -> None:
    """Whoever asks meanwhile is told within his deadline."""
    await eventually_async(lambda: database.statistics().state == "down")
    async with database.acquire(0.2):
        raise AssertionError("nobody answers")


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # a backend that ended when it was let go on
            os.kill(pid, number)


# ---- a slow disk ---------------------------------------------------------------------------------------

_SLOW_COMMITS = """
CREATE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER slow AFTER INSERT OR UPDATE ON marketd.journal_commits DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION be_slow();
"""


async def test_a_database_whose_commits_are_slow_is_named_keeps_up_and_recovers(
    server: Server,
    database: str,
    journaled: Journaled,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a disk that takes long to sync. Whoever sends is acknowledged by the journal, and waits for nothing."""
    del server  # both profiles
    for module in (verdict, writer_module):
        monkeypatch.setattr(module, "SLOW_SECONDS", 0.25)
    await execute(database, _SLOW_COMMITS)
    async with connections(database) as manager:
        writer = journaled.writer(manager)
        await writer.start()
        with caplog.at_level(logging.WARNING):
            running = asyncio.create_task(writer.run(), name="run")
            for number in range(BATCHES):
                end = journaled.take(3 * number)  # on disk, which is what is acknowledged
                writer.on_durable(end)
                await asyncio.sleep(0.02)
                writer.tell_if_slow()
            assert writer.offset < end
            await eventually_async(lambda: any("behind the journal" in each for each in health(writer, manager)))
            writer.tell_if_slow()
            await eventually_async(lambda: writer.offset == end)
            # what came meanwhile is one transaction: the lag is that of a commit or two, however slow these are
            assert writer.statistics().transactions <= BATCHES // 2
            await execute(database, "DROP TRIGGER slow ON marketd.journal_commits")
            writer.on_durable(end := journaled.take(3 * BATCHES))
            await eventually_async(lambda: writer.offset == end and not health(writer, manager))
            writer.tell_if_slow()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert writer.statistics().lag_seconds == 0
        assert [each.action for each in caplog.records if hasattr(each, "action")] == ["db_slow", "db_caught_up"]
        async with manager.acquire() as conn:
            assert await count(conn, "trades") == 3 * (BATCHES + 1)


# ---- a deadlock ----------------------------------------------------------------------------------------


async def test_a_writer_that_is_the_victim_of_a_deadlock_writes_again(
    server: Server, database: str, journaled: Journaled, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody holds a table and waits for the offset, which the writer has; then the writer wants the table.

    PostgreSQL looks for a deadlock once, a second after a session began to wait: so it is the writer that comes last,
    held up by a third session until the other one waits.
    """
    del server  # both profiles
    patient = {"search_path": "marketd", "deadlock_timeout": "60s", "application_name": "other"}
    async with connections(database) as manager:
        holder = await asyncpg.connect(database, server_settings={"search_path": "marketd"})
        other = await asyncpg.connect(database, server_settings=patient)
        await drained(journaled, manager, journaled.take(0))
        last = journaled.take(3)
        await holder.execute("BEGIN; LOCK TABLE coverage IN SHARE MODE")
        with caplog.at_level(logging.WARNING):
            async with draining(journaled, manager, last) as (_, drain):
                await eventually_async(lambda: _waits(holder, "marketd-writer"))
                await other.execute("BEGIN; LOCK TABLE trades IN ACCESS EXCLUSIVE MODE")
                wanting = asyncio.create_task(
                    other.execute("UPDATE journal_commits SET committed_offset = committed_offset")
                )
                await eventually_async(lambda: _waits(holder, "other"))
                await holder.execute("ROLLBACK")
                await eventually_async(lambda: any("40P01" in each.getMessage() for each in caplog.records))
                await wanting
                assert not drain.done()
                await other.execute("ROLLBACK")
                await asyncio.wait_for(drain, 30.0)
        assert await other.fetchval("SELECT count(*) || ' ' || count(DISTINCT trade_id) FROM trades") == "6 6"
        told = next(each for each in caplog.records if "40P01" in each.getMessage())
        assert getattr(told, "trouble", "") == "held_up"
        await other.close()
        await holder.close()


async def _waits(looker: Any, who: str) -> bool:
    """Does a session of that name wait for a lock?"""
    found = await looker.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'"
        " AND datname = current_database()",
        who,
    )
    return bool(found)
