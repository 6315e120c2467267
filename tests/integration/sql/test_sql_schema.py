"""The schema runner and the schema that it makes, on both profiles."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import asyncpg
import numpy as np
import pytest

from integration.conftest import Server
from marketd.market.records import BY_NAME
from marketd.market.rows import codec
from marketd.sql import schema_runner
from marketd.sql.connections import type_connection
from marketd.sql.errors import SchemaBehind, SchemaBusy, SchemaChanged, SchemaError, SchemaTooNew
from marketd.sql.partitions import ensure_partitions
from marketd.sql.profiles import Profile, detect_profile
from marketd.sql.schema_files import load_schema_files, parse_schema_file
from marketd.sql.schema_runner import SchemaRunner
from support import eventually_async

_PG_TYPES = {"i2": "int2", "i4": "int4", "i8": "int8", "f8": "float8"}


def test_each_schema_file_has_a_number_of_its_own_in_its_profile() -> None:
    files = load_schema_files()
    for profile in Profile:
        numbers = [file.name[:4] for file in files if file.concerns(profile)]
        assert numbers == sorted(set(numbers))


def test_a_directive_that_is_not_known_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"0009_x.*'profil=postgres'"):
        parse_schema_file("0009_x", "-- marketd: profil=postgres\nSELECT 1;")


def test_a_checkout_with_other_line_ends_has_the_same_checksum() -> None:
    assert parse_schema_file("0009_x", "A\r\nB\r\n").checksum == parse_schema_file("0009_x", "A\nB\n").checksum


async def test_applying_twice_changes_nothing_the_second_time(server: Server, empty_database: str) -> None:
    conn = await asyncpg.connect(empty_database)
    runner = SchemaRunner(conn)
    with pytest.raises(SchemaBehind, match="0001_ledgers"):
        await runner.require_current()
    planned = await runner.plan()
    assert await runner.apply() == planned
    assert planned
    assert await runner.apply() == []
    status = await runner.status()
    assert status.current
    assert status.profile is server.profile
    assert await runner.require_current() is server.profile
    await conn.close()


async def test_a_database_of_before_gets_what_is_new_and_keeps_what_it_has(server: Server, empty_database: str) -> None:
    conn = await asyncpg.connect(empty_database)
    files = load_schema_files()
    before = [file for file in files if file.name < "0006"]
    await SchemaRunner(conn, before).apply()
    await ensure_partitions(conn, "trades", 0, 0)
    await conn.execute("INSERT INTO marketd.trades VALUES (7, 'epoch', 'epoch', 1, 1, 1, 1, 1, 0)")
    applied = await SchemaRunner(conn, files).apply()
    assert [file.name for file in applied] == [f.name for f in files if f not in before and f.concerns(server.profile)]
    assert await conn.fetchval("SELECT count(*) FROM marketd.trades") == 1
    assert await conn.fetchval("SELECT count(*) FROM marketd.v_imbalances") == 0
    await conn.close()


async def test_runners_that_start_together_apply_each_file_once(empty_database: str) -> None:
    connections = [await asyncpg.connect(empty_database) for _ in range(4)]
    applied = await asyncio.gather(*(SchemaRunner(conn).apply() for conn in connections))
    assert sorted(len(files) for files in applied)[:3] == [0, 0, 0]
    assert sum(len(files) for files in applied) == len(await connections[0].fetch("SELECT FROM marketd.schema_changes"))
    for conn in connections:
        await conn.close()


async def test_a_file_that_was_edited_after_it_was_applied_is_an_error(conn: type_connection) -> None:
    files = load_schema_files()
    files[0] = files[0]._replace(checksum="0" * 64)
    with pytest.raises(SchemaChanged, match=files[0].name):
        await SchemaRunner(conn, files).apply()


async def test_a_database_of_a_newer_marketd_is_an_error(conn: type_connection) -> None:
    await conn.execute(
        "INSERT INTO schema_changes (name, checksum, profile, took_ms)"
        " SELECT '9999_future', '', profile, 0 FROM schema_changes LIMIT 1"
    )
    with pytest.raises(SchemaTooNew, match="9999_future"):
        await SchemaRunner(conn).require_current()


async def test_a_new_file_below_those_that_were_applied_is_an_error(conn: type_connection) -> None:
    files = sorted([*load_schema_files(), parse_schema_file("0001_aaa", "SELECT 1;")])
    with pytest.raises(SchemaChanged, match="0001_aaa"):
        await SchemaRunner(conn, files).plan()


async def test_a_file_that_fails_leaves_nothing_of_itself(conn: type_connection) -> None:
    files = [*load_schema_files(), parse_schema_file("9000_bad", "CREATE TABLE half (i int); SELECT 1/0;")]
    with pytest.raises(SchemaError, match=r"9000_bad.*22012"):
        await SchemaRunner(conn, files).apply()
    assert await conn.fetchval("SELECT to_regclass('marketd.half')") is None
    assert [file.name for file in await SchemaRunner(conn, files).plan()] == ["9000_bad"]


async def test_statements_that_cannot_run_in_a_transaction_run_one_by_one(conn: type_connection) -> None:
    text = """-- marketd: no-transaction
        CREATE INDEX CONCURRENTLY IF NOT EXISTS quarantine_by_kind ON quarantine (kind);
