"""The feed with the protocols of OKX, Bybit and Bitstamp over real sockets: in step, cut, and with messages missing."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
from recording_sink import QUICK, RecordingSink, running
from small_venues import SmallBitstamp, SmallBybit, SmallOkx, SmallVenue

from marketd.daemon.feeds.feed import Feed, FeedSettings
from marketd.daemon.feeds.venues import VENUES
from marketd.market.fixed import format_fixed
from marketd.market.records import BookState, Coverage
from marketd.market.trade_ids import hashed_id
from support import eventually_async

KINDS = (SmallOkx, SmallBybit, SmallBitstamp)


@contextlib.asynccontextmanager
async def followed(market: SmallVenue, sink: RecordingSink) -> AsyncIterator[Feed]:
    async with market.open() as address:
        settings = FeedSettings(
            ws_url=f"ws://{address}",
            rest_url=f"http://{address}",
            timing=QUICK._replace(commands_per_second=1000.0),
            weight_per_minute=1_000_000,
            book=True,
        )
        async with running(Feed(VENUES[market.venue], [market.symbol], sink, settings)) as feed:
            yield feed


async def in_step(feed: Feed, sink: RecordingSink, market: SmallVenue) -> None:
    """Books are LIVE, and trades and books go on."""
    trades, books = len(sink.records(market.symbol, "trade")), len(sink.records(market.symbol, "book"))
    await eventually_async(
        lambda: (
            feed.statistics().books_live == 1
            and len(sink.records(market.symbol, "trade")) > trades + 5
            and len(sink.records(market.symbol, "book")) > books + 2
        ),
        timeout=20.0,
    )


def assert_books_are_the_venues(sink: RecordingSink, market: SmallVenue) -> None:
    instrument, compared = sink.instruments[market.symbol], 0
    for book in sink.records(market.symbol, "book"):
        if book["state"] != BookState.LIVE:
            continue
        for side, known in zip(("bid", "ask"), market.truth[int(book["sequence"])], strict=True):
            count = int(book[f"{side}_count"])
            prices = [format_fixed(price, instrument.price_scale) for price in book[f"{side}_price"][:count].tolist()]
            sizes = [format_fixed(size, instrument.size_scale) for size in book[f"{side}_size"][:count].tolist()]
            assert {float(p): float(s) for p, s in zip(prices, sizes, strict=True)} == {
                float(price): float(size) for price, size in known.items()
            }
            compared += 1
    assert compared


def steps_of(sink: RecordingSink, market: SmallVenue) -> list[int]:
    """The steps of the trades that were handed on."""
    ids = sink.ids(market.symbol)
    if isinstance(market, SmallBybit):
        steps = {hashed_id(market.uuid(step)): step for step in range(market.steps + 1)}
        return [steps[number] for number in ids]
    # over REST Bitstamp tells whole seconds: what was fetched stands where its second begins
    return sorted(number // 7 for number in ids) if isinstance(market, SmallBitstamp) else ids


def assert_trades_are_whole(sink: RecordingSink, market: SmallVenue) -> None:
    steps = steps_of(sink, market)
    assert steps == list(range(steps[0], steps[0] + len(steps)))


@pytest.mark.parametrize("kind", KINDS)
async def test_trades_and_book_of_a_venue_come_into_step(kind: type[SmallVenue]) -> None:
    market, sink = kind(), RecordingSink()
    async with followed(market, sink) as feed:
        await in_step(feed, sink, market)
        statistics = feed.statistics()
    assert_books_are_the_venues(sink, market)
    assert_trades_are_whole(sink, market)
    assert statistics.rejected == {}
    assert statistics.venue_errors == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cut_connection_costs_no_trade_and_the_book_comes_back(kind: type[SmallVenue]) -> None:
    market, sink = kind(), RecordingSink()
    async with followed(market, sink) as feed:
        for _ in range(3):
            await in_step(feed, sink, market)
            assert await market.cut() >= 1
        await in_step(feed, sink, market)
    assert_books_are_the_venues(sink, market)
    assert_trades_are_whole(sink, market)
    assert sink.book_events(market.symbol)["state"].tolist()[:2] == [Coverage.OBSERVED, Coverage.GAP]


@pytest.mark.parametrize("kind", [SmallOkx, SmallBybit])
async def test_a_lost_message_of_the_book_begins_it_anew(kind: type[SmallVenue]) -> None:
    market, sink = kind(), RecordingSink()
    async with followed(market, sink) as feed:
        await in_step(feed, sink, market)
        market.lose = 1
        await eventually_async(lambda: feed.statistics().book_events.get("gap", 0) == 1)
        await in_step(feed, sink, market)
        assert feed.statistics().connections[0].connects == 1  # the subscription began anew, not the connection
    assert_books_are_the_venues(sink, market)
    assert_trades_are_whole(sink, market)


async def test_each_address_of_okx_has_its_streams_and_is_cut_by_itself() -> None:
    market, sink = SmallOkx(), RecordingSink()
    async with followed(market, sink) as feed:
        await in_step(feed, sink, market)
        has = {market.paths[socket].rpartition("/")[2]: streams for socket, streams in market.sockets.items()}
        assert has == {"business": {"trades-all", "candle1m"}, "public": {"books"}}
        assert await market.cut("public") == 1
        await eventually_async(lambda: feed.statistics().book_events.get("disconnected"))
        await in_step(feed, sink, market)
        joined = feed.statistics().book_events["joined"]
        assert await market.cut("business") == 1
        await eventually_async(lambda: sum(each.connects for each in feed.statistics().connections) == 4)
        await in_step(feed, sink, market)
        assert feed.statistics().book_events["joined"] == joined  # the book's connection stood
        assert len(feed.statistics().connections) == 2
        await feed.reload([])
        await eventually_async(lambda: not market.sockets)
        assert feed.statistics().connections == []
    assert_trades_are_whole(sink, market)
    assert_books_are_the_venues(sink, market)
