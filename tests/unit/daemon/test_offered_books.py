"""Producers' books in the kernel: kept at our depth, with an imbalance each second, the same after every restart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from book_records import book, not_live
from lane import BTC, KINDS, MS, SECOND, START, frame_of, make_kernel, trades
from marketd.daemon.kernel import TRADE_KIND, Kernel, Lot
from marketd.daemon.offered_books import MAX_IMBALANCES
from marketd.ipc.frames import frame_bytes
from marketd.market.errors import InvalidArgument
from marketd.market.records import BY_NAME, IMBALANCE, BookFlag, BookState, ImbalanceReason, Records

BOOK = BY_NAME["book"]
KNOWN = START + 3600 * SECOND


def offered(ms: int, bid_size: int = 300, ask_size: int = 100) -> Records:
    """A producer's book with its mid at 100.01, so many ms after START."""
    return book([(10_000, bid_size)], [(10_002, ask_size)], ts=START + ms * MS, flags=BookFlag.OFFERED)


def take(kernel: Kernel, records: Records, kind: object = BOOK) -> Lot:
    known = max(KNOWN, kernel.ts_known) + 1000
    return kernel.accept(BTC, [(kind, records)], known, source="test")  # type: ignore[list-item]


def imbalances(lots: list[Lot]) -> Records:
    found = [records for lot in lots for kind, records in lot.rows if kind.name == "imbalance"]
    return np.concatenate(found) if found else np.empty(0, IMBALANCE)


def test_each_second_of_an_offered_book_has_its_imbalance() -> None:
    kernel = make_kernel()
    lots = [take(kernel, offered(ms)) for ms in range(0, 8_000, 250)]
    found = imbalances(lots)
    assert found["ts_event"].tolist() == [START + n * SECOND for n in range(1, 8)]
    assert found["book_1s"].tolist()[1:] == [500_000] * 6 and found["mid2"].tolist() == [20_002] * 7
    assert found["seq"].tolist() == sorted(set(found["seq"].tolist())) and (found["ts_known"] > 0).all()
    assert sum(lot.accepted for lot in lots) == 32  # what was offered, not what was made of it


def test_an_imbalance_is_in_the_frame_and_becomes_visible_with_what_it_was_made_of() -> None:
    kernel = make_kernel()
    take(kernel, offered(0))
    lot = take(kernel, offered(1_300))
    assert [kind.name for kind, _ in lot.rows] == ["book", "imbalance"]
    assert [section[0] for section in frame_of(lot).sections] == [BOOK.id, BY_NAME["imbalance"].id]
    assert lot.records == 2 and lot.rows[1][1]["ts_known"][0] == lot.ts_known


def test_trades_make_the_imbalance_of_volume() -> None:
    kernel = make_kernel()
    lots = [take(kernel, offered(0))]
    lots.append(take(kernel, trades([(2_100, 1, 100, 30, 1), (2_200, 2, 100, 10, -1)]), TRADE_KIND))
    lots += [take(kernel, offered(ms)) for ms in range(2_250, 4_500, 250)]
    found = imbalances(lots)
    by_second = dict(zip(((found["ts_event"] - START) // SECOND).tolist(), found["volume_1s"].tolist(), strict=True))
    assert by_second[3] == 500_000


def test_a_producer_that_says_its_book_is_stale_gets_no_numbers() -> None:
    kernel = make_kernel()
    stale = not_live(BookState.STALE, ts=START + 1_500 * MS)
    stale["flags"] = BookFlag.OFFERED
    lots = [take(kernel, offered(0)), take(kernel, stale), take(kernel, offered(3_500))]
    found = imbalances(lots)
    assert found["reason"].tolist()[1:] == [ImbalanceReason.NOT_LIVE] * 2 and found["state"][1] == BookState.STALE


def test_of_a_feeds_book_ingest_makes_nothing() -> None:
    kernel = make_kernel()
    lots = [take(kernel, book([(10_000, 3)], [(10_002, 1)], ts=START + ms * MS)) for ms in range(0, 5_000, 500)]
    assert len(imbalances(lots)) == 0 and kernel.state(BTC).offered is None
    assert kernel.state(BTC).newest == START + 4_500 * MS


EVENTS = st.lists(
    st.tuples(st.sampled_from(["book", "trade"]), st.integers(50, 900), st.integers(1, 50), st.integers(1, 50)),
    min_size=2,
    max_size=30,
)


@settings(max_examples=30)
@given(events=EVENTS, cut=st.integers(0, 29))
def test_a_kernel_that_was_restored_or_replayed_goes_on_bit_for_bit(
    events: list[tuple[str, int, int, int]], cut: int
) -> None:
    kernel, restored, replayed = (make_kernel(kinds=KINDS) for _ in range(3))
    at, offset = 0, 0
    for number, (what, later, first, second) in enumerate(events):
        if number == min(cut, len(events) - 1):
            restored.restore(kernel.checkpoint(), [BTC])
        at += later
        records = offered(at, first, second) if what == "book" else trades([(at, number, first, second)])
        kind = BOOK if what == "book" else TRADE_KIND
        lot = take(kernel, records, kind)
        if number >= min(cut, len(events) - 1):
            assert [rows.tobytes() for _, rows in take(restored, records, kind).rows] == [
                rows.tobytes() for _, rows in lot.rows
            ]
        frame = frame_of(lot, offset)
        replayed.apply(frame, BTC)
        offset = frame.end
    assert replayed.checkpoint() == kernel.checkpoint() == restored.checkpoint()


@pytest.mark.parametrize("count", [1, 50])
def test_a_batch_of_books_may_be_of_any_size(count: int) -> None:
    kernel = make_kernel()
    records = np.concatenate([offered(ms) for ms in range(0, count * 100, 100)])
    lot = take(kernel, records)
    assert lot.accepted == count and not lot.refused


@pytest.mark.parametrize("step_seconds", [1, 60, 100, 119, 121])
def test_books_that_lie_far_apart_are_refused_as_a_whole_where_their_imbalances_go_into_no_frame(
    step_seconds: int,
) -> None:
    kernel, limit = make_kernel(), 64 << 10
    before = kernel.state(BTC).checkpoint()
    records = np.concatenate([offered(n * step_seconds * 1000) for n in range(30)])
    try:
        lot = kernel.accept(BTC, [(BOOK, records)], KNOWN, source="test", max_bytes=limit)
    except InvalidArgument:
        assert kernel.state(BTC).checkpoint() == before
        lot = kernel.accept(BTC, [(BOOK, records)], KNOWN, source="test")
        assert frame_bytes(lot.body) > limit - 2 * MAX_IMBALANCES * IMBALANCE.itemsize
    else:
        assert frame_bytes(lot.body) <= limit
