"""The storage report against tables of known content, on both profiles."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import numpy as np
import pytest

from lane import BTC, SECOND, START, bars, trades
from marketd.market.records import BY_NAME, Records
from marketd.sql.connections import type_connection
from marketd.sql.partitions import PartitionKeeper
from marketd.sql.profiles import Profile, detect_profile
from marketd.sql.storage import disk_of, keep_sample, measure, next_cut
from marketd.sql.store import Commit, commit, split_rows, to_datetime
from packed import pack_all

DAY_MS = 86_400_000
DAY = timedelta(days=1)


async def store(conn: type_connection, kind: str, records: Records) -> None:
    records["seq"] = np.arange(1, len(records) + 1)
    keeper = PartitionKeeper(await detect_profile(conn))
    rows = split_rows(BY_NAME[kind], np.full(len(records), BTC.id, np.int32), records)
    await commit(conn, Commit(uuid4(), "live", 8, START, rows, None, [], []), keeper)


async def store_instrument(conn: type_connection) -> None:
    await conn.execute(
        "INSERT INTO instruments VALUES ($1, 'BTCUSDT', 'BINANCE', 'BTC', 'USDT', 'spot', 2, 3, 2, 1, 1, 0, now(), 1)",
        BTC.id,
    )


async def test_rows_bytes_and_times_of_each_table_are_told(conn: type_connection) -> None:
    await store_instrument(conn)
    await store(conn, "trade", trades([(day * DAY_MS, day * 1000 + n, 100, 1) for day in range(3) for n in range(50)]))
    await store(conn, "candle", bars(range(10)))
    await conn.execute("ANALYZE trades; ANALYZE candles")
    report = await measure(conn)
    tables = {table.table: table for table in report.tables}
    assert (tables["trades"].rows, tables["trades"].pieces) == (150, 3)
    assert (tables["candles"].rows, tables["candles"].pieces) == (10, 1)
    assert tables["trades"].oldest == to_datetime(START)
    assert tables["trades"].newest == to_datetime(START) + 2 * DAY
    assert (tables["candle_versions"].oldest, tables["candle_versions"].newest) == (None, None)  # it has a piece
    assert tables["instruments"].bytes > 0
    assert tables["trades"].bytes == sum(piece.bytes for piece in report.pieces if piece.table == "trades") > 0
    assert tables["book_deltas"].rows == tables["book_deltas"].bytes == 0
    assert sum(table.bytes for table in report.tables) < report.database_bytes


@pytest.mark.parametrize("server", [Profile.TIMESCALE], indirect=True, ids=str)
async def test_what_is_compressed_is_told_apart_with_its_ratio(conn: type_connection) -> None:
    await store(conn, "trade", trades([(day * DAY_MS + n, n, 100, 1) for day in range(2) for n in range(2000)]))
    await conn.execute(
        "ALTER TABLE trades SET (timescaledb.enable_columnstore, timescaledb.segmentby = 'instrument_id')"
    )
    await conn.execute("SELECT public.compress_chunk(c) FROM public.show_chunks('trades') c ORDER BY c LIMIT 1")
    await conn.execute("ANALYZE trades")
    report = await measure(conn)
    trades_size = next(table for table in report.tables if table.table == "trades")
    first, second = (piece for piece in report.pieces if piece.table == "trades")
    assert (first.rows, first.packed_rows, second.packed_rows) == (2000, 2000, 0)
    assert trades_size.rows == 4000
    assert trades_size.ratio is not None
    assert trades_size.ratio > 2


@pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)
async def test_oldest_and_newest_are_times_of_rows_and_of_packed_rows(conn: type_connection) -> None:
    await store_instrument(conn)
    await store(conn, "trade", trades([(n * 1000, n, 100, 1) for n in range(30)]))

    async def edges() -> tuple[datetime | None, datetime | None]:
        found = next(table for table in (await measure(conn)).tables if table.table == "trades")
        return found.oldest, found.newest

    first, last = to_datetime(START), to_datetime(START + 29 * SECOND)
    assert await edges() == (first, last)
    await pack_all(conn)  # the partition is there still, without a row
    assert await edges() == (first, last)
    await store(conn, "trade", trades([(-5000, 77, 100, 1), (40_000, 78, 100, 1)]))
    assert await edges() == (first - timedelta(seconds=5), first + timedelta(seconds=40))
    await conn.execute("DELETE FROM packed_blocks; DELETE FROM trades")
    assert await edges() == (None, None)


@pytest.mark.parametrize("server", [Profile.TIMESCALE], indirect=True, ids=str)
async def test_oldest_and_newest_of_what_is_compressed_and_summed_up_are_those_of_rows(conn: type_connection) -> None:
    await store_instrument(conn)
    await store(conn, "candle", bars(range(0, 300, 7), timeframe=1, source=1))
    await conn.execute("SELECT public.compress_chunk(c) FROM public.show_chunks('candles_1s') c")
    await conn.execute("CALL public.refresh_continuous_aggregate('own_candles_1m', NULL, NULL)")
    tables = {table.table: table for table in (await measure(conn)).tables}
    first = to_datetime(START)
    assert (tables["candles_1s"].oldest, tables["candles_1s"].newest) == (first, first + timedelta(seconds=294))
    found = tables["own_candles_1m"]
    assert (found.oldest, found.newest) == (first, first + timedelta(minutes=4))


@pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)
async def test_how_much_smaller_packing_made_it_is_measured_and_known_when_all_is_packed(conn: type_connection) -> None:
    await store(conn, "trade", trades([(n, n, 100, 1) for n in range(5000)]))
    (piece,) = [piece for piece in (await measure(conn)).pieces if piece.table == "trades"]

    async def packed() -> tuple[int, int]:
        found = next(table for table in (await measure(conn)).tables if table.table == "trades")
        assert found.ratio == found.bytes_before / found.packed_bytes
        return found.packed_rows, found.bytes_before

    await pack_all(conn)
    rows, before = await packed()
    # all but what no row fills: ends of pages, maps of free space
    assert rows == 5000 and 0.9 * piece.bytes < before <= piece.bytes
    await store(conn, "trade", trades([(n * 2 + 1, 9000 + n, 100, 1) for n in range(1000)]))
    await pack_all(conn, tables=["trades"])
    assert (await packed())[0] == 6000
    assert (await packed())[1] > before
    await conn.execute("UPDATE packed_blocks SET bytes_before = 0")
    assert next(table for table in (await measure(conn)).tables if table.table == "trades").ratio is None


@pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)
async def test_packed_blocks_count_where_their_rows_belong(conn: type_connection) -> None:
    await store(conn, "trade", trades([(n, n, 100, 1) for n in range(2000)]))
    await pack_all(conn)
    await store(conn, "trade", trades([(4 * DAY_MS + n, n, 100, 1) for n in range(1000)]))
    await conn.execute("ANALYZE")
    report = await measure(conn)
    tables = {table.table: table for table in report.tables}
    found = tables["trades"]
    assert "packed_blocks" not in tables
    assert (found.rows, found.packed_rows) == (3000, 2000)
    assert found.packed_bytes == await conn.fetchval("SELECT pg_total_relation_size('packed_blocks')")
    assert found.ratio is not None
    assert found.ratio > 2
    assert found.bytes == found.packed_bytes + sum(
        piece.bytes for piece in report.pieces if piece.table == "trades" and not piece.packed_rows
    )


async def test_growth_is_the_difference_of_two_looks(conn: type_connection) -> None:
    now = datetime.now(UTC)
    first = await measure(conn, now=now - timedelta(hours=12))
    assert first.growth_bytes is None
    assert await keep_sample(conn, first)
    assert not await keep_sample(conn, first._replace(taken_at=now - timedelta(hours=11, minutes=30)))
    await store(conn, "trade", trades([(n, n, 100, 1) for n in range(1000)]))
    report = await measure(conn, now=now)
    trades_size = next(table for table in report.tables if table.table == "trades")
    before = next(table for table in first.tables if table.table == "trades")
    assert trades_size.growth_bytes == pytest.approx(2 * (trades_size.bytes - before.bytes))
    assert report.disk is not None  # a socket, and so this machine
    assert report.growth_bytes is not None
    assert report.days_until_full == pytest.approx(report.disk.free_bytes / report.growth_bytes)
    await keep_sample(conn, report._replace(taken_at=now + timedelta(days=40)))
    assert await conn.fetchval("SELECT count(DISTINCT taken_at) FROM storage_samples") == 1


async def test_without_an_earlier_look_nobody_knows_the_growth(conn: type_connection) -> None:
    records = trades([(n * 1000, n, 100, 1) for n in range(20)])
    records["ts_event"] = int((datetime.now(UTC) - 2 * DAY).timestamp()) * SECOND
    await store(conn, "trade", records)
    first = await measure(conn)
    assert (first.growth_bytes, first.days_until_full) == (None, None)
    assert await keep_sample(conn, first)
    soon = await measure(conn, now=first.taken_at + timedelta(minutes=59))
    assert soon.growth_bytes is None  # an hour at least: what came in a minute tells no day's growth
    assert (await measure(conn, now=first.taken_at + timedelta(hours=2))).growth_bytes is not None


async def test_the_next_cut_is_when_the_oldest_piece_is_old_enough(conn: type_connection) -> None:
    await store(conn, "trade", trades([(0, 1, 100, 1), (DAY_MS, 2, 100, 1)]))
    pieces = (await measure(conn)).pieces
    # what was stored lately is not old, whatever its time
    assert next_cut(pieces, "trades", 30 * DAY) == min(piece.made for piece in pieces) + 30 * DAY
    old = [piece._replace(made=piece.start) for piece in pieces]
    assert next_cut(old, "trades", 30 * DAY) == min(piece.end for piece in pieces) + 30 * DAY
    assert next_cut(pieces, "candles", DAY) is None


def test_a_disk_that_is_not_ours_is_unknown() -> None:
    assert disk_of("/nowhere/at/all") is None
    assert disk_of(None) is None
