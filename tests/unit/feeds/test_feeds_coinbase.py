"""The Coinbase adapters, Advanced Trade and the Exchange feed: messages as the venue's documentation has them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from marketd.daemon.feeds.adapter import (
    BookDelta,
    BookSnapshot,
    Candles,
    Event,
    Fit,
    Ignored,
    Levels,
    MessagesLost,
    Rejected,
    Trades,
    UnknownSymbol,
    VenueError,
    VenueRefused,
    VenueTime,
)
from marketd.daemon.feeds.coinbase import CoinbaseAdapter, follows
from marketd.daemon.feeds.coinbase_exchange import CoinbaseExchangeAdapter
from marketd.daemon.feeds.stream_kinds import StreamKinds
from marketd.daemon.feeds.venue_books import LOST
from marketd.daemon.feeds.venues import venue_of
from marketd.market.book_sync import BookSync
from marketd.market.errors import ConfigError, InvalidArgument
from marketd.market.instruments import Instrument
from marketd.market.layouts import BookState
from marketd.market.records import Source
from marketd.market.times import ABSENT, NS_PER_SECOND

BTC = Instrument(
    id=1, symbol="BTCUSD", venue="COINBASE", price_scale=2, size_scale=8, quote_scale=8, base="BTC", quote="USD"
)
ETH = Instrument(
    id=2, symbol="ETHEUR", venue="COINBASE", price_scale=2, size_scale=8, quote_scale=8, base="ETH", quote="EUR"
)
SENT = "2023-02-09T20:32:50.714964855Z"
SENT_NS = 1675974770_714964855


def advanced(**options: Any) -> CoinbaseAdapter:
    made = CoinbaseAdapter(**{"book": True, **options})
    made.adopt(BTC)
    made.adopt(ETH)
    return made


def exchange(**options: Any) -> CoinbaseExchangeAdapter:
    made = CoinbaseExchangeAdapter(**{"book": True, **options})
    made.adopt(BTC)
    return made


def frame(channel: str, number: int, *events: dict[str, Any]) -> bytes:
    return json.dumps(
        {"channel": channel, "client_id": "", "timestamp": SENT, "sequence_num": number, "events": list(events)}
    ).encode()


def book(number: int, kind: str = "update", product: str = "BTC-USD", **levels: Any) -> bytes:
    updates = [
        {"side": side, "event_time": SENT, "price_level": price, "new_quantity": size}
        for side, rows in levels.items()
        for price, size in rows
    ]
    return frame("l2_data", number, {"type": kind, "product_id": product, "updates": updates})


def heartbeat(number: int) -> bytes:
    return frame("heartbeats", number, {"current_time": SENT, "heartbeat_counter": number})


def trade(trade_id: str = "7", **changes: Any) -> dict[str, Any]:
    fields = {"trade_id": trade_id, "product_id": "BTC-USD", "price": "21921.73", "size": "0.3", "side": "BUY"}
    return {**fields, "time": "2023-02-09T20:32:50.5Z", **changes}


def bars(number: int, *closes: tuple[int, str], kind: str = "update") -> bytes:
    rows = [
        {
            "start": str(start),
            "open": "10.00",
            "high": "19.00",
            "low": "9.00",
            "close": close,
            "volume": "1.5",
            "product_id": "BTC-USD",
        }
        for start, close in closes
    ]
    return frame("candles", number, {"type": kind, "candles": rows})


def only(events: list[Event], kind: type[Any]) -> Any:
    (found,) = [event for event in events if isinstance(event, kind)]
    return found


def of(events: list[Event], kind: type[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


# ---- Advanced Trade -------------------------------------------------------------------------------


def test_a_trade_bears_the_side_of_its_maker_and_becomes_one_of_its_taker() -> None:
    events = advanced().decode_many([frame("market_trades", 0, {"type": "update", "trades": [trade()]})])
    assert only(events, Trades).records.tolist() == [(1675974770_500000000, 0, 0, 7, 2192173, 30000000, -1, 0)]
    assert only(events, VenueTime) == VenueTime("BTCUSD", SENT_NS)


def test_the_trades_of_a_message_come_newest_first_and_are_turned_around() -> None:
    rows = [trade("9", side="SELL"), trade("8"), trade("3", product_id="ETH-EUR")]
    events = advanced().decode_many([frame("market_trades", 0, {"type": "snapshot", "trades": rows})])
    by_symbol = {event.symbol: event.records for event in of(events, Trades)}
    assert by_symbol["BTCUSD"]["trade_id"].tolist() == [8, 9]
    assert by_symbol["BTCUSD"]["side"].tolist() == [-1, 1]
    assert by_symbol["ETHEUR"]["trade_id"].tolist() == [3]


def test_a_trade_that_breaks_a_rule_is_rejected_alone() -> None:
    rows = [trade("9"), trade("8", price="1.234"), trade("7", size="0.000000001"), trade("6")]
    events = advanced().decode_many([frame("market_trades", 0, {"type": "update", "trades": rows})])
    assert only(events, Trades).records["trade_id"].tolist() == [6, 9]
    assert [(r.rule, r.trade_id, r.symbol) for r in of(events, Rejected)] == [
        ("precision", 7, "BTCUSD"),
        ("precision", 8, "BTCUSD"),
    ]


@pytest.mark.parametrize("wrong", [{"trade_id": "x"}, {"side": "UNKNOWN"}, {"time": "yesterday"}, {"trade_id": 7}])
def test_a_trade_of_the_wrong_shape_is_undecodable(wrong: dict[str, Any]) -> None:
    rows = [trade("9"), trade(**wrong), trade("6")]
    events = advanced().decode_many([frame("market_trades", 0, {"trades": rows})])
    assert only(events, Rejected).rule == "undecodable"
    assert not only(events, Rejected).book
    assert only(events, Trades).records["trade_id"].tolist() == [6, 9], "it costs no neighbour"


def test_a_snapshot_and_updates_of_a_book_bear_the_number_of_their_message() -> None:
    events = advanced().decode_many(
        [
            book(4, "snapshot", bid=[("100.00", "1"), ("99.50", "2.5")], offer=[("100.01", "3")]),
            heartbeat(5),
            book(6, bid=[("99.50", "0")], offer=[("100.02", "1")]),
        ]
    )
    snapshot, delta = only(events, BookSnapshot), only(events, BookDelta)
    assert snapshot == BookSnapshot(
        "BTCUSD", 4, SENT_NS, Levels([10000, 9950], [10**8, 25 * 10**7]), Levels([10001], [3 * 10**8])
    )
    assert delta == BookDelta("BTCUSD", 6, 6, 4, SENT_NS, Levels([9950], [0]), Levels([10002], [10**8]))
    assert follows(4, delta) is Fit.NEXT
    assert follows(5, delta) is Fit.GAP
    assert follows(6, delta) is Fit.OLD


def test_a_message_may_hold_several_books_and_one_book_twice() -> None:
    level = [{"side": "bid", "event_time": SENT, "price_level": "5.00", "new_quantity": "1"}]
    update = {"type": "update", "updates": level}
    message = frame(
        "l2_data",
        1,
        {**update, "product_id": "BTC-USD"},
        {**update, "product_id": "ETH-EUR"},
        {**update, "product_id": "BTC-USD"},
    )
    first = [book(0, "snapshot", bid=[("4.00", "1")]), message]
    deltas = of(advanced().decode_many(first), BookDelta)
    assert [(delta.symbol, delta.previous, delta.last) for delta in deltas] == [
        ("BTCUSD", 0, 1),
        ("ETHEUR", LOST, 1),
        ("BTCUSD", 1, 1),
    ]


def test_a_hole_in_the_connections_numbers_is_a_gap_in_every_book() -> None:
    adapter = advanced()
    syncs = {i.symbol: BookSync(adapter.book_rule, i) for i in (BTC, ETH)}  # type: ignore[arg-type]
    for sync in syncs.values():
        sync.subscribed()

    def feed(*frames: bytes) -> dict[str, BookState]:
        for event in adapter.decode_many(frames):
            if isinstance(event, BookSnapshot):
                syncs[event.symbol].snapshot(event)
            elif isinstance(event, BookDelta):
                syncs[event.symbol].delta(event)
        return {symbol: sync.state for symbol, sync in syncs.items()}

    levels: dict[str, Any] = {"bid": [("100.00", "1")], "offer": [("101.00", "1")]}
    live = feed(book(0, "snapshot", **levels), book(1, "snapshot", "ETH-EUR", **levels), heartbeat(2))
    assert live == {"BTCUSD": BookState.LIVE, "ETHEUR": BookState.LIVE}
    assert feed(book(3, **levels))["BTCUSD"] is BookState.LIVE
    # number 4 never came: nobody knows what it was
    assert feed(heartbeat(5), book(6, **levels), book(7, "update", "ETH-EUR", **levels)) == {
        "BTCUSD": BookState.SYNCING,
        "ETHEUR": BookState.SYNCING,
    }
    assert feed(book(8, "snapshot", **levels), book(9, **levels))["BTCUSD"] is BookState.LIVE


def test_a_message_that_cannot_be_read_is_a_gap_in_every_book() -> None:
    adapter = advanced()
    adapter.decode_many([book(0, "snapshot", bid=[("100.00", "1")])])
    events = adapter.decode_many([b'{"channel":"l2_data","seq', book(2, bid=[("100.00", "2")])])
    assert only(events, Rejected).book
    assert only(events, BookDelta).previous == LOST


def test_a_level_that_breaks_a_rule_costs_that_book_alone() -> None:
    adapter = advanced()
    adapter.decode_many([book(0, "snapshot", bid=[("1.00", "1")]), book(1, "snapshot", "ETH-EUR", bid=[("1.00", "1")])])
    events = adapter.decode_many(
        [book(2, bid=[("1.001", "1")]), book(3, bid=[("1.00", "1")]), book(4, "update", "ETH-EUR", bid=[("1.00", "1")])]
    )
    assert only(events, Rejected)._replace(detail="", payload=b"") == Rejected(
        "BTCUSD", "precision", "", b"", None, True
    )
    assert [(delta.symbol, delta.previous) for delta in of(events, BookDelta)] == [("BTCUSD", LOST), ("ETHEUR", 1)]


def test_two_connections_count_for_themselves() -> None:
    adapter = advanced()
    adapter.decode_many([book(0, "snapshot", bid=[("1.00", "1")]), heartbeat(1), heartbeat(2)])
    adapter.decode_many([book(0, "snapshot", "ETH-EUR", bid=[("1.00", "1")])])
    events = adapter.decode_many([book(3, bid=[("1.00", "2")])])
    events += adapter.decode_many([book(1, "update", "ETH-EUR", bid=[("1.00", "2")])])
    assert [delta.previous for delta in of(events, BookDelta)] == [0, 0]


def test_a_bar_has_ended_when_a_later_one_comes() -> None:
    adapter = advanced(candles=("5m",))
    first = adapter.decode_many([bars(0, (300, "10.00")), bars(1, (300, "11.00"))])
    assert only(first, Ignored) == Ignored("open bar", 2)
    second = adapter.decode_many([bars(2, (600, "12.00"), (300, "11.50"))])
    assert only(second, Candles).records[["ts", "close", "timeframe", "source"]].tolist() == [
        (300 * NS_PER_SECOND, 1150, 300, Source.VENUE)
    ]
    assert only(second, Candles).records["quote_volume"].tolist() == [ABSENT]


def test_the_last_state_before_a_new_subscription_is_no_final_one() -> None:
    adapter = advanced(candles=("5m",))
    adapter.decode_many([bars(0, (300, "10.00"))])
    events = adapter.decode_many([bars(0, (900, "12.00"), (600, "11.00"), kind="snapshot")])
    assert only(events, Candles).records["ts"].tolist() == [600 * NS_PER_SECOND]


def test_only_bars_that_the_stream_has_are_subscribed() -> None:
    assert advanced(candles=("1m",)).timeframes == ()
    assert advanced(candles=("1m", "5m")).timeframes == (300,)
    assert "candles:BTC-USD" in advanced(candles=("5m",)).streams("BTCUSD")
    with pytest.raises(InvalidArgument):
        advanced(candles=("five",))


def test_subscriptions_name_one_channel_each_and_heartbeats_keep_them_open() -> None:
    adapter = advanced()
    streams = adapter.streams("BTCUSD") + adapter.streams("ETHEUR")
    assert [json.loads(text) for text in adapter.commands("SUBSCRIBE", streams, 1)] == [
        {"type": "subscribe", "channel": "market_trades", "product_ids": ["BTC-USD", "ETH-EUR"]},
        {"type": "subscribe", "channel": "level2", "product_ids": ["BTC-USD", "ETH-EUR"]},
        {"type": "subscribe", "channel": "heartbeats"},
    ]
    assert [json.loads(text) for text in adapter.commands("UNSUBSCRIBE", adapter.book_streams("BTCUSD"), 1)] == [
        {"type": "unsubscribe", "channel": "level2", "product_ids": ["BTC-USD"]}
    ]
    many = [f"level2:A{n}-USD" for n in range(250)]
    assert [len(json.loads(text)["product_ids"]) for text in adapter.commands("SUBSCRIBE", many, 1)] == [100, 100, 50]


def test_an_error_is_shown_as_it_came() -> None:
    text = '{"type":"error","message":"channel level3 is not supported"}'
    assert advanced().decode_many([text.encode()]) == [VenueError(text, "channel level3 is not supported")]


# ---- the Exchange feed ----------------------------------------------------------------------------


def match(trade_id: int = 10, **changes: Any) -> bytes:
    fields = {"type": "match", "trade_id": trade_id, "time": "2014-11-07T08:19:27.028459Z", "product_id": "BTC-USD"}
    more = {"size": "5.23512", "price": "400.23", "side": "sell", "sequence": 50, "maker_order_id": "ac928c66"}
    return json.dumps({**fields, **more, **changes}).encode()


def test_a_match_bears_the_makers_side_too() -> None:
    events = exchange().decode_many([match(), match(11, side="buy", type="last_match")])
    assert only(events, Trades).records[["trade_id", "side", "ts_event"]].tolist() == [
        (10, 1, 1415348367_028459000),
        (11, -1, 1415348367_028459000),
    ]


def test_updates_of_the_exchange_feed_bear_no_numbers() -> None:
    snapshot = {"type": "snapshot", "product_id": "BTC-USD", "bids": [["10.10", "0.5"]], "asks": [["10.20", "1"]]}
    update = {"type": "l2update", "product_id": "BTC-USD", "time": SENT}
    update["changes"] = [["buy", "10.10", "0.0"], ["sell", "10.15", "2"]]  # type: ignore[assignment]
    adapter = exchange()
    events = adapter.decode_many([json.dumps(message).encode() for message in (snapshot, update)])
    assert only(events, BookSnapshot) == BookSnapshot(
        "BTCUSD", 0, ABSENT, Levels([1010], [5 * 10**7]), Levels([1020], [10**8])
    )
    delta = only(events, BookDelta)
    assert delta == BookDelta("BTCUSD", 0, 0, 0, SENT_NS, Levels([1010], [0]), Levels([1015], [2 * 10**8]))
    assert adapter.book_rule is not None
    assert adapter.book_rule.follows(0, delta) is Fit.NEXT
    assert adapter.book_rule.follows(0, replace(delta, previous=LOST)) is Fit.GAP


def test_an_update_that_cannot_be_used_makes_the_next_one_a_gap() -> None:
    adapter = exchange()
    good = {"type": "l2update", "product_id": "BTC-USD", "time": SENT, "changes": [["buy", "10.10", "1"]]}
    bad = {**good, "changes": [["buy", "10.101", "1"]]}
    worse = {**good, "changes": [["buy"]]}
    snapshot = {"type": "snapshot", "product_id": "BTC-USD", "bids": [], "asks": []}
    for broken in (bad, worse):
        frames = [json.dumps(message).encode() for message in (snapshot, good, broken, good, good)]
        events = adapter.decode_many(frames)
        assert [delta.previous for delta in of(events, BookDelta)] == [0, LOST, 0]
        assert only(events, Rejected).book


def beat(last_trade_id: int) -> bytes:
    fields = {"type": "heartbeat", "sequence": 90, "last_trade_id": last_trade_id, "product_id": "BTC-USD"}
    return json.dumps({**fields, "time": SENT}).encode()


def test_a_hole_in_the_ids_of_matches_is_a_loss_on_the_connection() -> None:
    """Which is told among the books' events, where it was seen."""
    adapter = exchange()
    snapshot = json.dumps({"type": "snapshot", "product_id": "BTC-USD", "bids": [], "asks": []}).encode()
    events = adapter.decode_many([match(9, type="last_match"), match(10), snapshot, match(13), snapshot, match(14)])
    assert [type(event) for event in events if isinstance(event, (BookSnapshot, MessagesLost))] == [
        BookSnapshot,
        MessagesLost,
        BookSnapshot,
    ]
    assert only(events, MessagesLost).words == "BTCUSD: 2 trades are missing before number 13"


