"""Keeping a book in step: each transition by example, and the promise that a book is right or not LIVE."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from book_oracles import levels
from marketd.market.book import BestLevels, Levels, OrderBook
from marketd.market.book_messages import BookDelta, BookRule, BookSnapshot, Fit
from marketd.market.book_states import TRANSITIONS, Action, BookEvent, IllegalTransition, transition
from marketd.market.book_sync import BookSync, Step
from marketd.market.instruments import Instrument
from marketd.market.layouts import BookState
from marketd.market.times import ABSENT

INSTRUMENT = Instrument(id=1, symbol="X", venue="V", price_scale=0, size_scale=0, quote_scale=0)
EMPTY, SYNCING, LIVE, STALE = BookState.EMPTY, BookState.SYNCING, BookState.LIVE, BookState.STALE


def spans(sequence: int, delta: BookDelta) -> Fit:
    """Deltas of first to last, without a hole between them."""
    if delta.last <= sequence:
        return Fit.OLD
    return Fit.NEXT if delta.first <= sequence + 1 else Fit.GAP


def chained(sequence: int, delta: BookDelta) -> Fit:
    """Each delta names the one before."""
    if delta.last <= sequence:
        return Fit.OLD
    return Fit.NEXT if delta.previous == sequence else Fit.GAP


def named(sequence: int, delta: BookDelta) -> Fit:
    """As OKX: the number of the one before tells all, and nothing but a repeated message is old."""
    if delta.previous == sequence:
        return Fit.NEXT
    return Fit.OLD if delta.last == sequence else Fit.GAP


def sizes_sum(book: OrderBook, _: Instrument) -> int:
    return sum(book.bids.values()) - sum(book.asks.values())


REST = BookRule("rest", spans, spans)
CHAINED = BookRule("rest", spans, chained)
STREAM = BookRule("stream", spans, spans)
NAMED = BookRule("stream", named, named)
CHECKED = BookRule("stream", spans, spans, checksum=sizes_sum)


def snapshot(sequence: int, bids: dict[int, int] | None = None, asks: dict[int, int] | None = None) -> BookSnapshot:
    return BookSnapshot("X", sequence, ABSENT, levels(bids or {99: 1, 98: 2}), levels(asks or {101: 1, 102: 2}))


def delta(sequence: int, bids: dict[int, int] | None = None, asks: dict[int, int] | None = None) -> BookDelta:
    return BookDelta("X", sequence, sequence, sequence - 1, sequence * 1000, levels(bids or {}), levels(asks or {}))


def live(rule: BookRule = REST) -> BookSync:
    """A book that is LIVE at 10."""
    sync = BookSync(rule, INSTRUMENT)
    sync.subscribed()
    if rule.snapshot == "rest":
        sync.delta(delta(10))
    sync.snapshot(snapshot(10))
    assert sync.state is LIVE
    return sync


def top_of(sync: BookSync, depth: int) -> BestLevels | None:
    """What a reader may be told: nothing but LIVE yields numbers."""
    return sync.book.top(depth) if sync.state is LIVE else None


def assert_told(step: Step, event: BookEvent, state: BookState, action: Action = Action.KEEP) -> None:
    assert (step.event, step.state, step.action) == (event, state, action)
    assert step.needs_snapshot == (action is Action.ASK)


# ---- the table ------------------------------------------------------------------------------------------------


def test_a_number_that_came_damaged_is_a_gap_as_soon_as_the_true_one_comes() -> None:
    """11 came as 12: the true 12 names another one before it than the message that was taken for it."""
    sync = live(NAMED)
    assert sync.delta(replace(delta(11, {97: 5}), last=12)).state is LIVE
    assert sync.delta(delta(12)).event is BookEvent.GAP
    assert sync.state is SYNCING


def test_a_repeated_message_is_old_also_after_one_that_says_that_nothing_changed() -> None:
    sync = live(NAMED)
    changed, quiet = delta(11, {97: 5}), replace(delta(11), previous=11)
    assert [sync.delta(each).event for each in (changed, changed, quiet, quiet, changed)] == [
        BookEvent.APPLIED,
        BookEvent.OLD,
        BookEvent.APPLIED,
        BookEvent.APPLIED,
        BookEvent.OLD,
    ]
    assert sync.state is LIVE


def test_an_illegal_transition_names_event_and_state_and_changes_nothing():
    with pytest.raises(IllegalTransition, match="EMPTY cannot be told JOINED"):
        transition(EMPTY, BookEvent.JOINED)


def test_every_state_is_in_the_table_and_every_event_leads_somewhere():
    assert set(TRANSITIONS) == set(BookState)
    assert {event for events in TRANSITIONS.values() for event in events} == set(BookEvent)


def test_whatever_is_doubtful_leaves_live_and_drops_the_book():
    doubts = (BookEvent.GAP, BookEvent.CROSSED, BookEvent.CHECKSUM_FAILED, BookEvent.DAMAGED, BookEvent.OVERFLOW)
    for state in (SYNCING, LIVE, STALE):
        for event in (*doubts, BookEvent.TICK_CHANGED):
            assert transition(state, event) == (SYNCING, Action.ASK)


def test_only_a_disconnection_drops_the_book_without_asking():
    found = [(s, e) for s, events in TRANSITIONS.items() for e, (_, a) in events.items() if a is Action.DROP]
    assert {event for _, event in found} == {BookEvent.DISCONNECTED, BookEvent.TICK_CHANGED}


# ---- to LIVE --------------------------------------------------------------------------------------------------


def test_a_subscription_starts_syncing_and_asks_for_a_snapshot():
    sync = BookSync(REST, INSTRUMENT)
    step = sync.subscribed()
    assert_told(step, BookEvent.SUBSCRIBED, SYNCING, Action.ASK)
    assert not step.left
    assert top_of(sync, 5) is None


def test_buffered_deltas_are_joined_to_the_snapshot_that_comes_after_them():
    sync = BookSync(REST, INSTRUMENT)
    sync.subscribed()
    for number in (9, 10, 11, 12):
        assert_told(sync.delta(delta(number, {90 + number - 9: number})), BookEvent.BUFFERED, SYNCING)
    step = sync.snapshot(snapshot(10))
    assert_told(step, BookEvent.JOINED, LIVE)
    assert step.began
    assert step.change is None
    assert sync.book.bids == {99: 1, 98: 2, 92: 11, 93: 12}
    assert (sync.sequence, sync.ts_ns) == (12, 12_000)


def test_a_snapshot_over_rest_is_not_believed_before_the_stream_was_heard():
    sync = BookSync(REST, INSTRUMENT)
    sync.subscribed()
    assert_told(sync.snapshot(snapshot(10)), BookEvent.UNPROVEN, SYNCING)
    assert_told(sync.delta(delta(11, {97: 5})), BookEvent.JOINED, LIVE)
    assert sync.book.bids == {99: 1, 98: 2, 97: 5}


def test_an_older_delta_proves_a_snapshot_as_well_and_changes_nothing():
    sync = BookSync(REST, INSTRUMENT)
    sync.subscribed()
    sync.snapshot(snapshot(10))
    assert_told(sync.delta(delta(10, {97: 5})), BookEvent.JOINED, LIVE)
    assert sync.book.bids == {99: 1, 98: 2}
    assert sync.sequence == 10


def test_a_snapshot_older_than_the_deltas_is_asked_for_again_and_the_deltas_wait():
    sync = BookSync(REST, INSTRUMENT)
    sync.subscribed()
    sync.delta(delta(12, {97: 5}))
    assert_told(sync.snapshot(snapshot(10)), BookEvent.SNAPSHOT_OLD, SYNCING, Action.ASK)
    assert_told(sync.snapshot(snapshot(11)), BookEvent.JOINED, LIVE)
    assert sync.book.bids[97] == 5


def test_a_snapshot_that_the_next_delta_does_not_join_is_asked_for_again():
    sync = BookSync(REST, INSTRUMENT)
    sync.subscribed()
    sync.snapshot(snapshot(10))
    assert_told(sync.delta(delta(12, {97: 5})), BookEvent.SNAPSHOT_OLD, SYNCING, Action.ASK)
    assert not len(sync.book)
    assert_told(sync.snapshot(snapshot(11)), BookEvent.JOINED, LIVE)
    assert sync.sequence == 12


def test_deltas_that_name_the_one_before_are_spliced_by_one_rule_and_followed_by_another():
    sync = BookSync(CHAINED, INSTRUMENT)
    sync.subscribed()
    sync.delta(BookDelta("X", 5, 12, 4, 12, levels({97: 1}), levels({})))
    assert_told(sync.snapshot(snapshot(10)), BookEvent.JOINED, LIVE)
    assert_told(sync.delta(BookDelta("X", 20, 22, 12, 22, levels({96: 1}), levels({}))), BookEvent.APPLIED, LIVE)
    assert_told(sync.delta(BookDelta("X", 23, 24, 21, 24, levels({}), levels({}))), BookEvent.GAP, SYNCING, Action.ASK)


def test_a_hole_among_buffered_deltas_drops_those_before_it():
    sync = BookSync(REST, INSTRUMENT)
    sync.subscribed()
    sync.delta(delta(9))
    sync.delta(delta(12, {97: 5}))
    assert_told(sync.delta(delta(12)), BookEvent.OLD, SYNCING)
    assert sync.statistics().buffered == 1
    assert_told(sync.snapshot(snapshot(10)), BookEvent.SNAPSHOT_OLD, SYNCING, Action.ASK)


def test_the_buffer_is_bounded_and_its_overflow_begins_again():
    sync = BookSync(REST, INSTRUMENT, max_buffered=2)
    sync.subscribed()
    sync.delta(delta(1))
    sync.delta(delta(2))
    assert_told(sync.delta(delta(3)), BookEvent.OVERFLOW, SYNCING, Action.ASK)
    assert sync.statistics().buffered == 0


def test_a_snapshot_on_the_stream_is_the_book_at_once_and_deltas_before_it_are_not():
    sync = BookSync(STREAM, INSTRUMENT)
    sync.subscribed()
    assert_told(sync.delta(delta(10, {97: 5})), BookEvent.OLD, SYNCING)
    assert_told(sync.snapshot(snapshot(10)), BookEvent.JOINED, LIVE)
    assert sync.book.bids == {99: 1, 98: 2}


# ---- LIVE -----------------------------------------------------------------------------------------------------


def test_a_delta_that_follows_is_applied_and_its_change_is_told():
    sync = live()
    step = sync.delta(delta(11, {99: 0, 97: 4}))
    assert_told(step, BookEvent.APPLIED, LIVE)
    assert step.change is not None
    assert step.change.bids_before == [1, 0]
    assert not step.began
    assert top_of(sync, 1) == ([98], [2], [101], [1])


def test_a_repeated_delta_is_old_and_changes_nothing():
    sync = live()
    assert_told(sync.delta(delta(10, {97: 4})), BookEvent.OLD, LIVE)
    assert sync.book.bids == {99: 1, 98: 2}


def test_a_gap_leaves_live_and_starts_a_resync_which_the_delta_may_join():
    sync = live()
    step = sync.delta(delta(12, {97: 4}))
    assert_told(step, BookEvent.GAP, SYNCING, Action.ASK)
    assert step.left
    assert not len(sync.book)
    assert_told(sync.snapshot(snapshot(11)), BookEvent.JOINED, LIVE)
    assert sync.book.bids[97] == 4


def test_a_gap_in_a_stream_with_snapshots_waits_for_the_next_one():
    sync = live(STREAM)
    assert_told(sync.delta(delta(12)), BookEvent.GAP, SYNCING, Action.ASK)
    assert_told(sync.delta(delta(13)), BookEvent.OLD, SYNCING)
    assert sync.statistics().buffered == 0


def test_a_crossed_book_leaves_live():
    sync = live()
    assert_told(sync.delta(delta(11, {101: 1})), BookEvent.CROSSED, SYNCING, Action.ASK)
    assert top_of(sync, 1) is None


def test_a_crossed_snapshot_is_asked_for_again():
    sync = BookSync(STREAM, INSTRUMENT)
    sync.subscribed()
    assert_told(sync.snapshot(snapshot(10, {102: 1}, {101: 1})), BookEvent.CROSSED, SYNCING, Action.ASK)


def test_a_checksum_that_fails_leaves_live_and_one_that_holds_does_not():
    sync = BookSync(CHECKED, INSTRUMENT)
    sync.subscribed()
    assert_told(sync.snapshot(replace(snapshot(10), checksum=1)), BookEvent.CHECKSUM_FAILED, SYNCING, Action.ASK)
    assert_told(sync.snapshot(replace(snapshot(10), checksum=0)), BookEvent.JOINED, LIVE)
    assert_told(sync.delta(replace(delta(11, {97: 5}), checksum=5)), BookEvent.APPLIED, LIVE)
    assert_told(sync.delta(delta(12, {97: 6})), BookEvent.APPLIED, LIVE)
    assert_told(sync.delta(replace(delta(13, {97: 5}), checksum=6)), BookEvent.CHECKSUM_FAILED, SYNCING, Action.ASK)


@pytest.mark.parametrize(
    "bad",
    [Levels([0], [1]), Levels([-5], [1]), Levels([5], [-1]), Levels([5, 6], [1]), Levels([2**63], [1])],
)
def test_a_level_that_cannot_be_leaves_live_whatever_its_number(bad: Levels):
    sync = live()
    step = sync.delta(replace(delta(11), bids=bad))
    assert_told(step, BookEvent.DAMAGED, SYNCING, Action.ASK)
    assert_told(sync.snapshot(replace(snapshot(20), asks=bad)), BookEvent.DAMAGED, SYNCING, Action.ASK)


def test_a_message_that_could_not_be_read_leaves_live():
    assert_told(live(STREAM).damaged(), BookEvent.DAMAGED, SYNCING, Action.ASK)


def test_a_changed_tick_begins_again_with_the_new_scales():
    sync = live()
    finer = Instrument(id=2, symbol="X", venue="V", price_scale=1, size_scale=0, quote_scale=0)
    assert_told(sync.tick_changed(finer), BookEvent.TICK_CHANGED, SYNCING, Action.ASK)
    assert sync.instrument is finer
    assert_told(BookSync(REST, INSTRUMENT).tick_changed(finer), BookEvent.OLD, EMPTY)


def test_a_snapshot_on_the_stream_begins_a_live_book_anew_and_one_over_rest_is_late():
    sync = live(STREAM)
    step = sync.snapshot(snapshot(50, {90: 1}))
    assert_told(step, BookEvent.JOINED, LIVE)
    assert step.began
    assert sync.book.bids == {90: 1}
    late = live()
    assert_told(late.snapshot(snapshot(50, {90: 1})), BookEvent.OLD, LIVE)
    assert late.sequence == 10


def test_levels_deeper_than_the_venue_keeps_are_cut_and_the_change_says_so():
    sync = BookSync(BookRule("stream", spans, spans, depth=2), INSTRUMENT)
    sync.subscribed()
    sync.snapshot(snapshot(10))
    step = sync.delta(delta(11, {100: 7}))
    assert sync.book.bids == {100: 7, 99: 1}
    assert step.change is not None
    bids = step.change.bids
    assert list(zip(bids.prices, bids.sizes, step.change.bids_before, strict=True)) == [(100, 7, 0), (98, 0, 2)]


# ---- not LIVE any more ----------------------------------------------------------------------------------------


def test_a_silent_book_is_stale_and_the_delta_that_follows_makes_it_live():
    sync = live()
    step = sync.silent()
    assert_told(step, BookEvent.SILENT, STALE)
    assert step.left
    assert top_of(sync, 1) is None
    assert_told(sync.delta(delta(10)), BookEvent.OLD, STALE)
    assert_told(sync.silent(), BookEvent.SILENT, STALE)
    step = sync.delta(delta(11, {97: 4}))
    assert_told(step, BookEvent.RESUMED, LIVE)
    assert step.began
    assert step.change is None


def test_a_gap_after_a_silence_begins_again():
    sync = live()
    sync.silent()
    assert_told(sync.delta(delta(12)), BookEvent.GAP, SYNCING, Action.ASK)


def test_silence_while_syncing_asks_again_and_keeps_the_deltas():
    sync = BookSync(REST, INSTRUMENT)
    sync.subscribed()
    sync.delta(delta(11, {97: 4}))
    assert_told(sync.silent(), BookEvent.SILENT, SYNCING, Action.ASK)
    assert_told(sync.snapshot(snapshot(10)), BookEvent.JOINED, LIVE)
    assert sync.sequence == 11


def test_a_disconnection_is_stale_and_drops_the_book_and_what_still_comes_is_old():
    sync = live()
    step = sync.disconnected()
    assert_told(step, BookEvent.DISCONNECTED, STALE, Action.DROP)
    assert step.left
    assert not len(sync.book)
    for late in (sync.delta(delta(11)), sync.snapshot(snapshot(11)), sync.damaged()):
        assert_told(late, BookEvent.OLD, STALE)
    assert_told(sync.subscribed(), BookEvent.SUBSCRIBED, SYNCING, Action.ASK)


def test_a_disconnection_in_the_middle_of_syncing_forgets_the_deltas():
    sync = BookSync(REST, INSTRUMENT)
    sync.subscribed()
    sync.delta(delta(11, {97: 4}))
    sync.disconnected()
    sync.subscribed()
    assert_told(sync.snapshot(snapshot(10)), BookEvent.UNPROVEN, SYNCING)


def test_before_a_subscription_nothing_matters():
    sync = BookSync(REST, INSTRUMENT)
    for step in (sync.delta(delta(1)), sync.snapshot(snapshot(1)), sync.silent(), sync.disconnected()):
        assert step.state is EMPTY
        assert not step.needs_snapshot


def test_statistics_count_each_event_by_its_word():
    sync = live()
    sync.delta(delta(11))
    found = sync.statistics()
    assert (found.state, found.sequence, found.levels, found.buffered) == (LIVE, 11, 4, 0)
    assert found.events == {"subscribed": 1, "buffered": 1, "joined": 1, "applied": 1}
    assert "LIVE at 11" in repr(sync)


# ---- right or not LIVE ----------------------------------------------------------------------------------------


class Market:
    """A venue's book and every state that it was in."""

    def __init__(self, changes: list[tuple[int, int, int]]) -> None:
        self.states = [({100: 1, 99: 1}, {103: 1, 104: 1})]
        self.deltas = [delta(0)]
        for offset, bid_size, ask_size in changes:
            bids, asks = dict(self.states[-1][0]), dict(self.states[-1][1])
            rows = ({100 - offset: bid_size}, {103 + offset: ask_size})
            for side, row in zip((bids, asks), rows, strict=True):
                side.update(row)
                for price in [price for price, size in side.items() if not size]:
                    del side[price]
            self.states.append((bids, asks))
            self.deltas.append(delta(len(self.deltas), *rows))

    def snapshot(self, at: int) -> BookSnapshot:
        return BookSnapshot("X", at, ABSENT, levels(self.states[at][0]), levels(self.states[at][1]))


