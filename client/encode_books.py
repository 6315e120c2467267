"""A producer's order books as BOOK records: lists of (price, size) become levels, flaws cost their own row only.

Pure: no sockets. What can be encoded is judged by the daemon's validator: the order of levels, crossed sides. Records
are as deep as the deepest row; the daemon cuts them to its own `book.depth`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from marketd.client import encode_fields
from marketd.client.encode import TIME_NAMES, Encoded, columns_of, from_frame, from_records, without_flaws
from marketd.client.encode_fields import Flaws
from marketd.client.frames import Frame
from marketd.client.rejected import rejected_rows
from marketd.market.errors import InvalidArgument
from marketd.market.fixed import parse_fixed_array
from marketd.market.instruments import Instrument
from marketd.market.records import MAX_BOOK_DEPTH, BookFlag, BookState, Kind, Records, book_kind, empty

SIDES = {"bids": "bid", "asks": "ask"}
_COLUMNS = frozenset(("time", *SIDES, "sequence"))
_SNAPPED = int(BookFlag.SNAPPED)


def encode_book_rows(kind: Kind, instrument: Instrument, rows: Any) -> Encoded:
    """A producer's rows, in any of their forms. All become `BookFlag.OFFERED`: their imbalance is ingest's to make."""
    if isinstance(rows, Frame):
        return _offered(from_frame(kind, instrument, rows))
    if isinstance(rows, np.ndarray):
        return _offered(from_records(kind, rows))
    return encode_books(instrument, columns_of(rows))


def _offered(encoded: Encoded) -> Encoded:
    records = encoded.records.copy()
    records["flags"] = records["flags"] & _SNAPPED | BookFlag.OFFERED
    return encoded._replace(records=records)


def encode_books(instrument: Instrument, columns: Mapping[str, Any]) -> Encoded:
    """Columns time, bids, asks and perhaps sequence as BOOK records; InvalidArgument for what is no such table."""
    named = {"time" if name in TIME_NAMES else name: values for name, values in columns.items()}
    count = _check_columns(named)
    flaws: Flaws = {}
    sides = {side: [_pairs(side, rows, index, flaws) for index, rows in enumerate(named[side])] for side in SIDES}
    deepest = max((len(pairs) for rows in sides.values() for pairs in rows), default=0)
    records = empty(book_kind(max(1, deepest)), count)
    records["ts_known"] = records["seq"] = 0
    times = encode_fields.encode_times(named["time"], "time")
    records["ts_event"] = times.values
    if "sequence" in named:
        numbers = encode_fields.encode_whole(named["sequence"], "sequence")
        records["sequence"], flaws = numbers.values, {**numbers.flaws, **flaws}
    records["state"], records["flags"] = BookState.LIVE, BookFlag.OFFERED
    for side, prefix in SIDES.items():
        _encode_side(records, prefix, sides[side], instrument, flaws)
    flaws = {**flaws, **times.flaws}
    encoded = without_flaws(records, flaws)
    return encoded._replace(rejected=tuple(rejected_rows("book", columns, {}, flaws))) if flaws else encoded


def _check_columns(columns: Mapping[str, Any]) -> int:
    """The number of rows."""
    for name in columns:
        if name not in _COLUMNS:
            raise InvalidArgument(f"rows: {name!r} is no column of a book; it has {', '.join(_COLUMNS)}", field=name)
    for name in ("time", *SIDES):
        if name not in columns:
            raise InvalidArgument(f"rows: the column {name!r} is missing", field=name)
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        raise InvalidArgument(f"rows: the columns have different lengths: {lengths}", field="rows")
    return lengths["time"]


def _pairs(side: str, levels: Any, index: int, flaws: Flaws) -> Sequence[Any]:
    """One side's (price, size) pairs, the best first; nothing, and a flaw, where they are no such thing."""
    if hasattr(levels, "tolist"):
        levels = levels.tolist()
    if levels is None or isinstance(levels, (str, bytes, Mapping)) or not isinstance(levels, Sequence):
        rule = "absent" if levels is None else "levels"
        flaws.setdefault(index, (rule, f"{side}: {type(levels).__name__} is no list of (price, size)"))
        return ()
    if len(levels) > MAX_BOOK_DEPTH:
        flaws.setdefault(index, ("range", f"{side}: {len(levels)} levels; a book has at most {MAX_BOOK_DEPTH}"))
        return ()
    for level in levels:
        if not isinstance(level, (list, tuple)) or len(level) != 2:
            flaws.setdefault(index, ("levels", f"{side}: {level!r} is no pair of price and size"))
            return ()
    return levels


def _encode_side(
    records: Records, prefix: str, rows: Sequence[Sequence[Any]], instrument: Instrument, flaws: Flaws
) -> None:
    """The pairs of all rows, parsed at once, into their places."""
    counts = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    owners = np.repeat(np.arange(len(rows)), counts)
    places = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    records[f"{prefix}_count"] = counts
    for column, name, scale in (
        (0, f"{prefix}_price", instrument.price_scale),
        (1, f"{prefix}_size", instrument.size_scale),
    ):
        values = [level[column] for pairs in rows for level in pairs]
        _encode_numbers(records, name, values, scale, owners, places, flaws)


def _encode_numbers(
    records: Records,
    name: str,
    values: list[Any],
    scale: int,
    owners: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64],
    flaws: Flaws,
) -> None:
    parsed = parse_fixed_array(values, scale, field=name)
    for at, error in parsed.errors.items():
        rule = "absent" if values[at] is None else error.rule
        flaws.setdefault(int(owners[at]), (rule, f"level {places[at]}: {error}"))
    records[name][owners, places] = parsed.values
    records["flags"][owners[parsed.snapped]] |= _SNAPPED
