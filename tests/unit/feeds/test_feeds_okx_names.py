"""OKX's names, addresses, commands and REST answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from okx_words import ALL_SERIES, MS, adapter, book, channel, encode, level, only, trade_row

from marketd.daemon.feeds.adapter import (
    Candles,
    Ignored,
    Rejected,
    Trades,
    UnknownSymbol,
    VenueRefused,
)
from marketd.daemon.feeds.okx import OkxAdapter, endpoint_of
from marketd.daemon.feeds.okx_names import inst_id_of, inst_id_of_instrument, kind_of, symbol_of
from marketd.market.errors import ConfigError, InvalidArgument
from marketd.market.instruments import Instrument
from marketd.market.times import NS_PER_MS, NS_PER_SECOND

# ---- names, streams -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "inst_id", "kind"),
    [
        ("BTC/USDT", "BTC-USDT", "SPOT"),
        ("BTC-USDT", "BTC-USDT", "SPOT"),
        ("btcusdt", "BTC-USDT", "SPOT"),
        ("BTCUSDT.OKX", "BTC-USDT", "SPOT"),
        ("BTC/USDT:USDT", "BTC-USDT-SWAP", "SWAP"),
        ("BTC/USD:BTC", "BTC-USD-SWAP", "SWAP"),
        ("BTCUSDTSWAP", "BTC-USDT-SWAP", "SWAP"),
        ("BTC/USD:BTC-250328", "BTC-USD-250328", "FUTURES"),
        ("BTCUSD250328", "BTC-USD-250328", "FUTURES"),
        ("BTC/USD:BTC-250328-60000-C", "BTC-USD-250328-60000-C", "OPTION"),
        ("XRP-USD-250328-0.5-P", "XRP-USD-250328-0.5-P", "OPTION"),
        ("ETHUSD2503283000C", "ETH-USD-250328-3000-C", "OPTION"),
    ],
)
def test_names_go_both_ways(written: str, inst_id: str, kind: str) -> None:
    assert (inst_id_of(written), kind_of(inst_id)) == (inst_id, kind)
    symbol = OkxAdapter().venue_symbol(written)
    assert symbol == symbol_of(inst_id)
    base, quote = inst_id.split("-")[:2]
    known = Instrument(id=1, symbol=symbol, venue="OKX", price_scale=1, size_scale=1, quote_scale=1)
    assert inst_id_of_instrument(known) == inst_id
    rare = Instrument(
        id=1, symbol=symbol, venue="OKX", price_scale=1, size_scale=1, quote_scale=1, base=base, quote=quote
    )
    assert inst_id_of_instrument(rare) == inst_id


@pytest.mark.parametrize("wrong", ["", "BTC", "BTC/", "BTC/USDT:ETH", "BTC/USDT:USDT-soon", "A-B-C-D", "BTC USDT"])
def test_what_names_nothing_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidArgument):
        OkxAdapter().venue_symbol(wrong)


def test_options_are_asked_for_by_their_pair() -> None:
    decoder = OkxAdapter()
    symbols = [decoder.venue_symbol(name) for name in ("BTC-USD-250328-60000-C", "BTC-USD-250328-60000-P")]
    assert decoder.instruments_request(symbols).target.endswith("instType=OPTION&instFamily=BTC-USD")
    row = {"instId": "BTC-USD-250328-60000-C", "instType": "OPTION", "uly": "BTC-USD", "tickSz": "0.0005", "lotSz": "1"}
    (found,) = decoder.decode_instruments(answer([row]), symbols[:1])
    assert (found.symbol, found.market, found.base, found.quote) == ("BTCUSD25032860000C", "option", "BTC", "USD")
    assert (found.price_scale, found.size_scale) == (4, 0)


def test_a_pair_of_rare_currencies_is_remembered_as_it_was_written() -> None:
    decoder = OkxAdapter()
    assert decoder.venue_symbol("BTC/AED") == "BTCAED"
    assert decoder.venue_symbol("BTCAED") == "BTCAED"
    assert decoder.instruments_request(["BTCAED"]).target.endswith("instType=SPOT&instId=BTC-AED")
    strange = Instrument(id=9, symbol="???", venue="OKX", price_scale=1, size_scale=1, quote_scale=1)
    decoder.adopt(strange)
    assert decoder.streams("???")


def test_streams_have_two_addresses() -> None:
    decoder = adapter(book=True, series=ALL_SERIES)
    assert decoder.streams("BTCUSDT") == ["trades-all:BTC-USDT", "candle1m:BTC-USDT", "books:BTC-USDT"]
    assert decoder.streams("BTCUSDTSWAP") == [
        "trades-all:BTC-USDT-SWAP",
        "candle1m:BTC-USDT-SWAP",
        "funding-rate:BTC-USDT-SWAP",
        "mark-price:BTC-USDT-SWAP",
        "open-interest:BTC-USDT-SWAP",
        "liquidation-orders:BTC-USDT-SWAP",
        "books:BTC-USDT-SWAP",
    ]
    assert "funding-rate" not in " ".join(decoder.streams("BTCUSD250328"))
    assert decoder.book_streams("BTCUSDT") == ["books:BTC-USDT"]
    ways = {endpoint_of(stream).rpartition("/")[2] for stream in decoder.streams("BTCUSDT")[:2]}
    assert ways == {"business"}
    assert endpoint_of("books:BTC-USDT") == "/ws/v5/public"
    base = "wss://ws.okx.com:8443"
    assert decoder.connect_url(base, ["books:X"]) == (f"{base}/ws/v5/public", ["books:X"])
    assert decoder.connect_url(base, ["candle1m:X"]) == (f"{base}/ws/v5/business", ["candle1m:X"])


def test_commands_name_channel_and_instrument_and_liquidations_their_type() -> None:
    decoder = adapter()
    streams = ["books:BTC-USDT", "liquidation-orders:BTC-USDT-SWAP", "liquidation-orders:ETH-USDT-SWAP"]
    [command] = decoder.commands("SUBSCRIBE", streams, 7)
    assert json.loads(command) == {
        "id": "7",
        "op": "subscribe",
        "args": [
            {"channel": "books", "instId": "BTC-USDT"},
            {"channel": "liquidation-orders", "instType": "SWAP"},
        ],
    }
    assert len(decoder.commands("SUBSCRIBE", [f"books:A{n}-USDT" for n in range(250)], 7)) == 3


def test_a_shared_channel_is_left_only_by_the_last_who_needs_it() -> None:
    decoder = adapter()
    assert decoder.commands("UNSUBSCRIBE", ["liquidation-orders:ETH-USDT-SWAP"], 7) == []
    assert len(decoder.commands("UNSUBSCRIBE", ["liquidation-orders:BTC-USDT-SWAP"], 7)) == 1


# ---- REST -----------------------------------------------------------------------------------------


def answer(rows: Any, code: str = "0", text: str = "") -> bytes:
    return encode({"code": code, "msg": text, "data": rows})


def test_instruments_bear_the_venues_grids() -> None:
    rows = [
        {
            "instId": "ETH-USDT",
            "instType": "SPOT",
            "baseCcy": "ETH",
            "quoteCcy": "USDT",
            "tickSz": "0.01",
            "lotSz": "0.001",
        },
        {"instId": "BTC-USDT", "instType": "SPOT", "baseCcy": "BTC", "quoteCcy": "USDT", "tickSz": "0.1", "lotSz": "1"},
    ]
    btc, eth = OkxAdapter().decode_instruments(answer(rows), ["BTCUSDT", "ETHUSDT"])
    assert (btc.symbol, btc.price_scale, btc.size_scale, btc.base, btc.market) == ("BTCUSDT", 1, 0, "BTC", "spot")
    assert (eth.price_scale, eth.size_scale, eth.quote_scale) == (2, 3, 5)
    swap = {"instId": "BTC-USD-SWAP", "instType": "SWAP", "uly": "BTC-USD", "tickSz": "0.1", "lotSz": "1"}
    [made] = OkxAdapter().decode_instruments(answer([swap]), ["BTCUSDSWAP"])
    assert (made.base, made.quote, made.market) == ("BTC", "USD", "swap")


def test_instruments_are_asked_for_by_type_and_a_single_one_by_name() -> None:
    decoder = OkxAdapter()
    many = decoder.instruments_request(["BTCUSDTSWAP", "BTCUSDT"])
    assert many.target == "/api/v5/public/instruments?instType=SWAP"
    with pytest.raises(UnknownSymbol, match="BTCUSDT"):
        decoder.decode_instruments(answer([]), ["BTCUSDTSWAP", "BTCUSDT"])
    one = decoder.instruments_request(["BTCUSDT"])
    assert one.target == "/api/v5/public/instruments?instType=SPOT&instId=BTC-USDT"
    with pytest.raises(UnknownSymbol, match="51001"):
        decoder.decode_instruments(answer([], "51001", "Instrument ID does not exist"), ["BTCUSDT"])
    with pytest.raises(VenueRefused, match="Too Many Requests"):
        decoder.decode_instruments(answer([], "50011", "Too Many Requests"), ["BTCUSDT"])


def test_missed_trades_are_asked_for_between_two_ids() -> None:
    request = adapter().trades_request("BTCUSDT", 1000)
    assert request is not None
    assert request.target.endswith("history-trades?instId=BTC-USDT&after=1100&before=999&type=1&limit=100")
    rows = [trade_row(tradeId=str(number)) for number in (1002, 1001, 1000)]
    page = adapter().decode_trades("BTCUSDT", answer(rows))
    assert page.records["trade_id"].tolist() == [1000, 1001, 1002]
    assert page.at_present
    full = adapter().decode_trades("BTCUSDT", answer([trade_row(tradeId=str(n)) for n in range(100)]))
    assert not full.at_present
    newest = adapter().newest_trade_request("BTCUSDT")
    assert newest is not None and newest.target.endswith("limit=1")


def test_missed_bars_are_asked_for_between_two_times() -> None:
    request = adapter().bars_request("BTCUSDT", 60, 600 * NS_PER_SECOND)
    assert request is not None
    assert request.target.endswith("instId=BTC-USDT&bar=1m&after=6600000&before=599999&limit=100")
    rows = [[str(at), "1", "3", "0.5", "2", "7", "8", "9", done] for at, done in ((660000, "0"), (600000, "1"))]
    page = adapter().decode_bars("BTCUSDT", 60, answer(rows), now_ns=10_000 * NS_PER_SECOND)
    assert page.records["ts"].tolist() == [600 * NS_PER_SECOND]
    assert adapter(candles=("6h",)).bars_request("BTCUSDT", 21_600, 0) is not None
    with pytest.raises(ConfigError):
        OkxAdapter(candles=("8h",))


def test_the_time_of_the_venue() -> None:
    assert adapter().decode_time(answer([{"ts": str(MS)}])) == MS * NS_PER_MS
    for body in (answer([]), answer([{}]), b"", answer([], "50000", "down")):
        with pytest.raises(VenueRefused):
            adapter().decode_time(body)


def test_recorded_answers_are_told_apart_by_their_address() -> None:
    url = "https://www.okx.com/api/v5"
    [trades] = adapter().decode_rest(f"{url}/market/history-trades?instId=BTC-USDT", answer([trade_row()]))
    assert isinstance(trades, Trades)
    rows = [["600000", "1", "3", "0.5", "2", "7", "8", "9", "1"]]
    [candles] = adapter().decode_rest(f"{url}/market/candles?instId=BTC-USDT&bar=1m", answer(rows))
    assert isinstance(candles, Candles)
    cases = {
        "market/trades?instId=X-USDT": "not subscribed",
        "market/trades?instId=BTC-USDT": "REST empty page",
        "market/candles?instId=BTC-USDT&bar=5m": "REST candles 5m",
        "public/time": "REST time",
    }
    for path, name in cases.items():
        assert adapter().decode_rest(f"{url}/{path}", answer([])) == [Ignored(name)]
    [rejected] = adapter().decode_rest(f"{url}/market/trades?instId=BTC-USDT", b"<html>")
    assert isinstance(rejected, Rejected)
    ignored = adapter(trades="aggTrade").decode_rest(f"{url}/market/trades?instId=BTC-USDT", answer([]))
    assert ignored == [Ignored("REST trades")]


def test_a_recordings_texts_are_read_without_any_instrument() -> None:
    decoder = OkxAdapter()
    assert decoder.survey_texts(channel("trades", [trade_row()])) == [("BTCUSDT", "42219.9", "0.12060306")]
    message = book("update", 1, 2, [level("1.5", "2")])
    assert decoder.survey_texts(message) == [("BTCUSDT", "1.5", "2")]
    for other in (b"", b"pong", b"{}", channel("tickers", []), book("update", 1, 2, [["1"]]), channel("trades", 7)):
        assert decoder.survey_texts(other) == []


def test_a_recorded_pair_of_currencies_that_nobody_knows_is_found_by_its_joined_name() -> None:
    decoder = OkxAdapter()
    decoder.adopt(Instrument(id=9, symbol="BTCAED", venue="OKX", price_scale=1, size_scale=8, quote_scale=8))
    message = channel("trades-all", [trade_row(instId="BTC-AED")], "BTC-AED")
    assert only(decoder, message).symbol == "BTCAED"
