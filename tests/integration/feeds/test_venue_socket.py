"""A venue's socket: whole messages in a list, however they came over the network."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from marketd.daemon.feeds.session import Session, Timing
from marketd.daemon.feeds.socket import VenueSocket
from support import eventually_async


@contextlib.asynccontextmanager
async def connected(
    handler: Callable[[ServerConnection], Any], *, close_timeout: float = 0.1
) -> AsyncIterator[VenueSocket]:
    async with serve(handler, "127.0.0.1", 0, ping_interval=None, close_timeout=0.1) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        options: dict[str, Any] = {
            "create_connection": VenueSocket,
            "compression": None,
            "close_timeout": close_timeout,
        }
        async with connect(f"ws://127.0.0.1:{port}", proxy=None, **options) as socket:
            assert isinstance(socket, VenueSocket)
            yield socket


async def test_a_message_in_pieces_comes_whole_and_in_its_place() -> None:
    async def send(socket: ServerConnection) -> None:
        await socket.send("first")
        await socket.send(["in ", "", "pieces"])
        await socket.ping()
        await socket.send([b"last ", b"ones"])
        await socket.wait_closed()

    async with connected(send) as socket:
        await eventually_async(lambda: socket.waiting == 3)
        assert socket.take(2) == [b"first", b"in pieces"]
        assert socket.take(2) == [b"last ones"]
        assert socket.take(2) == []


async def test_whoever_listens_is_called_for_the_first_message_of_a_list_only() -> None:
    calls = 0

    def called() -> None:
        nonlocal calls
        calls += 1

    async def send(socket: ServerConnection) -> None:
        async for number in socket:
            for _ in range(int(number)):
                await socket.send("x")

    async with connected(send) as socket:
        socket.on_message = called
        for taken in range(1, 3):
            await socket.send("5")
            await eventually_async(lambda: socket.waiting == 5)
            assert calls == taken
            assert len(socket.take(5)) == 5


async def test_a_socket_that_nobody_empties_is_not_read_and_goes_on_once_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marketd.daemon.feeds.socket.MAX_PENDING", 10)
    count = 2_000  # more than the buffers of both kernels' ends take

    async def flood(socket: ServerConnection) -> None:
        for _ in range(count):
            await socket.send("x" * 10_000)
        await socket.wait_closed()

    async with connected(flood) as socket:
        await eventually_async(lambda: not socket.transport.is_reading())
        assert 10 <= socket.waiting < 100
        taken = 0

        def take() -> bool:
            nonlocal taken
            taken += len(socket.take(1000))
            return taken == count

        await eventually_async(take)


async def test_what_comes_after_it_stopped_listening_is_forgotten_and_its_end_is_still_told() -> None:
    async def echo(socket: ServerConnection) -> None:
        await socket.send("before")
        async for message in socket:
            await socket.send(message)

    async with connected(echo) as socket:
        await eventually_async(lambda: socket.waiting == 1)
        socket.stop_listening()
        await socket.send("after")
        await (await socket.ping())  # its answer comes behind the echo
        assert socket.waiting == 0
        await socket.close()
        with pytest.raises(Exception, match="sent 1000"):
            await socket.recv()


async def test_a_handler_that_fails_leaves_no_full_list_between_the_socket_and_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("marketd.daemon.feeds.socket.MAX_PENDING", 10)

    async def flood(socket: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await socket.send("x" * 10_000)

    async with connected(flood, close_timeout=5.0) as socket:

        async def fail(recv_ns: int, frames: list[bytes]) -> None:
            await eventually_async(lambda: not socket.transport.is_reading())
            raise ValueError

        with pytest.raises(ValueError):
            await Session(socket, fail, Timing()).run()
        assert socket.waiting == 0
        assert socket.close_code == 1000
