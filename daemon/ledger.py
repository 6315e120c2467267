"""The stored ledger of one instrument: what of its trades was observed or fetched."""

from __future__ import annotations

from datetime import MAXYEAR
from typing import Any

import numpy as np

from marketd.market.records import BY_NAME, COVERAGE, Records
from marketd.market.timeline import Seen, Stretch, timeline
from marketd.market.times import ABSENT
from marketd.sql.packed_tables import to_ns
from marketd.sql.read import Span, read_line
from marketd.sql.store import Connection

_TRADE = BY_NAME["trade"].id


class Ledger:
    """Within one transaction, so that it fits to the trades that are read beside it."""

    def __init__(self, connection: Connection, instrument_id: int) -> None:
        self._connection = connection
        self._instrument_id = instrument_id

    async def covers(self, start_ns: int, end_ns: int) -> bool:
        """Was every moment of [start_ns, end_ns) observed, or fetched afterwards?"""
        return all(stretch.state.is_whole for stretch in await self._line(start_ns, end_ns))

    async def has_lost(self, start_ns: int, end_ns: int) -> bool:
        """Has retention dropped any moment of [start_ns, end_ns), which nobody has fetched again?"""
        return any(stretch.state is Seen.EXPIRED for stretch in await self._line(start_ns, end_ns))

    async def _line(self, start_ns: int, end_ns: int) -> list[Stretch]:
        rows = await read_line(self._connection, self._instrument_id, _TRADE, Span(start_ns, end_ns))
        return timeline(coverage_records(rows), _TRADE, start_ns, end_ns)


def coverage_records(rows: list[Any]) -> Records:
    """Rows of the table `coverage` as COVERAGE records, shape (n,)."""
    records = np.zeros(len(rows), dtype=COVERAGE)
    for name in ("ts_event", "ts_known", "ts_start"):
        records[name] = [to_ns(row[name]) for row in rows]
    # infinity: it has not ended
    records["ts_end"] = [ABSENT if row["ts_end"].year == MAXYEAR else to_ns(row["ts_end"]) for row in rows]
    for name in ("seq", "stream", "state", "detail"):
        records[name] = [row[name] for row in rows]
    records["reason"] = [row["reason"].encode() for row in rows]
    return records
