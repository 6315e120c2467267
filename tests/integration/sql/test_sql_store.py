"""The writer's transactions on a real database: all of it with its offset or nothing, each record once."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from journaled import KNOWN, Journaled, count, drained, stamped, stored
from lane import BTC, CANDLES, FUNDING, KINDS, MS, SECOND, START, bars, frame_of, make_kernel, observed, rates, trades
from marketd.daemon.journal_rows import commit_of
from marketd.daemon.kernel import TRADE_KIND, coverage_record
from marketd.ipc.journal_errors import JournalMismatch
from marketd.ipc.journal_reader import JournalReader
from marketd.market.records import BY_NAME, CandleFlag, Coverage, Records
from marketd.market.times import ABSENT
from marketd.sql.connections import DatabaseConnectionManager, type_connection
from marketd.sql.partitions import PartitionKeeper
from marketd.sql.profiles import detect_profile
from marketd.sql.series import ensure_series_table
from marketd.sql.store import Commit, StoredQuarantine, commit, read_committed, split_rows

NO_ROWS: Any = ([], None, [], [])
_ids = itertools.count(1000)
_same_database = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
async def partitions(conn: type_connection) -> PartitionKeeper:
    await ensure_series_table(conn, "funding", dict(FUNDING.fields))
    return PartitionKeeper(await detect_profile(conn))


def table_rows(kind: Any, records: Records, instrument: int = BTC.id) -> Any:
    return split_rows(kind, np.full(len(records), instrument, dtype=np.int32), records)


class Lane:
    """Commits one batch after another under the offsets of a journal."""

    def __init__(self, conn: type_connection, partitions: PartitionKeeper) -> None:
        self.conn, self.partitions = conn, partitions
        self.journal, self.offset = uuid4(), 0

    async def commit(self, *parts: tuple[Any, Records], instrument: int = BTC.id) -> None:
        rows = [each for kind, records in parts for each in table_rows(kind, records, instrument)]
        work = Commit(self.journal, "live", self.offset + 8, KNOWN, rows, None, [], [], self.offset)
        assert await commit(self.conn, work, self.partitions) == self.offset + 8
        self.offset += 8


# ---- one transaction --------------------------------------------------------------------------------


async def test_rows_and_offset_are_committed_together(conn: type_connection, partitions: PartitionKeeper) -> None:
    journal = uuid4()
    records = stamped(trades([(0, 1, 100, 5), (1, 2, 101, 6)]), 1)
    work = Commit(journal, "live", 640, KNOWN, table_rows(TRADE_KIND, records), None, [], [], 0)
    assert await read_committed(conn, journal) is None
    assert await commit(conn, work, partitions) == 640
    assert await read_committed(conn, journal) == 640
    assert (await stored(conn, "trades", TRADE_KIND)).tobytes() == records.tobytes()


async def test_a_transaction_that_fails_in_its_last_statement_leaves_neither_rows_nor_offset(
    conn: type_connection, partitions: PartitionKeeper
) -> None:
    journal = uuid4()
    good = table_rows(TRADE_KIND, stamped(trades([(0, 1, 100, 5)]), 1))
    await conn.execute("ALTER TABLE candles ADD CONSTRAINT no_bar CHECK (open < 1000)")
    bad = table_rows(CANDLES, stamped(bars([0], price=5000), 2))
    quarantine = [StoredQuarantine(BTC.id, KNOWN, 0, 0, "trade", "side", "", "me", b"")]
    event = (np.array([BTC.id], dtype=np.int32), stamped(observed(), 3))
    work = Commit(journal, "live", 640, KNOWN, [*good, *bad], BTC.to_record(), [event], quarantine, 0)
    with pytest.raises(asyncpg.CheckViolationError):
        await commit(conn, work, partitions)
    assert await read_committed(conn, journal) is None
    for table in ("trades", "candles", "instruments", "coverage", "quarantine"):
        assert await count(conn, table) == 0, table
    await conn.execute("ALTER TABLE candles DROP CONSTRAINT no_bar")
    assert await commit(conn, work, partitions) == 640


async def test_the_same_frames_again_write_nothing_and_tell_the_databases_offset(
    conn: type_connection, partitions: PartitionKeeper
) -> None:
    event = (np.array([BTC.id], dtype=np.int32), stamped(observed(), 1))
    work = Commit(uuid4(), "live", 640, KNOWN, [], None, [event], [], 0)
    assert await commit(conn, work, partitions) == 640
    assert await commit(conn, work, partitions) == 640
    assert await count(conn, "coverage") == 1


async def test_frames_that_overlap_what_a_killed_writer_committed_after_all_write_nothing(
    conn: type_connection, partitions: PartitionKeeper
) -> None:
    journal = uuid4()
    event = (np.array([BTC.id], dtype=np.int32), stamped(observed(), 1))
    assert await commit(conn, Commit(journal, "live", 640, KNOWN, [], None, [event], [], 0), partitions) == 640
    longer = Commit(journal, "live", 1280, KNOWN, [], None, [event, event], [], 0)
    assert await commit(conn, longer, partitions) == 640
    assert (await read_committed(conn, journal), await count(conn, "coverage")) == (640, 1)


async def test_of_two_writers_of_one_stretch_the_second_waits_and_writes_nothing(
    connections: DatabaseConnectionManager, partitions: PartitionKeeper
) -> None:
    """The first was killed while the server was still at its transaction."""
    event = (np.array([BTC.id], dtype=np.int32), stamped(observed(), 1))
    work = Commit(uuid4(), "live", 640, KNOWN, [], None, [event], [], 0)
    async with connections.acquire() as first, connections.acquire() as second:
        transaction = first.transaction()
        await transaction.start()
        await commit(first, work, partitions)
        await second.execute("SET lock_timeout = '100ms'")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await commit(second, work, partitions)
        await transaction.commit()
        assert await commit(second, work, partitions) == 640
        assert await count(second, "coverage") == 1


async def test_two_lanes_that_merge_the_same_trade_at_a_time_store_it_once(
    connections: DatabaseConnectionManager, partitions: PartitionKeeper
) -> None:
    """The second lane has a trade that is there, so it merges; and one that the first has not committed yet."""
    async with connections.acquire() as first, connections.acquire() as second, connections.acquire() as judge:
        await Lane(first, partitions).commit((TRADE_KIND, stamped(trades([(0, 1, 100, 5)]), 1)))
        await partitions.ensure(second, "trades", START, START + SECOND)
        pid = await second.fetchval("SELECT pg_backend_pid()")
        transaction = first.transaction()
        await transaction.start()
        await Lane(first, partitions).commit((TRADE_KIND, stamped(trades([(1, 2, 100, 5)]), 2)))
        both = stamped(trades([(0, 1, 100, 5), (1, 2, 100, 5), (2, 3, 100, 5)]), 3)
        merging = asyncio.create_task(Lane(second, partitions).commit((TRADE_KIND, both)), name="the other lane")
        async with asyncio.timeout(30):
            waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = $1"
            while not await judge.fetchval(waits, pid):  # noqa: ASYNC110 - no event tells what a server waits for
                await asyncio.sleep(0.01)
        await transaction.commit()
        await merging
        assert (await stored(judge, "trades", TRADE_KIND))["seq"].tolist() == [1, 2, 5]


async def test_the_moment_up_to_which_all_is_stored_never_goes_back(
    conn: type_connection, partitions: PartitionKeeper
) -> None:
    journal = uuid4()
    await commit(conn, Commit(journal, "live", 8, KNOWN, *NO_ROWS, 0), partitions)
    await commit(conn, Commit(journal, "live", 16, 0, *NO_ROWS, 8), partitions)  # nothing but a checkpoint
    known = await conn.fetchval("SELECT ts_known FROM journal_commits WHERE journal = $1", journal)
    assert round(known.timestamp()) * SECOND == KNOWN


# ---- trades and series ------------------------------------------------------------------------------


async def test_a_trade_that_is_there_stays_as_it_was_first_known(
    conn: type_connection, partitions: PartitionKeeper
) -> None:
    lane = Lane(conn, partitions)
    first = stamped(trades([(0, 1, 100, 5), (1, 2, 100, 5)]), 1)
    await lane.commit((TRADE_KIND, first))
    again = stamped(trades([(1, 2, 999, 9), (2, 3, 100, 5), (2, 3, 888, 5), (0, 1, 999, 9)]), 10, KNOWN + 5000)
    await lane.commit((TRADE_KIND, again))
    assert (await stored(conn, "trades", TRADE_KIND)).tobytes() == np.concatenate([first, again[1:2]]).tobytes()


async def test_one_batch_with_a_trade_twice_keeps_the_first(conn: type_connection, partitions: PartitionKeeper) -> None:
    records = stamped(trades([(0, 7, 1, 1), (0, 7, 2, 1), (1, 8, 3, 1)]), 1)
    await Lane(conn, partitions).commit((TRADE_KIND, records))
    assert (await stored(conn, "trades", TRADE_KIND))["price"].tolist() == [1, 3]


async def test_the_same_id_of_another_instrument_is_another_trade(
    conn: type_connection, partitions: PartitionKeeper
) -> None:
    lane = Lane(conn, partitions)
    for instrument in (BTC.id, BTC.id + 1):
        await lane.commit((TRADE_KIND, stamped(trades([(0, 1, 100, 5)]), 1)), instrument=instrument)
    assert await count(conn, "trades") == 2


async def test_a_series_whose_fields_bear_words_of_sql_or_of_time_comes_back_bit_for_bit(
    conn: type_connection, partitions: PartitionKeeper
) -> None:
    records = stamped(rates([(0, 0.5), (1, float("nan"))]), 1)
    records["order"], records["ts_next"] = [ABSENT, 1], [1_234_567_891, ABSENT]
    await Lane(conn, partitions).commit((FUNDING, records))
    assert (await stored(conn, "series_funding", FUNDING)).tobytes() == records.tobytes()


async def test_a_series_record_that_is_there_is_not_stored_twice(
    conn: type_connection, partitions: PartitionKeeper
) -> None:
    lane = Lane(conn, partitions)
    await lane.commit((FUNDING, stamped(rates([(0, 0.5), (1, 0.6)]), 1)))
    await lane.commit((FUNDING, stamped(rates([(1, 0.6), (2, 0.7), (2, 0.8)]), 2)))
    found = await stored(conn, "series_funding", FUNDING)
    assert found["rate"].tolist() == [0.5, 0.6, 0.7, 0.8]


# ---- bars -------------------------------------------------------------------------------------------

BAR_TABLES = pytest.mark.parametrize(("table", "timeframe"), [("candles_1s", 1), ("candles", 60)])
REVISED = int(CandleFlag.REVISED)


def bar(price: int, seq: int, timeframe: int, *, flags: int = REVISED, known: int | None = None) -> Records:
    return bars(
        [3], price, timeframe=timeframe, flags=flags, seq=seq, ts_known=KNOWN + seq * 1000 if known is None else known
    )


async def versions(conn: type_connection, table: str) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(seq, open) of what the table has, and of what is kept besides."""
    kept = await conn.fetch("SELECT seq, open FROM candle_versions ORDER BY seq")
    return [(r["seq"], r["open"]) for r in await conn.fetch(f"SELECT seq, open FROM {table} ORDER BY seq")], [
        (r["seq"], r["open"]) for r in kept
    ]


