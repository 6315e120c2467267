"""The exchange of `marketd emulate`, which notes when it hands each frame to its socket: for `bench_live`.

    python exchange_with_clock.py VENUE SPEED LOG FILE…

Prints a line of JSON with its addresses and symbols, and "ended" when the recording is over; LOG is then a capture of
what was sent, with the times (time.time_ns) at which it was. Ends with its stdin.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from websockets.asyncio.server import ServerConnection

from marketd.daemon.feeds.emulator import CaptureSource, Emulator, Playback, PlaybackEmulator
from marketd.daemon.feeds.emulator.base import EmulatorBase
from marketd.daemon.feeds.emulator.source import Crowd, Send


def exchange(venue: str, speed: str, files: Sequence[str]) -> tuple[EmulatorBase, Any, list[str]]:
    """As `marketd emulate` makes it; what it plays, and the symbols."""
    if venue.startswith("BINANCE"):
        source = CaptureSource(files, speed=speed)
        return Emulator(source, venue=venue), source, sorted(source.rules)
    playback = Playback(files, venue, speed=speed)
    return PlaybackEmulator(playback), playback, playback.symbols


def _clocked() -> list[tuple[int, bytes]]:
    """From now on each frame that is handed to a socket, and when."""
    sent: list[tuple[int, bytes]] = []
    send = ServerConnection.send

    async def send_now(socket: ServerConnection, frame: Any, text: bool | None = None) -> None:
        sent.append((time.time_ns(), frame))
        await send(socket, frame, text=text)

    ServerConnection.send = send_now  # type: ignore[method-assign, assignment]
    return sent


async def main() -> None:
    venue, speed, log, *files = sys.argv[1:]
    emulator, source, symbols = exchange(venue, speed, files)
    ended = asyncio.Event()
    play = source.play

    async def play_to_the_end(crowd: Crowd, send: Send) -> None:
        await play(crowd, send)
        ended.set()

    source.play = play_to_the_end
    sent = _clocked()
    await emulator.start()
    print(json.dumps({"ws_url": emulator.ws_url, "rest_url": emulator.rest_url, "symbols": symbols}), flush=True)
    await ended.wait()
    await asyncio.sleep(1.0)  # until the last frames are out of the queues of the sockets
    await asyncio.to_thread(Path(log).write_bytes, b"".join(b"%d %s\n" % each for each in sent))
    print("ended", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await emulator.stop()


if __name__ == "__main__":
    asyncio.run(main())
