"""Following a journal: offsets, limits, segments, and what a reader says when the journal is not what it should be."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from journal_support import Kernel, append, change, check_frame, fill, flip, newest, open_journal, zero

from marketd.ipc.frames import Frame
from marketd.ipc.journal_errors import JournalMismatch, JournalMissing
from marketd.ipc.journal_reader import JournalReader
from marketd.ipc.segments import list_segments
from marketd.market.errors import JournalDamaged
from support import eventually


def read_all(reader: JournalReader, offset: int, until: int | None = None, max_bytes: int = 1000) -> list[Frame]:
    found: list[Frame] = []
    while frames := reader.read(offset, until, max_bytes):
        found += frames
        offset = found[-1].end
    return found


def seqs_of(frames: list[Frame]) -> list[int]:
    return [frame.seq for frame in frames if not frame.is_checkpoint]


@pytest.mark.parametrize("max_bytes", [1, 100, 4096, 1 << 20])
def test_a_reader_crosses_segments_whatever_it_reads_at_once(tmp_path: Path, max_bytes: int) -> None:
    with open_journal(tmp_path) as journal:
        fill(journal, range(1, 1001))
        end = journal.end
    with JournalReader(tmp_path) as reader:
        frames = read_all(reader, 0, end, max_bytes)
    assert seqs_of(frames) == list(range(1, 1001))
    assert [frame.offset for frame in frames] == [0, *(frame.end for frame in frames[:-1])]
    for frame in frames:
        if not frame.is_checkpoint:
            check_frame(frame)


def test_a_reader_stops_at_the_offset_it_was_told(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal, JournalReader(tmp_path) as reader:
        ends = [append(journal, seq) for seq in range(1, 6)]
        assert journal.wait_durable(ends[-1], 30)
        assert seqs_of(reader.read(0, ends[2])) == [1, 2, 3]
        assert reader.read(ends[2], ends[2]) == []
        assert seqs_of(reader.read(ends[2], ends[4])) == [4, 5]


def test_without_a_limit_a_reader_gets_what_is_written_and_then_nothing_and_then_more(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal, JournalReader(tmp_path) as reader:
        end = append(journal, 1)
        assert journal.wait_durable(end, 30)
        assert seqs_of(reader.read(0)) == [1]
        assert reader.read(end) == []
        append(journal, 2)
        frames = eventually(lambda: reader.read(end))
        assert seqs_of(frames) == [2]


def test_payloads_stay_valid_while_more_is_read(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        fill(journal, range(1, 501))
    with JournalReader(tmp_path) as reader:
        frames = read_all(reader, 0, max_bytes=500)
    for frame in frames:
        if not frame.is_checkpoint:
            check_frame(frame)
    assert np.frombuffer(frames[1].sections[0].payload, dtype="u1").shape == (100,)


def test_a_reader_in_another_thread_sees_every_frame_once_and_in_order(tmp_path: Path) -> None:
    seen: list[int] = []
    durable = [0]
    last = 3000

    def follow() -> None:
        offset = 0
        with JournalReader(tmp_path) as reader:
            while not seen or seen[-1] != last:
                for frame in reader.read(offset, max(offset, durable[0])):
                    offset = frame.end
                    if not frame.is_checkpoint:
                        check_frame(frame)
                        seen.append(frame.seq)

    with open_journal(tmp_path, on_durable=lambda offset: durable.__setitem__(0, offset)) as journal:
        follower = threading.Thread(target=follow)
        follower.start()
        assert journal.wait_durable(fill(journal, range(1, last + 1)), 30)
        follower.join(30)
    assert seen == list(range(1, last + 1))


def test_an_offset_behind_the_end_is_not_of_this_journal(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal, JournalReader(tmp_path) as reader:
        end = append(journal, 1)
        assert journal.wait_durable(end, 30)
        with pytest.raises(JournalMismatch, match=f"ends at offset {end}, and {end + 8} is asked for"):
            reader.read(end + 8, end)


def test_an_offset_before_the_oldest_segment_names_the_way_out(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        fill(journal, range(1000))
    first, second, *_ = list_segments(tmp_path)
    first.path.unlink()
    with JournalReader(tmp_path) as reader:
        assert reader.oldest == second.first
        with pytest.raises(JournalMismatch, match=f"go on from {second.first}"):
            reader.read(0, second.first)


def test_another_journal_than_the_expected_one_is_refused(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        uuid = journal.uuid
    with JournalReader(tmp_path, uuid=uuid) as reader:
        assert reader.uuid == uuid
    with pytest.raises(JournalMismatch, match=bytes(16).hex()):
        JournalReader(tmp_path, uuid=bytes(16))


def test_a_journal_that_was_replaced_under_a_reader_is_noticed(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        end = fill(journal, range(10))
    with JournalReader(tmp_path) as reader:
        shutil.rmtree(tmp_path)
        with open_journal(tmp_path) as journal:
            fill(journal, range(100))
        with pytest.raises(JournalMismatch, match="belongs to journal"):
            reader.read(0, end)


def test_no_journal_is_said_so(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(JournalMissing, match="no journal in"):
            JournalReader(directory)


@pytest.mark.parametrize("place", [0, 4, 8, 24, 60])
def test_damage_before_the_limit_is_told_after_the_whole_frames_before_it(tmp_path: Path, place: int) -> None:
    with open_journal(tmp_path) as journal:
        ends = [append(journal, seq) for seq in range(1, 6)]
    change(newest(tmp_path), ends[2] + place, flip)
    with JournalReader(tmp_path) as reader:
        assert seqs_of(reader.read(0, ends[4])) == [1, 2, 3]
        with pytest.raises(JournalDamaged, match=f"offset {ends[2]}") as caught:
            reader.read(ends[2], ends[4])
        assert f"marketd journal check {tmp_path}" in str(caught.value)


def test_damage_in_an_older_segment_is_damage_without_a_limit_too(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        fill(journal, range(1, 1001))
    first = list_segments(tmp_path)[0]
    with JournalReader(tmp_path) as reader:
        victim = reader.read(0, max_bytes=10_000)[5]
        change(first, victim.offset, zero, victim.end - victim.offset)
        assert reader.read(0)[-1].end == victim.offset
        with pytest.raises(JournalDamaged):
            reader.read(victim.offset)


def test_a_length_that_claims_gigabytes_is_damage_and_costs_no_memory(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        start = journal.end
        end = append(journal, 1)
    change(newest(tmp_path), start, lambda _: (0xFFFFFFF8).to_bytes(4, "little"), 4)
    with JournalReader(tmp_path) as reader, pytest.raises(JournalDamaged):
        reader.read(start, end)


def test_an_offset_inside_a_frame_is_no_place_to_begin(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        start = journal.end
        end = append(journal, 1)
    with JournalReader(tmp_path) as reader, pytest.raises(JournalDamaged):
        reader.read(start + 8, end)


def test_a_reader_finds_its_place_when_an_empty_segment_was_taken_back(tmp_path: Path) -> None:
    """It stood at the beginning of a segment that recovery removed; its predecessor goes on from there."""
    kernel = Kernel()
    with open_journal(tmp_path, kernel) as journal:
        fill(journal, range(1, 701), kernel=kernel)
    last = newest(tmp_path)
    with open(last.path, "r+b") as file:
        file.truncate(64)
    with JournalReader(tmp_path) as reader:
        assert reader.read(last.first) == []
        with open_journal(tmp_path, kernel) as journal:
            end = append(journal, 1000)
            assert journal.wait_durable(end, 30)
            assert seqs_of(reader.read(last.first, end)) == [1000]
