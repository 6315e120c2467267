"""Whose traffic it is: what an address says, and what a message does where no address is recorded. Pure.

An address is told by its host and path, never by a part of its text: `stream.binance.us` and `futures.kraken.com` are
venues of their own, with messages that look alike.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

BINANCES = ("BINANCE", "BINANCE_FUTURES", "BINANCE_DELIVERY")
BYBITS = ("BYBIT", "BYBIT_LINEAR", "BYBIT_INVERSE")
COINBASE_EXCHANGE = "wss://ws-feed.exchange.coinbase.com"
KRAKEN_V1 = "wss://ws.kraken.com"


class Told(NamedTuple):
    """`venue`, or one of `others` if somebody says so; `url` is one at which such messages are spoken."""

    venue: str | None
    others: tuple[str, ...] = ()
    url: str = ""


# ---- addresses ------------------------------------------------------------------------------------

_ADDRESSES: tuple[tuple[re.Pattern[str], Told], ...] = tuple(
    # (host and path, whose they are); what stands first wins
    (re.compile(pattern), told)
    for pattern, told in (
        (r"(dstream|dapi)[\w-]*\.binance(future)?\.com/|www\.binance\.com/dapi/", Told("BINANCE_DELIVERY")),
        (r"((demo-)?(fstream|fapi)[\w-]*|www(?=[^/]*/fapi/))\.binance\.com/", Told("BINANCE_FUTURES")),
        (r"(f?stream|testnet)\.binancefuture\.com/", Told("BINANCE_FUTURES")),
        (r"(stream|data-stream|api|data-api|ws-api|www|testnet)[\w.-]*\.binance\.(com|vision)/", Told("BINANCE")),
        (r"testnet\.binance\.vision/", Told("BINANCE")),
        (r"(?!.*international)[\w.-]+\.(coinbase|gdax)\.com/", Told("COINBASE")),
        (r"(ws|ws-auth|ws-l3|beta-ws|api)\.kraken\.com/", Told("KRAKEN")),
        (r"((ws|www)\.)?bitstamp\.net/", Told("BITSTAMP")),
        (r"(?!.*/v3)(ws[\w-]*|www|aws|real)\.(okx|okex)\.com/", Told("OKX")),
        (r"[\w-]+\.(bybit|bytick)[\w-]*\.\w+/v5/public/spot", Told("BYBIT")),
        (r"[\w-]+\.(bybit|bytick)[\w-]*\.\w+/(v5/public/linear|contract/usdt/)", Told("BYBIT_LINEAR")),
        (r"[\w-]+\.(bybit|bytick)[\w-]*\.\w+/(v5/public/inverse|contract/inverse/)", Told("BYBIT_INVERSE")),
        # until 2023: contracts in USDT, and those in coins
        (r"[\w-]+\.(bybit|bytick)[\w-]*\.\w+/realtime_public", Told("BYBIT_LINEAR", ("BYBIT",))),
        (r"[\w-]+\.(bybit|bytick)[\w-]*\.\w+/realtime", Told("BYBIT_INVERSE", ("BYBIT",))),
        (r"[\w-]+\.(bybit|bytick)[\w-]*\.\w+/(?!v5/public/)", Told(None, BYBITS)),
    )
)


def told_by_address(url: str) -> Told | None:
    """Of a WebSocket's or a REST request's address; None: of none of marketd's venues."""
    try:
        parts = urlsplit(url)
        place = f"{(parts.hostname or '').lower()}{parts.path or '/'}"
    except ValueError:
        return None
    return next((told for pattern, told in _ADDRESSES if pattern.match(place)), None)


@lru_cache(maxsize=1024)
def is_of(venue: str, url: str) -> bool:
    """Whether what an address sent may be this venue's: nothing tells that it is another's."""
    told = told_by_address(url) if "://" in url else None
    return told is None or told.venue is None or venue in (told.venue, *told.others)


# ---- messages -------------------------------------------------------------------------------------

