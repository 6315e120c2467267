"""A bar as 14 words: the CANDLE record as int64 words, then `first` and `last`.

The fold and its parts share this layout (a list of ints in the scalar path, a row of an int64 array in the
numpy path). `first` and `last` are the `ts_event` of the trades that gave open and close; with them any later
trade finds its place, since among trades of one `ts_event` the one that arrived later is the later one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from marketd.market.errors import RangeError
from marketd.market.fixed import MAX_FIXED
from marketd.market.records import CANDLE, CandleFlag, Records, Source

Rows = npt.NDArray[np.int64]  # shape (n, WORDS)
Row = Sequence[int]

TS, TS_KNOWN, SEQ, OPEN, HIGH, LOW, CLOSE, VOLUME, QUOTE, BUY, COUNT, TAIL, FIRST, LAST = range(14)
CANDLE_WORDS = CANDLE.itemsize // 8
WORDS = CANDLE_WORDS + 2

# the last word of CANDLE: timeframe i4, source i2, flags i2, little-endian
_FLAGS_SHIFT = 48
PARTIAL = int(CandleFlag.PARTIAL) << _FLAGS_SHIFT
REVISED = int(CandleFlag.REVISED) << _FLAGS_SHIFT
SOURCE_AND_TIMEFRAME = (1 << _FLAGS_SHIFT) - 1

NO_ROWS: Rows = np.zeros((0, WORDS), dtype=np.int64)
NO_CANDLES: Records = np.zeros(0, dtype=CANDLE)
NO_CANDLES.flags.writeable = False


def own_tail(timeframe_seconds: int) -> int:
    """The last word of an own bar without flags."""
    return timeframe_seconds | int(Source.OWN) << 32


def merge(bar: list[int], group: Row) -> None:
    """Add the trades of `group`, which arrived after those of `bar`. RangeError when a sum leaves 64 bits."""
    if group[HIGH] > bar[HIGH]:
        bar[HIGH] = group[HIGH]
    if group[LOW] < bar[LOW]:
        bar[LOW] = group[LOW]
    if group[LAST] >= bar[LAST]:
        bar[LAST] = group[LAST]
        bar[CLOSE] = group[CLOSE]
    if group[FIRST] < bar[FIRST]:
        bar[FIRST] = group[FIRST]
        bar[OPEN] = group[OPEN]
    for word in (VOLUME, QUOTE, BUY, COUNT):
        bar[word] += group[word]
        if bar[word] > MAX_FIXED:
            raise RangeError("bar: a sum of volumes does not fit into 64 bits", field="volume")


def to_candles(rows: Rows) -> Records:
    """The CANDLE records of bars, shape (n,)."""
    if not len(rows):
        return NO_CANDLES
    return np.ascontiguousarray(rows[:, :CANDLE_WORDS]).view(CANDLE).reshape(len(rows))


def from_candles(candles: Records, first_ts: npt.NDArray[np.int64], last_ts: npt.NDArray[np.int64]) -> Rows:
    """Bars of CANDLE records and the times of their first and last trades, shape (n,) each."""
    rows = np.empty((len(candles), WORDS), dtype=np.int64)
    words = np.ascontiguousarray(candles).view(np.int64).reshape(len(candles), CANDLE_WORDS)
    rows[:, :CANDLE_WORDS] = words
    rows[:, FIRST] = first_ts
    rows[:, LAST] = last_ts
    return rows
