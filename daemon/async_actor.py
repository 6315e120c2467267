"""An actor that lives in an asyncio loop (feed, writer, query); see `marketd.daemon.actor` for the life."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import zmq
import zmq.asyncio

from marketd.daemon import loop_errors
from marketd.daemon.actor_base import EXIT_CLEAN, STOP_SIGNALS, Actor
from marketd.daemon.control import LINGER_MS, Answers, open_socket, reload_reply
from marketd.daemon.settings import Config
from marketd.ipc import protocol
from marketd.ipc.protocol import Reload

logger = logging.getLogger(__name__)

END_BUDGET_SECONDS = 5.0  # closing connections needs no more; what hangs then is left to the process's end


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class AsyncActor(Actor):
    """Override start, run, drain, end, reload, statistics. `stopping` and `context` exist from `start` on."""

    stopping: asyncio.Event
    context: zmq.asyncio.Context

    def __init__(self, name: str, config: Config, *, load_again: Callable[[], Config] | None = None) -> None:
        super().__init__(name, config, load_again=load_again)
        self._answers = Answers(self)
        self._reloading = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Open everything."""

    async def run(self) -> None:
        """Work until `self.stopping`; by default only answer the supervisor."""
        await self.stopping.wait()

    async def drain(self) -> None:
        """Finish what was accepted; cancelled at `self.deadline`."""

    async def end(self) -> None:
        """Close everything."""

    async def reload(self, config: Config) -> None:
        """Take over what changed."""

    def live_through(self) -> int:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(self._live())

    async def _live(self) -> int:
        self.stopping = asyncio.Event()
        self.context = zmq.asyncio.Context()
        self._dealer: Any = open_socket(self.context, self.name, self.config.runtime_path, connect=self.supervised)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(loop_errors.handle)
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._signalled_in_loop, number)
        self._tell_state()
        await self._work_until_stopped()
        await self._cancel_the_rest()
        logger.info("%s ended", self.name, extra={"action": "actor_ended"})
        self.context.destroy(linger=LINGER_MS)
        return EXIT_CLEAN

    async def _work_until_stopped(self) -> None:
        control = asyncio.create_task(self._serve_control(), name="control")
        work = asyncio.create_task(self._work(), name="work")
        stop = asyncio.create_task(self.stopping.wait(), name="stop")
        try:
            await asyncio.wait({control, work, stop}, return_when=asyncio.FIRST_COMPLETED)
            for task in (control, work):
                if task.done():
                    task.result()  # a crash goes on upwards
            self.ask_to_stop("its work is done")  # unless it was asked: then this changes nothing
            if self.state == "starting":
                work.cancel()  # nothing was accepted yet
            self.become("draining")
            await self._finish(work)
            await self._end()
        finally:
            for each in (control, work, stop):
                each.cancel()
            await asyncio.gather(control, work, stop, return_exceptions=True)

    async def _work(self) -> None:
        await self.start()
        if self.state == "starting":
            self.become("live")
        await self.run()

    async def _finish(self, work: asyncio.Task[None]) -> None:
        try:
            async with asyncio.timeout(max(0.0, self.deadline - time.monotonic())):
                await asyncio.wait({work})
                if not work.cancelled():
                    work.result()
                await self.drain()
        except TimeoutError:
            logger.warning("draining was cut short at the end of its budget", extra={"action": "drain_cut"})

    async def _end(self) -> None:
        try:
            async with asyncio.timeout(END_BUDGET_SECONDS):
                await self.end()
        except TimeoutError:
            logger.warning("closing was cut short after %.0f s", END_BUDGET_SECONDS, extra={"action": "end_cut"})

    async def _cancel_the_rest(self) -> None:
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest, timeout=END_BUDGET_SECONDS)
            logger.warning(
                "cancelled %d tasks that had not ended: %s",
                len(rest),
                ", ".join(sorted(task.get_name() for task in rest)),
                extra={"action": "tasks_cancelled", "tasks": len(rest)},
            )

    async def _serve_control(self) -> None:
        while True:
            request = self._answers.read(await self._dealer.recv_multipart())
            if isinstance(request, Reload):
                self._spawn(self._answer_reload(request.id), name="reload")
            else:
                self._send(self._answers.answer(request))

    async def _answer_reload(self, request_id: int) -> None:
        """A task of its own: a reload may wait for a venue, and pings go on meanwhile."""
        async with self._reloading:
            try:
                new = self._read_new_config()
                await self.reload(new)
                reply = reload_reply(request_id, None, self._take_over(new))
            except Exception as error:  # the supervision border: a reload that fails is answered, the actor goes on
                logger.error("the reload was refused: %s", error, extra={"action": "reload_refused"})
                reply = reload_reply(request_id, error)
        self._send(protocol.encode(reply))

    def _send(self, header: bytes) -> None:
        """Never waits: a supervisor that reads nothing asks again, or ends us."""
        sending = self._dealer.send(header, zmq.NOBLOCK)
        sending.add_done_callback(_forget_unheard)

    def _spawn(self, coroutine: Any, name: str) -> None:
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)  # the loop alone holds tasks weakly
        task.add_done_callback(self._tasks.discard)

    def _signalled_in_loop(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        for each in STOP_SIGNALS:
            loop.remove_signal_handler(each)
        self._signalled(number)

    def _wake_to_stop(self) -> None:
        self.stopping.set()

    def _tell_state(self) -> None:
        self._send(self._answers.pong())


def _forget_unheard(sending: asyncio.Future[Any]) -> None:
    if not sending.cancelled() and isinstance(sending.exception(), zmq.Again):
        logger.debug("nobody takes a control message", extra={"action": "control_unheard"})
