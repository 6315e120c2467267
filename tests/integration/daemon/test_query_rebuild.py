"""Bars that the query service computes anew from stored trades."""

from __future__ import annotations

import pytest

from desk import Desk, decoded, take_some
from lane import BTC, SECOND, START, trades
from marketd.daemon.kernel import COVERAGE_KIND, TRADE_KIND, coverage_record
from marketd.ipc.protocol import RebuildBars
from marketd.market.errors import UnknownInstrument
from marketd.market.records import CandleFlag, Coverage
from marketd.sql.profiles import Profile

# what differs between the profiles is below the statements, which test_sql_read.py tries on both
pytestmark = pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)


async def test_a_bar_is_computed_anew_from_all_its_stored_trades(desk: Desk) -> None:
    take_some(desk, 0)
    desk.daemon.take((TRADE_KIND, trades([(500, 77, 500, 1), (700, 78, 90, 1)])))
    await desk.commit(2)
    instrument = desk.daemon.registry.by_name(BTC.name).id
    request = RebuildBars(instrument=instrument, bars=[(60, START), (60, START + 3600 * SECOND)])
    answer, frames = await desk.ask(request)
    (rebuilt,) = decoded(answer.parts[0], frames[0])
    stored = (await desk.bars(bar_source="own"))[0]
    for name in ("ts", "open", "high", "low", "close", "volume", "quote_volume", "buy_volume", "trade_count", "source"):
        assert rebuilt[name] == stored[name], name
    assert rebuilt["flags"] & CandleFlag.REVISED
    assert not rebuilt["flags"] & CandleFlag.PARTIAL
    with pytest.raises(UnknownInstrument):
        await desk.ask(RebuildBars(instrument=5, bars=[]))


async def test_a_bar_is_not_computed_anew_when_some_of_its_trades_are_gone(desk: Desk) -> None:
    desk.daemon.take((TRADE_KIND, trades([(500, 1, 100, 1), (700, 2, 90, 1), (60_500, 3, 100, 1), (120_500, 4, 9, 1)])))
    await desk.commit(1)
    async with desk.database.acquire() as conn:
        await conn.execute("DELETE FROM trades WHERE trade_id = 1")  # as retention does, by the piece
    instrument = desk.daemon.registry.by_name(BTC.name).id
    answer, frames = await desk.ask(RebuildBars(instrument=instrument, bars=[(60, START), (60, START + 60 * SECOND)]))
    assert decoded(answer.parts[0], frames[0])["ts"].tolist() == [START + 60 * SECOND]


async def test_a_bar_is_whole_once_the_ledger_says_that_what_was_missing_was_fetched(desk: Desk) -> None:
    minute = 60 * SECOND
    desk.daemon.take((TRADE_KIND, trades([(500, 1, 100, 1), (60_500, 2, 100, 1), (120_500, 3, 100, 1)])))
    fetched = coverage_record(Coverage.BACKFILLED, START, START + minute, stream=TRADE_KIND.id)
    desk.daemon.take((COVERAGE_KIND, fetched))
    await desk.commit(2)
    instrument = desk.daemon.registry.by_name(BTC.name).id
    answer, frames = await desk.ask(RebuildBars(instrument=instrument, bars=[(60, START), (60, START + minute)]))
    flags = decoded(answer.parts[0], frames[0])["flags"] & CandleFlag.PARTIAL
    assert flags.tolist() == [0, CandleFlag.PARTIAL]
