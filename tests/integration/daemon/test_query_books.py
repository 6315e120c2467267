"""Books in the answers of the query service: each record once, wherever it lies, and the same by the second."""

from __future__ import annotations

import io
import itertools
import shutil
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from book_lane import book_rows, books, buckets, imbalances
from lane import BTC, KINDS, MS, SECOND, START, section, trades
from marketd.daemon import query_streams
from marketd.daemon.kernel import TRADE_KIND, Lot
from marketd.daemon.query import QueryService
from marketd.daemon.settings import Config
from marketd.daemon.writer import Writer
from marketd.ipc.frames import body_of
from marketd.ipc.journal_reader import JournalReader
from marketd.ipc.protocol import Rows
from marketd.market.book_means import KIND_NAME, book_means, means_kind
from marketd.market.errors import InvalidArgument
from marketd.market.records import BY_NAME, Kind, Records, book_kind
from marketd.market.rows import codec
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.profiles import Profile
from marketd.sql.read import read_rows
from small_daemon import SmallDaemon

pytestmark = pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)

CONFIG = Config(instance="test", timeframes=("1s", "1m"))
BOOK, IMBALANCE, BUCKETS, DELTA = (BY_NAME[name] for name in ("book", "imbalance", "buckets", "book_delta"))
TABLES = ("trades", "candles", "candles_1s", "book_snapshots", "imbalances", "book_buckets", "instruments")
_numbers = itertools.count(1)


class Desk:
    """A daemon, its database, and the service between them. `commit` is the writer, up to the n-th lot."""

    def __init__(self, daemon: SmallDaemon, database: DatabaseConnectionManager) -> None:
        self.daemon, self.database = daemon, database
        self.service = QueryService(database, CONFIG, KINDS, daemon.runtime)

    def take(self, *parts: tuple[Kind, Records]) -> Lot:
        """A lot of what a feed computed of its books: journaled and shown, whatever a kernel would say to it."""
        daemon, state = self.daemon, self.daemon.kernel.state(BTC)
        daemon.known += 1000
        for _, records in parts:
            records["ts_known"] = daemon.known
            records["seq"] = np.arange(state.seq + 1, state.seq + 1 + len(records))
            state.seq += len(records)
        count = sum(len(records) for _, records in parts)
        sections = [section(*part) for part in parts]
        lot = Lot(state, state.seq - count + 1, count, daemon.known, count, [], body_of(sections), list(parts), [])
        end = daemon.journal.append(BTC.id, lot.seq, lot.ts_known, lot.body)
        daemon.lots.append((lot, end))
        daemon.publisher.show(lot, end)
        return lot

    def close(self) -> None:
        self.service.close()
        self.daemon.stop()

    async def commit(self, lots: int) -> None:
        async def told(_: int) -> None:
            pass

        end = self.daemon.lots[lots - 1][1]
        assert self.daemon.journal.wait_durable(end, 10)
        with JournalReader(self.daemon.state / "journal") as reader:
            writer = Writer(
                self.database, reader, KINDS, lane="live", batch_bytes=1, batch_age_seconds=0, committed=told
            )
            await writer.start()
            writer.on_durable(end)
            await writer.drain()

    async def ask(self, stream: str = "book", **options: Any) -> tuple[Any, Any]:
        answer, frames = await self.service.answer(Rows(symbol=BTC.name, stream=stream, **options))
        return answer, frames[0]

    async def rows(self, stream: str = "book", **options: Any) -> Records:
        answer, data = await self.ask(stream, **options)
        (part,) = answer.parts
        kind = KINDS.by_name(part.kind) if part.kind != KIND_NAME else means_kind(part.depth)
        if part.encoding == "copy":
            return codec(part.table, kind).decode(data)[1]
        return np.frombuffer(data, dtype=kind.dtype)


@pytest.fixture
async def database(database: str) -> AsyncIterator[DatabaseConnectionManager]:
    async with DatabaseConnectionManager(database, actor="query-test") as manager:
        yield manager


async def fresh_desk(database: DatabaseConnectionManager, state: Path, runtime: Path) -> Desk:
    """With nothing in it, whatever an earlier example left."""
    shutil.rmtree(runtime / "arena", ignore_errors=True)
    (runtime / "front").unlink(missing_ok=True)
    async with database.acquire() as conn:
        for table in (*TABLES, "journal_commits"):
            await conn.execute(f"DELETE FROM {table}")
    daemon = SmallDaemon(state / f"state{next(_numbers)}", runtime)
    daemon.declare(BTC)
    return Desk(daemon, database)


