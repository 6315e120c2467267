"""The supervisor's end of the control socket: a ROUTER that actors and operators speak to.

What comes from an actor's name (Pong, Done, Failure) goes to `heard`; an operator's request (Status, Reload,
Stop) to `serve`, whose reply goes back to whoever asked. Anything else gets a Failure and is counted.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from marketd.daemon import metrics
from marketd.daemon.control import CONTROL
from marketd.ipc import paths, protocol
from marketd.ipc.protocol import Done, Failure, Message, Pong, Reload, Status, Stop
from marketd.market.errors import MarketdError, ProtocolError

logger = logging.getLogger(__name__)

SOCKET_MODE = 0o600  # whoever may open it may stop the daemon
MAX_REQUESTS = 32  # of operators, at a time
_HIGH_WATER = 1000
_LINGER_MS = 500  # the Done of a `marketd stop` must still leave
_REFUSED = metrics.counter("control_refused_total", "Messages on the control socket that were refused")

type_heard = Callable[[str, Pong | Done | Failure], None]
type_serve = Callable[[Status | Reload | Stop], Awaitable[Message]]


class ControlServer:
    """Listens from construction until `close`."""

    def __init__(self, runtime_dir: Path, heard: type_heard, serve: type_serve) -> None:
        self._heard = heard
        self._serve = serve
        self._decoder = protocol.Decoder(protocol.ToSupervisor)
        self._requests: set[asyncio.Task[None]] = set()
        self._context = zmq.asyncio.Context()
        self._router: Any = self._context.socket(zmq.ROUTER)
        # an actor that was replaced comes back under its name while its predecessor's connection still ends
        self._router.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._router.setsockopt(zmq.MAXMSGSIZE, protocol.MAX_HEADER_BYTES)
        self._router.setsockopt(zmq.SNDHWM, _HIGH_WATER)
        self._router.setsockopt(zmq.RCVHWM, _HIGH_WATER)
        self._router.setsockopt(zmq.LINGER, _LINGER_MS)
        url = paths.socket_url(runtime_dir, CONTROL)
        mask = os.umask(0o777 & ~SOCKET_MODE)  # never open to others, not even between bind and chmod
        try:
            self._router.bind(url)
        finally:
            os.umask(mask)
        self._task = asyncio.create_task(self._listen(), name="control server")

    @property
    def task(self) -> asyncio.Task[None]:
        return self._task

    def send(self, name: str, message: Message) -> None:
        """To an actor; dropped when it is not connected."""
        self._reply(name.encode(), message)

    async def close(self) -> None:
        """After the replies that are being made."""
        if self._requests:
            await asyncio.wait(self._requests, timeout=1.0)
        for task in (self._task, *self._requests):
            task.cancel()
        await asyncio.gather(self._task, *self._requests, return_exceptions=True)
        self._context.destroy(linger=_LINGER_MS)

    async def _listen(self) -> None:
        while True:
            sender, *frames = await self._router.recv_multipart()
            try:
                self._dispatch(sender, frames)
            except ProtocolError as error:
                self._refuse(sender, frames, error)

    def _dispatch(self, sender: bytes, frames: list[bytes]) -> None:
        if len(frames) != 1:
            raise ProtocolError(f"frames: a control message is 1 frame, this one has {len(frames)}", field="frames")
        message = self._decoder.decode(frames[0])
        if isinstance(message, (Pong, Done, Failure)):
            self._heard(sender.decode(errors="replace"), message)
        elif len(self._requests) >= MAX_REQUESTS:
            busy = Failure(id=message.id, code="busy", message=f"{MAX_REQUESTS} requests are being served; try again")
            self._reply(sender, busy)
        else:
            task = asyncio.create_task(self._answer(sender, message), name=f"operator's {type(message).__name__}")
            self._requests.add(task)
            task.add_done_callback(self._requests.discard)

    async def _answer(self, sender: bytes, request: Status | Reload | Stop) -> None:
        try:
            reply = await self._serve(request)
        except MarketdError as error:
            reply = Failure(code=error.code, message=str(error), field=error.field)
        except Exception as error:  # the supervision border: no request may end the supervisor
            logger.exception("a request failed: %s", type(request).__name__, extra={"action": "request_failed"})
            reply = Failure(code="error", message=f"{type(error).__name__}: {error}")
        reply.id = request.id
        self._reply(sender, reply)

    def _refuse(self, sender: bytes, frames: list[bytes], error: ProtocolError) -> None:
        _REFUSED.inc()
        logger.warning("a control message was refused: %s", error, extra={"action": "control_refused"})
        request_id = protocol.request_id(frames[0]) if frames else 0
        self._reply(sender, Failure(id=request_id, code=error.code, message=str(error), field=error.field))

    def _reply(self, receiver: bytes, message: Message) -> None:
        """A ROUTER drops what it cannot route at once; it never waits."""
        self._router.send_multipart([receiver, protocol.encode(message)])
