"""What is missing now is told while it is: by shared memory and by the database alike."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from desk import Desk
from lane import BTC, MS, SECOND, START, observed, trades
from marketd import DataCacheManager, Require, RequirementNotMet
from marketd.daemon.kernel import COVERAGE_KIND, TRADE_KIND, coverage_record
from marketd.daemon.left_books import stale_book
from marketd.ipc.presence import Presence, write_presence
from marketd.ipc.protocol import Meta, Rows
from marketd.market.records import BY_NAME, BookState, Coverage, Ended, Records
from marketd.market.times import ABSENT
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.profiles import Profile
from small_daemon import SmallDaemon

# what differs between the profiles is below the statements, which test_sql_read.py tries on both
pytestmark = pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)
BOOK = BY_NAME["book"]


@pytest.fixture
async def desk(database: str, tmp_path: Path, runtime_dir: Path) -> AsyncIterator[Desk]:
    daemon = SmallDaemon(tmp_path / "state", runtime_dir)
    daemon.declare(BTC)
    write_presence(runtime_dir, Presence(instance="test", pid=os.getpid(), version="0", instruments=[BTC]))
    async with DatabaseConnectionManager(database, actor="query-test") as manager:
        desk = Desk(daemon, manager)
        yield desk
        desk.close()


def live_book(ms: int) -> Records:
    record = stale_book(BOOK, START + ms * MS)
    record["state"] = BookState.LIVE
    record["bid_count"] = record["ask_count"] = 1
    record["bid_price"][0, 0], record["ask_price"][0, 0] = 100, 101
    record["bid_size"][0, 0] = record["ask_size"][0, 0] = 5
    return record


def of_book(state: Coverage, ms: int, end_ms: int | None = None) -> Records:
    start = START + ms * MS
    end = START + end_ms * MS if end_ms is not None else start if state is Coverage.OBSERVED else ABSENT
    return coverage_record(state, start, end, stream=BOOK.id, reason="disconnected")


async def stored(desk: Desk, stream: str = "book", **options: int) -> Meta:
    answer, _ = await desk.ask(Rows(symbol=BTC.name, stream=stream, **options))
    meta: Meta = answer.meta
    return meta


async def assert_missing_since(desk: Desk, since_ns: int, coverage: str, stream: str) -> None:
    """From then until now, however far the records reach."""
    for meta in (
        await stored(desk, stream),
        await stored(desk, stream, start=START),
        await stored(desk, stream, start=START, end=since_ns + 10 * SECOND),
    ):
        assert meta.coverage == coverage
        [(start, end)] = meta.gaps
        assert start == since_ns and end >= since_ns + 10 * SECOND
    assert (await stored(desk, stream, start=START, end=since_ns)).coverage == "observed"
    desk.daemon.serve()  # a heartbeat
    with DataCacheManager(desk.daemon.runtime) as cache:
        found = cache.get_latest_orderbook(BTC.name) if stream == "book" else cache.get_latest_trades(BTC.name, 2)
        assert found.meta.coverage == coverage
        [(start, end)] = found.meta.gaps
        assert start == since_ns and end >= since_ns + 10 * SECOND
        with pytest.raises(RequirementNotMet, match="no_gaps"):
            Require(no_gaps=True).check(found)


async def test_an_open_gap_of_a_book_is_told_until_it_is_closed(desk: Desk) -> None:
    ledger = np.concatenate([observed(), of_book(Coverage.OBSERVED, 0)])
    lot = desk.daemon.take((COVERAGE_KIND, ledger), (TRADE_KIND, trades([(0, 1, 100, 1)])), (BOOK, live_book(0)))
    desk.daemon.take((BOOK, stale_book(BOOK, START + SECOND)), (COVERAGE_KIND, of_book(Coverage.GAP, 1000)))
    for committed in (0, 1, 2):
        if committed:
            await desk.commit(committed)
        await assert_missing_since(desk, START + SECOND, "gap", "book")
        assert (await stored(desk, "imbalance", start=START)).coverage == "gap"
        assert (await stored(desk, "trade")).coverage == "observed"
    assert (await stored(desk, known_at=lot.ts_known)).coverage == "observed", "it was not known then"
    late = desk.daemon.take((TRADE_KIND, trades([(4000, 2, 100, 1)])))
    ended = [of_book(Coverage.GAP, 1000, 5000), of_book(Coverage.OBSERVED, 5000)]
    desk.daemon.take((BOOK, live_book(5000)), (COVERAGE_KIND, np.concatenate(ended)))
    await desk.commit(4)
    closed = await stored(desk)
    assert (closed.coverage, closed.gaps) == ("gap", [(START + SECOND, START + 5 * SECOND)])
    assert (await stored(desk, start=START + 5 * SECOND)).coverage == "observed"
    [(start, _)] = (await stored(desk, known_at=late.ts_known)).gaps
    assert start == START + SECOND, "as it was known before the end"


async def test_trades_that_are_heard_no_more_are_missing_from_the_last_on(desk: Desk) -> None:
    desk.daemon.take((COVERAGE_KIND, observed()), (TRADE_KIND, trades([(0, 1, 100, 1), (2000, 2, 100, 1)])))
    assert (await stored(desk, "trade")).coverage == "observed"
    heard = START + 2 * SECOND
    ended = coverage_record(Coverage.ENDED, heard, heard, stream=TRADE_KIND.id, detail=Ended.BARS_GO_ON)
    desk.daemon.take((COVERAGE_KIND, ended))
    for committed in (0, 2):
        if committed:
            await desk.commit(committed)
        await assert_missing_since(desk, heard, "unobserved", "trade")


async def test_of_what_was_not_heard_yet_nothing_is_claimed(desk: Desk) -> None:
    desk.daemon.take((COVERAGE_KIND, observed()), (TRADE_KIND, trades([(0, 1, 100, 1), (2000, 2, 100, 1)])))
    assert (await stored(desk, "trade", start=START + 3 * SECOND)).coverage is None
    assert (await stored(desk, "trade", start=START + SECOND)).coverage == "observed"
