"""What nearly every delta of a book does has a short way; it is the same as the long one."""

from __future__ import annotations

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
