"""Checkpoints of any size: how the writer's state gets into frames, and out of them again. Pure.

A state that fits into one frame is the first frame of a segment, whole (flag CHECKPOINT alone). A larger one is cut
into pieces (flag PIECE): the first one stands where the state was taken, the others follow one by one among the
records' frames, so that no state, however large, needs room at once or keeps an append waiting. A piece bears

    base i64    the offset of the frame where its state begins: replay goes on behind that frame
    at i64      the place of its bytes in the state
    total i64   how long the state is

and then its bytes. Each segment begins with such a frame: with a state, with the next piece of the one under way, or,
where it is too early for a new state, with a piece without bytes that names the last one. So from the first frame of
any segment the way back to a state is known. A state whose last piece is missing was never taken: the one before it
counts, and its segment was kept for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple, Protocol

from marketd.ipc.frames import CHECKPOINT, CHECKPOINT_KIND, HEADER_BYTES, PIECE, SECTION_BYTES, Frame, SectionInput
from marketd.ipc.journal_errors import FrameCorrupt

PLACE = Struct("<qqq")
OVERHEAD_BYTES = HEADER_BYTES + SECTION_BYTES + PLACE.size + 8  # of a frame with a piece, padding included
MAX_PIECE_BYTES = 256 << 10  # a tenth of a millisecond to copy and to check: an append must not feel it
READ_BYTES = 4 << 20


class Piece(NamedTuple):
    base: int
    at: int
    total: int
    data: memoryview


class State(NamedTuple):
    """A whole state as the journal has it."""

    base: int  # it is that of this offset
    replay_from: int  # behind the frame that begins it
    data: bytes


class Reader(Protocol):
    """What is read of a journal here: a JournalReader can do it, and so can the writer's own TailReader."""

    @property
    def oldest(self) -> int: ...
    @property
    def newest_checkpoint(self) -> int: ...
    def segment_before(self, offset: int) -> int | None: ...
    def first_frame(self, offset: int) -> Frame: ...
    def read(self, offset: int, until: int | None, max_bytes: int) -> list[Frame]: ...


class Outgoing:
    """A state on its way into the journal, piece by piece."""

    def __init__(self, state: bytes, base: int, piece_bytes: int) -> None:
        self.base = base
        self.total = len(state)
        self._state = memoryview(state)
        self._piece_bytes = piece_bytes
        self._at = 0

    @property
    def is_over(self) -> bool:
        """All of it was put; an empty state still needs its one frame, which the caller puts before it asks."""
        return self._at >= self.total

    def next(self, *, begins_segment: bool) -> tuple[int, list[SectionInput]]:
        """Flags and sections of the frame that goes next."""
        at = self._at
        data = self._state[at : at + self._piece_bytes]
        self._at += len(data)
        if begins_segment and len(data) == self.total:
            return CHECKPOINT, [(CHECKPOINT_KIND, 1, len(data), data)]
        return _piece_frame(self.base, at, self.total, bytes(data), begins_segment)


def reference(base: int, total: int) -> tuple[int, list[SectionInput]]:
    """Flags and sections of a segment's first frame where no state begins: the newest one is at `base`."""
    return _piece_frame(base, total, total, b"", True)


def _piece_frame(base: int, at: int, total: int, data: bytes, begins_segment: bool) -> tuple[int, list[SectionInput]]:
    payload = PLACE.pack(base, at, total) + data
    return PIECE | (CHECKPOINT if begins_segment else 0), [(CHECKPOINT_KIND, 1, len(payload), payload)]


def read_piece(frame: Frame) -> Piece:
    """What a checkpoint frame holds of a state; FrameCorrupt when it is none."""
    if not frame.is_checkpoint or len(frame.sections) != 1 or frame.sections[0].kind != CHECKPOINT_KIND:
        raise FrameCorrupt(f"the frame at offset {frame.offset} is no checkpoint")
    payload = frame.sections[0].payload
    if not frame.flags & PIECE:
        return Piece(frame.offset, 0, len(payload), payload)
    if len(payload) < PLACE.size:
        raise FrameCorrupt(f"the piece of a checkpoint at offset {frame.offset} has no place")
    base, at, total = PLACE.unpack_from(payload)
    return Piece(base, at, total, payload[PLACE.size :])


class Assembly:
    """Puts pieces together in the order of the journal; only the newest state that was begun is looked at."""

    def __init__(self) -> None:
        self._base = self._replay_from = -1
        self._data = bytearray()
        self.taken_bytes = 0

    def take(self, frame: Frame) -> State | None:
        """The state that a checkpoint frame makes whole, if it does."""
        piece = read_piece(frame)
        self.taken_bytes += len(piece.data)
        if piece.at == 0 and piece.base == frame.offset:
            self._base, self._replay_from, self._data = frame.offset, frame.end, bytearray()
        elif piece.base != self._base or piece.at != len(self._data) or not piece.data:
            return None  # of a state whose beginning was not seen, or a reference
        self._data += piece.data
        if len(self._data) != piece.total:
            return None
        state = State(self._base, self._replay_from, bytes(self._data))
        self._base, self._data = -1, bytearray()
        return state


def newest_state(reader: Reader, end: int) -> State | None:
    """The newest whole state before offset `end`; None when there is none. Raises JournalDamaged."""
    start: int | None = reader.newest_checkpoint
    while start is not None:
        base = read_piece(reader.first_frame(start)).base
        if base < reader.oldest:
            break  # what begins there is gone
        found = _state_from(reader, base, end)
        if found is not None:
            return found
        # an earlier one got no more pieces once this one was begun
        start, end = reader.segment_before(base), base
    return None


def _state_from(reader: Reader, base: int, end: int) -> State | None:
    """The first state that is whole among the frames from `base` on."""
    assembly = Assembly()
    for frame in frames_between(reader, base, end):
        if frame.is_checkpoint and (found := assembly.take(frame)) is not None:
            return found
    return None


def frames_between(reader: Reader, start: int, end: int) -> Iterator[Frame]:
    """The frames of [start, end), every one of which must be whole; JournalDamaged names the first that is not."""
    # a whole state is mostly in the very first frame
    size = MAX_PIECE_BYTES
    while start < end:
        for frame in reader.read(start, end, size):
            start = frame.end
            yield frame
        size = READ_BYTES
