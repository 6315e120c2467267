"""The kernel of a lane: what one batch of one instrument becomes. No I/O, no clock.

    parts --validate--> good records --stamp (ts_known, seq)--> fold --> Lot: the sections of one journal frame,
                        refused ones --> quarantine                      and the rows for the arena's rings

The same kernel runs live (`daemon.ingest`), in imports (`daemon.import_lane`) and at every start, when `apply`
takes the journal's frames in again. Its whole state is `checkpoint()`; a restored kernel goes on bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import msgspec
import numpy as np
import numpy.typing as npt

from marketd.daemon.few_trades import PRODUCER_ROW, pack_few, read_few, stamp_few
from marketd.daemon.following import follow_bars, follow_coverage, forget_rebuilt
from marketd.daemon.instrument_state import InstrumentState
from marketd.daemon.offered_books import MAX_IMBALANCES, OfferedBooks, has_offered
from marketd.daemon.producers import UNFRAMED, Producers, Remembered
from marketd.daemon.stamps import SMALL_BATCH, stamp
from marketd.ipc.frames import Body, Buffer, Frame, SectionInput, body_of
from marketd.ipc.protocol import Refusal, Rejection
from marketd.market.activity_bars import ActivityFold
from marketd.market.activity_specs import specs_of
from marketd.market.book_rows import read_records
from marketd.market.candles import BarFold, Folded
from marketd.market.errors import InvalidArgument, RangeError
from marketd.market.instruments import Instrument
from marketd.market.records import (
    ACTIVITY_BAR,
    BY_NAME,
    CANDLE,
    COVERAGE,
    PRODUCER,
    TICK,
    TRADE,
    Coverage,
    Kind,
    KindTable,
    Records,
)
from marketd.market.times import NS_PER_SECOND, NS_PER_US
from marketd.market.validation import DataValidator

DEFAULT_BAND_BPS = 10.0  # of the mid, for the imbalance of books that producers offer
KEPT_BARS = 16  # closed bars of each timeframe that a late trade revises without asking the database
NO_LIMIT = 2**62
# room for what surrounds the records of a frame: its header and producer row, a section, a quarantined record's words
FRAME_BYTES, FRAME_PART_BYTES, QUARANTINE_ITEM_BYTES = 256, 64, 192

Ints = npt.NDArray[np.int64]
Indexes = npt.NDArray[np.int64] | None  # None: all of them

TRADE_KIND, CANDLE_KIND = BY_NAME["trade"], BY_NAME["candle"]
TICK_KIND, COVERAGE_KIND = BY_NAME["tick"], BY_NAME["coverage"]
DELTA_KIND = BY_NAME["book_delta"]
BOOK_KIND, IMBALANCE_KIND = BY_NAME["book"], BY_NAME["imbalance"]  # a daemon's books may have another depth: by id only
INSTRUMENT_KIND, ACTIVITY_KIND = BY_NAME["instrument"], BY_NAME["activity_bar"]
PRODUCER_KIND, QUARANTINE_KIND = BY_NAME["producer"], BY_NAME["quarantine"]


class Quarantined(msgspec.Struct, frozen=True, array_like=True):
    """One refused record as it stands in the journal's quarantine section."""

    index: int
    part: int
    kind: str
    rule: str
    detail: str
    source: str
    payload: bytes


quarantine_decoder = msgspec.msgpack.Decoder(list[Quarantined])


class Lot(msgspec.Struct, gc=False):
    """What a batch became: one frame, visible together."""

    state: InstrumentState
    seq: int  # of its first record
    records: int  # how many it has, closed bars included
    ts_known: int
    accepted: int  # offered records that were taken
    refused: list[Refusal]
    body: Body  # of its frame
    data: list[tuple[Kind, Buffer]]  # stamped records by kind, closed bars included
    unknown: list[tuple[int, int]]  # (timeframe s, ts): bars to be rebuilt from stored trades

    @property
    def rows(self) -> list[tuple[Kind, Records]]:
        """`data` as arrays, made when asked for: nearly every lot is shown as the bytes that it is."""
        return [(kind, np.frombuffer(data, kind.dtype)) for kind, data in self.data]


