"""Books whose snapshots are cut: what lies beyond the edge is not known, and is never told as if it were."""

from __future__ import annotations

from book_oracles import levels
from marketd.market.book import NO_ASK_EDGE, NO_BID_EDGE, BestLevels, Levels, OrderBook
from marketd.market.book_edges import EdgeWatch, Reach, Standing, found_beyond
from marketd.market.book_messages import BookDelta, BookRule, BookSnapshot, Fit
from marketd.market.book_states import BookEvent
from marketd.market.book_sync import BookSync, Step
from marketd.market.buckets import BucketKernel
from marketd.market.imbalance import ImbalanceKernel
from marketd.market.instruments import Instrument
from marketd.market.layouts import BookState, ImbalanceReason
from marketd.market.times import ABSENT, NS_PER_SECOND

INSTRUMENT = Instrument(id=1, symbol="X", venue="V", price_scale=0, size_scale=0, quote_scale=0)
LIMIT = 8
NONE = Levels([], [])


def spans(sequence: int, delta: BookDelta) -> Fit:
    if delta.last <= sequence:
        return Fit.OLD
    return Fit.NEXT if delta.first <= sequence + 1 else Fit.GAP


RULE = BookRule("rest", spans, spans)


def ladder(best_bid: int = 100, best_ask: int = 101, size: int = 5, limit: int = LIMIT) -> tuple[Levels, Levels]:
    """A level at each price, as many a side as were asked for."""
    bids, asks = (range(best_bid, best_bid - limit, -1), range(best_ask, best_ask + limit))
    return levels(dict.fromkeys(bids, size)), levels(dict.fromkeys(asks, size))


def snapshot(sequence: int, bids: Levels | None = None, asks: Levels | None = None, limit: int = LIMIT) -> BookSnapshot:
    whole = ladder()
    return BookSnapshot("X", sequence, ABSENT, bids or whole[0], asks or whole[1], limit=limit)


def delta(sequence: int, bids: dict[int, int] | None = None, asks: dict[int, int] | None = None) -> BookDelta:
    return BookDelta("X", sequence, sequence, None, sequence * 1000, levels(bids or {}), levels(asks or {}))


def live(told: int = 2) -> BookSync:
    """LIVE at 10, with bids at 93 … 100 and asks at 101 … 108; what lies beyond is not known."""
    sync = BookSync(RULE, INSTRUMENT, reach=Reach(told))
    sync.subscribed()
    sync.delta(delta(10))
    assert sync.snapshot(snapshot(10)).state is BookState.LIVE
    return sync


def falls(sequence: int, to: int, after: int = 100) -> BookDelta:
    """The best bid falls, and asks follow it."""
    gone = range(to + 1, after + 1)
    return delta(sequence, dict.fromkeys(gone, 0), dict.fromkeys(gone, 3))


def fell(*, beyond: bool) -> tuple[BookSync, Step]:
    sync = live()
    return sync, sync.delta(falls(11, 93 if beyond else 95))


# ---- the edges ----------------------------------------------------------------------------------------


def test_a_snapshot_with_as_many_levels_as_were_asked_for_has_edges_and_one_with_less_has_none() -> None:
    book = OrderBook()
    bids, asks = ladder()
    book.reset(bids, levels({101: 1}), LIMIT)
    assert (book.is_cut, book.bid_edge, book.ask_edge) == (True, 93, NO_ASK_EDGE)
    book.reset(bids, asks)
    assert (book.is_cut, book.bid_edge, book.ask_edge) == (False, NO_BID_EDGE, NO_ASK_EDGE)


def test_levels_are_known_as_deep_as_the_edge_and_always_on_a_whole_side() -> None:
    book = OrderBook()
    book.reset(ladder()[0], levels({101: 1}), LIMIT)
    assert book.knows(8) and not book.knows(9)
    book.apply(levels({90: 1, 100: 0}), NONE)
    assert book.knows(7) and not book.knows(8)  # a level beyond the edge that changed, and perhaps others above it


