"""Numbers, times and durations as people read them, and back from what they type."""

from __future__ import annotations

import argparse
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.market.errors import InvalidArgument
from marketd.market.times import ABSENT, NS_PER_SECOND
from marketd.ops import words
from marketd.ops.daemons import seconds
from marketd.ops.moments import moment, parse_moment

NOW = 1_723_161_240 * NS_PER_SECOND


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (128 << 20, "128 MiB"), (5 << 50, "5120 TiB")],
)
def test_sizes_have_three_digits_and_a_unit(count: int | None, text: str) -> None:
    assert words.size(count) == text


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (None, "-"),
        (0.0042, "4.2 ms"),
        (1.5, "1.5 s"),
        (75, "1 min 15 s"),
        (3 * 3600 + 61, "3 h 1 min"),
        (90_061, "1 d 1 h"),
    ],
)
def test_durations_have_their_two_largest_units(length: float | None, text: str) -> None:
    assert words.duration(length) == text


def test_what_is_not_known_is_a_dash() -> None:
    assert words.moment(None) == words.moment(0) == words.moment(ABSENT) == words.age(None, NOW) == "-"
    assert words.moment(NOW) == "2024-08-08T23:54:00.000000Z"
    assert words.age(NOW - NS_PER_SECOND, NOW) == "1.0 s"


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e15, max_value=1e15))
def test_real_numbers_have_no_exponent_and_keep_their_value(value: float) -> None:
    text = words.real(value)
    assert "e" not in text
    assert math.isclose(float(text), value, rel_tol=1e-9, abs_tol=1e-18)


def test_reals_are_as_short_as_they_can_be() -> None:
    assert [words.real(value) for value in (61000.0, 0.1, 1e-7, math.nan)] == ["61000", "0.1", "0.0000001", ""]


@pytest.mark.parametrize(
    ("text", "ts_ns"),
    [
        ("2024-08-08T23:54:00Z", NOW),
        ("2024-08-08T23:54", NOW),
        ("2024-08-09T01:54:00+02:00", NOW),
        ("2024-08-08", NOW - (23 * 3600 + 54 * 60) * NS_PER_SECOND),
        (str(NOW), NOW),
        ("now", NOW),
        ("15min", NOW - 900 * NS_PER_SECOND),
        ("-1h", NOW - 3600 * NS_PER_SECOND),
    ],
)
def test_times_are_what_a_person_types_and_utc_by_default(text: str, ts_ns: int) -> None:
    assert parse_moment(text, NOW) == ts_ns


def test_what_is_no_time_is_refused_with_an_example() -> None:
    with pytest.raises(InvalidArgument, match="15min"):
        parse_moment("yesterday")
    with pytest.raises(argparse.ArgumentTypeError):
        moment("5 parsecs")


def test_durations_of_options_are_seconds_or_have_a_unit() -> None:
    assert [seconds(text) for text in ("2", "0.5", "500ms", "1min")] == [2.0, 0.5, 0.5, 60.0]
    with pytest.raises(argparse.ArgumentTypeError):
        seconds("soon")
