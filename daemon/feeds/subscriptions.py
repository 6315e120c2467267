"""Which streams of a feed the venue delivers, and which it refused: those are asked for again, slower and slower.

A symbol is heard from the moment the venue has taken the subscription of its trades, or the first of them came; streams
in a connection's address are taken with the connection. Before that nothing of it is OBSERVED, and its time stands.

A command of many streams is refused as a whole by some venues: then each is asked for alone, and what is refused alone
is refused. A refusal that names no stream is laid upon those of its connection that are still unanswered a while later.
The ledger has a refused stream's time as VENUE_DOWN, with the venue's own words. Only with the feed's order lock held,
but for the asking.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence

from marketd.daemon.feeds.adapter import (
    BookDelta,
    BookSnapshot,
    Event,
    Subscribed,
    Trades,
    VenueAdapter,
    VenueError,
)
from marketd.daemon.feeds.backoff import Backoff
from marketd.daemon.feeds.connection import Connection
from marketd.daemon.feeds.symbol_state import HandOver, SymbolState
from marketd.daemon.feeds.tasks import Tasks
from marketd.market.records import Coverage

_log = logging.getLogger(__name__)

RETRY_FIRST_SECONDS = 1.0
RETRY_CAP_SECONDS = 60.0  # and so the ledger of a refused symbol is never further behind
ANSWER_SECONDS = 5.0  # after a refusal that names no stream: who has no answer by then is meant


class _Refusal:
    """Of one stream. Until that was asked for alone another one of its command may be meant."""

    def __init__(self, state: SymbolState, kinds: list[str], connection: Connection, words: str) -> None:
        self.state = state
        self.kinds = kinds  # that it carries
        self.connection = connection
        self.words = words
        self.asked_alone = False
        self.is_certain = False
        self.since = time.monotonic()
        self.told_ns = 0  # until when the ledger has it; 0: it has nothing


class Subscriptions:
    def __init__(
        self,
        adapter: VenueAdapter,
        tasks: Tasks,
        *,
        order: asyncio.Lock,
        states_of: Callable[[Connection], list[SymbolState]],
        now_ns: Callable[[Connection], int],
        on_heard: Callable[[SymbolState], None],
    ) -> None:
        self._adapter = adapter
        self._tasks = tasks
        self._order = order
        self._states_of = states_of
        self._now_ns = now_ns  # the venue's time; 0 while nothing bore one
        self._on_heard = on_heard
        self.hand_over: HandOver  # set once, by the feed: each needs the other
        self._unanswered: dict[str, tuple[Connection, SymbolState]] = {}  # by stream
        self._refusals: dict[str, _Refusal] = {}  # by stream
        self._asking: set[Connection] = set()

    # ---- connections and symbols --------------------------------------------------------------

    def begin(
        self,
        connection: Connection,
        states: Iterable[SymbolState],
        streams: Collection[str],
        by_message: Collection[str],
    ) -> None:
        """These streams of a connection begin; those that are asked for by message wait for an answer."""
        for state in states:
            for stream in self._adapter.streams(state.symbol):
                if stream not in streams:
                    continue
                if stream in by_message:
                    self._unanswered[stream] = connection, state
                if stream == self._trades_of(state):
                    state.is_heard = stream not in by_message and not state.is_silent

    def forget(self, state: SymbolState) -> None:
        for stream in self._adapter.streams(state.symbol):
            self._unanswered.pop(stream, None)
            self._refusals.pop(stream, None)

    def _trades_of(self, state: SymbolState) -> str:
        return self._adapter.streams(state.symbol)[0]

    def is_refused(self, stream: str) -> bool:
        return stream in self._refusals

    def is_taken(self, stream: str) -> bool:
        return stream not in self._unanswered and stream not in self._refusals

    # ---- answers ------------------------------------------------------------------------------

    async def take(self, connection: Connection, events: Sequence[Event]) -> None:
        """What messages of a connection say of its streams; before their records are handed on."""
        waiting = self._unanswered or self._refusals
        for event in events:
            if isinstance(event, Subscribed):
                await self._accepted(event.streams)
            elif isinstance(event, VenueError):
                await self._refused(connection, event)
            elif waiting and isinstance(event, Trades):  # the first record is an answer too
                await self._accepted(self._adapter.streams(event.symbol)[:1])
            elif waiting and isinstance(event, (BookSnapshot, BookDelta)):
                await self._accepted(self._adapter.book_streams(event.symbol))

    async def _accepted(self, streams: Sequence[str]) -> None:
        for stream in streams:
            _, state = self._unanswered.pop(stream, (None, None))
            refusal = self._refusals.pop(stream, None)
            if refusal is not None:
                state = refusal.state
                await self._tell(refusal)
            if state is not None and not (state.is_heard or state.is_silent) and stream == self._trades_of(state):
                state.is_heard = True
                if refusal is not None:  # what came since may be missing
                    state.begin_catch_up()
                self._on_heard(state)

    async def _refused(self, connection: Connection, error: VenueError) -> None:
        if "already" in error.words.lower():  # it is subscribed
            await self._accepted(error.streams)
        elif error.streams:
            for stream in error.streams:
                self._unanswered.pop(stream, None)
                await self._refuse(connection, stream, error.words, is_alone=len(error.streams) == 1)
            self._look(connection)
        elif any(at is connection for at, _ in self._unanswered.values()):
            self._tasks.spawn(self._lay_upon_unanswered(connection, error), f"{connection.name} refusal")

    async def _lay_upon_unanswered(self, connection: Connection, error: VenueError) -> None:
        await asyncio.sleep(ANSWER_SECONDS)
        async with self._order:
            streams = tuple(stream for stream, (at, _) in self._unanswered.items() if at is connection)
            if streams and connection.is_up:
                await self._refused(connection, error._replace(streams=streams))

    async def _refuse(self, connection: Connection, stream: str, words: str, *, is_alone: bool) -> None:
        refusal, state = self._refusals.get(stream), self._owner_of(connection, stream)
        if state is None:
            return  # removed
        if refusal is None:
            refusal = self._refusals[stream] = _Refusal(state, _kinds_of(state, stream), connection, words)
        refusal.connection, refusal.words = connection, words
        was_certain, refusal.is_certain = refusal.is_certain, refusal.is_certain or is_alone or refusal.asked_alone
        if not refusal.is_certain:
            return
        if "trade" in refusal.kinds:
            state.is_heard = False
        level = logging.DEBUG if was_certain else logging.ERROR
        _log.log(level, "%s refuses %s: %s", connection.name, stream, words, extra={"action": "stream_refused"})
        await self._tell(refusal)

    def _owner_of(self, connection: Connection, stream: str) -> SymbolState | None:
        states = self._states_of(connection)
        return next((state for state in states if stream in self._adapter.streams(state.symbol)), None)

    async def _tell(self, refusal: _Refusal) -> None:
        """VENUE_DOWN up to now; of a symbol that was observed before, since the last that came."""
        if not refusal.is_certain:
            return
        state, now_ns = refusal.state, self._now_ns(refusal.connection)
        if not now_ns and time.monotonic() - refusal.since < ANSWER_SECONDS:
            return  # messages with a time may still come, and of a recording it is another one than ours
        now_ns = now_ns or time.time_ns()
        was_observed = any(state.observed if kind == "book" else state.observes(kind) for kind in refusal.kinds)
        since_ns = refusal.told_ns or (state.newest_ns if was_observed and state.newest_ns > 0 else now_ns)
        refusal.told_ns = max(since_ns, now_ns)
        span = since_ns, refusal.told_ns
        events = [state.event(Coverage.VENUE_DOWN, kind, *span, refusal.words) for kind in refusal.kinds]
        await self.hand_over(state, events)

    # ---- asking again -------------------------------------------------------------------------

    def _look(self, connection: Connection) -> None:
        if connection not in self._asking and self._of(connection):
            self._asking.add(connection)
            self._tasks.spawn(self._ask_again(connection), f"{connection.name} refused streams")

    def _of(self, connection: Connection) -> list[str]:
        return [stream for stream, refusal in self._refusals.items() if refusal.connection is connection]

    async def _ask_again(self, connection: Connection) -> None:
        """Each alone, until none is refused; a connection that was lost asks for all of them by itself."""
        backoff = Backoff(RETRY_FIRST_SECONDS, RETRY_CAP_SECONDS)
        try:
            while streams := self._of(connection):
                doubtful = [stream for stream in streams if not self._refusals[stream].asked_alone]
                if not doubtful:
                    await asyncio.sleep(backoff.next())
                for stream in doubtful or streams:
                    refusal = self._refusals.get(stream)
                    if refusal is not None and connection.is_up:
                        self._unanswered[stream] = connection, refusal.state
                        refusal.asked_alone = True
                        await connection.ask([stream])
        finally:
            self._asking.discard(connection)

    # ---- statistics ---------------------------------------------------------------------------

    @property
    def refusals(self) -> dict[str, str]:
        """What the venue said, by symbol."""
        certain = [refusal for refusal in self._refusals.values() if refusal.is_certain]
        return {refusal.state.symbol: refusal.words for refusal in certain}


def _kinds_of(state: SymbolState, stream: str) -> list[str]:
    """What a stream carries: of some venues funding and mark price come in the same messages."""
    return [kind for kind, streams in state.streams.items() if stream in streams]
