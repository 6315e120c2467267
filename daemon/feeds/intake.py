"""What a feed's messages become: batches for the sink, by symbol, and counts of all that is no record.

Only with the feed's order lock held: from a sequence's decision until its records are handed over nobody else may
decide, or two connections and the repairs would overtake each other.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

from marketd.daemon.feeds import series as declared
from marketd.daemon.feeds.adapter import (
    BookDelta,
    BookSnapshot,
    Candles,
    Event,
    Ignored,
    MessagesLost,
    Rejected,
    Series,
    Trades,
    VenueError,
    VenueTime,
)
from marketd.daemon.feeds.feed_books import FeedBooks
from marketd.daemon.feeds.feed_model import Sink
from marketd.daemon.feeds.repair import Repairs
from marketd.daemon.feeds.symbol_state import CoverageEvent, Part, SymbolState, tick
from marketd.market.records import Coverage, Kind, newest_of
from marketd.market.times import ABSENT, NS_PER_SECOND

_log = logging.getLogger(__name__)

QUIET_NS = NS_PER_SECOND  # without a trade: then a TICK
QUIET_SECONDS = 1.0
MAX_NAMES = 100  # of ignored messages that are counted apart

Lots = dict[str, tuple[SymbolState, list[Part]]]  # by symbol, what is to be handed on, in the order it came


class Intake:
    def __init__(
        self,
        states: dict[str, SymbolState],
        books: FeedBooks,
        sink: Sink,
        series: dict[str, Kind],
        *,
        on_rejected: Callable[[Rejected], Awaitable[None]] | None,
        refresh: Callable[[list[str]], None],
    ) -> None:
        self._states = states
        self._books = books
        self._sink = sink
        self._series = series
        self._on_rejected = on_rejected
        self._refresh = refresh  # asks for the rules of symbols again
        self.repairs: Repairs  # set once, by the feed: each needs the other
        self.on_trades: Callable[[SymbolState], None]  # likewise; before live ones are handed on
        self.counts: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.unobserved: set[str] = set()  # symbols of which nothing has come yet, ever

    # ---- events -------------------------------------------------------------------------------

    async def take(
        self,
        events: Sequence[Event],
        symbols: Collection[str],
        venue_ns: int,
        now: float,
        clocked_by: Callable[[], Collection[str]],
    ) -> None:
        """What the messages of a connection said; `symbols` are all of that connection, `clocked_by` those whose trades
        come over it: the time of another one says nothing of them."""
        lots = self._lots(events, now)
        if venue_ns and self.unobserved:
            self._begin_observed(lots, clocked_by(), venue_ns)
        self._keep_books(lots, events, symbols)
        for state, parts in lots.values():
            await self.hand_over(state, parts)
        await self.reject([event for event in events if type(event) is Rejected])

    def _lots(self, events: Iterable[Event], now: float) -> Lots:
        lots: Lots = {}
        for event in events:
            if isinstance(event, (BookDelta, VenueTime)):  # as most are
                continue
            if isinstance(event, (Trades, Candles, Series)):
                state = self._states.get(event.symbol)
                if state is None:
                    self.ignore("not subscribed", len(event.records))
                    continue
                _add_all(lots, state, self._parts(state, event, now))
                self.repairs.look(state)
            elif isinstance(event, Ignored):
                self.ignore(event.name, event.messages)
            elif isinstance(event, VenueError):
                self.counts["venue errors"] += 1
                _log.error("the venue refused: %s", event.text, extra={"action": "venue_error"})
            elif isinstance(event, MessagesLost):
                _log.warning("the connection lost messages: %s", event.words, extra={"action": "messages_lost"})
        return lots

    def _parts(self, state: SymbolState, event: Trades | Candles | Series, now: float) -> list[Part]:
        records = event.records
        if isinstance(event, Trades):
            if len(records):
                self.on_trades(state)
                state.saw_trades(int(records["ts_event"][-1]), now)
            return [("trade", state.trades.live(records, now))]
        if isinstance(event, Candles):
            parts: list[Part] = []
            for frame, track in state.bars.items():
                bars = records[records["timeframe"] == frame]
                state.saw_bars(frame, bars)
                parts.append(("candle", track.live(bars, now)))
            return parts
        state.series_at[event.stream] = now
        kind = self._series.get(event.stream)
        if kind is None:
            self.ignore(f"series {event.stream}", len(records))
            return []
        return [(kind.name, declared.conform(records, kind))]

    def _keep_books(self, lots: Lots, events: Iterable[Event], symbols: Collection[str]) -> None:
        """The books' events in the order of their messages, after the trades that came with them."""
        if not self._books.are_kept:
            return
        for state, parts in list(lots.values()):
            trades = [records for kind, records in parts if kind == "trade"]
            self._books.trades(state, trades)
            _add_all(lots, state, self._books.witness(state, trades))
        times: dict[str, int] = {}  # of symbols whose books were touched, or whose time went on
        books, states = self._books, self._states
        for event in events:
            if isinstance(event, (BookDelta, BookSnapshot)):
                if (kept := states.get(event.symbol)) and (parts := books.take(kept, event)):
                    _add_all(lots, kept, parts)
                times.setdefault(event.symbol, ABSENT)
            elif isinstance(event, VenueTime):
                times[event.symbol] = event.ts_ns
            elif isinstance(event, MessagesLost):
                for kept in filter(None, map(states.get, symbols)):
                    _add_all(lots, kept, books.hole(kept))
            elif isinstance(event, Rejected) and event.book:
                for symbol in symbols if event.symbol is None else [event.symbol]:
                    if kept := states.get(symbol):
                        _add_all(lots, kept, books.damaged(kept))
        for symbol, ts_ns in times.items():
            if (kept := states.get(symbol)) and (parts := books.time(kept, ts_ns)):
                _add_all(lots, kept, parts)

    def _begin_observed(self, lots: Lots, symbols: Collection[str], venue_ns: int) -> None:
        for symbol in self.unobserved.intersection(symbols) - lots.keys():
            state = self._states[symbol]
            if state.observed:  # after an outage
                self.unobserved.discard(symbol)
                continue
            # of one whose first trades are held back or fetched, these will say since when
            if state.is_heard and state.trades.sequence.missing is None:
                _add(lots, state, self._observed(state, venue_ns))

    def _begun(self, state: SymbolState, parts: list[Part]) -> list[Part]:
        """With OBSERVED of what is now heard of for the first time."""
        firsts = {kind: records for kind, records in reversed(parts)}
        begun: list[Part] = []
        if not state.observed and "trade" in firsts:
            begun.append(self._observed(state, int(firsts["trade"]["ts_event"][0])))
        if not state.observes_bars and "candle" in firsts:
            state.observes_bars = True
            since_ns = int(firsts["candle"]["ts"].min())
            begun.append(CoverageEvent(Coverage.OBSERVED, since_ns, since_ns, "candle", reason="subscribed").part())
        for kind in [kind for kind in state.series if kind in firsts and kind not in state.observed_series]:
            state.observed_series.add(kind)
            since_ns = int(firsts[kind]["ts_event"].min())
            begun.append(state.event(Coverage.OBSERVED, kind, since_ns, since_ns, "subscribed"))
        return [*begun, *parts]

    def _observed(self, state: SymbolState, since_ns: int) -> Part:
        state.observed = True
        self.unobserved.discard(state.symbol)
        state.newest_ns = max(state.newest_ns, since_ns)
        return CoverageEvent(Coverage.OBSERVED, since_ns, since_ns, reason="subscribed").part()

    def ignore(self, name: str, count: int) -> None:
        known = name in self.ignored or len(self.ignored) < MAX_NAMES
        self.ignored[name if known else "other"] += count

    async def reject(self, rejected: list[Rejected]) -> None:
        for one in rejected:
            self.rejected[one.rule] += 1
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
            self._refresh(finer)

    async def hand_over(self, state: SymbolState, parts: list[Part]) -> None:
        """To the sink."""
        if not parts:
            return
        if state.is_beginning:
            parts = self._begun(state, parts)
        for kind, records in parts:
            self.counts[kind] += len(records)
            if kind in ("trade", "tick"):
                state.newest_ns = max(state.newest_ns, newest_of(records, "ts_event"))
                state.sent_at = time.monotonic()
        await self._sink.send(state.instrument, parts, observed=True)

    async def hand_over_repaired(self, state: SymbolState, parts: list[Part]) -> None:
        """What a repair brings: its trades are as much the market's volume as those that came live."""
        self._books.repaired(state, parts)
        await self.hand_over(state, parts)

    # ---- time ---------------------------------------------------------------------------------

    async def tick_quiet(self, symbols: Iterable[str], venue_ns: int, now: float, *, by_clock: bool) -> None:
        """A TICK for each symbol that was silent for a second; what its book has to say at this time."""
        for symbol in symbols:
            state = self._states.get(symbol)
            if state is None:
                continue
            parts = self._books.time(state, venue_ns) if self._books.are_kept else []
            if self._is_quiet(state, venue_ns, now, by_clock=by_clock):
                parts.append(tick(venue_ns))
            await self.hand_over(state, parts)

    @staticmethod
    def _is_quiet(state: SymbolState, venue_ns: int, now: float, *, by_clock: bool) -> bool:
        if not (state.observed and state.is_heard) or venue_ns - state.newest_ns < QUIET_NS:
            return False
        # what is missing or held back is older than the tick would be
        return state.trades.sequence.missing is None and not (by_clock and now - state.sent_at < QUIET_SECONDS)


def _add_all(lots: Lots, state: SymbolState, parts: Iterable[Part]) -> None:
    for part in parts:
        _add(lots, state, part)


def _add(lots: Lots, state: SymbolState, part: Part) -> None:
    if len(part[1]):
        lots.setdefault(state.symbol, (state, []))[1].append(part)
