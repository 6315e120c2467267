"""The import lane: recorded traffic through the same decoder and the same kernel as live, on the recorded clock.

A lane of its own: journal (`<state>/import-journal`), clock and kernel, no arena. Every message keeps its recorded
receive time as `ts_known`. Sequence numbers are below those of the live lane, so that what was known live always
counts as later. The import is only for the time before an instrument's first live record: an import never changes
an answer that was given.

Importing a file twice, or going on after an interruption, skips what is there.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from marketd.daemon.clock import RecordedClock
from marketd.daemon.feeds.adapter import (
    BookDelta,
    BookSnapshot,
    Candles,
    Ignored,
    MessagesLost,
    Rejected,
    Series,
    Subscribed,
    Trades,
    VenueAdapter,
    VenueTime,
)
from marketd.daemon.feeds.captures import CaptureLine, CaptureReader, in_order, read_captures
from marketd.daemon.feeds.feed_model import book_settings
from marketd.daemon.feeds.series import conform, wanted
from marketd.daemon.feeds.survey import Survey, require_messages, survey
from marketd.daemon.feeds.venues import venue_of
from marketd.daemon.halves import Parts, halves
from marketd.daemon.import_books import ImportedBooks, Told
from marketd.daemon.import_coverage import RecordedCoverage, ended_with_recording
from marketd.daemon.import_ids import Ids
from marketd.daemon.instrument_state import MAX_REBUILD, InstrumentState
from marketd.daemon.kernel import (
    CANDLE_KIND,
    COVERAGE_KIND,
    NO_LIMIT,
    TICK_KIND,
    TRADE_KIND,
    Kernel,
    Lot,
    coverage_record,
)
from marketd.daemon.rebuild import rebuilt_bars
from marketd.daemon.recovery import restore_kernel
from marketd.daemon.settings import Config
from marketd.daemon.writer import Writer
from marketd.ipc.journal import Journal
from marketd.ipc.journal_errors import JournalBehind
from marketd.ipc.journal_reader import JournalReader
from marketd.ipc.protocol import Rejection
from marketd.market.errors import InvalidArgument, MarketdError
from marketd.market.instruments import Instrument, global_instrument
from marketd.market.records import Coverage, Kind, Records
from marketd.market.times import NS_PER_SECOND, NS_PER_US, isoformat_ns
from marketd.market.validation import DataValidator
from marketd.sql.connections import DatabaseConnectionManager

_log = logging.getLogger(__name__)

LANE = "import"
JOURNAL_DIRECTORY = "import-journal"
FIRST_SEQ = -(2**62)  # below every live sequence number
BATCH_BYTES = 8 << 20
LINES_PER_TURN = 500  # then the writer gets its turn


class ImportProgress(NamedTuple):
    file: str
    lines: int
    trades: int
    candles: int
    known: int  # skipped, because they are there already
    committed_bytes: int


class ImportReport(NamedTuple):
    lines: int
    trades: int
    candles: int
    known: int
    refused: int
    ignored: dict[str, int]
    rules: dict[str, int]
    damage: list[str]
    forming: int  # bars that are still open
    instruments: list[Instrument]
    others: dict[str, int]  # records of other streams that were taken in, such as book
    without_snapshot: list[str]  # symbols whose books changed, and of which the files have no snapshot


class CaptureImport:
    """One import: `run` it once."""

    def __init__(
        self, config: Config, database: DatabaseConnectionManager, ids: Ids, *, venue: str, close: bool = False
    ) -> None:
        self._config = config
        self._database = database
        self._ids = ids
        self._venue = venue_of(venue)
        self._close = close
        self._kernel = Kernel(
            config.kinds(),
            config.timeframe_seconds,
            grace_ns=config.grace,
            max_skew_ns=config.validation.max_skew,
            first_seq=FIRST_SEQ,
            band_bps=config.book.band_bps,
            activity_bars=config.activity_bars,
        )
        self._validator = DataValidator(config.kinds(), config.validation.max_skew)
        self._clock = RecordedClock()
        self._counts: Counter[str] = Counter()
        self._ignored: Counter[str] = Counter()
        self._rules: Counter[str] = Counter()
        self._others: Counter[str] = Counter()
        self._instruments: dict[str, Instrument] = {}
        self._known_ns: dict[str, int] = {}  # ts_known of the newest record from before this import, by symbol

    async def run(
        self, paths: Sequence[Path], progress: Callable[[ImportProgress], None] = lambda _: None
    ) -> ImportReport:
        """Import the files, one recording, in order. Returns when everything is committed."""
        readers = read_captures(list(paths))
        found = require_messages(await asyncio.to_thread(survey, paths, self._venue.name), paths)
        loop = asyncio.get_running_loop()
        writer: Writer | None = None

        def told(offset: int) -> None:
            if writer is not None:
                loop.call_soon_threadsafe(writer.on_durable, offset)

        directory = self._config.state_path / JOURNAL_DIRECTORY
        with ExitStack() as closing:
            self._journal = journal = closing.enter_context(
                Journal.open(
                    directory,
                    checkpoint=self._kernel.checkpoint,
                    segment_bytes=self._config.journal.segment,
                    budget_bytes=self._config.journal.budget,
                    on_durable=told,
                )
            )
            restore_kernel(journal, self._kernel, self._ids.registry)
            writer = Writer(
                self._database,
                closing.enter_context(JournalReader(directory)),
                self._config.kinds(),
                lane=LANE,
                batch_bytes=BATCH_BYTES,
                batch_age_seconds=0.0,
                committed=self._committed,
            )
            await writer.start()
            await self._declare(found)
            await self._take_in(readers, writer, progress)
            await self._settle(writer)
        return self._report(readers)

    async def _committed(self, offset: int) -> None:
        self._journal.release(offset, 0)

    # ---- instruments --------------------------------------------------------------------------

    async def _declare(self, found: Survey) -> None:
        has_books = self._keeps_books
        self._series = wanted(self._config.series(), found.venue.series)
        self._adapter: VenueAdapter = found.adapter(book=has_books, series=self._series)
        settings = book_settings(self._config.book)
        self._books = ImportedBooks(self._adapter.book_rule if has_books else None, settings, self._config.kinds())
        self._coverage = RecordedCoverage(numbered_trades=self._adapter.numbered_trades)
        declared = await self._ids.declare(found.instruments)
        self._registry = self._ids.registry
        for instrument, new in declared:
            self._instruments[instrument.symbol] = instrument
            self._adapter.adopt(instrument)
            if new:
                lot = self._kernel.introduce(instrument, found.first_ns - found.first_ns % NS_PER_US)
                self._append(lot)
            self._known_ns[instrument.symbol] = 0 if new else self._kernel.state(instrument).ts_known
            self._books.add(instrument, self._known_ns[instrument.symbol])

    @property
    def _keeps_books(self) -> bool:
        """Unless the configuration has none of this venue."""
        venue = self._config.venues.get(self._venue.name)
        return venue is None or venue.book

    def _refuse_live_times(self, instrument: Instrument, received_ns: int) -> None:
        since = self._registry.live_since(instrument.id)
        if since and received_ns >= since:
            raise InvalidArgument(
                f"capture: {instrument.name} has live records since {isoformat_ns(since)}, and this recording goes "
                "beyond that; an import must not change what was known then: feed it to the daemon as a producer",
                field="capture",
            )

    # ---- lines --------------------------------------------------------------------------------

    async def _take_in(
        self, readers: Sequence[CaptureReader], writer: Writer, progress: Callable[[ImportProgress], None]
    ) -> None:
        received_ns = 0
        for reader, line in in_order(readers, self._venue.name):
            received_ns = max(received_ns, line.recv_ns)
            self._books.reads(reader, line.conn)
            if line.kind != "ws":
                self._take_aside(line)
                continue
            self._take_line(line)
            self._counts["lines"] += 1
            if self._counts["lines"] % LINES_PER_TURN == 0:
                await self._write_behind(writer)
                progress(self._progress(reader, writer))
        for instrument, parts in self._books.finish(received_ns):
            self._accept(instrument, parts, [], received_ns)
        progress(self._progress(readers[-1], writer))

    async def _write_behind(self, writer: Writer) -> None:
        """Let the writer keep up: at most one batch of the journal is ahead of the database."""
        await asyncio.sleep(0)
        while self._journal.durable - writer.offset > BATCH_BYTES:
            await writer.step()

    def _take_line(self, line: CaptureLine) -> None:
        for instrument, parts, rejected in self._parts_of(line):
            if parts or rejected:
                self._accept(instrument, parts, rejected, line.recv_ns)

    def _take_aside(self, line: CaptureLine) -> None:
        """Connections and REST answers."""
        told: list[Told] = []
        if line.kind == "connect":
            told = self._books.connected(line.url, line.recv_ns)
        elif line.kind == "rest":
            told = self._answer(line)
        if line.kind != "rest" and not told:
            self._ignored[f"{line.kind} line"] += 1
        for instrument, parts in told:
            self._accept(instrument, parts, [], line.recv_ns)

    def _answer(self, line: CaptureLine) -> list[Told]:
        """Books begin with answers, and some series come by them. All else that they say the stream has said."""
        events = self._adapter.decode_rest(line.url, line.payload)
        taken = [event for event in events if isinstance(event, (BookSnapshot, Series, Rejected))]
        if not taken or len(taken) < len(events):
            self._ignored["rest line"] += 1
            return []
        for event in taken:
            if isinstance(event, Rejected):
                self._accept(*self._refused(event), line.recv_ns)
        told = self._books.take([event for event in taken if isinstance(event, BookSnapshot)], line.recv_ns)
        return told + [told for each in taken if isinstance(each, Series) for told in self._told(each, line.recv_ns)]

    def _parts_of(self, line: CaptureLine) -> Iterator[tuple[Instrument, list[tuple[Kind, Records]], list[Rejection]]]:
        """What one message brings, by instrument; ticks for the quiet ones."""
        events = self._adapter.decode_many([line.payload])
        for event in events:
            if isinstance(event, Trades):
                for instrument, parts in self._books.trades(event.symbol, event.records, line.recv_ns):
                    yield instrument, parts, []
                instrument = self._instruments[event.symbol]
                state = self._kernel.state(instrument)
                fresh = self._fresh(state, event.records)
                kept = [(kind, self._keepable(kind, records, instrument, line.recv_ns)) for kind, records in fresh]
                yield instrument, [*self._coverage.before(state, kept), *fresh], []
            elif isinstance(event, Candles):
                yield self._instruments[event.symbol], [(CANDLE_KIND, event.records)], []
            elif isinstance(event, Series):
                for instrument, parts in self._told(event, line.recv_ns):
                    yield instrument, parts, []
            elif isinstance(event, VenueTime):
                for instrument in self._instruments.values():
                    yield instrument, self._coverage.at(self._kernel.state(instrument), event.ts_ns), []
            elif isinstance(event, Rejected):
                yield self._refused(event)
            elif not isinstance(event, (BookSnapshot, BookDelta, MessagesLost, Subscribed)):  # the last is named, too
                self._ignored[event.name if isinstance(event, Ignored) else type(event).__name__] += 1
        for instrument, parts in self._books.take(events, line.recv_ns):
            yield instrument, parts, []

    def _refused(self, event: Rejected) -> tuple[Instrument, list[tuple[Kind, Records]], list[Rejection]]:
        instrument = self._instruments.get(event.symbol or "", global_instrument(self._config.daemon_no))
        return instrument, [], [Rejection("message", event.rule, event.detail, event.payload)]

    def _told(self, event: Series, received_ns: int) -> list[Told]:
        """Records of a declared series; none of what was imported before, of which only the time tells."""
        if received_ns <= self._known_ns[event.symbol]:
            self._counts["known"] += len(event.records)
            return []
        kind = self._series[event.stream]
        return [(self._instruments[event.symbol], [(kind, conform(event.records, kind))])]

    def _fresh(self, state: InstrumentState, records: Records) -> list[tuple[Kind, Records]]:
        repeated = state.trade_ids.repeated(records)
        if repeated is not None and repeated.any():
            self._counts["known"] += int(repeated.sum())
            records = records[~repeated]
        return [(TRADE_KIND, records)] if len(records) else []

    def _keepable(self, kind: Kind, records: Records, instrument: Instrument, received_ns: int) -> Records:
        """Those that no rule will refuse."""
        verdict = self._validator.validate(kind, records, instrument, max(received_ns, self._clock.last))
        return records if verdict.good is None else records[verdict.good]

    def _accept(
        self, instrument: Instrument, parts: list[tuple[Kind, Records]], rejected: list[Rejection], received_ns: int
    ) -> None:
        self._refuse_live_times(instrument, received_ns)
        self._clock.set(received_ns)
        for kind, records in parts:
            if kind in (TRADE_KIND, CANDLE_KIND):
                self._counts[kind.name] += len(records)
            elif kind not in (TICK_KIND, COVERAGE_KIND):  # what the lane itself says of the recording
                self._others[kind.name] += len(records)
        self._rules.update(r.rule for r in rejected)
        self._counts["refused"] += len(rejected)
        self._take(instrument, parts, rejected)

    def _take(self, instrument: Instrument, parts: Parts, rejected: Sequence[Rejection]) -> None:
        """One frame, or more where one would be too long."""
        try:
            lot = self._accepted(instrument, parts, rejected, self._journal.max_frame_bytes)
        except InvalidArgument:
            smaller = halves(parts, rejected)
            for half in smaller:
                self._take(instrument, *half)
            if smaller:
                return
            # how long a frame may get is estimated from above: what cannot be made smaller is tried as it is
            lot = self._accepted(instrument, parts, rejected, NO_LIMIT)
        self._rules.update(r.rule for r in lot.refused)
        self._counts["refused"] += len(lot.refused)
        self._append(lot)

    def _accepted(self, instrument: Instrument, parts: Parts, rejected: Sequence[Rejection], max_bytes: int) -> Lot:
        return self._kernel.accept(
            instrument, parts, self._clock.next(), source=LANE, rejected=rejected, max_bytes=max_bytes
        )

    def _append(self, lot: Lot) -> None:
        while True:
            try:
                end = self._journal.append(lot.state.instrument.id, lot.seq, lot.ts_known, lot.body)
                lot.state.rebuild |= dict.fromkeys(lot.unknown, end)
                return
            except JournalBehind:
                self._journal.wait_room(1.0)

    # ---- the end ------------------------------------------------------------------------------

    async def _settle(self, writer: Writer) -> None:
        """Everything durable, and everything committed."""
        for instrument in self._instruments.values():
            self._end(instrument)
        await self._commit(writer)
        while await self._rebuild():
            await self._commit(writer)

    def _end(self, instrument: Instrument) -> None:
        """Nobody has heard anything beyond the files."""
        state = self._kernel.state(instrument)
        ended = ended_with_recording(state, close=self._close)
        if ended is not None:
            # where the files brought nothing new the clock has not moved, or not as far
            known_ns = max(self._clock.last, state.ts_known, state.newest)
            self._accept(instrument, [(COVERAGE_KIND, ended)], [], known_ns)

    async def _commit(self, writer: Writer) -> None:
        if not await asyncio.to_thread(self._journal.wait_durable, self._journal.end, 60.0):
            raise MarketdError(
                f"the import's journal could not be flushed: {self._journal.failure or 'the disk is too slow'}"
            )
        writer.on_durable(self._journal.end)
        await writer.drain()

    async def _rebuild(self) -> bool:
        """Adopt bars whose late trades the fold could not merge; False when there was none left. All is committed."""
        state = next((state for state in self._kernel.states if state.rebuild), None)
        if state is None:
            return False
        instrument, wanted = state.instrument, list(state.rebuild)[:MAX_REBUILD]
        async with self._database.acquire() as connection:
            bars = await rebuilt_bars(connection, instrument, wanted)
        self._clock.set(max(self._clock.last, self._kernel.ts_known) + NS_PER_US)
        if len(bars):
            self._append(self._kernel.adopt(instrument, bars, self._clock.next()))
        for timeframe, ts in wanted:
            if state.rebuild.pop((timeframe, ts), None) is not None:  # it keeps the version that it has
                event = coverage_record(
                    Coverage.LATE_REFUSED, ts, ts + timeframe * NS_PER_SECOND, stream=2, reason="its trades are gone"
                )
                self._take(instrument, [(COVERAGE_KIND, event)], [])
        return True

    def _progress(self, reader: CaptureReader, writer: Writer) -> ImportProgress:
        counts = self._counts
        return ImportProgress(
            reader.path.name, counts["lines"], counts["trade"], counts["candle"], counts["known"], writer.offset
        )

    def _forming(self, instrument: Instrument) -> int:
        return len(self._kernel.state(instrument).fold.open_bars())

    def _report(self, readers: Sequence[CaptureReader]) -> ImportReport:
        counts = self._counts
        if self._books.others:
            self._ignored["book of another connection"] = self._books.others
        for reader in readers:
            self._ignored.update({f"line: {reason}": count for reason, count in reader.skipped.items()})
        return ImportReport(
            lines=counts["lines"],
            trades=counts["trade"],
            candles=counts["candle"],
            known=counts["known"],
            refused=counts["refused"],
            ignored=dict(self._ignored),
            rules=dict(self._rules),
            damage=[reader.damage for reader in readers if reader.damage],
            # --close gave versions of them all
            forming=0 if self._close else sum(map(self._forming, self._instruments.values())),
            instruments=list(self._instruments.values()),
            others=dict(self._others),
            without_snapshot=self._books.without_snapshot,
        )
