"""What the adapters share: a venue's times and decimal texts, rows of records, and the bars that are still open.

Nothing here knows a venue. A text that is no number raises RuleViolation by its rule; a time that is none raises
msgspec.ValidationError, as a message of the wrong shape does: an adapter catches `UNREADABLE` and RuleViolation once a
message.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from marketd.daemon.feeds.adapter import MAX_PAYLOAD_BYTES, Rejected, VenueRefused
from marketd.daemon.feeds.precision import floor_places
from marketd.market import compiled
from marketd.market.fixed import parse_fixed
from marketd.market.instruments import Instrument
from marketd.market.records import CANDLE, TRADE, Records, Source
from marketd.market.times import ABSENT, NS_PER_SECOND, NS_PER_US

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What a message of the wrong shape raises while it is decoded."""
MAX_ID = 2**63 - 1

_TRADE_ROW = struct.Struct("<6q2i")
pack_trade = _TRADE_ROW.pack  # what `trade_row` does, without its call
_CANDLE_ROW = struct.Struct("<11qi2h")
assert _TRADE_ROW.size == TRADE.itemsize
assert _CANDLE_ROW.size == CANDLE.itemsize
_LAST_SECOND = MAX_ID // NS_PER_SECOND  # the last second that nanoseconds in 64 bits reach (2262)


_LAST_TEXT = str(_LAST_SECOND)
_moment_ns = None if compiled.part is None else compiled.part.moment_ns


# ---- times ----------------------------------------------------------------------------------------


def rfc3339_ns(text: str) -> int:
    """`2021-04-17T16:43:37.093357Z` in ns; up to nine decimals count."""
    quick: int | None = None if _moment_ns is None else _moment_ns(text)
    if quick is not None:
        return quick
    fraction = text[20:-1]
    if text[19:20] != "." or text[-1:] != "Z" or not fraction.isdecimal():
        return _any_time_ns(text)
    if len(fraction) == 6:
        return _second_ns(text[:19]) + int(fraction) * NS_PER_US
    return _second_ns(text[:19]) + int(fraction[:9].ljust(9, "0"))


@lru_cache(maxsize=4096)
def _second_ns(second: str) -> int:
    """`2021-04-17T16:43:37`; a leap second is the 60th of its minute."""
    if second[17:].isdecimal() and second[16:17] == ":":
        return _any_time_ns(f"{second[:16]}:00+00:00") + int(second[17:]) * NS_PER_SECOND
    return _any_time_ns(f"{second}+00:00")


def _any_time_ns(text: str) -> int:
    """Any other ISO time with an offset, to the microsecond."""
    try:
        moment = datetime.fromisoformat(text)
        offset = moment.utcoffset()
    except ValueError:
        offset = None
    if offset is None or not 1970 <= moment.year < 2262:
        raise msgspec.ValidationError(f"{text[:40]!r} is no time")
    since = moment.replace(tzinfo=None) - offset - datetime(1970, 1, 1)
    return (since.days * 86_400 + since.seconds) * NS_PER_SECOND + since.microseconds * 1000


def seconds_ns(text: str) -> int:
    """Decimal seconds since 1970, `1618678157.908269`, in ns, exactly (a float would be off by up to 200 ns)."""
    if len(text) == 17 and text[10] == "." and text < _LAST_TEXT and (digits := text[:10] + text[11:]).isdecimal():
        return int(digits) * NS_PER_US  # nearly always
    whole, _, fraction = text.partition(".")
    if not (whole + fraction).isdecimal() or not whole or len(whole) > 10 or int(whole) >= _LAST_SECOND:
        raise msgspec.ValidationError(f"{text[:40]!r} is no time in seconds")
    return int(whole) * NS_PER_SECOND + int(fraction[:9].ljust(9, "0"))


# ---- numbers --------------------------------------------------------------------------------------


def integer_id(text: str) -> int:
    """A trade id that is an integer written as a text."""
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= MAX_ID):
        raise msgspec.ValidationError(f"trade id {text[:40]!r} is no integer of 64 bits")
    return int(text)


