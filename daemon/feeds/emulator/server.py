"""Binance's WebSocket, and its REST on the same port: streams by name, commands, limits, refusals.

The USD-M market has its streams at two addresses (`/public`, `/market`). As on the exchange one may ask at either for
all of them, is told that they are subscribed, and gets those that are there; the plain address is `/public`.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from marketd.daemon.feeds.binance_markets import ENDPOINTS
from marketd.daemon.feeds.emulator import rest
from marketd.daemon.feeds.emulator.base import Client, EmulatorBase, EmulatorStatistics, response_of
from marketd.daemon.feeds.emulator.source import Message, Source
from marketd.daemon.feeds.venues import venue_of

MAX_STREAMS = 1024  # of one connection, as Binance allows
POLICY_VIOLATION = 1008
PATIENCE, LOOK_SECONDS = 500, 0.01  # how often, and how far apart: for a client's connection to another address
_PLACE = re.compile(r"(/\w+)?(/stream|/ws(?:/.*)?)")


class Command(msgspec.Struct):
    """What a client asks for: {"method": "SUBSCRIBE", "params": ["btcusdt@trade"], "id": 1}."""

    method: str
    params: list[Any] = []
    id: int | str | None = None


_command = msgspec.json.Decoder(Command).decode


class Emulator(EmulatorBase):
    """`await start()`, then `url` (WebSocket) and `rest_url`; `await stop()` in the end.

    `venue` is the market that is played: whether its streams are split over addresses. With an `api_key` trades of the
    past are only given to who sends it, as the futures markets do.
    """

    def __init__(
        self,
        source: Source,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        expose: bool = False,
        venue: str = "BINANCE",
        api_key: str = "",
    ) -> None:
        super().__init__(source, host, port, expose=expose)
        self._api_key = api_key
        self._key_header = venue_of(venue).api_key_header
        self._source = source
        self._endpoint_of = venue_of(venue).endpoint_of
        self._awaited: set[str] = set()  # addresses for whose first client the recording has waited

    def _on_request(self, socket: ServerConnection, request: Request) -> Response | None:
        if self._api_key and rest.wants_key(request.path) and request.headers.get(self._key_header) != self._api_key:
            self._rest_requests += 1
            return response_of(401, b'{"code":-2014,"msg":"API-key format invalid."}')
        answer = rest.answer(self._source, request.path)
        if answer is not None:
            self._rest_requests += 1
            return response_of(answer.status, answer.body)
        place = _PLACE.fullmatch(urlsplit(request.path).path)
        if place is not None and place[1] in ((None,) if self._endpoint_of is None else (None, *ENDPOINTS)):
            return None
        return response_of(404, b'{"code":-1,"msg":"Neither a stream nor a REST path."}')

    async def _listen(self, client: Client) -> None:
        assert client.socket.request is not None
        parts = urlsplit(client.socket.request.path)
        place = _PLACE.fullmatch(parts.path)
        assert place is not None
        client.endpoint, client.combined = place[1] or ENDPOINTS[0], place[2] == "/stream"
        named = parse_qs(parts.query).get("streams", [""])[0] if client.combined else unquote(place[2][len("/ws/") :])
        streams = [stream for stream in named.split("/") if stream]
        if len(streams) > MAX_STREAMS:
            await client.socket.close(POLICY_VIOLATION, "too many streams")
            return
        self._subscribe(client, streams)
        await self._commands(client)

    def _has(self, client: Client, stream: str) -> bool:
        return self._endpoint_of is None or self._endpoint_of(stream) == client.endpoint

    async def _send(self, message: Message) -> None:
        """A recording whose time waits for its clients waits for one at each address, since they come one by one."""
        if self._endpoint_of is not None and not self._market.realtime:
            await self._someone_at(self._endpoint_of(message.stream), message.stream)
        await super()._send(message)

    async def _someone_at(self, endpoint: str, stream: str) -> None:
        if endpoint in self._awaited:
            return
        self._awaited.add(endpoint)
        for _ in range(PATIENCE):
            if self.wants(stream) or any(client.endpoint == endpoint and client.streams for client in self._clients):
                return
            await asyncio.sleep(LOOK_SECONDS)

    def _frame_for(self, client: Client, message: Message) -> bytes:
        return message.frame if client.combined else _bare(message.frame)

    async def _commands(self, client: Client) -> None:
        async for text in client.socket:
            if client.is_hasty(time.monotonic()):
                await client.socket.close(POLICY_VIOLATION, "Too many requests")
                return
            client.put(self._obey(client, text))

    def _obey(self, client: Client, text: str | bytes) -> bytes:
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


__all__ = ["Emulator", "EmulatorStatistics"]
