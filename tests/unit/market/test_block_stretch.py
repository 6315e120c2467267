"""A stretch as several blocks, and back: no record is lost, no time shared, and what is not asked for is cut off."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.market.block_stretch import Within, packed_parts, unpacked_stretch, unpacked_times
from marketd.market.blocks import Block, pack
from marketd.market.errors import BlockDamaged
from marketd.market.records import BY_NAME, Records, book_dtype, book_kind

TRADE, CANDLE, IMBALANCE = BY_NAME["trade"], BY_NAME["candle"], BY_NAME["imbalance"]
_times = st.lists(st.integers(0, 30), min_size=1, max_size=60)


def records_at(times: list[int], kind: Any = TRADE) -> Records:
    records = np.zeros(len(times), kind.dtype)
    records[kind.time] = times
    records["ts_known"] = records[kind.time] + 5
    records["seq"] = np.arange(len(times))
    return records


@given(_times, st.integers(1, 20))
def test_parts_of_a_stretch_share_no_time_and_are_all_of_it(times: list[int], block_rows: int) -> None:
    records = records_at(times)
    parts = list(packed_parts(records, "ts_event", block_rows))
    assert parts[0][0] is None
    starts = [start for start, _, _ in parts[1:] if start is not None]
    assert len(starts) == len(parts) - 1
    assert all(one < two for one, two in pairwise(starts))
    for (start, part, data), end in zip(parts, [*starts, None], strict=True):
        assert Block(data).records().tobytes() == part.tobytes()
        assert start is None or part["ts_event"].min() >= start
        assert end is None or part["ts_event"].max() < end
        assert np.all(np.diff(part["seq"]) > 0)  # in the order in which they came
    most = max(times.count(time) for time in times)
    assert all(len(part) <= 1.5 * block_rows + most for _, part, _ in parts)
    together = np.concatenate([part for _, part, _ in parts])
    assert np.sort(together["seq"]).tolist() == records["seq"].tolist()


@given(_times, st.integers(1, 20), *[st.one_of(st.none(), st.integers(0, 40))] * 3)
def test_of_several_blocks_what_is_wanted_comes(
    times: list[int], block_rows: int, start: int | None, end: int | None, known: int | None
) -> None:
    records = records_at(sorted(times))
    blocks = [data for _, _, data in packed_parts(records, "ts_event", block_rows)]
    wanted = np.ones(len(records), np.bool_)
    for bound, is_in in (
        (start, records["ts_event"] >= (start or 0)),
        (end, records["ts_event"] < (end or 0)),
        (known, records["ts_known"] <= (known or 0)),
    ):
        wanted &= is_in | (bound is None)
    within = Within(start, end, known)
    assert unpacked_stretch(blocks, TRADE, within, count=len(records)).tobytes() == records[wanted].tobytes()
    if known is None:
        assert unpacked_times(blocks, "ts_event", within).tolist() == records["ts_event"][wanted].tolist()


def test_blocks_with_fewer_records_than_they_should_have_are_damaged() -> None:
    blocks = [pack(records_at([1, 2])), pack(records_at([3]))]
    with pytest.raises(BlockDamaged, match="not 4 records"):
        unpacked_stretch(blocks, TRADE, count=4)


def test_of_versions_the_newest_that_was_known_counts() -> None:
    blocks = [pack(records_at([1, 2, 2], IMBALANCE)), pack(records_at([3], IMBALANCE))]
    assert unpacked_stretch(blocks, IMBALANCE)["seq"].tolist() == [0, 2, 0]
    bars = records_at([1, 1], CANDLE)  # of two sources, of which the reader chooses
    bars["source"] = [1, 2]
    assert len(unpacked_stretch([pack(bars)], CANDLE)) == 2


def test_books_of_other_depths_come_at_the_one_that_is_asked_for() -> None:
    blocks = [pack(records_at([1], book_kind(2))), pack(records_at([2], book_kind(5)))]
    found = unpacked_stretch(blocks, book_kind(3))
    assert found.dtype == book_dtype(3) and found["ts_event"].tolist() == [1, 2]


def test_of_one_block_at_a_time_the_columns_are_in_memory() -> None:
    records = records_at(list(range(16_000)), CANDLE)
    packed = [data for _, _, data in packed_parts(records, "ts", 1000)]
    unpacked_stretch(packed, CANDLE)
    tracemalloc.start()
    found = unpacked_stretch(packed, CANDLE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.tobytes() == records.tobytes()
    assert peak < 1.5 * records.nbytes
