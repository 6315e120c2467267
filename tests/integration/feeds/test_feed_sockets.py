"""Connection, REST client and emulator on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Any

import pytest
from recording_sink import emulated
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from marketd.daemon.feeds import session
from marketd.daemon.feeds.adapter import RestRequest
from marketd.daemon.feeds.binance import BinanceAdapter
from marketd.daemon.feeds.connection import Connection, Timing
from marketd.daemon.feeds.emulator import Emulator, SyntheticMarket
from marketd.daemon.feeds.emulator.source import Message
from marketd.daemon.feeds.okx import OkxAdapter
from marketd.daemon.feeds.rest import RestClient, RestFailed
from marketd.daemon.feeds.session import CommandBudget
from marketd.market.errors import InvalidArgument, Timeout
from support import eventually_async

QUICK = Timing(dead_after_seconds=0.3, backoff_first_seconds=0.01, backoff_cap_seconds=0.02, commands_per_second=1000)


class Listener:
    """Keeps what a connection hands on."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.frames: list[bytes] = []
        self.gate: asyncio.Event | None = None
        self.batches = 0

    async def on_up(self, connection: Connection) -> None:
        self.events.append("up")

    async def on_frames(self, connection: Connection, recv_ns: int, frames: list[bytes]) -> None:
        self.batches += 1
        if self.gate is not None:
            await self.gate.wait()
        self.frames += frames

    async def on_down(self, connection: Connection, reason: str) -> None:
        self.events.append(reason)


def connection_to(url: str, listener: Listener, streams: list[str] | None = None, timing: Timing = QUICK) -> Connection:
    return Connection("test", url, BinanceAdapter(), streams or ["btcusdt@trade"], listener, timing)


@contextlib.asynccontextmanager
async def running(connection: Connection) -> AsyncIterator[Connection]:
    task = asyncio.create_task(connection.run())
    try:
        yield connection
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def venue(handler: Callable[[ServerConnection], Any], **options: Any) -> AsyncIterator[str]:
    async with serve(handler, "127.0.0.1", 0, ping_interval=None, close_timeout=0.1, **options) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}"


