"""What the arena knows of an instrument beyond what the database has: the newest part of an answer. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from marketd.daemon.clock import STEP_NS
from marketd.ipc.arena_reader import ArenaReader
from marketd.market.bars import BEST
from marketd.market.book_rows import depth_of, refit
from marketd.market.records import BY_NAME, CANDLE, COVERAGE, CandleFlag, Kind, Records
from marketd.market.times import ABSENT, timeframe_name
from marketd.sql.read import Span, Stored

CANDLE_EMPTY = np.empty(0, CANDLE)
CANDLE_KIND = BY_NAME["candle"]
LEDGER_RING = BY_NAME["coverage"].name


class Tail:
    """What the arena knows of an instrument beyond `stored_ns`, up to which ts_known the database has everything: of
    all `rings` in one cut.
    """

    def __init__(
        self, arena: ArenaReader | None, stored: Stored | None, known_at: int | None, rings: Sequence[str]
    ) -> None:
        self._arena = arena
        self._stored = stored
        stored_ns = self._stored_ns = 0 if stored is None else stored.ts_known
        self._known_at = known_at
        # read before the cut: what was known until then is in it
        self._alive_ns = arena.heartbeat.wall_ns - STEP_NS if arena is not None else 0
        self._cut = arena.cut() if arena is not None else None
        self._records: dict[str, Records] = {}
        self._has_hole = False
        self.used = False
        # a moment that the database has passed needs no arena
        self._needed = self._cut is not None and self._cut.ts_known > stored_ns
        if known_at is not None and known_at <= stored_ns:
            self._needed = False
        if self._needed and arena is not None:
            # bars are rewritten in place, so what is new may lie anywhere in a ring
            wanted = {ring: place.capacity for ring, place in arena.rings.items() if ring in (*rings, LEDGER_RING)}
            self._records, self._cut = arena.snapshot(wanted)
            # what has no ring (the changes of books) is only in the database
            self._has_hole = any(self._lacks(ring, self._records.get(ring)) for ring in rings)

    def _lacks(self, ring: str, records: Records | None) -> bool:
        """Has the ring dropped records already that the database has not got yet?"""
        if records is None:
            return True
        if self._cut is None or self._cut.heads[ring] == len(records):
            return False
        return not len(records) or bool(records["ts_known"].min() > self._stored_ns)

    @property
    def has_replaced(self) -> bool:
        """Are there bars whose version of `known_at` a later one has replaced, before the database had it?"""
        known_at = self._known_at
        return known_at is not None and any(
            bool(((records["ts_known"] > known_at) & ((records["flags"] & CandleFlag.REVISED) != 0)).any())
            for records in self._records.values()
            if records.dtype == CANDLE
        )

    @property
    def lacks_stored(self) -> bool:
        """Is something that ingest had journaled neither stored, in this view of the database, nor in shared memory any
        more? Or was asked for by a moment that this view has not reached, and there is no shared memory beyond it."""
        behind = self._known_at is not None and self._known_at > self._stored_ns
        return self._has_hole or self.has_replaced or (behind and self._cut is None)

    @property
    def clock_ns(self) -> int:
        """The newest ts_known that this instrument is seen to have; 0: none."""
        return max(self._stored_ns, 0 if self._cut is None else self._cut.ts_known)

    @property
    def unsettled(self) -> str | None:
        """Why an answer as of `known_at` might be another one later; None: it will not."""
        known_at = self._known_at
        if known_at is None or self._arena is None or known_at <= self._stored_ns:
            return None  # without an arena nothing live comes
        if known_at > max(self._alive_ns, self.clock_ns):
            return "it cannot be told yet that nothing more is known of that moment"
        if self._needed and self._has_hole:
            return "the database has not committed yet all that was known at that moment, and shared memory lacks it"
        if self.has_replaced:
            return (
                "the database has not committed yet the versions of bars that were known at that moment, and shared "
                "memory has newer ones already"
            )
        return None

    @property
    def watermark(self) -> int | None:
        """Every record with ts_known up to here is in the answer (if asked for); None when nothing live was ever
        stored.
        """
        if self._needed and self._cut is not None and not self._has_hole:
            return self._cut.ts_known
        return self._stored_ns or None

    @property
    def is_live(self) -> bool:
        """Is the instrument followed, or was it, by this daemon's feeds and producers? An import's has no arena."""
        return self._arena is not None

    @property
    def newest_ns(self) -> int:
        """The newest event that the answer knows of, by the arena; 0: unknown."""
        if self._cut is None or (self._known_at is not None and self._cut.ts_known > self._known_at):
            return 0
        return self._cut.ts_event

    @property
    def committed_offset(self) -> int | None:
        return None if self._stored is None else self._stored.offset

    @property
    def stale_ns(self) -> int | None:
        return None if self._arena is None else self._arena.stale_ns()

    @property
    def durable(self) -> bool | None:
        if self._arena is None or self._cut is None:
            return None
        return not self._needed or 0 <= self._cut.journal_offset <= self._arena.durable_offset

    def rows(self, kind: Kind, span: Span, ring: str) -> Records:
        return self._beyond(ring, kind, span)

    def bars(self, timeframe: int, span: Span, bar_source: str) -> Records:
        found = [self._beyond(ring, CANDLE_KIND, span) for ring in candle_rings(timeframe, bar_source)]
        some = [records for records in found if len(records)]
        return np.concatenate(some) if some else CANDLE_EMPTY

    def ledger(self) -> Records:
        """Events of the ledger beyond what is stored; they are no part of the answer's records."""
        was_used = self.used
        found = self._beyond(LEDGER_RING, BY_NAME["coverage"], Span())
        self.used = was_used
        return found

    def _beyond(self, ring: str, kind: Kind, span: Span) -> Records:
        records = self._records.get(ring)
        if records is None:
            return np.empty(0, kind.dtype)
        if kind.name == "book":  # an arena of before may have another depth
            records = refit(records, depth_of(np.empty(0, kind.dtype)))
        # the ledger's events touch a span, all other records lie in it
        starts, ends = ("ts_start", "ts_end") if kind.dtype is COVERAGE else (kind.time, kind.time)
        wanted = records["ts_known"] > self._stored_ns
        if self._known_at is not None:
            wanted &= records["ts_known"] <= self._known_at
        if span.start is not None:
            wanted &= (records[ends] >= span.start) | (records[ends] == ABSENT)
        if span.end is not None:
            wanted &= records[starts] < span.end
        found = records[wanted]
        self.used = self.used or bool(len(found))
        return found


def candle_rings(timeframe: int, bar_source: str) -> list[str]:
    """The rings that have bars of a source; imports have no arena."""
    sources = ("own", "venue") if bar_source == BEST else (bar_source,)
    return [f"candle.{timeframe_name(timeframe)}.{source}" for source in sources if source != "import"]
