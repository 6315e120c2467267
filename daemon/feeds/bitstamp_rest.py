"""Bitstamp's REST interface: the questions, and what the answers say. Pure; see `adapter` for the contract."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec

from marketd.daemon.feeds import bitstamp_messages as messages
from marketd.daemon.feeds.adapter import (
    BookSnapshot,
    Candles,
    Event,
    Ignored,
    Page,
    RestRequest,
    Trades,
    VenueRefused,
    as_asked,
    clip_name,
)
from marketd.daemon.feeds.adapter_base import AdapterBase, RestRows
from marketd.daemon.feeds.precision import quote_scale
from marketd.daemon.feeds.venue_records import UNREADABLE, answer, candle_records, candle_row, rejected
from marketd.market.errors import RuleViolation
from marketd.market.instruments import Instrument
from marketd.market.times import NS_PER_SECOND, NS_PER_US

STEPS = (60, 180, 300, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400)
"""Timeframes (s) of the venue's bars (`step`), those that are aligned to the epoch."""
PAGE_ROWS = 1000  # of `ohlc`
RECENT = "hour"  # of `transactions`: what a reconnect can have missed; the other choices are a minute and a day
SETTLED_AFTER_NS = NS_PER_SECOND  # a bar is asked for only so long after its end

_REST_BOOK = re.compile(r"/order_book/([a-z0-9-]+)/?$")
_REST_TRADES = re.compile(r"/transactions/([a-z0-9-]+)/?$")
_REST_BARS = re.compile(r"/ohlc/([a-z0-9-]+)/?$")

_book = msgspec.json.Decoder(messages.Book, strict=False).decode
_rest_trade = msgspec.json.Decoder(messages.RestTrade, strict=False).decode
_rest_bar = msgspec.json.Decoder(messages.RestBar, strict=False).decode


class BitstampRest(AdapterBase):
    """The REST half of the adapter."""

    venue = "BITSTAMP"
    unnumbered_books = True

    def wire_name(self, instrument: Instrument) -> str:
        return instrument.symbol.lower()

    def instruments_request(self, symbols: Sequence[str]) -> RestRequest:
        return RestRequest("/api/v2/markets/", 1)  # all of them; there is no other way to ask

    def decode_instruments(self, body: bytes, symbols: Sequence[str]) -> list[Instrument]:
        markets = answer(body, list[messages.Market], "markets")
        found = {market.symbol.upper(): market for market in markets}
        return [self._instrument(market) for market in as_asked(self.venue, found, symbols)]

    def _instrument(self, market: messages.Market) -> Instrument:
        base, _, quote = market.name.partition("/")
        price, size = market.counter_decimals, market.base_decimals
        return Instrument(
            id=0,
            symbol=market.symbol.upper(),
            venue=self.venue,
            price_scale=price,
            size_scale=size,
            quote_scale=quote_scale(price, size, price + size),
            base=base,
            quote=quote,
        )

    def trades_request(self, symbol: str, first_id: int) -> RestRequest | None:
        return RestRequest(f"/api/v2/transactions/{symbol.lower()}/?{urlencode({'time': RECENT})}", 1)

    def decode_trades(self, symbol: str, body: bytes) -> Page:
        """The newest first. Their times are in whole seconds, coarser than those of the stream."""
        found = answer(body, list[msgspec.Raw], f"transactions of {symbol}")
        rows = RestRows(symbol)
        for raw in reversed(found):
            rows.take(raw, lambda raw: self._rest_trade(symbol, raw))
        return Page(rows.trades("trade_id"), rows.rejected, len(found), at_present=True)

    def _rest_trade(self, symbol: str, raw: msgspec.Raw) -> bytes:
        trade = _rest_trade(raw)
        ts_ns = trade.time * NS_PER_SECOND
        return self._trade(symbol, ts_ns, trade.trade_id, trade.price, trade.size, 1 - 2 * trade.side)

    def snapshot_request(self, symbol: str) -> RestRequest | None:
        return RestRequest(f"/api/v2/order_book/{symbol.lower()}/", 1)

    def decode_snapshot(self, symbol: str, body: bytes) -> BookSnapshot:
        what = f"order_book of {symbol}"
        try:
            book = _book(body)
            bids, asks = self._readers[symbol].pairs(book.bids, book.asks)
        except (*UNREADABLE, RuleViolation) as error:
            shown = body[:300].decode("utf-8", "replace")
            raise VenueRefused(f"{what}: the answer cannot be used ({error}): {shown}") from None
        return BookSnapshot(symbol, book.time, book.time * NS_PER_US, bids, asks)

    def bars_request(self, symbol: str, timeframe: int, start_ns: int) -> RestRequest | None:
        if timeframe not in STEPS:
            return None
        query = urlencode({"step": timeframe, "limit": PAGE_ROWS, "start": start_ns // NS_PER_SECOND})
        return RestRequest(f"/api/v2/ohlc/{symbol.lower()}/?{query}", 1)

    def decode_bars(self, symbol: str, timeframe: int, body: bytes, now_ns: int) -> Page:
        found = answer(body, messages.Ohlc, f"ohlc of {symbol}").data.ohlc
        rows = RestRows(symbol)
        for raw in found:
            rows.take(raw, lambda raw: self._bar(symbol, timeframe, raw, now_ns))
        return Page(candle_records(rows.rows), rows.rejected, len(found), at_present=len(found) < PAGE_ROWS)

    def _bar(self, symbol: str, timeframe: int, raw: msgspec.Raw, now_ns: int) -> bytes | None:
        bar = _rest_bar(raw)
        start_ns = bar.time * NS_PER_SECOND
        if start_ns + timeframe * NS_PER_SECOND + SETTLED_AFTER_NS > now_ns:
            return None
        prices = (bar.open, bar.high, bar.low, bar.close)
        return candle_row(self._instruments[symbol], start_ns, timeframe, prices, bar.volume)

    def decode_rest(self, url: str, body: bytes) -> list[Event]:
        parts = urlsplit(url)
        for pattern, decode in (
            (_REST_BOOK, self._rest_book),
            (_REST_TRADES, self._rest_trades),
            (_REST_BARS, self._rest_bars),
        ):
            match = pattern.search(parts.path)
            symbol = self._symbols.get(match[1]) if match else None
            if match and symbol is None:
                return [Ignored("not subscribed")]
            if symbol is not None:
                try:
                    return decode(symbol, body, parts.query)
                except VenueRefused as error:
                    return [rejected(symbol, "undecodable", error, body)]
        return [Ignored(clip_name(f"REST {parts.path.strip('/').rpartition('/')[2]}"))]

    def _rest_book(self, symbol: str, body: bytes, query: str) -> list[Event]:
        return [self.decode_snapshot(symbol, body)] if self._book else [Ignored("REST order_book")]

    def _rest_trades(self, symbol: str, body: bytes, query: str) -> list[Event]:
        page = self.decode_trades(symbol, body)
        return [Trades(symbol, page.records), *page.rejected] if page.rows else [Ignored("REST empty page")]

    def _rest_bars(self, symbol: str, body: bytes, query: str) -> list[Event]:
        step = parse_qs(query).get("step", [""])[-1]
        if not step.isdigit() or int(step) not in STEPS:
            return [Ignored("REST ohlc")]
        # the answer does not say when it was given: its last bar may have been open
        page = self.decode_bars(symbol, int(step), body, now_ns=2**62)
        return [Candles(symbol, page.records[:-1]), *page.rejected] if page.rows else [Ignored("REST empty page")]
