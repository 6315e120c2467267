"""Native partitions are made in time, once, by whoever comes first."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from marketd.daemon.piece_maker import PieceMaker
from marketd.market.errors import InvalidArgument
from marketd.sql import partitions
from marketd.sql.connections import DatabaseConnectionManager, type_connection
from marketd.sql.errors import PartitionRefused
from marketd.sql.partitions import AHEAD_NS, DAY_NS, MADE, PartitionKeeper, ensure_partitions, make_ahead
from marketd.sql.profiles import Profile
from marketd.sql.retention import drop_old_pieces

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MIDNIGHT = 19_944 * DAY_NS  # 2024-08-09


# hypertables make their own chunks
pytestmark = pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)


async def _insert_trade(conn: type_connection, ts_ns: int, trade_id: int = 1) -> None:
    at = _EPOCH + timedelta(microseconds=ts_ns // 1000)
    await conn.execute("INSERT INTO trades VALUES (1, $1, $1, 1, $2, 1, 1, 0, 0)", at, trade_id)


async def test_exactly_the_days_of_the_stretch_are_made(conn: type_connection) -> None:
    made = await ensure_partitions(conn, "trades", _MIDNIGHT - 1000, _MIDNIGHT)
    assert made == ["trades_p20240808", "trades_p20240809"]
    await _insert_trade(conn, _MIDNIGHT - 1000)
    await _insert_trade(conn, _MIDNIGHT)
    assert await conn.fetchval("SELECT count(*) FROM trades_p20240808") == 1
    assert await conn.fetchval("SELECT count(*) FROM trades_p20240809") == 1
    assert await ensure_partitions(conn, "trades", _MIDNIGHT - 1000, _MIDNIGHT) == []
    with pytest.raises(asyncpg.CheckViolationError):
        await _insert_trade(conn, _MIDNIGHT + DAY_NS)


async def test_the_next_piece_of_a_table_in_use_is_made_ahead_and_once(
    conn: type_connection,
    connections: DatabaseConnectionManager,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await ensure_partitions(conn, "trades", _MIDNIGHT - DAY_NS, _MIDNIGHT)
    await ensure_partitions(conn, "candles_1s", _MIDNIGHT, _MIDNIGHT)
    await ensure_partitions(conn, "imbalances", _MIDNIGHT - 30 * DAY_NS, _MIDNIGHT - 30 * DAY_NS)
    assert await make_ahead(conn, _MIDNIGHT + DAY_NS - AHEAD_NS - 1) == []
    assert await make_ahead(conn, _MIDNIGHT + DAY_NS - AHEAD_NS) == ["trades_p20240810"]
    assert await make_ahead(conn, _MIDNIGHT + DAY_NS - 1) == []
    assert await make_ahead(conn, _MIDNIGHT + 6 * DAY_NS - 1) == ["candles_1s_p20240815"]
    await _insert_trade(conn, _MIDNIGHT + DAY_NS)
    assert await PartitionKeeper(Profile.POSTGRES).ensure(conn, "trades", _MIDNIGHT, _MIDNIGHT + DAY_NS) == []
    today = int(datetime.now(UTC).timestamp()) // 86_400 * DAY_NS
    await ensure_partitions(conn, "trades", today, today)
    monkeypatch.setattr(partitions, "AHEAD_NS", DAY_NS)
    tomorrow = _EPOCH + timedelta(days=today // DAY_NS + 1)
    caplog.set_level(logging.INFO)
    assert await PieceMaker(connections).round() == [f"trades_p{tomorrow:%Y%m%d}"]
    assert "1 partitions of trades made" in caplog.text


async def test_what_is_stored_lately_in_a_piece_that_was_made_ahead_long_ago_stays(conn: type_connection) -> None:
    await ensure_partitions(conn, "trades", _MIDNIGHT, _MIDNIGHT + DAY_NS)
    for name in ("trades_p20240809", "trades_p20240810"):
        await conn.execute(f"COMMENT ON TABLE {name} IS '{MADE} 2024-08-08T23:00:00+00:00'")
    await _insert_trade(conn, _MIDNIGHT)
    assert await PartitionKeeper(Profile.POSTGRES).ensure(conn, "trades", _MIDNIGHT, _MIDNIGHT + DAY_NS) == []
    await _insert_trade(conn, _MIDNIGHT + DAY_NS)
    dropped = await drop_old_pieces(conn, "trades", datetime.now(UTC) - timedelta(hours=1))
    assert dropped == (["trades_p20240809"], [])  # which had rows before


async def test_times_before_1970_have_partitions_too(conn: type_connection) -> None:
    assert await ensure_partitions(conn, "trades", -1, 0) == ["trades_p19691231", "trades_p19700101"]
    await _insert_trade(conn, -1000)


async def test_wide_pieces_are_aligned_to_1970(conn: type_connection) -> None:
    assert await ensure_partitions(conn, "candles_1s", _MIDNIGHT, _MIDNIGHT) == ["candles_1s_p20240808"]
    assert await ensure_partitions(conn, "candles", _MIDNIGHT, _MIDNIGHT) == ["candles_p20240616"]


async def test_pieces_share_the_keys_of_their_table_and_have_no_others(conn: type_connection) -> None:
    await ensure_partitions(conn, "trades", 0, 0)
    rows = await conn.fetch(
        "SELECT indexrelid::regclass::text AS name, relispartition, indisunique FROM pg_index"
        " JOIN pg_class ON oid = indexrelid WHERE indrelid = 'trades_p19700101'::regclass"
    )
    assert [(row["relispartition"], row["indisunique"]) for row in rows] == [(True, True)]
    checks = await conn.fetchval(
        "SELECT count(*) FROM pg_constraint WHERE conrelid = 'trades_p19700101'::regclass AND contype = 'c'"
    )
    assert checks == 0


async def test_makers_that_come_together_do_not_collide(connections: DatabaseConnectionManager) -> None:
    async def make() -> list[str]:
        async with connections.acquire() as conn:
            return await ensure_partitions(conn, "trades", 0, 20 * DAY_NS)

    made = await asyncio.gather(*(make() for _ in range(4)))
    assert sorted(name for names in made for name in names) == [f"trades_p197001{d:02d}" for d in range(1, 22)]


async def test_neither_readers_nor_writers_are_locked_out(connections: DatabaseConnectionManager) -> None:
    async with connections.acquire() as busy, connections.acquire() as maker:
        await ensure_partitions(maker, "trades", 0, 0)
        async with busy.transaction():
            await _insert_trade(busy, 0)
            await busy.fetch("SELECT * FROM trades")
            await maker.execute("SET lock_timeout = '1s'")
            assert await ensure_partitions(maker, "trades", DAY_NS, DAY_NS) == ["trades_p19700102"]


async def test_a_stretch_of_decades_is_taken_for_a_wrong_time(conn: type_connection) -> None:
    with pytest.raises(PartitionRefused, match="4001 partitions from 1970-01-01 to 1980-12-14"):
        await ensure_partitions(conn, "trades", 0, 4000 * DAY_NS)
    with pytest.raises(InvalidArgument, match="ends before it begins"):
        await ensure_partitions(conn, "trades", 1, 0)
    with pytest.raises(PartitionRefused, match="nonsense"):
        await ensure_partitions(conn, "nonsense", 0, 0)


async def test_a_rollback_takes_its_partitions_along(conn: type_connection) -> None:
    with pytest.raises(ZeroDivisionError):
        async with conn.transaction():
            assert await ensure_partitions(conn, "trades", 0, 0) == ["trades_p19700101"]
            raise ZeroDivisionError
    assert await ensure_partitions(conn, "trades", 0, 0) == ["trades_p19700101"]


async def test_the_keeper_asks_the_database_once(conn: type_connection) -> None:
    keeper = PartitionKeeper(Profile.POSTGRES)
    assert await keeper.ensure(conn, "trades", 0, DAY_NS) == ["trades_p19700101", "trades_p19700102"]
    no_connection: Any = None
    assert await keeper.ensure(no_connection, "trades", 1, DAY_NS + 1) == []
    assert await PartitionKeeper(Profile.TIMESCALE).ensure(no_connection, "trades", 0, 10) == []


async def test_the_keeper_refuses_to_remember_what_a_rollback_may_take(conn: type_connection) -> None:
    keeper = PartitionKeeper(Profile.POSTGRES)
    async with conn.transaction():
        with pytest.raises(PartitionRefused, match="before the transaction"):
            await keeper.ensure(conn, "trades", 0, 0)


async def test_the_keeper_makes_dropped_partitions_again_once_told(conn: type_connection) -> None:
    keeper = PartitionKeeper(Profile.POSTGRES)
    await keeper.ensure(conn, "trades", 0, 0)
    await conn.execute("DROP TABLE trades_p19700101")
    with pytest.raises(asyncpg.CheckViolationError):
        await _insert_trade(conn, 0)
    keeper.forget("trades")
    assert await keeper.ensure(conn, "trades", 0, 0) == ["trades_p19700101"]
    await _insert_trade(conn, 0)


async def test_a_query_looks_only_into_the_pieces_of_its_time(conn: type_connection) -> None:
    await ensure_partitions(conn, "trades", 0, 9 * DAY_NS)
    plan = await conn.fetch(
        "EXPLAIN SELECT * FROM trades WHERE ts_event >= '1970-01-03+00' AND ts_event < '1970-01-04+00'"
    )
    text = "\n".join(row[0] for row in plan)
    assert "trades_p19700103" in text
    assert "trades_p19700102" not in text
    assert "trades_p19700104" not in text
