"""Keeps what TimescaleDB does by itself in line with the configuration: at the start, and whenever that changes.

A background work of the storage actor; `marketd schema apply` does the same by hand.
"""

from __future__ import annotations

import logging
from datetime import timedelta

from marketd.daemon.quantities import Nanoseconds
from marketd.daemon.settings import Config
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.policies import Wishes, apply_policies

_log = logging.getLogger(__name__)


class PolicyKeeper:
    """`[storage]` as a background work."""

    name = "policies"

    def __init__(self, database: DatabaseConnectionManager, config: Config) -> None:
        self._database = database
        self._config = config

    def change(self, config: Config) -> None:
        self._config = config

    async def run(self) -> None:
        """Once; the configuration's next change begins it again."""
        async with self._database.acquire() as connection:
            changes = await apply_policies(connection, wishes_of(self._config))
        for change in changes:
            _log.info(
                "%s: %s, was: %s",
                change.what,
                change.after,
                change.before,
                extra={"action": "policy_changed", "what": change.what},
            )


def wishes_of(config: Config) -> Wishes:
    """What a configuration wants of TimescaleDB."""
    storage, kept = config.storage, config.retention.candles_1s
    return Wishes(
        _timedelta(storage.compress_after),
        {table: _timedelta(age) for table, age in storage.compress.items()},
        {table: _timedelta(width) for table, width in storage.chunks.items()},
        _timedelta(kept) if kept else None,
    )


def _timedelta(duration: Nanoseconds) -> timedelta:
    return timedelta(microseconds=duration // 1000)
