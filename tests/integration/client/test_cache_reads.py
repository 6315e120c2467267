"""The cache manager over real arenas: bars, trades, symbols, staleness, replacement."""

import os
import pickle
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fake_daemon import BTC, CANDLE, FUNDING, TRADE, FakeDaemon, candles, trades
from marketd import DataCacheManager, Frame, Require, UnifiedDataProvider
from marketd.ipc.arena import ArenaState, RingSpec
from marketd.ipc.arena_writer import ArenaWriter
from marketd.ipc.paths import arena_path
from marketd.ipc.presence import Presence, write_instruments, write_presence
from marketd.market.errors import (
    AmbiguousSymbol,
    BeyondCache,
    InvalidArgument,
    NotRunning,
    RequirementNotMet,
    UnknownInstrument,
    UnknownStream,
    Warming,
)
from marketd.market.instruments import Instrument
from marketd.market.records import BY_NAME, CandleFlag, Coverage, Records, Source, empty, series_kind

FUNDING_KIND = series_kind(FUNDING.id, FUNDING.name, FUNDING.fields)
RINGS = [
    RingSpec("trade", TRADE.id, TRADE.dtype, 100),
    RingSpec("candle.1m.own", CANDLE.id, CANDLE.dtype, 50),
    RingSpec("candle.1m.venue", CANDLE.id, CANDLE.dtype, 50),
    RingSpec("candle.1s.own", CANDLE.id, CANDLE.dtype, 50),
    RingSpec("funding", FUNDING_KIND.id, FUNDING_KIND.dtype, 10),
    RingSpec("coverage", BY_NAME["coverage"].id, BY_NAME["coverage"].dtype, 10),
]
TRADES, OWN, VENUE, SECONDS, SERIES, LEDGER = range(6)


class Daemon:
    """One arena and a daemon.json, written as ingest and the supervisor do."""

    def __init__(self, directory: Path, instrument: Instrument = BTC, rings: list[RingSpec] = RINGS) -> None:
        self.directory, self.seq = directory, 0
        path = arena_path(directory, instrument.name)
        self.writer = ArenaWriter.create(path, instance="test", instrument=instrument, rings=rings, open_slots=2)
        self.say()
        self.beat()
        self.writer.set_state(ArenaState.LIVE)

    def say(self, *instruments: Instrument, **fields: object) -> None:
        presence = Presence(instance="test", pid=os.getpid(), version="0", streams=[FUNDING])
        write_presence(self.directory, msgspec.structs.replace(presence, instruments=list(instruments), **fields))

    def beat(self, *, ago_ns: int = 0, durable: int = 0) -> None:
        self.writer.heartbeat(time.monotonic_ns() - ago_ns, time.time_ns(), durable, 0)

    def append(self, ring: int, records: Records, open_bars: Records | None = None, offset: int = 0) -> None:
        self.seq += 1
        if len(records):
            self.writer.append(ring, records.tobytes())
        table = None if open_bars is None else np.concatenate((open_bars, empty(CANDLE, 2)))[:2].tobytes()
        self.writer.publish(self.seq, self.seq, self.seq, offset, table)


@pytest.fixture
def daemon(runtime_dir: Path) -> Iterator[Daemon]:
    daemon = Daemon(runtime_dir)
    yield daemon
    daemon.writer.close()


@pytest.fixture
def cache(daemon: Daemon) -> Iterator[DataCacheManager]:
    with DataCacheManager(daemon.directory) as cache:
        yield cache


def test_the_newest_closed_bars_come_with_the_stamps_of_their_cut(daemon: Daemon, cache: DataCacheManager) -> None:
    daemon.append(OWN, candles(range(10)), offset=500)
    daemon.beat(durable=499)
    frame = cache.get_latest_ohlcv("BTCUSDT.BINANCE", "1m", 3)
    assert frame["close"].tolist() == [100.07, 100.08, 100.09]
    assert (frame.meta.served_from, frame.meta.watermark, frame.meta.durable) == ("arena", 1, False)
    assert frame.meta.stale_ns is not None and frame.meta.stale_ns < 10**9 and frame.meta.latency_ns
    daemon.beat(durable=500)
    assert cache.get_latest_ohlcv("BTCUSDT.BINANCE", "1m", 3).meta.durable is True


