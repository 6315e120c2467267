"""SIGKILL of real writers, and of the machine: nothing that was promised is missing, nothing is there twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from mmap import mmap
from pathlib import Path

import journal_writer
import pytest
from journal_support import Kernel

from marketd.ipc.journal_check import check
from support import eventually

KILLS = 5
# bytes of state beside what it counts: in one frame; in pieces, some segments; longer than a segment
PADDINGS = (0, 30_000, 150_000)


def command(mode: str, *paths: Path, padding: int = 0) -> list[str]:
    return [sys.executable, journal_writer.__file__, mode, *map(str, paths), str(padding)]


def kill_after(target: int, progress: mmap, arguments: list[str]) -> None:
    """Run a writer, and kill it some moment after its `target`-th append has returned."""
    with subprocess.Popen(arguments) as writer:
        try:
            eventually(lambda: int.from_bytes(progress[:], "little") >= target, timeout=30)
        finally:
            writer.kill()


@pytest.fixture
def progress_path(runtime_dir: Path) -> Path:
    path = runtime_dir / "progress"
    path.write_bytes(bytes(8))
    return path


@pytest.fixture
def progress(progress_path: Path) -> Iterator[mmap]:
    with open(progress_path, "r+b") as file, mmap(file.fileno(), 8) as memory:
        yield memory


@pytest.mark.parametrize("mode", ["appends", "hands-over"])
@pytest.mark.parametrize("padding", PADDINGS)
def test_a_writer_killed_at_any_moment_loses_nothing_that_append_returned_from(
    tmp_path: Path, runtime_dir: Path, progress_path: Path, progress: mmap, padding: int, mode: str
) -> None:
    directory, front = tmp_path / "journal", runtime_dir / "front"
    count = 0
    for _ in range(KILLS):
        target = count + random.randint(1, 1000)
        kill_after(target, progress, command(mode, directory, front, progress_path, padding=padding))
        count = journal_writer.verify(directory, front, progress, padding)
        assert count >= target
    assert check(directory).problems == ()


@pytest.mark.parametrize("padding", PADDINGS)
def test_a_writer_killed_at_each_call_that_touches_the_disk_loses_nothing(
    tmp_path: Path, runtime_dir: Path, progress_path: Path, padding: int
) -> None:
    """Opening, repair, roll and commit included: each life begins where the last one was cut off."""
    done = subprocess.run(
        command("crashes", tmp_path / "journal", runtime_dir / "front", progress_path, padding=padding),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > journal_writer.MIN_POINTS
    assert check(tmp_path / "journal").problems == ()


def test_a_front_buffer_that_the_kernel_took_away_costs_only_what_was_not_durable(
    tmp_path: Path, runtime_dir: Path, progress_path: Path, progress: mmap
) -> None:
    directory, front = tmp_path / "journal", runtime_dir / "front"
    kill_after(700, progress, command("appends", directory, front, progress_path))
    os.unlink(front)
    kernel = Kernel()
    journal_writer.recovered(directory, front, kernel).close()
    assert kernel.total == sum(range(kernel.count + 1))
    assert 0 < kernel.count <= int.from_bytes(progress[:], "little") + 1
    assert check(directory).problems == ()
