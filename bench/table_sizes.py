"""What tables take on disk with all that belongs to them: indexes, TOAST, chunks or partitions, and packed blocks."""

from __future__ import annotations

from typing import Any

import asyncpg

# chunks, what they were compressed into, and the (empty) hypertables above both
_TIMESCALE = "SELECT hypertable_size(to_regclass(format('marketd.%I', $1::text)))::bigint"
_NATIVE = """
SELECT sum(pg_total_relation_size(relid))::bigint FROM pg_partition_tree(to_regclass(format('marketd.%I', $1::text)))
"""
# their share of the one table of blocks, by the bytes that they have in it
_BLOCKS = """
SELECT coalesce(pg_total_relation_size('marketd.packed_blocks') * sum(length(data)) FILTER (WHERE table_name = $1)
                / nullif(sum(length(data)), 0), 0)::bigint
FROM marketd.packed_blocks
"""


async def bytes_of(connection: asyncpg.Connection[Any], table: str) -> int:
    """Bytes on disk of a table that is cut by time, of either profile."""
    is_native = await connection.fetchval(
        "SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass(format('marketd.%I', $1::text))", table
    )
    rows = await connection.fetchval(_NATIVE if is_native else _TIMESCALE, table)
    return int(rows) + int(await connection.fetchval(_BLOCKS, table))
