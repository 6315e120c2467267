"""The Bybit adapters: bytes in, events out; every message is accounted for. Messages as the venue documents them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from marketd.daemon.feeds.adapter import (
    BookDelta,
    BookSnapshot,
    Candles,
    Event,
    Fit,
    Ignored,
    Rejected,
    Series,
    Trades,
    UnknownSymbol,
    VenueError,
    VenueRefused,
    VenueTime,
)
from marketd.daemon.feeds.bybit import BybitAdapter, BybitInverseAdapter, BybitLinearAdapter
from marketd.daemon.feeds.bybit_markets import RULE
from marketd.market.book import Levels
from marketd.market.errors import ConfigError, InvalidArgument
from marketd.market.instruments import Instrument
from marketd.market.records import Source, TradeFlag
from marketd.market.times import ABSENT, NS_PER_MS, NS_PER_SECOND
from marketd.market.trade_ids import hashed_id

SPOT = Instrument(id=1, symbol="BTCUSDT", venue="BYBIT", price_scale=2, size_scale=6, quote_scale=8)
SWAP = Instrument(
    id=2, symbol="BTCUSDT", venue="BYBIT_LINEAR", price_scale=2, size_scale=3, quote_scale=5, market="swap"
)
UUID = "20f43950-d8dd-5b31-9112-a178eb6023af"
MS = 1_672_304_486_868
ALL_SERIES = ("funding", "mark_price", "open_interest", "liquidation")


def spot(**options: Any) -> BybitAdapter:
    made = BybitAdapter(**options)
    made.adopt(SPOT)
    return made


def linear(**options: Any) -> BybitLinearAdapter:
    made = BybitLinearAdapter(**options)
    made.adopt(SWAP)
    return made


def encode(message: Any) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def topic(name: str, data: Any, kind: str = "snapshot", **more: Any) -> bytes:
    return encode({"topic": f"{name}.BTCUSDT", "type": kind, "ts": MS, "data": data, **more})


def trade_row(**changes: Any) -> dict[str, Any]:
    row = {"T": MS - 3, "s": "BTCUSDT", "S": "Buy", "v": "0.001", "p": "16578.50", "L": "PlusTick", "i": UUID}
    return {**row, "BT": False, **changes}


def book(number: int, kind: str = "delta", bids: Any = (), asks: Any = (), depth: int = 1000) -> bytes:
    data = {"s": "BTCUSDT", "b": list(bids), "a": list(asks), "u": number, "seq": 7961638724}
    return topic(f"orderbook.{depth}", data, kind, cts=MS - 2)


def kline(**changes: Any) -> bytes:
    row = {
        "start": 1672324800000,
        "end": 1672324859999,
        "interval": "1",
        "open": "16649.5",
        "close": "16677",
        "high": "16677",
        "low": "16608",
        "volume": "2.081",
        "turnover": "34666.4005",
        "confirm": True,
        "timestamp": 1672324858882,
    }
    return topic("kline.1", [{**row, **changes}])


def said(adapter: BybitAdapter, *frames: bytes) -> list[Event]:
    return [event for event in adapter.decode_many(frames) if type(event) is not VenueTime]


def only(adapter: BybitAdapter, message: bytes) -> Any:
    [event] = said(adapter, message)
    return event


# ---- trades ---------------------------------------------------------------------------------------


def test_a_contracts_trade_bears_the_takers_side_and_a_hash_of_its_uuid() -> None:
    trades = only(linear(), topic("publicTrade", [trade_row()]))
    assert isinstance(trades, Trades)
    [row] = trades.records
    assert (row["ts_event"], row["price"], row["size"], row["side"]) == ((MS - 3) * NS_PER_MS, 1657850, 1, 1)
    assert (row["trade_id"], row["flags"]) == (hashed_id(UUID), TradeFlag.HASHED_ID)


def test_a_spot_trade_keeps_its_integer_id() -> None:
    [row] = only(spot(), topic("publicTrade", [trade_row(i="2290000000036455162", S="Sell")])).records
    assert (row["trade_id"], row["flags"], row["side"]) == (2290000000036455162, 0, -1)


@pytest.mark.parametrize("text", ["9223372036854775808", "0" * 40, "-1", "²", "", "1.5"])
def test_an_id_that_is_no_integer_of_64_bits_is_hashed(text: str) -> None:
    [row] = only(spot(), topic("publicTrade", [trade_row(i=text)])).records
    assert (row["trade_id"], row["flags"]) == (hashed_id(text), TradeFlag.HASHED_ID)


def test_a_block_trade_is_no_market_trade() -> None:
    [row] = only(linear(), topic("publicTrade", [trade_row(BT=True)])).records
    assert row["flags"] == TradeFlag.HASHED_ID | TradeFlag.NOT_MARKET


def test_the_rows_of_a_message_stay_in_order_and_a_bad_one_costs_no_neighbour() -> None:
    rows = [trade_row(p="1.00"), trade_row(p="1.001"), trade_row(p=7), trade_row(S="Hold"), trade_row(p="2.00")]
    trades, *rejected = said(linear(), topic("publicTrade", rows))
    assert isinstance(trades, Trades)
    assert trades.records["price"].tolist() == [100, 200]
    assert all(isinstance(event, Rejected) and event.symbol == "BTCUSDT" for event in rejected)
    assert [event.rule for event in rejected if isinstance(event, Rejected)] == [
        "precision",
        "undecodable",
        "undecodable",
    ]


# ---- the book -------------------------------------------------------------------------------------


def test_a_book_begins_with_a_snapshot_and_goes_on_by_numbered_deltas() -> None:
    first = book(18521288, "snapshot", [["16493.50", "0.006"]], [["16611.00", "0.029"]])
    then = book(18521289, "delta", [["16493.50", "0"]])
    snapshot, delta = said(linear(book=True), first, then)
    ns = (MS - 2) * NS_PER_MS  # the matching engine's
    assert snapshot == BookSnapshot("BTCUSDT", 18521288, ns, Levels([1649350], [6]), Levels([1661100], [29]))
    assert delta == BookDelta("BTCUSDT", 18521289, 18521289, 18521288, ns, Levels([1649350], [0]), Levels([], []))


def test_a_delta_follows_its_predecessor_or_it_is_a_gap() -> None:
    delta = only(linear(book=True), book(10))
    assert [RULE.follows(last, delta) for last in (9, 10, 11, 8)] == [Fit.NEXT, Fit.OLD, Fit.GAP, Fit.GAP]
    assert RULE.splice(9, delta) is Fit.NEXT


def test_update_1_is_a_snapshot_after_a_restart_whatever_it_is_called() -> None:
    assert isinstance(only(linear(book=True), book(1, "delta", [["1.00", "1"]])), BookSnapshot)


def test_books_that_were_not_asked_for_are_ignored_by_name() -> None:
    assert only(linear(book=True), book(7, depth=1)) == Ignored("orderbook.1")
    assert only(linear(), book(7)) == Ignored("orderbook.1000")


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        (book(7, bids=[["1.001", "1"]]), "precision"),
        (book(7, bids=[["1.00"]]), "undecodable"),
        (book(7, asks=[["0", "1"]]), "positive_price"),
        (topic("orderbook.1000", {"s": "BTCUSDT"}), "undecodable"),
    ],
)
def test_a_message_of_a_book_that_breaks_a_rule_is_rejected_as_one(message: bytes, rule: str) -> None:
    rejected = only(linear(book=True), message)
    assert (rejected.symbol, rejected.rule, rejected.book, rejected.payload) == ("BTCUSDT", rule, True, message)


# ---- bars -----------------------------------------------------------------------------------------


def test_a_confirmed_kline_is_a_bar_of_the_venue() -> None:
    candles = only(spot(), kline())
    assert isinstance(candles, Candles)
    [bar] = candles.records
    assert (bar["ts"], bar["timeframe"], bar["source"]) == (1672324800000 * NS_PER_MS, 60, Source.VENUE)
    assert [int(bar[name]) for name in ("open", "high", "low", "close")] == [1664950, 1667700, 1660800, 1667700]
    assert (bar["volume"], bar["quote_volume"]) == (2081000, 3466640050000)
    assert bar["buy_volume"] == bar["trade_count"] == ABSENT


def test_an_inverse_contracts_turnover_is_no_quote_volume() -> None:
    adapter = BybitInverseAdapter()
    adapter.adopt(Instrument(id=3, symbol="BTCUSDT", venue="BYBIT_INVERSE", price_scale=2, size_scale=3, quote_scale=2))
    assert only(adapter, kline()).records["quote_volume"].tolist() == [ABSENT]


def test_klines_that_are_open_or_of_another_interval_are_ignored_by_name() -> None:
    assert only(spot(), kline(confirm=False)) == Ignored("open kline")
    assert only(spot(), kline(interval="5")) == Ignored("kline.5")
    assert only(spot(), topic("kline.1", [])) == Ignored("empty message")


# ---- declared series ------------------------------------------------------------------------------


def test_a_ticker_tells_funding_mark_price_and_open_interest() -> None:
    data = {
        "symbol": "BTCUSDT",
        "markPrice": "17217.33",
        "indexPrice": "17227.36",
        "openInterest": "68744.761",
        "nextFundingTime": "1673280000000",
        "fundingRate": "-0.000212",
    }
    rows = {event.stream: event.records[0] for event in said(linear(series=ALL_SERIES), topic("tickers", data))}
    assert set(rows) == {"funding", "mark_price", "open_interest"}
    assert (rows["funding"]["rate"], rows["funding"]["next_ns"]) == (-0.000212, 1673280000000 * NS_PER_MS)
    assert (rows["mark_price"]["price"], rows["mark_price"]["index_price"]) == (17217.33, 17227.36)
    assert rows["open_interest"]["size"] == 68744761
    assert {row["ts_event"] for row in rows.values()} == {MS * NS_PER_MS}


def test_a_tickers_delta_tells_only_what_changed() -> None:
    adapter = linear(series=ALL_SERIES)
    data = {"symbol": "BTCUSDT", "markPrice": "1", "indexPrice": "2", "fundingRate": "0.1", "nextFundingTime": "5000"}
    adapter.decode_many([topic("tickers", data)])
    mark = only(adapter, topic("tickers", {"symbol": "BTCUSDT", "markPrice": "3"}, "delta"))
    assert isinstance(mark, Series)
    assert (mark.records["price"][0], mark.records["index_price"][0]) == (3.0, 2.0)
    funding = only(adapter, topic("tickers", {"symbol": "BTCUSDT", "nextFundingTime": "9000"}, "delta"))
    assert (funding.records["rate"][0], funding.records["next_ns"][0]) == (0.1, 9000 * NS_PER_MS)
    assert only(adapter, topic("tickers", {"symbol": "BTCUSDT", "lastPrice": "3"}, "delta")) == Ignored("tickers")
    # a new snapshot begins anew
    mark = only(adapter, topic("tickers", {"symbol": "BTCUSDT", "markPrice": "3"}))
    assert np.isnan(mark.records["index_price"][0])


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"markPrice": "x"}, "undecodable"),
        ({"openInterest": "1.0001"}, "precision"),
        ({"fundingRate": "1", "nextFundingTime": "9" * 40}, "undecodable"),
        ({"fundingRate": "1", "nextFundingTime": "soon"}, "undecodable"),
    ],
)
def test_a_ticker_that_breaks_a_rule_is_rejected(changes: dict[str, str], rule: str) -> None:
    rejected = only(linear(series=ALL_SERIES), topic("tickers", {"symbol": "BTCUSDT", **changes}))
    assert (rejected.symbol, rejected.rule) == ("BTCUSDT", rule)


def test_a_liquidation_bears_the_side_of_the_order_that_closes_the_position() -> None:
    message = topic("allLiquidation", [{"T": MS, "s": "BTCUSDT", "S": "Buy", "v": "0.2", "p": "17000.50"}])
    told = only(linear(series=ALL_SERIES), message)
    assert isinstance(told, Series) and told.stream == "liquidation"
    [row] = told.records
    assert (row["side"], row["price"], row["size"], row["ts_event"]) == (-1, 1700050, 200, MS * NS_PER_MS)
    assert np.isnan(row["average"])
    assert only(linear(), message) == Ignored("allLiquidation")


# ---- replies and the unknown ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "event"),
    [
        ({"success": True, "ret_msg": "", "conn_id": "x", "req_id": "", "op": "subscribe"}, Ignored("reply")),
        ({"success": True, "ret_msg": "pong", "conn_id": "x", "op": "ping"}, Ignored("pong")),
        ({"op": "pong", "args": ["1675418560633"], "conn_id": "x"}, Ignored("pong")),
        ({"topic": "publicTrade.ETHUSDT", "data": []}, Ignored("not subscribed")),
        ({"topic": "orderbook.rpi.BTCUSDT", "data": {}}, Ignored("orderbook.rpi")),
        ({"topic": "insurance.USDT", "data": []}, Ignored("insurance")),
        ({"topic": "publicTrade"}, Ignored("publicTrade")),
    ],
)
def test_what_is_of_no_use_is_ignored_by_name(message: dict[str, Any], event: Event) -> None:
    assert only(linear(book=True), encode(message)) == event


def test_a_refused_command_is_shown_as_it_came() -> None:
    message = encode({"success": False, "ret_msg": "error:handler not found", "op": "subscribe"})
    assert only(linear(), message) == VenueError(message.decode(), "error:handler not found")


def test_every_message_tells_the_venues_time() -> None:
    events = linear(book=True).decode_many([book(7), topic("publicTrade", [trade_row()])])
    assert [event for event in events if type(event) is VenueTime] == [VenueTime("BTCUSDT", MS * NS_PER_MS)]


# ---- v2, which recordings have --------------------------------------------------------------------


def test_an_old_trade_is_read() -> None:
    row = {"symbol": "BTCUSDT", "price": "1053.90", "size": 0.14, "trade_time_ms": "1618677785116", "side": "Buy"}
    trades = only(linear(), encode({"topic": "trade.BTCUSDT", "data": [{**row, "trade_id": UUID}]}))
    [record] = trades.records
    assert (record["ts_event"], record["price"], record["size"]) == (1618677785116 * NS_PER_MS, 105390, 140)
    assert (record["trade_id"], record["side"]) == (hashed_id(UUID), 1)


def old_book(kind: str, data: Any, cross_seq: int) -> bytes:
    more = {"cross_seq": str(cross_seq), "timestamp_e6": "1618677786430132"}
    return encode({"topic": "orderBookL2_25.BTCUSDT", "type": kind, "data": data, **more})


def old_level(price: str, side: str, size: float | None = None) -> dict[str, Any]:
    level = {"price": price, "symbol": "BTCUSDT", "id": price.replace(".", ""), "side": side}
    return level if size is None else {**level, "size": size}


@pytest.mark.parametrize("is_inverse", [False, True])
def test_an_old_book_is_read(is_inverse: bool) -> None:
    levels = [old_level("1.00", "Buy", 2.5), old_level("1.10", "Sell", 3)]
    message = old_book("snapshot", levels if is_inverse else {"order_book": levels}, 7)
    ns = 1618677786430132 * 1000
    assert only(linear(book=True), message) == BookSnapshot(
        "BTCUSDT", 7, ns, Levels([100], [2500]), Levels([110], [3000]), depth=25
    )


def test_an_old_delta_deletes_before_it_inserts_and_its_number_only_ascends() -> None:
    data = {
        "delete": [old_level("1.00", "Buy")],
        "update": [old_level("1.10", "Sell", 4)],
        "insert": [old_level("1.00", "Buy", 1)],
    }
    delta = only(linear(book=True), old_book("delta", data, 900))
    assert (delta.bids, delta.asks) == (Levels([100, 100], [0, 1000]), Levels([110], [4000]))
    assert delta.previous is None
    assert [RULE.follows(last, delta) for last in (1, 899, 900, 901)] == [Fit.NEXT, Fit.NEXT, Fit.OLD, Fit.OLD]
    assert only(linear(), old_book("delta", data, 900)) == Ignored("orderBookL2_25")


def test_an_old_book_with_a_bad_number_is_rejected_as_one() -> None:
    rejected = only(linear(book=True), old_book("delta", {"update": [old_level("1.00", "Buy", 0.00015)]}, 900))
    assert (rejected.rule, rejected.book, rejected.symbol) == ("precision", True, "BTCUSDT")
    assert only(linear(book=True), old_book("delta", {"update": 1}, 900)).rule == "undecodable"


# ---- names, streams, REST -------------------------------------------------------------------------


def test_each_market_takes_its_own_symbols() -> None:
    assert [BybitAdapter().venue_symbol(name) for name in ("BTC/USDT", "BTCUSDT.BYBIT")] == ["BTCUSDT"] * 2
    assert BybitLinearAdapter().venue_symbol("BTC/USDT:USDT") == "BTCUSDT"
    assert BybitLinearAdapter().venue_symbol("BTC/USDC:USDC") == "BTCPERP"
    assert BybitLinearAdapter().venue_symbol("BTC-26DEC25") == "BTC26DEC25"
    assert BybitInverseAdapter().venue_symbol("BTC/USD:BTC") == "BTCUSD"
    wrong: list[tuple[BybitAdapter, str]] = [
        (BybitAdapter(), "BTC/USDT:USDT"),
        (BybitLinearAdapter(), "BTC/USDT"),
        (BybitLinearAdapter(), "BTC/USD:BTC"),
        (BybitInverseAdapter(), "BTC/USDT:USDT"),
        (BybitLinearAdapter(), "BTC/USDT:USDT-251226"),
        (BybitAdapter(), "BTC/"),
        (BybitAdapter(), "B TC"),
    ]
    for adapter, name in wrong:
        with pytest.raises(InvalidArgument):
            adapter.venue_symbol(name)


def test_a_dated_future_is_written_with_its_dash_to_the_venue() -> None:
    adapter = BybitLinearAdapter(candles=())
    adapter.adopt(
        Instrument(id=4, symbol="BTC26DEC25", venue="BYBIT_LINEAR", price_scale=2, size_scale=3, quote_scale=5)
    )
    assert adapter.streams("BTC26DEC25") == ["publicTrade.BTC-26DEC25"]
    message = encode({"topic": "publicTrade.BTC-26DEC25", "ts": MS, "data": [trade_row(s="BTC-26DEC25")]})
    assert only(adapter, message).symbol == "BTC26DEC25"


def test_streams_are_those_that_were_asked_for() -> None:
    adapter = linear(book=True, candles=("1m", "1h"), series=ALL_SERIES)
    assert adapter.streams("BTCUSDT") == [
        "publicTrade.BTCUSDT",
        "kline.1.BTCUSDT",
        "kline.60.BTCUSDT",
        "tickers.BTCUSDT",
        "allLiquidation.BTCUSDT",
        "orderbook.1000.BTCUSDT",
    ]
    assert adapter.book_streams("BTCUSDT") == ["orderbook.1000.BTCUSDT"]
    assert adapter.timeframes == (60, 3600)
    assert spot(candles=(), series=ALL_SERIES).streams("BTCUSDT") == ["publicTrade.BTCUSDT"]
    for options in ({"trades": "aggTrade"}, {"candles": ("1s",)}):
        with pytest.raises(ConfigError):
            BybitAdapter(**options)


def test_commands_keep_the_venues_limit_of_topics() -> None:
    first, second = spot().commands("SUBSCRIBE", [f"publicTrade.A{n}" for n in range(12)], 5)
    assert json.loads(first) == {"req_id": "5", "op": "subscribe", "args": [f"publicTrade.A{n}" for n in range(10)]}
    assert json.loads(second)["req_id"] == "6"
    assert len(linear().commands("UNSUBSCRIBE", [f"a.{n}" for n in range(12)], 5)) == 1
    assert linear().connect_url("wss://stream.bybit.com", ["a"]) == ("wss://stream.bybit.com/v5/public/linear", ["a"])


def answer(rows: Any, **more: Any) -> bytes:
    return encode({"retCode": 0, "retMsg": "OK", "result": {"list": rows}, "time": MS, **more})


def test_instruments_bear_the_venues_grids() -> None:
    rows = [
        {
            "symbol": "BTCUSDT",
            "contractType": "LinearPerpetual",
            "baseCoin": "BTC",
            "quoteCoin": "USDT",
            "priceFilter": {"tickSize": "0.50"},
            "lotSizeFilter": {"qtyStep": "0.001"},
        },
        {"symbol": "BTC-26DEC25", "contractType": "LinearFutures", "baseCoin": "BTC", "quoteCoin": "USDC"},
    ]
    swap, future = BybitLinearAdapter().decode_instruments(answer(rows), ["BTCUSDT", "BTC26DEC25"])
    assert (swap.price_scale, swap.tick_size, swap.size_scale, swap.market) == (1, 5, 3, "swap")
    assert (future.symbol, future.market, future.quote) == ("BTC26DEC25", "future", "USDC")
    row = {"symbol": "BTCUSDT", "baseCoin": "BTC", "quoteCoin": "USDT", "priceFilter": {"tickSize": "0.01"}}
    lot = {"lotSizeFilter": {"basePrecision": "0.000001", "quotePrecision": "0.0000001"}}
    [pair] = BybitAdapter().decode_instruments(answer([{**row, **lot}]), ["BTCUSDT"])
    assert (pair.price_scale, pair.size_scale, pair.quote_scale, pair.market) == (2, 6, 7, "spot")


def test_an_unknown_symbol_is_told_from_a_refusal() -> None:
    adapter = BybitLinearAdapter()
    with pytest.raises(UnknownSymbol):
        adapter.decode_instruments(answer([]), ["NOPE"])
    refused = encode({"retCode": 10001, "retMsg": "params error: symbol invalid", "result": {}})
    with pytest.raises(UnknownSymbol, match="symbol invalid"):
        adapter.decode_instruments(refused, ["NOPE"])
    with pytest.raises(VenueRefused, match="10006"):
        adapter.decode_instruments(encode({"retCode": 10006, "retMsg": "Too many visits!"}), ["A", "B"])
    with pytest.raises(VenueRefused):
        adapter.decode_time(b"<html>")


def test_recent_trades_come_ascending_with_the_ids_of_the_stream() -> None:
    rows = [
        {"execId": UUID, "symbol": "BTCUSDT", "price": "2.00", "size": "1", "side": "Sell", "time": "2000"},
        {"execId": "x", "symbol": "BTCUSDT", "price": "2.001", "size": "1", "side": "Sell", "time": "1500"},
        {"execId": "7", "symbol": "BTCUSDT", "price": "1.00", "size": "1", "side": "Buy", "time": "1000"},
    ]
    page = linear().decode_trades("BTCUSDT", answer(rows))
    assert page.records["trade_id"].tolist() == [7, hashed_id(UUID)]
    assert page.records["ts_event"].tolist() == [NS_PER_SECOND, 2 * NS_PER_SECOND]
    assert [one.rule for one in page.rejected] == ["precision"]
    assert (page.rows, page.at_present) == (3, True)
    request = linear().trades_request("BTCUSDT", 0)
    assert request is not None
    assert request.target == "/v5/market/recent-trade?category=linear&symbol=BTCUSDT&limit=1000"


def test_bars_are_asked_for_by_both_ends_and_come_newest_first() -> None:
    request = spot().bars_request("BTCUSDT", 60, 600 * NS_PER_SECOND)
    assert request is not None
    assert "interval=1&start=600000&end=60540000&limit=1000" in request.target
    rows = [[str(start), "1", "3", "0.5", "2", "7", "9.1"] for start in (720000, 660000, 600000)]
    page = spot().decode_bars("BTCUSDT", 60, answer(rows), now_ns=750 * NS_PER_SECOND)
    assert page.records["ts"].tolist() == [600 * NS_PER_SECOND, 660 * NS_PER_SECOND]
    assert page.at_present
    short = spot().decode_bars("BTCUSDT", 60, answer([["1"]]), now_ns=0)
    assert [one.rule for one in short.rejected] == ["undecodable"]


def test_recorded_answers_are_told_apart_by_their_address() -> None:
    url = "https://api.bybit.com/v5/market"
    row = {"execId": "7", "symbol": "BTCUSDT", "price": "1.00", "size": "1", "side": "Buy", "time": "1000"}
    [trades] = linear().decode_rest(f"{url}/recent-trade?category=linear&symbol=BTCUSDT", answer([row]))
    assert isinstance(trades, Trades)
    bars = answer([["660000", "1", "3", "0.5", "2", "7", "9.1"], ["600000", "1", "3", "0.5", "2", "7", "9.1"]])
    [candles] = linear().decode_rest(f"{url}/kline?category=linear&symbol=BTCUSDT&interval=1", bars)
    assert isinstance(candles, Candles) and len(candles.records) == 1
    cases = {
        "recent-trade?category=spot&symbol=BTCUSDT": "not subscribed",
        "recent-trade?category=linear&symbol=XUSDT": "not subscribed",
        "kline?category=linear&symbol=BTCUSDT&interval=5": "REST kline 5",
        "time": "REST time",
    }
    for path, name in cases.items():
        assert linear().decode_rest(f"{url}/{path}", b"{}") == [Ignored(name)]
    [rejected] = linear().decode_rest(f"{url}/recent-trade?category=linear&symbol=BTCUSDT", b"<html>")
    assert isinstance(rejected, Rejected)


def test_a_recordings_texts_are_read_without_any_instrument() -> None:
    adapter = BybitLinearAdapter()
    assert adapter.survey_texts(topic("publicTrade", [trade_row()])) == [("BTCUSDT", "16578.50", "0.001")]
    assert adapter.survey_texts(book(7, asks=[["1.5", "2"]])) == [("BTCUSDT", "1.5", "2")]
    old = old_book("delta", {"update": [old_level("1.50", "Buy", 2.25)]}, 9)
    assert adapter.survey_texts(old) == [("BTCUSDT", "1.50", "2.25")]
    for message in (b"", b"{}", b'{"topic":1}', topic("publicTrade", 7)):
        assert adapter.survey_texts(message) == []
