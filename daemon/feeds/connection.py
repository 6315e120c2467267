"""One connection to a venue's WebSocket: keeps it up, and hands on what comes, in bulk.

    Connection.run      connect -> subscribe -> serve, again and again, until cancelled
    Session             one socket: a reader that fills a bounded list, a pump that empties it into the handler, and a
                        watchdog that asks (ping) after a short silence and gives the socket up after a long one

Before the venue's 24 hours are over the connection is rolled: a second session is up, subscribed and delivering
before the first is closed. Both deliver for a moment; the handler must know what it has seen (trades have ids).

The handler's contract: `on_up(connection)` before any frame of a socket that replaces one that was lost (not
when rolled), `on_frames(connection, recv_ns, frames)` one call at a time a session, awaited: a slow handler fills
the bounded list, then the kernel's buffers, and the venue sees a slow reader. `on_down(connection, reason)` after a
loss.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from marketd.daemon.feeds.adapter import Limits, VenueAdapter
from marketd.daemon.feeds.backoff import Backoff
from marketd.daemon.feeds.rest import LOOPBACK
from marketd.market.errors import MarketdError

_log = logging.getLogger(__name__)
# The library logs each connection and each ping; what operators need is logged here.
_quiet = logging.getLogger("marketd.daemon.feeds.websocket")
_quiet.setLevel(logging.CRITICAL)
_quiet.propagate = False

MAX_PENDING = 20_000  # messages read and not yet handled, a session
MAX_MESSAGE_BYTES = 8 << 20
LIBRARY_QUEUE = 1024  # messages inside the library before it stops reading
BATCH = 5_000  # messages at most in one call of the handler
PROBE_AFTER_SECONDS = 2.0  # of silence: ask whether the other side is there
OVERLAP_SECONDS = 1.0  # both sessions deliver when rolled, after the new one's first message
OVERLAP_AT_MOST_SECONDS = 30.0  # a new session that delivers nothing replaces the old one after this
HEALTHY_AFTER_SECONDS = 10.0  # a session that lived so long was no failure
ROLL_AHEAD_SECONDS = 3600.0  # before the venue's own end of a connection
KEPT_ERRORS = 20
LAST_BATCH_SECONDS = 60.0  # for the handler to take what was read before the socket ended


class Silent(MarketdError):
    """Nothing came from the venue for too long."""


class Timing(NamedTuple):
    """How a connection behaves in time; the defaults are those of Binance."""

    dead_after_seconds: float = 25.0  # silence beyond the venue's ping interval (20 s) is death
    roll_after_seconds: float = 23 * 3600.0
    commands_per_second: float = 4.0
    open_seconds: float = 10.0
    backoff_first_seconds: float = 0.25
    backoff_cap_seconds: float = 30.0

    @classmethod
    def of(cls, limits: Limits) -> Timing:
        """As a venue's limits demand."""
        return cls(
            dead_after_seconds=1.25 * limits.ping_interval_seconds,
            roll_after_seconds=limits.session_seconds - ROLL_AHEAD_SECONDS,
            commands_per_second=limits.commands_per_second,
        )


class ConnectionStatistics(NamedTuple):
    up: bool
    streams: int
    messages: int
    received_bytes: int
    connects: int
    rolls: int
    failures: int
    pending: int
    up_seconds: float
    last_error: str


class Handler(Protocol):
    """What a connection hands on to."""

    async def on_up(self, connection: Connection) -> None: ...

    async def on_frames(self, connection: Connection, recv_ns: int, frames: list[bytes]) -> None: ...

    async def on_down(self, connection: Connection, reason: str) -> None: ...


Take = Callable[[int, list[bytes]], Awaitable[None]]


