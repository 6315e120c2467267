"""What rests in each price bucket, as time-weighted means over seconds and minutes. Integers; no clock.

Bucket k has the prices k * width <= p < (k + 1) * width. Of an interval [a, b) in which the book was LIVE for L ns:

    base          number of the bucket of the last mid in it: mid2 // (2 * width)
    bid_size[j]   (integral over the LIVE part of [a, b) of what rested on the bid side in bucket base - j) // L
    ask_size[j]   the same on the ask side, in bucket base + j;  j = 0 … 31
    state         the book's at b

All of them are absent where the book was not LIVE for a moment of the interval, or had no mid while it was.

How it is computed: with s(t) what rests in a bucket, and d_i the change of s at t_i, the integral of s over [a, b) is
s(b) (b - a) - sum(d_i (t_i - a)). So a changed level costs two additions, however many buckets there are, and a book
that is not LIVE is one in which nothing rests.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np

from marketd.market.book import Change, OrderBook
from marketd.market.errors import InvalidArgument
from marketd.market.fixed import MAX_FIXED
from marketd.market.records import BUCKETS, BUCKETS_A_SIDE, BookState, Records
from marketd.market.seconds import GRACE_NS, SecondsKernel
from marketd.market.times import ABSENT, NS_PER_SECOND

TIMEFRAMES = (1, 60)  # seconds
_BP = 10_000


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

    def become(self, sizes: Mapping[int, int], elapsed_ns: tuple[int, int]) -> None:
        """From now on exactly this rests."""
        before = self.sizes
        changes = [(bucket, sizes.get(bucket, 0) - before.get(bucket, 0)) for bucket in before.keys() | sizes.keys()]
        self.change([(bucket, by) for bucket, by in changes if by], elapsed_ns)


class BucketKernel(SecondsKernel):
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
        self._state = BookState.EMPTY
        self._starts = [0] * len(TIMEFRAMES)  # of the intervals that are open
        self._live_ns = 0  # since the kernel began
        self._live_before = [0] * len(TIMEFRAMES)  # of it, before the open intervals
        self._mid2 = [ABSENT] * len(TIMEFRAMES)  # the last one in each interval
        self._mid2_now = ABSENT

    def book(self, ts_ns: int, book: OrderBook, change: Change | None = None) -> None:
        """The book is LIVE and like this from `ts_ns` on, by `change` since the last call; None: it began anew."""
        self._move(ts_ns)
        self._mid2_now = ABSENT
        if book.bid_prices and book.ask_prices:
            self._mid2_now = book.bid_prices[-1] + book.ask_prices[0]
            self._mid2 = [self._mid2_now] * len(TIMEFRAMES)
        was_known = self.width > 0 and self._state is BookState.LIVE
        self._state = BookState.LIVE
        if not self.width:
            if self._mid2_now == ABSENT:
                return
            self.width = default_width(self._mid2_now, self._tick_size)
            self._begin(self._now)
        if change is None or not was_known:
            self._become(book)
        else:
            self._apply(change)

    def leave(self, ts_ns: int, state: BookState) -> None:
        """From `ts_ns` on the book is in `state`, which is not LIVE."""
        self._move(ts_ns)
        self._state, self._mid2_now = state, ABSENT
        elapsed_ns = self._elapsed_ns()
        self._bids.become({}, elapsed_ns)
        self._asks.become({}, elapsed_ns)

    def _apply(self, change: Change) -> None:
        elapsed_ns, width = self._elapsed_ns(), self.width
        for side, (prices, sizes), befores in (
            (self._bids, change.bids, change.bids_before),
            (self._asks, change.asks, change.asks_before),
        ):
            rows = zip(prices, sizes, befores, strict=True)
            side.change([(price // width, size - was) for price, size, was in rows if size != was], elapsed_ns)

    def _become(self, book: OrderBook) -> None:
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
        for index in range(len(TIMEFRAMES)):
            self._open(index, ts_ns)

    def _open(self, index: int, ts_ns: int) -> None:
        """Begin the interval of a timeframe that holds `ts_ns`. What rests counts from `ts_ns` on."""
        start = self._starts[index] = ts_ns - ts_ns % (TIMEFRAMES[index] * NS_PER_SECOND)
        self._live_before[index] = self._live_ns
        self._mid2[index] = self._mid2_now
        for side in (self._bids, self._asks):
            side.moments[index].clear()
            if ts_ns > start:
                side.moments[index].update({bucket: size * (ts_ns - start) for bucket, size in side.sizes.items()})

    def _integrate(self, ns: int) -> None:
        if self._state is BookState.LIVE:
            self._live_ns += ns

    def _close(self, end_ns: int) -> Records:
        ended = [index for index, frame in enumerate(TIMEFRAMES) if end_ns % (frame * NS_PER_SECOND) == 0]
        records = np.concatenate([self._record(index, end_ns) for index in ended])
        for index in ended:
            self._open(index, end_ns)
        return records

    def _record(self, index: int, end_ns: int) -> Records:
        record = np.zeros(1, dtype=BUCKETS)
        row = record[0]
        row["ts"], row["timeframe"], row["state"] = self._starts[index], TIMEFRAMES[index], self._state
        if self._live_ns == self._live_before[index] or self._mid2[index] == ABSENT:
            for name in ("base", "bid_size", "ask_size"):
                row[name] = ABSENT
            row["width"] = self.width or ABSENT
            return record
        base = self._mid2[index] // (2 * self.width)
        row["width"], row["base"] = self.width, base
        row["bid_size"] = self._means(self._bids, index, end_ns, range(base, base - BUCKETS_A_SIDE, -1))
        row["ask_size"] = self._means(self._asks, index, end_ns, range(base, base + BUCKETS_A_SIDE))
        return record

    def _means(self, side: _Side, index: int, end_ns: int, buckets: range) -> list[int]:
        sizes, moments = side.sizes, side.moments[index]
        span_ns, live_ns = end_ns - self._starts[index], self._live_ns - self._live_before[index]
        means = [(sizes.get(bucket, 0) * span_ns - moments.get(bucket, 0)) // live_ns for bucket in buckets]
        return [mean if mean <= MAX_FIXED else ABSENT for mean in means]
