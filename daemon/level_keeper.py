"""Sums up again the longer bars of stretches in which late bars of a second were stored (`timescale` profile).

A background work of the storage actor. Policies of TimescaleDB would come to most of it within the hour; until then
nobody is told anything wrong, because who asks for a stretch with a note gets it computed (daemon/query_levels.py).
What this work does is to make that cheap again soon.
"""

from __future__ import annotations

import asyncio
import logging

import asyncpg

from marketd.daemon import metrics
from marketd.daemon.settings import Config
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.levels import Due, Window, done, has_levels, read_due, refresh

_log = logging.getLogger(__name__)
_REFRESHED = metrics.counter("levels_refreshed_total", "Stretches of late bars that were summed up again")
_POSTPONED = metrics.counter("levels_postponed_total", "Stretches that somebody else was working on, this time")
_DUE = metrics.gauge("levels_due", "Notes of late bars that longer bars do not have yet")

ROUND_SECONDS = 30.0  # an import notes something every moment: a refresh for each would do everything many times
# Another refresh of the same stretch, or a compression that wants the same chunks: the notes stay for the next round.
_IN_THE_WAY = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)


class LevelKeeper:
    name = "levels"

    def __init__(self, database: DatabaseConnectionManager) -> None:
        self._database = database

    def change(self, config: Config) -> None:
        """Nothing of it is configured."""

    async def run(self) -> None:
        """Round after round; returns at once where the database makes no longer bars."""
        async with self._database.acquire() as connection:
            if not await has_levels(connection):
                return
        while True:
            await self.round()
            await asyncio.sleep(ROUND_SECONDS)

    async def round(self) -> int:
        """Sum up what is due by now; how many stretches that were."""
        async with self._database.acquire() as connection:
            due = await read_due(connection)
            _DUE.set(0 if due is None else len(due.notes))
            if due is None:
                return 0
            try:
                for window in due.windows:
                    await self._refresh(connection, due, window)
            except _IN_THE_WAY as error:
                _POSTPONED.inc()
                _log.info("a refresh waits for the next round: %s", error, extra={"action": "levels_postponed"})
                return 0
            await done(connection, due.notes)
        _DUE.set(0)
        return len(due.windows)

    async def _refresh(self, connection: asyncpg.Connection, due: Due, window: Window) -> None:
        await refresh(connection, window, due.at)
        _REFRESHED.inc()
        _log.info(
            "bars from %s to %s are summed up again",
            window.start,
            window.end,
            extra={"action": "levels_refreshed"},
        )
