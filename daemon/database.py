"""The database as the supervisor sees it: an embedded PostgreSQL that it keeps alive, and the schema's
preparation.

An external database may be away when the daemon starts: then preparing is tried again in the background and
the actors start meanwhile, because recording to the journal needs no database. What waiting cannot heal (a
schema that does not fit, no PostgreSQL on the machine) ends the start.

An embedded server that dies again and again, for whatever reason (its disk is full), is no reason to end the daemon as
an actor's crash loop is: shared memory and the journal do without it, and it may come back at any moment.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from marketd.daemon import plan
from marketd.daemon.restarts import Restarts
from marketd.daemon.settings import Supervision
from marketd.market.errors import ConfigError
from marketd.sql.dsn import with_user
from marketd.sql.errors import NoInstallation, NotReachable, ProfileError, SchemaError
from marketd.sql.rights import WRITER_ROLE
from marketd.sql.server_settings import READER_ROLE
from marketd.sql.troubles import said_by

logger = logging.getLogger(__name__)

HOPELESS = (ConfigError, SchemaError, ProfileError, NoInstallation, NotReachable)
_WRITING = (plan.WRITER, plan.STORAGE)
LEAST_STOP_SECONDS = 10.0  # for PostgreSQL's checkpoint, even when the actors have used up the budget

type_prepare = Callable[[str], Awaitable[None]]


class Postgres(Protocol):
    """What is used of `marketd.sql.embedded.EmbeddedPostgres`."""

    async def start(self) -> str: ...
    async def stop(self, *, timeout_seconds: float = ...) -> None: ...
    def is_alive(self) -> bool: ...


class DatabaseKeeper:
    """`start`, then `watch` as a task, then `stop`. `dsn` is the embedded server's, or the configured one."""

    def __init__(
        self, url: str, embedded: Postgres | None, prepare: type_prepare | None, settings: Supervision
    ) -> None:
        self.dsn = url
        self.policy = Restarts(settings)
        self.problem = ""  # a sentence while something is wrong
        self._embedded = embedded
        self._prepare = prepare
        self._prepared = prepare is None
        self._is_looping = False  # the embedded server died too often, and has not come back since

    @property
    def embedded(self) -> bool:
        return self._embedded is not None

    def dsn_for(self, actor: str) -> str:
        """Of the embedded server, for one actor: with the rights that it needs. Its superuser is for the schema."""
        return with_user(self.dsn, WRITER_ROLE if plan.role_of(actor) in _WRITING else READER_ROLE)

    def use(self, settings: Supervision) -> None:
        """After a reload."""
        self.policy.settings = settings

    async def start(self) -> None:
        """Start the embedded server and try once to prepare the schema. Raises what waiting cannot heal."""
        if self._embedded is not None:
            self.dsn = await self._embedded.start()
        await self._try_to_prepare()

    async def watch(self) -> None:
        """Keep the server alive and finish preparing. Raises what waiting cannot heal."""
        attempts = Restarts(self.policy.settings)
        while True:
            await asyncio.sleep(self.policy.settings.ping_interval.seconds)
            if self._embedded is not None and not self._embedded.is_alive():
                await self._start_again(self._embedded)
            elif not self._prepared:
                await asyncio.sleep(attempts.died(time.monotonic()) or attempts.settings.restart_backoff_max.seconds)
                await self._try_to_prepare()

    async def stop(self, deadline: float) -> None:
        if self._embedded is not None:
            await self._embedded.stop(timeout_seconds=max(LEAST_STOP_SECONDS, deadline - time.monotonic()))

    async def _start_again(self, embedded: Postgres) -> None:
        delay = self.policy.died(time.monotonic())
        if delay is None and not self._is_looping:
            self._is_looping = True
            logger.critical(
                "the embedded PostgreSQL died %d times, and goes on being tried: %s",
                self.policy.recent,
                self.problem or "its log is in the state directory",
                extra={"action": "postgres_crash_loop"},
            )
        delay = delay or self.policy.settings.restart_backoff_max.seconds
        logger.error(
            "the embedded PostgreSQL died and is started again in %.2f s",
            delay,
            extra={"action": "postgres_restart", "seconds": delay},
        )
        self.problem = self.problem or "the embedded PostgreSQL died and is started again"
        await asyncio.sleep(delay)
        try:
            self.dsn = await embedded.start()
        except HOPELESS:
            raise
        except Exception as error:  # the supervision border: the next look counts it as one more death
            self.problem = f"the embedded PostgreSQL does not start: {error}"
            logger.error("%s", self.problem, extra={"action": "postgres_failed"})
        else:
            self.problem, self._is_looping = "", False

    async def _try_to_prepare(self) -> None:
        if self._prepare is None or self._prepared:
            return
        try:
            async with asyncio.timeout(self.policy.settings.start_timeout.seconds):
                await self._prepare(self.dsn)
        except HOPELESS:
            raise
        except Exception as error:  # the supervision border: whatever the network does, recording goes on
            self.problem = f"the database is not prepared: {type(error).__name__}: {said_by(error)}"
            logger.warning("%s; trying again", self.problem, extra={"action": "prepare_failed"})
        else:
            self._prepared, self.problem = True, ""
            logger.info("the database's schema is ready", extra={"action": "database_prepared"})
