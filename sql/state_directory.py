"""The embedded server's directory below marketd's state directory, and where everything lies in it.

    <state_dir>/postgres/            marketd's own; others may pass through
        lock                         held while a marketd runs this server
        installation.json            what made the data directory
        postgresql.conf pg_hba.conf  written at each start
        reader.password              of marketd_reader, when TCP is open
        start.log                    what the server said before its own log began
        installation/                a copy of the binaries, only where the user cannot reach the originals
        data/ log/ run/              the database user's, mode 0700

What marketd writes lies outside of what the database's user owns: root must not follow a link that user made.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from marketd.sql.errors import EmbeddedError, EmbeddedInUse, NotReachable
from marketd.sql.identity import Identity, first_barrier, make_private_directory, require_reach
from marketd.sql.installations import Installation

MAX_SOCKET_PATH_BYTES = 107  # sun_path holds 108 with its final zero
_LONGEST_SOCKET_NAME = "/.s.PGSQL.65535"
_SETTING = "state_dir"
# Of a copied installation nobody compiles against it or reads its manual.
_NOT_COPIED = shutil.ignore_patterns("include", "pgxs", "*.a", "pkgconfig", "man", "doc", "__pycache__")


class StateDirectory:
    """Names, creates and locks the directory; knows nothing of processes."""

    def __init__(self, state_dir: Path) -> None:
        self.root = state_dir.absolute() / "postgres"
        self.data = self.root / "data"
        self.log = self.root / "log"
        self.configuration = self.root / "postgresql.conf"
        self.access = self.root / "pg_hba.conf"
        self.start_log = self.root / "start.log"
        self.reader_password = self.root / "reader.password"
        self._facts = self.root / "installation.json"
        self._lock_fd: int | None = None

    @property
    def exists(self) -> bool:
        return (self.data / "PG_VERSION").exists()

    @property
    def major(self) -> int | None:
        return int((self.data / "PG_VERSION").read_text()) if self.exists else None

    @property
    def owner_uid(self) -> int | None:
        # of the directory, not of a file in it: a stranger's cannot even be looked into
        return self.data.stat().st_uid if self.data.exists() else None

    def prepare(self, identity: Identity) -> None:
        """Make what is missing, and see that `identity` can reach it."""
        try:
            _make_passable(self.root)
        except OSError as error:
            raise NotReachable(
                f"cannot make {self.root}: {error.strerror}; set {_SETTING} to a place that marketd may write to"
            ) from error
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise NotReachable(
                f"marketd may not write to {self.root}; give it to the user that runs marketd, or "
                f"set {_SETTING} to another place"
            )
        require_reach(self.root, identity, _SETTING)
        make_private_directory(self.log, identity)

    def lock(self) -> None:
        """Become the one marketd that runs this server; EmbeddedInUse when another is."""
        if self._lock_fd is not None:
            return
        fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise EmbeddedInUse(
                f"another marketd (process {holder}) runs the embedded PostgreSQL in {self.root}; stop it, "
                f"or give this one a {_SETTING} of its own"
            ) from None
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        self._lock_fd = fd

    def unlock(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def new_data(self, identity: Identity) -> Path:
        """An empty directory for initdb; `adopt_new_data` makes it the data directory, so that an interrupted
        initdb leaves nothing that looks like one."""
        path = self.root / "data.new"
        shutil.rmtree(path, ignore_errors=True)
        make_private_directory(path, identity)
        return path

    def adopt_new_data(self, path: Path) -> None:
        path.rename(self.data)

    def remember(self, installation: Installation) -> None:
        facts = {
            "version": installation.version,
            "timescale": installation.timescale_version,
            "bin_dir": str(installation.bin_dir),
        }
        write_file(self._facts, json.dumps(facts, indent=1) + "\n", 0o644)

    def remembered(self) -> dict[str, str]:
        """What the data directory was last run with; empty when it is new."""
        try:
            facts: dict[str, str] = json.loads(self._facts.read_text())
        except FileNotFoundError:
            return {}
        return facts

    def socket_directory(self, identity: Identity, socket_dir: Path | None) -> Path:
        """Where the socket goes: beside the data, or, where that path is longer than a Unix socket's may
        be, in `socket_dir`, or in a directory for temporary files."""
        tag = hashlib.sha256(os.fsencode(self.root.resolve())).hexdigest()[:12]
        candidates = [self.root / "run", Path(tempfile.gettempdir()) / f"marketd-postgres-{tag}"]
        if socket_dir is not None:
            candidates.insert(1, socket_dir.absolute() / "postgres")
        for path in candidates:
            fits = len(os.fsencode(path)) + len(_LONGEST_SOCKET_NAME) <= MAX_SOCKET_PATH_BYTES
            if fits and path.parent.is_dir() and first_barrier(path.parent, identity) is None:
                make_private_directory(path, identity)
                return path
        raise EmbeddedError(
            f"no directory for the server's socket: {', '.join(map(str, candidates))} are longer than a "
            f"socket's path may be, or out of reach of user {identity.name!r}; choose a shorter {_SETTING}"
        )

    def reachable_installation(self, installation: Installation, identity: Identity) -> Installation:
        """`installation`, or a copy of it in here when `identity` cannot reach it (a .venv below /root)."""
        if first_barrier(installation.bin_dir, identity) is None:
            return installation
        copies = self.root / "installation"
        tag = "-".join(filter(None, (installation.version, installation.timescale_version)))
        return installation._replace(bin_dir=_copy_installation(installation, copies / tag, identity))


def _make_passable(path: Path) -> None:
    """Make the directory and those on the way to it that are missing, 0711 whatever the umask: the database's user has
    to pass through, and no more."""
    if path.is_dir():
        return
    _make_passable(path.parent)
    path.mkdir(exist_ok=True)
    path.chmod(0o711)


def write_file(path: Path, text: str, mode: int) -> None:
    """Replace the whole file at once, with that mode from its first byte on."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(fd, "w") as file:
        os.fchmod(fd, mode)  # whatever the umask
        file.write(text)
    new.rename(path)


def _copy_installation(installation: Installation, target: Path, identity: Identity) -> Path:
    """The `bin` of a copy in `target`, made if missing; older copies beside it go."""
    prefix = installation.prefix
    if not (prefix / "share").is_dir():
        raise NotReachable(
            f"the database's system user {identity.name!r} cannot enter "
            f"{first_barrier(installation.bin_dir, identity)}, and {prefix} holds no complete installation "
            "that could be copied; install PostgreSQL where that user can reach it"
        )
    bin_dir = target / prefix.parent.name / prefix.name / "bin"
    if not target.exists():
        shutil.rmtree(target.parent, ignore_errors=True)
        half = target.with_name(target.name + ".new")
        _copy_tree(prefix, half / prefix.parent.name / prefix.name)
        # A wheel's programs find their libraries at $ORIGIN/../../../<package>.libs: keep that distance
        libraries = prefix.parent.with_name(prefix.parent.name + ".libs")
        if libraries.is_dir():
            _copy_tree(libraries, half / libraries.name)
        half.rename(target)
    done = subprocess.run([bin_dir / "postgres", "--version"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotReachable(f"the copy of {prefix} in {target} does not run: {done.stderr.strip()}")
    return bin_dir


def _copy_tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True, ignore=_NOT_COPIED)
    for path in [target.parent, target, *target.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
