"""One symbol's order book in a feed: kept in step at full depth, told to the sink as records. Pure.

`BookSync` says whether the book may be believed; the keeper makes of it, in event time only:

    book        the best levels: once an interval while something changes, at once when a best price moved by more than
                the jump, and whenever the state changes (then, but for LIVE, without levels)
    imbalance   each second, by `ImbalanceKernel`; buckets each second and minute, by `BucketKernel`
    book_delta  each changed level, if asked for; the whole book where it begins anew
    coverage    OBSERVED when the book is first LIVE; a GAP without an end when it leaves LIVE, and when it is LIVE
                again the same GAP with its end, and OBSERVED; while the venue is away VENUE_DOWN in place of the GAP

Between two messages time goes on by `time`: it closes seconds, and sends the last state of an interval.
"""

from __future__ import annotations

import logging
from collections import Counter

from marketd.daemon.feeds.adapter import BookDelta, BookRule, BookSnapshot
from marketd.daemon.feeds.feed_model import BookSettings
from marketd.daemon.feeds.symbol_state import CoverageEvent, Down, Part
from marketd.market.book import Change, OrderBook
from marketd.market.book_deltas import DeltaRecorder
from marketd.market.book_edges import Reach
from marketd.market.book_records import BookRecorder
from marketd.market.book_states import BookEvent
from marketd.market.book_sync import BookSync, Step
from marketd.market.book_witness import TradeWitness
from marketd.market.buckets import BucketKernel
from marketd.market.errors import RuleViolation
from marketd.market.fixed import format_fixed, parse_fixed
from marketd.market.imbalance import ImbalanceKernel
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME, BookState, Coverage, Records
from marketd.market.seconds import MAX_LEAP_NS
from marketd.market.times import ABSENT, NS_PER_SECOND

_log = logging.getLogger(__name__)

_TRADE = BY_NAME["trade"].id
_APPLIED = BookEvent.APPLIED
_OUTAGE = (BookEvent.DISCONNECTED.value, BookEvent.SILENT.value)
MAX_WAIT_NS = 60 * NS_PER_SECOND  # seconds wait so long for trades that are being fetched; then volumes are absent


