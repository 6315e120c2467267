"""Trades without numbers: each once, and after a reconnect the recent ones first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from marketd.daemon.feeds.recent import AsTheyCome, RecentIds
from marketd.daemon.feeds.sequence import Missing, bar_numbers
from marketd.market.records import CANDLE, TRADE, Records

MINUTE = 60 * 10**9


def trades(*rows: tuple[int, int]) -> Records:
    """(time, id)"""
    records = np.zeros(len(rows), dtype=TRADE)
    records["ts_event"] = [ts for ts, _ in rows]
    records["trade_id"] = [trade_id for _, trade_id in rows]
    return records


def ids(records: Records) -> list[int]:
    found: list[int] = records["trade_id"].tolist()
    return found


def begun(*rows: tuple[int, int]) -> RecentIds:
    sequence = RecentIds(TRADE)
    sequence.live(trades(*rows))
    return sequence


def test_a_first_connection_has_missed_nothing() -> None:
    sequence = RecentIds(TRADE)
    sequence.begin_catch_up()
    assert sequence.missing is None
    assert ids(sequence.live(trades((1, 77), (1, 5)))) == [77, 5]


def test_repeated_ids_are_handed_on_once_within_a_batch_and_across_batches() -> None:
    sequence = begun((1, 10), (1, 10), (2, 11))
    assert ids(sequence.live(trades((2, 11), (3, 12)))) == [12]
    assert sequence.duplicates == 2


def test_after_a_reconnect_live_trades_wait_for_the_recent_ones() -> None:
    sequence = begun((1, 10), (2, 11))
    sequence.begin_catch_up()
    assert sequence.missing == Missing(0, None)
    assert not len(sequence.live(trades((5, 14))))
    assert sequence.held == 1
    step = sequence.fetched(trades((1, 10), (2, 11), (3, 12), (4, 13), (5, 14)), at_present=True)
    assert ids(step.records) == [12, 13, 14]
    assert (step.lost, step.fetched) == ([], 2)
    assert not sequence.is_catching_up


def test_recent_trades_that_do_not_reach_back_leave_a_hole_of_unknown_size() -> None:
    sequence = begun((1, 10))
    sequence.begin_catch_up()
    step = sequence.fetched(trades((7, 20), (8, 21)), at_present=True)
    assert ids(step.records) == [20, 21]
    (lost,) = step.lost
    assert (lost.size, lost.ts_end) == (0, 7)


def test_a_restart_goes_on_after_a_time_and_keeps_what_shares_it() -> None:
    sequence = RecentIds(TRADE)
    sequence.begin_catch_up(5)
    step = sequence.fetched(trades((4, 1), (5, 2), (5, 3), (6, 4)), at_present=True)
    assert ids(step.records) == [2, 3, 4]  # those of the last moment may be repeated: whoever stores them knows
    assert step.lost == []


def test_going_on_without_what_is_missing_says_where_the_hole_ends() -> None:
    sequence = begun((1, 10))
    sequence.begin_catch_up()
    sequence.live(trades((9, 30), (8, 29)))
    step = sequence.skip()
    assert ids(step.records) == [30, 29]
    assert [lost.ts_end for lost in step.lost] == [8]
    assert sequence.missing is None


def test_memory_of_ids_is_bounded() -> None:
    sequence = RecentIds(TRADE, max_known=10)
    sequence.live(trades(*((n, n) for n in range(100))))
    assert ids(sequence.live(trades((100, 95), (101, 1)))) == [1]


@given(st.lists(st.lists(st.integers(0, 30), max_size=8), max_size=8), st.sets(st.integers(0, 7)))
def test_every_id_is_handed_on_exactly_once(batches: list[list[int]], reconnects: set[int]) -> None:
    sequence, handed_on, came = RecentIds(TRADE), list[int](), set[int]()

    def records(numbers: Sequence[int]) -> Records:
        return trades(*((100 + number, number) for number in numbers))

    for index, batch in enumerate(batches):
        if index in reconnects:
            sequence.begin_catch_up()
        came |= set(batch)
        handed_on += ids(sequence.live(records(batch)))
        if sequence.missing is not None and index % 2:
            handed_on += ids(sequence.fetched(records(sorted(came)), at_present=True).records)
    if sequence.missing is not None:
        handed_on += ids(sequence.fetched(records(sorted(came)), at_present=True).records)
    assert len(handed_on) == len(set(handed_on))
    assert set(handed_on) == came


def test_bars_that_cannot_be_asked_for_come_as_they_come() -> None:
    sequence = AsTheyCome(CANDLE, bar_numbers(60))
    bars = np.zeros(3, dtype=CANDLE)
    bars["ts"] = [MINUTE, 2 * MINUTE, 5 * MINUTE]
    assert len(sequence.live(bars)) == 3
    assert not len(sequence.live(bars[:2]))
    assert sequence.missing is None
