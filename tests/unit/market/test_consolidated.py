"""The consolidated book against a merge of all levels from scratch, and what makes a venue fall out and return."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.market.book import BestLevels
from marketd.market.book_records import BookPacker
from marketd.market.consolidated import ConsolidatedBook, ConsolidatedLevel
from marketd.market.errors import InvalidArgument
from marketd.market.instruments import Instrument
from marketd.market.layouts import BookState
from marketd.market.records import Records

SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND


def venue(number: int, price_scale: int = 2, size_scale: int = 3) -> Instrument:
    return Instrument(
        id=number, symbol="X", venue=f"V{number}", price_scale=price_scale, size_scale=size_scale, quote_scale=4
    )


def book(bids: dict[int, int], asks: dict[int, int], state: BookState = BookState.LIVE, ts: int = NOW) -> Records:
    packer = BookPacker(5)
    bid_prices, ask_prices = sorted(bids, reverse=True), sorted(asks)
    best = BestLevels(bid_prices, [bids[p] for p in bid_prices], ask_prices, [asks[p] for p in ask_prices])
    return packer.records([packer.pack(ts, 1, state, best, 0)])


def test_levels_of_different_scales_are_merged_and_keep_their_venue():
    merged = ConsolidatedBook([venue(1, 2, 3), venue(2, 0, 0)], depth=3)
    assert (merged.price_scale, merged.size_scale) == (2, 3)
    merged.take(1, book({10_050: 7, 9_990: 1}, {10_100: 9}), NOW)
    merged.take(2, book({100: 2, 99: 1}, {101: 1}, ts=NOW + 5), NOW)
    found = merged.top(NOW)
    assert found.bids == [(10_050, 7, 1), (10_000, 2_000, 2), (9_990, 1, 1)]
    assert found.asks == [(10_100, 1_000, 2), (10_100, 9, 1)]
    assert (found.live, found.ts_event, found.is_crossed) == ((1, 2), NOW + 5, False)


def test_venues_that_disagree_make_a_crossed_book():
    merged = ConsolidatedBook([venue(1), venue(2)])
    merged.take(1, book({105: 1}, {106: 1}), NOW)
    merged.take(2, book({100: 1}, {101: 1}), NOW)
    assert merged.top(NOW).is_crossed
    assert not ConsolidatedBook([venue(1)]).top(NOW).is_crossed


@pytest.mark.parametrize("state", [BookState.STALE, BookState.SYNCING, BookState.EMPTY])
def test_a_venue_that_is_not_live_falls_out_and_returns(state):
    merged = ConsolidatedBook([venue(1), venue(2)])
    merged.take(1, book({105: 1}, {106: 1}), NOW)
    merged.take(2, book({100: 1}, {107: 1}), NOW)
    merged.take(1, book({}, {}, state), NOW + 1)
    assert merged.top(NOW + 1).live == (2,)
    assert [level.instrument for level in merged.top(NOW + 1).bids] == [2]
    merged.take(1, book({104: 1}, {106: 1}), NOW + 2)
    assert merged.top(NOW + 2).live == (1, 2)
    assert merged.top(NOW + 2).bids[0] == ConsolidatedLevel(104, 1, 1)


def test_a_venue_that_is_not_heard_of_falls_out_and_a_sign_of_life_brings_it_back():
    merged = ConsolidatedBook([venue(1), venue(2)], stale_after_ns=SECOND)
    merged.take(1, book({105: 1}, {106: 1}), NOW)
    merged.take(2, book({100: 1}, {107: 1}), NOW + SECOND)
    assert merged.top(NOW + SECOND).live == (1, 2)
    assert merged.top(NOW + SECOND + 1).live == (2,)
    merged.heard(1, NOW + SECOND + 1)
    assert merged.top(NOW + SECOND + 1).live == (1, 2)
    merged.take(1, book({}, {})[:0], NOW + 3 * SECOND)
    assert merged.top(NOW + 3 * SECOND).live == (1,)


def test_venues_come_and_go():
    merged = ConsolidatedBook([venue(1)])
    merged.add(venue(3, 0, 0))
    merged.take(3, book({5: 1}, {}), NOW)
    assert merged.top(NOW).bids == [(500, 1_000, 3)]
    merged.remove(3)
    merged.remove(3)
    assert merged.top(NOW).live == ()
    with pytest.raises(InvalidArgument, match=r"V4.*make a new one"):
        merged.add(venue(4, 3, 3))
    with pytest.raises(InvalidArgument, match="no instruments"):
        ConsolidatedBook([])


def test_levels_that_leave_64_bits_at_the_common_scale_are_left_out():
    merged = ConsolidatedBook([venue(1, 18, 0), venue(2, 0, 0)])
    merged.take(2, book({100: 1, 9: 1}, {}), NOW)
    assert merged.top(NOW).bids == [(9 * 10**18, 1, 2)]


sides = st.dictionaries(st.integers(1, 30), st.integers(0, 5), max_size=5)
events = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 3), sides, sides, st.sampled_from((2, 2, 2, 3, 1))), max_size=20
)


@given(events, st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=3, max_size=3))
def test_the_merged_book_is_what_all_levels_give_from_scratch(script, scales):
    venues = [venue(i + 1, *scale) for i, scale in enumerate(scales)]
    merged, shown = ConsolidatedBook(venues, depth=4, stale_after_ns=5), {}
    now = NOW
    for number, pause, bids, asks, state in script:
        now += pause
        live = BookState(state) is BookState.LIVE
        merged.take(number, book(bids if live else {}, asks if live else {}, BookState(state)), now)
        shown[number] = (now, live, bids, asks)
        wanted: list[list[tuple[Decimal, Decimal, int]]] = [[], []]
        for i, (heard, is_live, *of_sides) in shown.items():
            if is_live and now - heard <= 5:
                price_unit, size_unit = (Decimal(1).scaleb(-scale) for scale in scales[i - 1])
                for levels, side in zip(wanted, of_sides, strict=True):
                    levels += [(p * price_unit, s * size_unit, i) for p, s in side.items() if s]
        found = merged.top(now)
        price_unit, size_unit = Decimal(1).scaleb(-merged.price_scale), Decimal(1).scaleb(-merged.size_scale)
        for levels, want, sign in ((found.bids, wanted[0], -1), (found.asks, wanted[1], 1)):
            best = sorted(want, key=lambda level: (sign * level[0], -level[1], level[2]))[:4]
            assert [(p * price_unit, s * size_unit, i) for p, s, i in levels] == best
