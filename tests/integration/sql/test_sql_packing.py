"""Closed stretches are packed on a real database: all of it or nothing, and read as if nothing had happened."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Any

import asyncpg
import numpy as np
import pytest

from book_lane import books, buckets, imbalances, stamped
from lane import BTC, CANDLES, MS, SECOND, START, bars, trades
from marketd.daemon.kernel import TRADE_KIND
from marketd.market.records import BY_NAME, CandleFlag, Records
from marketd.sql.connections import type_connection
from marketd.sql.packed_tables import PACKED_TABLES
from marketd.sql.packing import Packed, Place, drop_empty, pack_next
from marketd.sql.profiles import Profile
from marketd.sql.read import CopiedRows, Span, read_bars, read_rows
from marketd.sql.read_books import read_book_means, read_versions
from marketd.sql.retention import pieces_of_table
from marketd.sql.store import to_datetime
from packed import KNOWN, Lane, pack_all

pytestmark = pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)
BOOK, IMBALANCE, BUCKETS = BY_NAME["book"], BY_NAME["imbalance"], BY_NAME["buckets"]
ALL = Span()


@pytest.fixture
def lane(conn: type_connection) -> Lane:
    return Lane(conn)


async def rows_in(conn: type_connection, table: str) -> int:
    count: int = await conn.fetchval(f"SELECT count(*) FROM {table}")
    return count


async def trades_read(conn: type_connection, **options: Any) -> Records:
    found = (await read_rows(conn, BTC.id, TRADE_KIND, options.pop("span", ALL), **options)).records()
    return found[np.lexsort((found["seq"], found["ts_event"]))]


def seconds(numbers: range | list[int], price: int = 100, **options: Any) -> Records:
    return bars(numbers, price, timeframe=1, source=1, **options)


async def test_packed_trades_are_read_as_the_rows_they_were(conn: type_connection, lane: Lane) -> None:
    # over midnight, so that two partitions and two blocks have them
    offered = stamped(trades([(ms, ms, 100 + ms % 7, 5) for ms in range(0, 120_000, 100)]), 1)
    await lane.commit((TRADE_KIND, offered))
    before = await trades_read(conn)
    done = await pack_all(conn)
    assert sum(each.rows for each in done) == len(offered) == len(before)
    assert (await rows_in(conn, "trades"), await rows_in(conn, "packed_blocks")) == (0, 2)
    assert (await trades_read(conn)).tobytes() == before.tobytes() == offered.tobytes()


async def test_blocks_that_have_all_of_an_answer_come_as_they_are_and_are_cut_by_who_reads_them(
    conn: type_connection, lane: Lane
) -> None:
    offered = stamped(seconds(range(50)), 1)
    await lane.commit((CANDLES, offered))
    await pack_all(conn, block_rows=10)

    async def read(span: Span, **options: Any) -> CopiedRows:
        return await read_bars(conn, BTC.id, 1, span, whole=True, **options)

    for span, options, blocks, inside, expected in (
        (ALL, {}, 5, 50, offered),
        (ALL, {"known_at": KNOWN}, 5, 50, offered),
        (Span(START + 15 * SECOND, START + 32 * SECOND), {}, 3, 10, offered[15:32]),
        (Span(START + 13 * SECOND, START + 17 * SECOND), {}, 1, 0, offered[13:17]),
        (Span(None, START + 35 * SECOND), {"limit": 3}, 2, 10, offered[20:35]),  # a bar may be there of each source
    ):
        found = await read(span, **options)
        assert found.blocks is not None and len(found.blocks.data) == blocks and found.size() == inside
        assert found.records().tobytes() == expected.tobytes()
    for span, options in ((ALL, {"bar_source": "own"}), (ALL, {"known_at": int(offered["ts_known"][0]) - 1000})):
        assert (await read(span, **options)).blocks is None
    await lane.commit((CANDLES, stamped(seconds([50]), 200)))  # a row beside them
    both = await read(ALL)
    assert both.blocks is None and len(both.records()) == 51


async def test_trades_of_blocks_come_as_they_are_only_if_all_were_known(conn: type_connection, lane: Lane) -> None:
    offered = stamped(trades([(ms, ms, 100, 5) for ms in range(0, 120_000, 100)]), 1)  # over midnight
    await lane.commit((TRADE_KIND, offered))
    await pack_all(conn)
    last, first = int(offered["ts_known"].max()), int(offered["ts_known"].min())
    whole = await read_rows(conn, BTC.id, TRADE_KIND, ALL, known_at=last, whole=True)
    assert whole.blocks is not None and len(whole.blocks.data) == 2
    assert whole.records().tobytes() == offered.tobytes()
    assert (await read_rows(conn, BTC.id, TRADE_KIND, ALL, known_at=first - 1000, whole=True)).blocks is None
    oldest = await read_rows(conn, BTC.id, TRADE_KIND, ALL, limit=5, newest=False, whole=True)
    assert oldest.blocks is None and oldest.records().tobytes() == offered[:5].tobytes()


async def test_of_versions_in_blocks_that_come_as_they_are_the_newest_counts(conn: type_connection, lane: Lane) -> None:
    await lane.commit((IMBALANCE, stamped(imbalances([(s, 7 + s) for s in range(20)]), 1)))
    await lane.commit((IMBALANCE, stamped(imbalances([(3, 99)]), 100)))
    expected = (await read_versions(conn, BTC.id, IMBALANCE, ALL)).records()
    await pack_all(conn, block_rows=5)
    whole = await read_versions(conn, BTC.id, IMBALANCE, ALL, whole=True)
    assert whole.blocks is not None and whole.blocks.rows == 21
    assert whole.records().tobytes() == expected[np.argsort(expected["ts_event"])].tobytes()
    # which of the newest count is not known before they are unpacked
    few = await read_versions(conn, BTC.id, IMBALANCE, ALL, limit=8, whole=True)
    assert few.blocks is None and few.records().tobytes() == whole.records()[-8:].tobytes()


async def test_many_blocks_are_read_by_one_statement(conn: type_connection, lane: Lane) -> None:
    await lane.commit((CANDLES, stamped(seconds(range(50)), 1)))
    await pack_all(conn, block_rows=2)
    asked = []
    conn.add_query_logger(lambda query: asked.append(query.query))
    found = await read_bars(conn, BTC.id, 1, ALL)
    assert len(found.records()) == 50
    assert sum("packed_blocks" in query for query in asked) == 1


@pytest.mark.parametrize("newest", [True, False])
async def test_blocks_that_memory_has_no_room_for_at_a_time_are_read_one_after_the_other(
    conn: type_connection, lane: Lane, monkeypatch: pytest.MonkeyPatch, newest: bool
) -> None:
    offered = stamped(trades([(1000 * n, n, 100, 5) for n in range(50)]), 1)
    await lane.commit((TRADE_KIND, offered))
    await pack_all(conn, block_rows=1)
    monkeypatch.setattr("marketd.sql.read_packed._UNPACKED_BYTES", 1)
    assert (await trades_read(conn, newest=newest)).tobytes() == offered.tobytes()


async def test_a_packed_trade_that_comes_again_is_not_stored_twice(conn: type_connection, lane: Lane) -> None:
    await lane.commit((TRADE_KIND, stamped(trades([(0, 1, 100, 5), (10, 2, 101, 5)]), 1)))
    await pack_all(conn)
    late = stamped(trades([(10, 2, 101, 5), (20, 3, 102, 5), (0, 1, 100, 5)]), 10)
    await lane.commit((TRADE_KIND, late))
    expected = [(1, 1), (2, 2), (3, 11)]
    assert [(t["trade_id"], t["seq"]) for t in await trades_read(conn)] == expected
    await pack_all(conn)
    assert [(t["trade_id"], t["seq"]) for t in await trades_read(conn)] == expected
    assert (await rows_in(conn, "trades"), await rows_in(conn, "packed_blocks")) == (0, 1)


async def test_of_a_batch_that_reaches_far_only_the_blocks_of_its_times_are_unpacked(
    conn: type_connection, lane: Lane
) -> None:
    await lane.commit((TRADE_KIND, stamped(trades([(1000 * n, n, 100, 5) for n in range(50)]), 1)))
    await pack_all(conn, block_rows=5)
    asked = []
    conn.add_query_logger(lambda query: asked.append(query.query))
    await lane.commit((TRADE_KIND, stamped(trades([(0, 0, 100, 5), (49_000, 49, 100, 5), (7_500, 77, 100, 5)]), 100)))
    assert sum("SELECT data FROM packed_blocks" in query for query in asked) == 3
    assert await rows_in(conn, "trades") == 3  # two as they were, and what is new
    assert (await trades_read(conn))["seq"].tolist() == [*range(1, 9), 102, *range(9, 51)]


async def test_versions_of_packed_bars_are_told_as_those_of_rows(conn: type_connection, lane: Lane) -> None:
    await lane.commit((CANDLES, stamped(seconds(range(10)), 1, KNOWN)))
    await pack_all(conn)
    same = seconds([3], flags=CandleFlag.REVISED)
    newer = seconds([4], price=105, flags=CandleFlag.REVISED)
    await lane.commit((CANDLES, stamped(same, 20, KNOWN + SECOND)), (CANDLES, stamped(newer, 21, KNOWN + SECOND)))
    for _ in range(2):
        final = (await read_bars(conn, BTC.id, 1, ALL)).records()
        final = final[np.argsort(final["ts"])]
        assert final["seq"].tolist() == [1, 2, 3, 4, 21, 6, 7, 8, 9, 10]
        assert final["open"][4] == 105
        known = (await read_bars(conn, BTC.id, 1, ALL, known_at=KNOWN)).records()
        assert sorted(known["seq"].tolist()) == list(range(1, 11))
        assert [row["seq"] for row in await conn.fetch("SELECT seq FROM candle_versions")] == [5]
        await pack_all(conn)
    assert await rows_in(conn, "candles_1s") == 0


@pytest.mark.parametrize("newest", [True, False])
async def test_a_limit_counts_rows_and_packed_records_together(conn: type_connection, lane: Lane, newest: bool) -> None:
    offered = stamped(trades([(ms, ms, 100, 5) for ms in range(0, 120_000, 1000)]), 1)
    await lane.commit((TRADE_KIND, offered[::2]))
    await pack_all(conn)
    await lane.commit((TRADE_KIND, offered[1::2]))
    for limit in (1, 2, 7, 61, 119, 500):
        found = await trades_read(conn, limit=limit, newest=newest)
        expected = offered[-limit:] if newest else offered[:limit]
        assert found["seq"].tolist() == expected["seq"].tolist()


async def test_a_limit_counts_packed_records_of_the_very_time_of_the_last_row(
    conn: type_connection, lane: Lane
) -> None:
    await lane.commit((TRADE_KIND, stamped(trades([(0, 1, 100, 5)]), 1)))
    await pack_all(conn)
    await lane.commit((TRADE_KIND, stamped(trades([(0, 2, 100, 5)]), 2)))
    assert (await trades_read(conn, limit=1, newest=False))["seq"].tolist() == [1]
    assert (await trades_read(conn, limit=1, newest=True))["seq"].tolist() == [2]


async def test_what_was_known_at_a_moment_is_told_of_packed_records_too(conn: type_connection, lane: Lane) -> None:
    await lane.commit((TRADE_KIND, stamped(trades([(0, 1, 100, 5)]), 1, KNOWN)))
    await lane.commit((TRADE_KIND, stamped(trades([(5, 2, 100, 5)]), 2, KNOWN + SECOND)))
    await pack_all(conn)
    for known, expected in ((KNOWN - MS, []), (KNOWN, [1]), (KNOWN + SECOND, [1, 2])):
        assert (await trades_read(conn, known_at=known))["seq"].tolist() == expected


async def test_books_and_what_is_made_of_them_are_packed(conn: type_connection, lane: Lane) -> None:
    snapshots = stamped(books([(ms, 90 + ms % 9, 101, 1 + ms % 3) for ms in range(0, 90_000, 370)]), 1)
    seconds_ = stamped(imbalances([(s, 7 + s) for s in range(90)]), 1000)
    again = stamped(imbalances([(3, 99)]), 1500)
    mins = stamped(buckets([(0, 4), (1, 5)], 60), 2000)
    secs = stamped(buckets([(n, n) for n in range(70)], 1), 3000)
    for kind, records in (
        (BOOK, snapshots),
        (IMBALANCE, seconds_),
        (IMBALANCE, again),
        (BUCKETS, mins),
        (BUCKETS, secs),
    ):
        await lane.commit((kind, records))

    async def answers() -> list[bytes]:
        raw = (await read_rows(conn, BTC.id, BOOK, ALL)).records()
        found = [raw[np.argsort(raw["seq"])]]
        for newest in (True, False):
            for limit in (None, 1, 5):
                options = {"limit": limit, "newest": newest}
                found.append(await read_book_means(conn, BTC, 20, 1, ALL, **options))
                found.append(await read_book_means(conn, BTC, 20, 60, ALL, **options))
                for kind, timeframe in ((IMBALANCE, None), (BUCKETS, 1), (BUCKETS, 60)):
                    versions = (await read_versions(conn, BTC.id, kind, ALL, timeframe=timeframe, **options)).records()
                    found.append(versions[np.argsort(versions[kind.time])])
        return [records.tobytes() for records in found]

    before = await answers()
    await pack_all(conn)
    assert await rows_in(conn, "book_snapshots") == await rows_in(conn, "book_buckets") == 0
    assert await answers() == before
    # the same records again are brought back beside their blocks, and count once
    await lane.commit((BOOK, snapshots[100:200]), (IMBALANCE, again))
    assert await rows_in(conn, "book_snapshots") == 100
    assert await answers() == before
    await pack_all(conn)
    assert await answers() == before


async def test_books_of_several_depths_are_packed_as_deep_as_the_deepest(conn: type_connection, lane: Lane) -> None:
    await lane.commit((BY_NAME["book"], stamped(books([(0, 90, 101, 3)]), 1)))
    shallow = BY_NAME["book"]._replace(dtype=books([], 5).dtype)
    await lane.commit((shallow, stamped(books([(10, 91, 101, 3)], 5), 2)))
    before = (await read_rows(conn, BTC.id, BOOK, ALL)).records()
    await pack_all(conn)
    found = (await read_rows(conn, BTC.id, BOOK, ALL)).records()
    assert found.tobytes() == before[::-1].tobytes()
    few = (await read_rows(conn, BTC.id, shallow, ALL)).records()
    assert few.dtype == shallow.dtype
    assert few["bid_price"][:, 0].tolist() == [90, 91]


async def test_a_stretch_is_cut_into_blocks_that_do_not_overlap(conn: type_connection, lane: Lane) -> None:
    # some at one time, more than a block should hold
    times = [*range(0, 2000, 100), *[2000] * 25, *range(2100, 3000, 100)]
    offered = stamped(trades([(ms, number, 100, 5) for number, ms in enumerate(times)]), 1)
    await lane.commit((TRADE_KIND, offered))
    done = await pack_all(conn, block_rows=10)
    assert [(each.rows, each.blocks) for each in done] == [(54, 3)]  # in one transaction
    blocks = await conn.fetch("SELECT * FROM packed_blocks ORDER BY ts_start")
    assert [row["row_count"] for row in blocks] == [10, 10, 34]
    assert all(one["ts_end"] == two["ts_start"] for one, two in pairwise(blocks))
    assert (await trades_read(conn)).tobytes() == offered.tobytes()
    # so many late ones that a block must be cut; the others stay as they are
    late = stamped(trades([(ms, 1000 + ms, 100, 5) for ms in range(1, 900, 10)]), 100)
    await lane.commit((TRADE_KIND, late))
    await pack_all(conn, block_rows=10)
    assert await rows_in(conn, "trades") == 0
    assert len(await trades_read(conn)) == len(offered) + len(late)
    anew = await conn.fetch("SELECT * FROM packed_blocks ORDER BY ts_start")
    assert [row["row_count"] for row in anew] == [10] * 10 + [10, 34]
    assert all(one["ts_end"] == two["ts_start"] for one, two in pairwise(anew))
    assert [row["packed_at"] for row in anew[-2:]] == [row["packed_at"] for row in blocks[-2:]]


async def test_what_is_too_much_for_one_transaction_is_packed_in_several(
    conn: type_connection, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marketd.sql.packing.BYTES_AT_ONCE", 30 * BOOK.dtype.itemsize)
    offered = stamped(books([(ms, 90, 101, 1 + ms % 3) for ms in range(0, 10_000, 100)]), 1)
    await lane.commit((BOOK, offered))
    deep = BOOK._replace(dtype=books([], 60).dtype)
    await lane.commit((deep, stamped(books([(150, 90, 101, 7)], 60), 500)))
    done = await pack_all(conn)
    assert [each.rows for each in done] == [10, 30, 30, 30, 1]  # where there are deep ones, fewer
    assert len((await read_rows(conn, BTC.id, BOOK, ALL)).records()) == 101


async def test_an_empty_partition_is_dropped_only_when_nobody_can_see_its_rows(
    conn: type_connection, lane: Lane, database: str
) -> None:
    await lane.commit((TRADE_KIND, stamped(trades([(0, 1, 100, 5)]), 1)))
    (piece,) = await pieces_of_table(conn, "trades")
    assert not await drop_empty(conn, "trades", piece)  # it has a row
    reader = await asyncpg.connect(database)
    async with reader.transaction(isolation="repeatable_read"):
        await reader.fetch("SELECT 1 FROM instruments")  # its picture of the database is taken
        await pack_all(conn)
        assert not await drop_empty(conn, "trades", piece)
        assert await reader.fetchval("SELECT count(*) FROM marketd.trades") == 1
        assert not await drop_empty(conn, "trades", piece)
    await reader.close()
    assert await drop_empty(conn, "trades", piece)
    assert await pieces_of_table(conn, "trades") == []
    assert (await trades_read(conn))["trade_id"].tolist() == [1]


async def test_a_writer_keeps_a_packer_away_and_a_packer_another(
    conn: type_connection, lane: Lane, database: str
) -> None:
    await lane.commit((TRADE_KIND, stamped(trades([(0, 1, 100, 5)]), 1)))
    place = Place(PACKED_TABLES["trades"], BTC.id)
    day = to_datetime(START // (86_400 * SECOND) * 86_400 * SECOND)
    other = await asyncpg.connect(database, server_settings={"search_path": "marketd"})
    async with other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock_shared(hashtext('marketd packed trades'), $1::int)", BTC.id)
        assert await pack_next(conn, place, day, day + timedelta(days=1)) is None
    await other.close()
    assert (await pack_next(conn, place, day, day + timedelta(days=1)) or Packed(0, 0, 0, day)).rows == 1


# ---- what SQL shows -----------------------------------------------------------------------------------


async def test_views_show_longer_bars_of_all_time_whatever_is_packed(conn: type_connection, lane: Lane) -> None:
    """As on TimescaleDB and under the same name: a dashboard works on either profile."""
    await conn.execute(
        "INSERT INTO instruments VALUES ($1, 'BTCUSDT', 'BINANCE', 'BTC', 'USDT', 'spot', 2, 3, 2, 1, 1, 0, now(), 1)",
        BTC.id,
    )
    await lane.commit((CANDLES, stamped(seconds(range(120)), 1)))
    longer = [stamped(bars([0, 1], 150, timeframe=60, source=source), 1000 * source) for source in (1, 2)]
    for records in longer:
        await lane.commit((CANDLES, records))
    shown = "SELECT timeframe, count(*), max(close) FROM {} GROUP BY 1 ORDER BY 1"
    assert [tuple(row) for row in await conn.fetch(shown.format("v_candles"))] == [(1, 120, 1.0), (60, 4, 1.5)]
    await pack_all(conn)
    assert [tuple(row) for row in await conn.fetch(shown.format("v_candles"))] == [(60, 4, 1.5)]
    assert [tuple(row) for row in await conn.fetch(shown.format("v_own_candles"))] == [(60, 2, 1.5)]
