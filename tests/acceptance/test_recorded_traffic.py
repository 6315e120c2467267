"""Recorded traffic through the whole system: what comes out is what the recording has, to the last digit.

Served over a real WebSocket, and imported; each test runs on a recording that the project makes itself, and on the
real one in the shared data where that is there. The judge is `oracle`, and for the real one STATS.json.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from acceptance import oracle, recordings, stored
from acceptance.conftest import SPOT, Imported, Played, until_stored
from acceptance.daemon_under_test import DaemonUnderTest, Exchange, Place
from acceptance.oracle import Bar
from marketd.client.provider import UnifiedDataProvider
from marketd.market.records import BY_NAME, Coverage
from support import eventually

GRACE_MS = 250
BOOK = BY_NAME["book"].id
TIMEFRAMES = (1, 60, 300)
KLINES = "ws_cryptofeed/BINANCE-ee25be.0.gz"
_STATS_BARS = "candles_1m_from_trades(T_ms:[o,h,l,c,vol,n]; first and last minute are partial)"


def closed(bars: Sequence[Bar], timeframe: int, newest_ms: int) -> list[Bar]:
    """Those that the trades alone have closed; the others wait for the venue's time to go on."""
    return [bar for bar in bars if bar.ts_ms + timeframe * 1000 + GRACE_MS <= newest_ms]


def short(bar: Bar) -> tuple[Decimal | int, ...]:
    """As STATS.json has it: open, high, low, close, volume, number of trades."""
    return (bar.open, bar.high, bar.low, bar.close, bar.volume, bar.trade_count)


# ---- served over a WebSocket ----------------------------------------------------------------------


def test_every_trade_is_stored_once_as_the_venue_sent_it(played: Played) -> None:
    for symbol, dealt in played.recorded.trades.items():
        assert stored.trades(played.daemon, symbol) == sorted(dealt)


def test_closed_bars_equal_the_oracle_to_the_last_digit_across_midnight(played: Played) -> None:
    for symbol, dealt in played.recorded.trades.items():
        newest = max(trade.time_ms for trade in dealt)
        for timeframe in TIMEFRAMES:
            everything = oracle.bars(dealt, timeframe * 1000)
            expected = closed(everything, timeframe, newest)

            def equal(expected: list[Bar] = expected, symbol: str = symbol, timeframe: int = timeframe) -> bool:
                return stored.bars(played.daemon, symbol, timeframe)[: len(expected)] == expected

            eventually(equal)
            # what the venue's time closed since then is as true
            have = stored.bars(played.daemon, symbol, timeframe)
            assert have == everything[: len(have)]
            assert expected


def test_only_the_bars_before_the_first_trade_was_heard_are_partial(played: Played) -> None:
    for symbol in played.recorded.trades:
        for timeframe in TIMEFRAMES[:2]:
            flags = [flag for _, flag in stored.bars_and_flags(played.daemon, symbol, timeframe)]
            assert flags == [stored.PARTIAL] + [0] * (len(flags) - 1)


def test_the_last_minute_is_the_forming_bar(played: Played) -> None:
    for symbol, dealt in played.recorded.trades.items():
        expected = oracle.bars(dealt, 60_000)[-1]
        with UnifiedDataProvider(str(played.daemon.place.runtime)) as provider:
            frame = provider.get_latest_ohlcv(symbol, "1m", limit=1, forming=True)
        with played.daemon.arena(symbol) as arena:
            # the venue's time goes on behind the recording: on a slow machine the minute may be over
            is_over = arena.cut().ts_event >= (expected.ts_ms + 60_000) * 1_000_000
        assert bool(frame["is_forming"][-1]) or is_over
        assert int(frame["time"][-1]) == expected.ts_ms * 1_000_000
        names = ("open", "high", "low", "close", "volume", "quote_volume", "buy_volume", "trade_count")
        # a real number is the double nearest to the decimal text
        assert [float(frame[name][-1]) for name in names] == [float(value) for value in expected[1:]]


def test_live_and_stored_answers_are_the_same_records(played: Played) -> None:
    for symbol, dealt in played.recorded.trades.items():
        with UnifiedDataProvider(str(played.daemon.place.runtime)) as provider:
            live = provider.get_latest_trades(symbol, 500)
            asked = provider.query_trades(symbol, limit=500)
        assert live["trade_id"].tolist() == [trade.trade_id for trade in dealt[-500:]]
        assert live.records.tobytes() == asked.records.tobytes()


