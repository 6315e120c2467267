"""The journal: append-only, on disk, the one place where a record counts as kept.

`append` copies a frame into the front buffer (shared memory) and returns; a flusher writes and syncs, and `durable`
says how far the disk has everything. So no disk ever delays the caller, and a SIGKILL loses nothing
that `append` returned from. Other processes follow with `marketd.ipc.journal_reader`.

    journal = Journal.open(directory, checkpoint=kernel.state, front_path=…, on_durable=…, on_failure=…)
    kernel.restore(journal.checkpoint)
    for frame in journal.replay(): kernel.apply(frame)
    end = journal.append(instrument, seq, ts_known, [(kind, itemsize, count, records), …])

The contract with the caller:

- One thread appends (and closes). The flusher is a thread of this process, in which `on_durable` and `on_failure` are
  called: hand over, return. Or, with `flusher="process"`, a process: then they are called in `hear`, which the one
  thread calls when `fd` can be read; before it sleeps it says `listen`.
- `checkpoint()` is called at the end of an `append` that fills a segment, and by `open` for a new journal. Its bytes
  must hold the state *with* that frame: replay begins behind it. (So: fold first, then append.) They may be as many
  as they are: a large state goes into the journal in pieces, one behind each of the next frames (`checkpoints`).
- `JournalFull` (no room) and `JournalBehind` (the disk is slower than the records) leave everything as it was, and pass
  by themselves: the same `append` may succeed later.
- Durable means: on disk (with `durability="none"`: in the operating system's hands). See `journal_flusher`.

A segment is left with room for two frames more, so that the frame which finds out that there is no next segment
still has a place when there is one again, and so that a piece of a checkpoint can follow any frame.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, Self

from marketd.ipc.checkpoints import OVERHEAD_BYTES, Outgoing, State, frames_between, newest_state, reference
from marketd.ipc.flush_process import FlushProcess
from marketd.ipc.flush_thread import FlushThread
from marketd.ipc.flush_words import ASLEEP, DURABLE, fence
from marketd.ipc.frames import Body, Frame, SectionInput, body_of, frame_bytes
from marketd.ipc.front import Front
from marketd.ipc.journal_errors import JournalBehind, JournalFailed, damaged
from marketd.ipc.journal_flusher import Durability, Flusher, Host
from marketd.ipc.journal_opening import flush_or_refuse, ignore, recovered
from marketd.ipc.journal_reader import JournalReader
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
from marketd.ipc.journal_tail import TailReader
from marketd.ipc.segments import HEADER_BYTES
from marketd.market.errors import JournalFull

DIRECTORY_MODE = 0o750
STATE_RATIO = 4  # a state of n bytes is followed by as many times n bytes of records before there is a next one
BUDGET_SHARE = 8  # but by no more than this part of the budget: segments are kept until a later state is whole

logger = logging.getLogger(__name__)


class Journal:
    """The only writer of a journal. Made by `Journal.open`; a context manager."""

    def __init__(
        self,
        directory: Path,
        settings: Settings,
        checkpoint: Callable[[], bytes],
        lock_fd: int,
        front: Front,
        flusher: Flusher,
        host: Host,
        repairs: Sequence[str],
    ) -> None:
        """Not for callers: `Journal.open` knows what goes together."""
        self.directory = directory
        self._settings = settings
        self._make_checkpoint = checkpoint
        self._lock_fd = lock_fd
        self._front = front
        self._words = front.words
        self._view = front.words.view
        self._flusher = flusher  # to open with; then it is the host's
        self._host = host
        self._hurried_at = -1
        self._budget_bytes = settings.budget_bytes
        self._front_bytes = front.size
        # Only with an interval does anything have to be hurried: otherwise a commit is always under way.
        self._hurry_above = front.size // 2 if settings.durability == "interval" else front.size + 1
        self._roll_at = -1  # an offset: the segment is full once `end` is beyond it
        self._room_until = -1  # an offset: there is room as long as `end` is not beyond it
        self._outgoing: Outgoing | None = None  # a state whose first piece is in the journal and whose last is not
        self._piece_end = 0
        self._state_base = self._state_bytes = 0  # of the newest state that was put whole
        self._frames = self._checkpoints = self._refused_full = self._refused_behind = 0
        self._closed = False
        self.max_frame_bytes = settings.max_frame_bytes
        self.uuid = flusher.store.uuid
        self.end = front.written
        self.repairs = tuple(repairs)
        self.checkpoint = b""  # the newest whole one; of a new journal, what `checkpoint()` gave just now
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
        on_durable: Callable[[int], None] = ignore,
        on_failure: Callable[[BaseException], None] = ignore,
        sync: Sync = os.fdatasync,
        flusher: Literal["thread", "process"] = "thread",
        retry_seconds: float = 1.0,
    ) -> Journal:
        """Open for writing, repaired: `repairs` says what was found, everything up to `end` is durable.

        Where the disk has no room for what the front buffer holds, that stays there (`blocked` says why), can be
        replayed, and becomes durable once there is room: other processes can help to make some meanwhile.
        `front_path=None` keeps the front buffer in the process's own memory (import lane). `sync(fd)` puts a file's
        data on disk, in a thread. `flusher`: a process takes nothing from this interpreter, needs a front buffer with a
        path, and syncs by fdatasync. Raises JournalLocked (another writer), JournalDamaged, JournalFull (no room for a
        new journal), ConfigError or InvalidArgument.
        """
        if flusher == "process" and (front_path is None or sync is not os.fdatasync):
            refuse("flusher", "a process needs a front buffer with a path, and syncs as the system does")
        settings = Settings(segment_bytes, front_bytes, budget_bytes, durability, interval_ns, retry_seconds).check()
        directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        with ExitStack() as undo:
            lock_fd = take_lock(directory)
            undo.callback(os.close, lock_fd)
            store = SegmentStore(directory, segment_bytes=segment_bytes, budget_bytes=budget_bytes, sync=sync)
            undo.callback(store.close)
            front, first, repairs = recovered(directory, settings, store, front_path)
            undo.callback(front.close)
            # one that could not be emptied keeps its size
            settings = settings._replace(front_bytes=front.size)
            host: Host
            if flusher == "thread":
                host = FlushThread(first, on_durable, on_failure)
            else:
                host = FlushProcess(directory, first, segment_bytes, lock_fd, on_durable, on_failure)
                undo.callback(host.close)
            journal = cls(directory, settings, checkpoint, lock_fd, front, first, host, repairs)
            journal._begin()
            undo.pop_all()
        for repair in repairs:
            logger.warning("journal %s: %s", directory, repair, extra={"action": "journal_repaired"})
        return journal

    def _begin(self) -> None:
        if self._flusher.boundaries:  # the disk has had no room to begin the segment that `end` is in
            self._roll_at = self._full_at(self._flusher.boundaries[-1], self._settings.segment_bytes)
        else:
            self._resume_segment()
        state = self._newest_state() or self._put_first_state()
        self.checkpoint = state.data
        self._state_base, self._state_bytes = state.base, len(state.data)
        self._words.tell_state(state.base, self.end)
        self._replay_from, self._replay_until = state.replay_from, self.end
        self._host.start()

    def _resume_segment(self) -> None:
        store = self._flusher.store
        newest = store.newest
        needed = HEADER_BYTES + self.end - newest.first + 3 * self.max_frame_bytes
        needed = max(needed, self._settings.segment_bytes)
        if store.newest_bytes < needed:
            self._flusher.newest_needed_bytes = needed
        self._flusher.tend()
        if not self._flusher.newest_needed_bytes:
            self._roll_at = self._full_at(newest.first, store.newest_bytes)

    def _newest_state(self) -> State | None:
        """None in a journal that has no record yet, new or killed before its first state was whole."""
        if self.end == self._flusher.store.oldest:
            return None
        with JournalReader(self.directory, uuid=self.uuid) as disk:
            reader = TailReader(disk, self._front, self._flusher.boundaries)
            found = newest_state(reader, self.end)
            if found is None:
                oldest, frames = reader.oldest, frames_between(reader, reader.oldest, self.end)
                if oldest or not all(frame.is_checkpoint for frame in frames):
                    name = self._flusher.store.newest.name
                    raise damaged(self.directory, name, oldest, "no checkpoint is whole from there on")
        return found

    def _put_first_state(self) -> State:
        """On disk before the first record is: nothing else says what the records are to be added to."""
        base, state = self.end, self._make_checkpoint()
        self._outgoing = Outgoing(state, base, self._settings.piece_bytes)
        self._put_piece(begins_segment=base == self._flusher.store.newest.first)
        replay_from = self.end
        while self._outgoing is not None:
            if self.end > self._roll_at or not self._has_room(self._front_bytes // 2):
                flush_or_refuse(self.directory, self._flusher, self._front)
                self._flusher.tend()
            if self.end <= self._roll_at:
                self._put_piece(begins_segment=False)
            elif self._can_roll():
                self._begin_segment()
            else:
                raise JournalFull(
                    f"journal {self.directory}: {self._flusher.blocked.reason}; make room, then start again"
                )
        flush_or_refuse(self.directory, self._flusher, self._front)
        return State(base, replay_from, state)

    def _full_at(self, first: int, file_bytes: int) -> int:
        return first + file_bytes - HEADER_BYTES - 2 * self.max_frame_bytes

    # ---- appending ------------------------------------------------------------------------------

    def append(self, instrument: int, seq: int, ts_known: int, sections: Sequence[SectionInput] | Body) -> int:
        """Take one frame; returns the offset behind it, durable once `durable` reaches that.

        A section is (kind id, itemsize, count, anything with a contiguous buffer of count × itemsize bytes); or they
        come as the body of a frame that they make.
        Raises JournalFull, JournalBehind, JournalFailed or InvalidArgument; then nothing was taken.
        """
        view, host = self._view, self._host
        body = sections if isinstance(sections, Body) else body_of(sections)
        length = frame_bytes(body)
        offset = self.end
        end = offset + length
        durable = view[DURABLE]
        if (
            offset > self._roll_at
            or end - durable > self._front_bytes
            or length > self.max_frame_bytes
            or host.failure is not None
            or self._closed
        ):
            self._demand_room(length)
        self._front.put(length, offset, durable, 0, instrument, seq, ts_known, body)
        self.end = end
        self._frames += 1
        fence()
        if view[ASLEEP]:  # J2 asleep-before-look: `written` was stored by put
            view[ASLEEP] = 0
            host.ring()
        elif end - durable > self._hurry_above and durable != self._hurried_at:
            self._hurried_at = durable
            self._hurry()
        if end > self._roll_at:
            if self._can_roll():
                self._begin_segment()
        elif self._outgoing is not None:
            self._put_pieces(length)
        return end

    def _demand_room(self, length: int) -> None:
        if self._closed:
            raise JournalFailed(f"journal {self.directory}: it was closed")
        failure = self._host.failure
        if failure is not None:
            raise JournalFailed(
                f"journal {self.directory}: the disk refused to keep records ({failure}); see to the "
                "disk, then start again"
            ) from failure
        if length > self.max_frame_bytes:
            refuse("sections", f"a frame of {length} bytes; at most {self.max_frame_bytes} go into one, split it")
        if (self.end > self._roll_at and not self._can_roll()) or not self._has_room(length):
            raise self._no_room()

    def _has_room(self, length: int) -> bool:
        return self.end + length - self.durable <= self._front_bytes

    def _can_roll(self) -> bool:
        # Half of the front buffer free: room for one more frame and the checkpoint behind it.
        return bool(self._words.spare_ready) and self._has_room(self._front_bytes // 2)

    def _no_room(self) -> JournalFull:
        blocked = self.blocked
        if blocked is not None:
            self._refused_full += 1
            return JournalFull(f"journal {self.directory}: {blocked}; it goes on by itself once there is room")
        self._refused_behind += 1
        waiting = self.end - self.durable
        return JournalBehind(f"journal {self.directory}: {waiting} bytes wait for the disk; try again")

    def _begin_segment(self) -> None:
        """Begin a segment here, with the caller's state or as much of one as goes into a frame."""
        if self._outgoing is None and self._needs_state():
            self._outgoing = Outgoing(self._make_checkpoint(), self.end, self._settings.piece_bytes)
        self._words.boundary = self.end  # J1 boundary-before-frame
        self._words.spare_ready = 0
        self._roll_at = self._full_at(self.end, self._settings.segment_bytes)
        if self._outgoing is None:
            self._put(*reference(self._state_base, self._state_bytes))
        else:
            self._put_piece(begins_segment=True)

    def _needs_state(self) -> bool:
        """Writing a large one each time would be most of what is written."""
        distance = min(STATE_RATIO * self._state_bytes, self._budget_bytes // BUDGET_SHARE)
        return self.end - self._state_base >= distance

    def _put_pieces(self, length: int) -> None:
        """Behind a frame of `length` bytes, about as many of the state and at least a piece: so one that has no more
        than half a segment is whole before the segment is full, and segments before it may go to make room.
        """
        until = self.end + length
        while self._outgoing is not None and self.end <= self._roll_at and self._may_put_piece():
            self._put_piece(begins_segment=False)
            if self.end >= until:
                return

    def _may_put_piece(self) -> bool:
        """Where the front buffer is half empty a piece disturbs nobody; on a disk that is always behind the records it
        still gets its share, or else the state would never be whole, and no segment could ever go.
        """
        piece_bytes = self._settings.piece_bytes + OVERHEAD_BYTES
        share_due = self.end - self._piece_end >= piece_bytes
        return self._has_room(self._front_bytes // 2) or (share_due and self._has_room(piece_bytes))

    def _put_piece(self, *, begins_segment: bool) -> None:
        """The next piece of the state under way."""
        outgoing = self._outgoing
        assert outgoing is not None
        self._put(*outgoing.next(begins_segment=begins_segment))
        self._piece_end = self.end
        if outgoing.is_over:
            self._outgoing = None
            self._state_base, self._state_bytes = outgoing.base, outgoing.total
            self._words.tell_state(outgoing.base, self.end)
            self._checkpoints += 1

    def _put(self, flags: int, sections: list[SectionInput]) -> None:
        """A frame of the journal's own."""
        body, offset = body_of(sections), self.end
        length = frame_bytes(body)
        self._front.put(length, offset, self.durable, flags, 0, 0, 0, body)
        self.end = offset + length
        self._host.ring()

    # ---- what there is --------------------------------------------------------------------------

    @property
    def durable(self) -> int:
        """Everything before this offset is on disk."""
        return self._view[DURABLE]

    @property
    def blocked(self) -> str | None:
        """Why there is no room to go on, in plain words; None while there is."""
        return self._host.blocked

    @property
    def failure(self) -> BaseException | None:
        """Why nothing more is taken, for ever."""
        return self._host.failure

    def replay(self) -> Iterator[Frame]:
        """The frames behind `checkpoint`, up to the end that the opening found, oldest first."""
        with JournalReader(self.directory, uuid=self.uuid) as reader:
            tail = TailReader(reader, self._front)
            for frame in frames_between(tail, self._replay_from, self._replay_until):
                if not frame.is_checkpoint:
                    yield frame

    def wait_durable(self, offset: int, timeout_seconds: float | None = None) -> bool:
        """Wait until everything before `offset` is durable; False when that did not happen in time or never will."""
        return self._host.wait_until(lambda: self.durable >= offset, timeout_seconds)

    def wait_room(self, timeout_seconds: float | None = None) -> bool:
        """Wait until `append` has room for a frame of any size: how a bulk writer takes its pace from the disk."""
        return self._host.wait_until(lambda: self.has_room, timeout_seconds)

    @property
    def has_room(self) -> bool:
        """Whether the next `append` will be taken, however large its frame."""
        return self.end <= self._room_until or self._finds_room()

    def _finds_room(self) -> bool:
        # neither the offset that is durable nor the end of the segment ever goes back: this much room is sure
        self._room_until = min(self.durable + self._front_bytes - self.max_frame_bytes, self._roll_at)
        return self._has_room(self.max_frame_bytes) and (self.end <= self._roll_at or self._can_roll())

    def set_budget(self, budget_bytes: int) -> None:
        """From now on so many bytes of disk. Less than is in use: nothing more is taken until enough was released."""
        self._budget_bytes = self._words.budget_bytes = budget_bytes
        self._hurry()

    def release(self, committed: int, keep_ns: int) -> None:
        """The database has everything before `committed`: whole segments of that, older than `keep_ns`, may go.

        Where the budget or the disk is used up, committed ones go before `keep_ns` has passed. Does not wait: it is the
        flusher that deletes.
        """
        self._words.committed, self._words.keep_ns = committed, keep_ns
        self._hurry()

    def _hurry(self) -> None:
        """Commit and tend now, before an interval is over."""
        self._words.hurries += 1  # J5 orders-before-hurry
        self._host.ring()

    def statistics(self) -> JournalStatistics:
        words, durable = self._words, self.durable
        return JournalStatistics(
            end=self.end,
            durable=durable,
            oldest=words.oldest,
            segments=words.segments,
            disk_bytes=words.disk_bytes,
            budget_bytes=self._budget_bytes,
            front_used_bytes=self.end - durable,
            front_bytes=self._front_bytes,
            frames=self._frames,
            checkpoints=self._checkpoints,
            syncs=words.syncs,
            sync_ns=words.sync_ns,
            longest_sync_ns=words.longest_sync_ns,
            refused_full=self._refused_full,
            refused_behind=self._refused_behind,
            segments_removed=words.removed,
            segments_removed_early=words.removed_early,
            blocked=self.blocked,
        )

    # ---- with a flusher process -----------------------------------------------------------------

    @property
    def fd(self) -> int:
        """Readable when there is something to `hear`."""
        return self._process.fd

    def hear(self) -> None:
        """Take in what the flusher process said; `on_durable` and `on_failure` are called in here."""
        self._process.hear()

    def listen(self) -> None:
        """From now on `fd` tells of what becomes durable. Look at `durable` once more before you sleep on it."""
        self._words.listening = 1  # J3 listening-before-look
        fence()

    def look_away(self) -> None:
        """Nobody sleeps: a look at `durable` costs less than being told."""
        self._words.listening = 0

    @property
    def _process(self) -> FlushProcess:
        assert isinstance(self._host, FlushProcess)  # else there is nothing to hear: a thread calls
        return self._host

    def close(self, timeout_seconds: float | None = 30.0) -> bool:
        """Flush, sync and let go; True when everything that was appended is durable.

        A disk that hangs keeps its thread and files, and what it did not take stays in the front buffer; call again.
        """
        self._closed = True
        if self._lock_fd >= 0 and not self._host.stop(timeout_seconds):
            logger.error(
                "journal %s: the disk did not end within %s s; %d bytes stay in the front buffer",
                self.directory,
                timeout_seconds,
                self.end - self.durable,
                extra={"action": "journal_close_timeout"},
            )
            return False
        if self._lock_fd >= 0:
            self._words = self._words.copy()  # what is asked about a closed journal
            self._view = self._words.view
            self._front.close()
            os.close(self._lock_fd)
            self._lock_fd = -1
        return self.durable == self.end

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