def test_where_an_ask_has_rested_no_bid_is_and_what_comes_there_is_told() -> None:
    book = OrderBook()
    book.reset(*ladder(), LIMIT)
    book.apply(levels(dict.fromkeys(range(93, 101), 0)), levels({90: 4}))
    assert (book.bid_edge, book.best_bid) == (90, None)
    book.apply(levels({91: 1, 90: 2}), levels({90: 0}))
    assert book.knows(2) and not book.knows(3)
    book.reset(*ladder(), LIMIT)
    book.apply(levels({112: 1}), levels(dict.fromkeys(range(101, 109), 0)))
    assert book.ask_edge == 112


def test_a_copy_is_like_its_book_and_goes_its_own_way() -> None:
    book = OrderBook()
    book.reset(*ladder(), LIMIT)
    made = book.copy()
    assert made == book and (made.best_bid, made.bid_edge, made.is_cut) == (100, 93, True)
    made.apply(levels({100: 0}), NONE)
    assert (book.best_bid, book.bid_prices[-1], made.best_bid) == (100, 100, 99)


def test_half_of_the_way_to_the_edge_is_near_and_the_band_shortens_the_way() -> None:
    bids, asks = ladder(10_000, 10_001, limit=101)  # edges at 9,900 and 10,101
    for band_bps, near in ((0.0, 9_950), (20.0, 9_960), (500.0, 9_950)):
        watch, book = EdgeWatch(Reach(2, band_bps)), OrderBook()
        book.reset(bids, asks, 101)
        watch.begin(book)
        book.apply(levels(dict.fromkeys(range(near + 1, 10_001), 0)), NONE)
        assert watch.look(book) is Standing.NEAR
        book.apply(levels({near + 1: 1}), NONE)
        assert watch.look(book) is Standing.FAR


def test_few_known_levels_are_near_if_there_were_more_and_too_few_are_beyond() -> None:
    watch, book = EdgeWatch(Reach(3)), OrderBook()
    book.reset(levels({100: 1, **{price: 1 for price in range(50, 59)}}), levels({101: 1}), 10)
    watch.begin(book)
    seen = []
    for price in (*range(50, 58), 58):
        seen.append(watch.look(book))
        book.apply(levels({price: 0, price - 50: 9}), NONE)
    far, near, beyond = Standing.FAR, Standing.NEAR, Standing.BEYOND
    assert seen == [far] * 5 + [near] * 3 + [beyond]


# ---- a fresh snapshot ---------------------------------------------------------------------------------


def test_a_book_that_comes_near_its_edge_wants_a_fresh_snapshot_and_stays_live() -> None:
    sync = live()
    assert not sync.wants_fresh
    assert sync.delta(falls(11, 95)).state is BookState.LIVE
    assert sync.wants_fresh


def test_a_fresh_snapshot_is_joined_with_what_came_since_and_widens_the_book() -> None:
    sync, _ = fell(beyond=False)
    sync.delta(delta(12, {95: 9}))
    bids, asks = ladder(95, 96)
    asks.sizes[:5] = [3] * 5
    step = sync.snapshot(snapshot(11, bids, asks))  # of before the last change
    assert (step.event, step.state) == (BookEvent.REFRESHED, BookState.LIVE)
    assert step.change is not None and sorted(step.change.bids.prices) == [88, 89, 90, 91, 92]
    assert (sync.book.bids[95], sync.book.bid_edge, sync.sequence) == (9, 88, 12)
    assert (sync.book.ask_edge, sync.book.asks[108]) == (108, 5)  # what was known above is kept
    assert not sync.wants_fresh


