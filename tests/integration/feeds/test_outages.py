"""A venue that is away, over real sockets: VENUE_DOWN while it lasts, with its end later, and BACKFILLED over it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from recording_sink import QUICK, RecordingSink, running
from scripted_venues import Coinbase, Dialect, Kraken, ScriptedVenue

from marketd.daemon.feeds import outages
from marketd.daemon.feeds.feed import Feed, FeedSettings
from marketd.daemon.feeds.venues import VENUES
from marketd.market.records import BY_NAME, Coverage, Records
from marketd.market.timeline import Seen, timeline
from marketd.market.times import ABSENT
from support import eventually_async

DIALECTS = [
    pytest.param(Coinbase(), ["AAA-USD", "BBB-USD"], id="COINBASE"),
    pytest.param(Kraken(), ["AAA/USD", "BBB/USD"], id="KRAKEN"),
]
BUSY, QUIET = "AAAUSD", "BBBUSD"
TRADE, BOOK = BY_NAME["trade"].id, BY_NAME["book"].id


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "AWAY_SECONDS", 0.3)
    monkeypatch.setattr("marketd.daemon.feeds.recalled.AWAY_SECONDS", 0.0)


def feed_of(venue: ScriptedVenue, dialect: Dialect, sink: RecordingSink) -> Feed:
    settings = FeedSettings(
        candles=(),
        book=True,
        ws_url=f"ws://{venue.address}/v2",
        rest_url=f"http://{venue.address}",
        weight_per_minute=10_000_000,
        timing=QUICK._replace(commands_per_second=1000.0),
    )
    return Feed(VENUES[dialect.name], venue.pairs, sink, settings)


@contextlib.asynccontextmanager
async def fed(venue: ScriptedVenue, dialect: Dialect, sink: RecordingSink) -> AsyncIterator[Feed]:
    """Both symbols are observed, trades and book."""
    for pair in venue.pairs:
        await venue.deal(pair)
    async with running(feed_of(venue, dialect, sink)) as feed:
        await eventually_async(lambda: venue.is_subscribed("trade") and venue.is_subscribed("book"))
        for pair in venue.pairs:
            await venue.deal(pair)
        for symbol in (BUSY, QUIET):
            for stream in (TRADE, BOOK):
                await eventually_async(lambda s=symbol, k=stream: now_of(sink, s, k) is Seen.OBSERVED)
        yield feed


def ledger(sink: RecordingSink, symbol: str, stream: int) -> Records:
    events = sink.records(symbol, "coverage")
    events["seq"] = range(len(events))
    found: Records = events[events["stream"] == stream]
    return found


def now_of(sink: RecordingSink, symbol: str, stream: int) -> Seen:
    """What the ledger says of a stream from now on."""
    far = 2**62
    return timeline(ledger(sink, symbol, stream), stream, far, far + 1)[0].state


def is_down(sink: RecordingSink) -> bool:
    return all(now_of(sink, s, k) is Seen.VENUE_DOWN for s in (BUSY, QUIET) for k in (TRADE, BOOK))


def is_whole(sink: RecordingSink, symbol: str, start_ns: int, end_ns: int) -> bool:
    """Are its trades all there, some of them fetched?"""
    line = timeline(ledger(sink, symbol, TRADE), TRADE, start_ns, end_ns)
    return {each.state for each in line} == {Seen.BACKFILLED, Seen.OBSERVED}


def is_observed(sink: RecordingSink) -> bool:
    return all(now_of(sink, s, k) is Seen.OBSERVED for s in (BUSY, QUIET) for k in (TRADE, BOOK))


@pytest.mark.parametrize(("dialect", "pairs"), DIALECTS)
async def test_a_venue_that_is_away_is_told_while_it_lasts_and_with_its_end(dialect: Dialect, pairs: list[str]) -> None:
    sink = RecordingSink()
    async with ScriptedVenue(dialect, pairs) as venue, fed(venue, dialect, sink) as feed:
        await venue.go_away()
        away_ns = venue.now_ns
        await eventually_async(lambda: is_down(sink))
        (told,) = [event for event in ledger(sink, BUSY, TRADE) if event["state"] == Coverage.VENUE_DOWN]
        assert (told["ts_end"], told["reason"]) == (ABSENT, b"HTTP 503 maintenance")
        (words,) = feed.statistics().away
        assert words.startswith(f"{dialect.name}/1 for ") and words.endswith("HTTP 503 maintenance")
        for _ in range(5):
            await venue.deal(pairs[0])
        venue.is_away = False
        await eventually_async(lambda: venue.is_subscribed("trade") and venue.is_subscribed("book"))
        for pair in pairs:
            await venue.deal(pair)
            await venue.change(pair)
        await eventually_async(lambda: is_observed(sink) and sink.ids(BUSY) == list(range(2, 9)))
        await eventually_async(lambda: feed.statistics().away == [])
        end_ns = venue.now_ns
        # of trades nothing is missing, though of one symbol nothing was dealt; the book of that time is gone
        for symbol in (BUSY, QUIET):
            await eventually_async(lambda s=symbol: is_whole(sink, s, away_ns, end_ns))
            down = [e for e in ledger(sink, symbol, TRADE) if e["state"] == Coverage.VENUE_DOWN]
            assert [e["ts_end"] == ABSENT for e in down] == [True, False]
            states = {each.state for each in timeline(ledger(sink, symbol, BOOK), BOOK, away_ns, end_ns)}
            assert Seen.VENUE_DOWN in states and states <= {Seen.VENUE_DOWN, Seen.GAP, Seen.OBSERVED}


@pytest.mark.parametrize(("dialect", "pairs"), DIALECTS)
async def test_a_short_loss_is_no_absence_of_the_venue(dialect: Dialect, pairs: list[str]) -> None:
    sink = RecordingSink()
    async with ScriptedVenue(dialect, pairs) as venue, fed(venue, dialect, sink):
        await venue.cut()
        await eventually_async(lambda: venue.is_subscribed("trade"))
        await venue.deal(pairs[0])
        await eventually_async(lambda: sink.ids(BUSY) == [2, 3])
        await asyncio.sleep(0.5)
        assert Coverage.VENUE_DOWN not in sink.records(BUSY, "coverage")["state"]


@pytest.mark.parametrize(("dialect", "pairs"), DIALECTS[1:])
async def test_an_end_of_the_feed_ends_what_is_known_of_the_venue(dialect: Dialect, pairs: list[str]) -> None:
    sink = RecordingSink()
    async with ScriptedVenue(dialect, pairs) as venue:
        async with fed(venue, dialect, sink):
            await venue.go_away()
            await eventually_async(lambda: is_down(sink))
        for stream in (TRADE, BOOK):
            *_, down, ended = ledger(sink, BUSY, stream)
            assert (down["state"], ended["state"]) == (Coverage.VENUE_DOWN, Coverage.ENDED)
            assert down["ts_start"] < down["ts_end"] == ended["ts_start"]


@pytest.mark.parametrize(("dialect", "pairs"), DIALECTS[1:])
async def test_a_feed_that_begins_while_its_venue_is_away_tells_of_what_is_known(
    dialect: Dialect, pairs: list[str]
) -> None:
    sink = RecordingSink()
    async with ScriptedVenue(dialect, pairs) as venue:
        async with fed(venue, dialect, sink):
            pass
        assert now_of(sink, BUSY, TRADE) is Seen.UNOBSERVED
        venue.is_away = True
        async with running(feed_of(venue, dialect, sink)) as feed:
            await eventually_async(lambda: is_down(sink))
            assert "503" in feed.statistics().away[0]
        assert now_of(sink, BUSY, TRADE) is now_of(sink, QUIET, BOOK) is Seen.UNOBSERVED
