"""A flusher in a process of its own, seen from the process that appends: it costs this one no turn of the interpreter.

    appender                                    flusher (`flush_child`)
    front buffer, words  ---- shared memory ----  front buffer, words
    this Line's socket   ---- a socket pair ----  that one's: rings both ways; `blocked` and `failed` in words

- The child is started anew, never forked (ZeroMQ's threads would not come along). It inherits the descriptors of front
  buffer and journal lock, so that both stay locked until it is gone too: a successor never opens a journal to
  which a flush is still under way.
- It dies with its parent (PR_SET_PDEATHSIG); its own death, however it comes, is a failure of the journal here. One
  that is stopped is a slow disk.
- Not for several threads. Whoever appends also calls `hear`, as soon as `fd` can be read: nothing is called back
  out of the blue.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from marketd.ipc.flush_words import LOOK_SECONDS, fence
from marketd.ipc.journal_errors import JournalFailed
from marketd.ipc.journal_flusher import Blocked, Flusher, Pace, log_blocked, log_failure

MAX_MESSAGE_BYTES = 64 << 10
RING = b"\0"  # no message: look at the words
_REAP_SECONDS = 10.0  # for one that has closed its socket, or was killed
_COMMAND = "from marketd.ipc.flush_child import main; main()"


class HandOver(msgspec.Struct, frozen=True):
    """What the child is to know that neither the disk nor the words say; the first message."""

    directory: str
    front_fd: int
    parent: int
    segment_bytes: int
    pace: Pace
    boundaries: list[int]
    newest_needed_bytes: int
    blocked: Blocked


class News(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the child says beside ringing."""

    blocked: str | None = None
    failed: str | None = None


class FlushProcess:
    """Host of one flusher."""

    def __init__(
        self,
        directory: Path,
        flusher: Flusher,
        segment_bytes: int,
        lock_fd: int,
        on_durable: Callable[[int], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._directory = directory
        self._flusher = flusher
        self._segment_bytes = segment_bytes
        self._lock_fd = lock_fd
        self._on_durable = on_durable
        self._on_failure = on_failure
        self._words = flusher.front.words
        self._told = flusher.durable
        self._socket, self._childs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._process: subprocess.Popen[bytes] | None = None
        self.failure: BaseException | None = None
        self.blocked: str | None = None

    @property
    def fd(self) -> int:
        """Readable when there is something to hear."""
        return self._socket.fileno()

    @property
    def pid(self) -> int:
        return -1 if self._process is None else self._process.pid

    def start(self) -> None:
        """Hand the store over. Returns at once: what is appended meanwhile waits in the front buffer."""
        flusher, front_fd = self._flusher, self._flusher.front.fd
        self._take_blocked(flusher.blocked.reason)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, str(self._childs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=(self._childs.fileno(), front_fd, self._lock_fd),
        )
        self._childs.close()
        message = HandOver(
            directory=str(self._directory),
            front_fd=front_fd,
            parent=os.getpid(),
            segment_bytes=int(self._segment_bytes),  # a setting knows its unit, a message does not
            pace=flusher.pace,
            boundaries=list(flusher.boundaries),
            newest_needed_bytes=flusher.newest_needed_bytes,
            blocked=flusher.blocked,
        )
        self._socket.send(msgspec.msgpack.encode(message))
        flusher.store.close()

    # ---- rings ----------------------------------------------------------------------------------

    def ring(self) -> None:
        if self._process is None:
            return  # the hand-over comes first, and the child looks by itself
        # a full socket has rings enough; a closed one is heard of
        with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            self._socket.send(RING)

    def hear(self) -> None:
        """Take in what the child said. Does not wait."""
        while self.failure is None:
            try:
                message = self._socket.recv(MAX_MESSAGE_BYTES)
            except BlockingIOError:
                break
            except ConnectionResetError:
                continue  # it ended with rings unheard: said once, and before what it had said itself
            if not message:
                self._ended()
                break
            if message != RING:
                self._take(msgspec.msgpack.decode(message, type=News))
        durable = self._flusher.durable
        if durable > self._told:
            self._told = durable
            self._on_durable(durable)

    def _take(self, news: News) -> None:
        if news.failed is not None:
            self._fail(news.failed)
        else:
            self._take_blocked(news.blocked)

    def _take_blocked(self, reason: str | None) -> None:
        before, self.blocked = self.blocked, reason
        log_blocked(before, reason)

    def _ended(self) -> None:
        if not self._words.stopping:
            self._fail(f"the process that writes to it, {self.pid}, ended {self._ending()}")

    def _fail(self, why: str) -> None:
        self.failure = JournalFailed(why)
        log_failure(self.failure)
        self._on_failure(self.failure)

    def _ending(self) -> str:
        assert self._process is not None  # only one that was started can have ended
        code = self._process.wait(_REAP_SECONDS)
        return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"

    # ---- waits ----------------------------------------------------------------------------------

    def wait_until(self, reached: Callable[[], bool], timeout_seconds: float | None) -> bool:
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self._words.listening = 1  # J3 listening-before-look
        fence()
        try:
            while not reached() and self.failure is None and not self._is_over():
                left = LOOK_SECONDS if deadline is None else min(LOOK_SECONDS, deadline - time.monotonic())
                if left <= 0:
                    break
                self._poll.poll(left * 1000)
                self.hear()
        finally:
            self._words.listening = 0
        self.hear()
        return reached()

    def _is_over(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def stop(self, timeout_seconds: float | None) -> bool:
        if self._process is not None:
            self._words.stopping = 1
            self.ring()
            try:
                self._process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                return False
            self.hear()  # of a failure that it ended with
            if self._process.returncode and self.failure is None:
                self._fail(f"the process that writes to it, {self.pid}, ended {self._ending()}")
        self.close()
        return True

    def close(self) -> None:
        self._socket.close()
        self._childs.close()
