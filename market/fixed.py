"""Decimal text and reals to fixed-point integers and back, exactly.

A price or size is an int64 at a scale (decimal places): 61837.63 at scale 2 is 6183763. Text, ints and
Decimals are taken exactly or refused by name (PrecisionError, RangeError, NotFiniteError); trailing zeros
beyond the scale are allowed, as venues send them. A float means the shortest decimal text that gives it;
one that is off the grid by at most 1e-9 of its value (the noise of float arithmetic) is snapped to the nearest
point of it, and of two that are equally near, by its exact value, to the greater one. `_parse` is the definition;
arrays take a quicker way only where it cannot differ.

int64's minimum stands for an absent field (`ABSENT`), so the range is -(2**63 - 1) to 2**63 - 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import numpy.typing as npt

from marketd.market.errors import NotFiniteError, PrecisionError, RangeError, RuleViolation
from marketd.market.times import ABSENT

Ints = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Number = str | bytes | int | float | Decimal

MAX_FIXED = 2**63 - 1
MAX_TEXT_CHARS = 512  # far above any number; keeps hostile text from costing time
SNAP_RELATIVE = 1e-9  # a float this close to the grid, relative to its value, is snapped

_DECIMAL = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]+))?")
_PLAIN = b"0123456789."
# 15 significant digits survive text -> double -> text; a point makes 16 characters.
_PLAIN_CHARS = 16
_SURE_BELOW = 10.0**15
# Of what doubles say of the distance to the grid: below 10**15 a product is wrong by at most 1/8, so up to here the
# nearest point is the nearest; and 1e-12 of a value is far more than they err where it is compared with SNAP_RELATIVE.
_SURE_DISTANCE = 0.25
_SURE_RELATIVE = SNAP_RELATIVE - 1e-12
_UNITS = tuple(10.0**scale for scale in range(20))
_FEW = 16  # texts; below, one by one is quicker than arrays


class Parsed(NamedTuple):
    """An array of inputs as fixed-point integers; where `errors` has an index, `values` is ABSENT."""

    values: Ints
    snapped: Mask
    errors: dict[int, RuleViolation]


def parse_fixed(text: Number, scale: int, *, field: str = "value") -> int:
    """One number at `scale`; raises PrecisionError, RangeError or NotFiniteError naming `field`."""
    if isinstance(text, str):
        is_plain = len(text) <= _PLAIN_CHARS and text.replace(".", "", 1).isdigit() and text.isascii()
    else:
        is_plain = isinstance(text, float) and 0.0 <= text < _SURE_BELOW
    if is_plain:
        # the way of nearly all of a venue's numbers; exact for the reason given at _from_texts: of the decimals with
        # so few digits no two are the same double, so the one that is found is the shortest
        real, unit = float(text), _UNITS[scale] if scale < len(_UNITS) else 10.0**scale
        grid = int(real * unit + 0.5)
        if grid < _SURE_BELOW and grid / unit == real:
            return grid
    return _parse(text, scale, field)[0]


def parse_fixed_array(values: Sequence[Number] | npt.NDArray[Any], scale: int, *, field: str = "value") -> Parsed:
    """Many numbers at `scale`: a list of a venue's texts, or an array of floats or ints, shape (n,)."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        parsed, snapped, slow = _from_reals(values.astype(np.float64, copy=False), scale)
    elif len(values) <= _FEW or isinstance(values, np.ndarray) or not isinstance(values[0], (str, bytes)):
        parsed, snapped, slow = _all_slow(len(values))
    else:
        parsed, snapped, slow = _from_texts(values, scale)
    errors: dict[int, RuleViolation] = {}
    for index in slow.tolist():
        value = values[index]
        try:
            parsed[index], snapped[index] = _parse(value, scale, field)
        except RuleViolation as error:
            parsed[index], snapped[index] = ABSENT, False
            errors[index] = error
    return Parsed(parsed, snapped, errors)


def _all_slow(count: int) -> tuple[Ints, Mask, Ints]:
    return np.empty(count, dtype=np.int64), np.zeros(count, dtype=bool), np.arange(count)


