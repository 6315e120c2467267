"""The query service over a real database and a real arena: every record once, wherever it lies at the moment."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from desk import CONFIG, Desk, by_time, decoded, fresh_desk, same, take_some
from lane import BTC, CANDLES, FUNDING, KINDS, MS, SECOND, START, bars, make_kernel, observed, trades
from marketd.daemon.kernel import COVERAGE_KIND, KEPT_BARS, TICK_KIND, TRADE_KIND, Lot, coverage_record, tick_record
from marketd.daemon.query import QueryService
from marketd.ipc.protocol import Bars, Describe, Rows
from marketd.market.bars import finish_bars
from marketd.market.errors import InvalidArgument, NotYetStored, UnknownInstrument, UnknownStream
from marketd.market.records import Coverage, Records, Source
from marketd.market.times import ABSENT
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.profiles import Profile
from marketd.sql.series import ensure_series_table
from small_daemon import expected_ring

# what differs between the profiles is below the statements, which test_sql_read.py tries on both
pytestmark = pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)


async def test_an_answer_says_what_the_ledger_knows_of_its_stretch(desk: Desk) -> None:
    desk.daemon.take((COVERAGE_KIND, observed()), (TRADE_KIND, trades([(0, 1, 100, 1), (2000, 2, 100, 1)])))
    gap = coverage_record(Coverage.GAP, START + SECOND, START + 2 * SECOND, stream=TRADE_KIND.id)
    desk.daemon.take((COVERAGE_KIND, gap), (TRADE_KIND, trades([(3000, 3, 100, 1)])))
    for committed in (0, 1, 2):
        if committed:
            await desk.commit(committed)
        answer, _ = await desk.ask(Rows(symbol=BTC.name, stream="trade"))
        assert (answer.meta.coverage, answer.meta.gaps) == ("gap", [(START + SECOND, START + 2 * SECOND)])
        answer, _ = await desk.ask(Rows(symbol=BTC.name, stream="trade", start=START, end=START + SECOND))
        assert (answer.meta.coverage, answer.meta.gaps) == ("observed", [])
        answer, _ = await desk.ask(Bars(symbol=BTC.name, timeframes=[1], start=START - SECOND, end=START + SECOND))
        assert (answer.meta.coverage, answer.meta.gaps) == ("unobserved", [(START - SECOND, START)])
    answer, _ = await desk.ask(Rows(symbol=BTC.name, stream="funding"))
    assert answer.meta.coverage is None, "the ledger does not speak of declared series"


@pytest.fixture
async def database(database: str) -> AsyncIterator[DatabaseConnectionManager]:
    async with DatabaseConnectionManager(database, actor="query-test") as manager:
        async with manager.acquire() as conn:
            await ensure_series_table(conn, "funding", dict(FUNDING.fields))
        yield manager


@pytest.fixture
async def desk(database: DatabaseConnectionManager, tmp_path: Path, runtime_dir: Path) -> AsyncIterator[Desk]:
    desk = await fresh_desk(database, tmp_path, runtime_dir)
    yield desk
    desk.close()


# ---- where records lie ------------------------------------------------------------------------------


@pytest.mark.parametrize("committed", [0, 2, 4])
async def test_each_record_comes_once_wherever_it_lies(desk: Desk, committed: int) -> None:
    for first in range(0, 12, 3):
        take_some(desk, first)
    if committed:
        await desk.commit(committed)
    for stream in ("trade", "funding", "coverage"):
        assert same(await desk.rows(stream), by_time(expected_ring(desk.daemon.lots, stream))), stream
    for source in ("own", "venue"):
        found = finish_bars(await desk.bars(bar_source=source), source, None)
        assert same(found, expected_ring(desk.daemon.lots, f"candle.1m.{source}"))
    assert len(await desk.bars(bar_source="import")) == 0


async def test_an_answer_says_where_it_comes_from_and_up_to_when_it_is_complete(desk: Desk) -> None:
    request = Rows(symbol=BTC.name, stream="trade")
    first, second = take_some(desk, 0), take_some(desk, 3)
    await desk.commit(1)
    desk.daemon.publisher.heartbeat(desk.daemon.journal.durable, 0)
    answer, _ = await desk.ask(request)
    meta = answer.meta
    assert (meta.served_from, meta.watermark) == ("database+arena", second.ts_known)
    assert (meta.committed_offset, meta.durable) == (desk.daemon.lots[0][1], True)
    assert meta.stale_ns is not None
    old, _ = await desk.ask(msgspec.structs.replace(request, known_at=first.ts_known))
    assert (old.meta.served_from, old.meta.watermark) == ("database", first.ts_known)
    await desk.commit(2)
    answer, _ = await desk.ask(request)
    assert (answer.meta.served_from, answer.meta.watermark) == ("database", second.ts_known)


async def test_the_journal_of_another_daemon_in_the_same_database_changes_no_answer(desk: Desk) -> None:
    """It was committed a moment ago, and far beyond ours."""
    take_some(desk, 0)
    last = take_some(desk, 3)
    await desk.commit(1)
    async with desk.database.acquire() as conn:
        await conn.execute(
            "INSERT INTO journal_commits VALUES (gen_random_uuid(), 'live', 10^12, now(), now() + interval '9 years')"
        )
    answer, frames = await desk.ask(Rows(symbol=BTC.name, stream="trade"))
    assert decoded(answer.parts[0], frames[0])["trade_id"].tolist() == [1, 2, 3, 4, 5, 6]
    assert answer.meta.watermark == last.ts_known
    assert answer.meta.committed_offset == desk.daemon.lots[0][1]
    shutil.rmtree(desk.daemon.runtime / "arena")
    answer, _ = await desk.ask(Rows(symbol=BTC.name, stream="trade"))
    assert answer.meta.committed_offset == desk.daemon.lots[0][1]


async def test_what_is_in_no_journal_is_not_called_durable(desk: Desk) -> None:
    take_some(desk, 0)
    await desk.commit(1)
    desk.daemon.take((TRADE_KIND, trades([(1, 99, 100, 1)])), journal=False)
    answer, _ = await desk.ask(Rows(symbol=BTC.name, stream="trade"))
    assert answer.meta.durable is False


async def test_a_piece_that_was_dropped_under_a_running_writer_is_made_anew(desk: Desk) -> None:
    """By an operator, or by another daemon's retention."""
    take_some(desk, 0)
    take_some(desk, 3)
    async with desk.writer() as writer:
        writer.on_durable(desk.daemon.lots[0][1])
        await writer.drain()
        async with desk.database.acquire() as conn:
            for table in await conn.fetch(
                "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'marketd.trades'::regclass"
            ):
                await conn.execute(f"DROP TABLE {table['name']}")
        writer.on_durable(desk.daemon.lots[1][1])
        await writer.drain()
    assert (await desk.rows(known_at=desk.daemon.lots[1][0].ts_known))["trade_id"].tolist() == [4, 5, 6]


