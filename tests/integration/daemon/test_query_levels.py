"""Bars of timeframes that are not stored, on TimescaleDB: its longer bars, and what late or uncommitted ones change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lane import BTC, CANDLES, KINDS, SECOND, START, bars, observed, trades
from marketd.daemon import query_bars
from marketd.daemon.kernel import COVERAGE_KIND, TRADE_KIND
from marketd.daemon.level_keeper import LevelKeeper
from marketd.daemon.query import QueryService
from marketd.daemon.settings import Config
from marketd.daemon.writer import Writer
from marketd.ipc.journal_reader import JournalReader
from marketd.ipc.protocol import Bars
from marketd.market.aggregate import aggregate
from marketd.market.records import Records, Source
from marketd.market.rows import codec
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.profiles import Profile
from small_daemon import SmallDaemon

pytestmark = pytest.mark.parametrize("server", [Profile.TIMESCALE], indirect=True, ids=str)

CONFIG = Config(instance="test", timeframes=("1s",), default_venue="BINANCE")


class Desk:
    """A daemon of bars of a second alone, its database, the keeper of longer bars, and the service between them."""

    def __init__(self, daemon: SmallDaemon, database: DatabaseConnectionManager) -> None:
        self.daemon, self.database = daemon, database
        config = msgspec.structs.replace(CONFIG, state_dir=str(daemon.state))
        self.service = QueryService(database, config, KINDS, daemon.runtime)
        self.keeper = LevelKeeper(database)
        self.newest = 0

    def take(self, *rows: tuple[int, int, int]) -> None:
        """Trades: (s, id, price)."""
        self.newest = max(self.newest, START + max(row[0] for row in rows) * SECOND)
        for few in (rows[at : at + 20] for at in range(0, len(rows), 20)):  # a small journal takes small frames
            self.daemon.take((TRADE_KIND, trades([(at * 1000, number, price, 5) for at, number, price in few])))

    async def commit(self, lots: int | None = None) -> None:
        async def told(_: int) -> None:
            pass

        assert self.daemon.journal.wait_durable(self.daemon.journal.end, 10)
        with JournalReader(self.daemon.state / "journal") as reader:
            writer = Writer(
                self.database, reader, KINDS, lane="live", batch_bytes=1, batch_age_seconds=0, committed=told
            )
            await writer.start()
            writer.on_durable(self.daemon.lots[-1 if lots is None else lots - 1][1])
            await writer.drain()

    async def bars(self, timeframe: int, **options: Any) -> Records:
        request = Bars(symbol=BTC.name, timeframes=[timeframe], **options)
        answer, frames = await self.service.answer(request)
        part = answer.parts[0]
        if part.encoding == "copy":
            found: Records = codec(part.table, CANDLES).decode(frames[0])[1]
            return found[np.argsort(found["ts"])]
        return np.frombuffer(frames[0], dtype=CANDLES.dtype)

    async def expected(self, timeframe: int, source: str = "own") -> Records:
        """What the bars of a second make, but for what still forms."""
        made = aggregate(await self.bars(1, bar_source=source), timeframe)
        return made[made["ts"] + timeframe * SECOND <= self.newest - CONFIG.grace]


@pytest.fixture
async def database(database: str) -> AsyncIterator[DatabaseConnectionManager]:
    async with DatabaseConnectionManager(database, actor="query-test") as manager:
        yield manager


@pytest.fixture
async def desk(database: DatabaseConnectionManager, tmp_path: Path, runtime_dir: Path) -> AsyncIterator[Desk]:
    daemon = SmallDaemon(tmp_path, runtime_dir, timeframes=(1,))
    daemon.declare(BTC)
    daemon.take((COVERAGE_KIND, observed(0)))
    desk = Desk(daemon, database)
    yield desk
    desk.service.close()
    desk.daemon.stop()


async def assert_same(desk: Desk, *timeframes: int, source: str = "own") -> None:
    for timeframe in timeframes:
        found, expected = await desk.bars(timeframe, bar_source=source), await desk.expected(timeframe, source)
        assert found.tobytes() == expected.tobytes(), timeframe


async def test_longer_bars_come_from_the_database_and_equal_the_bars_of_seconds(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.take(*((at, at + 1, 100 + at % 37) for at in range(0, 3500, 17)))
    await desk.commit()
    await assert_same(desk, 60, 300, 1800, 3600)
    await desk.keeper.round()
    await assert_same(desk, 60, 300, 1800, 3600)

    asked: list[Any] = []
    whole = query_bars._stored_bars

    async def watched(*args: Any) -> Any:
        asked.append(args[3])
        return await whole(*args)

    monkeypatch.setattr(query_bars, "_stored_bars", watched)
    found = await desk.bars(300, bar_source="own", limit=3)
    assert found["ts"].tolist() == (await desk.expected(300))["ts"][-3:].tolist()
    assert asked[0].start > found["ts"][-1]  # of seconds only those of the forming bar are read
    assert len(await desk.bars(120, start=START + 600 * SECOND, end=START + 1200 * SECOND)) == 5


async def test_a_late_trade_counts_at_every_moment_of_its_way(desk: Desk) -> None:
    desk.take(*((at, at + 1, 100) for at in range(0, 1200, 90)))
    await desk.commit()
    await desk.keeper.round()
    desk.take((305, 9000, 777))
    assert 777 in (await desk.bars(300, bar_source="own"))["high"]  # in shared memory alone
    await assert_same(desk, 60, 300)
    await desk.commit()
    await assert_same(desk, 60, 300)  # committed, and noted as due
    await desk.keeper.round()
    await assert_same(desk, 60, 300)
    assert 777 in (await desk.bars(300, bar_source="own"))["high"]


async def test_where_other_sources_have_seconds_the_best_ones_are_computed(desk: Desk) -> None:
    desk.take(*((at, at + 1, 100) for at in range(0, 600, 10)))
    desk.daemon.take((CANDLES, bars(range(3, 5), 999, timeframe=1, source=Source.VENUE)))
    await desk.commit()
    await desk.keeper.round()
    await assert_same(desk, 60, source="own")
    await assert_same(desk, 60, source="best")
    assert (await desk.bars(60))["high"][0] == 999
    assert (await desk.bars(60, bar_source="venue"))["high"].tolist() == [999]


async def test_bars_whose_seconds_are_gone_are_still_answered(desk: Desk) -> None:
    desk.take(*((at, at + 1, 100 + at) for at in range(0, 600, 10)))
    await desk.commit()
    await desk.keeper.round()
    expected = await desk.expected(60)
    async with desk.database.acquire() as conn:
        await conn.execute("SELECT drop_chunks('candles_1s', newer_than => '2000-01-01'::timestamptz)")
    found = await desk.bars(60, bar_source="own", start=START, end=START + 540 * SECOND)
    assert found.tobytes() == expected[expected["ts"] < START + 540 * SECOND].tobytes()


async def test_as_known_then_is_computed_from_the_versions_of_then(desk: Desk) -> None:
    desk.take(*((at, at + 1, 100) for at in range(0, 1200, 90)))
    await desk.commit()
    await desk.keeper.round()
    before = desk.daemon.known
    desk.take((305, 9000, 777))
    await desk.commit()
    await desk.keeper.round()
    assert 777 in (await desk.bars(60, bar_source="own"))["high"]
    assert 777 not in (await desk.bars(60, bar_source="own", known_at=before))["high"]
