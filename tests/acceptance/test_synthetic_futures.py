"""A synthetic market of futures through a whole daemon: every series that can be declared is stored and answered."""

from __future__ import annotations

from typing import Any

from acceptance.daemon_under_test import DaemonUnderTest, Exchange, Place
from marketd.client.provider import UnifiedDataProvider
from marketd.market.errors import MarketdError
from marketd.ops.verbs.emulate import series_lines
from support import eventually

SYMBOL, VENUE = "BTCUSDT", "BINANCE_FUTURES"
SERIES = ("funding", "mark_price", "open_interest", "liquidation")
LIQUIDATION_SECONDS = 20.0  # there is one in five seconds


def test_a_venue_of_futures_shows_its_book_its_trades_and_every_declared_series(place: Place) -> None:
    with (
        Exchange(synthetic=[SYMBOL], venue=VENUE) as exchange,
        DaemonUnderTest(place, exchange.venue() + series_lines(VENUE)) as daemon,
        UnifiedDataProvider(str(place.runtime)) as md,
    ):
        daemon.until_live()
        for name in SERIES:
            eventually(lambda name=name: daemon.count(f"series_{name}") > 0, timeout=LIQUIDATION_SECONDS)
        mark = eventually(lambda: _newest(md, "mark_price"))
        mid = eventually(lambda: _newest(md, "book")).mid[0]
        assert abs(mark["price"][-1] / mid - 1) < 0.01 and abs(mark["index_price"][-1] / mid - 1) < 0.01
        funding = md.query("funding", SYMBOL, limit=1)
        assert abs(funding["rate"][0]) <= 0.0003
        assert funding["next_ns"][0] % (8 * 3600 * 10**9) == 0
        assert md.query("open_interest", SYMBOL, limit=1)["size"][0] > 0
        forced = md.query("liquidation", SYMBOL, limit=1)
        # the order's price lies beyond what it was dealt at
        assert (forced["price"][0] - forced["average"][0]) * forced["side"][0] > 0
        eventually(lambda: md.get_latest_orderbook(SYMBOL).meta.book_state == "LIVE")
        assert daemon.statistics(f"feed-{VENUE}", "feed")["book_events"].get("gap", 0) == 0
        assert daemon.count("trades") > 0 and daemon.count("quarantine") == 0
        assert daemon.status().problems == []


def _newest(md: UnifiedDataProvider, stream: str) -> Any:
    """The frame of the stream's newest record."""
    try:
        found = md.get_latest(stream, SYMBOL)
    except MarketdError as error:
        raise AssertionError(str(error)) from error
    assert len(found)
    return found
