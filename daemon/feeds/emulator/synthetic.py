"""A market that was never there, the same for a seed at every moment: a pure function of seed, symbol and time.

It has no beginning: an emulator that is stopped and started again finds the market that would have gone on without
it, trade ids included, so that a feed that comes back can fetch what it missed, as from a real exchange. History is
served `history_seconds` back.

    mid price   a sum of smooth noises of periods from 2 s to 6 days, each as large as a random walk of that length
                (60 % a year): it wanders and clusters like a price, and needs no state
    trades      a fixed count a minute, at random times in it; a side tends to repeat; sizes are log-normal
    book        20 levels a side around the mid, anew every 100 ms; sizes by level, changing now and then
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from marketd.daemon.feeds.binance_records import INTERVALS
from marketd.daemon.feeds.emulator.source import (
    Bar,
    Crowd,
    Dealt,
    Message,
    Progress,
    Send,
    text_of,
)
from marketd.daemon.feeds.precision import Rules, split_pair
from marketd.market.errors import InvalidArgument

Reals = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]

MINUTE_MS = 60_000
STEP_MS = 100  # of the book, as Binance's depth@100ms
LEVELS = 20
IDS_PER_STEP = 64  # of the book's update ids
OPEN_KLINE_MS = 2_000  # an open kline is sent so often
OPEN_KLINES_UP_TO = 900  # s; longer ones are sent when they close
KEPT_MINUTES = 3_000  # of each symbol: two days of 1m bars without making them anew
VOLATILITY = 0.6  # a year, of the mid
YEAR_SECONDS = 365.25 * 86_400
PERIODS = tuple(2.0 * 4**k for k in range(10))  # s
DELAY_MS = 1  # from a trade to its message
TURN_SECONDS = 0.02

_PRICES = {"BTC": 60_000.0, "ETH": 2_500.0, "BNB": 550.0, "SOL": 150.0, "XRP": 0.55, "DOGE": 0.11, "ADA": 0.38}


Timed = tuple[int, Message]  # ms, and what is sent then


class SymbolPlan(NamedTuple):
    """One symbol's character."""

    rules: Rules
    price: float
    trades_per_minute: int
    typical_size: float
    key: int  # of its own random numbers


class Minute(NamedTuple):
    """The trades of one minute, in order; ids rise by one from `first_id`."""

    first_id: int
    times_ms: list[int]
    prices: list[int]
    sizes: list[int]
    buyer_is_maker: list[bool]