def test_what_a_subscription_begins_with_and_what_came_before_show_no_loss() -> None:
    frames = [match(10), match(20, type="last_match"), match(21), match(19), match(22)]
    assert not of(exchange().decode_many(frames), MessagesLost)


def test_a_match_that_only_a_heartbeat_tells_of_is_lost_when_the_next_one_comes() -> None:
    adapter = exchange()
    assert not of(adapter.decode_many([match(9, type="last_match"), beat(10), match(10), beat(10)]), MessagesLost)
    events = adapter.decode_many([beat(11)])
    assert not of(events, MessagesLost)  # it may be on its way
    assert only(events, Ignored).name == "heartbeat"
    assert only(adapter.decode_many([beat(11)]), MessagesLost).words.startswith("BTCUSD: trade 11 ")
    assert not of(adapter.decode_many([beat(11), match(12)]), MessagesLost)  # told once


@pytest.mark.parametrize("kind", ["match", "last_match"])
def test_a_match_that_cannot_be_read_is_not_lost(kind: str) -> None:
    damaged = match(0, type=kind).replace(b'"trade_id": 0', b'"trade_id": "x"')
    events = exchange().decode_many([match(9), damaged, beat(10), beat(10), match(11)])
    assert only(events, Rejected).rule == "undecodable"
    assert not of(events, MessagesLost)