def _from_texts(values: Sequence[Any], scale: int) -> tuple[Ints, Mask, Ints]:
    """Texts by way of doubles: values, snaps (none), and the indexes that need the exact way.

    Exact, because a text of at most 15 digits and k / 10**scale with k < 10**15 are the same number when they
    are the same double. The joined text is looked at first: float() takes blanks, "_" and "nan" too.
    """
    try:
        joined = "".join(values).encode() if isinstance(values[0], str) else b"".join(values)
        if joined.translate(None, _PLAIN):
            return _all_slow(len(values))
        reals = np.array(list(map(float, values)))
    except (TypeError, ValueError):
        return _all_slow(len(values))  # types are mixed, or one is no number: each on its own
    parsed, snapped, slow = _from_reals(reals, scale)
    lengths = np.fromiter(map(len, values), dtype=np.int64, count=len(values))
    if snapped.any() or lengths.max() > _PLAIN_CHARS:
        doubtful = snapped | (lengths > _PLAIN_CHARS)
        doubtful[slow] = True
        return parsed, np.zeros(len(values), dtype=bool), np.flatnonzero(doubtful)
    return parsed, snapped, slow


def _from_reals(reals: Reals, scale: int) -> tuple[Ints, Mask, Ints]:
    """Doubles to the grid: values, snaps, and the indexes that need the exact way (large, off grid, nan)."""
    unit = 10.0**scale
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = reals * unit
        grid = np.rint(scaled)
        sure = np.abs(grid) < _SURE_BELOW
        exact = grid / unit == reals
        snapped = sure & ~exact
        if snapped.any():
            near = np.abs(grid / unit - reals) <= _SURE_RELATIVE * np.abs(reals)
            near &= np.abs(scaled - grid) <= _SURE_DISTANCE
            sure &= exact | near
            snapped &= near
    parsed = np.where(sure, grid, 0.0).astype(np.int64)
    return parsed, snapped, np.flatnonzero(~sure)


def _parse(value: Any, scale: int, field: str) -> tuple[int, bool]:
    """The number at `scale`, and whether it was snapped."""
    if isinstance(value, str):
        return _parse_text(value, scale, field), False
    if isinstance(value, (bytes, bytearray)):
        return _parse_text(value.decode("latin-1"), scale, field), False
    if isinstance(value, float):  # numpy.float64 too
        return _parse_real(float(value), scale, field)
    if isinstance(value, Decimal):
        return _parse_text(str(value), scale, field), False
    if isinstance(value, (bool, np.bool_)):
        raise NotFiniteError(f"{field}: {value!r} is no number", field=field)
    if isinstance(value, int):
        return _checked(value * 10**scale, value, scale, field), False
    if isinstance(value, SupportsIndex):  # a protocol: 20 µs to look at
        return _checked(value.__index__() * 10**scale, value, scale, field), False
    if isinstance(value, np.floating):
        return _parse_real(float(value), scale, field)
    raise NotFiniteError(f"{field}: {type(value).__name__} is no number", field=field)


def _parse_text(text: str, scale: int, field: str) -> int:
    if len(text) > MAX_TEXT_CHARS:
        raise RangeError(f"{field}: text of {len(text)} characters is no price or size", field=field)
    match = _DECIMAL.fullmatch(text)
    whole, fraction = (match[2], match[3] or "") if match else ("", "")
    if match is None or not (whole or fraction):
        raise NotFiniteError(f"{field}: {text[:40]!r} is not a finite number", field=field)
    digits = (whole + fraction).lstrip("0")
    significant = digits.rstrip("0")
    if not significant:
        return 0
    # significant * 10**shift is the value on the grid; the text's length bounds what int() has to read
    shift = scale + int(match[4] or 0) - len(fraction) + len(digits) - len(significant)
    if shift < 0:
        raise PrecisionError(f"{field}: {text[:40]!r} has more than {scale} decimal places", field=field)
    if len(significant) + shift > 19:
        raise RangeError(f"{field}: {text[:40]!r} does not fit into 64 bits at {scale} decimal places", field=field)
    magnitude = int(significant) * 10**shift
    return _checked(-magnitude if match[1] == "-" else magnitude, text, scale, field)


