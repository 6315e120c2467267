"""What retention dropped is in the ledger of every instrument, between what was said before and after."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from lane import BTC, SECOND, START, bars, trades
from marketd.client.grid import observed_intervals
from marketd.daemon.ledger import Ledger, coverage_records
from marketd.daemon.rebuild import rebuilt_bars
from marketd.market.records import BY_NAME, COVERAGE, Coverage, Records, Source
from marketd.market.timeline import Seen, timeline
from marketd.market.worth import Worth, worth_of
from marketd.sql import retention
from marketd.sql.connections import type_connection
from marketd.sql.levels import has_levels
from marketd.sql.partitions import PartitionKeeper
from marketd.sql.profiles import detect_profile
from marketd.sql.read import Span, read_coverage
from marketd.sql.retention import drop_old_pieces
from marketd.sql.store import Commit, commit, split_rows, to_datetime

TRADE, CANDLE = BY_NAME["trade"], BY_NAME["candle"]
DAY = 86_400 * SECOND
FIRST_DAY = START // DAY * DAY
FAR = datetime(2200, 1, 1, tzinfo=UTC)
OTHER = BTC.id + 1


@pytest.fixture(autouse=True)
def _long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all pieces had been made when 1970 began."""
    whole = retention.pieces_of_table

    async def found(conn: type_connection, table: str) -> list[retention.Piece]:
        return [piece._replace(made=datetime(1970, 1, 1, tzinfo=UTC)) for piece in await whole(conn, table)]

    monkeypatch.setattr(retention, "pieces_of_table", found)


class Store:
    """A writer in small: rows and events, one commit each."""

    def __init__(self, conn: type_connection) -> None:
        self._conn = conn
        self._journal = uuid4()
        self._seq = self._end = 0

    async def put(self, kind: Any, records: Records, known: datetime | None = None) -> None:
        await self._commit(records, known, rows=kind)

    async def tell(self, state: Coverage, start: int, end: int, known: datetime, stream: int = TRADE.id) -> None:
        record = np.zeros(1, dtype=COVERAGE)
        record["ts_event"] = record["ts_start"] = start
        record["ts_end"], record["stream"], record["state"] = end, stream, state
        await self._commit(record, known, rows=None)

    async def _commit(self, records: Records, known: datetime | None, rows: Any) -> None:
        records = records.copy()
        records["seq"] = np.arange(self._seq + 1, self._seq + 1 + len(records))
        records["ts_known"] = START if known is None else int(known.timestamp()) * SECOND
        self._seq += len(records)
        begin, self._end = self._end, self._end + 8
        ids = np.full(len(records), BTC.id, np.int32)
        table_rows = [] if rows is None else split_rows(rows, ids, records)
        coverage = [(ids, records)] if rows is None else []
        work = Commit(self._journal, "live", self._end, START, table_rows, None, coverage, [], begin)
        await commit(self._conn, work, PartitionKeeper(await detect_profile(self._conn)))


BEFORE, AFTER = datetime(2025, 1, 1, tzinfo=UTC), datetime(2150, 1, 1, tzinfo=UTC)


async def ledger_of(conn: type_connection, instrument: int = BTC.id) -> Records:
    return coverage_records(await read_coverage(conn, instrument, Span()))


async def test_dropped_trades_are_expired_until_they_are_fetched_again(conn: type_connection) -> None:
    store = Store(conn)
    await store.tell(Coverage.OBSERVED, FIRST_DAY, FIRST_DAY, BEFORE)
    await store.put(TRADE, trades([(0, 1, 100, 1), (1000, 2, 100, 1)]))
    assert len((await drop_old_pieces(conn, "trades", FAR)).gone) == 1
    line = timeline(await ledger_of(conn), TRADE.id, FIRST_DAY, START)
    assert [(stretch.state, stretch.reason) for stretch in line] == [(Seen.EXPIRED, "trades")]
    await store.tell(Coverage.BACKFILLED, FIRST_DAY + SECOND, FIRST_DAY + 2 * SECOND, AFTER)
    line = timeline(await ledger_of(conn), TRADE.id, FIRST_DAY, START)
    assert [stretch.state for stretch in line] == [Seen.EXPIRED, Seen.BACKFILLED, Seen.EXPIRED]
    assert not len(await ledger_of(conn, OTHER)), "an instrument of which nothing was ever known has nothing to lose"


