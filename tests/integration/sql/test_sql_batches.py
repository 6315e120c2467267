"""Compressed batches, read as they are, give what rows give; and what is not as it was tested is read as rows."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from integration.sql.test_sql_rights import as_role
from lane import BTC, CANDLES, SECOND, START, bars
from marketd.daemon.answers import finish_rows
from marketd.daemon.kernel import TRADE_KIND
from marketd.market.bars import finish_bars, newest_versions
from marketd.market.batches import UnknownBatch, integers, plain_integers
from marketd.market.records import BY_NAME, Records
from marketd.market.rows import codec
from marketd.sql import read_batches
from marketd.sql.connections import DatabaseConnectionManager, type_connection
from marketd.sql.copy import answer_room, copy_in
from marketd.sql.picture import one_picture
from marketd.sql.profiles import Profile
from marketd.sql.read import END_OF_TIME, NO_LIMIT, CopiedRows, Span, read_bars, read_rows
from marketd.sql.read_books import read_versions
from marketd.sql.read_packed import PackedSpan

pytestmark = pytest.mark.parametrize("server", [Profile.TIMESCALE], indirect=True, ids=str)

DAY = 86_400 * SECOND
KNOWN = START + 30 * DAY  # and a second more with each seq
FIRST = START // (7 * DAY) * 7 * DAY + 3 * DAY  # all of it in one piece of every table
IMBALANCE = BY_NAME["imbalance"]
STREAMS = {"trade": TRADE_KIND, "imbalance": IMBALANCE}
BATCHES = (
    "SELECT compress_relid::regclass::text FROM _timescaledb_catalog.compression_settings"
    " WHERE compress_relid IS NOT NULL"
)
TOLD = "_timescaledb_functions.compressed_data_send({0}) AS {0}"
ALL_BARS = PackedSpan("candles_1s", CANDLES, BTC.id, *Span().bounds(), END_OF_TIME, timeframe=1)
COMPRESS = "SELECT compress_chunk(chunk) FROM show_chunks('{}') chunk"


@pytest.fixture(autouse=True)
def _batches_of_all_sizes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(read_batches, "LEAST_ROWS", 1)
    read_batches._told.clear()
    yield
    read_batches._told.clear()


def wild(records: Records, seed: int, kept: tuple[str, ...]) -> Records:
    """Numbers of all widths in fields that are not `kept`: noise, runs, slopes, extremes, absent ones."""
    random = np.random.default_rng(seed)
    for place, name in enumerate(name for name in records.dtype.names or () if name not in kept):
        least, greatest = np.iinfo(records.dtype[name]).min, np.iinfo(records.dtype[name]).max
        bits = random.integers(0, 8 * records.dtype[name].itemsize - 1, len(records))
        values = random.integers(least, greatest, len(records), dtype=np.int64, endpoint=True) >> bits
        if place % 3 == 0:
            values = np.sort(values // 8) // 2
        if place % 3 == 1:
            values[len(values) // 3 :] = values[0]
        values[[3, 4, 7]] = least, greatest, least
        records[name] = values
    return records


def known(records: Records, seq: int) -> Records:
    records["seq"] = np.arange(seq, seq + len(records))
    records["ts_known"] = KNOWN + records["seq"] * SECOND
    return records


def some_bars(seconds: range, seq: int, timeframe: int, source: int = 1) -> Records:
    found = known(bars([0] * len(seconds), timeframe=timeframe, source=source), seq)
    found["ts"] = FIRST + np.array(seconds) * timeframe * SECOND
    return wild(found, seq, ("ts", "ts_known", "seq", "timeframe", "source"))


def some_rows(stream: str, seconds: range, seq: int) -> Records:
    kind = STREAMS[stream]
    found = known(np.zeros(len(seconds), kind.dtype), seq)
    found["ts_event"] = FIRST + np.array(seconds) * SECOND
    found = wild(found, seq, ("ts_event", "ts_known", "seq"))
    if stream == "trade":
        found["trade_id"] = found["seq"]
    return found


async def put(conn: type_connection, table: str, kind: Any, records: Records) -> None:
    data = codec(table, kind).encode(np.full(len(records), BTC.id, np.int32), records)
    await copy_in(conn, table, codec(table, kind).columns, data)


async def asked(connections: DatabaseConnectionManager, stream: str, span: Span, **options: Any) -> bool:
    """Both ways give the same; whether the first of them read batches."""
    async with one_picture(connections, time.monotonic() + 60) as conn:
        batched, rows = [await answer(conn, stream, span, pictured, options) for pictured in (True, False)]
    assert rows.joined is None
    found, expected = (finished(stream, each, options) for each in (batched, rows))
    assert found.tobytes() == expected.tobytes(), (stream, span, options)
    return batched.joined is not None


async def answer(conn: type_connection, stream: str, span: Span, pictured: bool, options: dict[str, Any]) -> CopiedRows:
    if stream.isdigit():
        return await read_bars(conn, BTC.id, int(stream), span, pictured=pictured, **options)
    if stream == "imbalance":
        return await read_versions(conn, BTC.id, IMBALANCE, span, pictured=pictured, **options)
    return await read_rows(conn, BTC.id, TRADE_KIND, span, pictured=pictured, **options)


def finished(stream: str, copied: CopiedRows, options: dict[str, Any]) -> Records:
    """As an answer has them."""
    if not stream.isdigit():
        return finish_rows(copied.records(), options.get("limit"), newest=options.get("newest", True))
    return finish_bars(copied.records(), options.get("bar_source", "best"), options.get("limit"))


async def ask_everything(connections: DatabaseConnectionManager, stream: str) -> None:
    """Of many stretches, limits, moments and sources; of all that there is by batches."""
    width = int(stream) * SECOND if stream.isdigit() else SECOND
    stretches = [
        Span(FIRST, FIRST + 100_000 * width),
        Span(FIRST + 700 * width, FIRST + 2100 * width),
        Span(FIRST + 1000 * width, FIRST + 1000 * width + 1000),
        Span(None, FIRST + 1500 * width),
        Span(FIRST - 9 * DAY, None),
        Span(None, None),
    ]
    for number, span in enumerate(stretches):
        for limit in (None, 1, 700, 1300):
            for known_at in (None, *(KNOWN + seq * SECOND for seq in (1700, 5050, 12_000)))[: 4 - number // 2]:
                options: dict[str, Any] = {"limit": limit, "known_at": known_at}
                if stream.isdigit():
                    options["bar_source"] = ("best", "own", "venue")[number % 3]
                await asked(connections, stream, span, **options)
    assert await asked(connections, stream, Span(None, None))
    if not stream.isdigit():
        assert not await asked(connections, stream, Span(None, None), limit=5, newest=False)


@pytest.mark.parametrize("stream", ["1", "60"])
async def test_bars_of_batches_are_those_of_rows(
    connections: DatabaseConnectionManager, conn: type_connection, stream: str
) -> None:
    timeframe, table = int(stream), "candles_1s" if stream == "1" else "candles"
    await put(conn, table, CANDLES, some_bars(range(2500), 1, timeframe))
    await put(conn, table, CANDLES, some_bars(range(0, 2500, 2), 3001, timeframe, source=2))
    await put(conn, "candles", CANDLES, some_bars(range(100), 9001, 300))  # of another timeframe
    await conn.execute(COMPRESS.format(table))
    await ask_everything(connections, stream)
    # late ones beside batches, replaced ones, and a piece of rows alone
    await put(conn, table, CANDLES, some_bars(range(2400, 2600), 5001, timeframe, source=3))
    far = 200 * DAY // SECOND // timeframe
    await put(conn, table, CANDLES, some_bars(range(far, far + 50), 6001, timeframe))
    replaced = some_bars(range(700, 720), 701, timeframe)
    await put(conn, "candle_versions", CANDLES, replaced)
    later = "seq = seq + 9000, ts_known = ts_known + interval '9000 s'"
    await conn.execute(f"UPDATE {table} SET close = 7, {later} WHERE seq BETWEEN 701 AND 720")
    await ask_everything(connections, stream)
    # and all of it compressed anew
    await conn.execute(COMPRESS.format(table))
    await conn.execute(COMPRESS.format("candle_versions"))
    await ask_everything(connections, stream)


@pytest.mark.parametrize("stream", ["trade", "imbalance"])
async def test_records_of_batches_are_those_of_rows(
    connections: DatabaseConnectionManager, conn: type_connection, stream: str
) -> None:
    table, kind = STREAMS[stream].table or "", STREAMS[stream]
    await put(conn, table, kind, some_rows(stream, range(2500), 1))
    await put(conn, table, kind, some_rows(stream, range(0, 2500, 5), 3001))  # a second of each moment
    await conn.execute(COMPRESS.format(table))
    await ask_everything(connections, stream)
    await put(conn, table, kind, some_rows(stream, range(2400, 2600), 5001))
    await put(conn, table, kind, some_rows(stream, range(20 * DAY // SECOND, 20 * DAY // SECOND + 50), 6001))
    await conn.execute(f"DELETE FROM {table} WHERE seq BETWEEN 900 AND 910")
    await ask_everything(connections, stream)
    await conn.execute(COMPRESS.format(table))
    await ask_everything(connections, stream)


async def test_a_limit_is_reached_by_what_was_known(
    connections: DatabaseConnectionManager, conn: type_connection
) -> None:
    """The newest were not, and what overlaps their batch is not all that there was before them."""
    for source in (1, 2):
        found = some_bars(range(0, 2500, source), 1, 1, source)
        found["ts_known"][found["ts"] >= FIRST + 1500 * SECOND] += DAY
        await put(conn, "candles_1s", CANDLES, found)
    await conn.execute(COMPRESS.format("candles_1s"))
    assert not await asked(connections, "1", Span(None, None), limit=100, known_at=KNOWN + 4000 * SECOND)
    assert await asked(connections, "1", Span(None, None), limit=100, known_at=KNOWN + 2 * DAY)


async def test_what_lies_beside_batches_is_read_only_where_it_is_less_than_the_limit(
    connections: DatabaseConnectionManager, conn: type_connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(conn, "candles_1s", CANDLES, some_bars(range(2000), 1, 1))
    await conn.execute(COMPRESS.format("candles_1s"))
    await put(conn, "candles_1s", CANDLES, some_bars(range(2000, 2300), 3001, 1))
    assert not await asked(connections, "1", Span(None, None), limit=300, bar_source="own")
    assert await asked(connections, "1", Span(None, None), limit=301, bar_source="own")
    assert await asked(connections, "1", Span(None, None), limit=2300, bar_source="own")  # more than batches have
    assert await asked(connections, "1", Span(None, None))
    monkeypatch.setattr(read_batches, "_MOST_BYTES", 2200 * CANDLES.dtype.itemsize)  # of both together
    assert not await asked(connections, "1", Span(None, None), limit=2300, bar_source="own")


@pytest.mark.parametrize("decode", [plain_integers, integers])
async def test_columns_are_what_the_server_makes_of_them(conn: type_connection, decode: Any) -> None:
    records = some_bars(range(3000), 1, 1)
    await put(conn, "candles_1s", CANDLES, records)
    await conn.execute(COMPRESS.format("candles_1s"))
    batches = await conn.fetchval(BATCHES)
    for name in ("open", "high", "low", "close", "volume", "flags", "seq"):
        told = await conn.fetch(
            f"SELECT {TOLD.format(name)}, _ts_meta_count AS rows FROM {batches} ORDER BY _ts_meta_max_1 DESC"
        )
        found = decode([row[name] for row in told], np.array([row["rows"] for row in told]))
        assert found[::-1].tolist() == records[name].tolist(), name


async def test_what_has_nulls_or_no_integers_is_unknown(conn: type_connection) -> None:
    await conn.execute(
        "CREATE TABLE odd (ts timestamptz NOT NULL, few bigint, none bigint, reals float8, word text);"
        "SELECT create_hypertable('odd', by_range('ts'));"
        "ALTER TABLE odd SET (timescaledb.enable_columnstore, timescaledb.orderby = 'ts');"
        "INSERT INTO odd SELECT to_timestamp(n), nullif(n, 5), NULL, n, n FROM generate_series(1, 30) n"
    )
    await conn.execute(COMPRESS.format("odd"))
    batches = await conn.fetchval(BATCHES)
    told = ", ".join(TOLD.format(name) for name in ("ts", "few", "reals", "word"))
    row = await conn.fetchrow(f"SELECT {told} FROM {batches}")
    assert row is not None
    for decode in (plain_integers, integers):
        assert decode([row["ts"]], np.array([30])).tolist() == [(n - 946_684_800) * 10**6 for n in range(1, 31)]
        for name in ("few", "reals", "word"):
            with pytest.raises(UnknownBatch):
                decode([row[name]], np.array([30]))


# ---- what is not as it was tested ---------------------------------------------------------------------


@pytest.fixture
async def stored(conn: type_connection) -> type_connection:
    """A connection to a database with two thousand bars in batches."""
    await put(conn, "candles_1s", CANDLES, some_bars(range(2000), 1, 1))
    await conn.execute(COMPRESS.format("candles_1s"))
    return conn


async def test_another_version_is_read_as_rows(
    connections: DatabaseConnectionManager, stored: type_connection, monkeypatch: Any, caplog: Any
) -> None:
    monkeypatch.setattr(read_batches, "_TESTED", re.compile("1"))
    for _ in range(2):
        assert not await asked(connections, "1", Span(None, None))
    assert [each.action for each in caplog.records] == ["batches_not_read"]


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE {batches} RENAME volume TO volumes",
        "ALTER TABLE {batches} RENAME _ts_meta_max_1 TO _ts_meta_max_one",
        "UPDATE _timescaledb_catalog.compression_settings SET orderby = '{{seq}}' WHERE compress_relid IS NOT NULL",
        "UPDATE _timescaledb_catalog.chunk SET status = 17",
        "UPDATE {batches} SET volume = NULL",
        "UPDATE {batches} SET _ts_meta_count = _ts_meta_count - 1",
    ],
)
async def test_a_chunk_that_looks_otherwise_is_left_to_the_server(
    connections: DatabaseConnectionManager, stored: type_connection, change: str, caplog: Any
) -> None:
    batches = await stored.fetchval(BATCHES)
    await stored.execute(change.format(batches=batches))
    async with one_picture(connections, time.monotonic() + 60) as conn:
        assert await read_batches.read_batches(conn, ALL_BARS, NO_LIMIT) is None
    assert [each.action for each in caplog.records] == ["batches_not_read"]


async def test_unknown_batches_are_read_once_in_a_session(
    connections: DatabaseConnectionManager, stored: type_connection, monkeypatch: Any
) -> None:
    await stored.execute(f"UPDATE {await stored.fetchval(BATCHES)} SET volume = NULL")
    await put(stored, "trades", TRADE_KIND, some_rows("trade", range(50), 1))
    await stored.execute(COMPRESS.format("trades"))
    unpacked, seen = read_batches.unpacked, []
    monkeypatch.setattr(read_batches, "unpacked", lambda *args: seen.append(args) or unpacked(*args))
    async with one_picture(connections, time.monotonic() + 60) as conn:
        for _ in range(3):
            assert (await read_bars(conn, BTC.id, 1, Span(None, None), pictured=True)).joined is None
        assert len(seen) == 1
        # those of another table are known
        assert (await read_rows(conn, BTC.id, TRADE_KIND, Span(None, None), pictured=True)).joined is not None


async def test_a_statement_that_fails_costs_no_answer(
    connections: DatabaseConnectionManager, stored: type_connection, monkeypatch: Any, caplog: Any
) -> None:
    statement = read_batches._BATCHES["batches"].replace("_ts_meta_count", "_ts_meta_number")
    monkeypatch.setitem(read_batches._BATCHES, "batches", statement)
    for _ in range(2):
        assert not await asked(connections, "1", Span(None, None))
    assert [each.action for each in caplog.records] == ["batches_not_read"]


async def test_rows_have_the_room_that_batches_took_in_vain(
    connections: DatabaseConnectionManager, stored: type_connection, monkeypatch: Any
) -> None:
    async with one_picture(connections, time.monotonic() + 60) as conn:
        expected = await read_bars(conn, BTC.id, 1, Span(None, None))
        with answer_room(len(expected.data)):
            assert (await read_bars(conn, BTC.id, 1, Span(None, None), pictured=True)).joined is not None
        monkeypatch.setitem(read_batches._BATCHES, "are_same", "SELECT ($1::oid[], $2::text[], $3::oid[]) IS NULL")
        with answer_room(len(expected.data)):
            found = await read_bars(conn, BTC.id, 1, Span(None, None), pictured=True)
    assert found.data == expected.data


async def test_a_transaction_goes_on_without_batches_that_are_gone(
    connections: DatabaseConnectionManager, stored: type_connection, caplog: Any
) -> None:
    async with one_picture(connections, time.monotonic() + 60) as conn:
        await conn.fetchval("SELECT count(*) FROM instruments")
        await stored.execute(COMPRESS.replace("compress", "decompress").format("candles_1s"))
        assert await read_batches.read_batches(conn, ALL_BARS, NO_LIMIT) is None
        assert await conn.fetchval("SELECT count(*) FROM instruments") == 0
    assert not caplog.records


async def test_readers_may_read_batches_and_rows_where_they_may_not(
    database: str, stored: type_connection, caplog: Any
) -> None:
    async with DatabaseConnectionManager(as_role(database, "marketd_reader"), actor="test") as reader:
        assert await asked(reader, "1", Span(None, None))
        assert not caplog.records
        await stored.execute(f"REVOKE SELECT ON {await stored.fetchval(BATCHES)} FROM marketd_reader")
        assert not await asked(reader, "1", Span(None, None))
    assert [each.action for each in caplog.records] == ["batches_not_read"]


@pytest.mark.parametrize(
    "meanwhile",
    [
        COMPRESS.format("candles_1s"),
        "DELETE FROM candles_1s WHERE seq < 50",
        "UPDATE candles_1s SET close = 9 WHERE seq < 50",
    ],
)
@pytest.mark.parametrize("before", ["rows", "batches", "both"])
async def test_what_wanders_meanwhile_is_neither_missed_nor_seen_twice(
    connections: DatabaseConnectionManager, conn: type_connection, before: str, meanwhile: str, caplog: Any
) -> None:
    await put(conn, "candles_1s", CANDLES, some_bars(range(14 * DAY // SECOND, 14 * DAY // SECOND + 90), 5001, 1))
    await conn.execute(COMPRESS.format("candles_1s"))  # another piece, so that batches are looked for
    await put(conn, "candles_1s", CANDLES, some_bars(range(2000), 1, 1))
    if before != "rows":
        await conn.execute(COMPRESS.format("candles_1s"))
    if before == "both":
        await put(conn, "candles_1s", CANDLES, some_bars(range(2000, 2100), 3001, 1))
    expected = newest_versions((await read_bars(conn, BTC.id, 1, Span(None, None))).records())
    async with one_picture(connections, time.monotonic() + 60) as picture:
        await picture.fetchval("SELECT count(*) FROM instruments")  # here it was taken
        await conn.execute(meanwhile)
        found = await read_bars(picture, BTC.id, 1, Span(None, None), pictured=True)
    assert len(found.records()) == len(expected)
    assert newest_versions(found.records()).tobytes() == expected.tobytes()
    assert not caplog.records  # as it should be
