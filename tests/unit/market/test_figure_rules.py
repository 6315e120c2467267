"""A few figures of books are judged with plain ints: exactly as the table of checks does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lane import BTC
from marketd.market.figure_rules import few_figures_are_good
from marketd.market.imbalance import PPM
from marketd.market.layouts import BookState, ImbalanceReason
from marketd.market.records import BUCKETS, IMBALANCE, KindTable, Records
from marketd.market.times import ABSENT, NS_PER_SECOND
from marketd.market.validation import FEW_BOOKS, DataValidator

SKEW_NS = 10 * NS_PER_SECOND
NOW = 1_700_000_040 * NS_PER_SECOND  # a whole minute
NO_RATIO = -(2**31)
KINDS = KindTable([])
VALUES = st.sampled_from((ABSENT, -1, 0, 1, 7, 2**62))
RATIOS = st.sampled_from((NO_RATIO, -PPM - 1, -PPM, 0, PPM, PPM + 1))
STATES = st.sampled_from((*BookState, -1, 9))
TIMES = st.sampled_from((ABSENT, -NS_PER_SECOND, 0, NOW, NOW + 1, NOW + SKEW_NS, NOW + SKEW_NS + NS_PER_SECOND))
IMBALANCES = {
    **dict.fromkeys(("mid2", "spread", "bid_size", "ask_size", "best_bid_size", "best_ask_size"), VALUES),
    **{name: RATIOS for name in IMBALANCE.names or () if name.startswith(("book_", "volume_"))},
    "state": STATES,
    "reason": st.sampled_from((*map(int, ImbalanceReason), -1, 99)),
    "ts_event": TIMES,
}
OF_BUCKETS = {
    "ts": TIMES | st.sampled_from([NOW - seconds * NS_PER_SECOND for seconds in (49, 50, 51, 60)]),
    "timeframe": st.sampled_from((0, 1, 60, 61)),
    "width": VALUES,
    "base": VALUES,
    "state": STATES,
    "bid_size": VALUES,
    "ask_size": VALUES,
}


def good(name: str) -> Records:
    record = np.zeros(1, IMBALANCE if name == "imbalance" else BUCKETS)
    if name == "imbalance":
        record["ts_event"], record["state"] = NOW, BookState.LIVE
        record["mid2"] = record["spread"] = 1
    else:
        record["ts"], record["timeframe"] = NOW - 60 * NS_PER_SECOND, 60
        record["state"], record["width"] = BookState.LIVE, 1
    return record


def table_says(name: str, record: Records) -> bool:
    """As the table of checks judges it: more of them than are judged one by one."""
    many = np.repeat(record, FEW_BOOKS + 1)
    return not DataValidator(KINDS, SKEW_NS).validate(KINDS.by_name(name), many, BTC, NOW).refused


def changed(fields: dict[str, Any]) -> Any:
    """Up to three fields with other values: more would hide each other."""
    names = st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: fields[name] for name in chosen}))


def agree(name: str, record: Records) -> bool:
    verdict = few_figures_are_good(name, record, NOW + SKEW_NS)
    assert verdict == table_says(name, record)
    assert DataValidator(KINDS, SKEW_NS).validate(KINDS.by_name(name), record, BTC, NOW).refused == [] or not verdict
    return verdict


@pytest.mark.parametrize("name", ["imbalance", "buckets"])
def test_a_good_one_passes_without_the_table(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(DataValidator, "_judge")
    record = good(name)
    assert DataValidator(KINDS, SKEW_NS).validate(KINDS.by_name(name), record, BTC, NOW + SKEW_NS).refused == []


@given(changed(IMBALANCES))
def test_an_imbalance_is_judged_as_the_table_judges(changes: dict[str, int]) -> None:
    record = good("imbalance")
    for name, value in changes.items():
        record[name] = value
    agree("imbalance", record)


@given(st.sampled_from([state for state in BookState if state is not BookState.LIVE]), changed(IMBALANCES))
def test_so_is_one_of_a_book_that_is_not_live(state: BookState, changes: dict[str, int]) -> None:
    record = np.zeros(1, IMBALANCE)
    for name in IMBALANCES.keys() - {"ts_event", "state", "reason"}:
        record[name] = NO_RATIO if name.startswith(("book_", "volume_")) else ABSENT
    record["ts_event"], record["state"], record["reason"] = NOW, state, ImbalanceReason.NOT_LIVE
    assert agree("imbalance", record)
    for name, value in changes.items():
        record[name] = value
    agree("imbalance", record)


@given(changed(OF_BUCKETS), st.integers(0, 1))
def test_buckets_are_judged_as_the_table_judges(changes: dict[str, int], place: int) -> None:
    record = good("buckets")
    for name, value in changes.items():
        if name.endswith("size"):
            record[name][0, -place] = value
        else:
            record[name] = value
    agree("buckets", record)


def test_buckets_without_a_base_have_no_sizes() -> None:
    record = good("buckets")
    record["base"], record["width"] = ABSENT, 0
    assert not agree("buckets", record)
    record["bid_size"] = record["ask_size"] = ABSENT
    assert agree("buckets", record)
    record["ask_size"][0, -1] = 3
    assert not agree("buckets", record)


def test_one_flaw_among_a_few_sends_them_to_the_table() -> None:
    records = np.repeat(good("buckets"), 3)
    records["width"][1] = 0
    refused = DataValidator(KINDS, SKEW_NS).validate(KINDS.by_name("buckets"), records, BTC, NOW + SKEW_NS).refused
    assert [(each.index, each.rule) for each in refused] == [(1, "bucket")]
