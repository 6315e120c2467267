"""The writer's side of packed blocks: what it is about to store may be packed already.

The merges of `sql/store.py` look at rows: is a trade there, did a bar change, which version does it replace. So packed
rows with the keys of a batch are brought back into their tables first, as they were, and then the merges do what they
always do. Blocks stay as they are; the packer joins both again (`sql/packing.py`). Only what is old enough to be packed
costs a look.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from marketd.market.blocks import Block, unpacked
from marketd.market.errors import BlockDamaged
from marketd.market.records import Kind, Records
from marketd.market.rows import codec
from marketd.sql.copy import copy_in
from marketd.sql.packed_tables import PACKED_TABLES, from_ns, is_among, newest_packed, to_ns
from marketd.sql.statements import statements

_log = logging.getLogger(__name__)
Connection = Any  # as in sql/store.py, which stands on this

_PACKED, _STORE = statements("packed"), statements("store")


class Rows(Protocol):
    """As `sql.store.TableRows`."""

    @property
    def table(self) -> str: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def instruments(self) -> npt.NDArray[np.int32]: ...
    @property
    def records(self) -> Records: ...


class _Touched(NamedTuple):
    """Records of one instrument that are old enough to be packed: which of the batch, and from when to when."""

    rows: int
    table: str
    instrument_id: int
    first: datetime
    last: datetime


async def bring_back(connection: Connection, batch: Sequence[Rows]) -> set[int]:
    """Within the writer's transaction, before its rows: which members of `batch` meet packed stretches. Rows with their
    keys are in the tables afterwards; until the transaction ends nothing of these instruments is packed.
    """
    touched = [each for place, rows in enumerate(batch) for each in _touched(place, rows)]
    if not touched:
        return set()
    tables, instruments = [t.table for t in touched], [t.instrument_id for t in touched]
    # first the locks, then the look: a packer that was quicker has committed by then
    await connection.execute(_PACKED["share_locks"], tables, instruments)
    bounds = [t.first for t in touched], [t.last for t in touched]
    found = await connection.fetch(_PACKED["touched_blocks"], tables, instruments, *bounds)
    for block in found:
        rows = batch[touched[block["place"] - 1].rows]
        if not _has_times_of(rows, block):
            continue  # it lies between the times of a batch that reaches far
        key = (block["table_name"], block["instrument_id"], block["timeframe"], block["ts_start"])
        data = await connection.fetchval(_PACKED["block_data"], *key)
        await _bring_back(connection, rows, block["instrument_id"], data)
    return {touched[block["place"] - 1].rows for block in found}


def _has_times_of(rows: Rows, block: Any) -> bool:
    times = rows.records[rows.kind.time][rows.instruments == block["instrument_id"]]
    return bool(((times >= to_ns(block["ts_first"])) & (times <= to_ns(block["ts_last"]))).any())


def _touched(place: int, rows: Rows) -> list[_Touched]:
    if rows.table not in PACKED_TABLES:
        return []
    times = rows.records[rows.kind.time]
    is_old = times < to_ns(newest_packed())
    found = []
    for instrument in np.unique(rows.instruments[is_old]).tolist():
        own = times[is_old & (rows.instruments == instrument)]
        found.append(_Touched(place, rows.table, instrument, from_ns(int(own.min())), from_ns(int(own.max()))))
    return found


async def _bring_back(connection: Connection, rows: Rows, instrument_id: int, data: bytes) -> None:
    packed = PACKED_TABLES[rows.table]
    offered = rows.records[rows.instruments == instrument_id]
    try:
        records = unpacked(Block(data), rows.kind)
    except BlockDamaged as error:
        # records are stored whatever became of older ones; without the block nobody can say which it had already
        _log.error(
            "a packed block of %s cannot be read, records of its time are stored beside it: %s",
            rows.table,
            error,
            extra={"action": "block_unreadable", "table": rows.table, "instrument": instrument_id},
        )
        return
    same = records[is_among(records, offered, (packed.time, packed.key))]
    if not len(same):
        return
    table_codec = codec(rows.table, rows.kind)
    await connection.execute(_STORE["stage"].format(table=rows.table))
    encoded = table_codec.encode(np.full(len(same), instrument_id, np.int32), same)
    await copy_in(connection, f"stage_{rows.table}", table_codec.columns, encoded)
    await connection.execute(_PACKED["bring_back"].format(table=rows.table))
    await connection.execute(f"DELETE FROM stage_{rows.table}")
