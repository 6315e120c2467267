"""Large answers out of TimescaleDB's columnstore: compressed batches as they are, decoded here (`market/batches.py`).

As rows such an answer costs PostgreSQL a tuple for each and a value for each column, ten times what it takes to
decompress them. How batches are told, and how the catalogue says where they lie, is TimescaleDB's own affair and no
promise. So this is done for versions that were tested, of chunks that look as they did there, and of batches that prove
to be right; everything else is None, and is read as rows, with a line in the log the first time.

A connection must see one picture (`sql/picture.py`): rows and batches, which wander from one to the other, are read by
statements of their own. What no picture keeps, truncated chunks and replaced tables, shows at the end.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, cast

import asyncpg
import numpy as np

from marketd.market.bars import SOURCES_PER_BAR
from marketd.market.batches import UnknownBatch, unpacked
from marketd.market.ordering import newest_of_each_time
from marketd.market.records import Records
from marketd.market.rows import INSTRUMENT_COLUMN, ONE_SECOND_BARS, TableCodec, codec, from_postgres_us
from marketd.market.times import NS_PER_US
from marketd.sql.copy import HEADER, TRAILER, copy_out, room_mark, take_room
from marketd.sql.literals import bind
from marketd.sql.packed_tables import NO_TIMEFRAME, from_ns, to_ns
from marketd.sql.read_packed import PackedSpan
from marketd.sql.sessions import Session, told_once
from marketd.sql.statements import statements
from marketd.sql.store import Connection

logger = logging.getLogger(__name__)

LEAST_ROWS = 5_000  # in batches: fewer are as quick as rows (docs/performance-answers.md)
_BATCHES = statements("batches")
_TESTED = re.compile(r"2\.29\.\d+")
_NO_LIMIT = 2**62  # rows
_ROWS_A_SECOND = 10  # of what comes as it comes: a busy symbol's trades
_MOST_BYTES = 64 << 20  # as records: as many as an answer may have
_MOST_PIECES = 64  # that a statement names
_COMPRESSED, _KNOWN_STATES = 1, 1 | 2 | 4 | 8  # of a chunk: compressed, unordered, frozen, with rows beside its batches
_META = {"_ts_meta_count int4", "_ts_meta_min_1 timestamptz", "_ts_meta_max_1 timestamptz"}
_SEGMENT_TYPES = ("int2", "int4", "int8")
# a column is not there, or holds something else
_UNTOLD = (asyncpg.SyntaxOrAccessError, asyncpg.DataError, asyncpg.InternalServerError)
_HEAD = np.dtype(
    [
        ("fields", ">i2"),
        ("#rows", ">i4"),
        ("rows", ">i4"),
        ("#first", ">i4"),
        ("first", ">i8"),
        ("#last", ">i4"),
        ("last", ">i8"),
    ]
)
_told: set[str] = set()


class _Unusual(Exception):
    """A chunk is not as it was where this was tested."""


class _Moved(Exception):
    """A chunk was compressed, or its batches were made anew, since the picture was taken."""


class _Wanted(NamedTuple):
    """What is asked for; `of`: columns of which one value is wanted, by which batches are cut; `given`: fields that are
    no columns.
    """

    span: PackedSpan
    codec: TableCodec
    of: Mapping[str, int]
    given: Mapping[str, int]

    def statement(self, name: str, start: datetime, **names: str) -> str:
        and_segment = " ".join(f"AND {column} = {value}" for column, value in self.of.items())
        text = _BATCHES[name].format(and_segment=and_segment, time=self.span.kind.time, **names)
        return bind(text, self.span.instrument_id, start, self.span.end)


async def read_batches(
    connection: Connection,
    span: PackedSpan,
    limit: int,
    *,
    source: int | None = None,
    of_each_time: bool = False,
) -> Records | None:
    """All that a span has where chunks are compressed, or at least the newest `limit`, in no order; with `of_each_time`
    the newest version of each moment. None: it is to be read as rows.
    """
    wanted, unknown = _wanted(span, source), f"unknown batches of {span.table}"
    if not _may_be_large(span, limit) or not wanted.codec.has_integers_alone or not await _is_tested(connection):
        return None
    told = cast(Session, connection).told
    if unknown in told:
        return None
    cast(Session, connection).precede("SAVEPOINT batches;")
    give_back = room_mark()
    try:
        found = await _read(connection, wanted, limit, of_each_time)
    except UnknownBatch as reason:
        _tell_once(str(reason))
        told[unknown] = True  # and would be read in vain again, as long as this session lives
    except _Unusual as reason:
        _tell_once(str(reason))
    except _Moved:
        pass  # rows are of the same picture, and TimescaleDB itself finds what wandered
    except asyncpg.UndefinedTableError:
        await connection.execute("ROLLBACK TO SAVEPOINT batches")  # dropped, or made anew, since the picture was taken
    except _UNTOLD as error:
        await connection.execute("ROLLBACK TO SAVEPOINT batches")
        _tell_once(f"{type(error).__name__} of a chunk of {span.table}", str(error))
    else:
        if found is not None:
            return found
    give_back()  # what was read is let go
    return None


def _wanted(span: PackedSpan, source: int | None) -> _Wanted:
    of = {} if source is None else {"source": source}
    given: dict[str, int] = {}
    if span.timeframe != NO_TIMEFRAME:
        (given if span.table == ONE_SECOND_BARS else of)["timeframe"] = span.timeframe
    return _Wanted(span, codec(span.table, span.kind), of, given)


def _may_be_large(span: PackedSpan, limit: int) -> bool:
    """False, without asking anybody: there cannot be so many records, or nobody wants so many."""
    if not span.newest or limit < LEAST_ROWS:
        return False
    in_a_second = _ROWS_A_SECOND if span.timeframe == NO_TIMEFRAME else SOURCES_PER_BAR / span.timeframe
    return (span.end - span.start).total_seconds() * in_a_second >= LEAST_ROWS


async def _is_tested(connection: Connection) -> bool:
    version = await told_once(connection, _BATCHES["version"])
    if version is None:
        return False
    if not _TESTED.fullmatch(version):
        _tell_once(f"TimescaleDB {version} was not tested")
        return False
    return True


def _tell_once(reason: str, words: str = "") -> None:
    if reason not in _told:
        _told.add(reason)
        logger.warning(
            "compressed chunks are read row by row, which takes longer: %s",
            f"{reason}: {words}" if words else reason,
            extra={"action": "batches_not_read"},
        )


async def _read(connection: Connection, wanted: _Wanted, limit: int, of_each_time: bool) -> Records | None:
    span = wanted.span
    micros = [to_ns(moment) // NS_PER_US for moment in (span.start, span.end)]
    pieces = await connection.fetch(_BATCHES["pieces"], span.table, *micros)
    compressed = [piece for piece in pieces if piece["batches"] is not None]
    if not compressed or len(pieces) > _MOST_PIECES:
        return None
    segments = _segments(pieces, compressed, wanted)
    heads = await _heads(connection, wanted, compressed)
    start = _start(span, heads, limit)
    count = int(heads["rows"][from_postgres_us(heads["last"]) >= to_ns(start)].sum())
    if count < LEAST_ROWS or count * span.kind.dtype.itemsize > _MOST_BYTES:
        return None
    if limit < _NO_LIMIT:
        most = min(limit, _MOST_BYTES // span.kind.dtype.itemsize - count)
        if await _has_beside(connection, wanted, pieces, start, most):
            return None  # rows are read up to the limit, and not all of these
    beside = await copy_out(connection, _beside(wanted, pieces, start, _quoted(wanted.codec.columns)))
    take_room(count * span.kind.dtype.itemsize)
    batches = await _copied(connection, wanted, compressed, segments, start)
    await _assure_same(connection, pieces)
    whole = wanted._replace(span=span._replace(start=start))  # of what is older only a part was read
    records = await asyncio.to_thread(_joined, whole, segments, batches, beside)
    if of_each_time:
        records = newest_of_each_time(records, span.kind.time)
    return records if start == span.start or len(records) >= limit else None


def _segments(pieces: Sequence[Any], compressed: Sequence[Any], wanted: _Wanted) -> tuple[str, ...]:
    """Columns that a batch has one value of, beside the instrument. `_Unusual` where a piece is not as it should be."""
    table = wanted.span.table
    for piece in pieces:
        is_compressed = bool(piece["status"] & _COMPRESSED)
        if piece["status"] & ~_KNOWN_STATES or piece["is_foreign"] or is_compressed != (piece["batches"] is not None):
            raise _Unusual(f"a chunk of {table} has the status {piece['status']}")
        if not piece["may_read"]:
            raise _Unusual(f"compressed chunks of {table} may not be read")
    segments = tuple(compressed[0]["segments"])
    if INSTRUMENT_COLUMN not in segments or not set(wanted.of) <= set(segments):
        raise _Unusual(f"{table} is cut by {segments}")
    expected = {f"{name} compressed_data" for name in wanted.codec.columns if name not in segments} | _META
    for piece in compressed:
        held = set(piece["columns"])
        plain = all(any(f"{name} {each}" in held for each in _SEGMENT_TYPES) for name in segments)
        if tuple(piece["segments"]) != segments or piece["ordered_by"] != wanted.span.kind.time or not plain:
            raise _Unusual(f"a chunk of {table} is cut by {piece['segments']} and ordered by {piece['ordered_by']}")
        if not expected <= held:
            raise _Unusual(f"a chunk of {table} lacks {sorted(expected - held)}")
    return tuple(name for name in segments if name != INSTRUMENT_COLUMN)


async def _heads(connection: Connection, wanted: _Wanted, compressed: Sequence[Any]) -> Records:
    """Of each batch that touches the span how many rows it has, and its first and last time in µs."""
    start = wanted.span.start
    data = await copy_out(
        connection, _union(wanted.statement("heads", start, batches=piece["batches"]) for piece in compressed)
    )
    heads: Records = np.frombuffer(data[len(HEADER) : -len(TRAILER)], _HEAD)
    return heads


def _start(span: PackedSpan, heads: Records, limit: int) -> datetime:
    """From where on there are `limit` rows in batches for certain; the span's own start where there are not so many."""
    first, last = from_postgres_us(heads["first"]), from_postgres_us(heads["last"])
    inside = (first >= to_ns(span.start)) & (last < to_ns(span.end))
    order = np.flatnonzero(inside)[np.argsort(-first[inside], kind="stable")]
    enough = np.flatnonzero(np.cumsum(heads["rows"][order]) >= limit)
    return from_ns(int(first[order[enough[0]]])) if len(enough) else span.start


