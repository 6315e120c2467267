"""Tables of declared series: made, extended, and never reinterpreted."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime

import pytest

from integration.conftest import Server
from marketd.market.records import series_kind
from marketd.market.rows import codec
from marketd.sql.connections import DatabaseConnectionManager, type_connection
from marketd.sql.copy import copy_out
from marketd.sql.errors import SeriesRefused
from marketd.sql.partitions import ensure_partitions
from marketd.sql.series import declared_series, ensure_series_table

_FUNDING = {"rate": "f8", "mark": "price", "open_interest": "size", "order": "i8"}


async def test_a_declared_series_has_a_table_that_its_codec_reads(conn: type_connection) -> None:
    columns = await ensure_series_table(conn, "funding", _FUNDING)
    kind = series_kind(64, "funding", _FUNDING)
    assert columns == codec("series_funding", kind).columns
    await ensure_partitions(conn, "series_funding", 0, 0)
    t = datetime(1970, 1, 1, tzinfo=UTC)
    await conn.execute("INSERT INTO series_funding VALUES (1, $1, $1, 5, 0.25, 3, 4, 6)", t)
    names = ", ".join(f'"{column}"' for column in columns)
    data = await copy_out(conn, f"SELECT {names} FROM series_funding")
    instruments, records = codec("series_funding", kind).decode(data)
    assert instruments.tolist() == [1]
    assert records.tolist() == [(0, 0, 5, 0.25, 3, 4, 6)]
    assert await declared_series(conn) == {"funding": _FUNDING}


async def test_declaring_it_again_changes_nothing(conn: type_connection) -> None:
    columns = await ensure_series_table(conn, "funding", _FUNDING)
    assert await ensure_series_table(conn, "funding", _FUNDING) == columns


async def test_a_new_field_is_absent_in_older_rows(conn: type_connection) -> None:
    t = datetime(1970, 1, 1, tzinfo=UTC)
    await ensure_series_table(conn, "funding", {"rate": "f8"})
    await ensure_partitions(conn, "series_funding", 0, 0)
    await conn.execute("INSERT INTO series_funding VALUES (1, $1, $1, 1, 0.5)", t)
    columns = await ensure_series_table(conn, "funding", {"mark": "price", "rate": "f8", "basis": "f8"})
    assert columns == ("instrument_id", "ts_event", "ts_known", "seq", "mark", "rate", "basis")
    row = await conn.fetchrow("SELECT rate, mark, basis FROM series_funding")
    assert row is not None
    assert (row["rate"], row["mark"]) == (0.5, -(2**63))
    assert math.isnan(row["basis"])


async def test_its_view_shows_real_numbers_and_follows_its_columns(conn: type_connection) -> None:
    await ensure_series_table(conn, "funding", {"rate": "f8", "mark": "price"})
    await ensure_partitions(conn, "series_funding", 0, 0)
    await conn.execute(
        "INSERT INTO instruments VALUES (7, 'BTCUSDT', 'BINANCE', 'BTC', 'USDT', 'spot', 2, 3, 2, 1, 1, 0, now(), 1);"
        "INSERT INTO series_funding VALUES (7, '1970-01-01Z', '1970-01-01Z', 1, 'NaN', 12345)"
    )
    await conn.execute("DROP VIEW v_series_funding")  # as an earlier marketd left it
    await ensure_series_table(conn, "funding", {"rate": "f8", "mark": "price"})
    assert dict((await conn.fetch("SELECT symbol, rate, mark FROM v_series_funding"))[0]) == {
        "symbol": "BTCUSDT",
        "rate": None,
        "mark": 123.45,
    }
    await ensure_series_table(conn, "funding", {"open_interest": "size", "order": "i8", "symbol": "i8"})
    await conn.execute("UPDATE series_funding SET open_interest = 1500, symbol = 9")
    row = (await conn.fetch('SELECT symbol, mark, open_interest, "order", symbol_ FROM v_series_funding'))[0]
    assert tuple(row) == ("BTCUSDT", 123.45, 1.5, None, 9)


async def test_a_field_that_is_declared_no_more_keeps_its_column(conn: type_connection) -> None:
    t = datetime(1970, 1, 1, tzinfo=UTC)
    await ensure_series_table(conn, "funding", {"rate": "f8", "mark": "price"})
    columns = await ensure_series_table(conn, "funding", {"rate": "f8"})
    await ensure_partitions(conn, "series_funding", 0, 0)
    await conn.execute(f"INSERT INTO series_funding ({', '.join(columns)}) VALUES (1, $1, $1, 1, 0.5)", t)
    assert await conn.fetchval("SELECT mark FROM series_funding") == -(2**63)


@pytest.mark.parametrize("changed", ["i8", "size", "f8"])
async def test_a_field_of_another_type_is_refused_in_plain_words(conn: type_connection, changed: str) -> None:
    await ensure_series_table(conn, "funding", {"mark": "price"})
    with pytest.raises(SeriesRefused, match=f"mark is stored as price and declared as {changed}"):
        await ensure_series_table(conn, "funding", {"mark": changed})


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Funding", {"rate": "f8"}),
        ("x; drop table trades", {"rate": "f8"}),
        ("x" * 41, {"rate": "f8"}),
        ("funding", {}),
        ("funding", {"seq": "i8"}),
        ("funding", {'a"b': "i8"}),
        ("funding", {"rate": "decimal"}),
    ],
)
async def test_what_cannot_be_a_table_is_refused(conn: type_connection, name: str, fields: dict[str, str]) -> None:
    with pytest.raises(SeriesRefused):
        await ensure_series_table(conn, name, fields)


async def test_daemons_that_declare_it_together_do_not_collide(
    server: Server, connections: DatabaseConnectionManager
) -> None:
    async def declare(fields: dict[str, str]) -> None:
        async with connections.acquire() as conn:
            await ensure_series_table(conn, "funding", fields)

    await asyncio.gather(*(declare({"rate": "f8", f"f{n}": "i8"}) for n in range(4)))
    async with connections.acquire() as conn:
        assert set((await declared_series(conn))["funding"]) == {"rate", "f0", "f1", "f2", "f3"}


async def test_what_is_sent_twice_meets_the_key(server: Server, conn: type_connection) -> None:
    await ensure_series_table(conn, "funding", {"rate": "f8"})
    index = await conn.fetchval("SELECT indexdef FROM pg_indexes WHERE indexname = 'series_funding_key'")
    assert "UNIQUE" in index
    assert "(instrument_id, ts_event DESC, seq)" in index
