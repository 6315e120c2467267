"""Whether two tables hold the same rows, wherever and however they are stored.

A fingerprint is the number of rows and the sum of a 64-bit hash of each, over all columns by name: it does not depend
on the order of rows, on chunks or partitions, or on what is compressed. PostgreSQL computes it: no row travels.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import asyncpg


class Fingerprint(NamedTuple):
    """`digest`: a sum beyond 64 bits, as decimal text."""

    rows: int
    digest: str

    def plus(self, other: Fingerprint) -> Fingerprint:
        """Of both together."""
        return Fingerprint(self.rows + other.rows, str(int(self.digest) + int(other.digest)))


EMPTY = Fingerprint(0, "0")


async def tables_of(conn: asyncpg.Connection[Any]) -> list[str]:
    """All tables of our schema by name; one that is cut counts once."""
    rows = await conn.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('marketd') AND relkind IN ('r', 'p')"
        " AND NOT relispartition ORDER BY relname"
    )
    return [row["relname"] for row in rows]


async def columns_of(conn: asyncpg.Connection[Any], table: str) -> list[str]:
    """The columns of a table, in their order."""
    rows = await conn.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(format('marketd.%I', $1::text))"
        " AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        table,
    )
    return [row["attname"] for row in rows]


async def fingerprint(
    conn: asyncpg.Connection[Any], table: str, span: tuple[str, datetime, datetime] | None = None
) -> Fingerprint:
    """Of a whole table, or of the rows whose column `span[0]` lies in [span[1], span[2])."""
    # by name: a series may have got its columns in another order there
    named = quoted(sorted(await columns_of(conn, table)))
    where, bounds = ("", ()) if span is None else (f' WHERE "{span[0]}" >= $1 AND "{span[0]}" < $2', span[1:])
    row = await conn.fetchrow(
        f"SELECT count(*) AS rows, coalesce(sum(hash_record_extended(ROW({named}), 0)), 0)::text AS digest"
        f" FROM marketd.{table}{where}",
        *bounds,
    )
    assert row is not None
    return Fingerprint(row["rows"], row["digest"])


def quoted(columns: Sequence[str]) -> str:
    """Column names as a list in SQL; they are ours or checked by series.py, and hold no quote."""
    return ", ".join(f'"{column}"' for column in columns)
