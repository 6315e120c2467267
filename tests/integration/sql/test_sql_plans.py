"""How PostgreSQL means to run each statement on large tables, as a shape, on both profiles.

A large table is made of pieces: chunks or partitions. Of what is asked for some hours no more pieces may be touched
than hold these hours, and in each the rows are found by an index. The statements are taken from the readers and the
writer as they run them; a named statement that nothing here runs fails the test, so that a new one is not forgotten.
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from importlib import resources
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from journaled import stamped
from lane import BTC, FUNDING, KINDS, SECOND, START, bars, rates, trades
from marketd.market.records import CandleFlag, Records
from marketd.market.times import NS_PER_SECOND
from marketd.sql.connections import type_connection
from marketd.sql.levels import LEVELS
from marketd.sql.literals import bind
from marketd.sql.partitions import PartitionKeeper
from marketd.sql.profiles import Profile, detect_profile
from marketd.sql.read import Span, read_bars, read_coverage, read_facts, read_line, read_rows
from marketd.sql.read_books import read_book_means, read_versions
from marketd.sql.read_latest import read_latest_bars
from marketd.sql.read_levels import has_foreign, newest_second, read_level
from marketd.sql.series import ensure_series_table
from marketd.sql.statements import statements
from marketd.sql.store import Commit, commit, split_rows, to_datetime
from packed import pack_all

PIECES = 6  # of each large table
MAX_TOUCHED = 2  # two hours may lie on both sides of a piece's edge
HOUR_NS = 3600 * NS_PER_SECOND
NOW = time.time_ns() // SECOND * SECOND - 30 * HOUR_NS
SPAN = Span(NOW - 2 * HOUR_NS, NOW)
KNOWN = NOW + HOUR_NS
# Statements on tables that are small, or that read nothing: they have no plan worth keeping.
EXEMPT = {
    "read": {"committed_known", "instruments"},
    "store": {"committed", "commit_offset", "upsert_instrument", "insert_coverage", "insert_quarantine", "stage"},
    "replica": {"position"},
    "quarantine": set(statements("quarantine")),  # a table for people, of no pieces
    # notes, and what TimescaleDB does itself
    "levels": {"has_levels", "note_late", "due", "kept", "done", "is_due", "keep", "refresh", "oldest_due"},
    "policies": set(statements("policies")),  # TimescaleDB's catalogue
    "batches": {"version", "pieces", "are_same"},  # TimescaleDB's catalogue
    "rights": set(statements("rights")),  # PostgreSQL's catalogue
    "storage": set(statements("storage")),  # sizes of pieces, from the catalogue; each edge is looked up in one piece
    "move": set(statements("move")),  # everything is moved, so everything is read
    "packed": {
        "may_have_blocks",
        "try_lock",
        "share_locks",
        "insert_block",
        "remove_block",
        "block_at",
        "block_data",
        "drop_old",
        "drop_replaced",
    },  # by key
}
# statements that only the other profile has something to read for
OF_THE_OTHER = {
    Profile.POSTGRES: {(file, name) for file in ("levels", "batches") for name in statements(file)}
    | {("read", "versions")},
    Profile.TIMESCALE: {("books", "snapshots_between"), *(("packed", name) for name in statements("packed"))},
}


class Spy:
    """A connection that asks for the plan of what it is told to run, and then runs it."""

    def __init__(self, conn: type_connection) -> None:
        self._conn = conn
        self.seen: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        if re.match(r"\s*(INSERT INTO|DELETE FROM)", query) and "VALUES" not in query:
            await self._explain(query, *args)
        return await self._conn.execute(query, *args, **options)

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        await self._explain(query, *args)
        return await self._conn.fetch(query, *args)

    async def fetchrow(self, query: str, *args: Any) -> Any:
        await self._explain(query, *args)
        return await self._conn.fetchrow(query, *args)

    async def fetchval(self, query: str, *args: Any) -> Any:
        await self._explain(query, *args)
        return await self._conn.fetchval(query, *args)

    async def copy_from_query(self, query: str, **options: Any) -> str:
        await self._explain(query)
        return await self._conn.copy_from_query(query, **options)

    async def _explain(self, query: str, *args: Any) -> None:
        plan = await self._conn.fetchval(f"EXPLAIN (FORMAT JSON) {bind(query, *args)}")
        self.seen.append((query, json.loads(plan)[0]["Plan"]))


@pytest.fixture
async def spy(conn: type_connection) -> AsyncIterator[Spy]:
    """A row in each of the newest pieces of every large table."""
    await ensure_series_table(conn, "funding", dict(FUNDING.fields))
    keeper = PartitionKeeper(await detect_profile(conn))
    for table in await conn.fetch("SELECT table_name, time_column, width FROM partitioned_tables"):
        width_ns = round(table["width"].total_seconds()) * NS_PER_SECOND
        times = [NOW - HOUR_NS - number * width_ns for number in range(PIECES)]
        for ts_ns in times:
            await keeper.ensure(conn, table["table_name"], ts_ns, ts_ns)
        await fill(conn, table["table_name"], times)
    await conn.execute("ANALYZE")
    # a piece of a few rows is read as a whole for good reason; what has no index for its question still is, with this
    await conn.execute("SET enable_seqscan = off")
    yield Spy(conn)


async def fill(conn: type_connection, table: str, times: list[int], instrument_id: int = BTC.id) -> None:
    columns = await conn.fetch(
        "SELECT column_name AS name, data_type AS type FROM information_schema.columns"
        " WHERE table_schema = 'marketd' AND table_name = $1 ORDER BY ordinal_position",
        table,
    )
    values = {"timestamp with time zone": "$1", "ARRAY": "'{1}'", "bytea": "''"}
    named = {"instrument_id": str(instrument_id), "timeframe": "60", "state": "2"}  # a LIVE book
    listed = ", ".join(named.get(each["name"]) or values.get(each["type"], "1") for each in columns)
    await conn.executemany(f"INSERT INTO {table} SELECT {listed}", [(to_datetime(ts),) for ts in times])


async def run_everything(spy: Any) -> None:
    await read_everything(spy)
    await write_everything(spy)
    if await detect_profile(spy) is Profile.TIMESCALE:
        await newest_second(spy, BTC.id, SPAN)
        await has_foreign(spy, BTC.id, SPAN)
        for level in LEVELS:
            await read_level(spy, BTC.id, level, SPAN, limit=100)
        await read_compressed(spy)
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("marketd.sql.packing.ROWS_AT_ONCE", 1)  # of several rows at one time
            assert await pack_all(spy, block_rows=1, tables=("trades", "candles_1s", "book_snapshots"))
        await read_bars(spy, BTC.id, 1, SPAN, whole=True)  # nothing lies beside the blocks
        await write_everything(spy)  # what is packed comes back
        await fill(spy, "book_snapshots", [NOW - HOUR_NS])  # and a book lies beside its block
        await read_everything(spy)


async def read_everything(spy: Any) -> None:
    for timeframe in (1, 60):
        for source in ("best", "own"):
            for known_at in (None, KNOWN):
                await read_bars(spy, BTC.id, timeframe, SPAN, limit=100, bar_source=source, known_at=known_at)
        await read_latest_bars(spy, [BTC.id], timeframe)
    for newest in (True, False):
        options: Any = {"limit": 100, "newest": newest, "known_at": KNOWN}
        for stream in ("trade", "book", "book_delta", "book_venues", "activity_bar", "funding"):
            kind = KINDS.by_name(stream)
            await read_rows(spy, BTC.id, kind, SPAN, **options)
        await read_versions(spy, BTC.id, KINDS.by_name("imbalance"), SPAN, **options)
        await read_versions(spy, BTC.id, KINDS.by_name("buckets"), SPAN, timeframe=1, **options)
        await read_book_means(spy, BTC, 20, 60, SPAN, **options)
        await read_coverage(spy, BTC.id, SPAN, **options)
        await read_facts(spy, BTC.id, None, 1, SPAN, known_at=options["known_at"])
        await read_line(spy, BTC.id, 1, SPAN, known_at=options["known_at"])


async def read_compressed(spy: Any) -> None:
    await spy.execute("SELECT compress_chunk(chunk) FROM show_chunks('candles_1s') chunk")
    # late rows; where there are none, nothing lies in the chunk, and it has no index for the planner
    await fill(spy, "candles_1s", [NOW - 2 * HOUR_NS + SECOND, NOW - SECOND])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("marketd.sql.read_batches.LEAST_ROWS", 1)
        async with spy.transaction(isolation="repeatable_read"):
            found = await read_bars(spy, BTC.id, 1, SPAN, limit=100, bar_source="own", known_at=KNOWN, pictured=True)
    assert found.joined is not None


async def write_everything(spy: Any) -> None:
    """What may be there already, so that it is merged."""
    partitions = PartitionKeeper(await detect_profile(spy))
    journal = uuid4()
    for offset, seq in ((0, 10), (8, 20)):
        rows = []
        for kind, records in _batches(seq):
            rows += split_rows(kind, np.full(len(records), BTC.id, dtype=np.int32), records)
        await commit(spy, Commit(journal, "live", offset + 8, KNOWN, rows, None, [], [], offset), partitions)


def _batches(seq: int) -> list[tuple[Any, Records]]:
    shift = NOW - HOUR_NS - START
    minute = bars([0, 1], seq, flags=int(CandleFlag.REVISED))
    second = bars([0, 1], seq, timeframe=1, flags=int(CandleFlag.REVISED))
    found = []
    for kind, records in (
        (KINDS.by_name("trade"), trades([(0, 1, 100, 1), (1, 2, 100, 1)])),
        (KINDS.by_name("candle"), minute),
        (KINDS.by_name("candle"), second),
        (FUNDING, rates([(0, 0.5)])),
    ):
        records[kind.time] = (records[kind.time] + shift) // (60 * SECOND) * 60 * SECOND + np.arange(
            len(records)
        ) * SECOND
        found.append((kind, stamped(records, seq if kind is not FUNDING else 1)))
    return found


async def test_every_statement_on_large_tables_touches_the_pieces_of_its_span_and_finds_rows_by_an_index(
    spy: Spy,
) -> None:
    await run_everything(spy)
    parents = await pieces_by_name(spy)
    found = await spy._conn.fetch("SELECT count(*) AS n FROM pg_class WHERE relname = ANY ($1)", list(parents))
    assert found[0]["n"] >= PIECES * len(set(parents.values()))
    bad = [(why, query) for query, plan in spy.seen for why in flaws(plan, parents)]
    assert bad == []
    profile = await detect_profile(spy)
    missing = {
        (file, name)
        for file in statement_files()
        for name, text in statements(file).items()
        if name not in EXEMPT.get(file, ())
        and (file, name) not in OF_THE_OTHER[profile]
        and not any(is_made_of(query, text) for query, _ in spy.seen)
    }
    assert missing == set(), (
        "statements that nothing here runs: add them to run_everything, or to EXEMPT with the reason"
    )


async def test_the_moments_of_an_instrument_are_walked_and_not_searched_one_by_one(spy: Spy) -> None:
    begin = NOW - HOUR_NS
    moments = [begin + number * SECOND for number in range(1, 1_000)]
    for number in range(5):  # which share their moments
        await fill(spy, "imbalances", moments, BTC.id + number)
    await spy.execute("ANALYZE imbalances")
    spy.seen.clear()

    await read_versions(spy, BTC.id, KINDS.by_name("imbalance"), Span(begin, NOW))

    (plan,) = [plan for query, plan in spy.seen if "DISTINCT ON" in query]
    assert "SkipScan" not in [node.get("Custom Plan Provider") for node in nodes(plan)]


async def test_views_find_the_newest_rows_of_an_instrument_at_the_end_of_an_index(spy: Spy) -> None:
    """As docs/database.md has a dashboard ask: the instrument's id, from its names, and bounds of time."""
    times = [NOW - HOUR_NS + number * SECOND for number in range(1, 1_000)]
    asked = {
        "v_trades": ("trades", "ts_event", ""),
        "v_candles": ("candles_1s", "ts", "AND timeframe = 1 AND source = 1"),
        "v_book_snapshots": ("book_snapshots", "ts_event", ""),
    }
    await spy.execute(
        "INSERT INTO instruments VALUES ($1, 'BTCUSDT', 'BINANCE', 'BTC', 'USDT', 'spot', 2, 3, 2, 1, 1, 0, now(), 1)",
        BTC.id,
    )
    parents = await pieces_by_name(spy)
    for view, (table, time_column, further) in asked.items():
        for number in range(5):
            await fill(spy, table, times, BTC.id + number)
        await spy.execute(f"ANALYZE {table}")
        spy.seen.clear()
        await spy.fetch(
            f"SELECT * FROM {view} WHERE instrument_id = (SELECT max(instrument_id) FROM instruments"
            f" WHERE venue = 'BINANCE' AND symbol = 'BTCUSDT') AND {time_column} >= $1 AND {time_column} < $2 {further}"
            f" ORDER BY {time_column} DESC LIMIT 1",
            *SPAN.bounds(),
        )
        ((_, plan),) = spy.seen
        assert flaws(plan, parents) == [], view
        assert "Sort" not in [node["Node Type"] for node in nodes(plan)], view