def test_matches_that_stall_or_come_late_are_told_as_lost_once() -> None:
    adapter = exchange()
    adapter.decode_many([match(10)])
    assert len(of(adapter.decode_many([beat(number) for number in range(11, 40)]), MessagesLost)) == 1
    late = [frame for number in range(41, 60) for frame in (beat(number), match(number - 2))]
    assert not of(adapter.decode_many([match(38), *late]), MessagesLost)
    assert len(of(adapter.decode_many([beat(60), beat(60), beat(60)]), MessagesLost)) == 1


def test_the_heartbeats_of_the_exchange_feed_are_no_bars() -> None:
    adapter = exchange()
    kinds = StreamKinds(adapter, CoinbaseExchangeAdapter, trades="trade", series=())
    assert kinds.of(adapter._instruments["BTCUSD"]) == {
        "trade": {"matches:BTC-USD"},
        "book": {"level2_batch:BTC-USD"},
    }
    assert adapter.streams("BTCUSD")[-1] == "heartbeat:BTC-USD"


def test_messages_of_the_full_channel_are_ignored_by_name() -> None:
    kinds = ("received", "open", "done", "change", "activate")
    frames = [json.dumps({"type": kind, "product_id": "BTC-USD", "time": SENT}).encode() for kind in kinds]
    assert {event.name for event in of(exchange().decode_many(frames), Ignored)} == set(kinds)


