"""What is repeated, how often, and for how long."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from marketd.market.errors import InvalidArgument
from marketd.sql.connections import type_connection
from marketd.sql.errors import RetryBudgetExceeded
from marketd.sql.retry import RetryableDBOperation, is_retryable


class _Failing:
    """Fails with each of the errors in turn, then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self._errors:
            raise self._errors.pop(0)
        return "done"


def _quick(budget_seconds: float = 5.0) -> RetryableDBOperation:
    return RetryableDBOperation("store a batch", budget_seconds=budget_seconds, first_delay_seconds=0.001)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.ConnectionDoesNotExistError("words"),
        asyncpg.DeadlockDetectedError("words"),
        asyncpg.SerializationError("words"),
        asyncpg.DiskFullError("words"),
        asyncpg.AdminShutdownError("words"),
        asyncpg.CannotConnectNowError("words"),
        asyncpg.InterfaceError("connection is closed"),
        ConnectionRefusedError(),
        FileNotFoundError(),
        TimeoutError(),
    ],
    ids=repr,
)
async def test_a_passing_trouble_is_repeated(error: Exception) -> None:
    operation, failing = _quick(), _Failing(error, error)
    assert await operation.run(failing) == "done"
    assert failing.calls == 3
    assert operation.statistics()[:4] == (1, 3, 2, 0)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.UniqueViolationError("words"),
        asyncpg.CheckViolationError("words"),
        asyncpg.InvalidPasswordError("words"),
        asyncpg.LockNotAvailableError("words"),
        asyncpg.InterfaceError("cannot perform operation: another operation is in progress"),
        ValueError(),
    ],
    ids=repr,
)
async def test_what_would_fail_again_is_not_repeated(error: Exception) -> None:
    failing = _Failing(error)
    with pytest.raises(type(error)):
        await _quick().run(failing)
    assert failing.calls == 1


async def test_single_states_can_be_added() -> None:
    operation = RetryableDBOperation("compress", first_delay_seconds=0.001, also=frozenset({"55P03"}))
    assert await operation.run(_Failing(asyncpg.LockNotAvailableError("words"))) == "done"


async def test_the_error_names_the_operation_the_budget_and_the_last_cause() -> None:
    cause = ConnectionRefusedError("nobody there")
    operation = _quick(budget_seconds=0.05)
    with pytest.raises(RetryBudgetExceeded, match=r"store a batch: .*0\.05 s.*nobody there") as caught:
        await operation.run(_Failing(*[cause] * 1000))
    assert caught.value.__cause__ is cause
    assert operation.statistics().given_up == 1


async def test_the_budget_ends_an_attempt_that_hangs() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RetryBudgetExceeded, match="after 1 attempts"):
        await _quick(budget_seconds=0.05).run(hang)


async def test_a_cancelled_operation_is_not_repeated() -> None:
    started = asyncio.Event()

    async def hang() -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(_quick().run(hang))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_budgets_and_delays_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="allows no attempt"):
        RetryableDBOperation("x", budget_seconds=0)
    with pytest.raises(InvalidArgument, match="first delay"):
        RetryableDBOperation("x", first_delay_seconds=3, max_delay_seconds=2)


async def test_the_servers_own_errors_are_told_apart(conn: type_connection) -> None:
    with pytest.raises(asyncpg.PostgresError) as passing:
        await conn.execute("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '53200'; END $$")
    with pytest.raises(asyncpg.PostgresError) as lasting:
        await conn.execute("SELECT 1/0")
    assert is_retryable(passing.value)
    assert not is_retryable(lasting.value)
