"""The daemon's database, for verbs that look into it: the configured one, or the embedded one, running or not.

    with database_dsn(config) as dsn:
        run_in_database(dsn, work)          # work: a coroutine function of one connection

An embedded server that runs is found by what it wrote into its data directory. One that does not (the daemon is
stopped, or refused to start) is started for the length of the `with`, so that an operator can look into it just then.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from marketd.daemon.settings import Config
from marketd.market.errors import MarketdError, NotRunning
from marketd.ops.extras import needs_daemon_extra
from marketd.sql.dsn import without_password
from marketd.sql.state_directory import StateDirectory

T = TypeVar("T")
CONNECT_SECONDS = 10.0
# The lines of postmaster.pid, as PostgreSQL has written them since 9.1.
_PORT_LINE, _SOCKET_LINE, _STATUS_LINE = 3, 4, 7
_STOP_SECONDS = 60.0


@contextmanager
def database_dsn(config: Config, *, may_be_new: bool = False) -> Iterator[str]:
    """The DSN of a server that runs. Raises NotRunning when there is no database yet, or an EmbeddedError.

    `may_be_new`: an embedded server that was never there is made, and stays, with an empty database.
    """
    if config.database.url:
        yield config.database.url
        return
    running = running_embedded_dsn(config.state_path)
    if running is not None:
        yield running
        return
    with _started_embedded(config, may_be_new=may_be_new) as dsn:
        yield dsn


def running_embedded_dsn(state_dir: Path) -> str | None:
    """How to connect to the embedded server of a state directory, if it runs and accepts connections.

    Raises MarketdError when the user may not look.
    """
    with needs_daemon_extra():
        from marketd.sql.embedded import DATABASE, SUPERUSER
        from marketd.sql.postmaster import READY, server_processes
    data = StateDirectory(state_dir).data
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        raise MarketdError(
            f"{data} belongs to the database's user: use marketd as the user of the daemon, or as root"
        ) from None
    if len(lines) <= _STATUS_LINE or lines[_STATUS_LINE].strip() != READY or not server_processes(data):
        return None
    socket = quote(lines[_SOCKET_LINE].strip(), safe="")
    return f"postgresql://{SUPERUSER}@/{DATABASE}?host={socket}&port={lines[_PORT_LINE].strip()}"


@contextmanager
def _started_embedded(config: Config, *, may_be_new: bool) -> Iterator[str]:
    if not StateDirectory(config.state_path).exists and not may_be_new:
        raise NotRunning(
            f"there is no database in {config.state_path} yet; the first `marketd run` makes one, or name another with "
            "--config or database.url"
        )
    with needs_daemon_extra():
        from marketd.daemon.prepare import embedded_postgres
    postgres = embedded_postgres(config)
    print("the daemon does not run: its PostgreSQL is started for this command", file=sys.stderr)
    dsn = asyncio.run(postgres.start())
    try:
        yield dsn
    finally:
        asyncio.run(postgres.stop(timeout_seconds=_STOP_SECONDS))


def run_in_database(dsn: str, work: Callable[[Any], Awaitable[T]]) -> T:
    """What `work(connection)` gives; the session is in UTC and looks into our schema.

    What the server or the network says against it comes out as DatabaseError.
    """
    return asyncio.run(_run(dsn, work))


def run_database_work(work: Callable[[], Awaitable[T]]) -> T:
    """What `work()` gives, which makes connections of its own; what the server says against it is a DatabaseError."""

    async def worked() -> T:
        with needs_daemon_extra():
            import asyncpg

            from marketd.sql.errors import DatabaseError
        try:
            return await work()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise DatabaseError(f"PostgreSQL refused it: {error}") from error

    return asyncio.run(worked())


async def _run(dsn: str, work: Callable[[Any], Awaitable[T]]) -> T:
    with needs_daemon_extra():
        import asyncpg

        from marketd.sql.connections import SCHEMA
        from marketd.sql.errors import DatabaseError, DatabaseUnavailable
    session = {"search_path": f"{SCHEMA}, public", "timezone": "UTC", "application_name": "marketd-cli"}
    try:
        connection = await asyncpg.connect(dsn, timeout=CONNECT_SECONDS, server_settings=session)
    except (OSError, TimeoutError, asyncpg.PostgresError, ValueError) as error:
        why = str(error) or type(error).__name__
        raise DatabaseUnavailable(
            f"PostgreSQL at {without_password(dsn)} cannot be reached: {why}; see `marketd doctor`"
        ) from None
    try:
        return await work(connection)
    except asyncpg.UndefinedTableError as error:
        raise DatabaseError(
            f"the database at {without_password(dsn)} lacks our tables ({error}); run `marketd schema apply`"
        ) from None
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise DatabaseError(f"PostgreSQL refused it: {error}") from None
    finally:
        await connection.close()
