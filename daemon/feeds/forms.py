"""Forms of messages: which values of a venue's message are wanted, written down once for the compiled reader.

Where it was compiled (`market/compiled.py`) a message of a known form is read from its bytes in one call. The reader
takes what is plain throughout and answers None for everything else: an unknown symbol, an escape, a number that does
not fit. The adapter then reads the message by the ways of Python, which take it or refuse it by name; so a form must
want of each field at least what Python wants of it, and where nothing was compiled all is read there.

A form is made of dicts (objects: the fields that matter, others are passed over), tuples (arrays), a list of one form
(an array of these) and slots. A field that may be left out has a `fallback`.

    read_depth = message({"s": key(), "U": count(), "u": count(), "b": bids(), "a": asks(), "E": clock(0)})
    found = read_depth(frame, readers)  # (whose, U, u, E, bids, asks), in the order of the form; or None
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from marketd.daemon.feeds.levels import TEXTS
from marketd.market import compiled
from marketd.market.records import TradeFlag
from marketd.market.times import NS_PER_MS, NS_PER_US
from marketd.market.trade_ids import hashed_id

if TYPE_CHECKING:
    from marketd.market._compiled import Reader

Form = Any  # dict[str, Form] | tuple[Form, ...] | list[Form] | Slot
REQUIRED = ...
MOST = 2**63 - 1

# kinds, as in market/c/form.h
_REFUSED, _TEXT, _ANYTHING, _WORD, _KEY, _COUNT, _DIGITS, _LOOSE, _CLOCK, _MOMENT, _ID, _PRICE, _SIZE = range(13)
_BIDS, _ASKS, _DATED_BIDS, _DATED_ASKS, _SIDED, _OBJECTS, _BID_OBJECTS, _ASK_OBJECTS = range(13, 21)
# roles in a trade, as in market/c/trades.c
_TIME, _NUMBER, _SIDE, _MARKET, _SEEN, _TOLD = range(1, 7)


class Slot(NamedTuple):
    """A value that is wanted. C reads it by position."""

    kind: int
    fallback: Any = REQUIRED
    words: tuple[bytes, ...] = ()
    number: int = 1
    separator: int = 0
    most: int = MOST
    role: int = 0


# ---- slots ----------------------------------------------------------------------------------------


def refused() -> Slot:
    """A message that has the field is of another form."""
    return Slot(_REFUSED, None)


def text(fallback: Any = REQUIRED) -> Slot:
    """A text that does not matter, but must be one."""
    return Slot(_TEXT, fallback)


def anything() -> Slot:
    """A value in an array that does not matter."""
    return Slot(_ANYTHING)


def word(*words: str, fallback: Any = REQUIRED, behind: str = "") -> Slot:
    """One of these, as JSON writes it; its value is which. `behind`: what stands behind the first of that sign."""
    return Slot(_WORD, fallback, tuple(each.encode() for each in words), separator=ord(behind) if behind else 0)


def quoted(*words: str, fallback: Any = REQUIRED) -> Slot:
    """One of these texts; its value is which."""
    return word(*(f'"{each}"' for each in words), fallback=fallback)


def key() -> Slot:
    """A text that names the message's reader; one in a message."""
    return Slot(_KEY)


def count(fallback: Any = REQUIRED, *, unit: int = 1, most: int = MOST) -> Slot:
    """An integer from 0 on, times `unit`."""
    return Slot(_COUNT, fallback, number=unit, most=most)


def digits(fallback: Any = REQUIRED, *, unit: int = 1, most: int = MOST) -> Slot:
    """The same, written as a text."""
    return Slot(_DIGITS, fallback, number=unit, most=most)


def loose(fallback: Any = REQUIRED, *, unit: int = 1, most: int = MOST) -> Slot:
    """The same, written in either way."""
    return Slot(_LOOSE, fallback, number=unit, most=most)


def clock(fallback: Any = REQUIRED) -> Slot:
    """A time in ms or µs as an integer; in ns."""
    return Slot(_CLOCK, fallback)


def moment(fallback: Any = REQUIRED) -> Slot:
    """A time in words; in ns."""
    return Slot(_MOMENT, fallback)


