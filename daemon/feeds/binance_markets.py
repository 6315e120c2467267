"""Binance's three markets: spot, USD-M futures and COIN-M futures. What differs between them is a row here.

An order book is a snapshot over REST and the differences of a stream, each with the numbers of its first and last
update (`U`, `u`). On the spot market each begins where the one before ended (U = u + 1). On the futures markets, whose
numbers are shared by many symbols, each names its predecessor's last number (`pu`). A size is the level's new size,
not a change of it, so what reaches back over the last applied update may be applied again.

COIN-M futures are inverse contracts: a size is a number of contracts (of 100 USD for BTC, of 10 USD for the others),
not of coins. `quote_volume` of marketd's own bars is the sum of price times contracts there, which is no turnover; the
venue's own bars have the volume in the base coin in its place.

USD-M futures have had two addresses since 2026: `/public` with what the matching engine tells of each change (single
trades, differences of books, best prices) and `/market` with what is summed up (aggregate trades, bars, mark prices,
liquidations). At the wrong one a subscription is acknowledged, and nothing comes; the host without a path is `/public`.
The venue's documentation does not name `trade` at all; it comes at `/public` alone. COIN-M futures and the spot market
have one address for everything.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from marketd.daemon.feeds.adapter import BookDelta, BookRule, Fit


class Weights(NamedTuple):
    """What REST requests cost."""

    instruments: int
    trades: int  # the newest ones
    old_trades: int  # from an id on
    agg_trades: int
    bars: int  # 1000 of them
    book: int  # 1000 levels


_KIND = re.compile(r"[@!]([A-Za-z]+)")
_AT_PUBLIC = ("trade", "depth", "rpiDepth", "bookTicker")
ENDPOINTS = ("/public", "/market")


def usd_m_endpoint(stream: str) -> str:
    """The path of the address that has a stream: of `btcusdt@depth20@100ms`, say, or of `!bookTicker`."""
    kind = _KIND.search(stream)
    return ENDPOINTS[0] if kind is not None and kind[1] in _AT_PUBLIC else ENDPOINTS[1]


class Market(NamedTuple):
    venue: str
    prefix: str  # of REST paths
    depth: str  # the stream of the book's differences
    weights: Weights
    old_trades_rows: int  # at most in one answer of historicalTrades
    rule: BookRule
    series: tuple[str, ...] = ()  # of `feeds.series.STREAMS`
    names_all: bool = False  # exchangeInfo takes no symbols, and names them all
    example: str = "BTC/USDT"
    endpoint_of: Callable[[str], str] | None = None  # of a stream, where the market has several addresses
    old_trades_need_key: bool = False  # those from an id on; the newest and the aggregate ones are for everybody

    @property
    def is_spot(self) -> bool:
        return not self.series


def _spot_fit(sequence: int, delta: BookDelta) -> Fit:
    if delta.last <= sequence:
        return Fit.OLD
    return Fit.NEXT if delta.first <= sequence + 1 else Fit.GAP


def _futures_splice(sequence: int, delta: BookDelta) -> Fit:
    if delta.last < sequence:
        return Fit.OLD
    return Fit.NEXT if delta.first <= sequence or _reaches(sequence, delta) else Fit.GAP


def _futures_follows(sequence: int, delta: BookDelta) -> Fit:
    if delta.last <= sequence:
        return Fit.OLD
    return Fit.NEXT if _reaches(sequence, delta) else Fit.GAP


def _reaches(sequence: int, delta: BookDelta) -> bool:
    """Between its predecessor and a delta nothing changed: a state numbered from there on is what it changes."""
    return delta.previous is not None and delta.previous <= sequence


SPOT_RULE = BookRule("rest", splice=_spot_fit, follows=_spot_fit)
FUTURES_RULE = BookRule("rest", splice=_futures_splice, follows=_futures_follows)

_FUTURES_WEIGHTS = Weights(instruments=1, trades=5, old_trades=20, agg_trades=20, bars=5, book=20)
_FUTURES_SERIES = ("funding", "mark_price", "open_interest", "liquidation")

SPOT = Market(
    venue="BINANCE",
    prefix="/api/v3",
    depth="depth@100ms",
    weights=Weights(instruments=20, trades=25, old_trades=25, agg_trades=4, bars=2, book=50),
    old_trades_rows=1000,
    rule=SPOT_RULE,
)
USD_M = Market(
    venue="BINANCE_FUTURES",
    prefix="/fapi/v1",
    depth="depth@100ms",
    weights=_FUTURES_WEIGHTS,
    old_trades_rows=500,
    rule=FUTURES_RULE,
    series=_FUTURES_SERIES,
    names_all=True,
    old_trades_need_key=True,
    example="BTC/USDT:USDT",
    endpoint_of=usd_m_endpoint,
)
COIN_M = Market(
    venue="BINANCE_DELIVERY",
    prefix="/dapi/v1",
    depth="depth@100ms",
    weights=_FUTURES_WEIGHTS,
    old_trades_rows=500,
    rule=FUTURES_RULE,
    series=_FUTURES_SERIES,
    names_all=True,
    old_trades_need_key=True,
    example="BTC/USD:BTC",
)
