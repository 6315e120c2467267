"""What tests of packed blocks share: storing records as the writer does, and packing all, whatever its age."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from uuid import uuid4

import numpy as np

from lane import BTC, SECOND, START
from marketd.market.records import Records
from marketd.sql.packed_tables import PACKED_TABLES
from marketd.sql.packing import Packed, Place, days_of, instruments_in, pack_next
from marketd.sql.partitions import PartitionKeeper
from marketd.sql.profiles import Profile
from marketd.sql.retention import pieces_of_table
from marketd.sql.store import Commit, commit, split_rows

KNOWN = START + 3600 * SECOND


class Lane:
    """Commits one batch after another under the offsets of a journal."""

    def __init__(self, conn: Any, profile: Profile = Profile.POSTGRES) -> None:
        self._conn, self._partitions = conn, PartitionKeeper(profile)
        self._journal, self._offset = uuid4(), 0

    async def commit(self, *parts: tuple[Any, Records], instrument: int = BTC.id) -> None:
        rows = [
            each
            for kind, records in parts
            for each in split_rows(kind, np.full(len(records), instrument, np.int32), records)
        ]
        work = Commit(self._journal, "live", self._offset + 8, KNOWN, rows, None, [], [], self._offset)
        assert await commit(self._conn, work, self._partitions) == self._offset + 8
        self._offset += 8


async def pack_all(
    conn: Any,
    instruments: Collection[int] | None = None,
    block_rows: int | None = None,
    tables: Collection[str] = tuple(PACKED_TABLES),
) -> list[Packed]:
    """Every row of these tables, of all or of these instruments."""
    done = []
    for packed in map(PACKED_TABLES.__getitem__, tables):
        for piece in await pieces_of_table(conn, packed.table):
            for instrument in await instruments_in(conn, piece):
                if instruments is not None and instrument not in instruments:
                    continue
                for timeframe in packed.timeframes:
                    for start, end in days_of(piece, piece.end):
                        while found := await pack_next(
                            conn, Place(packed, instrument, timeframe), start, end, block_rows
                        ):
                            done.append(found)
                            start = found.end
    return done
