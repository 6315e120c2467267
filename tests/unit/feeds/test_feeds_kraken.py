"""The Kraken adapters, versions 1 and 2: messages and checksums as the venue's documentation has them."""

from __future__ import annotations

import json
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st
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
    VenueError,
)
from marketd.daemon.feeds.kraken import KrakenAdapter
from marketd.daemon.feeds.kraken_books import Checksums, Places, TradeHashes, quick_checksum
from marketd.daemon.feeds.kraken_v1 import KrakenV1Adapter
from marketd.daemon.feeds.venue_books import LOST
from marketd.daemon.feeds.venues import venue_of
from marketd.market import compiled
from marketd.market.book import OrderBook
from marketd.market.book_states import BookEvent
from marketd.market.book_sync import BookSync
from marketd.market.fixed import format_fixed
from marketd.market.instruments import Instrument
from marketd.market.layouts import BookState
from marketd.market.records import Source, TradeFlag
from marketd.market.times import ABSENT, NS_PER_SECOND

BTC = Instrument(
    id=1, symbol="BTCUSD", venue="KRAKEN", price_scale=1, size_scale=8, quote_scale=8, base="BTC", quote="USD"
)
XMR = Instrument(
    id=2, symbol="XMRUSD", venue="KRAKEN", price_scale=2, size_scale=8, quote_scale=8, base="XMR", quote="USD"
)
SENT = "2023-10-06T17:35:55.440295Z"
SENT_NS = 1696613755_440295000

# The documentation's example of version 1 is of a book of these ten asks and bids.
V1_ASKS = ["0.05005", "0.05010", "0.05015", "0.05020", "0.05025", "0.05030", "0.05035", "0.05040", "0.05045", "0.05050"]
V1_BIDS = ["0.05000", "0.04995", "0.04990", "0.04980", "0.04975", "0.04970", "0.04965", "0.04960", "0.04955", "0.04950"]
V1_CHECKSUM = 974947235


def v2(**options: Any) -> KrakenAdapter:
    made = KrakenAdapter(**{"book": True, **options})
    made.adopt(BTC)
    made.adopt(XMR)
    return made


def v1(**options: Any) -> KrakenV1Adapter:
    made = KrakenV1Adapter(**{"book": True, **options})
    made.adopt(BTC)
    made.adopt(XMR)
    return made


def only(events: list[Event], kind: type[Any]) -> Any:
    (found,) = [event for event in events if isinstance(event, kind)]
    return found