@BAR_TABLES
async def test_a_new_version_takes_the_bars_place_and_the_old_one_is_kept(
    conn: type_connection, partitions: PartitionKeeper, table: str, timeframe: int
) -> None:
    lane = Lane(conn, partitions)
    await lane.commit((CANDLES, bar(100, 1, timeframe, flags=0)))
    await lane.commit((CANDLES, bar(200, 5, timeframe)))
    await lane.commit((CANDLES, bar(300, 7, timeframe)))
    assert await versions(conn, table) == ([(7, 300)], [(1, 100), (5, 200)])
    assert await conn.fetchval("SELECT timeframe FROM candle_versions LIMIT 1") == timeframe


@BAR_TABLES
async def test_a_bar_that_comes_again_unchanged_does_nothing(
    conn: type_connection, partitions: PartitionKeeper, table: str, timeframe: int
) -> None:
    lane = Lane(conn, partitions)
    await lane.commit((CANDLES, bar(100, 1, timeframe, flags=0)))
    await lane.commit((CANDLES, bar(100, 2, timeframe)))
    assert await versions(conn, table) == ([(1, 100)], [])


@BAR_TABLES
async def test_a_bar_that_is_full_now_is_a_new_version_of_the_partial_one(
    conn: type_connection, partitions: PartitionKeeper, table: str, timeframe: int
) -> None:
    lane = Lane(conn, partitions)
    await lane.commit((CANDLES, bar(100, 1, timeframe, flags=int(CandleFlag.PARTIAL))))
    await lane.commit((CANDLES, bar(100, 2, timeframe)))
    assert await versions(conn, table) == ([(2, 100)], [(1, 100)])


