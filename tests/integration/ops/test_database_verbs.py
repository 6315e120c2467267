"""`marketd schema`, `quarantine`, `psql`, `doctor` in a real database of each profile."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from fake_daemon import FakeDaemon
from marketd.ipc.protocol import Ingest
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME, empty
from marketd.ops.cli import EXIT_FAILED, EXIT_NOT_RUNNING, EXIT_NOT_WELL, EXIT_USAGE, main
from marketd.sql.partitions import PartitionKeeper
from marketd.sql.profiles import Profile, detect_profile
from marketd.sql.store import Commit, StoredQuarantine, commit

MINUTE_NS = 60_000_000_000
TS = 1_723_161_240_000_000_000
BTC = Instrument(
    id=65537,
    symbol="BTCUSDT",
    venue="BINANCE",
    base="BTC",
    quote="USDT",
    price_scale=2,
    size_scale=5,
    quote_scale=7,
)
STREAM = "streams.funding.fields={rate = 'f8'}"


def ask(dsn: str, *arguments: str) -> int:
    return main([*arguments, "--set", f"database.url={dsn}"])


def ask_json(capsys: pytest.CaptureFixture[str], dsn: str, *arguments: str) -> Any:
    capsys.readouterr()
    ask(dsn, *arguments, "--json")
    return json.loads(capsys.readouterr().out)


async def insert_refused(dsn: str) -> None:
    """Three refused trades a minute apart, and a message that was no record, as the writer stores them."""
    trade = empty(BY_NAME["trade"], 1)
    trade["price"] = -5
    refused = [
        (65537, "positive_price", "feed:BINANCE", trade.tobytes()),
        (65537, "max_skew", "feed:BINANCE", trade.tobytes()),
        (65537, "positive_price", "mine", trade.tobytes()),
        (0, "precision", "feed:BINANCE", b'{"p":"1.234567890"}'),
    ]
    quarantine = [
        StoredQuarantine(instrument, TS + item * MINUTE_NS, 0, item, "trade", rule, "as it was", source, payload)
        for item, (instrument, rule, source, payload) in enumerate(refused)
    ]
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "marketd, public"})
    try:
        partitions = PartitionKeeper(await detect_profile(connection))
        work = Commit(UUID(int=1), "live", 8, TS, [], BTC.to_record(), [], quarantine)
        await commit(connection, work, partitions)
    finally:
        await connection.close()


@pytest.fixture
def refused(database: str) -> str:
    """The DSN of a database with something in quarantine."""
    asyncio.run(insert_refused(database))
    return database


# ---- schema -------------------------------------------------------------------------------------


def test_a_schema_is_planned_applied_and_then_current(empty_database: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(empty_database, "schema", "plan", "--set", STREAM) == EXIT_NOT_WELL
    shown = capsys.readouterr().out
    assert "0001_ledgers" in shown
    assert "series funding" in shown
    assert ask_json(capsys, empty_database, "schema", "apply", "--set", STREAM)["series"] == ["funding"]
    assert ask(empty_database, "schema", "plan", "--set", STREAM) == 0
    status = ask_json(capsys, empty_database, "schema", "status", "--set", STREAM)
    assert (status["pending"], status["series"]["stored"], status["problem"]) == ([], ["funding"], None)
    assert ask_json(capsys, empty_database, "schema", "apply")["applied"] == []


@pytest.mark.parametrize("server", [Profile.TIMESCALE], indirect=True, ids=str)
def test_policies_are_planned_and_applied_with_the_schema(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    later = ("--set", "storage.compress_after=7d")
    assert ask(database, "schema", "plan") == EXIT_NOT_WELL
    assert "compression of trades: after 3d (now never)" in capsys.readouterr().out
    ask(database, "schema", "apply")
    assert "policy:  compression of trades: after 3d" in capsys.readouterr().out
    assert ask(database, "schema", "plan") == 0
    capsys.readouterr()
    planned = ask_json(capsys, database, "schema", "plan", *later)["policies"]
    assert {
        "what": "compression of trades",
        "before": "after 3d",
        "after": "after 7d",
    } in planned
    assert ask_json(capsys, database, "schema", "apply", *later)["policies"]
    assert ask_json(capsys, database, "schema", "apply", *later)["policies"] == []


def test_a_schema_of_a_newer_marketd_is_a_problem(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def add_change() -> None:
        connection = await asyncpg.connect(database)
        await connection.execute(
            "INSERT INTO marketd.schema_changes (name, checksum, profile, took_ms)"
            " SELECT '9999_tomorrow', 'x', profile, 1 FROM marketd.schema_changes LIMIT 1"
        )
        await connection.close()

    asyncio.run(add_change())
    assert ask(database, "schema", "status") == EXIT_NOT_WELL
    assert "9999_tomorrow" in capsys.readouterr().out


def test_a_password_in_the_dsn_is_not_shown(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    ask(f"{database}&password=secret", "schema", "status")
    assert "secret" not in capsys.readouterr().out


# ---- quarantine ---------------------------------------------------------------------------------


def test_the_quarantine_is_listed_newest_first_and_filtered(refused: str, capsys: pytest.CaptureFixture[str]) -> None:
    def rules(*arguments: str) -> list[str]:
        return [row["rule"] for row in ask_json(capsys, refused, "quarantine", "list", *arguments)]

    assert rules() == ["precision", "positive_price", "max_skew", "positive_price"]
    assert rules("--limit", "1") == ["precision"]
    assert rules("--rule", "max_skew") == ["max_skew"]
    assert rules("--source", "mine") == ["positive_price"]
    assert rules("--kind", "candle") == []
    assert rules("--start", str(TS + MINUTE_NS), "--end", str(TS + 2 * MINUTE_NS)) == ["max_skew"]
    for name in ("BTCUSDT.BINANCE", "BTCUSDT", "BTC/USDT", "65537"):
        assert len(rules("--instrument", name)) == 3
    assert rules("--instrument", "0") == ["precision"]


def test_the_summary_counts(refused: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ask_json(capsys, refused, "quarantine", "list", "--summary", "--instrument", "BTCUSDT")
    assert {(row["rule"], row["source"], row["rows"]) for row in rows} == {
        ("positive_price", "feed:BINANCE", 1),
        ("positive_price", "mine", 1),
        ("max_skew", "feed:BINANCE", 1),
    }
    assert ask(refused, "quarantine", "list", "--summary") == 0


def test_show_tells_what_was_sent(refused: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(refused, "quarantine", "show", "1") == 0
    assert "price=-5" in capsys.readouterr().out
    (row,) = ask_json(capsys, refused, "quarantine", "show", "--rule", "precision")
    assert row["payload"] == '{"p":"1.234567890"}'
    assert ask(refused, "quarantine", "show", "999") == EXIT_FAILED
    assert "no row 999" in capsys.readouterr().err


def test_a_replay_takes_from_the_quarantine_what_the_daemon_answered_for(
    refused: str, capsys: pytest.CaptureFixture[str], runtime_dir: Path
) -> None:
    """Accepted, or refused anew by the rule of today; what is no record stays where it is."""
    with FakeDaemon(runtime_dir, [BTC]) as daemon:
        where = ("--set", f"runtime_dir={runtime_dir}")
        assert ask(refused, "quarantine", "replay", *where) == EXIT_USAGE  # everything is nobody's wish
        assert ask(refused, "quarantine", "replay", "999", *where) == EXIT_FAILED
        told = ask_json(capsys, refused, "quarantine", "replay", "1", "4", *where)
        assert (told["accepted"], told["refused"]) == (0, {"positive_price": 1})
        assert list(told["kept"].values()) == [1] and "no record" in next(iter(told["kept"]))
        batch = next(each for each in daemon.received if isinstance(each, Ingest))
        assert (batch.source, batch.instrument) == ("quarantine replay", BTC.id)
        assert [row["id"] for row in ask_json(capsys, refused, "quarantine", "list")] == [4, 3, 2]


def test_a_replay_that_is_not_answered_takes_nothing_away(
    refused: str, capsys: pytest.CaptureFixture[str], runtime_dir: Path
) -> None:
    where = ("--set", f"runtime_dir={runtime_dir}")
    assert ask(refused, "quarantine", "replay", "--rule", "max_skew", *where) == EXIT_NOT_RUNNING
    assert len(ask_json(capsys, refused, "quarantine", "list")) == 4


def test_purge_wants_a_bound_and_a_yes(
    refused: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(refused, "quarantine", "purge", "--yes") == EXIT_USAGE
    assert ask(refused, "quarantine", "purge", "--rule", "max_skew") == EXIT_USAGE  # nobody to be asked
    counted = ask_json(capsys, refused, "quarantine", "purge", "--rule", "max_skew", "--dry-run")
    assert counted == {"rows": 1, "purged": False}
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert ask_json(capsys, refused, "quarantine", "purge", "1", "2") == {"rows": 2, "purged": False}
    monkeypatch.setattr("builtins.input", lambda _: "yes")
    assert ask_json(capsys, refused, "quarantine", "purge", "1", "2") == {"rows": 2, "purged": True}
    assert ask_json(capsys, refused, "quarantine", "purge", "--end", "now", "--yes")["rows"] == 2
    assert ask_json(capsys, refused, "quarantine", "list") == []


def test_a_database_without_our_tables_is_said(empty_database: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(empty_database, "quarantine", "list") == 1
    assert "marketd schema apply" in capsys.readouterr().err


# ---- psql and doctor ----------------------------------------------------------------------------


def test_psql_is_in_our_schema(database: str) -> None:
    if shutil.which("psql") is None:
        pytest.skip("psql is missing on this machine")
    command = [sys.executable, "-m", "marketd.ops", "psql", "--set", f"database.url={database}"]
    done = subprocess.run(
        [*command, "--", "-At", "-c", "select count(*) from schema_changes; show search_path"],
        capture_output=True,
        text=True,
        check=True,
    )
    count, path = done.stdout.splitlines()
    assert int(count) > 0
    assert path == "marketd,public"


def test_the_doctor_finds_the_schema(database: str, empty_database: str, capsys: pytest.CaptureFixture[str]) -> None:
    def finding(dsn: str, name: str) -> Any:
        return next(
            f for f in ask_json(capsys, dsn, "doctor", "--set", "http.listen=")["findings"] if f["name"] == name
        )

    assert finding(database, "schema")["level"] == "ok"
    assert "profile" in finding(database, "database")["text"]
    assert finding(database, "queries")["text"] == "read as marketd_reader, who may change nothing"


def test_the_doctor_tells_as_whom_queries_are_read(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def prepare(*statements: str) -> None:
        admin = await asyncpg.connect(database)
        for statement in statements:
            await admin.execute(statement)
        await admin.close()

    def finding(login: str) -> Any:
        read_url = database.replace("//marketd@", f"//{login}@")
        told = ask_json(capsys, database, "doctor", "--set", "http.listen=", "--set", f"database.read_url={read_url}")
        return next((f["level"], f["text"]) for f in told["findings"] if f["name"] == "queries")

    may_read = "GRANT USAGE ON SCHEMA marketd TO lone; GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA marketd TO lone"
    asyncio.run(prepare("DROP ROLE IF EXISTS lone", "CREATE ROLE lone LOGIN", may_read))
    try:
        assert finding("marketd_reader") == ("ok", "read as marketd_reader, who may change nothing")
        level, text = finding("lone")
        assert (level, text.startswith("read as lone, who may change what it reads")) == ("warn", True)
        assert finding("nobody_at_all") == ("fail", "their login cannot be used")
    finally:
        asyncio.run(prepare("DROP OWNED BY lone", "DROP ROLE lone"))
