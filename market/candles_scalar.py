"""The first step of the fold's scalar path: a few trades, as tuples of ints, to groups (see `bar_rows`)."""

from __future__ import annotations

from marketd.market.bar_rows import merge
from marketd.market.errors import RangeError
from marketd.market.fixed import MAX_FIXED
from marketd.market.records import TradeFlag

_NOT_MARKET = int(TradeFlag.NOT_MARKET)


def group_few(
    trades: list[tuple[int, ...]], unit_ns: int, quote_multiplier: int, quote_divisor: int
) -> list[list[int]]:
    """Neighbouring trades of one unit of time become one group, so that a timeframe is touched once for them.

    `trades` are TRADE records (`tolist()`) in the order of arrival. RangeError when a number leaves 64 bits.
    """
    groups: list[list[int]] = []
    group_start: int | None = None
    group: list[int] = []
    for ts_event, _, _, _, price, size, side, flags in trades:
        if flags & _NOT_MARKET:
            continue
        quote = price * size * quote_multiplier // quote_divisor
        if quote > MAX_FIXED:
            raise RangeError("trade: price times size does not fit into 64 bits at the quote scale", field="quote")
        start = ts_event - ts_event % unit_ns
        bought = size if side == 1 else 0
        one = [start, 0, 0, price, price, price, price, size, quote, bought, 1, 0, ts_event, ts_event]
        if start == group_start:
            merge(group, one)
        else:
            group_start, group = start, one
            groups.append(group)
    return groups
