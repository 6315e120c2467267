"""Room: the budget, a full disk, and what goes when it is no longer needed."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from journal_support import Kernel, append, check_frame, fill, open_journal, restored

from marketd.ipc.journal import Journal
from marketd.ipc.journal_check import check
from marketd.ipc.journal_errors import JournalBehind, JournalMismatch
from marketd.ipc.journal_reader import JournalReader
from marketd.ipc.journal_settings import MIN_BYTES
from marketd.ipc.segments import list_segments
from marketd.market.errors import JournalFull
from support import eventually

HOUR_NS = 3600 * 10**9
QUICK: dict[str, Any] = {"retry_seconds": 0.01}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def use_up(disk: Path) -> None:
    """Take every page that is left."""
    with open(disk / "rest", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC


def append_until_full(journal: Journal, seq: int, size: int = 1000) -> int:
    """Append from `seq` on until there is no room; the first seq that was not taken."""
    while True:
        try:
            append(journal, seq, size)
        except JournalFull as error:
            assert not isinstance(error, JournalBehind)
            return seq
        seq += 1


def append_when_there_is_room(journal: Journal, seq: int, size: int = 1000) -> bool:
    try:
        append(journal, seq, size)
    except JournalFull:
        return False
    return True


def all_seqs(directory: Path, offset: int = 0) -> list[int]:
    seqs = []
    with JournalReader(directory) as reader:
        while frames := reader.read(offset):
            for frame in frames:
                if not frame.is_checkpoint:
                    check_frame(frame)
                    seqs.append(frame.seq)
            offset = frames[-1].end
    return seqs


def test_a_full_disk_refuses_by_name_and_goes_on_by_itself_when_there_is_room(
    small_disk: Path, runtime_dir: Path
) -> None:
    with open_journal(small_disk / "journal", front_path=runtime_dir / "front", **QUICK) as journal:
        (small_disk / "filler").write_bytes(bytes(500_000))
        first_refused = append_until_full(journal, 1)
        assert first_refused > 100, "both segments that were there are used up first"
        assert "no room" in (journal.blocked or "")
        assert journal.statistics().refused_full == 1
        assert journal.failure is None
        assert journal.wait_durable(journal.end, 30), "what was taken is durable on the full disk"
        (small_disk / "filler").unlink()
        assert eventually(lambda: append_when_there_is_room(journal, first_refused))
        last = append_until_full(journal, first_refused + 1)
        assert journal.blocked is not None
        journal.release(journal.durable, HOUR_NS)
        assert eventually(lambda: append_when_there_is_room(journal, last))
        eventually(lambda: journal.blocked is None)
        assert journal.statistics().segments_removed_early > 0
    seqs = all_seqs(small_disk / "journal", list_segments(small_disk / "journal")[0].first)
    assert seqs == list(range(seqs[0], last + 1))


def test_a_journal_on_a_full_disk_opens_and_waits_for_room(small_disk: Path, runtime_dir: Path) -> None:
    settings: dict[str, Any] = {"front_path": runtime_dir / "front", **QUICK}
    with open_journal(small_disk / "journal", **settings) as journal:
        first_refused = append_until_full(journal, 1)
    last = list_segments(small_disk / "journal")[-1].path
    os.truncate(last, last.stat().st_size - MIN_BYTES // 16)  # nothing was written there yet
    use_up(small_disk)
    with open_journal(small_disk / "journal", **settings) as journal:
        assert journal.blocked is not None
        with pytest.raises(JournalFull):
            append(journal, first_refused)
        journal.release(journal.durable, 0)
        assert eventually(lambda: append_when_there_is_room(journal, first_refused))


def test_the_budget_refuses_until_the_database_has_committed(tmp_path: Path) -> None:
    budget = 4 * MIN_BYTES
    with open_journal(tmp_path, budget_bytes=budget, **QUICK) as journal:
        first_refused = append_until_full(journal, 1)
        assert "budget" in (journal.blocked or "")
        assert journal.statistics().disk_bytes <= budget
        segments = list_segments(tmp_path)
        journal.release(segments[1].first - 8, 0)
        assert journal.wait_durable(journal.end, 30)
        assert not journal.wait_room(0.05), "the first segment is not committed whole"
        journal.release(segments[1].first, 0)
        assert journal.wait_room(30)
        append(journal, first_refused)
        assert journal.statistics().oldest == segments[1].first


def test_a_greater_budget_is_room_at_once(tmp_path: Path) -> None:
    hour_seconds = 3600.0
    with open_journal(tmp_path, budget_bytes=2 * MIN_BYTES, retry_seconds=hour_seconds) as journal:
        first_refused = append_until_full(journal, 1)
        assert not journal.has_room
        journal.set_budget(4 * MIN_BYTES)
        assert journal.wait_room(30)
        assert journal.has_room
        append(journal, first_refused)


def test_room_is_made_from_committed_segments_before_keep_has_passed(tmp_path: Path) -> None:
    with open_journal(tmp_path, budget_bytes=4 * MIN_BYTES, **QUICK) as journal:
        for seq in range(1, 2000):
            end = append(journal, seq)
            journal.release(end, HOUR_NS)
        statistics = journal.statistics()
        assert statistics.disk_bytes <= 4 * MIN_BYTES
        assert statistics.segments_removed_early == statistics.segments_removed > 0


def test_committed_segments_are_kept_for_as_long_as_asked(tmp_path: Path) -> None:
    with open_journal(tmp_path, **QUICK) as journal:
        fill(journal, range(1500))
        assert journal.wait_durable(journal.end, 30)
        files = list_segments(tmp_path)
        assert len(files) >= 4
        for file in files[:2]:
            os.utime(file.path, ns=(0, 0))
        journal.release(journal.end, HOUR_NS)
        eventually(lambda: list_segments(tmp_path) == files[2:])
        os.utime(files[2].path, ns=(0, 0))
        eventually(lambda: list_segments(tmp_path) == files[3:])


def test_the_newest_checkpoint_is_never_released(tmp_path: Path) -> None:
    kernel = Kernel()
    with open_journal(tmp_path, kernel) as journal:
        fill(journal, range(1, 1000), kernel=kernel)
        assert journal.wait_durable(journal.end, 30)
        last = list_segments(tmp_path)[-1]
        journal.release(journal.end, 0)
        eventually(lambda: list_segments(tmp_path) == [last])
        append(journal, 1000)
    with open_journal(tmp_path) as journal:
        kernel.restore(journal.checkpoint)
        assert kernel.count + len(list(journal.replay())) == 1000


def test_a_reader_follows_while_segments_go_behind_it(tmp_path: Path) -> None:
    seen: list[int] = []
    with open_journal(tmp_path, budget_bytes=6 * MIN_BYTES) as journal, JournalReader(tmp_path) as reader:
        offset = 0
        for start in range(1, 5000, 100):
            assert journal.wait_durable(fill(journal, range(start, start + 100)), 30)
            for frame in reader.read(offset, journal.durable, max_bytes=MIN_BYTES):
                offset = frame.end
                if not frame.is_checkpoint:
                    check_frame(frame)
                    seen.append(frame.seq)
            journal.release(offset, 0)
        assert journal.statistics().segments_removed > 3
        while offset < journal.durable:
            for frame in reader.read(offset, journal.durable):
                offset = frame.end
                seen += [] if frame.is_checkpoint else [frame.seq]
    assert seen == list(range(1, 5001))


def test_a_reader_that_is_left_behind_is_told_loudly(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal, JournalReader(tmp_path) as reader:
        fill(journal, range(1500))
        assert journal.wait_durable(journal.end, 30)
        offset = reader.read(0, journal.durable, max_bytes=1000)[-1].end
        files = list_segments(tmp_path)
        journal.release(files[2].first, 0)
        eventually(lambda: list_segments(tmp_path) == files[2:])
        with pytest.raises(JournalMismatch, match=f"begins at offset {files[2].first}"):
            while True:  # the open file of the segment it is in stays readable
                offset = reader.read(offset, journal.durable, max_bytes=1000)[-1].end
        assert offset == files[1].first
        assert reader.oldest == files[2].first


def test_a_write_that_finds_no_room_is_tried_again_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that copies on write can refuse even what was allocated."""
    real, full = os.pwrite, [True]

    def pwrite(fd: int, data: bytes, position: int) -> int:
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data, position)

    with open_journal(tmp_path, segment_bytes=16 * MIN_BYTES, **QUICK) as journal:
        monkeypatch.setattr(os, "pwrite", pwrite)
        append(journal, 1)
        eventually(lambda: journal.blocked)
        first_refused = append_until_full(journal, 2)
        assert journal.durable < journal.end
        full[0] = False
        assert journal.wait_durable(journal.end, 30)
        assert eventually(lambda: append_when_there_is_room(journal, first_refused))
        assert journal.blocked is None
    assert all_seqs(tmp_path) == list(range(1, first_refused + 1))


