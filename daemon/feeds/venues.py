"""The table of venues: all of a venue that is not in its messages. A new venue is a row here and an adapter.

Signs of recordings are tried in the order of the rows; that none is another venue's as well is held by a test.
"""

from __future__ import annotations

import re

from marketd.daemon.feeds import venue_answers
from marketd.daemon.feeds.adapter import Limits, Signs, Told, Venue
from marketd.daemon.feeds.binance import BinanceAdapter, CoinMarginedAdapter, UsdMarginedAdapter
from marketd.daemon.feeds.binance_markets import COIN_M, USD_M
from marketd.daemon.feeds.bitstamp import BitstampAdapter
from marketd.daemon.feeds.bybit import BybitAdapter, BybitInverseAdapter, BybitLinearAdapter
from marketd.daemon.feeds.bybit_markets import INVERSE, LINEAR
from marketd.daemon.feeds.coinbase import CoinbaseAdapter
from marketd.daemon.feeds.coinbase_exchange import CoinbaseExchangeAdapter
from marketd.daemon.feeds.kraken import KrakenAdapter
from marketd.daemon.feeds.kraken_v1 import KrakenV1Adapter
from marketd.daemon.feeds.market_signs import BYBITS, told_by_binance, told_by_bybit
from marketd.daemon.feeds.okx import SERIES as OKX_SERIES
from marketd.daemon.feeds.okx import OkxAdapter, endpoint_of
from marketd.market.errors import ConfigError

_BINANCE_HEADERS = {"Accept": "application/json"}
_BINANCE_KEY = "X-MBX-APIKEY"
_BINANCE_FUTURES = Limits(
    # 200 until 2021, 1024 since; more than a few hundred symbols share one connection's fate
    streams_per_connection=200,
    # of 10 incoming messages a second, pings and pongs included
    commands_per_second=8.0,
    # the venue pings every 3 minutes, and closes after 10 without a pong; marketd asks by itself long before
    ping_interval_seconds=20.0,
    session_seconds=24 * 3600.0,
    # of 2,400; the rest is for whatever else runs on this address
    weight_per_minute=1900,
    page_rows=1000,
)
_BYBIT = Limits(
    # 21,000 characters of names in all
    streams_per_connection=500,
    commands_per_second=5.0,
    # marketd's own pings, which the venue answers; it sends none
    ping_interval_seconds=20.0,
    # the venue names no end; a connection is made anew once a day
    session_seconds=24 * 3600.0,
    # of 600 requests in 5 seconds; the rest is for whatever else runs on this address
    weight_per_minute=3600,
    page_rows=1000,
)

_COINBASE_EXCHANGE = "wss://ws-feed.exchange.coinbase.com"
_KRAKEN_V1 = "wss://ws.kraken.com"
_BYBIT_HOST = r"[\w-]+\.(bybit|bytick)[\w-]*\.\w+"
_NAMED = {"Accept": "application/json", "User-Agent": "marketd"}  # some refuse a client that does not say its name
_UNLIMITED_SECONDS = 366 * 86_400.0  # of venues that close no connection for its age


def _futures_market(symbol: str) -> str:
    """Of Binance's: BTCUSDT and BTCUSD_PERP are swaps, BTCUSDT_240927 ends."""
    _, ends, how = symbol.partition("_")
    return "future" if ends and how != "PERP" else "swap"


def _bybit_contract(symbol: str) -> str:
    return "future" if symbol[-2:].isdigit() else "swap"


_OKX_OPTION = re.compile(r".+[0-9]{6}[0-9.]+[CP]")


def _okx_market(symbol: str) -> str:
    """BTCUSDT, BTCUSDTSWAP, BTCUSDT240927, BTCUSD24092760000C"""
    if _OKX_OPTION.fullmatch(symbol):
        return "option"
    return "swap" if symbol.endswith("SWAP") else "future" if symbol[-6:].isdigit() else "spot"


