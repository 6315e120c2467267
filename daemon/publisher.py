"""What readers see: the arena of every instrument and the PUB stream. Owned by ingest, its only writer.

A lot becomes visible at once: its rows go into their rings, then one descriptor publishes them all; the stream follows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zmq

from marketd.daemon.heritage import Heritage, read_begun, read_heritage
from marketd.daemon.instrument_state import InstrumentState
from marketd.daemon.kernel import Kernel, Lot
from marketd.daemon.rings import BUCKET_TIMEFRAMES, SOURCES, RingPlan, bucket_ring, candle_ring
from marketd.daemon.settings import Book, Cache
from marketd.ipc.arena import ArenaLayoutChanged, ArenaState, Identity, RingSpec
from marketd.ipc.arena_writer import ArenaWriter
from marketd.ipc.paths import arena_path
from marketd.ipc.presence import write_instruments
from marketd.ipc.protocol import StreamHeader, encode
from marketd.market.instruments import CONSOLIDATED_VENUE, Instrument
from marketd.market.records import BY_NAME, CANDLE, BookFlag, BookState, Kind, Records
from marketd.market.times import timeframe_name

_log = logging.getLogger(__name__)

_TIMED = {kind.id for kind in (BY_NAME["candle"], BY_NAME["buckets"])}  # one ring and topic a timeframe
BUCKETS_KIND = BY_NAME["buckets"]
# On the stream without a ring: who rebuilds a book needs all changes, which the database has; a tick is kept nowhere.
_NO_RING = frozenset({"book_delta", "tick"})
_DONTWAIT = int(zmq.DONTWAIT)  # flags of an enum are slow to combine


class PublisherStatistics(NamedTuple):
    instruments: int
    arena_bytes: int
    messages: int


class Board:
    """One instrument's arena and topics."""

    def __init__(
        self,
        state: InstrumentState,
        arena: ArenaWriter,
        specs: Sequence[RingSpec],
        timeframes: Sequence[int],
        *,
        is_new: bool,
    ) -> None:
        self.state = state
        self.arena = arena
        self.is_new = is_new  # not filled yet: its rings are empty
        self.rings = {spec.name: spec.capacity for spec in specs}
        self.heritage: Heritage | None = None  # what it has of the arena that it replaced
        self._rings = {spec.name: index for index, spec in enumerate(specs)}
        # of the kinds that have one ring, by the kind's name
        self._writers = {spec.name: arena.rings[index] for index, spec in enumerate(specs)}
        self._candle_rings = {
            (int(source), frame): candle_ring(frame, name) for source, name in SOURCES.items() for frame in timeframes
        }
        instrument = state.instrument
        suffix = f".{instrument.venue}.{instrument.symbol}."
        self._bucket_rings = {frame: self._rings.get(bucket_ring(frame)) for frame in BUCKET_TIMEFRAMES}
        self.topics = {name: (name + suffix).encode() for name in (*self._rings, *_NO_RING)}
        # (kind id, timeframe) -> topic, of the kinds that have one a timeframe
        timed = [("candle", timeframes), ("buckets", BUCKET_TIMEFRAMES)]
        self.timed_topics = {
            (BY_NAME[name].id, frame): f"{name}.{timeframe_name(frame)}{suffix}".encode()
            for name, frames in timed
            for frame in frames
        }

    def show(self, lot: Lot, journal_offset: int) -> None:
        self.write(lot)
        state = self.state
        self.arena.publish(lot.ts_known, state.newest, state.seq, journal_offset, state.fold.open_table)

    def write(self, lot: Lot) -> None:
        """Into the rings; the next publication makes it visible."""
        for kind, data in lot.data:
            ring = self._writers.get(kind.name)
            if ring is not None:
                ring.append(data)
            elif kind.id in _TIMED:
                records = np.frombuffer(data, kind.dtype)
                show = self._show_buckets if kind is BUCKETS_KIND else self._show_bar
                for index in range(len(records)):
                    show(records[index : index + 1])

    def inherit(self, heritage: Heritage) -> None:
        """Take over the rings of the arena that this one replaces, and with them how far it was."""
        self.heritage = heritage
        for ring, records in heritage.rings.items():
            number = self._rings[ring]
            self.arena.append(number, records)
            self.arena.complete_since(number, heritage.since[ring])
        cut = heritage.cut
        self.arena.set_filling(True)  # before the publication: killed behind it, the successor fills the others
        self.arena.publish(cut.ts_known, cut.ts_event, cut.seq, cut.journal_offset)

    def fill(self, ring: str, records: Records, *, complete: bool) -> None:
        """Warm start: the newest records that the database has; `complete` when there were no more."""
        number = self._rings[ring]
        self.arena.append(number, records)
        self.arena.complete_since(number, 0 if complete else int(records.tolist()[0][0]) + 1)

    def lacks_past(self, ring: str) -> None:
        """Warm start: nothing was filled in, so nothing is said of what was before the journal's newest."""
        self.arena.complete_since(self._rings[ring], max(self.state.newest, self.state.ts_known) + 1)

    def publish_as_is(self, journal_offset: int) -> None:
        """Make visible what was filled in, as the kernel knows the instrument now."""
        state = self.state
        newest = max(self.arena.ts_known, state.ts_known)
        self.arena.publish(newest, state.newest, state.seq, journal_offset, state.fold.open_table)
        self.arena.set_filling(False)
        self.is_new = False

    def rings_of(self, kind: Kind, records: Records) -> list[str]:
        """The ring of each record; "" where none has it."""
        if kind is BUCKETS_KIND:
            return [bucket_ring(frame) for frame in records["timeframe"].tolist()]
        if kind.dtype is not CANDLE:
            return [kind.name] * len(records)
        keys = zip(records["source"].tolist(), records["timeframe"].tolist(), strict=True)
        return [self._candle_rings.get(key, "") for key in keys]

    def newest(self, ring: str) -> Records:
        """The newest published or filled record of a ring, shape (1,), or (0,) where it has none."""
        number = self._rings[ring]
        place = self.arena.layout.rings[number]
        head = self.arena.head(number)
        return np.frombuffer(self.arena.records(number, max(0, head - 1), head), place.dtype)

    def has_ring(self, ring: str) -> bool:
        return ring in self._rings

    def all_of(self, ring: str) -> Records:
        """What a ring holds, oldest first."""
        number = self._rings[ring]
        place = self.arena.layout.rings[number]
        head = self.arena.head(number)
        return np.frombuffer(self.arena.records(number, max(0, head - place.capacity), head), place.dtype)

    def _show_bar(self, bar: Records) -> None:
        ring = self._candle_rings.get((int(bar["source"][0]), int(bar["timeframe"][0])))
        number = self._rings.get(ring or "")
        if number is not None:
            self.arena.put(number, bar)

    def _show_buckets(self, record: Records) -> None:
        ring = self._bucket_rings.get(int(record["timeframe"][0]))
        if ring is not None:
            self.arena.append(ring, record)


