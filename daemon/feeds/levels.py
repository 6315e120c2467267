"""Levels of an order book as venues write them: lists of decimal texts, to fixed-point integers, quickly.

Where it was compiled (`market/compiled.py`), what is plain is read from the JSON itself (`LevelReader.quick`): texts of
digits with a point. Everything else, and everything where nothing was compiled, is decoded and read as follows, so that
one way decides what is taken and how it is refused.

A book's prices come again and again, and so do many of its sizes: each side of an instrument keeps the texts that it
has read, so that a level costs two look-ups. The texts are dropped when there are too many of them. A whole book is
read as two arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from marketd.daemon.feeds.adapter import Levels
from marketd.market import compiled
from marketd.market.errors import RuleViolation
from marketd.market.fixed import parse_fixed, parse_fixed_array
from marketd.market.instruments import Instrument

if TYPE_CHECKING:
    from marketd.market._compiled import Reader

Sides = tuple[Levels, Levels]  # bids, asks

MAX_TEXTS = 1 << 13  # of one instrument and field: some 1 MB; eight times as many are no quicker
MANY = 200  # levels; from here on arrays are quicker, and a book is likely to be all new

TEXTS, DIGITS, REALS = 0, 1, 2  # how numbers are written: "1.50"; 1.50, of which each digit counts; a double
MORE_TEXTS = 8  # at most behind the price and size of a row that is read in C
QUICK_SCALES = range(19)  # of what is compiled

Written = str | int | float | bytes  # most venues write texts, some JSON numbers: bytes are one as it was written

decode_pairs = msgspec.json.Decoder(list[tuple[str, str]]).decode
decode_rows = msgspec.json.Decoder(list[list[str]]).decode


class _Refused(RuleViolation):
    says: ClassVar[str] = ""


class NotPositive(_Refused):
    """A price is not above zero."""

    rule = "positive_price"
    says = "is not above zero"


class Negative(_Refused):
    """A size is below zero."""

    rule = "non_negative"
    says = "is below zero"


class _Numbers(dict[Written, int]):
    """Texts that were read, and their numbers; one that is looked up for the first time is read."""

    def __init__(self, field: str, scale: int, refusal: type[_Refused], least: int) -> None:
        super().__init__()
        self._field, self._scale, self._refusal, self._least = field, scale, refusal, least

    def __missing__(self, written: Written) -> int:
        text = written.decode().strip('"') if type(written) is bytes else written
        value = parse_fixed(text, self._scale, field=self._field)
        if value < self._least:
            raise self._refusal(f"{self._field}: {str(text)[:40]!r} {self._refusal.says}", field=self._field)
        if len(self) >= MAX_TEXTS:
            self.clear()
        self[written] = value
        return value

    def many(self, texts: Sequence[Any]) -> list[int] | None:
        """All of them at one go; None where one is to be refused: one by one tells which."""
        numbers, _, errors = parse_fixed_array(texts, self._scale, field=self._field)
        if errors or numbers.min() < self._least:
            return None
        read: list[int] = numbers.tolist()
        return read


class LevelReader:
    """Reads the levels of one instrument. Raises RuleViolation for what is no level at its scales."""

    def __init__(self, instrument: Instrument) -> None:
        # By text; whatever is looked up is read. Adapters look up here in their loops: a method costs as much again.
        self.prices = _Numbers("price", instrument.price_scale, NotPositive, 1)
        self.sizes = _Numbers("size", instrument.size_scale, Negative, 0)
        # None for what it does not read; who asks it reads that otherwise
        self.quick: Reader | None = quick_reader(instrument, instrument.symbol)

    def price(self, text: Written) -> int:
        return self.prices[text]

    def size(self, text: Written) -> int:
        return self.sizes[text]

    def pairs(self, bids: msgspec.Raw, asks: msgspec.Raw) -> Sides:
        """Both sides as JSON arrays of `[price, size]`, texts both. Raises what msgspec does for anything else."""
        quick = self.quick
        found = None if quick is None else quick.sides(bids, asks, False)
        if found is not None:
            return found
        read_bids, read_asks = decode_pairs(bids), decode_pairs(asks)
        return self.levels(read_bids), self.levels(read_asks)

    def rows(self, bids: msgspec.Raw, asks: msgspec.Raw) -> Sides:
        """Both sides as JSON arrays of `[price, size, …]`, texts all. IndexError for a row that has no size."""
        quick = self.quick
        found = None if quick is None else quick.sides(bids, asks, True)
        if found is not None:
            return found
        read_bids, read_asks = decode_rows(bids), decode_rows(asks)
        return self.levels(read_bids), self.levels(read_asks)

    def levels(self, rows: Sequence[Sequence[Any]]) -> Levels:
        """Rows that begin with price and size: texts, or JSON numbers where a venue sends those."""
        if not rows:
            return Levels([], [])
        if len(rows) >= MANY:
            return self.columns([row[0] for row in rows], [row[1] for row in rows])
        prices, sizes = self.prices, self.sizes
        read_prices, read_sizes = [], []
        for row in rows:  # one loop: messages have few levels, and comprehensions are calls
            read_prices.append(prices[row[0]])
            read_sizes.append(sizes[row[1]])
        return Levels(read_prices, read_sizes)

    def columns(self, prices: Sequence[Any], sizes: Sequence[Any]) -> Levels:
        """Levels whose prices and sizes stand apart."""
        if len(prices) >= MANY:
            read_prices, read_sizes = self.prices.many(prices), self.sizes.many(sizes)
            if read_prices is not None and read_sizes is not None:
                # changes will name these prices again; sizes are others then
                if len(self.prices) + len(prices) <= MAX_TEXTS:
                    self.prices.update(zip(prices, read_prices, strict=True))
                return Levels(read_prices, read_sizes)
        known_prices, known_sizes = self.prices, self.sizes
        return Levels([known_prices[text] for text in prices], [known_sizes[text] for text in sizes])


def quick_reader(instrument: Instrument, told: Any) -> Reader | None:
    """Reads in C at the instrument's scales; `told` is what messages that it reads (`forms`) are given back with."""
    part, price, size = compiled.part, instrument.price_scale, instrument.size_scale
    if part is None or price not in QUICK_SCALES or size not in QUICK_SCALES:
        return None
    reader: Reader = part.Reader(price, size, told)
    return reader