def flaws(plan: Any, parents: dict[str, str]) -> list[str]:
    touched: defaultdict[str, set[str]] = defaultdict(set)
    found = []
    for node in nodes(plan):
        relation = node.get("Relation Name", "")
        table = parents.get(relation)
        if node["Node Type"] == "Seq Scan" and (table or relation == "coverage"):
            found.append(f"{relation} of {table} is read as a whole")
        if table:
            touched[table].add(relation)
    return found + [
        f"{len(pieces)} pieces of {table} are touched" for table, pieces in touched.items() if len(pieces) > MAX_TOUCHED
    ]


def nodes(plan: Any) -> list[Any]:
    return [plan, *(node for child in plan.get("Plans", ()) for node in nodes(child))]


async def pieces_by_name(conn: Any) -> dict[str, str]:
    """Each chunk or partition, and the table that it is a piece of."""
    rows = await conn.fetch(
        "SELECT c.relname AS piece, p.relname AS parent FROM pg_inherits i"
        " JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent"
        " JOIN partitioned_tables t ON t.table_name = p.relname"
    )
    return {row["piece"]: row["parent"] for row in rows}


def statement_files() -> list[str]:
    folder = resources.files("marketd.sql") / "queries"
    return sorted(each.name.removesuffix(".sql") for each in folder.iterdir() if each.name.endswith(".sql"))


def is_made_of(query: str, template: str) -> bool:
    """Whether the fixed words of a named statement stand in a query, in their order."""
    at = 0
    for words in re.split(r"\{\w+\}|\$\d+", template):
        at = query.find(words.strip(), at)
        if at < 0:
            return False
        at += len(words.strip())
    return True


async def test_a_question_without_an_index_is_seen(spy: Spy) -> None:
    """What the test above would say if it were so."""
    await spy.fetch("SELECT * FROM trades WHERE price = 7")
    parents = await pieces_by_name(spy)
    found = flaws(spy.seen[0][1], parents)
    assert any("is read as a whole" in flaw for flaw in found)
    assert any("pieces of trades are touched" in flaw for flaw in found)
