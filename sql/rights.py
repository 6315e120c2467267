"""The two roles of a database, and what they may.

`marketd_writer` is the daemon's: the schema `marketd` belongs to it, and nothing else does. `marketd_reader` is for
people and dashboards: it reads everything in the schema and writes nothing. `settle_rights` runs after every schema
change. Where the connecting user may not make roles or hand the schema over, everything works under that user, and
`Rights.missing` says which SQL a superuser may run. Whoever only reads calls `become_reader` in each session.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import asyncpg

from marketd.sql.statements import statements

logger = logging.getLogger(__name__)

WRITER_ROLE = "marketd_writer"
_SQL = statements("rights")


class Rights(NamedTuple):
    """What the server says of our roles; `owner`: whose the schema is, "" when there is none."""

    me: str
    is_superuser: bool
    may_make_roles: bool
    has_writer: bool
    has_reader: bool
    may_be_reader: bool  # by SET ROLE
    owner: str
    recompression: str  # the SQL that keeps rows in answers (sql/policies.py), where another user must run it; "" else

    @property
    def may_give(self) -> bool:
        """Whether what is in the schema can be handed over: PostgreSQL wants a superuser for certain."""
        return self.is_superuser and self.has_writer

    @property
    def missing(self) -> list[str]:
        """The SQL that a superuser may run for what is not there; none where all is as it should be."""
        lines = []
        if not self.has_reader:
            lines += ["CREATE ROLE marketd_reader LOGIN PASSWORD '…'"]
            lines += ["ALTER ROLE marketd_reader SET default_transaction_read_only = on"]
            lines += ["ALTER ROLE marketd_reader SET statement_timeout = '60s'"]
            lines += ["ALTER ROLE marketd_reader SET idle_in_transaction_session_timeout = '60s'"]
        if not self.may_be_reader:
            lines += ['GRANT marketd_reader TO "{}"'.format(self.me.replace('"', '""'))]
        if not self.has_writer and self.owner not in ("", WRITER_ROLE):
            lines += ["CREATE ROLE marketd_writer LOGIN PASSWORD '…'"]
        if self.recompression:
            lines += [self.recompression]
        return lines


async def read_rights(conn: asyncpg.Connection[Any]) -> Rights:
    """What there is; changes nothing."""
    row = await conn.fetchrow(_SQL["facts"])
    assert row is not None
    return Rights(*row.values())


class Reading(NamedTuple):
    """Who a session reads as; `may_write`: it could change what it reads."""

    role: str
    may_write: bool


async def become_reader(conn: asyncpg.Connection[Any]) -> None:
    """Go on as `marketd_reader` until the session ends, where the login may and nothing is kept from the reader; else
    nothing changes."""
    await conn.execute(_SQL["become_reader"])


async def read_reading(conn: asyncpg.Connection[Any]) -> Reading:
    row = await conn.fetchrow(_SQL["reading"])
    assert row is not None
    return Reading(*row.values())


async def settle_rights(conn: asyncpg.Connection[Any]) -> Rights:
    """Make the roles and give them their rights, as far as the connecting user may. Repeatable."""
    async with conn.transaction():
        rights = await read_rights(conn)
        if rights.is_superuser or rights.may_make_roles:
            await conn.execute(_SQL["make_roles"])
            rights = await read_rights(conn)
        if rights.may_give:
            await conn.execute(_SQL["give_to_writer"])
        if rights.has_reader and (rights.is_superuser or rights.owner == rights.me):
            await conn.execute(_SQL["grant_reader"])
        rights = await read_rights(conn)
    if rights.missing:
        logger.log(
            logging.WARNING if rights.recompression else logging.INFO,
            "our roles are not as they should be, and %s may not mend that; a superuser may run: %s",
            rights.me,
            "; ".join(rights.missing),
            extra={"action": "roles_missing"},
        )
    return rights


def same_owner(table: str, model: str) -> str:
    """The statement that gives `table` to whom `model` belongs: a superuser's pieces must be the writer's to drop.
    Both names are ours, with their schema.
    """
    owner = f"(SELECT relowner::regrole::text FROM pg_class WHERE oid = '{model}'::regclass)"
    return f"DO $$ BEGIN EXECUTE 'ALTER TABLE {table} OWNER TO ' || {owner}; END $$;"
