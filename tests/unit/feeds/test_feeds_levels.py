"""Levels as venues write them: few, and whole books, are read to the same numbers and refused by the same rules."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.daemon.feeds.levels import MANY, MAX_TEXTS, LevelReader
from marketd.market.book import Levels
from marketd.market.errors import RuleViolation
from marketd.market.instruments import Instrument

PAIR = Instrument(id=1, symbol="X", venue="KRAKEN", price_scale=2, size_scale=5, quote_scale=7)

digits = st.integers(1, 10**17)
as_text = digits.map(lambda n: f"{n // 100}.{n % 100:02d}000")
as_bytes = digits.map(lambda n: f"{n // 100}.{n % 100:02d}".encode())
as_number = st.integers(1, 10**6) | st.integers(1, 10**8).map(lambda n: n / 100)


def one_by_one(rows: list[tuple[Any, Any]]) -> Levels:
    reader = LevelReader(PAIR)
    return Levels([reader.price(price) for price, _ in rows], [reader.size(size) for _, size in rows])


@given(st.sampled_from((as_text, as_bytes, as_number)).flatmap(lambda kind: st.lists(kind, min_size=1, max_size=5)))
def test_a_whole_book_is_read_to_the_numbers_of_its_levels(prices: list[Any]) -> None:
    rows = [(price, size) for price, size in zip(prices * MANY, ["0.00001", "12", "0"] * MANY, strict=False)]
    reader, again = LevelReader(PAIR), LevelReader(PAIR)
    assert reader.levels(rows) == one_by_one(rows)
    assert reader.levels(rows[:3]) == one_by_one(rows[:3])
    assert again.columns([price for price, _ in rows], [size for _, size in rows]) == one_by_one(rows)


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        (("0", "1"), "positive_price"),
        (("-1", "1"), "positive_price"),
        (("1", "-1"), "non_negative"),
        (("1.001", "1"), "precision"),
        (("1", "0.000001"), "precision"),
        (("1", "nan"), "not_finite"),
        (("9" * 30, "1"), "range"),
    ],
)
@pytest.mark.parametrize("count", [1, MANY + 1])
def test_one_bad_level_refuses_the_book_by_the_rule_it_breaks(row: tuple[str, str], rule: str, count: int) -> None:
    rows = [(str(number), "1") for number in range(1, count)] + [row]
    with pytest.raises(RuleViolation) as refused:
        LevelReader(PAIR).levels(rows)
    assert refused.value.rule == rule


def test_texts_that_were_read_are_bounded() -> None:
    reader = LevelReader(PAIR)
    for start in range(1, 4 * MAX_TEXTS, 3 * MANY):
        reader.levels([(str(price), str(price)) for price in range(start, start + 3 * MANY)])
        reader.levels([(str(price), str(price)) for price in range(start, start + MANY - 1)])
        assert len(reader.prices) <= MAX_TEXTS
        assert len(reader.sizes) <= MAX_TEXTS
