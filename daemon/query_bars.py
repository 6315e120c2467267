"""Bars of one instrument for an answer: of timeframes that are stored as they are, of others made of the largest stored
one that divides them; several that lie in one table in one statement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from marketd.daemon.answers import MadeOf, Result
from marketd.daemon.query_facts import Facts
from marketd.daemon.query_levels import Older, older_bars
from marketd.daemon.query_tail import CANDLE_EMPTY, CANDLE_KIND, Tail, candle_rings
from marketd.ipc.protocol import Bars
from marketd.market.aggregate import aggregate
from marketd.market.bars import BEST, finish_bars, newest_versions
from marketd.market.errors import InvalidArgument
from marketd.market.instruments import Instrument
from marketd.market.records import Records
from marketd.market.times import NS_PER_SECOND, timeframe_name
from marketd.sql.levels import has_levels
from marketd.sql.read import MIN_TIME_NS, SECOND, CopiedRows, Span, read_bars, read_timeframes
from marketd.sql.store import Connection
from marketd.sql.windows import newest_in_windows


class BarReader:
    """`timeframes`: those that are stored, s, ascending; `grace`: ns, for which a bar waits for its last trades."""

    def __init__(self, timeframes: Sequence[int], grace: int) -> None:
        self._timeframes = timeframes
        self._grace = grace
        self._has_levels: bool | None = None  # what a schema was made with it keeps

    def rings(self, request: Bars) -> list[str]:
        """The rings that have what the database may lack. InvalidArgument for a timeframe that cannot be made."""
        bases = {self._base_timeframe(timeframe) for timeframe in request.timeframes}
        return [ring for base in bases for ring in candle_rings(base, request.bar_source)]

    async def read(self, connection: Connection, instrument: Instrument, request: Bars, facts: Facts) -> list[Result]:
        """One result a timeframe, in the order of the request."""
        together = await self._together(connection, instrument, request)
        return [
            await self._timeframe(connection, instrument, timeframe, request, facts, together.get(timeframe))
            for timeframe in request.timeframes
        ]

    async def _together(
        self, connection: Connection, instrument: Instrument, request: Bars
    ) -> Mapping[int, CopiedRows]:
        """The stored timeframes that lie in one table and can be read at once; those that cannot are missing."""
        wanted = [each for each in dict.fromkeys(request.timeframes) if each in self._timeframes and each != SECOND]
        if len(wanted) < 2 or (request.limit is not None and request.start is None):
            return {}  # the newest of each is looked for in windows of its own
        span, known_at = Span(request.start, request.end), request.known_at
        options: Any = {"limit": request.limit, "bar_source": request.bar_source, "known_at": known_at}
        return await read_timeframes(connection, instrument.id, wanted, span, **options)

    async def _timeframe(
        self,
        connection: Connection,
        instrument: Instrument,
        timeframe: int,
        request: Bars,
        facts: Facts,
        copied: CopiedRows | None,
    ) -> Result:
        name = f"candle.{timeframe_name(timeframe)}"
        base = self._base_timeframe(timeframe)
        if base != timeframe:
            bars, since = await self._generated(connection, instrument, timeframe, base, request, await facts.tail())
            return Result(name, CANDLE_KIND, None, bars, made_of=MadeOf(base, since))
        span = Span(request.start, request.end)
        if copied is None:
            copied = await _stored_bars(connection, instrument, timeframe, span, request, request.limit)
        beyond = (await facts.tail()).bars(timeframe, span, request.bar_source)
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
    ) -> tuple[Records, int]:
        """Closed bars of a timeframe that is not stored, and from when on (ns) they are made of `base`. A bar needs all
        its parts: the first one too, and those after `end` of a bar that begins before it.
        """
        delta_ns = timeframe * NS_PER_SECOND
        span = Span(_ceiled(request.start, delta_ns), _ceiled(request.end, delta_ns))
        limit = None if request.limit is None else (request.limit + 1) * (timeframe // base)
        beyond = tail.bars(base, span, request.bar_source)
        older = Older(CANDLE_EMPTY, span)
        if base == SECOND and request.known_at is None and await self._has_longer_bars(connection):
            older = await older_bars(
                connection,
                instrument.id,
                timeframe,
                span,
                bar_source=request.bar_source,
                limit=request.limit,
                beyond=beyond,
            )
        copied = await _stored_bars(connection, instrument, base, older.span, request, limit)
        parts = _merged(copied, beyond, request.bar_source, limit)
        since = MIN_TIME_NS if older.span == span or older.span.start is None else older.span.start
        if not len(parts):
            return finish_bars(older.bars, BEST, request.limit), since
        # the newest may still be forming: its parts come one by one
        until_ns = max(int(parts["ts"][-1]) + base * NS_PER_SECOND, tail.newest_ns - self._grace)
        bars = aggregate(parts, timeframe)
        if span.end is not None and bars["ts"][-1] + delta_ns > until_ns:
            # where there are parts from the end on, what ends before them is closed
            newest = (
                await _stored_bars(connection, instrument, base, Span(None, request.known_at), request, 1)
            ).records()
            is_past = bool((newest["ts"] >= span.end).any())
            if is_past or len(tail.bars(base, Span(span.end), request.bar_source)):
                until_ns = span.end
        bars = np.concatenate([older.bars, bars[bars["ts"] + delta_ns <= until_ns]])
        return finish_bars(bars, BEST, request.limit), since

    async def _has_longer_bars(self, connection: Connection) -> bool:
        if self._has_levels is None:
            self._has_levels = await has_levels(connection)
        return self._has_levels

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


async def _stored_bars(
    connection: Connection, instrument: Instrument, timeframe: int, span: Span, request: Bars, limit: int | None
) -> CopiedRows:
    async def read(window: Span) -> CopiedRows:
        return await read_bars(
            connection,
            instrument.id,
            timeframe,
            window,
            limit=limit,
            bar_source=request.bar_source,
            known_at=request.known_at,
            whole=request.format == "packed",
            pictured=True,
        )

    return await newest_in_windows(read, span, limit, 0 if limit is None else limit * timeframe * NS_PER_SECOND)


def _merged(copied: CopiedRows, beyond: Records, bar_source: str, limit: int | None) -> Records:
    """The database's bars and the arena's, as a reader gets them."""
    bars = copied.records()
    if len(beyond):
        bars = newest_versions(np.concatenate([bars, beyond]))
    return finish_bars(bars, bar_source, limit)


def _ceiled(ts_ns: int | None, delta_ns: int) -> int | None:
    return None if ts_ns is None else -(-ts_ns // delta_ns) * delta_ns
