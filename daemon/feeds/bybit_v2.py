"""Bybit's v2 topics, which recordings have: read, never subscribed. The venue ended them in 2023.

    {"topic": "trade.BTCUSDT", "data": [{"trade_time_ms": …, "price": "1053.90", "size": 0.14, "side": "Buy", …}]}
    {"topic": "orderBookL2_25.BTCUSDT", "type": "delta", "data": {"delete": […], "update": […], "insert": […]}, …}

Sizes are JSON numbers. A book is a snapshot and deltas whose `cross_seq` ascends, with holes: a lost one does not show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from marketd.daemon.feeds import bybit_messages as messages
from marketd.daemon.feeds import forms
from marketd.daemon.feeds.adapter import BookDelta, BookSnapshot, Levels
from marketd.daemon.feeds.adapter_base import rows_of
from marketd.daemon.feeds.bybit_markets import BOOK_DEPTH, BOOK_DEPTHS
from marketd.daemon.feeds.bybit_rest import SIDES, BybitRest
from marketd.daemon.feeds.levels import REALS, Sides, quick_reader
from marketd.daemon.feeds.venue_batch import Batch
from marketd.daemon.feeds.venue_books import DepthChannels, other_depth
from marketd.daemon.feeds.venue_records import UNREADABLE
from marketd.market.errors import RuleViolation
from marketd.market.instruments import Instrument
from marketd.market.times import NS_PER_MS, NS_PER_US

if TYPE_CHECKING:
    from marketd.market._compiled import Reader

_trades = msgspec.json.Decoder(list[messages.OldTrade], strict=False)
_snapshot = msgspec.json.Decoder(messages.OldSnapshot | list[messages.OldLevel]).decode
_levels = msgspec.json.Decoder(list[messages.OldLevel]).decode
_delta = msgspec.json.Decoder(messages.OldDelta).decode


OLD_DEPTHS = {"orderBookL2_25": 25, "orderBook_200": 200}  # topics of books, and their levels a side


_ROWS = forms.objects(("price", "size", "side"), ("Buy", "Sell"), REALS, sizes=False)
_read_changes = forms.message(
    {
        "topic": forms.key(),
        "type": forms.quoted("delta"),
        "data": {"delete": _ROWS, "update": _ROWS, "insert": _ROWS},
        "ts": forms.millis(0),
        "cts": forms.millis(0),
        "cross_seq": forms.loose(0),
        "timestamp_e6": forms.micros(0),
    }
)


class BybitV2(BybitRest):
    """The part of the adapter that reads v2, and what v5 shares with it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._channels = DepthChannels()
        # by topic, as `_quick` for trades; of one dict each, lest a body is read under a topic of another form
        self._quick_books: dict[str, Reader] = {}
        self._quick_old: dict[str, Reader] = {}

    def adopt(self, instrument: Instrument) -> None:
        super().adopt(instrument)
        for readers, topic, name in self._book_topics(instrument.symbol):
            readers.pop(topic, None)
            if (reader := quick_reader(instrument, (instrument.symbol, name))) is not None:
                readers[topic] = reader

    def forget(self, symbol: str) -> None:
        for readers, topic, _ in self._book_topics(symbol):
            readers.pop(topic, None)
        super().forget(symbol)
        self._channels.forget(symbol)

    def _book_topics(self, symbol: str) -> list[tuple[dict[str, Reader], str, str]]:
        """Topics of its books: whose readers they are among, and the name of the channel."""
        wire = self._wire(symbol)
        books = [(self._quick_books, f"orderbook.{name}.{wire}", name) for name in BOOK_DEPTHS]
        return [*books, *((self._quick_old, f"{name}.{wire}", name) for name in OLD_DEPTHS)]

    def _read_old_book(self, batch: Batch, frame: bytes) -> bool:
        """Changes of a book, at one go; as `_read_at_once`."""
        found = None if _read_changes is None else _read_changes(frame, self._quick_old)
        if found is None:
            return False
        (symbol, name), _, made_ns, _, number, ts_ns, bids, asks = found
        batch.see(symbol, made_ns)
        if self._book and self._channels.takes(symbol, OLD_DEPTHS[name], name, is_snapshot=False):
            batch.see(symbol, ts_ns)
            batch.books.append(BookDelta(symbol, number, number, None, ts_ns, bids, asks))
        else:
            batch.ignore(name)
        return True

    def _subscribed(self, batch: Batch, envelope: messages.Envelope, parts: Sequence[str]) -> str | None:
        """The symbol of a topic; None (and counted) when it is not one of ours."""
        symbol = self._symbol(batch, parts[-1])
        if symbol is not None and envelope.time:
            batch.see(symbol, envelope.time * NS_PER_MS)
        return symbol

    def _take(
        self,
        batch: Batch,
        symbol: str,
        rows: Sequence[Any],
        make: Callable[[Batch, str, Any], None],
        frame: bytes,
    ) -> None:
        """`make` something of each row of a message, or reject that row."""
        for row in rows:
            try:
                if isinstance(row, Exception):
                    raise row
                make(batch, symbol, row)
            except RuleViolation as violation:
                batch.reject(symbol, violation.rule, violation, frame)
            except UNREADABLE as error:
                batch.reject(symbol, "undecodable", error, frame)
        if not rows:
            batch.ignore("empty message")

    def _on_old_trades(self, batch: Batch, envelope: messages.Envelope, parts: Sequence[str], frame: bytes) -> None:
        symbol = self._subscribed(batch, envelope, parts)
        if symbol is not None:
            self._take(batch, symbol, rows_of(_trades, messages.OldTrade, envelope.data), self._old_trade, frame)

    def _old_trade(self, batch: Batch, symbol: str, trade: messages.OldTrade) -> None:
        side, ts_ns = SIDES.get(trade.side), trade.time * NS_PER_MS
        if side is None:
            raise msgspec.ValidationError(f"side {trade.side[:40]!r} is neither Buy nor Sell")
        batch.see(symbol, ts_ns)
        batch.trade(symbol, self._trade(symbol, ts_ns, trade.trade_id, str(trade.price), str(trade.size), side))

    def _on_old_book(
        self, name: str, batch: Batch, envelope: messages.Envelope, parts: Sequence[str], frame: bytes
    ) -> None:
        symbol = self._subscribed(batch, envelope, parts)
        if symbol is None:
            return
        is_snapshot = envelope.type == "snapshot"
        if not self._book or not self._channels.takes(symbol, OLD_DEPTHS[name], name, is_snapshot=is_snapshot):
            batch.ignore(name)
            return
        try:
            levels = self._sides(symbol, envelope)
        except RuleViolation as violation:
            batch.reject(symbol, violation.rule, violation, frame, book=True)
            return
        except UNREADABLE as error:
            batch.reject(symbol, "undecodable", error, frame, book=True)
            return
        number, ts_ns = envelope.cross_seq, envelope.time_us * NS_PER_US
        batch.see(symbol, ts_ns)
        if is_snapshot:
            depth = other_depth(OLD_DEPTHS[name], BOOK_DEPTH)
            batch.books.append(BookSnapshot(symbol, number, ts_ns, *levels, depth=depth))
        else:
            batch.books.append(BookDelta(symbol, number, number, None, ts_ns, *levels))

    def _sides(self, symbol: str, envelope: messages.Envelope) -> Sides:
        """Bids and asks of a message that tells them in one list, or in three."""
        reader = self._readers[symbol]
        if envelope.type != "snapshot" and reader.quick is not None:
            delta = _delta(envelope.data)
            names = b"price", b"size", b"side", b"Buy", b"Sell"
            found = reader.quick.objects((delta.delete, delta.update, delta.insert), *names, REALS, False)
            if found is not None:
                return found
        prices, sizes = reader.prices, reader.sizes
        bids: tuple[list[int], list[int]] = [], []
        asks: tuple[list[int], list[int]] = [], []
        for row in old_levels(envelope):
            side = bids if row.side == "Buy" else asks
            side[0].append(prices[row.price])
            side[1].append(sizes[row.size])
        return Levels(*bids), Levels(*asks)


def old_trades(data: msgspec.Raw) -> list[messages.OldTrade]:
    return _trades.decode(data)


def old_levels(envelope: messages.Envelope) -> list[messages.OldLevel]:
    """A snapshot's levels, or a delta's in the order delete, update, insert: what is deleted can be inserted again."""
    if envelope.type == "snapshot":
        snapshot = _snapshot(envelope.data)
        rows: list[messages.OldLevel] = snapshot if isinstance(snapshot, list) else snapshot.order_book
        return rows
    delta = _delta(envelope.data)
    return _levels(delta.delete) + _levels(delta.update) + _levels(delta.insert)
