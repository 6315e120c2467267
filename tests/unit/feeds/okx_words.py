"""Two instruments of OKX, an adapter that has them, and its messages as the venue documents them."""

from __future__ import annotations

import json
from typing import Any

from marketd.daemon.feeds.adapter import (
    Event,
    VenueTime,
)
from marketd.daemon.feeds.okx import OkxAdapter
from marketd.market.instruments import Instrument

SPOT = Instrument(
    id=1, symbol="BTCUSDT", venue="OKX", price_scale=1, size_scale=8, quote_scale=8, base="BTC", quote="USDT"
)
SWAP = Instrument(
    id=2,
    symbol="BTCUSDTSWAP",
    venue="OKX",
    price_scale=1,
    size_scale=2,
    quote_scale=3,
    base="BTC",
    quote="USDT",
    market="swap",
)
MS = 1_630_048_897_897
ALL_SERIES = ("funding", "mark_price", "open_interest", "liquidation")


def adapter(**options: Any) -> OkxAdapter:
    made = OkxAdapter(**options)
    made.adopt(SPOT)
    made.adopt(SWAP)
    return made


def encode(message: Any) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def channel(name: str, data: Any, inst_id: str = "BTC-USDT", **more: Any) -> bytes:
    return encode({"arg": {"channel": name, "instId": inst_id}, **more, "data": data})


def trade_row(**changes: Any) -> dict[str, Any]:
    row = {"instId": "BTC-USDT", "tradeId": "130639474", "px": "42219.9", "sz": "0.12060306", "side": "buy"}
    return {**row, "ts": str(MS), "count": "3", "source": "0", "seqId": 1234, **changes}


def book(action: str, previous: int, number: int, bids: Any = (), asks: Any = (), checksum: int = 0) -> bytes:
    row = {"asks": list(asks), "bids": list(bids), "ts": str(MS), "checksum": checksum}
    return channel("books", [{**row, "prevSeqId": previous, "seqId": number}], action=action)


def level(price: str, size: str) -> list[str]:
    return [price, size, "0", "1"]


def said(adapter: OkxAdapter, *frames: bytes) -> list[Event]:
    return [event for event in adapter.decode_many(frames) if type(event) is not VenueTime]


def only(adapter: OkxAdapter, message: bytes) -> Any:
    [event] = said(adapter, message)
    return event
