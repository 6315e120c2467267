"""Recorded books through an adapter's decoder and a `BookKeeper`, and an oracle that knows every state of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from marketd.daemon.feeds.adapter import BookDelta, BookSnapshot, Event, Rejected, VenueAdapter, VenueTime
from marketd.daemon.feeds.binance_messages import BookTicker, Envelope
from marketd.daemon.feeds.books import BookKeeper
from marketd.daemon.feeds.captures import CaptureLine, CaptureReader
from marketd.daemon.feeds.feed_model import BookSettings
from marketd.daemon.feeds.survey import survey
from marketd.daemon.feeds.symbol_state import Part
from marketd.daemon.feeds.venues import VENUES
from marketd.market import book
from marketd.market.instruments import Instrument
from marketd.market.records import BookState

Levels = dict[int, int]

_envelope = msgspec.json.Decoder(Envelope).decode
_ticker = msgspec.json.Decoder(BookTicker).decode


class Replay:
    """One instrument's recorded book, brought up with everything that came in its order."""

    def __init__(self, venue: str, files: Sequence[Path], settings: BookSettings | None = None) -> None:
        (self.instrument,) = survey(files, venue).instruments
        self.adapter: VenueAdapter = VENUES[venue].adapter(book=True)
        self.adapter.adopt(self.instrument)
        self.keeper = keeper_of(self.adapter, self.instrument, settings)
        self.keeper.subscribed()
        self.parts: list[Part] = []

    def take(self, line: CaptureLine) -> None:
        self.tell(events_of(self.adapter, line))

    def tell(self, events: Iterable[Event]) -> None:
        tell(self.keeper, events, self.parts)


def keeper_of(adapter: VenueAdapter, instrument: Instrument, settings: BookSettings | None = None) -> BookKeeper:
    assert adapter.book_rule is not None
    return BookKeeper(adapter.book_rule, instrument, settings or BookSettings())


def events_of(adapter: VenueAdapter, line: CaptureLine) -> list[Event]:
    return adapter.decode_rest(line.url, line.payload) if line.kind == "rest" else adapter.decode_many([line.payload])


def tell(keeper: BookKeeper, events: Iterable[Event], parts: list[Part]) -> None:
    """As a feed does it."""
    for event in events:
        if isinstance(event, (BookSnapshot, BookDelta)):
            parts += keeper.take(event)
        elif isinstance(event, Rejected) and event.book:
            parts += keeper.damaged()
        elif isinstance(event, VenueTime):
            parts += keeper.time(event.ts_ns)


class Best(NamedTuple):
    """What a bookTicker says, as texts."""

    bid: str
    bid_size: str
    ask: str
    ask_size: str


def tickers(files: Iterable[Path]) -> dict[int, Best]:
    """The best prices by the number of the update after which they stood."""
    found: dict[int, Best] = {}
    for file in files:
        for line in CaptureReader(file):
            if b"@bookTicker" in line.payload[:60]:
                told = _ticker(_envelope(line.payload).data)
                found[told.update_id] = Best(told.bid, told.bid_size, told.ask, told.ask_size)
    return found


class State(NamedTuple):
    """The whole book after a message, and the message's last number."""

    sequence: int
    bids: Levels
    asks: Levels


def states(snapshot: BookSnapshot, deltas: Sequence[BookDelta]) -> list[State]:
    """The book after each delta, naively: `deltas` are all that came, the old ones too.

    A futures delta that ends where the snapshot stands counts, as the venue says: it tells levels that are deeper than
    the snapshot.
    """
    bids, asks = _applied({}, snapshot.bids), _applied({}, snapshot.asks)
    found = [State(snapshot.sequence, bids, asks)]
    for delta in deltas:
        if delta.last < snapshot.sequence or (delta.previous is None and delta.last == snapshot.sequence):
            continue
        bids, asks = _applied(bids, delta.bids), _applied(asks, delta.asks)
        found.append(State(delta.last, bids, asks))
    return found


def _applied(side: Levels, levels: book.Levels) -> Levels:
    after = side | dict(zip(levels.prices, levels.sizes, strict=True))
    return {price: size for price, size in after.items() if size}


def is_right(keeper: BookKeeper, known: dict[int, State]) -> bool:
    """The book is not LIVE, or it is what the venue had at its number."""
    sync = keeper.sync
    if sync.state is not BookState.LIVE:
        return True
    state = known[sync.sequence]
    return sync.book.bids == state.bids and sync.book.asks == state.asks
