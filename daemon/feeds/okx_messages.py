"""OKX's v5 messages as msgspec structs: only the fields that are used, whatever else comes is tolerated.

Nearly every number comes as text: times and ids are taken as integers (`strict=False`), prices and sizes stay text.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

# Beyond these a number would not fit into 64 bits as an id or as nanoseconds.
Id = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Previous = Annotated[int, Meta(ge=-1, le=2**63 - 1)]
Millis = Annotated[int, Meta(ge=0, le=(2**63 - 1) // 10**6)]

_NOTHING = msgspec.Raw(b"")


class Arg(Struct, gc=False):
    """What was subscribed."""

    channel: str = ""
    inst_id: str = field(name="instId", default="")


class Envelope(Struct, gc=False):
    """Any message: a channel's (`arg`, `data`), or an event of the connection."""

    event: Any = None
    id: Any = None  # of the command that it answers
    arg: Arg | None = None
    action: str = ""  # of a book: snapshot or update
    data: msgspec.Raw = _NOTHING


class Trade(Struct, gc=False):
    """A row of `trades-all` and `trades`; `side` is the taker's."""

    inst_id: str = field(name="instId")
    trade_id: Id = field(name="tradeId")
    price: str = field(name="px")
    size: str = field(name="sz")
    side: str
    time: Millis = field(name="ts")


class TradeNumber(Struct, gc=False):
    """Of a trade that cannot be read otherwise."""

    trade_id: Id = field(name="tradeId")


class Book(Struct, gc=False):
    """A row of `books`: "0" removes a level. In a snapshot `previous` is -1; before 2023 there were no numbers.

    Levels are texts: price, size, a field out of use, number of orders; read by `levels.LevelReader`.
    """

    bids: msgspec.Raw
    asks: msgspec.Raw
    time: Millis = field(name="ts")
    sequence: Id | None = field(name="seqId", default=None)
    previous: Previous | None = field(name="prevSeqId", default=None)
    checksum: int = 0


class MarkPrice(Struct, gc=False):
    inst_id: str = field(name="instId")
    price: str = field(name="markPx")
    time: Millis = field(name="ts")


class FundingRate(Struct, gc=False):
    inst_id: str = field(name="instId")
    rate: str = field(name="fundingRate")
    settled: Millis = field(name="fundingTime")  # when this rate is
    time: Millis = field(name="ts")


class OpenInterest(Struct, gc=False):
    inst_id: str = field(name="instId")
    contracts: str = field(name="oi")
    time: Millis = field(name="ts")


class LiquidationDetail(Struct, gc=False):
    side: str  # of the order that closes the position
    price: str = field(name="bkPx")
    size: str = field(name="sz")
    time: Millis = field(name="ts")


class Liquidation(Struct, gc=False):
    inst_id: str = field(name="instId")
    details: list[LiquidationDetail]


# ---- REST -------------------------------------------------------------------------------------------


class Answer(Struct, gc=False):
    code: int
    text: str = field(name="msg", default="")
    data: list[msgspec.Raw] = []


class ServerTime(Struct, gc=False):
    time: Millis = field(name="ts")


class InstrumentInfo(Struct, gc=False):
    """A row of `public/instruments`; `underlying` ("BTC-USD") is told of derivatives only."""

    inst_id: str = field(name="instId")
    kind: str = field(name="instType")
    base: str = field(name="baseCcy", default="")
    quote: str = field(name="quoteCcy", default="")
    underlying: str = field(name="uly", default="")
    tick: str = field(name="tickSz", default="")
    step: str = field(name="lotSz", default="")
