"""Bybit: the public topics of its v5 WebSocket, and the v2 topics that recordings have. Pure; see `adapter`.

    {"op": "subscribe", "args": ["publicTrade.BTCUSDT", "orderbook.200.BTCUSDT"]}
    {"topic": "publicTrade.BTCUSDT", "ts": …, "data": [{"T": …, "S": "Buy", "v": "0.001", "p": "16578.50", "i": …}]}
    {"topic": "orderbook.200.BTCUSDT", "type": "snapshot" or "delta", "data": {"s": …, "b": …, "a": …, "u": …}}

A spot trade's id is an integer, shared by all symbols; a contract's is a UUID, of which marketd keeps a hash. Tickers
of contracts say what changed: funding, mark price and open interest are told whenever one of their fields came.

v2 is read, never subscribed (`bybit_v2`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from marketd.daemon.feeds import bybit_messages as messages
from marketd.daemon.feeds import forms
from marketd.daemon.feeds.adapter import BookDelta, BookSnapshot
from marketd.daemon.feeds.adapter_base import rows_of
from marketd.daemon.feeds.bybit_markets import (
    BOOK_DEPTH,
    BOOK_DEPTHS,
    INVERSE,
    LINEAR,
    RULE,
    SPOT,
    Market,
    venue_symbol,
)
from marketd.daemon.feeds.bybit_rest import INTERVALS, SIDES
from marketd.daemon.feeds.bybit_v2 import OLD_DEPTHS, BybitV2, old_levels, old_trades
from marketd.daemon.feeds.levels import decode_pairs
from marketd.daemon.feeds.venue_batch import Batch
from marketd.daemon.feeds.venue_books import other_depth
from marketd.daemon.feeds.venue_records import UNREADABLE, chunks
from marketd.market.errors import RuleViolation
from marketd.market.times import NS_PER_MS

MAX_ROUTES = 4096  # topics come from the venue
RESTARTED = 1  # the update id of a snapshot after a restart of the service

Handler = Callable[[Batch, messages.Envelope, Sequence[str], bytes], None]

_envelope = msgspec.json.Decoder(messages.Envelope, strict=False).decode
_trades = msgspec.json.Decoder(list[messages.Trade], strict=False)
_klines = msgspec.json.Decoder(list[messages.Kline])
_liquidations = msgspec.json.Decoder(list[messages.Liquidation], strict=False)
_book = msgspec.json.Decoder(messages.Book).decode
_ticker = msgspec.json.Decoder(messages.Ticker).decode


_read_trades = forms.trades(
    {
        "topic": forms.key(),
        "type": forms.text(""),
        "ts": forms.seen(forms.millis(0)),
        "cts": forms.millis(0),
        "data": [
            {
                "T": forms.time(forms.millis()),
                "s": forms.text(),
                "S": forms.side('"Buy"', '"Sell"'),
                "v": forms.size(),
                "p": forms.price(),
                "i": forms.any_id(),
                "BT": forms.market(forms.word("false", "true", fallback=0)),
            }
        ],
    }
)
_read_changes = forms.message(
    {
        "topic": forms.key(),
        "type": forms.quoted("delta"),
        "ts": forms.millis(0),
        "cts": forms.millis(0),
        "data": {"s": forms.text(), "b": forms.bids(), "a": forms.asks(), "u": forms.count()},
    }
)


class BybitAdapter(BybitV2):
    ping: tuple[str, float] | None = ('{"op":"ping"}', 20.0)

    def __init__(
        self,
        *,
        trades: str = "trade",
        candles: Sequence[str | int] = ("1m",),
        book: bool = False,
        series: Sequence[str] = (),
        market: Market = SPOT,
    ) -> None:
        super().__init__(market, trades, candles, book, series)
        self.book_rule = RULE
        self._tickers: dict[str, dict[str, str]] = {}  # symbol -> what its ticker said last
        self._handlers: dict[str, Handler] = {
            "publicTrade": self._on_trades,
            "orderbook": self._on_book,
            "kline": self._on_klines,
            "tickers": self._on_ticker,
            "allLiquidation": self._on_liquidations,
            "trade": self._on_old_trades,
            **{name: partial(self._on_old_book, name) for name in OLD_DEPTHS},
        }
        self._routes: dict[str, tuple[Handler | None, list[str]]] = {}  # by topic

    # ---- names and streams --------------------------------------------------------------------

    def venue_symbol(self, symbol: str) -> str:
        return venue_symbol(self._market, symbol)

    def streams(self, symbol: str) -> list[str]:
        wire = self._wire(symbol)
        names = ["publicTrade", *(f"kline.{name}" for name in self._intervals)]
        if self._series & {"funding", "mark_price", "open_interest"}:
            names.append("tickers")
        if "liquidation" in self._series:
            names.append("allLiquidation")
        return [*(f"{name}.{wire}" for name in names), *self.book_streams(symbol)]

    def book_streams(self, symbol: str) -> list[str]:
        return [f"orderbook.{BOOK_DEPTH}.{self._wire(symbol)}"] if self._book else []

    def connect_url(self, base: str, streams: Sequence[str]) -> tuple[str, list[str]]:
        return f"{base.rstrip('/')}/v5/public/{self._market.category}", list(streams)

    def commands(self, verb: str, streams: Sequence[str], first_id: int) -> list[str]:
        asked = list(chunks(streams, self._market.command_streams))
        for number, names in enumerate(asked, first_id):
            self._requests.note(verb, number, names)
        return [
            msgspec.json.encode({"req_id": str(number), "op": verb.lower(), "args": names}).decode()
            for number, names in enumerate(asked, first_id)
        ]

    def forget(self, symbol: str) -> None:
        super().forget(symbol)
        self._tickers.pop(symbol, None)

    # ---- messages -----------------------------------------------------------------------------

    def keys(self, symbol: str, wire: str) -> Mapping[str, Any]:
        return {f"publicTrade.{wire}": symbol}

    def _read_at_once(self, batch: Batch, frame: bytes) -> bool:
        if _read_trades is None or _read_changes is None:
            return False
        if trades := _read_trades(frame, self._quick):
            batch.take_trades(trades)
            return True
        found = _read_changes(frame, self._quick_books)
        if found is None:
            return self._read_old_book(batch, frame)
        (symbol, name), _, ts_ns, engine_ns, number, bids, asks = found
        if number == RESTARTED:
            return False
        batch.see(symbol, ts_ns)
        if self._book and self._channels.takes(symbol, BOOK_DEPTHS[name], name, is_snapshot=False):
            batch.books.append(BookDelta(symbol, number, number, number - 1, engine_ns or ts_ns, bids, asks))
        else:
            batch.ignore_unknown(f"orderbook.{name}")
        return True

    def _read(self, batch: Batch, frame: bytes) -> None:
        envelope = _envelope(frame)
        topic = envelope.topic
        if not isinstance(topic, str):
            self._on_reply(batch, envelope, frame)
            return
        handler, parts = self._routes.get(topic) or self._route(topic)
        if handler is not None:
            handler(batch, envelope, parts, frame)
        else:
            batch.ignore_unknown(topic.partition(".")[0])

    def _route(self, topic: str) -> tuple[Handler | None, list[str]]:
        """Who takes a topic, and its words behind the first one."""
        name, *parts = topic.split(".")
        if len(self._routes) >= MAX_ROUTES:
            self._routes.clear()
        route = self._routes[topic] = self._handlers.get(name) if parts else None, parts
        return route

    def _on_reply(self, batch: Batch, envelope: messages.Envelope, frame: bytes) -> None:
        if envelope.success is False:
            batch.error(frame, self._requests.of(envelope.request))
        elif "pong" in (envelope.ret_msg, envelope.op) or envelope.op == "ping":
            batch.ignore("pong")
        elif envelope.success is True:
            batch.ignore("reply")
            batch.subscribed(self._requests.of(envelope.request))
        else:
            batch.reject(None, "undecodable", "neither a topic nor a reply", frame)

    def _on_trades(self, batch: Batch, envelope: messages.Envelope, parts: Sequence[str], frame: bytes) -> None:
        symbol = self._subscribed(batch, envelope, parts)
        if symbol is not None:
            self._take(batch, symbol, rows_of(_trades, messages.Trade, envelope.data), self._trade_row, frame)

    def _trade_row(self, batch: Batch, symbol: str, trade: messages.Trade) -> None:
        batch.trade(symbol, self._trade_of(symbol, trade))

    def _on_book(self, batch: Batch, envelope: messages.Envelope, parts: Sequence[str], frame: bytes) -> None:
        symbol = self._subscribed(batch, envelope, parts)
        if symbol is None:
            return
        depth = BOOK_DEPTHS.get(parts[0])
        is_snapshot = envelope.type == "snapshot"
        if (
            not self._book
            or depth is None
            or not self._channels.takes(symbol, depth, parts[0], is_snapshot=is_snapshot)
        ):
            batch.ignore_unknown(f"orderbook.{parts[0]}")
            return
        try:
            book = _book(envelope.data)
        except UNREADABLE as error:
            batch.reject(symbol, "undecodable", error, frame, book=True)
            return
        levels = self._pairs(batch, symbol, book.bids, book.asks, frame)
        if levels is None:
            return
        number, ts_ns = book.update_id, (envelope.engine_time or envelope.time) * NS_PER_MS
        if is_snapshot or number == RESTARTED:
            depth = other_depth(depth, BOOK_DEPTH)
            batch.books.append(BookSnapshot(symbol, number, ts_ns, *levels, depth=depth))
        else:
            batch.books.append(BookDelta(symbol, number, number, number - 1, ts_ns, *levels))

    def _on_klines(self, batch: Batch, envelope: messages.Envelope, parts: Sequence[str], frame: bytes) -> None:
        symbol = self._subscribed(batch, envelope, parts)
        if symbol is not None:
            self._take(batch, symbol, rows_of(_klines, messages.Kline, envelope.data), self._kline, frame)

    def _kline(self, batch: Batch, symbol: str, kline: messages.Kline) -> None:
        if not kline.confirm:
            batch.ignore("open kline")
        elif kline.interval not in self._intervals:
            batch.ignore_unknown(f"kline.{kline.interval}")
        else:
            prices = (kline.open, kline.high, kline.low, kline.close)
            start_ns, timeframe = kline.start * NS_PER_MS, INTERVALS[kline.interval]
            batch.bar(symbol, self._candle(symbol, start_ns, timeframe, prices, kline.volume, kline.turnover))

    # ---- declared series ----------------------------------------------------------------------

    def _on_ticker(self, batch: Batch, envelope: messages.Envelope, parts: Sequence[str], frame: bytes) -> None:
        symbol = self._subscribed(batch, envelope, parts)
        if symbol is None:
            return
        came = msgspec.structs.asdict(_ticker(envelope.data))
        came = {name: text for name, text in came.items() if text}  # "": a dated future has no funding
        held = self._tickers.setdefault(symbol, {})
        if envelope.type == "snapshot":
            held.clear()
        held |= came
        try:
            told = self._tell(batch, symbol, envelope.time * NS_PER_MS, came, held)
        except RuleViolation as violation:
            batch.reject(symbol, violation.rule, violation, frame)
        except (ValueError, *UNREADABLE) as error:
            batch.reject(symbol, "undecodable", error, frame)
        else:
            if not told:
                batch.ignore("tickers")

    def _tell(self, batch: Batch, symbol: str, ts_ns: int, came: dict[str, str], held: dict[str, str]) -> bool:
        """Rows of the series of which a field came; whether there was one."""
        rows: list[tuple[str, tuple[int | float | None, ...]]] = []
        if "funding" in self._series and came.keys() & {"funding_rate", "next_funding"} and "funding_rate" in held:
            rows.append(("funding", (float(held["funding_rate"]), _due_ns(held.get("next_funding")))))
        if "mark_price" in self._series and came.keys() & {"mark_price", "index_price"}:
            rows.append(("mark_price", (_real(held.get("mark_price")), _real(held.get("index_price")))))
        if "open_interest" in self._series and "open_interest" in came:
            rows.append(("open_interest", (self._readers[symbol].size(came["open_interest"]),)))
        for stream, values in rows:
            batch.tell(symbol, stream, ts_ns, *values)
        return bool(rows)

    def _on_liquidations(self, batch: Batch, envelope: messages.Envelope, parts: Sequence[str], frame: bytes) -> None:
        symbol = self._subscribed(batch, envelope, parts)
        if symbol is None:
            return
        if "liquidation" not in self._series:
            batch.ignore("allLiquidation")
            return
        rows = rows_of(_liquidations, messages.Liquidation, envelope.data)
        self._take(batch, symbol, rows, self._liquidation, frame)

    def _liquidation(self, batch: Batch, symbol: str, row: messages.Liquidation) -> None:
        side = SIDES.get(row.side)
        if side is None:
            raise msgspec.ValidationError(f"side {row.side[:40]!r} is neither Buy nor Sell")
        reader = self._readers[symbol]
        # the venue names the side of the position; the order that closes it is on the other one
        values = (-side, reader.price(row.price), None, reader.size(row.size))
        batch.tell(symbol, "liquidation", row.time * NS_PER_MS, *values)

    # ---- recordings ---------------------------------------------------------------------------

    def _texts(self, frame: bytes) -> list[tuple[str, str, str]]:
        envelope = _envelope(frame)
        name, _, wire = str(envelope.topic).partition(".")
        wire = wire.rpartition(".")[2]
        rows: list[tuple[Any, Any]] = []
        if name == "publicTrade":
            rows = [(trade.price, trade.size) for trade in _trades.decode(envelope.data)]
        elif name == "trade":
            rows = [(trade.price, trade.size) for trade in old_trades(envelope.data)]
        elif name == "orderbook":
            book = _book(envelope.data)
            rows = [*decode_pairs(book.bids), *decode_pairs(book.asks)]
        elif name == "kline":
            bars = _klines.decode(envelope.data)
            rows = [(price, bar.volume) for bar in bars for price in (bar.open, bar.high, bar.low, bar.close)]
        elif name == "tickers" and not self._market.is_spot:
            rows = [("", _ticker(envelope.data).open_interest or "")]
        elif name == "allLiquidation":
            rows = [(row.price, row.size) for row in _liquidations.decode(envelope.data)]
        elif name in OLD_DEPTHS:
            rows = [(level.price, level.size) for level in old_levels(envelope)]
        return [(wire.replace("-", ""), str(price), str(size)) for price, size in rows]


class BybitLinearAdapter(BybitAdapter):
    def __init__(self, **options: Any) -> None:
        super().__init__(market=LINEAR, **options)


class BybitInverseAdapter(BybitAdapter):
    def __init__(self, **options: Any) -> None:
        super().__init__(market=INVERSE, **options)


def _due_ns(text: str | None) -> int | None:
    return None if text is None else int(msgspec.convert(text, messages.Millis, strict=False)) * NS_PER_MS


def _real(text: str | None) -> float | None:
    return None if text is None else float(text)
