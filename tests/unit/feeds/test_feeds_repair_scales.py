"""A repair whose answer was read at scales that are no longer those of its instrument."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np

from marketd.daemon.feeds.adapter import Page, RestRequest
from marketd.daemon.feeds.repair import Repairs, RepairSettings
from marketd.daemon.feeds.symbol_state import Part, SymbolState
from marketd.daemon.feeds.tasks import Tasks
from marketd.ipc.protocol import Resume
from marketd.market.instruments import Instrument
from marketd.market.records import TRADE, Records
from support import eventually_async

COARSE = Instrument(id=1, symbol="BTCUSDT", venue="BINANCE", price_scale=1, size_scale=5, quote_scale=6)
FINE = Instrument(id=2, symbol="BTCUSDT", venue="BINANCE", price_scale=2, size_scale=5, quote_scale=7)


def trades(price: int) -> Records:
    records = np.zeros(3, dtype=TRADE)
    records["trade_id"], records["ts_event"], records["price"] = [11, 12, 13], [1, 2, 3], price
    return records


async def test_trades_that_were_read_at_other_scales_are_not_handed_on_but_asked_for_again() -> None:
    order, parts, read = asyncio.Lock(), list[Part](), list[int]()
    state = SymbolState(COARSE, Resume(last_trade_id=10, last_trade_ts=0), ())
    state.is_heard = True

    def decode(symbol: str, body: bytes) -> Page:
        read.append(10**state.instrument.price_scale)
        return Page(trades(read[-1]), [], 3, at_present=True)

    async def get(request: RestRequest, deadline: float) -> bytes:
        return b""

    async def hand_over(state: SymbolState, told: list[Part]) -> None:
        parts.extend(told)

    async def reject(rejected: Any) -> None:
        assert not rejected

    adapter: Any = SimpleNamespace(trades_request=lambda *_: RestRequest("/", 1), decode_trades=decode)
    rest: Any = SimpleNamespace(get=get)
    async with Tasks() as tasks:
        repairs = Repairs(
            adapter, rest, RepairSettings(), order=order, hand_over=hand_over, reject=reject, spawn=tasks.spawn
        )
        async with order:
            repairs.look(state)
            await eventually_async(lambda: bool(read))
            assert state.change(FINE)
        await eventually_async(lambda: state.trades.sequence.missing is None)
        tasks.cancel()
    (told,) = [records for kind, records in parts if kind == "trade"]
    assert told["price"].tolist() == [100, 100, 100]
    assert read == [10, 100]