async def test_dropped_changes_of_a_book_are_expired_and_its_snapshots_are_not(conn: type_connection) -> None:
    store = Store(conn)
    await store.tell(Coverage.OBSERVED, FIRST_DAY, FIRST_DAY, BEFORE, BY_NAME["book"].id)
    changes = np.zeros(2, BY_NAME["book_delta"].dtype)
    changes["ts_event"] = START
    await store.put(BY_NAME["book_delta"], changes)
    assert len((await drop_old_pieces(conn, "book_deltas", FAR)).gone) == 1
    assert await conn.fetchval("SELECT count(*) FROM book_deltas") == 0
    ledger, span = await ledger_of(conn), (FIRST_DAY, START + SECOND)
    assert worth_of(ledger, BY_NAME["book_delta"], *span) == Worth("expired", [span])
    assert worth_of(ledger, BY_NAME["book"], *span) == Worth("observed", [])


async def test_a_grid_fills_no_bars_flat_that_were_dropped(conn: type_connection) -> None:
    store = Store(conn)
    await store.tell(Coverage.OBSERVED, FIRST_DAY, FIRST_DAY, BEFORE)
    await store.put(TRADE, trades([(0, 1, 100, 1)]))
    await store.put(CANDLE, bars([0, 1], timeframe=1, source=Source.OWN))
    if await has_levels(conn):
        await conn.execute("DELETE FROM refresh_due")  # else they wait for TimescaleDB's longer bars of them
    await drop_old_pieces(conn, "candles_1s", FAR)
    ledger = await ledger_of(conn)
    until = START + SECOND
    assert observed_intervals(ledger, until, timeframe=1).tolist() == []
    assert observed_intervals(ledger, until, timeframe=60).tolist() == [[FIRST_DAY, until]]
    assert observed_intervals(ledger, until).tolist() == [[FIRST_DAY, until]], "the trades are there"
    await drop_old_pieces(conn, "trades", FAR)
    ledger = await ledger_of(conn)
    assert observed_intervals(ledger, until).tolist() == []
    assert observed_intervals(ledger, until, timeframe=60).tolist() == [[FIRST_DAY, until]], "the bars of 1m are there"


async def test_a_bar_is_not_computed_from_what_came_after_its_trades_were_dropped(conn: type_connection) -> None:
    store, minute = Store(conn), (60, START)
    await store.tell(Coverage.OBSERVED, FIRST_DAY, FIRST_DAY, BEFORE)
    await store.put(TRADE, trades([(0, 1, 100, 1)]))
    await store.put(CANDLE, bars([0], source=Source.OWN))
    assert (await rebuilt_bars(conn, BTC, [minute]))["trade_count"].tolist() == [1]
    await drop_old_pieces(conn, "trades", FAR)
    await store.put(TRADE, trades([(100, 5, 100, 1), (200, 6, 100, 1), (300, 7, 100, 1)]))
    assert not len(await rebuilt_bars(conn, BTC, [minute])), "three trades are more than one, and not those of the bar"
    await store.tell(Coverage.BACKFILLED, START, START + 60 * SECOND, AFTER)
    assert (await rebuilt_bars(conn, BTC, [minute]))["trade_count"].tolist() == [3], "now they are all"
    assert await Ledger(conn, BTC.id).has_lost(FIRST_DAY, START)


async def test_what_is_gone_is_gone_at_every_moment_of_knowledge(conn: type_connection) -> None:
    store = Store(conn)
    await store.tell(Coverage.OBSERVED, FIRST_DAY, FIRST_DAY, BEFORE)
    await store.put(TRADE, trades([(0, 1, 100, 1)]))
    await drop_old_pieces(conn, "trades", FAR)
    rows = await read_coverage(conn, BTC.id, Span(), known_at=int(BEFORE.timestamp()) * SECOND)
    assert [row["state"] for row in rows] == [Coverage.EXPIRED, Coverage.OBSERVED]
    assert rows[0]["ts_start"] == to_datetime(FIRST_DAY)
