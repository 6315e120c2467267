"""One socket to a venue, from open to closed: a pump, a watchdog, and one that waits for its end.

The socket fills a bounded list (`socket`), the pump empties it into the handler: a slow handler fills the list, then
the kernel's buffers, and the venue sees a slow reader. The watchdog asks (ping) after a short silence, and gives the
socket up after a long one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from websockets.exceptions import ConnectionClosed

from marketd.daemon.feeds.adapter import Limits
from marketd.daemon.feeds.socket import VenueSocket
from marketd.market.errors import MarketdError

BATCH = 200  # messages at most in one call of the handler: of a burst the first go on while the last are still decoded
PROBE_AFTER_SECONDS = 2.0  # of silence: ask whether the other side is there
ROLL_AHEAD_SECONDS = 3600.0  # before the venue's own end of a connection
HOUR_SECONDS = 3600.0
LAST_BATCH_SECONDS = 60.0  # for the handler to take what it was given, once the session is cancelled


class Silent(MarketdError):
    """Nothing came from the venue for too long."""


class BudgetSpent(MarketdError):
    """The venue takes no further command over this connection within the hour."""


class CommandBudget:
    """How many commands one connection may send within any hour."""

    def __init__(self, per_hour: int) -> None:
        self._per_hour = per_hour  # 0: as many as one likes
        self._sent: deque[float] = deque(maxlen=per_hour or None)  # monotonic s, of the last so many

    def take(self, now: float) -> bool:
        """One more; False where there is none left."""
        if not self._per_hour:
            return True
        if len(self._sent) == self._per_hour and now - self._sent[0] < HOUR_SECONDS:
            return False
        self._sent.append(now)
        return True


class Timing(NamedTuple):
    """How a connection behaves in time; the defaults are those of Binance."""

    dead_after_seconds: float = 25.0  # silence beyond the venue's ping interval (20 s) is death
    roll_after_seconds: float = 23 * 3600.0
    commands_per_second: float = 4.0
    open_seconds: float = 10.0
    backoff_first_seconds: float = 0.25
    backoff_cap_seconds: float = 30.0
    commands_per_hour: int = 0

    @classmethod
    def of(cls, limits: Limits) -> Timing:
        """As a venue's limits demand."""
        return cls(
            dead_after_seconds=1.25 * limits.ping_interval_seconds,
            roll_after_seconds=limits.session_seconds - ROLL_AHEAD_SECONDS,
            commands_per_second=limits.commands_per_second,
            commands_per_hour=limits.commands_per_hour,
        )


Take = Callable[[int, list[bytes]], Awaitable[None]]


class Session:
    """One socket, from open to closed. `run` raises what ended it."""

    def __init__(self, socket: VenueSocket, take: Take, timing: Timing, ping: tuple[str, float] | None = None) -> None:
        self._socket = socket
        self._take = take
        self._timing = timing
        self._ping = ping  # a text of the venue's own, and how often it wants it (s)
        self._arrived = asyncio.Event()
        self._commands = asyncio.Lock()
        self._budget = CommandBudget(timing.commands_per_hour)
        self._handling = False
        self._ended = False
        self.streams: set[str] = set()  # what was asked for on this socket
        self.first_frame = asyncio.Event()
        self.opened = self.heard = time.monotonic()  # `heard`: the last proof that the other side is there
        self.messages = self.received_bytes = 0

    @property
    def pending(self) -> int:
        """Messages that were read and are not handled yet."""
        return self._socket.waiting + self._handling

    async def run(self) -> None:
        """Until the socket is gone and all that came from it is handled; raises what ended it."""
        end, watchdog, pump = self._tasks()
        patience: float | None = None  # a handler that waits for its own consumer will go on
        try:
            await asyncio.wait((end, watchdog, pump), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._socket.stop_listening()
            patience = LAST_BATCH_SECONDS
            raise
        finally:
            # Never cancelled inside the handler: what it was given would be neither handed on nor asked for again.
            self._ended = True
            self._arrived.set()
            end.cancel()
            watchdog.cancel()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.gather(pump, return_exceptions=True), patience)
            await asyncio.gather(end, watchdog, return_exceptions=True)
            self._socket.stop_listening()  # nobody takes any more: a full list would keep the closing handshake unread
            await self.close()
        for task in (pump, watchdog, end):  # what the handler says counts first, the socket last
            if not task.cancelled():
                task.result()

    def _tasks(self) -> tuple[asyncio.Task[None], asyncio.Task[None], asyncio.Task[None]]:
        return (
            asyncio.create_task(self._until_closed(), name="feed session end"),
            asyncio.create_task(self._watch(), name="feed session watchdog"),
            asyncio.create_task(self._pump(), name="feed session pump"),
        )

    async def close(self) -> None:
        """Close the socket; `run` ends once what came before is handled."""
        with contextlib.suppress(OSError, TimeoutError, ConnectionClosed):
            await self._socket.close()

    async def _until_closed(self) -> None:
        """Raises why the socket was closed."""
        await self._socket.recv()

    async def _pump(self) -> None:
        socket = self._socket
        socket.on_message = self._arrived.set
        if socket.waiting:
            self._arrived.set()
        while True:
            await self._arrived.wait()
            if self._ended and not socket.waiting:
                return
            recv_ns = time.time_ns()
            self.heard = time.monotonic()
            frames, self._handling = socket.take(BATCH), True
            if not (socket.waiting or self._ended):
                self._arrived.clear()
            self.messages += len(frames)
            self.received_bytes += sum(map(len, frames))
            self.first_frame.set()
            await self._take(recv_ns, frames)
            self._handling = False
            if socket.waiting:
                # one turn of the loop: a take that never waits would keep commands, watchdog and socket from running
                await asyncio.sleep(0)

    async def _watch(self) -> None:
        dead_after = self._timing.dead_after_seconds
        probe_after = min(PROBE_AFTER_SECONDS, dead_after / 4)
        asked_at, pinged_at = 0.0, self.opened
        while True:
            await asyncio.sleep(probe_after / 2)
            if self._ping is not None and time.monotonic() - pinged_at >= self._ping[1]:
                pinged_at = time.monotonic()
                async with self._commands:
                    await self._send(self._ping[0])
            if self.pending:  # it is the handler that is slow, and the venue that waits
                self.heard = time.monotonic()
                continue
            silent = time.monotonic() - self.heard
            if silent >= dead_after:
                self._socket.transport.abort()  # a dead peer takes no part in a closing handshake
                raise Silent(f"nothing came for {silent:.1f} s, and no answer to a ping")
            if silent >= probe_after and asked_at <= self.heard:
                asked_at = time.monotonic()
                answer = asyncio.ensure_future(await self._socket.ping())
                answer.add_done_callback(self._on_pong)

    def _on_pong(self, answer: asyncio.Future[float]) -> None:
        if not answer.cancelled() and answer.exception() is None:
            self.heard = time.monotonic()

    async def command(self, messages: Sequence[str]) -> None:
        """Send commands, no faster than the venue takes them. BudgetSpent for those that are too many for an hour."""
        async with self._commands:
            for message in messages:
                if not self._budget.take(time.monotonic()):
                    raise BudgetSpent(f"{self._timing.commands_per_hour} commands were sent within an hour")
                await self._send(message)

    async def _send(self, message: str) -> None:
        await self._socket.send(message)
        await asyncio.sleep(1.0 / self._timing.commands_per_second)
