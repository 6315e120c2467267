"""Old trades that a venue gives only to who has an API key: with one, without one, and with a wrong one."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from recording_sink import RecordingSink, emulated, feed_of, running

from marketd.daemon.feeds.emulator import Emulator, SyntheticFutures
from marketd.daemon.feeds.repair import RepairSettings
from marketd.market.records import Coverage
from support import eventually_async

KEY = "an-invented-key"
VENUE = {"venue": "BINANCE_FUTURES", "candles": ()}
RATE = 400.0


def market() -> SyntheticFutures:
    return SyntheticFutures(7, ["BTCUSDT"], RATE)


async def broken_off(emulator: Emulator, source: SyntheticFutures, trades: int, **options: Any) -> RecordingSink:
    """What a feed has that did not listen while so many trades were made."""
    sink = RecordingSink()
    async with running(feed_of(emulator, sink, ["BTCUSDT"], **VENUE, **options)):
        await eventually_async(lambda: len(sink.ids("BTCUSDT")) > 20)
    before = sink.ids("BTCUSDT")[-1]
    await eventually_async(lambda: source.trades("BTCUSDT", None, 1)[0]["id"] > before + trades)
    async with running(feed_of(emulator, sink, ["BTCUSDT"], **VENUE, **options)):
        await eventually_async(lambda: sink.ids("BTCUSDT")[-1] > before + trades + 100)
    return sink


def lost(sink: RecordingSink) -> int:
    ids = sink.ids("BTCUSDT")
    return ids[-1] - ids[0] + 1 - len(ids)


async def test_with_a_key_old_trades_are_fetched() -> None:
    source = market()
    async with emulated(source, "BINANCE_FUTURES", KEY) as emulator:
        sink = await broken_off(emulator, source, 1500, api_key=KEY)
    assert lost(sink) == 0
    assert Coverage.GAP not in sink.states("BTCUSDT")


async def test_without_one_a_short_hole_is_filled_with_the_newest_trades() -> None:
    source = market()
    async with emulated(source, "BINANCE_FUTURES", KEY) as emulator:
        sink = await broken_off(emulator, source, 300)
    assert lost(sink) == 0


async def test_without_one_what_is_older_stays_a_gap_that_says_how_much() -> None:
    source = market()
    async with emulated(source, "BINANCE_FUTURES", KEY) as emulator:
        sink = await broken_off(emulator, source, 1500)
    coverage = sink.records("BTCUSDT", "coverage")
    (gap,) = coverage[coverage["state"] == Coverage.GAP]
    assert gap["detail"] == lost(sink) > 400


async def test_a_wrong_key_is_told_in_the_words_of_the_venue(caplog: pytest.LogCaptureFixture) -> None:
    source = market()
    async with emulated(source, "BINANCE_FUTURES", KEY) as emulator:
        quick = RepairSettings(hold_seconds=1.0)
        sink = await broken_off(emulator, source, 300, api_key="another", repair=quick)
    assert lost(sink) > 200
    (first, *_) = [record for record in caplog.records if record.__dict__.get("action") == "repair_failed"]
    assert "API-key format invalid" in first.getMessage()
    assert "another" not in caplog.text


@pytest.mark.parametrize(
    ("options", "warned"),
    [({}, 1), ({"api_key": KEY}, 0), ({"trades": "aggTrade"}, 0)],
)
async def test_the_way_out_is_told_once_at_the_start(
    caplog: pytest.LogCaptureFixture, options: dict[str, str], warned: int
) -> None:
    sink = RecordingSink()
    with caplog.at_level(logging.WARNING):
        async with (
            emulated(market(), "BINANCE_FUTURES", KEY) as emulator,
            running(feed_of(emulator, sink, ["BTCUSDT"], **VENUE, **options)),
        ):
            await eventually_async(lambda: sink.ids("BTCUSDT"))
    found = [record for record in caplog.records if record.__dict__.get("action") == "no_api_key"]
    assert len(found) == warned
    assert all("venues.BINANCE_FUTURES.api_key_file" in record.getMessage() for record in found)
    assert KEY not in caplog.text
