"""The bars that are still forming: one int64 table that the arena can publish with one slice copy.

`table` is laid out as CANDLE records, two slots a timeframe; a slot is empty when its ts is ABSENT. The slot
of a bar is the parity of its number (ts // Δ): with grace <= Δ at most two neighbours are open after a
batch, so they never want the same one. Inside a batch that spans more, the older of two bars for a slot waits
in `_spilled`; it is sure to be due when the batch is through.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

from marketd.market.bar_rows import (
    BUY,
    CANDLE_WORDS,
    CLOSE,
    COUNT,
    FIRST,
    HIGH,
    LAST,
    LOW,
    OPEN,
    QUOTE,
    REVISED,
    TAIL,
    TS,
    VOLUME,
    Row,
    merge,
)
from marketd.market.fixed import MAX_FIXED
from marketd.market.times import ABSENT

NEVER = MAX_FIXED  # a time that does not come

# the words of a bar that change with each trade stand side by side
_pack_sums = Struct(f"<{COUNT - CLOSE + 1}q").pack_into
assert (VOLUME, QUOTE, BUY, COUNT) == (CLOSE + 1, CLOSE + 2, CLOSE + 3, CLOSE + 4)


class Saved(NamedTuple):
    """What a batch that fails is undone with."""

    table: bytes
    firsts: list[int]
    lasts: list[int]
    given: list[int]
    due_ns: int


class _Same:
    """Trades of one moment (the unit of the timeframes), which all go to the same bars: what those had before them, and
    what they have together.

    One that makes no bar higher, lower, or begin earlier, and that is the last of each bar, changes nothing but closes
    and sums: nearly all of a second in which much is traded.
    """

    __slots__ = ("bars", "buy", "count", "first", "high", "last", "low", "quote", "ts", "volume")

    def __init__(self, ts: int) -> None:
        self.ts = ts  # ABSENT: of no moment, a slot got or lost a bar since
        self.low, self.high = ABSENT, NEVER
        self.first = self.last = ABSENT
        self.volume = self.quote = self.buy = self.count = 0
        # slot, where its close and sums begin (bytes), its sums before
        self.bars: list[tuple[int, int, int, int, int, int]] = []


class OpenBars:
    """The forming bars of all timeframes (`deltas_ns`, ascending) of one instrument.

    `due_ns`: no bar closes before the newest event reaches this time.
    """

    def __init__(self, deltas_ns: Sequence[int], grace_ns: int) -> None:
        self._deltas_ns = list(deltas_ns)
        self._grace_ns = grace_ns
        self._plan = [(delta_ns, 2 * index) for index, delta_ns in enumerate(deltas_ns)]
        self._bytes = bytearray(2 * len(deltas_ns) * CANDLE_WORDS * 8)
        self.table = memoryview(self._bytes).cast("q")
        self._no_bar = memoryview(bytearray(CANDLE_WORDS * 8)).cast("q")
        self._no_bar[TS] = ABSENT
        self._slots = range(2 * len(deltas_ns))
        self._firsts = [0] * len(self._slots)
        self._lasts = [0] * len(self._slots)
        self._given = [0] * len(self._slots)  # trades in the version that was given out early; 0: none was
        self._spilled: dict[tuple[int, int], list[int]] = {}
        self._same = _Same(ABSENT)
        self._last_ts = ABSENT
        self.due_ns = NEVER
        for slot in self._slots:
            self._clear(slot)

    def add(self, group: Row) -> list[int] | None:
        """Add a group of trades (inside one bar of each timeframe) to the open bars that it belongs to.

        Returns the indexes of the timeframes where no such bar is open. ValueError when a sum leaves 64 bits.
        """
        ts, _, _, _, high, low, close, volume, quote, buy, count, _, first, last = group
        same = self._same
        if ts == same.ts and low >= same.low and high <= same.high and first >= same.first and last >= same.last:
            same.last = last
            same.volume = volume = same.volume + volume
            same.quote = quote = same.quote + quote
            same.buy = buy = same.buy + buy
            same.count = count = same.count + count
            table, lasts = self._bytes, self._lasts
            for slot, at, volume_before, quote_before, buy_before, count_before in same.bars:
                lasts[slot] = last
                _pack_sums(
                    table, at, close, volume_before + volume, quote_before + quote, buy_before + buy,
                    count_before + count,
                )  # fmt: skip
            return None
        missed = self._add_anywhere(group)
        if missed is None and ts == self._last_ts:
            self._watch(ts)
        self._last_ts = ts
        return missed

    def _add_anywhere(self, group: Row) -> list[int] | None:
        """As `add`, whatever the group does to the bars."""
        ts, _, _, open_, high, low, close, volume, quote, buy, count, _, first, last = group
        self._same.ts = ABSENT
        table, firsts, lasts = self.table, self._firsts, self._lasts
        missed: list[int] | None = None
        for delta_ns, slot in self._plan:
            number = ts // delta_ns
            slot += number & 1
            word = slot * CANDLE_WORDS
            if table[word] != number * delta_ns:
                missed = missed or []
                missed.append(slot >> 1)
                continue
            if high > table[word + HIGH]:
                table[word + HIGH] = high
            if low < table[word + LOW]:
                table[word + LOW] = low
            if last >= lasts[slot]:
                lasts[slot] = last
                table[word + CLOSE] = close
            if first < firsts[slot]:
                firsts[slot] = first
                table[word + OPEN] = open_
            # memoryview refuses what does not fit into 64 bits: that is the check of the sums
            table[word + VOLUME] += volume
            table[word + QUOTE] += quote
            if buy:
                table[word + BUY] += buy
            table[word + COUNT] += count
        return missed

    def _watch(self, ts: int) -> None:
        """From now on trades of the moment `ts`, whose bars are all open, may take the short way of `add`."""
        self._same = same = _Same(ts)
        for delta_ns, slot in self._plan:
            slot += ts // delta_ns & 1
            word = slot * CANDLE_WORDS
            bar = self.table[word : word + CANDLE_WORDS]
            same.low, same.high = max(same.low, bar[LOW]), min(same.high, bar[HIGH])
            same.first, same.last = max(same.first, self._firsts[slot]), max(same.last, self._lasts[slot])
            same.bars.append((slot, 8 * (word + CLOSE), bar[VOLUME], bar[QUOTE], bar[BUY], bar[COUNT]))

    def is_open(self, index: int, ts: int) -> bool:
        return self.table[self._slot(index, ts) * CANDLE_WORDS] == ts

    def add_to(self, index: int, bar: Row) -> None:
        """Add trades to the open bar of one timeframe. RangeError when a sum leaves 64 bits."""
        slot = self._slot(index, bar[TS])
        merged = self._row(slot)
        merge(merged, bar)
        self._write(slot, merged)

    def place(self, index: int, bar: list[int]) -> None:
        """A bar that is in no slot: open it, or add it to a spilled one, or spill what is in its slot."""
        key = (index, bar[TS])
        if key in self._spilled:
            merge(self._spilled[key], bar)
            return
        self.due_ns = min(self.due_ns, bar[TS] + self._deltas_ns[index] + self._grace_ns)
        slot = self._slot(index, bar[TS])
        there = self.table[slot * CANDLE_WORDS]
        if there > bar[TS]:
            self._spilled[key] = bar
            return
        if there != ABSENT:
            self._spilled[index, there] = self._take(slot)
        self._write(slot, bar)

    def close_due(self, newest_ns: int) -> list[tuple[int, list[int]]]:
        """Take out the bars whose end plus grace is reached, each with the index of its timeframe."""
        closed = [(index, bar) for (index, _), bar in self._spilled.items()]
        self._spilled.clear()
        due_ns = NEVER
        for slot in self._slots:
            ts = self.table[slot * CANDLE_WORDS]
            if ts == ABSENT:
                continue
            ends_ns = ts + self._deltas_ns[slot >> 1] + self._grace_ns
            if ends_ns <= newest_ns:
                closed.append((slot >> 1, self._take(slot)))
            else:
                due_ns = min(due_ns, ends_ns)
        self.due_ns = due_ns
        return closed

    def occupied(self) -> list[tuple[int, list[int]]]:
        """Copies of the open bars with the index of their timeframe, by timeframe and time."""
        slots = [slot for slot in self._slots if self.table[slot * CANDLE_WORDS] != ABSENT]
        bars = [(slot >> 1, self._row(slot)) for slot in slots]
        return sorted(bars, key=lambda bar: (bar[0], bar[1][TS]))

    def most(self) -> int:
        """No sum of an open bar is greater than this."""
        return max((bar[VOLUME] + bar[QUOTE] for _, bar in self.occupied()), default=0)

    def set_tail(self, index: int, ts: int, tail: int) -> None:
        self.table[self._slot(index, ts) * CANDLE_WORDS + TAIL] = tail

    def trades_given(self, index: int, ts: int) -> int:
        """How many trades the version of an open bar had that was given out before it closed; 0: none was."""
        return self._given[self._slot(index, ts)]

    def set_given(self, index: int, ts: int, trades: int) -> None:
        """A version of an open bar with so many trades was given out: its close will revise that."""
        self._given[self._slot(index, ts)] = trades

    def save(self) -> Saved:
        return Saved(bytes(self._bytes), self._firsts[:], self._lasts[:], self._given[:], self.due_ns)

    def undo(self, saved: Saved) -> None:
        """Back to what `save` saw, for a batch that failed before anything was closed."""
        self._bytes[:] = saved.table
        _, self._firsts, self._lasts, self._given, self.due_ns = saved
        self._same.ts = ABSENT
        self._spilled.clear()

    def _slot(self, index: int, ts: int) -> int:
        return 2 * index + (ts // self._deltas_ns[index] & 1)

    def _row(self, slot: int) -> list[int]:
        word = slot * CANDLE_WORDS
        return [*self.table[word : word + CANDLE_WORDS], self._firsts[slot], self._lasts[slot]]

    def _write(self, slot: int, bar: Row) -> None:
        word = slot * CANDLE_WORDS
        for offset in range(CANDLE_WORDS):
            self.table[word + offset] = bar[offset]
        self._firsts[slot], self._lasts[slot] = bar[FIRST], bar[LAST]
        self._same.ts = ABSENT

    def _take(self, slot: int) -> list[int]:
        bar = self._row(slot)
        if self._given[slot]:
            bar[TAIL] |= REVISED
        self._clear(slot)
        return bar

    def _clear(self, slot: int) -> None:
        word = slot * CANDLE_WORDS
        self.table[word : word + CANDLE_WORDS] = self._no_bar
        self._given[slot] = 0
        self._same.ts = ABSENT
