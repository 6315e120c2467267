"""TimescaleDB upgraded under a running daemon: whoever holds the old library is let go, and nothing is lost."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import pytest

from acceptance.daemon_under_test import DaemonUnderTest, Exchange, Place
from marketd.client.provider import UnifiedDataProvider
from marketd.sql.embedded import EmbeddedPostgres
from marketd.sql.installations import find_installations
from support import eventually

SYMBOL = "BTCUSDT"
_SCRIPTS = "share/postgresql/extension"


class Old(NamedTuple):
    """A database whose extension is older than what is installed beside it."""

    dsn: str
    version: str
    newest: str


@pytest.fixture
def old_database() -> Iterator[Old]:
    installation = next((found for found in find_installations() if found.has_timescale), None)
    if installation is None:
        pytest.skip("no PostgreSQL with TimescaleDB Community on this machine: MARKETD_PG_BIN may name one")
    older = _older_version(installation.prefix / _SCRIPTS, installation.timescale_version)
    if older is None:
        pytest.skip(f"only one version of TimescaleDB is installed ({installation.timescale_version})")
    home = Path(tempfile.mkdtemp(prefix="marketd-upgrade-"))
    home.chmod(0o711)
    postgres = EmbeddedPostgres(home / "server", installation=installation)
    asyncio.run(postgres.start())
    try:
        dsn = postgres.dsn.replace("/marketd?", "/old?")
        asyncio.run(_create(postgres.dsn, dsn, older))
        yield Old(dsn, older, installation.timescale_version)
    finally:
        asyncio.run(postgres.stop())
        shutil.rmtree(home, ignore_errors=True)


def _older_version(scripts: Path, newest: str) -> str | None:
    """Another one that is wholly installed, and can be brought to the newest."""
    whole = (path.stem.removeprefix("timescaledb--") for path in scripts.glob("timescaledb--*.sql"))
    found = [each for each in whole if (scripts / f"timescaledb--{each}--{newest}.sql").exists()]
    return found[0] if found else None


async def _create(server: str, dsn: str, version: str) -> None:
    await _execute(server, "CREATE DATABASE old")
    await _execute(dsn, f"CREATE EXTENSION timescaledb VERSION '{version}'")


async def _execute(dsn: str, statement: str) -> None:
    conn = await asyncpg.connect(dsn)
    try:
        await conn.execute(statement)
    finally:
        await conn.close()


async def _value(dsn: str, query: str) -> Any:
    conn = await asyncpg.connect(dsn, server_settings={"search_path": "marketd,public"})
    try:
        return await conn.fetchval(query)
    finally:
        await conn.close()


def test_an_upgrade_underneath_is_survived_without_a_loss(old_database: Old, place: Place) -> None:
    dsn, version, newest = old_database
    database = f'[database]\nurl = "{dsn}"\n'

    def value(query: str) -> Any:
        return asyncio.run(_value(dsn, query))

    with Exchange(synthetic=[SYMBOL], speed="1") as exchange:
        with DaemonUnderTest(place, database + exchange.venue()) as daemon:
            daemon.until_live()
            eventually(lambda: value("SELECT count(*) FROM trades") > 20)
            assert value("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'") == version
            actors = {actor.name: (actor.pid, actor.restarts) for actor in daemon.status().actors}
            with UnifiedDataProvider(str(place.runtime)) as md:
                assert md.query_trades(SYMBOL, limit=5).records.size

                asyncio.run(_execute(dsn, "ALTER EXTENSION timescaledb UPDATE"))
                assert value("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'") == newest

                before = daemon.newest_trade(SYMBOL)
                daemon.until_trade(SYMBOL, before + 20)
                eventually(lambda: value("SELECT max(trade_id) FROM trades") > before, timeout=30)
                assert md.query_trades(SYMBOL, limit=5).records["trade_id"].max() > before
                assert len(md.query_ohlcv_data(SYMBOL, "1s", limit=3).records)
            assert {actor.name: (actor.pid, actor.restarts) for actor in daemon.status().actors} == actors
            eventually(lambda: daemon.status().health == "ok", timeout=30)
        ids = value("SELECT array_agg(trade_id ORDER BY trade_id) FROM trades")
    assert all(later == earlier + 1 for earlier, later in itertools.pairwise(ids)), "each trade once"
