"""Keeping one instrument's book in step with its venue. Pure: messages in, steps out; nothing here knows of sockets.

`book_states.TRANSITIONS` is the whole state machine. A `BookSync` is fed with what the venue sends (`snapshot`,
`delta`) and with what befalls the connection (`subscribed`, `disconnected`, `silent`, `damaged`, `tick_changed`), and
answers each with a `Step`: what happened, the state now, whether a new snapshot must be asked for. While SYNCING,
deltas are kept (bounded) and joined to the snapshot by the venue's own rule. **The book is right or not LIVE**: every
doubt leaves LIVE.

When is a book LIVE after a snapshot that came over REST? Not before a delta proved that the stream was heard from the
snapshot on: one that follows it, or one that was heard before and is older. A snapshot alone may come from a cache, and
the changes after it may have been sent before we listened.

Where a venue's snapshots are cut (`BookSnapshot.limit`), the book is known up to its edges. Near them
(`market/book_edges.py`) a fresh snapshot is wanted (`wants_fresh`): from then on each delta goes to a second book too,
which joins the snapshot by the same rules as the first did, and once it stands where the book stands, what it knows
beyond the edges is added: the book was LIVE all the time. Where the levels that are told reach beyond an edge, the book
leaves LIVE, but is not dropped: it is followed, and is LIVE again once enough is known, by a snapshot or because the
price came back. Where the venue keeps a window of levels in step (`BookRule.depth`), nothing deeper can be asked for:
the book is LIVE as far as it is told, and has its edges there (`OrderBook`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import NamedTuple

from msgspec import Struct

from marketd.market.book import Change, Levels, OrderBook
from marketd.market.book_edges import EdgeWatch, Reach, Standing, found_beyond
from marketd.market.book_messages import BookDelta, BookRule, BookSnapshot, Fit
from marketd.market.book_states import Action, BookEvent, transition
from marketd.market.instruments import Instrument
from marketd.market.layouts import BookState
from marketd.market.times import ABSENT, NS_PER_SECOND

MAX_BUFFERED = 20_000  # deltas kept while a snapshot is awaited: minutes of the busiest stream there is
# A sign that a venue's own ways may come to give (`unchanged`, a hole in what the connection numbers, `denied`) costs a
# LIVE book its state so many times within so long, lest it cost its books for good.
MAX_DOUBTS = 3
DOUBTS_NS = 3600 * NS_PER_SECOND
MAX_LEVELS = 500_000  # of one book; ten times the deepest that any venue shows

_LIVE, _SYNCING, _STALE = BookState.LIVE, BookState.SYNCING, BookState.STALE
_FAR, _BEYOND = Standing.FAR, Standing.BEYOND
_APPLIED, _KEEP, _NEXT = BookEvent.APPLIED, Action.KEEP, Fit.NEXT


class Step(Struct, gc=False):
    """What came of one call. A LIVE book is at `BookSync.sequence` and `BookSync.ts_ns`."""

    event: BookEvent
    before: BookState
    state: BookState
    action: Action
    change: Change | None = None  # of APPLIED and REFRESHED: what it changed in the book

    @property
    def needs_snapshot(self) -> bool:
        """Ask for a snapshot now (over REST, or by subscribing anew), at a pace that the venue allows."""
        return self.action in _ASKS

    @property
    def began(self) -> bool:
        """The book is LIVE and has nothing to do with what was known of it before this step."""
        return self.event in _BEGINS

    @property
    def left(self) -> bool:
        """The book was LIVE until this step."""
        return self.before is _LIVE and self.state is not _LIVE


_ASKS = frozenset((Action.ASK, Action.RENEW))
_BEGINS = frozenset((BookEvent.JOINED, BookEvent.RESUMED, BookEvent.RETURNED))


class SyncStatistics(NamedTuple):
    state: BookState
    sequence: int
    levels: int
    buffered: int
    events: Mapping[str, int]  # by the event's word, since the start


class BookSync:
    """One instrument's book, its state, and the deltas that wait. `book` may be believed only while `state` is LIVE.

    `reach`: how much of the book is told, and so must be known of it. None: whoever asks looks at the edges himself.
    """

    def __init__(
        self,
        rule: BookRule,
        instrument: Instrument,
        *,
        max_buffered: int = MAX_BUFFERED,
        reach: Reach | None = None,
    ) -> None:
        self.rule = rule
        self.instrument = instrument
        self.state = BookState.EMPTY
        self.book = OrderBook()
        self.sequence = ABSENT  # the venue's number of the book's state
        self._previous: int | None = None  # and what the last delta named as the one before; None: unknown
        self.ts_ns = ABSENT  # event time of the book's state; ABSENT where the venue told none
        self._max_buffered = max_buffered
        self._is_subscribed = False
        self._has_snapshot = False  # `book` is a snapshot's, and what followed it
        self._fit = rule.splice  # how the next delta must join: `rule.follows` once one has followed the snapshot
        self._buffer: list[BookDelta] = []
        self._watch = EdgeWatch(reach) if reach else None
        self._fresh: BookSync | None = None  # waits for a fresh snapshot while the book stands, or is followed unseen
        self._doubted_at: dict[BookEvent, deque[int]] = {}  # event times, ns, by sign
        self._counts: Counter[BookEvent] = Counter()  # but for APPLIED, which would cost a hash a delta
        self._applied = 0

    def __repr__(self) -> str:
        return f"<BookSync {self.instrument.name} {self.state.name} at {self.sequence}: {self.book!r}>"

    def statistics(self) -> SyncStatistics:
        events = {event.value: count for event, count in self._counts.items()}
        if self._applied:
            events[_APPLIED.value] = self._applied
        return SyncStatistics(self.state, self.sequence, len(self.book), len(self._buffer), events)

    @property
    def changes(self) -> int:
        """How many messages of changes were applied."""
        return self._applied

    @property
    def wants_fresh(self) -> bool:
        """The book is LIVE, and near what it knows or audited: a fresh snapshot should be asked for, without haste. Not
        once there is one, of a moment that the book has yet to reach."""
        return self._fresh is not None and self._fresh.state is not _LIVE and self.state is _LIVE

    # ---- what befalls the connection ----------------------------------------------------------------

    def subscribed(self) -> Step:
        """The venue was asked for the deltas on a connection that stands; what came before is of no use."""
        self._is_subscribed = True
        self._buffer.clear()
        return self._told(BookEvent.SUBSCRIBED)

    def disconnected(self) -> Step:
        self._is_subscribed = False
        return self._told(BookEvent.DISCONNECTED)

    def silent(self) -> Step:
        """For too long nothing came, though something should have."""
        return self._told(BookEvent.SILENT)

    def damaged(self) -> Step:
        """A message of the book came that could not be read."""
        return self._told(BookEvent.DAMAGED) if self._is_subscribed else self._told(BookEvent.OLD)

    def lost(self) -> Step:
        """Messages that were to come did not."""
        awaits = self.state is _SYNCING and not self._has_snapshot and not self._buffer
        return self._told(BookEvent.GAP if self._is_subscribed and not awaits else BookEvent.OLD)

    def hole(self, ts_ns: int) -> Step:
        """The connection lost messages, by what it numbers; those of the book are not numbered."""
        if self.state is _LIVE and not self._is_doubt(BookEvent.GAP, ts_ns):
            return self._told(BookEvent.OLD)
        return self.lost()

    def denied(self, ts_ns: int) -> Step:
        """Trades go on that a LIVE book cannot have."""
        is_doubt = self.state is _LIVE and self._is_doubt(BookEvent.DENIED, ts_ns)
        return self._told(BookEvent.DENIED if is_doubt else BookEvent.OLD)

    def _is_doubt(self, sign: BookEvent, ts_ns: int) -> bool:
        """Whether such a sign still counts: it did not too often of late."""
        times, ts_ns = self._doubted_at.setdefault(sign, deque(maxlen=MAX_DOUBTS)), max(ts_ns, 0)
        if len(times) == MAX_DOUBTS and 0 <= ts_ns - times[0] < DOUBTS_NS:
            return False
        times.append(ts_ns)
        return True

    def tick_changed(self, instrument: Instrument) -> Step:
        """From now on prices and sizes come at other scales."""
        self.instrument = instrument
        self._drop()
        return self._told(BookEvent.TICK_CHANGED if self._is_subscribed else BookEvent.OLD)

    # ---- what the venue sends -----------------------------------------------------------------------

    def snapshot(self, snapshot: BookSnapshot) -> Step:
        """A snapshot, whether it was asked for or not."""
        if self._fresh is not None:
            return self._refresh(self._fresh, snapshot)
        is_streamed = snapshot.streamed or self.rule.snapshot == "stream"
        is_wanted = self.state is _SYNCING or is_streamed
        if not self._is_subscribed or not is_wanted:
            return self._told(BookEvent.OLD)
        if not (snapshot.bids.is_possible and snapshot.asks.is_possible):
            return self._told(BookEvent.DAMAGED)
        self.book = OrderBook()
        self.book.reset(snapshot.bids, snapshot.asks, snapshot.limit, snapshot.depth or self.rule.depth)
        self.sequence, self.ts_ns = snapshot.sequence, snapshot.ts_ns
        self._previous = None
        self._has_snapshot, self._fit = True, self.rule.splice
        flaw = self._flaw(snapshot.checksum)
        return self._told(flaw or self._join_buffered(is_proven=is_streamed or bool(self._buffer)))

    def delta(self, delta: BookDelta) -> Step:
        """One message of changes."""
        if self.state is _LIVE:
            return self._follow(delta, _APPLIED)
        if not self._is_subscribed:
            return self._told(BookEvent.OLD)  # from a connection that is gone
        if self.state is _STALE:
            return self._follow(delta, BookEvent.RESUMED)
        if self._fresh is not None:
            return self._follow(delta, BookEvent.RETURNED)
        if self._has_snapshot:
            return self._prove(delta)
        if self.rule.snapshot == "stream":
            return self._told(BookEvent.OLD)  # from before the snapshot that was asked for
        return self._told(self._keep(delta))

    def _follow(self, delta: BookDelta, applied: BookEvent) -> Step:
        """The book stands; the delta must join it."""
        fit = self._fit(self.sequence, delta)
        if fit is _NEXT:
            change, flaw = self._apply(delta)
            if change is None:
                return self._told(flaw or BookEvent.DAMAGED)
            watch, book = self._watch, self.book
            if watch is not None and book.is_cut and not book.window and (self._fresh or watch.look(book) is not _FAR):
                return self._follow_near(watch, delta, change, applied)
            if self._fresh is not None:
                return self._follow_audited(self._fresh, delta, change, applied)
            if applied is _APPLIED:  # nearly always; what the table says of it (a test compares)
                self._applied += 1
                return Step(_APPLIED, _LIVE, _LIVE, _KEEP, change)
            return self._told(applied)
        if fit is Fit.OLD and not self._contradicts(delta):
            return self._told(BookEvent.OLD)
        return self._begin_again(BookEvent.GAP, delta)

    def _contradicts(self, delta: BookDelta) -> bool:
        """Two deltas of one number that name different ones before them: one of them came damaged."""
        previous = self._previous
        return delta.last == self.sequence and previous is not None and previous != delta.previous

    def _prove(self, delta: BookDelta) -> Step:
        """The first delta after a snapshot over REST: an older one proves as much as one that follows."""
        fit = self._fit(self.sequence, delta)
        if fit is Fit.GAP or self._is_unproven(delta):
            return self._begin_again(BookEvent.SNAPSHOT_OLD, delta)
        flaw = self._apply(delta)[1] if fit is _NEXT else None
        return self._told(flaw or self._joined())

    def _begin_again(self, event: BookEvent, delta: BookDelta) -> Step:
        """The delta does not join the book, but it may join the snapshot that is asked for now."""
        step = self._told(event)
        if self.rule.snapshot == "rest":
            self._buffer = [delta]
        return step

    def _keep(self, delta: BookDelta) -> BookEvent:
        """Buffer a delta; those from before a hole could never join."""
        if self._buffer:
            fit = self.rule.follows(self._buffer[-1].last, delta)
            if fit is Fit.OLD:
                return BookEvent.OLD
            if fit is Fit.GAP:
                self._buffer.clear()
        if len(self._buffer) >= self._max_buffered:
            return BookEvent.OVERFLOW
        self._buffer.append(delta)
        return BookEvent.BUFFERED

    def _join_buffered(self, *, is_proven: bool) -> BookEvent:
        """Bring a snapshot up to the newest delta that came."""
        if self._buffer and self._is_unproven(self._buffer[0]):
            return BookEvent.SNAPSHOT_OLD
        has_joined = False
        for delta in self._buffer:
            fit = self._fit(self.sequence, delta)
            if fit is Fit.GAP:
                return BookEvent.GAP if has_joined else BookEvent.SNAPSHOT_OLD
            if fit is _NEXT:
                has_joined, flaw = True, self._apply(delta)[1]
                if flaw:
                    return flaw
        self._buffer.clear()
        return self._joined() if is_proven else BookEvent.UNPROVEN

    def _is_unproven(self, first: BookDelta) -> bool:
        """The first delta that was heard is newer than the snapshot, and does not say what came before it."""
        return self.rule.needs_older and first.last > self.sequence

    # ---- near the edges -----------------------------------------------------------------------------

    def _joined(self) -> BookEvent:
        """A snapshot was joined: is it enough?"""
        if self._watch is None or self.book.window:
            return BookEvent.JOINED
        self._watch.begin(self.book)
        if self._watch.look(self.book) is not _BEYOND:
            return BookEvent.JOINED
        self._fresh = self._awaiting()
        return BookEvent.BEYOND_EDGE

    def _awaiting(self) -> BookSync:
        """A second book, which gets the deltas from now on and the snapshot that is asked for."""
        fresh = BookSync(self.rule, self.instrument, max_buffered=self._max_buffered)
        fresh.subscribed()
        return fresh

    def _follow_near(self, watch: EdgeWatch, delta: BookDelta, change: Change, applied: BookEvent) -> Step:
        """The delta was applied to a book that is near its edges, or beyond."""
        fresh = self._fresh = self._fresh or self._awaiting()
        is_lost = fresh.delta(delta).needs_snapshot
        found = self._widen(fresh)
        if found is BookEvent.CONTRADICTED:
            self.book.revert(change)
            return self._told(found)
        if isinstance(found, Change):
            change, applied = change.then(found), BookEvent.REFRESHED if applied is _APPLIED else applied
        if watch.look(self.book) is _BEYOND:
            return self._go_on_unseen(change, is_lost=is_lost or found is not None)
        if applied is not _APPLIED:
            return self._told(applied, change)
        self._applied += 1
        return Step(_APPLIED, _LIVE, _LIVE, _KEEP, change)

    def _go_on_unseen(self, change: Change, *, is_lost: bool) -> Step:
        """Too little is known to tell the book; it is followed until there is enough."""
        self._fresh = self._fresh or self._awaiting()
        if self.state is not _SYNCING:
            told, self.book = self.book, self.book.copy()  # whoever was told of the book keeps it as it was
            told.revert(change)
            return self._told(BookEvent.BEYOND_EDGE)
        if is_lost:
            return self._told(BookEvent.UNSPLICED)
        self._applied += 1
        return Step(_APPLIED, _SYNCING, _SYNCING, _KEEP)

    def _refresh(self, fresh: BookSync, snapshot: BookSnapshot) -> Step:
        """A snapshot while the book stands, or is followed unseen."""
        is_lost = fresh.snapshot(snapshot).needs_snapshot
        found = self._widen(fresh)
        if found is None:
            return self._told(BookEvent.UNSPLICED if is_lost else BookEvent.UNPROVEN)
        if not isinstance(found, Change):
            return self._told(found)
        if self.state is not _SYNCING:
            return self._told(BookEvent.REFRESHED, found)
        return self._told(self._joined())

    def _widen(self, fresh: BookSync) -> Change | BookEvent | None:
        """Add what the fresh snapshot knows, if it stands where the book stands: what that changed, or a flaw."""
        if fresh.state is not _LIVE or fresh.sequence != self.sequence:
            return None
        levels = found_beyond(self.book, fresh.book)
        if levels is None:
            return BookEvent.CONTRADICTED
        change = self.book.widen(*levels, fresh.book.bid_edge, fresh.book.ask_edge)
        self._fresh = None
        if self._watch is not None:
            self._watch.begin(self.book)
        return change

    # ---- an audit -----------------------------------------------------------------------------------

    def audit(self) -> None:
        """A book that is LIVE is to be compared with a fresh snapshot, which is asked for without haste."""
        if self.state is _LIVE and self._fresh is None and self.rule.snapshot == "rest":
            self._fresh = self._awaiting()

    def _follow_audited(self, fresh: BookSync, delta: BookDelta, change: Change, applied: BookEvent) -> Step:
        """The delta was applied to a book that knows all that its venue tells."""
        fresh.delta(delta)
        found = self._widen(fresh)
        if found is BookEvent.CONTRADICTED:
            self.book.revert(change)
            return self._told(found)
        if found is not None and applied is _APPLIED:
            return self._told(BookEvent.REFRESHED, change)
        if applied is not _APPLIED:
            return self._told(applied)
        self._applied += 1
        return Step(_APPLIED, _LIVE, _LIVE, _KEEP, change)

    # ---- the book itself ----------------------------------------------------------------------------

    def _apply(self, delta: BookDelta) -> tuple[Change | None, BookEvent | None]:
        """Change the book; what changed, or what is wrong with it then: that is taken back, so that whoever still has
        to tell of the book tells what was right."""
        book, rule = self.book, self.rule
        change = book.follow(delta.bids, delta.asks, MAX_LEVELS)
        if change is None:
            return None, self._flaw_after(delta)
        if rule.exact and not change.is_exact and self._shows_a_loss(delta, change):
            book.revert(change)
            return None, BookEvent.UNCHANGED
        self.sequence, self._fit = delta.last, rule.follows
        if delta.previous != delta.last:  # else it says that nothing changed
            self._previous = delta.previous
        if delta.ts_ns != ABSENT:
            self.ts_ns = delta.ts_ns
        if delta.checksum is not None and self._checksum_fails(delta.checksum):
            book.revert(change)
            return None, BookEvent.CHECKSUM_FAILED
        return change, None

    def _flaw_after(self, delta: BookDelta) -> BookEvent:
        """Why the book could not follow."""
        bids, asks, book = delta.bids, delta.asks, self.book
        if not (bids.is_possible and asks.is_possible):
            return BookEvent.DAMAGED
        change = book.apply(bids, asks)
        flaw = self._flaw(delta.checksum) or BookEvent.DAMAGED
        book.revert(change)
        return flaw

    def _shows_a_loss(self, delta: BookDelta, change: Change) -> bool:
        """A level that changes nothing: not one of the state that the snapshot has already, nor one at the edge of a
        window, where levels come and go without a word."""
        book = self.book
        if 0 < delta.last == self.sequence:
            return False
        bids = zip(change.bids.prices, change.bids.sizes, change.bids_before, strict=True)
        asks = zip(change.asks.prices, change.asks.sizes, change.asks_before, strict=True)
        is_within = any(size == before and price > book.bid_edge for price, size, before in bids)
        is_within = is_within or any(size == before and price < book.ask_edge for price, size, before in asks)
        return is_within and self._is_doubt(BookEvent.UNCHANGED, delta.ts_ns)

    def _flaw(self, checksum: int | None) -> BookEvent | None:
        """What is wrong with the book as it stands; None: nothing that can be seen."""
        book = self.book
        if book.is_crossed:
            return BookEvent.CROSSED
        if checksum is not None and self._checksum_fails(checksum):
            return BookEvent.CHECKSUM_FAILED
        return BookEvent.OVERFLOW if len(book) > MAX_LEVELS else None

    def _checksum_fails(self, checksum: int) -> bool:
        check = self.rule.checksum
        return check is not None and check(self.book, self.instrument) != checksum

    def _told(self, event: BookEvent, change: Change | None = None) -> Step:
        before = self.state
        self.state, action = transition(before, event)
        self._counts[event] += 1
        if action in _DROPS:
            self._drop(keep_buffer=event in _KEEPS_BUFFER)
        return Step(event, before, self.state, action, change)

    def _drop(self, *, keep_buffer: bool = False) -> None:
        """Forget the book. The deltas that wait may still join a newer snapshot, unless they are what is wrong.

        Whoever was told of the book keeps it as it was: the next one is another.
        """
        self.book = OrderBook()
        self.sequence = self.ts_ns = ABSENT
        self._previous = None
        self._has_snapshot, self._fit = False, self.rule.splice
        self._fresh = None
        if not keep_buffer:
            self._buffer.clear()


_DROPS = frozenset((Action.ASK, Action.DROP))
_KEEPS_BUFFER = frozenset((BookEvent.SNAPSHOT_OLD, BookEvent.SILENT))


__all__ = [
    "MAX_BUFFERED",
    "MAX_LEVELS",
    "BookDelta",
    "BookRule",
    "BookSnapshot",
    "BookSync",
    "Fit",
    "Levels",
    "Step",
    "SyncStatistics",
]