def test_unchanged_bars_are_handed_out_again_with_new_stamps(daemon: Daemon, cache: DataCacheManager) -> None:
    daemon.append(OWN, candles(range(5)))
    first = cache.get_latest_ohlcv(BTC.name, "1m", 5)
    daemon.append(TRADES, trades(range(3)))
    second = cache.get_latest_ohlcv(BTC.name, "1m", 5)
    assert second.records is first.records and second["close"] is first["close"]
    assert (first.meta.watermark, second.meta.watermark) == (1, 2)


def test_a_new_bar_and_a_new_version_of_an_old_one_are_seen(daemon: Daemon, cache: DataCacheManager) -> None:
    daemon.append(OWN, candles(range(5)))
    assert cache.get_latest_ohlcv(BTC.name, "1m", 5)["close"][-1] == 100.04
    daemon.append(OWN, candles([5]))
    assert cache.get_latest_ohlcv(BTC.name, "1m", 5)["close"].tolist()[-1] == 100.05
    version = candles([3], flags=int(CandleFlag.REVISED), first_seq=99)
    version["close"] = 99_999
    daemon.writer.rewrite(OWN, 3, version.tobytes())
    daemon.append(OWN, candles([]))
    assert cache.get_latest_ohlcv(BTC.name, "1m", 5)["close"].tolist()[2] == 999.99


def test_a_repeated_read_looks_at_shared_memory_every_time(daemon: Daemon, cache: DataCacheManager) -> None:
    daemon.append(OWN, candles(range(10)), offset=500)
    daemon.beat(durable=499)
    read = partial(cache.get_latest_ohlcv, "BTC/USDT", "1m", 3)
    assert [read().meta.durable, read().meta.durable] == [False, False]
    daemon.beat(durable=500)
    assert [read().meta.durable, read().meta.durable] == [True, True]
    first, second = read(), read()
    assert first is not second and first.meta is not second.meta and first.records is second.records
    assert second.meta.latency_ns is not None and second.meta.stale_ns is not None
    daemon.append(TRADES, trades([1]), offset=600)  # no bar, but a newer publication
    assert (read().meta.watermark, read().meta.durable) == (2, False)
    daemon.beat(durable=600)
    assert (read().meta.watermark, read().meta.durable) == (2, True)
    daemon.append(OWN, candles([10]), offset=600)
    assert [frame["close"].tolist() for frame in (read(), read())] == [[100.08, 100.09, 100.1]] * 2
    daemon.beat(ago_ns=5 * 10**9, durable=600)
    assert read().meta.stale_ns is not None and read().meta.stale_ns > 4 * 10**9
    daemon.writer.set_state(ArenaState.WARMING)
    daemon.beat(durable=600)
    with pytest.raises(Warming):
        read()


def test_the_best_bar_is_the_venues_where_the_own_is_partial_or_missing(
    daemon: Daemon, cache: DataCacheManager
) -> None:
    daemon.append(OWN, candles([2], flags=int(CandleFlag.PARTIAL)))
    daemon.append(OWN, candles([3, 4]))
    daemon.append(VENUE, candles([1, 2, 3], source=Source.VENUE))
    assert cache.get_latest_ohlcv(BTC.name, "1m", 10)["source"].tolist() == [2, 2, 1, 1]
    assert len(cache.get_latest_ohlcv(BTC.name, "1m", 10, "own")) == 3
    assert cache.get_latest_ohlcv(BTC.name, 60, 10, "venue")["source"].tolist() == [2, 2, 2]
    daemon.append(VENUE, candles([5], source=Source.VENUE))
    assert cache.get_latest_ohlcv(BTC.name, "1m", 1)["source"].tolist() == [2]


