"""Bars by activity in the kernel: in the frame of the trade that closes them, and the same after any restart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lane import BTC, MS, SECOND, START, frame_of, make_kernel, trades
from marketd.daemon.kernel import (
    ACTIVITY_KIND,
    COVERAGE_KIND,
    TICK_KIND,
    TRADE_KIND,
    Kernel,
    Lot,
    coverage_record,
    tick_record,
)
from marketd.daemon.producers import UNFRAMED
from marketd.market.activity_bars import ActivityFold
from marketd.market.activity_specs import specs_of
from marketd.market.errors import InvalidArgument
from marketd.market.records import ACTIVITY_BAR, ActivityFlag, Coverage, Measure, Records

WANTED = {"*": ["tick:2", "volume:0.012", "dollar:0.05"]}
KNOWN = START + 3600 * SECOND


def kernel_of(wanted: dict[str, list[str]] = WANTED) -> Kernel:
    return make_kernel(activity_bars=wanted)


def accept(kernel: Kernel, *parts: tuple[Any, Records], known: int = KNOWN, **options: Any) -> Lot:
    return kernel.accept(BTC, parts, known, source="test", **options)


def accept_trades(kernel: Kernel, *rows: tuple[int, ...]) -> Lot:
    return accept(kernel, (TRADE_KIND, trades(rows)))


def gap(state: Coverage = Coverage.GAP, stream: int = TRADE_KIND.id) -> tuple[Any, Records]:
    return COVERAGE_KIND, coverage_record(state, START, START + SECOND, stream=stream)


def bars_of(lots: list[Lot]) -> Records:
    found = [records for lot in lots for kind, records in lot.rows if kind is ACTIVITY_KIND]
    return np.concatenate([np.empty(0, ACTIVITY_BAR), *found])


def test_a_bar_is_in_the_frame_of_the_trade_that_closes_it_and_numbered_behind_it() -> None:
    kernel = kernel_of({"BTCUSDT.BINANCE": ["tick:2"]})
    assert not len(bars_of([accept_trades(kernel, (0, 1, 100, 5))]))
    lot = accept_trades(kernel, (1, 2, 103, 7, -1), (2, 3, 90, 1))
    (bar,) = bars_of([lot])
    assert (bar["ts_start"], bar["ts_event"], bar["ts_known"]) == (START, START + 1 * MS, KNOWN)
    assert (bar["open"], bar["high"], bar["low"], bar["close"]) == (100, 103, 100, 103)
    assert (bar["volume"], bar["buy_volume"], bar["trade_count"]) == (12, 5, 2)
    assert (bar["measure"], bar["threshold"], bar["flags"]) == (Measure.TICK, 2, 0)
    assert [(kind, count) for kind, _, count, _ in frame_of(lot).sections] == [
        (TRADE_KIND.id, 2),
        (ACTIVITY_KIND.id, 1),
    ]
    assert [int(seq) for _, records in lot.rows for seq in records["seq"]] == [2, 3, 4]
    assert lot.records == 3
    assert lot.accepted == 2


def test_an_instrument_that_is_not_named_has_none_and_keeps_the_short_way() -> None:
    kernel = kernel_of({"ETHUSDT.BINANCE": ["tick:1"]})
    assert kernel.state(BTC).activity is None
    assert not len(bars_of([accept_trades(kernel, (0, 1, 100, 5))]))


@pytest.mark.parametrize("state", [Coverage.GAP, Coverage.VENUE_DOWN])
def test_after_a_gap_of_the_trades_the_bars_that_were_forming_are_partial(state: Coverage) -> None:
    kernel = kernel_of({"*": ["tick:2"]})
    accept_trades(kernel, (0, 1, 100, 5))
    accept(kernel, gap(state))
    lot = accept_trades(kernel, (1, 2, 100, 5), (2, 3, 100, 5), (3, 4, 100, 5))
    assert bars_of([lot])["flags"].tolist() == [ActivityFlag.PARTIAL, 0]


def test_a_gap_of_another_stream_changes_no_bar() -> None:
    kernel = kernel_of({"*": ["tick:2"]})
    accept_trades(kernel, (0, 1, 100, 5))
    accept(kernel, gap(stream=3))
    assert bars_of([accept_trades(kernel, (1, 2, 100, 5))])["flags"].tolist() == [0]


def test_trades_that_were_refused_are_in_no_bar() -> None:
    kernel = kernel_of({"*": ["tick:2"]})
    lot = accept_trades(kernel, (0, 1, 100, 5), (1, 2, -1, 5), (2, 3, 100, 7))
    assert bars_of([lot])["volume"].tolist() == [12]
    most = 2**62
    accept_trades(kernel, (3, 4, 1, most))
    refused = accept_trades(kernel, (4, 5, 1, most), (5, 6, 1, most))  # more than a bar of time holds
    assert (refused.accepted, len(bars_of([refused]))) == (0, 0)
    assert kernel.state(BTC).activity.forming()["trade_count"].tolist() == [1]  # type: ignore[union-attr]


def test_a_frame_is_never_longer_than_was_promised_with_its_bars() -> None:
    kernel = kernel_of({"*": ["tick:1", "tick:3", "volume:0.001"]})
    batch = trades([(ms, ms + 1, 100, 5) for ms in range(2000)])
    with pytest.raises(InvalidArgument, match="may take"):
        accept(kernel, (TRADE_KIND, batch), max_bytes=batch.nbytes * 4)
    assert kernel.state(BTC).seq == 0
    bounds = [bytes_ for bytes_ in range(batch.nbytes, 8 * batch.nbytes, 4096) if fits(batch, bytes_)]
    lot = accept(kernel, (TRADE_KIND, batch), max_bytes=bounds[0])
    assert sum(len(data) for *_, data in frame_of(lot).sections) <= bounds[0]


def fits(batch: Records, max_bytes: int) -> bool:
    try:
        accept(kernel_of({"*": ["tick:1", "tick:3", "volume:0.001"]}), (TRADE_KIND, batch), max_bytes=max_bytes)
    except InvalidArgument:
        return False
    return True


# ---- any batches ------------------------------------------------------------------------------------

times = st.integers(0, 5_000)
rows = st.tuples(times, st.integers(1, 80), st.integers(1, 300), st.integers(1, 9), st.sampled_from([-1, 1]))
parts = st.one_of(
    st.lists(rows, min_size=1, max_size=60).map(lambda found: (TRADE_KIND, trades(found))),
    times.map(lambda ms: (TICK_KIND, tick_record(START + ms * MS))),
    st.sampled_from([gap(), gap(Coverage.BACKFILLED), gap(stream=3)]),
)
batches = st.lists(st.lists(parts, min_size=1, max_size=3), min_size=1, max_size=8)
Batches = list[list[tuple[Any, Records]]]


def run(kernel: Kernel, sent: Batches) -> list[Lot]:
    return [accept(kernel, *batch, known=KNOWN + number * 1000) for number, batch in enumerate(sent)]


def contents(lots: list[Lot]) -> list[Any]:
    return [(lot.seq, lot.records, [(*s[:3], bytes(s[3])) for s in frame_of(lot).sections]) for lot in lots]


@settings(max_examples=40)
@given(batches)
def test_the_bars_are_those_of_the_accepted_trades_one_after_another(sent: Batches) -> None:
    lots = run(kernel_of(), sent)
    scales = {"price_scale": BTC.price_scale, "size_scale": BTC.size_scale, "quote_scale": BTC.quote_scale}
    fold = ActivityFold(specs_of(WANTED, BTC), **scales)
    expected = []
    for lot in lots:
        for kind, records in lot.rows:
            if kind is TRADE_KIND:
                expected += [fold.add(records[at : at + 1]) for at in range(len(records))]
            elif kind is COVERAGE_KIND and records["state"][0] == Coverage.GAP and records["stream"][0] == 1:
                fold.interrupted()
    bars, wanted = bars_of(lots), np.concatenate([np.empty(0, ACTIVITY_BAR), *expected])
    for spec in specs_of(WANTED, BTC):
        mine, theirs = (
            found[(found["measure"] == spec.measure) & (found["threshold"] == spec.threshold)]
            for found in (bars, wanted)
        )
        for name in (ACTIVITY_BAR.names or ())[3:]:  # all but the stamps
            assert mine[name].tolist() == theirs[name].tolist(), name


@settings(max_examples=40)
@given(batches, batches)
def test_a_restored_and_a_replayed_kernel_go_on_bit_for_bit(before: Batches, after: Batches) -> None:
    kernel, restored, replayed = kernel_of(), kernel_of(), kernel_of()
    offset = 0
    for lot in run(kernel, before):
        frame = frame_of(lot, offset)
        offset = frame.end
        replayed.apply(frame, BTC)
    restored.restore(kernel.checkpoint(), [BTC], UNFRAMED)
    assert restored.checkpoint() == replayed.checkpoint() == kernel.checkpoint()
    expected = contents(run(kernel, after))
    assert contents(run(restored, after)) == expected
    assert contents(run(replayed, after)) == expected


def test_a_kernel_without_such_bars_takes_a_checkpoint_that_has_them_and_the_other_way_round() -> None:
    kernel = kernel_of({"*": ["tick:2"]})
    accept_trades(kernel, (0, 1, 100, 5))
    plain = kernel_of({})
    plain.restore(kernel.checkpoint(), [BTC], UNFRAMED)
    assert not len(bars_of([accept_trades(plain, (1, 2, 100, 5))]))
    again = kernel_of({"*": ["tick:2"]})
    again.restore(plain.checkpoint(), [BTC], UNFRAMED)
    assert not len(bars_of([accept_trades(again, (2, 3, 100, 5))]))
    assert len(bars_of([accept_trades(again, (3, 4, 100, 5))])) == 1
