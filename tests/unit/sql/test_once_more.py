"""What is read a second time: what a session failed in, and nothing else."""

from __future__ import annotations

import asyncpg
import pytest

from marketd.sql.errors import DatabaseError, DatabaseUnavailable, SchemaBehind, SessionLost
from marketd.sql.retry import once_more


@pytest.mark.parametrize(
    ("error", "times"),
    [
        (SessionLost("it broke while in use"), 2),
        (ConnectionResetError(), 2),
        (asyncpg.ConnectionDoesNotExistError("closed in the middle of operation"), 2),
        (asyncpg.AdminShutdownError("terminating connection"), 2),
        (asyncpg.ObjectNotInPrerequisiteStateError("the library is older than the extension"), 2),
        (asyncpg.ReadOnlySQLTransactionError("a standby now"), 2),
        (DatabaseUnavailable("nobody answers"), 1),
        (SchemaBehind("apply it"), 1),
        (asyncpg.UndefinedTableError("no such table"), 1),
        (asyncpg.QueryCanceledError("too long"), 1),
        (TimeoutError(), 1),
        (ValueError("a bug"), 1),
    ],
)
async def test_what_a_session_failed_in_is_read_once_more(error: Exception, times: int) -> None:
    reads = 0

    async def read() -> int:
        nonlocal reads
        reads += 1
        if reads == 1:
            raise error
        return reads

    if times == 2:
        assert await once_more(read) == 2
    else:
        with pytest.raises(type(error)):
            await once_more(read)
    assert reads == times


async def test_what_fails_again_is_an_error() -> None:
    reads = 0

    async def read() -> None:
        nonlocal reads
        reads += 1
        raise SessionLost("again")

    with pytest.raises(DatabaseError, match="again"):
        await once_more(read)
    assert reads == 2
