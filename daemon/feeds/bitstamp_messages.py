"""Bitstamp's messages as msgspec structs: only the fields that are used, whatever else comes is tolerated.

Times and ids come as texts of digits; the decoders take those as integers (`strict=False`). Prices and sizes stay text.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

# Beyond these a number would not fit into 64 bits as an id or as nanoseconds.
Id = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Micros = Annotated[int, Meta(ge=0, le=(2**63 - 1) // 1000)]
Seconds = Annotated[int, Meta(ge=0, le=(2**63 - 1) // 10**9)]

_NOTHING = msgspec.Raw(b"")


class Envelope(Struct, gc=False):
    """Any message: `bts:` events of the connection, or a channel's."""

    event: Any = None
    channel: Any = ""
    data: msgspec.Raw = _NOTHING


class LiveTrade(Struct, gc=False):
    """`buy` and `sell` are the taker's: the newer of the two orders is always on that side."""

    trade_id: Id = field(name="id")
    price: str = field(name="price_str")
    size: str = field(name="amount_str")
    side: Annotated[int, Meta(ge=0, le=1)] = field(name="type")  # 0 buy, 1 sell
    time: Micros = field(name="microtimestamp")


class Book(Struct, gc=False):
    """Levels of `diff_order_book` (changed ones; size 0 removes), `order_book` (the best 100) and the REST answer.

    They are arrays of [price, size], texts; read by `levels.LevelReader`.
    """

    time: Micros = field(name="microtimestamp")
    bids: msgspec.Raw
    asks: msgspec.Raw


class RestTrade(Struct, gc=False):
    """A row of `transactions`: its time is in whole seconds."""

    trade_id: Id = field(name="tid")
    price: str
    size: str = field(name="amount")
    side: Annotated[int, Meta(ge=0, le=1)] = field(name="type")
    time: Seconds = field(name="date")


class Market(Struct, gc=False):
    """A row of `markets`, or of the older `trading-pairs-info`."""

    name: str  # "BTC/USD"
    market_symbol: str = ""
    url_symbol: str = ""
    base_decimals: Annotated[int, Meta(ge=0, le=18)] = 8
    counter_decimals: Annotated[int, Meta(ge=0, le=18)] = 8
    market_type: str = "SPOT"

    @property
    def symbol(self) -> str:
        return self.market_symbol or self.url_symbol


class RestBar(Struct, gc=False):
    time: Seconds = field(name="timestamp")
    open: str
    high: str
    low: str
    close: str
    volume: str


class RestBars(Struct, gc=False):
    ohlc: list[msgspec.Raw]


class Ohlc(Struct, gc=False):
    data: RestBars
