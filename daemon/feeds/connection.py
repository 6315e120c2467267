"""One connection to a venue's WebSocket: keeps it up, and hands on what comes, in bulk.

    Connection.run      connect -> subscribe -> serve, again and again, until cancelled
    Session             one socket (`session`)

Before the venue's 24 hours are over the connection is rolled: a second session is up, subscribed and delivering
before the first is closed. Both deliver for a moment; the handler must know what it has seen (trades have ids). Where
it cannot know that (`overlaps` is False) the connection is closed and made anew instead, as if it had been lost.

The handler's contract: `on_up(connection)` before any frame of a socket that replaces one that was lost (not
when rolled), `on_frames(connection, recv_ns, frames)` one call at a time a session, awaited: a slow handler fills
the bounded list, then the kernel's buffers, and the venue sees a slow reader. `on_down(connection, reason)` after a
loss.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from marketd.daemon.feeds.adapter import VenueAdapter
from marketd.daemon.feeds.backoff import Backoff
from marketd.daemon.feeds.rest import LOOPBACK
from marketd.daemon.feeds.session import BudgetSpent, Session, Silent, Timing
from marketd.daemon.feeds.socket import VenueSocket

_log = logging.getLogger(__name__)
# The library logs each connection and each ping; what operators need is logged here.
_quiet = logging.getLogger("marketd.daemon.feeds.websocket")
_quiet.setLevel(logging.CRITICAL)
_quiet.propagate = False

MAX_MESSAGE_BYTES = 32 << 20  # the whole book of a busy pair comes in one message on some venues
OVERLAP_SECONDS = 1.0  # both sessions deliver when rolled, after the new one's first message
OVERLAP_AT_MOST_SECONDS = 30.0  # a new session that delivers nothing replaces the old one after this
HEALTHY_AFTER_SECONDS = 10.0  # a session that lived so long was no failure
KEPT_ERRORS = 20
MAX_WORDS_BYTES = 300  # of a refusal's page
# Of commands; one may be several messages, numbered on from its id. Of all connections: an adapter knows what it asked
# for by the number alone.
_IDS = itertools.count(1, 1000)


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


class Connection:
    def __init__(
        self,
        name: str,
        base_url: str,
        adapter: VenueAdapter,
        streams: Sequence[str],
        handler: Handler,
        timing: Timing,
        *,
        overlaps: bool = True,
    ) -> None:
        self.name = name
        self.streams = list(streams)
        self._base_url = base_url
        self._adapter = adapter
        self._handler = handler
        self._timing = timing
        self._overlaps = overlaps
        self._session: Session | None = None
        self._in_address: set[str] = set()  # streams that the newest session's address names
        self.has_asked = asyncio.Event()  # all that a new session asks for was sent
        self._roll_now = asyncio.Event()
        self._past = _Past()
        self.trouble = "not connected yet"  # why it was lost, or does not come up, in a few words
        self.errors: deque[tuple[float, str]] = deque(maxlen=KEPT_ERRORS)  # (unix s, what was said), as they came

    def __repr__(self) -> str:
        return f"<Connection {self.name}: {len(self.streams)} streams, {'up' if self.is_up else 'down'}>"

    @property
    def is_up(self) -> bool:
        return self._session is not None

    @property
    def pending(self) -> int:
        return self._session.pending if self._session else 0

    @property
    def by_message(self) -> set[str]:
        """Streams that the venue is asked for by message, and not by the connection's address."""
        return set(self.streams).difference(self._in_address)

    @property
    def up_since(self) -> float | None:
        """Monotonic s; None while it is not connected."""
        return self._session.opened if self._session else None

    def silent_seconds(self, now: float) -> float:
        """Since the last proof that the venue is there; infinite while it is not connected."""
        return now - self._session.heard if self._session else float("inf")

    def roll(self) -> None:
        """Replace the socket by a fresh one, without a gap."""
        self._roll_now.set()

    async def subscribe(self, streams: Sequence[str]) -> None:
        """Add streams, now if connected and at every connect from now on."""
        self.streams += [stream for stream in streams if stream not in self.streams]
        if self._session is not None:
            self._session.streams.update(streams)
        await self._command("SUBSCRIBE", streams)

    async def unsubscribe(self, streams: Sequence[str]) -> None:
        self.streams = [stream for stream in self.streams if stream not in set(streams)]
        if self._session is not None:
            self._session.streams.difference_update(streams)
        await self._command("UNSUBSCRIBE", streams)

    async def ask(self, streams: Sequence[str]) -> None:
        """Ask again for streams that it has."""
        await self._command("SUBSCRIBE", [stream for stream in streams if stream in self.streams])

    async def resubscribe(self, streams: Sequence[str]) -> None:
        """Have streams begin anew, with whatever the venue sends at the beginning of one."""
        await self._command("UNSUBSCRIBE", streams)
        await self._command("SUBSCRIBE", streams)

    async def _catch_up(self, session: Session) -> None:
        """Have on a session what was added or removed while it was being opened, or was not the one in use."""
        await self.subscribe([stream for stream in self.streams if stream not in session.streams])
        await self.unsubscribe(sorted(session.streams.difference(self.streams)))

    async def _command(self, verb: str, streams: Sequence[str]) -> None:
        session = self._session
        if session is None or not streams:
            return
        await self._send(session, self._adapter.commands(verb, list(streams), next(_IDS)))

    async def _send(self, session: Session, commands: Sequence[str]) -> None:
        """What a session that is closed, or has sent too much, does not take the next one brings: it asks for all."""
        try:
            await session.command(commands)
        except ConnectionClosed:
            pass  # the session has ended, and says so itself
        except BudgetSpent as spent:
            if session is self._session and not self._roll_now.is_set():
                _log.warning(
                    "%s: %s, and the venue takes no more over one connection: a fresh one is made",
                    self.name,
                    spent,
                    extra={"action": "command_budget", "connection": self.name},
                )
                self.roll()

    async def run(self) -> None:
        """Until cancelled."""
        backoff = Backoff(self._timing.backoff_first_seconds, self._timing.backoff_cap_seconds)
        while True:
            try:
                session = await self._open()
            except (OSError, TimeoutError, InvalidHandshake, InvalidURI, ConnectionClosed) as error:
                self.trouble = _words(error)
                self._note(f"connecting to {self._base_url} failed: {_words_of(error)}")
                await asyncio.sleep(backoff.next())
                continue
            reason = await self._serve(session)
            if time.monotonic() - session.opened >= HEALTHY_AFTER_SECONDS:
                backoff.reset()
            self._note(reason)
            await self._handler.on_down(self, reason)
            await asyncio.sleep(backoff.next())

    async def _open(self) -> Session:
        streams = list(self.streams)
        url, by_message = self._adapter.connect_url(self._base_url, streams)
        # a proxy of the environment is meant for the world outside, not for this machine
        options: dict[str, Any] = {"proxy": None} if urlsplit(url).hostname in LOOPBACK else {}
        socket = await connect(
            url,
            compression=None,  # inflating costs more than the bytes do
            ping_interval=None,  # the watchdog asks by itself, and only when it is silent
            open_timeout=self._timing.open_seconds,
            close_timeout=2.0,
            max_size=MAX_MESSAGE_BYTES,
            create_connection=VenueSocket,
            logger=_quiet,
            **options,
        )
        assert isinstance(socket, VenueSocket)  # as it was asked for
        session = Session(socket, self._take, self._timing, self._adapter.ping)
        session.streams.update(streams)
        self._in_address = set(streams).difference(by_message)
        self._past.connects += 1
        return session

    async def _ask_first(self, session: Session) -> None:
        """Ask for what is not in the address, while the session is read: that takes seconds where streams are many."""
        streams = [stream for stream in self.streams if stream in session.streams - self._in_address]
        if streams:
            await self._send(session, self._adapter.commands("SUBSCRIBE", streams, next(_IDS)))
        await self._catch_up(session)
        self.has_asked.set()

    async def _take(self, recv_ns: int, frames: list[bytes]) -> None:
        await self._handler.on_frames(self, recv_ns, frames)

    async def _serve(self, session: Session) -> str:
        """Serve a session, and those that it is rolled into; why the last one ended."""
        self.has_asked.clear()
        self.trouble = "nothing comes"
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
            await self._ask_first(session)
            while True:
                self._roll_now.clear()
                roll = asyncio.create_task(self._roll_now.wait(), name=f"{self.name} roll asked for")
                left = self._timing.roll_after_seconds - (time.monotonic() - session.opened)
                try:
                    await asyncio.wait((running, roll), timeout=max(left, 0.0), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    roll.cancel()
                if running.done():
                    reason = _reason(running)
                    self.trouble = _words(running.exception())
                    return reason
                if not self._overlaps:
                    self._past.rolls += 1
                    self.trouble = "it is time for a fresh connection"
                    return self.trouble
                session, running = await self._rolled(session, running)
        finally:
            await _end(running)
            self._finish()

    async def _rolled(self, old: Session, running: asyncio.Task[None]) -> tuple[Session, asyncio.Task[None]]:
        """A fresh session beside the old one, then instead of it; the old one when there is none to be had."""
        try:
            new = await self._open()
        except (OSError, TimeoutError, InvalidHandshake, InvalidURI, ConnectionClosed) as error:
            self._note(f"rolling failed, the old connection goes on: {_words_of(error)}")
            old.opened += min(60.0, self._timing.roll_after_seconds)  # and is rolled again later
            return old, running
        if running.done():  # lost while the new one was opening: something may be missing between the two
            await self._handler.on_up(self)
        fresh = self._start(new)
        try:
            await self._ask_first(new)
            await self._overlap(new, fresh, running)
        except asyncio.CancelledError:
            await _end(fresh)
            raise
        if fresh.done() and not running.done():
            self._note(f"the fresh connection ended at once, the old one goes on: {_reason(fresh)}")
            self._session = old
            await self._catch_up(old)
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
        self.has_asked.clear()
        return asyncio.create_task(session.run(), name=f"{self.name} session")

    def _finish(self) -> None:
        if self._session is not None:
            self._past.add(self._session)
            self._session = None
        self.has_asked.set()  # nobody waits for a session that is gone

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


def _words_of(error: Exception) -> str:
    """What went wrong, and what the venue said beside its refusal."""
    body = error.response.body if isinstance(error, InvalidStatus) else None
    said = f": {body[:MAX_WORDS_BYTES].decode('utf-8', 'replace').strip()}" if body else ""
    return f"{type(error).__name__}: {error}{said}"


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _words(error: BaseException | None) -> str:
    """What the venue, or the network, says: the ledger has room for some words."""
    if isinstance(error, ConnectionClosed) and error.rcvd is not None:
        return f"closed: {error.rcvd.code} {error.rcvd.reason}".strip()
    if isinstance(error, InvalidStatus):
        return f"HTTP {error.response.status_code} {error.response.reason_phrase}".strip()
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return (str(error) if error is not None else "") or type(error).__name__


def _reason(task: asyncio.Task[None]) -> str:
    """Why a session ended. What is neither the venue's nor the network's doing is the handler's, and goes up."""
    error = task.exception()
    if error is None:
        return "the session ended"
    if isinstance(error, (ConnectionClosed, OSError, TimeoutError, Silent)):
        return f"{type(error).__name__}: {error}"
    raise error


__all__ = ["Connection", "ConnectionStatistics", "Handler", "Timing"]
