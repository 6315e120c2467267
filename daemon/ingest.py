"""Ingest: the only writer of journal and arena. One message is one batch of one instrument.

    validate → stamp → fold → one journal frame → publish in the arena → PUB; acknowledge once the frame is on disk

The frame goes into the journal's front buffer (memory that outlives this process) before a reader can see it, the
journal's flusher puts it on disk, and the loop here never waits for a disk: a slow one delays
acknowledgements, never the arena.

`Ingest` handles messages; it owns no loop and no process (`daemon.actors.ingest` does).
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import zmq

from marketd.daemon import metrics
from marketd.daemon.clock import LiveClock
from marketd.daemon.consolidated import Consolidator
from marketd.daemon.instrument_state import MAX_REBUILD, InstrumentState
from marketd.daemon.kernel import COVERAGE_KIND, Kernel, Lot, coverage_record
from marketd.daemon.orphans import Orphans, lost_since, stale_book
from marketd.daemon.pieces import MAX_PIECES, too_scattered
from marketd.daemon.producers import LIVE_ONLY, repeated_outcome
from marketd.daemon.publisher import Publisher
from marketd.daemon.registry import Registry
from marketd.ipc import protocol, sockets
from marketd.ipc.book_parts import read_fitting_part
from marketd.ipc.journal import Journal
from marketd.ipc.journal_errors import JournalBehind, JournalFailed
from marketd.ipc.protocol import (
    Alive,
    Committed,
    Declare,
    Declared,
    Durable,
    Failure,
    Follow,
    Outcome,
    RebuildBars,
    Rejection,
)
from marketd.market.errors import Busy, InvalidArgument, JournalFull, MarketdError, ProtocolError, UnknownInstrument
from marketd.market.instruments import CONSOLIDATED_VENUE, GLOBAL_NAME, Instrument
from marketd.market.records import Coverage, Kind, Records
from marketd.market.times import ABSENT, NS_PER_SECOND

_log = logging.getLogger(__name__)

_REFUSED = metrics.counter("refused_total", "Records refused and in quarantine, by rule", ["rule"])
_CLOCK_STEPS = metrics.counter("clock_steps_total", "Steps of the wall clock by over a second")

# and every declared series
ACCEPTED_FROM_OUTSIDE = frozenset({"trade", "candle", "tick", "coverage", "book", "book_delta", "imbalance", "buckets"})
_DONTWAIT = int(zmq.DONTWAIT)
_DONTWAIT_MORE = int(zmq.DONTWAIT | zmq.SNDMORE)
MAX_DUE_EVENTS = 1_000  # of the daemon itself, that wait for room in the journal
TELL_NS = 20_000_000  # between two words to the writer, whom each wakes; it gathers for writer.batch_age anyway
MAX_UNACKNOWLEDGED = 50_000  # answers that wait for the disk; beyond it nothing more is read
MAX_RULES, OTHER_RULES = 256, "other"  # counted by name; senders name their own for what they rejected themselves
MAX_DECLARED = 4_000  # instruments in one message: the answer, which tells what is known of each, has its limit too


class IngestStatistics(NamedTuple):
    batches: int
    records: int
    refused: int
    rejected: int  # by the senders themselves: what was no record
    repeated: int
    failures: int
    live_only: int
    unacknowledged: int
    late_unknown: int


class Ingest:
    def __init__(
        self,
        *,
        registry: Registry,
        kernel: Kernel,
        journal: Journal,
        publisher: Publisher,
        clock: LiveClock,
        socket: zmq.Socket[bytes],
        live_only: bool,
        consolidator: Consolidator | None = None,
    ) -> None:
        self._registry = registry
        self._kernel = kernel
        self._journal = journal
        self._publisher = publisher
        self._clock = clock
        self._socket = socket
        self.live_only = live_only
        self._consolidator = consolidator
        self._decoder = protocol.Decoder(protocol.ToIngest)
        self._waiting: deque[tuple[int, bytes, protocol.Message]] = deque()  # (offset, peer, answer), by offset
        self._follower: bytes | None = None
        self._told = -1  # how far the writer knows that the journal is durable
        self._told_ns = 0  # and when it was told
        self.acknowledged = -1  # the durable offset that was looked at last
        self.committed = 0
        # instruments of which the ledger does not say yet what was kept live only
        self._unstored = {state.instrument.id: state for state in kernel.states if state.unstored_since}
        self._orphans = Orphans(publisher.live_books)
        self._due_events: deque[Records] = deque(maxlen=MAX_DUE_EVENTS)
        self._asked_last = 0  # id of the instrument that `next_rebuild` named last
        self._rebuild_at_once = MAX_REBUILD
        self._asked_at = 0  # how far the journal was committed when `next_rebuild` asked
        self.rules: Counter[str] = Counter()
        self._counts = Counter[str]()

    # ---- messages -----------------------------------------------------------------------------

    def handle(self, peer: bytes, frames: list[bytes]) -> None:
        """One message. Whatever is wrong with it becomes an answer; nothing that arrives here may end ingest."""
        header = frames[0] if frames else b""
        try:
            sockets.check_frames(frames)
            message = self._decoder.decode(header)
            if isinstance(message, protocol.Ingest):
                self._ingest(peer, message, frames[1:])
            elif isinstance(message, Alive):
                self._orphans.alive(message.producer, message.pid)
            elif isinstance(message, Declare):
                self._declare(peer, message)
            elif isinstance(message, Follow):
                self._follow(peer, message)
            else:
                self._on_committed(message)
        except JournalFailed:
            raise  # ours, not the message's: an answer would make the sender drop what the next ingest will take
        except MarketdError as error:
            self._counts["failures"] += 1
            self._send(
                peer, Failure(id=protocol.request_id(header), code=error.code, message=str(error), field=error.field)
            )

    def _send(self, peer: bytes, message: protocol.Message) -> None:
        try:
            # two sends cost a fraction of one send_multipart, which combines flags and checks types in Python
            self._socket.send(peer, _DONTWAIT_MORE)
            self._socket.send(protocol.encode(message), _DONTWAIT)
        except zmq.ZMQError:
            # the peer is gone, or reads nothing: it asks again under the same number
            self._counts["unsent"] += 1

    def _ingest(self, peer: bytes, request: protocol.Ingest, payloads: list[bytes]) -> None:
        if len(request.producer) != 16:
            raise ProtocolError(f"producer: {len(request.producer)} bytes, it has 16", field="producer")
        known = self._kernel.producers.find(request.producer, request.batch)
        if known is not None:
            self._counts["repeated"] += 1
            self._answer(peer, known.offset, repeated_outcome(request.id, request.batch, known))
            return
        self._demand_order(request)
        instrument = self._instrument(request.instrument)
        parts = self._read_parts(request, payloads)
        self._publisher.board(instrument)  # what cannot be shown is refused while nothing has changed yet
        self._close_unstored(self._kernel.state(instrument))
        room = self._journal.has_room
        if not room and self._journal.blocked is None:
            # not full, only slower than the records for a moment: nothing needs to go unstored for that
            raise Busy("batch: the journal waits for the disk; send it again", field="batch")
        if not room and not (self.live_only and request.live):
            raise JournalFull(
                "the journal has used up journal.budget or its disk; nothing was accepted. Free disk space, let the "
                "writer catch up (marketd status), or raise journal.budget",
                field="journal.budget",
            )
        lot = self._kernel.accept(
            instrument,
            parts,
            self._clock.next(),
            source=request.source,
            producer=request.producer,
            batch=request.batch,
            rejected=request.rejected,
            max_bytes=self._journal.max_frame_bytes,
        )
        if request.live:
            self._orphans.follow(request.producer, lot)
        remembered = self._kernel.remember(request.producer, request.batch, lot)
        end = self._take(lot) if room else None
        self._count(lot, request.rejected)
        outcome = Outcome(
            id=request.id,
            batch=request.batch,
            accepted=lot.accepted,
            refused=lot.refused,
            seq=lot.seq,
            ts_known=lot.ts_known,
            durable=end is not None,
        )
        if end is None:
            remembered.offset = LIVE_ONLY
            self._keep_live_only(lot)
            self._send(peer, outcome)
        else:
            remembered.offset = end
            self._answer(peer, end, outcome)
        if self._consolidator is not None:
            self._consolidate(self._consolidator, lot)

    def _consolidate(self, consolidator: Consolidator, lot: Lot) -> None:
        """The consolidated book that follows from a venue's lot: a lot of its own, with a moment of its own.

        Where the journal has no room it is left out: the next one is made of all that the venues showed meanwhile.
        """
        merged = consolidator.follow(lot.state.instrument, lot.rows, lot.ts_known)
        if merged is None or not self._journal.has_room:
            return
        try:
            instrument = self._consolidated_instrument(consolidator, merged.instrument)
        except MarketdError as error:
            _log.error("%s cannot be kept: %s", merged.instrument.name, error, extra={"action": "consolidated_refused"})
            return
        self._take(self._kernel.derive(instrument, merged.parts, self._clock.next()))

    def _consolidated_instrument(self, consolidator: Consolidator, wanted: Instrument) -> Instrument:
        """With its id; in the journal before its first use."""
        instrument, new = self._registry.declare(wanted)
        if new or not self._kernel.state(instrument).journaled:
            self._introduce(instrument)
            self._publisher.announce(self._registry.instruments)
            consolidator.declare(instrument)
        return instrument

    def _demand_order(self, request: protocol.Ingest) -> None:
        """What was on its way to an ingest that died is sent again, and must not be overtaken by what follows it."""
        if not request.oldest:
            return
        due = max(self._kernel.producers.newest(request.producer) + 1, request.oldest)
        if request.batch > due:
            raise Busy(f"batch: {request.batch} came before {due}; send both again, in order", field="batch")

    def _instrument(self, wanted: str | int) -> Instrument:
        instrument = self._registry.by_name(wanted) if isinstance(wanted, str) else self._registry.by_id(wanted)
        if instrument.removed:
            raise UnknownInstrument(
                f"instrument: {instrument.name} has another id by now, of a finer precision; declare it again",
                field="instrument",
            )
        return instrument

    def _read_parts(self, request: protocol.Ingest, payloads: list[bytes]) -> list[tuple[Kind, Records]]:
        if len(request.parts) != len(payloads):
            raise ProtocolError(f"parts: {len(request.parts)} are named, {len(payloads)} frames follow", field="parts")
        parts = [self._read_part(part, payload) for part, payload in zip(request.parts, payloads, strict=True)]
        if len(parts) == 1 and len(parts[0][1]) <= MAX_PIECES:
            return parts  # nearly always
        count = sum(len(records) for _, records in parts)
        if count > protocol.MAX_BATCH_RECORDS:
            raise ProtocolError(
                f"parts: {count} records; a batch has at most {protocol.MAX_BATCH_RECORDS}, send it in pieces",
                field="parts",
            )
        if too_scattered(parts):
            raise InvalidArgument(
                f"parts: the records lie on more than {MAX_PIECES} days; send them in the order of time, in pieces",
                field="parts",
            )
        return parts

    def _read_part(self, part: protocol.Part, payload: bytes) -> tuple[Kind, Records]:
        kind = self._kernel.kinds.by_name(part.kind)
        if not (kind.declared or kind.name in ACCEPTED_FROM_OUTSIDE):
            raise ProtocolError(f"parts: {kind.name} records are marketd's own", field="parts")
        return kind, read_fitting_part(kind, part.count, payload)

    def _take(self, lot: Lot) -> int | None:
        """Frame and publish a lot; the end of its frame, or None when the journal could not hold it."""
        state = lot.state
        try:
            end = self._journal.append(state.instrument.id, lot.seq, lot.ts_known, lot.sections)
        except (JournalFull, JournalBehind):
            return None
        self._publisher.show(lot, end)
        if lot.unknown:
            state.rebuild |= dict.fromkeys(lot.unknown, end)
        return end

    def _keep_live_only(self, lot: Lot) -> None:
        """`journal.when_full = "live_only"`: readers go on seeing the market, the ledger says what was not stored."""
        state = lot.state
        if not state.unstored_since:
            state.unstored_since = lot.ts_known
            _log.error(
                "%s is kept live only: the journal is full",
                state.instrument.name,
                extra={"action": "journal_full", "instrument": state.instrument.name},
            )
        state.unstored_count += lot.records
        self._unstored[state.instrument.id] = state
        # this late trade will never be among the stored ones, but others of the bar may wait there already
        state.rebuild |= dict.fromkeys(lot.unknown, self._journal.end)
        self._counts["live_only"] += lot.records
        self._publisher.show(lot, -1)

    def _close_unstored(self, state: InstrumentState) -> None:
        """Where there is room again, the ledger first says what was not stored: killed behind that, nothing is lost."""
        since, count = state.unstored_since, state.unstored_count
        if not since or not self._journal.has_room:
            return
        state.unstored_since = state.unstored_count = 0
        until = max(since, self._clock.now())  # the wall clock may have stepped back meanwhile
        event = coverage_record(Coverage.UNSTORED, since, until, stream=0, detail=count, reason="journal full")
        if not self.record_coverage(state.instrument, event):
            state.unstored_since, state.unstored_count = since, count  # the next lot that finds room says it

    def record_coverage(self, instrument: Instrument, event: Records) -> bool:
        """Write an event of the ledger that ingest itself observed; whether the journal had room for it."""
        lot = self._kernel.accept(instrument, [(COVERAGE_KIND, event)], self._clock.next(), source="ingest")
        return self._take(lot) is not None

    def _count(self, lot: Lot, rejected: Sequence[Rejection]) -> None:
        self._counts["batches"] += 1
        self._counts["records"] += lot.accepted
        if rejected:
            self._counts["rejected"] += len(rejected)
            self._count_rules(each.rule for each in rejected)
        if lot.refused:
            self._counts["refused"] += len(lot.refused)
            self._count_rules(refusal.rule for refusal in lot.refused)
            first = lot.refused[0]
            _log.warning(
                "%d of %s's records were refused and are in quarantine; the first: %s (%s)",
                len(lot.refused),
                lot.state.instrument.name,
                first.rule,
                first.detail,
                extra={"action": "refused", "instrument": lot.state.instrument.name, "rule": first.rule},
            )

    def _count_rules(self, rules: Iterable[str]) -> None:
        for rule, count in Counter(rules).items():
            if rule not in self.rules and len(self.rules) >= MAX_RULES:
                rule = OTHER_RULES
            self.rules[rule] += count
            _REFUSED.labels(rule).inc(count)

    # ---- instruments --------------------------------------------------------------------------

    def _declare(self, peer: bytes, request: Declare) -> None:
        declared, resume, end = [], [], 0
        if len(request.instruments) > MAX_DECLARED:
            raise InvalidArgument(
                f"instruments: {len(request.instruments)} in one message; at most {MAX_DECLARED}", field="instruments"
            )
        self._registry.check(request.instruments)  # all of them, before the first gets an id
        if any(wanted.venue == CONSOLIDATED_VENUE for wanted in request.instruments):
            raise InvalidArgument(
                f"instruments: {CONSOLIDATED_VENUE} is the venue of marketd's own consolidated books",
                field="instruments",
            )
        for wanted in request.instruments:
            instrument, new = self._registry.declare(wanted)
            end = self._introduce(instrument, new=new) or end
            if self._consolidator is not None:
                self._consolidator.declare(instrument)
            declared.append(instrument)
            known = self._kernel.state(instrument).resume()
            books = self._publisher.books_of(instrument)
            resume.append(msgspec.structs.replace(known, book_lost_ts=lost_since(books)))
        if end:
            self._publisher.announce(self._registry.instruments)
        # an id may have been assigned a moment ago for somebody else, and not be on disk yet
        self._answer(peer, self._journal.end, Declared(id=request.id, instruments=declared, resume=resume))

    def _introduce(self, instrument: Instrument, *, new: bool = True) -> int:
        """Journal and arena of an instrument that has its id; the end of its frame, 0 when it needed none."""
        self._publisher.replace(instrument)
        end = 0
        # without a record in this journal the database may not know the id: an import made it, or the disk was full
        if new or not self._kernel.state(instrument).journaled:
            end = self.journal_instrument(instrument)
        self._registry.mark_live(instrument.id, self._clock.now())
        self._publisher.board(instrument)
        return end

    def journal_instrument(self, instrument: Instrument) -> int:
        """Journal an INSTRUMENT record, before the first use of its id; the end of its frame."""
        lot = self._kernel.introduce(instrument, self._clock.next())
        _log.info(
            "instrument %s has the id %d",
            instrument.name,
            instrument.id,
            extra={"action": "instrument_declared", "instrument": instrument.name},
        )
        try:
            return self._journal.append(instrument.id, lot.seq, lot.ts_known, lot.sections)
        except (JournalFull, JournalBehind):
            lot.state.seq -= 1
            lot.state.journaled = False  # still due: the next declaration journals it
            raise

    def step_of_clock(self, step_ns: int) -> None:
        now = self._clock.now()
        _CLOCK_STEPS.inc()
        _log.warning("the wall clock stepped by %.3f s", step_ns / 1e9, extra={"action": "clock_step"})
        event = coverage_record(Coverage.CLOCK_STEP, now - max(step_ns, 0), now, stream=0, detail=step_ns)
        self._due_events.append(event)
        self.tell_due_events()

    def tell_due_events(self) -> None:
        """Journal the daemon's own events that found no room when they happened, and what instruments kept live only:
        one that has fallen silent since would never say it."""
        for number, state in list(self._unstored.items()):
            self._close_unstored(state)
            if not state.unstored_since:
                del self._unstored[number]
        while self._due_events and self._journal.has_room:
            if not self.record_coverage(self._registry.by_name(GLOBAL_NAME), self._due_events[0]):
                return
            self._due_events.popleft()

    # ---- durability ---------------------------------------------------------------------------

    def _answer(self, peer: bytes, offset: int, answer: protocol.Message) -> None:
        """Send the answer once the journal is durable up to `offset`."""
        if offset <= self._journal.durable:
            self._send(peer, answer)
        elif self._waiting and offset < self._waiting[-1][0]:
            # the repetition of a batch that still waits: in front of what came after it
            place = next(i for i, entry in enumerate(self._waiting) if entry[0] > offset)
            self._waiting.insert(place, (offset, peer, answer))
        else:
            self._waiting.append((offset, peer, answer))

    def acknowledge(self) -> None:
        """Answer what has reached the disk; tell the writer, who gathers rows for longer than it is kept waiting."""
        durable = self._journal.durable
        if durable == self.acknowledged:
            return
        self.acknowledged = durable
        self._publisher.mark_durable(durable)
        waiting = self._waiting
        while waiting and waiting[0][0] <= durable:
            _, peer, answer = waiting.popleft()
            self._send(peer, answer)
        if time.monotonic_ns() - self._told_ns >= TELL_NS:
            self.tell_writer()

    def tell_writer(self) -> None:
        """How far the journal is durable, where the writer has not heard it yet."""
        if self._follower is not None and self.acknowledged > self._told:
            self._told, self._told_ns = self.acknowledged, time.monotonic_ns()
            self._send(self._follower, Durable(journal=self._journal.uuid, offset=self._told))

    @property
    def accepting(self) -> bool:
        """False while too many answers wait for the disk: then nothing more is read, and peers wait."""
        return len(self._waiting) < MAX_UNACKNOWLEDGED

    def _follow(self, peer: bytes, request: Follow) -> None:
        self._check_committed(request.committed)
        self._follower = peer
        self._told = self._journal.durable
        self._send(peer, Durable(id=request.id, journal=self._journal.uuid, offset=self._told))
        self.committed = max(self.committed, request.committed)

    def _on_committed(self, message: Committed) -> None:
        if message.journal == self._journal.uuid:
            self._check_committed(message.offset)
            self.committed = max(self.committed, message.offset)

    def _check_committed(self, offset: int) -> None:
        """What is not on disk here cannot be in the database: believed, it would free records that nobody has."""
        if offset > self._journal.durable:
            raise ProtocolError(
                f"committed: {offset} is beyond the {self._journal.durable} bytes of this journal", field="committed"
            )

    def next_rebuild(self) -> RebuildBars | None:
        """Bars of one instrument whose late trades are committed: to be computed from all their stored trades.

        Instruments take turns, so that one whose question fails holds nobody up.
        """
        waiting = [state for state in self._kernel.states if state.rebuild]
        waiting.sort(key=lambda state: (state.instrument.id <= self._asked_last, state.instrument.id))
        for state in waiting:
            due = [bar for bar, offset in state.rebuild.items() if offset <= self.committed]
            if due:
                self._asked_at = self.committed
                self._asked_last = state.instrument.id
                return RebuildBars(instrument=state.instrument.id, bars=due[: self._rebuild_at_once])
        return None

    def rebuild_failed(self) -> None:
        """The question of `next_rebuild` was not answered: the next ones are smaller."""
        self._rebuild_at_once = max(1, self._rebuild_at_once // 2)

    def adopt(self, request: RebuildBars, bars: Records) -> None:
        """Store and publish what was rebuilt. A bar that has no trades any more (retention) keeps its version, and the
        ledger says so. One that got another late trade since the question was asked is asked for again."""
        self._rebuild_at_once = MAX_REBUILD
        instrument = self._registry.by_id(request.instrument)
        state = self._kernel.state(instrument)
        self._close_unstored(state)
        found = list(zip(bars["timeframe"].tolist(), bars["ts"].tolist(), strict=True))
        whole = np.array([state.rebuild.get(bar, 0) <= self._asked_at for bar in found], dtype=bool)
        bars = bars[whole]
        if len(bars) and self._journal.has_room:
            self._take(self._kernel.adopt(instrument, bars, self._clock.next()))
        for timeframe, ts in request.bars:
            due = state.rebuild.get((timeframe, ts))
            if (timeframe, ts) in found or due is None or due > self._asked_at:
                continue
            if self._journal.has_room:  # or else it is asked for again
                del state.rebuild[timeframe, ts]
                event = coverage_record(
                    Coverage.LATE_REFUSED, ts, ts + timeframe * NS_PER_SECOND, stream=2, reason="its trades are gone"
                )
                self.record_coverage(instrument, event)

    def leave_orphans(self) -> None:
        """Books whose feed is gone are not LIVE any more."""
        for number in self._orphans.found():
            instrument = self._registry.by_id(number)
            state = self._kernel.state(instrument)
            if instrument.removed or state.newest == ABSENT:
                continue
            kind = self._kernel.kinds.by_name("book")
            record = stale_book(kind, state.newest)
            lot = self._kernel.accept(instrument, [(kind, record)], self._clock.next(), source="ingest")
            if self._take(lot) is None:
                self._keep_live_only(lot)
            if self._consolidator is not None:
                self._consolidate(self._consolidator, lot)
            _log.warning(
                "%s: its feed is gone, so its book is STALE", instrument.name, extra={"action": "book_orphaned"}
            )

    def close(self) -> None:
        self._orphans.close()

    def statistics(self) -> IngestStatistics:
        counts: Any = self._counts
        return IngestStatistics(
            batches=counts["batches"],
            records=counts["records"],
            refused=counts["refused"],
            rejected=counts["rejected"],
            repeated=counts["repeated"],
            failures=counts["failures"],
            live_only=counts["live_only"],
            unacknowledged=len(self._waiting),
            late_unknown=sum(len(state.rebuild) for state in self._kernel.states),
        )
