"""Coinbase's messages as msgspec structs: only the fields that are used, whatever else comes is tolerated.

Advanced Trade's messages are told apart by `channel`, the Exchange feed's by `type`. Numbers that the venue sends as
text stay text; those of REST candles are JSON numbers and are kept as they were written.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

Id = Annotated[int, Meta(ge=0, le=2**63 - 1)]


# ---- Advanced Trade -------------------------------------------------------------------------------


class Level(Struct, gc=False):
    side: str  # bid | offer
    price: str = field(name="price_level")
    size: str = field(name="new_quantity")


class BookEvent(Struct, gc=False):
    type: Literal["snapshot", "update"]
    product_id: str
    updates: msgspec.Raw  # an array of `Level`


class BookFrame(Struct, gc=False, tag_field="channel", tag="l2_data"):
    timestamp: str
    sequence_num: Id
    events: list[BookEvent]


class MarketTrade(Struct, gc=False):
    trade_id: str
    product_id: str
    price: str
    size: str
    side: str  # of the maker
    time: str


class TradesEvent(Struct, gc=False):
    trades: list[MarketTrade]


class TradesFrame(Struct, gc=False, tag_field="channel", tag="market_trades"):
    timestamp: str
    sequence_num: Id
    events: list[TradesEvent]


class LooseTradesEvent(Struct, gc=False):
    trades: list[msgspec.Raw]


class LooseTradesFrame(Struct, gc=False):
    """A message of trades of which one, or more, cannot be read."""

    events: list[LooseTradesEvent]


class Candle(Struct, gc=False):
    start: str  # s
    open: str
    high: str
    low: str
    close: str
    volume: str
    product_id: str


class CandlesEvent(Struct, gc=False):
    candles: list[Candle]
    type: str = "update"


class CandlesFrame(Struct, gc=False, tag_field="channel", tag="candles"):
    timestamp: str
    sequence_num: Id
    events: list[CandlesEvent]


AnyFrame = BookFrame | TradesFrame | CandlesFrame


class FrameHead(Struct, gc=False):
    """What any message of Advanced Trade may bear."""

    channel: str = ""
    timestamp: str = ""
    sequence_num: Id | None = None
    type: str = ""  # "error" has no channel


# ---- the Exchange feed ----------------------------------------------------------------------------


class Match(Struct, gc=False):
    trade_id: Id
    side: str  # of the maker
    size: str
    price: str
    product_id: str
    time: str


class MatchMessage(Match, gc=False, tag_field="type", tag="match"):
    pass


class LastMatchMessage(Match, gc=False, tag_field="type", tag="last_match"):
    """The trade before the first `match` of a subscription."""


class UpdateMessage(Struct, gc=False, tag_field="type", tag="l2update"):
    product_id: str
    changes: msgspec.Raw  # an array of [side (buy | sell), price, size], texts
    time: str


class SnapshotMessage(Struct, gc=False, tag_field="type", tag="snapshot"):
    product_id: str
    bids: msgspec.Raw  # arrays of [price, size], texts
    asks: msgspec.Raw
    time: str = ""  # bears one since 2022


class HeartbeatMessage(Struct, gc=False, tag_field="type", tag="heartbeat"):
    """Each second, of a product."""

    product_id: str
    last_trade_id: Id
    time: str


AnyMessage = MatchMessage | LastMatchMessage | UpdateMessage | SnapshotMessage | HeartbeatMessage


class MessageHead(Struct, gc=False):
    """What any message of the Exchange feed may bear."""

    type: str = ""
    product_id: str = ""
    time: str = ""


# ---- REST -----------------------------------------------------------------------------------------


class Product(Struct, gc=False):
    id: str
    base: str = field(name="base_currency")
    quote: str = field(name="quote_currency")
    base_increment: str = ""
    quote_increment: str = ""
    status: str = "online"


class ServerTime(Struct, gc=False):
    iso: str


class RestTrade(Struct, gc=False):
    trade_id: Id
    side: str  # of the maker
    size: str
    price: str
    time: str


class RestCandle(Struct, gc=False, array_like=True):
    start: Annotated[int, Meta(ge=0, le=2**33)]  # s
    low: msgspec.Raw
    high: msgspec.Raw
    open: msgspec.Raw
    close: msgspec.Raw
    volume: msgspec.Raw


class RestFailure(Struct, gc=False):
    message: Any