VENUES: dict[str, Venue] = {
    "BINANCE": Venue(
        name="BINANCE",
        adapter=BinanceAdapter,
        ws_url="wss://stream.binance.com:9443",
        rest_url="https://api.binance.com",
        limits=Limits(
            streams_per_connection=1024,
            # of the 5 incoming messages a second, pings and pongs included, one is left for those
            commands_per_second=4.0,
            ping_interval_seconds=20.0,
            session_seconds=24 * 3600.0,
            # of 6,000; the rest is for whatever else runs on this address
            weight_per_minute=4800,
            page_rows=1000,
        ),
        headers=_BINANCE_HEADERS,
        api_key_header=_BINANCE_KEY,
        signs=Signs(
            addresses=(
                (
                    r"(stream|data-stream|api|data-api|ws-api|www|testnet)[\w.-]*\.binance\.(com|vision)/(?![df]api/)",
                    Told("BINANCE"),
                ),
            ),
            told=told_by_binance,
        ),
    ),
    "BINANCE_FUTURES": Venue(
        name="BINANCE_FUTURES",
        adapter=UsdMarginedAdapter,
        ws_url="wss://fstream.binance.com",
        rest_url="https://fapi.binance.com",
        limits=_BINANCE_FUTURES,
        headers=_BINANCE_HEADERS,
        api_key_header=_BINANCE_KEY,
        series=USD_M.series,
        market_of=_futures_market,
        endpoint_of=USD_M.endpoint_of,
        signs=Signs(
            addresses=(
                (r"((demo-)?(fstream|fapi)[\w-]*|www(?=[^/]*/fapi/))\.binance\.com/", Told("BINANCE_FUTURES")),
                (r"(f?stream|testnet)\.binancefuture\.com/", Told("BINANCE_FUTURES")),
            )
        ),
    ),
    "BINANCE_DELIVERY": Venue(
        name="BINANCE_DELIVERY",
        adapter=CoinMarginedAdapter,
        ws_url="wss://dstream.binance.com",
        rest_url="https://dapi.binance.com",
        limits=_BINANCE_FUTURES,
        headers=_BINANCE_HEADERS,
        api_key_header=_BINANCE_KEY,
        series=COIN_M.series,
        market_of=_futures_market,
        signs=Signs(
            addresses=(
                (r"(dstream|dapi)[\w-]*\.binance(future)?\.com/|www\.binance\.com/dapi/", Told("BINANCE_DELIVERY")),
            )
        ),
    ),
    "COINBASE": Venue(
        name="COINBASE",
        adapter=CoinbaseAdapter,
        ws_url="wss://advanced-trade-ws.coinbase.com",
        rest_url="https://api.exchange.coinbase.com",
        limits=Limits(
            # the venue names no limit; a hole in a connection's numbers costs all of its books a new snapshot
            streams_per_connection=300,
            # of 8 messages a second without a key
            commands_per_second=4.0,
            # a heartbeat comes each second
            ping_interval_seconds=20.0,
            session_seconds=_UNLIMITED_SECONDS,
            # of 10 requests a second; a minute's budget may be spent at once
            weight_per_minute=120,
            page_rows=1000,
        ),
        headers=_NAMED,
        signs=Signs(
            addresses=((r"(?!.*international)[\w.-]+\.(coinbase|gdax)\.com/", Told("COINBASE")),),
            messages=(
                (rb'"sequence_num":\d', Told("COINBASE")),
                (
                    rb'"type":"(?:l2update|last_match|match|snapshot|ticker|heartbeat|received|open|done)",.*"product_id":',
                    Told("COINBASE", url=_COINBASE_EXCHANGE),
                ),
                (rb'"type":"subscriptions","channels".*"product_ids"', Told("COINBASE", url=_COINBASE_EXCHANGE)),
            ),
        ),
        answers=venue_answers.COINBASE,
    ),
    "KRAKEN": Venue(
        name="KRAKEN",
        adapter=KrakenAdapter,
        ws_url="wss://ws.kraken.com/v2",
        rest_url="https://api.kraken.com",
        limits=Limits(
            # the venue names no limit
            streams_per_connection=300,
            commands_per_second=4.0,
            # a heartbeat comes each second in which nothing else does
            ping_interval_seconds=20.0,
            session_seconds=_UNLIMITED_SECONDS,
            # of one request a second
            weight_per_minute=40,
            page_rows=1000,
        ),
        headers=_NAMED,
        signs=Signs(
            addresses=((r"(ws|ws-auth|ws-l3|beta-ws|api)\.kraken\.com/", Told("KRAKEN")),),
            messages=(
                (
                    rb'^\[.*"(?:trade|spread|ticker|book-\d+|ohlc-\d+)","[\w.]+/[\w.]+"\]$',
                    Told("KRAKEN", url=_KRAKEN_V1),
                ),
                (rb'"event":"(?:systemStatus|subscriptionStatus)"', Told("KRAKEN", url=_KRAKEN_V1)),
                (
                    rb'"channel":"book",.*"checksum":|"channel":"(?:trade|ohlc|ticker)",.*"symbol":"[\w.]+/',
                    Told("KRAKEN"),
                ),
                (rb'"channel":"status",.*"system":', Told("KRAKEN")),
            ),
        ),
        answers=venue_answers.KRAKEN,
    ),
    "BYBIT": Venue(
        name="BYBIT",
        adapter=BybitAdapter,
        ws_url="wss://stream.bybit.com",
        rest_url="https://api.bybit.com",
        limits=_BYBIT,
        headers={},
        signs=Signs(
            addresses=(
                (rf"{_BYBIT_HOST}/v5/public/spot", Told("BYBIT")),
                (rf"{_BYBIT_HOST}/(?!v5/public/|contract/(usdt|inverse)/|realtime)", Told(None, BYBITS)),
            ),
            told=told_by_bybit,
        ),
        answers=venue_answers.BYBIT,
    ),
    "BYBIT_LINEAR": Venue(
        name="BYBIT_LINEAR",
        adapter=BybitLinearAdapter,
        ws_url="wss://stream.bybit.com",
        rest_url="https://api.bybit.com",
        limits=_BYBIT,
        headers={},
        series=LINEAR.series,
        market_of=_bybit_contract,
        signs=Signs(
            addresses=(
                (rf"{_BYBIT_HOST}/(v5/public/linear|contract/usdt/)", Told("BYBIT_LINEAR")),
                # until 2023: contracts in USDT, and those in coins
                (rf"{_BYBIT_HOST}/realtime_public", Told("BYBIT_LINEAR", ("BYBIT",))),
            )
        ),
        answers=venue_answers.BYBIT,
    ),
    "BYBIT_INVERSE": Venue(
        name="BYBIT_INVERSE",
        adapter=BybitInverseAdapter,
        ws_url="wss://stream.bybit.com",
        rest_url="https://api.bybit.com",
        limits=_BYBIT,
        headers={},
        series=INVERSE.series,
        market_of=_bybit_contract,
        signs=Signs(
            addresses=(
                (rf"{_BYBIT_HOST}/(v5/public/inverse|contract/inverse/)", Told("BYBIT_INVERSE")),
                (rf"{_BYBIT_HOST}/realtime(?!_public)", Told("BYBIT_INVERSE", ("BYBIT",))),
            )
        ),
        answers=venue_answers.BYBIT,
    ),
    "OKX": Venue(
        name="OKX",
        adapter=OkxAdapter,
        ws_url="wss://ws.okx.com:8443",
        rest_url="https://www.okx.com",
        limits=Limits(
            streams_per_connection=200,
            commands_per_second=2.0,
            # of 480 for each connection, of up to 100 streams; a book that begins anew costs two
            commands_per_hour=450,
            # marketd's own pings; the venue closes what is silent for 30 s
            ping_interval_seconds=20.0,
            # the venue names no end; a connection is made anew once a day
            session_seconds=24 * 3600.0,
            # of 20 requests in 2 seconds; the rest is for whatever else runs on this address
            weight_per_minute=480,
            page_rows=100,
        ),
        headers={},
        series=OKX_SERIES,
        market_of=_okx_market,
        endpoint_of=endpoint_of,
        signs=Signs(
            addresses=((r"(?!.*/v3)(ws[\w-]*|www|aws|real)\.(okx|okex)\.com/", Told("OKX")),),
            messages=(
                # others write their names in one word, or their types otherwise
                (rb'"arg":\{[^}]*"instId":"[A-Z0-9]+-[A-Z]', Told("OKX")),
                (
                    rb'"arg":\{[^}]*"instType":"(?:SPOT|MARGIN|SWAP|FUTURES|OPTION|ANY)"(?![^}]*"instId")',
                    Told("OKX"),
                ),
            ),
        ),
        answers=venue_answers.OKX,
    ),
    "BITSTAMP": Venue(
        name="BITSTAMP",
        adapter=BitstampAdapter,
        ws_url="wss://ws.bitstamp.net",
        rest_url="https://www.bitstamp.net",
        limits=Limits(
            streams_per_connection=200,
            commands_per_second=10.0,
            # marketd's own heartbeats, which the venue answers
            ping_interval_seconds=20.0,
            # 90 days; then, or before, it asks to reconnect
            session_seconds=90 * 24 * 3600.0,
            # of 10,000 requests in 10 minutes; the rest is for whatever else runs on this address
            weight_per_minute=800,
            page_rows=1000,
        ),
        headers={},
        signs=Signs(
            addresses=((r"((ws|www)\.)?bitstamp\.net/", Told("BITSTAMP")),),
            messages=(
                (
                    rb'"event":"bts:|"channel":"(?:live_trades|live_orders|(?:diff_|detail_)?order_book)_',
                    Told("BITSTAMP"),
                ),
            ),
        ),
        answers=venue_answers.BITSTAMP,
    ),
}

_OLDER_PROTOCOLS: dict[str, tuple[re.Pattern[str], Venue]] = {
    "COINBASE": (
        re.compile(r"ws-feed|ws-direct"),
        VENUES["COINBASE"]._replace(adapter=CoinbaseExchangeAdapter, ws_url=_COINBASE_EXCHANGE),
    ),
    "KRAKEN": (
        re.compile(r"kraken\.com/?$|/v1\b"),
        VENUES["KRAKEN"]._replace(adapter=KrakenV1Adapter, ws_url=_KRAKEN_V1),
    ),
}
"""What a venue speaks at other addresses, by a part of the address; one without a match is spoken to as in `VENUES`."""


def venue_of(name: str, ws_url: str = "") -> Venue:
    """The row of a venue, for the protocol that it speaks at `ws_url`; ConfigError naming the venues that there are."""
    pattern, older = _OLDER_PROTOCOLS.get(name, (None, None))
    if older is not None and pattern is not None and pattern.search(ws_url):
        return older
    try:
        return VENUES[name]
    except KeyError:
        known = ", ".join(VENUES)
        raise ConfigError(
            f"venues.{name}: marketd has no adapter for this venue; there are: {known}", field=f"venues.{name}"
        ) from None
