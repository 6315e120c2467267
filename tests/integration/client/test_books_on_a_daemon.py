"""Books from a producer through a whole daemon: live, by the second, stored, and as they were known at a moment."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from marketd import (
    BucketFrame,
    DataIngestionPipeline,
    Frame,
    MarketdError,
    OrderBookDataFrame,
    Require,
    Timeout,
    UnifiedDataProvider,
)
from marketd.market.records import BookFlag
from marketd.sql.installations import find_installations
from support import eventually

MARKETD = [sys.executable, "-m", "marketd.ops"]
START_SECONDS, END_SECONDS = 60.0, 60.0
SECOND, MS = 1_000_000_000, 1_000_000
CONFIG = """
instance = "books"
state_dir = "{state}"
runtime_dir = "{runtime}"
[http]
listen = ""
[book]
depth = 3
"""
DESK = "BTCUSD.DESK"
LEVELS = 5  # that the producer sends; the daemon keeps three


@pytest.fixture(scope="module")
def runtime(reachable_dir: Path) -> Iterator[Path]:
    """A daemon without venues, with its embedded PostgreSQL."""
    if not find_installations():
        pytest.skip("no PostgreSQL on this machine: install one, or pip install 'marketd[embedded]'")
    runtime = Path("/dev/shm") / f"marketd-test-{os.getpid()}-books"
    config, log = reachable_dir / "books.toml", reachable_dir / "books.log"
    config.write_text(CONFIG.format(state=reachable_dir / "books", runtime=runtime))
    with log.open("wb") as output:
        process = subprocess.Popen([*MARKETD, "run", "--config", str(config)], stderr=output)
    try:
        with UnifiedDataProvider(runtime) as md:
            eventually(lambda: is_well(md), timeout=START_SECONDS)
        yield runtime
    except AssertionError as error:
        raise AssertionError(log.read_text()[-4000:]) from error
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(END_SECONDS)
        shutil.rmtree(runtime, ignore_errors=True)


def is_well(md: UnifiedDataProvider) -> bool:
    try:
        return md.health().status == "ok"
    except MarketdError as error:  # NotRunning, Warming: whatever a start goes through
        raise AssertionError(str(error)) from error


@pytest.fixture
def md(runtime: Path) -> Iterator[UnifiedDataProvider]:
    with UnifiedDataProvider(runtime) as md:
        yield md


@pytest.fixture
def pipeline(runtime: Path) -> Iterator[DataIngestionPipeline]:
    with DataIngestionPipeline(runtime, name="desk") as pipeline:
        pipeline.declare(DESK, price_scale=2, size_scale=3)
        yield pipeline


def sides(cents: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Three times as much on the bid side as on the ask side."""
    bids = [(f"{(cents - n) / 100:.2f}", "0.300") for n in range(LEVELS)]
    asks = [(f"{(cents + 2 + n) / 100:.2f}", "0.100") for n in range(LEVELS)]
    return bids, asks


def send(pipeline: DataIngestionPipeline, start: int, count: int, step: int = 250 * MS) -> list[int]:
    """Books of the last seconds, one batch each; the `ts_known` of each."""
    known = []
    for number in range(count):
        result = pipeline.ingest_orderbook_snapshot(DESK, start + number * step, *sides(10_000 + number), number + 1)
        assert result.ok and result.ts_known is not None
        known.append(result.ts_known)
    return known


@pytest.fixture(scope="module")
def told(runtime: Path) -> tuple[int, list[int]]:
    """When the first of 20 books of five seconds was made, and when each became known."""
    start = time.time_ns() // SECOND * SECOND - 6 * SECOND
    with DataIngestionPipeline(runtime, name="desk") as pipeline:
        pipeline.declare(DESK, price_scale=2, size_scale=3)
        return start, send(pipeline, start, 20)


def test_the_newest_book_is_read_from_shared_memory_at_our_depth(
    md: UnifiedDataProvider, told: tuple[int, list[int]]
) -> None:
    found = md.get_latest_orderbook(DESK, require=Require(max_stale="1min", book="LIVE"))
    assert isinstance(found, OrderBookDataFrame) and found.meta.served_from == "arena"
    assert found.depth == 3 and found.bids[0].tolist() == [[100.19, 0.3], [100.18, 0.3], [100.17, 0.3]]
    assert (found["sequence"][0], found["flags"][0], found["ts_known"][0]) == (20, BookFlag.OFFERED, told[1][-1])
    assert found.mid[0] == 100.2 and found.spread[0] == pytest.approx(0.02)


