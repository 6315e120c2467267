"""The newest bar of many instruments in one statement; see `marketd.sql.read`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from marketd.market.bars import SOURCES_PER_BAR, finish_bars, source_number
from marketd.market.records import BY_NAME, CANDLE, Records
from marketd.market.rows import codec
from marketd.market.times import NS_PER_SECOND
from marketd.sql.copy import copy_out
from marketd.sql.levels import SECONDS_TABLE
from marketd.sql.packed_tables import newest_packed, to_ns
from marketd.sql.read import SECOND, Span, columns_of, read_bars
from marketd.sql.statements import statements
from marketd.sql.store import Connection
from marketd.sql.windows import newest_in_windows, windows

_LATEST = statements("latest")
_CANDLE = BY_NAME["candle"]
_REACH_BARS = 10


async def read_latest_bars(
    connection: Connection, instruments: Sequence[int], timeframe: int, *, bar_source: str = "best"
) -> dict[int, Records]:
    """The newest closed bar (shape (1,)) of each instrument that has one.

    Each is looked for in the last days first, all in one statement, and only those that have none there further back,
    or whose newest one may be packed.
    """
    found: dict[int, Records] = {}
    for window in windows(Span(), _REACH_BARS * timeframe * NS_PER_SECOND):
        missing = [number for number in instruments if number not in found]
        if not missing:
            break
        if window.start is None:
            found |= await _one_by_one(connection, missing, timeframe, bar_source)
        else:
            found |= await _in_window(connection, missing, timeframe, window, bar_source)
    if timeframe == SECOND:
        packed_ns = to_ns(newest_packed())
        silent = [number for number in instruments if number not in found or found[number]["ts"][0] < packed_ns]
        packed = await connection.fetch(_LATEST["have_blocks"], SECONDS_TABLE, silent) if silent else []
        found |= await _one_by_one(connection, [row["id"] for row in packed], timeframe, bar_source)
    return found


async def _in_window(
    connection: Connection, instruments: Sequence[int], timeframe: int, window: Span, bar_source: str
) -> dict[int, Records]:
    table = "candles_1s" if timeframe == SECOND else "candles"
    args: list[Any] = [list(instruments), *window.bounds(), SOURCES_PER_BAR]
    if timeframe != SECOND:
        args.append(timeframe)
    source = source_number(bar_source)
    conditions = "" if timeframe == SECOND else "AND timeframe = $5"
    if source is not None:
        conditions += f" AND source = {source}"
    statement = _LATEST["latest_bars"].format(columns=columns_of(table, _CANDLE), table=table, and_timeframe=conditions)
    owners, bars = codec(table, _CANDLE).decode(await copy_out(connection, statement, *args))
    return _newest(owners, bars, bar_source)


async def _one_by_one(
    connection: Connection, instruments: Sequence[int], timeframe: int, bar_source: str
) -> dict[int, Records]:
    """Those that were silent for long, or never spoke."""
    found = {}
    for number in instruments:
        read = partial(read_bars, connection, number, timeframe, limit=1, bar_source=bar_source)
        bars = (await newest_in_windows(read, Span(), 1)).records()
        if len(bars):
            found[number] = finish_bars(bars, bar_source, 1)
    return found


def _newest(owners: Any, bars: Records, bar_source: str) -> dict[int, Records]:
    assert bars.dtype == CANDLE
    return {int(number): finish_bars(bars[owners == number], bar_source, 1) for number in np.unique(owners)}
