"""Bybit's messages as msgspec structs: v5, and the older v2 protocol that recordings have.

Only the fields that are used; whatever else comes is tolerated. Prices and sizes stay as they came: text in v5, text or
JSON numbers in v2. Times and ids that come as texts of digits are taken as integers (`strict=False`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

# Beyond these a number would not fit into 64 bits as an id or as nanoseconds.
Id = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Millis = Annotated[int, Meta(ge=0, le=(2**63 - 1) // 10**6)]
Micros = Annotated[int, Meta(ge=0, le=(2**63 - 1) // 1000)]
Number = str | int | float

_NOTHING = msgspec.Raw(b"")
_NO_LEVELS = msgspec.Raw(b"[]")


class Envelope(Struct, gc=False):
    """Any message: a topic's, or a reply to a command."""

    topic: Any = None
    type: str = ""
    time: Millis = field(name="ts", default=0)  # when the message was made
    engine_time: Millis = field(name="cts", default=0)  # of a book: when it was so; as exact as a trade's
    data: msgspec.Raw = _NOTHING
    success: Any = None
    op: Any = None
    ret_msg: Any = None
    request: Any = field(name="req_id", default=None)
    cross_seq: Id = 0  # v2
    time_us: Micros = field(name="timestamp_e6", default=0)  # v2


class Trade(Struct, gc=False):
    """A row of `publicTrade`; `side` is the taker's."""

    time: Millis = field(name="T")
    symbol: str = field(name="s")
    side: str = field(name="S")
    size: str = field(name="v")
    price: str = field(name="p")
    trade_id: str = field(name="i")
    is_block: bool = field(name="BT", default=False)


class Book(Struct, gc=False):
    """`orderbook`: absolute sizes, "0" removes."""

    symbol: str = field(name="s")
    bids: msgspec.Raw = field(name="b")  # arrays of [price, size], texts; read by `levels.LevelReader`
    asks: msgspec.Raw = field(name="a")
    update_id: Id = field(name="u")


class Kline(Struct, gc=False):
    start: Millis
    interval: str
    open: str
    high: str
    low: str
    close: str
    volume: str
    turnover: str
    confirm: bool


class Ticker(Struct, gc=False):
    """`tickers` of a derivative: in a delta only what has changed."""

    symbol: str
    mark_price: str | None = field(name="markPrice", default=None)
    index_price: str | None = field(name="indexPrice", default=None)
    open_interest: str | None = field(name="openInterest", default=None)
    funding_rate: str | None = field(name="fundingRate", default=None)
    next_funding: str | None = field(name="nextFundingTime", default=None)


class Liquidation(Struct, gc=False):
    """A row of `allLiquidation`; `side` is the position's: "Buy" when a long one was liquidated."""

    time: Millis = field(name="T")
    symbol: str = field(name="s")
    side: str = field(name="S")
    size: str = field(name="v")
    price: str = field(name="p")


# ---- v2 ---------------------------------------------------------------------------------------------


class OldTrade(Struct, gc=False):
    symbol: str
    trade_id: str
    side: str
    price: Number
    size: Number
    time: Millis = field(name="trade_time_ms")


class OldLevel(Struct, gc=False):
    price: Number
    side: Literal["Buy", "Sell"]
    size: Number = 0


class OldSnapshot(Struct, gc=False):
    """The linear market's; the inverse market sends the bare list."""

    order_book: list[OldLevel]


class OldDelta(Struct, gc=False):
    """Arrays of `OldLevel`."""

    delete: msgspec.Raw = _NO_LEVELS
    update: msgspec.Raw = _NO_LEVELS
    insert: msgspec.Raw = _NO_LEVELS


# ---- REST -------------------------------------------------------------------------------------------


class Answer(Struct, gc=False):
    code: int = field(name="retCode")
    text: str = field(name="retMsg", default="")
    result: msgspec.Raw = _NOTHING
    time: Millis = 0


class Rows(Struct, gc=False):
    rows: list[msgspec.Raw] = field(name="list", default=[])


class RestTrade(Struct, gc=False):
    trade_id: str = field(name="execId")
    symbol: str
    price: str
    size: str
    side: str
    time: Millis
    is_block: bool = field(name="isBlockTrade", default=False)


class PriceFilter(Struct, gc=False):
    tick: str = field(name="tickSize", default="")


class LotFilter(Struct, gc=False):
    step: str = field(name="qtyStep", default="")  # derivatives
    base_precision: str = field(name="basePrecision", default="")  # spot: both as the smallest step
    quote_precision: str = field(name="quotePrecision", default="")


class SymbolInfo(Struct, gc=False):
    symbol: str
    base: str = field(name="baseCoin")
    quote: str = field(name="quoteCoin")
    contract: str = field(name="contractType", default="")  # "" on the spot market
    price_filter: PriceFilter = field(name="priceFilter", default_factory=PriceFilter)
    lot_filter: LotFilter = field(name="lotSizeFilter", default_factory=LotFilter)


AnyTrade = Trade | OldTrade | RestTrade
