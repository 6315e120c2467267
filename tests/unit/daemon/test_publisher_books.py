"""Books, imbalances and buckets in the arena and on the stream, with real arenas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from book_records import BUCKETS, IMBALANCE, books, buckets, imbalances, not_live
from lane import BTC, KINDS, trades
from marketd.daemon.kernel import Lot
from marketd.daemon.quantities import Nanoseconds
from marketd.daemon.rings import RingPlan
from marketd.daemon.settings import Book, Cache
from marketd.ipc.frames import NO_BODY
from marketd.ipc.protocol import StreamHeader
from marketd.market.instruments import global_instrument
from marketd.market.records import BY_NAME, BookState, Kind, KindTable, Records
from small_daemon import CACHE, SmallDaemon
from support import REPOSITORY

BOOK, DELTA = BY_NAME["book"], BY_NAME["book_delta"]
RINGS = ("book", "imbalance", "buckets.1s", "buckets.1m")


@pytest.fixture
def daemon(tmp_path: Path, runtime_dir: Path) -> Iterator[SmallDaemon]:
    daemon = SmallDaemon(tmp_path / "state", runtime_dir)
    daemon.declare(BTC)
    yield daemon
    daemon.stop()


def show(daemon: SmallDaemon, *rows: tuple[Kind, Records]) -> Lot:
    """Rows as ingest shows them: all in one publication."""
    state = daemon.kernel.state(BTC)
    daemon.known += 1000
    count = sum(len(records) for _, records in rows)
    lot = Lot(state, state.seq + 1, count, daemon.known, count, [], NO_BODY, list(rows), [])
    state.seq += count
    daemon.publisher.show(lot, daemon.journal.end)
    return lot


def test_a_book_and_what_is_made_of_it_become_visible_together(daemon: SmallDaemon) -> None:
    both = np.concatenate([buckets(range(3)), buckets([0], timeframe=60)])
    show(daemon, (BOOK, books(range(2))), (IMBALANCE, imbalances([1])), (BUCKETS, both))
    with daemon.reader() as reader:
        found, cut = reader.snapshot(dict.fromkeys(RINGS, 100))
    assert {ring: len(records) for ring, records in found.items()} == dict(zip(RINGS, (2, 1, 3, 1), strict=True))
    assert found["book"].tobytes() == books(range(2)).tobytes()
    assert found["buckets.1m"].tobytes() == buckets([0], timeframe=60).tobytes()
    assert cut.ts_known == daemon.known and cut.heads["book"] == 2


def test_a_change_of_state_is_a_record_like_others(daemon: SmallDaemon) -> None:
    show(daemon, (BOOK, books([0])))
    show(daemon, (BOOK, not_live(BookState.STALE, seq=2)))
    found = daemon.ring("book")
    assert found["state"].tolist() == [BookState.LIVE, BookState.STALE] and found["bid_count"].tolist() == [3, 0]


def test_a_full_ring_keeps_the_newest(daemon: SmallDaemon) -> None:
    capacity = daemon.publisher.board(BTC).rings["book"]
    for first in range(0, 3 * capacity, 50):
        show(daemon, (BOOK, books(range(first, first + 50))))
    assert daemon.ring("book")["seq"].tolist() == list(range(2 * capacity + 1, 3 * capacity + 1))


@pytest.mark.parametrize("kind", [DELTA, BY_NAME["tick"]])
def test_changes_of_levels_and_ticks_are_on_the_stream_and_in_no_ring(daemon: SmallDaemon, kind: Kind) -> None:
    daemon.publisher.heard(b"\x01")
    show(daemon, (kind, np.zeros(4, dtype=kind.dtype)))
    assert [topic for topic, _, _ in daemon.stream.sent] == [f"{kind.name}.BINANCE.BTCUSDT.".encode()]
    with daemon.reader() as reader:
        assert kind.name not in reader.rings


def test_each_kind_and_timeframe_has_a_numbered_topic(daemon: SmallDaemon) -> None:
    daemon.publisher.heard(b"\x01")
    both = np.concatenate([buckets([0]), buckets([0], timeframe=60)])
    show(daemon, (BOOK, books([0])), (IMBALANCE, imbalances([1])), (BUCKETS, both))
    lot = show(daemon, (BOOK, books([1])))
    topics = [topic.decode() for topic, _, _ in daemon.stream.sent]
    assert topics == [f"{ring}.BINANCE.BTCUSDT." for ring in (*RINGS, "book")]
    _, header, payload = daemon.stream.sent[-1]
    assert msgspec.msgpack.decode(header, type=StreamHeader) == StreamHeader(2, "book", 1, BTC.id, lot.ts_known, 2)
    assert payload == books([1]).tobytes()


def test_rings_are_as_large_as_window_interval_and_bars_say() -> None:
    cache = Cache(window=Nanoseconds.parse("5min"))
    specs = {spec.name: spec for spec in RingPlan(KINDS, (1, 60), cache, Book()).rings_for(BTC)}
    assert [specs[name].capacity for name in RINGS] == [3000, 3600, 300, 1500]
    faster = RingPlan(
        KindTable(book_depth=50), (1,), cache, Book(interval=Nanoseconds.parse("50ms"), depth=50)
    ).rings_for(BTC)
    book = next(spec for spec in faster if spec.name == "book")
    assert (book.capacity, book.dtype.itemsize) == (6000, 40 + 32 * 50)


def test_what_an_instrument_takes_of_memory_by_default_is_what_the_manual_says(daemon: SmallDaemon) -> None:
    daemon.stop()
    daemon.cache = Cache()
    daemon.timeframes = (1, 60, 300, 900, 3600, 14_400, 86_400)
    daemon.start()
    mib = daemon.publisher.board(BTC).arena.layout.file_bytes / 2**20
    text = (REPOSITORY / "docs" / "arena.md").read_text()
    assert f"{mib:.1f} MiB" in text


def test_another_depth_is_a_new_arena_and_the_old_one_is_retired(tmp_path: Path, runtime_dir: Path) -> None:
    daemon = SmallDaemon(tmp_path / "other", runtime_dir, kinds=KINDS)
    daemon.declare(BTC)
    show(daemon, (BOOK, books([0])))
    with daemon.reader() as reader:
        daemon.stop()
        daemon.kinds = KindTable(KINDS.series, 5)
        daemon.start()
        assert reader.rings["book"].dtype["bid_price"].shape == (5,)
        assert reader.statistics().remapped == 1
        show(daemon, (daemon.kinds.by_name("book"), books([1], depth=5)))
        assert reader.last("book", 1)[0]["seq"].tolist() == [2]
    daemon.stop()


def test_an_arena_has_the_rings_that_its_instrument_needs_and_no_others() -> None:
    plan = RingPlan(KINDS, (1, 60), CACHE, Book())
    consolidated = msgspec.structs.replace(BTC, venue="COB")
    assert [spec.name for spec in plan.rings_for(consolidated)] == ["book", "book_venues", "imbalance", "coverage"]
    assert [spec.name for spec in plan.rings_for(global_instrument(1))] == ["coverage", "funding"]


def test_what_an_arena_has_no_ring_for_is_passed_over(daemon: SmallDaemon) -> None:
    consolidated = daemon.declare(msgspec.structs.replace(BTC, id=0, venue="COB"))
    daemon.take((BY_NAME["trade"], trades([(0, 1, 100, 5)])), instrument=consolidated)
    with daemon.reader(consolidated) as reader:
        assert "trade" not in reader.rings and reader.cut().seq == daemon.kernel.state(consolidated).seq


def test_an_arena_that_is_made_in_a_running_daemon_is_alive_from_the_start(daemon: SmallDaemon) -> None:
    other = daemon.declare(msgspec.structs.replace(BTC, id=0, symbol="ETHUSDT"))
    with daemon.reader(other) as reader:
        assert reader.stale_ns() < 10**9 and reader.heartbeat.wall_ns > 0
