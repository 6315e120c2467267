"""Old pieces go: whole ones, only when nothing of them is young, and without keeping anybody waiting for long."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from book_lane import books, imbalances, stamped
from lane import BTC, MS, SECOND, START
from marketd.daemon.quantities import Nanoseconds
from marketd.daemon.retention import RetentionKeeper
from marketd.daemon.settings import Config, Retention, Stream
from marketd.market.errors import ConfigError
from marketd.market.records import BY_NAME, Kind, Records
from marketd.sql import retention
from marketd.sql.connections import DatabaseConnectionManager, type_connection
from marketd.sql.errors import PartitionRefused
from marketd.sql.partitions import PartitionKeeper
from marketd.sql.profiles import Profile, detect_profile
from marketd.sql.retention import drop_old_pieces, pieces_of_table
from marketd.sql.store import Commit, commit, split_rows, to_datetime
from support import eventually_async

BOOK, IMBALANCE = BY_NAME["book"], BY_NAME["imbalance"]
DAY_MS = 86_400_000
DAY = timedelta(days=1)
NOON = to_datetime(START // (86_400 * SECOND) * 86_400 * SECOND + 43_200 * SECOND)
FAR = datetime(2200, 1, 1, tzinfo=UTC)


async def store(conn: type_connection, kind: Kind, records: Records, keeper: PartitionKeeper | None = None) -> None:
    keeper = keeper or PartitionKeeper(await detect_profile(conn))
    rows = split_rows(kind, np.full(len(records), BTC.id, np.int32), stamped(records, 1))
    await commit(conn, Commit(uuid4(), "live", 8, START, rows, None, [], []), keeper)


async def store_days(conn: type_connection, *days: int) -> None:
    await store(conn, BOOK, books([(day * DAY_MS, 99, 100) for day in days]))


async def days_left(conn: type_connection) -> list[int]:
    rows = await conn.fetch("SELECT ts_event FROM book_snapshots ORDER BY 1")
    return [round((row["ts_event"] - to_datetime(START)) / DAY) for row in rows]


@pytest.fixture
def long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all pieces had been made when 1970 began."""
    whole = retention.pieces_of_table

    async def found(conn: type_connection, table: str) -> list[retention.Piece]:
        return [piece._replace(made=datetime(1970, 1, 1, tzinfo=UTC)) for piece in await whole(conn, table)]

    monkeypatch.setattr(retention, "pieces_of_table", found)


@pytest.mark.usefixtures("long_ago")
async def test_whole_days_go_and_those_that_are_young_in_part_stay(conn: type_connection) -> None:
    await store_days(conn, 0, 1, 2, 5)
    assert await drop_old_pieces(conn, "book_snapshots", NOON) == ([], [])
    dropped = await drop_old_pieces(conn, "book_snapshots", NOON + 2 * DAY)
    assert (len(dropped.gone), dropped.in_use) == (2, [])
    assert await days_left(conn) == [2, 5]
    await drop_old_pieces(conn, "book_snapshots", FAR)
    assert await days_left(conn) == []


async def test_what_was_stored_lately_is_not_old_whatever_its_time(conn: type_connection) -> None:
    before = datetime.now(UTC) - timedelta(hours=1)
    await store_days(conn, 0, 1)
    assert await drop_old_pieces(conn, "book_snapshots", datetime.now(UTC) - timedelta(hours=1)) == ([], [])
    pieces = await pieces_of_table(conn, "book_snapshots")
    assert [piece.end - piece.start for piece in pieces] == [DAY, DAY]
    assert all(before < piece.made < datetime.now(UTC) + timedelta(minutes=1) for piece in pieces)
    assert len((await drop_old_pieces(conn, "book_snapshots", FAR)).gone) == 2


async def test_pieces_of_other_widths_and_tables_that_are_not_there(conn: type_connection) -> None:
    await store(conn, IMBALANCE, imbalances([(0, 7), (8 * 86_400, 7)]))
    assert [piece.end - piece.start for piece in await pieces_of_table(conn, "imbalances")] == [7 * DAY, 7 * DAY]
    assert len((await drop_old_pieces(conn, "imbalances", FAR)).gone) == 2
    assert await drop_old_pieces(conn, "series_of_tomorrow", FAR) == ([], [])
    with pytest.raises(PartitionRefused):
        await drop_old_pieces(conn, "instruments", FAR)


