"""Real PostgreSQL servers: one for each profile and test run, and a fresh database for each test.

`postgres` runs on any PostgreSQL of the machine, or on the binaries of the `[embedded]` extra; `timescale` where an
installation with TimescaleDB Community is found, else its tests are skipped.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest

from marketd.sql.connections import DatabaseConnectionManager, type_connection
from marketd.sql.embedded import EmbeddedPostgres
from marketd.sql.installations import Installation, find_installations
from marketd.sql.profiles import Profile
from marketd.sql.schema_runner import SchemaRunner

_numbers = itertools.count(1)
# Tests create and drop hundreds of tables; what a power failure would take is nothing to them, time is. (fsync
# itself cannot be turned off here, which is right.)
_SETTINGS = {"log_min_duration_statement": "-1", "max_wal_size": "1GB", "shared_buffers": "128MB"}


class Server(NamedTuple):
    """A running server of the test session."""

    postgres: EmbeddedPostgres
    profile: Profile

    def dsn(self, database: str) -> str:
        return self.postgres.dsn.replace("/marketd?", f"/{database}?")


def installation_for(profile: Profile) -> Installation:
    """The best installation of this machine for a profile; skips the test where there is none."""
    found = find_installations()
    with_timescale = [i for i in found if i.has_timescale]
    without = [i for i in found if not i.has_timescale]
    if profile is Profile.TIMESCALE:
        if not with_timescale:
            pytest.skip("no PostgreSQL with TimescaleDB Community on this machine: MARKETD_PG_BIN may name one")
        return with_timescale[0]
    if not found:
        pytest.skip("no PostgreSQL on this machine: install one, or pip install 'marketd[embedded]'")
    # merely not preloading TimescaleDB makes a plain PostgreSQL, too
    return without[0] if without else with_timescale[0]._replace(has_timescale=False, timescale_version="")


@pytest.fixture(scope="session")
def reachable_dir() -> Iterator[Path]:
    """A directory that the database's unprivileged user may pass through, as pytest's own, for root, are not."""
    path = Path(tempfile.mkdtemp(prefix="marketd-pg-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def state_dir(reachable_dir: Path) -> Iterator[Path]:
    """A new state directory, removed afterwards."""
    path = reachable_dir / f"state{next(_numbers)}"
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session", params=list(Profile), ids=str)
def server(request: pytest.FixtureRequest, reachable_dir: Path) -> Iterator[Server]:
    """A server for each profile."""
    profile = Profile(request.param)
    installation = installation_for(profile)
    postgres = EmbeddedPostgres(reachable_dir / profile, settings=_SETTINGS, installation=installation)
    asyncio.run(postgres.start())
    yield Server(postgres, profile)
    asyncio.run(postgres.stop())


@pytest.fixture
async def empty_database(server: Server) -> AsyncIterator[str]:
    """The DSN of a database without anything in it."""
    name = f"test_{next(_numbers)}"
    maintenance = await asyncpg.connect(server.dsn("postgres"))
    await maintenance.execute(f"CREATE DATABASE {name}")
    yield server.dsn(name)
    # FORCE: TimescaleDB's workers look into every database
    await maintenance.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await maintenance.close()


@pytest.fixture
async def database(empty_database: str) -> str:
    """The DSN of a database with our schema."""
    conn = await asyncpg.connect(empty_database)
    await SchemaRunner(conn).apply()
    await conn.close()
    return empty_database


@pytest.fixture
async def connections(database: str) -> AsyncIterator[DatabaseConnectionManager]:
    """Connections to a database with our schema."""
    async with DatabaseConnectionManager(database, actor="test") as manager:
        yield manager


@pytest.fixture
async def conn(connections: DatabaseConnectionManager) -> AsyncIterator[type_connection]:
    """One connection to a database with our schema."""
    async with connections.acquire() as connection:
        yield connection