@BAR_TABLES
async def test_an_older_version_never_takes_the_place_of_a_newer_one(
    conn: type_connection, partitions: PartitionKeeper, table: str, timeframe: int
) -> None:
    lane = Lane(conn, partitions)
    await lane.commit((CANDLES, bar(300, 5, timeframe, flags=0)))
    await lane.commit((CANDLES, bar(200, -9, timeframe, flags=0)))  # an import
    assert await versions(conn, table) == ([(5, 300)], [(-9, 200)])


@BAR_TABLES
async def test_a_batch_with_several_versions_keeps_them_all_the_newest_in_the_table(
    conn: type_connection, partitions: PartitionKeeper, table: str, timeframe: int
) -> None:
    lane = Lane(conn, partitions)
    await lane.commit((CANDLES, np.concatenate([bar(100, 1, timeframe, flags=0), bar(200, 2, timeframe)])))
    assert await versions(conn, table) == ([(2, 200)], [(1, 100)])
    several = [bar(300, 3, timeframe), bar(300, 4, timeframe), bar(400, 5, timeframe), bar(200, 6, timeframe)]
    await lane.commit((CANDLES, np.concatenate(several)))
    assert await versions(conn, table) == ([(6, 200)], [(1, 100), (2, 200), (3, 300), (5, 400)])


