"""What `marketd doctor` looks at on this machine: Python, processor, memory, disk, limits, clock, packages.

A check is a function that gives findings and never raises for what it finds; nothing here changes anything. What
belongs to the daemon itself is in `marketd.ops.daemon_checks`.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import re
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from marketd.daemon.settings import Config
from marketd.market import compiled
from marketd.market.records import CANDLE, COVERAGE, TRADE
from marketd.ops.words import size

Level = Literal["ok", "warn", "fail"]
OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 14)
FEW_FILES, TOO_FEW_FILES = 4096, 512
_EARLIEST_CLOCK = 1_700_000_000  # s; November 2023: a clock before that was never set
_TIME_ERROR, _UNSYNCHRONISED = 5, 0x40  # adjtimex(2): its answer, and a bit of its status
_ARENA_OVERHEAD = 1.1  # headers, page rounding
_MEMORY_SYSTEMS = frozenset(("tmpfs", "ramfs"))
_REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+)\s*(?:[^;]*>=\s*([0-9.]+))?[^;]*(?:;.*extra\s*==\s*[\"']([\w-]+)[\"'])?")
# Which extras a daemon on this host cannot do without, and the way to get them.
_DAEMON_EXTRAS = frozenset(("", "daemon"))
_OTHER_EXTRAS = frozenset(("embedded", "pandas", "parquet", "cli"))


class Finding(NamedTuple):
    """One line of the doctor's."""

    name: str
    level: Level
    text: str
    way_out: str = ""


def host_checks(config: Config) -> Iterator[Finding]:
    """All of this module, in the order of a sensible repair."""
    yield python()
    yield processor()
    yield from packages()
    yield compiled_part()
    yield clock()
    yield open_files()
    yield from shared_memory(config)
    yield state_directory(config)


def python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    here = f"{version} ({sys.executable})"
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Finding("python", "fail", here, "marketd needs Python 3.11 or newer")
    if sys.version_info[:2] > NEWEST_PYTHON:
        return Finding("python", "warn", here, "newer than any that marketd was tested with (3.11 to 3.14)")
    return Finding("python", "ok", here)


def processor() -> Finding:
    text = f"{platform.system()} {platform.release()} on {platform.machine()}, {os.cpu_count()} processors"
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        return Finding(
            "platform", "fail", text, "shared memory relies on the store order of x86-64 Linux: use such a host"
        )
    return Finding("platform", "ok", text)


# ---- packages -----------------------------------------------------------------------------------


def packages() -> Iterator[Finding]:
    """What is installed of what marketd asks for."""
    try:
        wanted = list(importlib.metadata.requires("marketd") or [])
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            "packages", "warn", "marketd is not installed as a package", "pip install marketd, to have them checked"
        )
        return
    present, missing = [], []
    for text in wanted:
        match = _REQUIREMENT.match(text)
        if match is None or (match[3] or "") not in _DAEMON_EXTRAS | _OTHER_EXTRAS:
            continue
        name, least, extra = match[1], match[2] or "", match[3] or ""
        found = _version(name)
        if found is None:
            missing.append((name, extra))
        elif _numbers(found) < _numbers(least):
            yield Finding(name, "fail", f"{found} is older than {least}", f"pip install --upgrade '{name}>={least}'")
        else:
            present.append(f"{name} {found}")
    yield Finding("packages", "ok", ", ".join(present))
    yield from (_missing(name, extra) for name, extra in missing)


def _missing(name: str, extra: str) -> Finding:
    package = f"marketd[{extra}]" if extra else "marketd"
    if extra in _DAEMON_EXTRAS:
        return Finding(name, "fail", "not installed, and the daemon needs it", f"pip install '{package}'")
    return Finding(name, "ok", f"not installed; optional: pip install '{package}'")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def compiled_part() -> Finding:
    """Quicker order books, which are built where marketd was installed beside a C compiler."""
    if compiled.part is not None or os.environ.get(compiled.PURE_PYTHON, "") not in ("", "0"):
        return Finding("compiled part", "ok", compiled.STANDING)
    return Finding(
        "compiled part",
        "warn",
        f"{compiled.STANDING}; books cost feeds several times the processor time",
        "install a C compiler and Python's headers (Debian: gcc python3-dev), then marketd anew",
    )


# ---- clock and limits ---------------------------------------------------------------------------


def clock() -> Finding:
    now = time.time()
    shown = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    if now < _EARLIEST_CLOCK:
        return Finding("clock", "fail", f"{shown} lies in the past", "set the clock, and let NTP or PTP keep it")
    if kernel_says_unsynchronised():
        return Finding(
            "clock",
            "warn",
            f"{shown}, which nobody keeps: the kernel calls it not synchronised",
            "run chrony, ntpd or systemd-timesyncd; ts_known follows this clock",
        )
    return Finding("clock", "ok", f"{shown}, synchronised")


