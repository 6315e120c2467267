"""What every emulated exchange is on the network: a server for WebSockets and REST on one port, and its clients.

Each client has a bounded queue and a task that empties it. Where the market's time waits for its clients (a capture at
speed "max") a full queue stops the market; where time goes on by itself a client that does not keep up is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections import deque
from email.utils import formatdate
from http import HTTPStatus
from typing import NamedTuple, Protocol

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from marketd.daemon.feeds.emulator.source import Crowd, Message, Progress, Send, canonical
from marketd.market.errors import InvalidArgument

_quiet = logging.getLogger("marketd.daemon.feeds.emulator.websocket")
_quiet.setLevel(logging.CRITICAL)
_quiet.propagate = False

MAX_QUEUE = 2_000  # messages that wait for one client
COMMANDS_PER_SECOND = 5
PING_SECONDS = 20.0
PONG_SECONDS = 60.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Market(Protocol):
    """What is played."""

    realtime: bool  # its time goes on by itself: a client that does not keep up is cut off

    async def play(self, crowd: Crowd, send: Send) -> None:
        """Send what happens as it happens; returns when there is no more."""

    def progress(self) -> Progress: ...


class EmulatorStatistics(NamedTuple):
    clients: int
    sent: int
    rest_requests: int
    cut_off: int
    progress: Progress


class Client:
    """One connection: what it has subscribed to, and what waits to be sent."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.combined = False  # each message tells its stream
        self.endpoint = ""  # of the address at which it is connected, where a venue has several
        self.streams: set[str] = set()
        self._queue: deque[bytes] = deque()
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._commands: deque[float] = deque(maxlen=COMMANDS_PER_SECOND)
        self.sent = 0
        self.gone = False

    @property
    def full(self) -> bool:
        return len(self._queue) >= MAX_QUEUE

    def put(self, frame: bytes) -> None:
        self._queue.append(frame)
        self._filled.set()

    async def wait_for_room(self) -> None:
        while self.full and not self.gone:
            self._room.clear()
            await self._room.wait()

    async def write(self) -> None:
        queue = self._queue
        while True:
            await self._filled.wait()
            while queue:
                await self.socket.send(queue.popleft(), text=True)
                self.sent += 1
                if len(queue) == MAX_QUEUE // 2:
                    self._room.set()
            self._filled.clear()
            self._room.set()

    def leave(self) -> None:
        self.gone = True
        self._queue.clear()
        self._room.set()

    def is_hasty(self, now: float) -> bool:
        """More than five messages within a second."""
        hasty = len(self._commands) == COMMANDS_PER_SECOND and now - self._commands[0] < 1.0
        self._commands.append(now)
        return hasty


