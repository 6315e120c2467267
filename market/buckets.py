"""What rests in each price bucket, as time-weighted means over seconds and minutes. Integers; no clock.

Bucket k has the prices k * width <= p < (k + 1) * width. Of an interval [a, b) in which the book was LIVE for L ns:

    base          number of the bucket of the last mid in it: mid2 // (2 * width)
    bid_size[j]   (integral over the LIVE part of [a, b) of what rested on the bid side in bucket base - j) // L
    ask_size[j]   the same on the ask side, in bucket base + j;  j = 0 … 31
    state         the book's at b

All of them are absent where the book was not LIVE for a moment of the interval, or had no mid while it was. One
bucket is where it lay not wholly within the book's edges throughout the LIVE part: what rested there is not known.

How it is computed: with s(t) what rests in a bucket, and d_i the change of s at t_i, the integral of s over [a, b) is
s(b) (b - a) - sum(d_i (t_i - a)). So a changed level costs two additions, however many buckets there are, and a book
that is not LIVE is one in which nothing rests. A minute that began at m has of a second that began at a the same
changes, each a - m later: sum(d_i (t_i - m)) = sum(d_i (t_i - a)) + (a - m) sum(d_i). So changes are only noted when
they come, and summed up once a second.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping

from marketd.market.book import NO_ASK_EDGE, NO_BID_EDGE, Change, Levels, OrderBook
from marketd.market.errors import InvalidArgument
from marketd.market.fixed import MAX_FIXED
from marketd.market.records import BUCKETS, BUCKETS_A_SIDE, BookState
from marketd.market.seconds import GRACE_NS, SecondsKernel
from marketd.market.times import ABSENT, NS_PER_SECOND

TIMEFRAMES = (1, 60)  # seconds
_BP = 10_000
MAX_NOTED = 10_000  # changes that wait for the end of their second
_ROW = struct.Struct(f"<5qi2h{2 * BUCKETS_A_SIDE}q")
assert _ROW.size == BUCKETS.itemsize
_NO_EDGES = (NO_BID_EDGE, NO_ASK_EDGE)
_UNKNOWN = (ABSENT,) * (2 * BUCKETS_A_SIDE)

Noted = tuple[int, Levels, list[int]]  # ns since the second began; levels, and the sizes that they had before


def default_width(mid2: int, tick_size: int) -> int:
    """About a basis point of the mid: the smallest of 1, 2, 5, 10, 20, 50, … ticks that is not less than one."""
    ticks = 1
    steps = (2, 5, 10)
    power = 1
    while ticks * tick_size * 2 * _BP < mid2:
        for step in steps:
            ticks = step * power
            if ticks * tick_size * 2 * _BP >= mid2:
                break
        else:
            power *= 10
    return ticks * tick_size


class _Side:
    """What rests in each bucket of one side, and the moments of its changes for each timeframe."""

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}
        self.moments: tuple[defaultdict[int, int], ...] = tuple(defaultdict(int) for _ in TIMEFRAMES)

    def change(self, changes: Iterable[tuple[int, int]], elapsed_ns: tuple[int, int]) -> None:
        """(bucket, by how much); `elapsed_ns`: since the start of each timeframe's interval."""
        sizes = self.sizes
        (seconds, minutes), (second_ns, minute_ns) = self.moments, elapsed_ns
        for bucket, by in changes:
            size = sizes.get(bucket, 0) + by
            if size:
                sizes[bucket] = size
            else:
                del sizes[bucket]
            seconds[bucket] += by * second_ns
            minutes[bucket] += by * minute_ns

    def settle(self, noted: Iterable[Noted], width: int, minute_ns: int) -> None:
        """Take in what one second changed. The second began `minute_ns` after the minute."""
        sums: defaultdict[int, int] = defaultdict(int)
        moments: defaultdict[int, int] = defaultdict(int)
        for second_ns, levels, befores in noted:
            for price, size, before in zip(levels.prices, levels.sizes, befores, strict=True):
                if size != before:
                    bucket = price // width
                    sums[bucket] += size - before
                    moments[bucket] += (size - before) * second_ns
        seconds, minutes = self.moments
        for bucket, by in sums.items():
            self.sizes[bucket] = self.sizes.get(bucket, 0) + by
            if not self.sizes[bucket]:
                del self.sizes[bucket]
            seconds[bucket] += moments[bucket]
            minutes[bucket] += moments[bucket] + by * minute_ns

    def become(self, sizes: Mapping[int, int], elapsed_ns: tuple[int, int]) -> None:
        """From now on exactly this rests."""
        before = self.sizes
        changes = [(bucket, sizes.get(bucket, 0) - before.get(bucket, 0)) for bucket in before.keys() | sizes.keys()]
        self.change([(bucket, by) for bucket, by in changes if by], elapsed_ns)


