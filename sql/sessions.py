"""A pooled session that knows how long it may live, and can send what has no answer along with the statement after it.

A backend of PostgreSQL keeps what it knows of every partition or chunk that it has touched, the plans made over them,
and a descriptor of each file; nothing of that is given back before it ends. So memory and descriptors of a session that
is used for weeks grow with the database. A session is replaced once it is old: what it holds then is bounded by what it
has touched in that time, and a new one costs a few milliseconds.
"""

from __future__ import annotations

import random
import time
from typing import Any

import asyncpg

SESSION_SECONDS = 300.0
_SPREAD = 0.25  # of it, by which lives differ: sessions that began together do not all end together


class Session(asyncpg.Connection):
    __slots__ = ("_preface", "ends_at", "told")  # asyncpg's own has them

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._preface = ""
        self.told: dict[str, Any] = {}
        self.ends_at = time.monotonic() + SESSION_SECONDS * random.uniform(1 - _SPREAD, 1)

    def precede(self, statements: str) -> None:
        """Send these, each ended by a semicolon, before whatever is sent next: with a COPY in one message, which saves
        a round trip. They must give no rows.
        """
        self._preface += statements

    async def _copy_out(self, statement: str, output: Any, timeout: float | None) -> str:
        # of asyncpg: all ways to copy out come here, and send the statement as text; what it answers before the data
        # begins is skipped there
        preface, self._preface = self._preface, ""
        found: str = await super()._copy_out(preface + statement, output, timeout)  # type: ignore[misc]  # not in the stubs
        return found

    async def _execute(self, *args: Any, **options: Any) -> Any:
        await self._send_preface()  # statements with arguments are a message of another kind, which holds only one
        return await super()._execute(*args, **options)  # type: ignore[misc]

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        await self._send_preface()
        return await super().execute(query, *args, timeout=timeout)

    async def _send_preface(self) -> None:
        if self._preface:
            preface, self._preface = self._preface, ""
            await super().execute(preface)


def is_old(conn: asyncpg.Connection[Any]) -> bool:
    """Whether the session behind a pool's connection is to be replaced."""
    return time.monotonic() >= float(getattr(conn, "ends_at", float("inf")))


async def told_once(conn: asyncpg.Connection[Any], question: str) -> Any:
    """The one value that a statement gives, where it is the same as long as the database lives: a session asks once."""
    told: dict[str, Any] = getattr(conn, "told", {})
    if question not in told:
        told[question] = await conn.fetchval(question)
    return told[question]
