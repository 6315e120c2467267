"""Rows of frames as text: which columns people want to see, and how a value of each is written.

Numbers are in their shortest exact form, times in ISO 8601 UTC; an absent value is empty, or null in JSON. Many values
of one column (levels of a book, buckets) are a list in JSON, else numbers with blanks between, those that are there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from marketd.client.frames import Frame
from marketd.market.errors import UnknownStream
from marketd.market.records import BookState, Coverage, ImbalanceReason, KindTable, Measure, Side, Source
from marketd.market.times import ABSENT
from marketd.ops.words import moment, real

# What a program may want and a person rarely does.
_HIDDEN = frozenset(("ts_known", "seq", "timeframe", "flags", "bid_count", "ask_count"))
_SIDES = {int(side): side.name.lower() for side in Side}
_SOURCES = {int(source): source.name.lower() for source in Source}
_STATES = {int(state): state.name.lower() for state in Coverage}
_BOOK_STATES = {int(state): state.name.lower() for state in BookState}
_REASONS = {int(reason): reason.name.lower() for reason in ImbalanceReason if reason}
_MEASURES = {int(measure): measure.name.lower() for measure in Measure}
_KINDS = KindTable()
_WEIGHTED_PLACES = 4  # beyond the scale of prices: what a double adds to a quotient says nothing
_ABSENT_TIME = "-"
Value = str | int | float | bool | None | list["Value"]


def shown_columns(frame: Frame) -> tuple[str, ...]:
    """The columns of a table for people."""
    return tuple(name for name in frame.columns if name not in _HIDDEN)


def json_value(frame: Frame, name: str, value: object) -> Value:
    """As JSON can have it: times stay int ns, what is absent is null, names stand for numbers that mean one."""
    if isinstance(value, list):
        return [json_value(frame, name, each) for each in value]
    named = _name_of(frame, name, value)
    if named is not None:
        return named
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if _is_count(frame, name) else value
    if isinstance(value, (bool, int, str)):
        return None if value == ABSENT else value
    return str(value)


def csv_value(frame: Frame, name: str, value: object) -> str:
    """As `table_row` writes it; truth is 1 or 0."""
    return str(int(value)) if isinstance(value, bool) else cell(frame, name, value)


def table_row(frame: Frame, row: Mapping[str, object]) -> list[str]:
    """The cells of one row for people."""
    return [_for_people(frame, name, value) for name, value in row.items()]


def _for_people(frame: Frame, name: str, value: object) -> str:
    if name in frame.time_columns and value == ABSENT:
        return _ABSENT_TIME
    if (frame.kind.name, name, value) == ("imbalance", "reason", 0):
        return ""  # nothing is absent
    if name == "weighted_mid" and isinstance(value, float) and math.isfinite(value):
        return real(round(value, frame.instrument.price_scale + _WEIGHTED_PLACES))
    return cell(frame, name, value)


def cell(frame: Frame, name: str, value: object) -> str:
    """One value as text."""
    if isinstance(value, list):
        return " ".join(text for each in value if (text := cell(frame, name, each)))
    named = _name_of(frame, name, value)
    if named is not None:
        return named
    if name in frame.time_columns and isinstance(value, int):
        return "" if value == ABSENT else moment(value)
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return real(value)
    return "" if value == ABSENT else str(value)


def _name_of(frame: Frame, name: str, value: object) -> str | None:
    """The word for a number that means one."""
    if not isinstance(value, int):
        return None
    match frame.kind.name, name:
        case "trade", "side":
            return _SIDES.get(value)
        case "candle", "source":
            return _SOURCES.get(value)
        case "book" | "book_means" | "imbalance" | "buckets", "state":
            return _BOOK_STATES.get(value)
        case "imbalance", "reason":
            return _REASONS.get(value)
        case "activity_bar", "measure":
            return _MEASURES.get(value)
        case "coverage", "state":
            return _STATES.get(value)
        case "coverage", "stream":
            return _stream(value)
    return None


def _stream(number: int) -> str | None:
    """The kind that a row of the ledger speaks of; a declared series keeps its number."""
    if number == 0:
        return "all"
    try:
        return _KINDS.by_id(number).name
    except UnknownStream:
        return None


def _is_count(frame: Frame, name: str) -> bool:
    """Whether a column holds whole numbers, as reals only so that it may have NaN."""
    return name == "trade_count" or frame.kind.fields.get(name) == "i8"
