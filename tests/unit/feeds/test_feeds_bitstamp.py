"""The Bitstamp adapter: bytes in, events out; every message is accounted for. Messages as the venue documents them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from marketd.daemon.feeds.adapter import (
    BookDelta,
    BookSnapshot,
    Candles,
    Event,
    Fit,
    Ignored,
    Rejected,
    Trades,
    UnknownSymbol,
    VenueClosing,
    VenueError,
    VenueRefused,
    VenueTime,
)
from marketd.daemon.feeds.bitstamp import RULE, BitstampAdapter
from marketd.daemon.feeds.recent import RecentIds
from marketd.market.book import Levels
from marketd.market.book_states import BookEvent
from marketd.market.book_sync import BookSync
from marketd.market.errors import ConfigError, InvalidArgument
from marketd.market.instruments import Instrument
from marketd.market.layouts import BookState
from marketd.market.records import TRADE, Source
from marketd.market.times import ABSENT, NS_PER_SECOND

ETH = Instrument(id=1, symbol="ETHUSD", venue="BITSTAMP", price_scale=2, size_scale=8, quote_scale=8)
MICROS = 1_641_343_699_596_000


def adapter(**options: Any) -> BitstampAdapter:
    made = BitstampAdapter(**options)
    made.adopt(ETH)
    return made


def frame(event: str, channel: str, data: Any) -> bytes:
    return json.dumps({"data": data, "channel": channel, "event": event}, separators=(",", ":")).encode()


def trade(**changes: Any) -> bytes:
    data = {
        "id": 216000477,
        "timestamp": "1641343699",
        "amount": 0.0792,
        "amount_str": "0.07920000",
        "price": 3805.44,
        "price_str": "3805.44",
        "type": 0,
        "microtimestamp": str(MICROS),
        "buy_order_id": 1443875737346049,
        "sell_order_id": 1443875731320832,
    }
    return frame("trade", "live_trades_ethusd", {**data, **changes})


def changes(micros: int = MICROS, bids: Any = (), asks: Any = ()) -> bytes:
    data = {"timestamp": str(micros // 10**6), "microtimestamp": str(micros), "bids": list(bids), "asks": list(asks)}
    return frame("data", "diff_order_book_ethusd", data)


def said(adapter: BitstampAdapter, *frames: bytes) -> list[Event]:
    return [event for event in adapter.decode_many(frames) if type(event) is not VenueTime]


def only(adapter: BitstampAdapter, message: bytes) -> Any:
    [event] = said(adapter, message)
    return event


def test_a_trade_bears_the_takers_side_and_microseconds() -> None:
    trades = only(adapter(), trade())
    assert isinstance(trades, Trades)
    assert trades.symbol == "ETHUSD"
    assert trades.records["trade_id"].tolist() == [216000477]
    assert trades.records["ts_event"].tolist() == [MICROS * 1000]
    assert (trades.records["price"][0], trades.records["size"][0]) == (380544, 7920000)
    assert trades.records["side"].tolist() == [1]
    assert only(adapter(), trade(type=1)).records["side"].tolist() == [-1]


def test_the_changes_of_a_book_are_a_delta_numbered_by_its_time() -> None:
    delta = only(adapter(book=True), changes(bids=[["3805.43", "1.5"]], asks=[["3805.44", "0.00000000"]]))
    assert delta == BookDelta(
        "ETHUSD", MICROS, MICROS, None, MICROS * 1000, Levels([380543], [150000000]), Levels([380544], [0])
    )


def test_changes_join_a_snapshot_by_their_times() -> None:
    delta = only(adapter(book=True), changes())
    assert [RULE.splice(MICROS + step, delta) for step in (1, 0, -1)] == [Fit.OLD, Fit.NEXT, Fit.NEXT]


def test_the_snapshot_over_rest_bears_the_time_by_which_changes_join_it() -> None:
    body = json.dumps({"microtimestamp": str(MICROS), "bids": [["1.00", "2"]], "asks": [["1.01", "0.5"]]}).encode()
    snapshot = adapter().decode_snapshot("ETHUSD", body)
    assert snapshot == BookSnapshot(
        "ETHUSD", MICROS, MICROS * 1000, Levels([100], [200000000]), Levels([101], [50000000])
    )
    request = adapter().snapshot_request("ETHUSD")
    assert request is not None
    assert request.target == "/api/v2/order_book/ethusd/"


@pytest.mark.parametrize("body", [b"", b"{}", b'{"microtimestamp":"1","bids":[["0","1"]],"asks":[]}', b"[1"])
def test_a_snapshot_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(VenueRefused):
        adapter().decode_snapshot("ETHUSD", body)


def test_the_best_hundred_levels_are_a_book_only_where_no_changes_come() -> None:
    data = {"microtimestamp": str(MICROS), "bids": [["1", "1"]], "asks": []}
    best, decoder = frame("data", "order_book_ethusd", data), adapter(book=True)
    assert isinstance(only(decoder, best), BookSnapshot)
    only(decoder, changes())
    assert only(decoder, best) == Ignored("order_book")


def test_without_a_book_its_messages_are_ignored_by_name() -> None:
    assert only(adapter(), changes()) == Ignored("diff_order_book")


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (frame("bts:unsubscription_succeeded", "live_trades_ethusd", {}), "unsubscription_succeeded"),
        (frame("bts:heartbeat", "", {"status": "success"}), "heartbeat"),
        (frame("order_created", "live_orders_ethusd", {}), "order_created"),
        (frame("data", "detail_order_book_ethusd", {}), "detail_order_book"),
        (frame("funding_rate_saved", "funding_rate_btcusd-perp", {}), "funding_rate_saved"),
        (frame("trade", "live_trades_xrpusd", {}), "not subscribed"),
    ],
)
def test_what_is_of_no_use_is_ignored_by_name(message: bytes, name: str) -> None:
    assert only(adapter(), message) == Ignored(name)


def test_errors_and_the_wish_to_reconnect_are_shown_as_they_came() -> None:
    error = frame("bts:error", "", {"code": None, "message": "Bad subscription string."})
    assert only(adapter(), error) == VenueError(error.decode(), "Bad subscription string.")
    reconnect = frame("bts:request_reconnect", "", "")
    assert only(adapter(), reconnect) == VenueClosing(reconnect.decode())


@pytest.mark.parametrize(
    ("message", "rule", "is_book"),
    [
        (trade(price_str="3805.445"), "precision", False),
        (trade(amount_str="nan"), "not_finite", False),
        (trade(price_str="0"), "positive_price", False),
        (trade(type=2), "undecodable", False),
        (changes(bids=[["1.001", "1"]]), "precision", True),
        (changes(bids=[["1.00"]]), "undecodable", True),
        (changes(bids=[["1.00", "-1"]]), "non_negative", True),
    ],
)
def test_a_message_that_breaks_a_rule_is_rejected_by_name(message: bytes, rule: str, is_book: bool) -> None:
    rejected = only(adapter(book=True), message)
    assert isinstance(rejected, Rejected)
    assert (rejected.symbol, rejected.rule, rejected.book) == ("ETHUSD", rule, is_book)
    assert rejected.payload == message


def test_garbage_may_have_been_a_message_of_any_book() -> None:
    for message in (b"", b"{", b"[]", b"\xff", b"{}", b'{"event":"data"}', b'{"event":1,"channel":[]}'):
        [event] = said(adapter(book=True), message)
        assert isinstance(event, (Rejected, Ignored))
        if isinstance(event, Rejected):
            assert event.book and event.symbol is None


def test_one_channel_is_subscribed_by_each_command() -> None:
    decoder = adapter(book=True)
    assert decoder.streams("ETHUSD") == ["live_trades_ethusd", "diff_order_book_ethusd"]
    assert decoder.book_streams("ETHUSD") == ["diff_order_book_ethusd"]
    assert adapter().book_streams("ETHUSD") == []
    assert decoder.commands("SUBSCRIBE", ["a_b", "c_d"], 7) == [
        '{"event":"bts:subscribe","data":{"channel":"a_b"}}',
        '{"event":"bts:subscribe","data":{"channel":"c_d"}}',
    ]
    assert decoder.commands("UNSUBSCRIBE", ["a_b"], 9) == ['{"event":"bts:unsubscribe","data":{"channel":"a_b"}}']
    assert decoder.connect_url("wss://ws.bitstamp.net", ["a"]) == ("wss://ws.bitstamp.net", ["a"])


def test_symbols_are_pairs_without_a_separator() -> None:
    names = ["ETH/USD", "ETHUSD", "ethusd", "ETHUSD.BITSTAMP"]
    assert [adapter().venue_symbol(name) for name in names] == ["ETHUSD"] * 4
    for wrong in ("ETH/USD:USD", "/USD", "ETH-USD", "", "E"):
        with pytest.raises(InvalidArgument):
            adapter().venue_symbol(wrong)


def test_there_are_neither_aggregates_nor_bars_on_the_stream() -> None:
    with pytest.raises(ConfigError):
        BitstampAdapter(trades="aggTrade")
    assert BitstampAdapter(candles=("1m",)).timeframes == ()


def test_instruments_are_made_of_the_list_of_markets() -> None:
    markets = [
        {
            "name": "ETH/USD",
            "market_symbol": "ethusd",
            "base_decimals": 8,
            "counter_decimals": 2,
            "market_type": "SPOT",
        },
        {"name": "BTC/USD", "url_symbol": "btcusd", "base_decimals": 8, "counter_decimals": 0},
    ]
    eth, btc = adapter().decode_instruments(json.dumps(markets).encode(), ["ETHUSD", "BTCUSD"])
    assert (eth.symbol, eth.base, eth.quote, eth.price_scale, eth.size_scale) == ("ETHUSD", "ETH", "USD", 2, 8)
    assert (btc.price_scale, btc.quote_scale, btc.market) == (0, 8, "spot")
    with pytest.raises(UnknownSymbol, match="XRPUSD"):
        adapter().decode_instruments(json.dumps(markets).encode(), ["XRPUSD"])


def test_recent_trades_come_in_the_order_of_their_ids_and_a_bad_one_costs_no_neighbour() -> None:
    rows = [
        {"date": "1641343699", "tid": "3", "amount": "1.0", "type": "1", "price": "10.00"},
        {"date": "1641343698", "tid": "2", "amount": "1.0", "type": "0", "price": "10.001"},
        {"date": "1641343698", "tid": "1", "amount": "1.0", "type": "0", "price": "9.99"},
    ]
    page = adapter().decode_trades("ETHUSD", json.dumps(rows).encode())
    assert page.records["trade_id"].tolist() == [1, 3]
    assert page.records["side"].tolist() == [1, -1]
    assert page.records["ts_event"].tolist() == [1641343698 * NS_PER_SECOND, 1641343699 * NS_PER_SECOND]
    assert [rejected.rule for rejected in page.rejected] == ["precision"]
    assert (page.rows, page.at_present) == (3, True)


def bars(*starts: int) -> bytes:
    row = {"open": "1.00", "high": "3.00", "low": "0.50", "close": "2.00", "volume": "7.5"}
    ohlc = [{"timestamp": str(start), **row} for start in starts]
    return json.dumps({"data": {"pair": "ETH/USD", "ohlc": ohlc}}).encode()


def test_bars_that_have_not_ended_are_left_out_and_what_the_venue_does_not_say_is_absent() -> None:
    page = adapter().decode_bars("ETHUSD", 60, bars(600, 660), now_ns=721 * NS_PER_SECOND - 1)
    [bar] = page.records
    assert (bar["ts"], bar["timeframe"], bar["source"]) == (600 * NS_PER_SECOND, 60, Source.VENUE)
    assert [int(bar[name]) for name in ("open", "high", "low", "close", "volume")] == [100, 300, 50, 200, 750000000]
    assert bar["quote_volume"] == bar["buy_volume"] == bar["trade_count"] == ABSENT
    assert adapter().bars_request("ETHUSD", 61, 0) is None


def test_recorded_answers_are_told_apart_by_their_address() -> None:
    decoder, base = adapter(book=True), "https://www.bitstamp.net/api/v2"
    book = json.dumps({"microtimestamp": str(MICROS), "bids": [], "asks": []}).encode()
    assert isinstance(decoder.decode_rest(f"{base}/order_book/ethusd", book)[0], BookSnapshot)
    assert adapter().decode_rest(f"{base}/order_book/ethusd/", book) == [Ignored("REST order_book")]
    assert decoder.decode_rest(f"{base}/order_book/xrpusd/", book) == [Ignored("not subscribed")]
    assert decoder.decode_rest(f"{base}/transactions/ethusd/?time=hour", b"[]") == [Ignored("REST empty page")]
    candles = decoder.decode_rest(f"{base}/ohlc/ethusd/?step=60", bars(600, 660))[0]
    assert isinstance(candles, Candles)
    assert candles.records["ts"].tolist() == [600 * NS_PER_SECOND]
    assert decoder.decode_rest(f"{base}/ohlc/ethusd/?step=61", bars(600)) == [Ignored("REST ohlc")]
    assert decoder.decode_rest(f"{base}/markets/", b"[]") == [Ignored("REST markets")]
    assert isinstance(decoder.decode_rest(f"{base}/transactions/ethusd/", b"{")[0], Rejected)


def test_a_recordings_texts_are_read_without_any_instrument() -> None:
    decoder = BitstampAdapter()
    assert decoder.survey_texts(trade()) == [("ETHUSD", "3805.44", "0.07920000")]
    assert decoder.survey_texts(changes(asks=[["1.5", "2"]])) == [("ETHUSD", "1.5", "2")]
    for message in (
        b"",
        b"{}",
        frame("bts:heartbeat", "", {}),
        b'{"event":"trade","channel":"live_trades_x","data":1}',
    ):
        assert decoder.survey_texts(message) == []


def test_recent_trades_of_the_newest_second_are_not_taken_for_older_ones() -> None:
    """The stream tells microseconds, REST the second that they are in."""
    sequence, decoder = RecentIds(TRADE), adapter()
    live = only(decoder, trade(id=7, microtimestamp="1641343699600000")).records
    assert len(sequence.live(live)) == 1
    sequence.begin_catch_up()
    rows = [
        {"date": str(1641343699 - older), "tid": str(number), "amount": "1", "type": "0", "price": "1"}
        for number, older in ((9, 0), (8, 0), (7, 0), (6, 1))
    ]
    page = decoder.decode_trades("ETHUSD", json.dumps(rows).encode())
    step = sequence.fetched(page.records, at_present=page.at_present)
    assert step.records["trade_id"].tolist() == [8, 9]
    assert step.lost == []


def best(micros: int, bids: Any, asks: Any) -> bytes:
    data = {"timestamp": str(micros // 10**6), "microtimestamp": str(micros), "bids": bids, "asks": asks}
    return frame("data", "order_book_ethusd", data)


def test_a_recording_of_the_best_levels_alone_has_a_live_book() -> None:
    """Each message is the whole book, in the order of the stream, so that nothing has to prove it."""
    made, sync = adapter(book=True), BookSync(RULE._replace(needs_older=False), ETH)
    sync.subscribed()
    for number in (0, 1):
        [snapshot] = said(made, best(MICROS + number, [["3805.44", str(number + 1)]], [["3806", "1"]]))
        assert isinstance(snapshot, BookSnapshot)
        assert sync.snapshot(snapshot).event is BookEvent.JOINED
        assert (sync.state, sync.book.bids) == (BookState.LIVE, {380544: (number + 1) * 10**8})


def test_an_answer_over_rest_alone_is_proven_by_nothing() -> None:
    sync = BookSync(RULE, ETH)
    sync.subscribed()
    sync.snapshot(BookSnapshot("ETHUSD", MICROS, MICROS * 1000, Levels([1], [1]), Levels([2], [1])))
    assert sync.state is BookState.SYNCING
