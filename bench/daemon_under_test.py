"""A whole daemon of its own for one benchmark: supervisor, ingest, writer, query and an embedded PostgreSQL.

It is started as a user starts it (`marketd run --config …`), on a disk (not a tmpfs), with the defaults of
marketd.toml, and nothing of it is left afterwards.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from marketd.daemon import operator
from marketd.ipc.protocol import StatusReport
from marketd.market.errors import MarketdError
from marketd.ops.databases import running_embedded_dsn
from marketd.sql.embedded import EmbeddedPostgres
from marketd.sql.installations import find_installations
from marketd.sql.profiles import Profile
from marketd.sql.state_directory import StateDirectory

MARKETD = [sys.executable, "-m", "marketd.ops"]
START_SECONDS = 300.0  # a change of the schema may wait for jobs that sum up a week
STOP_SECONDS = 60.0
COMMIT_SECONDS = 120.0
POLL_SECONDS = 0.05


class DaemonUnderTest:
    """A running daemon: where it is, its processes, its database."""

    def __init__(self, home: Path, runtime_dir: Path, process: subprocess.Popen[bytes]) -> None:
        self.home = home
        self.runtime_dir = runtime_dir
        self.process = process

    @property
    def config(self) -> Path:
        return self.home / "marketd.toml"

    @property
    def dsn(self) -> str:
        found = running_embedded_dsn(self.home / "state")
        if found is None:
            raise RuntimeError(f"the embedded PostgreSQL does not run; see {self.home / 'log'}")
        return found

    def status(self) -> StatusReport:
        return operator.status(self.runtime_dir, 5.0)

    def pids(self) -> dict[str, int]:
        """Process ids of the actors, by name, and of ingest's flusher."""
        found = {actor.name: actor.pid for actor in self.status().actors if actor.pid is not None}
        (flusher,) = psutil.Process(found["ingest"]).children()
        return {**found, "flusher": flusher.pid}

    def is_live(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"the daemon ended: {(self.home / 'log').read_text()[-2000:]}")
        try:
            actors = self.status().actors
        except MarketdError:
            return False
        return len(actors) >= 3 and all(actor.state == "live" for actor in actors)


@contextmanager
def daemon_under_test(
    settings: str = "", profile: Profile | None = None, *, state: Path | None = None, leave: Path | None = None
) -> Iterator[DaemonUnderTest]:
    """Start one, wait until it is live, stop and remove it. `settings`: further lines of its configuration.

    profile: the same PostgreSQL for both, with TimescaleDB or without; None: as marketd chooses. state: what an earlier
    one left; it is copied. leave: where to leave its state when it was stopped in an orderly way.
    """
    home = Path(tempfile.mkdtemp(prefix="marketd-bench-", dir=os.environ.get("MARKETD_BENCH_DIR", "/var/tmp")))
    home.chmod(0o711)  # for root the database runs as another user, who must pass
    runtime_dir = Path("/dev/shm") / home.name
    if state is not None:
        subprocess.run(["cp", "-a", "--reflink=auto", str(state), str(home / "state")], check=True)
    elif profile is Profile.POSTGRES:
        asyncio.run(_make_plain_database(home / "state"))
    config = home / "marketd.toml"
    config.write_text(
        f'instance = "bench"\nstate_dir = "{home / "state"}"\nruntime_dir = "{runtime_dir}"\n'
        f'[http]\nlisten = ""\n{settings}'
    )
    try:
        with (home / "log").open("wb") as log:
            process = subprocess.Popen([*MARKETD, "run", "--config", str(config)], stderr=log)
        daemon = DaemonUnderTest(home, runtime_dir, process)
        try:
            wait_for(daemon.is_live, START_SECONDS, "the daemon to be live")
            yield daemon
        finally:
            process.terminate()
            process.wait(timeout=STOP_SECONDS)
        if leave is not None:
            (home / "state").rename(leave)
    finally:
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(runtime_dir, ignore_errors=True)


async def _make_plain_database(state_dir: Path) -> None:
    """A data directory that was made without TimescaleDB stays without."""
    best = find_installations()[0]
    postgres = EmbeddedPostgres(state_dir, installation=best._replace(has_timescale=False, timescale_version=""))
    await postgres.start()
    await postgres.stop()


def profiles() -> list[Profile]:
    """Those that this machine can run."""
    return list(Profile) if find_installations()[0].has_timescale else [Profile.POSTGRES]


def wait_for(check: object, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not check():  # type: ignore[operator]
        if time.monotonic() >= deadline:
            raise RuntimeError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(POLL_SECONDS)


class CpuMeter:
    """Who uses the processor from now on: in cores, by process; `others` is everything that is not the benchmark's."""

    def __init__(self, daemon: DaemonUnderTest) -> None:
        self._daemon = daemon
        self._pids = daemon.pids()
        self._used, self._busy, self._at = self._processes(), _busy_seconds(), time.monotonic()

    def read(self, producer_seconds: float) -> dict[str, float]:
        seconds = time.monotonic() - self._at
        used = {name: after - self._used[name] for name, after in self._processes().items()}
        used["producer"] = producer_seconds
        used["others"] = max(0.0, _busy_seconds() - self._busy - sum(used.values()))
        return {name: round(each / seconds, 2) for name, each in used.items()}

    def _processes(self) -> dict[str, float]:
        used = {name: sum(psutil.Process(pid).cpu_times()[:2]) for name, pid in self._pids.items()}
        return used | {"postgres": _postgres_seconds(self._daemon.home)}


def _busy_seconds() -> float:
    """Of all cores together, time that a hypervisor took away included."""
    times = psutil.cpu_times()
    return sum(times[:9]) - times.idle - times.iowait


def _postgres_seconds(home: Path) -> float:
    """The server counts what its ended children used, too."""
    pid = int((StateDirectory(home / "state").data / "postmaster.pid").read_text().split()[0])
    server = psutil.Process(pid)
    return sum(server.cpu_times()[:4]) + sum(sum(child.cpu_times()[:2]) for child in server.children(recursive=True))
