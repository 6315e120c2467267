"""Records in the order of time, without sorting what is in order already: as stores give them, forwards or backwards.
Pure.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from marketd.market.records import Records


def by_time(records: Records, time: str) -> Records:
    """In the order of (time, seq), the oldest first; a view where they are in order, or in the opposite one."""
    if len(records) < 2:
        return records
    steps = np.diff(records[time])
    if _rise(steps, records):
        return records
    if _rise(-steps[::-1], records[::-1]):
        return records[::-1]
    ordered: Records = records[np.lexsort((records["seq"], records[time]))]
    return ordered


def newest_of_each_time(records: Records, time: str) -> Records:
    """Of the records of one moment the one with the greatest seq, in the order of time."""
    ordered = by_time(records, time)
    times = ordered[time]
    is_last = times[1:] != times[:-1]
    if is_last.all():
        return ordered  # as a rule: a copy of many wide records takes as long as unpacking them
    found: Records = ordered[np.append(is_last, True)]
    return found


def _rise(steps: npt.NDArray[np.int64], records: Records) -> bool:
    """Do the times of records, which are so far apart, rise, and seq where two are the same?"""
    if steps.min() > 0:
        return True
    if steps.min() < 0:
        return False
    ties = np.flatnonzero(steps == 0)
    seq = records["seq"]
    return bool((seq[ties] < seq[ties + 1]).all())
