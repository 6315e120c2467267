"""Declared series of futures through the feed: what the configuration declares arrives, with its fields."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from recording_sink import RecordingSink, emulated, feed_of, running
from websockets.asyncio.client import connect

from marketd.daemon.feeds.emulator import CaptureSource
from marketd.market.errors import ConfigError
from marketd.market.records import series_kind
from support import eventually_async

BEGIN_MS = 1_723_161_600_000
FUNDING = series_kind(70, "funding", {"rate": "f8"})
LIQUIDATION = series_kind(71, "liquidation", {"side": "i8", "price": "price", "size": "size"})
OPEN_INTEREST = series_kind(72, "open_interest", {"size": "size"})


def line(second: int, stream: str, data: dict[str, Any]) -> str:
    payload = json.dumps({"stream": f"btcusdt@{stream}", "data": data}, separators=(",", ":"))
    return f"{(BEGIN_MS + 1000 * second) * 10**6} {payload}\n"


def recording(tmp_path: Path) -> Path:
    lines = []
    for second in range(5):
        now = BEGIN_MS + 1000 * second
        trade = {"e": "trade", "E": now, "T": now, "s": "BTCUSDT", "t": 100 + second, "p": "61837.60", "q": "0.021"}
        lines.append(line(second, "trade", {**trade, "X": "MARKET", "m": False}))
        mark = {"e": "markPriceUpdate", "E": now, "s": "BTCUSDT", "p": "61838.12345678", "i": "61838.1", "r": "0.0001"}
        lines.append(line(second, "markPrice@1s", {**mark, "T": BEGIN_MS + 3_600_000}))
    order = {"s": "BTCUSDT", "S": "BUY", "q": "0.014", "p": "61840.0", "ap": "61839.5", "T": BEGIN_MS + 4500}
    lines.append(line(4, "forceOrder", {"e": "forceOrder", "E": BEGIN_MS + 4500, "o": order}))
    path = tmp_path / "futures"
    path.write_text("".join(lines))
    return path


async def test_declared_series_arrive_with_the_fields_that_are_declared(tmp_path: Path) -> None:
    sink, kinds = RecordingSink(), (FUNDING, LIQUIDATION)
    async with (
        emulated(CaptureSource([recording(tmp_path)]), "BINANCE_FUTURES") as emulator,
        running(feed_of(emulator, sink, ["BTC/USDT:USDT"], venue="BINANCE_FUTURES", candles=(), series=kinds)),
    ):
        await eventually_async(lambda: [kind for kind, _ in sink.parts["BTCUSDT"] if kind == "liquidation"])
    rates = [records for kind, records in sink.parts["BTCUSDT"] if kind == "funding"]
    assert sum(map(len, rates)) == 5
    assert rates[0].dtype == FUNDING.dtype
    assert {row["rate"].item() for records in rates for row in records} == {0.0001}
    (forced,) = [records for kind, records in sink.parts["BTCUSDT"] if kind == "liquidation"]
    assert forced[["side", "price", "size"]].tolist() == [(1, 618400, 14)]


async def test_streams_of_both_addresses_of_a_market_come_together(tmp_path: Path) -> None:
    """Trades at one, mark prices at the other; asked for at the wrong one they are acknowledged and never come."""
    sink = RecordingSink()
    async with (
        emulated(CaptureSource([recording(tmp_path)]), "BINANCE_FUTURES") as emulator,
        running(feed_of(emulator, sink, ["BTCUSDT"], venue="BINANCE_FUTURES", candles=(), series=(FUNDING,))) as feed,
    ):
        await eventually_async(lambda: len(sink.ids("BTCUSDT")) == 5 and feed.statistics().messages == 10)
        assert sorted(each.streams for each in feed.statistics().connections) == [1, 1]


async def test_an_address_of_the_market_in_the_settings_means_its_host(tmp_path: Path) -> None:
    sink = RecordingSink()
    async with emulated(CaptureSource([recording(tmp_path)]), "BINANCE_FUTURES") as emulator:
        at_market = {"venue": "BINANCE_FUTURES", "ws_url": f"{emulator.ws_url}/market/", "candles": ()}
        async with running(feed_of(emulator, sink, ["BTCUSDT"], series=(FUNDING,), **at_market)) as feed:
            await eventually_async(lambda: feed.statistics().messages == 10)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/public/stream", {"btcusdt@trade"}),
        ("/market/stream", {"btcusdt@markPrice@1s", "btcusdt@forceOrder"}),
        ("/stream", {"btcusdt@trade"}),
    ],
)
async def test_the_emulator_has_each_stream_where_the_venue_has_it(tmp_path: Path, path: str, wanted: set[str]) -> None:
    every = "btcusdt@trade/btcusdt@markPrice@1s"
    heard: list[dict[str, Any]] = []
    async with (
        emulated(CaptureSource([recording(tmp_path)], speed="10"), "BINANCE_FUTURES") as emulator,
        connect(f"{emulator.url}{path}?streams={every}", proxy=None) as socket,
    ):
        await socket.send(json.dumps({"method": "SUBSCRIBE", "params": ["btcusdt@forceOrder"], "id": 1}))
        with contextlib.suppress(TimeoutError):
            while True:
                heard.append(json.loads(await asyncio.wait_for(socket.recv(), 1.0)))
    assert {"result": None, "id": 1} in heard  # whatever is asked for is acknowledged
    assert {message["stream"] for message in heard if "stream" in message} == wanted


async def test_what_is_not_declared_is_not_asked_for(tmp_path: Path) -> None:
    sink = RecordingSink()
    async with (
        emulated(CaptureSource([recording(tmp_path)]), "BINANCE_FUTURES") as emulator,
        running(feed_of(emulator, sink, ["BTC/USDT:USDT"], venue="BINANCE_FUTURES", candles=())) as feed,
    ):
        await eventually_async(lambda: len(sink.ids("BTCUSDT")) == 5)
        assert feed.statistics().messages == 5
        assert feed.statistics().polls_failed == 0


async def test_a_poll_that_is_not_answered_is_counted_and_costs_nothing_else(tmp_path: Path) -> None:
    sink = RecordingSink()
    series = (OPEN_INTEREST,)  # the emulator does not know this path
    async with (
        emulated(CaptureSource([recording(tmp_path)]), "BINANCE_FUTURES") as emulator,
        running(feed_of(emulator, sink, ["BTCUSDT"], venue="BINANCE_FUTURES", candles=(), series=series)) as feed,
    ):
        await eventually_async(lambda: feed.statistics().polls_failed == 1 and len(sink.ids("BTCUSDT")) == 5)


def test_a_declaration_that_the_venue_cannot_fill_is_refused_at_the_start(tmp_path: Path) -> None:
    wrong = series_kind(73, "funding", {"colour": "f8"})

    class Nowhere:
        ws_url, rest_url = "ws://127.0.0.1:1", "http://127.0.0.1:1"

    with pytest.raises(ConfigError, match="colour"):
        feed_of(Nowhere(), RecordingSink(), ["BTCUSDT"], venue="BINANCE_FUTURES", series=(wrong,))  # type: ignore[arg-type]
