"""OBSERVED ends where nobody listens any more: with a reload, with the daemon, and after it was killed."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from acceptance.daemon_under_test import DaemonUnderTest, Exchange, Place
from marketd.daemon import operator
from marketd.market.records import BY_NAME, COVERAGE, CandleFlag, Coverage, Records
from marketd.market.timeline import Seen, timeline
from support import eventually

SYMBOL = "BTCUSDT"
TRADES, BARS, BOOK = (BY_NAME[name].id for name in ("trade", "candle", "book"))
SECOND = 10**9


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    yield place
    place.remove()


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with Exchange(synthetic=[SYMBOL], speed="1") as exchange:
        yield exchange


def ledger(place: Place) -> Records:
    """What is stored of the symbol, in order."""
    rows = place.rows(
        """
        SELECT state, stream, (extract(epoch FROM ts_start) * 1000000)::bigint,
               (extract(epoch FROM nullif(ts_end, 'infinity')) * 1000000)::bigint, seq
          FROM coverage WHERE instrument_id IN (SELECT instrument_id FROM instruments WHERE symbol = $1) ORDER BY seq
        """,
        SYMBOL,
    )
    found = np.zeros(len(rows), COVERAGE)
    for index, (state, stream, start, end, seq) in enumerate(rows):
        found["state"][index], found["stream"][index], found["seq"][index] = state, stream, seq
        found["ts_start"][index] = start * 1000
        found["ts_end"][index] = np.iinfo(np.int64).min if end is None else end * 1000
    return found


def now_of(place: Place) -> dict[int, Seen]:
    """What the ledger says of each stream a minute from now, if nothing more happened."""
    found = ledger(place)
    then = time.time_ns() + 60 * SECOND
    return {stream: timeline(found, stream, then, then + 1)[0].state for stream in (TRADES, BARS, BOOK)}


def newest_minute(place: Place) -> tuple[int, int]:
    """Start (s) and flags of the newest bar of a minute that is stored."""
    rows = place.rows(
        """
        SELECT extract(epoch FROM ts)::bigint, flags FROM candles
         WHERE timeframe = 60 AND source = 1
           AND instrument_id IN (SELECT instrument_id FROM instruments WHERE symbol = $1) ORDER BY ts DESC LIMIT 1
        """,
        SYMBOL,
    )
    return (rows[0][0], rows[0][1]) if rows else (0, 0)


def until_observed(place: Place) -> None:
    eventually(lambda: set(now_of(place).values()) == {Seen.OBSERVED}, timeout=60.0)


def until_ended(place: Place, timeout: float = 30.0) -> None:
    eventually(lambda: set(now_of(place).values()) == {Seen.UNOBSERVED}, timeout=timeout)


def test_a_venue_that_is_switched_off_and_on_is_observed_but_for_the_time_between(
    place: Place, exchange: Exchange
) -> None:
    with DaemonUnderTest(place, exchange.venue(candles=["1s"])) as daemon:
        daemon.until_live()
        until_observed(place)
        place.configure(exchange.venue(candles=["1s"], enabled=False))
        operator.reload(place.runtime)
        until_ended(place)
        ended = next(e for e in ledger(place) if e["state"] == Coverage.ENDED and e["stream"] == TRADES)
        assert abs(int(ended["ts_start"]) - time.time_ns()) < 20 * SECOND
        minute = int(ended["ts_start"]) // (60 * SECOND) * 60
        eventually(lambda: newest_minute(place) == (minute, CandleFlag.PARTIAL), timeout=30.0)
        place.configure(exchange.venue(candles=["1s"]))
        operator.reload(place.runtime)
        until_observed(place)
    # and an orderly end is one too
    with place.stopped_database():
        assert set(now_of(place).values()) == {Seen.UNOBSERVED}
        found = ledger(place)
        begin = int(found["ts_start"][found["stream"] == TRADES][0])
        line = timeline(found, TRADES, begin, time.time_ns())
        assert {each.state for each in line[:-1]} == {Seen.OBSERVED, Seen.BACKFILLED}, line
        assert line[-1].state is Seen.UNOBSERVED


def test_what_was_killed_and_is_not_started_any_more_ends_where_it_was_heard_last(
    place: Place, exchange: Exchange
) -> None:
    with DaemonUnderTest(place, exchange.venue(candles=["1s"])) as daemon:
        daemon.until_live()
        until_observed(place)
        killed_ns = time.time_ns()
        daemon.die()
    with DaemonUnderTest(place, exchange.venue(candles=["1s"], enabled=False)) as daemon:
        daemon.until_live()
        until_ended(place)
    with place.stopped_database():
        ended = ledger(place)[-3:]
    assert sorted(ended["stream"]) == [TRADES, BARS, BOOK] and set(ended["state"]) == {Coverage.ENDED}
    assert (np.abs(ended["ts_start"] - killed_ns) < 5 * SECOND).all()
