"""Streams that a venue has taken and does not send: told, and no quiet instrument is taken for one."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from recording_sink import RecordingSink, emulated, feed_of, running

from marketd.daemon.feeds import silence
from marketd.daemon.feeds.emulator import SyntheticFutures, SyntheticMarket
from marketd.daemon.feeds.emulator.source import Message
from marketd.market.records import Coverage, series_kind
from support import eventually_async

MARK_PRICE = series_kind(70, "mark_price", {"price": "f8"})


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"LOOK": 0.05, "DUE": 0.05, "QUIET": 1.5, "SETTLE": 0.3, "LATE": 0.5}.items():
        monkeypatch.setattr(silence, f"{name}_SECONDS", seconds)
    monkeypatch.setattr(silence, "MISSED", 2)


class _Withholding:
    """A venue that acknowledges what it does not send."""

    withheld = ""

    def messages(self, after_ms: int, until_ms: int, wants: Callable[[str], bool]) -> list[Message]:
        sent: list[Message] = super().messages(after_ms, until_ms, wants)  # type: ignore[misc]
        return [message for message in sent if not self.withheld or f"@{self.withheld}" not in message.stream]


class Spot(_Withholding, SyntheticMarket):
    pass


class Futures(_Withholding, SyntheticFutures):
    pass


def warned(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    found = [record.__dict__ for record in caplog.records if record.__dict__.get("action") == "stream_silent"]
    return [(record["instrument"], record["stream"]) for record in found]


async def test_trades_that_do_not_come_end_what_is_observed_whatever_the_book_says(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink, market = RecordingSink(), Spot(7, ["BTCUSDT"], 50.0)
    async with (
        emulated(market) as emulator,
        running(feed_of(emulator, sink, ["BTCUSDT"], book=True, candles=())) as feed,
    ):
        await eventually_async(lambda: len(sink.ids("BTCUSDT")) > 20)
        market.withheld = "trade"
        await eventually_async(lambda: feed.statistics().silent == {"BTCUSDT": "trade"})
        last, ticks = sink.records("BTCUSDT", "trade")[-1], len(sink.records("BTCUSDT", "tick"))
        events = sink.records("BTCUSDT", "coverage")
        (gap,) = events[events["state"] == Coverage.GAP]
        assert gap["ts_start"] == last["ts_event"] < gap["ts_end"]
        books = len(sink.records("BTCUSDT", "book"))
        await eventually_async(lambda: len(sink.records("BTCUSDT", "book")) > books + 15)
        assert len(sink.records("BTCUSDT", "tick")) == ticks  # the book's time is none of the trades
        market.withheld = ""
        await eventually_async(lambda: not feed.statistics().silent)
        await eventually_async(lambda: Coverage.BACKFILLED in sink.states("BTCUSDT"))
    ids = sink.ids("BTCUSDT")
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    events = sink.records("BTCUSDT", "coverage")
    filled = events[events["state"] == Coverage.BACKFILLED]
    assert filled["ts_start"].min() <= gap["ts_start"] and filled["ts_end"].max() >= gap["ts_end"]
    assert warned(caplog) == [("BTCUSDT.BINANCE", "trade")]


async def test_an_instrument_that_nobody_deals_in_is_quiet_and_not_silent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink, market = RecordingSink(), Spot(7, ["BTCUSDT"], 0.01)
    async with (
        emulated(market) as emulator,
        running(feed_of(emulator, sink, ["BTCUSDT"], book=True, candles=("1s",))) as feed,
    ):
        await eventually_async(lambda: len(sink.records("BTCUSDT", "tick")) > 3)
        asked = feed.statistics().rest.requests
        await eventually_async(lambda: feed.statistics().rest.requests > asked)  # the venue was asked
        assert feed.statistics().silent == {}
    assert warned(caplog) == []


async def test_bars_that_do_not_come_are_fetched(caplog: pytest.LogCaptureFixture) -> None:
    sink, market = RecordingSink(), Spot(7, ["BTCUSDT"], 50.0)
    market.withheld = "kline"
    async with (
        emulated(market) as emulator,
        running(feed_of(emulator, sink, ["BTCUSDT"], candles=("1s",))) as feed,
    ):
        await eventually_async(lambda: feed.statistics().silent == {"BTCUSDT": "candle 1s"})
        await eventually_async(lambda: len(sink.records("BTCUSDT", "candle")) >= 3)
        assert warned(caplog) == [("BTCUSDT.BINANCE", "candle 1s")]
        market.withheld = ""
        await eventually_async(lambda: feed.statistics().silent == {})
    opened = sink.records("BTCUSDT", "candle")["ts"].tolist()
    assert opened == list(range(opened[0], opened[-1] + 1, 10**9))


async def test_a_series_that_has_a_cadence_is_missed_when_it_stops(caplog: pytest.LogCaptureFixture) -> None:
    """Its connection is made anew, and not that of the trades and the book."""
    sink, market = RecordingSink(), Futures(7, ["BTCUSDT"], 50.0)
    options = {"venue": "BINANCE_FUTURES", "candles": (), "book": True, "series": (MARK_PRICE,)}
    async with (
        emulated(market, "BINANCE_FUTURES") as emulator,
        running(feed_of(emulator, sink, ["BTCUSDT"], **options)) as feed,
    ):
        await eventually_async(lambda: [kind for kind, _ in sink.parts["BTCUSDT"] if kind == "mark_price"])
        assert feed.statistics().silent == {}
        market.withheld = "markPrice"
        await eventually_async(lambda: feed.statistics().silent == {"BTCUSDT": "mark_price"})
        connects = lambda: {each.streams[0]: each.statistics().connects for each in feed._roster.connections}  # noqa: E731
        await eventually_async(lambda: connects()["btcusdt@markPrice@1s"] == 2)
        assert connects()["btcusdt@trade"] == 1
        market.withheld = ""
        await eventually_async(lambda: feed.statistics().silent == {})
    assert warned(caplog) == [("BTCUSDT.BINANCE_FUTURES", "mark_price")]


async def test_the_time_of_another_connection_is_no_proof_of_trades(caplog: pytest.LogCaptureFixture) -> None:
    """Of USD-M the book comes at one address and aggregate trades at another."""
    sink, market = RecordingSink(), Futures(7, ["BTCUSDT"], 1.0)
    market.withheld = "aggTrade"
    options = {"venue": "BINANCE_FUTURES", "trades": "aggTrade", "candles": (), "book": True}
    async with (
        emulated(market, "BINANCE_FUTURES") as emulator,
        running(feed_of(emulator, sink, ["BTCUSDT"], **options)) as feed,
    ):
        await eventually_async(lambda: len(sink.records("BTCUSDT", "book")) > 15)
        await eventually_async(lambda: feed.statistics().silent == {"BTCUSDT": "trade"})
        assert not len(sink.records("BTCUSDT", "tick"))
        # what was dealt while it connected is fetched over REST, and is all that can be observed
        assert bool(sink.states("BTCUSDT")) == bool(sink.ids("BTCUSDT"))


async def test_streams_that_come_are_never_taken_for_silent(caplog: pytest.LogCaptureFixture) -> None:
    sink, series = RecordingSink(), (MARK_PRICE,)
    options = {"venue": "BINANCE_FUTURES", "candles": ("1m",), "book": True, "series": series}
    with caplog.at_level(logging.WARNING):
        async with (
            emulated(Futures(7, ["BTCUSDT", "ETHUSDT"], 2.0), "BINANCE_FUTURES") as emulator,
            running(feed_of(emulator, sink, ["BTCUSDT", "ETHUSDT"], **options)) as feed,
        ):
            marks = lambda: sum(kind == "mark_price" for kind, _ in sink.parts["ETHUSDT"])  # noqa: E731
            await eventually_async(lambda: marks() > 5)
            assert feed.statistics().silent == {}
    assert warned(caplog) == []