def test_nothing_was_refused_and_no_gap_is_in_the_ledger(played: Played) -> None:
    assert played.daemon.count("quarantine") == 0
    # at many times the venue's speed the price may leave what a snapshot told before the next one can be fetched
    beyond = (BOOK, Coverage.GAP, "beyond_edge")
    told = set(played.daemon.rows("SELECT DISTINCT stream, state, reason FROM coverage")) - {beyond}
    assert {state for _, state, _ in told} == {Coverage.OBSERVED}, told


def test_the_venues_closed_klines_are_stored_as_its_own(played: Played) -> None:
    for symbol, expected in oracle.closed_klines(played.recorded.files).items():

        def equal(symbol: str = symbol, expected: list[Bar] = expected) -> bool:
            assert stored.bars(played.daemon, symbol, 60, stored.VENUE) == expected
            return True

        assert expected
        eventually(equal)


# ---- imported -------------------------------------------------------------------------------------

# Columns that say what happened, not when or in which order we came to know it.
_SAME = {
    "trades": "instrument_id, ts_event, trade_id, price, size, side, flags",
    "candles": "instrument_id, timeframe, ts, source, open, high, low, close, volume, quote_volume, buy_volume,"
    " trade_count, flags",
    "candles_1s": "instrument_id, ts, source, open, high, low, close, volume, quote_volume, buy_volume, trade_count,"
    " flags",
}
_INSTRUMENT_COLUMN = 0


def without_knowledge(database: Any, table: str) -> set[tuple[Any, ...]]:
    """The rows of a table, but for ts_known and seq; instruments by name, since ids are given in order of arrival."""
    names = dict(database.rows("SELECT instrument_id, symbol FROM instruments"))
    found = database.rows(f"SELECT {_SAME[table]} FROM {table}")
    rows = {(names[row[_INSTRUMENT_COLUMN]], *row[1:]) for row in found}
    assert len(rows) == len(found)
    return rows


def test_an_import_gives_the_rows_of_the_live_run(played: Played, imported: Imported) -> None:
    report, recorded = imported.reports[0], imported.recorded
    assert report["trades"] == sum(map(len, recorded.trades.values()))
    assert (report["known"], report["refused"], report["damage"]) == (0, 0, [])
    assert without_knowledge(imported.place, "trades") == without_knowledge(played.daemon, "trades")
    for table in ("candles_1s", "candles"):
        live, came = without_knowledge(played.daemon, table), without_knowledge(imported.place, table)
        # --close ended bars that still form live, and, but for that, as they stood when silence closed them
        ended = {row for row in came if row[-1] & stored.PARTIAL}
        assert came - ended <= live
        assert len(live - came) <= 2 * len(recorded.trades)


def test_importing_twice_adds_nothing(imported: Imported) -> None:
    first, again, _ = imported.reports
    assert (again["trades"], again["known"]) == (0, first["trades"])
    assert imported.contents[1] == imported.contents[0]


def test_an_import_with_close_has_the_last_bars_too(imported: Imported) -> None:
    assert imported.reports[1]["forming"] > 0
    assert imported.reports[2]["forming"] == 0
    for symbol, dealt in imported.recorded.trades.items():
        for timeframe in TIMEFRAMES:
            assert stored.bars(imported.place, symbol, timeframe) == oracle.bars(dealt, timeframe * 1000)


def test_a_second_file_goes_on_where_the_first_ended(tmp_path: Path, place: Place) -> None:
    middle = recordings.MIDNIGHT_MS
    first = recordings.record(tmp_path / "1", begin_ms=middle - 20_000, end_ms=middle, symbols=["BTCUSDT"])
    second = recordings.record(tmp_path / "2", begin_ms=middle, end_ms=middle + 20_000, symbols=["BTCUSDT"])
    for files in (first, second):
        place.json("import", "capture", *map(str, files))
    dealt = oracle.trades([*first, *second])["BTCUSDT"]
    expected = closed(oracle.bars(dealt, 1000), 1, dealt[-1].time_ms)
    with place.stopped_database():
        assert stored.trades(place, "BTCUSDT") == dealt
        assert stored.bars(place, "BTCUSDT", 1) == expected


