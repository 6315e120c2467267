"""marketd's side of `bench_feeds`, in a process of its own: `contestant_marketd.py TRAFFIC feed|parser|memory BATCH`.

Each line on stdin is a round: all frames of the traffic, `BATCH` frames a call. What it prints a round is in `duel`.

    feed     by way of everything in `daemon.feeds` between a connection's socket and the sink
    parser   decoded, and the books kept, as cryptofeed does: without order and repair of trades, records of the book,
             imbalance, buckets
    memory   as feed, with an eye on what it holds in the end; much slower
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from duel import Round, Traffic, serve

from marketd.daemon.feeds.adapter import (
    BookDelta,
    BookSnapshot,
    Candles,
    Rejected,
    RestRequest,
    Trades,
    VenueAdapter,
    VenueTime,
)
from marketd.daemon.feeds.feed_books import FeedBooks
from marketd.daemon.feeds.feed_model import BookSettings, VenueClock
from marketd.daemon.feeds.intake import QUIET_NS, Intake
from marketd.daemon.feeds.repair import Repairs, RepairSettings
from marketd.daemon.feeds.rest import RestFailed
from marketd.daemon.feeds.symbol_state import Part, SymbolState
from marketd.daemon.feeds.tasks import Tasks
from marketd.daemon.feeds.venues import venue_of
from marketd.ipc.protocol import Resume
from marketd.market.book_sync import BookSync
from marketd.market.instruments import Instrument
from marketd.market.records import BookState

BEST = 10  # levels a side that are shown


class Rest:
    """Answers with the recorded snapshots; has nothing else."""

    def __init__(self, bodies: dict[str, bytes]) -> None:
        self._bodies = bodies  # by request

    async def get(self, request: RestRequest, deadline: float, **options: Any) -> bytes:
        if request.target not in self._bodies:
            raise RestFailed(f"{request.target} was not recorded")
        return self._bodies[request.target]


class Sink:
    """Throws away what it is given, as the other side's callbacks do; counts it."""

    def __init__(self) -> None:
        self.records: dict[str, int] = {}

    async def declare(self, instruments: list[Instrument]) -> list[tuple[Instrument, Resume]]:
        return [(instrument, Resume()) for instrument in instruments]

    async def recall(self, names: list[str]) -> list[tuple[Instrument, Resume]]:
        return []

    async def send(self, instrument: Instrument, parts: list[Part], observed: bool = True) -> None:
        for kind, records in parts:
            self.records[kind] = self.records.get(kind, 0) + len(records)


class Parser:
    """An adapter and the books of its symbols, and nothing else."""

    def __init__(self, traffic: Traffic) -> None:
        self.adapter = adapter_of(traffic)
        rule = self.adapter.book_rule
        assert rule is not None
        rule = rule._replace(needs_older=False)  # of a recording there is no later snapshot
        self.syncs = {each.symbol: BookSync(rule, each) for each in adopted(self.adapter, traffic)}
        self.trades = self.candles = self.faults = 0
        self._bodies = snapshots(self.adapter, traffic)
        for sync in self.syncs.values():
            sync.subscribed()

    def take(self, frames: list[bytes]) -> None:
        for event in self.adapter.decode_many(frames):
            if isinstance(event, BookDelta):
                sync = self.syncs[event.symbol]
                if sync.state is BookState.SYNCING:
                    self._begin(sync, event.symbol)
                sync.delta(event)
            elif isinstance(event, BookSnapshot):
                self.syncs[event.symbol].snapshot(event)
            elif isinstance(event, Trades):
                self.trades += len(event.records)
            elif isinstance(event, Candles):
                self.candles += len(event.records)
            elif isinstance(event, Rejected):
                self.faults += 1

    def _begin(self, sync: BookSync, symbol: str) -> None:
        request = self.adapter.snapshot_request(symbol)
        body = self._bodies.pop(request.target, None) if request else None
        if body is not None:
            sync.snapshot(self.adapter.decode_snapshot(symbol, body))


class _Up:
    """A connection that has asked for all that it should."""

    is_up = True

    def __init__(self) -> None:
        self.has_asked = asyncio.Event()
        self.has_asked.set()


