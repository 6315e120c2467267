"""The kernel of a lane: what one batch of one instrument becomes. No I/O, no clock.

    parts --validate--> good records --stamp (ts_known, seq)--> fold --> Lot: the sections of one journal frame,
                        refused ones --> quarantine                      and the rows for the arena's rings

The same kernel runs live (`daemon.ingest`), in imports (`daemon.import_lane`) and at every start, when `apply`
takes the journal's frames in again. Its whole state is `checkpoint()`; a restored kernel goes on bit for bit.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from marketd.daemon.producers import UNFRAMED, Producers, Remembered
from marketd.ipc.frames import Frame
from marketd.ipc.protocol import Refusal, Rejection, Resume
from marketd.market.candles import BarFold, Folded
from marketd.market.errors import InvalidArgument, RangeError
from marketd.market.instruments import Instrument
from marketd.market.records import (
    BY_NAME,
    CANDLE,
    COVERAGE,
    PRODUCER,
    TICK,
    TRADE,
    CandleFlag,
    Coverage,
    Kind,
    KindTable,
    Records,
    Source,
)
from marketd.market.times import ABSENT, NS_PER_SECOND, NS_PER_US
from marketd.market.trade_ids import TradeIds
from marketd.market.validation import DataValidator

KEPT_BARS = 16  # closed bars of each timeframe that a late trade revises without asking the database
NO_LIMIT = 2**62
SMALL_BATCH = 8  # up to here stamping with struct beats numpy

MAX_VENUE_BARS = 1_000  # (source, timeframe)s of an instrument whose newest bar is known
# room for what surrounds the records of a frame: its header and producer row, a section, a quarantined record's words
FRAME_BYTES, FRAME_PART_BYTES, QUARANTINE_ITEM_BYTES = 256, 64, 192

Ints = npt.NDArray[np.int64]
Indexes = npt.NDArray[np.int64] | None  # None: all of them

TRADE_KIND, CANDLE_KIND = BY_NAME["trade"], BY_NAME["candle"]
TICK_KIND, COVERAGE_KIND = BY_NAME["tick"], BY_NAME["coverage"]
PRODUCER_KIND, QUARANTINE_KIND = BY_NAME["producer"], BY_NAME["quarantine"]

_TIMES = struct.Struct("<q")
_STAMPS = struct.Struct("<qqq")  # every kind begins with its time, ts_known and seq
_PRODUCER_ROW = struct.Struct("<16sqii")

SectionData = tuple[int, int, int, Any]  # kind id, itemsize, count, buffer


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


class InstrumentState:
    """All that the kernel remembers of one instrument."""

    __slots__ = (
        "fold",
        "instrument",
        "last_trade_ts",
        "newest",
        "observed",
        "rebuild",
        "seq",
        "trade_ids",
        "ts_known",
        "unstored_count",
        "unstored_since",
        "venue_bars",
    )

    def __init__(self, instrument: Instrument, fold: BarFold, seq: int) -> None:
        self.instrument = instrument
        self.fold = fold
        self.trade_ids = TradeIds()
        self.seq = seq  # of the newest record
        self.newest = ABSENT
        self.observed = False  # since when, the fold knows
        self.last_trade_ts = ABSENT
        self.ts_known = 0
        self.rebuild: dict[
            tuple[int, int], int
        ] = {}  # (timeframe s, ts) -> journal offset that must be committed first
        self.venue_bars: dict[tuple[int, int], int] = {}  # (source, timeframe) -> newest ts
        self.unstored_since = 0  # ts_known of the first record kept live only; 0: none
        self.unstored_count = 0

    def resume(self) -> Resume:
        """What a feed must know to fetch only what is missing."""
        return Resume(
            last_trade_id=self.trade_ids.last,
            last_trade_ts=None if self.last_trade_ts == ABSENT else self.last_trade_ts,
            venue_bars={frame: ts for (source, frame), ts in self.venue_bars.items() if source == Source.VENUE},
        )


class Lot(NamedTuple):
    """What a batch became: one frame, visible together."""

    state: InstrumentState
    seq: int  # of its first record
    records: int  # how many it has, closed bars included
    ts_known: int
    accepted: int  # offered records that were taken
    refused: list[Refusal]
    sections: list[SectionData]
    rows: list[tuple[Kind, Records]]  # stamped records by kind, closed bars included
    unknown: list[tuple[int, int]]  # (timeframe s, ts): bars to be rebuilt from stored trades


class Kernel:
    def __init__(
        self, kinds: KindTable, timeframes: Sequence[int], *, grace_ns: int, max_skew_ns: int, first_seq: int = 1
    ) -> None:
        self.kinds = kinds
        self.timeframes = tuple(timeframes)
        self._grace_ns = grace_ns
        self.set_max_skew(max_skew_ns)
        self._first_seq = first_seq
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
            fold = BarFold(
                self.timeframes,
                price_scale=instrument.price_scale,
                size_scale=instrument.size_scale,
                quote_scale=instrument.quote_scale,
                grace_ns=self._grace_ns,
                keep=KEPT_BARS,
            )
            state = self._states[instrument.id] = InstrumentState(instrument, fold, self._first_seq - 1)
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
        first = seq = state.seq + 1
        rows: list[tuple[Kind, Records]] = []
        sections: list[SectionData] = []
        refused: list[Refusal] = []
        quarantined: list[Quarantined] = []
        unknown: list[tuple[int, int]] = []
        accepted = offered = 0

        def take(kind: Kind, records: Records) -> Records:
            nonlocal seq
            data, stamped = _stamp(kind, records, ts_known, seq)
            seq += len(stamped)
            sections.append((kind.id, kind.dtype.itemsize, len(stamped), data))
            rows.append((kind, stamped))
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
        needed = self._most_bytes(good, quarantined) if max_bytes != NO_LIMIT else 0
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
                folded = self._follow(state, kind, take(kind, records))
            except RangeError as error:
                sections.pop()
                rows.pop()
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
        if producer:
            row = _PRODUCER_ROW.pack(producer, batch, offered, accepted)
            sections.append((PRODUCER_KIND.id, PRODUCER.itemsize, 1, row))
        if quarantined:
            payload = msgspec.msgpack.encode(quarantined)
            sections.append((QUARANTINE_KIND.id, 1, len(payload), payload))
        state.seq = seq - 1
        self.ts_known = state.ts_known = ts_known
        # until its frame has an end, a bar that must be computed anew waits for ever
        state.rebuild |= dict.fromkeys(unknown, UNFRAMED)
        return Lot(state, first, seq - first, ts_known, accepted, refused, sections, rows, unknown)

    def _most_bytes(
        self, good: Sequence[tuple[int, Kind, Records, Indexes]], quarantined: Sequence[Quarantined]
    ) -> int:
        """The longest that the frame of a batch can be: with every bar that it could close or revise."""
        size = sum(QUARANTINE_ITEM_BYTES + len(q.payload) + 4 * len(q.detail) + 4 * len(q.source) for q in quarantined)
        bars = 0
        for _, kind, records, _ in good:
            size += FRAME_PART_BYTES + records.nbytes
            if kind is TRADE_KIND:
                bars += self._most_bars(records["ts_event"])
            elif kind is TICK_KIND:
                bars += 2 * len(self.timeframes)
            elif kind is COVERAGE_KIND:
                bars += len(records) * (KEPT_BARS + 2) * len(self.timeframes)
        return FRAME_BYTES + size + bars * CANDLE.itemsize

    def _most_bars(self, times: Ints) -> int:
        """Bars that trades of these times can close or revise: their own, and two open ones a timeframe."""
        count = len(times)
        if count <= SMALL_BATCH:
            return (count + 2) * len(self.timeframes)
        span_ns = int(times.max()) - int(times.min())
        return sum(min(count, span_ns // (frame * NS_PER_SECOND) + 2) + 2 for frame in self.timeframes)

    def remember(self, producer: bytes, batch: int, lot: Lot, offset: int = UNFRAMED) -> None:
        """The batch's number now has its outcome; its frame ends at `offset` of the journal.

        Called before the frame is appended too, without an offset: the checkpoint that an append may ask for must
        have this batch.
        """
        self.producers.remember(producer, batch, Remembered(lot.accepted, lot.refused, lot.seq, lot.ts_known, offset))

    def adopt(self, instrument: Instrument, bars: Records, ts_known: int) -> Lot:
        """New versions of bars, rebuilt from stored trades: stamped and framed, past the validator and the fold."""
        state = self.state(instrument)
        data, stamped = _stamp(CANDLE_KIND, bars, ts_known, state.seq + 1)
        first, state.seq = state.seq + 1, state.seq + len(bars)
        self.ts_known = state.ts_known = ts_known
        _forget_rebuilt(state, bars)
        sections = [(CANDLE_KIND.id, CANDLE.itemsize, len(bars), data)]
        return Lot(state, first, len(bars), ts_known, len(bars), [], sections, [(CANDLE_KIND, stamped)], [])

    def _follow(self, state: InstrumentState, kind: Kind, records: Records) -> Folded | None:
        """Let the instrument's state follow accepted records; what the fold says of them."""
        if kind is TRADE_KIND:
            folded = state.fold.fold(records)  # first: it may refuse them
            newest = int(records["ts_event"].max()) if len(records) > 1 else int(records["ts_event"][0])
            state.last_trade_ts = max(state.last_trade_ts, newest)
            state.newest = max(state.newest, newest)
            return folded
        if kind is TICK_KIND:
            newest = int(records["ts_event"].max())
            state.newest = max(state.newest, newest)
            return state.fold.tick(newest)
        if kind is CANDLE_KIND:
            _follow_bars(state, records)
        elif kind is COVERAGE_KIND:
            return _follow_coverage(state, records)
        return None

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
                producer, batch, _, accepted = _PRODUCER_ROW.unpack(section.payload)
                outcome = Remembered(accepted, refused, frame.seq, frame.ts_known, frame.end)
                self.producers.remember(producer, batch, outcome)
            elif section.kind not in self.kinds:
                last += section.count  # of a stream that is not declared any more: the writer sees to it
            elif section.kind != QUARANTINE_KIND.id:
                kind = self.kinds.by_id(section.kind)
                records = np.frombuffer(section.payload, dtype=kind.dtype)
                last += len(records)
                if kind is TRADE_KIND:
                    state.trade_ids.add(records)
                folded = self._follow(state, kind, records)
                if folded is not None:
                    state.rebuild |= dict.fromkeys(folded.unknown, frame.end)
                elif kind is CANDLE_KIND and len(frame.sections) == 1:  # as `adopt` makes them
                    _forget_rebuilt(state, records)
        state.seq = max(state.seq, last)
        state.ts_known = max(state.ts_known, frame.ts_known)
        self.ts_known = max(self.ts_known, frame.ts_known)

    def checkpoint(self) -> bytes:
        states = [
            {
                "id": state.instrument.id,
                "seq": state.seq,
                "newest": state.newest,
                "observed": state.observed,
                "last_trade_ts": state.last_trade_ts,
                "fold": state.fold.state(),
                "trade_ids": state.trade_ids.state(),
                "venue_bars": [[*key, ts] for key, ts in state.venue_bars.items()],
                "ts_known": state.ts_known,
                "rebuild": list(state.rebuild),
            }
            for state in self._states.values()
        ]
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
            state = self.state(by_id[entry["id"]])
            state.seq = entry["seq"]
            state.newest = entry["newest"]
            state.observed = entry["observed"]
            state.last_trade_ts = entry["last_trade_ts"]
            state.fold.restore(entry["fold"])
            state.trade_ids.restore(entry["trade_ids"])
            state.venue_bars = {(source, frame): ts for source, frame, ts in entry["venue_bars"]}
            state.ts_known = entry["ts_known"]
            state.rebuild = {(frame, ts): end for frame, ts in entry["rebuild"]}


