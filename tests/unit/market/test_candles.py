"""The fold against a naive oracle: any trades, any batches, ticks, restarts in between, both paths."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from candle_oracle import SECOND, Oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.market import candles as candles_module
from marketd.market.candles import BarFold, bars_from_trades
from marketd.market.errors import InvalidArgument, RangeError
from marketd.market.fixed import MAX_FIXED
from marketd.market.records import CANDLE, TRADE, CandleFlag, Source
from marketd.market.times import ABSENT

SCALES = {"price_scale": 2, "size_scale": 3, "quote_scale": 2}
DIVISOR = 10**3
TIMEFRAMES = [1, 5, 60]
GRACE_NS = 250_000_000
START = 1_723_161_599 * SECOND  # one second before midnight

_FIELDS = ("timeframe", "ts", "open", "high", "low", "close", "volume", "quote_volume", "buy_volume", "trade_count")


def records(trades):
    array = np.zeros(len(trades), dtype=TRADE)
    for index, (ts_event, price, size, side, flags) in enumerate(trades):
        array[index] = (ts_event, 0, 0, index, price, size, side, flags)
    return array


def bars(candles):
    return [tuple(int(c[name]) for name in (*_FIELDS, "flags")) for c in candles]


def trade(second, price=100, size=1, side=1, flags=0):
    return (START + round(second * SECOND), price, size, side, flags)


@pytest.fixture(params=["scalar", "numpy"])
def path(request, monkeypatch):
    """Each of the two paths for all batches."""
    monkeypatch.setattr(candles_module, "FEW_TRADES", 10**9 if request.param == "scalar" else 0)
    return request.param


def fold_of(timeframes=TIMEFRAMES, **options):
    return BarFold(timeframes, **SCALES, grace_ns=GRACE_NS, **options)


# Few distinct times and prices, so that equal milliseconds, late trades and shared bars are the rule.
trades_strategy = st.tuples(
    st.one_of(st.integers(0, 60), st.integers(0, 3000)).map(lambda n: START + n * 50_000_000),
    st.integers(1, 50),
    st.integers(1, 2000),
    st.sampled_from([-1, 0, 1]),
    st.sampled_from([0, 0, 0, 0, 0, 0, 8, 2]),
)
steps = st.lists(
    st.one_of(
        st.lists(trades_strategy, min_size=1, max_size=8),
        st.lists(trades_strategy, min_size=1, max_size=8).map(sorted),
        st.integers(0, 3000).map(lambda n: START + n * 50_000_000),
        st.just("restart"),
    ),
    max_size=14,
)
frames = st.sampled_from([[1, 5, 60], [1, 60, 300], [2, 3, 60], [1], [5, 15]])


@settings(max_examples=400, deadline=None)
@given(steps, frames, st.integers(0, 60), st.sampled_from([None, START, START + 7 * SECOND]), st.data())
def test_every_bar_that_comes_out_equals_the_oracle_in_both_paths(steps, timeframes, few, since_ns, data):
    """Exactly the same bars, at the same step, in the same order; `few` mixes the paths."""
    original = candles_module.FEW_TRADES
    candles_module.FEW_TRADES = data.draw(st.sampled_from([0, 3, 10**9]))
    try:
        options = {"observed_since_ns": since_ns, "complete_from_ns": ABSENT}
        fold = fold_of(timeframes, **options)
        oracle = Oracle(timeframes, GRACE_NS, DIVISOR, since_ns)
        for step in steps:
            if step == "restart":
                restored = fold_of(timeframes)
                restored.restore(fold.state())
                assert restored.state() == fold.state()
                fold = restored
            elif isinstance(step, int):
                assert bars(fold.tick(step).closed) == oracle.feed([], step)
            else:
                folded = fold.fold(records(step))
                assert bars(folded.closed) == oracle.feed(step)
                assert folded.unknown == []
            assert bars(fold.open_bars()) == oracle.forming()
    finally:
        candles_module.FEW_TRADES = original


@settings(max_examples=200, deadline=None)
@given(steps, st.integers(1, 4), st.sampled_from([0, 3, 10**9]))
def test_the_final_version_of_every_bar_is_exact_however_few_bars_are_kept(steps, keep, few):
    """What is beyond the kept bars is named, and computed from all trades gives the oracle's bar."""
    original = candles_module.FEW_TRADES
    candles_module.FEW_TRADES = few
    try:
        fold = fold_of(keep=keep, observed_since_ns=START)
        oracle = Oracle(TIMEFRAMES, GRACE_NS, DIVISOR, START)
        final, expected = {}, {}
        for step in steps:
            if step == "restart":
                state = fold.state()
                fold = fold_of(keep=keep)
                fold.restore(state)
                continue
            folded = fold.tick(step) if isinstance(step, int) else fold.fold(records(step))
            came = oracle.feed([], step) if isinstance(step, int) else oracle.feed(step)
            expected |= {bar[:2]: bar[:-1] for bar in came}
            rebuilt = [rebuild(oracle.trades, *key) for key in folded.unknown]
            final |= {bar[:2]: bar[:-1] for bar in bars(folded.closed) + rebuilt}
            assert len(folded.closed) + len(rebuilt) == len(came)
        assert final == expected
    finally:
        candles_module.FEW_TRADES = original