def test_the_older_protocol_is_chosen_by_its_address() -> None:
    assert venue_of("COINBASE").adapter is CoinbaseAdapter
    assert venue_of("COINBASE", "ws://127.0.0.1:9000").adapter is CoinbaseAdapter
    assert venue_of("COINBASE", "wss://ws-feed.exchange.coinbase.com").adapter is CoinbaseExchangeAdapter
    assert venue_of("COINBASE", "wss://ws-feed.pro.coinbase.com").adapter is CoinbaseExchangeAdapter
    assert "level2_batch:BTC-USD" in exchange().streams("BTCUSD")


# ---- names and REST -------------------------------------------------------------------------------


def test_symbols_are_found_whatever_the_separator() -> None:
    adapter = advanced()
    for text in ("BTC/USD", "btc-usd", "BTCUSD", "BTC/USD.COINBASE"):
        assert adapter.venue_symbol(text) == "BTCUSD"
    for wrong in ("BTC/USD:USD", "BTC/", "-", "B*C"):
        with pytest.raises(InvalidArgument):
            adapter.venue_symbol(wrong)
    with pytest.raises(ConfigError):
        CoinbaseAdapter(trades="aggTrade")


def test_products_tell_their_scales() -> None:
    body = json.dumps(
        [
            {"id": "BTC-USD", "base_currency": "BTC", "quote_currency": "USD", "quote_increment": "0.01"}
            | {"base_increment": "0.00000001", "status": "online"},
            {"id": "SHIB-USD", "base_currency": "SHIB", "quote_currency": "USD", "quote_increment": "0.00000001"}
            | {"base_increment": "1", "status": "online"},
        ]
    ).encode()
    made = {i.symbol: i for i in advanced().decode_instruments(body, ["SHIBUSD", "BTCUSD"])}
    assert (made["BTCUSD"].price_scale, made["BTCUSD"].size_scale) == (2, 8)
    assert (made["SHIBUSD"].price_scale, made["SHIBUSD"].size_scale, made["SHIBUSD"].base) == (8, 0, "SHIB")
    with pytest.raises(UnknownSymbol, match="XYZUSD"):
        advanced().decode_instruments(body, ["BTCUSD", "XYZUSD"])


