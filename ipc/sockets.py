"""ZeroMQ messages of a header and raw frames: sending, receiving, limits, PUB topics.

The only place that knows how a message of `marketd.ipc.protocol` lies in ZeroMQ frames:

    request, reply   header | payload …                (a ROUTER sees the peer's route in front)
    PUB              topic | StreamHeader | records

Everything is bounded: the high-water mark of each socket, the size and number of frames (`MAX_FRAMES`, the
limits of the protocol). A queue that is full or a peer that is gone is a return value (`False`), never an
exception and never a wait. What is no message raises ProtocolError at a DEALER; at a ROUTER it comes back
as a value beside the peer's route, so that it can be answered.
"""

from __future__ import annotations

import errno
import os
import socket as unix
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import zmq

from marketd.ipc import protocol
from marketd.ipc.protocol import Decoder, StreamHeader
from marketd.market.errors import MarketdError, ProtocolError

Payload = bytes | memoryview
MAX_FRAMES = 65  # the header and 64 payloads
HIGH_WATER_MESSAGES = 1_000  # queued to one peer
RECONNECT_MS, RECONNECT_MAX_MS = 20, 1_000  # backoff of a socket whose peer is away
SOCKET_MODE = 0o660  # connecting to a Unix socket is writing to it
HANDSHAKE_MS = 5_000  # a peer that connects and says nothing is dropped


def configure(
    socket: zmq.Socket[Any],
    *,
    high_water: int = HIGH_WATER_MESSAGES,
    max_frame_bytes: int = protocol.MAX_PAYLOAD_BYTES,
) -> None:
    """The limits that every socket of marketd has; before bind or connect.

    A frame that claims more than `max_frame_bytes` closes the peer's connection before its bytes are read.
    """
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.SNDHWM, high_water)
    socket.set(zmq.RCVHWM, high_water)
    socket.set(zmq.MAXMSGSIZE, max_frame_bytes)
    socket.set(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.set(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
    socket.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    if socket.get(zmq.TYPE) == zmq.ROUTER:
        # A reply to a peer that is gone or does not read must be countable; by default it vanishes.
        socket.set(zmq.ROUTER_MANDATORY, 1)


def bind(socket: zmq.Socket[Any], url: str) -> None:
    """Bind, and let the group in as well as the owner: whoever may read the arena may also ask."""
    socket.bind(url)
    if url.startswith("ipc://"):
        os.chmod(url.removeprefix("ipc://"), SOCKET_MODE)


def pack(message: msgspec.Struct, frames: Iterable[Payload] = (), *, route: bytes | None = None) -> list[Payload]:
    """The ZeroMQ frames of a message; `route` in front when it leaves by a ROUTER."""
    head: list[Payload] = [] if route is None else [route]
    return [*head, protocol.encode(message), *frames]


def send_frames(socket: zmq.Socket[Any], frames: Sequence[Any]) -> bool:
    """Whether the frames were queued; False when the queue is full or the peer is gone."""
    try:
        socket.send_multipart(frames, zmq.NOBLOCK)
    except zmq.Again:
        return False
    except zmq.ZMQError as error:
        if error.errno == errno.EHOSTUNREACH:
            return False
        raise
    return True


def send_message(
    socket: zmq.Socket[Any],
    message: msgspec.Struct,
    frames: Iterable[Payload] = (),
    *,
    route: bytes | None = None,
) -> bool:
    """Sends without waiting; False when the queue is full or the peer is gone (then nothing was sent)."""
    return send_frames(socket, pack(message, frames, route=route))


def check_frames(frames: Sequence[Payload]) -> None:
    """Raises ProtocolError for a message of no frames, too many, or too many bytes in all."""
    if not 1 <= len(frames) <= MAX_FRAMES:
        raise ProtocolError(f"a message of {len(frames)} frames; 1 to {MAX_FRAMES} are read", field="header")
    size = len(frames[1]) if len(frames) == 2 else protocol.total_bytes(frames[1:])
    if size > protocol.MAX_PAYLOAD_BYTES:
        raise ProtocolError(
            f"parts: a message with {size} bytes of records; at most {protocol.MAX_PAYLOAD_BYTES} are read",
            field="parts",
        )


def unpack(frames: Sequence[Payload], decoder: Decoder) -> tuple[Any, list[Payload]]:
    """Header and payloads of a message without its route; every flaw is a ProtocolError."""
    check_frames(frames)
    return decoder.decode(frames[0]), list(frames[1:])


class Received(NamedTuple):
    """One message at a ROUTER. Either `message` or `error` is set; `id` is the request's, 0 if it cannot be read."""

    route: bytes
    id: int
    message: Any
    payloads: list[Payload]
    error: MarketdError | None = None


def read_routed(frames: Sequence[bytes], decoder: Decoder) -> Received:
    """What a peer of a ROUTER sent; its faults are in `error`, so that they can be answered."""
    route, rest = frames[0], frames[1:]
    try:
        message, payloads = unpack(rest, decoder)
    except ProtocolError as error:
        readable = rest and len(rest[0]) <= protocol.MAX_HEADER_BYTES
        return Received(route, protocol.request_id(rest[0]) if readable else 0, None, [], error)
    return Received(route, message.id, message, payloads)


def receive_routed(socket: zmq.Socket[bytes], decoder: Decoder) -> Received | None:
    """The next message at a ROUTER, or None when there is none now."""
    try:
        frames = socket.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None
    return read_routed(frames, decoder)


def receive(socket: zmq.Socket[bytes], decoder: Decoder) -> tuple[Any, list[Payload]] | None:
    """The next message at a DEALER, or None when there is none now; ProtocolError for what is no message."""
    try:
        frames = socket.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None
    return unpack(frames, decoder)


def failure(error: MarketdError, request_id: int = 0) -> protocol.Failure:
    """The reply that says to a caller what `error` says here."""
    return protocol.Failure(id=request_id, code=error.code, message=str(error), field=error.field)


# ---- PUB ----------------------------------------------------------------------------------------


def topic(kind: str, venue: str, symbol: str, timeframe: str | None = None) -> bytes:
    """`trade.BINANCE.BTCUSDT.`, `candle.1m.BINANCE.BTCUSDT.`. The final dot keeps `BTCUSD` from matching `BTCUSDT`."""
    name = kind if timeframe is None else f"{kind}.{timeframe}"
    return f"{name}.{venue}.{symbol}.".encode()


_stream_decoder = msgspec.msgpack.Decoder(StreamHeader)


def read_stream(frames: Sequence[Payload]) -> tuple[bytes, StreamHeader, Payload]:
    """Topic, header and records of one PUB message; ProtocolError for what is none."""
    if len(frames) != 3:
        raise ProtocolError(f"a stream message of {len(frames)} frames; it has 3", field="header")
    try:
        header = _stream_decoder.decode(frames[1])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProtocolError(f"header of a stream message: {error}", field="header") from None
    return bytes(frames[0]), header, frames[2]


def somebody_listens(path: Path) -> bool:
    """Whether a process accepts connections at a Unix socket: a socket file outlives a killed process."""
    with unix.socket(unix.AF_UNIX, unix.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True  # its backlog is full: there is somebody, and busy
        except OSError:
            return False
    return True
