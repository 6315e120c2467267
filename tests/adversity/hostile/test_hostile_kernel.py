"""The kernel against arbitrary records: it refuses by name or takes what every later stage can hold, and nothing
between.
"""

from __future__ import annotations

from uuid import UUID

import msgspec
import numpy as np
import pytest
from hostile_inputs import KINDS, NOW_NS, SERIES, YEAR_NS, coverage, hostile_parts, trades
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.daemon.journal_rows import commit_of
from marketd.daemon.kernel import Kernel, Lot
from marketd.daemon.pieces import DAY_NS, MAX_PIECES, days_of, pieces_of, stretches
from marketd.daemon.producers import MAX_REFUSALS, Producers, Remembered
from marketd.ipc import frames, protocol
from marketd.ipc.protocol import Refusal, Rejection
from marketd.market.errors import InvalidArgument
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME, KindTable
from marketd.market.rows import codec
from marketd.sql.store import TableRows, _coverage_row, _quarantine_row, split_rows

INSTRUMENT = Instrument(id=65_537, symbol="BTCUSDT", venue="BINANCE", price_scale=2, size_scale=8, quote_scale=8)
TRADE = BY_NAME["trade"]
JOURNAL = UUID(int=1)


def kernel(timeframes: tuple[int, ...] = (1, 60, 3600)) -> Kernel:
    return Kernel(KindTable([SERIES]), timeframes, grace_ns=250_000_000, max_skew_ns=10**10)


def stored(lot: Lot) -> None:
    """Everything of the lot passes through its frame and what the writer makes of it."""
    data = frames.encode(0, lot.body, instrument=INSTRUMENT.id, seq=lot.seq, ts_known=lot.ts_known)
    frame = frames.decode(memoryview(data))
    work = commit_of([frame], KindTable([SERIES]), JOURNAL, "live")
    for rows in work.rows:
        table_codec = codec(rows.table, rows.kind)
        decoded = table_codec.decode(table_codec.encode(rows.instruments, rows.records))[1]
        if rows.kind is not SERIES:  # NaN is no equal of itself
            assert decoded.tobytes() == rows.records.tobytes() or rows.table == "candles_1s"
        times = rows.records[rows.kind.time]
        assert times.min() >= 0 and not (times % 1000).any()
    for ids, events in work.coverage:
        for number, event in zip(ids, events, strict=True):
            row = _coverage_row(int(number), event)
            assert all(-(2**15) <= value < 2**15 for value in row[4:6]) and "\0" not in row[9]
    for item in work.quarantine:
        assert not any("\0" in word for word in _quarantine_row(JOURNAL, item) if isinstance(word, str))


@given(batches=st.lists(hostile_parts(), min_size=1, max_size=4))
@settings(max_examples=60)
def test_whatever_records_come_the_kernel_takes_what_can_be_stored_and_names_the_rest(
    batches: list[list[tuple[object, object]]],
) -> None:
    live, replayed = kernel(), kernel()
    for number, parts in enumerate(batches, start=1):
        lot = live.accept(INSTRUMENT, parts, NOW_NS + number * 1000, source="s", producer=b"p" * 16, batch=number)  # type: ignore[arg-type]
        live.remember(b"p" * 16, number, lot).offset = 0
        assert lot.accepted + len(lot.refused) == sum(len(records) for _, records in parts)  # type: ignore[arg-type,misc]
        stored(lot)
        data = frames.encode(0, lot.body, instrument=INSTRUMENT.id, seq=lot.seq, ts_known=lot.ts_known)
        replayed.apply(frames.decode(memoryview(data)), INSTRUMENT)
    again = kernel()
    again.restore(live.checkpoint(), [INSTRUMENT])
    assert again.state(INSTRUMENT).seq == live.state(INSTRUMENT).seq == replayed.state(INSTRUMENT).seq
    assert again.state(INSTRUMENT).fold.state() == live.state(INSTRUMENT).fold.state()
    assert replayed.state(INSTRUMENT).fold.state() == live.state(INSTRUMENT).fold.state()


