"""Roles with least rights: the writer can do all of its work and nothing outside, the reader reads everything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import numpy as np
import pytest

from book_lane import books, imbalances, stamped
from lane import BTC, START, bars, trades
from marketd.market.records import BY_NAME, CandleFlag, Kind, Records
from marketd.sql.connections import DatabaseConnectionManager, type_connection
from marketd.sql.partitions import PartitionKeeper
from marketd.sql.profiles import Profile, detect_profile
from marketd.sql.retention import drop_old_pieces, pieces_of_table
from marketd.sql.rights import read_reading, read_rights, settle_rights
from marketd.sql.schema_files import load_schema_files
from marketd.sql.schema_runner import SchemaRunner
from marketd.sql.series import ensure_series_table
from marketd.sql.statements import statements
from marketd.sql.store import Commit, commit, split_rows, to_datetime

FAR = to_datetime(START * 4)


def as_role(dsn: str, role: str) -> str:
    return dsn.replace("postgresql://marketd@", f"postgresql://{role}@")


@pytest.fixture
async def writer(database: str) -> AsyncIterator[type_connection]:
    async with (
        DatabaseConnectionManager(as_role(database, "marketd_writer"), actor="test") as manager,
        manager.acquire() as connection,
    ):
        yield connection


@pytest.fixture
async def reader(database: str) -> AsyncIterator[type_connection]:
    connection = await asyncpg.connect(as_role(database, "marketd_reader"))
    yield connection
    await connection.close()


async def store(conn: type_connection, kind: Kind, records: Records, first_seq: int = 1) -> None:
    keeper = PartitionKeeper(await detect_profile(conn))
    rows = split_rows(kind, np.full(len(records), BTC.id, np.int32), stamped(records, first_seq))
    await commit(conn, Commit(uuid4(), "live", 8, START, rows, None, [], []), keeper)


async def readable(conn: type_connection) -> list[str]:
    rows = await conn.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'marketd'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')"
    )
    return [row["relname"] for row in rows]


async def test_the_writer_applies_stores_merges_cuts_and_drops(writer: type_connection) -> None:
    await SchemaRunner(writer).apply()
    await writer.execute("SET search_path = marketd, public")
    await ensure_series_table(writer, "funding", {"rate": "f8"})
    await ensure_series_table(writer, "funding", {"rate": "f8", "mark": "price"})
    await store(writer, BY_NAME["trade"], trades([(0, 1, 100, 1)]))
    await store(writer, BY_NAME["candle"], bars([0, 1]))
    await store(writer, BY_NAME["candle"], bars([0], 200, flags=CandleFlag.REVISED), first_seq=9)
    assert await writer.fetchval("SELECT count(*) FROM candle_versions") == 1
    await store(writer, BY_NAME["imbalance"], imbalances([(0, 7)]))
    made = len(await pieces_of_table(writer, "imbalances"))
    assert len((await drop_old_pieces(writer, "imbalances", FAR)).gone) == made == 1


async def test_the_writer_makes_what_is_missing_in_a_schema_that_is_its_own(empty_database: str) -> None:
    """Without a right on the database: so a newer marketd brings the schema up to date under it."""
    admin = await asyncpg.connect(empty_database)
    try:
        await admin.execute(statements("rights")["make_roles"])
        await admin.execute("CREATE SCHEMA marketd AUTHORIZATION marketd_writer")
        if await admin.fetchval("SELECT true FROM pg_available_extensions WHERE name = 'timescaledb'"):
            await admin.execute("CREATE EXTENSION timescaledb WITH SCHEMA public")
    finally:
        await admin.close()
    mine = await asyncpg.connect(as_role(empty_database, "marketd_writer"))
    try:
        files = load_schema_files()
        await SchemaRunner(mine, files=files[: len(files) // 2]).apply()
        assert await SchemaRunner(mine).apply() != []
        assert (await SchemaRunner(mine).status()).current
    finally:
        await mine.close()


async def test_the_writer_has_no_right_outside_of_the_schema(writer: type_connection) -> None:
    assert (
        await writer.fetchval(
            "SELECT rolsuper OR rolcreatedb OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
        )
        is False
    )
    for refused in ("CREATE TABLE public.x (i int)", "CREATE SCHEMA x", "SELECT * FROM pg_authid"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await writer.execute(refused)


async def test_pieces_that_a_superuser_made_are_the_writers_to_drop(
    conn: type_connection, writer: type_connection
) -> None:
    await store(conn, BY_NAME["book"], books([(0, 99, 100)]))
    assert len((await drop_old_pieces(writer, "book_snapshots", FAR)).gone) == 1


async def test_the_reader_reads_everything_and_writes_nothing(conn: type_connection, reader: type_connection) -> None:
    await ensure_series_table(conn, "funding", {"rate": "f8"})
    await store(conn, BY_NAME["trade"], trades([(0, 1, 100, 1)]))  # and so makes a piece
    for name in await readable(conn):
        await reader.fetch(f"SELECT * FROM marketd.{name} LIMIT 1")
    assert await reader.fetchval("SELECT count(*) FROM trades") == 1
    await reader.execute("SET default_transaction_read_only = off")
    for refused in (
        "DELETE FROM trades",
        "INSERT INTO annotations (instrument_id, ts_start, ts_end, label) VALUES (1, now(), now(), 'x')",
        "UPDATE journal_commits SET committed_offset = 0",
        "TRUNCATE trades",
        "DROP TABLE trades",
        "CREATE TABLE marketd.x (i int)",
        "CREATE TABLE public.x (i int)",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.execute(refused)


async def test_a_reader_that_is_forgotten_holds_nothing_up_for_long(conn: type_connection) -> None:
    """On servers whose settings are not ours, too: the bounds are the role's."""
    settings = await conn.fetchval(
        "SELECT setconfig FROM pg_db_role_setting WHERE setrole = 'marketd_reader'::regrole AND setdatabase = 0"
    )
    assert {"statement_timeout=60s", "idle_in_transaction_session_timeout=60s"} <= set(settings)


