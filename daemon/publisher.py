"""What readers see: the arena of every instrument and the PUB stream. Owned by ingest, its only writer.

A lot becomes visible at once: its rows go into their rings, then one descriptor publishes them all; the stream follows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import zmq

from marketd.daemon.kernel import InstrumentState, Kernel, Lot
from marketd.daemon.settings import Cache
from marketd.ipc.arena import ArenaLayoutChanged, ArenaState, RingSpec
from marketd.ipc.arena_writer import ArenaWriter
from marketd.ipc.paths import arena_path
from marketd.ipc.presence import write_instruments
from marketd.ipc.protocol import StreamHeader, encode
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME, CANDLE, Kind, KindTable, Records, Source
from marketd.market.times import timeframe_name

_SOURCES = {Source.OWN: "own", Source.VENUE: "venue"}
COVERAGE_CAPACITY = 1_024
_DONTWAIT = int(zmq.DONTWAIT)  # flags of an enum are slow to combine
SERIES_PER_SECOND = 10  # a declared series: funding, mark prices … at most about this


class PublisherStatistics(NamedTuple):
    instruments: int
    arena_bytes: int
    messages: int


def candle_ring(timeframe: int, source: str) -> str:
    return f"candle.{timeframe_name(timeframe)}.{source}"


def ring_specs(kinds: KindTable, timeframes: Sequence[int], cache: Cache) -> list[RingSpec]:
    """The rings of an instrument's arena: one for each kind, and for candles one for each timeframe and source."""
    trade, coverage = BY_NAME["trade"], BY_NAME["coverage"]
    specs = [RingSpec("trade", trade.id, trade.dtype, cache.trades)]
    specs += [
        RingSpec(candle_ring(frame, source), BY_NAME["candle"].id, CANDLE, cache.bars_of(frame))
        for source in _SOURCES.values()
        for frame in timeframes
    ]
    specs.append(RingSpec("coverage", coverage.id, coverage.dtype, COVERAGE_CAPACITY))
    per_series = max(1, round(cache.window.seconds * SERIES_PER_SECOND))
    specs += [RingSpec(kind.name, kind.id, kind.dtype, per_series) for kind in kinds.series]
    return specs


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
        self.is_new = is_new  # made just now: its rings are empty
        self.rings = {spec.name: spec.capacity for spec in specs}
        self._rings = {spec.name: index for index, spec in enumerate(specs)}
        self._candle_rings = {
            (int(source), frame): candle_ring(frame, name) for source, name in _SOURCES.items() for frame in timeframes
        }
        instrument = state.instrument
        suffix = f".{instrument.venue}.{instrument.symbol}."
        self.topics = {name: (name + suffix).encode() for name in self._rings if not name.startswith("candle.")}
        self.candle_topics = {frame: f"candle.{timeframe_name(frame)}{suffix}".encode() for frame in timeframes}

    def show(self, lot: Lot, journal_offset: int) -> None:
        for kind, records in lot.rows:
            if kind.dtype is CANDLE:
                for index in range(len(records)):
                    self._show_bar(records[index : index + 1])
            elif kind.ring:
                self.arena.append(self._rings[kind.name], records)
        state = self.state
        self.arena.publish(lot.ts_known, state.newest, state.seq, journal_offset, state.fold.open_table)

    def fill(self, ring: str, records: Records, *, complete: bool) -> None:
        """Warm start: the newest records that the database has; `complete` when there were no more."""
        number = self._rings[ring]
        self.arena.append(number, records)
        self.arena.complete_since(number, 0 if complete else int(records.tolist()[0][0]) + 1)

    def publish_as_is(self, journal_offset: int) -> None:
        """Make visible what was filled in, as the kernel knows the instrument now."""
        state = self.state
        newest = max(self.arena.ts_known, state.ts_known)
        self.arena.publish(newest, state.newest, state.seq, journal_offset, state.fold.open_table)
        self.is_new = False

    def rings_of(self, kind: Kind, records: Records) -> list[str]:
        """The ring of each record; "" where none has it."""
        if kind.dtype is not CANDLE:
            return [kind.name] * len(records)
        keys = zip(records["source"].tolist(), records["timeframe"].tolist(), strict=True)
        return [self._candle_rings.get(key, "") for key in keys]

    def _show_bar(self, bar: Records) -> None:
        ring = self._candle_rings.get((int(bar["source"][0]), int(bar["timeframe"][0])))
        if ring is not None:
            self.arena.put(self._rings[ring], bar)


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
    ) -> None:
        self._runtime_dir = runtime_dir
        self._instance = instance
        self._journal = journal
        self._kernel = kernel
        self._specs = ring_specs(kernel.kinds, kernel.timeframes, cache)
        self._stream = stream
        self._numbers: dict[bytes, int] = {}
        self._unmarked: dict[int, Board] = {}  # shown since the last durable offset was told
        self._subscribed: set[bytes] = set()  # topic prefixes that somebody wants
        self._boards: dict[int, Board] = {}
        self._messages = 0
        self._state = ArenaState.WARMING

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
        shape: dict[str, Any] = {
            "instance": self._instance,
            "instrument": instrument,
            "rings": self._specs,
            "open_slots": 2 * len(self._kernel.timeframes),
            "journal": self._journal,
        }
        state = self._kernel.state(instrument)
        try:
            arena, is_new = ArenaWriter.attach(path, **shape), False
        except (FileNotFoundError, ArenaLayoutChanged):
            # a changed layout is a new file; `create` marks the old one RETIRED so that its readers remap
            arena, is_new = ArenaWriter.create(path, **shape), True
        arena.set_state(self._state)
        return Board(state, arena, self._specs, self._kernel.timeframes, is_new=is_new)

    @property
    def boards(self) -> list[Board]:
        return list(self._boards.values())

    @property
    def new_boards(self) -> list[Board]:
        """Those whose arenas were made by this process and are not filled yet."""
        return [board for board in self._boards.values() if board.is_new]

    def set_state(self, state: ArenaState) -> None:
        self._state = state
        for board in self._boards.values():
            board.arena.set_state(state)

    def show(self, lot: Lot, journal_offset: int) -> None:
        board = self.board(lot.state.instrument)
        board.show(lot, journal_offset)
        self._unmarked[lot.state.instrument.id] = board
        for kind, records in lot.rows:
            if kind.dtype is not CANDLE:
                topic = board.topics.get(kind.name)
                if topic is not None:
                    self._send(topic, kind, records, lot)
                continue
            for index in range(len(records)):
                topic = board.candle_topics.get(int(records["timeframe"][index]))
                if topic is not None:
                    self._send(topic, kind, records[index : index + 1], lot)

    def _send(self, topic: bytes, kind: Kind, records: Records, lot: Lot) -> None:
        # PUB drops silently at its high-water mark; the number shows a subscriber what it missed
        number = self._numbers[topic] = self._numbers.get(topic, 0) + 1
        if not self._subscribed:
            return  # sending to nobody costs as much as folding a trade
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

    def announce(self, instruments: Sequence[Instrument]) -> None:
        """Tell processes of this host which instruments there are."""
        write_instruments(self._runtime_dir, [i for i in instruments if not i.removed])

    def mark_durable(self, durable_offset: int) -> None:
        """Tell readers of what was shown lately that the disk has it now."""
        for board in self._unmarked.values():
            board.arena.mark_durable(durable_offset)
        self._unmarked.clear()

    def heartbeat(self, durable_offset: int, committed_offset: int) -> None:
        monotonic, wall = time.monotonic_ns(), time.time_ns()
        for board in self._boards.values():
            board.arena.heartbeat(monotonic, wall, durable_offset, committed_offset)

    def remove(self, instrument: Instrument) -> None:
        """The instrument is no longer fed: its arena is retired, its readers are told."""
        board = self._boards.pop(instrument.id, None)
        if board is not None:
            board.arena.retire()

    def statistics(self) -> PublisherStatistics:
        arena_bytes = sum(board.arena.layout.file_bytes for board in self._boards.values())
        return PublisherStatistics(len(self._boards), arena_bytes, self._messages)

    def close(self) -> None:
        for board in self._boards.values():
            board.arena.close()
        self._boards.clear()
