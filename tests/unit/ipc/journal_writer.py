"""A writer process for test_journal_kill.py: `python journal_writer.py appends|crashes DIRECTORY FRONT PROGRESS`.

`appends` appends until it is killed. `crashes` forks writers that kill themselves at the first, second, … call that
touches the disk, and after each of them opens the journal and checks it. PROGRESS is a file of 8 bytes: how many
appends have returned.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from mmap import mmap
from pathlib import Path
from typing import Any

from journal_support import Kernel, append, check_frame, open_journal

DISK_CALLS = ("open", "pwrite", "fsync", "fdatasync", "ftruncate", "posix_fallocate", "rename", "unlink")
FRAMES_A_LIFE = 40
MIN_POINTS = 60


def recovered(directory: Path, front: Path, kernel: Kernel) -> Any:
    """The journal opened, its state put into `kernel`."""
    journal = open_journal(directory, kernel, front_path=front, sync=lambda fd: os.fdatasync(fd))
    kernel.restore(journal.checkpoint)
    for frame in journal.replay():
        check_frame(frame)
        kernel.fold(frame.seq)
    return journal


def write(directory: Path, front: Path, progress: mmap, last: int) -> None:
    """Append from where the journal ends up to frame `last`, of many sizes, telling after each; let go of old ones."""
    kernel = Kernel()
    journal = recovered(directory, front, kernel)
    while kernel.count < last:
        kernel.fold(kernel.count + 1)
        append(journal, kernel.count, kernel.count * 7919 % 4000)
        progress[:] = kernel.count.to_bytes(8, "little")
        if kernel.count % 50 == 0:
            journal.release(journal.durable, 0)
    journal.close()


def verify(directory: Path, front: Path, progress: mmap) -> int:
    """How many frames there are: all that were returned from, in order, and at most the one under way beside them."""
    kernel = Kernel()
    journal = recovered(directory, front, kernel)
    journal.close()
    returned = int.from_bytes(progress[:], "little")
    assert kernel.total == sum(range(kernel.count + 1)), "a frame is missing or twice there"
    assert returned <= kernel.count <= returned + 1, f"{returned} appends returned, {kernel.count} frames are there"
    return kernel.count


def die_at(point: int) -> None:
    """Kill this process at its `point`-th call that touches the disk: even ones before it, odd ones after it."""
    calls = itertools.count()

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            number = next(calls)
            if number * 2 == point:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*args, **kwargs)
            if number * 2 + 1 == point:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for name in DISK_CALLS:
        setattr(os, name, wrap(getattr(os, name)))


def crash_at_every_point(directory: Path, front: Path, progress: mmap) -> int:
    """The number of points at which a writer was killed."""
    count, point = 0, -1
    while True:
        point += 1
        pid = os.fork()
        if pid == 0:
            die_at(point)
            write(directory, front, progress, count + FRAMES_A_LIFE)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        count = verify(directory, front, progress)
        if os.WIFEXITED(status) and point > MIN_POINTS:
            assert os.WEXITSTATUS(status) == 0
            return point


def main() -> None:
    mode, directory, front, progress_path = sys.argv[1], *map(Path, sys.argv[2:])
    with open(progress_path, "r+b") as file:
        progress = mmap(file.fileno(), 8)
    if mode == "appends":
        write(directory, front, progress, sys.maxsize)
    else:
        sys.stdout.write(str(crash_at_every_point(directory, front, progress)))


if __name__ == "__main__":
    main()