def of(events: list[Event], kind: type[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def naive_checksum(asks: list[tuple[str, str]], bids: list[tuple[str, str]]) -> int:
    """As the documentation says it: texts without the point and the zeros before the first digit."""
    rows = asks[:10] + bids[:10]
    return crc32("".join(text.replace(".", "").lstrip("0") for row in rows for text in row).encode())


# ---- the checksum ---------------------------------------------------------------------------------


def test_the_checksum_is_that_of_the_documentation() -> None:
    book = OrderBook()
    sizes = [500] * 10  # 0.00000500
    book.reset(Levels([int(text[2:]) for text in V1_BIDS], sizes), Levels([int(text[2:]) for text in V1_ASKS], sizes))
    pair = Instrument(id=1, symbol="X", venue="KRAKEN", price_scale=5, size_scale=8, quote_scale=8)
    assert Checksums().of(book, pair, Places(5, 8)) == V1_CHECKSUM


@given(
    prices=st.lists(st.integers(1, 10**9), min_size=2, max_size=40, unique=True),
    sizes=st.lists(st.integers(1, 10**12), min_size=40, max_size=40),
    more=st.tuples(st.integers(0, 6), st.integers(0, 3)),
)
def test_the_checksum_is_over_the_digits_that_the_venue_writes(
    prices: list[int], sizes: list[int], more: tuple[int, int]
) -> None:
    prices.sort()
    middle = len(prices) // 2
    pair = Instrument(id=1, symbol="X", venue="KRAKEN", price_scale=3, size_scale=5, quote_scale=8)
    bids = Levels(prices[:middle], sizes[:middle])
    asks = Levels(prices[middle:], sizes[middle : len(prices)])
    book = OrderBook()
    book.reset(bids, asks)

    def written(levels: Levels) -> list[tuple[str, str]]:
        rows = sorted(zip(levels.prices, levels.sizes, strict=True))
        return [(format_fixed(p, 3) + "0" * more[0], format_fixed(s, 5) + "0" * more[1]) for p, s in rows]

    expected = naive_checksum(written(asks), written(bids)[::-1])
    places = Places(3 + more[0], 5 + more[1])
    assert Checksums().of(book, pair, places) == expected
    assert quick_checksum(book, pair, places) in ((None,) if compiled.part is None else (expected,))


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(1, 40), st.integers(0, 3), st.sampled_from("XY"), st.sampled_from((3, 4))),
        max_size=40,
    )
)
def test_a_checksum_is_the_same_whatever_was_computed_before(
    rows: list[tuple[bool, int, int, str, int]],
) -> None:
    checksums, books = Checksums(), {"X": OrderBook(), "Y": OrderBook()}
    for is_bid, price, size, symbol, places in rows:
        level, none = Levels([price if is_bid else 100 - price], [size]), Levels([], [])
        book = books[symbol]
        book.apply(*((level, none) if is_bid else (none, level)))
        pair = Instrument(id=1, symbol=symbol, venue="KRAKEN", price_scale=3, size_scale=5, quote_scale=8)
        assert checksums.of(book, pair, Places(places, 5)) == Checksums().of(book, pair, Places(places, 5))
        if compiled.part is not None:
            assert quick_checksum(book, pair, Places(places, 5)) == Checksums().of(book, pair, Places(places, 5))


# ---- version 2 ------------------------------------------------------------------------------------


def book2(kind: str, bids: str, asks: str, check: int, *, symbol: str = "BTC/USD", timestamp: str = SENT) -> bytes:
    """`bids` and `asks` as `price:qty …`, written into the message as numbers, digit by digit."""

    def rows(text: str) -> str:
        pairs = [row.split(":") for row in text.split()]
        return ",".join(f'{{"price":{price},"qty":{qty}}}' for price, qty in pairs)

    more = f',"timestamp":"{timestamp}"' if timestamp else ""
    data = f'{{"symbol":"{symbol}","bids":[{rows(bids)}],"asks":[{rows(asks)}],"checksum":{check}{more}}}'
    return f'{{"channel":"book","type":"{kind}","data":[{data}]}}'.encode()


BIDS = [("45283.5", "0.10000000"), ("45283.4", "1.54582015")]
ASKS = [("45285.2", "0.00100000"), ("45286.4", "1.54571953")]


def test_a_book_is_joined_by_its_checksums() -> None:
    adapter = v2()
    assert adapter.book_rule is not None
    sync = BookSync(adapter.book_rule, BTC)
    sync.subscribed()
    snapshot = book2(
        "snapshot",
        "45283.5:0.10000000 45283.4:1.54582015",
        "45285.2:0.00100000 45286.4:1.54571953",
        naive_checksum(ASKS, BIDS),
        timestamp="",
    )
    taken = only(adapter.decode_many([snapshot]), BookSnapshot)
    assert (taken.sequence, taken.ts_ns) == (0, ABSENT)
    assert taken.bids == Levels([452835, 452834], [10**7, 154582015])
    assert sync.snapshot(taken).state is BookState.LIVE
    update = book2(
        "update",
        "45283.5:0.0",
        "45285.3:2.00000000",
        naive_checksum([ASKS[0], ("45285.3", "2.00000000"), ASKS[1]], BIDS[1:]),
    )
    delta = only(adapter.decode_many([update]), BookDelta)
    assert (delta.first, delta.last, delta.previous, delta.ts_ns) == (0, 0, 0, SENT_NS)
    assert sync.delta(delta).event is BookEvent.APPLIED
    wrong = only(adapter.decode_many([book2("update", "45283.4:9", "", 1)]), BookDelta)
    step = sync.delta(wrong)
    assert step.event is BookEvent.CHECKSUM_FAILED
    assert step.needs_snapshot


