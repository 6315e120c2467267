"""What the fold promises, written down as naively as can be: every bar from all of its trades, at every step."""

from __future__ import annotations

from collections.abc import Iterator

SECOND = 1_000_000_000
PARTIAL, REVISED, NOT_MARKET = 1, 4, 8
Trade = tuple[int, int, int, int, int]  # ts_event, price, size, side, flags
Bar = tuple[int, ...]  # timeframe, ts, open, high, low, close, volume, quote, buy, count, flags


class Oracle:
    def __init__(self, timeframes, grace_ns, divisor, since_ns=None):
        self.timeframes, self.grace_ns, self.divisor = timeframes, grace_ns, divisor
        self.since_ns = since_ns
        self.trades: list[Trade] = []  # in the order of arrival
        self.newest: int | None = None
        self.given: set[tuple[int, int]] = set()  # closed bars of which a version came out

    def bar(self, timeframe: int, ts: int, revised: bool) -> Bar:
        inside = [t for t in self.trades if ts <= t[0] < ts + timeframe * SECOND and not t[4] & NOT_MARKET]
        in_order = sorted(inside, key=lambda t: t[0])  # sorted() is stable
        prices = [t[1] for t in in_order]
        partial = self.since_ns is None or ts < self.since_ns
        volume = sum(t[2] for t in inside)
        quote = sum(t[1] * t[2] // self.divisor for t in inside)
        bought = sum(t[2] for t in inside if t[3] == 1)
        flags = PARTIAL * partial + REVISED * revised
        ohlc = (prices[0], max(prices), min(prices), prices[-1])
        return (timeframe, ts, *ohlc, volume, quote, bought, len(inside), flags)

    def starts(self, trades: list[Trade]) -> Iterator[tuple[int, int]]:
        market = [t for t in trades if not t[4] & NOT_MARKET]
        return iter({(f, t[0] - t[0] % (f * SECOND)) for f in self.timeframes for t in market})

    def is_closed(self, timeframe: int, ts: int) -> bool:
        return self.newest is not None and self.newest >= ts + timeframe * SECOND + self.grace_ns

    def feed(self, batch: list[Trade], tick: int | None = None) -> list[Bar]:
        """The bars that close, are revised or come late with this batch (or tick), by end and timeframe."""
        late = {key for key in self.starts(batch) if self.is_closed(*key)}
        self.trades += batch
        self.newest = max([t[0] for t in batch] + [x for x in (tick, self.newest) if x is not None])
        due = {key for key in self.starts(self.trades) if self.is_closed(*key) and key not in self.given}
        out = sorted(late | due, key=lambda key: (key[1] + key[0] * SECOND, key[0]))
        bars = [self.bar(*key, revised=key in self.given) for key in out]
        self.given |= late | due
        return bars

    def forming(self) -> list[Bar]:
        keys = sorted(key for key in self.starts(self.trades) if not self.is_closed(*key))
        return [self.bar(*key, revised=False) for key in keys]
