"""The order book of a recorded market, from its snapshot and its diffs, as far as the recording has been played."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from marketd.daemon.feeds.recorded import DepthDiff, Snapshot


class RecordedBook:
    """Diffs are added while the recording is loaded; `at` replays them, forward only."""

    def __init__(self) -> None:
        self._at: list[int] = []  # positions of the diffs
        self._diffs: list[DepthDiff] = []
        self._snapshot: Snapshot | None = None
        self._applied = 0
        self._last_id = 0
        self._bids: dict[str, str] = {}
        self._asks: dict[str, str] = {}
        self._begun = False

    def add_diff(self, position: int, diff: DepthDiff) -> None:
        self._at.append(position)
        self._diffs.append(diff)

    def add_snapshot(self, snapshot: Snapshot) -> None:
        """The first one counts; later ones would say what the diffs have said."""
        if self._snapshot is None:
            self._snapshot = snapshot

    def answer(self, position: int, limit: int) -> dict[str, Any]:
        """The REST answer after `position` messages.

        A recorded snapshot came a moment after the first diffs: before that moment it is given as it is, and a client
        must let its diffs catch up, as it must with a real exchange. Without any snapshot the book is what diffs say.
        """
        self._begin()
        until = bisect_right(self._at, position - 1)
        for diff in self._diffs[self._applied : until]:
            self._apply(diff)
        self._applied = max(self._applied, until)
        bids = sorted(self._bids.items(), key=lambda level: -float(level[0]))[:limit]
        asks = sorted(self._asks.items(), key=lambda level: float(level[0]))[:limit]
        return {"lastUpdateId": self._last_id, "bids": bids, "asks": asks}

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        if self._snapshot is not None:
            self._last_id = self._snapshot.last_id
            self._bids, self._asks = dict(self._snapshot.bids), dict(self._snapshot.asks)

    def _apply(self, diff: DepthDiff) -> None:
        if diff.last_id <= self._last_id:
            return
        for side, levels in ((self._bids, diff.bids), (self._asks, diff.asks)):
            for price, size in levels:
                if float(size):
                    side[price] = size
                else:
                    side.pop(price, None)
        self._last_id = diff.last_id
