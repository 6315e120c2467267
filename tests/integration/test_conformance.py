"""Any life of a database gives what lists give: one suite for both profiles.

Writes of every kind, live, late, corrected, imported and repeated; closing of old stretches (packed blocks, or
TimescaleDB's columns), sums of late bars, retention, the schema applied again; and between all of these questions, as
known at any moment and final, in any bounds, limits, forms and pages. The answers are those of `naive.Naive`, to the
last digit, and say what retention has dropped.

MARKETD_TESTS_FULL=1 tries many more lives, other ones each time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from book_lane import books, buckets, imbalances
from integration.conftest import Server
from integration.two_markets import DAY_NS, EDGE_NS, HAND, TABLES, TwoMarkets, assert_same, let_pieces_be_old
from lane import FUNDING, KINDS, MS, SECOND, bars, rates, trades
from marketd.client import requests
from marketd.client.catalogue import Catalogue
from marketd.client.paging import BarPager, RowPager
from marketd.market.records import ACTIVITY_BAR, BOOK_DELTA, BOOK_VENUES, BookState, CandleFlag, Coverage, Kind, Records
from marketd.market.times import ABSENT, timeframe_name
from marketd.sql import read_batches
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.profiles import Profile, detect_profile
from marketd.sql.schema_runner import SchemaRunner
from marketd.sql.series import ensure_series_table
from marketd.sql.widths import WIDTHS
from naive import Asked, fields_of

FULL = bool(os.environ.get("MARKETD_TESTS_FULL"))
LIVES = {Profile.POSTGRES: 40, Profile.TIMESCALE: 14}  # a minute's, where sums and columns take their time
STREAMS = (
    *(("trade", None), ("book", None), ("book", 1), ("book", 60), ("book_delta", None), ("book_venues", None)),
    *(("imbalance", None), ("buckets", 1), ("buckets", 60), ("funding", None), ("activity_bar", None)),
)
GENERATED = (30, 60, 120, 300, 3600)

# ---- records ------------------------------------------------------------------------------------------

days = st.integers(-1, 1)  # around the edge at which pieces of every table end
# of a day; a few of them often, so that records meet
seconds = st.one_of(st.sampled_from((0, 1, 59, 60, 86_399)), st.integers(0, 150), st.integers(86_340, 86_399))
moments = st.builds(lambda day, second: EDGE_NS + day * DAY_NS + second * SECOND, days, seconds)
# a moment, which variety of the record, and its price
items = st.lists(st.tuples(moments, st.integers(0, 11), st.integers(0, 2)), min_size=1, max_size=6)


def _records(name: str, listed: list[tuple[int, int, int]]) -> tuple[Kind, Records]:
    """Records of a kind; each bears its time, and differs by variety and price."""
    name, _, timeframe = name.partition(".")
    width = int(timeframe or 1) * SECOND
    kind = KINDS.by_name(name)
    records = np.concatenate([_MAKERS[name](variety, 100 + price, width // SECOND) for _, variety, price in listed])
    times = np.array([at for at, _, _ in listed])
    if name in ("trade", "book", "book_delta"):
        times += np.array([variety % 4 * 250 * MS for _, variety, _ in listed])
    records[kind.time] = times if name in ("trade", "book", "book_delta") else times // width * width
    return kind, records


def _bar(variety: int, price: int, timeframe: int) -> Records:
    flags = CandleFlag.REVISED * (price % 2) | CandleFlag.PARTIAL * (variety // 3 % 2)
    record = bars([0], price, timeframe=timeframe, source=1 + variety % 3, flags=int(flags))
    record["high"], record["low"], record["close"] = price + variety, price - variety, price + variety // 2
    if variety >= 9:
        record["buy_volume"] = ABSENT
    return record


def _delta(variety: int, price: int, _: int) -> Records:
    return np.array([(0, 0, 0, ABSENT, price, variety, 1 - 2 * (variety % 2), 0)], BOOK_DELTA)


def _venues(variety: int, price: int, _: int) -> Records:
    record = np.zeros(1, BOOK_VENUES)
    record["bid_venue"], record["ask_venue"] = variety, price
    return record


def _activity(variety: int, price: int, _: int) -> Records:
    record = np.zeros(1, ACTIVITY_BAR)
    record["measure"], record["threshold"], record["open"] = 1 + variety % 3, variety, price
    return record


_MAKERS: dict[str, Any] = {
    "trade": lambda variety, price, _: trades([(0, 1 + variety // 4, price, 1 + variety)]),
    "candle": _bar,
    "book": lambda variety, price, _: books(
        [(0, price, price + 2, variety % 4, BookState.STALE if variety == 9 else BookState.LIVE)]
    ),
    "book_delta": _delta,
    "book_venues": _venues,
    "imbalance": lambda variety, price, _: imbalances([(variety, price)]),
    "buckets": lambda variety, price, timeframe: buckets([(0, price + variety)], timeframe),
    "funding": lambda variety, price, _: rates([(0, price / (1 + variety))]),
    "activity_bar": _activity,
}
_NAMES = (*_MAKERS, "candle.60", "buckets.60")
parts = st.lists(st.builds(_records, st.sampled_from(_NAMES), items), min_size=1, max_size=3)
folded_trades = st.lists(
    st.tuples(moments, st.integers(0, 3), st.integers(1, 60), st.integers(90, 110), st.sampled_from([-1, 0, 1])),
    min_size=1,
    max_size=8,
)

# ---- questions ----------------------------------------------------------------------------------------

bounds = st.one_of(st.none(), moments, st.builds(lambda at, off: at + off * 500 * MS, moments, st.integers(-3, 130)))
limits = st.one_of(st.none(), st.none(), st.integers(1, 6))
forms = st.sampled_from(["records", "copy", "packed"])
sources = st.sampled_from(["best", "best", "own", "venue", "import"])
# which moment of knowledge, counted back from now; None: final
backs = st.one_of(st.none(), st.integers(0, 12))


class Life(RuleBasedStateMachine):
    """One life of the database, from nothing on."""

    runner: asyncio.Runner
    database: DatabaseConnectionManager
    profile: Profile
    directory: Path
    patch: pytest.MonkeyPatch

    def __init__(self) -> None:
        super().__init__()
        self.patch.setattr(read_batches, "LEAST_ROWS", 1)
        self.markets = TwoMarkets(self.database, self.profile, self.directory)
        self.wait(self.markets.begin())

    @initialize(batch=parts, rows=folded_trades)
    def something_is_there(self, batch: list[tuple[Kind, Records]], rows: list[Any]) -> None:
        self.records_come(batch, None)
        self.trades_are_folded(rows)

    # ---- what comes -------------------------------------------------------------------------------

    @rule(batch=parts, imported=st.one_of(st.none(), st.none(), st.integers(0, 3)))
    def records_come(self, batch: list[tuple[Kind, Records]], imported: int | None) -> None:
        at = None if imported is None else EDGE_NS + (2 + imported) * DAY_NS
        self.wait(self.markets.offer([(kind, records.copy()) for kind, records in batch], at))

    @rule(number=st.integers(0, 30))
    def a_batch_comes_again(self, number: int) -> None:
        self.wait(self.markets.offer_again(number))

    @rule(number=st.integers(0, 30))
    def a_batch_is_corrected(self, number: int) -> None:
        self.wait(self.markets.correct(number))

    @rule()
    def an_answer_is_lost(self) -> None:
        self.wait(self.markets.retry())

    @rule(rows=folded_trades)
    def trades_are_folded(self, rows: list[tuple[int, int, int, int, int]]) -> None:
        markets, taken = self.markets, []
        for at, quarter, number, price, side in rows:
            ts = at + quarter * 250 * MS
            # what comes late for trades that retention has dropped is refused to its bars
            if any(start <= ts < end for start, end in markets.lost) or number in markets.trade_ids:
                continue
            markets.trade_ids.add(number)
            taken.append((ts, number, price, 1000 + number, side))
        if taken:
            records = trades([(0, *rest) for _, *rest in taken])
            records["ts_event"] = [ts for ts, *_ in taken]
            self.wait(markets.trade(records))

    @rule(
        state=st.sampled_from([Coverage.GAP, Coverage.BACKFILLED, Coverage.VENUE_DOWN]),
        stream=st.sampled_from([1, 3]),
        first=moments,
        length=st.integers(1, 200),
    )
    def the_ledger_is_told(self, state: Coverage, stream: int, first: int, length: int) -> None:
        self.wait(self.markets.tell(state, stream, first, first + length * SECOND))

    # ---- what is done in the background -----------------------------------------------------------

    @rule(block_rows=st.sampled_from([0, 2, 5]))
    def stretches_close(self, block_rows: int) -> None:
        self.wait(self.markets.close_stretches(block_rows))

    @precondition(lambda self: self.profile is Profile.TIMESCALE)
    @rule(rows=st.sampled_from([1, 1, 3, read_batches.LEAST_ROWS]))
    def batches_are_read_from_so_many_rows_on(self, rows: int) -> None:
        self.patch.setattr(read_batches, "LEAST_ROWS", rows)

    @precondition(lambda self: self.profile is Profile.TIMESCALE)
    @rule(all_of_them=st.booleans())
    def bars_are_summed_up(self, all_of_them: bool) -> None:
        self.wait(self.markets.sum_up(all_of_them=all_of_them))

    @rule(place=st.integers(0, len(TABLES) - 1), widths=st.integers(0, 2))
    def time_goes_by(self, place: int, widths: int) -> None:
        tables = self.markets.tables_with_rows()
        if tables:
            table = tables[place % len(tables)]
            whole_days = WIDTHS.get(table) == timedelta(days=1)
            self.wait(self.markets.age(table, widths if whole_days else min(widths, 1)))

    @precondition(lambda self: self.profile is Profile.TIMESCALE)
    @rule(chunk_days=st.sampled_from([0, 1, 2]))
    def the_schema_is_applied(self, chunk_days: int) -> None:
        self.wait(self.markets.apply_schema(chunk_days))

    # ---- what is asked ----------------------------------------------------------------------------

    @rule(start=bounds, end=bounds, back=backs, limit=limits, newest=st.booleans(), form=forms, data=st.data())
    def rows_are_asked_for(
        self,
        start: int | None,
        end: int | None,
        back: int | None,
        limit: int | None,
        newest: bool,
        form: str,
        data: Any,
    ) -> None:
        stream, timeframe = data.draw(st.sampled_from(STREAMS))
        asked = self.asked(start, end, back, limit, newest)
        self.wait(self.markets.check_rows(stream, timeframe, asked, form))

    @rule(
        start=bounds,
        end=bounds,
        back=backs,
        limit=limits,
        form=forms,
        source=sources,
        folded=st.booleans(),
        stored=st.booleans(),
        timeframes=st.lists(st.sampled_from((1, *GENERATED)), min_size=1, max_size=3, unique=True),
    )
    def bars_are_asked_for(
        self,
        start: int | None,
        end: int | None,
        back: int | None,
        limit: int | None,
        form: str,
        source: str,
        folded: bool,
        stored: bool,
        timeframes: list[int],
    ) -> None:
        asked = self.asked(start, end, back, limit)
        base = 60 if stored else 1
        self.settle(base)
        self.wait(self.markets.check_bars(timeframes, base, asked, source, form, folded))

    @rule(timeframe=st.sampled_from([1, 60]), source=sources)
    def the_latest_are_asked_for(self, timeframe: int, source: str) -> None:
        self.wait(self.markets.check_latest(timeframe, source))

    @rule(
        start=bounds,
        end=bounds,
        back=backs,
        limit=limits,
        page=st.integers(1, 4),
        forwards=st.booleans(),
        stream=st.sampled_from([each for each in STREAMS if each[0] != "book" or each[1] is None]),
    )
    def rows_are_turned_by_pages(
        self,
        start: int | None,
        end: int | None,
        back: int | None,
        limit: int | None,
        page: int,
        forwards: bool,
        stream: tuple[str, int | None],
    ) -> None:
        name, timeframe = stream
        asked = self.asked(start, end, None if forwards else back, None if forwards else limit)
        if forwards:
            pager = RowPager(Catalogue(), name, HAND, asked.start, asked.end, page, timeframe)
            found = self.all_pages(pager)
        else:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(requests, "PAGE_RECORDS", page)
                wanted = Catalogue(), name, HAND, asked.start, asked.end, asked.limit
                plan = requests.rows(*wanted, timeframe=timeframe, known_at=asked.known)
                found = fields_of(self.wait(self.markets.follow(plan)).records)
        expected = self.markets.rows_expected(self.markets.hand.model, name, timeframe, asked)
        assert_same(found, expected, (stream, asked, page))

    @rule(
        start=bounds,
        end=bounds,
        limit=limits,
        page=st.integers(1, 4),
        source=sources,
        timeframe=st.sampled_from((1, *GENERATED)),
        base=st.sampled_from([1, 60]),
        forwards=st.booleans(),
    )
    def bars_are_turned_by_pages(
        self,
        start: int | None,
        end: int | None,
        limit: int | None,
        page: int,
        source: Any,
        timeframe: int,
        base: int,
        forwards: bool,
    ) -> None:
        asked = self.asked(start, end, None, None if forwards else limit)
        self.settle(base)
        name = timeframe_name(timeframe)
        if forwards:
            first = EDGE_NS - DAY_NS if asked.start is None else asked.start
            last = max(first, EDGE_NS + 2 * DAY_NS) if asked.end is None else max(first, asked.end)
            asked = asked._replace(start=first, end=last)
            page = max(page, (last - first) // (timeframe * SECOND) // 20)  # else there would be too many
            found = self.all_pages(
                BarPager(Catalogue(), HAND, name, asked.start, asked.end, page, source),
                base,
            )
        else:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(requests, "PAGE_RECORDS", page)
                plan = requests.bars(Catalogue(), HAND, [name], asked.start, asked.end, asked.limit, source)
                found = fields_of(self.wait(self.markets.follow(plan, base))[name].records)
        expected, _ = self.markets.bars_expected(self.markets.hand.model, timeframe, base, source, asked)
        assert_same(found, expected, (timeframe, base, asked, page))

    def teardown(self) -> None:
        """All of it, final and as known at some moments."""
        for back in (None, 0, 1, 3, 7):
            asked = self.asked(None, None, back, None)
            for stream, timeframe in STREAMS:
                self.wait(self.markets.check_rows(stream, timeframe, asked, "packed"))
            for base in (1, 60):
                self.settle(base)
                for source in ("own", "best"):
                    self.wait(self.markets.check_bars([1, *GENERATED], base, asked, source, "packed"))
                self.wait(self.markets.check_bars([1, *GENERATED], base, asked, "own", "packed", folded=True))
        for timeframe in (60, 300):
            self.wait(self.markets.check_folded(timeframe, 1))
        self.wait(self.markets.check_folded(300, 60))
        self.markets.close()

    # ---- how --------------------------------------------------------------------------------------

    def asked(
        self, start: int | None, end: int | None, back: int | None, limit: int | None, newest: bool = True
    ) -> Asked:
        if start is not None and end is not None:
            start, end = min(start, end), max(start, end)
        known = None if back is None else self.markets.known[max(0, len(self.markets.known) - 1 - back)]
        return Asked(start, end, known, limit, newest)

    def settle(self, base: int) -> None:
        """What was dropped and what is noted as late do not go together for half a minute, until it is summed up."""
        if base == 1 and self.markets.hand.model.kept:
            self.wait(self.markets.sum_up())

    def all_pages(self, pager: Any, base: int = 60) -> list[Any]:
        found: list[Any] = []
        while (frame := self.wait(self.markets.follow(pager.next(), base))) is not None:
            found += fields_of(frame.records)
        return found

    def wait(self, doing: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(doing)


@pytest.fixture
def _long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    let_pieces_be_old(monkeypatch)


@pytest.mark.timeout(7200 if FULL else 900)  # catches a hang; a busy machine takes many times as long as a quiet one
@pytest.mark.usefixtures("_long_ago")
def test_any_life_of_a_database_gives_what_lists_give(
    database_name: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with asyncio.Runner() as runner:
        database = runner.run(_prepared(server.dsn(database_name)))

        class OfThisServer(Life):
            pass

        OfThisServer.runner, OfThisServer.database = runner, database
        OfThisServer.profile, OfThisServer.directory = server.profile, tmp_path
        OfThisServer.patch = monkeypatch
        lives = settings(
            max_examples=400 if FULL else LIVES[server.profile],
            stateful_step_count=30 if FULL else 20,
            derandomize=not FULL,
            # shrinking takes minutes: a life that fails is told as it was, and the long form looks for the shortest
            phases=tuple(Phase) if FULL else (Phase.generate,),
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        try:
            run_state_machine_as_test(OfThisServer, settings=lives)
        finally:
            runner.run(database.close())


async def _prepared(dsn: str) -> DatabaseConnectionManager:
    conn = await asyncpg.connect(dsn, server_settings={"search_path": "marketd, public", "timezone": "UTC"})
    await SchemaRunner(conn).apply()
    await ensure_series_table(conn, FUNDING.name, dict(FUNDING.fields))
    if await detect_profile(conn) is Profile.TIMESCALE:
        # what its jobs do is done here in its turn: at a moment of their own they would meet a TRUNCATE
        await conn.execute("SELECT _timescaledb_functions.stop_background_workers()")
    await conn.close()
    database = DatabaseConnectionManager(dsn, actor="conformance")
    await database.open()
    return database


@pytest.fixture
def database_name(server: Server) -> Iterator[str]:
    """An empty database, made and dropped outside of the test's own event loop."""
    name = f"conformance_{server.profile}"

    async def execute(statement: str) -> None:
        conn = await asyncpg.connect(server.dsn("postgres"))
        await conn.execute(statement)
        await conn.close()

    asyncio.run(execute(f"CREATE DATABASE {name}"))
    yield name
    asyncio.run(execute(f"DROP DATABASE {name} WITH (FORCE)"))
