"""The imbalance of books that producers offer as whole snapshots (`BookFlag.OFFERED`), by the kernel that feeds use.

Only from what is stored: the levels that `book.depth` keeps, event times, trades. So a replay of the journal makes the
same records again, and what is in the database explains them.
"""

from __future__ import annotations

import numpy as np

from marketd.market.book import Levels, OrderBook
from marketd.market.imbalance import ImbalanceKernel
from marketd.market.records import BookFlag, BookState, Records
from marketd.market.seconds import MAX_LEAP_NS
from marketd.market.times import NS_PER_SECOND

_OFFERED = int(BookFlag.OFFERED)  # flags of an enum are slow to combine
MAX_IMBALANCES = MAX_LEAP_NS // NS_PER_SECOND + 1  # records of one `advance`, but for those that books came with


def has_offered(books: Records) -> bool:
    """Whether some of these BOOK records are a producer's own snapshots."""
    return bool((books["flags"] & _OFFERED).any())


class OfferedBooks:
    """One instrument, from its first offered book on."""

    def __init__(self, band_bps: float) -> None:
        self._kernel = ImbalanceKernel(band_bps)
        self._book = OrderBook()

    def books(self, records: Records) -> None:
        """BOOK records as they were stamped, in their order; those that were not offered are passed over."""
        for row in records:
            if not int(row["flags"]) & _OFFERED:
                continue
            state = BookState(int(row["state"]))
            if state is not BookState.LIVE:
                self._kernel.leave(int(row["ts_event"]), state)
                continue
            self._book.reset(_levels(row, "bid"), _levels(row, "ask"))
            self._kernel.book(int(row["ts_event"]), self._book)

    def trades(self, records: Records) -> None:
        self._kernel.trades(records)

    def most(self, records: Records) -> int:
        """How many records `advance` can have after these BOOK records, by an estimate from above."""
        is_offered = (records["flags"] & _OFFERED) != 0
        return MAX_IMBALANCES + self._kernel.most(records["ts_event"][is_offered].tolist())

    def advance(self, newest_ns: int) -> Records:
        """IMBALANCE records of the seconds that have ended by the instrument's newest event time."""
        return self._kernel.advance(newest_ns)

    def state(self) -> bytes:
        """All that `restore` needs, for the checkpoint."""
        return self._kernel.state()

    def restore(self, state: bytes | memoryview) -> None:
        self._kernel.restore(state)


def _levels(row: np.void, side: str) -> Levels:
    count = int(row[f"{side}_count"])
    return Levels(row[f"{side}_price"][:count].tolist(), row[f"{side}_size"][:count].tolist())
