"""The newest closed bars of one timeframe, so that a late trade can revise its bar exactly.

They stand in one int64 array in the order of time, the window [begin, end) of it in use: closing a bar is one
row written, and forgetting the oldest is one index moved.
"""

from __future__ import annotations

import numpy as np

from marketd.market.bar_rows import QUOTE, TS, VOLUME, WORDS, Row, Rows
from marketd.market.times import ABSENT

_FIRST_CAPACITY = 16


class KeptBars:
    """At most `keep` bars of `delta_ns`.

    `complete_from`: a bar at or after this time that is not here does not exist; of earlier ones nothing is
    known (None: nothing is known at all). `last_ts`: the newest bar's time, or ABSENT.
    """

    def __init__(self, delta_ns: int, keep: int, complete_from: int | None) -> None:
        self.complete_from = complete_from
        self.last_ts = ABSENT
        self._delta_ns = delta_ns
        self._keep = keep
        self._rows: Rows = np.empty((min(_FIRST_CAPACITY, 2 * keep), WORDS), dtype=np.int64)
        self._begin = 0
        self._end = 0

    def __len__(self) -> int:
        return self._end - self._begin

    @property
    def rows(self) -> Rows:
        """The bars, oldest first: a view, valid until the next change."""
        return self._rows[self._begin : self._end]

    def find(self, ts: int) -> list[int] | None:
        """A copy of the bar at `ts`, or None."""
        index = self._index(ts)
        if index < self._end and self._rows[index, TS] == ts:
            bar: list[int] = self._rows[index].tolist()
            return bar
        return None

    def most(self) -> int:
        """No sum of a bar here is greater than this."""
        rows = self.rows
        return int(rows[:, VOLUME].max()) + int(rows[:, QUOTE].max()) if len(rows) else 0

    def append(self, bar: Row) -> None:
        """A bar newer than all that are here."""
        self._make_room(1)
        self._rows[self._end] = bar
        self._end += 1
        self.last_ts = bar[TS]
        self._forget_surplus()

    def extend(self, bars: Rows) -> None:
        """Bars newer than all that are here, in the order of time."""
        if not len(bars):
            return
        if len(bars) > self._keep:
            # the newest of those that find no room is the newest that is forgotten
            forgotten = int(bars[-self._keep - 1, TS])
            self._begin = self._end = 0
            self._know_nothing_up_to(forgotten)
            bars = bars[-self._keep :]
        self._make_room(len(bars))
        self._rows[self._end : self._end + len(bars)] = bars
        self._end += len(bars)
        self.last_ts = int(bars[-1, TS])
        self._forget_surplus()

    def put(self, bar: Row) -> None:
        """A new version of a bar that is here, or one in between."""
        index = self._index(bar[TS])
        if index == self._end:
            self.append(bar)
            return
        if self._rows[index, TS] != bar[TS]:
            offset = index - self._begin
            self._make_room(1)
            index = self._begin + offset
            self._rows[index + 1 : self._end + 1] = self._rows[index : self._end]
            self._end += 1
        self._rows[index] = bar
        self._forget_surplus()

    def _index(self, ts: int) -> int:
        return self._begin + int(np.searchsorted(self.rows[:, TS], ts))

    def _make_room(self, count: int) -> None:
        if self._end + count <= len(self._rows):
            return
        used = self.rows
        capacity = len(self._rows)
        while capacity < len(used) + count or (capacity < 2 * self._keep and capacity < 2 * len(used)):
            capacity *= 2
        moved: Rows = np.empty((capacity, WORDS), dtype=np.int64)
        moved[: len(used)] = used
        self._rows, self._begin, self._end = moved, 0, len(used)

    def _forget_surplus(self) -> None:
        surplus = self._end - self._begin - self._keep
        if surplus > 0:
            self._begin += surplus
            self._know_nothing_up_to(int(self._rows[self._begin - 1, TS]))

    def _know_nothing_up_to(self, ts: int) -> None:
        if self.complete_from is not None:
            self.complete_from = max(self.complete_from, ts + self._delta_ns)
