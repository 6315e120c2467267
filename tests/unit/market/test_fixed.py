"""Decimal text and reals to fixed point and back: exact, or refused by name."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from marketd.market.errors import NotFiniteError, PrecisionError, RangeError, RuleViolation
from marketd.market.fixed import (
    MAX_FIXED,
    checked_sum,
    format_fixed,
    mul_floor,
    parse_fixed,
    parse_fixed_array,
    quote_factors,
    to_real,
)
from marketd.market.times import ABSENT

scales = st.integers(0, 18)
fixed_points = st.integers(-MAX_FIXED, MAX_FIXED)


@pytest.mark.parametrize(
    ("text", "scale", "expected"),
    [
        ("61837.63000000", 2, 6183763),
        ("1e-7", 8, 10),
        ("1E-7", 7, 1),
        ("1.5e3", 0, 1500),
        ("+1.50", 1, 15),
        ("-0.0", 3, 0),
        ("-12.5", 1, -125),
        (".5", 1, 5),
        ("5.", 1, 50),
        ("0e99999999999999", 2, 0),
        ("0.00000000", 0, 0),
        ("000000000000000000000000001.0", 2, 100),
        ("9223372036854775807", 0, MAX_FIXED),
        ("92233720368547758.07", 2, MAX_FIXED),
        (b"0.1", 1, 1),
        (7, 2, 700),
        (np.int64(7), 2, 700),
        (Decimal("1E+2"), 1, 1000),
        (Decimal("0.10"), 1, 1),
        (0.1, 1, 1),
        (12345678901.23, 8, 1234567890123000000),
        (np.float64(2.5), 1, 25),
        (np.float32(2.5), 1, 25),
    ],
)
def test_numbers_are_taken_exactly(text, scale, expected):
    assert parse_fixed(text, scale) == expected


@pytest.mark.parametrize(
    ("text", "scale", "error"),
    [
        ("0.123", 2, PrecisionError),
        ("1e-7", 6, PrecisionError),
        ("61837.630000000000000000000000000000001", 2, PrecisionError),
        ("61837.630000000001", 2, PrecisionError),  # its double is that of 61837.63
        ("1e-99999999999999999999", 2, PrecisionError),
        (0.123, 2, PrecisionError),
        (Decimal("0.001"), 2, PrecisionError),
        ("9223372036854775808", 0, RangeError),
        ("-9223372036854775808", 0, RangeError),  # int64's minimum means absent
        ("1e19", 0, RangeError),
        ("1e99999999999999999999", 0, RangeError),
        ("1" * 513, 0, RangeError),
        (2**63, 0, RangeError),
        (10**18, 2, RangeError),
        (1e300, 2, RangeError),
        ("nan", 2, NotFiniteError),
        ("Infinity", 2, NotFiniteError),
        ("", 2, NotFiniteError),
        (".", 2, NotFiniteError),
        ("e5", 2, NotFiniteError),
        ("1_000", 2, NotFiniteError),
        (" 1", 2, NotFiniteError),
        ("1\n", 2, NotFiniteError),
        ("\u0661", 2, NotFiniteError),
        ("\u00b2", 2, NotFiniteError),
        ("0x10", 2, NotFiniteError),
        ("1,5", 2, NotFiniteError),
        (b"\xff", 2, NotFiniteError),
        (float("nan"), 2, NotFiniteError),
        (float("-inf"), 2, NotFiniteError),
        (Decimal("sNaN"), 2, NotFiniteError),
        (True, 2, NotFiniteError),
        (None, 2, NotFiniteError),
        ([1], 2, NotFiniteError),
    ],
)
def test_what_cannot_be_taken_is_refused_by_name_and_field(text, scale, error):
    with pytest.raises(error, match=r"^price: ") as refusal:
        parse_fixed(text, scale, field="price")
    assert refusal.value.field == "price"


def test_float_noise_is_snapped_to_the_grid_and_reported():
    parsed = parse_fixed_array(np.array([0.1, 0.1 + 0.2, 61837.63, 61837.630000004, 1.26]), 2)
    assert parsed.values.tolist() == [10, 30, 6183763, 6183763, 126]
    assert parsed.snapped.tolist() == [False, True, False, True, False]
    assert parsed.errors == {}


def test_a_bad_number_in_a_list_does_not_cost_its_neighbours():
    texts = ["1.5", "x", "2.25", "0.001", "1e30", "-3", "1_0", "1.2.3", *["4.00"] * 20]
    values, snapped, errors = parse_fixed_array(texts, 2)
    assert values.tolist() == [150, ABSENT, 225, ABSENT, ABSENT, -300, ABSENT, ABSENT, *[400] * 20]
    assert not snapped.any()
    assert {index: error.rule for index, error in errors.items()} == {
        1: "not_finite",
        3: "precision",
        4: "range",
        6: "not_finite",
        7: "not_finite",
    }


@pytest.mark.parametrize("text", ["1_0", " 1", "nan", "inf", "61837.630000000001", "1.2.3", "", "\u0661"])
def test_a_text_that_only_float_would_take_is_refused_in_bulk_too(text):
    for texts in (["1.50"] * 20 + [text], [b"1.50"] * 20 + [text.encode()]):
        values, _, errors = parse_fixed_array(texts, 2)
        assert values.tolist() == [150] * 20 + [ABSENT]
        assert list(errors) == [20]


def test_lists_of_other_types_and_empty_lists_are_taken_too():
    assert parse_fixed_array([], 2).values.tolist() == []
    assert parse_fixed_array(np.array([]), 2).values.tolist() == []
    assert parse_fixed_array([1, 2.5, "3", b"4", Decimal(5)], 1).values.tolist() == [10, 25, 30, 40, 50]
    assert parse_fixed_array(np.array([1, 2]), 1).values.tolist() == [10, 20]
    assert parse_fixed_array([*["1.5"] * 20, b"2.5"], 1).values.tolist() == [15] * 20 + [25]


@given(fixed_points, scales)
def test_text_of_a_fixed_point_number_parses_back_to_it(value, scale):
    text = format_fixed(value, scale)
    assert Fraction(Decimal(text)) == Fraction(value, 10**scale)
    assert parse_fixed(text, scale) == value
    assert parse_fixed_array([text] * 17, scale).values.tolist() == [value] * 17


@given(st.from_regex(r"\A[+-]?[0-9]{0,20}(\.[0-9]{0,20})?([eE][+-]?[0-9]{1,3})?\Z"), scales)
def test_any_decimal_text_is_taken_as_decimal_takes_it(text, scale):
    try:
        expected = Fraction(Decimal(text)) * 10**scale
    except ArithmeticError:
        expected = None
    try:
        value = parse_fixed(text, scale)
    except RuleViolation as error:
        if error.rule == "precision":
            assert expected is not None and expected.denominator != 1
        elif error.rule == "range":
            assert expected is not None and abs(expected) > MAX_FIXED
        else:
            assert expected is None
    else:
        assert value == expected


@given(st.lists(st.text("0123456789.", max_size=22), min_size=17, max_size=40), scales)
def test_the_bulk_way_equals_one_by_one(texts, scale):
    for batch in (texts, [text.encode() for text in texts]):
        parsed = parse_fixed_array(batch, scale)
        for index, text in enumerate(texts):
            try:
                expected = parse_fixed(text, scale)
            except RuleViolation as error:
                assert type(parsed.errors[index]) is type(error)
                assert parsed.values[index] == ABSENT
            else:
                assert index not in parsed.errors
                assert parsed.values[index] == expected


noisy = st.builds(
    lambda grid, quarters, scale: (grid + quarters / 4) / 10**scale,
    st.integers(-(10**15), 10**15),
    st.integers(-2, 2),
    st.integers(0, 13),
)


@example([6.103515625e-05], 13)  # half way between two points of the grid, and as near as noise is
@example([-6.103515625e-05], 13)
@given(st.lists(st.floats() | noisy, max_size=30), scales)
def test_the_bulk_way_of_floats_equals_one_by_one(floats, scale):
    parsed = parse_fixed_array(np.array(floats, dtype=np.float64), scale)
    for index, value in enumerate(floats):
        try:
            expected = parse_fixed(value, scale)
        except RuleViolation as error:
            assert type(parsed.errors[index]) is type(error)
        else:
            assert parsed.values[index] == expected


@pytest.mark.parametrize(
    ("value", "scale", "fixed"), [(6.103515625e-05, 13, 610351563), (-6.103515625e-05, 13, -610351562)]
)
def test_a_float_half_way_between_two_points_of_the_grid_is_snapped_to_the_greater(value, scale, fixed):
    assert parse_fixed(value, scale) == fixed
    assert parse_fixed_array(np.array([value]), scale).values.tolist() == [fixed]


@given(st.integers(-(2**53) + 1, 2**53 - 1), scales)
def test_reals_are_the_double_of_the_decimal_text(value, scale):
    real = to_real(np.array([value]), scale)[0]
    assert real == float(format_fixed(value, scale))
    assert parse_fixed(float(real), scale) == value or abs(value) > 10**15


def test_an_absent_value_is_nan():
    assert np.isnan(to_real(np.array([ABSENT, 5]), 1)).tolist() == [True, False]
    assert format_fixed(ABSENT, 2) == "NaN"
    assert [format_fixed(-5, 2), format_fixed(5, 0), format_fixed(12345, 2)] == ["-0.05", "5", "123.45"]


@given(
    st.lists(st.tuples(st.integers(-(2**40), 2**40), st.integers(-(2**45), 2**45)), max_size=20),
    st.integers(0, 8),
    st.integers(0, 8),
    st.integers(0, 18),
)
def test_products_are_floored_exactly_also_beyond_64_bits(pairs, price_scale, size_scale, quote_scale):
    multiplier, divisor = quote_factors(price_scale, size_scale, quote_scale)
    expected = [price * size * multiplier // divisor for price, size in pairs]
    prices = np.array([pair[0] for pair in pairs], dtype=np.int64)
    sizes = np.array([pair[1] for pair in pairs], dtype=np.int64)
    if all(abs(quote) <= MAX_FIXED for quote in expected):
        quotes = mul_floor(prices, sizes, price_scale, size_scale, quote_scale)
        assert quotes.tolist() == expected
    else:
        with pytest.raises(RangeError):
            mul_floor(prices, sizes, price_scale, size_scale, quote_scale)


def test_a_sum_beyond_64_bits_is_an_error_and_not_a_wrapped_number():
    assert checked_sum(np.array([MAX_FIXED - 1, 1])) == MAX_FIXED
    assert checked_sum(np.array([], dtype=np.int64)) == 0
    with pytest.raises(RangeError, match="volume"):
        checked_sum(np.array([MAX_FIXED, 1]), field="volume")
