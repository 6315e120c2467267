"""Whose a message is among the markets of one venue, which speak alike: Binance's and Bybit's. Pure."""

from __future__ import annotations

import re

from marketd.daemon.feeds.adapter import Told

BINANCES = ("BINANCE", "BINANCE_FUTURES", "BINANCE_DELIVERY")
BYBITS = ("BYBIT", "BYBIT_LINEAR", "BYBIT_INVERSE")

_BINANCES_OWN = re.compile(rb'"stream":"[^"]*@|"stream":"!|^\[?\{"(?:e":"|lastUpdateId":)')
# spot has pairs in BUSD, TUSD and FDUSD; what ends in plain USD there has no "_"
_COIN_M = re.compile(rb'"s":"[A-Z0-9]+USD_(?:PERP|\d{6})"|"(?:ps|pair)":"[A-Z0-9]+USD"|usd_(?:perp|\d{6})@')
_USD_M = re.compile(rb'"pu":|"X":"|"e":"(?:markPriceUpdate|forceOrder|bookTicker)"|"e":"aggTrade"(?!.*"M":)')
_SPOT = re.compile(rb'"e":"(?:depthUpdate|trade)"|"M":(?:true|false)|"data":\{"(?:u|lastUpdateId)":')
_TOPIC = re.compile(rb'"topic":"(\w+)\.(?:[\w.-]*\.)?([A-Z0-9-]+)"')
_TOPICS_OF_V2 = frozenset((b"trade", b"orderBookL2_25", b"orderBook_200", b"instrument_info", b"klineV2", b"candle"))
_TOPICS = _TOPICS_OF_V2 | {b"publicTrade", b"orderbook", b"kline", b"tickers", b"liquidation", b"allLiquidation"}
_IN_COINS = re.compile(rb"USD([HMUZ]\d\d)?")


def told_by_binance(text: bytes) -> Told | None:
    if not _BINANCES_OWN.search(text):
        return None
    if _COIN_M.search(text):
        return Told("BINANCE_DELIVERY")
    if _USD_M.search(text):
        return Told("BINANCE_FUTURES")
    return Told("BINANCE" if _SPOT.search(text) else None, BINANCES)


def told_by_bybit(text: bytes) -> Told | None:
    topic = _TOPIC.search(text)
    if topic is None or topic[1] not in _TOPICS:
        return None
    name, symbol = topic[1], topic[2]
    if _IN_COINS.search(symbol[-6:]) and not symbol.endswith((b"USDT", b"USDC")):
        return Told("BYBIT_INVERSE", BYBITS)
    if name in _TOPICS_OF_V2 or b"-" in symbol or symbol.endswith(b"PERP"):
        return Told("BYBIT_LINEAR", BYBITS)
    if name == b"publicTrade":  # contracts have UUIDs as ids
        return Told("BYBIT_LINEAR" if re.search(rb'"i":"[0-9a-f]+-', text) else "BYBIT", BYBITS)
    return Told(None, BYBITS)
