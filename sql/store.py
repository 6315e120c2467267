"""The writer's side of the database: rows of all tables and the journal's offset, in one transaction.

`commit` is exactly once: the offset that a restarted writer reads is committed with the rows, so that recovery is
the ordinary start. New rows go in by plain binary COPY; what may already be there (revised bars, repairs, imports)
is staged and merged. A unique violation (23505) means merge, not failure. What is packed already is brought back before
(`sql/packed_writes.py`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import numpy as np
import numpy.typing as npt

from marketd.market.records import CANDLE, TRADE, CandleFlag, Kind, Records, Source
from marketd.market.rows import codec
from marketd.market.times import ABSENT, NS_PER_SECOND
from marketd.sql.copy import copy_in
from marketd.sql.levels import SECONDS_TABLE, note_late
from marketd.sql.packed_writes import bring_back
from marketd.sql.partitions import PartitionKeeper
from marketd.sql.profiles import Profile
from marketd.sql.statements import statements

Connection = Any  # asyncpg's Connection or the pool's proxy of one
Ids = npt.NDArray[np.int32]

_STORE = statements("store")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CANDLE_TABLE = "candles"
LATE_NS = (
    60 * NS_PER_SECOND
)  # the database decides by its own clock (note_late), and is only asked about what may be late
# what the statements on bars have in place of a timeframe column, which candles_1s does not need
_BAR_NAMES = {
    SECONDS_TABLE: {
        "table": SECONDS_TABLE,
        "timeframe": "1",
        "c_timeframe": "1",
        "s_timeframe": "1",
        "and_timeframe": "",
        "key_timeframe": "",
        "conflict_timeframe": "",
    },
    _CANDLE_TABLE: {
        "table": _CANDLE_TABLE,
        "timeframe": "timeframe",
        "c_timeframe": "c.timeframe",
        "s_timeframe": "s.timeframe",
        "and_timeframe": "AND c.timeframe = s.timeframe",
        "key_timeframe": "s.timeframe,",
        "conflict_timeframe": "timeframe,",
    },
}


def to_datetime(ts_ns: int) -> datetime:
    return _EPOCH + timedelta(microseconds=ts_ns // 1000)


class TableRows(NamedTuple):
    """Records of one kind bound for one table."""

    table: str
    kind: Kind
    instruments: Ids
    records: Records
    fresh: bool  # nothing of it is expected to be in the table: plain COPY first


class StoredQuarantine(NamedTuple):
    """One row of the quarantine."""

    instrument: int
    ts_known: int
    offset: int
    item: int
    kind: str
    rule: str
    detail: str
    source: str
    payload: bytes


class Commit(NamedTuple):
    """All that one transaction writes."""

    journal: UUID
    lane: str
    offset: int
    ts_known: int
    rows: Sequence[TableRows]
    instruments: Records | None
    coverage: Sequence[tuple[Ids, Records]]
    quarantine: Sequence[StoredQuarantine]
    start: int = 0  # where its frames begin: what the database must have before


def split_rows(kind: Kind, instruments: Ids, records: Records) -> list[TableRows]:
    """Records by table: bars of a second have their own, and revised bars merge."""
    if kind.dtype is not CANDLE:
        return [TableRows(kind.table or "", kind, instruments, records, True)]
    seconds = records["timeframe"] == 1
    revised = (records["flags"] & CandleFlag.REVISED) != 0
    rows = []
    for table, of_table in ((SECONDS_TABLE, seconds), (_CANDLE_TABLE, ~seconds)):
        # one merge for the table as soon as one bar revises: the fresh bar it revises may be in the same batch
        if of_table.any():
            fresh = not revised[of_table].any()
            rows.append(TableRows(table, kind, instruments[of_table], records[of_table], fresh))
    return rows


async def read_committed(connection: Connection, journal: UUID) -> int | None:
    """The offset up to which the database has this journal; None when it never saw it."""
    row = await connection.fetchrow(_STORE["committed"], journal)
    return None if row is None else int(row["committed_offset"])


async def commit(connection: Connection, work: Commit, partitions: PartitionKeeper) -> int:
    """Write everything of `work` and its offset in one transaction; the offset that the database has then.

    That is `work.offset`; or another one, and nothing was written, because the database is not at `work.start`: an
    earlier try of which the answer was lost, or a killed writer whose last transaction came through after all.
    """
    await ensure_pieces(connection, work, partitions)
    async with connection.transaction():
        if not await claim(connection, work):
            return await read_committed(connection, work.journal) or 0
        await _write_descriptions(connection, work)
        for rows in await meeting_blocks(connection, work, partitions):
            await write_rows(connection, rows)
        await note_late_seconds(connection, work, partitions)
    return work.offset


async def ensure_pieces(connection: Connection, work: Commit, partitions: PartitionKeeper) -> None:
    """Make the partitions that the rows need; before the transaction begins."""
    for rows in work.rows:
        times = rows.records[rows.kind.time]
        first, last = int(times.min()), int(times.max())
        await partitions.ensure(connection, rows.table, first, last)
        if rows.kind.dtype is CANDLE:
            await partitions.ensure(connection, "candle_versions", first, last)


async def claim(connection: Connection, work: Commit) -> bool:
    """First of all in the transaction: the lock on the journal's row lets one at a time write what comes after an
    offset. False when the database is not at `work.start`."""
    known = to_datetime(work.ts_known)
    moved = await connection.execute(_STORE["commit_offset"], work.journal, work.lane, work.offset, known, work.start)
    return not moved.endswith(" 0")


async def meeting_blocks(connection: Connection, work: Commit, partitions: PartitionKeeper) -> Sequence[TableRows]:
    """Before the rows of `work` are written: those that meet packed stretches are merged, with what was packed."""
    if not partitions.packs:
        return work.rows
    met = await bring_back(connection, work.rows)
    return [rows._replace(fresh=rows.fresh and place not in met) for place, rows in enumerate(work.rows)]


async def note_late_seconds(connection: Connection, work: Commit, partitions: PartitionKeeper) -> None:
    """Late own bars of a second: longer bars that were made without them are due again.

    Last of all in the transaction: what is not noted as late must be committed before a refresh can come to it.
    """
    if partitions.profile is not Profile.TIMESCALE:
        return
    for rows in work.rows:
        if rows.table != SECONDS_TABLE:
            continue
        ts = rows.records["ts"]
        late = ts[(rows.records["source"] == Source.OWN) & (ts < time.time_ns() - LATE_NS)]
        if len(late):
            await note_late(connection, to_datetime(int(late.min())), to_datetime(int(late.max())))


async def write_rows(connection: Connection, rows: TableRows) -> None:
    table_codec = codec(rows.table, rows.kind)
    data = table_codec.encode(rows.instruments, rows.records)
    if rows.fresh:
        try:
            async with connection.transaction():
                await copy_in(connection, rows.table, table_codec.columns, data)
            return
        except asyncpg.UniqueViolationError:
            pass
    await connection.execute(_STORE["stage"].format(table=rows.table))
    await copy_in(connection, f"stage_{rows.table}", table_codec.columns, data)
    await _merge(connection, rows)


async def _merge(connection: Connection, rows: TableRows) -> None:
    times = rows.records[rows.kind.time]
    bounds = to_datetime(int(times.min())), to_datetime(int(times.max()))
    if rows.kind.dtype is TRADE:
        await connection.execute(_STORE["merge_trades"], *bounds)
    elif rows.kind.dtype is CANDLE:
        names = _BAR_NAMES[rows.table]
        await connection.execute(_STORE["drop_unchanged_bars"].format_map(names), *bounds)
        await connection.execute(_STORE["keep_replaced_bars"].format_map(names), *bounds)
        await connection.execute(_STORE["merge_bars"].format_map(names))
    else:
        await connection.execute(_STORE["merge_series"].format(table=rows.table, time=rows.kind.time), *bounds)
    # a second merge into the same table in this transaction must find the stage empty
    await connection.execute(f"DELETE FROM stage_{rows.table}")


async def _write_descriptions(connection: Connection, work: Commit) -> None:
    if work.instruments is not None:
        await write_instruments(connection, work.instruments)
    for instruments, records in work.coverage:
        await write_coverage(connection, instruments, records)
    await write_quarantine(connection, work.journal, work.quarantine)


async def write_instruments(connection: Connection, records: Records) -> None:
    await connection.executemany(_STORE["upsert_instrument"], [_instrument_row(record) for record in records])


async def write_coverage(connection: Connection, instruments: Ids, records: Records) -> None:
    rows = [_coverage_row(int(id_), record) for id_, record in zip(instruments, records, strict=True)]
    await connection.executemany(_STORE["insert_coverage"], rows)


async def write_quarantine(connection: Connection, journal: UUID, rows: Sequence[StoredQuarantine]) -> None:
    if rows:
        await connection.executemany(_STORE["insert_quarantine"], [_quarantine_row(journal, row) for row in rows])


def _instrument_row(record: Any) -> tuple[Any, ...]:
    texts = (bytes(record[name]).decode() for name in ("symbol", "venue", "base", "quote", "market"))
    numbers = ("price_scale", "size_scale", "quote_scale", "tick_size", "step_size", "flags")
    return (
        int(record["instrument"]),
        *texts,
        *(int(record[name]) for name in numbers),
        to_datetime(int(record["ts_known"])),
        int(record["seq"]),
    )


def _coverage_row(instrument: int, record: Any) -> tuple[Any, ...]:
    return (
        instrument,
        to_datetime(int(record["ts_event"])),
        to_datetime(int(record["ts_known"])),
        int(record["seq"]),
        int(record["stream"]),
        int(record["state"]),
        to_datetime(int(record["ts_start"])),
        _end(int(record["ts_end"])),
        int(record["detail"]),
        bytes(record["reason"]).decode(errors="replace"),
    )


def _end(ts_ns: int) -> datetime:
    # an end that is absent is still to come; asyncpg's word for infinity is a naive one
    return datetime.max if ts_ns == ABSENT else to_datetime(ts_ns)


def _quarantine_row(journal: UUID, row: StoredQuarantine) -> tuple[Any, ...]:
    # PostgreSQL's text holds neither NUL nor half a surrogate pair, and all four may be a sender's own words
    texts = (_storable(text) for text in (row.kind, row.rule, row.detail, row.source))
    return (row.instrument, to_datetime(row.ts_known), journal, row.offset, row.item, *texts, row.payload)


def _storable(text: str) -> str:
    return text.replace("\x00", "�").encode(errors="replace").decode()
