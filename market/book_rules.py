"""The validator's checks for records of order books: BOOK, BOOK_DELTA, IMBALANCE and BUCKETS.

The sentences of the rules stand in `marketd.market.rules.RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import gt, lt
from typing import Any

import numpy as np

from marketd.market.buckets import TIMEFRAMES
from marketd.market.checks import (
    KNOWN,
    TIMES,
    Batch,
    Check,
    Ints,
    Mask,
    absent,
    is_absent,
    is_negative,
    not_positive,
    where,
)
from marketd.market.fixed import MAX_FIXED
from marketd.market.imbalance import PPM
from marketd.market.layouts import WINDOWS_SECONDS, BookDeltaFlag, BookState, ImbalanceReason
from marketd.market.records import Records
from marketd.market.times import ABSENT, NS_PER_SECOND

_LIVE, _NOT_LIVE = int(BookState.LIVE), int(ImbalanceReason.NOT_LIVE)
_STATES = [int(state) for state in BookState]
_REASONS = [int(reason) for reason in ImbalanceReason]
_EDGES = int(BookDeltaFlag.BID_EDGE | BookDeltaFlag.ASK_EDGE)
_NO_RATIO = -(2**31)
_BOOK_RATIOS = tuple(f"book_{seconds}s" for seconds in WINDOWS_SECONDS)
_VOLUME_RATIOS = tuple(f"volume_{seconds}s" for seconds in WINDOWS_SECONDS)
_PRICES, _BEST = ("mid2", "spread"), ("best_bid_size", "best_ask_size")
_SIZES = ("bid_size", "ask_size")

# ---- levels -------------------------------------------------------------------------------------------


def _is_there(batch: Batch, side: str) -> Mask:
    """Which levels are within the count of their record, shape (n, depth)."""
    depth = batch.records[f"{side}_price"].shape[1]
    return np.asarray(np.arange(depth) < batch.records[f"{side}_count"][:, None])


def _level(side: str, field: str, test: Callable[[Ints], Mask]) -> Callable[[Batch], Mask]:
    """`test` on the levels that are there: does one of a record's keep it?"""
    return lambda batch: np.asarray((test(batch.records[f"{side}_{field}"]) & _is_there(batch, side)).any(axis=1))


def _miscounted(side: str) -> Callable[[Batch], Mask]:
    def bad(batch: Batch) -> Mask:
        counts, prices = batch.records[f"{side}_count"], batch.records[f"{side}_price"]
        beyond = ~_is_there(batch, side) & ~(is_absent(prices) & is_absent(batch.records[f"{side}_size"]))
        return np.asarray((counts < 0) | (counts > prices.shape[1]) | beyond.any(axis=1))

    return bad


def _disordered(side: str, holds: Callable[[Ints, Ints], Mask]) -> Callable[[Batch], Mask]:
    """`holds` of each level and the one behind it."""

    def bad(batch: Batch) -> Mask:
        prices = batch.records[f"{side}_price"]
        return np.asarray((~holds(prices[:, :-1], prices[:, 1:]) & _is_there(batch, side)[:, 1:]).any(axis=1))

    return bad


def _has_both(batch: Batch) -> Mask:
    return np.asarray((batch.records["bid_count"] > 0) & (batch.records["ask_count"] > 0))


def _crossed(batch: Batch) -> Mask:
    return np.asarray((batch.records["bid_price"][:, 0] >= batch.records["ask_price"][:, 0]) & _has_both(batch))


def _mid_too_large(batch: Batch) -> Mask:
    asks = np.maximum(batch.records["ask_price"][:, 0], 0)
    return np.asarray((batch.records["bid_price"][:, 0] > MAX_FIXED - asks) & _has_both(batch))


def _has_levels_though_not_live(batch: Batch) -> Mask:
    has_levels = (batch.records["bid_count"] != 0) | (batch.records["ask_count"] != 0)
    return np.asarray(has_levels & (batch.records["state"] != _LIVE))