def test_forming_bars_stand_at_the_end_and_are_told_apart(daemon: Daemon, cache: DataCacheManager) -> None:
    daemon.append(OWN, candles(range(3)), np.concatenate((candles([3]), candles([200], timeframe=1))))
    frame = cache.get_latest_ohlcv(BTC.name, "1m", 2, forming=True)
    assert frame["is_forming"].tolist() == [False, False, True] and frame["close"][-1] == 100.03
    assert len(cache.get_latest_ohlcv(BTC.name, "1m", 2)) == 2
    assert len(cache.cut(BTC.name).open_bars) == 2


def test_trades_and_streams_are_read_in_the_order_of_their_arrival(daemon: Daemon, cache: DataCacheManager) -> None:
    daemon.append(TRADES, trades(range(120)))
    assert cache.get_latest_trades(BTC.name, 2)["trade_id"].tolist() == [118, 119]
    rates = empty(FUNDING_KIND, 1)
    rates["rate"] = 0.25
    daemon.append(SERIES, rates)
    assert cache.get_latest("funding", BTC.name)["rate"].tolist() == [0.25]
    assert len(cache.whole_ring("trade", BTC.name)) == 100
    with pytest.raises(UnknownStream):
        cache.get_latest("weather", BTC.name)


@pytest.mark.parametrize("symbol", ["BTCUSDT.BINANCE", "BTCUSDT", "BTC/USDT", "BTC/USDT.BINANCE", "bitcoin"])
def test_every_spelling_of_a_symbol_finds_its_arena(daemon: Daemon, cache: DataCacheManager, symbol: str) -> None:
    daemon.append(OWN, candles(range(1)))
    daemon.say(aliases={"bitcoin": "BTCUSDT.BINANCE"})
    assert cache.get_latest_ohlcv(symbol).instrument.name == "BTCUSDT.BINANCE"
    daemon.say(aliases={"bitcoin": "BTC/USDT"})
    write_instruments(daemon.directory, [BTC])
    with DataCacheManager(daemon.directory) as other:
        assert other.instrument(symbol) == BTC


def test_a_symbol_of_two_venues_needs_a_venue_or_a_default(daemon: Daemon, cache: DataCacheManager) -> None:
    swap = msgspec.structs.replace(BTC, venue="BINANCE_FUTURES", id=7)
    other = msgspec.structs.replace(BTC, venue="BYBIT", id=8)
    writers = [Daemon(daemon.directory, instrument).writer for instrument in (swap, other)]
    with pytest.raises(AmbiguousSymbol, match=r"BTCUSDT\.BINANCE, BTCUSDT\.BYBIT"):
        cache.instrument("BTC/USDT")
    assert cache.instrument("BTC/USDT:USDT").venue == "BINANCE_FUTURES"
    daemon.say(default_venue="BYBIT")
    assert cache.instrument("BTC/USDT").venue == "BYBIT"
    with pytest.raises(UnknownInstrument, match="ETH/USDT"):
        cache.instrument("ETH/USDT")
    for writer in writers:
        writer.close()


def test_what_shared_memory_does_not_hold_names_the_setting(daemon: Daemon, cache: DataCacheManager) -> None:
    for question, setting in (
        (lambda: cache.get_latest_ohlcv(BTC.name, "1m", 51), "cache.bars"),
        (lambda: cache.get_latest_ohlcv(BTC.name, "1d", 1), "cache.bars"),
        (lambda: cache.get_latest_ohlcv(BTC.name, "1m", 1, "import"), "cache.bars"),
        (lambda: cache.get_latest_trades(BTC.name, 101), "cache.window"),
    ):
        with pytest.raises(BeyondCache, match=setting):
            question()
    assert cache.cache_statistics().misses == 4
    for limit, source in ((0, "best"), (True, "best"), (1, "mine")):
        with pytest.raises(InvalidArgument):
            cache.get_latest_ohlcv(BTC.name, "1m", limit, source)  # type: ignore[arg-type]


def test_a_warming_arena_is_not_served_from(daemon: Daemon, cache: DataCacheManager) -> None:
    daemon.append(OWN, candles(range(3)))
    daemon.writer.set_state(ArenaState.WARMING)
    with pytest.raises(Warming, match="ask again"):
        cache.get_latest_ohlcv(BTC.name)
    daemon.writer.set_state(ArenaState.LIVE)
    assert len(cache.get_latest_ohlcv(BTC.name)) == 1


