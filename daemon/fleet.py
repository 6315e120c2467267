"""All actors of one daemon together: started in stages, reloaded in place, drained in stages.

An actor's death is its keeper's business; that a keeper gives up is reported by the owner's `Tasks`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from marketd.daemon import plan
from marketd.daemon.keeper import Keeper, type_send
from marketd.daemon.settings import Config, Supervision
from marketd.daemon.tasks import Tasks
from marketd.ipc.protocol import ActorReport, Done, Failure, Pong

logger = logging.getLogger(__name__)


class Fleet:
    """The keepers by name. Empty until `start`."""

    def __init__(
        self,
        command: Callable[[str], Sequence[str]],
        environment: Callable[[str], Mapping[str, str]],
        send: type_send,
        tasks: Tasks,
    ) -> None:
        self._command = command
        self._environment = environment
        self._send = send
        self._tasks = tasks
        self._keepers: dict[str, Keeper] = {}

    def reports(self) -> list[ActorReport]:
        """May be called from any thread, as `expositions`."""
        return [keeper.report() for keeper in list(self._keepers.values())]

    def expositions(self) -> dict[str, bytes]:
        return {keeper.name: keeper.metrics for keeper in list(self._keepers.values()) if keeper.metrics}

    def heard(self, name: str, message: Pong | Done | Failure) -> None:
        keeper = self._keepers.get(name)
        if keeper is None:
            logger.debug("a message from %r, which is no actor here", name, extra={"action": "unknown_actor"})
        else:
            keeper.heard(message)

    async def start(self, names: Sequence[str], settings: Supervision) -> None:
        """Start the actors stage by stage, each once all before it answer."""
        for stage in plan.stages(names, plan.START_ORDER):
            keepers = [self._keep(name, settings) for name in stage]
            await asyncio.gather(*(keeper.answering.wait() for keeper in keepers))

    async def offer(self, new: Config, timeout_seconds: float) -> list[str]:
        """Have the actors that stay read the configuration in force, which is `new`; sentences of who refused it.

        Feeds come first, since their venues may lack something; when one refuses, the others are not asked.
        """
        staying = [name for name in plan.actors(new) if name in self._keepers]
        for stage in plan.stages(staying, (plan.FEED, *plan.START_ORDER[:-1])):
            answers = await asyncio.gather(*(self._reload(name, timeout_seconds) for name in stage))
            if refusals := [refusal for refusal in answers if refusal]:
                return refusals
        return []

    async def take_back(self, timeout_seconds: float) -> list[str]:
        """Have all read the configuration in force again, which is the one before; sentences of who could not."""
        answers = await asyncio.gather(*(self._reload(name, timeout_seconds) for name in list(self._keepers)))
        return [refusal for refusal in answers if refusal]

    async def change(self, new: Config) -> None:
        """Start and drain feeds as the new configuration wants."""
        wanted = plan.actors(new)
        for keeper in self._keepers.values():
            keeper.use(new.supervisor)
        gone = [name for name in self._keepers if name not in wanted]
        await self.stop(gone, time.monotonic() + new.supervisor.drain_timeout.seconds)
        for name in wanted:
            if name not in self._keepers:
                self._keep(name, new.supervisor)

    async def drain(self, deadline: float) -> list[str]:
        """Stop all, stage by stage; the names of those that had to be killed. A stage gets half of what is
        left, so that one that hangs leaves time for those behind it."""
        killed: list[str] = []
        stages = plan.stages(list(self._keepers), plan.STOP_ORDER)
        for number, stage in enumerate(stages, start=1):
            now = time.monotonic()
            share = 1.0 if number == len(stages) else 0.5
            killed += await self.stop(stage, now + max(0.0, deadline - now) * share)
        return killed

    async def stop(self, names: Sequence[str], deadline: float) -> list[str]:
        """Drain these actors together and forget them; the names of those that had to be killed."""
        killed = await asyncio.gather(*(self._keepers[name].stop(deadline) for name in names))
        for name in names:
            del self._keepers[name]
        return [name for name, was_killed in zip(names, killed, strict=True) if was_killed]

    def kill(self) -> None:
        """End all at once; `drain` then has nothing left to wait for."""
        for keeper in self._keepers.values():
            keeper.kill()

    def _keep(self, name: str, settings: Supervision) -> Keeper:
        keeper = Keeper(name, self._command(name), partial(self._environment, name), self._send, settings)
        self._keepers[name] = keeper
        self._tasks.watch(keeper.task)
        return keeper

    async def _reload(self, name: str, timeout_seconds: float) -> str:
        answer = await self._keepers[name].reload(timeout_seconds)
        return f"{name} refused it: {answer.message}" if isinstance(answer, Failure) else ""
