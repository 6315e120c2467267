"""The validator's rules: their names and sentences, and for each kind the table of checks in their order.

A check works on a whole batch: which of its records break the rule. What is wrong with one of them is told by the
fields that the check looks at, in the numbers that its sender wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from marketd.market.book_rules import BOOK_CHECKS
from marketd.market.checks import (
    KNOWN,
    NOT_TAKEN,
    TIMES,
    Batch,
    Check,
    Ints,
    Mask,
    absent,
    is_negative,
    not_positive,
    where,
)
from marketd.market.fixed import MAX_FIXED, format_fixed, quote_factors
from marketd.market.instruments import GLOBAL_NAME, Instrument
from marketd.market.records import Coverage, Kind, Source, TradeFlag
from marketd.market.times import ABSENT, NS_PER_SECOND, isoformat_ns

RULES: Mapping[str, str] = MappingProxyType(
    {
        "absent": "A field that must be there is absent.",
        "aligned": "A bar's time is no multiple of its timeframe, or an imbalance's no whole second.",
        "asks_rising": "The asks do not rise strictly from the best on.",
        "bids_falling": "The bids do not fall strictly from the best on.",
        "book_state": "A book's state is none of empty, syncing, live and stale, or the reason does not go with it.",
        "bucket": "A bucket's width is not above zero, or there are sizes without a base.",
        "coverage": "A coverage record ends before it starts, or its state, stream or reason is none.",
        "crossed": "The best bid is not below the best ask.",
        "duplicate": "A trade with this id was accepted before.",
        "level_count": "A count of levels is below 0 or beyond the depth, or there are levels beyond the count.",
        "levels": "A side of a book is no list of pairs of price and size.",
        "max_skew": "The time (of a bar: its end) lies further after ts_known than validation.max_skew allows.",
        "naive": "A datetime bears no time zone.",
        "non_negative": "A volume, a count, a level's size, or a price or size off the market is below zero.",
        "not_finite": "A number is not finite, or no number at all.",
        "not_live": "A book that is not live has levels or figures.",
        "not_taken": "Records of this kind are made by marketd itself and taken from nobody.",
        "ohlc_order": "low <= open <= high and low <= close <= high do not hold.",
        "positive_price": "A price is not above zero.",
        "positive_size": "A trade's size is not above zero.",
        "precision": "A number has more decimal places than the instrument's scale.",
        "range": "A number or price times size does not fit into 64 bits, or a time lies before 1970.",
        "ratio": "A ratio lies beyond -1 and 1.",
        "scope": "A series of scope global was sent for an instrument, or one of scope instrument for none.",
        "side": "A side is none of 1 (buy; a bid), -1 (sell; an ask) and, of a trade, 0 (unknown).",
        "source": "A bar's source is none of own, venue and import.",
        "timeframe": "A bar's timeframe is not a positive number of seconds, or of buckets neither 1 nor 60.",
        "unknown_instrument": "The instrument was not declared here.",
    }
)

_NOT_MARKET = int(TradeFlag.NOT_MARKET)
_MAX_STREAM = 2**15 - 1  # the number of a kind, a smallint in the ledger
_STAMPS = ("ts", "ts_event", "ts_start", "ts_end")
_SHOWN_LEVELS = 5
_OHLC = ("open", "high", "low", "close")
_VOLUMES = ("volume", "quote_volume", "buy_volume", "trade_count")


def checks_of(kind: Kind) -> tuple[Check, ...]:
    """The checks for records of a kind, in their order: a record is refused by the first that it breaks."""
    if kind.declared:
        reals = tuple(name for name, type_name in kind.fields.items() if type_name == "f8")
        of_another_scope = Check("scope", (), _not_global if kind.is_global else _global)
        return (KNOWN, of_another_scope, *TIMES, *(Check("not_finite", (name,), _infinite(name)) for name in reals))
    return _BUILT_IN.get(kind.name, (NOT_TAKEN,))


def describe(check: Check, kind: Kind, batch: Batch, index: int) -> str:
    """What one record has in the fields of a check that it broke."""
    if check.rule == "scope":
        return _scope_of(kind)
    if batch.instrument is None or not check.fields:
        return RULES[check.rule]
    return ", ".join(f"{name} is {_shown(name, kind, batch.instrument, batch, index)}" for name in check.fields)


def _scope_of(kind: Kind) -> str:
    way_out = "send it with symbol None" if kind.is_global else "name the instrument that it is of"
    scope = "global" if kind.is_global else "instrument"
    return f"streams.{kind.name} is declared with scope = {scope!r}: {way_out}, or declare it otherwise"


def _shown(name: str, kind: Kind, instrument: Instrument, batch: Batch, index: int) -> str:
    value = batch.records[name][index].tolist()
    role = kind.scales.get(name)
    if isinstance(value, list):
        shown = [_number(one, role, instrument) for one in value[:_SHOWN_LEVELS]]
        return " ".join([*shown, "…"] if len(value) > len(shown) else shown)
    if name in _STAMPS and value != ABSENT:
        return isoformat_ns(value)
    return _number(value, role, instrument)


def _number(value: Any, role: str | None, instrument: Instrument) -> str:
    if value == ABSENT:
        return "absent"
    return format_fixed(value, instrument.scale(role)) if role else str(value)


# ---- what the checks look at ------------------------------------------------------------------------


def _off_market(batch: Batch) -> Mask:
    """Entries of an insurance fund and the like: kept out of bars, and some venues give them a price of zero."""
    return np.asarray((batch.records["flags"] & _NOT_MARKET) != 0)


def _not_positive_on_market(name: str) -> Callable[[Batch], Mask]:
    return lambda batch: not_positive(batch.records[name]) & ~_off_market(batch)


def _infinite(name: str) -> Callable[[Batch], Mask]:
    return lambda batch: np.asarray(np.isinf(batch.records[name]))


def _bar_skewed(batch: Batch) -> Mask:
    # a bar that has not ended is not final; a sum of ts and Δ could leave 64 bits, this difference cannot
    return np.asarray(batch.records["ts"] > batch.latest_ns - _deltas_ns(batch))


def _misaligned(batch: Batch) -> Mask:
    return np.asarray(batch.records["ts"] % np.maximum(_deltas_ns(batch), 1) != 0)


def _deltas_ns(batch: Batch) -> Ints:
    return batch.records["timeframe"].astype(np.int64) * NS_PER_SECOND


def _out_of_order(batch: Batch) -> Mask:
    open_, high, low, close = (batch.records[name] for name in _OHLC)
    return np.asarray((np.minimum(open_, close) < low) | (np.maximum(open_, close) > high))


def _quote_too_large(batch: Batch) -> Mask | None:
    if batch.instrument is None:
        return None
    prices, sizes = batch.records["price"], batch.records["size"]
    multiplier, divisor = quote_factors(
        batch.instrument.price_scale, batch.instrument.size_scale, batch.instrument.quote_scale
    )
    # reals find the few that come near the limit, exact integers judge them
    near: Mask = np.asarray(prices.astype(np.float64) * sizes > 0.99 * MAX_FIXED * divisor / multiplier)
    if not near.any():
        return None
    for index in np.flatnonzero(near).tolist():
        near[index] = int(prices[index]) * int(sizes[index]) * multiplier // divisor > MAX_FIXED
    return near


def _global(batch: Batch) -> Mask:
    return np.full(len(batch.records), batch.instrument is not None and batch.instrument.name == GLOBAL_NAME)


def _not_global(batch: Batch) -> Mask:
    return ~_global(batch)


def _no_side(batch: Batch) -> Mask:
    side = batch.records["side"]
    return np.asarray((side < -1) | (side > 1))  # abs() of the minimum is negative


def _no_source(batch: Batch) -> Mask:
    return np.asarray(~np.isin(batch.records["source"], [int(source) for source in Source]))


def _no_coverage(batch: Batch) -> Mask:
    start, end = batch.records["ts_start"], batch.records["ts_end"]
    known = np.isin(batch.records["state"], [int(state) for state in Coverage])
    stream = batch.records["stream"]
    unknown = ~known | (stream < 0) | (stream > _MAX_STREAM)
    return np.asarray(unknown | ((end < start) & (end != ABSENT)) | _no_text(batch.records["reason"]))


def _no_text(texts: npt.NDArray[np.bytes_]) -> Mask:
    """PostgreSQL's text is UTF-8 without NUL; numpy takes away those at the end, which are padding."""
    return np.array([b"\0" in text or not _is_utf8(text) for text in texts.tolist()], dtype=bool)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


