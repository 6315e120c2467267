"""What comes out of the database, beside a model that keeps every version in a list."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lane import BTC, CANDLES, FUNDING, MS, SECOND, START, bars, observed, rates, trades
from marketd.daemon.kernel import TRADE_KIND, coverage_record
from marketd.market.bars import BAR_SOURCES, finish_bars
from marketd.market.errors import InvalidArgument
from marketd.market.records import CandleFlag, Coverage, Records, Source
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
_ids = itertools.count(1000)
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


@_same_database
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), min_size=1, max_size=12),
    st.integers(-1, 10),
    st.integers(-1, 10),
    st.integers(1, 6),
    st.booleans(),
    st.one_of(st.none(), st.integers(0, 6)),
)
async def test_rows_are_those_of_a_list(
    db: Database,
    rows: list[tuple[int, int]],
    start: int,
    end: int,
    limit: int,
    newest: bool,
    known: int | None,
) -> None:
    instrument = next(_ids)
    records = stamped(trades([(ms, number, 100, 1) for number, (ms, _) in enumerate(rows)]))
    records["ts_known"] = [KNOWN + moment * 1000 for _, moment in rows]
    await db.put((TRADE_KIND, records), instrument=instrument)
    span = Span(START + start * MS, START + end * MS)
    known_at = None if known is None else KNOWN + known * 1000
    found = decoded(
        await read_rows(db.conn, instrument, TRADE_KIND, span, limit=limit, newest=newest, known_at=known_at)
    )
    fitting = [
        r for r in records if span.start <= r["ts_event"] < span.end and (known is None or r["ts_known"] <= known_at)
    ]
    fitting.sort(key=lambda r: (r["ts_event"], r["seq"]), reverse=newest)
    assert found["trade_id"].tolist() == [int(r["trade_id"]) for r in fitting[:limit]]


# ---- bars, as known at t ----------------------------------------------------------------------------

NUMBERS = ("ts", "source", "open", "close", "volume")
Key = tuple[int, int]


class Version(NamedTuple):
    seq: int
    known: int
    price: int
    partial: bool


class Model:
    """Every version that ever came, in lists."""

    def __init__(self) -> None:
        self.versions: dict[Key, list[Version]] = {}

    def put(self, minute: int, source: int, version: Version) -> None:
        self.versions.setdefault((minute, source), []).append(version)

    def bars(self, source: str, known_at: int | None) -> list[tuple[int, int, int, bool]]:
        """(minute, source, price, partial) of each bar, oldest first."""
        found: dict[Key, Version] = {}
        for key, versions in self.versions.items():
            known = [v for v in versions if known_at is None or v.known <= known_at]
            if known:
                found[key] = max(known)
        if source != "best":
            return [
                (minute, s, v.price, v.partial) for (minute, s), v in sorted(found.items()) if s == BAR_SOURCES[source]
            ]
        best: list[tuple[int, int, int, bool]] = []
        for minute in sorted({minute for minute, _ in found}):
            candidates = [(s, v) for (m, s), v in found.items() if m == minute]
            s, v = min(candidates, key=lambda c: 9 if c[0] == Source.OWN and c[1].partial else c[0])
            best.append((minute, s, v.price, v.partial))
        return best


async def ask(db: Database, instrument: int, timeframe: int, **options: Any) -> list[tuple[int, int, int, bool]]:
    source, limit = options.get("bar_source", "best"), options.get("limit")
    span = options.pop("span", Span())
    copied = await read_bars(db.conn, instrument, timeframe, span, **options)
    found = finish_bars(decoded(copied), source, limit)
    assert (found["timeframe"] == timeframe).all()
    return [
        (
            (int(b["ts"]) - START) // (timeframe * SECOND),
            int(b["source"]),
            int(b["open"]),
            bool(b["flags"] & CandleFlag.PARTIAL),
        )
        for b in found
    ]


writes = st.lists(  # of one commit: (minute, source, price, partial)
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([1, 2, 3]), st.sampled_from([100, 200]), st.booleans()),
        min_size=1,
        max_size=4,
    ),
    min_size=1,
    max_size=7,
)
lanes = st.lists(st.booleans(), min_size=7, max_size=7)


@pytest.mark.parametrize("timeframe", [1, 60])
@_same_database
@given(writes, lanes, st.sampled_from(["best", *BAR_SOURCES]), st.integers(0, 4), st.integers(0, 4), st.integers(1, 4))
async def test_bars_as_known_at_any_moment_are_those_of_the_model(
    db: Database,
    timeframe: int,
    commits: list[list[tuple[int, int, int, bool]]],
    imported: list[bool],
    source: str,
    start: int,
    end: int,
    limit: int,
) -> None:
    """Live batches and imports in any order; the imports bear earlier moments, and numbers below the live lane's."""
    instrument, model = next(_ids), Model()
    live_seq, import_seq, moment = 1, -(2**62), 0
    seen: set[Key] = set()
    for rows, is_import in zip(commits, imported, strict=False):
        moment += 1
        known = KNOWN + (moment - (1_000 if is_import else 0)) * 1000
        batch = []
        for minute, own, price, partial in rows:
            seq = import_seq if is_import else live_seq
            flags = CandleFlag.PARTIAL * partial | (CandleFlag.REVISED if (minute, own) in seen else 0)
            batch.append(
                bars([minute], price, timeframe=timeframe, source=own, flags=int(flags), seq=seq, ts_known=known)
            )
            model.put(minute, own, Version(seq, known, price, partial))
            seen.add((minute, own))
            import_seq, live_seq = import_seq + is_import, live_seq + (not is_import)
        await db.put((CANDLES, np.concatenate(batch)), instrument=instrument)
        assert await ask(db, instrument, timeframe, bar_source=source) == model.bars(source, None)
    for back in (0, 1_000):
        for at in range(moment + 1):
            known_at = KNOWN + (at - back) * 1000
            expected = model.bars(source, known_at)
            assert await ask(db, instrument, timeframe, bar_source=source, known_at=known_at) == expected
            assert (
                await ask(db, instrument, timeframe, bar_source=source, known_at=known_at, limit=limit)
                == expected[-limit:]
            )
    delta = timeframe * SECOND
    span = Span(START + start * delta, START + end * delta)
    within = [bar for bar in model.bars(source, None) if start <= bar[0] < end]
    assert await ask(db, instrument, timeframe, bar_source=source, span=span) == within


async def test_a_source_that_is_unknown_is_refused_by_name(db: Database) -> None:
    with pytest.raises(InvalidArgument, match="bar_source"):
        await read_bars(db.conn, BTC.id, 60, Span(), bar_source="mine")


async def test_timeframes_do_not_mix(db: Database) -> None:
    await db.put((CANDLES, bars([0, 1], 7, timeframe=60, seq=1)), (CANDLES, bars([0], 9, timeframe=300, seq=3)))
    assert [price for _, _, price, _ in await ask(db, BTC.id, 60)] == [7, 7]
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
