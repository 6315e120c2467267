"""Every table, view and column says what it is, and what its codes mean, in both profiles."""

from __future__ import annotations

import re
from enum import IntEnum, IntFlag

from marketd.market.layouts import (
    ActivityFlag,
    BookDeltaFlag,
    BookFlag,
    BookState,
    CandleFlag,
    Coverage,
    ImbalanceReason,
    Source,
    TradeFlag,
)
from marketd.sql.connections import type_connection
from marketd.sql.series import ensure_series_table

_UNSAID = """
SELECT c.relname || coalesce('.' || a.attname, '') AS name
FROM pg_class c
LEFT JOIN LATERAL (
    SELECT attname, attnum FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
    UNION ALL SELECT NULL, 0
) a ON true
WHERE c.relnamespace = 'marketd'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
  AND coalesce(CASE a.attnum WHEN 0 THEN obj_description(c.oid, 'pg_class') 
                             ELSE col_description(c.oid, a.attnum) END, '') = ''
ORDER BY 1
"""


async def test_every_table_view_and_column_has_a_comment(conn: type_connection) -> None:
    await ensure_series_table(conn, "funding", {"rate": "f8", "mark": "price"})
    assert [row["name"] for row in await conn.fetch(_UNSAID)] == []


CODES: list[tuple[type[IntEnum] | type[IntFlag], list[str]]] = [
    (TradeFlag, ["trades.flags", "v_trades.flags"]),
    (CandleFlag, ["candles_1s.flags", "candles.flags", "v_candles.flags"]),
    (ActivityFlag, ["activity_bars.flags", "v_activity_bars.flags"]),
    (BookFlag, ["book_snapshots.flags", "v_book_snapshots.flags"]),
    (BookDeltaFlag, ["book_deltas.flags", "v_book_deltas.flags"]),
    (BookState, ["book_snapshots.state", "v_book_snapshots.state", "imbalances.state", "book_buckets.state"]),
    (ImbalanceReason, ["imbalances.reason", "v_imbalances.reason"]),
    (Coverage, ["coverage.state"]),
    (Source, ["candles_1s.source", "candles.source", "v_candles.source"]),
]


_COMMENT = "SELECT col_description(attrelid, attnum) FROM pg_attribute WHERE attrelid = $1::regclass AND attname = $2"


async def test_a_comment_tells_every_code_of_its_column(conn: type_connection) -> None:
    for codes, columns in CODES:
        for column in columns:
            table, name = column.split(".")
            comment = await conn.fetchval(_COMMENT, table, name)
            told = {int(number) for number in re.findall(r"(?<![\w.])\d+(?=,? [a-z])", comment)}
            assert {int(code) for code in codes} <= told, (column, comment)
