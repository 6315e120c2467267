"""The symbols of a feed: where they come from, on which connection each is placed, and how they change.

look_up   the venue's instruments, and which symbols it does not have; changes nothing
add       what was looked up -> declared at the sink -> where their trades begin -> streams on a connection
remove    unsubscribed, told to the ledger, forgotten
end       all are told to the ledger
refresh   the venue's rules are asked for again: its ticks and steps may change
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from marketd.daemon.feeds.adapter import UnknownSymbol, Venue, VenueAdapter, VenueRefused
from marketd.daemon.feeds.connection import Connection, Handler, Timing
from marketd.daemon.feeds.feed_books import FeedBooks
from marketd.daemon.feeds.feed_model import FeedSettings, Sink, VenueClock
from marketd.daemon.feeds.intake import Intake
from marketd.daemon.feeds.repair import Repairs
from marketd.daemon.feeds.rest import RestClient, RestFailed
from marketd.daemon.feeds.stream_kinds import StreamKinds
from marketd.daemon.feeds.subscriptions import Subscriptions
from marketd.daemon.feeds.symbol_state import SymbolState
from marketd.daemon.feeds.tasks import Tasks
from marketd.ipc.protocol import Resume
from marketd.market.errors import Timeout
from marketd.market.instruments import Instrument
from marketd.market.records import Ended

if TYPE_CHECKING:
    from marketd.daemon.feeds.outages import Outages

_log = logging.getLogger(__name__)

REFRESH_SECONDS = 60.0  # a symbol's rules are asked for at most so often
INFO_SYMBOLS = 100  # in one question for instruments
REQUEST_SECONDS = 30.0
BEGINNING_SECONDS = 5.0  # at most, before new symbols are subscribed


class LookedUp(NamedTuple):
    """What the venue says of symbols."""

    instruments: list[Instrument]
    unknown: dict[str, str]  # symbol -> what it said


class Roster:
    def __init__(
        self,
        venue: Venue,
        adapter: VenueAdapter,
        settings: FeedSettings,
        rest: RestClient,
        sink: Sink,
        tasks: Tasks,
        *,
        order: asyncio.Lock,
        handler: Handler,
        states: dict[str, SymbolState],
        kinds: StreamKinds,
    ) -> None:
        self._venue = venue
        self._adapter = adapter
        self._settings = settings
        self._rest = rest
        self._sink = sink
        self._tasks = tasks
        self._order = order
        self._handler = handler
        self.states = states
        self.intake: Intake  # these five are set once, by the feed: each needs the others
        self.repairs: Repairs
        self.books: FeedBooks
        self.subscriptions: Subscriptions
        self.outages: Outages
        self.connections: dict[Connection, list[str]] = {}  # and the symbols of each
        self.clocks: dict[Connection, VenueClock] = {}
        self.unknown: dict[str, str] = {}  # symbol -> what the venue said
        self._kinds = kinds
        self._endpoints: dict[Connection, str] = {}  # "" where the venue has one address for all streams
        self._running: dict[Connection, asyncio.Task[None]] = {}

    def connection_of(self, symbol: str) -> Connection | None:
        """The one over which a symbol's book comes."""
        book = self._adapter.book_streams(symbol)
        return next((c for c, symbols in self.connections.items() if symbol in symbols and _carries(c, book)), None)

    def trades_connection_of(self, symbol: str) -> Connection | None:
        """The one over which a symbol's trades come."""
        trades = self._adapter.streams(symbol)[:1]
        return next((each for each in self.connections_of(symbol) if _carries(each, trades)), None)

    def connections_of(self, symbol: str) -> list[Connection]:
        return [connection for connection, symbols in self.connections.items() if symbol in symbols]

    def up_since(self, symbol: str) -> float | None:
        """Since when (monotonic s) all of a symbol's connections are up; None while one is not."""
        since = [connection.up_since for connection in self.connections_of(symbol)]
        return None if not since or None in since else max(each for each in since if each is not None)

    def states_of(self, connection: Connection) -> list[SymbolState]:
        return [self.states[symbol] for symbol in self.connections.get(connection, ()) if symbol in self.states]

    def book_states_of(self, connection: Connection) -> list[SymbolState]:
        """Those whose books come over a connection."""
        states = self.states_of(connection)
        return [state for state in states if _carries(connection, self._adapter.book_streams(state.symbol))]

    def clocked_by(self, connection: Connection) -> list[str]:
        """Symbols whose trades come over a connection: no tick may overtake these."""
        symbols = self.connections.get(connection, ())
        if self._venue.endpoint_of is None:
            return list(symbols)
        return [symbol for symbol in symbols if _carries(connection, self._adapter.streams(symbol)[:1])]

    def venue_now_ns(self) -> int:
        """The venue's time by what has passed since it told it last; ours, where it never did."""
        newest = max(self.clocks.values(), key=lambda clock: clock.ts_ns, default=None)
        return newest.now_ns(time.monotonic()) if newest is not None and newest.ts_ns else time.time_ns()

    # ---- in -----------------------------------------------------------------------------------

    async def look_up(self, symbols: list[str]) -> LookedUp:
        """What the venue has of these symbols. RestFailed or Timeout when it does not answer."""
        found = LookedUp([], {})
        for start in range(0, len(symbols), INFO_SYMBOLS):
            found.instruments.extend(await self._instruments(symbols[start : start + INFO_SYMBOLS], found.unknown))
        return found

    async def add(self, found: LookedUp) -> None:
        """Follow what was looked up; what is unknown is told, and costs the others nothing."""
        self.unknown = found.unknown
        for symbol, words in found.unknown.items():
            _log.error("%s is left out: %s", symbol, words, extra={"action": "unknown_symbol", "symbol": symbol})
        for start in range(0, len(found.instruments), INFO_SYMBOLS):
            for instrument, resume in await self._sink.declare(found.instruments[start : start + INFO_SYMBOLS]):
                self._admit(instrument, resume)
        if self._adapter.numbered_trades:
            new = [state for state in self.states.values() if state.trades.sequence.last is None]
            await asyncio.gather(*(self._find_beginning(state) for state in new))
        await self._begin_bars()
        placed = {symbol for symbols in self.connections.values() for symbol in symbols}
        await self._connect([symbol for symbol in self.states if symbol not in placed])

    def _admit(self, instrument: Instrument, resume: Resume) -> None:
        self._adapter.adopt(instrument)
        symbol, timeframes = instrument.symbol, self._adapter.timeframes
        has_bars = all(self._adapter.bars_request(symbol, timeframe, 0) is not None for timeframe in timeframes)
        state = SymbolState(
            instrument,
            resume,
            timeframes,
            numbered_trades=self._adapter.numbered_trades,
            has_bars=has_bars,
            streams=self._kinds.of(instrument),
            numbers=self._kinds.numbers,
        )
        state.refreshed_at = state.trade_at = time.monotonic()
        self.states[symbol] = state
        self.books.add(state)
        if not state.observed:
            self.intake.unobserved.add(symbol)

    async def _find_beginning(self, state: SymbolState) -> None:
        """Note the newest trade of a symbol that is new here, before it is subscribed.

        From it on nothing is lost, even if the connection breaks before the first trade has come. Where the venue
        does not answer, or its budget is needed for more urgent things, the first trade that comes is the beginning.
        """
        request = self._adapter.newest_trade_request(state.symbol)
        limit = self._settings.weight_per_minute or self._venue.limits.weight_per_minute
        if request is None or self._rest.statistics().weight_left < limit / 2:
            return
        try:
            body = await self._rest.get(request, time.monotonic() + BEGINNING_SECONDS)
            page = self._adapter.decode_trades(state.symbol, body)
        except (RestFailed, VenueRefused, Timeout) as error:
            _log.info("no newest trade of %s: %s", state.symbol, error, extra={"action": "no_beginning"})
            return
        if not page.rejected:
            state.trades.begin_after(page.records)

    async def _begin_bars(self) -> None:
        """Bars of symbols that are new here begin with those that are forming."""
        bars = [track for state in self.states.values() for track in state.bars.values()]
        new = [track for track in bars if track.sequence.is_numbered and track.sequence.last is None]
        if not new:
            return
        try:
            now_ns = await self.repairs.venue_now_ns(time.monotonic() + BEGINNING_SECONDS)
        except (RestFailed, VenueRefused, Timeout) as error:
            _log.info("the venue does not tell its time: %s", error, extra={"action": "no_beginning"})
            return
        for track in new:
            track.begin_at(now_ns)

    async def _instruments(self, symbols: list[str], unknown: dict[str, str]) -> list[Instrument]:
        """The venue's instruments; a symbol that it does not know goes to `unknown`, with what it says."""
        request = self._adapter.instruments_request(symbols)
        try:
            body = await self._rest.get_even_refused(request, time.monotonic() + REQUEST_SECONDS)
            return self._adapter.decode_instruments(body, symbols)
        except UnknownSymbol as error:
            if len(symbols) > 1:
                halves = symbols[: len(symbols) // 2], symbols[len(symbols) // 2 :]
                return [instrument for half in halves for instrument in await self._instruments(half, unknown)]
            unknown[symbols[0]] = str(error)
            return []

    async def _connect(self, symbols: list[str]) -> None:
        """Place symbols on connections that have room, else on new ones; at each address that has streams of theirs."""
        endpoint_of = self._venue.endpoint_of
        if endpoint_of is None:
            await self._place(symbols, "")
            return
        for endpoint in dict.fromkeys(endpoint_of(stream) for stream in self._streams(symbols)):
            having = [symbol for symbol in symbols if self._streams([symbol], endpoint)]
            await self._place(having, endpoint)

    async def _place(self, symbols: list[str], endpoint: str) -> None:
        limit = self._venue.limits.streams_per_connection
        each = max((len(self._streams([symbol], endpoint)) for symbol in symbols), default=1)
        for connection, placed in self.connections.items():
            if self._endpoints[connection] != endpoint:
                continue
            room = max(0, limit - len(connection.streams)) // each
            mine, symbols = symbols[:room], symbols[room:]
            if mine:
                placed += mine
                await self._subscribe(connection, self._streams(mine, endpoint), [self.states[s] for s in mine])
        per_connection = max(1, limit // each)
        for start in range(0, len(symbols), per_connection):
            self._open_connection(symbols[start : start + per_connection], endpoint)

    async def _subscribe(self, connection: Connection, streams: list[str], states: Sequence[SymbolState]) -> None:
        if connection.is_up:  # else `on_up` tells the books
            # before they are asked for: a snapshot that comes at once would be of a book that is not subscribed
            books = [s for s in states if set(self._adapter.book_streams(s.symbol)) <= set(streams)]
            async with self._order:
                await self.books.up(books)
                self.subscriptions.begin(connection, states, streams, streams)
                self.outages.extended(connection)
        await connection.subscribe(streams)
        for state in states:
            self.repairs.look(state)

    def _open_connection(self, symbols: list[str], endpoint: str) -> None:
        connection = Connection(
            f"{self._venue.name}/{len(self.connections) + 1}",
            self._settings.ws_url or self._venue.ws_url,
            self._adapter,
            self._streams(symbols, endpoint),
            self._handler,
            self._settings.timing or Timing.of(self._venue.limits),
            overlaps=not self.books.come_on_stream,
        )
        self.connections[connection] = list(symbols)
        self._endpoints[connection] = endpoint
        self.clocks[connection] = VenueClock()
        task = self._tasks.spawn(connection.run(), repr(connection))
        if task is not None:
            self._running[connection] = task

    def _streams(self, symbols: Iterable[str], endpoint: str = "") -> list[str]:
        """All streams of symbols, or those that one of the venue's addresses has."""
        streams = [stream for symbol in symbols for stream in self._adapter.streams(symbol)]
        endpoint_of = self._venue.endpoint_of
        return streams if endpoint_of is None or not endpoint else [s for s in streams if endpoint_of(s) == endpoint]

    # ---- out ----------------------------------------------------------------------------------

    async def remove(self, symbol: str) -> None:
        state, connections = self.states[symbol], [c for c, symbols in self.connections.items() if symbol in symbols]
        for connection in connections:
            self.connections[connection].remove(symbol)
            await connection.unsubscribe(self._streams([symbol], self._endpoints[connection]))
        state.removed = True
        async with self._order:
            del self.states[symbol]
            self.intake.unobserved.discard(symbol)
            self.subscriptions.forget(state)
            self._adapter.forget(symbol)
            await self._end(state, "symbol was removed", Ended.BARS_CLOSED)
        for connection in connections:
            self._close_if_empty(connection)

    async def end(self) -> None:
        """Tell the ledger of all symbols that nobody listens from now on. With the order lock held."""
        for state in self.states.values():
            await self._end(state, "the feed was stopped", Ended.BARS_GO_ON)

    async def _end(self, state: SymbolState, reason: str, bars: Ended) -> None:
        await self.intake.hand_over(state, self.outages.ended(state, reason, bars))

    def _close_if_empty(self, connection: Connection) -> None:
        if not self.connections[connection]:
            del self.connections[connection], self.clocks[connection], self._endpoints[connection]
            running = self._running.pop(connection, None)
            if running is not None:
                running.cancel()

    # ---- change -------------------------------------------------------------------------------

    async def refresh(self, symbols: list[str]) -> None:
        """Ask for the rules of symbols again: a venue may change its ticks and steps."""
        now = time.monotonic()
        due = [s for s in symbols if s in self.states and now - self.states[s].refreshed_at >= REFRESH_SECONDS]
        for symbol in due:
            self.states[symbol].refreshed_at = now
        for start in range(0, len(due), INFO_SYMBOLS):
            try:
                instruments = await self._instruments(due[start : start + INFO_SYMBOLS], self.unknown)
            except (RestFailed, VenueRefused, Timeout) as error:
                _log.warning("instruments cannot be refreshed yet: %s", error, extra={"action": "refresh_failed"})
                return
            declared = await self._sink.declare(instruments) if instruments else []
            async with self._order:
                for instrument, _ in declared:
                    await self._change(instrument)

    async def _change(self, instrument: Instrument) -> None:
        state = self.states.get(instrument.symbol)
        if state is None:
            return
        self._adapter.adopt(instrument)
        if state.change(instrument):
            _log.warning(
                "%s has new scales and the id %d",
                instrument.name,
                instrument.id,
                extra={"action": "scales_changed", "instrument": instrument.name},
            )
            self.repairs.look(state)
            await self.books.changed(state)


def _carries(connection: Connection, streams: Sequence[str]) -> bool:
    return set(streams) <= set(connection.streams)