def test_levels_deeper_than_the_subscription_are_dropped() -> None:
    rule = v2().book_rule
    assert rule is not None
    assert rule.depth == 1000
    subscription = json.loads(v2().commands("SUBSCRIBE", v2().book_streams("BTCUSD"), 7)[0])
    assert subscription == {
        "method": "subscribe",
        "params": {"channel": "book", "symbol": ["BTC/USD"], "depth": 1000, "snapshot": True},
        "req_id": 7,
    }


def test_numbers_keep_all_their_digits() -> None:
    """A double has no room for these: as such the checksum of a book in SHIB would never hold."""
    shib = Instrument(
        id=3, symbol="SHIBUSD", venue="KRAKEN", price_scale=8, size_scale=5, quote_scale=8, base="SHIB", quote="USD"
    )
    adapter = v2()
    adapter.adopt(shib)
    message = book2("snapshot", "0.00001234:12345678901234.12345", "0.00001240:1e3", 5, symbol="SHIB/USD")
    snapshot = only(adapter.decode_many([message]), BookSnapshot)
    assert snapshot.bids == Levels([1234], [1234567890123412345])
    assert snapshot.asks == Levels([1240], [10**8])


def test_trades_of_version_2_bear_the_takers_side_and_a_number() -> None:
    row = {"symbol": "BTC/USD", "side": "sell", "price": 45283.5, "qty": 0.02, "ord_type": "limit", "timestamp": SENT}
    rows = [{**row, "trade_id": 7}, {**row, "trade_id": 8, "side": "buy"}, {**row, "trade_id": 9, "price": 0.01}]
    events = v2().decode_many([json.dumps({"channel": "trade", "type": "update", "data": rows}).encode()])
    assert only(events, Trades).records.tolist() == [
        (SENT_NS, 0, 0, 7, 452835, 2 * 10**6, -1, 0),
        (SENT_NS, 0, 0, 8, 452835, 2 * 10**6, 1, 0),
    ]
    assert (only(events, Rejected).rule, only(events, Rejected).trade_id) == ("precision", 9)


def test_a_hole_in_the_ids_of_trades_is_a_loss_on_the_connection() -> None:
    row = {"symbol": "BTC/USD", "side": "sell", "price": 45283.5, "qty": 0.02, "ord_type": "limit", "timestamp": SENT}
    adapter = v2()

    def lost(kind: str, *ids: int) -> list[Event]:
        rows = [{**row, "trade_id": number} for number in ids]
        message = json.dumps({"channel": "trade", "type": kind, "data": rows}).encode()
        return of(adapter.decode_many([message]), MessagesLost)

    assert not lost("snapshot", 3, 4, 5)
    assert not lost("update", 6, 7)
    assert lost("update", 9, 10) == [MessagesLost("BTCUSD: 1 trades are missing before number 9")]
    assert not lost("snapshot", 20, 21)  # after a reconnect
    assert not lost("update", 22)


@pytest.mark.parametrize("kind", ["update", "snapshot"])
@pytest.mark.parametrize("ids", [["x", 11, 12], [10, "x", 12], [10, 11, "x"], ["x"]])
def test_a_trade_of_which_the_number_cannot_be_read_is_not_lost(kind: str, ids: list[int | str]) -> None:
    adapter = v2()

    def lost(kind: str, *ids: int | str) -> list[Event]:
        row = {"symbol": "BTC/USD", "side": "sell", "price": 45283.5, "qty": 0.02, "timestamp": SENT}
        rows = [{**row, "trade_id": number} for number in ids]
        message = json.dumps({"channel": "trade", "type": kind, "data": rows}).encode()
        return of(adapter.decode_many([message]), MessagesLost)

    before = 9 if kind == "update" else 3  # a snapshot comes after a reconnect
    assert not lost("update", before)
    assert not lost(kind, *ids)
    assert not lost("update", 13)
    assert lost("update", 15)


