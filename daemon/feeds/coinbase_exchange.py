"""Coinbase's older WebSocket, the Exchange feed: matches, level2. Pure; see `adapter` for the contract.

    {"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["matches", "level2"]}
    {"type": "l2update", "product_id": "BTC-USD", "changes": [["sell", "8950.01", "0"]], "time": …}

Updates of the book bear no numbers: the venue promises to deliver them all. That a connection lost messages shows in
the ids of its matches, which are consecutive, and, when the lost one was the last, in the `last_trade_id` of the
heartbeats: by the next one, a second later, the match that it tells has come, or one before it, and they are late. If
not the connection's books begin anew, once until a match comes. The venue wants a key for `level2`; `level2_batch`, the
same every 50 ms, needs none and is what is subscribed. There are no bars on this feed: `candles` are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from marketd.daemon.feeds import coinbase_messages as messages
from marketd.daemon.feeds import forms
from marketd.daemon.feeds.adapter import BookDelta, BookSnapshot, Event, Levels
from marketd.daemon.feeds.coinbase_answers import exchange_subscribed_in, streams_named_in
from marketd.daemon.feeds.coinbase_rest import CoinbaseRest
from marketd.daemon.feeds.levels import LevelReader, Sides, decode_pairs
from marketd.daemon.feeds.venue_batch import Batch
from marketd.daemon.feeds.venue_books import UNNUMBERED, ChainedBooks, TradeNumbers
from marketd.daemon.feeds.venue_records import UNREADABLE, chunks, ids_and_times, rfc3339_ns
from marketd.market.errors import RuleViolation
from marketd.market.times import ABSENT

COMMAND_PRODUCTS = 100  # in one subscription; the venue names no limit
BOOK_CHANNEL = "level2_batch"

_message = msgspec.json.Decoder(messages.AnyMessage).decode
_rows = msgspec.json.Decoder(list[tuple[str, str, str]]).decode
_fields = msgspec.json.Decoder(list[Any]).decode
_head = msgspec.json.Decoder(messages.MessageHead).decode
_BOOK_TYPES = frozenset(("snapshot", "l2update"))
_USED_TYPES = _BOOK_TYPES | {"match", "last_match", ""}


_read_changes = forms.message(
    {
        "type": forms.quoted("l2update"),
        "product_id": forms.key(),
        "changes": forms.sided("buy", "sell"),
        "time": forms.moment(),
    }
)
_read_trades = forms.trades(
    {
        "type": forms.quoted("match"),
        "trade_id": forms.number(forms.count()),
        "side": forms.side('"sell"', '"buy"'),  # of the maker
        "size": forms.size(),
        "price": forms.price(),
        "product_id": forms.key(),
        "time": forms.time(forms.moment()),
    }
)


class CoinbaseExchangeAdapter(CoinbaseRest):
    timeframes: tuple[int, ...] = ()

    def __init__(
        self,
        *,
        trades: str = "trade",
        candles: Sequence[str | int] = (),
        book: bool = False,
        series: Sequence[str] = (),
    ) -> None:
        super().__init__(trades, book=book, series=series)
        self.book_rule = UNNUMBERED if book else None
        self._books = ChainedBooks()
        self._numbers = TradeNumbers()
        # by symbol: the id of the newest match, as its last heartbeat has it, and of the one that had come by then
        self._told: dict[str, tuple[int, int | None]] = {}

    def forget(self, symbol: str) -> None:
        super().forget(symbol)
        self._numbers.forget(symbol)
        self._told.pop(symbol, None)

    # ---- streams ------------------------------------------------------------------------------

    def streams(self, symbol: str) -> list[str]:
        pair = self._names.pair(symbol)
        return [f"matches:{pair}", *self.book_streams(symbol), f"heartbeat:{pair}"]

    def book_streams(self, symbol: str) -> list[str]:
        return [f"{BOOK_CHANNEL}:{self._names.pair(symbol)}"] if self.book_rule else []

    def connect_url(self, base: str, streams: Sequence[str]) -> tuple[str, list[str]]:
        return base, list(streams)

    def commands(self, verb: str, streams: Sequence[str], first_id: int) -> list[str]:
        channels: dict[str, list[str]] = {}
        for stream in streams:
            channel, _, product = stream.partition(":")
            channels.setdefault(channel, []).append(product)
        return [
            msgspec.json.encode({"type": verb.lower(), "product_ids": list(chunk), "channels": [channel]}).decode()
            for channel, products in channels.items()
            for chunk in chunks(products, COMMAND_PRODUCTS)
        ]

    # ---- messages -----------------------------------------------------------------------------

    def decode_many(self, frames: Sequence[bytes]) -> list[Event]:
        batch, is_quick = Batch(), bool(self._quick)
        for frame in frames:
            try:
                if is_quick and self._read_at_once(batch, frame):
                    continue
                message = _message(frame)
                symbol = self._symbol(batch, message.product_id)
                if symbol is None:
                    continue
                if isinstance(message, messages.UpdateMessage):
                    self._on_update(batch, symbol, message, frame)
                elif isinstance(message, messages.SnapshotMessage):
                    self._on_snapshot(batch, symbol, message, frame)
                elif isinstance(message, messages.HeartbeatMessage):
                    self._on_heartbeat(batch, symbol, message)
                else:
                    self._on_match(batch, symbol, message, frame)
            except UNREADABLE as error:
                self._other(batch, frame, error)
        return batch.events()

    def _read_at_once(self, batch: Batch, frame: bytes) -> bool:
        if _read_trades is None or _read_changes is None:
            return False
        found = _read_changes(frame, self._quick)
        if found is None:
            trades = _read_trades(frame, self._quick)
            if trades is None:
                return False
            batch.take_trades(trades)
            for trade_id, _ in ids_and_times(trades[2]):
                if loss := self._numbers.loss_before(trades[0], trade_id):
                    batch.lost(loss)
            return True
        symbol, _, ts_ns, bids, asks = found
        batch.see(symbol, ts_ns)
        if self.book_rule is None:
            batch.ignore("l2update")
        else:
            batch.books.append(self._books.delta(BookDelta(symbol, 0, 0, None, ts_ns, bids, asks)))
        return True

    def _other(self, batch: Batch, frame: bytes, error: Exception) -> None:
        """None of the types that are used, or a message of one of these that is damaged."""
        if frame[:1] == b"[":
            self._on_array(batch, frame)
            return
        try:
            head = _head(frame)
            ts_ns = rfc3339_ns(head.time) if head.time else 0
        except UNREADABLE:
            self._books.lose()  # it may have been a book's
            batch.reject(None, "undecodable", error, frame, book=True)
            return
        symbol = self._symbols.get(head.product_id, "")
        if head.type == "error":
            batch.error(frame, streams_named_in(frame, self._symbols, self.streams))
        elif head.type in _USED_TYPES:
            is_book = head.type not in ("match", "last_match")
            if is_book:
                self._books.lose((symbol,) if symbol else None)
            else:
                self._numbers.forget(symbol)  # it came: the hole that it leaves is no loss
            batch.reject(symbol or None, "undecodable", error, frame, book=is_book)
        else:
            if head.type == "subscriptions":
                batch.subscribed(exchange_subscribed_in(frame))
            batch.ignore_unknown(head.type)
            batch.see(symbol, ts_ns)

    def _on_array(self, batch: Batch, frame: bytes) -> None:
        """Of `level3`, the full channel as arrays: `["open", "BTC-USD", …]`."""
        try:
            word = _fields(frame)[0]
        except (*UNREADABLE, IndexError) as error:
            self._books.lose()
            batch.reject(None, "undecodable", error, frame, book=True)
        else:
            batch.ignore_unknown(f"level3 {word}")

    def _on_heartbeat(self, batch: Batch, symbol: str, heartbeat: messages.HeartbeatMessage) -> None:
        batch.ignore("heartbeat")
        batch.see(symbol, rfc3339_ns(heartbeat.time))
        last, (told, before) = self._numbers.last(symbol), self._told.get(symbol, (0, None))
        if last is not None and told > last == before:  # none came since: not just late
            self._numbers.forget(symbol)  # until one comes heartbeats show no more
            batch.lost(f"{symbol}: trade {told} was told of by a heartbeat, and has not come")
        self._told[symbol] = heartbeat.last_trade_id, self._numbers.last(symbol)

    def _on_match(self, batch: Batch, symbol: str, match: messages.Match, frame: bytes) -> None:
        if isinstance(match, messages.LastMatchMessage):  # after a subscription
            self._numbers.begin(symbol, match.trade_id)
            self._told.pop(symbol, None)
        elif loss := self._numbers.loss_before(symbol, match.trade_id):
            batch.lost(loss)
        try:
            batch.trade(symbol, self._trade_row(symbol, match.trade_id, match))
            batch.see(symbol, rfc3339_ns(match.time))
        except RuleViolation as violation:
            batch.reject(symbol, violation.rule, violation, frame, match.trade_id)

    def _on_update(self, batch: Batch, symbol: str, update: messages.UpdateMessage, frame: bytes) -> None:
        ts_ns = rfc3339_ns(update.time)
        batch.see(symbol, ts_ns)
        if self.book_rule is None:
            batch.ignore("l2update")
            return
        try:
            bids, asks = _changes(self._readers[symbol], update.changes)
        except RuleViolation as violation:
            self._books.lose((symbol,))
            batch.reject(symbol, violation.rule, violation, frame, book=True)
            return
        batch.books.append(self._books.delta(BookDelta(symbol, 0, 0, None, ts_ns, bids, asks)))

    def _on_snapshot(self, batch: Batch, symbol: str, message: messages.SnapshotMessage, frame: bytes) -> None:
        ts_ns = rfc3339_ns(message.time) if message.time else ABSENT
        if self.book_rule is None:
            batch.ignore("snapshot")
            return
        try:
            snapshot = BookSnapshot(symbol, 0, ts_ns, *self._readers[symbol].pairs(message.bids, message.asks))
        except RuleViolation as violation:
            self._books.lose((symbol,))
            batch.reject(symbol, violation.rule, violation, frame, book=True)
            return
        batch.books.append(self._books.snapshot(snapshot))

    # ---- recordings ---------------------------------------------------------------------------

    def _texts(self, frame: bytes) -> list[tuple[str, str, str]]:
        message = _message(frame)
        if isinstance(message, messages.HeartbeatMessage):
            return []
        symbol = self._names.read(message.product_id)
        if isinstance(message, messages.UpdateMessage):
            return [(symbol, price, size) for _, price, size in _rows(message.changes)]
        if isinstance(message, messages.SnapshotMessage):
            return [(symbol, price, size) for price, size in decode_pairs(message.bids) + decode_pairs(message.asks)]
        return [(symbol, message.price, message.size)]


def _changes(reader: LevelReader, changes: msgspec.Raw) -> Sides:
    quick = reader.quick
    found = None if quick is None else quick.sided(changes, b"buy", b"sell")
    if found is not None:
        return found
    prices, sizes = reader.prices, reader.sizes
    bids: tuple[list[int], list[int]] = [], []
    asks: tuple[list[int], list[int]] = [], []
    for side, price, size in _rows(changes):
        if side == "buy":
            levels = bids
        elif side == "sell":
            levels = asks
        else:
            raise msgspec.ValidationError(f"side is {side[:40]!r}")
        levels[0].append(prices[price])
        levels[1].append(sizes[size])
    return Levels(*bids), Levels(*asks)
