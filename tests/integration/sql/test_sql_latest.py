"""The newest bar of many instruments: of rows and blocks together, by a number of statements that does not grow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from integration.conftest import Server
from lane import CANDLES, SECOND, START, bars
from marketd.market.records import CandleFlag, Records, Source
from marketd.sql import read_latest
from marketd.sql.connections import type_connection
from marketd.sql.profiles import Profile
from marketd.sql.read_latest import read_latest_bars
from packed import Lane, pack_all

on_postgres = pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)
FIRST = 65_537


class Counting:
    """A connection that counts what it is asked."""

    def __init__(self, conn: type_connection) -> None:
        self._conn = conn
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        self.asked += name in ("fetch", "fetchrow", "fetchval", "copy_from_query")
        return getattr(self._conn, name)


def seconds(numbers: list[int], price: int = 100, *, source: int = Source.OWN, flags: int = 0, seq: int) -> Records:
    return bars(numbers, price, timeframe=1, source=source, flags=flags, seq=seq)


async def newest(conn: Any, instruments: list[int], bar_source: str = "best") -> dict[int, tuple[int, int]]:
    """By instrument: which second, and its price."""
    found = await read_latest_bars(conn, instruments, 1, bar_source=bar_source)
    return {id_: (int(bar["ts"][0] - START) // SECOND, int(bar["close"][0])) for id_, bar in found.items()}


@on_postgres
async def test_the_newest_bar_is_that_of_rows_and_blocks_together(conn: type_connection) -> None:
    lane = Lane(conn)
    silent, woken, corrected, late, both, never = instruments = list(range(FIRST, FIRST + 6))
    for id_ in instruments[:-1]:
        await lane.commit((CANDLES, seconds([0, 1, 2], 100, seq=10 * id_)), instrument=id_)
    await lane.commit((CANDLES, seconds([1, 2], 200, source=Source.VENUE, seq=10 * both + 5)), instrument=both)
    await pack_all(conn, block_rows=2)
    assert await conn.fetchval("SELECT count(*) FROM candles_1s") == 0
    after = 10 * (FIRST + 10)
    await lane.commit((CANDLES, seconds([90_000], 300, seq=after)), instrument=woken)
    await lane.commit((CANDLES, seconds([2], 400, flags=CandleFlag.REVISED, seq=after)), instrument=corrected)
    await conn.execute("DELETE FROM candles_1s WHERE instrument_id = $1", late)
    await lane.commit((CANDLES, seconds([-30], 500, seq=after)), instrument=late)
    assert await newest(conn, instruments) == {
        silent: (2, 100),
        woken: (90_000, 300),
        corrected: (2, 400),
        late: (2, 100),
        both: (2, 100),
    }
    # of a source that the newest blocks do not have it is looked for further back
    await lane.commit((CANDLES, seconds([-5], 600, source=Source.IMPORT, seq=after + 5)), instrument=silent)
    await pack_all(conn, block_rows=1)
    assert await newest(conn, instruments, "venue") == {both: (2, 200)}
    assert await newest(conn, instruments, "import") == {silent: (-5, 600)}
    assert never not in await newest(conn, instruments, "own")


@on_postgres
async def test_a_source_that_newer_blocks_lack_is_found_in_few_steps_and_so_is_that_there_is_none(
    conn: type_connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = Lane(conn)
    count = 30
    for id_ in (FIRST, FIRST + 1):
        await lane.commit((CANDLES, seconds(list(range(count)), seq=100 * id_)), instrument=id_)
    await lane.commit((CANDLES, seconds([-5], 600, source=Source.VENUE, seq=1)), instrument=FIRST)
    await pack_all(conn, block_rows=1, tables=("candles_1s",))
    assert await conn.fetchval("SELECT count(*) FROM packed_blocks") == 2 * count + 1
    unpacked: list[bytes] = []
    whole = read_latest.unpacked_stretch

    def unpack(blocks: list[bytes], kind: Any) -> Records:
        unpacked.extend(blocks)
        return whole(blocks, kind)

    monkeypatch.setattr(read_latest, "unpacked_stretch", unpack)
    await newest(conn, [FIRST])  # whether anything may be packed a session asks once
    unpacked.clear()
    asked = {}
    for source in ("own", "venue", "import"):
        counting = Counting(conn)
        found = await newest(counting, [FIRST, FIRST + 1], source)
        own = dict.fromkeys((FIRST, FIRST + 1), (count - 1, 100))
        assert found == {"own": own, "venue": {FIRST: (-5, 600)}, "import": {}}[source]
        asked[source] = counting.asked
    assert len(unpacked) == 2 + 1
    assert max(asked.values()) <= asked["own"] + 4  # 1, 4, 16 and 64 blocks; the last of each instrument by itself


async def test_many_silent_instruments_cost_no_statement_more_than_one(
    conn: type_connection, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = Lane(conn, server.profile)
    many = list(range(FIRST, FIRST + 20))
    records = np.concatenate([seconds([0, 1], seq=2 * place + 1) for place in range(len(many))])
    for place, id_ in enumerate(many):
        await lane.commit((CANDLES, records[2 * place : 2 * place + 2]), instrument=id_)
    if server.profile is Profile.POSTGRES:
        await pack_all(conn, tables=("candles_1s",))
    await newest(conn, many)  # whether anything may be packed a session asks once
    asked = []
    for some in (many[:1], many, [*many, 9]):
        counting = Counting(conn)
        assert len(await newest(counting, some)) == len(some) - (9 in some)
        asked.append(counting.asked)
    assert asked[0] == asked[1]
    assert asked[2] <= asked[0] + 1, "who never spoke is looked for over all of time, but no more than once"
    monkeypatch.setattr(read_latest, "_BLOCKS_AT_ONCE", 3)
    assert await newest(conn, many) == {id_: (1, 100) for id_ in many}