async def test_without_shared_memory_the_database_answers_alone(desk: Desk) -> None:
    take_some(desk, 0)
    take_some(desk, 3)
    await desk.commit(1)
    shutil.rmtree(desk.daemon.runtime / "arena")
    answer, frames = await desk.ask(Rows(symbol=BTC.name, stream="trade"))
    assert len(decoded(answer.parts[0], frames[0])) == 3
    assert (answer.meta.served_from, answer.meta.stale_ns, answer.meta.durable) == ("database", None, None)


async def test_an_arena_that_took_the_name_of_a_removed_one_is_found_once_the_old_is_silent(desk: Desk) -> None:
    take_some(desk, 0)
    assert len(await desk.rows()) == 3
    desk.daemon.publisher.board(BTC).arena.heartbeat(0, 0, 0, 0)
    desk.daemon.reboot()
    for board in desk.daemon.publisher.new_boards:
        board.publish_as_is(desk.daemon.journal.end)
    desk.daemon.take((TRADE_KIND, trades([(180_000, 99, 100, 1)])))
    assert (await desk.rows())["trade_id"].tolist() == [99]


async def test_a_finer_precision_is_what_the_name_means_and_a_moment_before_it_is_asked_of_the_older_id(
    desk: Desk,
) -> None:
    daemon = desk.daemon
    before = daemon.take((TRADE_KIND, trades([(0, 1, 100, 1), (2000, 2, 100, 1)])))
    assert (await desk.rows())["trade_id"].tolist() == [1, 2]
    finer = daemon.declare(msgspec.structs.replace(BTC, id=0, price_scale=BTC.price_scale + 2))
    daemon.registry.mark_live(BTC.id, START)
    daemon.registry.mark_live(finer.id, daemon.known)
    daemon.serve()
    after = daemon.take((TRADE_KIND, trades([(4000, 3, 10_000, 1), (6000, 4, 10_000, 1)])), instrument=finer)
    for committed in (0, 2):
        if committed:
            await desk.commit(committed)
            desk.service = desk.serve()  # it has seen no other list
        answer, frames = await desk.ask(Rows(symbol=BTC.symbol, stream="trade"))
        assert (answer.instrument, decoded(answer.parts[0], frames[0])["trade_id"].tolist()) == (finer, [3, 4])
        answer, _ = await desk.ask(Bars(symbol=BTC.name, timeframes=[1], known_at=after.ts_known))
        assert answer.instrument == finer
    answer, frames = await desk.ask(Rows(symbol=BTC.name, stream="trade", known_at=before.ts_known))
    assert (answer.instrument.id, answer.instrument.price_scale) == (BTC.id, BTC.price_scale)
    assert decoded(answer.parts[0], frames[0])["trade_id"].tolist() == [1, 2]
    described, _ = await desk.ask(Describe())
    ids = {each.id: each.removed for each in described.instruments if each.name == BTC.name}
    assert ids == {BTC.id: True, finer.id: False}


