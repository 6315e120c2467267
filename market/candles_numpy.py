"""The fold of many trades at once: trades to the bars of one timeframe, and bars to those of a longer one.

Works on bars as rows of 14 words (`bar_rows`), sorted by time. Pure functions; what is open, closed or late
is the business of `candles.BarFold`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from marketd.market.bar_rows import (
    BUY,
    CLOSE,
    COUNT,
    FIRST,
    HIGH,
    LAST,
    LOW,
    NO_ROWS,
    OPEN,
    PARTIAL,
    QUOTE,
    REVISED,
    SEQ,
    TAIL,
    TS,
    TS_KNOWN,
    VOLUME,
    WORDS,
    Rows,
    own_tail,
    to_candles,
)
from marketd.market.fixed import check_sums, mul_floor
from marketd.market.observation import Observation
from marketd.market.records import Records, Side, TradeFlag
from marketd.market.times import NS_PER_SECOND

Ints = npt.NDArray[np.int64]

_NOT_MARKET = int(TradeFlag.NOT_MARKET)
_BUYER = int(Side.BUY)


def group_trades(trades: Records, delta_ns: int, scales: tuple[int, int, int]) -> Rows:
    """The bars of TRADE records in the order of arrival; `scales` are of price, size, quote.

    RangeError when a product or any sum leaves 64 bits.
    """
    off_market = trades["flags"] & _NOT_MARKET
    if off_market.any():
        trades = trades[off_market == 0]
    if not len(trades):
        return NO_ROWS
    times = np.ascontiguousarray(trades["ts_event"])
    if (times[1:] < times[:-1]).any():
        # stable: trades of one ts_event stay in the order of arrival
        order = np.argsort(times, kind="stable")
        trades, times = trades[order], times[order]
    prices = np.ascontiguousarray(trades["price"])
    sizes = np.ascontiguousarray(trades["size"])
    quotes = mul_floor(prices, sizes, *scales)
    check_sums(sizes, field="volume")
    check_sums(quotes, field="quote_volume")
    numbers = times // delta_ns
    starts, ends = _runs(numbers)
    rows: Rows = np.zeros((len(starts), WORDS), dtype=np.int64)
    rows[:, TS] = numbers[starts] * delta_ns
    rows[:, OPEN] = prices[starts]
    rows[:, HIGH] = np.maximum.reduceat(prices, starts)
    rows[:, LOW] = np.minimum.reduceat(prices, starts)
    rows[:, CLOSE] = prices[ends]
    rows[:, VOLUME] = np.add.reduceat(sizes, starts)
    rows[:, QUOTE] = np.add.reduceat(quotes, starts)
    rows[:, BUY] = np.add.reduceat(sizes * (trades["side"] == _BUYER), starts)
    rows[:, COUNT] = ends - starts + 1
    rows[:, FIRST] = times[starts]
    rows[:, LAST] = times[ends]
    return rows


def group_rows(bars: Rows, delta_ns: int) -> Rows:
    """Bars, sorted by time, to those of a timeframe that theirs divides. Sums must be known to fit."""
    if not len(bars):
        return bars
    numbers = bars[:, TS] // delta_ns
    starts, ends = _runs(numbers)
    if len(starts) == len(bars):
        rows = bars.copy()
        rows[:, TS] = numbers * delta_ns
        return rows
    rows = bars[starts]
    rows[:, TS] = numbers[starts] * delta_ns
    rows[:, HIGH] = np.maximum.reduceat(bars[:, HIGH], starts)
    rows[:, LOW] = np.minimum.reduceat(bars[:, LOW], starts)
    rows[:, VOLUME : COUNT + 1] = np.add.reduceat(bars[:, VOLUME : COUNT + 1], starts, axis=0)
    for word in (TS_KNOWN, SEQ):
        rows[:, word] = np.maximum.reduceat(bars[:, word], starts)
    rows[:, CLOSE] = bars[ends, CLOSE]
    rows[:, LAST] = bars[ends, LAST]
    return rows


def _runs(numbers: Ints) -> tuple[Ints, Ints]:
    """First and last index of each run of equal numbers."""
    edge = np.empty(len(numbers), dtype=bool)
    edge[0] = True
    np.not_equal(numbers[1:], numbers[:-1], out=edge[1:])
    starts = edge.nonzero()[0]
    ends = np.empty_like(starts)
    ends[:-1] = starts[1:] - 1
    ends[-1] = len(numbers) - 1
    return starts, ends


def bars_from_trades(
    trades: Records,
    timeframe: int,
    *,
    price_scale: int,
    size_scale: int,
    quote_scale: int,
    observed_since_ns: int | None = None,
    gaps: Iterable[tuple[int, int]] = (),
    revised: bool = False,
) -> Records:
    """The own bars (CANDLE, oldest first) of all trades of their stretch, given in the order of `seq`.

    What the fold would have made of them: for bars older than it keeps. `observed_since_ns` and `gaps` say,
    as in the fold, which bars are partial; `revised` marks all as new versions. RangeError when a sum leaves
    64 bits.
    """
    delta_ns = timeframe * NS_PER_SECOND
    rows = group_trades(trades, delta_ns, (price_scale, size_scale, quote_scale))
    observation = Observation(observed_since_ns)
    for start_ns, end_ns in gaps:
        observation.add_gap(start_ns, end_ns)
    rows[:, TAIL] = own_tail(timeframe) | (REVISED if revised else 0)
    rows[observation.partial_many(rows[:, TS], delta_ns), TAIL] |= PARTIAL
    return to_candles(rows)
