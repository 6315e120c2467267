"""`marketd config`: what is in force and why, what a reload would do."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from marketd.daemon.runtime import RuntimeDirectory
from marketd.ops.cli import EXIT_NOT_WELL, EXIT_USAGE, main

FILE = """
journal.budget = "8GiB"
[database]
url = "postgresql://marketd:secret@db.example/marketd"
[venues.BINANCE]
symbols = ["BTC/USDT"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "marketd.toml"
    path.write_text(FILE)
    return path


def told(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_show_tells_where_a_value_comes_from(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARKETD_LOG__LEVEL", "DEBUG")
    assert main(["config", "show", "--json", "--config", str(file), "--set", "query.processes=2"]) == 0
    shown = told(capsys)
    assert shown["settings"]["journal"]["budget"] == "8GiB"
    assert shown["settings"]["log"]["format"] == "text"
    origins = shown["origins"]
    assert origins["journal.budget"] == origins["venues.BINANCE.symbols"] == str(file)
    assert (origins["log.level"], origins["query.processes"]) == ("MARKETD_LOG__LEVEL", "--set query.processes")
    assert "log.format" not in origins


def test_show_keeps_passwords_to_itself(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others = [f"--set=database.{name}=postgresql://{name}:secret@h/d" for name in ("read_url", "replica_url")]
    main(["config", "show", "--config", str(file), *others])
    shown = capsys.readouterr().out
    assert "read_url@h/d" in shown and "replica_url@h/d" in shown
    assert "secret" not in shown
    main(["config", "show", "--changed", "--secrets", "--config", str(file)])
    shown = capsys.readouterr().out
    assert "marketd:secret@db.example" in shown
    assert "default" not in shown


def test_check_names_the_flaw(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", "--config", str(file)]) == 0
    assert "BTC/USDT" in capsys.readouterr().out
    file.write_text("journal.budgget = 1\n")
    assert main(["config", "check", "--config", str(file)]) == EXIT_USAGE
    assert "did you mean journal.budget?" in capsys.readouterr().err


def test_diff_tells_what_a_reload_would_take_over(
    file: Path, runtime_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running = RuntimeDirectory(runtime_dir)
    running.hold()
    running.keep_config(file)
    try:
        ask = ["config", "diff", "--config", str(file), "--set", f"runtime_dir={runtime_dir}"]
        assert main(ask) == 0
        file.write_text(FILE.replace("8GiB", "4GiB") + "candles = []\n")
        assert main([*ask, "--json"]) == EXIT_NOT_WELL
    finally:
        running.let_go()
    found = {each["setting"]: each for each in told(capsys)}
    assert set(found) == {"journal.budget", "venues.BINANCE.candles"}
    assert not found["journal.budget"]["needs_restart"]
    assert found["venues.BINANCE.candles"]["needs_restart"]


def test_diff_against_the_defaults_or_another_file(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "diff", "--against", "default", "--config", str(file)]) == EXIT_NOT_WELL
    shown = capsys.readouterr().out
    assert "journal.budget" in shown
    assert "secret" not in shown
    other = tmp_path / "other.toml"
    other.write_text(FILE)
    assert main(["config", "diff", "--against", str(other), "--config", str(file)]) == 0


def test_default_is_the_explained_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "default"]) == 0
    text = capsys.readouterr().out
    assert tomllib.loads(text)["journal"]["segment"] == "64MiB"
    assert main(["config", "default", "--json"]) == 0
    assert told(capsys)["journal"]["segment"] == "64MiB"


@pytest.mark.parametrize(("candles", "noted"), [('candles = ["1m"]', 1), ("", 0), ("candles = []", 0)])
def test_check_names_candles_that_are_written_there_and_never_come(
    file: Path, capsys: pytest.CaptureFixture[str], candles: str, noted: int
) -> None:
    file.write_text(f'[venues.BITSTAMP]\nsymbols = ["BTC/USD"]\n{candles}\n')
    assert main(["config", "check", "--json", "--config", str(file)]) == 0
    notes = told(capsys)["notes"]
    assert len(notes) == noted
    main(["config", "check", "--config", str(file)])
    assert capsys.readouterr().out.count("! venues.BITSTAMP.candles[0]: the stream of BITSTAMP has no bars") == noted
