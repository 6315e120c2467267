"""What order books left behind, read back: versions of seconds and intervals, and books by the second or minute.

As in `marketd.sql.read`; the snapshots and changes themselves are read by `read_rows` there.
"""

from __future__ import annotations

from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np

from marketd.market.book_means import KIND_NAME, MEANS, Sums, book_means, join_means, means_kind, set_means
from marketd.market.instruments import Instrument
from marketd.market.records import Kind, Records, book_kind
from marketd.market.rows import BOOK_TABLE, INSTRUMENT_COLUMN, codec
from marketd.market.times import NS_PER_SECOND, parse_time_ns
from marketd.sql.copy import copy_out
from marketd.sql.packed_tables import NO_TIMEFRAME, is_among
from marketd.sql.read import END_OF_TIME, NO_LIMIT, CopiedRows, Span, columns_of, with_packed
from marketd.sql.read_batches import read_batches
from marketd.sql.read_packed import PackedSpan, packed_records
from marketd.sql.statements import statements
from marketd.sql.store import Connection, to_datetime

_BOOKS = statements("books")
_SUMS = {
    "mean_mid": "coalesce((means.bids + means.asks)::float8, 0)",
    "mean_spread": "coalesce((means.asks - means.bids)::float8, 0)",
    "mean_bid_size": "coalesce(means.bid_sizes::float8, 0)",
    "mean_ask_size": "coalesce(means.ask_sizes::float8, 0)",
}
_COMPUTED = {
    INSTRUMENT_COLUMN: f"book.{INSTRUMENT_COLUMN}",
    "ts": "means.ts",
    "timeframe": "$6::int",
    "count": "means.count",
    **_SUMS,
}
_MAX_INTERVALS = 10**7  # in a stretch; more would only overflow
_ALL_TIME = END_OF_TIME - to_datetime(0)


async def read_versions(
    connection: Connection,
    instrument_id: int,
    kind: Kind,
    span: Span,
    *,
    timeframe: int | None = None,
    limit: int | None = None,
    newest: bool = True,
    known_at: int | None = None,
    whole: bool = False,
    pictured: bool = False,
) -> CopiedRows:
    """Records of which each moment has one that counts, the newest version: `imbalance`, and `buckets` of a timeframe
    (s). `whole` and `pictured` as in `read_rows`.
    """
    table = kind.table or ""
    statement = _BOOKS["versions_newest" if newest else "versions_oldest"].format(
        columns=columns_of(table, kind),
        table=table,
        time=kind.time,
        and_timeframe="" if timeframe is None else "AND timeframe = $6",
    )
    known = END_OF_TIME if known_at is None else to_datetime(known_at)
    args: list[Any] = [instrument_id, *span.bounds(), NO_LIMIT if limit is None else limit, known]
    if timeframe is not None:
        args.append(timeframe)
    packed = PackedSpan(table, kind, instrument_id, *span.bounds(), known, newest, timeframe or NO_TIMEFRAME)
    if pictured and (found := await read_batches(connection, packed, args[3], of_each_time=True)) is not None:
        return CopiedRows(table, kind, b"", found)
    copied = CopiedRows(table, kind, await copy_out(connection, statement, *args))
    return await with_packed(connection, copied, packed, args[3], of_each_time=True, whole=whole)


async def read_book_means(
    connection: Connection,
    instrument: Instrument,
    depth: int,
    timeframe: int,
    span: Span,
    *,
    limit: int | None = None,
    newest: bool = True,
    known_at: int | None = None,
) -> Records:
    """`market.book_means.book_means` of the stored snapshots: intervals of `timeframe` seconds, the oldest first.

    `span` begins and ends between intervals. With a limit the newest (or oldest) intervals.
    """
    start, end = span.bounds()
    known = END_OF_TIME if known_at is None else to_datetime(known_at)
    question = _Question(instrument, depth, timeframe, known, newest)
    found = await _row_means(connection, question, start, end, limit)
    if limit is not None and len(found) >= limit:
        # what is packed beyond the last of them is not wanted
        if newest:
            start = to_datetime(int(found["ts"][0]))
        else:
            end = to_datetime(int(found["ts"][-1])) + timedelta(seconds=timeframe)
    packed = await _packed_means(connection, question, start, end, limit)
    if not len(packed):
        return found
    found = join_means(found, packed, **question.scales)
    if limit is None:
        return found
    return found[max(0, len(found) - limit) :] if newest else found[:limit]