-- marketd: next
        VACUUM quarantine;
    """
    added = parse_schema_file("9000_concurrent", text)
    assert await SchemaRunner(conn, [*load_schema_files(), added]).apply() == [added]
    assert await conn.fetchval("SELECT to_regclass('marketd.quarantine_by_kind')") is not None


async def test_a_table_that_somebody_uses_is_waited_for(
    conn: type_connection, database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(schema_runner, "_SESSION", "SET search_path = marketd, public; SET lock_timeout = '50ms'")
    user = await asyncpg.connect(database)
    use = user.transaction()
    await use.start()
    await user.execute("LOCK TABLE marketd.quarantine IN ACCESS SHARE MODE")
    file = parse_schema_file("9000_wider", "ALTER TABLE quarantine ADD COLUMN wider int;")

    applying = asyncio.create_task(SchemaRunner(conn, [*load_schema_files(), file]).apply())
    await eventually_async(lambda: "waits for a table that is in use" in caplog.text)
    await use.rollback()

    assert await applying == [file]
    await user.close()


async def test_a_table_that_is_never_let_go_of_is_told_in_the_end(
    conn: type_connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_runner, "_SESSION", "SET search_path = marketd, public; SET lock_timeout = '50ms'")
    monkeypatch.setattr(schema_runner, "BUSY_SECONDS", 0.2)
    user = await asyncpg.connect(database)
    async with user.transaction():
        await user.execute("LOCK TABLE marketd.quarantine IN ACCESS SHARE MODE")
        file = parse_schema_file("9000_wider", "ALTER TABLE quarantine ADD COLUMN wider int;")
        with pytest.raises(SchemaBusy, match="9000_wider waits for a table that is in use"):
            await SchemaRunner(conn, [*load_schema_files(), file]).apply()
    await user.close()


async def test_a_runner_waits_for_another_only_so_long(server: Server, database: str) -> None:
    holder, conn = await asyncpg.connect(database), await asyncpg.connect(database)
    await holder.execute("SELECT pg_advisory_lock($1)", 0x6D61726B65746401)
    with pytest.raises(SchemaBusy, match=r"over 0\.2 s"):
        await SchemaRunner(conn).apply(timeout_seconds=0.2)
    await holder.close()
    assert await SchemaRunner(conn).apply(timeout_seconds=5) == []
    await conn.close()


async def test_the_profile_of_a_database_stays(server: Server, conn: type_connection) -> None:
    other = next(profile for profile in Profile if profile is not server.profile)
    with pytest.raises(SchemaError, match=r"cannot turn into|needs TimescaleDB"):
        await SchemaRunner(conn).apply(profile=other)


async def test_postgres_may_be_chosen_where_timescale_is_there(server: Server, empty_database: str) -> None:
    conn = await asyncpg.connect(empty_database)
    await SchemaRunner(conn).apply(profile=Profile.POSTGRES)
    assert await conn.fetchval("SELECT relkind FROM pg_class WHERE oid = 'marketd.trades'::regclass") == b"p"
    assert await detect_profile(conn) is Profile.POSTGRES
    await conn.close()


async def test_the_large_tables_are_cut_by_time(server: Server, conn: type_connection) -> None:
    if server.profile is Profile.TIMESCALE:
        rows = await conn.fetch(
            "SELECT hypertable_name AS name, time_interval AS width FROM timescaledb_information.dimensions"
            " WHERE hypertable_schema = 'marketd'"
        )
    else:
        rows = await conn.fetch(
            "SELECT table_name AS name, width FROM partitioned_tables JOIN pg_class"
            " ON oid = to_regclass(table_name) WHERE relkind = 'p'"
        )
    assert {row["name"]: row["width"].days for row in rows} == {
        "trades": 1,
        "candles_1s": 7,
        "candles": 90,
        "candle_versions": 90,
        "book_snapshots": 1,
        "book_deltas": 1,
        "book_venues": 1,
        "imbalances": 7,
        "book_buckets": 7,
        "activity_bars": 7,
    }


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        ("trades", "trade"),
        ("candles_1s", "candle"),
        ("candles", "candle"),
        ("candle_versions", "candle"),
        ("book_snapshots", "book"),
        ("book_deltas", "book_delta"),
        ("book_venues", "book_venues"),
        ("imbalances", "imbalance"),
        ("book_buckets", "buckets"),
        ("activity_bars", "activity_bar"),
    ],
)
async def test_the_columns_are_those_of_the_row_codec(conn: type_connection, table: str, kind: str) -> None:
    rows = await conn.fetch(
        "SELECT attname, typname, attnotnull FROM pg_attribute JOIN pg_type t ON t.oid = atttypid"
        " WHERE attrelid = to_regclass($1) AND attnum > 0 ORDER BY attnum",
        table,
    )
    dtype = BY_NAME[kind].dtype
    columns = codec(table, BY_NAME[kind]).columns
    assert tuple(row["attname"] for row in rows) == columns
    assert all(row["attnotnull"] for row in rows)
    for row in rows[1:]:
        field = dtype[row["attname"]]
        plain = "timestamptz" if row["attname"].startswith("ts") else _PG_TYPES[field.base.str[1:]]
        assert row["typname"] == ("_" if field.shape else "") + plain


async def test_every_table_and_column_says_what_it_is_for(conn: type_connection) -> None:
    silent = await conn.fetch(
        """
        SELECT c.relname, a.attname FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum >= 0 AND NOT a.attisdropped
        WHERE c.relnamespace = 'marketd'::regnamespace AND c.relkind IN ('r', 'p')
          AND col_description(c.oid, a.attnum) IS NULL
        UNION ALL
        SELECT relname, NULL FROM pg_class
        WHERE relnamespace = 'marketd'::regnamespace AND relkind IN ('r', 'p', 'v')
          AND obj_description(oid, 'pg_class') IS NULL
        """
    )
    assert [tuple(row) for row in silent] == []


async def test_no_column_may_be_null(conn: type_connection) -> None:
    nullable = await conn.fetch(
        "SELECT table_name, column_name FROM information_schema.columns JOIN information_schema.tables"
        " USING (table_schema, table_name)"
        " WHERE table_schema = 'marketd' AND table_type = 'BASE TABLE' AND is_nullable = 'YES'"
    )
    assert [tuple(row) for row in nullable] == []


async def test_the_view_of_own_longer_bars_is_the_same_on_both_profiles(conn: type_connection) -> None:
    columns = [
        (each.name, each.type.name) for each in (await conn.prepare("SELECT * FROM v_own_candles")).get_attributes()
    ]
    stored = [(each.name, each.type.name) for each in (await conn.prepare("SELECT * FROM v_candles")).get_attributes()]
    assert columns == [each for each in stored if each[0] != "source"]


async def test_views_show_real_numbers_and_null_for_what_is_absent(conn: type_connection) -> None:
    t = datetime(2024, 8, 8, 23, 54, tzinfo=UTC)
    t_ns = int(t.timestamp()) * 1_000_000_000
    absent = -(2**63)
    await conn.execute(
        "INSERT INTO instruments VALUES (7, 'BTCUSDT', 'BINANCE', 'BTC', 'USDT', 'spot', 2, 5, 7, 1, 1, 0, $1, 1)",
        t,
    )
    for table in ("trades", "candles", "candles_1s"):
        await ensure_partitions(conn, table, t_ns, t_ns)
    await conn.execute("INSERT INTO trades VALUES (7, $1, $1, 1, 1, 6171299, 62, 1, 0)", t)
    await conn.execute("INSERT INTO trades VALUES (7, $1, $1, 2, 2, $2, 3, 0, 0)", t, absent)
    bar = (6171299, 6171300, 6171200, 6171201, 150, 123456789, absent, 3, 0)
    await conn.execute("INSERT INTO candles VALUES (7, 60, $1, $1, 3, 1, $2,$3,$4,$5,$6,$7,$8,$9,$10)", t, *bar)
    await conn.execute("INSERT INTO candles_1s VALUES (7, $1, $1, 4, 1, $2,$3,$4,$5,$6,$7,$8,$9,$10)", t, *bar)
    trades = await conn.fetch("SELECT venue, symbol, price, size FROM v_trades ORDER BY trade_id")
    assert [tuple(row) for row in trades] == [
        ("BINANCE", "BTCUSDT", 61712.99, 0.00062),
        ("BINANCE", "BTCUSDT", None, 0.00003),
    ]
    bars = await conn.fetch(
        "SELECT timeframe, open, low, volume, quote_volume, buy_volume FROM v_candles ORDER BY timeframe"
    )
    assert [tuple(row) for row in bars] == [
        (1, 61712.99, 61712.0, 0.0015, 12.3456789, None),
        (60, 61712.99, 61712.0, 0.0015, 12.3456789, None),
    ]


async def test_views_give_the_double_nearest_to_the_decimal_text(conn: type_connection) -> None:
    t = datetime(2024, 1, 1, tzinfo=UTC)
    t_ns = int(t.timestamp()) * 1_000_000_000
    await ensure_partitions(conn, "trades", t_ns, t_ns)
    random = np.random.default_rng(5)
    expected = {}
    for scale in range(0, 19):
        await conn.execute(
            "INSERT INTO instruments VALUES ($1, 'X', 'V', 'B', 'Q', 'spot', $2, 0, 0, 1, 1, 0, $3, 1)",
            scale,
            scale,
            t,
        )
        values = random.integers(-(2**53), 2**53, 50).tolist()
        for n, value in enumerate(values):
            await conn.execute("INSERT INTO trades VALUES ($1, $2, $2, $3, $3, $4, 1, 0, 0)", scale, t, n, value)
            expected[scale, n] = float(f"{value}e-{scale}")
    rows = await conn.fetch("SELECT instrument_id, trade_id, price FROM v_trades")
    assert {(row["instrument_id"], row["trade_id"]): row["price"] for row in rows} == expected
