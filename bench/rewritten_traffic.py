"""Real traffic in the words of venues of which there is no recording: Binance's spot BTCUSDT, message by message.

The trades and changes of the book are the recorded ones. Where a venue shows a limited depth, the changes are those of
that many best levels, as the venue would send them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
from duel import Traffic
from recorded_traffic import CAPTURES, NOW, Capture, prepared

from marketd.daemon.feeds.adapter import BookDelta, BookSnapshot, Trades, VenueAdapter
from marketd.daemon.feeds.kraken_books import Checksums, places_of
from marketd.daemon.feeds.okx_book import DEPTH as OKX_DEPTH
from marketd.daemon.feeds.okx_book import shortest
from marketd.daemon.feeds.venues import VENUES
from marketd.market.book import Levels, OrderBook
from marketd.market.fixed import format_fixed
from marketd.market.instruments import Instrument

SOURCE = CAPTURES[0]
EVERYTHING = 10**9
Side = list[tuple[str, str]]  # price and size, "0" removes
NO_LEVELS: Side = []
Write = Callable[["Message"], dict[str, Any]]


class Message(NamedTuple):
    """A trade or a change of the book, as a venue's writer gets it."""

    number: int  # of this message among those of its kind, from 1
    before: int  # messages of any kind
    ts_ms: int
    is_snapshot: bool = False
    bids: Side = NO_LEVELS
    asks: Side = NO_LEVELS
    trade: tuple[int, str, str, int] | None = None  # id, price, size, side of the taker
    checksum: int = 0

    @property
    def iso(self) -> str:
        return datetime.fromtimestamp(self.ts_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class _Dialect(NamedTuple):
    """How a venue writes; `wire` is its name of the symbol, `depth` the levels a side that it shows."""

    wire: str
    symbol: str  # for `venue_symbol`
    write: Write
    depth: int = EVERYTHING
    url: str = ""
    is_short: bool = False  # texts without needless zeros


def _coinbase(message: Message) -> dict[str, Any]:
    head = {"client_id": "", "timestamp": message.iso, "sequence_num": message.before}
    if message.trade is not None:
        number, price, size, side = message.trade
        row = {"trade_id": str(number), "product_id": "BTC-USDT", "price": price, "size": size}
        row |= {"side": "SELL" if side > 0 else "BUY", "time": message.iso}
        return {"channel": "market_trades", **head, "events": [{"type": "update", "trades": [row]}]}
    updates = [
        {"side": name, "event_time": message.iso, "price_level": price, "new_quantity": size}
        for name, side in (("bid", message.bids), ("offer", message.asks))
        for price, size in side
    ]
    kind = "snapshot" if message.is_snapshot else "update"
    return {"channel": "l2_data", **head, "events": [{"type": kind, "product_id": "BTC-USDT", "updates": updates}]}


def _kraken(message: Message) -> dict[str, Any]:
    if message.trade is not None:
        number, price, size, side = message.trade
        row: dict[str, Any] = {"symbol": "BTC/USDT", "side": "buy" if side > 0 else "sell", "price": _Number(price)}
        row |= {"qty": _Number(size), "ord_type": "market", "trade_id": number, "timestamp": message.iso}
        return {"channel": "trade", "type": "update", "data": [row]}
    book: dict[str, Any] = {"symbol": "BTC/USDT"}
    for name, levels in (("bids", message.bids), ("asks", message.asks)):
        book[name] = [{"price": _Number(price), "qty": _Number(size)} for price, size in levels]
    book |= {"checksum": message.checksum, "timestamp": message.iso}
    return {"channel": "book", "type": "snapshot" if message.is_snapshot else "update", "data": [book]}


def _bybit(name: str) -> Write:
    def write(message: Message) -> dict[str, Any]:
        if message.trade is not None:
            number, price, size, side = message.trade
            row = {"T": message.ts_ms, "s": name, "S": "Buy" if side > 0 else "Sell", "v": size, "p": price}
            row |= {"L": "PlusTick", "i": f"20f43950-d8dd-5b31-9112-{number:012x}", "BT": False}
            return {"topic": f"publicTrade.{name}", "type": "snapshot", "ts": message.ts_ms, "data": [row]}
        book = {"s": name, "b": message.bids, "a": message.asks, "u": message.number + 1, "seq": message.number}
        kind = "snapshot" if message.is_snapshot else "delta"
        topic = f"orderbook.1000.{name}"
        return {"topic": topic, "type": kind, "ts": message.ts_ms, "data": book, "cts": message.ts_ms - 2}

    return write


def _okx(message: Message) -> dict[str, Any]:
    if message.trade is not None:
        number, price, size, side = message.trade
        row = {"instId": "BTC-USDT", "tradeId": str(number), "px": price, "sz": size}
        row |= {"side": "buy" if side > 0 else "sell", "ts": str(message.ts_ms)}
        return {"arg": {"channel": "trades-all", "instId": "BTC-USDT"}, "data": [row]}
    bids, asks = ([[price, size, "0", "1"] for price, size in side] for side in (message.bids, message.asks))
    book = {"asks": asks, "bids": bids, "ts": str(message.ts_ms), "checksum": 0, "seqId": message.number}
    book["prevSeqId"] = -1 if message.is_snapshot else message.number - 1
    action = "snapshot" if message.is_snapshot else "update"
    return {"arg": {"channel": "books", "instId": "BTC-USDT"}, "action": action, "data": [book]}


class _Number(str):
    """A text that stands in JSON as a number with exactly these digits."""


_DIALECTS = {
    "COINBASE": _Dialect("BTC-USDT", "BTC/USDT", _coinbase, url="wss://advanced-trade-ws.coinbase.com"),
    "KRAKEN": _Dialect("BTC/USDT", "BTC/USDT", _kraken, depth=1000, url="wss://ws.kraken.com/v2"),
    "BYBIT": _Dialect("BTC/USDT", "BTC/USDT", _bybit("BTCUSDT"), 200, "wss://stream.bybit.com/v5/public/spot"),
    "BYBIT_INVERSE": _Dialect("BTCUSD", "BTCUSD", _bybit("BTCUSD"), 200, "wss://stream.bybit.com/v5/public/inverse"),
    "OKX": _Dialect("BTC-USDT", "BTC/USDT", _okx, OKX_DEPTH, "wss://ws.okx.com:8443/ws/v5/public", is_short=True),
}


def _row(venue: str, name: str, exchange: str) -> Capture:
    return Capture(name, venue, exchange, NOW, SOURCE.folder, SOURCE.files)


REWRITTEN = (
    _row("COINBASE", "Advanced Trade, rewritten", "Coinbase"),
    _row("KRAKEN", "version 2, rewritten", ""),
    _row("BYBIT", "v5, rewritten", "Bybit"),
    _row("BYBIT_INVERSE", "v5, rewritten", ""),
    _row("OKX", "v5, rewritten", "OKX"),
)


def rewritten(capture: Capture, most: int) -> Traffic:
    """About `most` messages: those of the source from its snapshot on."""
    dialect = _DIALECTS[capture.venue]
    source = prepared(SOURCE, most)
    [told] = source.instruments
    adapter: VenueAdapter = VENUES[capture.venue].adapter()
    instrument = msgspec.convert(told, Instrument)
    frames = [_json(dialect.write(message)) for message in _messages(source, instrument, dialect)]
    mine = msgspec.structs.replace(instrument, symbol=adapter.venue_symbol(dialect.symbol), venue=capture.venue)
    return Traffic(
        venue=capture.venue,
        url=dialect.url,
        exchange=capture.exchange,
        trades="trade",
        candles=[],
        symbols=[dialect.wire],
        instruments=[msgspec.to_builtins(mine)],
        books={},
        frames=frames,
    )


def _json(message: dict[str, Any]) -> str:
    # a text that is a number is marked while the rest is written, and its quotation marks are taken off then
    marked = json.dumps(message, separators=(",", ":"), default=str)
    if '"channel":"book"' not in marked[:40] and '"channel":"trade"' not in marked[:40]:
        return marked
    return _unquoted(message)


def _unquoted(value: Any) -> str:
    if isinstance(value, _Number):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f'"{name}":{_unquoted(each)}' for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_unquoted, value)) + "]"
    return json.dumps(value)


