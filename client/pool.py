"""The sockets that a client has open, and the ZeroMQ context they live in.

A pool belongs to the process (and event loop) that made it. A socket is lent to one call at a time; ZeroMQ allows
that to be another thread each time. The context ends with the last socket after `close`, so that nothing is pulled
away from under a call that is under way.

ZeroMQ connects again by itself and says nothing of what it lost meanwhile: a request may lie in the pipe of a daemon
that is gone. So each DEALER has a monitor, which tells of that (`was_cut`).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any

import zmq

from marketd.client.endpoints import Endpoints, require_running
from marketd.ipc import sockets
from marketd.market.errors import NotRunning

MAX_IDLE_SOCKETS = 16  # to one address; a burst of threads opens more and closes them again
CLIENT_HIGH_WATER = 64  # messages queued for a daemon that does not read
STREAM_HIGH_WATER = (
    10_000  # messages of a subscription that is not read; beyond it the daemon drops and we see the hole
)

Context = zmq.Context[zmq.Socket[bytes]]
Socket = Any  # zmq.Socket or zmq.asyncio.Socket
Make = Callable[[Context, int], Socket]


class SocketPool:
    """DEALER sockets by address, and SUB sockets, of one process."""

    def __init__(self, endpoints: Endpoints, make: Make) -> None:
        self.pid = os.getpid()
        self.closed = False
        self._endpoints = endpoints
        self._make = make
        self._context: Context = zmq.Context()
        self._idle: dict[str, list[Socket]] = {}
        self._open: set[Socket] = set()
        self._monitors: dict[Socket, Socket] = {}
        self._monitor_numbers = itertools.count()

    def __repr__(self) -> str:
        return f"<SocketPool of process {self.pid}: {len(self._open)} open>"

    def take(self, address: str) -> Socket:
        """A socket that is connected to `address`. Raises NotRunning when it is certain that nobody is there."""
        if self.closed:
            raise NotRunning("this client was closed; make a new one")
        # list.pop and list.append are atomic; a lock could be left locked in the child of a fork
        idle = self._idle.setdefault(address, [])
        try:
            socket = idle.pop()
        except IndexError:
            require_running(self._endpoints, address)
            return self._connect(zmq.DEALER, address, CLIENT_HIGH_WATER)
        self.was_cut(socket)  # while it was idle nothing was lost
        return socket

    def was_cut(self, socket: Socket) -> bool:
        """Whether a DEALER lost its peer since it was lent, or since this was asked: what had been sent may be lost."""
        monitor, told = self._monitors[socket], False
        while monitor.get(zmq.EVENTS) & zmq.POLLIN:
            monitor.recv_multipart()
            told = True
        return told

    def give_back(self, address: str, socket: Socket, *, healthy: bool) -> None:
        """The end of a loan; a socket that is not healthy is closed with whatever lies in it."""
        idle = self._idle.setdefault(address, [])
        if self.closed or not healthy or len(idle) >= MAX_IDLE_SOCKETS:
            self.drop(socket)
        else:
            idle.append(socket)

    def subscribe(self, topic: bytes) -> Socket:
        """A SUB socket on one topic; give it to `drop` in the end."""
        if self.closed:
            raise NotRunning("this client was closed; make a new one")
        require_running(self._endpoints, "stream")
        socket = self._connect(zmq.SUB, "stream", STREAM_HIGH_WATER)
        socket.set(zmq.SUBSCRIBE, topic)
        return socket

    def drop(self, socket: Socket) -> None:
        """Closes a socket for good."""
        monitor = self._monitors.pop(socket, None)
        if monitor is not None:
            socket.disable_monitor()
            monitor.close(0)
        socket.close(0)
        self._open.discard(socket)
        self._end_context()

    def close(self) -> None:
        """Closes what is idle now, and the rest when it is given back. Harmless when repeated."""
        self.closed = True
        for idle in self._idle.values():
            while idle:
                self.drop(idle.pop())
        self._end_context()

    def _connect(self, socket_type: int, address: str, high_water: int) -> Socket:
        socket = self._make(self._context, socket_type)
        self._open.add(socket)
        sockets.configure(socket, high_water=high_water)
        # Without it a request to a peer that is away waits in a queue and reaches it long after its deadline.
        socket.set(zmq.IMMEDIATE, 1)
        if socket_type == zmq.DEALER:
            self._monitors[socket] = self._monitored(socket)
        socket.connect(self._endpoints.url(address))
        return socket

    def _monitored(self, socket: Socket) -> Socket:
        name = f"inproc://monitor-{next(self._monitor_numbers)}"
        socket.monitor(name, zmq.EVENT_DISCONNECTED)
        monitor = self._context.socket(zmq.PAIR)
        monitor.connect(name)
        return monitor

    def _end_context(self) -> None:
        if self.closed and not self._open and not self._context.closed:
            self._context.term()
