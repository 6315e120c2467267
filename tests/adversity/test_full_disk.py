"""A full disk under the journal: a small tmpfs, filled by a producer, with a database that stands still meanwhile.

`journal.when_full` says what becomes of a feed; a producer is refused in both cases, and all of it goes on once there
is room again.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from acceptance import recordings
from acceptance.daemon_under_test import START_SECONDS, DaemonUnderTest, Exchange, Place
from marketd.client.cache import DataCacheManager
from marketd.client.pipeline import DataIngestionPipeline
from marketd.market.errors import JournalFull, MarketdError
from marketd.market.records import Coverage
from support import eventually

SYMBOL, OTHER = "BTCUSDT", "OTHER.TEST"
DISK_BYTES = 4 << 20
JOURNAL = '[journal]\nsegment = "1MiB"\nfront = "1MiB"\nkeep = "0s"\nbudget = "64MiB"\nwhen_full = "{}"\n'
TRADES = 500  # in a batch of the producer
BASE_NS = 1_700_000_000_000_000_000
FILLING = 500  # of them are more than the disk has


@contextmanager
def small_disk(directory: Path, size: int = DISK_BYTES) -> Iterator[None]:
    """A file system of so many bytes there."""
    directory.mkdir(parents=True)
    options = f"size={size}"
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {made.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.fixture(params=["live_only", "refuse"])
def when_full(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(when_full: str) -> Iterator[Place]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    place = Place(JOURNAL.format(when_full))
    place.state.mkdir(mode=0o711)
    try:
        with small_disk(place.state / "journal"):
            yield place
    finally:
        place.remove()


def fill(pipeline: DataIngestionPipeline) -> int:
    """Send trades until the disk is full; how many were acknowledged."""
    taken = 0
    for batch in range(FILLING):
        ids = range(batch * TRADES + 1, (batch + 1) * TRADES + 1)
        times = [BASE_NS + number * 1_000_000 for number in ids]
        rows = {"time": times, "price": [1.5] * TRADES, "size": [2] * TRADES, "trade_id": list(ids)}
        try:
            result = pipeline.ingest_trades(OTHER, rows)
        except JournalFull:
            return taken
        assert result.durable
        taken += result.accepted
    raise AssertionError(f"{taken} trades were taken, which is more than the disk has room for")


def test_a_full_disk_does_what_when_full_says_and_it_goes_on_with_room(
    place: Place, when_full: str, tmp_path: Path
) -> None:
    middle = recordings.MIDNIGHT_MS
    files = recordings.record(
        tmp_path, begin_ms=middle - 60_000, end_ms=middle + 240_000, symbols=[SYMBOL], rate=30, streams=["trade"]
    )
    with Exchange(files, speed="10") as exchange, DaemonUnderTest(place, exchange.venue([SYMBOL])) as daemon:
        daemon.until_live().until_trade(SYMBOL, 1)
        with DataIngestionPipeline(str(place.runtime)) as pipeline, DataCacheManager(str(place.runtime)) as cache:
            pipeline.declare(OTHER, price_scale=2, size_scale=2)
            pids = place.postgres_pids
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            try:
                taken = fill(pipeline)
                assert taken > 0
                with pytest.raises(JournalFull):  # and again: it is no accident
                    pipeline.ingest_trade(OTHER, BASE_NS, "1.5", "2", "buy", trade_id=10**9)
                shown = daemon.newest_trade(SYMBOL)
                if when_full == "live_only":
                    eventually(lambda: daemon.newest_trade(SYMBOL) > shown)
                    eventually(lambda: cache.get_latest_trades(SYMBOL).meta.durable is False)
                else:
                    eventually(lambda: daemon.statistics("feed-BINANCE", "link")["resent"] > 2)
                    assert daemon.newest_trade(SYMBOL) == shown
            finally:
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)
            eventually(lambda: cache.get_latest_trades(SYMBOL).meta.durable is True, timeout=30)

            def room_again() -> bool:
                try:
                    pipeline.ingest_trade(OTHER, BASE_NS, "1.5", "2", "buy", trade_id=10**9)
                except JournalFull:
                    return False
                return True

            eventually(room_again, timeout=30)
            beyond = daemon.newest_trade(SYMBOL)
            eventually(lambda: daemon.newest_trade(SYMBOL) > beyond)
            _check_what_is_stored(daemon, when_full, taken + 1)


def test_ingest_killed_on_a_full_disk_starts_again_without_room_and_goes_on_with_it(place: Place) -> None:
    with DaemonUnderTest(place) as daemon, DataIngestionPipeline(str(place.runtime)) as pipeline:
        daemon.until_live()
        pipeline.declare(OTHER, price_scale=2, size_scale=2)
        pids = place.postgres_pids
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            taken = fill(pipeline)
            use_up(place.state / "journal" / "rest")
            for _ in range(2):
                pid = daemon.kill("ingest")
                daemon.until_replaced("ingest", pid)
            with pytest.raises(JournalFull):
                pipeline.ingest_trade(OTHER, BASE_NS, "1.5", "2", "buy", trade_id=10**9)
            assert "no room" in daemon.statistics("ingest", "journal")["blocked"]
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            (place.state / "journal" / "rest").unlink()

        def room_again() -> bool:
            try:
                return pipeline.ingest_trade(OTHER, BASE_NS, "1.5", "2", "buy", trade_id=10**9).ok
            except JournalFull:
                return False

        eventually(room_again, timeout=30)
        eventually(lambda: daemon.rows("SELECT count(*), count(DISTINCT trade_id) FROM trades") == [(taken + 1,) * 2])


def test_a_new_journal_without_room_for_its_first_segment_is_waited_for_and_begins_with_room() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    place = Place(JOURNAL.format("refuse"))
    place.state.mkdir(mode=0o711)
    try:
        with small_disk(place.state / "journal"):
            use_up(place.state / "journal" / "rest")
            with DaemonUnderTest(place) as daemon:
                eventually(lambda: "no room" in _blocked(daemon), timeout=START_SECONDS)
                assert daemon.actor("ingest").restarts == 0
                (place.state / "journal" / "rest").unlink()
                daemon.until_live()
                assert daemon.actor("ingest").restarts == 0 and not _blocked(daemon)
                with DataIngestionPipeline(str(place.runtime)) as pipeline:
                    pipeline.declare(OTHER, price_scale=2, size_scale=2)
                    assert pipeline.ingest_trade(OTHER, BASE_NS, "1.5", "2", "buy", trade_id=1).durable
    finally:
        place.remove()


def _blocked(daemon: DaemonUnderTest) -> str:
    """What ingest waits for, in its words."""
    with suppress(MarketdError, StopIteration):  # not up yet
        return str(daemon.statistics("ingest", "journal").get("blocked") or "")
    return ""


def use_up(rest: Path) -> None:
    """Take every page that is left of a disk."""
    with open(rest, "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
    with open(rest, "ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def _check_what_is_stored(daemon: DaemonUnderTest, when_full: str, taken: int) -> None:
    """Everything acknowledged is there once; what was live only is what the ledger says."""
    last = daemon.newest_trade(SYMBOL)
    of_other = f"(SELECT instrument_id FROM instruments WHERE symbol = '{OTHER.split('.')[0]}')"
    counted = f"SELECT count(*), count(DISTINCT trade_id) FROM trades WHERE instrument_id = {of_other}"
    eventually(lambda: daemon.rows(counted) == [(taken, taken)], timeout=30)
    of_symbol = f"(SELECT instrument_id FROM instruments WHERE symbol = '{SYMBOL}')"
    bounds = f"SELECT min(trade_id), max(trade_id), count(*) FROM trades WHERE instrument_id = {of_symbol}"
    eventually(lambda: daemon.rows(bounds)[0][1] >= last, timeout=30)
    unstored = daemon.rows(
        f"SELECT instrument_id = {of_symbol}, detail, ts_end > ts_start FROM coverage WHERE state = {Coverage.UNSTORED}"
    )
    first_id, last_id, count = daemon.rows(bounds)[0]
    missing = last_id - first_id + 1 - count
    if when_full == "refuse":
        assert (missing, unstored) == (0, [])
    else:
        assert missing > 0
        assert unstored
        assert all(is_symbol and has_length for is_symbol, _, has_length in unstored)
        # bars that closed meanwhile are counted too
        assert sum(detail for _, detail, _ in unstored) >= missing


# ---- under the embedded PostgreSQL ------------------------------------------------------------------

POSTGRES_BYTES = 512 << 20
IMPATIENT = '[supervisor]\nrestart_backoff = "100ms"\nrestart_backoff_max = "1s"\ncrash_limit = 3\n'


@pytest.fixture
def small_postgres() -> Iterator[Place]:
    """The whole embedded server on a small disk; the journal is on another."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    place = Place(IMPATIENT)
    place.state.mkdir(mode=0o711)
    try:
        with small_disk(place.state / "postgres", POSTGRES_BYTES):
            yield place
    finally:
        place.remove()


def test_a_full_disk_under_the_embedded_postgresql_ends_neither_the_daemon_nor_what_it_took(
    small_postgres: Place,
) -> None:
    place = small_postgres
    with DaemonUnderTest(place) as daemon, DataIngestionPipeline(str(place.runtime)) as pipeline:
        daemon.until_live()
        pipeline.declare(OTHER, price_scale=2, size_scale=2)

        def send(number: int) -> None:
            assert pipeline.ingest_trade(OTHER, BASE_NS + number, "1.5", "2", "buy", trade_id=number).durable

        send(1)
        eventually(lambda: daemon.count("trades") == 1)
        rest = place.state / "postgres" / "rest"
        use_up(rest)
        os.kill(place.postmaster, signal.SIGKILL)
        eventually(lambda: "goes on being tried" in place.said, timeout=90)
        send(2)  # shared memory and journal do without it
        report = daemon.status()
        assert report.state == "live" and report.health != "ok"
        assert any("PostgreSQL" in problem for problem in report.problems)
        rest.unlink()
        eventually(lambda: daemon.status().health == "ok", timeout=90)
        eventually(lambda: daemon.count("trades") == 2)
        assert daemon.process.poll() is None
