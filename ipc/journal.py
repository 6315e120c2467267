"""The journal: append-only, on disk, the one place where a record counts as kept.

`append` copies a frame into the front buffer (shared memory) and returns; a thread writes and syncs, and tells by
`on_durable(offset)` how far the disk has everything. So no disk ever delays the caller, and a SIGKILL loses nothing
that `append` returned from. Other processes follow with `marketd.ipc.journal_reader`.

    journal = Journal.open(directory, checkpoint=kernel.state, front_path=…, on_durable=…, on_failure=…)
    kernel.restore(journal.checkpoint)
    for frame in journal.replay(): kernel.apply(frame)
    end = journal.append(instrument, seq, ts_known, [(kind, itemsize, count, records), …])

The contract with the caller:

- One thread appends (and closes). `on_durable` and `on_failure` are called in the flush thread: hand over, return.
- `checkpoint()` is called at the end of the `append` that fills a segment, and by `open` for a new journal. Its bytes
  must hold the state *with* that frame: replay begins behind it. (So: fold first, then append.)
- `JournalFull` (no room) and `JournalBehind` (the disk is slower than the records) leave everything as it was, and pass
  by themselves: the same `append` may succeed later.
- Durable means: on disk (with `durability="none"`: in the operating system's hands). See `journal_flusher`.

A segment is left with room for two frames more, so that the frame which finds out that there is no next segment
still has a place when there is one again, and its checkpoint can follow it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from marketd.ipc.frames import CHECKPOINT, CHECKPOINT_KIND, Frame, SectionInput, frame_bytes
from marketd.ipc.front import Front
from marketd.ipc.journal_errors import JournalBehind, JournalFailed
from marketd.ipc.journal_flusher import Durability, Flusher
from marketd.ipc.journal_reader import JournalReader
from marketd.ipc.journal_recovery import recover
from marketd.ipc.journal_settings import (
    DEFAULT_BUDGET_BYTES,
    DEFAULT_FRONT_BYTES,
    DEFAULT_INTERVAL_NS,
    DEFAULT_SEGMENT_BYTES,
    JournalStatistics,
    Settings,
    refuse,
    take_lock,
)
from marketd.ipc.journal_store import SegmentStore, Sync
from marketd.ipc.segments import HEADER_BYTES
from marketd.market.errors import JournalFull

DIRECTORY_MODE = 0o750
REPLAY_BYTES = 4 << 20  # read at once

logger = logging.getLogger(__name__)


def _ignore(_: object) -> None:
    """For callers who do not want to be told."""


class Journal:
    """The only writer of a journal. Made by `Journal.open`; a context manager."""

    def __init__(
        self,
        directory: Path,
        settings: Settings,
        checkpoint: Callable[[], bytes],
        lock_fd: int,
        front: Front,
        store: SegmentStore,
        flusher: Flusher,
        repairs: Sequence[str],
    ) -> None:
        """Not for callers: `Journal.open` knows what goes together."""
        self._directory = directory
        self._settings = settings
        self._make_checkpoint = checkpoint
        self._lock_fd = lock_fd
        self._front = front
        self._store = store
        self._flusher = flusher
        self._front_bytes = front.size
        # Only with an interval does anything have to be hurried: otherwise a commit is always under way.
        self._hurry_above = front.size // 2 if settings.durability == "interval" else front.size + 1
        self._roll_at = -1  # an offset: the segment is full once `end` is beyond it
        self._frames = self._checkpoints = self._refused_full = self._refused_behind = 0
        self._closed = False
        self.max_frame_bytes = settings.max_frame_bytes
        self.uuid = store.uuid
        self.end = front.written
        self.repairs = tuple(repairs)
        self.checkpoint = b""  # the newest one's payload; of a new journal, what `checkpoint()` gave just now
        self._replay_from = self._replay_until = self.end

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        checkpoint: Callable[[], bytes],
        front_path: Path | None = None,
        front_bytes: int = DEFAULT_FRONT_BYTES,
        segment_bytes: int = DEFAULT_SEGMENT_BYTES,
        budget_bytes: int = DEFAULT_BUDGET_BYTES,
        durability: Durability = "group",
        interval_ns: int = DEFAULT_INTERVAL_NS,
        on_durable: Callable[[int], None] = _ignore,
        on_failure: Callable[[BaseException], None] = _ignore,
        sync: Sync = os.fdatasync,
        retry_seconds: float = 1.0,
    ) -> Journal:
        """Open for writing, repaired: `repairs` says what was found, everything up to `end` is durable.

        `front_path=None` keeps the front buffer in the process's own memory (import lane). `sync(fd)` puts a file's
        data on disk. Raises JournalLocked (another writer), JournalDamaged, JournalFull (no room for the first
        segment, or for what the front buffer holds), ConfigError or InvalidArgument.
        """
        settings = Settings(segment_bytes, front_bytes, budget_bytes, durability, interval_ns, retry_seconds).check()
        directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        with ExitStack() as undo:
            lock_fd = take_lock(directory)
            undo.callback(os.close, lock_fd)
            store = SegmentStore(directory, segment_bytes=segment_bytes, budget_bytes=budget_bytes, sync=sync)
            undo.callback(store.close)
            front, repairs = _recovered_front(directory, settings, store, front_path)
            undo.callback(front.close)
            flusher = _flusher_of(front, store, settings, on_durable, on_failure)
            journal = cls(directory, settings, checkpoint, lock_fd, front, store, flusher, repairs)
            journal._begin()
            undo.pop_all()
        for repair in repairs:
            logger.warning("journal %s: %s", directory, repair, extra={"action": "journal_repaired"})
        return journal

    def _begin(self) -> None:
        newest = self._store.newest
        needed = HEADER_BYTES + self.end - newest.first + 3 * self.max_frame_bytes
        needed = max(needed, self._settings.segment_bytes)
        if self._store.newest_bytes < needed:
            self._flusher.newest_needed_bytes = needed
        self._flusher.tend()
        if not self._flusher.newest_needed_bytes:
            self._roll_at = self._full_at(newest.first, self._store.newest_bytes)
        if self.end == newest.first:  # the first segment of all: no predecessor holds a checkpoint
            self._put_checkpoint()
            _flush_or_refuse(self._directory, self._flusher, self._front)
        with JournalReader(self._directory, uuid=self.uuid) as reader:
            first_frame = reader.first_frame(newest.first)
        self.checkpoint = bytes(first_frame.sections[0].payload)
        self._replay_from, self._replay_until = first_frame.end, self.end
        self._flusher.start()

    def _full_at(self, first: int, file_bytes: int) -> int:
        return first + file_bytes - HEADER_BYTES - 2 * self.max_frame_bytes

    # ---- appending ------------------------------------------------------------------------------

    def append(self, instrument: int, seq: int, ts_known: int, sections: Sequence[SectionInput]) -> int:
        """Take one frame; returns the offset behind it, durable once `durable` reaches that.

        A section is (kind id, itemsize, count, anything with a contiguous buffer of count × itemsize bytes).
        Raises JournalFull, JournalBehind, JournalFailed or InvalidArgument; then nothing was taken.
        """
        flusher = self._flusher
        length = frame_bytes(sections)
        offset = self.end
        end = offset + length
        durable = flusher.durable
        if (
            offset > self._roll_at
            or end - durable > self._front_bytes
            or length > self.max_frame_bytes
            or flusher.failure is not None
            or self._closed
        ):
            self._demand_room(length)
        self._front.put(length, offset, durable, 0, instrument, seq, ts_known, sections)
        self.end = end
        self._frames += 1
        if flusher.idle:  # J2 idle-before-look: `written` was stored by put
            flusher.wake()
        elif end - durable > self._hurry_above:
            flusher.hurry()
        if end > self._roll_at and self._can_roll():
            self._put_checkpoint()
        return end

    def _demand_room(self, length: int) -> None:
        if self._closed:
            raise JournalFailed(f"journal {self._directory}: it was closed")
        if self._flusher.failure is not None:
            raise JournalFailed(
                f"journal {self._directory}: the disk refused to keep records ({self._flusher.failure}); see to the "
                "disk, then start again"
            ) from self._flusher.failure
        if length > self.max_frame_bytes:
            refuse("sections", f"a frame of {length} bytes; at most {self.max_frame_bytes} go into one, split it")
        if (self.end > self._roll_at and not self._can_roll()) or not self._has_room(length):
            raise self._no_room()

    def _has_room(self, length: int) -> bool:
        return self.end + length - self._flusher.durable <= self._front_bytes

    def _can_roll(self) -> bool:
        # Half of the front buffer free: room for one more frame and the checkpoint behind it.
        return self._flusher.spare_ready and self._has_room(self._front_bytes // 2)

    def _no_room(self) -> JournalFull:
        blocked = self._flusher.blocked
        if blocked is not None:
            self._refused_full += 1
            return JournalFull(f"journal {self._directory}: {blocked}; it goes on by itself once there is room")
        self._refused_behind += 1
        waiting = self.end - self._flusher.durable
        return JournalBehind(f"journal {self._directory}: {waiting} bytes wait for the disk; try again")

    def _put_checkpoint(self) -> None:
        """Begin a segment here, with the caller's state as its first frame."""
        state = self._make_checkpoint()
        if len(state) > self._settings.max_checkpoint_bytes:
            refuse(
                "checkpoint",
                f"{len(state)} bytes; at most {self._settings.max_checkpoint_bytes} are possible with these sizes of "
                "journal.segment and journal.front",
            )
        sections = [(CHECKPOINT_KIND, 1, len(state), state)]
        length, offset = frame_bytes(sections), self.end
        if offset != self._store.newest.first:
            self._flusher.boundaries.append(offset)  # J1 boundary-before-frame
            self._flusher.spare_ready = False
            self._roll_at = self._full_at(offset, self._settings.segment_bytes)
        self._front.put(length, offset, self.durable, CHECKPOINT, 0, 0, 0, sections)
        self.end = offset + length
        self._checkpoints += 1
        self._flusher.wake()

    # ---- what there is --------------------------------------------------------------------------

    @property
    def durable(self) -> int:
        """Everything before this offset is on disk."""
        return self._flusher.durable

    @property
    def blocked(self) -> str | None:
        """Why there is no room to go on, in plain words; None while there is."""
        return self._flusher.blocked

    @property
    def failure(self) -> BaseException | None:
        """Why nothing more is taken, for ever."""
        return self._flusher.failure

    def replay(self) -> Iterator[Frame]:
        """The frames behind `checkpoint`, up to the end that the opening found, oldest first."""
        with JournalReader(self._directory, uuid=self.uuid) as reader:
            at = self._replay_from
            while at < self._replay_until:
                for frame in reader.read(at, self._replay_until, REPLAY_BYTES):
                    at = frame.end
                    if not frame.is_checkpoint:
                        yield frame

    def wait_durable(self, offset: int, timeout_seconds: float | None = None) -> bool:
        """Wait until everything before `offset` is durable; False when that did not happen in time or never will."""
        return self._flusher.wait_until(lambda: self._flusher.durable >= offset, timeout_seconds)

    def wait_room(self, timeout_seconds: float | None = None) -> bool:
        """Wait until `append` has room for a frame of any size: how a bulk writer takes its pace from the disk."""
        return self._flusher.wait_until(lambda: self.has_room, timeout_seconds)

    @property
    def has_room(self) -> bool:
        """Whether the next `append` will be taken, however large its frame."""
        return self._has_room(self.max_frame_bytes) and (self.end <= self._roll_at or self._can_roll())

    def set_budget(self, budget_bytes: int) -> None:
        """From now on so many bytes of disk. Less than is in use: nothing more is taken until enough was released."""
        self._store.budget_bytes = budget_bytes
        self._flusher.hurry()

    def release(self, committed: int, keep_ns: int) -> None:
        """The database has everything before `committed`: whole segments of that, older than `keep_ns`, may go.

        Where the budget or the disk is used up, committed ones go before `keep_ns` has passed. Does not wait: the flush
        thread deletes.
        """
        self._flusher.release(committed, keep_ns)

    def statistics(self) -> JournalStatistics:
        flusher, store = self._flusher, self._store
        return JournalStatistics(
            end=self.end,
            durable=flusher.durable,
            oldest=store.oldest,
            segments=store.count,
            disk_bytes=store.disk_bytes,
            budget_bytes=store.budget_bytes,
            front_used_bytes=self.end - flusher.durable,
            front_bytes=self._front_bytes,
            frames=self._frames,
            checkpoints=self._checkpoints,
            syncs=flusher.sync_count,
            sync_ns=flusher.sync_ns,
            longest_sync_ns=flusher.longest_sync_ns,
            refused_full=self._refused_full,
            refused_behind=self._refused_behind,
            segments_removed=store.removed_count,
            segments_removed_early=store.removed_early_count,
            blocked=flusher.blocked,
        )

    def close(self, timeout_seconds: float | None = 30.0) -> bool:
        """Flush, sync and let go; True when everything that was appended is durable.

        A disk that hangs keeps its thread and files, and what it did not take stays in the front buffer; call again.
        """
        self._closed = True
        if not self._flusher.stop(timeout_seconds):
            logger.error(
                "journal %s: the disk did not end within %s s; %d bytes stay in the front buffer",
                self._directory,
                timeout_seconds,
                self.end - self.durable,
                extra={"action": "journal_close_timeout"},
            )
            return False
        if self._lock_fd >= 0:
            self._front.close()
            self._store.close()
            os.close(self._lock_fd)
            self._lock_fd = -1
        return self.durable == self.end

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _flusher_of(
    front: Front,
    store: SegmentStore,
    settings: Settings,
    on_durable: Callable[[int], None],
    on_failure: Callable[[BaseException], None],
) -> Flusher:
    return Flusher(
        front,
        store,
        durability=settings.durability,
        interval_ns=settings.interval_ns,
        retry_seconds=settings.retry_seconds,
        on_durable=on_durable,
        on_failure=on_failure,
    )


def _recovered_front(
    directory: Path, settings: Settings, store: SegmentStore, path: Path | None
) -> tuple[Front, list[str]]:
    """The front buffer to go on with, once what it held is in the segments."""
    front, boundaries, repairs = recover(directory, store, path, settings.front_bytes)
    try:
        flusher = _flusher_of(front, store, settings, _ignore, _ignore)
        flusher.boundaries.extend(boundaries)
        _flush_or_refuse(directory, flusher, front)
        if front.size != settings.front_bytes:
            end = front.written
            front.close()
            front = Front.create(path, settings.front_bytes, store.uuid, end)
    except BaseException:
        front.close()
        raise
    return front, repairs


def _flush_or_refuse(directory: Path, flusher: Flusher, front: Front) -> None:
    flusher.flush()
    if flusher.durable != front.written:
        waiting = front.written - flusher.durable
        raise JournalFull(
            f"journal {directory}: {flusher.blocked}, and {waiting} bytes in the front buffer must be written first; "
            "make room, then start again"
        )
