"""Bars of a longer timeframe from those of a shorter one."""

from __future__ import annotations

import numpy as np

from marketd.market.bar_rows import BUY, COUNT, QUOTE, TS, VOLUME, Rows, from_candles, to_candles
from marketd.market.candles_numpy import group_rows
from marketd.market.errors import InvalidArgument
from marketd.market.fixed import check_sums
from marketd.market.records import CandleFlag, Records
from marketd.market.times import ABSENT, NS_PER_SECOND

# REVISED says that the bar replaces a version of itself; that is nothing a sum of bars inherits.
_INHERITED = int(CandleFlag.PARTIAL | CandleFlag.RECONSTRUCTED | CandleFlag.SNAPPED)


def aggregate(candles: Records, timeframe: int) -> Records:
    """The bars of `timeframe` seconds that CANDLE records of one shorter timeframe make up, oldest first.

    One record a bar (the newest version); their timeframe must divide `timeframe`, else InvalidArgument. Of a
    bar made of several: ts_known and seq are the greatest, a volume that one of them lacks is absent, PARTIAL and
    RECONSTRUCTED are inherited, and of several sources the one that stands latest in `Source`. A missing
    record counts as a stretch without trades. RangeError when a sum leaves 64 bits.
    """
    if not len(candles):
        return candles
    shorter = int(candles["timeframe"][0])
    if (candles["timeframe"] != shorter).any() or shorter < 1 or timeframe % shorter:
        raise InvalidArgument(
            f"timeframe: bars of {sorted(set(candles['timeframe'].tolist()))} s make no bars of {timeframe} s",
            field="timeframe",
        )
    if timeframe == shorter:
        return candles
    delta_ns = timeframe * NS_PER_SECOND
    bars = from_candles(candles, candles["ts"], candles["ts"])
    bars = bars[np.argsort(bars[:, TS], kind="stable")]
    absent = _absent_volumes(bars, delta_ns)
    for word in (VOLUME, QUOTE, BUY, COUNT):
        volumes = bars[:, word]
        volumes[volumes == ABSENT] = 0
        check_sums(volumes, field="volume")
    rows = group_rows(bars, delta_ns)
    rows[:, VOLUME : COUNT + 1][absent] = ABSENT
    return _marked(rows, bars, timeframe, delta_ns)


def _absent_volumes(bars: Rows, delta_ns: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Of each longer bar and each of its volumes: does a part lack it? Shape (bars, 4)."""
    parts = bars[:, VOLUME : COUNT + 1] == ABSENT
    return np.logical_or.reduceat(parts, _starts(bars, delta_ns), axis=0)


def _marked(rows: Rows, bars: Rows, timeframe: int, delta_ns: int) -> Records:
    parts = to_candles(bars)
    starts = _starts(bars, delta_ns)
    candles = to_candles(rows)
    candles["timeframe"] = timeframe
    candles["source"] = np.maximum.reduceat(parts["source"], starts)
    candles["flags"] = np.bitwise_or.reduceat(parts["flags"] & np.int16(_INHERITED), starts)
    return candles


def _starts(bars: Rows, delta_ns: int) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
    numbers = bars[:, TS] // delta_ns
    return np.flatnonzero(np.concatenate(([True], numbers[1:] != numbers[:-1])))
