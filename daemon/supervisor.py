"""The supervisor: one process that starts the others, keeps them alive, and drains them in order.

    code = run_supervisor(config, file, overrides, postgres=EmbeddedPostgres(…), prepare=apply_schema)

    start   runtime directory and lock → orphans of an earlier run gone → control socket, pages → PostgreSQL,
            schema → ingest → writer → query → feeds, each once its predecessors answer → READY
    run     pings and replacements (`keeper`), watchdog, reload, operators' requests
    end     on SIGTERM, SIGINT or `marketd stop`: feeds, query, ingest, writer, PostgreSQL within
            `supervisor.drain_timeout`; a second signal kills at once

Exit codes: 0 drained; 1 gave up (a crash loop, or something that waiting cannot heal); 78 the configuration
cannot be used (EX_CONFIG of sysexits; systemd does not restart for it).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from marketd import __version__
from marketd.daemon import logs, metrics, plan, verdict
from marketd.daemon.api_keys import check_api_keys
from marketd.daemon.config import SUPERVISOR_VARIABLE, load
from marketd.daemon.control_server import ControlServer
from marketd.daemon.database import DatabaseKeeper, Postgres, type_prepare
from marketd.daemon.fleet import Fleet
from marketd.daemon.http import HttpServer
from marketd.daemon.keeper import clean_environment
from marketd.daemon.lifeline import wait_for_orphans
from marketd.daemon.notify import Notifier
from marketd.daemon.reload import changes
from marketd.daemon.runtime import RuntimeDirectory
from marketd.daemon.settings import Config
from marketd.daemon.tasks import Tasks
from marketd.ipc import protocol
from marketd.ipc.protocol import Done, Message, Reload, Status, StatusReport, Stop
from marketd.market.errors import ConfigError, MarketdError

logger = logging.getLogger(__name__)

EXIT_CLEAN = 0
EXIT_GAVE_UP = 1
EXIT_CONFIG = 78
RELOAD_SECONDS = 30.0  # an actor's share of a reload; a feed may have to ask its venue
DATABASE_VARIABLE = "MARKETD_DATABASE__URL"


def run_supervisor(
    config: Config,
    file: Path | None,
    overrides: Sequence[str] = (),
    *,
    postgres: Postgres | None = None,
    prepare: type_prepare | None = None,
    command: plan.type_command = plan.actor_command,
) -> int:
    """The whole life of a daemon in this process; its exit code.

    `file` and `overrides` are what `config` was loaded from. `postgres` is started when given, and its DSN
    reaches the actors as their `database.url`; `prepare(dsn)` applies the schema. `command` says how an actor
    is called.
    """
    logs.setup("supervisor", config.log.level, config.log.format)
    os.umask(0o027)  # readers are in the group
    try:
        check_api_keys(config)
        database = DatabaseKeeper(config.database.url, postgres, prepare, config.supervisor)
        return asyncio.run(Supervisor(config, file, overrides, database, command).run())
    except Exception as error:  # the supervision border: nobody is above us but systemd
        return _exit_code(error)


def _exit_code(error: BaseException) -> int:
    trace = None if isinstance(error, MarketdError) else error  # ours say everything in their sentence
    logger.critical("marketd gives up: %s", error, exc_info=trace, extra={"action": "supervisor_failed"})
    return EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_GAVE_UP


class Supervisor:
    """One daemon. `run` is its whole life."""

    def __init__(
        self,
        config: Config,
        file: Path | None,
        overrides: Sequence[str],
        database: DatabaseKeeper,
        command: plan.type_command,
    ) -> None:
        self._config = config
        self._file = file
        self._overrides = tuple(overrides)
        self._database = database
        self._command = command
        self._runtime = RuntimeDirectory(config.runtime_path)
        self._notifier = Notifier()
        self._state = "starting"
        self._started_ns = time.time_ns()
        self._over = asyncio.Event()  # asked to stop, or failed
        self._hurry = asyncio.Event()  # asked twice
        self._failure: BaseException | None = None
        self._reloading = asyncio.Lock()
        self._tasks = Tasks(self._fail)
        self._http: HttpServer | None = None
        self._feed_problems: list[str] = []

    async def run(self) -> int:
        """Until asked to stop or failed, and drained; the exit code. Raises what forbids to begin at all."""
        self._runtime.hold()
        try:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._asked_to_stop, f"received {number.name}")
            loop.add_signal_handler(signal.SIGHUP, self._hung_up)
            await asyncio.to_thread(wait_for_orphans, self._runtime.path, self._config.supervisor.start_timeout.seconds)
            self._open()
            try:
                self._tasks.run(self._start(), name="start")
                await self._over.wait()
            finally:
                await self._end()
        finally:
            self._runtime.let_go()
        return EXIT_CLEAN if self._failure is None else _exit_code(self._failure)

    # ---- start ----------------------------------------------------------------------------------

    def _open(self) -> None:
        self._runtime.keep_config(self._file)
        self._control = ControlServer(self._runtime.path, self._heard, self._serve)
        self._tasks.watch(self._control.task)
        self._fleet = Fleet(self._command_of, self._environment, self._control.send, self._tasks)
        address = self._config.http.address
        if address is not None:
            self._http = HttpServer(address, self._metrics, self._health)
        if self._notifier.watchdog_seconds is not None:
            self._tasks.run(self._feed_watchdog(self._notifier.watchdog_seconds), name="watchdog")
        self._become("starting")
        logger.info(
            "marketd %s starts instance %s in %s",
            __version__,
            self._config.instance,
            self._runtime.path,
            extra={"action": "daemon_starting"},
        )

    async def _start(self) -> None:
        await self._database.start()
        self._tasks.run(self._database.watch(), name="database")
        self._tasks.run(self._watch_feeds(), name="feeds' problems")
        await self._fleet.start(plan.actors(self._config), self._config.supervisor)
        self._become("live")
        self._notifier.ready(self._status_line())
        seconds = (time.time_ns() - self._started_ns) / 1e9
        logger.info("%s after %.1f s", self._status_line(), seconds, extra={"action": "daemon_live"})

    def _command_of(self, name: str) -> Sequence[str]:
        return self._command(name, self._runtime.config_copy, self._overrides)

    def _environment(self, name: str) -> dict[str, str]:
        """An actor's variables; they hold the DSN, because a command line is everybody's to read."""
        environment = clean_environment() | {SUPERVISOR_VARIABLE: str(os.getpid())}
        if self._database.embedded:
            environment[DATABASE_VARIABLE] = self._database.dsn_for(name)
        return environment

    # ---- end ------------------------------------------------------------------------------------

    async def _end(self) -> None:
        began = time.monotonic()
        deadline = began + self._config.supervisor.drain_timeout.seconds
        self._notifier.stopping("draining")
        self._become("stopping")
        await self._tasks.cancel(but="watchdog")
        killed = await self._drain(deadline)
        await self._database.stop(deadline)
        await self._control.close()
        if self._http is not None:
            await asyncio.to_thread(self._http.close)
        await self._tasks.cancel()
        self._become("stopped" if self._failure is None else "failed")
        self._notifier.close()
        logger.info(
            "ended after %.1f s of draining; %s",
            time.monotonic() - began,
            f"{len(killed)} killed: {', '.join(killed)}" if killed else "every actor ended by itself",
            extra={"action": "daemon_ended", "killed": len(killed)},
        )

    async def _drain(self, deadline: float) -> list[str]:
        drain = asyncio.create_task(self._fleet.drain(deadline), name="drain")
        hurry = asyncio.create_task(self._hurry.wait(), name="hurry")
        await asyncio.wait({drain, hurry}, return_when=asyncio.FIRST_COMPLETED)
        if not drain.done():
            logger.warning("asked to stop twice: every actor is killed", extra={"action": "daemon_hurry"})
            self._fleet.kill()
        hurry.cancel()
        return await drain

    def _asked_to_stop(self, reason: str) -> None:
        logger.info("stopping: %s", reason, extra={"action": "daemon_stopping"})
        if self._over.is_set():
            self._hurry.set()
        self._over.set()

    def _fail(self, error: BaseException) -> None:
        if self._failure is None and not self._over.is_set():
            logger.critical("stopping everything: %s", error, extra={"action": "daemon_failed"})
            self._failure = error
        self._over.set()

    # ---- operators ------------------------------------------------------------------------------

    async def _serve(self, request: Status | Reload | Stop) -> Message:
        if isinstance(request, Status):
            return self._report()
        if isinstance(request, Reload):
            return Done(detail=await self._reload())
        self._asked_to_stop("an operator asks")
        return Done(detail="draining")

    def _hung_up(self) -> None:
        self._tasks.run(self._reload_for_a_signal(), name="reload")

    async def _reload_for_a_signal(self) -> None:
        try:
            await self._reload()
        except MarketdError as error:
            logger.error("the reload was refused: %s", error, extra={"action": "reload_refused"})

    async def _reload(self) -> str:
        """Take over the file; what changed. ConfigError when it is refused, by us or by an actor, as a whole."""
        if self._state != "live":
            raise ConfigError(f"the daemon is {self._state}; a reload needs a live one")
        async with self._reloading:
            self._notifier.reloading()
            try:
                return await self._take_over()
            finally:
                self._notifier.ready(self._status_line())

    async def _take_over(self) -> str:
        new = load(self._file, overrides=self._overrides) if self._file is not None else self._config
        found = changes(self._config, new)
        if found.needs_restart:
            raise ConfigError(
                f"{', '.join(found.needs_restart)}: cannot change in a running daemon; restart it, or change it back",
                field=found.needs_restart[0],
            )
        check_api_keys(new)
        await self._offer(new)
        self._config = new
        self._announce()
        self._database.use(new.supervisor)
        logs.set_level(new.log.level)
        await self._fleet.change(new)
        detail = ", ".join(found.reloadable) or "nothing changed"
        logger.info("took over the new configuration: %s", detail, extra={"action": "daemon_reloaded"})
        return detail

    async def _offer(self, new: Config) -> None:
        """Hand the file to the actors; ConfigError when one refuses it: then all have the configuration before it."""
        before = self._runtime.config_copy.read_bytes()
        self._runtime.keep_config(self._file)
        refusals = await self._fleet.offer(new, RELOAD_SECONDS)
        if not refusals:
            return
        self._runtime.take_config_back(before)
        lost = await self._fleet.take_back(RELOAD_SECONDS)
        also = f"; but not all went back to the configuration before it: {'; '.join(lost)}" if lost else ""
        raise ConfigError(f"nothing has changed, because {'; '.join(refusals)}{also}")

    # ---- what it shows --------------------------------------------------------------------------

    def _report(self) -> StatusReport:
        """May be called from any thread."""
        actors = self._fleet.reports()
        health, problems = verdict.judge(self._state, actors, self._database.problem)
        return StatusReport(
            instance=self._config.instance,
            daemon_no=self._config.daemon_no,
            version=__version__,
            pid=os.getpid(),
            state=self._state,
            health=health,
            started_ns=self._started_ns,
            runtime_dir=str(self._runtime.path),
            state_dir=str(self._config.state_path),
            http=self._http.url if self._http is not None else None,
            actors=actors,
            problems=problems,
        )

    def _health(self) -> dict[str, Any]:
        report = self._report()
        shown = ("state", "instance", "version", "pid", "problems")
        return {
            "status": report.health,
            **{name: getattr(report, name) for name in shown},
            "actors": {actor.name: actor.state for actor in report.actors},
        }

    def _metrics(self) -> bytes:
        return metrics.merge({"supervisor": metrics.exposition(), **self._fleet.expositions()})

    def _status_line(self) -> str:
        report = self._report()
        return f"{report.health}: {len(report.actors)} actors" + "".join(f"; {each}" for each in report.problems)

    def _become(self, state: str) -> None:
        self._state = state
        self._announce()

    def _announce(self) -> None:
        try:
            if self._state == "stopped":
                self._runtime.forget()
            else:
                self._runtime.describe(self._config, self._details())
        except OSError as error:  # clients lose sight of us; that is no reason to leave the actors undrained
            logger.error("daemon.json cannot be written: %s", error, extra={"action": "description_failed"})

    def _details(self) -> dict[str, Any]:
        """For people and scripts."""
        return {
            "protocol": protocol.VERSION,
            "state": self._state,
            "started_ns": self._started_ns,
            "runtime_dir": str(self._runtime.path),
            "state_dir": str(self._config.state_path),
            "sockets": self._runtime.socket_urls,
            "http": self._http.url if self._http is not None else None,
            "feed_problems": self._feed_problems,
        }

    # ---- tasks ----------------------------------------------------------------------------------

    def _heard(self, name: str, message: Any) -> None:
        self._fleet.heard(name, message)

    async def _watch_feeds(self) -> None:
        """What they do not get stands in `daemon.json`: query actors tell it in `health()` without asking us."""
        while True:
            problems = verdict.feed_problems(self._fleet.reports())
            if problems != self._feed_problems:
                self._feed_problems = problems
                self._announce()
            await asyncio.sleep(self._config.supervisor.ping_interval.seconds)

    async def _feed_watchdog(self, interval_seconds: float) -> None:
        """From the loop that also starts and pings actors: when this stands still, systemd shall know."""
        while True:
            self._notifier.watchdog()
            self._notifier.status(self._status_line())
            await asyncio.sleep(interval_seconds)
