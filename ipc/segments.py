"""Segment files: how a journal lies on disk, and what one of its files holds.

A journal is a directory of files `<first offset, 20 digits>.seg`. A segment covers the offsets from its own first one
to the first one of its successor; frames never span two. Each file is

    header   64 bytes: magic, version, header size, journal uuid, first offset, creation time, crc32
    frames   from byte 64 on, byte 64 + x holds offset first + x; the first frame is a checkpoint
    zeros    the preallocated rest (cut off once a successor begins)

A file appears under its name only when its header is on disk, and only after its predecessor is on disk whole.
So whatever is wrong before the newest segment is damage; only the newest one can have a torn tail.

Nothing here knows of threads or of who writes; `marketd.ipc.journal_store` does.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from typing import NamedTuple
from zlib import crc32

import numpy as np

from marketd.ipc import frames
from marketd.ipc.frames import Frame
from marketd.ipc.journal_errors import FrameError, damaged
from marketd.market.errors import JournalDamaged

HEADER = Struct("<8sII16sqq12xI")
HEADER_BYTES = HEADER.size
MAGIC = b"MKTDSEG\n"
VERSION = 1
SPARE_NAME = "spare.tmp"  # the next segment, allocated ahead; becomes one by its header and a rename
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
FILE_MODE = 0o640

_NAME = re.compile(r"(\d{20})\.seg")


class SegmentHeader(NamedTuple):
    uuid: bytes
    first: int
    created_ns: int


class SegmentFile(NamedTuple):
    path: Path
    first: int  # as the name says

    @property
    def name(self) -> str:
        return self.path.name


class Scan(NamedTuple):
    """What a segment holds, read from its first frame on."""

    end: int  # the offset behind its last whole frame
    checkpoint: Frame | None  # its first frame, if that begins a segment
    frame_count: int
    flaw: str | None  # why the reading ended at `end`; None: nothing was ever written there
    dirty_bytes: int  # from `end` to the last byte that is not zero
    known_durable: int  # the greatest `durable` of frames found behind `end`, 0 if none

    @property
    def is_damaged(self) -> bool:
        """A frame behind the bad place was written when the bad place was on disk already."""
        return self.flaw is not None and self.known_durable > self.end


def segment_path(directory: Path, first: int) -> Path:
    return directory / f"{first:020d}.seg"


def list_segments(directory: Path) -> list[SegmentFile]:
    """The segments of a directory, oldest first; other files are not looked at."""
    names = filter(None, map(_NAME.fullmatch, os.listdir(directory)))
    return sorted((SegmentFile(directory / name[0], int(name[1])) for name in names), key=lambda segment: segment.first)


def pack_header(header: SegmentHeader) -> bytes:
    fields = (MAGIC, VERSION, HEADER_BYTES, header.uuid, header.first, header.created_ns)
    packed = HEADER.pack(*fields, 0)
    return HEADER.pack(*fields, crc32(packed[:-4]))


def unpack_header(data: bytes, segment: SegmentFile) -> SegmentHeader:
    """The header of a segment; JournalDamaged when it is none, or that of another place in the journal."""
    if len(data) < HEADER_BYTES:
        raise _damaged(segment, f"a file of {len(data)} bytes has no header of {HEADER_BYTES}")
    magic, version, _, uuid, first, created_ns, crc = HEADER.unpack_from(data)
    if magic != MAGIC or crc != crc32(data[: HEADER_BYTES - 4]):
        raise _damaged(segment, "its header is not one of a segment")
    if version != VERSION:
        raise _damaged(segment, f"it has layout version {version}; version {VERSION} is read here")
    if first != segment.first:
        raise _damaged(segment, f"its header says that it begins at {first}: a copy under another name?")
    return SegmentHeader(uuid, first, created_ns)


def _damaged(segment: SegmentFile, what: str) -> JournalDamaged:
    return damaged(segment.path.parent, segment.name, segment.first, what)


def read_header(segment: SegmentFile) -> SegmentHeader:
    with open(segment.path, "rb") as file:
        return unpack_header(file.read(HEADER_BYTES), segment)


def check_chain(segments: list[SegmentFile], uuid: bytes | None = None) -> bytes:
    """The uuid of a journal whose segments' headers all agree; JournalDamaged names the first that does not."""
    for segment in segments:
        header = read_header(segment)
        if uuid is not None and header.uuid != uuid:
            raise _damaged(segment, f"it belongs to journal {header.uuid.hex()}, the ones before it to {uuid.hex()}")
        uuid = header.uuid
    if uuid is None:
        raise ValueError("no segments")
    return uuid


def scan(data: memoryview, first: int, stop: int | None = None, take: Callable[[Frame], object] | None = None) -> Scan:
    """Read the frames of a segment's body (`data` begins behind the header); `stop` is the successor's first.

    `take` is called with each whole frame; a FrameError of its own ends the reading as a bad frame does.
    """
    body = data if stop is None else data[: max(0, stop - first)]
    at = count = 0
    checkpoint = None
    flaw = None
    while at < len(body):
        try:
            frame = frames.decode(body, at, first + at)
            if take is not None:
                take(frame)
        except FrameError as error:
            flaw = str(error)
            break
        if count == 0 and frame.begins_segment:
            checkpoint = frame
        count += 1
        at = frame.end - first
    dirty = _dirty_bytes(body[at:])
    if not dirty:
        return Scan(first + at, checkpoint, count, None, 0, 0)
    # A torn length can hide in an otherwise whole header; look from the next step on for frames that survived.
    later = frames.find_frames(body, at + 8, first + at + 8)
    known_durable = max((frame.durable for frame in later), default=0)
    return Scan(first + at, checkpoint, count, flaw, dirty, known_durable)


def _dirty_bytes(tail: memoryview) -> int:
    used = np.flatnonzero(np.frombuffer(tail, dtype="u1"))
    return int(used[-1]) + 1 if len(used) else 0


def read_body(segment: SegmentFile) -> memoryview:
    """All bytes of a segment behind its header."""
    return memoryview(segment.path.read_bytes())[HEADER_BYTES:]


def write_all(fd: int, view: memoryview, position: int) -> None:
    """pwrite until everything is written: one call may write less."""
    done = 0
    while done < len(view):
        with view[done:] as rest:
            done += os.pwrite(fd, rest, position + done)


def sync_directory(directory: Path) -> None:
    """Put a rename or a new file on disk."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
