"""Binance's decoded messages to records: texts to fixed point, milliseconds or microseconds to nanoseconds."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from marketd.daemon.feeds.adapter import MAX_PAYLOAD_BYTES, Rejected
from marketd.daemon.feeds.binance_messages import AnyTrade, DepthMessage, Kline, SymbolInfo
from marketd.daemon.feeds.precision import floor_places, grid_of, quote_scale
from marketd.market.errors import RuleViolation
from marketd.market.fixed import parse_fixed, parse_fixed_array
from marketd.market.instruments import Instrument
from marketd.market.records import CANDLE, TRADE, Records, Source, TradeFlag
from marketd.market.times import NS_PER_MS, NS_PER_SECOND, NS_PER_US

INTERVALS = {
    "1s": 1,
    "1m": 60,
    "3m": 180,
    "5m": 300,
    "15m": 900,
    "30m": 1800,
    "1h": 3600,
    "2h": 7200,
    "4h": 14_400,
    "6h": 21_600,
    "8h": 28_800,
    "12h": 43_200,
    "1d": 86_400,
}
"""Binance's kline intervals that are aligned to the epoch (3d, 1w and 1M are no bars of a fixed length from there)."""
INTERVAL_NAMES = {seconds: name for name, seconds in INTERVALS.items()}

PARTIAL_LEVELS = frozenset((5, 10, 20))  # of the streams that send the best levels anew, whatever changed
_MARKET = "MARKET"
_US_FROM = (2**63 - 1) // NS_PER_MS + 1  # as ms in 2262, where ns in 64 bits end, as µs in 1970: from here on it is µs
_FEW = 40  # trades; below, packing rows one by one is quicker than numpy
_TRADE_ROW = struct.Struct("<6q2i")
_CANDLE_ROW = struct.Struct("<11qi2h")
assert _TRADE_ROW.size == TRADE.itemsize
assert _CANDLE_ROW.size == CANDLE.itemsize

Message = tuple[AnyTrade, bytes]  # decoded, and as it came


class Decoded(NamedTuple):
    records: Records
    rejected: list[Rejected]


def venue_ns(clock: int) -> int:
    """A time of the venue, ms or µs, in ns."""
    return clock * NS_PER_US if clock >= _US_FROM else clock * NS_PER_MS


def trade_records(instrument: Instrument, messages: Sequence[Message | bytes], flags: int) -> Decoded:
    """TRADE records of one instrument; a message that breaks a rule is rejected by itself. bytes are rows already."""
    rows = [message for message in messages if isinstance(message, bytes)]
    if len(rows) == len(messages):
        return Decoded(np.frombuffer(bytearray(b"".join(rows)), dtype=TRADE), [])
    if rows or len(messages) <= _FEW:
        return _few_trades(instrument, messages, flags)
    return _many_trades(instrument, [message for message in messages if not isinstance(message, bytes)], flags)


def _few_trades(instrument: Instrument, messages: Sequence[Message | bytes], flags: int) -> Decoded:
    rows: list[bytes] = []
    rejected: list[Rejected] = []
    price_scale, size_scale = instrument.price_scale, instrument.size_scale
    for message in messages:
        if isinstance(message, bytes):
            rows.append(message)
            continue
        trade, payload = message
        try:
            price = parse_fixed(trade.price, price_scale, field="price")
            size = parse_fixed(trade.size, size_scale, field="size")
        except RuleViolation as violation:
            rejected.append(_rejected(instrument, trade, violation, payload))
            continue
        side = -1 if trade.buyer_is_maker else 1
        flag = flags if trade.kind == _MARKET else flags | TradeFlag.NOT_MARKET
        rows.append(_TRADE_ROW.pack(venue_ns(trade.time), 0, 0, trade.trade_id, price, size, side, flag))
    return Decoded(np.frombuffer(bytearray(b"".join(rows)), dtype=TRADE), rejected)


