"""Levels of an order book as venues write them: lists of decimal texts, to fixed-point integers, quickly.

A book's prices come again and again, and so do many of its sizes: each side of an instrument keeps the texts that it
has read, so that a level costs two look-ups. The texts are dropped when there are too many of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from marketd.daemon.feeds.adapter import Levels
from marketd.market.errors import RuleViolation
from marketd.market.fixed import parse_fixed
from marketd.market.instruments import Instrument

MAX_TEXTS = 1 << 13  # of one instrument and field: some 1 MB; eight times as many are no quicker

Written = str | int | float | bytes  # most venues write texts, some JSON numbers: bytes are one as it was written


class NotPositive(RuleViolation):
    """A price is not above zero."""

    rule = "positive_price"


class Negative(RuleViolation):
    """A size is below zero."""

    rule = "non_negative"


def _plain(written: Written) -> str | int | float:
    return written.decode().strip('"') if type(written) is bytes else written


class _Prices(dict[Written, int]):
    def __init__(self, scale: int) -> None:
        super().__init__()
        self._scale = scale

    def __missing__(self, text: Written) -> int:
        value = parse_fixed(_plain(text), self._scale, field="price")
        if value <= 0:
            raise NotPositive(f"price: {str(text)[:40]!r} is not above zero", field="price")
        if len(self) >= MAX_TEXTS:
            self.clear()
        self[text] = value
        return value


class _Sizes(dict[Written, int]):
    def __init__(self, scale: int) -> None:
        super().__init__()
        self._scale = scale

    def __missing__(self, text: Written) -> int:
        value = parse_fixed(_plain(text), self._scale, field="size")
        if value < 0:
            raise Negative(f"size: {str(text)[:40]!r} is below zero", field="size")
        if len(self) >= MAX_TEXTS:
            self.clear()
        self[text] = value
        return value


class LevelReader:
    """Reads the levels of one instrument. Raises RuleViolation for what is no level at its scales."""

    def __init__(self, instrument: Instrument) -> None:
        # By text; whatever is looked up is read. Adapters look up here in their loops: a method costs as much again.
        self.prices: dict[Written, int] = _Prices(instrument.price_scale)
        self.sizes: dict[Written, int] = _Sizes(instrument.size_scale)

    def price(self, text: Written) -> int:
        return self.prices[text]

    def size(self, text: Written) -> int:
        return self.sizes[text]

    def levels(self, rows: Sequence[Sequence[Any]]) -> Levels:
        """Rows that begin with price and size: texts, or JSON numbers where a venue sends those."""
        if not rows:
            return Levels([], [])
        prices, sizes = self.prices, self.sizes
        read_prices, read_sizes = [], []
        for row in rows:  # one loop: messages have few levels, and comprehensions are calls
            read_prices.append(prices[row[0]])
            read_sizes.append(sizes[row[1]])
        return Levels(read_prices, read_sizes)