@pytest.mark.parametrize("wrong", [{"side": "up"}, {"trade_id": "x"}, {"timestamp": "now"}, {"price": None}])
def test_a_trade_of_the_wrong_shape_costs_no_neighbour(wrong: dict[str, Any]) -> None:
    row = {"symbol": "BTC/USD", "side": "sell", "price": 1.5, "qty": 1, "timestamp": SENT}
    rows = [{**row, "trade_id": 7}, {**row, "trade_id": 8, **wrong}, {**row, "trade_id": 9}]
    events = v2().decode_many([json.dumps({"channel": "trade", "type": "update", "data": rows}).encode()])
    assert only(events, Trades).records["trade_id"].tolist() == [7, 9]
    assert only(events, Rejected).rule in ("undecodable", "not_finite")
    old = ["5541.20000", "0.15850568", "1534614057.321597", "s", "l", ""]
    events = v1().decode_many([trades1(old, ["x", *old[1:]], [*old[:2], "x", *old[3:]], ["1"], old)])
    assert len(only(events, Trades).records) == 2
    assert [event.rule for event in of(events, Rejected)] == ["not_finite", "undecodable", "undecodable"]


def test_a_book_that_cannot_be_read_makes_the_next_update_a_gap() -> None:
    adapter = v2()
    other = book2("update", "1.0:2", "", 5, symbol="XMR/USD")
    adapter.decode_many([book2("snapshot", "1.0:1", "2.0:1", 5), other.replace(b"update", b"snapshot")])
    broken = book2("update", "1.0:1", "", 5).replace(b'"checksum":5', b'"checksum":"x"')
    events = adapter.decode_many([broken, book2("update", "1.0:2", "", 5), other])
    assert only(events, Rejected).symbol == "BTCUSD"
    assert only(events, Rejected).book
    assert [(delta.symbol, delta.previous) for delta in of(events, BookDelta)] == [("BTCUSD", LOST), ("XMRUSD", 0)]
    events = adapter.decode_many([b"\xff\xfe", other])
    assert only(events, BookDelta).previous == LOST


def ohlc2(begin: str, close: float, interval: int = 1) -> bytes:
    row = {"symbol": "BTC/USD", "open": 10.0, "high": 19.0, "low": 9.0, "close": close, "trades": 3, "volume": 1.5}
    row |= {"vwap": 11.0, "interval_begin": begin, "interval": interval, "timestamp": SENT}
    return json.dumps({"channel": "ohlc", "type": "update", "timestamp": SENT, "data": [row]}).encode()


def test_a_bar_of_version_2_has_ended_when_a_later_one_comes() -> None:
    adapter = v2(candles=("1m",))
    minute = "2023-10-04T16:2{}:00.000000000Z"
    events = adapter.decode_many([ohlc2(minute.format(5), 10.5), ohlc2(minute.format(5), 11.0)])
    assert only(events, Ignored) == Ignored("open bar", 2)
    events = adapter.decode_many([ohlc2(minute.format(7), 12.0), ohlc2(minute.format(7), 12.0, interval=5)])
    assert only(events, Candles).records[["ts", "close", "trade_count", "source", "buy_volume"]].tolist() == [
        (1696436700 * NS_PER_SECOND, 110, 3, Source.VENUE, ABSENT)
    ]
    accepted = {"channel": "ohlc", "interval": 1, "symbol": "BTC/USD", "snapshot": False}
    again = json.dumps({"method": "subscribe", "result": accepted, "success": True}).encode()
    assert not of(adapter.decode_many([again, ohlc2(minute.format(9), 13.0)]), Candles)


