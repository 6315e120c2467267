"""What the event loop says of errors that nobody awaits, in the words of our logs.

A database that goes away breaks sessions in the middle of whatever they do; asyncpg then leaves errors in futures and
callbacks that belong to nobody. Each would be a traceback in the log, for something that is told in one sentence
already (`db_down`).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import asyncpg

from marketd.sql.retry import is_connection_loss

_log = logging.getLogger(__name__)


def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """For `loop.set_exception_handler`: broken database sessions at DEBUG, everything else as ever."""
    error = context.get("exception")
    if isinstance(error, BaseException) and _is_broken_session(error):
        _log.debug(
            "%s: %s: %s",
            context.get("message"),
            type(error).__name__,
            error,
            extra={"action": "db_session_broke"},
        )
        return
    loop.default_exception_handler(context)


def _is_broken_session(error: BaseException) -> bool:
    """Errors that only asyncpg raises, and only of a session that is gone; a bare OSError may be anybody's."""
    if isinstance(error, asyncpg.InterfaceError):
        return "connection" in str(error)
    from_driver = isinstance(error, (asyncpg.PostgresError, asyncpg.InternalClientError))
    return from_driver and is_connection_loss(error)