market_changes = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3), st.integers(0, 3)), min_size=5, max_size=30)
fates = st.sampled_from(("ok", "ok", "ok", "ok", "drop", "repeat", "swap", "damage", "cut", "silent", "snapshot"))
scripts = st.lists(st.tuples(fates, st.integers(0, 6)), max_size=40)


@settings(deadline=None)
@given(market_changes, scripts, st.sampled_from((REST, CHAINED, STREAM)))
def test_the_book_is_right_or_not_live_whatever_becomes_of_the_messages(changes, script, rule):
    market = Market(changes)
    sync = BookSync(rule, INSTRUMENT)
    asked = sync.subscribed().needs_snapshot
    heard = 0  # the venue has sent so many deltas
    for number, (fate, lag) in enumerate(script):
        heard = min(heard + 1, len(market.deltas) - 1)
        message = market.deltas[heard]
        steps = befall(sync, market, fate, message, max(heard - lag, 0), number)
        asked = asked or any(step.needs_snapshot for step in steps)
        assert_right(sync, market)
        if asked and sync.state is SYNCING and lag % 2:
            # over REST a cached one may come; on the stream it is what the deltas after it follow
            step = sync.snapshot(market.snapshot(heard if rule.snapshot == "stream" else max(heard - lag, 0)))
            asked = step.needs_snapshot
            assert_right(sync, market)
    recover(sync, market, heard)


