"""Bars by activity: stored and read back bit for bit, each once, and in real numbers for people."""

from __future__ import annotations

from uuid import uuid4

import numpy as np
import pytest

from lane import BTC, MS, SECOND, START
from marketd.market.records import ACTIVITY_BAR, BY_NAME, Measure, Records
from marketd.market.rows import codec
from marketd.sql.connections import type_connection
from marketd.sql.partitions import PartitionKeeper
from marketd.sql.profiles import detect_profile
from marketd.sql.read import Span, read_rows
from marketd.sql.store import Commit, commit, split_rows

KNOWN = START + 3600 * SECOND
KIND = BY_NAME["activity_bar"]
DAY = 86_400 * SECOND


def bars(days: list[int]) -> Records:
    """A bar a day, of each measure in turn."""
    records = np.zeros(len(days), dtype=ACTIVITY_BAR)
    for number, day in enumerate(days):
        records["ts_event"][number] = START + day * DAY
        records["measure"][number] = number % 3 + 1
    records["ts_start"], records["ts_known"] = records["ts_event"] - 5 * MS, KNOWN
    records["seq"], records["threshold"] = np.arange(1, len(days) + 1), 12_500
    for name, price in (("open", 100), ("high", 103), ("low", 99), ("close", 101)):
        records[name] = price
    records["volume"], records["quote_volume"], records["buy_volume"], records["trade_count"] = 1_500, 250, 500, 7
    return records


@pytest.fixture
async def partitions(conn: type_connection) -> PartitionKeeper:
    return PartitionKeeper(await detect_profile(conn))


async def put(conn: type_connection, partitions: PartitionKeeper, records: Records) -> None:
    rows = split_rows(KIND, np.full(len(records), BTC.id, np.int32), records)
    await commit(conn, Commit(uuid4(), "live", 8, KNOWN, rows, None, [], []), partitions)


async def test_bars_come_back_as_they_were_and_repeated_ones_count_once(
    conn: type_connection, partitions: PartitionKeeper
) -> None:
    records = bars([0, 0, 0, 1, 9])
    await put(conn, partitions, records[:4])
    await put(conn, partitions, records)  # of a journal that was replayed into the same database
    copied = await read_rows(conn, BTC.id, KIND, Span(), newest=False)
    assert codec(copied.table, copied.kind).decode(copied.data)[1].tobytes() == records.tobytes()
    newest = await read_rows(conn, BTC.id, KIND, Span(None, START + DAY), limit=2)
    assert codec(newest.table, newest.kind).decode(newest.data)[1]["seq"].tolist() == [3, 2]


async def test_the_view_shows_real_numbers_and_a_threshold_in_the_unit_of_its_measure(
    conn: type_connection, partitions: PartitionKeeper
) -> None:
    await conn.execute(
        "INSERT INTO instruments VALUES ($1, 'BTCUSDT', 'BINANCE', 'BTC', 'USDT', 'spot', 2, 3, 1, 1, 1, 0, now(), 1)",
        BTC.id,
    )
    await put(conn, partitions, bars([0, 0, 0]))
    rows = await conn.fetch("SELECT measure, threshold FROM v_activity_bars ORDER BY seq")
    assert [tuple(row) for row in rows] == [("tick", 12_500.0), ("volume", 12.5), ("dollar", 1_250.0)]
    row = await conn.fetchrow(
        "SELECT symbol, open, high, low, close, volume, quote_volume, buy_volume, trade_count, flags,"
        " ts_event - ts_start AS lasted FROM v_activity_bars WHERE measure = 'tick'"
    )
    assert tuple(row)[:-1] == ("BTCUSDT", 1.0, 1.03, 0.99, 1.01, 1.5, 25.0, 0.5, 7, 0)
    assert row["lasted"].total_seconds() == 0.005


def test_every_measure_has_a_word_in_the_view() -> None:
    assert [measure.name for measure in Measure] == ["TICK", "VOLUME", "DOLLAR"]  # as 0012 spells them