class EmulatorBase(ABC):
    """`await start()`, then `url` (WebSocket) and `rest_url`; `await stop()` in the end.

    Binds to loopback only; another host must be allowed by `expose=True`.
    """

    def __init__(self, market: Market, host: str = "127.0.0.1", port: int = 0, *, expose: bool = False) -> None:
        if host not in LOOPBACK and not expose:
            raise InvalidArgument(
                f"host: {host!r} would open the emulator to other machines; allow it with expose=True", field="host"
            )
        self._market = market
        self._host = host
        self._port = port
        self._server: Server | None = None
        self._player: asyncio.Task[None] | None = None
        self._clients: set[Client] = set()
        self._listeners: dict[str, set[Client]] = {}
        self._someone = asyncio.Event()
        self._sent = self._rest_requests = self._cut_off = 0
        self.url = ""
        self.rest_url = ""

    async def start(self) -> str:
        """Listen; the address for WebSockets, `ws://127.0.0.1:<port>`."""
        self._server = await serve(
            self._serve,
            self._host,
            self._port,
            process_request=self._on_request,
            compression=None,
            ping_interval=PING_SECONDS,
            ping_timeout=PONG_SECONDS,
            close_timeout=1.0,
            max_queue=64,
            logger=_quiet,
        )
        port = next(iter(self._server.sockets)).getsockname()[1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.url, self.rest_url = f"ws://{host}:{port}", f"http://{host}:{port}"
        self._player = asyncio.create_task(self._market.play(self, self._send), name="emulator player")
        return self.url

    @property
    def ws_url(self) -> str:
        """What a feed of the venue must be told."""
        return self.url

    async def stop(self) -> None:
        player, server = self._player, self._server
        if player is not None:
            player.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await player
        if server is not None:
            server.close()
            await server.wait_closed()
        self._player = self._server = None

    def progress(self) -> Progress:
        if self._player is not None and self._player.done() and not self._player.cancelled():
            self._player.result()  # a market that failed must not look like one that is quiet
        return self._market.progress()

    def statistics(self) -> EmulatorStatistics:
        sent = self._sent + sum(client.sent for client in self._clients)
        return EmulatorStatistics(len(self._clients), sent, self._rest_requests, self._cut_off, self.progress())

    def drop_connections(self) -> int:
        """Cut all connections as a failing network would, with what is on its way; how many there were."""
        clients = list(self._clients)
        for client in clients:
            self._cut(client)
        return len(clients)

    def _cut(self, client: Client) -> None:
        self._forget(client)
        client.socket.transport.abort()

    # ---- the crowd ----------------------------------------------------------------------------

    @property
    def present(self) -> bool:
        return bool(self._listeners)

    async def someone(self) -> None:
        await self._someone.wait()

    def wants(self, stream: str) -> bool:
        return stream in self._listeners

    async def _send(self, message: Message) -> None:
        for client in list(self._listeners.get(message.stream, ())):
            if client.full:
                if self._market.realtime:
                    self._cut_off += 1
                    self._cut(client)
                    continue
                await client.wait_for_room()
            if not client.gone:
                client.put(self._frame_for(client, message))

    def _subscribe(self, client: Client, streams: list[str]) -> None:
        client.streams.update(streams)
        for stream in map(canonical, streams):
            if self._has(client, stream):
                self._listeners.setdefault(stream, set()).add(client)
        if self._listeners:
            self._someone.set()

    def _unsubscribe(self, client: Client, streams: list[str]) -> None:
        client.streams.difference_update(streams)
        for stream in map(canonical, streams):
            listeners = self._listeners.get(stream, set())
            listeners.discard(client)
            if not listeners:
                self._listeners.pop(stream, None)
        if not self._listeners:
            self._someone.clear()

    def _forget(self, client: Client) -> None:
        if client in self._clients:
            self._clients.discard(client)
            self._sent += client.sent
            self._unsubscribe(client, list(client.streams))
            client.leave()

    # ---- sockets ------------------------------------------------------------------------------

    @abstractmethod
    def _on_request(self, socket: ServerConnection, request: Request) -> Response | None:
        """The answer to a REST request; None for what is to become a WebSocket."""

    @abstractmethod
    async def _listen(self, client: Client) -> None:
        """See to what a client asks for, until it goes."""

    def _has(self, client: Client, stream: str) -> bool:
        """Whether a stream comes at the address at which a client is connected."""
        return True

    def _frame_for(self, client: Client, message: Message) -> bytes:
        return message.frame

    async def _serve(self, socket: ServerConnection) -> None:
        client = Client(socket)
        self._clients.add(client)
        writer = asyncio.create_task(client.write(), name="emulator writer")
        try:
            await self._listen(client)
        except ConnectionClosed:
            pass  # the client has gone, or was cut
        finally:
            self._forget(client)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)


def response_of(status: int, body: bytes) -> Response:
    headers = Headers(
        {
            "Date": formatdate(usegmt=True),
            "Content-Type": "application/json;charset=UTF-8",
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
    )
    return Response(status, HTTPStatus(status).phrase, headers, body)
