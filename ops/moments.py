"""Times on the command line: what the API takes, and what a person types."""

from __future__ import annotations

import argparse
import re
import time
from datetime import UTC, datetime

from marketd.market.errors import InvalidArgument
from marketd.market.times import parse_duration_ns, parse_time_ns

HELP = "ISO 8601 (UTC unless it says otherwise), ns since 1970, now, or how long ago, such as 15min"
_AGO = re.compile(r"-?\d+(\.\d+)?\s*[a-z]+")
_DIGITS = re.compile(r"\d{15,19}")


def parse_moment(text: str, now_ns: int | None = None) -> int:
    """`2024-08-08`, `2024-08-08T23:54:00Z`, `1723161240000000000`, `now`, `15min` (ago); ns UTC.

    A person who types a time without a zone means UTC, like everything that marketd shows; a program has to say so
    (`parse_time_ns`). Raises InvalidArgument.
    """
    now = time.time_ns() if now_ns is None else now_ns
    if text == "now":
        return now
    if _AGO.fullmatch(text):
        return now - parse_duration_ns(text.lstrip("-"), field="time")
    if _DIGITS.fullmatch(text):
        return parse_time_ns(int(text), field="time")
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgument(f"time: {text!r} is none; write {HELP}", field="time") from None
    return parse_time_ns(found if found.tzinfo is not None else found.replace(tzinfo=UTC))


def moment(text: str) -> int:
    """`parse_moment` for argparse."""
    try:
        return parse_moment(text)
    except InvalidArgument as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("time: ")) from None


def add_span_options(parser: argparse.ArgumentParser, what: str = "") -> None:
    """`--start` (inclusive) and `--end` (exclusive)."""
    parser.add_argument("--start", metavar="TIME", type=moment, help=f"{what}from this time on: {HELP}")
    parser.add_argument("--end", metavar="TIME", type=moment, help=f"{what}before this time")
