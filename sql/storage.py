"""How much the database holds, how fast it grows, and when its disk is full.

`measure` looks at sizes of files, at PostgreSQL's statistics and at the ends of indexes, so that a daemon may ask every
few minutes. Row counts are therefore estimates. Growth is a difference between two looks (`keep_sample`) that lie an
hour apart at least; until there are two, nobody knows it.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from marketd.sql.profiles import Profile, detect_profile
from marketd.sql.retention import Piece, pieces_of_table
from marketd.sql.statements import statements

_SQL = statements("storage")
_DAY = timedelta(days=1)
SAMPLE_EVERY = timedelta(hours=1)


class PieceSize(NamedTuple):
    """A chunk or partition. `packed_…`: what is compressed or packed of it; `bytes_before`: what that took as rows.
    `oldest`, `newest`: of packed blocks, which tell it."""

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
    oldest: datetime | None = None
    newest: datetime | None = None

    @property
    def ratio(self) -> float | None:
        """As of a table."""
        return self.bytes_before / self.packed_bytes if self.packed_bytes and self.bytes_before else None


class TableSize(NamedTuple):
    """A table with all its pieces. `growth_bytes`: a day; None when nobody knows yet. `oldest`, `newest`: times of its
    rows; None when it has none, or is not cut by time."""

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
    """One look, with cheap statements only: none reads more of a table than the ends of its indexes."""
    now = now or datetime.now(UTC)
    profile = await detect_profile(conn)
    rows = await _pieces(conn, profile)
    pieces = rows + await _packed(conn, rows)
    earlier = {row["table_name"]: row for row in await conn.fetch(_SQL["earlier"], now)}
    server = await conn.fetchrow(_SQL["server"])
    assert server is not None
    sources = await _sources(conn, profile)
    cut = _cut_tables(pieces, await _cut_names(conn))
    tables = [await _with_edges(conn, table, pieces, sources.get(table.table)) for table in cut]
    tables += await _whole_tables(conn)
    return StorageReport(
        now,
        profile,
        server["database_bytes"],
        [_with_growth(table, earlier.get(table.table), now) for table in tables],
        pieces,
        disk_of(server["data_directory"]) if server["is_local"] else None,
    )


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
    """Packed blocks, a piece a day. What they were before was measured when they were packed; of blocks that an earlier
    marketd packed as many bytes a row as rows of the table take now, unknown (0) where all is packed.
    """
    a_row = {table.table: table.bytes / table.rows for table in _cut_tables(rows, []) if table.rows}
    found = []
    for row in await conn.fetch(_SQL["packed"]):
        unmeasured = row["rows"] - row["measured_rows"]
        before = row["bytes_before"] + round(a_row.get(row["table_name"], 0.0) * unmeasured)
        times = (row["start"], row["end"], row["made"])
        sizes = (row["rows"], row["bytes"], row["rows"], row["bytes"], before)
        found.append(PieceSize(row["table_name"], row["name"], *times, *sizes, row["oldest"], row["newest"]))
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
        None,
        None,
    )


async def _whole_tables(conn: asyncpg.Connection[Any]) -> list[TableSize]:
    rows = await conn.fetch(_SQL["whole_tables"])
    return [TableSize(row["table_name"], row["rows"], row["bytes"], 0, 0, 0, 0, None, None, None) for row in rows]


def _with_growth(table: TableSize, earlier: Mapping[str, Any] | None, now: datetime) -> TableSize:
    if earlier is None:
        return table
    return table._replace(growth_bytes=(table.bytes - earlier["bytes"]) / ((now - earlier["taken_at"]) / _DAY))


async def _with_edges(
    conn: asyncpg.Connection[Any], table: TableSize, pieces: list[PieceSize], where: tuple[str, str] | None
) -> TableSize:
    """With the times of its oldest and newest row: of blocks as they tell them, of rows by the ends of indexes.

    `where`: the relation that has the rows, and its column of time.
    """
    own = [piece for piece in pieces if piece.table == table.table]
    found = [(piece.oldest, piece.newest) for piece in own if piece.oldest is not None and piece.newest is not None]
    if where is not None:
        spans = sorted((piece.start, piece.end) for piece in own if piece.oldest is None)
        statement = _SQL["edges"].format(table=where[0], time=where[1])
        for inwards in (spans, spans[::-1]):  # the pieces at an end may be empty
            for span in inwards:
                edge = await conn.fetchrow(statement, *span)
                assert edge is not None
                if edge["first"] is not None:
                    found.append((edge["first"], edge["last"]))
                    break
    if not found:
        return table
    return table._replace(oldest=min(first for first, _ in found), newest=max(last for _, last in found))


async def _sources(conn: asyncpg.Connection[Any], profile: Profile) -> dict[str, tuple[str, str]]:
    """By table that is cut: the relation that has its rows, and the column of their time."""
    rows = await conn.fetch("SELECT table_name, time_column FROM partitioned_tables")
    found = {row["table_name"]: (row["table_name"], row["time_column"]) for row in rows}
    if profile is Profile.TIMESCALE:
        found |= {row["table_name"]: (row["relation"], "ts") for row in await conn.fetch(_SQL["aggregates"])}
    return found
