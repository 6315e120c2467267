"""Each rule for records of order books, and that a bad record costs no neighbour."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from book_teller import BookTeller
from marketd.market.book import Levels
from marketd.market.book_messages import BookDelta, BookRule, BookSnapshot, Fit
from marketd.market.book_rules import few_books_are_good
from marketd.market.book_sync import BookSync
from marketd.market.instruments import Instrument
from marketd.market.layouts import BookDeltaFlag, BookState, ImbalanceReason
from marketd.market.records import KindTable, Records, empty
from marketd.market.times import ABSENT, NS_PER_SECOND
from marketd.market.validation import FEW_BOOKS, DataValidator

DEPTH = 4
NOW = 1_723_161_600 * NS_PER_SECOND
MAX_SKEW_NS = 10 * NS_PER_SECOND
KINDS = KindTable([], DEPTH)
INSTRUMENT = Instrument(id=65537, symbol="BTCUSDT", venue="BINANCE", price_scale=2, size_scale=5, quote_scale=7)
NO_RATIO = -(2**31)


def good(name: str, count: int = 1) -> Records:
    """Records of a kind that keep every rule."""
    records = empty(KINDS.by_name(name), count)
    fields: dict[str, dict[str, Any]] = {
        "book": {
            **{"ts_event": NOW, "state": BookState.LIVE, "bid_count": 3, "ask_count": 2},
            **{"bid_price": (99, 98, 97, ABSENT), "bid_size": (1, 2, 0, ABSENT)},
            **{"ask_price": (101, 102, ABSENT, ABSENT), "ask_size": (1, 2, ABSENT, ABSENT)},
        },
        "imbalance": {
            **{"ts_event": NOW, "mid2": 200, "spread": 2, "bid_size": 5, "ask_size": 0},
            **{"best_bid_size": 1, "best_ask_size": 1, "book_1s": 1_000_000, "volume_1s": -1_000_000},
            **{"state": BookState.LIVE, "reason": ImbalanceReason.NONE},
        },
        "buckets": {
            **{"ts": NOW - 60 * NS_PER_SECOND, "timeframe": 60, "state": BookState.LIVE, "width": 5, "base": 20},
            **{"bid_size": 0, "ask_size": 7},
        },
        "book_delta": {"ts_event": NOW, "price": 99, "size": 0, "side": 1, "flags": 0},
    }[name]
    for field, value in fields.items():
        records[field] = value
    return records


def rules(name: str, records: Records, kinds: KindTable = KINDS) -> dict[int, str]:
    verdict = DataValidator(kinds, MAX_SKEW_NS).validate(kinds.by_name(name), records, INSTRUMENT, NOW)
    return {refused.index: refused.rule for refused in verdict.refused}


BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("book", {"ts_event": ABSENT}, "absent"),
    ("book", {"ts_event": -1}, "range"),
    ("book", {"ts_event": NOW + MAX_SKEW_NS + 1}, "max_skew"),
    ("book", {"state": 4}, "book_state"),
    ("book", {"state": -1}, "book_state"),
    ("book", {"state": BookState.SYNCING}, "not_live"),
    ("book", {"bid_count": -1}, "level_count"),
    ("book", {"bid_count": DEPTH + 1}, "level_count"),
    ("book", {"bid_count": 2}, "level_count"),
    ("book", {"ask_count": 1}, "level_count"),
    ("book", {"bid_count": 4}, "absent"),
    ("book", {"ask_size": (1, ABSENT, ABSENT, ABSENT)}, "absent"),
    ("book", {"bid_price": (99, 98, 0, ABSENT)}, "positive_price"),
    ("book", {"ask_price": (-101, 102, ABSENT, ABSENT)}, "positive_price"),
    ("book", {"bid_size": (1, 2, -3, ABSENT)}, "non_negative"),
    ("book", {"bid_price": (99, 98, 98, ABSENT)}, "bids_falling"),
    ("book", {"bid_price": (97, 98, 99, ABSENT)}, "bids_falling"),
    ("book", {"ask_price": (101, 101, ABSENT, ABSENT)}, "asks_rising"),
    ("book", {"ask_price": (102, 101, ABSENT, ABSENT)}, "asks_rising"),
    ("book", {"ask_price": (99, 101, ABSENT, ABSENT)}, "crossed"),
    ("book", {"ask_price": (98, 101, ABSENT, ABSENT)}, "crossed"),
    ("book", {"bid_price": (2**62 + 1, 98, 97, ABSENT), "ask_price": (2**62 + 2, 2**63 - 1, ABSENT, ABSENT)}, "range"),
    ("imbalance", {"ts_event": NOW + 1}, "aligned"),
    ("imbalance", {"state": 9}, "book_state"),
    ("imbalance", {"reason": 9}, "book_state"),
    ("imbalance", {"reason": ImbalanceReason.NOT_LIVE}, "book_state"),
    ("imbalance", {"state": BookState.STALE}, "book_state"),
    ("imbalance", {"state": BookState.STALE, "reason": ImbalanceReason.NOT_LIVE}, "not_live"),
    ("imbalance", {"mid2": ABSENT}, "absent"),
    ("imbalance", {"best_bid_size": ABSENT}, "absent"),
    ("imbalance", {"spread": 0}, "positive_price"),
    ("imbalance", {"mid2": -4}, "positive_price"),
    ("imbalance", {"bid_size": -1}, "non_negative"),
    ("imbalance", {"book_60s": 1_000_001}, "ratio"),
    ("imbalance", {"volume_5s": -1_000_001}, "ratio"),
    ("buckets", {"ts": ABSENT}, "absent"),
    ("buckets", {"ts": -60 * NS_PER_SECOND}, "range"),
    ("buckets", {"timeframe": 5}, "timeframe"),
    ("buckets", {"timeframe": 0}, "timeframe"),
    ("buckets", {"ts": NOW - 61 * NS_PER_SECOND}, "aligned"),
    ("buckets", {"ts": NOW}, "max_skew"),
    ("buckets", {"state": 7}, "book_state"),
    ("buckets", {"width": 0}, "bucket"),
    ("buckets", {"width": ABSENT}, "bucket"),
    ("buckets", {"base": ABSENT}, "bucket"),
    ("buckets", {"ask_size": -1}, "non_negative"),
    ("book_delta", {"side": 2}, "side"),
    ("book_delta", {"side": 0}, "side"),
    ("book_delta", {"price": ABSENT}, "absent"),
    ("book_delta", {"size": ABSENT}, "absent"),
    ("book_delta", {"price": 0}, "positive_price"),
    ("book_delta", {"size": -1}, "non_negative"),
]


@pytest.mark.parametrize(("name", "change", "rule"), BROKEN, ids=[f"{n}-{'-'.join(c)}-{r}" for n, c, r in BROKEN])
@pytest.mark.parametrize("count", [1, 50])
def test_a_bad_record_is_refused_by_its_rule_and_its_neighbours_pass(name, change, rule, count):
    records = good(name, count)
    for field, value in change.items():
        records[field][count // 2] = value
    assert rules(name, records) == {count // 2: rule}


@pytest.mark.parametrize("name", ["book", "imbalance", "buckets", "book_delta"])
@pytest.mark.parametrize("count", [0, 1, 100])
def test_records_that_keep_the_rules_pass(name, count):
    assert rules(name, good(name, count)) == {}


def test_records_at_the_edge_of_a_rule_pass():
    one_sided = good("book", 2)
    one_sided["bid_count"][0] = one_sided["ask_count"][1] = 0
    for field in ("bid_price", "bid_size"):
        one_sided[field][0] = ABSENT
    for field in ("ask_price", "ask_size"):
        one_sided[field][1] = ABSENT
    assert rules("book", one_sided) == {}
    not_live = empty(KINDS.by_name("book"), 1)
    not_live["ts_event"], not_live["state"], not_live["bid_count"], not_live["ask_count"] = NOW, BookState.STALE, 0, 0
    assert rules("book", not_live) == {}
    unknown = empty(KINDS.by_name("imbalance"), 1)
    unknown["ts_event"], unknown["state"], unknown["reason"] = NOW, BookState.EMPTY, ImbalanceReason.NOT_LIVE
    assert rules("imbalance", unknown) == {}
    unobserved = empty(KINDS.by_name("buckets"), 1)
    unobserved["ts"], unobserved["timeframe"], unobserved["state"] = NOW - NS_PER_SECOND, 1, BookState.SYNCING
    assert rules("buckets", unobserved) == {}
    end = empty(KINDS.by_name("book_delta"), 1)
    end["ts_event"], end["side"], end["flags"] = NOW, 0, BookDeltaFlag.END | BookDeltaFlag.LAST
    assert rules("book_delta", end) == {}
    edges = np.repeat(end, 2)
    edges["price"], edges["flags"] = [95, ABSENT], [BookDeltaFlag.BID_EDGE, BookDeltaFlag.ASK_EDGE]
    assert rules("book_delta", edges) == {}
    edges["size"][1] = 3
    assert rules("book_delta", edges) == {1: "side"}


def test_a_book_of_one_level_has_no_order_to_break():
    kinds = KindTable([], 1)
    book = empty(kinds.by_name("book"), 1)
    book["ts_event"], book["state"], book["bid_count"], book["ask_count"] = NOW, BookState.LIVE, 1, 1
    book["bid_price"], book["bid_size"], book["ask_price"], book["ask_size"] = 5, 1, 6, 1
    assert rules("book", book, kinds) == {}


def test_the_detail_tells_the_first_levels_as_the_sender_wrote_them():
    book = good("book")
    book["bid_price"] = (99, 101, 97, ABSENT)
    (refused,) = DataValidator(KINDS, MAX_SKEW_NS).validate(KINDS.by_name("book"), book, INSTRUMENT, NOW).refused
    assert refused.detail == "bid_price is 0.99 1.01 0.97 absent"
    deep = KindTable([])
    record = empty(deep.by_name("book"), 1)
    record["ts_event"], record["state"], record["bid_count"], record["ask_count"] = NOW, BookState.LIVE, 20, 0
    record["bid_price"] = record["bid_size"] = 7
    (refused,) = DataValidator(deep, MAX_SKEW_NS).validate(deep.by_name("book"), record, INSTRUMENT, NOW).refused
    assert refused.detail == "bid_price is 0.07 0.07 0.07 0.07 0.07 …"


prices = st.lists(st.sampled_from((ABSENT, -1, 0, 1, 2, 3, 4, 5)), min_size=DEPTH, max_size=DEPTH)
books = st.tuples(st.integers(0, 3), st.integers(-1, 5), st.integers(-1, 5), prices, prices, prices, prices)


def is_fine(row: tuple) -> bool:
    """The rules for one BOOK record, in words of one level each."""
    state, bid_count, ask_count, bid_prices, bid_sizes, ask_prices, ask_sizes = row
    for count, of_prices, of_sizes in ((bid_count, bid_prices, bid_sizes), (ask_count, ask_prices, ask_sizes)):
        if not 0 <= count <= DEPTH or (count and state != BookState.LIVE):
            return False
        if any(price <= 0 or size < 0 for price, size in zip(of_prices[:count], of_sizes[:count], strict=True)):
            return False
        if any(value != ABSENT for value in of_prices[count:] + of_sizes[count:]):
            return False
    bids, asks = bid_prices[:bid_count], ask_prices[:ask_count]
    if sorted(set(bids), reverse=True) != bids or sorted(set(asks)) != asks:
        return False
    return not (bids and asks and bids[0] >= asks[0])


@given(st.lists(books, max_size=6))
def test_a_book_passes_when_every_level_of_it_does(rows):
    records = empty(KINDS.by_name("book"), len(rows))
    records["ts_event"] = NOW
    for i, row in enumerate(rows):
        names = ("state", "bid_count", "ask_count", "bid_price", "bid_size", "ask_price", "ask_size")
        for name, value in zip(names, row, strict=True):
            records[name][i] = value
    assert set(rules("book", records)) == {i for i, row in enumerate(rows) if not is_fine(row)}
    many = np.concatenate([records, good("book", FEW_BOOKS)])
    assert rules("book", many) == rules("book", records)
    for i, row in enumerate(rows):
        assert few_books_are_good(records[i : i + 1], NOW) == is_fine(row)


levels = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 3)), max_size=4)


@given(st.lists(st.tuples(st.integers(0, 700), levels, levels, st.sampled_from("aaaaaasd")), max_size=20))
def test_what_the_kernels_make_keeps_every_rule(script):
    def always(_: int, __: BookDelta) -> Fit:
        return Fit.NEXT

    sync = BookSync(BookRule("stream", always, always), INSTRUMENT)
    figures = BookTeller(sync, depth=DEPTH, interval_ns=0)
    ts = NOW - 400 * NS_PER_SECOND
    for pause_ms, bids, asks, fate in script:
        ts += pause_ms * 1_000_000
        bid_levels = Levels([price for price, _ in bids], [size for _, size in bids])
        ask_levels = Levels([price + 50 for price, _ in asks], [size for _, size in asks])
        if fate == "d":
            figures.step(ts, sync.disconnected())
            figures.step(ts, sync.subscribed())
        elif sync.state is not BookState.LIVE:
            figures.step(ts, sync.subscribed())
            figures.step(ts, sync.snapshot(BookSnapshot("X", 0, ts, bid_levels, ask_levels)))
        elif fate == "s":
            figures.step(ts, sync.silent())
        else:
            figures.step(ts, sync.delta(BookDelta("X", 0, 0, None, ts, bid_levels, ask_levels)))
        for name, records in figures.advance(ts):
            assert rules(name, records) == {}
    for name, records in figures.advance(ts + 61 * NS_PER_SECOND):
        assert rules(name, records) == {}
