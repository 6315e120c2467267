"""`DataValidator`: which records of a batch may enter, and by which rule the others may not.

A bad record never costs its neighbours. Each rule has a name that is a promise: it stands in the answer to the
producer, in the metric and in the quarantine. Rules are looked at in the order of the kind's table in
`marketd.market.rules`; a record is refused by the first that it breaks.

A few trades, books or figures of a book, the live case, are judged with plain ints, and many trades by their extremes;
only when these find a flaw does the table say which record it is, and why.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from marketd.market.book_rules import few_books_are_good
from marketd.market.checks import Batch, Mask
from marketd.market.figure_rules import few_figures_are_good
from marketd.market.fixed import MAX_FIXED, quote_factors
from marketd.market.instruments import Instrument
from marketd.market.records import TRADE, Kind, KindTable, Records
from marketd.market.rules import RULES, checks_of, describe
from marketd.market.times import ABSENT
from marketd.market.trade_ids import TradeIds

__all__ = ["RULES", "DataValidator", "Refused", "Verdict"]

MAX_DETAILS = 1_000
FEW_TRADES = 32  # up to here plain ints beat numpy
FEW_BOOKS = 8
_FIGURES = frozenset({"imbalance", "buckets"})


class HasTradeIds(Protocol):
    """What the validator needs of an instrument's state: the ids that were accepted before."""

    @property
    def trade_ids(self) -> TradeIds: ...


class Refused(msgspec.Struct, frozen=True, order=True, gc=False):
    """One refused record: its index in the batch, the rule (a key of `RULES`), and what was wrong.

    Beyond `MAX_DETAILS` of a batch the detail is empty: whoever sends a million bad records learns no more from them.
    """

    index: int
    rule: str
    detail: str


class Verdict(NamedTuple):
    """`good` is True where a record may enter, shape (n,); None when all may."""

    good: Mask | None
    refused: list[Refused]


_ALL_GOOD = Verdict(None, [])


