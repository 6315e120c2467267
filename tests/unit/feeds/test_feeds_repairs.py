"""Repairs of a stream of trades: what is handed on, and what the ledger is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from marketd.daemon.feeds.adapter import Page, RestRequest
from marketd.daemon.feeds.repair import Repairs, RepairSettings
from marketd.daemon.feeds.symbol_state import Part, SymbolState
from marketd.daemon.feeds.tasks import Tasks
from marketd.ipc.protocol import Resume
from marketd.market.instruments import Instrument
from marketd.market.records import TRADE, Coverage, Records
from support import eventually_async

COARSE = Instrument(id=1, symbol="BTCUSDT", venue="BINANCE", price_scale=1, size_scale=5, quote_scale=6)
FINE = Instrument(id=2, symbol="BTCUSDT", venue="BINANCE", price_scale=2, size_scale=5, quote_scale=7)


def trades(price: int) -> Records:
    records = np.zeros(3, dtype=TRADE)
    records["trade_id"], records["ts_event"], records["price"] = [11, 12, 13], [1, 2, 3], price
    return records


class Desk:
    """Repairs of one state, whose pages `decode` makes; `parts` is what they hand over."""

    def __init__(self, state: SymbolState, decode: Callable[[str, bytes], Page]) -> None:
        self.state, self.order, self.parts = state, asyncio.Lock(), list[Part]()
        state.is_heard = True
        self._adapter: Any = SimpleNamespace(trades_request=lambda *_: RestRequest("/", 1), decode_trades=decode)

    def repairs(self, tasks: Tasks) -> Repairs:
        async def get(request: RestRequest, deadline: float) -> bytes:
            return b""

        async def hand_over(state: SymbolState, told: list[Part]) -> None:
            self.parts.extend(told)

        async def reject(rejected: Any) -> None:
            assert not rejected

        rest: Any = SimpleNamespace(get=get)
        return Repairs(
            self._adapter,
            rest,
            RepairSettings(),
            order=self.order,
            hand_over=hand_over,
            reject=reject,
            spawn=tasks.spawn,
        )

    async def until_whole(self) -> None:
        track = self.state.trades
        await eventually_async(lambda: track.sequence.missing is None and not track.is_repaired)

    def told(self, kind: str) -> Records:
        found: Records = np.concatenate([records for name, records in self.parts if name == kind])
        return found


async def test_trades_that_were_read_at_other_scales_are_not_handed_on_but_asked_for_again() -> None:
    read = list[int]()
    state = SymbolState(COARSE, Resume(last_trade_id=10, last_trade_ts=0), ())

    def decode(symbol: str, body: bytes) -> Page:
        read.append(10**state.instrument.price_scale)
        return Page(trades(read[-1]), [], 3, at_present=True)

    desk = Desk(state, decode)
    async with Tasks() as tasks:
        repairs = desk.repairs(tasks)
        async with desk.order:
            repairs.look(state)
            await eventually_async(lambda: bool(read))
            assert state.change(FINE)
        await desk.until_whole()
        tasks.cancel()
    assert desk.told("trade")["price"].tolist() == [100, 100, 100]
    assert read == [10, 100]


@pytest.mark.parametrize(("last_ts", "since"), [(None, 1), (0, 0)], ids=["never heard", "heard before"])
async def test_what_is_fetched_begins_where_the_stream_was_heard_last_and_else_with_its_first_record(
    last_ts: int | None, since: int
) -> None:
    """Whatever else the venue has told of its time: of that moment a trade may be missing."""
    state = SymbolState(COARSE, Resume(last_trade_id=10, last_trade_ts=last_ts), ())
    state.newest_ns = 0
    desk = Desk(state, lambda symbol, body: Page(trades(10), [], 3, at_present=True))
    async with Tasks() as tasks:
        desk.repairs(tasks).look(state)
        await desk.until_whole()
        tasks.cancel()
    event = desk.told("coverage")[0]
    assert (event["state"], event["ts_start"], event["ts_end"]) == (Coverage.BACKFILLED, since, 3)
