"""Books, imbalances and buckets out of real arenas: depth, state, requirements, reach, replacement."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from book_records import BUCKETS, IMBALANCE, book, books, buckets, imbalances, not_live
from fake_daemon import BTC
from marketd import BeyondCache, BucketFrame, DataCacheManager, InvalidArgument, Require, RequirementNotMet, Warming
from marketd.ipc.arena import ArenaState, RingSpec
from marketd.ipc.arena_reader import ArenaReader
from marketd.ipc.arena_writer import ArenaWriter
from marketd.ipc.paths import arena_path
from marketd.ipc.presence import Presence, write_presence
from marketd.market.records import BY_NAME, BookState, Records, book_kind, empty

SECOND = 1_000_000_000
BOOKS, IMBALANCES, SECONDS, MINUTES = range(4)


def rings(depth: int = 20, capacity: int = 50) -> list[RingSpec]:
    kind = book_kind(depth)
    return [
        RingSpec("book", kind.id, kind.dtype, capacity),
        RingSpec("imbalance", IMBALANCE.id, IMBALANCE.dtype, 30),
        RingSpec("buckets.1s", BUCKETS.id, BUCKETS.dtype, 20),
        RingSpec("buckets.1m", BUCKETS.id, BUCKETS.dtype, 10),
    ]


class Daemon:
    """One arena and a daemon.json, written as ingest and the supervisor do."""

    def __init__(self, directory: Path, depth: int = 20) -> None:
        self.directory = directory
        self.writer = self.create(depth)
        write_presence(
            directory, Presence(instance="test", pid=os.getpid(), version="0", book_depth=depth, instruments=[BTC])
        )

    def create(self, depth: int) -> ArenaWriter:
        path = arena_path(self.directory, BTC.name)
        writer = ArenaWriter.create(path, instance="test", instrument=BTC, rings=rings(depth), open_slots=2)
        writer.heartbeat(time.monotonic_ns(), time.time_ns(), 0, 0)
        writer.set_state(ArenaState.LIVE)
        return writer

    def beat(self, ago_ns: int = 0) -> None:
        self.writer.heartbeat(time.monotonic_ns() - ago_ns, time.time_ns(), 0, 0)

    def append(self, ring: int, records: Records, *, known_ns: int | None = None) -> None:
        self.writer.append(ring, records)
        known = time.time_ns() if known_ns is None else known_ns
        self.writer.publish(known, int(records[records.dtype.names[0]][-1]), int(records["seq"][-1]), 0)


@pytest.fixture
def daemon(runtime_dir: Path) -> Iterator[Daemon]:
    daemon = Daemon(runtime_dir)
    yield daemon
    daemon.writer.close()


@pytest.fixture
def cache(daemon: Daemon) -> Iterator[DataCacheManager]:
    with DataCacheManager(daemon.directory) as cache:
        yield cache


def test_the_newest_book_comes_whole_with_its_state(daemon: Daemon, cache: DataCacheManager) -> None:
    daemon.append(BOOKS, books(range(5)))
    found = cache.get_latest_orderbook("BTC/USDT")
    assert found.records.tobytes() == books([4]).tobytes()
    assert (found.meta.book_state, found.meta.served_from, found.mid.tolist()) == ("LIVE", "arena", [100.05])
    assert cache.get_latest_orderbook("BTC/USDT", limit=3)["seq"].tolist() == [3, 4, 5]
    assert len(cache.get_latest_orderbook("BTC/USDT", limit=50)) == 5


def test_the_best_levels_alone_are_cut_from_what_is_kept(daemon: Daemon, cache: DataCacheManager) -> None:
    daemon.append(BOOKS, books(range(5)))
    found = cache.get_latest_orderbook(BTC.name, depth=2)
    assert found.bids.tolist() == [[[100.04, 0.5], [100.03, 0.50001]]]
    with pytest.raises(BeyondCache, match=r"21 levels a side .* a larger book\.depth keeps more") as caught:
        cache.get_latest_orderbook(BTC.name, depth=21)
    assert caught.value.field == "depth"
    with pytest.raises(InvalidArgument, match="depth"):
        cache.get_latest_orderbook(BTC.name, depth=0)
    assert (cache.cache_statistics().hits, cache.cache_statistics().misses) == (1, 2)


def test_more_books_than_the_ring_holds_name_the_setting(daemon: Daemon, cache: DataCacheManager) -> None:
    with pytest.raises(BeyondCache, match=r"51 records of book .* holds 50; a larger cache\.window"):
        cache.get_latest_orderbook(BTC.name, limit=51)
    with pytest.raises(BeyondCache, match=r"31 records of imbalance .* a larger cache\.bars"):
        cache.get_latest_imbalances(BTC.name, limit=31)
    with pytest.raises(BeyondCache, match=r"buckets\.1h .* holds none"):
        cache.get_latest_buckets(BTC.name, "1h")


@pytest.mark.parametrize("state", [state for state in BookState if state is not BookState.LIVE])
def test_a_book_that_left_live_is_no_numbers(daemon: Daemon, cache: DataCacheManager, state: BookState) -> None:
    daemon.append(BOOKS, books(range(2)))
    daemon.append(BOOKS, not_live(state, seq=9))
    found = cache.get_latest_orderbook(BTC.name)
    assert found.meta.book_state == state.name and not found.is_live[0] and np.isnan(found.bids).all()
    with pytest.raises(RequirementNotMet, match=f"the book is {state.name}, required is LIVE"):
        cache.get_latest_orderbook(BTC.name, require=Require(book="LIVE"))


def test_while_the_daemon_is_silent_no_book_counts_as_live(daemon: Daemon, cache: DataCacheManager) -> None:
    daemon.append(BOOKS, books(range(2)))
    daemon.beat(ago_ns=3 * SECOND)
    found = cache.get_latest_orderbook(BTC.name)
    assert found.meta.book_state == "STALE" and (found.meta.stale_ns or 0) >= 3 * SECOND
    for require in (Require(book="LIVE"), Require(max_stale="2s")):
        with pytest.raises(RequirementNotMet):
            cache.get_latest_orderbook(BTC.name, require=require)
    daemon.beat()
    assert cache.get_latest_orderbook(BTC.name, require=Require("2s", "LIVE")).meta.book_state == "LIVE"


def test_a_book_of_which_nothing_was_heard_lately_is_refused_where_that_is_required(
    daemon: Daemon, cache: DataCacheManager
) -> None:
    daemon.append(BOOKS, books(range(2)), known_ns=time.time_ns() - 60 * SECOND)
    with pytest.raises(RequirementNotMet, match="the newest is 60"):
        cache.get_latest_orderbook(BTC.name, require=Require(max_stale="2s"))


def test_imbalances_and_buckets_come_with_the_state_of_their_book(daemon: Daemon, cache: DataCacheManager) -> None:
    daemon.append(IMBALANCES, imbalances(range(5)))
    daemon.append(SECONDS, buckets(range(4)))
    daemon.append(MINUTES, buckets(range(3), timeframe=60))
    found = cache.get_latest_imbalances("BTC/USDT", 2, Require(book="LIVE"))
    assert found["book_1s"].tolist() == [0.03, 0.04]
    seconds, minutes = cache.get_latest_buckets("BTC/USDT", "1s", 2), cache.get_latest_buckets("BTC/USDT", 60)
    assert isinstance(seconds, BucketFrame) and seconds.timeframe == 1 and seconds["bid_size"][:, 0].tolist() == [2, 3]
    assert minutes["time"].tolist() == [120 * SECOND] and minutes.meta.book_state == "LIVE"


def test_a_stream_by_its_name_is_the_same_answer(daemon: Daemon, cache: DataCacheManager) -> None:
    daemon.append(BOOKS, books(range(5)))
    assert cache.get_latest("book", BTC.name, 2).digest == cache.get_latest_orderbook(BTC.name, limit=2).digest
    assert len(cache.whole_ring("book", BTC.name)) == 5
    daemon.append(SECONDS, buckets(range(4)))
    assert len(cache.whole_ring("buckets", BTC.name, 1)) == 4


def test_nothing_is_served_while_the_rings_are_being_filled(daemon: Daemon, cache: DataCacheManager) -> None:
    daemon.append(BOOKS, books(range(5)))
    daemon.writer.set_state(ArenaState.WARMING)
    for read in (cache.get_latest_orderbook, cache.get_latest_imbalances, cache.get_latest_buckets):
        with pytest.raises(Warming):
            read(BTC.name)


@pytest.mark.parametrize("depth", [1, 5, 100])
def test_books_are_as_deep_as_the_daemon_keeps_them(runtime_dir: Path, depth: int) -> None:
    daemon = Daemon(runtime_dir, depth)
    with daemon.writer, DataCacheManager(runtime_dir) as cache:
        daemon.append(BOOKS, books(range(3), depth=depth, levels=min(depth, 3)))
        assert cache.get_latest_orderbook(BTC.name).bids.shape == (1, depth, 2)


def test_after_a_change_of_depth_readers_find_the_new_arena(daemon: Daemon, cache: DataCacheManager) -> None:
    daemon.append(BOOKS, books(range(3)))
    assert cache.get_latest_orderbook(BTC.name).depth == 20
    daemon.writer.close()
    daemon.writer = daemon.create(5)
    daemon.append(BOOKS, books(range(3, 6), depth=5))
    found = cache.get_latest_orderbook(BTC.name)
    assert (found.depth, found.mid.tolist(), cache.cache_statistics().remaps) == (5, [100.06], 1)


def test_the_arena_itself_tells_the_depth_to_who_reads_it_directly(daemon: Daemon) -> None:
    daemon.append(BOOKS, book([(1, 2)], [(3, 4)]))
    with ArenaReader.open(arena_path(daemon.directory, BTC.name)) as reader:
        assert reader.rings["book"].dtype == book_kind(20).dtype
        records, cut = reader.last("book", 1)
        assert records["bid_price"][0, 0] == 1 and cut.heads["book"] == 1


def test_a_consolidated_book_comes_with_the_venue_of_each_level(runtime_dir: Path) -> None:
    cob = msgspec.structs.replace(BTC, venue="COB")
    kind = BY_NAME["book_venues"]
    specs = [rings()[BOOKS], RingSpec(kind.name, kind.id, kind.dtype, 5)]
    path = arena_path(runtime_dir, cob.name)
    with ArenaWriter.create(path, instance="test", instrument=cob, rings=specs, open_slots=2) as writer:
        write_presence(runtime_dir, Presence(instance="test", pid=os.getpid(), version="0", instruments=[cob]))
        found, venues = books(range(4)), empty(kind, 4)
        venues["ts_known"], venues["bid_venue"][:, 0] = found["ts_known"], [1, 2, 3, 4]
        writer.append(0, found)
        writer.append(1, venues)
        writer.publish(time.time_ns(), 1, 1, 0)
        writer.heartbeat(time.monotonic_ns(), time.time_ns(), 0, 0)
        writer.set_state(ArenaState.LIVE)
        with DataCacheManager(runtime_dir) as cache:
            assert cache.get_latest_orderbook("BTCUSDT.COB", depth=1, limit=2)["bid_venue"].tolist() == [[3], [4]]
            assert cache.get_latest("book_venues", "BTCUSDT.COB")["bid_venue"][0, 0] == 4
