"""The background work that packs: what is closed and was not stored lately; what fails costs no other instrument."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from book_lane import stamped
from lane import BTC, trades
from marketd.daemon.config import convert
from marketd.daemon.kernel import TRADE_KIND
from marketd.daemon.packing import BlockPacker
from marketd.daemon.settings import Config
from marketd.market.errors import ConfigError
from marketd.sql import retention
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.profiles import Profile
from marketd.sql.retention import drop_old_pieces
from packed import Lane
from support import eventually_async

on_postgres = pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)
NEVER = datetime(2200, 1, 1, tzinfo=UTC)
EMPTY: Any = Config()


@pytest.fixture
def long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all partitions had been made when 1970 began."""
    whole = retention.pieces_of_table

    async def found(conn: Any, table: str) -> list[retention.Piece]:
        return [piece._replace(made=datetime(1970, 1, 1, tzinfo=UTC)) for piece in await whole(conn, table)]

    monkeypatch.setattr("marketd.daemon.packing.pieces_of_table", found)


async def store(connections: DatabaseConnectionManager, *instruments: int) -> None:
    async with connections.acquire() as conn:
        lane = Lane(conn)
        for instrument in instruments:
            records = stamped(trades([(ms, ms, 100, 5) for ms in range(0, 90_000, 1000)]), 1)
            await lane.commit((TRADE_KIND, records), instrument=instrument)


async def count(connections: DatabaseConnectionManager, table: str) -> int:
    async with connections.acquire() as conn:
        found: int = await conn.fetchval(f"SELECT count(*) FROM {table}")
    return found


@on_postgres
@pytest.mark.usefixtures("long_ago")
async def test_what_is_closed_is_packed_and_its_partitions_go(connections: DatabaseConnectionManager) -> None:
    await store(connections, BTC.id, BTC.id + 1)
    assert await BlockPacker(connections, EMPTY).round() == 180
    assert await count(connections, "trades") == 0
    assert await count(connections, "packed_blocks") == 4  # two days of two instruments
    async with connections.acquire() as conn:
        assert await retention.pieces_of_table(conn, "trades") == []
        # and a writer that meets no partition makes it anew
    await store(connections, BTC.id + 2)
    assert await count(connections, "trades") == 90


@on_postgres
async def test_what_was_stored_lately_is_not_packed_whatever_its_time(connections: DatabaseConnectionManager) -> None:
    await store(connections, BTC.id)
    assert await BlockPacker(connections, EMPTY).round() == 0


@on_postgres
@pytest.mark.usefixtures("long_ago")
async def test_one_instrument_that_cannot_be_packed_does_not_keep_the_others(
    connections: DatabaseConnectionManager, caplog: pytest.LogCaptureFixture
) -> None:
    await store(connections, BTC.id, BTC.id + 1)
    packer = BlockPacker(connections, EMPTY)
    await packer.round()
    async with connections.acquire() as conn:
        await conn.execute("UPDATE packed_blocks SET data = 'rust' WHERE instrument_id = $1", BTC.id)
        for instrument in (BTC.id, BTC.id + 1):
            late = stamped(trades([(ms, 10**6 + ms, 100, 5) for ms in range(500, 50_000, 1000)]), 500)
            await Lane(conn).commit((TRADE_KIND, late), instrument=instrument)
    assert await packer.round() == 50
    assert await count(connections, "trades") == 50  # which wait for their block to be mended
    actions = [getattr(record, "action", "") for record in caplog.records]
    assert actions.count("block_unreadable") == actions.count("packing_failed") == 1


@on_postgres
@pytest.mark.usefixtures("long_ago")
async def test_retention_drops_blocks_by_their_age_and_not_those_packed_lately(
    connections: DatabaseConnectionManager,
) -> None:
    await store(connections, BTC.id)
    await BlockPacker(connections, EMPTY).round()
    async with connections.acquire() as conn:
        lately = await drop_old_pieces(conn, "trades", datetime.now(UTC).replace(year=2025))
        assert lately.gone == []
        assert len((await drop_old_pieces(conn, "trades", NEVER)).gone) == 2
    assert await count(connections, "packed_blocks") == 0


@on_postgres
async def test_a_changed_setting_begins_or_ends_the_packing(
    connections: DatabaseConnectionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[bool] = []

    async def round_(self: BlockPacker) -> int:
        rounds.append(self._storage.pack)
        return 0

    monkeypatch.setattr(BlockPacker, "round", round_)
    packer = BlockPacker(connections, EMPTY)
    task = asyncio.create_task(packer.run())
    await eventually_async(lambda: len(rounds) == 1)
    packer.change(EMPTY)
    await eventually_async(lambda: len(rounds) == 2)
    packer.change(msgspec.structs.replace(EMPTY, storage=msgspec.structs.replace(EMPTY.storage, pack=False)))
    await task
    assert rounds == [True, True]


@pytest.mark.parametrize("server", [Profile.TIMESCALE], indirect=True, ids=str)
async def test_where_timescale_compresses_nothing_is_packed(connections: DatabaseConnectionManager) -> None:
    await BlockPacker(connections, EMPTY).run()


def test_a_day_that_still_changes_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"storage\.pack_after.*1h or more"):
        convert({"storage": {"pack_after": "5min"}})
