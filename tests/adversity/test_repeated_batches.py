"""A producer that sends its batches again while ingest is killed under it: each record is stored once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from acceptance.daemon_under_test import DaemonUnderTest, Place
from marketd.client.delivery import Unconfirmed
from marketd.client.offers import IngestResult
from marketd.client.pipeline import DataIngestionPipeline
from marketd.market.errors import NotRunning, Timeout
from marketd.sql.installations import find_installations
from support import eventually

NAME = "XYZUSD.TEST"
BATCHES, TRADES = 40, 50
BASE_NS = 1_700_000_000_000_000_000


@pytest.fixture
def daemon() -> Iterator[DaemonUnderTest]:
    if not find_installations():
        pytest.skip("no PostgreSQL on this machine: install one, or pip install 'marketd[embedded]'")
    place = Place()
    try:
        with DaemonUnderTest(place) as daemon:
            yield daemon.until_live()
    finally:
        place.remove()


def send(pipeline: DataIngestionPipeline, batch: int) -> int:
    """One batch, repeated until it is confirmed; how many of its records were accepted."""
    ids = range(batch * TRADES + 1, (batch + 1) * TRADES + 1)
    times = [BASE_NS + number * 1_000_000 for number in ids]
    rows = {"time": times, "price": ["1.5"] * TRADES, "size": list(ids), "trade_id": list(ids)}
    result = eventually(lambda: _sent(lambda: pipeline.ingest_trades(NAME, rows), pipeline), timeout=30)
    assert result is not None
    assert result.refused == ()
    return result.accepted


def _sent(call: Callable[[], IngestResult], pipeline: DataIngestionPipeline) -> IngestResult | None:
    """None: nothing left this process, so that the call may be made again."""
    try:
        return call()
    except Unconfirmed as error:
        batch = error.batch
        assert batch is not None
        return eventually(lambda: _sent(lambda: pipeline.retry(batch), pipeline), timeout=30)
    except (Timeout, NotRunning):
        return None


def test_batches_repeated_across_a_kill_of_ingest_are_stored_once(daemon: DaemonUnderTest) -> None:
    with DataIngestionPipeline(str(daemon.place.runtime), timeout=0.5) as pipeline:
        pipeline.declare(NAME, price_scale=2, size_scale=0)
        accepted = 0
        for batch in range(BATCHES):
            if batch in (10, 25):
                daemon.kill("ingest")
            accepted += send(pipeline, batch)
    assert accepted == BATCHES * TRADES
    stored = "SELECT count(*), count(DISTINCT trade_id), sum(size)::bigint FROM trades"
    total = sum(range(1, accepted + 1))
    eventually(lambda: daemon.rows(stored) == [(accepted, accepted, total)], timeout=30)
    assert daemon.count("quarantine") == 0


def test_a_new_process_of_a_producer_that_repeats_its_numbers_gets_the_first_answers(daemon: DaemonUnderTest) -> None:
    who = os.urandom(16)
    outcomes = []
    for life in range(2):
        with DataIngestionPipeline(str(daemon.place.runtime), producer=who, first_batch=1) as pipeline:
            pipeline.declare(NAME, price_scale=2, size_scale=0)
            outcomes.append([pipeline.ingest_trade(NAME, BASE_NS + n, "1.5", n, "buy", trade_id=n) for n in (1, 2, 3)])
        if life == 0:
            daemon.until_replaced("ingest", daemon.kill("ingest", signal.SIGKILL))
    first, again = outcomes
    assert [(r.accepted, r.seq, r.ts_known) for r in first] == [(r.accepted, r.seq, r.ts_known) for r in again]
    eventually(lambda: daemon.count("trades") >= 3)
    assert daemon.rows("SELECT trade_id FROM trades ORDER BY 1") == [(1,), (2,), (3,)]
