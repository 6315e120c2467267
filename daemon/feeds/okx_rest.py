"""OKX's v5 REST interface: the questions, and what the answers say. Pure; see `adapter` for the contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec

from marketd.daemon.feeds import okx_messages as messages
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
from marketd.daemon.feeds.okx_names import VENUE, family_of, inst_id_of, inst_id_of_instrument, kind_of, symbol_of
from marketd.daemon.feeds.precision import grid_of, quote_scale
from marketd.daemon.feeds.venue_batch import Batch
from marketd.daemon.feeds.venue_records import answer, candle_records, candle_row, rejected
from marketd.market.errors import ConfigError
from marketd.market.instruments import Instrument
from marketd.market.records import TradeFlag
from marketd.market.times import NS_PER_MS, NS_PER_SECOND, parse_timeframe

BARS = {
    "1s": 1,
    "1m": 60,
    "3m": 180,
    "5m": 300,
    "15m": 900,
    "30m": 1800,
    "1H": 3600,
    "2H": 7200,
    "4H": 14_400,
    "6Hutc": 21_600,
    "12Hutc": 43_200,
    "1Dutc": 86_400,
}
"""OKX's bars that are aligned to the epoch; its plain `6H`, `12H` and `1D` begin at UTC+8."""
BAR_NAMES = {seconds: name for name, seconds in BARS.items()}

PAGE_ROWS = 100  # of history-trades and history-candles
NO_SUCH_INSTRUMENT = 51001
SIDES = {"buy": 1, "sell": -1}
SETTLED_AFTER_NS = NS_PER_SECOND  # a bar is asked for only so long after its end
_MARKETS = {"SPOT": "spot", "SWAP": "swap", "FUTURES": "future", "OPTION": "option"}

_trade = msgspec.json.Decoder(messages.Trade, strict=False).decode
_trade_number = msgspec.json.Decoder(messages.TradeNumber, strict=False).decode
_bar = msgspec.json.Decoder(list[str]).decode