def _parse_real(value: float, scale: int, field: str) -> tuple[int, bool]:
    if value - value != 0.0:  # nan and the infinities
        raise NotFiniteError(f"{field}: {value!r} is not a finite number", field=field)
    try:
        return _parse_text(repr(value), scale, field), False
    except PrecisionError:
        pass
    numerator, denominator = value.as_integer_ratio()
    scaled = numerator * 10**scale
    grid = (2 * scaled + denominator) // (2 * denominator)  # the nearest integer, of two the greater; exact
    if abs(grid * denominator - scaled) * round(1 / SNAP_RELATIVE) > abs(scaled):
        raise PrecisionError(
            f"{field}: {value!r} has more than {scale} decimal places (and no mere float noise)", field=field
        )
    return _checked(grid, value, scale, field), True


def _checked(fixed: int, shown: object, scale: int, field: str) -> int:
    if -MAX_FIXED <= fixed <= MAX_FIXED:
        return fixed
    raise RangeError(f"{field}: {str(shown)[:40]} does not fit into 64 bits at {scale} decimal places", field=field)


def format_fixed(value: int, scale: int) -> str:
    """The decimal text with exactly `scale` places; `"NaN"` for ABSENT."""
    if value == ABSENT:
        return "NaN"
    digits = str(abs(value)).rjust(scale + 1, "0")
    sign = "-" if value < 0 else ""
    return f"{sign}{digits[:-scale]}.{digits[-scale:]}" if scale else sign + digits


def to_real(values: Ints, scale: int) -> Reals:
    """value / 10**scale as float64, NaN where ABSENT; exactly the text's double while |value| < 2**53."""
    reals = np.asarray(values, dtype=np.int64).astype(np.float64)
    reals /= 10.0**scale
    absent = values == ABSENT
    if absent.any():
        reals[absent] = np.nan
    return reals


@cache
def quote_factors(price_scale: int, size_scale: int, quote_scale: int) -> tuple[int, int]:
    """(multiplier, divisor): price * size * multiplier // divisor is floor(price·size) at quote_scale."""
    surplus = price_scale + size_scale - quote_scale
    return (1, 10**surplus) if surplus >= 0 else (10**-surplus, 1)


def mul_floor(prices: Ints, sizes: Ints, price_scale: int, size_scale: int, quote_scale: int) -> Ints:
    """floor(price · size) on the quote grid, exact, shape (n,); RangeError when one leaves 64 bits."""
    multiplier, divisor = quote_factors(price_scale, size_scale, quote_scale)
    if len(prices) and _product_bound(prices, sizes) * multiplier > MAX_FIXED:
        return _mul_floor_exact(prices, sizes, multiplier, divisor)
    product = prices * sizes
    if multiplier != 1:
        product *= multiplier
    if divisor != 1:
        product //= divisor
    return product


def _product_bound(prices: Ints, sizes: Ints) -> int:
    return _largest(prices) * _largest(sizes)


def _largest(values: Ints) -> int:
    return max(int(values.max()), -int(values.min()))


def _mul_floor_exact(prices: Ints, sizes: Ints, multiplier: int, divisor: int) -> Ints:
    quotes = [p * s * multiplier // divisor for p, s in zip(prices.tolist(), sizes.tolist(), strict=True)]
    if max(quotes) > MAX_FIXED or min(quotes) < -MAX_FIXED:
        raise RangeError("quote: price times size does not fit into 64 bits at the quote scale", field="quote")
    return np.array(quotes, dtype=np.int64)


def checked_sum(values: Ints, *, field: str = "sum") -> int:
    """The sum of int64 values; RangeError when it does not fit into 64 bits."""
    check_sums(values, field=field)
    return int(values.sum())


def check_sums(values: Ints, *, field: str = "sum") -> None:
    """RangeError unless every sum over a part of `values` (shape (n,)) fits into 64 bits."""
    if not len(values) or _largest(values) * len(values) <= MAX_FIXED:
        return
    if sum(map(abs, values.tolist())) > MAX_FIXED:
        raise RangeError(f"{field}: the sum does not fit into 64 bits", field=field)
