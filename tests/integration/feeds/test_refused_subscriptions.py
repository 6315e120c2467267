"""A venue that refuses a subscription, over real sockets: the symbol is not OBSERVED, and the others go on."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
from recording_sink import QUICK, RecordingSink, running
from scripted_venues import Coinbase, Dialect, Kraken, ScriptedVenue

from marketd.daemon.feeds import subscriptions
from marketd.daemon.feeds.feed import Feed, FeedSettings
from marketd.daemon.feeds.venues import VENUES
from marketd.market.records import BY_NAME, Coverage, Records
from support import eventually_async

DIALECTS = [
    pytest.param(Coinbase(), ["AAA-USD", "BBB-USD"], id="COINBASE"),
    pytest.param(Kraken(), ["AAA/USD", "BBB/USD"], id="KRAKEN"),
]
GOOD, BAD = "AAAUSD", "BBBUSD"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "RETRY_FIRST_SECONDS", 0.05)
    monkeypatch.setattr(subscriptions, "RETRY_CAP_SECONDS", 0.1)


@contextlib.asynccontextmanager
async def fed(venue: ScriptedVenue, dialect: Dialect, sink: RecordingSink, *, book: bool) -> AsyncIterator[Feed]:
    settings = FeedSettings(
        candles=(),
        book=book,
        ws_url=f"ws://{venue.address}/v2",
        rest_url=f"http://{venue.address}",
        weight_per_minute=10_000_000,
        timing=QUICK._replace(commands_per_second=1000.0),
    )
    for pair in venue.pairs:
        await venue.deal(pair)
    async with running(Feed(VENUES[dialect.name], venue.pairs, sink, settings)) as feed:
        yield feed


def ledger(sink: RecordingSink, symbol: str, kind: str = "trade") -> Records:
    events = sink.records(symbol, "coverage")
    found: Records = events[events["stream"] == BY_NAME[kind].id]
    return found


def is_in_ledger(sink: RecordingSink, symbol: str, state: Coverage, kind: str = "trade") -> bool:
    return state in ledger(sink, symbol, kind)["state"].tolist()


@pytest.mark.parametrize(("dialect", "pairs"), DIALECTS)
async def test_a_refused_symbol_is_venue_down_and_the_others_go_on(dialect: Dialect, pairs: list[str]) -> None:
    sink = RecordingSink()
    async with ScriptedVenue(dialect, pairs) as venue:
        venue.refused.add(("trade", pairs[1]))
        async with fed(venue, dialect, sink, book=False) as feed:
            await eventually_async(lambda: venue.is_subscribed("trade"))
            await venue.deal(pairs[0])
            await eventually_async(lambda: is_in_ledger(sink, GOOD, Coverage.OBSERVED))
            await venue.deal(pairs[0])
            await eventually_async(lambda: sink.ids(GOOD) == [2, 3])
            await eventually_async(lambda: (ledger(sink, BAD)["ts_end"] > ledger(sink, BAD)["ts_start"]).any())
            assert set(ledger(sink, BAD)["state"]) == {Coverage.VENUE_DOWN}
            assert set(ledger(sink, BAD)["reason"]) == {f"{pairs[1]} is not for sale".encode()}
            assert feed.statistics().refused == {BAD: f"{pairs[1]} is not for sale"}
            assert not len(sink.records(BAD, "tick")), "nobody knows that nothing was traded"


@pytest.mark.parametrize(("dialect", "pairs"), DIALECTS)
async def test_a_symbol_is_observed_once_the_venue_has_taken_it_after_all(dialect: Dialect, pairs: list[str]) -> None:
    sink = RecordingSink()
    async with ScriptedVenue(dialect, pairs) as venue:
        venue.refused.add(("trade", pairs[1]))
        async with fed(venue, dialect, sink, book=False) as feed:
            await eventually_async(lambda: feed.statistics().refused != {})
            await venue.deal(pairs[1])
            await venue.deal(pairs[0])
            await eventually_async(lambda: is_in_ledger(sink, BAD, Coverage.VENUE_DOWN))
            venue.refused.clear()
            await eventually_async(lambda: venue.is_subscribed("trade") and feed.statistics().refused == {})
            await venue.deal(pairs[1])
            await eventually_async(lambda: is_in_ledger(sink, BAD, Coverage.OBSERVED))
            await eventually_async(lambda: sink.ids(BAD) == [2, 3])


@pytest.mark.parametrize(("dialect", "pairs"), DIALECTS)
async def test_what_a_symbol_missed_while_it_was_refused_is_fetched(dialect: Dialect, pairs: list[str]) -> None:
    sink = RecordingSink()
    async with ScriptedVenue(dialect, pairs) as venue, fed(venue, dialect, sink, book=False) as feed:
        await eventually_async(lambda: venue.is_subscribed("trade"))
        await venue.deal(pairs[1])
        await eventually_async(lambda: sink.ids(BAD) == [2])
        venue.refused.add(("trade", pairs[1]))
        await venue.cut()
        await eventually_async(lambda: feed.statistics().refused != {})
        for _ in range(3):
            await venue.deal(pairs[1])
            await venue.deal(pairs[0])
        await eventually_async(lambda: is_in_ledger(sink, BAD, Coverage.VENUE_DOWN))
        assert sink.ids(BAD) == [2], "what is refused is not followed by questions either"
        venue.refused.clear()
        await eventually_async(lambda: feed.statistics().refused == {})
        await venue.deal(pairs[1])
        await eventually_async(lambda: sink.ids(BAD) == [2, 3, 4, 5, 6])
        states = ledger(sink, BAD)["state"].tolist()
        assert states[-1] == Coverage.BACKFILLED and states.count(Coverage.OBSERVED) == 1


@pytest.mark.parametrize(("dialect", "pairs"), DIALECTS)
async def test_a_refused_book_is_told_and_costs_no_trades(dialect: Dialect, pairs: list[str]) -> None:
    sink = RecordingSink()
    async with ScriptedVenue(dialect, pairs) as venue:
        venue.refused.add(("book", pairs[1]))
        async with fed(venue, dialect, sink, book=True) as feed:
            await eventually_async(lambda: venue.is_subscribed("trade") and venue.is_subscribed("book"))
            for pair in pairs:
                await venue.deal(pair)
            await eventually_async(lambda: sink.ids(BAD) == [2] == sink.ids(GOOD))
            await eventually_async(lambda: is_in_ledger(sink, BAD, Coverage.VENUE_DOWN, "book"))
            assert feed.statistics().books_live == 1
            venue.refused.clear()
            await eventually_async(lambda: feed.statistics().books_live == 2 and feed.statistics().refused == {})
