"""Ends a step of the database's work at each of its statements, until it has come through all of them.

A step runs again and again in one world; each run is ended at the first statement at which none was ended before, as it
is about to be sent, or when the server has done it and nobody knows yet (of a transaction that is its COMMIT; before
that nobody could tell the two apart). What such a run leaves is rolled back, so that the next meets the same statements
and comes one further. The last one is not ended at all, and must leave what an undisturbed run leaves in another world.

Ended is the client (its process: all its connections are cut, and no line of it runs any more), the server's side of
the session, or the whole server with SIGKILL, which is started again.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Hashable, Sequence
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import asyncpg
import pytest

from integration.conftest import Server
from marketd.market.errors import MarketdError
from marketd.sql import connections
from marketd.sql.postmaster import server_processes
from marketd.sql.retry import DRIVER_ERRORS, RetryableDBOperation
from marketd.sql.schema_runner import SchemaRunner
from marketd.sql.sessions import Session
from support import eventually_async

SETTINGS = {"search_path": "marketd, public", "timezone": "UTC"}
SERVER_DEATHS = 2  # each costs a recovery: before a COMMIT, and after one
MOST_DEATHS = 2000
type_words = Callable[[str], Hashable]
_QUESTIONS = ("SELECT committed", "SELECT current", "SELECT profile", "SELECT p.", "SELECT child", "SHOW", "RESET")
_THERE = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ANY($1))"
_numbers = itertools.count(1)


class Way(StrEnum):
    NOT = "undisturbed"
    CLIENT = "the client is killed"
    SESSION = "the session is terminated"
    SERVER = "the server is killed"


def beginning(statement: str) -> str:
    """What tells statements apart whose ends bear the time or a number."""
    return statement[:80]


class Step(Protocol):
    """Something that the daemon does in a database of its own."""

    @property
    def is_atomic(self) -> bool:
        """Whether all of it is one transaction: ended anywhere it leaves what was before, or what is afterwards."""
        ...

    async def prepare(self, dsn: str) -> None:
        """Bring a new database to where the step begins."""
        ...

    async def run(self, doom: Doom) -> None:
        """The step over connections of `doom`; again after it was ended."""
        ...

    async def picture(self, conn: Any) -> object:
        """What there is."""
        ...


class Killed(BaseException):
    """The client's process ends here."""


class Doom:
    """How the runs of one world end; `deaths`: by the words of their statements."""

    def __init__(self, way: Way, server: Server, dsn: str, words: type_words, within: Collection[str] = ()) -> None:
        self.dsn = dsn
        self._way, self._server, self._words, self._within = way, server, words, within
        self._sessions: list[Mortal] = []
        self._seen: set[Hashable] = set()
        self._killed = asyncio.Event()
        self._judge: Any = None
        self._judging = asyncio.Lock()
        self.deaths: list[str] = []
        self.session = type("Doomed", (Mortal,), {"doom": self, "__slots__": ()})

    @asynccontextmanager
    async def connect(self, dsn: str = "") -> AsyncIterator[Any]:
        conn = await asyncpg.connect(dsn or self.dsn, server_settings=SETTINGS, connection_class=self.session)
        try:
            yield conn
        finally:
            conn.terminate()

    async def end_of(self, work: Awaitable[None]) -> bool:
        """Run this until it is done (True), or ended."""
        self._killed.clear()
        before = len(self.deaths)
        running, killed = asyncio.ensure_future(work), asyncio.ensure_future(self._killed.wait())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(connections, "Session", self.session)
            patch.setattr(RetryableDBOperation, "_delay", lambda *_: 0.0)
            await asyncio.wait({running, killed}, return_when=asyncio.FIRST_COMPLETED)
            is_killed = self._killed.is_set()
            for task in (running, killed):
                if is_killed or task is killed:
                    task.cancel()
            (error, _) = await asyncio.gather(running, killed, return_exceptions=True)
        await self._wait_for_sessions()
        if is_killed:
            return False
        if isinstance(error, (MarketdError, *DRIVER_ERRORS)) and len(self.deaths) > before:
            return False  # what a background work tells of, and tries again
        if isinstance(error, BaseException):
            raise error
        return True

    async def _wait_for_sessions(self) -> None:
        """Until the server has noticed who is gone."""
        pids = [session.pid for session in self._sessions]
        for session in self._sessions:
            session.terminate()
        self._sessions.clear()

        async def are_gone() -> bool:
            async with self._judging:
                return not await (await self.judge()).fetchval(_THERE, pids)

        await eventually_async(are_gone)

    async def judge(self) -> Any:
        """A connection that nothing but the server's end ends."""
        if self._judge is None or self._judge.is_closed():
            self._judge = await asyncpg.connect(self.dsn, server_settings=SETTINGS)
        return self._judge

    async def close(self) -> None:
        if self._judge is not None:
            await self._judge.close()

    def is_over(self) -> bool:
        return self._killed.is_set()

    def note(self, session: Mortal) -> None:
        if session not in self._sessions:
            session.pid = session.get_server_pid()
            self._sessions.append(session)

    def strikes(self, moment: str, statement: str) -> bool:
        if self._way is Way.NOT:
            return False
        if self._way is Way.SERVER:
            if not statement.startswith("COMMIT") or len(self.deaths) >= SERVER_DEATHS:
                return False
            place: Hashable = moment
        else:
            lines = _lines_of_ours()
            if self._within and not (lines and Path(lines[0][0]).name in self._within):
                return False
            place = (moment, lines, self._words(re.sub("savepoint_\\w+", "savepoint", statement)))
        if place in self._seen:
            return False
        self._seen.add(place)
        self.deaths.append(statement)
        return True

    async def strike(self, session: Mortal) -> None:
        if self._way is Way.CLIENT:
            for each in self._sessions:
                each.terminate()
            self._killed.set()
            raise Killed
        if self._way is Way.SESSION:
            async with self._judging:  # several sessions may work at a time, and one still when the run has failed
                await (await self.judge()).execute("SELECT pg_terminate_backend($1, 5000)", session.pid)
        else:
            await kill_server(self._server)


