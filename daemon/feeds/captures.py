"""Recorded traffic: readers of the capture formats, told apart by their first line.

    raw         `<ns> <JSON as received>`. A bare depth snapshot among the messages is a REST answer.
    marketd     raw with lines that begin with "#" between: `#marketd-capture 1 <venue> <url>` first, then
                `#connect <ns> <url>`, `#sent <ns> <text>`, `#rest <ns> <url> <body>`. Written by `capture_writer`.
    cryptofeed  `<s.frac>: <JSON>`, `wss://… <-> <s>` (connected), `wss://… <- <s>: <text>` (sent),
                `https://… -> <s>: <body>` (REST)

Files are gzip or plain text. A torn gzip tail, as a killed writer leaves it, is read up to the damage; `damage` says so
afterwards. Lines that are none of these are counted in `skipped`, by reason, never dropped in silence.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal, NamedTuple, cast

import msgspec

from marketd.market.errors import InvalidArgument, MarketdError
from marketd.market.times import NS_PER_SECOND

Kind = Literal["ws", "rest", "sent", "connect"]
Format = Literal["raw", "marketd", "cryptofeed"]

HEADER = b"#marketd-capture 1 "
MAX_LINE_BYTES = 64 << 20
_GZIP = b"\x1f\x8b"
_RAW_LINE = re.compile(rb"(\d{15,20}) (.*)", re.DOTALL)
_SECONDS = re.compile(r"(\d+)(?:\.(\d+))?")
_CRYPTOFEED = re.compile(rb"(\w+://\S+) (<->|<-|->) (\d+(?:\.\d+)?)(?:: (.*))?", re.DOTALL)
_CRYPTOFEED_LINE = re.compile(rb"(\d+(?:\.\d+)?): (.*)", re.DOTALL)
_CRYPTOFEED_KINDS: dict[bytes, Kind] = {b"<->": "connect", b"<-": "sent", b"->": "rest"}
_MARKETD_KINDS: dict[bytes, Kind] = {b"#connect": "connect", b"#sent": "sent", b"#rest": "rest"}


class CaptureUnreadable(MarketdError):
    """The file is no capture that marketd can read."""


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
        self._is_gzip = self._starts_with_gzip()
        self.format = self._find_format()

    def _starts_with_gzip(self) -> bool:
        try:
            with open(self.path, "rb") as file:
                return file.read(2) == _GZIP
        except OSError as error:
            raise CaptureUnreadable(f"{self.path}: {error.strerror or error}") from None

    def _find_format(self) -> Format:
        for line in self._lines():
            if line.startswith(HEADER):
                self._read_header(line)
                return "marketd"
            if _RAW_LINE.fullmatch(line):
                return "raw"
            if _CRYPTOFEED.fullmatch(line) or _CRYPTOFEED_LINE.fullmatch(line):
                return "cryptofeed"
            if line.strip() and not line.startswith(b"configuration"):
                raise CaptureUnreadable(
                    f"{self.path}: the first line is of no known capture format: {line[:80]!r}; "
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
        with _open(self.path, self._is_gzip) as file:
            while True:
                try:
                    line = file.readline(MAX_LINE_BYTES)
                except (EOFError, OSError, zlib.error) as error:
                    self.damage = f"{self.path}: damaged after line {number} ({error}); everything before it was read"
                    return
                if not line:
                    return
                number += 1
                if not line.endswith(b"\n") and not _is_whole(line):
                    self.damage = f"{self.path}: line {number}, the last, is cut off; everything before it was read"
                    return
                yield line.rstrip(b"\r\n")

    # ---- raw and marketd ----------------------------------------------------------------------

    def _read_raw(self, line: bytes) -> CaptureLine | None:
        if line.startswith(b"#"):
            return self._read_remark(line)
        match = _RAW_LINE.fullmatch(line)
        if match is None:
            return self._skip("blank" if not line.strip() else "unreadable")
        payload = match[2]
        is_snapshot = payload.startswith(b'{"lastUpdateId"') and self.format == "raw"
        kind: Kind = "rest" if is_snapshot else "ws"
        return CaptureLine(int(match[1]), kind, "depth" if is_snapshot else self.url, payload)

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
            return CaptureLine(seconds_to_ns(match[1].decode()), "ws", self.url, match[2])
        match = _CRYPTOFEED.fullmatch(line)
        if match is None:
            return self._skip(
                "blank" if not line.strip() else "configuration" if line.startswith(b"configuration") else "unreadable"
            )
        kind, url = _CRYPTOFEED_KINDS[match[2]], match[1].decode("utf-8", "replace")
        if kind == "connect":
            self.url = url
        return CaptureLine(seconds_to_ns(match[3].decode()), kind, url, match[4] or b"")

    def _skip(self, reason: str) -> CaptureLine | None:
        self.skipped[reason] += 1
        return None


def read_captures(paths: list[Path]) -> list[CaptureReader]:
    """Readers of files that are one recording, in the order they are given."""
    if not paths:
        raise InvalidArgument("capture: name at least one file", field="capture")
    return [CaptureReader(path) for path in paths]


def seconds_to_ns(text: str) -> int:
    """Decimal seconds since 1970 to ns, exactly (a float would be off by up to 200 ns)."""
    match = _SECONDS.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"{text!r} is no time in seconds")
    return int(match[1]) * NS_PER_SECOND + int((match[2] or "0")[:9].ljust(9, "0"))


def _open(path: Path, is_gzip: bool) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path)) if is_gzip else open(path, "rb")


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
