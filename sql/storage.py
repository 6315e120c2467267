"""How much the database holds, how fast it grows, and when its disk is full.

`measure` looks at sizes of files and at PostgreSQL's statistics, never at the rows themselves, so that a daemon may ask
every few minutes. Row counts are therefore estimates. Growth is a difference between two looks (`keep_sample`); until
there are two, what lies in the pieces of the last week.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from marketd.sql.partitions import read_partitioning
from marketd.sql.profiles import Profile, detect_profile
from marketd.sql.retention import Piece, pieces_of_table
from marketd.sql.statements import statements

_SQL = statements("storage")
_DAY = timedelta(days=1)
_WEEK = timedelta(days=7)
SAMPLE_EVERY = timedelta(hours=1)
_LEAST_DAYS = 1.0  # what came in an hour, an import most likely, tells no day's growth


class PieceSize(NamedTuple):
    """A chunk or partition. `packed_…`: what is compressed or packed of it; `bytes_before`: what that took as rows."""

    table: str
    name: str
    start: datetime
    end: datetime
    made: datetime
    rows: int
    bytes: int
    packed_rows: int
    packed_bytes: int
    bytes_before: int


class TableSize(NamedTuple):
    """A table with all its pieces. `growth_bytes`: a day; None when nobody knows yet."""

    table: str
    rows: int
    bytes: int
    pieces: int
    packed_rows: int
    packed_bytes: int
    bytes_before: int
    growth_bytes: float | None
    oldest: datetime | None
    newest: datetime | None

    @property
    def ratio(self) -> float | None:
        """How many times smaller packing made what is packed."""
        return self.bytes_before / self.packed_bytes if self.packed_bytes and self.bytes_before else None


class Disk(NamedTuple):
    """The file system of the data directory."""

    path: str
    free_bytes: int
    total_bytes: int


class StorageReport(NamedTuple):
    """One look at a database; `disk` is None where the server is another machine's, or does not tell."""

    taken_at: datetime
    profile: Profile
    database_bytes: int
    tables: list[TableSize]
    pieces: list[PieceSize]
    disk: Disk | None

    @property
    def growth_bytes(self) -> float | None:
        """Bytes a day over all tables; None when nothing is known of any."""
        known = [table.growth_bytes for table in self.tables if table.growth_bytes is not None]
        return sum(known) if known else None

    @property
    def days_until_full(self) -> float | None:
        """None where the disk is not known, or nothing grows."""
        growth = self.growth_bytes
        return self.disk.free_bytes / growth if self.disk and growth and growth > 0 else None


async def measure(conn: asyncpg.Connection[Any], *, now: datetime | None = None) -> StorageReport:
    """One look, with cheap statements only."""
    now = now or datetime.now(UTC)
    profile = await detect_profile(conn)
    rows = await _pieces(conn, profile)
    pieces = rows + await _packed(conn, rows)
    earlier = {row["table_name"]: row for row in await conn.fetch(_SQL["earlier"], now)}
    server = await conn.fetchrow(_SQL["server"])
    assert server is not None
    tables = _cut_tables(pieces, await _cut_names(conn)) + await _whole_tables(conn)
    return StorageReport(
        now,
        profile,
        server["database_bytes"],
        [_with_growth(table, pieces, earlier.get(table.table), now) for table in tables],
        pieces,
        disk_of(server["data_directory"]) if server["is_local"] else None,
    )


async def with_exact_edges(conn: asyncpg.Connection[Any], report: StorageReport) -> StorageReport:
    """The report with the times of the oldest and newest rows, where `measure` knows only their pieces'."""
    tables = []
    for table in report.tables:
        edges = sorted((piece.start, piece.end) for piece in report.pieces if piece.table == table.table)
        if edges and await conn.fetchval("SELECT true FROM partitioned_tables WHERE table_name = $1", table.table):
            cut = await read_partitioning(conn, table.table)
            statement = _SQL["edges"].format(table=cut.table, time=cut.time_column)
            first = await conn.fetchrow(statement, *edges[0])
            last = first if len(edges) == 1 else await conn.fetchrow(statement, *edges[-1])
            assert first is not None and last is not None
            table = table._replace(oldest=first["first"] or table.oldest, newest=last["last"] or table.newest)
        tables.append(table)
    return report._replace(tables=tables)


async def keep_sample(conn: asyncpg.Connection[Any], report: StorageReport) -> bool:
    """Remember the sizes for growth, once an hour over all daemons of the database; whether it was time."""
    async with conn.transaction():
        newest = await conn.fetchval(_SQL["newest_sample"])
        if newest is not None and report.taken_at - newest < SAMPLE_EVERY:
            return False
        rows = [(report.taken_at, table.table, table.bytes, table.rows) for table in report.tables]
        await conn.executemany(_SQL["add_sample"], rows)
        await conn.execute(_SQL["forget_samples"], report.taken_at)
    return True