def rest_trades(*ids: int) -> bytes:
    rows = [{"trade_id": n, "side": "sell", "size": "1", "price": "2.00", "time": SENT} for n in ids]
    return json.dumps(rows).encode()


def test_a_page_of_trades_is_asked_for_by_the_id_after_its_last_one() -> None:
    request = advanced().trades_request("BTCUSD", 5001)
    assert request is not None
    assert request.target == "/products/BTC-USD/trades?limit=1000&after=6001"


def test_a_page_that_reaches_the_id_asked_for_is_not_the_last_one() -> None:
    adapter = advanced()
    adapter.trades_request("BTCUSD", 5001)
    page = adapter.decode_trades("BTCUSD", rest_trades(*range(6000, 5000, -1)))
    assert page.records["trade_id"].tolist() == list(range(5001, 6001))
    assert page.records["side"].tolist()[:1] == [1]
    assert not page.at_present
    adapter.trades_request("BTCUSD", 6001)
    again = adapter.decode_trades("BTCUSD", rest_trades(*range(6000, 5000, -1)))
    assert again.at_present, "the newest trade is the last of the page before"


def test_a_page_that_ends_before_is_the_last_one() -> None:
    adapter = advanced()
    adapter.trades_request("BTCUSD", 5001)
    page = adapter.decode_trades("BTCUSD", rest_trades(5003, 5002, 5001, 5000))
    assert page.at_present
    assert page.rows == 4


