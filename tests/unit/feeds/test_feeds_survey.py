"""What a recording tells of its instruments, and the answers with which an emulator tells it on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from marketd.daemon.feeds.adapter import BookSnapshot, Trades
from marketd.daemon.feeds.kraken_v1 import KrakenV1Adapter
from marketd.daemon.feeds.survey import survey
from marketd.daemon.feeds.venues import VENUES
from marketd.market.errors import ConfigError
from marketd.market.instruments import Instrument

NOW_NS = 1_618_678_132 * 10**9
KRAKEN = [
    "wss://ws.kraken.com <-> 1618678132.3",
    '1618678133.1: [337,[["60000.10000","0.50000000","1618678133.123456","b","l",""]],"trade","XBT/USD"]',
    '1618678134.1: {"event":"heartbeat"}',
]


def recording(tmp_path: Path, lines: list[str]) -> Path:
    path = tmp_path / "capture"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def frame(stream: str, data: dict[str, Any]) -> str:
    return json.dumps({"stream": stream, "data": data}, separators=(",", ":"))


def test_the_address_tells_which_protocol_was_spoken(tmp_path: Path) -> None:
    found = survey([recording(tmp_path, KRAKEN)], "KRAKEN")
    assert found.venue.adapter is KrakenV1Adapter
    (instrument,) = found.instruments
    assert (instrument.symbol, instrument.base, instrument.quote, instrument.market) == ("BTCUSD", "BTC", "USD", "spot")
    assert (instrument.price_scale, instrument.size_scale) == (1, 1)
    adapter = found.adapter()
    trades = [event for event in adapter.decode_many([KRAKEN[1].partition(": ")[2].encode()])]
    assert [event.symbol for event in trades if isinstance(event, Trades)] == ["BTCUSD"]


def test_a_snapshot_over_rest_may_have_finer_numbers_than_the_stream(tmp_path: Path) -> None:
    depth = {"e": "depthUpdate", "E": 5, "s": "ETHUSD_PERP", "U": 2, "u": 3, "pu": 1, "b": [["2680.9", "10"]], "a": []}
    snapshot = json.dumps({"lastUpdateId": 2, "bids": [["2680.97", "10"]], "asks": []})
    url = "https://dapi.binance.com/dapi/v1/depth?symbol=ETHUSD_PERP&limit=1000"
    lines = [
        "#marketd-capture 1 BINANCE_DELIVERY wss://dstream.binance.com",
        f"1723161258000000000 {frame('ethusd_perp@depth@100ms', depth)}",
        f"#rest 1723161258100000000 {url} {snapshot}",
    ]
    found = survey([recording(tmp_path, lines)], "BINANCE_DELIVERY")
    (instrument,) = found.instruments
    assert (instrument.price_scale, instrument.market, instrument.base) == (2, "swap", "ETH")
    (event,) = found.adapter(book=True).decode_rest(url, snapshot.encode())
    assert isinstance(event, BookSnapshot)


def test_a_snapshot_may_be_recorded_before_any_message_and_its_numbers_count(tmp_path: Path) -> None:
    """As it is where the answers are in a file of their own, which a recorder named before the messages'."""
    book = {"microtimestamp": "1618677696119119", "bids": [["1.37483", "1022.03259"]], "asks": []}
    change = {"microtimestamp": "1618677697119119", "bids": [["1.3", "7500"]], "asks": []}
    lines = [
        f"https://www.bitstamp.net/api/v2/order_book/gbpusd -> 1618677696.2: {json.dumps(book)}",
        "wss://ws.bitstamp.net <-> 1618677696.3",
        "1618677697.1: " + json.dumps({"event": "data", "channel": "diff_order_book_gbpusd", "data": change}),
    ]
    (instrument,) = survey([recording(tmp_path, lines)], "BITSTAMP").instruments
    assert (instrument.symbol, instrument.price_scale, instrument.size_scale) == ("GBPUSD", 5, 5)


OKX_ADDRESS = "wss://ws.okx.com:8443/ws/v5/public <-> 1652459224.5"


def okx(channel: str, inst_id: str, *data: Any) -> str:
    return "1652459236.1: " + json.dumps({"arg": {"channel": channel, "instId": inst_id}, "data": data})


def okx_trade(inst_id: str) -> str:
    row = {"instId": inst_id, "tradeId": "7", "px": "30.5", "sz": "3", "side": "buy", "ts": "1652459236119"}
    return okx("trades", inst_id, row)


