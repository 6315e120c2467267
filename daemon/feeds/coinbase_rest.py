"""What both of Coinbase's protocols share: the names of products, and the REST interface of the Exchange.

    /products                                       every product with its increments
    /products/BTC-USD/trades?limit=1000&after=N     trades with ids below N, the newest first; ids are consecutive
    /products/BTC-USD/candles?granularity=300&…     at most 300 bars, the newest first; none where nothing was traded
    /time

A trade's `side` is the maker's: a taker who bought is `sell`. Ids are those of both WebSocket protocols.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from urllib.parse import urlencode, urlsplit

import msgspec

from marketd.daemon.feeds import coinbase_messages as messages
from marketd.daemon.feeds.adapter import (
    Event,
    Ignored,
    Page,
    Rejected,
    RestRequest,
    Trades,
    UnknownSymbol,
    VenueRefused,
    clip_name,
)
from marketd.daemon.feeds.adapter_base import AdapterBase
from marketd.daemon.feeds.pairs import PairNames
from marketd.daemon.feeds.precision import grid_of, quote_scale
from marketd.daemon.feeds.venue_batch import Batch
from marketd.daemon.feeds.venue_records import (
    UNREADABLE,
    answer,
    candle_records,
    candle_row,
    number_text,
    rejected,
    rfc3339_ns,
    trade_records,
)
from marketd.market.errors import ConfigError, RuleViolation
from marketd.market.instruments import Instrument
from marketd.market.times import NS_PER_MS, NS_PER_SECOND, isoformat_ns

PAGE_ROWS = 1000
BAR_ROWS = 300
GRANULARITIES = (60, 300, 900, 3600, 21_600, 86_400)
DEFAULT_DECIMALS = 8  # of a product that names no increment
SETTLED_AFTER_NS = 500 * NS_PER_MS  # a bar is asked for only this long after its end: it may still get its last trade
KEPT_CURSORS = 64

AGGRESSOR = {"BUY": -1, "SELL": 1, "buy": -1, "sell": 1}
"""The venue tells the maker's side; the aggressor is the other one."""

_raw_rows = msgspec.json.Decoder(list[msgspec.Raw]).decode
_trade = msgspec.json.Decoder(messages.RestTrade).decode
_candle = msgspec.json.Decoder(messages.RestCandle).decode


