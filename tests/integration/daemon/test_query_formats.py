"""The formats of an answer: records, rows as PostgreSQL copied them, packed blocks, JSON and Arrow."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from desk import Desk, by_time, decoded, same, take_some
from lane import BTC, FUNDING, SECOND, START, rates
from marketd.daemon.kernel import COVERAGE_KIND, coverage_record
from marketd.ipc.protocol import Bars, Rows
from marketd.market.records import Coverage
from marketd.market.times import ABSENT
from marketd.sql.profiles import Profile
from packed import pack_all

# what differs between the profiles is below the statements, which test_sql_read.py tries on both
pytestmark = pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)


@pytest.mark.parametrize("committed", [0, 1])
@pytest.mark.parametrize("wanted", ["records", "copy", "packed", "json", "arrow"])
async def test_every_format_has_the_same_numbers(desk: Desk, wanted: Any, committed: int) -> None:
    take_some(desk, 0)
    if committed:
        await desk.commit(1)
    expected = await desk.rows()
    answer, frames = await desk.ask(Rows(symbol=BTC.name, stream="trade", format=wanted))
    (described,) = answer.parts
    assert (described.name, described.count) == ("trade", 3)
    if wanted in ("records", "copy", "packed"):  # nothing is packed yet
        assert described.encoding == ("copy" if wanted != "records" and committed else "records")
        assert same(by_time(decoded(described, frames[0])), expected)
        return
    table = msgspec.json.decode(frames[0]) if wanted == "json" else _arrow(frames[0])
    assert table["price"] == [1.0, 1.01, 1.02]
    assert table["size"] == [0.005] * 3
    assert table["seq"] == expected["seq"].tolist()
    assert table["ts_event"] == expected["ts_event"].tolist()


async def test_packed_blocks_that_have_all_of_an_answer_leave_as_they_are(desk: Desk) -> None:
    take_some(desk, 0)
    await desk.commit(1)
    spans: list[dict[str, Any]] = [{}, {"start": START + SECOND}, {"start": START, "limit": 2}]  # cut by the caller
    expected = [(await desk.rows(**span), await desk.bars(1, **span)) for span in spans]
    async with desk.database.acquire() as conn:
        await pack_all(conn, block_rows=1)
    for span, (trades_, bars_) in zip(spans, expected, strict=True):
        for request, records in (
            (Rows(symbol=BTC.name, stream="trade", format="packed", **span), trades_),
            (Bars(symbol=BTC.name, timeframes=[1], format="packed", **span), bars_),
        ):
            answer, frames = await desk.ask(request)
            (part,) = answer.parts
            assert part.encoding == "packed" and len(part.blocks) >= len(set(records[records.dtype.names[0]].tolist()))
            assert same(by_time(decoded(part, frames[0]))[-len(records) :], by_time(records))
            for other in ("records", "copy"):
                answer, frames = await desk.ask(msgspec.structs.replace(request, format=other))
                assert answer.parts[0].encoding == "records"
                assert same(by_time(decoded(answer.parts[0], frames[0])), by_time(records))


def _arrow(data: Any) -> dict[str, Any]:
    with pa.ipc.open_stream(io.BytesIO(data)) as stream:
        columns: dict[str, Any] = stream.read_all().to_pydict()
    return columns


async def test_absent_numbers_are_null_in_json_and_nan_in_arrow(desk: Desk) -> None:
    records = rates([(0, float("nan"))])
    records["mark"] = ABSENT
    desk.daemon.take((FUNDING, records))
    for wanted in ("json", "arrow"):
        _, frames = await desk.ask(Rows(symbol=BTC.name, stream="funding", format=wanted))
        table = msgspec.json.decode(frames[0]) if wanted == "json" else _arrow(frames[0])
        assert all(value is None or value != value for value in (*table["mark"], *table["rate"]))
        assert (table["order"], table["ts_next"]) == ([6], [7])


async def test_the_ledgers_reasons_are_texts_in_json(desk: Desk) -> None:
    desk.daemon.take((COVERAGE_KIND, coverage_record(Coverage.GAP, START, START + 1000, stream=1, reason="lost")))
    _, frames = await desk.ask(Rows(symbol=BTC.name, stream="coverage", format="json"))
    assert msgspec.json.decode(frames[0])["reason"] == ["lost"]


async def test_several_timeframes_are_one_answer_in_their_order(desk: Desk) -> None:
    take_some(desk, 0)
    answer, frames = await desk.ask(Bars(symbol=BTC.name, timeframes=[60, 1, 120], bar_source="own"))
    assert [part.name for part in answer.parts] == ["candle.1m", "candle.1s", "candle.2m"]
    assert [len(decoded(p, f)) for p, f in zip(answer.parts, frames, strict=True)] == [1, 2, 1]
