"""Binance spot: its combined streams, commands and REST answers. Pure; see `adapter` for the contract.

    /stream?streams=btcusdt@trade/btcusdt@kline_1m      {"stream": "btcusdt@trade", "data": {"e": "trade", …}}
    {"method": "SUBSCRIBE", "params": [...], "id": 7}   {"result": null, "id": 7}

An instrument's trades are either `trade` or `aggTrade`, never both: the two have id spaces of their own. Prices and
sizes are decimal texts; times are ms, or µs on connections that ask for it, told apart by their magnitude.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec

from marketd.daemon.feeds import binance_messages as messages
from marketd.daemon.feeds.adapter import (
    MAX_PAYLOAD_BYTES,
    Candles,
    Event,
    Ignored,
    Page,
    Rejected,
    RestRequest,
    Trades,
    UnknownSymbol,
    VenueClosing,
    VenueError,
    VenueRefused,
    VenueTime,
    clip_name,
)
from marketd.daemon.feeds.binance_records import (
    INTERVAL_NAMES,
    INTERVALS,
    Message,
    bar_end_ns,
    candle_records,
    candle_row,
    instrument_of,
    trade_records,
    venue_ns,
)
from marketd.market.errors import ConfigError, InvalidArgument, RuleViolation
from marketd.market.instruments import Instrument
from marketd.market.records import TradeFlag
from marketd.market.times import NS_PER_MS, parse_timeframe

PAGE_ROWS = 1000  # the most that trades, aggTrades and klines give in one answer
URL_STREAMS = 200  # in the address of a connection: some 5 kB; proxies refuse longer ones
COMMAND_STREAMS = 200  # in one SUBSCRIBE message
INVALID_SYMBOL = -1121
# A kline is asked for over REST only this long after its end: the venue may still be adding its last trade.
SETTLED_AFTER_NS = 500 * NS_PER_MS

_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_SYMBOL = re.compile(r"[A-Z0-9]{2,30}")

_envelope = msgspec.json.Decoder(messages.Envelope).decode
_head = msgspec.json.Decoder(messages.Head).decode
_trade = msgspec.json.Decoder(messages.TradeMessage).decode
_agg_trade = msgspec.json.Decoder(messages.AggTradeMessage).decode
_kline = msgspec.json.Decoder(messages.KlineMessage).decode
_rows = msgspec.json.Decoder(list[msgspec.Raw]).decode
_rest_trade = msgspec.json.Decoder(messages.RestTrade).decode
_rest_agg_trade = msgspec.json.Decoder(messages.RestAggTrade).decode
_rest_kline = msgspec.json.Decoder(list[Any]).decode


class _Batch:
    """What the messages of one call said so far."""

    __slots__ = ("bars", "ignored", "others", "times", "trades")

    def __init__(self) -> None:
        self.trades: dict[str, list[Message]] = {}
        self.bars: dict[str, list[bytes]] = {}
        self.times: dict[str, int] = {}  # symbol -> newest time as the venue wrote it
        self.ignored: Counter[str] = Counter()
        self.others: list[Event] = []

    def see(self, symbol: str, clock: int) -> None:
        if clock > self.times.get(symbol, 0):
            self.times[symbol] = clock

    def reject(self, symbol: str | None, rule: str, detail: str, payload: bytes) -> None:
        self.others.append(Rejected(symbol, rule, detail[:500], bytes(payload[:MAX_PAYLOAD_BYTES])))


class BinanceAdapter:
    venue = "BINANCE"

    def __init__(self, *, trades: str = "trade", candles: Sequence[str | int] = ("1m",)) -> None:
        if trades not in ("trade", "aggTrade"):
            raise ConfigError(f"trades: {trades!r} is neither 'trade' nor 'aggTrade'", field="trades")
        self._trades = trades
        self._intervals = [_interval(candle) for candle in candles]
        self._instruments: dict[str, Instrument] = {}
        aggregate = trades == "aggTrade"
        self._flags = int(TradeFlag.AGGREGATE) if aggregate else 0
        self._rest_row: Callable[[bytes], Any] = _rest_agg_trade if aggregate else _rest_trade
        decode: Callable[[msgspec.Raw | bytes], Any] = _agg_trade if aggregate else _trade
        self._decode_trade = decode
        # by the stream's part after the first "@", or by the event's name
        self._handlers: dict[str, Callable[[_Batch, Any, bytes], None]] = {
            trades: self._on_trade,
            "bookTicker": self._on_book_ticker,
            "depthUpdate": self._on_depth,
            "depth": self._on_depth,
            "depth@100ms": self._on_depth,
            "kline": self._on_kline,
            **{f"kline_{name}": self._on_kline for name in INTERVALS},
        }

    # ---- names and streams --------------------------------------------------------------------

    def venue_symbol(self, symbol: str) -> str:
        name = symbol.removesuffix(f".{self.venue}")
        if ":" in name:
            raise InvalidArgument(
                f"symbols: {symbol!r} names a swap or future; {self.venue} is the spot market: "
                f"write {name.split(':')[0]!r}",
                field="symbols",
            )
        base, slash, quote = name.partition("/")
        if slash and not (base and quote):
            raise InvalidArgument(f"symbols: {symbol!r} is no pair; write one such as 'BTC/USDT'", field="symbols")
        written = (base + quote).upper()
        if _SYMBOL.fullmatch(written) is None:
            raise InvalidArgument(
                f"symbols: {symbol!r} is no symbol of {self.venue}; write one such as 'BTC/USDT'", field="symbols"
            )
        return written

    def adopt(self, instrument: Instrument) -> None:
        self._instruments[instrument.symbol] = instrument

    def forget(self, symbol: str) -> None:
        self._instruments.pop(symbol, None)

    @property
    def timeframes(self) -> tuple[int, ...]:
        return tuple(INTERVALS[name] for name in self._intervals)

    def streams(self, symbol: str) -> list[str]:
        lower = symbol.lower()
        return [f"{lower}@{self._trades}", *(f"{lower}@kline_{name}" for name in self._intervals)]

    def connect_url(self, base: str, streams: Sequence[str]) -> tuple[str, list[str]]:
        named, rest = streams[:URL_STREAMS], list(streams[URL_STREAMS:])
        return f"{base.rstrip('/')}/stream?streams={'/'.join(named)}", rest

    def commands(self, verb: str, streams: Sequence[str], first_id: int) -> list[str]:
        chunks = [streams[i : i + COMMAND_STREAMS] for i in range(0, len(streams), COMMAND_STREAMS)]
        return [
            msgspec.json.encode({"method": verb, "params": chunk, "id": first_id + number}).decode()
            for number, chunk in enumerate(chunks)
        ]

    # ---- messages -----------------------------------------------------------------------------

    def decode_many(self, frames: Sequence[bytes]) -> list[Event]:
        batch = _Batch()
        trades_suffix = self._trades
        for frame in frames:
            try:
                envelope = _envelope(frame)
                stream = envelope.stream
                if stream is None:
                    self._bare(batch, envelope, frame)
                    continue
                name = stream.partition("@")[2]
                if name == trades_suffix:  # most of what comes: no further call
                    trade = self._decode_trade(envelope.data)
                    if trade.symbol in self._instruments:
                        batch.trades.setdefault(trade.symbol, []).append((trade, frame))
                        batch.see(trade.symbol, trade.event_time)
                    else:
                        batch.ignored["not subscribed"] += 1
                    continue
                handler = self._handlers.get(name)
                if handler is None:
                    self._unknown(batch, name, envelope.data)
                else:
                    handler(batch, envelope.data, frame)
            except _UNREADABLE as error:
                batch.reject(None, "undecodable", f"{type(error).__name__}: {error}", frame)
        return self._events(batch)

    def _bare(self, batch: _Batch, envelope: messages.Envelope, frame: bytes) -> None:
        """A message without a stream's name: a raw stream's event, a reply, or an error."""
        if isinstance(envelope.event, str):
            handler = self._handlers.get(envelope.event)
            if envelope.event == "serverShutdown":
                batch.others.append(VenueClosing("the venue announced that it shuts this server down"))
            elif handler is None:
                self._unknown(batch, envelope.event, frame)
            else:
                handler(batch, frame, frame)
        elif envelope.error is not None or (envelope.code is not None and envelope.msg is not None):
            batch.others.append(VenueError(frame[:500].decode("utf-8", "replace")))
        elif envelope.result is not messages.NO_RESULT:
            batch.ignored["reply"] += 1
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
        except _UNREADABLE:  # e.g. the array of all tickers: known by its stream's name alone
            batch.ignored[clip_name(name)] += 1
            return
        if head.event == "serverShutdown":
            batch.others.append(VenueClosing("the venue announced that it shuts this server down"))
            return
        batch.ignored[clip_name(head.event or name)] += 1
        self._see(batch, head)

    def _see(self, batch: _Batch, head: messages.Head) -> None:
        if head.event_time:
            batch.see(head.symbol if head.symbol in self._instruments else "", head.event_time)

    def _on_trade(self, batch: _Batch, data: Any, frame: bytes) -> None:
        trade = self._decode_trade(data)
        if trade.symbol not in self._instruments:
            batch.ignored["not subscribed"] += 1
            return
        batch.trades.setdefault(trade.symbol, []).append((trade, frame))
        batch.see(trade.symbol, trade.event_time)

    def _on_book_ticker(self, batch: _Batch, data: Any, frame: bytes) -> None:
        batch.ignored["bookTicker"] += 1  # the spot market's bears no time

    def _on_depth(self, batch: _Batch, data: Any, frame: bytes) -> None:
        self._see(batch, _head(data))
        batch.ignored["depth"] += 1

    def _on_kline(self, batch: _Batch, data: Any, frame: bytes) -> None:
        message = _kline(data)
        instrument = self._instruments.get(message.symbol)
        if instrument is None:
            batch.ignored["not subscribed"] += 1
            return
        batch.see(message.symbol, message.event_time)
        if not message.kline.closed:
            batch.ignored["open kline"] += 1
        elif message.kline.interval not in self._intervals:
            batch.ignored[clip_name(f"kline_{message.kline.interval}")] += 1
        else:
            try:
                batch.bars.setdefault(message.symbol, []).append(candle_row(instrument, message.kline))
            except RuleViolation as violation:
                batch.reject(message.symbol, violation.rule, str(violation), frame)

    def _events(self, batch: _Batch) -> list[Event]:
        events: list[Event] = []
        for symbol, rows in batch.trades.items():
            records, rejected = trade_records(self._instruments[symbol], rows, self._flags)
            if len(records):
                events.append(Trades(symbol, records))
            events += rejected
        events += [Candles(symbol, candle_records(rows)) for symbol, rows in batch.bars.items() if rows]
        events += batch.others
        events += [Ignored(name, number) for name, number in batch.ignored.items()]
        events += [VenueTime(symbol, venue_ns(clock)) for symbol, clock in batch.times.items()]
        return events

    # ---- REST ---------------------------------------------------------------------------------

    def instruments_request(self, symbols: Sequence[str]) -> RestRequest:
        listed = msgspec.json.encode(list(symbols)).decode()
        return RestRequest(f"/api/v3/exchangeInfo?{urlencode({'symbols': listed})}", 20)

    def decode_instruments(self, body: bytes, symbols: Sequence[str]) -> list[Instrument]:
        info = _answer(body, messages.ExchangeInfo, f"exchangeInfo of {', '.join(symbols)}")
        found = {entry.symbol: instrument_of(entry, self.venue) for entry in info.symbols}
        missing = [symbol for symbol in symbols if symbol not in found]
        if missing:
            raise UnknownSymbol(f"{self.venue} has no symbol {', '.join(missing)}", field="symbols")
        return [found[symbol] for symbol in symbols]

    def time_request(self) -> RestRequest:
        return RestRequest("/api/v3/time", 1)

    def decode_time(self, body: bytes) -> int:
        return venue_ns(_answer(body, messages.ServerTime, "time").time)

    def trades_request(self, symbol: str, first_id: int) -> RestRequest:
        path, weight = ("aggTrades", 4) if self._flags else ("historicalTrades", 25)
        query = urlencode({"symbol": symbol, "fromId": first_id, "limit": PAGE_ROWS})
        return RestRequest(f"/api/v3/{path}?{query}", weight)

    def newest_trade_request(self, symbol: str) -> RestRequest:
        path, weight = ("aggTrades", 4) if self._flags else ("trades", 25)
        return RestRequest(f"/api/v3/{path}?{urlencode({'symbol': symbol, 'limit': 1})}", weight)

    def decode_trades(self, symbol: str, body: bytes) -> Page:
        rows = _answer_rows(body, f"trades of {symbol}")
        decoded: list[Message] = []
        rejected: list[Rejected] = []
        for row in rows:
            payload = bytes(row)
            try:
                decoded.append((self._rest_row(payload), payload))
            except _UNREADABLE as error:
                rejected.append(Rejected(symbol, "undecodable", str(error)[:500], payload[:MAX_PAYLOAD_BYTES]))
        decoded.sort(key=lambda message: message[0].trade_id)
        flags = self._flags
        records, broken = trade_records(self._instruments[symbol], decoded, flags)
        return Page(records, rejected + broken, len(rows), at_present=len(rows) < PAGE_ROWS)

    def bars_request(self, symbol: str, timeframe: int, start_ns: int) -> RestRequest:
        query = {
            "symbol": symbol,
            "interval": INTERVAL_NAMES[timeframe],
            "startTime": start_ns // NS_PER_MS,
            "limit": PAGE_ROWS,
        }
        return RestRequest(f"/api/v3/klines?{urlencode(query)}", 2)

    def decode_bars(self, symbol: str, timeframe: int, body: bytes, now_ns: int) -> Page:
        rows = _answer_rows(body, f"klines of {symbol}")
        instrument, interval = self._instruments[symbol], INTERVAL_NAMES[timeframe]
        bars: list[bytes] = []
        rejected: list[Rejected] = []
        for row in rows:
            payload = bytes(row)
            try:
                kline = _kline_of_row(payload, interval)
                if bar_end_ns(venue_ns(kline.start), interval) + SETTLED_AFTER_NS <= now_ns:
                    bars.append(candle_row(instrument, kline))
            except RuleViolation as violation:
                rejected.append(Rejected(symbol, violation.rule, str(violation), payload[:MAX_PAYLOAD_BYTES]))
            except _UNREADABLE as error:
                rejected.append(Rejected(symbol, "undecodable", str(error)[:500], payload[:MAX_PAYLOAD_BYTES]))
        return Page(candle_records(bars), rejected, len(rows), at_present=len(rows) < PAGE_ROWS)

    def decode_rest(self, url: str, body: bytes) -> list[Event]:
        parts = urlsplit(url)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        name, symbol = parts.path.rpartition("/")[2], query.get("symbol", "")
        wanted = ("aggTrades",) if self._flags else ("historicalTrades", "trades")
        if symbol not in self._instruments or name not in (*wanted, "klines"):
            return [Ignored(clip_name(f"REST {name}"))]
        try:
            if name != "klines":
                page = self.decode_trades(symbol, body)
                return [Trades(symbol, page.records), *page.rejected] if page.rows else [Ignored("REST empty page")]
            timeframe = INTERVALS.get(query.get("interval", ""), 0)
            if timeframe not in self.timeframes:
                return [Ignored(clip_name(f"REST klines {query.get('interval', '')}"))]
            # the answer does not say when it was given: its last bar may have been open, and is left to the stream
            page = self.decode_bars(symbol, timeframe, body, now_ns=2**62)
            return [Candles(symbol, page.records[:-1]), *page.rejected]
        except VenueRefused as error:
            return [Rejected(symbol, "undecodable", str(error), body[:MAX_PAYLOAD_BYTES])]


def _interval(candle: str | int) -> str:
    name = INTERVAL_NAMES.get(parse_timeframe(candle, field="candles"))
    if name is None:
        raise ConfigError(
            f"candles: Binance has no klines of {candle!r}; it has {', '.join(INTERVALS)}", field="candles"
        )
    return name


def _kline_of_row(payload: bytes, interval: str) -> messages.Kline:
    """A row of `klines`: [start, o, h, l, c, volume, end, quote volume, trades, buy volume, buy quote volume, …]."""
    row = _rest_kline(payload)
    if len(row) < 10:
        raise msgspec.ValidationError(f"a kline of {len(row)} fields")
    start, opened, high, low, close, volume, _, quote, count, buy = row[:10]
    fields = {"t": start, "i": interval, "o": opened, "h": high, "l": low, "c": close, "v": volume}
    return msgspec.convert({**fields, "n": count, "x": True, "q": quote, "V": buy}, messages.Kline)


def _answer(body: bytes, kind: type[Any], what: str) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except _UNREADABLE as error:
        raise _refusal(body, what, error) from None


def _answer_rows(body: bytes, what: str) -> list[msgspec.Raw]:
    try:
        return _rows(body)
    except _UNREADABLE as error:
        raise _refusal(body, what, error) from None


def _refusal(body: bytes, what: str, error: Exception) -> VenueRefused:
    """Binance answers what it will not serve with {"code": -1121, "msg": …}; else the answer is no JSON of its own."""
    try:
        failure = msgspec.json.decode(body, type=messages.RestFailure)
    except _UNREADABLE:
        return VenueRefused(f"{what}: the answer cannot be read ({error})")
    kind = UnknownSymbol if failure.code == INVALID_SYMBOL else VenueRefused
    return kind(f"{what}: {failure.msg} (code {failure.code})")
