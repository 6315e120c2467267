"""Ingest without its sockets: registry, kernel, journal and arenas of one daemon, in the test's own process.

`stop` and `start` are a restart. What a SIGKILL leaves is made by doing only a part of `take`: a frame that was
journaled and not shown, rows in the rings that were not published, an arena that is gone.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from lane import BTC, KINDS, SECOND, START, TIMEFRAMES, make_kernel
from marketd.daemon.kernel import Lot
from marketd.daemon.publisher import Publisher
from marketd.daemon.quantities import Nanoseconds
from marketd.daemon.recovery import Recovered, recover
from marketd.daemon.registry import REGISTRY_NAME, Registry
from marketd.daemon.settings import Cache
from marketd.ipc.arena import ArenaState
from marketd.ipc.arena_reader import ArenaReader
from marketd.ipc.journal import Journal
from marketd.ipc.journal_settings import MIN_BYTES
from marketd.ipc.paths import arena_path
from marketd.market.instruments import Instrument
from marketd.market.records import Kind, KindTable, Records

CACHE = Cache(window=Nanoseconds(10 * SECOND), trades_per_second=40, bars={"1s": 60, "1m": 60})
FIRST_KNOWN = START + 3600 * SECOND


class Stream:
    """Stands for the PUB socket: keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, ...]] = []

    def send_multipart(self, frames: tuple[bytes, ...], _flags: int) -> None:
        self.sent.append(frames)


class SmallDaemon:
    def __init__(
        self,
        state: Path,
        runtime: Path,
        *,
        timeframes: tuple[int, ...] = TIMEFRAMES,
        cache: Cache = CACHE,
        kinds: KindTable = KINDS,
        activity_bars: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        self.state, self.runtime, self.activity_bars = state, runtime, activity_bars
        self.timeframes, self.cache, self.kinds = timeframes, cache, kinds
        self.lots: list[tuple[Lot, int]] = []  # what was journaled, and where its frame ends
        self.start()

    def __enter__(self) -> SmallDaemon:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Recovered:
        self.registry = Registry(self.state / REGISTRY_NAME, 1)
        self.kernel = make_kernel(self.timeframes, kinds=self.kinds, activity_bars=self.activity_bars)
        self.journal = Journal.open(
            self.state / "journal",
            front_path=self.runtime / "front",
            front_bytes=MIN_BYTES,
            segment_bytes=MIN_BYTES,
            budget_bytes=64 * MIN_BYTES,
            checkpoint=self.kernel.checkpoint,
        )
        self.stream = Stream()
        self.publisher = Publisher(self.runtime, "test", self.journal.uuid, self.kernel, self.cache, self.stream)
        for instrument in self.registry.instruments:
            if not instrument.removed:
                self.publisher.board(instrument)
        recovered = recover(self.journal, self.kernel, self.registry, self.publisher)
        self.publisher.announce(self.registry.instruments)
        self.known = max(FIRST_KNOWN, self.kernel.ts_known)
        self.serve()
        return recovered

    def serve(self) -> None:
        self.publisher.set_state(ArenaState.LIVE)
        self.publisher.heartbeat(self.journal.durable, 0)

    def stop(self) -> None:
        assert self.journal.close()
        self.publisher.close()
        self.registry.close()

    def restart(self) -> Recovered:
        self.stop()
        return self.start()

    def reboot(self) -> Recovered:
        """Shared memory is gone, and all that ingest had in it."""
        self.stop()
        shutil.rmtree(self.runtime / "arena", ignore_errors=True)
        return self.start()

    def declare(self, wanted: Instrument = BTC) -> Instrument:
        """As `Ingest` does: an id, a record of it in the journal, an arena."""
        instrument, new = self.registry.declare(wanted)
        self.publisher.replace(instrument)
        if new:
            self.known += 1000
            lot = self.kernel.introduce(instrument, self.known)
            self.journal.append(instrument.id, lot.seq, lot.ts_known, lot.body)
        self.publisher.board(instrument)
        self.publisher.announce(self.registry.instruments)
        return instrument

    def take(
        self, *parts: tuple[Kind, Records], instrument: Instrument = BTC, journal: bool = True, show: bool = True
    ) -> Lot:
        """A batch, taken in; without `journal` it is kept live only, without `show` ingest died before that."""
        self.known += 1000
        lot = self.kernel.accept(instrument, parts, self.known, source="test", producer=b"p" * 16, batch=self.known)
        end = -1
        if journal:
            assert self.journal.wait_room(10.0)
            end = self.journal.append(instrument.id, lot.seq, lot.ts_known, lot.body)
            self.kernel.remember(b"p" * 16, self.known, lot).offset = end
            lot.state.rebuild |= dict.fromkeys(lot.unknown, end)
            self.lots.append((lot, end))
        if show:
            self.publisher.show(lot, end)
        return lot

    def reader(self, instrument: Instrument = BTC) -> ArenaReader:
        return ArenaReader.open(arena_path(self.runtime, instrument.name))

    def ring(self, name: str, instrument: Instrument = BTC) -> Records:
        with self.reader(instrument) as reader:
            return reader.last(name, 2**31)[0]


def expected_ring(lots: list[tuple[Lot, int]], ring: str) -> Records:
    """What a ring has after lots of one instrument: bars in their newest version by time, others as they came."""
    found: list[Any] = []
    name, *bar = ring.split(".")
    for lot, _ in lots:
        found += [records for kind, records in lot.rows if kind.name == name]
    records = np.concatenate(found) if found else np.empty(0, KINDS.by_name(name).dtype)
    if not bar:
        return records
    seconds = {"1s": 1, "1m": 60}[bar[0]]
    if name == "buckets":
        return records[records["timeframe"] == seconds]
    source = {"own": 1, "venue": 2}[bar[1]]
    newest = {int(b["ts"]): b for b in records if b["timeframe"] == seconds and b["source"] == source}
    return np.array([newest[ts] for ts in sorted(newest)], dtype=records.dtype)
