"""Any life of a database against a model that keeps every record in a list: one suite for both profiles.

Writes, late and corrected records, records sent again, closing of old stretches, retention, and after each step the
whole is read: final, and as it was known at any moment so far.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from integration.conftest import Server
from lane import BTC, CANDLES, FUNDING, MS, bars, rates, trades
from marketd.daemon.kernel import TRADE_KIND
from marketd.market.bars import finish_bars
from marketd.market.records import CandleFlag, Kind, Records
from marketd.sql import retention
from marketd.sql.partitions import DAY_NS, PartitionKeeper
from marketd.sql.profiles import Profile
from marketd.sql.read import Span, read_bars, read_rows
from marketd.sql.retention import drop_old_pieces
from marketd.sql.schema_runner import SchemaRunner
from marketd.sql.series import ensure_series_table
from marketd.sql.store import Commit, commit, split_rows, to_datetime
from packed import pack_all

# Days that are over: what is young is never packed.
FIRST_NS = (time.time_ns() // DAY_NS - 10) * DAY_NS
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
DAYS = 4
EVERYTHING = Span(FIRST_NS, FIRST_NS + (DAYS + 1) * DAY_NS)
FINAL = 2**62
_instruments = itertools.count(BTC.id + 1000)

days = st.integers(0, DAYS - 1)
places = st.tuples(days, st.integers(0, 3))  # a day, and a minute of it
prices = st.sampled_from([100, 200, 300])


async def close_stretches(conn: Any, profile: Profile, instrument: int) -> None:
    """Bring all that is there into the form in which closed stretches are kept."""
    if profile is not Profile.TIMESCALE:
        await pack_all(conn, instruments={instrument}, tables=("trades", "candles_1s"))
        return
    for table in ("trades", "candles", "candles_1s"):
        for (chunk,) in await conn.fetch("SELECT c::text FROM public.show_chunks($1::regclass) c", f"marketd.{table}"):
            await conn.execute("SELECT public.compress_chunk($1::text::regclass, if_not_compressed => true)", chunk)


class Model:
    """Every record that was ever sent and not dropped for its age, in lists."""

    def __init__(self) -> None:
        self.trades: dict[tuple[int, int], Any] = {}  # by time and id: the first counts
        self.bars: list[Any] = []
        self.rates: list[Any] = []

    def add_trades(self, records: Records) -> None:
        for record in records:
            self.trades.setdefault((int(record["ts_event"]), int(record["trade_id"])), record)

    def drop_trades(self, before: int) -> None:
        self.trades = {key: record for key, record in self.trades.items() if key[0] >= before}

    def trades_at(self, known_at: int) -> list[tuple[int, ...]]:
        found = [r for r in self.trades.values() if r["ts_known"] <= known_at]
        return sorted((int(r["ts_event"]), int(r["seq"]), int(r["trade_id"]), int(r["price"])) for r in found)

    def rates_at(self, known_at: int) -> list[tuple[int, float]]:
        return sorted((int(r["ts_event"]), float(r["rate"])) for r in self.rates if r["ts_known"] <= known_at)

    def bars_at(self, timeframe: int, known_at: int) -> list[tuple[int, int]]:
        """The newest version of each that was known: the one sent last."""
        sent = [r for r in self.bars if r["timeframe"] == timeframe and r["ts_known"] <= known_at]
        return sorted({int(r["ts"]): int(r["open"]) for r in sent}.items())


class Life(RuleBasedStateMachine):
    """One instrument of its own in a database that all examples share."""

    runner: asyncio.Runner
    conn: Any
    profile: Profile

    def __init__(self) -> None:
        super().__init__()
        self.instrument = next(_instruments)
        self.partitions = PartitionKeeper(self.profile)
        self.journal, self.offset = uuid4(), 0
        self.seq, self.known = 1, FIRST_NS
        self.model = Model()

    # ---- what happens -----------------------------------------------------------------------------

    @rule(sent=st.lists(st.tuples(places, st.integers(1, 6), prices), min_size=1, max_size=6))
    def trades_come(self, sent: list[tuple[tuple[int, int], int, int]]) -> None:
        """New ones, late ones, and some for the second time."""
        records = trades([(0, number, price, 1) for _, number, price in sent])
        # a trade's id belongs to one time
        records["ts_event"] = [_place(place) + number * MS for place, number, _ in sent]
        self.model.add_trades(self.write(TRADE_KIND, records))

    @rule(at=st.lists(places, min_size=1, max_size=4), price=prices, timeframe=st.sampled_from([1, 60]))
    def bars_come(self, at: list[tuple[int, int]], price: int, timeframe: int) -> None:
        """First versions and corrections, several of one bar in a batch, too."""
        records = np.concatenate([bars([0], price + n, timeframe=timeframe) for n in range(len(at))])
        records["ts"] = [_place(place) for place in at]
        known = {(int(r["timeframe"]), int(r["ts"])) for r in self.model.bars}
        for record in records:
            key = int(record["timeframe"]), int(record["ts"])
            record["flags"] = CandleFlag.REVISED if key in known else 0
            known.add(key)
        self.model.bars += list(self.write(CANDLES, records))

    @rule(at=st.lists(places, min_size=1, max_size=3), rate=st.floats(-1, 1))
    def rates_come(self, at: list[tuple[int, int]], rate: float) -> None:
        records = rates([(0, rate)] * len(at))
        records["ts_event"] = [_place(place) for place in at]
        self.model.rates += list(self.write(FUNDING, records))

    @rule()
    def stretches_close(self) -> None:
        self.wait(close_stretches(self.conn, self.profile, self.instrument))

    @rule(day=st.integers(1, DAYS - 1))
    def old_trades_go(self, day: int) -> None:
        before = FIRST_NS + day * DAY_NS
        self.wait(self.conn.execute("UPDATE packed_blocks SET stored_at = $1", LONG_AGO))
        self.wait(drop_old_pieces(self.conn, "trades", to_datetime(before)))
        self.partitions.forget("trades")
        self.model.drop_trades(before)

    @rule(back=st.integers(0, 8))
    def all_is_read(self, back: int) -> None:
        for known_at in (None, self.known - back * 1000):
            self.judge(known_at)

    def teardown(self) -> None:
        self.judge(None)

    # ---- how --------------------------------------------------------------------------------------

    def write(self, kind: Kind, records: Records) -> Records:
        """One transaction; the records as they were stamped."""
        self.known += 1000
        records["seq"] = np.arange(self.seq, self.seq + len(records))
        records["ts_known"] = self.known
        self.seq += len(records)
        rows = split_rows(kind, np.full(len(records), self.instrument, dtype=np.int32), records)
        work = Commit(self.journal, "live", self.offset + 8, self.known, rows, None, [], [], self.offset)
        self.offset = self.wait(commit(self.conn, work, self.partitions))
        return records

    def judge(self, known_at: int | None) -> None:
        at = FINAL if known_at is None else known_at
        options: Any = {"known_at": known_at}
        found = self.wait(read_rows(self.conn, self.instrument, TRADE_KIND, EVERYTHING, **options)).records()
        rows = sorted(zip(*(found[n].tolist() for n in ("ts_event", "seq", "trade_id", "price")), strict=True))
        assert rows == self.model.trades_at(at)
        found = self.wait(read_rows(self.conn, self.instrument, FUNDING, EVERYTHING, **options)).records()
        assert sorted(zip(found["ts_event"].tolist(), found["rate"].tolist(), strict=True)) == self.model.rates_at(at)
        for timeframe in (1, 60):
            copied = self.wait(read_bars(self.conn, self.instrument, timeframe, EVERYTHING, **options))
            found = finish_bars(copied.records(), "best", None)
            assert list(zip(found["ts"].tolist(), found["open"].tolist(), strict=True)) == self.model.bars_at(
                timeframe, at
            )

    def wait(self, doing: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(doing)


def _place(place: tuple[int, int]) -> int:
    day, minute = place
    return FIRST_NS + day * DAY_NS + minute * 60_000 * MS


@pytest.fixture
def _long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all pieces had been made when 1970 began: retention keeps what was stored lately, whatever its time."""
    whole = retention.pieces_of_table

    async def found(conn: Any, table: str) -> list[retention.Piece]:
        return [piece._replace(made=LONG_AGO) for piece in await whole(conn, table)]

    monkeypatch.setattr(retention, "pieces_of_table", found)


