"""The kernel: numbers without gaps, bars, ledger, quarantine; a replay and a restored checkpoint go on bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lane import BTC, CANDLES, FUNDING, MS, SECOND, START, bars, frame_of, make_kernel, observed, rates, trades
from marketd.daemon.kernel import (
    BOOK_KIND,
    COVERAGE_KIND,
    IMBALANCE_KIND,
    KEPT_BARS,
    QUARANTINE_KIND,
    TICK_KIND,
    TRADE_KIND,
    Kernel,
    Lot,
    coverage_record,
    quarantine_decoder,
    tick_record,
    trade_section,
)
from marketd.daemon.producers import UNFRAMED
from marketd.ipc.protocol import Rejection
from marketd.market.candles import bars_from_trades
from marketd.market.instruments import Instrument
from marketd.market.records import BookFlag, BookState, CandleFlag, Coverage, KindTable, Records, Source, empty
from marketd.market.times import ABSENT

ETH = msgspec.structs.replace(BTC, id=65_538, symbol="ETHUSDT", base="ETH")
KNOWN = START + 3600 * SECOND
Parts = list[tuple[Any, Records]]


def accept(kernel: Kernel, *parts: tuple[Any, Records], known: int = KNOWN, instrument: Instrument = BTC) -> Lot:
    return kernel.accept(instrument, parts, known, source="test")


def accept_trades(kernel: Kernel, *rows: tuple[int, ...]) -> Lot:
    return accept(kernel, (TRADE_KIND, trades(rows)))


def rows_of(lot: Lot, kind: Any) -> list[Records]:
    return [records for each, records in lot.rows if each is kind]


def bars_of(lot: Lot) -> Records:
    found = rows_of(lot, CANDLES)
    return np.concatenate(found) if found else bars([])


# ---- one batch --------------------------------------------------------------------------------------


def test_records_are_numbered_and_stamped_and_their_times_floored_in_a_small_and_a_large_batch() -> None:
    for count in (3, 40):
        kernel = make_kernel()
        offered = trades([(n, n + 1, 100, 1) for n in range(count)])
        offered["ts_event"] += 999
        lot = accept(kernel, (TRADE_KIND, offered))
        stored = trade_section(lot)
        assert stored is not None
        assert stored["seq"].tolist() == list(range(1, count + 1))
        assert set(stored["ts_known"].tolist()) == {KNOWN}
        assert (stored["ts_event"] == START + np.arange(count) * MS).all()
        assert offered["seq"].tolist() == [0] * count  # the sender's own are left alone


def test_a_batch_is_one_frame_of_numbers_without_a_gap() -> None:
    kernel = make_kernel()
    first = accept_trades(kernel, (0, 1, 100, 1), (5_000, 2, 100, 1))
    assert (first.seq, first.records, first.accepted) == (1, 3, 2)  # with the bar that closed
    second = accept_trades(kernel, (70_000, 3, 100, 1))
    assert second.seq == 4
    numbers = np.concatenate([records["seq"] for lot in (first, second) for _, records in lot.rows])
    assert numbers.tolist() == list(range(1, 4 + second.records))


def test_sections_and_rows_are_the_same_records() -> None:
    lot = accept_trades(make_kernel(), (0, 1, 100, 1), (5_000, 2, 100, 1))
    assert [(kind.id, records.tobytes()) for kind, records in lot.rows] == [
        (number, bytes(data)) for number, _, _, data in frame_of(lot).sections
    ]


def test_a_bad_record_costs_its_neighbours_nothing_and_lies_in_quarantine() -> None:
    kernel = make_kernel()
    offered = trades([(0, 1, 100, 1), (0, 2, -5, 1), (1, 1, 100, 1), (2, 3, 100, 1)])
    lot = accept(kernel, (TRADE_KIND, offered))
    assert [(r.index, r.rule, r.part) for r in lot.refused] == [(1, "positive_price", 0), (2, "duplicate", 0)]
    assert lot.accepted == 2
    ((_, itemsize, count, payload),) = [each for each in frame_of(lot).sections if each[0] == QUARANTINE_KIND.id]
    assert itemsize * count == len(payload)
    kept = quarantine_decoder.decode(payload)
    assert [(q.index, q.rule, q.kind, q.source) for q in kept] == [
        (1, "positive_price", "trade", "test"),
        (2, "duplicate", "trade", "test"),
    ]
    assert [q.payload for q in kept] == [offered[1].tobytes(), offered[2].tobytes()]


def test_a_part_of_nothing_but_bad_records_leaves_the_others() -> None:
    kernel = make_kernel()
    lot = accept(kernel, (TRADE_KIND, trades([(0, 1, 0, 1)])), (FUNDING, rates([(0, 0.5)])))
    assert [(r.index, r.part) for r in lot.refused] == [(0, 0)]
    assert [kind.name for kind, _ in lot.rows] == ["funding"]
    assert lot.seq == 1


def test_what_the_sender_could_not_read_is_quarantined_as_it_came_and_refuses_nothing() -> None:
    kernel = make_kernel()
    rejection = Rejection("message", "precision", "too many places", b"raw")
    lot = kernel.accept(BTC, [], KNOWN, source="feed", rejected=[rejection])
    (entry,) = quarantine_decoder.decode(frame_of(lot).sections[-1][3])
    assert (entry.index, entry.rule, entry.payload) == (-1, "precision", b"raw")
    assert (lot.records, lot.refused) == (0, [])
    assert kernel.state(BTC).seq == 0
    kernel.apply(frame_of(lot, 0), BTC)
    assert kernel.state(BTC).seq == 0


def test_instruments_have_numbers_of_their_own() -> None:
    kernel = make_kernel()
    accept_trades(kernel, (0, 1, 100, 1))
    assert accept(kernel, (TRADE_KIND, trades([(0, 1, 100, 1)])), instrument=ETH).seq == 1


# ---- bars of venues, the ledger ---------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 20])
def test_a_venues_bar_that_comes_again_is_marked_as_a_new_version_in_the_frame_too(count: int) -> None:
    kernel = make_kernel()
    accept(kernel, (CANDLES, bars(range(count))))
    lot = accept(kernel, (CANDLES, bars(range(count + 1), price=200)))
    (again,) = rows_of(lot, CANDLES)
    revised = int(CandleFlag.REVISED)
    assert again["flags"].tolist() == [revised] * count + [0]
    assert bytes(frame_of(lot).sections[0][3]) == again.tobytes()


def test_sources_and_timeframes_do_not_revise_each_other() -> None:
    kernel = make_kernel()
    accept(kernel, (CANDLES, bars([5])))
    for other in (bars([5], source=Source.IMPORT), bars([5], timeframe=1)):
        assert bars_of(accept(kernel, (CANDLES, other)))["flags"].tolist() == [0]
    assert kernel.state(BTC).resume().venue_bars == {60: START + 300 * SECOND, 1: START + 5 * SECOND}


def test_bars_are_partial_until_the_stream_is_observed_and_full_from_there_on() -> None:
    kernel = make_kernel()
    accept(kernel, (COVERAGE_KIND, observed(1_000)))
    assert kernel.state(BTC).observed
    lot = accept_trades(kernel, (0, 1, 100, 1), (1_000, 2, 100, 1), (2_000, 3, 100, 1), (3_500, 4, 100, 1))
    closed = bars_of(lot)
    assert [(int(bar["ts"] - START) // SECOND, int(bar["flags"])) for bar in closed] == [(0, 1), (1, 0), (2, 0)]


def test_a_gap_makes_bars_partial_and_what_is_fetched_makes_them_full_again() -> None:
    kernel = make_kernel()
    accept(kernel, (COVERAGE_KIND, observed(0)))
    accept_trades(kernel, (0, 1, 100, 1), (1_000, 2, 100, 1), (9_000, 3, 100, 1))
    hole = (START + 1 * SECOND, START + 2 * SECOND)
    gap = bars_of(accept(kernel, (COVERAGE_KIND, coverage_record(Coverage.GAP, *hole, stream=1))))
    assert [(int(b["ts"]), int(b["flags"])) for b in gap] == [(hole[0], 5)]  # PARTIAL, REVISED
    filled = bars_of(accept(kernel, (COVERAGE_KIND, coverage_record(Coverage.BACKFILLED, *hole, stream=1))))
    assert [(int(b["ts"]), int(b["flags"])) for b in filled] == [(hole[0], 4)]


def test_the_end_of_a_recording_gives_the_forming_bars_as_they_stand() -> None:
    kernel = make_kernel()
    accept_trades(kernel, (0, 1, 100, 1))
    ended = coverage_record(Coverage.ENDED, START, START, stream=1)
    assert bars_of(accept(kernel, (COVERAGE_KIND, ended)))["timeframe"].tolist() == [1, 60]


def test_a_tick_closes_what_is_due_without_a_trade() -> None:
    kernel = make_kernel()
    accept_trades(kernel, (0, 1, 100, 1))
    lot = accept(kernel, (TICK_KIND, tick_record(START + 1_250 * MS)))
    assert bars_of(lot)["timeframe"].tolist() == [1]
    assert kernel.state(BTC).newest == START + 1_250 * MS


# ---- bars that must be computed anew ----------------------------------------------------------------


def far_ahead(kernel: Kernel) -> None:
    """So many bars that the first are not kept any more."""
    accept(kernel, (COVERAGE_KIND, observed(0)))
    accept_trades(kernel, *((second * 1_000, second + 1, 100, 1) for second in range(KEPT_BARS + 10)))


def test_a_trade_for_a_bar_that_is_not_kept_any_more_asks_for_a_rebuild() -> None:
    kernel = make_kernel()
    far_ahead(kernel)
    lot = accept_trades(kernel, (500, 900, 100, 1))
    assert lot.unknown == [(1, START)]
    assert kernel.state(BTC).rebuild == {(1, START): UNFRAMED}
    assert len(rows_of(lot, TRADE_KIND)[0]) == 1


def test_a_replay_knows_which_offset_a_rebuild_waits_for() -> None:
    kernel, replayed = make_kernel(), make_kernel()
    far_ahead(kernel)
    far_ahead(replayed)
    frame = frame_of(accept_trades(kernel, (500, 900, 100, 1)), 4096)
    replayed.apply(frame, BTC)
    assert replayed.state(BTC).rebuild == {(1, START): frame.end}


def test_a_rebuilt_bar_is_stamped_framed_and_asked_for_no_more() -> None:
    kernel, replayed = make_kernel(), make_kernel()
    for each in (kernel, replayed):
        far_ahead(each)
        accept_trades(each, (500, 900, 100, 1))
    every = trades([(0, 1, 100, 1), (500, 900, 100, 1)])
    scales = {"price_scale": 2, "size_scale": 3, "quote_scale": 2}
    rebuilt = bars_from_trades(every, 1, **scales, observed_since_ns=START, revised=True)
    before = kernel.state(BTC).seq
    lot = kernel.adopt(BTC, rebuilt, KNOWN + 5000)
    assert (lot.seq, lot.records) == (before + 1, 1)
    assert bars_of(lot)["ts_known"].tolist() == [KNOWN + 5000]
    assert kernel.state(BTC).rebuild == {}
    replayed.apply(frame_of(lot, 0), BTC)
    assert replayed.state(BTC).rebuild == {}
    assert replayed.checkpoint() == kernel.checkpoint()


def test_a_venues_bar_is_no_answer_to_a_rebuild() -> None:
    kernel, replayed = make_kernel(), make_kernel()
    for each in (kernel, replayed):
        far_ahead(each)
        accept_trades(each, (500, 900, 100, 1))
    lot = accept(kernel, (CANDLES, bars([0], timeframe=1)))
    replayed.apply(frame_of(lot, 0), BTC)
    assert list(replayed.state(BTC).rebuild) == list(kernel.state(BTC).rebuild) == [(1, START)]


def test_after_a_restore_a_rebuild_waits_for_all_that_the_journal_had() -> None:
    """The late trade may lie just before the checkpoint, and not be committed yet."""
    kernel, again = make_kernel(), make_kernel()
    far_ahead(kernel)
    accept_trades(kernel, (500, 900, 100, 1))
    again.restore(kernel.checkpoint(), [BTC], 123_456)
    assert again.state(BTC).rebuild == {(1, START): 123_456}


# ---- streams that are gone --------------------------------------------------------------------------


def test_a_replay_passes_records_of_a_stream_that_is_not_declared_any_more() -> None:
    kernel, replayed = make_kernel(), make_kernel(kinds=KindTable())
    lot = accept(kernel, (FUNDING, rates([(0, 0.5), (1, 0.5)])), (TRADE_KIND, trades([(0, 1, 100, 1)])))
    replayed.apply(frame_of(lot, 0), BTC)
    assert replayed.state(BTC).seq == kernel.state(BTC).seq == 3
    assert replayed.state(BTC).trade_ids.last == 1


# ---- replay and restore -----------------------------------------------------------------------------

times = st.integers(0, 90_000)
trade_rows = st.tuples(times, st.integers(1, 60), st.integers(-1, 300), st.integers(1, 9), st.sampled_from([-1, 1, 2]))
parts = st.one_of(
    st.lists(trade_rows, min_size=1, max_size=12).map(lambda rows: (TRADE_KIND, trades(rows))),
    times.map(lambda ms: (TICK_KIND, tick_record(START + ms * MS))),
    st.lists(st.integers(0, 4), min_size=1, max_size=10).map(lambda minutes: (CANDLES, bars(minutes))),
    st.lists(st.tuples(times, st.floats()), min_size=1, max_size=3).map(lambda rows: (FUNDING, rates(rows))),
    st.tuples(st.sampled_from([1, 2, 3, 4, 8]), times, st.integers(0, 9_000)).map(
        lambda e: (
            COVERAGE_KIND,
            coverage_record(Coverage(e[0]), START + e[1] * MS, START + (e[1] + e[2]) * MS, stream=1),
        )
    ),
)
batches = st.lists(
    st.tuples(st.sampled_from([BTC, ETH]), st.lists(parts, min_size=1, max_size=3), st.booleans()),
    min_size=1,
    max_size=14,
)
Batches = list[tuple[Instrument, Parts, bool]]


def run(kernel: Kernel, sent: Batches, first: int = 0, each: Callable[[Lot, int], None] = lambda *_: None) -> list[Lot]:
    lots = []
    for number, (instrument, batch, numbered) in enumerate(sent, first + 1):
        producer = b"p" * 16 if numbered else b""
        lot = kernel.accept(instrument, batch, KNOWN + number * 1000, source="me", producer=producer, batch=number)
        each(lot, number)
        lots.append(lot)
    return lots


def contents(lots: list[Lot]) -> list[Any]:
    return [
        (
            lot.seq,
            lot.records,
            lot.accepted,
            lot.refused,
            lot.unknown,
            [(*s[:3], bytes(s[3])) for s in frame_of(lot).sections],
        )
        for lot in lots
    ]


@settings(max_examples=60)
@given(batches, batches)
def test_a_restored_kernel_goes_on_bit_for_bit(before: Batches, after: Batches) -> None:
    kernel, restored = make_kernel(), make_kernel()
    run(kernel, before)
    restored.restore(kernel.checkpoint(), [BTC, ETH], UNFRAMED)
    assert restored.checkpoint() == kernel.checkpoint()
    assert contents(run(kernel, after, 100)) == contents(run(restored, after, 100))
    assert restored.checkpoint() == kernel.checkpoint()


@settings(max_examples=60)
@given(batches, batches)
def test_a_replay_of_its_frames_gives_the_same_kernel_and_the_same_later_lots(before: Batches, after: Batches) -> None:
    kernel, replayed = make_kernel(), make_kernel()
    offset = 0

    def journal(lot: Lot, number: int) -> None:
        nonlocal offset
        frame = frame_of(lot, offset)
        offset = frame.end
        if any(kind == 16 for kind, *_ in frame_of(lot).sections):
            kernel.remember(b"p" * 16, number, lot).offset = frame.end
        replayed.apply(frame, lot.state.instrument)

    run(kernel, before, each=journal)
    assert replayed.checkpoint() == kernel.checkpoint()
    assert contents(run(kernel, after, 100)) == contents(run(replayed, after, 100))


@settings(max_examples=40)
@given(batches)
def test_numbers_have_no_gap_and_every_offered_record_is_accepted_or_refused(sent: Batches) -> None:
    expected = {BTC.id: 1, ETH.id: 1}
    for lot, (instrument, batch, _) in zip(run(make_kernel(), sent), sent, strict=True):
        assert lot.seq == expected[instrument.id]
        numbers = [int(seq) for _, records in lot.rows for seq in records["seq"]]
        assert numbers == list(range(lot.seq, lot.seq + lot.records))
        expected[instrument.id] += lot.records
        assert lot.accepted + len(lot.refused) == sum(len(records) for _, records in batch)


@given(batches)
def test_few_good_trades_take_a_shorter_way_to_the_same_end(sent: Batches) -> None:
    short, long = make_kernel(), make_kernel()
    found = contents(run(short, sent))
    with mock.patch.object(Kernel, "accept_few", return_value=None):
        assert contents(run(long, sent)) == found
    assert short.checkpoint() == long.checkpoint()


def test_few_trades_whose_sums_leave_64_bits_change_nothing_and_are_refused_by_name() -> None:
    kernel = make_kernel()
    most = 2**62
    accept_trades(kernel, (0, 1, 1, most))
    accept_trades(kernel, (1, 2, 1, most // 2))
    before = kernel.checkpoint()
    lot = accept_trades(kernel, (2, 3, 1, most))
    assert (lot.accepted, [refusal.rule for refusal in lot.refused]) == (0, ["range"])
    after, earlier = msgspec.msgpack.decode(kernel.checkpoint()), msgspec.msgpack.decode(before)
    for field in ("fold", "trade_ids", "seq"):
        assert after["states"][0][field] == earlier["states"][0][field]
    assert accept_trades(kernel, (3, 4, 1, 5)).accepted == 1


def test_offered_books_get_an_imbalance_each_second_and_a_replay_makes_the_same() -> None:
    kernel, again = make_kernel(), make_kernel()
    for second in range(5):
        books = empty(BOOK_KIND, 1)
        books["ts_event"] = START + second * SECOND
        books["sequence"], books["state"], books["flags"] = second, BookState.LIVE, BookFlag.OFFERED
        books["bid_count"] = books["ask_count"] = 1
        books["bid_price"][0, 0], books["ask_price"][0, 0] = 9_999, 10_001
        books["bid_size"][0, 0], books["ask_size"][0, 0] = 30, 10
        lot = accept(kernel, (BOOK_KIND, books))
        assert lot.accepted == 1
        again.apply(frame_of(lot, 0), BTC)
        made = [records for kind, records in lot.rows if kind is IMBALANCE_KIND]
    assert [record["book_1s"].tolist() for record in made] == [[500_000]]
    assert again.checkpoint() == kernel.checkpoint()
    restored = make_kernel()
    restored.restore(kernel.checkpoint(), [BTC])
    assert restored.checkpoint() == kernel.checkpoint()


def test_a_lane_of_imports_counts_from_its_own_first_number() -> None:
    kernel = make_kernel(first_seq=-(2**62))
    assert accept_trades(kernel, (0, 1, 100, 1)).seq == -(2**62)


def test_a_new_instrument_has_nothing_to_resume_from() -> None:
    resume = make_kernel().state(BTC).resume()
    assert (resume.last_trade_id, resume.last_trade_ts, resume.venue_bars) == (None, None, {})
    assert make_kernel().state(BTC).newest == ABSENT