@pytest.fixture
async def desk(database: DatabaseConnectionManager, tmp_path: Path, runtime_dir: Path) -> AsyncIterator[Desk]:
    desk = await fresh_desk(database, tmp_path, runtime_dir)
    yield desk
    desk.close()


def of_lots(lots: list[tuple[Lot, int]], name: str, known_at: int | None = None) -> Records:
    """The records of a kind in the order of their time."""
    found = [
        records
        for lot, _ in lots
        for kind, records in lot.rows
        if kind.name == name and (known_at is None or lot.ts_known <= known_at)
    ]
    records = np.concatenate([np.zeros(0, BY_NAME[name].dtype), *found])
    return records[np.lexsort((records["seq"], records[BY_NAME[name].time]))]


def limited(records: Records, limit: int | None, newest: bool) -> Records:
    if limit is None:
        return records
    return records[-limit:] if newest else records[:limit]


examples = settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])


@examples
@given(
    st.lists(st.lists(book_rows, min_size=1, max_size=4), min_size=1, max_size=6),
    st.integers(0, 6),
    st.one_of(st.none(), st.integers(1, 5)),
    st.booleans(),
    st.sampled_from([1, 3, 60]),
)
async def test_whatever_is_committed_books_are_those_of_the_lots(
    database: DatabaseConnectionManager,
    tmp_path: Path,
    runtime_dir: Path,
    batches: list[list[Any]],
    committed: int,
    limit: int | None,
    newest: bool,
    timeframe: int,
) -> None:
    desk = await fresh_desk(database, tmp_path, runtime_dir)
    with closing(desk):
        for batch in batches:
            desk.take((BOOK, books(batch)))
        lots = desk.daemon.lots
        if committed:
            await desk.commit(min(committed, len(lots)))
        for known_at in (None, *(lot.ts_known for lot, _ in lots)):
            options: Any = {"limit": limit, "newest": newest, "known_at": known_at}
            expected = of_lots(lots, "book", known_at)
            assert (await desk.rows(**options)).tobytes() == limited(expected, limit, newest).tobytes()
            means = book_means(expected, timeframe, price_scale=BTC.price_scale, size_scale=BTC.size_scale)
            found = await desk.rows(timeframe=timeframe, **options)
            assert found.tobytes() == limited(means, limit, newest).tobytes()


@pytest.mark.parametrize("committed", [0, 1, 2, 3])
async def test_of_a_second_the_newest_version_counts_wherever_it_lies(desk: Desk, committed: int) -> None:
    lots = [
        desk.take((IMBALANCE, imbalances(rows)), (BUCKETS, np.concatenate([buckets(rows), buckets(rows, 60)])))
        for rows in ([(0, 20), (1, 20)], [(1, 22), (2, 20)], [(0, 24)])
    ]
    if committed:
        await desk.commit(committed)
    for known_at, expected in (
        (None, [24, 22, 20]),
        (lots[1].ts_known, [20, 22, 20]),
        (lots[0].ts_known, [20, 20]),
    ):
        assert (await desk.rows("imbalance", known_at=known_at))["mid2"].tolist() == expected
        for timeframe in (None, 1, 60):
            found = await desk.rows("buckets", timeframe=timeframe, known_at=known_at)
            assert found["base"].tolist() == expected
            assert set(found["timeframe"].tolist()) == {timeframe or 1}
        assert (await desk.rows("imbalance", known_at=known_at, limit=1))["mid2"].tolist() == expected[-1:]


async def test_an_interval_begins_in_the_span_that_asks_for_it(desk: Desk) -> None:
    desk.take((BOOK, books([(ms, 99, 100) for ms in (0, 900, 1_000, 1_900, 2_000)])))
    for committed in (0, 1):
        if committed:
            await desk.commit(1)
        found = await desk.rows(timeframe=1, start=START + 1 * MS, end=START + 1_500 * MS)
        assert (found["ts"].tolist(), found["count"].tolist()) == ([START + SECOND], [2])
        assert len(await desk.rows(timeframe=1, start=START + 2_001 * MS)) == 0


