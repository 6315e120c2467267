"""The emulator's REST paths: Binance's names, arguments, answers, refusals. Pure: a target in, status and body out."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import msgspec

from marketd.daemon.feeds.binance_records import INTERVALS
from marketd.daemon.feeds.emulator.source import Source
from marketd.daemon.feeds.precision import Rules
from marketd.daemon.feeds.recorded import filters_of

MAX_ROWS = 1000
MAX_LEVELS = 5000
_PATH = re.compile(r"/(api|fapi|dapi)/v\d/(\w+)")


class Answer(NamedTuple):
    status: int
    body: bytes


class Refused(Exception):
    """The request is answered with one of Binance's error codes."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


Query = dict[str, str]


def wants_key(target: str) -> bool:
    """Whether an exchange that demands API keys demands one here."""
    match = _PATH.fullmatch(urlsplit(target).path)
    return match is not None and match[2] == "historicalTrades"


def answer(source: Source, target: str) -> Answer | None:
    """None for a path that is no REST path."""
    parts = urlsplit(target)
    match = _PATH.fullmatch(parts.path)
    if match is None:
        return None
    query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    serve = (_PATHS if match[1] == "api" else _FUTURES_PATHS).get(match[2])
    if serve is None:
        return Answer(404, b'{"code":-1,"msg":"The emulator does not have this path."}')
    try:
        return Answer(200, msgspec.json.encode(serve(source, query)))
    except Refused as refusal:
        return Answer(400, msgspec.json.encode({"code": refusal.code, "msg": str(refusal)}))


def _symbol(source: Source, query: Query) -> str:
    symbol = query.get("symbol")
    if not symbol:
        raise Refused(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
    if symbol not in source.rules:
        raise Refused(-1121, "Invalid symbol.")
    return symbol


def _integer(query: Query, name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise Refused(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
    return int(text)


def _limit(query: Query, default: int, most: int) -> int:
    limit = _integer(query, "limit")
    return default if limit is None else max(1, min(limit, most))


def _exchange_info(source: Source, query: Query) -> dict[str, Any]:
    wanted = list(source.rules)
    if "symbol" in query:
        wanted = [_symbol(source, query)]
    elif "symbols" in query:
        try:
            wanted = msgspec.json.decode(query["symbols"], type=list[str])
        except msgspec.MsgspecError:
            raise Refused(-1100, "Illegal characters found in parameter 'symbols'.") from None
        if any(symbol not in source.rules for symbol in wanted):
            raise Refused(-1121, "Invalid symbol.")
    return {
        "timezone": "UTC",
        "serverTime": source.now_ms(),
        "rateLimits": [],
        "exchangeFilters": [],
        "symbols": [_symbol_info(source.rules[symbol]) for symbol in wanted],
    }


def _symbol_info(rules: Rules) -> dict[str, Any]:
    return {
        "symbol": rules.symbol,
        "status": "TRADING",
        "baseAsset": rules.base,
        "baseAssetPrecision": 8,
        "quoteAsset": rules.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "orderTypes": ["LIMIT", "MARKET"],
        "isSpotTradingAllowed": True,
        "filters": filters_of(rules),
    }


def _futures_exchange_info(source: Source, query: Query) -> dict[str, Any]:
    info = _exchange_info(source, {})  # it takes no symbols, and names them all
    for symbol in info["symbols"]:
        _, ends, how = symbol["symbol"].partition("_")
        symbol["contractType"] = "CURRENT_QUARTER" if ends and how != "PERP" else "PERPETUAL"
    return info


def _trades(source: Source, query: Query) -> list[dict[str, Any]]:
    return source.trades(_symbol(source, query), None, _limit(query, 500, MAX_ROWS))


def _historical_trades(source: Source, query: Query) -> list[dict[str, Any]]:
    return source.trades(_symbol(source, query), _integer(query, "fromId"), _limit(query, 500, MAX_ROWS))


def _agg_trades(source: Source, query: Query) -> list[dict[str, Any]]:
    return source.agg_trades(_symbol(source, query), _integer(query, "fromId"), _limit(query, 500, MAX_ROWS))


def _klines(source: Source, query: Query) -> list[list[Any]]:
    symbol, interval = _symbol(source, query), query.get("interval", "")
    if interval not in INTERVALS:
        raise Refused(-1120, "Invalid interval.")
    start, end = _integer(query, "startTime"), _integer(query, "endTime")
    return source.bars(symbol, interval, start, end, _limit(query, 500, MAX_ROWS))


def _depth(source: Source, query: Query) -> dict[str, Any]:
    return source.book(_symbol(source, query), _limit(query, 100, MAX_LEVELS))


def _open_interest(source: Source, query: Query) -> dict[str, Any]:
    found = source.open_interest(_symbol(source, query))
    if found is None:
        raise Refused(-1, "The emulator does not know the open interest of this market.")
    return found


def _time(source: Source, query: Query) -> dict[str, Any]:
    return {"serverTime": source.now_ms()}


def _ping(source: Source, query: Query) -> dict[str, Any]:
    return {}


_PATHS: dict[str, Callable[[Source, Query], Any]] = {
    "ping": _ping,
    "time": _time,
    "exchangeInfo": _exchange_info,
    "depth": _depth,
    "trades": _trades,
    "historicalTrades": _historical_trades,
    "aggTrades": _agg_trades,
    "klines": _klines,
}
_FUTURES_PATHS = {**_PATHS, "exchangeInfo": _futures_exchange_info, "openInterest": _open_interest}
