"""Repeating what is safe to repeat, for as long as one budget allows.

The operation must be one that may run twice: it begins by finding out what was done (the writer reads the
committed offset), because a connection that breaks during COMMIT does not tell whether it took place.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

import asyncpg

from marketd.market.errors import InvalidArgument
from marketd.sql.errors import DatabaseError, DatabaseUnavailable, RetryBudgetExceeded, SessionLost
from marketd.sql.troubles import Trouble, is_about_records, needs_new_session, said_by, sqlstate_of, trouble_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

# connection exceptions, rolled back by the server (deadlock, serialization), out of resources, operator's
# hand
RETRYABLE_CLASSES = frozenset({"08", "40", "53", "57"})
# the server ended the session: admin_shutdown, crash_shutdown, cannot_connect_now
_SESSION_ENDED = frozenset({"57P01", "57P02", "57P03"})
_NOTE_SECONDS = 60.0  # the same trouble is told once in so long: a server may be away for days
_CLOSED_CONNECTION = "connection is closed"  # asyncpg's words; its class is shared with misuse of the API
# What asyncpg raises when the database or the way to it fails. InternalClientError is among them: a FATAL that
# arrives just when a statement is sent confuses its state, and the session is gone.
DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


class RetryStatistics(NamedTuple):
    runs: int
    attempts: int
    retries: int
    given_up: int
    last_error: str


def is_retryable(error: BaseException, also: frozenset[str] = frozenset()) -> bool:
    """Whether the same statement may succeed a little later: by SQLSTATE class, by a state in `also`, or
    because the connection broke. A unique violation (23505) is not among them: it means merge."""
    state = sqlstate_of(error)
    if state:
        return state[:2] in RETRYABLE_CLASSES or state in also
    if isinstance(error, asyncpg.InterfaceError):
        return _CLOSED_CONNECTION in str(error)
    return isinstance(error, (OSError, DatabaseUnavailable, asyncpg.InternalClientError))


def is_connection_loss(error: BaseException) -> bool:
    """Whether the error means that the session is gone."""
    state = sqlstate_of(error)
    broken = (ConnectionError, asyncpg.InternalClientError)
    return state[:2] == "08" or state in _SESSION_ENDED or isinstance(error, broken)


def is_session_gone(error: BaseException) -> bool:
    """Whether it was the session that failed, so that the same statement may succeed in a new one at once."""
    return is_connection_loss(error) or needs_new_session(error) or isinstance(error, SessionLost)


async def once_more(read: Callable[[], Awaitable[T]]) -> T:
    """What `read` gives; a second time where the session that it was given turned out to be gone, as after a restart, a
    failover or an upgrade of TimescaleDB. Only for what may run twice."""
    try:
        return await read()
    except (DatabaseError, *DRIVER_ERRORS) as error:
        if not is_session_gone(error):
            raise
        logger.info("read again in a new session: %s", _describe(error), extra={"action": "db_read_again"})
    return await read()


def can_be_waited_for(error: BaseException) -> bool:
    """Whether an operator, or time, can end the trouble: anything that the database or the way to it says, unless
    it is about the records themselves. For work that must get done, such as the writer's."""
    return isinstance(error, (*DRIVER_ERRORS, DatabaseError)) and not is_about_records(error)


class RetryableDBOperation:
    """Runs a named operation until it succeeds, fails for good, or its budget is spent.

    Delays double from `first_delay_seconds` to `max_delay_seconds`, each shortened at random by up to half,
    so that many clients of a restarted server do not come back in step. `also` adds single SQLSTATEs, such
    as 55P03; `waits_for` decides instead of `is_retryable`. `told` hears of each trouble that is waited
    for, and of its end.
    """

    def __init__(
        self,
        name: str,
        *,
        budget_seconds: float = 30.0,
        first_delay_seconds: float = 0.05,
        max_delay_seconds: float = 2.0,
        also: frozenset[str] = frozenset(),
        waits_for: Callable[[BaseException], bool] | None = None,
        told: Callable[[Trouble | None], None] = lambda _: None,
    ) -> None:
        if budget_seconds <= 0:
            raise InvalidArgument(f"{name}: a retry budget of {budget_seconds} s allows no attempt")
        if not 0 < first_delay_seconds <= max_delay_seconds:
            raise InvalidArgument(f"{name}: the first delay must be above 0 and at most the longest")
        self.name = name
        self.budget_seconds = budget_seconds
        self._first_delay = first_delay_seconds
        self._max_delay = max_delay_seconds
        self._waits_for = waits_for or (lambda error: is_retryable(error, also))
        self._told = told
        self._trouble: Trouble | None = None
        self._noted_at = 0.0
        self._runs = self._attempts = self._given_up = 0
        self._last_error = ""

    def statistics(self) -> RetryStatistics:
        retries = max(0, self._attempts - self._runs)
        return RetryStatistics(self._runs, self._attempts, retries, self._given_up, self._last_error)

    @property
    def waits(self) -> str:
        """What the operation waits for now, and the way out; "" while it waits for nothing."""
        trouble = self._trouble
        return "" if trouble is None else f"{trouble.name}: {trouble.advice} ({self._last_error})"

    async def run(self, operation: Callable[[], Awaitable[T]]) -> T:
        """The operation's result. Its last error as it is when it may not be repeated; RetryBudgetExceeded
        naming the budget, with that error as its cause, when the time is up, be it in the middle of an
        attempt."""
        self._runs += 1
        try:
            return await self._repeat(operation, time.monotonic() + self.budget_seconds)
        finally:
            if self._trouble is not None:
                self._trouble = None
                self._told(None)

    async def _repeat(self, operation: Callable[[], Awaitable[T]], deadline: float) -> T:
        attempt = 0
        last: BaseException | None = None
        while True:
            attempt += 1
            self._attempts += 1
            try:
                async with asyncio.timeout(deadline - time.monotonic()) as budget:
                    return await operation()
            except Exception as error:  # sorted by is_retryable; what is not comes out as it is
                if budget.expired():
                    raise self._give_up(attempt, last or error) from (last or error)
                if not self._waits_for(error):
                    raise
                last = error
            delay = self._delay(attempt)
            if time.monotonic() + delay >= deadline:
                raise self._give_up(attempt, last) from last
            self._note(attempt, delay, last)
            await asyncio.sleep(delay)

    def _delay(self, attempt: int) -> float:
        longest = min(self._max_delay, self._first_delay * 2.0 ** min(attempt - 1, 30))
        return longest * random.uniform(0.5, 1.0)

    def _note(self, attempt: int, delay: float, error: BaseException) -> None:
        trouble, before = trouble_of(error), self._trouble
        self._last_error, self._trouble = _describe(error), trouble
        now = time.monotonic()
        if trouble is before and now - self._noted_at < _NOTE_SECONDS:
            return
        self._noted_at = now
        self._told(trouble)
        logger.warning(
            "%s: attempt %d failed and is repeated in %.2f s: %s; %s",
            self.name,
            attempt,
            delay,
            self._last_error,
            trouble.advice,
            extra={"action": "db_retry", "operation": self.name, "attempt": attempt, "trouble": trouble.name},
        )

    def _give_up(self, attempts: int, error: BaseException) -> RetryBudgetExceeded:
        self._given_up += 1
        self._last_error = _describe(error)
        return RetryBudgetExceeded(
            f"{self.name}: given up after {attempts} attempts, its budget of {self.budget_seconds:g} s is "
            f"spent; last error: {self._last_error}"
        )


def _describe(error: BaseException) -> str:
    state = sqlstate_of(error)
    return f"{type(error).__name__}{f' {state}' if state else ''}: {said_by(error)}"
