"""Changes of the schema, and the move into another database, ended at each statement: gone on with, and done once."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest

from book_lane import stamped
from integration.conftest import Server
from killing import Doom, Way, end_everywhere, judging, new_database, template_of
from lane import CANDLES, bars, trades
from marketd.daemon.kernel import TRADE_KIND
from marketd.sql.connections import SCHEMA
from marketd.sql.fingerprint import fingerprint, tables_of
from marketd.sql.move import MoveRefused, move
from marketd.sql.policies import Wishes, apply_policies
from marketd.sql.profiles import Profile
from marketd.sql.schema_runner import SchemaRunner
from marketd.sql.series import ensure_series_table
from packed import Lane, pack_all

ONE_SESSION = (Way.CLIENT, Way.SESSION)
FIELDS = {"rate": "f8"}
MORE_FIELDS = {"rate": "f8", "at": "i8", "paid": "price"}
WISHES = Wishes(timedelta(days=3), {"trades": timedelta(days=5)}, {"candles": timedelta(days=14)}, timedelta(days=90))
# what it is made of, in words that do not bear the numbers of things
_CATALOGUE = """
SELECT c.relname::text, c.relkind::text, coalesce(obj_description(c.oid, 'pg_class'), ''), coalesce(c.relacl::text, ''),
       CASE c.relkind WHEN 'v' THEN pg_get_viewdef(c.oid) WHEN 'i' THEN pg_get_indexdef(c.oid) ELSE '' END,
       coalesce((SELECT string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), attnotnull,
                                   pg_get_expr(adbin, adrelid), col_description(attrelid, attnum)), '; '
                                   ORDER BY attnum)
                 FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
                 WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped), ''),
       coalesce((SELECT string_agg(pg_get_constraintdef(k.oid), '; ' ORDER BY k.conname)
                 FROM pg_constraint k WHERE k.conrelid = c.oid), '')
FROM pg_class c WHERE c.relnamespace = to_regnamespace('marketd')
"""
_JOBS = """
SELECT proc_name::text, coalesce(hypertable_name::text, ''), schedule_interval::text, coalesce(config::text, '')
FROM timescaledb_information.jobs WHERE job_id >= 1000
"""
_WIDTHS = "SELECT hypertable_name::text, time_interval::text FROM timescaledb_information.dimensions"


def first_word(statement: str) -> str:
    return statement.split(maxsplit=1)[0]


async def catalogue(conn: Any) -> list[list[str]]:
    """All of the schema, as text."""
    asked = [_CATALOGUE]
    if await conn.fetchval("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')"):
        asked += [_JOBS, _WIDTHS]
    if await conn.fetchval("SELECT to_regclass('marketd.schema_changes') IS NOT NULL"):
        names = ("schema_changes", "name"), ("series_fields", "series || field || type || position")
        asked += [f"SELECT {what} FROM {table}" for table, what in names]
        asked += ["SELECT table_name || time_column || width FROM partitioned_tables"]
    # TimescaleDB numbers what it makes, and what was rolled back had numbers, too
    return [sorted(re.sub(r"\d+", "0", str(tuple(row))) for row in await conn.fetch(each)) for each in asked]


class _Step:
    """A change of the schema in one database."""

    is_atomic = False

    async def prepare(self, dsn: str) -> None:
        """It begins on what the template has."""

    async def picture(self, conn: Any) -> object:
        return await catalogue(conn)


class Applying(_Step):
    """All files on an empty database."""

    async def run(self, doom: Doom) -> None:
        async with doom.connect() as conn:
            await SchemaRunner(conn).apply()
            await SchemaRunner(conn).require_current()


async def test_a_schema_change_ended_at_any_statement_is_gone_on_with(server: Server) -> None:
    deaths = await end_everywhere(Applying(), server, template=None)
    assert min(len(deaths[way]) for way in ONE_SESSION) > 50


class Declaring(_Step):
    """A series gets its table, and then new columns."""

    async def run(self, doom: Doom) -> None:
        async with doom.connect() as conn:
            if not await conn.fetchval("SELECT EXISTS (SELECT FROM series_fields WHERE field = 'at')"):
                await ensure_series_table(conn, "funding", FIELDS)
            await ensure_series_table(conn, "funding", MORE_FIELDS)


async def test_a_series_whose_table_is_made_is_whole_or_not_there(server: Server) -> None:
    deaths = await end_everywhere(Declaring(), server, template=await template_of(server))
    assert min(len(deaths[way]) for way in ONE_SESSION) > 20


class Policies(_Step):
    """TimescaleDB is told what a configuration wants, and then what another one does."""

    is_atomic = True

    async def run(self, doom: Doom) -> None:
        async with doom.connect() as conn:
            await apply_policies(conn, WISHES)


@pytest.mark.parametrize("server", [Profile.TIMESCALE], indirect=True, ids=str)
async def test_policies_are_all_changed_or_none(server: Server) -> None:
    deaths = await end_everywhere(Policies(), server, template=await template_of(server))
    assert min(len(deaths[way]) for way in ONE_SESSION) > 12


class Moving:
    """From a database of the profile `postgres` into one of its server's."""

    is_atomic = False

    def __init__(self, source: str) -> None:
        self._source = source

    async def prepare(self, dsn: str) -> None:
        """The target is as the template."""

    async def run(self, doom: Doom) -> None:
        async with doom.connect(self._source) as old, doom.connect() as new:
            try:
                assert (await move(old, new, lambda *_: None)).finished
            except MoveRefused as refused:  # ended when all was done: whoever calls again is told so
                assert "it was moved there before" in str(refused)

    async def picture(self, conn: Any) -> object:
        own = ("schema_changes", "storage_samples", "moved_pieces")
        return {table: await fingerprint(conn, table) for table in await tables_of(conn) if table not in own}


async def test_a_move_ended_at_any_statement_goes_on_where_it_was(server: Server) -> None:
    source = await new_database(server, "of_moves")
    async with judging(source) as conn:
        await SchemaRunner(conn).apply(profile=Profile.POSTGRES)
        await conn.execute(f"SET search_path = {SCHEMA}, public")
        await ensure_series_table(conn, "funding", FIELDS)
        lane = Lane(conn)
        await lane.commit((TRADE_KIND, stamped(trades([(n, n, 100, 1) for n in range(20)]), 1)))
        await pack_all(conn)
        await lane.commit((TRADE_KIND, stamped(trades([(5, 99, 100, 1)]), 100)))
        await lane.commit((CANDLES, stamped(bars(range(5)), 1)))
    # what is the same line of code is the same place, whichever table it is about
    within = ("move.py", "move_packed.py", "copy_across.py", "copy.py")
    template = await template_of(server)
    deaths = await end_everywhere(Moving(source), server, template=template, words=first_word, within=within)
    assert min(len(deaths[way]) for way in ONE_SESSION) > 20