def _stamp(kind: Kind, records: Records, ts_known: int, seq: int) -> tuple[Any, Records]:
    """Copies of the records with their time floored to µs, `ts_known` and `seq` set: as a buffer and as an array."""
    count = len(records)
    if count <= SMALL_BATCH:
        data = bytearray(records.tobytes())
        size = kind.dtype.itemsize
        for index in range(count):
            at = index * size
            ts = _TIMES.unpack_from(data, at)[0]
            _STAMPS.pack_into(data, at, ts - ts % NS_PER_US, ts_known, seq + index)
        return data, np.frombuffer(data, dtype=kind.dtype)
    stamped = records.copy()
    stamped[kind.time] -= stamped[kind.time] % NS_PER_US
    stamped["ts_known"] = ts_known
    stamped["seq"] = np.arange(seq, seq + count)
    return stamped.view(np.uint8).data, stamped


def _follow_bars(state: InstrumentState, bars: Records) -> None:
    """Remember the newest bar per source and timeframe; a bar at or before it revises (the flag is set in place)."""
    for index in range(len(bars)):
        source, ts = int(bars["source"][index]), int(bars["ts"][index])
        if source == Source.OWN:
            continue
        key = (source, int(bars["timeframe"][index]))
        if ts > state.venue_bars.get(key, ABSENT):
            state.venue_bars[key] = ts
            if len(state.venue_bars) > MAX_VENUE_BARS:
                # a bar of a forgotten timeframe that comes again merges in the database, only without its flag
                del state.venue_bars[next(iter(state.venue_bars))]
        elif bars.flags.writeable:
            bars["flags"][index] |= CandleFlag.REVISED


