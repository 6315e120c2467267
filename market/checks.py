"""What a rule's check is, and the checks that several kinds of records have in common.

A check works on a whole batch: which of its records break the rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.market.instruments import Instrument
from marketd.market.records import Records
from marketd.market.times import ABSENT

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


class Batch(NamedTuple):
    """Records of one kind and instrument; `latest_ns` is the latest time that is not refused as `max_skew`."""

    records: Records
    instrument: Instrument | None
    latest_ns: int


class Check(NamedTuple):
    """`bad` is True where a record breaks the rule, shape (n,); None when none does."""

    rule: str
    fields: tuple[str, ...]
    bad: Callable[[Batch], Mask | None]


def all_if_unknown(batch: Batch) -> Mask | None:
    return np.ones(len(batch.records), dtype=bool) if batch.instrument is None else None


def everything(batch: Batch) -> Mask:
    return np.ones(len(batch.records), dtype=bool)


def where(name: str, test: Callable[[Ints], Mask]) -> Callable[[Batch], Mask]:
    """`test` on one field."""
    return lambda batch: test(batch.records[name])


def is_absent(values: Ints) -> Mask:
    return np.asarray(values == ABSENT)


def is_negative(values: Ints) -> Mask:
    return np.asarray((values < 0) & (values != ABSENT))


def not_positive(values: Ints) -> Mask:
    return np.asarray(values <= 0)


def skewed(batch: Batch) -> Mask:
    return np.asarray(batch.records["ts_event"] > batch.latest_ns)


KNOWN = Check("unknown_instrument", (), all_if_unknown)
NOT_TAKEN = Check("not_taken", (), everything)


def absent(*names: str) -> tuple[Check, ...]:
    return tuple(Check("absent", (name,), where(name, is_absent)) for name in names)


TIMES = (
    *absent("ts_event"),
    Check("range", ("ts_event",), where("ts_event", is_negative)),
    Check("max_skew", ("ts_event",), skewed),
)