def test_a_fresh_snapshot_that_is_ahead_of_the_stream_waits_for_it() -> None:
    sync, _ = fell(beyond=False)
    bids, asks = ladder(95, 96)
    bids.sizes[0], asks.sizes[:5] = 9, [3] * 5
    step = sync.snapshot(snapshot(13, bids, asks))
    assert (step.event, step.state, sync.book.bid_edge) == (BookEvent.UNPROVEN, BookState.LIVE, 93)
    assert sync.delta(delta(12, {95: 8})).event is BookEvent.APPLIED
    step = sync.delta(delta(13, {95: 9}))
    assert (step.event, sync.book.bid_edge) == (BookEvent.REFRESHED, 88)
    assert step.change is not None and 95 in step.change.bids.prices and 88 in step.change.bids.prices


def test_a_fresh_snapshot_that_is_too_old_leaves_the_book_as_it_is_and_another_is_wanted() -> None:
    sync, _ = fell(beyond=False)
    step = sync.snapshot(snapshot(9))
    assert (step.event, step.state) == (BookEvent.UNSPLICED, BookState.LIVE)
    assert sync.wants_fresh and sync.book.bid_edge == 93


def test_a_fresh_snapshot_that_contradicts_the_book_makes_it_doubtful() -> None:
    sync, _ = fell(beyond=False)
    bids, asks = ladder(95, 96)
    asks.sizes[:5] = [3] * 5
    bids.sizes[1] = 77  # at 94, which the book has known to be 5
    step = sync.snapshot(snapshot(11, bids, asks))
    assert (step.event, step.state, step.left) == (BookEvent.CONTRADICTED, BookState.SYNCING, True)
    assert step.needs_snapshot and not len(sync.book)


def test_two_books_contradict_each_other_where_both_know() -> None:
    book, fresh = OrderBook(), OrderBook()
    book.reset(levels({100: 1, 99: 1}), levels({101: 1}), 2)
    fresh.reset(levels({100: 1, 99: 1, 97: 4}), levels({101: 1}), 3)
    found = found_beyond(book, fresh)
    assert found is not None and found[0] == levels({97: 4})
    book.apply(levels({98: 2}), NONE)  # beyond the edge of one, and within that of the other, which has none there
    assert found_beyond(book, fresh) is None
    book.apply(levels({98: 0, 96: 2}), NONE)
    assert found_beyond(book, fresh) == found


def test_a_lost_message_costs_the_fresh_snapshot_too() -> None:
    sync, _ = fell(beyond=False)
    step = sync.delta(delta(13))
    assert (step.event, step.state, sync.wants_fresh) == (BookEvent.GAP, BookState.SYNCING, False)


# ---- beyond the edge ----------------------------------------------------------------------------------


def test_a_book_whose_told_levels_reach_beyond_the_edge_leaves_live_and_asks() -> None:
    sync, step = fell(beyond=True)
    assert (step.event, step.left, step.needs_snapshot) == (BookEvent.BEYOND_EDGE, True, True)
    assert sync.book.best_bid == 93  # it is followed


def test_what_was_told_of_a_book_stays_as_it_was_when_it_leaves_live() -> None:
    sync = live()
    told = sync.book
    sync.delta(falls(11, 93))
    assert told.top(2) == BestLevels([100, 99], [5, 5], [101, 102], [5, 5])


def test_a_book_beyond_its_edge_is_live_again_by_a_fresh_snapshot() -> None:
    sync, _ = fell(beyond=True)
    assert sync.delta(delta(12, {93: 4})).state is BookState.SYNCING
    bids, asks = ladder(93, 94)
    asks.sizes[:7] = [3] * 7
    step = sync.snapshot(snapshot(11, bids, asks))
    assert (step.event, step.began, sync.sequence) == (BookEvent.JOINED, True, 12)
    assert sync.book.top(2).bid_sizes == [4, 5]


