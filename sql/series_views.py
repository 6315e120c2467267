"""Views of declared series, for people and dashboards: `v_series_<name>`, in real numbers, NULL where there is none.

Made with the table (`sql/series.py`), in its transaction, and made anew when it gets a column: a view's columns keep
their places, and new ones come at the end, as the table's do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asyncpg

from marketd.sql.rights import same_owner

_ABSENT = "-9223372036854775808"
_REALS = {
    "f8": "nullif(s.{name}, 'NaN')",
    "i8": f"nullif(s.{{name}}, {_ABSENT})",
    "price": f"nullif(s.{{name}}, {_ABSENT})::float8 / 10::float8 ^ i.price_scale",
    "size": f"nullif(s.{{name}}, {_ABSENT})::float8 / 10::float8 ^ i.size_scale",
}
_MEANINGS = {
    "f8": "A real number; NULL when absent.",
    "i8": "An integer; NULL when absent.",
    "price": "A real price; NULL when absent.",
    "size": "A real size; NULL when absent.",
}
_FIRST = {
    "instrument_id": "See instruments; daemon_no * 65536 for a series that belongs to none.",
    "venue": "Where it is traded; NULL for a series that belongs to none.",
    "symbol": "What the venue calls it.",
    "ts_event": "The time of the value.",
    "ts_known": "When marketd knew it.",
    "seq": "Sequence number in the instrument.",
}


async def show_series(conn: asyncpg.Connection[Any], table: str, fields: Mapping[str, str]) -> None:
    """Make the view of a series' table, or bring it to the table's columns. `fields`: all of them, in their order."""
    view = f"marketd.v_{table}"
    shown = {_column_name(field): kind for field, kind in fields.items()}
    columns = ["s.instrument_id", "i.venue", "i.symbol", "s.ts_event", "s.ts_known", "s.seq"]
    for (field, kind), name in zip(fields.items(), shown, strict=True):
        columns.append(f'{_REALS[kind].format(name=_quoted(field))} AS "{name}"')
    await conn.execute(
        f"CREATE OR REPLACE VIEW {view} AS SELECT {', '.join(columns)}"
        f" FROM marketd.{table} s LEFT JOIN marketd.instruments i USING (instrument_id)"
    )
    await conn.execute(f"COMMENT ON VIEW {view} IS '{table} in real numbers. Bound ts_event in every query.'")
    for name, meaning in (_FIRST | {name: _MEANINGS[kind] for name, kind in shown.items()}).items():
        await conn.execute(f"COMMENT ON COLUMN {view}.{_quoted(name)} IS '{meaning}'")
    await conn.execute(same_owner(view, f"marketd.{table}"))


async def is_shown(conn: asyncpg.Connection[Any], table: str) -> bool:
    """Whether the table has its view: one that an earlier marketd made has none."""
    return await conn.fetchval("SELECT to_regclass($1::text)", f"marketd.v_{table}") is not None


def _column_name(field: str) -> str:
    """A field may bear the name of a column that says whose the row is."""
    return f"{field}_" if field in _FIRST else field


def _quoted(name: str) -> str:
    return f'"{name}"'
