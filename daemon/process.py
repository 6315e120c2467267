"""One child process of the supervisor: started, listened to, signalled, ended.

Its output comes through a pipe, line by line onto the supervisor's stderr, and the last lines are kept: when the
supervisor gives an actor up, it can say what the actor said. It has a session of its own, so that Ctrl-C in a terminal
reaches the supervisor alone, which then drains the actors in order.

The end is seen on a pidfd. (asyncio's own subprocess waits for the end of the pipes too, so that a grandchild that
still holds one would make a dead actor look alive.)
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence

TAIL_LINES = 40
MAX_LINE_BYTES = 16 << 10  # in the tail; a longer one is cut there
STACKS_SECONDS = 0.3  # what a hung process gets to write its stacks down
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PIPE_BYTES = 1 << 20  # a burst of logs must not make an actor wait for the supervisor


class ActorProcess:
    """A process from `spawn` to its end. `spawn` is called in the main thread with a running loop: the kernel ties the
    child's life to the thread that started it."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.started = time.monotonic()
        self._popen = popen
        self._ended = asyncio.Event()
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._rest = b""
        self._pidfd = os.pidfd_open(popen.pid)
        self._output = _fd_of(popen)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pidfd, self._on_end)
        self._loop.add_reader(self._output, self._on_output)

    @classmethod
    def spawn(cls, name: str, command: Sequence[str], environment: Mapping[str, str]) -> ActorProcess:
        popen = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )
        return cls(name, popen)

    def __repr__(self) -> str:
        return f"<ActorProcess {self.name} {self.pid} {self.ending or 'runs'}>"

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """As subprocess has it: negative for a signal; None while it runs."""
        return self._popen.returncode

    def memory_bytes(self) -> int | None:
        """What it has resident, shared memory apart; None once it has ended."""
        try:
            with open(f"/proc/{self.pid}/statm", encoding="ascii") as file:
                _, resident, shared, *_ = map(int, file.read().split())
        except OSError:
            return None
        return (resident - shared) * _PAGE_BYTES

    @property
    def ending(self) -> str:
        """How it ended, in words; empty while it runs."""
        code = self.exit_code
        if code is None:
            return ""
        return f"with exit code {code}" if code >= 0 else f"by {_signal_name(-code)}"

    @property
    def tail(self) -> list[str]:
        """Its last lines."""
        return list(self._tail)

    async def wait(self) -> None:
        """Until it has ended; by then all that it said has been passed on."""
        await self._ended.wait()

    def signal(self, number: signal.Signals) -> None:
        """Nothing happens to one that has ended."""
        if self.exit_code is None:
            self._popen.send_signal(number)

    async def kill_after_its_stacks(self) -> None:
        """SIGKILL for one that hangs, but first its Python stacks for the log (see `actor_base`)."""
        self.signal(signal.SIGUSR1)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STACKS_SECONDS):
                await self.wait()
        self.signal(signal.SIGKILL)

    def _on_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._popen.wait()  # it has ended: this only reaps it
        while self._on_output():
            pass
        self._close_output()
        self._ended.set()

    def _on_output(self) -> bool:
        """Pass on what can be read now; whether there may be more."""
        try:
            chunk = os.read(self._output, _PIPE_BYTES)
        except BlockingIOError:
            return False
        if not chunk:  # every holder has closed it; its process may run on
            self._loop.remove_reader(self._output)
            return False
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self._say(lines)
        if len(self._rest) > MAX_LINE_BYTES:
            self._say_rest()
        return True

    def _close_output(self) -> None:
        self._say_rest()
        self._loop.remove_reader(self._output)
        if self._popen.stdout is not None:
            self._popen.stdout.close()

    def _say_rest(self) -> None:
        rest, self._rest = self._rest, b""
        self._say([rest] if rest else [])

    def _say(self, lines: Sequence[bytes]) -> None:
        self._tail.extend(line[:MAX_LINE_BYTES].decode(errors="replace") for line in lines)
        if lines:
            with contextlib.suppress(OSError):  # nobody reads our stderr any more
                sys.stderr.buffer.write(b"".join(line + b"\n" for line in lines))
                sys.stderr.flush()


def _fd_of(popen: subprocess.Popen[bytes]) -> int:
    assert popen.stdout is not None  # spawn asked for a pipe
    descriptor = popen.stdout.fileno()
    os.set_blocking(descriptor, False)
    with contextlib.suppress(OSError):  # above the limit of an ordinary user: the pipe keeps its size
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return descriptor


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
