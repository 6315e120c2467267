"""Books that are asked for until they are in step: by subscribing anew, or over REST."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from marketd.daemon.feeds import feed_books
from marketd.daemon.feeds.adapter import BookDelta, BookRule, BookSnapshot, Fit, Levels
from marketd.daemon.feeds.feed_books import FeedBooks
from marketd.daemon.feeds.feed_model import BookSettings
from marketd.daemon.feeds.symbol_state import Part, SymbolState
from marketd.daemon.feeds.tasks import Tasks
from marketd.ipc.protocol import Resume
from marketd.market.instruments import Instrument
from marketd.market.records import TRADE, BookState, Coverage
from support import eventually_async

NOW = 1_723_161_600 * 10**9
BTC = Instrument(id=1, symbol="BTCUSD", venue="KRAKEN", price_scale=1, size_scale=8, quote_scale=8)
GOOD, BAD = 7, 8  # checksums


def follows(sequence: int, delta: BookDelta) -> Fit:
    return Fit.NEXT if delta.last == sequence + 1 else Fit.GAP


RULE = BookRule("stream", splice=follows, follows=follows, checksum=lambda book, instrument: GOOD, audited=True)


def by_time(sequence: int, delta: BookDelta) -> Fit:
    return Fit.OLD if delta.last < sequence else Fit.NEXT


FETCHED = BookRule("rest", splice=by_time, follows=by_time, needs_older=True)


def snapshot(sequence: int, checksum: int = GOOD) -> BookSnapshot:
    return BookSnapshot("BTCUSD", sequence, NOW, Levels([99], [5]), Levels([101], [5]), checksum)


class Connection:
    """Keeps what is subscribed anew."""

    def __init__(self) -> None:
        self.is_up = True
        self.has_asked = asyncio.Event()
        self.has_asked.set()
        self.asked: list[list[str]] = []

    async def resubscribe(self, streams: list[str]) -> None:
        self.asked.append(streams)


class Rest:
    """Answers with the snapshots that a test puts here."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[BookSnapshot] = asyncio.Queue()

    async def get(self, request: Any, deadline: float, *, spare: float) -> BookSnapshot:
        return await self.answers.get()


class Room:
    """What surrounds the books of one symbol."""

    def __init__(self, tasks: Tasks, rule: BookRule) -> None:
        self.connection = Connection()
        self.state = SymbolState(BTC, Resume(), ())
        self.state.is_heard = True
        self.parts: list[Part] = []
        self.rest = Rest()
        adapter: Any = SimpleNamespace(
            book_rule=rule,
            venue="KRAKEN",
            book_streams=lambda symbol: [f"book {symbol}"],
            snapshot_request=lambda symbol: symbol,
            decode_snapshot=lambda symbol, body: body,
        )
        rest: Any = self.rest
        connection_of: Callable[[str], Any] = lambda symbol: self.connection  # noqa: E731
        self.books = FeedBooks(
            adapter, rest, BookSettings(), tasks, wanted=True, order=asyncio.Lock(), connection_of=connection_of
        )
        self.books.hand_over = self._keep
        self.books.add(self.state)

    async def _keep(self, state: SymbolState, parts: list[Part]) -> None:
        self.parts += parts

    def take(self, event: BookSnapshot | BookDelta) -> None:
        self.parts += self.books.take(self.state, event)

    def deny(self) -> None:
        """Trades go on above the best ask."""
        for second in range(40):
            trade = np.zeros(1, dtype=TRADE)
            trade["ts_event"], trade["price"] = NOW + second * 10**9, 102
            self.parts += self.books.witness(self.state, [trade])

    async def audited(self) -> None:
        """Time goes on until the book is asked for once more."""
        await self.idle()
        self.books.time(self.state, NOW)
        self.books.time(self.state, NOW + feed_books.ANEW_NS - 1)
        assert not self.connection.asked
        self.books.time(self.state, NOW + feed_books.ANEW_NS)
        await eventually_async(lambda: bool(self.connection.asked))

    async def idle(self) -> None:
        """Until no book is asked for."""
        await eventually_async(lambda: not any(kept.is_asking for kept in self.books._kept.values()))

    def book_is(self, state: BookState) -> bool:
        keeper = self.books.keeper("BTCUSD")
        return keeper is not None and keeper.sync.state is state


