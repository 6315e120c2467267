"""Recorded traffic: readers of the capture formats, told apart by their first line.

    raw         `<time> <JSON as received>`. A bare depth snapshot among the messages is a REST answer.
    marketd     raw with lines that begin with "#" between: `#marketd-capture 1 <venue> <url>` first, then
                `#connect <ns> <url>`, `#sent <ns> <text>`, `#rest <ns> <url> <body>`. Written by `capture_writer`.
    cryptofeed  `<time>: <JSON>`, `wss://… <-> <time>` (connected), `wss://… <- <time>: <text>` (sent),
                `https://… -> <time>: <body>` (REST; ` header: <JSON>` may follow). What was received as bytes stands
                there as Python writes it, `b'…'`, packed or not.
    json        cryptofeed's newer one, a JSON object a line (`capture_json`).

Times are s, ms, µs or ns since 1970, told apart by their magnitude; s and ms may have decimals. Files may be packed
(`capture_files`). A torn tail, as a killed writer leaves it, is read up to the damage; `damage` says so afterwards.
Lines that are none of these are counted in `skipped`, by reason, never dropped in silence.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Literal

import msgspec

from marketd.daemon.feeds.capture_files import TORN, CaptureUnreadable, open_capture
from marketd.daemon.feeds.capture_json import JSON_LINE, read_json
from marketd.daemon.feeds.capture_lines import MAX_LINE_BYTES, CaptureLine, Kind, as_received, time_ns, time_to_ns
from marketd.daemon.feeds.capture_order import merged
from marketd.daemon.feeds.venue_signs import is_of
from marketd.market.errors import InvalidArgument

Format = Literal["raw", "marketd", "cryptofeed", "json"]

HEADER = b"#marketd-capture 1 "
LOOKED_AT = 2_000  # lines of a file, for what stands nowhere in it
MAX_FIRST_LINES = 100  # of no known format, before one is: a file may begin in the middle of a line, or with remarks
_MARK = b"\xef\xbb\xbf"  # with which some editors begin a text
_RAW_LINE = re.compile(rb"(\d{9,20}(?:\.\d+)?)[ \t]+(.*)", re.DOTALL)
_STREAM_OF = re.compile(rb'\{"stream": ?"([^"@]+)@')
_HEADER_OF_ANSWER = b" header: {"
_CRYPTOFEED = re.compile(rb"(\w+://\S+) (<->|<-|->) (\d+(?:\.\d+)?)(?:: (.*))?", re.DOTALL)
_CRYPTOFEED_LINE = re.compile(rb"(\d+(?:\.\d+)?): (.*)", re.DOTALL)
_CRYPTOFEED_KINDS: dict[bytes, Kind] = {b"<->": "connect", b"<-": "sent", b"->": "rest"}
_MARKETD_KINDS: dict[bytes, Kind] = {b"#connect": "connect", b"#sent": "sent", b"#rest": "rest"}


class CaptureReader:
    """Iterate once (or again: from the start). Raises CaptureUnreadable for a file of no known format."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.damage: str | None = None
        self.skipped: Counter[str] = Counter()
        self.url = ""  # of the newest connection
        self.venue = ""
        self.is_over = False  # all of it was read
        self.format = self._find_format()

    def _find_format(self) -> Format:
        unknown: list[bytes] = []
        for line in self._lines():
            if line.startswith(HEADER):
                self._read_header(line)
                return "marketd"
            if JSON_LINE.match(line):
                return "json"
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
        self.is_over = False
        if self.format == "json":
            yield from read_json(self._lines, self.skipped)
        else:
            yield from self._read_lines()
        self.is_over = True

    def _read_lines(self) -> Iterator[CaptureLine]:
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
        recv_ns = time_ns(match[1]) if match else None
        if match is None or recv_ns is None:
            return self._skip("blank" if not line.strip() else "unreadable")
        payload = match[2]
        if payload.startswith(b'{"lastUpdateId"') and self.format == "raw":
            return CaptureLine(recv_ns, "rest", self._snapshot_url, payload)
        return CaptureLine(recv_ns, "ws", self.url, payload)

    @cached_property
    def _snapshot_url(self) -> str:
        """A bare snapshot does not say of which symbol it is; it is the file's, if that is of one alone."""
        found = {match[1] for line in islice(self._lines(), LOOKED_AT) if (match := _STREAM_OF.search(line))}
        return f"depth?symbol={found.pop().decode('ascii', 'replace').upper()}" if len(found) == 1 else "depth"

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
            recv_ns, payload = time_ns(match[1]), as_received(match[2])
            if recv_ns is None or payload is None:
                return self._skip("unreadable")
            return CaptureLine(recv_ns, "ws", self.url, payload)
        match = _CRYPTOFEED.fullmatch(line)
        recv_ns = time_ns(match[3]) if match else None
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


def in_order(readers: Sequence[CaptureReader], venue: str = "") -> Iterator[tuple[CaptureReader, CaptureLine]]:
    """The lines of a recording's files, in the order in which they were received. Those of another venue than this
    one, which a file may have, too, are left out, and counted in its `skipped`.
    """
    for number, line in merged([reader.__iter__ for reader in readers]):
        if not venue or is_of(venue, line.url):
            yield readers[number], line
        else:
            readers[number].skipped["of another venue"] += 1


def read_captures(paths: list[Path]) -> list[CaptureReader]:
    """Readers of files that are one recording."""
    if not paths:
        raise InvalidArgument("capture: name at least one file", field="capture")
    return [CaptureReader(path) for path in paths]


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
    "in_order",
    "read_captures",
    "time_to_ns",
]
