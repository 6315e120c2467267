"""The ledger as a line: of a stream, which stretch was observed, fetched afterwards, or missed, and why. Pure.

COVERAGE records are laid over each other in the order of `seq`, so that every moment has the state that the latest of
them gives it; an UNSTORED without an end is over once the same is told with one, and what lay under it is to be seen
again. What was fetched says so, though a reader misses nothing: it was known only later. What counts as
observed here (OBSERVED and BACKFILLED) is what `Frame.grid` takes for observed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.market.records import Coverage, Records
from marketd.market.rows import BAR_VERSIONS, ONE_SECOND_BARS
from marketd.market.times import ABSENT

_BEGIN, _END = -(2**63), 2**63 - 1


class Seen(StrEnum):
    """What is known of a stretch; the worst first."""

    GAP = "gap"
    VENUE_DOWN = "venue_down"
    UNSTORED = "unstored"
    EXPIRED = "expired"
    UNOBSERVED = "unobserved"
    BACKFILLED = "backfilled"
    OBSERVED = "observed"

    @property
    def is_whole(self) -> bool:
        return self in (Seen.OBSERVED, Seen.BACKFILLED)


SEVERITY = {state: place for place, state in enumerate(Seen)}
_STATES = {
    Coverage.OBSERVED: Seen.OBSERVED,
    Coverage.GAP: Seen.GAP,
    Coverage.BACKFILLED: Seen.BACKFILLED,
    Coverage.VENUE_DOWN: Seen.VENUE_DOWN,
    Coverage.UNSTORED: Seen.UNSTORED,
    Coverage.EXPIRED: Seen.EXPIRED,
    Coverage.ENDED: Seen.UNOBSERVED,
}
_OPEN = {Coverage.OBSERVED, Coverage.ENDED}  # from ts_start on, whatever their end


class Stretch(NamedTuple):
    """[start, end) ns; `detail` and `reason` as the ledger has them, 0 and "" where nothing was said."""

    start: int
    end: int
    state: Seen
    detail: int = 0
    reason: str = ""

    @property
    def ns(self) -> int:
        return self.end - self.start


def streams_of(coverage: Records) -> list[int]:
    """The numbers of the kinds that COVERAGE records speak of; [0] when they only speak of all. That bars of a second
    or versions were dropped speaks of no stream's line."""
    of_bars = np.isin(coverage["reason"], [table.encode() for table in (ONE_SECOND_BARS, BAR_VERSIONS)])
    told = coverage[~((coverage["state"] == Coverage.EXPIRED) & of_bars)]
    found: list[int] = np.unique(told["stream"]).tolist()
    return [number for number in found if number] or found


def in_order(coverage: Records) -> npt.NDArray[np.intp]:
    """The order in which COVERAGE records are laid over each other: EXPIRED bears the `seq` of the one it follows."""
    return np.lexsort((coverage["ts_known"], coverage["seq"]))


def timeline(coverage: Records, stream: int, start_ns: int, end_ns: int) -> list[Stretch]:
    """The line of one stream (a kind's number) in [start_ns, end_ns), without a hole.

    `coverage`: the COVERAGE records of one instrument from its beginning on, in any order.
    """
    line = _Line()
    ordered = coverage[in_order(coverage)]
    ordered = ordered[~_is_over(ordered)]
    for record in ordered[(ordered["stream"] == stream) | (ordered["stream"] == 0)]:
        state = _STATES.get(int(record["state"]))  # type: ignore[call-overload]
        if state is None:
            continue  # says nothing about what was observed
        first, last = int(record["ts_start"]), int(record["ts_end"])
        if last == ABSENT or (record["state"] in _OPEN and last <= first):
            last = _END
        reason = bytes(record["reason"]).decode(errors="replace")
        if state is Seen.EXPIRED and reason in (ONE_SECOND_BARS, BAR_VERSIONS):
            continue  # the longer ones, a venue's too, and the newest of all stand in tables of their own
        line.lay(Stretch(first, last, state, int(record["detail"]), reason))
    return line.cut(start_ns, end_ns)


def _is_over(ordered: Records) -> npt.NDArray[np.bool_]:
    """Which are UNSTORED without an end and were told again with theirs: in shared memory both are."""
    unstored = ordered["state"] == Coverage.UNSTORED
    is_open: npt.NDArray[np.bool_] = unstored & (ordered["ts_end"] == ABSENT)
    if not is_open.any():
        return is_open  # as nearly always
    ended = ordered["ts_start"][unstored & ~is_open]
    found: npt.NDArray[np.bool_] = is_open & np.isin(ordered["ts_start"], ended)
    return found


class _Line:
    """All of time in neighbouring stretches, of which each later one covers what lies under it."""

    def __init__(self) -> None:
        self._starts = [_BEGIN]
        self._stretches = [Stretch(_BEGIN, _END, Seen.UNOBSERVED)]

    def lay(self, new: Stretch) -> None:
        if new.end <= new.start:
            return
        first = bisect_right(self._starts, new.start) - 1
        last = bisect_left(self._starts, new.end)
        under = self._stretches[first:last]
        before = under[0]._replace(end=new.start)
        after = under[-1]._replace(start=new.end)
        found = [each for each in (before, new, after) if each.ns > 0]
        self._stretches[first:last] = found
        self._starts[first:last] = [each.start for each in found]

    def cut(self, start_ns: int, end_ns: int) -> list[Stretch]:
        found: list[Stretch] = []
        for stretch in self._stretches:
            part = stretch._replace(start=max(stretch.start, start_ns), end=min(stretch.end, end_ns))
            if part.ns <= 0:
                continue
            if found and _say_the_same(found[-1], part):
                found[-1] = found[-1]._replace(end=part.end)
            else:
                found.append(part)
        return found


def _say_the_same(one: Stretch, other: Stretch) -> bool:
    whole = one.state is other.state is Seen.OBSERVED
    return whole or one[2:] == other[2:]


def worst_in_cells(line: Sequence[Stretch], cells: int) -> list[Seen]:
    """A line in `cells` equal pieces, each with the worst state in it: however short a gap is, it shows."""
    if not line:
        return []
    start, total = line[0].start, line[-1].end - line[0].start
    found = [Seen.OBSERVED] * cells
    for stretch in line:
        first = (stretch.start - start) * cells // total
        last = -(-(stretch.end - start) * cells // total)
        for cell in range(first, min(last, cells)):
            if SEVERITY[stretch.state] < SEVERITY[found[cell]]:
                found[cell] = stretch.state
    return found
