"""Subscriptions as users hold them: iterators over frames, in a thread or in asyncio.

Both end when they are closed. While a hole is being filled an answer may come late: the message that it was at is kept,
and is settled again. Other failures raise, and the next `next` goes on from that message: no hole, no duplicate.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

import zmq

from marketd.client.calls import deadline_after
from marketd.client.connection import AsyncRequester, Requester, remaining_ms
from marketd.client.frames import Frame
from marketd.client.pool import Socket, SocketPool
from marketd.client.stream import Follower, Message, SubscriptionStatistics
from marketd.market.errors import MarketdError, Timeout

POLL_SECONDS = 0.1  # how soon `close` from another thread is noticed


class _Inbox:
    """What both kinds of subscription keep: messages to settle and frames to hand out."""

    def __init__(self, follower: Follower, timeout: float) -> None:
        deadline_after(timeout)  # refuses what is no budget before anything is opened
        self.follower = follower
        self.timeout = timeout
        self.pending: Message | None = None
        self.ready: deque[Frame] = deque()

    def arrived(self, frames: Sequence[Any]) -> None:
        self.pending = self.follower.read([frame.buffer for frame in frames])

    def settled(self, frames: list[Frame]) -> None:
        self.pending = None
        self.ready.extend(frames)


class Subscription:
    """Iterates over frames as they come. For one thread; `close` may be called from any.

    Opened by `UnifiedDataProvider.subscribe`. `next(timeout)` waits for a frame with a limit of its own.
    """

    def __init__(self, requester: Requester, follower: Follower, timeout: float) -> None:
        self._inbox = _Inbox(follower, timeout)
        self._requester = requester
        self._alone = threading.Lock()
        self._closed = False
        deadline = deadline_after(timeout)
        topic = requester.run(follower.open(), deadline)
        self._pool: SocketPool = requester.pool()
        self._socket: Socket | None = self._pool.subscribe(topic)
        try:
            self._inbox.settled(requester.run(follower.begin(), deadline))
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<Subscription to {self._inbox.follower.topic.decode()}>"

    def __iter__(self) -> Subscription:
        return self

    def __next__(self) -> Frame:
        frame = self._wait(None)
        if frame is None:
            raise StopIteration
        return frame

    def next(self, timeout: float) -> Frame:
        """The next frame; Timeout when none came within `timeout` seconds, MarketdError once it was closed."""
        frame = self._wait(time.monotonic() + timeout)
        if frame is None:
            raise MarketdError(f"{self!r} was closed; subscribe again")
        return frame

    def _wait(self, deadline: float | None) -> Frame | None:
        """The next frame; None once closed."""
        with self._alone:
            while not self._closed:
                if self._inbox.ready:
                    return self._inbox.ready.popleft()
                self._take(deadline)
        return None

    def _take(self, deadline: float | None) -> None:
        inbox = self._inbox
        if inbox.pending is not None:
            plan = inbox.follower.settle(inbox.pending)
            try:
                inbox.settled(self._requester.run(plan, deadline_after(inbox.timeout)))
            except Timeout:
                # a fetch of ours took too long; the message is kept, and whoever set no limit waits on
                if deadline is not None and time.monotonic() >= deadline:
                    raise
        elif self._poll(deadline):
            assert self._socket is not None
            inbox.arrived(self._socket.recv_multipart(copy=False))
        elif deadline is not None and time.monotonic() >= deadline:
            raise Timeout(f"{self!r}: nothing was published until the deadline")

    def _poll(self, deadline: float | None) -> bool:
        if self._socket is None or self._pool.pid != os.getpid():
            raise MarketdError(f"{self!r} belongs to the process that opened it; open another one here")
        until = time.monotonic() + POLL_SECONDS
        return bool(self._socket.poll(remaining_ms(until if deadline is None else min(until, deadline)), zmq.POLLIN))

    def statistics(self) -> SubscriptionStatistics:
        return self._inbox.follower.statistics()

    def close(self) -> None:
        """Ends the subscription; a waiting iteration ends within a moment. Harmless when repeated."""
        self._closed = True
        with self._alone:
            socket, self._socket = self._socket, None
        if socket is not None and self._pool.pid == os.getpid():
            self._pool.drop(socket)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncSubscription:
    """`async for frame in md.subscribe(…)`; opens itself with the first frame, or with `async with`."""

    def __init__(self, requester: AsyncRequester, follower: Follower, timeout: float) -> None:
        self._inbox = _Inbox(follower, timeout)
        self._requester = requester
        self._pool: SocketPool | None = None
        self._socket: Socket | None = None
        self._closed = self._waiting = False

    def __repr__(self) -> str:
        return f"<AsyncSubscription to {self._inbox.follower.topic.decode() or 'a topic, not yet open'}>"

    async def open(self) -> None:
        """Subscribes; what there is since `since` is ready then."""
        if self._socket is not None:
            return
        deadline = deadline_after(self._inbox.timeout)
        follower = self._inbox.follower
        topic = await self._requester.run(follower.open(), deadline)
        self._pool = self._requester.pool()
        self._socket = self._pool.subscribe(topic)
        try:
            self._inbox.settled(await self._requester.run(follower.begin(), deadline))
        except BaseException:
            await self.close()
            raise

    def __aiter__(self) -> AsyncSubscription:
        return self

    async def __anext__(self) -> Frame:
        if not self._closed:
            await self.open()
        while not self._closed:
            if self._inbox.ready:
                return self._inbox.ready.popleft()
            await self._take()
        raise StopAsyncIteration

    async def _take(self) -> None:
        inbox, socket = self._inbox, self._socket
        if inbox.pending is not None:
            plan = inbox.follower.settle(inbox.pending)
            with suppress(Timeout):  # a fetch of ours took too long; the message is kept, and is settled again
                inbox.settled(await self._requester.run(plan, deadline_after(inbox.timeout)))
        elif socket is not None:
            self._waiting = True
            try:
                # in slices: a socket must not be closed under its poll, so `close` leaves that to us
                if await socket.poll(int(POLL_SECONDS * 1_000)) and not self._closed:
                    inbox.arrived(await socket.recv_multipart(copy=False))
            finally:
                self._waiting = False
                self._drop_if_closed()

    def statistics(self) -> SubscriptionStatistics:
        return self._inbox.follower.statistics()

    async def close(self) -> None:
        """Ends the subscription; a waiting iteration ends within a moment. Harmless when repeated."""
        self._closed = True
        self._drop_if_closed()

    def _drop_if_closed(self) -> None:
        if self._closed and not self._waiting and self._socket is not None and self._pool is not None:
            socket, self._socket = self._socket, None
            self._pool.drop(socket)

    async def __aenter__(self) -> AsyncSubscription:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