def rebuild(trades, timeframe, ts):
    stored = records([t for t in trades if ts <= t[0] < ts + timeframe * SECOND])
    (bar,) = bars(bars_from_trades(stored, timeframe, **SCALES, observed_since_ns=START))
    return bar


@settings(max_examples=100, deadline=None)
@given(st.lists(trades_strategy, min_size=1, max_size=60), st.lists(st.integers(1, 60), max_size=6))
def test_final_bars_do_not_depend_on_how_trades_are_cut_into_batches(trades, cuts):
    def final(pieces):
        fold = fold_of(complete_from_ns=ABSENT, observed_since_ns=START)
        closed = [bar for piece in pieces if piece for bar in bars(fold.fold(records(piece)).closed)]
        closed += bars(fold.tick(START + 10_000 * SECOND).closed)
        return {bar[:2]: bar[:-1] for bar in closed}

    edges = [0, *sorted(cuts), len(trades)]
    pieces = [trades[a:b] for a, b in itertools.pairwise(edges)]
    assert final(pieces) == final([trades])


def test_a_bar_closes_when_newest_passes_its_end_by_grace(path):
    fold = fold_of([1])
    assert not len(fold.fold(records([trade(0.5)])).closed)
    assert not len(fold.fold(records([trade(1.2499)])).closed)
    assert len(fold.open_bars()) == 2
    closed = fold.fold(records([trade(1.25)])).closed
    assert closed["ts"].tolist() == [START]
    assert closed["source"].tolist() == [Source.OWN]
    assert (closed["ts_known"][0], closed["seq"][0]) == (0, 0)


def test_a_tick_closes_bars_and_an_older_tick_does_nothing(path):
    fold = fold_of([1])
    fold.fold(records([trade(0.5)]))
    assert fold.tick(START + 2 * SECOND).closed["ts"].tolist() == [START]
    assert not len(fold.tick(START).closed)
    assert fold.newest_ns == START + 2 * SECOND


def test_the_open_table_is_candle_records_with_empty_slots_marked(path):
    fold = fold_of([1, 60])
    assert fold.newest_ns is None
    fold.fold(records([trade(1.5, price=7)]))
    table = np.frombuffer(fold.open_table, dtype=CANDLE)
    assert len(table) == 4
    occupied = table[table["ts"] != ABSENT]
    assert sorted(occupied["timeframe"].tolist()) == [1, 60]
    assert occupied["close"].tolist() == [7, 7]
    assert fold.open_bars().tobytes() == np.sort(occupied, order="timeframe").tobytes()


def test_trades_of_one_batch_are_not_late_for_one_another(path):
    fold = fold_of([1], observed_since_ns=START)
    batch = [trade(0.1, 10), trade(9, 20), trade(0.2, 30), trade(2.5, 40), trade(0.05, 5), trade(9.1, 1)]
    closed = fold.fold(records(batch)).closed
    assert closed["ts"].tolist() == [START, START + 2 * SECOND]
    assert closed["flags"].tolist() == [0, 0]
    assert (closed["open"][0], closed["close"][0], closed["trade_count"][0]) == (5, 30, 3)


