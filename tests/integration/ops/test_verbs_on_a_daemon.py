"""The verbs beside a running daemon, as an operator uses them: every one is a process of its own."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from marketd.ops.cli import EXIT_FAILED, EXIT_NOT_RUNNING, EXIT_NOT_WELL, EXIT_USAGE
from marketd.sql.installations import find_installations
from marketd.sql.postmaster import server_processes
from marketd.sql.state_directory import StateDirectory
from support import eventually

MARKETD = [sys.executable, "-m", "marketd.ops"]
START_SECONDS = 60.0
_numbers = itertools.count()


class Site(NamedTuple):
    """A configured daemon, running or not."""

    config: Path
    overrides: tuple[str, ...]

    def command(self, *arguments: str) -> list[str]:
        sets = [part for each in self.overrides for part in ("--set", each)]
        verb, rest = list(arguments), []
        if "--" in verb:
            at = verb.index("--")
            verb, rest = verb[:at], verb[at:]
        return [*MARKETD, *verb, "--config", str(self.config), *sets, *rest]

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        return done

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code).stdout)


@pytest.fixture(scope="module")
def emulator() -> Iterator[dict[str, Any]]:
    """A synthetic market, and what it told of itself."""
    command = [*MARKETD, "emulate", "--synthetic", "--symbols", "BTCUSDT,ETHUSDT", "--rate", "30", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        last = json.loads(process.stdout.read().splitlines()[-1])
        assert process.wait(timeout=20) == 0
        assert last["sent"] > 0


@contextmanager
def running(emulator: dict[str, Any], place: Path, name: str) -> Iterator[Site]:
    """A daemon of that market, live and with trades in it; it may be stopped meanwhile."""
    if not find_installations():
        pytest.skip("no PostgreSQL on this machine: install one, or pip install 'marketd[embedded]'")
    file, runtime_dir = place / f"{name}.toml", Path("/dev/shm") / f"marketd-test-{os.getpid()}-{name}"
    init = [*MARKETD, "init", "--venue", "BINANCE", "--symbols", "BTC/USDT,ETH/USDT", "--output", str(file)]
    subprocess.run(init, check=True, capture_output=True)
    addresses = [f"venues.BINANCE.{part}={emulator[part]}" for part in ("ws_url", "rest_url")]
    places = [f"state_dir={place / name}", f"runtime_dir={runtime_dir}", "http.listen="]
    site, log = Site(file, (*addresses, *places)), place / f"{name}.log"
    with log.open("wb") as output, subprocess.Popen(site.command("run"), stderr=output) as process:

        def is_live() -> bool:
            assert process.poll() is None, log.read_text()
            done = subprocess.run(site.command("status", "--json"), capture_output=True, text=True, check=False)
            return done.returncode == 0 and bool(json.loads(done.stdout)["journal"]["committed"])

        try:
            eventually(is_live, timeout=START_SECONDS)
            yield site
        finally:
            if process.poll() is None:
                site.run("stop")
            assert process.wait(timeout=30) == 0, log.read_text()
            shutil.rmtree(runtime_dir, ignore_errors=True)


@pytest.fixture(scope="module")
def daemon(emulator: dict[str, Any], reachable_dir: Path) -> Iterator[Site]:
    with running(emulator, reachable_dir, "verbs") as site:
        yield site


@pytest.fixture
def daemon_of_its_own(emulator: dict[str, Any], reachable_dir: Path) -> Iterator[Site]:
    """For a test that stops it, or its database: which test comes after it on a worker is not known."""
    with running(emulator, reachable_dir, f"own{next(_numbers)}") as site:
        yield site


def test_status_shows_actors_offsets_and_prices(daemon: Site) -> None:
    eventually(lambda: all(line["price"] for line in daemon.json("status")["instruments"]))
    status = daemon.json("status")
    assert (status["health"], status["state"]) == ("ok", "live")
    assert {actor["name"] for actor in status["actors"]} == {"ingest", "writer", "storage", "query-1", "feed-BINANCE"}
    assert {line["name"] for line in status["instruments"]} == {"BTCUSDT.BINANCE", "ETHUSDT.BINANCE"}
    assert "feed-BINANCE  live" in daemon.run("status").stdout


def test_no_actor_has_more_rights_in_the_embedded_database_than_it_needs(daemon: Site) -> None:
    asked = (
        "SELECT DISTINCT application_name, usename FROM pg_stat_activity WHERE application_name IN"
        " ('marketd-writer', 'marketd-storage', 'marketd-query-1') ORDER BY 1"
    )
    told = daemon.run("psql", "--", "-XAt", "-c", asked).stdout.split()
    assert told == [
        "marketd-query-1|marketd_reader",
        "marketd-storage|marketd_writer",
        "marketd-writer|marketd_writer",
    ]
    # and with them nothing of theirs fails: the works of the storage actor, a look at the disk
    status = daemon.json("status")
    storage = next(actor for actor in status["actors"] if actor["name"] == "storage")["statistics"]
    assert {work["last_error"] for work in storage["works"].values()} == {""}
    assert storage["sizes"]["disk_free_bytes"] > 0


def test_queries_print_tables_csv_and_json(daemon: Site) -> None:
    trades = daemon.json("query", "trades", "BTC/USDT", "--limit", "5")
    assert len(trades["rows"]) == 5
    assert {row["side"] for row in trades["rows"]} <= {"buy", "sell"}
    head, *lines = daemon.run(
        "query", "trades", "BTC/USDT", "--limit", "3", "--csv", "--columns", "time,price"
    ).stdout.split()
    assert (head, len(lines)) == ("time,price", 3)
    bars = daemon.run("query", "ohlcv", "ETH/USDT", "--timeframe", "1s", "--limit", "2")
    assert bars.stdout.split()[:2] == ["TIME", "OPEN"]
    assert "rows of ETHUSDT.BINANCE" in bars.stderr
    told = daemon.json("query", "stream", "coverage", "BTC/USDT")["rows"]
    assert "observed" in {row["state"] for row in told}
    names = [instrument["name"] for instrument in daemon.json("query", "instruments")]
    assert "BTCUSDT.BINANCE" in names
    assert daemon.json("query", "health")["status"] in ("ok", "degraded")
    assert daemon.run("query", "trades", "BTC/USDT", "--columns", "colour", code=EXIT_USAGE)


def test_tail_prints_what_comes_and_ends_with_its_count(daemon: Site) -> None:
    lines = daemon.run("tail", "trade", "BTC/USDT", "--count", "3", "--json").stdout.splitlines()
    assert len({json.loads(line)["trade_id"] for line in lines}) == 3
    bars = daemon.run("tail", "candle", "BTC/USDT", "--timeframe", "1s", "--count", "1").stdout
    assert "open=" in bars


def test_books_are_followed_and_asked_for(daemon: Site) -> None:
    (line,) = daemon.run("tail", "book", "BTC/USDT", "--depth", "2", "--count", "1").stdout.splitlines()
    assert "state=live" in line and len(line.partition("bid_price=")[2].split(" bid_size=")[0].split()) == 2
    (found,) = daemon.json("query", "book", "BTC/USDT", "--limit", "1")["rows"]
    assert found["state"] == "live" and len(found["bid_price"]) == 20 and found["mid"] > found["bid_price"][0]
    of_seconds = daemon.json("query", "book", "BTC/USDT", "--timeframe", "1s", "--depth", "1", "--limit", "3")["rows"]
    assert all(row["mean_spread"] > 0 and row["count"] > 0 for row in of_seconds)
    # a second is closed by what comes after it
    assert daemon.json("tail", "imbalance", "BTC/USDT", "--count", "1")["state"] == "live"
    assert daemon.json("tail", "buckets", "BTC/USDT", "--count", "1")["timeframe"] == 1
    ratios = [row["book_1s"] for row in daemon.json("query", "imbalance", "BTC/USDT", "--limit", "5")["rows"]]
    assert all(-1 <= ratio <= 1 for ratio in ratios if ratio is not None) and set(ratios) != {None}
    head, row = daemon.run("query", "buckets", "BTC/USDT", "--limit", "1", "--csv").stdout.splitlines()
    columns = dict(zip(head.split(","), row.split(","), strict=True))
    assert len(columns["bid_size"].split()) == 32 and columns["state"] == "live"
    shown = {line["name"]: line for line in daemon.json("status")["instruments"]}["BTCUSDT.BINANCE"]
    assert shown["book"] == "live" and shown["bid"] < shown["ask"]
    top = {line["name"]: line for line in daemon.json("top", "--once")}["BTCUSDT.BINANCE"]
    assert top["book"] == "live" and top["bid"] < top["weighted_mid"] < top["ask"] and top["last"]


def test_backfill_fetches_what_came_before_the_daemon_and_the_ledger_is_whole(daemon: Site) -> None:
    ours = ("BTC/USDT", "--start", "10min")
    assert daemon.json("coverage", *ours, "--stream", "trade", code=EXIT_NOT_WELL)["lines"][0]["observed_share"] < 1
    (report,) = daemon.json("backfill", *ours, "--candles", "1m")
    assert report["instrument"] == "BTCUSDT.BINANCE"
    assert report["trades"] > 0
    assert (report["rejected"], report["unreachable"]) == (0, [])

    def is_whole() -> bool:
        ids = [row["trade_id"] for row in daemon.json("query", "trades", *ours)["rows"]]
        assert ids == list(range(ids[0], ids[0] + len(ids)))
        return len(ids) > report["trades"]

    assert eventually(is_whole)
    (line,) = daemon.json("coverage", "BTC/USDT", "--start", "9min", "--stream", "trade")["lines"]
    assert {stretch["state"] for stretch in line["stretches"]} == {"backfilled", "observed"}
    drawn = daemon.run("coverage", "BTC/USDT", "--start", "9min", "--stream", "trade", "--width", "20").stdout
    assert "BTCUSDT.BINANCE trade  +++" in drawn
    assert "100 %" in drawn
    # run again, there is nothing to do but what came meanwhile without the feed: nothing
    (again,) = daemon.json("backfill", "BTC/USDT", "--start", "9min", "--candles", "")
    assert again["trades"] == 0


def test_a_backfill_of_an_unknown_symbol_names_what_is_known(daemon: Site) -> None:
    said = daemon.run("backfill", "NOSUCHUSDT", "--start", "1min", code=EXIT_FAILED).stderr
    assert "'NOSUCHUSDT' is not among the instruments of this daemon (BTCUSDT.BINANCE" in said
    assert "BINANCE does not have it" in said
    assert "there are: BINANCE" in daemon.run("backfill", "BTC.NOWHERE", "--start", "1min", code=EXIT_USAGE).stderr


def test_ctrl_c_is_the_ordinary_end_of_tail(daemon: Site) -> None:
    command = daemon.command("tail", "trade", "BTC/USDT")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "price=" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "0 missed" in said
    assert "Traceback" not in said


def test_a_reader_that_has_seen_enough_is_no_error(daemon: Site) -> None:
    command = daemon.command("tail", "trade", "BTC/USDT")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.wait(timeout=20) == 0
    assert "Traceback" not in said


def test_the_journal_is_whole_beside_its_writer(daemon: Site) -> None:
    assert daemon.json("journal", "check")["ok"]
    (line,) = daemon.json("journal", "list")
    assert line["name"] == "journal"
    assert "instrument ×1" in daemon.run("journal", "show", "--limit", "3").stdout


def test_the_embedded_database_is_found(daemon: Site) -> None:
    assert daemon.json("schema", "status")["pending"] == []
    assert daemon.json("quarantine", "list") == []
    if shutil.which("psql"):
        shown = daemon.run("psql", "--", "-At", "-c", "select count(*) > 0 from v_trades").stdout
        assert shown == "t\n"


def test_the_doctor_finds_the_daemon_well(daemon: Site) -> None:
    findings = {each["name"]: each for each in daemon.json("doctor")["findings"]}
    assert findings["daemon"]["text"].startswith("live, ok")
    assert findings["schema"]["level"] == "ok"


def test_a_reload_takes_over_what_diff_announced(daemon: Site) -> None:
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace('budget = "16GiB"', 'budget = "8GiB"'))
    (difference,) = daemon.json("config", "diff", code=EXIT_NOT_WELL)
    assert (difference["setting"], difference["needs_restart"]) == ("journal.budget", False)
    assert daemon.json("reload")["detail"] == "journal.budget"
    assert daemon.json("config", "diff") == []
    daemon.config.write_text(text.replace("daemon_no = 1", "daemon_no = 2"))
    assert "daemon_no" in daemon.run("reload", code=EXIT_USAGE).stderr
    daemon.config.write_text(text.replace('budget = "16GiB"', 'budget = "8GiB"'))


def test_who_asks_while_postgresql_stands_still_hears_so_in_time(daemon_of_its_own: Site) -> None:
    daemon, asked = daemon_of_its_own, ("query", "trades", "BTC/USDT", "--start", "1min", "--limit", "2")
    pids = server_processes(StateDirectory(daemon.config.with_suffix("")).data)
    assert pids
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        told = daemon.run(*asked, "--timeout", "2", code=EXIT_FAILED).stderr
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert "PostgreSQL did not answer" in told
    eventually(lambda: daemon.run(*asked).stdout)


def test_what_was_stored_can_be_looked_at_when_the_daemon_is_stopped(daemon_of_its_own: Site) -> None:
    daemon = daemon_of_its_own
    assert daemon.json("stop")["stopped"]
    daemon.run("status", code=EXIT_NOT_RUNNING)
    daemon.run("stop", code=EXIT_NOT_RUNNING)
    assert daemon.json("journal", "check")["ok"]
    assert daemon.json("schema", "status")["pending"] == []
    assert {f["name"]: f for f in daemon.json("doctor")["findings"]}["daemon"]["level"] == "ok"
