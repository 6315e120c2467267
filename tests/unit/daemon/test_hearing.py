"""OBSERVED ends at the last moment that was heard, whatever became of the feed, and begins again where it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import pytest

from book_records import books
from lane import BTC, CANDLES, MS, SECOND, START, observed, trades
from marketd.daemon import hearing
from marketd.daemon.clock import LiveClock
from marketd.daemon.config import convert
from marketd.daemon.feeds.followed import followed_symbols
from marketd.daemon.ingest import Ingest
from marketd.daemon.kernel import COVERAGE_KIND, TICK_KIND, TRADE_KIND, coverage_record, tick_record
from marketd.ipc import protocol
from marketd.market.records import BY_NAME, CandleFlag, Coverage, Ended, Kind, Records
from marketd.market.timeline import Seen, timeline
from marketd.market.times import ABSENT
from small_daemon import SmallDaemon

BOOK = BY_NAME["book"]
TRADES, BARS = TRADE_KIND.id, CANDLES.id
FEED, NEXT_FEED = b"f" * 16, b"n" * 16


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Hearer:
    """An ingest without its process, that a feed talks to and that looks around every half second."""

    def __init__(self, daemon: SmallDaemon, clock: Clock) -> None:
        self.daemon, self.clock, self._batch = daemon, clock, 0
        self.begin()

    def begin(self) -> None:
        self.ingest = Ingest(
            registry=self.daemon.registry,
            kernel=self.daemon.kernel,
            journal=self.daemon.journal,
            publisher=self.daemon.publisher,
            clock=LiveClock(self.daemon.kernel.ts_known),
            socket=mock.Mock(),
            live_only=True,
        )

    def restart(self) -> None:
        self.daemon.restart()
        self.begin()

    def send(self, *parts: tuple[Kind, Records], feed: bytes = FEED, live: bool = True) -> None:
        self._batch += 1
        request = protocol.Ingest(
            id=1,
            instrument=BTC.id,
            producer=feed,
            batch=self._batch,
            parts=[protocol.Part(kind.name, len(records)) for kind, records in parts],
            source="feed:BINANCE",
            live=live,
        )
        self.ingest.handle(b"peer", [protocol.encode(request), *(records.tobytes() for _, records in parts)])

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds * 2)):
            self.clock.now += 0.5
            self.ingest.hearing.look()

    def ledger(self) -> list[tuple[int, int, float]]:
        """(state, stream, s after START) of each event."""
        events = self.daemon.ring("coverage")
        moments = (events["ts_start"] - START) / SECOND
        return list(zip(events["state"].tolist(), events["stream"].tolist(), moments.tolist(), strict=True))

    def line(self, end_ms: int) -> list[tuple[Seen, float, float]]:
        found = timeline(self.daemon.ring("coverage"), TRADES, START, START + end_ms * MS)
        return [(each.state, (each.start - START) / SECOND, (each.end - START) / SECOND) for each in found]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(hearing, "time", clock)
    return clock


@pytest.fixture
def hearer(tmp_path: Path, runtime_dir: Path, clock: Clock) -> Iterator[Hearer]:
    daemon = SmallDaemon(tmp_path / "state", runtime_dir)
    daemon.declare(BTC)
    hearer = Hearer(daemon, clock)
    hearer.send((COVERAGE_KIND, observed(0)), (TRADE_KIND, trades([(0, 1, 100, 1)])))
    yield hearer
    hearer.ingest.close()
    daemon.stop()


def tick(ms: int) -> tuple[Kind, Records]:
    return TICK_KIND, tick_record(START + ms * MS)


def test_what_is_heard_every_second_stays_observed(hearer: Hearer) -> None:
    for second in range(1, 20):
        hearer.wait(1.0)
        hearer.send(tick(second * 1000))
    assert hearer.ledger() == [(Coverage.OBSERVED, TRADES, 0.0)]


def test_observed_ends_with_the_last_that_was_heard_and_only_once(hearer: Hearer) -> None:
    hearer.send(tick(2500))
    hearer.wait(60.0)
    assert hearer.ledger()[1:] == [(Coverage.ENDED, TRADES, 2.5)]
    assert hearer.line(9000) == [(Seen.OBSERVED, 0.0, 2.5), (Seen.UNOBSERVED, 2.5, 9.0)]


def test_books_tell_nothing_of_trades(hearer: Hearer) -> None:
    for n in range(20):
        hearer.wait(1.0)
        hearer.send((BOOK, books([n + 1], ts=START + n * SECOND)))
    assert (Coverage.ENDED, TRADES, 0.0) in hearer.ledger()


def test_trades_that_are_silent_end_alone_and_once_while_the_book_comes_on(hearer: Hearer) -> None:
    """Not again and again with each book: the feed lives, and what it sends of other streams is heard by itself."""
    hearer.send((COVERAGE_KIND, coverage_record(Coverage.OBSERVED, START, START, stream=BOOK.id)))
    for n in range(40):
        alive(hearer)
        hearer.wait(1.0)
        hearer.send((BOOK, books([n + 1], ts=START + n * SECOND)))
    assert [event for event in hearer.ledger() if event[0] == Coverage.ENDED] == [(Coverage.ENDED, TRADES, 0.0)]
    assert len(hearer.ledger()) == 3
    hearer.wait(20.0)  # the feed is gone, too
    assert [stream for state, stream, _ in hearer.ledger() if state == Coverage.ENDED] == [TRADES, BOOK.id]


def test_each_stream_ends_and_the_forming_bars_go_on(hearer: Hearer) -> None:
    for stream in (BARS, BOOK.id):
        start = coverage_record(Coverage.OBSERVED, START, START, stream=stream)
        hearer.send((COVERAGE_KIND, start), (BOOK, books([1], ts=START + SECOND)))
    hearer.wait(10.0)
    ended = hearer.daemon.ring("coverage")[-3:]
    assert ended["stream"].tolist() == [TRADES, BARS, BOOK.id]
    assert ((ended["ts_start"] - START) // SECOND).tolist() == [0, 0, 1]
    assert set(ended["detail"].tolist()) == {Ended.BARS_GO_ON}
    assert len(hearer.daemon.ring("candle.1m.own")) == 0  # none was closed as it stood


def closed_minutes(hearer: Hearer) -> list[tuple[int, int]]:
    """(trades, flags) of the newest version of each."""
    bars = hearer.daemon.ring("candle.1m.own")
    return list(zip(bars["trade_count"].tolist(), bars["flags"].tolist(), strict=True))


@pytest.mark.parametrize("is_told", [False, True])
def test_a_venue_that_is_left_out_gets_the_last_version_of_its_forming_bars(hearer: Hearer, is_told: bool) -> None:
    hearer.send((TRADE_KIND, trades([(500, 2, 100, 1)])))
    if is_told:  # the feed was drained, and said so
        hearer.send(
            (
                COVERAGE_KIND,
                coverage_record(Coverage.ENDED, START + SECOND, START + SECOND, stream=TRADES, detail=Ended.BARS_GO_ON),
            )
        )
    hearer.ingest.hearing.followed = {"KRAKEN": {"BTCUSDT"}}
    hearer.wait(4.0)
    assert closed_minutes(hearer) == []
    hearer.wait(2.0)
    assert closed_minutes(hearer) == [(2, CandleFlag.PARTIAL)]
    (ended,) = hearer.daemon.ring("coverage")[-1:]
    assert (ended["state"], ended["stream"], ended["detail"]) == (Coverage.ENDED, TRADES, Ended.BARS_CLOSED)
    told = len(hearer.ledger())
    hearer.wait(10.0)
    hearer.restart()
    hearer.ingest.hearing.followed = {"KRAKEN": {"BTCUSDT"}}
    hearer.wait(10.0)
    assert len(hearer.ledger()) == told, "once, whatever is started anew"


def test_a_venue_that_was_left_out_while_the_daemon_was_down_gets_its_last_bars_at_the_next_start(
    hearer: Hearer,
) -> None:
    hearer.restart()
    hearer.ingest.hearing.followed = {}
    hearer.wait(6.0)
    assert closed_minutes(hearer) == [(1, CandleFlag.PARTIAL)]


def test_a_symbol_that_was_left_out_while_the_daemon_was_down_gets_its_last_bars_too(hearer: Hearer) -> None:
    hearer.restart()
    hearer.ingest.hearing.followed = {"BINANCE": {"ETHUSDT"}}
    hearer.wait(6.0)
    assert closed_minutes(hearer) == [(1, CandleFlag.PARTIAL)]
    (ended,) = hearer.daemon.ring("coverage")[-1:]
    assert ended["reason"] == b"it is not followed any more"


def test_a_symbol_that_is_followed_keeps_its_forming_bar_while_nothing_is_heard(hearer: Hearer) -> None:
    hearer.restart()
    hearer.ingest.hearing.followed = {"BINANCE": {"BTCUSDT"}}
    hearer.wait(6.0)
    assert closed_minutes(hearer) == []


def test_the_symbols_that_are_followed_are_named_as_instruments_are() -> None:
    venues: dict[str, Any] = {"OKX": {"symbols": ["BTC/USDT:USDT"]}, "KRAKEN": {"symbols": ["XBT/USD"]}}
    venues["BYBIT"] = {"symbols": ["BTC/USDT"], "enabled": False}
    assert followed_symbols(convert({"venues": venues})) == {"OKX": {"BTCUSDTSWAP"}, "KRAKEN": {"BTCUSD"}}


def test_a_venue_that_comes_back_goes_on_with_its_bars(hearer: Hearer) -> None:
    hearer.ingest.hearing.followed = {}
    hearer.wait(6.0)
    hearer.ingest.hearing.followed = {"BINANCE": {"BTCUSDT"}}
    hearer.send((TRADE_KIND, trades([(8000, 2, 100, 1)])))
    hearer.send((TRADE_KIND, trades([(61_000, 3, 100, 1)])))
    assert closed_minutes(hearer) == [(2, CandleFlag.REVISED)]
    assert hearer.line(9000) == [(Seen.OBSERVED, 0.0, 9.0)]


def test_who_was_not_heard_for_a_while_goes_on_where_he_ended(hearer: Hearer) -> None:
    hearer.wait(10.0)
    hearer.send((TRADE_KIND, trades([(8000, 2, 100, 1), (9000, 3, 100, 1)])))
    hearer.wait(1.0)
    hearer.send((TRADE_KIND, trades([(61_000, 4, 100, 1)])))
    assert hearer.line(9000) == [(Seen.OBSERVED, 0.0, 9.0)]
    minute = hearer.daemon.ring("candle.1m.own")
    assert minute["flags"].tolist() == [0]  # neither partial nor revised: nothing was missed


def test_what_a_feed_missed_and_fetched_lies_over_what_is_observed_again(hearer: Hearer) -> None:
    hearer.wait(10.0)
    fetched = coverage_record(Coverage.BACKFILLED, START, START + 4 * SECOND, stream=TRADES, detail=1)
    gap = coverage_record(Coverage.GAP, START + 4 * SECOND, START + 6 * SECOND, stream=TRADES, detail=1)
    rest = trades([(6000, 4, 100, 1)])
    hearer.send((COVERAGE_KIND, np.concatenate([fetched, gap])), (TRADE_KIND, rest), feed=NEXT_FEED)
    assert hearer.line(9000) == [(Seen.BACKFILLED, 0.0, 4.0), (Seen.GAP, 4.0, 6.0), (Seen.OBSERVED, 6.0, 9.0)]


def test_what_a_backfill_brought_meanwhile_makes_nothing_before_it_observed(hearer: Hearer) -> None:
    hearer.wait(10.0)
    fetched = coverage_record(Coverage.BACKFILLED, START + 5 * SECOND, START + 7 * SECOND, stream=TRADES, detail=1)
    hearer.send((COVERAGE_KIND, fetched), (TRADE_KIND, trades([(6000, 9, 100, 1)])), live=False)
    assert hearer.ledger()[-1][0] == Coverage.BACKFILLED  # nobody listens for that
    hearer.send((TRADE_KIND, trades([(8000, 10, 100, 1)])))  # a feed asks for what follows the newest trade
    fetched_and_on = [(Seen.BACKFILLED, 5.0, 6.0), (Seen.OBSERVED, 6.0, 9.0)]
    assert hearer.line(9000) == [(Seen.UNOBSERVED, 0.0, 5.0), *fetched_and_on]


def test_a_feed_that_begins_a_book_anew_says_itself_since_when(hearer: Hearer) -> None:
    start = coverage_record(Coverage.OBSERVED, START, START, stream=BOOK.id)
    hearer.send((COVERAGE_KIND, start), (BOOK, books([1], ts=START)))
    hearer.wait(10.0)
    again = coverage_record(Coverage.OBSERVED, START + 8 * SECOND, START + 8 * SECOND, stream=BOOK.id)
    hearer.send((COVERAGE_KIND, again), (BOOK, books([2], ts=START + 8 * SECOND)), feed=NEXT_FEED)
    assert [event for event in hearer.ledger() if event[1] == BOOK.id] == [
        (Coverage.OBSERVED, BOOK.id, 0.0),
        (Coverage.ENDED, BOOK.id, 0.1),
        (Coverage.OBSERVED, BOOK.id, 8.0),
    ]


def test_a_start_without_the_feed_ends_what_was_observed_before(hearer: Hearer) -> None:
    hearer.send(tick(1500))
    hearer.restart()  # all was killed, and the venue is not in the configuration any more
    hearer.wait(4.0)
    assert hearer.ledger() == [(Coverage.OBSERVED, TRADES, 0.0)]
    hearer.wait(2.0)
    assert hearer.ledger()[1:] == [(Coverage.ENDED, TRADES, 1.5)]
    hearer.restart()
    hearer.wait(10.0)
    assert len(hearer.ledger()) == 2  # it is known from before
    hearer.send(tick(9000), feed=NEXT_FEED)
    assert hearer.ledger()[2:] == [(Coverage.OBSERVED, TRADES, 1.5)]


def test_an_ingest_that_was_stopped_itself_takes_nobody_for_silent(hearer: Hearer, clock: Clock) -> None:
    hearer.wait(1.0)
    clock.now += 60.0
    hearer.ingest.hearing.look()
    hearer.wait(4.0)
    assert len(hearer.ledger()) == 1


def test_producers_may_be_silent(tmp_path: Path, runtime_dir: Path, clock: Clock) -> None:
    with SmallDaemon(tmp_path / "state", runtime_dir) as daemon:
        own: Any = msgspec.structs.replace(BTC, venue="DESK")
        own = daemon.declare(own)
        daemon.take((COVERAGE_KIND, observed(0)), (TRADE_KIND, trades([(0, 1, 100, 1)])), instrument=own)
        made = Hearer(daemon, clock)
        made.wait(60.0)
        assert daemon.ring("coverage", own)["state"].tolist() == [Coverage.OBSERVED]


def test_a_journal_without_room_is_told_later(hearer: Hearer, caplog: pytest.LogCaptureFixture) -> None:
    with mock.patch.object(type(hearer.daemon.journal), "has_room", property(lambda _: False)):
        hearer.wait(10.0)
    assert len(hearer.ledger()) == 1
    assert not caplog.records, "it is warned of once, when it is told"
    hearer.wait(1.0)
    assert hearer.ledger()[1:] == [(Coverage.ENDED, TRADES, 0.0)]


def test_bars_of_a_time_in_which_nobody_listened_are_partial(hearer: Hearer) -> None:
    hearer.wait(10.0)
    hearer.send((TRADE_KIND, trades([(70_000, 2, 100, 1)])), live=False)
    assert hearer.daemon.ring("candle.1m.own")["flags"].tolist() == [CandleFlag.PARTIAL]


# ---- a venue that is away ---------------------------------------------------------------------------


def down(since_ms: int, until_ms: int | None = None, stream: int = TRADES) -> tuple[Kind, Records]:
    end = ABSENT if until_ms is None else START + until_ms * MS
    event = coverage_record(Coverage.VENUE_DOWN, START + since_ms * MS, end, stream=stream, reason="refused")
    return COVERAGE_KIND, event


def alive(hearer: Hearer) -> None:
    hearer.ingest.handle(b"peer", [protocol.encode(protocol.Alive(producer=FEED, pid=1, venue="BINANCE"))])


def wait_alive(hearer: Hearer, seconds: int) -> None:
    for _ in range(seconds):
        hearer.wait(1.0)
        alive(hearer)


def test_a_venue_that_is_away_by_the_word_of_a_feed_that_lives_is_not_ended(hearer: Hearer) -> None:
    hearer.send(tick(2000))
    hearer.send(down(2000))
    alive(hearer)
    wait_alive(hearer, 60)
    assert hearer.line(9000) == [(Seen.OBSERVED, 0.0, 2.0), (Seen.VENUE_DOWN, 2.0, 9.0)]
    again = coverage_record(Coverage.OBSERVED, START + 8000 * MS, START + 8000 * MS, stream=TRADES)
    hearer.send(down(2000, 8000), (COVERAGE_KIND, again))
    hearer.send((TRADE_KIND, trades([(8100, 2, 100, 1)])))
    assert hearer.line(9000)[1:] == [(Seen.VENUE_DOWN, 2.0, 8.0), (Seen.OBSERVED, 8.0, 9.0)]
    wait_alive(hearer, 4)
    assert len(hearer.ledger()) == 4


def test_what_was_away_ends_with_its_feed_and_begins_with_the_next_one(hearer: Hearer) -> None:
    hearer.send(down(2000))
    alive(hearer)
    told_ns = hearer.ingest.lane.clock.now()
    hearer.wait(10.0)  # killed
    ended = hearer.daemon.ring("coverage")[-1]
    assert (ended["state"], ended["stream"]) == (Coverage.ENDED, TRADES)
    assert abs(int(ended["ts_start"]) - told_ns) < 5 * SECOND  # by the clock of this machine


def test_bars_are_partial_while_the_venue_is_away_unless_it_is_filled(hearer: Hearer) -> None:
    hearer.send(down(2000))
    (forming,) = [bar for bar in hearer.daemon.kernel.state(BTC).fold.open_bars() if bar["timeframe"] == 60]
    assert forming["flags"] & CandleFlag.PARTIAL
    again = coverage_record(Coverage.OBSERVED, START + 8000 * MS, START + 8000 * MS, stream=TRADES)
    filled = coverage_record(Coverage.BACKFILLED, START + 2000 * MS, START + 8000 * MS, stream=TRADES)
    hearer.send(down(2000, 8000), (COVERAGE_KIND, again))
    (forming,) = [bar for bar in hearer.daemon.kernel.state(BTC).fold.open_bars() if bar["timeframe"] == 60]
    assert forming["flags"] & CandleFlag.PARTIAL
    hearer.send((COVERAGE_KIND, filled))
    (forming,) = [bar for bar in hearer.daemon.kernel.state(BTC).fold.open_bars() if bar["timeframe"] == 60]
    assert not forming["flags"] & CandleFlag.PARTIAL


def test_an_ingest_that_was_away_for_long_ends_what_was_down_when_it_was_there_last(hearer: Hearer) -> None:
    hearer.send(down(2000))
    state = hearer.daemon.kernel.state(BTC)
    assert state.resume().down == {TRADES: START + 2000 * MS} and state.resume().ended == []
    hearer.restart()
    state = hearer.daemon.kernel.state(BTC)
    now_ns = hearer.ingest.lane.clock.now()
    hearer.ingest.hearing.begin(now_ns - SECOND)
    assert state.observed.down
    hearer.ingest.hearing.begin(now_ns - 60 * SECOND)
    assert not state.observed.down and state.resume().ended == [TRADES]
    assert hearer.daemon.ring("coverage")["ts_start"][-1] == (now_ns - 60 * SECOND) // 1000 * 1000


def test_a_polled_series_that_is_away_keeps_nobody_from_hearing_that_trades_are_silent(hearer: Hearer) -> None:
    hearer.send(down(2000, stream=70))
    alive(hearer)
    wait_alive(hearer, 10)
    assert hearer.ledger()[-1] == (Coverage.ENDED, TRADES, 0.0)


def test_a_silence_right_after_an_outage_ends_what_began_with_its_end(hearer: Hearer) -> None:
    hearer.send(down(2000))
    again = coverage_record(Coverage.OBSERVED, START + 8000 * MS, START + 8000 * MS, stream=TRADES)
    hearer.send(down(2000, 8000), (COVERAGE_KIND, again))
    hearer.wait(10.0)
    assert hearer.ledger()[-1] == (Coverage.ENDED, TRADES, 8.0)
