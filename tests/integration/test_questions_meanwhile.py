"""Questions that are asked while the database is at work on what they ask for: each answer is that of before or after.

Packing, compressing, merging of late rows and new versions, summing up and retention run beside askers with
connections of their own; final, and as known at a moment. What was before, and what is after, is the naive model's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import numpy as np
import pytest

from book_lane import buckets
from integration.conftest import Server
from integration.two_markets import DAY_NS, EDGE_NS, HAND, TwoMarkets, let_pieces_be_old, told
from lane import CANDLES, FUNDING, KINDS, SECOND, bars, trades
from marketd.client.requests import decode_part
from marketd.daemon.kernel import TRADE_KIND
from marketd.ipc.protocol import Bars, Rows
from marketd.market.records import BY_NAME, CandleFlag, Records, Source
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.packed_tables import from_ns
from marketd.sql.picture import one_picture
from marketd.sql.read import Span, read_bars
from marketd.sql.retention import drop_old_pieces
from marketd.sql.series import ensure_series_table
from naive import Asked
from support import eventually_async

START_NS = EDGE_NS - DAY_NS  # a whole day of every table's pieces, which end at the edge
ASKERS = 2
BUCKETS = BY_NAME["buckets"]


@pytest.fixture
async def markets(
    database: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[TwoMarkets]:
    let_pieces_be_old(monkeypatch)
    async with DatabaseConnectionManager(database, actor="test", max_size=ASKERS + 4) as connections:
        async with connections.acquire() as conn:
            await ensure_series_table(conn, FUNDING.name, dict(FUNDING.fields))
        markets = TwoMarkets(connections, server.profile, tmp_path)
        await markets.begin()
        yield markets
        markets.close()


def at(numbers: range) -> Any:
    """These seconds of the day."""
    return START_NS + np.array(numbers) * SECOND


def seconds(numbers: range, price: int = 100, flags: int = 0) -> Records:
    records = bars(numbers, price, timeframe=1, source=Source.OWN, flags=flags)
    records["ts"] = at(numbers)
    return records


def some_trades(numbers: range) -> Records:
    records = trades([(0, number, 100, 1) for number in numbers])
    records["ts_event"] = at(numbers)
    return records


def everything(numbers: range) -> list[tuple[Any, Records]]:
    second = buckets([(0, 100)] * len(numbers), 1)
    second["ts"] = at(numbers)
    return [(CANDLES, seconds(numbers)), (TRADE_KIND, some_trades(numbers)), (BUCKETS, second)]


class Question(NamedTuple):
    stream: str  # "" asks for bars
    known_at: int | None = None
    timeframes: tuple[int, ...] = ()

    async def answer(self, markets: TwoMarkets) -> tuple[list[list[bytes]], Any]:
        """The records that come, in some order, and what the answer says of itself."""
        span: dict[str, Any] = {"start": START_NS, "end": EDGE_NS, "known_at": self.known_at}
        request = (
            Rows(symbol=HAND, stream=self.stream, timeframe=1 if self.stream == "buckets" else None, **span)
            if self.stream
            else Bars(symbol=HAND, timeframes=list(self.timeframes), bar_source="own", **span)
        )
        found, frames = await markets.services[1].answer(request)
        parts = zip(found.parts, frames, strict=True)
        records = [decode_part(KINDS.by_name(part.kind), part, frame) for part, frame in parts]
        return [sorted(record.tobytes() for record in each) for each in records], told(found.meta)

    async def check(self, markets: TwoMarkets) -> None:
        """It is what the model says."""
        asked = Asked(START_NS, EDGE_NS, self.known_at, None, True)
        if self.stream:
            await markets.check_rows(self.stream, 1 if self.stream == "buckets" else None, asked, "records")
        else:
            await markets.check_bars(self.timeframes, 1, asked, "own", "records")


def questions(known_at: int) -> list[Question]:
    moments = (None, known_at)
    return [
        *(Question("", at, (1, 60)) for at in moments),
        *(Question("trade", at) for at in moments),
        Question("buckets"),
    ]


async def asked_while(
    markets: TwoMarkets, asked: list[Question], work: Callable[[], Awaitable[Any]]
) -> list[tuple[Question, Any]]:
    """All answers that came while the work was done."""
    seen: list[tuple[Question, Any]] = []
    is_over = asyncio.Event()

    async def ask(place: int) -> None:
        while not is_over.is_set():
            question = asked[place % len(asked)]
            place += ASKERS
            seen.append((question, await question.answer(markets)))

    async with asyncio.TaskGroup() as tasks:
        for place in range(ASKERS):
            tasks.create_task(ask(place))
        await work()
        is_over.set()
    return seen


async def test_answers_are_of_before_or_of_after_whatever_is_at_work(markets: TwoMarkets) -> None:
    await markets.offer(everything(range(0, 200, 2)))
    asked = questions(markets.known[-1])
    late = everything(range(1, 200, 60))
    corrected = [(CANDLES, seconds(range(0, 200, 4), 200, CandleFlag.REVISED))]
    works: list[Callable[[], Awaitable[Any]]] = [
        lambda: markets.close_stretches(40),
        lambda: markets.offer(late),
        lambda: markets.offer(corrected),
        lambda: markets.close_stretches(0),
        lambda: markets.age("trades", 0),
    ]
    before = {question: await question.answer(markets) for question in asked}
    for number, work in enumerate(works):
        seen = await asked_while(markets, asked, work)
        after = {}
        for question in asked:
            await question.check(markets)
            after[question] = await question.answer(markets)
        neither = {question for question, answer in seen if answer not in (before[question], after[question])}
        assert not neither, number
        before = after


async def test_who_asks_while_a_piece_is_dropped_hears_that_it_is_gone(markets: TwoMarkets, database: str) -> None:
    """He waits for the drop: his picture may not be of before it, as what he reads is of after it."""
    await markets.offer([(TRADE_KIND, some_trades(range(10)))])
    question = Question("trade")
    other = await asyncpg.connect(database, server_settings={"search_path": "marketd, public"})
    transaction = other.transaction()
    await transaction.start()
    assert (await drop_old_pieces(other, "trades", from_ns(EDGE_NS))).gone
    asking = asyncio.create_task(question.answer(markets))
    await eventually_async(lambda: _waits(other))
    await transaction.commit()
    records, (coverage, _) = await asking
    assert (records, coverage) == ([[]], "expired")
    await other.close()


async def test_no_piece_is_dropped_under_an_answer_that_has_begun(markets: TwoMarkets) -> None:
    await markets.offer([(TRADE_KIND, some_trades(range(10)))])
    deadline = asyncio.get_running_loop().time() + 60
    async with one_picture(markets.database, deadline) as reading, markets.database.acquire() as conn:
        assert await reading.fetchval("SELECT count(*) FROM expired") == 0
        dropped = await drop_old_pieces(conn, "trades", from_ns(EDGE_NS))
        assert not dropped.gone and dropped.in_use
        assert await reading.fetchval("SELECT count(*) FROM trades") == 10
    async with markets.database.acquire() as conn:
        assert (await drop_old_pieces(conn, "trades", from_ns(EDGE_NS))).gone


@pytest.mark.parametrize("again", ["late", "corrected"])
async def test_an_answer_that_has_begun_sees_all_rows_of_what_is_packed_again(markets: TwoMarkets, again: str) -> None:
    await markets.offer([(CANDLES, seconds(range(0, 60, 2)))])
    await markets.close_stretches(0)
    numbers, flags = (range(1, 60, 20), 0) if again == "late" else (range(0, 60, 4), CandleFlag.REVISED)
    await markets.offer([(CANDLES, seconds(numbers, 200, flags))])
    deadline = asyncio.get_running_loop().time() + 60
    instrument = markets.hand.instrument.id
    async with one_picture(markets.database, deadline) as reading:
        before = await reading.fetchval("SELECT count(*) FROM instruments")
        await markets.close_stretches(0)
        found = (await read_bars(reading, instrument, 1, Span(START_NS, EDGE_NS))).records()
    assert before and len(found) == (33 if again == "late" else 30)
    assert sorted(set(found["close"].tolist())) == [100, 200]


async def _waits(conn: Any) -> bool:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return bool(await conn.fetchval(waiting))
