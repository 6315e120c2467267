"""A venue's WebSocket as `session` reads it: whole messages lie in a list as soon as their bytes were read.

The library's own way, a queue and a coroutine that waits for it, wakes a task for each message that comes by itself;
one that is in the list wakes only whoever handles it. What the library still does: handshake, framing, limits, pings
and the end, which `recv` tells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.frames import DATA_OPCODES, Frame, Opcode

MAX_PENDING = 20_000  # messages that were read and not taken: beyond, nothing is read until they are


class VenueSocket(ClientConnection):
    """For `connect(create_connection=VenueSocket)`. Never `recv` a message of it: that waits until it is closed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._messages: list[bytes] = []
        self._begun = bytearray()  # of a message that comes in pieces: `max_size` bounds it
        self._is_paused = self._is_deaf = False
        self.on_message: Callable[[], None] = _nobody  # called when the first of the list came

    @property
    def waiting(self) -> int:
        """Messages that were read and not taken."""
        return len(self._messages)

    def process_event(self, event: Any) -> None:
        if self.response is None or not isinstance(event, Frame) or event.opcode not in DATA_OPCODES:
            super().process_event(event)
        elif not self._is_deaf:
            self._hear(event)

    def _hear(self, frame: Frame) -> None:
        message = bytes(frame.data)
        if frame.opcode is Opcode.CONT or not frame.fin:
            self._begun += message
            if not frame.fin:
                return
            message = bytes(self._begun)
            self._begun.clear()
        self._messages.append(message)
        count = len(self._messages)
        if count == 1:
            self.on_message()
        elif count >= MAX_PENDING and not self._is_paused:
            self._is_paused = True
            self.transport.pause_reading()

    def take(self, most: int) -> list[bytes]:
        """The oldest messages, at most so many; reading goes on."""
        taken = self._messages[:most]
        del self._messages[:most]
        if self._is_paused:
            self._is_paused = False
            self.transport.resume_reading()
        return taken

    def stop_listening(self) -> None:
        """Forget what was not taken, and what comes from now on: it would follow a hole."""
        self._is_deaf = True
        self.take(len(self._messages))


def _nobody() -> None:
    """Its messages wait until somebody listens."""
