"""A streaming standby that answers queries in the primary's place, as long as it is near enough.

Its lag is measured by the primary's own positions: each look notes where the primary's log ends, and then how far the
standby has replayed. It lags by the age of the newest noted position that it has reached, and by nothing once it has
reached the last. So a market that is silent does not look like a lag, and no clocks are compared.

While the primary is away nothing new is committed, and the standby answers however far it is: each answer tells how far
it reaches (`meta.watermark`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import NamedTuple

from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.errors import DatabaseError
from marketd.sql.lag import LagMeter
from marketd.sql.retry import DRIVER_ERRORS
from marketd.sql.statements import statements

logger = logging.getLogger(__name__)

_READ = statements("replica")
_LOOKS_PER_LAG = 4  # so often within the bound, but at least each second
_MAX_LOOK_SECONDS = 1.0


class ReplicaStatistics(NamedTuple):
    state: str  # "used" | "behind" | "away"
    lag_seconds: float  # infinite until it was measured once
    answers: int
    passed_over: int  # answers that the primary gave, because the replica was behind, away, or lacked something


class ReadReplica:
    """`run` is a task for as long as it is used; `is_usable` is asked before each answer."""

    def __init__(
        self, primary: DatabaseConnectionManager, replica: DatabaseConnectionManager, max_lag_seconds: float
    ) -> None:
        self.database = replica
        self._primary = primary
        self._max_lag = max_lag_seconds
        self._meter = LagMeter()
        self._lag = float("inf")
        self._answers = self._passed_over = 0
        self._was_usable = False

    def __repr__(self) -> str:
        return f"<ReadReplica {self._state()}, {self._lag:.3f} s behind>"

    async def run(self, patience_seconds: float) -> None:
        """Open its connections, and look how far it is, until cancelled."""
        await self.database.open(patience_seconds, patient=True)
        pause = min(_MAX_LOOK_SECONDS, self._max_lag / _LOOKS_PER_LAG)
        while True:
            await self._look()
            self._tell()
            await asyncio.sleep(pause)

    def is_usable(self) -> bool:
        return self._state() == "used"

    def answered(self) -> None:
        """It gave an answer."""
        self._answers += 1

    def passed_over(self) -> None:
        """The primary had to give an answer."""
        self._passed_over += 1

    def statistics(self) -> ReplicaStatistics:
        return ReplicaStatistics(self._state(), self._lag, self._answers, self._passed_over)

    def _state(self) -> str:
        if self.database.statistics().state != "up":
            return "away"
        primary_away = self._primary.statistics().state != "up"
        return "used" if self._lag <= self._max_lag or primary_away else "behind"

    async def _look(self) -> None:
        position = await _position(self._primary)
        if position is not None:
            self._meter.mark(time.monotonic(), position)
        replayed = await _position(self.database)
        if replayed is not None:
            self._lag = self._meter.lag(time.monotonic(), replayed)

    def _tell(self) -> None:
        """Of changes only."""
        usable = self.is_usable()
        if usable != self._was_usable:
            self._was_usable = usable
            logger.warning(
                "the read replica is %s, %.1f s behind: %s answers queries",
                self._state(),
                self._lag,
                "it" if usable else "the primary",
                extra={"action": "replica_used" if usable else "replica_left", "lag_seconds": self._lag},
            )


async def _position(database: DatabaseConnectionManager) -> int | None:
    """Where a server's log is now: of a standby, how far it is replayed. None while it is away, which the connections
    notice and tell themselves."""
    if database.statistics().state != "up":
        return None
    try:
        async with database.acquire() as connection:
            return int(await connection.fetchval(_READ["position"]))
    except (DatabaseError, *DRIVER_ERRORS):
        return None
