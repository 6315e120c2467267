"""A recording as a market: files played in order as one, at the recorded pace, ten times it, or as fast as can be.

The market's time is its position in the recording. It stands still until the first client has subscribed, and, at
speed "max", whenever nobody listens: what was on its way is missed, as on a real exchange, but the rest waits. After
the end the connections stay open, and REST knows everything.

Everything is kept in memory: about 1 kB a message.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from marketd.daemon.feeds import binance_messages as messages
from marketd.daemon.feeds.captures import CaptureLine, CaptureUnreadable, in_order, read_captures
from marketd.daemon.feeds.emulator.book import RecordedBook
from marketd.daemon.feeds.emulator.pace import in_pace, speed_of
from marketd.daemon.feeds.emulator.source import (
    Bar,
    Crowd,
    Dealt,
    Message,
    Progress,
    Send,
    bars_of,
    canonical,
    text_of,
)
from marketd.daemon.feeds.precision import Rules
from marketd.daemon.feeds.recorded import Recorded, Recording
from marketd.market.fixed import parse_fixed


class _Numbered:
    """Trades of one symbol and stream: ids and positions rise together."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.at: list[int] = []
        self.trades: list[Any] = []

    def add(self, position: int, trade: Any) -> None:
        if self.ids and trade.trade_id <= self.ids[-1]:
            return  # a recording of two overlapping connections has some twice
        self.ids.append(trade.trade_id)
        self.at.append(position)
        self.trades.append(trade)

    def visible(self, position: int) -> int:
        return bisect_right(self.at, position - 1)

    def page(self, position: int, first_id: int | None, limit: int) -> list[Any]:
        end = self.visible(position)
        start = max(0, end - limit) if first_id is None else min(bisect_left(self.ids, first_id), end)
        return self.trades[start : min(start + limit, end)]


class _Symbol:
    def __init__(self) -> None:
        self.trades = _Numbered()
        self.agg_trades = _Numbered()
        self.klines: dict[str, list[tuple[int, messages.Kline]]] = {}
        self.book = RecordedBook()