async def _row_means(
    connection: Connection, question: _Question, start: datetime, end: datetime, limit: int | None
) -> Records:
    """Of what lies in rows: from where the newest snapshot is, stretches of growing length are looked at, until there
    are enough.
    """
    timeframe, newest = question.timeframe, question.newest
    if limit is None:
        return await _means(connection, question, start, end, NO_LIMIT)
    found: list[Records] = []
    width = timedelta(seconds=timeframe)
    intervals = limit
    while limit > 0:
        edge = await _edge(connection, question, start, end)
        if edge is None:
            break
        reach = min(intervals * width, _ALL_TIME)
        if newest:
            first, last = max(start, edge + width - reach), min(end, edge + width)
            end = first
        else:
            first, last = edge, min(end, edge + reach)
            start = last
        found.append(await _means(connection, question, first, last, limit))
        limit -= len(found[-1])
        intervals = min(4 * intervals, _MAX_INTERVALS)
    return np.concatenate([np.zeros(0, means_kind(question.depth).dtype), *(found[::-1] if newest else found)])


async def _packed_means(
    connection: Connection, question: _Question, start: datetime, end: datetime, limit: int | None
) -> Records:
    """Of what is packed: at least the newest (or oldest) `limit` intervals, whole ones; computed here."""
    kind = book_kind(question.depth)
    span = PackedSpan(BOOK_TABLE, kind, question.instrument.id, start, end, question.known, question.newest)
    found = np.zeros(0, means_kind(question.depth).dtype)
    stretches = packed_records(connection, span) if limit is None else packed_records(connection, span, limit)
    async with aclosing(stretches):
        async for books in stretches:
            books = await _not_in_rows(connection, question, books)
            found = join_means(found, book_means(books, question.timeframe, **question.scales), **question.scales)
            if limit is not None and len(found) > limit:  # the last of them may go on in the next stretch
                break
    return found


async def _not_in_rows(connection: Connection, question: _Question, books: Records) -> Records:
    """Without those that lie in the table as well, and were counted there."""
    first, last = to_datetime(int(books["ts_event"].min())), to_datetime(int(books["ts_event"].max()))
    rows = await connection.fetch(_BOOKS["snapshots_between"], question.instrument.id, first, last)
    if not rows:
        return books
    stored = np.array(
        [(parse_time_ns(row["ts_event"]), row["seq"]) for row in rows], [("ts_event", "<i8"), ("seq", "<i8")]
    )
    return books[~is_among(books, stored, ("ts_event", "seq"))]


class _Question(NamedTuple):
    instrument: Instrument
    depth: int
    timeframe: int
    known: datetime
    newest: bool

    @property
    def scales(self) -> dict[str, int]:
        return {"price_scale": self.instrument.price_scale, "size_scale": self.instrument.size_scale}


async def _edge(connection: Connection, question: _Question, start: datetime, end: datetime) -> datetime | None:
    """Where the interval of the newest (or oldest) LIVE snapshot begins."""
    statement = _BOOKS["newest_live" if question.newest else "oldest_live"]
    found = await connection.fetchval(statement, question.instrument.id, start, end, question.known)
    if found is None:
        return None
    delta_ns = question.timeframe * NS_PER_SECOND
    return to_datetime(parse_time_ns(found) // delta_ns * delta_ns)


async def _means(connection: Connection, question: _Question, start: datetime, end: datetime, limit: int) -> Records:
    """The newest (or oldest) intervals of a stretch, the oldest first."""
    instrument, kind = question.instrument, means_kind(question.depth)
    table_codec = codec(KIND_NAME, kind)
    columns = [_COMPUTED.get(name) or _column(kind, name) for name in table_codec.columns]
    direction = "DESC" if question.newest else "ASC"
    statement = _BOOKS["book_means"].format(columns=", ".join(columns), direction=direction)
    args = (instrument.id, start, end, limit, question.known, question.timeframe)
    records = table_codec.decode(await copy_out(connection, statement, *args))[1]
    if question.newest:
        records = np.ascontiguousarray(records[::-1])
    sums = Sums(records["count"].astype(np.int64), *(records[name].copy() for name in MEANS))
    set_means(records, sums, price_scale=instrument.price_scale, size_scale=instrument.size_scale)
    return records


def _column(kind: Kind, name: str) -> str:
    """A column of the last snapshot; levels in the number that is wanted, whatever `book.depth` was once."""
    shape = kind.dtype[name].shape
    if name in ("bid_count", "ask_count"):
        return f"least(book.{name}, {kind.dtype['bid_price'].shape[0]})::smallint"
    if not shape:
        return f"book.{name}"
    levels = f"(book.{name} || array_fill((-9223372036854775808)::bigint, ARRAY[{shape[0]}]))[1:{shape[0]}]"
    return f"CASE WHEN cardinality(book.{name}) = {shape[0]} THEN book.{name} ELSE {levels} END"
