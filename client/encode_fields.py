"""One column of a caller's values as one field of the records: times, numbers, ids, sides.

Each function takes a sequence (list, numpy array, pandas Series) and returns `Field`: the raw values, which
of them were snapped, and what was wrong with single ones by their index. Nothing here raises for a single
bad value: it must not cost its neighbours.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.market.errors import InvalidArgument
from marketd.market.fixed import parse_fixed_array
from marketd.market.records import Side
from marketd.market.times import ABSENT, FIRST_MEANT_NS, NS_PER_US, in_another_unit, parse_time_ns
from marketd.market.trade_ids import hashed_id

Values = Any  # list, tuple, numpy array, pandas Series or Index
Flaws = dict[int, tuple[str, str]]  # index -> (rule, detail)
INT64_MAX = 2**63 - 1
MAX_EXACT = 2**53  # a double tells whole numbers below it apart

_SIDES: Mapping[Any, int] = {
    **{name: Side.BUY for name in ("buy", "b", 1)},
    **{name: Side.SELL for name in ("sell", "s", -1)},
    **{name: Side.UNKNOWN for name in ("unknown", "", 0, None)},
}


class Field(NamedTuple):
    """One field of n records, shape (n,)."""

    values: npt.NDArray[Any]
    flaws: Flaws
    marks: npt.NDArray[np.bool_] | None = None  # where a number was snapped, an id hashed


def plain(values: Values) -> Any:
    """pandas objects as numpy arrays, arrays of objects or text as lists; lists as they are."""
    if not isinstance(values, np.ndarray) and hasattr(values, "to_numpy"):
        values = values.to_numpy()
    if isinstance(values, np.ndarray) and values.dtype.kind in "OUS":
        return values.tolist()
    return values


def encode_times(values: Values, field: str) -> Field:
    """Times as ns, floored to whole microseconds. Those without a zone break the rule `naive`."""
    array = _time_array(values)
    if array is not None:
        flaws: Flaws = {int(i): ("absent", f"{field}: no time") for i in np.flatnonzero(array == ABSENT)}
        for index in np.flatnonzero((array > 0) & (array < FIRST_MEANT_NS)).tolist():
            if said := in_another_unit(int(array[index]), field):
                flaws[index] = ("range", said)
        return Field(np.where(array == ABSENT, array, array - array % NS_PER_US), flaws)
    found, flaws = np.full(len(values), ABSENT, dtype=np.int64), {}
    for index, value in enumerate(plain(values)):
        try:
            ts_ns = parse_time_ns(value, field=field)
            found[index] = ts_ns - ts_ns % NS_PER_US
        except InvalidArgument as error:
            flaws[index] = (_time_rule(value), str(error))
        except OverflowError:
            flaws[index] = ("range", f"{field}: {value!r} does not fit into 64 bits of nanoseconds")
    return Field(found, flaws)


def _time_array(values: Values) -> npt.NDArray[np.int64] | None:
    """Times that need no look at each: integers, or pandas times with a zone (stored as UTC)."""
    if getattr(getattr(values, "dtype", None), "tz", None) is not None:
        utc: npt.NDArray[np.int64] = values.to_numpy(dtype="datetime64[ns]").view(np.int64)
        return utc
    array = np.asarray(values) if isinstance(values, (list, tuple, np.ndarray)) else np.asarray(plain(values))
    return array.astype(np.int64) if array.dtype.kind in "iu" and array.dtype != np.uint64 else None


def _time_rule(value: Any) -> str:
    """The rule that a value breaks which is no time."""
    if value is None:
        return "absent"
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return "range"
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return "not_finite"
    return "naive" if isinstance(value, (datetime, np.datetime64)) else "not_finite"


def encode_fixed(values: Values, scale: int, field: str, *, optional: bool) -> Field:
    """Decimal numbers at a scale; None and NaN are absent where the field is optional, else refused."""
    values = plain(values)
    given, absent = values, _absent(values)
    if absent.any():
        values = ["0" if gone else value for gone, value in zip(absent.tolist(), values, strict=True)]
    parsed = parse_fixed_array(values, scale, field=field)
    flaws = {index: (error.rule, str(error)) for index, error in parsed.errors.items()}
    parsed.values[absent] = ABSENT
    if not optional:
        for index in np.flatnonzero(absent).tolist():
            flaws[index] = ("absent" if given[index] is None else "not_finite", f"{field}: there is no number")
    return Field(parsed.values, flaws, parsed.snapped)


def _absent(values: Sequence[Any] | npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    if isinstance(values, np.ndarray):
        return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), dtype=bool)
    return np.fromiter(map(_is_absent, values), dtype=bool, count=len(values))


def _is_absent(value: Any) -> bool:
    if isinstance(value, (str, bytes, int)):
        return False
    try:
        return value is None or bool(value != value)  # only a NaN, of whatever type, is not equal to itself
    except TypeError:  # pandas' NA refuses to be compared
        return True


def encode_whole(values: Values, field: str) -> Field:
    """Whole numbers within int64; None and NaN are absent."""
    return encode_fixed(values, 0, field, optional=True)


def encode_reals(values: Values, field: str) -> Field:
    """Doubles; None and NaN are absent, infinities are refused."""
    values = plain(values)
    try:
        reals = np.asarray([np.nan if v is None else v for v in values] if isinstance(values, list) else values, "<f8")
    except (TypeError, ValueError):
        return _reals_one_by_one(values, field)
    flaws: Flaws = {int(i): ("not_finite", f"{field}: infinite") for i in np.flatnonzero(np.isinf(reals))}
    return Field(reals, flaws)


def _reals_one_by_one(values: Sequence[Any], field: str) -> Field:
    reals, flaws = np.full(len(values), np.nan), Flaws()
    for index, value in enumerate(values):
        try:
            reals[index] = np.nan if value is None else value
        except (TypeError, ValueError):
            flaws[index] = ("not_finite", f"{field}: {value!r} is no number")
    flaws |= {int(i): ("not_finite", f"{field}: infinite") for i in np.flatnonzero(np.isinf(reals))}
    return Field(reals, flaws)


def encode_ids(values: Values, field: str) -> Field:
    """Trade ids: integers as they are, other text as its 64-bit hash (flagged), None as a random one (flagged)."""
    values = plain(values)
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu" and values.dtype != np.uint64:
        return Field(values.astype(np.int64), {}, np.zeros(len(values), dtype=bool))
    found, flaws = np.zeros(len(values), dtype=np.int64), Flaws()
    hashed = np.zeros(len(values), dtype=bool)
    for index, value in enumerate(values):
        try:
            found[index], hashed[index] = _encode_id(value)
        except (OverflowError, ValueError):
            flaws[index] = ("range", f"{field}: {value!r} is no whole number that fits into 64 bits, and no text")
    return Field(found, flaws, hashed)


def _encode_id(value: Any) -> tuple[int, bool]:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        # Without an id nothing tells two equal trades apart; the batch's number keeps a retry from doubling them.
        return int.from_bytes(os.urandom(8), "little", signed=True) | 1, True  # odd: never ABSENT
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return int(value), False
    if isinstance(value, (float, np.floating)):  # a column of a DataFrame: exact up to 2**53, and then perhaps not
        number = float(value)
        if not abs(number) < MAX_EXACT or not number.is_integer():
            raise ValueError(value)
        return int(number), False
    text = str(value)
    if text.isascii() and text.isdigit() and int(text) <= INT64_MAX and str(int(text)) == text:
        return int(text), False
    return hashed_id(text), True


def _side_of(value: Any) -> int | None:
    return _SIDES.get(value) if value is None or isinstance(value, (int, float, np.integer)) else None


def encode_sides(values: Values, field: str) -> Field:
    """The aggressor: +1, "buy"; -1, "sell"; 0, None, "unknown"."""
    values = plain(values)
    if isinstance(values, np.ndarray):
        values = values.tolist()
    found, flaws = np.zeros(len(values), dtype=np.int32), Flaws()
    for index, value in enumerate(values):
        side = _SIDES.get(value.lower()) if isinstance(value, str) else _side_of(value)
        if side is None:
            flaws[index] = ("side", f"{field}: {value!r} is none of 'buy', 'sell', 'unknown', 1, -1, 0")
        else:
            found[index] = side
    return Field(found, flaws)
