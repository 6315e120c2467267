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
    filters: list[dict[str, Any]] = []


class ExchangeInfo(Struct, gc=False):
    symbols: list[SymbolInfo]


class ServerTime(Struct, gc=False):
    time: VenueClock = field(name="serverTime")


class RestFailure(Struct, gc=False):
    code: int
    msg: str = ""


NO_RESULT: UnsetType = UNSET
