"""Errors that nobody awaits: a broken database session is no traceback, everything else is."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import asyncpg
import pytest

from marketd.daemon.loop_errors import handle


class Loop:
    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.seen.append(context)


@pytest.mark.parametrize(
    ("error", "is_ours"),
    [
        (asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"), True),
        (asyncpg.AdminShutdownError("terminating connection due to administrator command"), True),
        (asyncpg.InternalClientError("got result for unknown protocol state 3"), True),
        (asyncpg.InterfaceError("connection is closed"), True),
        (asyncpg.UniqueViolationError("duplicate key"), False),
        (ConnectionResetError("of some other socket"), False),
        (ZeroDivisionError(), False),
        (None, False),
    ],
)
def test_only_what_a_broken_session_left_behind_is_passed_over(
    error: Exception | None, is_ours: bool, caplog: pytest.LogCaptureFixture
) -> None:
    loop = Loop()
    context: dict[str, Any] = {"message": "Future exception was never retrieved", "exception": error}
    with caplog.at_level(logging.DEBUG):
        handle(loop, context)  # type: ignore[arg-type]
    assert loop.seen == ([] if is_ours else [context])
    assert all(record.exc_info is None and record.levelno == logging.DEBUG for record in caplog.records)
    assert bool(caplog.records) == is_ours


def test_an_actors_loop_has_it(caplog: pytest.LogCaptureFixture) -> None:
    async def leave_an_error_behind() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(handle)
        loop.call_soon(_raise, asyncpg.ConnectionDoesNotExistError("gone"))
        await asyncio.sleep(0)

    with caplog.at_level(logging.INFO):
        asyncio.run(leave_an_error_behind())
    assert not caplog.records


def _raise(error: Exception) -> None:
    raise error