def _many_trades(instrument: Instrument, messages: Sequence[Message], flags: int) -> Decoded:
    trades = [trade for trade, _ in messages]
    prices = parse_fixed_array([t.price for t in trades], instrument.price_scale, field="price")
    sizes = parse_fixed_array([t.size for t in trades], instrument.size_scale, field="size")
    times = np.array([t.time for t in trades], dtype=np.int64)
    times *= np.where(times >= _US_FROM, NS_PER_US, NS_PER_MS)
    records = np.zeros(len(trades), dtype=TRADE)
    records["ts_event"] = times
    records["trade_id"] = [t.trade_id for t in trades]
    records["price"] = prices.values
    records["size"] = sizes.values
    records["side"] = 1 - 2 * np.array([t.buyer_is_maker for t in trades], dtype=np.int32)
    records["flags"] = flags
    other = [index for index, trade in enumerate(trades) if trade.kind != _MARKET]
    if other:
        records["flags"][other] |= TradeFlag.NOT_MARKET
    violations = sizes.errors | prices.errors
    if not violations:
        return Decoded(records, [])
    rejected = [_rejected(instrument, *messages[i][:1], violations[i], messages[i][1]) for i in sorted(violations)]
    return Decoded(np.delete(records, list(violations)), rejected)


def _rejected(instrument: Instrument, trade: AnyTrade, violation: RuleViolation, payload: bytes) -> Rejected:
    return Rejected(
        instrument.symbol, violation.rule, str(violation), bytes(payload[:MAX_PAYLOAD_BYTES]), trade.trade_id
    )


def candle_row(instrument: Instrument, kline: Kline) -> bytes:
    """One CANDLE record of a closed kline; RuleViolation when a number does not fit the instrument's scales."""
    price, size, quote = instrument.price_scale, instrument.size_scale, instrument.quote_scale
    return _CANDLE_ROW.pack(
        venue_ns(kline.start),
        0,
        0,
        parse_fixed(kline.open, price, field="open"),
        parse_fixed(kline.high, price, field="high"),
        parse_fixed(kline.low, price, field="low"),
        parse_fixed(kline.close, price, field="close"),
        parse_fixed(kline.volume, size, field="volume"),
        parse_fixed(floor_places(kline.quote_volume, quote), quote, field="quote_volume"),
        parse_fixed(kline.buy_volume, size, field="buy_volume"),
        kline.trade_count,
        INTERVALS[kline.interval],
        Source.VENUE,
        0,
    )


def candle_records(rows: Sequence[bytes]) -> Records:
    return np.frombuffer(bytearray(b"".join(rows)), dtype=CANDLE)


def bar_end_ns(start_ns: int, interval: str) -> int:
    return start_ns + INTERVALS[interval] * NS_PER_SECOND


def _market(contract: str) -> str:
    if not contract:
        return "spot"
    return "swap" if contract.endswith("PERPETUAL") else "future"


def instrument_of(info: SymbolInfo, venue: str) -> Instrument:
    """An Instrument (id 0: not assigned yet) by the symbol's filters.

    price_scale comes from PRICE_FILTER's tickSize and size_scale from LOT_SIZE's stepSize: what can be traded has
    no more places. A filter that is missing or switched off (0) leaves the venue's precision of the asset.
    """
    filters = {entry.get("filterType"): entry for entry in info.filters}
    tick = grid_of(str(filters.get("PRICE_FILTER", {}).get("tickSize", "")), info.quote_precision)
    step = grid_of(str(filters.get("LOT_SIZE", {}).get("stepSize", "")), info.base_precision)
    return Instrument(
        id=0,
        symbol=info.symbol,
        venue=venue,
        price_scale=tick.scale,
        size_scale=step.scale,
        quote_scale=quote_scale(tick.scale, step.scale, info.quote_precision),
        base=info.base,
        quote=info.quote,
        market=_market(info.contract),
        tick_size=tick.units,
        step_size=step.units,
    )


def is_partial(depth: DepthMessage) -> bool:
    """Whether a futures market's message without a stream's name is of one that sends the best levels anew.

    It looks like changes, but what is gone is not in it. Changes that look like the best levels are rare, and cost
    the book a new snapshot.
    """
    levels = depth.bids + depth.asks
    return len(depth.bids) == len(depth.asks) in PARTIAL_LEVELS and not any(not s.strip("0.") for _, s in levels)