class FeedInMemory:
    """`daemon.feeds.feed.Feed` without sockets: `take` does what its `on_frames` does."""

    def __init__(self, traffic: Traffic, tasks: Tasks) -> None:
        self.adapter = adapter_of(traffic)
        self.sink = Sink()
        self.states: dict[str, SymbolState] = {}
        order = asyncio.Lock()
        rest: Any = Rest(snapshots(self.adapter, traffic))
        up: Any = _Up()
        self.books = FeedBooks(
            self.adapter, rest, BookSettings(), tasks, wanted=True, order=order, connection_of=lambda symbol: up
        )
        self._intake = Intake(self.states, self.books, self.sink, {}, on_rejected=None, refresh=lambda symbols: None)
        self._intake.repairs = Repairs(
            self.adapter,
            rest,
            RepairSettings(),
            order=order,
            hand_over=self._intake.hand_over_repaired,
            reject=self._intake.reject,
            spawn=tasks.spawn,
        )
        self._intake.on_trades = lambda state: None  # no stream is silent here
        self.books.hand_over = self._intake.hand_over
        self._order, self._clock = order, VenueClock()
        self._adopt(traffic)
        self._symbols = list(self.states)

    def _adopt(self, traffic: Traffic) -> None:
        for instrument in adopted(self.adapter, traffic):
            timeframes, is_numbered = self.adapter.timeframes, self.adapter.numbered_trades
            state = SymbolState(instrument, Resume(), timeframes, numbered_trades=is_numbered)
            self.states[instrument.symbol] = state
            self.books.add(state)
            self._intake.unobserved.add(instrument.symbol)

    @property
    def rejected(self) -> int:
        return sum(self._intake.rejected.values())

    async def up(self) -> None:
        await self.books.up(self.states.values())

    async def take(self, recv_ns: int, frames: list[bytes]) -> None:
        now = time.monotonic()
        async with self._order:
            events = self.adapter.decode_many(frames)
            clock = self._clock
            for event in events:
                if type(event) is VenueTime:
                    clock.see(event.ts_ns, now)
            await self._intake.take(events, self._symbols, clock.ts_ns, now, lambda: self._symbols)
            if clock.ts_ns - clock.swept_ns >= QUIET_NS:
                clock.swept_ns = clock.ts_ns
                await self._intake.tick_quiet(self._symbols, clock.ts_ns, now, by_clock=False)

    @property
    def syncs(self) -> dict[str, BookSync]:
        keepers = {symbol: self.books.keeper(symbol) for symbol in self.states}
        return {symbol: keeper.sync for symbol, keeper in keepers.items() if keeper is not None}


def adapter_of(traffic: Traffic) -> VenueAdapter:
    venue = venue_of(traffic.venue, traffic.url)
    made: VenueAdapter = venue.adapter(trades=traffic.trades, candles=tuple(traffic.candles), book=True)
    return made


def adopted(adapter: VenueAdapter, traffic: Traffic) -> list[Instrument]:
    instruments = msgspec.convert(traffic.instruments, list[Instrument])
    for instrument in instruments:
        adapter.adopt(instrument)
    return instruments


def snapshots(adapter: VenueAdapter, traffic: Traffic) -> dict[str, bytes]:
    """The recorded ones, by what the adapter asks for."""
    requests = {wire: adapter.snapshot_request(adapter.venue_symbol(wire)) for wire in traffic.books}
    return {request.target: traffic.books[wire].encode() for wire, request in requests.items() if request is not None}


def shown(traffic: Traffic, adapter: VenueAdapter, syncs: dict[str, BookSync]) -> dict[str, list[list[int]]]:
    """The best levels of each book by the venue's own name of the symbol, for a comparison with the other side."""
    found = {}
    for wire in traffic.symbols:
        sync = syncs.get(adapter.venue_symbol(wire))
        if sync is not None and sync.state is BookState.LIVE:
            instrument, top = sync.instrument, sync.book.top(BEST)
            scales = (instrument.price_scale, instrument.size_scale) * 2
            found[wire] = [[n * 10 ** (18 - scale) for n in side] for side, scale in zip(top, scales, strict=True)]
    return found


async def play_feed(traffic: Traffic, frames: list[bytes], batch: int, *, held: Callable[[], int] = lambda: 0) -> Round:
    async with Tasks() as tasks:
        feed = FeedInMemory(traffic, tasks)
        wall, cpu = time.perf_counter(), time.process_time()
        await feed.up()
        for start in range(0, len(frames), batch):
            await feed.take(time.time_ns(), frames[start : start + batch])
            await asyncio.sleep(0)  # as a session's pump does after each batch
        cpu_seconds, wall_seconds = time.process_time() - cpu, time.perf_counter() - wall
        held_bytes = held()
        tasks.stopping.set()
        tasks.cancel()
    records = feed.sink.records
    return Round(
        messages=len(frames),
        cpu_seconds=cpu_seconds,
        wall_seconds=wall_seconds,
        trades=records.get("trade", 0),
        candles=records.get("candle", 0),
        faults=feed.rejected,
        books=shown(traffic, feed.adapter, feed.syncs),
        records=records,
        held_bytes=held_bytes,
    )


def play_parser(traffic: Traffic, frames: list[bytes], batch: int) -> Round:
    parser = Parser(traffic)
    wall, cpu = time.perf_counter(), time.process_time()
    for start in range(0, len(frames), batch):
        parser.take(frames[start : start + batch])
    cpu_seconds, wall_seconds = time.process_time() - cpu, time.perf_counter() - wall
    return Round(
        messages=len(frames),
        cpu_seconds=cpu_seconds,
        wall_seconds=wall_seconds,
        trades=parser.trades,
        candles=parser.candles,
        faults=parser.faults,
        books=shown(traffic, parser.adapter, parser.syncs),
    )


def watch_memory(traffic: Traffic, frames: list[bytes], batch: int) -> Round:
    """What the feed of all instruments holds, by Python's own account: numpy's arrays too, fragmentation not."""

    def held() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        return asyncio.run(play_feed(traffic, frames, batch, held=held))
    finally:
        tracemalloc.stop()


def main() -> None:
    traffic = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Traffic)
    frames, batch = [frame.encode() for frame in traffic.frames], int(sys.argv[3])
    if sys.argv[2] == "feed":
        serve(lambda: asyncio.run(play_feed(traffic, frames, batch)))
    elif sys.argv[2] == "memory":
        serve(lambda: watch_memory(traffic, frames, batch))
    else:
        serve(lambda: play_parser(traffic, frames, batch))


if __name__ == "__main__":
    main()