def test_a_late_trade_revises_open_close_and_sums_of_its_bar(path):
    fold = fold_of([1], observed_since_ns=START)
    fold.fold(records([trade(0.5, 100), trade(0.5, 101), trade(3, 1)]))
    revised = fold.fold(records([trade(0.5, 99), trade(0.4, 98, side=-1)])).closed
    assert bars(revised) == [(1, START, 98, 101, 98, 99, 4, 0, 3, 4, CandleFlag.REVISED)]
    new = fold.fold(records([trade(1.5, 50)])).closed
    assert bars(new) == [(1, START + SECOND, 50, 50, 50, 50, 1, 0, 1, 1, 0)]


def test_a_bar_that_opens_behind_an_open_one_is_found_again_when_trades_come_late(path):
    fold = fold_of([1], observed_since_ns=START)
    fold.fold(records([trade(11.1)]))
    batch = [trade(10.95), trade(30), trade(10.96)]
    assert fold.fold(records(batch)).closed["trade_count"].tolist() == [2, 1]
    late = fold.fold(records([trade(11.2), trade(10.5)])).closed
    assert [bar[-2:] for bar in bars(late)] == [(3, CandleFlag.REVISED), (2, CandleFlag.REVISED)]


def test_what_lies_before_the_first_event_is_unknown(path):
    fold = fold_of([1, 60])
    fold.fold(records([trade(10)]))
    folded = fold.fold(records([trade(0.5), trade(0.6), trade(8.5)]))
    assert folded.unknown == [(1, START), (1, START + 8 * SECOND), (60, START - 59 * SECOND)]
    assert not len(folded.closed)


def test_trades_off_the_market_move_time_but_no_bar(path):
    fold = fold_of([1], observed_since_ns=START)
    fold.fold(records([trade(0.5)]))
    closed = fold.fold(records([trade(5, flags=8), trade(5.1, flags=8)])).closed
    assert closed["trade_count"].tolist() == [1]
    assert not len(fold.open_bars())


@pytest.mark.parametrize("late", [False, True])
def test_a_batch_that_overflows_a_sum_is_refused_and_changes_nothing(path, late):
    fold = fold_of([1, 60], observed_since_ns=START)
    fold.fold(records([trade(0.5, 1, MAX_FIXED - 5), trade(0.6, 2, 3)]))
    if late:
        fold.tick(START + 100 * SECOND)
    before = fold.state()
    table = bytes(fold.open_table)
    batch = [trade(8, 1), trade(3, 1), trade(0.7, 1, 9)]
    for refused in (batch, [trade(0.7, 1, 9)], [trade(0.7, MAX_FIXED, MAX_FIXED)]):
        with pytest.raises(RangeError, match="64 bits"):
            fold.fold(records(refused))
        assert fold.state() == before
        assert bytes(fold.open_table) == table
    other = fold_of([1, 60])
    other.restore(before)
    assert bars(fold.tick(START + 2 * SECOND).closed) == bars(other.tick(START + 2 * SECOND).closed)
    assert bars(fold.fold(records(batch[:2])).closed) == bars(other.fold(records(batch[:2])).closed)
    assert fold.state() == other.state() != before


@given(
    st.lists(
        st.tuples(st.integers(0, 39), st.integers(1, 9), st.integers(1, 2000), st.sampled_from([-1, 0, 1])),
        min_size=1,
        max_size=120,
    ),
    st.booleans(),
)
def test_trades_of_one_second_one_by_one_leave_the_bars_that_they_leave_together(offered, in_order):
    if in_order:
        offered.sort(key=lambda one: one[0])
    array = records([(START + n * 25_000_000, price, size, side, 0) for n, price, size, side in offered])
    one_by_one, together = fold_of(), fold_of()
    for index in range(len(array)):
        one_by_one.fold(array[index : index + 1])
    together.fold(array)
    assert one_by_one.state() == together.state()
    assert one_by_one.open_bars().tobytes() == together.open_bars().tobytes()


