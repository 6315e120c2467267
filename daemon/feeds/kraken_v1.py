"""Kraken's WebSocket, version 1: trade, book, ohlc as arrays. Pure; see `adapter` for the contract.

    {"event": "subscribe", "pair": ["XBT/USD"], "subscription": {"name": "book", "depth": 1000}, "reqid": 7}
    [336, {"a": [["5541.30000", "2.50700000", "1534614248.456738"]], "c": "974942666"}, "book-1000", "XBT/USD"]
    [336, {"a": […]}, {"b": […], "c": "974942666"}, "book-1000", "XBT/USD"]

Trades bear no ids: they are hashed. A book's updates bear a checksum, its snapshot none. How many decimal places the
venue writes is learned from the snapshot. A bar is sent anew with each trade and never marked as ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from marketd.daemon.feeds import forms
from marketd.daemon.feeds import kraken_messages as messages
from marketd.daemon.feeds.adapter import BookDelta, BookSnapshot, Event, Levels
from marketd.daemon.feeds.adapter_base import rows_of
from marketd.daemon.feeds.kraken_books import DEPTHS, Places, TradeHashes, decimal_places
from marketd.daemon.feeds.kraken_rest import DEPTH, VENUE_WORDS
from marketd.daemon.feeds.kraken_socket import PING_SECONDS, KrakenSocket
from marketd.daemon.feeds.levels import LevelReader
from marketd.daemon.feeds.venue_batch import Batch
from marketd.daemon.feeds.venue_books import DepthChannels, other_depth
from marketd.daemon.feeds.venue_records import UNREADABLE, candle_row, seconds_ns
from marketd.market.errors import RuleViolation
from marketd.market.times import ABSENT, NS_PER_SECOND

_array = msgspec.json.Decoder(messages.Array).decode
_event = msgspec.json.Decoder(messages.EventMessage).decode
_text = msgspec.json.Decoder(str).decode
_changes = msgspec.json.Decoder(messages.Changes).decode
_book = msgspec.json.Decoder(messages.BookUpdate).decode
_rows = msgspec.json.Decoder(list[messages.TextLevel]).decode
NO_PLACES = Places(0, 0)
_BOOK, TAIL_BYTES = b'"book-', 48  # told by a look at the bytes
_USED = ("book-", "trade", "ohlc-")  # names of channels, or how they begin
_TRADES = msgspec.json.Decoder(list[messages.TextTrade])
_bar = msgspec.json.Decoder(messages.TextBar).decode


_CHANNELS = [f"book-{depth}" for depth in DEPTHS]
_FIRST_PART = {
    **{"a": forms.dated_asks(), "b": forms.dated_bids()},
    **{"as": forms.refused(), "bs": forms.refused(), "c": forms.text("")},
}
_LAST_PART = _FIRST_PART | {"c": forms.digits(None, most=10**10 - 1)}
_NAMES = forms.quoted(*_CHANNELS), forms.key()
_read_changes = forms.message((forms.anything(), _LAST_PART, *_NAMES))
_read_changes_in_two = forms.message((forms.anything(), _FIRST_PART, _LAST_PART, *_NAMES))


class KrakenV1Adapter(KrakenSocket):
    numbered_trades = False
    ping: tuple[str, float] | None = ('{"event":"ping"}', PING_SECONDS)

    number_field = "reqid"
    book_channel = f"book-{DEPTH}"
    words = VENUE_WORDS

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._channels = DepthChannels()
        self._hashes = TradeHashes()
        self._book_ns: dict[str, int] = {}  # a level that is sent again bears its old time

    def forget(self, symbol: str) -> None:
        super().forget(symbol)
        self._channels.forget(symbol)
        self._book_ns.pop(symbol, None)

    def _command(self, verb: str, channel: str, pairs: Sequence[str]) -> dict[str, Any]:
        return {"event": verb.lower(), "pair": list(pairs), "subscription": _subscription(channel)}

    # ---- messages -----------------------------------------------------------------------------

    def decode_many(self, frames: Sequence[bytes]) -> list[Event]:
        batch, is_quick = Batch(), bool(self._quick)
        for frame in frames:
            symbol: str | None = None
            name = ""
            try:
                if is_quick and self._read_at_once(batch, frame):
                    continue
                if _BOOK in frame[-TAIL_BYTES:] and self._on_plain_book(batch, frame):
                    continue
                if frame[:1] == b"{":
                    self._on_event(batch, frame)
                    continue
                array = _array(frame)
                is_double = bool(array.fourth)
                name = _text(array.third if is_double else array.second)
                if not name.startswith(_USED):
                    batch.ignore_unknown(name)
                    continue
                symbol = self._symbol(batch, _text(array.fourth if is_double else array.third))
                if symbol is None:
                    continue
                if name.startswith("book-"):
                    bodies = (array.body, array.second) if is_double else (array.body,)
                    self._on_book(batch, symbol, name, [_changes(body) for body in bodies], frame)
                elif name == "trade":
                    self._on_trades(batch, symbol, array.body, frame)
                else:
                    self._on_bar(batch, symbol, name, array.body, frame)
            except UNREADABLE as error:
                is_book = symbol is None or name.startswith("book-")
                if is_book:
                    self._books.lose((symbol,) if symbol else None)
                batch.reject(symbol, "undecodable", error, frame, book=is_book)
        return batch.events()

    def _read_at_once(self, batch: Batch, frame: bytes) -> bool:
        if self.book_rule is None or _read_changes is None or _read_changes_in_two is None:
            return False
        found = _read_changes(frame, self._quick) or _read_changes_in_two(frame, self._quick)
        if found is None:
            return False
        symbol, checksum, place, newest, bids, asks = found
        channel = _CHANNELS[place]
        if not self._channels.takes(symbol, DEPTHS[place], channel, is_snapshot=False):
            batch.ignore_unknown(channel)
            return True
        ts_ns = self._newest_ns(symbol, newest)
        batch.books.append(self._books.delta(BookDelta(symbol, 0, 0, None, ts_ns, bids, asks, checksum)))
        if ts_ns != ABSENT:
            batch.see(symbol, ts_ns)
        return True

    def _on_event(self, batch: Batch, frame: bytes) -> None:
        message = _event(frame)
        is_offline = message.event == "systemStatus" and message.status != "online"
        if is_offline or message.event == "error" or message.status == "error":
            batch.error(frame, self._requests.of(message.request, message.pair))
        elif not message.event:
            raise msgspec.ValidationError("an object without an event")
        else:
            if message.event == "subscriptionStatus" and message.channel_name.startswith("ohlc"):
                # what was open before this subscription has been missed since
                self._bars.forget(self._symbols.get(message.pair, ""))
            if message.status == "subscribed":
                batch.subscribed(self._requests.of(message.request, message.pair))
            batch.ignore_unknown(message.event)

    def _on_plain_book(self, batch: Batch, frame: bytes) -> bool:
        """Nearly all that comes, read at one go; False: it is something else, or damaged, and was not touched."""
        try:
            message = _book(frame)
        except UNREADABLE:
            return False
        second, third = message.second, message.third
        parts: tuple[messages.Changes, ...] = (message.body,)
        if isinstance(second, str):
            name, pair = second, third
        else:
            name, pair, parts = third, message.fourth, (message.body, second)
        if not pair or not name.startswith("book-"):
            return False
        symbol = self._symbol(batch, pair)
        if symbol is not None:
            self._on_book(batch, symbol, name, parts, frame)
        return True

    def _on_book(self, batch: Batch, symbol: str, name: str, parts: Sequence[messages.Changes], frame: bytes) -> None:
        if self.book_rule is None:
            batch.ignore("book")
            return
        is_snapshot, depth = bool(parts[0].all_asks) or bool(parts[0].all_bids), _depth_of(name)
        if not self._channels.takes(symbol, depth, name, is_snapshot=is_snapshot):
            batch.ignore_unknown(name)
            return
        try:
            if is_snapshot:
                snapshot = self._snapshot(symbol, parts[0])
                snapshot.depth = other_depth(depth, DEPTH)
                batch.books.append(self._books.snapshot(snapshot))
            else:
                batch.books.append(self._books.delta(self._delta(symbol, parts)))
        except RuleViolation as violation:
            self._books.lose((symbol,))
            batch.reject(symbol, violation.rule, violation, frame, book=True)
            return
        except UNREADABLE as error:
            self._books.lose((symbol,))
            batch.reject(symbol, "undecodable", error, frame, book=True)
            return
        ts_ns = self._book_ns.get(symbol, ABSENT)
        if ts_ns != ABSENT:
            batch.see(symbol, ts_ns)

    def _snapshot(self, symbol: str, part: messages.Changes) -> BookSnapshot:
        bids, asks, newest, places = _dated(
            self._readers[symbol],
            part.all_bids or messages.NO_LEVELS,
            part.all_asks or messages.NO_LEVELS,
            is_whole=True,
        )
        if newest != ABSENT:
            self._places[symbol] = places
        self._book_ns.pop(symbol, None)
        return BookSnapshot(symbol, 0, self._newest_ns(symbol, newest), bids, asks)

    def _delta(self, symbol: str, parts: Sequence[messages.Changes]) -> BookDelta:
        reader = self._readers[symbol]
        bids, asks, newest, _ = _dated(reader, parts[0].bids, parts[0].asks)
        for part in parts[1:]:
            more_bids, more_asks, later, _ = _dated(reader, part.bids, part.asks)
            bids, asks, newest = _joined(bids, more_bids), _joined(asks, more_asks), max(newest, later)
        ts_ns = self._newest_ns(symbol, newest)
        return BookDelta(symbol, 0, 0, None, ts_ns, bids, asks, _checksum_of(parts))

    def _newest_ns(self, symbol: str, newest: int) -> int:
        before = self._book_ns.get(symbol, ABSENT)
        if newest < before:
            return before
        self._book_ns[symbol] = newest
        return newest

    def _on_trades(self, batch: Batch, symbol: str, body: msgspec.Raw, frame: bytes) -> None:
        trades = rows_of(_TRADES, messages.TextTrade, body)
        if not trades:
            batch.ignore("trade without trades")
        for trade in trades:
            if isinstance(trade, Exception):
                batch.reject(symbol, "undecodable", trade, frame)
                continue
            try:
                ts_ns = seconds_ns(trade.time)
                _, row = self._row(symbol, ts_ns, trade, None, self._hashes)
            except RuleViolation as violation:
                batch.reject(symbol, violation.rule, violation, frame)
            except UNREADABLE as error:
                batch.reject(symbol, "undecodable", error, frame)
            else:
                batch.trade(symbol, row)
                batch.see(symbol, ts_ns)

    def _on_bar(self, batch: Batch, symbol: str, name: str, body: msgspec.Raw, frame: bytes) -> None:
        bar = _bar(body)
        minutes = name.removeprefix("ohlc-")
        timeframe = int(minutes) * 60 if minutes.isdecimal() and len(minutes) < 8 else 0
        if timeframe not in self.timeframes:
            batch.ignore_unknown(name)
            return
        start_ns = seconds_ns(bar.end) - timeframe * NS_PER_SECOND
        prices = (bar.open, bar.high, bar.low, bar.close)
        try:
            row = candle_row(
                self._instruments[symbol], start_ns, timeframe, prices, bar.volume, trade_count=bar.trade_count
            )
        except RuleViolation as violation:
            batch.reject(symbol, violation.rule, violation, frame)
            return
        ended = self._bars.update(symbol, timeframe, start_ns, row)
        if ended is None:
            batch.ignore("open bar")
        else:
            batch.bar(symbol, ended)
        batch.see(symbol, seconds_ns(bar.time))

    # ---- recordings ---------------------------------------------------------------------------

    def _texts(self, frame: bytes) -> list[tuple[str, str, str]]:
        if frame[:1] == b"{":
            return []
        array = _array(frame)
        is_double = bool(array.fourth)
        name = _text(array.third if is_double else array.second)
        symbol = self._names.read(_text(array.fourth if is_double else array.third))
        if name == "trade":
            return [(symbol, trade.price, trade.size) for trade in _TRADES.decode(array.body)]
        if name.startswith("ohlc-"):
            bar = _bar(array.body)
            return [(symbol, price, bar.volume) for price in (bar.open, bar.high, bar.low, bar.close)]
        if not name.startswith("book-"):
            return []
        bodies = (array.body, array.second) if is_double else (array.body,)
        parts = [_changes(body) for body in bodies]
        sides = [side for part in parts for side in (part.bids, part.asks, part.all_bids, part.all_asks) if side]
        return [(symbol, row.price, row.size) for side in sides for row in _rows(side)]


@lru_cache(maxsize=64)
def _depth_of(channel: str) -> int:
    """Of `book-25`: the venue says nothing of the levels below, and marketd drops them."""
    depth = channel.removeprefix("book-")
    if not (depth.isascii() and depth.isdigit() and 0 < int(depth[:6]) <= DEPTH):
        raise msgspec.ValidationError(f"no book is called {channel[:40]!r}")
    return int(depth)


def _dated(
    reader: LevelReader, bids: msgspec.Raw, asks: msgspec.Raw, *, is_whole: bool = False
) -> tuple[Levels, Levels, int, Places]:
    """Both sides, the newest time of them (ABSENT of none), and of a whole book the most decimal places of them."""
    quick = reader.quick
    found = None if quick is None else quick.dated(bids, asks)
    if found is not None:
        bid_levels, ask_levels, newest, price, size = found
        return bid_levels, ask_levels, newest, Places(price, size) if is_whole else NO_PLACES
    bid_rows, ask_rows = _rows(bids), _rows(asks)
    rows, newest = bid_rows + ask_rows, ABSENT
    if rows:
        # compared as texts: seconds of this century have ten digits before the point
        newest = seconds_ns(rows[0].time if len(rows) == 1 else max([row.time for row in rows]))
    sides = _side(reader, bid_rows), _side(reader, ask_rows)
    return *sides, newest, _places_of(rows) if is_whole else NO_PLACES


def _places_of(rows: Sequence[messages.TextLevel]) -> Places:
    return Places(
        max([decimal_places(row.price) for row in rows], default=0),
        max([decimal_places(row.size) for row in rows], default=0),
    )


def _joined(first: Levels, second: Levels) -> Levels:
    return Levels(first.prices + second.prices, first.sizes + second.sizes)


def _side(reader: LevelReader, rows: Sequence[messages.TextLevel]) -> Levels:
    if not rows:
        return Levels([], [])
    return reader.columns([row.price for row in rows], [row.size for row in rows])


def _checksum_of(parts: Sequence[messages.Changes]) -> int | None:
    """It stands in the last part; None, and nothing to compare with, when the venue left it out."""
    text = parts[-1].checksum
    if not text:
        return None
    if not text.isdecimal() or len(text) > 10:
        raise msgspec.ValidationError(f"checksum is {text[:40]!r}")
    return int(text)


def _subscription(channel: str) -> dict[str, Any]:
    name, _, number = channel.partition("-")
    if name == "book":
        return {"name": name, "depth": int(number)}
    return {"name": name, "interval": int(number)} if name == "ohlc" else {"name": name}