class Publisher:
    """Boards by instrument, and the PUB socket with its numbered topics."""

    def __init__(
        self,
        runtime_dir: Path,
        instance: str,
        journal: bytes,
        kernel: Kernel,
        cache: Cache,
        stream: zmq.Socket[bytes],
        book: Book | None = None,
    ) -> None:
        self._runtime_dir = runtime_dir
        self._instance = instance
        self._journal = journal
        self._kernel = kernel
        self._plan = RingPlan(kernel.kinds, kernel.timeframes, cache, book or Book())
        self._stream = stream
        self._numbers: dict[bytes, int] = {}
        self._unmarked: dict[int, Board] = {}  # shown since the last durable offset was told
        self._subscribed: set[bytes] = set()  # topic prefixes that somebody wants
        self._boards: dict[int, Board] = {}
        self._messages = 0
        self._state = ArenaState.WARMING
        self._beaten: tuple[int, int] | None = None  # offsets of the last heartbeat
        self.last_alive_ns = 0  # the last heartbeat of an ingest before this one, as shared memory has it
        self._unannounced: list[Instrument] | None = None  # that could not be listed yet

    def board(self, instrument: Instrument) -> Board:
        board = self._boards.get(instrument.id)
        if board is None:
            board = self._boards[instrument.id] = self._open(instrument)
        return board

    def replace(self, instrument: Instrument) -> None:
        """Retire what an older id of this name has: an arena is found by name, and has one owner."""
        for board in list(self._boards.values()):
            other = board.state.instrument
            if other.name == instrument.name and other.id != instrument.id:
                self.remove(other)

    def _open(self, instrument: Instrument) -> Board:
        path = arena_path(self._runtime_dir, instrument.name)
        path.parent.mkdir(mode=0o750, exist_ok=True)
        state = self._kernel.state(instrument)
        specs = self._plan.rings_for(instrument, state.activity.count if state.activity is not None else 0)
        shape: dict[str, Any] = {
            "instance": self._instance,
            "instrument": instrument,
            "rings": specs,
            "open_slots": 2 * len(self._kernel.timeframes),
            "journal": self._journal,
        }
        heritage, begun = None, False
        successor = path.with_name(path.name + ".next")
        successor.unlink(missing_ok=True)  # of an ingest that was killed before it had inherited
        try:
            arena = ArenaWriter.attach(path, **shape)
            # whoever made it may have been killed before it was filled
            is_new, begun = arena.number == 0 or arena.is_filling, arena.number > 0 and arena.is_filling
            if self._beaten is None:
                self.last_alive_ns = max(self.last_alive_ns, arena.alive_ns)
        except FileNotFoundError:
            arena, is_new = ArenaWriter.create(path, **shape), True
        except ArenaLayoutChanged:
            # A changed layout is a new file. It takes the name once it has inherited: killed before that, what the old
            # one has, perhaps live only, is still there.
            heritage = read_heritage(path, Identity.of(self._instance, self._journal, instrument), specs)
            arena, is_new = ArenaWriter.create(successor, **shape), True
        if self._beaten is not None:  # declared in a running daemon: alive from the start
            arena.heartbeat(time.monotonic_ns(), time.time_ns(), *self._beaten)
        arena.set_state(self._state)
        board = Board(state, arena, specs, self._kernel.timeframes, is_new=is_new)
        try:
            if begun:
                board.heritage = read_begun(path)
            if heritage is not None:
                board.inherit(heritage)
            if arena.path != path:
                arena.take_name(path)
        except BaseException:  # whatever it was, the file must not stay locked by this process
            arena.close()
            raise
        return board

    @property
    def boards(self) -> list[Board]:
        return list(self._boards.values())

    @property
    def new_boards(self) -> list[Board]:
        """Those whose arenas are not filled yet."""
        return [board for board in self._boards.values() if board.is_new]

    def set_state(self, state: ArenaState) -> None:
        self._state = state
        for board in self._boards.values():
            board.arena.set_state(state)

    def show(self, lot: Lot, journal_offset: int) -> None:
        instrument = lot.state.instrument.id
        board = self._boards.get(instrument)
        if board is None:
            return  # a bar computed anew for an id that a finer precision replaced: the arena is the other's
        board.show(lot, journal_offset)
        self._unmarked[instrument] = board
        numbers = self._numbers
        for kind, data in lot.data:
            if kind.id in _TIMED:
                self._send_timed(board, kind, np.frombuffer(data, kind.dtype), lot)
            elif (topic := board.topics.get(kind.name)) is not None:
                # PUB drops silently at its high-water mark; the number shows a subscriber what it missed
                number = numbers[topic] = numbers.get(topic, 0) + 1
                if self._subscribed:  # sending to nobody costs as much as folding a trade
                    self._send(topic, number, kind, np.frombuffer(data, kind.dtype), lot)

    def _send_timed(self, board: Board, kind: Kind, records: Records, lot: Lot) -> None:
        """Records of a kind that has a topic a timeframe: one by one."""
        for index, timeframe in enumerate(records["timeframe"].tolist()):
            topic = board.timed_topics.get((kind.id, timeframe))
            if topic is not None:
                number = self._numbers[topic] = self._numbers.get(topic, 0) + 1
                if self._subscribed:
                    self._send(topic, number, kind, records[index : index + 1], lot)

    def _send(self, topic: bytes, number: int, kind: Kind, records: Records, lot: Lot) -> None:
        header = StreamHeader(
            number, kind.name, len(records), lot.state.instrument.id, lot.ts_known, int(records["seq"][0])
        )
        self._stream.send_multipart((topic, encode(header), records.tobytes()), _DONTWAIT)
        self._messages += 1

    def heard(self, message: bytes) -> None:
        """What XPUB tells: `1` and a prefix that is now subscribed to, `0` and one that nobody wants any more."""
        if message[:1] == b"\x01":
            self._subscribed.add(message[1:])
        elif message[:1] == b"\x00":  # anything else is a peer's own message, which XPUB hands up too
            self._subscribed.discard(message[1:])

    @property
    def live_books(self) -> list[int]:
        """Instruments whose newest book is LIVE by a feed's word, as shared memory has it."""
        found = []
        for number, board in self._boards.items():
            if board.state.instrument.venue == CONSOLIDATED_VENUE or not board.has_ring("book"):
                continue
            book = board.newest("book")
            if len(book) and book["state"][0] == BookState.LIVE and not book["flags"][0] & BookFlag.OFFERED:
                found.append(number)
        return found

    def live_figures_of(self, instrument: Instrument) -> list[tuple[str, Records]]:
        """The newest imbalance, and buckets of each timeframe, that shared memory shows as of a LIVE book, by kind."""
        board = self._boards.get(instrument.id)
        if board is None:
            return []
        rings = ["imbalance", *map(bucket_ring, BUCKET_TIMEFRAMES)]
        found = [(ring.partition(".")[0], board.newest(ring)) for ring in rings if board.has_ring(ring)]
        return [(kind, newest) for kind, newest in found if len(newest) and newest["state"][0] == BookState.LIVE]

    def books_of(self, instrument: Instrument) -> Records:
        """The BOOK records of an instrument that shared memory holds, oldest first."""
        board = self._boards.get(instrument.id)
        if board is None or not board.has_ring("book"):
            return np.empty(0, BY_NAME["book"].dtype)
        return board.all_of("book")

    def announce(self, instruments: Sequence[Instrument]) -> None:
        """Tell processes of this host which instruments there are; where there is no room for that now, with a later
        heartbeat: shared memory that is full must not end the one who writes to it."""
        listed = [instrument for instrument in instruments if not instrument.removed]
        try:
            write_instruments(self._runtime_dir, listed)
        except OSError as error:
            if self._unannounced is None:
                _log.error("the list of instruments cannot be written yet: %s", error, extra={"action": "unannounced"})
            self._unannounced = listed
        else:
            self._unannounced = None

    def mark_durable(self, durable_offset: int) -> None:
        """Tell readers of what was shown lately that the disk has it now."""
        for board in self._unmarked.values():
            board.arena.mark_durable(durable_offset)
        self._unmarked.clear()

    def heartbeat(self, durable_offset: int, committed_offset: int) -> None:
        if self._unannounced is not None:
            self.announce(self._unannounced)
        monotonic, wall = time.monotonic_ns(), time.time_ns()
        self._beaten = durable_offset, committed_offset
        for board in self._boards.values():
            board.arena.heartbeat(monotonic, wall, durable_offset, committed_offset)

    def remove(self, instrument: Instrument) -> None:
        """The instrument is no longer fed: its arena is retired, its readers are told."""
        board = self._boards.pop(instrument.id, None)
        self._unmarked.pop(instrument.id, None)
        if board is not None:
            board.arena.retire()

    def statistics(self) -> PublisherStatistics:
        arena_bytes = sum(board.arena.layout.file_bytes for board in self._boards.values())
        return PublisherStatistics(len(self._boards), arena_bytes, self._messages)

    def close(self) -> None:
        for board in self._boards.values():
            board.arena.close()
        self._boards.clear()