def test_what_a_live_run_recorded_can_be_imported(tmp_path: Path, place: Place) -> None:
    files = recordings.record(
        tmp_path, begin_ms=recordings.MIDNIGHT_MS - 10_000, end_ms=recordings.MIDNIGHT_MS + 10_000
    )
    expected = oracle.trades(files)
    source = Place("[capture]\nraw = true\n")
    try:
        with Exchange(files) as exchange, DaemonUnderTest(source, exchange.venue()) as daemon:
            until_stored(daemon.until_live(), expected)
        captured = sorted((source.state / "capture").glob("*.gz"))
        assert oracle.trades(captured) == expected
        place.json("import", "capture", *map(str, captured))
        with place.stopped_database():
            for symbol, dealt in expected.items():
                assert stored.trades(place, symbol) == dealt
    finally:
        source.remove()


# ---- the shared data's own numbers ----------------------------------------------------------------


def stats(shared_data: Path) -> dict[int, tuple[Decimal | int, ...]]:
    """The 1m candles of both files by minute (ms)."""
    known = json.loads((shared_data / "STATS.json").read_text())
    found: dict[int, tuple[Any, ...]] = {}
    for name in SPOT:
        for text, (*texts, count) in known[name][_STATS_BARS].items():
            ts, bar = int(text), (*map(Decimal, texts), count)
            # the files are cut by receive time: the minute of midnight is in both
            found[ts] = _joined(found[ts], bar) if ts in found else bar
    return found


def _joined(first: tuple[Any, ...], second: tuple[Any, ...]) -> tuple[Any, ...]:
    opened, high, low, _, volume, count = first
    return (opened, max(high, second[1]), min(low, second[2]), second[3], volume + second[4], count + second[5])


@pytest.mark.parametrize("recorded", ["spot BTCUSDT"], indirect=True)
def test_the_minutes_of_the_real_recording_are_those_of_its_statistics(played: Played, shared_data: Path) -> None:
    expected = stats(shared_data)
    have = {bar.ts_ms: short(bar) for bar in stored.bars(played.daemon, "BTCUSDT", 60)}
    last = max(expected)
    # the last one closes when the exchange has been silent for so long: by the time of this look, perhaps
    assert {last: expected[last]} | have == expected
    assert short(oracle.bars(played.recorded.trades["BTCUSDT"], 60_000)[-1]) == expected[last]


@pytest.mark.parametrize("recorded", ["spot BTCUSDT"], indirect=True)
def test_the_imported_minutes_of_the_real_recording_are_those_of_its_statistics(
    imported: Imported, shared_data: Path
) -> None:
    assert {bar.ts_ms: short(bar) for bar in stored.bars(imported.place, "BTCUSDT", 60)} == stats(shared_data)


def test_only_closed_klines_of_a_recording_with_open_ones_are_stored(shared_data: Path, place: Place) -> None:
    file = shared_data / KLINES
    klines, dealt = oracle.closed_klines([file]), oracle.trades([file], "aggTrade")
    assert sum(map(len, klines.values())) == 3
    with Exchange([file]) as exchange, DaemonUnderTest(place, exchange.venue(trades="aggTrade")) as daemon:
        until_stored(daemon.until_live(), dealt)

        def klines_are_stored() -> bool:
            assert daemon.rows("SELECT count(*) FROM candles WHERE source = 2") == [(3,)]
            return True

        eventually(klines_are_stored)
        for symbol, expected in klines.items():
            assert stored.bars(daemon, symbol, 60, stored.VENUE) == expected
        for symbol, expected_trades in dealt.items():
            assert stored.trades(daemon, symbol) == sorted(expected_trades)
        assert daemon.count("trades") == 1910


def test_the_klines_and_aggregate_trades_are_imported_alike(shared_data: Path, place: Place) -> None:
    file = shared_data / KLINES
    report = place.json("import", "capture", str(file))
    assert (report["trades"], report["candles"]) == (1910, 3)
    with place.stopped_database():
        for symbol, expected in oracle.closed_klines([file]).items():
            assert stored.bars(place, symbol, 60, stored.VENUE) == expected
        for symbol, dealt in oracle.trades([file], "aggTrade").items():
            assert stored.trades(place, symbol) == sorted(dealt)
