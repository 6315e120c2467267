"""What comes out of the database; test_conformance.py has the rest, beside a model of lists."""

from __future__ import annotations

from typing import Any, NamedTuple
from uuid import UUID, uuid4

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lane import BTC, CANDLES, FUNDING, MS, SECOND, START, bars, observed, rates, trades
from marketd.daemon.kernel import TRADE_KIND, coverage_record
from marketd.market.errors import InvalidArgument
from marketd.market.records import Coverage, Records
from marketd.market.rows import codec
from marketd.market.times import ABSENT
from marketd.sql.connections import type_connection
from marketd.sql.partitions import PartitionKeeper
from marketd.sql.profiles import detect_profile
from marketd.sql.read import (
    CopiedRows,
    Span,
    Stored,
    read_bars,
    read_coverage,
    read_facts,
    read_instruments,
    read_rows,
    read_stored,
    read_timeframes,
)
from marketd.sql.series import ensure_series_table
from marketd.sql.statements import statements
from marketd.sql.store import Commit, commit, split_rows

KNOWN = START + 3600 * SECOND
_same_database = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Database(NamedTuple):
    conn: type_connection
    partitions: PartitionKeeper

    async def put(self, *parts: tuple[Any, Records], instrument: int = BTC.id, coverage: Records | None = None) -> None:
        rows = [
            each
            for kind, records in parts
            for each in split_rows(kind, np.full(len(records), instrument, np.int32), records)
        ]
        events = [] if coverage is None else [(np.full(len(coverage), instrument, np.int32), coverage)]
        work = Commit(uuid4(), "live", 8, KNOWN, rows, None, events, [], 0)
        assert await commit(self.conn, work, self.partitions) == 8


@pytest.fixture
async def db(conn: type_connection) -> Database:
    await ensure_series_table(conn, "funding", dict(FUNDING.fields))
    return Database(conn, PartitionKeeper(await detect_profile(conn)))


def decoded(copied: CopiedRows) -> Records:
    return codec(copied.table, copied.kind).decode(copied.data)[1]


def stamped(records: Records, first_seq: int = 1, known: int = KNOWN) -> Records:
    records["seq"] = np.arange(first_seq, first_seq + len(records))
    records["ts_known"] = known
    return records


async def ids(db: Database, start: int | None = None, end: int | None = None, **options: Any) -> list[int]:
    found: list[int] = decoded(await read_rows(db.conn, BTC.id, TRADE_KIND, Span(start, end), **options))[
        "trade_id"
    ].tolist()
    return found


# ---- bounds -----------------------------------------------------------------------------------------


async def test_a_span_has_its_start_and_not_its_end(db: Database) -> None:
    await db.put((TRADE_KIND, stamped(trades([(n, n, 100, 1) for n in range(5)]))))
    assert await ids(db, START + MS, START + 3 * MS) == [2, 1]
    assert await ids(db, START + 3 * MS) == [4, 3]
    assert await ids(db, None, START + MS) == [0]
    assert await ids(db, START + MS, START + MS) == []


async def test_bounds_between_microseconds_are_rounded_up_so_that_both_stay_true(db: Database) -> None:
    await db.put((TRADE_KIND, stamped(trades([(n, n, 100, 1) for n in range(3)]))))
    assert await ids(db, START + 1, START + 2 * MS + 1) == [2, 1]
    assert await ids(db, START + MS - 999, START + MS + 1) == [1]


@given(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)))
def test_any_span_of_64_bits_becomes_times_that_postgresql_has(start: int | None, end: int | None) -> None:
    first, last = Span(start, end).bounds()
    assert 1970 <= first.year <= 2262
    assert 1970 <= last.year <= 2262


async def test_spans_beyond_all_time_are_open(db: Database) -> None:
    await db.put((TRADE_KIND, stamped(trades([(n, n, 100, 1) for n in range(3)]))))
    assert await ids(db, -(2**63), 2**63 - 1) == [2, 1, 0]
    assert await ids(db, -(2**63), -1) == []
    assert await ids(db, 2**63 - 1) == []
    assert await ids(db, known_at=2**63 - 1) == [2, 1, 0]
    assert await ids(db, known_at=-(2**63)) == []


async def test_a_limit_keeps_the_newest_or_the_oldest(db: Database) -> None:
    await db.put((TRADE_KIND, stamped(trades([(n, n, 100, 1) for n in range(5)]))))
    assert await ids(db, limit=2) == [4, 3]
    assert await ids(db, limit=2, newest=False) == [0, 1]
    assert await ids(db, START + 2 * MS, limit=2, newest=False) == [2, 3]


async def test_trades_of_one_moment_are_in_the_order_of_knowledge(db: Database) -> None:
    await db.put((TRADE_KIND, stamped(trades([(0, n, 100, 1) for n in (9, 3, 7)]))))
    assert await ids(db, newest=False) == [9, 3, 7]
    assert await ids(db, limit=1) == [7]


async def test_fields_that_bear_words_of_sql_are_read_as_fields(db: Database) -> None:
    records = stamped(rates([(0, 0.5), (1, float("nan"))]))
    records["order"], records["ts_next"] = [1, ABSENT], [1_234_567_891, 7]
    await db.put((FUNDING, records))
    found = decoded(await read_rows(db.conn, BTC.id, FUNDING, Span(), newest=False))
    assert found.tobytes() == records.tobytes()


# ---- bars --------------------------------------------------------------------------------------------


async def test_a_source_that_is_unknown_is_refused_by_name(db: Database) -> None:
    with pytest.raises(InvalidArgument, match="bar_source"):
        await read_bars(db.conn, BTC.id, 60, Span(), bar_source="mine")


