"""A caller's rows as records: what fits goes on, what does not is refused by index and rule before it is sent.

Rows come as columns (a dict of sequences, a DataFrame), as records (a structured array of the kind's dtype,
raw fixed-point numbers) or as a `Frame`. Pure: no sockets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.client import encode_fields
from marketd.client.encode_fields import Field, Flaws
from marketd.client.frames import Frame
from marketd.client.rejected import rejected_rows
from marketd.ipc.protocol import Refusal, Rejection
from marketd.market.book_rows import is_book_dtype
from marketd.market.errors import InvalidArgument
from marketd.market.instruments import Instrument
from marketd.market.records import CandleFlag, Kind, Records, Side, TradeFlag, empty
from marketd.market.times import ABSENT

TIME_NAMES = ("time", "ts", "timestamp", "ts_event")
_STAMPS = ("ts_known", "seq")  # marketd's own: taken from a DataFrame that marketd made, and ignored
_OPTIONAL = {
    "trade": frozenset(("trade_id", "side", "flags")),
    "candle": frozenset(("quote_volume", "buy_volume", "trade_count", "flags")),
}
_IGNORED = frozenset(("is_filled", "is_observed", "is_forming"))


class Encoded(NamedTuple):
    """Rows ready to be sent, and those that are not."""

    records: Records  # the good rows
    places: npt.NDArray[np.int64] | None  # the caller's index of each; None: they are all there
    refused: tuple[Refusal, ...]
    rejected: tuple[Rejection, ...] = ()  # the refused ones as they came, for the quarantine


def encode(kind: Kind, instrument: Instrument, rows: Any, constants: Mapping[str, Any]) -> Encoded:
    """The rows as records of `kind`. `constants` are fields that are the same in each row, whatever its columns say.

    Raises InvalidArgument for what is no table of this kind at all.
    """
    if isinstance(rows, Frame):
        return from_frame(kind, instrument, rows)
    if isinstance(rows, np.ndarray):
        return from_records(kind, rows)
    columns = {name: column for name, column in columns_of(rows).items() if name not in constants}
    if not kind.declared and kind.name not in _OPTIONAL:
        raise InvalidArgument(f"stream: records of {kind.name} are marketd's own, made from others", field="stream")
    return encode_columns(kind, instrument, columns, constants)


def from_frame(kind: Kind, instrument: Instrument, frame: Frame) -> Encoded:
    scales = ("price_scale", "size_scale", "quote_scale")
    if any(getattr(frame.instrument, scale) != getattr(instrument, scale) for scale in scales):
        raise InvalidArgument(
            f"rows: the frame is of {frame.instrument.name}, whose scales are not those of {instrument.name}; "
            "pass its columns instead",
            field="rows",
        )
    return from_records(kind, frame.records)


def from_records(kind: Kind, records: Records) -> Encoded:
    is_book = kind.name == "book" and is_book_dtype(records.dtype)  # of any depth
    if (records.dtype != kind.dtype and not is_book) or records.ndim != 1:
        raise InvalidArgument(
            f"rows: an array of {records.dtype} is no one-dimensional array of {kind.name} records; "
            "pass columns as a dict or a DataFrame",
            field="rows",
        )
    return Encoded(np.ascontiguousarray(records), None, ())


def columns_of(rows: Any) -> dict[str, Any]:
    """The columns by field name. The index of a DataFrame is the time when no column is."""
    if isinstance(rows, Mapping):
        columns = dict(rows)
    elif hasattr(rows, "columns") and hasattr(rows, "index"):
        columns = {str(name): rows[name] for name in rows.columns}
        if not any(name in columns for name in TIME_NAMES):
            columns["time"] = rows.index
    else:
        raise InvalidArgument(
            f"rows: {type(rows).__name__} is neither a dict of columns, nor a DataFrame, nor records, nor a Frame",
            field="rows",
        )
    return {name: column for name, column in columns.items() if name not in _STAMPS and name not in _IGNORED}


def encode_columns(
    kind: Kind, instrument: Instrument, columns: Mapping[str, Any], constants: Mapping[str, Any]
) -> Encoded:
    """Columns of equal length as records of `kind`."""
    named = {kind.time if name in TIME_NAMES else name: values for name, values in columns.items()}
    count = _check_columns(kind, named, constants)
    records = empty(kind, count)
    if "side" in (kind.dtype.names or ()):
        records["side"] = Side.UNKNOWN  # where the caller has no such column
    flags, flaws = np.zeros(count, dtype=np.int64), Flaws()
    for name, value in (*constants.items(), *((stamp, 0) for stamp in _STAMPS)):
        records[name] = value
    for name, values in _with_ids(kind, named, count).items():
        field = encode_field(kind, instrument, name, values)
        flaws = {**field.flaws, **flaws}  # the first flaw of a row names its rule
        if name == "flags":
            flags |= np.where(field.values == ABSENT, 0, field.values)
            continue
        records[name] = field.values
        if field.marks is not None:
            flags |= np.where(field.marks, _flag(kind, name), 0)
    if "flags" in (kind.dtype.names or ()):
        records["flags"] = flags
    encoded = without_flaws(records, flaws)
    return encoded._replace(rejected=tuple(rejected_rows(kind.name, columns, constants, flaws))) if flaws else encoded


def _with_ids(kind: Kind, columns: Mapping[str, Any], count: int) -> Mapping[str, Any]:
    if kind.name == "trade" and "trade_id" not in columns:
        return {**columns, "trade_id": [None] * count}
    return columns


def _flag(kind: Kind, field: str) -> int:
    if field == "trade_id":
        return int(TradeFlag.HASHED_ID)
    return int(TradeFlag.SNAPPED if kind.name == "trade" else CandleFlag.SNAPPED)


def encode_field(kind: Kind, instrument: Instrument, name: str, values: Any) -> Field:
    """One column; `name` is a field of the kind's dtype."""
    if name == kind.time:
        return encode_fields.encode_times(values, "time")
    if name in kind.scales:
        optional = kind.declared or name in _OPTIONAL.get(kind.name, ())
        return encode_fields.encode_fixed(values, instrument.scale(kind.scales[name]), name, optional=optional)
    if name == "trade_id":
        return encode_fields.encode_ids(values, name)
    if name == "side":
        return encode_fields.encode_sides(values, name)
    if kind.dtype[name].kind == "f":
        return encode_fields.encode_reals(values, name)
    return encode_fields.encode_whole(values, name)


