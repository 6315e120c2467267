"""Recorded traffic: readers of the capture formats, told apart by their first line.

    raw         `<time> <JSON as received>`. A bare depth snapshot among the messages is a REST answer.
    marketd     raw with lines that begin with "#" between: `#marketd-capture 1 <venue> <url>` first, then
                `#connect <ns> <url>`, `#sent <ns> <text>`, `#rest <ns> <url> <body>`. Written by `capture_writer`.
    cryptofeed  `<time>: <JSON>`, `wss://… <-> <time>` (connected), `wss://… <- <time>: <text>` (sent),
                `https://… -> <time>: <body>` (REST; ` header: <JSON>` may follow). What was received as bytes stands
                there as Python writes it, `b'…'`, packed or not.

Times are s, ms, µs or ns since 1970, told apart by their magnitude; s and ms may have decimals. Files may be packed
(`capture_files`). A torn tail, as a killed writer leaves it, is read up to the damage; `damage` says so afterwards.
Lines that are none of these are counted in `skipped`, by reason, never dropped in silence.
"""

from __future__ import annotations

import ast
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from marketd.daemon.feeds.capture_files import TORN, CaptureUnreadable, open_capture
from marketd.market.errors import InvalidArgument
from marketd.market.times import NS_PER_MS, NS_PER_SECOND, NS_PER_US

Kind = Literal["ws", "rest", "sent", "connect"]
Format = Literal["raw", "marketd", "cryptofeed"]

HEADER = b"#marketd-capture 1 "
MAX_LINE_BYTES = 64 << 20
MAX_FIRST_LINES = 100  # of no known format, before one is: a file may begin in the middle of a line, or with remarks
_MARK = b"\xef\xbb\xbf"  # with which some editors begin a text
_RAW_LINE = re.compile(rb"(\d{9,20}(?:\.\d+)?)[ \t]+(.*)", re.DOTALL)
_HEADER_OF_ANSWER = b" header: {"
_TIME = re.compile(r"(\d+)(?:\.(\d+))?")
_UNITS = (
    # (times below this, ns of one): s until 5138, ms until 5138, µs until 5138; ns since 1973
    (10**11, NS_PER_SECOND),
    (10**14, NS_PER_MS),
    (10**17, NS_PER_US),
)
_LAST_NS = 2**63 - 1
_CRYPTOFEED = re.compile(rb"(\w+://\S+) (<->|<-|->) (\d+(?:\.\d+)?)(?:: (.*))?", re.DOTALL)
_CRYPTOFEED_LINE = re.compile(rb"(\d+(?:\.\d+)?): (.*)", re.DOTALL)
_CRYPTOFEED_KINDS: dict[bytes, Kind] = {b"<->": "connect", b"<-": "sent", b"->": "rest"}
_MARKETD_KINDS: dict[bytes, Kind] = {b"#connect": "connect", b"#sent": "sent", b"#rest": "rest"}


class CaptureLine(NamedTuple):
    """One recorded event. `url` is the connection's or the REST request's; "" where the file does not say."""

    recv_ns: int
    kind: Kind
    url: str
    payload: bytes


