"""`DataCacheManager`: the live state, read out of shared memory without a message to the daemon.

    cache = DataCacheManager()                       # the local daemon; a runtime directory or URL picks another
    bars = cache.get_latest_ohlcv("BTC/USDT", "1m", limit=300)
    bars.meta.stale_ns, bars.meta.durable

A read costs a few microseconds, and less than one while the daemon has published nothing new of the instrument since
the last such read. The bars of a ring change only when one closes or is revised; until then the same records (and the
columns that were made from them) are handed out again, each time with the stamps of a new look at shared memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from marketd.client.arguments import BarSource, check_count, check_source
from marketd.client.books import frame_of
from marketd.client.cache_books import BookReads
from marketd.client.endpoints import Url, locate
from marketd.client.frames import Frame
from marketd.client.histogram import Histogram
from marketd.client.live_meta import LiveMeta, Look
from marketd.client.local import LocalDaemon
from marketd.ipc import arena_words
from marketd.ipc.arena import ArenaState
from marketd.ipc.arena_cut import Cut
from marketd.ipc.arena_reader import ArenaReader
from marketd.market.bars import BEST, finish_bars
from marketd.market.errors import BeyondCache, InvalidArgument, MarketdError, UnknownStream, Warming
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME, CandleFlag, Kind, KindTable, Records
from marketd.market.times import NS_PER_SECOND, parse_timeframe, timeframe_name

# A writer that is silent for so long may have been replaced by one that made a new file.
REOPEN_AFTER_NS = NS_PER_SECOND
MAX_KEPT_READS = 256  # per instrument; more kinds of question than that and the memory starts anew
MAX_REPEATED_READS = 4096  # of all instruments
TIMED_HITS = 15  # a mask: of the repeated reads one in 16 goes into the histogram, which costs as much as the read

_CANDLE = BY_NAME["candle"]
_PARTIAL = int(CandleFlag.PARTIAL)
_LIVE = int(ArenaState.LIVE)
# on the path of each read, where an attribute of a module is a twentieth of the time
_HEARTBEAT, _DURABLE = arena_words.HEARTBEAT_MONO, arena_words.DURABLE
_PUBLISHED, _STATE = arena_words.PUBLISHED, arena_words.STATE
_monotonic_ns = time.monotonic_ns


class CacheStatistics(NamedTuple):
    """Counted over the life of a DataCacheManager."""

    hits: int  # answered from shared memory
    misses: int  # refused: beyond the ring, warming, unknown here
    lapped: int  # reads made again because the writer overtook them
    contended: int  # reads given up
    remaps: int  # arenas that were replaced and mapped anew
    instruments: int  # arenas mapped now
    p50_ns: int | None  # of the answered reads (of repeated ones one in 16); upper bounds, at most 25 % too high
    p99_ns: int | None


class _Arena:
    """One instrument's arena, and the bars that were read from it."""

    __slots__ = ("instrument", "kept", "reader")

    def __init__(self, instrument: Instrument, reader: ArenaReader) -> None:
        self.instrument = instrument
        self.reader = reader
        self.kept: dict[tuple[str | int, int, str], _Kept] = {}


Pick = Callable[["memoryview[int]"], tuple[int, ...]]


class _Kept(NamedTuple):
    """Bars that were read, and the state that their rings had then."""

    live: memoryview[int]  # the mapped file's words: another file, another object
    pick: Pick  # from a cut's words those that say how far the rings are
    state: tuple[int, ...]
    frame: Frame
    look: Look


class _Repeated(NamedTuple):
    """An answer, and the publication that it was read from: as long as that is the newest, it is the answer."""

    words: memoryview[int]  # of the mapped file
    number: int
    frame: Frame
    watermark: int
    durable: bool  # when it was read; until it is, `offset` says
    offset: int
    look: Look


