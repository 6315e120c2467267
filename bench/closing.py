"""Brings a database to where the storage actor brings it in time: what is closed is compressed, or packed."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import asyncpg

from marketd.sql.packed_tables import PACKED_TABLES, PackedTable
from marketd.sql.packing import Place, days_of, drop_empty, instruments_in, pack_next
from marketd.sql.profiles import Profile, detect_profile
from marketd.sql.retention import Piece, pieces_of_table

TRIES = 5
_COMPRESS = "SELECT compress_chunk('{chunk}', if_not_compressed => true)"
_COLUMNSTORE = """
SELECT hypertable_name FROM timescaledb_information.hypertables
WHERE hypertable_schema = 'marketd' AND compression_enabled ORDER BY 1
"""

# each is made of the one before: in the order in which they were made
_LEVELS = """
SELECT view_name FROM timescaledb_information.continuous_aggregates a
JOIN _timescaledb_catalog.continuous_agg c ON c.user_view_schema = a.view_schema AND c.user_view_name = a.view_name
WHERE view_schema = 'marketd' ORDER BY c.mat_hypertable_id
"""


async def close(connection: asyncpg.Connection[Any]) -> dict[str, float]:
    """Compress or pack all that is over; seconds by table."""
    if await detect_profile(connection) is Profile.TIMESCALE:
        return await _compress(connection)
    return {table: await _pack_table(connection, packed) for table, packed in PACKED_TABLES.items()}


async def _compress(connection: asyncpg.Connection[Any]) -> dict[str, float]:
    took = {}
    for row in await connection.fetch(_COLUMNSTORE):
        table = row["hypertable_name"]
        began = time.perf_counter()
        for chunk in await connection.fetch(f"SELECT show_chunks('marketd.{table}')::text"):
            await _compress_chunk(connection, chunk[0])
        took[table] = round(time.perf_counter() - began, 1)
    return took


async def _compress_chunk(connection: asyncpg.Connection[Any], chunk: str) -> None:
    """Again, a few times, where the writer was in the middle of it and PostgreSQL gave way to him."""
    for _ in range(TRIES - 1):
        with suppress(asyncpg.DeadlockDetectedError):
            await connection.execute(_COMPRESS.format(chunk=chunk))
            return
    await connection.execute(_COMPRESS.format(chunk=chunk))


async def _pack_table(connection: asyncpg.Connection[Any], packed: PackedTable) -> float:
    """As `marketd.daemon.packing` does, but at once, and of what was stored a moment ago."""
    began, until = time.perf_counter(), datetime.now(UTC)
    for piece in await pieces_of_table(connection, packed.table):
        for instrument in await instruments_in(connection, piece):
            for timeframe in packed.timeframes:
                await _pack_place(connection, Place(packed, instrument, timeframe), piece, until)
        if piece.end <= until:
            await drop_empty(connection, packed.table, piece)
    return round(time.perf_counter() - began, 1)


async def _pack_place(connection: asyncpg.Connection[Any], place: Place, piece: Piece, until: datetime) -> None:
    for day, end in days_of(piece, until):
        start = day
        while start < end and (done := await pack_next(connection, place, start, end)) is not None:
            start = done.end


async def refresh(connection: asyncpg.Connection[Any], start: datetime, end: datetime) -> None:
    """Sum up all longer bars of these days anew, level by level."""
    if await detect_profile(connection) is not Profile.TIMESCALE:
        return
    for row in await connection.fetch(_LEVELS):
        # a procedure that commits by itself takes no parameters: it would be a transaction of the protocol's
        span = f"'{start.date()}T00:00Z', '{end.date()}T00:00Z'"
        call = f"CALL refresh_continuous_aggregate('marketd.{row['view_name']}', {span}, force => true)"
        await connection.execute(call)  # force: also what has not changed since
