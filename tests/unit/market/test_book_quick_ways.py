"""What nearly every delta of a book does has a short way; it is the same as the long one."""

from __future__ import annotations

from typing import Any, cast

import pytest

from marketd.market import buckets
from marketd.market.book import OrderBook
from marketd.market.book_deltas import DeltaRecorder
from marketd.market.book_records import BookRecorder
from marketd.market.book_states import Action, BookEvent, transition
from marketd.market.book_sync import BookDelta, BookRule, BookSnapshot, BookSync, Fit, Levels
from marketd.market.buckets import BucketKernel
from marketd.market.imbalance import ImbalanceKernel
from marketd.market.instruments import Instrument
from marketd.market.records import BookState
from marketd.market.times import NS_PER_SECOND

START = 1_700_000_000 * NS_PER_SECOND
BTC = Instrument(id=1, symbol="BTCUSDT", venue="BINANCE", price_scale=2, size_scale=5, quote_scale=7)


def next_one(last: int, delta: BookDelta) -> Fit:
    return Fit.NEXT if delta.first == last + 1 else Fit.GAP


def live_book(deltas: int) -> BookSync:
    sync = BookSync(BookRule("stream", splice=next_one, follows=next_one), BTC)
    sync.subscribed()
    sync.snapshot(BookSnapshot("BTCUSDT", 0, START, Levels([100], [5]), Levels([101], [5])))
    for number in range(1, deltas + 1):
        step = sync.delta(BookDelta("BTCUSDT", number, number, None, START, Levels([99], [number]), Levels([], [])))
        assert (step.event, step.before, step.action) == (BookEvent.APPLIED, BookState.LIVE, Action.KEEP)
        assert step.change is not None
    return sync


def test_an_applied_delta_of_a_live_book_does_what_the_table_says() -> None:
    sync = live_book(3)
    assert transition(BookState.LIVE, BookEvent.APPLIED) == (sync.state, Action.KEEP)


def test_applied_deltas_are_counted_beside_all_else() -> None:
    assert live_book(3).statistics().events == {"subscribed": 1, "joined": 1, "applied": 3}
    assert "applied" not in live_book(0).statistics().events


def test_a_book_that_left_live_stays_as_it_was_for_whoever_was_told_of_it() -> None:
    none = Levels([], [])
    crossing = BookDelta("BTCUSDT", 4, 4, None, START, Levels([102, 99], [1, 0]), none)
    after_a_hole = BookDelta("BTCUSDT", 9, 9, None, START, Levels([98], [1]), none)
    anew = BookSnapshot("BTCUSDT", 9, START, Levels([50], [1]), Levels([51], [1]))
    crossed = BookSnapshot("BTCUSDT", 9, START, Levels([52], [1]), Levels([51], [1]))
    for befalls in (
        lambda sync: sync.delta(crossing),
        lambda sync: sync.delta(after_a_hole),
        lambda sync: sync.snapshot(anew),
        lambda sync: sync.snapshot(crossed),
        lambda sync: sync.disconnected(),
    ):
        sync = live_book(3)
        told = sync.book
        befalls(sync)
        assert (told.bids, told.asks) == ({100: 5, 99: 3}, {101: 5})
        assert told.top(5) == ([100, 99], [5, 3], [101], [5])
        assert sync.book is not told


def test_changes_that_wait_for_the_end_of_their_second_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for most in (3, 10_000):
        monkeypatch.setattr(buckets, "MAX_NOTED", most)
        kernel, book = BucketKernel(10), live_book(0).book
        kernel.book(START, book)
        for number in range(1, 20):
            kernel.book(START + number * 10**7, book, book.apply(Levels([99 - number], [number]), Levels([], [])))
            assert len(kernel._noted) < most
        ends.append(kernel.advance(START + 3 * NS_PER_SECOND).tobytes())
    assert ends[0] == ends[1]


def test_a_kernel_told_in_many_steps_of_a_second_says_what_one_told_once_says() -> None:
    book = live_book(0).book
    for kernel_of in (lambda: ImbalanceKernel(10_000.0), lambda: BucketKernel(10)):
        once, often = kernel_of(), kernel_of()
        for kernel in (once, often):
            kernel.book(START, book)
        for step in range(1, 40):
            often.book(START + step * NS_PER_SECOND // 10, book)
        end = START + 5 * NS_PER_SECOND
        assert once.advance(end).tobytes() == often.advance(end).tobytes()
        assert len(once.advance(end + NS_PER_SECOND)) == len(often.advance(end + NS_PER_SECOND)) > 0


def test_a_kernel_goes_on_after_a_leap_back_within_the_second_it_had_left() -> None:
    book = live_book(0).book
    kernel = ImbalanceKernel(10_000.0)
    kernel.book(START, book)
    kernel.book(START + 3 * NS_PER_SECOND // 2, book)
    kernel.book(START + NS_PER_SECOND // 2, book)  # late: takes effect now
    kernel.book(START + 5 * NS_PER_SECOND // 2, book)
    told = kernel.advance(START + 4 * NS_PER_SECOND)
    assert told["ts_event"].tolist() == [START + second * NS_PER_SECOND for second in (1, 2, 3)]
    assert told["book_1s"].tolist() == [0, 0, 0]


class WithoutDicts:
    """A book that does not tell all of itself: where it is compiled, that costs as much as the book is deep."""

    def __init__(self, book: Any) -> None:
        self._book = book

    def __getattr__(self, name: str) -> Any:
        assert name not in ("bids", "asks", "bid_prices", "ask_prices"), f"a change asked for {name}"
        return getattr(self._book, name)

    def __len__(self) -> int:
        return len(self._book)


def test_a_change_is_told_without_going_through_the_whole_book() -> None:
    sync = live_book(3)
    kernels: list[Any] = [ImbalanceKernel(100.0), BucketKernel(1)]
    recorder, deltas = BookRecorder(5, 10**6, 1.0), DeltaRecorder()
    none = Levels([], [])
    for number, change in enumerate((None, sync.book.apply(Levels([100, 98], [3, 1]), Levels([102], [2])))):
        book: Any = sync.book if change is None else WithoutDicts(sync.book)
        for kernel in kernels:
            kernel.book(START + number * 10**8, book, change)
        recorder.book(START + number * 10**8, number, book)
        deltas.book(START + number * 10**8, number, book, change)
    sync.book = cast(OrderBook, WithoutDicts(sync.book))
    step = sync.delta(BookDelta("BTCUSDT", 4, 4, None, START, Levels([99], [1]), none))
    assert step.event is BookEvent.APPLIED
    assert len(recorder.advance(START + 10**9))
