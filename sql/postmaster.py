"""What the files and processes of a machine tell about the server of a data directory.

`postmaster.pid` is written by PostgreSQL and outlives a SIGKILL; its process id may belong to somebody else
by then. So whether a server lives is asked of /proc: a server's processes have the data directory as their
working directory.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

READY = "ready"
_PROGRAMS = {"postgres", "postmaster"}


class PostmasterFile(NamedTuple):
    """The lines of `postmaster.pid` that matter; later ones appear as the start goes on."""

    pid: int
    status: str  # "starting", "ready", "stopping", "standby"; "" before it is written


def read_postmaster_file(data_dir: Path) -> PostmasterFile | None:
    """None when there is no such file or nothing usable in it yet."""
    try:
        lines = (data_dir / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return None
    if not lines or not lines[0].strip().lstrip("-").isdigit():
        return None
    # a negative id is a single-user server's
    return PostmasterFile(abs(int(lines[0])), lines[7].strip() if len(lines) > 7 else "")


def server_processes(data_dir: Path) -> list[int]:
    """Process ids of all PostgreSQL processes that work in `data_dir`, the postmaster's children included."""
    wanted = str(data_dir.resolve())
    pids = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with suppress(OSError):  # ended meanwhile, or somebody else's and so none of ours
            if os.readlink(f"{entry.path}/cwd") == wanted and _program(entry.path) in _PROGRAMS:
                pids.append(int(entry.name))
    return pids


def remove_stale_files(data_dir: Path, socket_dir: Path) -> bool:
    """Remove `postmaster.pid` and the socket's lock file of a server that was killed; only to be called when
    `server_processes` found none and we hold the lock. Whether there was one.

    PostgreSQL itself refuses to start when a process id recorded there is alive again as another program of
    the same user, which is ordinary in a container after a restart.
    """
    stale = [data_dir / "postmaster.pid", *socket_dir.glob(".s.PGSQL.*")]
    found = stale[0].exists()
    for path in stale:
        path.unlink(missing_ok=True)
    return found


def _program(proc_path: str) -> str:
    # a binary replaced by an upgrade while it runs reads "/…/postgres (deleted)"
    return Path(os.readlink(f"{proc_path}/exe").removesuffix(" (deleted)")).name
