"""Scales: how many decimal places an instrument's numbers have, from a venue's rules or from recorded texts."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from marketd.market.instruments import MAX_SCALE

MAX_QUOTE_SCALE = 8
"""A day's quote volume at 8 places may be 9.2e10 units of the quote currency before 64 bits are full: more than any
pair with so fine a grid trades. Pairs quoted in small units (IDR, VND, TRY) have coarse grids, and with them, by
`quote_scale`, a coarser sum that reaches further."""

# Longest first, so that BTCFDUSD is not taken for a pair in USD.
_QUOTE_NAMES = """
    USDT BUSD USDC FDUSD TUSD USDP USD1 PAX USDS BTC ETH BNB TRX XRP DOGE SOL DAI EUR GBP AUD BRL TRY RUB UAH
    NGN ZAR PLN RON ARS JPY IDR VND MXN CZK COP IDRT BIDR BVND BKRW CHF CAD EURC PYUSD RLUSD USD
"""
# how other venues write what a contract is, and when it ends: BTCUSDTSWAP, BTCUSD240927, BTCUSD24092760000C,
# BTCUSDT26DEC25, BTCUSDM25
_ENDING = re.compile(r"(.+?)(?:SWAP|[0-9]{6}(?:[0-9.]+[CP])?|[0-9]{1,2}[A-Z]{3}[0-9]{2}|[FGHJKMNQUVXZ][0-9]{2})")
_OF_BINANCE = frozenset(("BUSD", "TUSD"))  # currencies of its spot market; other venues have none in these
_QUOTES = tuple(sorted(_QUOTE_NAMES.split(), key=len, reverse=True))


class Grid(NamedTuple):
    """A tick or step: `units` at `scale` decimal places (0.05 is 5 at scale 2)."""

    scale: int
    units: int


def grid_of(text: str, default_scale: int) -> Grid:
    """The grid of a venue's tickSize or stepSize; of `default_scale` where the venue sets none (`"0.00000000"`)."""
    try:
        step = Decimal(text).normalize()
    except InvalidOperation:
        return Grid(default_scale, 1)
    if not step.is_finite() or step <= 0:
        return Grid(default_scale, 1)
    exponent = step.as_tuple().exponent
    scale = min(max(0, -exponent if isinstance(exponent, int) else 0), MAX_SCALE)
    return Grid(scale, max(1, int(step.scaleb(scale))))


def quote_scale(price_scale: int, size_scale: int, quote_precision: int) -> int:
    """Decimal places of quote volumes.

    A product of price and size has price_scale + size_scale places: more would be zeros that only cost range. What
    is beyond the venue's own `quotePrecision` or `MAX_QUOTE_SCALE` is floored away.
    """
    return min(price_scale + size_scale, max(quote_precision, 0), MAX_QUOTE_SCALE)


def places(text: str) -> int:
    """Significant decimal places of a decimal text: `"61837.63000000"` has 2, `"1.5e-05"` has 6."""
    if "e" in text or "E" in text:
        return grid_of(text, 0).scale
    _, point, fraction = text.partition(".")
    return len(fraction.rstrip("0")) if point else 0


def floor_places(text: str, scale: int) -> str:
    """A non-negative plain decimal text cut to `scale` places, which is its floor."""
    whole, point, fraction = text.partition(".")
    return f"{whole}.{fraction[:scale]}" if point and fraction.isdigit() else text


def split_pair(symbol: str, venue: str = "BINANCE") -> tuple[str, str]:
    """Base and quote of a symbol written as one word; ("", "") when no known quote currency ends it."""
    pair, is_contract, _ = symbol.partition("_")  # of a future: BTCUSD_PERP, BTCUSDT_240927
    for quote in _QUOTES:
        if pair.endswith(quote) and len(pair) > len(quote) and _is_dealt_in(pair, quote, venue, bool(is_contract)):
            return pair[: -len(quote)], quote
    match = _ENDING.fullmatch(pair)
    return split_pair(match[1], venue) if match else ("", "")


def _is_dealt_in(pair: str, quote: str, venue: str, is_contract: bool) -> bool:
    """Whether a pair that ends like this may be in that currency, and not in dollars."""
    if quote in _OF_BINANCE and (is_contract or not venue.startswith("BINANCE")):
        return False  # SHIBUSD is SHIB, DOTUSD_PERP is DOT
    return pair != f"USD{quote}" or not quote.endswith("USD")  # USDTUSD is USDT: a dollar is not dealt in for tokens


class Texts:
    """The finest decimal places seen in one symbol's recorded texts."""

    __slots__ = ("price_places", "size_places")

    def __init__(self) -> None:
        self.price_places = 0
        self.size_places = 0

    def see(self, price: str, size: str) -> None:
        self.price_places = max(self.price_places, places(price))
        self.size_places = max(self.size_places, places(size))

    def add(self, other: Texts) -> None:
        self.price_places = max(self.price_places, other.price_places)
        self.size_places = max(self.size_places, other.size_places)


def step_text(decimals: int) -> str:
    """The smallest step of so many places as a venue writes it: 2 is `"0.01000000"`."""
    return f"{Decimal(1).scaleb(-decimals):.{max(decimals, 8)}f}"


class Rules(NamedTuple):
    """A symbol's pair and its decimal places, where no venue's filters are at hand."""

    symbol: str
    base: str
    quote: str
    price_places: int
    size_places: int