def _beside(wanted: _Wanted, pieces: Sequence[Any], start: datetime, columns: str) -> str:
    return _union(wanted.statement("rows", start, rows=piece["rows"], columns=columns) for piece in pieces)


async def _has_beside(
    connection: Connection, wanted: _Wanted, pieces: Sequence[Any], start: datetime, most: int
) -> bool:
    """Whether so many rows (at least one) lie beside batches. All of them would be read, whatever the limit: which of
    them were known, and are the newest of their moment, shows later.
    """
    most = max(1, most)
    rows = _beside(wanted, pieces, start, "1")
    return bool(await connection.fetchval(_BATCHES["how_many"].format(rows=rows, most=most)) >= most)


async def _copied(
    connection: Connection, wanted: _Wanted, compressed: Sequence[Any], segments: Sequence[str], start: datetime
) -> bytes:
    """The batches, the newest first."""
    columns = _compressed_columns(wanted.codec, segments)
    told = [f'"{name}"::int8' for name in segments]
    of_piece = [
        wanted.statement("batches", start, batches=piece["batches"], columns=", ".join([*told, _quoted(columns)]))
        for piece in compressed
    ]
    names = _quoted((*segments, *columns))
    return await copy_out(connection, _BATCHES["newest_batches"].format(names=names, batches=_union(of_piece)))


