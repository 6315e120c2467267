"""A primary and a streaming standby of it, as a hot copy in the same directory: real replication, real promotion."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg

from marketd.sql import launch
from marketd.sql.embedded import EmbeddedPostgres
from marketd.sql.identity import choose_identity
from support import eventually_async


class Standby:
    """A hot standby of `primary`, below `directory`."""

    def __init__(self, primary: EmbeddedPostgres, directory: Path) -> None:
        assert primary.installation is not None
        self._installation = primary.installation
        self._primary = primary
        self._data = directory / "data"
        self._socket = directory
        self._identity = choose_identity(None, None)
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(mode=0o700)
        os.chown(directory, self._identity.uid, self._identity.gid)

    @property
    def dsn(self) -> str:
        return f"postgresql://marketd@/marketd?host={self._socket}"

    async def start(self) -> None:
        """A base backup, and the server on it."""
        host = parse_qs(urlsplit(self._primary.dsn).query)["host"][0]
        backup = [
            "pg_basebackup",
            "-h",
            host,
            "-U",
            "marketd",
            "-D",
            str(self._data),
            "-R",
            "-c",
            "fast",
            "-X",
            "stream",
        ]
        assert await asyncio.to_thread(self._spawn(*backup).wait) == 0
        self.start_again()
        await eventually_async(self.answers)

    def start_again(self) -> None:
        options = {
            "config_file": self._primary_configuration(),
            "hba_file": str(self._primary_configuration()).replace("postgresql.conf", "pg_hba.conf"),
            "unix_socket_directories": self._socket,
            "logging_collector": "off",
        }
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        self._process = self._spawn("postgres", "-D", str(self._data), *settings)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    async def answers(self) -> bool:
        try:
            conn = await asyncpg.connect(self.dsn)
        except (asyncpg.PostgresError, OSError):
            return False
        await conn.close()
        return True

    async def execute(self, statement: str) -> None:
        conn = await asyncpg.connect(self.dsn)
        await conn.execute(statement)
        await conn.close()

    def _primary_configuration(self) -> Path:
        return self._primary.data_dir.parent / "postgresql.conf"

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """As the unprivileged user, when we are root: PostgreSQL refuses to run as root."""
        identity = self._identity
        groups = ",".join(map(str, identity.groups))
        shim = [sys.executable, "-I", "-S", launch.__file__, str(identity.uid), str(identity.gid), groups]
        command = [str(self._installation.program(program)), *arguments]
        return subprocess.Popen(
            [*shim, str(int(signal.SIGINT)), str(os.getpid()), *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            cwd=self._socket, env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        )  # fmt: skip


@asynccontextmanager
async def pair(primary: EmbeddedPostgres, directory: Path) -> AsyncIterator[Standby]:
    standby = Standby(primary, directory)
    try:
        await standby.start()
        yield standby
    finally:
        standby.stop()


def both(primary: EmbeddedPostgres, standby: Standby) -> str:
    """A DSN that names the two hosts, the primary first."""
    hosts = ",".join(parse_qs(urlsplit(dsn).query)["host"][0] for dsn in (primary.dsn, standby.dsn))
    return f"postgresql://marketd@/marketd?host={hosts}"
