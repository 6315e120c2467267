"""The thread that puts what lies in the front buffer on disk, and the only one that ever waits for a disk.

It takes everything that came meanwhile, writes it, syncs once, and says so (group commit). Between two commits it
lets go of old segments and allocates the next one. Three ways of acknowledging:

    group      a commit begins as soon as there is something and the last one is done
    interval   the same, but at most one sync an interval (or when the front buffer is half full): fewer syncs,
               later acknowledgements, the same promise
    none       acknowledged once the operating system has it: survives the process, not the machine

No room (ENOSPC, EDQUOT, the budget) passes by itself: it is tried again, and `blocked` says meanwhile what is wrong.
Any other error ends it: `failure` is set, `on_failure` called, and nothing is acknowledged any more.

What is shared with the thread that appends:

    J1 boundary-before-frame   the appender notes where a segment begins, then that the spare is taken, and only
                               then lets `written` of the front buffer cover a frame there
    J2 idle-before-look        the flusher says that it will sleep before it looks a last time; the appender
                               publishes before it looks whether to wake: one of the two sees the other
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from marketd.ipc.front import Front
from marketd.ipc.journal_store import Released, SegmentStore
from marketd.ipc.segments import NO_ROOM

Durability = Literal["group", "interval", "none"]

logger = logging.getLogger(__name__)


class Flusher:
    """Owns the store once `start` was called; before, the opener may call `flush` and `tend` itself."""

    def __init__(
        self,
        front: Front,
        store: SegmentStore,
        *,
        durability: Durability,
        interval_ns: int,
        retry_seconds: float,
        on_durable: Callable[[int], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._front = front
        self._store = store
        self._durability = durability
        self._interval_ns = interval_ns if durability == "interval" else 0
        self._retry_seconds = retry_seconds
        self._on_durable = on_durable
        self._on_failure = on_failure
        self._flushed = front.durable  # written to the file, perhaps not synced
        self._next_sync_ns = 0
        self._young = False  # a committed segment waits only for `keep`
        self._stopping = False
        self._hurried = False
        self._write_blocked: str | None = None
        self._next_blocked: str | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="marketd-journal", daemon=True)
        self._wake = threading.Event()
        self.idle = False
        self.boundaries: deque[int] = deque()  # where segments begin that are not begun on disk
        self.newest_needed_bytes = 0  # the newest segment's file must first grow to this
        self.spare_ready = False
        self.failure: BaseException | None = None
        self.durable = front.durable
        self.sync_count = 0
        self.sync_ns = 0
        self.longest_sync_ns = 0

    @property
    def blocked(self) -> str | None:
        """What keeps records from being written, or the next segment from being there; None: nothing."""
        return self._write_blocked or self._next_blocked

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_seconds: float | None) -> bool:
        """Flush what there is and end; False when the disk did not let it in time."""
        if self._thread.ident is None:
            return True
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def wake(self) -> None:
        """There is something to flush; called by the appender when it saw `idle`."""
        self.idle = False
        self._wake.set()

    def hurry(self) -> None:
        """Commit and tend now, before an interval is over."""
        if not self._hurried:
            self._hurried = True
            self._wake.set()

    def release(self, committed: int, keep_ns: int) -> None:
        self._store.released = Released(committed, keep_ns)
        self.hurry()

    def wait_until(self, reached: Callable[[], bool], timeout_seconds: float | None) -> bool:
        """Wait while commits go on until `reached`; False on timeout or when there will be none any more."""
        with self._changed:
            return self._changed.wait_for(lambda: reached() or self._is_over(), timeout_seconds) and reached()

    def _is_over(self) -> bool:
        return self.failure is not None or (self._thread.ident is not None and not self._thread.is_alive())

    # ---- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._sleep()
                self._commit()
                self.tend()
            self._commit()
            if self._durability == "none":
                self._sync()  # a machine that is switched off after an orderly end loses nothing
        except Exception as error:  # the border of the thread: whatever it is, nothing may be acknowledged after it
            self._fail(error)

    def _sleep(self) -> None:
        """Until there is something to do. Woken early, look again; woken by the clock, it is due."""
        while True:
            self._wake.clear()
            pause = self._pause_seconds()
            if pause == 0 or not self._wake.wait(pause):
                break
        self.idle = False
        self._hurried = False

    def _pause_seconds(self) -> float | None:
        """How long to wait: 0 not at all, None until woken."""
        if self._stopping or self._hurried:
            return 0
        self.idle = True  # J2 idle-before-look
        if self._front.written != self.durable:
            return self._pause_before_commit()
        if self._next_blocked is not None:
            return self._retry_seconds
        if not self.spare_ready and not self.boundaries:
            return 0
        return self._retry_seconds if self._young else None

    def _pause_before_commit(self) -> float:
        if self._write_blocked is None and not self._interval_ns:
            return 0
        self.idle = False  # the clock wakes it, not the next append
        if self._write_blocked is not None:
            return self._retry_seconds
        return max(0, self._next_sync_ns - time.monotonic_ns()) / 1e9

    def _commit(self) -> None:
        if self.flush():
            self._next_sync_ns = time.monotonic_ns() + self._interval_ns
            self._on_durable(self.durable)
            self._tell()

    def flush(self) -> bool:
        """Put everything that is in the front buffer now on disk; True if there was something and it is there."""
        end = self._front.written
        if end == self.durable:
            return False
        try:
            self._write(end)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self._set_blocked(f"the disk has no room ({error.strerror})", self._next_blocked)
            return False
        if self._durability != "none":
            self._sync()
        self._front.durable = end
        self.durable = end
        self._set_blocked(None, self._next_blocked)
        return True

    def _write(self, end: int) -> None:
        while self._flushed < end:
            if self.boundaries and self.boundaries[0] == self._flushed:
                self._store.roll(self._flushed)
                self.boundaries.popleft()
            stop = min(end, self.boundaries[0]) if self.boundaries else end
            for piece in self._front.pieces(self._flushed, stop):
                with piece:  # a piece that outlives an error would keep the front buffer mapped
                    self._store.write(self._flushed, piece)
                    self._flushed += len(piece)

    def _sync(self) -> None:
        started_ns = time.monotonic_ns()
        self._store.sync()
        took_ns = time.monotonic_ns() - started_ns
        self.sync_count += 1
        self.sync_ns += took_ns
        self.longest_sync_ns = max(self.longest_sync_ns, took_ns)

    def tend(self) -> None:
        """Let go of what may go; see to it that there is a next segment."""
        self._young = self._store.remove_released(self.durable)
        if self.spare_ready or self.boundaries:
            return
        why = self._make_room()
        self._set_blocked(self._write_blocked, why)
        if why is None:
            self.spare_ready = True
            self._tell()

    def _make_room(self) -> str | None:
        if self.newest_needed_bytes:
            try:
                self._store.allocate_newest(self.newest_needed_bytes)
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                return f"the disk has no room for the newest segment ({error.strerror})"
            self.newest_needed_bytes = 0
        return self._store.prepare_spare()

    def _set_blocked(self, write: str | None, next_: str | None) -> None:
        before = self.blocked
        self._write_blocked, self._next_blocked = write, next_
        after = self.blocked
        if after is not None and before is None:
            logger.error(
                "journal: %s; records are refused once what is left is used up",
                after,
                extra={"action": "journal_blocked", "reason": after},
            )
        elif after is None and before is not None:
            logger.warning("journal: there is room again", extra={"action": "journal_unblocked"})

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        logger.critical(
            "journal: the disk refused to keep records: %s; nothing more is acknowledged",
            error,
            extra={"action": "journal_failed"},
        )
        # Its frames hold pieces of the front buffer, which could not be unmapped then.
        self.failure = error.with_traceback(None)
        self._tell()
        self._on_failure(error)
