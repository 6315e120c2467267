"""Which stretches of an instrument's trades were observed throughout, and so which bars are partial."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
import numpy.typing as npt

FOR_EVER = 2**63 - 1
MAX_GAPS = 256  # more, and the two oldest become one: bars between them count as partial, never as full


class Observation:
    """Observed from `since_ns` on (None: never), but for the `gaps` (disjoint [start, end) ns, ascending)."""

    def __init__(self, since_ns: int | None) -> None:
        self.since_ns = since_ns
        self.gaps: list[tuple[int, int]] = []

    def observe(self, since_ns: int) -> None:
        """From here on nothing is missed. What was observed before is kept only where it is known until when: then so
        is the gap between.
        """
        if self.gaps and self.gaps[-1][1] == FOR_EVER:
            self.fill(since_ns, FOR_EVER)
        else:
            self.since_ns = since_ns

    def partial(self, ts: int, delta_ns: int) -> bool:
        """Was any moment of [ts, ts + delta_ns) not observed?"""
        if self.since_ns is None or ts < self.since_ns:
            return True
        for start, end in reversed(self.gaps):
            if end <= ts:
                return False
            if start < ts + delta_ns:
                return True
        return False

    def partial_many(self, ts: npt.NDArray[np.int64], delta_ns: int) -> npt.NDArray[np.bool_]:
        """`partial` of bars, shape (n,)."""
        if self.since_ns is None:
            return np.ones(len(ts), dtype=bool)
        mask: npt.NDArray[np.bool_] = ts < self.since_ns
        for start, end in self.gaps:
            mask |= (ts < end) & (ts > start - delta_ns)
        return mask

    def add_gap(self, start_ns: int, end_ns: int) -> None:
        """[start_ns, end_ns) was missed; touching gaps become one."""
        if end_ns <= start_ns:
            return
        joined = [gap for gap in self.gaps if gap[0] <= end_ns and start_ns <= gap[1]]
        for gap in joined:
            start_ns, end_ns = min(start_ns, gap[0]), max(end_ns, gap[1])
            self.gaps.remove(gap)
        self.gaps.insert(bisect_left(self.gaps, (start_ns, end_ns)), (start_ns, end_ns))
        if len(self.gaps) > MAX_GAPS:
            self.gaps[:2] = [(self.gaps[0][0], self.gaps[1][1])]

    def fill(self, start_ns: int, end_ns: int) -> None:
        """[start_ns, end_ns) was fetched afterwards, completely: it is no gap any more. Of a time before observation
        began, what lies between becomes one.
        """
        if end_ns <= start_ns:
            return
        if self.since_ns is None or start_ns < self.since_ns:
            began_ns, self.since_ns = self.since_ns, start_ns
            self.add_gap(end_ns, FOR_EVER if began_ns is None else began_ns)
        kept = []
        for start, end in self.gaps:
            if end <= start_ns or end_ns <= start:
                kept.append((start, end))
                continue
            kept += [(a, b) for a, b in ((start, start_ns), (end_ns, end)) if a < b]
        self.gaps = kept
