"""Whether each stream that the ledger calls observed is still heard: OBSERVED ends at the last moment that was.

A feed tells a trade or the venue's time of each of its instruments every second or so, as long as it hears the venue.
When nothing comes for `SILENT_SECONDS`, for whatever reason (the feed was killed, hangs, is not started any more,
fetches a long stretch, or has found that trades are silent), the ledger gets an ENDED at the newest that was heard; but
not of a stream whose own records come on from a feed that lives. A feed that speaks again goes on where ingest's
knowledge ends, and tells itself what it missed and what it fetched; so ingest then only says OBSERVED from there on,
before what the feed has to say. All of it is journaled, and so holds over restarts.

A feed whose venue is away lives, and says so itself (VENUE_DOWN, `feeds.outages`): what is down by its word is not
ended as long as the feed shows that it lives. Once it does not, nobody knows of the venue: ENDED at the last sign of
life.

A symbol that the configuration has no more, or whose venue it has not, or has disabled, is not waited for: the bars
that were forming get their last version, as those of a symbol that was removed under the eyes of its feed do.

Producers have venues of their own, and may be silent: what they say of the ledger is their word.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from marketd.daemon.feeds.venues import VENUES
from marketd.daemon.instrument_state import InstrumentState
from marketd.daemon.kernel import COVERAGE_KIND, TICK_KIND, TRADE_KIND, coverage_record
from marketd.daemon.live_lane import LiveLane
from marketd.daemon.observed_streams import BARS, BOOK, TRADES
from marketd.daemon.orphans import lost_since
from marketd.market.instruments import Instrument
from marketd.market.records import BookState, Coverage, Ended, Kind, Records
from marketd.market.times import ABSENT, NS_PER_SECOND

_log = logging.getLogger(__name__)

SILENT_SECONDS = 5.0  # a feed that was killed is back before
OWN_SECONDS = 90.0  # in which a stream that is not trades has a record: the venue's bars have one a minute
LOOK_SECONDS = 0.5
_FEW_TRADES = ({TRADES}, set[int]())  # what a batch of trades alone speaks of: nearly all are that
_TELLING = (Coverage.OBSERVED, Coverage.GAP, Coverage.BACKFILLED)

Parts = Sequence[tuple[Kind, Records]]


class Hearing:
    """`hear` before each batch of a feed, `look` with each heartbeat once nothing waits to be read."""

    def __init__(self, lane: LiveLane) -> None:
        self._lane = lane
        self._heard: dict[int, float] = {}  # instrument -> when it was heard, monotonic s
        self._own: dict[tuple[int, int], float] = {}  # (instrument, stream but trades) -> when a record of it came
        self._alive: dict[str, tuple[float, int]] = {}  # venue -> its feed's last sign of life, monotonic s and ns
        self._looked = 0.0
        self.followed: Mapping[str, Collection[str]] | None = None  # venue -> symbols that the configuration wants

    def begin(self, last_alive_ns: int) -> None:
        """Before anybody is heard: of what was down when ingest was there last, long ago, it can say no more."""
        if self._lane.clock.now() - last_alive_ns <= SILENT_SECONDS * NS_PER_SECOND:
            return
        for state in self._lane.kernel.states:
            if state.observed.down:
                self._alive[state.instrument.venue] = time.monotonic(), last_alive_ns
                self._end(state, state.observed.down)

    # ---- heard --------------------------------------------------------------------------------

    def alive(self, venue: str) -> None:
        """A feed's sign of life; "": of one that does not say whose it is."""
        if venue in VENUES:
            self._alive[venue] = time.monotonic(), self._lane.clock.now()

    def hear(self, state: InstrumentState, parts: Parts | None) -> None:
        """A feed's batch comes next; `parts` None: trades."""
        if parts is None or any(_is_heard_by(kind, records) for kind, records in parts):
            self._heard[state.instrument.id] = time.monotonic()
        heard, told = _FEW_TRADES if parts is None else _spoken_of(parts)
        if parts is not None:
            for stream in heard - {TRADES}:
                self._own[state.instrument.id, stream] = time.monotonic()
        if state.observed.has_ended:
            self._begin_again(state, heard, told)

    def _begin_again(self, state: InstrumentState, heard: set[int], told: set[int]) -> None:
        since = {stream: until for stream, until in state.observed.ended.items() if stream in heard - told}
        # what was fetched while nobody listened is where the feed goes on from
        fetched = {TRADES: state.last_trade_ts, BARS: _newest_bar(state)}
        events = [
            coverage_record(Coverage.OBSERVED, start, start, stream=stream, reason="heard again")
            for stream, until in since.items()
            for start in [max(until, fetched.get(stream, ABSENT))]
        ]
        self._tell(state, events)

    # ---- not heard ----------------------------------------------------------------------------

    def look(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        if now - self._looked > SILENT_SECONDS / 2:
            self._heard.clear()  # it was we who did not listen
            self._own = dict.fromkeys(self._own, now)
            self._alive = {venue: (now, alive_ns) for venue, (_, alive_ns) in self._alive.items()}
        self._looked = now
        looked = [(state, self._silent(state, now)) for state in self._lane.kernel.states]
        silent = [(state, streams) for state, streams in looked if streams is not None]
        if silent and self._lane.journal.has_room:  # else at a later look
            for state, streams in silent:
                self._end(state, streams)
            _log.warning(
                "nothing is heard any more of %d instruments, such as %s",
                len(silent),
                silent[0][0].instrument.name,
                extra={"action": "not_heard", "instruments": len(silent)},
            )

    def _silent(self, state: InstrumentState, now: float) -> set[int] | None:
        """The streams that end; None where there is nothing to say."""
        instrument, observed = state.instrument, state.observed
        if instrument.venue not in VENUES:
            return None
        down = observed.down
        has_feed = bool(down) and self._has_feed(instrument.venue, now)
        ends = set() if has_feed else set(down)
        is_awaited = bool(observed.now or self._is_left(state)) and not (has_feed and TRADES in down)
        if is_awaited and now - self._heard.setdefault(instrument.id, now) > SILENT_SECONDS:
            ends |= {stream for stream in observed.now if not self._comes_by_itself(instrument, stream, now)}
            return ends if ends or self._is_left(state) else None
        return ends or None

    def _comes_by_itself(self, instrument: Instrument, stream: int, now: float) -> bool:
        """Trades are silent, and this stream is not: its feed lives, and sends it."""
        alive = self._alive.get(instrument.venue)
        is_alive = alive is not None and now - alive[0] <= SILENT_SECONDS
        return is_alive and now - self._own.get((instrument.id, stream), float("-inf")) <= OWN_SECONDS

    def _has_feed(self, venue: str, now: float) -> bool:
        return now - self._alive.setdefault(venue, (now, self._lane.clock.now()))[0] <= SILENT_SECONDS

    def _is_left(self, state: InstrumentState) -> bool:
        """Are bars forming that no feed will go on with?"""
        if self.followed is None or not state.fold.has_unflushed:
            return False
        return state.instrument.symbol not in self.followed.get(state.instrument.venue, ())

    def _end(self, state: InstrumentState, streams: Collection[int]) -> None:
        is_left = self._is_left(state)
        ends = self._ends_of(state, streams)
        if is_left:
            ends.setdefault(TRADES, state.fold.heard_ns)
        bars, reason = (
            (Ended.BARS_CLOSED, "it is not followed any more") if is_left else (Ended.BARS_GO_ON, "nothing is heard")
        )
        events = [
            coverage_record(Coverage.ENDED, end, end, stream=stream, detail=bars, reason=reason)
            for stream, end in ends.items()
        ]
        self._tell(state, events)

    def _ends_of(self, state: InstrumentState, streams: Collection[int]) -> dict[int, int]:
        """The last moment heard of each of these streams that is observed; of one that is down, of its feed."""
        heard = max(state.fold.heard_ns, _newest_bar(state))
        lost = lost_since(self._lane.publisher.books_of(state.instrument))
        book = max(state.newest, heard) if lost is None else lost
        _, alive_ns = self._alive.get(state.instrument.venue, (0.0, self._lane.clock.now()))
        ends = {stream: max(since, book if stream == BOOK else heard) for stream, since in state.observed.now.items()}
        ends |= {stream: max(since, alive_ns) for stream, since in state.observed.down.items()}
        return {stream: end for stream, end in ends.items() if stream in streams}

    def _tell(self, state: InstrumentState, events: list[Records]) -> None:
        """With the next batch, where the journal has no room now."""
        if events and self._lane.journal.has_room:
            self._lane.record_coverage(state.instrument, np.concatenate(events))


def _is_heard_by(kind: Kind, records: Records) -> bool:
    """A trade or the venue's time; or the word that a stream is observed from now on."""
    if kind is COVERAGE_KIND:
        return bool((records["state"] == Coverage.OBSERVED).any())
    return kind is TRADE_KIND or kind is TICK_KIND


def _newest_bar(state: InstrumentState) -> int:
    """When the newest of the venue's bars opened."""
    return max(state.venue_bars.values(), default=ABSENT)


def _spoken_of(parts: Parts) -> tuple[set[int], set[int]]:
    """The streams that a batch continues, and those of which it says itself since when they are observed."""
    heard, told = set[int](), set[int]()
    for kind, records in parts:
        if kind is COVERAGE_KIND:
            states = records["state"]
            heard.update(records["stream"][np.isin(states, _TELLING)].tolist())
            told.update(records["stream"][states == Coverage.OBSERVED].tolist())
        elif kind is TICK_KIND:
            heard.add(TRADES)
        elif kind.id != BOOK or (records["state"] == BookState.LIVE).any():
            heard.add(kind.id)
    return heard, told
