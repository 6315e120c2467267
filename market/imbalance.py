"""The imbalance of a book and of what was traded, each second. Integers throughout; nothing looks at a clock.

Of a LIVE book with best bid Pb and best ask Pa (Qb and Qa rest there), at the instrument's scales:

    mid2       Pb + Pa: twice the mid
    spread     Pa - Pb
    band       all prices p with |2 p - mid2| * 10**7 <= band * mid2, where band = round(band_bps * 1000)
    B, A       what rests within the band on the bid side and on the ask side
    r          (B - A) / (B + A) in 1e-6, truncated towards zero; undefined while the book is not LIVE, a side is
               empty, nothing rests within the band, or the band reaches beyond the book's edges (as do B and A then)

and of the second that ends at e, for w of 1, 5, 15, 60:

    book_w     sum(r dt) / sum(dt) over [e - w … e), truncated towards zero: the time-weighted mean. Absent unless r
               was defined throughout the window, and the book is LIVE at e
    volume_w   (V+ - V-) / (V+ + V-) in 1e-6, truncated towards zero; V+ and V- are the sizes of the trades with
               e - w <= ts_event < e whose aggressor bought and sold. Trades of an unknown aggressor or off the market
               do not count. Absent unless trades were heard throughout the window, and where there was none
    mid2 … best_ask_size   as they were at e; absent unless the book is LIVE

`reason` tells why some are absent; the first that applies of NOT_LIVE, BEYOND_EDGE and NO_LEVELS (r is undefined at e),
WARMING (a window is not full). The weighted mid of the API is (Pa Qb + Pb Qa) / (Qb + Qa), from mid2, spread and the
best sizes.
"""

from __future__ import annotations

import struct
from collections import deque

from marketd.market import imbalance_state
from marketd.market.book import Change, OrderBook
from marketd.market.fixed import MAX_FIXED
from marketd.market.imbalance_state import ImbalanceState
from marketd.market.records import (
    IMBALANCE,
    WINDOWS_SECONDS,
    BookState,
    ImbalanceReason,
    Records,
    TradeFlag,
)
from marketd.market.seconds import GRACE_NS, MAX_LEAP_NS, SecondsKernel
from marketd.market.times import ABSENT, NS_PER_SECOND

PPM = 1_000_000
_BAND_UNIT = 10_000_000  # the band is in thousandths of a basis point
_LONGEST = max(WINDOWS_SECONDS)
_ABSENT_RATIO = -(2**31)
_NO_FIGURES = (ABSENT,) * 6
_ROW = struct.Struct("<9q10i")
assert _ROW.size == IMBALANCE.itemsize
_NAMES = IMBALANCE.names or ()
_FIRST_VOLUME, _REASON = _NAMES.index("volume_1s"), _NAMES.index("reason")  # places in a row


def ratio_ppm(first: int, second: int) -> int | None:
    """(first - second) / (first + second) in 1e-6, towards zero; None where both are 0. Neither is negative."""
    total = first + second
    return _truncated((first - second) * PPM, total) if total else None


def _truncated(numerator: int, denominator: int) -> int:
    """Towards zero, so that swapping the sides swaps the sign and nothing else."""
    return numerator // denominator if numerator >= 0 else -(-numerator // denominator)