@BAR_TABLES
async def test_a_bar_that_turns_back_to_its_former_numbers_within_a_batch_does_so(
    conn: type_connection, partitions: PartitionKeeper, table: str, timeframe: int
) -> None:
    lane = Lane(conn, partitions)
    await lane.commit((CANDLES, bar(100, 1, timeframe, flags=0)))
    await lane.commit((CANDLES, np.concatenate([bar(200, 2, timeframe), bar(100, 3, timeframe)])))
    assert await versions(conn, table) == ([(3, 100)], [(1, 100), (2, 200)])


async def test_sources_and_instruments_do_not_replace_each_other(
    conn: type_connection, partitions: PartitionKeeper
) -> None:
    lane = Lane(conn, partitions)
    for seq, source in enumerate((1, 2, 3), 1):
        await lane.commit((CANDLES, bars([0], seq * 10, source=source, flags=REVISED, seq=seq)))
    await lane.commit((CANDLES, bars([0], 99, source=1, flags=REVISED, seq=1)), instrument=BTC.id + 1)
    assert len((await versions(conn, "candles"))[0]) == 4
    assert await count(conn, "candle_versions") == 0


async def test_two_stretches_of_one_table_in_a_transaction_do_not_mix(
    conn: type_connection, partitions: PartitionKeeper
) -> None:
    lane = Lane(conn, partitions)
    await lane.commit((CANDLES, bars([0], 1, seq=1)), (CANDLES, bars([400_000], 2, seq=2)))
    await lane.commit(
        (CANDLES, bars([0], 3, seq=3, flags=REVISED)), (CANDLES, bars([400_000], 4, seq=4, flags=REVISED))
    )
    assert await versions(conn, "candles") == ([(3, 3), (4, 4)], [(1, 1), (2, 2)])


# ---- descriptions -----------------------------------------------------------------------------------


