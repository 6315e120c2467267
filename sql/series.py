"""Tables of the series that users declare in the configuration.

A series has `series_<name>(instrument_id, ts_event, ts_known, seq, <fields>)`. A field that is declared
later becomes a column at the end; older rows have it absent. One that is declared no more keeps its column.
A field's type is fixed. A view in real numbers stands beside it (sql/series_views.py).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

import asyncpg

from marketd.sql.errors import SeriesRefused
from marketd.sql.profiles import Profile, describe_server, profile_for
from marketd.sql.rights import same_owner
from marketd.sql.series_views import is_shown, show_series

logger = logging.getLogger(__name__)

# What is stored, and what stands for an absent value.
_COLUMN_TYPES = {
    "f8": ("double precision", "'NaN'"),
    "i8": ("bigint", "-9223372036854775808"),
    "price": ("bigint", "-9223372036854775808"),
    "size": ("bigint", "-9223372036854775808"),
}
_MEANINGS = {
    "f8": "A real number; NaN when absent.",
    "i8": "An integer.",
    "price": "At price_scale.",
    "size": "At size_scale.",
}
STAMP_COLUMNS = ("instrument_id", "ts_event", "ts_known", "seq")
_STAMP_COMMENTS = {
    "instrument_id": "See instruments; daemon_no * 65536 for a series that belongs to none.",
    "ts_event": "The time of the value.",
    "ts_known": "When marketd knew it.",
    "seq": "Sequence number in the instrument.",
}
_WIDTH_DAYS = 7
_MAX_NAME = 40  # series_, the name and a partition's _p20240808 fit into PostgreSQL's 63
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('marketd.series'), hashtext($1))"


def series_table(name: str) -> str:
    """The table of a series; SeriesRefused on a name that cannot be one."""
    if not _NAME.fullmatch(name) or len(name) > _MAX_NAME:
        raise SeriesRefused(
            f"series {name!r}: a name is at most {_MAX_NAME} lower-case letters, digits and _, a letter first"
        )
    return f"series_{name}"


async def ensure_series_table(conn: asyncpg.Connection[Any], name: str, fields: Mapping[str, str]) -> tuple[str, ...]:
    """Make the table of a series, or add the columns that are new; the columns to write, in the order
    declared.

    `fields`: name → "f8", "i8", "price" or "size". Raises SeriesRefused naming the field whose type is
    another in the database. Commits by itself unless the caller has begun a transaction.
    """
    table = series_table(name)
    _check_fields(name, fields)
    async with conn.transaction():
        await conn.execute(_LOCK, table)
        stored = await _stored_fields(conn, name)
        _refuse_changes(name, stored, fields)
        new = {field: kind for field, kind in fields.items() if field not in stored}
        if not stored:
            await _create(conn, table, new)
        elif new:
            await _extend(conn, table, new)
        await _record(conn, name, new, len(stored))
        if new or not await is_shown(conn, table):
            await show_series(conn, table, stored | new)
    return (*STAMP_COLUMNS, *fields)


async def declared_series(conn: asyncpg.Connection[Any]) -> dict[str, dict[str, str]]:
    """All series that the database has tables for: name → fields in the order of their columns."""
    series: dict[str, dict[str, str]] = {}
    rows = await conn.fetch("SELECT series, field, type FROM marketd.series_fields ORDER BY series, position")
    for row in rows:
        series.setdefault(row["series"], {})[row["field"]] = row["type"]
    return series


def _check_fields(name: str, fields: Mapping[str, str]) -> None:
    if not fields:
        raise SeriesRefused(f"series {name!r} declares no fields")
    for field, kind in fields.items():
        if not _NAME.fullmatch(field) or len(field) > _MAX_NAME or field in STAMP_COLUMNS:
            raise SeriesRefused(f"series {name!r}: {field!r} cannot be a field's name")
        if kind not in _COLUMN_TYPES:
            raise SeriesRefused(f"series {name!r}: {field} is {kind!r}, which is none of {', '.join(_COLUMN_TYPES)}")


def _refuse_changes(name: str, stored: Mapping[str, str], fields: Mapping[str, str]) -> None:
    for field, kind in fields.items():
        if stored.get(field, kind) != kind:
            raise SeriesRefused(
                f"series {name!r}: {field} is stored as {stored[field]} and declared as {kind}; a field's "
                "type is fixed: declare a field of another name, or a series of another name"
            )


async def _stored_fields(conn: asyncpg.Connection[Any], name: str) -> dict[str, str]:
    rows = await conn.fetch("SELECT field, type FROM marketd.series_fields WHERE series = $1 ORDER BY position", name)
    return {row["field"]: row["type"] for row in rows}


async def _create(conn: asyncpg.Connection[Any], table: str, fields: Mapping[str, str]) -> None:
    profile = profile_for(await describe_server(conn))
    native = " PARTITION BY RANGE (ts_event)" if profile is Profile.POSTGRES else ""
    columns = ", ".join(_column(field, kind) for field, kind in fields.items())
    await conn.execute(
        f"CREATE TABLE marketd.{table} (instrument_id int NOT NULL, ts_event timestamptz NOT NULL,"
        f" ts_known timestamptz NOT NULL, seq bigint NOT NULL, {columns}){native}"
    )
    if profile is Profile.TIMESCALE:
        await conn.execute(
            "SELECT public.create_hypertable($1::text::regclass,"
            " public.by_range('ts_event', make_interval(days => $2)), create_default_indexes => false)",
            f"marketd.{table}",
            _WIDTH_DAYS,
        )
        await conn.execute(
            f"ALTER TABLE marketd.{table} SET (timescaledb.enable_columnstore,"
            " timescaledb.segmentby = 'instrument_id', timescaledb.orderby = 'ts_event DESC, seq DESC')"
        )
    await conn.execute(f"CREATE UNIQUE INDEX {table}_key ON marketd.{table} (instrument_id, ts_event DESC, seq)")
    await conn.execute(
        "INSERT INTO marketd.partitioned_tables (table_name, time_column, width)"
        " VALUES ($1, 'ts_event', make_interval(days => $2))",
        table,
        _WIDTH_DAYS,
    )
    await conn.execute(f"COMMENT ON TABLE marketd.{table} IS 'A declared series; see series_fields.'")
    await conn.execute(same_owner(f"marketd.{table}", "marketd.series_fields"))
    await _comment(conn, table, _STAMP_COMMENTS)
    await _comment(conn, table, {field: _MEANINGS[kind] for field, kind in fields.items()})
    logger.info("table %s made", table, extra={"action": "series_created", "table": table})


async def _extend(conn: asyncpg.Connection[Any], table: str, fields: Mapping[str, str]) -> None:
    for field, kind in fields.items():
        await conn.execute(f"ALTER TABLE marketd.{table} ADD COLUMN {_column(field, kind)}")
    await _comment(conn, table, {field: _MEANINGS[kind] for field, kind in fields.items()})
    logger.info(
        "table %s has new columns: %s",
        table,
        ", ".join(fields),
        extra={"action": "series_extended", "table": table},
    )


def _column(field: str, kind: str) -> str:
    # the default lets a daemon that does not know the field yet (or no more) go on writing; quoted, because a
    # user may name a field `order`
    column_type, absent = _COLUMN_TYPES[kind]
    return f'"{field}" {column_type} NOT NULL DEFAULT {absent}'


async def _comment(conn: asyncpg.Connection[Any], table: str, comments: Mapping[str, str]) -> None:
    for column, text in comments.items():
        await conn.execute(f"""COMMENT ON COLUMN marketd.{table}."{column}" IS '{text}'""")


async def _record(conn: asyncpg.Connection[Any], name: str, new: Mapping[str, str], first: int) -> None:
    for position, (field, kind) in enumerate(new.items(), first):
        await conn.execute(
            "INSERT INTO marketd.series_fields (series, field, type, position) VALUES ($1, $2, $3, $4)",
            name,
            field,
            kind,
            position,
        )