class Band:
    """What rests within a band around the mid, kept in step with a book by its changes."""

    def __init__(self, band_bps: float) -> None:
        self._band = round(band_bps * 1000)
        self._low = self._high = 0  # the band's prices, both inclusive; _high 0: there is none
        self.bids = self.asks = 0
        self.mid2 = ABSENT

    def follow(self, book: OrderBook, change: Change | None) -> None:
        """The book is now as it is, by `change` since the last call; None: it has nothing to do with it."""
        bid, ask = book.best_bid, book.best_ask
        if bid is None or ask is None or bid + ask > MAX_FIXED:
            self._high = self.bids = self.asks = 0
            self.mid2 = ABSENT
            return
        mid2 = bid + ask
        if change is None or not self._high:
            self._low, self._high = self._around(mid2)
            self.bids, self.asks = book.bids_within(self._low, bid), book.asks_within(ask, self._high)
        else:
            self._add(change)
            if mid2 != self.mid2:
                self._shift(book, *self._around(mid2))
        self.mid2 = mid2

    def is_within(self, book: OrderBook) -> bool:
        """All that rests within the band is known; so it is where there is no band."""
        return not self._high or (self._low >= book.bid_edge and self._high <= book.ask_edge)

    def _around(self, mid2: int) -> tuple[int, int]:
        low = -(-mid2 * (_BAND_UNIT - self._band) // (2 * _BAND_UNIT))
        return low, mid2 * (_BAND_UNIT + self._band) // (2 * _BAND_UNIT)

    def _add(self, change: Change) -> None:
        """Changes within the band as it was."""
        low, high, bids, asks = self._low, self._high, change.bids, change.asks
        if bids.prices:
            for price, size, before in zip(bids.prices, bids.sizes, change.bids_before, strict=True):
                if price >= low:
                    self.bids += size - before
        if asks.prices:
            for price, size, before in zip(asks.prices, asks.sizes, change.asks_before, strict=True):
                if price <= high:
                    self.asks += size - before

    def _shift(self, book: OrderBook, low: int, high: int) -> None:
        """To where the band is now: levels that it takes in or leaves out."""
        if low < self._low:
            self.bids += book.bids_within(low, self._low - 1)
        elif low > self._low:
            self.bids -= book.bids_within(self._low, low - 1)
        if high > self._high:
            self.asks += book.asks_within(self._high + 1, high)
        elif high < self._high:
            self.asks -= book.asks_within(high + 1, self._high)
        self._low, self._high = low, high


class ImbalanceKernel(SecondsKernel[list[int]]):
    """One instrument. Tell it each state of the book and each trade; `advance` answers with IMBALANCE records."""

    def __init__(self, band_bps: float, *, grace_ns: int = GRACE_NS) -> None:
        super().__init__(IMBALANCE, grace_ns)
        self._band = Band(band_bps)
        self._state = BookState.EMPTY
        self._figures: tuple[int, ...] = _NO_FIGURES
        self._ratio: int | None = None
        self._is_beyond = False  # the band reaches beyond the book's edges
        self._near = (ABSENT, ABSENT)  # what rested within the band when the ratio was computed
        self._weighted = self._defined_ns = 0  # sum(r dt) and sum(dt) of the second
        self._seconds: deque[tuple[int, int]] = deque(maxlen=_LONGEST)  # those of the last seconds, the newest last
        self._volumes: dict[int, tuple[int, int]] = {}  # bought and sold, by the second's number
        self._trades_since = 0

    def book(self, ts_ns: int, book: OrderBook, change: Change | None = None) -> None:
        """The book is LIVE and like this from `ts_ns` on, by `change` since the last call; None: it began anew."""
        self._move(ts_ns)
        band = self._band
        band.follow(book, change if self._state is BookState.LIVE else None)
        near_bids, near_asks = near = band.bids, band.asks
        is_beyond = book.is_cut and not band.is_within(book)
        if near != self._near or is_beyond is not self._is_beyond or self._state is not BookState.LIVE:
            self._near, self._is_beyond = near, is_beyond
            self._ratio = None if is_beyond else ratio_ppm(near_bids, near_asks)
        self._state = BookState.LIVE
        bid, ask = book.best_bid, book.best_ask
        if band.mid2 == ABSENT or bid is None or ask is None:
            self._figures = _NO_FIGURES
            return
        if is_beyond:
            near_bids = near_asks = ABSENT
        elif near_bids > MAX_FIXED or near_asks > MAX_FIXED:
            near_bids, near_asks = (side if side <= MAX_FIXED else ABSENT for side in near)
        self._figures = (band.mid2, ask - bid, near_bids, near_asks, book.best_bid_size, book.best_ask_size)

    def leave(self, ts_ns: int, state: BookState) -> None:
        """From `ts_ns` on the book is in `state`, which is not LIVE."""
        self._move(ts_ns)
        self._state, self._ratio, self._figures = state, None, _NO_FIGURES

    def trades(self, records: Records) -> None:
        """TRADE records, in any order. Those older than the windows change nothing."""
        for ts_event, _, _, _, _, size, side, flags in records.tolist():
            if not side or flags & TradeFlag.NOT_MARKET:
                continue
            if self._now == ABSENT or ts_event > self._now + MAX_LEAP_NS:
                self._move(ts_event)
            elif ts_event < self._now - MAX_LEAP_NS:
                continue  # fetched later; no window reaches back so far
            second = ts_event // NS_PER_SECOND
            bought, sold = self._volumes.get(second, (0, 0))
            self._volumes[second] = (bought + size, sold) if side > 0 else (bought, sold + size)

    def trades_lost(self, ts_ns: int) -> None:
        """Trades before `ts_ns` may be missing: windows of volume begin here."""
        self._trades_since = max(self._trades_since, ts_ns)

    def state(self) -> bytes:
        """All that `restore` needs to go on as if nothing had happened, but for the book: that is told anew."""
        return imbalance_state.encode(
            ImbalanceState(
                imbalance_state.VERSION,
                self._now,
                [(end, _ROW.pack(*row)) for end, row in self._closed],
                int(self._state),
                list(self._figures),
                self._ratio,
                self._weighted,
                self._defined_ns,
                list(self._seconds),
                [(second, str(bought), str(sold)) for second, (bought, sold) in self._volumes.items()],
                self._trades_since,
            )
        )

    def restore(self, state: bytes | memoryview) -> None:
        """Go on from a `state`. InvalidArgument if it is none."""
        found = imbalance_state.decode(state)
        self._now, self._end_ns = found.now_ns, ABSENT
        self._closed = [(end, list(_ROW.unpack(row))) for end, row in found.closed]
        self._state, self._figures, self._ratio = BookState(found.state), tuple(found.figures), found.ratio
        self._weighted, self._defined_ns = found.weighted, found.defined_ns
        self._seconds.extend(found.seconds)
        self._volumes = {second: (int(bought), int(sold)) for second, bought, sold in found.volumes}
        self._trades_since = found.trades_since_ns

    def _begin(self, ts_ns: int) -> None:
        self._seconds.clear()
        self._volumes.clear()
        self._weighted = self._defined_ns = 0
        self._trades_since = ts_ns

    def _integrate(self, ns: int) -> None:
        if self._ratio is not None:
            self._weighted += self._ratio * ns
            self._defined_ns += ns

    def _close(self, end_ns: int) -> list[int]:
        self._seconds.append((self._weighted, self._defined_ns))
        self._weighted = self._defined_ns = 0
        is_live = self._state is BookState.LIVE
        means = self._means() if is_live else [None] * len(WINDOWS_SECONDS)
        reason = ImbalanceReason.NONE
        if not is_live:
            reason = ImbalanceReason.NOT_LIVE
        elif self._ratio is None:
            reason = ImbalanceReason.BEYOND_EDGE if self._is_beyond else ImbalanceReason.NO_LEVELS
        elif None in means:
            reason = ImbalanceReason.WARMING
        unknown = [_ABSENT_RATIO] * len(WINDOWS_SECONDS)  # volumes: trades of this second may still come
        return [end_ns, 0, 0, *self._figures, *map(_or_absent, means), *unknown, int(self._state), int(reason)]

    def _finish(self, end_ns: int, closed: list[int]) -> bytes:
        end, volumes = end_ns // NS_PER_SECOND, self._volumes
        for second in [second for second in volumes if second < end - _LONGEST]:
            del volumes[second]
        bought = sold = 0
        start = end
        for place, seconds in enumerate(WINDOWS_SECONDS, _FIRST_VOLUME):
            if volumes:
                for second in range(end - seconds, start):
                    plus, minus = volumes.get(second, (0, 0))
                    bought += plus
                    sold += minus
            start = end - seconds
            if start * NS_PER_SECOND < self._trades_since:
                if closed[_REASON] == ImbalanceReason.NONE:
                    closed[_REASON] = int(ImbalanceReason.WARMING)
                break
            closed[place] = _or_absent(ratio_ppm(bought, sold))
        return _ROW.pack(*closed)

    def _means(self) -> list[int | None]:
        """The time-weighted mean of each window that is full."""
        found: list[int | None] = []
        weighted = defined_ns = count = 0
        newest_first = reversed(self._seconds)
        for seconds in WINDOWS_SECONDS:
            for sums in newest_first:
                weighted += sums[0]
                defined_ns += sums[1]
                count += 1
                if count == seconds:
                    break
            is_full = defined_ns == seconds * NS_PER_SECOND
            found.append(_truncated(weighted, defined_ns) if is_full else None)
        return found


def _or_absent(ratio: int | None) -> int:
    return _ABSENT_RATIO if ratio is None else ratio
