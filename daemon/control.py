"""How an actor answers its supervisor: Ping with Pong, Reload and Stop with Done or Failure.

`Answers` is pure: a message's frames in, the reply's header out. `ControlChannel` is the socket around it for
an actor that owns a poll loop; `marketd.daemon.actor.AsyncActor` has the same for asyncio. Nothing that
arrives here may end an actor.

    poller = zmq.Poller()
    control.register(poller)
    while not actor.stopping:
        events = dict(poller.poll(timeout_ms))
        if control.called(events):
            control.read()              # or, with a socket loop of one's own: control.handle(frames)
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import zmq

from marketd.daemon import metrics
from marketd.ipc import paths, protocol
from marketd.ipc.protocol import Done, Failure, Message, Ping, Pong, Reload, Stop
from marketd.market.errors import MarketdError, ProtocolError

logger = logging.getLogger(__name__)

CONTROL = "control"
MAX_METRICS_BYTES = protocol.MAX_HEADER_BYTES - (64 << 10)  # leaves room for the statistics beside them
METRICS_SECONDS = 5.0  # rendering takes milliseconds, which ingest would feel at every Ping; scrapers come less often
LINGER_MS = 200
_HIGH_WATER = 100


class Controlled(Protocol):
    """What an actor lets its supervisor do."""

    name: str
    state: str

    def statistics(self) -> Mapping[str, Any]: ...
    def ask_to_stop(self, reason: str, budget_seconds: float | None = None) -> None: ...


class Answers:
    """Reads requests and makes replies; Reload is the caller's, because it may have to wait for something."""

    def __init__(self, actor: Controlled) -> None:
        self._actor = actor
        self._decoder = protocol.Decoder(protocol.Control)
        self._encoder = msgspec.msgpack.Encoder(enc_hook=_plain_number)
        self._rendered = -METRICS_SECONDS  # when the metrics were sent last, on time.monotonic

    def read(self, frames: Sequence[bytes]) -> Ping | Reload | Stop | Failure:
        """The request, or the Failure that is the reply to what is none."""
        header = frames[0] if frames else b""
        try:
            if len(frames) != 1:
                raise ProtocolError(f"frames: a control message is 1 frame, this one has {len(frames)}", field="frames")
            request: Ping | Reload | Stop = self._decoder.decode(header)
            return request
        except ProtocolError as error:
            return Failure(id=protocol.request_id(header), code=error.code, message=str(error), field=error.field)

    def answer(self, request: Ping | Stop | Failure) -> bytes:
        if isinstance(request, Ping):
            return self.pong(request.id)
        if isinstance(request, Stop):
            self._actor.ask_to_stop("the supervisor asks", request.timeout_ms / 1000)
            return protocol.encode(Done(id=request.id, detail="stopping"))
        logger.warning("a control message was refused: %s", request.message, extra={"action": "control_refused"})
        return protocol.encode(request)

    def pong(self, request_id: int = 0) -> bytes:
        """The answer to a Ping; without one (id 0) the news of another state, always with the metrics."""
        message = Pong(
            id=request_id,
            actor=self._actor.name,
            state=self._actor.state,
            metrics=self._metrics(time.monotonic(), always=not request_id),
            statistics={"pid": os.getpid(), **metrics.plain(self._actor.statistics())},
        )
        return self._encoder.encode(message)

    def _metrics(self, now: float, always: bool) -> bytes:
        """Empty when the last ones were sent a moment ago."""
        if not always and now - self._rendered < METRICS_SECONDS:
            return b""
        self._rendered = now
        exposition = metrics.exposition()
        if len(exposition) > MAX_METRICS_BYTES:
            logger.warning(
                "the metrics of %d bytes are too large for a message and are left out",
                len(exposition),
                extra={"action": "metrics_too_large"},
            )
            return b""
        return exposition


def reload_reply(request_id: int, error: BaseException | None, detail: str = "") -> Message:
    """The answer to a Reload that was done, or refused by an error."""
    if error is None:
        return Done(id=request_id, detail=detail)
    if isinstance(error, MarketdError):
        return Failure(id=request_id, code=error.code, message=str(error), field=error.field)
    return Failure(id=request_id, code="error", message=f"{type(error).__name__}: {error}")


def open_socket(context: zmq.Context[Any], name: str, runtime_dir: Path, *, connect: bool) -> zmq.Socket[bytes]:
    """The actor's DEALER. Without a supervisor it stays unconnected: a second process under the name of an
    actor that runs would take its place at the supervisor's ROUTER."""
    dealer: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.IDENTITY, name.encode())
    dealer.setsockopt(zmq.LINGER, LINGER_MS)
    dealer.setsockopt(zmq.SNDHWM, _HIGH_WATER)
    dealer.setsockopt(zmq.RCVHWM, _HIGH_WATER)
    dealer.setsockopt(zmq.MAXMSGSIZE, protocol.MAX_HEADER_BYTES)
    if connect:
        dealer.connect(paths.socket_url(runtime_dir, CONTROL))
    return dealer


class ControlChannel:
    """The channel of an actor that polls by itself. `socket` is a plain DEALER; `wake_fd` becomes readable
    when a signal came, because a signal alone does not end a poll."""

    def __init__(
        self,
        actor: Controlled,
        dealer: zmq.Socket[bytes],
        reload: Callable[[], str],
    ) -> None:
        self.socket = dealer
        self._answers = Answers(actor)
        self._reload = reload
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self.wake_fd = self._wake.fileno()

    def watch_signals(self) -> None:
        """From now on a signal that has a Python handler also wakes the poll."""
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)

    def register(self, poller: zmq.Poller) -> None:
        poller.register(self.socket, zmq.POLLIN)
        poller.register(self.wake_fd, zmq.POLLIN)

    def called(self, events: Mapping[Any, int]) -> bool:
        """Whether the poll's result has something for `read`."""
        return self.socket in events or self.wake_fd in events

    def read(self) -> None:
        """Answer everything that waits; never blocks."""
        while self._has_signals():
            pass
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self.handle(frames)

    def handle(self, frames: Sequence[bytes]) -> None:
        """Answer one message that the caller received from `socket`."""
        request = self._answers.read(frames)
        if isinstance(request, Reload):
            self.tell(protocol.encode(self._do_reload(request.id)))
        else:
            self.tell(self._answers.answer(request))

    def tell_state(self) -> None:
        """Say unasked how it stands, so that nobody waits for the next Ping."""
        self.tell(self._answers.pong())

    def tell(self, header: bytes) -> None:
        try:
            self.socket.send(header, zmq.NOBLOCK)
        except zmq.Again:  # no supervisor, or one that reads nothing: it asks again, or ends us
            logger.debug("nobody takes a control message", extra={"action": "control_unheard"})

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        self.socket.close()
        self._wake.close()
        self._waker.close()

    def _do_reload(self, request_id: int) -> Message:
        try:
            return reload_reply(request_id, None, self._reload())
        except Exception as error:  # the supervision border: a reload that fails is answered, the actor goes on
            logger.error("the reload was refused: %s", error, extra={"action": "reload_refused"})
            return reload_reply(request_id, error)

    def _has_signals(self) -> bool:
        try:
            return bool(self._wake.recv(4096))
        except BlockingIOError:
            return False


def _plain_number(value: object) -> Any:
    """numpy's numbers as Python's; anything else in words."""
    item = getattr(value, "item", None)
    return item() if callable(item) else str(value)
