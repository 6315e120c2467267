"""The reading side of the database: named statements, bound by instrument and time, answered as binary COPY.

`Reader` methods take an open connection and give the COPY bytes as they come: rows newest first, in the layout of
`marketd.market.rows.codec(table, kind)`. Decoding is left to whoever wants numbers, often the client.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from marketd.market.bars import SOURCES_PER_BAR, source_number
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME, Kind
from marketd.market.rows import codec
from marketd.sql.copy import copy_out
from marketd.sql.statements import statements
from marketd.sql.store import Connection, to_datetime

_READ = statements("read")
_CANDLE = BY_NAME["candle"]
# the widest stretch that timestamptz and int64 ns share
MIN_TIME_NS, MAX_TIME_NS = 0, 2**63 - 1
END_OF_TIME = datetime(2262, 1, 1, tzinfo=UTC)
NO_LIMIT = 2**62
SECOND = 1


class Stored(NamedTuple):
    """How far the database has the live lane of a daemon."""

    journal: UUID
    offset: int
    ts_known: int


class CopiedRows(NamedTuple):
    """Rows as PostgreSQL copied them out."""

    table: str
    kind: Kind
    data: bytes


class Span(NamedTuple):
    """start <= time < end, in ns; None is open."""

    start: int | None = None
    end: int | None = None

    def bounds(self) -> tuple[datetime, datetime]:
        start = MIN_TIME_NS if self.start is None else max(MIN_TIME_NS, -(-self.start // 1000) * 1000)
        end = END_OF_TIME if self.end is None else to_datetime(max(MIN_TIME_NS, -(-self.end // 1000) * 1000))
        return to_datetime(start), min(end, END_OF_TIME)


async def read_stored(connection: Connection, journal: UUID) -> Stored | None:
    """How far the database has a journal; None when it has nothing of it."""
    row = await connection.fetchrow(_READ["committed_known"], journal)
    return None if row is None else Stored(row["journal"], row["committed_offset"], row["ts_known_ns"])


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
) -> CopiedRows:
    """Bars of one timeframe (s). With `best` up to three rows a bar come (one a source): `market.bars.finish_bars`
    picks.
    """
    table = "candles_1s" if timeframe == SECOND else "candles"
    columns = columns_of(table, _CANDLE)
    source = source_number(bar_source)
    rows = NO_LIMIT if limit is None else limit * (SOURCES_PER_BAR if source is None else 1)
    args: list[Any] = [instrument_id, *span.bounds(), rows]
    if known_at is not None:
        return await _bars_as_known(connection, table, timeframe, args, known_at, source)
    name = "bars_1s" if timeframe == SECOND else "bars"
    if timeframe != SECOND:
        args.append(timeframe)
    if source is not None:
        name += "_of_source"
        args.append(source)
    data = await copy_out(connection, _READ[name].format(columns=columns), *args)
    return CopiedRows(table, _CANDLE, data)


async def _bars_as_known(
    connection: Connection, table: str, timeframe: int, args: list[Any], known_at: int, source: int | None
) -> CopiedRows:
    columns = columns_of("candles", _CANDLE)
    of_table = columns.replace('"timeframe"', '1 AS "timeframe"') if timeframe == SECOND else columns
    statement = _READ["bars_as_known"].format(
        columns=columns,
        candles_columns=of_table,
        table=table,
        and_timeframe="" if timeframe == SECOND else "AND timeframe = $5",
        and_source="" if source is None else "AND source = $7",
    )
    args += [timeframe, to_datetime(known_at)] + ([] if source is None else [source])
    return CopiedRows("candles", _CANDLE, await copy_out(connection, statement, *args))


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
) -> CopiedRows:
    """Records of a stream with a table of fixed rows (`trade`, `book`, `book_delta`, a declared series)."""
    table = kind.table or ""
    columns = columns_of(table, kind)
    statement = _READ["rows_newest" if newest else "rows_oldest"].format(columns=columns, table=table)
    known = END_OF_TIME if known_at is None else to_datetime(known_at)
    rows = NO_LIMIT if limit is None else limit
    return CopiedRows(table, kind, await copy_out(connection, statement, instrument_id, *span.bounds(), rows, known))


async def read_coverage(
    connection: Connection,
    instrument_id: int,
    span: Span,
    *,
    limit: int | None = None,
    newest: bool = True,
    known_at: int | None = None,
) -> list[Any]:
    """The ledger's rows that touch the span; with a limit the newest (first) or the oldest (first)."""
    known = END_OF_TIME if known_at is None else to_datetime(known_at)
    rows = NO_LIMIT if limit is None else limit
    statement = _READ["coverage_newest" if newest else "coverage_oldest"]
    return list(await connection.fetch(statement, instrument_id, *span.bounds(), rows, known))