def test_a_refusal_and_a_maintenance_are_shown_as_they_came() -> None:
    texts = [
        '{"error":"Currency pair not supported X/Y","method":"subscribe","success":false}',
        '{"channel":"status","type":"update","data":[{"system":"maintenance","version":"2.0.0"}]}',
    ]
    assert v2().decode_many([text.encode() for text in texts]) == [
        VenueError(texts[0], "Currency pair not supported X/Y"),
        VenueError(texts[1], texts[1]),
    ]
    online = b'{"channel":"status","type":"update","data":[{"system":"online"}]}'
    assert v2().decode_many([online]) == [Ignored("status")]


# ---- version 1 ------------------------------------------------------------------------------------


def array(*parts: Any) -> bytes:
    return json.dumps([336, *parts], separators=(",", ":")).encode()


def snapshot1(pair: str, asks: list[Any], bids: list[Any]) -> bytes:
    return array({"as": asks, "bs": bids}, "book-1000", pair)


T1, T2 = "1534614248.123678", "1534614248.765567"


def test_the_places_of_version_1_are_learned_from_the_snapshot() -> None:
    """XMR/USD is traded in cents and written with eight places; the checksum is over all eight."""
    adapter = v1()
    assert adapter.book_rule is not None
    sync = BookSync(adapter.book_rule, XMR)
    sync.subscribed()
    asks, bids = [("354.30000000", "1.00000000")], [("353.61000000", "5.88142645")]
    adapter_events = adapter.decode_many([snapshot1("XMR/USD", [[*asks[0], T1]], [[*bids[0], T2]])])
    snapshot = only(adapter_events, BookSnapshot)
    assert snapshot == BookSnapshot(
        "XMRUSD", 0, 1534614248_765567000, Levels([35361], [588142645]), Levels([35430], [10**8])
    )
    assert sync.snapshot(snapshot).state is BookState.LIVE
    check = naive_checksum([("354.20000000", "2.50000000"), *asks], bids)
    delta = array({"a": [["354.20000000", "2.50000000", T1, "r"]], "c": str(check)}, "book-1000", "XMR/USD")
    taken = only(adapter.decode_many([delta]), BookDelta)
    assert taken.ts_ns == snapshot.ts_ns, "a level that is sent again bears its old time"
    assert sync.delta(taken).event is BookEvent.APPLIED


def test_both_sides_may_come_in_one_message() -> None:
    adapter = v1()
    adapter.decode_many([snapshot1("XBT/USD", [], [])])
    asks = {"a": [["5541.30000", "2.50700000", T1], ["5542.50000", "0.40100000", T2]]}
    bids = {"b": [["5541.20000", "0.00000000", T1]], "c": "974942666"}
    delta = only(adapter.decode_many([array(asks, bids, "book-1000", "XBT/USD")]), BookDelta)
    assert delta.checksum == 974942666
    assert delta.asks == Levels([55413, 55425], [250700000, 40100000])
    assert delta.bids == Levels([55412], [0])
    assert delta.previous == 0


def test_an_update_that_cannot_be_read_makes_the_next_one_a_gap() -> None:
    adapter = v1()
    good = array({"b": [["5541.20000", "1.00000000", T1]], "c": "1"}, "book-1000", "XBT/USD")
    for broken in (good.replace(b'"c":"1"', b'"c":"x"'), good.replace(b"5541.20000", b"5541.25000"), b"[1,2", b"{"):
        events = adapter.decode_many([snapshot1("XBT/USD", [], []), good, broken, good])
        assert [delta.previous for delta in of(events, BookDelta)] == [0, LOST]
        assert only(events, Rejected).book


def trades1(*rows: list[str], pair: str = "XBT/USD") -> bytes:
    return array(list(rows), "trade", pair)


