"""The arena's files: made whole before anybody sees them, owned by one writer, mapped, replaced.

Ownership is an flock on the file itself, so that a killed writer's is gone with it. A new file is built under
`<path>.new`, locked, and renamed over the old one, which is then marked RETIRED: whoever holds the lock of
the file that bears the name is the only writer, and readers of the old one find the new one under that name.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from pathlib import Path

from marketd.ipc import arena_words as word
from marketd.ipc.arena import FILE_MODE, ArenaNoSpace, ArenaOwned, ArenaState


def map_shared(descriptor: int, size: int, *, writable: bool) -> mmap.mmap:
    """The whole file, its pages present from the start: the first read of each costs no fault."""
    prot = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    return mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=prot)


def own(path: Path, flags: int = 0) -> int:
    """The open descriptor of the file that bears the name, locked. FileNotFoundError; ArenaOwned."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, FILE_MODE)
        try:
            _lock(descriptor, path)
            if _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # renamed between open and lock; the name now leads to another file


def build(path: Path, size: int, header: bytes) -> int:
    """A new file of `size` bytes that begins with `header`, in the place of whatever bore the name; locked.

    Raises ArenaOwned when somebody writes the present file or is about to make one, ArenaNoSpace.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    new = path.with_name(path.name + ".new")
    descriptor = own(new, os.O_CREAT)
    try:
        _fill(descriptor, path, size, header)
        replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        os.close(descriptor)
        raise
    return descriptor


def _fill(descriptor: int, path: Path, size: int, header: bytes) -> None:
    os.fchmod(descriptor, FILE_MODE)  # whatever the umask says
    os.ftruncate(descriptor, 0)  # a creator killed half-way may have left something
    try:
        os.posix_fallocate(descriptor, 0, size)  # the memory is ours now, or refused now: never a SIGBUS later
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ArenaNoSpace(
            f"{path}: {size / 2**20:.1f} MiB of shared memory are needed and not free; make the file system "
            "of the runtime directory larger, or lower cache.window, cache.trades_per_second or cache.bars"
        ) from None
    os.pwrite(descriptor, header, 0)


def replace(new: Path, path: Path) -> None:
    """Give a file the name of another, which is marked RETIRED; ArenaOwned when somebody writes that one."""
    try:
        old = own(path)
    except FileNotFoundError:
        os.rename(new, path)
        return
    try:
        os.rename(new, path)
        # Only now: a reader that sees RETIRED opens the name again and must find the new file there.
        if os.pread(old, len(word.MAGIC), 0) == word.MAGIC:
            os.pwrite(old, int(ArenaState.RETIRED).to_bytes(word.BYTES, "little"), word.STATE * word.BYTES)
    finally:
        os.close(old)


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ArenaOwned(f"{path}: another process writes this arena; two daemons of one instance?") from None


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
