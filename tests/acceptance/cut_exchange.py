"""An exchange whose connections a test cuts: the emulator in a thread of the test's own process.

    with CutExchange(files, speed="10") as exchange, DaemonUnderTest(place, exchange.venue()) as daemon:
        exchange.cut_at(moments_ms)
        exchange.unheard   # what was sent while nobody listened

Time goes on while nobody listens, so each cut loses what happens until the feed is back, and what was on its way.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

from marketd.daemon.feeds.emulator import CaptureSource, Emulator
from marketd.daemon.feeds.emulator.source import Crowd, Message, Send
from support import eventually_async

CUT_SECONDS = 60.0  # for one: until the market is there, and somebody is connected


class _Remembering(CaptureSource):
    """A recording that remembers what it sent to nobody."""

    def __init__(self, paths: Sequence[Path | str], *, speed: str) -> None:
        super().__init__(paths, speed=speed)
        self.unheard: list[Message] = []

    async def play(self, crowd: Crowd, send: Send) -> None:
        async def remembering(message: Message) -> None:
            if not crowd.wants(message.stream):
                self.unheard.append(message)
            await send(message)

        await super().play(crowd, remembering)


class CutExchange:
    """A context manager; the market begins with the first client."""

    def __init__(self, captures: Sequence[Path], *, speed: str = "10") -> None:
        self._source = _Remembering(captures, speed=speed)
        self._emulator = Emulator(self._source)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cut exchange", daemon=True)

    def venue(self, **settings: Any) -> str:
        """What points a daemon here, as TOML; a feed that comes back soon, since time is ten times as quick here."""
        values = {
            "symbols": sorted(self._source.rules),
            "ws_url": self._emulator.ws_url,
            "rest_url": self._emulator.rest_url,
            "reconnect_min": "20ms",
            "reconnect_max": "100ms",
            **settings,
        }
        return "[venues.BINANCE]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())

    def cut_at(self, moments_ms: Iterable[int]) -> int:
        """Cut all connections at each moment of the market, or as soon after it as there is one; how many times."""
        return sum(self._run(self._cut(moment)) for moment in moments_ms)

    @property
    def unheard(self) -> list[dict[str, Any]]:
        """The data of each message of a stream that nobody listened to when it was sent."""
        return [json.loads(message.frame)["data"] for message in self._source.unheard]

    @property
    def ended(self) -> bool:
        return self._emulator.progress().ended

    async def _cut(self, moment_ms: int) -> int:
        await eventually_async(lambda: self._source.now_ms() >= moment_ms and self._emulator.present, CUT_SECONDS)
        return bool(self._emulator.drop_connections())

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CUT_SECONDS)

    def __enter__(self) -> CutExchange:
        self._thread.start()
        self._run(self._emulator.start())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._emulator.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CUT_SECONDS)
        self._loop.close()
