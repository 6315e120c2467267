"""The validator's rules: their names and sentences, and for each kind the table of checks in their order.

A check works on a whole batch: which of its records break the rule. What is wrong with one of them is told by the
fields that the check looks at, in the numbers that its sender wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.market.fixed import MAX_FIXED, format_fixed, quote_factors
from marketd.market.instruments import Instrument
from marketd.market.records import Coverage, Kind, Records, Source, TradeFlag
from marketd.market.times import ABSENT, NS_PER_SECOND, isoformat_ns

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

RULES: Mapping[str, str] = MappingProxyType(
    {
        "absent": "A field that must be there is absent.",
        "aligned": "A bar's time is no multiple of its timeframe.",
        "coverage": "A coverage record ends before it starts, or its state, stream or reason is none.",
        "duplicate": "A trade with this id was accepted before.",
        "max_skew": "The time (of a bar: its end) lies further after ts_known than validation.max_skew allows.",
        "naive": "A datetime bears no time zone.",
        "non_negative": "A volume, count, or a price or size off the market is below zero.",
        "not_finite": "A number is not finite, or no number at all.",
        "not_taken": "Records of this kind are made by marketd itself and taken from nobody.",
        "ohlc_order": "low <= open <= high and low <= close <= high do not hold.",
        "positive_price": "A price is not above zero.",
        "positive_size": "A trade's size is not above zero.",
        "precision": "A number has more decimal places than the instrument's scale.",
        "range": "A number or price times size does not fit into 64 bits, or a time lies before 1970.",
        "side": "A trade's side is none of 1 (buy), -1 (sell) and 0 (unknown).",
        "source": "A bar's source is none of own, venue and import.",
        "timeframe": "A bar's timeframe is not a positive number of seconds.",
        "unknown_instrument": "The instrument was not declared here.",
    }
)

_NOT_MARKET = int(TradeFlag.NOT_MARKET)
_MAX_STREAM = 2**15 - 1  # the number of a kind, a smallint in the ledger
_STAMPS = ("ts", "ts_event", "ts_start", "ts_end")
_OHLC = ("open", "high", "low", "close")
_VOLUMES = ("volume", "quote_volume", "buy_volume", "trade_count")


class Batch(NamedTuple):
    """Records of one kind and instrument; `latest_ns` is the latest time that is not refused as `max_skew`."""

    records: Records
    instrument: Instrument | None
    latest_ns: int


class Check(NamedTuple):
    """`bad` is True where a record breaks the rule, shape (n,); None when none does."""

    rule: str
    fields: tuple[str, ...]
    bad: Callable[[Batch], Mask | None]


def checks_of(kind: Kind) -> tuple[Check, ...]:
    """The checks for records of a kind, in their order: a record is refused by the first that it breaks."""
    if kind.declared:
        reals = tuple(name for name, type_name in kind.fields.items() if type_name == "f8")
        return (_KNOWN, *_TIMES, *(Check("not_finite", (name,), _infinite(name)) for name in reals))
    return _BUILT_IN.get(kind.name, (_NOT_TAKEN,))


def describe(check: Check, kind: Kind, batch: Batch, index: int) -> str:
    """What one record has in the fields of a check that it broke."""
    if batch.instrument is None or not check.fields:
        return RULES[check.rule]
    return ", ".join(f"{name} is {_shown(name, kind, batch.instrument, batch, index)}" for name in check.fields)


def _shown(name: str, kind: Kind, instrument: Instrument, batch: Batch, index: int) -> str:
    value = batch.records[name][index].item()
    if value == ABSENT:
        return "absent"
    if name in _STAMPS:
        return isoformat_ns(value)
    role = kind.scales.get(name)
    return format_fixed(value, instrument.scale(role)) if role else str(value)


# ---- what the checks look at ------------------------------------------------------------------------


def _all_if_unknown(batch: Batch) -> Mask | None:
    return np.ones(len(batch.records), dtype=bool) if batch.instrument is None else None


def _all(batch: Batch) -> Mask:
    return np.ones(len(batch.records), dtype=bool)


def _where(name: str, test: Callable[[Ints], Mask]) -> Callable[[Batch], Mask]:
    """`test` on one field."""
    return lambda batch: test(batch.records[name])


def _is_absent(values: Ints) -> Mask:
    return np.asarray(values == ABSENT)


def _is_negative(values: Ints) -> Mask:
    return np.asarray((values < 0) & (values != ABSENT))


def _not_positive(values: Ints) -> Mask:
    return np.asarray(values <= 0)


def _off_market(batch: Batch) -> Mask:
    """Entries of an insurance fund and the like: kept out of bars, and some venues give them a price of zero."""
    return np.asarray((batch.records["flags"] & _NOT_MARKET) != 0)


def _not_positive_on_market(name: str) -> Callable[[Batch], Mask]:
    return lambda batch: _not_positive(batch.records[name]) & ~_off_market(batch)


def _infinite(name: str) -> Callable[[Batch], Mask]:
    return lambda batch: np.asarray(np.isinf(batch.records[name]))


def _skewed(batch: Batch) -> Mask:
    return np.asarray(batch.records["ts_event"] > batch.latest_ns)


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

_KNOWN = Check("unknown_instrument", (), _all_if_unknown)
_NOT_TAKEN = Check("not_taken", (), _all)


def _absent(*names: str) -> tuple[Check, ...]:
    return tuple(Check("absent", (name,), _where(name, _is_absent)) for name in names)


_TIMES = (
    *_absent("ts_event"),
    Check("range", ("ts_event",), _where("ts_event", _is_negative)),
    Check("max_skew", ("ts_event",), _skewed),
)

_BUILT_IN: Mapping[str, tuple[Check, ...]] = {
    "trade": (
        _KNOWN,
        *_TIMES,
        *_absent("trade_id", "price", "size"),
        Check("positive_price", ("price",), _not_positive_on_market("price")),
        Check("positive_size", ("size",), _not_positive_on_market("size")),
        Check("non_negative", ("price",), _where("price", _is_negative)),
        Check("non_negative", ("size",), _where("size", _is_negative)),
        Check("side", ("side",), _no_side),
        Check("range", ("price", "size"), _quote_too_large),
    ),
    "candle": (
        _KNOWN,
        *_absent("ts", *_OHLC),
        Check("range", ("ts",), _where("ts", _is_negative)),
        Check("timeframe", ("timeframe",), _where("timeframe", _not_positive)),
        Check("aligned", ("ts", "timeframe"), _misaligned),
        Check("max_skew", ("ts", "timeframe"), _bar_skewed),
        Check("source", ("source",), _no_source),
        *(Check("positive_price", (name,), _where(name, _not_positive)) for name in _OHLC),
        Check("ohlc_order", _OHLC, _out_of_order),
        *(Check("non_negative", (name,), _where(name, _is_negative)) for name in _VOLUMES),
    ),
    "tick": (_KNOWN, *_TIMES),
    "coverage": (
        _KNOWN,
        *_TIMES,
        *_absent("ts_start"),
        Check("coverage", ("state", "ts_start", "ts_end"), _no_coverage),
    ),
}
