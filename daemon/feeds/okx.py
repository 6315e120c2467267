"""OKX: the public channels of its v5 WebSocket. Pure; see `adapter` for the contract.

    {"op": "subscribe", "args": [{"channel": "books", "instId": "BTC-USDT"}]}
    {"arg": {"channel": "books", "instId": "BTC-USDT"}, "action": "update", "data": [{"bids": …, "asks": …}]}

There are two addresses: `/ws/v5/public`, and `/ws/v5/business` with the candles and with every single trade
(`trades-all`, whose ids are consecutive). The public `trades` sums up what one order dealt at one price; it is taken
for `trades = "aggTrade"`, and cannot be asked for again. A stream is written `channel:instId` here. Liquidations come
for all instruments of a type at once. What is silent for 30 s is closed: the text "ping" is answered "pong".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from marketd.daemon.feeds import forms
from marketd.daemon.feeds import okx_messages as messages
from marketd.daemon.feeds.adapter import BookDelta, BookSnapshot
from marketd.daemon.feeds.adapter_base import rows_of
from marketd.daemon.feeds.levels import MORE_TEXTS, decode_rows
from marketd.daemon.feeds.okx_book import DEPTH, DEPTHS, RULE, is_shortest
from marketd.daemon.feeds.okx_names import kind_of
from marketd.daemon.feeds.okx_rest import BARS, SIDES, OkxRest
from marketd.daemon.feeds.venue_batch import Batch
from marketd.daemon.feeds.venue_books import DepthChannels, other_depth
from marketd.daemon.feeds.venue_records import UNREADABLE, chunks
from marketd.market.errors import RuleViolation
from marketd.market.instruments import Instrument
from marketd.market.times import NS_PER_MS

OLD_CANDLE_FIELDS = (6, 7)  # until 2022
COMMAND_STREAMS = 100  # in one message; the venue allows 64 kB, and 480 messages an hour
SERIES = ("funding", "mark_price", "open_interest", "liquidation")
CHANNELS = {"funding": "funding-rate", "mark_price": "mark-price", "open_interest": "open-interest"}
LIQUIDATIONS = "liquidation-orders"
# of a series and a type, the longest time between two messages
CADENCES = {("mark_price", "SWAP"): 10.0, ("mark_price", "FUTURES"): 10.0, ("funding", "SWAP"): 90.0}
ALL_TRADES = "trades-all"

_NAMED = re.compile(rb"channel:([\w-]+),instId:([\w-]+)")  # in the words of a refusal

Handler = Callable[[Batch, messages.Envelope, messages.Arg, bytes], None]

_envelope = msgspec.json.Decoder(messages.Envelope).decode
_trades = msgspec.json.Decoder(list[messages.Trade], strict=False)
_books = msgspec.json.Decoder(list[messages.Book], strict=False).decode
_candles = msgspec.json.Decoder(list[list[str]])
_mark_prices = msgspec.json.Decoder(list[messages.MarkPrice], strict=False)
_fundings = msgspec.json.Decoder(list[messages.FundingRate], strict=False)
_interests = msgspec.json.Decoder(list[messages.OpenInterest], strict=False)
_liquidations = msgspec.json.Decoder(list[messages.Liquidation], strict=False)


_CHANNELS = list(DEPTHS)
_read_changes = forms.message(
    {
        "event": forms.refused(),
        "arg": {"channel": forms.quoted(*_CHANNELS), "instId": forms.key()},
        "action": forms.quoted("update"),
        "data": [
            {
                "asks": forms.asks(MORE_TEXTS),
                "bids": forms.bids(MORE_TEXTS),
                "ts": forms.millis(),
                "seqId": forms.loose(None),
                "prevSeqId": forms.loose(None),
                "checksum": forms.word("0", fallback=0),  # as the venue sends it; of another one the texts count
            }
        ],
    }
)


def _trades_of(channel: str, flags: int) -> forms.ReadTrades | None:
    trade = {
        "instId": forms.text(),
        "tradeId": forms.number(forms.loose()),
        "px": forms.price(),
        "sz": forms.size(),
        "side": forms.side('"buy"', '"sell"'),
        "ts": forms.time(forms.millis()),
    }
    arg = {"channel": forms.quoted(channel), "instId": forms.key()}
    form = {"event": forms.refused(), "arg": arg, "action": forms.text(""), "data": [trade]}
    return forms.trades(form, flags)


def levels_of(book: messages.Book) -> list[list[str]]:
    return decode_rows(book.bids) + decode_rows(book.asks)


def endpoint_of(stream: str) -> str:
    """The path of the address that has a stream."""
    channel = stream.partition(":")[0]
    return "/ws/v5/business" if channel == ALL_TRADES or channel.startswith("candle") else "/ws/v5/public"


class OkxAdapter(OkxRest):
    ping: tuple[str, float] | None = ("ping", 20.0)

    def __init__(
        self,
        *,
        trades: str = "trade",
        candles: Sequence[str | int] = ("1m",),
        book: bool = False,
        series: Sequence[str] = (),
    ) -> None:
        super().__init__(trades, candles, book, series)
        self.numbered_trades = not self._is_aggregate
        self.book_rule = RULE
        self._channels = DepthChannels()
        self._unchecked: set[str] = set()  # symbols whose checksums cannot be computed, until the next snapshot
        self._trades_channel = "trades" if self._is_aggregate else ALL_TRADES
        self._read_trades = _trades_of(self._trades_channel, self._flags)
        self._handlers: dict[str, Handler] = {
            self._trades_channel: self._on_trades,
            **dict.fromkeys(DEPTHS, self._on_book),
            LIQUIDATIONS: self._on_liquidations,
            **{f"candle{name}": self._on_candles for name in BARS},
        }
        makers = {"funding": self._on_funding, "mark_price": self._on_mark_price, "open_interest": self._on_interest}
        self._handlers |= {CHANNELS[name]: make for name, make in makers.items() if name in self._series}

    # ---- streams ------------------------------------------------------------------------------

    def streams(self, symbol: str) -> list[str]:
        inst_id = self._wire(symbol)
        names = [self._trades_channel, *(f"candle{name}" for name in self._bars)]
        if kind_of(inst_id) != "SPOT":
            is_swap = kind_of(inst_id) == "SWAP"  # a future that ends has no funding
            names += [CHANNELS[name] for name in CHANNELS if name in self._series and (is_swap or name != "funding")]
            names += [LIQUIDATIONS] if "liquidation" in self._series else []
        return [*(f"{name}:{inst_id}" for name in names), *self.book_streams(symbol)]

    def cadences(self, symbol: str) -> dict[str, float]:
        kind = kind_of(self._wire(symbol))
        return {name: CADENCES[name, kind] for name in self._series if (name, kind) in CADENCES}

    def book_streams(self, symbol: str) -> list[str]:
        return [f"books:{self._wire(symbol)}"] if self._book else []

    def connect_url(self, base: str, streams: Sequence[str]) -> tuple[str, list[str]]:
        path = endpoint_of(streams[0]) if streams else "/ws/v5/public"
        return base.rstrip("/") + path, list(streams)

    def commands(self, verb: str, streams: Sequence[str], first_id: int) -> list[str]:
        wanted: dict[str, list[str]] = {}  # argument -> streams that it brings
        for stream in streams:
            for text in self._args(verb, stream):
                wanted.setdefault(text, []).append(stream)
        asked = list(chunks(list(wanted), COMMAND_STREAMS))
        for number, chunk in enumerate(asked, first_id):
            self._requests.note(verb, number, [stream for text in chunk for stream in wanted[text]])
        return [
            f'{{"id":"{number}","op":"{verb.lower()}","args":[{",".join(chunk)}]}}'
            for number, chunk in enumerate(asked, first_id)
        ]

    def _args(self, verb: str, stream: str) -> list[str]:
        channel, _, inst_id = stream.partition(":")
        if channel != LIQUIDATIONS:
            return [msgspec.json.encode({"channel": channel, "instId": inst_id}).decode()]
        kind = kind_of(inst_id)
        others = [wire for wire in self._symbols if wire != inst_id and kind_of(wire) == kind]
        if verb == "UNSUBSCRIBE" and others:
            return []  # they share the channel
        return [msgspec.json.encode({"channel": channel, "instType": kind}).decode()]

    def adopt(self, instrument: Instrument) -> None:
        super().adopt(instrument)
        self._unchecked.discard(instrument.symbol)
        self._channels.forget(instrument.symbol)

    # ---- messages -----------------------------------------------------------------------------

    def _read_at_once(self, batch: Batch, frame: bytes) -> bool:
        if self._read_trades is None or _read_changes is None:
            return False
        if trades := self._read_trades(frame, self._quick):
            batch.take_trades(trades)
            return True
        found = _read_changes(frame, self._quick)
        if found is None:
            return False
        symbol, place, _, ts_ns, number, previous, _, bids, asks = found
        channel = _CHANNELS[place]
        if (number is None) != (previous is None):
            return False
        if self._book and self._channels.takes(symbol, DEPTHS[channel], channel, is_snapshot=False):
            batch.see(symbol, ts_ns)
            number = number or 0
            batch.books.append(BookDelta(symbol, number, number, previous, ts_ns, bids, asks))
        else:
            batch.ignore(channel)
        return True

    def _read(self, batch: Batch, frame: bytes) -> None:
        if frame == b"pong":
            batch.ignore("pong")
            return
        envelope = _envelope(frame)
        if envelope.event is not None:
            self._on_event(batch, envelope, frame)
            return
        arg = envelope.arg
        if arg is None:
            batch.reject(None, "undecodable", "neither an event nor a channel", frame)
            return
        handler = self._handlers.get(arg.channel)
        if handler is None:
            batch.ignore_unknown(arg.channel)
        else:
            handler(batch, envelope, arg, frame)

    def _on_event(self, batch: Batch, envelope: messages.Envelope, frame: bytes) -> None:
        event, arg = envelope.event, envelope.arg
        if event == "notice":
            batch.closing(frame)  # a minute before the venue closes this connection for an upgrade
        elif event in ("error", "channel-conn-count-error"):
            named = _NAMED.search(frame)
            stream = named.expand(rb"\1:\2").decode() if named else ""
            batch.error(frame, (stream,) if stream else self._requests.of(envelope.id))
        else:
            if event == "subscribe" and arg is not None:
                batch.subscribed((f"{arg.channel}:{arg.inst_id}",))
            batch.ignore_unknown(event)  # subscribe, unsubscribe, channel-conn-count

    def _rows(
        self,
        batch: Batch,
        arg: messages.Arg,
        decoder: msgspec.json.Decoder[Any],
        one: Any,
        envelope: messages.Envelope,
        frame: bytes,
        make: Callable[[Batch, str, Any], None],
    ) -> None:
        """`make` something of each row of a message, or reject that row."""
        symbol = self._symbol(batch, arg.inst_id)
        if symbol is None:
            return
        rows = rows_of(decoder, one, envelope.data)
        for row in rows:
            self._take(batch, symbol, row, make, frame)
        if not rows:
            batch.ignore("empty message")

    def _take(self, batch: Batch, symbol: str, row: Any, make: Callable[[Batch, str, Any], None], frame: bytes) -> None:
        try:
            if isinstance(row, Exception):
                raise row
            make(batch, symbol, row)
        except RuleViolation as violation:
            batch.reject(symbol, violation.rule, violation, frame)
        except (*UNREADABLE, ValueError) as error:
            batch.reject(symbol, "undecodable", error, frame)

    def _on_trades(self, batch: Batch, envelope: messages.Envelope, arg: messages.Arg, frame: bytes) -> None:
        self._rows(batch, arg, _trades, messages.Trade, envelope, frame, self._trade_row)

    def _trade_row(self, batch: Batch, symbol: str, trade: messages.Trade) -> None:
        batch.see(symbol, trade.time * NS_PER_MS)
        batch.trade(symbol, self._trade_of(symbol, trade))

    def _on_candles(self, batch: Batch, envelope: messages.Envelope, arg: messages.Arg, frame: bytes) -> None:
        name = arg.channel.removeprefix("candle")
        if name not in self._bars:
            batch.ignore_unknown(arg.channel)
            return

        def make(batch: Batch, symbol: str, fields: Sequence[str]) -> None:
            if len(fields) in OLD_CANDLE_FIELDS:
                batch.ignore("candle that does not tell its end")
                return
            if len(fields) < 9:
                raise msgspec.ValidationError(f"a candle of {len(fields)} fields")
            start_ns = msgspec.convert(fields[0], messages.Millis, strict=False) * NS_PER_MS
            if fields[8] == "1":
                batch.bar(symbol, self._candle(symbol, start_ns, BARS[name], fields))
            else:
                batch.ignore("open candle")

        self._rows(batch, arg, _candles, list[str], envelope, frame, make)

    # ---- the book -----------------------------------------------------------------------------

    def _on_book(self, batch: Batch, envelope: messages.Envelope, arg: messages.Arg, frame: bytes) -> None:
        symbol = self._symbol(batch, arg.inst_id)
        if symbol is None:
            return
        depth, is_snapshot = DEPTHS[arg.channel], envelope.action == "snapshot"
        if not self._book or not self._channels.takes(symbol, depth, arg.channel, is_snapshot=is_snapshot):
            batch.ignore(arg.channel)
            return
        try:
            books = _books(envelope.data)
        except UNREADABLE as error:
            batch.reject(symbol, "undecodable", error, frame, book=True)
            return
        for book in books:
            self._one_book(batch, symbol, book, depth if is_snapshot else 0, frame)
        if not books:
            batch.ignore("empty message")

    def _one_book(self, batch: Batch, symbol: str, book: messages.Book, depth: int, frame: bytes) -> None:
        """A snapshot of so many levels, or (0) changes."""
        if (book.sequence is None) != (book.previous is None):
            batch.reject(symbol, "undecodable", "seqId without prevSeqId, or the other way round", frame, book=True)
            return
        try:
            levels = self._readers[symbol].rows(book.bids, book.asks)
        except RuleViolation as violation:
            batch.reject(symbol, violation.rule, violation, frame, book=True)
            return
        except (*UNREADABLE, IndexError) as error:
            what = "a level without a size" if isinstance(error, IndexError) else error
            batch.reject(symbol, "undecodable", what, frame, book=True)
            return
        ts_ns, number = book.time * NS_PER_MS, book.sequence or 0
        batch.see(symbol, ts_ns)
        checksum = self._checksum(symbol, book, depth > 0)
        if depth:
            batch.books.append(BookSnapshot(symbol, number, ts_ns, *levels, checksum, other_depth(depth, DEPTH)))
        else:
            batch.books.append(BookDelta(symbol, number, number, book.previous, ts_ns, *levels, checksum))

    def _checksum(self, symbol: str, book: messages.Book, is_snapshot: bool) -> int | None:
        """None when the venue sent none, or when the texts that it is over do not follow from their numbers."""
        if not book.checksum:
            return None
        if is_snapshot:
            self._unchecked.discard(symbol)
        if symbol not in self._unchecked and not is_shortest(levels_of(book)):
            self._unchecked.add(symbol)
        return None if symbol in self._unchecked else book.checksum

    # ---- declared series ----------------------------------------------------------------------

    def _on_funding(self, batch: Batch, envelope: messages.Envelope, arg: messages.Arg, frame: bytes) -> None:
        def make(batch: Batch, symbol: str, row: messages.FundingRate) -> None:
            batch.see(symbol, row.time * NS_PER_MS)
            batch.tell(symbol, "funding", row.time * NS_PER_MS, float(row.rate), row.settled * NS_PER_MS)

        self._rows(batch, arg, _fundings, messages.FundingRate, envelope, frame, make)

    def _on_mark_price(self, batch: Batch, envelope: messages.Envelope, arg: messages.Arg, frame: bytes) -> None:
        def make(batch: Batch, symbol: str, row: messages.MarkPrice) -> None:
            batch.see(symbol, row.time * NS_PER_MS)
            batch.tell(symbol, "mark_price", row.time * NS_PER_MS, float(row.price), None)

        self._rows(batch, arg, _mark_prices, messages.MarkPrice, envelope, frame, make)

    def _on_interest(self, batch: Batch, envelope: messages.Envelope, arg: messages.Arg, frame: bytes) -> None:
        def make(batch: Batch, symbol: str, row: messages.OpenInterest) -> None:
            batch.see(symbol, row.time * NS_PER_MS)
            batch.tell(symbol, "open_interest", row.time * NS_PER_MS, self._readers[symbol].size(row.contracts))

        self._rows(batch, arg, _interests, messages.OpenInterest, envelope, frame, make)

    def _on_liquidations(self, batch: Batch, envelope: messages.Envelope, arg: messages.Arg, frame: bytes) -> None:
        """One message tells of any instruments of a type; those that are not subscribed are passed over."""
        if "liquidation" not in self._series:
            batch.ignore(LIQUIDATIONS)
            return
        rows = rows_of(_liquidations, messages.Liquidation, envelope.data)
        for row in rows:
            if isinstance(row, Exception):
                batch.reject(None, "undecodable", row, frame)
                continue
            symbol = self._symbol(batch, row.inst_id)
            if symbol is not None:
                for detail in row.details:
                    self._take(batch, symbol, detail, self._liquidation, frame)
        if not any(isinstance(row, Exception) or row.details for row in rows):
            batch.ignore("empty message")

    def _liquidation(self, batch: Batch, symbol: str, detail: messages.LiquidationDetail) -> None:
        side = SIDES.get(detail.side)
        if side is None:
            raise msgspec.ValidationError(f"side {detail.side[:40]!r} is neither buy nor sell")
        reader, ts_ns = self._readers[symbol], detail.time * NS_PER_MS
        batch.see(symbol, ts_ns)
        batch.tell(symbol, "liquidation", ts_ns, side, reader.price(detail.price), None, reader.size(detail.size))

    # ---- recordings ---------------------------------------------------------------------------

    def _texts(self, frame: bytes) -> list[tuple[str, str, str]]:
        envelope = _envelope(frame)
        if envelope.arg is None or envelope.event is not None:
            return []
        symbol, channel = self._read_name(envelope.arg.inst_id), envelope.arg.channel
        if channel in ("trades", ALL_TRADES):
            return [(symbol, trade.price, trade.size) for trade in _trades.decode(envelope.data)]
        if channel in DEPTHS:
            books = _books(envelope.data)
            return [(symbol, level[0], level[1]) for book in books for level in levels_of(book)]
        if channel.removeprefix("candle") in BARS:
            bars = [bar for bar in _candles.decode(envelope.data) if len(bar) >= 9]
            return [(symbol, price, bar[5]) for bar in bars for price in bar[1:5]]
        if channel == CHANNELS["open_interest"]:
            return [(symbol, "", row.contracts) for row in _interests.decode(envelope.data)]
        return []
