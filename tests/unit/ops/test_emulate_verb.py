"""What `marketd emulate` prints and refuses; that daemons can live on it is tested with the feeds."""

from __future__ import annotations

import tomllib

import pytest

from marketd.daemon.config import convert
from marketd.daemon.feeds.emulator import Progress
from marketd.daemon.feeds.emulator.server import EmulatorStatistics
from marketd.ops.cli import EXIT_FAILED, EXIT_USAGE, main
from marketd.ops.verbs import emulate


def at(position: int, total: int | None, *, ended: bool = False, cut_off: int = 0) -> EmulatorStatistics:
    return EmulatorStatistics(1, position, 0, cut_off, Progress(position, total, 1_723_161_240_000, ended))


def test_the_lines_are_a_configuration() -> None:
    lines = emulate.config_lines("ws://127.0.0.1:9500", "http://127.0.0.1:9500", ["BTCUSDT"])
    venue = convert(tomllib.loads(lines)).venues["BINANCE"]
    assert (venue.ws_url, venue.rest_url) == ("ws://127.0.0.1:9500", "http://127.0.0.1:9500")
    assert (venue.symbols, venue.trades) == (("BTCUSDT",), "trade")
    summed = emulate.config_lines("ws://127.0.0.1:9500", "http://127.0.0.1:9500", ["BTC/AED"], "OKX", "aggTrade")
    assert convert(tomllib.loads(summed)).venues["OKX"].trades == "aggTrade"


def test_progress_tells_how_long_it_will_take() -> None:
    line = emulate.progress_line(at(100, 1000), at(400, 1000), 30.0)
    assert "40 % (about 1 min 0 s to go)" in line
    assert "1 client, 400 messages sent, market at 2024-08-08T23:54:00" in line


def test_progress_without_an_end_or_after_it() -> None:
    assert "%" not in emulate.progress_line(at(0, None), at(10, None), 1.0)
    assert "0 %" in emulate.progress_line(at(0, 10), at(0, 10), 1.0)
    assert "over" in emulate.progress_line(at(0, 10), at(10, 10, ended=True), 1.0)
    assert "2 clients cut off" in emulate.progress_line(at(0, None), at(0, None, cut_off=2), 1.0)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], EXIT_USAGE),
        (["--synthetic", "file.gz"], EXIT_USAGE),
        (["--synthetic", "--rate", "0"], EXIT_USAGE),
        (["--synthetic", "--port", "70000"], EXIT_USAGE),
        (["--synthetic", "--host", "0.0.0.0"], EXIT_USAGE),
        (["file.gz", "--symbols", "BTCUSDT"], EXIT_USAGE),
        (["no such file.gz"], EXIT_FAILED),
        (["no such file.gz", "--venue", "KRAKEN"], EXIT_FAILED),
        (["file.gz", "--venue", "NOWHERE"], EXIT_USAGE),
        (["--synthetic", "--venue", "KRAKEN"], EXIT_USAGE),
    ],
)
def test_what_cannot_be_emulated_is_refused(arguments: list[str], code: int) -> None:
    assert main(["emulate", *arguments]) == code