# ---- the tables -------------------------------------------------------------------------------------

_BUILT_IN: Mapping[str, tuple[Check, ...]] = {
    "trade": (
        KNOWN,
        *TIMES,
        *absent("trade_id", "price", "size"),
        Check("positive_price", ("price",), _not_positive_on_market("price")),
        Check("positive_size", ("size",), _not_positive_on_market("size")),
        Check("non_negative", ("price",), where("price", is_negative)),
        Check("non_negative", ("size",), where("size", is_negative)),
        Check("side", ("side",), _no_side),
        Check("range", ("price", "size"), _quote_too_large),
    ),
    "candle": (
        KNOWN,
        *absent("ts", *_OHLC),
        Check("range", ("ts",), where("ts", is_negative)),
        Check("timeframe", ("timeframe",), where("timeframe", not_positive)),
        Check("aligned", ("ts", "timeframe"), _misaligned),
        Check("max_skew", ("ts", "timeframe"), _bar_skewed),
        Check("source", ("source",), _no_source),
        *(Check("positive_price", (name,), where(name, not_positive)) for name in _OHLC),
        Check("ohlc_order", _OHLC, _out_of_order),
        *(Check("non_negative", (name,), where(name, is_negative)) for name in _VOLUMES),
    ),
    "tick": (KNOWN, *TIMES),
    "coverage": (
        KNOWN,
        *TIMES,
        *absent("ts_start"),
        Check("coverage", ("state", "ts_start", "ts_end"), _no_coverage),
    ),
    **BOOK_CHECKS,
}
