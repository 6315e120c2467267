"""The instruments that can be asked for: all that the database has or an arena shows."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

from marketd.daemon.query_names import with_replaced
from marketd.ipc import presence
from marketd.market.instruments import Instrument
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.errors import DatabaseError
from marketd.sql.read import read_instruments
from marketd.sql.retry import DRIVER_ERRORS, once_more

MAX_AGE_SECONDS = 1.0


class InstrumentList:
    """At most `MAX_AGE_SECONDS` old when it is read. While questions keep coming it is read behind their backs, once
    half of that is over.
    """

    def __init__(self, database: DatabaseConnectionManager, runtime_dir: Path) -> None:
        self._database = database
        self._runtime_dir = runtime_dir
        self.known: list[Instrument] = []  # as it was read last
        self._old_at = 0.0  # monotonic s
        self._looking: asyncio.Task[None] | None = None

    @property
    def age(self) -> float:
        """Seconds since it was read."""
        return time.monotonic() - self._old_at + MAX_AGE_SECONDS

    async def read(self) -> list[Instrument]:
        left = self._old_at - time.monotonic()
        if left <= 0:
            self._keep(await self._find())
        elif left < MAX_AGE_SECONDS / 2 and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look_ahead(), name="look at the instruments")
        return self.known

    def outdate(self) -> None:
        """The next read looks anew."""
        self._old_at = 0.0

    async def _look_ahead(self) -> None:
        old_at = self._old_at
        with suppress(DatabaseError, *DRIVER_ERRORS):  # whoever asks once the list is too old is told
            found = await self._find()
            if self._old_at == old_at:  # else it was read anew meanwhile, and this is what was before
                self._keep(found)

    async def _find(self) -> list[Instrument]:
        known: dict[int, Instrument] = {}
        with suppress(DatabaseError):  # without it, what ingest has is what can be asked for
            known = {i.id: i for i in await once_more(self._stored)}
        known |= {i.id: i for i in presence.read_instruments(self._runtime_dir)}
        return with_replaced(known.values())

    async def _stored(self) -> list[Instrument]:
        async with self._database.acquire() as connection:
            return await read_instruments(connection)

    def _keep(self, found: list[Instrument]) -> None:
        self.known = found
        self._old_at = time.monotonic() + MAX_AGE_SECONDS

    def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
