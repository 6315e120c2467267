"""The rules for IMBALANCE and BUCKETS records in plain ints. Pure.

Each second brings some of both for every book, all at once, and what comes behind them waits: the table of checks
(`book_rules`) takes dozens of passes of numpy for one record. Who finds a flaw here asks the table which it is.
"""

from __future__ import annotations

from typing import Any

from marketd.market.buckets import TIMEFRAMES
from marketd.market.imbalance import PPM
from marketd.market.layouts import WINDOWS_SECONDS, BookState, ImbalanceReason
from marketd.market.records import Records
from marketd.market.times import ABSENT, NS_PER_SECOND

_LIVE, _NOT_LIVE = int(BookState.LIVE), int(ImbalanceReason.NOT_LIVE)
_STATES = frozenset(map(int, BookState))
_REASONS = frozenset(map(int, ImbalanceReason))
_NO_RATIO = -(2**31)
_WINDOWS = len(WINDOWS_SECONDS)
_NOTHING = (ABSENT,) * 6
_NO_RATIOS = (_NO_RATIO,) * _WINDOWS


def few_figures_are_good(name: str, records: Records, latest_ns: int) -> bool:
    """Does each of these records of a known instrument keep all rules of its kind? `name`: `imbalance` or `buckets`."""
    is_good = _is_good_imbalance if name == "imbalance" else _are_good_buckets
    return all(is_good(records[index].item(), latest_ns) for index in range(len(records)))


def _is_good_imbalance(record: tuple[Any, ...], latest_ns: int) -> bool:
    ts_event, _, _, *figures, state, reason = record
    if not 0 <= ts_event <= latest_ns or ts_event % NS_PER_SECOND:
        return False
    if state not in _STATES or reason not in _REASONS or (state == _LIVE) == (reason == _NOT_LIVE):
        return False
    prices_and_sizes, ratios = tuple(figures[:6]), tuple(figures[6:])
    if state != _LIVE and (prices_and_sizes != _NOTHING or ratios[:_WINDOWS] != _NO_RATIOS):
        return False
    mid2, spread, bid_size, ask_size, best_bid_size, best_ask_size = prices_and_sizes
    if reason == 0 and ABSENT in (mid2, spread, best_bid_size, best_ask_size):
        return False
    if not (_is_above_zero(mid2) and _is_above_zero(spread)):
        return False
    sizes_are_good = _none_negative((bid_size, ask_size, best_bid_size, best_ask_size))
    return sizes_are_good and all(-PPM <= ratio <= PPM or ratio == _NO_RATIO for ratio in ratios)


def _are_good_buckets(record: tuple[Any, ...], latest_ns: int) -> bool:
    ts, _, _, width, base, timeframe, state, _, bid_sizes, ask_sizes = record
    if timeframe not in TIMEFRAMES or state not in _STATES:
        return False
    span_ns = timeframe * NS_PER_SECOND
    if not 0 <= ts <= latest_ns - span_ns or ts % span_ns:
        return False
    sizes = bid_sizes.tolist() + ask_sizes.tolist()
    if base == ABSENT:
        return all(size == ABSENT for size in sizes)
    return bool(width > 0) and _none_negative(sizes)


def _is_above_zero(value: int) -> bool:
    return value > 0 or value == ABSENT


def _none_negative(values: Any) -> bool:
    return all(value >= 0 or value == ABSENT for value in values)
