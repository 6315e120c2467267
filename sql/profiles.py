"""What kind of PostgreSQL this is, and so how the schema stores its rows.

`timescale`: hypertables and all that the Community licence allows. `postgres`: everything else,
TimescaleDB's Apache edition too; native partitions. A database keeps the profile its schema was made with:
what is stored as partitions does not turn into hypertables because somebody installs an extension.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

import asyncpg

from marketd.sql.errors import ProfileError
from marketd.sql.installations import MIN_TIMESCALE, numbers

COMMUNITY = "timescale"
# Exists only where the library is preloaded; shared_preload_libraries itself is hidden from ordinary roles.
_PRELOADED = "SELECT EXISTS (SELECT FROM pg_settings WHERE name = 'timescaledb.bgw_launcher_poll_time')"
_FACTS = f"""
SELECT current_setting('server_version') AS server_version,
       current_setting('server_version_num')::int AS server_version_num,
       coalesce((SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'), '') AS installed,
       coalesce((SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb'), '')
           AS available,
       ({_PRELOADED}) AS preloaded,
       coalesce(current_setting('timescaledb.license', true), '') AS licence,
       to_regclass('marketd.schema_changes') IS NOT NULL AS has_schema
"""


class Profile(StrEnum):
    TIMESCALE = "timescale"
    POSTGRES = "postgres"


class ServerFacts(NamedTuple):
    """What was asked of the server; versions are "" when there is none."""

    server_version: str
    server_version_num: int
    timescale_installed: str
    timescale_available: str
    timescale_preloaded: bool
    licence: str
    recorded: Profile | None  # the profile the schema was made with

    @property
    def timescale_installable(self) -> bool:
        """Whether `CREATE EXTENSION` would give us what the profile needs; its licence shows only
        afterwards."""
        return (
            not self.timescale_installed
            and self.timescale_preloaded
            and _new_enough(self.timescale_available)
            and self.licence in ("", COMMUNITY)
        )


async def describe_server(conn: asyncpg.Connection[Any]) -> ServerFacts:
    """One look at the server; changes nothing."""
    row = await conn.fetchrow(_FACTS)
    assert row is not None
    recorded = None
    if row["has_schema"]:
        recorded = await conn.fetchval("SELECT profile FROM marketd.schema_changes ORDER BY name LIMIT 1")
    return ServerFacts(
        row["server_version"],
        row["server_version_num"],
        row["installed"],
        row["available"],
        row["preloaded"],
        row["licence"],
        Profile(recorded) if recorded else None,
    )


def profile_for(facts: ServerFacts) -> Profile:
    """The profile of a database with these facts. Raises ProfileError when its schema was made for
    TimescaleDB and the server cannot serve that any more."""
    usable = _new_enough(facts.timescale_installed) and facts.licence == COMMUNITY
    if facts.recorded is Profile.TIMESCALE and not usable:
        raise ProfileError(
            "the schema of this database was made for TimescaleDB Community, and the server has "
            f"{_in_words(facts)}; install TimescaleDB {'.'.join(map(str, MIN_TIMESCALE))} or newer with "
            "timescaledb.license = 'timescale' again"
        )
    if facts.recorded is not None:
        return facts.recorded
    return Profile.TIMESCALE if usable or facts.timescale_installable else Profile.POSTGRES


async def detect_profile(conn: asyncpg.Connection[Any]) -> Profile:
    """`timescale` only when the extension is installed, or preloaded and installable, with licence
    `timescale` and at least version 2.20; else `postgres`. A database with our schema has the profile that
    it was made with."""
    return profile_for(await describe_server(conn))


def _new_enough(version: str) -> bool:
    return bool(version) and tuple(numbers(version)[:2]) >= MIN_TIMESCALE


def _in_words(facts: ServerFacts) -> str:
    if not facts.timescale_installed:
        return "no TimescaleDB extension in it"
    return f"TimescaleDB {facts.timescale_installed} with licence {facts.licence or 'unknown'!r}"
