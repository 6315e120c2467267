"""A synthetic market of futures: the spot one, and beside it what only contracts have. As pure a function of time.

mark price      each second, a little off the mid; the index price a little off it on the other side
funding         with the mark price; one rate for each eight hours
open interest   over REST; wanders within a tenth
liquidations    one in each five seconds of each symbol, at a random time in them
book            each difference names its predecessor's last number (`pu`), as on Binance's futures markets
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np

from marketd.daemon.feeds.emulator.source import text_of
from marketd.daemon.feeds.emulator.synthetic import (
    IDS_PER_STEP,
    STEP_MS,
    SymbolPlan,
    SyntheticMarket,
    Timed,
    message_of,
    mids,
    mix,
)

MARK_MS = 1_000
FUNDING_MS = 8 * 3_600_000
LIQUIDATION_MS = 5_000
INTEREST_MS = 60_000  # it changes so often
MARK_PLACES = 8  # a mean of prices, finer than any tick
RATE_STEPS = 600  # of 1e-6, around 0
_MARK, _FUNDING, _LIQUIDATION, _INTEREST = 300, 301, 302, 303  # salts of their random numbers


class SyntheticFutures(SyntheticMarket):
    def _further_messages(
        self, plan: SymbolPlan, after_ms: int, until_ms: int, wants: Callable[[str], bool]
    ) -> Iterator[Timed]:
        lower = plan.rules.symbol.lower()
        if wants(f"{lower}@markPrice"):
            for at in range(after_ms // MARK_MS * MARK_MS + MARK_MS, until_ms + 1, MARK_MS):
                yield at, message_of(f"{lower}@markPrice@1s", _mark(plan, at))._replace(stream=f"{lower}@markPrice")
        if wants(f"{lower}@forceOrder"):
            for window in range(after_ms // LIQUIDATION_MS, until_ms // LIQUIDATION_MS + 1):
                at, data = _force_order(plan, window)
                if after_ms < at <= until_ms:
                    yield at, message_of(f"{lower}@forceOrder", data)

    def _numbers(self, step: int) -> dict[str, int]:
        return {**super()._numbers(step), "T": step * STEP_MS, "pu": (step - 1) * IDS_PER_STEP}

    def book(self, symbol: str, limit: int) -> dict[str, Any]:
        found = super().book(symbol, limit)
        clock = found["lastUpdateId"] // IDS_PER_STEP * STEP_MS
        return {**found, "E": clock, "T": clock}

    def open_interest(self, symbol: str) -> dict[str, Any]:
        plan, now = self._plans[symbol], self.now_ms()
        typical = plan.typical_size * 10_000
        size = int(typical * (0.9 + 0.2 * _uniform(plan, now // INTEREST_MS, _INTEREST)))
        return {"symbol": symbol, "openInterest": text_of(size, plan.rules.size_places), "time": now}


def _uniform(plan: SymbolPlan, number: int, salt: int) -> float:
    """From 0 to 1, the same for a number at every time."""
    word = mix(np.array([number], dtype=np.uint64), plan.key + salt)[0]
    return int(word) / 2**64


def _mid(plan: SymbolPlan, at_ms: int) -> float:
    """In units of the price's last place."""
    return float(mids(plan, np.array([at_ms], dtype=np.int64))[0])


def _mark(plan: SymbolPlan, at_ms: int) -> str:
    mid = _mid(plan, at_ms) / 10.0**plan.rules.price_places
    premium = 1e-5 * (_uniform(plan, at_ms // MARK_MS, _MARK) - 0.5)
    interval = at_ms // FUNDING_MS
    rate = round(RATE_STEPS * (_uniform(plan, interval, _FUNDING) - 0.5)) * 1e-6
    data = {
        "e": "markPriceUpdate",
        "E": at_ms,
        "s": plan.rules.symbol,
        "p": f"{mid * (1 + premium):.{MARK_PLACES}f}",
        "i": f"{mid * (1 - premium):.{MARK_PLACES}f}",
        "r": f"{rate:.8f}",
        "T": (interval + 1) * FUNDING_MS,
    }
    return msgspec.json.encode(data).decode()


def _force_order(plan: SymbolPlan, window: int) -> tuple[int, str]:
    """When in its window a position is closed, and the message."""
    rules = plan.rules
    share = _uniform(plan, window, _LIQUIDATION)
    at_ms = window * LIQUIDATION_MS + int(share * LIQUIDATION_MS)
    is_buy = window % 2 == 0
    mid = _mid(plan, at_ms)
    price = max(1, int(mid * (1.004 if is_buy else 0.996)))  # of bankruptcy, beyond what it is dealt at
    average = max(1, int(mid * (1.001 if is_buy else 0.999)))
    size = text_of(max(1, int(plan.typical_size * (0.5 + share))), rules.size_places)
    order = {
        "s": rules.symbol,
        "S": "BUY" if is_buy else "SELL",
        "o": "LIMIT",
        "f": "IOC",
        "q": size,
        "p": text_of(price, rules.price_places),
        "ap": text_of(average, rules.price_places),
        "X": "FILLED",
        "l": size,
        "z": size,
        "T": at_ms,
    }
    return at_ms, msgspec.json.encode({"e": "forceOrder", "E": at_ms, "o": order}).decode()
