"""The feed of one venue: every trade and closed bar of its symbols to a sink, once, in order, with nothing lost, and
their order books.

    start        exchangeInfo -> declare (the sink assigns ids and says what it has already) -> connect (`roster`)
    each connect what came after the last known record may be missing: live records that do not follow it are held
                 back, the missing ones fetched over REST and handed over first (`repair`); books begin anew
    live         frames -> `VenueAdapter.decode_many` -> one `send` per symbol (`intake`)
    quiet        a TICK when a symbol was silent for a second: by the venue's time in other messages, or by the newest
                 venue time plus what has passed since

The feed knows nothing of ingest or of ZeroMQ: a `Sink` is whatever takes records, with back-pressure. An error of the
sink ends the feed; a restart is its ordinary start.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from marketd.daemon.feeds import series as declared
from marketd.daemon.feeds.adapter import Rejected, Series, Venue, VenueAdapter, VenueClosing, VenueRefused, VenueTime
from marketd.daemon.feeds.backoff import Backoff
from marketd.daemon.feeds.capture_writer import CaptureWriter
from marketd.daemon.feeds.connection import Connection
from marketd.daemon.feeds.feed_books import FeedBooks
from marketd.daemon.feeds.feed_model import FeedSettings, FeedStatistics, Sink, VenueClock
from marketd.daemon.feeds.intake import QUIET_NS, Intake
from marketd.daemon.feeds.outages import ALIVE_SECONDS, Outages
from marketd.daemon.feeds.polls import Polls
from marketd.daemon.feeds.recalled import Recalled
from marketd.daemon.feeds.repair import Repairs
from marketd.daemon.feeds.rest import RestClient, RestFailed
from marketd.daemon.feeds.roster import Roster
from marketd.daemon.feeds.silence import Silence
from marketd.daemon.feeds.stream_kinds import StreamKinds
from marketd.daemon.feeds.subscriptions import Subscriptions
from marketd.daemon.feeds.symbol_state import Part, SymbolState
from marketd.daemon.feeds.tasks import Tasks
from marketd.market.errors import Timeout

_log = logging.getLogger(__name__)

NO_API_KEY = (
    "%s gives single trades of the past only to who has an API key: of a hole in the stream no more than the newest "
    "trades can be fetched, and the rest stays a GAP. Name a file with a key in venues.%s.api_key_file, or, for "
    'instruments that are not stored yet, set trades = "aggTrade"'
)
LOOK_SECONDS = 0.25  # how often the clock looks for quiet symbols


class Feed:
    def __init__(
        self,
        venue: Venue,
        symbols: Sequence[str],
        sink: Sink,
        settings: FeedSettings | None = None,
        *,
        capture: CaptureWriter | None = None,
        on_rejected: Callable[[Rejected], Awaitable[None]] | None = None,
    ) -> None:
        settings = settings or FeedSettings()
        self.venue = venue
        self._settings = settings
        series = declared.wanted(settings.series, venue.series)
        self._adapter: VenueAdapter = venue.adapter(
            trades=settings.trades, candles=settings.candles, book=settings.book, series=tuple(series)
        )
        self._adapter.has_key = bool(settings.api_key and venue.api_key_header)
        self._wanted = self._venue_symbols(symbols)
        self._capture = capture
        self._tasks = Tasks()
        self._rest = self._rest_client()
        # From a sequence's decision until its records are handed over nobody else may decide: two connections and
        # the repairs would overtake each other.
        self._order = asyncio.Lock()
        self._changing = asyncio.Lock()  # one `reload` at a time
        self._lag_ns = 0
        states: dict[str, SymbolState] = {}
        self._roster = Roster(
            venue,
            self._adapter,
            settings,
            self._rest,
            sink,
            self._tasks,
            order=self._order,
            handler=self,
            states=states,
            kinds=StreamKinds(self._adapter, venue.adapter, trades=settings.trades, series=series.values()),
        )
        self._recalled = Recalled(sink, venue.name)
        self._books = FeedBooks(
            self._adapter,
            self._rest,
            settings.books,
            self._tasks,
            wanted=settings.book,
            order=self._order,
            connection_of=self._roster.connection_of,
        )
        self._intake = Intake(states, self._books, sink, series, on_rejected=on_rejected, refresh=self._refresh)
        self._repairs = Repairs(
            self._adapter,
            self._rest,
            settings.repair,
            order=self._order,
            hand_over=self._intake.hand_over_repaired,
            reject=self._intake.reject,
            spawn=self._tasks.spawn,
        )
        self._intake.repairs = self._roster.repairs = self._repairs
        self._silence = Silence(
            self._adapter,
            self._rest,
            self._roster,
            self._repairs,
            order=self._order,
            hand_over=self._intake.hand_over,
            weight_per_minute=settings.weight_per_minute or venue.limits.weight_per_minute,
        )
        self._intake.on_trades = self._silence.heard_trades
        self._subscriptions = Subscriptions(
            self._adapter,
            self._tasks,
            order=self._order,
            states_of=self._roster.states_of,
            now_ns=self._venue_now_ns,
            on_heard=self._repairs.look,
        )
        self._roster.intake, self._roster.books = self._intake, self._books
        self._roster.subscriptions = self._subscriptions
        self._subscriptions.hand_over = self._intake.hand_over
        self._books.hand_over = self._intake.hand_over
        self._outages = self._roster.outages = Outages(
            self._roster, self._books, self._repairs, self._subscriptions, self._intake.hand_over
        )
        self._polls = Polls(self._adapter, self._rest, lambda: list(states), self._take_polled, self._not_polled)

    def _rest_client(self) -> RestClient:
        settings, venue = self._settings, self.venue
        return RestClient(
            settings.rest_url or venue.rest_url,
            weight_per_minute=settings.weight_per_minute or venue.limits.weight_per_minute,
            headers=venue.headers_with(settings.api_key),
            record=self._record_rest if self._capture is not None else None,
        )

    def _venue_symbols(self, symbols: Sequence[str]) -> list[str]:
        return list(dict.fromkeys(self._adapter.venue_symbol(symbol) for symbol in symbols))

    def _record_rest(self, url: str, body: bytes) -> None:
        if self._capture is not None:
            self._capture.rest(time.time_ns(), url, body)

    # ---- life ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until `stop`, cancellation, or an error of the sink, which is raised."""
        if self._adapter.needs_key and not self._adapter.has_key:
            _log.warning(NO_API_KEY, *[self.venue.name] * 2, extra={"action": "no_api_key"})
        try:
            async with self._tasks as tasks:
                tasks.spawn(self._look_for_quiet(), "feed quiet symbols")
                tasks.spawn(self._bring_up(), "feed start")
                tasks.spawn(self._polls.run(), "feed polls")
                tasks.spawn(self._silence.run(), "feed silence")
                await tasks.stopping.wait()
                async with self._order:  # what was begun to be handed over is, so that the ledger ends with it
                    tasks.cancel()
                    await self._roster.end()
                    await self._recalled.end("the feed was stopped")
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            self._rest.close()
            if self._capture is not None:
                self._capture.close()

    async def stop(self) -> None:
        """Hand over what was read, and let `run` return."""
        self._tasks.stopping.set()

    async def reload(self, symbols: Sequence[str]) -> dict[str, str]:
        """Have exactly these symbols from now on, without a gap for those that stay.

        Returns the new ones that the venue does not have, by symbol, with its words; then nothing has changed. The same
        where RestFailed or Timeout is raised, because the venue does not answer. What was unknown before may stay so.
        """
        wanted, roster = self._venue_symbols(symbols), self._roster
        async with self._changing:
            if not self._tasks.is_running:
                self._wanted = wanted
                return {}  # `run` begins with these
            found = await roster.look_up([symbol for symbol in wanted if symbol not in roster.states])
            refused = {symbol: words for symbol, words in found.unknown.items() if symbol not in self._wanted}
            if refused:
                return refused
            self._wanted = wanted
            for symbol in [symbol for symbol in roster.states if symbol not in wanted]:
                await roster.remove(symbol)
            await roster.add(found)
            return {}

    async def _bring_up(self) -> None:
        backoff = Backoff(1.0, 30.0)
        while True:
            try:
                async with self._changing:
                    roster = self._roster
                    new = [symbol for symbol in self._wanted if symbol not in roster.states]
                    found = await roster.look_up(new)
                    self._recalled.answered()
                    await roster.add(found)
                return
            except (RestFailed, VenueRefused, Timeout) as error:
                _log.warning("%s does not answer yet: %s", self.venue.name, error, extra={"action": "venue_down"})
                await self._recalled.not_answered(self._wanted, str(error))
                await asyncio.sleep(backoff.next())

    def _refresh(self, symbols: list[str]) -> None:
        self._tasks.spawn(self._roster.refresh(symbols), "refresh after a rejection")

    # ---- a connection's events ----------------------------------------------------------------

    async def on_up(self, connection: Connection) -> None:
        if self._capture is not None:
            url, _ = self._adapter.connect_url(self._settings.ws_url or self.venue.ws_url, connection.streams)
            self._capture.connected(time.time_ns(), url)
        async with self._order:
            states = self._roster.states_of(connection)
            for state in states:
                state.begin_catch_up()
            self._outages.up(connection, time.monotonic())
            self._subscriptions.begin(connection, states, connection.streams, connection.by_message)
            await self._books.up(self._roster.book_states_of(connection))
        for state in states:
            self._repairs.look(state)
        symbols = [state.symbol for state in states]
        self._tasks.spawn(self._roster.refresh(symbols), f"refresh {connection.name}")

    async def on_down(self, connection: Connection, reason: str) -> None:
        async with self._order:
            self._outages.lost(connection, time.monotonic())
            await self._books.down(self._roster.book_states_of(connection))

    async def on_frames(self, connection: Connection, recv_ns: int, frames: list[bytes]) -> None:
        now = time.monotonic()
        if self._capture is not None:
            self._capture.frames(recv_ns, frames)
        clock = self._roster.clocks.get(connection) or VenueClock()
        symbols = self._roster.connections.get(connection, [])
        async with self._order:
            self._intake.counts["messages"] += len(frames)
            events = self._adapter.decode_many(frames)
            for event in events:
                if type(event) is VenueTime:
                    clock.see(event.ts_ns, now)
                elif type(event) is VenueClosing:
                    _log.info("%s: %s", connection.name, event.text, extra={"action": "venue_closing"})
                    connection.roll()
            if clock.ts_ns:
                self._lag_ns = recv_ns - clock.ts_ns
            await self._subscriptions.take(connection, events)
            clocked_by = partial(self._roster.clocked_by, connection)
            await self._outages.heard(connection, now)
            await self._intake.take(events, symbols, clock.ts_ns, now, clocked_by)
            if clock.ts_ns - clock.swept_ns >= QUIET_NS:
                clock.swept_ns = clock.ts_ns
                await self._intake.tick_quiet(self._roster.clocked_by(connection), clock.ts_ns, now, by_clock=False)

    def _venue_now_ns(self, connection: Connection) -> int:
        clock = self._roster.clocks.get(connection)
        return clock.now_ns(time.monotonic()) if clock is not None and clock.ts_ns else 0

    async def _take_polled(self, symbol: str, target: str, body: bytes) -> None:
        async with self._order:  # read with the lock held: else at scales that may be others when it is handed on
            if (state := self._roster.states.get(symbol)) is not None:
                events = self._adapter.decode_rest(target, body)
                for event in events:
                    if isinstance(event, Series) and event.symbol == symbol:
                        await self._outages.answered(state, event)
                await self._intake.take(events, (), 0, time.monotonic(), clocked_by=tuple)

    async def _not_polled(self, symbol: str, words: str) -> None:
        async with self._order:
            if (state := self._roster.states.get(symbol)) is not None:
                await self._outages.not_answered(state, words)

    # ---- quiet symbols ------------------------------------------------------------------------

    async def _look_for_quiet(self) -> None:
        """While nothing comes time goes on by this machine's clock, as long as the venue is known to be there."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            async with self._order:
                for connection in list(self._roster.connections):
                    now, clock = time.monotonic(), self._roster.clocks[connection]
                    await self._outages.look(connection, now)
                    # with messages unread, time is what they say
                    if not clock.ts_ns or connection.pending or not connection.is_up:
                        continue
                    if connection.silent_seconds(now) > ALIVE_SECONDS:
                        await self._books.silent(self._roster.book_states_of(connection))
                    else:
                        quiet = self._roster.clocked_by(connection)
                        await self._intake.tick_quiet(quiet, clock.now_ns(now), now, by_clock=True)

    def statistics(self) -> FeedStatistics:
        roster, intake, books = self._roster, self._intake, self._books
        tracks = [track for state in roster.states.values() for track in state.tracks]
        counts, repairs = intake.counts, self._repairs.counts
        return FeedStatistics(
            venue=self.venue.name,
            symbols=len(roster.states),
            messages=counts["messages"],
            trades=counts["trade"],
            candles=counts["candle"],
            ticks=counts["tick"],
            duplicates=sum(track.sequence.duplicates for track in tracks),
            held=sum(track.sequence.held for track in tracks),
            repairing=sum(track.is_repaired for track in tracks),
            filled=repairs["filled"],
            gaps=repairs["gaps"],
            lost=repairs["lost"],
            books=counts["book"],
            imbalances=counts["imbalance"],
            buckets=counts["buckets"],
            book_deltas=counts["book_delta"],
            books_live=books.live,
            resyncs=books.resyncs,
            refreshes=books.refreshes,
            resyncs_failed=books.failed,
            polls_failed=self._polls.failed,
            book_events=books.events,
            rejected=dict(intake.rejected),
            ignored=dict(intake.ignored),
            venue_errors=counts["venue errors"],
            unknown_symbols=dict(roster.unknown),
            refused=self._subscriptions.refusals,
            silent=self._silence.silent,
            silent_symbols=len(self._silence.silent),
            away=[*filter(None, [self._recalled.words]), *self._outages.troubles(time.monotonic())],
            refused_settings=books.refused_settings,
            lag_ns=self._lag_ns,
            connections=[connection.statistics() for connection in roster.connections],
            rest=self._rest.statistics(),
        )


__all__ = ["Feed", "FeedSettings", "FeedStatistics", "Part", "Sink"]
