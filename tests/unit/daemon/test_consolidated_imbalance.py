"""The imbalance of a consolidated book: merged sizes, the trades of all venues, and silence where there is no book."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from book_records import Side, book, not_live
from marketd.daemon.consolidated import Consolidator
from marketd.daemon.kernel import coverage_record, tick_record
from marketd.daemon.settings import Book
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME, BookState, Coverage, ImbalanceReason, Kind, KindTable, Records, empty
from marketd.market.times import ABSENT

SECOND, MS = 1_000_000_000, 1_000_000
START = 1_723_161_540 * SECOND
ABSENT_RATIO = -(2**31)
TRADE = BY_NAME["trade"]


def instrument(number: int, venue: str, size_scale: int) -> Instrument:
    return Instrument(
        id=65_536 + number,
        symbol="BTCUSDT",
        venue=venue,
        price_scale=2,
        size_scale=size_scale,
        quote_scale=8,
        base="BTC",
        quote="USDT",
    )


BINANCE, BYBIT = instrument(1, "BINANCE", 5), instrument(2, "BYBIT", 6)


class Market:
    """Two venues of one pair, and what was told of them together."""

    def __init__(self) -> None:
        self.consolidator = Consolidator(KindTable(), Book())
        for each in (BINANCE, BYBIT):
            self.consolidator.declare(each)
        self.told: list[Records] = []

    def tell(self, venue: Instrument, ms: int, *rows: tuple[Kind, Records]) -> None:
        merged = self.consolidator.follow(venue, rows, START + ms * MS)
        if merged is not None:
            self.told += [records for kind, records in merged.parts if kind.name == "imbalance"]

    def book(self, venue: Instrument, ms: int, bids: Side, asks: Side) -> None:
        self.tell(venue, ms, (BY_NAME["book"], book(bids, asks, ts=START + ms * MS)))

    def leave(self, venue: Instrument, ms: int) -> None:
        self.tell(venue, ms, (BY_NAME["book"], not_live(BookState.STALE, ts=START + ms * MS)))

    def trade(self, venue: Instrument, ms: int, size: int, side: int) -> None:
        records = empty(TRADE, 1)
        records["ts_event"], records["trade_id"], records["price"] = START + ms * MS, ms, 10_000
        records["size"], records["side"], records["flags"] = size, side, 0
        self.tell(venue, ms, (TRADE, records))

    def until(self, ms: int) -> Records:
        """Time goes on, second by second; all that was told."""
        for at in range(1000, ms + 1, 1000):
            self.tell(BINANCE, at + 300, (BY_NAME["tick"], tick_record(START + (at + 300) * MS)))
        return np.concatenate(self.told)


@pytest.fixture
def market() -> Market:
    market = Market()
    market.book(BINANCE, 0, [(10_000, 3)], [(10_002, 1)])
    market.book(BYBIT, 0, [(10_000, 10), (9_999, 5)], [(10_003, 10)])
    return market


def row(found: Records, second: int) -> dict[str, int]:
    """Its newest version."""
    chosen = found[found["ts_event"] == START + second * SECOND][-1]
    return {name: int(chosen[name]) for name in found.dtype.names or ()}


def test_sizes_of_all_venues_are_added_at_the_common_scale(market: Market) -> None:
    found = row(market.until(2000), 2)
    assert (found["mid2"], found["spread"]) == (20_002, 2)
    assert (found["best_bid_size"], found["best_ask_size"]) == (40, 10)
    assert (found["bid_size"], found["ask_size"]) == (45, 20)
    assert found["book_1s"] == (45 - 20) * 1_000_000 // 65
    assert (found["state"], found["book_5s"]) == (BookState.LIVE, ABSENT_RATIO)
    assert found["reason"] == ImbalanceReason.WARMING


def test_there_is_one_record_a_second(market: Market) -> None:
    times = market.until(5000)["ts_event"]
    assert times.tolist() == [START + second * SECOND for second in range(1, 6)]


def test_a_crossed_book_has_a_negative_spread(market: Market) -> None:
    market.book(BYBIT, 500, [(10_004, 10)], [(10_005, 10)])
    found = row(market.until(1000), 1)
    assert (found["mid2"], found["spread"]) == (20_006, -2)


def test_the_trades_of_all_venues_make_the_volume(market: Market) -> None:
    market.trade(BINANCE, 100, 3, 1)  # 30 at the common scale
    market.trade(BYBIT, 200, 10, -1)
    assert row(market.until(2000), 1)["volume_1s"] == (30 - 10) * 1_000_000 // 40


def test_a_size_beyond_the_common_scale_is_no_volume(market: Market) -> None:
    market.trade(BINANCE, 100, 2**62, 1)
    market.trade(BYBIT, 200, 10, -1)
    assert row(market.until(2000), 1)["volume_1s"] == -1_000_000


def test_where_a_venues_trades_are_missing_there_is_no_volume(market: Market) -> None:
    market.trade(BYBIT, 100, 10, -1)
    gap = coverage_record(Coverage.GAP, START, START + 500 * MS, stream=TRADE.id)
    market.tell(BINANCE, 600, (BY_NAME["coverage"], gap))
    assert row(market.until(2000), 1)["volume_1s"] == ABSENT_RATIO


@pytest.mark.parametrize("left", [(BINANCE,), (BINANCE, BYBIT)])
def test_only_while_no_venue_is_live_there_are_no_figures(market: Market, left: Sequence[Instrument]) -> None:
    for venue in left:
        market.leave(venue, 400)
    found = row(market.until(1000), 1)
    if len(left) == 1:
        assert (found["state"], found["mid2"]) == (BookState.LIVE, 20_003)
    else:
        assert (found["state"], found["mid2"]) == (BookState.STALE, ABSENT)
        assert found["reason"] == ImbalanceReason.NOT_LIVE


def test_a_venue_with_another_time_begins_the_windows_anew(market: Market) -> None:
    market.until(3000)
    market.tell(BYBIT, 4000, (BY_NAME["tick"], tick_record(START - 3600 * SECOND)))
    market.book(BYBIT, 4000, [(10_000, 1)], [(10_001, 1)])
    assert row(market.until(6000), 6)["book_5s"] == ABSENT_RATIO


def test_when_the_last_venue_is_gone_the_imbalance_is_stale_though_time_does_not_go_on(market: Market) -> None:
    market.until(2000)
    market.leave(BINANCE, 2500)
    assert market.told[-1]["state"][0] == BookState.LIVE
    market.leave(BYBIT, 2500)
    (left,) = market.told[-1]
    assert (left["ts_event"], left["state"], left["reason"]) == (
        START + 3 * SECOND,
        BookState.STALE,
        ImbalanceReason.NOT_LIVE,
    )