class Kernel:
    def __init__(
        self,
        kinds: KindTable,
        timeframes: Sequence[int],
        *,
        grace_ns: int,
        max_skew_ns: int,
        first_seq: int = 1,
        band_bps: float = DEFAULT_BAND_BPS,
        activity_bars: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        """`activity_bars`: by instrument (`*`: each other one), such as `tick:1000`; see `market.activity_specs`."""
        self.kinds = kinds
        self.timeframes = tuple(timeframes)
        self._grace_ns = grace_ns
        self.set_max_skew(max_skew_ns)
        self._first_seq = first_seq
        self._band_bps = band_bps
        self._activity_bars = activity_bars
        # the longest frame of a few trades
        self._few_bytes = FRAME_BYTES + 3 * FRAME_PART_BYTES + SMALL_BATCH * TRADE.itemsize
        self._few_bytes += (SMALL_BATCH + 2) * len(self.timeframes) * CANDLE.itemsize
        self._states: dict[int, InstrumentState] = {}
        self.producers = Producers()
        self.ts_known = 0  # the newest of the lane

    def set_max_skew(self, max_skew_ns: int) -> None:
        self._validator = DataValidator(self.kinds, max_skew_ns)

    @property
    def states(self) -> Iterable[InstrumentState]:
        return self._states.values()

    def state(self, instrument: Instrument) -> InstrumentState:
        state = self._states.get(instrument.id)
        if state is None:
            scales = {
                "price_scale": instrument.price_scale,
                "size_scale": instrument.size_scale,
                "quote_scale": instrument.quote_scale,
            }
            fold = BarFold(self.timeframes, **scales, grace_ns=self._grace_ns, keep=KEPT_BARS)
            specs = specs_of(self._activity_bars, instrument)
            activity = ActivityFold(specs, **scales) if specs else None
            state = self._states[instrument.id] = InstrumentState(instrument, fold, self._first_seq - 1, activity)
        return state

    # ---- a batch ------------------------------------------------------------------------------

    def accept(
        self,
        instrument: Instrument,
        parts: Sequence[tuple[Kind, Records]],
        ts_known: int,
        *,
        source: str,
        producer: bytes = b"",
        batch: int = 0,
        rejected: Sequence[Rejection] = (),
        max_bytes: int = NO_LIMIT,
    ) -> Lot:
        """What the batch becomes; a record that cannot be kept is among `refused`.

        Raises InvalidArgument, and then nothing has changed, when its frame could be longer than `max_bytes`.
        """
        state = self.state(instrument)
        if len(parts) == 1 and not rejected:
            kind, records = parts[0]
            if kind is TRADE_KIND and 0 < len(records) <= SMALL_BATCH:
                lot = self.accept_few(instrument, records.tobytes(), ts_known, producer, batch, max_bytes)
                if lot is not None:
                    return lot
        first = seq = state.seq + 1
        shown: list[tuple[Kind, Buffer]] = []
        sections: list[SectionInput] = []
        refused: list[Refusal] = []
        quarantined: list[Quarantined] = []
        unknown: list[tuple[int, int]] = []
        accepted = offered = 0

        def take(kind: Kind, records: Records) -> Records:
            nonlocal seq
            data, stamped = stamp(kind, records, ts_known, seq)
            seq += len(stamped)
            sections.append((kind.id, kind.dtype.itemsize, len(stamped), data))
            shown.append((kind, data))
            return stamped

        # index -1: no record of a part, but something the sender could not read as one
        unreadable = [Quarantined(-1, 0, r.kind, r.rule, r.detail, source, r.payload) for r in rejected]
        good: list[tuple[int, Kind, Records, Indexes]] = []  # number of the part, its good records, where they stood
        for number, (kind, records) in enumerate(parts):
            offered += len(records)
            indexes = None
            verdict = self._validator.validate(kind, records, instrument, ts_known, state)
            if verdict.refused:
                refused += [Refusal(r.index, r.rule, r.detail, number) for r in verdict.refused]
                quarantined += [
                    Quarantined(r.index, number, kind.name, r.rule, r.detail, source, records[r.index].tobytes())
                    for r in verdict.refused
                ]
                assert verdict.good is not None  # it says which they are
                indexes = np.flatnonzero(verdict.good)
                records = records[indexes]
            if len(records):
                good.append((number, kind, records, indexes))
        quarantined += unreadable
        needed = self._most_bytes(state, good, quarantined) if max_bytes != NO_LIMIT else 0
        if needed > max_bytes:
            for _, kind, records, _ in good:
                if kind is TRADE_KIND:
                    state.trade_ids.remove(records)
            raise InvalidArgument(
                f"parts: with its bars and refused records the batch may take {needed} bytes, and one frame of the "
                f"journal takes {max_bytes}; send it in pieces",
                field="parts",
            )
        for number, kind, records, indexes in good:
            try:
                # the fold sees stamped records, and a fold that fails has changed nothing
                stamped = take(kind, records)
                folded = self._follow(state, kind, stamped)
            except RangeError as error:
                sections.pop()
                shown.pop()
                seq -= len(records)
                state.trade_ids.remove(records)
                places = range(len(records)) if indexes is None else indexes.tolist()
                refused += [
                    Refusal(index, error.rule, "" if at else str(error), number) for at, index in enumerate(places)
                ]
                # one item for all: one by one they could need more room than there is
                payload = records.tobytes()
                quarantined.append(Quarantined(-1, number, kind.name, error.rule, str(error), source, payload))
                continue
            accepted += len(records)
            if folded is not None:
                if len(folded.closed):
                    take(CANDLE_KIND, folded.closed)
                unknown += folded.unknown
            # trades that passed the validator and the fold: it cannot refuse them
            if state.activity is not None and kind is TRADE_KIND and len(bars := state.activity.add(stamped)):
                take(ACTIVITY_KIND, bars)
        lost = sum(parts[refusal.part][0].id == DELTA_KIND.id for refusal in refused)
        if lost:  # whoever makes a book again from its changes must know that some are not there
            span = ts_known, ts_known + NS_PER_US
            take(
                COVERAGE_KIND,
                coverage_record(Coverage.UNSTORED, *span, stream=DELTA_KIND.id, detail=lost, reason="refused"),
            )
        if state.offered is not None and len(made := state.offered.advance(state.newest)):
            take(IMBALANCE_KIND, made)
        if producer:
            row = PRODUCER_ROW.pack(producer, batch, offered, accepted)
            sections.append((PRODUCER_KIND.id, PRODUCER.itemsize, 1, row))
        if quarantined:
            payload = msgspec.msgpack.encode(quarantined)
            sections.append((QUARANTINE_KIND.id, 1, len(payload), payload))
        state.seq = seq - 1
        self.ts_known = state.ts_known = ts_known
        # until its frame has an end, a bar that must be computed anew waits for ever
        state.rebuild |= dict.fromkeys(unknown, UNFRAMED)
        return Lot(state, first, seq - first, ts_known, accepted, refused, body_of(sections), shown, unknown)

    def accept_few(
        self,
        instrument: Instrument,
        trades: bytes,
        ts_known: int,
        producer: bytes = b"",
        batch: int = 0,
        max_bytes: int = NO_LIMIT,
    ) -> Lot | None:
        """The live case with plain ints: one to `SMALL_BATCH` TRADE records and nothing else, all of them good.

        None: nothing has changed, `accept` takes them the long way.
        """
        state = self.state(instrument)
        if state.offered is not None or state.activity is not None or max_bytes < self._few_bytes:
            return None
        offered = read_few(trades)
        if not self._validator.admit_few(offered, instrument, ts_known, state.trade_ids):
            return None
        first = state.seq + 1
        stamped = stamp_few(offered, ts_known, first)
        try:
            folded = state.fold.fold_few(stamped)
        except RangeError:
            state.trade_ids.remove(np.frombuffer(trades, TRADE))
            return None
        count = len(stamped)
        newest = stamped[0][0] if count == 1 else max([row[0] for row in stamped])
        if newest > state.last_trade_ts:
            state.last_trade_ts = newest
        if newest > state.newest:
            state.newest = newest
        body, shown = pack_few(stamped, folded.closed, ts_known, producer, batch)
        records = count + len(folded.closed)
        state.seq += records
        self.ts_known = state.ts_known = ts_known
        if folded.unknown:
            state.rebuild |= dict.fromkeys(folded.unknown, UNFRAMED)
        return Lot(state, first, records, ts_known, count, [], body, shown, folded.unknown)

    def _most_bytes(
        self,
        state: InstrumentState,
        good: Sequence[tuple[int, Kind, Records, Indexes]],
        quarantined: Sequence[Quarantined],
    ) -> int:
        """The longest that the frame of a batch can be: with every bar that it could close or revise."""
        size = sum(QUARANTINE_ITEM_BYTES + len(q.payload) + 4 * len(q.detail) + 4 * len(q.source) for q in quarantined)
        size += FRAME_PART_BYTES + COVERAGE.itemsize if quarantined else 0
        bars = 0
        if state.offered is not None:
            size += MAX_IMBALANCES * IMBALANCE_KIND.dtype.itemsize
        for _, kind, records, _ in good:
            size += FRAME_PART_BYTES + records.nbytes
            if kind is TRADE_KIND:
                bars += self._most_bars(records["ts_event"])
                if state.activity is not None:
                    size += FRAME_PART_BYTES + state.activity.most(records) * ACTIVITY_BAR.itemsize
            elif kind is TICK_KIND:
                bars += 2 * len(self.timeframes)
            elif kind is COVERAGE_KIND:
                bars += len(records) * (KEPT_BARS + 2) * len(self.timeframes)
            elif kind.id == BOOK_KIND.id and has_offered(records):
                books = state.offered or OfferedBooks(self._band_bps)
                size += books.most(records) * IMBALANCE_KIND.dtype.itemsize
        return FRAME_BYTES + size + bars * CANDLE.itemsize

    def _most_bars(self, times: Ints) -> int:
        """Bars that trades of these times can close or revise: their own, and two open ones a timeframe."""
        count = len(times)
        if count <= SMALL_BATCH:
            return (count + 2) * len(self.timeframes)
        span_ns = int(times.max()) - int(times.min())
        return sum(min(count, span_ns // (frame * NS_PER_SECOND) + 2) + 2 for frame in self.timeframes)

    def remember(self, producer: bytes, batch: int, lot: Lot) -> Remembered:
        """The batch's number now has its outcome; whoever frames it sets `offset` to the end of its frame.

        Called before the frame is appended: the checkpoint that an append may ask for must have this batch.
        """
        outcome = Remembered(lot.accepted, lot.refused, lot.seq, lot.ts_known, UNFRAMED)
        self.producers.remember(producer, batch, outcome)
        return outcome

    def derive(self, instrument: Instrument, parts: Sequence[tuple[Kind, Records]], ts_known: int) -> Lot:
        """Records that ingest makes itself of others: stamped and framed, past the validator."""
        state = self.state(instrument)
        first = seq = state.seq + 1
        sections: list[SectionInput] = []
        shown: list[tuple[Kind, Buffer]] = []
        for kind, records in parts:
            data, stamped = stamp(kind, records, ts_known, seq)
            seq += len(stamped)
            sections.append((kind.id, kind.dtype.itemsize, len(stamped), data))
            shown.append((kind, data))
            self._follow(state, kind, stamped)
        state.seq = seq - 1
        self.ts_known = state.ts_known = ts_known
        return Lot(state, first, seq - first, ts_known, seq - first, [], body_of(sections), shown, [])

    def introduce(self, instrument: Instrument, ts_known: int) -> Lot:
        """The INSTRUMENT record of an id, which comes before its first use."""
        state = self.state(instrument)
        record = instrument.to_record()
        record["ts_event"] = ts_known
        data, _ = stamp(INSTRUMENT_KIND, record, ts_known, state.seq + 1)
        state.seq += 1
        state.journaled = True
        self.ts_known = state.ts_known = ts_known
        section = (INSTRUMENT_KIND.id, INSTRUMENT_KIND.dtype.itemsize, 1, data)
        return Lot(state, state.seq, 1, ts_known, 1, [], body_of([section]), [], [])

    def adopt(self, instrument: Instrument, bars: Records, ts_known: int) -> Lot:
        """New versions of bars, rebuilt from stored trades: stamped and framed, past the validator and the fold."""
        state = self.state(instrument)
        data, _ = stamp(CANDLE_KIND, bars, ts_known, state.seq + 1)
        first, state.seq = state.seq + 1, state.seq + len(bars)
        self.ts_known = state.ts_known = ts_known
        forget_rebuilt(state, bars)
        sections = [(CANDLE_KIND.id, CANDLE.itemsize, len(bars), data)]
        return Lot(state, first, len(bars), ts_known, len(bars), [], body_of(sections), [(CANDLE_KIND, data)], [])

    def _follow(self, state: InstrumentState, kind: Kind, records: Records) -> Folded | None:
        """Let the instrument's state follow accepted records; what the fold says of them."""
        if kind is TRADE_KIND:
            folded = state.fold.fold(records)  # first: it may refuse them
            newest = int(records["ts_event"].max()) if len(records) > 1 else int(records["ts_event"][0])
            state.last_trade_ts = max(state.last_trade_ts, newest)
            state.newest = max(state.newest, newest)
            if state.offered is not None:
                state.offered.trades(records)
            return folded
        if kind is TICK_KIND:
            newest = int(records["ts_event"].max())
            state.newest = max(state.newest, newest)
            return state.fold.tick(newest)
        if kind is CANDLE_KIND:
            follow_bars(state, records)
        elif kind is COVERAGE_KIND:
            return follow_coverage(state, records)
        elif kind.id == BOOK_KIND.id:
            self._follow_books(state, records)
        return None

    def _follow_books(self, state: InstrumentState, books: Records) -> None:
        state.newest = max(state.newest, int(books["ts_event"].max()))
        if state.offered is None and has_offered(books):
            state.offered = OfferedBooks(self._band_bps)
        if state.offered is not None:
            state.offered.books(books)

    # ---- the journal --------------------------------------------------------------------------

    def apply(self, frame: Frame, instrument: Instrument) -> None:
        """Take in a frame of the journal again, after a start."""
        state = self.state(instrument)
        quarantined: list[Quarantined] = []
        for section in frame.sections:
            if section.kind == QUARANTINE_KIND.id:
                quarantined = quarantine_decoder.decode(section.payload)
        refused = [Refusal(q.index, q.rule, q.detail, q.part) for q in quarantined if q.index >= 0]
        last = frame.seq - 1
        for section in frame.sections:
            if section.kind == PRODUCER_KIND.id:
                producer, batch, _, accepted = PRODUCER_ROW.unpack(section.payload)
                outcome = Remembered(accepted, refused, frame.seq, frame.ts_known, frame.end)
                self.producers.remember(producer, batch, outcome)
            elif section.kind not in self.kinds:
                last += section.count  # of a stream that is not declared any more: the writer sees to it
            elif section.kind != QUARANTINE_KIND.id:
                kind = self.kinds.by_id(section.kind)
                records = read_records(kind, section.itemsize, section.payload)
                last += len(records)
                if kind is INSTRUMENT_KIND:
                    state.journaled = True
                elif kind is TRADE_KIND:
                    state.trade_ids.add(records)
                folded = self._follow(state, kind, records)
                if folded is not None:
                    state.rebuild |= dict.fromkeys(folded.unknown, frame.end)
                elif kind is CANDLE_KIND and len(frame.sections) == 1:  # as `adopt` makes them
                    forget_rebuilt(state, records)
                elif kind is COVERAGE_KIND:
                    state.follow_unstored(records)
                if state.activity is not None and kind is TRADE_KIND:
                    state.activity.add(records)  # its bars are in the frame
        if state.offered is not None:
            state.offered.advance(state.newest)  # its records are in the frame
        state.seq = max(state.seq, last)
        state.ts_known = max(state.ts_known, frame.ts_known)
        self.ts_known = max(self.ts_known, frame.ts_known)

    def checkpoint(self) -> bytes:
        states = [state.checkpoint() for state in self._states.values()]
        return msgspec.msgpack.encode(
            {"version": 1, "ts_known": self.ts_known, "states": states, "producers": self.producers.state()}
        )

    def restore(self, checkpoint: bytes, instruments: Iterable[Instrument], end: int = 0) -> None:
        """Take over a checkpoint. Bars that were to be computed anew wait until the journal is committed up to `end`:
        the late trades that they wait for may have been appended just before the checkpoint.
        """
        by_id = {i.id: i for i in instruments}
        saved = msgspec.msgpack.decode(checkpoint)
        self.ts_known = saved["ts_known"]
        self.producers.restore(saved["producers"])
        for entry in saved["states"]:
            self.state(by_id[entry["id"]]).restore(entry, end, self._band_bps)


def coverage_record(
    state: Coverage, start_ns: int, end_ns: int, *, stream: int, detail: int = 0, reason: str = ""
) -> Records:
    """One COVERAGE record, shape (1,), unstamped."""
    record = np.zeros(1, dtype=COVERAGE)
    record["ts_event"] = record["ts_start"] = start_ns
    record["ts_end"] = end_ns
    record["detail"] = detail
    record["stream"] = stream
    record["state"] = state
    record["reason"] = reason.encode()[:40]
    return record


def tick_record(ts_event: int) -> Records:
    """One TICK record, shape (1,), unstamped."""
    record = np.zeros(1, dtype=TICK)
    record["ts_event"] = ts_event
    return record


def trade_section(lot: Lot) -> Records | None:
    """The lot's trades, if it has any."""
    return next((records for kind, records in lot.rows if kind.dtype is TRADE), None)
