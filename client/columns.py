"""Which columns a kind of record has at the API's edge, and how each is made from the raw field.

time                     the venue's time of the record (`ts_event`; a bar: its open time), int64 ns UTC
market fields            float64 in real numbers, NaN where absent; ids, enumerations and flags stay integers
mid, spread, …           of books and imbalances: computed (`book_columns`)
ts_known, seq            int64, last

A column has the shape (n,); a field of many values (levels of a book, buckets) gives (n, width).
"""

from __future__ import annotations

from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.client.book_columns import derived_columns, make_derived, ratios
from marketd.market.activity_specs import real_thresholds
from marketd.market.fixed import to_real
from marketd.market.instruments import Instrument
from marketd.market.records import WINDOWS_SECONDS, Kind, Records

Column = npt.NDArray[Any]
TIME = "time"
_LAST = ("ts_known", "seq")
_TIMES = frozenset(("ts_known", "ts_event", "ts_start", "ts_end"))
_RATIOS = frozenset(
    f"{form}_{seconds}s" for form in ("book", "volume") for seconds in WINDOWS_SECONDS
)  # of an imbalance
_HIDDEN = frozenset(("mid2",))  # told by a computed column


class ColumnSpec(NamedTuple):
    """How a column is made.

    `form` is price, size, quote, count (absent: NaN), time, text, ratio (millionths), threshold (of a bar by activity,
    at the scale of its measure), derived or plain.
    """

    field: str
    form: str


@lru_cache(maxsize=256)
def _specs(
    kind_name: str, time_field: str, dtype: np.dtype[Any], scales: tuple[tuple[str, str], ...], counts: frozenset[str]
) -> MappingProxyType[str, ColumnSpec]:
    derived = derived_columns(kind_name)
    hidden = {*_HIDDEN, *derived} if derived else set()
    fields = [name for name in dtype.names or () if name not in hidden]
    names = [name for name in fields if name != time_field and name not in _LAST]
    forms = dict(scales)
    specs = {TIME: ColumnSpec(time_field, "time")} if time_field in (dtype.names or ()) else {}
    specs |= {name: ColumnSpec(name, "derived") for name in derived}
    for name in (*names, *(name for name in _LAST if name in fields)):
        form = "ratio" if derived and name in _RATIOS else forms.get(name) or _form(name, dtype[name], counts)
        if kind_name == "activity_bar" and name == "threshold":
            form = "threshold"
        specs[name] = ColumnSpec(name, form)
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
    return _specs("" if kind.declared else kind.name, kind.time, kind.dtype, tuple(sorted(kind.scales.items())), counts)


def make_column(kind: Kind, records: Records, spec: ColumnSpec, instrument: Instrument) -> Column:
    """One column, shape (n,) or (n, width). Integers and floats that need no conversion are views of the records."""
    if spec.form == "derived":
        return make_derived(kind.name, spec.field, records, instrument)
    raw: Column = records[spec.field]
    if spec.form in ("price", "size", "quote"):
        return to_real(raw, instrument.scale(spec.form))
    if spec.form == "count":
        return to_real(raw, 0)
    if spec.form == "ratio":
        return ratios(raw)
    if spec.form == "threshold":
        return np.asarray(real_thresholds(records["measure"], raw, instrument))
    if spec.form == "text":
        return np.char.decode(raw, "utf-8", "replace")
    return raw


def flat_columns(name: str, values: Column) -> list[tuple[str, Column]]:
    """A column as columns of shape (n,): itself, or `bid_price_0`, `bid_price_1` … where it has a width."""
    if values.ndim == 1:
        return [(name, values)]
    return [(f"{name}_{place}", values[:, place]) for place in range(values.shape[1])]
