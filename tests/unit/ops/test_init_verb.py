"""`marketd init`: a file that can be used at once, and never one that was there before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from marketd.daemon import config as configuration
from marketd.market.errors import ConfigError
from marketd.ops.cli import EXIT_FAILED, EXIT_USAGE, main
from marketd.ops.verbs import init

ASK = ["init", "--venue", "BINANCE", "--symbols", "BTC/USDT, ETH/USDT"]


def test_what_it_writes_can_be_loaded(tmp_path: Path) -> None:
    file = tmp_path / "marketd.toml"
    extra = ["--instance", "lab", "--daemon-no", "3", "--trades", "aggTrade", "--candles", "1m,1h"]
    assert main([*ASK, *extra, "--output", str(file)]) == 0
    config = configuration.load(file, environment={})
    venue = config.venues["BINANCE"]
    assert (config.instance, config.daemon_no, config.default_venue) == ("lab", 3, "BINANCE")
    assert (venue.symbols, venue.trades, venue.candles) == (("BTC/USDT", "ETH/USDT"), "aggTrade", ("1m", "1h"))
    assert config.http.listen == "127.0.0.1:9466"  # an address of its own
    assert "#" in file.read_text()


def test_it_prints_the_next_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "my marketd.toml"
    main([*ASK, "--output", str(file)])
    assert f"marketd run --config '{file}'" in capsys.readouterr().out


def test_it_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "marketd.toml"
    main([*ASK, "--json", "--output", str(file)])
    told = json.loads(capsys.readouterr().out)
    assert (told["file"], told["venues"]) == (str(file), {"BINANCE": ["BTC/USDT", "ETH/USDT"]})


def test_a_file_that_is_there_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "marketd.toml"
    file.write_text("# mine\n")
    assert main([*ASK, "--output", str(file)]) == EXIT_FAILED
    assert "--force" in capsys.readouterr().err
    assert file.read_text() == "# mine\n"
    assert main([*ASK, "--output", str(file), "--force"]) == 0
    assert configuration.load(file, environment={}).venues


def test_somebody_who_was_first_keeps_his_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "marketd.toml"
    loaded = configuration.load

    def load_slowly(*args: object, **kwargs: object) -> object:
        file.write_text("# theirs\n")
        return loaded(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(init.configuration, "load", load_slowly)
    assert main([*ASK, "--output", str(file)]) == EXIT_FAILED
    assert file.read_text() == "# theirs\n"
    assert list(tmp_path.iterdir()) == [file]


def test_what_cannot_be_used_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "marketd.toml"
    for arguments in (
        ["init", "--venue", "NASDAQ", "--symbols", "AAPL"],
        ["init", "--venue", "BINANCE", "--symbols", ","],
        ["init", "--venue", "BINANCE", "--symbols", "BTC/USDT,BTC/USDT"],
        ["init", "--venue", "BINANCE", "--venue", "BINANCE", "--symbols", "BTC/USDT"],
        [*ASK, "--instance", "not a name"],
        [*ASK, "--candles", "1x"],
    ):
        assert main([*arguments, "--output", str(file)]) == EXIT_USAGE, arguments
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASK, "--output", str(tmp_path / "nowhere" / "marketd.toml")]) == EXIT_FAILED
    assert "--output" in capsys.readouterr().err


def test_the_environment_does_not_hide_a_flaw_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARKETD_INSTANCE", "lab")
    with pytest.raises(ConfigError):
        init.write_verified(tmp_path / "marketd.toml", "instance = 'NOT A NAME'\n")


def test_candles_are_written_only_for_venues_that_send_them(tmp_path: Path) -> None:
    file = tmp_path / "marketd.toml"
    names = ("KRAKEN", "COINBASE", "BITSTAMP")
    asked = [part for name in names for part in ("--venue", name, "--symbols", "BTC/USD")]
    assert main(["init", *asked, "--output", str(file)]) == 0
    venues = configuration.load(file, environment={}).venues
    assert [venues[name].candles for name in names] == [("1m",), (), ()]


def test_candles_that_were_asked_for_and_do_not_come_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "marketd.toml"
    asked = ["init", "--venue", "COINBASE", "--symbols", "BTC/USD", "--candles", "1m", "--output", str(file)]
    assert main(asked) == EXIT_USAGE
    assert "has no bars of '1m', but 5m" in capsys.readouterr().err
    assert not file.exists()
