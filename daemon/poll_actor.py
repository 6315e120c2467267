"""An actor that owns its poll loop (ingest); see `marketd.daemon.actor` for the life, `…control` for the
channel."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from typing import Any

import zmq

from marketd.daemon.actor_base import EXIT_CLEAN, STOP_SIGNALS, Actor
from marketd.daemon.control import LINGER_MS, ControlChannel, open_socket
from marketd.daemon.settings import Config

logger = logging.getLogger(__name__)


class PollActor(Actor):
    """Override start, run, drain, end, reload, statistics. `control` and `context` exist from `start` on."""

    control: ControlChannel
    context: zmq.Context[Any]

    def __init__(self, name: str, config: Config, *, load_again: Callable[[], Config] | None = None) -> None:
        super().__init__(name, config, load_again=load_again)
        self.stopping = False

    def start(self) -> None:
        """Open everything."""

    def run(self) -> None:
        """Work until `self.stopping`; by default only answer the supervisor."""
        poller = zmq.Poller()
        self.control.register(poller)
        while not self.stopping:
            poller.poll()
            self.control.read()

    def drain(self, deadline: float) -> None:
        """Finish what was accepted, until `deadline` (time.monotonic) at the latest."""

    def end(self) -> None:
        """Close everything."""

    def reload(self, config: Config) -> None:
        """Take over what changed."""

    def live_through(self) -> int:
        self.context = zmq.Context()
        dealer = open_socket(self.context, self.name, self.config.runtime_path, connect=self.supervised)
        self.control = ControlChannel(self, dealer, self._reload)
        for number in STOP_SIGNALS:
            signal.signal(number, lambda number, _frame: self._signalled(number))
        self.control.watch_signals()
        self._tell_state()
        self.start()
        if self.state == "starting":
            self.become("live")
        self.run()
        self._finish()
        return EXIT_CLEAN

    def _finish(self) -> None:
        self.ask_to_stop("its work is done")  # unless it was asked: then this changes nothing
        self.become("draining")
        self.drain(self.deadline)
        late = time.monotonic() - self.deadline
        if late > 0:
            logger.warning(
                "draining took %.1f s longer than its budget",
                late,
                extra={"action": "drain_late", "seconds": late},
            )
        self.end()
        logger.info("%s ended", self.name, extra={"action": "actor_ended"})
        self.control.close()
        self.context.destroy(linger=LINGER_MS)

    def _reload(self) -> str:
        new = self._read_new_config()
        self.reload(new)
        return self._take_over(new)

    def _wake_to_stop(self) -> None:
        self.stopping = True

    def _tell_state(self) -> None:
        self.control.tell_state()
