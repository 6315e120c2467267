"""What the late trades of one batch do to closed bars: collected first, since a batch that fails changes none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from marketd.market.bar_rows import REVISED, TAIL, TS, merge
from marketd.market.kept_bars import KeptBars

ClosedBars = list[tuple[int, list[int]]]  # index of the timeframe, bar


class LateBars:
    """New versions of kept bars, new bars between them, and bars that are beyond what is kept."""

    def __init__(self, kept: Sequence[KeptBars], tail: Callable[[int, int], int]) -> None:
        self._kept = kept
        self._tail = tail  # of a new bar: (index of the timeframe, ts) -> its last word
        self._bars: dict[tuple[int, int], list[int] | None] = {}  # None: beyond

    def __len__(self) -> int:
        return len(self._bars)

    def add(self, index: int, group: list[int]) -> None:
        """Late trades of one bar (`group[TS]` is the bar's). RangeError when a sum leaves 64 bits."""
        key = (index, group[TS])
        if key not in self._bars:
            self._bars[key] = self._first(index, group)
            return
        bar = self._bars[key]
        if bar is not None:
            merge(bar, group)

    def _first(self, index: int, group: list[int]) -> list[int] | None:
        ts = group[TS]
        kept = self._kept[index]
        bar = kept.find(ts)
        if bar is not None:
            merge(bar, group)
            bar[TAIL] |= REVISED
            return bar
        if kept.complete_from is None or ts < kept.complete_from:
            return None
        new = list(group)
        new[TAIL] = self._tail(index, ts)
        return new

    def take(self) -> tuple[ClosedBars, list[tuple[int, int]]]:
        """Let the bars take effect; returns them and what is unknown as (index of the timeframe, ts)."""
        known = [(index, bar) for (index, _), bar in self._bars.items() if bar is not None]
        unknown = sorted(key for key, bar in self._bars.items() if bar is None)
        self._bars.clear()
        for index, bar in known:
            self._kept[index].put(bar)
        return known, unknown

    def forget(self) -> None:
        self._bars.clear()
