"""What the query actor answers, from PostgreSQL and, for what it has not committed yet, from the arena.

One answer is one picture: first it is read how far the database is (`ts_known`), then its rows, then what the arena
has beyond that moment; a record in both counts once. Without I/O of its own: sockets are in `daemon.actors.query`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
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
from marketd.market.errors import InvalidArgument, MarketdError, NotYetStored, RangeError, UnknownInstrument
from marketd.market.instruments import Instrument, resolve
from marketd.market.records import BY_NAME, CANDLE, COVERAGE, CandleFlag, Kind, KindTable, Records
from marketd.market.rows import codec
from marketd.market.times import ABSENT, NS_PER_SECOND, parse_time_ns, parse_timeframe, timeframe_name
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.errors import DatabaseError
from marketd.sql.read import (
    CopiedRows,
    Span,
    Stored,
    read_bars,
    read_coverage,
    read_instruments,
    read_rows,
    read_stored,
)
from marketd.sql.store import Connection

CANDLE_EMPTY = np.empty(0, CANDLE)
# all statements of an answer see the same state of the database, and nothing that is committed between them
ONE_PICTURE: dict[str, Any] = {"isolation": "repeatable_read", "readonly": True}
PATIENT_SHARE = 0.8  # of a request's timeout: how long is waited for the writer, so that the answer says why
WAIT_SECONDS = 0.05
SILENT_NS = NS_PER_SECOND  # a writer's heart beats ten times as often
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
        bases = {self._base_timeframe(timeframe) for timeframe in request.timeframes}
        rings = [ring for base in bases for ring in _candle_rings(base, request.bar_source)]
        deadline = time.monotonic() + request.timeout_ms / 1000 * PATIENT_SHARE
        while True:
            async with self._database.acquire() as connection, connection.transaction(**ONE_PICTURE):
                stored = await read_stored(connection)
                tail = self._tail(instrument, stored, request.known_at, rings)
                if not tail.has_replaced:
                    results = [
                        await self._timeframe(connection, instrument, timeframe, request, tail)
                        for timeframe in request.timeframes
                    ]
                    return self._answer(instrument, results, request.format, tail, started)
            if time.monotonic() + WAIT_SECONDS > deadline:
                raise NotYetStored(
                    "known_at: the database has not committed yet the versions of bars that were known at that moment, "
                    "and shared memory has newer ones already; ask again, with a longer timeout",
                    field="known_at",
                )
            await asyncio.sleep(WAIT_SECONDS)

    async def _timeframe(
        self, connection: Connection, instrument: Instrument, timeframe: int, request: Bars, tail: Tail
    ) -> Result:
        name = f"candle.{timeframe_name(timeframe)}"
        base = self._base_timeframe(timeframe)
        if base != timeframe:
            bars = await self._generated(connection, instrument, timeframe, base, request, tail)
            return Result(name, CANDLE_KIND, None, bars)
        span = Span(request.start, request.end)
        copied = await _stored_bars(connection, instrument, timeframe, span, request, request.limit)
        beyond = tail.bars(timeframe, span, request.bar_source)
        if not len(beyond):
            return Result(name, CANDLE_KIND, copied, None, request.bar_source, request.limit)
        return Result(name, CANDLE_KIND, None, _merged(copied, beyond, request.bar_source, request.limit))

    async def _generated(
        self,
        connection: Connection,
        instrument: Instrument,
        timeframe: int,
        base: int,
        request: Bars,
        tail: Tail,
    ) -> Records:
        """Closed bars of a timeframe that is not stored. A bar needs all its parts: the first one too, and those after
        `end` of a bar that begins before it.
        """
        delta_ns = timeframe * NS_PER_SECOND
        span = Span(_ceiled(request.start, delta_ns), _ceiled(request.end, delta_ns))
        limit = None if request.limit is None else (request.limit + 1) * (timeframe // base)
        copied = await _stored_bars(connection, instrument, base, span, request, limit)
        parts = _merged(copied, tail.bars(base, span, request.bar_source), request.bar_source, limit)
        if not len(parts):
            return parts
        # the newest may still be forming: its parts come one by one
        until_ns = max(int(parts["ts"][-1]) + base * NS_PER_SECOND, tail.newest_ns - self._config.grace)
        bars = aggregate(parts, timeframe)
        return finish_bars(bars[bars["ts"] + delta_ns <= until_ns], BEST, request.limit)

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
        async with self._database.acquire() as connection, connection.transaction(**ONE_PICTURE):
            stored = await read_stored(connection)
            tail = self._tail(instrument, stored, request.known_at, [kind.name])
            result = await self._stream(connection, instrument, kind, span, request, tail)
        return self._answer(instrument, [result], request.format, tail, started)

    async def _stream(
        self, connection: Connection, instrument: Instrument, kind: Kind, span: Span, request: Rows, tail: Tail
    ) -> Result:
        beyond = tail.rows(kind, span)
        if kind.dtype is COVERAGE:
            rows = await read_coverage(
                connection,
                instrument.id,
                span,
                limit=request.limit,
                newest=request.newest,
                known_at=request.known_at,
            )
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
        async with self._database.acquire() as connection, connection.transaction(**ONE_PICTURE):
            known = {i.id: i for i in await read_instruments(connection)}
            instrument = known.get(request.instrument)
            if instrument is None:
                raise UnknownInstrument(f"instrument: {request.instrument} is not stored yet", field="instrument")
            bars = [await self._rebuilt(connection, instrument, *bar) for bar in request.bars]
        found = np.concatenate([CANDLE_EMPTY, *bars])
        result = Result("candle", CANDLE_KIND, None, found)
        return self._answer(instrument, [result], "records", Tail(None, None, None, []), started)

    async def _rebuilt(self, connection: Connection, instrument: Instrument, timeframe: int, ts: int) -> Records:
        """One bar from all its stored trades, a new version; as partial as the one that is there."""
        span = Span(ts, ts + timeframe * NS_PER_SECOND)
        copied = await read_rows(connection, instrument.id, BY_NAME["trade"], span)
        trades = codec(copied.table, copied.kind).decode(copied.data)[1]
        stored = await read_bars(connection, instrument.id, timeframe, span, bar_source="own")
        before = codec(stored.table, CANDLE_KIND).decode(stored.data)[1]
        partial = len(before) == 0 or bool(before["flags"][0] & CandleFlag.PARTIAL)
        try:
            return bars_from_trades(
                trades[np.argsort(trades["seq"])],
                timeframe,
                price_scale=instrument.price_scale,
                size_scale=instrument.size_scale,
                quote_scale=instrument.quote_scale,
                observed_since_ns=None if partial else ts,
                revised=len(before) > 0,
            )
        except RangeError:
            return CANDLE_EMPTY  # it can never be computed; asked for again, it would keep all others waiting

    # ---- both ---------------------------------------------------------------------------------

    def _tail(self, instrument: Instrument, stored: Stored | None, known_at: int | None, rings: Sequence[str]) -> Tail:
        path = arena_path(self._runtime_dir, instrument.name)
        arena: ArenaReader | None = None
        # not fed any more, or the daemon's shared memory is gone: the database answers alone
        with suppress(MarketdError):
            found = self._arena_at(path)
            arena = found if found.identity.instrument_id == instrument.id else None
        return Tail(arena, stored, known_at, rings)

    def _arena_at(self, path: Path) -> ArenaReader:
        arena = self._arenas.get(path.name)
        if arena is None:
            arena = self._arenas[path.name] = ArenaReader.open(path)
        elif arena.stale_ns() > SILENT_NS:
            arena.reopen()  # a runtime directory that was removed takes its arenas along without a word to us
        return arena

    def close(self) -> None:
        """Let go of the arenas."""
        for arena in self._arenas.values():
            arena.close()
        self._arenas.clear()

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
    """What the arena knows of an instrument beyond `stored_ns`, up to which ts_known the database has everything: of
    all `rings` in one cut.
    """

    def __init__(
        self, arena: ArenaReader | None, stored: Stored | None, known_at: int | None, rings: Sequence[str]
    ) -> None:
        self._arena = arena
        self._stored = stored
        stored_ns = self._stored_ns = 0 if stored is None else stored.ts_known
        self._known_at = known_at
        self._cut = arena.cut() if arena is not None else None
        self._records: dict[str, Records] = {}
        self._has_hole = False
        self.used = False
        # a moment that the database has passed needs no arena
        self._needed = self._cut is not None and self._cut.ts_known > stored_ns
        if known_at is not None and known_at <= stored_ns:
            self._needed = False
        if self._needed and arena is not None:
            # bars are rewritten in place, so what is new may lie anywhere in a ring
            wanted = {ring: place.capacity for ring, place in arena.rings.items() if ring in rings}
            self._records, self._cut = arena.snapshot(wanted)
            self._has_hole = any(self._lacks(ring, records) for ring, records in self._records.items())

    def _lacks(self, ring: str, records: Records) -> bool:
        """Has the ring dropped records already that the database has not got yet?"""
        if self._cut is None or self._cut.heads[ring] == len(records):
            return False
        return not len(records) or bool(records["ts_known"].min() > self._stored_ns)

    @property
    def has_replaced(self) -> bool:
        """Are there bars whose version of `known_at` a later one has replaced, before the database had it?"""
        known_at = self._known_at
        return known_at is not None and any(
            bool(((records["ts_known"] > known_at) & ((records["flags"] & CandleFlag.REVISED) != 0)).any())
            for records in self._records.values()
            if records.dtype == CANDLE
        )

    @property
    def watermark(self) -> int | None:
        """Every record with ts_known up to here is in the answer (if asked for); None when nothing live was ever
        stored.
        """
        if self._needed and self._cut is not None and not self._has_hole:
            return self._cut.ts_known
        return self._stored_ns or None

    @property
    def newest_ns(self) -> int:
        """The newest event that the answer knows of, by the arena; 0: unknown."""
        if self._cut is None or (self._known_at is not None and self._cut.ts_known > self._known_at):
            return 0
        return self._cut.ts_event

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
        found = [self._beyond(ring, CANDLE_KIND, span) for ring in _candle_rings(timeframe, bar_source)]
        return np.concatenate(found) if found else CANDLE_EMPTY

    def _beyond(self, ring: str, kind: Kind, span: Span) -> Records:
        records = self._records.get(ring)
        if records is None:
            return np.empty(0, kind.dtype)
        # the ledger's events touch a span, all other records lie in it
        starts, ends = ("ts_start", "ts_end") if kind.dtype is COVERAGE else (kind.time, kind.time)
        wanted = records["ts_known"] > self._stored_ns
        if self._known_at is not None:
            wanted &= records["ts_known"] <= self._known_at
        if span.start is not None:
            wanted &= (records[ends] >= span.start) | (records[ends] == ABSENT)
        if span.end is not None:
            wanted &= records[starts] < span.end
        found = records[wanted]
        self.used = self.used or bool(len(found))
        return found


async def _stored_bars(
    connection: Connection, instrument: Instrument, timeframe: int, span: Span, request: Bars, limit: int | None
) -> CopiedRows:
    return await read_bars(
        connection,
        instrument.id,
        timeframe,
        span,
        limit=limit,
        bar_source=request.bar_source,
        known_at=request.known_at,
    )


def _merged(copied: CopiedRows, beyond: Records, bar_source: str, limit: int | None) -> Records:
    """The database's bars and the arena's, as a reader gets them."""
    bars = codec(copied.table, CANDLE_KIND).decode(copied.data)[1]
    if len(beyond):
        bars = newest_versions(np.concatenate([bars, beyond]))
    return finish_bars(bars, bar_source, limit)


def _candle_rings(timeframe: int, bar_source: str) -> list[str]:
    """The rings that have bars of a source; imports have no arena."""
    sources = ("own", "venue") if bar_source == BEST else (bar_source,)
    return [f"candle.{timeframe_name(timeframe)}.{source}" for source in sources if source != "import"]


def _ceiled(ts_ns: int | None, delta_ns: int) -> int | None:
    return None if ts_ns is None else -(-ts_ns // delta_ns) * delta_ns


def _coverage_records(rows: list[Any]) -> Records:
    records = np.zeros(len(rows), dtype=COVERAGE)
    for index, row in enumerate(rows):
        for name in ("ts_event", "ts_known", "ts_start"):
            records[name][index] = parse_time_ns(row[name])
        end = row["ts_end"]
        # infinity: it has not ended
        records["ts_end"][index] = ABSENT if end.year == datetime.max.year else parse_time_ns(end)
        for name in ("seq", "stream", "state", "detail"):
            records[name][index] = row[name]
        records["reason"][index] = row["reason"].encode()
    return records


def _check_span(start: int | None, end: int | None, limit: int | None) -> None:
    if start is not None and end is not None and start > end:
        raise InvalidArgument("start: it is after end", field="start")
    if limit is not None and not 0 < limit <= protocol.MAX_RECORDS:
        raise InvalidArgument(f"limit: {limit} is not within 1 to {protocol.MAX_RECORDS}", field="limit")
