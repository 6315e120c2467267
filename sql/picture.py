"""One transaction that sees one state of the database, and ends with the request it is made for."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg

from marketd.market.errors import Timeout
from marketd.sql.connections import DatabaseConnectionManager, type_connection
from marketd.sql.errors import DatabaseError
from marketd.sql.retry import DRIVER_ERRORS

_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = {milliseconds}"


@asynccontextmanager
async def one_picture(
    database: DatabaseConnectionManager, deadline: float, statement_seconds: float = 0.0
) -> AsyncIterator[type_connection]:
    """A connection whose statements all see the same, and of which none runs beyond `deadline` (time.monotonic), nor
    for more than `statement_seconds` (0: no such bound). Timeout when one is cut short, or the deadline has passed.

    PostgreSQL itself ends a statement in time, also when our process was killed meanwhile; when the task is cancelled,
    the statement is cancelled too.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise Timeout("the deadline passed before the database was asked")
    seconds = min(left, statement_seconds or left)
    async with database.acquire(left) as connection:
        # one message: a transaction's begin costs no round trip more for its timeout
        await connection.execute(_BEGIN.format(milliseconds=max(1, round(seconds * 1000))))
        try:
            yield connection
        except asyncpg.QueryCanceledError as error:
            raise Timeout(
                f"PostgreSQL ended a statement of this answer after {seconds:.3g} s; ask for a shorter stretch or with "
                "a limit, or allow more time (timeout; database.statement_timeout)"
            ) from error
        finally:
            with suppress(DatabaseError, *DRIVER_ERRORS):  # a session that is gone has ended its transaction, too
                await connection.execute("ROLLBACK")  # nothing was written