def price(writing: int = TEXTS) -> Slot:
    return Slot(_PRICE, number=writing)


def size(writing: int = TEXTS) -> Slot:
    return Slot(_SIZE, number=writing)


def bids(more: int = 0) -> Slot:
    """Arrays of `[price, size]`, with at most so many texts behind these."""
    return Slot(_BIDS, number=more)


def asks(more: int = 0) -> Slot:
    return Slot(_ASKS, number=more)


def dated_bids() -> Slot:
    """Arrays of `[price, size, seconds]`, which need not be there; the message tells the newest time."""
    return Slot(_DATED_BIDS, ())


def dated_asks() -> Slot:
    return Slot(_DATED_ASKS, ())


def sided(bid: str, ask: str) -> Slot:
    """Arrays of `[side, price, size]`."""
    return Slot(_SIDED, words=(bid.encode(), ask.encode()))


def objects(names: tuple[str, str, str], sides: tuple[str, str], writing: int, *, sizes: bool = True) -> Slot:
    """Objects by the names of price, size and side; not all have a size where `sizes` is False, nor need be there."""
    words = tuple(each.encode() for each in (*names, *sides))
    return Slot(_OBJECTS, REQUIRED if sizes else (), words, writing, 0 if sizes else 1)


def side_objects(name_of_price: str, name_of_size: str, writing: int, *, is_bid: bool) -> Slot:
    """Objects of one side, which need not be there."""
    words = (name_of_price.encode(), name_of_size.encode())
    return Slot(_BID_OBJECTS if is_bid else _ASK_OBJECTS, (), words, writing)


# ---- parts of a trade -----------------------------------------------------------------------------


def time(slot: Slot) -> Slot:
    return slot._replace(role=_TIME)


def number(slot: Slot) -> Slot:
    """Its id."""
    return slot._replace(role=_NUMBER)


def any_id() -> Slot:
    """An id that is a text: an integer, or anything else, of which a hash is kept."""
    return number(Slot(_ID))


def side(buy: str, sell: str) -> Slot:
    """The words of the taker's side, as JSON writes them."""
    return word(buy, sell)._replace(role=_SIDE)


def market(slot: Slot) -> Slot:
    """A word that is not the first one, or a fallback that is not 0, says that the trade was none on the market."""
    return slot._replace(role=_MARKET)


def seen(slot: Slot) -> Slot:
    """The venue's time, where it is not the trade's."""
    return slot._replace(role=_SEEN)


def told(slot: Slot) -> Slot:
    """A number of the message that is told beside its trades."""
    return slot._replace(role=_TOLD)


def millis(fallback: Any = REQUIRED) -> Slot:
    """ms, written in either way; in ns."""
    return loose(fallback, unit=NS_PER_MS)


def micros(fallback: Any = REQUIRED) -> Slot:
    return loose(fallback, unit=NS_PER_US)


# ---- what reads them ------------------------------------------------------------------------------

Readers = Mapping[str, "Reader"]
ReadMessage = Callable[[bytes, Readers], "tuple[Any, ...] | None"]
ReadTrades = Callable[[bytes, Readers], "tuple[Any, int, bytes, int] | None"]


def message(form: Form) -> ReadMessage | None:
    """What reads messages of a form; None where nothing was compiled.

    A message gives whose it is (`told` of its reader), the values in the order of the form, and at last bids and asks.
    """
    if compiled.part is None:
        return None
    read: ReadMessage = compiled.part.Message(form).read
    return read


def trades(form: Form, flags: int = 0, *, newest_first: bool = False) -> ReadTrades | None:
    """What reads messages of trades; None where nothing was compiled.

    A message gives whose it is, the newest time (ns), TRADE rows in the order of the trades, and the number that is
    `told`, or 0.
    """
    if compiled.part is None:
        return None
    not_market, is_hash = flags | int(TradeFlag.NOT_MARKET), int(TradeFlag.HASHED_ID)
    read: ReadTrades = compiled.part.TradeMessage(form, flags, not_market, is_hash, hashed_id, newest_first).read
    return read
