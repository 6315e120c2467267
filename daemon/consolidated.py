"""The consolidated book `SYMBOL.COB`: ingest's own instrument, made of the books of all spot venues of one pair.

Ingest tells every lot of a venue's instrument; what comes back is a BOOK record and beside it a BOOK_VENUES record
that says whose each level is. At most every `interval_ns` of `ts_known`, and at once when a venue falls out or returns,
or a best price jumps; and every second an IMBALANCE record (`consolidated_imbalance`). There is one only where two
venues at least carry the pair; perpetuals and futures have none, because their sizes are contracts of different worth.

The ledger has it as OBSERVED while one venue at least is in it, and as a GAP, first without an end, while none is.

Pure: no clock, no journal. After a restart the venues' newest books are told again (`seed`), and what was said of the
consolidated one (`resume`); `look` finds one that no venue is in any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from marketd.daemon.consolidated_imbalance import MergedImbalance
from marketd.daemon.kernel import coverage_record
from marketd.daemon.settings import Book
from marketd.market.book import BestLevels
from marketd.market.book_records import BookPacker
from marketd.market.consolidated import Consolidated, ConsolidatedBook, ConsolidatedLevel
from marketd.market.instruments import CONSOLIDATED_VENUE, Instrument
from marketd.market.records import (
    BOOK_DEPTH,
    BY_NAME,
    BookFlag,
    BookState,
    Coverage,
    Kind,
    KindTable,
    Records,
    empty,
)
from marketd.market.times import ABSENT

_BOOK_ID, _VENUES_KIND = BY_NAME["book"].id, BY_NAME["book_venues"]
_IMBALANCE_KIND, _COVERAGE_KIND = BY_NAME["imbalance"], BY_NAME["coverage"]
_NO_VENUE = "no venue's book is live"
_Pair = tuple[str, str]  # base and quote


class Merged(NamedTuple):
    """What ingest is to journal and show for the consolidated instrument; its id is still to be assigned."""

    instrument: Instrument
    parts: list[tuple[Kind, Records]]


def pair_of(instrument: Instrument) -> _Pair | None:
    """The pair whose consolidated book an instrument belongs to."""
    i = instrument
    is_one = i.market == "spot" and i.venue != CONSOLIDATED_VENUE and bool(i.base) and bool(i.quote)
    return (i.base, i.quote) if is_one else None


class _Group:
    """The venues of one pair, their merged book, and what was told of it last."""

    def __init__(self, members: Sequence[Instrument], own: Instrument | None, band_bps: float) -> None:
        self.members = {member.id: member for member in members}
        # the scales of an instrument that is there already are kept, though the venue that asked for them is gone
        scaled = list(members) if own is None else [*members, own]
        self.book = ConsolidatedBook(scaled, depth=BOOK_DEPTH)
        self.size_factors = {m.id: 10 ** (self.book.size_scale - m.size_scale) for m in members}
        self.imbalance = MergedImbalance(band_bps)
        self.told_ns = 0
        self.live: tuple[int, ...] = ()
        # what the ledger says: None until the book was live once, then since when it is not, ABSENT while it is
        self.lost_ns: int | None = None
        self.newest_ns = ABSENT  # event time that was told
        self._newest: dict[int, tuple[Records, int]] = {}  # of each member its last book, and when it was known
        self.best = (0, 0)
        self.changed = False
        first = members[0]
        self.instrument = Instrument(
            id=0,
            symbol=f"{first.base}{first.quote}",
            venue=CONSOLIDATED_VENUE,
            price_scale=self.book.price_scale,
            size_scale=self.book.size_scale,
            quote_scale=max(member.quote_scale for member in scaled),
            base=first.base,
            quote=first.quote,
            tick_size=_finest(scaled, "price_scale", "tick_size"),
            step_size=_finest(scaled, "size_scale", "step_size"),
        )

    def take(self, instrument: int, books: Records, ts_known: int) -> None:
        self.book.take(instrument, books, ts_known)
        self._newest[instrument] = books, ts_known

    def go_on_from(self, before: _Group) -> None:
        """The books of the venues that stay; and what the ledger says, unless it is another instrument's now."""
        for number, (books, ts_known) in before._newest.items():
            if number in self.members:
                self.take(number, books, ts_known)
        if self.instrument == before.instrument:
            self.lost_ns, self.newest_ns = before.lost_ns, before.newest_ns


