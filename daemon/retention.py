"""Keeps the database from growing without end: what is older than `[retention]` allows is dropped, an hour at a time.

A background work of the storage actor. Nothing waits for it: what fails, was interrupted or is in use is told, and
tried again soon, less often each time. A writer that still has records of a piece that is gone makes it anew.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from datetime import datetime

from marketd.daemon import metrics
from marketd.daemon.settings import Config
from marketd.market.errors import MarketdError
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.retention import drop_old_pieces
from marketd.sql.retry import DRIVER_ERRORS
from marketd.sql.store import to_datetime

_log = logging.getLogger(__name__)
_DROPPED = metrics.counter(
    "retention_pieces_dropped_total", "Days (weeks, …) of a table dropped for their age", ["table"]
)
_FAILED = metrics.counter("retention_failures_total", "Tables whose old pieces could not be dropped, this time")

_waiting = asyncio.timeout
ROUND_SECONDS = 3600.0  # a piece is a day at least
AGAIN_SECONDS = 10.0  # after a round that left something; twice as long after each further one


class RetentionKeeper:
    """`[retention]` as a background work."""

    name = "retention"

    def __init__(self, database: DatabaseConnectionManager, config: Config) -> None:
        self._database = database
        self._retention = config.retention
        self._changed = asyncio.Event()
        self._left = False  # something of the last round
        self._pause = ROUND_SECONDS

    def change(self, config: Config) -> None:
        """From now on this; the next round begins at once."""
        self._retention = config.retention
        self._changed.set()

    async def run(self) -> None:
        """Round after round, until cancelled."""
        while True:
            self._changed.clear()
            again = AGAIN_SECONDS if not self._left else 2 * self._pause
            await self.round()
            self._pause = min(again, ROUND_SECONDS) if self._left else ROUND_SECONDS
            with suppress(TimeoutError):  # the time for the next one
                async with _waiting(self._pause):
                    await self._changed.wait()

    async def round(self) -> int:
        """Drop what is too old by now, table by table; how many pieces went."""
        now_ns = time.time_ns()
        count = 0
        self._left = False
        for table, kept in self._retention.tables.items():
            try:
                count += await self._drop(table, to_datetime(max(0, now_ns - kept)))
            except (MarketdError, *DRIVER_ERRORS) as error:
                self._left = True
                _FAILED.inc()
                _log.warning(
                    "old rows of %s could not be dropped, this time: %s",
                    table,
                    error,
                    extra={"action": "retention_failed", "table": table},
                )
        return count

    async def _drop(self, table: str, before: datetime) -> int:
        async with self._database.acquire() as connection:
            dropped = await drop_old_pieces(connection, table, before)
        if dropped.gone:
            _DROPPED.labels(table).inc(len(dropped.gone))
            _log.info(
                "%d pieces of %s were older than its retention and are gone, from %s",
                len(dropped.gone),
                table,
                dropped.gone[0],
                extra={"action": "retention_dropped", "table": table, "count": len(dropped.gone)},
            )
        if dropped.in_use:
            self._left = True
            _FAILED.inc()
            _log.info(
                "%d old pieces of %s are in use and wait for the next round",
                len(dropped.in_use),
                table,
                extra={"action": "retention_waits", "table": table},
            )
        return len(dropped.gone)
