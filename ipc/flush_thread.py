"""A flusher in a thread of the process that appends: for an import's journal, whose records nobody waits for.

`on_durable` and `on_failure` are called in that thread: hand over, return. A thread costs its process the interpreter
some ten times a commit; see `flush_process` for the one that does not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from marketd.ipc.journal_flusher import Flusher, log_blocked, log_failure


class FlushThread:
    """Host and line of one flusher."""

    def __init__(
        self, flusher: Flusher, on_durable: Callable[[int], None], on_failure: Callable[[BaseException], None]
    ) -> None:
        self._flusher = flusher
        self._on_durable = on_durable
        self._on_failure = on_failure
        self._bell = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="marketd-journal", daemon=True)
        self.failure: BaseException | None = None
        self.blocked: str | None = None

    # ---- as the appender sees it ----------------------------------------------------------------

    def start(self) -> None:
        self.tell_blocked(self._flusher.blocked.reason)
        self._thread.start()

    def ring(self) -> None:
        self._bell.set()

    def wait_until(self, reached: Callable[[], bool], timeout_seconds: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: reached() or self._is_over(), timeout_seconds) and reached()

    def _is_over(self) -> bool:
        return self.failure is not None or not self._thread.is_alive()

    def stop(self, timeout_seconds: float | None) -> bool:
        self._flusher.front.words.stopping = 1
        self.ring()
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            return False
        self._flusher.store.close()
        return True

    # ---- as the flusher sees it -----------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._flusher.run(self)
        except Exception as error:  # the border of the thread: whatever it is, nothing may be acknowledged after it
            log_failure(error)
            # Its frames hold pieces of the front buffer, which could not be unmapped then.
            self.failure = error.with_traceback(None)
            self.tell_room()
            self._on_failure(error)

    def clear(self) -> None:
        self._bell.clear()

    def wait(self, seconds: float | None) -> bool:
        return self._bell.wait(seconds)

    def tell_durable(self, durable: int) -> None:
        self._on_durable(durable)
        self.tell_room()

    def tell_room(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def tell_blocked(self, reason: str | None) -> None:
        before, self.blocked = self.blocked, reason
        log_blocked(before, reason)
