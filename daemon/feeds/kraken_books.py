"""Kraken's checksum of a book, and the ids of trades that its first protocol does not number. Pure.

The checksum is the CRC32 of the ten best asks (from the lowest) and then the ten best bids (from the highest): of each
level the price and then the size, as the venue writes them, without the point and without the zeros before the first
digit. That is the fixed-point integer at the number of decimal places that the venue writes, trailing zeros included;
these are not always those of the instrument's tick: version 1 writes XMR/USD with 8 places and trades it with 2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

from marketd.market import compiled
from marketd.market.book import OrderBook
from marketd.market.instruments import Instrument
from marketd.market.trade_ids import hashed_id

DEPTHS = (10, 25, 100, 500, 1000)  # that can be subscribed
SURE_TEXTS = 8  # numbers of as many places, none with a needless zero: that many do not agree by chance
CHECKED_LEVELS = 10  # of each side, whatever depth is subscribed

_digits_of_best = None if compiled.part is None else compiled.part.digits_of_best


class Places(NamedTuple):
    """Decimal places that the venue writes of one instrument's prices and sizes."""

    price: int
    size: int


def places_of(instrument: Instrument) -> Places:
    return Places(instrument.price_scale, instrument.size_scale)


def decimal_places(text: str) -> int:
    return len(text) - text.find(".") - 1 if "." in text else 0


def places_written(texts: Sequence[str], own: int) -> int:
    """Decimal places of numbers as the venue writes them: as many in each, trailing zeros included.

    Whoever recorded them may have written them anew, without these; then they are at least those of the instrument.
    """
    counts = {decimal_places(text) for text in texts}
    has_zeros = any("." in text and text.endswith("0") for text in texts)
    is_fixed = has_zeros or (len(counts) == 1 and len(texts) >= SURE_TEXTS)
    return max(counts) if is_fixed else max(own, *counts)


def depth_of(levels: int) -> int:
    """The depth of a snapshot whose longer side has so many levels: where that is one of the venue's it is full.

    0: that cannot be told.
    """
    return levels if levels in DEPTHS else 0


def quick_checksum(book: OrderBook, instrument: Instrument, places: Places) -> int | None:
    """`Checksums.of`, where it was compiled; None where it was not, or where a number does not fit into 64 bits."""
    if _digits_of_best is None:
        return None
    price, size = places
    digits: bytes | None = _digits_of_best(
        book, CHECKED_LEVELS, price - instrument.price_scale, size - instrument.size_scale
    )
    return None if digits is None else crc32(digits)


class Checksums:
    """Checksums of books of which each has changed little since its last one.

    The digits of a side whose best levels are the same are not written anew. Nothing is taken on trust: the levels are
    compared.
    """

    def __init__(self) -> None:
        self._asks: dict[str, _Written] = {}  # by symbol
        self._bids: dict[str, _Written] = {}

    def of(self, book: OrderBook, instrument: Instrument, places: Places) -> int:
        """The venue's checksum of a book that is held at the instrument's scales."""
        more = places.price - instrument.price_scale, places.size - instrument.size_scale
        bid_prices, bid_sizes, ask_prices, ask_sizes = book.top(CHECKED_LEVELS)
        asks = _digits(self._asks, instrument.symbol, (ask_prices, ask_sizes, more))
        return crc32(_digits(self._bids, instrument.symbol, (bid_prices, bid_sizes, more)), crc32(asks))


_Side = tuple[list[int], list[int], tuple[int, int]]  # prices, sizes, and how many more places the venue writes of each
_Written = tuple[_Side, bytes]


def _digits(written: dict[str, _Written], symbol: str, side: _Side) -> bytes:
    last = written.get(symbol)
    if last is not None and last[0] == side:
        return last[1]
    prices, sizes, (more_of_price, more_of_size) = side
    numbers = [0] * (2 * len(prices))
    numbers[::2], numbers[1::2] = _at(prices, more_of_price), _at(sizes, more_of_size)
    digits = ("%d%d" * len(prices) % tuple(numbers)).encode()  # half the time of joined texts
    written[symbol] = side, digits
    return digits


def _at(values: list[int], more_places: int) -> list[int]:
    if more_places == 0:
        return values
    if more_places > 0:
        unit = 10**more_places
        return [value * unit for value in values]
    unit = 10**-more_places  # what the venue did not write is zeros
    return [value // unit for value in values]


class TradeHashes:
    """Ids of trades that bear none: a hash of the second, price, size, side and order type, and of how many equal ones
    the same second had before.

    The second and not the time: the stream writes microseconds, the REST interface a real number of which they may be
    the floor or the nearest, and one trade must be one id in both. Equal trades of one second are told apart by their
    order, which both keep.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, tuple[int, Counter[str]]] = {}

    def of(self, symbol: str, second: int, identity: str) -> int:
        held = self._seconds.get(symbol)
        if held is None or held[0] != second:
            held = self._seconds[symbol] = second, Counter()
        held[1][identity] += 1
        return hashed_id(f"{second} {identity} {held[1][identity]}")
