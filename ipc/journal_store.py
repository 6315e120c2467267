"""The writer's segments: written, allocated ahead, let go. All disk waits of the journal are in here.

Used by one at a time (the opener, then the flusher). Errors of the operating system come out as they are; whether one
is the end or passes by itself is the flusher's to decide.

The order of a roll, so that a segment that has a successor is never torn:

    R1 predecessor-on-disk   every byte of the old segment is synced
    R2 header-before-name    the spare gets its header, synced, and only then its name
    R3 name-before-frames    the name is on disk before any frame in it can be acknowledged
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from marketd.ipc import segments
from marketd.ipc.segments import FILE_MODE, HEADER_BYTES, SPARE_NAME, SegmentFile, SegmentHeader
from marketd.market.errors import JournalFull

Sync = Callable[[int], None]


class Released(NamedTuple):
    """What `release` was told last."""

    committed: int
    keep_ns: int


class SegmentStore:
    """Segments of one journal, oldest first, the newest open for writing."""

    def __init__(self, directory: Path, *, segment_bytes: int, budget_bytes: int, sync: Sync) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self.budget_bytes = budget_bytes
        self._sync = sync
        self._spare = directory / SPARE_NAME
        self._spare_bytes = 0
        self._files: list[SegmentFile] = []
        self._sizes: list[int] = []
        self._fd = -1
        self.uuid = b""
        self.released = Released(0, 0)
        # (where a state begins, where its last piece ends) of those that the disk may not have whole yet
        self.states: deque[tuple[int, int]] = deque()
        self.restart_from = 0  # the newest state that is on disk whole begins here: a start needs nothing before it
        self.removed_count = 0
        self.removed_early_count = 0  # committed, but before `keep` had passed: room was needed

    @property
    def oldest(self) -> int:
        return self._files[0].first

    @property
    def newest(self) -> SegmentFile:
        return self._files[-1]

    @property
    def newest_bytes(self) -> int:
        """How large the newest segment's file is, header included."""
        return self._sizes[-1]

    @property
    def count(self) -> int:
        return len(self._files)

    @property
    def disk_bytes(self) -> int:
        return sum(self._sizes) + self._spare_bytes

    def begin(self, uuid: bytes) -> None:
        """The first segment of a new journal; JournalFull when there is no room for it."""
        self.uuid = uuid
        if why := self.prepare_spare():
            raise JournalFull(f"journal {self._directory}: {why}; make room, then start again")
        self._adopt_spare(0)

    def resume(self, files: list[SegmentFile], uuid: bytes) -> None:
        """Go on with an existing journal, in its newest segment."""
        self.uuid = uuid
        self._files = list(files)
        self._sizes = [file.path.stat().st_size for file in files]
        self._fd = os.open(self.newest.path, os.O_RDWR | os.O_CLOEXEC)
        if self._spare.exists():
            self._spare_bytes = self._spare.stat().st_size

    def allocate_newest(self, size: int) -> None:
        """Let the newest segment's file have at least `size` bytes: an earlier process or a copy left it shorter."""
        size = max(size, self._sizes[-1])
        os.posix_fallocate(self._fd, 0, size)
        self._sizes[-1] = size

    def erase(self, offset: int, length: int) -> None:
        """Overwrite what a torn write left behind the end with zeros, on disk.

        Otherwise a whole frame in there, at the very place where a new one will end, would look fresh.
        """
        zeros = memoryview(bytes(min(length, 1 << 20)))
        stop = offset + length
        while offset < stop:
            self.write(offset, zeros[: stop - offset])
            offset += min(len(zeros), stop - offset)
        self.sync()

    def write(self, offset: int, view: memoryview) -> None:
        segments.write_all(self._fd, view, HEADER_BYTES + offset - self.newest.first)

    def sync(self) -> None:
        self._sync(self._fd)

    def prepare_spare(self) -> str | None:
        """Allocate the next segment; or say in plain words what keeps it from being there. Repeatable."""
        while self.disk_bytes - self._spare_bytes + self._segment_bytes > self.budget_bytes:
            if not self._remove_oldest(early=True):
                return f"the budget of {self.budget_bytes} bytes is used up by {self._what_is_kept()}"
        while True:
            try:
                self._allocate_spare()
                return None
            except OSError as error:
                if error.errno not in segments.NO_ROOM:
                    raise
                if not self._remove_oldest(early=True):
                    return f"the disk has no room for {self._segment_bytes} bytes more ({error.strerror})"

    def _what_is_kept(self) -> str:
        if len(self._files) > 1 and self._files[1].first <= self.released.committed:
            return "the newest whole checkpoint and what follows it"
        return "records not yet committed"

    def _allocate_spare(self) -> None:
        fd = os.open(self._spare, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            os.posix_fallocate(fd, 0, self._segment_bytes)
            os.ftruncate(fd, self._segment_bytes)  # one left by another configuration may be longer
        except OSError:
            self._spare.unlink()
            self._spare_bytes = 0
            raise
        finally:
            os.close(fd)
        self._spare_bytes = self._segment_bytes

    def roll(self, first: int) -> None:
        """End the newest segment at offset `first` and begin the next one there, in the spare."""
        if not self._spare.exists() and (why := self.prepare_spare()):  # somebody tidied up
            raise OSError(errno.ENOSPC, why)
        os.ftruncate(self._fd, HEADER_BYTES + first - self.newest.first)
        self.sync()  # R1 predecessor-on-disk
        self._sizes[-1] = HEADER_BYTES + first - self.newest.first
        os.close(self._fd)
        self._fd = -1
        self._adopt_spare(first)

    def _adopt_spare(self, first: int) -> None:
        file = SegmentFile(segments.segment_path(self._directory, first), first)
        fd = os.open(self._spare, os.O_RDWR | os.O_CLOEXEC)
        try:
            header = segments.pack_header(SegmentHeader(self.uuid, first, time.time_ns()))
            segments.write_all(fd, memoryview(header), 0)
            os.fsync(fd)  # R2 header-before-name
            os.rename(self._spare, file.path)
            segments.sync_directory(self._directory)  # R3 name-before-frames
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        self._files.append(file)
        self._sizes.append(self._spare_bytes)
        self._spare_bytes = 0

    def remove_released(self, durable: int) -> bool:
        """Delete the segments that may go; True while one must be kept only because it is too young."""
        while self.states and self.states[0][1] <= durable:
            self.restart_from = self.states.popleft()[0]
        while self._removable():
            age_ns = time.time_ns() - self._files[0].path.stat().st_mtime_ns
            if age_ns < self.released.keep_ns:
                return True
            self._remove_oldest(early=False)
        return False

    def _removable(self) -> bool:
        """The oldest is committed whole, and there is a later state on disk to start from."""
        if len(self._files) < 2:
            return False
        successor = self._files[1].first
        return successor <= self.released.committed and successor <= self.restart_from

    def _remove_oldest(self, *, early: bool) -> bool:
        if not self._removable():
            return False
        self._files.pop(0).path.unlink()
        self._sizes.pop(0)
        self.removed_count += 1
        self.removed_early_count += early
        return True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
