"""The newest bar of many instruments in a bounded number of statements; see `marketd.sql.read`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np

from marketd.market.bars import SOURCES_PER_BAR, finish_bars, newest_versions, source_number
from marketd.market.block_stretch import unpacked_stretch
from marketd.market.blocks import Block
from marketd.market.records import BY_NAME, CANDLE, Records
from marketd.market.rows import codec
from marketd.market.times import NS_PER_SECOND
from marketd.sql.copy import copy_out
from marketd.sql.levels import SECONDS_TABLE
from marketd.sql.packed_tables import newest_packed, to_ns
from marketd.sql.read import END_OF_TIME, SECOND, Span, columns_of
from marketd.sql.sessions import told_once
from marketd.sql.statements import statements
from marketd.sql.store import Connection, to_datetime
from marketd.sql.windows import windows

_LATEST = statements("latest")
_PACKED = statements("packed")
_CANDLE = BY_NAME["candle"]
_REACH_BARS = 10
_BLOCKS_AT_ONCE = 64  # of 100 kB, as a rule
_GROWTH = 4


async def read_latest_bars(
    connection: Connection, instruments: Sequence[int], timeframe: int, *, bar_source: str = "best"
) -> dict[int, Records]:
    """The newest closed bar (shape (1,)) of each instrument that has one.

    Rows are looked for in the last days first, of all in one statement, and further back only of those that have none
    there. Where a bar of a second may be packed that is newer than those rows, the newest block is looked into.
    """
    found: dict[int, Records] = {}
    for window in windows(Span(), _REACH_BARS * timeframe * NS_PER_SECOND):
        missing = [number for number in instruments if number not in found]
        if not missing:
            break
        found |= await _rows_in(connection, missing, timeframe, window, bar_source)
    if timeframe == SECOND and await told_once(connection, _PACKED["may_have_blocks"]):
        for number, packed in (await _packed(connection, instruments, found, bar_source)).items():
            found[number] = newest_versions(np.concatenate([found.get(number, np.empty(0, CANDLE)), packed]))
    return {number: finish_bars(bars, bar_source, 1) for number, bars in found.items()}


async def _rows_in(
    connection: Connection, instruments: Sequence[int], timeframe: int, window: Span, bar_source: str
) -> dict[int, Records]:
    """Of each instrument rows that have its newest bar, all sources of it."""
    table = SECONDS_TABLE if timeframe == SECOND else "candles"
    args: list[Any] = [list(instruments), *window.bounds(), SOURCES_PER_BAR]
    if timeframe != SECOND:
        args.append(timeframe)
    source = source_number(bar_source)
    conditions = "" if timeframe == SECOND else "AND timeframe = $5"
    if source is not None:
        conditions += f" AND source = {source}"
    statement = _LATEST["latest_bars"].format(columns=columns_of(table, _CANDLE), table=table, and_timeframe=conditions)
    owners, bars = codec(table, _CANDLE).decode(await copy_out(connection, statement, *args))
    return {int(number): bars[owners == number] for number in np.unique(owners)}


async def _packed(
    connection: Connection, instruments: Sequence[int], rows: Mapping[int, Records], bar_source: str
) -> dict[int, Records]:
    """The newest packed bars of a second of those instruments that have one as new as their rows, all sources of it."""
    source = source_number(bar_source)
    edge_ns = to_ns(newest_packed())
    newest = {number: int(rows[number]["ts"].max()) if number in rows else 0 for number in instruments}
    before = {number: END_OF_TIME for number, ts in newest.items() if ts < edge_ns}
    found: dict[int, Records] = {}
    count = 1  # of blocks of each instrument
    while before:  # again, further back in growing steps, for those whose newest blocks have no bar of the source
        older: dict[int, datetime] = {}
        asked, at_once = list(before), _BLOCKS_AT_ONCE // count
        for first in range(0, len(asked), at_once):
            some = asked[first : first + at_once]
            args = some, [before[number] for number in some], [to_datetime(newest[number]) for number in some]
            blocks = await connection.fetch(_PACKED["newest_blocks"], SECONDS_TABLE, *args, count)
            bars, left = await asyncio.to_thread(_newest_of, blocks, source, count)
            found |= bars
            older |= left
        before, count = older, min(_GROWTH * count, _BLOCKS_AT_ONCE)
    return found


def _newest_of(blocks: Sequence[Any], source: int | None, count: int) -> tuple[dict[int, Records], dict[int, datetime]]:
    """By instrument the newest bars of its `count` blocks, the newest first; where they have none, and there may be
    more blocks, when the last of them begins."""
    found: dict[int, Records] = {}
    older: dict[int, datetime] = {}
    for number, group in groupby(blocks, itemgetter("id")):
        own = list(group)
        bars = next(filter(len, (_newest_in(block["data"], source) for block in own)), None)
        if bars is not None:
            found[number] = bars
        elif len(own) == count:
            older[number] = own[-1]["ts_start"]
    return found, older


def _newest_in(block: bytes, source: int | None) -> Records:
    if source is not None and not (Block(block).column("source") == source).any():
        return np.empty(0, CANDLE)  # seen by one column of many
    bars = unpacked_stretch([block], _CANDLE)
    wanted = bars if source is None else bars[bars["source"] == source]
    return wanted[wanted["ts"] == wanted["ts"].max()] if len(wanted) else wanted
