"""The process of a flusher; `flush_process` is the other end, and tells why it is made so."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from pathlib import Path

import msgspec

from marketd.ipc.flush_process import MAX_MESSAGE_BYTES, RING, HandOver, News
from marketd.ipc.flush_words import LOOK_SECONDS, fence
from marketd.ipc.front import Front
from marketd.ipc.journal_flusher import Flusher
from marketd.ipc.journal_store import SegmentStore
from marketd.ipc.lifeline import die_with
from marketd.ipc.segments import list_segments


class AppenderGone(Exception):
    """The process that appends has ended, or let go: there is nobody to flush for, and its successor finds all."""


class SocketLine:
    """The flusher's end of the socket pair."""

    def __init__(self, connection: socket.socket, front: Front) -> None:
        self._socket = connection
        self._words = front.words
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def clear(self) -> None:
        try:
            while self._socket.recv(len(RING), socket.MSG_DONTWAIT):
                pass
        except BlockingIOError:
            return
        except ConnectionResetError:
            pass
        raise AppenderGone

    def wait(self, seconds: float | None) -> bool:
        return bool(self._poll.poll(1000 * (LOOK_SECONDS if seconds is None else seconds)))

    def tell_durable(self, durable: int) -> None:
        self._ring()

    def tell_room(self) -> None:
        self._ring()

    def _ring(self) -> None:
        fence()
        if self._words.listening:  # J3 listening-before-look: `durable` and `spare_ready` are stored
            try:
                self._socket.send(RING, socket.MSG_DONTWAIT)
            except BlockingIOError:
                pass  # it has rings enough
            except (BrokenPipeError, ConnectionResetError):
                raise AppenderGone from None

    def tell_blocked(self, reason: str | None) -> None:
        self._socket.send(msgspec.msgpack.encode(News(blocked=reason)))

    def tell_failed(self, error: BaseException) -> None:
        self._socket.send(msgspec.msgpack.encode(News(failed=str(error) or repr(error))))


def flusher_of(order: HandOver) -> Flusher:
    front = Front.adopt(order.front_fd)
    directory = Path(order.directory)
    store = SegmentStore(
        directory, segment_bytes=order.segment_bytes, budget_bytes=front.words.budget_bytes, sync=os.fdatasync
    )
    store.resume(list_segments(directory), front.uuid)
    return Flusher(
        front,
        store,
        order.pace,
        boundaries=order.boundaries,
        newest_needed_bytes=order.newest_needed_bytes,
        blocked=order.blocked,
    )


def main() -> None:
    # whoever stops the daemon stops the one that appends, and that one says when all is handed over
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    message = connection.recv(MAX_MESSAGE_BYTES)
    if not message:
        return
    order = msgspec.msgpack.decode(message, type=HandOver)
    if not die_with(order.parent):
        return
    flusher = flusher_of(order)
    line = SocketLine(connection, flusher.front)
    try:
        flusher.run(line)
    except AppenderGone:
        return
    except Exception as error:  # the border of the process: whatever it is, nothing may be acknowledged after it
        line.tell_failed(error)
        sys.exit(1)
