"""A feed with books and the emulator over real sockets: in step, out of step, and in step again."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recording_sink import RecordingSink, emulated, feed_of, running

from marketd.daemon.feeds.adapter import RestRequest
from marketd.daemon.feeds.capture_writer import CaptureWriter
from marketd.daemon.feeds.emulator import CaptureSource, SyntheticMarket
from marketd.daemon.feeds.feed import Feed
from marketd.daemon.feeds.feed_model import BookSettings
from marketd.daemon.feeds.rest import RestClient, RestFailed
from marketd.market.book_deltas import BookReplay
from marketd.market.fixed import format_fixed, parse_fixed
from marketd.market.records import ABSENT, BookState, Coverage, Records
from support import eventually_async

SYMBOLS = ["BTCUSDT", "ETHUSDT"]
IDS_PER_STEP, STEP_NS = 64, 100 * 10**6  # of the synthetic market's books


def live(books: Records) -> Records:
    found: Records = books[books["state"] == BookState.LIVE]
    return found


def expected(symbol: str, sequence: int, depth: int = 20) -> dict[str, Any]:
    """The book that the synthetic market has at a sequence: it is the same at every moment, for a seed."""
    now_ns = sequence // IDS_PER_STEP * STEP_NS
    return SyntheticMarket(7, SYMBOLS, 50.0, clock=lambda: now_ns).book(symbol, depth)


def assert_right(sink: RecordingSink, symbol: str, depth: int = 20) -> None:
    instrument = sink.instruments[symbol]
    for book in live(sink.records(symbol, "book")):
        told = expected(symbol, int(book["sequence"]), depth)
        for side in ("bid", "ask"):
            count = int(book[f"{side}_count"])
            prices = [format_fixed(price, instrument.price_scale) for price in book[f"{side}_price"][:count].tolist()]
            sizes = [format_fixed(size, instrument.size_scale) for size in book[f"{side}_size"][:count].tolist()]
            rows = [(float(price), float(size)) for price, size in zip(prices, sizes, strict=True)]
            assert rows == [(float(price), float(size)) for price, size in told[f"{side}s"]]


def market() -> SyntheticMarket:
    return SyntheticMarket(7, SYMBOLS, 50.0)


async def all_live(feed: Feed, count: int = len(SYMBOLS)) -> None:
    await eventually_async(lambda: feed.statistics().books_live == count)


async def test_books_of_several_symbols_come_into_step_and_are_what_the_venue_has() -> None:
    sink = RecordingSink()
    async with emulated(market()) as emulator, running(feed_of(emulator, sink, SYMBOLS, book=True)) as feed:
        await eventually_async(lambda: all(len(sink.records(s, "imbalance")) >= 2 for s in SYMBOLS), timeout=20.0)
        assert feed.statistics().book_events["joined"] == 2
    for symbol in SYMBOLS:
        assert_right(sink, symbol)
        assert len(live(sink.records(symbol, "book"))) > 5
        assert sink.book_events(symbol)["state"].tolist() == [Coverage.OBSERVED, Coverage.ENDED]
        assert len(sink.records(symbol, "buckets"))


async def test_a_cut_connection_costs_a_gap_and_the_books_come_back_right() -> None:
    sink = RecordingSink()
    async with emulated(market()) as emulator, running(feed_of(emulator, sink, SYMBOLS, book=True)) as feed:
        for _ in range(3):
            await all_live(feed)
            joined = feed.statistics().book_events["joined"]
            assert emulator.drop_connections() == 1
            await eventually_async(lambda joined=joined: feed.statistics().book_events["joined"] >= joined + 2)
        await all_live(feed)
    for symbol in SYMBOLS:
        assert_right(sink, symbol)
        events = sink.book_events(symbol)
        lost = [Coverage.GAP, Coverage.GAP, Coverage.OBSERVED]
        assert events["state"].tolist() == [Coverage.OBSERVED, *3 * lost, Coverage.ENDED]
        gaps = events[events["state"] == Coverage.GAP]
        assert set(gaps["reason"].tolist()) == {b"disconnected"}
        assert (gaps["ts_end"] == ABSENT).tolist() == 3 * [True, False]
        assert gaps["ts_start"][::2].tolist() == gaps["ts_start"][1::2].tolist()
        states = sink.records(symbol, "book")["state"]
        assert BookState.STALE in states
        assert BookState.SYNCING in states


async def test_a_snapshot_that_the_venue_does_not_give_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    sink, get, refused = RecordingSink(), RestClient.get, 0

    async def hesitant(self: RestClient, request: RestRequest, deadline: float, *, spare: float = 0.0) -> bytes:
        nonlocal refused
        if "/depth" in request.target and refused < 2:
            refused += 1
            raise RestFailed("the venue has other worries", status=503)
        return await get(self, request, deadline, spare=spare)

    monkeypatch.setattr(RestClient, "get", hesitant)
    async with (
        emulated(market()) as emulator,
        running(feed_of(emulator, sink, ["BTCUSDT"], book=True)) as feed,
    ):
        await all_live(feed, 1)
        assert feed.statistics().resyncs_failed == 2
    assert_right(sink, "BTCUSDT")


async def test_a_symbol_that_is_added_later_gets_its_book_and_a_removed_one_ends() -> None:
    sink = RecordingSink()
    async with emulated(market()) as emulator, running(feed_of(emulator, sink, ["BTCUSDT"], book=True)) as feed:
        await all_live(feed, 1)
        await feed.reload(SYMBOLS)
        await all_live(feed, 2)
        await feed.reload(["ETHUSDT"])
        await all_live(feed, 1)
        told = len(sink.records("ETHUSDT", "book"))
        await eventually_async(lambda: len(sink.records("ETHUSDT", "book")) > told + 3)
    assert sink.book_events("BTCUSDT")["state"].tolist() == [Coverage.OBSERVED, Coverage.ENDED]
    assert sink.book_events("ETHUSDT")["reason"].tolist() == [b"in step", b"the feed was stopped"]
    assert_right(sink, "ETHUSDT")


async def test_a_changed_tick_of_the_venue_costs_the_book_and_it_comes_back_at_the_new_scale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("marketd.daemon.feeds.roster.REFRESH_SECONDS", 0.1)
    monkeypatch.setattr("marketd.daemon.feeds.feed_books.RETRY_CAP_SECONDS", 0.25)
    sink, source = RecordingSink(), market()
    true_rules = source.rules["ETHUSDT"]
    source.rules["ETHUSDT"] = true_rules._replace(price_places=true_rules.price_places - 1)
    async with emulated(source) as emulator, running(feed_of(emulator, sink, SYMBOLS, book=True)) as feed:
        await all_live(feed, 1)  # the other one is not harmed
        await eventually_async(lambda: feed.statistics().book_events.get("damaged", 0) > 2)
        source.rules["ETHUSDT"] = true_rules
        await eventually_async(lambda: feed.statistics().books_live == 2, timeout=20.0)
        assert feed.statistics().book_events["tick_changed"] == 1
        await eventually_async(lambda: len(live(sink.records("ETHUSDT", "book"))) > 3)
    assert sink.instruments["ETHUSDT"].price_scale == true_rules.price_places
    for symbol in SYMBOLS:
        assert_right(sink, symbol)
    assert sink.book_events("BTCUSDT")["state"].tolist() == [Coverage.OBSERVED, Coverage.ENDED]


async def test_a_capture_of_a_feed_holds_all_that_its_books_need(tmp_path: Path) -> None:
    sink, again = RecordingSink(), RecordingSink()
    async with emulated(market()) as emulator:
        capture = CaptureWriter(tmp_path, "BINANCE")
        async with running(feed_of(emulator, sink, ["BTCUSDT"], book=True, capture=capture)) as feed:
            await all_live(feed, 1)
            await eventually_async(lambda: len(live(sink.records("BTCUSDT", "book"))) > 10)
    source = CaptureSource(sorted(tmp_path.iterdir()))
    async with (
        emulated(source) as emulator,
        running(feed_of(emulator, again, ["BTCUSDT"], book=True)) as feed,
    ):
        await eventually_async(lambda: emulator.progress().ended and feed.statistics().books_live == 1)
    assert_right(again, "BTCUSDT")


async def test_what_a_feed_that_did_not_run_has_missed_of_a_book_is_a_gap() -> None:
    sink = RecordingSink()
    async with emulated(market()) as emulator:
        for _ in range(2):
            async with running(feed_of(emulator, sink, ["BTCUSDT"], book=True)) as feed:
                await all_live(feed, 1)
                await eventually_async(lambda: sink.ids("BTCUSDT"))
    events = sink.book_events("BTCUSDT")
    run = [Coverage.OBSERVED, Coverage.ENDED]
    assert events["state"].tolist() == [*run, Coverage.GAP, *run]
    assert events["ts_start"][2] < events["ts_end"][2] == events["ts_start"][3]


async def test_deltas_rebuild_each_record_of_the_book() -> None:
    sink = RecordingSink()
    books = BookSettings(deltas=True)
    async with emulated(market()) as emulator, running(feed_of(emulator, sink, SYMBOLS, book=True, books=books)):
        await eventually_async(lambda: len(live(sink.records("BTCUSDT", "book"))) > 12)
        parts = list(sink.parts["BTCUSDT"])  # the end of the feed leaves the book
    replay = BookReplay()
    for kind, records in parts:
        if kind == "book_delta":
            replay.apply(records)
    instrument, told = sink.instruments["BTCUSDT"], expected("BTCUSDT", replay.sequence)
    assert replay.is_live
    for side, levels in (("bids", replay.book.bids), ("asks", replay.book.asks)):
        rows = [(parse_fixed(p, instrument.price_scale), parse_fixed(q, instrument.size_scale)) for p, q in told[side]]
        assert levels == dict(rows)


async def test_books_are_left_alone_when_they_are_not_wanted() -> None:
    sink = RecordingSink()
    async with emulated(market()) as emulator, running(feed_of(emulator, sink, SYMBOLS)) as feed:
        await eventually_async(lambda: len(sink.ids("BTCUSDT")) > 10)
        assert feed.statistics().resyncs == 0
    assert not len(sink.records("BTCUSDT", "book"))
    assert not len(sink.records("BTCUSDT", "imbalance"))


# ---- recorded traffic ---------------------------------------------------------------------------------


async def test_a_recording_whose_snapshots_come_late_plays_to_live_books(shared_data: Path) -> None:
    symbols, sink = ["BTCUSDT", "ETHUSDT", "DOTUSDT"], RecordingSink()
    source = CaptureSource([shared_data / "ws_cryptofeed" / "BINANCE-ee25be.0.gz"])
    async with (
        emulated(source) as emulator,
        running(feed_of(emulator, sink, symbols, book=True, trades="aggTrade")) as feed,
    ):
        await eventually_async(lambda: emulator.progress().ended and feed.statistics().books_live == 3, timeout=30.0)
    for symbol in symbols:
        books = live(sink.records(symbol, "book"))
        assert (books["bid_price"][:, 0] < books["ask_price"][:, 0]).all()
        assert (np.diff(books["sequence"]) > 0).all()


@pytest.mark.parametrize(
    ("venue", "symbol", "stem"),
    [
        ("BINANCE_FUTURES", "BTC/USDT:USDT", "usdm_btcusdt_20240718"),
        ("BINANCE_DELIVERY", "ETH/USD:ETH", "cm_ethusd_perp_20240808"),
    ],
)
async def test_recorded_futures_come_through_with_their_books(
    shared_data: Path, venue: str, symbol: str, stem: str
) -> None:
    sink = RecordingSink()
    source = CaptureSource([shared_data / "ws_binance_raw" / f"{stem}.gz"])
    name = next(iter(source.rules))
    async with (
        emulated(source, venue) as emulator,
        running(feed_of(emulator, sink, [symbol], venue=venue, book=True)) as feed,
    ):
        await eventually_async(lambda: emulator.progress().ended and feed.statistics().books_live == 1, timeout=60.0)
        last = source.trades(name, None, 1)[-1]["id"]
        await eventually_async(lambda: sink.ids(name)[-1:] == [last])
    ids = sink.ids(name)
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    assert sink.instruments[name].market == "swap"
    assert sink.instruments[name].name == f"{name}.{venue}"


async def test_fifty_cuts_at_random_moments_lose_no_trade_and_leave_every_book_right() -> None:
    rng, sink = random.Random(4), RecordingSink()
    async with emulated(market()) as emulator, running(feed_of(emulator, sink, SYMBOLS, book=True)) as feed:
        cuts = 0
        while cuts < 50:
            await asyncio.sleep(rng.uniform(0.0, 0.15))
            cuts += emulator.drop_connections()
        await all_live(feed)
        newest = {symbol: sink.ids(symbol)[-1] for symbol in SYMBOLS}
        await eventually_async(lambda: all(sink.ids(symbol)[-1] > newest[symbol] for symbol in SYMBOLS))
        assert feed.statistics().gaps == 0
    for symbol in SYMBOLS:
        ids = sink.ids(symbol)
        assert ids == list(range(ids[0], ids[0] + len(ids)))
        assert_right(sink, symbol)
        events = sink.book_events(symbol)
        assert events["state"][[0, -1]].tolist() == [Coverage.OBSERVED, Coverage.ENDED]
        gaps = events[1:-1][events["ts_end"][1:-1] == ABSENT]
        assert (gaps["state"] == Coverage.GAP).all()
        lost = sink.records(symbol, "book")
        assert (
            len(gaps) + 1
            == int(  # and the end
                (np.diff(lost["state"] == BookState.LIVE) & (lost["state"][1:] != BookState.LIVE)).sum()
            )
        )
