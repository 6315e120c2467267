"""What the way from an exchange's socket to shared memory costs by itself: the floor of `bench_live`.

    python relay.py relay WS_URL VENUE SOCKET SYMBOL…   in the feed's place: each frame to ZeroMQ, as it came
    python relay.py write SOCKET FILE                   in ingest's place: counts them in a file that is mapped
    Watch(FILE)                                         looks at the count as `arena_watch` looks at arenas

The same exchange, the same three hops, the same poll at their end; no decoding, no book, no bars, no journal.
"""

from __future__ import annotations

import asyncio
import mmap
import sys
import threading
import time
from pathlib import Path

import zmq
from arena_watch import LOOK_SECONDS
from websockets.asyncio.client import connect

from marketd.daemon.async_actor import new_event_loop
from marketd.daemon.feeds.venues import venue_of

WORD = 8


async def relay(ws_url: str, venue: str, socket_url: str, *symbols: str) -> None:
    adapter = venue_of(venue, ws_url).adapter(book=True)
    streams = [stream for symbol in symbols for stream in adapter.streams(symbol)]
    url, by_message = adapter.connect_url(ws_url, streams)
    socket = zmq.Context().socket(zmq.PUSH)
    socket.connect(socket_url)
    async with connect(url, compression=None, ping_interval=None, max_size=None, proxy=None) as exchange:
        for command in adapter.commands("SUBSCRIBE", by_message, 1):
            await exchange.send(command)
        while True:
            socket.send(await exchange.recv(decode=False))


def write(socket_url: str, path: str) -> None:
    socket = zmq.Context().socket(zmq.PULL)
    socket.bind(socket_url)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), WORD) as memory, memoryview(memory).cast("Q") as words:
        while True:
            socket.recv()
            words[0] += 1


class Watch:
    """`with` it: a thread looks until the end; `seen_ns[n]` is when the n-th frame was first seen to be counted."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(WORD))
        self._path = path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="relay watch")
        self.seen_ns: list[int] = []

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        seen = self.seen_ns
        with (
            self._path.open("rb") as file,
            mmap.mmap(file.fileno(), WORD, access=mmap.ACCESS_READ) as memory,
            memoryview(memory).cast("Q") as words,
        ):
            while not self._stop.is_set():
                count = words[0]
                if count > len(seen):
                    seen += [time.time_ns()] * (count - len(seen))
                time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    if sys.argv[1] == "relay":
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(relay(*sys.argv[2:]))
    else:
        write(*sys.argv[2:])
