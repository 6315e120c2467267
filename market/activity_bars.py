"""Bars that close by activity rather than by time: after so many trades, so much volume, or so much turnover.

    tick:1000        a bar closes with its 1000th trade
    volume:12.5      … with the trade by which its volume reaches 12.5 units of the base
    dollar:1000000   … with the trade by which its quote volume reaches 1,000,000 units of the quote

The trade that reaches the threshold belongs whole to the bar that it closes; the next bar begins with the next trade.
Trades count in the order in which they became known (`seq`): a closed bar is never changed, and a replay of the journal
closes the same bars. One that comes later than `LATE_NS` after the newest (a backfill goes through beside the live
trades) counts in none, for it would be mixed with prices of another time. Trades off the market
(`TradeFlag.NOT_MARKET`) do not count. Sums are exact: a bar that one more trade would carry out of 64 bits is closed
before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from marketd.market.activity_specs import ActivitySpec
from marketd.market.errors import InvalidArgument, RangeError
from marketd.market.fixed import MAX_FIXED, mul_floor, quote_factors
from marketd.market.records import ACTIVITY_BAR, ActivityFlag, Measure, Records, TradeFlag
from marketd.market.times import ABSENT, NS_PER_SECOND

Ints = npt.NDArray[np.int64]

MANY = 48  # trades from which on numpy beats plain ints
LATE_NS = 60 * NS_PER_SECOND  # of event time; venues are late by seconds, repairs fetch in order
STATE_VERSION = 1
_NOT_MARKET = int(TradeFlag.NOT_MARKET)
_ROUNDED_UP = 1 + 1e-9  # more than sums of doubles err

# A bar as plain ints, in this order. What is summed comes last.
_START, _END, _OPEN, _HIGH, _LOW, _CLOSE, _VOLUME, _QUOTE, _BUY, _COUNT = range(10)
_MEASURED = {Measure.TICK: _COUNT, Measure.VOLUME: _VOLUME, Measure.DOLLAR: _QUOTE}


class _State(msgspec.Struct, array_like=True):
    """The forming bar of one spec; no words: there is none."""

    measure: int
    threshold: int
    bar: list[int]
    flags: int


class _States(msgspec.Struct, array_like=True):
    version: int
    bars: list[_State]
    newest_ns: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_States)


_Trade = tuple[int, int, int, int, int]  # a row of `_Columns`


class _Columns(NamedTuple):
    """Trades on the market, in their order, as arrays of one length."""

    times: Ints
    prices: Ints
    sizes: Ints
    quotes: Ints
    bought: Ints

    @property
    def sums_fit(self) -> bool:
        """Can no sum over these leave a quarter of 64 bits? By bounds alone."""
        count = len(self.sizes)
        return max(int(self.sizes.max()), int(self.quotes.max())) * count <= MAX_FIXED // 4


class _Former:
    """Forms the bars of one spec."""

    def __init__(self, spec: ActivitySpec) -> None:
        self.spec = spec
        self.bar: list[int] | None = None
        self.flags = 0
        self._word = _MEASURED[spec.measure]
        self._closed: list[tuple[int, ...]] = []

    def few(self, trades: Iterable[_Trade]) -> None:
        """Trades one by one."""
        threshold, word = self.spec.threshold, self._word
        for time, price, size, quote, bought in trades:
            one = [time, time, price, price, price, price, size, quote, bought, 1]
            if self.bar is not None and (self.bar[_VOLUME] + size > MAX_FIXED or self.bar[_QUOTE] + quote > MAX_FIXED):
                self._close(self.bar, ActivityFlag.EARLY)
            bar = self._merge(one)
            if bar[word] >= threshold:
                self._close(bar)

    def many(self, trades: _Columns) -> None:
        """The same at once, where no sum can leave 64 bits."""
        ends = self._ends(trades)
        starts = [0, *(end + 1 for end in ends if end + 1 < len(trades.times))]
        last = [*(start - 1 for start in starts[1:]), len(trades.times) - 1]
        add, least, most = np.add.reduceat, np.minimum.reduceat, np.maximum.reduceat
        rows = zip(
            least(trades.times, starts).tolist(),
            most(trades.times, starts).tolist(),
            trades.prices[starts].tolist(),
            most(trades.prices, starts).tolist(),
            least(trades.prices, starts).tolist(),
            trades.prices[last].tolist(),
            *(add(column, starts).tolist() for column in (trades.sizes, trades.quotes, trades.bought)),
            [end - start + 1 for start, end in zip(starts, last, strict=True)],
            strict=True,
        )
        for index, row in enumerate(rows):
            bar = self._merge(list(row))
            if index < len(ends):
                self._close(bar)

    def take(self) -> list[tuple[int, ...]]:
        """Rows of ACTIVITY_BAR closed since the last call."""
        closed, self._closed = self._closed, []
        return closed

    def most(self, count: int, measured: float) -> int:
        """How many bars so many trades can close that measure so much, where their sums fit: each takes a threshold."""
        if not self._has_headroom:
            return count
        forming = self.bar[self._word] if self.bar else 0
        return min(count, int((forming + measured) * _ROUNDED_UP) // self.spec.threshold)

    def fits(self, trades: _Columns) -> bool:
        """Can no sum leave 64 bits, the forming bar's included?"""
        return trades.sums_fit and self._has_headroom

    @property
    def _has_headroom(self) -> bool:
        return self.bar is None or max(self.bar[_VOLUME], self.bar[_QUOTE]) <= MAX_FIXED // 4

    def _ends(self, trades: _Columns) -> list[int]:
        """The trades that close a bar."""
        count = len(trades.times)
        measured = {_COUNT: None, _VOLUME: trades.sizes, _QUOTE: trades.quotes}[self._word]
        sums = np.arange(1, count + 1) if measured is None else np.cumsum(measured)
        target = self.spec.threshold - (self.bar[self._word] if self.bar else 0)
        total, ends = int(sums[-1]), []
        while target <= total:
            end = int(np.searchsorted(sums, target))
            ends.append(end)
            target = int(sums[end]) + self.spec.threshold
        return ends

    def _merge(self, one: list[int]) -> list[int]:
        """The forming bar, with one more in it."""
        bar = self.bar
        if bar is None:
            self.bar = one
            return one
        bar[_START] = min(bar[_START], one[_START])
        bar[_END] = max(bar[_END], one[_END])
        bar[_HIGH] = max(bar[_HIGH], one[_HIGH])
        bar[_LOW] = min(bar[_LOW], one[_LOW])
        bar[_CLOSE] = one[_CLOSE]
        for word in (_VOLUME, _QUOTE, _BUY, _COUNT):
            bar[word] += one[word]
        return bar

    def forming(self) -> list[tuple[int, ...]]:
        """The forming bar as a row of ACTIVITY_BAR; none when the last one just closed."""
        return [] if self.bar is None else [self._row(self.bar)]

    def _row(self, bar: list[int], flags: int = 0) -> tuple[int, ...]:
        start, end, *rest = bar
        return end, 0, 0, start, self.spec.threshold, *rest, int(self.spec.measure), self.flags | flags

    def _close(self, bar: list[int], flags: int = 0) -> None:
        self._closed.append(self._row(bar, flags))
        self.bar, self.flags = None, 0


