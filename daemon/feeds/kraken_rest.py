"""What both versions of Kraken's protocol share: the names of pairs, and the REST interface.

    /0/public/AssetPairs                            every pair: wsname, pair_decimals, lot_decimals, tick_size
    /0/public/Trades?pair=XBTUSD&since=<ns>         1000 trades after a time, the oldest first
    /0/public/OHLC?pair=XBTUSD&interval=1&since=<s> at most the newest 720 bars, the one that is still open included
    /0/public/Time

Bitcoin and Dogecoin are XBT and XDG to version 1 and to REST, BTC and DOGE to version 2, and BTC and DOGE here.
A refusal comes with status 200 and words such as `EQuery:Unknown asset pair`, `EGeneral:Too many requests`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec

from marketd.daemon.feeds import kraken_messages as messages
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
from marketd.daemon.feeds.kraken_books import TradeHashes
from marketd.daemon.feeds.kraken_times import TradeTimes
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
    seconds_ns,
    trade_records,
    trade_row,
)
from marketd.market.errors import ConfigError, RuleViolation
from marketd.market.instruments import Instrument
from marketd.market.records import Records, TradeFlag
from marketd.market.times import NS_PER_MS, NS_PER_SECOND, NS_PER_US, parse_timeframe

PAGE_ROWS = 1000
MINUTES = (1, 5, 15, 30, 60, 240, 1440)
"""Intervals of the venue's bars that are aligned to the epoch (its weeks and 15 days are not)."""
QUOTE_DECIMALS = 8
SETTLED_AFTER_NS = 500 * NS_PER_MS  # a bar is asked for only this long after its end: it may still get its last trade
DEPTH = 1000  # levels a side: the most that the venue offers
ALIASES = {"XBT": "BTC", "XDG": "DOGE"}
VENUE_WORDS = {"BTC": "XBT", "DOGE": "XDG"}
SIDES = {"b": 1, "s": -1, "buy": 1, "sell": -1}
UNKNOWN_PAIR = "Unknown asset pair"

_raw_rows = msgspec.json.Decoder(list[msgspec.Raw]).decode
_trade = msgspec.json.Decoder(messages.RestTrade).decode
_bar = msgspec.json.Decoder(messages.RestBar).decode


