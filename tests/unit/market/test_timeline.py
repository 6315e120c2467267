"""The ledger as a line, against painting one place after the other, and against what a grid takes for observed."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from marketd.client.grid import observed_intervals
from marketd.market.records import COVERAGE, Coverage, Records
from marketd.market.timeline import SEVERITY, Seen, Stretch, streams_of, timeline, worst_in_cells
from marketd.market.times import ABSENT

END = 30


def ledger(rows: list[tuple[Any, ...]]) -> Records:
    """COVERAGE records of (state, start, end[, stream[, reason]])."""
    records = np.zeros(len(rows), COVERAGE)
    for number, (state, start, end, *rest) in enumerate(rows):
        stream, reason = (*rest, *(1, b"")[len(rest) :])
        records[number] = (start, 0, number, start, end, number, stream, state, reason)
    return records


event = st.tuples(
    st.sampled_from(list(Coverage)), st.integers(-3, END + 3), st.integers(-3, END + 3), st.sampled_from([0, 1, 2])
)


def painted(rows: list[Any]) -> list[Seen]:
    """The state of each place from 0 to END, one event after the other."""
    places = [Seen.UNOBSERVED] * END
    for state, start, end, stream in rows:
        if stream not in (0, 1):
            continue
        endless = state in (Coverage.OBSERVED, Coverage.ENDED) and end <= start
        for place in range(max(0, start), END if endless else min(end, END)):
            match state:
                case Coverage.OBSERVED:
                    places[place] = Seen.OBSERVED
                case Coverage.BACKFILLED:
                    places[place] = Seen.BACKFILLED
                case Coverage.GAP:
                    places[place] = Seen.GAP
                case Coverage.VENUE_DOWN:
                    places[place] = Seen.VENUE_DOWN
                case Coverage.UNSTORED:
                    places[place] = Seen.UNSTORED
                case Coverage.EXPIRED:
                    places[place] = Seen.EXPIRED
                case Coverage.ENDED:
                    places[place] = Seen.UNOBSERVED
    return places


@given(st.lists(event, max_size=12), st.randoms())
def test_the_line_is_what_painting_gives(rows: list[Any], random: Any) -> None:
    records = ledger(rows)
    shuffled = records[random.sample(range(len(records)), len(records))]
    line = timeline(shuffled, 1, 0, END)
    assert [stretch.state for stretch in line for _ in range(stretch.ns)] == painted(rows)
    assert [stretch.start for stretch in line] == [0, *(stretch.end for stretch in line[:-1])]
    assert line[-1].end == END
    assert all(one != other._replace(start=one.start, end=one.end) for one, other in itertools.pairwise(line))


@given(st.lists(event.filter(lambda row: row[0] != Coverage.ENDED or row[2] <= row[1]), max_size=12))
def test_a_grid_takes_the_same_for_observed(rows: list[Any]) -> None:
    records = ledger(rows)
    whole = {place for a, b in observed_intervals(records, END, stream=1) for place in range(max(a, 0), b)}
    found = {p for stretch in timeline(records, 1, 0, END) if stretch.state.is_whole for p in range(*stretch[:2])}
    assert found == whole


def test_what_was_fetched_says_so_though_nothing_is_missing_and_no_gap_was_told() -> None:
    records = ledger(
        [
            (Coverage.OBSERVED, 0, 0),
            (Coverage.GAP, 10, 20, 1, b"reconnected"),
            (Coverage.BACKFILLED, 5, 15, 1, b"fetched"),
        ]
    )
    assert timeline(records, 1, 2, 30) == [
        Stretch(2, 5, Seen.OBSERVED),
        Stretch(5, 15, Seen.BACKFILLED, 2, "fetched"),
        Stretch(15, 20, Seen.GAP, 1, "reconnected"),
        Stretch(20, 30, Seen.OBSERVED),
    ]


def test_an_end_that_is_absent_is_still_to_come() -> None:
    records = ledger([(Coverage.OBSERVED, 0, ABSENT), (Coverage.VENUE_DOWN, 10, ABSENT, 1, b"maintenance")])
    assert [stretch.state for stretch in timeline(records, 1, 0, 30)] == [Seen.OBSERVED, Seen.VENUE_DOWN]


def test_streams_are_those_that_are_spoken_of() -> None:
    assert streams_of(ledger([(Coverage.OBSERVED, 0, 0, 3), (Coverage.UNSTORED, 0, 5, 0)])) == [3]
    assert streams_of(ledger([(Coverage.UNSTORED, 0, 5, 0)])) == [0]
    assert streams_of(ledger([])) == []


def test_what_was_dropped_of_seconds_and_of_versions_speaks_of_no_stream() -> None:
    dropped = [(Coverage.EXPIRED, 0, 5, 2, table) for table in (b"candles_1s", b"candle_versions")]
    assert streams_of(ledger([(Coverage.OBSERVED, 0, 0, 1), *dropped])) == [1]
    assert streams_of(ledger([(Coverage.EXPIRED, 0, 5, 2, b"candles")])) == [2]


@given(st.lists(event, max_size=8), st.integers(1, 60))
def test_a_place_of_a_drawing_is_as_bad_as_the_worst_moment_in_it(rows: list[Any], cells: int) -> None:
    line = timeline(ledger(rows), 1, 0, END)
    places = painted(rows)
    drawn = worst_in_cells(line, cells)
    for cell, state in enumerate(drawn):
        first, last = cell * END // cells, -(-(cell + 1) * END // cells)
        assert state is min(places[first:last], key=SEVERITY.__getitem__)


def test_nothing_is_drawn_of_nothing() -> None:
    assert worst_in_cells([], 10) == []
