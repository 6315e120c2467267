"""What callers pass: checked before anything is sent, refused in plain words that name the argument."""

from __future__ import annotations

import time
from typing import Any, Literal

from marketd.market.bars import source_number
from marketd.market.errors import InvalidArgument
from marketd.market.times import NS_PER_US, parse_time_ns, parse_timeframe, require_past, timeframe_name, type_time

BarSource = Literal["best", "own", "venue", "import"]


def ceil_us(ts_ns: int) -> int:
    """The time ceiled to whole microseconds, in ns: `ts >= t` and `ts < t` mean the same for it on that grid."""
    return -(-ts_ns // NS_PER_US) * NS_PER_US


class Span:
    """[start, end) in ns, both ceiled to whole microseconds, PostgreSQL's resolution; None is open."""

    __slots__ = ("end", "start")

    def __init__(self, start: type_time = None, end: type_time = None) -> None:
        self.start = None if start is None else ceil_us(parse_time_ns(start, field="start"))
        self.end = None if end is None else ceil_us(parse_time_ns(end, field="end"))
        if self.start is not None and self.end is not None and self.end < self.start:
            raise InvalidArgument(f"end: {end!r} is before start {start!r}", field="end")


def past_ns(timestamp: type_time, *, field: str = "timestamp") -> int:
    """The moment that an answer is wanted as of, in ns; InvalidArgument for one that is still to come."""
    return require_past(parse_time_ns(timestamp, field=field), time.time_ns(), field=field)


def known_ns(known_at: type_time) -> int | None:
    """`past_ns`, or None: as it is known now."""
    return None if known_at is None else past_ns(known_at, field="known_at")


def check_symbol(symbol: Any) -> str:
    """The name of an instrument, as text."""
    if not isinstance(symbol, str) or not symbol:
        raise InvalidArgument(f"symbol: {symbol!r} is none; write one such as 'BTC/USDT'", field="symbol")
    return symbol


def check_limit(limit: int | None) -> int | None:
    """A number of records, or None for all."""
    return None if limit is None else check_count(limit)


def check_count(limit: Any) -> int:
    """A number of records, at least 1."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidArgument(f"limit: {limit!r} is not a number of records", field="limit")
    return limit


def check_source(bar_source: str) -> None:
    """`best`, or the name of a source."""
    source_number(bar_source)


def named_timeframes(timeframes: object) -> dict[str, int]:
    """Seconds by the name that the caller wrote; a number of seconds gets its shortest name."""
    if isinstance(timeframes, str) or not hasattr(timeframes, "__iter__"):
        raise InvalidArgument("timeframes: a list such as ['1m', '1h'] is needed", field="timeframes")
    wanted = {}
    for name in timeframes:
        seconds = parse_timeframe(name, field="timeframes")
        wanted[name if isinstance(name, str) else timeframe_name(seconds)] = seconds
    if not wanted:
        raise InvalidArgument("timeframes: none is named", field="timeframes")
    return wanted