async def test_timeframes_do_not_mix(db: Database) -> None:
    await db.put((CANDLES, bars([0, 1], 7, timeframe=60, seq=1)), (CANDLES, bars([0], 9, timeframe=300, seq=3)))
    assert decoded(await read_bars(db.conn, BTC.id, 60, Span()))["open"].tolist() == [7, 7]
    assert len(decoded(await read_bars(db.conn, BTC.id, 300, Span()))) == 1
    assert len(decoded(await read_bars(db.conn, BTC.id, 1, Span()))) == 0


# ---- the ledger and the rest ------------------------------------------------------------------------


def event(start: int, end: int | None, number: int) -> Records:
    ends = ABSENT if end is None else START + end * SECOND
    record = coverage_record(Coverage.GAP, START + start * SECOND, ends, stream=1, detail=number)
    return stamped(record, number, KNOWN + number * 1000)


async def details(db: Database, start: int | None, end: int | None, **options: Any) -> list[int]:
    span = Span(*(None if x is None else START + x * SECOND for x in (start, end)))
    return [row["detail"] for row in await read_coverage(db.conn, BTC.id, span, **options)]


async def test_the_ledger_gives_what_touches_the_span(db: Database) -> None:
    for number, (start, end) in enumerate([(0, 10), (5, 5), (20, 30), (40, None)], 1):
        await db.put(coverage=event(start, end, number))
    assert await details(db, None, None) == [4, 3, 2, 1]
    assert await details(db, 6, 21) == [3, 1]
    assert await details(db, 10, 20) == [1]
    assert await details(db, 100, 200) == [4]  # it has not ended
    assert await details(db, None, 0) == []
    assert await details(db, None, None, limit=2) == [4, 3]
    assert await details(db, None, None, limit=2, newest=False) == [1, 2]
    assert await details(db, None, None, known_at=KNOWN + 2000) == [2, 1]


async def test_an_instrument_reads_its_own_part_of_the_ledger(db: Database) -> None:
    await db.put(coverage=observed(), instrument=BTC.id + 1)
    assert await details(db, None, None) == []


async def test_an_instrument_comes_back_as_it_was_declared(db: Database) -> None:
    assert await read_instruments(db.conn) == []
    record = BTC.to_record()
    record["ts_known"] = KNOWN
    await commit(db.conn, Commit(uuid4(), "live", 8, KNOWN, [], record, [], [], 0), db.partitions)
    assert await read_instruments(db.conn) == [BTC]


async def test_how_far_a_journal_is_stored_is_told_to_the_nanosecond_and_others_do_not_count(db: Database) -> None:
    """Neither the journal of an import, nor that of another daemon, which may have committed a moment ago."""
    journal, known = uuid4(), KNOWN + 123_456_000
    await commit(db.conn, Commit(uuid4(), "import", 99, known + 10**12, [], None, [], [], 0), db.partitions)
    assert await read_stored(db.conn, journal) is None
    await commit(db.conn, Commit(journal, "live", 64, known, [], None, [], [], 0), db.partitions)
    await commit(db.conn, Commit(uuid4(), "live", 4711, known + 10**12, [], None, [], [], 0), db.partitions)
    assert await read_stored(db.conn, journal) == (journal, 64, known)


async def test_how_far_a_journal_is_stored_and_the_ledger_come_together(db: Database) -> None:
    async def facts(journal: UUID | None, known_at: int | None = None) -> tuple[Stored | None, list[Any]]:
        return await read_facts(db.conn, BTC.id, journal, 1, Span(), known_at=known_at)

    journal = uuid4()
    assert await facts(journal) == (None, [])
    await commit(db.conn, Commit(journal, "live", 64, KNOWN, [], None, [], [], 0), db.partitions)
    assert await facts(journal) == ((journal, 64, KNOWN), [])
    await db.put(coverage=observed())
    for known_at in (None, KNOWN, START - SECOND):
        ledger = await read_coverage(db.conn, BTC.id, Span(), known_at=known_at)
        stored, rows = await facts(journal, known_at)
        assert stored == (journal, 64, KNOWN)
        assert [tuple(row.values())[2:] for row in rows] == [tuple(row.values()) for row in ledger]
        assert (await facts(None, known_at))[0] is None


@pytest.mark.parametrize("known_at", [None, KNOWN, KNOWN - 1])
@pytest.mark.parametrize("source", ["best", "venue"])
async def test_several_timeframes_at_once_are_what_each_is_alone(
    db: Database, known_at: int | None, source: str
) -> None:
    for number, timeframe in enumerate((60, 300, 3600)):
        await db.put((CANDLES, stamped(bars(range(4), timeframe=timeframe), 10 * number)))
    for limit in (None, 2):
        options: Any = {"limit": limit, "bar_source": source, "known_at": known_at}
        span = Span(START, START + 10 * 3600 * SECOND)
        together = await read_timeframes(db.conn, BTC.id, [60, 300, 3600, 900], span, **options)
        for timeframe, copied in together.items():
            alone = await read_bars(db.conn, BTC.id, timeframe, span, **options)
            assert decoded(copied).tolist() == decoded(alone).tolist()
        found = [timeframe for timeframe, copied in together.items() if copied.size()]
        assert found == ([] if known_at == KNOWN - 1 else [60, 300, 3600])


def test_statements_are_found_by_name_without_their_comments() -> None:
    for file in ("read", "store", "quarantine"):
        for name, text in statements(file).items():
            assert text, name
            assert not text.endswith(";")
            assert "--" not in text
    assert statements("read")["instruments"].startswith("SELECT instrument_id")
