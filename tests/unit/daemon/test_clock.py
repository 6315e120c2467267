"""The clocks of the lanes, with injected time: strictly increasing, in microseconds, steps told once."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.daemon.clock import SLEW, STEP_NS, LiveClock, RecordedClock
from marketd.market.times import NS_PER_SECOND, NS_PER_US

T0 = 1_723_161_600 * NS_PER_SECOND + 123_456_789
BEAT_NS = 100_000_000


class Time:
    """A wall clock and a monotonic one, turned by hand."""

    def __init__(self) -> None:
        self.wall_ns, self.monotonic_ns = T0, 5_000_000

    def pass_by(self, ns: int, drift: int = 0) -> None:
        self.monotonic_ns += ns
        self.wall_ns += ns + drift

    def clock(self, last: int = 0) -> LiveClock:
        return LiveClock(last, wall=lambda: self.wall_ns, monotonic=lambda: self.monotonic_ns)


def test_the_first_moment_is_the_wall_clocks_in_whole_microseconds() -> None:
    time = Time()
    assert time.clock().next() == T0 - T0 % NS_PER_US


def test_moments_at_the_same_time_are_a_microsecond_apart() -> None:
    clock = Time().clock()
    moments = [clock.next() for _ in range(4)]
    assert [b - a for a, b in pairwise(moments)] == [NS_PER_US] * 3


def test_a_restart_before_the_last_known_moment_goes_on_behind_it() -> None:
    last = (T0 // NS_PER_US + 10**9) * NS_PER_US
    clock = Time().clock(last)
    assert [clock.next(), clock.next()] == [last + NS_PER_US, last + 2 * NS_PER_US]


steps = st.lists(
    st.tuples(st.integers(0, 2 * NS_PER_SECOND), st.integers(-(10**12), 10**12), st.booleans()), max_size=40
)


@given(steps)
def test_whatever_the_wall_clock_does_moments_rise_strictly_in_whole_microseconds(moves: list[tuple[int, ...]]) -> None:
    time = Time()
    clock = time.clock()
    last = clock.next()
    for passed, drift, correct in moves:
        time.pass_by(passed, drift)
        if correct:
            clock.correct()
        moment = clock.next()
        assert moment > last
        assert moment % NS_PER_US == 0
        last = moment
    assert clock.last == last


@given(st.lists(st.integers(0, 5 * NS_PER_SECOND), min_size=1, max_size=30))
def test_a_wall_clock_that_runs_true_is_followed_exactly_and_no_step_is_told(passed: list[int]) -> None:
    time = Time()
    clock = time.clock()
    for ns in passed:
        time.pass_by(ns)
        assert clock.correct() == 0
        assert clock.now() == time.wall_ns


def test_a_step_forward_is_followed_at_once_and_told_once() -> None:
    time = Time()
    clock = time.clock()
    time.pass_by(BEAT_NS, 3600 * NS_PER_SECOND)
    assert clock.correct() == 3600 * NS_PER_SECOND
    assert clock.now() == time.wall_ns
    time.pass_by(BEAT_NS)
    assert clock.correct() == 0


def test_after_a_step_back_time_goes_on_slower_until_the_wall_clock_has_caught_up() -> None:
    time = Time()
    clock = time.clock()
    time.pass_by(BEAT_NS, -10 * NS_PER_SECOND)
    assert clock.correct() == -10 * NS_PER_SECOND
    told = []
    while clock.now() - time.wall_ns > 0:
        before = clock.now()
        time.pass_by(BEAT_NS)
        told.append(clock.correct())
        assert clock.now() - before >= int(BEAT_NS * (1 - SLEW))
    assert set(told) == {0}
    assert len(told) == pytest.approx(10 * NS_PER_SECOND / (BEAT_NS * SLEW), abs=2)


def test_a_second_step_back_during_the_first_is_told_too() -> None:
    time = Time()
    clock = time.clock()
    time.pass_by(BEAT_NS, -10 * NS_PER_SECOND)
    clock.correct()
    time.pass_by(BEAT_NS, -5 * NS_PER_SECOND)
    assert clock.correct() == pytest.approx(-5 * NS_PER_SECOND, abs=BEAT_NS)


def test_a_clock_that_is_set_right_again_has_stepped_twice() -> None:
    time = Time()
    clock = time.clock()
    time.pass_by(BEAT_NS, -10 * NS_PER_SECOND)
    clock.correct()
    time.pass_by(BEAT_NS, 10 * NS_PER_SECOND)
    assert clock.correct() == pytest.approx(10 * NS_PER_SECOND, abs=BEAT_NS)


def test_two_shifts_that_are_a_step_only_together_are_told_when_they_are_followed() -> None:
    time = Time()
    clock = time.clock()
    time.pass_by(BEAT_NS, 900_000_000)
    assert clock.correct() == 0
    time.pass_by(BEAT_NS, 500_000_000)
    assert clock.correct() > STEP_NS
    assert clock.now() == time.wall_ns


@given(st.integers(-STEP_NS, STEP_NS))
def test_a_small_difference_is_worked_off_in_silence(drift: int) -> None:
    time = Time()
    clock = time.clock()
    time.pass_by(0, drift)
    for _ in range(int(STEP_NS / (BEAT_NS * SLEW)) + 1):
        time.pass_by(BEAT_NS)
        assert clock.correct() == 0
    assert clock.now() == time.wall_ns


def test_an_import_keeps_recorded_times_and_never_goes_back() -> None:
    clock = RecordedClock()
    moments = []
    for received in (1_000_999, 2_000_000, 2_000_000, 1_500_000, 9_000_000):
        clock.set(received)
        moments.append(clock.next())
    assert moments == [1_000_000, 2_000_000, 2_001_000, 2_002_000, 9_000_000]


@given(st.integers(0, 2**60), st.lists(st.integers(0, 2**62), max_size=30))
def test_recorded_moments_rise_strictly_behind_the_last_known_one(last: int, received: list[int]) -> None:
    last -= last % NS_PER_US
    clock = RecordedClock(last)
    for each in received:
        clock.set(each)
        moment = clock.next()
        assert moment > last
        assert moment % NS_PER_US == 0
        last = moment
