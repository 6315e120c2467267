"""The records that leave a book which nobody keeps in step any more, and the figures that were made of it. Pure.

They bear the newest event time of the instrument: when the feed was lost, nobody can say closer.
"""

from __future__ import annotations

import numpy as np

from marketd.market.records import BY_NAME, BookFlag, BookState, ImbalanceReason, Kind, Records, empty
from marketd.market.times import ABSENT, NS_PER_SECOND


def stale_book(kind: Kind, ts_ns: int) -> Records:
    """The BOOK record that leaves a book, shape (1,)."""
    record = np.zeros(1, dtype=kind.dtype)
    for name in ("bid_price", "bid_size", "ask_price", "ask_size"):
        record[name] = ABSENT
    record["ts_event"], record["sequence"] = ts_ns, ABSENT
    record["state"], record["flags"] = BookState.STALE, BookFlag.STATE
    return record


def stale_imbalance(ts_ns: int) -> Records:
    """The IMBALANCE record of the second in which a book was left, shape (1,)."""
    record = empty(BY_NAME["imbalance"], 1)
    record["ts_event"] = -(-ts_ns // NS_PER_SECOND) * NS_PER_SECOND
    record["state"], record["reason"] = BookState.STALE, ImbalanceReason.NOT_LIVE
    return record


def stale_buckets(ts_ns: int, newest: Records) -> Records:
    """The BUCKETS record of the second or minute in which a book was left, like the `newest` one; shape (1,)."""
    record = empty(BY_NAME["buckets"], 1)
    for name in ("width", "timeframe"):
        record[name] = newest[name]
    record["ts"] = ts_ns - ts_ns % (int(newest["timeframe"][0]) * NS_PER_SECOND)
    record["state"], record["flags"] = BookState.STALE, 0
    return record


def stale_figures(ts_ns: int, kind: str, newest: Records) -> Records:
    """What follows the `newest` imbalance or buckets of a book that was left."""
    return stale_imbalance(ts_ns) if kind == "imbalance" else stale_buckets(ts_ns, newest)
