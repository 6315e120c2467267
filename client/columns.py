"""Which columns a kind of record has at the API's edge, and how each is made from the raw field.

time                     the venue's time of the record (`ts_event`; a bar: its open time), int64 ns UTC
market fields            float64 in real numbers, NaN where absent; ids, enumerations and flags stay integers
ts_known, seq            int64, last
"""

from __future__ import annotations

from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.market.fixed import to_real
from marketd.market.instruments import Instrument
from marketd.market.records import Kind, Records

Column = npt.NDArray[Any]
TIME = "time"
_LAST = ("ts_known", "seq")
_TIMES = frozenset(("ts_known", "ts_start", "ts_end"))


class ColumnSpec(NamedTuple):
    """How a column is made: `form` is price, size, quote, count (absent: NaN), time, text or plain."""

    field: str
    form: str


@lru_cache(maxsize=256)
def _specs(
    time_field: str, dtype: np.dtype[Any], scales: tuple[tuple[str, str], ...], counts: frozenset[str]
) -> MappingProxyType[str, ColumnSpec]:
    names = [name for name in dtype.names or () if name != time_field and name not in _LAST]
    names += [name for name in _LAST if name in (dtype.names or ())]
    forms = dict(scales)
    specs = {TIME: ColumnSpec(time_field, "time")} if time_field in (dtype.names or ()) else {}
    for name in names:
        specs[name] = ColumnSpec(name, forms.get(name) or _form(name, dtype[name], counts))
    return MappingProxyType(specs)


def _form(name: str, base: np.dtype[Any], counts: frozenset[str]) -> str:
    if base.kind == "S":
        return "text"
    if name in _TIMES:
        return "time"
    return "count" if name in counts else "plain"


def column_specs(kind: Kind) -> MappingProxyType[str, ColumnSpec]:
    """The columns of a kind, in order."""
    counts = frozenset(name for name, declared in kind.fields.items() if declared == "i8") | {"trade_count"}
    return _specs(kind.time, kind.dtype, tuple(sorted(kind.scales.items())), counts)


def make_column(records: Records, spec: ColumnSpec, instrument: Instrument) -> Column:
    """One column, shape (n,). Integers and floats that need no conversion are views of the records."""
    raw: Column = records[spec.field]
    if spec.form in ("price", "size", "quote"):
        return to_real(raw, instrument.scale(spec.form))
    if spec.form == "count":
        return to_real(raw, 0)
    if spec.form == "text":
        return np.char.decode(raw, "utf-8", "replace")
    return raw
