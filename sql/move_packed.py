"""Packed blocks on their way into another database: as they are into the `postgres` profile, as rows into `timescale`.

A row that lies beside its block replaces what is packed (`sql/packed_tables.py`), and is in the target before the block
is unpacked there: so what is there already stays.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import asyncpg
import numpy as np

from marketd.market.blocks import Block
from marketd.market.book_rows import depth_of
from marketd.market.records import book_kind
from marketd.market.rows import BOOK_TABLE, codec
from marketd.sql.copy import copy_in
from marketd.sql.copy_across import CopyMismatch, type_span
from marketd.sql.fingerprint import EMPTY, Fingerprint, columns_of, quoted
from marketd.sql.packed_tables import PACKED_TABLES
from marketd.sql.partitions import Partitioning, read_partitioning
from marketd.sql.profiles import Profile
from marketd.sql.statements import statements

_SQL, _STORE = statements("move"), statements("store")
BLOCKS = "packed_blocks"
_TIME = "ts_start"
_WEEK = timedelta(days=7)


class Window(NamedTuple):
    """Where blocks begin: a stretch of `table` in the target, and what they take in the source."""

    table: str
    time_column: str
    start: datetime
    end: datetime
    bytes: int


async def block_windows(source: asyncpg.Connection[Any], profile: Profile) -> list[Window]:
    """The stretches in which blocks are moved into a target of that profile: weeks of blocks, or pieces of rows."""
    if profile is Profile.POSTGRES:
        rows = await source.fetch(_SQL["block_weeks"])
        return [Window(BLOCKS, _TIME, row["week"], row["week"] + _WEEK, row["bytes"]) for row in rows]
    found = []
    for table in PACKED_TABLES:
        cut = await read_partitioning(source, table)
        rows = await source.fetch(_SQL["block_pieces"], table, timedelta(days=cut.width_days))
        width = timedelta(days=cut.width_days)
        found += [Window(table, cut.time_column, row["start"], row["start"] + width, row["bytes"]) for row in rows]
    return found


async def partitioning_of(conn: asyncpg.Connection[Any], table: str) -> Partitioning:
    """As `read_partitioning`, of blocks too, which are cut by nobody."""
    if table == BLOCKS:
        return Partitioning(BLOCKS, _TIME, _WEEK.days, False)
    return await read_partitioning(conn, table)


async def blocks_in(source: asyncpg.Connection[Any], table: str, span: type_span) -> Fingerprint:
    """Of the blocks of a table that begin in a stretch."""
    if table not in PACKED_TABLES:
        return EMPTY
    row = await source.fetchrow(_SQL["blocks_in"], table, *span[1:])
    assert row is not None
    return Fingerprint(row["rows"], row["digest"])


async def unpack_into(
    source: asyncpg.Connection[Any], target: asyncpg.Connection[Any], table: str, span: type_span
) -> Fingerprint:
    """Store the rows of all blocks of a stretch that are not there, in the caller's transaction; what was added."""
    added = EMPTY
    if table not in PACKED_TABLES:
        return added
    columns = quoted(sorted(await columns_of(target, table)))
    for block in await source.fetch(_SQL["block_keys"], table, *span[1:]):
        found = await source.fetchrow(_SQL["block"], table, *block)
        assert found is not None
        await _stage(target, table, block["instrument_id"], found["data"], found["row_count"])
        row = await target.fetchrow(_SQL["add_staged"].format(table=table, columns=columns))
        await target.execute(f"DELETE FROM stage_{table}")
        assert row is not None
        added = added.plus(Fingerprint(row["rows"], row["digest"]))
    return added


async def _stage(target: asyncpg.Connection[Any], table: str, instrument: int, data: bytes, row_count: int) -> None:
    records = await asyncio.to_thread(Block(data).records)
    if len(records) != row_count:
        raise CopyMismatch(f"a block of {table} has {len(records)} rows, and says that it has {row_count}")
    kind = book_kind(depth_of(records)) if table == BOOK_TABLE else PACKED_TABLES[table].kind
    table_codec = codec(table, kind)
    encoded = await asyncio.to_thread(table_codec.encode, np.full(len(records), instrument, np.int32), records)
    await target.execute(_STORE["stage"].format(table=table))
    await copy_in(target, f"stage_{table}", table_codec.columns, encoded)