async def test_a_ring_that_dropped_what_the_database_has_not_lowers_the_watermark(desk: Desk) -> None:
    first = take_some(desk, 0)
    await desk.commit(1)
    for number in range(150):  # the ring has room for 400 trades
        desk.daemon.take((TRADE_KIND, trades([(200_000 + n, number * 3 + n + 10, 100, 1) for n in range(3)])))
    answer, _ = await desk.ask(Rows(symbol=BTC.name, stream="trade"))
    assert answer.meta.watermark == first.ts_known
    await desk.commit(151)
    answer, _ = await desk.ask(Rows(symbol=BTC.name, stream="trade"))
    assert answer.meta.watermark == desk.daemon.lots[-1][0].ts_known


# ---- against a model --------------------------------------------------------------------------------

ms = st.integers(0, 300_000)
part = st.one_of(
    st.lists(st.tuples(ms, st.integers(1, 40), st.integers(90, 110), st.integers(1, 9)), min_size=1, max_size=4).map(
        lambda rows: (TRADE_KIND, trades(rows))
    ),
    st.lists(st.integers(0, 3), min_size=1, max_size=3).map(lambda minutes: (CANDLES, bars(minutes))),
    ms.map(lambda at: (TICK_KIND, tick_record(START + at * MS))),
)
examples = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
limits = st.one_of(st.none(), st.integers(1, 5))


def known(lots: list[tuple[Lot, int]], known_at: int | None) -> list[tuple[Lot, int]]:
    return [(lot, end) for lot, end in lots if known_at is None or lot.ts_known <= known_at]


def model_bars(lots: list[tuple[Lot, int]], source: str, start: int, end: int, limit: int | None) -> Records:
    found = np.concatenate([expected_ring(lots, f"candle.1m.{each}") for each in ("own", "venue")])
    if source != "best":
        found = found[found["source"] == {"own": Source.OWN, "venue": Source.VENUE}[source]]
    return finish_bars(found[(found["ts"] >= start) & (found["ts"] < end)], source, limit)


