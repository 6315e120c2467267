"""Records of a stream, as an answer: checked, read from the database, completed by what only the arena has yet.

A `Rows` request is about trades, books, what is computed from books, the ledger, or a declared series. Books are also
answered by the second, minute, … (`timeframe`): the last LIVE snapshot of each interval and means over it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from marketd.daemon.answers import Result, finish_rows
from marketd.daemon.ledger import coverage_records
from marketd.daemon.query_facts import Facts
from marketd.ipc.protocol import Rows
from marketd.market.book_means import book_means, join_means, means_kind
from marketd.market.errors import AnswerTooLarge, InvalidArgument
from marketd.market.instruments import Instrument
from marketd.market.ordering import newest_of_each_time
from marketd.market.records import CANDLE, COVERAGE, Kind, KindTable, Records
from marketd.market.times import NS_PER_SECOND, NS_PER_US, timeframe_name
from marketd.sql.read import CopiedRows, Span, read_coverage, read_rows
from marketd.sql.read_books import read_book_means, read_versions
from marketd.sql.store import Connection
from marketd.sql.windows import newest_in_windows

BUCKET_TIMEFRAMES = (1, 60)
MAX_BOOK_TIMEFRAME = 86_400
# A record's event time may lie after the moment it was known by what clocks differ; asking no further for what was
# known at t spares reading all that came since. More than any sound `validation.max_skew`.
KNOWN_AHEAD_NS = 3600 * NS_PER_SECOND
MAX_LEDGER_ROWS = 250_000  # of an answer without a limit; the ledger is read row by row
NEAR_NS = 10 * NS_PER_SECOND  # records so far apart are looked for in one stretch


class Asked(NamedTuple):
    """What a request is about, checked."""

    kind: Kind
    timeframe: int | None  # s; of buckets, or of the intervals that books are wanted by
    span: Span
    limit: int | None
    newest: bool
    known_at: int | None
    whole: bool = False  # may packed blocks be answered as they are?

    @property
    def name(self) -> str:
        """Of the answer's part."""
        return self.kind.name if self.timeframe is None else f"{self.kind.name}.{timeframe_name(self.timeframe)}"

    @property
    def ring(self) -> str:
        return self.name if self.kind.name == "buckets" else self.kind.name

    @property
    def options(self) -> dict[str, Any]:
        """The keywords that all readers share."""
        return {"limit": self.limit, "newest": self.newest, "known_at": self.known_at}


def asked_of(request: Rows, kinds: KindTable, max_skew_ns: int) -> Asked:
    """The request, checked. Raises InvalidArgument, UnknownStream."""
    kind = kinds.by_name(request.stream)
    if kind.table is None or not kind.ring or kind.dtype == CANDLE:
        raise InvalidArgument(f"stream: {kind.name} is not asked for as rows", field="stream")
    timeframe = _timeframe(kind, request.timeframe)
    span = Span(request.start, request.end)
    if request.known_at is not None and kind.dtype != COVERAGE:
        known_until = request.known_at + max(max_skew_ns, KNOWN_AHEAD_NS) + NS_PER_US
        span = span._replace(end=known_until if span.end is None else min(span.end, known_until))
    whole = request.format == "packed"
    return Asked(kind, timeframe, span, request.limit, request.newest, request.known_at, whole)


def _timeframe(kind: Kind, asked: int | None) -> int | None:
    if kind.name == "buckets":
        if asked not in (None, *BUCKET_TIMEFRAMES):
            raise InvalidArgument("timeframe: buckets are there by the second (1) and minute (60)", field="timeframe")
        return asked or BUCKET_TIMEFRAMES[0]
    if asked is not None and kind.name != "book":
        raise InvalidArgument(f"timeframe: {kind.name} has none", field="timeframe")
    if asked is not None and asked > MAX_BOOK_TIMEFRAME:
        raise InvalidArgument("timeframe: of a book it is a day at most", field="timeframe")
    return asked