def _check_columns(kind: Kind, columns: Mapping[str, Any], constants: Mapping[str, Any]) -> int:
    """The number of rows. Raises InvalidArgument for missing, unknown or ragged columns."""
    fields = [name for name in kind.dtype.names or () if name not in _STAMPS]
    for name in columns:
        if name not in fields:
            wanted = ", ".join("time" if field == kind.time else field for field in fields)
            raise InvalidArgument(f"rows: {name!r} is no column of {kind.name}; it has {wanted}", field=name)
    optional = frozenset(fields[1:]) if kind.declared else _OPTIONAL.get(kind.name, frozenset())
    for name in fields:
        if name not in columns and name not in constants and name not in optional:
            shown = "time" if name == kind.time else name
            raise InvalidArgument(f"rows: the column {shown!r} is missing", field=shown)
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        raise InvalidArgument(f"rows: the columns have different lengths: {lengths}", field="rows")
    return next(iter(lengths.values()))


def without_flaws(records: Records, flaws: Flaws) -> Encoded:
    """The good rows, and a refusal for each of the others."""
    if not flaws:
        return Encoded(records, None, ())
    good = np.ones(len(records), dtype=bool)
    good[list(flaws)] = False
    refused = tuple(Refusal(index, *flaws[index]) for index in sorted(flaws))
    return Encoded(records[good], np.flatnonzero(good), refused)


def chunks(records: Records, size: int, size_bytes: int) -> Iterator[tuple[int, Records]]:
    """(start, records) in pieces of at most `size` and `size_bytes`; one empty piece never."""
    size = max(1, min(size, size_bytes // records.dtype.itemsize))
    for start in range(0, len(records), size):
        yield start, records[start : start + size]
