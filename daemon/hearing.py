"""Whether each stream that the ledger calls observed is still heard: OBSERVED ends at the last moment that was.

A feed tells a trade or the venue's time of each of its instruments every second or so, as long as it hears the venue.
When nothing comes for `SILENT_SECONDS`, for whatever reason (the feed was killed, hangs, is not started any more, has
lost the venue, fetches a long stretch), the ledger gets an ENDED at the newest that was heard. A feed that speaks again
goes on where ingest's knowledge ends, and tells itself what it missed and what it fetched; so ingest then only says
OBSERVED from there on, before what the feed has to say. All of it is journaled, and so holds over restarts.

A venue that the configuration has no more, or has disabled, is not waited for: the bars that were forming get their
last version, as those of a symbol that was removed do.

Producers have venues of their own, and may be silent: what they say of the ledger is their word.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence

import numpy as np

from marketd.daemon.instrument_state import InstrumentState
from marketd.daemon.kernel import COVERAGE_KIND, TICK_KIND, TRADE_KIND, coverage_record
from marketd.daemon.live_lane import LiveLane
from marketd.daemon.observed_streams import BARS, BOOK, TRADES
from marketd.daemon.orphans import lost_since
from marketd.market.instruments import CONSOLIDATED_VENUE, VENUES
from marketd.market.records import BookState, Coverage, Ended, Kind, Records
from marketd.market.times import ABSENT

_log = logging.getLogger(__name__)

SILENT_SECONDS = 5.0  # a feed that was killed is back before
LOOK_SECONDS = 0.5
_TELLING = (Coverage.OBSERVED, Coverage.GAP, Coverage.BACKFILLED)

Parts = Sequence[tuple[Kind, Records]]


class Hearing:
    """`hear` before each batch of a feed, `look` with each heartbeat once nothing waits to be read."""

    def __init__(self, lane: LiveLane) -> None:
        self._lane = lane
        self._heard: dict[int, float] = {}  # instrument -> when it was heard, monotonic s
        self._looked = 0.0
        self.followed: Collection[str] = VENUES  # whose feeds the configuration wants

    # ---- heard --------------------------------------------------------------------------------

    def hear(self, state: InstrumentState, parts: Parts | None) -> None:
        """A feed's batch comes next; `parts` None: trades."""
        if parts is None or any(kind is TRADE_KIND or kind is TICK_KIND for kind, _ in parts):
            self._heard[state.instrument.id] = time.monotonic()
        if state.observed.has_ended:
            self._begin_again(state, parts)

    def _begin_again(self, state: InstrumentState, parts: Parts | None) -> None:
        heard, told = ({TRADES}, set[int]()) if parts is None else _spoken_of(parts)
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
        self._looked = now
        silent = [state for state in self._lane.kernel.states if self._is_silent(state, now)]
        if silent and self._lane.journal.has_room:  # else at a later look
            for state in silent:
                self._end(state)
            _log.warning(
                "nothing is heard any more of %d instruments, such as %s",
                len(silent),
                silent[0].instrument.name,
                extra={"action": "not_heard", "instruments": len(silent)},
            )

    def _is_silent(self, state: InstrumentState, now: float) -> bool:
        instrument = state.instrument
        if instrument.venue not in VENUES or instrument.venue == CONSOLIDATED_VENUE:
            return False
        if not state.observed.now and not self._is_left(state):
            return False
        return now - self._heard.setdefault(instrument.id, now) > SILENT_SECONDS

    def _is_left(self, state: InstrumentState) -> bool:
        """Are bars forming that no feed will go on with?"""
        return state.instrument.venue not in self.followed and state.fold.has_unflushed

    def _end(self, state: InstrumentState) -> None:
        is_left = self._is_left(state)
        ends = self._ends_of(state)
        if is_left:
            ends.setdefault(TRADES, state.fold.heard_ns)
        bars, reason = (
            (Ended.BARS_CLOSED, "its venue is not followed") if is_left else (Ended.BARS_GO_ON, "nothing is heard")
        )
        events = [
            coverage_record(Coverage.ENDED, end, end, stream=stream, detail=bars, reason=reason)
            for stream, end in ends.items()
        ]
        self._tell(state, events)

    def _ends_of(self, state: InstrumentState) -> dict[int, int]:
        """The last moment heard of each stream that is observed."""
        heard = max(state.fold.heard_ns, _newest_bar(state))
        lost = lost_since(self._lane.publisher.books_of(state.instrument))
        book = max(state.newest, heard) if lost is None else lost
        return {stream: book if stream == BOOK else heard for stream in state.observed.now}

    def _tell(self, state: InstrumentState, events: list[Records]) -> None:
        """With the next batch, where the journal has no room now."""
        if events and self._lane.journal.has_room:
            self._lane.record_coverage(state.instrument, np.concatenate(events))


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
