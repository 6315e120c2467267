"""What a journal is opened with, what it measures, and the token of its one writer."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import NamedTuple, NoReturn, Self, get_args

from marketd.ipc.checkpoints import MAX_PIECE_BYTES, OVERHEAD_BYTES
from marketd.ipc.front import PAGE_BYTES
from marketd.ipc.journal_errors import JournalLocked
from marketd.ipc.journal_flusher import Durability
from marketd.ipc.segments import FILE_MODE, NO_ROOM
from marketd.market.errors import InvalidArgument

DEFAULT_SEGMENT_BYTES = 64 << 20
DEFAULT_FRONT_BYTES = 64 << 20
DEFAULT_BUDGET_BYTES = 16 << 30
DEFAULT_INTERVAL_NS = 50_000_000
MIN_BYTES = 16 * PAGE_BYTES  # of a segment and of the front buffer
LOCK_NAME = "lock"
ORPHAN_SECONDS = 30.0  # what the flusher of a killed process may still wait for its disk
_LOOK_SECONDS = 0.002


class Settings(NamedTuple):
    """What `Journal.open` was asked for, checked before anything is touched."""

    segment_bytes: int
    front_bytes: int
    budget_bytes: int
    durability: Durability
    interval_ns: int
    retry_seconds: float

    def check(self) -> Self:
        for name in ("segment_bytes", "front_bytes"):
            value = getattr(self, name)
            if value < MIN_BYTES or value % PAGE_BYTES:
                refuse(name, f"{value} bytes; it must be a multiple of {PAGE_BYTES}, at least {MIN_BYTES}")
        if self.budget_bytes < 2 * self.segment_bytes:
            refuse("budget_bytes", f"{self.budget_bytes} bytes hold no two segments of {self.segment_bytes}")
        if self.durability not in get_args(Durability):
            refuse("durability", f"{self.durability!r} is none of {', '.join(get_args(Durability))}")
        if self.interval_ns <= 0 or self.retry_seconds <= 0:
            refuse("interval_ns" if self.interval_ns <= 0 else "retry_seconds", "it must be above 0")
        return self

    @property
    def max_frame_bytes(self) -> int:
        return min(self.segment_bytes // 8, self.front_bytes // 4)

    @property
    def piece_bytes(self) -> int:
        """Of a checkpoint, in one frame."""
        return min(MAX_PIECE_BYTES, self.max_frame_bytes - OVERHEAD_BYTES)


def refuse(field: str, why: str) -> NoReturn:
    raise InvalidArgument(f"{field}: {why}", field=field)


class JournalStatistics(NamedTuple):
    end: int
    durable: int
    oldest: int
    segments: int
    disk_bytes: int  # of all segments and the one allocated ahead
    budget_bytes: int
    front_used_bytes: int
    front_bytes: int
    frames: int  # appended since the opening, checkpoints included
    checkpoints: int
    syncs: int
    sync_ns: int
    longest_sync_ns: int
    refused_full: int
    refused_behind: int
    segments_removed: int
    segments_removed_early: int  # before `keep` had passed, because room was needed
    blocked: str | None  # what keeps the journal from growing


def take_lock(directory: Path) -> int:
    """Ownership is this descriptor: it goes with the process and the flusher that it was handed on to, however those
    end. For the flusher of a process that was killed, which may still wait for the disk, this waits.
    """
    fd = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        _lock(fd, directory)
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    except OSError as error:
        if error.errno not in NO_ROOM:
            os.close(fd)
            raise
        # only who is refused would have read it: a full disk must not keep the journal from opening
    except JournalLocked:
        os.close(fd)
        raise
    return fd


def _lock(fd: int, directory: Path) -> None:
    deadline = time.monotonic() + ORPHAN_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
        if _may_run(owner) or time.monotonic() >= deadline:
            what = f"process {owner} writes it" if _may_run(owner) else f"the flusher of process {owner} does not end"
            raise JournalLocked(f"journal {directory}: {what}; one journal has one writer")
        time.sleep(_LOOK_SECONDS)


def _may_run(pid: str) -> bool:
    """Whether the owner that the lock names lives, as far as can be told."""
    if not pid.isdecimal():
        return True
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] not in {"Z", "X"}
