"""What ties an actor's life to its supervisor's, however that ends.

- The kernel kills the actor when the supervisor's process is gone (`ipc.lifeline`).
- Each actor holds `actors.lock` in the runtime directory, shared. A supervisor that starts takes it
  exclusively for a moment, and so knows that no actor of an earlier one still writes the journal or the
  arena.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from marketd.daemon.config import SUPERVISOR_VARIABLE
from marketd.ipc.lifeline import die_with
from marketd.market.errors import ConfigError, MarketdError

LOCK_NAME = "actors.lock"
_LOOK_SECONDS = 0.02


class SupervisorGone(MarketdError):
    """The supervisor that started this actor has ended."""


def tie_to_supervisor(runtime_dir: Path) -> int | None:
    """Called first in an actor's process. The descriptor of the shared lock, to be kept; None without a
    supervisor.

    Raises SupervisorGone when it ended before the kernel knew whom to watch.
    """
    supervisor = os.environ.pop(SUPERVISOR_VARIABLE, "")  # not for whatever this actor starts in turn
    if not supervisor:
        return None
    if not die_with(int(supervisor)):
        raise SupervisorGone
    descriptor = os.open(runtime_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # only a starting supervisor holds it exclusively, and ours has started
        os.close(descriptor)
        raise SupervisorGone from None
    return descriptor


def wait_for_orphans(runtime_dir: Path, timeout_seconds: float) -> float:
    """Return once no actor of an earlier supervisor lives; the seconds that took. ConfigError after the
    timeout.

    They were sent SIGKILL when their supervisor died, so all that is left is a disk write that they wait for.
    """
    path = runtime_dir / LOCK_NAME
    began = time.monotonic()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        while not _free(descriptor):
            if time.monotonic() - began >= timeout_seconds:
                raise ConfigError(
                    "actors of an earlier run of this instance do not end; see them with "
                    f"`fuser -v {path}`, end them with `fuser -k {path}`",
                    field="runtime_dir",
                )
            time.sleep(_LOOK_SECONDS)
    finally:
        os.close(descriptor)
    return time.monotonic() - began


def _free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
