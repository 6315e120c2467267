"""A producer's books: what fits becomes levels, what does not is refused by index and rule."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from book_records import book, books, kind_of
from fake_daemon import BTC
from marketd.client.books import frame_of
from marketd.client.encode import Encoded
from marketd.client.encode_books import encode_book_rows
from marketd.market.errors import InvalidArgument
from marketd.market.records import BY_NAME, MAX_BOOK_DEPTH, BookFlag, BookState
from marketd.market.times import ABSENT

TS = 1_723_161_540_123_456_789
BOOK = BY_NAME["book"]
LEVELS = st.lists(st.tuples(st.integers(1, 10**9), st.integers(0, 10**9)), max_size=6)


def encode(**columns: Any) -> Encoded:
    return encode_book_rows(BOOK, BTC, columns)


def test_lists_of_pairs_become_levels_at_the_instruments_scales() -> None:
    found = encode(time=[TS], bids=[[("100.5", "1"), ("100", 2)]], asks=[[[Decimal("101.25"), 0.5]]], sequence=[7])
    row = found.records[0]
    assert found.refused == () and found.records.dtype["bid_price"].shape == (2,)
    assert row["bid_price"].tolist() == [10_050, 10_000] and row["bid_size"].tolist() == [100_000, 200_000]
    assert row["ask_price"].tolist() == [10_125, ABSENT] and row["ask_size"].tolist() == [50_000, ABSENT]
    assert (row["bid_count"], row["ask_count"], row["sequence"]) == (2, 1, 7)
    assert (row["state"], row["flags"], row["ts_event"]) == (BookState.LIVE, BookFlag.OFFERED, TS - TS % 1000)


@given(rows=st.lists(st.tuples(LEVELS, LEVELS), min_size=1, max_size=5))
def test_many_books_are_those_that_each_would_have_been_alone(rows: list[tuple[Any, Any]]) -> None:
    def real(levels: list[tuple[int, int]]) -> list[tuple[str, str]]:
        return [(str(Decimal(price).scaleb(-2)), str(Decimal(size).scaleb(-5))) for price, size in levels]

    found = encode(time=[TS] * len(rows), bids=[real(b) for b, _ in rows], asks=[real(a) for _, a in rows]).records
    depth = found.dtype["bid_price"].shape[0]
    for record, (bids, asks) in zip(found, rows, strict=True):
        expected = book(bids, asks, depth=depth, ts=TS - TS % 1000, flags=BookFlag.OFFERED)[0]
        for name in ("bid_count", "ask_count", "bid_price", "bid_size", "ask_price", "ask_size", "flags"):
            assert np.array_equal(record[name], expected[name]), name


@pytest.mark.parametrize(
    ("bids", "rule", "detail"),
    [
        ([("100.001", "1")], "precision", "level 0: bid_price"),
        ([("100", "1"), ("99.5", "1e30")], "range", "level 1: bid_size"),
        ([("100", "much")], "not_finite", "level 0: bid_size"),
        ([(float("nan"), "1")], "not_finite", "level 0: bid_price"),
        ([("100", None)], "absent", "level 0: bid_size"),
        ([("100",)], "levels", "no pair of price and size"),
        (["100"], "levels", "no pair of price and size"),
        (None, "absent", "bids: NoneType is no list"),
        ({"100": "1"}, "levels", "bids: dict is no list"),
        ([("1", "1")] * (MAX_BOOK_DEPTH + 1), "range", "a book has at most"),
    ],
)
def test_a_bad_book_is_refused_by_name_and_costs_no_neighbour(bids: Any, rule: str, detail: str) -> None:
    good = [("100", "1")]
    found = encode(time=[TS, TS, TS], bids=[good, bids, good], asks=[good, good, good])
    assert [(refusal.index, refusal.rule) for refusal in found.refused] == [(1, rule)]
    assert detail in found.refused[0].detail
    assert found.places is not None and found.places.tolist() == [0, 2] and len(found.records) == 2


def test_a_time_without_a_zone_is_refused_first() -> None:
    found = encode(time=["2024-08-08T23:54:00", TS], bids=[[("100.001", "1")], []], asks=[[], []])
    assert [(refusal.index, refusal.rule) for refusal in found.refused] == [(0, "naive")]


def test_a_float_off_the_grid_by_noise_is_snapped_and_says_so() -> None:
    found = encode(time=[TS, TS], bids=[[(0.1 + 0.2, 1.0)], [(0.3, 1.0)]], asks=[[], []]).records
    assert found["bid_price"].tolist() == [[30], [30]]
    assert found["flags"].tolist() == [BookFlag.OFFERED | BookFlag.SNAPPED, BookFlag.OFFERED]


def test_arrays_of_levels_are_taken_too() -> None:
    found = encode(time=np.array([TS]), bids=[np.array([[100.5, 1.0], [100.0, 2.0]])], asks=np.zeros((1, 0, 2)))
    assert found.records["bid_price"].tolist() == [[10_050, 10_000]] and found.records["ask_count"].tolist() == [0]


def test_a_frame_of_books_or_records_can_be_offered_again() -> None:
    records = books(range(3), depth=5)
    for rows in (records, frame_of(kind_of(records), BTC, records)):
        found = encode_book_rows(BOOK, BTC, rows).records
        assert found["flags"].tolist() == [BookFlag.OFFERED] * 3
        assert found["bid_price"].tobytes() == records["bid_price"].tobytes()
    assert records["flags"].tolist() == [0] * 3


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"time": [TS], "bids": [[]]}, "'asks' is missing"),
        ({"time": [TS], "bids": [[]], "asks": [[]], "depth": [1]}, "'depth' is no column of a book"),
        ({"time": [TS], "bids": [[], []], "asks": [[]]}, "different lengths"),
    ],
)
def test_what_is_no_table_of_books_is_refused_as_a_whole(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        encode(**columns)
