"""The compiled books against those in Python: the same after the same calls, and refused for the same reasons."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.market import compiled, plain_book
from marketd.market.plain_book import NO_ASK_EDGE, NO_BID_EDGE
from support import requires

pytestmark = requires("compiled")

LARGE = 2**63 - 1
prices = st.integers(1, 40) | st.integers(1, 10**6)
sizes = st.integers(0, 4) | st.integers(0, LARGE)
rows = st.lists(st.tuples(prices, sizes), max_size=30)
odd_rows = rows | st.lists(
    st.tuples(prices | st.integers(-2, 2), sizes | st.integers(-2, 2) | st.just(2**63)), max_size=9
)
depths = st.integers(1, 12)
bounds = st.integers(-5, 50) | st.sampled_from((NO_BID_EDGE, NO_ASK_EDGE, -LARGE, LARGE, 2**63, -(2**63)))
bid_edges = st.integers(1, 40) | st.just(NO_BID_EDGE)
ask_edges = st.integers(1, 40) | st.just(NO_ASK_EDGE)
calls = st.lists(
    st.one_of(
        st.tuples(st.just("reset"), rows, rows, st.integers(0, 20), st.just(0) | depths),
        st.tuples(st.just("apply"), rows, rows),
        st.tuples(st.just("follow"), odd_rows, rows, st.integers(0, 60)),
        st.tuples(st.just("follow"), rows, odd_rows, st.integers(0, 60)),
        st.tuples(st.just("apply and revert"), rows, rows, depths),
        st.tuples(st.just("apply and cut"), rows, rows, depths),
        st.tuples(st.just("widen"), rows, rows, bid_edges, ask_edges),
        st.tuples(st.just("know"), bid_edges, ask_edges),
        st.tuples(st.just("copy")),
        st.tuples(st.just("clear"), st.integers(0, 5)),
    ),
    max_size=12,
)


def part() -> Any:
    return compiled.part


def levels(module: Any, side: list[tuple[int, int]]) -> Any:
    return module.Levels([price for price, _ in side], [size for _, size in side])


def as_lists(change: Any) -> tuple[list[int], ...]:
    bids, asks = change.bids, change.asks
    return bids.prices, bids.sizes, asks.prices, asks.sizes, change.bids_before, change.asks_before


def done(module: Any, book: Any, call: tuple[Any, ...]) -> tuple[Any, list[Any]]:
    """The book after a call, and what was told of it."""
    name, *rest = call
    if name == "copy":
        other = book.copy()
        other.apply(levels(module, [(7, 7)]), levels(module, [(9, 0)]))  # must not show in the first one
        return other.copy(), [book == other, book.bids, book.asks]
    if name == "clear":
        book.clear(window=rest[0])
        return book, []
    if name == "know":
        book.know(*rest)
        return book, []
    bids, asks, *more = rest
    sides = levels(module, bids), levels(module, asks)
    if name == "reset":
        book.reset(*sides, *more)
        return book, []
    if name == "widen":
        return book, [as_lists(book.widen(*sides, *more))]
    if name == "follow":
        change = book.follow(*sides, *more)
        return book, [change and as_lists(change)]
    change = book.apply(*sides)
    if name == "apply":
        return book, [as_lists(change)]
    if book.is_deeper_than(more[0]):
        change = change.then(book.cut(more[0]))
    if name == "apply and revert":
        book.revert(change)
    return book, [as_lists(change)]


def told(book: Any, low: int, high: int, depth: int) -> list[Any]:
    """All that can be asked of a book."""
    return [
        *(book.bids, book.asks, list(book.bid_prices), list(book.ask_prices), book.best_bid, book.best_ask),
        *(
            book.best_bid_size,
            book.best_ask_size,
            book.bid_edge,
            book.ask_edge,
            book.is_cut,
            book.window,
            book.is_crossed,
            len(book),
            repr(book),
        ),
        *(book.bids_within(low, high), book.asks_within(low, high), book.top(depth), book.known(depth), book.top(0)),
        *(book.knows(depth), book.knows_bids(depth), book.knows_asks(depth), book.is_deeper_than(depth)),
    ]


@given(calls, bounds, bounds, depths)
def test_a_compiled_book_is_what_the_one_in_python_is(steps, low, high, depth):
    quick, plain = part().OrderBook(), plain_book.OrderBook()
    for step in steps:
        quick, of_quick = done(part(), quick, step)
        plain, of_plain = done(plain_book, plain, step)
        assert of_quick == of_plain
        assert told(quick, low, high, depth) == told(plain, low, high, depth)
    assert type(quick.top(1)) is type(plain.top(1))
    assert deepcopy(quick) == quick


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 2)), min_size=300, max_size=900), st.data())
def test_books_of_many_levels_are_the_same(first, data):
    quick, plain = part().OrderBook(), plain_book.OrderBook()
    for module, book in ((part(), quick), (plain_book, plain)):
        book.reset(levels(module, first), levels(module, [(10_000 - price, size) for price, size in first]))
    for _ in range(3):
        changes = data.draw(st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 2)), max_size=200))
        for module, book in ((part(), quick), (plain_book, plain)):
            book.apply(levels(module, changes), levels(module, [(10_000 - price, size) for price, size in changes]))
        assert told(quick, 5, 2_000, 50) == told(plain, 5, 2_000, 50)


numbers = st.integers(-3, 3) | st.sampled_from((LARGE, 2**63, -LARGE, -(2**63), 2**70))


@given(st.lists(numbers, max_size=3), st.lists(numbers, max_size=3))
def test_what_is_possible_is_the_same(price_list, size_list):
    quick, plain = part().Levels(price_list, size_list), plain_book.Levels(price_list, size_list)
    assert quick.is_possible == plain.is_possible
    assert (quick.prices, quick.sizes) == (price_list, size_list)
    assert repr(quick) == repr(plain)


def test_lists_that_were_asked_for_hold() -> None:
    (both, _) = part().Reader(0, 0).sides(b'[["3","4"]]', b"[]", False)
    both.prices.append(9)
    both.sizes.append(1)
    assert both == part().Levels([3, 9], [4, 1])
    book = part().OrderBook()
    book.apply(both, part().Levels([], []))
    assert book.bids == {3: 4, 9: 1}


@pytest.mark.parametrize(
    ("prices", "sizes", "error"),
    [
        ([1, 2], [1], ValueError),
        ([1], [1, 2], ValueError),
        ([2**63], [1], OverflowError),
        ([1], [-(2**63)], OverflowError),
        (["1"], [1], TypeError),
        ([1.5], [1], TypeError),
        (None, [1], TypeError),
        (7, 8, TypeError),
    ],
)
def test_what_are_no_levels_leaves_the_book_as_it_was(prices, sizes, error):
    book, none, bad = part().OrderBook(), part().Levels([], []), part().Levels(prices, sizes)
    book.apply(part().Levels([5], [5]), part().Levels([9], [9]))
    good = part().Levels([6], [1])
    for call in (lambda: book.apply(bad, none), lambda: book.apply(good, bad), lambda: book.reset(good, bad)):
        with pytest.raises(error):
            call()
        assert (book.bids, book.asks) == ({5: 5}, {9: 9})


@pytest.mark.parametrize("given", [None, 1, "levels", [], object(), plain_book.Levels([1], [1])])
def test_arguments_of_other_types_are_refused(given):
    book, none = part().OrderBook(), part().Levels([], [])
    for call in (
        lambda: book.apply(given, none),
        lambda: book.apply(none, given),
        lambda: book.apply(none),
        lambda: book.reset(given, none),
        lambda: book.revert(given),
        lambda: book.know(given, NO_ASK_EDGE) if given != 1 else book.know("1", 2),
        lambda: book.top("1" if given == 1 else given),
        lambda: part().Change(given, none, [], []),
        lambda: part().digits_of_best(given, 10, 0, 0),
    ):
        with pytest.raises(TypeError):
            call()
    assert len(book) == 0
    assert (book == given, none == given) == (False, False)


def test_a_list_that_changes_while_it_is_read_does_no_harm() -> None:
    class Shrinking:
        def __index__(self) -> int:
            held.clear()
            return 5

    held: list[Any] = [Shrinking(), Shrinking(), Shrinking()]
    book = part().OrderBook()
    book.apply(part().Levels(held, [1, 1, 1]), part().Levels([], []))
    assert book.bids == {5: 1}