def _finest(members: Iterable[Instrument], scale: str, size: str) -> int:
    """The smallest tick or step of all, at the finest scale."""
    finest = max(getattr(member, scale) for member in members)
    sizes: list[int] = [getattr(member, size) * 10 ** (finest - getattr(member, scale)) for member in members]
    return min(sizes)


class Consolidator:
    """All consolidated books of a daemon."""

    def __init__(self, kinds: KindTable, settings: Book) -> None:
        self._kind = kinds.by_name("book")
        self._packer = BookPacker(self._kind.dtype["bid_price"].shape[0])
        self._depth = min(self._kind.dtype["bid_price"].shape[0], BOOK_DEPTH)  # each level keeps its venue
        self._interval_ns = settings.interval
        self._jump = settings.jump
        self._band_bps = settings.band_bps
        self._known: dict[_Pair, dict[str, Instrument]] = {}  # by name: a finer id of an instrument replaces it
        self._own: dict[_Pair, Instrument] = {}
        self._groups: dict[_Pair, _Group] = {}

    def declare(self, instrument: Instrument) -> None:
        """A venue carries the pair. Finer scales than before make another instrument of the consolidated book.

        The consolidated instrument itself is told too, once it has an id: its scales are not gone below.
        """
        if instrument.venue == CONSOLIDATED_VENUE:
            self._own[instrument.base, instrument.quote] = instrument
            return
        pair = pair_of(instrument)
        if pair is None:
            return
        known = self._known.setdefault(pair, {})
        if known.get(instrument.name) != instrument:
            known[instrument.name] = instrument
            self._regroup(pair)

    def _regroup(self, pair: _Pair) -> None:
        members = list(self._known[pair].values())
        before = self._groups.pop(pair, None)
        if len(members) > 1:
            group = self._groups[pair] = _Group(members, self._own.get(pair), self._band_bps)
            if before is not None:
                group.go_on_from(before)

    def seed(self, instrument: Instrument, books: Records, ts_known: int) -> None:
        """The newest book of a venue, as shared memory has it after a restart."""
        group = self._group_of(instrument)
        if group is not None and len(books):
            group.take(instrument.id, books, ts_known)

    def resume(self, own: Instrument, *, observed: bool, newest_ns: int) -> None:
        """What was told of a consolidated book before this process: it was live, or not, at its newest event time."""
        group = self._groups.get((own.base, own.quote))
        if group is not None:
            group.newest_ns = newest_ns
            group.lost_ns = ABSENT if observed else newest_ns

    def look(self, ts_known: int) -> list[Merged]:
        """Of each book that was live and that no venue is in any more: its feeds may be gone without a word."""
        lost = [group for group in self._groups.values() if group.lost_ns == ABSENT]
        merged = [Merged(group.instrument, self._lost(group, ts_known)) for group in lost]
        return [each for each in merged if each.parts]

    def _lost(self, group: _Group, ts_known: int) -> list[tuple[Kind, Records]]:
        top = group.book.top(ts_known)
        if top.live:
            return []
        group.imbalance.book(top)
        return self._told(group, top, ts_known, BookFlag.STATE)

    def follow(
        self, instrument: Instrument, rows: Iterable[tuple[Kind, Records]], ts_known: int, *, has_room: bool = True
    ) -> Merged | None:
        """A lot of a venue's instrument; what follows from it for the consolidated book, when something is due.

        Without room it is only taken in: the next one is made of all that the venues showed meanwhile.
        """
        group = self._group_of(instrument)
        if group is None:
            return None
        rows = list(rows)
        group.imbalance.follow(rows, group.size_factors[instrument.id])
        books = [records for kind, records in rows if kind.id == _BOOK_ID]
        for records in books:
            group.take(instrument.id, records, ts_known)
        group.changed |= bool(books)
        if not books:
            group.book.heard(instrument.id, ts_known)
        # without news of a book: from time to time, to look for one that fell silent
        looks = bool(books) or ts_known - group.told_ns >= self._interval_ns
        parts = self._due(group, ts_known) if looks and has_room else []
        if len(seconds := group.imbalance.advance()) and has_room:
            parts.append((_IMBALANCE_KIND, seconds))
        return Merged(group.instrument, parts) if parts else None

    def _group_of(self, instrument: Instrument) -> _Group | None:
        pair = pair_of(instrument)
        group = None if pair is None else self._groups.get(pair)
        return group if group is not None and instrument.id in group.members else None

    def _due(self, group: _Group, ts_known: int) -> list[tuple[Kind, Records]]:
        top = group.book.top(ts_known)
        group.imbalance.book(top)
        other_venues = top.live != group.live
        waited = ts_known - group.told_ns >= self._interval_ns
        jumped = self._jumped(group, top)
        if not other_venues and not (group.changed and (waited or jumped)):
            return []
        return self._told(group, top, ts_known, BookFlag.STATE if other_venues else BookFlag.JUMP if jumped else 0)

    def _told(self, group: _Group, top: Consolidated, ts_known: int, flags: int) -> list[tuple[Kind, Records]]:
        is_left = bool(flags & BookFlag.STATE) and not top.live
        group.told_ns, group.live, group.best, group.changed = ts_known, top.live, _best(top), False
        parts = self._parts(top, ts_known, flags)
        if is_left:
            parts.append((_IMBALANCE_KIND, group.imbalance.left()))
        if len(events := _ledger(group, top, ts_known)):
            parts.append((_COVERAGE_KIND, events))
        return parts

    def _jumped(self, group: _Group, top: Consolidated) -> bool:
        return any(abs(new - old) > self._jump * old for new, old in zip(_best(top), group.best, strict=True))

    def _parts(self, top: Consolidated, ts_known: int, flags: int) -> list[tuple[Kind, Records]]:
        bids, asks = top.bids[: self._depth], top.asks[: self._depth]
        levels = BestLevels(*_columns(bids), *_columns(asks))
        state = BookState.LIVE if top.live else BookState.STALE
        ts_event = top.ts_event or ts_known
        book = self._packer.records([self._packer.pack(ts_event, 0, state, levels, flags)])
        venues = empty(_VENUES_KIND, 1)
        venues["ts_event"], venues["ts_known"], venues["seq"] = ts_event, 0, 0
        venues["bid_venue"][0, : len(bids)] = [level.instrument for level in bids]
        venues["ask_venue"][0, : len(asks)] = [level.instrument for level in asks]
        return [(self._kind, book), (_VENUES_KIND, venues)]


