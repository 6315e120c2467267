"""What a feed brings of an instrument, by kind, and which of the venue's streams carry it.

An adapter tells its streams as texts, the trades' and the book's by call. Which carry a declared series is seen by
asking an adapter of the same venue for that series alone; what is left carries the venue's bars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from marketd.daemon.feeds.adapter import VenueAdapter
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME, Kind

BUILT_IN = ("trade", "candle", "book")


class StreamKinds:
    """`adapter` is the feed's own; `make` makes another one of its venue (`Venue.adapter`)."""

    def __init__(
        self, adapter: VenueAdapter, make: Callable[..., VenueAdapter], *, trades: str, series: Iterable[Kind]
    ) -> None:
        self._adapter = adapter
        kinds = list(series)
        self.numbers = {**{name: BY_NAME[name].id for name in BUILT_IN}, **{kind.name: kind.id for kind in kinds}}
        self._alone = {kind.name: make(trades=trades, candles=(), book=False, series=(kind.name,)) for kind in kinds}

    def of(self, instrument: Instrument) -> dict[str, frozenset[str]]:
        """The streams of each kind; none of one that is asked for over REST. The feed's adapter has adopted it."""
        symbol = instrument.symbol
        streams, book = self._adapter.streams(symbol), self._adapter.book_streams(symbol)
        found = {"trade": frozenset(streams[:1])}
        if book:
            found["book"] = frozenset(book)
        for name, adapter in self._alone.items():
            adapter.adopt(instrument)
            carrying, is_polled = frozenset(adapter.streams(symbol)[1:]), bool(adapter.polls(symbol))
            adapter.forget(symbol)
            if carrying or is_polled:
                found[name] = carrying
        # one that is left where no bars are subscribed is a heartbeat
        bars = set(streams).difference(*found.values()) if self._adapter.timeframes else set()
        return {**found, "candle": frozenset(bars)} if bars else found