def test_a_book_beyond_its_edge_is_live_again_when_the_price_comes_back() -> None:
    sync, _ = fell(beyond=True)
    step = sync.delta(delta(12, {94: 6}, {94: 0}))
    assert (step.event, step.began) == (BookEvent.RETURNED, True)
    sync.delta(falls(13, 80, after=94))  # far beyond: what is passed is known from then on
    assert sync.state is BookState.SYNCING
    step = sync.delta(delta(14, {82: 1, 81: 1}, {82: 0, 81: 0}))
    assert (step.event, sync.book.bid_edge, sync.book.top(2).bid_prices) == (BookEvent.RETURNED, 81, [82, 81])


def test_a_snapshot_without_as_many_levels_as_are_told_is_not_live() -> None:
    sync = BookSync(RULE, INSTRUMENT, reach=Reach(LIMIT + 1))
    sync.subscribed()
    sync.delta(delta(10))
    step = sync.snapshot(snapshot(10))
    assert (step.event, step.state, step.needs_snapshot) == (BookEvent.BEYOND_EDGE, BookState.SYNCING, True)
    sync.delta(delta(11, {101: 2}, {101: 0}))
    assert sync.state is BookState.SYNCING  # the asks are too few still
    bids, asks = ladder(101, 102, limit=LIMIT + 3)
    bids.sizes[0] = 2
    assert sync.snapshot(snapshot(11, bids, asks, LIMIT + 3)).event is BookEvent.JOINED


def test_a_book_that_was_silent_beyond_its_edge_does_not_resume() -> None:
    sync = live()
    sync.silent()
    step = sync.delta(falls(11, 93))
    assert (step.event, step.before, step.state) == (BookEvent.BEYOND_EDGE, BookState.STALE, BookState.SYNCING)


# ---- figures ------------------------------------------------------------------------------------------


def test_an_imbalance_whose_band_reaches_beyond_the_edge_is_absent_and_says_why() -> None:
    book, kernel = OrderBook(), ImbalanceKernel(700.0)  # seven a side, and the bids are known down to 93
    book.reset(*ladder(), LIMIT)
    kernel.book(0, book)
    change = book.apply(levels({100: 0, 99: 0}), levels({100: 2, 99: 2}))
    kernel.book(NS_PER_SECOND, book, change)
    change = book.widen(levels({92: 5, 91: 5}), NONE, 91, book.ask_edge)
    kernel.book(2 * NS_PER_SECOND, book, change)
    kernel.book(3 * NS_PER_SECOND, book)
    known, beyond, known_again = kernel.advance(4 * NS_PER_SECOND)[:3]
    assert (known["reason"], known["bid_size"]) == (ImbalanceReason.WARMING, 7 * 5)
    assert (beyond["reason"], beyond["bid_size"], beyond["ask_size"]) == (ImbalanceReason.BEYOND_EDGE, ABSENT, ABSENT)
    assert (beyond["mid2"], beyond["best_bid_size"], beyond["book_1s"]) == (98 + 99, 5, -(2**31))
    assert (known_again["bid_size"], known_again["reason"]) == (7 * 5, ImbalanceReason.WARMING)


def test_a_bucket_that_lies_beyond_the_edge_for_a_moment_is_absent_and_the_others_are_not() -> None:
    book, kernel = OrderBook(), BucketKernel(2)
    book.reset(*ladder(), LIMIT)  # known: 93 … 108
    kernel.book(0, book)
    kernel.book(NS_PER_SECOND // 2, book, book.widen(levels({92: 5}), NONE, 92, book.ask_edge))
    kernel.book(NS_PER_SECOND, book)
    kernel.book(2 * NS_PER_SECOND, book)
    first, second = kernel.advance(3 * NS_PER_SECOND)[:2]
    assert first["base"] == 50
    assert first["bid_size"].tolist()[:5] == [5, 10, 10, 10, ABSENT]  # 100, 98 … 94; 92 and 93 came to be known
    assert second["bid_size"].tolist()[:6] == [5, 10, 10, 10, 10, ABSENT]
    assert first["ask_size"].tolist()[:5] == [5, 10, 10, 10, ABSENT]  # 101, 102 … 106; 109 is not known
