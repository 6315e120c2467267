"""One line of a capture, of whatever format: what was received, and when. Pure."""

from __future__ import annotations

import ast
import re
import zlib
from contextlib import suppress
from typing import Literal, NamedTuple

from marketd.market.errors import InvalidArgument
from marketd.market.times import NS_PER_MS, NS_PER_SECOND, NS_PER_US

Kind = Literal["ws", "rest", "sent", "connect"]

MAX_LINE_BYTES = 64 << 20
_TIME = re.compile(r"(\d+)(?:\.(\d+))?")
_UNITS = (
    # (times below this, ns of one): s until 5138, ms until 5138, µs until 5138; ns since 1973
    (10**11, NS_PER_SECOND),
    (10**14, NS_PER_MS),
    (10**17, NS_PER_US),
)
_LAST_NS = 2**63 - 1


class CaptureLine(NamedTuple):
    """One recorded event. `url` is the connection's or the REST request's; "" where the file does not say."""

    recv_ns: int
    kind: Kind
    url: str
    payload: bytes
    conn: str = ""  # the connection, of formats that name it


def time_to_ns(text: str) -> int:
    """Decimal s, ms, µs or ns since 1970 to ns, exactly (a float would be off by up to 200 ns)."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"{text!r} is no time")
    whole = int(match[1])
    unit = next((ns for below, ns in _UNITS if whole < below), 1)
    return whole * unit + int((match[2] or "0")[:9].ljust(9, "0")) * unit // NS_PER_SECOND


def time_ns(text: bytes) -> int | None:
    """None for a time that no clock shows."""
    ns = time_to_ns(text.decode()) if len(text) < 40 else _LAST_NS
    return ns if ns < _LAST_NS else None


def as_received(text: bytes) -> bytes | None:
    """A message that was received as bytes, which Python writes as `b'…'`; None when it cannot be read."""
    if text[:2] not in (b"b'", b'b"'):
        return text
    with suppress(ValueError, SyntaxError, UnicodeDecodeError, MemoryError, RecursionError):
        found = ast.literal_eval(text.decode())
        if isinstance(found, bytes):
            return unpacked(found)
    return None


def unpacked(received: bytes) -> bytes | None:
    """Bytes as some venues send them: a message, or one that is packed by raw deflate; None when it cannot be read."""
    if received[:1] in (b"{", b"[", b"p"):  # as messages begin
        return received
    with suppress(zlib.error):
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(received, MAX_LINE_BYTES)
    return None