class DataValidator:
    """The rules for records of `kinds`; `max_skew_ns` is how far a time may lie after `ts_known`."""

    def __init__(self, kinds: KindTable, max_skew_ns: int) -> None:
        self._checks = {kind.name: checks_of(kind) for kind in kinds}
        self._max_skew_ns = max_skew_ns
        self._refused: dict[str, int] = {}

    def validate(
        self,
        kind: Kind,
        records: Records,
        instrument: Instrument | None,
        ts_known: int,
        state: HasTradeIds | None = None,
    ) -> Verdict:
        """Judge a batch of one instrument (None: an unknown one).

        With `state`, trades whose id was accepted before are refused, and the ids of those that are good count as
        accepted from now on: whoever cannot keep the batch after all takes them back with `TradeIds.remove`.
        """
        if kind.dtype is TRADE and instrument is not None:
            latest_ns = ts_known + self._max_skew_ns
            if len(records) <= FEW_TRADES:
                trades = records.tolist()
                if state is None:
                    if _few_are_good(trades, instrument, latest_ns, None):
                        return _ALL_GOOD
                elif self.admit_few(trades, instrument, ts_known, state.trade_ids):
                    return _ALL_GOOD
            elif _many_are_good(records, instrument, latest_ns):
                return self._finish(kind, records, np.ones(len(records), dtype=bool), [], state)
        latest_ns = ts_known + self._max_skew_ns
        if instrument is not None and len(records) <= FEW_BOOKS:
            if kind.name == "book" and few_books_are_good(records, latest_ns):
                return _ALL_GOOD
            if kind.name in _FIGURES and few_figures_are_good(kind.name, records, latest_ns):
                return _ALL_GOOD
        return self._judge(kind, Batch(records, instrument, latest_ns), state)

    def admit_few(
        self, trades: list[tuple[int, ...]], instrument: Instrument, ts_known: int, trade_ids: TradeIds
    ) -> bool:
        """Whether all of these TRADE rows (`tolist()`) may enter; if so their ids count as accepted from now on."""
        latest_ns = ts_known + self._max_skew_ns
        if len(trades) == 1:  # judged and remembered in one go
            return _few_are_good(trades, instrument, latest_ns, None) and trade_ids.add_new(trades[0][3], trades[0][7])
        if not _few_are_good(trades, instrument, latest_ns, trade_ids):
            return False
        for trade in trades:
            trade_ids.add_one(trade[3], trade[7])
        return True

    def statistics(self) -> dict[str, int]:
        """How many records each rule has refused."""
        return dict(self._refused)

    def _judge(self, kind: Kind, batch: Batch, state: HasTradeIds | None) -> Verdict:
        good = np.ones(len(batch.records), dtype=bool)
        refused: list[Refused] = []
        for check in self._checks[kind.name]:
            bad = check.bad(batch)
            if bad is not None and (bad & good).any():
                broken = np.flatnonzero(bad & good).tolist()
                good[broken] = False
                told = max(0, MAX_DETAILS - len(refused))
                refused += [Refused(i, check.rule, describe(check, kind, batch, i)) for i in broken[:told]]
                refused += [Refused(i, check.rule, "") for i in broken[told:]]
        return self._finish(kind, batch.records, good, refused, state)

    def _finish(
        self, kind: Kind, records: Records, good: Mask, refused: list[Refused], state: HasTradeIds | None
    ) -> Verdict:
        if state is not None and kind.dtype is TRADE:
            refused += self._refuse_repeated(records, good, state.trade_ids)
        if not refused:
            return _ALL_GOOD
        for refusal in refused:
            self._refused[refusal.rule] = self._refused.get(refusal.rule, 0) + 1
        return Verdict(good, sorted(refused))

    def _refuse_repeated(self, records: Records, good: Mask, trade_ids: TradeIds) -> list[Refused]:
        """Last of all, and among good trades only: a refused one does not make the next of its id a repetition."""
        left = np.flatnonzero(good)
        candidates = records if len(left) == len(records) else records[left]
        repeated = trade_ids.repeated(candidates)
        if repeated is None:
            trade_ids.add(candidates)
            return []
        trade_ids.add(candidates[~repeated])
        good[left[repeated]] = False
        return [
            Refused(index, "duplicate", f"trade_id {records['trade_id'][index]} was accepted before")
            for index in left[repeated].tolist()
        ]


def _few_are_good(
    trades: list[tuple[int, ...]], instrument: Instrument, latest_ns: int, trade_ids: TradeIds | None
) -> bool:
    """Does each of these trades keep all rules for TRADE? When not, the table of checks finds out why."""
    multiplier, divisor = quote_factors(instrument.price_scale, instrument.size_scale, instrument.quote_scale)
    for ts_event, _, _, trade_id, price, size, side, flags in trades:
        if not (
            0 <= ts_event <= latest_ns
            and price > 0
            and size > 0
            and -1 <= side <= 1
            and trade_id != ABSENT
            and price * size * multiplier // divisor <= MAX_FIXED
            and (trade_ids is None or not trade_ids.seen(trade_id, flags))
        ):
            return False
    return len(trades) == 1 or trade_ids is None or len({trade[3] for trade in trades}) == len(trades)


def _many_are_good(records: Records, instrument: Instrument, latest_ns: int) -> bool:
    """Do all keep the rules for TRADE, but for repeated ids? By the extremes alone: False may be a false alarm."""
    times, sides = records["ts_event"], records["side"]
    prices, sizes = records["price"], records["size"]
    multiplier, divisor = quote_factors(instrument.price_scale, instrument.size_scale, instrument.quote_scale)
    return bool(
        times.min() >= 0
        and times.max() <= latest_ns
        and prices.min() > 0
        and sizes.min() > 0
        and sides.min() >= -1
        and sides.max() <= 1
        and records["trade_id"].min() != ABSENT
        and int(prices.max()) * int(sizes.max()) * multiplier // divisor <= MAX_FIXED
    )
