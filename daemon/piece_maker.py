"""Makes the next piece of each table before its time comes (`postgres` profile), so that no commit waits for it.

A background work of the storage actor. Where it could not, and for times that are not now, the writer makes the piece.
"""

from __future__ import annotations

import asyncio
import time

from marketd.daemon.settings import Config
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.partitions import make_ahead
from marketd.sql.profiles import Profile

ROUND_SECONDS = 60.0


class PieceMaker:
    name = "pieces_ahead"

    def __init__(self, database: DatabaseConnectionManager) -> None:
        self._database = database

    def change(self, config: Config) -> None:
        """Nothing of it is configured."""

    async def run(self) -> None:
        """Round after round; returns at once where TimescaleDB makes the pieces."""
        if await self._database.profile() is not Profile.POSTGRES:
            return
        while True:
            await self.round()
            await asyncio.sleep(ROUND_SECONDS)

    async def round(self) -> list[str]:
        """Make what comes next; the names."""
        async with self._database.acquire() as connection:
            return await make_ahead(connection, time.time_ns())
