"""Longer bars that TimescaleDB makes: the aggregate's own numbers; late bars noted, summed up again; kept for ever."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import numpy as np
import pytest

from lane import BTC, CANDLES, SECOND, START, bars
from marketd.daemon.level_keeper import LevelKeeper
from marketd.market.aggregate import aggregate
from marketd.market.records import CandleFlag, Records, Source
from marketd.market.rows import codec
from marketd.market.times import ABSENT
from marketd.sql import retention
from marketd.sql.connections import DatabaseConnectionManager, type_connection
from marketd.sql.levels import LEVELS, Window, read_due, refresh, refresh_all_of
from marketd.sql.partitions import PartitionKeeper
from marketd.sql.policies import Wishes, apply_policies
from marketd.sql.profiles import Profile
from marketd.sql.read import Span
from marketd.sql.read_levels import read_level
from marketd.sql.retention import drop_old_pieces
from marketd.sql.schema_files import load_schema_files
from marketd.sql.store import Commit, commit, split_rows, to_datetime

pytestmark = pytest.mark.parametrize("server", [Profile.TIMESCALE], indirect=True, ids=str)

DAY = timedelta(days=1)
DAY_S = 86_400
MIDNIGHT_S = DAY_S - START // SECOND % DAY_S  # seconds after START until the next one
FAR = datetime(2200, 1, 1, tzinfo=UTC)
_seqs = iter(range(1, 10**9, 10**5))


def seconds(at: Any, *, price: int = 100, source: int = Source.OWN, flags: int = 0) -> Records:
    """Bars of a second, so many seconds after START."""
    return bars(at, price, timeframe=1, source=source, flags=flags, seq=next(_seqs), ts_known=START)


def market(rng: np.random.Generator, days: int, count: int) -> Records:
    """Sparse seconds with all sorts of numbers."""
    found = seconds(np.sort(rng.choice(days * DAY_S, count, replace=False)))
    for name, most in (("open", 10**9), ("close", 10**9), ("volume", 2**45), ("quote_volume", 2**45)):
        found[name] = rng.integers(1, most, count)
    found["high"] = np.maximum(found["open"], found["close"]) + rng.integers(0, 50, count)
    found["low"] = np.minimum(found["open"], found["close"]) - rng.integers(0, 50, count)
    found["buy_volume"], found["trade_count"] = found["volume"] // 3, rng.integers(1, 99, count)
    found["flags"] = rng.choice([0, 0, CandleFlag.PARTIAL, CandleFlag.REVISED, CandleFlag.SNAPPED], count)
    return found


async def store(conn: type_connection, *records: Records, instrument: int = BTC.id) -> None:
    parts = [each for rows in records for each in split_rows(CANDLES, np.full(len(rows), instrument, np.int32), rows)]
    work = Commit(uuid4(), "live", 8, START, parts, None, [], [])
    assert await commit(conn, work, PartitionKeeper(Profile.TIMESCALE)) == 8


async def level_bars(conn: type_connection, seconds_: int, limit: int | None = None) -> Records:
    level = next(level for level in LEVELS if level.seconds == seconds_)
    copied = await read_level(conn, BTC.id, level, Span(), limit)
    found: Records = codec(copied.table, CANDLES).decode(copied.data)[1]
    return found[::-1]


async def assert_levels(conn: type_connection, parts: Records) -> None:
    for level in LEVELS:
        found, expected = await level_bars(conn, level.seconds), aggregate(parts, level.seconds)
        assert found.tobytes() == expected.tobytes(), level.view


async def notes(conn: type_connection) -> int:
    return int(await conn.fetchval("SELECT count(*) FROM refresh_due"))


@pytest.fixture
def keeper(connections: DatabaseConnectionManager) -> LevelKeeper:
    return LevelKeeper(connections)


@pytest.fixture
def long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all pieces had been made when 1970 began."""
    whole = retention.pieces_of_table

    async def found(conn: type_connection, table: str) -> list[retention.Piece]:
        return [piece._replace(made=datetime(1970, 1, 1, tzinfo=UTC)) for piece in await whole(conn, table)]

    monkeypatch.setattr(retention, "pieces_of_table", found)


# ---- the numbers ------------------------------------------------------------------------------------


