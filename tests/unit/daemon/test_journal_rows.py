"""From frames to what one transaction writes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lane import BTC, CANDLES, FUNDING, KINDS, START, bars, frame_of, make_kernel, observed, rates, section, trades
from marketd.daemon.journal_rows import UNDECLARED_ITEM, commit_of
from marketd.daemon.kernel import COVERAGE_KIND, QUARANTINE_KIND, TICK_KIND, TRADE_KIND, Quarantined, tick_record
from marketd.ipc import frames
from marketd.ipc.frames import CHECKPOINT, CHECKPOINT_KIND, Frame
from marketd.market.records import BY_NAME, INSTRUMENT, CandleFlag, KindTable, Records, series_kind
from marketd.sql.store import Commit

JOURNAL = UUID(int=5)
ETH = 65_538


def frame(offset: int, instrument: int, seq: int, *sections: tuple[int, int, int, Any], ts_known: int = 1000) -> Frame:
    data = frames.encode(offset, sections, instrument=instrument, seq=seq, ts_known=ts_known)
    return frames.decode(memoryview(data), 0, offset)


def checkpoint(offset: int) -> Frame:
    data = frames.encode(offset, [(CHECKPOINT_KIND, 1, 5, b"state")], flags=CHECKPOINT)
    return frames.decode(memoryview(data), 0, offset)


def chain(batches: Iterable[tuple[int, list[tuple[int, int, int, Any]]]]) -> list[Frame]:
    """Frames one behind the other; ts_known rises by 1000 with each."""
    found: list[Frame] = []
    for instrument, sections in batches:
        offset = found[-1].end if found else 0
        found.append(frame(offset, instrument, len(found) + 1, *sections, ts_known=1000 * (len(found) + 1)))
    return found


def commit(found: list[Frame], kinds: KindTable = KINDS) -> Commit:
    return commit_of(found, kinds, JOURNAL, "live")


def contents(work: Commit) -> dict[str, list[Any]]:
    """All rows by table, in their order."""
    tables: dict[str, list[Any]] = {}
    for rows in work.rows:
        pairs = zip(rows.instruments.tolist(), rows.records.tolist(), strict=True)
        tables.setdefault(rows.table, []).extend(pairs)
    return tables


def quarantined(*items: Quarantined) -> tuple[int, int, int, bytes]:
    payload = msgspec.msgpack.encode(list(items))
    return QUARANTINE_KIND.id, 1, len(payload), payload


pieces = st.lists(
    st.tuples(st.sampled_from([BTC.id, ETH]), st.sampled_from(["trade", "candle", "funding"]), st.integers(1, 4)),
    min_size=1,
    max_size=12,
)


def records_of(name: str, first: int, count: int) -> Records:
    made = {
        "trade": lambda: trades([(first + n, first + n, 100, 7) for n in range(count)]),
        "candle": lambda: bars(range(first, first + count)),
        "funding": lambda: rates([(first + n, 0.5) for n in range(count)]),
    }
    records: Records = made[name]()
    records["seq"] = np.arange(first, first + count)
    return records


@given(pieces)
def test_many_small_frames_are_one_large_frame(sizes: list[tuple[int, str, int]]) -> None:
    small, large, first = [], [], 1
    for instrument, name, count in sizes:
        kind, records = KINDS.by_name(name), records_of(name, first, count)
        small += [(instrument, [section(kind, records[n : n + 1])]) for n in range(count)]
        large.append((instrument, [section(kind, records)]))
        first += count
    assert contents(commit(chain(small))) == contents(commit(chain(large)))


def test_a_commit_begins_and_ends_where_its_frames_do_and_knows_the_newest_moment() -> None:
    found = chain([(BTC.id, [section(TRADE_KIND, trades([(n, n, 100, 1)]))]) for n in range(3)])
    work = commit(found[1:])
    assert (work.start, work.offset, work.ts_known) == (found[1].offset, found[2].end, 3000)
    assert (work.journal, work.lane) == (JOURNAL, "live")


def test_checkpoints_bring_no_rows_but_are_passed() -> None:
    first = checkpoint(0)
    second = frame(first.end, BTC.id, 1, section(TRADE_KIND, trades([(0, 1, 100, 1)])))
    third = checkpoint(second.end)
    work = commit([first, second, third])
    assert len(contents(work)["trades"]) == 1
    assert (work.start, work.offset) == (0, third.end)
    alone = commit([first])
    assert (alone.rows, alone.offset, alone.ts_known) == ([], first.end, 0)


def test_bars_of_a_second_have_their_own_table_and_revised_ones_merge() -> None:
    fresh = bars([0], timeframe=1, seq=1)
    revised = bars([0, 1], flags=int(CandleFlag.REVISED), seq=2)
    (work,) = [commit(chain([(BTC.id, [section(CANDLES, fresh), section(CANDLES, revised)])]))]
    assert {rows.table: rows.fresh for rows in work.rows} == {"candles_1s": True, "candles": False}


def test_a_fresh_bar_beside_one_that_revises_merges_too() -> None:
    records = bars([0, 0], seq=1)
    records["flags"][1] = CandleFlag.REVISED
    (rows,) = commit(chain([(BTC.id, [section(CANDLES, records)])])).rows
    assert (rows.fresh, len(rows.records)) == (False, 2)


def test_instruments_and_the_ledger_go_their_own_ways_and_ticks_nowhere() -> None:
    record = BTC.to_record()
    kind = BY_NAME["instrument"]
    found = chain(
        [
            (BTC.id, [section(kind, record)]),
            (ETH, [section(COVERAGE_KIND, observed())]),
            (BTC.id, [section(TICK_KIND, tick_record(START)), section(COVERAGE_KIND, observed(5))]),
        ]
    )
    work = commit(found)
    assert work.rows == []
    assert work.instruments is not None
    assert work.instruments.dtype == INSTRUMENT
    assert work.instruments.tobytes() == record.tobytes()
    ((ids, events),) = work.coverage
    assert (ids.tolist(), len(events)) == ([ETH, BTC.id], 2)


def test_refused_records_are_numbered_within_their_frame() -> None:
    items = [Quarantined(n, 0, "trade", "side", f"d{n}", "me", bytes([n])) for n in (4, 9)]
    found = chain([(BTC.id, [quarantined(*items)]), (ETH, [quarantined(items[1])])])
    rows = commit(found).quarantine
    assert [(row.instrument, row.offset, row.item, row.detail) for row in rows] == [
        (BTC.id, 0, 0, "d4"),
        (BTC.id, 0, 1, "d9"),
        (ETH, found[1].offset, 0, "d9"),
    ]
    assert (rows[1].kind, rows[1].rule, rows[1].source, rows[1].payload) == ("trade", "side", "me", b"\x09")


def test_records_of_undeclared_streams_are_quarantined_one_by_one_none_in_the_place_of_another() -> None:
    other = series_kind(65, "basis", {"value": "f8"})
    values = np.zeros(3, dtype=other.dtype)
    values["value"] = [1, 2, 3]
    sections = [
        section(FUNDING, rates([(0, 0.5), (1, 0.25)])),
        section(other, values),
        section(TRADE_KIND, trades([(0, 1, 100, 1)])),
    ]
    item = Quarantined(0, 0, "trade", "side", "", "me", b"")
    (found,) = chain([(BTC.id, [*sections, quarantined(item)])])
    work = commit([found], KindTable())
    undeclared = [row for row in work.quarantine if row.rule == "undeclared"]
    assert [row.item for row in undeclared] == [UNDECLARED_ITEM + n for n in range(5)]
    assert b"".join(row.payload for row in undeclared) == rates([(0, 0.5), (1, 0.25)]).tobytes() + values.tobytes()
    assert {row.kind for row in undeclared} == {"stream 64", "stream 65"}
    assert len({(row.offset, row.item) for row in work.quarantine}) == 6
    assert list(contents(work)) == ["trades"]


def test_what_the_kernel_makes_of_a_batch_arrives_whole() -> None:
    kernel = make_kernel()
    parts = [(TRADE_KIND, trades([(0, 1, 100, 5), (10, 2, 100, 0), (5_000, 3, 120, 5)]))]
    lot = kernel.accept(BTC, parts, START, source="me", producer=b"p" * 16, batch=1)
    (found,) = chain([(BTC.id, frame_of(lot).sections)])
    tables = contents(commit([found]))
    assert [row[1][3] for row in tables["trades"]] == [1, 3]
    assert len(tables["candles_1s"]) == 1
    assert [row.rule for row in commit([found]).quarantine] == ["positive_size"]
