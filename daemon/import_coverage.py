"""What an import says of the ledger: what a recording heard, what the venue's ids show to be missing, where it ends."""

from __future__ import annotations

import numpy as np

from marketd.daemon.instrument_state import InstrumentState
from marketd.daemon.kernel import COVERAGE_KIND, TICK_KIND, coverage_record, tick_record
from marketd.daemon.observed_streams import TRADES
from marketd.market.records import Coverage, Ended, Kind, Records
from marketd.market.times import ABSENT, NS_PER_SECOND

Parts = list[tuple[Kind, Records]]

QUIET_NS = NS_PER_SECOND  # without a trade: then a TICK, as a feed does


class RecordedCoverage:
    """Of one venue's recording. Without `numbered_trades` nobody can tell what is missing."""

    def __init__(self, *, numbered_trades: bool) -> None:
        self._numbered = numbered_trades
        self._ticks: dict[int, int] = {}  # time of the newest TICK by instrument

    def before(self, state: InstrumentState, fresh: Parts) -> Parts:
        """What the ledger says before new trades are told; only by those that will be kept. A refused one leaves the
        ids as they were: its GAP would be told again with the next, and end at a time that may be the reason."""
        fresh = [(kind, records) for kind, records in fresh if len(records)]
        if not fresh:
            return []
        return self._observed(state, int(fresh[0][1]["ts_event"][0])) + self._gap_before(state, fresh)

    def at(self, state: InstrumentState, venue_ns: int) -> Parts:
        """What the venue's time brings: a TICK to an instrument that is quiet."""
        if TRADES not in state.observed:
            # before the first trade it is not known whether one is missing since the last recording
            return [] if state.observed.has_ended else self._observed(state, venue_ns)
        # books tell times too, but close no bars
        newest = max(state.last_trade_ts, self._ticks.get(state.instrument.id, ABSENT))
        if state.last_trade_ts == ABSENT or venue_ns - newest < QUIET_NS:
            return []
        self._ticks[state.instrument.id] = venue_ns
        return [(TICK_KIND, tick_record(venue_ns))]

    def _gap_before(self, state: InstrumentState, fresh: Parts) -> Parts:
        """A GAP when the venue's ids skip: bars over it are partial."""
        last = state.trade_ids.last
        if last is None or not self._numbered:
            return []
        first = fresh[0][1][0]
        missing = int(first["trade_id"]) - last - 1
        if missing <= 0:
            return []
        start, end = state.last_trade_ts, int(first["ts_event"])
        event = coverage_record(
            Coverage.GAP, start, max(start, end), stream=TRADES, detail=missing, reason="not in the recording"
        )
        return [(COVERAGE_KIND, event)]

    def _observed(self, state: InstrumentState, since_ns: int) -> Parts:
        """OBSERVED, once: from the first that is heard, as a feed says it. After another recording that ended, from its
        end on where ids show what is missing between the two.
        """
        if TRADES in state.observed:
            return []
        ended_ns = state.observed.ended.get(TRADES)
        if ended_ns is not None:
            since_ns = ended_ns if self._numbered else max(ended_ns, since_ns)
        event = coverage_record(Coverage.OBSERVED, since_ns, since_ns, stream=TRADES, reason="recorded")
        return [(COVERAGE_KIND, event)]


def ended_with_recording(state: InstrumentState, *, close: bool) -> Records | None:
    """ENDED of each stream that is observed, at the newest that was heard; with `close` forming bars count as whole."""
    streams = {*state.observed.now, *([TRADES] if close else [])}
    if state.newest == ABSENT or not streams:
        return None
    bars = Ended.BARS_CLOSED if close else Ended.BARS_GO_ON
    ended = [
        coverage_record(Coverage.ENDED, state.newest, state.newest, stream=stream, detail=bars, reason="end of import")
        for stream in sorted(streams)
    ]
    return np.concatenate(ended)
