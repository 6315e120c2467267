"""What a recording of any venue has: its instruments, streams and times, found by reading it once.

A recording bears no list of instruments. Their scales are the finest decimal places among all recorded prices and sizes
(`VenueAdapter.survey_texts`), those of the order book included. The emulator finds the same, so that an import and a
feed that is served the recording give the same fixed-point numbers.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import msgspec

from marketd.daemon.feeds.adapter import Rejected, Venue, VenueAdapter
from marketd.daemon.feeds.captures import CaptureLine, CaptureReader, CaptureUnreadable, in_order
from marketd.daemon.feeds.precision import MAX_QUOTE_SCALE, Texts, quote_scale, split_pair
from marketd.daemon.feeds.venue_signs import told_by_message
from marketd.daemon.feeds.venues import venue_of
from marketd.market.errors import ConfigError, InvalidArgument
from marketd.market.instruments import MAX_SCALE, Instrument
from marketd.market.records import INSTRUMENT

LOOKED_AT = 2_000  # lines of a file, where nothing was found in it
MAX_SYMBOL, MAX_CURRENCY = INSTRUMENT["symbol"].itemsize, INSTRUMENT["base"].itemsize  # bytes of a name
_TIMEFRAMES = ("1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d")
_OKX_TRADES = re.compile(rb'"channel": ?"(trades(?:-all)?)".*"data"')
_EACH, _SUMMED = {b"trade", b"trades-all"}, {b"aggTrade", b"trades"}  # streams of trades: one by one, or summed up
# Binance's names of streams, and of their messages where these come without them
_STREAM = re.compile(rb'"stream": ?"[^"@]*@([A-Za-z]+)(?:_(\w+))?')
_EVENT = re.compile(rb'\{"e": ?"(trade|aggTrade|kline)"(?:.*"i": ?"(\w+)")?')
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _Answer(msgspec.Struct):
    """The levels of a REST answer; the venues whose captures have such answers all write them like this."""

    bids: list[list[Any]]
    asks: list[list[Any]]


_answer = msgspec.json.Decoder(_Answer).decode


class Survey(NamedTuple):
    """Instruments (id 0) as a feed that is served the recording by the emulator would declare them."""

    venue: Venue  # for the protocol that was recorded
    instruments: list[Instrument]
    trades: str  # "trade", or "aggTrade" when there are only those
    candles: tuple[str, ...]  # timeframes of the venue's bars that the recording has, or may have
    first_ns: int  # receive time of the first line
    messages: int  # that came over a WebSocket
    answers: int  # of REST

    def adapter(self, *, book: bool = False, series: Iterable[str] = ()) -> VenueAdapter:
        """One that knows the instruments."""
        made: VenueAdapter = self.venue.adapter(
            trades=self.trades, candles=self.candles, book=book, series=tuple(series)
        )
        for instrument in self.instruments:
            made.adopt(instrument)
        return made


def survey(paths: Iterable[Path | str], venue: str = "BINANCE") -> Survey:
    """Read a recording once, for its symbols, scales and streams."""
    found = _Finding(venue)
    for _, line in in_order([CaptureReader(path) for path in paths], venue):
        found.read(line)
    return found.survey()


def require_instruments(found: Survey, paths: Iterable[Path | str]) -> Survey:
    """The survey, when anything of the venue's could be read; else CaptureUnreadable."""
    names = ", ".join(map(str, paths))
    if not found.messages:
        raise CaptureUnreadable(
            f"{names}: no message of a WebSocket is in there, only {found.answers} REST answers; name the file that "
            "has the messages, too"
        )
    if not found.instruments:
        raise CaptureUnreadable(
            f"{names}: no trade, bar or book of {found.venue.name} is in there, which alone tell decimal places; name "
            "a file that has some, too, or, if it is the traffic of another venue, say whose with --venue"
        )
    return found


def require_messages(found: Survey, paths: Iterable[Path | str]) -> Survey:
    """The survey, when there is something of the venue's in it, though it be tickers alone; else CaptureUnreadable."""
    if found.instruments or not found.messages:
        return require_instruments(found, paths)
    paths, adapter, balance = list(paths), found.adapter(book=True), 0
    for path in paths:
        for _, line in islice(in_order([CaptureReader(path)], found.venue.name), LOOKED_AT):
            if line.kind == "ws":
                balance += -1 if any(type(event) is Rejected for event in adapter.decode_many([line.payload])) else 1
    return found if balance > 0 else require_instruments(found, paths)


