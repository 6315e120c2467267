"""What an opening repairs, and what it must not touch: torn tails, damage, front buffers, copies."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from journal_support import Kernel, append, change, fill, flip, newest, open_journal, restored, zero

from marketd.ipc.front import PAGE_BYTES, Front
from marketd.ipc.journal_check import check
from marketd.ipc.segments import HEADER_BYTES, SPARE_NAME, list_segments, segment_path
from marketd.market.errors import JournalDamaged


def journal_of(directory: Path, count: int, size: int = 100, **settings: Any) -> list[int]:
    """A closed journal of `count` frames; the offsets where they end."""
    kernel = Kernel()
    ends = []
    with open_journal(directory, kernel, **settings) as journal:
        for seq in range(1, count + 1):
            kernel.fold(seq)
            ends.append(append(journal, seq, size))
    return ends


def replayed(directory: Path, **settings: Any) -> tuple[list[int], tuple[str, ...]]:
    with open_journal(directory, **settings) as journal:
        return [frame.seq for frame in journal.replay()], journal.repairs


def frames_in_one_commit(directory: Path, count: int) -> list[int]:
    """Frames none of which was durable when the next was written: where each ends."""
    with open_journal(directory, durability="interval", interval_ns=3600 * 10**9) as journal:
        assert journal.wait_durable(append(journal, 1), 30)
        start = journal.end
        ends = [append(journal, seq) for seq in range(2, count + 2)]
        assert journal.durable == start
    return ends


# ---- torn tails ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["zeros", "short file"])
def test_a_torn_tail_of_every_length_is_cut_and_the_rest_replayed(tmp_path: Path, how: str) -> None:
    ends = journal_of(tmp_path / "whole", 3, size=20)
    name, size = newest(tmp_path / "whole").name, ends[2] - ends[1]
    torn = tmp_path / "torn"
    for missing in range(1, size):
        shutil.rmtree(torn, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", torn)
        if how == "zeros":
            change(newest(torn), ends[2] - missing, zero, missing)
        else:
            os.truncate(torn / name, HEADER_BYTES + ends[2] - missing)
        seqs, repairs = replayed(torn)
        if how == "zeros" and seqs == [1, 2, 3]:
            assert missing < 8, "only padding of zeros can be missing without a difference"
            continue
        assert seqs == [1, 2]
        assert len(repairs) == 1 and repairs[0].startswith("torn tail:")
        with open_journal(torn) as journal:
            append(journal, 4)
        assert replayed(torn) == ([1, 2, 4], ())


def test_a_tail_of_zeros_is_the_end_and_no_repair(tmp_path: Path) -> None:
    ends = journal_of(tmp_path, 3)
    change(newest(tmp_path), ends[1], zero, ends[2] - ends[1])
    assert replayed(tmp_path) == ([1, 2], ())


@pytest.mark.parametrize("alter", [flip, zero])
def test_a_hole_in_a_commit_that_was_never_finished_is_a_torn_tail(
    tmp_path: Path, alter: Callable[[bytes], bytes]
) -> None:
    """After a power failure pages of one unfinished commit may be there in any choice."""
    ends = frames_in_one_commit(tmp_path, 5)
    change(newest(tmp_path), ends[1], alter, ends[2] - ends[1])
    seqs, repairs = replayed(tmp_path)
    assert seqs == [1, 2, 3]
    assert repairs[0].startswith("torn tail:")


def test_whole_frames_behind_a_torn_one_never_come_back(tmp_path: Path) -> None:
    """A new frame of the same length ends where an old whole one begins; it must not pick that up."""
    ends = frames_in_one_commit(tmp_path, 5)
    change(newest(tmp_path), ends[1], flip, 8)
    with open_journal(tmp_path) as journal:
        append(journal, 99)
        assert journal.end == ends[2]
    assert replayed(tmp_path) == ([1, 2, 3, 99], ())


def test_a_torn_first_checkpoint_of_a_new_journal_is_written_again(tmp_path: Path) -> None:
    ends = journal_of(tmp_path, 0)
    assert ends == []
    change(newest(tmp_path), 0, flip, 16)
    with open_journal(tmp_path) as journal:
        assert restored(journal) == (0, 0)
        assert "torn tail" in journal.repairs[0]
        append(journal, 1)
    assert replayed(tmp_path) == ([1], ())


def test_a_new_segment_that_got_no_frame_is_taken_back(tmp_path: Path) -> None:
    kernel = Kernel()
    with open_journal(tmp_path, kernel) as journal:
        fill(journal, range(1, 701), kernel=kernel)
        assert journal.wait_durable(journal.end, 30)
        last = newest(tmp_path)
    with open(last.path, "r+b") as file:  # as it is between its name and its first frame
        file.truncate(HEADER_BYTES)
        file.truncate(65536)
    with open_journal(tmp_path, kernel) as journal:
        assert journal.repairs == (f"segment {last.name} held nothing; it was taken back",)
        kernel.restore(journal.checkpoint)
        for frame in journal.replay():
            kernel.fold(frame.seq)
        count = kernel.count
        assert kernel.total == sum(range(count + 1))
        assert journal.end == last.first
        fill(journal, range(count + 1, 701), kernel=kernel)
    with open_journal(tmp_path) as journal:
        assert restored(journal) == (700, sum(range(701)))
    assert check(tmp_path).problems == ()


# ---- damage -------------------------------------------------------------------------------------


def test_damage_below_what_was_durable_stops_with_segment_offset_and_command(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        ends = []
        for seq in range(1, 6):
            ends.append(append(journal, seq))
            assert journal.wait_durable(ends[-1], 30)
    before = newest(tmp_path).path.read_bytes()
    change(newest(tmp_path), ends[1] + 60, flip)
    damaged = newest(tmp_path).path.read_bytes()
    assert damaged != before
    with pytest.raises(JournalDamaged) as caught:
        open_journal(tmp_path)
    for part in (newest(tmp_path).name, f"offset {ends[1]}", f"marketd journal check {tmp_path}"):
        assert part in str(caught.value)
    assert newest(tmp_path).path.read_bytes() == damaged, "nothing may be touched"
    change(newest(tmp_path), ends[1] + 60, flip)
    assert replayed(tmp_path)[0] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("place", [0, 4, 8, 24, 32, 60])
def test_damage_anywhere_in_a_frame_is_found(tmp_path: Path, place: int) -> None:
    """Length, checksum, magic, offset, durable, payload."""
    with open_journal(tmp_path) as journal:
        for seq in range(1, 4):
            end = append(journal, seq)
            assert journal.wait_durable(end, 30)
            if seq == 1:
                second = end
    change(newest(tmp_path), second + place, flip)
    with pytest.raises(JournalDamaged, match=f"offset {second}"):
        open_journal(tmp_path)


@pytest.mark.parametrize("place", range(0, HEADER_BYTES, 5))
def test_a_damaged_segment_header_is_damage_in_any_segment(tmp_path: Path, place: int) -> None:
    journal_of(tmp_path, 700)
    files = list_segments(tmp_path)
    for file in (files[0], files[-1]):
        change(file, file.first - HEADER_BYTES + place, flip)
        with pytest.raises(JournalDamaged, match=file.name):
            open_journal(tmp_path)
        change(file, file.first - HEADER_BYTES + place, flip)
    open_journal(tmp_path).close()


def test_a_segment_copied_under_another_name_is_refused(tmp_path: Path) -> None:
    journal_of(tmp_path, 10)
    shutil.copy(newest(tmp_path).path, segment_path(tmp_path, 999_936))
    with pytest.raises(JournalDamaged, match="copy under another name"):
        open_journal(tmp_path)


def test_a_segment_of_another_journal_is_refused(tmp_path: Path) -> None:
    journal_of(tmp_path / "a", 700)
    journal_of(tmp_path / "b", 700)
    second_of_b = list_segments(tmp_path / "b")[1]
    for file in list_segments(tmp_path / "a")[1:]:
        file.path.unlink()
    shutil.copy(second_of_b.path, tmp_path / "a")
    with pytest.raises(JournalDamaged, match="it belongs to journal"):
        open_journal(tmp_path / "a")


def test_a_recycled_file_with_whole_frames_of_earlier_offsets_looks_empty(tmp_path: Path) -> None:
    """Old frames lie behind the new end with right checksums; the offsets that they carry give them away."""
    ends = journal_of(tmp_path, 700)
    files = list_segments(tmp_path)
    old = files[0].path.read_bytes()[HEADER_BYTES:]
    end = check(tmp_path).end
    with open(files[-1].path, "r+b") as file:
        file.seek(HEADER_BYTES + end - files[-1].first)
        file.write(old[: 65536 - file.tell()])
    with open_journal(tmp_path) as journal:
        assert journal.end == end == ends[-1]
        assert restored(journal) == (700, sum(range(701)))
        assert "torn tail" in journal.repairs[0]


def test_a_copied_directory_is_the_same_journal_and_goes_on_by_itself(tmp_path: Path, runtime_dir: Path) -> None:
    journal_of(tmp_path / "a", 700, front_path=runtime_dir / "front")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for directory, seq in ((tmp_path / "a", 701), (tmp_path / "b", 702)):
        with open_journal(directory) as journal:
            append(journal, seq)
            count, total = restored(journal)
            assert (count, total) == (700, sum(range(701)))
    assert check(tmp_path / "a").uuid == check(tmp_path / "b").uuid


# ---- the front buffer ---------------------------------------------------------------------------


def front_ahead(tmp_path: Path, front: Path, count: int = 5) -> tuple[list[int], int]:
    """A journal whose last `count` frames are only in the front buffer, as after a SIGKILL."""
    with open_journal(tmp_path, front_path=front) as journal:
        kept = append(journal, 1)
        assert journal.wait_durable(kept, 30)
        ends = [append(journal, seq) for seq in range(2, count + 2)]
    change(newest(tmp_path), kept, zero, ends[-1] - kept)
    buffer = Front.attach(front)
    assert buffer is not None
    buffer.durable = kept
    buffer.close()
    return ends, kept


def test_frames_that_are_only_in_the_front_buffer_are_restored(tmp_path: Path, runtime_dir: Path) -> None:
    ends, kept = front_ahead(tmp_path, runtime_dir / "front")
    seqs, repairs = replayed(tmp_path, front_path=runtime_dir / "front")
    assert seqs == [1, 2, 3, 4, 5, 6]
    assert repairs == (f"{ends[-1] - kept} bytes behind offset {kept} were only in the front buffer; restored",)
    assert replayed(tmp_path) == (seqs, ())


def test_a_torn_tail_is_restored_from_the_front_buffer(tmp_path: Path, runtime_dir: Path) -> None:
    _, kept = front_ahead(tmp_path, runtime_dir / "front")
    change(newest(tmp_path), kept, flip, 100)
    seqs, repairs = replayed(tmp_path, front_path=runtime_dir / "front")
    assert seqs == [1, 2, 3, 4, 5, 6]
    assert len(repairs) == 2


def test_a_front_buffer_of_another_journal_is_reported_and_replaced(tmp_path: Path, runtime_dir: Path) -> None:
    front = runtime_dir / "front"
    front_ahead(tmp_path / "other", front)
    journal_of(tmp_path / "mine", 2)
    seqs, repairs = replayed(tmp_path / "mine", front_path=front)
    assert seqs == [1, 2]
    assert len(repairs) == 1 and "belongs to journal" in repairs[0] and str(front) in repairs[0]
    assert replayed(tmp_path / "mine", front_path=front) == ([1, 2], ())


def test_a_front_buffer_without_its_segments_does_not_enter_a_new_journal(tmp_path: Path, runtime_dir: Path) -> None:
    front_ahead(tmp_path / "a", runtime_dir / "front")
    shutil.rmtree(tmp_path / "a")
    seqs, repairs = replayed(tmp_path / "a", front_path=runtime_dir / "front")
    assert seqs == []
    assert "belongs to journal" in repairs[0]


@pytest.mark.parametrize("content", [b"", b"x" * 100, bytes(200_000)])
def test_a_file_that_is_no_front_buffer_is_reported_and_replaced(
    tmp_path: Path, runtime_dir: Path, content: bytes
) -> None:
    front = runtime_dir / "front"
    front.write_bytes(content)
    journal_of(tmp_path, 1)
    seqs, repairs = replayed(tmp_path, front_path=front)
    assert seqs == [1]
    assert repairs == (f"{front} was no front buffer; it was replaced",)


def test_a_front_buffer_older_than_the_disk_is_passed_over(tmp_path: Path, runtime_dir: Path) -> None:
    front = runtime_dir / "front"
    journal_of(tmp_path, 2, front_path=front)
    with open_journal(tmp_path) as journal:
        append(journal, 3)
    assert replayed(tmp_path, front_path=front) == ([1, 2, 3], ())
    with open_journal(tmp_path, front_path=front) as journal:
        append(journal, 4)
    assert replayed(tmp_path, front_path=front) == ([1, 2, 3, 4], ())


def test_a_front_buffer_that_went_bad_gives_what_is_whole_and_says_what_is_lost(
    tmp_path: Path, runtime_dir: Path
) -> None:
    front = runtime_dir / "front"
    ends, _ = front_ahead(tmp_path, front)
    with open(front, "r+b") as file:
        file.seek(PAGE_BYTES + ends[2] + 70)
        file.write(b"\xff\xfe")
    seqs, repairs = replayed(tmp_path, front_path=front)
    assert seqs == [1, 2, 3, 4]
    assert f"cannot be read at offset {ends[2]}" in repairs[0]


def test_a_disk_that_forgot_what_it_acknowledged_stops_the_opening(tmp_path: Path, runtime_dir: Path) -> None:
    """The last frame of all has no later one that tells; the front buffer knows what was durable."""
    front = runtime_dir / "front"
    with open_journal(tmp_path, front_path=front) as journal:
        fill(journal, range(1, 2000))
        assert journal.wait_durable(journal.end, 30)
        last = newest(tmp_path)
    change(last, last.first, zero, 30_000)
    change(last, last.first, zero, 30_000)
    with open(front, "r+b") as file:  # neither does the front buffer have it any more
        file.seek(PAGE_BYTES)
        file.write(bytes(65536))
    with pytest.raises(JournalDamaged, match="was on disk once"):
        open_journal(tmp_path, front_path=front)


@pytest.mark.parametrize("spare", ["there", "lost"])
def test_segments_that_began_in_the_front_buffer_are_begun_on_disk(
    tmp_path: Path, runtime_dir: Path, spare: str
) -> None:
    """Killed after a roll that only the front buffer saw: the new segment is not there yet."""
    front, kept = runtime_dir / "front", tmp_path / "kept"
    kernel = Kernel()
    with open_journal(tmp_path / "a", kernel, front_path=front) as journal:
        fill(journal, range(1, 250), kernel=kernel)
        assert journal.wait_durable(journal.end, 30)
        durable, before = journal.durable, journal.statistics().checkpoints
        shutil.copytree(tmp_path / "a", kept)
        while journal.statistics().checkpoints == before:
            kernel.fold(kernel.count + 1)
            append(journal, kernel.count)
    buffer = Front.attach(front)
    assert buffer is not None
    buffer.durable = durable
    buffer.close()
    if spare == "lost":
        (kept / SPARE_NAME).unlink()
    with open_journal(kept, front_path=front) as journal:
        assert restored(journal) == (kernel.count, kernel.total)
        assert len(list_segments(kept)) == 2
    assert check(kept).problems == ()
