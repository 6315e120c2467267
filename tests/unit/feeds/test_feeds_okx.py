"""The OKX adapter: bytes in, events out; every message is accounted for. Messages as the venue documents them."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from okx_words import ALL_SERIES, MS, SPOT, SWAP, adapter, book, channel, encode, level, only, said, trade_row

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
    VenueClosing,
    VenueError,
)
from marketd.daemon.feeds.okx import OkxAdapter
from marketd.daemon.feeds.okx_book import RULE, checksum, is_shortest, shortest
from marketd.market.book import OrderBook
from marketd.market.book_states import BookEvent
from marketd.market.book_sync import BookSync
from marketd.market.errors import ConfigError
from marketd.market.layouts import BookState
from marketd.market.records import Source, TradeFlag
from marketd.market.times import ABSENT, NS_PER_MS

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
