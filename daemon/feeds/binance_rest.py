"""Binance's REST interface: the questions, and what the answers say. Pure; see `adapter` for the contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec

from marketd.daemon.feeds import binance_messages as messages
from marketd.daemon.feeds import series
from marketd.daemon.feeds.adapter import (
    MAX_PAYLOAD_BYTES,
    BookSnapshot,
    Candles,
    Event,
    Ignored,
    Page,
    Rejected,
    RestRequest,
    Series,
    Trades,
    UnknownSymbol,
    VenueRefused,
    as_asked,
    clip_name,
)
from marketd.daemon.feeds.binance_markets import Market
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
from marketd.daemon.feeds.levels import LevelReader
from marketd.market.errors import ConfigError, RuleViolation
from marketd.market.instruments import Instrument
from marketd.market.records import TradeFlag
from marketd.market.times import ABSENT, NS_PER_MS, parse_timeframe

if TYPE_CHECKING:
    from marketd.market._compiled import Reader

PAGE_ROWS = 1000  # the most that trades, aggTrades and klines give in one answer
BOOK_LEVELS = 1000  # a side of a snapshot; deeper ones cost five times as much, and futures have none
UNKNOWN_LIMIT = 1  # of a recorded snapshot that does not say how many levels were asked for: it may be cut
OPEN_INTEREST_SECONDS = 60.0
INVALID_SYMBOL = -1121
# A kline is asked for over REST only this long after its end: the venue may still be adding its last trade.
SETTLED_AFTER_NS = 500 * NS_PER_MS

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_rows = msgspec.json.Decoder(list[msgspec.Raw]).decode
_rest_trade = msgspec.json.Decoder(messages.RestTrade).decode
_rest_agg_trade = msgspec.json.Decoder(messages.RestAggTrade).decode
_rest_kline = msgspec.json.Decoder(list[Any]).decode


class BinanceRest:
    """The REST half of the adapter."""

    has_key = False

    def __init__(
        self, market: Market, trades: str, candles: Sequence[str | int], wanted: Sequence[str], *, book: bool
    ) -> None:
        if trades not in ("trade", "aggTrade"):
            raise ConfigError(f"trades: {trades!r} is neither 'trade' nor 'aggTrade'", field="trades")
        self._market = market
        self._book = book
        self._trades = trades
        self._intervals = [_interval(candle, market) for candle in candles]
        self._series = frozenset(wanted) & frozenset(market.series)
        self._instruments: dict[str, Instrument] = {}
        self._levels: dict[str, LevelReader] = {}
        self._quick: dict[str, Reader] = {}  # of messages that are read in C (`forms`); empty: none are
        self._is_aggregate = trades == "aggTrade"
        self._flags = int(TradeFlag.AGGREGATE) if self._is_aggregate else 0
        self._rest_row: Callable[[bytes], Any] = _rest_agg_trade if self._is_aggregate else _rest_trade

    @property
    def timeframes(self) -> tuple[int, ...]:
        return tuple(INTERVALS[name] for name in self._intervals)

    def adopt(self, instrument: Instrument) -> None:
        self._instruments[instrument.symbol] = instrument
        self._levels[instrument.symbol] = reader = LevelReader(instrument)
        self._quick.pop(instrument.symbol, None)
        if reader.quick is not None:
            self._quick[instrument.symbol] = reader.quick

    def forget(self, symbol: str) -> None:
        self._instruments.pop(symbol, None)
        self._levels.pop(symbol, None)
        self._quick.pop(symbol, None)

    def _request(self, name: str, weight: int, **query: Any) -> RestRequest:
        return RestRequest(f"{self._market.prefix}/{name}{'?' if query else ''}{urlencode(query)}", weight)

    # ---- instruments and time -----------------------------------------------------------------

    def instruments_request(self, symbols: Sequence[str]) -> RestRequest:
        weight = self._market.weights.instruments
        if self._market.names_all:
            return self._request("exchangeInfo", weight)
        return self._request("exchangeInfo", weight, symbols=msgspec.json.encode(list(symbols)).decode())

    def decode_instruments(self, body: bytes, symbols: Sequence[str]) -> list[Instrument]:
        info = _answer(body, messages.ExchangeInfo, f"exchangeInfo of {', '.join(symbols)}")
        wanted, venue = set(symbols), self._market.venue
        found = {entry.symbol: instrument_of(entry, venue) for entry in info.symbols if entry.symbol in wanted}
        return as_asked(venue, found, symbols)

    def time_request(self) -> RestRequest | None:
        return self._request("time", 1)

    def decode_time(self, body: bytes) -> int:
        return venue_ns(_answer(body, messages.ServerTime, "time").time)

    # ---- trades -------------------------------------------------------------------------------

    @property
    def needs_key(self) -> bool:
        return self._market.old_trades_need_key and not self._is_aggregate

    @property
    def _has_only_newest(self) -> bool:
        return self.needs_key and not self.has_key

    def trades_request(self, symbol: str, first_id: int) -> RestRequest | None:
        weights = self._market.weights
        if self._has_only_newest:  # what everybody gets: enough for a short hole
            return self._request("trades", weights.trades, symbol=symbol, limit=PAGE_ROWS)
        if self._is_aggregate:
            return self._request("aggTrades", weights.agg_trades, symbol=symbol, fromId=first_id, limit=PAGE_ROWS)
        limit = self._market.old_trades_rows
        return self._request("historicalTrades", weights.old_trades, symbol=symbol, fromId=first_id, limit=limit)

    def trades_since_request(self, symbol: str, ts_ns: int) -> RestRequest | None:
        return None

    def newest_trade_request(self, symbol: str) -> RestRequest | None:
        weights = self._market.weights
        name, weight = ("aggTrades", weights.agg_trades) if self._is_aggregate else ("trades", weights.trades)
        return self._request(name, weight, symbol=symbol, limit=1)

    def decode_trades(self, symbol: str, body: bytes) -> Page:
        rows = _answer_rows(body, f"trades of {symbol}")
        decoded: list[Message] = []
        rejected: list[Rejected] = []
        for row in rows:
            payload = bytes(row)
            try:
                decoded.append((self._rest_row(payload), payload))
            except UNREADABLE as error:
                rejected.append(Rejected(symbol, "undecodable", str(error)[:500], payload[:MAX_PAYLOAD_BYTES]))
        decoded.sort(key=lambda message: message[0].trade_id)
        records, broken = trade_records(self._instruments[symbol], decoded, self._flags)
        most = PAGE_ROWS if self._is_aggregate else self._market.old_trades_rows
        return Page(records, rejected + broken, len(rows), at_present=self._has_only_newest or len(rows) < most)

    # ---- bars ---------------------------------------------------------------------------------

    def bars_request(self, symbol: str, timeframe: int, start_ns: int) -> RestRequest | None:
        interval, start = INTERVAL_NAMES[timeframe], start_ns // NS_PER_MS
        weight = self._market.weights.bars
        return self._request("klines", weight, symbol=symbol, interval=interval, startTime=start, limit=PAGE_ROWS)

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
            except UNREADABLE as error:
                rejected.append(Rejected(symbol, "undecodable", str(error)[:500], payload[:MAX_PAYLOAD_BYTES]))
        return Page(candle_records(bars), rejected, len(rows), at_present=len(rows) < PAGE_ROWS)

    # ---- the book and what is polled ------------------------------------------------------------

    def snapshot_request(self, symbol: str) -> RestRequest | None:
        return self._request("depth", self._market.weights.book, symbol=symbol, limit=BOOK_LEVELS)

    def decode_snapshot(self, symbol: str, body: bytes, limit: int | None = None) -> BookSnapshot:
        """`limit`: levels a side that were asked for, where it was not `snapshot_request` that asked."""
        depth = _answer(body, messages.WrittenBook, f"depth of {symbol}")
        try:
            bids, asks = self._levels[symbol].pairs(depth.bids, depth.asks)
        except (RuleViolation, *UNREADABLE) as violation:
            raise VenueRefused(f"depth of {symbol}: {violation}") from None
        clock = depth.time or depth.event_time
        ts_ns = venue_ns(clock) if clock else ABSENT
        limit = BOOK_LEVELS if limit is None else limit
        return BookSnapshot(symbol, depth.last_id, ts_ns, bids, asks, limit=limit)

    def polls(self, symbol: str) -> list[tuple[RestRequest, float]]:
        if "open_interest" not in self._series:
            return []
        return [(self._request("openInterest", 1, symbol=symbol), OPEN_INTEREST_SECONDS)]

    def _open_interest(self, symbol: str, body: bytes) -> Event:
        told = _answer(body, messages.OpenInterest, f"openInterest of {symbol}")
        try:
            size = self._levels[symbol].size(told.size)
        except RuleViolation as violation:
            return Rejected(symbol, violation.rule, str(violation), body[:MAX_PAYLOAD_BYTES])
        records = series.rows("open_interest", [(venue_ns(told.time), (size,))])
        return Series(symbol, "open_interest", records)

    def surveyed_pair(self, symbol: str) -> tuple[str, str]:
        return "", ""

    # ---- recorded answers ---------------------------------------------------------------------

    def decode_rest(self, url: str, body: bytes) -> list[Event]:
        parts = urlsplit(url)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        name, symbol = parts.path.rpartition("/")[2], query.get("symbol", "")
        if not symbol and len(self._instruments) == 1:
            symbol = next(iter(self._instruments))  # one format of captures does not name it
        wanted = ["aggTrades"] if self._is_aggregate else ["historicalTrades", "trades"]
        wanted += ["klines", "openInterest", *(["depth"] if self._book else [])]
        if symbol not in self._instruments or name not in wanted:
            return [Ignored(clip_name(f"REST {name}"))]
        try:
            return self._recorded(name, symbol, query, body)
        except VenueRefused as error:
            rejected = Rejected(symbol, "undecodable", str(error), body[:MAX_PAYLOAD_BYTES], book=name == "depth")
            return [rejected]

    def _recorded(self, name: str, symbol: str, query: dict[str, str], body: bytes) -> list[Event]:
        if name == "depth":
            limit = query.get("limit", "")
            return [self.decode_snapshot(symbol, body, int(limit) if limit.isdecimal() else UNKNOWN_LIMIT)]
        if name == "openInterest":
            return [self._open_interest(symbol, body)]
        if name != "klines":
            page = self.decode_trades(symbol, body)
            return [Trades(symbol, page.records), *page.rejected] if page.rows else [Ignored("REST empty page")]
        interval = query.get("interval", "")
        timeframe = INTERVALS.get(interval, 0)
        if timeframe not in self.timeframes:
            return [Ignored(clip_name(f"REST klines {interval}"))]
        # the answer does not say when it was given: its last bar may have been open, and is left to the stream
        page = self.decode_bars(symbol, timeframe, body, now_ns=2**62)
        return [Candles(symbol, page.records[:-1]), *page.rejected]


def _interval(candle: str | int, market: Market) -> str:
    name = INTERVAL_NAMES.get(parse_timeframe(candle, field="candles"))
    has = [each for each in INTERVALS if market.is_spot or each != "1s"]
    if name not in has:
        raise ConfigError(
            f"candles: {market.venue} has no klines of {candle!r}; it has {', '.join(has)}", field="candles"
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
    except UNREADABLE as error:
        raise _refusal(body, what, error) from None


def _answer_rows(body: bytes, what: str) -> list[msgspec.Raw]:
    try:
        return _rows(body)
    except UNREADABLE as error:
        raise _refusal(body, what, error) from None


def _refusal(body: bytes, what: str, error: Exception) -> VenueRefused:
    """Binance answers what it will not serve with {"code": -1121, "msg": …}; else the answer is no JSON of its own."""
    try:
        failure = msgspec.json.decode(body, type=messages.RestFailure)
    except UNREADABLE:
        return VenueRefused(f"{what}: the answer cannot be read ({error})")
    kind = UnknownSymbol if failure.code == INVALID_SYMBOL else VenueRefused
    return kind(f"{what}: {failure.msg} (code {failure.code})")