class BookKeeper:
    """`lost_ns`: until when the instrument was followed before this process, ABSENT for a new one. `down`: the ledger
    has the venue as away.
    """

    def __init__(
        self,
        rule: BookRule,
        instrument: Instrument,
        settings: BookSettings,
        *,
        lost_ns: int = ABSENT,
        down: Down | None = None,
    ) -> None:
        self.instrument = instrument
        self._settings = settings
        self.sync = BookSync(rule, instrument, reach=Reach(settings.depth, settings.band_bps))
        self.needs_snapshot = False
        self.refused_setting = ""  # what is wrong with the configured width of buckets, which is not used then
        self.events: Counter[str] = Counter()  # what made the book doubtful, by word
        self.newest_ns = ABSENT  # the newest event time that was told
        self._complete_ns = ABSENT  # `newest_ns` when no trades were missing
        self._begin_kernels()
        self._witness = TradeWitness()
        self._is_told = False  # the kernels know that the book is LIVE
        self._is_first = False  # the snapshot that a subscription brings by itself is still to come
        self._observed = False
        self._lost_ns = lost_ns  # since when the book is not LIVE, after it was
        self._lost_reason = "the feed was not running"
        self._is_down = down is not None
        if down is not None:
            self._lost_ns, self._lost_reason = down

    def __repr__(self) -> str:
        return f"<BookKeeper {self.sync!r}>"

    def _begin_kernels(self) -> None:
        """At the instrument's present scales."""
        instrument, settings = self.instrument, self._settings
        self._recorder = BookRecorder(settings.depth, settings.interval_ns, settings.jump_bps)
        self._deltas = DeltaRecorder()
        self._imbalance = ImbalanceKernel(settings.band_bps)
        self._buckets = BucketKernel(self._bucket_units(), tick_size=instrument.tick_size)
        if self.refused_setting:  # only known here: it must not cost the venue's other instruments theirs
            _log.error(
                "the default width is used: %s",
                self.refused_setting,
                extra={"action": "bucket_width", "instrument": instrument.name},
            )

    def _bucket_units(self) -> int:
        """The configured width in price units; 0, the default, where there is none at the instrument's scale."""
        name = self.instrument.name
        width, field = self._settings.buckets.get(name, ""), f"book.buckets.{name}"
        self.refused_setting = ""
        try:
            units = parse_fixed(width, self.instrument.price_scale, field=field) if width else 0
        except RuleViolation as violation:
            self.refused_setting = str(violation)
            return 0
        if units % self.instrument.tick_size:
            self.refused_setting = (
                f"{field}: {width} is no multiple of the tick {self._tick()}, so that some buckets would hold more "
                "prices than others, or none; write one that is"
            )
            return 0
        return units

    def _tick(self) -> str:
        return format_fixed(self.instrument.tick_size, self.instrument.price_scale)

    # ---- what befalls the connection ----------------------------------------------------------

    @property
    def awaits_first_snapshot(self) -> bool:
        """The snapshot that a new subscription brings by itself has not come yet."""
        return self._is_first

    def subscribed(self) -> list[Part]:
        self._is_first = True
        return self._after(self.sync.subscribed())

    def disconnected(self) -> list[Part]:
        return self._after(self.sync.disconnected())

    def ended(self, reason: str) -> list[Part]:
        """The instrument is no longer followed: its book is not LIVE, and the ledger is closed."""
        if self.newest_ns < 0:
            return []
        lost_ns, end_ns = self._lost_ns, self.newest_ns
        parts = [part for part in self.disconnected() if part[0] != "coverage"]  # it ends, and is not lost
        if self._is_down:
            return parts
        if lost_ns != ABSENT and lost_ns < end_ns:
            parts.append(CoverageEvent(Coverage.GAP, lost_ns, end_ns, "book", reason=self._lost_reason).part())
        return [*parts, CoverageEvent(Coverage.ENDED, end_ns, end_ns, "book", reason=reason).part()]

    def away(self, since_ns: int, words: str) -> tuple[int, list[Part]]:
        """The venue is away, and so no more is known of the book; since when, and what the ledger says."""
        # one that is LIVE has missed its disconnection: what it is told then would end its gap, and not this outage
        parts = self.silent() if self.sync.state is BookState.LIVE else []
        if self._lost_ns != ABSENT and self._lost_reason in _OUTAGE:
            since_ns = self._lost_ns  # it is the outage that it was lost by
        elif self._lost_ns != ABSENT and self._lost_ns < since_ns:
            parts.append(CoverageEvent(Coverage.GAP, self._lost_ns, since_ns, "book", reason=self._lost_reason).part())
        self._lost_ns, self._lost_reason, self._is_down = since_ns, words, True
        return since_ns, [*parts, CoverageEvent(Coverage.VENUE_DOWN, since_ns, ABSENT, "book", reason=words).part()]

    def heard(self, ts_ns: int) -> list[Part]:
        """The venue is there again; the book has a gap until it is in step."""
        if not self._is_down:
            return []
        since_ns, end_ns, words = self._lost_ns, max(ts_ns, self._lost_ns), self._lost_reason
        self._lost_ns, self._lost_reason, self._is_down = end_ns, "not in step yet", False
        return [
            CoverageEvent(Coverage.VENUE_DOWN, since_ns, end_ns, "book", reason=words).part(),
            CoverageEvent(Coverage.GAP, end_ns, ABSENT, "book", reason=self._lost_reason).part(),
        ]

    def silent(self) -> list[Part]:
        """Nothing comes, or no snapshot came of asking for one."""
        self._is_first = False
        return self._after(self.sync.silent())

    def damaged(self) -> list[Part]:
        """A message of the book came that could not be read."""
        return self._after(self.sync.damaged())

    def lost(self) -> list[Part]:
        """Messages that were to come did not."""
        return self._after(self.sync.lost())

    def hole(self) -> list[Part]:
        """The connection lost messages, and the book's are not numbered."""
        return self._after(self.sync.hole(self.newest_ns))

    def tick_changed(self, instrument: Instrument) -> list[Part]:
        """From now on prices and sizes come at other scales: whatever was computed begins anew."""
        if instrument.id != self.instrument.id:
            self._observed = False  # the ledger knows nothing of it yet
        self.instrument = instrument
        self._begin_kernels()
        self._is_told = False
        return self._after(self.sync.tick_changed(instrument))

    # ---- what comes ---------------------------------------------------------------------------

    def trades(self, records: Records) -> None:
        """Trades of the instrument; the imbalance has their volumes."""
        self._imbalance.trades(records)

    def witness(self, records: Records) -> list[Part]:
        """Live trades, before the changes that came with them: do they go with the book?"""
        sync = self.sync
        if sync.state is not BookState.LIVE or not len(records):
            return []
        if not self._witness.hear(sync.book, sync.changes, records):
            return []
        return self._after(sync.denied(int(records["ts_event"][-1])))

    def coverage(self, events: Records) -> None:
        """Ledger events of the instrument: volumes are not known where trades are missing."""
        for event in events:
            if event["state"] == Coverage.GAP and event["stream"] == _TRADE:
                self._imbalance.trades_lost(int(event["ts_end"]))

    def take(self, event: BookSnapshot | BookDelta) -> list[Part]:
        if isinstance(event, BookSnapshot):
            self._is_first = False
            return self._after(self.sync.snapshot(event), event.ts_ns)
        sync = self.sync
        step = sync.delta(event)
        if step.event is _APPLIED and self._is_told and sync.ts_ns != ABSENT:  # nearly always
            self._see(sync.ts_ns)
            self._tell(sync.ts_ns, sync.book, step.change)
            return []
        return self._after(step, event.ts_ns)

    def time(self, ts_ns: int, *, trades_complete: bool = True) -> list[Part]:
        """The instrument's events have come up to this time. Seconds wait while trades of them are being fetched."""
        is_first = self.newest_ns == ABSENT
        self._see(ts_ns)
        if self.newest_ns == ABSENT:
            return []  # nothing that came bears a time
        parts: list[Part] = []
        if is_first and self.sync.state is BookState.LIVE:
            parts = self._began(ts_ns)
        elif is_first:
            self._leave_kernels(ts_ns)
        parts += self._records()
        if self._may_close_seconds(trades_complete=trades_complete):
            for kind, kernel in (("imbalance", self._imbalance), ("buckets", self._buckets)):
                if len(records := kernel.advance(self.newest_ns)):
                    parts.append((kind, records))
        return parts

    def _may_close_seconds(self, *, trades_complete: bool) -> bool:
        if trades_complete or self._complete_ns == ABSENT:
            self._complete_ns = self.newest_ns
        if not trades_complete and self.newest_ns - self._complete_ns <= MAX_WAIT_NS:
            return False
        if not trades_complete:
            self._imbalance.trades_lost(self.newest_ns)
        return True

    def _see(self, ts_ns: int) -> None:
        """Time goes on. A leap back follows a time that was wrong, and is a new begin, as in the kernels."""
        if ts_ns != ABSENT and not 0 <= self.newest_ns - ts_ns <= MAX_LEAP_NS:
            self.newest_ns = ts_ns

    def finish(self) -> list[Part]:
        """A recording is over: its last state, though nothing says when the next one came."""
        self._recorder.finish()
        return self._records()

    # ---- a step of the book -------------------------------------------------------------------

    def _after(self, step: Step, event_ns: int = ABSENT) -> list[Part]:
        if step.event is not BookEvent.APPLIED:
            self.events[step.event.value] += 1
        self.needs_snapshot = step.state is BookState.SYNCING and (self.needs_snapshot or step.needs_snapshot)
        ts_ns = self._time_of(event_ns)
        if ts_ns == ABSENT:
            return []  # before the first message there is no time to say it at
        if step.state is BookState.LIVE and self._is_told and not step.began:
            if step.change is not None:
                self._tell(ts_ns, self.sync.book, step.change)
            return []
        # a change of state is told at once; all else with the next `time`
        if step.state is BookState.LIVE:
            return [*self._began(ts_ns), *self._records()]
        if step.state is not step.before:
            lost = self._left(ts_ns, step)
            return [*self._records(), *lost]  # the changes end before the ledger says so: `client.book_rebuild` asks
        return []

    def _records(self) -> list[Part]:
        parts: list[Part] = []
        if len(books := self._recorder.advance(self.newest_ns)):
            parts.append(("book", books))
        if self._settings.deltas and len(deltas := self._deltas.take()):
            parts.append(("book_delta", deltas))
        return parts

    def _time_of(self, event_ns: int) -> int:
        """The time of the book as it stands now: of its newest delta, else the newest that is known."""
        if self.sync.state is BookState.LIVE and self.sync.ts_ns != ABSENT:
            event_ns = self.sync.ts_ns
        self._see(event_ns)
        return self.newest_ns if event_ns == ABSENT else event_ns

    def _began(self, ts_ns: int) -> list[Part]:
        self._is_told = True
        self._witness.begin()
        self._tell(ts_ns, self.sync.book, None)
        return self._coverage(ts_ns)

    def _tell(self, ts_ns: int, book: OrderBook, change: Change | None) -> None:
        self._recorder.book(ts_ns, self.sync.sequence, book)
        self._imbalance.book(ts_ns, book, change)
        self._buckets.book(ts_ns, book, change)
        if self._settings.deltas:
            self._deltas.book(ts_ns, self.sync.sequence, book, change)

    def _coverage(self, ts_ns: int) -> list[Part]:
        parts: list[Part] = []
        was_lost = self._lost_ns != ABSENT
        if was_lost:
            state = Coverage.VENUE_DOWN if self._is_down else Coverage.GAP
            parts.append(CoverageEvent(state, self._lost_ns, ts_ns, "book", reason=self._lost_reason).part())
        if was_lost or not self._observed:
            parts.append(CoverageEvent(Coverage.OBSERVED, ts_ns, ts_ns, "book", reason="in step").part())
        self._observed, self._lost_ns, self._is_down = True, ABSENT, False
        return parts

    def _left(self, ts_ns: int, step: Step) -> list[Part]:
        """What the ledger says of it: until it is LIVE again nobody knows where the gap will end."""
        self._leave_kernels(ts_ns)
        if not step.left:
            return []
        self._lost_ns, self._lost_reason = ts_ns, step.event.value
        return [CoverageEvent(Coverage.GAP, ts_ns, ABSENT, "book", reason=self._lost_reason).part()]

    def _leave_kernels(self, ts_ns: int) -> None:
        self._is_told = False
        self._recorder.leave(ts_ns, self.sync.state)
        self._deltas.leave(ts_ns)
        self._imbalance.leave(ts_ns, self.sync.state)
        self._buckets.leave(ts_ns, self.sync.state)
