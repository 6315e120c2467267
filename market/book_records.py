"""BOOK records of a book: its best levels, as often as they are worth telling.

They go out at most every `interval_ns` of event time, as long as something changes, and at once when

    the best bid or ask moved by more than `jump_bps` of what the last record told, came or went   (BookFlag.JUMP)
    the state changed                                                                              (BookFlag.STATE)

A record that had to wait goes out with the first event, of whatever stream, after its interval.

A record that has all the levels of a side that the venue told, where there may be more, says so (BookFlag.BIDS_CUT,
ASKS_CUT).
"""

from __future__ import annotations

import struct

import numpy as np

from marketd.market.book import BestLevels, Levels, OrderBook
from marketd.market.errors import InvalidArgument
from marketd.market.layouts import BookFlag, BookState, book_dtype
from marketd.market.records import MAX_BOOK_DEPTH, Records
from marketd.market.times import ABSENT

_JUMP_UNIT = 10_000_000  # jumps are in thousandths of a basis point
_NO_LEVELS = BestLevels([], [], [], [])
_LIVE = BookState.LIVE


class BookPacker:
    """Packs BOOK rows of `depth` levels a side, with unset stamps of knowledge."""

    def __init__(self, depth: int) -> None:
        if not 1 <= depth <= MAX_BOOK_DEPTH:
            raise InvalidArgument(f"books of {depth} levels; it is 1 to {MAX_BOOK_DEPTH}", field="book.depth")
        self.dtype = book_dtype(depth)
        self._depth = depth
        self._pack = struct.Struct(f"<4q4h{4 * depth}q").pack  # a tenth of what assigning the fields costs
        self._filling = [[ABSENT] * (depth - count) for count in range(depth + 1)]

    def pack(self, ts_ns: int, sequence: int, state: BookState, levels: BestLevels, flags: int) -> bytes:
        """One row. Levels beyond `depth` are left out; a `sequence` of 0 is that of a venue without numbers."""
        depth, filling = self._depth, self._filling
        bid_prices, bid_sizes, ask_prices, ask_sizes = (side[:depth] for side in levels)
        bids, asks = len(bid_prices), len(ask_prices)
        return self._pack(
            *(ts_ns, 0, 0, sequence or ABSENT, bids, asks, state, flags),
            *(*bid_prices, *filling[bids], *bid_sizes, *filling[bids]),
            *(*ask_prices, *filling[asks], *ask_sizes, *filling[asks]),
        )

    def records(self, rows: list[bytes]) -> Records:
        """The rows as an array that may be written to, shape (n,)."""
        return np.frombuffer(bytearray().join(rows), dtype=self.dtype)


class BookRecorder:
    """One instrument. Tell it each state of the book; `advance` answers with BOOK records."""

    def __init__(self, depth: int, interval_ns: int, jump_bps: float) -> None:
        self._packer = BookPacker(depth)
        self._nothing = self._packer.records([])
        self._depth = depth
        self._interval_ns = interval_ns
        self._jump = round(jump_bps * 1000)
        self._state = BookState.EMPTY
        self._told_ns = ABSENT  # event time of the last record
        self._told_best: tuple[int | None, int | None] = (None, None)
        # What was not told yet. The book is as it was then until the next call: one that leaves LIVE is kept as it was,
        # and not changed into another (`BookSync`).
        self._waiting: tuple[int, int, OrderBook] | None = None
        self._rows: list[bytes] = []

    def book(self, ts_ns: int, sequence: int, book: OrderBook) -> None:
        """The book is LIVE and like this from `ts_ns` on; until the next call nobody changes it."""
        if self._state is not _LIVE:
            self._state = _LIVE
            self._tell(ts_ns, sequence, book, BookFlag.STATE)
        elif self._has_jumped(book):
            self._tell(ts_ns, sequence, book, BookFlag.JUMP)
        elif abs(ts_ns - self._told_ns) >= self._interval_ns:
            self._tell(ts_ns, sequence, book, 0)
        else:
            self._waiting = ts_ns, sequence, book

    def leave(self, ts_ns: int, state: BookState) -> None:
        """From `ts_ns` on the book is in `state`, which is not LIVE."""
        if state is self._state:
            return
        if self._waiting:
            self._tell(*self._waiting, 0)  # what was known last, before it is gone
        self._state = state
        self._rows.append(self._packer.pack(ts_ns, 0, state, _NO_LEVELS, BookFlag.STATE))

    def finish(self) -> None:
        """Nothing more comes: what was known last does not wait for its interval."""
        if self._waiting:
            self._tell(*self._waiting, 0)

    def advance(self, newest_ns: int) -> Records:
        """Records since the last call."""
        if self._waiting and newest_ns - self._told_ns >= self._interval_ns:
            self._tell(*self._waiting, 0)
        if not self._rows:
            return self._nothing
        rows, self._rows = self._rows, []
        return self._packer.records(rows)

    def _has_jumped(self, book: OrderBook) -> bool:
        bid, ask = self._told_best
        if book.best_bid == bid and book.best_ask == ask:
            return False
        return self._is_far(book.best_bid, bid) or self._is_far(book.best_ask, ask)

    def _is_far(self, now: int | None, was: int | None) -> bool:
        if now is None or was is None:
            return now is not was
        return abs(now - was) * _JUMP_UNIT > self._jump * was

    def _tell(self, ts_ns: int, sequence: int, book: OrderBook, flags: int) -> None:
        self._waiting = None
        self._told_ns, self._told_best = ts_ns, (book.best_bid, book.best_ask)
        if book.is_cut:
            flags |= cut_flags(book, self._depth)
        self._rows.append(self._packer.pack(ts_ns, sequence, _LIVE, book.top(self._depth), flags))


def cut_flags(book: OrderBook, depth: int) -> int:
    """The flags of the sides of which not more than `depth` levels are known, and there may be more."""
    bids = 0 if book.knows_bids(depth + 1) else int(BookFlag.BIDS_CUT)
    return bids if book.knows_asks(depth + 1) else bids | BookFlag.ASKS_CUT


def levels_of(record: Records) -> tuple[Levels, Levels]:
    """Bids and asks of a BOOK record, a scalar or of shape (1,)."""
    row = record.reshape(-1)[0]
    bids, asks = int(row["bid_count"]), int(row["ask_count"])
    return (
        Levels(row["bid_price"][:bids].tolist(), row["bid_size"][:bids].tolist()),
        Levels(row["ask_price"][:asks].tolist(), row["ask_size"][:asks].tolist()),
    )
