"""Longer bars that the database has made already of our own bars of a second (sql/levels.py): the older part of an
answer. The newer part, and all that late bars have touched, is computed by the caller from bars of a second.

No longer bar is given of which a part may be missing: those that a note says are due, those that shared memory knows
more of, and the newest one, which may still be forming.
"""

from __future__ import annotations

from typing import NamedTuple

from marketd.daemon.query_tail import CANDLE_EMPTY, CANDLE_KIND
from marketd.market.aggregate import aggregate
from marketd.market.bars import BEST
from marketd.market.records import Records
from marketd.market.rows import codec
from marketd.market.times import NS_PER_SECOND
from marketd.sql.levels import Level, level_for
from marketd.sql.read import MAX_TIME_NS, MIN_TIME_NS, Span
from marketd.sql.read_levels import has_foreign, newest_second, oldest_due, read_level
from marketd.sql.store import Connection

# A limit is first looked for in so many times its stretch, then in so many times that: quiet markets leave bars out,
# and what need not be read is not.
_ROOM, _WIDER = 2, 16


class Older(NamedTuple):
    """Bars before `span`, which is what is left to compute."""

    bars: Records
    span: Span


async def older_bars(
    connection: Connection,
    instrument_id: int,
    timeframe: int,
    span: Span,
    *,
    bar_source: str,
    limit: int | None,
    beyond: Records,
) -> Older:
    """The part of a span (of whole bars of `timeframe` s) that the database has made; `beyond`: the bars of a second
    that it does not have yet. Made of own bars: where others are among the best ones, nothing is.
    """
    level = level_for(timeframe)
    if level is None or bar_source not in (BEST, "own"):
        return Older(CANDLE_EMPTY, span)
    if bar_source == BEST and await has_foreign(connection, instrument_id, span):
        return Older(CANDLE_EMPTY, span)
    until = await _until(connection, instrument_id, timeframe * NS_PER_SECOND, span, beyond)
    start = MIN_TIME_NS if span.start is None else span.start
    if until <= start:
        return Older(CANDLE_EMPTY, span)
    rows = None if limit is None else (limit + 1) * (timeframe // level.seconds)
    found = await _newest(connection, instrument_id, level, Span(start, until), rows)
    return Older(aggregate(found, timeframe), Span(until, span.end))


async def _until(connection: Connection, instrument_id: int, delta_ns: int, span: Span, beyond: Records) -> int:
    """The first bar that may lack a part of it."""
    moments = [
        await newest_second(connection, instrument_id, span),
        await oldest_due(connection, span),
        int(beyond["ts"].min()) if len(beyond) else None,
        MAX_TIME_NS if span.end is None else span.end,
    ]
    first = min(moment for moment in moments if moment is not None)
    return first - first % delta_ns


async def _newest(connection: Connection, instrument_id: int, level: Level, span: Span, rows: int | None) -> Records:
    """Bars of a level, the oldest first; with a number of rows the newest of them, read from no more than they take."""
    start, end = span.start or MIN_TIME_NS, span.end or MAX_TIME_NS
    stretch = end - start if rows is None else rows * level.seconds * NS_PER_SECOND * _ROOM
    while True:
        since = max(start, end - stretch)
        copied = await read_level(connection, instrument_id, level, Span(since, end), rows)
        found: Records = codec(copied.table, CANDLE_KIND).decode(copied.data)[1]
        if since == start or (rows is not None and len(found) >= rows):
            return found[::-1]
        stretch *= _WIDER
