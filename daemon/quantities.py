"""Sizes and durations as an operator writes them: `"64MiB"`, `"250ms"`. Pure.

Both are whole numbers to everyone who computes with them (`Bytes` and `Nanoseconds` are ints), and turn
back into the shortest exact text for people. Flaws are ValueErrors: msgspec adds the path of the setting.
"""

from __future__ import annotations

import re
from typing import Any

from marketd.market.errors import InvalidArgument
from marketd.market.times import NS_PER_SECOND, parse_duration_ns

_SIZE_UNITS = {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}
_DURATION_UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")


class Nanoseconds(int):
    """A duration; the text of a setting such as `"250ms"`, or a number of seconds."""

    @classmethod
    def parse(cls, value: object) -> Nanoseconds:
        if isinstance(value, Nanoseconds):
            return value
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError(f"{value!r} is no duration; write one such as '250ms' or '5min'")
        try:
            nanoseconds = parse_duration_ns(value, field="")
        except InvalidArgument as error:
            raise ValueError(str(error).removeprefix(": ")) from None
        if nanoseconds < 0:
            raise ValueError(f"{value!r} is negative; a duration is 0 or more")
        return cls(nanoseconds)

    @property
    def seconds(self) -> float:
        return self / NS_PER_SECOND

    def __str__(self) -> str:
        for unit, seconds in _DURATION_UNITS:
            if self and self % (seconds * NS_PER_SECOND) == 0:
                return f"{self // (seconds * NS_PER_SECOND)}{unit}"
        for unit, factor in (("ms", 1_000_000), ("us", 1_000)):
            if self and self % factor == 0:
                return f"{self // factor}{unit}"
        return f"{int(self)}ns" if self else "0s"


class Bytes(int):
    """A size; the text of a setting such as `"64MiB"`, or a whole number of bytes."""

    @classmethod
    def parse(cls, value: object) -> Bytes:
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls(value)
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if match is None or match[2] not in (*_SIZE_UNITS, "B"):
            units = ", ".join(reversed(_SIZE_UNITS))
            raise ValueError(f"{value!r} is no size; write a number and one of B, {units}, such as '64MiB'")
        return cls(round(float(match[1]) * _SIZE_UNITS.get(match[2], 1)))

    def __str__(self) -> str:
        for unit, factor in _SIZE_UNITS.items():
            if self and self % factor == 0:
                return f"{self // factor}{unit}"
        return f"{int(self)}B"


def decode(wanted: type, value: object) -> Any:
    """msgspec's `dec_hook`: the two types above from what stands in the file."""
    if wanted in (Nanoseconds, Bytes):
        return wanted.parse(value)
    raise NotImplementedError(f"no setting is of type {wanted!r}")


def encode(value: object) -> str:
    """msgspec's `enc_hook`: the two types above as an operator writes them."""
    if isinstance(value, (Nanoseconds, Bytes)):
        return str(value)
    raise NotImplementedError(f"no setting is of type {type(value)!r}")
