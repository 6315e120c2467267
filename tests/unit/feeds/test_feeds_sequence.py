"""The order of numbered records: each once, ascending, whatever order and overlap they come in."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from marketd.daemon.feeds.sequence import NOTHING_YET, Lost, Missing, NumberSequence, bar_numbers, trade_numbers
from marketd.market.records import CANDLE, TRADE, Records


def trades(numbers: Iterable[int]) -> Records:
    numbers = list(numbers)
    records = np.zeros(len(numbers), dtype=TRADE)
    records["trade_id"] = numbers
    records["ts_event"] = np.array(numbers, dtype=np.int64) * 10
    return records


def ids(records: Records) -> list[int]:
    found: list[int] = records["trade_id"].tolist()
    return found


def sequence(last: int | None = None) -> NumberSequence:
    made = NumberSequence(TRADE, trade_numbers)
    if last is not None:
        made.begin_catch_up(last)
        made.fetched(trades([]), at_present=True)
    return made


def test_the_first_records_ever_seen_begin_the_sequence() -> None:
    made = sequence()
    assert made.missing is None
    assert ids(made.live(trades([5, 6, 7]))) == [5, 6, 7]
    assert made.missing is None


def test_records_that_follow_go_straight_through() -> None:
    made = sequence(4)
    batch = trades([5, 6])
    assert made.live(batch) is batch


def test_what_comes_twice_is_dropped_and_counted() -> None:
    made = sequence(4)
    made.live(trades([5, 6, 7]))
    assert ids(made.live(trades([6, 7, 8]))) == [8]
    assert made.duplicates == 2


def test_a_hole_holds_back_what_follows_until_it_is_fetched() -> None:
    made = sequence(4)
    assert ids(made.live(trades([5, 8, 9]))) == [5]
    assert made.missing == Missing(6, 7)
    assert made.held == 2
    assert ids(made.live(trades([10]))) == []
    step = made.fetched(trades([6, 7]), at_present=False)
    assert ids(step.records) == [6, 7, 8, 9, 10]
    assert step.lost == []
    assert made.missing is None
    assert made.held == 0


def test_a_hole_closes_by_itself_when_another_connection_brings_it() -> None:
    made = sequence(4)
    made.live(trades([7, 8]))
    assert ids(made.live(trades([5]))) == [5]
    assert made.missing == Missing(6, 6)
    assert ids(made.live(trades([6, 7]))) == [6, 7, 8]
    assert made.missing is None


def test_after_a_reconnect_everything_after_the_last_is_missing_until_the_stream_follows_it() -> None:
    made = sequence(4)
    made.begin_catch_up()
    assert made.missing == Missing(5, None)
    assert ids(made.live(trades([5]))) == [5]
    assert made.missing is None


def test_after_a_reconnect_the_stream_waits_for_what_was_missed() -> None:
    made = sequence(4)
    made.begin_catch_up()
    assert ids(made.live(trades([9]))) == []
    assert made.missing == Missing(5, 8)
    assert ids(made.fetched(trades([5, 6]), at_present=False).records) == [5, 6]
    assert made.missing == Missing(7, 8)
    assert ids(made.fetched(trades([7, 8]), at_present=True).records) == [7, 8, 9]


def test_a_reconnect_in_the_middle_of_a_hole_misses_nothing() -> None:
    made = sequence(4)
    made.live(trades([7, 8]))
    made.begin_catch_up()
    made.live(trades([12]))
    assert made.missing == Missing(5, 6)
    assert ids(made.fetched(trades([5, 6]), at_present=False).records) == [5, 6, 7, 8]
    assert made.missing == Missing(9, 11)


def test_a_venue_that_has_no_more_ends_the_catch_up() -> None:
    made = sequence(4)
    made.begin_catch_up()
    assert ids(made.fetched(trades([5, 6]), at_present=True).records) == [5, 6]
    assert made.missing is None


def test_numbers_that_the_venue_leaves_out_are_lost() -> None:
    made = sequence(4)
    made.begin_catch_up()
    step = made.fetched(trades([7, 8, 10]), at_present=True)
    assert ids(step.records) == [7, 8, 10]
    assert step.lost == [Lost(5, 6, 70), Lost(9, 9, 100, 80)]
    assert [hole.size for hole in step.lost] == [2, 1]


def test_what_is_missing_can_be_given_up() -> None:
    made = sequence(4)
    made.live(trades([7, 8, 11]))
    step = made.skip()
    assert ids(step.records) == [7, 8]
    assert step.lost == [Lost(5, 6, 70)]
    assert made.missing == Missing(9, 10)


def test_giving_up_without_anything_held_only_ends_the_catch_up() -> None:
    made = sequence(4)
    made.begin_catch_up()
    step = made.skip()
    assert (ids(step.records), step.lost, made.missing) == ([], [], None)


def test_a_venue_that_had_nothing_yet_loses_nothing_before_its_first_record() -> None:
    made = sequence()
    made.begin_catch_up(NOTHING_YET)
    assert ids(made.live(trades([70]))) == []  # an earlier one may have been missed
    assert made.missing == Missing(0, 69)
    step = made.fetched(trades([68, 69]), at_present=True)
    assert (ids(step.records), step.lost) == ([68, 69, 70], [])
    made = sequence()
    made.begin_catch_up(NOTHING_YET)
    made.live(trades([70]))
    step = made.skip()
    assert (ids(step.records), step.lost) == ([70], [])


def test_a_later_start_forgets_what_is_before_it() -> None:
    made = sequence(4)
    made.live(trades([7, 8, 9]))
    made.begin_catch_up(8)
    assert ids(made.fetched(trades([]), at_present=True).records) == [9]


def test_held_records_are_dropped_when_they_were_read_with_old_scales() -> None:
    made = sequence(4)
    made.live(trades([7, 8]))
    made.drop_held()
    assert made.held == 0
    assert made.missing == Missing(5, None)


def test_bars_are_numbered_by_their_open_time() -> None:
    bars = np.zeros(2, dtype=CANDLE)
    bars["ts"] = [120 * 10**9, 180 * 10**9]
    assert bar_numbers(60)(bars).tolist() == [2, 3]


def test_too_much_held_back_shows() -> None:
    made = NumberSequence(TRADE, trade_numbers, max_held=3)
    made.begin_catch_up(1)
    made.live(trades(range(10, 13)))
    assert not made.overfull
    made.live(trades([20]))
    assert made.overfull


@given(st.data())
def test_every_number_is_handed_on_once_and_in_order_or_reported_lost(data: st.DataObject) -> None:
    """Batches of a true stream, cut, repeated, shuffled; fetches of any length from a venue with holes of its own."""
    made, end = sequence(0), 60
    absent = data.draw(st.sets(st.integers(1, end - 1), max_size=8))
    venue = [n for n in range(1, end + 1) if n not in absent]
    handed: list[int] = []
    lost: list[Lost] = []
    seen_up_to = 0
    for _ in range(data.draw(st.integers(0, 25))):
        action = data.draw(st.sampled_from(["live", "fetch", "reconnect", "skip"]))
        if action == "live":
            first = data.draw(st.integers(max(1, seen_up_to - 3), end))
            batch = [n for n in venue if first <= n < first + data.draw(st.integers(1, 8))]
            if batch:
                seen_up_to = max(seen_up_to, batch[-1])
                handed += ids(made.live(trades(data.draw(st.permutations(batch)))))
        elif action == "reconnect":
            made.begin_catch_up()
        elif action == "fetch" and made.missing is not None:
            missing = made.missing
            page = [n for n in venue if missing.first <= n <= (missing.last or seen_up_to)]
            page = page[: data.draw(st.integers(1, 10))]
            step = made.fetched(trades(page), at_present=data.draw(st.booleans()))
            handed += ids(step.records)
            lost += step.lost
        elif action == "skip":
            step = made.skip()
            handed += ids(step.records)
            lost += step.lost
    assert handed == sorted(set(handed))
    given_up = {n for hole in lost for n in range(hole.first, hole.last + 1)}
    assert not given_up & set(handed)
    assert set(handed) | given_up == set(range(1, (made.last or 0) + 1))