def test_a_sum_that_overflows_in_the_midst_of_a_second_changes_nothing():
    fold = fold_of()
    for size in (1, 1, 1, 2**62):
        fold.fold(records([trade(0, price=1, size=size)]))
    before = fold.state()
    with pytest.raises(RangeError, match="64 bits"):
        fold.fold(records([trade(0, price=1, size=2**62)]))
    assert fold.state() == before
    fold.fold(records([trade(0, price=1, size=5)]))
    assert [bar["volume"] for bar in fold.open_bars()] == [2**62 + 8] * len(TIMEFRAMES)


def test_an_overflow_of_quote_volume_is_found_too(path):
    fold = BarFold([1], price_scale=0, size_scale=0, quote_scale=0, complete_from_ns=ABSENT)
    fold.fold(records([trade(0.5, 3_000_000_000, 3_000_000_000)]))
    with pytest.raises(RangeError):
        fold.fold(records([trade(0.5, 3_000_000_000, 3_000_000_000)]))


def test_bars_before_the_observation_began_or_in_a_gap_are_partial(path):
    fold = fold_of([1, 5], observed_since_ns=START + SECOND)
    fold.gap(START + round(3.5 * SECOND), START + 4 * SECOND)
    closed = fold.fold(records([trade(n + 0.5) for n in range(9)])).closed
    partial = {(int(c["timeframe"]), int(c["ts"] - START) // SECOND): int(c["flags"]) for c in closed}
    assert partial == {
        **{(1, 0): 1, (1, 1): 0, (1, 2): 0, (1, 3): 1, (1, 4): 0, (1, 5): 0, (1, 6): 0, (1, 7): 0},
        **{(5, -4): 1, (5, 1): 1},
    }


def test_a_gap_reported_late_marks_open_bars_and_makes_new_versions_of_closed_ones(path):
    fold = fold_of([1], observed_since_ns=START)
    fold.fold(records([trade(n + 0.5) for n in range(5)]))
    marked = fold.gap(START + round(2.5 * SECOND), START + round(4.1 * SECOND))
    both = CandleFlag.PARTIAL | CandleFlag.REVISED
    assert [(bar[1] - START, bar[-1]) for bar in bars(marked)] == [(2 * SECOND, both), (3 * SECOND, both)]
    assert fold.open_bars()["flags"].tolist() == [CandleFlag.PARTIAL]
    full = fold.filled(START, START + 5 * SECOND)
    assert [(bar[1] - START, bar[-1]) for bar in bars(full)] == [(2 * SECOND, 4), (3 * SECOND, 4)]
    assert fold.open_bars()["flags"].tolist() == [0]
    assert not len(fold.filled(START, START + 5 * SECOND))


def test_observing_from_now_on_makes_later_bars_full(path):
    fold = fold_of([1])
    fold.fold(records([trade(0.5)]))
    assert not len(fold.observe(START + SECOND))
    closed = fold.fold(records([trade(1.5), trade(5)])).closed
    assert closed["flags"].tolist() == [CandleFlag.PARTIAL, 0]


def test_flushed_bars_are_partial_go_on_forming_and_their_close_revises_them(path):
    fold = fold_of([1, 5], observed_since_ns=START - 60 * SECOND)
    fold.fold(records([trade(0.5), trade(1.5)]))
    flushed = fold.flush()
    assert [bar[:2] + bar[-2:] for bar in bars(flushed)] == [
        (1, START + SECOND, 1, CandleFlag.PARTIAL),
        (5, START + SECOND, 1, CandleFlag.PARTIAL),
    ]
    assert not len(fold.flush())
    restored = fold_of([1, 5])
    restored.restore(fold.state())
    restored.fold(records([trade(1.6)]))
    again = restored.flush()
    assert {bar[-1] for bar in bars(again)} == {CandleFlag.PARTIAL | CandleFlag.REVISED}
    closed = restored.tick(START + 100 * SECOND).closed
    assert [bar[-2:] for bar in bars(closed) if bar[1] > START] == [(2, CandleFlag.REVISED)] * 2


def test_a_timeframe_added_in_a_restart_starts_partial_and_one_left_out_is_dropped(path):
    fold = fold_of([1, 5], observed_since_ns=START - 60 * SECOND)
    fold.fold(records([trade(2.5)]))
    other = fold_of([1, 60])
    other.restore(fold.state())
    closed = other.fold(records([trade(3), trade(70), trade(200)])).closed
    by_key = {bar[:2]: bar[-1] for bar in bars(closed)}
    assert by_key == {
        (1, START + 2 * SECOND): 0,
        (1, START + 3 * SECOND): 0,
        (1, START + 70 * SECOND): 0,
        (60, START + SECOND): CandleFlag.PARTIAL,
        (60, START + 61 * SECOND): 0,
    }


def test_a_longer_grace_after_a_restart_closes_no_bar_twice(path):
    fold = BarFold([1], **SCALES, grace_ns=0, observed_since_ns=START)
    fold.fold(records([trade(0.5), trade(1.1)]))
    later = BarFold([1], **SCALES, grace_ns=SECOND)
    later.restore(fold.state())
    closed = later.fold(records([trade(0.9)])).closed
    assert [(bar[1], bar[-2:]) for bar in bars(closed)] == [(START, (2, CandleFlag.REVISED))]


def test_state_of_other_scales_or_of_nonsense_is_refused():
    fold = fold_of()
    with pytest.raises(InvalidArgument, match="scales"):
        BarFold([1], price_scale=1, size_scale=3, quote_scale=2).restore(fold.state())
    with pytest.raises(InvalidArgument, match="state"):
        fold.restore(b"nonsense")
    fold.tick(START)
    with pytest.raises(InvalidArgument, match="seen nothing"):
        fold.restore(fold.state())


def test_bars_from_the_store_are_adopted_as_closed_or_forming(path):
    whole = fold_of([1, 60], observed_since_ns=START - 60 * SECOND)
    first = [trade(1.2, 5), trade(1.6, 6), trade(3.1, 7)]
    closed = whole.fold(records(first)).closed
    forming = whole.open_bars()
    started = fold_of([1, 60], observed_since_ns=START - 60 * SECOND)
    started.tick(START + round(3.1 * SECOND))
    times = np.array([START + round(1.2 * SECOND), START + round(3.1 * SECOND), START + round(1.2 * SECOND)])
    lasts = np.array([START + round(1.6 * SECOND), START + round(3.1 * SECOND), START + round(3.1 * SECOND)])
    stored = np.concatenate((closed, forming))
    stored["seq"] = 9
    started.adopt(stored, times, lasts)
    later = records([trade(1.3, 1), trade(1.7, 9), trade(100)])
    adopted = [bar[:-1] for bar in bars(started.fold(later).closed)]
    assert adopted == [bar[:-1] for bar in bars(whole.fold(later).closed)]
    with pytest.raises(InvalidArgument, match="known"):
        started.adopt(closed, times[:1], lasts[:1])
    closed["source"] = Source.VENUE
    with pytest.raises(InvalidArgument, match="own"):
        started.adopt(closed, times[:1], lasts[:1])


@pytest.mark.parametrize(
    "options",
    [{"timeframes": []}, {"timeframes": [0]}, {"grace_ns": -1}, {"grace_ns": 2 * SECOND}, {"keep": 0}],
)
def test_impossible_settings_are_refused_early(options):
    with pytest.raises(InvalidArgument):
        BarFold(**{"timeframes": [1], **SCALES, **options})


def test_a_long_stretch_in_one_batch_equals_the_same_in_small_ones():
    rng = np.random.default_rng(5)
    count = 3000
    array = np.zeros(count, dtype=TRADE)
    array["ts_event"] = START + np.sort(rng.integers(0, 2_000_000, count)) * 1_000_000
    array["price"] = rng.integers(1, 1000, count)
    array["size"] = rng.integers(1, 1000, count)
    array["side"] = rng.integers(-1, 2, count)
    at_once, one_by_one = fold_of(keep=50), fold_of(keep=50)
    closed = at_once.fold(array).closed
    pieces = [one_by_one.fold(array[i : i + 1]).closed for i in range(count)]
    assert closed.tobytes() == np.concatenate(pieces).tobytes()
    assert at_once.state() == one_by_one.state()
