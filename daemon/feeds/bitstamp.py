"""Bitstamp: the channels of its WebSocket v2. Pure; see `adapter` for the contract.

    {"event": "bts:subscribe", "data": {"channel": "live_trades_btcusd"}}
    {"event": "trade", "channel": "live_trades_btcusd", "data": {"id": 216000477, "type": 0, "price_str": …}}
    {"event": "data", "channel": "diff_order_book_btcusd", "data": {"microtimestamp": …, "bids": [[price, size]], …}}

The book is the REST snapshot, and from its `microtimestamp` on the changed levels of `diff_order_book`. Nothing is
numbered: a lost message shows only in a book that is crossed, so the book is taken anew after every reconnect. Trade
ids are integers shared by all markets, ascending and with holes. There are bars over REST, and none on the stream.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from marketd.daemon.feeds import bitstamp_messages as messages
from marketd.daemon.feeds import forms
from marketd.daemon.feeds.adapter import BookDelta, BookRule, BookSnapshot, Fit
from marketd.daemon.feeds.adapter_base import pair_of
from marketd.daemon.feeds.bitstamp_rest import BitstampRest
from marketd.daemon.feeds.forms import MOST
from marketd.daemon.feeds.levels import decode_pairs
from marketd.daemon.feeds.venue_batch import Batch
from marketd.daemon.feeds.venue_records import UNREADABLE
from marketd.market.errors import ConfigError, InvalidArgument, RuleViolation
from marketd.market.times import NS_PER_US

_SYMBOL = re.compile(r"[A-Z0-9]{5,20}")

_envelope = msgspec.json.Decoder(messages.Envelope).decode
_trade = msgspec.json.Decoder(messages.LiveTrade, strict=False).decode
_book = msgspec.json.Decoder(messages.Book, strict=False).decode


_read_changes = forms.message(
    {
        "event": forms.quoted("data"),
        "channel": forms.key(),
        "data": {"microtimestamp": forms.loose(most=MOST // NS_PER_US), "bids": forms.bids(), "asks": forms.asks()},
    }
)


def _fit(sequence: int, delta: BookDelta) -> Fit:
    """Two messages can bear the same microsecond; levels are absolute, so applying one again changes nothing."""
    return Fit.OLD if delta.last < sequence else Fit.NEXT


BEST_LEVELS = 100  # a side, of `order_book`

RULE = BookRule("rest", splice=_fit, follows=_fit, needs_older=True, audited=True, exact=True)


class BitstampAdapter(BitstampRest):
    ping: tuple[str, float] | None = ('{"event":"bts:heartbeat"}', 20.0)

    def __init__(
        self,
        *,
        trades: str = "trade",
        candles: Sequence[str | int] = (),
        book: bool = False,
        series: Sequence[str] = (),
    ) -> None:
        if trades != "trade":
            raise ConfigError(f"trades: {trades!r}: Bitstamp has no aggregate trades; write 'trade'", field="trades")
        super().__init__(book=book, series=series)
        self.book_rule = RULE
        self._with_changes: set[str] = set()  # symbols whose changes come: for them a top-100 snapshot is no news

    # ---- names and streams --------------------------------------------------------------------

    def venue_symbol(self, symbol: str) -> str:
        base, quote, settle, _ = pair_of(symbol, self.venue, "BTC/USD")
        if settle:
            raise InvalidArgument(
                f"symbols: {symbol!r} names a swap or future; {self.venue} is the spot market: write '{base}/{quote}'",
                field="symbols",
            )
        if _SYMBOL.fullmatch(base + quote) is None:
            raise InvalidArgument(
                f"symbols: {symbol!r} is no symbol of {self.venue}; write one such as 'BTC/USD'", field="symbols"
            )
        return base + quote

    @property
    def timeframes(self) -> tuple[int, ...]:
        return ()  # the stream has none

    def streams(self, symbol: str) -> list[str]:
        return [f"live_trades_{symbol.lower()}", *self.book_streams(symbol)]

    def book_streams(self, symbol: str) -> list[str]:
        return [f"diff_order_book_{symbol.lower()}"] if self._book else []

    def connect_url(self, base: str, streams: Sequence[str]) -> tuple[str, list[str]]:
        return base, list(streams)

    def commands(self, verb: str, streams: Sequence[str], first_id: int) -> list[str]:
        event = f"bts:{verb.lower()}"  # one channel a command; there are no ids
        return [msgspec.json.encode({"event": event, "data": {"channel": name}}).decode() for name in streams]

    # ---- messages -----------------------------------------------------------------------------

    def keys(self, symbol: str, wire: str) -> Mapping[str, Any]:
        return {f"diff_order_book_{wire}": symbol}

    def _read_at_once(self, batch: Batch, frame: bytes) -> bool:
        found = None if _read_changes is None else _read_changes(frame, self._quick)
        if found is None or not self._book:
            return False
        symbol, _, time_us, bids, asks = found
        self._with_changes.add(symbol)
        batch.see(symbol, time_us * NS_PER_US)
        batch.books.append(BookDelta(symbol, time_us, time_us, None, time_us * NS_PER_US, bids, asks))
        return True

    def _read(self, batch: Batch, frame: bytes) -> None:
        envelope = _envelope(frame)
        event, channel = envelope.event, "" if envelope.channel is None else envelope.channel
        if not isinstance(event, str) or not isinstance(channel, str):
            batch.reject(None, "undecodable", "neither an event nor a channel", frame, book=self._book)
            return
        name, _, market = channel.rpartition("_")
        if event == "data" and name == "diff_order_book":
            self._on_changes(batch, market, envelope.data, frame)
        elif event == "trade" and name == "live_trades":
            self._on_trade(batch, market, envelope.data, frame)
        elif event == "data" and name == "order_book":
            self._on_best(batch, market, envelope.data, frame)
        else:
            self._on_other(batch, event, channel, frame)

    def _on_other(self, batch: Batch, event: str, channel: str, frame: bytes) -> None:
        if event == "bts:error":
            batch.error(frame, (channel,) if channel else ())
        elif event == "bts:request_reconnect":
            batch.closing(frame)
        elif event.startswith("bts:"):
            if event == "bts:subscription_succeeded":
                batch.subscribed((channel,))
            batch.ignore_unknown(event.removeprefix("bts:"))  # heartbeat, subscription_succeeded, …
        else:
            batch.ignore_unknown(channel.rpartition("_")[0] if event == "data" else event)

    def _on_trade(self, batch: Batch, market: str, data: Any, frame: bytes) -> None:
        symbol = self._symbol(batch, market)
        if symbol is None:
            return
        try:
            trade = _trade(data)
        except UNREADABLE as error:
            batch.reject(symbol, "undecodable", error, frame)
            return
        ts_ns = trade.time * NS_PER_US
        batch.see(symbol, ts_ns)
        try:
            row = self._trade(symbol, ts_ns, trade.trade_id, trade.price, trade.size, 1 - 2 * trade.side)
        except RuleViolation as violation:
            batch.reject(symbol, violation.rule, violation, frame, trade.trade_id)
        else:
            batch.trade(symbol, row)

    def _on_changes(self, batch: Batch, market: str, data: Any, frame: bytes) -> None:
        symbol = self._symbol(batch, market)
        if symbol is None:
            return
        self._with_changes.add(symbol)
        if not self._book:
            batch.ignore("diff_order_book")
            return
        book = self._book_of(batch, symbol, data, frame)
        levels = book and self._pairs(batch, symbol, book.bids, book.asks, frame)
        if book and levels:
            batch.books.append(BookDelta(symbol, book.time, book.time, None, book.time * NS_PER_US, *levels))

    def _on_best(self, batch: Batch, market: str, data: Any, frame: bytes) -> None:
        """The best 100 levels: a book of its own in recordings that have no changes."""
        symbol = self._symbol(batch, market)
        if symbol is None:
            return
        if not self._book or symbol in self._with_changes:
            batch.ignore("order_book")
            return
        book = self._book_of(batch, symbol, data, frame)
        levels = book and self._pairs(batch, symbol, book.bids, book.asks, frame)
        if book and levels:
            ts_ns = book.time * NS_PER_US
            batch.books.append(BookSnapshot(symbol, book.time, ts_ns, *levels, depth=BEST_LEVELS, streamed=True))

    def _book_of(self, batch: Batch, symbol: str, data: Any, frame: bytes) -> messages.Book | None:
        try:
            book: messages.Book = _book(data)
        except UNREADABLE as error:
            batch.reject(symbol, "undecodable", error, frame, book=True)
            return None
        batch.see(symbol, book.time * NS_PER_US)
        return book

    def _texts(self, frame: bytes) -> list[tuple[str, str, str]]:
        envelope = _envelope(frame)
        name, _, market = str(envelope.channel).rpartition("_")
        if name == "live_trades" and envelope.event == "trade":
            trade = _trade(envelope.data)
            return [(market.upper(), trade.price, trade.size)]
        if name in ("diff_order_book", "order_book") and envelope.event == "data":
            book = _book(envelope.data)
            return [(market.upper(), price, size) for price, size in decode_pairs(book.bids) + decode_pairs(book.asks)]
        return []