async def test_an_instruments_newest_record_counts_and_its_scales_never_change(
    conn: type_connection, partitions: PartitionKeeper
) -> None:
    journal, offset = uuid4(), 0
    for seq, tick, scale in ((5, 1, 2), (3, 9, 2), (8, 7, 4)):
        record = msgspec.structs.replace(BTC, tick_size=tick, price_scale=scale).to_record()
        record["seq"], record["ts_known"] = seq, KNOWN
        await commit(conn, Commit(journal, "live", offset + 8, KNOWN, [], record, [], [], offset), partitions)
        offset += 8
    row = await conn.fetchrow("SELECT * FROM instruments")
    assert row is not None
    assert (row["tick_size"], row["seq"], row["price_scale"], row["symbol"]) == (7, 8, 2, "BTCUSDT")


async def test_an_event_that_has_not_ended_is_stored_as_such(
    conn: type_connection, partitions: PartitionKeeper
) -> None:
    event = coverage_record(Coverage.GAP, START, ABSENT, stream=1, detail=ABSENT, reason="x" * 40)
    work = Commit(uuid4(), "live", 8, KNOWN, [], None, [(np.array([7], np.int32), stamped(event, 1))], [], 0)
    await commit(conn, work, partitions)
    row = await conn.fetchrow("SELECT ts_end = 'infinity' AS open, detail, reason FROM coverage")
    assert row is not None
    assert (row["open"], row["detail"], row["reason"]) == (True, ABSENT, "x" * 40)


async def test_whatever_words_a_sender_used_its_refused_record_is_stored_once(
    conn: type_connection, partitions: PartitionKeeper
) -> None:
    hostile = StoredQuarantine(BTC.id, KNOWN, 64, 3, "tr\0ade", "ru\0le", "de\0tail", "so\0urce", b"\0\xff")
    work = Commit(uuid4(), "live", 8, KNOWN, [], None, [], [hostile, hostile], 0)
    await commit(conn, work, partitions)
    row = await conn.fetchrow("SELECT * FROM quarantine")
    assert row is not None
    assert (row["kind"], row["rule"], row["payload"]) == ("tr\ufffdade", "ru\ufffdle", b"\0\xff")
    assert (row["offset"], row["item"], await count(conn, "quarantine")) == (64, 3, 1)


# ---- against a model --------------------------------------------------------------------------------

lot_parts = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 12), st.sampled_from([100, 200]), st.booleans()), min_size=1, max_size=5
)


@_same_database
@given(st.lists(lot_parts, min_size=1, max_size=8), st.data())
async def test_any_cut_of_a_journal_into_transactions_stores_the_same_rows(
    conn: type_connection, partitions: PartitionKeeper, batches: list[list[tuple[int, int, int, bool]]], data: Any
) -> None:
    """The same frames committed one by one, and in transactions of any length: equal tables."""
    found = []
    for whole in (False, True):
        instrument = msgspec.structs.replace(BTC, id=next(_ids))
        kernel, frames, journal = make_kernel(), [], uuid4()
        for number, rows in enumerate(batches):
            parts: Any = [
                (TRADE_KIND, trades([(ms * 700, trade_id, price, 1) for ms, trade_id, price, _ in rows])),
                (CANDLES, bars([ms for ms, *_ in rows], rows[0][2])),
            ]
            lot = kernel.accept(instrument, parts, KNOWN + number * 1000, source="me")
            frames.append(frame_of(lot, frames[-1].end if frames else 0))
        at = 0
        while at < len(frames):
            size = data.draw(st.integers(1, len(frames) - at)) if whole else 1
            work = commit_of(frames[at : at + size], KINDS, journal, "live")
            assert await commit(conn, work, partitions) == work.offset
            at += size
        tables = ("trades", TRADE_KIND), ("candles", CANDLES), ("candles_1s", CANDLES), ("candle_versions", CANDLES)
        found.append([(await stored(conn, table, kind, instrument.id)).tobytes() for table, kind in tables])
    assert found[0] == found[1]


# ---- the writer -------------------------------------------------------------------------------------


@pytest.fixture
async def journaled(tmp_path: Path, partitions: PartitionKeeper) -> AsyncIterator[Journaled]:
    journaled = Journaled(tmp_path / "journal")
    yield journaled
    journaled.close()


