"""cryptofeed's side of `bench_feeds`: `python contestant_cryptofeed.py TRAFFIC`, with the Python that has cryptofeed.

Each line on stdin is a round: all frames of the traffic through `message_handler` of its exchange's class, with the
books that it keeps, and callbacks that do nothing, which are its default. Nothing of marketd is needed here; what is
printed a round is `duel.Round`.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import sys
import time
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

from cryptofeed.defines import CANDLES, L2_BOOK, TRADES
from cryptofeed.symbols import Symbols

BEST = 10  # levels a side that are shown
MODULES = {
    "Binance": "binance",
    "BinanceFutures": "binance_futures",
    "BinanceDelivery": "binance_delivery",
    "Bitstamp": "bitstamp",
    "Bybit": "bybit",
    "Coinbase": "coinbase",
    "Kraken": "kraken",
    "OKX": "okx",
}


class Warnings(logging.Handler):
    """Counts what cryptofeed warns of: messages that it does not know, or a book that it lost."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1
        if self.count == 1:
            print(self.format(record)[:300], file=sys.stderr)


class Rest:
    """Answers with the recorded snapshots."""

    def __init__(self, books: dict[str, str]) -> None:
        self._books = books

    async def read(self, url: str, **options: Any) -> str:
        return next(body for wire, body in self._books.items() if wire.lower() in url.lower())


class Connection:
    uuid = "benchmark"

    def __init__(self, feed: Any, address: str) -> None:
        self.subscription = feed.subscription
        self.address = address

    async def write(self, text: str) -> None:
        pass


class Counted:
    """A callback that counts; in the first round only, since it costs."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self, told: Any, receipt: float) -> None:
        self.count += 1


def feed_of(traffic: dict[str, Any], callbacks: dict[str, Any]) -> Any:
    """The exchange's class as its user makes it, without asking the exchange for its symbols."""
    module = importlib.import_module(f"cryptofeed.exchanges.{MODULES[traffic['exchange']]}")
    if hasattr(module, "asyncio"):  # Bitstamp's waits five seconds before it asks for snapshots

        async def at_once(seconds: float) -> None:
            pass

        setattr(module, "asyncio", SimpleNamespace(sleep=at_once))  # noqa: B010 - mypy knows no such name
    made = getattr(module, traffic["exchange"])
    names = {wire.replace("/", "-") + "-X": wire for wire in traffic["symbols"]}
    Symbols.set(made.id, names, {"instrument_type": dict.fromkeys(names, "spot")})
    channels = [L2_BOOK, TRADES, *([CANDLES] if traffic["candles"] else [])]
    made.symbol_mapping = classmethod(lambda cls, **options: names)
    feed = made(symbols=list(names), channels=channels, callbacks=callbacks)
    feed.http_conn = Rest(traffic["books"])
    return feed


async def play(traffic: dict[str, Any], callbacks: dict[str, Any]) -> tuple[Any, float, float]:
    feed = feed_of(traffic, callbacks)
    connection = Connection(feed, traffic["url"])
    handler, frames = feed.message_handler, traffic["frames"]
    wall, cpu = time.perf_counter(), time.process_time()
    if traffic["exchange"] == "Bitstamp":  # asks for its snapshots when it subscribes; others write there only
        await feed.subscribe(connection)
    for frame in frames:
        await handler(frame, connection, time.time())
    return feed, time.process_time() - cpu, time.perf_counter() - wall


def shown(feed: Any) -> dict[str, list[list[int]]]:
    found = {}
    for name, book in feed._l2_book.items():
        sides = []
        for side in (book.book.bids, book.book.asks):
            levels = [side.index(index) for index in range(min(BEST, len(side)))]
            sides += [[int(Decimal(level[0]).scaleb(18)) for level in levels]]
            sides += [[int(Decimal(level[1]).scaleb(18)) for level in levels]]
        found[feed.std_symbol_to_exchange_symbol(name)] = sides
    return found


def main() -> None:
    with open(sys.argv[1]) as file:
        traffic = json.load(file)
    warnings = Warnings()
    logging.getLogger("feedhandler").addHandler(warnings)
    trades, candles = Counted(), Counted()
    counting = {TRADES: trades, CANDLES: candles}
    for _ in sys.stdin:
        warnings.count = 0
        feed, cpu, wall = asyncio.run(play(traffic, counting))
        counting = {}
        told: dict[str, Any] = {"messages": len(traffic["frames"]), "cpu_seconds": cpu, "wall_seconds": wall}
        told |= {"trades": trades.count, "candles": candles.count, "faults": warnings.count, "books": shown(feed)}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
