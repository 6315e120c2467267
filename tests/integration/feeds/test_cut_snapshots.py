"""A venue whose snapshots have a few levels only, and a market that moves: a feed asks for fresh ones in time."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from recording_sink import RecordingSink, emulated, feed_of, running
from test_feed_books import assert_right, live

from marketd.daemon.feeds.adapter import RestRequest
from marketd.daemon.feeds.emulator import SyntheticMarket
from marketd.daemon.feeds.feed_model import BookSettings
from marketd.daemon.feeds.rest import RestClient, RestFailed
from marketd.market.records import BookState, Coverage
from support import eventually_async

CUT = 10  # levels a side of a snapshot; the synthetic market has 20, and moves by some of them in a second
BOOKS = BookSettings(depth=3)


@pytest.fixture(autouse=True)
def cut_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marketd.daemon.feeds.binance_rest.BOOK_LEVELS", CUT)
    monkeypatch.setattr("marketd.daemon.feeds.feed_books.FRESH_FIRST_SECONDS", 0.05)


def market() -> SyntheticMarket:
    return SyntheticMarket(7, ["BTCUSDT", "ETHUSDT"], 50.0)


async def test_a_book_is_refreshed_before_its_best_levels_reach_the_edge_and_stays_live() -> None:
    sink = RecordingSink()
    async with (
        emulated(market()) as emulator,
        running(feed_of(emulator, sink, ["BTCUSDT"], book=True, books=BOOKS)) as feed,
    ):
        await eventually_async(lambda: feed.statistics().book_events.get("refreshed", 0) >= 5, timeout=30.0)
        statistics = feed.statistics()
    assert statistics.refreshes >= 5 and statistics.resyncs_failed == 0
    assert "contradicted" not in statistics.book_events
    assert len(live(sink.records("BTCUSDT", "book"))) > 5
    assert_right(sink, "BTCUSDT", BOOKS.depth)


async def test_a_book_that_gets_no_fresh_snapshot_leaves_live_with_its_reason_and_nothing_else_suffers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sink, get, refused = RecordingSink(), RestClient.get, 0

    async def hesitant(self: RestClient, request: RestRequest, deadline: float, *, spare: float = 0.0) -> bytes:
        nonlocal refused
        asked = parse_qs(urlsplit(request.target).query)
        is_second = "BTCUSDT" in asked.get("symbol", []) and sink.book_events("BTCUSDT").size
        if "/depth" in request.target and is_second and not (refused and has_left()):
            refused += 1
            raise RestFailed("the venue has other worries", status=503)
        return await get(self, request, deadline, spare=spare)

    def has_left() -> bool:
        is_live = sink.records("BTCUSDT", "book")["state"] == BookState.LIVE
        return bool(is_live.any()) and not is_live[is_live.argmax() :].all()

    monkeypatch.setattr(RestClient, "get", hesitant)
    async with (
        emulated(market()) as emulator,
        running(feed_of(emulator, sink, ["BTCUSDT", "ETHUSDT"], book=True, books=BOOKS)) as feed,
    ):
        await eventually_async(has_left, timeout=30.0)
        await eventually_async(lambda: refused and sink.book_events("BTCUSDT").size > 1, timeout=30.0)
        assert feed.statistics().gaps == 0
    states, reasons = sink.book_events("BTCUSDT")["state"].tolist(), sink.book_events("BTCUSDT")["reason"].tolist()
    assert states[:2] == [Coverage.OBSERVED, Coverage.GAP] and reasons[1] == b"beyond_edge"
    for symbol in ("BTCUSDT", "ETHUSDT"):
        assert_right(sink, symbol, BOOKS.depth)
        ids = sink.ids(symbol)
        assert ids == list(range(ids[0], ids[0] + len(ids)))
