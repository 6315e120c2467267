"""A consolidated book made by a whole daemon from the books of two venues, live, stored, and over a restart."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from marketd import DataIngestionPipeline, InvalidArgument, MarketdError, OrderBookDataFrame, UnifiedDataProvider
from marketd.market.times import ABSENT
from marketd.sql.installations import find_installations
from support import eventually

MARKETD = [sys.executable, "-m", "marketd.ops"]
SECOND = 1_000_000_000
CONFIG = """
instance = "cob"
state_dir = "{state}"
runtime_dir = "{runtime}"
[http]
listen = ""
"""
VENUES = ("BTCUSDT.BINANCE", "BTCUSDT.BYBIT")
COB = "BTCUSDT.COB"


class Site(NamedTuple):
    runtime: Path
    config: Path

    def pid_of(self, actor: str) -> int:
        command = [*MARKETD, "status", "--config", str(self.config), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        (found,) = (each["pid"] for each in json.loads(done.stdout)["actors"] if each["name"] == actor)
        return int(found)


@pytest.fixture(scope="module")
def site(reachable_dir: Path) -> Iterator[Site]:
    """A daemon without feeds: the test tells the venues' books itself."""
    if not find_installations():
        pytest.skip("no PostgreSQL on this machine: install one, or pip install 'marketd[embedded]'")
    runtime = Path("/dev/shm") / f"marketd-test-{os.getpid()}-cob"
    config, log = reachable_dir / "cob.toml", reachable_dir / "cob.log"
    config.write_text(CONFIG.format(state=reachable_dir / "cob", runtime=runtime))
    with log.open("wb") as output:
        process = subprocess.Popen([*MARKETD, "run", "--config", str(config)], stderr=output)
    try:
        with UnifiedDataProvider(runtime) as md:
            eventually(lambda: is_well(md), timeout=60)
        yield Site(runtime, config)
    except AssertionError as error:
        raise AssertionError(log.read_text()[-4000:]) from error
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        shutil.rmtree(runtime, ignore_errors=True)


def is_well(md: UnifiedDataProvider) -> bool:
    try:
        return md.health().status == "ok"
    except MarketdError as error:  # whatever a start goes through
        raise AssertionError(str(error)) from error


@pytest.fixture
def md(site: Site) -> Iterator[UnifiedDataProvider]:
    with UnifiedDataProvider(site.runtime) as md:
        yield md


@pytest.fixture(scope="module")
def pipeline(site: Site) -> Iterator[DataIngestionPipeline]:
    with DataIngestionPipeline(site.runtime, name="venues") as pipeline:
        for name, scale in zip(VENUES, (2, 1), strict=True):
            pipeline.declare(name, price_scale=scale, size_scale=3, base="BTC", quote="USDT")
        yield pipeline


@pytest.fixture(scope="module")
def ids(pipeline: DataIngestionPipeline) -> list[int]:
    """Of both venues' instruments."""
    declared = [pipeline.declare(name, price_scale=1, size_scale=3, base="BTC", quote="USDT") for name in VENUES]
    return [instrument.id for instrument in declared]


def tell(pipeline: DataIngestionPipeline, venue: int, bid: str, ask: str) -> int:
    """A book of one level a side; when it became known."""
    result = pipeline.ingest_orderbook_snapshot(VENUES[venue], time.time_ns(), [(bid, "1")], [(ask, "2")])
    assert result.ok and result.ts_known is not None
    return result.ts_known


def newest(md: UnifiedDataProvider) -> OrderBookDataFrame:
    """The newest consolidated book; AssertionError while there is none."""
    try:
        found = md.get_latest_orderbook(COB, depth=3)
    except MarketdError as error:
        raise AssertionError(str(error)) from error
    assert len(found)
    return found


def test_levels_of_both_venues_come_together_and_each_keeps_its_venue(
    md: UnifiedDataProvider, pipeline: DataIngestionPipeline, ids: list[int]
) -> None:
    tell(pipeline, 0, "100.00", "100.05")
    tell(pipeline, 1, "100.1", "100.2")
    eventually(lambda: newest(md).bids[0, :2, 0].tolist() == [100.1, 100.0])
    found = newest(md)
    assert found["bid_venue"][0].tolist() == [ids[1], ids[0], ABSENT] and found["ask_venue"][0, 0] == ids[0]
    assert found.spread[0] == pytest.approx(-0.05) and found.meta.book_state == "LIVE"  # crossed, and said so


def test_the_stored_book_is_the_live_one_with_its_venues(
    md: UnifiedDataProvider, pipeline: DataIngestionPipeline, ids: list[int]
) -> None:
    live = newest(md)
    eventually(lambda: md.query_orderbook_snapshots(COB, limit=1).meta.served_from == "database")
    assert md.query_orderbook_snapshots(COB, limit=1, depth=3).digest == live.digest
    known = int(live["ts_known"][0])
    assert md.get_order_book_data(COB, known, depth=3)["bid_venue"].tolist() == live["bid_venue"].tolist()
    assert len(md.get_order_book_data(COB, known - SECOND * 3600)) == 0


def test_the_imbalance_of_the_consolidated_book_is_live_stored_and_beside_its_books(
    md: UnifiedDataProvider, pipeline: DataIngestionPipeline, ids: list[int]
) -> None:
    def told() -> bool:
        tell(pipeline, 0, "100.00", "100.05")
        tell(pipeline, 1, "100.00", "100.2")
        newest = md.get_latest_imbalances(COB)
        return bool(len(newest)) and newest["mid"][-1] == 100.025 and bool(newest["book_1s"][-1] <= 1)

    eventually(told, timeout=20)
    live = md.get_latest_imbalances(COB)
    assert (live["best_bid_size"][0], live["best_ask_size"][0]) == (2.0, 2.0)  # one of each venue; of one alone
    assert live["spread"][0] == pytest.approx(0.05)
    stored = eventually(lambda: md.query_orderbook_imbalances(COB, limit=1))
    assert stored.records["ts_event"][0] >= live.records["ts_event"][0]

    def beside() -> bool:
        tell(pipeline, 0, "100.00", "100.05")
        return bool(-1 <= md.get_order_book_data(COB, limit=1)["book_1s"][0] <= 1)

    eventually(beside, timeout=20)


def test_nobody_else_declares_a_consolidated_instrument(pipeline: DataIngestionPipeline) -> None:
    with pytest.raises(InvalidArgument, match="COB is the venue of marketd's own consolidated books"):
        pipeline.declare("ETHUSDT.COB", price_scale=2, size_scale=3)


def test_an_ingest_that_was_killed_goes_on_with_the_venues_that_it_knew(
    site: Site, md: UnifiedDataProvider, pipeline: DataIngestionPipeline, ids: list[int]
) -> None:
    tell(pipeline, 0, "100.00", "100.05")
    tell(pipeline, 1, "100.1", "100.2")
    eventually(lambda: newest(md)["bid_venue"][0, :2].tolist() == [ids[1], ids[0]])
    before = newest(md)
    os.kill(site.pid_of("ingest"), signal.SIGKILL)
    tell(pipeline, 0, "100.07", "100.09")
    eventually(lambda: newest(md)["seq"][0] > before["seq"][0])
    found = newest(md)
    assert found.bids[0, :2, 0].tolist() == [100.1, 100.07] and found["bid_venue"][0, :2].tolist() == [ids[1], ids[0]]
    assert found["seq"][0] > before["seq"][0]
