"""BOOK and BOOK_DELTA records of a book, and the book again from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from book_oracles import applied, levels
from book_teller import BookTeller
from marketd.market.book import Levels, OrderBook
from marketd.market.book_deltas import BookReplay, DeltaRecorder, book_at
from marketd.market.book_messages import BookDelta, BookRule, BookSnapshot, Fit
from marketd.market.book_records import BookPacker, BookRecorder, levels_of
from marketd.market.book_sync import BookSync
from marketd.market.errors import InvalidArgument
from marketd.market.instruments import Instrument
from marketd.market.layouts import (
    BOOK_DELTA,
    TRADE,
    BookDeltaFlag,
    BookFlag,
    BookState,
    book_dtype,
)
from marketd.market.records import Records
from marketd.market.times import ABSENT

MS = 1_000_000
SECOND = 1_000 * MS
START = 1_700_000_000 * SECOND
INSTRUMENT = Instrument(id=1, symbol="X", venue="V", price_scale=0, size_scale=0, quote_scale=0)


def book_of(bids: dict[int, int], asks: dict[int, int]) -> OrderBook:
    book = OrderBook()
    book.reset(levels(bids), levels(asks))
    return book


def recorder(jump_bps: float = 10.0) -> BookRecorder:
    return BookRecorder(2, 100 * MS, jump_bps)


# ---- BOOK ---------------------------------------------------------------------------------------------------


def test_a_record_has_the_best_levels_first_and_the_others_absent():
    told = recorder()
    told.book(START, 7, book_of({99: 1, 98: 2, 97: 3}, {101: 4}))
    (record,) = told.advance(START)
    assert record.dtype == book_dtype(2)
    expected = (START, 0, 0, 7, 2, 1, BookState.LIVE, BookFlag.STATE)
    assert record.tolist()[:8] == expected
    assert record["bid_price"].tolist() == [99, 98]
    assert record["bid_size"].tolist() == [1, 2]
    assert record["ask_price"].tolist() == [101, ABSENT]
    assert record["ask_size"].tolist() == [4, ABSENT]
    assert levels_of(record) == (Levels([99, 98], [1, 2]), Levels([101], [4]))


def test_records_go_out_once_an_interval_and_the_one_that_waits_with_the_next_event():
    told, book = recorder(), book_of({10_000: 1}, {10_001: 1})
    told.book(START, 1, book)
    for number in range(2, 6):
        book.apply(Levels([10_000], [number]), Levels([], []))
        told.book(START + number * 10 * MS, number, book)
    assert told.advance(START + 99 * MS)["sequence"].tolist() == [1]
    records = told.advance(START + 100 * MS)
    assert records["sequence"].tolist() == [5]
    assert records["ts_event"].tolist() == [START + 50 * MS]
    assert records["bid_size"][0].tolist() == [5, ABSENT]
    assert not len(told.advance(START + 500 * MS))
    told.book(START + 500 * MS, 6, book)
    assert told.advance(START + 500 * MS)["flags"].tolist() == [0]


@pytest.mark.parametrize(
    ("bids", "asks", "is_jump"),
    [
        ({10_000: 1}, {10_020: 1}, False),
        ({10_010: 1}, {10_020: 1}, False),  # 10 bps are no more than 10 bps
        ({10_011: 1}, {10_020: 1}, True),
        ({10_000: 1}, {10_031: 1}, True),
        ({10_000: 1}, {}, True),
        ({}, {10_020: 1}, True),
    ],
)
def test_a_jump_of_the_best_price_goes_out_at_once(bids, asks, is_jump):
    told = recorder()
    told.book(START, 1, book_of({10_000: 1}, {10_020: 1}))
    told.book(START + MS, 2, book_of(bids, asks))
    flags = told.advance(START + MS)["flags"].tolist()
    assert flags == [BookFlag.STATE, *([BookFlag.JUMP] if is_jump else [])]


def test_what_was_known_last_is_told_when_nothing_more_comes():
    told = recorder()
    told.book(START, 1, book_of({10: 1}, {11: 1}))
    told.book(START + MS, 2, book_of({10: 2}, {11: 1}))
    assert told.advance(START + MS)["sequence"].tolist() == [1]
    told.finish()
    told.finish()
    assert told.advance(START + MS)["sequence"].tolist() == [2]


def test_a_change_of_state_goes_out_at_once_after_what_was_known_last():
    told = recorder()
    told.leave(START, BookState.SYNCING)
    told.leave(START, BookState.SYNCING)
    told.book(START + MS, 1, book_of({10: 1}, {11: 1}))
    told.book(START + 2 * MS, 2, book_of({10: 2}, {11: 1}))
    told.leave(START + 3 * MS, BookState.STALE)
    records = told.advance(START + 3 * MS)
    assert records["state"].tolist() == [BookState.SYNCING, BookState.LIVE, BookState.LIVE, BookState.STALE]
    assert records["sequence"].tolist() == [ABSENT, 1, 2, ABSENT]
    assert records["flags"].tolist() == [BookFlag.STATE, BookFlag.STATE, 0, BookFlag.STATE]
    assert records["bid_count"].tolist() == [0, 1, 1, 0]
    assert set(records["ask_size"][3].tolist()) == {ABSENT}


def test_records_may_be_stamped_afterwards():
    packer = BookPacker(1)
    records = packer.records([packer.pack(START, 0, BookState.LIVE, book_of({}, {}).top(1), 0)])
    records["seq"] = 4
    assert records["seq"][0] == 4
    assert records["sequence"][0] == ABSENT


def test_a_book_of_no_levels_is_refused():
    with pytest.raises(InvalidArgument, match="0 levels"):
        BookRecorder(0, 100 * MS, 1.0)


# ---- BOOK_DELTA ------------------------------------------------------------------------------------------------

bid_rows = st.lists(st.tuples(st.integers(90, 99), st.integers(0, 3)), max_size=5)
ask_rows = st.lists(st.tuples(st.integers(101, 110), st.integers(0, 3)), max_size=5)
messages = st.lists(st.tuples(st.sampled_from(("change", "change", "anew", "leave")), bid_rows, ask_rows), max_size=15)


@settings(deadline=None)
@given(messages, st.integers(0, 15), st.integers(1, 7))
def test_the_book_at_any_time_is_made_again_from_its_deltas(script, until, piece):
    told, book = DeltaRecorder(), OrderBook()
    wanted: tuple[dict[int, int], dict[int, int]] | None = None
    for number, (what, bids, asks) in enumerate(script):
        ts = START + number * MS
        if what == "leave":
            told.leave(ts)
            book.clear()
        elif what == "anew":
            book.reset(levels(applied({}, bids)), levels(applied({}, asks)))
            told.book(ts, number, book)
        else:
            told.book(ts, number, book, book.apply(levels(bids), levels(asks)))
        if number <= until:
            wanted = None if what == "leave" else (dict(book.bids), dict(book.asks))
    records = told.take()
    assert not len(told.take())
    found = book_at(records, START + until * MS)
    assert found.is_live == (wanted is not None)
    if wanted is not None:
        assert (found.book.bids, found.book.asks) == wanted
    in_pieces = BookReplay()
    known = records[records["ts_event"] <= START + until * MS]
    for start in range(0, len(known), piece):
        in_pieces.apply(known[start : start + piece])
    assert in_pieces.is_live == found.is_live
    assert in_pieces.sequence == found.sequence
    if found.is_live:
        assert in_pieces.book == found.book


def test_a_book_is_not_whole_within_a_snapshot_or_a_message():
    told, book = DeltaRecorder(), book_of({99: 1, 98: 2}, {101: 1})
    told.book(START, 1, book)
    told.book(START + MS, 2, book, book.apply(Levels([99, 97], [0, 5]), Levels([101], [2])))
    records = told.take()
    live = []
    for count in range(len(records) + 1):
        replay = BookReplay()
        replay.apply(records[:count])
        live.append(replay.is_live)
    assert live == [False, False, False, True, False, False, True]


def test_rows_tell_where_a_snapshot_begins_and_what_has_not_changed_is_no_row():
    told, book = DeltaRecorder(), book_of({99: 1}, {101: 1})
    told.book(START, 0, book)
    told.book(START + MS, 2, book, book.apply(Levels([99], [1]), Levels([102], [3])))
    told.book(START + MS, 3, book, book.apply(Levels([99], [1]), Levels([], [])))
    told.leave(START + 2 * MS)
    told.leave(START + 2 * MS)
    records = told.take()
    assert records.dtype == BOOK_DELTA
    snapshot, first, last, end = (
        BookDeltaFlag.SNAPSHOT,
        BookDeltaFlag.FIRST,
        BookDeltaFlag.LAST,
        BookDeltaFlag.END,
    )
    assert [row[3:] for row in records.tolist()] == [
        (ABSENT, 99, 1, 1, snapshot | first),
        (ABSENT, 101, 1, -1, snapshot | last),
        (2, 102, 3, -1, last),
        (ABSENT, ABSENT, ABSENT, 0, end | last),
    ]


def test_an_empty_book_begins_with_a_row_without_a_side():
    told = DeltaRecorder()
    told.book(START, 5, OrderBook())
    records = told.take()
    assert records["side"].tolist() == [0]
    replay = BookReplay()
    replay.apply(records)
    assert replay.is_live
    assert (len(replay.book), replay.sequence, replay.ts_ns) == (0, 5, START)


def test_changes_before_the_first_snapshot_are_of_no_use():
    replay = BookReplay()
    replay.apply(np.array([(START, 0, 0, 1, 99, 1, 1, BookDeltaFlag.LAST)], dtype=BOOK_DELTA))
    assert not replay.is_live
    assert not len(replay.book)


# ---- all of them ---------------------------------------------------------------------------------------------


def always(_: int, __: BookDelta) -> Fit:
    return Fit.NEXT


def collect(found: dict[str, list[Records]], told: list[tuple[str, Records]]) -> None:
    for kind, records in told:
        found.setdefault(kind, []).append(records)


def test_the_steps_of_a_book_become_records_of_all_kinds():
    sync = BookSync(BookRule("stream", always, always), INSTRUMENT)
    figures = BookTeller(sync, depth=3, width=5)
    found: dict[str, list[Records]] = {}
    figures.step(START, sync.subscribed())
    figures.step(START, sync.snapshot(BookSnapshot("X", 0, START, Levels([99], [3]), Levels([101], [1]))))
    for number in range(1, 25):
        ts = START + number * 100 * MS
        delta = BookDelta("X", 0, 0, None, ts, Levels([98], [number]), Levels([], []))
        figures.step(ts, sync.delta(delta))
        trades = np.zeros(1, dtype=TRADE)
        trades[0] = (ts, 0, 0, number, 100, 1, 1, 0)
        figures.imbalance.trades(trades)
        collect(found, figures.advance(ts))
    ts = START + 3 * SECOND
    figures.step(ts, sync.disconnected())
    figures.step(ts, sync.delta(delta))
    figures.imbalance.trades_lost(ts)
    collect(found, figures.advance(ts + SECOND + 250 * MS))
    joined = {kind: np.concatenate(records) for kind, records in found.items()}
    assert set(joined) == {"book", "imbalance", "buckets", "book_delta"}
    states = joined["book"]["state"].tolist()
    assert (states[0], states[-1]) == (BookState.SYNCING, BookState.STALE)
    assert set(states[1:-1]) == {BookState.LIVE}
    assert joined["imbalance"]["state"].tolist() == [2, 2, 2, 3]
    assert joined["imbalance"]["volume_1s"].tolist() == [10**6, 10**6, -(2**31), -(2**31)]  # lost within the third
    assert joined["buckets"]["state"].tolist() == [2, 2, 2, 3]
    replay = BookReplay()
    replay.apply(joined["book_delta"])
    assert not replay.is_live
    assert book_at(joined["book_delta"], START + 500 * MS).book.bids == {99: 3, 98: 5}
