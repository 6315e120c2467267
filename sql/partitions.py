"""Native range partitions of the `postgres` profile, made ahead of time (`make_ahead`), or just before rows need them.

Pieces are aligned to 1970 in UTC, as TimescaleDB's chunks are, and named after their first day
(`trades_p20240808`). A piece is made as a table of its own and then attached, which lets readers and
writers of the other pieces go on; `PARTITION OF` would lock all of them out.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import asyncpg

from marketd.market.errors import InvalidArgument
from marketd.sql.errors import PartitionRefused
from marketd.sql.profiles import Profile
from marketd.sql.rights import same_owner

logger = logging.getLogger(__name__)

DAY_NS = 86_400 * 1_000_000_000
MAX_PIECES = 4000  # a call: eleven years of days; more is a wrong time, not a stretch
_BATCH = 50  # pieces in a transaction, which holds a lock for each of their tables and indexes
_EPOCH = date(1970, 1, 1)
AHEAD_NS = 3600 * 1_000_000_000  # how long before its time a piece is made
MADE = "A piece, made at"
_LOCK_SPACE = 0x6D6B7470  # first half of the advisory lock's key: "mktp"


class Partitioning(NamedTuple):
    """How a table is cut."""

    table: str
    time_column: str
    width_days: int
    native: bool  # partitioned by PostgreSQL itself, and so ours to cut

    def index_of(self, ts_ns: int) -> int:
        """The number of the piece that holds a time, counted from 1970."""
        return ts_ns // (self.width_days * DAY_NS)

    def start_of(self, index: int) -> date:
        return _EPOCH + timedelta(days=index * self.width_days)

    def name_of(self, index: int) -> str:
        return f"{self.table}_p{self.start_of(index):%Y%m%d}"


async def read_partitioning(conn: asyncpg.Connection[Any], table: str) -> Partitioning:
    """How `table` is cut; PartitionRefused when it is not one of ours."""
    row = await conn.fetchrow(
        """
        SELECT p.time_column, extract(epoch FROM p.width)::bigint / 86400 AS days, c.relkind = 'p' AS native
        FROM marketd.partitioned_tables p
        JOIN pg_class c ON c.oid = to_regclass(format('marketd.%I', p.table_name))
        WHERE p.table_name = $1
        """,
        table,
    )
    if row is None:
        raise PartitionRefused(f"{table} is no table that marketd cuts by time")
    return Partitioning(table, row["time_column"], row["days"], row["native"])


async def ensure_partitions(conn: asyncpg.Connection[Any], table: str, ts_min_ns: int, ts_max_ns: int) -> list[str]:
    """Make what is missing for rows from `ts_min_ns` to `ts_max_ns` (inclusive, ns); the names of what was
    made.

    Commits by itself unless the caller has begun a transaction, which then keeps other makers of partitions
    of this table waiting. Any number of processes may do this at a time.
    """
    return await _ensure(conn, await read_partitioning(conn, table), ts_min_ns, ts_max_ns)


async def make_ahead(conn: asyncpg.Connection[Any], now_ns: int) -> list[str]:
    """Of each table that is in use now make the piece that begins soon, where it is missing; their names."""
    made: list[str] = []
    for row in await conn.fetch("SELECT table_name FROM marketd.partitioned_tables ORDER BY table_name"):
        cut = await read_partitioning(conn, row["table_name"])
        now, soon = cut.index_of(now_ns), cut.index_of(now_ns + AHEAD_NS)
        if cut.native and soon > now and await _missing(conn, cut, [now, soon]) == [soon]:
            made += await _make(conn, cut, [soon])
    return made


class PartitionKeeper:
    """`ensure` for a writer that asks before every COPY: what it has seen to once costs a look into a set."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._cuts: dict[str, Partitioning] = {}
        self._known: dict[str, set[int]] = {}

    @property
    def profile(self) -> Profile:
        return self._profile

    @property
    def packs(self) -> bool:
        """May rows of closed stretches be packed (`sql/packing.py`)?"""
        return self._profile is Profile.POSTGRES

    async def ensure(self, conn: asyncpg.Connection[Any], table: str, ts_min_ns: int, ts_max_ns: int) -> list[str]:
        """As `ensure_partitions`, but refused inside of a transaction; nothing to do on hypertables."""
        if self._profile is Profile.TIMESCALE:
            return []
        cut = self._cuts.get(table)
        if cut is None:
            cut = self._cuts[table] = await read_partitioning(conn, table)
        known = self._known.setdefault(table, set())
        wanted = range(cut.index_of(ts_min_ns), cut.index_of(ts_max_ns) + 1)
        if all(index in known for index in wanted):
            return []
        if conn.is_in_transaction():
            # a rollback would take the pieces away again, and we would remember them
            raise PartitionRefused(f"partitions of {table} are made before the transaction begins, not in it")
        made = await _ensure(conn, cut, ts_min_ns, ts_max_ns)
        known.update(wanted)
        return made

    def forget(self, table: str | None = None) -> None:
        """After a COPY met a piece that is gone (23514), or pieces were dropped: look again."""
        if table is None:
            self._known.clear()
        else:
            self._known.pop(table, None)