async def test_a_view_shows_every_level_in_real_numbers_and_asks_only_for_the_one_that_is_named(
    conn: type_connection,
) -> None:
    await conn.execute(
        "INSERT INTO instruments VALUES ($1, 'BTCUSDT', 'BINANCE', 'BTC', 'USDT', 'spot', 2, 3, 2, 1, 1, 0, now(), 1)",
        BTC.id,
    )
    await store(conn, seconds(range(90), price=12_345))
    rows = await conn.fetch("SELECT timeframe, symbol, close FROM v_own_candles ORDER BY timeframe, ts")
    assert {row["timeframe"] for row in rows} == {level.seconds for level in LEVELS}
    assert {(row["symbol"], row["close"]) for row in rows} == {("BTCUSDT", 123.45)}
    bound = "ts >= '2024-08-08Z' AND ts < '2024-08-10Z'"
    asked = "SELECT * FROM v_own_candles WHERE instrument_id = 65537 AND timeframe = "
    summed = {}
    for timeframe in (60, 86_400):
        plan = await conn.fetch(f"EXPLAIN {asked}{timeframe} AND {bound}")
        summed[timeframe] = sum("Aggregate" in row[0] for row in plan)
    # bars of a day are made of five others on the way, those of a minute of seconds alone
    assert 0 < summed[60] < summed[86_400]


async def test_every_level_is_what_the_aggregate_makes_before_and_after_it_was_summed_up(
    conn: type_connection, keeper: LevelKeeper
) -> None:
    parts = market(np.random.default_rng(7), 3, 4000)
    await store(conn, parts)
    await store(conn, parts, instrument=BTC.id + 1)
    await store(conn, seconds(range(50), price=7, source=Source.VENUE))
    await assert_levels(conn, parts)  # summed up when read
    assert await keeper.round() == 1
    materialized = await conn.fetchval(
        "SELECT count(*) FROM timescaledb_information.chunks WHERE hypertable_name LIKE '\\_materialized%'"
    )
    assert materialized >= len(LEVELS)
    await assert_levels(conn, parts)
    assert (await level_bars(conn, DAY_S, limit=1))["ts"].tolist() == aggregate(parts, DAY_S)["ts"][-1:].tolist()


async def test_a_volume_that_a_part_lacks_or_that_leaves_64_bits_is_absent_and_fails_no_refresh(
    conn: type_connection, keeper: LevelKeeper
) -> None:
    parts = seconds([0, 1, 60, 61])
    parts["volume"] = [ABSENT, 5, 2**62, 2**62]
    await store(conn, parts)
    await keeper.round()
    assert (await level_bars(conn, 60))["volume"].tolist() == [ABSENT, ABSENT]
    assert (await level_bars(conn, 3600))["volume"].tolist() == [ABSENT, ABSENT]  # on both sides of midnight
    assert (await level_bars(conn, 3600))["trade_count"].tolist() == [2, 2]


# ---- late bars --------------------------------------------------------------------------------------


async def test_late_bars_are_noted_in_their_transaction_and_appear_after_the_refresh(
    conn: type_connection, keeper: LevelKeeper
) -> None:
    first = seconds(range(0, 5 * DAY_S, 3600))
    await store(conn, first)
    await keeper.round()
    late = seconds([DAY_S + 7, DAY_S + 8], price=300)
    await store(conn, late)
    due = await read_due(conn)
    assert due is not None
    day = to_datetime(START) + timedelta(seconds=MIDNIGHT_S)
    assert due.windows == [Window(day, day + DAY)]
    assert (await level_bars(conn, DAY_S))["high"].tolist() == [100] * 6  # not yet
    assert await keeper.round() == 1
    await assert_levels(conn, np.sort(np.concatenate([first, late]), order="ts"))
    assert await notes(conn) == 0 == await keeper.round()


async def test_late_bars_reach_levels_that_are_columns_already(conn: type_connection, keeper: LevelKeeper) -> None:
    first = market(np.random.default_rng(3), 3, 4000)
    await store(conn, first)
    await keeper.round()
    await apply_policies(conn, Wishes(DAY, {}, {}, None))
    jobs = await conn.fetch(
        "SELECT job_id FROM timescaledb_information.jobs WHERE hypertable_name LIKE 'own\\_candles%'"
    )
    for job in jobs:
        await conn.execute("CALL public.run_job($1)", job["job_id"])
    chunks = await conn.fetch(
        "SELECT is_compressed FROM timescaledb_information.chunks WHERE hypertable_name LIKE '\\_materialized%'"
    )
    assert len(chunks) >= len(LEVELS) and all(chunk["is_compressed"] for chunk in chunks)
    await assert_levels(conn, first)
    late = seconds([DAY_S + 7, DAY_S + 8], price=300)
    await store(conn, late)
    await keeper.round()
    both = np.concatenate([first[~np.isin(first["ts"], late["ts"])], late])
    await assert_levels(conn, np.sort(both, order="ts"))


async def test_a_new_version_of_a_bar_reaches_every_level(conn: type_connection, keeper: LevelKeeper) -> None:
    await store(conn, seconds(range(0, 7200, 60)))
    await keeper.round()
    await store(conn, seconds([600], price=900, flags=CandleFlag.REVISED))
    await keeper.round()
    assert (await level_bars(conn, 14_400))["high"].max() == 900


