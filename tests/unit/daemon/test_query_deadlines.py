"""How long an answer is worked on: shorter than its caller waits."""

from __future__ import annotations

import time
from typing import Any, Self

import asyncpg
import pytest

from marketd.daemon.actors.query import QueryActor
from marketd.daemon.config import convert
from marketd.daemon.query import seconds_for
from marketd.daemon.query_servers import Servers
from marketd.ipc.protocol import Rows


@pytest.mark.parametrize(
    ("timeout_ms", "seconds"), [(100, 0.09), (1_000, 0.9), (30_000, 29.75), (36_000_000, 600.0)], ids=str
)
def test_who_waits_for_an_answer_hears_what_is_in_its_way_before_giving_up(timeout_ms: int, seconds: float) -> None:
    assert seconds_for(Rows(symbol="BTCUSDT.BINANCE", stream="trade", timeout_ms=timeout_ms)) == pytest.approx(seconds)


class Stub:
    """A server, or a replica that is near enough, whose `expired` is locked or not."""

    def __init__(self, name: str, *, locked: bool = False) -> None:
        self.name, self.locked, self.database = name, locked, self

    def acquire(self, _: float) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is held."""

    def precede(self, _: str) -> None:
        if self.locked:
            raise asyncpg.LockNotAvailableError("canceling statement due to lock timeout")

    async def execute(self, _: str) -> None:
        """Rolled back."""

    def is_usable(self) -> bool:
        return True

    def answered(self) -> None:
        """Counted elsewhere."""

    passed_over = answered


async def test_who_waits_for_a_lock_on_a_standby_is_soon_answered_by_the_primary() -> None:
    actor = QueryActor("query", convert({"database": {"url": "postgresql://a/db", "replica_url": "postgresql://b/db"}}))
    actor._database = actor._connections("postgresql://a/db", "query")
    replica = actor._replica_of(actor.config)
    assert replica is not None
    assert actor._database._session["lock_timeout"] == "10000"
    assert replica.database._session["lock_timeout"] == "500"

    async def answer(connection: Any, is_replica: bool) -> str:
        return str(connection.name)

    for locked, told in ((False, "standby"), (True, "primary")):
        servers: list[Any] = [Stub("primary"), Stub("standby", locked=locked)]
        assert await Servers(*servers).read(answer, time.monotonic() + 60) == told
