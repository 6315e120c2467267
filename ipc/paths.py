"""Where a daemon's sockets and shared memory are found on this host.

Everything that processes of one instance share lies in its runtime directory (mode 0750):

    ingest.sock query.sock stream.sock control.sock   ZeroMQ, ipc://
    arena/<instrument name>.arena                     shared memory
    front                                             the journal's front buffer
    daemon.json                                       what a client needs to know to find the rest
"""

from __future__ import annotations

import os
from pathlib import Path

from marketd.market.errors import ConfigError

DEFAULT_INSTANCE = "default"
MAX_SOCKET_PATH_BYTES = 107  # sun_path holds 108 with its final zero


def runtime_dir(instance: str = DEFAULT_INSTANCE, configured: str = "") -> Path:
    """The configured directory, or `/dev/shm/marketd-<instance>`."""
    return Path(configured) if configured else Path("/dev/shm") / f"marketd-{instance}"


def socket_url(directory: Path, name: str) -> str:
    """`ipc://<directory>/<name>.sock`; ConfigError when the path is longer than a Unix socket's may be."""
    path = directory / f"{name}.sock"
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(
            f"runtime_dir: {path} is longer than the {MAX_SOCKET_PATH_BYTES} bytes of a Unix socket's path; "
            "choose a shorter runtime_dir",
            field="runtime_dir",
        )
    return f"ipc://{path}"


def arena_path(directory: Path, instrument_name: str) -> Path:
    """The arena file of an instrument (`/` in a venue's symbol is written `%2F`)."""
    return directory / "arena" / f"{instrument_name.replace('%', '%25').replace('/', '%2F')}.arena"
