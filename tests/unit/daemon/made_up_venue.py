"""A venue that does not exist, as docs/adding-a-venue.md says that one is added: this file, and the row at its end.

{"on": "deal", "pair": "BTC-USD", "no": 7, "price": "1.50", "size": "2", "buys": true, "ms": 1700000000000}
{"on": "book", "pair": "BTC-USD", "no": 3, "ms": …, "fresh": false, "bids": [["1.50", "2"]], "asks": []}
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from adapter_samples import Sample, spot
from msgspec import Meta, Raw, Struct, field

from marketd.daemon.feeds.adapter import (
    BookDelta,
    BookRule,
    BookSnapshot,
    Event,
    Fit,
    Ignored,
    Limits,
    Page,
    RestRequest,
    Signs,
    Told,
    Venue,
    VenueRefused,
    as_asked,
)
from marketd.daemon.feeds.adapter_base import AdapterBase, RestRows, pair_of
from marketd.daemon.feeds.levels import decode_pairs
from marketd.daemon.feeds.venue_batch import Batch
from marketd.daemon.feeds.venue_records import answer
from marketd.market.errors import InvalidArgument, RuleViolation
from marketd.market.instruments import Instrument
from marketd.market.times import NS_PER_MS


class _Message(Struct, gc=False):
    on: str
    pair: str = ""
    number: Annotated[int, Meta(ge=0, le=2**63 - 1)] = field(name="no", default=0)
    price: str = ""
    size: str = ""
    buys: bool = False
    ms: Annotated[int, Meta(ge=0, le=2**43)] = 0
    fresh: bool = False
    bids: Raw = Raw(b"[]")
    asks: Raw = Raw(b"[]")


class _Pair(Struct, gc=False):
    pair: str
    price_places: int
    size_places: int


_message = msgspec.json.Decoder(_Message).decode


def _follows(last: int, delta: BookDelta) -> Fit:
    return Fit.NEXT if delta.last == last + 1 else Fit.GAP


class ToyAdapter(AdapterBase):
    venue = "TOY"
    timeframes: tuple[int, ...] = ()

    def __init__(
        self,
        *,
        trades: str = "trade",
        candles: Sequence[str | int] = (),
        book: bool = False,
        series: Sequence[str] = (),
    ) -> None:
        super().__init__(book=book, series=series)
        self.book_rule = BookRule("stream", splice=_follows, follows=_follows) if book else None

    def venue_symbol(self, symbol: str) -> str:
        base, quote, settle, _ = pair_of(symbol, self.venue, "BTC/USD")
        if settle or re.fullmatch(r"[A-Z0-9]{5,20}", base + quote) is None:
            raise InvalidArgument(f"symbols: {symbol!r} is no pair of {self.venue}", field="symbols")
        return base + quote

    def wire_name(self, instrument: Instrument) -> str:
        return f"{instrument.base}-{instrument.quote}"

    def streams(self, symbol: str) -> list[str]:
        return [f"deal {self._wire(symbol)}", *self.book_streams(symbol)]

    def book_streams(self, symbol: str) -> list[str]:
        return [f"book {self._wire(symbol)}"] if self._book else []

    def connect_url(self, base: str, streams: Sequence[str]) -> tuple[str, list[str]]:
        return base, list(streams)

    def commands(self, verb: str, streams: Sequence[str], first_id: int) -> list[str]:
        return [json.dumps({"do": verb.lower(), "what": stream}) for stream in streams]

    def _read(self, batch: Batch, frame: bytes) -> None:
        message = _message(frame)
        if message.on not in ("deal", "book"):
            batch.ignore_unknown(message.on)
            return
        symbol, ts_ns = self._symbol(batch, message.pair), message.ms * NS_PER_MS
        if symbol is None:
            return
        if message.on == "deal":
            side = 1 if message.buys else -1
            try:
                batch.trade(symbol, self._trade(symbol, ts_ns, message.number, message.price, message.size, side))
            except RuleViolation as violation:
                batch.reject(symbol, violation.rule, violation, frame, message.number)
        elif not self._book:
            batch.ignore("book")
        elif levels := self._pairs(batch, symbol, message.bids, message.asks, frame):
            number = message.number
            batch.books.append(
                BookSnapshot(symbol, number, ts_ns, *levels)
                if message.fresh
                else BookDelta(symbol, number, number, None, ts_ns, *levels)
            )

    def _texts(self, frame: bytes) -> list[tuple[str, str, str]]:
        message = _message(frame)
        levels = [(message.price, message.size)] if message.on == "deal" else []
        levels += decode_pairs(message.bids) + decode_pairs(message.asks)
        return [(message.pair.replace("-", ""), price, size) for price, size in levels]

    def surveyed_pair(self, symbol: str) -> tuple[str, str]:
        return symbol[:3], symbol[3:]

    def instruments_request(self, symbols: Sequence[str]) -> RestRequest:
        return RestRequest("/pairs", 1)

    def decode_instruments(self, body: bytes, symbols: Sequence[str]) -> list[Instrument]:
        found = {}
        for pair in answer(body, list[_Pair], "pairs"):
            base, _, quote = pair.pair.partition("-")
            found[base + quote] = spot(self.venue, base, quote, pair.price_places, pair.size_places)
        return as_asked(self.venue, found, symbols)

    def trades_request(self, symbol: str, first_id: int) -> RestRequest | None:
        return RestRequest(f"/deals/{self._wire(symbol)}", 1)

    def decode_trades(self, symbol: str, body: bytes) -> Page:
        rows = RestRows(symbol)
        found = answer(body, list[Raw], "deals")
        for raw in found:
            rows.take(raw, lambda raw: self._rest_trade(symbol, raw))
        return Page(rows.trades(), rows.rejected, len(found), at_present=True)

    def _rest_trade(self, symbol: str, raw: Raw) -> bytes:
        deal = _message(raw)
        side = 1 if deal.buys else -1
        return self._trade(symbol, deal.ms * NS_PER_MS, deal.number, deal.price, deal.size, side)

    def bars_request(self, symbol: str, timeframe: int, start_ns: int) -> RestRequest | None:
        return None

    def decode_bars(self, symbol: str, timeframe: int, body: bytes, now_ns: int) -> Page:
        raise VenueRefused("TOY has no bars")

    def decode_rest(self, url: str, body: bytes) -> list[Event]:
        return [Ignored("REST answer")]


def _pairs_of(instruments: Sequence[Instrument], now_ns: int) -> Any:
    return [
        {"pair": f"{each.base}-{each.quote}", "price_places": each.price_scale, "size_places": each.size_scale}
        for each in instruments
    ]


ROW = Venue(
    name="TOY",
    adapter=ToyAdapter,
    ws_url="wss://stream.toy.example",
    rest_url="https://api.toy.example",
    limits=Limits(100, 5.0, 20.0, 24 * 3600.0, 60, 100),
    headers={},
    signs=Signs(
        addresses=((r"(stream|api)\.toy\.example/", Told("TOY")),),
        messages=((rb'"on":"(?:deal|book)","pair":', Told("TOY")),),
    ),
    answers={"/pairs": _pairs_of},
)


def _frame(on: str, **fields: Any) -> bytes:
    return json.dumps({"on": on, "pair": "BTC-USD", "ms": 1_700_000_000_000, **fields}).encode()


SAMPLE = Sample(
    (spot("TOY", "BTC", "USD"), spot("TOY", "ETH", "EUR")),
    ("BTC-USD", "ETH-EUR"),
    ("BTC/USD", "btc/usd", "BTC/USD.TOY"),
    (
        ("Trades", _frame("deal", no=7, price="1.50", size="2", buys=True)),
        ("BookSnapshot", _frame("book", no=3, fresh=True, bids=[["1.50", "2"]], asks=[["1.60", "1"]])),
        ("BookDelta", _frame("book", no=4, bids=[["1.50", "0"]], asks=[])),
        ("Ignored", _frame("hello")),
    ),
)
