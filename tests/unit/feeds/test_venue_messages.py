"""What venues may send beside what marketd subscribes: each message has its use or its name, and none is refused."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from marketd.daemon.feeds.adapter import Event, Ignored, Rejected, VenueAdapter, VenueTime
from marketd.daemon.feeds.venues import VENUES, venue_of
from marketd.market.instruments import Instrument

OLDER = {
    "COINBASE_EXCHANGE": ("COINBASE", "wss://ws-feed.exchange.coinbase.com"),
    "KRAKEN_V1": ("KRAKEN", "wss://ws.kraken.com"),
}


class Row(NamedTuple):
    """A message, and the name by which it is ignored; or the kind of event that it gives."""

    venue: str
    said: str
    frame: str


def _instrument(venue: str, symbol: str, base: str, quote: str, market: str = "spot") -> Instrument:
    return Instrument(
        id=1,
        symbol=symbol,
        venue=venue,
        price_scale=8,
        size_scale=8,
        quote_scale=8,
        base=base,
        quote=quote,
        market=market,
    )


INSTRUMENTS = {
    "BINANCE": (_instrument("BINANCE", "BTCUSDT", "BTC", "USDT"),),
    "BINANCE_FUTURES": (_instrument("BINANCE_FUTURES", "BTCUSDT", "BTC", "USDT", "swap"),),
    "BINANCE_DELIVERY": (
        _instrument("BINANCE_DELIVERY", "BTCUSD_PERP", "BTC", "USD", "swap"),
        _instrument("BINANCE_DELIVERY", "BTCUSD_240927", "BTC", "USD", "future"),
    ),
    "COINBASE": (_instrument("COINBASE", "BTCUSD", "BTC", "USD"),),
    "KRAKEN": (_instrument("KRAKEN", "BTCUSD", "BTC", "USD"),),
    "BYBIT": (_instrument("BYBIT", "BTCUSDT", "BTC", "USDT"),),
    "BYBIT_LINEAR": (_instrument("BYBIT_LINEAR", "BTCUSDT", "BTC", "USDT", "swap"),),
    "BYBIT_INVERSE": (_instrument("BYBIT_INVERSE", "BTCUSD", "BTC", "USD", "swap"),),
    "OKX": (
        _instrument("OKX", "BTCUSDT", "BTC", "USDT"),
        _instrument("OKX", "BTCUSDTSWAP", "BTC", "USDT", "swap"),
    ),
    "BITSTAMP": (_instrument("BITSTAMP", "BTCUSD", "BTC", "USD"),),
}

_DEPTH = '"e":"depthUpdate","E":1723161255343,"s":"BTCUSDT","U":5,"u":7,'
_FUTURES_DEPTH = '"e":"depthUpdate","E":1723161255343,"T":1723161255342,"s":"BTCUSDT","U":5,"u":7,"pu":4,'
_BEST = ",".join(f'["{price}","1"]' for price in range(100, 95, -1))
_TICKER = '{"e":"24hrMiniTicker","E":1723161255343,"s":"BTCUSDT","c":"1","o":"1","h":"1","l":"1","v":"1","q":"1"}'
_MARK = (
    '{"e":"markPriceUpdate","E":1562305380000,"s":"BTCUSDT","p":"11794.15","i":"11784.62","P":"11784.25",'
    '"r":"0.00038167","T":1562306400000}'
)
_FORCED = (
    '{"e":"forceOrder","E":1568014460893,"o":{"s":"BTCUSDT","S":"SELL","o":"LIMIT","f":"IOC","q":"0.014",'
    '"p":"9910","ap":"9910","X":"FILLED","l":"0.014","z":"0.014","T":1568014460893}}'
)
_TRADE = '"e":"trade","E":1723161255343,"T":1723161255342,"s":"BTCUSDT","t":7,'
_KLINE = '"i":"1d","f":1,"L":2,"o":"1","c":"1","h":"1","l":"1","v":"1","n":1,"x":true,"q":"1","V":"1","Q":"1","B":"0"}}'

_BINANCE = (
    Row("BINANCE", "depth20@100ms", '{"stream":"btcusdt@depth20@100ms","data":{"lastUpdateId":1,"bids":[],"asks":[]}}'),
    Row("BINANCE", "depth snapshot", '{"lastUpdateId":160,"bids":[["0.0024","10"]],"asks":[["0.0026","100"]]}'),
    Row("BINANCE", "24hrMiniTicker", '{"stream":"!miniTicker@arr","data":[' + _TICKER + "]}"),
    Row("BINANCE", "24hrMiniTicker", "[" + _TICKER + "]"),
    Row("BINANCE", "empty array", "[]"),
    Row(
        "BINANCE", "24hrTicker", '{"stream":"btcusdt@ticker","data":{"e":"24hrTicker","E":1672515782136,"s":"BTCUSDT"}}'
    ),
    Row("BINANCE", "1hTicker", '{"stream":"btcusdt@ticker_1h","data":{"e":"1hTicker","E":1,"s":"BTCUSDT"}}'),
    Row("BINANCE", "avgPrice", '{"e":"avgPrice","E":1693907033000,"s":"BTCUSDT","i":"5m","w":"25776.86","T":1}'),
    Row("BINANCE", "bookTicker", '{"u":400900217,"s":"BTCUSDT","b":"25.3","B":"31.2","a":"25.4","A":"40.7"}'),
    Row("BINANCE", "BookDelta", '{"stream":"btcusdt@depth@1000ms","data":{' + _DEPTH + '"b":[["1","1"]],"a":[]}}'),
    Row("BINANCE", "BookDelta", "{" + _DEPTH + '"b":[["1","1"]],"a":[]}'),
    Row("BINANCE", "Trades", "{" + _TRADE + '"p":"0.001","q":"100","m":true,"M":true}'),
    Row("BINANCE", "reply", '{"result":["btcusdt@aggTrade"],"id":3}'),
    Row("BINANCE", "VenueError", '{"code":1,"msg":"Invalid value type: expected Boolean"}'),
    Row("BINANCE", "VenueError", '{"id":"1","status":400,"error":{"code":-1100,"msg":"Illegal characters"}}'),
    Row("BINANCE", "VenueClosing", '{"event":{"e":"x"},"e":"serverShutdown","E":1770123456789}'),
    Row(
        "BINANCE", "kline_1d of another time zone", '{"e":"kline","E":1,"s":"BTCUSDT","k":{"t":57600000,"T":2,' + _KLINE
    ),
    Row(
        "BINANCE_FUTURES",
        "depth5@100ms",
        '{"stream":"btcusdt@depth5@100ms","data":{' + _FUTURES_DEPTH + '"b":[],"a":[]}}',
    ),
    Row("BINANCE_FUTURES", "partial depth", "{" + _FUTURES_DEPTH + f'"b":[{_BEST}],"a":[{_BEST}]}}'),
    Row("BINANCE_FUTURES", "BookDelta", "{" + _FUTURES_DEPTH + '"b":[["1","0"]],"a":[["2","1"]]}'),
    Row("BINANCE_FUTURES", "Series", '{"stream":"!markPrice@arr@1s","data":[' + _MARK + "]}"),
    Row("BINANCE_FUTURES", "Series", "[" + _MARK + "]"),
    Row("BINANCE_FUTURES", "Series", '{"stream":"!forceOrder@arr","data":' + _FORCED + "}"),
    Row("BINANCE_FUTURES", "Trades", "{" + _TRADE + '"p":"0","q":"0","X":"NA","m":true}'),
    Row("BINANCE_FUTURES", "continuous_kline", '{"e":"continuous_kline","E":1,"ps":"BTCUSDT","ct":"PERPETUAL","k":{}}'),
    Row(
        "BINANCE_FUTURES", "contractInfo", '{"stream":"!contractInfo","data":{"e":"contractInfo","E":1,"s":"IOTAUSDT"}}'
    ),
    Row(
        "BINANCE_FUTURES", "bookTicker", '{"stream":"!bookTicker","data":{"e":"bookTicker","u":1,"s":"BTCUSDT","E":1}}'
    ),
    Row("BINANCE_FUTURES", "assetIndexUpdate", '[{"e":"assetIndexUpdate","E":1686749230000,"s":"ADAUSD","i":"0.27"}]'),
    Row(
        "BINANCE_DELIVERY",
        "indexPriceUpdate",
        '{"stream":"btcusd@indexPrice","data":{"e":"indexPriceUpdate","E":1591261236000,"i":"BTCUSD","p":"9636.57"}}',
    ),
    Row(
        "BINANCE_DELIVERY",
        "Trades",
        '{"stream":"btcusd_240927@trade","data":{"e":"trade","E":1591261134288,"T":1591261134199,"s":"BTCUSD_240927",'
        '"t":424951,"p":"9643.5","q":"2","X":"MARKET","m":false}}',
    ),
    Row(
        "BINANCE_DELIVERY",
        "BookDelta",
        '{"stream":"btcusd_perp@depth@500ms","data":{"e":"depthUpdate","E":1591270260907,"T":1591270260891,'
        '"s":"BTCUSD_PERP","ps":"BTCUSD","U":17285681,"u":17285702,"pu":17285675,"b":[["9517.6","10"]],"a":[]}}',
    ),
)

_HEAD = '"client_id":"","timestamp":"2023-02-09T20:32:50.714964855Z","sequence_num":0,'
_L3 = '"BTC-USD","150","2022-09-15T00:00:00.000000Z"'
_COINBASE = (
    Row("COINBASE", "heartbeats", '{"channel":"heartbeats",' + _HEAD + '"events":[{"heartbeat_counter":"3049"}]}'),
    Row("COINBASE", "status", '{"channel":"status",' + _HEAD + '"events":[{"type":"snapshot","products":[]}]}'),
    Row("COINBASE", "ticker_batch", '{"channel":"ticker_batch",' + _HEAD + '"events":[{"type":"snapshot"}]}'),
    Row("COINBASE", "market_trades without trades", '{"channel":"market_trades",' + _HEAD + '"events":[]}'),
    Row("COINBASE", "user", '{"channel":"user",' + _HEAD + '"events":[{"type":"snapshot","orders":[]}]}'),
    Row("COINBASE", "VenueError", '{"type":"error","message":"authentication failure"}'),
    Row(
        "COINBASE_EXCHANGE", "heartbeat", '{"type":"heartbeat","sequence":90,"last_trade_id":20,"product_id":"BTC-USD"}'
    ),
    Row("COINBASE_EXCHANGE", "status", '{"type":"status","products":[],"currencies":[]}'),
    Row(
        "COINBASE_EXCHANGE", "received", '{"type":"received","product_id":"BTC-USD","sequence":10,"order_type":"limit"}'
    ),
    Row("COINBASE_EXCHANGE", "change", '{"type":"change","reason":"STP","product_id":"BTC-USD","sequence":80}'),
    Row(
        "COINBASE_EXCHANGE", "activate", '{"type":"activate","product_id":"test-product","timestamp":"1483736448.299"}'
    ),
    Row("COINBASE_EXCHANGE", "level3", '{"type":"level3","schema":{"change":["type","product_id"]}}'),
    Row("COINBASE_EXCHANGE", "level3 noop", f'["noop",{_L3}]'),
    Row("COINBASE_EXCHANGE", "level3 match", f'["match",{_L3},"1","ac9","132","1","2"]'),
    Row(
        "COINBASE_EXCHANGE", "VenueError", '{"type":"error","message":"Failed to subscribe","reason":"x is not valid"}'
    ),
)

_KRAKEN = (
    Row("KRAKEN_V1", "spread", '[0,["5698.4","5700.0","1542057299.5","1.01","0.98"],"spread","XBT/USD"]'),
    Row("KRAKEN_V1", "ticker", '[340,{"a":["5525.4",1,"1.0"],"b":["5525.1",1,"1.0"]},"ticker","XBT/USD"]'),
    Row("KRAKEN_V1", "BookSnapshot", '[0,{"as":[["5541.3","2.507","1534614248.123678"]],"bs":[]},"book-10","XBT/USD"]'),
    Row(
        "KRAKEN_V1",
        "BookDelta",
        '[1234,{"a":[["5541.3","2.507","1534614248.456738"]]},{"b":[["5541.2","1.5","1534614248.456738","r"]],'
        '"c":"974942666"},"book-10","XBT/USD"]',
    ),
    Row("KRAKEN_V1", "pong", '{"event":"pong","reqid":42}'),
    Row("KRAKEN_V1", "VenueError", '{"event":"systemStatus","status":"maintenance","version":"1.0.0"}'),
    Row("KRAKEN_V1", "VenueError", '{"errorMessage":"Malformed request","event":"error"}'),
    Row(
        "KRAKEN_V1",
        "VenueError",
        '{"errorMessage":"Subscription depth not supported","event":"subscriptionStatus","pair":"XBT/USD",'
        '"status":"error","subscription":{"depth":42,"name":"book"}}',
    ),
    Row("KRAKEN", "instrument", '{"channel":"instrument","type":"snapshot","data":{"assets":[],"pairs":[]}}'),
    Row("KRAKEN", "ticker", '{"channel":"ticker","type":"update","data":[{"symbol":"BTC/USD","bid":0.1}]}'),
    Row("KRAKEN", "level3", '{"channel":"level3","type":"update","data":[{"symbol":"BTC/USD","checksum":1}]}'),
    Row("KRAKEN", "heartbeat", '{"channel":"heartbeat"}'),
    Row("KRAKEN", "pong", '{"method":"pong","req_id":101,"time_in":"2023-09-24T14:10:23.799685Z"}'),
    Row("KRAKEN", "status", '{"channel":"status","type":"update","data":[{"system":"online","api_version":"v2"}]}'),
    Row("KRAKEN", "VenueError", '{"channel":"status","type":"update","data":[{"system":"maintenance"}]}'),
    Row("KRAKEN", "VenueError", '{"error":"Currency pair not supported X/Y","method":"subscribe","success":false}'),
    Row(
        "KRAKEN",
        "Trades",
        '{"channel":"trade","type":"snapshot","data":[{"symbol":"BTC/USD","side":"sell","price":5.117E-1,"qty":1e-05,'
        '"ord_type":"market","trade_id":4665906,"timestamp":"2023-09-25T07:49:37.708706Z"}]}',
    ),
)

_BYBIT_BOOK = '"type":"snapshot","ts":1672304484978,"data":{"s":"BTCUSDT","b":[["1","1"]],"a":[],"u":18,"seq":7}}'
_BYBIT = (
    Row("BYBIT", "pong", '{"success":true,"ret_msg":"pong","conn_id":"0970e817","req_id":"","op":"ping"}'),
    Row("BYBIT_LINEAR", "pong", '{"req_id":"test","op":"pong","args":["1675418560633"],"conn_id":"cfcb4ocsvfriu23r"}'),
    Row("BYBIT_LINEAR", "VenueError", '{"success":false,"ret_msg":"error:handler not found","op":"subscribe"}'),
    Row("BYBIT_LINEAR", "orderbook.1", '{"topic":"orderbook.1.BTCUSDT",' + _BYBIT_BOOK),
    Row("BYBIT_LINEAR", "orderbook.rpi", '{"topic":"orderbook.rpi.BTCUSDT",' + _BYBIT_BOOK),
    Row("BYBIT_LINEAR", "orderbook.full", '{"topic":"orderbook.full.BTCUSDT",' + _BYBIT_BOOK),
    Row("BYBIT_LINEAR", "BookSnapshot", '{"topic":"orderbook.500.BTCUSDT",' + _BYBIT_BOOK),
    Row("BYBIT_LINEAR", "insurance", '{"topic":"insurance.USDT","type":"delta","ts":1747722930000,"data":[]}'),
    Row("BYBIT_LINEAR", "adlAlert", '{"topic":"adlAlert.USDT","type":"snapshot","ts":1757736794000,"data":[]}'),
    Row("BYBIT_LINEAR", "priceLimit", '{"topic":"priceLimit.BTCUSDT","ts":1750059683782,"data":{"symbol":"BTCUSDT"}}'),
    Row(
        "BYBIT_LINEAR",
        "Series",
        '{"topic":"tickers.BTCUSDT","type":"delta","ts":1,"data":{"symbol":"BTCUSDT","markPrice":"1"}}',
    ),
    Row(
        "BYBIT",
        "tickers",
        '{"topic":"tickers.BTCUSDT","ts":1,"type":"snapshot","data":{"symbol":"BTCUSDT","lastPrice":"2"}}',
    ),
    Row("BYBIT_INVERSE", "instrument_info", '{"topic":"instrument_info.100ms.BTCUSD","type":"snapshot","data":{}}'),
    Row("BYBIT_INVERSE", "klineV2", '{"topic":"klineV2.1.BTCUSD","data":[{"start":1572425640}],"timestamp_e6":1}'),
)

_ARG = '{"arg":{"channel":"%s","instId":"BTC-USDT"},"data":[%s]}'
_OKX_BOOK = (
    '"data":[{"asks":[["2","1","0","1"]],"bids":[],"ts":"1597026383085","checksum":0,"seqId":7,"prevSeqId":-1}]}'
)
_OKX = (
    Row("OKX", "pong", "pong"),
    Row("OKX", "books5", _ARG % ("books5", '{"asks":[],"bids":[],"ts":"1","seqId":1}')),
    Row("OKX", "bbo-tbt", _ARG % ("bbo-tbt", '{"asks":[],"bids":[],"ts":"1","seqId":1}')),
    Row(
        "OKX", "BookSnapshot", '{"arg":{"channel":"books-l2-tbt","instId":"BTC-USDT"},"action":"snapshot",' + _OKX_BOOK
    ),
    Row("OKX", "index-tickers", _ARG % ("index-tickers", '{"idxPx":"1"}')),
    Row("OKX", "mark-price-candle1m", _ARG % ("mark-price-candle1m", '["1","1","1","1","1","1"]')),
    Row("OKX", "candle that does not tell its end", _ARG % ("candle1m", '["1","1","1","1","1","1","1"]')),
    Row("OKX", "open candle", _ARG % ("candle1m", '["1597026360000","1","1","1","1","1","1","1","0"]')),
    Row("OKX", "instruments", '{"arg":{"channel":"instruments","instType":"SPOT"},"data":[{"instId":"BTC-USDT"}]}'),
    Row("OKX", "status", '{"arg":{"channel":"status"},"data":[{"title":"upgrade","state":"scheduled"}]}'),
    Row("OKX", "login", '{"event":"login","code":"0","msg":"","connId":"a4d3ae55"}'),
    Row("OKX", "VenueError", '{"event":"error","code":"60012","msg":"Invalid request","connId":"a4d3ae55"}'),
    Row("OKX", "VenueClosing", '{"event":"notice","code":"64008","msg":"The connection will soon be closed"}'),
    Row("OKX", "channel-conn-count", '{"event":"channel-conn-count","channel":"orders","connCount":"2"}'),
)

_BITSTAMP = (
    Row("BITSTAMP", "heartbeat", '{"event":"bts:heartbeat","channel":"","data":{"status":"success"}}'),
    Row("BITSTAMP", "VenueClosing", '{"event":"bts:request_reconnect","channel":null,"data":""}'),
    Row("BITSTAMP", "VenueError", '{"event":"bts:error","channel":"","data":{"code":null,"message":"Bad channel"}}'),
    Row("BITSTAMP", "unsubscription_succeeded", '{"event":"bts:unsubscription_succeeded","channel":"x","data":{}}'),
    Row("BITSTAMP", "detail_order_book", '{"event":"data","channel":"detail_order_book_btcusd","data":{"bids":[]}}'),
    Row("BITSTAMP", "order_created", '{"event":"order_created","channel":"live_orders_btcusd","data":{"id":1}}'),
    Row(
        "BITSTAMP",
        "BookSnapshot",
        '{"event":"data","channel":"order_book_btcusd","data":{"timestamp":"1","microtimestamp":"1641343695572693",'
        '"bids":[["1","1"]],"asks":[["2","1"]]}}',
    ),
)

ROWS = (*_BINANCE, *_COINBASE, *_KRAKEN, *_BYBIT, *_OKX, *_BITSTAMP)


def adapter(name: str) -> VenueAdapter:
    venue = venue_of(*OLDER[name]) if name in OLDER else VENUES[name]
    made: VenueAdapter = venue.adapter(candles=("1m",), book=True, series=venue.series)
    if name == "BINANCE":
        made = venue.adapter(candles=("1m", "1d"), book=True, series=())
    for instrument in INSTRUMENTS[venue.name]:
        made.adopt(instrument)
    return made


def names_of(events: list[Event]) -> list[str]:
    """What the events say, apart from times."""
    told: list[Any] = [event for event in events if not isinstance(event, VenueTime)]
    return [event.name if isinstance(event, Ignored) else type(event).__name__ for event in told]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.venue}: {row.said}")
def test_a_legal_message_has_its_use_or_its_name(row: Row) -> None:
    events = adapter(row.venue).decode_many([row.frame.encode()])
    assert not [event for event in events if isinstance(event, Rejected)]
    assert row.said in names_of(events)


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.frame[:1] == "{"], ids=lambda row: f"{row.venue}: {row.said}"
)
def test_a_venue_that_adds_fields_is_read_all_the_same(row: Row) -> None:
    frame = row.frame.replace("{", '{"added":{"by":["the",1.5e3,null]},', 1)
    assert row.said in names_of(adapter(row.venue).decode_many([frame.encode()]))
