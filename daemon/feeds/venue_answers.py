"""REST answers that recordings lack and a feed cannot begin without, in each venue's own words. Pure.

The list of instruments is what the recording itself tells of them (`feeds.survey`), the time is that of the recording.
By their paths, for the rows of the table of venues.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from marketd.daemon.feeds.adapter import Serve
from marketd.daemon.feeds.bybit_markets import wire_name
from marketd.daemon.feeds.okx_names import inst_id_of_instrument, kind_of
from marketd.daemon.feeds.precision import step_text
from marketd.market.instruments import Instrument
from marketd.market.times import NS_PER_MS, NS_PER_SECOND, isoformat_ns


def _bitstamp(instruments: Sequence[Instrument], now_ns: int) -> Any:
    return [
        {
            "name": f"{each.base}/{each.quote}",
            "market_symbol": each.symbol.lower(),
            "base_decimals": each.size_scale,
            "counter_decimals": each.price_scale,
            "market_type": "SPOT",
        }
        for each in instruments
    ]


def _bybit(instruments: Sequence[Instrument], now_ns: int) -> Any:
    rows = [
        {
            "symbol": wire_name(each.symbol),
            "baseCoin": each.base,
            "quoteCoin": each.quote,
            "status": "Trading",
            "contractType": _contract_of_bybit(each),
            "priceFilter": {"tickSize": step_text(each.price_scale)},
            "lotSizeFilter": {"basePrecision": step_text(each.size_scale), "qtyStep": step_text(each.size_scale)},
        }
        for each in instruments
    ]
    return {"retCode": 0, "retMsg": "OK", "result": {"list": rows}, "time": now_ns // NS_PER_MS}


def _contract_of_bybit(instrument: Instrument) -> str:
    if instrument.market == "spot":
        return ""
    side = "Inverse" if instrument.venue == "BYBIT_INVERSE" else "Linear"
    return f"{side}Perpetual" if instrument.market == "swap" else f"{side}Futures"


def _bybit_time(instruments: Sequence[Instrument], now_ns: int) -> Any:
    return {"retCode": 0, "retMsg": "OK", "result": {}, "time": now_ns // NS_PER_MS}


def _coinbase(instruments: Sequence[Instrument], now_ns: int) -> Any:
    return [
        {
            "id": f"{each.base}-{each.quote}",
            "base_currency": each.base,
            "quote_currency": each.quote,
            "base_increment": step_text(each.size_scale),
            "quote_increment": step_text(each.price_scale),
            "status": "online",
        }
        for each in instruments
    ]


def _coinbase_time(instruments: Sequence[Instrument], now_ns: int) -> Any:
    return {"iso": isoformat_ns(now_ns)}


def _kraken(instruments: Sequence[Instrument], now_ns: int) -> Any:
    pairs = {
        each.symbol: {
            "wsname": f"{each.base}/{each.quote}",
            "pair_decimals": each.price_scale,
            "lot_decimals": each.size_scale,
            "tick_size": step_text(each.price_scale),
        }
        for each in instruments
    }
    return {"error": [], "result": pairs}


def _kraken_time(instruments: Sequence[Instrument], now_ns: int) -> Any:
    return {"error": [], "result": {"unixtime": now_ns // NS_PER_SECOND}}


def _okx(instruments: Sequence[Instrument], now_ns: int) -> Any:
    rows = [
        {
            "instId": inst_id_of_instrument(each),
            "instType": kind_of(inst_id_of_instrument(each)),
            "baseCcy": each.base,
            "quoteCcy": each.quote,
            "tickSz": step_text(each.price_scale),
            "lotSz": step_text(each.size_scale),
            "state": "live",
        }
        for each in instruments
    ]
    return {"code": "0", "msg": "", "data": rows}


def _okx_time(instruments: Sequence[Instrument], now_ns: int) -> Any:
    return {"code": "0", "msg": "", "data": [{"ts": str(now_ns // NS_PER_MS)}]}


BITSTAMP: Mapping[str, Serve] = {"/api/v2/markets": _bitstamp}
BYBIT: Mapping[str, Serve] = {"/v5/market/instruments-info": _bybit, "/v5/market/time": _bybit_time}
COINBASE: Mapping[str, Serve] = {"/products": _coinbase, "/time": _coinbase_time}
KRAKEN: Mapping[str, Serve] = {"/0/public/AssetPairs": _kraken, "/0/public/Time": _kraken_time}
OKX: Mapping[str, Serve] = {"/api/v5/public/instruments": _okx, "/api/v5/public/time": _okx_time}