class FullDisk:
    """Refuses every write, and every new segment, until there is `room`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = False
        for name in ("pwrite", "posix_fallocate"):
            monkeypatch.setattr(os, name, self._refusing(getattr(os, name)))

    def _refusing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if not self.room and args[-1] != FRONT_FILE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args)

        return call


FRONT_FILE_BYTES = 16 * MIN_BYTES + 4096
FILLED: dict[str, Any] = {"front_bytes": 16 * MIN_BYTES, **QUICK}


def killed_with_frames_in_the_front_buffer(directory: Path, front: Path, count: int, padding: int = 0) -> Kernel:
    """A journal of which the disk has the first 100 frames."""
    kernel, at_work = Kernel(padding), directory.with_name("at-work")
    with open_journal(at_work, kernel, front_path=front, **FILLED) as journal:
        assert journal.wait_durable(fill(journal, range(1, 101), kernel=kernel), 30)
        durable = journal.durable
        shutil.copytree(at_work, directory)
        fill(journal, range(101, count + 1), kernel=kernel)
    with open(front, "r+b") as file:
        file.seek(80)
        file.write(durable.to_bytes(8, "little"))
    return kernel


@pytest.mark.parametrize("count", [101, 200, 1500])
@pytest.mark.parametrize("padding", [0, MIN_BYTES])
def test_a_journal_whose_front_buffer_finds_no_room_on_the_disk_opens_and_goes_on(
    tmp_path: Path, runtime_dir: Path, monkeypatch: pytest.MonkeyPatch, count: int, padding: int
) -> None:
    """Within a segment, and with segments that the disk has not begun; with states that fit into a frame or do not."""
    directory, front = tmp_path / "journal", runtime_dir / "front"
    kernel = killed_with_frames_in_the_front_buffer(directory, front, count, padding)
    with monkeypatch.context() as patch:
        disk = FullDisk(patch)
        with open_journal(directory, kernel, front_path=front, **FILLED) as journal:
            assert restored(journal) == (count, sum(range(count + 1)))
            assert "no room" in (journal.blocked or "")
            assert journal.durable < journal.end
            waiting = journal.durable
            with suppress(JournalFull):
                for seq in range(count + 1, count + 11):
                    append(journal, seq)
                    kernel.fold(seq)
            assert journal.durable == waiting
            disk.room = True
            assert journal.wait_durable(journal.end, 30)
            last = kernel.count
            eventually(lambda: append_when_there_is_room(journal, last + 1))
    with open_journal(directory, kernel, front_path=front, **FILLED) as journal:
        assert restored(journal) == (last + 1, sum(range(last + 2)))
    assert check(directory).problems == ()


def test_a_journal_that_was_opened_without_room_and_is_killed_again_loses_nothing(
    tmp_path: Path, runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, front = tmp_path / "journal", runtime_dir / "front"
    kernel = killed_with_frames_in_the_front_buffer(directory, front, 700)
    with monkeypatch.context() as patch:
        FullDisk(patch)
        for _ in range(2):
            with open_journal(directory, kernel, front_path=front, **FILLED) as journal:
                assert restored(journal) == (700, sum(range(701)))
    with open_journal(directory, kernel, front_path=front) as journal:  # of another size, by now it can be emptied
        assert restored(journal) == (700, sum(range(701)))
        assert journal.durable == journal.end


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, position: real(fd, data[: max(1, len(data) // 2)], position))
    with open_journal(tmp_path) as journal:
        fill(journal, range(1, 1000))
    assert all_seqs(tmp_path) == list(range(1, 1000))