async def _ensure(conn: asyncpg.Connection[Any], cut: Partitioning, ts_min_ns: int, ts_max_ns: int) -> list[str]:
    if ts_min_ns > ts_max_ns:
        raise InvalidArgument(f"{cut.table}: the stretch ends before it begins")
    if not cut.native:
        return []
    wanted = range(cut.index_of(ts_min_ns), cut.index_of(ts_max_ns) + 1)
    if len(wanted) > MAX_PIECES:
        raise PartitionRefused(
            f"{cut.table}: {len(wanted)} partitions from {cut.start_of(wanted[0])} to "
            f"{cut.start_of(wanted[-1])} are more than the {MAX_PIECES} that are made at a time; store "
            "smaller stretches, or look for a wrong time"
        )
    missing = await _missing(conn, cut, wanted)
    await _renew(conn, cut, sorted({*wanted} - {*missing}))
    return await _make(conn, cut, missing)


async def _renew(conn: asyncpg.Connection[Any], cut: Partitioning, present: list[int]) -> None:
    """Pieces that were made ahead, are over and were never used count as made now: what comes into them is stored now
    (sql/retention.py)."""
    over = [cut.name_of(index) for index in present if index < cut.index_of(time.time_ns())]
    if not over:
        return
    unused = await conn.fetch(
        """
        SELECT relname FROM pg_class
        WHERE relnamespace = 'marketd'::regnamespace AND relname = ANY ($1) AND pg_relation_size(oid) = 0
        """,
        over,
    )
    if unused:
        await conn.execute("\n".join(_made_now(f"marketd.{row['relname']}") for row in unused))


async def _make(conn: asyncpg.Connection[Any], cut: Partitioning, indexes: list[int]) -> list[str]:
    made: list[str] = []
    for at in range(0, len(indexes), _BATCH):
        made += await _make_together(conn, cut, indexes[at : at + _BATCH])
    if made:
        logger.info(
            "%d partitions of %s made, from %s",
            len(made),
            cut.table,
            made[0],
            extra={"action": "partitions_made", "table": cut.table, "count": len(made)},
        )
    return made


async def _missing(conn: asyncpg.Connection[Any], cut: Partitioning, wanted: range | list[int]) -> list[int]:
    rows = await conn.fetch(
        """
        SELECT child.relname FROM pg_inherits
        JOIN pg_class child ON child.oid = inhrelid
        WHERE inhparent = to_regclass(format('marketd.%I', $1::text))
        """,
        cut.table,
    )
    present = {row["relname"] for row in rows}
    return [index for index in wanted if cut.name_of(index) not in present]


async def _make_together(conn: asyncpg.Connection[Any], cut: Partitioning, indexes: list[int]) -> list[str]:
    async with conn.transaction():
        await conn.execute("SELECT pg_advisory_xact_lock($1, hashtext($2))", _LOCK_SPACE, cut.table)
        # another process may have made them while we waited
        missing = await _missing(conn, cut, indexes)
        if missing:
            await conn.execute("\n".join(_statements(cut, index) for index in missing))
    return [cut.name_of(index) for index in missing]


def _statements(cut: Partitioning, index: int) -> str:
    # names are ours (schema files, series.py checks its own) and hold nothing to quote
    name, parent = f"marketd.{cut.name_of(index)}", f"marketd.{cut.table}"
    begin, end = _instant(cut.start_of(index)), _instant(cut.start_of(index + 1))
    return (
        f"CREATE TABLE {name} (LIKE {parent} INCLUDING ALL,"
        # spares ATTACH the scan that would prove the bounds
        f" CONSTRAINT bounds CHECK ({cut.time_column} >= '{begin}' AND {cut.time_column} < '{end}'));"
        f" {same_owner(name, parent)}"
        f" ALTER TABLE {parent} ATTACH PARTITION {name} FOR VALUES FROM ('{begin}') TO ('{end}');"
        f" ALTER TABLE {name} DROP CONSTRAINT bounds;"
        # PostgreSQL does not remember it, and what was stored a moment ago must not go for its age (sql/retention.py)
        f" {_made_now(name)}"
    )


def _made_now(name: str) -> str:
    return f"COMMENT ON TABLE {name} IS '{MADE} {datetime.now(UTC).isoformat(timespec='seconds')}';"


def _instant(day: date) -> str:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).isoformat()
