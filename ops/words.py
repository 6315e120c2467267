"""Numbers, times and durations as people read them. Pure."""

from __future__ import annotations

import math

from marketd.market.times import ABSENT, NS_PER_SECOND, isoformat_ns

_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: float | None) -> str:
    """`1536` → `1.5 KiB`; `-` for what is not known."""
    if count is None:
        return "-"
    amount, unit = float(count), 0
    while abs(amount) >= 1024 and unit < len(_BYTE_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.0f} {_BYTE_UNITS[unit]}" if unit == 0 or amount >= 100 else f"{amount:.1f} {_BYTE_UNITS[unit]}"


def duration(seconds: float | None) -> str:
    """`0.0042` → `4.2 ms`, `75` → `1 min 15 s`, `90061` → `1 d 1 h`; `-` for what is not known."""
    if seconds is None:
        return "-"
    if abs(seconds) < 1:
        return f"{seconds * 1000:.1f} ms"
    if abs(seconds) < 60:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for name, length, smaller, divisor in (("d", 86_400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if abs(whole) >= length:
            return f"{whole // length} {name} {whole % length // divisor} {smaller}"
    raise AssertionError("a minute or more has one of these units")


def count(number: int | None) -> str:
    """`1234567` → `1,234,567`; `-` for what is not known."""
    return "-" if number is None else f"{number:,}"


def moment(ts_ns: int | None) -> str:
    """ISO 8601 UTC with microseconds; `-` for what is not known."""
    return "-" if ts_ns is None or ts_ns in (0, ABSENT) else isoformat_ns(ts_ns).replace("+00:00", "Z")


def age(ts_ns: int | None, now_ns: int) -> str:
    """How long ago a moment was."""
    return "-" if ts_ns is None or ts_ns in (0, ABSENT) else duration((now_ns - ts_ns) / NS_PER_SECOND)


def real(value: float) -> str:
    """A real number in its shortest exact decimal text, never with an exponent; empty for NaN."""
    if math.isnan(value):
        return ""
    text = repr(value)
    if "e" in text and math.isfinite(value):
        text = f"{value:.18f}".rstrip("0") if abs(value) < 1 else f"{value:.0f}"
    return text.removesuffix(".0")


def plural(number: int, thing: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
