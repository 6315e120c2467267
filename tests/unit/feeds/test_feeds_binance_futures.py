"""Binance's futures: names, streams, declared series, and what their messages and answers become."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from marketd.daemon.feeds import series
from marketd.daemon.feeds.adapter import (
    BookDelta,
    BookSnapshot,
    Event,
    Ignored,
    Rejected,
    Series,
    Trades,
    VenueAdapter,
    VenueTime,
)
from marketd.daemon.feeds.venues import VENUES
from marketd.market.errors import ConfigError, InvalidArgument
from marketd.market.instruments import Instrument
from marketd.market.records import ABSENT, TradeFlag, series_kind

MS = 10**6
FUTURE = Instrument(
    id=1, symbol="BTCUSDT", venue="BINANCE_FUTURES", price_scale=1, size_scale=3, quote_scale=4, market="swap"
)


def adapter(venue: str = "BINANCE_FUTURES", **options: Any) -> VenueAdapter:
    made = VENUES[venue].adapter(**options)
    made.adopt(FUTURE)
    return made


def frame(stream: str, data: dict[str, Any]) -> bytes:
    return json.dumps({"stream": f"btcusdt@{stream}", "data": data}).encode()


def depth(**changes: Any) -> bytes:
    fields = {"e": "depthUpdate", "E": 1723161258769, "T": 1723161258762, "s": "BTCUSDT", "U": 11, "u": 15, "pu": 9}
    return frame("depth@100ms", {**fields, "b": [["63960.00", "0.310"]], "a": [["63960.10", "0.000"]], **changes})


def only(events: list[Event], kind: type[Any]) -> Any:
    (found,) = [event for event in events if isinstance(event, kind)]
    return found


@pytest.mark.parametrize(
    ("venue", "symbol", "written"),
    [
        ("BINANCE", "BTC/USDT", "BTCUSDT"),
        ("BINANCE_FUTURES", "BTC/USDT:USDT", "BTCUSDT"),
        ("BINANCE_FUTURES", "BTC/USDT:USDT-240927", "BTCUSDT_240927"),
        ("BINANCE_FUTURES", "btcusdt", "BTCUSDT"),
        ("BINANCE_FUTURES", "BTCUSDT.BINANCE_FUTURES", "BTCUSDT"),
        ("BINANCE_DELIVERY", "ETH/USD:ETH", "ETHUSD_PERP"),
        ("BINANCE_DELIVERY", "ETH/USD:ETH-240927", "ETHUSD_240927"),
        ("BINANCE_DELIVERY", "ETHUSD_PERP", "ETHUSD_PERP"),
    ],
)
def test_a_symbol_is_written_as_its_market_writes_it(venue: str, symbol: str, written: str) -> None:
    assert VENUES[venue].adapter().venue_symbol(symbol) == written


@pytest.mark.parametrize(
    ("venue", "symbol", "hint"),
    [
        ("BINANCE", "BTC/USDT:USDT", "BTC/USDT"),
        ("BINANCE", "ETHUSD_PERP", "no symbol"),
        ("BINANCE_FUTURES", "BTC/USDT", "BTC/USDT:USDT"),
        ("BINANCE_DELIVERY", "BTC/USD", "BTC/USD:BTC"),
        ("BINANCE_FUTURES", "/USDT:USDT", "no pair"),
    ],
)
def test_a_symbol_of_another_market_is_refused_with_the_way_out(venue: str, symbol: str, hint: str) -> None:
    with pytest.raises(InvalidArgument, match=hint):
        VENUES[venue].adapter().venue_symbol(symbol)


def test_a_difference_of_the_book_names_its_predecessor_and_bears_the_time_of_the_matching_engine() -> None:
    events = adapter(book=True).decode_many([depth()])
    delta = only(events, BookDelta)
    assert (delta.first, delta.last, delta.previous, delta.ts_ns) == (11, 15, 9, 1723161258762 * MS)
    assert (delta.bids.prices, delta.bids.sizes) == ([639600], [310])
    assert (delta.asks.prices, delta.asks.sizes) == ([639601], [0])
    assert only(events, VenueTime).ts_ns == 1723161258769 * MS


@pytest.mark.parametrize("change", [{"U": "x"}, {"b": [["63960.00"]]}, {"b": [["63960.12", "1"]]}, {"a": [["0", "1"]]}])
def test_a_difference_that_cannot_be_taken_says_that_it_was_the_books(change: dict[str, Any]) -> None:
    rejected = only(adapter(book=True).decode_many([depth(**change)]), Rejected)
    assert (rejected.symbol, rejected.book) == ("BTCUSDT", True)


def test_differences_are_ignored_by_name_when_no_book_is_wanted() -> None:
    assert only(adapter().decode_many([depth()]), Ignored) == Ignored("depth")
    assert adapter().book_streams("BTCUSDT") == []


def test_a_book_ticker_is_ignored_by_name_and_its_time_drives_the_clock() -> None:
    ticker = {"e": "bookTicker", "u": 1, "s": "BTCUSDT", "b": "1", "B": "1", "a": "2", "A": "1", "E": 1723161258769}
    events = adapter().decode_many([frame("bookTicker", ticker)])
    assert only(events, Ignored).name == "bookTicker"
    assert only(events, VenueTime).ts_ns == 1723161258769 * MS


def test_a_trade_off_the_market_is_flagged() -> None:
    data = {"e": "trade", "E": 2, "T": 1, "s": "BTCUSDT", "t": 7, "p": "63960.00", "q": "0.310", "m": False}
    events = adapter().decode_many([frame("trade", {**data, "X": "INSURANCE_FUND"})])
    assert only(events, Trades).records["flags"].tolist() == [TradeFlag.NOT_MARKET]


def test_declared_series_are_subscribed_only_when_they_are_wanted() -> None:
    plain, wanting = adapter(candles=()), adapter(candles=(), series=("funding", "liquidation", "open_interest"))
    assert plain.streams("BTCUSDT") == ["btcusdt@trade"]
    assert wanting.streams("BTCUSDT") == ["btcusdt@trade", "btcusdt@markPrice@1s", "btcusdt@forceOrder"]
    assert plain.polls("BTCUSDT") == []
    ((request, seconds),) = wanting.polls("BTCUSDT")
    assert (request.target, seconds) == ("/fapi/v1/openInterest?symbol=BTCUSDT", 60.0)


MARK = {"e": "markPriceUpdate", "E": 1562305380000, "s": "BTCUSDT", "p": "11794.15000000", "i": "11784.62659091"}


def test_a_mark_price_gives_funding_and_mark_price() -> None:
    data = {**MARK, "r": "0.00038167", "T": 1562306400000}
    events = adapter(series=("funding", "mark_price")).decode_many([frame("markPrice@1s", data)])
    rows = {event.stream: event.records[0] for event in events if isinstance(event, Series)}
    assert rows["funding"][["ts_event", "rate", "next_ns"]].item() == (
        1562305380000 * MS,
        0.00038167,
        1562306400000 * MS,
    )
    assert rows["mark_price"][["price", "index_price"]].item() == (11794.15, 11784.62659091)


def test_a_future_that_ends_has_no_funding_rate() -> None:
    events = adapter(series=("funding",)).decode_many([frame("markPrice@1s", {**MARK, "r": "", "T": 0})])
    row = only(events, Series).records[0]
    assert np.isnan(row["rate"])
    assert row["next_ns"] == ABSENT


def test_a_forced_order_is_a_liquidation() -> None:
    order = {"s": "BTCUSDT", "S": "SELL", "q": "0.014", "p": "9910.0", "ap": "9911.25", "T": 1568014460893}
    decode = adapter(series=("liquidation",)).decode_many
    events = decode([frame("forceOrder", {"e": "forceOrder", "E": 1568014460893, "o": order})])
    row = only(events, Series).records[0]
    assert row[["ts_event", "side", "price", "average", "size"]].item() == (
        1568014460893 * MS,
        -1,
        99100,
        9911.25,
        14,
    )
    broken = decode([frame("forceOrder", {"e": "forceOrder", "E": 1, "o": {**order, "S": "NEITHER"}})])
    assert only(broken, Rejected).symbol == "BTCUSDT"


def test_open_interest_comes_as_the_answer_to_a_poll() -> None:
    body = b'{"openInterest": "10659.509", "symbol": "BTCUSDT", "time": 1589437530011}'
    (event,) = adapter(series=("open_interest",)).decode_rest("/fapi/v1/openInterest?symbol=BTCUSDT", body)
    assert isinstance(event, Series)
    assert event.records[["ts_event", "size"]].tolist() == [(1589437530011 * MS, 10659509)]


def test_a_snapshot_bears_the_time_that_the_venue_gives_it() -> None:
    body = json.dumps({"lastUpdateId": 12, "E": 3, "T": 2, "bids": [["63960.00", "1"]], "asks": [["63960.10", "2"]]})
    snapshot = adapter(book=True).decode_snapshot("BTCUSDT", body.encode())
    assert isinstance(snapshot, BookSnapshot)
    assert (snapshot.sequence, snapshot.ts_ns) == (12, 2 * MS)


def test_requests_go_to_the_markets_own_paths() -> None:
    for venue, prefix in (("BINANCE_FUTURES", "/fapi/v1/"), ("BINANCE_DELIVERY", "/dapi/v1/")):
        made = adapter(venue)
        requests = [
            made.instruments_request(["BTCUSDT"]),
            made.time_request(),
            made.trades_request("BTCUSDT", 5),
            made.bars_request("BTCUSDT", 60, 0),
            made.snapshot_request("BTCUSDT"),
        ]
        assert all(request is not None and request.target.startswith(prefix) for request in requests)
        assert requests[0] is not None
        assert "symbols" not in requests[0].target


def test_the_venues_list_of_all_contracts_says_what_each_is() -> None:
    def contract(symbol: str, kind: str) -> dict[str, Any]:
        filters = [{"filterType": "PRICE_FILTER", "tickSize": "0.10"}, {"filterType": "LOT_SIZE", "stepSize": "0.001"}]
        assets = {"baseAsset": "BTC", "quoteAsset": "USDT"}
        return {"symbol": symbol, "contractType": kind, **assets, "quotePrecision": 8, "filters": filters}

    body = {"symbols": [contract("BTCUSDT", "PERPETUAL"), contract("BTCUSDT_240927", "CURRENT_QUARTER")]}
    found = adapter().decode_instruments(json.dumps(body).encode(), ["BTCUSDT_240927", "BTCUSDT"])
    assert [(i.symbol, i.market, i.price_scale) for i in found] == [
        ("BTCUSDT_240927", "future", 1),
        ("BTCUSDT", "swap", 1),
    ]


# ---- what the configuration declares --------------------------------------------------------------


def test_a_declared_stream_gets_the_fields_that_it_declares() -> None:
    kind = series_kind(64, "funding", {"rate": "f8"})
    records = series.rows("funding", [(5, (0.25, 9))])
    assert series.conform(records, kind)[["ts_event", "rate"]].tolist() == [(5, 0.25)]
    assert series.wanted([kind, series_kind(65, "mine", {"x": "f8"})], ["funding"]) == {"funding": kind}


@pytest.mark.parametrize("fields", [{"rate": "i8"}, {"rate": "f8", "color": "f8"}])
def test_a_declaration_that_no_venue_can_fill_is_refused_by_its_field(fields: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"streams\.funding\.fields"):
        series.wanted([series_kind(64, "funding", fields)], ["funding"])


# ---- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "endpoint"),
    [
        ("btcusdt@trade", "/public"),
        ("btcusdt@depth@100ms", "/public"),
        ("btcusdt@depth20@500ms", "/public"),
        ("btcusdt@bookTicker", "/public"),
        ("!bookTicker", "/public"),
        ("btcusdt@aggTrade", "/market"),
        ("btcusdt@kline_1m", "/market"),
        ("btcusdt@markPrice@1s", "/market"),
        ("!markPrice@arr@1s", "/market"),
        ("btcusdt@forceOrder", "/market"),
    ],
)
def test_each_stream_of_usd_m_is_asked_for_at_the_address_that_has_it(stream: str, endpoint: str) -> None:
    venue = VENUES["BINANCE_FUTURES"]
    assert venue.endpoint_of is not None and venue.endpoint_of(stream) == endpoint
    made = adapter()
    for base in ("wss://host", "wss://host/", "wss://host/public", "wss://host/market"):
        assert made.connect_url(base, [stream]) == (f"wss://host{endpoint}/stream?streams={stream}", [])


@pytest.mark.parametrize("venue", ["BINANCE", "BINANCE_DELIVERY"])
def test_the_other_markets_have_one_address_for_everything(venue: str) -> None:
    assert VENUES[venue].endpoint_of is None
    streams = ["x@trade", "x@kline_1m"]
    assert adapter(venue).connect_url("wss://host", streams) == ("wss://host/stream?streams=x@trade/x@kline_1m", [])
