"""A connection of one's own for long work: no pool, no limits of time, and a name that others can tell it by."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from marketd.sql.connections import SCHEMA
from marketd.sql.dsn import without_password
from marketd.sql.errors import DatabaseUnavailable

CONNECT_SECONDS = 10.0


@asynccontextmanager
async def sole_connection(dsn: str, work: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """For the length of a `with`; `work` is in its application_name.

    DatabaseUnavailable, which names the server, when there is no connection; later errors are asyncpg's own.
    """
    session = {
        "search_path": f"{SCHEMA}, public",
        "timezone": "UTC",
        "application_name": f"marketd-{work}",
        "statement_timeout": "0",
        # it holds a snapshot or a lock while the other side works
        "idle_in_transaction_session_timeout": "0",
        "jit": "off",
    }
    try:
        conn = await asyncpg.connect(dsn, timeout=CONNECT_SECONDS, server_settings=session)
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError) as error:
        why = str(error) or type(error).__name__
        raise DatabaseUnavailable(f"PostgreSQL at {without_password(dsn)} cannot be reached: {why}") from error
    try:
        yield conn
    finally:
        await conn.close()
