"""Late rows, repeats and new versions reach chunks that are columns already, as they reach rows."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from book_lane import imbalances
from lane import BTC, CANDLES, FUNDING, SECOND, START, bars, rates, trades
from marketd.daemon.kernel import TRADE_KIND
from marketd.market.records import BY_NAME, CandleFlag, Records, Source
from marketd.sql.connections import type_connection
from marketd.sql.partitions import PartitionKeeper
from marketd.sql.profiles import Profile
from marketd.sql.series import ensure_series_table
from marketd.sql.store import Commit, commit, split_rows, to_datetime
from marketd.sql.widths import WIDTHS

pytestmark = pytest.mark.parametrize("server", [Profile.TIMESCALE], indirect=True, ids=str)

IMBALANCE = BY_NAME["imbalance"]
ROWS, COLUMNS = BTC.id, BTC.id + 1
TABLES = ("trades", "candles_1s", "candles", "candle_versions", "imbalances", "series_funding")
REVISED = int(CandleFlag.REVISED)
type_part = tuple[Any, Records]


def stamped(records: Records, seq: int) -> Records:
    records["seq"] = np.arange(seq, seq + len(records))
    records["ts_known"] = START + seq * SECOND
    return records


def batches() -> list[list[type_part]]:
    """What comes in order, and then what comes late into it."""
    second = {"timeframe": 1, "source": Source.OWN}
    again = trades([(n * 1000, n, 100 + n, 5) for n in range(50)])
    return [
        [
            (TRADE_KIND, stamped(trades([(n * 1000, n, 100 + n, 5) for n in range(0, 100, 2)]), 1)),
            (CANDLES, stamped(bars(range(0, 100, 2), 7, **second), 101)),
            (CANDLES, stamped(bars(range(10), 7), 201)),
            (FUNDING, stamped(rates([(n * 1000, 0.5) for n in range(10)]), 301)),
            (IMBALANCE, stamped(imbalances([(n, 7) for n in range(10)]), 401)),
        ],
        # new rows between the old ones, by plain COPY
        [
            (TRADE_KIND, stamped(trades([(n * 1000, n, 100 + n, 5) for n in range(51, 100, 2)]), 501)),
            (CANDLES, stamped(bars(range(51, 100, 2), 7, **second), 601)),
        ],
        # some of it is there already: merged
        [
            (TRADE_KIND, stamped(again, 701)),
            (FUNDING, stamped(rates([(n * 1000, 0.5) for n in range(5, 15)]), 306)),
            (IMBALANCE, stamped(imbalances([(n, 7) for n in range(5, 15)]), 406)),
        ],
        # new versions, and one that says nothing new
        [
            (CANDLES, stamped(bars(range(20, 30), 9, flags=REVISED, **second), 801)),
            (CANDLES, stamped(bars(range(40, 44), 7, flags=REVISED, **second), 901)),
            (CANDLES, stamped(bars(range(3, 5), 9, flags=REVISED), 911)),
        ],
    ]


async def play(conn: type_connection, instrument: int, *, as_columns: bool) -> None:
    journal, offset = uuid4(), 0
    keeper = PartitionKeeper(Profile.TIMESCALE)
    for batch in batches():
        rows = [
            each
            for kind, records in batch
            for each in split_rows(kind, np.full(len(records), instrument, np.int32), records)
        ]
        await commit(conn, Commit(journal, "live", offset + 8, START, rows, None, [], [], offset), keeper)
        offset += 8
        if as_columns:
            await compress(conn, *TABLES)


async def compress(conn: type_connection, *tables: str) -> None:
    for table in tables:
        await conn.execute(f"SELECT compress_chunk(chunk) FROM show_chunks('{table}') chunk")


async def content(conn: type_connection, table: str, instrument: int) -> list[tuple[Any, ...]]:
    rows = await conn.fetch(f"SELECT * FROM {table} WHERE instrument_id = $1 ORDER BY 2, 3, 4, 5", instrument)
    return [tuple(row)[1:] for row in rows]


async def test_whatever_comes_late_leaves_the_same_rows_in_columns_as_in_rows(conn: type_connection) -> None:
    await ensure_series_table(conn, "funding", dict(FUNDING.fields))
    await play(conn, ROWS, as_columns=False)
    await play(conn, COLUMNS, as_columns=True)
    for table in TABLES:
        expected = await content(conn, table, ROWS)
        assert expected and await content(conn, table, COLUMNS) == expected, table
    is_compressed = "SELECT bool_and(is_compressed) FROM timescaledb_information.chunks WHERE hypertable_name = $1"
    assert [await conn.fetchval(is_compressed, table) for table in TABLES] == [True] * len(TABLES)


async def test_every_keys_columns_are_in_the_columnstores_order(conn: type_connection) -> None:
    """Else a late row is looked for in all batches of its instrument."""
    await ensure_series_table(conn, "funding", dict(FUNDING.fields))
    for table in (*WIDTHS, "series_funding"):
        row = await conn.fetchrow(
            "SELECT segmentby, orderby FROM timescaledb_information.hypertable_columnstore_settings"
            " WHERE hypertable = $1::regclass",
            table,
        )
        key = await conn.fetchval("SELECT pg_get_indexdef(to_regclass($1 || '_key'))", table)
        columns = {part.split()[0] for part in key.rpartition("(")[2].rstrip(")").split(", ")}
        assert row is not None, table
        ordered = {part.split()[0] for part in row["orderby"].split(",")}
        assert columns <= ordered | set(row["segmentby"].split(",")), table


async def test_more_rows_of_a_compressed_chunk_may_change_than_timescaledb_allows_by_default(
    conn: type_connection,
) -> None:
    """A bound of 100,000 (53400): a whole day that was computed anew would wait for ever."""
    count = 100_500
    await conn.execute(
        "INSERT INTO candles_1s"
        " SELECT $1, $2::timestamptz + n * interval '1 second', now(), n, 1, 7, 7, 7, 7, 1, 1, 1, 1, 0"
        " FROM generate_series(0, $3 - 1) n",
        BTC.id,
        to_datetime(START),
        count,
    )
    await compress(conn, "candles_1s")
    revised = bars(range(count), 9, timeframe=1, source=Source.OWN, flags=REVISED)
    rows = split_rows(CANDLES, np.full(count, BTC.id, np.int32), stamped(revised, count))
    await commit(conn, Commit(uuid4(), "live", 8, START, rows, None, [], []), PartitionKeeper(Profile.TIMESCALE))
    assert await conn.fetchval("SELECT count(*) FROM candles_1s WHERE open = 9") == count
    assert await conn.fetchval("SELECT count(*) FROM candle_versions") == count
