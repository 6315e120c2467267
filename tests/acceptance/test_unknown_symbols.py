"""A symbol that the venue does not have: told in status and health while the others go on; refused when it is new."""

from __future__ import annotations

from pathlib import Path

import pytest

from acceptance import recordings
from acceptance.daemon_under_test import DaemonUnderTest, Exchange, Place
from marketd.client.provider import UnifiedDataProvider
from marketd.daemon import operator
from marketd.market.errors import ConfigError
from support import eventually

KNOWN, UNKNOWN, NEW = "BTCUSDT", "NOSUCHUSDT", "NEITHERUSDT"


def test_an_unknown_symbol_is_told_and_a_new_one_refuses_the_whole_reload(tmp_path: Path, place: Place) -> None:
    begin = recordings.MIDNIGHT_MS
    files = recordings.record(tmp_path, begin_ms=begin, end_ms=begin + 5_000, symbols=[KNOWN, "ETHUSDT"])
    with Exchange(files) as exchange, DaemonUnderTest(place, exchange.venue([KNOWN, UNKNOWN])) as daemon:
        daemon.until_live()
        eventually(lambda: daemon.newest_trade(KNOWN) > 0)
        (problem,) = eventually(lambda: daemon.status().problems)
        assert f"feed-BINANCE has no {UNKNOWN}" in problem and "venues.BINANCE.symbols" in problem
        with UnifiedDataProvider(str(place.runtime)) as md:
            eventually(lambda: problem in md.health().report["problems"])

        before = place.config.read_text()
        place.config.write_text(before.replace(f'"{UNKNOWN}"', f'"ETHUSDT", "{NEW}"'))
        with pytest.raises(ConfigError, match=f"nothing has changed, because feed-BINANCE .*{NEW}"):
            operator.reload(place.runtime)
        assert (place.runtime / "marketd.toml").read_text() == before
        assert daemon.statistics_of_now("feed-BINANCE", "feed")["symbols"] == 1

        place.config.write_text(before.replace(f'"{UNKNOWN}"', '"ETHUSDT"'))
        assert operator.reload(place.runtime) == "venues.BINANCE.symbols"
        eventually(lambda: daemon.statistics("feed-BINANCE", "feed")["symbols"] == 2)
        eventually(lambda: daemon.status().health == "ok")
