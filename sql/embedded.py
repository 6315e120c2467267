"""The PostgreSQL that marketd runs itself when no `database.url` is configured.

A child of marketd in a session of its own: Ctrl-C in a terminal does not reach it, and so does not end it
before the writer has drained; but when marketd dies, however it dies, the kernel tells the server to shut
down (fast, with a checkpoint). The next `start` waits for that end, or ends a server that was left over,
and starts its own: restart is the ordinary start. Durable, on a Unix socket that only its owner and root
can reach.

`start` and `stop` are coroutines that wait by looking; call `start` on the main thread, because the kernel
ties the death signal to the *thread* that started the server.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from marketd.sql import provision, server_process
from marketd.sql.errors import EmbeddedStartFailed
from marketd.sql.identity import Identity, choose_identity
from marketd.sql.installations import Installation, choose_installation, find_installations
from marketd.sql.server_settings import (
    default_settings,
    merge_settings,
    parse_listen,
    render_access,
    render_configuration,
    type_setting,
)
from marketd.sql.state_directory import StateDirectory, write_file

logger = logging.getLogger(__name__)

DATABASE = "marketd"
SUPERUSER = "marketd"
_QUIT_PATIENCE_SECONDS = 5  # SIGQUIT is PostgreSQL's immediate shutdown


class EmbeddedStatus(NamedTuple):
    """What `marketd status` and the health page show."""

    state: str  # "stopped" | "starting" | "ready" | "stopping" | "died"
    pid: int | None
    version: str
    has_timescale: bool
    timescale_version: str
    bin_dir: str
    data_dir: str
    system_user: str
    dsn: str
    starts: int
    start_seconds: float  # how long the last start took


class EmbeddedPostgres:
    """One server for one state directory."""

    def __init__(
        self,
        state_dir: Path,
        *,
        user: str | None = None,
        listen: str | None = None,
        settings: Mapping[str, type_setting] | None = None,
        socket_dir: Path | None = None,
        installation: Installation | None = None,
    ) -> None:
        """`user`: the system user when marketd is root. `listen`: host:port to open TCP on, for
        `marketd_reader` alone. `settings`: postgresql.conf settings over ours. `socket_dir`: a short
        directory for the socket where the path of `state_dir` is too long. `installation`: this one and no
        other."""
        self._user = user or None
        self._listen = parse_listen(listen)
        self._settings = dict(settings or {})
        merge_settings({}, self._settings)  # refuse early what we would refuse at start
        self._socket_dir = socket_dir
        self._wanted = installation
        self._directory = StateDirectory(state_dir)
        self._installation: Installation | None = None
        self._identity: Identity | None = None
        self._socket: Path | None = None
        self._process: server_process.type_process | None = None
        self._state = "stopped"
        self._starts = 0
        self._start_seconds = 0.0

    @property
    def dsn(self) -> str:
        """How to connect, for asyncpg, psql and libpq alike; known once started."""
        return self._dsn_of(DATABASE)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self.is_alive() else None

    @property
    def data_dir(self) -> Path:
        return self._directory.data

    @property
    def installation(self) -> Installation | None:
        return self._installation

    @property
    def status(self) -> EmbeddedStatus:
        state = "died" if self._state == "ready" and not self.is_alive() else self._state
        found = self._installation or Installation("", Path(), False)
        return EmbeddedStatus(
            state,
            self.pid,
            found.version,
            found.has_timescale,
            found.timescale_version,
            str(found.bin_dir) if self._installation else "",
            str(self._directory.data),
            self._identity.name if self._identity else "",
            self.dsn if self._socket else "",
            self._starts,
            self._start_seconds,
        )

    def is_alive(self) -> bool:
        """Whether the server process runs; whether it answers is the connections' health check."""
        return self._process is not None and self._process.poll() is None

    async def start(self, timeout_seconds: float = 300.0) -> str:
        """Start the server, or start it again after it died; its DSN once it accepts connections.

        The budget covers a crash recovery. Raises an EmbeddedError, and then nothing is left running.
        """
        if self.is_alive():
            return self.dsn
        began = time.monotonic()
        deadline = began + timeout_seconds
        self._state = "starting"
        try:
            await self._start(deadline)
        except BaseException:
            await self._abandon()
            raise
        self._state = "ready"
        self._starts += 1
        self._start_seconds = time.monotonic() - began
        logger.info(
            "embedded PostgreSQL %s is ready after %.2f s",
            self.status.version,
            self._start_seconds,
            extra={"action": "embedded_ready", "pid": self.pid, "seconds": self._start_seconds},
        )
        return self.dsn

    async def stop(self, *, fast: bool = True, timeout_seconds: float = 60.0) -> None:
        """Shut down with a checkpoint. `fast` ends open sessions, else they may finish within half of the
        budget. A server that does not end in time is made to quit at once; its next start then recovers."""
        self._state = "stopping"
        if not fast:
            await self._signal_and_wait(signal.SIGTERM, timeout_seconds / 2)
        await self._signal_and_wait(signal.SIGINT, timeout_seconds)
        if self.is_alive():
            logger.warning(
                "embedded PostgreSQL did not shut down within %.0f s and is made to quit; its next start recovers it",
                timeout_seconds,
                extra={"action": "embedded_quit", "pid": self.pid},
            )
            await self._signal_and_wait(signal.SIGQUIT, _QUIT_PATIENCE_SECONDS)
        await self._abandon()

    async def _start(self, deadline: float) -> None:
        directory = self._directory
        identity = self._identity = choose_identity(self._user, directory.owner_uid)
        directory.prepare(identity)
        directory.lock()
        chosen = await asyncio.to_thread(self._choose_installation)
        runnable = await asyncio.to_thread(directory.reachable_installation, chosen, identity)
        self._installation = runnable
        self._socket = directory.socket_directory(identity, self._socket_dir)
        await server_process.end_leftovers(directory, self._socket, deadline)
        if not directory.exists:
            await server_process.make_data(directory, runnable, identity, SUPERUSER)
            directory.remember(chosen)
        self._write_configuration(runnable)
        self._process = server_process.start_server(directory, runnable, identity)
        await server_process.wait_until_ready(directory, self._process, deadline)
        before = directory.remembered().get("timescale", "")
        await provision.prepare_database(
            self._dsn_of("postgres"),
            self.dsn,
            update_timescale=bool(before) and before != chosen.timescale_version,
            reader_password_file=directory.reader_password if self._listen.host else None,
        )
        directory.remember(chosen)

    def _choose_installation(self) -> Installation:
        facts = self._directory.remembered()
        chosen = choose_installation(
            [self._wanted] if self._wanted else find_installations(),
            major=self._directory.major,
            needs_timescale=bool(facts.get("timescale")),
            last_bin_dir=Path(facts["bin_dir"]) if facts else None,
        )
        if facts and not facts.get("timescale"):
            # made without: the schema is native partitions, and stays so
            return chosen._replace(has_timescale=False, timescale_version="")
        return chosen

    def _write_configuration(self, installation: Installation) -> None:
        directory = self._directory
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        defaults = default_settings(memory, os.cpu_count() or 1, timescale=installation.has_timescale)
        own: dict[str, type_setting] = {
            "listen_addresses": self._listen.host,
            "port": self._listen.port,
            "unix_socket_directories": str(self._socket),
            "hba_file": str(directory.access),
            "logging_collector": True,
            "log_directory": str(directory.log),
        }
        text = render_configuration({**merge_settings(defaults, self._settings), **own})
        write_file(directory.configuration, text, 0o644)
        write_file(directory.access, render_access(self._listen, DATABASE), 0o644)

    async def _signal_and_wait(self, number: signal.Signals, budget_seconds: float) -> None:
        if self._process is not None:
            await server_process.signal_and_wait(self._process, number, budget_seconds)

    async def _abandon(self) -> None:
        """After a stop or a failed start: nothing runs, nothing is held."""
        if self.is_alive():
            await self._signal_and_wait(signal.SIGQUIT, _QUIT_PATIENCE_SECONDS)
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._process = None
        self._directory.unlock()
        self._state = "stopped"

    def _dsn_of(self, database: str) -> str:
        if self._socket is None:
            raise EmbeddedStartFailed("the embedded PostgreSQL was not started yet")
        socket = quote(str(self._socket), safe="")
        return f"postgresql://{SUPERUSER}@/{database}?host={socket}&port={self._listen.port}"