class Session:
    """One socket, from open to closed. `run` raises what ended it."""

    def __init__(self, socket: ClientConnection, take: Take, timing: Timing) -> None:
        self._socket = socket
        self._take = take
        self._timing = timing
        self._pending: list[bytes] = []
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._commands = asyncio.Lock()
        self._handling = False
        self._ended = False
        self.first_frame = asyncio.Event()
        self.opened = self.heard = time.monotonic()  # `heard`: the last proof that the other side is there
        self.messages = self.received_bytes = 0

    @property
    def pending(self) -> int:
        """Messages that were read and are not handled yet."""
        return len(self._pending) + self._handling

    async def run(self) -> None:
        """Until the socket is gone and all that came from it is handled; raises what ended it."""
        reader, watchdog, pump = self._tasks()
        try:
            await asyncio.wait((reader, watchdog, pump), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._pending.clear()
            raise
        finally:
            # Never cancelled inside the handler: what it was given would be neither handed on nor asked for again.
            self._ended = True
            self._arrived.set()
            reader.cancel()
            watchdog.cancel()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.gather(pump, return_exceptions=True), LAST_BATCH_SECONDS)
            await asyncio.gather(reader, watchdog, return_exceptions=True)
            await self.close()
        for task in (pump, watchdog, reader):  # what the handler says counts first, the socket last
            if not task.cancelled():
                task.result()

    def _tasks(self) -> tuple[asyncio.Task[None], asyncio.Task[None], asyncio.Task[None]]:
        return (
            asyncio.create_task(self._read(), name="feed session reader"),
            asyncio.create_task(self._watch(), name="feed session watchdog"),
            asyncio.create_task(self._pump(), name="feed session pump"),
        )

    async def close(self) -> None:
        """Close the socket; `run` ends once what came before is handled."""
        with contextlib.suppress(OSError, TimeoutError, ConnectionClosed):
            await self._socket.close()

    async def _read(self) -> None:
        """Fill the list. `recv` does not yield while the library has messages, so a burst comes in at one go."""
        pending, recv = self._pending, self._socket.recv
        while True:
            frame = await recv(decode=False)
            pending.append(frame)
            self.received_bytes += len(frame)
            if len(pending) == 1:
                self._arrived.set()
            elif len(pending) >= MAX_PENDING:
                self._room.clear()
                await self._room.wait()

    async def _pump(self) -> None:
        pending = self._pending
        while True:
            await self._arrived.wait()
            if self._ended and not pending:
                return
            recv_ns = time.time_ns()
            self.heard = time.monotonic()
            frames, self._handling = pending[:BATCH], True
            del pending[:BATCH]
            if not (pending or self._ended):
                self._arrived.clear()
            self._room.set()
            self.messages += len(frames)
            self.first_frame.set()
            await self._take(recv_ns, frames)
            self._handling = False
            # one turn of the loop: a take that never waits would keep commands, watchdog and reader from running
            await asyncio.sleep(0)

    async def _watch(self) -> None:
        dead_after = self._timing.dead_after_seconds
        probe_after = min(PROBE_AFTER_SECONDS, dead_after / 4)
        asked_at = 0.0
        while True:
            await asyncio.sleep(probe_after / 2)
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
        """Send commands, no faster than the venue takes them."""
        async with self._commands:
            for message in messages:
                await self._socket.send(message)
                await asyncio.sleep(1.0 / self._timing.commands_per_second)


