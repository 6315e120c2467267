"""A new arena in the place of an old one: what shared memory had stays, and is asked of nobody."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import pytest

from book_records import books, buckets, imbalances
from lane import BTC, KINDS, START, trades
from marketd.daemon.kernel import TRADE_KIND, Lot
from marketd.daemon.publisher import Board
from marketd.daemon.warming import Warmer
from marketd.ipc.arena import ArenaState
from marketd.ipc.protocol import Answer, Meta, ResultPart
from marketd.market.records import BY_NAME, KindTable, Records
from small_daemon import SmallDaemon

BOOK, IMBALANCE, BUCKETS = (BY_NAME[name] for name in ("book", "imbalance", "buckets"))


class Database:
    """A query actor that has nothing, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._pending: Any = None
        self.socket = os.eventfd(1)  # always readable

    @property
    def busy(self) -> bool:
        return self._pending is not None

    def ask(self, request: Any) -> bool:
        self._pending = request
        self.asked.append(getattr(request, "stream", "candle"))
        return True

    def take(self) -> tuple[Any, list[bytes]] | None:
        self._pending = None
        part = ResultPart(name="", kind="", count=0, encoding="records")
        return Answer(instrument=BTC, parts=[part], meta=Meta(committed_offset=0)), [b""]


@pytest.fixture
def daemon(tmp_path: Path, runtime_dir: Path) -> Iterator[SmallDaemon]:
    daemon = SmallDaemon(tmp_path / "state", runtime_dir)
    daemon.declare(BTC)
    yield daemon
    daemon.stop()


def take(daemon: SmallDaemon, first: int, **how: bool) -> Lot:
    """A few trades that close bars, a book, its imbalance and buckets."""
    book = books([first], ts=START)
    return daemon.take(
        (TRADE_KIND, trades([((first + n) * 1000, first + n + 1, 100 + n, 5) for n in range(3)])),
        (BOOK, book),
        (IMBALANCE, imbalances([first], ts=START)),
        (BUCKETS, buckets([first], ts=START)),
        **how,
    )


RINGS = ("trade", "candle.1s.own", "book", "imbalance", "buckets.1s", "coverage")


def all_rings(daemon: SmallDaemon) -> dict[str, bytes]:
    return {ring: daemon.ring(ring).tobytes() for ring in RINGS}


def restart(daemon: SmallDaemon, **changes: Any) -> Database:
    """With other settings, up to the end of warming."""
    daemon.stop()
    for name, value in changes.items():
        setattr(daemon, name, value)
    daemon.start()
    database = Database()
    boards = [board for board in daemon.publisher.new_boards if board.state.instrument.id == BTC.id]
    try:
        Warmer(database, daemon.kernel, daemon.state / "journal", boards).run(lambda: True)  # type: ignore[arg-type]
    finally:
        os.close(database.socket)
    daemon.serve()
    return database


def test_other_capacities_leave_every_record_where_it_was(daemon: SmallDaemon) -> None:
    for first in range(0, 12, 3):
        take(daemon, first)
    before = all_rings(daemon)
    larger = msgspec.structs.replace(daemon.cache, trades_per_second=80)
    database = restart(daemon, cache=larger)
    assert database.asked == [] and all_rings(daemon) == before
    take(daemon, 12)
    assert len(daemon.ring("trade")) == 15 and len(daemon.ring("book")) == 5
    with daemon.reader() as reader:
        assert reader.cut().seq == daemon.kernel.state(BTC).seq and reader.state is ArenaState.LIVE


def test_what_was_journaled_and_not_shown_comes_from_the_journal(daemon: SmallDaemon) -> None:
    take(daemon, 0)
    shown = {ring: len(daemon.ring(ring)) for ring in ("trade", "book")}
    take(daemon, 3, show=False)
    restart(daemon, cache=msgspec.structs.replace(daemon.cache, trades_per_second=80))
    assert {ring: len(daemon.ring(ring)) for ring in shown} == {"trade": 6, "book": 2}


def test_what_was_kept_live_only_stays_visible(daemon: SmallDaemon) -> None:
    take(daemon, 0)
    lot = take(daemon, 3, journal=False)
    before = all_rings(daemon)
    restart(daemon, cache=msgspec.structs.replace(daemon.cache, trades_per_second=80))
    assert all_rings(daemon) == before
    assert take(daemon, 6).seq == lot.seq + lot.records  # no number is given twice


