"""Memory and file descriptors of every process of a daemon, and of its PostgreSQL, over time."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psutil
from daemon_under_test import DaemonUnderTest

from marketd.sql.state_directory import StateDirectory

_ANONYMOUS_KB = re.compile(r"^RssAnon:\s+(\d+) kB$", re.MULTILINE)
SERVER, SESSION = "postgres", "postgres, the largest session"
# A benchmark's own sessions end sooner; marketd's, which are replaced every five minutes, do not.
LONG_SECONDS = 90.0
# What counts as flat: allocators and caches breathe.
GROWTH_SHARE, GROWTH_MIB = 0.05, 8.0
GROWTH_DESCRIPTORS = 2
POSTGRES_DESCRIPTORS_SHARE = 0.25  # each backend keeps files open that it has used, up to a limit of its own


class Look(NamedTuple):
    """One process, at one moment. memory: what is its own, not in a file and not shared.

    A page of the arena or of shared buffers that only one process has looked at so far would count as private to it.
    """

    memory_mib: float
    descriptors: int


class ProcessWatch:
    """`look` every few seconds; then `table`, `growth`, `restarts`."""

    def __init__(self, daemon: DaemonUnderTest) -> None:
        self._daemon = daemon
        self._looks: dict[str, list[Look]] = {}
        self._pids = self._actors()
        self.restarts = 0
        self._began = time.time()

    def look(self) -> None:
        actors = self._actors()
        self.restarts += sum(pid != self._pids.get(name, pid) for name, pid in actors.items())
        self._pids = actors
        for name, pid in actors.items():
            self._add(name, pid)
        data = StateDirectory(self._daemon.home / "state").data
        server = int((data / "postmaster.pid").read_text().split()[0])
        born_before = time.time() - LONG_SECONDS
        children = psutil.Process(server).children(recursive=True)
        sessions = [child for child in children if _is_session(child)]
        self._add(SERVER, server)
        for child in children:
            # those that come and go, as autovacuum's workers, have a memory that their work bounds
            if child not in sessions and child.create_time() < self._began:
                self._add(_title(child), child.pid)
        old = [child.pid for child in sessions if child.create_time() < born_before]
        self._looks.setdefault(SESSION, []).append(_largest(old))

    def _actors(self) -> dict[str, int]:
        return {"supervisor": self._daemon.process.pid, **self._daemon.pids()}

    def _add(self, name: str, pid: int) -> None:
        self._looks.setdefault(name, []).append(_look(pid))

    def table(self) -> list[dict[str, Any]]:
        rows = []
        for name, looks in self._looks.items():
            (early, late), (early_files, late_files) = _ends(looks)
            rows.append(
                {
                    "process": name,
                    "memory MiB, 2nd quarter": early,
                    "last quarter": late,
                    "most": max(look.memory_mib for look in looks),
                    "descriptors, 2nd quarter": early_files,
                    "last quarter ": late_files,
                    "most ": max(look.descriptors for look in looks),
                }
            )
        return rows

    def growth(self) -> dict[str, float]:
        """The most that any process grew beyond what is allowed; 0: all were flat."""
        memory, descriptors = 0.0, 0.0
        for name, looks in self._looks.items():
            (early, late), (early_files, late_files) = _ends(looks)
            memory = max(memory, late - early - max(GROWTH_SHARE * early, GROWTH_MIB))
            allowed = early_files * POSTGRES_DESCRIPTORS_SHARE if name.startswith(SERVER) else GROWTH_DESCRIPTORS
            descriptors = max(descriptors, late_files - early_files - allowed)
        return {"memory, MiB": memory, "file descriptors": descriptors}


def _look(pid: int) -> Look:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return Look(int(_ANONYMOUS_KB.findall(status)[0]) / 1024, psutil.Process(pid).num_fds())
    except (OSError, IndexError, psutil.NoSuchProcess):
        return Look(0.0, 0)  # a backend that ended meanwhile; one that ends has no memory any more


def _largest(pids: Iterable[int]) -> Look:
    """The most memory and the most descriptors that one of them has."""
    looks = [_look(pid) for pid in pids] or [Look(0.0, 0)]
    return Look(max(each.memory_mib for each in looks), max(each.descriptors for each in looks))


def _title(process: psutil.Process) -> str:
    """`postgres: marketd: io worker 1` is `postgres, io worker 1`."""
    try:
        return f"{SERVER}, {' '.join(process.cmdline()).split(': ')[-1].strip()}"
    except psutil.NoSuchProcess:
        return f"{SERVER}, ended"


def _is_session(process: psutil.Process) -> bool:
    """By the title that PostgreSQL gives it: user, database and where the client is."""
    try:
        return " [local] " in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def _ends(looks: list[Look]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Medians of the second and the last quarter: of memory, of descriptors."""
    quarter = max(1, len(looks) // 4)
    early, late = looks[quarter : 2 * quarter] or looks, looks[-quarter:]
    return (
        (median(look.memory_mib for look in early), median(look.memory_mib for look in late)),
        (median(look.descriptors for look in early), median(look.descriptors for look in late)),
    )
