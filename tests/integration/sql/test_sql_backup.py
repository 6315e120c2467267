"""A backup comes back whole on both profiles, and never over anything, nor in part."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import numpy as np
import pytest

from book_lane import books
from integration.conftest import Server
from lane import BTC, START, bars, trades
from marketd.market.records import BY_NAME, Records
from marketd.sql import restore as restore_module
from marketd.sql.backup import DUMP, MANIFEST, BackupRefused, Step, back_up, read_manifest
from marketd.sql.connections import type_connection
from marketd.sql.fingerprint import fingerprint, tables_of
from marketd.sql.partitions import PartitionKeeper
from marketd.sql.pg_programs import ProgramFailed
from marketd.sql.profiles import Profile, detect_profile
from marketd.sql.restore import RestoreMismatch, RestoreRefused, restore
from marketd.sql.rights import read_rights
from marketd.sql.schema_runner import SchemaRunner
from marketd.sql.series import ensure_series_table
from marketd.sql.storage import measure
from marketd.sql.store import Commit, commit, read_committed, split_rows

DAY_MS = 86_400_000
JOURNAL = uuid4()


def quiet(_: Step) -> None:
    """Nobody listens."""


async def store(conn: type_connection, kind: str, records: Records, offset: int) -> None:
    records["seq"] = np.arange(1, len(records) + 1)
    keeper = PartitionKeeper(await detect_profile(conn))
    rows = split_rows(BY_NAME[kind], np.full(len(records), BTC.id, np.int32), records)
    await commit(conn, Commit(JOURNAL, "live", offset, START, rows, None, [], [], start=offset - 8), keeper)


@pytest.fixture
async def stored(conn: type_connection, database: str) -> str:
    """A database with rows of several kinds over days; where there is a columnstore, a part is compressed."""
    await ensure_series_table(conn, "funding", {"rate": "f8"})
    await store(conn, "trade", trades([(day * DAY_MS + n, n, 100, 1) for day in range(3) for n in range(20)]), 8)
    await store(conn, "candle", bars(range(30)), 16)
    await store(conn, "book", books([(0, 99, 100), (DAY_MS, 100, 101)]), 24)
    await conn.execute(
        "INSERT INTO annotations (instrument_id, ts_start, ts_end, label, payload)"
        """ VALUES (65537, now(), now(), 'squeeze', '{"level": 100.5}')"""
    )
    if await detect_profile(conn) is Profile.TIMESCALE:
        await conn.execute(
            "ALTER TABLE trades SET (timescaledb.enable_columnstore, timescaledb.segmentby='instrument_id')"
        )
        await conn.execute("SELECT public.compress_chunk(c) FROM public.show_chunks('trades') c ORDER BY c LIMIT 1")
    return database


@pytest.fixture
async def target(server: Server, stored: str) -> str:
    """Another, empty database of the same server."""
    conn = await asyncpg.connect(server.dsn("postgres"))
    await conn.execute("DROP DATABASE IF EXISTS restored WITH (FORCE)")
    await conn.execute("CREATE DATABASE restored")
    await conn.close()
    return server.dsn("restored")


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[type_connection]:
    conn = await asyncpg.connect(dsn, server_settings={"search_path": "marketd, public", "timezone": "UTC"})
    try:
        yield conn
    finally:
        await conn.close()


async def prints(conn: type_connection) -> dict[str, object]:
    return {table: await fingerprint(conn, table) for table in await tables_of(conn)}


async def databases(server: Server) -> set[str]:
    conn = await asyncpg.connect(server.dsn("postgres"))
    rows = await conn.fetch("SELECT datname FROM pg_database")
    await conn.close()
    return {row["datname"] for row in rows}


async def test_a_round_trip_keeps_every_row_the_offset_and_what_is_compressed(
    server: Server, stored: str, target: str, conn: type_connection, tmp_path: Path
) -> None:
    registry = tmp_path / "registry.json"
    registry.write_text("{}")
    steps: list[Step] = []
    manifest = await back_up(stored, tmp_path / "copy", registry, steps.append)
    assert manifest.tables["trades"].rows == 60
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {DUMP, MANIFEST, "registry.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"copy", "registry.json"}
    await restore(target, tmp_path / "copy", steps.append)
    assert any(step.what.startswith("restoring") for step in steps)
    async with _connected(target) as back:
        assert await prints(back) == await prints(conn)
        assert await read_committed(back, JOURNAL) == 24
        assert await SchemaRunner(back).require_current() is server.profile
        packed = [piece.packed_rows for piece in (await measure(back)).pieces if piece.table == "trades"]
        assert sorted(packed) == ([0, 0, 20] if server.profile is Profile.TIMESCALE else [0, 0, 0])
        assert (await read_rights(back)).owner == "marketd_writer"
        await store(back, "trade", trades([(4 * DAY_MS, 1, 100, 1)]), 32)  # and the writer goes on
    assert not {name for name in await databases(server) if "restor" in name} - {"restored"}


async def test_it_is_of_one_moment_though_rows_come_in(
    stored: str, target: str, conn: type_connection, tmp_path: Path
) -> None:
    """A trade is committed when pg_dump names its first table, long before it comes to the trades."""
    loop = asyncio.get_running_loop()
    late: list[asyncio.Task[None]] = []

    def commit_late(_: Step) -> None:
        if not late:
            late.append(loop.create_task(store(conn, "trade", trades([(5, 999, 100, 1)]), 32)))

    manifest = await back_up(stored, tmp_path / "copy", None, commit_late)
    await late[0]
    assert manifest.journals == {str(JOURNAL): 24}
    await restore(target, tmp_path / "copy", quiet)  # and so what was dumped is what the manifest says
    assert (await fingerprint(conn, "trades")).rows == manifest.tables["trades"].rows + 1


@pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)
async def test_nothing_is_restored_over_rows_over_others_tables_or_beside_a_daemon(
    server: Server, stored: str, target: str, tmp_path: Path
) -> None:
    await back_up(stored, tmp_path / "copy", None, quiet)
    with pytest.raises(RestoreRefused, match="marketd-test is connected"):
        await restore(stored, tmp_path / "copy", quiet)
    async with _connected(target) as conn:
        await SchemaRunner(conn).apply()
        await conn.execute(
            "INSERT INTO marketd.quarantine VALUES (1, 1, now(), 0, 0, '', '', '', '', '', gen_random_uuid())"
        )
    with pytest.raises(RestoreRefused, match="has rows in quarantine"):
        await restore(target, tmp_path / "copy", quiet)
    async with _connected(target) as conn:
        await conn.execute("DELETE FROM marketd.quarantine; CREATE TABLE public.payroll (i int)")
    with pytest.raises(RestoreRefused, match=r"public\.payroll"):
        await restore(target, tmp_path / "copy", quiet)
    async with _connected(target) as conn:
        await conn.execute("DROP TABLE public.payroll")
    assert (await restore(target, tmp_path / "copy", quiet)).tables["trades"].rows == 60


@pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)
async def test_a_damaged_copy_replaces_nothing(server: Server, stored: str, target: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    await back_up(stored, copy, None, quiet)
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["tables"]["trades"] = [59, "1"]
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(RestoreMismatch, match="trades came back with 60 rows where 59"):
        await restore(target, copy, quiet)
    dump = (copy / DUMP).read_bytes()
    (copy / DUMP).write_bytes(dump[: len(dump) // 2])
    with pytest.raises(ProgramFailed):
        await restore(target, copy, quiet)
    assert not {name for name in await databases(server) if "_restoring" in name}
    async with _connected(target) as conn:
        assert await tables_of(conn) == []


@pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)
async def test_a_restore_that_ends_between_its_renames_leaves_a_database_under_the_name(
    server: Server, stored: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await back_up(stored, tmp_path / "copy", None, quiet)

    async def lose_it(dsn: str, *_: object) -> None:
        conn = await asyncpg.connect(server.dsn("postgres"))
        await conn.execute("DROP DATABASE restored_restoring")
        await conn.close()

    monkeypatch.setattr(restore_module, "_fill", lose_it)
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await restore(target, tmp_path / "copy", quiet)
    monkeypatch.undo()
    await restore(target, tmp_path / "copy", quiet)  # as if it had not been tried
    async with _connected(target) as conn:
        assert await conn.fetchval("SELECT count(*) FROM trades") == 60


async def test_what_is_no_backup_and_what_is_there_already_is_refused(stored: str, tmp_path: Path) -> None:
    with pytest.raises(BackupRefused, match="is there already"):
        await back_up(stored, tmp_path, None, quiet)
    with pytest.raises(BackupRefused, match="no manifest"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST).write_text('{"format": 99}')
    with pytest.raises(BackupRefused, match="format"):
        read_manifest(tmp_path)
