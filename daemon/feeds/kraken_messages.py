"""Kraken's messages as msgspec structs: only the fields that are used, whatever else comes is tolerated.

Version 1 writes arrays, its numbers as texts; version 2 writes objects, its numbers as JSON numbers with all their
decimal places, which are kept as they were written: the checksum is over these digits.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

Id = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Checksum = Annotated[int, Meta(ge=0, le=2**32 - 1)]
_NOTHING = msgspec.Raw(b"")
NO_LEVELS = msgspec.Raw(b"[]")


# ---- version 1 ------------------------------------------------------------------------------------


class Array(Struct, gc=False, array_like=True):
    """`[channel id, body, name, pair]`, or with two bodies."""

    channel_id: Any
    body: msgspec.Raw
    second: msgspec.Raw
    third: msgspec.Raw
    fourth: msgspec.Raw = _NOTHING


class TextLevel(Struct, gc=False, array_like=True):
    price: str
    size: str
    time: str  # s; a fourth element "r" says that the level was sent before


class Changes(Struct, gc=False):
    """Arrays of `TextLevel`; a snapshot has `as` and `bs`."""

    asks: msgspec.Raw = field(name="a", default=NO_LEVELS)
    bids: msgspec.Raw = field(name="b", default=NO_LEVELS)
    all_asks: msgspec.Raw = field(name="as", default=_NOTHING)
    all_bids: msgspec.Raw = field(name="bs", default=_NOTHING)
    checksum: str = field(name="c", default="")


class BookUpdate(Struct, gc=False, array_like=True):
    """`[channel id, body, name, pair]` of a book, or with two bodies."""

    channel_id: Any
    body: Changes
    second: Changes | str
    third: str
    fourth: str = ""


class TextTrade(Struct, gc=False, array_like=True):
    price: str
    size: str
    time: str  # s
    side: str  # of the taker: b | s
    order_type: str  # of the taker: m | l


class TextBar(Struct, gc=False, array_like=True):
    time: str  # s, of the last change
    end: str  # s
    open: str
    high: str
    low: str
    close: str
    mean: str
    volume: str
    trade_count: Id


class EventMessage(Struct, gc=False):
    """A message of version 1 that is an object."""

    event: str = ""
    status: str = ""
    pair: str = ""
    channel_name: str = field(name="channelName", default="")
    request: Any = field(name="reqid", default=None)


# ---- version 2 ------------------------------------------------------------------------------------


class NumberLevel(Struct, gc=False):
    price: msgspec.Raw
    size: msgspec.Raw = field(name="qty")


class BookData(Struct, gc=False):
    symbol: str
    checksum: Checksum
    bids: msgspec.Raw = NO_LEVELS  # arrays of `NumberLevel`
    asks: msgspec.Raw = NO_LEVELS
    timestamp: str = ""


class BookFrame(Struct, gc=False, tag_field="channel", tag="book"):
    type: Literal["snapshot", "update"]
    data: list[BookData]


class NumberTrade(Struct, gc=False):
    symbol: str
    side: str  # of the taker
    price: msgspec.Raw
    size: msgspec.Raw = field(name="qty")
    trade_id: Id
    timestamp: str


class TradesFrame(Struct, gc=False, tag_field="channel", tag="trade"):
    data: list[NumberTrade]
    type: str = ""  # snapshot (the newest, after a subscription) | update


class NumberBar(Struct, gc=False):
    symbol: str
    interval: Annotated[int, Meta(ge=1, le=2**20)]  # min
    interval_begin: str
    open: msgspec.Raw
    high: msgspec.Raw
    low: msgspec.Raw
    close: msgspec.Raw
    volume: msgspec.Raw
    trades: Id


class BarsFrame(Struct, gc=False, tag_field="channel", tag="ohlc"):
    data: list[NumberBar]
    timestamp: str = ""


AnyFrame = BookFrame | TradesFrame | BarsFrame


class Symbolic(Struct, gc=False):
    symbol: str = ""


class StatusData(Struct, gc=False):
    system: str = ""


class Subscribed(Struct, gc=False):
    channel: str = ""
    symbol: str = ""
    interval: int = 0  # min
    depth: int = 0  # of a book


class Head(Struct, gc=False):
    """What any message of version 2 may bear."""

    channel: str = ""
    method: str = ""
    success: bool = True
    error: Any = None
    result: Subscribed | None = None
    request: Any = field(name="req_id", default=None)
    symbol: str = ""  # of a refusal
    data: msgspec.Raw = _NOTHING


# ---- REST -----------------------------------------------------------------------------------------


class Answer(Struct, gc=False):
    error: list[str] = []
    result: dict[str, msgspec.Raw] = {}


class AssetPair(Struct, gc=False):
    name: str = field(name="wsname", default="")  # dark pools have none
    pair_decimals: Annotated[int, Meta(ge=0, le=18)] = 8
    lot_decimals: Annotated[int, Meta(ge=0, le=18)] = 8
    tick_size: str = ""


class RestTrade(Struct, gc=False, array_like=True):
    price: str
    size: str
    time: msgspec.Raw  # s
    side: str
    order_type: str
    misc: str
    trade_id: Id


class RestBar(Struct, gc=False, array_like=True):
    start: Annotated[int, Meta(ge=0, le=2**33)]  # s
    open: str
    high: str
    low: str
    close: str
    mean: str
    volume: str
    trade_count: Id
