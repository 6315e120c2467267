"""Books of one depth as books of another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from book_records import book, books
from marketd.market.book_means import book_means
from marketd.market.book_rows import depth_of, depth_of_bytes, is_book_dtype, join, read_books, refit
from marketd.market.errors import InvalidArgument
from marketd.market.records import BY_NAME, MAX_BOOK_DEPTH, TRADE, BookFlag, book_dtype, book_kind
from marketd.market.times import ABSENT

LEVELS = st.lists(st.tuples(st.integers(1, 2**40), st.integers(1, 2**40)), max_size=12)


@given(bids=LEVELS, asks=LEVELS, depth=st.integers(12, 30), other=st.integers(1, 40))
def test_a_book_of_another_depth_is_the_one_that_would_have_been_made_with_it(
    bids: list[tuple[int, int]], asks: list[tuple[int, int]], depth: int, other: int
) -> None:
    found = refit(book(bids, asks, depth=depth), other)
    assert found.tobytes() == book(bids[:other], asks[:other], depth=other).tobytes()


@pytest.mark.parametrize("count", [1, 30])
def test_a_book_from_which_levels_are_cut_has_not_all_that_the_venue_told_any_more(count: int) -> None:
    both = int(BookFlag.BIDS_CUT | BookFlag.ASKS_CUT)
    records = np.repeat(book([(9, 1), (8, 1), (7, 1)], [(10, 1), (11, 1)], depth=5), count)
    records["flags"] = both | BookFlag.JUMP
    for depth, left in ((6, both), (3, both), (2, BookFlag.ASKS_CUT), (1, 0)):
        assert refit(records, depth)["flags"].tolist() == [left | BookFlag.JUMP] * count
    assert records["flags"].tolist() == [both | BookFlag.JUMP] * count


def test_a_book_that_fits_is_not_copied() -> None:
    records = books(range(3))
    assert refit(records, 20) is records


def test_books_of_several_depths_are_joined_at_the_deepest() -> None:
    found = join([books([0], depth=5), books([1, 2], depth=7), books([3], depth=5)])
    assert depth_of(found) == 7
    assert found.tobytes() == books(range(4), depth=7).tobytes()


def test_the_size_of_a_record_tells_its_depth() -> None:
    assert [depth_of_bytes(book_dtype(depth).itemsize) for depth in (1, 20, MAX_BOOK_DEPTH)] == [1, 20, MAX_BOOK_DEPTH]
    for size in (0, 40, 71, 73, 681, book_dtype(MAX_BOOK_DEPTH).itemsize + 32):
        with pytest.raises(InvalidArgument, match="levels a side"):
            depth_of_bytes(size)


def test_what_was_written_at_another_depth_is_read_at_ours() -> None:
    written = books(range(3), depth=2, levels=2)
    found = read_books(book_kind(4), written.dtype.itemsize, written.tobytes())
    assert found.tobytes() == books(range(3), depth=4, levels=2).tobytes()
    same = read_books(book_kind(2), written.dtype.itemsize, written.tobytes())
    assert same.tobytes() == written.tobytes()


def test_means_of_books_can_be_cut_too() -> None:
    means = book_means(books(range(20)), 1, price_scale=2, size_scale=5)
    found = refit(means, 2)
    assert depth_of(found) == 2 and found["mean_mid"].tolist() == means["mean_mid"].tolist()
    assert found["bid_count"].tolist() == [2, 2] and (found["bid_price"] != ABSENT).all()


def test_a_dtype_is_known_as_a_books_or_not() -> None:
    assert is_book_dtype(book_dtype(3)) and is_book_dtype(BY_NAME["book"].dtype)
    assert not is_book_dtype(TRADE) and not is_book_dtype(np.dtype([("bid_price", "<i8")]))
    assert not is_book_dtype(np.dtype([("bid_price", "<i8", (3,))]))