def _side_checks(side: str) -> tuple[Check, ...]:
    price, size = f"{side}_price", f"{side}_size"
    return (
        Check("level_count", (f"{side}_count",), _miscounted(side)),
        Check("absent", (price,), _level(side, "price", is_absent)),
        Check("absent", (size,), _level(side, "size", is_absent)),
        Check("positive_price", (price,), _level(side, "price", not_positive)),
        Check("non_negative", (size,), _level(side, "size", is_negative)),
    )


# ---- states, figures ----------------------------------------------------------------------------------


def _no_state(batch: Batch) -> Mask:
    return np.asarray(~np.isin(batch.records["state"], _STATES))


def _contradictory(batch: Batch) -> Mask:
    state, reason = batch.records["state"], batch.records["reason"]
    return np.asarray(_no_state(batch) | ~np.isin(reason, _REASONS) | ((state == _LIVE) == (reason == _NOT_LIVE)))


def _has_figures_though_not_live(batch: Batch) -> Mask:
    records = batch.records
    found = np.zeros(len(records), dtype=bool)
    for name in (*_PRICES, *_SIZES, *_BEST):
        found |= records[name] != ABSENT
    for name in _BOOK_RATIOS:
        found |= records[name] != _NO_RATIO
    return np.asarray(found & (records["state"] != _LIVE))


def _lacks(name: str) -> Callable[[Batch], Mask]:
    """Nothing is said to be absent, and this is."""
    return lambda batch: np.asarray(is_absent(batch.records[name]) & (batch.records["reason"] == 0))


def _not_above_zero(values: Ints) -> Mask:
    return np.asarray((values <= 0) & (values != ABSENT))


def _no_ratio(values: Ints) -> Mask:
    return np.asarray((values != _NO_RATIO) & ((values < -PPM) | (values > PPM)))


def _within_a_second(values: Ints) -> Mask:
    return np.asarray(values % NS_PER_SECOND != 0)


# ---- buckets ------------------------------------------------------------------------------------------


def _no_timeframe(values: Ints) -> Mask:
    return np.asarray(~np.isin(values, TIMEFRAMES))


def _spans_ns(batch: Batch) -> Ints:
    return np.maximum(batch.records["timeframe"].astype(np.int64), 1) * NS_PER_SECOND


def _misaligned(batch: Batch) -> Mask:
    return np.asarray(batch.records["ts"] % _spans_ns(batch) != 0)


def _not_ended(batch: Batch) -> Mask:
    return np.asarray(batch.records["ts"] > batch.latest_ns - _spans_ns(batch))


def _no_bucket(batch: Batch) -> Mask:
    """Without a base there are no sizes, and with one there is a width."""
    records = batch.records
    has_sizes = (records["bid_size"] != ABSENT).any(axis=1) | (records["ask_size"] != ABSENT).any(axis=1)
    has_base = records["base"] != ABSENT
    return np.asarray((has_base & (records["width"] <= 0)) | (~has_base & has_sizes))


def _any_negative(name: str) -> Callable[[Batch], Mask]:
    return lambda batch: np.asarray(is_negative(batch.records[name]).any(axis=1))


# ---- changes ------------------------------------------------------------------------------------------


def _no_side(batch: Batch) -> Mask:
    """Only a row that tells no level has no side: one of an edge at most a price."""
    records = batch.records
    has_no_price = is_absent(records["price"]) | (records["flags"] & _EDGES != 0)
    sideless = (records["side"] == 0) & has_no_price & is_absent(records["size"])
    return np.asarray(~np.isin(records["side"], (-1, 1)) & ~sideless)


def _of_level(name: str, test: Callable[[Ints], Mask]) -> Callable[[Batch], Mask]:
    return lambda batch: np.asarray(test(batch.records[name]) & (batch.records["side"] != 0))


# ---- the tables ---------------------------------------------------------------------------------------

