"""`daemon.json` in the runtime directory: how a client learns that a daemon is there, and what it needs
to find an instrument without asking.

The supervisor writes it when the sockets are bound (`write_presence`), again after a reload, and removes it when it
ends in good order. Readers take it as it is: a newer daemon may add fields, an older one may lack some.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from marketd.ipc.protocol import Stream
from marketd.market.errors import ProtocolError
from marketd.market.instruments import Instrument
from marketd.market.records import BOOK_DEPTH

FILE_NAME = "daemon.json"
INSTRUMENTS_NAME = "instruments.json"
MAX_BYTES = 16 << 20


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """What a daemon says of itself to processes on its host."""

    instance: str
    pid: int
    version: str
    daemon_no: int = 1
    timeframes: list[int] = []  # seconds
    streams: list[Stream] = []
    book_depth: int = BOOK_DEPTH  # levels a side of its books
    aliases: dict[str, str] = {}
    default_venue: str | None = None
    instruments: list[Instrument] = []


_decoder = msgspec.json.Decoder(Presence)


def presence_path(directory: Path) -> Path:
    return directory / FILE_NAME


def write_presence(directory: Path, presence: Presence) -> None:
    """Replaces the file in one step: a reader sees the old one or the new one, never half of either."""
    path = presence_path(directory)
    temporary = path.with_name(f".{FILE_NAME}.{os.getpid()}")
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(presence)))
    temporary.chmod(0o640)
    temporary.replace(path)


def write_instruments(directory: Path, instruments: Sequence[Instrument]) -> None:
    """Ingest's own list, replaced in one step whenever an instrument was declared or removed."""
    path = directory / INSTRUMENTS_NAME
    temporary = path.with_name(f".{INSTRUMENTS_NAME}.{os.getpid()}")
    temporary.write_bytes(msgspec.json.encode(instruments))
    temporary.chmod(0o640)
    temporary.replace(path)


def read_instruments(directory: Path) -> list[Instrument]:
    """What ingest has; empty when there is no ingest yet."""
    try:
        return msgspec.json.decode((directory / INSTRUMENTS_NAME).read_bytes(), type=list[Instrument])
    except FileNotFoundError:
        return []


def remove_presence(directory: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        presence_path(directory).unlink()


def read_presence(directory: Path) -> Presence | None:
    """The daemon's own words, or None when no daemon left any. ProtocolError when they cannot be read."""
    path = presence_path(directory)
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return _decoder.decode(text)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"{path}: {error}; remove the file if no daemon runs there", field=FILE_NAME) from None


def process_is_alive(pid: int) -> bool:
    """Whether a process of this host bears the id. One that cannot be seen (another owner) counts as alive."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