@examples
@given(
    st.lists(st.lists(part, min_size=1, max_size=3), min_size=1, max_size=6),
    st.integers(0, 6),
    st.tuples(ms, ms).map(sorted),
    limits,
    st.booleans(),
    st.sampled_from(["best", "own", "venue"]),
)
async def test_whatever_is_committed_the_answer_is_that_of_the_lots(
    database: DatabaseConnectionManager,
    tmp_path: Path,
    runtime_dir: Path,
    batches: list[list[Any]],
    committed: int,
    span: list[int],
    limit: int | None,
    newest: bool,
    source: Any,
) -> None:
    desk = await fresh_desk(database, tmp_path, runtime_dir)
    with closing(desk), pytest.MonkeyPatch.context() as patch:
        patch.setattr("marketd.daemon.query.PATIENT_SHARE", 0.0)  # nobody commits meanwhile
        for batch in batches:
            desk.daemon.take(*batch)
        lots = desk.daemon.lots
        if committed:
            await desk.commit(min(committed, len(lots)))
        start, end = (START + at * MS for at in span)
        for known_at in (None, *(lot.ts_known for lot, _ in lots)):
            options: Any = {"start": start, "end": end, "limit": limit, "known_at": known_at}
            ring = by_time(expected_ring(known(lots, known_at), "trade"))
            ring = ring[(ring["ts_event"] >= start) & (ring["ts_event"] < end)]
            if limit is not None:
                ring = ring[-limit:] if newest else ring[:limit]
            assert same(await desk.rows(newest=newest, **options), ring)
            try:
                found = await desk.bars(bar_source=source, **options)
            except NotYetStored:
                assert known_at is not None
                continue
            expected = model_bars(known(lots, known_at), source, start, end, limit)
            # a version that said nothing new is none in the database
            for name in ("ts", "source", "open", "high", "low", "close", "volume", "trade_count"):
                assert found[name].tolist() == expected[name].tolist(), name


# ---- bars of timeframes that are not stored ---------------------------------------------------------


@examples
@example(batches=[[(120250, 90, 1)], [(60000, 90, 1), (180250, 90, 1)]], committed=0, span=[0, 0], limit=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, KEPT_BARS * 50_000), st.integers(90, 110), st.integers(1, 9)), max_size=6),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 6),
    st.tuples(st.integers(0, 900), st.integers(0, 900)).map(sorted),
    limits,
)
async def test_generated_bars_are_the_folds_own(
    database: DatabaseConnectionManager,
    tmp_path: Path,
    runtime_dir: Path,
    batches: list[list[tuple[int, int, int]]],
    committed: int,
    span: list[int],
    limit: int | None,
) -> None:
    desk = await fresh_desk(database, tmp_path, runtime_dir)
    reference = make_kernel((120,))
    offered = itertools.count(1)
    made: dict[int, Any] = {}
    with closing(desk):
        for batch in [[], *batches]:
            parts: Any = [(COVERAGE_KIND, observed(0))] if not batch else []
            parts += (
                [(TRADE_KIND, trades([(at, next(offered), price, size) for at, price, size in batch]))] if batch else []
            )
            desk.daemon.take(*parts)
            lot = reference.accept(BTC, parts, desk.daemon.known, source="me")
            made |= {int(bar["ts"]): bar for kind, records in lot.rows if kind is CANDLES for bar in records}
        # a bar from before the first trade that the fold knows is computed anew from stored trades, a little later
        assume(not any(lot.unknown for lot, _ in desk.daemon.lots))
        if committed:
            await desk.commit(min(committed, len(desk.daemon.lots)))
        start, end = (START + at * SECOND for at in span)
        for options in (
            {},
            {"start": start, "end": end},
            {"limit": limit},
            {"start": start, "end": end, "limit": limit},
        ):
            found = await desk.bars(120, bar_source="own", **options)
            expected = [made[ts] for ts in sorted(made) if not options.get("start") or start <= ts < end]
            expected = expected[-limit:] if options.get("limit") else expected
            for name in ("ts", "open", "high", "low", "close", "volume", "quote_volume", "buy_volume", "trade_count"):
                assert found[name].tolist() == [int(bar[name]) for bar in expected], (name, options)
            assert (found["timeframe"] == 120).all()


