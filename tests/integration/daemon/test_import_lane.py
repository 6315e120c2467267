"""The import lane over a real database: late trades, frames too long for the journal, nothing left open."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from integration.daemon.lanes import Frame, Lane
from lane import SECOND, START
from marketd.daemon.import_lane import CaptureImport
from marketd.daemon.settings import Stream
from marketd.ipc import journal_settings
from marketd.market.records import CandleFlag, Coverage
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.profiles import Profile
from marketd.sql.series import ensure_series_table

# what differs between the profiles is below the statements, which test_sql_store.py tries on both
pytestmark = pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)


def trade(number: int, second: float, size: str = "1") -> Frame:
    """One of Binance's messages; it arrives as the id says, whatever its time."""
    data = {
        "e": "trade", "E": 0, "s": "BTCUSDT", "t": number, "p": "100.00", "q": size,
        "T": START // 10**6 + round(second * 1000), "m": False, "M": True,
    }  # fmt: skip
    return START + number * SECOND, json.dumps({"stream": "btcusdt@trade", "data": data}).encode()


@pytest.fixture
async def lane(database: str, tmp_path: Path) -> AsyncIterator[Lane]:
    async with DatabaseConnectionManager(database, actor="import-test") as manager:
        yield Lane(tmp_path, manager)


SECONDS = (
    f"SELECT extract(epoch FROM ts)::bigint - {START // SECOND}, volume, trade_count, flags FROM candles_1s ORDER BY ts"
)


async def test_a_bar_whose_late_trade_comes_after_the_fold_forgot_it_is_computed_from_the_stored_ones(
    lane: Lane,
) -> None:
    in_time = [trade(number, number) for number in range(1, 101)]
    await lane.run([*in_time, trade(101, 2.5, "7"), trade(102, 102)])
    found = {second: rest for second, *rest in await lane.fetch(SECONDS)}
    assert found[3] == [1, 1, 0]
    assert found[2] == [8, 2, int(CandleFlag.REVISED)]
    versions = await lane.fetch("SELECT volume FROM candle_versions WHERE timeframe = 1")
    assert versions == [(1,)]


async def test_bars_that_an_interrupted_import_left_are_computed_by_the_next(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed(self: CaptureImport) -> bool:
        raise KeyboardInterrupt

    frames = [*(trade(number, number) for number in range(1, 101)), trade(101, 2.5, "7")]
    with monkeypatch.context() as patch:
        patch.setattr(CaptureImport, "_rebuild", killed)
        with pytest.raises(KeyboardInterrupt):
            await lane.run(frames)
    assert (await lane.fetch(SECONDS))[1][1] == 1
    report = await lane.run(frames)
    assert report.known == 101
    assert (await lane.fetch(SECONDS))[1][1:3] == (8, 2)


async def test_a_message_that_no_frame_of_the_journal_can_hold_does_not_end_an_import(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_settings.Settings, "max_frame_bytes", 2_000)
    report = await lane.run([trade(1, 1), trade(2, 2, "x" * 10_000), trade(3, 3)])
    assert (report.trades, report.refused) == (2, 1)
    ((kept, detail),) = await lane.fetch("SELECT length(payload), detail FROM quarantine")
    assert 0 < kept < 2_000
    assert "only its beginning is kept" in detail


LEDGER = f"""
SELECT state, extract(epoch FROM ts_start)::bigint - {START // SECOND} FROM coverage ORDER BY seq
"""


async def test_what_an_import_observed_ends_with_its_files_and_goes_on_with_the_next(lane: Lane) -> None:
    first = [trade(number, number) for number in range(1, 5)]
    await lane.run(first)
    told = [(Coverage.OBSERVED, 1), (Coverage.ENDED, 4)]
    assert await lane.fetch(LEDGER) == told
    await lane.run(first)  # brings nothing new
    assert await lane.fetch(LEDGER) == told
    await lane.run([trade(number, number + 10) for number in (5, 6)])
    told += [(Coverage.OBSERVED, 4), (Coverage.ENDED, 16)]  # the ids show that nothing was traded between
    assert await lane.fetch(LEDGER) == told
    await lane.run([trade(number, number + 10) for number in (9, 10)])
    assert await lane.fetch(LEDGER) == [*told, (Coverage.OBSERVED, 16), (Coverage.GAP, 16), (Coverage.ENDED, 20)]


GAPS = f"""
SELECT extract(epoch FROM ts_start)::bigint - {START // SECOND}, extract(epoch FROM ts_end)::bigint - {START // SECOND},
       detail FROM coverage WHERE state = {int(Coverage.GAP)} ORDER BY seq
"""


async def test_a_gap_before_trades_that_are_refused_is_told_once_with_the_next_that_is_kept(lane: Lane) -> None:
    refused = [trade(number, number + 500) for number in range(5, 9)]  # of a time that is still to come
    report = await lane.run([trade(1, 1), trade(2, 2), *refused, trade(9, 9), trade(10, 10), trade(13, 13)])
    assert (report.refused, report.rules) == (4, {"max_skew": 4})
    assert await lane.fetch(GAPS) == [(2, 9, 6), (10, 13, 2)]


async def test_an_import_of_refused_trades_alone_claims_nothing(lane: Lane) -> None:
    report = await lane.run([trade(number, number + 500) for number in range(1, 4)])
    assert report.refused == 3
    assert [event for event in await lane.fetch(LEDGER) if event[0] == Coverage.OBSERVED and event[1] > 400] == []


async def test_an_import_leaves_no_file_open(lane: Lane) -> None:
    def journal_files() -> list[str]:
        names = (os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd))
        return [name for name in names if str(lane.directory) in name]

    await lane.run([trade(1, 1), trade(2, 2)])
    assert journal_files() == []


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