_BINANCES_OWN = re.compile(rb'"stream":"[^"]*@|"stream":"!|^\[?\{"(?:e":"|lastUpdateId":)')
# spot has pairs in BUSD, TUSD and FDUSD; what ends in plain USD there has no "_"
_COIN_M = re.compile(rb'"s":"[A-Z0-9]+USD_(?:PERP|\d{6})"|"(?:ps|pair)":"[A-Z0-9]+USD"|usd_(?:perp|\d{6})@')
_USD_M = re.compile(rb'"pu":|"X":"|"e":"(?:markPriceUpdate|forceOrder|bookTicker)"|"e":"aggTrade"(?!.*"M":)')
_SPOT = re.compile(rb'"e":"(?:depthUpdate|trade)"|"M":(?:true|false)|"data":\{"(?:u|lastUpdateId)":')
_TOPIC = re.compile(rb'"topic":"(\w+)\.(?:[\w.-]*\.)?([A-Z0-9-]+)"')
_TOPICS_OF_V2 = frozenset((b"trade", b"orderBookL2_25", b"orderBook_200", b"instrument_info", b"klineV2", b"candle"))
_TOPICS = _TOPICS_OF_V2 | {b"publicTrade", b"orderbook", b"kline", b"tickers", b"liquidation", b"allLiquidation"}
_IN_COINS = re.compile(rb"USD([HMUZ]\d\d)?")

_SIGNS: tuple[tuple[re.Pattern[bytes], Told], ...] = tuple(
    (re.compile(pattern), told)
    for pattern, told in (
        # others write their names in one word, or their types otherwise
        (rb'"arg":\{[^}]*"instId":"[A-Z0-9]+-[A-Z]', Told("OKX")),
        (rb'"arg":\{[^}]*"instType":"(?:SPOT|MARGIN|SWAP|FUTURES|OPTION|ANY)"(?![^}]*"instId")', Told("OKX")),
        (rb'"sequence_num":\d', Told("COINBASE")),
        (
            rb'"type":"(?:l2update|last_match|match|snapshot|ticker|heartbeat|received|open|done)",.*"product_id":',
            Told("COINBASE", url=COINBASE_EXCHANGE),
        ),
        (rb'"type":"subscriptions","channels".*"product_ids"', Told("COINBASE", url=COINBASE_EXCHANGE)),
        (rb'"event":"bts:|"channel":"(?:live_trades|live_orders|(?:diff_|detail_)?order_book)_', Told("BITSTAMP")),
        (rb'^\[.*"(?:trade|spread|ticker|book-\d+|ohlc-\d+)","[\w.]+/[\w.]+"\]$', Told("KRAKEN", url=KRAKEN_V1)),
        (rb'"event":"(?:systemStatus|subscriptionStatus)"', Told("KRAKEN", url=KRAKEN_V1)),
        (rb'"channel":"book",.*"checksum":|"channel":"(?:trade|ohlc|ticker)",.*"symbol":"[\w.]+/', Told("KRAKEN")),
        (rb'"channel":"status",.*"system":', Told("KRAKEN")),
    )
)


def told_by_message(payload: bytes) -> Told | None:
    """Of a message alone; None where it tells nothing, or not enough."""
    text = payload.replace(b'": ', b'":').replace(b', "', b',"').strip()  # as Python writes it, too
    if (topic := _TOPIC.search(text)) is not None and topic[1] in _TOPICS:
        return _of_bybit(topic[1], topic[2], text)
    if _BINANCES_OWN.search(text):
        return _of_binance(text)
    return next((told for pattern, told in _SIGNS if pattern.search(text)), None)


def _of_binance(text: bytes) -> Told:
    if _COIN_M.search(text):
        return Told("BINANCE_DELIVERY")
    if _USD_M.search(text):
        return Told("BINANCE_FUTURES")
    return Told("BINANCE" if _SPOT.search(text) else None, BINANCES)


def _of_bybit(name: bytes, symbol: bytes, text: bytes) -> Told:
    if _IN_COINS.search(symbol[-6:]) and not symbol.endswith((b"USDT", b"USDC")):
        return Told("BYBIT_INVERSE", BYBITS)
    if name in _TOPICS_OF_V2 or b"-" in symbol or symbol.endswith(b"PERP"):
        return Told("BYBIT_LINEAR", BYBITS)
    if name == b"publicTrade":  # contracts have UUIDs as ids
        return Told("BYBIT_LINEAR" if re.search(rb'"i":"[0-9a-f]+-', text) else "BYBIT", BYBITS)
    return Told(None, BYBITS)
