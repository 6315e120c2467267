"""The emulator's server: Binance's WebSocket, and REST on the same port.

Each client has a bounded queue and a task that empties it. Where the market's time waits for its clients (a capture at
speed "max") a full queue stops the market; where time goes on by itself a client that does not keep up is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from marketd.daemon.feeds.emulator import rest
from marketd.daemon.feeds.emulator.source import Message, Progress, Source
from marketd.market.errors import InvalidArgument

_quiet = logging.getLogger("marketd.daemon.feeds.emulator.websocket")
_quiet.setLevel(logging.CRITICAL)
_quiet.propagate = False

MAX_QUEUE = 2_000  # messages that wait for one client
MAX_STREAMS = 1024  # of one connection, as Binance allows
COMMANDS_PER_SECOND = 5
PING_SECONDS = 20.0
PONG_SECONDS = 60.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLICY_VIOLATION = 1008


class Command(msgspec.Struct):
    """What a client asks for: {"method": "SUBSCRIBE", "params": ["btcusdt@trade"], "id": 1}."""

    method: str
    params: list[Any] = []
    id: int | str | None = None


class EmulatorStatistics(NamedTuple):
    clients: int
    sent: int
    rest_requests: int
    cut_off: int
    progress: Progress


_command = msgspec.json.Decoder(Command).decode


class _Client:
    """One connection: what it has subscribed to, and what waits to be sent."""

    def __init__(self, socket: ServerConnection, *, combined: bool, streams: set[str]) -> None:
        self.socket = socket
        self.combined = combined
        self.streams = streams
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


class Emulator:
    """`await start()`, then `url` (WebSocket) and `rest_url`; `await stop()` in the end.

    Binds to loopback only; another host must be allowed by `expose=True`.
    """

    def __init__(self, source: Source, host: str = "127.0.0.1", port: int = 0, *, expose: bool = False) -> None:
        if host not in LOOPBACK and not expose:
            raise InvalidArgument(
                f"host: {host!r} would open the emulator to other machines; allow it with expose=True", field="host"
            )
        self._source = source
        self._host = host
        self._port = port
        self._server: Server | None = None
        self._player: asyncio.Task[None] | None = None
        self._clients: set[_Client] = set()
        self._listeners: dict[str, set[_Client]] = {}
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
        self._player = asyncio.create_task(self._source.play(self, self._send), name="emulator player")
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
        return self._source.progress()

    def statistics(self) -> EmulatorStatistics:
        sent = self._sent + sum(client.sent for client in self._clients)
        return EmulatorStatistics(len(self._clients), sent, self._rest_requests, self._cut_off, self.progress())

    def drop_connections(self) -> int:
        """Cut all connections as a failing network would, with what is on its way; how many there were."""
        clients = list(self._clients)
        for client in clients:
            self._cut(client)
        return len(clients)

    def _cut(self, client: _Client) -> None:
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
                if self._source.realtime:
                    self._cut_off += 1
                    self._cut(client)
                    continue
                await client.wait_for_room()
            if not client.gone:
                client.put(message.frame if client.combined else _bare(message.frame))

    def _subscribe(self, client: _Client, streams: list[str]) -> None:
        client.streams.update(streams)
        for stream in streams:
            self._listeners.setdefault(stream, set()).add(client)
        if self._listeners:
            self._someone.set()

    def _unsubscribe(self, client: _Client, streams: list[str]) -> None:
        client.streams.difference_update(streams)
        for stream in streams:
            listeners = self._listeners.get(stream, set())
            listeners.discard(client)
            if not listeners:
                self._listeners.pop(stream, None)
        if not self._listeners:
            self._someone.clear()

    def _forget(self, client: _Client) -> None:
        if client in self._clients:
            self._clients.discard(client)
            self._sent += client.sent
            self._unsubscribe(client, list(client.streams))
            client.leave()

    # ---- sockets ------------------------------------------------------------------------------

    def _on_request(self, socket: ServerConnection, request: Request) -> Response | None:
        answer = rest.answer(self._source, request.path)
        if answer is not None:
            self._rest_requests += 1
            return _response(answer.status, answer.body)
        path = urlsplit(request.path).path
        if path == "/stream" or path == "/ws" or path.startswith("/ws/"):
            return None
        return _response(404, b'{"code":-1,"msg":"Neither a stream nor a REST path."}')

    async def _serve(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        parts = urlsplit(socket.request.path)
        combined = parts.path == "/stream"
        named = parse_qs(parts.query).get("streams", [""])[0] if combined else unquote(parts.path[len("/ws/") :])
        streams = [stream for stream in named.split("/") if stream]
        client = _Client(socket, combined=combined, streams=set())
        if len(streams) > MAX_STREAMS:
            await socket.close(POLICY_VIOLATION, "too many streams")
            return
        self._clients.add(client)
        writer = asyncio.create_task(client.write(), name="emulator writer")
        try:
            self._subscribe(client, streams)
            await self._commands(client)
        except ConnectionClosed:
            pass  # the client has gone, or was cut
        finally:
            self._forget(client)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _commands(self, client: _Client) -> None:
        async for text in client.socket:
            if client.is_hasty(time.monotonic()):
                await client.socket.close(POLICY_VIOLATION, "Too many requests")
                return
            client.put(self._obey(client, text))

    def _obey(self, client: _Client, text: str | bytes) -> bytes:
        try:
            command = _command(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return _error(3 if isinstance(error, msgspec.DecodeError) else 2, f"Invalid JSON: {error}", None)
        streams = [stream for stream in command.params if isinstance(stream, str)]
        if len(streams) != len(command.params):
            return _error(2, "Invalid request: params must be strings", command.id)
        if command.method == "SUBSCRIBE":
            if len(client.streams | set(streams)) > MAX_STREAMS:
                return _error(2, f"Invalid request: more than {MAX_STREAMS} streams", command.id)
            self._subscribe(client, streams)
        elif command.method == "UNSUBSCRIBE":
            self._unsubscribe(client, streams)
        elif command.method == "LIST_SUBSCRIPTIONS":
            return msgspec.json.encode({"result": sorted(client.streams), "id": command.id})
        else:
            return _error(2, f"Invalid request: unknown variant `{command.method[:40]}`", command.id)
        return msgspec.json.encode({"result": None, "id": command.id})


def _error(code: int, message: str, request_id: int | str | None) -> bytes:
    return msgspec.json.encode({"error": {"code": code, "msg": message}, "id": request_id})


class _Combined(msgspec.Struct):
    data: msgspec.Raw


_data_of = msgspec.json.Decoder(_Combined).decode


def _bare(frame: bytes) -> bytes:
    return bytes(_data_of(frame).data)


def _response(status: int, body: bytes) -> Response:
    headers = Headers(
        {
            "Date": formatdate(usegmt=True),
            "Content-Type": "application/json;charset=UTF-8",
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
    )
    return Response(status, HTTPStatus(status).phrase, headers, body)