@pytest.mark.usefixtures("long_ago")
async def test_a_piece_that_a_reader_holds_waits_for_the_next_round(
    connections: DatabaseConnectionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its lock is hardly waited for, as all answers wait behind it."""
    monkeypatch.setattr(retention, "LOCK_TIMEOUT", "20s")
    async with connections.acquire() as conn, connections.acquire() as reader:
        await store_days(conn, 0)
        async with reader.transaction():
            await reader.fetch("SELECT FROM book_snapshots")
            async with asyncio.timeout(10):
                dropped = await drop_old_pieces(conn, "book_snapshots", FAR)
            assert (dropped.gone, len(dropped.in_use)) == ([], 1)
        assert len((await drop_old_pieces(conn, "book_snapshots", FAR)).gone) == 1


@pytest.mark.usefixtures("long_ago")
async def test_while_an_answer_takes_long_one_piece_of_a_table_is_tried(
    connections: DatabaseConnectionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "LOCK_TIMEOUT", "50ms")
    tried: list[str] = []
    whole = retention._drop

    async def drop(conn: type_connection, table: str, piece: retention.Piece) -> None:
        tried.append(piece.name)
        await whole(conn, table, piece)

    monkeypatch.setattr(retention, "_drop", drop)
    async with connections.acquire() as conn, connections.acquire() as answer:
        await store_days(conn, 0, 1, 2)
        async with answer.transaction():
            await answer.execute("LOCK TABLE expired IN ACCESS SHARE MODE")
            dropped = await drop_old_pieces(conn, "book_snapshots", FAR)
            assert (dropped.gone, len(dropped.in_use), len(tried)) == ([], 3, 1)
        assert len((await drop_old_pieces(conn, "book_snapshots", FAR)).gone) == 3


@pytest.mark.usefixtures("long_ago")
async def test_the_keeper_drops_what_the_setting_says_and_no_more(
    connections: DatabaseConnectionManager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with connections.acquire() as conn:
        partitions = PartitionKeeper(await detect_profile(conn))
        await store(conn, BOOK, books([(0, 99, 100)]), partitions)
        await store(conn, IMBALANCE, imbalances([(0, 7)]), partitions)
    day = Nanoseconds(86_400 * SECOND)

    keeper = RetentionKeeper(connections, Config(retention=Retention(book_snapshots=Nanoseconds(2**70))))
    assert await keeper.round() == 0
    streams = {"none": Stream(fields={"a": "f8"})}
    keeper.change(Config(streams=streams, retention=Retention(book_snapshots=day, series={"none": day})))
    assert await keeper.round() == 1
    async with connections.acquire() as conn:
        assert await days_left(conn) == []
        assert await conn.fetchval("SELECT count(*) FROM imbalances") == 1
        # a writer that still has records of that time finds the piece gone, and makes it anew (daemon/writer.py)
        partitions.forget()
        await store(conn, BOOK, books([(0, 99, 100)]), partitions)
        assert await days_left(conn) == [0]
    assert "1 pieces of book_snapshots" in caplog.text


@pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)
async def test_a_table_that_cannot_be_cleared_does_not_end_the_keeper(
    connections: DatabaseConnectionManager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise PartitionRefused("not today")

    monkeypatch.setattr("marketd.daemon.retention.drop_old_pieces", broken)
    keeper = RetentionKeeper(connections, Config())
    assert await keeper.round() == 0
    assert "not today" in caplog.text


@pytest.mark.usefixtures("long_ago")
async def test_a_drop_that_was_interrupted_is_tried_again_soon_and_less_often_each_time(
    connections: DatabaseConnectionManager, conn: type_connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store_days(conn, 0)
    pauses: list[float] = []
    whole = retention.drop_old_pieces

    async def ended(connection: type_connection, table: str, before: datetime) -> retention.Dropped:
        if len(pauses) < 3:
            await conn.execute("SELECT pg_terminate_backend($1, 5000)", connection.get_server_pid())
        return await whole(connection, table, before)

    class NoWait:
        def __init__(self, seconds: float) -> None:
            pauses.append(seconds)

        async def __aenter__(self) -> None:
            if len(pauses) > 4:
                await asyncio.Event().wait()
            raise TimeoutError

        async def __aexit__(self, *_: object) -> None:
            """Never entered."""

    monkeypatch.setattr("marketd.daemon.retention.drop_old_pieces", ended)
    monkeypatch.setattr("marketd.daemon.retention._waiting", NoWait)
    kept = Retention(book_snapshots=Nanoseconds(86_400 * SECOND), book_deltas=Nanoseconds(0))
    task = asyncio.create_task(RetentionKeeper(connections, Config(retention=kept)).run())
    await eventually_async(lambda: len(pauses) > 4)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert pauses == [10.0, 20.0, 40.0, 3600.0, 3600.0]
    assert await days_left(conn) == []


async def test_a_changed_setting_begins_a_round_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Any = None
    keeper = RetentionKeeper(nothing, Config())
    rounds: list[Retention] = []

    async def round_(self: RetentionKeeper) -> int:
        rounds.append(self._retention)
        return 0

    monkeypatch.setattr(RetentionKeeper, "round", round_)
    task = asyncio.create_task(keeper.run())
    await eventually_async(lambda: len(rounds) == 1)
    changed = Retention(trades=Nanoseconds(86_400 * SECOND))
    keeper.change(Config(retention=changed))
    await eventually_async(lambda: rounds == [Retention(), changed])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_only_raw_books_have_an_end_by_default() -> None:
    month = 30 * 86_400 * SECOND
    assert Retention().tables == {"book_snapshots": month, "book_venues": month, "book_deltas": month}
    assert Retention(series={"funding": Nanoseconds(month)}).tables["series_funding"] == month


def test_a_retention_below_a_day_or_of_nothing_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"retention\.trades.*1d or more"):
        Config(retention=Retention(trades=Nanoseconds(5 * MS)))
    with pytest.raises(ConfigError, match=r"retention\.series\.x"):
        Config(retention=Retention(series={"x": Nanoseconds(0)}))
    streams = {"x": Stream(fields={"a": "f8"})}
    with pytest.raises(ConfigError, match=r"retention\.series\.x.*1d or more"):
        Config(streams=streams, retention=Retention(series={"x": Nanoseconds(5)}))
