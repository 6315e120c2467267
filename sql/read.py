"""The reading side of the database: named statements, bound by instrument and time, answered as binary COPY.

`Reader` methods take an open connection and give the COPY bytes as they come: rows newest first (of bars in any order
where all of them come), in the layout of `marketd.market.rows.codec(table, kind)`. Decoding is left to whoever wants
numbers, often the client. Where a part of an answer is packed (`sql/read_packed.py`), or was read out of compressed
batches (`sql/read_batches.py`), the answer is records.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np

from marketd.market.bars import SOURCES_PER_BAR, newest_versions, source_number
from marketd.market.instruments import Instrument
from marketd.market.ordering import newest_of_each_time
from marketd.market.records import BY_NAME, Kind, Records
from marketd.market.rows import BAR_VERSIONS, codec
from marketd.market.times import NS_PER_SECOND
from marketd.sql.copy import copy_out
from marketd.sql.literals import bind
from marketd.sql.packed_tables import PACKED_TABLES, joined
from marketd.sql.read_batches import read_batches
from marketd.sql.read_packed import PackedSpan, WholeBlocks, read_packed, whole_blocks
from marketd.sql.statements import statements
from marketd.sql.store import Connection, to_datetime

_READ = statements("read")
_CANDLE = BY_NAME["candle"]
# the widest stretch that timestamptz and int64 ns share
MIN_TIME_NS, MAX_TIME_NS = 0, 2**63 - 1
END_OF_TIME = datetime(2262, 1, 1, tzinfo=UTC)
NO_LIMIT = 2**62
_MICROSECOND = timedelta(microseconds=1)
SECOND = 1


class Stored(NamedTuple):
    """How far the database has the live lane of a daemon."""

    journal: UUID
    offset: int
    ts_known: int


class CopiedRows(NamedTuple):
    """Rows as PostgreSQL copied them out; where some were packed or in batches, `joined` has all of them, or `blocks`
    do: packed blocks as they are.
    """

    table: str
    kind: Kind
    data: bytes
    joined: Records | None = None
    blocks: WholeBlocks | None = None

    def size(self) -> int:
        """How many; of blocks, at least so many."""
        if self.blocks is not None:
            return self.blocks.inside
        return codec(self.table, self.kind).count(self.data) if self.joined is None else len(self.joined)

    def records(self) -> Records:
        """All of them, in the dtype of the kind."""
        if self.blocks is not None:
            return self.blocks.records(self.kind)
        return codec(self.table, self.kind).decode(self.data)[1] if self.joined is None else self.joined


class Span(NamedTuple):
    """start <= time < end, in ns; None is open."""

    start: int | None = None
    end: int | None = None

    def bounds(self) -> tuple[datetime, datetime]:
        start = MIN_TIME_NS if self.start is None else max(MIN_TIME_NS, -(-self.start // 1000) * 1000)
        end = END_OF_TIME if self.end is None else to_datetime(max(MIN_TIME_NS, -(-self.end // 1000) * 1000))
        return to_datetime(start), min(end, END_OF_TIME)

    def outer_bounds(self) -> tuple[datetime, datetime]:
        """Whole microseconds that hold the span."""
        return Span(None if self.start is None else self.start // 1000 * 1000, self.end).bounds()


async def read_stored(connection: Connection, journal: UUID) -> Stored | None:
    """How far the database has a journal; None when it has nothing of it."""
    row = await connection.fetchrow(_READ["committed_known"], journal)
    return None if row is None else Stored(row["journal"], row["committed_offset"], row["ts_known_ns"])


async def read_line(
    connection: Connection, instrument_id: int, stream: int, span: Span, *, known_at: int | None = None
) -> list[Any]:
    """The ledger's rows that the line of a stream (a kind's number) in a span is made of, in no order."""
    known = END_OF_TIME if known_at is None else to_datetime(known_at)
    statement = _READ["line"].format(expired=_READ["expired"])
    return list(await connection.fetch(statement, instrument_id, *span.outer_bounds(), stream, known))


async def read_facts(
    connection: Connection, instrument_id: int, journal: UUID | None, stream: int, span: Span, *, known_at: int | None
) -> tuple[Stored | None, list[Any]]:
    """How far the database has a journal, and `read_line` (known at `known_at`)."""
    known = END_OF_TIME if known_at is None else to_datetime(known_at)
    statement = _READ["facts"].format(line=_READ["line"].format(expired=_READ["expired"]))
    rows = await connection.fetch(statement, instrument_id, *span.outer_bounds(), stream, known, journal)
    offset, ts_known = rows[0]["committed_offset"], rows[0]["ts_known_ns"]
    stored = None if journal is None or offset is None else Stored(journal, offset, ts_known)
    return stored, [row for row in rows if row["ts_event"] is not None]


async def read_instruments(connection: Connection) -> list[Instrument]:
    rows = await connection.fetch(_READ["instruments"])
    return [
        Instrument(id=row["instrument_id"], **{k: v for k, v in row.items() if k != "instrument_id"}) for row in rows
    ]


async def read_bars(
    connection: Connection,
    instrument_id: int,
    timeframe: int,
    span: Span,
    *,
    limit: int | None = None,
    bar_source: str = "best",
    known_at: int | None = None,
    whole: bool = False,
    pictured: bool = False,
) -> CopiedRows:
    """Bars of one timeframe (s). With `best` up to three rows a bar come (one a source): `market.bars.finish_bars`
    picks. `whole`: packed blocks that have all of it come as they are. `pictured`: the connection sees one picture, so
    that compressed batches may be read.
    """
    table = "candles_1s" if timeframe == SECOND else "candles"
    source = source_number(bar_source)
    rows = NO_LIMIT if limit is None else limit * (SOURCES_PER_BAR if source is None else 1)
    if pictured:
        batched = await _batched_bars(connection, instrument_id, timeframe, span, rows, source, known_at)
        if batched is not None:
            return CopiedRows(table, _CANDLE, b"", batched)
    statement, args = bars_statement(instrument_id, timeframe, span, rows, source, known_at)
    layout = table if known_at is None else "candles"  # versions of all timeframes lie in one table
    copied = CopiedRows(layout, _CANDLE, await copy_out(connection, statement, *args))
    known = END_OF_TIME if known_at is None else to_datetime(known_at)
    bars = PackedSpan(table, _CANDLE, instrument_id, *span.bounds(), known)
    return await with_packed(connection, copied, bars, rows, source=source, whole=whole and source is None)


async def _batched_bars(
    connection: Connection,
    instrument_id: int,
    timeframe: int,
    span: Span,
    rows: int,
    source: int | None,
    known_at: int | None,
) -> Records | None:
    """`read_batches`, and of bars as they were known the versions that were replaced."""
    table = "candles_1s" if timeframe == SECOND else "candles"
    known = END_OF_TIME if known_at is None else to_datetime(known_at)
    bars = PackedSpan(table, _CANDLE, instrument_id, *span.bounds(), known, timeframe=timeframe)
    found = await read_batches(connection, bars, rows, source=source)
    if found is None or known_at is None:
        return found
    statement = _READ["versions"].format(
        columns=columns_of(BAR_VERSIONS, _CANDLE), and_source="" if source is None else "AND source = $6"
    )
    args = [instrument_id, *span.bounds(), timeframe, known, *([] if source is None else [source])]
    versions = codec(BAR_VERSIONS, _CANDLE).decode(await copy_out(connection, statement, *args))[1]
    return newest_versions(np.concatenate([found, versions])) if len(versions) else found


def bars_statement(
    instrument_id: int, timeframe: int, span: Span, rows: int, source: int | None, known_at: int | None
) -> tuple[str, list[Any]]:
    """What reads bars of one timeframe, and its arguments."""
    args: list[Any] = [instrument_id, *span.bounds(), rows]
    if known_at is not None:
        args += [timeframe, to_datetime(known_at)] + ([] if source is None else [source])
        return _as_known(timeframe, source), args
    name = "bars_1s" if timeframe == SECOND else "bars"
    if timeframe != SECOND:
        args.append(timeframe)
    if source is not None:
        name += "_of_source"
        args.append(source)
    columns = columns_of("candles_1s" if timeframe == SECOND else "candles", _CANDLE)
    order = "" if _has_room(timeframe, span, rows) else "ORDER BY ts DESC"
    return _READ[name].format(columns=columns, order=order), args


def _has_room(timeframe: int, span: Span, rows: int) -> bool:
    """Can there be no more than that many rows? Then it does not matter which of them come first."""
    if span.start is None or span.end is None:
        return rows == NO_LIMIT
    return rows > (span.end - span.start) // (timeframe * NS_PER_SECOND) * SOURCES_PER_BAR + SOURCES_PER_BAR


def _as_known(timeframe: int, source: int | None) -> str:
    columns = columns_of("candles", _CANDLE)
    return _READ["bars_as_known"].format(
        columns=columns,
        candles_columns=columns.replace('"timeframe"', '1 AS "timeframe"') if timeframe == SECOND else columns,
        table="candles_1s" if timeframe == SECOND else "candles",
        and_timeframe="" if timeframe == SECOND else "AND timeframe = $5",
        and_source="" if source is None else "AND source = $7",
    )


async def read_timeframes(
    connection: Connection,
    instrument_id: int,
    timeframes: Sequence[int],
    span: Span,
    *,
    limit: int | None = None,
    bar_source: str = "best",
    known_at: int | None = None,
) -> dict[int, CopiedRows]:
    """`read_bars` of several timeframes of a minute and more (s), in one round trip; `limit` of each."""
    source = source_number(bar_source)
    rows = NO_LIMIT if limit is None else limit * (SOURCES_PER_BAR if source is None else 1)
    asked = [bars_statement(instrument_id, each, span, rows, source, known_at) for each in timeframes]
    all_of_them = " UNION ALL ".join(f"({bind(statement, *args)})" for statement, args in asked)
    parts = codec("candles", _CANDLE).parted(await copy_out(connection, all_of_them), "timeframe", timeframes)
    return {timeframe: CopiedRows("candles", _CANDLE, data) for timeframe, data in parts.items()}


def columns_of(table: str, kind: Kind) -> str:
    """In quotes: a declared stream may have a field `order`, or `user`, which means something else without them."""
    return ", ".join(f'"{name}"' for name in codec(table, kind).columns)


async def read_rows(
    connection: Connection,
    instrument_id: int,
    kind: Kind,
    span: Span,
    *,
    limit: int | None = None,
    newest: bool = True,
    known_at: int | None = None,
    whole: bool = False,
    pictured: bool = False,
) -> CopiedRows:
    """Records of a stream with a table of fixed rows (`trade`, `book`, `book_delta`, a declared series). `whole`:
    packed blocks that have all of it come as they are. `pictured`: as of `read_bars`.
    """
    table = kind.table or ""
    columns = columns_of(table, kind)
    statement = _READ["rows_newest" if newest else "rows_oldest"].format(columns=columns, table=table)
    known = END_OF_TIME if known_at is None else to_datetime(known_at)
    rows = NO_LIMIT if limit is None else limit
    packed = PackedSpan(table, kind, instrument_id, *span.bounds(), known, newest)
    if pictured and (batched := await read_batches(connection, packed, rows)) is not None:
        return CopiedRows(table, kind, b"", batched)
    data = await copy_out(connection, statement, instrument_id, *span.bounds(), rows, known)
    return await with_packed(connection, CopiedRows(table, kind, data), packed, rows, whole=whole)


async def with_packed(
    connection: Connection,
    copied: CopiedRows,
    span: PackedSpan,
    limit: int,
    *,
    source: int | None = None,
    of_each_time: bool = False,
    whole: bool = False,
) -> CopiedRows:
    """The rows of a span, `limit` of them or all, and what is packed of it: again the newest (or oldest) `limit`.
    `whole`: where blocks have all of it, those blocks.
    """
    if span.table not in PACKED_TABLES:
        return copied
    table_codec = codec(copied.table, copied.kind)
    count = table_codec.count(copied.data)
    if whole and not count and (blocks := await whole_blocks(connection, span, limit)) is not None:
        return copied._replace(blocks=blocks)
    if limit < NO_LIMIT and count >= limit:
        # what lies beyond the last of them is not wanted
        edge = to_datetime(table_codec.last_time(copied.data) or 0)
        span = span._replace(start=edge) if span.newest else span._replace(end=edge + _MICROSECOND)
    packed = await read_packed(connection, span, limit, source=source)
    if packed is None:
        return copied
    time = span.kind.time
    records = joined(packed, copied.records(), time)
    if of_each_time:
        records = newest_of_each_time(records, time)
    if len(records) > limit:
        ordered = records[np.lexsort((records["seq"], records[time]))]
        records = ordered[-limit:] if span.newest else ordered[:limit]
    return copied._replace(joined=records)


async def read_coverage(
    connection: Connection,
    instrument_id: int,
    span: Span,
    *,
    limit: int | None = None,
    newest: bool = True,
    known_at: int | None = None,
) -> list[Any]:
    """The ledger's rows that touch the span, and what retention dropped of it; with a limit the newest (first) or the
    oldest (first)."""
    known = END_OF_TIME if known_at is None else to_datetime(known_at)
    rows = NO_LIMIT if limit is None else limit
    statement = _READ["coverage"].format(expired=_READ["expired"], direction="DESC" if newest else "ASC")
    return list(await connection.fetch(statement, instrument_id, *span.bounds(), rows, known))
