"""The frame: what goes in comes out, and no bytes can do more than be refused by name."""

from __future__ import annotations

import struct
from mmap import mmap
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.ipc import frames
from marketd.ipc.frames import CHECKPOINT, PIECE, decode, encode, find_frames, frame_bytes
from marketd.ipc.journal_errors import FrameCorrupt, FrameError, FrameTruncated, FrameUnsupported
from marketd.market.errors import InvalidArgument
from marketd.market.records import PRODUCER, TRADE

INT64 = st.integers(-(2**63), 2**63 - 1)
OFFSETS = st.integers(0, 2**50).map(lambda n: n * 8)


@st.composite
def section_lists(draw: st.DrawFn) -> list[tuple[int, int, int, bytes]]:
    sections = []
    for _ in range(draw(st.integers(0, 5))):
        itemsize = draw(st.integers(0, 70))
        count = draw(st.integers(0, 4))
        size = itemsize * count
        sections.append((draw(st.integers(0, 65_535)), itemsize, count, draw(st.binary(min_size=size, max_size=size))))
    return sections


@given(section_lists(), OFFSETS, INT64, INT64, INT64, st.integers(0, 2**32 - 1), st.integers(0, 65_535))
def test_a_frame_comes_back_as_it_went_in(
    sections: list[tuple[int, int, int, bytes]],
    offset: int,
    durable: int,
    seq: int,
    ts_known: int,
    instrument: int,
    flags: int,
) -> None:
    data = encode(offset, sections, durable=durable, flags=flags, instrument=instrument, seq=seq, ts_known=ts_known)
    frame = decode(memoryview(data), 0, offset)
    assert len(data) == frame_bytes(frames.body_of(sections)) and len(data) % 8 == 0
    assert frame[:7] == (offset, offset + len(data), durable, flags, instrument, seq, ts_known)
    assert [(s.kind, s.itemsize, s.count, bytes(s.payload)) for s in frame.sections] == sections
    assert frame.is_checkpoint == bool(flags & (CHECKPOINT | PIECE))
    assert frame.begins_segment == bool(flags & CHECKPOINT)


@given(st.binary(max_size=300), st.integers(0, 300))
def test_any_bytes_decode_to_a_frame_or_a_named_error(data: bytes, at: int) -> None:
    try:
        frame = decode(memoryview(data), min(at, len(data)))
    except FrameError:
        return
    assert frame.end - frame.offset <= len(data)


@given(section_lists(), st.data())
def test_a_frame_with_any_byte_changed_is_refused(
    sections: list[tuple[int, int, int, bytes]], data: st.DataObject
) -> None:
    frame = bytearray(encode(64, sections))
    place = data.draw(st.integers(0, len(frame) - 1))
    frame[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(FrameError):
        decode(memoryview(frame))


@given(section_lists(), st.data())
def test_a_forged_checksum_does_not_make_a_frame_reach_beyond_itself(
    sections: list[tuple[int, int, int, bytes]], data: st.DataObject
) -> None:
    """The checksum keeps accidents out, not ill will: section counts that lie under a right one are refused too."""
    forged = bytearray(encode(64, sections))
    place = data.draw(st.integers(8, len(forged) - 1))
    forged[place] = data.draw(st.integers(0, 255))
    forged[4:8] = struct.pack("<I", crc32(forged[8:]))
    try:
        frame = decode(memoryview(forged))
    except FrameError:
        return
    assert frame.end - frame.offset == len(forged)
    assert sum((len(section.payload) + 7) & ~7 for section in frame.sections) <= len(forged) - frames.HEADER_BYTES


@given(section_lists(), st.data())
def test_a_frame_cut_anywhere_is_truncated(sections: list[tuple[int, int, int, bytes]], data: st.DataObject) -> None:
    whole = encode(0, sections)
    length = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(FrameTruncated):
        decode(memoryview(whole)[:length])


def test_a_frame_of_another_offset_is_stale() -> None:
    data = memoryview(encode(4096, [(1, 8, 1, bytes(8))]))
    assert decode(data).offset == 4096
    with pytest.raises(FrameCorrupt, match="offset 4096 where 8192 should be"):
        decode(data, 0, 8192)


def test_a_negative_offset_is_refused() -> None:
    with pytest.raises(FrameCorrupt):
        decode(memoryview(encode(-8, [])))


def test_a_frame_of_a_later_version_says_so() -> None:
    data = bytearray(encode(0, []))
    data[10] = frames.VERSION + 1
    data[4:8] = struct.pack("<I", crc32(data[8:]))
    with pytest.raises(FrameUnsupported, match="version 2"):
        decode(memoryview(data))


def test_records_go_in_and_come_out_as_numpy_arrays_without_a_copy() -> None:
    trades = np.zeros(3, dtype=TRADE)
    trades["trade_id"] = [1, 2, 3]
    producer = np.zeros(1, dtype=PRODUCER)
    sections = [(1, TRADE.itemsize, 3, trades), (16, PRODUCER.itemsize, 1, producer), (2, 96, 0, b"")]
    data = encode(0, sections)
    frame = decode(memoryview(data))
    assert np.array_equal(np.frombuffer(frame.sections[0].payload, dtype=TRADE), trades)
    assert frame.sections[0].payload.obj is data


@pytest.mark.parametrize(
    "section",
    [
        (1, 8, 2, bytes(8)),
        (1, 8, 1, bytes(16)),
        (1, 70_000, 1, bytes(70_000)),
        (70_000, 8, 1, bytes(8)),
        (1, 8, 1, "no bytes"),
        (-1, 8, 1, bytes(8)),
    ],
)
def test_a_section_that_is_not_what_it_says_is_refused(section: tuple[int, int, int, object]) -> None:
    with pytest.raises(InvalidArgument, match="sections"):
        encode(0, [section])


def test_more_sections_than_a_frame_can_have_are_refused() -> None:
    with pytest.raises(InvalidArgument):
        encode(0, [(1, 0, 0, b"")] * (frames.MAX_SECTIONS + 1))


def test_padding_never_carries_what_was_there_before() -> None:
    sections = [(1, 1, 3, b"abc"), (2, 1, 1, b"d")]
    length = frame_bytes(frames.body_of(sections))
    with mmap(-1, length) as target, memoryview(target) as view:
        view[:] = b"\xff" * length
        frames.encode_into(target, view, 0, length, 0, 0, 0, 0, 0, 0, frames.body_of(sections))
        assert bytes(view) == encode(0, sections)


@given(st.lists(section_lists(), min_size=1, max_size=5), st.binary(max_size=100), OFFSETS)
def test_frames_behind_garbage_are_found_by_the_offsets_they_carry(
    lists: list[list[tuple[int, int, int, bytes]]], garbage: bytes, base: int
) -> None:
    data = bytes(garbage) + bytes(-len(garbage) % 8)
    start = len(data)
    ends = []
    for sections in lists:
        data += encode(base + len(data), sections, durable=base)
        ends.append(base + len(data))
    found = find_frames(memoryview(data), 0, base)
    assert [frame.end for frame in found][-len(ends) :] == ends
    assert find_frames(memoryview(data)[start:], 0, base + start + 8) == []


def test_a_look_at_a_header_tells_length_and_offset_and_nothing_of_garbage() -> None:
    data = encode(640, [(1, 8, 1, bytes(8))])
    assert frames.peek(memoryview(data)) == (len(data), 640)
    assert frames.peek(memoryview(data)[: frames.HEADER_BYTES - 1]) is None
    assert frames.peek(memoryview(bytes(100))) is None
