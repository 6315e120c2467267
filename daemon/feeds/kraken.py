"""Kraken's WebSocket, version 2: trade, book, ohlc. Pure; see `adapter` for the contract.

    {"method": "subscribe", "params": {"channel": "book", "symbol": ["BTC/USD"], "depth": 1000, "snapshot": true}}
    {"channel": "book", "type": "update", "data": [{"symbol": "BTC/USD", "bids": [{"price": 45283.5, "qty": 0.1}],
     "asks": [], "checksum": 3310070434, "timestamp": "2023-10-06T17:35:55.440295Z"}]}

A book bears no numbers but a checksum over its ten best levels, in the snapshot as in each update; a level that falls
out of the subscribed depth is not removed by the venue, and must be dropped here. Trades are numbered. A bar is sent
anew with each trade and never marked as ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from marketd.daemon.feeds import forms
from marketd.daemon.feeds import kraken_messages as messages
from marketd.daemon.feeds.adapter import BookDelta, BookSnapshot, Event, Levels
from marketd.daemon.feeds.adapter_base import rows_of
from marketd.daemon.feeds.kraken_books import Places, depth_of, places_written
from marketd.daemon.feeds.kraken_rest import DEPTH, side_of
from marketd.daemon.feeds.kraken_socket import PING_SECONDS, KrakenSocket
from marketd.daemon.feeds.levels import DIGITS, LevelReader
from marketd.daemon.feeds.venue_batch import Batch
from marketd.daemon.feeds.venue_books import TradeNumbers, other_depth
from marketd.daemon.feeds.venue_records import (
    UNREADABLE,
    candle_row,
    ids_and_times,
    number_text,
    rfc3339_ns,
)
from marketd.market.errors import RuleViolation
from marketd.market.times import ABSENT

_frame = msgspec.json.Decoder(messages.AnyFrame).decode
_rows = msgspec.json.Decoder(list[messages.NumberLevel]).decode
_head = msgspec.json.Decoder(messages.Head).decode
_SYMBOLS = msgspec.json.Decoder(list[messages.Symbolic])
_status = msgspec.json.Decoder(list[messages.StatusData]).decode
_TRADES = msgspec.json.Decoder(list[messages.NumberTrade])
_USED = frozenset(("book", "trade", "ohlc"))


_read_changes = forms.message(
    {
        "channel": forms.quoted("book"),
        "type": forms.quoted("update"),
        "data": [
            {
                "symbol": forms.key(),
                "bids": forms.side_objects("price", "qty", DIGITS, is_bid=True),
                "asks": forms.side_objects("price", "qty", DIGITS, is_bid=False),
                "checksum": forms.count(most=2**32 - 1),
                "timestamp": forms.moment(ABSENT),
            }
        ],
    }
)
_read_trades = forms.trades(
    {
        "channel": forms.quoted("trade"),
        "type": forms.quoted("update"),
        "data": [
            {
                "symbol": forms.key(),
                "side": forms.side('"buy"', '"sell"'),
                "price": forms.price(DIGITS),
                "qty": forms.size(DIGITS),
                "trade_id": forms.number(forms.count()),
                "timestamp": forms.time(forms.moment()),
            }
        ],
    }
)


class KrakenAdapter(KrakenSocket):
    numbered_trades = True
    ping: tuple[str, float] | None = ('{"method":"ping"}', PING_SECONDS)

    number_field = "req_id"
    book_channel = "book"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._numbers = TradeNumbers()
        self._depths: dict[str, int] = {}  # as the venue said that it is subscribed

    def forget(self, symbol: str) -> None:
        super().forget(symbol)
        self._numbers.forget(symbol)
        self._depths.pop(symbol, None)

    def _command(self, verb: str, channel: str, pairs: Sequence[str]) -> dict[str, Any]:
        return {"method": verb.lower(), "params": _params(verb, channel, pairs)}

    # ---- messages -----------------------------------------------------------------------------

    def decode_many(self, frames: Sequence[bytes]) -> list[Event]:
        batch, is_quick = Batch(), bool(self._quick)
        for frame in frames:
            try:
                if is_quick and self._read_at_once(batch, frame):
                    continue
                message = _frame(frame)
            except UNREADABLE as error:
                self._other(batch, frame, error)
                continue
            try:
                if isinstance(message, messages.BookFrame):
                    self._on_book(batch, message, frame)
                elif isinstance(message, messages.TradesFrame):
                    # a snapshot is of the newest trades before a subscription
                    self._on_trades(batch, message.data, frame, has_holes=message.type == "snapshot")
                else:
                    self._on_bars(batch, message, frame)
            except UNREADABLE as error:
                self._damaged(batch, frame, error)
        return batch.events()

    def _read_at_once(self, batch: Batch, frame: bytes) -> bool:
        if _read_trades is None or _read_changes is None:
            return False
        if trades := _read_trades(frame, self._quick):
            batch.take_trades(trades)
            times = self._times_of(trades[0])
            for trade_id, ts_ns in ids_and_times(trades[2]):
                times.see(trade_id, ts_ns)
                if loss := self._numbers.loss_before(trades[0], trade_id):
                    batch.lost(loss)
            return True
        found = _read_changes(frame, self._quick)
        if found is None:
            return False
        symbol, _, _, checksum, ts_ns, bids, asks = found
        if self.book_rule is None:
            batch.ignore("book")
            return True
        batch.books.append(self._books.delta(BookDelta(symbol, 0, 0, None, ts_ns, bids, asks, checksum)))
        if ts_ns != ABSENT:
            batch.see(symbol, ts_ns)
        return True

    def _other(self, batch: Batch, frame: bytes, error: Exception) -> None:
        """None of the channels that are used, or a message of one of these that is damaged."""
        try:
            head = _head(frame)
        except UNREADABLE:
            self._books.lose()  # it may have been a book's
            batch.reject(None, "undecodable", error, frame, book=True)
            return
        if head.error is not None or not head.success:
            batch.error(frame, self._requests.of(head.request, head.symbol))
        elif head.method:
            self._on_reply(batch, head)
        elif head.channel == "status":
            self._on_status(batch, head, frame)
        elif head.channel == "trade":
            self._on_damaged_trades(batch, head, frame)
        elif head.channel in _USED or not head.channel:
            self._damaged(batch, frame, error)
        else:
            batch.ignore_unknown(head.channel)

    def _damaged(self, batch: Batch, frame: bytes, error: Exception) -> None:
        """A message that cannot be read costs the books that it may have been of."""
        head = _head(frame)
        is_book = head.channel in ("book", "")
        symbol = None
        if is_book:
            try:
                symbols = [self._symbols[entry.symbol] for entry in _SYMBOLS.decode(head.data)]
                symbol = symbols[0] if len(symbols) == 1 else None
            except (*UNREADABLE, KeyError):
                symbol = None
            self._books.lose((symbol,) if symbol else None)
        batch.reject(symbol, "undecodable", error, frame, book=is_book)

    def _on_reply(self, batch: Batch, head: messages.Head) -> None:
        result = head.result
        if result is not None and result.channel == "ohlc":
            # what was open before this subscription has been missed since
            self._bars.forget(self._symbols.get(result.symbol, ""), result.interval * 60)
        if result is not None and result.channel == "book" and 0 < result.depth <= DEPTH:
            self._depths[self._symbols.get(result.symbol, "")] = result.depth
        if result is not None:
            batch.subscribed(self._requests.of(head.request, result.symbol))
        batch.ignore_unknown(head.method)

    def _on_status(self, batch: Batch, head: messages.Head, frame: bytes) -> None:
        try:
            states = _status(head.data)
        except UNREADABLE as error:
            batch.reject(None, "undecodable", error, frame)
            return
        if all(state.system in ("online", "") for state in states):
            batch.ignore("status")
        else:
            batch.error(frame)

    def _on_book(self, batch: Batch, message: messages.BookFrame, frame: bytes) -> None:
        if self.book_rule is None or not message.data:
            batch.ignore("book")
            return
        for data in message.data:
            symbol = self._symbol(batch, data.symbol)
            if symbol is None:
                continue
            ts_ns = rfc3339_ns(data.timestamp) if data.timestamp else ABSENT
            try:
                reader = self._readers[symbol]
                bids, asks = _side(reader, data.bids), _side(reader, data.asks)
            except RuleViolation as violation:
                self._books.lose((symbol,))
                batch.reject(symbol, violation.rule, violation, frame, book=True)
                continue
            if message.type == "snapshot":
                depth = other_depth(self._depth(symbol, data), DEPTH)
                snapshot = BookSnapshot(symbol, 0, ts_ns, bids, asks, data.checksum, depth)
                batch.books.append(self._books.snapshot(snapshot))
            else:
                delta = BookDelta(symbol, 0, 0, None, ts_ns, bids, asks, data.checksum)
                batch.books.append(self._books.delta(delta))
            if ts_ns != ABSENT:
                batch.see(symbol, ts_ns)

    def _depth(self, symbol: str, snapshot: messages.BookData) -> int:
        """Levels a side of a book that begins; how its numbers are written is learned, too."""
        bids, asks, instrument = _rows(snapshot.bids), _rows(snapshot.asks), self._instruments[symbol]
        rows = bids + asks
        if rows:
            self._places[symbol] = Places(
                places_written([number_text(row.price) for row in rows], instrument.price_scale),
                places_written([number_text(row.size) for row in rows], instrument.size_scale),
            )
        return self._depths.get(symbol) or depth_of(max(len(bids), len(asks))) or DEPTH

    def _on_damaged_trades(self, batch: Batch, head: messages.Head, frame: bytes) -> None:
        """One that is of the wrong shape costs no neighbour. Its number is not known: a hole beside it is no loss."""
        try:
            rows = rows_of(_TRADES, messages.NumberTrade, head.data)
        except UNREADABLE as error:
            batch.reject(None, "undecodable", error, frame)
            return
        for row in rows:
            if isinstance(row, Exception):
                batch.reject(None, "undecodable", row, frame)
        self._on_trades(batch, [row for row in rows if not isinstance(row, Exception)], frame, has_holes=True)
        for named in rows_of(_SYMBOLS, messages.Symbolic, head.data):
            if not isinstance(named, Exception):
                self._numbers.forget(self._symbols.get(named.symbol, ""))

    def _on_trades(
        self, batch: Batch, trades: Sequence[messages.NumberTrade], frame: bytes, *, has_holes: bool
    ) -> None:
        """`has_holes`: before and among them are ids that did not come, and were not lost."""
        if not trades:
            batch.ignore("trade without trades")
        for trade in trades:
            symbol = self._symbol(batch, trade.symbol)
            if symbol is None:
                continue
            if has_holes:
                self._numbers.begin(symbol, trade.trade_id)
            elif loss := self._numbers.loss_before(symbol, trade.trade_id):
                batch.lost(loss)
            try:
                ts_ns, side = rfc3339_ns(trade.timestamp), side_of(trade.side)
                price, size = number_text(trade.price), number_text(trade.size)
                batch.trade(symbol, self._trade(symbol, ts_ns, trade.trade_id, price, size, side))
            except RuleViolation as violation:
                batch.reject(symbol, violation.rule, violation, frame, trade.trade_id)
            except UNREADABLE as error:
                batch.reject(symbol, "undecodable", error, frame, trade.trade_id)
            else:
                batch.see(symbol, ts_ns)
                self._times_of(symbol).see(trade.trade_id, ts_ns)

    def _on_bars(self, batch: Batch, message: messages.BarsFrame, frame: bytes) -> None:
        if not message.data:
            batch.ignore("ohlc without bars")
        for bar in message.data:
            symbol, timeframe = self._symbol(batch, bar.symbol), bar.interval * 60
            if symbol is None:
                continue
            if timeframe not in self.timeframes:
                batch.ignore("ohlc")
                continue
            instrument, start_ns = self._instruments[symbol], rfc3339_ns(bar.interval_begin)
            prices = [number_text(raw) for raw in (bar.open, bar.high, bar.low, bar.close)]
            try:
                row = candle_row(
                    instrument, start_ns, timeframe, prices, number_text(bar.volume), trade_count=bar.trades
                )
            except RuleViolation as violation:
                batch.reject(symbol, violation.rule, violation, frame)
                continue
            ended = self._bars.update(symbol, timeframe, start_ns, row)
            if ended is None:
                batch.ignore("open bar")
            else:
                batch.bar(symbol, ended)

    # ---- recordings ---------------------------------------------------------------------------

    def _texts(self, frame: bytes) -> list[tuple[str, str, str]]:
        message, of = _frame(frame), self._names.read
        if isinstance(message, messages.BookFrame):
            rows = [(data.symbol, level) for data in message.data for level in _rows(data.bids) + _rows(data.asks)]
            return [(of(pair), number_text(level.price), number_text(level.size)) for pair, level in rows]
        if isinstance(message, messages.TradesFrame):
            return [(of(t.symbol), number_text(t.price), number_text(t.size)) for t in message.data]
        return [
            (of(bar.symbol), number_text(price), number_text(bar.volume))
            for bar in message.data
            for price in (bar.open, bar.high, bar.low, bar.close)
        ]


def _params(verb: str, channel: str, pairs: Sequence[str]) -> dict[str, Any]:
    name, _, minutes = channel.partition("-")
    params: dict[str, Any] = {"channel": name, "symbol": list(pairs)}
    if name == "book":
        params["depth"] = DEPTH
    elif name == "ohlc":
        params["interval"] = int(minutes)
    if verb == "SUBSCRIBE":
        # of trades the newest 50: they close a short gap without a REST request; bars of the past nobody asked for
        params["snapshot"] = name != "ohlc"
    return params


def _side(reader: LevelReader, written: msgspec.Raw) -> Levels:
    quick = reader.quick
    found = None if quick is None else quick.objects((written,), b"price", b"qty", b"", b"", b"", DIGITS, True)
    if found is not None:
        return found[0]
    rows = _rows(written)
    return reader.columns([bytes(row.price) for row in rows], [bytes(row.size) for row in rows])
