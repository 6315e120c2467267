"""A venue that is away for a while: the ledger, `health` and the bars of a whole daemon, and a consolidated book."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from acceptance.daemon_under_test import DaemonUnderTest, Exchange, Place
from acceptance.test_ledger_ends import BARS, BOOK, TRADES, ledger, now_of, until_observed
from marketd import UnifiedDataProvider
from marketd.market.records import CandleFlag, Coverage
from marketd.market.timeline import Seen, timeline
from support import eventually

SYMBOL = "BTCUSDT"
SECOND = 10**9


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    yield place
    place.remove()


def test_a_venue_that_is_away_is_told_in_the_ledger_and_in_health_until_it_is_back(place: Place) -> None:
    with Exchange(synthetic=[SYMBOL], speed="1") as exchange:
        port = int(exchange.introduction["ws_url"].rpartition(":")[2])
        venue = exchange.venue(candles=["1s"])
        with DaemonUnderTest(place, venue) as daemon:
            daemon.until_live()
            until_observed(place)
            with UnifiedDataProvider(str(place.runtime)) as md:
                exchange.process.kill()
                exchange.process.wait()
                away_ns = time.time_ns()
                eventually(lambda: set(now_of(place).values()) == {Seen.VENUE_DOWN}, timeout=30.0)
                assert time.time_ns() - away_ns < 20 * SECOND
                eventually(lambda: daemon.status().health == "degraded")
                problem = eventually(lambda: [each for each in daemon.status().problems if "away" in each])[0]
                assert "feed-BINANCE" in problem and "BINANCE/1" in problem and "connection refused" in problem
                assert md.get_latest_trades(SYMBOL, 5).meta.coverage == "venue_down"
                with Exchange(synthetic=[SYMBOL], speed="1", port=port):
                    until_observed(place)
                    eventually(lambda: daemon.status().health == "ok")
                    trades = ledger(place)
                    (down,) = [
                        e
                        for e in trades[trades["stream"] == TRADES]
                        if e["state"] == Coverage.VENUE_DOWN and e["ts_end"] > 0
                    ]
                    start, end = int(down["ts_start"]), int(down["ts_end"])
                    assert abs(start - away_ns) < 10 * SECOND and start < end
                    states = {each.state for each in timeline(ledger(place), BOOK, start, end)}
                    assert Seen.VENUE_DOWN in states
                    assert BARS in {int(e["stream"]) for e in ledger(place) if e["state"] == Coverage.VENUE_DOWN}
                    line = timeline(ledger(place), TRADES, start, end)
                    bars = md.query_ohlcv_data(SYMBOL, "1s", start=start, end=end)
                    is_filled = all(each.state is Seen.BACKFILLED for each in line)
                    assert is_filled or (bars.records["flags"] & CandleFlag.PARTIAL).all()
