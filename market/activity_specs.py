"""Which bars by activity there are, and how a configuration names them: `tick:1000`, `volume:12.5`, `dollar:1e6`.

A threshold that lies between two points of the instrument's grid is the upper one: sums are on the grid, so that they
reach both with the same trade.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.market.errors import ConfigError
from marketd.market.fixed import MAX_FIXED, to_real
from marketd.market.instruments import CONSOLIDATED_VENUE, Instrument
from marketd.market.layouts import Measure

EVERY = "*"  # stands for each instrument that is not named
MAX_SPECS = 16  # of one instrument; each costs about as much as a timeframe
_MOST, _LEAST = Decimal("1e18"), Decimal("1e-18")
_NAMES = {measure.name.lower(): measure for measure in Measure}


class ActivitySpec(NamedTuple):
    """Which bars: `threshold` is a number of trades, or at the instrument's size or quote scale."""

    measure: Measure
    threshold: int


def read_spec(text: str, *, field: str) -> tuple[Measure, Decimal]:
    """What `"volume:12.5"` says, of any instrument. ConfigError names the field and what is wrong."""
    name, _, number = text.partition(":")
    measure = _NAMES.get(name)
    if measure is None:
        raise ConfigError(f"{field}: {text!r} is none of tick:…, volume:…, dollar:…", field=field)
    try:
        value = Decimal(number)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or not _LEAST <= value <= _MOST:
        raise ConfigError(f"{field}: {text!r}: write a number from 1e-18 to 1e18 behind the colon", field=field)
    if measure is Measure.TICK and value != value.to_integral_value():
        raise ConfigError(f"{field}: {text!r}: trades are counted whole", field=field)
    return measure, value


def spec_of(text: str, instrument: Instrument, *, field: str = "activity_bars") -> ActivitySpec:
    """The spec at the instrument's scales. ConfigError as above."""
    measure, value = read_spec(text, field=field)
    threshold = math.ceil(Fraction(value) * 10 ** _scale(measure, instrument))
    return ActivitySpec(measure, min(threshold, MAX_FIXED))


def specs_of(wanted: Mapping[str, Sequence[str]], instrument: Instrument) -> list[ActivitySpec]:
    """What a configuration wants of an instrument, each once; nothing of one that has no trades of its own."""
    if instrument.venue == CONSOLIDATED_VENUE or instrument.market == "global":
        return []
    texts = wanted.get(instrument.name, wanted.get(EVERY, ()))
    return list(dict.fromkeys(spec_of(text, instrument) for text in texts))


def real_thresholds(measures: npt.NDArray[Any], thresholds: npt.NDArray[Any], instrument: Instrument) -> Any:
    """Thresholds as real numbers, shape (n,): trades, units of the base, units of the quote."""
    found = np.full(len(thresholds), np.nan)
    for measure in Measure:
        of_it = measures == measure
        found[of_it] = to_real(thresholds[of_it], _scale(measure, instrument))
    return found


def _scale(measure: Measure, instrument: Instrument) -> int:
    return {Measure.TICK: 0, Measure.VOLUME: instrument.size_scale, Measure.DOLLAR: instrument.quote_scale}[measure]
