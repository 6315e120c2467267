"""What every actor process shares: its life, its answers to the supervisor, and its end.

    start → run → stop accepting → drain within a budget → end

Write an actor by overriding what it needs, and hand it to `run_and_exit`:

    class Writer(AsyncActor):                       class Ingest(PollActor):
        async def start(self) -> None: …                def start(self) -> None: …
        async def run(self) -> None: …                  def run(self) -> None: …
        async def drain(self) -> None: …                def drain(self, deadline: float) -> None: …
        async def end(self) -> None: …                  def end(self) -> None: …
        async def reload(self, config) -> None: …       def reload(self, config: Config) -> None: …
        def statistics(self) -> Mapping[str, Any]: …    (the same)

- `start` opens everything. In state `starting` an actor may block for `supervisor.start_timeout`; it says
  `self.become("warming")` once it answers but does not serve yet. When `start` returns, the state is `live`,
  unless it is `warming`: then the actor says `become("live")` itself.
- `run` works until `self.stopping` is set (an asyncio.Event; a bool in a PollActor), then has stopped
  accepting and returns. The PollActor polls `self.control` in its own loop (see `marketd.daemon.control`).
- `drain` finishes what was accepted. Over its budget it is cancelled (the PollActor gets the deadline, on
  time.monotonic), and a warning says so. `end` closes.
- An exception out of any of these is a crash: a CRITICAL log, exit code 1, no further step. The supervisor
  starts the actor again, and that is its ordinary start.
- `reload` takes over a new Config (`self.config` is still the old one); an exception refuses it. `log.level`
  is taken over by itself.

`self.context` is the process's ZeroMQ context (zmq.asyncio's in an AsyncActor).
"""

from __future__ import annotations

from marketd.daemon.actor_base import EXIT_CLEAN, EXIT_CRASH, STATES, Actor, run, run_and_exit
from marketd.daemon.async_actor import AsyncActor
from marketd.daemon.poll_actor import PollActor

__all__ = ["EXIT_CLEAN", "EXIT_CRASH", "STATES", "Actor", "AsyncActor", "PollActor", "run", "run_and_exit"]
