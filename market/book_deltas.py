"""Every changed level of a book as BOOK_DELTA records, and the book of any depth at any time again from them.

A snapshot is one row a level (SNAPSHOT), a message of changes one row a level that it changed. The first row of a
snapshot is FIRST, the last row of a snapshot or message is LAST: only there is the book whole. An END row tells that
the book left LIVE. A snapshot of an empty book is one row without a side.

How far the book is known is told too: of a venue that keeps a window of levels in step, its width with the FIRST row of
a snapshot; of one whose snapshots are cut, the edges, with each snapshot and whenever they move.

A book may stay in step for days: after so many changed levels the whole book is told once more (`DENSE_ROWS`,
`DENSE_TIMES`), so that what must be read to make a book again stays short. That adds a tenth to the rows at most.
"""

from __future__ import annotations

from itertools import repeat

import numpy as np

from marketd.market.book import NO_ASK_EDGE, NO_BID_EDGE, Change, Levels, OrderBook
from marketd.market.layouts import BOOK_DELTA, WINDOW_BIT, BookDeltaFlag
from marketd.market.records import Records
from marketd.market.times import ABSENT

_SNAPSHOT, _END = int(BookDeltaFlag.SNAPSHOT), int(BookDeltaFlag.END)
_FIRST, _LAST = int(BookDeltaFlag.FIRST), int(BookDeltaFlag.LAST)
_BID_EDGE, _ASK_EDGE = int(BookDeltaFlag.BID_EDGE), int(BookDeltaFlag.ASK_EDGE)
_BID, _ASK = 1, -1
DENSE_ROWS = 50_000  # changed levels since the last snapshot before there is another
DENSE_TIMES = 10  # … and of so many for each level of the book


class DeltaRecorder:
    """One instrument. Tell it each change of a LIVE book; `take` answers with BOOK_DELTA records."""

    def __init__(self) -> None:
        self._is_live = False
        self._changed = 0  # rows since the last snapshot
        self._edges = NO_BID_EDGE, NO_ASK_EDGE  # as they were told
        self._stamps: list[tuple[int, int, int]] = []  # (event time, sequence, rows) of each message
        self._prices: list[int] = []
        self._sizes: list[int] = []
        self._sides: list[int] = []
        self._flags: list[int] = []

    def book(self, ts_ns: int, sequence: int, book: OrderBook, change: Change | None = None) -> None:
        """The book is LIVE and like this from `ts_ns` on, by `change` since the last call; None: it began anew."""
        if change is None or not self._is_live or self._changed >= max(DENSE_ROWS, DENSE_TIMES * len(book)):
            self._is_live = True
            self._begin(ts_ns, sequence, book)
            return
        start = len(self._prices)
        for side, levels, befores in (
            (_BID, change.bids, change.bids_before),
            (_ASK, change.asks, change.asks_before),
        ):
            rows = [
                (price, size)
                for price, size, was in zip(levels.prices, levels.sizes, befores, strict=True)
                if size != was
            ]
            self._prices += [price for price, _ in rows]
            self._sizes += [size for _, size in rows]
            self._sides += repeat(side, len(rows))
            self._flags += repeat(0, len(rows))
        if not book.window and (book.bid_edge, book.ask_edge) != self._edges:
            self._tell_edges(book, 0)
        self._changed += len(self._prices) - start
        self._end_message(ts_ns, sequence, start)

    def leave(self, ts_ns: int) -> None:
        """The book is not LIVE from `ts_ns` on."""
        if self._is_live:
            self._is_live = False
            start = len(self._prices)
            self._add(ABSENT, ABSENT, 0, _END)
            self._end_message(ts_ns, 0, start)

    def take(self) -> Records:
        """Records since the last call, with unset stamps of knowledge."""
        records = np.zeros(len(self._prices), dtype=BOOK_DELTA)
        counts = [count for _, _, count in self._stamps]
        records["ts_event"] = np.repeat(np.array([ts for ts, _, _ in self._stamps], dtype=np.int64), counts)
        records["sequence"] = np.repeat(np.array([number for _, number, _ in self._stamps], dtype=np.int64), counts)
        records["price"], records["size"] = self._prices, self._sizes
        records["side"], records["flags"] = self._sides, self._flags
        for column in (self._stamps, self._prices, self._sizes, self._sides, self._flags):
            column.clear()
        return records

    def _begin(self, ts_ns: int, sequence: int, book: OrderBook) -> None:
        start, self._changed = len(self._prices), 0
        for side, prices, sizes in ((_BID, book.bid_prices, book.bids), (_ASK, book.ask_prices, book.asks)):
            self._prices += prices
            self._sizes += [sizes[price] for price in prices]
            self._sides += repeat(side, len(prices))
            self._flags += repeat(_SNAPSHOT, len(prices))
        if len(self._prices) == start:
            self._add(ABSENT, ABSENT, 0, _SNAPSHOT)
        self._flags[start] |= _FIRST | book.window << WINDOW_BIT
        self._edges = NO_BID_EDGE, NO_ASK_EDGE
        if book.is_cut and not book.window:
            self._tell_edges(book, _SNAPSHOT)
        self._end_message(ts_ns, sequence, start)

    def _tell_edges(self, book: OrderBook, flags: int) -> None:
        self._edges = bid, ask = book.bid_edge, book.ask_edge
        self._add(ABSENT if bid == NO_BID_EDGE else bid, ABSENT, 0, flags | _BID_EDGE)
        self._add(ABSENT if ask == NO_ASK_EDGE else ask, ABSENT, 0, flags | _ASK_EDGE)

    def _add(self, price: int, size: int, side: int, flags: int) -> None:
        self._prices.append(price)
        self._sizes.append(size)
        self._sides.append(side)
        self._flags.append(flags)

    def _end_message(self, ts_ns: int, sequence: int, start: int) -> None:
        if len(self._prices) > start:
            self._flags[-1] |= _LAST
            self._stamps.append((ts_ns, sequence or ABSENT, len(self._prices) - start))


