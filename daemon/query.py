"""What the query actor answers, from PostgreSQL and, for what it has not committed yet, from the arena.

One answer is one picture: first it is read how far the database is (`ts_known`), then its rows, then what the arena
has beyond that moment; a record in both counts once. Without I/O of its own: sockets are in `daemon.actors.query`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from marketd import __version__
from marketd.daemon.answers import Rendered, Result, finish_rows, render
from marketd.daemon.settings import Config
from marketd.ipc import presence, protocol
from marketd.ipc.arena_reader import ArenaReader
from marketd.ipc.paths import arena_path
from marketd.ipc.protocol import Answer, Bars, Describe, Description, Meta, RebuildBars, Rows, Stream
from marketd.market.aggregate import aggregate
from marketd.market.bars import BEST, finish_bars, newest_versions, source_number
from marketd.market.candles import bars_from_trades
from marketd.market.errors import InvalidArgument, MarketdError, UnknownInstrument
from marketd.market.instruments import Instrument, resolve
from marketd.market.records import BY_NAME, CANDLE, COVERAGE, CandleFlag, Kind, KindTable, Records
from marketd.market.rows import codec
from marketd.market.times import NS_PER_SECOND, parse_time_ns, parse_timeframe, timeframe_name
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.errors import DatabaseError
from marketd.sql.read import Span, Stored, read_bars, read_coverage, read_instruments, read_rows, read_stored
from marketd.sql.store import Connection

CANDLE_EMPTY = np.empty(0, CANDLE)
INSTRUMENTS_SECONDS = 1.0  # how old the list of instruments may be
LOOK_AGAIN_SECONDS = 0.05  # and how old it is at least when a symbol that is not in it makes us look again
CANDLE_KIND = BY_NAME["candle"]


class QueryService:
    def __init__(
        self, database: DatabaseConnectionManager, config: Config, kinds: KindTable, runtime_dir: Path
    ) -> None:
        self._database = database
        self._config = config
        self._kinds = kinds
        self._runtime_dir = runtime_dir
        self._instruments: list[Instrument] = []
        self._instruments_until = 0.0
        self._arenas: dict[str, ArenaReader] = {}
        self._timeframes = sorted(parse_timeframe(name) for name in config.timeframes)

    def reload(self, config: Config) -> None:
        """Aliases and the default venue may have changed."""
        self._config = config

    async def answer(self, request: protocol.Request) -> tuple[protocol.Message, list[Any]]:
        """The reply to a request and its raw frames. Raises MarketdError."""
        handlers: dict[type, Callable[[Any], Awaitable[tuple[protocol.Message, list[Any]]]]] = {
            Describe: self._describe,
            Bars: self._bars,
            Rows: self._rows,
            RebuildBars: self._rebuild_bars,
        }
        message, frames = await handlers[type(request)](request)
        message.id = request.id
        return message, frames

    # ---- descriptions -------------------------------------------------------------------------

    async def _describe(self, request: Describe) -> tuple[protocol.Message, list[Any]]:
        config = self._config
        return (
            Description(
                instance=config.instance,
                daemon_no=config.daemon_no,
                version=__version__,
                runtime_dir=str(self._runtime_dir),
                profile=await self._profile(),
                timeframes=self._timeframes,
                streams=[Stream(id=k.id, name=k.name, fields=dict(k.fields)) for k in self._kinds.series],
                instruments=await self.instruments(),
                aliases=dict(config.aliases),
                default_venue=config.default_venue,
            ),
            [],
        )

    async def _profile(self) -> str:
        try:
            return (await self._database.profile()).value
        except DatabaseError:
            return "unknown"  # the database is away

    async def instruments(self) -> list[Instrument]:
        """All that the database has or an arena shows; at most `INSTRUMENTS_SECONDS` old."""
        if time.monotonic() >= self._instruments_until:
            known: dict[int, Instrument] = {}
            with suppress(DatabaseError):  # without it, what ingest has is what can be asked for
                async with self._database.acquire() as connection:
                    known = {i.id: i for i in await read_instruments(connection)}
            known |= {i.id: i for i in presence.read_instruments(self._runtime_dir)}
            self._instruments = sorted(known.values(), key=lambda i: i.id)
            self._instruments_until = time.monotonic() + INSTRUMENTS_SECONDS
        return self._instruments

    async def _resolve(self, symbol: str) -> Instrument:
        try:
            return self._resolved(symbol, await self.instruments())
        except UnknownInstrument:
            # it may have been declared a moment ago: shared memory shows it already
            if time.monotonic() < self._instruments_until - INSTRUMENTS_SECONDS + LOOK_AGAIN_SECONDS:
                raise
            self._instruments_until = 0.0
            return self._resolved(symbol, await self.instruments())

    def _resolved(self, symbol: str, instruments: list[Instrument]) -> Instrument:
        return resolve(symbol, instruments, aliases=self._config.aliases, default_venue=self._config.default_venue)

    # ---- bars ---------------------------------------------------------------------------------

    async def _bars(self, request: Bars) -> tuple[protocol.Message, list[Any]]:
        started = time.perf_counter_ns()
        _check_span(request.start, request.end, request.limit)
        source_number(request.bar_source)
        instrument = await self._resolve(request.symbol)
        async with self._database.acquire() as connection, connection.transaction(readonly=True):
            stored = await read_stored(connection)
            tail = self._tail(instrument, stored, request.known_at)
            results = [
                await self._timeframe(connection, instrument, timeframe, request, tail)
                for timeframe in request.timeframes
            ]
        return self._answer(instrument, results, request.format, tail, started)

    async def _timeframe(
        self, connection: Connection, instrument: Instrument, timeframe: int, request: Bars, tail: Tail
    ) -> Result:
        name = f"candle.{timeframe_name(timeframe)}"
        base = self._base_timeframe(timeframe)
        span, limit = Span(request.start, request.end), request.limit
        if base != timeframe:
            # a bar that was generated needs all its parts, the first one too
            start = (
                None
                if span.start is None
                else -(-span.start // (timeframe * NS_PER_SECOND)) * timeframe * NS_PER_SECOND
            )
            span = Span(start, span.end)
            limit = None if limit is None else (limit + 1) * (timeframe // base)
        copied = await read_bars(
            connection,
            instrument.id,
            base,
            span,
            limit=limit,
            bar_source=request.bar_source,
            known_at=request.known_at,
        )
        beyond = tail.bars(base, span, request.bar_source)
        if base == timeframe and not len(beyond):
            return Result(name, CANDLE_KIND, copied, None, request.bar_source, request.limit)
        bars = codec(copied.table, CANDLE_KIND).decode(copied.data)[1]
        if len(beyond):
            bars = newest_versions(np.concatenate([bars, beyond]))
        bars = finish_bars(bars, request.bar_source, limit)
        if base != timeframe:
            bars = finish_bars(aggregate(bars, timeframe), BEST, request.limit)
            if span.end is not None:
                bars = bars[bars["ts"] + timeframe * NS_PER_SECOND <= max(span.end, 0)]
        return Result(name, CANDLE_KIND, None, bars)

    def _base_timeframe(self, timeframe: int) -> int:
        """The stored timeframe that bars of `timeframe` come from: itself, or the largest that divides it."""
        if timeframe in self._timeframes:
            return timeframe
        dividing = [t for t in self._timeframes if timeframe % t == 0]
        if not dividing:
            names = ", ".join(map(timeframe_name, self._timeframes))
            raise InvalidArgument(
                f"timeframe: {timeframe_name(timeframe)} is no multiple of a stored one ({names})", field="timeframe"
            )
        return dividing[-1]

    # ---- rows ---------------------------------------------------------------------------------

    async def _rows(self, request: Rows) -> tuple[protocol.Message, list[Any]]:
        started = time.perf_counter_ns()
        _check_span(request.start, request.end, request.limit)
        kind = self._kinds.by_name(request.stream)
        if kind.table is None or not kind.ring or kind is CANDLE_KIND:
            raise InvalidArgument(f"stream: {kind.name} is not asked for as rows", field="stream")
        instrument = await self._resolve(request.symbol)
        span = Span(request.start, request.end)
        async with self._database.acquire() as connection, connection.transaction(readonly=True):
            stored = await read_stored(connection)
            tail = self._tail(instrument, stored, request.known_at)
            result = await self._stream(connection, instrument, kind, span, request, tail)
        return self._answer(instrument, [result], request.format, tail, started)

    async def _stream(
        self, connection: Connection, instrument: Instrument, kind: Kind, span: Span, request: Rows, tail: Tail
    ) -> Result:
        beyond = tail.rows(kind, span)
        if kind.dtype is COVERAGE:
            rows = await read_coverage(connection, instrument.id, span, limit=request.limit, known_at=request.known_at)
            records = _coverage_records(rows)
        else:
            copied = await read_rows(
                connection,
                instrument.id,
                kind,
                span,
                limit=request.limit,
                newest=request.newest,
                known_at=request.known_at,
            )
            if not len(beyond):
                return Result(kind.name, kind, copied, None, limit=request.limit)
            records = codec(copied.table, kind).decode(copied.data)[1]
        if len(beyond):
            records = np.concatenate([records, beyond[~np.isin(beyond["seq"], records["seq"])]])
        return Result(kind.name, kind, None, finish_rows(records, request.limit, newest=request.newest))

    # ---- for ingest ---------------------------------------------------------------------------

    async def _rebuild_bars(self, request: RebuildBars) -> tuple[protocol.Message, list[Any]]:
        started = time.perf_counter_ns()
        async with self._database.acquire() as connection, connection.transaction(readonly=True):
            known = {i.id: i for i in await read_instruments(connection)}
            instrument = known.get(request.instrument)
            if instrument is None:
                raise UnknownInstrument(f"instrument: {request.instrument} is not stored yet", field="instrument")
            bars = [await self._rebuilt(connection, instrument, *bar) for bar in request.bars]
        found = np.concatenate([CANDLE_EMPTY, *bars])
        result = Result("candle", CANDLE_KIND, None, found)
        return self._answer(instrument, [result], "records", Tail(None, None, None), started)

    async def _rebuilt(self, connection: Connection, instrument: Instrument, timeframe: int, ts: int) -> Records:
        """One bar from all its stored trades, a new version; as partial as the one that is there."""
        span = Span(ts, ts + timeframe * NS_PER_SECOND)
        copied = await read_rows(connection, instrument.id, BY_NAME["trade"], span)
        trades = codec(copied.table, copied.kind).decode(copied.data)[1]
        stored = await read_bars(connection, instrument.id, timeframe, span, bar_source="own")
        before = codec(stored.table, CANDLE_KIND).decode(stored.data)[1]
        partial = len(before) == 0 or bool(before["flags"][0] & CandleFlag.PARTIAL)
        return bars_from_trades(
            trades[np.argsort(trades["seq"])],
            timeframe,
            price_scale=instrument.price_scale,
            size_scale=instrument.size_scale,
            quote_scale=instrument.quote_scale,
            observed_since_ns=None if partial else ts,
            revised=len(before) > 0,
        )

    # ---- both ---------------------------------------------------------------------------------

    def _tail(self, instrument: Instrument, stored: Stored | None, known_at: int | None) -> Tail:
        path = arena_path(self._runtime_dir, instrument.name)
        arena: ArenaReader | None = None
        # not fed any more, or the daemon's shared memory is gone: the database answers alone
        with suppress(MarketdError):
            found = self._arena_at(path)
            arena = found if found.identity.instrument_id == instrument.id else None
        return Tail(arena, stored, known_at)

    def _arena_at(self, path: Path) -> ArenaReader:
        arena = self._arenas.get(path.name)
        if arena is None:
            arena = self._arenas[path.name] = ArenaReader.open(path)
        return arena

    def _answer(
        self, instrument: Instrument, results: list[Result], wanted: protocol.Format, tail: Tail, started: int
    ) -> tuple[protocol.Message, list[Any]]:
        rendered: list[Rendered] = [render(result, instrument, wanted) for result in results]
        meta = Meta(
            served_from="database+arena" if tail.used else "database",
            watermark=tail.watermark,
            committed_offset=tail.committed_offset,
            stale_ns=tail.stale_ns,
            durable=tail.durable,
            latency_ns=time.perf_counter_ns() - started,
        )
        parts = [part for part, _ in rendered]
        return Answer(instrument=instrument, parts=parts, meta=meta), [data for _, data in rendered]


class Tail:
    """What the arena knows of an instrument beyond `stored_ns`, up to which ts_known the database has everything."""

    def __init__(self, arena: ArenaReader | None, stored: Stored | None, known_at: int | None) -> None:
        self._arena = arena
        self._stored = stored
        stored_ns = self._stored_ns = 0 if stored is None else stored.ts_known
        self._known_at = known_at
        self._cut = arena.cut() if arena is not None else None
        self.used = False
        # a moment that the database has passed needs no arena
        self._needed = self._cut is not None and self._cut.ts_known > stored_ns
        if known_at is not None and known_at <= stored_ns:
            self._needed = False

    @property
    def watermark(self) -> int | None:
        """Every record with ts_known up to here is in the answer (if asked for); None when nothing live was ever
        stored.
        """
        return self._cut.ts_known if self._needed and self._cut is not None else self._stored_ns or None

    @property
    def committed_offset(self) -> int | None:
        return None if self._stored is None else self._stored.offset

    @property
    def stale_ns(self) -> int | None:
        return None if self._arena is None else self._arena.stale_ns()

    @property
    def durable(self) -> bool | None:
        if self._arena is None or self._cut is None:
            return None
        return not self._needed or 0 <= self._cut.journal_offset <= self._arena.durable_offset

    def rows(self, kind: Kind, span: Span) -> Records:
        return self._beyond(kind.name, kind, span)

    def bars(self, timeframe: int, span: Span, bar_source: str) -> Records:
        wanted = ("own", "venue") if bar_source == BEST else (bar_source,)
        found = [
            self._beyond(f"candle.{timeframe_name(timeframe)}.{source}", CANDLE_KIND, span)
            for source in wanted
            if source != "import"  # imports have no arena
        ]
        return np.concatenate(found) if found else np.empty(0, CANDLE_KIND.dtype)

    def _beyond(self, ring: str, kind: Kind, span: Span) -> Records:
        if not self._needed or self._arena is None:
            return np.empty(0, kind.dtype)
        # bars are rewritten in place, so what is new may lie anywhere in the ring
        records, _ = self._arena.last(ring, 2**31)
        times = records[kind.time]
        wanted = records["ts_known"] > self._stored_ns
        if self._known_at is not None:
            wanted &= records["ts_known"] <= self._known_at
        if span.start is not None:
            wanted &= times >= span.start
        if span.end is not None:
            wanted &= times < span.end
        found = records[wanted]
        self.used = self.used or bool(len(found))
        return found


def _coverage_records(rows: list[Any]) -> Records:
    records = np.zeros(len(rows), dtype=COVERAGE)
    for index, row in enumerate(rows):
        for name in ("ts_event", "ts_known", "ts_start", "ts_end"):
            records[name][index] = parse_time_ns(row[name])
        for name in ("seq", "stream", "state", "detail"):
            records[name][index] = row[name]
        records["reason"][index] = row["reason"].encode()
    return records


def _check_span(start: int | None, end: int | None, limit: int | None) -> None:
    if start is not None and end is not None and start > end:
        raise InvalidArgument("start: it is after end", field="start")
    if limit is not None and not 0 < limit <= protocol.MAX_RECORDS:
        raise InvalidArgument(f"limit: {limit} is not within 1 to {protocol.MAX_RECORDS}", field="limit")
