"""A consistent copy of a database in a directory: what pg_dump made, and what it must come back as.

    DIRECTORY/database.dump     pg_dump's custom format
    DIRECTORY/manifest.json     versions, and of every table the number of rows and their hash, of the same snapshot
    DIRECTORY/registry.json     the daemon's ids, copied after the dump, where there is one

Everything is written into `.DIRECTORY.partial`, synced and renamed: a directory of that name is whole. A daemon may run
meanwhile; it goes on writing, and what it commits after the snapshot is not in the copy.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from marketd.sql.errors import DatabaseError
from marketd.sql.fingerprint import Fingerprint, fingerprint, tables_of
from marketd.sql.pg_programs import find_program, run_program
from marketd.sql.profiles import Profile, ServerFacts, describe_server
from marketd.sql.sole import sole_connection
from marketd.sql.storage import measure

DUMP, MANIFEST, REGISTRY = "database.dump", "manifest.json", "registry.json"
FORMAT = 1
_DUMPED = re.compile(r'dumping contents of table "([^"]+)"')


class BackupRefused(DatabaseError):
    """The backup cannot be made there."""


class Manifest(NamedTuple):
    """What a backup says of itself. `journals`: what the database had committed of each, by the journal's UUID."""

    format: int
    taken_at: str
    profile: str
    server_version: str
    server_major: int
    timescale_version: str
    schema: list[str]
    tables: dict[str, Fingerprint]
    journals: dict[str, int]

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables.values())


class Step(NamedTuple):
    """How far it is: `what` is under way, `done` of `total` (bytes, rows, tables) are behind it; 0: nobody knows."""

    what: str
    done: int
    total: int


type_tell = Callable[[Step], None]


async def back_up(dsn: str, target: Path, registry: Path | None, tell: type_tell) -> Manifest:
    """Make the copy. BackupRefused when `target` is there already; ProgramFailed, or an error of the server."""
    partial = _make_partial(target)
    try:
        manifest = await _dump_consistently(dsn, partial, tell)
        # after the dump: ids in the database that the registry does not know would be given away again
        _finish(partial, target, manifest, registry)
    except BaseException:  # interrupted, too: nothing may look like a backup that is none
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def _make_partial(target: Path) -> Path:
    if target.exists():
        raise BackupRefused(f"{target} is there already; name a directory that is not")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of one that was interrupted
    try:
        partial.mkdir(mode=0o700)
    except OSError as error:
        raise BackupRefused(f"{partial} cannot be made: {error.strerror}") from error
    return partial


def _finish(partial: Path, target: Path, manifest: Manifest, registry: Path | None) -> None:
    _write(partial / MANIFEST, json.dumps(_plain(manifest), indent=1).encode())
    if registry is not None and registry.exists():
        _write(partial / REGISTRY, registry.read_bytes())
    for file in partial.iterdir():
        sync(file)
    sync(partial)
    partial.rename(target)
    sync(target.parent)


async def _dump_consistently(dsn: str, partial: Path, tell: type_tell) -> Manifest:
    async with sole_connection(dsn, "backup") as conn:
        facts = await describe_server(conn)
        if facts.recorded is None:
            raise BackupRefused("the database has no schema of marketd's: there is nothing to back up")
        sizes = {piece.name: piece.bytes for piece in (await measure(conn)).pieces}
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            snapshot = await conn.fetchval("SELECT pg_export_snapshot()")
            dumping = asyncio.create_task(_dump(dsn, facts, snapshot, partial / DUMP, _Listener(sizes, tell)))
            try:
                manifest = await _describe(conn, facts)
                await dumping
            finally:
                dumping.cancel()
                await asyncio.gather(dumping, return_exceptions=True)
    return manifest


async def _dump(dsn: str, facts: ServerFacts, snapshot: str, file: Path, listener: _Listener) -> None:
    # chunks and the catalogue that knows them lie in TimescaleDB's own schemas: there the whole database is dumped
    part = [] if facts.recorded is Profile.TIMESCALE else ["--schema=marketd"]
    arguments = ["--format=custom", "--verbose", f"--snapshot={snapshot}", f"--file={file}", *part]
    program = await asyncio.to_thread(find_program, "pg_dump", facts.server_version_num // 10_000)
    await run_program(program, arguments, dsn, listener.hear)


async def _describe(conn: asyncpg.Connection[Any], facts: ServerFacts) -> Manifest:
    schema = await conn.fetch("SELECT name FROM marketd.schema_changes ORDER BY name")
    journals = await conn.fetch("SELECT journal, committed_offset FROM marketd.journal_commits")
    return Manifest(
        FORMAT,
        datetime.now(UTC).isoformat(timespec="seconds"),
        str(facts.recorded),
        facts.server_version,
        facts.server_version_num // 10_000,
        facts.timescale_installed if facts.recorded is Profile.TIMESCALE else "",
        [row["name"] for row in schema],
        {table: await fingerprint(conn, table) for table in await tables_of(conn)},
        {str(row["journal"]): row["committed_offset"] for row in journals},
    )


def read_manifest(source: Path) -> Manifest:
    """What a backup says of itself; BackupRefused when it is none, or of a format that this marketd does not know."""
    try:
        found = json.loads((source / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise BackupRefused(f"{source} is no backup of marketd's: it has no {MANIFEST}") from None
    except (OSError, ValueError) as error:
        raise BackupRefused(f"{source / MANIFEST} cannot be read: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise BackupRefused(f"{source} has a format that is not known here: restore it with the marketd that made it")
    tables = {name: Fingerprint(*each) for name, each in found.pop("tables").items()}
    return Manifest(**found, tables=tables)


def _plain(manifest: Manifest) -> dict[str, Any]:
    return {**manifest._asdict(), "tables": {name: list(each) for name, each in manifest.tables.items()}}


class _Listener:
    """pg_dump names each table before it dumps it: what was named before is done."""

    def __init__(self, sizes: dict[str, int], tell: type_tell) -> None:
        self._sizes = sizes
        self._total = sum(sizes.values())
        self._done = 0
        self._current = 0
        self._tell = tell

    def hear(self, line: str) -> None:
        match = _DUMPED.search(line)
        if match is not None:
            name = match[1].rpartition(".")[2]
            self._done += self._current
            self._current = self._sizes.get(name, 0)
            self._tell(Step(name, self._done, self._total))


def _write(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(content)


def sync(path: Path) -> None:
    """Onto the disk: a file, or a directory's names."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
