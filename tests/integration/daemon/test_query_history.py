"""Answers about what is over, from the database alone: what retention dropped of it is said, and hides nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from book_lane import books
from integration.conftest import Server
from integration.two_markets import EDGE_NS, TwoMarkets, let_pieces_be_old
from lane import CANDLES, FUNDING, SECOND, bars, trades
from marketd.daemon.kernel import TRADE_KIND
from marketd.ipc.protocol import Bars, LatestBars, Rows
from marketd.market.records import BY_NAME, CandleFlag, Records, Source
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.profiles import Profile
from marketd.sql.series import ensure_series_table

on_timescale = pytest.mark.parametrize("server", [Profile.TIMESCALE], indirect=True, ids=str)
BEFORE = EDGE_NS - 3600 * SECOND  # in the piece that `age` drops


@pytest.fixture
async def markets(
    connections: DatabaseConnectionManager, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[TwoMarkets]:
    let_pieces_be_old(monkeypatch)
    async with connections.acquire() as conn:
        await ensure_series_table(conn, FUNDING.name, dict(FUNDING.fields))
    markets = TwoMarkets(connections, server.profile, tmp_path)
    await markets.begin()
    yield markets
    markets.close()


def seconds(start: int, *numbers: int, price: int = 100, flags: int = 0) -> Records:
    """Own bars of a second."""
    records = bars(numbers, price, timeframe=1, source=Source.OWN, flags=flags)
    records["ts"] = start + np.array(numbers) * SECOND
    return records


async def minutes(markets: TwoMarkets, start: int, end: int | None, **options: Any) -> tuple[list[int], Any]:
    """Bars of a minute made of those of a second: their times, and what the answer says of itself."""
    request = Bars(symbol="HAND", timeframes=[60], start=start, end=end, **{"bar_source": "own", **options})
    answer, (data,) = await markets.services[1].answer(request)
    return np.frombuffer(data, CANDLES.dtype)["ts"].tolist(), answer.meta


@pytest.mark.parametrize("closed", [False, True])
async def test_a_bar_whose_last_seconds_are_quiet_is_closed_by_what_comes_after_it(
    markets: TwoMarkets, closed: bool
) -> None:
    await markets.offer([(CANDLES, seconds(EDGE_NS, 0, 10, 70, 200))])
    if closed:
        await markets.close_stretches(0)
    minute = 60 * SECOND
    for known_at in (None, markets.known[-1]):
        options = {"known_at": known_at, "bar_source": "best", "format": "packed"}
        assert (await minutes(markets, EDGE_NS, EDGE_NS + minute, **options))[0] == [EDGE_NS]
        assert (await minutes(markets, EDGE_NS, EDGE_NS + 2 * minute, **options))[0] == [EDGE_NS, EDGE_NS + minute]
        # the last one may still be forming, and a bound does not end it
        for end in (EDGE_NS + 4 * minute, None):
            assert (await minutes(markets, EDGE_NS + 3 * minute, end, **options))[0] == []


async def test_bars_made_of_dropped_ones_are_expired_unless_the_database_had_made_them(markets: TwoMarkets) -> None:
    await markets.offer([(CANDLES, seconds(BEFORE, 0, 70, 130)), (CANDLES, seconds(EDGE_NS, 0, 70))])
    await markets.age("candles_1s", 0)
    found, meta = await minutes(markets, BEFORE, EDGE_NS + 60 * SECOND, known_at=markets.known[-1])
    assert (found, meta.coverage) == ([EDGE_NS], "expired")
    assert meta.gaps[0][0] == BEFORE and meta.gaps[-1][1] == EDGE_NS
    _, meta = await minutes(markets, BEFORE + 1, BEFORE + 2 * SECOND, known_at=markets.known[-1])
    assert meta.coverage == "expired", "no bar begins there, and yet it is a part of what was asked for"
    found, meta = await minutes(markets, BEFORE, EDGE_NS + 60 * SECOND)
    if markets.profile is Profile.TIMESCALE:
        assert found == [BEFORE, BEFORE + 60 * SECOND, BEFORE + 120 * SECOND, EDGE_NS]
        assert (meta.coverage, meta.gaps) == ("observed", [])
    else:
        assert (found, meta.coverage) == ([EDGE_NS], "expired")


@on_timescale
async def test_a_late_second_of_a_dropped_stretch_hides_no_longer_bar_of_it(markets: TwoMarkets) -> None:
    await markets.offer([(CANDLES, seconds(BEFORE, 0, 70, 130))])
    await markets.age("candles_1s", 0)
    whole = [BEFORE, BEFORE + 60 * SECOND, BEFORE + 120 * SECOND]
    assert (await minutes(markets, BEFORE, EDGE_NS))[0] == whole
    await markets.offer([(CANDLES, seconds(BEFORE, 5))])
    await markets.sum_up()
    assert (await minutes(markets, BEFORE, EDGE_NS))[0] == whole


@pytest.mark.parametrize("closed", [False, True])
async def test_with_a_dropped_bar_go_the_versions_that_it_replaced(markets: TwoMarkets, closed: bool) -> None:
    for at in (BEFORE, EDGE_NS):
        await markets.offer([(CANDLES, seconds(at, 0))])
        await markets.offer([(CANDLES, seconds(at, 0, price=200, flags=int(CandleFlag.REVISED)))])
    if closed:
        await markets.close_stretches(0)
    await markets.age("candles_1s", 0)
    request = Bars(symbol="HAND", timeframes=[1], bar_source="own", known_at=markets.known[-1], start=BEFORE)
    answer, (data,) = await markets.services[60].answer(request)
    found = np.frombuffer(data, CANDLES.dtype)
    assert (found["ts"].tolist(), found["open"].tolist()) == ([EDGE_NS], [200])
    assert answer.meta.coverage == "expired"
    async with markets.database.acquire() as conn:
        assert await conn.fetchval("SELECT count(*) FROM candle_versions") == 1


async def test_who_asks_for_a_moment_whose_versions_of_bars_are_gone_is_told(markets: TwoMarkets) -> None:
    await markets.offer([(CANDLES, seconds(BEFORE, 0))])
    first = markets.known[-1]
    await markets.offer([(CANDLES, seconds(BEFORE, 0, price=200, flags=int(CandleFlag.REVISED)))])
    await markets.age("candle_versions", 0)
    await markets.offer([(CANDLES, seconds(EDGE_NS, 0))])
    for known_at, count, coverage in ((first, 0, "expired"), (markets.known[-1], 1, "observed"), (None, 1, "observed")):
        request = Bars(symbol="HAND", timeframes=[1], start=BEFORE, end=EDGE_NS, known_at=known_at)
        answer, _ = await markets.services[60].answer(request)
        assert (answer.parts[0].count, answer.meta.coverage) == (count, coverage), known_at


@pytest.mark.parametrize("known", [False, True])
async def test_an_answer_that_has_lost_all_its_rows_says_so(markets: TwoMarkets, known: bool) -> None:
    records = trades([(0, 1, 100, 1)])
    records["ts_event"] = BEFORE
    snapshot = books([(0, 99, 101)])
    snapshot["ts_event"] = BEFORE
    await markets.offer([(TRADE_KIND, records), (BY_NAME["book"], snapshot)])
    asked: list[dict[str, Any]] = [
        {"stream": "trade"},
        {"stream": "book"},
        {"stream": "book", "timeframe": 60},
    ]

    async def worth(**options: Any) -> tuple[int, Any, Any]:
        known_at = markets.known[-1] if known else None
        answer, _ = await markets.services[60].answer(Rows(symbol="HAND", start=BEFORE, known_at=known_at, **options))
        return answer.parts[0].count, answer.meta.coverage, answer.meta.gaps

    for options in asked:
        assert await worth(end=EDGE_NS, **options) == (1, "observed", [])
    await markets.age("trades", 0)
    await markets.age("book_snapshots", 0)
    for options in asked:
        assert await worth(end=EDGE_NS, **options) == (0, "expired", [(BEFORE, EDGE_NS)])
        assert await worth(**options) == (0, "expired", [(BEFORE, EDGE_NS)])


async def test_the_newest_bar_of_a_silent_instrument_is_found_where_it_is_packed(markets: TwoMarkets) -> None:
    await markets.offer([(CANDLES, seconds(EDGE_NS, 0, 10))])
    await markets.close_stretches(0)

    async def latest() -> list[int]:
        _, (data,) = await markets.services[60].answer(LatestBars(timeframe=1))
        found: list[int] = np.frombuffer(data, CANDLES.dtype)["ts"].tolist()
        return found

    assert await latest() == [EDGE_NS + 10 * SECOND]
    await markets.offer([(CANDLES, seconds(EDGE_NS, 5))])  # a late one lies beside the block, and is not the newest
    assert await latest() == [EDGE_NS + 10 * SECOND]