async def read_stream(connection: Connection, instrument: Instrument, asked: Asked, facts: Facts) -> Result:
    """What the database has, and the tail beyond it."""
    if asked.kind.name == "book" and asked.timeframe is not None:
        return await _book_means(connection, instrument, asked, asked.timeframe, facts)
    if asked.kind.dtype == COVERAGE:
        records = await _ledger(connection, instrument, asked)
        beyond = (await facts.tail()).rows(asked.kind, asked.span, asked.ring)
    else:
        copied = await _copied(connection, instrument, asked)
        beyond = (await facts.tail()).rows(asked.kind, asked.span, asked.ring)
        if not len(beyond):
            return Result(asked.name, asked.kind, copied, None, limit=asked.limit)
        records = copied.records()
    records = joined(records, beyond)
    if _has_versions(asked.kind):
        records = newest_of_each_time(records, asked.kind.time)
    return Result(asked.name, asked.kind, None, finish_rows(records, asked.limit, newest=asked.newest))


async def _copied(connection: Connection, instrument: Instrument, asked: Asked) -> CopiedRows:
    async def read(window: Span) -> CopiedRows:
        if _has_versions(asked.kind):
            options = asked.options | {"timeframe": asked.timeframe, "whole": asked.whole, "pictured": True}
            return await read_versions(connection, instrument.id, asked.kind, window, **options)
        return await read_rows(
            connection, instrument.id, asked.kind, window, whole=asked.whole, pictured=True, **asked.options
        )

    return await newest_in_windows(read, asked.span, asked.limit if asked.newest else None)


async def _ledger(connection: Connection, instrument: Instrument, asked: Asked) -> Records:
    options = asked.options | {"limit": asked.limit or MAX_LEDGER_ROWS + 1}
    rows = await read_coverage(connection, instrument.id, asked.span, **options)
    if asked.limit is None and len(rows) > MAX_LEDGER_ROWS:
        raise AnswerTooLarge(
            f"limit: the ledger has more than {MAX_LEDGER_ROWS} rows there; ask for a shorter stretch, or with a limit",
            field="limit",
        )
    return coverage_records(rows)


def _has_versions(kind: Kind) -> bool:
    """Are there records that a later one with the same key replaces?"""
    return kind.time in kind.key


def joined(records: Records, beyond: Records) -> Records:
    """Those of the database and those of the arena; one that is in both counts once."""
    if not len(beyond):
        return records
    return np.concatenate([records, beyond[~np.isin(beyond["seq"], records["seq"])]])


# ---- books by interval --------------------------------------------------------------------------------


async def _book_means(
    connection: Connection, instrument: Instrument, asked: Asked, timeframe: int, facts: Facts
) -> Result:
    """What the database has is computed there; the snapshots that only the arena has come on top."""
    delta_ns = timeframe * NS_PER_SECOND
    depth = asked.kind.dtype["bid_price"].shape[0]
    kind = means_kind(depth)
    # an interval belongs to the span in which it begins; what was known at t ends with t, not between intervals
    span = Span(_ceiled(asked.span.start, delta_ns), _ceiled(asked.span.end, delta_ns))
    found = await read_book_means(connection, instrument, depth, timeframe, span, **asked.options)
    beyond = (await facts.tail()).rows(asked.kind, span, asked.ring)
    if len(beyond):
        scales = {"price_scale": instrument.price_scale, "size_scale": instrument.size_scale}
        unstored = await _unstored(connection, instrument, asked, beyond)
        found = join_means(found, book_means(unstored, timeframe, **scales), **scales)
    return Result(asked.name, kind, None, finish_rows(found, asked.limit, newest=asked.newest))


async def _unstored(connection: Connection, instrument: Instrument, asked: Asked, beyond: Records) -> Records:
    """Those that the database has not got. It is asked about their own time only: an interval may be a day."""
    stored = [np.zeros(0, "<i8")]
    for stretch in _stretches(beyond["ts_event"]):
        copied = await read_rows(connection, instrument.id, asked.kind, stretch, known_at=asked.known_at)
        stored.append(copied.records()["seq"])
    return beyond[~np.isin(beyond["seq"], np.concatenate(stored))]


def _stretches(times: Any) -> list[Span]:
    """The stretches that `times` lie in, each near to the next."""
    known = np.unique(times // NS_PER_US * NS_PER_US)  # as the database has them
    cuts = np.flatnonzero(np.diff(known) > NEAR_NS) + 1
    return [Span(int(part[0]), int(part[-1]) + NS_PER_US) for part in np.split(known, cuts)]


def _ceiled(ts_ns: int | None, delta_ns: int) -> int | None:
    return None if ts_ns is None else -(-ts_ns // delta_ns) * delta_ns
