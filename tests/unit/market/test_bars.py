"""Which bar counts, by version and by source, against a model of plain dicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.market.bars import BAR_SOURCES, finish_bars, newest_versions, pick_best, preference, source_number
from marketd.market.errors import InvalidArgument
from marketd.market.records import CANDLE, CandleFlag, Records, Source

PARTIAL = int(CandleFlag.PARTIAL)
FULL_OWN, VENUE, IMPORTED, PARTIAL_OWN = (
    (Source.OWN, 0),
    (Source.VENUE, 0),
    (Source.IMPORT, 0),
    (Source.OWN, PARTIAL),
)
RANKING = [FULL_OWN, VENUE, IMPORTED, PARTIAL_OWN]
flags = st.sampled_from([0, PARTIAL, int(CandleFlag.REVISED), PARTIAL | int(CandleFlag.REVISED)])
versions = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(list(Source)), flags), max_size=20)


def records_of(rows: list[tuple[Any, ...]]) -> Records:
    """(ts, source, flags) in the order of seq, each with a close of its own."""
    records = np.zeros(len(rows), dtype=CANDLE)
    for index, (ts, source, flag) in enumerate(rows):
        records[index]["ts"], records[index]["source"], records[index]["flags"] = ts, source, flag
        records[index]["seq"] = records[index]["close"] = index
    return records


def rank_of(bar: Any) -> int:
    return RANKING.index((bar["source"], bar["flags"] & PARTIAL if bar["source"] == Source.OWN else 0))


def naive_newest(records: Records) -> list[Any]:
    newest: dict[tuple[int, int], Any] = {}
    for bar in sorted(records, key=lambda bar: bar["seq"]):
        newest[int(bar["ts"]), int(bar["source"])] = bar
    return [newest[key] for key in sorted(newest)]


def naive_best(records: list[Any]) -> list[Any]:
    best: dict[int, Any] = {}
    for bar in records:
        ts = int(bar["ts"])
        if ts not in best or rank_of(bar) < rank_of(best[ts]):
            best[ts] = bar
    return [best[ts] for ts in sorted(best)]


def closes(records: Any) -> list[int]:
    return [int(bar["close"]) for bar in records]


def test_own_bars_that_were_observed_throughout_come_first_and_partial_ones_last() -> None:
    ranks = preference(records_of([(0, source, flag) for source, flag in RANKING])).tolist()
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == len(RANKING)


@given(versions, st.randoms())
def test_of_each_bar_and_source_the_greatest_seq_counts_in_whatever_order_they_come(rows: Any, chance: Any) -> None:
    records = records_of(rows)
    chance.shuffle(order := list(range(len(rows))))
    assert closes(newest_versions(records[order])) == closes(naive_newest(records))


@given(versions, st.randoms())
def test_the_best_source_is_picked_for_each_bar(rows: Any, chance: Any) -> None:
    newest = newest_versions(records_of(rows))
    chance.shuffle(order := list(range(len(newest))))
    assert closes(pick_best(newest[order])) == closes(naive_best(list(newest)))


@given(versions, st.one_of(st.none(), st.integers(1, 8)), st.randoms())
def test_a_reader_gets_the_newest_of_the_best_oldest_first(rows: Any, limit: int | None, chance: Any) -> None:
    newest = newest_versions(records_of(rows))
    expected = closes(naive_best(list(newest)))
    chance.shuffle(order := list(range(len(newest))))
    assert closes(finish_bars(newest[order], "best", limit)) == (expected if limit is None else expected[-limit:])


@given(versions, st.sampled_from(sorted(BAR_SOURCES)), st.one_of(st.none(), st.integers(1, 8)))
def test_bars_of_one_source_are_only_put_in_order(rows: Any, name: str, limit: int | None) -> None:
    newest = newest_versions(records_of(rows))
    of_source = newest[newest["source"] == BAR_SOURCES[name]]
    expected = closes(sorted(of_source, key=lambda bar: bar["ts"]))
    assert closes(finish_bars(of_source[::-1], name, limit)) == (expected if limit is None else expected[-limit:])


def test_bars_that_are_in_order_already_are_not_copied() -> None:
    records = records_of([(ts, Source.OWN, 0) for ts in range(5)])
    assert pick_best(records) is records
    assert closes(pick_best(records[::-1])) == [0, 1, 2, 3, 4]


def test_a_source_that_does_not_exist_is_named_with_the_choices() -> None:
    assert source_number("best") is None
    assert [source_number(name) for name in ("own", "venue", "import")] == [1, 2, 3]
    with pytest.raises(InvalidArgument, match=r"'mine' is none of best, own, venue, import") as raised:
        source_number("mine")
    assert raised.value.field == "bar_source"
