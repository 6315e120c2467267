"""The journal's ordinary life: append, group commit, segments, checkpoints, replay, refusals."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from journal_support import Kernel, append, check_frame, fill, open_journal, restored

from marketd.ipc.frames import encode
from marketd.ipc.journal_errors import JournalBehind, JournalFailed, JournalLocked
from marketd.ipc.journal_reader import JournalReader
from marketd.ipc.journal_settings import MIN_BYTES
from marketd.ipc.segments import list_segments
from marketd.market.errors import ConfigError, InvalidArgument, JournalFull
from marketd.market.records import TRADE
from support import eventually


def test_what_was_appended_is_replayed_after_the_next_opening(tmp_path: Path) -> None:
    kernel = Kernel()
    with open_journal(tmp_path, kernel) as journal:
        fill(journal, range(1, 4), kernel=kernel)
    with open_journal(tmp_path) as journal:
        assert [frame.seq for frame in journal.replay()] == [1, 2, 3]
        assert restored(journal) == (3, 6)
        assert journal.repairs == ()


def test_an_append_answers_with_the_offset_behind_its_frame(tmp_path: Path) -> None:
    trades = np.zeros(2, dtype=TRADE)
    sections = [(1, TRADE.itemsize, 2, trades)]
    with open_journal(tmp_path) as journal:
        before = journal.end
        end = journal.append(5, 10, 99, sections)
        assert end == journal.end == before + len(encode(before, sections))
        assert journal.wait_durable(end, 10)
        with JournalReader(tmp_path) as reader:
            (frame,) = reader.read(before, end)
        assert (frame.instrument, frame.seq, frame.ts_known, frame.offset) == (5, 10, 99, before)
        assert bytes(frame.sections[0].payload) == trades.tobytes()


def test_durable_is_told_once_for_everything_that_came_meanwhile(tmp_path: Path) -> None:
    told: list[int] = []
    go, syncing = threading.Event(), threading.Event()

    def slow_sync(fd: int) -> None:
        if threading.current_thread().name == "marketd-journal":
            syncing.set()
            go.wait(30)
        os.fdatasync(fd)

    with open_journal(tmp_path, sync=slow_sync, on_durable=told.append) as journal:
        syncs = journal.statistics().syncs
        first = append(journal, 1)
        assert syncing.wait(30)
        last = fill(journal, range(2, 101))
        assert journal.durable < first
        go.set()
        assert journal.wait_durable(last, 30)
        assert told == [first, last]
        assert journal.statistics().syncs == syncs + 2


def test_a_disk_that_hangs_never_delays_an_append(tmp_path: Path, runtime_dir: Path) -> None:
    """No clock is asked: the sync ends only after all the appends returned."""
    go = threading.Event()

    def hanging_sync(fd: int) -> None:
        if threading.current_thread().name == "marketd-journal":
            go.wait(30)
        os.fdatasync(fd)

    with open_journal(tmp_path, sync=hanging_sync, front_path=runtime_dir / "front") as journal:
        begun = journal.durable
        end = fill(journal, range(200))
        assert journal.durable == begun
        go.set()
        assert journal.wait_durable(end, 30)


def test_when_the_front_buffer_is_full_the_journal_is_behind_and_goes_on_later(tmp_path: Path) -> None:
    go = threading.Event()

    def hanging_sync(fd: int) -> None:
        if threading.current_thread().name == "marketd-journal":
            go.wait(30)
        os.fdatasync(fd)

    taken = 0
    with open_journal(
        tmp_path, sync=hanging_sync, segment_bytes=16 * MIN_BYTES, budget_bytes=64 * MIN_BYTES
    ) as journal:
        with pytest.raises(JournalBehind, match="wait for the disk"):
            for seq in range(1, MIN_BYTES):
                journal.append(7, seq, 0, [(1, 1, 1000, bytes(1000))])
                taken = seq
        assert journal.statistics().refused_behind == 1
        assert not journal.wait_room(0)
        go.set()
        assert journal.wait_room(30)
        journal.append(7, taken + 1, 0, [(1, 1, 1000, bytes(1000))])
    with open_journal(tmp_path) as journal:
        assert [frame.seq for frame in journal.replay()] == list(range(1, taken + 2))


def test_every_segment_begins_with_the_state_up_to_it(tmp_path: Path) -> None:
    kernel = Kernel()
    with open_journal(tmp_path, kernel) as journal:
        fill(journal, range(1, 2001), kernel=kernel)
        assert journal.wait_durable(journal.end, 30)
        assert journal.statistics().checkpoints == len(list_segments(tmp_path)) > 3
        reader, expected = JournalReader(tmp_path), Kernel()
        offset = 0
        while offset < journal.end:
            for frame in reader.read(offset, journal.end):
                offset = frame.end
                if frame.is_checkpoint:
                    assert bytes(frame.sections[0].payload) == expected.state()
                else:
                    check_frame(frame)
                    expected.fold(frame.seq)
        reader.close()
        assert expected.count == 2000
    with open_journal(tmp_path) as journal:
        assert restored(journal) == (2000, sum(range(2001)))


def test_frames_never_span_segments_and_offsets_have_no_holes(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        fill(journal, range(500), size=1111)
    files = list_segments(tmp_path)
    for file, successor in itertools.pairwise(files):
        assert file.path.stat().st_size - 64 == successor.first - file.first


def test_frames_of_every_size_up_to_the_greatest_go_round_the_ring(tmp_path: Path, runtime_dir: Path) -> None:
    with open_journal(tmp_path, front_path=runtime_dir / "front") as journal:
        greatest = journal.max_frame_bytes - 64
        sizes = [greatest, 1, 7, 8, greatest - 1, 0, 4099] * 20
        for seq, size in enumerate(sizes, 1):
            append(journal, seq, size)
        with pytest.raises(InvalidArgument, match="split it"):
            journal.append(7, 1, 0, [(1, 1, greatest + 1, bytes(greatest + 1))])
    reader, offset, found = JournalReader(tmp_path), 0, []
    while frames := reader.read(offset, max_bytes=1):
        for frame in frames:
            offset = frame.end
            if not frame.is_checkpoint:
                check_frame(frame)
                found.append(frame.sections[0].count)
    reader.close()
    assert found == sizes


def test_a_section_that_is_not_what_it_says_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        end = append(journal, 1)
        with pytest.raises(InvalidArgument):
            journal.append(7, 2, 0, [(1, 8, 2, bytes(8))])
        assert journal.end == end
        append(journal, 3)
    with open_journal(tmp_path) as journal:
        assert [frame.seq for frame in journal.replay()] == [1, 3]


def test_a_second_opener_is_refused_and_the_first_one_gives_back(tmp_path: Path) -> None:
    with open_journal(tmp_path), pytest.raises(JournalLocked, match=f"process {os.getpid()} writes it"):
        open_journal(tmp_path)
    open_journal(tmp_path).close()


def test_two_journals_cannot_share_a_front_buffer(tmp_path: Path, runtime_dir: Path) -> None:
    front = runtime_dir / "front"
    with open_journal(tmp_path / "a", front_path=front), pytest.raises(JournalLocked, match="front buffer"):
        open_journal(tmp_path / "b", front_path=front)
    open_journal(tmp_path / "b", front_path=front).close()


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS])
def test_a_failed_sync_ends_acknowledgement_for_good_and_loses_nothing(
    tmp_path: Path, runtime_dir: Path, code: int
) -> None:
    failures: list[BaseException] = []
    told: list[int] = []
    broken = threading.Event()

    def failing_sync(fd: int) -> None:
        if broken.is_set():
            raise OSError(code, os.strerror(code))
        os.fdatasync(fd)

    settings: dict[str, Any] = {"front_path": runtime_dir / "front"}
    journal = open_journal(tmp_path, sync=failing_sync, on_failure=failures.append, on_durable=told.append, **settings)
    kept = append(journal, 1)
    assert journal.wait_durable(kept, 30)
    broken.set()
    append(journal, 2)
    eventually(lambda: failures)
    assert journal.failure is failures[0]
    with pytest.raises(JournalFailed, match="start again") as caught:
        append(journal, 3)
    assert caught.value.__cause__ is failures[0]
    assert not journal.wait_durable(journal.end, 30)
    assert journal.close() is False
    assert told == [kept]
    with open_journal(tmp_path, **settings) as journal:
        assert [frame.seq for frame in journal.replay()] == [1, 2]


def test_frames_of_a_failed_sync_are_written_again_from_the_front_buffer(tmp_path: Path, runtime_dir: Path) -> None:
    """After a failed sync the page cache may show what the disk never got: a scan alone would believe it."""
    broken = threading.Event()
    written_again: list[tuple[int, int]] = []

    def failing_sync(fd: int) -> None:
        if broken.is_set():
            raise OSError(errno.EIO, "injected")
        os.fdatasync(fd)

    failed = threading.Event()
    settings: dict[str, Any] = {"front_path": runtime_dir / "front"}
    journal = open_journal(tmp_path, sync=failing_sync, on_failure=lambda _: failed.set(), **settings)
    start = journal.end
    assert journal.wait_durable(start, 30)
    broken.set()
    end = append(journal, 1)
    assert failed.wait(30)
    journal.close()

    real = os.pwrite

    def watched(fd: int, data: memoryview, position: int) -> int:
        written_again.append((position, len(data)))
        return real(fd, data, position)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", watched)
        open_journal(tmp_path, **settings).close()
    assert (start + 64, end - start) in written_again


def test_an_error_of_the_callers_own_callback_is_a_failure_too(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def bad(offset: int) -> None:
        raise ZeroDivisionError

    with open_journal(tmp_path, on_durable=bad, on_failure=failures.append) as journal:
        append(journal, 1)
        assert isinstance(eventually(lambda: failures)[0], ZeroDivisionError)


def test_with_an_interval_there_is_one_sync_an_interval_and_close_does_not_wait_for_it(tmp_path: Path) -> None:
    hour_ns = 3600 * 10**9
    with open_journal(tmp_path, durability="interval", interval_ns=hour_ns) as journal:
        syncs = journal.statistics().syncs
        first = append(journal, 1)
        assert journal.wait_durable(first, 30)
        last = fill(journal, range(2, 50))
        assert journal.durable == first
    assert journal.durable == last
    assert journal.statistics().syncs == syncs + 2


def test_with_an_interval_a_front_buffer_half_full_is_written_early(tmp_path: Path) -> None:
    hour_ns = 3600 * 10**9
    with open_journal(tmp_path, durability="interval", interval_ns=hour_ns) as journal:
        assert journal.wait_durable(append(journal, 1), 30)
        half = fill(journal, range(2, 10), size=4000)
        assert journal.end - journal.durable <= MIN_BYTES // 2
        over = append(journal, 10, size=4000)
        assert half < over
        assert journal.wait_durable(over, 30)


def test_durability_none_acknowledges_without_a_sync_and_syncs_at_the_end(tmp_path: Path) -> None:
    synced: list[int] = []
    with open_journal(tmp_path, durability="none", sync=synced.append) as journal:
        before = len(synced)
        assert journal.wait_durable(append(journal, 1), 30)
        assert len(synced) == before
    assert len(synced) == before + 1


def test_a_hanging_disk_does_not_hold_up_the_end_and_what_is_left_is_in_the_front_buffer(
    tmp_path: Path, runtime_dir: Path
) -> None:
    go = threading.Event()

    def hanging_sync(fd: int) -> None:
        if threading.current_thread().name == "marketd-journal":
            go.wait(30)
        os.fdatasync(fd)

    journal = open_journal(tmp_path, sync=hanging_sync, front_path=runtime_dir / "front")
    append(journal, 1)
    assert journal.close(timeout_seconds=0) is False
    go.set()
    assert eventually(lambda: journal.close(timeout_seconds=30))


def test_a_closed_journal_takes_nothing(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    assert journal.close() is True
    with pytest.raises(JournalFailed, match="closed"):
        journal.append(7, 1, 0, [])
    assert journal.close() is True


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("segment_bytes", MIN_BYTES - 4096),
        ("segment_bytes", MIN_BYTES + 1),
        ("front_bytes", 0),
        ("budget_bytes", 2 * MIN_BYTES - 1),
        ("durability", "often"),
        ("interval_ns", 0),
        ("retry_seconds", 0),
    ],
)
def test_settings_that_cannot_be_used_are_refused_before_anything_is_made(
    tmp_path: Path, setting: str, value: Any
) -> None:
    with pytest.raises(InvalidArgument, match=setting):
        open_journal(tmp_path / "new", **{setting: value})
    assert not (tmp_path / "new").exists()


def test_no_room_for_the_front_buffer_names_the_setting(tmp_path: Path, runtime_dir: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        real = os.posix_fallocate

        def full(fd: int, offset: int, length: int) -> None:
            if length == MIN_BYTES + 4096:
                raise OSError(errno.ENOSPC, "injected")
            real(fd, offset, length)

        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(ConfigError, match=r"journal\.front"):
            open_journal(tmp_path, front_path=runtime_dir / "front")
    assert list(runtime_dir.iterdir()) == []
    open_journal(tmp_path, front_path=runtime_dir / "front").close()


def test_other_sizes_at_the_next_opening_change_nothing_of_what_is_there(tmp_path: Path, runtime_dir: Path) -> None:
    kernel = Kernel()
    sizes = [(1, 1), (4, 2), (1, 8), (2, 1), (1, 1)]
    for round_, (segment, front) in enumerate(sizes):
        settings: dict[str, Any] = {"segment_bytes": segment * MIN_BYTES, "front_bytes": front * MIN_BYTES}
        with open_journal(tmp_path, kernel, front_path=runtime_dir / "front", **settings) as journal:
            assert restored(journal) == (kernel.count, kernel.total)
            fill(journal, range(round_ * 700, round_ * 700 + 700), kernel=kernel)
    with open_journal(tmp_path) as journal:
        assert restored(journal) == (kernel.count, kernel.total)


def test_no_room_for_the_first_segment_is_said_at_the_opening(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:

        def full(fd: int, offset: int, length: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(JournalFull, match="no room"):
            open_journal(tmp_path)
    assert list_segments(tmp_path) == []
    open_journal(tmp_path).close()
