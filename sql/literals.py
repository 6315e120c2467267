"""Arguments written into the text of a query, for COPY, which takes none.

Every value becomes an untyped literal in quotes, so that the server infers and checks its type exactly as
it would for a parameter, and plans with a constant: chunks and partitions outside of the bounds are left
out at planning. asyncpg's own way asks the server twice to get there; this one not at all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

import numpy as np

from marketd.market.errors import InvalidArgument

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Text in which `$1` is no argument, then the arguments themselves. Dollar quotes do not occur in our queries.
_TOKEN = re.compile(r"""'(?:[^']|'')*' | "[^"]*" | --[^\n]* | /\*.*?\*/ | \$(\d+)""", re.VERBOSE | re.DOTALL)
_NEEDS_QUOTES = re.compile(r'[\\"{},\s]')


def ns_to_datetime(ts_ns: int) -> datetime:
    """A time in ns as the database stores it: floored to whole microseconds, UTC."""
    return _EPOCH + timedelta(microseconds=ts_ns // 1000)


def bind(query: str, *args: object) -> str:
    """`query` with `$1`, `$2`, … replaced by literals. Every argument must be used, and every `$n` be
    given."""
    pieces, numbers = _parsed(query)
    used = set(numbers)
    for number in used:
        if not 1 <= number <= len(args):
            raise InvalidArgument(f"the query names ${number}, and {len(args)} arguments were given")
    if len(used) != len(args):
        raise InvalidArgument(f"{len(args)} arguments were given, and the query uses {len(used)} of them")
    literals = [literal(arg) for arg in args]
    bound = [pieces[0]]
    for number, piece in zip(numbers, pieces[1:], strict=True):
        bound += literals[number - 1], piece
    return "".join(bound)


@lru_cache(maxsize=128)  # the same few queries come again and again
def _parsed(query: str) -> tuple[list[str], list[int]]:
    """The pieces of a query between its arguments, and the numbers of these."""
    pieces, numbers, begin = [], [], 0
    for match in _TOKEN.finditer(query):
        if match[1] is not None:
            pieces.append(query[begin : match.start()])
            numbers.append(int(match[1]))
            begin = match.end()
    return [*pieces, query[begin:]], numbers


def literal(value: object) -> str:
    """A value as SQL text. Naive datetimes and types that are not known here are refused: InvalidArgument."""
    text = _text(value)
    return "NULL" if text is None else quote(text)


def quote(text: str) -> str:
    """A string constant that means `text` whatever the server's settings are."""
    if "\0" in text:
        raise InvalidArgument("text with a NUL byte cannot be stored in PostgreSQL")
    quoted = "'" + text.replace("'", "''") + "'"
    # a backslash is special unless standard_conforming_strings is on; E'' makes it special for certain. The
    # blank keeps the E from joining a word before it.
    return " E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


def _text(value: object) -> str | None:
    """What the type's input function reads; None for NULL."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _float_text(value)
    if isinstance(value, (int, UUID)):
        return str(int(value)) if isinstance(value, int) else str(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "\\x" + bytes(value).hex()
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidArgument(f"{value} is naive; say its zone")
        return value.astimezone(UTC).isoformat()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return "{" + ",".join(_element(item) for item in value) + "}"
    raise InvalidArgument(f"a {type(value).__name__} cannot be written into a query")


def _float_text(value: float) -> str:
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return "NaN" if math.isnan(value) else repr(value)


def _element(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        raise InvalidArgument("an array of arrays cannot be written into a query")
    text = _text(value)
    if text is None:
        return "NULL"
    if text == "" or text.upper() == "NULL" or _NEEDS_QUOTES.search(text):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return text
