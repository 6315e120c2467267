"""A writer process for test_journal_kill.py.

`python journal_writer.py appends|hands-over|crashes DIRECTORY FRONT PROGRESS PADDING`

`appends` appends until it is killed, `hands-over` too, with a flusher process. `crashes` forks writers that kill
themselves at the first, second, … call that touches the disk, and after each of them opens the journal and checks it.
PROGRESS is a file of 8 bytes: how many appends have returned. The state has PADDING bytes more than it needs.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from mmap import mmap
from pathlib import Path
from typing import Any

from journal_support import Kernel, append, check_frame, open_journal

from marketd.ipc.journal_settings import MIN_BYTES

DISK_CALLS = ("open", "pwrite", "fsync", "fdatasync", "ftruncate", "posix_fallocate", "rename", "unlink")
FRAMES_A_LIFE = 40
MIN_POINTS = 60


def recovered(directory: Path, front: Path, kernel: Kernel, flusher: str = "thread") -> Any:
    """The journal opened, its state put into `kernel`."""
    # short lives get a large state whole only now and then, and what is behind the last whole one is kept
    budget = 256 * MIN_BYTES
    how: dict[str, Any] = {"flusher": flusher}
    if flusher == "thread":
        how["sync"] = lambda fd: os.fdatasync(fd)
    journal = open_journal(directory, kernel, front_path=front, budget_bytes=budget, **how)
    kernel.restore(journal.checkpoint)
    for frame in journal.replay():
        check_frame(frame)
        kernel.fold(frame.seq)
    return journal


def write(
    directory: Path,
    front: Path,
    progress: mmap,
    last: int,
    padding: int,
    opened: Callable[[], None] = lambda: None,
    flusher: str = "thread",
) -> None:
    """Append from where the journal ends up to frame `last`, of many sizes, telling after each; let go of old ones."""
    kernel = Kernel(padding)
    journal = recovered(directory, front, kernel, flusher)
    opened()
    while kernel.count < last:
        kernel.fold(kernel.count + 1)
        append(journal, kernel.count, kernel.count * 7919 % 4000)
        progress[:] = kernel.count.to_bytes(8, "little")
        if kernel.count % 50 == 0:
            journal.release(journal.durable, 0)
    journal.close()


def verify(directory: Path, front: Path, progress: mmap, padding: int = 0) -> int:
    """How many frames there are: all that were returned from, in order, and at most the one under way beside them."""
    kernel = Kernel(padding)
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


def crash_at_every_point(directory: Path, front: Path, progress: mmap, padding: int) -> int:
    """The number of points at which a writer was killed.

    Where states are large every other life is killed only after its opening: with a long way back to a whole state
    the others hardly get beyond that.
    """
    count, point = 0, -1
    while True:
        point += 1
        pid = os.fork()
        if pid == 0:
            last = count + FRAMES_A_LIFE
            if padding and point % 2:
                write(directory, front, progress, last, padding, opened=partial(die_at, point))
            else:
                die_at(point)
                write(directory, front, progress, last, padding)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        count = verify(directory, front, progress, padding)
        if os.WIFEXITED(status) and point > MIN_POINTS:
            assert os.WEXITSTATUS(status) == 0
            return point


def main() -> None:
    mode, directory, front, progress_path = sys.argv[1], *map(Path, sys.argv[2:5])
    padding = int(sys.argv[5])
    with open(progress_path, "r+b") as file:
        progress = mmap(file.fileno(), 8)
    if mode in ("appends", "hands-over"):
        flusher = "thread" if mode == "appends" else "process"
        write(directory, front, progress, sys.maxsize, padding, flusher=flusher)
    else:
        sys.stdout.write(str(crash_at_every_point(directory, front, progress, padding)))


if __name__ == "__main__":
    main()
