"""Times at the API's edge: everything inside marketd is int64 nanoseconds UTC since 1970.

Recorded times are floored to whole microseconds (`floor_us`), PostgreSQL's resolution, so that
what is stored equals what was live.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from marketd.market.errors import InvalidArgument

NS_PER_US = 1_000
NS_PER_MS = 1_000_000
NS_PER_SECOND = 1_000_000_000
ABSENT = -(2**63)  # the dtype's minimum: an absent field, never 0
# An integer that lies between these in another unit than ns is one of that unit, and not a moment of 1970.
FIRST_MEANT_NS = 1_230_768_000 * NS_PER_SECOND  # 2009: before it there was no such market
LAST_MEANT_NS = 4_000_000_000 * NS_PER_SECOND  # 2096

_UNITS_NS = {
    "ns": 1,
    "us": NS_PER_US,
    "ms": NS_PER_MS,
    "s": NS_PER_SECOND,
    "sec": NS_PER_SECOND,
    "m": 60 * NS_PER_SECOND,
    "min": 60 * NS_PER_SECOND,
    "h": 3600 * NS_PER_SECOND,
    "d": 86_400 * NS_PER_SECOND,
    "w": 7 * 86_400 * NS_PER_SECOND,
}
_DURATION = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([a-z]+)\s*")
_TIMEFRAME = re.compile(r"([0-9]{1,10})([smhd])")
MAX_TIMEFRAME_SECONDS = 2**31 - 1  # a bar's timeframe is an int32
_TIMEFRAME_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

type_time = Any  # datetime | pandas.Timestamp | str | int, checked by parse_time_ns


def floor_us(ts_ns: int) -> int:
    """The time floored to whole microseconds, in ns."""
    return ts_ns - ts_ns % NS_PER_US


def parse_duration_ns(text: str | int | float | timedelta, *, field: str = "duration") -> int:
    """`"250ms"`, `"5min"`, `"1h"`, a timedelta, or a number of seconds, in ns.

    Raises InvalidArgument naming `field`.
    """
    if isinstance(text, timedelta):
        return (text.days * 86_400 + text.seconds) * NS_PER_SECOND + text.microseconds * NS_PER_US
    if isinstance(text, (int, float)) and not isinstance(text, bool) and math.isfinite(text):
        return round(text * NS_PER_SECOND)
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None or match[2] not in _UNITS_NS:
        raise InvalidArgument(
            f"{field}: {text!r} is no duration; write a number and one of {', '.join(_UNITS_NS)}, such as '250ms'",
            field=field,
        )
    return round(float(match[1]) * _UNITS_NS[match[2]])


def parse_timeframe(text: str | int, *, field: str = "timeframe") -> int:
    """`"1s"`, `"5m"`, `"4h"`, `"1d"` (or seconds) in whole seconds; InvalidArgument names `field`."""
    match = _TIMEFRAME.fullmatch(text) if isinstance(text, str) else None
    seconds = text if isinstance(text, int) and not isinstance(text, bool) else 0
    if match is not None:
        seconds = int(match[1]) * _TIMEFRAME_SECONDS[match[2]]
    if not 0 < seconds <= MAX_TIMEFRAME_SECONDS:
        raise InvalidArgument(
            f"{field}: {text!r} is no timeframe; write one such as '1s', '1m', '1h', '1d'", field=field
        )
    return seconds


def timeframe_name(seconds: int) -> str:
    """The shortest name of a timeframe: 60 → `"1m"`, 90 → `"90s"`."""
    for unit in ("d", "h", "m"):
        if seconds % _TIMEFRAME_SECONDS[unit] == 0:
            return f"{seconds // _TIMEFRAME_SECONDS[unit]}{unit}"
    return f"{seconds}s"


def parse_time_ns(value: type_time, *, field: str = "timestamp") -> int:
    """An aware datetime, pandas Timestamp, ISO text with offset, or int ns, as ns UTC.

    Naive datetimes, ISO text without an offset, and integers that are no ns (`in_another_unit`) are refused:
    InvalidArgument names `field`.
    """
    if isinstance(value, bool) or value is None:
        raise InvalidArgument(f"{field}: {value!r} is no time", field=field)
    if isinstance(value, int):
        return _checked(value, field)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise InvalidArgument(
                f"{field}: {value!r} is no ISO 8601 time; write one such as '2024-08-08T23:54:00+00:00'",
                field=field,
            ) from None
    if hasattr(value, "dtype") and hasattr(value, "item"):  # numpy integer; numpy datetime64 is naive
        if value.dtype.kind in "iu" and not value.shape:
            return _checked(int(value), field)
        raise InvalidArgument(
            f"{field}: a numpy datetime64 bears no time zone; pass int ns or an aware datetime", field=field
        )
    if not isinstance(value, datetime):
        raise InvalidArgument(
            f"{field}: {type(value).__name__} is no time; pass an aware datetime, ISO text or int ns",
            field=field,
        )
    if value.tzinfo is None or value.utcoffset() is None:
        raise InvalidArgument(
            f"{field}: {value} is naive; say its zone, such as datetime(…, tzinfo=timezone.utc) or '…+00:00'",
            field=field,
        )
    delta = value - _EPOCH
    nanosecond: int = getattr(value, "nanosecond", 0)  # pandas.Timestamp keeps what datetime cannot
    # days, seconds and microseconds are exact; total_seconds() is a float and is not
    return (delta.days * 86_400 + delta.seconds) * NS_PER_SECOND + delta.microseconds * NS_PER_US + nanosecond


def require_past(ts_ns: int, now_ns: int, *, field: str) -> int:
    """`ts_ns`, when it is not beyond `now_ns`; else InvalidArgument names `field`."""
    if ts_ns > now_ns:
        raise InvalidArgument(
            f"{field}: {isoformat_ns(ts_ns)} is in the future (it is {isoformat_ns(now_ns)} now); what will be known "
            "then cannot be told, ask for a moment that has passed",
            field=field,
        )
    return ts_ns


def _checked(ts_ns: int, field: str) -> int:
    if abs(ts_ns) >= 2**63:
        raise InvalidArgument(f"{field}: {ts_ns} ns does not fit into 64 bits", field=field)
    if ts_ns < FIRST_MEANT_NS and (said := in_another_unit(ts_ns, field)):
        raise InvalidArgument(said, field=field)
    return ts_ns


def in_another_unit(number: int, field: str) -> str:
    """What is wrong with an integer that was meant as seconds, ms or us; empty for one that may be ns."""
    for unit in ("s", "ms", "us"):
        meant_ns = number * _UNITS_NS[unit]
        if FIRST_MEANT_NS <= meant_ns < LAST_MEANT_NS:
            return (
                f"{field}: integers are ns since 1970, and {number} would be a moment of that year; as {unit} it is "
                f"{isoformat_ns(meant_ns)}: multiply it by {_UNITS_NS[unit]:_}"
            )
    return ""


def isoformat_ns(ts_ns: int) -> str:
    """ISO 8601 UTC with microseconds, for people and logs."""
    return (_EPOCH + timedelta(microseconds=ts_ns // NS_PER_US)).isoformat(timespec="microseconds")
