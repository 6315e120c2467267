"""Gaps: joined, filled, bounded, and the same answer for one bar and for many."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from marketd.market.observation import FOR_EVER, MAX_GAPS, Observation

stretches = st.tuples(st.integers(0, 60), st.integers(0, 60))


@given(st.lists(st.tuples(st.booleans(), stretches), max_size=15), st.sampled_from([None, 0, 5]), st.integers(1, 12))
def test_a_bar_is_partial_if_any_moment_of_it_was_missed(events, since, delta):
    observation, missed = Observation(since), set(range(-100, 200 if since is None else since))
    for is_gap, (start, end) in events:
        if is_gap:
            observation.add_gap(start, end)
            missed |= set(range(start, end))
        else:
            observation.fill(start, end)
            missed -= set(range(start, end))
    expected = [bool(missed & set(range(ts, ts + delta))) for ts in range(70)]
    assert [observation.partial(ts, delta) for ts in range(70)] == expected
    assert observation.partial_many(np.arange(70), delta).tolist() == expected
    assert observation.gaps == sorted(observation.gaps)


def partial_seconds(observation):
    return [ts for ts in range(30) if observation.partial(ts, 1)]


def test_what_was_fetched_before_anybody_observed_is_no_gap_afterwards():
    observation = Observation(None)
    observation.fill(5, 10)
    assert partial_seconds(observation) == [*range(5), *range(10, 30)]
    observation.fill(10, 12)
    observation.observe(20)
    assert partial_seconds(observation) == [*range(5), *range(12, 20)]
    observation.fill(12, 20)
    assert partial_seconds(observation) == [*range(5)]


def test_whoever_begins_to_observe_again_knows_nothing_of_the_time_between():
    observation = Observation(0)
    observation.add_gap(3, 5)
    observation.observe(20)
    assert partial_seconds(observation) == [*range(20)]
    observation.fill(8, 20)
    assert partial_seconds(observation) == [*range(8)]
    observation = Observation(None)
    observation.fill(5, 10)
    observation.observe(7)  # within what was fetched
    assert partial_seconds(observation) == [*range(5)]


def test_what_was_observed_before_nobody_did_is_kept_when_somebody_does_again():
    observation = Observation(0)
    observation.add_gap(10, FOR_EVER)
    observation.observe(10)  # and all of the time between was fetched
    assert partial_seconds(observation) == []
    observation.add_gap(20, FOR_EVER)
    observation.observe(25)
    assert partial_seconds(observation) == [*range(20, 25)]


def test_more_gaps_than_are_kept_make_more_partial_bars_and_never_fewer():
    observation = Observation(0)
    for n in range(MAX_GAPS + 3):
        observation.add_gap(10 * n, 10 * n + 1)
    assert len(observation.gaps) == MAX_GAPS
    assert observation.partial(5, 1)
    assert all(observation.partial(10 * n, 1) for n in range(MAX_GAPS + 3))
    assert not observation.partial(10 * MAX_GAPS + 5, 1)
