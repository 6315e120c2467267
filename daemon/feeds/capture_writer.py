"""`capture.raw`: the venue's frames as they came, in the format `marketd` of `captures`, as rotating gzip files.

A killed writer costs at most what came since the last flush: each flush ends a deflate block and reaches the
kernel, and `CaptureReader` reads a torn file up to its damage. Names are `<venue>-<UTC time of the first
line>.gz`, so that they sort in order of time.
"""

from __future__ import annotations

import gzip
import logging
import os
import re
import time
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, NamedTuple

from marketd.daemon.feeds.captures import HEADER
from marketd.market.errors import InvalidArgument

_log = logging.getLogger(__name__)

COMPRESSION = 3  # market data shrinks by 9 there; level 6 takes twice the time for a tenth less
FLUSH_SECONDS = 1.0  # at most so much is lost when the process is killed
_NAME = re.compile(r"[A-Z0-9_]+-\d{8}T\d{6}\.\d{6}(-\d+)?\.gz")


class CaptureStatistics(NamedTuple):
    files: int
    lines: int
    text_bytes: int
    deleted_files: int


class CaptureWriter:
    """One venue's capture. Not thread-safe; `write` may block for a disk write, as a log line does."""

    def __init__(
        self,
        directory: Path,
        venue: str,
        *,
        rotate_bytes: int = 1 << 30,
        rotate_seconds: float = 3600.0,
        budget_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if rotate_bytes < 1 or rotate_seconds <= 0:
            raise InvalidArgument("capture: rotate_bytes and rotate_seconds must be above 0", field="capture")
        self._directory = directory
        self._venue = venue
        self._rotate_bytes = rotate_bytes  # of text, before compression
        self._rotate_seconds = rotate_seconds
        self._budget_bytes = budget_bytes  # of files in the directory; the oldest go first. None: no limit
        self._clock = clock
        self._file: gzip.GzipFile | None = None
        self._raw: IO[bytes] | None = None
        self._opened = self._flushed = 0.0
        self._file_bytes = 0
        self._url = ""
        self._files = self._lines = self._text_bytes = self._deleted = 0
        directory.mkdir(parents=True, exist_ok=True)

    def connected(self, recv_ns: int, url: str) -> None:
        self._url = url
        self._remark("#connect", recv_ns, url.encode(), b"")

    def sent(self, recv_ns: int, text: bytes) -> None:
        self._remark("#sent", recv_ns, text, b"")

    def rest(self, recv_ns: int, url: str, body: bytes) -> None:
        self._remark("#rest", recv_ns, url.encode(), b" " + body)

    def frames(self, recv_ns: int, frames: Sequence[bytes]) -> None:
        """Messages of the WebSocket, all with the time at which the batch was read."""
        stamp = b"%d " % recv_ns
        self._write(recv_ns, b"".join([stamp + _one_line(frame) + b"\n" for frame in frames]), len(frames))

    def _remark(self, word: str, recv_ns: int, first: bytes, rest: bytes) -> None:
        self._write(recv_ns, word.encode() + b" %d " % recv_ns + _one_line(first + rest) + b"\n", 1)

    def _write(self, recv_ns: int, text: bytes, lines: int) -> None:
        now = self._clock()
        if self._file is not None and (
            self._file_bytes >= self._rotate_bytes or now - self._opened >= self._rotate_seconds
        ):
            self.close()
        file = self._file or self._open(recv_ns, now)
        file.write(text)
        self._file_bytes += len(text)
        self._text_bytes += len(text)
        self._lines += lines
        if now - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def _open(self, recv_ns: int, now: float) -> gzip.GzipFile:
        stamp = datetime.fromtimestamp(recv_ns // 1000 / 1e6, UTC).strftime("%Y%m%dT%H%M%S.%f")
        path = self._directory / f"{self._venue}-{stamp}.gz"
        number = 1
        while path.exists():
            path = self._directory / f"{self._venue}-{stamp}-{number}.gz"
            number += 1
        self._raw = open(path, "xb", opener=_private)  # noqa: SIM115 - lives until `close`
        self._file = gzip.GzipFile(filename="", mode="wb", compresslevel=COMPRESSION, fileobj=self._raw)
        self._file.write(HEADER + f"{self._venue} {self._url or '-'}\n".encode())
        self._opened = self._flushed = now
        self._file_bytes = 0
        self._files += 1
        self._keep_budget(path)
        return self._file

    def _keep_budget(self, current: Path) -> None:
        if self._budget_bytes is None:
            return
        mine = f"{self._venue}-"
        files = sorted(
            path for path in self._directory.iterdir() if path.name.startswith(mine) and _NAME.fullmatch(path.name)
        )
        total = sum(path.stat().st_size for path in files)
        for path in files:
            if total <= self._budget_bytes or path == current:
                return
            total -= path.stat().st_size
            path.unlink()
            self._deleted += 1
            _log.info(
                "capture %s was deleted: the directory is beyond its budget",
                path.name,
                extra={"action": "capture_deleted", "path": str(path)},
            )

    def flush(self) -> None:
        """Everything written so far can be read by others, and survives a kill of this process."""
        if self._file is not None and self._raw is not None:
            self._file.flush(zlib.Z_SYNC_FLUSH)
            self._raw.flush()
            self._flushed = self._clock()

    def close(self) -> None:
        """End the file; the next write begins another."""
        file, raw, self._file, self._raw = self._file, self._raw, None, None
        if file is not None:
            file.close()
        if raw is not None:
            raw.close()

    def statistics(self) -> CaptureStatistics:
        return CaptureStatistics(self._files, self._lines, self._text_bytes, self._deleted)


def _one_line(payload: bytes) -> bytes:
    """JSON does not need its line breaks; a frame of the venue rarely has any."""
    return payload if b"\n" not in payload else payload.replace(b"\r\n", b" ").replace(b"\n", b" ")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o640)
