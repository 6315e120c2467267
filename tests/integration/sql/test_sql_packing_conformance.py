"""Rows and blocks answer as rows alone: two instruments get the same records, and only those of one are ever packed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from book_lane import books, buckets, imbalances
from lane import BTC, CANDLES, SECOND, START, bars, trades
from marketd.daemon.answers import finish_rows
from marketd.daemon.kernel import TRADE_KIND
from marketd.daemon.rebuild import rebuilt_bars
from marketd.market.bars import finish_bars
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME, CandleFlag, Records
from marketd.sql.connections import type_connection
from marketd.sql.profiles import Profile
from marketd.sql.read import Span, read_bars, read_rows
from marketd.sql.read_books import read_book_means, read_versions
from packed import KNOWN, Lane, pack_all

pytestmark = pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)
BOOK, IMBALANCE, BUCKETS = BY_NAME["book"], BY_NAME["imbalance"], BY_NAME["buckets"]
BLOCK_ROWS = 7  # so that a few records are several blocks
_ids = itertools.count(100_000)
_numbers = st.lists(st.integers(0, 60), min_size=1, max_size=12)
# a second each, from a minute before midnight on: the stretches of two days
_makers: dict[str, Callable[[list[int], int], tuple[Any, Records]]] = {
    "trades": lambda numbers, price: (TRADE_KIND, trades([(2500 * n, n, price, 5 + n) for n in numbers])),
    "bars": lambda numbers, price: (CANDLES, bars(numbers, price, timeframe=1, source=1 + price % 2)),
    "versions": lambda numbers, price: (
        CANDLES,
        bars(numbers, price, timeframe=1, source=1, flags=CandleFlag.REVISED | price % 2),
    ),
    "books": lambda numbers, price: (BOOK, books([(2500 * n, price, price + 2, 1 + n % 3) for n in numbers])),
    "imbalances": lambda numbers, price: (IMBALANCE, imbalances([(2 * n, price) for n in numbers])),
    "buckets": lambda numbers, price: (BUCKETS, buckets([(n, price) for n in numbers], 1 + 59 * (price % 2))),
}
_writes = st.tuples(st.sampled_from(sorted(_makers)), _numbers, st.integers(90, 99))
_steps = st.lists(st.one_of(_writes, _writes, st.just("pack")), min_size=2, max_size=14)
_times = st.one_of(st.none(), st.integers(0, 160))


async def write(lanes: dict[int, Lane], step: Any, number: int) -> None:
    """The records of a step for both instruments, with the same stamps."""
    name, numbers, price = step
    for instrument, lane in lanes.items():
        kind, records = _makers[name](sorted(numbers), price)
        records["seq"] = 1000 * number + np.arange(len(records))
        records["ts_known"] = KNOWN + number * SECOND
        await lane.commit((kind, records), instrument=instrument)


async def answers(
    conn: type_connection, instrument: Instrument, span: Span, whole: bool = False, **options: Any
) -> list[bytes]:
    """What all readers say of an instrument, in the order in which clients get it. `whole`: in blocks, too."""
    limit, newest, known_at = options["limit"], options["newest"], options["known_at"]
    found = []
    for source in ("best", "own", "venue"):
        stored = await read_bars(
            conn, instrument.id, 1, span, limit=limit, bar_source=source, known_at=known_at, whole=whole
        )
        found.append(finish_bars(stored.records(), source, limit))
    for kind in (TRADE_KIND, BOOK):
        stored = await read_rows(conn, instrument.id, kind, span, whole=whole, **options)
        found.append(finish_rows(stored.records(), limit, newest=newest))
    for kind, timeframe in ((IMBALANCE, None), (BUCKETS, 1), (BUCKETS, 60)):
        stored = await read_versions(conn, instrument.id, kind, span, timeframe=timeframe, whole=whole, **options)
        found.append(finish_rows(stored.records(), limit, newest=newest))
    for timeframe in (1, 60):
        whole = Span(*(None if t is None else t // (60 * SECOND) * 60 * SECOND for t in span))
        found.append(await read_book_means(conn, instrument, 20, timeframe, whole, **options))
    return [records.tobytes() for records in found]


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_steps, st.data())
async def test_rows_and_blocks_answer_as_rows_alone(conn: type_connection, steps: list[Any], data: Any) -> None:
    pair = [msgspec.structs.replace(BTC, id=next(_ids)) for _ in range(2)]
    lanes = {instrument.id: Lane(conn) for instrument in pair}
    for number, step in enumerate(steps, 1):
        if step == "pack":
            await pack_all(conn, [pair[0].id], BLOCK_ROWS)
            continue
        await write(lanes, step, number)
    start, end = sorted([data.draw(_times), data.draw(_times)], key=lambda t: -1 if t is None else t)
    span = Span(*(None if t is None else START + t * SECOND for t in (start, end)))
    for known in (None, KNOWN + data.draw(st.integers(0, len(steps))) * SECOND):
        for limit, newest in ((None, True), (data.draw(st.integers(1, 12)), data.draw(st.booleans()))):
            options = {"limit": limit, "newest": newest, "known_at": known}
            whole = data.draw(st.booleans())
            packed = await answers(conn, pair[0], span, whole, **options)
            assert packed == await answers(conn, pair[1], span, **options)
    replaced = [await conn.fetch(_VERSIONS, instrument.id) for instrument in pair]
    assert replaced[0] == replaced[1]
    minute = [(1, START + n * SECOND) for n in range(0, 60, 5)]
    rebuilt = [(await rebuilt_bars(conn, instrument, minute)).tobytes() for instrument in pair]
    assert rebuilt[0] == rebuilt[1]


_VERSIONS = (
    "SELECT timeframe, ts, source, seq, open, flags FROM candle_versions WHERE instrument_id = $1 ORDER BY 2, 3, 4"
)
