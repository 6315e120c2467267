"""The journals below a state directory: found, named, and their frames told in words.

The live one is `journal`; imports have theirs further below. A journal's name is its path below the state directory, so
that what `marketd journal list` prints can be typed again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from marketd.client.books import frame_of
from marketd.client.frames import Frame as Rows
from marketd.daemon.settings import Config
from marketd.ipc import segments
from marketd.ipc.book_parts import read_part
from marketd.ipc.frames import CHECKPOINT_KIND, Frame, Section
from marketd.ipc.journal_errors import JournalMissing
from marketd.ipc.journal_reader import JournalReader
from marketd.market.errors import InvalidArgument, MarketdError, UnknownStream
from marketd.market.instruments import Instrument, global_instrument
from marketd.market.records import Kind

LIVE = "journal"
_DEPTH = 4  # directories below the state directory that are looked into
_SKIPPED = frozenset(("postgres", "capture"))


class JournalLine(NamedTuple):
    """One journal as `list` shows it."""

    name: str
    directory: Path
    uuid: str
    segments: int
    oldest: int
    newest: int  # where its newest segment begins
    disk_bytes: int
    changed_ns: int


def find_journals(state_dir: Path) -> list[JournalLine]:
    """All below a state directory, the live one first."""
    found = [describe(directory, state_dir) for directory in _directories(state_dir)]
    return sorted((line for line in found if line is not None), key=lambda line: (line.name != LIVE, line.name))


def locate(name: str, config: Config) -> Path:
    """The directory that a name of `list`, or a path, means. Raises JournalMissing naming those that there are."""
    for directory in (config.state_path / name, Path(name)):
        if directory.is_dir() and any(directory.glob("*.seg")):
            return directory
    known = ", ".join(line.name for line in find_journals(config.state_path)) or "none"
    raise JournalMissing(
        f"there is no journal {name!r} below {config.state_path} (there are: {known}), and no directory of that name "
        "has one"
    )


def describe(directory: Path, state_dir: Path) -> JournalLine | None:
    """None when it went away while we looked."""
    try:
        files = segments.list_segments(directory)
        stats = [file.path.stat() for file in files]
        uuid = segments.read_header(files[-1]).uuid.hex()
    except FileNotFoundError:
        return None
    except MarketdError:
        uuid = "damaged"
    return JournalLine(
        str(directory.relative_to(state_dir)),
        directory,
        uuid,
        len(files),
        files[0].first,
        files[-1].first,
        sum(stat.st_blocks * 512 for stat in stats),
        max(stat.st_mtime_ns for stat in stats),
    )


def _directories(state_dir: Path) -> Iterator[Path]:
    for root, directories, files in os.walk(state_dir):
        path = Path(root)
        depth = len(path.relative_to(state_dir).parts)
        directories[:] = [d for d in sorted(directories) if d not in _SKIPPED and depth < _DEPTH]
        if any(name.endswith(".seg") for name in files):
            yield path


# ---- frames in words ----------------------------------------------------------------------------


class _RegistryFile(msgspec.Struct):
    """What is read here of the daemon's file of ids."""

    instruments: list[Instrument] = []


class Names:
    """Instruments and kinds by their numbers, as a configuration and its state directory know them."""

    def __init__(self, config: Config) -> None:
        self._kinds = config.kinds()
        self._instruments = {instrument.id: instrument for instrument in _registered(config.state_path)}

    def instrument(self, number: int) -> str:
        found = self._instruments.get(number)
        return found.name if found else str(number)

    def instrument_id(self, name: str) -> int | None:
        """The number of a name or of a number in digits; None when there is no such name."""
        if name.isdigit():
            return int(name)
        return next((i.id for i in reversed(self._instruments.values()) if name in (i.name, i.symbol)), None)

    def section(self, kind: int, count: int) -> str:
        """`trade ×3`"""
        name = "checkpoint" if kind == CHECKPOINT_KIND else self._kind_name(kind)
        return name if name in ("checkpoint", "producer", "quarantine") else f"{name} ×{count}"

    def rows(self, frame: Frame) -> Iterator[tuple[Kind, Rows]]:
        """The market records of a frame; sections of the daemon's own and of unknown kinds are left out."""
        for section in frame.sections:
            kind = self._kind(section)
            if kind is not None:
                records = read_part(kind, section.count, section.payload)  # books: as deep as they were written
                instrument = self._instruments.get(frame.instrument) or _unnamed(frame.instrument)
                yield kind, frame_of(kind, instrument, records)

    def _kind(self, section: Section) -> Kind | None:
        try:
            kind = self._kinds.by_id(section.kind)
        except UnknownStream:
            return None
        is_ours = kind.name == "book" or kind.dtype.itemsize == section.itemsize
        return kind if kind.name not in ("producer", "quarantine") and is_ours else None

    def _kind_name(self, number: int) -> str:
        try:
            return self._kinds.by_id(number).name
        except UnknownStream:
            return f"kind {number}"


def frames(directory: Path, start: int | None = None) -> Iterator[Frame]:
    """From an offset on, or from the newest checkpoint, to the end. Raises JournalDamaged, and InvalidArgument for an
    offset at which no frame begins."""
    with JournalReader(directory) as reader:
        if start is not None:
            _check_start(reader, start)
        offset = reader.newest_checkpoint if start is None else start
        while found := reader.read(offset):
            yield from found
            offset = found[-1].end


def _check_start(reader: JournalReader, start: int) -> None:
    begin, end = reader.around(start)
    if start > end:
        raise InvalidArgument(f"--from: the journal ends at offset {end}, before {start}", field="from")
    if start not in (begin, end):
        raise InvalidArgument(
            f"--from: {start} lies inside a frame; frames begin at {begin} and, behind it, at {end}", field="from"
        )


def _registered(state_dir: Path) -> list[Instrument]:
    """Read beside a daemon that owns the file; none when there is none that can be read."""
    try:
        return msgspec.json.decode((state_dir / "registry.json").read_bytes(), type=_RegistryFile).instruments
    except (OSError, msgspec.MsgspecError):
        return []


def _unnamed(number: int) -> Instrument:
    """Scales are not known: its numbers are shown as they stand in the journal."""
    changes: dict[str, Any] = {"id": number, "symbol": str(number), "price_scale": 0, "size_scale": 0, "quote_scale": 0}
    return msgspec.structs.replace(global_instrument(1), **changes)