class CaptureReader:
    """Iterate once (or again: from the start). Raises CaptureUnreadable for a file of no known format."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.damage: str | None = None
        self.skipped: Counter[str] = Counter()
        self.url = ""  # of the newest connection
        self.venue = ""
        self.format = self._find_format()

    def _find_format(self) -> Format:
        unknown: list[bytes] = []
        for line in self._lines():
            if line.startswith(HEADER):
                self._read_header(line)
                return "marketd"
            if _CRYPTOFEED.fullmatch(line) or _CRYPTOFEED_LINE.fullmatch(line):
                return "cryptofeed"
            if _RAW_LINE.fullmatch(line):
                return "raw"
            if line.strip() and not line.startswith(b"configuration"):
                unknown.append(line[:80])
                if len(unknown) >= MAX_FIRST_LINES:
                    break
        if unknown:
            raise CaptureUnreadable(
                f"{self.path}: the first line is of no known capture format: {unknown[0]!r}; "
                "known are '<ns> <JSON>', cryptofeed's, and what marketd writes with capture.raw"
            )
        raise CaptureUnreadable(f"{self.path}: nothing in it can be read{f' ({self.damage})' if self.damage else ''}")

    def __iter__(self) -> Iterator[CaptureLine]:
        self.damage = None
        self.skipped.clear()
        read = self._read_cryptofeed if self.format == "cryptofeed" else self._read_raw
        for line in self._lines():
            parsed = read(line)
            if parsed is not None:
                yield parsed

    def _lines(self) -> Iterator[bytes]:
        number = 0
        with open_capture(self.path) as file:
            while True:
                try:
                    line = file.readline(MAX_LINE_BYTES)
                except TORN as error:
                    self.damage = f"{self.path}: damaged after line {number} ({error}); everything before it was read"
                    return
                if not line:
                    return
                number += 1
                line = line.removeprefix(_MARK) if number == 1 else line
                if not line.endswith(b"\n") and not _is_whole(line):
                    self.damage = f"{self.path}: line {number}, the last, is cut off; everything before it was read"
                    return
                yield line.rstrip(b"\r\n")

    # ---- raw and marketd ----------------------------------------------------------------------

    def _read_raw(self, line: bytes) -> CaptureLine | None:
        if line.startswith(b"#"):
            return self._read_remark(line)
        match = _RAW_LINE.fullmatch(line)
        recv_ns = _time_ns(match[1]) if match else None
        if match is None or recv_ns is None:
            return self._skip("blank" if not line.strip() else "unreadable")
        payload = match[2]
        is_snapshot = payload.startswith(b'{"lastUpdateId"') and self.format == "raw"
        kind: Kind = "rest" if is_snapshot else "ws"
        return CaptureLine(recv_ns, kind, "depth" if is_snapshot else self.url, payload)

    def _read_remark(self, line: bytes) -> CaptureLine | None:
        if line.startswith(HEADER):
            self._read_header(line)
            return self._skip("header")
        word, _, rest = line.partition(b" ")
        kind = _MARKETD_KINDS.get(word)
        ns, _, rest = rest.partition(b" ")
        if kind is None or not ns.isdigit():
            return self._skip("remark")
        if kind == "sent":
            return CaptureLine(int(ns), kind, self.url, rest)
        url, _, body = rest.partition(b" ")
        text = url.decode("utf-8", "replace")
        if kind == "connect":
            self.url = text
        return CaptureLine(int(ns), kind, text, body)

    def _read_header(self, line: bytes) -> None:
        venue, _, url = line[len(HEADER) :].decode("utf-8", "replace").partition(" ")
        self.venue, self.url = venue, url

    # ---- cryptofeed ---------------------------------------------------------------------------

    def _read_cryptofeed(self, line: bytes) -> CaptureLine | None:
        match = _CRYPTOFEED_LINE.fullmatch(line)
        if match is not None:
            recv_ns, payload = _time_ns(match[1]), _as_received(match[2])
            if recv_ns is None or payload is None:
                return self._skip("unreadable")
            return CaptureLine(recv_ns, "ws", self.url, payload)
        match = _CRYPTOFEED.fullmatch(line)
        recv_ns = _time_ns(match[3]) if match else None
        if match is None or recv_ns is None:
            return self._skip(
                "blank" if not line.strip() else "configuration" if line.startswith(b"configuration") else "unreadable"
            )
        kind, url, text = _CRYPTOFEED_KINDS[match[2]], match[1].decode("utf-8", "replace"), match[4] or b""
        if kind == "connect":
            self.url = url
        elif kind == "rest":
            text = text.partition(_HEADER_OF_ANSWER)[0]
        return CaptureLine(recv_ns, kind, url, text)

    def _skip(self, reason: str) -> CaptureLine | None:
        self.skipped[reason] += 1
        return None


def read_captures(paths: list[Path]) -> list[CaptureReader]:
    """Readers of files that are one recording, in the order they are given."""
    if not paths:
        raise InvalidArgument("capture: name at least one file", field="capture")
    return [CaptureReader(path) for path in paths]


def time_to_ns(text: str) -> int:
    """Decimal s, ms, µs or ns since 1970 to ns, exactly (a float would be off by up to 200 ns)."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"{text!r} is no time")
    whole = int(match[1])
    unit = next((ns for below, ns in _UNITS if whole < below), 1)
    return whole * unit + int((match[2] or "0")[:9].ljust(9, "0")) * unit // NS_PER_SECOND


def _time_ns(text: bytes) -> int | None:
    """None for a time that no clock shows."""
    ns = time_to_ns(text.decode()) if len(text) < 40 else _LAST_NS
    return ns if ns < _LAST_NS else None


def _as_received(text: bytes) -> bytes | None:
    """A message that was received as bytes, which Python writes as `b'…'`; None when it cannot be read."""
    if text[:2] not in (b"b'", b'b"'):
        return text
    with suppress(ValueError, SyntaxError, UnicodeDecodeError, MemoryError, RecursionError, zlib.error):
        found = ast.literal_eval(text.decode())
        if isinstance(found, bytes):
            if found[:1] in (b"{", b"[", b"p"):  # as messages begin; what is packed is raw deflate
                return found
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(found, MAX_LINE_BYTES)
    return None


def _is_whole(line: bytes) -> bool:
    """Whether a last line without its line end is complete: the JSON it ends with can be read, or there is none."""
    start = min((at for at in (line.find(b"{"), line.find(b"[")) if at >= 0), default=-1)
    if start < 0:
        return b" <-> " in line
    try:
        msgspec.json.decode(line[start:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


__all__ = [
    "HEADER",
    "MAX_LINE_BYTES",
    "CaptureLine",
    "CaptureReader",
    "CaptureUnreadable",
    "Format",
    "Kind",
    "read_captures",
    "time_to_ns",
]