class DataCacheManager(BookReads):
    """Reads the arenas of a daemon on this host. Thread-safe, fork-safe, picklable.

    `runtime_dir`: a runtime directory, `ipc://…`, or None (MARKETD_URL, else the default instance).
    """

    def __init__(self, runtime_dir: Url = None) -> None:
        directory = locate(runtime_dir).directory
        if directory is None:
            raise InvalidArgument(
                "runtime_dir: shared memory is read on the daemon's own host only", field="runtime_dir"
            )
        self.directory: Path = directory
        self._local = LocalDaemon(directory)
        self._by_symbol: dict[str, _Arena] = {}
        self._by_name: dict[str, _Arena] = {}
        self._repeated: dict[tuple[str, str | int, int, str], _Repeated] = {}
        self._kinds = KindTable()
        self._histogram = Histogram()
        self._hits = self._misses = 0
        self._replaced = 0  # arenas that got another id, as a finer precision does

    def __reduce__(self) -> tuple[type[DataCacheManager], tuple[str]]:
        return DataCacheManager, (str(self.directory),)

    def __repr__(self) -> str:
        return f"<DataCacheManager {self.directory}: {len(self._by_name)} instruments>"

    # ---- reads ----------------------------------------------------------------------------------

    def get_latest_ohlcv(
        self,
        symbol: str,
        timeframe: str | int = "1m",
        limit: int = 1,
        bar_source: BarSource = "best",
        forming: bool = False,
    ) -> Frame:
        """The newest `limit` closed bars, oldest first; fewer when there are no more.

        bar_source: `"best"` is per bar the own one unless it is PARTIAL and the venue has one, else the venue's;
        `"own"` or `"venue"` is only those. forming: bars still forming follow; a column `is_forming` tells them apart.
        Raises UnknownInstrument, AmbiguousSymbol, BeyondCache, Warming, NotRunning.
        """
        started = _monotonic_ns()
        repeated = self._repeated.get((symbol, timeframe, limit, bar_source))
        if repeated is not None and not forming:
            words, number, frame, watermark, durable, offset, look = repeated
            stale_ns = started - words[_HEARTBEAT]
            if words[_PUBLISHED] == number and words[_STATE] == _LIVE and stale_ns < REOPEN_AFTER_NS:
                self._hits = hits = self._hits + 1
                taken = _monotonic_ns() - started
                if not hits & TIMED_HITS:
                    self._histogram.add(taken)
                meta = LiveMeta(
                    served_from="arena",
                    watermark=watermark,
                    stale_ns=stale_ns,
                    durable=durable or 0 <= offset <= words[_DURABLE],
                    latency_ns=taken,
                    look=look,
                )
                return frame.restamped(meta)
        try:
            arena = self._by_symbol.get(symbol) or self._open(symbol)
            reader = arena.reader
            live = reader.live_words
            stale_ns = started - live[_HEARTBEAT]
            if stale_ns > REOPEN_AFTER_NS or live[_STATE] != _LIVE:
                arena, stale_ns = self._checked(symbol)
                reader = arena.reader
                live = reader.live_words
            cut = reader.cut()
            kept = arena.kept.get((timeframe, limit, bar_source))
            words = cut.words
            if kept is None or kept.live is not live or kept.state != kept.pick(words):
                kept, cut = _read_bars(arena, timeframe, limit, bar_source)
                words = cut.words
        except MarketdError:
            self._misses += 1
            raise
        frame = kept.frame.restamped(_meta(live, words, stale_ns, kept.look))
        if forming:
            frame = _with_forming(frame, cut)
        elif reader.live_words is live:  # one file throughout
            self._repeat((symbol, timeframe, limit, bar_source), live, words, kept.look, frame)
        self._count(frame, started)
        return frame

    def get_latest_trades(self, symbol: str, limit: int = 100) -> Frame:
        """The newest `limit` trades in the order of their arrival; fewer when there are no more. Raises as above."""
        return self.get_latest("trade", symbol, limit)

    def get_latest(self, stream: str, symbol: str, limit: int = 1) -> Frame:
        """The newest `limit` records of a stream (`trade`, `book`, `coverage`, a declared series), as they arrived."""
        return self._latest(stream, symbol, limit, ring=stream, setting="cache.window (or cache.trades_per_second)")

    def _latest(
        self, stream: str, symbol: str, limit: int, *, ring: str, setting: str, timeframe: int | None = None
    ) -> Frame:
        started = _monotonic_ns()
        try:
            arena, stale_ns = self._checked(symbol)
            kind = self._kind(stream)
            _require_reach(arena, (ring,), limit, setting)
            records, cut = arena.reader.last(ring, limit)
        except MarketdError:
            self._misses += 1
            raise
        look = Look(arena.reader, kind, records, timeframe)
        meta = _meta(arena.reader.live_words, cut.words, stale_ns, look)
        frame = frame_of(kind, arena.instrument, records, meta, timeframe=timeframe)
        self._count(frame, started)
        return frame

    def _refused(self) -> None:
        self._hits -= 1
        self._misses += 1

    def whole_ring(self, stream: str, symbol: str, timeframe: int | None = None) -> Frame:
        """All records of a stream that shared memory holds, in the order of their arrival. Buckets need a timeframe."""
        name = stream if timeframe is None else f"{stream}.{timeframe_name(timeframe)}"
        place = self._checked(symbol)[0].reader.rings.get(name)
        limit = 1 if place is None else place.capacity
        return self._latest(stream, symbol, limit, ring=name, setting="cache.window", timeframe=timeframe)

    def cut(self, symbol: str) -> Cut:
        """The newest publication of an instrument: stamps, heads of the rings, forming bars."""
        return self._checked(symbol)[0].reader.cut()

    def instrument(self, symbol: str) -> Instrument:
        """The instrument that a symbol means here."""
        arena = self._by_symbol.get(symbol) or self._open(symbol)
        if arena.reader.state is ArenaState.RETIRED:
            arena, _ = self._checked(symbol)
        return arena.instrument

    # ---- state ----------------------------------------------------------------------------------

    def cache_statistics(self) -> CacheStatistics:
        readers = [arena.reader.statistics() for arena in self._by_name.values()]
        return CacheStatistics(
            hits=self._hits,
            misses=self._misses,
            lapped=sum(reader.lapped for reader in readers),
            contended=sum(reader.contended for reader in readers),
            remaps=self._replaced + sum(reader.remapped for reader in readers),
            instruments=len(readers),
            p50_ns=self._histogram.quantile(0.5),
            p99_ns=self._histogram.quantile(0.99),
        )

    def close(self) -> None:
        """Unmaps every arena; frames that were given out stay good. Harmless when repeated."""
        self._repeated.clear()
        self._by_symbol.clear()
        while self._by_name:
            self._by_name.popitem()[1].reader.close()

    def __enter__(self) -> DataCacheManager:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- parts ----------------------------------------------------------------------------------

    def _repeat(
        self,
        key: tuple[str, str | int, int, str],
        live: memoryview[int],
        words: memoryview[int],
        look: Look,
        frame: Frame,
    ) -> None:
        if len(self._repeated) >= MAX_REPEATED_READS:
            self._repeated.clear()
        self._repeated[key] = _Repeated(
            live,
            words[arena_words.NUMBER],
            frame,
            words[arena_words.TS_KNOWN],
            bool(frame.meta.durable),
            words[arena_words.JOURNAL_OFFSET],
            look,
        )

    def _open(self, symbol: str) -> _Arena:
        instrument = self._local.resolve(symbol)
        arena = self._by_name.get(instrument.name)
        if arena is None:
            opened = _Arena(instrument, self._local.open_arena(instrument))
            arena = self._by_name.setdefault(instrument.name, opened)
            if arena is not opened:  # another thread was first
                opened.reader.close()
        self._by_symbol[symbol] = arena
        return arena

    def _checked(self, symbol: str) -> tuple[_Arena, int]:
        """The arena of a symbol, and nanoseconds since its writer showed itself. Raises Warming, and as `_open`."""
        arena = self._by_symbol.get(symbol) or self._open(symbol)
        stale_ns = _check(arena.reader)
        if arena.reader.is_replaced:  # by one with other scales
            self._forget(arena)
            arena = self._open(symbol)
            stale_ns = _check(arena.reader)
        return arena, stale_ns

    def _forget(self, arena: _Arena) -> None:
        """Its mapping goes when the last read that uses it has ended, perhaps in another thread."""
        for symbol, known in list(self._by_symbol.items()):
            if known is arena:
                self._by_symbol.pop(symbol, None)
        if self._by_name.get(arena.instrument.name) is arena:
            self._by_name.pop(arena.instrument.name, None)
            self._replaced += 1
        self._repeated.clear()

    def _kind(self, stream: str) -> Kind:
        try:
            return self._kinds.by_name(stream)
        except UnknownStream:
            self._kinds = self._local.kinds()  # declared since, or never looked at
            return self._kinds.by_name(stream)

    def _count(self, frame: Frame, started: int) -> None:
        frame.meta.latency_ns = taken = _monotonic_ns() - started
        self._histogram.add(taken)
        self._hits += 1


