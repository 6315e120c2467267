"""Records in the order of time, beside numpy's sort."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from marketd.market.ordering import by_time, newest_of_each_time
from marketd.market.records import TRADE, Records


def at(moments: list[tuple[int, int]]) -> Records:
    records = np.zeros(len(moments), TRADE)
    records["ts_event"] = [time for time, _ in moments]
    records["seq"] = [seq for _, seq in moments]
    return records


MOMENTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 50)), max_size=12, unique=True)


@given(MOMENTS, st.sampled_from(["as they are", "in order", "in the opposite order"]))
def test_the_order_is_that_of_time_and_seq(moments: list[tuple[int, int]], how: str) -> None:
    if how != "as they are":
        moments = sorted(moments, reverse=how == "in the opposite order")
    records = at(moments)
    assert by_time(records, "ts_event").tolist() == at(sorted(moments)).tolist()


def test_what_is_in_order_or_in_the_opposite_one_is_not_copied() -> None:
    records = at([(1, 1), (2, 2), (2, 3), (4, 4)])
    assert by_time(records, "ts_event") is records
    assert np.shares_memory(by_time(records[::-1], "ts_event"), records)


@given(MOMENTS)
def test_of_each_moment_the_greatest_seq_counts(moments: list[tuple[int, int]]) -> None:
    found = newest_of_each_time(at(moments), "ts_event")
    assert found.tolist() == at(sorted(dict(sorted(moments)).items())).tolist()


def test_records_of_one_version_each_are_not_copied() -> None:
    records = at([(1, 1), (2, 2), (4, 4)])
    assert newest_of_each_time(records, "ts_event") is records
    assert len(newest_of_each_time(records[:0], "ts_event")) == 0
