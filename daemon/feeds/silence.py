"""Streams that a venue has taken and does not send: what can be known of a silence, without alarms in quiet markets.

Neither an answer to a subscription nor a list of subscriptions is a proof: Binance acknowledges, and lists, what it
never sends at that address. What is one:

trades      the venue has newer ones over REST than the stream has brought, some seconds later too. Who was silent for a
            while is asked about, one after the other, within a tenth of the venue's budget. Then the symbol is heard no
            more: a GAP since the last trade, no further ticks, so that OBSERVED ends, until a trade comes
bars        trades of two intervals came, and no bar of the first for half a minute: they are fetched over REST
series      where the venue sends one at least every so many seconds, many times that without one

Each is told once (`stream_silent`) and stands in `silent` until the stream is heard. Now and then the connection is
made anew: a venue may have lost a subscription.
"""

from __future__ import annotations

import asyncio
import logging
import time

from marketd.daemon.feeds.adapter import VenueAdapter, VenueRefused
from marketd.daemon.feeds.connection import Connection
from marketd.daemon.feeds.repair import Repairs
from marketd.daemon.feeds.rest import RestClient, RestFailed
from marketd.daemon.feeds.roster import Roster
from marketd.daemon.feeds.symbol_state import CoverageEvent, HandOver, SymbolState
from marketd.market.errors import Timeout
from marketd.market.records import Coverage, Records
from marketd.market.times import ABSENT

_log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
DUE_SECONDS = 5.0  # between two looks at what is due
QUIET_SECONDS = 20.0  # without a trade: then the venue is asked, and again after twice as long
QUIET_CAP_SECONDS = 600.0
SETTLE_SECONDS = 5.0  # for the stream to bring what REST has already
REQUEST_SECONDS = 10.0
SHARE = 10  # of the venue's budget is for these questions
SPARE = 0.5  # of the budget is left to what is more urgent
LATE_SECONDS = 30.0  # a bar after its interval; the least silence of a series that says something
MISSED = 3  # times a series' interval
ANEW_SECONDS = 600.0  # a connection is made anew for a silent stream at most so often


