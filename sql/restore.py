"""A backup (sql/backup.py) comes back: into a database of a temporary name, verified, and only then in its place.

The target must hold no rows of ours, nothing of others, and no daemon; the user needs the right to create databases (a
superuser where TimescaleDB is in the backup). Until the last moment the target is untouched; whatever goes wrong
before, what was made is dropped. One that was killed leaves `<name>_restoring`, which the next one drops.
"""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import asyncpg

from marketd.sql.backup import DUMP, Manifest, Step, read_manifest, type_tell
from marketd.sql.dsn import with_database
from marketd.sql.errors import DatabaseError
from marketd.sql.fingerprint import fingerprint, tables_of
from marketd.sql.literals import quote
from marketd.sql.pg_programs import contents_of, find_program, run_program
from marketd.sql.profiles import Profile
from marketd.sql.rights import settle_rights
from marketd.sql.sole import sole_connection

_RESTORED = re.compile(r'processing data for table "([^"]+)"')
_RENAME_SECONDS = 20.0
_MAINTENANCE = "postgres"  # the database that every server has, to do from what cannot be done from inside
# what the schema and the daemon's start make by themselves: no rows that would be lost
_NO_ROWS = frozenset({"schema_changes", "partitioned_tables", "series_fields", "storage_samples", "journal_commits"})
_FOREIGN = """
SELECT format('%I.%I', n.nspname, c.relname) AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT LIKE 'pg\\_%'
  AND n.nspname NOT IN ('marketd', 'information_schema') AND n.nspname NOT LIKE '\\_timescaledb\\_%'
  AND n.nspname NOT LIKE 'timescaledb\\_%'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1 LIMIT 3
"""


class RestoreRefused(DatabaseError):
    """The backup may not, or cannot, be restored there."""


class RestoreMismatch(DatabaseError):
    """What was restored is not what was backed up."""


async def restore(dsn: str, source: Path, tell: type_tell) -> Manifest:
    """Restore `source` into the database of `dsn`. RestoreRefused before anything was done, else nothing is left."""
    manifest = read_manifest(source)
    name = await _check_target(dsn, manifest)
    program = await asyncio.to_thread(find_program, "pg_restore", manifest.server_major)
    new = f"{name}_restoring"
    async with sole_connection(with_database(dsn, _MAINTENANCE), "restore") as maintenance:
        await _create(maintenance, new)
        try:
            await _fill(with_database(dsn, new), program, source, manifest, tell)
            tell(Step("taking its place", 0, 0))
            await _swap(maintenance, new, name)
        except BaseException:  # interrupted, too: half a database must not stay
            await maintenance.execute(f"DROP DATABASE IF EXISTS {_name(new)} WITH (FORCE)")
            raise
    if manifest.profile == Profile.TIMESCALE:
        async with sole_connection(dsn, "restore") as conn:
            await conn.execute("SELECT _timescaledb_functions.start_background_workers()")
    return manifest


async def _check_target(dsn: str, manifest: Manifest) -> str:
    """Its name, when it may be replaced."""
    async with sole_connection(dsn, "restore") as conn:
        name = str(await conn.fetchval("SELECT current_database()"))
        major = conn.get_server_version().major
        if major < manifest.server_major:
            raise RestoreRefused(
                f"the backup is of PostgreSQL {manifest.server_major}, and the server is {major}: restore it into "
                f"PostgreSQL {manifest.server_major} or newer"
            )
        busy = await conn.fetch(
            "SELECT application_name AS name FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name LIKE 'marketd-%' AND pid <> pg_backend_pid()"
        )
        if busy:
            names = ", ".join(sorted({row["name"] for row in busy}))
            raise RestoreRefused(f"{names} is connected to the database; stop the daemon first: marketd stop")
        full = [table for table in await tables_of(conn) if table not in _NO_ROWS and await _has_rows(conn, table)]
        if full:
            raise RestoreRefused(
                f"the database {name} has rows in {', '.join(full[:5])}; restore into an empty one (createdb "
                "another, and name it in database.url)"
            )
        foreign = [row["name"] for row in await conn.fetch(_FOREIGN)]
        if foreign:
            raise RestoreRefused(
                f"the database {name} is not marketd's alone: it has {', '.join(foreign)}, which would go with it; "
                "restore into a database of its own"
            )
        await _check_extension(conn, manifest)
    return name


