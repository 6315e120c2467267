"""The two drivers of plans: `Requester` (any thread, any process) and `AsyncRequester` (any event loop).

A call borrows a DEALER socket, is alone on it until its answer came or its deadline passed, and gives it back; an
answer that comes later bears an old id and is thrown away by the next borrower. A call whose connection was lost is
sent again, to whoever listens there next. After a fork the child starts with an empty pool and leaves the parent's
sockets alone.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from typing import Any, TypeVar

import zmq
import zmq.asyncio

from marketd.client.calls import PAUSED, Call, Pause, Plan, Reply
from marketd.client.endpoints import Endpoints, listens, require_running
from marketd.client.pool import Context, Socket, SocketPool
from marketd.ipc import sockets
from marketd.market.errors import MarketdError, NotRunning, ProtocolError, Timeout

T = TypeVar("T")
WATCH_SECONDS = 1.0  # a daemon that died under a call is noticed so soon
MAX_ASYNC_REQUESTS = 64  # at once in one event loop; further ones wait for their turn

# Pools that a child inherited by a fork: kept, never used. To let them go would close the parent's sockets.
_inherited: list[SocketPool] = []
_after_fork = threading.Lock()  # taken in a child only, so no fork finds it locked by the parent


def remaining_ms(until: float) -> int:
    """Milliseconds until a monotonic time, at least 0, rounded up so that a poll never ends early."""
    return max(0, -int((time.monotonic() - until) * 1_000 // 1))


def silence(call: Call, endpoints: Endpoints, started: float) -> MarketdError:
    """The error of a deadline that passed: nobody is there, or somebody is and does not answer."""
    url = endpoints.url(call.address)
    waited = f"within {time.monotonic() - started:.3g} s"
    if not listens(endpoints, call.address):
        return NotRunning(f"{call!r}: nobody listens at {url} ({waited}); see `marketd status`, or start `marketd run`")
    return Timeout(f"{call!r}: no answer from {url} {waited}; see `marketd status`, or allow a longer timeout")


def allowed(step: Pause, deadline: float) -> float:
    """The seconds to pause; Timeout when the deadline is nearer than that."""
    if time.monotonic() + step.seconds >= deadline:
        raise Timeout("the deadline passed while the daemon could not yet do what was asked; allow a longer timeout")
    return step.seconds


class Attempt:
    """When to send a call (again), what to poll for, and when to give up."""

    def __init__(self, call: Call, deadline: float) -> None:
        self.call = call
        self.deadline = deadline
        self.started = time.monotonic()
        self._pause = call.resend_seconds
        self._send_at = self.started

    def next_poll(self) -> tuple[int, int]:
        """(milliseconds, events) to poll the socket for; a poll that finds none asks whether the daemon is there."""
        now = time.monotonic()
        until = min(self.deadline, now + WATCH_SECONDS)
        if now >= self._send_at:
            return remaining_ms(until), zmq.POLLIN | zmq.POLLOUT
        return remaining_ms(min(until, self._send_at)), zmq.POLLIN

    def sent(self) -> None:
        if self._pause is None:
            self._send_at = float("inf")
            return
        self._send_at = time.monotonic() + self._pause
        self._pause *= 2

    def lost(self) -> None:
        """What was sent may never be answered: send it again. Every call may come twice, and is then answered twice."""
        self._send_at = time.monotonic()

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.deadline


class Requester:
    """Sends requests and waits for their answers; thread-safe and fork-safe."""

    def __init__(self, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        self._pool = _sync_pool(endpoints)

    def run(self, plan: Plan[T], deadline: float) -> T:
        """Drives a plan to its result; an error is raised inside it first, where it may be handled."""
        try:
            call = next(plan)
            while True:
                try:
                    reply = self._step(call, deadline)
                except MarketdError as error:
                    call = plan.throw(error)
                else:
                    call = plan.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            plan.close()  # an interrupted one cleans up now, not when it is collected

    def _step(self, step: Call | Pause, deadline: float) -> Reply:
        if isinstance(step, Call):
            return self.call(step, deadline)
        time.sleep(allowed(step, deadline))
        return PAUSED

    def call(self, call: Call, deadline: float) -> Reply:
        """The answer to one call. Raises NotRunning, Timeout, or the error that the daemon answered."""
        pool = self.pool()
        socket = pool.take(call.address)
        healthy = True
        try:
            return self._exchange(pool, socket, Attempt(call, deadline))
        except (ProtocolError, zmq.ZMQError):
            healthy = False
            raise
        finally:
            pool.give_back(call.address, socket, healthy=healthy)

    def _exchange(self, pool: SocketPool, socket: Socket, attempt: Attempt) -> Reply:
        while True:
            events = socket.poll(*attempt.next_poll())
            if not events:
                require_running(self.endpoints, attempt.call.address)
                if pool.was_cut(socket):
                    attempt.lost()
            if events & zmq.POLLOUT and sockets.send_frames(socket, attempt.call.packed(attempt.deadline)):
                attempt.sent()
            if events & zmq.POLLIN:
                reply = attempt.call.accept(buffers(socket.recv_multipart(copy=False)))
                if reply is not None:
                    return reply
            if attempt.over:
                raise silence(attempt.call, self.endpoints, attempt.started)

    def pool(self) -> SocketPool:
        """The sockets of this process."""
        if self._pool.pid != os.getpid():
            with _after_fork:
                if self._pool.pid != os.getpid():
                    _inherited.append(self._pool)
                    self._pool = _sync_pool(self.endpoints, closed=self._pool.closed)
        return self._pool

    def close(self) -> None:
        """Closes the sockets; those in use when their call ends. Harmless when repeated."""
        self.pool().close()


def _sync_pool(endpoints: Endpoints, *, closed: bool = False) -> SocketPool:
    pool = SocketPool(endpoints, lambda context, kind: context.socket(kind))
    if closed:
        pool.close()
    return pool


def buffers(frames: list[Any]) -> list[memoryview]:
    """The bytes of received frames, without a copy."""
    return [frame.buffer for frame in frames]


class AsyncRequester:
    """The asyncio twin of Requester; may be used from several event loops, each has sockets of its own."""

    def __init__(self, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        self._pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncPool] = weakref.WeakKeyDictionary()
        self._closed = False

    async def run(self, plan: Plan[T], deadline: float) -> T:
        """Drives a plan to its result; an error is raised inside it first, where it may be handled."""
        try:
            call = next(plan)
            while True:
                try:
                    reply = await self._step(call, deadline)
                except MarketdError as error:
                    call = plan.throw(error)
                else:
                    call = plan.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            plan.close()  # an interrupted one cleans up now, not when it is collected

    async def _step(self, step: Call | Pause, deadline: float) -> Reply:
        if isinstance(step, Call):
            return await self.call(step, deadline)
        await asyncio.sleep(allowed(step, deadline))
        return PAUSED

    async def call(self, call: Call, deadline: float) -> Reply:
        """The answer to one call. Raises NotRunning, Timeout, or the error that the daemon answered."""
        pool = self.pool()
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await pool.turns.acquire()
        except TimeoutError:
            raise Timeout(f"{call!r}: {MAX_ASYNC_REQUESTS} requests were under way until the deadline") from None
        try:
            return await self._lend(pool, Attempt(call, deadline))
        finally:
            pool.turns.release()

    async def _lend(self, pool: AsyncPool, attempt: Attempt) -> Reply:
        address = attempt.call.address
        socket = pool.take(address)
        healthy = False  # a cancelled call leaves a receive behind in its socket: it goes with it
        try:
            reply = await self._exchange(pool, socket, attempt)
            healthy = True
        except MarketdError as error:
            healthy = not isinstance(error, ProtocolError)
            raise
        finally:
            pool.give_back(address, socket, healthy=healthy)
        return reply

    async def _exchange(self, pool: SocketPool, socket: Socket, attempt: Attempt) -> Reply:
        while True:
            events = await socket.poll(*attempt.next_poll())
            if not events:
                require_running(self.endpoints, attempt.call.address)
                if pool.was_cut(socket):
                    attempt.lost()
            if events & zmq.POLLOUT:
                await socket.send_multipart(attempt.call.packed(attempt.deadline))
                attempt.sent()
            if events & zmq.POLLIN:
                reply = attempt.call.accept(buffers(await socket.recv_multipart(copy=False)))
                if reply is not None:
                    return reply
            if attempt.over:
                raise silence(attempt.call, self.endpoints, attempt.started)

    def pool(self) -> AsyncPool:
        """The sockets of the running event loop."""
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None or pool.pid != os.getpid():
            if self._closed:
                raise NotRunning("this client was closed; make a new one")
            if pool is not None:
                _inherited.append(pool)
            pool = self._pools[loop] = AsyncPool(self.endpoints)
        return pool

    async def close(self) -> None:
        """Closes the sockets; those in use when their call ends. Harmless when repeated."""
        self._closed = True
        for pool in list(self._pools.values()):
            pool.close()


class AsyncPool(SocketPool):
    """The sockets of one event loop, and the turns to use them."""

    def __init__(self, endpoints: Endpoints) -> None:
        super().__init__(endpoints, _make_async)
        self.turns = asyncio.Semaphore(MAX_ASYNC_REQUESTS)


def _make_async(context: Context, kind: int) -> Socket:
    return zmq.asyncio.Context.shadow(context).socket(kind)
