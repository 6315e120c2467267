"""The order book of a recorded market, from its snapshot and its diffs, as far as the recording has been played."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from marketd.daemon.feeds.binance_messages import Depth, DepthMessage


class RecordedBook:
    """Diffs are added while the recording is loaded; `at` replays them, forward only."""

    def __init__(self) -> None:
        self._at: list[int] = []  # positions of the diffs
        self._diffs: list[DepthMessage] = []
        self._snapshots: list[Depth] = []
        self._applied = 0
        self._time = 0  # of the newest diff, as the venue wrote it
        self._last_id = 0
        self._bids: dict[str, str] = {}
        self._asks: dict[str, str] = {}
        self._begun = False

    def add_diff(self, position: int, diff: DepthMessage) -> None:
        self._at.append(position)
        self._diffs.append(diff)

    def add_snapshot(self, snapshot: Depth) -> None:
        """The first one begins the book. Later ones say what the diffs have said, unless some of these are missing."""
        self._snapshots.append(snapshot)

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
        return {"lastUpdateId": self._last_id, "E": self._time, "T": self._time, "bids": bids, "asks": asks}

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        if self._snapshots:
            self._become(self._snapshots[0])

    def _become(self, snapshot: Depth) -> None:
        self._last_id, self._time = snapshot.last_id, snapshot.time
        self._bids, self._asks = dict(snapshot.bids), dict(snapshot.asks)

    def _apply(self, diff: DepthMessage) -> None:
        if self._is_after_a_hole(diff):  # the recorder had lost its connection, and asked for a snapshot then
            later = (one for one in self._snapshots if one.last_id >= max(diff.first_id - 1, self._last_id + 1))
            snapshot = next(later, None)
            if snapshot is not None:
                self._become(snapshot)
        if diff.last_id <= self._last_id:
            return
        for side, levels in ((self._bids, diff.bids), (self._asks, diff.asks)):
            for price, size in levels:
                if float(size):
                    side[price] = size
                else:
                    side.pop(price, None)
        self._last_id, self._time = diff.last_id, diff.time or diff.event_time

    def _is_after_a_hole(self, diff: DepthMessage) -> bool:
        reaches = diff.first_id - 1 if diff.previous_id is None else diff.previous_id
        return reaches > self._last_id