async def _check_extension(conn: asyncpg.Connection[Any], manifest: Manifest) -> None:
    """pg_restore can fill TimescaleDB's catalogue only of the version that dumped it."""
    if not manifest.timescale_version:
        return
    versions = await conn.fetch("SELECT version FROM pg_available_extension_versions WHERE name = 'timescaledb'")
    if manifest.timescale_version not in {row["version"] for row in versions}:
        have = ", ".join(row["version"] for row in versions) or "none"
        raise RestoreRefused(
            f"the backup is of TimescaleDB {manifest.timescale_version}, and the server offers {have}: install "
            f"{manifest.timescale_version}, restore, and upgrade after that"
        )


async def _has_rows(conn: asyncpg.Connection[Any], table: str) -> bool:
    return bool(await conn.fetchval(f"SELECT EXISTS (SELECT FROM marketd.{table})"))


async def _create(maintenance: asyncpg.Connection[Any], new: str) -> None:
    await maintenance.execute(f"DROP DATABASE IF EXISTS {_name(new)} WITH (FORCE)")
    try:
        await maintenance.execute(f"CREATE DATABASE {_name(new)} TEMPLATE template0")
    except asyncpg.InsufficientPrivilegeError as error:
        raise RestoreRefused(
            "the user may not create databases, and a backup is restored into a new one that then takes the place of "
            "the empty one: ALTER ROLE … CREATEDB, or restore as the superuser"
        ) from error


async def _fill(dsn: str, program: Path, source: Path, manifest: Manifest, tell: type_tell) -> None:
    timescale = manifest.profile == Profile.TIMESCALE
    if timescale:
        async with sole_connection(dsn, "restore") as conn:
            await conn.execute(
                f"CREATE EXTENSION timescaledb WITH SCHEMA public VERSION {quote(manifest.timescale_version)}"
            )
            await conn.execute("SELECT public.timescaledb_pre_restore()")
    # whose things are is settled afterwards: the roles of the other server need not be here
    arguments = ["--no-owner", "--no-privileges", "--exit-on-error", "--verbose", str(source / DUMP)]
    tables = (await asyncio.to_thread(contents_of, program, source / DUMP)).count(" TABLE DATA ")
    await run_program(program, arguments, dsn, _Listener(tables, tell).hear)
    async with sole_connection(dsn, "restore") as conn:
        if timescale:
            await conn.execute("SELECT public.timescaledb_post_restore()")
            # until it has its name: they would hold the database, and might drop or compress what is being verified
            await conn.execute("SELECT _timescaledb_functions.stop_background_workers()")
    async with sole_connection(
        dsn, "restore"
    ) as conn:  # anew: a session that was there before post_restore does not see chunks
        await conn.execute("ANALYZE")
        await _verify(conn, manifest, tell)
        await settle_rights(conn)


async def _verify(conn: asyncpg.Connection[Any], manifest: Manifest, tell: type_tell) -> None:
    missing = set(manifest.tables) - set(await tables_of(conn))
    if missing:
        raise RestoreMismatch(f"the restored database lacks {', '.join(sorted(missing))}; nothing was replaced")
    done = 0
    for table, expected in manifest.tables.items():
        tell(Step(f"verifying {table}", done, manifest.rows))
        found = await fingerprint(conn, table)
        if found != expected:
            raise RestoreMismatch(
                f"{table} came back with {found.rows} rows where {expected.rows} were backed up, or with others; "
                "nothing was replaced: is the dump damaged?"
            )
        done += expected.rows


async def _swap(maintenance: asyncpg.Connection[Any], new: str, name: str) -> None:
    """The new database gets the name of the empty one, which then goes; or everything stays as it was.

    One transaction: killed at whatever moment, the name is never without a database. Whoever is still in one of them is
    sent away: TimescaleDB's scheduler looks into every database, again and again.
    """
    old = f"{name}_replaced"
    await maintenance.execute(f"DROP DATABASE IF EXISTS {_name(old)} WITH (FORCE)")
    deadline = time.monotonic() + _RENAME_SECONDS
    while True:
        for each in (name, new):
            await maintenance.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", each)
        try:
            async with maintenance.transaction():
                await maintenance.execute(f"ALTER DATABASE {_name(name)} RENAME TO {_name(old)}")
                await maintenance.execute(f"ALTER DATABASE {_name(new)} RENAME TO {_name(name)}")
            break
        except asyncpg.ObjectInUseError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
    await maintenance.execute(f"DROP DATABASE {_name(old)} WITH (FORCE)")


class _Listener:
    """pg_restore names each table before it fills it."""

    def __init__(self, tables: int, tell: type_tell) -> None:
        self._tables = tables
        self._done = -1
        self._tell = tell

    def hear(self, line: str) -> None:
        match = _RESTORED.search(line)
        if match is not None:
            self._done += 1
            self._tell(Step(f"restoring {match[1].rpartition('.')[2]}", self._done, self._tables))


def _name(database: str) -> str:
    return '"' + database.replace('"', '""') + '"'
