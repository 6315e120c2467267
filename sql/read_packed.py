"""What is packed, read back: block after block, as far as somebody goes on asking.

Whoever reads rows and blocks reads the rows first: what is packed in between is then seen twice, which `joined` puts
right, and never missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import NamedTuple

import numpy as np

from marketd.market.blocks import Block, unpacked
from marketd.market.records import Kind, Records
from marketd.market.block_stretch import newest_of_each_time
from marketd.sql.packed_tables import NO_TIMEFRAME, PACKED_TABLES, newest_packed, to_ns
from marketd.sql.statements import statements
from marketd.sql.store import Connection

_PACKED = statements("packed")
_MAX_AT_ONCE = 4  # blocks in memory that are not asked for yet


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


async def packed_records(connection: Connection, span: PackedSpan) -> AsyncGenerator[Records, None]:
    """The records of each block that touches the span, the newest (or oldest) block first."""
    start, end = span.start, min(span.end, newest_packed())
    statement = _PACKED["newest_blocks" if span.newest else "oldest_blocks"]
    at_once = 1
    while span.table in PACKED_TABLES and start < end:
        key = (span.table, span.instrument_id, span.timeframe)
        blocks = await connection.fetch(statement, *key, start, end, span.known, at_once)
        for block in blocks:
            found = await asyncio.to_thread(_selected, block["data"], span)
            if len(found):
                yield found
        if len(blocks) < at_once:
            return
        if span.newest:
            end = blocks[-1]["ts_start"]
        else:
            start = blocks[-1]["ts_end"]
        at_once = min(2 * at_once, _MAX_AT_ONCE)


def _selected(data: bytes, span: PackedSpan) -> Records:
    """Those of a block that are asked for: often a few minutes of a day."""
    block = Block(data)
    times, known = block.column(span.kind.time), block.column("ts_known")
    start_ns, end_ns, known_ns = to_ns(span.start), to_ns(span.end), to_ns(span.known)
    wanted = (times >= start_ns) & (times < end_ns) & (known <= known_ns)
    places = np.flatnonzero(wanted)
    if not len(places):
        return unpacked(block, span.kind, slice(0))
    stretch = slice(int(places[0]), int(places[-1]) + 1)
    # as a rule they stand side by side, and need not be picked out one by one
    return unpacked(block, span.kind, stretch if len(places) == stretch.stop - stretch.start else wanted)


async def only_block(connection: Connection, span: PackedSpan, limit: int) -> bytes | None:
    """The block that has all that the span has packed, and nothing else; None when there is no such block."""
    key = (span.table, span.instrument_id, span.timeframe)
    if span.table not in PACKED_TABLES or span.start >= newest_packed():
        return None
    found: bytes | None = await connection.fetchval(
        _PACKED["only_block"], *key, span.start, span.end, span.known, limit
    )
    return found


async def read_packed(
    connection: Connection,
    span: PackedSpan,
    limit: int,
    *,
    source: int | None = None,
    of_each_time: bool = False,
) -> Records | None:
    """What the span has packed, at least the newest (or oldest) `limit` of it, in the order of time; None: nothing.

    `source`: of these bars. `of_each_time`: the newest version of each moment.
    """
    found: list[Records] = []
    count = 0
    async with aclosing(packed_records(connection, span)) as blocks:
        async for records in blocks:
            wanted = records if source is None else records[records["source"] == source]
            if of_each_time:
                wanted = newest_of_each_time(wanted, span.kind.time)
            found.append(wanted)
            count += len(wanted)
            if count >= limit:
                break
    if not count:
        return None
    return found[0] if len(found) == 1 else np.concatenate(found[::-1] if span.newest else found)
