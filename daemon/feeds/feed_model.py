"""What a feed takes and tells: its sink, its settings, its statistics, and the clock of a connection."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

from marketd.daemon.feeds.connection import ConnectionStatistics, Timing
from marketd.daemon.feeds.repair import RepairSettings
from marketd.daemon.feeds.rest import RestStatistics
from marketd.daemon.feeds.symbol_state import Part
from marketd.daemon.settings import Book
from marketd.ipc.protocol import Resume
from marketd.market.instruments import Instrument
from marketd.market.records import Kind
from marketd.market.times import NS_PER_MS, NS_PER_SECOND

AHEAD_NS = 10 * NS_PER_SECOND  # a venue time so far after this machine's is no time


class Sink(Protocol):
    """Takes what a feed brings. Both calls wait (back-pressure) and raise when they cannot be served at all."""

    async def declare(self, instruments: list[Instrument]) -> list[tuple[Instrument, Resume]]:
        """The instruments with their ids, and what is already there of each, in the same order."""

    async def recall(self, names: list[str]) -> list[tuple[Instrument, Resume]]:
        """The same of those of these names that are known from before."""

    async def send(self, instrument: Instrument, parts: list[Part], observed: bool = True) -> None:
        """One batch of one instrument; order of calls is order of records."""


class BookSettings(NamedTuple):
    """How the books of a feed are told; `[book]` of the configuration."""

    depth: int = 20  # levels a side of a record
    interval_ns: int = 100 * NS_PER_MS
    jump_bps: float = 1.0  # a move of a best price that is told at once
    band_bps: float = 10.0
    deltas: bool = False
    buckets: Mapping[str, str] = MappingProxyType({})  # width of a price bucket by instrument's name


def book_settings(book: Book) -> BookSettings:
    """From the configuration."""
    return BookSettings(
        depth=book.depth,
        interval_ns=book.interval,
        jump_bps=book.jump_bps,
        band_bps=book.band_bps,
        deltas=book.deltas,
        buckets=book.buckets,
    )


class FeedSettings(NamedTuple):
    trades: str = "trade"  # or "aggTrade"
    candles: tuple[str | int, ...] = ("1m",)
    book: bool = False
    books: BookSettings = BookSettings()
    series: tuple[Kind, ...] = ()  # the declared series of the configuration
    ws_url: str = ""  # "": the venue's own
    rest_url: str = ""
    weight_per_minute: int = 0  # 0: the venue's
    api_key: str = ""
    timing: Timing | None = None  # None: as the venue's limits demand
    repair: RepairSettings = RepairSettings()


class FeedStatistics(NamedTuple):
    venue: str
    symbols: int
    messages: int
    trades: int
    candles: int
    ticks: int
    duplicates: int
    held: int
    repairing: int
    filled: int
    gaps: int
    lost: int
    books: int
    imbalances: int
    buckets: int
    book_deltas: int
    books_live: int  # books that are in step
    resyncs: int  # snapshots that were asked for
    refreshes: int  # … of books that were LIVE all the time, because they were near what they knew
    resyncs_failed: int  # of both
    polls_failed: int
    book_events: dict[str, int]  # what befell the books, by word
    rejected: dict[str, int]  # by rule
    ignored: dict[str, int]  # by name
    venue_errors: int
    unknown_symbols: dict[str, str]  # symbols that the venue does not have, and what it says
    refused: dict[str, str]  # symbols whose subscription the venue refuses, and what it says
    silent: dict[str, str]  # symbols of which streams do not come that the venue has taken, and which
    silent_symbols: int
    away: list[str]  # connections that the venue does not take, for how long, and what is said
    refused_settings: list[str]  # of the configuration, which an instrument does not allow
    lag_ns: int  # receipt after the venue's time, of the newest message; below 0 when the clocks differ
    connections: list[ConnectionStatistics]
    rest: RestStatistics


class VenueClock:
    """The newest venue time that came over one connection."""

    def __init__(self) -> None:
        self.ts_ns = 0
        self.at = 0.0  # monotonic s of its receipt
        self.swept_ns = 0  # quiet symbols were last looked for at this venue time

    def see(self, ts_ns: int, now: float) -> None:
        if self.ts_ns < ts_ns <= time.time_ns() + AHEAD_NS:
            self.ts_ns, self.at = ts_ns, now

    def now_ns(self, now: float) -> int:
        return self.ts_ns + int((now - self.at) * NS_PER_SECOND)
