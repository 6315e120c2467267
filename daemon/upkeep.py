"""The works that keep the database in order, in the background: the table that the storage actor runs.

Each opens its own transactions, short ones, and none keeps the writer waiting: what cannot be locked soon is left for
the next time.
"""

from __future__ import annotations

from marketd.daemon.background import Work
from marketd.daemon.job_watch import JobWatch
from marketd.daemon.level_keeper import LevelKeeper
from marketd.daemon.packing import BlockPacker
from marketd.daemon.piece_maker import PieceMaker
from marketd.daemon.policy_keeper import PolicyKeeper
from marketd.daemon.retention import RetentionKeeper
from marketd.daemon.settings import Config
from marketd.daemon.storage_watch import FILE_NAME, SizesWatch
from marketd.sql.connections import DatabaseConnectionManager


def upkeep(database: DatabaseConnectionManager, config: Config) -> list[Work]:
    """All works. Those of one profile alone return at once on the other."""
    return [
        PieceMaker(database),
        PolicyKeeper(database, config),
        RetentionKeeper(database, config),
        LevelKeeper(database),
        JobWatch(database),
        BlockPacker(database, config),
        SizesWatch(database, config, config.runtime_path / FILE_NAME),
    ]
