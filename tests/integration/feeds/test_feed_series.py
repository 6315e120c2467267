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

from marketd.daemon.feeds import series
from marketd.daemon.feeds.adapter import Series
from marketd.daemon.feeds.binance import UsdMarginedAdapter
from marketd.daemon.feeds.emulator import CaptureSource
from marketd.daemon.feeds.outages import Outages
from marketd.daemon.feeds.stream_kinds import StreamKinds
from marketd.daemon.feeds.symbol_state import Part, SymbolState
from marketd.daemon.feeds.venues import VENUES
from marketd.ipc.protocol import Resume
from marketd.market.errors import ConfigError
from marketd.market.instruments import Instrument
from marketd.market.records import Coverage, Kind, series_kind
from marketd.market.times import ABSENT
from support import eventually_async

BEGIN_MS = 1_723_161_600_000
FUNDING = series_kind(70, "funding", {"rate": "f8"})
LIQUIDATION = series_kind(71, "liquidation", {"side": "i8", "price": "price", "size": "size"})
OPEN_INTEREST = series_kind(72, "open_interest", {"size": "size"})
INSTRUMENT = Instrument(id=1, symbol="BTCUSDT", venue="BINANCE_FUTURES", price_scale=1, size_scale=3, quote_scale=4)


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
    kinds = (OPEN_INTEREST,)  # the emulator does not know this path
    async with (
        emulated(CaptureSource([recording(tmp_path)]), "BINANCE_FUTURES") as emulator,
        running(feed_of(emulator, sink, ["BTCUSDT"], venue="BINANCE_FUTURES", candles=(), series=kinds)) as feed,
    ):
        await eventually_async(lambda: feed.statistics().polls_failed == 1 and len(sink.ids("BTCUSDT")) == 5)


def test_a_declaration_that_the_venue_cannot_fill_is_refused_at_the_start(tmp_path: Path) -> None:
    wrong = series_kind(73, "funding", {"colour": "f8"})

    class Nowhere:
        ws_url, rest_url = "ws://127.0.0.1:1", "http://127.0.0.1:1"

    with pytest.raises(ConfigError, match="colour"):
        feed_of(Nowhere(), RecordingSink(), ["BTCUSDT"], venue="BINANCE_FUTURES", series=(wrong,))  # type: ignore[arg-type]


def ledger(sink: RecordingSink, kind: Kind) -> list[tuple[int, int, int]]:
    """State, start and end in ms after BEGIN_MS (-1: not yet) of what the ledger says of a series."""
    events = sink.records("BTCUSDT", "coverage")
    found = events[events["stream"] == kind.id]
    return [
        (int(e["state"]), ms_of(int(e["ts_start"])), -1 if e["ts_end"] == ABSENT else ms_of(int(e["ts_end"])))
        for e in found
    ]


def ms_of(ts_ns: int) -> int:
    return ts_ns // 10**6 - BEGIN_MS


async def test_the_ledger_has_each_series_that_is_subscribed_also_a_quiet_one(tmp_path: Path) -> None:
    sink = RecordingSink()
    lines = [text for text in recording(tmp_path).read_text().splitlines() if "forceOrder" not in text]
    (tmp_path / "futures").write_text("\n".join(lines) + "\n")
    kinds = (FUNDING, LIQUIDATION)
    async with emulated(CaptureSource([tmp_path / "futures"]), "BINANCE_FUTURES") as emulator:
        feed = feed_of(emulator, sink, ["BTC/USDT:USDT"], venue="BINANCE_FUTURES", candles=(), series=kinds)
        async with running(feed):
            await eventually_async(lambda: len(sink.ids("BTCUSDT")) == 5 and ledger(sink, LIQUIDATION))
            for kind in kinds:
                ((state, start, _),) = ledger(sink, kind)
                assert state == Coverage.OBSERVED and 0 <= start <= 4000
        for kind in kinds:
            *_, (state, start, _) = ledger(sink, kind)
            assert (state, start) == (Coverage.ENDED, 4000)


async def test_what_a_series_lost_with_its_connection_is_a_gap(tmp_path: Path) -> None:
    sink = RecordingSink()
    async with emulated(CaptureSource([recording(tmp_path)], speed="1"), "BINANCE_FUTURES") as emulator:
        feed = feed_of(emulator, sink, ["BTC/USDT:USDT"], venue="BINANCE_FUTURES", candles=(), series=(FUNDING,))
        async with running(feed):
            await eventually_async(lambda: len(ledger(sink, FUNDING)) == 1)
            emulator.drop_connections()
            await eventually_async(lambda: len(ledger(sink, FUNDING)) == 3)
            (_, began, _), (lost, start, end), (again, since, _) = ledger(sink, FUNDING)
            assert (lost, again) == (Coverage.GAP, Coverage.OBSERVED)
            assert began <= start < end == since


async def test_a_poll_that_is_not_answered_after_one_that_was_is_told(tmp_path: Path) -> None:
    kinds = StreamKinds(
        UsdMarginedAdapter(candles=(), series=("open_interest",)),
        VENUES["BINANCE_FUTURES"].adapter,
        trades="trade",
        series=[OPEN_INTEREST],
    )
    assert kinds.of(INSTRUMENT)["open_interest"] == frozenset()
    state = SymbolState(INSTRUMENT, Resume(), (), streams=kinds.of(INSTRUMENT), numbers=kinds.numbers)
    sink = RecordingSink()

    async def hand_over(state: SymbolState, parts: list[Part]) -> None:
        await sink.send(state.instrument, parts)

    outages = Outages(Any, Any, Any, Any, hand_over)  # type: ignore[arg-type]

    async def answer(ms: int) -> None:
        records = series.rows("open_interest", [((BEGIN_MS + ms) * 10**6, (7,))])
        await outages.answered(state, Series("BTCUSDT", "open_interest", records))

    await outages.not_answered(state, "HTTP 503")
    assert ledger(sink, OPEN_INTEREST) == [], "it was never observed"
    await answer(1000)
    await answer(2000)
    await outages.not_answered(state, "HTTP 503")
    await outages.not_answered(state, "HTTP 503")
    assert ledger(sink, OPEN_INTEREST) == [(Coverage.OBSERVED, 1000, 1000), (Coverage.VENUE_DOWN, 2000, -1)]
    await answer(9000)
    assert ledger(sink, OPEN_INTEREST)[2:] == [(Coverage.VENUE_DOWN, 2000, 9000), (Coverage.OBSERVED, 9000, 9000)]