@pytest.mark.parametrize(
    ("inst_id", "symbol", "base", "quote", "market"),
    [
        ("BTC-USDT", "BTCUSDT", "BTC", "USDT", "spot"),
        ("BTC-AED", "BTCAED", "BTC", "AED", "spot"),
        ("UNI-USD-SWAP", "UNIUSDSWAP", "UNI", "USD", "swap"),
        ("BTC-USD-220527", "BTCUSD220527", "BTC", "USD", "future"),
        ("BTC-USD-220527-40000-C", "BTCUSD22052740000C", "BTC", "USD", "option"),
    ],
)
def test_an_instrument_of_okx_is_known_by_its_recorded_name(
    tmp_path: Path, inst_id: str, symbol: str, base: str, quote: str, market: str
) -> None:
    """And the emulator tells it so that a feed finds it again."""
    (found,) = survey([recording(tmp_path, [OKX_ADDRESS, okx_trade(inst_id)])], "OKX").instruments
    assert (found.symbol, found.base, found.quote, found.market) == (symbol, base, quote, market)
    adapter = VENUES["OKX"].adapter()
    assert adapter.venue_symbol(inst_id) == symbol
    body = msgspec.json.encode(VENUES["OKX"].answers["/api/v5/public/instruments"]([found], NOW_NS))
    (again,) = adapter.decode_instruments(body, [symbol])
    assert (again.market, again.base, again.quote) == (market, base, quote)


@pytest.mark.parametrize(("pair", "names"), [("BTC/SGD", ("BTC", "SGD")), ("XBT/JPY", ("BTC", "JPY"))])
def test_a_pair_is_taken_apart_as_the_venue_writes_it(tmp_path: Path, pair: str, names: tuple[str, str]) -> None:
    lines = [KRAKEN[0], KRAKEN[1].replace("XBT/USD", pair)]
    (found,) = survey([recording(tmp_path, lines)], "KRAKEN").instruments
    assert (found.base, found.quote) == names
    match = '{"type":"match","trade_id":1,"side":"sell","size":"1","price":"2","product_id":"BTC-INR","time":""}'
    lines = ["wss://ws-feed.exchange.coinbase.com <-> 1618678132.3", f"1618678133.1: {match}"]
    (found,) = survey([recording(tmp_path, lines)], "COINBASE").instruments
    assert (found.symbol, found.base, found.quote) == ("BTCINR", "BTC", "INR")


def test_bars_alone_tell_their_instrument(tmp_path: Path) -> None:
    bar = ["1652459220000", "30.1", "30.25", "30", "30.2", "7.125", "214.6", "214.6", "1"]
    (found,) = survey([recording(tmp_path, [OKX_ADDRESS, okx("candle1m", "ETH-USDT", bar)])], "OKX").instruments
    assert (found.symbol, found.price_scale, found.size_scale) == ("ETHUSDT", 2, 3)
    kline = {"start": 1, "interval": "1", "open": "1.5", "high": "2", "low": "1", "close": "1.25", "volume": "0.125"}
    message = {"topic": "kline.1.ETHUSDT", "data": [{**kline, "turnover": "9", "confirm": True}], "ts": 2}
    lines = ["wss://stream.bybit.com/v5/public/spot <-> 1652459224.5", f"1652459236.1: {json.dumps(message)}"]
    (found,) = survey([recording(tmp_path, lines)], "BYBIT").instruments
    assert (found.symbol, found.price_scale, found.size_scale) == ("ETHUSDT", 2, 3)


def test_open_interest_and_liquidations_may_be_finer_than_trades(tmp_path: Path) -> None:
    ticker = {"topic": "tickers.ETHUSDT", "type": "delta", "data": {"symbol": "ETHUSDT", "openInterest": "9.125"}}
    row = {"T": 5, "s": "ETHUSDT", "S": "Buy", "v": "0.5", "p": "1920.25"}
    message = {"topic": "allLiquidation.ETHUSDT", "type": "snapshot", "ts": 5, "data": [row]}
    address = "wss://stream.bybit.com/v5/public/linear <-> 1652459224.5"
    lines = [address, *(f"1652459236.1: {json.dumps(each)}" for each in ({**ticker, "ts": 5}, message))]
    (found,) = survey([recording(tmp_path, lines)], "BYBIT_LINEAR").instruments
    assert (found.price_scale, found.size_scale) == (2, 3)
    interest = {"instId": "ETH-USDT-SWAP", "oi": "9.25", "ts": "1652459236119"}
    lines = [OKX_ADDRESS, okx_trade("ETH-USDT-SWAP"), okx("open-interest", "ETH-USDT-SWAP", interest)]
    (found,) = survey([recording(tmp_path, lines)], "OKX").instruments
    assert (found.price_scale, found.size_scale) == (1, 2)


