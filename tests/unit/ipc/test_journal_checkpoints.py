"""States of any size: in pieces among the frames, whole or not there, and no segment goes that one of them needs."""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_support import Kernel, append, change, fill, flip, newest, open_journal, restored

from marketd.ipc import frames
from marketd.ipc.checkpoints import Assembly, Outgoing, State, read_piece, reference
from marketd.ipc.frames import CHECKPOINT, CHECKPOINT_KIND, PIECE
from marketd.ipc.journal_check import check, show
from marketd.ipc.journal_errors import FrameCorrupt
from marketd.ipc.journal_reader import JournalReader
from marketd.ipc.journal_settings import MIN_BYTES
from marketd.ipc.segments import HEADER_BYTES, list_segments
from marketd.market.errors import JournalDamaged, JournalFull
from support import eventually

SIZES = [MIN_BYTES // 4, MIN_BYTES, 5 * MIN_BYTES]  # of states: none of them fits into a frame of these journals


def pieces_of(state: bytes, piece_bytes: int, *, begins: bool = True) -> list[frames.Frame]:
    """The frames of a state that begins at offset 800."""
    outgoing, offset = Outgoing(state, 800, piece_bytes), 800
    found: list[frames.Frame] = []
    while not found or not outgoing.is_over:
        flags, sections = outgoing.next(begins_segment=begins and not found)
        found.append(frames.decode(memoryview(frames.encode(offset, sections, flags=flags))))
        offset = found[-1].end
    return found


# ---- pieces -------------------------------------------------------------------------------------


@given(st.binary(max_size=300), st.integers(1, 320), st.booleans())
def test_a_state_is_whole_with_its_last_piece_and_not_before(state: bytes, piece_bytes: int, begins: bool) -> None:
    assembly = Assembly()
    *before, last = pieces_of(state, piece_bytes, begins=begins)
    assert [assembly.take(frame) for frame in before] == [None] * len(before)
    first = [*before, last][0]
    assert assembly.take(last) == State(800, first.end, state)
    assert assembly.taken_bytes == len(state)


def test_a_state_that_fits_into_its_segments_first_frame_is_there_as_it_is() -> None:
    (frame,) = pieces_of(b"state", 100)
    assert (frame.flags, bytes(frame.sections[0].payload)) == (CHECKPOINT, b"state")


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_state_that_lacks_a_piece_is_none_and_the_next_one_counts(missing: int) -> None:
    assembly = Assembly()
    broken = pieces_of(b"abcdefg", 3)
    del broken[missing]
    assert [assembly.take(frame) for frame in broken] == [None, None]
    (whole,) = pieces_of(b"next", 100)
    assert assembly.take(whole) == State(800, whole.end, b"next")


def test_a_reference_is_no_state() -> None:
    flags, sections = reference(800, 3)
    frame = frames.decode(memoryview(frames.encode(4000, sections, flags=flags)))
    assert frame.is_checkpoint and frame.begins_segment and frame.flags & PIECE
    assert read_piece(frame).base == 800
    assert Assembly().take(frame) is None


@pytest.mark.parametrize("sections", [[], [(CHECKPOINT_KIND, 1, 3, b"abc")], [(1, 1, 30, bytes(30))]])
def test_a_frame_that_says_it_is_a_piece_and_is_none_is_corrupt(sections: list[tuple[int, int, int, bytes]]) -> None:
    frame = frames.decode(memoryview(frames.encode(0, sections, flags=PIECE)))
    with pytest.raises(FrameCorrupt):
        read_piece(frame)


# ---- in a journal -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_a_state_larger_than_a_frame_or_a_segment_is_restored(tmp_path: Path, size: int) -> None:
    kernel = Kernel(size)
    with open_journal(tmp_path, kernel) as journal:
        assert restored(journal) == (0, 0)
        fill(journal, range(1, 4001), kernel=kernel)
        assert journal.statistics().checkpoints >= 2
    with open_journal(tmp_path, kernel) as journal:
        assert restored(journal) == (4000, sum(range(4001)))
        assert struct.unpack_from("<q", journal.checkpoint)[0] > 0, "replayed from the very beginning"
        assert journal.repairs == ()
    report = check(tmp_path)
    assert report.problems == ()
    assert sum(segment.checkpoint_bytes for segment in report.segments) >= 2 * size


lives = st.lists(
    st.tuples(st.integers(0, 3 * MIN_BYTES), st.lists(st.sampled_from([10, 500, 4000, 8000]), max_size=150)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=30)
@given(lives)
def test_a_state_of_any_size_never_fails_an_append(lives: list[tuple[int, list[int]]]) -> None:
    """Also one that grew or shrank since the last opening."""
    count = 0
    with tempfile.TemporaryDirectory() as name:
        for padding, sizes in lives:
            kernel = Kernel(padding)
            with open_journal(Path(name), kernel) as journal:
                kernel.count, kernel.total = restored(journal)
                assert (kernel.count, kernel.total) == (count, sum(range(count + 1)))
                for size in sizes:
                    fill(journal, [kernel.count + 1], size, kernel)
                count = kernel.count
        assert check(Path(name)).problems == ()


def test_a_large_state_is_not_written_again_for_every_segment(tmp_path: Path) -> None:
    size = 2 * MIN_BYTES
    kernel = Kernel(size)
    with open_journal(tmp_path, kernel) as journal:
        fill(journal, range(1, 8001), kernel=kernel)
        states, segments = journal.statistics().checkpoints, len(list_segments(tmp_path))
        assert 1 < states < segments / 4
    files = list_segments(tmp_path)
    with JournalReader(tmp_path) as reader:
        assert all(reader.first_frame(file.first).begins_segment for file in files)


def test_no_segment_goes_that_a_whole_state_needs_and_all_others_do(tmp_path: Path) -> None:
    kernel, removed = Kernel(MIN_BYTES), 0
    for _ in range(12):
        with open_journal(tmp_path, kernel) as journal:
            assert restored(journal) == (kernel.count, kernel.total)
            for _ in range(10):
                fill(journal, range(kernel.count + 1, kernel.count + 51), kernel=kernel)
                assert journal.wait_durable(journal.end, 30)
                journal.release(journal.durable, 0)
        removed += journal.statistics().segments_removed
    assert removed > 5
    assert check(tmp_path).problems == ()


def test_a_state_that_is_not_whole_on_disk_frees_nothing(tmp_path: Path) -> None:
    """Its last piece was appended, and the disk has it not."""
    go, hanging = threading.Event(), threading.Event()

    def slow_sync(fd: int) -> None:
        if hanging.is_set() and threading.current_thread().name == "marketd-journal":
            go.wait(30)
        os.fdatasync(fd)

    kernel = Kernel(MIN_BYTES // 4)
    with open_journal(tmp_path, kernel, sync=slow_sync, front_bytes=16 * MIN_BYTES) as journal:
        assert journal.wait_durable(journal.end, 30)
        before = journal.statistics().checkpoints
        while len(list_segments(tmp_path)) == 1:
            fill(journal, [kernel.count + 1], size=1000, kernel=kernel)
            assert journal.wait_durable(journal.end, 30)
        assert journal.statistics().checkpoints == before, "whole in the first frame: this tests nothing"
        hanging.set()
        while journal.statistics().checkpoints == before:
            fill(journal, [kernel.count + 1], size=10, kernel=kernel)
        journal.release(journal.durable, 0)
        assert journal.statistics().segments_removed == 0
        go.set()
        assert journal.wait_durable(journal.end, 30)
        journal.release(journal.durable, 0)
        eventually(lambda: journal.statistics().segments_removed > 0)


def test_a_state_cut_in_the_middle_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    size = MIN_BYTES
    kernel = Kernel(size)
    with open_journal(tmp_path, kernel) as journal:
        while journal.statistics().checkpoints < 2:
            fill(journal, [kernel.count + 1], size=2000, kernel=kernel)
        whole = kernel.count
    lines = list(show(tmp_path, 0))
    last_piece = max(line.offset for line in lines if line.checkpoint)
    with open_journal(tmp_path) as journal:
        second = struct.unpack_from("<q", journal.checkpoint)[0]
        assert second > 0
    newest_file = newest(tmp_path)
    os.truncate(newest_file.path, HEADER_BYTES + last_piece - newest_file.first)
    kernel = Kernel(size)
    with open_journal(tmp_path, kernel) as journal:
        assert struct.unpack_from("<q", journal.checkpoint)[0] == 0
        count, total = kernel.count, kernel.total = restored(journal)
        assert total == sum(range(count + 1)) and count >= whole - 1
    with open_journal(tmp_path, kernel) as journal:  # and a next one is begun, and whole
        fill(journal, range(count + 1, count + 2001), kernel=kernel)
        assert journal.statistics().checkpoints >= 1
    with open_journal(tmp_path) as journal:
        assert struct.unpack_from("<q", journal.checkpoint)[0] > second
        assert restored(journal) == (count + 2000, sum(range(count + 2001)))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_new_journal_that_was_cut_in_its_first_state_begins_anew(tmp_path: Path, share: float) -> None:
    with open_journal(tmp_path, Kernel(3 * MIN_BYTES)) as journal:
        end = int(journal.end * share)
    for file in list_segments(tmp_path):
        if file.first > end:
            file.path.unlink()
        elif file == newest(tmp_path):
            os.truncate(file.path, HEADER_BYTES + end - file.first)
    kernel = Kernel(2 * MIN_BYTES)
    with open_journal(tmp_path, kernel) as journal:
        assert restored(journal) == (0, 0)
        assert len(journal.checkpoint) == 2 * MIN_BYTES + 16
        fill(journal, range(1, 51), kernel=kernel)
    with open_journal(tmp_path, kernel) as journal:
        assert restored(journal) == (50, sum(range(51)))
        fill(journal, range(51, 4001), kernel=kernel)
    with open_journal(tmp_path) as journal:
        assert restored(journal) == (4000, sum(range(4001)))


def test_records_without_any_whole_state_are_damage_and_not_replayed_onto_nothing(tmp_path: Path) -> None:
    kernel = Kernel(2 * MIN_BYTES)
    with open_journal(tmp_path, kernel) as journal:
        fill(journal, range(1, 2001), kernel=kernel)
    for file in list_segments(tmp_path)[:2]:
        file.path.unlink()
    while len(files := list_segments(tmp_path)) > 2:
        files[-1].path.unlink()
    assert check(tmp_path).problems == ("no checkpoint is whole: there is nothing that its records could be added to",)
    with pytest.raises(JournalDamaged, match="no checkpoint is whole"):
        open_journal(tmp_path)


def test_damage_in_a_piece_is_damage(tmp_path: Path) -> None:
    kernel = Kernel(MIN_BYTES)
    with open_journal(tmp_path, kernel) as journal:
        fill(journal, range(1, 2001), kernel=kernel)
        assert journal.wait_durable(journal.end, 30)
        base = next(line.offset for line in show(tmp_path, 0) if line.checkpoint and line.offset > MIN_BYTES)
    file = next(f for f in reversed(list_segments(tmp_path)) if f.first <= base)
    change(file, base + 80, flip)
    assert file.name in check(tmp_path).problems[0]


def test_a_disk_that_is_always_behind_still_gets_the_state_whole(tmp_path: Path) -> None:
    """As a bulk writer does it: append until there is no room, wait until there is, append again."""
    kernel = Kernel(4 * MIN_BYTES)
    with open_journal(tmp_path, kernel, budget_bytes=512 * MIN_BYTES) as journal:
        for seq in range(1, 12_001):
            kernel.fold(seq)
            append(journal, seq, 700)
        assert journal.statistics().checkpoints >= 3


def test_pieces_go_on_in_the_front_buffer_that_a_kill_left(tmp_path: Path, runtime_dir: Path) -> None:
    """A roll and pieces that the disk has not seen, in front of a directory of an earlier moment."""
    front, kept = runtime_dir / "front", tmp_path / "kept"
    kernel = Kernel(MIN_BYTES // 4)
    sizes: dict[str, Any] = {"front_bytes": 16 * MIN_BYTES}
    with open_journal(tmp_path / "a", kernel, front_path=front, **sizes) as journal:
        fill(journal, range(1, 150), kernel=kernel)
        assert journal.wait_durable(journal.end, 30)
        durable, before = journal.durable, journal.statistics().checkpoints
        shutil.copytree(tmp_path / "a", kept)
        while journal.statistics().checkpoints == before:
            fill(journal, [kernel.count + 1], kernel=kernel)
    with open(front, "r+b") as file:
        file.seek(80)
        file.write(durable.to_bytes(8, "little"))
    with open_journal(kept, front_path=front, **sizes) as journal:
        assert restored(journal) == (kernel.count, kernel.total)
        assert struct.unpack_from("<q", journal.checkpoint)[0] > 0
        assert len(list_segments(kept)) > 1
    assert check(kept).problems == ()


@pytest.mark.parametrize("size", [10, 1_000, 8_000])
def test_the_smallest_budget_goes_on_for_ever_with_states_of_a_third_of_a_segment(tmp_path: Path, size: int) -> None:
    """A state that were not whole before its segment is full would keep the only other segment from going."""
    kernel = Kernel(MIN_BYTES // 3)
    settings: dict[str, Any] = {"budget_bytes": 2 * MIN_BYTES, "retry_seconds": 0.001, "sync": lambda _: None}
    with open_journal(tmp_path, kernel, **settings) as journal:
        for seq in range(1, 20 * MIN_BYTES // (size + 1_000)):
            kernel.fold(seq)
            append(journal, seq, size)
            assert journal.wait_durable(journal.end, 30)
            journal.release(journal.durable, 0)
            assert journal.wait_room(30), journal.blocked
        assert journal.statistics().segments_removed >= 3


def test_a_budget_that_holds_no_two_states_says_so(tmp_path: Path) -> None:
    kernel = Kernel(6 * MIN_BYTES)
    with open_journal(tmp_path, kernel, budget_bytes=9 * MIN_BYTES, retry_seconds=0.001) as journal:
        with pytest.raises(JournalFull):
            for seq in range(1, 100_000):
                kernel.fold(seq)
                append(journal, seq, 1000)
                journal.release(journal.durable, 0)
        eventually(lambda: "the newest whole checkpoint" in (journal.blocked or ""))
        journal.set_budget(64 * MIN_BYTES)
        eventually(lambda: journal.blocked is None)
        fill(journal, range(1, 3000))
        assert journal.statistics().segments_removed > 0
