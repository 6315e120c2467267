"""A recording of any venue, played back: to whoever says something on a WebSocket, each frame as it was recorded.

What a client subscribes to is not read: it gets all that was recorded, the venue's replies too, and its adapter leaves
out what it did not ask for. Where a venue has several addresses, each gets its own: a book that came over both would be
none. REST is answered with the recording's instruments and time, as its messages tell them, and
with what was recorded at that path. What else was there, nobody knows any more: 404.

The frames of a recording are one run of events: after a broken connection a client gets what comes next, and no second
snapshot of a book that came on the stream.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import msgspec
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from marketd.daemon.feeds.adapter import VenueAdapter
from marketd.daemon.feeds.captures import CaptureUnreadable, in_order, read_captures
from marketd.daemon.feeds.emulator.base import Client, EmulatorBase, response_of
from marketd.daemon.feeds.emulator.pace import in_pace, speed_of
from marketd.daemon.feeds.emulator.source import Crowd, Message, Progress, Send
from marketd.daemon.feeds.survey import require_instruments, survey
from marketd.market.errors import InvalidArgument
from marketd.market.instruments import Instrument
from marketd.market.times import NS_PER_MS

EVERYTHING = ""  # the one stream
_CHANNEL = re.compile(rb'"channel": ?"([\w-]+)"')
PATIENCE, LOOK_SECONDS = 500, 0.01  # how often, and how far apart: for a client's connection to another address
Words = frozenset[tuple[str, str]]


class Playback:
    """A recording in memory: about 1 kB a message."""

    def __init__(self, paths: Sequence[Path | str], venue: str, *, speed: str = "max") -> None:
        self._speed = speed_of(speed)
        self.realtime = self._speed is not None
        self._frames: list[bytes] = []
        self._recv_ns: list[int] = []
        self._answers: dict[tuple[str, Words], bytes] = {}
        self.ws_host = ""  # of the recorded address
        self.skipped: Counter[str] = Counter()
        self.damage: list[str] = []
        self._position = 0
        self._awaited: set[str] = set()
        self._load([Path(path) for path in paths], venue)
        found = require_instruments(survey(paths, venue), paths)
        self.instruments = found.instruments
        self._adapter: VenueAdapter = found.venue.adapter()
        self._endpoint_of = found.venue.endpoint_of
        self._made = found.venue.answers
        self.recorded_trades = found.trades

    def _load(self, paths: list[Path], venue: str) -> None:
        readers = read_captures(paths)
        for _, line in in_order(readers, venue):
            if line.kind == "ws":
                self._frames.append(line.payload)
                self._recv_ns.append(line.recv_ns)
            elif line.kind == "rest":
                self._answers.setdefault((_path(line.url), _words(line.url)), line.payload)
            elif line.kind == "connect":
                self.ws_host = urlsplit(line.url).hostname or ""
        for reader in readers:
            self.skipped.update(reader.skipped)
            if reader.damage:
                self.damage.append(reader.damage)
        if not self._frames:
            raise CaptureUnreadable(f"{', '.join(map(str, paths))}: no message of a WebSocket is in there")

    @property
    def symbols(self) -> list[str]:
        """As a configuration can name them."""
        return sorted(map(self._written, self.instruments))

    def _written(self, instrument: Instrument) -> str:
        try:
            return self._adapter.venue_symbol(instrument.symbol)
        except InvalidArgument:  # a pair of rare currencies, in one word
            return f"{instrument.base}/{instrument.quote}"

    # ---- time ---------------------------------------------------------------------------------

    async def play(self, crowd: Crowd, send: Send) -> None:
        async for at in in_pace(self._recv_ns, self._speed, crowd):
            self._position = at + 1  # it has happened, whoever hears of it
            endpoint = self._endpoint(self._frames[at])
            if endpoint not in self._awaited:
                await self._someone_at(endpoint, crowd)
            await send(Message(endpoint, self._frames[at]))

    async def _someone_at(self, endpoint: str, crowd: Crowd) -> None:
        """A client has its connections made one after the other; one that it does not make is not waited for."""
        self._awaited.add(endpoint)
        for _ in range(PATIENCE):
            if crowd.wants(endpoint):
                return
            await asyncio.sleep(LOOK_SECONDS)

    def _endpoint(self, frame: bytes) -> str:
        """Of a venue with several addresses: at which a feed asks for such a frame, wherever it was recorded."""
        if self._endpoint_of is None:
            return EVERYTHING
        channel = _CHANNEL.search(frame)
        return self._endpoint_of(channel[1].decode() if channel else "")

    def endpoint_at(self, path: str) -> str:
        """What a client gets that is connected there."""
        return EVERYTHING if self._endpoint_of is None else path[max(0, path.find("/ws/")) :]

    def now_ns(self) -> int:
        return self._recv_ns[max(0, self._position - 1)]

    def progress(self) -> Progress:
        total = len(self._frames)
        return Progress(self._position, total, self.now_ns() // NS_PER_MS, self._position >= total)

    # ---- answers ------------------------------------------------------------------------------

    def answer(self, target: str) -> bytes | None:
        serve = self._made.get(_path(target).rstrip("/"))
        if serve is not None:
            return msgspec.json.encode(serve(self.instruments, self.now_ns()))
        return self._answers.get((_path(target), _words(target)))


class PlaybackEmulator(EmulatorBase):
    """`await start()`, then `url` and `rest_url`; `await stop()` in the end."""

    def __init__(self, source: Playback, host: str = "127.0.0.1", port: int = 0, *, expose: bool = False) -> None:
        super().__init__(source, host, port, expose=expose)
        self.playback = source

    @property
    def ws_url(self) -> str:
        """With the recorded host, by which a feed knows which of the venue's protocols was spoken (`venue_of`)."""
        return f"{self.url}/{self.playback.ws_host}" if self.playback.ws_host else self.url

    def _on_request(self, socket: ServerConnection, request: Request) -> Response | None:
        if "Upgrade" in request.headers:
            return None
        self._rest_requests += 1
        body = self.playback.answer(request.path)
        if body is None:
            return response_of(404, b'{"error":["not in the recording"],"message":"not in the recording"}')
        return response_of(200, body)

    async def _listen(self, client: Client) -> None:
        request = client.socket.request
        wanted = self.playback.endpoint_at(_path(request.path if request else ""))
        async for _ in client.socket:
            self._subscribe(client, [wanted])


def _path(url: str) -> str:
    return urlsplit(url).path.rstrip("/")


def _words(url: str) -> Words:
    """Of what was asked: the pair, say. Numbers are how many and from when on: a recording has what it has."""
    return frozenset((name, value) for name, value in parse_qsl(urlsplit(url).query) if not value.isdecimal())
