"""What the messages of one `decode_many` said: collected by the adapters, given back as events grouped by symbol."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from marketd.daemon.feeds import series as declared
from marketd.daemon.feeds.adapter import (
    BookDelta,
    BookSnapshot,
    Candles,
    Event,
    Ignored,
    MessagesLost,
    Series,
    Subscribed,
    Trades,
    VenueClosing,
    VenueError,
    VenueTime,
    clip_name,
)
from marketd.daemon.feeds.asked import words_of
from marketd.daemon.feeds.venue_records import candle_records, rejected, trade_records

MAX_ERROR_BYTES = 500  # of a venue's own message


class Batch:
    """Rows and events in the order in which they came; nothing is checked here."""

    __slots__ = ("bars", "books", "ignored", "others", "series", "times", "trades")

    def __init__(self) -> None:
        self.trades: dict[str, list[bytes]] = {}  # symbol -> rows of `trade_row`
        self.bars: dict[str, list[bytes]] = {}  # symbol -> rows of `candle_row`
        self.books: list[BookSnapshot | BookDelta | MessagesLost] = []
        self.series: dict[tuple[str, str], list[tuple[int, Sequence[declared.Value]]]] = {}  # (symbol, stream) -> rows
        self.others: list[Event] = []
        self.ignored: defaultdict[str, int] = defaultdict(int)
        self.times: dict[str, int] = {}  # symbol -> newest time, ns

    def trade(self, symbol: str, row: bytes) -> None:
        rows = self.trades.get(symbol)
        if rows is None:
            rows = self.trades[symbol] = []
        rows.append(row)

    def take_trades(self, found: tuple[str, int, bytes, int]) -> None:
        """What `forms.trades` read."""
        symbol, ts_ns, rows, _ = found
        held = self.trades.get(symbol)
        if held is None:
            held = self.trades[symbol] = []
        held.append(rows)
        if ts_ns > self.times.get(symbol, 0):
            self.times[symbol] = ts_ns

    def bar(self, symbol: str, row: bytes) -> None:
        self.bars.setdefault(symbol, []).append(row)

    def tell(self, symbol: str, stream: str, ts_ns: int, *values: declared.Value) -> None:
        """A row of a declared series, its fields in the order of `series.STREAMS`."""
        self.series.setdefault((symbol, stream), []).append((ts_ns, values))

    def lost(self, words: str) -> None:
        """Messages of the connection, before this one."""
        self.books.append(MessagesLost(words))

    def see(self, symbol: str, ts_ns: int) -> None:
        """A time of the venue; "" is the venue as a whole."""
        if ts_ns > self.times.get(symbol, 0):
            self.times[symbol] = ts_ns

    def ignore(self, name: str) -> None:
        self.ignored[name] += 1

    def ignore_unknown(self, name: object) -> None:
        """By a name that comes from the venue."""
        self.ignored[clip_name(name)] += 1

    def error(self, frame: bytes, streams: tuple[str, ...] = ()) -> None:
        """The venue's own words, as they came; of the streams that it refused to deliver."""
        text = frame[:MAX_ERROR_BYTES].decode("utf-8", "replace")
        self.others.append(VenueError(text, words_of(frame), streams))

    def subscribed(self, streams: tuple[str, ...]) -> None:
        if streams:
            self.others.append(Subscribed(streams))

    def closing(self, frame: bytes) -> None:
        self.others.append(VenueClosing(frame[:MAX_ERROR_BYTES].decode("utf-8", "replace")))

    def reject(
        self,
        symbol: str | None,
        rule: str,
        detail: object,
        payload: bytes,
        trade_id: int | None = None,
        *,
        book: bool = False,
    ) -> None:
        self.others.append(rejected(symbol, rule, detail, payload, trade_id)._replace(book=book))

    def events(self) -> list[Event]:
        events: list[Event] = []
        for symbol, rows in self.trades.items():
            events.append(Trades(symbol, trade_records(rows)))
        for symbol, rows in self.bars.items():
            events.append(Candles(symbol, candle_records(rows)))
        events += self.books
        for (symbol, stream), values in self.series.items():
            events.append(Series(symbol, stream, declared.rows(stream, values)))
        events += self.others
        for name, number in self.ignored.items():
            events.append(Ignored(name, number))
        for symbol, ts_ns in self.times.items():
            events.append(VenueTime(symbol, ts_ns))
        return events
