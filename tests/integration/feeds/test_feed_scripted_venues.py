"""A feed with Coinbase's and Kraken's protocols over real sockets: books that come on the stream, trades by REST."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
from recording_sink import QUICK, RecordingSink, running
from scripted_venues import Coinbase, Dialect, Kraken, ScriptedVenue

from marketd.daemon.feeds.feed import Feed, FeedSettings
from marketd.daemon.feeds.venues import VENUES
from marketd.market.book import OrderBook
from marketd.market.book_sync import BookSync
from support import eventually_async

DIALECTS = [
    pytest.param(Coinbase(), ["AAA-USD", "BBB-USD"], id="COINBASE"),
    pytest.param(Kraken(), ["AAA/USD", "BBB/USD"], id="KRAKEN"),
]


@contextlib.asynccontextmanager
async def fed(
    dialect: Dialect, pairs: list[str], *, pace: float = 1000.0
) -> AsyncIterator[tuple[ScriptedVenue, Feed, RecordingSink]]:
    sink = RecordingSink()
    async with ScriptedVenue(dialect, pairs) as venue:
        for pair in pairs:
            await venue.deal(pair)
        async with connected(dialect, venue, sink, pace=pace) as feed:
            yield venue, feed, sink


@contextlib.asynccontextmanager
async def connected(
    dialect: Dialect, venue: ScriptedVenue, sink: RecordingSink, *, pace: float = 1000.0
) -> AsyncIterator[Feed]:
    """`pace`: commands a second."""
    settings = FeedSettings(
        candles=(),
        book=True,
        ws_url=f"ws://{venue.address}/v2",
        rest_url=f"http://{venue.address}",
        weight_per_minute=10_000_000,
        timing=QUICK._replace(commands_per_second=pace),
    )
    async with running(Feed(VENUES[dialect.name], venue.pairs, sink, settings)) as feed:
        await eventually_async(lambda: venue.is_subscribed("book") and venue.is_subscribed("trade"))
        await in_step(venue, feed)
        yield feed


def symbol_of(pair: str) -> str:
    return pair.replace("-", "").replace("/", "")


def sync_of(feed: Feed, pair: str) -> BookSync:
    keeper = feed._books.keeper(symbol_of(pair))
    assert keeper is not None
    return keeper.sync


def is_right(venue: ScriptedVenue, feed: Feed, pair: str) -> bool:
    book: OrderBook = sync_of(feed, pair).book
    return book.bids == venue.books[pair]["bid"] and book.asks == venue.books[pair]["ask"]


async def in_step(venue: ScriptedVenue, feed: Feed) -> None:
    """All books are LIVE and what the venue has."""
    await eventually_async(
        lambda: (
            feed.statistics().books_live == len(venue.pairs)
            and all(is_right(venue, feed, pair) for pair in venue.pairs)
        )
    )


@pytest.mark.parametrize(("dialect", "pairs"), DIALECTS)
async def test_books_follow_the_stream(dialect: Dialect, pairs: list[str]) -> None:
    async with fed(dialect, pairs) as (venue, feed, sink):
        for _ in range(300):
            for pair in pairs:
                await venue.change(pair)
        await in_step(venue, feed)
        assert venue.subscriptions == len(pairs), "nothing had to be asked for anew"
        assert all(len(sink.records(symbol_of(pair), "book")) for pair in pairs)


@pytest.mark.parametrize(("dialect", "pairs"), DIALECTS)
async def test_a_symbol_that_is_added_takes_the_snapshot_that_its_subscription_brings(
    dialect: Dialect, pairs: list[str]
) -> None:
    async with fed(dialect, pairs, pace=20.0) as (venue, feed, _):  # snapshots are there before a command is done
        await feed.reload(pairs[:1])
        assert feed.statistics().books_live == 1
        before = venue.subscriptions
        assert await feed.reload(pairs) == {}
        await in_step(venue, feed)
        assert (venue.subscriptions, feed.statistics().resyncs_failed) == (before + 1, 0)


@pytest.mark.parametrize(("dialect", "pairs"), DIALECTS)
async def test_a_lost_message_costs_a_new_snapshot_and_the_book_comes_back_right(
    dialect: Dialect, pairs: list[str]
) -> None:
    async with fed(dialect, pairs) as (venue, feed, _):
        before = venue.subscriptions
        await venue.change(pairs[0], lose=True, best=True)
        for _ in range(3):
            for pair in pairs:
                await venue.change(pair)
        await eventually_async(lambda: venue.subscriptions > before)
        await in_step(venue, feed)
        for _ in range(50):
            await venue.change(pairs[0])
        await in_step(venue, feed)


@pytest.mark.parametrize(("dialect", "pairs"), DIALECTS)
async def test_trades_that_were_lost_are_fetched(dialect: Dialect, pairs: list[str]) -> None:
    async with fed(dialect, pairs) as (venue, feed, sink):
        for number in range(40):
            for pair in pairs:
                await venue.deal(pair, lose=number % 7 == 3)
        await venue.cut()
        for _ in range(1500):  # more than one page
            await venue.deal(pairs[0])
        await eventually_async(lambda: venue.is_subscribed("trade"))
        for pair in pairs:
            await venue.deal(pair)
        for pair in pairs:
            wanted = [dealt.number for dealt in venue.trades[pair]][1:]
            await eventually_async(lambda pair=pair, wanted=wanted: sink.ids(symbol_of(pair)) == wanted)
            records = sink.records(symbol_of(pair), "trade")
            assert records["side"].tolist() == [1 if d.is_buy else -1 for d in venue.trades[pair][1:]]
            assert records["size"].tolist() == [dealt.size for dealt in venue.trades[pair][1:]]
        await in_step(venue, feed)
        assert feed.statistics().lost == 0


@pytest.mark.parametrize(("dialect", "pairs"), DIALECTS)
async def test_cut_connections_end_with_right_books(dialect: Dialect, pairs: list[str]) -> None:
    async with fed(dialect, pairs) as (venue, feed, _):
        for _ in range(5):
            await venue.cut()
            for _ in range(20):
                await venue.change(pairs[0])
            await eventually_async(lambda: venue.is_subscribed("book"))
            for _ in range(20):
                await venue.change(pairs[1])
        await in_step(venue, feed)


@pytest.mark.parametrize(("dialect", "pairs"), DIALECTS)
async def test_what_was_dealt_while_no_feed_ran_is_fetched(dialect: Dialect, pairs: list[str]) -> None:
    """The new feed knows the last trade's id and nothing of the trades since."""
    sink = RecordingSink()
    async with ScriptedVenue(dialect, pairs) as venue:
        for pair in pairs:
            await venue.deal(pair)
        async with connected(dialect, venue, sink):
            for _ in range(20):
                await venue.deal(pairs[0])
            await eventually_async(lambda: len(sink.ids(symbol_of(pairs[0]))) == 20)
        for _ in range(3500):
            await venue.deal(pairs[0])
        async with connected(dialect, venue, sink) as feed:
            await venue.deal(pairs[0])
            await eventually_async(lambda: sink.ids(symbol_of(pairs[0])) == list(range(2, 3523)))
            assert feed.statistics().lost == 0


async def test_a_trade_that_was_lost_begins_the_books_of_its_connection_anew() -> None:
    """Kraken numbers its trades, and no change of its books: what else was lost nobody can tell."""
    async with fed(Kraken(), ["AAA/USD", "BBB/USD"]) as (venue, feed, sink):
        before = venue.subscriptions
        await venue.deal("AAA/USD")
        await venue.deal("AAA/USD", lose=True)
        await venue.deal("AAA/USD")
        await eventually_async(lambda: venue.subscriptions >= before + 2)
        await in_step(venue, feed)
        assert feed.statistics().book_events["gap"] == 2
        await eventually_async(lambda: len(sink.records("AAAUSD", "trade")) == 3)  # it was fetched