class Silence:
    def __init__(
        self,
        adapter: VenueAdapter,
        rest: RestClient,
        roster: Roster,
        repairs: Repairs,
        *,
        order: asyncio.Lock,
        hand_over: HandOver,
        weight_per_minute: int,
    ) -> None:
        self._adapter = adapter
        self._rest = rest
        self._roster = roster
        self._repairs = repairs
        self._order = order
        self._hand_over = hand_over
        self._weight_per_minute = weight_per_minute
        self._silent: dict[str, set[str]] = {}  # by symbol: which of its streams
        self._waits: dict[str, float] = {}  # by symbol: seconds of quiet after which the venue is asked
        self._anew: dict[Connection, float] = {}  # when it was made anew, monotonic s

    @property
    def silent(self) -> dict[str, str]:
        """The streams that do not come, by symbol."""
        return {symbol: ", ".join(sorted(streams)) for symbol, streams in self._silent.items()}

    async def run(self) -> None:
        await asyncio.gather(self._watch_trades(), self._watch_what_is_due())

    # ---- trades -------------------------------------------------------------------------------

    async def _watch_trades(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now, states = time.monotonic(), self._roster.states
            self._forget()
            quiet = [state for state in states.values() if self._is_quiet(state, now)]
            if quiet:
                # the one whose quiet is longest, by what was waited for it before
                await self._ask(max(quiet, key=lambda state: (now - state.trade_at) / self._wait_of(state)))

    def _wait_of(self, state: SymbolState) -> float:
        return self._waits.get(state.symbol, QUIET_SECONDS)

    def _is_quiet(self, state: SymbolState, now: float) -> bool:
        if now - state.trade_at < QUIET_SECONDS:
            self._waits.pop(state.symbol, None)
            return False
        sequence = state.trades.sequence
        is_known = state.is_heard and sequence.last is not None and sequence.missing is None
        return is_known and now - state.trade_at >= self._wait_of(state)

    async def _ask(self, state: SymbolState) -> None:
        """Whether the venue has newer trades; then once more what the stream has brought meanwhile."""
        symbol, trade_at = state.symbol, state.trade_at
        self._waits[symbol] = min(2 * self._wait_of(state), QUIET_CAP_SECONDS)
        request = self._adapter.newest_trade_request(symbol) or self._adapter.trades_request(symbol, 0)
        connection = self._roster.trades_connection_of(symbol)
        if request is None or connection is None or not connection.is_up:
            return
        try:
            body = await self._rest.get(request, time.monotonic() + REQUEST_SECONDS, spare=SPARE)
            newest = self._adapter.decode_trades(symbol, body).records
        except (RestFailed, VenueRefused, Timeout, KeyError):  # KeyError: it was removed meanwhile
            newest = None
        if newest is not None and state.trades.sequence.has_newer(newest):
            await asyncio.sleep(SETTLE_SECONDS)
            async with self._order:
                if self._is_still_silent(state, newest, trade_at):
                    await self._tell_trades(state, newest, connection)
        await asyncio.sleep(60.0 * SHARE * request.weight / self._weight_per_minute)

    @staticmethod
    def _is_still_silent(state: SymbolState, newest: Records, trade_at: float) -> bool:
        if state.removed or not state.is_heard or state.trade_at != trade_at:
            return False
        return state.trades.sequence.missing is None and state.trades.sequence.has_newer(newest)

    async def _tell_trades(self, state: SymbolState, newest: Records, connection: Connection) -> None:
        state.is_heard, state.is_silent = False, True  # until one comes
        since_ns = state.trades.last_ts
        if state.observed and since_ns != ABSENT and state.newest_ns > since_ns:
            gap = CoverageEvent(Coverage.GAP, since_ns, state.newest_ns, reason="the stream was silent")
            await self._hand_over(state, [gap.part()])
            state.newest_ns = since_ns  # what was ticked since was no time of its trades
        why = f"the venue has trades up to number {newest['trade_id'][-1]}, and has not sent them"
        self._tell(state, "trade", why, [connection])

    # ---- bars and series ----------------------------------------------------------------------

    async def _watch_what_is_due(self) -> None:
        while True:
            await asyncio.sleep(DUE_SECONDS)
            async with self._order:
                now = time.monotonic()
                for state in list(self._roster.states.values()):
                    up_since = self._roster.up_since(state.symbol)
                    if up_since is not None:
                        self._look_at_bars(state, now, up_since)
                        self._look_at_series(state, now, up_since)

    def _look_at_bars(self, state: SymbolState, now: float, up_since: float) -> None:
        for timeframe, track in state.bars.items():
            due, since = state.due_bars.get(timeframe, (0, now))
            sequence, name = track.sequence, f"candle {timeframe}s"
            if state.live_bars.get(timeframe, -1) >= due:
                self._hear(state, name)
            elif sequence.last is not None and sequence.last >= due:
                continue  # it was fetched
            elif now - max(since, up_since) > LATE_SECONDS and sequence.missing is None:
                self._tell(state, name, "trades came, and no bar of them", self._carrying(state, "candle"))
                sequence.begin_catch_up(due - 1 if sequence.last is None else None)
                self._repairs.look(state)

    def _look_at_series(self, state: SymbolState, now: float, up_since: float) -> None:
        for stream, interval in self._adapter.cadences(state.symbol).items():
            patience = max(LATE_SECONDS, MISSED * interval)
            if now - max(state.series_at.get(stream, 0.0), up_since) > patience:
                self._tell(state, stream, f"one comes every {interval:g} s at least", self._carrying(state, stream))
            elif stream in state.series_at:
                self._hear(state, stream)

    # ---- telling ------------------------------------------------------------------------------

    def _carrying(self, state: SymbolState, kind: str) -> list[Connection]:
        """The connections over which a kind of a symbol's records comes."""
        streams = state.streams.get(kind, frozenset())
        return [each for each in self._roster.connections_of(state.symbol) if streams.intersection(each.streams)]

    def _tell(self, state: SymbolState, stream: str, why: str, connections: list[Connection]) -> None:
        told = self._silent.setdefault(state.symbol, set())
        if stream in told:
            return
        told.add(stream)
        _log.warning(
            "%s: nothing comes of its %s stream, though the venue has taken the subscription: %s",
            state.instrument.name,
            stream,
            why,
            extra={"action": "stream_silent", "instrument": state.instrument.name, "stream": stream},
        )
        for each in connections:
            now = time.monotonic()
            if now - self._anew.get(each, float("-inf")) >= ANEW_SECONDS:
                self._anew[each] = now
                each.roll()

    def _hear(self, state: SymbolState, stream: str) -> None:
        told = self._silent.get(state.symbol)
        if told is None or stream not in told:
            return
        told.discard(stream)
        if not told:
            del self._silent[state.symbol]
        _log.info("%s: its %s stream is heard again", state.instrument.name, stream, extra={"action": "stream_heard"})

    def heard_trades(self, state: SymbolState) -> None:
        """One came. With the order lock held, before it is handed on."""
        told = self._silent.get(state.symbol)
        if told is not None and "trade" in told:
            self._hear(state, "trade")
            state.is_heard, state.is_silent = True, False
            state.begin_catch_up()

    def _forget(self) -> None:
        """What is of symbols and connections that are gone."""
        for symbol in [symbol for symbol in self._silent if symbol not in self._roster.states]:
            del self._silent[symbol]
        for connection in [each for each in self._anew if each not in self._roster.connections]:
            del self._anew[connection]
