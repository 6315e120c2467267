"""Binance's streams: spot, USD-M and COIN-M futures. Pure; see `adapter` for the contract, `binance_markets` for what
differs between the markets, and `binance_rest` for the other half.

    /stream?streams=btcusdt@trade/btcusdt@kline_1m      {"stream": "btcusdt@trade", "data": {"e": "trade", …}}
    {"method": "SUBSCRIBE", "params": [...], "id": 7}   {"result": null, "id": 7}

An instrument's trades are either `trade` or `aggTrade`, never both: the two have id spaces of their own. Prices and
sizes are decimal texts; times are ms, or µs on connections that ask for it, told apart by their magnitude.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from marketd.daemon.feeds import binance_messages as messages
from marketd.daemon.feeds import series as declared
from marketd.daemon.feeds.adapter import (
    MAX_PAYLOAD_BYTES,
    BookDelta,
    BookRule,
    Candles,
    Event,
    Ignored,
    Rejected,
    Series,
    Subscribed,
    Trades,
    VenueClosing,
    VenueError,
    VenueTime,
    clip_name,
)
from marketd.daemon.feeds.asked import Asked, words_of
from marketd.daemon.feeds.binance_forms import DEPTH_SPEEDS, read_changes, trades_of
from marketd.daemon.feeds.binance_markets import COIN_M, ENDPOINTS, SPOT, USD_M, Market
from marketd.daemon.feeds.binance_names import venue_symbol
from marketd.daemon.feeds.binance_records import (
    INTERVALS,
    Message,
    candle_records,
    candle_row,
    is_partial,
    trade_records,
    venue_ns,
)
from marketd.daemon.feeds.binance_rest import UNREADABLE, BinanceRest
from marketd.daemon.feeds.binance_texts import texts_of
from marketd.market.errors import RuleViolation
from marketd.market.times import NS_PER_SECOND

URL_STREAMS = 200  # in the address of a connection: some 5 kB; proxies refuse longer ones
COMMAND_STREAMS = 200  # in one SUBSCRIBE message
MARK_PRICE_SECONDS = 1.0
_DEPTH, NAME_BYTES = b"@depth", 64  # told by a look at the bytes, which may err
_SIDES = {"BUY": 1, "SELL": -1}

_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_envelope = msgspec.json.Decoder(messages.Envelope).decode
_head = msgspec.json.Decoder(messages.Head).decode
_trade = msgspec.json.Decoder(messages.TradeMessage).decode
_agg_trade = msgspec.json.Decoder(messages.AggTradeMessage).decode
_kline = msgspec.json.Decoder(messages.KlineMessage).decode
_depth = msgspec.json.Decoder(messages.WrittenDepth).decode
_combined_depth = msgspec.json.Decoder(messages.CombinedDepth).decode
_depth_texts = msgspec.json.Decoder(messages.DepthMessage).decode
_mark_price = msgspec.json.Decoder(messages.MarkPriceMessage).decode
_force_order = msgspec.json.Decoder(messages.ForceOrderMessage).decode


class _Batch:
    """What the messages of one call said so far."""

    __slots__ = ("bars", "book", "ignored", "others", "series", "times", "trades")

    def __init__(self) -> None:
        self.trades: dict[str, list[Message | bytes]] = {}  # a row, where it was read in C
        self.bars: dict[str, list[bytes]] = {}
        self.book: list[Event] = []
        self.series: dict[tuple[str, str], list[tuple[int, Sequence[declared.Value]]]] = {}
        self.times: dict[str, int] = {}  # symbol -> newest time, ns
        self.ignored: defaultdict[str, int] = defaultdict(int)
        self.others: list[Event] = []

    def see(self, symbol: str, ts_ns: int) -> None:
        if ts_ns > self.times.get(symbol, 0):
            self.times[symbol] = ts_ns

    def reject(self, symbol: str | None, rule: str, detail: str, payload: bytes, *, book: bool = False) -> None:
        self.others.append(Rejected(symbol, rule, detail[:500], bytes(payload[:MAX_PAYLOAD_BYTES]), book=book))


class BinanceAdapter(BinanceRest):
    numbered_trades = True
    ping: tuple[str, float] | None = None

    def __init__(
        self,
        *,
        trades: str = "trade",
        candles: Sequence[str | int] = ("1m",),
        book: bool = False,
        series: Sequence[str] = (),
        market: Market = SPOT,
    ) -> None:
        super().__init__(market, trades, candles, series, book=book)
        self.venue = market.venue
        self._requests = Asked()
        self.book_rule: BookRule | None = market.rule
        decode: Callable[[msgspec.Raw | bytes], Any] = _agg_trade if self._is_aggregate else _trade
        self._decode_trade = decode
        self._read_trades = trades_of(trades, self._flags)
        # by the stream's part after the first "@", or by the event's name
        self._handlers: dict[str, Callable[[_Batch, Any, bytes], None]] = {
            trades: self._on_trade,
            "bookTicker": self._on_book_ticker,
            "depthUpdate": self._on_depth,
            **{name: self._on_depth for name in DEPTH_SPEEDS},
            "kline": self._on_kline,
            **{f"kline_{name}": self._on_kline for name in INTERVALS},
        }
        if self._wants_marks:
            self._handlers |= dict.fromkeys(("markPriceUpdate", "markPrice", "markPrice@1s"), self._on_mark_price)
        if "liquidation" in self._series:
            self._handlers["forceOrder"] = self._on_force_order

    # ---- names and streams --------------------------------------------------------------------

    def venue_symbol(self, symbol: str) -> str:
        return venue_symbol(self._market, symbol)

    def streams(self, symbol: str) -> list[str]:
        lower = symbol.lower()
        names = [self._trades, *(f"kline_{name}" for name in self._intervals)]
        if self._wants_marks:
            names.append("markPrice@1s")
        if "liquidation" in self._series:
            names.append("forceOrder")
        return [*(f"{lower}@{name}" for name in names), *self.book_streams(symbol)]

    def book_streams(self, symbol: str) -> list[str]:
        return [f"{symbol.lower()}@{self._market.depth}"] if self._book else []

    def cadences(self, symbol: str) -> dict[str, float]:
        ends = "_" in symbol and not symbol.endswith("_PERP")  # then it has no funding
        told = {"mark_price"} if ends else {"mark_price", "funding"}
        return dict.fromkeys(told & self._series, MARK_PRICE_SECONDS)

    @property
    def _wants_marks(self) -> bool:
        """Funding comes in the messages of the mark price."""
        return bool(self._series & {"funding", "mark_price"})

    def connect_url(self, base: str, streams: Sequence[str]) -> tuple[str, list[str]]:
        named, rest = streams[:URL_STREAMS], list(streams[URL_STREAMS:])
        return f"{self._place(base, streams)}/stream?streams={'/'.join(named)}", rest

    def _place(self, base: str, streams: Sequence[str]) -> str:
        """The address that has the streams; a path of the market's own in `base` is no more than one of them."""
        base, endpoint_of = base.rstrip("/"), self._market.endpoint_of
        if endpoint_of is None:
            return base
        for endpoint in ENDPOINTS:
            base = base.removesuffix(endpoint)
        return base + (endpoint_of(streams[0]) if streams else ENDPOINTS[0])

    def commands(self, verb: str, streams: Sequence[str], first_id: int) -> list[str]:
        chunks = [streams[i : i + COMMAND_STREAMS] for i in range(0, len(streams), COMMAND_STREAMS)]
        for number, chunk in enumerate(chunks, first_id):
            self._requests.note(verb, number, chunk)
        return [
            msgspec.json.encode({"method": verb, "params": chunk, "id": number}).decode()
            for number, chunk in enumerate(chunks, first_id)
        ]

    def survey_texts(self, frame: bytes) -> list[tuple[str, str, str]]:
        return texts_of(frame)

    # ---- messages -----------------------------------------------------------------------------

    def decode_many(self, frames: Sequence[bytes]) -> list[Event]:
        batch, trades_suffix, is_quick = _Batch(), self._trades, bool(self._quick)
        for frame in frames:
            try:
                if is_quick and self._read_at_once(batch, frame):
                    continue
                if _DEPTH in frame[:NAME_BYTES] and self._on_combined_depth(batch, frame):
                    continue
                if frame[:1] == b"[":
                    self._many(batch, "", frame, frame)
                    continue
                envelope = _envelope(frame)
                stream = envelope.stream
                if stream is None:
                    self._bare(batch, envelope, frame)
                    continue
                if stream[:1] == "!":
                    self._many(batch, stream, envelope.data, frame)
                    continue
                name = stream.partition("@")[2]
                if name == trades_suffix:  # most of what comes: no further call
                    trade = self._decode_trade(envelope.data)
                    if trade.symbol in self._instruments:
                        batch.trades.setdefault(trade.symbol, []).append((trade, frame))
                        batch.see(trade.symbol, venue_ns(trade.event_time))
                    else:
                        batch.ignored["not subscribed"] += 1
                    continue
                handler = self._handlers.get(name)
                if handler is None:
                    self._unknown(batch, name, envelope.data)
                else:
                    handler(batch, envelope.data, frame)
            except UNREADABLE as error:
                batch.reject(None, "undecodable", f"{type(error).__name__}: {error}", frame)
        return self._events(batch)

    def _read_at_once(self, batch: _Batch, frame: bytes) -> bool:
        """Nearly all that comes, in one call where that was compiled; False: it is something else, or not plain
        throughout, and was not touched."""
        if self._read_trades is None or read_changes is None:
            return False
        if trades := self._read_trades(frame, self._quick):
            symbol, ts_ns, row, _ = trades
            batch.trades.setdefault(symbol, []).append(row)
            batch.see(symbol, ts_ns)
            return True
        found = read_changes(frame, self._quick) if self._book else None
        if found is None:
            return False
        symbol, _, first, last, previous, event_ns, ts_ns, bids, asks = found
        batch.see(symbol, event_ns)
        batch.book.append(BookDelta(symbol, first, last, previous, ts_ns or event_ns, bids, asks))
        return True

    def _many(self, batch: _Batch, stream: str, data: msgspec.Raw | bytes, frame: bytes) -> None:
        """A stream of all symbols: one event, or an array of them; what is of no use is one message of that name."""
        is_array = bytes(data)[:1] == b"["
        unused: msgspec.Raw | bytes | None = None if is_array else data
        for event in _array(data) if is_array else (data,):
            handler = self._handlers.get(_event_of(event))
            if handler is None:
                unused = event
            else:
                handler(batch, event, frame)
        if unused is not None:
            self._unknown(batch, stream, unused)
        elif is_array and bytes(data).strip() == b"[]":
            batch.ignored[clip_name(stream or "empty array")] += 1

    def _bare(self, batch: _Batch, envelope: messages.Envelope, frame: bytes) -> None:
        """A message without a stream's name: a raw stream's event, a reply, or an error."""
        if isinstance(envelope.event, str):
            handler = self._handlers.get(envelope.event)
            if envelope.event == "serverShutdown":
                batch.others.append(_closing(frame))
            elif handler is None:
                self._unknown(batch, envelope.event, frame)
            else:
                handler(batch, frame, frame)
        elif envelope.error is not None or (envelope.code is not None and envelope.msg is not None):
            text = frame[:500].decode("utf-8", "replace")
            batch.others.append(VenueError(text, words_of(frame), self._requests.of(envelope.id)))
        elif envelope.result is not messages.NO_RESULT:
            batch.ignored["reply"] += 1
            if streams := self._requests.of(envelope.id):
                batch.others.append(Subscribed(streams))
        elif envelope.last_update_id is not None:
            batch.ignored["depth snapshot"] += 1
        elif envelope.update_id is not None:
            batch.ignored["bookTicker"] += 1
        else:
            batch.reject(None, "undecodable", "neither an event nor a reply", frame)

    def _unknown(self, batch: _Batch, name: str, data: msgspec.Raw | bytes) -> None:
        """A kind of message that is not used here; its time still drives the clock."""
        try:
            head = _head(data)
        except UNREADABLE:  # e.g. the array of all tickers: known by its stream's name alone
            batch.ignored[clip_name(name)] += 1
            return
        if head.event == "serverShutdown":
            batch.others.append(_closing(data))
            return
        # the best levels, say, are told by the same event as changes: then only the stream's name tells
        batch.ignored[clip_name(name if name and head.event in self._handlers else head.event or name)] += 1
        self._see(batch, head)

    def _see(self, batch: _Batch, head: messages.Head) -> None:
        if head.event_time:
            batch.see(head.symbol if head.symbol in self._instruments else "", venue_ns(head.event_time))

    def _is_unknown(self, batch: _Batch, symbol: str) -> bool:
        if symbol in self._instruments:
            return False
        batch.ignored["not subscribed"] += 1
        return True

    def _on_trade(self, batch: _Batch, data: Any, frame: bytes) -> None:
        trade = self._decode_trade(data)
        if not self._is_unknown(batch, trade.symbol):
            batch.trades.setdefault(trade.symbol, []).append((trade, frame))
            batch.see(trade.symbol, venue_ns(trade.event_time))

    def _on_book_ticker(self, batch: _Batch, data: Any, frame: bytes) -> None:
        batch.ignored["bookTicker"] += 1
        if not self._market.is_spot:  # the spot market's bears no time
            self._see(batch, _head(data))

    def _on_depth(self, batch: _Batch, data: Any, frame: bytes) -> None:
        if not self._book:
            self._see(batch, _head(data))
            batch.ignored["depth"] += 1
            return
        try:
            depth = _depth(data)
        except UNREADABLE as error:
            symbol = _symbol_of(data)
            batch.reject(symbol if symbol in self._instruments else None, "undecodable", str(error), frame, book=True)
            return
        try:
            is_best = data is frame and depth.symbol in self._instruments and is_partial(_depth_texts(data))
        except UNREADABLE as error:
            batch.reject(depth.symbol, "undecodable", str(error), frame, book=True)
            return
        if is_best:
            batch.see(depth.symbol, venue_ns(depth.event_time))
            batch.ignored["partial depth"] += 1
        else:
            self._take_depth(batch, depth, frame)

    def _on_combined_depth(self, batch: _Batch, frame: bytes) -> bool:
        """Differences of books read at one go; False: it is something else, or damaged, and was not touched."""
        if not self._book:
            return False
        try:
            message = _combined_depth(frame)
        except UNREADABLE:
            return False
        if message.stream.partition("@")[2] not in DEPTH_SPEEDS:
            return False
        self._take_depth(batch, message.data, frame)
        return True

    def _take_depth(self, batch: _Batch, depth: messages.WrittenDepth, frame: bytes) -> None:
        symbol = depth.symbol
        if self._is_unknown(batch, symbol):
            return
        batch.see(symbol, venue_ns(depth.event_time))
        try:
            bids, asks = self._levels[symbol].pairs(depth.bids, depth.asks)
        except RuleViolation as violation:
            batch.reject(symbol, violation.rule, str(violation), frame, book=True)
            return
        except UNREADABLE as error:
            batch.reject(symbol, "undecodable", str(error), frame, book=True)
            return
        ts_ns = venue_ns(depth.time or depth.event_time)
        batch.book.append(BookDelta(symbol, depth.first_id, depth.last_id, depth.previous_id, ts_ns, bids, asks))

    def _on_kline(self, batch: _Batch, data: Any, frame: bytes) -> None:
        message = _kline(data)
        if self._is_unknown(batch, message.symbol):
            return
        batch.see(message.symbol, venue_ns(message.event_time))
        if not message.kline.closed:
            batch.ignored["open kline"] += 1
        elif message.kline.interval not in self._intervals:
            batch.ignored[clip_name(f"kline_{message.kline.interval}")] += 1
        elif venue_ns(message.kline.start) % (INTERVALS[message.kline.interval] * NS_PER_SECOND):
            batch.ignored[clip_name(f"kline_{message.kline.interval} of another time zone")] += 1
        else:
            try:
                row = candle_row(self._instruments[message.symbol], message.kline)
                batch.bars.setdefault(message.symbol, []).append(row)
            except RuleViolation as violation:
                batch.reject(message.symbol, violation.rule, str(violation), frame)

    # ---- declared series ----------------------------------------------------------------------

    def _on_mark_price(self, batch: _Batch, data: Any, frame: bytes) -> None:
        message = _mark_price(data)
        if self._is_unknown(batch, message.symbol):
            return
        ts_ns = venue_ns(message.event_time)
        batch.see(message.symbol, ts_ns)
        try:
            marks, rate = (float(message.price), _real(message.index_price)), _real(message.rate)
        except ValueError as error:
            batch.reject(message.symbol, "not_finite", str(error), frame)
            return
        if "mark_price" in self._series:
            batch.series.setdefault((message.symbol, "mark_price"), []).append((ts_ns, marks))
        if "funding" in self._series:  # a future that ends has no funding
            row = (ts_ns, (rate, venue_ns(message.next_time) if message.next_time else None))
            batch.series.setdefault((message.symbol, "funding"), []).append(row)

    def _on_force_order(self, batch: _Batch, data: Any, frame: bytes) -> None:
        order = _force_order(data).order
        if self._is_unknown(batch, order.symbol):
            return
        reader = self._levels[order.symbol]
        try:
            values = (_SIDES[order.side], reader.price(order.price), float(order.average), reader.size(order.size))
        except RuleViolation as violation:
            batch.reject(order.symbol, violation.rule, str(violation), frame)
        except (KeyError, ValueError) as error:
            batch.reject(order.symbol, "undecodable", f"{type(error).__name__}: {error}", frame)
        else:
            batch.series.setdefault((order.symbol, "liquidation"), []).append((venue_ns(order.time), values))

    # ---- what came of it ----------------------------------------------------------------------

    def _events(self, batch: _Batch) -> list[Event]:
        events: list[Event] = []
        for symbol, rows in batch.trades.items():
            records, rejected = trade_records(self._instruments[symbol], rows, self._flags)
            if len(records):
                events.append(Trades(symbol, records))
            events += rejected
        events += batch.book
        events += [Candles(symbol, candle_records(rows)) for symbol, rows in batch.bars.items() if rows]
        events += [Series(*key, declared.rows(key[1], rows)) for key, rows in batch.series.items()]
        events += batch.others
        events += [Ignored(name, number) for name, number in batch.ignored.items()]
        events += [VenueTime(symbol, ts_ns) for symbol, ts_ns in batch.times.items()]
        return events


def _real(text: str) -> float | None:
    """ "" is what the venue writes where it has none."""
    return float(text) if text else None


def _closing(data: msgspec.Raw | bytes) -> VenueClosing:
    """The venue's own message."""
    return VenueClosing(bytes(data)[:500].decode("utf-8", "replace"))


def _symbol_of(data: Any) -> str:
    try:
        return _head(data).symbol
    except UNREADABLE:
        return ""


def _event_of(data: msgspec.Raw | bytes) -> str:
    try:
        return _head(data).event
    except UNREADABLE:
        return ""


UsdMarginedAdapter = partial(BinanceAdapter, market=USD_M)
CoinMarginedAdapter = partial(BinanceAdapter, market=COIN_M)
