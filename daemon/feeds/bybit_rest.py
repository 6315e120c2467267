"""Bybit's v5 REST interface: the questions, and what the answers say. Pure; see `adapter` for the contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec

from marketd.daemon.feeds import bybit_messages as messages
from marketd.daemon.feeds.adapter import (
    Candles,
    Event,
    Ignored,
    Page,
    RestRequest,
    Trades,
    UnknownSymbol,
    VenueRefused,
    as_asked,
    clip_name,
)
from marketd.daemon.feeds.adapter_base import AdapterBase, RestRows
from marketd.daemon.feeds.bybit_markets import SPOT, Market, wire_name
from marketd.daemon.feeds.precision import grid_of, places, quote_scale
from marketd.daemon.feeds.venue_records import answer, candle_records, candle_row, rejected
from marketd.market.errors import ConfigError
from marketd.market.instruments import Instrument
from marketd.market.records import TradeFlag
from marketd.market.times import NS_PER_MS, NS_PER_SECOND, parse_timeframe

INTERVALS = {
    "1": 60,
    "3": 180,
    "5": 300,
    "15": 900,
    "30": 1800,
    "60": 3600,
    "120": 7200,
    "240": 14_400,
    "360": 21_600,
    "720": 43_200,
    "D": 86_400,
}
"""Bybit's kline intervals that are aligned to the epoch."""
INTERVAL_NAMES = {seconds: name for name, seconds in INTERVALS.items()}

BAR_ROWS = 1000  # of one answer
INFO_ROWS = 1000
BAD_REQUEST = 10001  # an unknown symbol too
SIDES = {"Buy": 1, "Sell": -1}
SETTLED_AFTER_NS = 500 * NS_PER_MS  # a bar is asked for only so long after its end

_rest_trade = msgspec.json.Decoder(messages.RestTrade, strict=False).decode
_rest_bar = msgspec.json.Decoder(list[str]).decode


