"""PostgreSQL's own programs (`pg_dump`, `pg_restore`): found where they fit the server, run with their words heard.

A program must be of the server's major version or a later one; the same one is preferred, from any installation that
`find_installations` knows, or from the PATH. Passwords go by the environment, because a command line is everybody's to
read. Cancelling `run_program` ends the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from marketd.sql.dsn import password_of, without_password
from marketd.sql.errors import DatabaseError, NoInstallation
from marketd.sql.installations import BIN_VARIABLE, find_installations

_KEPT_LINES = 12  # of what a program that failed said last
_LINE_BYTES = 1 << 20
_PATIENCE_SECONDS = 10.0


class ProgramFailed(DatabaseError):
    """A program of PostgreSQL failed."""


def find_program(name: str, major: int) -> Path:
    """The best `name` for a server of that major version; NoInstallation says what was found instead."""
    found = sorted((abs(version - major), version, path) for path, version in _candidates(name) if version >= major)
    if found:
        return found[0][2]
    have = ", ".join(f"{version} in {path.parent}" for path, version in _candidates(name))
    raise NoInstallation(
        f"{name} of PostgreSQL {major} or newer is needed, and this machine has {have or 'none'}; install "
        f"PostgreSQL {major}'s client programs, or name their directory in {BIN_VARIABLE}"
    )


async def run_program(program: Path, arguments: Sequence[str], dsn: str, hear: Callable[[str], None]) -> None:
    """Run it against a database; `hear` gets each line of what it says. ProgramFailed with its last words."""
    process = await asyncio.create_subprocess_exec(
        str(program),
        f"--dbname={without_password(dsn)}",
        "--no-password",
        *arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=_environment(dsn),
        limit=_LINE_BYTES,
        start_new_session=True,  # Ctrl-C is ours to pass on
    )
    try:
        last = await _listen(process, hear)
        code = await process.wait()
    finally:
        await _end(process)
    if code != 0:
        raise ProgramFailed(f"{program.name} failed with exit code {code}:\n" + "\n".join(last))


def contents_of(pg_restore: Path, dump: Path) -> str:
    """The list of what a dump holds; ProgramFailed when it cannot be read."""
    done = subprocess.run([pg_restore, "--list", dump], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ProgramFailed(f"{dump} cannot be read: {done.stderr.strip()}")
    return done.stdout


async def _listen(process: asyncio.subprocess.Process, hear: Callable[[str], None]) -> list[str]:
    last: list[str] = []
    assert process.stderr is not None
    async for raw in process.stderr:
        line = raw.decode(errors="replace").rstrip()
        hear(line)
        last = [*last, line][-_KEPT_LINES:]
    return last


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _environment(dsn: str) -> dict[str, str]:
    variables = {**os.environ, "PGTZ": "UTC", "LC_MESSAGES": "C"}  # we read its words
    variables.pop("PGOPTIONS", None)
    password = password_of(dsn)
    return {**variables, "PGPASSWORD": password} if password else variables


def _candidates(name: str) -> Iterator[tuple[Path, int]]:
    seen = set()
    on_path = shutil.which(name)
    for path in (*(i.program(name) for i in find_installations()), *([Path(on_path)] if on_path else [])):
        if path.exists() and path.resolve() not in seen:
            seen.add(path.resolve())
            version = _major_of(path)
            if version:
                yield path, version


def _major_of(path: Path) -> int:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
    return int(match[1]) if match else 0
