"""The feed of one venue: every trade and closed bar of its symbols to a sink, once, in order, with nothing lost.

    start        exchangeInfo -> declare (the sink assigns ids and says what it has already) -> connect
    each connect what came after the last known record may be missing: live records that do not follow it are held
                 back, the missing ones fetched over REST and handed over first (`repair`)
    live         frames -> `VenueAdapter.decode_many` -> one `send` per symbol
    quiet        a TICK when a symbol was silent for a second: by the venue's time in other messages, or by the newest
                 venue time plus what has passed since

The feed knows nothing of ingest or of ZeroMQ: a `Sink` is whatever takes records, with back-pressure. An error of the
sink ends the feed; a restart is its ordinary start.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any

from marketd.daemon.feeds.adapter import (
    Candles,
    Event,
    Ignored,
    Rejected,
    Trades,
    UnknownSymbol,
    Venue,
    VenueClosing,
    VenueError,
    VenueRefused,
    VenueTime,
)
from marketd.daemon.feeds.backoff import Backoff
from marketd.daemon.feeds.capture_writer import CaptureWriter
from marketd.daemon.feeds.connection import Connection, Timing
from marketd.daemon.feeds.feed_model import FeedSettings, FeedStatistics, Sink, VenueClock
from marketd.daemon.feeds.repair import Repairs
from marketd.daemon.feeds.rest import RestClient, RestFailed
from marketd.daemon.feeds.symbol_state import CoverageEvent, Part, SymbolState, tick
from marketd.market.errors import Timeout
from marketd.market.instruments import Instrument
from marketd.market.records import Coverage, Records
from marketd.market.times import NS_PER_SECOND

_log = logging.getLogger(__name__)

QUIET_NS = NS_PER_SECOND  # without a trade: then a TICK
QUIET_SECONDS = 1.0
LOOK_SECONDS = 0.25  # how often the clock looks for quiet symbols
ALIVE_SECONDS = 5.0  # since the venue was last heard: beyond, time does not go on by itself
REFRESH_SECONDS = 60.0  # a symbol's rules are asked for at most so often
INFO_SYMBOLS = 100  # in one question for instruments
REQUEST_SECONDS = 30.0
BEGINNING_SECONDS = 5.0  # at most, before new symbols are subscribed
MAX_NAMES = 100  # of ignored messages that are counted apart


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
        self._adapter = venue.adapter(trades=settings.trades, candles=settings.candles)
        self._wanted = self._venue_symbols(symbols)
        self._sink = sink
        self._capture = capture
        self._on_rejected = on_rejected
        headers = dict(venue.headers)
        if settings.api_key and venue.api_key_header:
            headers[venue.api_key_header] = settings.api_key
        self._rest = RestClient(
            settings.rest_url or venue.rest_url,
            weight_per_minute=settings.weight_per_minute or venue.limits.weight_per_minute,
            headers=headers,
            record=self._record_rest if capture is not None else None,
        )
        # From a sequence's decision until its records are handed over nobody else may decide: two connections and
        # the repairs would overtake each other.
        self._order = asyncio.Lock()
        self._repairs = Repairs(
            self._adapter,
            self._rest,
            settings.repair,
            order=self._order,
            hand_over=self._hand_over,
            reject=self._reject,
            spawn=self._spawn,
        )
        self._states: dict[str, SymbolState] = {}
        self._connections: dict[Connection, list[str]] = {}  # and the symbols of each
        self._running: dict[Connection, asyncio.Task[None]] = {}
        self._clocks: dict[Connection, VenueClock] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._group: asyncio.TaskGroup | None = None
        self._changing = asyncio.Lock()  # one `reload` at a time
        self._stopping = asyncio.Event()
        self._counts: Counter[str] = Counter()
        self._ignored: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._unknown: dict[str, str] = {}  # symbol -> what the venue said
        self._lag_ns = 0
        self._unobserved: set[str] = set()  # symbols of which nothing has come yet, ever

    def _venue_symbols(self, symbols: Sequence[str]) -> list[str]:
        return list(dict.fromkeys(self._adapter.venue_symbol(symbol) for symbol in symbols))

    def _record_rest(self, url: str, body: bytes) -> None:
        if self._capture is not None:
            self._capture.rest(time.time_ns(), url, body)

    # ---- life ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until `stop`, cancellation, or an error of the sink, which is raised."""
        try:
            async with asyncio.TaskGroup() as self._group:
                self._spawn(self._look_for_quiet(), "feed quiet symbols")
                self._spawn(self._bring_up(), "feed start")
                await self._stopping.wait()
                for task in list(self._tasks):
                    task.cancel()
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            self._group = None
            self._rest.close()
            if self._capture is not None:
                self._capture.close()

    async def stop(self) -> None:
        """Hand over what was read, and let `run` return."""
        self._stopping.set()

    async def reload(self, symbols: Sequence[str]) -> dict[str, str]:
        """Have exactly these symbols from now on, without a gap for those that stay.

        Returns what could not be had, by symbol. RestFailed or Timeout when the venue does not answer: then the
        symbols that were removed are gone, and nothing was added.
        """
        wanted = self._venue_symbols(symbols)
        async with self._changing:
            self._wanted = wanted
            if self._group is None:
                return {}  # `run` begins with these
            for symbol in [symbol for symbol in self._states if symbol not in wanted]:
                await self._remove(symbol)
            self._unknown = {}
            await self._add([symbol for symbol in wanted if symbol not in self._states])
            return dict(self._unknown)

    async def _bring_up(self) -> None:
        backoff = Backoff(1.0, 30.0)
        while True:
            try:
                async with self._changing:
                    await self._add([symbol for symbol in self._wanted if symbol not in self._states])
                return
            except (RestFailed, VenueRefused, Timeout) as error:
                _log.warning("%s does not answer yet: %s", self.venue.name, error, extra={"action": "venue_down"})
                await asyncio.sleep(backoff.next())

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None] | None:
        if self._group is None or self._stopping.is_set():
            work.close()
            return None
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # ---- symbols ------------------------------------------------------------------------------

    async def _add(self, symbols: list[str]) -> None:
        for start in range(0, len(symbols), INFO_SYMBOLS):
            instruments = await self._instruments(symbols[start : start + INFO_SYMBOLS])
            for instrument, resume in await self._sink.declare(instruments) if instruments else []:
                self._adapter.adopt(instrument)
                state = SymbolState(instrument, resume, self._adapter.timeframes)
                state.refreshed_at = time.monotonic()
                self._states[instrument.symbol] = state
                if not state.observed:
                    self._unobserved.add(instrument.symbol)
        await self._find_beginnings([state for state in self._states.values() if state.trades.sequence.last is None])
        placed = {symbol for symbols in self._connections.values() for symbol in symbols}
        await self._connect([symbol for symbol in self._states if symbol not in placed])

    async def _find_beginnings(self, states: list[SymbolState]) -> None:
        """Note the newest trade of symbols that are new here, before anything is subscribed.

        From it on nothing is lost, even if the connection breaks before the first trade has come. Where the venue
        does not answer, or its budget is needed for more urgent things, the first trade that comes is the beginning.
        """
        limit = self._settings.weight_per_minute or self.venue.limits.weight_per_minute
        deadline = time.monotonic() + BEGINNING_SECONDS

        async def find(state: SymbolState) -> None:
            if self._rest.statistics().weight_left < limit / 2:
                return
            try:
                body = await self._rest.get(self._adapter.newest_trade_request(state.symbol), deadline)
                page = self._adapter.decode_trades(state.symbol, body)
            except (RestFailed, VenueRefused, Timeout) as error:
                _log.info("no newest trade of %s: %s", state.symbol, error, extra={"action": "no_beginning"})
                return
            if not page.rejected:
                state.trades.begin_after(page.records)

        await asyncio.gather(*(find(state) for state in states))

    async def _instruments(self, symbols: list[str]) -> list[Instrument]:
        """The venue's instruments; a symbol that it does not know is logged, and costs the others nothing."""
        request = self._adapter.instruments_request(symbols)
        try:
            try:
                body = await self._rest.get(request, time.monotonic() + REQUEST_SECONDS)
            except RestFailed as error:
                if not 400 <= error.status < 500 or error.status in (418, 429):
                    raise
                body = error.body  # the venue's own refusal, which the adapter can read
            return self._adapter.decode_instruments(body, symbols)
        except UnknownSymbol as error:
            if len(symbols) > 1:
                halves = symbols[: len(symbols) // 2], symbols[len(symbols) // 2 :]
                return [instrument for half in halves for instrument in await self._instruments(half)]
            self._unknown[symbols[0]] = str(error)
            _log.error(
                "%s is left out: %s", symbols[0], error, extra={"action": "unknown_symbol", "symbol": symbols[0]}
            )
            return []

    async def _connect(self, symbols: list[str]) -> None:
        """Place symbols on connections that have room, else on new ones."""
        limit = self.venue.limits.streams_per_connection
        for connection, placed in self._connections.items():
            room = (limit - len(connection.streams)) // max(1, len(self._adapter.streams("X")))
            mine, symbols = symbols[:room], symbols[room:]
            if mine:
                placed += mine
                await connection.subscribe(self._streams(mine))
                for symbol in mine:
                    self._repairs.look(self._states[symbol])
        per_connection = max(1, limit // max(1, len(self._adapter.streams("X"))))
        for start in range(0, len(symbols), per_connection):
            self._open_connection(symbols[start : start + per_connection])

    def _open_connection(self, symbols: list[str]) -> None:
        connection = Connection(
            f"{self.venue.name}/{len(self._connections) + 1}",
            self._settings.ws_url or self.venue.ws_url,
            self._adapter,
            self._streams(symbols),
            self,
            self._settings.timing or Timing.of(self.venue.limits),
        )
        self._connections[connection] = list(symbols)
        self._clocks[connection] = VenueClock()
        task = self._spawn(connection.run(), repr(connection))
        if task is not None:
            self._running[connection] = task

    def _streams(self, symbols: Iterable[str]) -> list[str]:
        return [stream for symbol in symbols for stream in self._adapter.streams(symbol)]

    async def _remove(self, symbol: str) -> None:
        connection = next(c for c, symbols in self._connections.items() if symbol in symbols)
        state = self._states[symbol]
        self._connections[connection].remove(symbol)
        await connection.unsubscribe(self._adapter.streams(symbol))
        state.removed = True
        async with self._order:
            del self._states[symbol]
            self._unobserved.discard(symbol)
            self._adapter.forget(symbol)
            if state.observed:
                ended = CoverageEvent(Coverage.ENDED, state.newest_ns, state.newest_ns, reason="symbol was removed")
                await self._hand_over(state, [ended.part()])
        if not self._connections[connection]:
            del self._connections[connection], self._clocks[connection]
            running = self._running.pop(connection, None)
            if running is not None:
                running.cancel()

    async def _refresh(self, symbols: list[str]) -> None:
        """Ask for the rules of symbols again: a venue may change its ticks and steps."""
        now = time.monotonic()
        due = [s for s in symbols if s in self._states and now - self._states[s].refreshed_at >= REFRESH_SECONDS]
        for symbol in due:
            self._states[symbol].refreshed_at = now
        for start in range(0, len(due), INFO_SYMBOLS):
            try:
                instruments = await self._instruments(due[start : start + INFO_SYMBOLS])
            except (RestFailed, VenueRefused, Timeout) as error:
                _log.warning("instruments cannot be refreshed yet: %s", error, extra={"action": "refresh_failed"})
                return
            declared = await self._sink.declare(instruments) if instruments else []
            async with self._order:
                for instrument, _ in declared:
                    self._change(instrument)

    def _change(self, instrument: Instrument) -> None:
        state = self._states.get(instrument.symbol)
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
            self._repairs.look(state)

    # ---- a connection's events ----------------------------------------------------------------

    async def on_up(self, connection: Connection) -> None:
        symbols = list(self._connections.get(connection, ()))
        if self._capture is not None:
            url, _ = self._adapter.connect_url(self._settings.ws_url or self.venue.ws_url, connection.streams)
            self._capture.connected(time.time_ns(), url)
        async with self._order:
            states = [self._states[symbol] for symbol in symbols if symbol in self._states]
            for state in states:
                state.begin_catch_up()
        for state in states:
            self._repairs.look(state)
        self._spawn(self._refresh(symbols), f"refresh {connection.name}")

    async def on_down(self, connection: Connection, reason: str) -> None:
        self._counts["disconnects"] += 1

    async def on_frames(self, connection: Connection, recv_ns: int, frames: list[bytes]) -> None:
        now = time.monotonic()
        if self._capture is not None:
            self._capture.frames(recv_ns, frames)
        clock = self._clocks.get(connection) or VenueClock()
        async with self._order:
            self._counts["messages"] += len(frames)
            events = self._adapter.decode_many(frames)
            for event in events:
                if type(event) is VenueTime:
                    clock.see(event.ts_ns, now)
            if clock.ts_ns:
                self._lag_ns = recv_ns - clock.ts_ns
            lots = self._lots(connection, events, clock, now)
            for state, parts in lots.values():
                await self._hand_over(state, parts)
            await self._reject([event for event in events if type(event) is Rejected])
            if clock.ts_ns - clock.swept_ns >= QUIET_NS:
                clock.swept_ns = clock.ts_ns
                await self._tick_quiet(connection, clock.ts_ns, now, by_clock=False)

    def _lots(
        self, connection: Connection, events: list[Event], clock: VenueClock, now: float
    ) -> dict[str, tuple[SymbolState, list[Part]]]:
        """What is to be handed on, by symbol, in the order it came."""
        lots: dict[str, tuple[SymbolState, list[Part]]] = {}

        def add(state: SymbolState, part: Part) -> None:
            if len(part[1]):
                lots.setdefault(state.symbol, (state, []))[1].append(part)

        for event in events:
            if isinstance(event, Trades):
                state = self._states.get(event.symbol)
                if state is None:
                    self._ignore("not subscribed", len(event.records))
                    continue
                add(state, ("trade", state.trades.live(event.records, now)))
                self._repairs.look(state)
            elif isinstance(event, Candles):
                state = self._states.get(event.symbol)
                if state is None:
                    self._ignore("not subscribed", len(event.records))
                    continue
                for part in self._live_bars(state, event.records, now):
                    add(state, part)
                self._repairs.look(state)
            elif isinstance(event, Ignored):
                self._ignore(event.name, event.messages)
            elif isinstance(event, VenueError):
                self._counts["venue errors"] += 1
                _log.error("%s refused: %s", connection.name, event.text, extra={"action": "venue_error"})
            elif isinstance(event, VenueClosing):
                _log.info("%s: %s", connection.name, event.text, extra={"action": "venue_closing"})
                connection.roll()
        if clock.ts_ns and self._unobserved:
            for symbol in self._unobserved.intersection(self._connections.get(connection, ())) - lots.keys():
                state = self._states[symbol]
                # of one whose first trades are held back or fetched, these will say since when
                if state.trades.sequence.missing is None:
                    add(state, self._observed(state, clock.ts_ns))
        return lots

    def _observed(self, state: SymbolState, since_ns: int) -> Part:
        state.observed = True
        self._unobserved.discard(state.symbol)
        state.newest_ns = max(state.newest_ns, since_ns)
        return CoverageEvent(Coverage.OBSERVED, since_ns, since_ns, reason="subscribed").part()

    def _live_bars(self, state: SymbolState, records: Records, now: float) -> list[Part]:
        timeframes = records["timeframe"]
        return [
            ("candle", track.live(records[timeframes == timeframe], now)) for timeframe, track in state.bars.items()
        ]

    def _ignore(self, name: str, count: int) -> None:
        known = name in self._ignored or len(self._ignored) < MAX_NAMES
        self._ignored[name if known else "other"] += count

    async def _reject(self, rejected: list[Rejected]) -> None:
        for one in rejected:
            self._rejected[one.rule] += 1
            if self._on_rejected is not None:
                await self._on_rejected(one)
        if not rejected:
            return
        first = rejected[0]
        _log.warning(
            "%d messages were rejected; the first, of %s: %s (%s)",
            len(rejected),
            first.symbol,
            first.rule,
            first.detail,
            extra={"action": "rejected", "symbol": first.symbol, "rule": first.rule},
        )
        finer = sorted({one.symbol for one in rejected if one.symbol and one.rule in ("precision", "range")})
        if finer:
            self._spawn(self._refresh(finer), "refresh after a rejection")

    async def _hand_over(self, state: SymbolState, parts: list[Part]) -> None:
        """To the sink; only with `_order` held."""
        if not parts:
            return
        if not state.observed:
            first = next((records for kind, records in parts if kind == "trade"), None)
            if first is not None:
                parts = [self._observed(state, int(first["ts_event"][0])), *parts]
        for kind, records in parts:
            self._counts[kind] += len(records)
            if kind in ("trade", "tick"):
                state.newest_ns = max(state.newest_ns, int(records["ts_event"].max()))
                state.sent_at = time.monotonic()
        await self._sink.send(state.instrument, parts, observed=True)

    # ---- quiet symbols ------------------------------------------------------------------------

    async def _look_for_quiet(self) -> None:
        """While nothing comes time goes on by this machine's clock, as long as the venue is known to be there."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            async with self._order:
                for connection in list(self._connections):
                    now, clock = time.monotonic(), self._clocks[connection]
                    # with messages unread, time is what they say
                    if not clock.ts_ns or connection.pending or connection.silent_seconds(now) > ALIVE_SECONDS:
                        continue
                    await self._tick_quiet(connection, clock.now_ns(now), now, by_clock=True)

    async def _tick_quiet(self, connection: Connection, venue_ns: int, now: float, *, by_clock: bool) -> None:
        for symbol in list(self._connections.get(connection, ())):
            state = self._states.get(symbol)
            if state is None or not state.observed or venue_ns - state.newest_ns < QUIET_NS:
                continue
            # what is missing or held back is older than the tick would be
            if state.trades.sequence.missing is not None or (by_clock and now - state.sent_at < QUIET_SECONDS):
                continue
            await self._hand_over(state, [tick(venue_ns)])

    def statistics(self) -> FeedStatistics:
        tracks = [track for state in self._states.values() for track in state.tracks]
        repairs = self._repairs.counts
        return FeedStatistics(
            venue=self.venue.name,
            symbols=len(self._states),
            messages=self._counts["messages"],
            trades=self._counts["trade"],
            candles=self._counts["candle"],
            ticks=self._counts["tick"],
            duplicates=sum(track.sequence.duplicates for track in tracks),
            held=sum(track.sequence.held for track in tracks),
            repairing=sum(track.is_repaired for track in tracks),
            filled=repairs["filled"],
            gaps=repairs["gaps"],
            lost=repairs["lost"],
            rejected=dict(self._rejected),
            ignored=dict(self._ignored),
            venue_errors=self._counts["venue errors"],
            unknown_symbols=sorted(self._unknown),
            lag_ns=self._lag_ns,
            connections=[connection.statistics() for connection in self._connections],
            rest=self._rest.statistics(),
        )


__all__ = ["Feed", "FeedSettings", "FeedStatistics", "Part", "Sink"]