def hearing(heard: list[str]) -> Callable[[ServerConnection], Any]:
    """A venue that only listens."""

    async def listen(socket: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                heard.append(str(await socket.recv()))

    return listen


async def test_messages_come_in_bulk_and_in_order() -> None:
    async def send_many(socket: ServerConnection) -> None:
        for number in range(5000):
            await socket.send(str(number))
        await socket.wait_closed()

    listener = Listener()
    async with venue(send_many) as url, running(connection_to(url, listener)) as connection:
        await eventually_async(lambda: len(listener.frames) == 5000)
        assert connection.statistics().messages == 5000
    assert listener.frames == [b"%d" % number for number in range(5000)]
    assert listener.batches < 2500


async def test_what_was_read_before_the_socket_ended_is_handed_on_before_the_next_connect() -> None:
    async def send_and_close(socket: ServerConnection) -> None:
        await socket.send("a")
        await socket.send("b")

    listener = Listener()
    listener.gate = asyncio.Event()
    async with venue(send_and_close) as url, running(connection_to(url, listener)):
        await eventually_async(lambda: listener.batches == 1)
        await asyncio.sleep(0)
        assert listener.events == ["up"]
        listener.gate.set()
        await eventually_async(lambda: len(listener.events) >= 3)
    assert listener.events[:3:2] == ["up", "up"]
    assert "ConnectionClosed" in listener.events[1]
    assert listener.frames[:2] == [b"a", b"b"]


async def test_what_was_read_is_handed_on_however_long_the_handler_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def send_and_close(socket: ServerConnection) -> None:
        await socket.send("a")

    monkeypatch.setattr(session, "LAST_BATCH_SECONDS", 0.01)
    listener = Listener()
    listener.gate = asyncio.Event()
    async with venue(send_and_close) as url, running(connection_to(url, listener)):
        await eventually_async(lambda: listener.batches == 1)
        asyncio.get_running_loop().call_later(0.2, listener.gate.set)
        await eventually_async(lambda: len(listener.events) >= 3)
    assert len(listener.frames) >= listener.batches - 1


async def test_streams_that_were_added_while_the_connection_was_made_are_subscribed() -> None:
    heard: list[str] = []
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def wait(socket: ServerConnection, request: Request) -> None:
        begun.set()
        await go_on.wait()

    async with (
        venue(hearing(heard), process_request=wait) as url,
        running(connection_to(url, Listener())) as connection,
    ):
        await begun.wait()
        await connection.subscribe(["ethusdt@trade"])
        await connection.unsubscribe(["btcusdt@trade"])
        go_on.set()
        await eventually_async(lambda: len(heard) == 2)
    said = [json.loads(text) for text in heard]
    assert [(each["method"], each["params"]) for each in said] == [
        ("SUBSCRIBE", ["ethusdt@trade"]),
        ("UNSUBSCRIBE", ["btcusdt@trade"]),
    ]


async def test_a_venue_that_falls_silent_and_answers_no_ping_is_left() -> None:
    connects = 0

    async def freeze(socket: ServerConnection) -> None:
        nonlocal connects
        connects += 1
        socket.transport.pause_reading()  # as a dead peer: the ping is never read
        await socket.wait_closed()

    listener = Listener()
    async with venue(freeze) as url, running(connection_to(url, listener)):
        await eventually_async(lambda: connects >= 2)
    assert "Silent" in listener.events[1]


async def test_a_venue_that_wants_pings_of_its_own_gets_them() -> None:
    heard: list[str] = []
    adapter = BinanceAdapter()
    adapter.ping = ('{"op":"ping"}', 0.05)
    async with venue(hearing(heard)) as url:
        connection = Connection("test", url, adapter, ["btcusdt@trade"], Listener(), QUICK)
        async with running(connection):
            await eventually_async(lambda: heard.count('{"op":"ping"}') >= 3)


async def test_streams_are_given_back_and_asked_for_again_to_have_them_begin_anew() -> None:
    heard: list[str] = []
    async with venue(hearing(heard)) as url, running(connection_to(url, Listener())) as connection:
        await eventually_async(lambda: connection.is_up)
        await connection.resubscribe(["btcusdt@depth"])
        await eventually_async(lambda: len(heard) == 2)
        assert connection.streams == ["btcusdt@trade"]
    assert ['"UNSUBSCRIBE"' in heard[0], '"SUBSCRIBE"' in heard[1]] == [True, True]


async def test_where_messages_of_two_sockets_must_not_mix_a_connection_is_rolled_by_making_it_anew() -> None:
    async def stay(socket: ServerConnection) -> None:
        await socket.send("hello")
        await socket.wait_closed()

    listener, timing = Listener(), QUICK._replace(dead_after_seconds=25.0, roll_after_seconds=0.1)
    async with venue(stay) as url:
        connection = Connection("test", url, BinanceAdapter(), ["btcusdt@trade"], listener, timing, overlaps=False)
        async with running(connection):
            await eventually_async(lambda: connection.statistics().rolls >= 2)
    assert listener.events[0] == "up"
    assert "fresh connection" in listener.events[1]
    assert listener.events[2] == "up"


async def test_a_quiet_venue_that_answers_pings_is_kept() -> None:
    async def quiet(socket: ServerConnection) -> None:
        await socket.wait_closed()

    listener = Listener()
    async with venue(quiet) as url, running(connection_to(url, listener)) as connection:
        await eventually_async(lambda: connection.is_up)
        began = time.monotonic()
        await eventually_async(lambda: time.monotonic() - began > 3 * QUICK.dead_after_seconds)
        assert connection.statistics().connects == 1
        assert connection.silent_seconds(time.monotonic()) < QUICK.dead_after_seconds


async def test_a_slow_handler_is_not_taken_for_a_dead_venue_and_slows_the_venue_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("marketd.daemon.feeds.socket.MAX_PENDING", 100)
    sent = 0

    async def flood(socket: ServerConnection) -> None:
        nonlocal sent
        with contextlib.suppress(ConnectionClosed):
            while True:
                await socket.send("x" * 10_000)
                sent += 1

    listener = Listener()
    listener.gate = asyncio.Event()
    async with venue(flood) as url, running(connection_to(url, listener)) as connection:
        await eventually_async(lambda: connection.pending >= 100)
        began = time.monotonic()
        await eventually_async(lambda: time.monotonic() - began > 2 * QUICK.dead_after_seconds)
        before = sent
        assert connection.pending <= 300  # what a read of the socket brought beyond it
        assert connection.statistics().connects == 1
        listener.gate.set()
        await eventually_async(lambda: sent > before + 1000)


async def test_streams_beyond_the_address_are_subscribed_by_message() -> None:
    asked: list[str] = []

    async def note(socket: ServerConnection) -> None:
        assert socket.request is not None
        asked.extend(socket.request.path.partition("=")[2].split("/"))
        async for text in socket:
            asked.extend(json.loads(text)["params"])

    streams = [f"s{n}usdt@trade" for n in range(450)]
    async with venue(note) as url, running(connection_to(url, Listener(), streams)) as connection:
        await eventually_async(lambda: len(asked) == 450)
        await eventually_async(lambda: connection.is_up)
        await connection.subscribe(["more@trade"])
        await eventually_async(lambda: asked == [*streams, "more@trade"])


async def test_what_comes_while_streams_are_being_asked_for_is_handled_meanwhile() -> None:
    asked = 0
    listener, timing = Listener(), QUICK._replace(commands_per_second=4.0, dead_after_seconds=25.0)

    async def answer(socket: ServerConnection) -> None:
        nonlocal asked
        async for _ in socket:
            asked += 1
            await socket.send("{}")

    streams = [f"s{n}usdt@trade" for n in range(1000)]  # five messages beside the address: more than a second
    async with venue(answer) as url, running(connection_to(url, listener, streams, timing)):
        await eventually_async(lambda: len(listener.frames) == 1)
        assert asked < 3


async def test_errors_are_kept_as_they_came_and_the_connection_is_tried_again() -> None:
    def refuse(socket: ServerConnection, request: Request) -> Response:
        return Response(HTTPStatus.FORBIDDEN, "Forbidden", Headers({"Content-Length": "0"}))

    async def never(socket: ServerConnection) -> None:
        raise AssertionError

    listener = Listener()
    async with venue(never, process_request=refuse) as url, running(connection_to(url, listener)) as connection:
        await eventually_async(lambda: connection.statistics().failures >= 3)
        assert "HTTP 403" in connection.statistics().last_error
    assert listener.events == []


# ---- REST ---------------------------------------------------------------------------------------


class Web:
    """A REST server that answers what it is told to."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.paths: list[str] = []

    def __call__(self, socket: ServerConnection, request: Request) -> Response:
        self.paths.append(request.path)
        status, headers, body = self.answers.pop(0) if self.answers else (200, {}, b"{}")
        return Response(status, "x", Headers({"Content-Length": str(len(body)), **headers}), body)


@contextlib.asynccontextmanager
async def web(**options: Any) -> AsyncIterator[tuple[Web, RestClient]]:
    async def never(socket: ServerConnection) -> None:
        raise AssertionError

    pages = Web()
    async with venue(never, process_request=pages) as url:
        client = RestClient(url.replace("ws", "http", 1), weight_per_minute=options.pop("weight", 6000), **options)
        try:
            yield pages, client
        finally:
            client.close()


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


async def test_a_rest_answer_is_given_and_recorded() -> None:
    kept: list[tuple[str, bytes]] = []
    async with web(record=lambda url, body: kept.append((url, body))) as (pages, client):
        pages.answers.append((200, {"x-mbx-used-weight-1m": "5990"}, b"[1]"))
        assert await client.get(RestRequest("/a?b=1", 1), soon()) == b"[1]"
        assert client.statistics().weight_left < 1000  # it was 6,000, of which 5,990 are used
    assert pages.paths == ["/a?b=1"]
    assert kept[0][0].endswith("/a?b=1")


async def test_a_ban_is_waited_for_or_named_when_the_deadline_is_sooner() -> None:
    async with web() as (pages, client):
        pages.answers.append((429, {"Retry-After": "1"}, b'{"code":-1003}'))
        with pytest.raises(RestFailed, match="status 429") as failure:
            await client.get(RestRequest("/a", 1), soon())
        assert failure.value.status == 429
        with pytest.raises(Timeout, match="after the deadline"):
            await client.get(RestRequest("/b", 1), soon(0.1))
        began = time.monotonic()
        assert await client.get(RestRequest("/c", 1), soon()) == b"{}"
        assert time.monotonic() - began > 0.5
        assert client.statistics().bans == 1
    assert pages.paths == ["/a", "/c"]


async def test_requests_wait_for_the_venues_budget() -> None:
    async with web(weight=600) as (pages, client):
        await client.get(RestRequest("/a", 600), soon())
        with pytest.raises(Timeout):
            await client.get(RestRequest("/b", 600), soon(1.0))
        await client.get(RestRequest("/c", 5), soon())
    assert pages.paths == ["/a", "/c"]


async def test_a_refusal_bears_status_and_body_and_a_dead_server_is_named() -> None:
    async with web() as (pages, client):
        pages.answers.append((400, {}, b'{"code":-1121,"msg":"Invalid symbol."}'))
        with pytest.raises(RestFailed, match="Invalid symbol") as failure:
            await client.get(RestRequest("/a", 1), soon())
        assert json.loads(failure.value.body)["code"] == -1121
    client = RestClient("http://127.0.0.1:9", weight_per_minute=100)
    with pytest.raises(RestFailed, match="refused"):
        await client.get(RestRequest("/a", 1), soon())
    client.close()
    with pytest.raises(InvalidArgument):
        RestClient("ftp://x", weight_per_minute=1)


# ---- the emulator's sockets ---------------------------------------------------------------------


async def receive(socket: Any, wanted: Callable[[Any], bool]) -> Any:
    async with asyncio.timeout(10):
        while True:
            message = json.loads(await socket.recv())
            if wanted(message):
                return message


async def test_the_emulator_speaks_both_kinds_of_connection_and_the_commands() -> None:
    async with emulated(SyntheticMarket(3, ["BTCUSDT", "ETHUSDT"], 100.0)) as emulator:
        async with connect(f"{emulator.url}/ws/btcusdt@trade", proxy=None) as raw:
            assert (await receive(raw, lambda m: "e" in m))["e"] == "trade"
            await raw.send('{"method":"SUBSCRIBE","params":["ethusdt@trade"],"id":1}')
            assert await receive(raw, lambda m: "result" in m) == {"result": None, "id": 1}
            await receive(raw, lambda m: m.get("s") == "ETHUSDT")
            await raw.send('{"method":"UNSUBSCRIBE","params":["btcusdt@trade"],"id":2}')
            await receive(raw, lambda m: m.get("id") == 2)
            await raw.send('{"method":"LIST_SUBSCRIPTIONS","id":3}')
            assert (await receive(raw, lambda m: m.get("id") == 3))["result"] == ["ethusdt@trade"]
        async with connect(f"{emulator.url}/stream?streams=btcusdt@bookTicker/x@y", proxy=None) as combined:
            message = await receive(combined, lambda m: True)
            assert message["stream"] == "btcusdt@bookTicker"
        assert emulator.statistics().sent > 0


async def test_the_emulator_answers_hostile_commands_and_goes_on() -> None:
    async with emulated(SyntheticMarket(3, ["BTCUSDT"])) as emulator:
        for text in ("{", '{"method":5}', '{"method":"X","id":1}', '{"method":"SUBSCRIBE","params":[5],"id":1}', "[]"):
            async with connect(f"{emulator.url}/ws", proxy=None) as socket:
                await socket.send(text)
                assert "error" in await receive(socket, lambda m: "e" not in m)
        async with connect(f"{emulator.url}/ws", proxy=None) as socket:
            with pytest.raises(ConnectionClosed, match="Too many requests"):
                for number in range(50):
                    await socket.send(json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": number}))
                    await socket.recv()
        many = "/".join(f"s{n}@trade" for n in range(1025))
        with pytest.raises(Exception, match=r"too many streams|414|HTTP|URI|line"):
            async with connect(f"{emulator.url}/stream?streams={many}", proxy=None) as socket:
                await socket.recv()


async def test_the_emulator_serves_rest_to_any_client_and_refuses_other_paths() -> None:
    def fetch(url: str) -> tuple[int, bytes]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=5) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    async with emulated(SyntheticMarket(3, ["BTCUSDT"])) as emulator:
        status, body = await asyncio.to_thread(fetch, f"{emulator.rest_url}/api/v3/exchangeInfo")
        assert (status, json.loads(body)["symbols"][0]["symbol"]) == (200, "BTCUSDT")
        assert (await asyncio.to_thread(fetch, f"{emulator.rest_url}/elsewhere"))[0] == 404
        assert (await asyncio.to_thread(fetch, f"{emulator.rest_url}/api/v3/trades"))[0] == 400
        assert emulator.statistics().rest_requests == 2


class _Loud(SyntheticMarket):
    """More than sockets can hold."""

    def messages(self, after_ms: int, until_ms: int, wants: Callable[[str], bool]) -> list[Message]:
        return [Message("btcusdt@trade", b"x" * 100_000)] * 20


async def test_a_client_that_does_not_keep_up_with_real_time_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marketd.daemon.feeds.emulator.base.MAX_QUEUE", 20)
    async with (
        emulated(_Loud(3, ["BTCUSDT"])) as emulator,
        connect(f"{emulator.url}/stream?streams=btcusdt@trade", proxy=None, max_queue=1, close_timeout=0.1) as socket,
    ):
        socket.transport.pause_reading()
        await eventually_async(lambda: emulator.statistics().cut_off == 1)
        assert emulator.statistics().clients == 0


def test_the_emulator_binds_to_loopback_unless_told_otherwise() -> None:
    with pytest.raises(InvalidArgument, match="expose"):
        Emulator(SyntheticMarket(3, ["BTCUSDT"]), host="0.0.0.0")
    Emulator(SyntheticMarket(3, ["BTCUSDT"]), host="0.0.0.0", expose=True)


async def test_what_a_venue_says_beside_its_refusal_of_a_connection_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(socket: ServerConnection, request: Any) -> Any:
        return socket.respond(451, "Not served from a restricted location.")

    async with venue(hearing([]), process_request=refuse) as url, running(connection_to(url, Listener())) as connection:
        await eventually_async(lambda: connection.statistics().failures)
        assert "HTTP 451: Not served from a restricted location." in connection.statistics().last_error


async def test_a_connection_that_has_sent_its_commands_of_an_hour_is_made_anew_with_all_its_streams(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[list[str]] = []

    async def listen(socket: ServerConnection) -> None:
        mine: list[str] = []
        heard.append(mine)
        with contextlib.suppress(ConnectionClosed):
            while True:
                mine.append(str(await socket.recv()))

    timing = Timing(commands_per_second=1000.0, commands_per_hour=4, backoff_first_seconds=0.01)
    streams = ["books:A", "books:B"]
    async with venue(listen) as url:
        connection = Connection("C", url, OkxAdapter(book=True), streams, Listener(), timing, overlaps=False)
        async with running(connection):
            await eventually_async(lambda: heard and len(heard[0]) == 1)
            for _ in range(3):  # each takes two
                await connection.resubscribe(["books:A"])
            await eventually_async(lambda: len(heard) == 2 and len(heard[1]) >= 1)
            assert len(heard[0]) == 4
            assert all(f'"instId":"{name}"' in heard[1][0] for name in ("A", "B"))
    told = [record for record in caplog.records if record.__dict__.get("action") == "command_budget"]
    assert len(told) == 1


def test_a_budget_of_commands_counts_the_last_hour() -> None:
    budget = CommandBudget(2)
    assert [budget.take(now) for now in (0.0, 10.0, 20.0, 3599.0, 3600.0, 3601.0, 3610.0)] == [
        True, True, False, False, True, False, True,
    ]  # fmt: skip
    unlimited = CommandBudget(0)
    assert all(unlimited.take(0.0) for _ in range(1000))
