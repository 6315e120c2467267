"""Whole daemons for the tests: the real `marketd run` against the real `marketd emulate`, each a process of its own.

    with Exchange(files, speed="max") as exchange, DaemonUnderTest(place, exchange.venue()) as daemon:
        daemon.until_live()
        eventually(lambda: daemon.count("trades") == …)

A `Place` is what outlives a daemon: state directory, runtime directory, configuration, log. It lies where the
database's unprivileged user can reach it, which pytest's own temporary directories, for root, are not.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from marketd.daemon import config as configuration
from marketd.daemon import operator
from marketd.daemon.lifeline import wait_for_orphans
from marketd.daemon.runtime import is_held
from marketd.ipc.arena_reader import ArenaReader
from marketd.ipc.paths import arena_path
from marketd.ipc.protocol import ActorReport, StatusReport
from marketd.market.errors import MarketdError
from marketd.ops.databases import database_dsn, run_in_database, running_embedded_dsn
from marketd.sql.postmaster import server_processes
from marketd.sql.state_directory import StateDirectory
from support import eventually

MARKETD = [sys.executable, "-m", "marketd.ops"]
START_SECONDS = 60.0
ORPHAN_SECONDS = 20.0
_numbers = itertools.count(1)

CONFIG = """
instance = "{instance}"
runtime_dir = "{runtime}"
state_dir = "{state}"
[http]
listen = ""
[supervisor]
ping_interval = "200ms"
restart_backoff = "20ms"
crash_limit = 50
[embedded.settings]
shared_buffers = "64MB"
[cache]
window = "1min"
"""


class Place:
    """State, runtime directory, configuration and log of one daemon, over all its lives."""

    def __init__(self, text: str = "", state: Path | None = None) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="marketd-test-"))
        self.home.chmod(0o711)
        self.instance = f"test-{os.getpid()}-d{next(_numbers)}"
        self.runtime = Path("/dev/shm") / f"marketd-{self.instance}"
        self.state = state or self.home / "state"
        self.config = self.home / "marketd.toml"
        self.log = self.home / "log"
        self.text = text

    def configure(self, text: str) -> None:
        head = CONFIG.format(instance=self.instance, runtime=self.runtime, state=self.state)
        self.config.write_text(_merged(head + self.text + text))

    def command(self, *arguments: str) -> list[str]:
        return [*MARKETD, *arguments, "--config", str(self.config)]

    def json(self, *arguments: str) -> Any:
        """What a verb answers with --json."""
        done = subprocess.run(
            self.command(*arguments, "--json"), capture_output=True, text=True, check=False, timeout=100
        )
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return json.loads(done.stdout)

    @property
    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def remove(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.rmtree(self.runtime, ignore_errors=True)

    # ---- the database -------------------------------------------------------------------------

    @property
    def postgres_pids(self) -> list[int]:
        """The embedded server's processes, the postmaster and all its children."""
        masters = [int(pid) for pid in server_processes(StateDirectory(self.state).data)]
        return [*masters, *(child for master in masters for child in _children(master))]

    @property
    def postmaster(self) -> int:
        lines = (StateDirectory(self.state).data / "postmaster.pid").read_text().splitlines()
        return int(lines[0])

    def rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        dsn = running_embedded_dsn(self.state)
        assert dsn is not None, f"PostgreSQL does not run: {self.said}"

        async def fetch(connection: Any) -> list[tuple[Any, ...]]:
            return [tuple(row) for row in await connection.fetch(query, *arguments)]

        return run_in_database(dsn, fetch)

    @contextlib.contextmanager
    def stopped_database(self) -> Iterator[None]:
        """The embedded server for a while, where no daemon runs it."""
        with database_dsn(configuration.load(self.config)):
            yield


