"""A sink that keeps what a feed hands over, and answers a later `declare` as ingest would."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import numpy as np

from marketd.daemon.feeds.connection import Timing
from marketd.daemon.feeds.emulator import Emulator, Source
from marketd.daemon.feeds.emulator.base import EmulatorBase
from marketd.daemon.feeds.feed import Feed, FeedSettings, Part
from marketd.daemon.feeds.repair import RepairSettings
from marketd.daemon.feeds.venues import venue_of
from marketd.daemon.observed_streams import ObservedStreams
from marketd.ipc.protocol import Resume
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME, Records

QUICK = Timing(backoff_first_seconds=0.01, backoff_cap_seconds=0.05)


class RecordingSink:
    def __init__(self) -> None:
        self.parts: dict[str, list[Part]] = defaultdict(list)
        self.instruments: dict[str, Instrument] = {}
        self.declared = self.ids_given = 0
        self.most_at_once = 0
        self._inside = 0

    async def declare(self, instruments: list[Instrument]) -> list[tuple[Instrument, Resume]]:
        self.declared += 1
        answer = []
        for wanted in instruments:
            known = self.instruments.get(wanted.symbol)
            if known is None or known.price_scale < wanted.price_scale:  # a finer grid is a new instrument
                self.ids_given += 1
                known = self.instruments[wanted.symbol] = msgspec.structs.replace(wanted, id=self.ids_given)
            answer.append((known, self.resume(wanted.symbol)))
        return answer

    async def recall(self, names: list[str]) -> list[tuple[Instrument, Resume]]:
        known = [instrument for instrument in self.instruments.values() if instrument.name in names]
        return [(instrument, self.resume(instrument.symbol)) for instrument in known]

    def resume(self, symbol: str) -> Resume:
        trades, candles = self.records(symbol, "trade"), self.records(symbol, "candle")
        bars = {int(t): int(candles["ts"][candles["timeframe"] == t].max()) for t in np.unique(candles["timeframe"])}
        streams = ObservedStreams()
        streams.follow(self.records(symbol, "coverage"))
        ledger: dict[str, Any] = {"observed": streams.begun, "ended": list(streams.ended), "down": streams.down}
        if not len(trades):
            return Resume(venue_bars=bars, **ledger)
        newest = trades[trades["trade_id"].argmax()]
        return Resume(
            last_trade_id=int(newest["trade_id"]),
            last_trade_ts=int(newest["ts_event"]),
            venue_bars=bars,
            heard_ts=int(max(trades["ts_event"].max(), *self.records(symbol, "tick")["ts_event"], 0)),
            **ledger,
        )

    async def send(self, instrument: Instrument, parts: list[Part], observed: bool = True) -> None:
        self._inside += 1
        self.most_at_once = max(self.most_at_once, self._inside)
        await asyncio.sleep(0)
        assert observed
        self.parts[instrument.symbol] += [(kind, records.copy()) for kind, records in parts]
        self._inside -= 1

    def records(self, symbol: str, kind: str) -> Records:
        found = [records for name, records in self.parts[symbol] if name == kind]
        return np.concatenate(found) if found else np.zeros(0, dtype=BY_NAME[kind].dtype)

    def ids(self, symbol: str) -> list[int]:
        ids: list[int] = self.records(symbol, "trade")["trade_id"].tolist()
        return ids

    def states(self, symbol: str) -> list[int]:
        """Of the ledger's events about trades and bars."""
        events = self.records(symbol, "coverage")
        states: list[int] = events["state"][events["stream"] != BY_NAME["book"].id].tolist()
        return states

    def book_events(self, symbol: str) -> Records:
        """The ledger's events about the book."""
        events = self.records(symbol, "coverage")
        found: Records = events[events["stream"] == BY_NAME["book"].id]
        return found


def feed_of(
    emulator: EmulatorBase, sink: Any, symbols: Sequence[str], *, venue: str = "BINANCE", **options: Any
) -> Feed:
    settings = FeedSettings(
        ws_url=emulator.ws_url, rest_url=emulator.rest_url, timing=QUICK, weight_per_minute=10_000_000
    )
    more = {name: options.pop(name) for name in list(options) if name in FeedSettings._fields}
    return Feed(venue_of(venue, emulator.ws_url), symbols, sink, settings._replace(**more), **options)


@contextlib.asynccontextmanager
async def emulated(source: Source, venue: str = "BINANCE", api_key: str = "") -> AsyncIterator[Emulator]:
    emulator = Emulator(source, venue=venue, api_key=api_key)
    await emulator.start()
    try:
        yield emulator
    finally:
        await emulator.stop()


@contextlib.asynccontextmanager
async def running(feed: Feed) -> AsyncIterator[Feed]:
    """The feed's `run` beside the test; its failure is the test's."""
    task = asyncio.create_task(feed.run())
    try:
        yield feed
    finally:
        await feed.stop()
        await task


IMPATIENT = RepairSettings(hold_seconds=0.2, patience_seconds=0.02)
