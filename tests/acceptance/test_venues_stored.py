"""OKX, Bybit and Bitstamp through a whole daemon: small exchanges that speak as they do, and feeds that are killed."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence

import pytest

from acceptance.daemon_under_test import DaemonUnderTest, Place
from integration.feeds.small_venues import SmallBitstamp, SmallBybit, SmallOkx, SmallVenue
from marketd.market.records import BookState
from marketd.market.trade_ids import hashed_id
from support import eventually

SYMBOLS = {"OKX": "BTC/USDT", "BYBIT_LINEAR": "BTC/USDT:USDT", "BITSTAMP": "BTC/USD"}
ENOUGH = 150  # trades, between two deaths


class Exchanges:
    """The small exchanges, served by an event loop in a thread of its own."""

    def __init__(self, markets: Sequence[SmallVenue]) -> None:
        self.markets = markets
        self.addresses: dict[str, str] = {}
        self._ready, self._loop = threading.Event(), asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    async def _serve(self) -> None:
        async def one(market: SmallVenue) -> None:
            async with market.open() as address:
                self.addresses[market.venue] = address
                if len(self.addresses) == len(self.markets):
                    self._ready.set()
                await self._stop.wait()

        await asyncio.gather(*(one(market) for market in self.markets))

    def __enter__(self) -> Exchanges:
        self._thread.start()
        assert self._ready.wait(10.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10.0)
        self._loop.close()

    def config(self) -> str:
        tables = []
        for venue, address in self.addresses.items():
            settings = {"symbols": [SYMBOLS[venue]], "ws_url": f"ws://{address}", "rest_url": f"http://{address}"}
            settings |= {"reconnect_min": "20ms", "reconnect_max": "200ms"}
            lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
            tables.append("\n".join([f"[venues.{venue}]", *lines, ""]))
        return "\n".join(tables)


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    try:
        yield made
    finally:
        made.remove()


def stored(daemon: DaemonUnderTest, market: SmallVenue) -> list[int]:
    """The steps of a market's trades in the database."""
    rows = daemon.rows(
        "SELECT t.trade_id FROM trades t JOIN instruments i USING (instrument_id) WHERE i.venue = $1", market.venue
    )
    ids = [int(row[0]) for row in rows]
    if isinstance(market, SmallBybit):
        steps = {hashed_id(market.uuid(step)): step for step in range(market.steps + 1)}
        return sorted(steps[number] for number in ids)
    return sorted(number // 7 if isinstance(market, SmallBitstamp) else number for number in ids)


def test_a_killed_feed_of_any_venue_costs_no_trade_and_books_go_on(place: Place) -> None:
    markets = [SmallOkx(), SmallBybit(), SmallBitstamp()]
    with Exchanges(markets) as exchanges, DaemonUnderTest(place, exchanges.config()) as daemon:
        daemon.until_live()
        for market in markets:
            eventually(lambda market=market: len(stored(daemon, market)) > ENOUGH, timeout=60.0)
        for market in markets:
            name = f"feed-{market.venue}"
            daemon.until_replaced(name, daemon.kill(name))
        for market in markets:
            before = market.steps
            eventually(lambda market=market, step=before: stored(daemon, market)[-1] > step + ENOUGH, timeout=60.0)
            steps = stored(daemon, market)
            assert steps == list(range(steps[0], steps[-1] + 1))
        live = daemon.rows(
            "SELECT i.venue, count(*) FROM book_snapshots b JOIN instruments i USING (instrument_id)"
            " WHERE b.state = $1 GROUP BY 1",
            int(BookState.LIVE),
        )
        assert {venue for venue, count in live if count > 10} == set(SYMBOLS)
        assert {rule for (rule,) in daemon.rows("SELECT DISTINCT rule FROM quarantine")} <= {"duplicate"}
