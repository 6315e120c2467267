"""Recordings of several files, and of several connections, over a real database."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from integration.daemon.lanes import Lane
from marketd.market.records import BookState
from marketd.sql.connections import DatabaseConnectionManager
from marketd.sql.profiles import Profile

# what differs between the profiles is below the statements, which test_sql_store.py tries on both
pytestmark = pytest.mark.parametrize("server", [Profile.POSTGRES], indirect=True, ids=str)

START = 1_723_161_540
BOOKS = "SELECT state, sequence FROM book_snapshots ORDER BY seq"
LIVE = int(BookState.LIVE)


@pytest.fixture
async def lane(database: str, tmp_path: Path) -> AsyncIterator[Lane]:
    async with DatabaseConnectionManager(database, actor="import-test") as manager:
        yield Lane(tmp_path, manager)


def line(second: float, message: Any) -> str:
    """Of cryptofeed's format, received so many seconds after the start."""
    return f"{START + second:.3f}: {json.dumps(message, separators=(',', ':'))}"


def connected(second: float, url: str) -> str:
    return f"{url} <-> {START + second:.3f}"


def written(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("".join(f"{each}\n" for each in lines))
    return path


# ---- Binance: answers in a file of their own -------------------------------------------------------

BINANCE = "wss://stream.binance.com:9443/stream"
DEPTH = "https://api.binance.com/api/v3/depth?symbol=BTCUSDT&limit=1000"


def depth(second: float, number: int) -> str:
    data = {"e": "depthUpdate", "E": round((START + second) * 1000), "s": "BTCUSDT", "U": number, "u": number}
    return line(second, {"stream": "btcusdt@depth@100ms", "data": {**data, "b": [[f"{number}.0", "1"]], "a": []}})


def trade(second: float, number: int) -> str:
    time_ms = round((START + second) * 1000)
    data = {"e": "trade", "E": time_ms, "s": "BTCUSDT", "t": number, "p": "9.0", "q": "1", "T": time_ms}
    return line(second, {"stream": "btcusdt@trade", "data": {**data, "m": False, "M": True}})


def answer(second: float, body: Any) -> str:
    return f"{DEPTH} -> {START + second:.3f}: {json.dumps(body)}"


STREAM = [connected(0, BINANCE), depth(1, 11), trade(1.5, 1), depth(2, 12), depth(3, 13), trade(4, 2), depth(5, 14)]
SNAPSHOT = {"lastUpdateId": 12, "bids": [["5.0", "1"]], "asks": [["99.0", "1"]]}


@pytest.mark.parametrize("answers_first", [True, False])
async def test_a_snapshot_in_a_file_of_its_own_joins_the_changes_when_it_came(
    lane: Lane, tmp_path: Path, answers_first: bool
) -> None:
    """And whatever came is known when it was received, whichever file is named first."""
    files = [written(tmp_path / "http", [answer(2.5, SNAPSHOT)]), written(tmp_path / "ws", STREAM)]
    report = await lane.run_files(*(files if answers_first else reversed(files)))
    assert (report.trades, report.without_snapshot, report.ignored) == (2, [], {"connect line": 1})
    rows = await lane.fetch("SELECT trade_id, extract(epoch FROM ts_known)::float8 FROM trades ORDER BY trade_id")
    assert rows == [(1, START + 1.5), (2, START + 4)]
    known = f"SELECT sequence, round(extract(epoch FROM ts_known) - {START}, 3) FROM book_snapshots"
    assert await lane.fetch(f"{known} WHERE state = {LIVE} AND sequence > 12 ORDER BY seq") == [(13, 3), (14, 5)]


async def test_the_last_state_of_a_book_is_told_when_its_recording_is_over(lane: Lane, tmp_path: Path) -> None:
    """Though its interval is not; a recording that is imported again tells nothing."""
    snapshot = {"lastUpdateId": 10, "bids": [["5.0", "1"]], "asks": [["99.0", "1"]]}
    quick = [depth(1 + n / 100, 11 + n).replace(f'"{11 + n}.0","1"', f'"5.0","{n + 2}"') for n in range(5)]
    files = [written(tmp_path / "http", [answer(0.5, snapshot)]), written(tmp_path / "ws", quick)]
    last = "SELECT sequence, bid_size[1] FROM book_snapshots ORDER BY seq"
    for _ in range(2):
        await lane.run_files(*files)
        assert await lane.fetch(last) == [(11, 2), (15, 6)]


async def test_changes_without_a_snapshot_are_told_by_their_symbol(lane: Lane, tmp_path: Path) -> None:
    report = await lane.run_files(written(tmp_path / "ws", STREAM))
    assert report.without_snapshot == ["BTCUSDT"]
    assert LIVE not in {state for state, _ in await lane.fetch(BOOKS)}


async def test_an_answer_that_cannot_be_read_is_kept_in_quarantine(lane: Lane, tmp_path: Path) -> None:
    files = [written(tmp_path / "http", [answer(2.5, {"lastUpdateId": 12, "bids": [[1]], "asks": 7})])]
    report = await lane.run_files(*files, written(tmp_path / "ws", STREAM))
    assert (report.trades, report.refused, report.rules) == (2, 1, {"undecodable": 1})
    ((rule, payload),) = await lane.fetch("SELECT rule, payload FROM quarantine")
    assert rule == "undecodable"
    assert b"lastUpdateId" in payload


# ---- OKX: snapshots on the stream ------------------------------------------------------------------

OKX = "wss://ws.okx.com:8443/ws/v5/public"


def book(second: float, number: int, size: str = "1", inst_id: str = "BTC-USDT") -> str:
    """The snapshot is number 1; each change names its predecessor."""
    action, previous = ("snapshot", -1) if number == 1 else ("update", number - 1)
    levels = {"bids": [[f"{number}.5", size, "0", "1"]], "asks": [["99.5", "1", "0", "1"]] if number == 1 else []}
    row = {**levels, "ts": str(round((START + second) * 1000)), "checksum": 0, "seqId": number, "prevSeqId": previous}
    return line(second, {"arg": {"channel": "books", "instId": inst_id}, "action": action, "data": [row]})


async def test_a_book_is_that_of_one_connection_until_its_file_is_over(lane: Lane, tmp_path: Path) -> None:
    """A second recorder of the same is behind the first, or ahead of it."""
    lane.venue = "OKX"
    first = [connected(0, OKX), book(1, 1), book(2, 2), book(3, 3)]
    second = [connected(0.1, OKX), *(book(n + 0.5, n, "2") for n in (1, 2, 3, 4, 5))]
    report = await lane.run_files(written(tmp_path / "1", first), written(tmp_path / "2", second))
    assert report.ignored["book of another connection"] == 2
    assert await lane.fetch(BOOKS) == [(LIVE, number) for number in (1, 2, 3, 4, 5)]
    sizes = await lane.fetch("SELECT bid_size[1] FROM book_snapshots ORDER BY seq")
    assert sizes == [(1,), (1,), (1,), (2,), (2,)]


async def test_a_connection_of_another_file_costs_no_book(lane: Lane, tmp_path: Path) -> None:
    """A recorder that has a connection for each of its channels makes them all to one address."""
    lane.venue = "OKX"
    first = [connected(0, OKX), book(1, 1), book(3, 2), book(5, 3)]
    second = [connected(2, OKX), *(book(n + 3, n, inst_id="ETH-USDT") for n in (1, 2))]
    report = await lane.run_files(written(tmp_path / "1", first), written(tmp_path / "2", second))
    assert "book of another connection" not in report.ignored
    assert {state for state, _ in await lane.fetch(BOOKS)} == {LIVE}


@pytest.mark.parametrize("is_one_file", [True, False])
async def test_a_book_begins_anew_where_its_connection_was_lost(lane: Lane, tmp_path: Path, is_one_file: bool) -> None:
    lane.venue = "OKX"
    before, after = [connected(0, OKX), book(1, 1), book(2, 2)], [connected(3, OKX), book(4, 3), book(5, 1)]
    if is_one_file:
        files = [written(tmp_path / "1", before + after)]
    else:
        files = [written(tmp_path / "1", before), written(tmp_path / "2", after)]
    await lane.run_files(*files)
    states = [state for state, _ in await lane.fetch(BOOKS)]
    assert states[:2] == [LIVE, LIVE]
    assert states[2] != LIVE  # the change after the loss is in no book
    assert states[-1] == LIVE
