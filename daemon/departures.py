"""Callers that go away while their request is being answered: noticed by the end of their connection.

A ROUTER does not tell who left. Its monitor tells which file descriptor was closed, and each message which descriptor
it came by; so what a connection asked for ends with it, whether its owner closed it, was killed, or lost the network.
Descriptors are used again: read the events of ends (`departed`) before a new request is noted, because ZeroMQ's thread
writes them in that order.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

UNKNOWN = -1


class Departures:
    """Tasks by the connection that they work for. `socket` is a ROUTER of asyncio, not bound yet."""

    def __init__(self, socket: Any) -> None:
        address = f"inproc://departures-{os.getpid()}-{id(self)}"
        socket.monitor(address, zmq.EVENT_DISCONNECTED)
        self._watched = socket
        # not one of asyncio: it is read without waiting, between other things
        self._monitor: zmq.Socket[bytes] = zmq.Context(socket.context).socket(zmq.PAIR)
        self._monitor.connect(address)
        self._tasks: defaultdict[int, set[asyncio.Task[None]]] = defaultdict(set)

    def note(self, connection: int, task: asyncio.Task[None]) -> None:
        """`task` works for whoever is at the other end of `connection`, a number from `connection_of`."""
        if connection == UNKNOWN:
            return
        self._tasks[connection].add(task)
        task.add_done_callback(lambda done: self._forget(connection, done))

    def departed(self) -> list[asyncio.Task[None]]:
        """The tasks of connections that have ended since the last call."""
        found: list[asyncio.Task[None]] = []
        while (connection := self._next_end()) is not None:
            found += self._tasks.pop(connection, ())
        return found

    def close(self) -> None:
        """Before the watched socket is closed."""
        self._watched.disable_monitor()
        self._monitor.close(linger=0)

    def _next_end(self) -> int | None:
        try:
            event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            return None
        return int(event["value"])

    def _forget(self, connection: int, task: asyncio.Task[None]) -> None:
        tasks = self._tasks.get(connection)
        if tasks is not None:
            tasks.discard(task)
            if not tasks:
                del self._tasks[connection]


def connection_of(frames: Sequence[zmq.Frame]) -> int:
    """The connection that a message came by; UNKNOWN where ZeroMQ does not tell."""
    try:
        return int(frames[0].get(zmq.SRCFD))
    except (zmq.ZMQError, ValueError, IndexError):
        return UNKNOWN