def test_trades_of_version_1_are_hashed_and_equal_ones_told_apart() -> None:
    row = ["5541.20000", "0.15850568", "1534614057.321597", "s", "l", ""]
    adapter = v1()
    events = adapter.decode_many([trades1(row, row), trades1(row), trades1([*row[:3], "b", "m", ""])])
    records = only(events, Trades).records
    assert len(set(records["trade_id"].tolist())) == 4
    assert (records["flags"] == TradeFlag.HASHED_ID).all()
    assert records["side"].tolist() == [-1, -1, -1, 1]
    assert records["ts_event"].tolist() == [1534614057_321597000] * 4
    again = only(v1().decode_many([trades1(row), trades1(row, row), trades1([*row[:3], "b", "m", ""])]), Trades)
    assert again.records.tolist() == records.tolist(), "how they are grouped into messages is no part of an id"


def test_a_trade_has_one_id_on_the_stream_and_over_rest() -> None:
    adapter = v1()
    stream = trades1(["5541.20000", "0.15850568", "1534614057.321597", "s", "l", ""])
    live = only(adapter.decode_many([stream]), Trades).records
    body = b'{"error":[],"result":{"XXBTZUSD":[["5541.2","0.15850568",1534614057.3215969,"s","l","",6]],"last":"1"}}'
    page = adapter.decode_trades("BTCUSD", body)
    assert page.records["trade_id"].tolist() == live["trade_id"].tolist()
    assert page.at_present


def test_hashes_begin_anew_with_each_second_and_symbol() -> None:
    hashes = TradeHashes()
    first = hashes.of("A", 1, "x")
    assert hashes.of("B", 1, "x") == first
    assert hashes.of("A", 1, "x") != first
    assert hashes.of("A", 2, "x") not in (first, hashes.of("A", 2, "y"))
    assert hashes.of("A", 1, "x") == first


def test_a_bar_of_version_1_ends_where_the_venue_says() -> None:
    adapter = v1(candles=("5m",))

    def bar(end: str, close: str) -> bytes:
        rows = ["1542057314.748456", end, "3586.7", "3586.9", "3586.6", close, "3586.68894", "0.03373000", 2]
        return array(rows, "ohlc-5", "XBT/USD")

    events = adapter.decode_many([bar("1542057600.000000", "3586.8"), bar("1542057900.000000", "3586.7")])
    assert only(events, Candles).records[["ts", "close", "timeframe", "trade_count"]].tolist() == [
        (1542057300 * NS_PER_SECOND, 35868, 300, 2)
    ]


def test_other_channels_are_ignored_by_name_and_other_pairs_by_that() -> None:
    frames = [array({}, "ticker", "XBT/USD"), array([], "spread", "XBT/USD"), trades1(pair="ETH/EUR")]
    assert of(v1().decode_many(frames), Ignored) == [
        Ignored("ticker"),
        Ignored("spread"),
        Ignored("not subscribed"),
    ]


def test_the_older_protocol_is_chosen_by_its_address() -> None:
    assert venue_of("KRAKEN").adapter is KrakenAdapter
    assert venue_of("KRAKEN", "wss://ws.kraken.com/v2").adapter is KrakenAdapter
    assert venue_of("KRAKEN", "ws://127.0.0.1:9000").adapter is KrakenAdapter
    assert venue_of("KRAKEN", "wss://ws.kraken.com").adapter is KrakenV1Adapter
    assert v1().streams("BTCUSD") == ["trade:XBT/USD", "book-1000:XBT/USD", "ohlc-1:XBT/USD"]
    assert json.loads(v1().commands("SUBSCRIBE", v1().book_streams("BTCUSD"), 3)[0]) == {
        "event": "subscribe",
        "pair": ["XBT/USD"],
        "subscription": {"name": "book", "depth": 1000},
        "reqid": 3,
    }


def test_a_delta_without_numbers_follows_unless_one_was_lost() -> None:
    rule = v2().book_rule
    assert rule is not None
    delta = BookDelta("BTCUSD", 0, 0, 0, ABSENT, Levels([], []), Levels([], []))
    assert rule.follows(0, delta) is rule.splice(0, delta) is Fit.NEXT
    assert rule.follows(0, replace(delta, previous=LOST)) is Fit.GAP