class OkxRest(AdapterBase):
    """The REST half of the adapter."""

    venue = VENUE

    def __init__(self, trades: str, candles: Sequence[str | int], book: bool, series: Sequence[str]) -> None:
        if trades not in ("trade", "aggTrade"):
            raise ConfigError(f"trades: {trades!r} is neither 'trade' nor 'aggTrade'", field="trades")
        super().__init__(book=book, series=series)
        self._is_aggregate = trades == "aggTrade"
        self._flags = int(TradeFlag.AGGREGATE) if self._is_aggregate else 0
        self._bars = [_bar_name(candle) for candle in candles]
        self._asked: dict[str, str] = {}  # symbol -> instId, of symbols that were written with their separators

    @property
    def timeframes(self) -> tuple[int, ...]:
        return tuple(BARS[name] for name in self._bars)

    # ---- names --------------------------------------------------------------------------------

    def venue_symbol(self, symbol: str) -> str:
        inst_id = self._asked.get(symbol) or inst_id_of(symbol)
        self._asked[symbol_of(inst_id)] = inst_id
        return symbol_of(inst_id)

    def wire_name(self, instrument: Instrument) -> str:
        return self._asked.get(instrument.symbol) or inst_id_of_instrument(instrument)

    def _symbol(self, batch: Batch, wire: str) -> str | None:
        symbol = self._symbols.get(wire)
        if symbol is not None:
            return symbol
        joined = symbol_of(wire)
        if self._wire_names.get(joined) == joined:  # of a recording, whose symbols nobody wrote with their separators
            return joined
        return super()._symbol(batch, wire)

    def _read_name(self, inst_id: str) -> str:
        """The symbol of a name in a recording, which is remembered as it was written."""
        symbol = symbol_of(inst_id)
        self._asked.setdefault(symbol, inst_id)
        return symbol

    def surveyed_pair(self, symbol: str) -> tuple[str, str]:
        base, _, quote = family_of(self._asked.get(symbol, "")).partition("-")
        return base, quote

    def _inst_id(self, symbol: str) -> str:
        return self._wire_names.get(symbol) or self._asked.get(symbol) or inst_id_of(symbol)

    def _request(self, path: str, **query: Any) -> RestRequest:
        return RestRequest(f"/api/v5/{path}?{urlencode(query)}", 1)

    # ---- instruments and time -----------------------------------------------------------------

    def instruments_request(self, symbols: Sequence[str]) -> RestRequest:
        """Of the first symbol's type. The feed asks again for symbols that the answer does not have."""
        inst_id = self._inst_id(symbols[0])
        query = {"instType": kind_of(inst_id)} | ({"instId": inst_id} if len(symbols) == 1 else {})
        if query["instType"] == "OPTION":  # which the venue lists of one pair at a time
            query["instFamily"] = family_of(inst_id)
        return self._request("public/instruments", **query)

    def decode_instruments(self, body: bytes, symbols: Sequence[str]) -> list[Instrument]:
        what = f"instruments {', '.join(symbols)}"
        wanted = {self._inst_id(symbol): symbol for symbol in symbols}
        found = {}
        for raw in _rows(body, what):
            info = answer(bytes(raw), messages.InstrumentInfo, what)
            if info.inst_id in wanted:
                found[wanted[info.inst_id]] = self._instrument(info, wanted[info.inst_id])
        return as_asked(self.venue, found, symbols)

    def _instrument(self, info: messages.InstrumentInfo, symbol: str) -> Instrument:
        base, _, quote = info.underlying.partition("-") if not info.base else (info.base, "", info.quote)
        tick, step = grid_of(info.tick, 8), grid_of(info.step, 8)
        return Instrument(
            id=0,
            symbol=symbol,
            venue=self.venue,
            price_scale=tick.scale,
            size_scale=step.scale,
            quote_scale=quote_scale(tick.scale, step.scale, tick.scale + step.scale),
            base=base,
            quote=quote,
            market=_MARKETS.get(info.kind, "future"),
            tick_size=tick.units,
            step_size=step.units,
        )

    def time_request(self) -> RestRequest | None:
        return RestRequest("/api/v5/public/time", 1)

    def decode_time(self, body: bytes) -> int:
        rows = _rows(body, "time")
        if not rows:
            raise VenueRefused("time: the answer bears none")
        try:
            return msgspec.json.decode(rows[0], type=messages.ServerTime, strict=False).time * NS_PER_MS
        except msgspec.MsgspecError as error:
            raise VenueRefused(f"time: the answer cannot be read ({error})") from None

    # ---- trades -------------------------------------------------------------------------------

    def trades_request(self, symbol: str, first_id: int) -> RestRequest | None:
        """From an id on: `after` and `before` leave out what they name. There are no aggregates to ask for."""
        if self._is_aggregate:
            return None
        span = {"after": first_id + PAGE_ROWS, "before": first_id - 1, "type": 1, "limit": PAGE_ROWS}
        return self._request("market/history-trades", instId=self._inst_id(symbol), **span)

    def newest_trade_request(self, symbol: str) -> RestRequest | None:
        if self._is_aggregate:
            return None
        return self._request("market/history-trades", instId=self._inst_id(symbol), limit=1)

    def decode_trades(self, symbol: str, body: bytes) -> Page:
        found = _rows(body, f"trades of {symbol}")
        rows = RestRows(symbol)
        for raw in reversed(found):  # the newest first
            rows.take(raw, lambda raw: self._trade_of(symbol, _trade(raw)), _number_of)
        return Page(rows.trades("trade_id"), rows.rejected, len(found), at_present=len(found) < PAGE_ROWS)

    def _trade_of(self, symbol: str, trade: messages.Trade) -> bytes:
        side = SIDES.get(trade.side)
        if side is None:
            raise msgspec.ValidationError(f"side {trade.side[:40]!r} is neither buy nor sell")
        ts_ns = trade.time * NS_PER_MS
        return self._trade(symbol, ts_ns, trade.trade_id, trade.price, trade.size, side, self._flags)

    # ---- bars ---------------------------------------------------------------------------------

    def bars_request(self, symbol: str, timeframe: int, start_ns: int) -> RestRequest | None:
        start = start_ns // NS_PER_MS
        span = {"after": start + PAGE_ROWS * timeframe * 1000, "before": start - 1, "limit": PAGE_ROWS}
        return self._request("market/history-candles", instId=self._inst_id(symbol), bar=BAR_NAMES[timeframe], **span)

    def decode_bars(self, symbol: str, timeframe: int, body: bytes, now_ns: int) -> Page:
        found = _rows(body, f"candles of {symbol}")
        rows = RestRows(symbol)
        for raw in reversed(found):  # the newest first
            rows.take(raw, lambda raw: self._bar_row(symbol, timeframe, _bar(raw), now_ns))
        return Page(candle_records(rows.rows), rows.rejected, len(found), at_present=len(found) < PAGE_ROWS)

    def _bar_row(self, symbol: str, timeframe: int, fields: Sequence[str], now_ns: int) -> bytes | None:
        """[start, o, h, l, c, volume, its currency, in the quote currency, "1" once the bar has ended]."""
        if len(fields) < 9:
            raise msgspec.ValidationError(f"a candle of {len(fields)} fields")
        start_ns = msgspec.convert(fields[0], messages.Millis, strict=False) * NS_PER_MS
        if fields[8] != "1" or start_ns + timeframe * NS_PER_SECOND + SETTLED_AFTER_NS > now_ns:
            return None
        return self._candle(symbol, start_ns, timeframe, fields)

    def _candle(self, symbol: str, start_ns: int, timeframe: int, fields: Sequence[str]) -> bytes:
        instrument = self._instruments[symbol]
        return candle_row(instrument, start_ns, timeframe, fields[1:5], fields[5], quote_volume=fields[7])

    # ---- recorded answers ---------------------------------------------------------------------

    def decode_rest(self, url: str, body: bytes) -> list[Event]:
        parts = urlsplit(url)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        name = parts.path.rpartition("/")[2]
        symbol = self._symbols.get(query.get("instId", ""))
        is_bars = name in ("candles", "history-candles")
        if not is_bars and (name not in ("trades", "history-trades") or self._is_aggregate):
            return [Ignored(clip_name(f"REST {name}"))]
        if symbol is None:
            return [Ignored("not subscribed")]
        try:
            if not is_bars:
                page = self.decode_trades(symbol, body)
                return [Trades(symbol, page.records), *page.rejected] if page.rows else [Ignored("REST empty page")]
            timeframe = BARS.get(query.get("bar", "1m"), 0)
            if timeframe not in self.timeframes:
                return [Ignored(clip_name(f"REST candles {query.get('bar', '1m')}"))]
            page = self.decode_bars(symbol, timeframe, body, now_ns=2**62)  # the rows say themselves which have ended
            return [Candles(symbol, page.records), *page.rejected]
        except VenueRefused as error:
            return [rejected(symbol, "undecodable", error, body)]


def _bar_name(candle: str | int) -> str:
    name = BAR_NAMES.get(parse_timeframe(candle, field="candles"))
    if name is None:
        raise ConfigError(f"candles: OKX has no candles of {candle!r}; it has {', '.join(BARS)}", field="candles")
    return name


def _number_of(raw: msgspec.Raw) -> int | None:
    """The id of a trade that was refused: no hole in the numbers, but one in quarantine."""
    try:
        return _trade_number(raw).trade_id
    except msgspec.MsgspecError:
        return None


def _rows(body: bytes, what: str) -> list[msgspec.Raw]:
    try:
        reply = msgspec.json.decode(body, type=messages.Answer, strict=False)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        shown = body[:300].decode("utf-8", "replace")
        raise VenueRefused(f"{what}: the answer cannot be read ({error}): {shown}") from None
    if reply.code == NO_SUCH_INSTRUMENT:
        raise UnknownSymbol(f"{what}: {reply.text} (code {reply.code})", field="symbols")
    if reply.code != 0:
        raise VenueRefused(f"{what}: {reply.text} (code {reply.code})")
    return reply.data
