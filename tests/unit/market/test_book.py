"""The order book against a dict, and what it says of its changes."""

from __future__ import annotations

from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from book_oracles import applied, levels
from marketd.market.book import NO_ASK_EDGE, NO_BID_EDGE, Levels, OrderBook

prices = st.integers(1, 30)
sizes = st.integers(0, 5)
changes = st.lists(st.tuples(prices, sizes), max_size=12)


def book_of(bids: dict[int, int], asks: dict[int, int]) -> OrderBook:
    book = OrderBook()
    book.reset(levels(bids), levels(asks))
    return book


def assert_is(book: OrderBook, bids: dict[int, int], asks: dict[int, int]) -> None:
    assert (book.bids, book.asks) == (bids, asks)
    assert book.bid_prices == sorted(bids)
    assert book.ask_prices == sorted(asks)
    assert book.best_bid == max(bids, default=None)
    assert book.best_ask == min(asks, default=None)
    assert book.is_crossed == (bool(bids and asks) and max(bids) >= min(asks))
    assert len(book) == len(bids) + len(asks)


@given(changes, changes, st.lists(st.tuples(changes, changes), max_size=10), st.integers(1, 8))
def test_a_book_is_what_a_dict_says_after_any_changes(first_bids, first_asks, messages, depth):
    bids, asks = applied({}, first_bids), applied({}, first_asks)
    book = book_of(dict(first_bids), dict(first_asks))
    assert_is(book, bids, asks)
    for bid_changes, ask_changes in messages:
        before = (bids, asks)
        bids, asks = applied(bids, bid_changes), applied(asks, ask_changes)
        change = book.apply(levels(bid_changes), levels(ask_changes))
        assert_is(book, bids, asks)
        for found, was, now in ((change.bids, before[0], bids), (change.asks, before[1], asks)):
            befores = change.bids_before if found is change.bids else change.asks_before
            for price in {*was, *now}:
                rows = zip(found.prices, found.sizes, befores, strict=True)
                assert sum(s - b for p, s, b in rows if p == price) == now.get(price, 0) - was.get(price, 0)
        best_bids, best_asks = sorted(bids, reverse=True)[:depth], sorted(asks)[:depth]
        top = book.top(depth)
        assert top.bid_prices == best_bids
        assert top.ask_prices == best_asks
        assert top.bid_sizes == [bids[price] for price in best_bids]
        assert top.ask_sizes == [asks[price] for price in best_asks]


@given(changes, changes, st.integers(1, 8))
def test_a_cut_leaves_the_best_levels_and_says_what_went(bid_changes, ask_changes, depth):
    bids, asks = applied({}, bid_changes), applied({}, ask_changes)
    book = book_of(bids, asks)
    change = book.cut(depth)
    kept_bids, kept_asks = sorted(bids, reverse=True)[:depth], sorted(asks)[:depth]
    assert_is(book, {price: bids[price] for price in kept_bids}, {price: asks[price] for price in kept_asks})
    assert dict(zip(change.bids.prices, change.bids_before, strict=True)) == {
        price: size for price, size in bids.items() if price not in kept_bids
    }
    assert dict(zip(change.asks.prices, change.asks_before, strict=True)) == {
        price: size for price, size in asks.items() if price not in kept_asks
    }
    assert not any(change.bids.sizes + change.asks.sizes)


@given(changes, changes, changes, changes, st.integers(1, 8))
def test_a_change_that_is_taken_back_leaves_the_book_as_it_was(first_bids, first_asks, bids, asks, depth):
    book = book_of(dict(first_bids), dict(first_asks))
    before = deepcopy(book)
    change = book.apply(levels(bids), levels(asks))
    if book.is_deeper_than(depth):
        change = change.then(book.cut(depth))
    book.revert(change)
    assert_is(book, before.bids, before.asks)


@given(changes, changes, st.integers(1, 30), st.integers(1, 30))
def test_what_rests_within_two_prices_is_the_sum_of_the_levels_there(bid_rows, ask_rows, low, high):
    bids, asks = applied({}, bid_rows), applied({}, ask_rows)
    book = book_of(bids, asks)
    assert book.bids_within(low, high) == sum(size for price, size in bids.items() if low <= price <= high)
    assert book.asks_within(low, high) == sum(size for price, size in asks.items() if low <= price <= high)


def test_removing_a_level_that_is_not_there_changes_nothing():
    book = book_of({10: 1}, {11: 1})
    change = book.apply(Levels([9], [0]), Levels([], []))
    assert change.bids_before == [0]
    assert_is(book, {10: 1}, {11: 1})


def test_levels_and_sizes_of_different_number_are_refused():
    book = book_of({10: 1}, {11: 1})
    with pytest.raises(ValueError, match="zip"):
        book.apply(Levels([9], []), Levels([], []))


def test_books_are_equal_when_their_levels_are():
    book = book_of({10: 1}, {11: 1})
    twin = deepcopy(book)
    assert twin == book
    twin.apply(Levels([10], [2]), Levels([], []))
    assert twin != book
    assert book != object()
    assert "10" in repr(book)
    book.clear()
    assert not len(book)


def test_two_changes_told_as_one_are_their_sum():
    book = book_of({10: 1}, {11: 1})
    both = book.apply(Levels([9], [4]), Levels([], [])).then(book.cut(1))
    assert both.bids == Levels([9, 9], [4, 0])
    assert both.bids_before == [0, 4]


def test_of_a_window_a_side_that_is_full_goes_on_and_one_that_is_not_is_whole() -> None:
    book = OrderBook()
    book.reset(levels({9: 1, 8: 1, 7: 1}), levels({10: 1}), window=2)
    assert (book.bids, book.bid_edge, book.ask_edge) == ({9: 1, 8: 1}, 8, NO_ASK_EDGE)
    change = book.apply(levels({9: 0}), levels({11: 2, 12: 2}))
    assert (book.bid_edge, book.ask_edge, book.is_cut) == (NO_BID_EDGE, 11, True)
    change = change.then(book.cut(2))
    assert book.asks == {10: 1, 11: 2}
    book.revert(change)
    assert (book.bids, book.asks, book.bid_edge, book.ask_edge) == ({9: 1, 8: 1}, {10: 1}, 8, NO_ASK_EDGE)
    assert (book.copy().window, book.copy().bid_edge) == (2, 8)


def test_levels_that_are_known_end_at_the_edges() -> None:
    book = OrderBook()
    book.reset(levels({9: 1, 8: 2, 7: 3}), levels({10: 4, 11: 5}))
    book.know(8, NO_ASK_EDGE)
    assert book.known(5) == ([9, 8], [1, 2], [10, 11], [4, 5])
    assert book.known(1) == ([9], [1], [10], [4])
    book.know(10, 10)
    assert book.known(5) == ([], [], [10], [4])