@pytest.mark.usefixtures("_long_ago")
def test_any_life_of_a_database_gives_what_a_list_of_all_records_gives(database_name: str, server: Server) -> None:
    with asyncio.Runner() as runner:
        conn = runner.run(_prepared(server.dsn(database_name)))

        class OfThisServer(Life):
            pass

        OfThisServer.runner, OfThisServer.conn, OfThisServer.profile = runner, conn, server.profile
        run_state_machine_as_test(
            OfThisServer,
            settings=settings(
                max_examples=30, stateful_step_count=12, suppress_health_check=list(HealthCheck), print_blob=True
            ),
        )
        runner.run(conn.close())


async def _prepared(dsn: str) -> Any:
    conn = await asyncpg.connect(dsn, server_settings={"search_path": "marketd, public", "timezone": "UTC"})
    await SchemaRunner(conn).apply()
    await ensure_series_table(conn, "funding", dict(FUNDING.fields))
    return conn


@pytest.fixture
def database_name(server: Server) -> Iterator[str]:
    """An empty database, made and dropped outside of the test's own event loop."""
    name = f"model_{server.profile}"

    async def execute(statement: str) -> None:
        conn = await asyncpg.connect(server.dsn("postgres"))
        await conn.execute(statement)
        await conn.close()

    asyncio.run(execute(f"CREATE DATABASE {name}"))
    yield name
    asyncio.run(execute(f"DROP DATABASE {name} WITH (FORCE)"))
