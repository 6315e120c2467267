"""Connections to PostgreSQL: a pool that survives its server.

Every session is in UTC, looks into the schema `marketd`, says who it is (`marketd-<actor>`), and bounds
what it may hold up: statements, locks and idle transactions. When the server goes away, `acquire` fails at
once with DatabaseUnavailable and a health check keeps looking; when it is back, the pool goes on by itself.

Who only reads (`read_only`) is refused every change by its transactions, and goes on with the reader's rights where its
login may (`rights.become_reader`).

Whoever works with our schema gives a `gate` (`schema_runner.require_current`): it is asked in each new session and at
each health check, and what it raises is a trouble like any other, over as soon as it raises nothing more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple, TypeAlias, cast

import asyncpg

from marketd.market.errors import InvalidArgument
from marketd.sql.errors import DatabaseError, DatabaseUnavailable, SchemaError, SessionLost
from marketd.sql.hosts import wanted_server
from marketd.sql.installations import MIN_POSTGRES
from marketd.sql.profiles import Profile, ServerFacts, describe_server, profile_for
from marketd.sql.retry import (
    DRIVER_ERRORS,
    RetryableDBOperation,
    can_be_waited_for,
    is_connection_loss,
    is_retryable,
)
from marketd.sql.rights import become_reader
from marketd.sql.sessions import Session, is_old
from marketd.sql.troubles import SCHEMA as WRONG_SCHEMA
from marketd.sql.troubles import Trouble, needs_new_session, said_by, trouble_of

logger = logging.getLogger(__name__)

SCHEMA = "marketd"
type_connection: TypeAlias = "asyncpg.Connection[Any]"  # generic in the stubs alone
type_gate = Callable[[type_connection], Awaitable[Any]]
_DOWN_INTERVAL_SECONDS = 0.25  # while the server is away: how often we look
_CLOSE_BUDGET_SECONDS = 5.0


class ConnectionStatistics(NamedTuple):
    state: str  # "closed" | "up" | "down"
    size: int
    idle: int
    acquires: int
    failures: int  # acquires and health checks that found no server, and sessions that broke in use
    reconnects: int  # times the server came back
    last_error: str
    down_seconds: float  # since when it is away; 0 while it is up
    last_ping_seconds: float
    trouble: str  # why it is away, and the way out; "" while it is up


class DatabaseConnectionManager:
    """A pool of asyncpg connections of one actor."""

    def __init__(
        self,
        dsn: str,
        *,
        actor: str = "client",
        min_size: int = 1,
        max_size: int = 4,
        statement_timeout_seconds: float = 60.0,
        lock_timeout_seconds: float = 10.0,
        idle_in_transaction_seconds: float = 60.0,
        connect_timeout_seconds: float = 10.0,
        health_interval_seconds: float = 5.0,
        read_only: bool = False,
        settings: Mapping[str, str] | None = None,
        gate: type_gate | None = None,
    ) -> None:
        """A timeout of 0 means none. `settings`: further session settings by name. `gate`: raises SchemaError while the
        database must not be used."""
        if not 0 <= min_size <= max_size or max_size < 1:
            raise InvalidArgument(f"a pool of {min_size} to {max_size} connections cannot be made")
        if connect_timeout_seconds <= 0 or health_interval_seconds <= 0:
            raise InvalidArgument("connect_timeout_seconds and health_interval_seconds must be above 0")
        self._dsn = dsn
        self._target = wanted_server(dsn, read_only=read_only)
        self._sizes = (min_size, max_size)
        self._connect_timeout = connect_timeout_seconds
        self._health_interval = health_interval_seconds
        self._session = {
            "application_name": f"marketd-{actor}",
            "timezone": "UTC",
            "search_path": f"{SCHEMA}, public",  # TimescaleDB's functions are in public
            "statement_timeout": _milliseconds(statement_timeout_seconds),
            "lock_timeout": _milliseconds(lock_timeout_seconds),
            "idle_in_transaction_session_timeout": _milliseconds(idle_in_transaction_seconds),
            "default_transaction_read_only": "on" if read_only else "off",
            "jit": "off",
            # TimescaleDB's bound on rows of compressed chunks that a transaction may touch (53400): how much that is, a
            # batch says. Unknown to others, and no harm there.
            "timescaledb.max_tuples_decompressed_per_dml_transaction": "0",
            # DISTINCT ON over the moments of an instrument: it searches the index for each, where one walk has them all
            "timescaledb.enable_skipscan": "off",
            # A chunk that is compressed again segment by segment looks empty, or without its late rows, to who took his
            # snapshot before; as a whole it does not. TimescaleDB's jobs have it from sql/policies.py.
            "timescaledb.enable_segmentwise_recompression": "off",
            **(settings or {}),
        }
        self._read_only = read_only
        self._gate = gate
        self._opening: asyncio.Event | None = None  # set once connecting was tried
        self._pool: asyncpg.Pool[Any] | None = None
        self._health: asyncio.Task[None] | None = None
        self._up = asyncio.Event()
        self._down_since = 0.0
        self._acquires = self._failures = self._reconnects = 0
        self._last_error = self._trouble = ""
        self._last_ping = 0.0
        self._facts: ServerFacts | None = None

    def __repr__(self) -> str:
        state, size, idle, *_ = self.statistics()
        return f"<DatabaseConnectionManager {self._session['application_name']} {state} {idle}/{size} idle>"

    async def __aenter__(self) -> DatabaseConnectionManager:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(
        self,
        timeout_seconds: float = 30.0,
        *,
        patient: bool = False,
        told: Callable[[Trouble | None], None] = lambda _: None,
    ) -> None:
        """Connect, repeating until the server answers or the time is up (RetryBudgetExceeded); a refused
        password or a missing database is an error at once, and so is a server that is too old. `patient`: these are
        waited for, too, as by an actor, which must not die of what an operator can mend; `told` hears of each trouble,
        and of its end."""
        if self._pool is not None:
            return
        name = f"connect as {self._session['application_name']}"
        waits_for = can_be_waited_for if patient else None
        self._opening = asyncio.Event()
        connecting = RetryableDBOperation(name, budget_seconds=timeout_seconds, waits_for=waits_for, told=told)
        try:
            await connecting.run(self._connect)
        finally:
            self._opening = None
        self._note_up()
        self._health = asyncio.create_task(self._watch(), name=f"health check of {self!r}")

    async def close(self) -> None:
        """Wait for connections in use, within a budget, then cut them."""
        health, self._health = self._health, None
        self._opening = None
        pool, self._pool = self._pool, None
        self._up.clear()
        if health is not None:
            health.cancel()
            with suppress(asyncio.CancelledError):
                await health
        if pool is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_BUDGET_SECONDS):
                await pool.close()
        except DRIVER_ERRORS as error:
            pool.terminate()
            logger.warning(
                "connections of %s were cut: %r",
                self._session["application_name"],
                error,
                extra={"action": "db_connections_cut"},
            )

    @asynccontextmanager
    async def acquire(self, timeout_seconds: float | None = None) -> AsyncIterator[type_connection]:
        """A connection for the length of a `with`. DatabaseUnavailable when there is no server, or when all
        connections stay in use for `timeout_seconds` (default: the connect timeout). Errors inside of the `with`
        come out as they are, but for those of a session that broke for which asyncpg has no clear word: these are
        SessionLost."""
        budget = self._connect_timeout if timeout_seconds is None else timeout_seconds
        pool = await self._require_pool(budget)
        conn = await self._take(pool, budget)
        self._acquires += 1
        try:
            yield conn
        except Exception as error:
            # after a restart, an upgrade or a failover underneath all sessions are of yesterday, not this one alone
            if needs_new_session(error):
                await self._renew(error)
            if not _is_lost(conn) and not is_connection_loss(error):
                raise
            await pool.expire_connections()
            self._note_failure(error)
            if isinstance(error, (asyncpg.InterfaceError, asyncpg.InternalClientError)):
                # "has been released back to the pool": asyncpg took the dead session away from us
                raise SessionLost(f"the session broke while in use: {_words(error)}") from error
            raise
        finally:
            await self._give_back(pool, conn)

    async def wait_until_up(self, timeout_seconds: float) -> bool:
        """Whether the server answered within that time; at once while it does."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._up.wait()
        except TimeoutError:
            return False
        return True

    async def check(self) -> float:
        """Ask the server for a sign of life now: seconds it took. DatabaseUnavailable when it gave none; SchemaError by
        the gate."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._connect_timeout), self.acquire() as conn:
                await conn.execute("SELECT 1")
                if self._gate is not None:
                    await self._gate(conn)
        except SchemaError as error:
            if self._pool is not None:
                await self._pool.expire_connections()  # no session of before goes on beside it
            self._note_failure(error)
            raise
        except DRIVER_ERRORS as error:
            # connections that are neither dead nor answering must not be handed out again
            if self._pool is not None:
                await self._pool.expire_connections()
            self._note_failure(error)
            raise DatabaseUnavailable(f"PostgreSQL does not answer: {_words(error)}") from error
        self._note_up()
        self._last_ping = time.monotonic() - began
        return self._last_ping

    async def facts(self) -> ServerFacts:
        """What the server was like when first asked."""
        if self._facts is None:
            async with self.acquire() as conn:
                self._facts = await describe_server(conn)
        return self._facts

    async def profile(self) -> Profile:
        """The profile in force; ask after the schema was applied."""
        async with self.acquire() as conn:
            return profile_for(await describe_server(conn))

    def statistics(self) -> ConnectionStatistics:
        pool = self._pool
        state = "closed" if pool is None else "up" if self._up.is_set() else "down"
        return ConnectionStatistics(
            state,
            pool.get_size() if pool else 0,
            pool.get_idle_size() if pool else 0,
            self._acquires,
            self._failures,
            self._reconnects,
            self._last_error,
            time.monotonic() - self._down_since if state == "down" and self._down_since else 0.0,
            self._last_ping,
            self._trouble if state != "up" else "",
        )

    async def _connect(self) -> None:
        minimum, maximum = self._sizes
        pool: asyncpg.Pool[Any] = asyncpg.create_pool(
            self._dsn,
            min_size=minimum,
            max_size=maximum,
            timeout=self._connect_timeout,
            init=cast(Any, self._begin),  # the stubs want a protocol of their own
            server_settings=self._session,
            reset=_leave_as_it_is if self._read_only else None,
            connection_class=Session,
            target_session_attrs=cast(Any, self._target),  # its word will do; the stubs know the enum only
        )
        try:
            await pool
            async with pool.acquire() as conn:
                _refuse_old(conn.get_server_version())
        except BaseException as error:
            pool.terminate()
            if isinstance(error, Exception):
                self._note_failure(error)
            raise
        else:
            self._pool = pool
        finally:
            if self._opening is not None:
                self._opening.set()

    async def _begin(self, conn: type_connection) -> None:
        """Of each new session."""
        if self._gate is not None:
            await self._gate(conn)
        if self._read_only:
            await become_reader(conn)

    async def _renew(self, error: BaseException) -> None:
        if self._pool is None:
            return
        await self._pool.expire_connections()
        logger.warning(
            "connections are made anew: %s",
            _words(error),
            extra={"action": "db_renewed", "application_name": self._session["application_name"]},
        )

    async def _take(self, pool: asyncpg.Pool[Any], budget: float) -> type_connection:
        try:
            # the proxy has all methods of a Connection; the stubs do not know
            return cast(type_connection, await pool.acquire(timeout=budget))
        except TimeoutError as error:
            in_use = pool.get_size() - pool.get_idle_size()
            exhausted = in_use >= pool.get_max_size()
            self._note_failure(error, away=not exhausted)
            raise DatabaseUnavailable(
                f"no connection to PostgreSQL within {budget:g} s; {in_use} of {pool.get_max_size()} in use"
            ) from error
        except SchemaError as error:
            self._note_failure(error)
            raise
        except DRIVER_ERRORS as error:
            self._note_failure(error)
            if is_retryable(error):
                raise DatabaseUnavailable(f"PostgreSQL does not answer: {_words(error)}") from error
            raise

    async def _give_back(self, pool: asyncpg.Pool[Any], conn: type_connection) -> None:
        try:
            if is_old(conn) and not conn.is_closed():
                await conn.close(timeout=self._connect_timeout)  # the pool opens another one when it needs it
            await pool.release(cast(Any, conn), timeout=self._connect_timeout)
        except DRIVER_ERRORS as error:
            # asyncpg has closed it; the caller's own outcome matters more than that
            self._note_failure(error)

    async def _watch(self) -> None:
        """Look after the server for as long as the pool is open."""
        while True:
            await asyncio.sleep(self._health_interval if self._up.is_set() else _DOWN_INTERVAL_SECONDS)
            # failures are counted and logged where they are found
            with suppress(DatabaseError, *DRIVER_ERRORS):
                await self.check()

    async def _require_pool(self, budget: float) -> asyncpg.Pool[Any]:
        if self._pool is None and self._opening is not None:
            # who comes while we connect for the first time waits for that; who comes later is told at once
            with suppress(TimeoutError):
                async with asyncio.timeout(budget):
                    await self._opening.wait()
            if self._pool is None:
                raise DatabaseUnavailable(f"PostgreSQL cannot be used yet: {self._last_error or 'it has not answered'}")
        if self._pool is None:
            raise DatabaseError(f"{self._session['application_name']}: its connections are not open")
        return self._pool

    def _note_failure(self, error: BaseException, *, away: bool = True) -> None:
        self._failures += 1
        trouble = trouble_of(error)
        self._last_error = _words(error)
        self._trouble = f"{trouble.name}: {trouble.advice} ({self._last_error})"
        if away and self._up.is_set():
            self._up.clear()
            self._down_since = time.monotonic()
            logger.warning(
                "PostgreSQL cannot be used: %s; %s" if trouble is WRONG_SCHEMA else "PostgreSQL is away: %s; %s",
                self._last_error,
                trouble.advice,
                extra={
                    "action": "db_down",
                    "application_name": self._session["application_name"],
                    "trouble": trouble.name,
                },
            )

    def _note_up(self) -> None:
        if self._up.is_set():
            return
        self._up.set()
        if self._down_since:
            self._reconnects += 1
            logger.warning(
                "PostgreSQL is back after %.1f s",
                time.monotonic() - self._down_since,
                extra={"action": "db_up", "application_name": self._session["application_name"]},
            )
            self._down_since = 0.0


async def _leave_as_it_is(conn: type_connection) -> None:
    """Who only reads leaves nothing behind in a session once the transaction is over: no lock, setting or cursor that
    would be worth a round trip before each answer."""


def _is_lost(conn: type_connection) -> bool:
    try:
        return conn.is_closed()
    except asyncpg.InterfaceError:  # no longer ours, and nobody but asyncpg can have taken it
        return True


def _refuse_old(version: Any) -> None:
    if version.major < MIN_POSTGRES:
        raise DatabaseError(
            f"PostgreSQL {version.major} is older than {MIN_POSTGRES}, the oldest that marketd works with"
        )


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {said_by(error)}" if str(error) else type(error).__name__