class KrakenRest(AdapterBase):
    """Names, instruments, and what is fetched over REST; the streams are in the classes that derive from it."""

    venue = "KRAKEN"

    def __init__(
        self,
        trades: str,
        candles: Sequence[str | int],
        words: Mapping[str, str],
        *,
        book: bool,
        series: Sequence[str],
    ) -> None:
        super().__init__(book=book, series=series)
        if trades != "trade":
            raise ConfigError(
                f"trades: {trades!r} is nothing that {self.venue} has; write 'trade', or leave it out", field="trades"
            )
        self.timeframes = tuple(_timeframe(candle) for candle in candles)
        self._names = PairNames(self.venue, "/", aliases=ALIASES, words=words)
        self._rest_names = PairNames(self.venue, "", words=VENUE_WORDS)
        self._times: dict[str, TradeTimes] = {}
        self._wanted: dict[str, int] = {}  # symbol -> the first trade that was asked for

    # ---- names --------------------------------------------------------------------------------

    def venue_symbol(self, symbol: str) -> str:
        return self._names.symbol_of(symbol)

    def wire_name(self, instrument: Instrument) -> str:
        if instrument.base and instrument.quote:
            self._names.learn(instrument.symbol, instrument.base, instrument.quote)
            self._rest_names.learn(instrument.symbol, instrument.base, instrument.quote)
        return self._names.pair(instrument.symbol)

    def _wire(self, symbol: str) -> str:
        return self._names.pair(symbol)

    def _adopted(self, wire: str) -> str | None:
        """The symbol of a pair, if it was adopted."""
        return self._symbols.get(wire) or self._names.find(wire, self._instruments)

    def surveyed_pair(self, symbol: str) -> tuple[str, str]:
        return self._names.read_pair(symbol)

    def _symbol(self, batch: Batch, wire: str) -> str | None:
        symbol = self._symbols.get(wire) or self._adopted(wire)
        if symbol is None:
            batch.ignore("not subscribed")
        return symbol

    def forget(self, symbol: str) -> None:
        super().forget(symbol)
        self._times.pop(symbol, None)
        self._wanted.pop(symbol, None)

    # ---- instruments and time -----------------------------------------------------------------

    def instruments_request(self, symbols: Sequence[str]) -> RestRequest:
        return RestRequest("/0/public/AssetPairs", 1)  # one unknown pair in a list would cost the others

    def decode_instruments(self, body: bytes, symbols: Sequence[str]) -> list[Instrument]:
        found: dict[str, Instrument] = {}
        wanted = set(symbols)
        for raw in self._result(body, "AssetPairs").values():
            try:
                instrument = self._instrument(msgspec.json.decode(raw, type=messages.AssetPair))
            except UNREADABLE:
                continue  # of a pair that is wanted it is told below that the venue has none
            if instrument.symbol in wanted:
                found[instrument.symbol] = instrument
        missing = [symbol for symbol in symbols if symbol not in found]
        if missing:
            raise UnknownSymbol(f"{self.venue} has no pair {', '.join(missing)}", field="symbols")
        return [found[symbol] for symbol in symbols]

    def _instrument(self, pair: messages.AssetPair) -> Instrument:
        """The scales are the venue's own precision, not its tick: the checksum is over all of these digits."""
        base, _, quote = pair.name.partition("/")
        base, quote = self._names.currency(base), self._names.currency(quote)
        tick = grid_of(pair.tick_size, pair.pair_decimals)
        scale = max(tick.scale, pair.pair_decimals)
        return Instrument(
            id=0,
            symbol=(base + quote).upper(),
            venue=self.venue,
            price_scale=scale,
            size_scale=pair.lot_decimals,
            quote_scale=quote_scale(scale, pair.lot_decimals, QUOTE_DECIMALS),
            base=base,
            quote=quote,
            tick_size=tick.units * 10 ** (scale - tick.scale),
        )

    def time_request(self) -> RestRequest | None:
        return RestRequest("/0/public/Time", 1)

    def decode_time(self, body: bytes) -> int:
        """Whole seconds is all that the venue tells."""
        result = self._result(body, "Time")
        found: int = answer(bytes(result.get("unixtime", b"")), messages.Id, "Time")
        if found > 2**33:
            raise VenueRefused(f"Time: {found} is no time in seconds")
        return found * NS_PER_SECOND

    # ---- trades -------------------------------------------------------------------------------

    def trades_request(self, symbol: str, first_id: int) -> RestRequest | None:
        """By the time of a trade before `first_id`; the newest ones where no id is known."""
        query: dict[str, str | int] = {"pair": self._rest_names.pair(symbol), "count": PAGE_ROWS}
        if self.numbered_trades:
            self._wanted[symbol] = first_id
            since_ns = self._times_of(symbol).since(first_id)
            if since_ns is not None:
                query["since"] = since_ns
        return RestRequest(f"/0/public/Trades?{urlencode(query)}", 1)

    def trades_since_request(self, symbol: str, ts_ns: int) -> RestRequest | None:
        if not self.numbered_trades:
            return None
        self._wanted.pop(symbol, None)
        since = ts_ns - NS_PER_US  # the venue gives those after it
        query = {"pair": self._rest_names.pair(symbol), "count": PAGE_ROWS, "since": since}
        return RestRequest(f"/0/public/Trades?{urlencode(query)}", 1)

    def newest_trade_request(self, symbol: str) -> RestRequest | None:
        if not self.numbered_trades:
            return None
        self._wanted.pop(symbol, None)
        return RestRequest(f"/0/public/Trades?{urlencode({'pair': self._rest_names.pair(symbol), 'count': 1})}", 1)

    def decode_trades(self, symbol: str, body: bytes) -> Page:
        rows = self._rows(body, f"trades of {symbol}")
        hashes = TradeHashes()
        made: list[tuple[int, int, bytes]] = []
        refused: list[Rejected] = []
        for place, raw in enumerate(rows):
            trade_id: int | None = None
            try:
                trade = _trade(raw)
                trade_id, row = self._rest_row(symbol, trade, hashes)
                made.append((trade_id if self.numbered_trades else place, trade_id, row))
            except RuleViolation as violation:
                refused.append(rejected(symbol, violation.rule, violation, bytes(raw), trade.trade_id))
            except UNREADABLE as error:
                refused.append(rejected(symbol, "undecodable", error, bytes(raw)))
        records = trade_records([row for _, _, row in sorted(made)])
        if self.numbered_trades and self._begins_too_late(symbol, records):
            return Page(records[:0], refused, len(rows), at_present=False)
        return Page(records, refused, len(rows), at_present=len(rows) < PAGE_ROWS)

    def _begins_too_late(self, symbol: str, records: Records) -> bool:
        ids, times = records["trade_id"].tolist(), records["ts_event"].tolist()
        wanted = self._wanted.get(symbol)
        return self._times_of(symbol).begins_too_late(ids[0] if wanted is None and ids else wanted or 0, ids, times)

    def _times_of(self, symbol: str) -> TradeTimes:
        return self._times.setdefault(symbol, TradeTimes())

    def _rest_row(self, symbol: str, trade: messages.RestTrade, hashes: TradeHashes) -> tuple[int, bytes]:
        return self._row(
            symbol, seconds_ns(number_text(trade.time)), trade, trade.trade_id if self.numbered_trades else None, hashes
        )

    def _row(
        self,
        symbol: str,
        ts_ns: int,
        trade: messages.RestTrade | messages.TextTrade,
        trade_id: int | None,
        hashes: TradeHashes,
    ) -> tuple[int, bytes]:
        """The trade's id and its TRADE record; the id is a hash where `trade_id` is None."""
        side = side_of(trade.side)
        reader = self._readers[symbol]
        price, size = reader.price(trade.price), reader.size(trade.size)
        if trade_id is not None:
            return trade_id, trade_row(ts_ns, trade_id, price, size, side)
        second = ts_ns // NS_PER_SECOND
        hashed = hashes.of(symbol, second, f"{price} {size} {side} {trade.order_type[:1]}")
        return hashed, trade_row(ts_ns, hashed, price, size, side, int(TradeFlag.HASHED_ID))

    # ---- bars ---------------------------------------------------------------------------------

    def bars_request(self, symbol: str, timeframe: int, start_ns: int) -> RestRequest | None:
        if timeframe // 60 not in MINUTES:
            return None
        since = start_ns // NS_PER_SECOND - 1  # bars after it
        query = {"pair": self._rest_names.pair(symbol), "interval": timeframe // 60, "since": since}
        return RestRequest(f"/0/public/OHLC?{urlencode(query)}", 1)

    def decode_bars(self, symbol: str, timeframe: int, body: bytes, now_ns: int) -> Page:
        """An answer always reaches to the present: what is older than its 720 bars cannot be had."""
        rows = self._rows(body, f"OHLC of {symbol}")
        instrument = self._instruments[symbol]
        bars: list[bytes] = []
        refused: list[Rejected] = []
        for raw in rows:
            try:
                bar = _bar(raw)
                start_ns = bar.start * NS_PER_SECOND
                if start_ns + timeframe * NS_PER_SECOND + SETTLED_AFTER_NS <= now_ns:
                    prices = (bar.open, bar.high, bar.low, bar.close)
                    count = bar.trade_count
                    bars.append(candle_row(instrument, start_ns, timeframe, prices, bar.volume, trade_count=count))
            except RuleViolation as violation:
                refused.append(rejected(symbol, violation.rule, violation, bytes(raw)))
            except UNREADABLE as error:
                refused.append(rejected(symbol, "undecodable", error, bytes(raw)))
        return Page(candle_records(bars), refused, len(rows), at_present=True)

    # ---- answers ------------------------------------------------------------------------------

    def _result(self, body: bytes, what: str) -> dict[str, msgspec.Raw]:
        found: messages.Answer = answer(body, messages.Answer, what)
        if found.error:
            words = "; ".join(found.error)[:300]
            raise (UnknownSymbol if UNKNOWN_PAIR in words else VenueRefused)(f"{what}: {words}")
        return found.result

    def _rows(self, body: bytes, what: str) -> list[msgspec.Raw]:
        """The rows stand under the pair's name in the venue's books (XXBTZUSD), beside `last`."""
        for name, raw in self._result(body, what).items():
            if name != "last":
                rows: list[msgspec.Raw] = _decoded(_raw_rows, raw, what)
                return rows
        raise VenueRefused(f"{what}: there is no pair in the answer")

    # ---- recordings ---------------------------------------------------------------------------

    def decode_rest(self, url: str, body: bytes) -> list[Event]:
        parts = urlsplit(url)
        name = parts.path.rpartition("/")[2]
        pair = parse_qs(parts.query).get("pair", [""])[-1]
        symbol = next((s for s in self._instruments if self._rest_names.pair(s) == pair), None)
        if symbol is None or name != "Trades":
            return [Ignored(clip_name(f"REST {name}"))]
        try:
            page = self.decode_trades(symbol, body)
        except VenueRefused as error:
            return [rejected(symbol, "undecodable", error, body)]
        found: list[Event] = [Trades(symbol, page.records)] if len(page.records) else []
        found += page.rejected
        return found or [Ignored("REST empty page")]


def side_of(word: str) -> int:
    """The taker's side."""
    side = SIDES.get(word)
    if side is None:
        raise msgspec.ValidationError(f"side is {word[:40]!r}")
    return side


def _decoded(decode: Callable[[Any], Any], raw: msgspec.Raw, what: str) -> Any:
    try:
        return decode(raw)
    except UNREADABLE as error:
        raise VenueRefused(f"{what}: the answer cannot be read ({error})") from None


def _timeframe(candle: str | int) -> int:
    seconds = parse_timeframe(candle, field="candles")
    if seconds % 60 or seconds // 60 not in MINUTES:
        raise ConfigError(
            f"candles: Kraken has no bars of {candle!r}; it has 1m, 5m, 15m, 30m, 1h, 4h, 1d", field="candles"
        )
    return seconds