async def _assure_same(connection: Connection, pieces: Sequence[Any]) -> None:
    """Whoever has read a table holds it: what it is now, it was when it was read."""
    seen = [
        (piece[f"{part}_oid"], piece[part], piece[f"{part}_file"])
        for piece in pieces
        for part in ("rows", "batches")
        if piece[part] is not None
    ]
    if not await connection.fetchval(_BATCHES["are_same"], *map(list, zip(*seen, strict=True))):
        raise _Moved


def _joined(wanted: _Wanted, segments: Sequence[str], batches: bytes, beside: bytes) -> Records:
    """What of both is wanted."""
    span = wanted.span
    columns = _compressed_columns(wanted.codec, segments)
    records = unpacked(batches, segments, columns, wanted.codec.times, span.kind.dtype)
    for name, value in wanted.given.items():
        records[name] = value
    records = _within(records, span)
    if wanted.codec.count(beside):
        records = np.concatenate([records, _within(wanted.codec.decode(beside)[1], span)])
    return records


def _within(records: Records, span: PackedSpan) -> Records:
    """A view of them, as a rule: what is in the order of time is cut."""
    (start, end, known), times = span.within, records[span.kind.time]
    if (times[1:] >= times[:-1]).all():
        first, last = np.searchsorted(times, np.array([start, end]))
        records = records[first:last]
    else:
        records = records[(times >= start) & (times < end)]
    is_known = records["ts_known"] <= known
    return records if is_known.all() else records[is_known]


def _compressed_columns(table_codec: TableCodec, segments: Sequence[str]) -> list[str]:
    return [name for name in table_codec.columns if name not in segments and name != INSTRUMENT_COLUMN]


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _union(statements: Iterable[str]) -> str:
    return " UNION ALL ".join(statements)
