"""The time in which a venue is away, as the ledger has it: VENUE_DOWN, from the last moment heard until the next.

A connection that is not up, or over which not even an answer to a ping comes, is away. After `AWAY_SECONDS` each stream
that it carries is told VENUE_DOWN without an end: whoever asks while it lasts must hear of it. With the first time that
the venue tells again the same comes with its end, and OBSERVED; only then are trades and bars of that time asked for
(`repair`), so that what was fetched lies over it. A shorter loss is told by what was missed, as ever; but a declared
series, of which nothing can be asked for, has a GAP of it. A polled one is away while polls are not answered.

The end of a feed is an end of VENUE_DOWN: from then on nobody knows. Only with the feed's order lock held.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from marketd.daemon.feeds.adapter import Series
from marketd.daemon.feeds.connection import Connection
from marketd.daemon.feeds.feed_books import FeedBooks
from marketd.daemon.feeds.repair import Repairs
from marketd.daemon.feeds.roster import Roster
from marketd.daemon.feeds.subscriptions import Subscriptions
from marketd.daemon.feeds.symbol_state import Down, HandOver, Part, SymbolState
from marketd.market.records import BY_NAME, Coverage, Ended
from marketd.market.times import ABSENT

_log = logging.getLogger(__name__)

AWAY_SECONDS = 3.0  # a venue that closes a connection, and takes the next one, was not away
ALIVE_SECONDS = 5.0  # since the venue was last heard: beyond, time does not go on by itself, and books are old
BY_CLOCK_SECONDS = 1.0  # a connection that was up so long and told no time is quiet: its time goes on by our clock
LOOK_SECONDS = 0.25  # between two looks at a connection of which something is to be told


class _Line:
    """What became of one connection, in monotonic s."""

    def __init__(self) -> None:
        self.up_at: float | None = None
        self.lost_at: float | None = None  # None: it is well
        self.is_told = False
        self.has_news = True  # some of its streams are down, lost, or not observed yet
        self.looked_at = float("-inf")

    def is_well(self) -> None:
        self.lost_at, self.is_told = None, False


class Outages:
    def __init__(
        self, roster: Roster, books: FeedBooks, repairs: Repairs, subscriptions: Subscriptions, hand_over: HandOver
    ) -> None:
        self._roster = roster
        self._books = books
        self._repairs = repairs
        self._subscriptions = subscriptions
        self._hand_over = hand_over
        self._lines: dict[Connection, _Line] = {}
        self._polled: dict[tuple[str, str], int] = {}  # (symbol, series) -> the newest time of an answer

    # ---- connections --------------------------------------------------------------------------

    def up(self, connection: Connection, now: float) -> None:
        line = self._line(connection)
        line.up_at, line.has_news = now, True

    def lost(self, connection: Connection, now: float) -> None:
        line = self._line(connection)
        line.up_at = None
        if line.lost_at is None:
            line.lost_at = now
        for state, kinds in self._carried(connection):
            for kind in state.observed_series.intersection(kinds) - state.down.keys():
                state.lost.setdefault(kind, self._heard_ns(connection, state, kind))

    def extended(self, connection: Connection) -> None:
        """It carries more than before."""
        self._line(connection).has_news = True

    async def look(self, connection: Connection, now: float) -> None:
        """From time to time: was it away for so long that the ledger must have it? Or is it only quiet?"""
        line = self._line(connection)
        if connection.is_up and (connection.pending or connection.silent_seconds(now) <= ALIVE_SECONDS):
            if connection.pending:
                line.lost_at = line.lost_at if line.is_told else None  # it speaks, and we are behind
            elif line.up_at is not None and now - line.up_at >= BY_CLOCK_SECONDS:
                await self._quiet(connection, line, now)
        elif line.lost_at is None:
            line.lost_at = now
        if line.lost_at is not None and not line.is_told and now - line.lost_at >= AWAY_SECONDS:
            line.is_told = line.has_news = True
            await self._tell(connection)

    async def _quiet(self, connection: Connection, line: _Line, now: float) -> None:
        clock = self._roster.clocks[connection]
        line.is_well()
        if line.has_news and clock.ts_ns:
            await self._heard(connection, line, clock.now_ns(now))

    async def heard(self, connection: Connection, now: float) -> None:
        """Messages came, and are not handed on yet."""
        line, clock = self._line(connection), self._roster.clocks.get(connection)
        if not line.has_news or clock is None or line.up_at is None or clock.at < line.up_at:
            return
        if line.lost_at is not None or now - line.looked_at >= LOOK_SECONDS:
            line.looked_at = now
            line.is_well()
            await self._heard(connection, line, clock.ts_ns)

    def _line(self, connection: Connection) -> _Line:
        line = self._lines.get(connection)
        if line is None:
            for gone in self._lines.keys() - self._roster.connections.keys():
                del self._lines[gone]
            line = self._lines[connection] = _Line()
        return line

    def _carried(self, connection: Connection) -> Iterator[tuple[SymbolState, list[str]]]:
        """The symbols of a connection, and the kinds that it carries of each."""
        carried = set(connection.streams)
        for state in self._roster.states_of(connection):
            yield state, [kind for kind, streams in state.streams.items() if streams and streams <= carried]

    def _heard_ns(self, connection: Connection, state: SymbolState, kind: str) -> int:
        """The last moment at which a kind was heard; now, where it never was by this process."""
        clock = self._roster.clocks.get(connection)
        heard = clock.ts_ns if clock is not None else 0
        if kind in ("trade", "candle"):
            heard = max(heard, state.newest_ns)
        return heard if heard > 0 else max(time.time_ns(), state.trades.last_ts)

    # ---- what the ledger hears ----------------------------------------------------------------

    async def _tell(self, connection: Connection) -> None:
        words = connection.trouble
        for state, kinds in self._carried(connection):
            parts: list[Part] = []
            for kind in kinds:
                if kind not in state.down:
                    since_ns = state.lost.pop(kind, None) or self._heard_ns(connection, state, kind)
                    parts += self._away(state, kind, since_ns, words)
            await self._hand_over(state, parts)
        _log.warning(
            "%s is away: %s", connection.name, words, extra={"action": "venue_down", "connection": connection.name}
        )

    def _away(self, state: SymbolState, kind: str, since_ns: int, words: str) -> list[Part]:
        if kind == "book":
            since_ns, parts = self._books.away(state, since_ns, words)
        else:
            parts = [state.event(Coverage.VENUE_DOWN, kind, since_ns, ABSENT, words)]
        state.down[kind] = Down(since_ns, words)
        return parts

    async def _heard(self, connection: Connection, line: _Line, now_ns: int) -> None:
        line.has_news = False
        for state, kinds in self._carried(connection):
            news = [kind for kind in kinds if _has_news(state, kind)]
            taken = [kind for kind in news if self._is_taken(state, kind)]
            line.has_news = line.has_news or len(taken) < len(news)
            if taken:
                await self._hand_over(state, [part for kind in taken for part in self._again(state, kind, now_ns)])
                self._repairs.look(state)

    def _is_taken(self, state: SymbolState, kind: str) -> bool:
        """Of one that was observed before the answer is not waited for: only trades are, and a refusal is told."""
        if kind == "trade":
            return state.is_heard
        if kind in state.down or kind in state.lost:
            return not any(map(self._subscriptions.is_refused, state.streams[kind]))
        return all(map(self._subscriptions.is_taken, state.streams[kind]))

    def _again(self, state: SymbolState, kind: str, now_ns: int) -> list[Part]:
        down, lost_ns = state.down.pop(kind, None), state.lost.pop(kind, None)
        if kind == "book":
            return self._books.heard(state, now_ns)
        parts: list[Part] = []
        if down is not None:
            now_ns = max(now_ns, down.since_ns)
            parts.append(state.event(Coverage.VENUE_DOWN, kind, down.since_ns, now_ns, down.words))
            _ask_for(state, kind, (down.since_ns, now_ns))
        elif lost_ns is not None and lost_ns < now_ns:
            parts.append(state.event(Coverage.GAP, kind, lost_ns, now_ns, "after a reconnect"))
        state.begin_observing(kind)
        parts.append(
            state.event(Coverage.OBSERVED, kind, now_ns, now_ns, "heard again" if down or lost_ns else "subscribed")
        )
        return parts

    def ended(self, state: SymbolState, reason: str, bars: Ended) -> list[Part]:
        """The symbol is not followed any more: nobody knows of its venue from now on."""
        now_ns, parts = self._roster.venue_now_ns(), list[Part]()
        self._polled = {key: newest_ns for key, newest_ns in self._polled.items() if key[0] != state.symbol}
        for kind, down in state.down.items():
            end_ns = max(now_ns, down.since_ns)
            parts.append(state.event(Coverage.VENUE_DOWN, kind, down.since_ns, end_ns, down.words))
            parts.append(state.event(Coverage.ENDED, kind, end_ns, end_ns, reason, int(bars)))
        return [*self._books.remove(state, reason), *parts, *state.ended(reason, bars)]

    # ---- what is polled -----------------------------------------------------------------------

    async def answered(self, state: SymbolState, event: Series) -> None:
        """A poll was, and its records are not handed on yet."""
        times, key = event.records["ts_event"], (state.symbol, event.stream)
        if not len(times) or state.streams.get(event.stream, True):
            return
        self._polled[key] = max(int(times.max()), self._polled.get(key, ABSENT))
        if _has_news(state, event.stream):
            await self._hand_over(state, self._again(state, event.stream, int(times.min())))

    async def not_answered(self, state: SymbolState, words: str) -> None:
        for kind in [kind for kind in state.observed_series - state.down.keys() if not state.streams[kind]]:
            since_ns = state.lost.pop(kind, None) or self._polled.get((state.symbol, kind))
            if since_ns is not None:
                await self._hand_over(state, self._away(state, kind, since_ns, words))

    # ---- statistics ---------------------------------------------------------------------------

    def troubles(self, now: float) -> list[str]:
        """Of each connection that is away, for how long, and what was said."""
        away = [(c, line.lost_at) for c, line in self._lines.items() if line.is_told and c in self._roster.connections]
        return [f"{c.name} for {now - lost_at:.0f} s: {c.trouble}" for c, lost_at in away if lost_at is not None]


def _has_news(state: SymbolState, kind: str) -> bool:
    return kind in state.down or kind in state.lost or (kind not in BY_NAME and kind not in state.observed_series)


def _ask_for(state: SymbolState, kind: str, outage: tuple[int, int]) -> None:
    """What came in an outage, where the venue can be asked for it."""
    for track in state.tracks:
        if track.kind == kind and track.can_ask and track.sequence.last is not None:
            track.outage = outage
