"""The OKX adapter: bytes in, events out; every message is accounted for. Messages as the venue documents them."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.daemon.feeds.adapter import (
    BookDelta,
    BookSnapshot,
    Candles,
    Event,
    Fit,
    Ignored,
    Levels,
    Rejected,
    Series,
    Trades,
    UnknownSymbol,
    VenueClosing,
    VenueError,
    VenueRefused,
    VenueTime,
)
from marketd.daemon.feeds.okx import OkxAdapter, endpoint_of
from marketd.daemon.feeds.okx_book import RULE, checksum, is_shortest, shortest
from marketd.daemon.feeds.okx_names import inst_id_of, inst_id_of_instrument, kind_of, symbol_of
from marketd.market.book import OrderBook
from marketd.market.book_states import BookEvent
from marketd.market.book_sync import BookSync
from marketd.market.errors import ConfigError, InvalidArgument
from marketd.market.instruments import Instrument
from marketd.market.layouts import BookState
from marketd.market.records import Source, TradeFlag
from marketd.market.times import ABSENT, NS_PER_MS, NS_PER_SECOND

SPOT = Instrument(
    id=1, symbol="BTCUSDT", venue="OKX", price_scale=1, size_scale=8, quote_scale=8, base="BTC", quote="USDT"
)
SWAP = Instrument(
    id=2,
    symbol="BTCUSDTSWAP",
    venue="OKX",
    price_scale=1,
    size_scale=2,
    quote_scale=3,
    base="BTC",
    quote="USDT",
    market="swap",
)
MS = 1_630_048_897_897
ALL_SERIES = ("funding", "mark_price", "open_interest", "liquidation")


def adapter(**options: Any) -> OkxAdapter:
    made = OkxAdapter(**options)
    made.adopt(SPOT)
    made.adopt(SWAP)
    return made


def encode(message: Any) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def channel(name: str, data: Any, inst_id: str = "BTC-USDT", **more: Any) -> bytes:
    return encode({"arg": {"channel": name, "instId": inst_id}, **more, "data": data})


def trade_row(**changes: Any) -> dict[str, Any]:
    row = {"instId": "BTC-USDT", "tradeId": "130639474", "px": "42219.9", "sz": "0.12060306", "side": "buy"}
    return {**row, "ts": str(MS), "count": "3", "source": "0", "seqId": 1234, **changes}


def book(action: str, previous: int, number: int, bids: Any = (), asks: Any = (), checksum: int = 0) -> bytes:
    row = {"asks": list(asks), "bids": list(bids), "ts": str(MS), "checksum": checksum}
    return channel("books", [{**row, "prevSeqId": previous, "seqId": number}], action=action)


def level(price: str, size: str) -> list[str]:
    return [price, size, "0", "1"]


def said(adapter: OkxAdapter, *frames: bytes) -> list[Event]:
    return [event for event in adapter.decode_many(frames) if type(event) is not VenueTime]


def only(adapter: OkxAdapter, message: bytes) -> Any:
    [event] = said(adapter, message)
    return event


# ---- trades ---------------------------------------------------------------------------------------


def test_every_single_trade_bears_its_number_and_the_takers_side() -> None:
    trades = only(adapter(), channel("trades-all", [trade_row()]))
    assert isinstance(trades, Trades)
    [row] = trades.records
    assert (trades.symbol, row["trade_id"], row["ts_event"]) == ("BTCUSDT", 130639474, MS * NS_PER_MS)
    assert (row["price"], row["size"], row["side"], row["flags"]) == (422199, 12060306, 1, 0)
    assert adapter().numbered_trades
    assert only(adapter(), channel("trades-all", [trade_row(side="sell")])).records["side"].tolist() == [-1]


def test_aggregates_are_flagged_and_cannot_be_asked_for_again() -> None:
    decoder = adapter(trades="aggTrade")
    assert only(decoder, channel("trades", [trade_row()])).records["flags"].tolist() == [TradeFlag.AGGREGATE]
    assert only(decoder, channel("trades-all", [trade_row()])) == Ignored("trades-all")
    assert only(adapter(), channel("trades", [trade_row()])) == Ignored("trades")
    assert not decoder.numbered_trades
    assert decoder.trades_request("BTCUSDT", 7) is None
    assert decoder.newest_trade_request("BTCUSDT") is None
    with pytest.raises(ConfigError):
        OkxAdapter(trades="both")


def test_a_bad_row_costs_no_neighbour() -> None:
    rows = [trade_row(tradeId="1"), trade_row(px="1.01"), trade_row(tradeId="x"), trade_row(side=""), trade_row(sz="2")]
    trades, *rejected = said(adapter(), channel("trades-all", rows))
    assert isinstance(trades, Trades)
    assert trades.records["trade_id"].tolist() == [1, 130639474]
    rules = [event.rule for event in rejected if isinstance(event, Rejected)]
    assert rules == ["precision", "undecodable", "undecodable"]


# ---- the book -------------------------------------------------------------------------------------


def test_a_book_is_a_snapshot_and_deltas_that_name_their_predecessor() -> None:
    first = book("snapshot", -1, 10, [level("8476.9", "415")], [level("8477", "7")])
    then = book("update", 10, 15, [level("8476.9", "0")])
    snapshot, delta = said(adapter(book=True), first, then)
    ns = MS * NS_PER_MS
    assert snapshot == BookSnapshot(
        "BTCUSDT", 10, ns, Levels([84769], [41500000000]), Levels([84770], [700000000]), None
    )
    assert delta == BookDelta("BTCUSDT", 15, 15, 10, ns, Levels([84769], [0]), Levels([], []), None)


def test_the_documented_sequence_with_a_pause_and_a_reset_has_no_gap() -> None:
    steps = [(10, 15), (15, 15), (15, 3), (3, 5)]
    sync = BookSync(RULE, SPOT)
    sync.subscribed()
    decoder = adapter(book=True)
    frames = [book("snapshot", -1, 10, [level("1", "1")]), *(book("update", *step) for step in steps)]
    for event in said(decoder, *frames):
        if isinstance(event, BookSnapshot):
            sync.snapshot(event)
        else:
            assert isinstance(event, BookDelta)
            assert sync.delta(event).event is BookEvent.APPLIED
    assert (sync.state, sync.sequence) == (BookState.LIVE, 5)


def test_a_delta_that_does_not_name_the_last_one_is_old_or_a_gap() -> None:
    delta = only(adapter(book=True), book("update", 10, 15))
    assert [RULE.follows(last, delta) for last in (10, 15, 20, 11)] == [Fit.NEXT, Fit.OLD, Fit.GAP, Fit.GAP]


@pytest.mark.parametrize(
    ("bids", "asks", "wanted"),
    [
        ([("3366.1", 7), ("3366", 6)], [("3366.8", 9), ("3368", 8)], -1881014294),
        ([("3366.1", 7)], [("3366.8", 9), ("3368", 8), ("3372", 8)], 831078360),
    ],
)
def test_the_checksum_is_the_documented_one(
    bids: list[tuple[str, int]], asks: list[tuple[str, int]], wanted: int
) -> None:
    held = OrderBook()
    held.reset(*(Levels([int(float(p) * 10) for p, _ in side], [s * 100 for _, s in side]) for side in (bids, asks)))
    assert checksum(held, SWAP) == wanted


@given(st.integers(1, 60), st.integers(1, 60), st.randoms(use_true_random=False))
def test_the_checksum_is_over_25_levels_a_side(bids: int, asks: int, random: Any) -> None:
    def side(count: int, base: int, step: int) -> list[tuple[int, int]]:
        return [(base + step * index, random.randrange(1, 10**10)) for index in range(count)]

    bid_side, ask_side = side(bids, 100_000, -1), side(asks, 100_001, 1)
    held = OrderBook()
    held.reset(*(Levels([p for p, _ in rows], [s for _, s in rows]) for rows in (bid_side, ask_side)))
    texts = []
    for index in range(25):
        for rows in (bid_side, ask_side):
            if index < len(rows):
                price, size = rows[index]
                texts.append(f"{shortest(price, 1)}:{shortest(size, 8)}")
    unsigned = zlib.crc32(":".join(texts).encode())
    assert checksum(held, SPOT) & 0xFFFFFFFF == unsigned
    assert -(2**31) <= checksum(held, SPOT) < 2**31


def test_numbers_are_written_without_needless_zeros() -> None:
    assert [shortest(value, 2) for value in (847700, 847698, 847650, 5, 0)] == [
        "8477",
        "8476.98",
        "8476.5",
        "0.05",
        "0",
    ]
    assert shortest(500, 0) == "500"
    assert is_shortest([level("8477", "0.5")])
    assert not is_shortest([level("8477", "0.50")])
    assert not is_shortest([level("8477.", "1")])


def test_a_checksum_of_zero_is_none_and_one_that_cannot_be_computed_is_not_believed() -> None:
    decoder = adapter(book=True)
    assert only(decoder, book("snapshot", -1, 1, [level("1", "2.5")], checksum=0)).checksum is None
    assert only(decoder, book("update", 1, 2, [level("1", "2")], checksum=77)).checksum == 77
    assert only(decoder, book("update", 2, 3, [level("1", "2.50")], checksum=77)).checksum is None
    assert only(decoder, book("update", 3, 4, [level("1", "2")], checksum=77)).checksum is None  # it may still be there
    assert only(decoder, book("snapshot", -1, 5, [level("1", "2")], checksum=77)).checksum == 77


def test_a_book_whose_checksum_fails_is_not_live() -> None:
    decoder = adapter(book=True)
    good = zlib.crc32(b"1:2.5:1.5:3")
    good -= 2**32 if good >= 2**31 else 0
    for number, state in ((good, BookState.LIVE), (good + 1, BookState.SYNCING)):
        sync = BookSync(RULE, SPOT)
        sync.subscribed()
        sync.snapshot(only(decoder, book("snapshot", -1, 5, [level("1", "2.5")], [level("1.5", "3")], number)))
        assert sync.state is state


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        (book("update", 1, 2, [level("1.01", "1")]), "precision"),
        (book("update", 1, 2, [["1"]]), "undecodable"),
        (book("update", 1, 2, [[]]), "undecodable"),
        (book("update", 1, 2, [level("0", "1")]), "positive_price"),
        (channel("books", [{"bids": []}], action="update"), "undecodable"),
    ],
)
def test_a_message_of_a_book_that_breaks_a_rule_is_rejected_as_one(message: bytes, rule: str) -> None:
    rejected = only(adapter(book=True), message)
    assert (rejected.symbol, rejected.rule, rejected.book, rejected.payload) == ("BTCUSDT", rule, True, message)


def test_an_older_recording_without_numbers_is_joined_by_its_checksums() -> None:
    rows = [{"bids": [level("1", size)], "asks": [], "ts": str(MS), "checksum": 7} for size in ("2", "3")]
    first, then = (channel("books", [row], action=name) for name, row in zip(("snapshot", "update"), rows, strict=True))
    snapshot, delta = said(adapter(book=True), first, then)
    assert isinstance(snapshot, BookSnapshot) and isinstance(delta, BookDelta)
    assert (snapshot.sequence, delta.last, delta.previous, delta.checksum) == (0, 0, None, 7)
    assert RULE.splice(0, delta) is RULE.follows(0, delta) is Fit.NEXT
    half = only(adapter(book=True), channel("books", [{**rows[1], "seqId": 7}], action="update"))
    assert (half.rule, half.book) == ("undecodable", True)


def test_without_a_book_its_messages_are_ignored_by_name() -> None:
    assert only(adapter(), book("update", 1, 2)) == Ignored("books")


# ---- bars -----------------------------------------------------------------------------------------


def candle(confirm: str = "1", **more: Any) -> bytes:
    row = ["1597026360000", "8533", "8553.7", "8527.1", "8548.2", "45247", "529.5858061", "5529.5858061", confirm]
    return channel("candle1m", [row], **more)


def test_a_completed_candle_is_a_bar_of_the_venue() -> None:
    candles = only(adapter(), candle())
    assert isinstance(candles, Candles)
    [bar] = candles.records
    assert (bar["ts"], bar["timeframe"], bar["source"]) == (1597026360000 * NS_PER_MS, 60, Source.VENUE)
    assert [int(bar[name]) for name in ("open", "high", "low", "close")] == [85330, 85537, 85271, 85482]
    assert (bar["volume"], bar["quote_volume"]) == (45247 * 10**8, 552958580610)
    assert bar["buy_volume"] == bar["trade_count"] == ABSENT


def test_candles_that_are_open_or_were_not_asked_for_are_ignored_by_name() -> None:
    assert only(adapter(), candle("0")) == Ignored("open candle")
    assert only(adapter(), channel("candle5m", [])) == Ignored("candle5m")
    assert only(adapter(), channel("candle1m", [])) == Ignored("empty message")
    rejected = only(adapter(), channel("candle1m", [["1", "2"]]))
    assert (rejected.rule, rejected.symbol) == ("undecodable", "BTCUSDT")


# ---- declared series ------------------------------------------------------------------------------


def test_a_swap_tells_funding_mark_price_and_open_interest() -> None:
    decoder = adapter(series=ALL_SERIES)
    swap, at = {"instId": "BTC-USDT-SWAP", "instType": "SWAP"}, {"ts": str(MS)}
    funding = {"fundingRate": "0.0001515", "fundingTime": "1622822400000", "nextFundingTime": "1622851200000"}
    told = said(
        decoder,
        channel("funding-rate", [{**swap, **at, **funding}], "BTC-USDT-SWAP"),
        channel("mark-price", [{**swap, **at, "markPx": "42310.63"}], "BTC-USDT-SWAP"),
        channel("open-interest", [{**swap, **at, "oi": "2216113.01", "oiCcy": "22161"}], "BTC-USDT-SWAP"),
    )
    rows = {event.stream: event.records[0] for event in told if isinstance(event, Series)}
    assert (rows["funding"]["rate"], rows["funding"]["next_ns"]) == (0.0001515, 1622822400000 * NS_PER_MS)
    assert rows["mark_price"]["price"] == 42310.63
    assert rows["open_interest"]["size"] == 221611301
    assert {row["ts_event"] for row in rows.values()} == {MS * NS_PER_MS}


def test_liquidations_of_a_type_come_together_and_each_instrument_takes_its_own() -> None:
    detail = {"bkLoss": "0", "bkPx": "7831.5", "ccy": "", "posSide": "short", "side": "buy", "sz": "13", "ts": str(MS)}
    data = [{"details": [detail], "instId": name} for name in ("BTC-USDT-SWAP", "IOST-USDT-SWAP")]
    message = encode({"arg": {"channel": "liquidation-orders", "instType": "SWAP"}, "data": data})
    told, other = said(adapter(series=ALL_SERIES), message)
    assert isinstance(told, Series) and other == Ignored("not subscribed")
    [row] = told.records
    assert (told.symbol, row["side"], row["price"], row["size"]) == ("BTCUSDTSWAP", 1, 78315, 1300)
    assert only(adapter(), message) == Ignored("liquidation-orders")
    empty = encode({"arg": {"channel": "liquidation-orders"}, "data": [{"details": [], "instId": "BTC-USDT-SWAP"}]})
    assert only(adapter(series=ALL_SERIES), empty) == Ignored("empty message")


def test_a_series_that_breaks_a_rule_is_rejected() -> None:
    decoder, at = adapter(series=ALL_SERIES), {"instId": "BTC-USDT-SWAP", "ts": str(MS)}
    cases = {"mark-price": {"markPx": "x"}, "open-interest": {"oi": "1.001"}, "funding-rate": {"fundingRate": "1"}}
    rules = [only(decoder, channel(n, [{**at, **row}], "BTC-USDT-SWAP")).rule for n, row in cases.items()]
    assert rules == ["undecodable", "precision", "undecodable"]


# ---- events and the unknown -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "event"),
    [
        (b"pong", Ignored("pong")),
        (encode({"event": "channel-conn-count", "channel": "orders"}), Ignored("channel-conn-count")),
        (channel("tickers", [{}]), Ignored("tickers")),
        (channel("mark-price", [{}]), Ignored("mark-price")),
        (channel("books", [], "ETH-USDT", action="update"), Ignored("not subscribed")),
        (channel("books", [], action="update"), Ignored("empty message")),
    ],
)
def test_what_is_of_no_use_is_ignored_by_name(message: bytes, event: Event) -> None:
    assert only(adapter(book=True), message) == event


def test_errors_and_notices_are_shown_as_they_came() -> None:
    error = encode({"event": "error", "code": "60012", "msg": "Invalid request", "connId": "a4d3ae55"})
    assert only(adapter(), error) == VenueError(error.decode(), "Invalid request")
    notice = encode({"event": "notice", "code": "64008", "msg": "The connection will soon be closed"})
    assert only(adapter(), notice) == VenueClosing(notice.decode())


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
