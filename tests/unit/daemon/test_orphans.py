"""Books whose feed is gone are left as STALE, and those of a feed that lives are not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from errno import ENOSPC
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from book_records import SECOND, buckets, imbalances
from lane import BTC, MS, START, trades
from marketd.daemon import orphans, publisher
from marketd.daemon.clock import LiveClock
from marketd.daemon.ingest import Ingest
from marketd.daemon.kernel import coverage_record
from marketd.daemon.observed_streams import BOOK as BOOK_STREAM
from marketd.daemon.orphans import Orphans, lost_since
from marketd.ipc import protocol
from marketd.ipc.presence import read_instruments
from marketd.market.records import BOOK, BookFlag, BookState, Coverage, ImbalanceReason, Records
from marketd.market.times import ABSENT
from small_daemon import SmallDaemon
from support import eventually

FEED, OTHER = b"f" * 16, b"g" * 16


def book(ms: int, state: BookState = BookState.LIVE) -> Records:
    record = np.zeros(1, dtype=BOOK)
    for name in ("bid_price", "bid_size", "ask_price", "ask_size"):
        record[name] = ABSENT
    record["ts_event"], record["state"], record["sequence"] = START + ms * MS, state, 7
    if state is BookState.LIVE:
        record["bid_count"] = record["ask_count"] = 1
        record["bid_price"][0, 0], record["ask_price"][0, 0] = 100, 101
        record["bid_size"][0, 0] = record["ask_size"][0, 0] = 5
    return record


@pytest.fixture
def daemon(tmp_path: Path, runtime_dir: Path) -> Iterator[SmallDaemon]:
    daemon = SmallDaemon(tmp_path / "state", runtime_dir)
    daemon.declare(BTC)
    yield daemon
    daemon.stop()


class Room:
    """Ingest, and feeds that speak to it."""

    def __init__(self, daemon: SmallDaemon) -> None:
        socket: Any = mock.Mock()
        self.daemon = daemon
        self.ingest = Ingest(
            registry=daemon.registry,
            kernel=daemon.kernel,
            journal=daemon.journal,
            publisher=daemon.publisher,
            clock=LiveClock(daemon.kernel.ts_known),
            socket=socket,
            live_only=True,
        )
        self._batch = 0

    def alive(self, pid: int, producer: bytes = FEED) -> None:
        self.ingest.handle(b"peer", [protocol.encode(protocol.Alive(producer=producer, pid=pid))])

    def send(self, name: str, records: Records, producer: bytes = FEED) -> None:
        self._batch += 1
        request = protocol.Ingest(
            id=1,
            instrument=BTC.name,
            producer=producer,
            batch=self._batch,
            parts=[protocol.Part(name, len(records))],
            source="feed:TEST",
            live=True,
        )
        self.ingest.handle(b"peer", [protocol.encode(request), records.tobytes()])

    def newest(self) -> Records:
        return self.daemon.ring("book")[-1:]

    def is_stale(self) -> bool:
        self.ingest.leave_orphans()
        return bool(self.newest()["state"][0] == BookState.STALE)


@pytest.fixture
def room(daemon: SmallDaemon) -> Iterator[Room]:
    room = Room(daemon)
    yield room
    room.ingest.close()


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_the_book_of_a_killed_feed_is_stale_at_the_next_look(room: Room, process: subprocess.Popen[bytes]) -> None:
    room.alive(process.pid)
    room.send("trade", trades([(2000, 1, 100, 1)]))
    room.send("book", book(1000))
    assert not room.is_stale()
    process.kill()
    eventually(room.is_stale)  # nobody has to wait for the child first
    left = room.newest()
    assert (left["ts_event"][0], left["bid_count"][0], left["flags"][0]) == (START + 2000 * MS, 0, BookFlag.STATE)
    count = len(room.daemon.ring("book"))
    room.ingest.leave_orphans()
    assert len(room.daemon.ring("book")) == count, "once is enough"


def test_the_figures_of_a_killed_feed_are_stale_with_its_book(room: Room, process: subprocess.Popen[bytes]) -> None:
    room.alive(process.pid)
    room.send("book", book(1000))
    room.send("imbalance", imbalances([1], ts=START))
    room.send("buckets", buckets([0], ts=START))
    room.send("buckets", buckets([0], timeframe=60, ts=START // (60 * SECOND) * 60 * SECOND - 60 * SECOND))
    room.send("trade", trades([(2500, 1, 100, 1)]))
    process.kill()
    eventually(room.is_stale)
    imbalance = room.daemon.ring("imbalance")[-1]
    assert (imbalance["ts_event"], imbalance["state"]) == (START + 3 * SECOND, BookState.STALE)
    assert (imbalance["reason"], imbalance["mid2"]) == (ImbalanceReason.NOT_LIVE, ABSENT)
    for name, span in (("buckets.1s", SECOND), ("buckets.1m", 60 * SECOND)):
        left = room.daemon.ring(name)[-1]
        assert (left["ts"], left["state"]) == ((START + 2500 * MS) // span * span, BookState.STALE)
        assert (left["width"], left["base"], left["bid_size"].max()) == (50, ABSENT, ABSENT)
    room.ingest.leave_orphans()
    assert len(room.daemon.ring("imbalance")) == 2, "once is enough"


def test_the_ledger_has_the_gap_of_a_book_whose_feed_is_gone_at_once(
    room: Room, process: subprocess.Popen[bytes]
) -> None:
    room.alive(process.pid)
    room.send("coverage", coverage_record(Coverage.OBSERVED, START, START, stream=BOOK_STREAM))
    room.send("book", book(1000))
    process.kill()
    process.wait()
    assert room.is_stale() and room.is_stale()
    (gap,) = room.daemon.ring("coverage")[1:]
    assert (gap["state"], gap["stream"]) == (Coverage.GAP, BOOK_STREAM)
    assert (gap["ts_start"], gap["ts_end"]) == (START + 1000 * MS, ABSENT)
    assert gap["ts_known"] == room.newest()["ts_known"][0]


def test_figures_that_there_never_were_are_not_left(room: Room, process: subprocess.Popen[bytes]) -> None:
    room.alive(process.pid)
    room.send("book", book(1000))
    process.kill()
    eventually(room.is_stale)
    assert not len(room.daemon.ring("imbalance")) and not len(room.daemon.ring("buckets.1s"))


def test_a_feed_that_falls_silent_is_taken_for_gone(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    room.alive(os.getpid())
    room.send("book", book(1000))
    assert not room.is_stale()
    monkeypatch.setattr(orphans, "SILENT_SECONDS", 0.05)
    eventually(room.is_stale)


def test_a_book_belongs_to_the_feed_that_spoke_of_it_last(room: Room, process: subprocess.Popen[bytes]) -> None:
    room.alive(process.pid)
    room.send("book", book(1000))
    room.alive(os.getpid(), OTHER)
    room.send("book", book(2000), OTHER)
    process.kill()
    process.wait()
    assert not room.is_stale()


def test_a_book_that_its_feed_left_itself_is_not_left_again(room: Room, process: subprocess.Popen[bytes]) -> None:
    room.alive(process.pid)
    room.send("book", book(1000))
    room.send("book", book(1500, BookState.SYNCING))
    process.kill()
    process.wait()
    room.ingest.leave_orphans()
    assert room.newest()["state"][0] == BookState.SYNCING


def test_after_a_restart_a_live_book_waits_for_its_feed_for_a_while(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.alive(os.getpid())
    room.send("book", book(1000))
    successor = Room(room.daemon)
    assert not successor.is_stale()
    monkeypatch.setattr(orphans, "NOBODY_SECONDS", 0.0)
    assert Room(room.daemon).daemon.publisher.live_books == [BTC.id]
    late = Orphans([BTC.id])
    assert eventually(late.found) == [BTC.id]
    successor.ingest.close()


def test_where_a_book_was_lost_is_told_to_the_feed_that_comes_back(room: Room) -> None:
    books = [
        book(ms, state) for ms, state in ((1000, BookState.LIVE), (2000, BookState.STALE), (3000, BookState.SYNCING))
    ]
    assert lost_since(np.concatenate(books)) == START + 2000 * MS
    assert lost_since(np.concatenate(books[:1])) is None
    assert lost_since(np.concatenate(books[1:])) == START + 2000 * MS
    assert lost_since(books[0][:0]) is None
    for each in books:
        room.send("book", each)
    assert lost_since(room.daemon.publisher.books_of(BTC)) == START + 2000 * MS


def test_an_instrument_is_announced_once_there_is_room_for_it(
    daemon: SmallDaemon, runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = publisher.write_instruments
    monkeypatch.setattr(publisher, "write_instruments", mock.Mock(side_effect=OSError(ENOSPC, "no room")))
    (runtime_dir / "instruments.json").unlink()
    daemon.publisher.announce(daemon.registry.instruments)
    daemon.publisher.heartbeat(0, 0)
    assert read_instruments(runtime_dir) == []
    monkeypatch.setattr(publisher, "write_instruments", write)
    daemon.publisher.heartbeat(0, 0)
    assert BTC.name in [each.name for each in read_instruments(runtime_dir)]