class DaemonUnderTest:
    """One life of a daemon: `marketd run`. A context manager that leaves nothing running."""

    def __init__(self, place: Place, venue: str = "") -> None:
        self.place = place
        place.configure(venue)
        with place.log.open("ab") as log:
            self.process = subprocess.Popen(place.command("run"), stderr=log, stdout=log, stdin=subprocess.DEVNULL)

    def until_live(self) -> DaemonUnderTest:
        def live() -> bool:
            assert self.process.poll() is None, self.place.said
            with contextlib.suppress(MarketdError):
                report = self.status()
                return report.state == "live" and all(actor.state == "live" for actor in report.actors)
            return False

        eventually(live, timeout=START_SECONDS)
        return self

    # ---- looking ------------------------------------------------------------------------------

    def status(self) -> StatusReport:
        return operator.status(self.place.runtime)

    def actor(self, name: str) -> ActorReport:
        return next(actor for actor in self.status().actors if actor.name == name)

    def statistics(self, actor: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.actor(actor).statistics.get(name, {})
        return found

    def statistics_of_now(self, actor: str, name: str) -> dict[str, Any]:
        """What an actor has said after the call; `statistics` may be as old as the supervisor's last question."""
        called = time.monotonic()

        def said() -> dict[str, Any] | None:
            since = time.monotonic() - called
            report = self.actor(actor)
            return (
                report.statistics[name] if report.heard_seconds is not None and report.heard_seconds < since else None
            )

        return cast("dict[str, Any]", eventually(said))

    def arena(self, symbol: str, venue: str = "BINANCE") -> ArenaReader:
        return ArenaReader.open(arena_path(self.place.runtime, f"{symbol}.{venue}"))

    def newest_trade(self, symbol: str) -> int:
        """Its id; 0 before the first."""
        with contextlib.suppress(MarketdError), self.arena(symbol) as arena:
            trades, _ = arena.last("trade", 1)
            return int(trades["trade_id"][0]) if len(trades) else 0
        return 0

    def until_trade(self, symbol: str, trade_id: int) -> None:
        """Until readers see a trade at or after this one."""
        eventually(lambda: self.newest_trade(symbol) >= trade_id, timeout=START_SECONDS)

    def rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        return self.place.rows(query, *arguments)

    def count(self, table: str) -> int:
        return int(self.rows(f"SELECT count(*) FROM {table}")[0][0])

    # ---- harm ---------------------------------------------------------------------------------

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to an actor; its process id."""
        pid = self.actor(name).pid or 0
        os.kill(pid, number)
        return pid

    def flusher(self) -> int:
        """The process that puts ingest's journal on disk."""
        pid = self.actor("ingest").pid
        (found,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(found)

    def until_replaced(self, name: str, pid: int) -> None:
        def replaced() -> bool:
            with contextlib.suppress(MarketdError):
                actor = self.actor(name)
                return actor.pid not in (None, pid) and actor.state == "live"
            return False

        eventually(replaced, timeout=START_SECONDS)

    def die(self) -> None:
        """SIGKILL for the supervisor."""
        self.process.kill()
        self.process.wait()

    # ---- the end ------------------------------------------------------------------------------

    def stop(self) -> None:
        """An orderly end."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=START_SECONDS) == 0, self.place.said

    def __enter__(self) -> DaemonUnderTest:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self.process.poll() is None and kind is None:
            self.stop()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.returncode != 0:
            wait_for_orphans(self.place.runtime, ORPHAN_SECONDS)
            for pid in self.place.postgres_pids:
                with contextlib.suppress(ProcessLookupError):
                    # an immediate shutdown, for the postmaster and whoever it has lost; SIGKILL leaves shared memory
                    os.kill(pid, signal.SIGCONT)
                    os.kill(pid, signal.SIGQUIT)
            eventually(lambda: not self.place.postgres_pids)
        assert not is_held(self.place.runtime)


class Exchange:
    """`marketd emulate` of recordings, or of a synthetic market's symbols. A context manager."""

    def __init__(
        self,
        captures: Sequence[Path] = (),
        *,
        synthetic: Sequence[str] = (),
        speed: str = "max",
        port: int = 0,
        venue: str = "BINANCE",
    ) -> None:
        options = ["--speed", speed, "--port", str(port), "--venue", venue, "--json"]
        market = ["--synthetic", "--symbols", ",".join(synthetic)] if synthetic else list(map(str, captures))
        command = [*MARKETD, "emulate", *market, *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        self.introduction: dict[str, Any] = json.loads(self.process.stdout.readline())

    def venue(self, symbols: Sequence[str] = (), **settings: Any) -> str:
        """What points a daemon here, as TOML."""
        values = {
            "symbols": list(symbols or self.introduction["symbols"]),
            "ws_url": self.introduction["ws_url"],
            "rest_url": self.introduction["rest_url"],
            "reconnect_min": "20ms",
            "reconnect_max": "200ms",
            **settings,
        }
        lines = [f"{name} = {json.dumps(value)}\n" for name, value in values.items()]
        return f"[venues.{self.introduction['venue']}]\n{''.join(lines)}"

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=20)
        assert self.process.stdout is not None
        self.process.stdout.close()


def _children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _merged(text: str) -> str:
    """TOML with each table once: settings of a table that comes again go to its first place."""
    tables: dict[str, list[str]] = {"": []}
    name = ""
    for line in text.splitlines():
        if line.startswith("["):
            name = line.strip()
            tables.setdefault(name, [])
        else:
            key = line.partition("=")[0].strip()
            tables[name] = [kept for kept in tables[name] if kept.partition("=")[0].strip() != key]
            tables[name].append(line)
    return "\n".join("\n".join([name, *lines]) for name, lines in tables.items()) + "\n"
