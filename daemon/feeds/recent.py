"""The order of trades whose ids are no numbers: each once, and after a reconnect the recent ones fetched first. Pure.

The same calls as `sequence.NumberSequence`, for venues of which nobody can tell by an id whether one is missing. Only a
reconnect may lose something: until the venue's recent trades have been fetched live ones are held back. If these
reach back to what was handed on, nothing was lost; if not, what lies between is lost, and how much it was nobody
knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from marketd.daemon.feeds.sequence import MAX_HELD, Lost, Missing, Step
from marketd.market.records import Records
from marketd.market.times import NS_PER_SECOND

Numbers = npt.NDArray[np.int64]

MAX_KNOWN = 50_000  # ids; a venue's recent trades are a thousand at most


class RecentIds:
    is_numbered = False

    def __init__(self, dtype: np.dtype[Any], *, max_held: int = MAX_HELD, max_known: int = MAX_KNOWN) -> None:
        self._nothing = np.zeros(0, dtype=dtype)
        self._known: dict[int, None] = {}  # in the order of arrival
        self._held: list[Records] = []
        self._held_count = 0
        self._max_held = max_held
        self._max_known = max_known
        self._catching_up = False
        self.last: int | None = None  # ts_event of the newest trade handed on
        self.duplicates = 0

    @property
    def missing(self) -> Missing | None:
        """Whatever came since `last`; from which id on nobody can say."""
        return Missing(0, None) if self._catching_up else None

    @property
    def is_catching_up(self) -> bool:
        return self._catching_up

    @property
    def held(self) -> int:
        return self._held_count

    @property
    def overfull(self) -> bool:
        return self._held_count > self._max_held

    def begin_catch_up(self, last: int | None = None) -> None:
        """A new connection: whatever came after the time `last` (or after what was handed on) may have been missed."""
        if last is not None and (self.last is None or last > self.last):
            self.last = last
        self._catching_up = self.last is not None

    def drop_held(self) -> None:
        """Forget what is held back (its scales changed); the venue has it still."""
        self._catching_up = self.last is not None
        self._held, self._held_count = [], 0

    def has_newer(self, records: Records) -> bool:
        """Whether some of these are later than all that was handed on."""
        last = self.last
        return last is not None and bool((self._fresh(records)["ts_event"] > last).any())

    def live(self, records: Records) -> Records:
        fresh = self._fresh(records)
        self.duplicates += len(records) - len(fresh)
        if not self._catching_up:
            return self._hand_on(fresh)
        if len(fresh):
            self._held.append(fresh.copy())
            self._held_count += len(fresh)
        return self._nothing

    def fetched(self, records: Records, *, at_present: bool) -> Step:
        """The venue's recent trades, ascending by time. `at_present` says nothing here: they always are."""
        last = self.last
        if last is not None and not (records["ts_event"] % NS_PER_SECOND).any():
            last -= last % NS_PER_SECOND  # some venues tell whole seconds over REST, and more on the stream
        fresh = self._fresh(records)
        if last is not None:
            fresh = fresh[fresh["ts_event"] >= last]
        held = self._take_held()
        fetched = fresh[~np.isin(fresh["trade_id"], held["trade_id"])] if len(held) else fresh
        lost: list[Lost] = []
        if last is not None and len(fetched) and not self._reaches_back(records, last):
            lost = [_some(int(fetched["ts_event"][0]))]
        self._catching_up = False
        return Step(self._hand_on(_in_order(fetched, held)), lost, len(fetched))

    def _reaches_back(self, records: Records, last: int) -> bool:
        return bool((records["ts_event"] < last).any()) or any(i in self._known for i in records["trade_id"].tolist())

    def skip(self) -> Step:
        """Go on without what is missing."""
        if not self._catching_up:
            return Step(self._nothing, [])
        self._catching_up = False
        held = self._hand_on(self._take_held())
        return Step(held, [_some(int(held["ts_event"].min()))] if len(held) else [])

    def _take_held(self) -> Records:
        held = np.concatenate(self._held) if self._held else self._nothing
        self._held, self._held_count = [], 0
        _, first = np.unique(held["trade_id"], return_index=True)
        return held[np.sort(first)]

    def _fresh(self, records: Records) -> Records:
        """Those that were not handed on, each once."""
        ids = records["trade_id"].tolist()
        if len(set(ids)) == len(ids) and not any(trade_id in self._known for trade_id in ids):
            return records
        here: set[int] = set()
        mask = np.zeros(len(ids), dtype=bool)
        for index, trade_id in enumerate(ids):
            mask[index] = trade_id not in self._known and trade_id not in here
            here.add(trade_id)
        return records[mask]

    def _hand_on(self, records: Records) -> Records:
        if len(records):
            self._known.update(dict.fromkeys(records["trade_id"].tolist()))
            newest = int(records["ts_event"].max())
            self.last = newest if self.last is None else max(self.last, newest)
            if len(self._known) > self._max_known:
                # a tenth beyond what must go: this walks over all of them, and comes once in thousands of trades
                kept = list(self._known)[-max(1, self._max_known - self._max_known // 10) :]
                self._known = dict.fromkeys(kept)
        return records


class AsTheyCome:
    """Bars of a venue that cannot be asked for its bars: each once, and none is missed."""

    is_numbered = False
    missing: Missing | None = None
    is_catching_up = overfull = False
    held = 0

    def __init__(self, dtype: np.dtype[Any], numbers: Callable[[Records], Numbers]) -> None:
        self._nothing = np.zeros(0, dtype=dtype)
        self._numbers = numbers
        self.last: int | None = None  # the newest number handed on
        self.duplicates = 0

    def begin_catch_up(self, last: int | None = None) -> None:
        if last is not None:
            self.last = last if self.last is None else max(self.last, last)

    def has_newer(self, records: Records) -> bool:
        return self.last is not None and bool((self._numbers(records) > self.last).any())

    def drop_held(self) -> None:
        """Nothing is held back."""

    def live(self, records: Records) -> Records:
        last = self.last
        fresh = records if last is None else records[self._numbers(records) > last]
        self.duplicates += len(records) - len(fresh)
        if len(fresh):
            self.last = int(self._numbers(fresh).max())
        return fresh

    def fetched(self, records: Records, *, at_present: bool) -> Step:
        return Step(self.live(records), [])

    def skip(self) -> Step:
        return Step(self._nothing, [])


def _some(ts_end: int) -> Lost:
    """Records that no number tells of."""
    return Lost(1, 0, ts_end)


def _in_order(fetched: Records, held: Records) -> Records:
    if not len(held) or not len(fetched):
        return fetched if len(fetched) else held
    both = np.concatenate([fetched, held])
    ordered: Records = both[np.argsort(both["ts_event"], kind="stable")]
    return ordered
