"""Trades that deny a book: it does not change though they come, or none of them could be dealt in it."""

from __future__ import annotations

import numpy as np
import pytest

from marketd.market.book import Levels, OrderBook
from marketd.market.book_witness import PATIENCE_MOMENTS, PATIENCE_NS, TradeWitness
from marketd.market.records import TRADE, Records, TradeFlag
from marketd.market.times import NS_PER_SECOND

NOW = 1_700_000_000 * NS_PER_SECOND
LONG = PATIENCE_NS // NS_PER_SECOND


def book() -> OrderBook:
    made = OrderBook()
    made.reset(Levels([99], [5]), Levels([101], [5]))
    return made


def trades(second: float, *prices: int, flags: int = 0) -> Records:
    records = np.zeros(len(prices), dtype=TRADE)
    records["ts_event"] = NOW + int(second * NS_PER_SECOND)
    records["price"], records["flags"] = prices, flags
    return records


def denied_at(witness: TradeWitness, seconds: range, *prices: int, changing: bool, flags: int = 0) -> int | None:
    """When the book was denied, of trades every so many seconds."""
    held = book()
    for second in seconds:
        if witness.hear(held, second if changing else 0, trades(second, *prices, flags=flags)):
            return second
    return None


@pytest.mark.parametrize("prices", [(102,), (98,), (102, 150)])
def test_trades_beyond_the_best_prices_deny_a_book_after_a_while(prices: tuple[int, ...]) -> None:
    assert denied_at(TradeWitness(), range(600), *prices, changing=True) == LONG


@pytest.mark.parametrize("prices", [(99,), (100,), (101,), (98, 102), (98, 99)])
def test_trades_within_the_best_prices_do_not(prices: tuple[int, ...]) -> None:
    assert denied_at(TradeWitness(), range(600), *prices, changing=True) is None


def test_one_trade_that_goes_with_the_book_speaks_for_it() -> None:
    witness, held = TradeWitness(), book()
    for second in range(LONG):
        assert not witness.hear(held, second, trades(second, 102))
    assert not witness.hear(held, LONG, trades(LONG - 0.1, 101))
    assert denied_at(witness, range(LONG, LONG * 2), 102, changing=True) is None


def test_few_trades_of_a_quiet_market_prove_nothing() -> None:
    """However many prices an order was dealt at."""
    rare = range(0, 60 * PATIENCE_MOMENTS, 60)
    assert denied_at(TradeWitness(), rare[:-1], *range(102, 140), changing=True) is None
    assert denied_at(TradeWitness(), rare, *range(102, 140), changing=True) == rare[-1]


def test_a_book_that_does_not_change_while_trades_come_is_denied() -> None:
    assert denied_at(TradeWitness(), range(600), 100, changing=False) == LONG + 1


def test_a_change_now_and_then_is_enough() -> None:
    witness, held = TradeWitness(), book()
    assert not any(witness.hear(held, second // LONG, trades(second, 100)) for second in range(600))


def test_trades_off_the_market_deny_nothing() -> None:
    flags = int(TradeFlag.NOT_MARKET)
    assert denied_at(TradeWitness(), range(600), 102, changing=True, flags=flags) is None
    assert denied_at(TradeWitness(), range(600), 100, changing=False, flags=flags) is None


def test_trades_off_the_market_speak_for_no_book() -> None:
    witness, held, flags = TradeWitness(), book(), int(TradeFlag.NOT_MARKET)
    for second in range(LONG):
        assert not witness.hear(held, second, trades(second, 102))
        assert not witness.hear(held, second, trades(second, 100, flags=flags))
    assert witness.hear(held, LONG, trades(LONG, 102))


def test_a_side_without_levels_denies_nothing() -> None:
    held, witness = OrderBook(), TradeWitness()
    assert not any(witness.hear(held, second, trades(second, 102)) for second in range(600))


def test_times_that_go_back_begin_anew() -> None:
    witness = TradeWitness()
    assert denied_at(witness, range(100, 100 + LONG), 102, changing=True) is None
    assert denied_at(witness, range(LONG), 102, changing=True) is None
