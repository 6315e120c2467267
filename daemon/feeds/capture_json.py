"""cryptofeed's newer captures: one JSON object a line, one file a venue.

    {"t": "header", "format": 2, "exchange": "KRAKEN", …}
    {"t": "connect", "conn": "KRAKEN.ws.1", "ts": 1618678132.37, "addr": "wss://ws.kraken.com"}
    {"t": "send" or "recv", "conn": "KRAKEN.ws.1", "ts": …, "data": "…"}        "b64" in place of it: bytes
    {"t": "http", "conn": "KRAKEN.http.0", "ts": …, "url": "https://…", "data": "…"}

The connections of a file may stand in it one after the other, each from its beginning.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import msgspec

from marketd.daemon.feeds.capture_lines import CaptureLine, Kind, time_ns, unpacked
from marketd.daemon.feeds.capture_order import merged
from marketd.market.errors import InvalidArgument

JSON_LINE = re.compile(rb'\{"t": ?"(?:header|connect|send|recv|http)",')
_KINDS: dict[str, Kind] = {"connect": "connect", "send": "sent", "recv": "ws", "http": "rest"}
_UNREADABLE = (msgspec.MsgspecError, binascii.Error, UnicodeDecodeError, InvalidArgument)


class _Line(msgspec.Struct):
    t: str
    conn: str = ""
    ts: msgspec.Raw = msgspec.Raw(b"0")  # as it stands there
    addr: str = ""
    url: str = ""
    data: str = ""
    b64: str = ""


_line = msgspec.json.Decoder(_Line).decode


def read_json(lines: Callable[[], Iterator[bytes]], skipped: Counter[str]) -> Iterator[CaptureLine]:
    """All events of a file, in the order of their times. The file is read once for each of its connections."""
    conns: dict[str, None] = {}
    for text in lines():
        found = _read(text)
        if isinstance(found, str):
            skipped[found] += 1
        else:
            conns[found.conn] = None
    for _, line in merged([partial(_of_connection, lines, conn) for conn in conns]):
        yield line


def _of_connection(lines: Callable[[], Iterator[bytes]], conn: str) -> Iterator[CaptureLine]:
    url = ""
    for text in lines():
        found = _read(text)
        if isinstance(found, CaptureLine) and found.conn == conn:
            url = found.url or url
            yield found._replace(url=url)


def _read(text: bytes) -> CaptureLine | str:
    """An event, or why it is none."""
    try:
        line = _line(text)
        kind, recv_ns = _KINDS.get(line.t), time_ns(bytes(line.ts))
        received = unpacked(base64.b64decode(line.b64, validate=True)) if line.b64 else line.data.encode()
    except _UNREADABLE:
        return "unreadable" if text.strip() else "blank"
    if line.t == "header":
        return "header"
    if kind is None or recv_ns is None or received is None:
        return "unreadable"
    return CaptureLine(recv_ns, kind, line.url or line.addr, received, line.conn)
