"""Coinbase's Advanced Trade WebSocket: market_trades, level2, candles. Pure; see `adapter` for the contract.

    {"type": "subscribe", "channel": "level2", "product_ids": ["BTC-USD"]}
    {"channel": "l2_data", "timestamp": …, "sequence_num": 7, "events": [{"type": "update", "product_id": "BTC-USD",
     "updates": [{"side": "offer", "event_time": …, "price_level": "21921.73", "new_quantity": "0"}]}]}

`sequence_num` counts all messages of a connection, whatever their channel: a hole in it may have been any book's, so
all of them are begun anew. Market data needs no key. Bars are of five minutes only: other
`candles` are left out, and none is ever marked as ended.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from marketd.daemon.feeds import coinbase_messages as messages
from marketd.daemon.feeds import forms
from marketd.daemon.feeds.adapter import BookDelta, BookRule, BookSnapshot, Event, Fit, Levels
from marketd.daemon.feeds.coinbase_answers import streams_named_in, subscribed_in
from marketd.daemon.feeds.coinbase_rest import CoinbaseRest
from marketd.daemon.feeds.levels import TEXTS, LevelReader, Sides
from marketd.daemon.feeds.venue_batch import Batch
from marketd.daemon.feeds.venue_books import ChainedBooks, ConnectionNumbers
from marketd.daemon.feeds.venue_records import UNREADABLE, OpenBars, candle_row, chunks, integer_id, rfc3339_ns
from marketd.market.errors import RuleViolation
from marketd.market.times import NS_PER_SECOND, parse_timeframe

BAR_SECONDS = 300
COMMAND_PRODUCTS = 100  # in one subscription; the venue names no limit, and some 2 kB are no burden
MAX_START = 2**33

_frame = msgspec.json.Decoder(messages.AnyFrame).decode
_loose_trades = msgspec.json.Decoder(messages.LooseTradesFrame).decode
_market_trade = msgspec.json.Decoder(messages.MarketTrade).decode
_levels = msgspec.json.Decoder(list[messages.Level]).decode
_head = msgspec.json.Decoder(messages.FrameHead).decode


_read_trades = forms.trades(
    {
        "channel": forms.quoted("market_trades"),
        "timestamp": forms.seen(forms.moment()),
        "sequence_num": forms.told(forms.count()),
        "events": [
            {
                "trades": [
                    {
                        "trade_id": forms.number(forms.digits()),
                        "product_id": forms.key(),
                        "price": forms.price(),
                        "size": forms.size(),
                        "side": forms.side('"SELL"', '"BUY"'),  # of the maker
                        "time": forms.time(forms.moment()),
                    }
                ]
            }
        ],
    },
    newest_first=True,
)
_read_changes = forms.message(
    {
        "channel": forms.quoted("l2_data"),
        "timestamp": forms.moment(),
        "sequence_num": forms.count(),
        "events": [
            {
                "type": forms.quoted("update"),
                "product_id": forms.key(),
                "updates": forms.objects(("price_level", "new_quantity", "side"), ("bid", "offer"), TEXTS),
            }
        ],
    }
)


def follows(last: int, delta: BookDelta) -> Fit:
    """Each delta names the message of its book that came before it."""
    if delta.previous == last:
        return Fit.NEXT
    return Fit.OLD if delta.last <= last else Fit.GAP


class CoinbaseAdapter(CoinbaseRest):
    def __init__(
        self,
        *,
        trades: str = "trade",
        candles: Sequence[str | int] = (),
        book: bool = False,
        series: Sequence[str] = (),
    ) -> None:
        super().__init__(trades, book=book, series=series)
        wanted = {parse_timeframe(candle, field="candles") for candle in candles}
        self.timeframes: tuple[int, ...] = (BAR_SECONDS,) if BAR_SECONDS in wanted else ()
        self.book_rule = BookRule("stream", splice=follows, follows=follows) if book else None
        self._books = ChainedBooks()
        self._numbers = ConnectionNumbers()
        self._bars = OpenBars()

    # ---- streams ------------------------------------------------------------------------------

    def streams(self, symbol: str) -> list[str]:
        product = self._names.pair(symbol)
        bars = [f"candles:{product}"] if self.timeframes else []
        return [f"market_trades:{product}", *self.book_streams(symbol), *bars]

    def book_streams(self, symbol: str) -> list[str]:
        return [f"level2:{self._names.pair(symbol)}"] if self.book_rule else []

    def connect_url(self, base: str, streams: Sequence[str]) -> tuple[str, list[str]]:
        return base, list(streams)

    def commands(self, verb: str, streams: Sequence[str], first_id: int) -> list[str]:
        channels: dict[str, list[str]] = {}
        for stream in streams:
            channel, _, product = stream.partition(":")
            channels.setdefault(channel, []).append(product)
        asked = [
            {"type": verb.lower(), "channel": channel, "product_ids": list(chunk)}
            for channel, products in channels.items()
            for chunk in chunks(products, COMMAND_PRODUCTS)
        ]
        if verb == "SUBSCRIBE" and "market_trades" in channels:
            # without heartbeats the venue closes the channels of products that nobody trades, after a minute or so
            asked.append({"type": "subscribe", "channel": "heartbeats"})
        return [msgspec.json.encode(command).decode() for command in asked]

    # ---- messages -----------------------------------------------------------------------------

    def decode_many(self, frames: Sequence[bytes]) -> list[Event]:
        batch, is_quick = Batch(), bool(self._quick)
        for frame in frames:
            try:
                if is_quick and self._read_at_once(batch, frame):
                    continue
                message = _frame(frame)
                ts_ns = rfc3339_ns(message.timestamp)
            except UNREADABLE as error:
                self._other(batch, frame, error)
                continue
            self._count(message.sequence_num, ts_ns)
            try:
                if isinstance(message, messages.BookFrame):
                    self._on_book(batch, message, ts_ns, frame)
                elif isinstance(message, messages.TradesFrame):
                    self._on_trades(batch, [t for event in message.events for t in event.trades], ts_ns, frame)
                else:
                    self._on_candles(batch, message, frame)
                    batch.see("", ts_ns)
            except UNREADABLE as error:
                if isinstance(message, messages.BookFrame):
                    self._books.lose()
                batch.reject(None, "undecodable", error, frame, book=isinstance(message, messages.BookFrame))
        return batch.events()

    def _read_at_once(self, batch: Batch, frame: bytes) -> bool:
        if _read_trades is None or _read_changes is None:
            return False
        if trades := _read_trades(frame, self._quick):
            self._count(trades[3], trades[1])
            batch.take_trades(trades)
            return True
        found = _read_changes(frame, self._quick)
        if found is None:
            return False
        symbol, _, ts_ns, number, _, bids, asks = found
        self._count(number, ts_ns)
        if self.book_rule is None:
            batch.ignore("l2_data")
            batch.see("", ts_ns)
        else:
            batch.books.append(self._books.delta(BookDelta(symbol, number, number, None, ts_ns, bids, asks)))
            batch.see(symbol, ts_ns)
        return True

    def _count(self, number: int, ts_ns: int) -> None:
        if not self._numbers.follows(number, ts_ns):
            self._books.lose()

    def _other(self, batch: Batch, frame: bytes, error: Exception) -> None:
        """None of the channels that are used, or a message of one of these that is damaged."""
        try:
            head = _head(frame)
            ts_ns = rfc3339_ns(head.timestamp) if head.timestamp else 0
        except UNREADABLE:
            self._lost(batch, error, frame)
            return
        if head.sequence_num is not None:
            self._count(head.sequence_num, ts_ns)
        if head.type == "error":
            batch.error(frame, streams_named_in(frame, self._symbols, self.streams))
        elif head.channel == "l2_data":
            self._lost(batch, error, frame)
        elif head.channel == "market_trades":
            self._on_damaged_trades(batch, ts_ns, frame)
        elif head.channel in ("", "candles"):
            batch.reject(None, "undecodable", error, frame)
        else:
            if head.channel == "subscriptions":
                batch.subscribed(subscribed_in(frame))
            batch.ignore_unknown(head.channel)
            batch.see("", ts_ns)

    def _lost(self, batch: Batch, error: Exception, frame: bytes) -> None:
        """A message that may have been any book's cannot be read."""
        self._books.lose()
        batch.reject(None, "undecodable", error, frame, book=True)

    def _on_book(self, batch: Batch, message: messages.BookFrame, ts_ns: int, frame: bytes) -> None:
        if self.book_rule is None or not message.events:
            batch.ignore("l2_data")
            batch.see("", ts_ns)
            return
        for event in message.events:
            symbol, number = self._symbol(batch, event.product_id), message.sequence_num
            if symbol is None:
                continue
            try:
                bids, asks = _sides(self._readers[symbol], event)
            except RuleViolation as violation:
                self._books.lose((symbol,))
                batch.reject(symbol, violation.rule, violation, frame, book=True)
                continue
            if event.type == "snapshot":
                batch.books.append(self._books.snapshot(BookSnapshot(symbol, number, ts_ns, bids, asks)))
            else:
                batch.books.append(self._books.delta(BookDelta(symbol, number, number, None, ts_ns, bids, asks)))
            batch.see(symbol, ts_ns)

    def _on_damaged_trades(self, batch: Batch, ts_ns: int, frame: bytes) -> None:
        """One that is of the wrong shape costs no neighbour."""
        try:
            rows = [row for event in _loose_trades(frame).events for row in event.trades]
        except UNREADABLE as error:
            batch.reject(None, "undecodable", error, frame)
            return
        readable = []
        for row in rows:
            try:
                readable.append(_market_trade(row))
            except UNREADABLE as error:
                batch.reject(None, "undecodable", error, bytes(row))
        self._on_trades(batch, readable, ts_ns, frame)

    def _on_trades(self, batch: Batch, trades: list[messages.MarketTrade], ts_ns: int, frame: bytes) -> None:
        if not trades:
            batch.ignore("market_trades without trades")
        for trade in reversed(trades):  # the venue writes the newest first
            symbol = self._symbol(batch, trade.product_id)
            if symbol is None:
                continue
            trade_id = None
            try:
                trade_id = integer_id(trade.trade_id)
                batch.trade(symbol, self._trade_row(symbol, trade_id, trade))
            except RuleViolation as violation:
                batch.reject(symbol, violation.rule, violation, frame, trade_id)
            except UNREADABLE as error:
                batch.reject(symbol, "undecodable", error, frame, trade_id)
            batch.see(symbol, ts_ns)

    def _on_candles(self, batch: Batch, message: messages.CandlesFrame, frame: bytes) -> None:
        closed = 0
        for event in message.events:
            if event.type == "snapshot":  # a subscription begins: what was open before it has been missed since
                for product in {candle.product_id for candle in event.candles}:
                    self._bars.forget(self._symbols.get(product, ""))
            for candle in sorted(event.candles, key=lambda candle: integer_id(candle.start)):
                closed += self._on_candle(batch, candle, frame)
        if not closed:
            batch.ignore("open bar")

    def _on_candle(self, batch: Batch, candle: messages.Candle, frame: bytes) -> int:
        """How many events it made."""
        symbol = self._symbol(batch, candle.product_id)
        if symbol is None:
            return 1
        if not self.timeframes:
            batch.ignore("candles")
            return 1
        start = integer_id(candle.start)
        if start > MAX_START:
            raise msgspec.ValidationError(f"start is {start}")
        prices = (candle.open, candle.high, candle.low, candle.close)
        try:
            row = candle_row(self._instruments[symbol], start * NS_PER_SECOND, BAR_SECONDS, prices, candle.volume)
        except RuleViolation as violation:
            batch.reject(symbol, violation.rule, violation, frame)
            return 1
        ended = self._bars.update(symbol, BAR_SECONDS, start * NS_PER_SECOND, row)
        if ended is None:
            return 0
        batch.bar(symbol, ended)
        return 1

    # ---- recordings ---------------------------------------------------------------------------

    def _texts(self, frame: bytes) -> list[tuple[str, str, str]]:
        message, of = _frame(frame), self._names.read
        if isinstance(message, messages.BookFrame):
            return [
                (of(event.product_id), level.price, level.size)
                for event in message.events
                for level in _levels(event.updates)
            ]
        if isinstance(message, messages.TradesFrame):
            return [(of(t.product_id), t.price, t.size) for event in message.events for t in event.trades]
        bars = [candle for event in message.events for candle in event.candles]
        return [(of(b.product_id), price, b.volume) for b in bars for price in (b.open, b.high, b.low, b.close)]


def _sides(reader: LevelReader, event: messages.BookEvent) -> Sides:
    quick = reader.quick
    if quick is not None:
        names = b"price_level", b"new_quantity", b"side", b"bid", b"offer"
        found = quick.objects((event.updates,), *names, TEXTS, True)
        if found is not None:
            return found
    prices, sizes = reader.prices, reader.sizes
    bids: tuple[list[int], list[int]] = [], []
    asks: tuple[list[int], list[int]] = [], []
    for level in _levels(event.updates):
        if level.side == "bid":
            side = bids
        elif level.side == "offer":
            side = asks
        else:
            raise msgspec.ValidationError(f"side is {level.side[:40]!r}")
        side[0].append(prices[level.price])
        side[1].append(sizes[level.size])
    return Levels(*bids), Levels(*asks)
