"""Keeps one actor alive: starts it, pings it, replaces it when it dies or hangs, gives up on a crash loop.

Alive means that it answers. An actor in state `starting` may be silent for `supervisor.start_timeout`, any
other for `ping_timeout`; one that is silent for longer is killed, and then it is one that died. The next
start waits for a jittered backoff; `crash_limit` deaths within `crash_window` are a CrashLoop, which ends the
daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence

from marketd.daemon import metrics
from marketd.daemon.notify import VARIABLES as NOTIFY_VARIABLES
from marketd.daemon.process import ActorProcess
from marketd.daemon.restarts import Restarts
from marketd.daemon.settings import Supervision
from marketd.ipc.protocol import ActorReport, Done, Failure, Message, Ping, Pong, Reload, Stop
from marketd.market.errors import MarketdError

logger = logging.getLogger(__name__)

STOP_HEARD_SECONDS = 1.0  # an actor that answers at all answers a Stop within it; else it gets SIGTERM
ACTORS_SHARE = 0.8  # of the time until it is killed: it ends itself before that, and says what it cut short
SHOWN_TAIL_LINES = 15
_UP = metrics.gauge("actor_up", "1 while the actor answers", ["child"])
_RESTARTS = metrics.counter("actor_restarts_total", "Actors started again after a death", ["child"])
_HUNG = metrics.counter("actor_hung_total", "Actors killed because they did not answer", ["child"])

type_send = Callable[[str, Message], None]


class CrashLoop(MarketdError):
    """An actor dies again and again."""


class Keeper:
    """The life of one actor over all its processes. `run` is its task; `stop` ends both."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Callable[[], Mapping[str, str]],
        send: type_send,
        settings: Supervision,
    ) -> None:
        self.name = name
        self.state = "down"
        self.restarts = 0
        self.metrics = b""
        self.answering = asyncio.Event()  # it has answered once since the daemon started, and not as `starting`
        self.policy = Restarts(settings)
        self._command = command
        self._environment = environment
        self._send = send
        self._settings = settings
        self._statistics: dict[str, object] = {}
        self._process: ActorProcess | None = None
        self._stopping = asyncio.Event()
        self._heard = 0.0
        self._unanswered: float | None = None  # when the oldest Ping without an answer was sent
        self._replies: dict[int, asyncio.Future[Done | Failure]] = {}
        self._last_id = 0
        self._task = asyncio.create_task(self._run(), name=f"keeper of {name}")

    def __repr__(self) -> str:
        return f"<Keeper {self.name} {self.state}>"

    @property
    def task(self) -> asyncio.Task[None]:
        """Ends when the actor was stopped; fails with CrashLoop."""
        return self._task

    def use(self, settings: Supervision) -> None:
        """After a reload."""
        self._settings = self.policy.settings = settings

    def report(self) -> ActorReport:
        process, now = self._process, time.monotonic()
        return ActorReport(
            name=self.name,
            state=self.state,
            pid=process.pid if process else None,
            restarts=self.restarts,
            uptime_seconds=round(now - process.started, 3) if process else None,
            heard_seconds=round(now - self._heard, 3) if process and self._heard else None,
            memory_bytes=process.memory_bytes() if process else None,
            statistics=self._statistics,
        )

    def heard(self, message: Pong | Done | Failure) -> None:
        """A message that came from the actor's name."""
        if not isinstance(message, Pong):
            waiting = self._replies.pop(message.id, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
            return
        process = self._process
        if process is None or message.statistics.get("pid") != process.pid:
            return  # the last words of its predecessor
        self._heard, self._unanswered = time.monotonic(), None
        self.state, self._statistics = message.state, message.statistics
        self.metrics = message.metrics or self.metrics
        if message.state != "starting":
            _UP.labels(self.name).set(1)
            self.answering.set()

    async def reload(self, timeout_seconds: float) -> Message | None:
        """The actor's answer; None from one that runs in no process now (its next reads the new
        configuration)."""
        if self._process is None:
            return None
        return await self._ask(Reload(timeout_ms=round(timeout_seconds * 1000)), timeout_seconds)

    async def stop(self, deadline: float) -> bool:
        """Drain the actor until `deadline` (time.monotonic), then kill it; whether it had to be killed."""
        self._stopping.set()
        process = self._process
        killed = False
        if process is not None:
            await self._ask_to_stop(process, deadline)
            killed = not await _ends(process, deadline)
            if killed:
                logger.warning(
                    "%s did not drain within its budget and is killed",
                    self.name,
                    extra={"action": "actor_killed", "child": self.name, "pid": process.pid},
                )
                process.signal(signal.SIGKILL)
        await asyncio.wait({self._task})
        self.state = "stopped"
        with contextlib.suppress(KeyError):
            _UP.remove(self.name)  # an actor that is not wanted any more is not one that is down
        return killed

    def kill(self) -> None:
        """End its process now, for good."""
        self._stopping.set()
        if self._process is not None:
            self._process.signal(signal.SIGKILL)

    async def _run(self) -> None:
        while not self._stopping.is_set():
            process = self._process = self._spawn()
            try:
                await self._watch(process)
            except asyncio.CancelledError:
                process.signal(signal.SIGKILL)
                raise
            self._gone(process)
            if not self._stopping.is_set():
                await self._pause(self._next_delay(process))

    def _spawn(self) -> ActorProcess:
        self.state, self._heard, self._unanswered, self._statistics = "starting", 0.0, None, {}
        process = ActorProcess.spawn(self.name, self._command, self._environment())
        logger.info(
            "started %s as process %d",
            self.name,
            process.pid,
            extra={"action": "actor_started", "child": self.name, "pid": process.pid},
        )
        return process

    async def _watch(self, process: ActorProcess) -> None:
        """Until the process has ended, by itself or by us."""
        ended = asyncio.create_task(process.wait(), name=f"end of {self.name}")
        try:
            looked = time.monotonic()
            while not ended.done():
                await asyncio.wait({ended}, timeout=self._settings.ping_interval.seconds)
                now = time.monotonic()
                if not ended.done() and not self._stopping.is_set():
                    await self._ping_or_kill(process, now, slept=now - looked)
                looked = now
        finally:
            ended.cancel()

    async def _ping_or_kill(self, process: ActorProcess, now: float, slept: float) -> None:
        settings = self._settings
        patience = (settings.start_timeout if self.state == "starting" else settings.ping_timeout).seconds
        if self._unanswered is not None and slept > settings.ping_interval.seconds + patience / 2:
            self._unanswered = now  # it was us who did not look: answers may lie unread
        elif self._unanswered is not None and now - self._unanswered > patience:
            await self._kill_hung(process, patience)
            return
        self._last_id += 1
        self._send(self.name, Ping(id=self._last_id))
        if self._unanswered is None:
            self._unanswered = now

    async def _kill_hung(self, process: ActorProcess, patience: float) -> None:
        logger.error(
            "%s has not answered for %.1f s and is killed",
            self.name,
            patience,
            extra={"action": "actor_hung", "child": self.name, "pid": process.pid},
        )
        _HUNG.labels(self.name).inc()
        await process.kill_after_its_stacks()

    def _gone(self, process: ActorProcess) -> None:
        self._process = None
        self.state, self.metrics = "down", b""
        _UP.labels(self.name).set(0)
        for waiting in self._replies.values():
            if not waiting.done():
                waiting.set_result(Failure(code="error", message=f"{self.name} ended {process.ending}"))
        self._replies.clear()
        logger.log(
            logging.INFO if self._stopping.is_set() else logging.ERROR,
            "%s ended %s after %.1f s",
            self.name,
            process.ending,
            time.monotonic() - process.started,
            extra={
                "action": "actor_gone",
                "child": self.name,
                "pid": process.pid,
                "exit_code": process.exit_code,
            },
        )

    def _next_delay(self, process: ActorProcess) -> float:
        delay = self.policy.died(time.monotonic())
        if delay is None:
            words = "\n".join(f"    {line}" for line in process.tail[-SHOWN_TAIL_LINES:]) or "    (nothing)"
            raise CrashLoop(
                f"{self.name} died {self.policy.recent} times within {self._settings.crash_window}, "
                f"the last time {process.ending}; its last words:\n{words}"
            )
        return delay

    async def _pause(self, delay_seconds: float) -> None:
        logger.warning(
            "%s is started again in %.2f s",
            self.name,
            delay_seconds,
            extra={"action": "actor_restart", "child": self.name, "seconds": delay_seconds},
        )
        self.restarts += 1
        _RESTARTS.labels(self.name).inc()
        try:
            async with asyncio.timeout(delay_seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def _ask_to_stop(self, process: ActorProcess, deadline: float) -> None:
        """By message, because that brings the budget; by signal when it does not listen."""
        if self.state not in ("starting", "down"):
            left = max(0.0, deadline - time.monotonic())
            budget_ms = max(1, round(left * ACTORS_SHARE * 1000))
            patience = min(STOP_HEARD_SECONDS, left)
            if isinstance(await self._ask(Stop(timeout_ms=budget_ms), patience), Done):
                return
        process.signal(signal.SIGTERM)

    async def _ask(self, request: Reload | Stop, timeout_seconds: float) -> Done | Failure:
        self._last_id += 1
        request.id = self._last_id
        answer: asyncio.Future[Done | Failure] = asyncio.get_running_loop().create_future()
        self._replies[request.id] = answer
        self._send(self.name, request)
        try:
            async with asyncio.timeout(timeout_seconds):
                return await answer
        except TimeoutError:
            return Failure(code="timeout", message=f"{self.name} did not answer within {timeout_seconds:.1f} s")
        finally:
            self._replies.pop(request.id, None)


async def _ends(process: ActorProcess, deadline: float) -> bool:
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            await process.wait()
    except TimeoutError:
        return False
    return True


def clean_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables an actor gets: ours, but not those that let it speak to systemd in our name."""
    kept = os.environ if environment is None else environment
    return {name: value for name, value in kept.items() if name not in NOTIFY_VARIABLES}
