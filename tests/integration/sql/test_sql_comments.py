"""Every table, view and column says what it is, in both profiles."""

from __future__ import annotations

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
