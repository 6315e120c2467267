"""A flusher in a process of its own: what it keeps, and what its end, its halt and its orphanhood mean."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from mmap import mmap
from pathlib import Path

import journal_writer
import pytest
from journal_support import MIN_BYTES, Kernel, append, fill, open_journal, restored

from marketd.ipc.journal import Journal
from marketd.ipc.journal_errors import JournalBehind, JournalFailed, JournalLocked
from marketd.ipc.journal_settings import LOCK_NAME, take_lock
from marketd.market.errors import InvalidArgument, JournalFull
from support import eventually

Opener = Callable[..., Journal]


@pytest.fixture
def opened(tmp_path: Path, runtime_dir: Path) -> Opener:
    def opened(kernel: Kernel | None = None, **settings: object) -> Journal:
        return open_journal(
            tmp_path / "journal", kernel, front_path=runtime_dir / "front", flusher="process", **settings
        )

    return opened


def flusher_of(pid: int) -> int:
    """The child of a process that is one."""

    def found() -> list[Path]:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [
            Path("/proc", child) for child in children if b"flush_child" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]

    return int(eventually(found)[0].name)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: state_of(pid) == "T")


def hear_of_failure(journal: Journal) -> BaseException:
    def heard() -> BaseException | None:
        journal.hear()
        return journal.failure

    return eventually(heard)


def test_what_was_appended_is_on_disk_over_many_segments(opened: Opener) -> None:
    kernel = Kernel()
    with opened(kernel) as journal:
        assert journal.wait_durable(fill(journal, range(1, 3000), kernel=kernel), 30)
        journal.release(journal.durable, 0)
        eventually(lambda: journal.statistics().segments_removed > 0)
        known = journal.statistics()
    assert known.durable == known.end
    assert known.syncs > 1
    assert known.oldest > 0
    assert journal.statistics().durable == known.end  # what is asked about a closed one
    with opened() as journal:
        assert restored(journal) == (kernel.count, kernel.total)


def test_the_appender_is_told_where_it_listens(opened: Opener) -> None:
    told: list[int] = []
    with opened(on_durable=told.append) as journal:
        for seq in range(1, 10):
            end = append(journal, seq)
            assert journal.wait_durable(end, 30)
            assert told[-1] == end


def test_the_locks_of_journal_and_front_buffer_are_the_flushers_too(
    opened: Opener, tmp_path: Path, runtime_dir: Path
) -> None:
    with opened():
        pid = flusher_of(os.getpid())
        held = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}
        assert {str(tmp_path / "journal" / LOCK_NAME), str(runtime_dir / "front")} <= held


def test_a_killed_flusher_is_a_failure_that_says_how_it_ended(opened: Opener, tmp_path: Path) -> None:
    failures: list[BaseException] = []
    kernel = Kernel()
    journal = opened(kernel, on_failure=failures.append)
    journal.wait_durable(fill(journal, range(1, 100), kernel=kernel), 30)
    stop(flusher_of(os.getpid()))
    fill(journal, range(100, 110), kernel=kernel)
    os.kill(flusher_of(os.getpid()), signal.SIGKILL)
    assert "SIGKILL" in str(hear_of_failure(journal))
    assert failures == [journal.failure]
    with pytest.raises(JournalFailed, match="SIGKILL"):
        append(journal, 110)
    assert journal.close() is False
    with opened() as journal:
        assert restored(journal) == (109, sum(range(110)))


def test_an_error_of_its_disk_is_a_failure_that_names_it(opened: Opener, tmp_path: Path) -> None:
    journal = opened()
    assert journal.wait_durable(append(journal, 1), 30)
    shutil.rmtree(tmp_path / "journal")
    with pytest.raises(JournalFailed, match="No such file"):
        for seq in range(2, 10_000):
            append(journal, seq)
    assert isinstance(journal.failure, JournalFailed)
    journal.close()


def test_a_stopped_flusher_is_a_slow_disk(opened: Opener) -> None:
    with opened() as journal:
        assert journal.wait_durable(append(journal, 1), 30)
        pid = flusher_of(os.getpid())
        stop(pid)
        seq = 1
        with pytest.raises(JournalBehind):
            while True:
                seq += 1
                journal.append(7, seq, seq, [])
        assert journal.blocked is None
        assert not journal.wait_durable(journal.end, 0.01)
        os.kill(pid, signal.SIGCONT)
        assert journal.wait_durable(journal.end, 30)


def test_a_stopped_flusher_does_not_hold_up_the_end(opened: Opener) -> None:
    journal = opened()
    pid = flusher_of(os.getpid())
    stop(pid)
    append(journal, 1)
    assert journal.close(timeout_seconds=0.01) is False
    os.kill(pid, signal.SIGCONT)
    assert journal.close(timeout_seconds=30) is True


def test_no_room_is_said_by_the_flusher_and_passes(opened: Opener) -> None:
    with opened(budget_bytes=3 * MIN_BYTES) as journal:
        with pytest.raises(JournalFull) as full:
            for seq in range(1, 10_000):
                append(journal, seq)
        assert not isinstance(full.value, JournalBehind)
        assert "budget" in str(journal.blocked)
        assert journal.wait_durable(journal.end, 30)
        journal.release(journal.durable, 0)
        assert journal.wait_room(30)
        eventually(lambda: (journal.hear(), journal.blocked)[1] is None)
        append(journal, 10_000)


def test_the_flusher_of_a_killed_writer_goes_with_it_even_when_it_is_stopped(tmp_path: Path, runtime_dir: Path) -> None:
    directory, front, progress_path = tmp_path / "journal", runtime_dir / "front", runtime_dir / "progress"
    progress_path.write_bytes(bytes(8))
    command = [sys.executable, journal_writer.__file__, "hands-over", *map(str, (directory, front, progress_path)), "0"]
    with open(progress_path, "r+b") as file, mmap(file.fileno(), 8) as progress:
        with subprocess.Popen(command) as writer:
            eventually(lambda: int.from_bytes(progress[:], "little") > 100)
            stop(flusher_of(writer.pid))
            writer.kill()
        assert journal_writer.verify(directory, front, progress) > 100


def test_a_successor_waits_for_the_flusher_of_one_that_is_dead_but_not_for_a_writer(tmp_path: Path) -> None:
    """The lock is what both hold; the dead one's name is in it."""
    holder = "import os, sys; sys.stdin.read()"
    fd = take_lock(tmp_path)
    with subprocess.Popen([sys.executable, "-c", holder], stdin=subprocess.PIPE, pass_fds=(fd,)) as flusher:
        with pytest.raises(JournalLocked, match=str(os.getpid())):
            take_lock(tmp_path)
        with subprocess.Popen(["true"]) as dead:
            pass
        (tmp_path / LOCK_NAME).write_text(f"{dead.pid}\n")
        os.close(fd)
        waiting = subprocess.Popen([sys.executable, "-c", _TAKE, str(tmp_path)], stdout=subprocess.PIPE)
        with waiting:
            assert waiting.stdout is not None
            assert waiting.stdout.readline() == b"asks\n"
            assert waiting.poll() is None
            flusher.communicate(b"")
            assert waiting.stdout.readline() == b"has it\n"


_TAKE = """
import sys
from pathlib import Path
from marketd.ipc.journal_settings import take_lock
print("asks", flush=True)
take_lock(Path(sys.argv[1]))
print("has it", flush=True)
"""


def test_a_process_is_refused_what_it_cannot_do(tmp_path: Path, runtime_dir: Path) -> None:
    with pytest.raises(InvalidArgument, match="flusher"):
        open_journal(tmp_path / "journal", flusher="process")
    with pytest.raises(InvalidArgument, match="flusher"):
        open_journal(tmp_path / "journal", flusher="process", front_path=runtime_dir / "front", sync=print)
    assert not (tmp_path / "journal").exists()
