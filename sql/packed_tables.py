"""Which tables are packed, and what the ways to packed blocks have in common: their keys, ages, and how rows and blocks
are put together.

A row of a packed stretch may lie in its table as well: it came later, or replaces what is packed, or was brought back
by the writer so that its merge finds it (`sql/packed_writes.py`). So a reader puts both together by the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.market.bars import newest_versions
from marketd.market.records import BY_NAME, CANDLE, Kind, Records
from marketd.market.rows import BOOK_TABLE

# What is younger is never packed, by the clocks of all hosts: so neither readers nor the writer look for it. Below the
# least `storage.pack_after` by more than clocks differ.
YOUNG = timedelta(minutes=30)
MIN_PACK_AFTER = timedelta(hours=1)
NO_TIMEFRAME = 0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)


class PackedTable(NamedTuple):
    """`block_rows`: about how many a block has; `key`: what tells records of one instrument and time apart;
    `timeframes`: each has blocks of its own.
    """

    table: str
    kind: Kind
    block_rows: int
    key: str = "seq"
    timeframes: tuple[int, ...] = (NO_TIMEFRAME,)

    @property
    def time(self) -> str:
        return self.kind.time

    @property
    def names(self) -> dict[str, str]:
        """For the braces of the statements."""
        by_timeframe = "AND timeframe = $4" if self.timeframes != (NO_TIMEFRAME,) else ""
        return {"table": self.table, "time": self.time, "and_timeframe": by_timeframe}


# Rows of a block (docs/performance-storage.md has bytes and times for other numbers). Whoever wants minutes reads a
# block or two; whoever wants a day pays some 1.5 ms for each block: a day of bars takes twice as long from 24 as from
# one, from 8 a quarter longer. Of buckets and books, with many values a row, length saves nothing, and an hour unpacks
# about an hour.
_TABLES = (
    PackedTable("trades", BY_NAME["trade"], 12_000, "trade_id"),
    PackedTable("candles_1s", BY_NAME["candle"], 10_800, "source"),
    PackedTable(BOOK_TABLE, BY_NAME["book"], 1800),
    PackedTable("book_deltas", BY_NAME["book_delta"], 12_000),
    PackedTable("book_venues", BY_NAME["book_venues"], 1800),
    PackedTable("book_buckets", BY_NAME["buckets"], 1800, timeframes=(1, 60)),
    PackedTable("imbalances", BY_NAME["imbalance"], 10_800),
    PackedTable("activity_bars", BY_NAME["activity_bar"], 10_800),
)
PACKED_TABLES: Mapping[str, PackedTable] = MappingProxyType({packed.table: packed for packed in _TABLES})


def to_ns(moment: datetime) -> int:
    return (moment - _EPOCH) // _US * 1000


def from_ns(ts_ns: int) -> datetime:
    return _EPOCH + timedelta(microseconds=ts_ns // 1000)


def newest_packed() -> datetime:
    """Nothing from here on is packed."""
    return datetime.now(UTC) - YOUNG


def joined(packed: Records, rows: Records, time: str) -> Records:
    """Packed records and rows of one instrument, each once, in the newest version of each bar. In the order of time
    where neither lies within the other.
    """
    if not len(packed) or not len(rows):
        return rows if not len(packed) else packed
    if rows[time].min() > packed[time].max():
        return np.concatenate([packed, rows])
    if packed.dtype == CANDLE:
        return newest_versions(np.concatenate([packed, rows]))
    return np.concatenate([packed[~is_among(packed, rows, (time, "seq"))], rows])


def is_among(records: Records, others: Records, key: tuple[str, str]) -> npt.NDArray[np.bool_]:
    """Which of `records` have a key that is among those of `others`, shape (n,)."""
    first, second = key
    found = np.isin(records[first], others[first]) & np.isin(records[second], others[second])
    candidates = np.flatnonzero(found)
    if len(candidates):  # both parts are there; together, too?
        pairs = set(zip(others[first].tolist(), others[second].tolist(), strict=True))
        few = records[candidates]
        found[candidates] = [pair in pairs for pair in zip(few[first].tolist(), few[second].tolist(), strict=True)]
    return found


def times_in(records: Records, time: str) -> int:
    """How many different times."""
    return len(np.unique(records[time]))
