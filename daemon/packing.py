"""Packs what is closed: of the `postgres` profile, rows of days that are over go into blocks, a tenth of their size.

A background work of the storage actor. It works through the tables day by day and instrument by instrument, each block
in a transaction of its own, and rests between them for as long as they took: nobody waits for it, and others want the
processor.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from marketd.daemon import metrics
from marketd.daemon.settings import Config
from marketd.market.errors import MarketdError
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.packed_tables import PACKED_TABLES, PackedTable
from marketd.sql.packing import Place, days_of, drop_empty, instruments_in, pack_next
from marketd.sql.profiles import Profile
from marketd.sql.retention import Piece, pieces_of_table
from marketd.sql.retry import DRIVER_ERRORS

_log = logging.getLogger(__name__)
_BLOCKS = metrics.counter("packed_blocks_total", "Blocks that closed stretches were packed into", ["table"])
_ROWS = metrics.counter("packed_rows_total", "Rows that were packed", ["table"])
_BYTES = metrics.counter("packed_bytes_total", "Bytes of the blocks that were written", ["table"])
_FAILED = metrics.counter("packing_failures_total", "Stretches that could not be packed, this time", ["table"])
_DROPPED = metrics.counter("packed_partitions_dropped_total", "Partitions without a row left, dropped", ["table"])

ROUND_SECONDS = 600.0  # late rows of packed stretches wait for so long


class BlockPacker:
    """`[storage] pack` as a background work."""

    name = "packing"

    def __init__(self, database: DatabaseConnectionManager, config: Config) -> None:
        self._database = database
        self._storage = config.storage
        self._changed = asyncio.Event()

    def change(self, config: Config) -> None:
        """From now on this; the next round begins at once."""
        self._storage = config.storage
        self._changed.set()

    async def run(self) -> None:
        """Round after round, until cancelled; nothing where TimescaleDB compresses, or packing is switched off."""
        if await self._database.profile() is not Profile.POSTGRES:
            return
        while self._storage.pack:
            self._changed.clear()
            await self.round()
            with suppress(TimeoutError):  # the time for the next one
                async with asyncio.timeout(ROUND_SECONDS):
                    await self._changed.wait()

    async def round(self) -> int:
        """Pack what is closed by now, table by table; how many rows."""
        until = datetime.now(UTC) - timedelta(seconds=self._storage.pack_after.seconds)
        return sum([await self._pack_table(packed, until) for packed in PACKED_TABLES.values()])

    async def _pack_table(self, packed: PackedTable, until: datetime) -> int:
        count = 0
        try:
            async with self._database.acquire() as connection:
                pieces = await pieces_of_table(connection, packed.table)
            for piece in pieces:
                # one that was made lately is still being filled, however old its time: an import
                if piece.start < until and piece.made <= until:
                    count += await self._pack_piece(packed, piece, until)
        except (MarketdError, *DRIVER_ERRORS) as error:
            self._tell_failure(packed.table, error)
        return count

    async def _pack_piece(self, packed: PackedTable, piece: Piece, until: datetime) -> int:
        async with self._database.acquire() as connection:
            instruments = await instruments_in(connection, piece)
        count = 0
        for instrument in instruments:
            for timeframe in packed.timeframes:
                try:
                    count += await self._pack_place(Place(packed, instrument, timeframe), piece, until)
                except (MarketdError, *DRIVER_ERRORS) as error:  # the other instruments do not wait for it
                    self._tell_failure(packed.table, error)
        if count:
            _log.info(
                "%d rows of %s are packed",
                count,
                piece.name,
                extra={"action": "packed", "table": packed.table, "count": count},
            )
        if piece.end <= until:
            await self._drop_empty(packed.table, piece)
        return count

    async def _pack_place(self, place: Place, piece: Piece, until: datetime) -> int:
        count = 0
        for start, end in days_of(piece, until):
            while start < end:
                began = time.monotonic()
                async with self._database.acquire() as connection:
                    done = await pack_next(connection, place, start, end, self._storage.block_rows or None)
                if done is None:
                    break
                _BLOCKS.labels(place.packed.table).inc(done.blocks)
                _ROWS.labels(place.packed.table).inc(done.rows)
                _BYTES.labels(place.packed.table).inc(done.bytes)
                count += done.rows
                start = done.end
                await asyncio.sleep(time.monotonic() - began)
        return count

    async def _drop_empty(self, table: str, piece: Piece) -> None:
        async with self._database.acquire() as connection:
            if await drop_empty(connection, table, piece):
                _DROPPED.labels(table).inc()

    @staticmethod
    def _tell_failure(table: str, error: BaseException) -> None:
        _FAILED.labels(table).inc()
        _log.warning(
            "rows of %s could not be packed, this time: %s",
            table,
            error,
            extra={"action": "packing_failed", "table": table},
        )
