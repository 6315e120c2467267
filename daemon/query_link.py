"""Ingest's line to the query actor: ingest knows no database, and asks like any other client, without ever waiting.

One request at a time; whoever is not answered asks again later.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import zmq

from marketd.ipc import protocol, sockets
from marketd.ipc.protocol import Answer, Failure, Request
from marketd.market.errors import ProtocolError

ANSWER_SECONDS = 5.0


class QueryLink:
    """`ask`, then `poll` `socket`, then `take`."""

    def __init__(self, context: zmq.Context[Any], url: str) -> None:
        self.socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        sockets.configure(self.socket)
        self.socket.connect(url)
        self._decoder = protocol.Decoder(protocol.FromQuery)
        self._ids = itertools.count(1)
        self._asked = 0
        self._until = 0.0

    @property
    def busy(self) -> bool:
        """Whether an answer is still awaited."""
        return self._asked != 0 and time.monotonic() < self._until

    def ask(self, request: Request) -> bool:
        """Whether the request is on its way; False when it could not be queued."""
        request.id = next(self._ids)
        request.timeout_ms = round(ANSWER_SECONDS * 1000)
        if not sockets.send_message(self.socket, request):
            return False
        self._asked = request.id
        self._until = time.monotonic() + ANSWER_SECONDS
        return True

    def take(self) -> tuple[Answer | Failure, list[Any]] | None:
        """The answer to the request, with its payloads, if it is there."""
        while True:
            try:
                received = sockets.receive(self.socket, self._decoder)
            except ProtocolError:
                continue  # not ours to judge: the request will be made again
            if received is None:
                return None
            message, payloads = received
            if message.id == self._asked and isinstance(message, (Answer, Failure)):
                self._asked = 0
                return message, payloads

    def close(self) -> None:
        self.socket.close(linger=0)