class BookReplay:
    """A book made again from BOOK_DELTA records, told in the order of their `seq`, in pieces of any size."""

    def __init__(self) -> None:
        self.book = OrderBook()
        self.sequence = ABSENT
        self.ts_ns = ABSENT
        self._has_begun = False
        self._is_whole = False

    @property
    def is_live(self) -> bool:
        """The book is what it was after the newest record: whole, and LIVE."""
        return self._has_begun and self._is_whole

    def apply(self, records: Records) -> None:
        """Go on by these records. What comes before the first snapshot is of no use and skipped."""
        if not len(records):
            return
        breaks = np.flatnonzero(records["flags"] & (_FIRST | _END))
        if len(breaks):
            records = records[breaks[-1] :]  # what was before is gone
            self.book.clear(window=int(records["flags"][0]) >> WINDOW_BIT)
            self._has_begun = not records["flags"][0] & _END
        if self._has_begun:
            self.book.apply(_levels(records, _BID), _levels(records, _ASK))
            self._know(records)
        self._is_whole = bool(records["flags"][-1] & _LAST)
        self.sequence, self.ts_ns = int(records["sequence"][-1]), int(records["ts_event"][-1])

    def _know(self, records: Records) -> None:
        """The book's edges, where these records move them."""
        edges = self.book.bid_edge, self.book.ask_edge
        moved = [
            _last_edge(records, flag, whole) for flag, whole in ((_BID_EDGE, NO_BID_EDGE), (_ASK_EDGE, NO_ASK_EDGE))
        ]
        if moved != [None, None]:
            bid, ask = (was if now is None else now for was, now in zip(edges, moved, strict=True))
            self.book.know(bid, ask)


def _last_edge(records: Records, flag: int, whole: int) -> int | None:
    prices = records["price"][records["flags"] & flag != 0]
    if not len(prices):
        return None
    return whole if prices[-1] == ABSENT else int(prices[-1])


def _levels(records: Records, side: int) -> Levels:
    rows = records[records["side"] == side]
    return Levels(rows["price"].tolist(), rows["size"].tolist())


def known_until(records: Records, ts_ns: int) -> Records:
    """Of records in the order of their `seq`, those up to the last message that is not later than `ts_ns`.

    Event times need not rise with every message: what came before such a message belongs to its book.
    """
    passed = np.flatnonzero(records["ts_event"] <= ts_ns)
    return records[: passed[-1] + 1] if len(passed) else records[:0]


def since_snapshot(records: Records) -> Records:
    """The records from where the book last began anew, or left LIVE; none when neither is among them."""
    breaks = np.flatnonzero(records["flags"] & (_FIRST | _END))
    return records[breaks[-1] :] if len(breaks) else records[:0]


def book_at(records: Records, ts_ns: int) -> BookReplay:
    """The book as it was at event time `ts_ns`, from records in the order of their `seq` that hold a snapshot."""
    replay = BookReplay()
    replay.apply(known_until(records, ts_ns))
    return replay