def befall(sync: BookSync, market: Market, fate: str, message: BookDelta, old: int, number: int) -> list[Step]:
    if fate == "drop":
        return []
    if fate == "repeat":
        return [sync.delta(message), sync.delta(message)]
    if fate == "swap":
        return [sync.delta(market.deltas[min(message.last + 1, len(market.deltas) - 1)]), sync.delta(message)]
    if fate == "damage":
        return [sync.delta(replace(message, bids=Levels([-number], [1])))]
    if fate == "cut":
        return [sync.disconnected(), sync.delta(message), sync.subscribed()]
    if fate == "silent":
        return [sync.silent(), sync.delta(message)]
    if fate == "snapshot" and sync.rule.snapshot == "rest":
        return [sync.snapshot(market.snapshot(old)), sync.delta(message)]
    return [sync.delta(message)]


def assert_right(sync: BookSync, market: Market) -> None:
    if sync.state is LIVE:
        assert (sync.book.bids, sync.book.asks) == market.states[sync.sequence]
    else:
        assert top_of(sync, 3) is None


def recover(sync: BookSync, market: Market, heard: int) -> None:
    """Whatever happened, a connection that loses nothing makes the book live."""
    sync.disconnected()
    sync.subscribed()
    sync.delta(market.deltas[heard])
    sync.snapshot(market.snapshot(heard))
    assert sync.state is LIVE
    assert_right(sync, market)


def test_a_book_of_a_venue_without_numbers_lives_by_its_connection():
    def always(_: int, __: Any) -> Fit:
        return Fit.NEXT

    sync = BookSync(BookRule("stream", always, always), INSTRUMENT)
    sync.subscribed()
    sync.snapshot(snapshot(0))
    assert_told(sync.delta(delta(0, {97: 5})), BookEvent.APPLIED, LIVE)
    assert_told(sync.damaged(), BookEvent.DAMAGED, SYNCING, Action.ASK)
