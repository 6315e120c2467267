"""From a database of the `postgres` profile into one of either, piece by piece, each verified: `marketd schema move`.

The source is only read. Each piece (a day of trades, …) is one transaction in the target, with its fingerprint in
`moved_pieces`; interrupted, the same call goes on from there. While a daemon writes into the source, pieces are copied
and nothing is final. Once it is stopped, commits into the source are locked out, every piece is compared with the
source again (what changed since is copied anew), and the small tables and the journals' offsets follow in one
transaction: from then on a writer goes on in the target, exactly where it stopped in the source.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

import asyncpg

from marketd.sql.copy_across import CopyMismatch, replace_rows
from marketd.sql.errors import DatabaseError
from marketd.sql.fingerprint import EMPTY, Fingerprint, fingerprint, tables_of
from marketd.sql.move_packed import BLOCKS, block_windows, blocks_in, partitioning_of, unpack_into
from marketd.sql.partitions import ensure_partitions, read_partitioning
from marketd.sql.profiles import Profile, detect_profile
from marketd.sql.retention import pieces_of_table
from marketd.sql.schema_runner import SchemaRunner
from marketd.sql.series import declared_series, ensure_series_table
from marketd.sql.statements import statements
from marketd.sql.storage import measure

logger = logging.getLogger(__name__)
_SQL = statements("move")
_JOURNALS = "journal_commits"
_LOCK_SECONDS = 30.0
_ALONE_SECONDS = 5.0  # so long the server may take to notice that another one was killed
# the target's own account of itself; the declared series were made there before
_OWN = frozenset({"schema_changes", "partitioned_tables", "series_fields", "storage_samples", "moved_pieces"})


class MoveRefused(DatabaseError):
    """The database cannot be moved there."""


class Stretch(NamedTuple):
    """A piece of a table in the source; `bytes` is what it takes there."""

    table: str
    time_column: str
    start: datetime
    end: datetime
    bytes: int

    @property
    def span(self) -> tuple[str, datetime, datetime]:
        return self.time_column, self.start, self.end


class Moved(NamedTuple):
    """What one call did. `daemons`: who writes into the source, so that it is not finished; else it is."""

    copied: int
    kept: int
    rows: int
    daemons: list[str]

    @property
    def finished(self) -> bool:
        return not self.daemons


type_tell = Callable[[str, int, int], None]  # what is under way, bytes done, bytes in all


async def move(source: asyncpg.Connection[Any], target: asyncpg.Connection[Any], tell: type_tell) -> Moved:
    """Move what is not in the target yet. `source` and `target`: connections that nobody else uses.

    Raises MoveRefused before anything is written, CopyMismatch when a piece does not come out alike.
    """
    identity, profile = await _prepare(source, target)
    daemons = [row["name"] for row in await source.fetch(_SQL["daemons"])]
    mover = _Mover(source, target, identity, profile, tell)
    if daemons:
        await mover.copy_pieces(trust_moved=True)
    else:
        # the lock is a transaction's; pieces are read inside of it, so that nothing can change behind them
        async with source.transaction():
            await _stop_commits(source)
            await mover.copy_pieces(trust_moved=False)
            await mover.copy_the_rest()
    return Moved(mover.copied, mover.kept, mover.rows, daemons)


async def _prepare(source: asyncpg.Connection[Any], target: asyncpg.Connection[Any]) -> tuple[str, Profile]:
    """Both schemas as this marketd needs them; what the source is called in the target's account, whose profile."""
    if await SchemaRunner(source).require_current() is Profile.TIMESCALE:
        raise MoveRefused(
            "the source has the profile timescale, whose summed-up bars cannot be moved as rows: marketd storage "
            "backup, and restore it there"
        )
    identity = str(await source.fetchval(_SQL["identity"]))
    await _be_alone(target)
    await SchemaRunner(target).apply()
    if identity == await target.fetchval(_SQL["identity"]):
        raise MoveRefused("--to names the database that is to be moved")
    others = {row["source"] for row in await target.fetch(_SQL["moved"])} - {identity}
    if others:
        raise MoveRefused(f"another database is being moved there: {', '.join(sorted(others))}; name an empty one")
    if await target.fetchval(f"SELECT EXISTS (SELECT FROM marketd.{_JOURNALS})"):
        raise MoveRefused(
            "the target has journals already: it was moved there before, or a daemon writes there; set database.url to "
            "it, or name an empty one"
        )
    await _refuse_rows_of_others(target)
    for name, fields in (await declared_series(source)).items():
        await ensure_series_table(target, name, fields)
    return identity, await detect_profile(target)


