"""What is packed, read back: as many blocks by one statement as are wanted and fit into memory, as one stretch.

Whoever reads rows and blocks reads the rows first: what is packed in between is then seen twice, which `joined` puts
right, and never missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.market.block_stretch import Within, has_versions, unpacked_stretch, unpacked_times
from marketd.market.records import Kind, Records
from marketd.sql.packed_tables import NO_TIMEFRAME, PACKED_TABLES, newest_packed, to_ns
from marketd.sql.sessions import told_once
from marketd.sql.statements import statements
from marketd.sql.store import Connection

_PACKED = statements("packed")
_UNPACKED_BYTES = 16 << 20  # that are records at a time: a day of one-second bars is 8 MB
_WHOLE_BYTES = 64 << 20  # as records, of blocks that are passed on; as many as an answer may have
_MOST_BLOCKS = 1024  # that a statement looks at
_NO_LIMIT = 2**62  # rows
_GROWTH = 4


class PackedSpan(NamedTuple):
    """What is asked for: start <= time < end, known at `known`; books at the depth of `kind`."""

    table: str
    kind: Kind
    instrument_id: int
    start: datetime
    end: datetime
    known: datetime
    newest: bool = True
    timeframe: int = NO_TIMEFRAME

    @property
    def key(self) -> tuple[str, int, int]:
        """Of its blocks."""
        return self.table, self.instrument_id, self.timeframe

    @property
    def within(self) -> Within:
        return Within(to_ns(self.start), to_ns(self.end), to_ns(self.known))


async def may_be_packed(connection: Connection, span: PackedSpan) -> bool:
    """False: nothing of the span is, and nobody needs to look."""
    if span.table not in PACKED_TABLES or span.start >= newest_packed():
        return False
    return bool(await told_once(connection, _PACKED["may_have_blocks"]))


class WholeBlocks(NamedTuple):
    """Blocks that have all of an answer, in the order of time: those of their records that lie `within` are the answer,
    or its newest ones where a limit was asked for. `inside`: how many these are at least; `rows`: all that are packed.
    """

    data: tuple[bytes, ...]
    within: Within
    rows: int
    inside: int

    def records(self, kind: Kind) -> Records:
        return unpacked_stretch(self.data, kind, self.within)

    def times(self, name: str) -> npt.NDArray[np.int64]:
        """Of the records within: this field, which is their time."""
        return unpacked_times(self.data, name, self.within)


async def packed_records(
    connection: Connection, span: PackedSpan, wanted: int = _NO_LIMIT
) -> AsyncGenerator[Records, None]:
    """The records that the span has packed, stretch by stretch, the newest (or oldest) first: one stretch, as a rule,
    for who wants no more than `wanted`.
    """
    if not await may_be_packed(connection, span):
        return
    start, end = span.start, min(span.end, newest_packed())
    statement = _PACKED["blocks"].format(direction="DESC" if span.newest else "ASC")
    most = max(1, _UNPACKED_BYTES // span.kind.dtype.itemsize)
    while start < end:
        blocks = await connection.fetch(statement, *span.key, start, end, span.known, wanted, most, _MOST_BLOCKS)
        if not blocks:
            return
        data = [block["data"] for block in (blocks[::-1] if span.newest else blocks)]
        found = await asyncio.to_thread(unpacked_stretch, data, span.kind, span.within)
        if len(found):
            yield found
        if blocks[0]["are_all"]:
            return
        if span.newest:
            end = blocks[-1]["ts_start"]
        else:
            start = blocks[-1]["ts_end"]
        wanted = min(wanted * _GROWTH, _NO_LIMIT)  # there was less in them than it seemed


async def whole_blocks(connection: Connection, span: PackedSpan, limit: int) -> WholeBlocks | None:
    """The blocks that have all that the span has packed, or its newest `limit`. None when there are no such blocks:
    they would have to be looked into, or are too much.
    """
    if not span.newest and limit < _NO_LIMIT:
        return None
    if not await may_be_packed(connection, span):
        return None
    most = _WHOLE_BYTES // span.kind.dtype.itemsize
    blocks: list[Any] = await connection.fetch(
        _PACKED["whole_blocks"], *span.key, span.start, span.end, span.known, limit, most, _MOST_BLOCKS
    )
    # of records that replace each other nobody knows how many count
    if not blocks or (has_versions(span.kind) and not blocks[0]["are_all"]):
        return None
    data = tuple(block["data"] for block in blocks)
    rows, inside = (sum(block[name] for block in blocks) for name in ("row_count", "inside"))
    return WholeBlocks(data, span.within._replace(known=None), rows, inside)


async def read_packed(
    connection: Connection,
    span: PackedSpan,
    limit: int,
    *,
    source: int | None = None,
) -> Records | None:
    """What the span has packed, at least the newest (or oldest) `limit` of it, in the order of time; None: nothing.

    `source`: of these bars.
    """
    found: list[Records] = []
    count = 0
    async with aclosing(packed_records(connection, span, limit)) as stretches:
        async for records in stretches:
            wanted = records if source is None else records[records["source"] == source]
            found.append(wanted)
            count += len(wanted)
            if count >= limit:
                break
    if not count:
        return None
    return found[0] if len(found) == 1 else np.concatenate(found[::-1] if span.newest else found)
