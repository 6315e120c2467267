"""The market at a glance, as shared memory has it: a line an instrument. No message goes to the daemon."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from marketd.client.cache import DataCacheManager
from marketd.client.frames import Frame
from marketd.client.local import LocalDaemon
from marketd.market.errors import MarketdError
from marketd.market.instruments import GLOBAL_NAME
from marketd.ops import words
from marketd.ops.tables import Page

_BPS = 10_000
RATIOS = ("book_1s", "book_60s", "volume_5s", "volume_60s")
COLUMNS = (
    *("INSTRUMENT", "BOOK", "BID", "ASK", "SPREAD BP", "WEIGHTED MID"),
    *("BOOK 1S", "BOOK 60S", "VOL 5S", "VOL 60S", "LAST", "AGE"),
)


class MarketLine(NamedTuple):
    """One instrument; None where there is no number."""

    name: str
    book: str | None  # state of the newest book; None: there is none
    bid: float | None
    ask: float | None
    spread_bps: float | None
    weighted_mid: float | None
    book_1s: float | None
    book_60s: float | None
    volume_5s: float | None
    volume_60s: float | None
    last: float | None
    age_ns: int | None  # since anything was heard of it


def look(cache: DataCacheManager) -> list[MarketLine]:
    """Every instrument with an arena, by name. Raises NotRunning when no daemon ever left word."""
    local = LocalDaemon(cache.directory)
    instruments = local.instruments(local.presence())
    return [line_of(cache, each.name) for each in instruments if each.name != GLOBAL_NAME]


def line_of(cache: DataCacheManager, name: str) -> MarketLine:
    """What there is of one instrument; what shared memory does not serve now is None."""
    values: dict[str, Any] = dict.fromkeys(MarketLine._fields)
    with suppress(MarketdError):
        values |= _of_book(cache.get_latest_orderbook(name, depth=1))
    with suppress(MarketdError):
        newest = cache.get_latest_imbalances(name)
        values |= {ratio: _newest(newest, ratio) for ratio in RATIOS}
    with suppress(MarketdError):
        values["last"] = _newest(cache.get_latest_trades(name, 1), "price")
    with suppress(MarketdError):
        known = cache.cut(name).ts_known
        values["age_ns"] = time.time_ns() - known if known else None
    return MarketLine(**{**values, "name": name})


def _of_book(found: Frame) -> dict[str, Any]:
    state = found.meta.book_state
    shown: dict[str, Any] = {"book": None if state is None else state.lower()}
    if state != "LIVE":
        return shown
    mid, spread = _newest(found, "mid"), _newest(found, "spread")
    shown["spread_bps"] = None if not mid or spread is None else spread / mid * _BPS
    shown["weighted_mid"] = _newest(found, "weighted_mid")
    for side in ("bid", "ask"):
        price = float(found[f"{side}_price"][-1, 0])
        shown[side] = None if math.isnan(price) else price
    return shown


def _newest(frame: Frame, column: str) -> float | None:
    """The last value of a column; None where there is none."""
    if not len(frame):
        return None
    value = float(frame[column][-1])
    return None if math.isnan(value) else value


def page(lines: Iterable[MarketLine]) -> Page:
    """The whole of it, for a terminal."""
    shown = Page()
    shown.table(COLUMNS, map(_row, lines))
    return shown


def _row(line: MarketLine) -> tuple[str, ...]:
    age = "-" if line.age_ns is None else words.duration(line.age_ns / 1e9)
    ratios = (line.book_1s, line.book_60s, line.volume_5s, line.volume_60s)
    return (
        line.name,
        line.book or "-",
        _price(line.bid),
        _price(line.ask),
        "-" if line.spread_bps is None else f"{line.spread_bps:.3f}",
        _price(line.weighted_mid),
        *("-" if ratio is None else f"{ratio:+.2f}" for ratio in ratios),
        _price(line.last),
        age,
    )


def _price(value: float | None) -> str:
    return "-" if value is None else words.real(round(value, 8))
