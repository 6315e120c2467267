"""Bars by activity against a fold of one trade after another, in pieces of any size."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from math import floor
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.market.activity_bars import LATE_NS, MANY, ActivityFold
from marketd.market.activity_specs import ActivitySpec, real_thresholds, spec_of, specs_of
from marketd.market.errors import ConfigError, InvalidArgument, RangeError
from marketd.market.instruments import Instrument
from marketd.market.records import ACTIVITY_BAR, TRADE, ActivityFlag, Measure, Records, TradeFlag

INSTRUMENT = Instrument(id=1, symbol="X", venue="V", price_scale=2, size_scale=3, quote_scale=4)
SCALES: dict[str, Any] = {"price_scale": 2, "size_scale": 3, "quote_scale": 4}
MAX = 2**63 - 1
SPECS = (
    ActivitySpec(Measure.TICK, 1),
    ActivitySpec(Measure.TICK, 7),
    ActivitySpec(Measure.VOLUME, 40),
    ActivitySpec(Measure.DOLLAR, 900),
)

trades_drawn = st.lists(
    st.tuples(st.integers(0, 50), st.integers(1, 500), st.integers(1, 30), st.sampled_from((-1, 0, 1)), st.booleans()),
    max_size=3 * MANY,
)


def trades_of(rows: list[tuple[int, int, int, int, bool]]) -> Records:
    records = np.zeros(len(rows), dtype=TRADE)
    for i, (time, price, size, side, is_market) in enumerate(rows):
        records[i] = (time, 0, 0, i, price, size, side, 0 if is_market else TradeFlag.NOT_MARKET)
    return records


def oracle(rows: list[tuple[int, int, int, int, bool]], spec: ActivitySpec) -> tuple[list[tuple], list[Any]]:
    """(closed bars, trades of the forming one): one trade after another."""
    closed, forming = [], []
    for time, price, size, side, is_market in rows:
        if not is_market:
            continue
        forming.append((time, price, size, floor(Fraction(price * size, 10)), side))
        reached = {
            Measure.TICK: len(forming),
            Measure.VOLUME: sum(trade[2] for trade in forming),
            Measure.DOLLAR: sum(trade[3] for trade in forming),
        }[spec.measure]
        if reached >= spec.threshold:
            closed.append(bar_of(forming, spec))
            forming = []
    return closed, forming


def bar_of(trades: list[Any], spec: ActivitySpec) -> tuple:
    times, prices, sizes, quotes, sides = zip(*trades, strict=True)
    bought = sum(size for size, side in zip(sizes, sides, strict=True) if side == 1)
    ohlc = (prices[0], max(prices), min(prices), prices[-1])
    sums = (sum(sizes), sum(quotes), bought, len(trades))
    return (max(times), 0, 0, min(times), spec.threshold, *ohlc, *sums, int(spec.measure), 0)


@settings(deadline=None)
@given(trades_drawn, st.lists(st.integers(0, 2 * MANY), max_size=6))
def test_bars_are_those_of_one_trade_after_another_however_they_come(rows, cuts):
    fold = ActivityFold(SPECS, **SCALES)
    found: list[tuple] = []
    edges = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    records = trades_of(rows)
    for start, end in pairwise(edges):
        state, fold = fold.state(), ActivityFold(SPECS, **SCALES)
        fold.restore(state)
        found += fold.add(records[start:end]).tolist()
    forming = {(row[13], row[4]): row for row in fold.forming().tolist()}
    for spec in SPECS:
        closed, rest = oracle(rows, spec)
        assert [row for row in found if (row[13], row[4]) == (spec.measure, spec.threshold)] == closed
        assert forming.get((int(spec.measure), spec.threshold)) == (bar_of(rest, spec) if rest else None)


def test_the_trade_that_reaches_the_threshold_belongs_to_the_bar_that_it_closes():
    fold = ActivityFold([ActivitySpec(Measure.VOLUME, 10)], **SCALES)
    bars = fold.add(trades_of([(1, 100, 9, 1, True), (2, 103, 50, -1, True), (3, 90, 1, 1, True)]))
    assert bars.dtype == ACTIVITY_BAR
    assert bars["volume"].tolist() == [59]
    assert bars["buy_volume"].tolist() == [9]
    assert (bars["open"][0], bars["high"][0], bars["low"][0], bars["close"][0]) == (100, 103, 100, 103)
    assert fold.forming()["volume"].tolist() == [1]


@pytest.mark.parametrize("count", [2, MANY])
def test_a_bar_closes_early_rather_than_leave_64_bits(count):
    fold = ActivityFold([ActivitySpec(Measure.TICK, 1000)], price_scale=0, size_scale=0, quote_scale=0)
    bars = fold.add(trades_of([(1, 1, MAX - 1, 1, True)] * count))
    assert bars["flags"].tolist() == [ActivityFlag.EARLY] * (count - 1)
    assert bars["volume"].tolist() == [MAX - 1] * (count - 1)
    assert fold.forming()["volume"].tolist() == [MAX - 1]


@pytest.mark.parametrize("count", [1, MANY])
def test_a_trade_beyond_64_bits_is_refused_and_nothing_changes(count):
    fold = ActivityFold(SPECS, price_scale=0, size_scale=0, quote_scale=0)
    before = fold.state()
    with pytest.raises(RangeError):
        fold.add(trades_of([(1, MAX, MAX, 1, True)] * count))
    assert fold.state() == before


def test_bars_that_were_forming_when_trades_were_lost_are_partial():
    fold = ActivityFold([ActivitySpec(Measure.TICK, 2)], **SCALES)
    fold.interrupted()
    fold.add(trades_of([(1, 1, 1, 1, True)]))
    fold.interrupted()
    bars = fold.add(trades_of([(2, 1, 1, 1, True)] * 3))
    assert bars["flags"].tolist() == [ActivityFlag.PARTIAL, 0]


def test_a_fold_of_nothing_makes_nothing():
    assert not len(ActivityFold([], **SCALES).add(trades_of([(1, 1, 1, 1, True)])))
    assert not len(ActivityFold(SPECS, **SCALES).add(trades_of([])))
    with pytest.raises(InvalidArgument, match="twice"):
        ActivityFold([SPECS[0], SPECS[0]], **SCALES)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("tick:1000", ActivitySpec(Measure.TICK, 1000)),
        ("volume:12.5", ActivitySpec(Measure.VOLUME, 12_500)),
        ("dollar:1e6", ActivitySpec(Measure.DOLLAR, 10_000_000_000)),
        ("volume:0.0001", ActivitySpec(Measure.VOLUME, 1)),  # the first point of the grid that reaches it
        ("volume:1.0001", ActivitySpec(Measure.VOLUME, 1_001)),
        ("dollar:1e18", ActivitySpec(Measure.DOLLAR, MAX)),
    ],
)
def test_a_spec_is_read_at_the_instruments_scales(text, spec):
    assert spec_of(text, INSTRUMENT) == spec


@pytest.mark.parametrize(
    "text",
    ["", "tick", "tick:", "tick:0", "tick:-1", "tick:1.5", "volume:1e-19", "dollar:1e19", "volume:nan", "range:5"],
)
def test_a_spec_that_cannot_be_is_refused_and_the_field_named(text):
    with pytest.raises(ConfigError) as refusal:
        spec_of(text, INSTRUMENT, field="activity_bars.X")
    assert refusal.value.field == "activity_bars.X"


def test_an_instrument_gets_the_bars_of_its_name_else_those_of_every_one():
    wanted = {"X.V": ["tick:5", "volume:0.0001", "volume:0.001"], "*": ["tick:9"], "Z.V": []}
    five, nine = ActivitySpec(Measure.TICK, 5), ActivitySpec(Measure.TICK, 9)
    assert specs_of(wanted, INSTRUMENT) == [five, ActivitySpec(Measure.VOLUME, 1)]  # each once
    others = {name: msgspec.structs.replace(INSTRUMENT, symbol=name) for name in ("Y", "Z")}
    assert specs_of(wanted, others["Y"]) == [nine]
    assert specs_of(wanted, others["Z"]) == specs_of({}, INSTRUMENT) == []
    without_trades = [
        msgspec.structs.replace(INSTRUMENT, **change) for change in ({"venue": "COB"}, {"market": "global"})
    ]
    assert [specs_of(wanted, each) for each in without_trades] == [[], []]


def test_thresholds_are_real_numbers_at_the_scale_of_their_measure():
    specs = [spec_of(text, INSTRUMENT) for text in ("tick:7", "volume:12.5", "dollar:1e6")]
    measures, thresholds = (np.array(column) for column in zip(*specs, strict=True))
    assert real_thresholds(measures, thresholds, INSTRUMENT).tolist() == [7.0, 12.5, 1e6]


@settings(max_examples=50)
@given(trades_drawn, trades_drawn)
def test_never_more_bars_close_than_were_estimated(before, rows):
    fold = ActivityFold(SPECS, **SCALES)
    fold.add(trades_of(before))
    most = fold.most(trades_of(rows))
    assert len(fold.add(trades_of(rows))) <= most <= len(SPECS) * len(rows)


def test_bars_that_64_bits_close_are_among_the_estimate():
    rows = [(0, 1, MAX // 3, 1, True)] * (2 * MANY)
    fold = ActivityFold([ActivitySpec(Measure.TICK, 1000)], price_scale=0, size_scale=0, quote_scale=0)
    for size in (1, MANY, 2 * MANY):
        most = fold.most(trades_of(rows[:size]))
        assert len(fold.add(trades_of(rows[:size]))) <= most


@settings(max_examples=60)
@given(st.lists(st.integers(0, 200), max_size=2 * MANY), st.integers(1, 3 * MANY))
def test_a_trade_that_comes_much_later_than_the_newest_is_in_no_bar(seconds, piece):
    """As a backfill's, which go through beside the live ones."""
    fold = ActivityFold([ActivitySpec(Measure.TICK, 1)], **SCALES)
    rows = [(second * 10**9, 1 + number, 1, 1, True) for number, second in enumerate(seconds)]
    closed = []
    for start in range(0, len(rows), piece):
        closed += fold.add(trades_of(rows[start : start + piece]))["open"].tolist()
        state, fold = fold.state(), ActivityFold([ActivitySpec(Measure.TICK, 1)], **SCALES)
        fold.restore(state)
    in_time = [second * 10**9 >= max(seconds[: at + 1]) * 10**9 - LATE_NS for at, second in enumerate(seconds)]
    assert closed == [1 + number for number, is_in_time in enumerate(in_time) if is_in_time]


def test_bytes_that_are_no_state_are_refused():
    fold = ActivityFold(SPECS, **SCALES)
    for state in (b"", b"nonsense", msgspec.msgpack.encode([9, []])):
        with pytest.raises(InvalidArgument, match="state"):
            fold.restore(state)


def test_specs_that_a_state_does_not_have_begin_anew():
    fold = ActivityFold(SPECS[1:2], **SCALES)
    fold.add(trades_of([(1, 1, 1, 1, True)]))
    other = ActivityFold(SPECS[1:], **SCALES)
    other.restore(fold.state())
    assert other.forming()["measure"].tolist() == [Measure.TICK]
