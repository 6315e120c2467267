"""The frame: what the journal is made of. Pure: bytes in, frames out.

A frame is one batch of one instrument with everything derived from it, under one checksum. Little-endian,
8-byte aligned, a multiple of 8 bytes long:

    length u32     the whole frame
    crc32 u32      zlib's, over everything after this field
    magic u16, version u8, sections u8, flags u16, reserved u16, instrument u32, pad u32
    offset i64     its own logical offset, so that a stale frame never looks fresh
    durable i64    the offset known to be durable when it was written: a bad frame below it is damage, not a torn tail
    seq i64        of the first record
    ts_known i64   of all of them
    sections ×     kind u16, itemsize u16, count u32
    payloads       in the order of the sections, each padded to 8

`decode` answers any bytes with a frame or a FrameError. Unknown flags are kept and ignored: a reader of today
can skip what a writer of tomorrow adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from mmap import mmap
from struct import Struct
from struct import error as StructError
from typing import Any, NamedTuple
from zlib import crc32

import msgspec
import numpy as np

from marketd.ipc.journal_errors import FrameCorrupt, FrameError, FrameTruncated, FrameUnsupported
from marketd.market.errors import InvalidArgument

HEADER = Struct("<IIHBBHHIIqqqq")
SECTION = Struct("<HHI")
HEADER_BYTES = HEADER.size
SECTION_BYTES = SECTION.size
CRC_FROM = 8  # length and the checksum itself are not under the checksum; a wrong length fails it all the same
MAGIC = 0x6D46
VERSION = 1
CHECKPOINT = 1  # flag: the first frame of a segment, one section CHECKPOINT_KIND
PIECE = 2  # flag: the section has a piece of a checkpoint, see `marketd.ipc.checkpoints`
CHECKPOINT_KIND = 0  # the writer's own state, opaque here; no kind of market/records.py has the number 0
MAX_SECTIONS = 255

_unpack_header, _pack_header = HEADER.unpack_from, HEADER.pack_into
_iter_sections = SECTION.iter_unpack
_pack_crc = Struct("<I").pack_into
_new: Any = tuple.__new__  # half the cost of a NamedTuple's own __new__, for the millions of frames of a replay
_OFFSET_WORD = 3  # the offset is the fourth 8-byte word of a frame
_ZEROS = bytes(8)

Buffer = Any  # anything with a C-contiguous buffer: bytes, memoryview, a numpy array of records
SectionInput = tuple[int, int, int, Buffer]  # kind id, itemsize, count, the records


class Section(NamedTuple):
    """Records of one kind; `payload` has count × itemsize bytes (`numpy.frombuffer` reads it)."""

    kind: int
    itemsize: int
    count: int  # type: ignore[assignment]  # tuple.count is of no use here, and the name is the field's
    payload: memoryview


class Frame(NamedTuple):
    offset: int
    end: int
    durable: int
    flags: int
    instrument: int
    seq: int
    ts_known: int
    sections: tuple[Section, ...]

    @property
    def is_checkpoint(self) -> bool:
        """The writer's own state, or a piece of it, and no records."""
        return bool(self.flags & (CHECKPOINT | PIECE))

    @property
    def begins_segment(self) -> bool:
        return bool(self.flags & CHECKPOINT)


class Body(msgspec.Struct, frozen=True, gc=False):
    """All of a frame behind its header, as it stands there: the table of sections, then their padded payloads."""

    count: int  # of sections
    data: bytes


NO_BODY = Body(0, b"")


def body_of(sections: Sequence[SectionInput]) -> Body:
    """Raises InvalidArgument when a section is not what it says, or there are too many of them."""
    if len(sections) > MAX_SECTIONS:
        raise InvalidArgument(
            f"sections: {len(sections)} of them; a frame has at most {MAX_SECTIONS}", field="sections"
        )
    table, payloads = [], []
    try:
        for kind, itemsize, count, buffer in sections:
            table.append(SECTION.pack(kind, itemsize, count))
            payloads.append(buffer)
            size, given = itemsize * count, memoryview(buffer).nbytes
            if given != size:
                raise ValueError(f"{given} bytes where {count} records of {itemsize} should be")
            if size & 7:
                payloads.append(_ZEROS[size & 7 :])
        return Body(len(sections), b"".join(table + payloads))
    except (StructError, ValueError, TypeError, BufferError) as error:
        raise InvalidArgument(f"sections: {error}", field="sections") from error


def frame_bytes(body: Body) -> int:
    """How long the frame of this body is."""
    return HEADER_BYTES + len(body.data)