@pytest.mark.parametrize("count", [2, 50, 200])
def test_trades_whose_bar_leaves_64_bits_are_refused_and_change_nothing(count: int) -> None:
    it = kernel()
    it.accept(INSTRUMENT, [(TRADE, trades(1, price=1))], NOW_NS, source="s")
    state = it.state(INSTRUMENT)
    before = state.fold.state(), state.trade_ids.state(), state.seq, state.newest, state.last_trade_ts
    huge = trades(count, first_id=10, size=2**63 // count + 2**40, price=1)
    lot = it.accept(INSTRUMENT, [(TRADE, huge)], NOW_NS + 1000, source="s")
    assert lot.accepted == lot.records == 0
    assert [(r.index, r.rule) for r in lot.refused] == [(index, "range") for index in range(count)]
    assert (state.fold.state(), state.trade_ids.state(), state.seq, state.newest, state.last_trade_ts) == before
    stored(lot)
    small = it.accept(INSTRUMENT, [(TRADE, trades(count, first_id=10))], NOW_NS + 2000, source="s")
    assert small.accepted == count  # their ids were given back


def test_an_overflow_costs_its_own_part_alone() -> None:
    it = kernel()
    parts = [
        (TRADE, trades(2, price=1)),
        (TRADE, trades(2, first_id=5, size=2**62, price=1)),
        (KINDS["coverage"], coverage()),
    ]
    lot = it.accept(INSTRUMENT, parts, NOW_NS, source="s", producer=b"p" * 16, batch=1)
    assert (lot.accepted, [(r.part, r.index, r.rule) for r in lot.refused]) == (3, [(1, 0, "range"), (1, 1, "range")])
    assert it.state(INSTRUMENT).seq == lot.seq + lot.records - 1
    stored(lot)


@pytest.mark.parametrize("kind", ["trade", "coverage", "refused"])
def test_a_batch_whose_frame_would_be_too_long_is_refused_before_anything_changes(kind: str) -> None:
    it = kernel()
    it.accept(INSTRUMENT, [(TRADE, trades(1))], NOW_NS, source="s")
    before = it.checkpoint()
    if kind == "trade":  # each in a second, a minute and an hour of its own: three bars a trade
        records = trades(2_000, first_id=10)
        records["ts_event"] = np.arange(2_000) * 3600 * 10**9
    elif kind == "coverage":
        records = np.concatenate([coverage(2 + index % 2, start=0, end=NOW_NS) for index in range(500)])
    else:
        records = trades(3_000, first_id=10, price=-1)
    with pytest.raises(InvalidArgument, match="pieces") as caught:
        it.accept(INSTRUMENT, [(KINDS.get(kind, TRADE), records)], NOW_NS + 1000, source="s", max_bytes=400_000)
    assert caught.value.field == "parts" and it.checkpoint() == before


@given(parts=hostile_parts(), limit=st.sampled_from([2_000, 10_000, 40_000]))
@settings(max_examples=50)
def test_what_is_taken_within_a_limit_is_within_it(parts: list[tuple[object, object]], limit: int) -> None:
    it = kernel()
    it.accept(INSTRUMENT, [(TRADE, trades(30))], NOW_NS, source="s")
    before = it.checkpoint()
    try:
        lot = it.accept(INSTRUMENT, parts, NOW_NS + 1000, source="s", max_bytes=limit)  # type: ignore[arg-type]
    except InvalidArgument:
        assert it.checkpoint() == before
    else:
        assert frames.frame_bytes(lot.body) <= limit


def test_words_with_nul_reach_the_database_as_text() -> None:
    rejected = [Rejection("me\0ssage", "r\0ule", "de\0tail", b"\0")]
    stored(kernel().accept(INSTRUMENT, [], NOW_NS, source="so\0urce", rejected=rejected))


@pytest.mark.parametrize(
    "record",
    [coverage(stream=2**31 - 1), coverage(stream=-1), coverage(reason=b"a\0b"), coverage(reason=b"\xff")],
    ids=["stream", "negative", "nul", "latin"],
)
def test_a_ledger_entry_that_no_row_can_hold_is_refused(record: np.ndarray) -> None:  # type: ignore[type-arg]
    lot = kernel().accept(INSTRUMENT, [(KINDS["coverage"], record)], NOW_NS, source="s")
    assert [r.rule for r in lot.refused] == ["coverage"]


def test_two_trades_that_lie_decades_apart_make_two_stretches() -> None:
    records = trades(4)
    records["ts_event"] = [NOW_NS, 0, NOW_NS + 1000, 7 * YEAR_NS]
    rows = split_rows(TRADE, np.full(4, 7, dtype=np.int32), records)
    cut = stretches(rows[0])
    assert [each.records["trade_id"].tolist() for each in cut] == [[2], [4], [1, 3]]
    assert pieces_of(cut) == 3


@given(days=st.lists(st.integers(0, 20_000), min_size=1, max_size=60), step=st.sampled_from([1, 2, 40]))
def test_stretches_hold_every_row_once_and_no_empty_day(days: list[int], step: int) -> None:
    records = trades(len(days))
    records["ts_event"] = np.array(days, dtype=np.int64) * step % 20_000 * DAY_NS
    cut = stretches(TableRows("trades", TRADE, np.zeros(len(days), dtype=np.int32), records, True))
    assert sorted(i for each in cut for i in each.records["trade_id"].tolist()) == list(range(1, len(days) + 1))
    for each in cut if len(cut) > 1 else []:
        between = (int(each.records["ts_event"].max()) - int(each.records["ts_event"].min())) // DAY_NS + 1
        assert between <= MAX_PIECES and between == len(set((each.records["ts_event"] // DAY_NS).tolist()))


def test_a_long_run_of_days_is_cut_too() -> None:
    records = trades(3 * MAX_PIECES)
    records["ts_event"] = np.arange(3 * MAX_PIECES) * DAY_NS
    cut = stretches(TableRows("trades", TRADE, np.zeros(len(records), dtype=np.int32), records, True))
    assert [days_of(each.records["ts_event"]) for each in cut] == [MAX_PIECES] * 3


def test_what_producers_were_told_is_bounded_however_much_was_refused() -> None:
    producers = Producers()
    refused = [Refusal(index, "duplicate") for index in range(10_000)]
    for number in range(1, 40):
        producers.remember(b"%016d" % (number % 3), number, Remembered(0, refused, 1, 1, 0))
    kept = sum(len(outcome[2]) for _, known in producers.state() for outcome in known)
    assert 0 < kept <= MAX_REFUSALS
    assert producers.find(b"%016d" % 0, 39) is not None
    again = Producers()
    again.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(producers.state())))
    assert sum(len(outcome[2]) for _, known in again.state() for outcome in known) == kept


def test_an_outcome_that_refuses_all_of_the_largest_batch_can_be_read() -> None:
    count = protocol.MAX_BATCH_RECORDS
    refused = [Refusal(index, "unknown_instrument", "x" * 200 if index < 1000 else "", 63) for index in range(count)]
    header = protocol.encode(protocol.Outcome(batch=2**63 - 1, accepted=0, refused=refused))
    assert len(protocol.Decoder(protocol.FromIngest).decode(header).refused) == count


def test_ids_at_both_ends_of_64_bits_do_not_make_all_between_them_seen() -> None:
    it = kernel()
    far = trades(40)
    far["trade_id"] += 2**62
    far["trade_id"][0] = -(2**63) + 1
    it.accept(INSTRUMENT, [(TRADE, far)], NOW_NS, source="s")
    assert it.accept(INSTRUMENT, [(TRADE, trades(1, first_id=10**6))], NOW_NS + 1000, source="s").accepted == 1
