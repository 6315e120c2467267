"""Columns that are computed from several fields of books and imbalances: mid, spread, weighted mid.

    mid           (Pb + Pa) / 2                            Pb, Pa the best bid and ask, Qb, Qa what rests there
    spread        Pa - Pb
    weighted_mid  (Pa·Qb + Pb·Qa) / (Qb + Qa)              nearer to the side with less to take

NaN where a side is absent. The sums are exact integers, so that a book and the imbalance of the same moment agree to
the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from marketd.market.fixed import to_real
from marketd.market.instruments import Instrument
from marketd.market.records import Records
from marketd.market.times import ABSENT

Ints = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


class _OfBooks:
    """The best levels of BOOK records, as integers; ABSENT where a side is empty."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._bid, self._ask = records["bid_price"][:, 0], records["ask_price"][:, 0]
        self._lacking = (self._bid == ABSENT) | (self._ask == ABSENT)

    def _whole(self, values: Ints) -> Ints:
        if self._lacking.any():
            values[self._lacking] = ABSENT
        return values

    def mid2(self) -> Ints:
        """Bid + ask."""
        return self._whole(self._bid + self._ask)

    def spread(self) -> Ints:
        return self._whole(self._ask - self._bid)

    def sizes(self) -> tuple[Ints, Ints]:
        """What rests at the best bid and ask."""
        return self._records["bid_size"][:, 0], self._records["ask_size"][:, 0]


class _OfImbalances:
    """The same of IMBALANCE records, which have it."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def mid2(self) -> Ints:
        found: Ints = self._records["mid2"]
        return found

    def spread(self) -> Ints:
        found: Ints = self._records["spread"]
        return found

    def sizes(self) -> tuple[Ints, Ints]:
        return self._records["best_bid_size"], self._records["best_ask_size"]


_Best = _OfBooks | _OfImbalances


def _mid(best: _Best, instrument: Instrument) -> Reals:
    return to_real(best.mid2(), instrument.price_scale) / 2


def _spread(best: _Best, instrument: Instrument) -> Reals:
    return to_real(best.spread(), instrument.price_scale)


def _weighted_mid(best: _Best, instrument: Instrument) -> Reals:
    bids, asks = (to_real(sizes, 0) for sizes in best.sizes())
    with np.errstate(invalid="ignore"):  # nothing at either price: no weights, NaN
        leaning = (bids - asks) / (bids + asks)
    weighted = _mid(best, instrument) + _spread(best, instrument) / 2 * leaning
    return np.clip(weighted, *_bounds(best, instrument))  # not beyond a best price, by rounding


def _bounds(best: _Best, instrument: Instrument) -> tuple[Reals, Reals]:
    """The lower and the higher of the best prices."""
    mid2, spread = best.mid2(), best.spread()
    prices = (np.where(mid2 == ABSENT, ABSENT, (mid2 + side * np.abs(spread)) // 2) for side in (-1, 1))
    low, high = (to_real(price, instrument.price_scale) for price in prices)
    return low, high


def ratios(values: npt.NDArray[Any]) -> Reals:
    """Millionths as reals; the dtype's minimum is NaN."""
    reals: Reals = values / 1e6
    reals[values == np.iinfo(values.dtype).min] = np.nan
    return reals


_BEST: Mapping[str, type[_OfBooks] | type[_OfImbalances]] = MappingProxyType(
    {"book": _OfBooks, "book_means": _OfBooks, "imbalance": _OfImbalances}
)
_COLUMNS: Mapping[str, Callable[[_Best, Instrument], Reals]] = MappingProxyType(
    {"mid": _mid, "spread": _spread, "weighted_mid": _weighted_mid}
)


def derived_columns(kind_name: str) -> tuple[str, ...]:
    """The computed columns of a kind."""
    return tuple(_COLUMNS) if kind_name in _BEST else ()


def make_derived(kind_name: str, column: str, records: Records, instrument: Instrument) -> Reals:
    """One computed column, shape (n,)."""
    return _COLUMNS[column](_BEST[kind_name](records), instrument)