class Connection:
    def __init__(
        self, name: str, base_url: str, adapter: VenueAdapter, streams: Sequence[str], handler: Handler, timing: Timing
    ) -> None:
        self.name = name
        self.streams = list(streams)
        self._base_url = base_url
        self._adapter = adapter
        self._handler = handler
        self._timing = timing
        self._session: Session | None = None
        self._ids = itertools.count(1, 1000)  # a command may be several messages, numbered on from its id
        self._roll_now = asyncio.Event()
        self._past = _Past()
        self.errors: deque[tuple[float, str]] = deque(maxlen=KEPT_ERRORS)  # (unix s, what was said), as they came

    def __repr__(self) -> str:
        return f"<Connection {self.name}: {len(self.streams)} streams, {'up' if self.is_up else 'down'}>"

    @property
    def is_up(self) -> bool:
        return self._session is not None

    @property
    def pending(self) -> int:
        return self._session.pending if self._session else 0

    def silent_seconds(self, now: float) -> float:
        """Since the last proof that the venue is there; infinite while it is not connected."""
        return now - self._session.heard if self._session else float("inf")

    def roll(self) -> None:
        """Replace the socket by a fresh one, without a gap."""
        self._roll_now.set()

    async def subscribe(self, streams: Sequence[str]) -> None:
        """Add streams, now if connected and at every connect from now on."""
        self.streams += [stream for stream in streams if stream not in self.streams]
        await self._command("SUBSCRIBE", streams)

    async def unsubscribe(self, streams: Sequence[str]) -> None:
        self.streams = [stream for stream in self.streams if stream not in set(streams)]
        await self._command("UNSUBSCRIBE", streams)

    async def _command(self, verb: str, streams: Sequence[str]) -> None:
        session = self._session
        if session is None or not streams:
            return
        with contextlib.suppress(ConnectionClosed):  # the next connect brings the streams as they then are
            await session.command(self._adapter.commands(verb, list(streams), next(self._ids)))

    async def run(self) -> None:
        """Until cancelled."""
        backoff = Backoff(self._timing.backoff_first_seconds, self._timing.backoff_cap_seconds)
        while True:
            try:
                session = await self._open()
            except (OSError, TimeoutError, InvalidHandshake, InvalidURI, ConnectionClosed) as error:
                self._note(f"connecting to {self._base_url} failed: {type(error).__name__}: {error}")
                await asyncio.sleep(backoff.next())
                continue
            reason = await self._serve(session)
            if time.monotonic() - session.opened >= HEALTHY_AFTER_SECONDS:
                backoff.reset()
            self._note(reason)
            await self._handler.on_down(self, reason)
            await asyncio.sleep(backoff.next())

    async def _open(self) -> Session:
        url, by_message = self._adapter.connect_url(self._base_url, self.streams)
        # a proxy of the environment is meant for the world outside, not for this machine
        options: dict[str, Any] = {"proxy": None} if urlsplit(url).hostname in LOOPBACK else {}
        socket = await connect(
            url,
            compression=None,  # inflating costs more than the bytes do
            ping_interval=None,  # the watchdog asks by itself, and only when it is silent
            open_timeout=self._timing.open_seconds,
            close_timeout=2.0,
            max_size=MAX_MESSAGE_BYTES,
            max_queue=LIBRARY_QUEUE,
            logger=_quiet,
            **options,
        )
        session = Session(socket, self._take, self._timing)
        self._past.connects += 1
        if by_message:
            try:
                await session.command(self._adapter.commands("SUBSCRIBE", by_message, next(self._ids)))
            except BaseException:
                await session.close()
                raise
        return session

    async def _take(self, recv_ns: int, frames: list[bytes]) -> None:
        await self._handler.on_frames(self, recv_ns, frames)

    async def _serve(self, session: Session) -> str:
        """Serve a session, and those that it is rolled into; why the last one ended."""
        await self._handler.on_up(self)
        _log.info(
            "%s is connected to %s with %d streams",
            self.name,
            self._base_url,
            len(self.streams),
            extra={"action": "venue_connected", "connection": self.name, "streams": len(self.streams)},
        )
        running = self._start(session)
        try:
            while True:
                self._roll_now.clear()
                roll = asyncio.create_task(self._roll_now.wait(), name=f"{self.name} roll asked for")
                left = self._timing.roll_after_seconds - (time.monotonic() - session.opened)
                try:
                    await asyncio.wait((running, roll), timeout=max(left, 0.0), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    roll.cancel()
                if running.done():
                    return _reason(running)
                session, running = await self._rolled(session, running)
        finally:
            await _end(running)
            self._finish()

    async def _rolled(self, old: Session, running: asyncio.Task[None]) -> tuple[Session, asyncio.Task[None]]:
        """A fresh session beside the old one, then instead of it; the old one when there is none to be had."""
        try:
            new = await self._open()
        except (OSError, TimeoutError, InvalidHandshake, InvalidURI, ConnectionClosed) as error:
            self._note(f"rolling failed, the old connection goes on: {type(error).__name__}: {error}")
            old.opened += min(60.0, self._timing.roll_after_seconds)  # and is rolled again later
            return old, running
        if running.done():  # lost while the new one was opening: something may be missing between the two
            await self._handler.on_up(self)
        fresh = self._start(new)
        try:
            await self._overlap(new, fresh, running)
        except asyncio.CancelledError:
            await _end(fresh)
            raise
        if fresh.done() and not running.done():
            self._note(f"the fresh connection ended at once, the old one goes on: {_reason(fresh)}")
            self._session = old
            return old, running
        await old.close()
        await asyncio.wait((running,))
        _reason(running)
        self._past.add(old)
        self._past.rolls += 1
        _log.info("%s was rolled", self.name, extra={"action": "venue_rolled", "connection": self.name})
        return new, fresh

    async def _overlap(self, new: Session, fresh: asyncio.Task[None], running: asyncio.Task[None]) -> None:
        """Until the new session has delivered for a moment, or one of the two has ended."""
        delivering = asyncio.create_task(new.first_frame.wait(), name=f"{self.name} first frame")
        try:
            await asyncio.wait(
                (delivering, fresh, running), timeout=OVERLAP_AT_MOST_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            delivering.cancel()
        if not (fresh.done() or running.done()):
            await asyncio.wait((fresh, running), timeout=OVERLAP_SECONDS, return_when=asyncio.FIRST_COMPLETED)

    def _start(self, session: Session) -> asyncio.Task[None]:
        self._session = session
        return asyncio.create_task(session.run(), name=f"{self.name} session")

    def _finish(self) -> None:
        if self._session is not None:
            self._past.add(self._session)
            self._session = None

    def _note(self, reason: str) -> None:
        self._past.failures += 1
        self.errors.append((time.time(), reason))
        _log.warning("%s: %s", self.name, reason, extra={"action": "venue_disconnected", "connection": self.name})

    def statistics(self) -> ConnectionStatistics:
        session, past = self._session, self._past
        return ConnectionStatistics(
            up=self.is_up,
            streams=len(self.streams),
            messages=past.messages + (session.messages if session else 0),
            received_bytes=past.received_bytes + (session.received_bytes if session else 0),
            connects=past.connects,
            rolls=past.rolls,
            failures=past.failures,
            pending=self.pending,
            up_seconds=time.monotonic() - session.opened if session else 0.0,
            last_error=self.errors[-1][1] if self.errors else "",
        )


class _Past:
    """Counters of sessions that are over."""

    def __init__(self) -> None:
        self.messages = self.received_bytes = self.connects = self.rolls = self.failures = 0

    def add(self, session: Session) -> None:
        self.messages += session.messages
        self.received_bytes += session.received_bytes


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _reason(task: asyncio.Task[None]) -> str:
    """Why a session ended. What is neither the venue's nor the network's doing is the handler's, and goes up."""
    error = task.exception()
    if error is None:
        return "the session ended"
    if isinstance(error, (ConnectionClosed, OSError, TimeoutError, Silent)):
        return f"{type(error).__name__}: {error}"
    raise error