class CaptureSource:
    """`venue`: whose lines of the files count; all of them where there is none."""

    def __init__(self, paths: Sequence[Path | str], venue: str = "", *, speed: str = "max") -> None:
        self._speed = speed_of(speed)
        self.realtime = self._speed is not None
        self._messages: list[Message] = []
        self._recv_ns: list[int] = []
        self._times_ms: list[int] = []  # the newest event time up to each message
        self._symbols: dict[str, _Symbol] = {}
        self.skipped: Counter[str] = Counter()  # lines that are no message of the exchange, by reason
        self.damage: list[str] = []
        self._position = 0
        self.rules: dict[str, Rules] = {}
        self._load(paths, venue)

    # ---- loading ------------------------------------------------------------------------------

    def _load(self, paths: Sequence[Path | str], venue: str) -> None:
        recording, readers = Recording(), read_captures([Path(path) for path in paths])
        for _, line in in_order(readers, venue):
            read = recording.read(line)
            if isinstance(read, Recorded):
                self._add_message(line, read)
            elif read is not None:
                self._entry(read.symbol).book.add_snapshot(read.snapshot)
                self.skipped["depth snapshot"] += 1
        for reader in readers:
            self.skipped.update(reader.skipped)
            if reader.damage:
                self.damage.append(reader.damage)
        self.skipped.update(recording.skipped)
        if not self._messages:
            raise CaptureUnreadable(f"{', '.join(map(str, paths))}: no message of Binance's streams is in there")
        self.rules = recording.rules
        for symbol in self.rules:
            self._entry(symbol)

    def _add_message(self, line: CaptureLine, read: Recorded) -> None:
        position, message = len(self._messages), read.message
        if read.name == "trade":
            self._entry(message.symbol).trades.add(position, message)
        elif read.name == "aggTrade":
            self._entry(message.symbol).agg_trades.add(position, message)
        elif read.name == "depth":
            self._entry(message.symbol).book.add_diff(position, message)
        elif read.name == "kline":
            klines = self._entry(message.symbol).klines
            klines.setdefault(message.kline.interval, []).append((position, message.kline))
        self._messages.append(Message(canonical(read.stream), read.frame))
        self._recv_ns.append(line.recv_ns)
        self._times_ms.append(max(message.event_time, self._times_ms[-1] if self._times_ms else 0))

    def _entry(self, symbol: str) -> _Symbol:
        entry = self._symbols.get(symbol)
        if entry is None:
            entry = self._symbols[symbol] = _Symbol()
        return entry

    @property
    def recorded_trades(self) -> str:
        """What a feed must ask for: "aggTrade" when there are only those."""
        kinds = [(entry.trades.ids, entry.agg_trades.ids) for entry in self._symbols.values()]
        return "aggTrade" if any(summed for _, summed in kinds) and not any(each for each, _ in kinds) else "trade"

    # ---- time ---------------------------------------------------------------------------------

    async def play(self, crowd: Crowd, send: Send) -> None:
        async for at in in_pace(self._recv_ns, self._speed, crowd):
            self._position = at + 1  # it has happened, whoever hears of it
            await send(self._messages[at])

    def now_ms(self) -> int:
        return self._times_ms[max(0, self._position - 1)] or self._recv_ns[0] // 1_000_000

    def progress(self) -> Progress:
        total = len(self._messages)
        return Progress(self._position, total, self.now_ms(), self._position >= total)

    # ---- answers ------------------------------------------------------------------------------

    def trades(self, symbol: str, first_id: int | None, limit: int) -> list[dict[str, Any]]:
        rules = self.rules[symbol]
        return [
            {
                "id": trade.trade_id,
                "price": trade.price,
                "qty": trade.size,
                "quoteQty": _quote_text(trade, rules),
                "time": trade.time,
                "isBuyerMaker": trade.buyer_is_maker,
                "isBestMatch": True,
            }
            for trade in self._symbols[symbol].trades.page(self._position, first_id, limit)
        ]

    def agg_trades(self, symbol: str, first_id: int | None, limit: int) -> list[dict[str, Any]]:
        return [
            {
                "a": trade.trade_id,
                "p": trade.price,
                "q": trade.size,
                "f": trade.first_id,
                "l": trade.last_id,
                "T": trade.time,
                "m": trade.buyer_is_maker,
                "M": True,
            }
            for trade in self._symbols[symbol].agg_trades.page(self._position, first_id, limit)
        ]

    def bars(self, symbol: str, interval: str, start_ms: int | None, end_ms: int | None, limit: int) -> list[list[Any]]:
        """The recorded klines; of an interval that was not recorded, bars made of the recorded trades."""
        entry = self._symbols[symbol]
        if interval in entry.klines:
            newest: dict[int, messages.Kline] = {}
            for at, kline in entry.klines[interval]:
                if at < self._position:
                    newest[kline.start] = kline
            rows = [_kline_row(newest[start]) for start in sorted(newest)]
        else:
            rows = [bar.row(interval, self.rules[symbol]) for bar in self._folded(symbol, interval)]
        low = -1 if start_ms is None else start_ms
        high = rows[-1][0] if rows and end_ms is None else (end_ms or 0)
        wanted = [row for row in rows if low <= row[0] <= high]
        return wanted[:limit] if start_ms is not None else wanted[-limit:]

    def _folded(self, symbol: str, interval: str) -> list[Bar]:
        entry, rules = self._symbols[symbol], self.rules[symbol]
        numbered = entry.trades if entry.trades.ids else entry.agg_trades
        trades = numbered.trades[: numbered.visible(self._position)]
        return bars_of(
            (
                Dealt(
                    trade.time,
                    parse_fixed(trade.price, rules.price_places),
                    parse_fixed(trade.size, rules.size_places),
                    trade.buyer_is_maker,
                )
                for trade in trades
            ),
            interval,
        )

    def open_interest(self, symbol: str) -> dict[str, Any] | None:
        return None  # asked for over REST, of which a recording has what it was asked, and not when

    def book(self, symbol: str, limit: int) -> dict[str, Any]:
        return self._symbols[symbol].book.answer(self._position, limit)


def _quote_text(trade: Any, rules: Rules) -> str:
    price = parse_fixed(trade.price, rules.price_places)
    size = parse_fixed(trade.size, rules.size_places)
    return text_of(price * size, rules.price_places + rules.size_places)


def _kline_row(kline: messages.Kline) -> list[Any]:
    return [
        kline.start,
        kline.open,
        kline.high,
        kline.low,
        kline.close,
        kline.volume,
        kline.end,
        kline.quote_volume,
        kline.trade_count,
        kline.buy_volume,
        kline.buy_quote_volume,
        "0",
    ]