def _ledger(group: _Group, top: Consolidated, ts_known: int) -> Records:
    """What the ledger hears of a book that is told. It was live until the newest event of its venues."""
    none = np.zeros(0, _COVERAGE_KIND.dtype)
    if not top.live:
        if group.lost_ns != ABSENT:
            return none
        group.lost_ns = max(group.newest_ns, group.imbalance.now)
        if group.lost_ns == ABSENT:
            group.lost_ns = ts_known
        return coverage_record(Coverage.GAP, group.lost_ns, ABSENT, stream=_BOOK_ID, reason=_NO_VENUE)
    lost_ns, now_ns = group.lost_ns, max(top.ts_event, group.newest_ns)
    group.lost_ns, group.newest_ns = ABSENT, now_ns
    if lost_ns == ABSENT:
        return none
    began = coverage_record(Coverage.OBSERVED, now_ns, now_ns, stream=_BOOK_ID, reason="a venue's book is live")
    if lost_ns is None or lost_ns >= now_ns:
        return began
    gap = coverage_record(Coverage.GAP, lost_ns, now_ns, stream=_BOOK_ID, reason=_NO_VENUE)
    return np.concatenate([gap, began])


def _columns(levels: Sequence[ConsolidatedLevel]) -> tuple[list[int], list[int]]:
    return [level.price for level in levels], [level.size for level in levels]


def _best(top: Consolidated) -> tuple[int, int]:
    return (top.bids[0].price if top.bids else 0, top.asks[0].price if top.asks else 0)