def _messages(source: Traffic, instrument: Instrument, dialect: _Dialect) -> Iterator[Message]:
    """The source's trades and changes from the snapshot on."""
    adapter: VenueAdapter = VENUES[source.venue].adapter(trades=source.trades, book=True)
    adapter.adopt(instrument)
    [body] = source.books.values()
    snapshot = adapter.decode_snapshot(instrument.symbol, body.encode())
    book = _Shown(instrument, dialect)
    trades = books = 0
    for frame in source.frames:
        for event in adapter.decode_many([frame.encode()]):
            if isinstance(event, BookDelta) and event.last > snapshot.sequence:
                if not books:
                    books = 1
                    yield book.begin(snapshot, event.ts_ns // 10**6, trades)
                books += 1
                yield book.change(event, books, trades)
            elif isinstance(event, Trades) and books:
                for ts_ns, _, _, number, price, size, side, _ in event.records.tolist():
                    trades += 1
                    row = number, book.price(price), book.size(size), side
                    yield Message(trades, trades + books - 1, ts_ns // 10**6, trade=row)


class _Shown:
    """The book as the venue shows it: its best levels, and how they change."""

    def __init__(self, instrument: Instrument, dialect: _Dialect) -> None:
        self._instrument = instrument
        self._depth = dialect.depth
        self._is_short = dialect.is_short
        self._full, self._shown = OrderBook(), OrderBook()

    def price(self, value: int) -> str:
        return self._text(value, self._instrument.price_scale)

    def size(self, value: int) -> str:
        return self._text(value, self._instrument.size_scale)

    def _text(self, value: int, scale: int) -> str:
        return shortest(value, scale) if self._is_short else format_fixed(value, scale)

    def begin(self, snapshot: BookSnapshot, ts_ms: int, trades: int) -> Message:
        self._full.reset(snapshot.bids, snapshot.asks)
        return self._message(1, trades, ts_ms, is_snapshot=True)

    def change(self, delta: BookDelta, number: int, trades: int) -> Message:
        self._full.apply(delta.bids, delta.asks)
        return self._message(number, trades, delta.ts_ns // 10**6, is_snapshot=False)

    def _message(self, number: int, trades: int, ts_ms: int, *, is_snapshot: bool) -> Message:
        top, before = self._full.top(self._depth), self._shown
        now = OrderBook()
        now.reset(Levels(top.bid_prices, top.bid_sizes), Levels(top.ask_prices, top.ask_sizes))
        self._shown = now
        bids, asks = self._changes(before.bids, now.bids), self._changes(before.asks, now.asks)
        number_of = Checksums().of(now, self._instrument, places_of(self._instrument))
        return Message(number, number + trades - 1, ts_ms, is_snapshot, bids, asks, checksum=number_of)

    def _changes(self, before: dict[int, int], now: dict[int, int]) -> Side:
        gone = [(self.price(price), self.size(0)) for price in before if price not in now]
        new = [(self.price(p), self.size(size)) for p, size in now.items() if before.get(p) != size]
        return gone + new
