"""A packer that is killed at any of its steps loses nothing and stores nothing twice; the next one goes on."""

from __future__ import annotations

from typing import Any

import asyncpg
import numpy as np
import pytest

from book_lane import stamped
from lane import BTC, CANDLES, SECOND, START, bars, trades
from marketd.daemon.kernel import TRADE_KIND
from marketd.market.records import CandleFlag, Records
from marketd.sql.connections import type_connection
from marketd.sql.packed_tables import PACKED_TABLES
from marketd.sql.packing import Place, pack_next
from marketd.sql.profiles import Profile
from marketd.sql.read import Span, read_bars, read_rows
from marketd.sql.store import to_datetime
from packed import KNOWN, Lane, pack_all

pytestmark = pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)
DAY = 86_400 * SECOND
_STEPS = ("execute", "executemany", "fetch", "fetchrow", "fetchval", "copy_from_query", "copy_to_table")


class Mortal:
    """A connection whose process is killed in the place of its n-th statement."""

    def __init__(self, conn: Any, statements: int) -> None:
        self._conn, self._left = conn, statements

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._conn, name)
        return self._until_dead(found) if name in _STEPS else found

    def _until_dead(self, method: Any) -> Any:
        async def call(*args: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                self._conn.terminate()
            return await method(*args, **options)

        return call


async def answer(conn: type_connection) -> list[bytes]:
    found: list[Records] = [(await read_rows(conn, BTC.id, TRADE_KIND, Span())).records()]
    moments = (None, KNOWN, KNOWN + SECOND)
    found += [(await read_bars(conn, BTC.id, 1, Span(), known_at=known_at)).records() for known_at in moments]
    return [records[np.lexsort((records["seq"], records[records.dtype.names[0]]))].tobytes() for records in found]


@pytest.mark.parametrize("is_packed_before", [False, True], ids=["rows", "rows and a block"])
async def test_a_packer_killed_at_any_step_loses_nothing_and_repeats_nothing(
    conn: type_connection, database: str, is_packed_before: bool
) -> None:
    lane = Lane(conn)
    await lane.commit((TRADE_KIND, stamped(trades([(ms, ms, 100, 5) for ms in range(0, 5000, 100)]), 1)))
    await lane.commit((CANDLES, stamped(bars(range(50), timeframe=1, source=1), 100)))
    if is_packed_before:
        await pack_all(conn)
        await lane.commit((TRADE_KIND, stamped(trades([(ms, 9 * ms, 100, 5) for ms in range(50, 3000, 100)]), 200)))
        revised = bars(range(10, 20), 107, timeframe=1, source=1, flags=CandleFlag.REVISED)
        await lane.commit((CANDLES, stamped(revised, 300, KNOWN + SECOND)))
    before = await answer(conn)
    start = to_datetime(START // DAY * DAY)
    for table in ("trades", "candles_1s"):
        place, deaths = Place(PACKED_TABLES[table], BTC.id), 0
        while True:
            victim = await asyncpg.connect(database, server_settings={"search_path": "marketd"})
            try:
                end = to_datetime(START // DAY * DAY + DAY)
                if await pack_next(Mortal(victim, deaths), place, start, end) is not None:
                    break  # None: the server has not noticed yet that the last one is dead, and keeps its lock
            except (asyncpg.InterfaceError, asyncpg.PostgresConnectionError, OSError):
                assert await answer(conn) == before
                deaths += 1
            finally:
                victim.terminate()
        assert deaths >= 8  # every statement was one
        assert await answer(conn) == before
    assert await conn.fetchval("SELECT count(*) FROM trades") == 0
    assert await conn.fetchval("SELECT count(*) FROM packed_blocks") == 2
