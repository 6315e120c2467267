"""What must come out of a recording, as naively as can be: its own reading of the file, exact decimal arithmetic.

Nothing of marketd is used here, so that a mistake of the decoder, the scales or the fold cannot be made twice.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any, NamedTuple

SECOND_MS = 1000
MINUTE_MS = 60_000


class Dealt(NamedTuple):
    """One trade of a recording."""

    trade_id: int
    time_ms: int
    price: Decimal
    size: Decimal
    side: int


class Bar(NamedTuple):
    """One bar, in real numbers that are exact."""

    ts_ms: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    quote_volume: Decimal
    buy_volume: Decimal
    trade_count: int


def messages(captures: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The `data` of every stream's message: lines of `<time> {…}` and `<time>: {…}`."""
    for path in captures:
        with gzip.open(path, "rt") as file:
            for line in file:
                text = line.partition(" ")[2]
                if line[:1].isdigit() and text.startswith('{"stream"'):
                    yield json.loads(text)["data"]


def trades(captures: Sequence[Path], kind: str = "trade") -> dict[str, list[Dealt]]:
    """By symbol, in the order of the recording."""
    found: dict[str, list[Dealt]] = {}
    for data in messages(captures):
        if data.get("e") == kind:
            number = data["t" if kind == "trade" else "a"]
            side = -1 if data["m"] else 1
            dealt = Dealt(number, data["T"], Decimal(data["p"]), Decimal(data["q"]), side)
            found.setdefault(data["s"], []).append(dealt)
    return found


def closed_klines(captures: Sequence[Path]) -> dict[str, list[Bar]]:
    """The venue's own bars that were final, by symbol."""
    found: dict[str, list[Bar]] = {}
    for data in messages(captures):
        if data.get("e") == "kline" and data["k"]["x"]:
            k = data["k"]
            reals = [Decimal(k[name]) for name in ("o", "h", "l", "c", "v", "q", "V")]
            found.setdefault(data["s"], []).append(Bar(k["t"], *reals, trade_count=k["n"]))
    return found


def bars(dealt: Iterable[Dealt], step_ms: int, quote_places: int = 8) -> list[Bar]:
    """Bars of trades; a bar's open and close follow time, then the order of arrival."""
    inside: dict[int, list[Dealt]] = {}
    for trade in sorted(dealt, key=lambda trade: trade.time_ms):  # sorted() is stable
        inside.setdefault(trade.time_ms - trade.time_ms % step_ms, []).append(trade)
    return [_bar(ts, inside[ts], quote_places) for ts in sorted(inside)]


def _bar(ts_ms: int, dealt: list[Dealt], quote_places: int) -> Bar:
    prices = [trade.price for trade in dealt]
    grid = Decimal(1).scaleb(-quote_places)
    quote = sum(((t.price * t.size).quantize(grid, ROUND_FLOOR) for t in dealt), Decimal(0))
    bought = sum((t.size for t in dealt if t.side == 1), Decimal(0))
    volume = sum((t.size for t in dealt), Decimal(0))
    return Bar(ts_ms, prices[0], max(prices), min(prices), prices[-1], volume, quote, bought, len(dealt))