async def test_many_late_trades_are_taken_in_pieces(lane: Lane) -> None:
    count = 200
    in_time = [trade(number, number) for number in range(1, count + 1)]
    late = [trade(count + number, number + 0.5) for number in range(1, count - 20)]
    await lane.run([*in_time, *late])
    found = await lane.fetch(SECONDS)
    assert [row[1] for row in found[: count - 21]] == [2] * (count - 21)
    assert all(row[3] & CandleFlag.REVISED for row in found[1 : count - 21])


async def test_an_import_closes_bars_by_activity_and_goes_on_with_the_forming_one(lane: Lane) -> None:
    lane.config = msgspec.structs.replace(lane.config, activity_bars={"*": ("tick:2", "volume:3")})
    await lane.run([trade(number, number) for number in (1, 2, 3)])
    await lane.run([trade(number, number, "2") for number in (4, 5, 8)])  # 6 and 7 are in no recording
    found = await lane.fetch("SELECT measure, volume, trade_count, flags FROM v_activity_bars ORDER BY seq")
    assert found == [
        ("tick", 2.0, 2, 0),
        ("volume", 3.0, 3, 0),
        ("tick", 3.0, 2, 0),
        ("volume", 4.0, 2, 0),
        ("tick", 4.0, 2, 1),
    ]


def mark(number: int) -> Frame:
    data = {
        "e": "markPriceUpdate", "E": START // 10**6 + number * 1000, "s": "BTCUSDT", "p": f"{100 + number}.5",
        "i": "100", "r": "0.0001", "T": START // 10**6 + 3_600_000,
    }  # fmt: skip
    return START + number * SECOND, json.dumps({"stream": "btcusdt@markPrice@1s", "data": data}).encode()


async def test_a_declared_series_is_imported_and_an_import_run_again_doubles_none(lane: Lane) -> None:
    lane.venue = "BINANCE_FUTURES"
    fields = {"rate": "f8"}
    lane.config = msgspec.structs.replace(lane.config, streams={"funding": Stream(fields=fields)})
    async with lane.database.acquire() as conn:
        await ensure_series_table(conn, "funding", fields)
    frames = [trade(1, 1), *map(mark, (2, 3))]
    report = await lane.run(frames)
    assert report.others["funding"] == 2
    again = await lane.run([*frames, mark(4)])
    assert again.others["funding"] == 1
    assert await lane.fetch("SELECT rate FROM series_funding ORDER BY ts_event") == [(0.0001,)] * 3
