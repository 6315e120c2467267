"""The compiled part as Python sees it; its books are those of `plain_book`. `compiled.py` alone imports it."""

from collections.abc import Callable, Mapping
from typing import Any

from typing_extensions import Buffer

from marketd.market.plain_book import Change as Change
from marketd.market.plain_book import Levels as Levels
from marketd.market.plain_book import OrderBook as OrderBook

INTERFACE: int

class Reader:
    """Levels of one instrument out of a venue's JSON. None: it is not plain throughout, Python is to read it.

    A decimal is digits with a point at most, above zero where it is a price, that fits into 64 bits at its scale.
    """

    def __init__(self, price_scale: int, size_scale: int, told: object = None) -> None:
        """ValueError for scales that are not 0 to 18. `told`: what is told of messages of this instrument."""

    def sides(self, bids: Buffer, asks: Buffer, longer: bool, /) -> tuple[Levels, Levels] | None:
        """Of two arrays of `[price, size]`, texts both; `longer`: further texts may follow these."""

    def dated(self, bids: Buffer, asks: Buffer, /) -> tuple[Levels, Levels, int, int, int] | None:
        """Of two arrays of `[price, size, seconds]`, the newest time in ns, ABSENT where there are no levels, and the
        most decimal places of a price and of a size as they are written."""

    def sided(self, rows: Buffer, bid: bytes, ask: bytes, /) -> tuple[Levels, Levels] | None:
        """Of one array of `[side, price, size]`, by the words of the sides."""

    def objects(
        self,
        arrays: tuple[Buffer, ...],
        price: bytes,
        size: bytes,
        side: bytes,
        bid: bytes,
        ask: bytes,
        writing: int,
        needs_size: bool,
        /,
    ) -> tuple[Levels, Levels] | None:
        """Of arrays of objects, by the names of their fields and the words of the sides; without a name of the side
        all are bids. `writing` 0: texts; 1: numbers, of which each digit counts; 2: numbers that stand for doubles, or
        texts. Without `needs_size` an object that has none has 0."""

class Message:
    """Reads messages of one form (`daemon/feeds/forms.py`) in one call."""

    def __init__(self, form: Any) -> None:
        """ValueError for what is no form."""

    def read(self, frame: bytes, readers: Mapping[str, Reader], /) -> tuple[Any, ...] | None:
        """(`told` of the reader that the message's key names; the values of its slots, in the order of the form; the
        newest time of levels that have times; bids, asks). None: it is of another form, or not plain throughout.
        """

class TradeMessage:
    """Reads messages of trades of one form in one call."""

    def __init__(
        self,
        form: Any,
        flags: int,
        other_flags: int,
        hashed_flags: int,
        hash_of: Callable[[str], int],
        is_reversed: bool,
    ) -> None:
        """`other_flags`: of a trade that was none on the market. ValueError for what is no form of trades."""

    def read(self, frame: bytes, readers: Mapping[str, Reader], /) -> tuple[Any, int, bytes, int] | None:
        """(`told` of the reader, newest time in ns, TRADE rows, the number that is told or 0); None as of `Message`."""

def digits_of_best(book: OrderBook, depth: int, more_price: int, more_size: int, /) -> bytes | None:
    """The best asks, then the best bids, of each price and size as integers with so many more places, one behind the
    other. None: one does not fit into 64 bits."""

def texts_of_best(book: OrderBook, depth: int, price_scale: int, size_scale: int, /) -> bytes | None:
    """ "bid price:bid size:ask price:ask size:…" without needless zeros, in turns as long as both sides last."""

def moment_ns(text: str, /) -> int | None:
    """`2021-04-17T16:43:37.093357Z` in ns; None for a time that is written otherwise, or is none."""

def batch_column(told: Buffer, rows: int, values: Buffer, at: int, /) -> bool:
    """Put the values of a column of a compressed batch into an array of int64, from place `at` on; False: it is told in
    another way than is known here. ValueError where they do not fit.
    """
