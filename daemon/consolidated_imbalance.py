"""The imbalance of a consolidated book, each second: of the merged best levels, and of the trades on all its venues.

The figures are those of every IMBALANCE record, by the same kernel; sizes at one price are added over the venues. What
rests in the band is what the venues' best levels tell of it. The book may be crossed: then the spread is negative.

Time is the newest event time that was heard of any venue of the pair. Pure; after a restart the windows begin anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from marketd.daemon.left_books import stale_imbalance
from marketd.market.book import Levels, OrderBook
from marketd.market.consolidated import Consolidated, ConsolidatedLevel
from marketd.market.fixed import MAX_FIXED
from marketd.market.imbalance import ImbalanceKernel
from marketd.market.layouts import BookState, Coverage
from marketd.market.records import BY_NAME, Kind, Records
from marketd.market.seconds import MAX_LEAP_NS
from marketd.market.times import ABSENT

_TRADE, _COVERAGE = BY_NAME["trade"], BY_NAME["coverage"]
_TIMED = frozenset(BY_NAME[name].id for name in ("trade", "tick", "book"))  # what tells a venue's time


class MergedImbalance:
    """One pair. Tell it every lot of its venues, and each state of the merged book; `advance` answers."""

    def __init__(self, band_bps: float) -> None:
        self._kernel = ImbalanceKernel(band_bps)
        self._book = OrderBook()
        self._now = ABSENT

    @property
    def now(self) -> int:
        """The newest event time of its venues."""
        return self._now

    def follow(self, rows: Iterable[tuple[Kind, Records]], size_factor: int) -> None:
        """A venue's lot; its sizes times `size_factor` are at the consolidated scale."""
        for kind, records in rows:
            if kind.id in _TIMED and len(records):
                self._hear(int(records["ts_event"].max()))
            if kind.id == _TRADE.id:
                self._kernel.trades(_scaled(records, size_factor))
            elif kind.id == _COVERAGE.id:
                self._follow_coverage(records)

    def _hear(self, ts_ns: int) -> None:
        # a venue far behind the others, or far ahead of them, begins anew, as the kernel itself does
        if ts_ns > self._now or self._now - ts_ns > MAX_LEAP_NS:
            self._now = ts_ns

    def _follow_coverage(self, events: Records) -> None:
        for event in events:
            is_loss = event["state"] in (Coverage.GAP, Coverage.VENUE_DOWN)
            if is_loss and event["ts_end"] != ABSENT and event["stream"] in (0, _TRADE.id):
                self._kernel.trades_lost(int(event["ts_end"]))

    def book(self, top: Consolidated) -> None:
        """The merged book is like this from now on."""
        if self._now == ABSENT:
            return
        if not top.live:
            self._kernel.leave(self._now, BookState.STALE)
            return
        self._book.reset(_by_price(top.bids), _by_price(top.asks))
        self._kernel.book(self._now, self._book)

    def left(self) -> Records:
        """What is told at once when the last venue has fallen out: time may not go on, if all feeds are gone."""
        return stale_imbalance(self._now)

    def advance(self) -> Records:
        """IMBALANCE records of the seconds that have ended."""
        return self._kernel.advance(self._now)


def _scaled(trades: Records, factor: int) -> Records:
    if factor == 1:
        return trades
    scaled = trades[trades["size"] <= MAX_FIXED // factor].copy()
    scaled["size"] *= factor
    return scaled


def _by_price(levels: Sequence[ConsolidatedLevel]) -> Levels:
    sizes: defaultdict[int, int] = defaultdict(int)
    for level in levels:
        sizes[level.price] = min(sizes[level.price] + level.size, MAX_FIXED)
    return Levels(list(sizes), list(sizes.values()))
