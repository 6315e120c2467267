"""Binary COPY in both directions, and arguments in the text of a query."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import asyncpg
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketd.market.errors import AnswerTooLarge, InvalidArgument
from marketd.market.records import BY_NAME, TRADE
from marketd.market.rows import codec
from marketd.sql.connections import type_connection
from marketd.sql.copy import HEADER, TRAILER, copy_in, copy_out
from marketd.sql.literals import bind, literal, ns_to_datetime
from marketd.sql.partitions import ensure_partitions

_T0 = 1_723_161_240_000_000_000  # 2024-08-08 23:54 UTC
_TRADES = codec("trades", BY_NAME["trade"])
_same_database = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _trades(count: int) -> Any:
    records = np.zeros(count, dtype=TRADE)
    records["ts_event"] = _T0 + np.arange(count) * 1_000_000
    records["ts_known"] = _T0 + 10**9
    records["seq"] = records["trade_id"] = np.arange(count)
    records["price"] = 6_171_299
    records["size"] = -(2**63)
    records["side"] = -1
    return records


async def _prepare(conn: type_connection) -> None:
    await ensure_partitions(conn, "trades", _T0, _T0 + 10**12)


async def test_records_come_back_bit_for_bit(conn: type_connection) -> None:
    await _prepare(conn)
    records = _trades(5000)
    data = _TRADES.encode(np.full(5000, 7, dtype=np.int32), records)
    assert await copy_in(conn, "trades", _TRADES.columns, data) == 5000
    columns = ", ".join(_TRADES.columns)
    out = await copy_out(
        conn,
        f"SELECT {columns} FROM trades WHERE instrument_id = $1 AND ts_event >= $2 ORDER BY seq",
        7,
        ns_to_datetime(_T0),
    )
    instruments, stored = _TRADES.decode(out)
    assert out == data
    assert instruments.tolist() == [7] * 5000
    assert stored.tobytes() == records.tobytes()


async def test_rows_may_come_in_several_buffers_without_a_frame(conn: type_connection) -> None:
    await _prepare(conn)
    records = _trades(9000)
    rows = _TRADES.encode(np.zeros(9000, dtype=np.int32), records)[len(HEADER) : -len(TRAILER)]
    cut = len(rows) // 3 + 5  # in the middle of a row
    parts = [memoryview(rows)[:cut], b"", bytearray(rows[cut:])]
    assert await copy_in(conn, "trades", _TRADES.columns, parts) == 9000


async def test_no_rows_are_no_error(conn: type_connection) -> None:
    assert await copy_in(conn, "trades", _TRADES.columns, []) == 0
    assert await copy_in(conn, "trades", _TRADES.columns, b"") == 0
    assert await copy_out(conn, "SELECT 1 WHERE false") == HEADER + TRAILER


async def test_a_truncated_stream_stores_nothing_and_spares_the_connection(conn: type_connection) -> None:
    await _prepare(conn)
    data = _TRADES.encode(np.zeros(10, dtype=np.int32), _trades(10))
    with pytest.raises(asyncpg.PostgresError):
        await copy_in(conn, "trades", _TRADES.columns, data[:-30])
    assert await conn.fetchval("SELECT count(*) FROM trades") == 0


async def test_the_same_rows_again_are_a_unique_violation(conn: type_connection) -> None:
    await _prepare(conn)
    data = _TRADES.encode(np.zeros(10, dtype=np.int32), _trades(10))
    await copy_in(conn, "trades", _TRADES.columns, data)
    with pytest.raises(asyncpg.UniqueViolationError):
        await copy_in(conn, "trades", _TRADES.columns, data)
    assert await conn.fetchval("SELECT count(*) FROM trades") == 10


async def test_copy_in_reaches_a_temporary_table(conn: type_connection) -> None:
    await conn.execute("CREATE TEMPORARY TABLE stage (LIKE trades)")
    data = _TRADES.encode(np.zeros(10, dtype=np.int32), _trades(10))
    assert await copy_in(conn, "stage", _TRADES.columns, data) == 10


async def test_an_answer_beyond_the_limit_is_refused_and_the_connection_goes_on(conn: type_connection) -> None:
    with pytest.raises(AnswerTooLarge, match="1000 bytes"):
        await copy_out(conn, "SELECT i FROM generate_series(1, $1) i", 1_000_000, max_bytes=1000)
    assert await conn.fetchval("SELECT 1") == 1
    assert len(await copy_out(conn, "SELECT 1::int", max_bytes=1000)) == len(HEADER) + 10 + len(TRAILER)
    with pytest.raises(InvalidArgument):
        await copy_out(conn, "SELECT 1", max_bytes=5)


async def test_a_bounded_query_plans_only_its_pieces(conn: type_connection) -> None:
    day = 86_400 * 10**9
    await ensure_partitions(conn, "trades", _T0, _T0 + 5 * day)
    for n in range(5):
        await conn.execute("INSERT INTO trades VALUES (1, $1, $1, 1, 1, 1, 1, 0, 0)", ns_to_datetime(_T0 + n * day))
    query = "SELECT * FROM trades WHERE instrument_id = $1 AND ts_event >= $2 AND ts_event < $3"
    bound = bind(query, 1, ns_to_datetime(_T0 + day), ns_to_datetime(_T0 + day + 1000))
    plan = "\n".join(row[0] for row in await conn.fetch(f"EXPLAIN {bound}"))
    assert plan.count("Scan") == 1
    assert "Append" not in plan


def test_arguments_are_left_alone_in_strings_names_and_comments() -> None:
    query = """SELECT '$1', 'it''s $1', "$1", $1 /* $1 */ -- $1
        , $2, $1"""
    assert (
        bind(query, 5, "x")
        == """SELECT '$1', 'it''s $1', "$1", '5' /* $1 */ -- $1
        , 'x', '5'"""
    )


def test_what_stands_in_an_argument_is_not_read_as_one() -> None:
    assert bind("SELECT $1, $2", "$2", "$1") == "SELECT '$2', '$1'"


@pytest.mark.parametrize("args", [(), (1, 2)])
def test_too_few_and_too_many_arguments_are_refused(args: Sequence[int]) -> None:
    with pytest.raises(InvalidArgument, match="argument"):
        bind("SELECT $1", *args)


@pytest.mark.parametrize("value", [datetime(2024, 1, 1), object(), "a\0b", [[1]], {"a": 1}])
def test_what_has_no_clear_text_is_refused(value: object) -> None:
    with pytest.raises(InvalidArgument):
        literal(value)


_nasty = st.text(
    alphabet=st.one_of(st.sampled_from("'\"\\$1;-/*{}, \n\tEenuNULL"), st.characters(codec="utf-8")), max_size=30
).filter(lambda text: "\0" not in text)
_times = st.datetimes(
    min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC), allow_imaginary=False
)
_ints = st.integers(-(2**63), 2**63 - 1)
_typed = st.one_of(
    st.tuples(st.just("text"), _nasty),
    st.tuples(st.just("bigint"), _ints),
    st.tuples(st.just("float8"), st.floats()),
    st.tuples(st.just("bool"), st.booleans()),
    st.tuples(st.just("timestamptz"), _times),
    st.tuples(st.just("uuid"), st.uuids()),
    st.tuples(st.just("bytea"), st.binary(max_size=40)),
    st.tuples(st.just("text[]"), st.lists(_nasty, max_size=4)),
    st.tuples(st.just("bigint[]"), st.lists(_ints, max_size=4)),
    st.tuples(st.just("text"), st.none()),
)


@_same_database
@given(arguments=st.lists(_typed, min_size=1, max_size=4), standard=st.booleans())
async def test_a_literal_means_what_a_parameter_means(
    conn: type_connection, arguments: list[tuple[str, Any]], standard: bool
) -> None:
    query = "SELECT " + ", ".join(f"${n}::{kind}" for n, (kind, _) in enumerate(arguments, 1))
    values = [value for _, value in arguments]
    await conn.execute(f"SET standard_conforming_strings = {'on' if standard else 'off'}")
    await conn.execute("SET escape_string_warning = off")
    as_parameters = await conn.fetchrow(query, *values)
    as_literals = await conn.fetchrow(bind(query, *values))
    assert as_parameters is not None
    assert as_literals is not None
    for one, other in zip(as_parameters.values(), as_literals.values(), strict=True):
        assert one == other or (math.isnan(one) and math.isnan(other))


async def test_numpy_values_and_other_zones_are_understood(conn: type_connection) -> None:
    zone = timezone(timedelta(hours=5, minutes=30))
    query = "SELECT $1::bigint, $2::float8, $3::bool, $4::timestamptz, $5::int[], $6::uuid"
    values = (
        np.int64(-(2**63)),
        np.float64(0.1),
        np.bool_(True),
        datetime(2024, 1, 1, 5, 30, 0, 1, tzinfo=zone),
        np.array([1, -2]),
        UUID(int=5),
    )
    row = await conn.fetchrow(bind(query, *values))
    assert row is not None
    assert list(row.values()) == [
        -(2**63),
        0.1,
        True,
        datetime(2024, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
        [1, -2],
        UUID(int=5),
    ]


def test_the_header_is_postgresqls() -> None:
    assert b"PGCOPY\n\xff\r\n\0" + struct.pack("!II", 0, 0) == HEADER