def test_a_silent_writer_shows_in_the_answer(daemon: Daemon, cache: DataCacheManager) -> None:
    daemon.append(OWN, candles(range(3)))
    daemon.beat(ago_ns=5 * 10**9)
    stale_ns = cache.get_latest_ohlcv(BTC.name).meta.stale_ns
    assert stale_ns is not None and stale_ns >= 5 * 10**9


def test_a_replaced_arena_is_followed(daemon: Daemon, cache: DataCacheManager) -> None:
    daemon.append(OWN, candles(range(3)))
    assert len(cache.get_latest_ohlcv(BTC.name, "1m", 5)) == 3
    daemon.writer.retire()
    daemon.writer.close()
    second = Daemon(daemon.directory, rings=RINGS[:3])
    second.append(OWN, candles(range(7, 10)))
    assert cache.get_latest_ohlcv(BTC.name, "1m", 5)["close"].tolist() == [100.07, 100.08, 100.09]
    assert cache.cache_statistics().remaps == 1
    second.writer.close()


def test_an_instrument_that_got_a_finer_precision_is_read_in_its_new_scales(
    daemon: Daemon, cache: DataCacheManager
) -> None:
    """A finer precision is a new id, in an arena of the same name: the old scales would be wrong by powers of ten."""
    daemon.say(BTC)
    daemon.append(OWN, candles(range(3)))
    daemon.append(TRADES, trades(range(3)))
    before = cache.get_latest_ohlcv(BTC.name, "1m")
    assert before["close"].tolist() == [100.02]
    daemon.writer.retire()
    assert cache.get_latest_ohlcv(BTC.name, "1m")["close"].tolist() == [100.02]  # no other is there yet
    finer = msgspec.structs.replace(BTC, id=BTC.id + 1, price_scale=BTC.price_scale + 2)
    second = Daemon(daemon.directory, finer)
    second.say(BTC)  # the list of before
    second.append(OWN, candles(range(7, 8)))
    second.append(TRADES, trades(range(7, 8)))
    assert cache.instrument(BTC.name).price_scale == finer.price_scale
    after = cache.get_latest_ohlcv(BTC.name, "1m")
    assert (after["close"].tolist(), after.instrument.id) == ([1.0007], finer.id)
    assert cache.get_latest_trades(BTC.name, 1).instrument.id == finer.id
    assert before["close"].tolist() == [100.02]
    assert cache.cache_statistics().remaps == 1
    second.writer.close()


def test_an_arena_that_vanished_and_came_back_is_found_once_it_is_stale(
    daemon: Daemon, cache: DataCacheManager
) -> None:
    daemon.append(OWN, candles(range(3)))
    assert len(cache.get_latest_ohlcv(BTC.name, "1m", 5)) == 3
    daemon.beat(ago_ns=2 * 10**9)
    daemon.writer.close()
    arena_path(daemon.directory, BTC.name).unlink()
    second = Daemon(daemon.directory)
    second.append(OWN, candles(range(1)))
    assert len(cache.get_latest_ohlcv(BTC.name, "1m", 5)) == 1
    second.writer.close()


def test_without_a_daemon_there_is_nothing_to_read(runtime_dir: Path) -> None:
    with DataCacheManager(runtime_dir) as cache, pytest.raises(NotRunning, match="marketd run"):
        cache.get_latest_ohlcv("BTC/USDT")
    with pytest.raises(InvalidArgument, match="own host"):
        DataCacheManager("tcp://host:5555")


def test_statistics_count_reads_and_their_latency(daemon: Daemon, cache: DataCacheManager) -> None:
    assert cache.cache_statistics() == (0, 0, 0, 0, 0, 0, None, None)
    daemon.append(OWN, candles(range(3)))
    for _ in range(10):
        cache.get_latest_ohlcv("BTC/USDT")
        cache.get_latest_ohlcv(BTC.name)
    statistics = cache.cache_statistics()
    assert (statistics.hits, statistics.misses, statistics.instruments) == (20, 0, 1)
    assert statistics.p50_ns is not None and statistics.p99_ns is not None
    assert 0 < statistics.p50_ns <= statistics.p99_ns


