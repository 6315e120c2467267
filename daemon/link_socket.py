"""A DEALER in an asyncio loop, for one that sends and hears much: `zmq.asyncio` makes a future, and turns of the loop,
for each message either way, which cost a feed more than the decoding of a venue's message.

What came is handed on in the loop, all of it at once whenever ZeroMQ says that there is something. Its descriptor says
so once, and a send may take that word away, so each send looks too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from marketd.ipc import sockets

FULL_SECONDS = 0.01  # between two tries to send into a queue that is full
_POLLIN = int(zmq.POLLIN)  # flags of an enum are slow to combine
_NOBLOCK = int(zmq.NOBLOCK)
_NOBLOCK_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)


class LinkSocket:
    """`open()` in the loop, then `send` and `try_send`; `close()`."""

    def __init__(self, context: zmq.Context[Any], on_message: Callable[[list[bytes]], None], high_water: int) -> None:
        self._socket: zmq.Socket[bytes] = context.socket(zmq.DEALER, socket_class=zmq.Socket)
        sockets.configure(self._socket, high_water=high_water)
        self._on_message = on_message
        self._sending = asyncio.Lock()

    def open(self, url: str) -> None:
        self._socket.connect(url)
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._hear)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()

    async def send(self, frames: Sequence[Any]) -> None:
        """Waits while the queue is full; messages leave in the order of their calls. ZMQError for one that still waits
        when the socket is closed."""
        async with self._sending:
            while not self.try_send(frames):  # noqa: ASYNC110 - the word that there is room, any call may take away
                await asyncio.sleep(FULL_SECONDS)

    def try_send(self, frames: Sequence[Any]) -> bool:
        """False when the queue is full: then nothing was sent."""
        socket, last = self._socket, len(frames) - 1
        try:
            for place, frame in enumerate(frames):
                socket.send(frame, _NOBLOCK if place == last else _NOBLOCK_MORE)
        except zmq.Again:
            return False
        if int(socket.get(zmq.EVENTS)) & _POLLIN:
            self._hear()
        return True

    def _hear(self) -> None:
        receive = self._socket.recv
        while True:
            try:
                frame = receive(_NOBLOCK, copy=False)
            except zmq.Again:
                return
            frames = [frame.bytes]
            while frame.more:
                frame = receive(_NOBLOCK, copy=False)
                frames.append(frame.bytes)
            self._on_message(frames)
