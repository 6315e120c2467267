"""Bars on a grid: what is filled, what is not known, and where that comes from."""

from datetime import datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_daemon import BTC, CANDLE, COVERAGE, MINUTE_NS, TRADE, candles, trades
from marketd.client.frames import Frame
from marketd.client.grid import covers, lay_out, normalised, observed_intervals, open_times
from marketd.market.errors import InvalidArgument
from marketd.market.records import CandleFlag, Coverage, Records
from marketd.market.times import ABSENT

ALWAYS = [(0, 10**18)]


def bars(*indexes: int, **fields: Any) -> Frame:
    return Frame(CANDLE, BTC, candles(indexes, **fields), timeframe=60)


def coverage(*rows: tuple[int, int, int, int]) -> Records:
    """(seq, state, start minute, end minute)"""
    records = np.zeros(len(rows), dtype=COVERAGE.dtype)
    for record, (seq, state, start, end) in zip(records, rows, strict=True):
        record["seq"], record["state"], record["stream"] = seq, state, TRADE.id
        record["ts_start"], record["ts_end"] = start * MINUTE_NS, ABSENT if end < 0 else end * MINUTE_NS
    return records


def test_a_grid_has_exactly_the_aligned_intervals_of_its_stretch() -> None:
    grid = bars(3, 5).grid(2 * MINUTE_NS + 1, 7 * MINUTE_NS - 1, observed=ALWAYS)
    assert (grid["time"] // MINUTE_NS).tolist() == [3, 4, 5]


def test_a_quiet_interval_is_flat_at_the_close_before_it_with_no_volume() -> None:
    grid = bars(1, 4).grid(observed=ALWAYS)
    assert grid["close"].tolist() == grid["open"].tolist() == [100.01, 100.01, 100.01, 100.04]
    assert grid["volume"].tolist() == [1.0, 0.0, 0.0, 1.0]
    assert grid["trade_count"].tolist() == [3, 0, 0, 3]
    assert grid["is_filled"].tolist() == [False, True, True, False]
    assert grid["is_observed"].all() and grid["source"].tolist() == [1, 0, 0, 1]


def test_what_was_not_observed_is_nan_and_no_price_is_carried_over_it() -> None:
    grid = bars(1, 6).grid(observed=[(0, 3 * MINUTE_NS), (4 * MINUTE_NS, 7 * MINUTE_NS)])
    assert np.isnan(grid["close"]).tolist() == [False, False, True, True, True, False]
    assert grid["is_observed"].tolist() == [True, True, False, True, True, True]
    assert grid["is_filled"].tolist() == [False, True, False, False, False, False]


def test_a_partial_bar_is_shown_and_not_observed() -> None:
    grid = bars(1, flags=int(CandleFlag.PARTIAL)).grid()
    assert grid["close"].tolist() == [100.01] and grid["is_observed"].tolist() == [False]


def test_a_full_bar_is_observed_without_the_ledger() -> None:
    assert bars(1, 2).grid()["is_observed"].all()


def test_the_price_before_the_grid_fills_its_first_intervals() -> None:
    grid = bars(1, 5).grid(3 * MINUTE_NS, 6 * MINUTE_NS, observed=ALWAYS)
    assert grid["close"].tolist() == [100.01, 100.01, 100.05]
    unknown = bars(1, 5).grid(3 * MINUTE_NS, 6 * MINUTE_NS, observed=[(3 * MINUTE_NS, 9 * MINUTE_NS)])
    assert np.isnan(unknown["close"]).tolist() == [True, True, False]


def test_nan_fills_nothing_and_none_adds_no_rows() -> None:
    frame = bars(1, 3)
    assert np.isnan(frame.grid(fill="nan", observed=ALWAYS)["close"]).tolist() == [False, True, False]
    assert (frame.grid(fill=None)["time"] // MINUTE_NS).tolist() == [1, 3]


def test_a_grid_of_nothing_needs_its_stretch() -> None:
    empty = Frame(CANDLE, BTC, candles([]), timeframe=60)
    assert np.isnan(empty.grid(0, 2 * MINUTE_NS, observed=ALWAYS)["close"]).all()
    with pytest.raises(InvalidArgument, match="needs start and end"):
        empty.grid()


def test_a_grid_of_trades_of_two_timeframes_or_of_doubled_bars_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="made of bars"):
        Frame(TRADE, BTC, trades(range(2))).grid()
    mixed = np.concatenate((candles([1]), candles([1], timeframe=1)))
    with pytest.raises(InvalidArgument, match="one timeframe"):
        Frame(CANDLE, BTC, mixed).grid()
    with pytest.raises(InvalidArgument, match="bar_source"):
        bars(1, 1).grid()
    with pytest.raises(InvalidArgument, match="fill"):
        bars(1).grid(fill="zero")  # type: ignore[arg-type]


def test_a_slip_in_the_dates_is_refused_before_it_fills_the_memory() -> None:
    with pytest.raises(InvalidArgument, match="at most"):
        bars(1).grid(0, datetime.fromisoformat("2260-01-01T00:00:00+00:00"))


def test_the_ledger_is_applied_in_its_own_order() -> None:
    ledger = coverage((3, Coverage.BACKFILLED, 4, 5), (1, Coverage.OBSERVED, 0, -1), (2, Coverage.GAP, 4, 6))
    observed = observed_intervals(ledger, 10 * MINUTE_NS)
    assert (observed // MINUTE_NS).tolist() == [[0, 5], [6, 10]]


def test_an_observation_lasts_until_a_gap_or_its_end() -> None:
    ledger = coverage(
        (1, Coverage.OBSERVED, 1, 1), (2, Coverage.GAP, 3, 4), (3, Coverage.ENDED, 6, 6), (4, Coverage.OBSERVED, 8, 8)
    )
    assert (observed_intervals(ledger, 10 * MINUTE_NS) // MINUTE_NS).tolist() == [[1, 3], [4, 6], [8, 10]]
    assert (observed_intervals(ledger, 2 * MINUTE_NS) // MINUTE_NS).tolist() == [[1, 2]]


def test_what_was_not_stored_of_any_stream_counts_for_each() -> None:
    ledger = coverage((1, Coverage.OBSERVED, 0, -1), (2, Coverage.UNSTORED, 2, 3))
    ledger["stream"][1] = 0
    assert (observed_intervals(ledger, 9 * MINUTE_NS) // MINUTE_NS).tolist() == [[0, 2], [3, 9]]


def test_other_streams_and_other_events_say_nothing_about_trades() -> None:
    ledger = coverage((1, Coverage.OBSERVED, 0, 9), (2, Coverage.CLOCK_STEP, 2, 3), (3, Coverage.GAP, 5, 6))
    ledger["stream"][2] = CANDLE.id
    assert (observed_intervals(ledger, 10**18) // MINUTE_NS).tolist() == [[0, 9]]


def test_a_ledger_of_years_costs_about_its_length() -> None:
    """Laid over itself event by event, and not the whole of it for each: with that this one took minutes."""
    gaps = np.arange(1, 10_001)
    ledger = np.zeros(len(gaps) + 1, dtype=COVERAGE.dtype)
    ledger["seq"], ledger["stream"] = np.arange(len(ledger)), TRADE.id
    ledger["state"], ledger["state"][0] = Coverage.GAP, Coverage.OBSERVED
    ledger["ts_start"][1:], ledger["ts_end"][1:] = 10 * gaps, 10 * gaps + 1
    assert len(observed_intervals(ledger, 10**6)) == len(gaps) + 1


intervals = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=6)


@given(intervals)
def test_normalised_intervals_are_sorted_apart_and_cover_the_same(pairs: list[tuple[int, int]]) -> None:
    merged = normalised(pairs)
    assert (merged[:, 0] < merged[:, 1]).all() and (merged[1:, 0] > merged[:-1, 1]).all()
    points = {p for a, b in pairs for p in range(a, b)}
    assert points == {p for a, b in merged.tolist() for p in range(a, b)}


@given(st.sets(st.integers(0, 12)), st.sets(st.integers(0, 12)), intervals, st.integers(0, 12), st.integers(0, 12))
def test_a_grid_equals_the_naive_one(
    full: set[int], partial: set[int], pairs: list[tuple[int, int]], first: int, last: int
) -> None:
    partial -= full
    records = np.sort(
        np.concatenate((candles(sorted(full)), candles(sorted(partial), flags=int(CandleFlag.PARTIAL)))), order="ts"
    )
    observed = normalised([(a * MINUTE_NS, b * MINUTE_NS) for a, b in pairs])
    times = open_times(first * MINUTE_NS, last * MINUTE_NS, 60)
    grid = lay_out(records, times, 60, observed=observed)
    seen = {minute for a, b in pairs for minute in range(a, b)} | full
    expected = naive(full | partial, seen, first, last)
    closes = [None if close == ABSENT else close - 10_000 for close in grid.records["close"].tolist()]
    assert closes == [close for close, _ in expected]
    assert grid.is_filled.tolist() == [filled for _, filled in expected]
    assert grid.is_observed.tolist() == [minute in seen for minute in range(first, last)]


def naive(bars: set[int], seen: set[int], first: int, last: int) -> list[tuple[int | None, bool]]:
    """Minute by minute from the beginning: the close, and whether it was filled in."""
    close: int | None = None
    rows = []
    for minute in range(last):
        if minute in bars:
            close = minute
        elif minute not in seen:
            close = None
        rows.append((close, close is not None and minute not in bars))
    return rows[first:]


def test_coverage_of_an_interval_must_be_whole() -> None:
    observed = normalised([(10, 20), (30, 40)])
    starts = np.array([10, 15, 5, 20, 30])
    assert covers(observed, starts, starts + 5).tolist() == [True, True, False, False, True]
