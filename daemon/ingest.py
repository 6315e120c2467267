"""Ingest: the only writer of journal and arena. One message is one batch of one instrument.

    validate → stamp → fold → one journal frame → publish in the arena → PUB; acknowledge once the frame is on disk

The frame goes into the journal's front buffer (memory that outlives this process) before a reader can see it, the
journal's flusher puts it on disk, and the loop here never waits for a disk: a slow one delays
acknowledgements, never the arena.

`Ingest` handles messages; it owns no loop and no process (`daemon.actors.ingest` does). What it makes of them goes
through `lane` (journal and arena), what it answers through `acks` (once the disk has it); `rebuilds` has the bars that
are computed anew.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import zmq

from marketd.daemon import metrics
from marketd.daemon.acknowledger import Acknowledger
from marketd.daemon.clock import LiveClock
from marketd.daemon.consolidated import Consolidator, Merged
from marketd.daemon.few_trades import TRADE_BYTES
from marketd.daemon.hearing import Hearing
from marketd.daemon.kernel import COVERAGE_KIND, Kernel, Lot, coverage_record
from marketd.daemon.late_rebuilds import LateRebuilds
from marketd.daemon.left_books import stale_book, stale_figures
from marketd.daemon.live_lane import LiveLane
from marketd.daemon.observed_streams import BOOK
from marketd.daemon.orphans import Orphans, lost_since
from marketd.daemon.pieces import MAX_PIECES, too_scattered
from marketd.daemon.producers import LIVE_ONLY, repeated_outcome
from marketd.daemon.publisher import Publisher
from marketd.daemon.registry import Registry
from marketd.daemon.stamps import SMALL_BATCH
from marketd.ipc import protocol, sockets
from marketd.ipc.book_parts import read_fitting_part
from marketd.ipc.journal import Journal
from marketd.ipc.journal_errors import JournalFailed
from marketd.ipc.protocol import Alive, Declare, Declared, Failure, Follow, Outcome, Recall, Rejection
from marketd.market.errors import Busy, InvalidArgument, JournalFull, MarketdError, ProtocolError, UnknownInstrument
from marketd.market.instruments import CONSOLIDATED_VENUE, Instrument
from marketd.market.records import Coverage, Kind, Records
from marketd.market.times import ABSENT

_log = logging.getLogger(__name__)

_REFUSED = metrics.counter("refused_total", "Records refused and in quarantine, by rule", ["rule"])

# and every declared series
ACCEPTED_FROM_OUTSIDE = frozenset({"trade", "candle", "tick", "coverage", "book", "book_delta", "imbalance", "buckets"})
MAX_RULES, OTHER_RULES = 256, "other"  # counted by name; senders name their own for what they rejected themselves
MAX_DECLARED = 4_000  # instruments in one message: the answer, which tells what is known of each, has its limit too

Parts = list[tuple[Kind, Records]]


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
        self.live_only = live_only
        self._consolidator = consolidator
        self._decoder = protocol.Decoder(protocol.ToIngest)
        self.lane = LiveLane(kernel, journal, publisher, clock)
        self.rebuilds = LateRebuilds(self.lane, registry)
        self.acks = Acknowledger(journal, publisher, socket)
        self._orphans = Orphans(publisher.live_books)
        self.hearing = Hearing(self.lane)
        self.rules: Counter[str] = Counter()
        self._batches = self._records = self._refused = self._rejected = self._repeated = self._failures = 0

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
                self.hearing.alive(message.venue)
            elif isinstance(message, Declare):
                self._declare(peer, message)
            elif isinstance(message, Recall):
                self._recall(peer, message)
            elif isinstance(message, Follow):
                self.acks.follow(peer, message)
            else:
                self.acks.on_committed(message)
        except JournalFailed:
            raise  # ours, not the message's: an answer would make the sender drop what the next ingest will take
        except MarketdError as error:
            self._failures += 1
            self.acks.send(
                peer, Failure(id=protocol.request_id(header), code=error.code, message=str(error), field=error.field)
            )

    def _ingest(self, peer: bytes, request: protocol.Ingest, payloads: list[bytes]) -> None:
        producer, batch = request.producer, request.batch
        if len(producer) != 16:
            raise ProtocolError(f"producer: {len(producer)} bytes, it has 16", field="producer")
        kernel, lane = self._kernel, self.lane
        known = kernel.producers.find(producer, batch)
        if known is not None:
            self._repeated += 1
            self.acks.answer(peer, known.offset, repeated_outcome(request.id, batch, known))
            return
        if request.oldest:
            self._demand_order(request)
        instrument = self._instrument(request.instrument)
        is_few = _is_few_trades(request, payloads)
        parts = None if is_few else self._read_parts(request, payloads)
        self._publisher.board(instrument)  # what cannot be shown is refused while nothing has changed yet
        if lane.unstored:
            lane.close_unstored(kernel.state(instrument))
        room = self._journal.has_room
        if not room:
            self._demand_live_only(request)
        if request.live:
            self.hearing.hear(kernel.state(instrument), parts)
        lot = self._accept(request, payloads, instrument, parts)
        if request.live:
            self._orphans.follow(producer, lot)
        remembered = kernel.remember(producer, batch, lot)
        end = lane.take(lot) if room else None
        self._count(lot, request.rejected)
        outcome = Outcome(
            id=request.id,
            batch=batch,
            accepted=lot.accepted,
            refused=lot.refused,
            seq=lot.seq,
            ts_known=lot.ts_known,
            durable=end is not None,
        )
        if end is None:
            remembered.offset = LIVE_ONLY
            lane.keep_live_only(lot)
            self.acks.send(peer, outcome)
        else:
            remembered.offset = end
            # a feed that has several under way; another producer who has may still wait for this answer
            self.acks.answer(peer, end, outcome, patient=request.live and request.oldest > 0)
        if self._consolidator is not None:
            self._consolidate(self._consolidator, lot)

    def _demand_live_only(self, request: protocol.Ingest) -> None:
        """The journal has no room: only what may be shown without being stored goes on."""
        if self._journal.blocked is None:
            # not full, only slower than the records for a moment: nothing needs to go unstored for that
            raise Busy("batch: the journal waits for the disk; send it again", field="batch")
        if not (self.live_only and request.live):
            raise JournalFull(
                "the journal has used up journal.budget or its disk; nothing was accepted. Free disk space, let the "
                "writer catch up (marketd status), or raise journal.budget",
                field="journal.budget",
            )

    def _accept(
        self, request: protocol.Ingest, payloads: list[bytes], instrument: Instrument, parts: Parts | None
    ) -> Lot:
        """What the kernel makes of the batch. `parts` is None for a few trades: they are not read as arrays unless one
        of them is not as it should be."""
        kernel, ts_known, limit = self._kernel, self._clock.next(), self._journal.max_frame_bytes
        producer, batch = request.producer, request.batch
        if parts is None:
            lot = kernel.accept_few(instrument, payloads[0], ts_known, producer, batch, limit)
            if lot is not None:
                return lot
            parts = self._read_parts(request, payloads)
        return kernel.accept(
            instrument,
            parts,
            ts_known,
            source=request.source,
            producer=producer,
            batch=batch,
            rejected=request.rejected,
            max_bytes=limit,
        )

    def _consolidate(self, consolidator: Consolidator, lot: Lot) -> None:
        """The consolidated book that follows from a venue's lot: a lot of its own, with a moment of its own.

        Where the journal has no room it is left out: the next one is made of all that the venues showed meanwhile.
        """
        room = self._journal.has_room
        merged = consolidator.follow(lot.state.instrument, lot.rows, lot.ts_known, has_room=room)
        if merged is not None:
            self._show_merged(consolidator, merged)

    def look_at_consolidated(self) -> None:
        """Consolidated books that no venue is in any more, though nothing came that says so."""
        if self._consolidator is not None and self._journal.has_room:
            for merged in self._consolidator.look(self._clock.now()):
                self._show_merged(self._consolidator, merged)

    def _show_merged(self, consolidator: Consolidator, merged: Merged) -> None:
        try:
            instrument = self._consolidated_instrument(consolidator, merged.instrument)
        except MarketdError as error:
            _log.error("%s cannot be kept: %s", merged.instrument.name, error, extra={"action": "consolidated_refused"})
            return
        self.lane.take(self._kernel.derive(instrument, merged.parts, self._clock.next()))

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

    def _read_parts(self, request: protocol.Ingest, payloads: list[bytes]) -> Parts:
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

    def _count(self, lot: Lot, rejected: Sequence[Rejection]) -> None:
        self._batches += 1
        self._records += lot.accepted
        if rejected:
            self._rejected += len(rejected)
            self._count_rules(each.rule for each in rejected)
        if lot.refused:
            self._refused += len(lot.refused)
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
        declared, end = [], 0
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
        if end:
            self._publisher.announce(self._registry.instruments)
        self._answer_declared(peer, request.id, declared)

    def _recall(self, peer: bytes, request: Recall) -> None:
        if len(request.names) > MAX_DECLARED:
            raise InvalidArgument(f"names: {len(request.names)} in one message; at most {MAX_DECLARED}", field="names")
        wanted = set(request.names)
        self._answer_declared(peer, request.id, [i for i in self._registry.instruments if i.name in wanted])

    def _answer_declared(self, peer: bytes, request_id: int, instruments: list[Instrument]) -> None:
        resume = []
        for instrument in instruments:
            known = self._kernel.state(instrument).resume()
            books = self._publisher.books_of(instrument)
            resume.append(msgspec.structs.replace(known, book_lost_ts=lost_since(books)))
        # an id may have been assigned a moment ago for somebody else, and not be on disk yet
        self.acks.answer(peer, self._journal.end, Declared(id=request_id, instruments=instruments, resume=resume))

    def _introduce(self, instrument: Instrument, *, new: bool = True) -> int:
        """Journal and arena of an instrument that has its id; the end of its frame, 0 when it needed none."""
        self._publisher.replace(instrument)
        end = 0
        # without a record in this journal the database may not know the id: an import made it, or the disk was full
        if new or not self._kernel.state(instrument).journaled:
            end = self.lane.introduce(instrument)
        self._registry.mark_live(instrument.id, self._clock.now())
        self._publisher.board(instrument)
        return end

    def leave_orphans(self) -> None:
        """Books whose feed is gone are not LIVE any more."""
        for number in self._orphans.found():
            instrument = self._registry.by_id(number)
            state = self._kernel.state(instrument)
            if instrument.removed or state.newest == ABSENT:
                continue
            lot = self._kernel.derive(instrument, self._left(instrument, state.newest), self._clock.next())
            if self.lane.take(lot) is None:
                self.lane.keep_live_only(lot)
            if self._consolidator is not None:
                self._consolidate(self._consolidator, lot)
            _log.warning(
                "%s: its feed is gone, so its book is STALE", instrument.name, extra={"action": "book_orphaned"}
            )

    def _left(self, instrument: Instrument, ts_ns: int) -> list[tuple[Kind, Records]]:
        """A book that nobody keeps in step any more, its figures that are shown as LIVE, and what the ledger says."""
        kinds = self._kernel.kinds
        parts = [(kinds.by_name("book"), stale_book(kinds.by_name("book"), ts_ns))]
        for name, newest in self._publisher.live_figures_of(instrument):
            parts.append((kinds.by_name(name), stale_figures(ts_ns, name, newest)))
        if BOOK in self._kernel.state(instrument).observed:
            gap = coverage_record(Coverage.GAP, ts_ns, ABSENT, stream=BOOK, reason="its feed is gone")
            parts.append((COVERAGE_KIND, gap))
        return parts

    def close(self) -> None:
        self._orphans.close()

    def statistics(self) -> IngestStatistics:
        return IngestStatistics(
            batches=self._batches,
            records=self._records,
            refused=self._refused,
            rejected=self._rejected,
            repeated=self._repeated,
            failures=self._failures,
            live_only=self.lane.live_only,
            unacknowledged=len(self.acks),
            late_unknown=len(self.rebuilds),
        )


def _is_few_trades(request: protocol.Ingest, payloads: list[bytes]) -> bool:
    """Whether the batch is what the kernel takes as the bytes that it came as."""
    if len(payloads) != 1 or len(request.parts) != 1 or request.rejected:
        return False
    part = request.parts[0]
    return part.kind == "trade" and 0 < part.count <= SMALL_BATCH and len(payloads[0]) == part.count * TRADE_BYTES
