"""The part of an actor that does not depend on how it waits; `marketd.daemon.actor` describes the whole."""

from __future__ import annotations

import faulthandler
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Protocol

from marketd.daemon import logs
from marketd.daemon.lifeline import SupervisorGone, tie_to_supervisor
from marketd.daemon.reload import changes
from marketd.daemon.settings import Config
from marketd.market.errors import ConfigError

logger = logging.getLogger(__name__)

EXIT_CLEAN = 0
EXIT_CRASH = 1
OPEN_FILES = 65_536  # ingest has one an instrument, and many a shell allows 1024
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# state -> the states that may follow it
STATES = {
    "starting": {"warming", "live", "draining"},
    "warming": {"live", "draining"},
    "live": {"warming", "draining"},
    "draining": set[str](),
}


class Actor:
    """The part that does not depend on how an actor waits; derive from AsyncActor or PollActor."""

    def __init__(self, name: str, config: Config, *, load_again: Callable[[], Config] | None = None) -> None:
        """`load_again` reads the configuration once more for a Reload; without it a Reload is refused."""
        self.name = name
        self.config = config
        self.state = "starting"
        self.supervised = False
        self._load_again = load_again
        self._deadline: float | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.state}>"

    def statistics(self) -> Mapping[str, Any]:
        """What the supervisor shows beside the state: numbers, texts, NamedTuples, by name."""
        return {}

    def live_through(self) -> int:
        """The whole life in this thread, the process's main one; the exit code."""
        raise NotImplementedError

    def become(self, state: str) -> None:
        """Change the state and tell the supervisor. Raises ValueError for a change that STATES does not
        have."""
        if state not in STATES[self.state]:
            raise ValueError(f"{self.name}: {self.state} cannot become {state}")
        self.state = state
        logger.info("%s is %s", self.name, state, extra={"action": f"actor_{state}"})
        self._tell_state()

    def ask_to_stop(self, reason: str, budget_seconds: float | None = None) -> None:
        """Begin to stop; only the first call counts."""
        if self._deadline is not None:
            return
        budget = self.config.supervisor.drain_timeout.seconds if budget_seconds is None else budget_seconds
        self._deadline = time.monotonic() + budget
        logger.info("stopping: %s", reason, extra={"action": "actor_stopping"})
        self._wake_to_stop()

    @property
    def deadline(self) -> float:
        """When draining must be over (time.monotonic), known once the actor was asked to stop."""
        return time.monotonic() if self._deadline is None else self._deadline

    def _signalled(self, number: int) -> None:
        for each in STOP_SIGNALS:  # whoever repeats the signal means it: the second one ends the process
            signal.signal(each, signal.SIG_DFL)
        self.ask_to_stop(f"received {signal.Signals(number).name}")

    def _wake_to_stop(self) -> None:
        raise NotImplementedError

    def _tell_state(self) -> None:
        raise NotImplementedError

    def _read_new_config(self) -> Config:
        if self._load_again is None:
            raise ConfigError(f"{self.name} was started with a configuration that cannot be read again")
        new = self._load_again()
        refused = changes(self.config, new).needs_restart
        if refused:
            raise ConfigError(f"{', '.join(refused)}: needs a restart of the daemon", field=refused[0])
        return new

    def _take_over(self, new: Config) -> str:
        differing = changes(self.config, new).reloadable
        self.config = new
        logs.set_level(new.log.level)
        detail = ", ".join(differing) or "nothing changed"
        logger.info("took over the new configuration: %s", detail, extra={"action": "actor_reloaded"})
        return detail


class Startable(Protocol):
    """What `run_and_exit` needs of an actor."""

    name: str
    config: Config
    supervised: bool

    def live_through(self) -> int: ...


def run_and_exit(actor: Startable) -> NoReturn:
    """Live the actor's life in this process and end it.

    The process ends at once, without waiting for threads or at-exit calls: after a crash nothing of it is
    worth waiting for, and its successor waits for the locks that it holds.
    """
    code = run(actor)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(actor: Startable) -> int:
    """The exit code of the actor's life, with everything set up that a process of marketd has."""
    logs.setup(actor.name, actor.config.log.level, actor.config.log.format)
    os.umask(0o027)  # readers are in the group
    _dump_stacks_on_demand()
    allow_open_files()
    try:
        actor.supervised = tie_to_supervisor(actor.config.runtime_path) is not None
        return actor.live_through()
    except SupervisorGone as error:
        logger.critical("%s ends: %s", actor.name, error, extra={"action": "actor_orphaned"})
    except Exception as error:  # the supervision border: whatever it was, the process ends and is replaced
        logger.critical(
            "%s ends: %s: %s",
            actor.name,
            type(error).__name__,
            error,
            exc_info=True,
            extra={"action": "actor_crashed"},
        )
    return EXIT_CRASH


def allow_open_files() -> None:
    """As many as the hard limit lets us, up to OPEN_FILES."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _dump_stacks_on_demand() -> None:
    """A crash in C, and SIGUSR1, write the Python stack of every thread to stderr; the supervisor asks an
    actor that hangs for it before it kills it."""
    stderr = sys.__stderr__
    if stderr is not None:
        faulthandler.enable(stderr)
        faulthandler.register(signal.SIGUSR1, stderr)
