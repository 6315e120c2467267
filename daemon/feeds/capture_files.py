"""Recorded files as lines' bytes, however they are packed: plain text, gzip, bzip2, xz, or Zstandard.

How a file is packed is told by its first bytes, never by its name. Zstandard needs PyArrow (the extra `parquet`): the
standard library has no reader of it.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

from marketd.market.errors import MarketdError

TORN = (EOFError, OSError, zlib.error, lzma.LZMAError)
"""What a damaged or cut off file raises while it is read."""


class CaptureUnreadable(MarketdError):
    """The file is no capture that marketd can read."""


def open_capture(path: Path) -> IO[bytes]:
    """The file's contents from the start. Raises CaptureUnreadable for one that is not there, or cannot be unpacked."""
    try:
        with open(path, "rb") as file:
            head = file.read(6)
        for magic, opener in _OPENERS:
            if head.startswith(magic):
                return cast("IO[bytes]", opener(path))
        return open(path, "rb")
    except OSError as error:
        raise CaptureUnreadable(f"{path}: {error.strerror or error}") from None


def _open_zstandard(path: Path) -> IO[bytes]:
    try:
        arrow: Any = importlib.import_module("pyarrow")
    except ImportError:
        raise CaptureUnreadable(
            f"{path}: it is packed with Zstandard, which needs PyArrow: pip install 'marketd[parquet]', or unpack it "
            "with `zstd -d` before"
        ) from None
    return cast("IO[bytes]", io.BufferedReader(arrow.CompressedInputStream(arrow.OSFile(str(path)), "zstd")))


_OPENERS: tuple[tuple[bytes, Callable[[Path], Any]], ...] = (
    # (how such a file begins, what unpacks it)
    (b"\x1f\x8b", gzip.GzipFile),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\x00", lzma.LZMAFile),
    (b"\x28\xb5\x2f\xfd", _open_zstandard),
)