async def _stop_commits(source: asyncpg.Connection[Any]) -> None:
    try:
        await source.execute(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS:g}s'")
        await source.execute(_SQL["stop_commits"])
    except asyncpg.LockNotAvailableError as error:
        raise MoveRefused(
            "somebody, not a daemon, is in the middle of writing into the source's journal_commits: look for a session "
            "that is idle in its transaction in pg_stat_activity"
        ) from error


async def _be_alone(target: asyncpg.Connection[Any]) -> None:
    deadline = time.monotonic() + _ALONE_SECONDS
    while not await target.fetchval(_SQL["try_alone"]):
        if time.monotonic() >= deadline:
            raise MoveRefused("another marketd moves into that database at this moment; once it has ended, go on")
        await asyncio.sleep(0.1)


async def _refuse_rows_of_others(target: asyncpg.Connection[Any]) -> None:
    """What stands there was moved there, or it must not be touched."""
    if await target.fetchval("SELECT EXISTS (SELECT FROM marketd.moved_pieces)"):
        return
    for table in await tables_of(target):
        if table not in _OWN and await target.fetchval(f"SELECT EXISTS (SELECT FROM marketd.{table})"):
            raise MoveRefused(f"the target has rows in {table}, which would be lost; name an empty database")


def _state(rows: Fingerprint, blocks: Fingerprint) -> str:
    return f"{rows.rows} {rows.digest}" + (f" {blocks.rows} {blocks.digest}" if blocks.rows else "")


