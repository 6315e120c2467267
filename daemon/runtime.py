"""The runtime directory as its supervisor keeps it: made and checked, locked, described in `daemon.json`.

supervisor.lock   held exclusively by the living supervisor: a second one fails at once
actors.lock       held shared by every living actor (`marketd.daemon.lifeline`)
marketd.toml      the configuration in force, 0600; actors read this copy, so that one that is replaced after
                  somebody edited the file does not run on another configuration than its neighbours
daemon.json       for clients: who runs, where the sockets are, in which state
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from marketd import __version__
from marketd.daemon.settings import Config
from marketd.ipc import paths
from marketd.ipc.presence import FILE_NAME, Presence, remove_presence
from marketd.ipc.protocol import Stream
from marketd.market.errors import ConfigError, MarketdError

DIRECTORY_MODE = 0o750
LOCK = "supervisor.lock"
TAKE_SECONDS = 0.2
CONFIG_COPY = "marketd.toml"
SOCKETS = ("ingest", "query", "stream", "control")


class AlreadyRunning(MarketdError):
    """A daemon of this instance runs already."""


class RuntimeDirectory:
    """Of one instance. `hold` before anything is written, `let_go` at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def hold(self) -> None:
        """Make the directory and take its lock. Raises ConfigError or AlreadyRunning."""
        _make(self.path)
        descriptor = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        if not _take(descriptor):
            os.close(descriptor)
            running = read_description(self.path).get("pid", "unknown")
            raise AlreadyRunning(
                f"a daemon of this instance runs already in {self.path} (process {running}); stop it with "
                "`marketd stop`, or give this one another `instance` and `daemon_no`"
            )
        self._lock = descriptor

    def let_go(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def socket_urls(self) -> dict[str, str]:
        """ConfigError when the directory's path is too long for sockets."""
        return {name: paths.socket_url(self.path, name) for name in SOCKETS}

    @property
    def config_copy(self) -> Path:
        return self.path / CONFIG_COPY

    def keep_config(self, file: Path | None) -> None:
        """Make this file's content the configuration in force."""
        text = file.read_bytes() if file is not None else b"# no file: defaults, environment and --set alone\n"
        _write(self.config_copy, text, 0o600)

    def take_config_back(self, text: bytes) -> None:
        """Make what was in force before the configuration again."""
        _write(self.config_copy, text, 0o600)

    def describe(self, config: Config, details: Mapping[str, Any]) -> None:
        """Replace `daemon.json` as a whole: what clients read, and beside it what people and scripts want to know."""
        text = json.dumps({**msgspec.to_builtins(presence_of(config)), **details}, indent=1)
        _write(self.path / FILE_NAME, text.encode(), 0o640)

    def forget(self) -> None:
        """No daemon runs any more: nobody shall look for one."""
        remove_presence(self.path)


def presence_of(config: Config) -> Presence:
    """What this process, the supervisor, says of its daemon to clients."""
    return Presence(
        instance=config.instance,
        pid=os.getpid(),
        version=__version__,
        daemon_no=config.daemon_no,
        timeframes=list(config.timeframe_seconds),
        streams=[Stream(id=kind.id, name=kind.name, fields=dict(kind.fields)) for kind in config.series()],
        book_depth=config.book.depth,
        aliases=config.aliases,
        default_venue=config.default_venue,
    )


def read_description(path: Path) -> dict[str, Any]:
    """What `daemon.json` says; empty when there is none that can be read."""
    try:
        found = json.loads((path / FILE_NAME).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_held(path: Path) -> bool:
    """Whether a supervisor lives, whatever `daemon.json` says."""
    try:
        descriptor = os.open(path / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _take(descriptor: int) -> bool:
    """Exclusively. Tried for a moment: `is_held` asks by holding the lock itself, for microseconds."""
    deadline = time.monotonic() + TAKE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(TAKE_SECONDS / 10)
        else:
            return True


def _make(path: Path) -> None:
    """Anybody may make names in /dev/shm: a directory that is there already must be ours, and nobody else's
    to write."""
    try:
        path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise ConfigError(
            f"runtime_dir: {path} cannot be made ({error.strerror}); set runtime_dir to one on a tmpfs "
            "that this user may write",
            field="runtime_dir",
        ) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ConfigError(
            f"runtime_dir: {path} is no directory of ours (it belongs to uid {found.st_uid}); remove it, or "
            "choose another runtime_dir or instance",
            field="runtime_dir",
        )
    if stat.S_IMODE(found.st_mode) != DIRECTORY_MODE:
        path.chmod(DIRECTORY_MODE)


def _write(path: Path, content: bytes, mode: int) -> None:
    new = path.with_name(f".{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # the umask, or a leftover of an earlier run, must not decide
        file.write(content)
    new.replace(path)