def test_who_is_killed_before_a_new_arena_has_inherited_loses_nothing_of_the_old_one(
    daemon: SmallDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(daemon, 0)
    take(daemon, 3, journal=False)
    before = all_rings(daemon)
    larger = msgspec.structs.replace(daemon.cache, trades_per_second=80)
    with monkeypatch.context() as patch:
        patch.setattr(Board, "inherit", mock.Mock(side_effect=RuntimeError("killed")))
        with pytest.raises(RuntimeError, match="killed"):
            restart(daemon, cache=larger)
    assert all_rings(daemon) == before
    restart(daemon, cache=larger)
    assert all_rings(daemon) == before
    assert not list((daemon.runtime / "arena").glob("*.next"))


def test_a_smaller_ring_keeps_the_newest_and_says_how_far_it_reaches(daemon: SmallDaemon) -> None:
    for first in range(0, 60, 3):
        take(daemon, first)
    newest = daemon.ring("trade")
    fewer = msgspec.structs.replace(daemon.cache, trades_per_second=3)
    assert restart(daemon, cache=fewer).asked == []
    found = daemon.ring("trade")
    assert found.tobytes() == newest[-30:].tobytes()
    with daemon.reader() as reader:
        assert reader.reach("trade") == int(newest[-31]["ts_event"]) + 1


def test_a_larger_ring_than_one_that_has_lost_records_is_filled_from_the_database(daemon: SmallDaemon) -> None:
    for first in range(0, 450, 3):
        take(daemon, first)
    assert len(daemon.ring("trade")) == 400
    assert restart(daemon, cache=msgspec.structs.replace(daemon.cache, trades_per_second=80)).asked.count("trade") == 1
    assert len(daemon.ring("trade")) == 450  # the journal still had them


def test_books_of_another_depth_are_taken_over_cut_or_filled_up(daemon: SmallDaemon) -> None:
    for first in range(0, 9, 3):
        take(daemon, first)
    before = daemon.ring("book")
    assert restart(daemon, kinds=KindTable(KINDS.series, 2)).asked == []
    found: Records = daemon.ring("book")
    assert found["bid_price"].tolist() == before["bid_price"][:, :2].tolist() and found["bid_count"].tolist() == [2] * 3
    restart(daemon, kinds=KINDS)
    again: Records = daemon.ring("book")
    assert again["bid_price"][:, :2].tolist() == before["bid_price"][:, :2].tolist()
    assert (again["bid_price"][:, 2:] == np.iinfo(np.int64).min).all()


def test_a_ring_that_is_new_is_asked_for_alone(daemon: SmallDaemon) -> None:
    take(daemon, 0)
    before = all_rings(daemon)
    database = restart(daemon, timeframes=(1, 60, 300))
    assert database.asked == ["candle", "candle"] and all_rings(daemon) == before
    assert len(daemon.ring("candle.5m.own")) == 0


def test_who_is_killed_before_the_other_rings_are_filled_leaves_them_to_the_successor(daemon: SmallDaemon) -> None:
    for first in range(0, 450, 3):
        take(daemon, first)
    take(daemon, 450, show=False)
    daemon.stop()
    daemon.cache = msgspec.structs.replace(daemon.cache, trades_per_second=80)
    daemon.start()  # and then it is killed
    assert not len(daemon.ring("trade"))
    database = restart(daemon)
    assert "trade" in database.asked and "book" not in database.asked
    assert len(daemon.ring("trade")) == 453
    assert daemon.ring("book")["ts_known"][-1] == daemon.ring("trade")["ts_known"][-1] == daemon.known
    assert restart(daemon).asked == []  # it is whole now


def test_who_is_killed_while_the_journal_is_followed_leaves_nothing_half_filled(
    daemon: SmallDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    for first in range(0, 12, 3):
        take(daemon, first)
    before = all_rings(daemon)
    daemon.reboot()
    with monkeypatch.context() as patch:
        shown = mock.Mock(side_effect=[Board.write, Board.write, RuntimeError("killed")])
        patch.setattr(Board, "write", lambda board, lot: shown()(board, lot))
        with pytest.raises(RuntimeError, match="killed"):
            restart(daemon)
    assert not len(daemon.ring("trade"))
    restart(daemon)
    assert all_rings(daemon) == before


def test_an_arena_that_was_never_filled_leaves_nothing(daemon: SmallDaemon) -> None:
    take(daemon, 0)
    daemon.publisher.set_state(ArenaState.WARMING)
    database = restart(daemon, cache=msgspec.structs.replace(daemon.cache, trades_per_second=80))
    assert "trade" in database.asked and len(daemon.ring("trade")) == 3  # of the journal


def test_an_arena_of_another_journal_leaves_nothing(daemon: SmallDaemon) -> None:
    take(daemon, 0)
    daemon.stop()
    for segment in (daemon.state / "journal").glob("*"):
        segment.unlink()
    (daemon.runtime / "front").unlink()
    daemon.start()
    assert [board.heritage for board in daemon.publisher.new_boards] == [None, None]
    assert len(daemon.ring("trade")) == 0