class BucketKernel(SecondsKernel[bytes]):
    """One instrument. Tell it each state of the book; `advance` answers with BUCKETS records, seconds and minutes.

    `width` is in price units, 0: `default_width` of the first mid, and counting begins with that mid. A record bears
    the width that it was made with.
    """

    def __init__(self, width: int = 0, *, tick_size: int = 1, grace_ns: int = GRACE_NS) -> None:
        super().__init__(BUCKETS, grace_ns)
        if width < 0 or tick_size < 1:
            raise InvalidArgument(f"buckets of {width} price units at a tick of {tick_size}", field="book.buckets")
        self.width = width
        self._tick_size = tick_size
        self._bids, self._asks = _Side(), _Side()
        self._noted: list[tuple[int, Change]] = []  # of the open second: ns since it began, what changed
        self._state = BookState.EMPTY
        self._starts = [0] * len(TIMEFRAMES)  # of the intervals that are open
        self._live_ns = 0  # since the kernel began
        self._live_before = [0] * len(TIMEFRAMES)  # of it, before the open intervals
        self._mid2 = [ABSENT] * len(TIMEFRAMES)  # the last one in each interval
        self._is_carried = [False] * len(TIMEFRAMES)  # it is that of the state in which the interval began
        self._mid2_now = ABSENT
        self._edges_now = _NO_EDGES
        self._edges = [_NO_EDGES] * len(TIMEFRAMES)  # the narrowest in each interval

    def book(self, ts_ns: int, book: OrderBook, change: Change | None = None) -> None:
        """The book is LIVE and like this from `ts_ns` on, by `change` since the last call; None: it began anew."""
        self._move(ts_ns)
        if self._now == self._starts[0]:
            self._drop_carried()
        bid, ask = book.best_bid, book.best_ask
        self._mid2_now = ABSENT
        if bid is not None and ask is not None:
            self._mid2_now = self._mid2[0] = self._mid2[1] = bid + ask
        if (book.bid_edge, book.ask_edge) != self._edges_now:
            self._see_edges(book)
        was_known = self.width > 0 and self._state is BookState.LIVE
        self._state = BookState.LIVE
        if change is not None and was_known:
            self._noted.append((self._now - self._starts[0], change))
            if len(self._noted) >= MAX_NOTED:
                self._settle()
            return
        if not self.width:
            if self._mid2_now == ABSENT:
                return
            self.width = default_width(self._mid2_now, self._tick_size)
            self._begin(self._now)
        self._become(book)

    def leave(self, ts_ns: int, state: BookState) -> None:
        """From `ts_ns` on the book is in `state`, which is not LIVE."""
        self._move(ts_ns)
        if self._now == self._starts[0]:
            self._drop_carried()
        self._settle()
        self._state, self._mid2_now, self._edges_now = state, ABSENT, _NO_EDGES
        elapsed_ns = self._elapsed_ns()
        self._bids.become({}, elapsed_ns)
        self._asks.become({}, elapsed_ns)

    def _drop_carried(self) -> None:
        """The state in which an interval began stood in it for no time."""
        for index, start in enumerate(self._starts):
            if self._is_carried[index] and start == self._now:
                self._mid2[index], self._is_carried[index] = ABSENT, False

    def _see_edges(self, book: OrderBook) -> None:
        bid, ask = self._edges_now = book.bid_edge, book.ask_edge
        self._edges = [(max(bid, low), min(ask, high)) for low, high in self._edges]

    def _settle(self) -> None:
        if self._noted:
            noted, self._noted = self._noted, []
            minute_ns = self._starts[0] - self._starts[1]
            self._bids.settle([(ns, c.bids, c.bids_before) for ns, c in noted if c.bids_before], self.width, minute_ns)
            self._asks.settle([(ns, c.asks, c.asks_before) for ns, c in noted if c.asks_before], self.width, minute_ns)

    def _become(self, book: OrderBook) -> None:
        self._settle()
        elapsed_ns = self._elapsed_ns()
        for side, levels in ((self._bids, book.bids), (self._asks, book.asks)):
            sizes: defaultdict[int, int] = defaultdict(int)
            for price, size in levels.items():
                sizes[price // self.width] += size
            side.become(sizes, elapsed_ns)

    def _elapsed_ns(self) -> tuple[int, int]:
        now, (second, minute) = self._now, self._starts
        return now - second, now - minute

    def _begin(self, ts_ns: int) -> None:
        self._settle()
        for index in range(len(TIMEFRAMES)):
            self._open(index, ts_ns)

    def _open(self, index: int, ts_ns: int) -> None:
        """Begin the interval of a timeframe that holds `ts_ns`. What rests counts from `ts_ns` on."""
        start = self._starts[index] = ts_ns - ts_ns % (TIMEFRAMES[index] * NS_PER_SECOND)
        self._live_before[index] = self._live_ns
        self._mid2[index], self._edges[index] = self._mid2_now, self._edges_now
        self._is_carried[index] = ts_ns == start
        for side in (self._bids, self._asks):
            side.moments[index].clear()
            if ts_ns > start:
                side.moments[index].update({bucket: size * (ts_ns - start) for bucket, size in side.sizes.items()})

    def _integrate(self, ns: int) -> None:
        if self._state is BookState.LIVE:
            self._live_ns += ns

    def _close(self, end_ns: int) -> bytes:
        self._settle()
        ended = [index for index, frame in enumerate(TIMEFRAMES) if end_ns % (frame * NS_PER_SECOND) == 0]
        rows = [self._row(index, end_ns) for index in ended]
        for index in ended:
            self._open(index, end_ns)
        return b"".join(rows)

    def _finish(self, end_ns: int, closed: bytes) -> bytes:
        return closed

    def _row(self, index: int, end_ns: int) -> bytes:
        start, timeframe, state = self._starts[index], TIMEFRAMES[index], int(self._state)
        if self._live_ns == self._live_before[index] or self._mid2[index] == ABSENT:
            return _ROW.pack(start, 0, 0, self.width or ABSENT, ABSENT, timeframe, state, 0, *_UNKNOWN)
        base = self._mid2[index] // (2 * self.width)
        bids = self._means(self._bids, index, end_ns, range(base, base - BUCKETS_A_SIDE, -1))
        asks = self._means(self._asks, index, end_ns, range(base, base + BUCKETS_A_SIDE))
        if self._edges[index] != _NO_EDGES:
            low, high = self._edges[index]
            bids = [size if (base - j) * self.width >= low else ABSENT for j, size in enumerate(bids)]
            asks = [size if (base + j + 1) * self.width <= high + 1 else ABSENT for j, size in enumerate(asks)]
        return _ROW.pack(start, 0, 0, self.width, base, timeframe, state, 0, *bids, *asks)

    def _means(self, side: _Side, index: int, end_ns: int, buckets: range) -> list[int]:
        sizes, moments = side.sizes, side.moments[index]
        span_ns, live_ns = end_ns - self._starts[index], self._live_ns - self._live_before[index]
        means = [(sizes.get(bucket, 0) * span_ns - moments.get(bucket, 0)) // live_ns for bucket in buckets]
        return [mean if mean <= MAX_FIXED else ABSENT for mean in means]