def test_bars_over_rest_are_exact_and_without_the_open_one() -> None:
    adapter = advanced(candles=("5m",))
    request = adapter.bars_request("BTCUSD", 300, 300 * NS_PER_SECOND)
    assert request is not None
    assert request.target.startswith("/products/BTC-USD/candles?granularity=300&start=1970-01-01T00%3A05%3A00")
    body = b"[[600,1.10,1.31,1.2,1.25,0.1],[300,1.1,1.3,1.20,1.23,123456789.12345678]]"
    page = adapter.decode_bars("BTCUSD", 300, body, 800 * NS_PER_SECOND)
    assert page.records[["ts", "open", "high", "low", "close", "volume"]].tolist() == [
        (300 * NS_PER_SECOND, 120, 130, 110, 123, 12345678912345678)
    ]
    assert page.at_present
    late = adapter.decode_bars("BTCUSD", 300, body, 10**6 * NS_PER_SECOND)
    assert len(late.records) == 2
    assert not late.at_present
    assert adapter.bars_request("BTCUSD", 60 * 7, 0) is None


def test_the_venues_time_and_refusals_are_read() -> None:
    adapter = advanced()
    assert adapter.decode_time(b'{"iso":"2015-01-07T23:47:25.201Z","epoch":1420674445.201}') == 1420674445_201000000
    with pytest.raises(VenueRefused, match="NotFound"):
        adapter.decode_trades("BTCUSD", b'{"message":"NotFound"}')


def test_a_recorded_answer_of_trades_is_used() -> None:
    url = "https://api.exchange.coinbase.com/products/BTC-USD/trades?limit=1000"
    assert only(advanced().decode_rest(url, rest_trades(5, 4)), Trades).records["trade_id"].tolist() == [4, 5]
    assert advanced().decode_rest("https://api.pro.coinbase.com/products", b"[]") == [Ignored("REST products")]