def _check(reader: ArenaReader) -> int:
    """Nanoseconds since the writer showed itself; raises Warming."""
    stale_ns = reader.stale_ns()
    if stale_ns > REOPEN_AFTER_NS and reader.reopen():
        stale_ns = reader.stale_ns()
    if reader.state is ArenaState.WARMING:
        raise Warming(
            f"{reader.identity.instrument}: the daemon is filling its shared memory and does not serve from it yet; "
            "ask again in a moment, or ask the database with a query_… call"
        )
    return stale_ns


def _meta(live: memoryview[int], words: memoryview[int], stale_ns: int, look: Look) -> LiveMeta:
    """Of a cut's `words`, given the words of the file itself."""
    return LiveMeta(
        served_from="arena",
        watermark=words[arena_words.TS_KNOWN],
        stale_ns=stale_ns,
        durable=0 <= words[arena_words.JOURNAL_OFFSET] <= live[_DURABLE],  # -1: kept live only
        look=look,
    )


def _picker(reader: ArenaReader, names: tuple[str, ...]) -> Pick:
    """Picks from a cut's words how far rings are: while head and revision stay, so do their records."""
    heads = [reader.rings[name].head for name in names]
    indexes = [*heads, *(head + arena_words.REVISION for head in heads)]
    pick: Pick = itemgetter(*indexes)
    return pick


