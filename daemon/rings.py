"""Which rings an instrument's arena has, how they are called, and how many records they hold. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from marketd.daemon.settings import Book, Cache
from marketd.ipc.arena import RingSpec
from marketd.market.instruments import CONSOLIDATED_VENUE, Instrument
from marketd.market.records import BY_NAME, KindTable, Source
from marketd.market.times import timeframe_name

SOURCES = {Source.OWN: "own", Source.VENUE: "venue"}  # of the bars that have rings
BUCKET_TIMEFRAMES = (1, 60)  # seconds
COVERAGE_CAPACITY = 1_024
ACTIVITY_CAPACITY = 1_000  # of each spec
SERIES_PER_SECOND = 10  # a declared series: funding, mark prices … at most about this


def candle_ring(timeframe: int, source: str) -> str:
    return f"candle.{timeframe_name(timeframe)}.{source}"


def bucket_ring(timeframe: int) -> str:
    return f"buckets.{timeframe_name(timeframe)}"


class RingPlan(NamedTuple):
    """What the rings of a daemon's arenas follow from."""

    kinds: KindTable
    timeframes: Sequence[int]
    cache: Cache
    book: Book

    def rings_for(self, instrument: Instrument, activity_specs: int = 0) -> list[RingSpec]:
        """A consolidated book has no trades of its own, a stream that belongs to no instrument no market.

        `activity_specs`: how many kinds of bars by activity the instrument has; they share one ring.
        """
        if instrument.venue == CONSOLIDATED_VENUE:
            return [self._books("book"), self._books("book_venues"), self._imbalances(), self._coverage()]
        if instrument.market == "global":
            return [self._coverage(), *self._series()]
        activity = [self._spec("activity_bar", activity_specs * ACTIVITY_CAPACITY)] if activity_specs else []
        return [*self._trades(), *activity, self._coverage(), *self._all_books(), *self._series()]

    def _spec(self, kind_name: str, capacity: int, ring: str | None = None) -> RingSpec:
        kind = self.kinds.by_name(kind_name)
        return RingSpec(ring or kind.name, kind.id, kind.dtype, capacity)

    def _trades(self) -> list[RingSpec]:
        bars = [
            self._spec("candle", self.cache.bars_of(frame), candle_ring(frame, source))
            for source in SOURCES.values()
            for frame in self.timeframes
        ]
        return [self._spec("trade", self.cache.trades), *bars]

    def _all_books(self) -> list[RingSpec]:
        second, minute = BUCKET_TIMEFRAMES
        return [
            self._books("book"),
            self._imbalances(),
            self._spec("buckets", self.cache.seconds, bucket_ring(second)),
            self._spec("buckets", self.cache.bars_of(minute), bucket_ring(minute)),
        ]

    def _imbalances(self) -> RingSpec:
        """On the grid of the bars of a second, beside which a model reads them."""
        return self._spec("imbalance", self.cache.bars_of(BUCKET_TIMEFRAMES[0]))

    def _books(self, kind_name: str) -> RingSpec:
        return self._spec(kind_name, self.cache.books(self.book.interval))

    def _coverage(self) -> RingSpec:
        return self._spec(BY_NAME["coverage"].name, COVERAGE_CAPACITY)

    def _series(self) -> list[RingSpec]:
        capacity = max(1, round(self.cache.window.seconds * SERIES_PER_SECOND))
        return [self._spec(kind.name, capacity) for kind in self.kinds.series]
