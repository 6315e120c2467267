"""What the query actor answers, from PostgreSQL and, for what it has not committed yet, from the arena.

One answer is one picture: of one moment of the database its rows, and how far it is (`ts_known`); then what the arena
has beyond that moment; a record in both counts once. Without I/O of its own: sockets are in `daemon.actors.query`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from marketd import __version__
from marketd.daemon.answers import Rendered, Result, check_size, render
from marketd.daemon.query_bars import BarReader
from marketd.daemon.query_facts import Facts, Judged, Live, Unsettled, guessed
from marketd.daemon.query_instruments import InstrumentList
from marketd.daemon.query_latest import latest_answer, latest_bars
from marketd.daemon.query_names import id_at
from marketd.daemon.query_servers import Lacking, Servers
from marketd.daemon.query_streams import asked_of, read_stream
from marketd.daemon.query_tail import CANDLE_KIND, Tail, candle_rings
from marketd.daemon.query_worth import worth_of_answer
from marketd.daemon.rebuild import rebuilt_bars
from marketd.daemon.registry import REGISTRY_NAME, Registry
from marketd.daemon.settings import Config
from marketd.ipc import protocol
from marketd.ipc.arena_reader import ArenaReader
from marketd.ipc.journal_reader import JournalReader
from marketd.ipc.paths import arena_path
from marketd.ipc.protocol import (
    Answer,
    Bars,
    Describe,
    Description,
    LatestBars,
    Meta,
    RebuildBars,
    Rows,
    Stream,
)
from marketd.market.bars import source_number
from marketd.market.errors import InvalidArgument, MarketdError, NotYetStored, UnknownInstrument
from marketd.market.instruments import IDS_PER_DAEMON, Instrument, resolve
from marketd.market.records import COVERAGE, KindTable, Records
from marketd.market.times import NS_PER_SECOND, parse_timeframe, timeframe_name
from marketd.market.worth import UNKNOWN, Worth, stream_of
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.errors import DatabaseError
from marketd.sql.picture import one_picture
from marketd.sql.read import (
    Span,
    Stored,
    read_instruments,
    read_stored,
)
from marketd.sql.replica import ReadReplica
from marketd.sql.retry import DRIVER_ERRORS, once_more
from marketd.sql.store import Connection

PATIENT_SHARE = 0.8  # of an answer's time: how long is waited for the writer, so that the answer says why
MAX_SECONDS = 600.0  # however long a caller would wait: a place in the queue is not held for ever
# Of a request's timeout, but no more than so many seconds: what the answer itself takes. Who gives up when the caller
# does cannot tell why.
ANSWER_SHARE, ANSWER_SECONDS = 0.1, 0.25
WAIT_SECONDS = 0.05
SILENT_NS = NS_PER_SECOND  # a writer's heart beats ten times as often
LOOK_AGAIN_SECONDS = 0.05  # how old the list of instruments is at least when a symbol that it lacks makes us look again


class QueryService:
    def __init__(
        self,
        database: DatabaseConnectionManager,
        config: Config,
        kinds: KindTable,
        runtime_dir: Path,
        replica: ReadReplica | None = None,
    ) -> None:
        self._database = database
        self._servers = Servers(database, replica, statement_seconds=config.database.statement_timeout.seconds)
        self._config = config
        self._kinds = kinds
        self._runtime_dir = runtime_dir
        self._instruments = InstrumentList(database, runtime_dir)
        self._arenas: dict[str, ArenaReader] = {}
        self._seen_stored: dict[bytes, int] = {}  # by journal; there are as many as this host has had daemons
        self._timeframes = sorted(parse_timeframe(name) for name in config.timeframes)
        self._bar_reader = BarReader(self._timeframes, config.grace)

    def reload(self, config: Config) -> None:
        """Aliases and the default venue may have changed."""
        self._config = config

    async def answer(self, request: protocol.Request) -> tuple[protocol.Message, list[Any]]:
        """The reply to a request and its raw frames. Raises MarketdError."""
        handlers: dict[type, Callable[[Any], Awaitable[tuple[protocol.Message, list[Any]]]]] = {
            Describe: self._describe,
            Bars: self._bars,
            LatestBars: self._latest_bars,
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
                instruments=await self._instruments.read(),
                aliases=dict(config.aliases),
                default_venue=config.default_venue,
            ),
            [],
        )

    async def _profile(self) -> str:
        try:
            return (await once_more(self._database.profile)).value
        except (DatabaseError, *DRIVER_ERRORS):
            return "unknown"  # the database is away

    async def _resolve(self, symbol: str) -> Instrument:
        try:
            return self._resolved(symbol, await self._instruments.read())
        except UnknownInstrument:
            # it may have been declared a moment ago: shared memory shows it already
            if self._instruments.age < LOOK_AGAIN_SECONDS:
                raise
            self._instruments.outdate()
            return self._resolved(symbol, await self._instruments.read())

    async def _resolve_at(self, request: Bars | Rows) -> Instrument:
        """The instrument of a request, under the id that it had then."""
        now = await self._resolve(request.symbol)
        if self._is_replaced(now):
            self._instruments.outdate()  # shared memory knows it before the list is read again
            now = await self._resolve(request.symbol)
        known = self._instruments.known
        if request.known_at is None or not any(i.removed and i.name == now.name for i in known):
            return now  # nearly always: it never had another one
        path = self._config.state_path / REGISTRY_NAME
        registry = Registry(path, self._config.daemon_no, read_only=True)
        return id_at(now, known, request.known_at, registry.live_since)

    def _is_replaced(self, instrument: Instrument) -> bool:
        with suppress(MarketdError):
            arena = self._arena_at(arena_path(self._runtime_dir, instrument.name))
            return arena.identity.instrument_id != instrument.id
        return False

    def _resolved(self, symbol: str, instruments: Sequence[Instrument]) -> Instrument:
        return resolve(symbol, instruments, aliases=self._config.aliases, default_venue=self._config.default_venue)

    # ---- bars ---------------------------------------------------------------------------------

    async def _bars(self, request: Bars) -> tuple[protocol.Message, list[Any]]:
        started = time.perf_counter_ns()
        _check_span(request.start, request.end, request.limit)
        source_number(request.bar_source)
        instrument = await self._resolve_at(request)
        rings = self._bar_reader.rings(request)

        async def read(connection: Connection, facts: Facts) -> tuple[list[Result], Worth]:
            results = await self._bar_reader.read(connection, instrument, request, facts)
            found = list(zip(results, request.timeframes, strict=True))
            return results, await worth_of_answer(facts, found, Span(request.start, request.end), request.known_at)

        span = guessed(Span(request.start, request.end), request.limit, max(request.timeframes) * NS_PER_SECOND)
        return await self._settled(instrument, request, rings, Judged(stream_of(CANDLE_KIND), span), read, started)

    async def _latest_bars(self, request: LatestBars) -> tuple[protocol.Message, list[Any]]:
        started = time.perf_counter_ns()
        if request.timeframe not in self._timeframes:
            names = ", ".join(map(timeframe_name, self._timeframes))
            raise InvalidArgument(
                f"timeframe: {timeframe_name(request.timeframe)} is not stored; {names} are", field="timeframe"
            )
        if request.symbols is None:
            wanted = [instrument for instrument in await self._instruments.read() if not instrument.removed]
        else:
            wanted = list({i.id: i for i in [await self._resolve(symbol) for symbol in request.symbols]}.values())
        rings = candle_rings(request.timeframe, request.bar_source)

        async def read(connection: Connection, is_replica: bool) -> tuple[dict[int, Records], dict[int, Tail]]:
            stored: dict[bytes, Stored | None] = {}
            tails = {i.id: await self._tail(connection, i, rings, stored) for i in wanted}
            if is_replica and any(tail.lacks_stored for tail in tails.values()):
                raise Lacking
            return await latest_bars(connection, tails, request.timeframe, request.bar_source), tails

        found, tails = await self._servers.read(read, _deadline_of(request))
        answer, bars = latest_answer(wanted, found, tails, request.timeframe)
        answer.meta.latency_ns = time.perf_counter_ns() - started
        return answer, [bars.view(np.uint8).data]

    # ---- rows ---------------------------------------------------------------------------------

    async def _rows(self, request: Rows) -> tuple[protocol.Message, list[Any]]:
        started = time.perf_counter_ns()
        _check_span(request.start, request.end, request.limit)
        asked = asked_of(request, self._kinds, self._config.validation.max_skew)
        instrument = await self._resolve_at(request)

        async def read(connection: Connection, facts: Facts) -> tuple[list[Result], Worth]:
            result = await read_stream(connection, instrument, asked, facts)
            if asked.kind.dtype == COVERAGE:
                return [result], UNKNOWN
            span, found = Span(request.start, request.end), [(result, asked.timeframe)]
            return [result], await worth_of_answer(facts, found, span, request.known_at)

        span = guessed(Span(request.start, request.end), request.limit, (asked.timeframe or 0) * NS_PER_SECOND)
        judged = Judged(stream_of(asked.kind), span)
        return await self._settled(instrument, request, [asked.ring], judged, read, started)

    # ---- for ingest ---------------------------------------------------------------------------

    async def _rebuild_bars(self, request: RebuildBars) -> tuple[protocol.Message, list[Any]]:
        started = time.perf_counter_ns()
        async with one_picture(self._database, _deadline_of(request)) as connection:
            known = {i.id: i for i in await read_instruments(connection)}
            instrument = known.get(request.instrument)
            if instrument is None:
                raise UnknownInstrument(f"instrument: {request.instrument} is not stored yet", field="instrument")
            found = await rebuilt_bars(connection, instrument, request.bars)
        result = Result("candle", CANDLE_KIND, None, found)
        return self._answer(instrument, [result], "records", Tail(None, None, None, []), started)

    # ---- both ---------------------------------------------------------------------------------

    async def _settled(
        self,
        instrument: Instrument,
        request: Bars | Rows,
        rings: Sequence[str],
        judged: Judged,
        read: Callable[[Connection, Facts], Awaitable[tuple[list[Result], Worth]]],
        started: int,
    ) -> tuple[protocol.Message, list[Any]]:
        """What `read` finds in one picture. As of `known_at` it is given once it can never be another one: a moment
        that is still to come is refused, and what is not committed of one that has passed is waited for.
        """
        deadline = _deadline_of(request)
        patience = deadline - seconds_for(request) * (1 - PATIENT_SHARE)

        async def look(connection: Connection, is_replica: bool) -> tuple[Tail, list[Result], Worth]:
            live, known_at, seen = self._live(instrument), request.known_at, self._seen_stored
            facts = Facts(connection, instrument, live, known_at, rings, judged, is_replica=is_replica, seen=seen)
            if facts.come_first:
                await facts.tail()
            results, worth = await read(connection, facts)
            return await facts.tail(), results, worth

        while True:
            try:
                tail, results, worth = await self._servers.read(look, deadline)
            except Unsettled as reason:
                if time.monotonic() + WAIT_SECONDS > patience:
                    raise NotYetStored(
                        f"known_at: {reason}; ask again, with a longer timeout", field="known_at"
                    ) from None
                await asyncio.sleep(WAIT_SECONDS)
            else:
                return self._answer(instrument, results, request.format, tail, started, worth)

    async def _tail(
        self,
        connection: Connection,
        instrument: Instrument,
        rings: Sequence[str],
        known: dict[bytes, Stored | None],
    ) -> Tail:
        """`known`: what was read already of how far journals are stored, and where it is kept for the next."""
        arena, journal = self._live(instrument)
        if journal is not None and journal not in known:
            known[journal] = await read_stored(connection, UUID(bytes=journal))
        return Tail(arena, None if journal is None else known[journal], None, rings)

    def _live(self, instrument: Instrument) -> Live:
        path = arena_path(self._runtime_dir, instrument.name)
        arena: ArenaReader | None = None
        # not fed any more, or the daemon's shared memory is gone: the database answers alone
        with suppress(MarketdError):
            found = self._arena_at(path)
            arena = found if found.identity.instrument_id == instrument.id else None
        return Live(arena, self._journal_of(instrument) if arena is None else arena.identity.journal)

    def _journal_of(self, instrument: Instrument) -> bytes | None:
        """The journal that an instrument without an arena came through; None for one of another daemon."""
        if instrument.id // IDS_PER_DAEMON != self._config.daemon_no:
            return None
        try:
            with JournalReader(self._config.state_path / "journal") as reader:
                return reader.uuid
        except (MarketdError, OSError):
            return None  # there is none yet, or it cannot be read: then nobody knows how far it is stored

    def _arena_at(self, path: Path) -> ArenaReader:
        arena = self._arenas.get(path.name)
        if arena is not None and arena.stale_ns() > SILENT_NS:
            arena.reopen()  # a runtime directory that was removed takes its arenas along without a word to us
        if arena is None or arena.is_replaced:  # answers that are under way keep the one that they have
            arena = self._arenas[path.name] = ArenaReader.open(path)
        return arena

    def close(self) -> None:
        """Let go of the arenas, and of the database."""
        self._instruments.close()
        for arena in self._arenas.values():
            arena.close()
        self._arenas.clear()

    def _answer(
        self,
        instrument: Instrument,
        results: list[Result],
        wanted: protocol.Format,
        tail: Tail,
        started: int,
        worth: Worth = UNKNOWN,
    ) -> tuple[protocol.Message, list[Any]]:
        rendered: list[Rendered] = [render(result, instrument, wanted) for result in results]
        check_size([data for _, data in rendered])
        meta = Meta(
            served_from="database+arena" if tail.used else "database",
            watermark=tail.watermark,
            committed_offset=tail.committed_offset,
            stale_ns=tail.stale_ns,
            durable=tail.durable,
            coverage=worth.coverage,
            gaps=worth.gaps,
            latency_ns=time.perf_counter_ns() - started,
        )
        parts = [part for part, _ in rendered]
        return Answer(instrument=instrument, parts=parts, meta=meta), [data for _, data in rendered]


def seconds_for(request: protocol.Request) -> float:
    """How long an answer may be worked on, so that it, or what is in its way, is heard in time."""
    seconds = request.timeout_ms / 1000
    return min(seconds - min(ANSWER_SHARE * seconds, ANSWER_SECONDS), MAX_SECONDS)


def _deadline_of(request: protocol.Request) -> float:
    return time.monotonic() + seconds_for(request)


def _check_span(start: int | None, end: int | None, limit: int | None) -> None:
    if start is not None and end is not None and start > end:
        raise InvalidArgument("start: it is after end", field="start")
    if limit is not None and not 0 < limit <= protocol.MAX_RECORDS:
        raise InvalidArgument(f"limit: {limit} is not within 1 to {protocol.MAX_RECORDS}", field="limit")
