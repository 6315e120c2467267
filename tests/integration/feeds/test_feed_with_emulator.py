"""Feed and emulator over real sockets: every trade once, in order, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from recording_sink import IMPATIENT, RecordingSink, emulated, feed_of, running

from marketd.daemon.feeds.adapter import Rejected
from marketd.daemon.feeds.capture_writer import CaptureWriter
from marketd.daemon.feeds.captures import CaptureReader
from marketd.daemon.feeds.connection import Timing
from marketd.daemon.feeds.emulator import CaptureSource, Emulator, SyntheticFutures, SyntheticMarket
from marketd.daemon.feeds.emulator.source import Crowd, Message, Send
from marketd.daemon.feeds.recorded_venue import recorded_venue
from marketd.daemon.feeds.survey import survey
from marketd.market.records import BY_NAME, Coverage, Ended, Source
from support import eventually_async

FIRST_ID, LAST_ID = 3735683259, 3735703162
SYMBOL = "BTCUSDT"


def spot_files(shared_data: Path) -> list[Path]:
    folder = shared_data / "ws_binance_raw"
    return [folder / "spot_btcusdt_20240808.gz", folder / "spot_btcusdt_20240809.gz"]


async def has_all(sink: RecordingSink, last_id: int = LAST_ID) -> bool:
    await eventually_async(lambda: sink.ids(SYMBOL)[-1:] == [last_id], timeout=60.0)
    return True


async def test_a_capture_comes_through_whole_and_in_order_across_midnight(shared_data: Path) -> None:
    source, sink = CaptureSource(spot_files(shared_data)), RecordingSink()
    async with emulated(source) as emulator, running(feed_of(emulator, sink, ["BTC/USDT"])) as feed:
        await has_all(sink)
        assert emulator.progress().ended or source.now_ms()
    trades = sink.records(SYMBOL, "trade")
    assert trades["trade_id"].tolist() == list(range(FIRST_ID, LAST_ID + 1))
    # STATS.json: 212.03315000 and 225.88237000
    assert int(trades["size"].sum()) == (21203315000 + 22588237000) // 10 ** (8 - 6)
    assert sink.states(SYMBOL)[0] == Coverage.OBSERVED
    assert Coverage.GAP not in sink.states(SYMBOL)
    assert feed.statistics().trades == LAST_ID - FIRST_ID + 1
    assert sink.instruments[SYMBOL].price_scale == 2
    assert sink.instruments[SYMBOL].quote == "USDT"


async def test_the_emulated_and_the_recorded_instruments_have_the_same_scales(shared_data: Path) -> None:
    files, sink = [shared_data / "ws_cryptofeed" / "BINANCE-ee25be.0.gz"], RecordingSink()
    async with (
        emulated(CaptureSource(files, speed="1")) as emulator,
        running(feed_of(emulator, sink, ["BTCUSDT", "ETHUSDT", "DOTUSDT"], trades="aggTrade")),
    ):
        await eventually_async(lambda: len(sink.instruments) == 3)
    for instrument in survey(files).instruments:
        declared = sink.instruments[instrument.symbol]
        assert (declared.price_scale, declared.size_scale, declared.quote_scale) == (
            instrument.price_scale,
            instrument.size_scale,
            instrument.quote_scale,
        )


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_nothing_is_lost_when_the_connection_is_cut_at_random_moments(shared_data: Path, seed: int) -> None:
    rng, sink = random.Random(seed), RecordingSink()
    source = CaptureSource(spot_files(shared_data)[:1])
    cuts = 0
    async with emulated(source) as emulator, running(feed_of(emulator, sink, [SYMBOL])) as feed:
        while not emulator.progress().ended:
            await asyncio.sleep(rng.uniform(0.0, 0.05))
            cuts += emulator.drop_connections()
        await has_all(sink, 3735693015)
        statistics = feed.statistics()
    assert cuts > 1
    assert sink.ids(SYMBOL) == list(range(FIRST_ID, 3735693016))
    assert statistics.gaps == 0
    if statistics.filled:
        assert Coverage.BACKFILLED in sink.states(SYMBOL)
        assert not sink.records(SYMBOL, "trade")["flags"].any()  # a refetched trade is the same row as a live one


async def test_a_connection_that_breaks_before_the_first_trade_was_read_loses_nothing(shared_data: Path) -> None:
    sink = RecordingSink()
    source = CaptureSource(spot_files(shared_data)[:1])
    async with emulated(source) as emulator, running(feed_of(emulator, sink, [SYMBOL])):
        await eventually_async(emulator.drop_connections)
        await has_all(sink, 3735693015)
    assert sink.ids(SYMBOL) == list(range(FIRST_ID, 3735693016))


async def test_a_feed_that_is_started_again_goes_on_from_what_the_sink_has(shared_data: Path) -> None:
    sink = RecordingSink()
    async with emulated(CaptureSource(spot_files(shared_data)[:1])) as emulator:
        async with running(feed_of(emulator, sink, [SYMBOL])):
            await eventually_async(lambda: len(sink.ids(SYMBOL)) > 100)
        async with running(feed_of(emulator, sink, [SYMBOL])):
            await has_all(sink, 3735693015)
    assert sink.ids(SYMBOL) == list(range(FIRST_ID, 3735693016))


async def test_only_the_closed_klines_of_the_venue_come_and_missed_ones_are_fetched(shared_data: Path) -> None:
    file = shared_data / "ws_cryptofeed" / "BINANCE-ee25be.0.gz"
    symbols, sink = ["BTCUSDT", "ETHUSDT", "DOTUSDT"], RecordingSink()
    async with (
        emulated(CaptureSource([file])) as emulator,
        running(feed_of(emulator, sink, symbols, trades="aggTrade")) as feed,
    ):
        await eventually_async(lambda: emulator.progress().ended and feed.statistics().candles == 3)
        await eventually_async(lambda: feed.statistics().trades == 1910)
        ignored = feed.statistics().ignored
    assert ignored["open kline"] == 115
    for symbol in symbols:
        bars = sink.records(symbol, "candle")
        assert bars["source"].tolist() == [Source.VENUE]
        assert bars["ts"].tolist() == [1617566580 * 10**9]
        ids = sink.ids(symbol)
        assert ids == list(range(ids[0], ids[0] + len(ids)))


async def test_a_kline_that_closed_while_nothing_was_connected_is_fetched(shared_data: Path) -> None:
    file = shared_data / "ws_cryptofeed" / "BINANCE-ee25be.0.gz"
    sink = RecordingSink()
    async with emulated(CaptureSource([file])) as emulator:
        async with running(feed_of(emulator, sink, ["BTCUSDT"], trades="aggTrade")):
            await eventually_async(lambda: emulator.progress().ended and len(sink.records("BTCUSDT", "candle")) == 1)
        bar = sink.records("BTCUSDT", "candle")
        # as if the sink had had only the bar before
        sink.parts["BTCUSDT"] = [(kind, records) for kind, records in sink.parts["BTCUSDT"] if kind != "candle"]
        before = bar.copy()
        before["ts"] -= 60 * 10**9
        sink.parts["BTCUSDT"].append(("candle", before))
        async with running(feed_of(emulator, sink, ["BTCUSDT"], trades="aggTrade")):
            await eventually_async(lambda: len(sink.records("BTCUSDT", "candle")) == 2)
    fetched = sink.records("BTCUSDT", "candle")[1:]
    assert fetched.tolist() == bar.tolist()


class _WithoutClosedKlines(CaptureSource):
    """A recording of which a connection was always just lost when a kline ended."""

    async def play(self, crowd: Crowd, send: Send) -> None:
        async def rest(message: Message) -> None:
            if b'"x":true' not in message.frame:
                await send(message)

        await super().play(crowd, rest)


async def test_a_new_symbols_first_kline_is_fetched_though_none_was_ever_heard_to_close(shared_data: Path) -> None:
    source, sink = _WithoutClosedKlines([shared_data / "ws_cryptofeed" / "BINANCE-ee25be.0.gz"]), RecordingSink()
    async with emulated(source) as emulator, running(feed_of(emulator, sink, ["BTCUSDT"], trades="aggTrade")) as feed:
        await eventually_async(lambda: emulator.progress().ended)
        assert feed.statistics().candles == 0
        await eventually_async(emulator.drop_connections)
        await eventually_async(lambda: len(sink.records("BTCUSDT", "candle")) > 0)
    assert sink.records("BTCUSDT", "candle")["ts"].tolist()[-1] == 1617566580 * 10**9


async def test_a_synthetic_market_comes_through_for_several_symbols_while_connections_are_cut() -> None:
    symbols, sink = ["BTCUSDT", "ETHUSDT", "SOLUSDT"], RecordingSink()
    source = SyntheticMarket(7, symbols, {"BTCUSDT": 200.0, "ETHUSDT": 50.0, "SOLUSDT": 2.0})
    async with emulated(source) as emulator, running(feed_of(emulator, sink, symbols, candles=("1s", "1m"))) as feed:
        for wanted in (50, 250, 450):
            await eventually_async(lambda wanted=wanted: len(sink.ids("BTCUSDT")) >= wanted)
            emulator.drop_connections()
        await eventually_async(lambda: len(sink.records("BTCUSDT", "candle")) >= 3 and sink.ids("SOLUSDT"))
        assert feed.statistics().gaps == 0
    for symbol in symbols:
        ids = sink.ids(symbol)
        assert ids == list(range(ids[0], ids[0] + len(ids)))
        said = {row["id"]: row for row in source.trades(symbol, ids[0], 1000)}
        for trade in sink.records(symbol, "trade")[:1000]:
            row = said[trade["trade_id"]]
            assert trade["ts_event"] == row["time"] * 10**6
            assert trade["side"] == (-1 if row["isBuyerMaker"] else 1)
    bars = sink.records("BTCUSDT", "candle")
    seconds = bars["ts"][bars["timeframe"] == 1]
    assert (np.diff(seconds) == 10**9).all()


async def test_a_quiet_symbol_gets_ticks_with_the_venues_time() -> None:
    sink = RecordingSink()
    source = SyntheticMarket(7, ["BTCUSDT", "ETHUSDT"], {"BTCUSDT": 50.0, "ETHUSDT": 1 / 60})
    async with emulated(source) as emulator, running(feed_of(emulator, sink, ["BTCUSDT", "ETHUSDT"])):
        await eventually_async(lambda: len(sink.records("ETHUSDT", "tick")) >= 2)
    ticks = sink.records("ETHUSDT", "tick")["ts_event"]
    assert (np.diff(ticks) >= 10**9).all()
    assert not len(sink.records("BTCUSDT", "tick"))
    assert abs(int(ticks[-1]) - source.now_ms() * 10**6) < 10 * 10**9


async def test_symbols_come_and_go_without_a_gap_for_the_others() -> None:
    sink = RecordingSink()
    source = SyntheticMarket(7, ["BTCUSDT", "ETHUSDT", "SOLUSDT"], 100.0)
    async with emulated(source) as emulator, running(feed_of(emulator, sink, ["BTCUSDT", "ETHUSDT"])) as feed:
        await eventually_async(lambda: sink.ids("BTCUSDT") and sink.ids("ETHUSDT"))
        assert await feed.reload(["BTCUSDT", "SOL/USDT"]) == {}
        await eventually_async(lambda: sink.ids("SOLUSDT"))
        left = len(sink.ids("ETHUSDT"))
        assert list(await feed.reload(["BTCUSDT", "NOSUCHUSDT"])) == ["NOSUCHUSDT"]
        assert feed.statistics().symbols == 2 and not feed.statistics().unknown_symbols  # nothing has changed
        more = len(sink.ids("BTCUSDT")) + 50
        await eventually_async(lambda: len(sink.ids("BTCUSDT")) >= more)
        assert len(sink.ids("ETHUSDT")) == left
        assert sink.states("ETHUSDT")[0] == Coverage.OBSERVED and sink.states("ETHUSDT")[-1] == Coverage.ENDED
        await feed.reload(["BTCUSDT", "SOLUSDT", "ETHUSDT"])
        await eventually_async(lambda: len(sink.ids("ETHUSDT")) > left)
        assert feed.statistics().connections[0].connects == 1
    for symbol in ("BTCUSDT", "SOLUSDT", "ETHUSDT"):
        ids = sink.ids(symbol)
        assert ids == list(range(ids[0], ids[0] + len(ids)))


async def test_a_feed_that_is_stopped_tells_the_ledger_until_when_it_heard_each_stream() -> None:
    sink, source = RecordingSink(), SyntheticMarket(7, ["BTCUSDT"], 100.0)
    async with emulated(source) as emulator, running(feed_of(emulator, sink, ["BTCUSDT"], candles=("1s",))):
        await eventually_async(lambda: sink.ids("BTCUSDT") and len(sink.records("BTCUSDT", "candle")))
    events = sink.records("BTCUSDT", "coverage")
    ended = events[events["state"] == Coverage.ENDED]
    assert ended["stream"].tolist() == [BY_NAME["trade"].id, BY_NAME["candle"].id]
    newest = max(sink.records("BTCUSDT", kind)["ts_event"].max(initial=0) for kind in ("trade", "tick"))
    assert ended["ts_start"].tolist() == [newest, newest] and ended["detail"].tolist() == 2 * [Ended.BARS_GO_ON]
    began = events[(events["state"] == Coverage.OBSERVED) & (events["stream"] == BY_NAME["candle"].id)]
    assert began["ts_start"].tolist() == [sink.records("BTCUSDT", "candle")["ts"][0]]


async def test_trades_that_were_only_backfilled_before_are_observed_from_the_first_that_follows_them() -> None:
    sink, source = RecordingSink(), SyntheticMarket(7, ["BTCUSDT"], 100.0)
    async with emulated(source) as emulator:
        async with running(feed_of(emulator, sink, ["BTCUSDT"])):
            await eventually_async(lambda: len(sink.ids("BTCUSDT")) > 5)
        sink.parts["BTCUSDT"] = [part for part in sink.parts["BTCUSDT"] if part[0] == "trade"]
        last = sink.records("BTCUSDT", "trade")["ts_event"].max()
        known = len(sink.ids("BTCUSDT"))
        async with running(feed_of(emulator, sink, ["BTCUSDT"])):
            await eventually_async(lambda: len(sink.ids("BTCUSDT")) > known + 5)
    events = sink.records("BTCUSDT", "coverage")
    (began,) = events[(events["state"] == Coverage.OBSERVED) & (events["stream"] == BY_NAME["trade"].id)]
    assert began["ts_start"] >= last


async def test_a_symbol_that_the_venue_does_not_have_is_told_and_costs_the_others_nothing() -> None:
    sink, source = RecordingSink(), SyntheticMarket(7, ["BTCUSDT", "ETHUSDT"], 100.0)
    async with emulated(source) as emulator, running(feed_of(emulator, sink, ["BTCUSDT", "NOSUCHUSDT"])) as feed:
        await eventually_async(lambda: sink.ids("BTCUSDT"))
        assert list(feed.statistics().unknown_symbols) == ["NOSUCHUSDT"]
        # it was so before, and is no reason to refuse what else is wanted
        assert await feed.reload(["BTCUSDT", "NOSUCHUSDT", "ETHUSDT"]) == {}
        await eventually_async(lambda: sink.ids("ETHUSDT"))
        assert list(feed.statistics().unknown_symbols) == ["NOSUCHUSDT"]
        assert await feed.reload(["BTCUSDT", "ETHUSDT"]) == {}
        assert not feed.statistics().unknown_symbols


async def test_a_rolled_connection_loses_nothing_and_sends_nothing_twice() -> None:
    sink = RecordingSink()
    source = SyntheticMarket(7, ["BTCUSDT"], 300.0)
    timing = Timing(roll_after_seconds=0.3, backoff_first_seconds=0.01, backoff_cap_seconds=0.05)
    async with emulated(source) as emulator, running(feed_of(emulator, sink, ["BTCUSDT"], timing=timing)) as feed:
        await eventually_async(lambda: [c for c in feed.statistics().connections if c.rolls >= 2], timeout=30.0)
        statistics = feed.statistics()
    assert statistics.connections[0].failures == 0
    assert statistics.duplicates > 0  # both connections delivered for a moment
    ids = sink.ids("BTCUSDT")
    assert ids == list(range(ids[0], ids[0] + len(ids)))


async def test_a_hole_that_cannot_be_filled_in_time_is_reported_and_filled_behind_the_live_trades(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("marketd.daemon.feeds.repair.RETRY_CAP_SECONDS", 0.2)
    monkeypatch.setattr("marketd.daemon.feeds.repair.LATE_RETRY_CAP_SECONDS", 0.2)
    sink, source = RecordingSink(), _Unanswering(7, ["BTCUSDT"], 100.0)
    slow = {"repair": IMPATIENT, "timing": Timing(backoff_first_seconds=0.4, backoff_cap_seconds=0.4)}
    async with emulated(source) as emulator, running(feed_of(emulator, sink, ["BTCUSDT"], **slow)) as feed:
        await eventually_async(lambda: len(sink.ids("BTCUSDT")) > 20)
        source.silent = True
        before = sink.ids("BTCUSDT")[-1]
        emulator.drop_connections()
        await eventually_async(lambda: Coverage.GAP in sink.states("BTCUSDT"))
        await eventually_async(lambda: sink.ids("BTCUSDT")[-1] > before + 20)
        assert feed.statistics().lost > 0
        source.silent = False
        await eventually_async(lambda: b"behind the live records" in sink.records("BTCUSDT", "coverage")["reason"])
    ids = sink.ids("BTCUSDT")
    assert ids != sorted(ids)  # what was late came behind
    assert sorted(ids) == list(range(min(ids), max(ids) + 1))
    coverage = sink.records("BTCUSDT", "coverage")
    gap = coverage[coverage["state"] == Coverage.GAP][0]
    filled = coverage[coverage["state"] == Coverage.BACKFILLED][-1]
    assert gap["detail"] == filled["detail"]
    assert (gap["ts_start"], gap["ts_end"]) == (filled["ts_start"], filled["ts_end"])


class _Unanswering(SyntheticMarket):
    """A venue whose REST interface fails while its stream goes on."""

    silent = False

    def trades(self, symbol: str, first_id: int | None, limit: int) -> list[dict[str, Any]]:
        if self.silent:
            raise RuntimeError("the venue's REST interface is down")
        return super().trades(symbol, first_id, limit)


async def test_what_the_venue_does_not_have_is_a_gap_and_the_feed_goes_on() -> None:
    sink, source = RecordingSink(), _Forgetful(7, ["BTCUSDT"], 100.0)
    async with emulated(source) as emulator:
        async with running(feed_of(emulator, sink, ["BTCUSDT"])):
            await eventually_async(lambda: len(sink.ids("BTCUSDT")) > 20)
        before = sink.ids("BTCUSDT")[-1]
        await eventually_async(lambda: SyntheticMarket.trades(source, "BTCUSDT", None, 1)[0]["id"] > before + 20)
        source.forgets = range(before + 1, before + 11)
        async with running(feed_of(emulator, sink, ["BTCUSDT"])):
            await eventually_async(lambda: sink.ids("BTCUSDT")[-1] > before + 30)
    ids = sink.ids("BTCUSDT")
    coverage = sink.records("BTCUSDT", "coverage")
    gaps = coverage[coverage["state"] == Coverage.GAP]
    assert gaps["detail"].tolist() == [10]
    assert ids == [i for i in range(ids[0], ids[-1] + 1) if not before < i <= before + 10]


async def test_what_was_filled_is_not_reported_over_a_gap_that_stays() -> None:
    sink, source = RecordingSink(), _Forgetful(7, ["BTCUSDT"], 400.0)
    async with emulated(source) as emulator:
        async with running(feed_of(emulator, sink, ["BTCUSDT"])):
            await eventually_async(lambda: len(sink.ids("BTCUSDT")) > 20)
        before = sink.ids("BTCUSDT")[-1]
        await eventually_async(lambda: SyntheticMarket.trades(source, "BTCUSDT", None, 1)[0]["id"] > before + 1500)
        source.forgets = range(before + 1201, before + 1211)  # on the second page
        async with running(feed_of(emulator, sink, ["BTCUSDT"])):
            await eventually_async(lambda: sink.ids("BTCUSDT")[-1] > before + 1600)
    coverage = sink.records("BTCUSDT", "coverage")
    (gap,) = coverage[coverage["state"] == Coverage.GAP]
    assert gap["detail"] == 10
    for filled in coverage[coverage["state"] == Coverage.BACKFILLED]:
        assert filled["ts_end"] <= gap["ts_start"] or filled["ts_start"] >= gap["ts_end"]
    assert set(range(before, before + 1600)) - set(sink.ids("BTCUSDT")) == set(source.forgets)


class _Forgetful(SyntheticMarket):
    """A venue that has lost some of its trades."""

    forgets = range(0)

    def trades(self, symbol: str, first_id: int | None, limit: int) -> list[dict[str, Any]]:
        return [row for row in super().trades(symbol, first_id, limit) if row["id"] not in self.forgets]


async def test_a_finer_grid_of_the_venue_is_noticed_by_what_it_breaks_and_taken_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("marketd.daemon.feeds.roster.REFRESH_SECONDS", 0.1)
    sink, source, rejected = RecordingSink(), SyntheticMarket(7, ["ETHUSDT"], 100.0), []

    async def keep(one: Rejected) -> None:
        rejected.append(one)

    true_rules = source.rules["ETHUSDT"]
    source.rules["ETHUSDT"] = true_rules._replace(price_places=true_rules.price_places - 1)
    async with emulated(source) as emulator, running(feed_of(emulator, sink, ["ETHUSDT"], on_rejected=keep)):
        await eventually_async(lambda: len(rejected) > 5)
        source.rules["ETHUSDT"] = true_rules
        await eventually_async(lambda: sink.instruments["ETHUSDT"].price_scale == true_rules.price_places)
        before = len(sink.ids("ETHUSDT"))
        await eventually_async(lambda: len(sink.ids("ETHUSDT")) > before + 50)
    assert {one.rule for one in rejected} == {"precision"}
    said = {row["id"]: row["price"] for row in source.trades("ETHUSDT", sink.ids("ETHUSDT")[-1] - 40, 1000)}
    for trade in sink.records("ETHUSDT", "trade")[-30:]:
        assert float(said[trade["trade_id"]]) == trade["price"] / 10**true_rules.price_places


@pytest.mark.parametrize(
    ("venue", "kind", "trades", "addresses"),
    [
        ("BINANCE", SyntheticMarket, "trade", {"/stream"}),
        ("BINANCE_FUTURES", SyntheticFutures, "aggTrade", {"/public/stream", "/market/stream"}),
    ],
)
async def test_a_raw_capture_of_a_feed_can_be_served_again(
    tmp_path: Path, venue: str, kind: type[SyntheticMarket], trades: str, addresses: set[str]
) -> None:
    sink, again, options = RecordingSink(), RecordingSink(), {"venue": venue, "trades": trades, "book": True}
    async with emulated(kind(7, ["BTCUSDT"], 100.0), venue) as emulator:
        capture = CaptureWriter(tmp_path, venue)
        async with running(feed_of(emulator, sink, ["BTCUSDT"], capture=capture, **options)):
            await eventually_async(lambda: len(sink.ids("BTCUSDT")) > 100)
    (path,) = tmp_path.iterdir()
    lines = list(CaptureReader(path))
    assert {line.kind for line in lines} == {"ws", "connect", "rest"}
    assert {urlsplit(line.url).path for line in lines if line.kind == "connect"} == addresses
    assert recorded_venue([path], None) == venue
    async with (
        emulated(CaptureSource([path], venue), venue) as emulator,
        running(feed_of(emulator, again, ["BTCUSDT"], **options)),
    ):
        await eventually_async(lambda: again.ids("BTCUSDT")[-1:] == sink.ids("BTCUSDT")[-1:])
    first, second = sink.records("BTCUSDT", "trade"), again.records("BTCUSDT", "trade")
    begin = max(first["trade_id"][0], second["trade_id"][0])  # around the first message one had more over REST
    first, second = first[first["trade_id"] >= begin], second[second["trade_id"] >= begin]
    assert len(first) > 90
    for field in ("trade_id", "ts_event", "price", "size", "side"):
        assert first[field].tolist() == second[field].tolist()


async def test_an_error_of_the_sink_ends_the_feed() -> None:
    class Broken(RecordingSink):
        async def send(self, *arguments: Any, **options: Any) -> None:
            raise ConnectionResetError("the sink is gone")

    async with emulated(SyntheticMarket(7, ["BTCUSDT"], 100.0)) as emulator:
        with pytest.raises(ConnectionResetError, match="the sink is gone"):
            await feed_of(emulator, Broken(), ["BTCUSDT"]).run()


async def test_a_feed_waits_for_a_venue_that_does_not_answer_and_stops_when_told() -> None:
    emulator = Emulator(SyntheticMarket(7, ["BTCUSDT"]))
    await emulator.start()
    feed = feed_of(emulator, RecordingSink(), ["BTCUSDT"])
    await emulator.stop()
    async with running(feed):
        await eventually_async(lambda: feed.statistics().rest.failures >= 1)
    assert feed.statistics().symbols == 0
