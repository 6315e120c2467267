"""Dropping what is too old: whole pieces (chunks, partitions, packed blocks) of the tables that are cut by time.

A piece goes when all of its time lies before a moment and it was made before it, too: what was stored lately, such as
an import of old records, is not old. Each piece is dropped in a transaction of its own that waits only briefly for
readers; what cannot be had goes the next time, and while an answer takes long no further piece of the table is tried.
That transaction tells it in `expired`, as the ledger says OBSERVED, and has that table for itself: an answer sees the
piece, or that it is gone (`sql/picture.py`).

Before bars of a second go, the longer ones that TimescaleDB makes of them (sql/levels.py) are summed up; they are kept
from then on.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import asyncpg

from marketd.market.records import BY_NAME, KINDS
from marketd.market.rows import BAR_VERSIONS, ONE_SECOND_BARS
from marketd.sql.levels import SECONDS_TABLE, Window, has_levels, is_due, keep_levels, refresh_all_of
from marketd.sql.partitions import MADE, Partitioning, read_partitioning
from marketd.sql.policies import refreshes_reach
from marketd.sql.statements import statements

LOCK_TIMEOUT = "250ms"  # while it waits for an answer, whoever comes later waits behind it
PIECE_TIMEOUT = "50ms"  # for each lock of the piece itself: all answers wait behind these, too
_WAITED_TOO_LONG = asyncpg.LockNotAvailableError
# by table, the number that the ledger has for what it holds
_STREAMS = {kind.table: kind.id for kind in KINDS if kind.table} | dict.fromkeys(
    (ONE_SECOND_BARS, BAR_VERSIONS), BY_NAME["candle"].id
)
# by table, which replaced versions are those of its bars
_BAR_TIMEFRAMES = {SECONDS_TABLE: "timeframe = 1", "candles": "timeframe > 1"}
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class Piece(NamedTuple):
    """A chunk or partition; its end is exclusive. `made`: when; 1970 when nobody knows."""

    name: str
    start: datetime
    end: datetime
    made: datetime


class Dropped(NamedTuple):
    """Names of the pieces that are gone, and of those that were in use or still needed."""

    gone: list[str]
    in_use: list[str]


async def pieces_of_table(conn: asyncpg.Connection[Any], table: str) -> list[Piece]:
    """The pieces of a table, the oldest first; none when there is no such table. PartitionRefused when marketd does not
    cut it by time.
    """
    if await conn.fetchval("SELECT to_regclass(format('marketd.%I', $1::text))", table) is None:
        return []
    cut = await read_partitioning(conn, table)
    found = await (_partitions(conn, cut) if cut.native else _chunks(conn, table))
    return sorted(found, key=lambda piece: piece.start)


async def drop_old_pieces(conn: asyncpg.Connection[Any], table: str, before: datetime) -> Dropped:
    """Drop the pieces of `table`, and its packed blocks, that end at `before` or earlier, and were made before it."""
    dropped = Dropped([], [])
    old = [piece for piece in await pieces_of_table(conn, table) if piece.end <= before and piece.made < before]
    for place, piece in enumerate(old):
        try:
            await _drop(conn, table, piece)
        except _AnswersUnderWay:
            dropped.in_use.extend(left.name for left in old[place:])  # each of them would keep new answers waiting anew
            break
        except (_WAITED_TOO_LONG, _StillNeeded):
            dropped.in_use.append(piece.name)
        else:
            dropped.gone.append(piece.name)
    # what was packed of them went from the pieces long ago (sql/packing.py)
    packed = statements("packed")
    async with conn.transaction():
        rows = await conn.fetch(packed["drop_old"], table, before, _STREAMS.get(table))
        if table == SECONDS_TABLE:
            await conn.executemany(packed["drop_replaced"], [tuple(row.values())[1:] for row in rows])
    dropped.gone.extend(row["name"] for row in rows)
    return dropped


class _AnswersUnderWay(Exception):
    """One takes longer than may be waited for."""


class _StillNeeded(Exception):
    """Longer bars are not made of it yet, or would be made again without it."""


async def _drop(conn: asyncpg.Connection[Any], table: str, piece: Piece) -> None:
    window = Window(piece.start, piece.end)
    has_longer = table == SECONDS_TABLE and await has_levels(conn)
    if has_longer:
        await refresh_all_of(conn, window)
    async with conn.transaction():
        await conn.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        if table in _BAR_TIMEFRAMES:
            # The newest of them would count in place of the bar that is gone. Before the drop, whose lock stops
            # everybody; instrument by instrument, as their key is.
            await conn.execute(
                "DELETE FROM marketd.candle_versions"
                " WHERE instrument_id = ANY (ARRAY(SELECT instrument_id FROM marketd.instruments))"
                f" AND {_BAR_TIMEFRAMES[table]} AND ts >= $1 AND ts < $2",
                *window,
            )
        # before the piece's own lock, as readers have them
        try:
            await conn.execute("LOCK TABLE marketd.expired IN ACCESS EXCLUSIVE MODE")
        except _WAITED_TOO_LONG as error:
            raise _AnswersUnderWay from error
        await conn.execute(f"SET LOCAL lock_timeout = '{PIECE_TIMEOUT}'")
        stream = _STREAMS.get(table)
        if stream is not None:  # else nobody takes its rows for complete
            await conn.execute(
                "INSERT INTO marketd.expired (stream, of_table, ts_start, ts_end) VALUES ($1, $2, $3, $4)",
                stream,
                table,
                piece.start,
                piece.end,
            )
        if (await read_partitioning(conn, table)).native:
            # another daemon of this database may have been quicker; the name is one that we made
            await conn.execute(f"DROP TABLE IF EXISTS marketd.{piece.name}")
        else:
            await conn.execute(
                "SELECT public.drop_chunks(format('marketd.%I', $1::text)::regclass,"
                " older_than => $2::timestamptz, newer_than => $3::timestamptz)",
                table,
                piece.end,
                piece.start,
            )
        if has_longer:
            # asked under the lock of the drop: whoever stored a late bar meanwhile has committed its note, too
            if await is_due(conn, window) or await refreshes_reach(conn, piece.end):
                raise _StillNeeded
            await keep_levels(conn, window)


async def _partitions(conn: asyncpg.Connection[Any], cut: Partitioning) -> list[Piece]:
    rows = await conn.fetch(
        """
        SELECT child.relname AS name, coalesce(obj_description(child.oid, 'pg_class'), '') AS comment
        FROM pg_inherits
        JOIN pg_class child ON child.oid = inhrelid
        WHERE inhparent = to_regclass(format('marketd.%I', $1::text))
        """,
        cut.table,
    )
    found = []
    for row in rows:
        match = re.fullmatch(rf"{cut.table}_p(\d{{4}})(\d\d)(\d\d)", row["name"])
        if match is not None:  # else somebody else's
            day = date(*map(int, match.groups()))
            start = datetime(day.year, day.month, day.day, tzinfo=UTC)
            found.append(Piece(row["name"], start, start + timedelta(days=cut.width_days), _made(row["comment"])))
    return found


def _made(comment: str) -> datetime:
    try:
        return datetime.fromisoformat(comment.removeprefix(MADE).strip())
    except ValueError:
        return _LONG_AGO  # made by a marketd that did not tell


async def _chunks(conn: asyncpg.Connection[Any], table: str) -> list[Piece]:
    rows = await conn.fetch(
        """
        SELECT chunk_name AS name, range_start, range_end, chunk_creation_time AS made
        FROM timescaledb_information.chunks
        WHERE hypertable_schema = 'marketd' AND hypertable_name = $1
        """,
        table,
    )
    return [Piece(row["name"], row["range_start"], row["range_end"], row["made"] or _LONG_AGO) for row in rows]