def _require_reach(arena: _Arena, names: tuple[str, ...], limit: int, setting: str) -> None:
    check_count(limit)
    for name in names:
        ring = arena.reader.rings.get(name)
        if ring is None or limit > ring.capacity:
            holds = "none" if ring is None else f"{ring.capacity}"
            raise BeyondCache(
                f"limit: {limit} records of {name} of {arena.instrument.name} are wanted, shared memory holds {holds}; "
                f"a larger {setting} keeps more, the database has the rest (query_…)",
                field="limit",
            )


def _read_bars(arena: _Arena, timeframe: str | int, limit: int, bar_source: str) -> tuple[_Kept, Cut]:
    """Reads the rings anew and keeps what was read."""
    seconds = parse_timeframe(timeframe)
    names = _ring_names(arena, timeframe_name(seconds), bar_source)
    _require_reach(arena, names, limit, "cache.bars")
    live = arena.reader.live_words
    records, cut = arena.reader.snapshot(dict.fromkeys(names, limit))
    bars = records[names[0]]
    if len(names) == 2:
        bars = merge_best(bars, records[names[1]], limit, seconds * NS_PER_SECOND)
    pick = _picker(arena.reader, names)
    look = Look(arena.reader, _CANDLE, bars, seconds)
    kept = _Kept(live, pick, pick(cut.words), Frame(_CANDLE, arena.instrument, bars, timeframe=seconds), look)
    if len(arena.kept) >= MAX_KEPT_READS:
        arena.kept.clear()
    arena.kept[timeframe, limit, bar_source] = kept
    return kept, cut


def _ring_names(arena: _Arena, timeframe: str, bar_source: str) -> tuple[str, ...]:
    check_source(bar_source)
    if bar_source != BEST:
        return (f"candle.{timeframe}.{bar_source}",)
    both = (f"candle.{timeframe}.own", f"candle.{timeframe}.venue")
    return tuple(name for name in both if name in arena.reader.rings) or both[:1]


def merge_best(own: Records, venue: Records, limit: int, step_ns: int) -> Records:
    """The newest `limit` open times, each with its best bar (see `get_latest_ohlcv`)."""
    if not len(venue) or _own_suffice(own, venue, limit, step_ns):
        return own
    return finish_bars(np.concatenate((own, venue)), BEST, limit)


def _own_suffice(own: Records, venue: Records, limit: int, step_ns: int) -> bool:
    """The usual case, for a tenth of the cost.

    The own bars are whole, without a hole, and the venue knows no others.
    """
    if not len(own) or (own["flags"] & _PARTIAL).any():
        return False
    times, others = own["ts"], venue["ts"]
    if times[-1] - times[0] != (len(own) - 1) * step_ns or others[-1] > times[-1]:
        return False
    return bool(len(own) >= limit or others[0] >= times[0])


def _with_forming(frame: Frame, cut: Cut) -> Frame:
    bars = cut.open_bars
    bars = bars[bars["timeframe"] == frame.timeframe]
    records = np.concatenate((frame.records, bars))
    is_forming = np.arange(len(records)) >= len(frame)
    return Frame(
        _CANDLE,
        frame.instrument,
        records,
        frame.meta,
        timeframe=frame.timeframe,
        extras={"is_forming": is_forming},
    )