@asynccontextmanager
async def room(
    monkeypatch: pytest.MonkeyPatch, *, patience: float = 10.0, rule: BookRule = RULE
) -> AsyncIterator[Room]:
    monkeypatch.setattr(feed_books, "RETRY_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(feed_books, "RETRY_CAP_SECONDS", 0.02)
    monkeypatch.setattr(feed_books, "STREAM_SECONDS", patience)
    async with Tasks() as tasks:
        made = Room(tasks, rule)
        yield made
        tasks.cancel()


async def test_the_first_snapshot_of_a_connection_comes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async with room(monkeypatch) as made:
        await made.books.up([made.state])
        await eventually_async(lambda: made.books.resyncs == 1)
        made.take(snapshot(5))
        assert made.book_is(BookState.LIVE)
    assert made.connection.asked == []


async def test_a_gap_subscribes_the_book_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    async with room(monkeypatch) as made:
        await made.books.up([made.state])
        await eventually_async(lambda: made.books.resyncs == 1)
        made.take(snapshot(5))
        made.take(BookDelta("BTCUSD", 9, 9, None, NOW, Levels([], []), Levels([], []), GOOD))
        await eventually_async(lambda: made.connection.asked == [["book BTCUSD"]])
        made.take(snapshot(9))
        assert made.book_is(BookState.LIVE)


async def test_a_snapshot_that_does_not_hold_is_asked_for_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with room(monkeypatch) as made:
        await made.books.up([made.state])
        await eventually_async(lambda: made.books.resyncs == 1)
        for count in (1, 2, 3):
            made.take(snapshot(5, BAD))
            await eventually_async(lambda count=count: len(made.connection.asked) == count)
        made.take(snapshot(6))
        assert made.book_is(BookState.LIVE)
        assert made.books.events["checksum_failed"] == 3


async def test_a_snapshot_that_never_comes_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with room(monkeypatch, patience=0.02) as made:
        await made.books.up([made.state])
        await eventually_async(lambda: len(made.connection.asked) >= 2)
        assert made.books.failed >= 2
        made.take(snapshot(5))
        await eventually_async(lambda: made.book_is(BookState.LIVE))


async def test_nothing_is_asked_of_a_connection_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with room(monkeypatch) as made:
        await made.books.up([made.state])
        await eventually_async(lambda: made.books.resyncs == 1)
        made.connection.is_up = False
        await made.books.down([made.state])
        assert made.book_is(BookState.STALE)
        made.connection.is_up = True
        await made.books.up([made.state])
        await eventually_async(lambda: made.books.resyncs == 2)
        made.take(snapshot(5))
        assert made.book_is(BookState.LIVE)
    assert made.connection.asked == []


async def test_a_book_that_nothing_numbers_is_told_anew_now_and_then_and_stays_live(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with room(monkeypatch) as made:
        await made.books.up([made.state])
        await eventually_async(lambda: made.books.resyncs == 1)
        made.take(snapshot(5))
        await made.audited()
        assert made.connection.asked == [["book BTCUSD"]]
        made.take(snapshot(9))
        made.books.time(made.state, NOW + feed_books.ANEW_NS + 1)
        assert made.book_is(BookState.LIVE)
    assert made.books.resyncs == 1
    assert not [records for kind, records in made.parts if kind == "coverage" and records["state"][0] == Coverage.GAP]


async def test_a_book_that_is_not_told_anew_is_not_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_books, "ANEW_SECONDS", 0.01)
    async with room(monkeypatch) as made:
        await made.books.up([made.state])
        await eventually_async(lambda: made.books.resyncs == 1)
        made.take(snapshot(5))
        await made.audited()
        await eventually_async(lambda: made.book_is(BookState.SYNCING))
        await eventually_async(lambda: len(made.connection.asked) == 2)
        made.take(snapshot(9))
        assert made.book_is(BookState.LIVE)


async def test_a_book_that_is_lost_while_others_are_told_anew_does_not_wait_for_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with room(monkeypatch) as made:
        other = SymbolState(structs.replace(BTC, symbol="ETHUSD"), Resume(), ())
        states = [other, made.state]
        made.books.add(other)
        await made.books.up(states)
        await eventually_async(lambda: made.books.resyncs == 2)
        for state in states:
            made.parts += made.books.take(state, structs.replace(snapshot(5), symbol=state.symbol))
        await made.idle()
        for ts_ns in (NOW, NOW + feed_books.ANEW_NS):
            for state in states:
                made.books.time(state, ts_ns)
        await eventually_async(lambda: made.connection.asked == [["book ETHUSD"]])  # and its snapshot does not come
        made.parts += made.books.hole(made.state)
        await eventually_async(lambda: made.connection.asked[1:] == [["book BTCUSD"]])
        made.take(snapshot(9))
        made.parts += made.books.take(other, structs.replace(snapshot(9), symbol="ETHUSD"))
        await made.idle()
        assert made.books.live == 2
        assert len(made.connection.asked) == 2


async def test_trades_that_deny_a_book_subscribe_it_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    async with room(monkeypatch) as made:
        await made.books.up([made.state])
        await eventually_async(lambda: made.books.resyncs == 1)
        made.take(snapshot(5))
        made.deny()
        assert made.book_is(BookState.SYNCING)
        await eventually_async(lambda: len(made.connection.asked) == 1)
    assert b"denied" in [records["reason"][0] for kind, records in made.parts if kind == "coverage"]


async def test_what_came_before_a_denied_book_was_subscribed_anew_proves_no_snapshot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between the two subscriptions changes are lost, and nothing numbers them."""
    async with room(monkeypatch, rule=FETCHED) as made:

        def take(number: int) -> None:
            made.take(BookDelta("BTCUSD", number, number, None, NOW, Levels([98], [number]), Levels([], []), None))

        await made.books.up([made.state])
        take(1)
        made.rest.answers.put_nowait(snapshot(2))
        await eventually_async(lambda: made.book_is(BookState.LIVE))
        made.deny()
        take(100)
        made.rest.answers.put_nowait(snapshot(200))
        await eventually_async(lambda: made.books.events.get("unproven") == 1)
        assert made.connection.asked == [["book BTCUSD"]]
        take(300)  # what came between 200 and the new subscription is unknown
        assert made.book_is(BookState.SYNCING)
        made.rest.answers.put_nowait(snapshot(400))
        await eventually_async(lambda: made.book_is(BookState.LIVE))
        assert made.connection.asked == [["book BTCUSD"]]
