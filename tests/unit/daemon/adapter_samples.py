"""One `Sample` a venue: instruments, spellings, and messages as its documentation shows them."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from marketd.market.instruments import Instrument


class Sample(NamedTuple):
    """`frames` are (name of an event that the message must give, message), in an order in which they may come."""

    instruments: tuple[Instrument, ...]
    wires: tuple[str, ...]  # the venue's own name of each instrument, as it stands in addresses or commands
    spellings: tuple[str, ...] = ()  # of the first instrument
    frames: tuple[tuple[str, bytes], ...] = ()
    candles: tuple[str, ...] = ("1m",)


def spot(venue: str, base: str, quote: str, price_scale: int = 2, size_scale: int = 8) -> Instrument:
    return Instrument(
        id=1,
        symbol=base + quote,
        venue=venue,
        price_scale=price_scale,
        size_scale=size_scale,
        quote_scale=8,
        base=base,
        quote=quote,
    )


def text(message: Any) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


# ---- Binance --------------------------------------------------------------------------------------


def _binance(venue: str, spellings: tuple[str, ...], market: str) -> Sample:
    instruments = tuple(spot(venue, base, "USDT", size_scale=5) for base in ("BTC", "ETH"))
    if market == "inverse":
        instruments = tuple(
            Instrument(
                id=1,
                symbol=f"{base}USD_PERP",
                venue=venue,
                price_scale=2,
                size_scale=0,
                quote_scale=2,
                base=base,
                quote="USD",
                market="swap",
            )
            for base in ("BTC", "ETH")
        )
    wires = tuple(instrument.symbol.lower() for instrument in instruments)
    symbol, wire = instruments[0].symbol, wires[0]
    size = "2" if market == "inverse" else "0.02000000"
    trade = {"e": "trade", "E": 1723161255343, "T": 1723161255342, "s": symbol, "t": 7, "p": "61837.63", "q": size}
    depth = {"e": "depthUpdate", "E": 1723161255343, "T": 1723161255342, "s": symbol, "U": 5, "u": 7, "pu": 4}
    frames = (
        ("Trades", text({"stream": f"{wire}@trade", "data": {**trade, "m": True, "M": True}})),
        ("BookDelta", text({"stream": f"{wire}@depth@100ms", "data": {**depth, "b": [["61837.6", size]], "a": []}})),
        ("Ignored", text({"result": None, "id": 1})),
        ("VenueError", text({"error": {"code": 2, "msg": "Invalid request"}, "id": 1})),
    )
    return Sample(instruments, wires, spellings, frames)


# ---- Coinbase -------------------------------------------------------------------------------------

_COINBASE = (spot("COINBASE", "BTC", "USD"), spot("COINBASE", "ETH", "EUR"))
_COINBASE_SPELLINGS = ("BTC/USD", "BTC-USD", "btc-usd", "BTC/USD.COINBASE")


def _advanced(channel: str, number: int, *events: dict[str, Any], **more: Any) -> bytes:
    head = {"channel": channel, "client_id": "", "timestamp": "2023-02-09T20:32:50.714964855Z"}
    return text({**head, "sequence_num": number, "events": list(events), **more})


def _candle(start: int, close: str) -> dict[str, str]:
    prices = {"open": "21921.00", "high": "21925.10", "low": "21920.00", "close": close}
    return {"start": str(start), **prices, "volume": "4.2", "product_id": "BTC-USD"}


_UPDATES = [
    {"side": "bid", "event_time": "1970-01-01T00:00:00Z", "price_level": "21921.73", "new_quantity": "0.06317902"},
    {"side": "offer", "event_time": "1970-01-01T00:00:00Z", "price_level": "21922.3", "new_quantity": "0.5"},
]
_MARKET_TRADES = [
    {"trade_id": "12", "product_id": "BTC-USD", "price": "21922.3", "size": "0.3", "side": "SELL"},
    {"trade_id": "11", "product_id": "BTC-USD", "price": "21921.73", "size": "0.01", "side": "BUY"},
]
_COINBASE_FRAMES = (
    ("Ignored", _advanced("subscriptions", 0, {"subscriptions": {"level2": ["BTC-USD"]}})),
    ("BookSnapshot", _advanced("l2_data", 1, {"type": "snapshot", "product_id": "BTC-USD", "updates": _UPDATES})),
    ("BookDelta", _advanced("l2_data", 2, {"type": "update", "product_id": "BTC-USD", "updates": _UPDATES[:1]})),
    (
        "Trades",
        _advanced(
            "market_trades",
            3,
            {"type": "update", "trades": [{**t, "time": "2023-02-09T20:32:50.5Z"} for t in _MARKET_TRADES]},
        ),
    ),
    ("Ignored", _advanced("heartbeats", 4, {"current_time": "2023-02-09 20:32:51.1", "heartbeat_counter": 3049})),
    ("Ignored", _advanced("candles", 5, {"type": "snapshot", "candles": [_candle(1675974600, "21924.00")]})),
    ("Candles", _advanced("candles", 6, {"type": "update", "candles": [_candle(1675974900, "21925.00")]})),
    ("Ignored", _advanced("ticker", 7, {"type": "update", "tickers": []})),
    ("VenueError", text({"type": "error", "message": "rate limit exceeded"})),
)

_MATCH = {
    "trade_id": 10,
    "maker_order_id": "ac928c66-ca53-498f-9c13-a110027a60e8",
    "taker_order_id": "132fb6ae-456b-4654-b4e0-d681ac05cea1",
    "time": "2014-11-07T08:19:27.028459Z",
    "product_id": "BTC-USD",
    "size": "5.23512",
    "price": "400.23",
    "side": "sell",
    "sequence": 50,
}
_BOOK_TIME = "2019-08-14T20:42:27.966Z"
_EXCHANGE_FRAMES = (
    ("Ignored", text({"type": "subscriptions", "channels": [{"name": "matches", "product_ids": ["BTC-USD"]}]})),
    ("Trades", text({"type": "last_match", **_MATCH, "trade_id": 9})),
    ("Trades", text({"type": "match", **_MATCH})),
    (
        "BookSnapshot",
        text(
            {
                "type": "snapshot",
                "product_id": "BTC-USD",
                "bids": [["10101.10", "0.45054140"]],
                "asks": [["10102.55", "0.57753524"]],
            }
        ),
    ),
    (
        "BookDelta",
        text(
            {
                "type": "l2update",
                "product_id": "BTC-USD",
                "changes": [["buy", "10101.80", "0.162567"], ["sell", "10102.55", "0"]],
                "time": _BOOK_TIME,
            }
        ),
    ),
    ("Ignored", text({"type": "ticker", "product_id": "BTC-USD", "price": "4388.01", "time": _BOOK_TIME})),
    ("Ignored", text({"type": "heartbeat", "sequence": 90, "last_trade_id": 20, "product_id": "BTC-USD"})),
    *(
        ("Ignored", text({"type": name, "product_id": "BTC-USD", "time": _BOOK_TIME, "order_id": "d50ec984"}))
        for name in ("received", "open", "done", "change", "activate")
    ),
    ("VenueError", text({"type": "error", "message": "Failed to subscribe", "reason": "X is not a valid product"})),
)

# ---- Kraken ---------------------------------------------------------------------------------------

_KRAKEN = (spot("KRAKEN", "BTC", "USD", 1, 8), spot("KRAKEN", "ETH", "CHF", 2, 8))
_KRAKEN_SPELLINGS = ("BTC/USD", "XBT/USD", "XBTUSD", "BTCUSD", "xbt/usd", "BTC/USD.KRAKEN")


def _ohlc(begin: str, close: float) -> bytes:
    prices = {"open": 45283.5, "high": 45290.0, "low": 45280.1, "close": close}
    more = {"trades": 12, "volume": 1.25, "vwap": 45284.2, "interval_begin": begin, "interval": 1}
    return text({"channel": "ohlc", "type": "update", "data": [{"symbol": "BTC/USD", **prices, **more}]})


_TRADE_V2 = {"symbol": "BTC/USD", "side": "sell", "price": 45283.5, "qty": 0.1, "ord_type": "limit"}
_BOOK_V2 = {"symbol": "BTC/USD", "checksum": 3310070434}
_KRAKEN_FRAMES = (
    ("Ignored", text({"channel": "status", "type": "update", "data": [{"system": "online", "version": "2.0.0"}]})),
    (
        "Ignored",
        text(
            {"method": "subscribe", "result": {"channel": "ohlc", "interval": 1, "symbol": "BTC/USD"}, "success": True}
        ),
    ),
    (
        "Trades",
        text(
            {
                "channel": "trade",
                "type": "update",
                "data": [{**_TRADE_V2, "trade_id": 4665906, "timestamp": "2023-09-25T07:49:37.708706Z"}],
            }
        ),
    ),
    (
        "BookSnapshot",
        b'{"channel":"book","type":"snapshot","data":[{"symbol":"BTC/USD","bids":[{"price":45283.5,"qty":0.10000000}],'
        b'"asks":[{"price":45285.2,"qty":0.00100000}],"checksum":3310070434}]}',
    ),
    (
        "BookDelta",
        text(
            {
                "channel": "book",
                "type": "update",
                "data": [
                    {
                        **_BOOK_V2,
                        "bids": [{"price": 45283.4, "qty": 1.5}],
                        "asks": [],
                        "timestamp": "2023-10-06T17:35:55.440295Z",
                    }
                ],
            }
        ),
    ),
    ("Ignored", _ohlc("2023-10-04T16:25:00.000000000Z", 45284.0)),
    ("Candles", _ohlc("2023-10-04T16:26:00.000000000Z", 45285.0)),
    ("Ignored", text({"channel": "heartbeat"})),
    ("Ignored", text({"method": "pong", "req_id": 101, "time_in": "2023-09-24T14:10:23.799685Z"})),
    ("VenueError", text({"method": "subscribe", "success": False, "error": "Currency pair not supported X/Y"})),
    ("VenueError", text({"channel": "status", "type": "update", "data": [{"system": "maintenance"}]})),
)


def _bar_v1(end: str, close: str) -> bytes:
    rows = ["1542057314.748456", end, "3586.7", "3586.9", "3586.6", close, "3586.68894", "0.03373000", 2]
    return text([42, rows, "ohlc-1", "XBT/USD"])


_TIME_V1 = "1534614248.765567"
_KRAKEN_V1_FRAMES = (
    ("Ignored", text({"connectionID": 8628615390848610000, "event": "systemStatus", "status": "online"})),
    (
        "Ignored",
        text(
            {
                "channelID": 42,
                "channelName": "ohlc-1",
                "event": "subscriptionStatus",
                "pair": "XBT/USD",
                "status": "subscribed",
                "subscription": {"interval": 1, "name": "ohlc"},
            }
        ),
    ),
    (
        "BookSnapshot",
        text(
            [
                0,
                {
                    "as": [["5541.30000", "2.50700000", "1534614248.123678"]],
                    "bs": [["5541.20000", "1.52900000", _TIME_V1]],
                },
                "book-1000",
                "XBT/USD",
            ]
        ),
    ),
    (
        "BookDelta",
        text([1234, {"a": [["5541.40000", "2.50700000", _TIME_V1, "r"]], "c": "974942666"}, "book-1000", "XBT/USD"]),
    ),
    (
        "BookDelta",
        text(
            [
                1234,
                {"a": [["5541.40000", "0.00000000", _TIME_V1]]},
                {"b": [["5541.10000", "0.00000000", _TIME_V1]], "c": "974942666"},
                "book-1000",
                "XBT/USD",
            ]
        ),
    ),
    ("Trades", text([0, [["5541.20000", "0.15850568", "1534614057.321597", "s", "l", ""]], "trade", "XBT/USD"])),
    ("Ignored", _bar_v1("1542057360.000000", "3586.6")),
    ("Candles", _bar_v1("1542057420.000000", "3586.8")),
    ("Ignored", text([0, {"a": ["5525.4", 1, "1.000"]}, "ticker", "XBT/USD"])),
    ("Ignored", text([0, ["5698.4", "5700.0", "1542057299.545897", "1.01", "0.98"], "spread", "XBT/USD"])),
    ("Ignored", text({"event": "heartbeat"})),
    ("Ignored", text({"event": "pong", "reqid": 42})),
    (
        "VenueError",
        text({"errorMessage": "Currency pair not supported", "event": "subscriptionStatus", "status": "error"}),
    ),
    ("VenueError", text({"connectionID": 1, "event": "systemStatus", "status": "maintenance", "version": "1.9.0"})),
    ("VenueError", text({"event": "error", "errorMessage": "Malformed request"})),
)

# ---- Bybit ----------------------------------------------------------------------------------------


def _bybit(venue: str, quote: str, spelling: str) -> Sample:
    instruments = tuple(spot(venue, base, quote, size_scale=3) for base in ("BTC", "ETH"))
    symbol, ms = instruments[0].symbol, 1672304486868

    def topic(name: str, data: Any, kind: str = "snapshot") -> bytes:
        return text({"topic": f"{name}.{symbol}", "type": kind, "ts": ms, "data": data})

    trade = {"T": ms, "s": symbol, "S": "Buy", "v": "0.001", "p": "16578.50", "L": "PlusTick", "BT": False}
    uuid = "20f43950-d8dd-5b31-9112-a178eb6023af"
    book = {"s": symbol, "b": [["16493.50", "0.006"]], "a": [["16611.00", "0.029"]], "seq": 7961638724}
    kline = {"start": 1672324800000, "interval": "1", "open": "16649.5", "close": "16677", "high": "16677"}
    rest = {"low": "16608", "volume": "2.081", "turnover": "34666.4005", "confirm": True}
    ticker = {"symbol": symbol, "markPrice": "17217.33", "openInterest": "68744.761", "fundingRate": "-0.000212"}
    closed = [{"T": ms, "s": symbol, "S": "Sell", "v": "0.2", "p": "17000.50"}]
    series = "Ignored" if venue == "BYBIT" else "Series"
    return Sample(
        instruments,
        tuple(instrument.symbol for instrument in instruments),
        (spelling, f"{spelling}.{venue}"),
        (
            ("Ignored", text({"success": True, "ret_msg": "", "conn_id": "x", "req_id": "1", "op": "subscribe"})),
            ("Ignored", text({"success": True, "ret_msg": "pong", "conn_id": "x", "req_id": "", "op": "ping"})),
            ("VenueError", text({"success": False, "ret_msg": "error:handler not found", "op": "subscribe"})),
            (
                "Trades",
                topic("publicTrade", [{**trade, "i": uuid}, {**trade, "i": "2290000000036455162", "S": "Sell"}]),
            ),
            ("BookSnapshot", topic("orderbook.1000", {**book, "u": 18521288})),
            ("BookDelta", topic("orderbook.1000", {**book, "b": [["16493.50", "0"]], "u": 18521289}, "delta")),
            ("Ignored", topic("orderbook.1", {**book, "u": 7}, "delta")),
            ("Candles", topic("kline.1", [{**kline, **rest}])),
            (series, topic("tickers", ticker)),
            (series, topic("allLiquidation", closed)),
        ),
    )


# ---- OKX ------------------------------------------------------------------------------------------

_OKX = (
    spot("OKX", "BTC", "USDT", price_scale=1),
    Instrument(
        id=2,
        symbol="BTCUSDTSWAP",
        venue="OKX",
        price_scale=1,
        size_scale=2,
        quote_scale=3,
        base="BTC",
        quote="USDT",
        market="swap",
    ),
)
_OKX_MS = "1630048897897"


def _okx(channel: str, *data: Any, of: str = "BTC-USDT", **more: Any) -> bytes:
    return text({"arg": {"channel": channel, "instId": of}, **more, "data": list(data)})


def _okx_swap(channel: str, **row: str) -> bytes:
    return _okx(channel, {"instId": "BTC-USDT-SWAP", "ts": _OKX_MS, **row}, of="BTC-USDT-SWAP")


_OKX_TRADE = {"instId": "BTC-USDT", "px": "42219.9", "sz": "0.12060306", "side": "buy", "ts": _OKX_MS}
_OKX_BOOK = {"asks": [["8477", "7", "0", "2"]], "bids": [["8476.9", "415", "0", "13"]], "ts": _OKX_MS, "checksum": 0}
_OKX_CANDLE = ["1597026360000", "8533", "8553.7", "8527.1", "8548.2", "45247", "529.58", "5529.58"]
_OKX_CLOSED = {"bkLoss": "0", "bkPx": "7831.5", "posSide": "short", "side": "buy", "sz": "13", "ts": _OKX_MS}
_OKX_FRAMES = (
    ("Ignored", text({"event": "subscribe", "arg": {"channel": "books", "instId": "BTC-USDT"}, "connId": "a4d3ae55"})),
    ("VenueError", text({"event": "error", "code": "60012", "msg": "Invalid request", "connId": "a4d3ae55"})),
    ("VenueClosing", text({"event": "notice", "code": "64008", "msg": "The connection will soon be closed"})),
    ("Trades", _okx("trades-all", {**_OKX_TRADE, "tradeId": "130639474"}, {**_OKX_TRADE, "tradeId": "130639475"})),
    ("BookSnapshot", _okx("books", {**_OKX_BOOK, "prevSeqId": -1, "seqId": 10}, action="snapshot")),
    ("BookDelta", _okx("books", {**_OKX_BOOK, "bids": [], "prevSeqId": 10, "seqId": 15}, action="update")),
    ("Candles", _okx("candle1m", [*_OKX_CANDLE, "1"])),
    ("Ignored", _okx("candle1m", [*_OKX_CANDLE, "0"])),
    ("Ignored", _okx("tickers", {"instId": "BTC-USDT", "last": "9999.99"})),
    ("Series", _okx_swap("funding-rate", fundingRate="0.0001515", fundingTime="1622822400000")),
    ("Series", _okx_swap("mark-price", markPx="42310.63")),
    ("Series", _okx_swap("open-interest", oi="2216113.01")),
    ("Series", _okx("liquidation-orders", {"details": [_OKX_CLOSED], "instId": "BTC-USDT-SWAP"}, of="")),
)

# ---- Bitstamp -------------------------------------------------------------------------------------


def _bitstamp(event: str, channel: str, data: Any) -> bytes:
    return text({"data": data, "channel": channel, "event": event})


_BITSTAMP_TRADE = {
    "id": 216000477,
    "timestamp": "1641343699",
    "amount": 0.0792,
    "amount_str": "0.07920000",
    "price": 3805.44,
    "price_str": "3805.44",
    "type": 0,
    "microtimestamp": "1641343699596000",
    "buy_order_id": 1443875737346049,
    "sell_order_id": 1443875731320832,
}
_BITSTAMP_BOOK = {"timestamp": "1641343691", "microtimestamp": "1641343691244908"}
_BITSTAMP_FRAMES = (
    ("Ignored", _bitstamp("bts:subscription_succeeded", "live_trades_btcusd", {})),
    ("Ignored", _bitstamp("bts:heartbeat", "", {"status": "success"})),
    ("VenueError", _bitstamp("bts:error", "", {"code": None, "message": "Bad subscription string."})),
    ("VenueClosing", _bitstamp("bts:request_reconnect", "", "")),
    ("Trades", _bitstamp("trade", "live_trades_btcusd", _BITSTAMP_TRADE)),
    (
        "BookDelta",
        _bitstamp(
            "data", "diff_order_book_btcusd", {**_BITSTAMP_BOOK, "bids": [["1.15", "2"]], "asks": [["1.2", "0"]]}
        ),
    ),
    (
        "BookSnapshot",
        _bitstamp("data", "order_book_etheur", {**_BITSTAMP_BOOK, "bids": [["1.15", "2"]], "asks": [["1.2", "1"]]}),
    ),
)

# ---- the table ------------------------------------------------------------------------------------

SAMPLES: dict[str, Sample] = {
    "BINANCE": _binance("BINANCE", ("BTC/USDT", "btc/usdt", "BTC/USDT.BINANCE"), "spot"),
    "BINANCE_FUTURES": _binance("BINANCE_FUTURES", ("BTC/USDT:USDT",), "linear"),
    "BINANCE_DELIVERY": _binance("BINANCE_DELIVERY", ("BTC/USD:BTC",), "inverse"),
    "COINBASE": Sample(_COINBASE, ("BTC-USD", "ETH-EUR"), _COINBASE_SPELLINGS, _COINBASE_FRAMES, candles=("1m", "5m")),
    "COINBASE at wss://ws-feed.exchange.coinbase.com": Sample(
        _COINBASE, ("BTC-USD", "ETH-EUR"), _COINBASE_SPELLINGS, _EXCHANGE_FRAMES
    ),
    "KRAKEN": Sample(_KRAKEN, ("BTC/USD", "ETH/CHF"), _KRAKEN_SPELLINGS, _KRAKEN_FRAMES),
    "KRAKEN at wss://ws.kraken.com": Sample(_KRAKEN, ("XBT/USD", "ETH/CHF"), _KRAKEN_SPELLINGS, _KRAKEN_V1_FRAMES),
    "BYBIT": _bybit("BYBIT", "USDT", "BTC/USDT"),
    "BYBIT_LINEAR": _bybit("BYBIT_LINEAR", "USDT", "BTC/USDT:USDT"),
    "BYBIT_INVERSE": _bybit("BYBIT_INVERSE", "USD", "BTC/USD:BTC"),
    "OKX": Sample(_OKX, ("BTC-USDT", "BTC-USDT-SWAP"), ("BTC/USDT", "BTC-USDT", "btc/usdt.OKX"), _OKX_FRAMES),
    "BITSTAMP": Sample(
        (spot("BITSTAMP", "BTC", "USD"), spot("BITSTAMP", "ETH", "EUR")),
        ("btcusd", "etheur"),
        ("BTC/USD", "BTC/USD.BITSTAMP", "btc/usd"),
        _BITSTAMP_FRAMES,
    ),
}
