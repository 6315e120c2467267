"""One request and its answer, without sockets: numbers, deadlines, errors; plans of several requests.

A *plan* is a generator that yields `Call`s (and `Pause`s), receives `Reply`s and returns the result. All
that a client asks of a daemon is written once as a plan; `marketd.client.connection` drives it,
synchronously or in asyncio.
"""

from __future__ import annotations

import itertools
import random
import secrets
import time
from collections.abc import Generator, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from marketd.ipc import protocol, sockets
from marketd.ipc.protocol import Decoder, Failure, Request
from marketd.ipc.sockets import Payload
from marketd.market.errors import InvalidArgument, MarketdError, ProtocolError

Address = Literal["query", "ingest"]
T = TypeVar("T")

_decoders = {"query": Decoder(protocol.FromQuery), "ingest": Decoder(protocol.FromIngest)}
_ids = itertools.count(secrets.randbits(48))  # one sequence a process: an id is never used twice on a socket
MAX_TIMEOUT_SECONDS = 3600.0
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.02, 1.0


class Reply(NamedTuple):
    """The header of an answer and its raw frames."""

    message: Any
    payloads: list[Payload]
    latency_ns: int


class Call:
    """One request on its way. `resend_seconds`: send again, under the same id, when no answer came for so long."""

    __slots__ = ("address", "frames", "id", "message", "resend_seconds", "sent_ns")

    def __init__(
        self,
        address: Address,
        message: Request,
        frames: Sequence[Payload] = (),
        *,
        resend_seconds: float | None = None,
    ) -> None:
        self.address: Address = address
        self.message = message
        self.frames = frames
        self.resend_seconds = resend_seconds
        self.id = 0
        self.sent_ns = 0

    def __repr__(self) -> str:
        return f"<Call {type(self.message).__name__.lower()} to {self.address}>"

    def packed(self, deadline: float) -> list[Payload]:
        """The frames to send; the daemon is told how long the caller will still wait."""
        if not self.id:
            self.id = next(_ids)
            self.sent_ns = time.perf_counter_ns()
        self.message.id = self.id
        self.message.timeout_ms = max(1, round((deadline - time.monotonic()) * 1_000))
        return sockets.pack(self.message, self.frames)

    def accept(self, frames: Sequence[Payload]) -> Reply | None:
        """The reply in `frames`, or None when it answers an older request. Raises the error it bears."""
        message, payloads = sockets.unpack(frames, _decoders[self.address])
        if isinstance(message, Failure) and message.id in (self.id, 0):
            raise error_from(message)  # id 0: the daemon could not read even the id
        if message.id != self.id:
            return None
        return Reply(message, payloads, time.perf_counter_ns() - self.sent_ns)

    def unexpected(self, reply: Reply) -> MarketdError:
        return ProtocolError(f"{self!r} was answered with {type(reply.message).__name__.lower()}", field="type")


class Pause(NamedTuple):
    """What a plan yields to wait before it goes on."""

    seconds: float


Plan = Generator[Call | Pause, Reply, T]
PAUSED = Reply(None, [], 0)  # what a plan receives after a pause


def ask(call: Call, expected: type[T]) -> Plan[tuple[T, Reply]]:
    """Sends one call; its answer must be of `expected`."""
    reply = yield call
    if not isinstance(reply.message, expected):
        raise call.unexpected(reply)
    return reply.message, reply


def pause(attempt: int) -> Plan[None]:
    """Waits before the next attempt: twice as long each time up to a second, with jitter."""
    longest = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**attempt)
    yield Pause(longest * random.uniform(0.5, 1.0))


def deadline_after(timeout: float) -> float:
    """The monotonic time at which a budget of `timeout` seconds is used up; computed once, passed down."""
    if not 0 < timeout <= MAX_TIMEOUT_SECONDS:
        raise InvalidArgument(
            f"timeout: {timeout!r} is not a number of seconds in (0, {MAX_TIMEOUT_SECONDS:g}]",
            field="timeout",
        )
    return time.monotonic() + timeout


def _tree(root: type[MarketdError]) -> dict[str, type[MarketdError]]:
    classes = {root.code: root}
    for child in root.__subclasses__():
        classes |= _tree(child)
    return classes


def error_from(failure: Failure) -> MarketdError:
    """The exception that the daemon raised, rebuilt from its code; a code from a newer daemon is the base class."""
    error_class = _tree(MarketdError).get(failure.code)
    if error_class is None:
        return MarketdError(f"{failure.message} ({failure.code})", field=failure.field)
    return error_class(failure.message, field=failure.field)
