"""Books, imbalances and buckets for tests: small, and every number follows from its index."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from marketd.market.records import (
    BY_NAME,
    BookState,
    Kind,
    Records,
    book_kind,
    empty,
)

SECOND = 1_000_000_000
Side = Sequence[tuple[int, int]]
IMBALANCE, BUCKETS = BY_NAME["imbalance"], BY_NAME["buckets"]


def book(
    bids: Side,
    asks: Side,
    *,
    depth: int = 20,
    ts: int = SECOND,
    seq: int = 1,
    state: BookState = BookState.LIVE,
    flags: int = 0,
) -> Records:
    """One BOOK record of (price, size)s, the best first."""
    record = empty(book_kind(depth), 1)
    record["ts_event"], record["ts_known"], record["seq"], record["sequence"] = ts, ts + 1000, seq, 100 + seq
    record["state"], record["flags"] = state, flags
    for side, levels in (("bid", bids), ("ask", asks)):
        record[f"{side}_count"] = len(levels)
        for place, (price, size) in enumerate(levels):
            record[f"{side}_price"][0, place], record[f"{side}_size"][0, place] = price, size
    return record


def books(
    indexes: Iterable[int], *, depth: int = 20, levels: int = 3, ts: int = SECOND, step: int = SECOND // 10
) -> Records:
    """LIVE books a tenth of a second apart; index i has its best bid at 100.00 + i cents, its ask 2 cents above."""
    return np.concatenate(
        [
            book(
                [(10_000 + i - n, 50_000 + n) for n in range(levels)],
                [(10_002 + i + n, 70_000 + n) for n in range(levels)],
                depth=depth,
                ts=ts + i * step,
                seq=i + 1,
            )
            for i in indexes
        ]
    )


def not_live(state: BookState, *, depth: int = 20, ts: int = SECOND, seq: int = 1) -> Records:
    return book([], [], depth=depth, ts=ts, seq=seq, state=state)


def imbalances(indexes: Iterable[int], *, ts: int = SECOND, first_seq: int = 1) -> Records:
    """Of the seconds after `ts`; the i-th has book_1s = i hundredths, and no volume."""
    numbers = np.fromiter(indexes, dtype=np.int64)
    records = empty(IMBALANCE, len(numbers))
    records["ts_event"] = ts + numbers * SECOND
    records["ts_known"], records["seq"] = records["ts_event"] + 1000, first_seq + np.arange(len(numbers))
    records["mid2"], records["spread"] = 20_002, 2
    records["best_bid_size"], records["best_ask_size"] = 100_000, 300_000
    records["book_1s"], records["state"], records["reason"] = numbers * 10_000, BookState.LIVE, 0
    return records


def buckets(indexes: Iterable[int], *, timeframe: int = 1, ts: int = 0, first_seq: int = 1) -> Records:
    """Buckets 0.50 wide; the i-th has i in each on the bid side, and mid in bucket 200."""
    numbers = np.fromiter(indexes, dtype=np.int64)
    records = np.zeros(len(numbers), dtype=BUCKETS.dtype)
    records["ts"] = ts + numbers * timeframe * SECOND
    records["ts_known"], records["seq"] = records["ts"] + timeframe * SECOND, first_seq + np.arange(len(numbers))
    records["width"], records["base"], records["timeframe"], records["state"] = 50, 200, timeframe, BookState.LIVE
    records["bid_size"], records["ask_size"] = numbers[:, None] * 100_000, 0
    return records


def kind_of(records: Records) -> Kind:
    return book_kind(records.dtype["bid_price"].shape[0])