class _Finding:
    """What the lines have told so far."""

    def __init__(self, venue: str) -> None:
        self._name = venue
        self._venue = venue_of(venue)
        self._adapter: VenueAdapter = self._venue.adapter(candles=())
        self._texts: dict[str, Texts] = {}
        self._answers: dict[str, Texts] = {}  # by address: whose they are is known once the streams were read
        self._streams: set[tuple[bytes, bytes | None]] = set()
        self._trades: set[bytes] = set()
        self._first_ns = 0
        self._kinds: Counter[str] = Counter()

    def read(self, line: CaptureLine) -> None:
        self._first_ns = self._first_ns or line.recv_ns
        self._kinds[line.kind] += 1
        if line.kind == "connect":
            self._speak(line.url)
        elif line.kind == "ws":
            if not line.url and not self._texts and (sign := told_by_message(line.payload)) and sign.url:
                self._speak(sign.url)
            match = _STREAM.search(line.payload) or _EVENT.match(line.payload)
            if match is not None:
                self._streams.add((match[1], match[2]))
            if (trades := match or _OKX_TRADES.search(line.payload)) is not None:
                self._trades.add(trades[1])
            for symbol, price, size in self._adapter.survey_texts(line.payload):
                self._texts_of(symbol).see(price, size)
        elif line.kind == "rest":
            self._read_answer(line)

    def _speak(self, url: str) -> None:
        """The address tells which of a venue's protocols is spoken."""
        self._venue = venue_of(self._name, url)
        self._adapter = self._venue.adapter(candles=())

    def _read_answer(self, line: CaptureLine) -> None:
        """A snapshot of a book may have finer numbers than the stream."""
        try:
            answer = _answer(line.payload)
        except _UNREADABLE:
            return
        texts = self._answers.setdefault(line.url, Texts())
        for row in answer.bids + answer.asks:
            if len(row) >= 2 and isinstance(row[0], str) and isinstance(row[1], str):
                texts.see(row[0], row[1])

    def _symbol_of(self, url: str) -> str | None:
        parts = urlsplit(url)
        named = parse_qs(parts.query).get("symbol", [""])[-1] or parts.path.rstrip("/").rpartition("/")[2]
        for text in (named, named.upper()):
            with contextlib.suppress(InvalidArgument):
                symbol = self._adapter.venue_symbol(text)
                if symbol in self._texts or "symbol=" in parts.query:
                    return symbol
        # one format does not name it, and there is only one
        return next(iter(self._texts)) if len(self._texts) == 1 else None

    def _texts_of(self, symbol: str) -> Texts:
        texts = self._texts.get(symbol)
        if texts is None:
            texts = self._texts[symbol] = Texts()
        return texts

    def survey(self) -> Survey:
        for url, texts in self._answers.items():
            if (symbol := self._symbol_of(url)) is not None:
                self._texts_of(symbol).add(texts)
        instruments = [
            self._instrument(symbol, texts)
            for symbol, texts in self._texts.items()
            if symbol.isprintable() and 0 < len(symbol.encode()) <= MAX_SYMBOL
        ]
        trades = "aggTrade" if self._trades & _SUMMED and not self._trades & _EACH else "trade"
        kinds = self._kinds
        return Survey(self._venue, instruments, trades, self._candles(), self._first_ns, kinds["ws"], kinds["rest"])

    def _instrument(self, symbol: str, texts: Texts) -> Instrument:
        base, quote = self._adapter.surveyed_pair(symbol)
        if not base or len(base.encode()) > MAX_CURRENCY or len(quote.encode()) > MAX_CURRENCY:
            base, quote = split_pair(symbol, self._venue.name)
        price, size = min(texts.price_places, MAX_SCALE), min(texts.size_places, MAX_SCALE)
        return Instrument(
            id=0,
            symbol=symbol,
            venue=self._venue.name,
            price_scale=price,
            size_scale=size,
            quote_scale=quote_scale(price, size, MAX_QUOTE_SCALE),
            base=base or symbol[:MAX_CURRENCY],
            quote=quote or "USD",
            market=self._venue.market_of(symbol),
        )

    def _candles(self) -> tuple[str, ...]:
        """Binance's streams name their timeframes; of other venues, all that the venue has."""
        if self._streams:
            intervals = {interval.decode() for name, interval in self._streams if name == b"kline" and interval}
            return tuple(sorted(intervals & set(_TIMEFRAMES)))
        return tuple(name for name in _TIMEFRAMES if self._has(name))

    def _has(self, timeframe: str) -> bool:
        try:
            self._venue.adapter(candles=(timeframe,))
        except ConfigError:
            return False
        return True