BOOK_CHECKS: Mapping[str, tuple[Check, ...]] = {
    "book": (
        KNOWN,
        *TIMES,
        Check("book_state", ("state",), _no_state),
        *_side_checks("bid"),
        *_side_checks("ask"),
        Check("not_live", ("state", "bid_count", "ask_count"), _has_levels_though_not_live),
        Check("bids_falling", ("bid_price",), _disordered("bid", lambda better, worse: np.asarray(better > worse))),
        Check("asks_rising", ("ask_price",), _disordered("ask", lambda better, worse: np.asarray(better < worse))),
        Check("crossed", ("bid_price", "ask_price"), _crossed),
        Check("range", ("bid_price", "ask_price"), _mid_too_large),
    ),
    "imbalance": (
        KNOWN,
        *TIMES,
        Check("aligned", ("ts_event",), where("ts_event", _within_a_second)),
        Check("book_state", ("state", "reason"), _contradictory),
        Check("not_live", ("state", *_PRICES), _has_figures_though_not_live),
        *(Check("absent", (name,), _lacks(name)) for name in (*_PRICES, *_BEST)),
        *(Check("positive_price", (name,), where(name, _not_above_zero)) for name in _PRICES),
        *(Check("non_negative", (name,), where(name, is_negative)) for name in (*_SIZES, *_BEST)),
        *(Check("ratio", (name,), where(name, _no_ratio)) for name in (*_BOOK_RATIOS, *_VOLUME_RATIOS)),
    ),
    "buckets": (
        KNOWN,
        *absent("ts"),
        Check("range", ("ts",), where("ts", is_negative)),
        Check("timeframe", ("timeframe",), where("timeframe", _no_timeframe)),
        Check("aligned", ("ts", "timeframe"), _misaligned),
        Check("max_skew", ("ts", "timeframe"), _not_ended),
        Check("book_state", ("state",), _no_state),
        Check("bucket", ("width", "base"), _no_bucket),
        *(Check("non_negative", (name,), _any_negative(name)) for name in _SIZES),
    ),
    "book_delta": (
        KNOWN,
        *TIMES,
        Check("side", ("side",), _no_side),
        Check("absent", ("price",), _of_level("price", is_absent)),
        Check("absent", ("size",), _of_level("size", is_absent)),
        Check("positive_price", ("price",), _of_level("price", not_positive)),
        Check("non_negative", ("size",), _of_level("size", is_negative)),
    ),
}


def few_books_are_good(books: Records, latest_ns: int) -> bool:
    """Does each of these BOOK records of a known instrument keep all rules? A tenth of what the table costs for one."""
    return all(_is_good_book(books[index], latest_ns) for index in range(len(books)))


def _is_good_book(book: Any, latest_ns: int) -> bool:
    ts_event, _, _, _, bids, asks, state, _, bid_prices, bid_sizes, ask_prices, ask_sizes = book.item()
    depth = len(bid_prices)
    if not (0 <= ts_event <= latest_ns and 0 <= bids <= depth and 0 <= asks <= depth):
        return False
    if state != _LIVE and (state not in _STATES or bids or asks):
        return False
    if not (_is_good_side(bid_prices, bid_sizes, bids, gt) and _is_good_side(ask_prices, ask_sizes, asks, lt)):
        return False
    return not (bids and asks) or bool(bid_prices[0] < ask_prices[0] <= MAX_FIXED - int(bid_prices[0]))


def _is_good_side(prices: Ints, sizes: Ints, count: int, is_better: Callable[[int, int], bool]) -> bool:
    prices_there, sizes_there = prices.tolist(), sizes.tolist()
    beyond = [ABSENT] * (len(prices_there) - count)
    if prices_there[count:] != beyond or sizes_there[count:] != beyond:
        return False
    del prices_there[count:], sizes_there[count:]
    if not count:
        return True
    in_order = all(map(is_better, prices_there, prices_there[1:]))
    return in_order and min(prices_there[0], prices_there[-1]) > 0 and min(sizes_there) >= 0
