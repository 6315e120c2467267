"""Order books by the second, minute, …: the last LIVE snapshot of each interval, and means over the LIVE ones in it.

The database computes the same from what it has (`book_means` in sql/queries/books.sql); this is for what it has not got
yet, and gives the same numbers: sums of integers are exact, are rounded once, and both are divided here (`set_means`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.market.records import BOOK_DEPTH, BookState, Kind, Records, book_kind
from marketd.market.times import NS_PER_SECOND

KIND_NAME = "book_means"
MEANS = ("mean_mid", "mean_spread", "mean_bid_size", "mean_ask_size")
_EXACT = 2.0**62  # sums below stay within int64
Reals = npt.NDArray[np.float64]


class Sums(NamedTuple):
    """Over the snapshots of an interval that have both sides, shape (n,) each: how many; the sums of bid + ask, of
    ask - bid, and of the sizes at the best prices.
    """

    snapshots: npt.NDArray[np.int64]
    mid2: Reals
    spread: Reals
    bid_size: Reals
    ask_size: Reals


@lru_cache(maxsize=64)
def means_kind(depth: int = BOOK_DEPTH) -> Kind:
    """The kind of such records, `depth` levels a side. They answer a question, and are stored nowhere.

    Fields: `ts`, the interval's start; those of its last LIVE snapshot (with its `ts_event`); `timeframe` in seconds;
    `count` of the LIVE snapshots with both sides, and over these `mean_mid`, `mean_spread`, `mean_bid_size` and
    `mean_ask_size` (sizes at the best prices), in real numbers; NaN when there is none.
    """
    book = book_kind(depth)
    stamp = ("ts_event", "ts_known", "seq")
    dtype = np.dtype(
        [
            *((name, "<i8") for name in ("ts", "ts_known", "seq", "ts_event")),
            *((name, book.dtype[name]) for name in book.dtype.names or () if name not in stamp),
            ("timeframe", "<i4"),
            ("count", "<i4"),
            *((name, "<f8") for name in MEANS),
        ]
    )
    return book._replace(id=0, name=KIND_NAME, dtype=dtype, table=None, ring=False, time="ts", key=("timeframe", "ts"))


def book_means(books: Records, timeframe: int, *, price_scale: int, size_scale: int) -> Records:
    """BOOK records of one instrument, in any order, as one record an interval of `timeframe` seconds with a LIVE one.

    Shape (n,), the oldest first. The last of an interval is the one with the greatest (ts_event, seq).
    """
    found: Records = np.zeros(0, means_kind(books.dtype["bid_price"].shape[0]).dtype)
    live = books[books["state"] == BookState.LIVE]
    if not len(live):
        return found
    live = live[np.lexsort((live["seq"], live["ts_event"]))]
    delta_ns = timeframe * NS_PER_SECOND
    starts = live["ts_event"] // delta_ns * delta_ns
    first = np.flatnonzero(np.diff(starts, prepend=starts[0] - delta_ns))
    last = live[np.append(first[1:], len(live)) - 1]
    found = np.zeros(len(first), found.dtype)
    for name in last.dtype.names or ():
        found[name] = last[name]
    found["ts"], found["timeframe"] = starts[first], timeframe
    set_means(found, _sums(live, first), price_scale=price_scale, size_scale=size_scale)
    return found


def set_means(found: Records, sums: Sums, *, price_scale: int, size_scale: int) -> None:
    """Fill in `count` and the means."""
    found["count"] = sums.snapshots
    counts = np.where(sums.snapshots == 0, np.nan, sums.snapshots)
    found["mean_mid"] = sums.mid2 / (2 * counts) / 10.0**price_scale
    found["mean_spread"] = sums.spread / counts / 10.0**price_scale
    found["mean_bid_size"] = sums.bid_size / counts / 10.0**size_scale
    found["mean_ask_size"] = sums.ask_size / counts / 10.0**size_scale


def join_means(one: Records, other: Records, *, price_scale: int, size_scale: int) -> Records:
    """Such records over two sets of snapshots that have none in common, as those over both; the oldest first."""
    both: Records = np.concatenate([one, other])
    if not len(both):
        return both
    both = both[np.lexsort((both["seq"], both["ts_event"], both["ts"]))]
    first = np.flatnonzero(np.diff(both["ts"], prepend=both["ts"][:1] - 1))
    last = np.append(first[1:], len(both))
    found: Records = both[last - 1]
    several = np.flatnonzero(last - first > 1)
    if len(several):
        count = both["count"].astype(np.int64)
        units = (2 * 10.0**price_scale, 10.0**price_scale, 10.0**size_scale, 10.0**size_scale)
        # the sums were integers, and are again
        sums = (np.rint(np.nan_to_num(both[name]) * count * unit) for name, unit in zip(MEANS, units, strict=True))
        whole = Sums(*(np.add.reduceat(values, first)[several] for values in (count, *sums)))
        joined = found[several]
        set_means(joined, whole, price_scale=price_scale, size_scale=size_scale)
        found[several] = joined
    return found


def _sums(live: Records, first: npt.NDArray[np.int64]) -> Sums:
    """Of the runs that begin at `first`."""
    both = (live["bid_count"] > 0) & (live["ask_count"] > 0)
    best = [np.where(both, live[name][:, 0], 0) for name in ("bid_price", "ask_price", "bid_size", "ask_size")]
    bids, asks, bid_sizes, ask_sizes = (_exact_sums(values, first) for values in best)
    count = np.add.reduceat(both.astype(np.int64), first)
    return Sums(count, *(sums.astype(np.float64) for sums in (bids + asks, asks - bids, bid_sizes, ask_sizes)))


def _exact_sums(values: npt.NDArray[np.int64], first: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    small = 2 * float(np.abs(values.astype(np.float64)).max()) * len(values) < _EXACT
    exact: npt.NDArray[Any] = np.add.reduceat(values if small else values.astype(object), first)
    return exact