class _Mover:
    """One call of `move`."""

    def __init__(
        self,
        source: asyncpg.Connection[Any],
        target: asyncpg.Connection[Any],
        identity: str,
        profile: Profile,
        tell: type_tell,
    ) -> None:
        """`identity`: of the source. `profile`: of the target."""
        self._source = source
        self._target = target
        self._identity = identity
        self._profile = profile
        self._tell = tell
        self.copied = self.kept = self.rows = 0

    async def copy_pieces(self, *, trust_moved: bool) -> None:
        """All pieces of all tables that are cut by time. `trust_moved`: what was moved before is not compared again."""
        moved = await self._moved()
        stretches = await self._stretches(moved)
        total, done = sum(stretch.bytes for stretch in stretches), 0
        for stretch in stretches:
            self._tell(f"{stretch.table} {stretch.start:%Y-%m-%d}", done, total)
            before = moved.get((stretch.table, stretch.start))
            if before is not None and (trust_moved or before.digest == await self._in_source(stretch)):
                self.kept += 1
                self.rows += before.rows
            else:
                self.rows += (await self._copy(stretch)).rows
                self.copied += 1
            done += stretch.bytes

    async def copy_the_rest(self) -> None:
        """The tables that are not cut and, last, the journals' offsets: all of them or none."""
        tables = [table for table in await tables_of(self._source) if table not in _OWN and table != _JOURNALS]
        rows = await self._source.fetch("SELECT table_name FROM marketd.partitioned_tables")
        cut = {BLOCKS, *(row["table_name"] for row in rows)}
        async with self._target.transaction():
            for table in (*(table for table in tables if table not in cut), _JOURNALS):
                self._tell(table, 0, 0)
                self.rows += (await replace_rows(self._source, self._target, table)).rows
                await self._number_on(table)
            if self._profile is Profile.TIMESCALE:
                await self._target.execute(_SQL["all_seconds_due"])
        logger.info("the database was moved", extra={"action": "database_moved", "pieces": self.copied + self.kept})

    async def _moved(self) -> dict[tuple[str, datetime], Fingerprint]:
        rows = await self._target.fetch(_SQL["moved"])
        return {(row["table_name"], row["piece_start"]): Fingerprint(row["rows"], row["digest"]) for row in rows}

    async def _stretches(self, moved: dict[tuple[str, datetime], Fingerprint]) -> list[Stretch]:
        """The source's pieces and blocks, and what was moved and is gone there since (retention): it goes here, too."""
        sizes = {piece.name: piece.bytes for piece in (await measure(self._source)).pieces}
        found: dict[tuple[str, datetime], Stretch] = {}
        for row in await self._source.fetch("SELECT table_name FROM marketd.partitioned_tables ORDER BY table_name"):
            cut = await read_partitioning(self._source, row["table_name"])
            for piece in await pieces_of_table(self._source, cut.table):
                stretch = Stretch(cut.table, cut.time_column, piece.start, piece.end, sizes.get(piece.name, 0))
                found[cut.table, piece.start] = stretch
        for window in await block_windows(self._source, self._profile):
            rows = found.get((window.table, window.start))
            found[window.table, window.start] = Stretch(*window[:4], window.bytes + (rows.bytes if rows else 0))
        for row in await self._target.fetch(_SQL["moved"]):
            cut = await partitioning_of(self._target, row["table_name"])
            gone = Stretch(cut.table, cut.time_column, row["piece_start"], row["piece_end"], 0)
            found.setdefault((cut.table, gone.start), gone)
        return [found[key] for key in sorted(found)]

    async def _in_source(self, stretch: Stretch) -> str:
        """What tells whether it has changed since it was moved."""
        rows = await fingerprint(self._source, stretch.table, stretch.span)
        return _state(rows, await self._blocks_in_source(stretch))

    async def _blocks_in_source(self, stretch: Stretch) -> Fingerprint:
        """Of those that are unpacked here; into the other profile they are moved by themselves."""
        if self._profile is Profile.POSTGRES:
            return EMPTY
        return await blocks_in(self._source, stretch.table, stretch.span)

    async def _copy(self, stretch: Stretch) -> Fingerprint:
        if stretch.table != BLOCKS:
            first, last = round(stretch.start.timestamp()) * 10**9, round(stretch.end.timestamp()) * 10**9 - 1
            await ensure_partitions(self._target, stretch.table, first, last)
        async with self._source.transaction(isolation=self._isolation(), readonly=True), self._target.transaction():
            sent = await replace_rows(self._source, self._target, stretch.table, stretch.span)
            blocks = await self._blocks_in_source(stretch)
            found = await self._with_unpacked(stretch, sent) if blocks.rows else sent
            state = _state(sent, blocks)
            await self._target.execute(
                _SQL["note_moved"], stretch.table, stretch.start, stretch.end, self._identity, found.rows, state
            )
        return found

    async def _with_unpacked(self, stretch: Stretch, sent: Fingerprint) -> Fingerprint:
        """Beside its rows the rows of its blocks; all of the stretch."""
        expected = sent.plus(await unpack_into(self._source, self._target, stretch.table, stretch.span))
        found = await fingerprint(self._target, stretch.table, stretch.span)
        if found != expected:
            raise CopyMismatch(
                f"{stretch.table}: {expected.rows} rows were sent and unpacked, and {found.rows} arrived, or others"
            )
        return found

    def _isolation(self) -> Any:
        # inside of the lock's transaction nothing changes anyhow, and a savepoint has no level of its own
        return None if self._source.is_in_transaction() else "repeatable_read"

    async def _number_on(self, table: str) -> None:
        """New rows get numbers behind those that were moved."""
        for row in await self._target.fetch(_SQL["identity_columns"], table):
            await self._target.execute(
                f"SELECT setval('{row['sequence']}', max(\"{row['name']}\")) FROM marketd.{table}"
                f' HAVING max("{row["name"]}") IS NOT NULL'
            )
