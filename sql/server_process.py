"""Starting PostgreSQL's programs as the right user, waiting for them, and ending what an earlier marketd left over.

Waiting is looking: PostgreSQL tells its state in files, and a child's end shows in `poll`; so nothing here is bound to
an event loop or needs a child watcher.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from marketd.sql import launch
from marketd.sql.errors import EmbeddedStartFailed
from marketd.sql.identity import Identity
from marketd.sql.installations import Installation
from marketd.sql.postmaster import READY, read_postmaster_file, remove_stale_files, server_processes
from marketd.sql.state_directory import StateDirectory

logger = logging.getLogger(__name__)

type_process = subprocess.Popen[bytes]
_POLL_SECONDS = 0.01
_INITDB_TIMEOUT_SECONDS = 120
_SHUTDOWN_PATIENCE_SECONDS = 60  # for the checkpoint of a server that was left over
_ORPHAN_PATIENCE_SECONDS = 5  # for backends without a postmaster to notice
_LOG_TAIL_LINES = 12


async def until(condition: Callable[[], bool], deadline: float) -> bool:
    """Whether `condition` came true before the deadline (monotonic)."""
    while not condition():
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True


async def signal_and_wait(process: type_process, number: signal.Signals, budget_seconds: float) -> None:
    """Send a signal and give the process that long to end."""
    if process.poll() is None:
        process.send_signal(number)
        await until(lambda: process.poll() is not None, time.monotonic() + budget_seconds)


async def make_data(directory: StateDirectory, installation: Installation, identity: Identity, superuser: str) -> None:
    """initdb, all or nothing."""
    new = directory.new_data(identity)
    options = ["--encoding=UTF8", "--locale=C", "--data-checksums", "--auth=trust", f"--username={superuser}"]
    command = [str(installation.program("initdb")), *options, f"--pgdata={new}"]
    process = spawn(directory, identity, signal.SIGTERM, command)
    try:
        await until(lambda: process.poll() is not None, time.monotonic() + _INITDB_TIMEOUT_SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
    if process.wait() != 0:
        raise EmbeddedStartFailed(f"initdb in {new} failed: {last_words(directory)}")
    directory.adopt_new_data(new)


def start_server(directory: StateDirectory, installation: Installation, identity: Identity) -> type_process:
    """The postmaster, not yet ready."""
    postgres = str(installation.program("postgres"))
    command = [postgres, "-D", str(directory.data), "-c", f"config_file={directory.configuration}"]
    return spawn(directory, identity, signal.SIGINT, command)  # SIGINT is PostgreSQL's fast shutdown


async def wait_until_ready(directory: StateDirectory, process: type_process, deadline: float) -> None:
    """Return once the server accepts connections; EmbeddedStartFailed with its own words when it does not."""

    def settled() -> bool:
        found = read_postmaster_file(directory.data)
        ready = found is not None and found.pid == process.pid and found.status == READY
        return ready or process.poll() is not None

    in_time = await until(settled, deadline)
    if process.poll() is not None:
        raise EmbeddedStartFailed(f"PostgreSQL in {directory.data} did not start: {last_words(directory)}")
    if not in_time:
        raise EmbeddedStartFailed(
            f"PostgreSQL in {directory.data} was not ready within its start budget (a recovery may need a longer "
            f"one): {last_words(directory)}"
        )


def spawn(directory: StateDirectory, identity: Identity, death_signal: int, command: list[str]) -> type_process:
    """A program as `identity`, in a session of its own, that gets `death_signal` when this thread ends."""
    if threading.current_thread() is not threading.main_thread():
        death_signal = 0  # a worker thread may end long before marketd does
        logger.warning(
            "PostgreSQL is started outside of the main thread and will outlive marketd if that is killed",
            extra={"action": "embedded_no_death_signal"},
        )
    groups = ",".join(map(str, identity.groups))
    shim = [sys.executable, "-I", "-S", launch.__file__, str(identity.uid), str(identity.gid), groups]
    with directory.start_log.open("wb") as log:
        return subprocess.Popen(
            [*shim, str(int(death_signal)), str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=directory.root,
            env=_clean_environment(),
            start_new_session=True,
        )


async def end_leftovers(directory: StateDirectory, socket_dir: Path, deadline: float) -> None:
    """End what still runs on the data directory, and remove what a killed server left in files.

    We hold the lock, so it is no living marketd's server: it is the one of a marketd that was killed, shutting down, or
    one that somebody started by hand.
    """
    data = directory.data
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        postmaster, processes = read_postmaster_file(data), server_processes(data)
        if not processes:
            break
        # backends without a postmaster have nobody to tell them: they get the signal themselves
        has_head = postmaster is not None and postmaster.pid in processes
        targets = [postmaster.pid] if postmaster is not None and has_head else processes
        logger.warning(
            "ending a PostgreSQL that was left over in %s: process %s",
            data,
            targets,
            extra={"action": "embedded_leftover", "signal": number.name},
        )
        for pid in targets:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        patience = _SHUTDOWN_PATIENCE_SECONDS if has_head else _ORPHAN_PATIENCE_SECONDS
        await until(lambda: not server_processes(data), min(deadline, time.monotonic() + patience))
    if server_processes(data):
        raise EmbeddedStartFailed(f"a PostgreSQL that was left over in {data} does not end")
    if remove_stale_files(data, socket_dir):
        logger.info("removed the postmaster.pid of a server that was killed", extra={"action": "stale_pid"})


def last_words(directory: StateDirectory) -> str:
    """The end of what the server said: of its own log when that was begun, else of the start's."""
    logs = [path for path in directory.log.glob("*.log") if path.stat().st_size]
    newest = max([*logs, directory.start_log], key=lambda path: path.stat().st_mtime)
    lines = newest.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
    return " | ".join(line.strip() for line in lines) + f" (all of it in {newest})"


def _clean_environment() -> dict[str, str]:
    """PG… variables of the person who started marketd must not reach the server, nor their locale."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}