async def test_settled_rights_are_not_written_anew(conn: type_connection) -> None:
    await settle_rights(conn)
    before = await conn.fetchval(
        "SELECT sum(xmin::text::bigint) FROM pg_class WHERE relnamespace = 'marketd'::regnamespace"
    )
    await settle_rights(conn)
    assert before == await conn.fetchval(
        "SELECT sum(xmin::text::bigint) FROM pg_class WHERE relnamespace = 'marketd'::regnamespace"
    )


async def test_a_user_who_may_not_make_roles_owns_the_schema_and_is_told_the_sql(
    empty_database: str,
) -> None:
    name = empty_database.partition("@/")[2].partition("?")[0]
    admin = await asyncpg.connect(empty_database)
    await admin.execute(f"DROP ROLE IF EXISTS plain; CREATE ROLE plain LOGIN; GRANT CREATE ON DATABASE {name} TO plain")
    await admin.execute(statements("rights")["make_roles"])
    plain = await asyncpg.connect(as_role(empty_database, "plain"))
    try:
        if (await detect_profile(plain)) == "timescale":
            await admin.execute("CREATE EXTENSION IF NOT EXISTS timescaledb WITH SCHEMA public")
        await SchemaRunner(plain).apply()
        rights = await read_rights(plain)
        assert rights.owner == "plain"
        without = rights._replace(has_reader=False, has_writer=False)
        assert [line.split(" LOGIN")[0] for line in without.missing if "CREATE" in line] == [
            "CREATE ROLE marketd_reader",
            "CREATE ROLE marketd_writer",
        ]
        reader = await asyncpg.connect(as_role(empty_database, "marketd_reader"))
        assert await reader.fetch("SELECT * FROM marketd.trades") == []
        await reader.close()
    finally:
        await plain.close()
        await admin.execute("DROP OWNED BY plain CASCADE; DROP ROLE plain")
        await admin.close()


async def test_who_only_reads_goes_on_as_the_reader_under_the_writers_login(database: str) -> None:
    only_reads = DatabaseConnectionManager(as_role(database, "marketd_writer"), actor="query", read_only=True)
    async with only_reads as manager, manager.acquire() as connection:
        assert await read_reading(connection) == ("marketd_reader", False)
        await connection.execute("SET default_transaction_read_only = off")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("DELETE FROM trades")
    writes = DatabaseConnectionManager(as_role(database, "marketd_writer"), actor="writer")
    async with writes as manager, manager.acquire() as connection:
        assert await read_reading(connection) == ("marketd_writer", True)


async def test_a_login_that_may_not_become_the_reader_reads_all_the_same_and_is_told_the_sql(database: str) -> None:
    """Its transactions are read-only, whatever its rights."""
    admin = await asyncpg.connect(database)
    await admin.execute("REVOKE marketd_reader FROM marketd_writer")
    try:
        rights = await read_rights(conn := await asyncpg.connect(as_role(database, "marketd_writer")))
        await conn.close()
        assert rights.missing == ['GRANT marketd_reader TO "marketd_writer"']
        only_reads = DatabaseConnectionManager(as_role(database, "marketd_writer"), actor="query", read_only=True)
        async with only_reads as manager, manager.acquire() as connection:
            assert await read_reading(connection) == ("marketd_writer", True)
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await connection.execute("DELETE FROM trades")
        await admin.execute(rights.missing[0])
        assert not (await read_rights(admin)).missing
    finally:
        await admin.execute("GRANT marketd_reader TO marketd_writer")
        await admin.close()


async def test_nobody_goes_on_as_a_reader_who_may_not_read_all(database: str) -> None:
    """Of a newer schema that was applied by somebody else, say."""
    admin = await asyncpg.connect(database)
    await admin.execute("REVOKE SELECT ON marketd.coverage FROM marketd_reader")
    try:
        only_reads = DatabaseConnectionManager(as_role(database, "marketd_writer"), actor="query", read_only=True)
        async with only_reads as manager, manager.acquire() as connection:
            assert await read_reading(connection) == ("marketd_writer", True)
            await connection.fetch("SELECT * FROM coverage LIMIT 1")
        await settle_rights(admin)
        async with only_reads as manager, manager.acquire() as connection:
            assert await read_reading(connection) == ("marketd_reader", False)
    finally:
        await admin.close()


@pytest.mark.parametrize("server", [Profile.TIMESCALE], indirect=True, ids=str)
async def test_who_may_not_have_chunks_compressed_again_as_a_whole_is_told_the_sql(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    admin = await asyncpg.connect(database)
    await admin.execute("DROP ROLE IF EXISTS member; CREATE ROLE member LOGIN IN ROLE marketd_writer")
    member = await asyncpg.connect(as_role(database, "member"))
    try:
        (told,) = (await settle_rights(member)).missing
        assert told.startswith("ALTER ROLE marketd_writer IN DATABASE ")
        assert [record.levelname for record in caplog.records if told in record.getMessage()] == ["WARNING"]
        assert not (await read_rights(admin)).missing  # who may do it does, with the policies
        await admin.execute(told)
        assert not (await read_rights(member)).missing
        assert not await admin.fetchval(statements("policies")["recompresses_by_segments"])
    finally:
        await member.close()
        await admin.execute("DROP ROLE member")
        await admin.close()
