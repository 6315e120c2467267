"""What shows that a book which nothing numbers is wrong: changes without effect, losses on its connection, audits."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from marketd.market.book import Levels
from marketd.market.book_messages import BookDelta, BookRule, BookSnapshot, Fit
from marketd.market.book_states import BookEvent
from marketd.market.book_sync import DOUBTS_NS, MAX_DOUBTS, BookSync, Step
from marketd.market.instruments import Instrument
from marketd.market.layouts import BookState
from marketd.market.plain_book import Change
from marketd.market.plain_book import Levels as PlainLevels

NOW = 1_700_000_000 * 10**9
BTC = Instrument(id=1, symbol="BTCUSD", venue="X", price_scale=0, size_scale=0, quote_scale=0)


def in_order(last: int, delta: BookDelta) -> Fit:
    return Fit.NEXT


def by_time(last: int, delta: BookDelta) -> Fit:
    return Fit.OLD if delta.last < last else Fit.NEXT


STREAMED = BookRule("stream", splice=in_order, follows=in_order, exact=True)
FETCHED = BookRule("rest", splice=by_time, follows=by_time, needs_older=True, audited=True, exact=True)


def levels(**sizes: int) -> Levels:
    return Levels([int(price[1:]) for price in sizes], list(sizes.values()))


def snapshot(sequence: int = 0, depth: int = 0, **bids: int) -> BookSnapshot:
    return BookSnapshot("BTCUSD", sequence, NOW, levels(**(bids or {"p98": 5, "p99": 5})), levels(p101=5), depth=depth)


def delta(number: int = 0, ts_ns: int = NOW, **bids: int) -> BookDelta:
    return BookDelta("BTCUSD", number, number, None, ts_ns, levels(**bids), Levels([], []))


def live(rule: BookRule = STREAMED) -> BookSync:
    sync = BookSync(rule, BTC)
    sync.subscribed()
    if rule.snapshot == "rest":
        sync.delta(delta(1, p98=5))
    sync.snapshot(snapshot(1 if rule.snapshot == "rest" else 0))
    assert sync.state is BookState.LIVE
    return sync


@pytest.mark.parametrize("kind", [Change, type(live().delta(delta(p97=1)).change)])
def test_a_change_is_exact_where_each_level_had_another_size(kind: Callable[..., Change]) -> None:
    of = Levels if kind is not Change else PlainLevels
    assert kind(of([1, 2], [5, 0]), of([3], [1]), [4, 5], [0]).is_exact
    assert not kind(of([1, 2], [5, 0]), of([3], [1]), [4, 0], [0]).is_exact
    assert not kind(of([1], [5]), of([3], [1]), [4], [1]).is_exact
    assert kind(of([], []), of([], []), [], []).is_exact


@pytest.mark.parametrize("change", [delta(p97=0), delta(p98=5), delta(p96=1, p97=0)])
def test_a_change_that_changes_nothing_begins_the_book_anew(change: BookDelta) -> None:
    """A level went that was not there, or was told a second time: what came between was lost."""
    sync = live()
    step = sync.delta(change)
    assert (step.event, step.needs_snapshot, sync.state) == (BookEvent.UNCHANGED, True, BookState.SYNCING)


def test_where_venues_tell_levels_again_it_changes_nothing() -> None:
    sync = live(STREAMED._replace(exact=False))
    assert sync.delta(delta(p97=0)).event is BookEvent.APPLIED


def test_changes_that_the_snapshot_has_already_are_no_loss() -> None:
    assert live(FETCHED).delta(delta(1, p98=5)).event is BookEvent.APPLIED


def test_at_the_edge_of_a_window_a_change_without_effect_is_no_loss() -> None:
    """Levels fall out of a window without a word, and are told again when they come back."""
    sync = BookSync(STREAMED, BTC)
    sync.subscribed()
    sync.snapshot(snapshot(depth=3, p97=1, p98=1, p99=1))
    assert sync.delta(delta(p97=1)).event is BookEvent.APPLIED
    assert sync.delta(delta(p96=0)).event is BookEvent.APPLIED
    assert sync.delta(delta(p98=1)).event is BookEvent.UNCHANGED


def test_a_venue_that_comes_to_tell_levels_again_does_not_cost_its_books_for_good() -> None:
    sync = live()
    for _ in range(MAX_DOUBTS):
        assert sync.delta(delta(p97=0)).event is BookEvent.UNCHANGED
        sync.snapshot(snapshot())
    assert sync.delta(delta(p97=0)).event is BookEvent.APPLIED
    assert sync.delta(delta(ts_ns=NOW + DOUBTS_NS, p97=0)).event is BookEvent.UNCHANGED


@pytest.mark.parametrize("sign", [BookSync.hole, BookSync.denied])
def test_what_trades_say_too_often_does_not_cost_a_live_book_for_good(sign: Callable[[BookSync, int], Step]) -> None:
    """A venue may begin to skip numbers, or to tell trades of orders that rest in no book."""
    sync = live()
    for _ in range(MAX_DOUBTS):
        assert sign(sync, NOW).needs_snapshot
        sync.snapshot(snapshot())
    assert (sign(sync, NOW + DOUBTS_NS - 1).event, sync.state) == (BookEvent.OLD, BookState.LIVE)
    assert sync.delta(delta(p97=0)).event is BookEvent.UNCHANGED  # each sign counts by itself
    sync.snapshot(snapshot())
    assert sign(sync, NOW + DOUBTS_NS).needs_snapshot


def test_what_was_asked_for_and_did_not_come_counts_each_time() -> None:
    sync = live()
    for _ in range(MAX_DOUBTS + 1):
        assert sync.lost().event is BookEvent.GAP
        sync.snapshot(snapshot())


def test_a_loss_on_its_connection_begins_a_book_anew() -> None:
    sync = live()
    assert sync.hole(NOW).event is BookEvent.GAP
    assert sync.hole(NOW).event is BookEvent.OLD  # what was asked for is still to come
    sync.snapshot(snapshot())
    sync.disconnected()
    assert (sync.hole(NOW).event, sync.state) == (BookEvent.OLD, BookState.STALE)


def test_a_loss_costs_the_changes_that_wait_for_a_snapshot() -> None:
    sync = BookSync(FETCHED, BTC)
    sync.subscribed()
    sync.delta(delta(1, p90=1))
    assert sync.hole(NOW).event is BookEvent.GAP
    assert sync.snapshot(snapshot(5)).event is BookEvent.UNPROVEN


def test_trades_deny_a_live_book_alone() -> None:
    sync = live()
    assert sync.denied(NOW).needs_snapshot
    assert sync.denied(NOW).event is BookEvent.OLD


def test_an_audit_that_agrees_leaves_the_book_as_it_was() -> None:
    sync = live(FETCHED)
    sync.audit()
    assert sync.wants_fresh
    assert sync.delta(delta(2, p97=1)).event is BookEvent.APPLIED
    assert sync.snapshot(snapshot(3, p97=1, p98=5, p99=5)).event is BookEvent.UNPROVEN
    assert not sync.wants_fresh  # the next change is waited for, however long that takes
    step = sync.delta(delta(4, p97=2))
    assert (step.event, sync.state, sync.wants_fresh) == (BookEvent.REFRESHED, BookState.LIVE, False)
    assert step.change is not None
    assert step.change.bids_before == [1]
    assert sync.delta(delta(5, p97=3)).event is BookEvent.APPLIED
    assert sync.statistics().events["applied"] == 2


def test_an_audit_at_the_books_own_moment_needs_no_further_change() -> None:
    sync = live(FETCHED)
    sync.audit()
    sync.delta(delta(2, p97=1))
    assert sync.snapshot(snapshot(2, p97=1, p98=5, p99=5)).event is BookEvent.REFRESHED
    assert not sync.wants_fresh


def test_an_audit_that_disagrees_begins_the_book_anew() -> None:
    """The venue has a bid at 96 that was never told."""
    sync = live(FETCHED)
    sync.audit()
    sync.delta(delta(2, p97=1))
    told = sync.book.copy()
    sync.snapshot(snapshot(3, p96=7, p97=1, p98=5, p99=5))
    step = sync.delta(delta(4, p97=2))
    assert (step.event, sync.state) == (BookEvent.CONTRADICTED, BookState.SYNCING)
    assert told.bids == {97: 1, 98: 5, 99: 5}


def test_a_book_that_is_not_live_is_not_audited() -> None:
    sync = live(FETCHED)
    sync.disconnected()
    sync.audit()
    assert not sync.wants_fresh
    streamed = live()
    streamed.audit()
    assert not streamed.wants_fresh