class ActivityFold:
    """One instrument's bars of each spec. `add` answers with the ACTIVITY_BAR records of the bars that closed."""

    def __init__(self, specs: Sequence[ActivitySpec], *, price_scale: int, size_scale: int, quote_scale: int) -> None:
        if len(set(specs)) != len(specs):
            raise InvalidArgument("the same bars twice", field="activity_bars")
        self._scales = price_scale, size_scale, quote_scale
        self._quote_factors = quote_factors(*self._scales)
        self._formers = [_Former(spec) for spec in specs]
        self._newest_ns = ABSENT  # event time of the newest trade on the market

    def add(self, trades: Records) -> Records:
        """TRADE records in the order of `seq`; bars by spec, the oldest first, with unset stamps of knowledge.

        RangeError (nothing changed) when a trade's own price times size leaves 64 bits.
        """
        if len(trades) < MANY:
            rows = self._rows(trades)
            for former in self._formers:
                former.few(rows)
        else:
            self._add_many(trades)
        return _records([row for former in self._formers for row in former.take()])

    @property
    def count(self) -> int:
        """How many specs there are."""
        return len(self._formers)

    def most(self, trades: Records) -> int:
        """How many bars these trades could close at most, by an estimate from above."""
        count = len(trades)
        if count < MANY:
            return count * len(self._formers)
        multiplier, divisor = self._quote_factors
        sizes = trades["size"].astype(np.float64)
        quotes = float(sizes @ trades["price"]) * multiplier / divisor
        volume = float(sizes.sum())
        if max(volume, quotes) > MAX_FIXED // 4:
            return count * len(self._formers)  # any bar may be closed EARLY
        measured = {Measure.TICK: float(count), Measure.VOLUME: volume, Measure.DOLLAR: quotes}
        return sum(former.most(count, measured[former.spec.measure]) for former in self._formers)

    def _rows(self, trades: Records) -> list[_Trade]:
        """A few trades on the market, as plain ints, without those that are too late."""
        multiplier, divisor = self._quote_factors
        rows, newest_ns = [], self._newest_ns
        for ts_event, _, _, _, price, size, side, flags in trades.tolist():
            if flags & _NOT_MARKET or ts_event < newest_ns - LATE_NS:
                continue
            newest_ns = max(newest_ns, ts_event)
            rows.append((ts_event, price, size, price * size * multiplier // divisor, size if side == 1 else 0))
        if rows and max(row[3] for row in rows) > MAX_FIXED:
            raise RangeError("trade: price times size does not fit into 64 bits at the quote scale", field="quote")
        self._newest_ns = newest_ns
        return rows

    def _add_many(self, trades: Records) -> None:
        off_market = trades["flags"] & _NOT_MARKET
        if off_market.any():
            trades = trades[off_market == 0]
        if not len(trades):
            return
        newest_ns = np.maximum(np.maximum.accumulate(trades["ts_event"]), self._newest_ns)
        is_late = trades["ts_event"] < newest_ns - LATE_NS
        if is_late.any():
            trades = trades[~is_late]
            if not len(trades):
                return
        prices, sizes = np.ascontiguousarray(trades["price"]), np.ascontiguousarray(trades["size"])
        quotes = mul_floor(prices, sizes, *self._scales)
        self._newest_ns = int(newest_ns[-1])
        columns = _Columns(trades["ts_event"], prices, sizes, quotes, sizes * (trades["side"] == 1))
        for former in self._formers:
            if former.fits(columns):
                former.many(columns)
            else:
                former.few(zip(*(column.tolist() for column in columns), strict=True))

    def interrupted(self) -> None:
        """Trades may be missing here: bars that are forming are PARTIAL."""
        for former in self._formers:
            if former.bar is not None:
                former.flags |= ActivityFlag.PARTIAL

    def forming(self) -> Records:
        """The bars that are forming, in the order of the specs; none of a spec whose last bar just closed."""
        return _records([row for former in self._formers for row in former.forming()])

    def state(self) -> bytes:
        """All that `restore` needs, for the checkpoint."""
        bars = [_State(int(f.spec.measure), f.spec.threshold, f.bar or [], f.flags) for f in self._formers]
        return _encoder.encode(_States(STATE_VERSION, bars, self._newest_ns))

    def restore(self, state: bytes | memoryview) -> None:
        """Go on from a `state`; specs that it does not have begin anew. InvalidArgument if it is none."""
        try:
            found = _decoder.decode(state)
        except msgspec.MsgspecError as error:
            raise InvalidArgument(f"state: these bytes are no state of bars ({error})", field="state") from None
        if found.version != STATE_VERSION:
            raise InvalidArgument(f"state: version {found.version} cannot be read, {STATE_VERSION} can", field="state")
        self._newest_ns = found.newest_ns
        kept = {(bar.measure, bar.threshold): bar for bar in found.bars}
        for former in self._formers:
            bar = kept.get((int(former.spec.measure), former.spec.threshold))
            if bar is not None:
                former.bar, former.flags = bar.bar or None, bar.flags


def _records(rows: list[tuple[int, ...]]) -> Records:
    return np.array(rows, dtype=ACTIVITY_BAR)