async def test_bars_of_now_and_of_other_sources_need_no_note(conn: type_connection) -> None:
    now = int(datetime.now(UTC).timestamp()) - START // SECOND
    await store(conn, seconds([now - 200, now]))
    await store(conn, seconds([60], source=Source.VENUE), bars([5], source=Source.OWN, seq=next(_seqs)))
    assert await notes(conn) == 0
    await store(conn, seconds([now - 400]))
    assert await notes(conn) == 1


async def test_a_refresh_does_not_come_near_to_now(conn: type_connection, keeper: LevelKeeper) -> None:
    """The forming bar would be frozen as it is."""
    now = int(datetime.now(UTC).timestamp()) - START // SECOND
    await store(conn, seconds([now - 3000, now - 400]))
    await keeper.round()
    newest = seconds([now])
    await store(conn, newest)
    for level in LEVELS:
        found = await level_bars(conn, level.seconds)
        assert found["trade_count"].sum() == 3, level.view


async def test_a_stretch_that_somebody_else_works_on_keeps_its_notes(
    conn: type_connection, keeper: LevelKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store(conn, seconds([0]))

    async def busy(*_: object) -> None:
        raise asyncpg.LockNotAvailableError("could not refresh continuous aggregate due to a concurrent refresh")

    with monkeypatch.context() as patch:
        patch.setattr("marketd.daemon.level_keeper.refresh", busy)
        assert await keeper.round() == 0
    assert await notes(conn) == 1
    assert await keeper.round() == 1
    assert await notes(conn) == 0


async def test_a_note_of_a_moment_after_the_look_stays(
    conn: type_connection, keeper: LevelKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store(conn, seconds([0]))

    async def meanwhile(*args: Any) -> None:
        await refresh(*args)
        await store(conn, seconds([1]))

    monkeypatch.setattr("marketd.daemon.level_keeper.refresh", meanwhile)
    await keeper.round()
    assert await notes(conn) == 1


async def test_what_was_stored_before_the_schema_had_levels_is_due(conn: type_connection) -> None:
    """As the schema file says; here its last statement alone."""
    await store(conn, seconds([0, DAY_S]))
    await conn.execute("DELETE FROM refresh_due")
    text = next(file.sql for file in load_schema_files() if file.name == "0015_levels_timescale")
    await conn.execute("INSERT INTO refresh_due" + text.rpartition("INSERT INTO refresh_due")[2])
    due = await read_due(conn)
    assert due is not None and len(due.windows) == 1


# ---- retention --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("long_ago")
async def test_retention_sums_up_first_and_never_erases_levels(conn: type_connection, keeper: LevelKeeper) -> None:
    """Nor do later refreshes, or late bars in the stretch that is gone."""
    parts = seconds(range(0, 20 * DAY_S, 600))
    await store(conn, parts)
    await conn.execute("DELETE FROM refresh_due")  # as if policies had been late: nothing was summed up yet
    await apply_policies(conn, Wishes(3 * DAY, {}, {}, 10 * DAY))
    half = to_datetime(START) + 10 * DAY
    dropped = await drop_old_pieces(conn, "candles_1s", half)
    assert dropped.gone and not dropped.in_use
    left = int(await conn.fetchval("SELECT count(*) FROM candles_1s"))
    assert 0 < left < len(parts)
    await assert_levels(conn, parts)
    await store(conn, seconds([3], price=5))
    await keeper.round()
    await refresh_all_of(conn, Window(to_datetime(START) - 30 * DAY, half + 30 * DAY))
    await assert_levels(conn, parts)
    assert await notes(conn) == 0


@pytest.mark.usefixtures("long_ago")
async def test_seconds_wait_while_a_policy_or_a_note_still_needs_them(
    conn: type_connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store(conn, seconds([0]))
    dropped = await drop_old_pieces(conn, "candles_1s", FAR)
    assert (dropped.gone, len(dropped.in_use)) == ([], 1)  # noted
    await conn.execute("DELETE FROM refresh_due")
    await apply_policies(conn, Wishes(3 * DAY, {}, {}, None))
    dropped = await drop_old_pieces(conn, "candles_1s", FAR)
    assert (dropped.gone, len(dropped.in_use)) == ([], 1)  # refreshed from the beginning
    assert await conn.fetchval("SELECT count(*) FROM candles_1s") == 1
    await apply_policies(conn, Wishes(3 * DAY, {}, {}, 10 * DAY))
    assert len((await drop_old_pieces(conn, "candles_1s", FAR)).gone) == 1