class BybitRest(AdapterBase):
    """The REST half of the adapter."""

    def __init__(
        self, market: Market, trades: str, candles: Sequence[str | int], book: bool, series: Sequence[str]
    ) -> None:
        if trades != "trade":
            raise ConfigError(f"trades: {trades!r}: Bybit has no aggregate trades; write 'trade'", field="trades")
        super().__init__(book=book, series=[name for name in series if name in market.series])
        self._market = market
        self.venue = market.venue
        self._intervals = [_interval(candle) for candle in candles]

    @property
    def timeframes(self) -> tuple[int, ...]:
        return tuple(INTERVALS[name] for name in self._intervals)

    def wire_name(self, instrument: Instrument) -> str:
        return wire_name(instrument.symbol)

    def _request(self, name: str, **query: Any) -> RestRequest:
        return RestRequest(f"/v5/market/{name}?{urlencode({'category': self._market.category, **query})}", 1)

    # ---- instruments and time -----------------------------------------------------------------

    def instruments_request(self, symbols: Sequence[str]) -> RestRequest:
        if len(symbols) == 1:
            return self._request("instruments-info", symbol=wire_name(symbols[0]))
        # one answer has at most so many; of a symbol beyond them the feed asks again, by itself
        return self._request("instruments-info", limit=INFO_ROWS)

    def decode_instruments(self, body: bytes, symbols: Sequence[str]) -> list[Instrument]:
        what = f"instruments-info of {', '.join(symbols)}"
        reply = answer(body, messages.Answer, what)
        if reply.code == BAD_REQUEST and len(symbols) == 1:
            raise UnknownSymbol(f"{what}: {reply.text} (code {reply.code})", field="symbols")
        found = {}
        wanted = {wire_name(symbol): symbol for symbol in symbols}
        for raw in _rows(reply, what):
            info = answer(bytes(raw), messages.SymbolInfo, what)
            if info.symbol in wanted:
                found[wanted[info.symbol]] = self._instrument(info, wanted[info.symbol])
        return as_asked(self.venue, found, symbols)

    def _instrument(self, info: messages.SymbolInfo, symbol: str) -> Instrument:
        lot = info.lot_filter
        tick = grid_of(info.price_filter.tick, 8)
        step = grid_of(lot.base_precision or lot.step, 8)
        precision = places(lot.quote_precision) if lot.quote_precision else tick.scale + step.scale
        return Instrument(
            id=0,
            symbol=symbol,
            venue=self.venue,
            price_scale=tick.scale,
            size_scale=step.scale,
            quote_scale=quote_scale(tick.scale, step.scale, precision),
            base=info.base,
            quote=info.quote,
            market="spot" if self._market is SPOT else "swap" if "Perpetual" in info.contract else "future",
            tick_size=tick.units,
            step_size=step.units,
        )

    def time_request(self) -> RestRequest | None:
        return RestRequest("/v5/market/time", 1)

    def decode_time(self, body: bytes) -> int:
        reply = answer(body, messages.Answer, "time")
        if not reply.time:
            raise VenueRefused(f"time: the answer bears none: {body[:300].decode('utf-8', 'replace')}")
        return int(reply.time) * NS_PER_MS

    # ---- trades -------------------------------------------------------------------------------

    def trades_request(self, symbol: str, first_id: int) -> RestRequest | None:
        return self._request("recent-trade", symbol=self._wire(symbol), limit=self._market.trade_rows)

    def decode_trades(self, symbol: str, body: bytes) -> Page:
        """The newest ones, the newest first; there is no asking for older ones."""
        what = f"recent-trade of {symbol}"
        found = _rows(answer(body, messages.Answer, what), what)
        rows = RestRows(symbol)
        for raw in reversed(found):
            rows.take(raw, lambda raw: self._trade_of(symbol, _rest_trade(raw)))
        return Page(rows.trades(), rows.rejected, len(found), at_present=True)

    def _trade_of(self, symbol: str, trade: messages.Trade | messages.RestTrade) -> bytes:
        side = SIDES.get(trade.side)
        if side is None:
            raise msgspec.ValidationError(f"side {trade.side[:40]!r} is neither Buy nor Sell")
        # a block trade was agreed on elsewhere, at a price of its own: it makes no bar
        flags = int(TradeFlag.NOT_MARKET) if trade.is_block else 0
        return self._trade(symbol, trade.time * NS_PER_MS, trade.trade_id, trade.price, trade.size, side, flags)

    # ---- bars ---------------------------------------------------------------------------------

    def bars_request(self, symbol: str, timeframe: int, start_ns: int) -> RestRequest | None:
        start = start_ns // NS_PER_MS
        end = start + (BAR_ROWS - 1) * timeframe * 1000  # without it the venue gives the newest ones
        return self._request(
            "kline", symbol=self._wire(symbol), interval=INTERVAL_NAMES[timeframe], start=start, end=end, limit=BAR_ROWS
        )

    def decode_bars(self, symbol: str, timeframe: int, body: bytes, now_ns: int) -> Page:
        what = f"kline of {symbol}"
        found = _rows(answer(body, messages.Answer, what), what)
        rows = RestRows(symbol)
        for raw in reversed(found):  # the newest first
            rows.take(raw, lambda raw: self._bar(symbol, timeframe, raw, now_ns))
        records = candle_records(rows.rows)
        return Page(records, rows.rejected, len(found), at_present=len(found) < BAR_ROWS)

    def _bar(self, symbol: str, timeframe: int, raw: msgspec.Raw, now_ns: int) -> bytes | None:
        fields = _rest_bar(raw)
        if len(fields) < 7:
            raise msgspec.ValidationError(f"a kline of {len(fields)} fields")
        start, opened, high, low, close, volume, turnover = fields[:7]
        start_ns = msgspec.convert(start, messages.Millis, strict=False) * NS_PER_MS
        if start_ns + timeframe * NS_PER_SECOND + SETTLED_AFTER_NS > now_ns:
            return None
        return self._candle(symbol, start_ns, timeframe, (opened, high, low, close), volume, turnover)

    def _candle(
        self, symbol: str, start_ns: int, timeframe: int, prices: Sequence[str], volume: str, turnover: str
    ) -> bytes:
        quote = None if self._market.category == "inverse" else turnover
        return candle_row(self._instruments[symbol], start_ns, timeframe, prices, volume, quote_volume=quote)

    # ---- recorded answers ---------------------------------------------------------------------

    def decode_rest(self, url: str, body: bytes) -> list[Event]:
        parts = urlsplit(url)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        name = parts.path.rpartition("/")[2]
        symbol = self._symbols.get(query.get("symbol", ""))
        if name not in ("recent-trade", "kline"):
            return [Ignored(clip_name(f"REST {name}"))]
        if symbol is None or query.get("category") != self._market.category:
            return [Ignored("not subscribed")]
        try:
            if name == "recent-trade":
                page = self.decode_trades(symbol, body)
                return [Trades(symbol, page.records), *page.rejected] if page.rows else [Ignored("REST empty page")]
            timeframe = INTERVALS.get(query.get("interval", ""), 0)
            if timeframe not in self.timeframes:
                return [Ignored(clip_name(f"REST kline {query.get('interval', '')}"))]
            # the answer does not say when it was given: its last bar may have been open, and is left to the stream
            page = self.decode_bars(symbol, timeframe, body, now_ns=2**62)
            return [Candles(symbol, page.records[:-1]), *page.rejected]
        except VenueRefused as error:
            return [rejected(symbol, "undecodable", error, body)]


def _interval(candle: str | int) -> str:
    name = INTERVAL_NAMES.get(parse_timeframe(candle, field="candles"))
    if name is None:
        known = ", ".join(INTERVALS)
        raise ConfigError(f"candles: Bybit has no klines of {candle!r}; it has {known}", field="candles")
    return name


def _rows(reply: messages.Answer, what: str) -> list[msgspec.Raw]:
    if reply.code != 0:
        raise VenueRefused(f"{what}: {reply.text} (code {reply.code})")
    rows: list[msgspec.Raw] = answer(bytes(reply.result), messages.Rows, what).rows
    return rows
