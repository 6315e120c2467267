"""Bars on a grid: exactly the aligned intervals of a stretch, whether or not a trade fell into each.

Seconds without trades make no bar, so a reader has to know whether a missing bar means "nothing was traded" or "nobody
was watching". That is what `observed` says: stretches of event time, as an int64 array of shape (k, 2) of
[start, end) in ns, sorted and apart from each other (`normalised`), in which the venue's trades were received
throughout. `observed_intervals` makes it from COVERAGE records. A bar that is not PARTIAL speaks for its own interval.

All functions are pure and work on CANDLE records.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.market.errors import InvalidArgument
from marketd.market.records import BY_NAME, CandleFlag, Coverage, Records, empty
from marketd.market.rows import ONE_SECOND_BARS
from marketd.market.timeline import in_order
from marketd.market.times import ABSENT, NS_PER_SECOND, timeframe_name

Intervals = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Fill = Literal["quiet", "nan"] | None
MAX_GRID = 50_000_000  # intervals; more is a slip in start or end rather than a wish
# A feed reports the venue's time when an instrument was silent for a second: so much later an end is settled.
SETTLE_NS = 2 * NS_PER_SECOND

_ADDS = (Coverage.OBSERVED, Coverage.BACKFILLED)
_TAKES = (Coverage.GAP, Coverage.VENUE_DOWN, Coverage.UNSTORED, Coverage.ENDED)
_FOREVER = 2**63 - 1
_TRADES = BY_NAME["trade"].id
_CANDLE = BY_NAME["candle"]
_ZERO_WHEN_QUIET = ("volume", "quote_volume", "buy_volume", "trade_count")


class Grid(NamedTuple):
    """Bars at consecutive open times, shape (n,) each."""

    records: Records  # missing ones absent, or flat at the previous close
    is_filled: Mask  # no bar was there; a flat one was put in
    is_observed: Mask


def normalised(intervals: Iterable[tuple[int, int]] | Intervals | None) -> Intervals:
    """Sorted, merged and non-empty, shape (k, 2)."""
    pairs = sorted((int(start), int(end)) for start, end in (() if intervals is None else intervals) if start < end)
    merged: list[tuple[int, int]] = []
    for start, end in pairs:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return np.array(merged, dtype=np.int64).reshape(-1, 2)


def observed_intervals(
    coverage: Records, until_ns: int, *, stream: int = _TRADES, timeframe: int | None = None
) -> Intervals:
    """What was observed of a stream (a kind's id), from its COVERAGE records (`stream` 0: of every stream).

    They are applied in the order of `seq`. OBSERVED adds all from `ts_start` on (up to `ts_end` if that is later),
    BACKFILLED adds [ts_start, ts_end); GAP, VENUE_DOWN and UNSTORED take that away, ENDED all from `ts_start` on; the
    others say nothing about it. Nothing after `until_ns` counts as observed. With a `timeframe` (s) it is asked whether
    its bars are there: then not what befell the trades, but what befell the table of these bars (EXPIRED) takes away.
    """
    gone = None if timeframe is None else (ONE_SECOND_BARS if timeframe == 1 else "candles").encode()
    observed = _Stretches()
    fields = [
        coverage[in_order(coverage)][name].tolist() for name in ("state", "ts_start", "ts_end", "reason", "stream")
    ]
    for state, start, end, reason, of_stream in zip(*fields, strict=True):
        is_gone = state == Coverage.EXPIRED and reason == gone
        if not is_gone and of_stream not in (stream, 0):
            continue
        if end == ABSENT or state == Coverage.ENDED or (state == Coverage.OBSERVED and end <= start):
            end = _FOREVER
        if state in _ADDS:
            observed.add(start, end)
        elif state in _TAKES or is_gone or (state == Coverage.EXPIRED and gone is None):
            observed.take(start, end)
    return normalised((start, min(end, until_ns)) for start, end in zip(observed.starts, observed.ends, strict=True))


class _Stretches:
    """Stretches of time apart from each other, in order: a change looks at those that it touches, and at no others."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        if start < end:
            first, last = bisect_left(self.ends, start), bisect_right(self.starts, end)
            if first < last:
                start, end = min(start, self.starts[first]), max(end, self.ends[last - 1])
            self.starts[first:last], self.ends[first:last] = [start], [end]

    def take(self, start: int, end: int) -> None:
        first, last = bisect_right(self.ends, start), bisect_left(self.starts, end)
        if start < end and first < last:
            left = [(self.starts[first], start)] if self.starts[first] < start else []
            right = [(end, self.ends[last - 1])] if end < self.ends[last - 1] else []
            self.starts[first:last] = [each[0] for each in left + right]
            self.ends[first:last] = [each[1] for each in left + right]


def covers(observed: Intervals, starts: Any, ends: Any) -> Mask:
    """For each [start, end) whether it lies wholly in one observed stretch; shape of `starts`."""
    if not len(observed):
        return np.zeros(np.shape(starts), dtype=bool)
    before = np.searchsorted(observed[:, 0], starts, side="right") - 1
    found: Mask = (before >= 0) & (observed[before, 1] >= ends)
    return found


def open_times(start_ns: int, end_ns: int, timeframe: int) -> npt.NDArray[np.int64]:
    """Open times of the intervals of `timeframe` (s) that lie wholly in [start, end)."""
    step = timeframe * NS_PER_SECOND
    first, last = -(-start_ns // step) * step, end_ns // step * step
    if (last - first) // step > MAX_GRID:
        raise InvalidArgument(
            f"start: {(last - first) // step} intervals of {timeframe_name(timeframe)} lie between start and end; "
            f"at most {MAX_GRID} are made at once",
            field="start",
        )
    return np.arange(first, last, step, dtype=np.int64)


def lay_out(
    bars: Records,
    times: npt.NDArray[np.int64],
    timeframe: int,
    *,
    fill: Fill = "quiet",
    observed: Intervals | None = None,
) -> Grid:
    """The bars at `times` (consecutive open times), one row each; bars before the first say what price went before.

    A missing bar is flat at the previous close with no volume where `fill="quiet"`, its interval was observed, and so
    was all since that close; else its fields are absent. Bars must be sorted by time, one for each time.
    """
    if fill not in ("quiet", "nan"):
        raise InvalidArgument(f"fill: {fill!r} is neither 'quiet' nor 'nan' nor None", field="fill")
    if len(bars) > 1 and not (bars["ts"][1:] > bars["ts"][:-1]).all():
        raise InvalidArgument("bars of one grid must have rising open times; choose one bar_source", field="bar_source")
    intervals = normalised(observed)
    step = timeframe * NS_PER_SECOND
    records = _empty_bars(times, timeframe)
    where = np.searchsorted(times, bars["ts"])
    inside = where < len(times)
    inside[inside] = times[where[inside]] == bars["ts"][inside]
    records[where[inside]] = bars[inside]
    has_bar = np.zeros(len(times), dtype=bool)
    has_bar[where[inside]] = True
    is_observed = covers(intervals, times, times + step) | (has_bar & ((records["flags"] & CandleFlag.PARTIAL) == 0))
    filled = np.zeros(len(times), dtype=bool)
    if fill == "quiet" and len(times):
        filled = _fill_quiet(records, has_bar, is_observed, _close_before(bars, int(times[0]), step, intervals))
    return Grid(records, filled, is_observed)


def _empty_bars(times: npt.NDArray[np.int64], timeframe: int) -> Records:
    records = empty(_CANDLE, len(times))
    records["ts"] = times
    records["timeframe"] = timeframe
    for field in ("ts_known", "seq", "source", "flags"):
        records[field] = 0
    return records


def _close_before(bars: Records, first: int, step: int, observed: Intervals) -> int:
    """The close that was the price at `first`, ABSENT if that is not known."""
    earlier = bars[: np.searchsorted(bars["ts"], first)]
    if not len(earlier):
        return ABSENT
    end = int(earlier["ts"][-1]) + step
    known = end == first or bool(covers(observed, end, first))
    return int(earlier["close"][-1]) if known else ABSENT


def _fill_quiet(records: Records, has_bar: Mask, is_observed: Mask, close_before: int) -> Mask:
    """Flat bars in place; the mask of where. A price is carried only over what was observed without a break."""
    index = np.arange(len(records))
    newest_bar = np.maximum.accumulate(np.where(has_bar, index, -1))
    newest_break = np.maximum.accumulate(np.where(~has_bar & ~is_observed, index, -1))
    closes = np.where(newest_bar >= 0, records["close"][newest_bar], close_before)
    # without any break so far, the close before the grid still holds (-1 > -2)
    known = np.where(newest_bar >= 0, newest_bar, -1) > np.where(newest_break >= 0, newest_break, -2)
    filled: Mask = ~has_bar & is_observed & known & (closes != ABSENT)
    for field in ("open", "high", "low", "close"):
        records[field][filled] = closes[filled]
    for field in _ZERO_WHEN_QUIET:
        records[field][filled] = 0
    return filled
