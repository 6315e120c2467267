"""`marketd top`: the market at a glance, out of real arenas."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from book_records import IMBALANCE, book, imbalances, not_live
from fake_daemon import BTC, TRADE, trades
from marketd import DataCacheManager
from marketd.ipc.arena import ArenaState, RingSpec
from marketd.ipc.arena_writer import ArenaWriter
from marketd.ipc.paths import arena_path
from marketd.ipc.presence import Presence, write_presence
from marketd.market.records import BookState, book_kind
from marketd.ops import market_view
from marketd.ops.cli import EXIT_NOT_RUNNING, main

BOOK = book_kind(20)
TRADES, BOOKS, IMBALANCES = range(3)


@pytest.fixture
def arena(runtime_dir: Path) -> Iterator[ArenaWriter]:
    rings = [RingSpec(kind.name, kind.id, kind.dtype, 10) for kind in (TRADE, BOOK, IMBALANCE)]
    path = arena_path(runtime_dir, BTC.name)
    with ArenaWriter.create(path, instance="test", instrument=BTC, rings=rings, open_slots=2) as writer:
        write_presence(runtime_dir, Presence(instance="test", pid=os.getpid(), version="0", instruments=[BTC]))
        writer.heartbeat(time.monotonic_ns(), time.time_ns(), 0, 0)
        writer.set_state(ArenaState.LIVE)
        yield writer


def publish(arena: ArenaWriter) -> None:
    arena.publish(time.time_ns(), 1, 1, 0)


def test_a_line_tells_book_imbalance_and_last_price(runtime_dir: Path, arena: ArenaWriter) -> None:
    arena.append(TRADES, trades([7]))
    arena.append(BOOKS, book([(10_000, 300)], [(10_002, 100)]))
    arena.append(IMBALANCES, imbalances([25]))
    publish(arena)
    with DataCacheManager(runtime_dir) as cache:
        (line,) = market_view.look(cache)
    assert (line.name, line.book, line.bid, line.ask, line.last) == (BTC.name, "live", 100.0, 100.02, 100.07)
    assert line.spread_bps == pytest.approx(2.0, rel=1e-3) and line.weighted_mid == pytest.approx(100.015)
    assert (line.book_1s, line.volume_5s) == (0.25, None) and line.age_ns is not None
    row = market_view.page([line]).text().splitlines()[1].split()
    assert row[:10] == ["BTCUSDT.BINANCE", "live", "100", "100.02", "2.000", "100.015", "+0.25", "-", "-", "-"]


def test_a_book_that_is_not_live_shows_no_prices(runtime_dir: Path, arena: ArenaWriter) -> None:
    arena.append(BOOKS, not_live(BookState.SYNCING))
    publish(arena)
    with DataCacheManager(runtime_dir) as cache:
        (line,) = market_view.look(cache)
    assert (line.book, line.bid, line.ask, line.weighted_mid) == ("syncing", None, None, None)


def test_an_arena_that_is_being_filled_has_a_line_without_numbers(runtime_dir: Path, arena: ArenaWriter) -> None:
    arena.set_state(ArenaState.WARMING)
    with DataCacheManager(runtime_dir) as cache:
        (line,) = market_view.look(cache)
    assert set(line) == {BTC.name, None}
    assert market_view.page([line]).text().splitlines()[1].split()[1:] == ["-"] * 11


def test_one_look_for_people_and_for_programs(
    runtime_dir: Path, arena: ArenaWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    arena.append(BOOKS, book([(10_000, 300)], [(10_002, 100)]))
    publish(arena)
    assert main(["top", "--once", "--url", str(runtime_dir)]) == 0
    assert "BTCUSDT.BINANCE  live" in capsys.readouterr().out
    assert main(["top", "--once", "--json", "--url", str(runtime_dir)]) == 0
    (line,) = json.loads(capsys.readouterr().out)
    assert (line["book"], line["bid"], line["last"]) == ("live", 100.0, None)


def test_where_no_daemon_runs_it_says_so(runtime_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--once", "--url", str(runtime_dir)]) == EXIT_NOT_RUNNING
    assert "no marketd daemon runs" in capsys.readouterr().err