def encode_into(
    target: mmap,
    view: memoryview,
    at: int,
    length: int,
    offset: int,
    durable: int,
    flags: int,
    instrument: int,
    seq: int,
    ts_known: int,
    body: Body,
) -> None:
    """Write a frame of `length` = frame_bytes(body) into `target` at `at`; `view` is a memoryview of it.

    Positional and flat, because it is the hot path of the ingest actor. Raises InvalidArgument when a number does not
    fit; then the bytes at `at` are undefined, and nothing counts them as a frame.
    """
    try:
        _pack_header(
            target, at, length, 0, MAGIC, VERSION, body.count,
            flags, 0, instrument, 0, offset, durable, seq, ts_known,
        )  # fmt: skip
    except StructError as error:
        raise InvalidArgument(f"frame: {error}", field="frame") from error
    end = at + length
    target[at + HEADER_BYTES : end] = body.data
    _pack_crc(target, at + 4, crc32(view[at + CRC_FROM : end]))


def encode(
    offset: int,
    sections: Sequence[SectionInput] | Body,
    *,
    durable: int = 0,
    flags: int = 0,
    instrument: int = 0,
    seq: int = 0,
    ts_known: int = 0,
) -> bytes:
    """One frame as bytes."""
    body = sections if isinstance(sections, Body) else body_of(sections)
    length = frame_bytes(body)
    with mmap(-1, length) as target, memoryview(target) as view:
        encode_into(target, view, 0, length, offset, durable, flags, instrument, seq, ts_known, body)
        return bytes(view)


def decode(view: memoryview, at: int = 0, offset: int | None = None) -> Frame:
    """The frame at `at`, its payloads without a copy; with `offset`, only if it says that it is this one.

    Raises FrameTruncated when `view` ends inside it,
    FrameCorrupt when it is none, FrameUnsupported when it is whole but of another version.
    """
    available = len(view) - at
    if available < HEADER_BYTES:
        raise FrameTruncated(f"{available} bytes are no header of {HEADER_BYTES}")
    length, crc, magic, version, count, flags, _, instrument, _, own, durable, seq, ts_known = _unpack_header(view, at)
    if magic != MAGIC or length < HEADER_BYTES or length & 7:
        raise FrameCorrupt(f"no frame: magic {magic:#06x}, length {length}")
    if length > available:
        raise FrameTruncated(f"a frame of {length} bytes, of which {available} are there")
    if crc != crc32(view[at + CRC_FROM : at + length]):
        raise FrameCorrupt(f"the checksum of a frame of {length} bytes does not hold")
    if version != VERSION:
        raise FrameUnsupported(f"a frame of version {version}; version {VERSION} is read here")
    if (own if offset is None else offset) != own or own < 0:
        raise FrameCorrupt(f"a frame of offset {own} where {offset} should be")
    sections = _sections(view, at + HEADER_BYTES, at + length, count)
    frame: Frame = _new(Frame, (own, own + length, durable, flags, instrument, seq, ts_known, sections))
    return frame


def _sections(view: memoryview, table: int, end: int, count: int) -> tuple[Section, ...]:
    data = table + SECTION_BYTES * count
    if data > end:
        raise FrameCorrupt(f"{count} sections do not fit into the {end - table} bytes behind a header")
    sections = []
    for kind, itemsize, items in _iter_sections(view[table:data]):
        stop = data + itemsize * items
        if stop > end:
            raise FrameCorrupt(f"{items} records of kind {kind} reach beyond their frame")
        sections.append(_new(Section, (kind, itemsize, items, view[data:stop])))
        data = (stop + 7) & ~7
    if data != end:
        raise FrameCorrupt(f"{end - data} bytes of the frame belong to no section")
    return tuple(sections)


class Header(NamedTuple):
    """What a look at a header tells before the rest of the frame was read or checked."""

    length: int
    offset: int


def peek(view: memoryview, at: int = 0) -> Header | None:
    """Length and offset that a header claims, unchecked; None where no frame begins or the header is cut."""
    if len(view) - at < HEADER_BYTES:
        return None
    length, _, magic, *_, offset, _, _, _ = _unpack_header(view, at)
    if magic != MAGIC or length < HEADER_BYTES or length & 7:
        return None
    return Header(length, offset)


def find_frames(view: memoryview, at: int, offset: int) -> list[Frame]:
    """Whole frames that lie where they say, at any 8-byte step from `at` on; `offset` is the offset of `at`.

    This is how the end of a torn tail is told from a hole in the middle: frames behind a bad one, found again
    by the offset they carry.
    """
    words = np.frombuffer(view[at : at + (len(view) - at) // 8 * 8], dtype="<i8")
    own = words[_OFFSET_WORD:]
    candidates = np.flatnonzero(own == offset + 8 * np.arange(len(own), dtype=np.int64))
    found = []
    for step in candidates.tolist():
        try:
            found.append(decode(view, at + 8 * step, offset + 8 * step))
        except FrameError:
            continue  # eight bytes that happened to equal their place
    return found
