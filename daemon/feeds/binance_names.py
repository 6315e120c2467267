"""Names of Binance's symbols: ccxt's to the venue's own.

spot      BTC/USDT                     BTCUSDT
USD-M     BTC/USDT:USDT                BTCUSDT            a perpetual swap
          BTC/USDT:USDT-240927         BTCUSDT_240927     a future that ends then
COIN-M    BTC/USD:BTC                  BTCUSD_PERP
          BTC/USD:BTC-240927           BTCUSD_240927
"""

from __future__ import annotations

import re

from marketd.daemon.feeds.binance_markets import COIN_M, Market
from marketd.market.errors import InvalidArgument

_SYMBOL = re.compile(r"[A-Z0-9]{2,30}(_[A-Z0-9]{4,8})?")


def venue_symbol(market: Market, symbol: str) -> str:
    """A symbol as the venue writes it; InvalidArgument for one of another market."""
    name = symbol.removesuffix(f".{market.venue}")
    pair, colon, settled = name.partition(":")
    base, slash, quote = pair.partition("/")
    if slash and not (base and quote):
        raise InvalidArgument(f"symbols: {symbol!r} is no pair; write one such as {market.example!r}", field="symbols")
    if colon and market.is_spot:
        raise InvalidArgument(
            f"symbols: {symbol!r} names a swap or future; {market.venue} is the spot market: write {pair!r}",
            field="symbols",
        )
    if slash and not colon and not market.is_spot:
        raise InvalidArgument(
            f"symbols: {symbol!r} names a spot pair; {market.venue} has swaps and futures: "
            f"write one such as {market.example!r}",
            field="symbols",
        )
    written = (base + quote + _contract(market, settled) if colon else base + quote).upper()
    if _SYMBOL.fullmatch(written) is None or ("_" in written and market.is_spot):
        raise InvalidArgument(
            f"symbols: {symbol!r} is no symbol of {market.venue}; write one such as {market.example!r}",
            field="symbols",
        )
    return written


def _contract(market: Market, settled: str) -> str:
    """What follows the pair: "" or "_PERP" of a swap, the day on which a future ends."""
    _, dash, day = settled.partition("-")
    if dash:
        return f"_{day}"
    return "_PERP" if market is COIN_M else ""