class Mortal(Session):
    """A session that may end at any statement."""

    __slots__ = ("is_busy", "pid")
    doom: Doom

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.is_busy, self.pid = False, 0

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        return await self._meet(query, super().execute, query, *args, **options)

    async def _execute(self, query: str, *args: Any, **options: Any) -> Any:
        return await self._meet(query, super()._execute, query, *args, **options)

    async def _executemany(self, query: str, *args: Any, **options: Any) -> Any:
        return await self._meet(query, super()._executemany, query, *args, **options)

    async def _copy_in(self, statement: str, *args: Any, **options: Any) -> Any:
        return await self._meet(statement, super()._copy_in, statement, *args, **options)

    async def _copy_out(self, statement: str, *args: Any, **options: Any) -> Any:
        return await self._meet(statement, super()._copy_out, statement, *args, **options)

    async def _meet(self, statement: str, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if self.is_busy:  # one way of asyncpg's goes through another
            return await call(*args, **options)
        doom = self.doom
        if doom.is_over():
            raise Killed
        doom.note(self)
        self.is_busy = True
        try:
            if doom.strikes("before", statement):
                await doom.strike(self)
            found = await call(*args, **options)
            # within a transaction, or after a question, nobody could tell it from an end before the next statement
            is_done = not self.is_in_transaction() and not statement.lstrip().startswith(_QUESTIONS)
            if is_done and doom.strikes("after", statement):
                await doom.strike(self)
                self.terminate()
                raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
            return found
        finally:
            self.is_busy = False


async def end_everywhere(
    step: Step,
    server: Server,
    *,
    template: str | None,
    words: type_words = beginning,
    within: Collection[str] = (),
    ways: Sequence[Way] = (Way.CLIENT, Way.SESSION, Way.SERVER),
) -> dict[Way, list[str]]:
    """The step ended at each of its statements in every way, and compared; the statements at which it was ended.

    `template`: the database of which its own are copies. `words`: what of a statement tells it from another one of the
    same line of code. `within`: the files whose statements count, where the others have a test of their own.
    """
    places = words, within
    async with _world(step, server, template, Way.NOT, places) as undisturbed:
        before = await _picture(step, undisturbed)
        assert await undisturbed.end_of(step.run(undisturbed))
        after = await _picture(step, undisturbed)
    assert before != after  # else nothing would be seen
    deaths = {}
    for way in ways:
        async with _world(step, server, template, way, places) as doom:
            assert await _picture(step, doom) == before
            while not await doom.end_of(step.run(doom)):
                assert len(doom.deaths) < MOST_DEATHS
                if step.is_atomic:
                    assert await _picture(step, doom) in (before, after), doom.deaths[-1]
            assert await _picture(step, doom) == after, way
        assert any(statement.startswith("COMMIT") for statement in doom.deaths), way
        deaths[way] = doom.deaths
    return deaths


@asynccontextmanager
async def _world(
    step: Step, server: Server, template: str | None, way: Way, places: tuple[type_words, Collection[str]]
) -> AsyncIterator[Doom]:
    """A database of its own, in which the step is about to begin."""
    dsn = await new_database(server, f"world_{next(_numbers)}", template)
    await step.prepare(dsn)
    doom = Doom(way, server, dsn, *places)
    try:
        yield doom
    finally:
        await doom.close()


async def _picture(step: Step, doom: Doom) -> object:
    return await step.picture(await doom.judge())


async def new_database(server: Server, name: str, template: str | None = None) -> str:
    """The DSN of a database: empty, or a copy of one that nobody uses."""
    async with judging(server.dsn("postgres")) as conn:
        await conn.execute(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
    return server.dsn(name)


async def template_of(server: Server) -> str:
    """The name of a database with our schema that can be copied; made once for each server."""
    name = "of_kills"
    async with judging(server.dsn("postgres")) as conn:
        if await conn.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name):
            return name
    dsn = await new_database(server, name)
    async with judging(dsn) as conn:
        await SchemaRunner(conn).apply()
    async with judging(server.dsn("postgres")) as conn:
        # TimescaleDB's scheduler looks into every database, and none may be copied while somebody does
        await conn.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await conn.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", name)
    return name


async def kill_server(server: Server) -> None:
    """SIGKILL for the postmaster and all its children; then it is started again."""
    directory = server.postgres.data_dir
    for pid in server_processes(directory):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await eventually_async(lambda: not server.postgres.is_alive() and not server_processes(directory))
    await server.postgres.start()


@asynccontextmanager
async def judging(dsn: str) -> AsyncIterator[Any]:
    """A connection that nothing ends."""
    conn = await asyncpg.connect(dsn, server_settings=SETTINGS)
    try:
        yield conn
    finally:
        await conn.close()


def _lines_of_ours() -> tuple[tuple[str, int], ...]:
    """From which lines of marketd a statement comes."""
    lines, frame = [], sys._getframe(1)
    while frame is not None:
        if "/marketd/" in frame.f_code.co_filename:
            lines.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back  # type: ignore[assignment]
    return tuple(lines)
