"""What stands before the actors: the embedded server of a configuration, and the schema in its database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from marketd.daemon.settings import Config
from marketd.sql.connections import SCHEMA
from marketd.sql.embedded import EmbeddedPostgres
from marketd.sql.errors import DatabaseUnavailable
from marketd.sql.retry import DRIVER_ERRORS, is_retryable
from marketd.sql.schema_runner import SchemaRunner
from marketd.sql.series import ensure_series_table


def embedded_postgres(config: Config) -> EmbeddedPostgres:
    """The server that runs when `database.url` is empty; its files are below the state directory."""
    return EmbeddedPostgres(
        config.state_path,
        user=config.embedded.user or None,
        listen=config.embedded.listen or None,
        settings={name: str(value) for name, value in config.embedded.settings.items()},
        socket_dir=config.runtime_path,
    )


@asynccontextmanager
async def reachable_database(config: Config) -> AsyncIterator[str]:
    """The DSN of the configured database, its schema applied; an embedded server runs as long as the `with`."""
    if config.database.url:
        await prepare_schema(config.database.url, config)
        yield config.database.url
        return
    server = embedded_postgres(config)
    dsn = await server.start()
    try:
        await prepare_schema(dsn, config)
        yield dsn
    finally:
        await server.stop()


async def prepare_schema(dsn: str, config: Config) -> None:
    """Apply what is pending, and make the tables of the declared series.

    DatabaseUnavailable when the server is away; SchemaError when waiting does not help.
    """
    try:
        connection = await asyncpg.connect(dsn, timeout=10)
    except DRIVER_ERRORS as error:
        if is_retryable(error) or isinstance(error, TimeoutError):
            raise DatabaseUnavailable(f"PostgreSQL does not answer: {error}") from error
        raise
    try:
        await SchemaRunner(connection).apply()
        await connection.execute(f"SET search_path = {SCHEMA}, public")
        for name, stream in config.streams.items():
            await ensure_series_table(connection, name, stream.fields)
    finally:
        await connection.close()
