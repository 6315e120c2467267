"""One transaction that sees one state of the database, and ends with the request it is made for.

An answer is a few short statements, and on a busy host it is the round trips that cost: so the transaction begins in
the message of its first COPY, and when all went well it ends behind the answer's back.

A snapshot does not keep a piece of a table from being dropped: whoever took his before, and comes to the piece after,
finds nothing of it, and nothing that says so. So he holds `expired`, where drops are told, before his snapshot is taken
(LOCK takes none), and who drops a piece has it for himself (`sql/retention.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import cast

import asyncpg

from marketd.market.errors import Timeout
from marketd.sql.connections import DatabaseConnectionManager, type_connection
from marketd.sql.errors import DatabaseError
from marketd.sql.retry import DRIVER_ERRORS
from marketd.sql.sessions import Session

_BEGIN = (
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = {milliseconds}; "
    "LOCK TABLE marketd.expired IN ACCESS SHARE MODE;"
)
_endings: set[asyncio.Task[None]] = set()  # one for each connection at most; the loop itself holds no task


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
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(database.acquire(left))
        begin = _BEGIN.format(milliseconds=max(1, round(seconds * 1000)))
        cast(Session, connection).precede(begin)
        stack.push_async_callback(_roll_back, connection)
        try:
            yield connection
        except asyncpg.QueryCanceledError as error:
            raise Timeout(
                f"PostgreSQL ended a statement of this answer after {seconds:.3g} s; ask for a shorter stretch or with "
                "a limit, or allow more time (timeout; database.statement_timeout)"
            ) from error
        ending = asyncio.create_task(stack.pop_all().aclose(), name="end a picture")
        _endings.add(ending)
        ending.add_done_callback(_endings.discard)


async def _roll_back(connection: type_connection) -> None:
    with suppress(DatabaseError, *DRIVER_ERRORS):  # a session that is gone has ended its transaction, too
        await connection.execute("ROLLBACK")  # nothing was written
