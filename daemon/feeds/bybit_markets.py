"""Bybit's three markets: spot, linear and inverse contracts. What differs between them is a row here.

Each has its own WebSocket address, and a BTCUSDT of its own; so each is a venue. A book is a snapshot on the stream and
numbered changes (`u`); `u` = 1 begins anew after a restart of the service. The numbers are consecutive for one topic.

Inverse contracts are counted in USD: a size is a number of contracts of 1 USD. The venue's `turnover` is in the base
coin there, which is no `quote_volume`, so bars of that market have none.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from marketd.daemon.feeds.adapter import BookDelta, BookRule, Fit
from marketd.daemon.feeds.adapter_base import pair_of
from marketd.market.errors import InvalidArgument

BOOK_DEPTH = 1000  # what is subscribed, every 200 ms: 200 levels, every 100, often end within the band of the imbalance
# What is read where a recording has it, by the word in the topic. `orderbook.1` is all snapshots, and no book.
BOOK_DEPTHS = {word: int(word) for word in ("25", "40", "50", "100", "200", "500", "1000")}


class Market(NamedTuple):
    venue: str
    category: str
    trade_rows: int  # at most in one answer of recent-trade
    command_streams: int  # in one message
    example: str
    series: tuple[str, ...] = ()  # of `feeds.series.STREAMS`

    @property
    def is_spot(self) -> bool:
        return self.category == "spot"


_SERIES = ("funding", "mark_price", "open_interest", "liquidation")

SPOT = Market("BYBIT", "spot", 60, 10, "BTC/USDT")
LINEAR = Market("BYBIT_LINEAR", "linear", 1000, 100, "BTC/USDT:USDT", _SERIES)
INVERSE = Market("BYBIT_INVERSE", "inverse", 1000, 100, "BTC/USD:BTC", _SERIES)


def _fit(sequence: int, delta: BookDelta) -> Fit:
    """v5 numbers are consecutive, so only a repeated message is old; v2's (`previous` is None) ascend, with holes."""
    if delta.previous is None:
        return Fit.NEXT if delta.last > sequence else Fit.OLD
    if delta.previous == sequence:
        return Fit.NEXT
    return Fit.OLD if delta.last == sequence else Fit.GAP


RULE = BookRule("stream", splice=_fit, follows=_fit, depth=BOOK_DEPTH)

_SYMBOL = re.compile(r"[A-Z0-9]{2,30}")
_DATED = re.compile(r"(.+?)-?([0-9]{1,2}[A-Z]{3}[0-9]{2})")


def venue_symbol(market: Market, symbol: str) -> str:
    """A symbol as marketd writes it: the venue's own without "-". InvalidArgument for one of another market."""
    base, quote, settle, end = pair_of(symbol, market.venue, market.example)
    if settle and market.is_spot:
        raise InvalidArgument(
            f"symbols: {symbol!r} names a swap or future; {market.venue} is the spot market: write '{base}/{quote}'",
            field="symbols",
        )
    if quote and not settle and not market.is_spot:
        raise InvalidArgument(
            f"symbols: {symbol!r} names a spot pair; {market.venue} has swaps and futures: "
            f"write one such as {market.example!r}",
            field="symbols",
        )
    is_wrong_side = bool(settle) and (settle == base) != (market is INVERSE)
    if settle == "USDC" and quote == "USDC" and not end:
        written = f"{base}PERP"  # the venue's name of a perpetual that settles in USDC
    else:
        written = (base + quote).replace("-", "")
    if end or is_wrong_side or _SYMBOL.fullmatch(written) is None:
        raise InvalidArgument(
            f"symbols: {symbol!r} is no symbol of {market.venue}; write one such as {market.example!r}, or a future "
            "by the venue's own name",
            field="symbols",
        )
    return written


def wire_name(symbol: str) -> str:
    """The venue's own name: the day of a dated future stands behind a "-"."""
    match = _DATED.fullmatch(symbol)
    return f"{match[1]}-{match[2]}" if match else symbol