class CoinbaseRest(AdapterBase):
    """Names, instruments, and what is fetched over REST; the streams are in the classes that derive from it."""

    venue = "COINBASE"
    numbered_trades = True

    def __init__(self, trades: str, *, book: bool, series: Sequence[str]) -> None:
        super().__init__(book=book, series=series)
        if trades != "trade":
            raise ConfigError(
                f"trades: {trades!r} is nothing that {self.venue} has; write 'trade', or leave it out", field="trades"
            )
        self._names = PairNames(self.venue, "-")
        self._cursors: dict[str, deque[int]] = {}
        self._bar_ends: dict[tuple[str, int], int] = {}

    # ---- names --------------------------------------------------------------------------------

    def venue_symbol(self, symbol: str) -> str:
        return self._names.symbol_of(symbol)

    def wire_name(self, instrument: Instrument) -> str:
        if instrument.base and instrument.quote:
            self._names.learn(instrument.symbol, instrument.base, instrument.quote)
        return self._names.pair(instrument.symbol)

    def _wire(self, symbol: str) -> str:
        return self._names.pair(symbol)

    def surveyed_pair(self, symbol: str) -> tuple[str, str]:
        return self._names.read_pair(symbol)

    def _symbol(self, batch: Batch, wire: str) -> str | None:
        symbol = self._symbols.get(wire) or self._names.find(wire, self._instruments)
        if symbol is None:
            batch.ignore("not subscribed")
        return symbol

    # ---- instruments and time -----------------------------------------------------------------

    def instruments_request(self, symbols: Sequence[str]) -> RestRequest:
        return RestRequest("/products", 1)

    def decode_instruments(self, body: bytes, symbols: Sequence[str]) -> list[Instrument]:
        products = answer(body, list[messages.Product], "products")
        found = {product.base + product.quote: product for product in products}
        missing = [symbol for symbol in symbols if symbol not in found]
        if missing:
            raise UnknownSymbol(f"{self.venue} has no product {', '.join(missing)}", field="symbols")
        return [self._instrument(symbol, found[symbol]) for symbol in symbols]

    def _instrument(self, symbol: str, product: messages.Product) -> Instrument:
        self._names.learn(symbol, product.base, product.quote)
        tick = grid_of(product.quote_increment, DEFAULT_DECIMALS)
        step = grid_of(product.base_increment, DEFAULT_DECIMALS)
        return Instrument(
            id=0,
            symbol=symbol,
            venue=self.venue,
            price_scale=tick.scale,
            size_scale=step.scale,
            quote_scale=quote_scale(tick.scale, step.scale, DEFAULT_DECIMALS),
            base=product.base,
            quote=product.quote,
            tick_size=tick.units,
            step_size=step.units,
        )

    def time_request(self) -> RestRequest | None:
        return RestRequest("/time", 1)

    def decode_time(self, body: bytes) -> int:
        try:
            return rfc3339_ns(answer(body, messages.ServerTime, "time").iso)
        except UNREADABLE as error:
            raise VenueRefused(f"time: {error}") from None

    # ---- trades -------------------------------------------------------------------------------

    def trades_request(self, symbol: str, first_id: int) -> RestRequest | None:
        after = first_id + PAGE_ROWS
        self._cursors.setdefault(symbol, deque(maxlen=KEPT_CURSORS)).append(after)
        query = urlencode({"limit": PAGE_ROWS, "after": after})
        return RestRequest(f"/products/{self._wire(symbol)}/trades?{query}", 1)

    def newest_trade_request(self, symbol: str) -> RestRequest | None:
        return RestRequest(f"/products/{self._wire(symbol)}/trades?limit=1", 1)

    def decode_trades(self, symbol: str, body: bytes) -> Page:
        """A page that was asked for by `after` reaches up to it, or ends with the newest trade there is."""
        rows = self._rows(body, f"trades of {symbol}")
        decoded: list[tuple[int, bytes]] = []
        refused: list[Rejected] = []
        newest = -1
        for row in rows:
            try:
                trade = _trade(row)
            except UNREADABLE as error:
                refused.append(rejected(symbol, "undecodable", error, bytes(row)))
                continue
            newest = max(newest, trade.trade_id)
            try:
                decoded.append((trade.trade_id, self._rest_row(symbol, trade)))
            except RuleViolation as violation:
                refused.append(rejected(symbol, violation.rule, violation, bytes(row), trade.trade_id))
            except UNREADABLE as error:
                refused.append(rejected(symbol, "undecodable", error, bytes(row), trade.trade_id))
        decoded.sort()
        cursors = self._cursors.get(symbol)
        is_full = cursors is not None and newest + 1 in cursors
        if cursors is not None and is_full:
            cursors.remove(newest + 1)  # the page that follows may end there too, and then it is the last one
        return Page(trade_records([row for _, row in decoded]), refused, len(rows), at_present=not is_full)

    def _rest_row(self, symbol: str, trade: messages.RestTrade) -> bytes:
        return self._trade_row(symbol, trade.trade_id, trade)

    def _trade_row(
        self, symbol: str, trade_id: int, trade: messages.RestTrade | messages.MarketTrade | messages.Match
    ) -> bytes:
        side = AGGRESSOR.get(trade.side)
        if side is None:
            raise msgspec.ValidationError(f"side is {trade.side[:40]!r}")
        return self._trade(symbol, rfc3339_ns(trade.time), trade_id, trade.price, trade.size, side)

    # ---- bars ---------------------------------------------------------------------------------

    def bars_request(self, symbol: str, timeframe: int, start_ns: int) -> RestRequest | None:
        if timeframe not in GRANULARITIES:
            return None
        last_ns = start_ns + (BAR_ROWS - 1) * timeframe * NS_PER_SECOND
        self._bar_ends[symbol, timeframe] = last_ns + timeframe * NS_PER_SECOND
        query = {"granularity": timeframe, "start": isoformat_ns(start_ns), "end": isoformat_ns(last_ns)}
        return RestRequest(f"/products/{self._wire(symbol)}/candles?{urlencode(query)}", 1)

    def decode_bars(self, symbol: str, timeframe: int, body: bytes, now_ns: int) -> Page:
        rows = self._rows(body, f"candles of {symbol}")
        instrument = self._instruments[symbol]
        bars: list[tuple[int, bytes]] = []
        refused: list[Rejected] = []
        for row in rows:
            try:
                candle = _candle(row)
                start_ns = candle.start * NS_PER_SECOND
                if start_ns + timeframe * NS_PER_SECOND + SETTLED_AFTER_NS <= now_ns:
                    prices = [number_text(raw) for raw in (candle.open, candle.high, candle.low, candle.close)]
                    bars.append(
                        (start_ns, candle_row(instrument, start_ns, timeframe, prices, number_text(candle.volume)))
                    )
            except RuleViolation as violation:
                refused.append(rejected(symbol, violation.rule, violation, bytes(row)))
            except UNREADABLE as error:
                refused.append(rejected(symbol, "undecodable", error, bytes(row)))
        bars.sort()
        at_present = self._bar_ends.get((symbol, timeframe), 0) <= 0 or self._bar_ends[symbol, timeframe] > now_ns
        return Page(candle_records([row for _, row in bars]), refused, len(rows), at_present)

    def _rows(self, body: bytes, what: str) -> list[msgspec.Raw]:
        try:
            return _raw_rows(body)
        except UNREADABLE:
            failure = answer(body, messages.RestFailure, what)
            raise VenueRefused(f"{what}: {str(failure.message)[:200]}") from None

    # ---- recordings ----------------------------------------------------------------------------

    def decode_rest(self, url: str, body: bytes) -> list[Event]:
        parts = urlsplit(url).path.strip("/").split("/")
        name = parts[-1]
        symbol = self._names.find(parts[1], self._instruments) if len(parts) == 3 else None
        if symbol is None or parts[0] != "products" or name != "trades":
            return [Ignored(clip_name(f"REST {name}"))]
        try:
            page = self.decode_trades(symbol, body)
        except VenueRefused as error:
            return [rejected(symbol, "undecodable", error, body)]
        found: list[Event] = [Trades(symbol, page.records)] if len(page.records) else []
        found += page.rejected
        return found or [Ignored("REST empty page")]