def disk_of(path: str | Path | None) -> Disk | None:
    """The file system that holds a directory of this machine; None when it cannot be looked at."""
    if not path:
        return None
    try:
        found = os.statvfs(path)
    except OSError:
        return None  # not of this machine, a container's, or behind a directory that is not ours to enter
    return Disk(str(path), found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)


def next_cut(pieces: Iterable[PieceSize], table: str, kept: timedelta) -> datetime | None:
    """When the next piece of a table is old enough to go (sql/retention.py)."""
    return min((max(piece.end, piece.made) + kept for piece in pieces if piece.table == table), default=None)


async def _pieces(conn: asyncpg.Connection[Any], profile: Profile) -> list[PieceSize]:
    sizes = await conn.fetch(_SQL["chunks" if profile is Profile.TIMESCALE else "partitions"])
    known = {(row["table_name"], row["name"]): row for row in sizes}
    found = []
    for table, piece in await _times(conn, profile):
        row = known.get((table, piece.name))
        if row is not None:  # else made since
            packed = row["packed_rows"] or 0
            found.append(
                PieceSize(
                    table,
                    *piece,
                    rows=row["rows"] + packed,
                    bytes=row["bytes"],
                    packed_rows=packed,
                    packed_bytes=row["packed_bytes"] or 0,
                    bytes_before=row["bytes_before"] or 0,
                )
            )
    return found


async def _packed(conn: asyncpg.Connection[Any], rows: list[PieceSize]) -> list[PieceSize]:
    """Packed blocks, a piece a day. What they were before nobody has noted: as many bytes a row as rows of the table
    take now; unknown (0) where all is packed.
    """
    a_row = {table.table: table.bytes / table.rows for table in _cut_tables(rows, []) if table.rows}
    found = []
    for row in await conn.fetch(_SQL["packed"]):
        before = round(a_row.get(row["table_name"], 0.0) * row["rows"])
        times = (row["start"], row["end"], row["made"])
        sizes = (row["rows"], row["bytes"], row["rows"], row["bytes"], before)
        found.append(PieceSize(row["table_name"], row["name"], *times, *sizes))
    return found


async def _times(conn: asyncpg.Connection[Any], profile: Profile) -> list[tuple[str, Piece]]:
    """Every piece of every table with its stretch of time."""
    found = [(table, piece) for table in await _cut_names(conn) for piece in await pieces_of_table(conn, table)]
    if profile is Profile.TIMESCALE:
        rows = await conn.fetch(_SQL["aggregate_pieces"])
        found += [(r["table_name"], Piece(r["name"], r["range_start"], r["range_end"], r["made"])) for r in rows]
    return found


async def _cut_names(conn: asyncpg.Connection[Any]) -> list[str]:
    rows = await conn.fetch("SELECT table_name FROM partitioned_tables ORDER BY table_name")
    return [row["table_name"] for row in rows]


def _cut_tables(pieces: list[PieceSize], names: list[str]) -> list[TableSize]:
    by_table: dict[str, list[PieceSize]] = defaultdict(list)
    for piece in pieces:
        by_table[piece.table].append(piece)
    return [_table(name, by_table[name]) for name in dict.fromkeys([*names, *by_table])]


def _table(name: str, pieces: list[PieceSize]) -> TableSize:
    return TableSize(
        name,
        sum(piece.rows for piece in pieces),
        sum(piece.bytes for piece in pieces),
        len(pieces),
        sum(piece.packed_rows for piece in pieces),
        sum(piece.packed_bytes for piece in pieces),
        sum(piece.bytes_before for piece in pieces),
        None,
        min((piece.start for piece in pieces), default=None),
        max((piece.end for piece in pieces), default=None),
    )


async def _whole_tables(conn: asyncpg.Connection[Any]) -> list[TableSize]:
    rows = await conn.fetch(_SQL["whole_tables"])
    return [TableSize(row["table_name"], row["rows"], row["bytes"], 0, 0, 0, 0, None, None, None) for row in rows]


def _with_growth(
    table: TableSize, pieces: list[PieceSize], earlier: Mapping[str, Any] | None, now: datetime
) -> TableSize:
    if earlier is not None:
        return table._replace(growth_bytes=(table.bytes - earlier["bytes"]) / ((now - earlier["taken_at"]) / _DAY))
    growth = _of_the_last_week([piece for piece in pieces if piece.table == table.table], now)
    return table if growth is None else table._replace(growth_bytes=growth)


def _of_the_last_week(pieces: list[PieceSize], now: datetime) -> float | None:
    """Bytes a day of what lies in the last week: of a piece that reaches out of it its share, as if evenly filled."""
    since = now - _WEEK
    recent = [piece for piece in pieces if piece.end > since and piece.start < now]
    if not recent:
        return None
    filled = 0.0
    for piece in recent:
        end = min(piece.end, now)
        filled += piece.bytes * ((end - max(piece.start, since)) / (end - piece.start))
    first, last = min(piece.start for piece in recent), max(piece.end for piece in recent)
    return filled / max((min(last, now) - max(first, since)) / _DAY, _LEAST_DAYS)
