"""Binance's messages as msgspec structs: only the fields that are used, whatever else comes is tolerated.

Numbers that the venue sends as text stay text here; `marketd.market.fixed` makes them fixed-point, exactly.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

# Beyond these a number would not fit into 64 bits as an id or as nanoseconds.
Id = Annotated[int, Meta(ge=0, le=2**63 - 1)]
VenueClock = Annotated[int, Meta(ge=0, le=(2**63 - 1) // 1000)]

_NOTHING = msgspec.Raw(b"")


class Envelope(Struct, gc=False):
    """Any message: combined (`stream`, `data`), bare (`e`), a reply to a command, an error."""

    stream: str | None = None
    data: msgspec.Raw = _NOTHING
    event: Any = field(default=None, name="e")
    id: Any = None
    result: Any = UNSET
    error: Any = None
    code: Any = None
    msg: Any = None
    update_id: Any = field(default=None, name="u")
    last_update_id: Any = field(default=None, name="lastUpdateId")


class Head(Struct, gc=False):
    """What nearly every event bears."""

    event: str = field(default="", name="e")
    event_time: VenueClock = field(default=0, name="E")
    symbol: str = field(default="", name="s")


class TradeMessage(Struct, gc=False):
    symbol: str = field(name="s")
    trade_id: Id = field(name="t")
    price: str = field(name="p")
    size: str = field(name="q")
    time: VenueClock = field(name="T")
    buyer_is_maker: bool = field(name="m")
    event_time: VenueClock = field(default=0, name="E")
    kind: str = field(default="MARKET", name="X")  # futures: INSURANCE_FUND, ADL … are no market trades


class AggTradeMessage(Struct, gc=False):
    symbol: str = field(name="s")
    trade_id: Id = field(name="a")
    price: str = field(name="p")
    size: str = field(name="q")
    time: VenueClock = field(name="T")
    buyer_is_maker: bool = field(name="m")
    event_time: VenueClock = field(default=0, name="E")
    kind: str = field(default="MARKET", name="X")
    first_id: int = field(default=-1, name="f")  # of the trades that it sums up
    last_id: int = field(default=-1, name="l")


class Kline(Struct, gc=False):
    start: VenueClock = field(name="t")
    interval: str = field(name="i")
    open: str = field(name="o")
    high: str = field(name="h")
    low: str = field(name="l")
    close: str = field(name="c")
    volume: str = field(name="v")
    trade_count: Id = field(name="n")
    closed: bool = field(name="x")
    quote_volume: str = field(name="q")
    buy_volume: str = field(name="V")
    buy_quote_volume: str = field(default="0", name="Q")
    end: VenueClock = field(default=0, name="T")


class KlineMessage(Struct, gc=False):
    symbol: str = field(name="s")
    kline: Kline = field(name="k")
    event_time: VenueClock = field(default=0, name="E")


Level = tuple[str, str]  # price and size, as the venue wrote them


class DepthMessage(Struct, gc=False):
    """A difference of the book. `pu` and `T` are the futures markets'."""

    symbol: str = field(name="s")
    first_id: Id = field(name="U")
    last_id: Id = field(name="u")
    bids: list[Level] = field(name="b")
    asks: list[Level] = field(name="a")
    previous_id: int | None = field(default=None, name="pu")
    event_time: VenueClock = field(default=0, name="E")
    time: VenueClock = field(default=0, name="T")


class WrittenDepth(Struct, gc=False):
    """The same, its levels as they were written, for `levels.LevelReader`."""

    symbol: str = field(name="s")
    first_id: Id = field(name="U")
    last_id: Id = field(name="u")
    bids: msgspec.Raw = field(name="b")
    asks: msgspec.Raw = field(name="a")
    previous_id: int | None = field(default=None, name="pu")
    event_time: VenueClock = field(default=0, name="E")
    time: VenueClock = field(default=0, name="T")


class CombinedDepth(Struct, gc=False):
    """A difference of the book with its stream's name."""

    stream: str
    data: WrittenDepth


class Depth(Struct, gc=False):
    """The REST answer; `E` and `T` are the futures markets'."""

    last_id: Id = field(name="lastUpdateId")
    bids: list[Level]
    asks: list[Level]
    event_time: VenueClock = field(default=0, name="E")
    time: VenueClock = field(default=0, name="T")


class WrittenBook(Struct, gc=False):
    """The same, its levels as they were written."""

    last_id: Id = field(name="lastUpdateId")
    bids: msgspec.Raw
    asks: msgspec.Raw
    event_time: VenueClock = field(default=0, name="E")
    time: VenueClock = field(default=0, name="T")


class BookTicker(Struct, gc=False):
    """The best prices after an update of the book."""

    symbol: str = field(name="s")
    bid: str = field(name="b")
    bid_size: str = field(name="B")
    ask: str = field(name="a")
    ask_size: str = field(name="A")
    update_id: int = field(default=0, name="u")
    event_time: VenueClock = field(default=0, name="E")


class MarkPriceMessage(Struct, gc=False):
    """Mark price and funding of a future; a future that ends bears no rate ("")."""

    symbol: str = field(name="s")
    event_time: VenueClock = field(name="E")
    price: str = field(name="p")
    index_price: str = field(default="", name="i")
    rate: str = field(default="", name="r")
    next_time: VenueClock = field(default=0, name="T")


class ForceOrder(Struct, gc=False):
    symbol: str = field(name="s")
    side: str = field(name="S")
    size: str = field(name="q")
    price: str = field(name="p")
    average: str = field(name="ap")
    time: VenueClock = field(name="T")


class ForceOrderMessage(Struct, gc=False):
    """A position that the venue closes."""

    order: ForceOrder = field(name="o")
    event_time: VenueClock = field(default=0, name="E")


class OpenInterest(Struct, gc=False):
    """The REST answer."""

    symbol: str
    size: str = field(name="openInterest")
    time: VenueClock


class RestTrade(Struct, gc=False):
    """A row of `trades` and `historicalTrades`."""

    trade_id: Id = field(name="id")
    price: str
    size: str = field(name="qty")
    time: VenueClock
    buyer_is_maker: bool = field(name="isBuyerMaker")
    kind: str = "MARKET"


class RestAggTrade(Struct, gc=False):
    trade_id: Id = field(name="a")
    price: str = field(name="p")
    size: str = field(name="q")
    time: VenueClock = field(name="T")
    buyer_is_maker: bool = field(name="m")
    kind: str = "MARKET"


AnyTrade = TradeMessage | AggTradeMessage | RestTrade | RestAggTrade


class SymbolInfo(Struct, gc=False):
    """A symbol of `exchangeInfo`."""

    symbol: str
    base: str = field(name="baseAsset")
    quote: str = field(name="quoteAsset")
    status: str = "TRADING"
    base_precision: int = field(default=8, name="baseAssetPrecision")
    quote_precision: int = field(default=8, name="quotePrecision")
    contract: str = field(default="", name="contractType")  # futures: PERPETUAL, CURRENT_QUARTER, …
    filters: list[dict[str, Any]] = []


class ExchangeInfo(Struct, gc=False):
    symbols: list[SymbolInfo]


class ServerTime(Struct, gc=False):
    time: VenueClock = field(name="serverTime")


class RestFailure(Struct, gc=False):
    code: int
    msg: str = ""


NO_RESULT: UnsetType = UNSET
