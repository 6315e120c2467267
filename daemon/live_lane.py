"""The live lane: how a lot gets into journal and arena, and what the ledger says where the journal had no room for it.

    take                 frame, then publish; None when the journal has no room
    keep_live_only       publish alone: `journal.when_full = "live_only"`, with an UNSTORED that has no end yet
    close_unstored       the ledger says what was kept live only, before anything that follows it is stored
    tell_due_events      what the daemon itself observed while there was no room

Everything that ingest appends goes through here. It waits for nothing.
"""

from __future__ import annotations

import logging
from collections import deque

from marketd.daemon import metrics
from marketd.daemon.clock import LiveClock
from marketd.daemon.instrument_state import InstrumentState
from marketd.daemon.kernel import COVERAGE_KIND, Kernel, Lot, coverage_record
from marketd.daemon.publisher import Publisher
from marketd.ipc.journal import Journal
from marketd.ipc.journal_errors import JournalBehind
from marketd.market.errors import JournalFull
from marketd.market.instruments import Instrument
from marketd.market.records import Coverage, Records
from marketd.market.times import ABSENT

_log = logging.getLogger(__name__)

_CLOCK_STEPS = metrics.counter("clock_steps_total", "Steps of the wall clock by over a second")

_FULL = "journal full"
MAX_DUE_EVENTS = 1_000  # of the daemon itself, that wait for room in the journal


class LiveLane:
    def __init__(self, kernel: Kernel, journal: Journal, publisher: Publisher, clock: LiveClock) -> None:
        self.kernel = kernel
        self.journal = journal
        self.publisher = publisher
        self.clock = clock
        self.live_only = 0  # records that were shown and not stored
        # instruments of which the ledger does not say yet what was kept live only
        self.unstored = {state.instrument.id: state for state in kernel.states if state.unstored_since}
        self._due_events: deque[tuple[Instrument, Records]] = deque(maxlen=MAX_DUE_EVENTS)

    # ---- lots -----------------------------------------------------------------------------------

    def take(self, lot: Lot) -> int | None:
        """Frame and publish a lot; the end of its frame, or None when the journal could not hold it."""
        state = lot.state
        try:
            end = self.journal.append(state.instrument.id, lot.seq, lot.ts_known, lot.body)
        except (JournalFull, JournalBehind):
            return None
        self.publisher.show(lot, end)
        if lot.unknown:
            state.rebuild |= dict.fromkeys(lot.unknown, end)
        return end

    def introduce(self, instrument: Instrument) -> int:
        """Journal an INSTRUMENT record, before the first use of its id; the end of its frame."""
        lot = self.kernel.introduce(instrument, self.clock.next())
        _log.info(
            "instrument %s has the id %d",
            instrument.name,
            instrument.id,
            extra={"action": "instrument_declared", "instrument": instrument.name},
        )
        try:
            return self.journal.append(instrument.id, lot.seq, lot.ts_known, lot.body)
        except (JournalFull, JournalBehind):
            lot.state.seq -= 1
            lot.state.journaled = False  # still due: the next declaration journals it
            raise

    # ---- without room ---------------------------------------------------------------------------

    def keep_live_only(self, lot: Lot) -> None:
        """Readers go on seeing the market, and the ledger will say what was not stored."""
        state = lot.state
        begins = not state.unstored_since
        if begins:
            state.unstored_since = lot.ts_known
            _log.error(
                "%s is kept live only: the journal is full",
                state.instrument.name,
                extra={"action": "journal_full", "instrument": state.instrument.name},
            )
        state.unstored_count += lot.records
        self.unstored[state.instrument.id] = state
        # this late trade will never be among the stored ones, but others of the bar may wait there already
        state.rebuild |= dict.fromkeys(lot.unknown, self.journal.end)
        self.live_only += lot.records
        self.publisher.show(lot, -1)
        if begins:  # by itself: the ledger in shared memory says it while it lasts, the stored one once there is room
            event = coverage_record(Coverage.UNSTORED, lot.ts_known, ABSENT, stream=0, reason=_FULL)
            self.publisher.show(self._lot_of(state.instrument, event), -1)

    def close_unstored(self, state: InstrumentState) -> None:
        """Where there is room again, the ledger first says what was not stored: killed behind that, nothing is lost."""
        since, count = state.unstored_since, state.unstored_count
        if not since or not self.journal.has_room:
            return
        state.unstored_since = state.unstored_count = 0
        until = max(since, self.clock.now())  # the wall clock may have stepped back meanwhile
        event = coverage_record(Coverage.UNSTORED, since, until, stream=0, detail=count, reason=_FULL)
        if not self.record_coverage(state.instrument, event):
            state.unstored_since, state.unstored_count = since, count  # the next lot that finds room says it

    # ---- the daemon's own events ----------------------------------------------------------------

    def record_coverage(self, instrument: Instrument, event: Records) -> bool:
        """Write an event of the ledger that ingest itself observed; whether the journal had room for it."""
        return self.take(self._lot_of(instrument, event)) is not None

    def _lot_of(self, instrument: Instrument, event: Records) -> Lot:
        return self.kernel.accept(instrument, [(COVERAGE_KIND, event)], self.clock.next(), source="ingest")

    def step_of_clock(self, everything: Instrument, step_ns: int) -> None:
        """The wall clock stepped: an event of the instrument that stands for all."""
        now = self.clock.now()
        _CLOCK_STEPS.inc()
        _log.warning("the wall clock stepped by %.3f s", step_ns / 1e9, extra={"action": "clock_step"})
        event = coverage_record(Coverage.CLOCK_STEP, now - max(step_ns, 0), now, stream=0, detail=step_ns)
        self._due_events.append((everything, event))
        self.tell_due_events()

    def tell_due_events(self) -> None:
        """Journal the daemon's own events that found no room when they happened, and what instruments kept live only:
        one that has fallen silent since would never say it."""
        for number, state in list(self.unstored.items()):
            self.close_unstored(state)
            if not state.unstored_since:
                del self.unstored[number]
        while self._due_events and self.journal.has_room:
            if not self.record_coverage(*self._due_events[0]):
                return
            self._due_events.popleft()