async def test_for_the_newest_books_of_a_day_the_rest_of_the_day_is_not_read(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Any] = []

    async def watched(*args: Any, **options: Any) -> Any:
        read.append(args[3])
        return await read_rows(*args, **options)

    monkeypatch.setattr(query_streams, "read_rows", watched)
    for at_ms in (-40 * 60_000, -20 * 60_000, 0):
        desk.take((BOOK, books([(at_ms, 99, 100), (at_ms + 100, 100, 101)])))
    await desk.commit(2)
    (found,) = await desk.rows(timeframe=86_400)
    assert (found["count"], found["ts_event"]) == (6, START + 100 * MS)
    assert read
    assert all(span.start >= START and span.end <= START + SECOND for span in read)


async def test_an_answer_tells_how_deep_its_books_are(desk: Desk) -> None:
    desk.take((BOOK, books([(0, 99, 100)])))
    for committed in (0, 1):
        if committed:
            await desk.commit(1)
        for timeframe, name, kind in ((None, "book", "book"), (1, "book.1s", KIND_NAME), (60, "book.1m", KIND_NAME)):
            for wanted in ("records", "copy", "json"):
                answer, _ = await desk.ask(timeframe=timeframe, format=wanted)
                (part,) = answer.parts
                assert (part.name, part.kind, part.depth, part.count) == (name, kind, 20, 1)
    answer, _ = await desk.ask("trade")
    assert answer.parts[0].depth is None


@pytest.mark.parametrize("committed", [0, 1])
async def test_a_daemon_of_another_depth_answers_at_its_own(desk: Desk, committed: int) -> None:
    desk.take((TRADE_KIND, trades([(0, 1, 100, 1)])))
    desk.take((BOOK, books([(0, 99, 100, 5)])))
    await desk.commit(1 + committed)
    kinds = type(KINDS)(KINDS.series, 3)
    config = msgspec.structs.replace(CONFIG, book=msgspec.structs.replace(CONFIG.book, depth=3))
    with closing(QueryService(desk.database, config, kinds, desk.daemon.runtime)) as service:
        for timeframe in (None, 1):
            answer, frames = await service.answer(Rows(symbol=BTC.name, stream="book", timeframe=timeframe))
            kind = book_kind(3) if timeframe is None else means_kind(3)
            found = np.frombuffer(frames[0], dtype=kind.dtype)
            assert (answer.parts[0].depth, found["bid_count"].tolist()) == (3, [3])
            assert found["bid_price"].tolist() == [[99, 98, 97]]


async def test_clients_that_are_not_ours_get_levels_as_lists(desk: Desk) -> None:
    desk.take((BOOK, books([(0, 9_900, 10_000), (1_000, 9_900, 10_000, 0)])), (IMBALANCE, imbalances([(0, 7)])))
    _, data = await desk.ask(format="json")
    found = msgspec.json.decode(data)
    assert found["bid_price"][0] == [99.0, 98.99, *[None] * 18]
    assert found["bid_price"][1] == [None] * 20
    assert found["sequence"] == [0, 1_000]
    _, data = await desk.ask(format="json", timeframe=1)
    found = msgspec.json.decode(data)
    assert (found["mean_mid"], found["count"]) == ([99.5, None], [1, 0])
    _, data = await desk.ask("imbalance", format="json")
    assert msgspec.json.decode(data)["book_60s"] == [None]
    _, data = await desk.ask(format="arrow")
    table = pa.ipc.open_stream(io.BytesIO(data)).read_all()
    assert table["ask_price"].type == pa.list_(pa.float64(), 20)
    assert table["ask_size"][0].as_py()[:2] == [0.02, 0.021]


async def test_changes_of_books_are_complete_as_far_as_the_database_is(desk: Desk) -> None:
    first = desk.daemon.take((TRADE_KIND, trades([(0, 1, 100, 1)])))
    await desk.commit(1)
    desk.daemon.take((TRADE_KIND, trades([(1, 2, 100, 1)])))
    answer, _ = await desk.ask("book_delta")
    assert answer.meta.watermark == first.ts_known  # they have no ring


@pytest.mark.parametrize(
    ("stream", "timeframe"), [("trade", 1), ("imbalance", 60), ("buckets", 5), ("book", 86_401), ("book_delta", 1)]
)
async def test_a_timeframe_that_a_stream_has_not_is_refused_by_name(desk: Desk, stream: str, timeframe: int) -> None:
    with pytest.raises(InvalidArgument) as error:
        await desk.ask(stream, timeframe=timeframe)
    assert error.value.field == "timeframe"