def kernel_says_unsynchronised() -> bool:
    """What adjtimex(2) tells everybody; False where it may not be asked."""
    buffer = ctypes.create_string_buffer(256)  # struct timex, modes = 0: only read
    try:
        answer = int(ctypes.CDLL(None).adjtimex(buffer))
    except (OSError, AttributeError):
        return False
    status = ctypes.c_int.from_buffer(buffer, 40).value  # modes, 4 longs (8-aligned), then status
    return answer == _TIME_ERROR or (answer >= 0 and bool(status & _UNSYNCHRONISED))


def open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{soft} files may be open (hard limit {hard})"
    way_out = f"ulimit -n {FEW_FILES}, or LimitNOFILE= in the unit: each reader and producer takes some"
    level: Level = "fail" if soft < TOO_FEW_FILES else "warn" if soft < FEW_FILES else "ok"
    return Finding("open files", level, text, "" if level == "ok" else way_out)


# ---- memory and disk ----------------------------------------------------------------------------


def shared_memory(config: Config) -> Iterator[Finding]:
    """The runtime directory: on a tmpfs, ours, with room for the front buffer and the arenas."""
    path = config.runtime_path
    existing = _existing(path)
    if not os.access(existing, os.W_OK | os.X_OK):
        yield Finding(
            "runtime dir", "fail", f"{path}: {existing} is not writable", "set runtime_dir, or mend its rights"
        )
        return
    system = filesystem_of(existing)
    if system not in _MEMORY_SYSTEMS:
        yield Finding(
            "runtime dir",
            "warn",
            f"{path} is on {system or 'an unknown file system'}",
            "set runtime_dir to a place on a tmpfs",
        )
    needed, free = memory_needed(config), shutil.disk_usage(existing).free
    if path.is_dir():
        free += sum(
            file.stat().st_blocks * 512 for file in path.rglob("*") if file.is_file()
        )  # what is there is used again
    text = f"{path}: about {size(needed)} of {size(free)} are needed for {_symbols(config)} instruments"
    if free < needed:
        yield Finding(
            "runtime dir",
            "fail",
            text,
            "a larger tmpfs (docker: --shm-size), a smaller cache.window, cache.bars or journal.front",
        )
    else:
        yield Finding("runtime dir", "ok", text)


def memory_needed(config: Config) -> int:
    """Bytes of shared memory: the journal's front buffer, and an arena for each configured symbol."""
    bars = sum(config.cache.bars_of(timeframe) for timeframe in config.timeframe_seconds)
    # own and venue's bars; coverage and series are small beside them
    arena = config.cache.trades * TRADE.itemsize + 2 * bars * CANDLE.itemsize + 1000 * COVERAGE.itemsize
    return config.journal.front + round(max(1, _symbols(config)) * arena * _ARENA_OVERHEAD)


def _symbols(config: Config) -> int:
    return sum(len(venue.symbols) for venue in config.active_venues.values())


def state_directory(config: Config) -> Finding:
    path = config.state_path
    existing = _existing(path)
    if not os.access(existing, os.W_OK | os.X_OK):
        return Finding(
            "state dir", "fail", f"{path}: {existing} is not writable", "set state_dir, or give it to this user"
        )
    usage = shutil.disk_usage(existing)
    text = f"{path}: {size(usage.free)} free of {size(usage.total)}"
    least = 3 * config.journal.segment
    if usage.free < least:
        return Finding("state dir", "fail", text, f"make room: three segments of the journal alone are {size(least)}")
    if filesystem_of(existing) in _MEMORY_SYSTEMS:
        return Finding(
            "state dir", "warn", f"{text}, in memory", "set state_dir to a disk: this is gone after a reboot"
        )
    if usage.free < config.journal.budget:
        return Finding(
            "state dir",
            "warn",
            text,
            f"less than journal.budget ({config.journal.budget}): the disk would be full before the budget is used up",
        )
    return Finding("state dir", "ok", text)


def _existing(path: Path) -> Path:
    """The path, or the nearest directory above it that is there."""
    return next((parent for parent in (path, *path.parents) if parent.exists()), Path("/"))


def filesystem_of(path: Path) -> str:
    """The type of the file system that holds a path, as the kernel names it; "" when it cannot be told."""
    resolved, best = path.resolve(), ("", "")
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ""
    for line in mounts:
        _, where, kind, *_ = line.split()
        where = where.replace("\\040", " ")
        if resolved.is_relative_to(where) and len(where) >= len(best[0]):
            best = (where, kind)
    return best[1]