def test_a_cache_manager_can_be_pickled_and_frames_outlive_it(daemon: Daemon, cache: DataCacheManager) -> None:
    daemon.append(OWN, candles(range(3)))
    with pickle.loads(pickle.dumps(cache)) as copy:
        frame = copy.get_latest_ohlcv("BTC/USDT", limit=2)
    assert frame["close"].tolist() == [100.01, 100.02]


def test_a_provider_asks_the_daemon_for_what_shared_memory_does_not_hold(runtime_dir: Path) -> None:
    with FakeDaemon(runtime_dir) as fake:
        arena = Daemon(runtime_dir)
        arena.append(OWN, candles(range(20, 25)))
        fake.store("candle", candles(range(100)))
        fake.store("trade", trades(range(200)))
        with UnifiedDataProvider(runtime_dir) as md:
            served = [
                md.get_latest_ohlcv("BTC/USDT", "1m", 5).meta.served_from,
                md.get_latest_ohlcv("BTC/USDT", "1m", 60).meta.served_from,
                md.get_latest_ohlcv("BTC/USDT", "1d", 1).meta.served_from,
                md.get_latest_trades("BTC/USDT", 150).meta.served_from,
            ]
            assert served == ["arena", "database", "database", "database"]
            assert (md.cache_statistics().hits, md.cache_statistics().misses) == (1, 3)
        arena.writer.close()


def told(state: Coverage, start: int, end: int) -> Records:
    record = np.zeros(1, dtype=BY_NAME["coverage"].dtype)
    record["ts_start"], record["ts_end"], record["state"], record["stream"] = start, end, state, TRADE.id
    return record


def test_coverage_and_gaps_are_looked_up_when_they_are_asked_for(daemon: Daemon) -> None:
    with DataCacheManager(daemon.directory) as cache:
        daemon.append(OWN, candles([1, 2, 3]))
        times = cache.get_latest_ohlcv("BTC/USDT", "1m", 3).records["ts"].tolist()
        first = cache.get_latest_ohlcv("BTC/USDT", "1m", 3)
        assert (first.meta.coverage, first.meta.gaps) == (None, []), "the ledger says nothing yet"
        daemon.append(LEDGER, told(Coverage.OBSERVED, times[0], times[0]))
        frame = cache.get_latest_ohlcv("BTC/USDT", "1m", 3)
        assert (frame.meta.coverage, frame.meta.gaps) == ("observed", [])
        assert frame is not first and Require(no_gaps=True).check(frame) is frame
        daemon.append(LEDGER, told(Coverage.GAP, times[1], times[1] + 5))
        frame = cache.get_latest_ohlcv("BTC/USDT", "1m", 3)
        again = cache.get_latest_ohlcv("BTC/USDT", "1m", 3)
        for each in (frame, again, pickle.loads(pickle.dumps(again.meta))):
            meta = getattr(each, "meta", each)
            assert (meta.coverage, meta.gaps) == ("gap", [(times[1], times[1] + 5)])
        with pytest.raises(RequirementNotMet, match="no_gaps"):
            Require(no_gaps=True).check(again)
        assert cache.get_latest_ohlcv("BTC/USDT", "1m", 1).meta.coverage == "observed", "its own stretch is whole"
        assert Frame.from_bytes(again.to_bytes()).meta.gaps == again.meta.gaps
    assert again.meta.gaps, "it was looked up before"


def test_whether_gaps_are_missing_must_be_known_where_it_is_required(daemon: Daemon) -> None:
    with DataCacheManager(daemon.directory) as cache:
        daemon.append(TRADES, trades([1, 2]))
        with pytest.raises(RequirementNotMet, match="does not say"):
            Require(no_gaps=True).check(cache.get_latest_trades("BTC/USDT", 2))
