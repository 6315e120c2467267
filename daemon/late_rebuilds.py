"""Bars whose late trades the fold can no longer merge: asked for once those are committed, adopted when computed.

    request = rebuilds.next(committed)      to the query actor, which computes them of all stored trades
    rebuilds.adopt(request, bars)           its answer, stored and shown as new versions
    rebuilds.failed()                       or none

One question is under way at a time. What it cannot answer for is asked for again.
"""

from __future__ import annotations

import numpy as np

from marketd.daemon.instrument_state import MAX_REBUILD, InstrumentState
from marketd.daemon.kernel import coverage_record
from marketd.daemon.live_lane import LiveLane
from marketd.daemon.registry import Registry
from marketd.ipc.protocol import RebuildBars
from marketd.market.records import Coverage, Records
from marketd.market.times import NS_PER_SECOND

_Bar = tuple[int, int]  # timeframe s, ts ns


class LateRebuilds:
    def __init__(self, lane: LiveLane, registry: Registry) -> None:
        self._lane = lane
        self._registry = registry
        self._asked_last = 0  # id of the instrument that `next` named last
        self._at_once = MAX_REBUILD
        self._asked_at = 0  # how far the journal was committed when `next` asked

    def __len__(self) -> int:
        return sum(len(state.rebuild) for state in self._lane.kernel.states)

    def next(self, committed: int) -> RebuildBars | None:
        """Bars of one instrument whose late trades are committed: to be computed from all their stored trades.

        Instruments take turns, so that one whose question fails holds nobody up.
        """
        waiting = [state for state in self._lane.kernel.states if state.rebuild]
        waiting.sort(key=lambda state: (state.instrument.id <= self._asked_last, state.instrument.id))
        for state in waiting:
            due = [bar for bar, offset in state.rebuild.items() if offset <= committed]
            if due:
                self._asked_at = committed
                self._asked_last = state.instrument.id
                return RebuildBars(instrument=state.instrument.id, bars=due[: self._at_once])
        return None

    def failed(self) -> None:
        """The question of `next` was not answered: the next ones are smaller."""
        self._at_once = max(1, self._at_once // 2)

    def adopt(self, request: RebuildBars, bars: Records) -> None:
        """Store and publish what was rebuilt. A bar that has no trades any more (retention) keeps its version, and the
        ledger says so. One that got another late trade since the question was asked is asked for again."""
        self._at_once = MAX_REBUILD
        lane = self._lane
        state = lane.kernel.state(self._registry.by_id(request.instrument))
        lane.close_unstored(state)
        found = list(zip(bars["timeframe"].tolist(), bars["ts"].tolist(), strict=True))
        whole = np.array([state.rebuild.get(bar, 0) <= self._asked_at for bar in found], dtype=bool)
        bars = bars[whole]
        if len(bars) and lane.journal.has_room:
            lane.take(lane.kernel.adopt(state.instrument, bars, lane.clock.next()))
        for bar in request.bars:
            if bar not in found and state.rebuild.get(bar, self._asked_at + 1) <= self._asked_at:
                self._give_up(state, bar)

    def _give_up(self, state: InstrumentState, bar: _Bar) -> None:
        """Its trades are gone. Without room for the ledger's word it is asked for again."""
        if not self._lane.journal.has_room:
            return
        del state.rebuild[bar]
        timeframe, ts = bar
        event = coverage_record(
            Coverage.LATE_REFUSED, ts, ts + timeframe * NS_PER_SECOND, stream=2, reason="its trades are gone"
        )
        self._lane.record_coverage(state.instrument, event)
