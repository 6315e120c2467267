"""Questions that take too long, are too large, or whose caller leaves; the newest of all; pages; a replica."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import numpy as np
import pytest
import zmq
import zmq.asyncio

from desk import Desk, take_some
from lane import BTC, CANDLES, MS, SECOND, START, bars, trades
from marketd.client.calls import Plan
from marketd.client.catalogue import Catalogue
from marketd.client.latest import latest_ohlcv
from marketd.client.paging import BarPager, RowPager
from marketd.client.requests import rows
from marketd.daemon import query_instruments
from marketd.daemon.departures import Departures, connection_of
from marketd.daemon.kernel import TRADE_KIND
from marketd.daemon.query_servers import Servers
from marketd.ipc import protocol
from marketd.ipc.protocol import Bars, LatestBars, Rows
from marketd.market.errors import AnswerTooLarge, InvalidArgument, Timeout
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.copy import copy_out
from marketd.sql.picture import one_picture
from marketd.sql.profiles import Profile
from support import eventually_async

pytestmark = pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)
ETH = msgspec.structs.replace(BTC, id=BTC.id + 1, symbol="ETHUSDT", base="ETH")


async def run(desk: Desk, plan: Plan[Any]) -> Any:
    """Drive a client's plan against the service, without sockets; the number of its requests is counted."""
    try:
        call = next(plan)
        while True:
            try:
                message, payloads = await desk.service.answer(call.message)
            except AnswerTooLarge as error:
                call = plan.throw(error)
                continue
            call = plan.send(protocol_reply(message, payloads))
    except StopIteration as end:
        return end.value


def protocol_reply(message: Any, payloads: list[Any]) -> Any:
    from marketd.client.calls import Reply

    return Reply(protocol.Decoder(protocol.FromQuery).decode(protocol.encode(message)), payloads, 1)


async def all_pages(desk: Desk, pager: Any) -> list[Any]:
    found = []
    while (frame := await run(desk, pager.next())) is not None:
        found.append(frame)
    return found


# ---- time -------------------------------------------------------------------------------------------


async def test_a_statement_ends_at_its_requests_deadline_and_the_connection_goes_on(desk: Desk) -> None:
    with pytest.raises(Timeout, match=r"ended a statement .* after 0\.[12]"):
        async with one_picture(desk.database, time.monotonic() + 0.2) as conn:
            await conn.fetchval("SELECT pg_sleep(30)")
    with pytest.raises(Timeout, match="deadline passed"):
        async with one_picture(desk.database, time.monotonic() - 1):
            raise AssertionError("there was no time left")
    async with one_picture(desk.database, time.monotonic() + 60, 0.05) as conn:
        assert await conn.fetchval("SHOW statement_timeout") == "50ms"
    assert desk.database.statistics().failures == 0


async def test_a_picture_begins_with_its_first_statement_and_ends_by_itself(database: str) -> None:
    async with (
        DatabaseConnectionManager(database, max_size=1) as manager,
        DatabaseConnectionManager(database) as others,
        others.acquire() as other,
    ):
        for first in (copy_out, asyncpg.Connection.fetchval):
            async with one_picture(manager, time.monotonic() + 60) as conn:
                assert not conn.is_in_transaction()
                settings = await first(conn, "SELECT current_setting('transaction_isolation')")
                assert "repeatable read" in str(settings)
                assert conn.is_in_transaction()
                before = await copy_out(conn, "SELECT count(*) FROM annotations")
                await other.execute(
                    "INSERT INTO annotations (instrument_id, ts_start, ts_end, label) VALUES (1, now(), now(), 'later')"
                )
                assert await copy_out(conn, "SELECT count(*) FROM annotations") == before
        async with manager.acquire() as conn:  # it waits for the one connection that there is
            assert not conn.is_in_transaction()
        with pytest.raises(Timeout):  # the bound is there for the statement that it came with
            async with one_picture(manager, time.monotonic() + 60, 0.05) as conn:
                await copy_out(conn, "SELECT pg_sleep(30)")


async def test_several_timeframes_and_what_they_are_worth_cost_two_round_trips(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk.service._bar_reader, "_timeframes", [1, 60, 300])
    sent = await _spied(desk, monkeypatch)
    await desk.service.answer(Bars(symbol=BTC.name, timeframes=[60, 300], start=START, end=START + SECOND, limit=9))
    assert [statement.split()[0] for statement in sent] == ["BEGIN", "SELECT"]


