"""Which server an answer is read from: the replica while it will do, else the primary.

The replica will do while it is near enough (`sql.replica`) and has what this answer needs. What it lacks is told by the
answer itself, once it has seen how far the journal is committed there and how far back shared memory reaches: it raises
`Lacking`, and is made again from the primary.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from marketd.ipc.protocol import MAX_PAYLOAD_BYTES
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.copy import answer_room
from marketd.sql.errors import DatabaseError
from marketd.sql.picture import one_picture
from marketd.sql.replica import ReadReplica
from marketd.sql.retry import DRIVER_ERRORS, once_more
from marketd.sql.store import Connection

_log = logging.getLogger(__name__)

T = TypeVar("T")
# What one answer may read: more than a message carries, as bars may be made of smaller ones, and PostgreSQL's encoding
# puts a length before each field.
ROOM_BYTES = 2 * MAX_PAYLOAD_BYTES


class Lacking(Exception):
    """The replica has not got everything that the answer needs yet."""


type_answer = Callable[[Connection, bool], Awaitable[T]]  # the bool: is it the replica, so that Lacking may be raised?


class Servers:
    """`read` from one of them."""

    def __init__(
        self,
        primary: DatabaseConnectionManager,
        replica: ReadReplica | None = None,
        *,
        statement_seconds: float = 0.0,
    ) -> None:
        self._primary = primary
        self._replica = replica
        self._statement_seconds = statement_seconds

    async def read(self, answer: type_answer[T], deadline: float) -> T:
        """What `answer` makes of a connection to either, in one picture that ends at `deadline` (time.monotonic)."""
        replica = self._replica
        if replica is not None:
            if replica.is_usable():
                try:
                    found = await self._read(replica.database, answer, deadline, True)
                except (Lacking, DatabaseError, *DRIVER_ERRORS) as error:
                    # a standby also cancels queries that its replay conflicts with
                    _log.debug("the primary answers: %s", error, extra={"action": "replica_passed_over"})
                else:
                    replica.answered()
                    return found
            replica.passed_over()
        return await once_more(lambda: self._read(self._primary, answer, deadline, False))

    async def _read(
        self, database: DatabaseConnectionManager, answer: type_answer[T], deadline: float, is_replica: bool
    ) -> T:
        async with one_picture(database, deadline, self._statement_seconds) as connection:
            with answer_room(ROOM_BYTES):
                return await answer(connection, is_replica)
