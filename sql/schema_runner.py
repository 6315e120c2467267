"""Brings the schema of a database to what this marketd needs, and tells how far it is.

Each file is applied once, in one transaction with its row in `schema_changes`, under an advisory lock, so
that actors that start together do not collide. Files are never edited after they were applied: a checksum
that changed is an error, and so is a database that knows a file which this marketd does not. There is no
way back down; that is what backups are for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import asyncpg

from marketd.sql.errors import SchemaBehind, SchemaBusy, SchemaChanged, SchemaError, SchemaTooNew
from marketd.sql.profiles import Profile, ServerFacts, describe_server, profile_for
from marketd.sql.retry import is_retryable
from marketd.sql.rights import settle_rights
from marketd.sql.schema_files import SchemaFile, bootstrap_sql, load_schema_files
from marketd.sql.troubles import said_by

logger = logging.getLogger(__name__)

LOCK_KEY = 0x6D61726B65746401  # "marketd" and a number: the schema
_LOCK_POLL_SECONDS = 0.1
_NAMED = 3  # of the files that are missing, in a sentence
BUSY_SECONDS = 900.0  # for a table that somebody uses: TimescaleDB's jobs may sum up weeks before they let go of one
# Long work is in order here. Who waits for a table holds up all that come after, so that it lets go and tries again.
_SESSION = "SET search_path = marketd, public; SET statement_timeout = 0; SET lock_timeout = '30s'"


class AppliedChange(NamedTuple):
    name: str
    checksum: str


class SchemaStatus(NamedTuple):
    profile: Profile
    applied: list[AppliedChange]
    pending: list[SchemaFile]
    problem: SchemaError | None

    @property
    def current(self) -> bool:
        return not self.pending and self.problem is None


def schema_gate() -> Callable[[asyncpg.Connection[Any]], Awaitable[Profile]]:
    """For the connections of whoever works with the schema (`DatabaseConnectionManager`): asks it, with the files read
    once, to be what this marketd knows."""
    files = load_schema_files()

    async def require(conn: asyncpg.Connection[Any]) -> Profile:
        return await SchemaRunner(conn, files).require_current()

    return require


class SchemaRunner:
    """Works on one connection that nobody else uses meanwhile."""

    def __init__(self, conn: asyncpg.Connection[Any], files: list[SchemaFile] | None = None) -> None:
        self._conn = conn
        self._files = load_schema_files() if files is None else files

    async def status(self) -> SchemaStatus:
        """How far the schema is; changes nothing."""
        facts = await describe_server(self._conn)
        return self._status(profile_for(facts), await self._applied(facts))

    async def plan(self) -> list[SchemaFile]:
        """The files that `apply` would apply; raises what would stop it."""
        return _sound(await self.status()).pending

    async def require_current(self) -> Profile:
        """For actors that do not change the schema: its profile, or SchemaBehind naming what is missing."""
        status = _sound(await self.status())
        if status.pending:
            names = ", ".join(file.name for file in status.pending[:_NAMED])
            if len(status.pending) > _NAMED:
                names += f" and {len(status.pending) - _NAMED} more"
            raise SchemaBehind(f"the schema lacks {names}; run: marketd schema apply")
        return status.profile

    async def apply(self, *, profile: Profile | None = None, timeout_seconds: float = 60.0) -> list[SchemaFile]:
        """Apply what is pending; which files that were. `profile` forces one on a database that is new.

        Waits for another runner up to `timeout_seconds`, then SchemaBusy. A file that fails leaves those
        before it applied.
        """
        await self._conn.execute(_SESSION)
        await self._lock(time.monotonic() + timeout_seconds, timeout_seconds)
        try:
            settled = await self._settle_profile(profile)
            pending = _sound(self._status(settled, await self._applied(await describe_server(self._conn)))).pending
            if pending:
                await self._conn.execute(bootstrap_sql())
            for file in pending:
                await self._apply_one(file, settled)
            await settle_rights(self._conn)
        finally:
            await self._unlock()
        return pending

    async def _apply_one(self, file: SchemaFile, profile: Profile) -> None:
        began = time.monotonic()
        while True:
            try:
                await self._try_one(file, profile, began)
                break
            except SchemaBusy as error:
                if time.monotonic() - began >= BUSY_SECONDS:
                    raise
                logger.warning("%s; trying again", error, extra={"action": "schema_waits", "file": file.name})
        logger.info("schema change %s applied", file.name, extra={"action": "schema_change", "file": file.name})

    async def _try_one(self, file: SchemaFile, profile: Profile, began: float) -> None:
        if not file.transaction:
            await self._run(file)
            await self._record(file, profile, began)
            return
        async with self._conn.transaction():
            await self._run(file)
            await self._record(file, profile, began)

    async def _run(self, file: SchemaFile) -> None:
        for statement in file.statements:
            try:
                await self._conn.execute(statement)
            except asyncpg.LockNotAvailableError as error:
                raise SchemaBusy(f"schema change {file.name} waits for a table that is in use") from error
            except asyncpg.PostgresError as error:
                if is_retryable(error):
                    raise  # the server's trouble, not the file's
                raise SchemaError(f"schema file {file.name}.sql failed: {error.sqlstate} {said_by(error)}") from error

    async def _record(self, file: SchemaFile, profile: Profile, began: float) -> None:
        await self._conn.execute(
            "INSERT INTO marketd.schema_changes (name, checksum, profile, took_ms) VALUES ($1, $2, $3, $4)",
            file.name,
            file.checksum,
            profile.value,
            round((time.monotonic() - began) * 1000),
        )

    async def _applied(self, facts: ServerFacts) -> list[AppliedChange]:
        if facts.recorded is None:
            return []
        rows = await self._conn.fetch("SELECT name, checksum FROM marketd.schema_changes ORDER BY name")
        return [AppliedChange(row["name"], row["checksum"]) for row in rows]

    def _status(self, profile: Profile, applied: list[AppliedChange]) -> SchemaStatus:
        mine = [file for file in self._files if file.concerns(profile)]
        names = {change.name for change in applied}
        pending = [file for file in mine if file.name not in names]
        return SchemaStatus(profile, applied, pending, _problem(mine, applied, pending))

    async def _settle_profile(self, wanted: Profile | None) -> Profile:
        """The profile that the files are applied for. Whether an installable TimescaleDB has the right
        licence shows only once it is installed; if not, it goes again."""
        facts = await describe_server(self._conn)
        profile = profile_for(facts)
        if wanted is not None and facts.recorded not in (None, wanted):
            raise SchemaError(f"the schema was made for the profile {facts.recorded} and cannot turn into {wanted}")
        if Profile.POSTGRES in (profile, wanted):
            if wanted is Profile.TIMESCALE:
                raise SchemaError("the profile timescale needs TimescaleDB 2.20 or newer, preloaded, Community edition")
            return Profile.POSTGRES
        if facts.timescale_installed:
            return profile
        await self._conn.execute("CREATE EXTENSION IF NOT EXISTS timescaledb WITH SCHEMA public")
        settled = profile_for(await describe_server(self._conn))
        if settled is Profile.POSTGRES:
            await self._conn.execute("DROP EXTENSION timescaledb")
        return settled

    async def _lock(self, deadline: float, budget_seconds: float) -> None:
        # trying, not waiting: a wait inside of the server would hold a snapshot, and count against
        # lock_timeout
        while not await self._conn.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_KEY):
            if time.monotonic() >= deadline:
                raise SchemaBusy(f"another marketd has been changing the schema for over {budget_seconds:g} s")
            await asyncio.sleep(_LOCK_POLL_SECONDS)

    async def _unlock(self) -> None:
        if not self._conn.is_closed():  # its end has freed the lock
            await self._conn.execute("SELECT pg_advisory_unlock($1)", LOCK_KEY)
            await self._conn.execute("RESET search_path; RESET statement_timeout; RESET lock_timeout")


def _sound(status: SchemaStatus) -> SchemaStatus:
    if status.problem is not None:
        raise status.problem
    return status


def _problem(mine: list[SchemaFile], applied: list[AppliedChange], pending: list[SchemaFile]) -> SchemaError | None:
    by_name = {file.name: file for file in mine}
    for change in applied:
        file = by_name.get(change.name)
        if file is None:
            return SchemaTooNew(
                f"the database has the schema change {change.name}, which this marketd does not know; run "
                "the marketd that applied it, or a newer one"
            )
        if file.checksum != change.checksum:
            return SchemaChanged(
                f"schema file {change.name}.sql is not the one that was applied to this database; restore "
                "it, and put what is to change into a new file"
            )
    if applied and pending and pending[0].name < applied[-1].name:
        return SchemaChanged(
            f"schema file {pending[0].name}.sql is new, but later ones were applied; give it the next number"
        )
    return None