def _forget_rebuilt(state: InstrumentState, bars: Records) -> None:
    """Own bars that came by themselves were computed from the stored trades; a venue's are no answer to that."""
    if state.rebuild:
        own = bars[bars["source"] == Source.OWN]
        for timeframe, ts in zip(own["timeframe"].tolist(), own["ts"].tolist(), strict=True):
            state.rebuild.pop((timeframe, ts), None)


def _follow_coverage(state: InstrumentState, events: Records) -> Folded | None:
    """What the ledger's events make of the bars: full, partial, or closed as they stand."""
    changed = []
    for event in events:
        if event["stream"] not in (0, TRADE_KIND.id):
            continue  # what happened to the venue's own bars does not touch those made of trades
        start, end = int(event["ts_start"]), int(event["ts_end"])
        if event["state"] in (Coverage.GAP, Coverage.VENUE_DOWN):
            changed.append(state.fold.gap(start, end))
        elif event["state"] == Coverage.BACKFILLED:
            changed.append(state.fold.filled(start, end))
        elif event["state"] == Coverage.OBSERVED:
            state.observed = True
            changed.append(state.fold.observe(start))
        elif event["state"] == Coverage.ENDED:
            changed.append(state.fold.flush())
    bars = [each for each in changed if len(each)]
    return Folded(np.concatenate(bars), []) if bars else None


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