class SyntheticMarket:
    realtime = True

    def __init__(
        self,
        seed: int = 1,
        symbols: Sequence[str] = ("BTCUSDT", "ETHUSDT", "SOLUSDT"),
        trades_per_second: float | Mapping[str, float] = 10.0,
        *,
        history_seconds: int = 86_400,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        if not symbols:
            raise InvalidArgument("symbols: a market needs at least one", field="symbols")
        self._clock = clock
        self._history_ms = history_seconds * 1000
        self._plans = {
            symbol: _plan(seed, symbol, _rate(trades_per_second, symbol)) for symbol in dict.fromkeys(symbols)
        }
        self.rules = {symbol: plan.rules for symbol, plan in self._plans.items()}
        self._minutes: OrderedDict[tuple[str, int], Minute] = OrderedDict()
        self._minute_bars: OrderedDict[tuple[str, int], Bar] = OrderedDict()
        self._sent = 0

    # ---- time ---------------------------------------------------------------------------------

    def now_ms(self) -> int:
        return self._clock() // 1_000_000

    def progress(self) -> Progress:
        return Progress(self._sent, None, self.now_ms(), False)

    async def play(self, crowd: Crowd, send: Send) -> None:
        last = self.now_ms()
        while True:
            await asyncio.sleep(TURN_SECONDS)
            now = self.now_ms()
            if crowd.present:
                for message in self.messages(last, now, crowd.wants):
                    await send(message)
                    self._sent += 1
            last = max(last, now)

    def messages(self, after_ms: int, until_ms: int, wants: Callable[[str], bool]) -> list[Message]:
        """What is sent in (after, until], in order of time."""
        timed: list[Timed] = []
        for symbol, plan in self._plans.items():
            lower = symbol.lower()
            for name in ("trade", "aggTrade"):
                if wants(f"{lower}@{name}"):
                    timed += self._trade_messages(plan, name, after_ms, until_ms)
            if wants(f"{lower}@depth") or wants(f"{lower}@bookTicker"):
                timed += self._book_messages(plan, after_ms, until_ms, wants)
            for interval in INTERVALS:
                if wants(f"{lower}@kline_{interval}"):
                    timed += self._kline_messages(plan, interval, after_ms, until_ms)
            timed += self._further_messages(plan, after_ms, until_ms, wants)
        timed.sort(key=lambda entry: entry[0])
        return [message for _, message in timed]

    def _further_messages(
        self, plan: SymbolPlan, after_ms: int, until_ms: int, wants: Callable[[str], bool]
    ) -> Iterable[Timed]:
        """Streams of another kind of market."""
        return ()

    def _trade_messages(self, plan: SymbolPlan, name: str, after_ms: int, until_ms: int) -> Iterator[Timed]:
        symbol, rules = plan.rules.symbol, plan.rules
        for trade_id, dealt in self._between(plan, after_ms - DELAY_MS, until_ms - DELAY_MS):
            price, size = text_of(dealt.price, rules.price_places), text_of(dealt.size, rules.size_places)
            maker = "true" if dealt.buyer_is_maker else "false"
            number = f'"t":{trade_id}' if name == "trade" else f'"a":{trade_id}'
            ids = "" if name == "trade" else f'"f":{trade_id},"l":{trade_id},'
            data = (
                f'{{"e":"{name}","E":{dealt.time_ms + DELAY_MS},"s":"{symbol}",{number},"p":"{price}","q":"{size}",'
                f'{ids}"T":{dealt.time_ms},"m":{maker},"M":true}}'
            )
            yield dealt.time_ms + DELAY_MS, message_of(f"{symbol.lower()}@{name}", data)

    def _kline_messages(self, plan: SymbolPlan, interval: str, after_ms: int, until_ms: int) -> Iterator[Timed]:
        """The closed kline a moment after its end, open ones meanwhile."""
        step = INTERVALS[interval] * 1000
        delay = DELAY_MS + 1  # after the last trade's own message
        for end in range((after_ms - delay) // step * step + step, until_ms - delay + 1, step):
            yield end + delay, self._kline_message(plan, interval, end - step, end - 1, closed=True)
        if INTERVALS[interval] > OPEN_KLINES_UP_TO:
            return
        for at in range(after_ms // OPEN_KLINE_MS * OPEN_KLINE_MS + OPEN_KLINE_MS, until_ms + 1, OPEN_KLINE_MS):
            if at % step > delay:
                yield at, self._kline_message(plan, interval, at - at % step, at - DELAY_MS, closed=False)

    def _kline_message(self, plan: SymbolPlan, interval: str, start_ms: int, until_ms: int, *, closed: bool) -> Message:
        rules = plan.rules
        bar = self._bar(plan, interval, start_ms, until_ms)
        start, opened, high, low, close, volume, end, quote, count, buy, buy_quote, _ = bar.row(interval, rules)
        data = msgspec.json.encode(
            {
                "e": "kline",
                "E": until_ms + DELAY_MS + 1,
                "s": rules.symbol,
                "k": {
                    "t": start,
                    "T": end,
                    "s": rules.symbol,
                    "i": interval,
                    "f": -1,
                    "L": -1,
                    "o": opened,
                    "c": close,
                    "h": high,
                    "l": low,
                    "v": volume,
                    "n": count,
                    "x": closed,
                    "q": quote,
                    "V": buy,
                    "Q": buy_quote,
                    "B": "0",
                },
            }
        ).decode()
        return message_of(f"{rules.symbol.lower()}@kline_{interval}", data)

    def _book_messages(
        self, plan: SymbolPlan, after_ms: int, until_ms: int, wants: Callable[[str], bool]
    ) -> Iterator[Timed]:
        symbol = plan.rules.symbol
        lower = symbol.lower()
        for step in range(after_ms // STEP_MS + 1, until_ms // STEP_MS + 1):
            (old_bids, old_asks), (bids, asks) = self._levels(plan, step - 1), self._levels(plan, step)
            last_id = step * IDS_PER_STEP
            if wants(f"{lower}@depth"):
                data = {
                    "e": "depthUpdate",
                    "E": step * STEP_MS,
                    "s": symbol,
                    **self._numbers(step),
                    "b": _changes(old_bids, bids, plan.rules),
                    "a": _changes(old_asks, asks, plan.rules),
                }
                frame = message_of(f"{lower}@depth@100ms", msgspec.json.encode(data).decode())
                yield step * STEP_MS, frame._replace(stream=f"{lower}@depth")
            if wants(f"{lower}@bookTicker"):
                (bid, bid_size), (ask, ask_size) = (_level(plan.rules, *level[0]) for level in (bids, asks))
                ticker = {"u": last_id, "s": symbol, "b": bid, "B": bid_size, "a": ask, "A": ask_size}
                yield step * STEP_MS, message_of(f"{lower}@bookTicker", msgspec.json.encode(ticker).decode())

    def _numbers(self, step: int) -> dict[str, int]:
        """Of a difference of the book."""
        return {"U": (step - 1) * IDS_PER_STEP + 1, "u": step * IDS_PER_STEP}

    # ---- answers ------------------------------------------------------------------------------

    def trades(self, symbol: str, first_id: int | None, limit: int) -> list[dict[str, Any]]:
        rules = self.rules[symbol]
        return [
            {
                "id": trade_id,
                "price": text_of(dealt.price, rules.price_places),
                "qty": text_of(dealt.size, rules.size_places),
                "quoteQty": text_of(dealt.price * dealt.size, rules.price_places + rules.size_places),
                "time": dealt.time_ms,
                "isBuyerMaker": dealt.buyer_is_maker,
                "isBestMatch": True,
            }
            for trade_id, dealt in self._page(symbol, first_id, limit)
        ]

    def agg_trades(self, symbol: str, first_id: int | None, limit: int) -> list[dict[str, Any]]:
        rules = self.rules[symbol]
        return [
            {
                "a": trade_id,
                "p": text_of(dealt.price, rules.price_places),
                "q": text_of(dealt.size, rules.size_places),
                "f": trade_id,
                "l": trade_id,
                "T": dealt.time_ms,
                "m": dealt.buyer_is_maker,
                "M": True,
            }
            for trade_id, dealt in self._page(symbol, first_id, limit)
        ]

    def _page(self, symbol: str, first_id: int | None, limit: int) -> list[tuple[int, Dealt]]:
        plan, now = self._plans[symbol], self.now_ms() - DELAY_MS
        oldest = (now - self._history_ms) // MINUTE_MS
        last_id = self._last_id(plan, now)
        if first_id is None:
            first_id = last_id - limit + 1
        first_id = max(first_id, oldest * plan.trades_per_minute + 1)
        return [
            (trade_id, self._dealt(plan, trade_id)) for trade_id in range(first_id, min(first_id + limit, last_id + 1))
        ]

    def bars(self, symbol: str, interval: str, start_ms: int | None, end_ms: int | None, limit: int) -> list[list[Any]]:
        plan, now, step = self._plans[symbol], self.now_ms() - DELAY_MS, INTERVALS[interval] * 1000
        last = min(now, now if end_ms is None else end_ms)
        last -= last % step
        first = last - (limit - 1) * step if start_ms is None else -(-start_ms // step) * step
        oldest = now - self._history_ms
        first = max(first, oldest + (step - oldest % step))
        starts = range(first, last + 1, step)[:limit]
        rules = plan.rules
        return [self._bar(plan, interval, start, min(now, start + step - 1)).row(interval, rules) for start in starts]

    def open_interest(self, symbol: str) -> dict[str, Any] | None:
        return None  # nobody holds a position on a spot market

    def book(self, symbol: str, limit: int) -> dict[str, Any]:
        plan, step = self._plans[symbol], self.now_ms() // STEP_MS
        bids, asks = self._levels(plan, step)
        return {
            "lastUpdateId": step * IDS_PER_STEP,
            "bids": [_level(plan.rules, *level) for level in bids[:limit]],
            "asks": [_level(plan.rules, *level) for level in asks[:limit]],
        }

    # ---- the market itself --------------------------------------------------------------------

    def _minute(self, plan: SymbolPlan, minute: int) -> Minute:
        key = (plan.rules.symbol, minute)
        made = self._minutes.get(key)
        if made is None:
            made = self._minutes[key] = _make_minute(plan, minute)
            if len(self._minutes) > KEPT_MINUTES * len(self._plans):
                self._minutes.popitem(last=False)
        return made

    def _between(self, plan: SymbolPlan, after_ms: int, until_ms: int) -> Iterator[tuple[int, Dealt]]:
        """Trades in (after, until]."""
        for number in range(after_ms // MINUTE_MS, until_ms // MINUTE_MS + 1):
            minute = self._minute(plan, number)
            begin, end = bisect_right(minute.times_ms, after_ms), bisect_right(minute.times_ms, until_ms)
            for index in range(begin, end):
                yield minute.first_id + index, _dealt_of(minute, index)

    def _dealt(self, plan: SymbolPlan, trade_id: int) -> Dealt:
        number, index = divmod(trade_id - 1, plan.trades_per_minute)
        return _dealt_of(self._minute(plan, number), index)

    def _last_id(self, plan: SymbolPlan, now_ms: int) -> int:
        minute = self._minute(plan, now_ms // MINUTE_MS)
        return minute.first_id + bisect_right(minute.times_ms, now_ms) - 1

    def _bar(self, plan: SymbolPlan, interval: str, start_ms: int, until_ms: int) -> Bar:
        """The bar from `start` with the trades up to `until`; flat at the last price before when there are none."""
        bar: Bar | None = None
        for number in range(start_ms // MINUTE_MS, until_ms // MINUTE_MS + 1):
            part = self._part(plan, number, start_ms, until_ms)
            if part is not None and bar is None:
                bar = part
            elif part is not None and bar is not None:
                bar.merge(part)
        if bar is None:
            bar = Bar(start_ms, self._dealt(plan, self._last_id(plan, start_ms - 1)).price)
        bar.start_ms = start_ms
        return bar

    def _part(self, plan: SymbolPlan, number: int, start_ms: int, until_ms: int) -> Bar | None:
        """The part of one minute within start … until, a fresh Bar."""
        low, high = number * MINUTE_MS, (number + 1) * MINUTE_MS - 1
        if low >= start_ms and high <= until_ms:
            key = (plan.rules.symbol, number)
            whole = self._minute_bars.get(key)
            if whole is None:
                whole = self._minute_bars[key] = _bar_of(dealt for _, dealt in self._between(plan, low - 1, high))
                if len(self._minute_bars) > KEPT_MINUTES * len(self._plans):
                    self._minute_bars.popitem(last=False)
            copy = Bar(low, whole.open)
            copy.merge(whole)
            return copy
        trades = [dealt for _, dealt in self._between(plan, max(low, start_ms) - 1, min(high, until_ms))]
        return _bar_of(iter(trades)) if trades else None

    def _levels(self, plan: SymbolPlan, step: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Bids and asks at a step of the book, best first: (price, size)."""
        mid = float(mids(plan, np.array([step * STEP_MS], dtype=np.int64))[0])
        best = int(mid)
        gap = max(1, int(mid * 2e-6))
        prices = np.concatenate([best - gap * np.arange(LEVELS), best + gap * (1 + np.arange(LEVELS))]).astype(
            np.uint64
        )
        # each level keeps its size for a time of its own, 0.4 to 25.6 s
        life = np.uint64(4) << (mix(prices, plan.key) % np.uint64(7))
        words = mix(prices * np.uint64(1 << 20) + np.uint64(step) // life, plan.key + 1)
        sizes = np.maximum(1, plan.typical_size * 5 * np.exp(1.2 * _normal(words))).astype(np.int64)
        levels = list(zip(prices.astype(np.int64).tolist(), sizes.tolist(), strict=True))
        return [level for level in levels[:LEVELS] if level[0] > 0], levels[LEVELS:]


def _rate(trades_per_second: float | Mapping[str, float], symbol: str) -> float:
    rate = trades_per_second.get(symbol, 10.0) if isinstance(trades_per_second, Mapping) else trades_per_second
    if not 0 < rate <= 100_000:
        raise InvalidArgument(
            f"trades_per_second: {rate} for {symbol} is not above 0 and at most 100,000", field="trades_per_second"
        )
    return rate


def _plan(seed: int, symbol: str, rate: float) -> SymbolPlan:
    base, quote = split_pair(symbol)
    price = _PRICES.get(base, 1.0 + _word(seed, symbol, 1) % 5000 / 100)
    # a tick of about a hundred-thousandth of the price, a step worth about a thousandth of a unit of the quote
    price_places = min(8, max(0, 5 - len(str(int(price))) + (2 if price < 1 else 1)))
    size_places = min(8, len(str(int(price))))
    typical = 200.0 / price * 10**size_places
    rules = Rules(symbol, base or symbol, quote or "USD", price_places, size_places)
    return SymbolPlan(rules, price, max(1, round(rate * 60)), typical, _word(seed, symbol, 0))


def _word(seed: int, symbol: str, salt: int) -> int:
    """A number of a seed and a name that is the same in every process (`hash` of a text is not)."""
    words = np.frombuffer(symbol.encode().ljust(32, b"\0")[:32], dtype=np.uint64)
    mixed = np.uint64(seed & (2**64 - 1))
    for word in words:
        mixed = mix(np.array([word ^ mixed], dtype=np.uint64), salt)[0]
    return int(mixed) >> 2


def mix(words: Words, key: int) -> Words:
    """splitmix64 (Steele, Lea, Flood 2014): a random-looking word for each word."""
    with np.errstate(over="ignore"):
        mixed = words + np.uint64((0x9E3779B97F4A7C15 * (key + 1)) & (2**64 - 1))
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def _normal(words: Words) -> Reals:
    """About normal, from the sum of four 16-bit uniforms (variance 4/12)."""
    parts = sum(((words >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.float64) for shift in (0, 16, 32, 48))
    return np.asarray((parts / 65_536.0 - 2.0) * np.sqrt(3.0), dtype=np.float64)


def mids(plan: SymbolPlan, times_ms: npt.NDArray[np.int64]) -> Reals:
    """The mid at each time, in units of the price's last place."""
    seconds = times_ms / 1000.0
    total = np.zeros(len(times_ms))
    for number, period in enumerate(PERIODS):
        place = seconds / period
        before = np.floor(place)
        words = before.astype(np.uint64)
        part = place - before
        smooth = part * part * (3.0 - 2.0 * part)
        low, high = (_normal(mix(words + np.uint64(k), plan.key + 100 + number)) for k in (0, 1))
        total += VOLATILITY * np.sqrt(period / YEAR_SECONDS) * (low + (high - low) * smooth)
    return np.asarray(np.maximum(plan.price * np.exp(total) * 10.0**plan.rules.price_places, 2.0), dtype=np.float64)


def _make_minute(plan: SymbolPlan, minute: int) -> Minute:
    count = plan.trades_per_minute
    rng = np.random.Generator(np.random.Philox(key=[plan.key, minute]))
    times = minute * MINUTE_MS + np.sort(rng.integers(0, MINUTE_MS, count))
    # runs of one side: it changes with a probability of 0.3 at each trade
    sells = (np.cumsum(rng.random(count) < 0.3) + int(rng.integers(0, 2))) % 2 == 0
    spread = 1 + rng.geometric(0.7, count)
    prices = np.floor(mids(plan, times)).astype(np.int64) + np.where(sells, 1 - spread, spread - 1)
    sizes = np.maximum(1, plan.typical_size * np.exp(1.3 * rng.standard_normal(count))).astype(np.int64)
    return Minute(minute * count + 1, times.tolist(), np.maximum(prices, 1).tolist(), sizes.tolist(), sells.tolist())


def _dealt_of(minute: Minute, index: int) -> Dealt:
    return Dealt(minute.times_ms[index], minute.prices[index], minute.sizes[index], minute.buyer_is_maker[index])


def _bar_of(trades: Iterator[Dealt]) -> Bar:
    first = next(trades)
    bar = Bar(first.time_ms, first.price)
    bar.add(first)
    for trade in trades:
        bar.add(trade)
    return bar


def _level(rules: Rules, price: int, size: int) -> tuple[str, str]:
    return text_of(price, rules.price_places), text_of(size, rules.size_places)


def _changes(old: list[tuple[int, int]], new: list[tuple[int, int]], rules: Rules) -> list[tuple[str, str]]:
    """Levels that changed or came, and, with size 0, those that went."""
    before, after = dict(old), dict(new)
    changed = [_level(rules, price, size) for price, size in new if before.get(price) != size]
    return changed + [_level(rules, price, 0) for price in before if price not in after]


def message_of(stream: str, data: str) -> Message:
    return Message(stream, f'{{"stream":"{stream}","data":{data}}}'.encode())
