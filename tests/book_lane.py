"""Records of order books made by hand, for tests of what stores and answers them. Times in ms after `lane.START`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from hypothesis import strategies as st

from lane import MS, SECOND, START
from marketd.market.records import BUCKETS, IMBALANCE, BookState, Records, book_dtype
from marketd.market.times import ABSENT

DEPTH = 20


def books(rows: Iterable[Sequence[int]], depth: int = DEPTH) -> Records:
    """BOOK records of (ms, best bid, best ask[, levels[, state]]): levels 1 apart, sizes 10, 11, … and 20, 21, …"""
    return np.concatenate([np.zeros(0, book_dtype(depth)), *(_book(*row, depth=depth) for row in rows)])


def _book(ms: int, bid: int, ask: int, levels: int = 2, state: int = BookState.LIVE, *, depth: int) -> Records:
    record = np.zeros(1, book_dtype(depth))
    record["ts_event"], record["sequence"], record["state"] = START + ms * MS, ms, state
    for name in ("bid_price", "bid_size", "ask_price", "ask_size"):
        record[name] = ABSENT
    if state == BookState.LIVE:
        steps = np.arange(min(levels, depth))
        record["bid_count"] = record["ask_count"] = len(steps)
        record["bid_price"][:, : len(steps)], record["bid_size"][:, : len(steps)] = bid - steps, 10 + steps
        record["ask_price"][:, : len(steps)], record["ask_size"][:, : len(steps)] = ask + steps, 20 + steps
    return record


def imbalances(rows: Iterable[tuple[int, int]]) -> Records:
    """IMBALANCE records of (second, mid2)."""
    listed = list(rows)
    records = np.zeros(len(listed), IMBALANCE)
    records["ts_event"] = [START + second * SECOND for second, _ in listed]
    records["mid2"] = [mid2 for _, mid2 in listed]
    records["spread"], records["state"] = 2, BookState.LIVE
    records["bid_size"], records["best_bid_size"] = 30, 3
    records["ask_size"], records["best_ask_size"] = 10, 1
    records["book_1s"], records["book_60s"] = 500_000, np.iinfo(np.int32).min
    return records


def buckets(rows: Iterable[tuple[int, int]], timeframe: int = 1) -> Records:
    """BUCKETS records of (number of the interval, base)."""
    listed = list(rows)
    records = np.zeros(len(listed), BUCKETS)
    records["ts"] = [START + number * timeframe * SECOND for number, _ in listed]
    records["base"] = [base for _, base in listed]
    records["width"], records["timeframe"], records["state"] = 5, timeframe, BookState.LIVE
    records["bid_size"], records["ask_size"] = np.arange(32), 100 + np.arange(32)
    return records


def stamped(records: Records, first_seq: int = 1, known: int = START + 3600 * SECOND) -> Records:
    """The records with `seq` from `first_seq` on, one ts_known for all."""
    records["seq"] = np.arange(first_seq, first_seq + len(records))
    records["ts_known"] = known
    return records


# (ms, best bid, best ask, levels, state)
book_rows = st.tuples(
    st.integers(0, 9_000),
    st.integers(90, 99),
    st.integers(100, 110),
    st.integers(0, 3),
    st.sampled_from([BookState.LIVE, BookState.LIVE, BookState.STALE]),
)
