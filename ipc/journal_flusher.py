"""The flusher: puts what lies in the front buffer on disk, and is the only one that ever waits for a disk.

It takes everything that came meanwhile, writes it, syncs once, and says so (group commit). Between two commits it
lets go of old segments and allocates the next one. Three ways of acknowledging:

    group      a commit begins as soon as there is something, the last one is done, and `GATHER_NS` are over since it
               began: what comes one by one would else cost a commit each, and the processor that handles it
    interval   the same, but at most one sync an interval (or when the front buffer is half full): fewer syncs,
               later acknowledgements, the same promise
    none       acknowledged once the operating system has it: survives the process, not the machine

No room (ENOSPC, EDQUOT, the budget) passes by itself: it is tried again, and `blocked` says meanwhile what is wrong.
Any other error ends it: nothing is acknowledged any more.

It runs in a thread (`flush_thread`) or in a process of its own (`flush_process`): to that host it speaks through a
`Line`. The appender's orders and its own figures are words of shared memory (`flush_words`, where J1 to J5 are told).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, Protocol

from marketd.ipc.flush_words import fence
from marketd.ipc.front import Front
from marketd.ipc.journal_store import Released, SegmentStore
from marketd.ipc.segments import NO_ROOM

Durability = Literal["group", "interval", "none"]

GATHER_NS = 1_000_000  # a disk's sync takes about as long, so that it costs an acknowledgement little

logger = logging.getLogger(__name__)


class Pace(NamedTuple):
    """How a flusher takes its time."""

    durability: Durability
    interval_ns: int
    retry_seconds: float


class Blocked(NamedTuple):
    """What keeps records from being written, and the next segment from being there; None: nothing."""

    write: str | None = None
    next: str | None = None

    @property
    def reason(self) -> str | None:
        return self.write or self.next


class Line(Protocol):
    """How the flusher hears from its appender, and how the appender hears from it."""

    def clear(self) -> None:
        """What was rung until now is heard."""

    def wait(self, seconds: float | None) -> bool:
        """Until it is rung (True), or the time is over; without one, `LOOK_SECONDS` may be enough."""

    def tell_durable(self, durable: int) -> None: ...
    def tell_room(self) -> None: ...
    def tell_blocked(self, reason: str | None) -> None: ...


class Host(Protocol):
    """Where a flusher runs, as the appender sees it."""

    @property
    def blocked(self) -> str | None:
        """Why there is no room to go on; None while there is."""

    @property
    def failure(self) -> BaseException | None:
        """Why it ended."""

    def start(self) -> None: ...

    def ring(self) -> None:
        """There is something to do."""

    def wait_until(self, reached: Callable[[], bool], timeout_seconds: float | None) -> bool:
        """Wait while commits go on until `reached`; False on timeout or when there will be none any more."""

    def stop(self, timeout_seconds: float | None) -> bool:
        """Flush what there is and end; False when the disk did not let it in time."""


class Flusher:
    """Owns the store once its host was started; before, the opener calls `flush` and `tend` itself."""

    def __init__(
        self,
        front: Front,
        store: SegmentStore,
        pace: Pace,
        *,
        boundaries: Iterable[int] = (),
        newest_needed_bytes: int = 0,
        blocked: Blocked = Blocked(),  # noqa: B008  # a NamedTuple, which nobody can change
    ) -> None:
        self.front = front
        self.store = store
        self.pace = pace
        self.boundaries = deque(boundaries)  # where segments begin that are not begun on disk
        self.newest_needed_bytes = newest_needed_bytes  # the newest segment's file must first grow to this
        self.blocked = blocked
        self._words = front.words
        # Written to the file, perhaps not synced. What lies before the newest segment was synced when it began (R1).
        self._flushed = max(front.durable, store.newest.first)
        self._interval_ns = pace.interval_ns if pace.durability == "interval" else 0
        self._next_sync_ns = 0
        self._gather_ns = 0 if self._interval_ns else GATHER_NS
        self._gathered_ns = 0  # no commit begins before
        self._young = False  # a committed segment waits only for `keep`
        # the newest ones that were taken from the words; an earlier flusher of this journal may have taken some
        self._boundary = max([store.newest.first, *self.boundaries])
        self._state_end = self._hurries = 0
        self._line: Line | None = None

    @property
    def durable(self) -> int:
        return self.front.durable

    # ---- its life -------------------------------------------------------------------------------

    def run(self, line: Line) -> None:
        """Until `stopping` is set; what it raises has ended it, and nothing may be acknowledged after it."""
        self._line = line
        while not self._words.stopping:
            self._gather()
            self._sleep(line)
            self._commit(line)
            self.tend()
        self._commit(line)
        if self.pace.durability == "none":
            self._sync()  # a machine that is switched off after an orderly end loses nothing

    def _gather(self) -> None:
        """Deaf for a moment after a commit, and so not to be rung for what comes in it."""
        pause_ns = self._gathered_ns - time.monotonic_ns()
        if pause_ns > 0:
            time.sleep(pause_ns / 1e9)

    def _sleep(self, line: Line) -> None:
        """Until there is something to do. Rung early, look again; woken by the clock, it is due."""
        while True:
            line.clear()
            pause = self._pause_seconds()
            if pause == 0 or not line.wait(pause):
                break
        self._words.asleep = 0
        self._hurries = self._words.hurries  # J5 orders-before-hurry

    def _pause_seconds(self) -> float | None:
        """How long to wait: 0 not at all, None until rung."""
        words = self._words
        if words.stopping or words.hurries != self._hurries:
            return 0
        words.asleep = 1  # J2 asleep-before-look
        fence()
        if self.front.written != self.durable:
            return self._pause_before_commit()
        if self.blocked.next is not None:
            return self.pace.retry_seconds
        if not words.spare_ready and not self.boundaries:
            return 0
        return self.pace.retry_seconds if self._young else None

    def _pause_before_commit(self) -> float:
        if self.blocked.write is None and not self._interval_ns:
            return 0
        self._words.asleep = 0  # the clock wakes it, not the next append
        if self.blocked.write is not None:
            return self.pace.retry_seconds
        return max(0, self._next_sync_ns - time.monotonic_ns()) / 1e9

    # ---- commits --------------------------------------------------------------------------------

    def _commit(self, line: Line) -> None:
        self._gathered_ns = time.monotonic_ns() + self._gather_ns
        if self.flush():
            self._next_sync_ns = time.monotonic_ns() + self._interval_ns
            line.tell_durable(self.durable)

    def flush(self) -> bool:
        """Put everything that is in the front buffer now on disk; True if there was something and it is there."""
        end = self.front.written
        if end == self.durable:
            return False
        self._take_boundary()  # J1 boundary-before-frame: each one up to `end` is known now
        try:
            self._write(end)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self._set_blocked(self.blocked._replace(write=f"the disk has no room ({error.strerror})"))
            return False
        if self.pace.durability != "none":
            self._sync()
        self.front.durable = end
        self._set_blocked(self.blocked._replace(write=None))
        return True

    def _take_boundary(self) -> None:
        boundary = self._words.boundary
        if boundary > self._boundary:
            self._boundary = boundary
            self.boundaries.append(boundary)

    def _write(self, end: int) -> None:
        while self._flushed < end:
            if self.boundaries and self.boundaries[0] == self._flushed:
                self.store.roll(self._flushed)
                self.boundaries.popleft()
            stop = min(end, self.boundaries[0]) if self.boundaries else end
            for piece in self.front.pieces(self._flushed, stop):
                with piece:  # a piece that outlives an error would keep the front buffer mapped
                    self.store.write(self._flushed, piece)
                    self._flushed += len(piece)

    def _sync(self) -> None:
        started_ns = time.monotonic_ns()
        self.store.sync()
        took_ns = time.monotonic_ns() - started_ns
        words = self._words
        words.syncs += 1
        words.sync_ns += took_ns
        words.longest_sync_ns = max(words.longest_sync_ns, took_ns)

    # ---- segments -------------------------------------------------------------------------------

    def tend(self) -> None:
        """Let go of what may go; see to it that there is a next segment."""
        self._take_orders()
        self._young = self.store.remove_released(self.durable)
        if not self._words.spare_ready:
            self._take_boundary()  # J1 boundary-before-frame: who took the spare has said for where
            if not self.boundaries:
                self._prepare_next()
        self._tell_figures()

    def _take_orders(self) -> None:
        words, store = self._words, self.store
        store.budget_bytes = words.budget_bytes
        store.released = Released(words.committed, words.keep_ns)
        state = words.whole_state()
        if state is not None and state[1] > self._state_end:
            self._state_end = state[1]
            store.states.append(state)

    def _prepare_next(self) -> None:
        why = self._make_room()
        self._set_blocked(self.blocked._replace(next=why))
        if why is None:
            self._words.spare_ready = 1
            if self._line is not None:
                self._line.tell_room()

    def _make_room(self) -> str | None:
        if self.newest_needed_bytes:
            try:
                self.store.allocate_newest(self.newest_needed_bytes)
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                return f"the disk has no room for the newest segment ({error.strerror})"
            self.newest_needed_bytes = 0
        return self.store.prepare_spare()

    def _tell_figures(self) -> None:
        words, store = self._words, self.store
        words.oldest, words.segments, words.disk_bytes = store.oldest, store.count, store.disk_bytes
        words.removed, words.removed_early = store.removed_count, store.removed_early_count

    def _set_blocked(self, blocked: Blocked) -> None:
        before, self.blocked = self.blocked.reason, blocked
        if blocked.reason != before and self._line is not None:
            self._line.tell_blocked(blocked.reason)


def log_blocked(before: str | None, after: str | None) -> None:
    if after is not None and before is None:
        logger.error(
            "journal: %s; records are refused once what is left is used up",
            after,
            extra={"action": "journal_blocked", "reason": after},
        )
    elif after is None and before is not None:
        logger.warning("journal: there is room again", extra={"action": "journal_unblocked"})


def log_failure(error: BaseException) -> None:
    logger.critical(
        "journal: the disk refused to keep records: %s; nothing more is acknowledged",
        error,
        extra={"action": "journal_failed"},
    )
