"""What a database has, in the oracle's words: exact decimals, milliseconds; one flat list for every question."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Protocol

from acceptance.oracle import Bar, Dealt

OWN, VENUE = 1, 2
PARTIAL = 1

_MS = "(extract(epoch FROM {})::numeric * 1000)::bigint"
_TRADES = f"""
SELECT trade_id, {_MS.format("ts_event")}, price, size, side, price_scale, size_scale
FROM trades JOIN instruments USING (instrument_id) WHERE symbol = $1 ORDER BY trade_id"""
_BARS = f"""
SELECT {_MS.format("ts")}, open, high, low, close, volume, quote_volume, buy_volume, trade_count, c.flags,
       price_scale, size_scale, quote_scale
FROM {{table}} c JOIN instruments USING (instrument_id) WHERE symbol = $1 AND source = $2 {{and_timeframe}} ORDER BY
ts"""


class Database(Protocol):
    def rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]: ...


def trades(database: Database, symbol: str) -> list[Dealt]:
    return [
        Dealt(trade_id, ts, real(price, price_scale), real(size, size_scale), side)
        for trade_id, ts, price, size, side, price_scale, size_scale in database.rows(_TRADES, symbol)
    ]


def bars(database: Database, symbol: str, timeframe: int, source: int = OWN) -> list[Bar]:
    return [bar for bar, _ in bars_and_flags(database, symbol, timeframe, source)]


def bars_and_flags(database: Database, symbol: str, timeframe: int, source: int = OWN) -> list[tuple[Bar, int]]:
    table = "candles_1s" if timeframe == 1 else "candles"
    and_timeframe = "" if timeframe == 1 else f"AND timeframe = {timeframe}"
    found = database.rows(_BARS.format(table=table, and_timeframe=and_timeframe), symbol, source)
    return [_bar(row) for row in found]


def _bar(row: tuple[Any, ...]) -> tuple[Bar, int]:
    ts, *values, count, flags, price_scale, size_scale, quote_scale = row
    scales = [price_scale] * 4 + [size_scale, quote_scale, size_scale]
    return Bar(ts, *(real(v, s) for v, s in zip(values, scales, strict=True)), trade_count=count), flags


def real(value: int, scale: int) -> Decimal:
    return Decimal(value).scaleb(-scale)
