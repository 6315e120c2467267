"""What the embedded server needs once it runs: the database, the reader's role, the extension's version."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import asyncpg

from marketd.sql.errors import EmbeddedStartFailed
from marketd.sql.installations import BIN_VARIABLE
from marketd.sql.server_settings import READER_ROLE
from marketd.sql.state_directory import write_file

_DATABASE = "marketd"


async def prepare_database(
    maintenance_dsn: str,
    dsn: str,
    *,
    update_timescale: bool,
    reader_password_file: Path | None,
) -> None:
    """Bring a server that just became ready to where the schema runner can begin. Repeatable.

    `reader_password_file`: make the role for TCP readers, with the password in that file, which is made
    with a random one when it is missing.
    """
    conn = await asyncpg.connect(maintenance_dsn)
    try:
        if not await conn.fetchval("SELECT true FROM pg_database WHERE datname = $1", _DATABASE):
            await conn.execute(f"CREATE DATABASE {_DATABASE}")
        if reader_password_file is not None:
            await _ensure_reader(conn, _password(reader_password_file))
    finally:
        await conn.close()
    if update_timescale:
        await _update_timescale(dsn)


def _password(path: Path) -> str:
    if not path.exists():
        write_file(path, secrets.token_urlsafe(24) + "\n", 0o600)
    return path.read_text().strip()


async def _ensure_reader(conn: asyncpg.Connection[Any], password: str) -> None:
    if not await conn.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", READER_ROLE):
        await conn.execute(f"CREATE ROLE {READER_ROLE} LOGIN")
    # it reads what is in our schema (sql/rights.py); earlier versions let it read every database
    if await conn.fetchval("SELECT pg_has_role($1, 'pg_read_all_data', 'MEMBER')", READER_ROLE):
        await conn.execute(f"REVOKE pg_read_all_data FROM {READER_ROLE}")
    # ALTER ROLE takes no parameters; the server itself does the quoting
    statement = await conn.fetchval(f"SELECT format('ALTER ROLE {READER_ROLE} PASSWORD %L', $1::text)", password)
    await conn.execute(statement)
    await conn.execute(f"ALTER ROLE {READER_ROLE} SET default_transaction_read_only = on")
    await conn.execute(f"ALTER ROLE {READER_ROLE} SET search_path = marketd, public")
    await conn.execute(f"ALTER ROLE {READER_ROLE} SET statement_timeout = '60s'")
    await conn.execute(f"ALTER ROLE {READER_ROLE} SET idle_in_transaction_session_timeout = '60s'")


async def _update_timescale(dsn: str) -> None:
    """After an upgrade of the installation. Has to be the first statement of its session, which loads the old
    library otherwise; and not even a look whether the extension is there may come before it."""
    conn = await asyncpg.connect(dsn)
    try:
        await conn.execute("ALTER EXTENSION timescaledb UPDATE")
    except asyncpg.UndefinedObjectError:
        pass  # the schema was never applied
    except asyncpg.PostgresError as error:
        raise EmbeddedStartFailed(
            f"the database was made with another version of TimescaleDB, and cannot be brought to this one: {error}; "
            f"name the installation that ran it last in {BIN_VARIABLE}"
        ) from error
    finally:
        await conn.close()
