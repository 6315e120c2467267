"""What a market is to the emulator's server. Nothing here or in the sources knows of sockets."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple, Protocol

from marketd.daemon.feeds.binance_records import INTERVALS
from marketd.daemon.feeds.precision import Rules
from marketd.market.fixed import format_fixed

TEXT_PLACES = 8  # Binance writes prices and sizes with 8 places, whatever the tick


_SPEED = re.compile(r"@(depth|markPrice)@\d+m?s$")


def canonical(stream: str) -> str:
    """A stream's name without its speed: a recording has the one that it has, whatever a client asks for."""
    return _SPEED.sub(r"@\1", stream)


class Message(NamedTuple):
    """One message of one stream (its canonical name): the frame of a combined connection."""

    stream: str
    frame: bytes


class Dealt(NamedTuple):
    """A trade in fixed point at its symbol's places, for bars."""

    time_ms: int
    price: int
    size: int
    buyer_is_maker: bool


class Progress(NamedTuple):
    position: int  # messages that have happened
    total: int | None  # None: without end
    now_ms: int  # the market's time
    ended: bool


class Crowd(Protocol):
    """Who listens."""

    @property
    def present(self) -> bool:
        """Whether a client has subscribed to anything."""

    async def someone(self) -> None:
        """Return once `present`."""

    def wants(self, stream: str) -> bool: ...


Send = Callable[[Message], Awaitable[None]]


class Source(Protocol):
    """A market. Its answers know only what has happened up to its present."""

    rules: dict[str, Rules]
    realtime: bool  # its time goes on by itself: a client that does not keep up is cut off

    async def play(self, crowd: Crowd, send: Send) -> None:
        """Send what happens as it happens; returns when there is no more."""

    def now_ms(self) -> int: ...

    def trades(self, symbol: str, first_id: int | None, limit: int) -> list[dict[str, Any]]: ...

    def agg_trades(self, symbol: str, first_id: int | None, limit: int) -> list[dict[str, Any]]: ...

    def bars(
        self, symbol: str, interval: str, start_ms: int | None, end_ms: int | None, limit: int
    ) -> list[list[Any]]: ...

    def book(self, symbol: str, limit: int) -> dict[str, Any]: ...

    def open_interest(self, symbol: str) -> dict[str, Any] | None:
        """None where the market does not know it."""

    def progress(self) -> Progress: ...


def text_of(value: int, places: int) -> str:
    """A fixed-point number as the venue writes it."""
    text = format_fixed(value, places)
    short = TEXT_PLACES - places
    return text + ("" if places else ".") + "0" * short if short > 0 else text


class Bar:
    """A bar that is being made."""

    __slots__ = ("buy_quote", "buy_size", "close", "count", "high", "low", "open", "quote", "size", "start_ms")

    def __init__(self, start_ms: int, price: int) -> None:
        self.start_ms = start_ms
        self.open = self.high = self.low = self.close = price
        self.size = self.quote = self.buy_size = self.buy_quote = self.count = 0

    def add(self, trade: Dealt) -> None:
        self.high = max(self.high, trade.price)
        self.low = min(self.low, trade.price)
        self.close = trade.price
        self.size += trade.size
        self.quote += trade.price * trade.size
        if not trade.buyer_is_maker:
            self.buy_size += trade.size
            self.buy_quote += trade.price * trade.size
        self.count += 1

    def merge(self, later: Bar) -> None:
        """Take in a bar that follows."""
        self.high = max(self.high, later.high)
        self.low = min(self.low, later.low)
        self.close = later.close
        self.size += later.size
        self.quote += later.quote
        self.buy_size += later.buy_size
        self.buy_quote += later.buy_quote
        self.count += later.count

    def row(self, interval: str, rules: Rules) -> list[Any]:
        """As `klines` writes it."""
        price, size, both = rules.price_places, rules.size_places, rules.price_places + rules.size_places
        return [
            self.start_ms,
            *(text_of(value, price) for value in (self.open, self.high, self.low, self.close)),
            text_of(self.size, size),
            self.start_ms + INTERVALS[interval] * 1000 - 1,
            text_of(self.quote, both),
            self.count,
            text_of(self.buy_size, size),
            text_of(self.buy_quote, both),
            "0",
        ]


def bars_of(trades: Iterable[Dealt], interval: str) -> list[Bar]:
    """Bars of trades that are in order of time; intervals without trades have none."""
    step = INTERVALS[interval] * 1000
    bars: list[Bar] = []
    for trade in trades:
        start = trade.time_ms - trade.time_ms % step
        if not bars or bars[-1].start_ms != start:
            bars.append(Bar(start, trade.price))
        bars[-1].add(trade)
    return bars
