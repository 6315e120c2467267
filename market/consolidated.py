"""The consolidated book of one symbol: the best levels of all venues that carry it, merged. Pure.

Made of the venues' BOOK records. Each level keeps its venue, so one price may come several times, and the book may be
crossed or locked: that two venues disagree is what it is looked at for. Prices and sizes are brought to common scales,
the finest of the venues'.

A venue is in the book while its newest record is LIVE and it was heard of (`take`, `heard`) within `stale_after_ns`,
both told and asked in the time of `ts_known`, which one clock gives for all venues. It falls out otherwise, and returns
with its next LIVE record.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from marketd.market.book import Levels
from marketd.market.book_records import levels_of
from marketd.market.errors import InvalidArgument
from marketd.market.fixed import MAX_FIXED
from marketd.market.instruments import Instrument
from marketd.market.layouts import BOOK_DEPTH, BookState
from marketd.market.records import Records
from marketd.market.times import NS_PER_SECOND

STALE_AFTER_NS = 10 * NS_PER_SECOND  # a feed tells a quiet instrument's time every second (TICK)


class ConsolidatedLevel(NamedTuple):
    """What rests at a price on one venue, at the consolidated scales."""

    price: int
    size: int
    instrument: int  # id of the venue's instrument


class Consolidated(NamedTuple):
    """The merged book. At one price the larger size comes first, then the smaller instrument id."""

    bids: list[ConsolidatedLevel]
    asks: list[ConsolidatedLevel]
    live: tuple[int, ...]  # the instruments that are in it, ascending
    ts_event: int  # the newest event time of their books; 0 when there is none

    @property
    def is_crossed(self) -> bool:
        """The best bid of one venue is not below the best ask of another."""
        return bool(self.bids and self.asks and self.bids[0].price >= self.asks[0].price)


# A level as what it is sorted by: price (of a bid: its negative), negative size, instrument. Each venue's levels are
# in this order already, which a sort of all of them makes use of.
_Key = tuple[int, int, int]


class _VenueBook:
    """What one venue showed last."""

    def __init__(self, instrument: Instrument, price_factor: int, size_factor: int) -> None:
        self.instrument = instrument
        self._factors = price_factor, size_factor
        self.state = BookState.EMPTY
        self.heard_ns = 0
        self.ts_event = 0
        self.bids: list[_Key] = []
        self.asks: list[_Key] = []

    def take(self, record: Records) -> None:
        row = record.reshape(-1)[0]
        self.state, self.ts_event = BookState(int(row["state"])), int(row["ts_event"])
        if self.state is not BookState.LIVE:
            self.bids, self.asks = [], []
            return
        bids, asks = levels_of(record)
        self.bids = self._keys(bids, -1)
        self.asks = self._keys(asks, 1)

    def _keys(self, levels: Levels, sign: int) -> list[_Key]:
        price_factor, size_factor = self._factors
        number = self.instrument.id
        rows = zip(levels.prices, levels.sizes, strict=True)
        scaled = ((price * price_factor, size * size_factor) for price, size in rows)
        return [(sign * p, -s, number) for p, s in scaled if s and p <= MAX_FIXED and s <= MAX_FIXED]


class ConsolidatedBook:
    """One symbol. Tell it the BOOK records of each venue; `top` is the merged book."""

    def __init__(
        self,
        instruments: Iterable[Instrument],
        *,
        depth: int = BOOK_DEPTH,
        stale_after_ns: int = STALE_AFTER_NS,
    ) -> None:
        found = list(instruments)
        if not found:
            raise InvalidArgument("a consolidated book of no instruments", field="instruments")
        self.price_scale = max(instrument.price_scale for instrument in found)
        self.size_scale = max(instrument.size_scale for instrument in found)
        self._depth = depth
        self._stale_after_ns = stale_after_ns
        self._venues: dict[int, _VenueBook] = {}
        for instrument in found:
            self.add(instrument)

    def add(self, instrument: Instrument) -> None:
        """One more venue. InvalidArgument when its scales are finer: the consolidated ones are fixed from the start."""
        places = self.price_scale - instrument.price_scale, self.size_scale - instrument.size_scale
        if min(places) < 0:
            raise InvalidArgument(
                f"{instrument.name} has {instrument.price_scale} and {instrument.size_scale} decimal places, the "
                f"consolidated book {self.price_scale} and {self.size_scale}: make a new one",
                field="instruments",
            )
        self._venues[instrument.id] = _VenueBook(instrument, 10 ** places[0], 10 ** places[1])

    def remove(self, instrument: int) -> None:
        """The venue does not carry the symbol any more."""
        self._venues.pop(instrument, None)

    def take(self, instrument: int, records: Records, ts_known: int) -> None:
        """BOOK records of one venue's instrument, in their order; the last one counts."""
        venue = self._venues[instrument]
        venue.heard_ns = max(venue.heard_ns, ts_known)
        if len(records):
            venue.take(records[-1:])

    def heard(self, instrument: int, ts_known: int) -> None:
        """The instrument lives: a trade or the venue's time came."""
        venue = self._venues[instrument]
        venue.heard_ns = max(venue.heard_ns, ts_known)

    def top(self, now_ns: int) -> Consolidated:
        """The merged book as it is known at `now_ns`, at most `depth` levels a side."""
        live = [venue for venue in self._venues.values() if self._is_live(venue, now_ns)]
        bids = sorted(key for venue in live for key in venue.bids)[: self._depth]
        asks = sorted(key for venue in live for key in venue.asks)[: self._depth]
        return Consolidated(
            [ConsolidatedLevel(-price, -size, number) for price, size, number in bids],
            [ConsolidatedLevel(price, -size, number) for price, size, number in asks],
            tuple(sorted(venue.instrument.id for venue in live)),
            max((venue.ts_event for venue in live), default=0),
        )

    def _is_live(self, venue: _VenueBook, now_ns: int) -> bool:
        return venue.state is BookState.LIVE and now_ns - venue.heard_ns <= self._stale_after_ns
