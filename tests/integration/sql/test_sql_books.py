"""What order books leave behind: stored and read back bit for bit, in versions, by interval, and as real numbers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from book_lane import books, buckets, imbalances, stamped
from lane import BTC, MS, SECOND, START
from marketd.market.book_means import means_kind
from marketd.market.book_rows import refit
from marketd.market.records import BOOK_DELTA, BY_NAME, BookState, Kind, Records, book_kind
from marketd.market.rows import codec
from marketd.market.times import ABSENT
from marketd.sql.connections import type_connection
from marketd.sql.partitions import PartitionKeeper
from marketd.sql.profiles import detect_profile
from marketd.sql.read import CopiedRows, Span, read_rows
from marketd.sql.read_books import read_book_means, read_versions
from marketd.sql.store import Commit, commit, split_rows

KNOWN = START + 3600 * SECOND
BOOK, IMBALANCE, BUCKETS, DELTA = (BY_NAME[name] for name in ("book", "imbalance", "buckets", "book_delta"))
_ids = itertools.count(1000)
_same_database = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Database(NamedTuple):
    conn: type_connection
    partitions: PartitionKeeper

    async def put(self, *parts: tuple[Kind, Records], instrument: int = BTC.id) -> None:
        rows = [
            each
            for kind, records in parts
            for each in split_rows(kind, np.full(len(records), instrument, np.int32), records)
        ]
        assert await commit(self.conn, Commit(uuid4(), "live", 8, KNOWN, rows, None, [], []), self.partitions) == 8

    async def means(
        self, timeframe: int, span: Span | None = None, instrument: int = BTC.id, **options: Any
    ) -> Records:
        named = msgspec.structs.replace(BTC, id=instrument)
        return await read_book_means(self.conn, named, 20, timeframe, span or Span(), **options)


@pytest.fixture
async def db(conn: type_connection) -> Database:
    return Database(conn, PartitionKeeper(await detect_profile(conn)))


def decoded(copied: CopiedRows) -> Records:
    return codec(copied.table, copied.kind).decode(copied.data)[1]


def deltas(rows: Sequence[tuple[int, int, int]]) -> Records:
    """BOOK_DELTA records of (ms, price, size)."""
    return np.array(
        [(START + ms * MS, 0, 0, number, price, size, -1, 0) for number, (ms, price, size) in enumerate(rows)],
        dtype=BOOK_DELTA,
    )


# ---- stored and read back ---------------------------------------------------------------------------


async def test_every_kind_of_books_comes_back_as_it_was(db: Database) -> None:
    made = [
        (BOOK, stamped(books([(0, 99, 100), (100, 0, 0, 0, BookState.STALE), (200, 98, 101, 20)]))),
        (DELTA, stamped(deltas([(0, 99, 5), (0, 98, 0), (1, ABSENT, ABSENT)]), 10)),
    ]
    await db.put(*made)
    for kind, records in made:
        found = decoded(await read_rows(db.conn, BTC.id, kind, Span(), newest=False))
        assert found.tobytes() == records.tobytes(), kind.name
        newest = decoded(await read_rows(db.conn, BTC.id, kind, Span(), limit=2))
        assert newest["seq"].tolist() == records["seq"][:0:-1].tolist()


async def test_versions_come_back_as_they_were(db: Database) -> None:
    seconds, of_second, of_minute = (
        imbalances([(0, 200), (1, 201)]),
        buckets([(0, 20), (1, 21)]),
        buckets([(0, 30)], 60),
    )
    await db.put((IMBALANCE, stamped(seconds)), (BUCKETS, stamped(np.concatenate([of_second, of_minute]), 10)))
    of_second, of_minute = stamped(of_second, 10), stamped(of_minute, 12)
    found = decoded(await read_versions(db.conn, BTC.id, IMBALANCE, Span(), newest=False))
    assert found.tobytes() == stamped(seconds).tobytes()
    for timeframe, records in ((1, of_second), (60, of_minute)):
        found = decoded(await read_versions(db.conn, BTC.id, BUCKETS, Span(), timeframe=timeframe, newest=False))
        assert found.tobytes() == records.tobytes()


level = st.one_of(st.just(ABSENT), st.integers(-(2**63) + 1, 2**63 - 1))


@_same_database
@given(st.data(), st.sampled_from([1, 2, 20, 100]), st.integers(1, 4))
async def test_any_levels_of_any_depth_are_the_same_in_the_database(
    db: Database, data: st.DataObject, depth: int, count: int
) -> None:
    kind, instrument = book_kind(depth), next(_ids)
    records = books([(ms, 1, 2) for ms in range(count)], depth)
    levels = st.lists(level, min_size=depth * count, max_size=depth * count)
    for name in ("bid_price", "bid_size", "ask_price", "ask_size"):
        records[name] = np.array(data.draw(levels)).reshape(count, depth)
    records["sequence"] = data.draw(level)
    await db.put((kind, stamped(records)), instrument=instrument)
    found = decoded(await read_rows(db.conn, instrument, kind, Span(), newest=False))
    assert found.tobytes() == records.tobytes()


async def test_books_of_another_depth_are_read_at_the_depth_of_today(db: Database) -> None:
    deep, shallow = stamped(books([(0, 99, 100, 5)], 5)), stamped(books([(1_000, 98, 101, 2)], 2), 2)
    await db.put((book_kind(5), deep), (book_kind(2), shallow))
    expected = np.concatenate([refit(deep, 3), refit(shallow, 3)])
    found = decoded(await read_rows(db.conn, BTC.id, book_kind(3), Span(), newest=False))
    assert found.tobytes() == expected.tobytes()
    means = await read_book_means(db.conn, BTC, 3, 1, Span())
    for name in ("bid_price", "ask_size", "bid_count", "ask_count", "seq"):
        assert (means[name] == expected[name]).all(), name


async def test_a_book_that_is_there_already_is_not_there_twice(db: Database) -> None:
    first, more = stamped(books([(0, 99, 100)])), stamped(books([(0, 99, 100), (1, 98, 100)]))
    await db.put((BOOK, first))
    await db.put((BOOK, more))
    assert decoded(await read_rows(db.conn, BTC.id, BOOK, Span(), newest=False)).tobytes() == more.tobytes()
    # the same of intervals, whose time has another name
    await db.put((BUCKETS, stamped(buckets([(0, 1)]))))
    await db.put((BUCKETS, stamped(buckets([(0, 1), (1, 2)]))))
    assert await db.conn.fetchval("SELECT count(*) FROM book_buckets") == 2


# ---- by the second ----------------------------------------------------------------------------------


async def test_a_limit_finds_intervals_that_lie_far_apart(db: Database) -> None:
    days = 86_400_000
    rows = [(day * days + ms, 99, 100) for day in (0, 1, 40) for ms in (0, 400)]
    records = stamped(books(rows))
    await db.put((BOOK, records))
    starts = [START + day * days * MS for day in (0, 1, 40)]
    for limit in (1, 2, 3, 9):
        assert (await db.means(1, limit=limit))["ts"].tolist() == starts[-limit:]
        assert (await db.means(1, limit=limit, newest=False))["ts"].tolist() == starts[:limit]
    assert (await db.means(86_400, limit=10**6))["count"].tolist() == [2, 2, 2]
    assert (await db.means(60))["count"].tolist() == [2, 2, 2]
    assert (await db.means(60)).dtype == means_kind().dtype


# ---- for people -------------------------------------------------------------------------------------


async def test_views_of_books_show_real_numbers(db: Database) -> None:
    await db.conn.execute(
        "INSERT INTO instruments VALUES ($1, 'BTCUSDT', 'BINANCE', 'BTC', 'USDT', 'spot', 2, 3, 2, 1, 1, 0, now(), 1)",
        BTC.id,
    )
    await db.put(
        (BOOK, stamped(books([(0, 9_900, 10_000), (1, 0, 0, 0, BookState.SYNCING)]))),
        (DELTA, stamped(deltas([(0, 9_900, 0), (1, ABSENT, ABSENT)]))),
        (IMBALANCE, stamped(np.concatenate([imbalances([(0, 7)]), imbalances([(0, 19_900)])]))),
        (BUCKETS, stamped(np.concatenate([buckets([(0, 7)]), buckets([(0, 20)])]))),
    )
    rows = await db.conn.fetch(
        "SELECT symbol, best_bid, best_ask, mid, spread, bid_price, ask_size FROM v_book_snapshots ORDER BY seq"
    )
    assert [tuple(row) for row in rows] == [
        ("BTCUSDT", 99.0, 100.0, 99.5, 1.0, [99.0, 98.99], [0.02, 0.021]),
        ("BTCUSDT", None, None, None, None, None, None),
    ]
    rows = await db.conn.fetch("SELECT price, size, side FROM v_book_deltas ORDER BY seq")
    assert [tuple(row) for row in rows] == [(99.0, 0.0, -1), (None, None, -1)]
    (row,) = await db.conn.fetch(
        "SELECT mid, spread, weighted_mid, bid_size, best_ask_size, book_1s, book_60s, seq FROM v_imbalances"
        " WHERE symbol = 'BTCUSDT' AND ts_event >= '2024-01-01'"
    )
    assert tuple(row) == (99.5, 0.02, 99.505, 0.03, 0.001, 0.5, None, 2)
    (row,) = await db.conn.fetch("SELECT width, base_price, bid_size[2], ask_size[1], seq FROM v_book_buckets")
    assert tuple(row) == (0.05, 1.0, 0.001, 0.1, 2)


async def test_the_newest_versions_of_one_symbol_are_read_from_its_index(db: Database) -> None:
    await db.conn.execute(
        "INSERT INTO instruments VALUES ($1, 'BTCUSDT', 'BINANCE', 'BTC', 'USDT', 'spot', 2, 3, 2, 1, 1, 0, now(), 1)",
        BTC.id,
    )
    await db.put((IMBALANCE, stamped(imbalances([(n, n) for n in range(2000)]))))
    await db.conn.execute("ANALYZE")
    plan = await db.conn.fetch(
        "EXPLAIN SELECT * FROM v_imbalances WHERE symbol = 'BTCUSDT' AND ts_event >= '2024-08-09 00:00:00+00'"
        " AND ts_event < '2024-08-09 00:01:00+00'"
    )
    text = "\n".join(row[0] for row in plan)
    assert "Index Cond" in text
    assert "ts_event >=" in text