def number_text(raw: msgspec.Raw) -> str:
    """A JSON number, or one in quotation marks, exactly as the venue wrote it."""
    return bytes(raw).decode().strip('"')


# ---- rows -----------------------------------------------------------------------------------------


def trade_row(ts_ns: int, trade_id: int, price: int, size: int, side: int, flags: int = 0) -> bytes:
    """One TRADE record, its stamps unset."""
    return _TRADE_ROW.pack(ts_ns, 0, 0, trade_id, price, size, side, flags)


def ids_and_times(rows: bytes) -> list[tuple[int, int]]:
    """Of TRADE rows."""
    return [(fields[3], fields[0]) for fields in _TRADE_ROW.iter_unpack(rows)]


def trade_records(rows: Sequence[bytes]) -> Records:
    return np.frombuffer(bytearray(b"".join(rows)), dtype=TRADE)


def candle_row(
    instrument: Instrument,
    start_ns: int,
    timeframe: int,
    prices: Sequence[str],
    volume: str,
    *,
    quote_volume: str | None = None,
    buy_volume: str | None = None,
    trade_count: int = ABSENT,
    flags: int = 0,
) -> bytes:
    """One CANDLE record (source VENUE) from texts: `prices` are open, high, low, close; what is None is absent."""
    price, size, quote = instrument.price_scale, instrument.size_scale, instrument.quote_scale
    opened, high, low, close = prices
    return _CANDLE_ROW.pack(
        start_ns,
        0,
        0,
        parse_fixed(opened, price, field="open"),
        parse_fixed(high, price, field="high"),
        parse_fixed(low, price, field="low"),
        parse_fixed(close, price, field="close"),
        parse_fixed(volume, size, field="volume"),
        ABSENT if quote_volume is None else parse_fixed(floor_places(quote_volume, quote), quote, field="quote_volume"),
        ABSENT if buy_volume is None else parse_fixed(buy_volume, size, field="buy_volume"),
        trade_count,
        timeframe,
        Source.VENUE,
        flags,
    )


def candle_records(rows: Sequence[bytes]) -> Records:
    return np.frombuffer(bytearray(b"".join(rows)), dtype=CANDLE)


class OpenBars:
    """The newest state of each bar that is still open, of venues that never say that a bar has ended.

    A bar has ended when a later one of its symbol and timeframe comes: its last state is then its final one.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], tuple[int, bytes]] = {}

    def update(self, symbol: str, timeframe: int, start_ns: int, row: bytes) -> bytes | None:
        """A bar's newest state; the row of a bar that is known to have ended thereby, or None."""
        key = symbol, timeframe
        held = self._open.get(key)
        if held is not None and start_ns < held[0]:
            return row  # an earlier bar, once more
        self._open[key] = start_ns, row
        return held[1] if held is not None and start_ns > held[0] else None

    def forget(self, symbol: str, timeframe: int | None = None) -> None:
        """After a (new) subscription: the last state before it may not be the final one."""
        for key in [key for key in self._open if key[0] == symbol and timeframe in (None, key[1])]:
            del self._open[key]


# ---- messages and answers -------------------------------------------------------------------------


def rejected(symbol: str | None, rule: str, detail: object, payload: bytes, trade_id: int | None = None) -> Rejected:
    return Rejected(symbol, rule, str(detail)[:500], bytes(payload[:MAX_PAYLOAD_BYTES]), trade_id)


def answer(body: bytes, kind: type[Any], what: str) -> Any:
    """A REST answer as `kind`; VenueRefused, showing its beginning, when it is none."""
    try:
        return msgspec.json.decode(body, type=kind)
    except UNREADABLE as error:
        shown = body[:300].decode("utf-8", "replace")
        raise VenueRefused(f"{what}: the answer cannot be read ({error}): {shown}") from None


def chunks(items: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    """The items in groups of at most `size`, as a venue's commands take them."""
    return (items[at : at + size] for at in range(0, len(items), size))
