"""A database moves into another of either profile: resumable, verified, and a writer goes on there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg
import numpy as np
import pytest

from book_lane import books
from integration.conftest import Server
from lane import BTC, START, bars, trades
from marketd.market.records import BY_NAME, Records
from marketd.ops.cli import EXIT_FAILED, EXIT_NOT_WELL, main
from marketd.sql import copy_across
from marketd.sql import move as move_module
from marketd.sql.connections import DatabaseConnectionManager, type_connection
from marketd.sql.copy_across import CopyMismatch
from marketd.sql.fingerprint import fingerprint, tables_of
from marketd.sql.move import MoveRefused, move
from marketd.sql.partitions import PartitionKeeper
from marketd.sql.profiles import Profile, detect_profile
from marketd.sql.schema_runner import SchemaRunner
from marketd.sql.series import ensure_series_table
from marketd.sql.sole import sole_connection
from marketd.sql.store import Commit, commit, read_committed, split_rows
from packed import pack_all
from support import eventually_async

DAY_MS = 86_400_000
JOURNAL = uuid4()
OWN = ("schema_changes", "storage_samples", "moved_pieces")


def quiet(*_: object) -> None:
    """Nobody listens."""


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[type_connection]:
    async with sole_connection(dsn, "cli") as conn:
        yield conn


async def store(conn: type_connection, kind: str, records: Records, offset: int) -> None:
    records["seq"] = np.arange(1, len(records) + 1) + offset * 1000
    keeper = PartitionKeeper(await detect_profile(conn))
    rows = split_rows(BY_NAME[kind], np.full(len(records), BTC.id, np.int32), records)
    await commit(conn, Commit(JOURNAL, "live", offset, START, rows, None, [], [], start=offset - 8), keeper)


async def fresh_database(server: Server, name: str) -> str:
    conn = await asyncpg.connect(server.dsn("postgres"))
    await conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await conn.execute(f"CREATE DATABASE {name}")
    await conn.close()
    return server.dsn(name)


@pytest.fixture
async def source(server: Server) -> str:
    """A database of the profile `postgres` (on either server: TimescaleDB need not be used where it is) with rows."""
    dsn = await fresh_database(server, "move_source")
    async with connected(dsn) as conn:
        await SchemaRunner(conn).apply(profile=Profile.POSTGRES)
        await ensure_series_table(conn, "funding", {"rate": "f8"})
        await ensure_series_table(conn, "funding", {"rate": "f8", "at": "i8"})
        await store(conn, "trade", trades([(day * DAY_MS + n, n, 100, 1) for day in range(3) for n in range(20)]), 8)
        await store(conn, "candle", bars(range(30)), 16)
        await store(conn, "book", books([(0, 99, 100)]), 24)
        refused = "(7, 1, now(), 0, 0, 'trade', 'precision', '', '', '', gen_random_uuid())"
        await conn.execute(f"INSERT INTO quarantine VALUES {refused}")
    return dsn


@pytest.fixture
async def target(server: Server, source: str) -> str:
    """An empty database, which gets the profile of its server."""
    return await fresh_database(server, "move_target")


async def run_move(source: str, target: str) -> move_module.Moved:
    async with sole_connection(source, "move") as old, sole_connection(target, "move") as new:
        return await move(old, new, quiet)


async def assert_alike(source: str, target: str) -> None:
    async with connected(source) as old, connected(target) as new:
        for table in await tables_of(old):
            if table not in OWN:
                assert await fingerprint(old, table) == await fingerprint(new, table), table


async def test_everything_is_moved_verified_and_the_writer_goes_on(server: Server, source: str, target: str) -> None:
    async with connected(source) as old:
        await store(old, "candle", bars(range(5), timeframe=1), 32)
    moved = await run_move(source, target)
    assert moved.finished
    assert (moved.copied, moved.kept) == (7, 0)
    await assert_alike(source, target)
    async with connected(target) as new:
        assert await detect_profile(new) is server.profile
        assert await read_committed(new, JOURNAL) == 32
        await store(new, "trade", trades([(4 * DAY_MS, 1, 100, 1)]), 40)
        refused = "(1, now(), 0, 0, 'trade', 'precision', '', '', '', gen_random_uuid())"
        columns = 'instrument_id, ts_known, "offset", item, kind, rule, detail, source, payload, journal'
        assert await new.fetchval(f"INSERT INTO quarantine ({columns}) VALUES {refused} RETURNING id") == 8
        if server.profile is Profile.TIMESCALE:  # longer bars are still to be made of what was moved
            due = "SELECT extract(epoch FROM ts_end - ts_start)::int FROM refresh_due"
            assert await new.fetchval(due) == 5
    with pytest.raises(MoveRefused, match="has journals already"):
        await run_move(source, target)


async def test_packed_blocks_arrive_as_blocks_or_as_rows(server: Server, source: str, target: str) -> None:
    packed = ("trades", "book_snapshots")
    async with connected(source) as old:
        before = {table: await fingerprint(old, table) for table in packed}
        assert sum(done.rows for done in await pack_all(old)) == 61
        # one that comes late lies beside its block, and so does one that the writer brought back
        await store(old, "trade", trades([(5, 999, 100, 1)]), 32)
        await store(old, "trade", trades([(3, 3, 100, 1)]), 40)
        beside = await old.fetchval("SELECT count(*) FROM trades")
    assert beside == 2
    assert (await run_move(source, target)).finished
    async with connected(source) as old, connected(target) as new:
        if server.profile is Profile.POSTGRES:
            await assert_alike(source, target)
            return
        assert await new.fetchval("SELECT count(*) FROM packed_blocks") == 0
        assert await fingerprint(new, "book_snapshots") == before["book_snapshots"]
        assert (await fingerprint(new, "trades")).rows == before["trades"].rows + 1
        await new.execute("DELETE FROM trades WHERE trade_id = 999")
        assert await fingerprint(new, "trades") == before["trades"]


@pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)
async def test_an_interrupted_move_goes_on_where_it_was(
    source: str, target: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copied: list[str] = []
    whole = move_module.replace_rows

    async def third_fails(old: type_connection, new: type_connection, table: str, *span: object) -> object:
        if len(copied) == 2:
            raise KeyboardInterrupt
        copied.append(table)
        return await whole(old, new, table, *span)  # type: ignore[arg-type]

    monkeypatch.setattr(move_module, "replace_rows", third_fails)
    with pytest.raises(KeyboardInterrupt):
        await run_move(source, target)
    monkeypatch.undo()
    async with connected(target) as new:
        assert await read_committed(new, JOURNAL) is None  # so that no writer begins there
        assert await new.fetchval("SELECT count(*) FROM moved_pieces") == 2
    capsys.readouterr()
    command = ["schema", "move", "--to", target, "--set", f"database.url={source}"]
    assert await asyncio.to_thread(main, command) == 0
    told = capsys.readouterr().out
    assert "moved and verified: 4 pieces copied, 2 as they were" in told
    assert "now set database.url to postgresql://" in told
    await assert_alike(source, target)


@pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)
async def test_a_copy_is_interrupted_at_once_though_the_target_has_fallen_behind(
    source: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = asyncio.Event()

    async def nothing_is_taken(messages: asyncio.Queue[bytes | None], _: object) -> AsyncIterator[bytes]:
        await eventually_async(messages.full)
        full.set()
        await asyncio.Event().wait()
        yield b""

    monkeypatch.setattr(copy_across, "_MESSAGES", 1)
    monkeypatch.setattr(copy_across, "_received", nothing_is_taken)
    async with connected(source) as old, connected(target) as new:
        await SchemaRunner(new).apply()
        await old.execute(
            "INSERT INTO annotations (instrument_id, ts_start, ts_end, label)"
            " SELECT 1, now(), now(), 'x' FROM generate_series(1, 20000)"
        )
        copying = asyncio.create_task(copy_across.replace_rows(old, new, "annotations"))
        await full.wait()
        copying.cancel()
        async with asyncio.timeout(30):
            await asyncio.gather(copying, return_exceptions=True)
        assert copying.cancelled()


@pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)
async def test_of_two_moves_into_one_database_the_second_is_refused(
    source: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(move_module, "_ALONE_SECONDS", 0.2)
    begun, go = asyncio.Event(), asyncio.Event()
    whole = move_module.replace_rows

    async def held_up(*args: object) -> object:
        begun.set()
        await go.wait()
        return await whole(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(move_module, "replace_rows", held_up)
    first = asyncio.create_task(run_move(source, target))
    await begun.wait()
    with pytest.raises(MoveRefused, match="another marketd moves into that database"):
        await run_move(source, target)
    go.set()
    assert (await first).finished


@pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)
async def test_a_session_that_holds_the_offsets_is_told_of_and_not_waited_for_without_end(
    source: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(move_module, "_LOCK_SECONDS", 0.2)
    async with connected(source) as somebody, somebody.transaction():
        await somebody.execute("UPDATE journal_commits SET committed_at = now()")
        with pytest.raises(MoveRefused, match="idle in its transaction"):
            await run_move(source, target)


@pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)
async def test_a_target_that_cannot_be_reached_is_named_and_not_the_source(
    source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["schema", "move", "--to", "postgresql://u:secret@127.0.0.1:1/x", "--set", f"database.url={source}"]
    assert await asyncio.to_thread(main, command) == EXIT_FAILED
    assert "PostgreSQL at postgresql://u@127.0.0.1:1/x cannot be reached" in capsys.readouterr().err


@pytest.mark.parametrize("server", [Profile.TIMESCALE], indirect=True, ids=str)
async def test_beside_a_daemon_it_copies_and_finishes_when_the_daemon_has_stopped(source: str, target: str) -> None:
    async with DatabaseConnectionManager(source, actor="writer") as manager, manager.acquire() as writer:
        moved = await run_move(source, target)
        assert (moved.finished, moved.daemons, moved.copied) == (False, ["marketd-writer"], 6)
        # meanwhile: a late trade in a piece that was copied, a new piece, and one that retention drops
        await store(writer, "trade", trades([(5, 999, 100, 1), (9 * DAY_MS, 1, 100, 1)]), 32)
        await writer.execute("DROP TABLE book_snapshots_p20240808")
        command = ["schema", "move", "--to", target, "--set", f"database.url={source}"]
        assert await asyncio.to_thread(main, command) == EXIT_NOT_WELL
    moved = await run_move(source, target)
    assert (moved.finished, moved.copied, moved.kept) == (True, 2, 11)
    await assert_alike(source, target)
    async with connected(target) as new:
        assert await read_committed(new, JOURNAL) == 32


@pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)
async def test_no_writer_commits_while_a_move_is_being_finished(
    source: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = move_module._Mover.copy_the_rest
    waited: list[str] = []

    async def with_a_writer(self: move_module._Mover) -> None:
        async with connected(source) as writer:
            await writer.execute("SET lock_timeout = '100ms'")
            with pytest.raises(asyncpg.LockNotAvailableError):
                await store(writer, "trade", trades([(5, 999, 100, 1)]), 32)
            waited.append("x")
        await whole(self)

    monkeypatch.setattr(move_module._Mover, "copy_the_rest", with_a_writer)
    assert (await run_move(source, target)).finished
    assert waited == ["x"]
    await assert_alike(source, target)


@pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)
async def test_rows_that_arrive_different_are_rolled_back(source: str, target: str) -> None:
    async with connected(target) as new:
        await SchemaRunner(new).apply()
        await new.execute(
            "CREATE FUNCTION marketd.spoil() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN NEW.detail := ''spoilt''; RETURN NEW; END';"
            " CREATE TRIGGER spoil BEFORE INSERT ON marketd.quarantine FOR EACH ROW EXECUTE FUNCTION marketd.spoil()"
        )
    with pytest.raises(CopyMismatch, match="quarantine: 1 rows were sent and 1 arrived, or others"):
        await run_move(source, target)
    async with connected(target) as new:
        assert await new.fetchval("SELECT count(*) FROM quarantine") == 0
        assert await read_committed(new, JOURNAL) is None


@pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)
async def test_a_target_with_rows_of_its_own_and_the_source_itself_are_refused(source: str, target: str) -> None:
    with pytest.raises(MoveRefused, match="names the database that is to be moved"):
        await run_move(source, source)
    async with connected(target) as new:
        await SchemaRunner(new).apply()
        await new.execute(
            "INSERT INTO annotations (instrument_id, ts_start, ts_end, label) VALUES (1, now(), now(), 'x')"
        )
    with pytest.raises(MoveRefused, match="rows in annotations"):
        await run_move(source, target)
    async with connected(target) as new:
        await new.execute("DELETE FROM annotations")
        await new.execute("INSERT INTO moved_pieces VALUES ('trades', now(), now(), 'elsewhere', 0, '0')")
    with pytest.raises(MoveRefused, match="another database is being moved there: elsewhere"):
        await run_move(source, target)
