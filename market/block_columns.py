"""What a column of a packed block is told as: what its neighbours do not tell already. Pure.

Most columns follow from others: a bar opens near where the last one closed, its high is above open and close, its
turnover is near price times volume. So a column is written as the remainder of a prediction, which is chosen by a
sample from the few that `PREDICTIONS` has for its name (or none, which is always one of them).

    of a        x - a                                   above a b    x - max(a, b)
    after a     x - a of the record before              below a b    min(a, b) - x
    worth …     x - what the volume is worth at the mean of the prices, in floating point, which IEEE 754 fixes

The levels of a book are two-dimensional. Prices are the best one and the gaps from level to level. Sizes are told in
the order of (price, time): what rests at a price seldom changes, whichever level the price is at the moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from marketd.market.block_streams import Ints

Prediction = tuple[str, ...]  # its name, then the columns (of "worth" the last one is the volume)
Column = Callable[[str], Ints]  # a column by its name

NONE: Prediction = ("none",)
# No column may follow from itself by way of others: who reads one reads those that it follows from first.
PREDICTIONS: Mapping[str, tuple[Prediction, ...]] = MappingProxyType(
    {
        "ts_known": (("of", "ts"), ("of", "ts_event")),
        "ts_start": (("of", "ts_event"), ("after", "ts_event")),
        "open": (("after", "close"),),
        "high": (("above", "open", "close"),),
        "low": (("below", "open", "close"),),
        "quote_volume": (
            ("worth", "open", "close", "volume"),
            ("worth", "high", "low", "volume"),
            ("worth", "open", "high", "low", "close", "volume"),
        ),
        "buy_volume": (("of", "volume"),),
        "ask_price": (("of", "bid_price"),),
        "best_bid_size": (("of", "bid_size"),),
        "best_ask_size": (("of", "ask_size"),),
        "ask_count": (("of", "bid_count"),),
    }
)
_MAX_EXACT = 2.0**62


def predicted(prediction: Prediction, column: Column, power: int) -> Ints | None:
    """What a prediction says of a column; None: nothing, which is 0. `power` of ten: the scale of "worth"."""
    name, *others = prediction
    if name == "none":
        return None
    values = [column(other) for other in others]
    if name == "of":
        return values[0]
    if name == "after":
        return np.concatenate([np.zeros(1, np.int64), values[0][:-1]])
    if name == "above":
        return np.maximum(*values)
    if name == "below":
        return np.minimum(*values)
    return _worth(values[:-1], values[-1], power)


def power_of(prediction: Prediction, column: Column, values: Ints) -> int:
    """The power of ten by which price times volume is larger than `values`; 0 where that means nothing."""
    if prediction[0] != "worth":
        return 0
    products = column(prediction[1]).astype(np.float64) * column(prediction[-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = products / values
    ratios = ratios[np.isfinite(ratios) & (ratios > 0)]
    return int(np.rint(np.log10(np.median(ratios)))) if len(ratios) else 0


def remainder(prediction: Prediction, values: Ints, said: Ints | None) -> Ints:
    if said is None:
        return values
    return said - values if prediction[0] == "below" else values - said


def restored(prediction: Prediction, left: Ints, said: Ints | None) -> Ints:
    """The column, where `left` was."""
    if said is None:
        return left
    return np.subtract(said, left, out=left) if prediction[0] == "below" else np.add(left, said, out=left)


def _worth(prices: list[Ints], volume: Ints, power: int) -> Ints:
    total = prices[0].astype(np.float64)
    for price in prices[1:]:
        total += price
    worth = total * volume
    worth /= len(prices) * 10.0**power
    np.floor(worth, out=worth)
    too_large = np.abs(worth) > _MAX_EXACT
    if too_large.any():
        worth[too_large] = 0
    return worth.astype(np.int64)


# ---- absent values ------------------------------------------------------------------------------------


def filled(values: Ints, absent: npt.NDArray[np.bool_]) -> Ints:
    """Where a value is absent the one before it; the first present one before that. Not all of them may be absent."""
    places = np.where(absent, 0, np.arange(len(values)))
    np.maximum.accumulate(places, out=places)
    first = int(np.argmin(absent))
    places[:first] = first
    found: Ints = values[places]
    return found


# ---- levels -------------------------------------------------------------------------------------------


def gaps(prices: Ints) -> Ints:
    """From each level to the next, shape (n, depth - 1)."""
    return np.diff(prices, axis=1)


def from_gaps(best: Ints, gap: Ints) -> Ints:
    """Prices of all levels, shape (n, depth)."""
    return np.cumsum(np.concatenate([best[:, None], gap], axis=1), axis=1)


def order_of(prices: Ints) -> npt.NDArray[np.intp]:
    """Cells of (n, depth) prices in the order of (price, time)."""
    flat = prices.reshape(-1)
    low, high = int(flat.min()), int(flat.max())
    if high - low < 2**63:
        flat = flat - low
        step = int(np.gcd.reduce(flat)) or 1
        if (high - low) // step < 2**16:
            flat = (flat // step).astype(np.uint16)  # which numpy sorts by radix, ten times as fast
    return np.argsort(flat, kind="stable")


def bucket_places(base: Ints, width: int, side: str) -> Ints:
    """The number of each bucket, shape (n, width): bids go down from the base, asks up."""
    steps = np.arange(width)
    return base[:, None] - steps if side == "bid" else base[:, None] + steps


def as_ints(values: npt.NDArray[Any]) -> Ints:
    """Integers as int64; reals by their bits."""
    if values.dtype.kind == "f":
        return values.view(f"<i{values.dtype.itemsize}").astype(np.int64)
    return np.ascontiguousarray(values, dtype=np.int64)