def test_only_the_venues_own_lines_of_a_file_count(tmp_path: Path) -> None:
    def trade(price: str, number: str) -> str:
        row = {"T": 5, "s": "BTCUSDT", "S": "Buy", "v": "1", "p": price, "i": number}
        return "1652459236.1: " + json.dumps({"topic": "publicTrade.BTCUSDT", "ts": 5, "data": [row]})

    addresses = [f"wss://stream.bybit.com/v5/public/{kind} <-> 1652459224.5" for kind in ("spot", "linear")]
    path = recording(tmp_path, [addresses[0], trade("1.25", "1"), addresses[1], trade("1.125", "a-b")])
    scales = {venue: survey([path], venue).instruments[0].price_scale for venue in ("BYBIT", "BYBIT_LINEAR")}
    assert scales == {"BYBIT": 2, "BYBIT_LINEAR": 3}


def test_only_aggregates_and_recorded_intervals_are_asked_for(tmp_path: Path) -> None:
    trade = {"e": "aggTrade", "E": 5, "s": "BTCUSDT", "a": 7, "p": "61837.60", "q": "0.02", "T": 5, "m": True}
    bar = {"t": 0, "T": 59999, "s": "BTCUSDT", "i": "5m", "o": "1", "c": "1", "h": "1", "l": "1", "v": "1", "n": 1}
    kline = {"e": "kline", "E": 5, "s": "BTCUSDT", "k": {**bar, "x": False, "q": "1", "V": "1"}}
    lines = [
        f"1723161258000000000 {frame('btcusdt@aggTrade', trade)}",
        f"1723161258000000001 {frame('btcusdt@kline_5m', kline)}",
    ]
    found = survey([recording(tmp_path, lines)])
    assert (found.trades, found.candles, found.first_ns) == ("aggTrade", ("5m",), 1723161258000000000)


def test_a_venue_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="NOWHERE"):
        survey([recording(tmp_path, KRAKEN)], "NOWHERE")


@pytest.mark.parametrize("name", ["COINBASE", "KRAKEN", "BYBIT", "BYBIT_LINEAR", "BITSTAMP", "OKX"])
def test_an_adapter_understands_the_answers_of_its_emulated_venue(name: str) -> None:
    adapter = VENUES[name].adapter()
    symbol = adapter.venue_symbol("BTC/USDT:USDT" if name == "BYBIT_LINEAR" else "BTC/USD")
    told = Instrument(
        id=0,
        symbol=symbol,
        venue=name,
        price_scale=2,
        size_scale=5,
        quote_scale=7,
        base="BTC",
        quote=symbol.removeprefix("BTC"),
        market=VENUES[name].market_of(symbol),
    )
    answers = VENUES[name].answers
    body = msgspec.json.encode(
        answers[urlsplit(adapter.instruments_request([symbol]).target).path.rstrip("/")]([told], NOW_NS)
    )
    (found,) = adapter.decode_instruments(body, [symbol])
    names = ("symbol", "price_scale", "size_scale", "base", "quote", "market")
    assert [getattr(found, name) for name in names] == [getattr(told, name) for name in names]
    clock = adapter.time_request()
    if clock is not None:
        body = msgspec.json.encode(answers[urlsplit(clock.target).path]([told], NOW_NS))
        assert adapter.decode_time(body) == NOW_NS


@pytest.mark.parametrize(
    ("symbol", "wire", "market"), [("BTCUSD", "BTCUSD", "swap"), ("BTCUSDU26", "BTCUSDU26", "future")]
)
def test_an_emulated_bybit_has_inverse_contracts(symbol: str, wire: str, market: str) -> None:
    adapter = VENUES["BYBIT_INVERSE"].adapter()
    told = Instrument(
        id=0, symbol=symbol, venue="BYBIT_INVERSE", price_scale=1, size_scale=0, quote_scale=1, base="BTC", quote="USD",
        market=market,
    )  # fmt: skip
    body = msgspec.json.encode(VENUES["BYBIT_INVERSE"].answers["/v5/market/instruments-info"]([told], NOW_NS))
    [row] = json.loads(body)["result"]["list"]
    assert (row["symbol"], row["contractType"]) == (symbol, f"Inverse{'Perpetual' if market == 'swap' else 'Futures'}")
    assert adapter.decode_instruments(body, [symbol])[0].market == market
