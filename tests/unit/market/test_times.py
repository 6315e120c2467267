"""Times at the API's edge: exact, and never naive."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.market.errors import InvalidArgument
from marketd.market.times import (
    ABSENT,
    floor_us,
    isoformat_ns,
    parse_duration_ns,
    parse_time_ns,
    parse_timeframe,
    timeframe_name,
)

T = 1_723_161_240_123_456_000


@pytest.mark.parametrize(
    "value",
    [
        T,
        np.int64(T),
        "2024-08-08T23:54:00.123456+00:00",
        "2024-08-08T23:54:00.123456Z",
        "2024-08-09T01:54:00.123456+02:00",
        datetime(2024, 8, 8, 23, 54, 0, 123456, tzinfo=UTC),
        datetime(2024, 8, 8, 18, 54, 0, 123456, tzinfo=timezone(timedelta(hours=-5))),
    ],
)
def test_a_moment_may_be_written_in_many_ways(value):
    assert parse_time_ns(value) == T


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (1_700_000_000, "as s it is 2023-11-14T22:13:20.000000+00:00: multiply it by 1_000_000_000"),
        (1_700_000_000_000, "as ms it is 2023-11-14T22:13:20.000000+00:00: multiply it by 1_000_000"),
        (np.int64(1_700_000_000_000_000), "as us it is 2023-11-14T22:13:20.000000+00:00: multiply it by 1_000"),
    ],
)
def test_an_integer_of_another_unit_is_refused_and_told(number, said):
    with pytest.raises(InvalidArgument, match="start: integers are ns since 1970") as caught:
        parse_time_ns(number, field="start")
    assert said in str(caught.value)


@pytest.mark.parametrize("number", [0, 1, -1_700_000_000, 1_000_000_000, 1_230_767_999 * 10**9])
def test_an_integer_that_is_no_time_of_a_market_in_any_unit_is_taken_as_ns(number):
    assert parse_time_ns(number) == number


def test_a_pandas_timestamp_keeps_its_nanoseconds():
    pandas = pytest.importorskip("pandas")
    assert parse_time_ns(pandas.Timestamp(T + 789, tz="Europe/Berlin")) == T + 789
    with pytest.raises(InvalidArgument):
        parse_time_ns(pandas.NaT)


@pytest.mark.parametrize(
    "value",
    [
        datetime(2024, 8, 8),
        "2024-08-08T23:54:00",
        "2024-08-08",
        "yesterday",
        "",
        None,
        True,
        1.5,
        2**63,
        -(2**63) - 1,
        np.datetime64("2024-08-08"),
        np.array([1, 2]),
        [T],
    ],
)
def test_what_is_naive_or_no_time_is_refused_and_the_field_named(value):
    with pytest.raises(InvalidArgument, match=r"^start: ") as refusal:
        parse_time_ns(value, field="start")
    assert refusal.value.field == "start"


@given(st.datetimes(min_value=datetime(1678, 1, 1), max_value=datetime(2262, 1, 1)))
def test_iso_text_and_back_is_exact(moment):
    ts_ns = parse_time_ns(moment.replace(tzinfo=UTC))
    assert ts_ns % 1000 == 0
    assert parse_time_ns(isoformat_ns(ts_ns)) == ts_ns


def test_times_are_floored_also_before_1970():
    assert [floor_us(t) for t in (1999, 1000, -1, ABSENT)] == [1000, 1000, -1000, -9223372036854776000]


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("250ms", 250_000_000),
        ("5min", 300_000_000_000),
        ("1h", 3_600_000_000_000),
        (" 1.5 s ", 1_500_000_000),
        ("1w", 604_800_000_000_000),
        (2, 2_000_000_000),
        (0.25, 250_000_000),
        (timedelta(days=1, microseconds=1), 86_400_000_001_000),
    ],
)
def test_durations_bear_their_unit(text, ns):
    assert parse_duration_ns(text) == ns


@pytest.mark.parametrize(
    "text", ["", "5", "5 parsecs", "ms", "-5s", "1e3s", True, None, float("nan"), float("inf"), "9" * 400 + "s"]
)
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(InvalidArgument, match=r"^grace: "):
        parse_duration_ns(text, field="grace")


@pytest.mark.parametrize(("text", "seconds"), [("1s", 1), ("90s", 90), ("5m", 300), ("4h", 14_400), ("1d", 86_400)])
def test_a_timeframe_and_its_name(text, seconds):
    assert parse_timeframe(text) == parse_timeframe(seconds) == seconds
    assert timeframe_name(seconds) == text


@pytest.mark.parametrize(
    "text", ["0s", "1w", "1M", "m", "", "-1m", 0, -60, True, None, 1.0, "99999999d", 2**31, "9" * 5000 + "d"]
)
def test_what_is_no_timeframe_is_refused(text):
    with pytest.raises(InvalidArgument, match=r"^timeframe: "):
        parse_timeframe(text)