async def test_for_packed_blocks_is_looked_only_where_there_may_be_some(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = await _spied(desk, monkeypatch)
    await desk.service.answer(Bars(symbol=BTC.name, timeframes=[1], start=START, end=START + SECOND))
    looks = sum("FROM packed_blocks" in statement for statement in sent)
    assert looks == (1 if await desk.database.profile() is Profile.POSTGRES else 0)


async def _spied(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is sent to PostgreSQL from now on."""
    await desk.service._instruments.read()
    monkeypatch.setattr(desk.service._instruments, "_old_at", float("inf"))  # they are not asked for again meanwhile
    sent: list[str] = []
    for name in ("_copy_out", "_execute", "execute"):
        spied = getattr(asyncpg.Connection, name)

        async def spy(self: Any, *args: Any, spied: Any = spied, **options: Any) -> Any:
            sent.append(args[0])
            return await spied(self, *args, **options)

        monkeypatch.setattr(asyncpg.Connection, name, spy)
    return sent


async def test_who_asks_while_the_list_of_instruments_grows_old_does_not_wait_for_the_next(desk: Desk) -> None:
    before = await desk.service._instruments.read()
    desk.service._instruments._old_at = soon = time.monotonic() + 0.4
    assert await desk.service._instruments.read() is before

    async def is_read_again() -> bool:
        return desk.service._instruments._old_at > soon

    await eventually_async(is_read_again)


async def test_a_task_that_is_cancelled_ends_its_statement_in_postgresql(desk: Desk) -> None:
    async def ask() -> None:
        async with one_picture(desk.database, time.monotonic() + 60) as conn:
            await conn.fetchval("SELECT pg_sleep(47)")

    async def asked() -> int:
        async with desk.database.acquire() as conn:
            return int(await conn.fetchval(RUNNING))

    task = asyncio.create_task(ask())
    await eventually_async(asked)
    task.cancel()

    async def gone() -> bool:
        return await asked() == 0

    await eventually_async(gone)


RUNNING = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(47)' AND state = 'active'"


async def test_what_a_connection_asked_for_ends_with_it_and_with_no_other(server: Any, tmp_path: Path) -> None:
    context = zmq.asyncio.Context()
    router = context.socket(zmq.ROUTER)
    departures = Departures(router)
    router.bind(f"ipc://{tmp_path}/socket")
    callers = [zmq.Context(context).socket(zmq.DEALER) for _ in range(2)]
    tasks = []
    for caller in callers:
        caller.connect(f"ipc://{tmp_path}/socket")
        caller.send(b"a question")
        frames = await router.recv_multipart(copy=False)
        tasks.append(asyncio.create_task(asyncio.Event().wait()))
        departures.note(connection_of(frames), tasks[-1])
    assert departures.departed() == []
    callers[1].close(linger=0)
    assert await eventually_async(departures.departed) == [tasks[1]]
    callers[0].close(linger=0)
    tasks[0].cancel()
    await asyncio.gather(*tasks[:1], return_exceptions=True)
    assert departures.departed() == []  # its work was done before
    tasks[1].cancel()
    departures.close()
    router.close()
    context.term()


# ---- sessions ---------------------------------------------------------------------------------------

PID = "SELECT pg_backend_pid()"
DIE = "SELECT pg_terminate_backend(pg_backend_pid())"


async def test_an_answer_whose_session_ends_is_made_in_a_new_one_and_no_old_one_is_used_again(database: str) -> None:
    async with DatabaseConnectionManager(database, max_size=3) as manager:
        async with manager.acquire() as one, manager.acquire() as two, manager.acquire() as three:
            old = {await conn.fetchval(PID) for conn in (one, two, three)}
        asked: list[int] = []

        async def answer(conn: Any, is_replica: bool) -> int:
            asked.append(await conn.fetchval(PID))
            if len(asked) == 1:
                await conn.execute(DIE)
            return asked[-1]

        assert await Servers(manager).read(answer, time.monotonic() + 60) == asked[1]
        assert asked[0] in old and asked[1] not in old
        async with manager.acquire() as one, manager.acquire() as two, manager.acquire() as three:
            assert old.isdisjoint([await conn.fetchval(PID) for conn in (one, two, three)])


async def test_an_answer_whose_sessions_end_again_and_again_is_an_error(database: str) -> None:
    async with DatabaseConnectionManager(database) as manager:
        times = 0

        async def answer(conn: Any, is_replica: bool) -> None:
            nonlocal times
            times += 1
            await conn.execute(DIE)

        with pytest.raises(asyncpg.PostgresError):
            await Servers(manager).read(answer, time.monotonic() + 60)
        assert times == 2


async def test_the_list_of_instruments_is_read_in_a_new_session_where_the_old_one_ended(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, times = query_instruments.read_instruments, 0

    async def ends_once(conn: Any) -> Any:
        nonlocal times
        times += 1
        if times == 1:
            await conn.execute(DIE)
        return await whole(conn)

    monkeypatch.setattr(query_instruments, "read_instruments", ends_once)
    desk.service._instruments.outdate()
    assert BTC.name in {instrument.name for instrument in await desk.service._instruments.read()}
    assert times == 2


# ---- size -------------------------------------------------------------------------------------------


async def test_an_answer_beyond_what_one_may_read_is_refused_with_the_way_to_page(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.daemon.take((TRADE_KIND, trades([(n, n + 1, 100, 1) for n in range(100)])))
    await desk.commit(1)
    assert len(await desk.rows()) == 100
    monkeypatch.setattr("marketd.daemon.query_servers.ROOM_BYTES", 5_000)
    for format_ in ("records", "copy", "json"):
        with pytest.raises(AnswerTooLarge, match=r"limit: .* in pages"):
            await desk.rows(format=format_)
    assert len(await desk.rows(limit=20)) == 20
    frame = await run(desk, rows(Catalogue(), "trade", BTC.name))  # a client asks for less by itself
    assert frame["trade_id"].tolist() == list(range(1, 101))


async def test_an_answer_beyond_a_message_is_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    take_some(desk, 0)
    monkeypatch.setattr("marketd.daemon.answers.MAX_PAYLOAD_BYTES", 100)
    with pytest.raises(AnswerTooLarge, match="a message at most 100"):
        await desk.rows()


# ---- pages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [1, 2, 3, 7, 100])
async def test_pages_bring_each_record_once_and_in_order_though_many_bear_one_time(desk: Desk, page: int) -> None:
    at = [0, 0, 0, 0, 1, 2, 2, 2, 2, 2, 2, 3, 9, 9]
    desk.daemon.take((TRADE_KIND, trades([(ms, number, 100, 1) for number, ms in enumerate(at, 1)])))
    await desk.commit(1)
    frames = await all_pages(desk, RowPager(Catalogue(), "trade", BTC.name, None, None, page))
    assert np.concatenate([frame["trade_id"] for frame in frames]).tolist() == list(range(1, len(at) + 1))
    assert max(map(len, frames)) <= page
    inner = await all_pages(desk, RowPager(Catalogue(), "trade", BTC.name, START + MS, START + 9 * MS, page))
    assert np.concatenate([frame["trade_id"] for frame in inner]).tolist() == list(range(5, 13))


async def test_bars_come_in_stretches_of_so_many(desk: Desk) -> None:
    desk.daemon.take((CANDLES, bars([0, 1, 2, 5, 30])))
    await desk.commit(1)
    pager = BarPager(Catalogue(), BTC.name, "1m", START, START + 40 * 60 * SECOND, 2, "venue")
    frames = await all_pages(desk, pager)
    assert [len(frame) for frame in frames if len(frame)] == [2, 1, 1, 1]
    with pytest.raises(InvalidArgument, match="say where to begin"):
        BarPager(Catalogue(), BTC.name, "1m", None, None, 2, "venue")


# ---- the newest of all ------------------------------------------------------------------------------


async def test_the_newest_bar_of_every_instrument_comes_in_one_answer_wherever_it_lies(desk: Desk) -> None:
    desk.daemon.declare(ETH)
    desk.daemon.take((CANDLES, bars([0, 1, 2])))
    desk.daemon.take((CANDLES, bars([0, 1], 300)), instrument=ETH)
    await desk.commit(2)
    desk.daemon.take((CANDLES, bars([3], 400)))
    found = await run(desk, latest_ohlcv(None, "1m", "venue"))
    assert {name: (int(f["time"][0]) - START, f.records["open"][0]) for name, f in found.items()} == {
        BTC.name: (3 * 60 * SECOND, 400),
        ETH.name: (60 * SECOND, 300),
    }
    only = await run(desk, latest_ohlcv(["bitcoin", BTC.name], "1m"))
    assert list(only) == [BTC.name]
    assert await run(desk, latest_ohlcv(None, "1m", "import")) == {}
    with pytest.raises(InvalidArgument, match="7m is not stored"):
        await desk.ask(LatestBars(timeframe=420))


async def test_three_timeframes_are_one_round_trip_and_one_picture(desk: Desk) -> None:
    for first in range(0, 12, 3):
        take_some(desk, first)
    await desk.commit(3)
    answer, frames = await desk.ask(Bars(symbol=BTC.name, timeframes=[1, 60, 180], bar_source="own"))
    assert [part.name for part in answer.parts] == ["candle.1s", "candle.1m", "candle.3m"]
    assert len(frames) == 3


# ---- a replica --------------------------------------------------------------------------------------


class Behind:
    """The same server, as a replica that is near enough."""

    def __init__(self, database: DatabaseConnectionManager) -> None:
        self.database = database
        self.log: list[str] = []

    def is_usable(self) -> bool:
        return True

    def answered(self) -> None:
        self.log.append("replica")

    def passed_over(self) -> None:
        self.log.append("primary")


async def test_a_replica_that_lacks_what_shared_memory_has_dropped_is_passed_over(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = Behind(desk.database)
    service = desk.serve(replica)
    take_some(desk, 0)
    await service.answer(Rows(symbol=BTC.name, stream="trade"))
    monkeypatch.setattr("marketd.daemon.query_tail.Tail._lacks", lambda *_: True)
    await service.answer(Rows(symbol=BTC.name, stream="trade"))
    await service.answer(Bars(symbol=BTC.name, timeframes=[60]))
    monkeypatch.undo()
    await service.answer(LatestBars(timeframe=60))
    assert replica.log == ["replica", "primary", "primary", "replica"]
    service.close()


async def test_a_replica_that_fails_under_a_question_is_passed_over(desk: Desk) -> None:
    closed = DatabaseConnectionManager("postgresql:///nowhere")
    replica = Behind(closed)
    service = desk.serve(replica)
    take_some(desk, 0)
    answer, _ = await service.answer(Rows(symbol=BTC.name, stream="trade"))
    assert (answer.parts[0].count, replica.log) == (3, ["primary"])
    service.close()