async def test_a_generated_bar_that_is_still_forming_is_not_shown(desk: Desk) -> None:
    desk.daemon.take((TRADE_KIND, trades([(60_000, 1, 100, 1), (120_000, 2, 100, 1), (185_000, 3, 100, 1)])))
    assert [int(b["ts"] - START) // SECOND for b in await desk.bars()] == [60, 120]
    assert [int(b["ts"] - START) // SECOND for b in await desk.bars(120)] == [60]
    await desk.commit(1)
    assert [int(b["ts"] - START) // SECOND for b in await desk.bars(120)] == [60]
    desk.daemon.take((TICK_KIND, tick_record(START + 300_250 * MS)))
    assert [int(b["ts"] - START) // SECOND for b in await desk.bars(120)] == [60, 180]


async def test_a_timeframe_that_no_stored_one_divides_is_refused_by_name(desk: Desk) -> None:
    service = QueryService(
        desk.database, msgspec.structs.replace(CONFIG, timeframes=("1m",)), KINDS, desk.daemon.runtime
    )
    with pytest.raises(InvalidArgument, match="no multiple of a stored one \\(1m\\)"):
        await service.answer(Bars(symbol=BTC.name, timeframes=[90]))


# ---- as known at t ----------------------------------------------------------------------------------


async def test_a_moment_before_a_late_trade_has_the_bar_as_it_was(desk: Desk) -> None:
    first = take_some(desk, 0)
    late = desk.daemon.take((TRADE_KIND, trades([(500, 77, 500, 1)])))
    await desk.commit(2)
    assert (await desk.bars(bar_source="own", known_at=first.ts_known))["high"].tolist() == [100]
    assert (await desk.bars(bar_source="own", known_at=late.ts_known))["high"].tolist() == [500]
    assert (await desk.bars(bar_source="own"))["high"].tolist() == [500]


async def test_a_version_that_shared_memory_has_replaced_is_waited_for_and_then_told(desk: Desk) -> None:
    """The newest is in the arena, that of the moment in the journal alone: no answer is better than a wrong one."""
    first = take_some(desk, 0)
    desk.daemon.take((TRADE_KIND, trades([(500, 77, 500, 1)])))
    with pytest.raises(NotYetStored, match="ask again") as raised:
        await desk.bars(known_at=first.ts_known, timeout_ms=500)
    assert raised.value.field == "known_at"
    assert len(await desk.rows(known_at=first.ts_known)) == 3  # trades have no versions
    await desk.commit(1)
    assert (await desk.bars(bar_source="own", known_at=first.ts_known))["high"].tolist() == [100]


async def test_a_moment_that_is_still_to_come_is_refused(desk: Desk) -> None:
    take_some(desk, 0)
    for ask in (desk.bars, desk.rows):
        with pytest.raises(InvalidArgument, match=r"known_at: .* is in the future") as raised:
            await ask(known_at=time.time_ns() + 60 * SECOND)
        assert raised.value.field == "known_at" and "ask again" not in str(raised.value)


async def test_a_moment_is_answered_once_nothing_more_can_be_known_of_it(desk: Desk) -> None:
    """Records may still come with an older ts_known until the database, the arena or its heart have passed it."""
    newest = take_some(desk, 0).ts_known
    arena = desk.daemon.publisher.board(BTC).arena
    for ask in (desk.bars, desk.rows):
        arena.heartbeat(time.monotonic_ns(), newest, 0, 0)
        with pytest.raises(NotYetStored, match="nothing more is known") as raised:
            await ask(known_at=newest + SECOND, timeout_ms=100)
        assert raised.value.field == "known_at"
        arena.heartbeat(time.monotonic_ns(), newest + 60 * SECOND, 0, 0)
        assert len(await ask(known_at=newest + SECOND, timeout_ms=100))


# ---- the ledger -------------------------------------------------------------------------------------


@pytest.mark.parametrize("committed", [0, 1, 2])
async def test_events_of_the_ledger_that_touch_a_span_come_wherever_they_lie(desk: Desk, committed: int) -> None:
    gap = coverage_record(Coverage.GAP, START, START + 10 * SECOND, stream=1, detail=7, reason="lost")
    still = coverage_record(Coverage.GAP, START + 20 * SECOND, ABSENT, stream=1, detail=8, reason="on")
    desk.daemon.take((COVERAGE_KIND, gap))
    desk.daemon.take((COVERAGE_KIND, still))
    if committed:
        await desk.commit(committed)
    within = {"start": START + 5 * SECOND, "end": START + 6 * SECOND}
    assert (await desk.rows("coverage", **within))["detail"].tolist() == [7]
    after = {"start": START + 50 * SECOND, "end": START + 60 * SECOND}
    assert (await desk.rows("coverage", **after))["detail"].tolist() == [8]
    found = await desk.rows("coverage")
    assert same(found, expected_ring(desk.daemon.lots, "coverage"))
    assert (await desk.rows("coverage", limit=1, newest=False))["detail"].tolist() == [7]


# ---- the rest ---------------------------------------------------------------------------------------


async def test_a_daemon_describes_itself(desk: Desk) -> None:
    answer, _ = await desk.ask(Describe(id=9))
    assert (answer.id, answer.instance, answer.timeframes) == (9, "test", [1, 60])
    assert [(s.id, s.name) for s in answer.streams] == [(FUNDING.id, "funding")]
    assert BTC.name in [i.name for i in answer.instruments]


async def test_an_alias_and_the_default_venue_find_the_instrument(desk: Desk) -> None:
    take_some(desk, 0)
    for symbol in ("bitcoin", "BTCUSDT", "BTC/USDT", BTC.name):
        answer, _ = await desk.ask(Rows(symbol=symbol, stream="trade"))
        assert answer.instrument.name == BTC.name


@pytest.mark.parametrize(
    ("request_", "error", "words"),
    [
        (Rows(symbol="X", stream="trade"), UnknownInstrument, "'X' is not among"),
        (Rows(symbol=BTC.name, stream="nothing"), UnknownStream, "'nothing'"),
        (Rows(symbol=BTC.name, stream="candle"), InvalidArgument, "candle is not asked for as rows"),
        (Rows(symbol=BTC.name, stream="tick"), InvalidArgument, "tick is not asked for as rows"),
        (Rows(symbol=BTC.name, stream="trade", start=2, end=1), InvalidArgument, "start: it is after end"),
        (Rows(symbol=BTC.name, stream="trade", limit=0), InvalidArgument, "limit: 0 is not within"),
        (Bars(symbol=BTC.name, timeframes=[60], limit=10**9), InvalidArgument, "limit"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
async def test_what_cannot_be_answered_is_refused_by_name(
    desk: Desk, request_: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        await desk.ask(request_)


async def test_spans_beyond_all_time_are_open(desk: Desk) -> None:
    take_some(desk, 0)
    for committed in (0, 1):
        if committed:
            await desk.commit(1)
        everything = {"start": -(2**63), "end": 2**63 - 1}
        assert len(await desk.rows(**everything)) == 3
        assert len(await desk.bars(bar_source="own", **everything)) == 1
        assert len(await desk.bars(120, bar_source="own", **everything)) == 1
        assert len(await desk.rows(end=-1)) == len(await desk.bars(120, end=-1)) == 0
