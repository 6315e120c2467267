"""Books through the whole system: an emulated exchange, a daemon, and what reaches the database.

The judge applies the recording's differences by itself, with nothing of marketd's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from acceptance import oracle, recordings
from acceptance.conftest import until_stored
from acceptance.daemon_under_test import DaemonUnderTest, Exchange, Place
from marketd.daemon.feeds.capture_writer import CaptureWriter
from marketd.daemon.feeds.emulator import SyntheticMarket
from support import eventually

BOOK_KIND, LIVE, OBSERVED = 3, 2, 1
HASHED_ID = 1
DEPTH = 20
Side = dict[Decimal, Decimal]

_BOOKS = """
SELECT sequence, bid_count, ask_count, bid_price, bid_size, ask_price, ask_size, price_scale, size_scale
FROM book_snapshots b JOIN instruments USING (instrument_id) WHERE symbol = $1 AND b.state = $2 ORDER BY b.seq"""
_IMBALANCES = """
SELECT (extract(epoch FROM b.ts_event) * 1000)::bigint, b.state, b.reason, b.mid2
FROM imbalances b JOIN instruments USING (instrument_id) WHERE symbol = $1 ORDER BY b.seq"""


def best_levels(
    captures: Sequence[Path], symbol: str, begin: dict[str, Any] | None = None
) -> dict[int, tuple[list[Any], list[Any]]]:
    """The best levels of both sides by the number of the update after which they stood; `begin` is a snapshot."""
    sides: tuple[Side, Side] = {}, {}
    for side, name in zip(sides, ("bids", "asks"), strict=True):
        side.update((Decimal(price), Decimal(size)) for price, size in (begin or {}).get(name, []))
    found = {}
    for data in oracle.messages(captures):
        if data.get("e") == "depthUpdate" and data["s"] == symbol:
            for side, rows in zip(sides, (data["b"], data["a"]), strict=True):
                for price, size in rows:
                    side[Decimal(price)] = Decimal(size)
            bids, asks = ([(p, s) for p, s in side.items() if s] for side in sides)
            found[data["u"]] = sorted(bids, reverse=True)[:DEPTH], sorted(asks)[:DEPTH]
    return found


def stored_books(daemon: DaemonUnderTest | Place, symbol: str) -> Iterator[tuple[int, list[Any], list[Any]]]:
    for sequence, bids, asks, *levels, price_scale, size_scale in daemon.rows(_BOOKS, symbol, LIVE):
        prices = [[Decimal(p).scaleb(-price_scale) for p in levels[i]] for i in (0, 2)]
        sizes = [[Decimal(s).scaleb(-size_scale) for s in levels[i]] for i in (1, 3)]
        rows = [list(zip(p, s, strict=True)) for p, s in zip(prices, sizes, strict=True)]
        yield sequence, rows[0][:bids], rows[1][:asks]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    middle = recordings.MIDNIGHT_MS
    streams = ("trade", "kline_1m", "depth")
    directory = tmp_path_factory.mktemp("books")
    return recordings.record(directory, begin_ms=middle - 30_000, end_ms=middle + 30_000, streams=streams)


def test_stored_books_are_the_venues_and_imbalances_come_each_second(files: list[Path]) -> None:
    dealt, place = oracle.trades(files), Place()
    try:
        with Exchange(files, speed="10") as exchange, DaemonUnderTest(place, exchange.venue()) as daemon:
            until_stored(daemon.until_live(), dealt)
            for symbol in dealt:
                known = best_levels(files, symbol)
                books = list(stored_books(daemon, symbol))
                assert len(books) > 100
                for sequence, bids, asks in books:
                    assert (bids, asks) == known[sequence]
                imbalances = daemon.rows(_IMBALANCES, symbol)
                times = [ts for ts, *_ in imbalances]
                assert times == list(range(times[0], times[0] + 1000 * len(times), 1000))
                live = [mid2 for _, state, _, mid2 in imbalances if state == LIVE]
                assert len(live) > 20
                assert min(live) > 0
            assert daemon.count("book_buckets") > 0
            assert daemon.count("quarantine") == 0
            assert ledger(daemon) == {OBSERVED}
    finally:
        place.remove()


def ledger(daemon: DaemonUnderTest) -> set[int]:
    return {state for (state,) in daemon.rows("SELECT DISTINCT state FROM coverage WHERE stream = $1", BOOK_KIND)}


def test_a_killed_feed_finds_the_books_again(files: list[Path]) -> None:
    dealt, place = oracle.trades(files), Place()
    try:
        with Exchange(files, speed="10") as exchange, DaemonUnderTest(place, exchange.venue()) as daemon:
            daemon.until_live()
            eventually(lambda: daemon.count("book_snapshots") > 50, timeout=60.0)
            daemon.until_replaced("feed-BINANCE", daemon.kill("feed-BINANCE"))
            until_stored(daemon, dealt)
            for symbol in dealt:
                known = best_levels(files, symbol)
                for sequence, bids, asks in stored_books(daemon, symbol):
                    assert (bids, asks) == known[sequence]
    finally:
        place.remove()


def test_an_import_has_the_books_of_a_recording_that_has_their_snapshots(tmp_path: Path, place: Place) -> None:
    begin_ms = recordings.MIDNIGHT_MS - 20_000
    symbols = ("BTCUSDT", "ETHUSDT")
    market = SyntheticMarket(7, symbols, 30.0, clock=lambda: begin_ms * 1_000_000)
    writer = CaptureWriter(tmp_path / "rest", "BINANCE")
    snapshots = {symbol: market.book(symbol, 1000) for symbol in symbols}
    for symbol, snapshot in snapshots.items():
        url = f"https://api.binance.com/api/v3/depth?symbol={symbol}&limit=1000"
        writer.rest(begin_ms * 1_000_000, url, json.dumps(snapshot).encode())
    writer.close()
    streams, end_ms = ("trade", "depth"), begin_ms + 40_000
    stream = recordings.record(tmp_path / "ws", begin_ms=begin_ms, end_ms=end_ms, symbols=symbols, streams=streams)
    files = [*sorted((tmp_path / "rest").glob("*.gz")), *stream]
    counts = []
    for _ in range(2):
        place.json("import", "capture", *map(str, files))
        with place.stopped_database():
            tables = ("book_snapshots", "imbalances", "book_buckets", "trades")
            counts.append([place.rows(f"SELECT count(*) FROM {table}") for table in tables])
            for symbol in symbols:
                known = best_levels(stream, symbol, snapshots[symbol])
                books = list(stored_books(place, symbol))
                assert len(books) > 300
                for sequence, bids, asks in books:
                    assert (bids, asks) == known[sequence]
    assert counts[0] == counts[1]


def test_recorded_futures_go_through_a_daemon_with_their_books(shared_data: Path) -> None:
    stem = "ws_binance_raw/usdm_btcusdt_20240718.gz"
    stats, place = json.loads((shared_data / "STATS.json").read_text())[stem], Place()
    try:
        with (
            Exchange([shared_data / stem], venue="BINANCE_FUTURES") as exchange,
            DaemonUnderTest(place, exchange.venue()) as daemon,
        ):
            daemon.until_live()
            eventually(lambda: daemon.count("trades") == stats["trades"], timeout=60.0)
            (size,) = daemon.rows("SELECT sum(size)::text FROM trades")[0]
            assert Decimal(size).scaleb(-3) == Decimal(stats["trade_qty_sum"])
            eventually(lambda: list(stored_books(daemon, "BTCUSDT")), timeout=60.0)
            for _, bids, asks in stored_books(daemon, "BTCUSDT"):
                assert bids[0][0] < asks[0][0]
            assert daemon.rows("SELECT venue, market FROM instruments WHERE symbol = 'BTCUSDT'") == [
                ("BINANCE_FUTURES", "swap")
            ]
            assert daemon.count("quarantine") == 0
    finally:
        place.remove()


KRAKEN_PRICES = ("60000.1", "60000.2", "60000.3")


def test_a_recording_of_another_venue_goes_through_a_daemon(tmp_path: Path) -> None:
    second = 1_618_678_000
    lines = ["wss://ws.kraken.com <-> 1618678000.0"]
    lines += [
        f'{second + n}.5: [337,[["{price}","0.50000000","{second + n}.123456","b","l",""]],"trade","XBT/USD"]'
        for n, price in enumerate(KRAKEN_PRICES, 1)
    ]
    path, place = tmp_path / "KRAKEN.0", Place()
    path.write_text("".join(f"{line}\n" for line in lines))
    try:
        with Exchange([path], venue="KRAKEN") as exchange:
            venue = exchange.venue(candles=[])
            with DaemonUnderTest(place, venue) as daemon:
                daemon.until_live()
                eventually(lambda: daemon.count("trades") == len(KRAKEN_PRICES), timeout=60.0)
                rows = daemon.rows("SELECT price, flags FROM trades ORDER BY ts_event")
        assert [price for price, _ in rows] == [600001, 600002, 600003]
        assert {flags for _, flags in rows} == {HASHED_ID}
    finally:
        place.remove()
