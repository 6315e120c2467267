"""What both versions of Kraken's WebSocket share: streams and how they are asked for, and books that bear checksums.

A stream is named `channel:pair`, as `trade:BTC/USD`, `ohlc-1:BTC/USD`; a command asks for one channel of many pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from marketd.daemon.feeds.kraken_books import Checksums, Places, places_of, quick_checksum
from marketd.daemon.feeds.kraken_rest import DEPTH, KrakenRest
from marketd.daemon.feeds.venue_books import UNNUMBERED, ChainedBooks
from marketd.daemon.feeds.venue_records import OpenBars, chunks
from marketd.market.book import OrderBook
from marketd.market.instruments import Instrument

COMMAND_PAIRS = 100  # in one subscription; the venue names no limit
PING_SECONDS = 30.0


class KrakenSocket(KrakenRest):
    number_field: ClassVar[str]  # of a command
    book_channel: ClassVar[str]
    words: ClassVar[Mapping[str, str]] = {}  # what everybody calls a coin -> what the venue does

    def __init__(
        self,
        *,
        trades: str = "trade",
        candles: Sequence[str | int] = ("1m",),
        book: bool = False,
        series: Sequence[str] = (),
    ) -> None:
        super().__init__(trades, candles, words=self.words, book=book, series=series)
        self.book_rule = UNNUMBERED._replace(checksum=self._checksum, depth=DEPTH, exact=True) if book else None
        self._books = ChainedBooks()
        self._checksums = Checksums()
        self._places: dict[str, Places] = {}  # as the last snapshot was written
        self._bars = OpenBars()

    def _checksum(self, book: OrderBook, instrument: Instrument) -> int:
        places = self._places.get(instrument.symbol) or places_of(instrument)
        checksum = quick_checksum(book, instrument, places)
        return self._checksums.of(book, instrument, places) if checksum is None else checksum

    def forget(self, symbol: str) -> None:
        super().forget(symbol)
        self._places.pop(symbol, None)

    def streams(self, symbol: str) -> list[str]:
        pair = self._names.pair(symbol)
        bars = [f"ohlc-{timeframe // 60}:{pair}" for timeframe in self.timeframes]
        return [f"trade:{pair}", *self.book_streams(symbol), *bars]

    def book_streams(self, symbol: str) -> list[str]:
        return [f"{self.book_channel}:{self._names.pair(symbol)}"] if self.book_rule else []

    def connect_url(self, base: str, streams: Sequence[str]) -> tuple[str, list[str]]:
        return base, list(streams)

    def commands(self, verb: str, streams: Sequence[str], first_id: int) -> list[str]:
        channels: dict[str, list[str]] = {}
        for stream in streams:
            channel, _, pair = stream.partition(":")
            channels.setdefault(channel, []).append(pair)
        asked = [(channel, chunk) for channel, pairs in channels.items() for chunk in chunks(pairs, COMMAND_PAIRS)]
        commands = []
        for number, (channel, pairs) in enumerate(asked, first_id):
            self._requests.note(verb, number, [f"{channel}:{pair}" for pair in pairs])
            command = self._command(verb, channel, pairs) | {self.number_field: number}
            commands.append(msgspec.json.encode(command).decode())
        return commands

    def _command(self, verb: str, channel: str, pairs: Sequence[str]) -> dict[str, Any]:
        """What asks for a channel of pairs, or asks for it no more; without its number."""
        raise NotImplementedError
