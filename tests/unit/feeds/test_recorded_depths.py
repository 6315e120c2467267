"""Books of recordings: of whatever depth was subscribed, by one of several channels, right or not LIVE."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from marketd.daemon.feeds.adapter import BookDelta, BookSnapshot, Event, Ignored, Trades, VenueAdapter
from marketd.daemon.feeds.survey import survey
from marketd.market.book_sync import BookSync
from marketd.market.layouts import BookState

V1 = "wss://ws.kraken.com <-> 1618678132.3"
V2 = "wss://ws.kraken.com/v2 <-> 1618678132.3"
BIDS = [(100 - number, 1) for number in range(10)]
ASKS = [(101 + number, 1) for number in range(10)]
TIME = "1534614248.123678"


def checksum(asks: list[tuple[str, str]], bids: list[tuple[str, str]]) -> int:
    rows = asks[:10] + bids[:10]
    return crc32("".join(text.replace(".", "").lstrip("0") for row in rows for text in row).encode())


def replay(tmp_path: Path, venue: str, *lines: str) -> tuple[VenueAdapter, BookSync, list[Event]]:
    """A recording through its own survey, as an import does it."""
    path = tmp_path / "recording"
    path.write_text("".join(f"{line}\n" for line in lines))
    found = survey([path], venue)
    adapter = found.adapter(book=True)
    assert adapter.book_rule is not None
    sync = BookSync(adapter.book_rule, found.instruments[0])
    sync.subscribed()
    events: list[Event] = []
    for line in lines:
        if " <-> " not in line:
            events += adapter.decode_many([line.partition(": ")[2].encode()])
    for event in events:
        if isinstance(event, BookSnapshot):
            sync.snapshot(event)
        elif isinstance(event, BookDelta):
            sync.delta(event)
    return adapter, sync, events


def said(message: Any) -> str:
    return f"1618678133.1: {json.dumps(message, separators=(',', ':'))}"


# ---- Kraken ---------------------------------------------------------------------------------------


def v1_row(price: int, size: int) -> list[str]:
    return [f"{price}.00000", f"{size}.00000000", TIME]


def texts(rows: list[tuple[int, int]]) -> list[tuple[str, str]]:
    return [(f"{price}.00000", f"{size}.00000000") for price, size in rows]


def test_a_level_that_falls_out_of_ten_is_dropped_as_the_venue_drops_it(tmp_path: Path) -> None:
    first = [0, {"as": [v1_row(*row) for row in ASKS], "bs": [v1_row(*row) for row in BIDS]}, "book-10", "XBT/USD"]
    asks = [(100.5, 2), *ASKS]
    wanted = [("100.50000", "2.00000000"), *texts(ASKS)]
    better = {"a": [["100.50000", "2.00000000", TIME]], "c": str(checksum(wanted, texts(BIDS)))}
    gone = {
        "a": [["100.50000", "0.00000000", TIME], ["101.00000", "0.00000000", TIME], ["115.00000", "3.00000000", TIME]],
        "c": str(checksum([*texts(ASKS)[1:9], ("115.00000", "3.00000000")], texts(BIDS))),
    }
    lines = [said(first), *(said([0, body, "book-10", "XBT/USD"]) for body in (better, gone))]
    _, sync, _ = replay(tmp_path, "KRAKEN", V1, *lines)
    assert sync.state is BookState.LIVE
    assert len(asks) == 11
    assert [price for price in sorted(sync.book.asks)] == [*range(1020, 1100, 10), 1150]


def v2(kind: str, asks: list[list[str]], bids: list[list[str]], crc: int) -> str:
    """Numbers as the venue writes them, trailing zeros included."""
    sides = {
        name: "[" + ",".join(f'{{"price":{price},"qty":{size}}}' for price, size in rows) + "]"
        for name, rows in (("asks", asks), ("bids", bids))
    }
    return (
        f'1618678133.1: {{"channel":"book","type":"{kind}","data":[{{"symbol":"BTC/USD","bids":{sides["bids"]},'
        f'"asks":{sides["asks"]},"checksum":{crc},"timestamp":"2023-10-06T17:35:55.440295Z"}}]}}'
    )


@pytest.mark.parametrize("is_acknowledged", [False, True])
def test_the_places_and_the_depth_of_version_2_are_learned_from_the_recording(
    tmp_path: Path, is_acknowledged: bool
) -> None:
    asks, bids = [[p, s] for p, s in texts(ASKS)], [[p, s] for p, s in texts(BIDS)]
    ack = said(
        {"method": "subscribe", "result": {"channel": "book", "depth": 10, "symbol": "BTC/USD"}, "success": True}
    )
    first = v2("snapshot", asks, bids, checksum(texts(ASKS), texts(BIDS)))
    better = [("100.50000", "0.00010000"), *texts(ASKS)]
    then = v2("update", [["100.50000", "0.00010000"]], [], checksum(better, texts(BIDS)))
    _, sync, _ = replay(tmp_path, "KRAKEN", V2, *([ack] if is_acknowledged else []), first, then)
    assert sync.state is BookState.LIVE
    assert len(sync.book.asks) == 10


def test_numbers_that_were_written_anew_without_zeros_hold_their_checksums(tmp_path: Path) -> None:
    asks, bids = [("101.5", "1e-05"), ("102", "0.5")], [("100", "2"), ("99.5", "0.25")]
    written = [("101.5", "0.00001000"), ("102.0", "0.50000000")], [("100.0", "2.00000000"), ("99.5", "0.25000000")]
    trade = said(
        {
            "channel": "trade",
            "type": "update",
            "data": [
                {"symbol": "BTC/USD", "side": "buy", "price": 101.5, "qty": 0.12345678, "ord_type": "limit"}
                | {"trade_id": 7, "timestamp": "2023-10-06T17:35:55.4Z"}
            ],
        }
    )
    rows = [list(row) for row in asks], [list(row) for row in bids]
    _, sync, events = replay(tmp_path, "KRAKEN", V2, trade, v2("snapshot", *rows, checksum(*written)))
    assert sync.state is BookState.LIVE
    assert sync.book.asks == {1015: 1000, 1020: 50_000_000}
    assert sum(isinstance(event, Trades) for event in events) == 1


# ---- several channels of one book -----------------------------------------------------------------


def bybit(depth: int, kind: str, number: int, price: str, size: str = "1") -> str:
    data = {"s": "BTCUSDT", "b": [[price, size]], "a": [], "u": number, "seq": 1}
    return said({"topic": f"orderbook.{depth}.BTCUSDT", "type": kind, "ts": 1672304484978, "data": data})


def test_of_several_depths_of_bybit_the_deepest_is_the_book(tmp_path: Path) -> None:
    _, sync, events = replay(
        tmp_path,
        "BYBIT",
        bybit(1, "snapshot", 3, "9"),
        bybit(50, "snapshot", 10, "5"),
        bybit(50, "delta", 11, "6"),
        bybit(500, "snapshot", 70, "7"),
        bybit(50, "delta", 12, "8"),
        bybit(500, "delta", 71, "4"),
    )
    assert sync.state is BookState.LIVE
    assert set(sync.book.bids) == {4, 7}
    assert [event.name for event in events if isinstance(event, Ignored)] == ["orderbook.1", "orderbook.50"]


def okx(channel: str, action: str, number: int, previous: int, price: str) -> str:
    row = {"bids": [[price, "1", "0", "1"]], "asks": [], "ts": "1597026383085", "checksum": 0}
    arg = {"channel": channel, "instId": "BTC-USDT"}
    return said({"arg": arg, "action": action, "data": [row | {"seqId": number, "prevSeqId": previous}]})


def test_the_quick_books_of_okx_are_read_and_not_mixed_with_others(tmp_path: Path) -> None:
    _, sync, events = replay(
        tmp_path,
        "OKX",
        okx("books-l2-tbt", "snapshot", 5, -1, "7"),
        okx("books50-l2-tbt", "snapshot", 5, -1, "9"),
        okx("books-l2-tbt", "update", 6, 5, "6"),
        okx("books50-l2-tbt", "update", 6, 5, "8"),
    )
    assert sync.state is BookState.LIVE
    assert set(sync.book.bids) == {6, 7}
    assert [event.name for event in events if isinstance(event, Ignored)] == ["books50-l2-tbt"] * 2


@pytest.mark.parametrize(("channels", "taken"), [(["trades"], 1), (["trades", "trades-all"], 1)])
def test_of_okx_the_trades_that_were_recorded_are_taken(tmp_path: Path, channels: list[str], taken: int) -> None:
    row = {"instId": "BTC-USDT", "tradeId": "7", "px": "1.5", "sz": "2", "side": "buy", "ts": "1630048897897"}
    lines = [said({"arg": {"channel": name, "instId": "BTC-USDT"}, "data": [row]}) for name in channels]
    _, _, events = replay(tmp_path, "OKX", *lines)
    assert sum(isinstance(event, Trades) for event in events) == taken
