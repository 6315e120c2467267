"""The fold: trades of one instrument to bars of all timeframes, live, in replay and in history.

The one definition, whichever path works it out (`fold` takes the scalar one for few trades, numpy for many):

- *Newest* is the greatest `ts_event` seen, ticks included. A bar [ts, ts + Δ) closes when
  newest >= ts + Δ + grace.
- A batch first adds all its trades to their bars, then newest advances, then every bar that is due closes, in
  the order of end and timeframe. Whether a trade is late is judged by newest before its batch.
- A late trade makes a new version (REVISED) of its closed bar, exactly, as far back as the newest `keep` bars of
  the timeframe reach; or a new bar, if there was none. Beyond that the bar is named in `unknown`, and the
  caller computes it from the stored trades (`bars_from_trades`).
- Open and close follow (ts_event, order of arrival). Trades that are no market trades (NOT_MARKET) move newest
  but no bar. Seconds without trades make no row.
- Volumes are sums of int64, checked: a batch that would overflow one raises RangeError and changes nothing.
- A bar that was not observed throughout is PARTIAL.

Bars come out with ts_known = seq = 0 (ingest stamps them) and source OWN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from struct import error as StructError
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.market import fold_state
from marketd.market.bar_rows import (
    COUNT,
    NO_CANDLES,
    PARTIAL,
    QUOTE,
    REVISED,
    SEQ,
    SOURCE_AND_TIMEFRAME,
    TAIL,
    TS,
    TS_KNOWN,
    VOLUME,
    Row,
    Rows,
    from_candles,
    own_tail,
    to_candles,
)
from marketd.market.candles_numpy import bars_from_trades, group_rows, group_trades
from marketd.market.candles_scalar import group_few
from marketd.market.errors import InvalidArgument, RangeError
from marketd.market.fixed import MAX_FIXED, quote_factors
from marketd.market.fold_state import FoldState, KeptState, OpenState
from marketd.market.kept_bars import KeptBars
from marketd.market.late_bars import ClosedBars, LateBars
from marketd.market.observation import FOR_EVER, Observation
from marketd.market.open_bars import OpenBars, Saved
from marketd.market.records import Records
from marketd.market.times import ABSENT, NS_PER_SECOND

__all__ = ["BarFold", "Folded", "bars_from_trades"]

Ints = npt.NDArray[np.int64]

DEFAULT_GRACE_NS = 250_000_000  # later than nearly all out-of-order trades, sooner than a trading loop minds
DEFAULT_KEEP = 300
FEW_TRADES = 96  # measured: from about 100 trades on the numpy path is the quicker one


class Folded(NamedTuple):
    """What a batch did: bars that closed or were revised; (timeframe s, ts ns) of those the caller computes."""

    closed: Records
    unknown: list[tuple[int, int]]


class BarFold:
    """The bars of one instrument.

    `timeframes` in seconds. `observed_since_ns`: bars from here on are full, but for gaps (None: none is).
    `complete_from_ns`: there are no bars at or after this time but those that this fold makes (None: from its
    first event on). `open_table` holds the forming bars as CANDLE records, two slots a timeframe, empty where ts is
    ABSENT.
    """

    def __init__(
        self,
        timeframes: Sequence[int],
        *,
        price_scale: int,
        size_scale: int,
        quote_scale: int,
        grace_ns: int = DEFAULT_GRACE_NS,
        observed_since_ns: int | None = None,
        complete_from_ns: int | None = None,
        keep: int = DEFAULT_KEEP,
    ) -> None:
        self.timeframes = sorted(set(timeframes))
        if not self.timeframes or self.timeframes[0] < 1:
            raise InvalidArgument(f"timeframes: {timeframes!r} must be positive seconds", field="timeframes")
        if not 0 <= grace_ns <= self.timeframes[0] * NS_PER_SECOND:
            raise InvalidArgument("grace: must lie between 0 and the shortest timeframe", field="grace")
        if keep < 1:
            raise InvalidArgument("keep: at least one closed bar is kept", field="keep")
        self._scales = (price_scale, size_scale, quote_scale)
        self._multiplier, self._divisor = quote_factors(*self._scales)
        self._grace_ns = grace_ns
        self._deltas_ns = [seconds * NS_PER_SECOND for seconds in self.timeframes]
        self._tails = [own_tail(seconds) for seconds in self.timeframes]
        # trades are first grouped by what divides every timeframe
        self._unit_ns = math.gcd(*self._deltas_ns)
        self._parents = [_parent(self._deltas_ns, index) for index in range(len(self._deltas_ns))]
        self._observation = Observation(observed_since_ns)
        self._born_ns = [ABSENT] * len(self._deltas_ns)  # a timeframe that was added later: partial before
        self._open = OpenBars(self._deltas_ns, grace_ns)
        self._kept = [KeptBars(delta_ns, keep, complete_from_ns) for delta_ns in self._deltas_ns]
        self._newest_ns = ABSENT
        self._late = LateBars(self._kept, self._tail)
        self._most: int | None = None  # no sum of a bar is greater; None: they must be looked through

    @property
    def newest_ns(self) -> int | None:
        """The greatest ts_event seen."""
        return None if self._newest_ns == ABSENT else self._newest_ns

    @property
    def heard_ns(self) -> int:
        """Up to where the market is known: the greatest ts_event, or where observing began; ABSENT before both."""
        began = self._observation.since_ns
        return self._newest_ns if began is None else max(self._newest_ns, began)

    @property
    def open_table(self) -> memoryview:
        return self._open.table

    def open_bars(self) -> Records:
        """The forming bars, by timeframe and time."""
        return _candles(self._open.occupied())

    @property
    def has_unflushed(self) -> bool:
        """Would `flush` give out a bar?"""
        return any(self._open.trades_given(index, bar[TS]) != bar[COUNT] for index, bar in self._open.occupied())

    # ---- what happens ---------------------------------------------------------------------------

    def fold(self, trades: Records) -> Folded:
        """One batch of TRADE records, in the order of arrival. RangeError (nothing changed) on overflow."""
        if not len(trades):
            return _NOTHING
        if len(trades) <= FEW_TRADES:
            return self.fold_few(trades.tolist())
        saved = self._open.save()
        try:
            return self._fold_many(trades)
        except ValueError as error:
            raise self._undone(saved) from error

    def fold_few(self, trades: list[tuple[int, ...]]) -> Folded:
        """As `fold`, for a few rows of TRADE (`tolist()`), at least one."""
        groups = group_few(trades, self._unit_ns, self._multiplier, self._divisor)
        most = self._most if self._most is not None else self._look_through()
        for group in groups:
            most += group[VOLUME] + group[QUOTE]
        if most <= MAX_FIXED:  # no sum of any bar can leave 64 bits: nothing needs to be saved for a failure
            self._most = most
            return self._fold_groups(trades, groups)
        self._most = None
        saved = self._open.save()
        try:
            return self._fold_groups(trades, groups)
        except (ValueError, StructError) as error:  # RangeError, and what says that a sum is beyond 64 bits
            raise self._undone(saved) from error

    def _look_through(self) -> int:
        """No bar has more than this, and none will have more than it and all that is added from now on."""
        return max(self._open.most(), *(kept.most() for kept in self._kept))

    def _undone(self, saved: Saved) -> RangeError:
        self._open.undo(saved)
        self._late.forget()
        return RangeError("bar: a sum of volumes does not fit into 64 bits", field="volume")

    def tick(self, ts_event: int) -> Folded:
        """The venue's time without a trade."""
        return self._settle(ts_event, ts_event)

    def flush(self) -> Records:
        """At the end of an import: versions of the forming bars, PARTIAL, since their end was not seen.

        They stay open: what follows goes on with them, and their close revises these versions. A bar to which
        nothing was added since the last flush is not given out again.
        """
        given: ClosedBars = []
        for index, bar in self._open.occupied():
            before = self._open.trades_given(index, bar[TS])
            if before == bar[COUNT]:
                continue
            self._open.set_given(index, bar[TS], bar[COUNT])
            bar[TAIL] |= PARTIAL | (REVISED if before else 0)
            given.append((index, bar))
        return _candles(self._in_order(given))

    # ---- what was observed ----------------------------------------------------------------------

    def observe(self, since_ns: int) -> Records:
        """The venue's whole stream is watched from `since_ns` on; new versions of kept bars that are full now."""
        self._observation.observe(since_ns)
        return self._judge_again(since_ns, None)

    def unobserved(self, since_ns: int) -> Records:
        """Nobody watches from `since_ns` on, until `observe`; as `gap`."""
        return self.gap(since_ns, FOR_EVER)

    def gap(self, start_ns: int, end_ns: int) -> Records:
        """[start_ns, end_ns) was missed; new versions of kept bars that this makes PARTIAL."""
        self._observation.add_gap(start_ns, end_ns)
        return self._judge_again(start_ns, end_ns)

    def filled(self, start_ns: int, end_ns: int) -> Records:
        """All trades of [start_ns, end_ns) were fetched later; new versions of kept bars that are full now."""
        self._observation.fill(start_ns, end_ns)
        return self._judge_again(start_ns, end_ns)

    def _judge_again(self, start_ns: int, end_ns: int | None) -> Records:
        changed: ClosedBars = []
        for index, delta_ns in enumerate(self._deltas_ns):
            kept = self._kept[index].rows
            touched = kept[:, TS] > start_ns - delta_ns
            if end_ns is not None:
                touched &= kept[:, TS] < end_ns
            for bar in kept[touched].tolist():
                if self._judge(index, bar):
                    bar[TAIL] |= REVISED
                    self._kept[index].put(bar)
                    changed.append((index, bar))
        for index, bar in self._open.occupied():
            ends_ns = bar[TS] + self._deltas_ns[index]
            if ends_ns > start_ns and (end_ns is None or bar[TS] < end_ns) and self._judge(index, bar):
                self._open.set_tail(index, bar[TS], bar[TAIL])
        return _candles(self._in_order(changed))

    def _judge(self, index: int, bar: list[int]) -> bool:
        """Set or clear PARTIAL; did that change it?"""
        tail = bar[TAIL] & ~PARTIAL | (PARTIAL if self._is_partial(index, bar[TS]) else 0)
        changed = tail != bar[TAIL]
        bar[TAIL] = tail
        return changed

    def _is_partial(self, index: int, ts: int) -> bool:
        return ts < self._born_ns[index] or self._observation.partial(ts, self._deltas_ns[index])

    # ---- the scalar path ------------------------------------------------------------------------

    def _fold_groups(self, trades: list[tuple[int, ...]], groups: list[list[int]]) -> Folded:
        for group in groups:
            missed = self._open.add(group)
            if missed is not None:
                for index in missed:
                    self._add_elsewhere(index, group)
        if len(trades) == 1:
            return self._settle(trades[0][0], trades[0][0])
        times = [trade[0] for trade in trades]
        return self._settle(min(times), max(times))

    def _add_elsewhere(self, index: int, group: list[int]) -> None:
        """Trades whose bar is in no slot: a late bar, or one that opens."""
        bar = group.copy()
        bar[TS] -= bar[TS] % self._deltas_ns[index]
        if bar[TS] <= self._late_until(index):
            self._late.add(index, bar)
        else:
            bar[TAIL] = self._tail(index, bar[TS])
            self._open.place(index, bar)

    # ---- the numpy path -------------------------------------------------------------------------

    def _fold_many(self, trades: Records) -> Folded:
        self._most = None
        times = trades["ts_event"]
        newest = max(self._newest_ns, int(times.max()))
        levels: list[Rows] = []
        closed: list[Rows] = []
        opening: ClosedBars = []
        units = group_trades(trades, self._unit_ns, self._scales)
        for index, parent in enumerate(self._parents):
            levels.append(group_rows(units if parent is None else levels[parent], self._deltas_ns[index]))
            new = self._add_known(index, levels[index])
            due_until = newest - self._deltas_ns[index] - self._grace_ns
            due = int(np.searchsorted(new[:, TS], due_until, "right"))
            closed.append(self._closed_at_once(index, new[:due]))
            opening += [(index, bar) for bar in new[due:].tolist()]
        return self._settle(int(times.min()), newest, closed, opening)

    def _add_known(self, index: int, bars: Rows) -> Rows:
        """Add bars to those that are closed or open already; returns the others."""
        late = int(np.searchsorted(bars[:, TS], self._late_until(index), "right"))
        for bar in bars[:late].tolist():
            self._late.add(index, bar)
        new = bars[late:]
        # bars that are open started before newest, and of those that are not late only two did
        known = [self._open.is_open(index, bar[TS]) for bar in new[:2].tolist()]
        for bar, is_open in zip(new[:2].tolist(), known, strict=True):
            if is_open:
                self._open.add_to(index, bar)
        if not any(known):
            return new
        return np.concatenate((new[:2][~np.array(known)], new[2:]))

    def _closed_at_once(self, index: int, bars: Rows) -> Rows:
        """Bars that open and close in this batch; their last word is set in place, as longer bars take none of it."""
        bars[:, TAIL] = self._tails[index]
        partial = self._observation.partial_many(bars[:, TS], self._deltas_ns[index])
        partial |= bars[:, TS] < self._born_ns[index]
        bars[partial, TAIL] |= PARTIAL
        return bars

    # ---- both paths -----------------------------------------------------------------------------

    def _late_until(self, index: int) -> int:
        """Bars up to this ts are closed. The kept ones say so too, should grace have been made longer."""
        due = self._newest_ns - self._deltas_ns[index] - self._grace_ns
        return max(due, self._kept[index].last_ts)

    def _tail(self, index: int, ts: int) -> int:
        return self._tails[index] | (PARTIAL if self._is_partial(index, ts) else 0)

    def _settle(
        self,
        first_ts: int,
        newest: int,
        many: Sequence[Rows] = (),
        opening: Sequence[tuple[int, list[int]]] = (),
    ) -> Folded:
        """Newest advances, what is due closes, late bars take effect. Nothing here can fail.

        `many` are bars that never were open, by timeframe; `opening` those that stay open.
        """
        if self._newest_ns == ABSENT:
            self._begin(first_ts)
        if newest > self._newest_ns:
            self._newest_ns = newest
        closed = self._open.close_due(newest) if newest >= self._open.due_ns else []
        for index, bar in opening:
            bar[TAIL] = self._tail(index, bar[TS])
            self._open.place(index, bar)
        if not closed and not len(self._late) and not any(map(len, many)):
            return _NOTHING
        closed = self._in_order(closed)
        late, unknown = self._late.take()
        candles = self._keep_many(closed, list(many), late) if many else self._keep_few(closed, late)
        return Folded(candles, [(self.timeframes[index], ts) for index, ts in unknown])

    def _begin(self, first_ts: int) -> None:
        """The first event of all: what came before it is unknown, what comes from here on is complete."""
        for kept, delta_ns in zip(self._kept, self._deltas_ns, strict=True):
            if kept.complete_from is None:
                kept.complete_from = first_ts - first_ts % delta_ns

    def _keep_few(self, closed: ClosedBars, late: ClosedBars) -> Records:
        for index, bar in closed:
            self._kept[index].append(bar)
        return _candles(self._in_order(closed + late))

    def _keep_many(self, closed: ClosedBars, many: list[Rows], late: ClosedBars) -> Records:
        """Keep the bars that closed out of slots and those that closed at once; all closed bars in order."""
        for index, bars in enumerate(many):
            slots = [bar for i, bar in closed if i == index]
            if slots:
                bars = np.concatenate((np.array(slots, dtype=np.int64), bars))
                bars = bars[np.argsort(bars[:, TS])]
                many[index] = bars
            self._kept[index].extend(bars)
        if late:
            many.append(np.array([bar for _, bar in late], dtype=np.int64))
        rows = np.concatenate(many)
        deltas_ns = (rows[:, TAIL] & 0xFFFF_FFFF) * NS_PER_SECOND
        return to_candles(rows[np.lexsort((deltas_ns, rows[:, TS] + deltas_ns))])

    def _in_order(self, bars: ClosedBars) -> ClosedBars:
        """By end, then timeframe."""
        if len(bars) < 2:
            return bars
        return sorted(bars, key=lambda bar: (bar[1][TS] + self._deltas_ns[bar[0]], bar[0]))

    # ---- the checkpoint -------------------------------------------------------------------------

    def state(self) -> bytes:
        """All of it; a fold that `restore`s these bytes goes on bit for bit."""
        kept = [
            KeptState(self.timeframes[index], kept.complete_from, self._born_ns[index], kept.rows.tobytes())
            for index, kept in enumerate(self._kept)
        ]
        forming = [
            OpenState(self.timeframes[index], bar, self._open.trades_given(index, bar[TS]))
            for index, bar in self._open.occupied()
        ]
        observed = self._observation
        return fold_state.encode(
            FoldState(
                fold_state.VERSION,
                self._scales,
                self._newest_ns,
                observed.since_ns,
                observed.gaps,
                kept,
                forming,
            )
        )

    def restore(self, state: bytes | memoryview) -> None:
        """Take over the state of another fold into this new one. InvalidArgument if it is of other scales.

        Timeframes that are no longer wanted are dropped; one that is new here starts at the state's newest event,
        and its bars before that are PARTIAL.
        """
        if self._newest_ns != ABSENT:
            raise InvalidArgument("state: only a fold that has seen nothing can take over another's", field="state")
        other = fold_state.decode(state)
        if other.scales != self._scales:
            raise InvalidArgument(f"state: scales {other.scales} are not {self._scales}", field="state")
        self._most = None
        self._newest_ns = other.newest_ns
        self._observation.since_ns, self._observation.gaps = other.since_ns, other.gaps
        of_timeframe = {kept.timeframe: kept for kept in other.kept}
        for index, seconds in enumerate(self.timeframes):
            if seconds in of_timeframe:
                kept = of_timeframe[seconds]
                self._kept[index].complete_from, self._born_ns[index] = kept.complete_from, kept.born_ns
                self._kept[index].extend(fold_state.rows_of(kept))
            else:
                self._born_ns[index] = other.newest_ns
                self._kept[index].complete_from = other.newest_ns
        for forming in other.open:
            if forming.timeframe in self.timeframes:
                index = self.timeframes.index(forming.timeframe)
                self._open.place(index, forming.bar)
                self._open.set_given(index, forming.bar[TS], forming.given)

    def adopt(self, candles: Records, first_ts: Ints, last_ts: Ints) -> None:
        """Own bars from the store, oldest first, with the ts_event of the first and last trade of each.

        Those that newest (see `tick`) has not passed go on forming, the others are kept as closed. A bar with a
        `seq` was given out before, so that its next version is REVISED. InvalidArgument if one is known already.
        """
        self._most = None
        for bar in from_candles(candles, first_ts, last_ts).tolist():
            index = self._index_of(bar)
            given = bar[COUNT] if bar[SEQ] else 0
            bar[TS_KNOWN] = bar[SEQ] = 0
            bar[TAIL] &= ~REVISED
            if self._open.is_open(index, bar[TS]) or self._kept[index].find(bar[TS]) is not None:
                raise InvalidArgument(f"candles: the bar at {bar[TS]} is known already", field="candles")
            if bar[TS] <= self._late_until(index):
                self._kept[index].put(bar)
            else:
                self._open.place(index, bar)
                self._open.set_given(index, bar[TS], given)

    def _index_of(self, bar: Row) -> int:
        for index, tail in enumerate(self._tails):
            if bar[TAIL] & SOURCE_AND_TIMEFRAME == tail and bar[TS] % self._deltas_ns[index] == 0:
                return index
        raise InvalidArgument("candles: only own bars of the fold's timeframes are adopted", field="candles")


def _parent(deltas_ns: Sequence[int], index: int) -> int | None:
    """The longest shorter timeframe that divides this one; None: none does, it is folded from the units."""
    divides = [i for i in range(index) if deltas_ns[index] % deltas_ns[i] == 0]
    return max(divides, default=None)


def _candles(bars: ClosedBars) -> Records:
    if not bars:
        return NO_CANDLES
    return to_candles(np.array([bar for _, bar in bars], dtype=np.int64))


_NOTHING = Folded(NO_CANDLES, [])