async def assert_stored(conn: type_connection, ids: Sequence[int], ledger: int) -> None:
    assert (await stored(conn, "trades", TRADE_KIND))["trade_id"].tolist() == list(ids)
    assert await count(conn, "coverage") == ledger


async def test_the_writer_stores_what_is_durable_and_says_so(
    connections: DatabaseConnectionManager, conn: type_connection, journaled: Journaled
) -> None:
    first = journaled.take(0)
    second = journaled.take(3)
    writer = await drained(journaled, connections, first)
    await assert_stored(conn, range(3), 1)
    writer.on_durable(second)
    writer.on_durable(first)  # late news is no step back
    await writer.drain()
    await assert_stored(conn, range(6), 2)
    assert journaled.told == [first, second]
    assert writer.statistics().lag_bytes == 0
    assert writer.statistics().transactions == 2


async def test_a_writer_whose_predecessors_transaction_came_through_after_all_goes_on_behind_it(
    connections: DatabaseConnectionManager, conn: type_connection, journaled: Journaled
) -> None:
    first = journaled.take(0)
    second = journaled.take(3)
    writer = journaled.writer(connections)
    assert await writer.start() == 0
    await drained(journaled, connections, first)  # the other one
    writer.on_durable(second)
    await writer.drain()
    await assert_stored(conn, range(6), 2)
    assert writer.offset == second


async def test_small_batches_store_the_same_and_bars_in_all_their_versions(
    connections: DatabaseConnectionManager, conn: type_connection, journaled: Journaled
) -> None:
    for first in range(0, 30, 3):
        end = journaled.take(first)
    writer = await drained(journaled, connections, end, batch_bytes=1)
    assert writer.statistics().transactions > 8
    await assert_stored(conn, range(30), 10)
    assert len(await stored(conn, "candles", CANDLES)) == 5
    kept = await conn.fetchval("SELECT count(*) FROM candle_versions WHERE source = 2")
    assert kept == 5


async def test_a_late_trade_of_1970_beside_one_of_today_is_stored(
    connections: DatabaseConnectionManager, conn: type_connection, journaled: Journaled
) -> None:
    records = trades([(0, 1, 100, 1), (1, 2, 100, 1)])
    records["ts_event"][0] = 5 * MS
    lot = journaled.kernel.accept(BTC, [(TRADE_KIND, records)], KNOWN, source="me")
    end = journaled.journal.append(BTC.id, lot.seq, lot.ts_known, lot.body)
    assert journaled.journal.wait_durable(end, 10)
    await drained(journaled, connections, end)
    assert await count(conn, "trades") == 2


async def test_an_unknown_journal_whose_beginning_is_gone_is_refused_with_the_way_out(
    connections: DatabaseConnectionManager, journaled: Journaled, monkeypatch: pytest.MonkeyPatch
) -> None:
    journaled.take(0)
    monkeypatch.setattr(JournalReader, "oldest", property(lambda _: 64))
    with pytest.raises(JournalMismatch, match="marketd journal list"):
        await journaled.writer(connections).start()


async def test_a_journal_that_is_an_older_copy_of_itself_is_refused_and_not_waited_for(
    connections: DatabaseConnectionManager, conn: type_connection, journaled: Journaled, partitions: PartitionKeeper
) -> None:
    end = journaled.take(0)
    journal = UUID(bytes=journaled.journal.uuid)
    await commit(conn, Commit(journal, "live", 1 << 40, KNOWN, *NO_ROWS, 0), partitions)
    writer = journaled.writer(connections)
    await writer.start()
    writer.on_durable(end)
    with pytest.raises(JournalMismatch, match="copy of an earlier time"):
        await writer.drain()
    with pytest.raises(JournalMismatch, match="copy of an earlier time"):
        await writer.run()


def test_the_kinds_that_have_tables_are_those_that_are_written() -> None:
    assert {kind.table for kind in BY_NAME.values() if kind.table} == {
        "trades",
        "candles",
        "book_snapshots",
        "book_deltas",
        "book_venues",
        "imbalances",
        "book_buckets",
        "activity_bars",
        "instruments",
        "coverage",
        "quarantine",
    }
