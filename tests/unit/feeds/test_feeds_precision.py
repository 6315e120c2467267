"""Scales from rules and from texts, and how long to wait before trying again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.daemon.feeds.backoff import Backoff
from marketd.daemon.feeds.precision import (
    Grid,
    floor_places,
    grid_of,
    places,
    quote_scale,
    split_pair,
    step_text,
)
from marketd.daemon.feeds.rest import WeightBudget
from marketd.market.errors import InvalidArgument
from marketd.market.fixed import format_fixed, parse_fixed


@pytest.mark.parametrize(("text", "expected"), [("61837.63000000", 2), ("5.00000000", 0), ("5", 0), ("0.00000001", 8)])
def test_places_that_mean_nothing_do_not_count(text: str, expected: int) -> None:
    assert places(text) == expected


@given(st.integers(0, 10**10), st.integers(0, 8), st.integers(0, 8))
def test_a_text_cut_to_fewer_places_is_its_floor(value: int, scale: int, kept: int) -> None:
    cut = floor_places(format_fixed(value, scale), kept)
    assert parse_fixed(cut, 8) == value * 10 ** (8 - scale) // 10 ** (8 - kept) * 10 ** (8 - kept)


@pytest.mark.parametrize("decimals", range(9))
def test_a_step_is_written_as_the_venue_does_and_read_back(decimals: int) -> None:
    assert grid_of(step_text(decimals), 0) == Grid(decimals, 1)


def test_quote_volumes_have_no_more_places_than_products_or_than_a_day_allows() -> None:
    assert quote_scale(2, 5, 8) == 7
    assert quote_scale(8, 8, 8) == 8
    assert quote_scale(0, 1, 8) == 1
    assert quote_scale(2, 5, 4) == 4


def test_pairs_are_split_at_a_known_quote_currency() -> None:
    assert split_pair("BTCUSDT") == ("BTC", "USDT")
    assert split_pair("BTCFDUSD") == ("BTC", "FDUSD")
    assert split_pair("ETHBTC") == ("ETH", "BTC")
    assert split_pair("ETHUSD_PERP") == ("ETH", "USD")
    assert split_pair("USDT") == ("", "")


def test_a_backoff_doubles_up_to_its_cap_with_jitter_and_begins_anew_when_reset() -> None:
    lowest, highest = Backoff(1.0, 8.0, rng=lambda: 0.0), Backoff(1.0, 8.0, rng=lambda: 1.0)
    assert [highest.next() for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert [lowest.next() for _ in range(5)] == [0.5, 1.0, 2.0, 4.0, 4.0]
    highest.reset()
    assert highest.next() == 1.0
    for _ in range(2000):
        highest.next()
    with pytest.raises(InvalidArgument):
        Backoff(2.0, 1.0)


def test_a_weight_budget_refills_over_a_minute_and_follows_the_venues_count() -> None:
    budget = WeightBudget(600, now=0.0)
    assert budget.wait_seconds(600, 0.0) == 0.0
    assert budget.wait_seconds(25, 0.0) == 2.5
    assert budget.wait_seconds(25, 2.5) == 0.0
    assert budget.left(62.5) == 600.0
    budget.used(590)
    assert budget.left(62.5) == 10.0
    assert budget.wait_seconds(100_000, 122.5) == 0.0  # a request beyond any minute takes a whole one