def test_ingest_makes_the_imbalance_of_a_producers_books(md: UnifiedDataProvider, told: tuple[int, list[int]]) -> None:
    found = md.get_latest_imbalances(DESK, 4)
    assert ((found["time"] - told[0]) // SECOND).tolist() == [1, 2, 3, 4]
    assert found["book_1s"].tolist()[1:] == [0.5, 0.5, 0.5] and np.isnan(found["book_60s"]).all()
    assert found.meta.book_state == "LIVE"


def test_what_was_live_is_stored_bit_for_bit(md: UnifiedDataProvider, told: tuple[int, list[int]]) -> None:
    live = md.get_latest_orderbook(DESK, limit=20)
    stored = md.query_orderbook_snapshots(DESK)
    assert stored.digest == live.digest and len(stored) == 20
    eventually(lambda: md.query_orderbook_snapshots(DESK).meta.served_from == "database")
    assert md.query_orderbook_snapshots(DESK).digest == live.digest
    beside = md.query_orderbook_imbalances(DESK)
    assert beside.records[-4:].tobytes() == md.get_latest_imbalances(DESK, 4).records.tobytes()


def test_a_book_as_it_was_known_at_each_moment(md: UnifiedDataProvider, told: tuple[int, list[int]]) -> None:
    eventually(lambda: md.query_orderbook_snapshots(DESK).meta.served_from == "database")
    _, known = told
    for number in (0, 7, 19):
        found = md.get_order_book_data(DESK, known[number], limit=3)
        assert found["sequence"].tolist() == list(range(max(1, number - 1), number + 2))
        before = md.get_order_book_data(DESK, known[number] - 1000, limit=1)
        assert before["sequence"].tolist() == ([number] if number else [])
    ratios = md.get_order_book_data(DESK, known[19], limit=10)["book_1s"]
    assert ratios[-1] == 0.5 and not np.isnan(ratios).any()


def test_the_live_answer_is_the_one_that_is_given_for_its_moment_later(
    md: UnifiedDataProvider, told: tuple[int, list[int]]
) -> None:
    live = md.get_order_book_data(DESK, limit=5)
    assert live.meta.served_from == "arena"
    eventually(lambda: md.query_orderbook_snapshots(DESK).meta.served_from == "database")
    assert md.get_order_book_data(DESK, int(live["ts_known"][-1]), limit=5).digest == live.digest


def test_one_row_an_interval(md: UnifiedDataProvider, told: tuple[int, list[int]]) -> None:
    found = md.query_orderbook_aggregated(DESK, "1s")
    assert ((found["time"] - told[0]) // SECOND).tolist() == [0, 1, 2, 3, 4]
    assert found["count"].tolist() == [4] * 5 and found["mean_spread"].tolist() == pytest.approx([0.02] * 5)
    assert found["mean_bid_size"].tolist() == [0.3] * 5 and found["sequence"].tolist() == [4, 8, 12, 16, 20]


def test_a_subscription_brings_books_that_came_before_and_those_that_come(
    md: UnifiedDataProvider, pipeline: DataIngestionPipeline, told: tuple[int, list[int]]
) -> None:
    pipeline.declare("ETHUSD.DESK", price_scale=2, size_scale=3)
    start = time.time_ns() - 10 * SECOND
    pipeline.ingest_orderbook_snapshot("ETHUSD.DESK", start, *sides(5_000), 1)
    eventually(lambda: "ETHUSD.DESK" in [instrument.name for instrument in md.instruments()])
    seen: list[int] = []
    with md.subscribe("book", "ETHUSD.DESK", since=start - SECOND) as stream:
        for number in range(2, 100):  # the first may be sent before the subscription has reached the daemon
            pipeline.ingest_orderbook_snapshot("ETHUSD.DESK", start + number * SECOND // 10, *sides(5_001), number)
            with contextlib.suppress(Timeout):
                while True:
                    found = stream.next(0.2)
                    assert isinstance(found, OrderBookDataFrame) and found.depth == 3
                    seen += found["sequence"].tolist()
            if len(seen) >= 4:
                break
    assert len(seen) >= 4 and seen == list(range(1, len(seen) + 1))


def test_a_bad_book_is_in_the_quarantine_and_costs_no_neighbour(
    md: UnifiedDataProvider, pipeline: DataIngestionPipeline
) -> None:
    good, crossed = sides(20_000), ([("200.00", "1")], [("199.00", "1")])
    pipeline.declare("LTCUSD.DESK", price_scale=2, size_scale=3)
    now = time.time_ns()
    rows = {
        "time": [now, now + MS, now + 2 * MS],
        "bids": [good[0], crossed[0], good[0]],
        "asks": [good[1], crossed[1], good[1]],
    }
    result = pipeline.ingest_orderbook_snapshots("LTCUSD.DESK", rows)
    assert result.accepted == 2 and [refusal.index for refusal in result.refused] == [1]
    assert len(md.get_latest_orderbook("LTCUSD.DESK", limit=10)) == 2


def test_what_was_never_sent_is_an_empty_answer_with_no_state(
    md: UnifiedDataProvider, pipeline: DataIngestionPipeline
) -> None:
    pipeline.declare("XRPUSD.DESK", price_scale=2, size_scale=3)
    found = md.get_latest_orderbook("XRPUSD.DESK")
    assert len(found) == 0 and found.meta.book_state is None and found.bids.shape == (0, 3, 2)
    buckets: Frame = md.get_latest_buckets("XRPUSD.DESK", "1m")
    assert isinstance(buckets, BucketFrame) and len(buckets) == 0 and buckets.bid_price.shape == (0, 32)
