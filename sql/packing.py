"""Packing closed stretches: rows of one instrument out of their table and into a block, in one transaction.

What a `DELETE … RETURNING` takes away is what is packed, so that nothing can come in between; the block is decoded
again and compared before it is stored; block and removal are committed together. Killed at any point, the database
rolls back to rows. What one transaction takes becomes as many blocks as suit its table (`block_rows`): a day of bars
is taken at once and cut into eight. A block that has rows beside it (late ones, new versions) is packed anew with them,
and no other.

A partition without rows is dropped, which is what gives its space back. `VACUUM` finds out whether it may: it cuts a
table to nothing only once no transaction can still see a row of it, which `TRUNCATE` would not ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import asyncpg
import numpy as np
import numpy.typing as npt

from marketd.market.block_stretch import packed_parts
from marketd.market.blocks import Block
from marketd.market.book_rows import depth_of, refit
from marketd.market.records import CANDLE, Kind, Records, book_kind
from marketd.market.rows import BOOK_TABLE, codec
from marketd.sql.copy import copy_out
from marketd.sql.packed_tables import NO_TIMEFRAME, PackedTable, from_ns, joined
from marketd.sql.read import columns_of
from marketd.sql.retention import Piece
from marketd.sql.statements import statements
from marketd.sql.store import Connection

_PACKED = statements("packed")
# What a transaction takes at once: a day of one-second bars, or what this process has memory for several times over.
ROWS_AT_ONCE = 90_000
BYTES_AT_ONCE = 16 << 20  # as records
DROP_LOCK_TIMEOUT = "100ms"  # dropping a partition keeps all readers of the table waiting for as long
ROW_LOCK_TIMEOUT = "2s"


class Place(NamedTuple):
    """What is packed apart from everything else: one instrument of a table (and one timeframe of its buckets)."""

    packed: PackedTable
    instrument_id: int
    timeframe: int = NO_TIMEFRAME

    @property
    def key(self) -> tuple[str, int, int]:
        return self.packed.table, self.instrument_id, self.timeframe

    def statement(self, name: str, **names: Any) -> str:
        return _PACKED[name].format(**self.packed.names, **names)

    def args(self, start: datetime, end: datetime) -> tuple[Any, ...]:
        return (self.instrument_id, start, end, *([self.timeframe] if self.packed.names["and_timeframe"] else []))


class Stretch(NamedTuple):
    """A stretch of time, and the block that it has been packed into before; that block's start is the stretch's."""

    start: datetime
    end: datetime
    block: Any = None


class Packed(NamedTuple):
    """What one transaction did: rows that went, blocks and bytes that came; up to where the stretch reached."""

    rows: int
    blocks: int
    bytes: int
    end: datetime


async def instruments_in(conn: Connection, piece: Piece) -> list[int]:
    """Whose rows lie in a partition."""
    rows = await conn.fetch(_PACKED["instruments_in"].format(piece=f"marketd.{piece.name}"))
    return [row["instrument_id"] for row in rows]


async def pack_next(
    conn: Connection, place: Place, start: datetime, end: datetime, block_rows: int | None = None
) -> Packed | None:
    """Pack the oldest rows of start <= time < end, a day at most, or one block anew that rows lie beside. None: there
    are none, or somebody else is at work there.

    `block_rows`: about how many a block is to have, where not as many as suit the table.
    """
    async with conn.transaction():
        await conn.execute(f"SET LOCAL lock_timeout = '{ROW_LOCK_TIMEOUT}'")
        if not await conn.fetchval(_PACKED["try_lock"], place.packed.table, place.instrument_id):
            return None
        oldest = await conn.fetchval(place.statement("oldest_row"), *place.args(start, end))
        if oldest is None:
            return None
        stretch = await _stretch_of(conn, place, oldest, (start, end))
        bytes_of_rows = await conn.fetchval(place.statement("bytes_of_rows"), *place.args(stretch.start, stretch.end))
        copied = await _take_rows(conn, place, stretch)
        packing = place.packed._replace(block_rows=block_rows or place.packed.block_rows)
        taken, blocks = await asyncio.to_thread(_packed, stretch, copied, packing)
        if stretch.block is not None:
            await conn.execute(_PACKED["remove_block"], *place.key, stretch.start)
        now = await conn.fetchval("SELECT now()")
        stored_at = now if stretch.block is None else stretch.block["stored_at"]
        a_row = _bytes_a_row(stretch.block, taken, bytes_of_rows)
        rows = [(*place.key, *block[:-1], stored_at, round(a_row * block.row_count), block.data) for block in blocks]
        await conn.executemany(_PACKED["insert_block"], rows)
    return Packed(taken, len(blocks), sum(len(block.data) for block in blocks), stretch.end)


async def drop_empty(conn: Connection, table: str, piece: Piece) -> bool:
    """Drop a partition that has no row any more; False: it has, or somebody may still see one, or holds it."""
    if await conn.fetchval(f"SELECT EXISTS (SELECT FROM marketd.{piece.name})"):
        return False
    await conn.execute(f"VACUUM marketd.{piece.name}")
    try:
        async with conn.transaction():
            await conn.execute(f"SET LOCAL lock_timeout = '{DROP_LOCK_TIMEOUT}'")
            # in the order in which readers lock: the table, then its partition
            await conn.execute(f"LOCK TABLE ONLY marketd.{table} IN ACCESS EXCLUSIVE MODE")
            if await conn.fetchval("SELECT pg_relation_size(to_regclass($1))", f"marketd.{piece.name}"):
                return False
            await conn.execute(f"DROP TABLE IF EXISTS marketd.{piece.name}")
    except asyncpg.LockNotAvailableError:
        return False
    return True


# ---- what is packed -----------------------------------------------------------------------------------


async def _stretch_of(conn: Connection, place: Place, oldest: datetime, within: tuple[datetime, datetime]) -> Stretch:
    """What to take that holds the oldest row: all that is beside its block, or what lies between two blocks."""
    block = await conn.fetchrow(_PACKED["block_at"], *place.key, oldest)
    if block is not None:
        return Stretch(block["ts_start"], block["ts_end"], block)
    between = await conn.fetchrow(_PACKED["neighbours"], *place.key, oldest, *within)
    args = place.args(oldest, between["ts_end"])
    rows = await _rows_at_once(conn, place, args)
    cut = await conn.fetchval(place.statement("row_after", rows=rows), *args)
    if cut == oldest:  # that many at one time
        cut = await conn.fetchval(place.statement("next_row"), *args)
    return Stretch(between["ts_start"], cut or between["ts_end"])


async def _rows_at_once(conn: Connection, place: Place, args: tuple[Any, ...]) -> int:
    rows = _rows_of(place.packed.kind)
    if place.packed.table == BOOK_TABLE:
        deepest = await conn.fetchval(place.statement("depth", rows=rows), *args)
        rows = min(rows, _rows_of(book_kind(deepest)))
    return rows


def _rows_of(kind: Kind) -> int:
    return max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE // kind.dtype.itemsize))


def _bytes_a_row(block: Any, rows: int, bytes_of_rows: int) -> float:
    """What a row took in its table: of those that are taken now, and of those packed before where it is known."""
    if block is None or not block["bytes_before"]:
        return bytes_of_rows / rows
    return float((bytes_of_rows + block["bytes_before"]) / (rows + block["row_count"]))


async def _take_rows(conn: Connection, place: Place, stretch: Stretch) -> bytes:
    """The rows of the stretch, which are gone from the table when the transaction commits."""
    columns = columns_of(place.packed.table, place.packed.kind)
    statement = place.statement("take_rows", columns=columns)
    return await copy_out(conn, statement, *place.args(stretch.start, stretch.end))


# ---- into blocks, in a thread -------------------------------------------------------------------------


def _packed(stretch: Stretch, copied: bytes, packed: PackedTable) -> tuple[int, list[_NewBlock]]:
    """How many rows were taken, and the blocks of them and of what was packed before. BlockDamaged when one is not
    what was packed.
    """
    rows = codec(packed.table, packed.kind).deepest(copied).decode(copied)[1]
    records = _in_order(stretch.block, rows, packed)
    blocks: list[_NewBlock] = []
    for start_ns, part, data in packed_parts(records, packed.time, packed.block_rows):
        start = stretch.start if start_ns is None else from_ns(start_ns)
        if blocks:
            blocks[-1] = blocks[-1]._replace(end=start)
        bounds = *_bounds(part[packed.time]), *_bounds(part["ts_known"])
        blocks.append(_NewBlock(start, stretch.end, *bounds, len(part), data))
    return len(rows), blocks


def _in_order(block: Any, rows: Records, packed: PackedTable) -> Records:
    """The rows and what is packed already, each once, in the order that packs best: of bars, source by source."""
    records = rows
    if block is not None:
        before = Block(block["data"]).records()
        if packed.table == BOOK_TABLE:
            depth = max(depth_of(before), depth_of(rows))
            before, records = refit(before, depth), refit(rows, depth)
        records = joined(before, records, packed.time)
    keys = [records["seq"], records[packed.time]] + ([records["source"]] if records.dtype == CANDLE else [])
    ordered: Records = records[np.lexsort(keys)]
    return ordered


class _NewBlock(NamedTuple):
    """In the order of the columns of packed_blocks, but for what stands between the last two."""

    start: datetime
    end: datetime
    first: datetime
    last: datetime
    known_first: datetime
    known_last: datetime
    row_count: int
    data: bytes


def _bounds(times: npt.NDArray[np.int64]) -> tuple[datetime, datetime]:
    return from_ns(int(times.min())), from_ns(int(times.max()))


def days_of(piece: Piece, until: datetime) -> Iterator[tuple[datetime, datetime]]:
    """The whole days of a piece that end at `until` or earlier."""
    start = piece.start
    while start < piece.end and start + timedelta(days=1) <= until:
        yield start, start + timedelta(days=1)
        start += timedelta(days=1)
