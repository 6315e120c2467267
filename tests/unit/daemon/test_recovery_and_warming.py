"""Ingest's start, with a real journal and real arenas: nothing is shown twice, nothing is missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from book_records import BUCKETS, IMBALANCE, books, buckets, imbalances
from lane import BTC, CANDLES, FUNDING, KINDS, MS, SECOND, START, bars, make_kernel, observed, rates, trades
from marketd.daemon import warming
from marketd.daemon.kernel import COVERAGE_KIND, TRADE_KIND, Lot
from marketd.daemon.recovery import restore_kernel
from marketd.daemon.registry import RegistryBehind
from marketd.daemon.rings import RingPlan
from marketd.daemon.settings import Book
from marketd.daemon.warming import Warmer
from marketd.ipc.arena import ArenaState
from marketd.ipc.arena_reader import ArenaReader
from marketd.ipc.paths import arena_path
from marketd.ipc.protocol import Answer, Bars, Failure, Meta, ResultPart, StreamHeader
from marketd.market.records import BY_NAME, Records
from marketd.market.times import timeframe_name
from small_daemon import CACHE, SmallDaemon, expected_ring

RINGS = (
    *("trade", "candle.1s.own", "candle.1m.own", "candle.1m.venue", "coverage", "funding"),
    *("book", "imbalance", "buckets.1s", "buckets.1m"),
)
BOOK = BY_NAME["book"]
ETH = msgspec.structs.replace(BTC, id=65_538, symbol="ETHUSDT", base="ETH")


@pytest.fixture
def daemon(tmp_path: Path, runtime_dir: Path) -> Iterator[SmallDaemon]:
    daemon = SmallDaemon(tmp_path / "state", runtime_dir)
    daemon.declare(BTC)
    yield daemon
    daemon.stop()


def take_some(daemon: SmallDaemon, first: int, count: int = 3, **how: bool) -> Lot:
    """Trades of as many seconds, so that bars close, and what else there is."""
    return daemon.take(
        (TRADE_KIND, trades([((first + n) * 1000, first + n + 1, 100 + n, 5) for n in range(count)])),
        (CANDLES, bars([first % 7])),
        (COVERAGE_KIND, observed(first * 1000)),
        (FUNDING, rates([(first * 1000, 0.5)])),
        (BOOK, books([first], ts=START)),
        (IMBALANCE, imbalances([first], ts=START)),
        (BUCKETS, buckets([first], ts=START)),
        (BUCKETS, buckets([first], ts=START - START % (60 * SECOND), timeframe=60)),
        **how,
    )


def assert_shown(daemon: SmallDaemon, lots: list[tuple[Lot, int]]) -> None:
    for ring in RINGS:
        assert daemon.ring(ring).tobytes() == expected_ring(lots, ring).tobytes(), ring


# ---- recovery ---------------------------------------------------------------------------------------


def test_a_restart_shows_nothing_twice(daemon: SmallDaemon) -> None:
    for first in range(0, 12, 3):
        take_some(daemon, first)
    assert_shown(daemon, daemon.lots)
    number = daemon.publisher.board(BTC).arena.number
    recovered = daemon.restart()
    assert (recovered.frames, recovered.shown) == (5, 0)
    assert daemon.publisher.board(BTC).arena.number == number
    assert_shown(daemon, daemon.lots)


def test_what_was_journaled_and_not_shown_is_shown_by_the_successor(daemon: SmallDaemon) -> None:
    take_some(daemon, 0)
    take_some(daemon, 3, show=False)
    take_some(daemon, 6, show=False)
    assert daemon.restart().shown == 2
    assert_shown(daemon, daemon.lots)
    take_some(daemon, 9)
    assert_shown(daemon, daemon.lots)


def test_what_was_written_to_the_rings_and_not_published_is_taken_back(daemon: SmallDaemon) -> None:
    take_some(daemon, 0)
    take_some(daemon, 3, show=False)
    board = daemon.publisher.board(BTC)
    board.arena.append(0, trades([(1, 999, 1, 1)]))
    daemon.restart()
    assert_shown(daemon, daemon.lots)


def test_the_successor_goes_on_with_the_numbers_bars_and_moments(daemon: SmallDaemon) -> None:
    take_some(daemon, 0)
    before = daemon.kernel.checkpoint()
    restored = make_kernel()
    daemon.restart()
    restored.restore(before, [BTC, *daemon.registry.all_instruments])
    again = msgspec.msgpack.decode(daemon.kernel.checkpoint())
    assert again["states"] == msgspec.msgpack.decode(restored.checkpoint())["states"]
    lot = take_some(daemon, 3)
    assert lot.seq == daemon.lots[0][0].seq + daemon.lots[0][0].records
    assert lot.ts_known > daemon.lots[0][0].ts_known


def test_frames_before_the_checkpoint_are_not_read_again(daemon: SmallDaemon) -> None:
    for first in range(0, 900, 3):  # some segments of the smallest size
        take_some(daemon, first)
    assert daemon.journal.statistics().checkpoints > 2
    recovered = daemon.restart()
    assert 0 < recovered.frames < 100
    assert recovered.shown == 0
    assert daemon.ring("trade")["seq"][-1] == trades_of(daemon)[-1]["seq"]
    assert take_some(daemon, 900).seq == daemon.lots[-2][0].seq + daemon.lots[-2][0].records


def trades_of(daemon: SmallDaemon) -> Records:
    return expected_ring(daemon.lots, "trade")


def test_after_live_only_lots_a_restart_shows_nothing_twice_and_gives_no_number_twice(daemon: SmallDaemon) -> None:
    take_some(daemon, 0)
    take_some(daemon, 3)
    live_only = take_some(daemon, 6, journal=False)
    shown = daemon.ring("trade")["seq"].tolist()
    assert daemon.restart().shown == 0
    assert daemon.ring("trade")["seq"].tolist() == shown
    lot = take_some(daemon, 9)
    assert lot.seq == live_only.seq + live_only.records
    assert lot.ts_known > live_only.ts_known
    assert len(set(daemon.ring("trade")["seq"].tolist())) == len(shown) + 3


def test_an_instrument_that_got_finer_scales_keeps_one_arena_and_the_next_start_works(daemon: SmallDaemon) -> None:
    take_some(daemon, 0)
    finer = daemon.declare(msgspec.structs.replace(BTC, price_scale=4))
    assert finer.id != BTC.id
    daemon.take((TRADE_KIND, trades([(9_000, 1, 10_000, 5)])), instrument=finer)
    daemon.restart()
    with daemon.reader(finer) as reader:
        assert reader.identity.instrument_id == finer.id
    assert daemon.ring("trade", finer)["trade_id"].tolist() == [1]


def test_an_import_lanes_kernel_is_restored_without_an_arena(daemon: SmallDaemon) -> None:
    take_some(daemon, 0)
    wanted = daemon.kernel.checkpoint()
    daemon.stop()
    shutil.rmtree(daemon.runtime / "arena")
    daemon.start()
    kernel = make_kernel()
    restore_kernel(daemon.journal, kernel, daemon.registry)
    found, expected = msgspec.msgpack.decode(kernel.checkpoint()), msgspec.msgpack.decode(wanted)
    assert [s for s in found["states"] if s["id"] == BTC.id] == [s for s in expected["states"] if s["id"] == BTC.id]


@pytest.mark.parametrize("where", ["checkpoint", "frames"])
def test_a_file_of_ids_that_is_older_than_the_journal_is_told_with_the_way_out(daemon: SmallDaemon, where: str) -> None:
    older = daemon.registry.path.read_bytes()
    eth = daemon.declare(msgspec.structs.replace(BTC, symbol="ETHUSDT"))
    before = daemon.journal.statistics().checkpoints
    while where == "checkpoint" and daemon.journal.statistics().checkpoints < before + 1:
        daemon.take((TRADE_KIND, trades([(0, len(daemon.lots) + 1, 100, 1)])), instrument=eth)
    daemon.stop()
    newer = daemon.registry.path.read_bytes()
    daemon.registry.path.write_bytes(older)
    with pytest.raises(RegistryBehind) as caught:
        daemon.start()
    for part in (str(daemon.registry.path), str(daemon.journal.directory), str(eth.id), "backup"):
        assert part in str(caught.value)
    daemon.stop()
    daemon.registry.path.write_bytes(newer)
    daemon.start()


# ---- the publisher ----------------------------------------------------------------------------------


def test_a_lot_is_seen_whole_in_all_rings_or_not_at_all(daemon: SmallDaemon) -> None:
    lot = take_some(daemon, 0, count=5)
    with daemon.reader() as reader:
        records, cut = reader.snapshot(dict.fromkeys(RINGS, 1000))
        assert (cut.seq, cut.ts_known, cut.ts_event) == (lot.seq + lot.records - 1, lot.ts_known, START + 4000 * MS)
        assert {name: len(found) for name, found in records.items()} == {
            name: len(expected_ring(daemon.lots, name)) for name in RINGS
        }
        assert cut.open_bars["timeframe"].tolist() == [1, 1, 60]  # the third second is in its grace


def test_bars_of_a_timeframe_or_source_without_a_ring_are_passed_over(daemon: SmallDaemon) -> None:
    daemon.take((CANDLES, bars([0], timeframe=300)), (CANDLES, bars([0], source=3)))
    assert len(daemon.ring("candle.1m.venue")) == 0


def test_there_is_a_ring_for_each_kind_timeframe_and_source() -> None:
    names = {spec.name: spec.capacity for spec in RingPlan(KINDS, (1, 60), CACHE, Book()).rings_for(BTC)}
    assert names["trade"] == 400
    assert names["candle.1s.own"] == names["candle.1m.venue"] == 60
    assert names["funding"] == 100
    assert (names["book"], names["imbalance"], names["buckets.1s"], names["buckets.1m"]) == (100, 60, 10, 60)
    assert len(names) == 11


def test_messages_of_a_topic_are_numbered_and_sent_only_where_somebody_listens(daemon: SmallDaemon) -> None:
    take_some(daemon, 0)
    assert daemon.stream.sent == []
    daemon.publisher.heard(b"\x01trade.BINANCE.")
    lot = take_some(daemon, 3)
    by_topic = {topic: (header, payload) for topic, header, payload in daemon.stream.sent}
    header, payload = by_topic[b"trade.BINANCE.BTCUSDT."]
    assert msgspec.msgpack.decode(header, type=StreamHeader) == StreamHeader(
        2, "trade", 3, BTC.id, lot.ts_known, lot.seq
    )
    assert payload == lot.rows[0][1].tobytes()
    daemon.publisher.heard(b"\x00trade.BINANCE.")
    sent = len(daemon.stream.sent)
    take_some(daemon, 6)
    assert len(daemon.stream.sent) == sent


def test_a_removed_instruments_readers_are_told_and_its_file_is_gone(daemon: SmallDaemon) -> None:
    with daemon.reader() as reader:
        daemon.publisher.remove(BTC)
        assert reader.state is ArenaState.RETIRED
    assert not arena_path(daemon.runtime, BTC.name).exists()


# ---- warming ----------------------------------------------------------------------------------------


class FakeQueries:
    """The query actor over a database that has the lots up to a point; the writer may go on between two answers."""

    def __init__(self, daemon: SmallDaemon, committed: int, progress: list[int] | None = None) -> None:
        self.lots, self.committed = daemon.lots, committed
        self._progress = iter(progress or [])
        self._answer: tuple[Any, list[Any]] | None = None
        self.failures: list[Failure] = []
        self.socket = os.eventfd(1)  # always readable: a poll returns at once
        self.asked: list[Any] = []

    @property
    def busy(self) -> bool:
        return self._answer is not None

    def ask(self, request: Any) -> bool:
        self.asked.append(request)
        if self.failures:
            self._answer = (self.failures.pop(0), [])
            return True
        lots = self.lots[: self.committed]
        if request.known_at is not None:
            lots = [entry for entry in lots if entry[0].ts_known <= request.known_at]
        records = expected_ring(lots, ring_of(request))
        time = records.dtype.names[0]
        if request.end is not None:
            records = records[records[time] < request.end]
        records = records[np.lexsort((records["seq"], records[time]))][-request.limit :]
        offset = self.lots[self.committed - 1][1] if self.committed else None
        part = ResultPart(name="", kind="", count=len(records), encoding="records")
        watermark = self.lots[self.committed - 1][0].ts_known if self.committed else None
        meta = Meta(committed_offset=offset, watermark=watermark)
        self._answer = (Answer(instrument=BTC, parts=[part], meta=meta), [records.tobytes()])
        self.committed = min(len(self.lots), self.committed + next(self._progress, 0))
        return True

    def take(self) -> tuple[Any, list[Any]] | None:
        answer, self._answer = self._answer, None
        return answer

    def close(self) -> None:
        os.close(self.socket)


def ring_of(request: Any) -> str:
    if isinstance(request, Bars):
        return f"candle.{ {1: '1s', 60: '1m'}[request.timeframes[0]] }.{request.bar_source}"
    return request.stream if request.timeframe is None else f"{request.stream}.{timeframe_name(request.timeframe)}"


def warm(daemon: SmallDaemon, queries: FakeQueries) -> None:
    boards = [board for board in daemon.publisher.new_boards if board.state.instrument.id == BTC.id]
    Warmer(queries, daemon.kernel, daemon.state / "journal", boards).run(lambda: True)
    queries.close()


def in_order(records: Records) -> bytes:
    return records[np.argsort(records["seq"])].tobytes()


def assert_filled(daemon: SmallDaemon, rings: Sequence[str] | None = None) -> None:
    """Every record once; a ring's order is that of time for what came from the database."""
    for ring in RINGS if rings is None else rings:
        found, expected = daemon.ring(ring), expected_ring(daemon.lots, ring)
        if ring.startswith("candle."):
            assert found.tobytes() == expected.tobytes(), ring
        else:
            assert in_order(found) == in_order(expected), ring


@pytest.mark.parametrize("committed", [0, 2, 4])
def test_a_new_arena_is_filled_from_the_database_and_then_from_the_journal(daemon: SmallDaemon, committed: int) -> None:
    for first in range(0, 12, 3):
        take_some(daemon, first)
    daemon.reboot()
    assert len(daemon.ring("trade")) == 0
    warm(daemon, FakeQueries(daemon, committed))
    assert_filled(daemon)
    assert not [board for board in daemon.publisher.new_boards if board.state.instrument.id == BTC.id]
    with daemon.reader() as reader:
        cut = reader.cut()
        assert (cut.seq, cut.ts_known) == (daemon.kernel.state(BTC).seq, daemon.lots[-1][0].ts_known)
        assert cut.journal_offset == daemon.journal.end
    take_some(daemon, 12)
    assert_filled(daemon)
    daemon.restart()
    assert_filled(daemon)


def test_a_filled_ring_tells_how_far_back_it_reaches(daemon: SmallDaemon) -> None:
    take_some(daemon, 0)
    for second in range(3, 450, 3):
        take_some(daemon, second)
    daemon.reboot()
    warm(daemon, FakeQueries(daemon, len(daemon.lots)))
    with daemon.reader() as reader:
        assert reader.reach("coverage") == 0  # all that there is
        oldest = int(reader.last("trade", 1000)[0]["ts_event"][0])
        assert oldest < reader.reach("trade") <= oldest + 1


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(1, 6),
    committed=st.integers(0, 6),
    progress=st.lists(st.integers(0, 2), max_size=7),
    late=st.integers(0, 3),
)
def test_whatever_is_committed_while_rings_are_filled_each_record_is_there_once(
    tmp_path: Path, runtime_dir: Path, count: int, committed: int, progress: list[int], late: int
) -> None:
    shutil.rmtree(tmp_path / "state", ignore_errors=True)
    (runtime_dir / "front").unlink(missing_ok=True)
    with SmallDaemon(tmp_path / "state", runtime_dir) as daemon:
        daemon.declare(BTC)
        for first in range(0, 3 * count, 3):
            take_some(daemon, first)
        for number in range(late):  # new versions of a closed bar
            daemon.take((TRADE_KIND, trades([(900 - number, 1000 + number, 50, 1)])))
        daemon.reboot()
        warm(daemon, FakeQueries(daemon, min(committed, len(daemon.lots)), progress))
        assert_filled(daemon)


def test_an_instrument_that_the_database_has_never_heard_of_is_filled_from_the_journal(daemon: SmallDaemon) -> None:
    take_some(daemon, 0)
    daemon.reboot()
    queries = FakeQueries(daemon, 0)
    queries.failures = [Failure(code="unknown_instrument", message="?")] * 7
    warm(daemon, queries)
    assert_filled(daemon)


def test_a_database_that_does_not_answer_in_time_costs_the_rings_past_only(
    daemon: SmallDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warming, "PATIENCE_SECONDS", 0.0)
    take_some(daemon, 0)
    daemon.reboot()
    warm(daemon, FakeQueries(daemon, 1))
    assert_filled(daemon)  # the journal still has it all
    assert daemon.publisher.board(BTC).is_new is False
    with daemon.reader() as reader:  # and none of them says that it is all there ever was
        assert all(reader.reach(ring) > daemon.kernel.state(BTC).newest for ring in RINGS)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.integers(3, 9),
    committed=st.integers(1, 8),
    progress=st.lists(st.integers(0, 2), max_size=30),
    late=st.integers(0, 3),
)
def test_a_ring_larger_than_an_answer_is_filled_in_pieces(
    tmp_path: Path, runtime_dir: Path, size: int, committed: int, progress: list[int], late: int
) -> None:
    shutil.rmtree(tmp_path / "state", ignore_errors=True)
    (runtime_dir / "front").unlink(missing_ok=True)
    with SmallDaemon(tmp_path / "state", runtime_dir) as daemon, pytest.MonkeyPatch.context() as patch:
        patch.setattr(warming.protocol, "MAX_RECORDS", size)
        daemon.declare(BTC)
        for first in range(0, 15, 3):
            take_some(daemon, first)
        for number in range(late):  # new versions of a closed bar, and trades in the middle of others
            daemon.take((TRADE_KIND, trades([(900 - number, 1000 + number, 50, 1)])))
        daemon.reboot()
        queries = FakeQueries(daemon, min(committed, len(daemon.lots)), progress)
        warm(daemon, queries)
        assert all(request.limit <= size for request in queries.asked)
        assert_filled(daemon)


def test_more_records_of_one_moment_than_an_answer_holds_end_a_ring_there(
    daemon: SmallDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.take((TRADE_KIND, trades([(0, number, 100, 1) for number in range(1, 8)])))
    daemon.take((TRADE_KIND, trades([(1000, 8, 100, 1), (2000, 9, 100, 1)])))
    daemon.reboot()
    monkeypatch.setattr(warming.protocol, "MAX_RECORDS", 4)
    warm(daemon, FakeQueries(daemon, 2))
    with daemon.reader() as reader:
        assert reader.last("trade", 100)[0]["trade_id"].tolist() == [8, 9]
        assert reader.reach("trade") > START


@pytest.mark.parametrize("code", ["busy", "timeout", "database_error", "database_unavailable", "not_yet_stored"])
def test_a_failure_that_passes_by_itself_is_asked_again(
    daemon: SmallDaemon, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr(warming, "ASK_AGAIN_SECONDS", 0.0)
    take_some(daemon, 0)
    daemon.reboot()
    queries = FakeQueries(daemon, 1)
    queries.failures = [Failure(code=code, message="not now")] * 3
    warm(daemon, queries)
    assert_filled(daemon)
    assert len(queries.asked) == 3 + len(daemon.publisher.board(BTC).rings)


def test_a_ring_that_is_refused_for_good_is_not_asked_for_again_and_claims_no_past(daemon: SmallDaemon) -> None:
    take_some(daemon, 0)
    daemon.reboot()
    queries = FakeQueries(daemon, 1)
    queries.failures = [Failure(code="unknown_stream", message="there is no such stream")]
    warm(daemon, queries)
    assert_filled(daemon, RINGS[1:])
    rings = list(daemon.publisher.board(BTC).rings)
    assert len(queries.asked) == len(rings)
    with daemon.reader() as reader:
        assert reader.reach(rings[0]) > daemon.kernel.state(BTC).newest
        assert reader.reach("coverage") == 0


def test_whoever_stops_meanwhile_is_heard(daemon: SmallDaemon) -> None:
    take_some(daemon, 0)
    daemon.reboot()
    queries = FakeQueries(daemon, 1)
    boards = [board for board in daemon.publisher.new_boards if board.state.instrument.id == BTC.id]
    Warmer(queries, daemon.kernel, daemon.state / "journal", boards).run(lambda: False)
    assert queries.asked == []
    queries.close()
    daemon.restart()
    assert daemon.publisher.board(BTC).is_new  # its successor fills it


def test_a_reader_of_the_old_arena_sees_the_new_one_after_a_change_of_layout(daemon: SmallDaemon) -> None:
    take_some(daemon, 0)
    with ArenaReader.open(arena_path(daemon.runtime, BTC.name)) as reader:
        daemon.cache = msgspec.structs.replace(daemon.cache, trades_per_second=80)
        daemon.restart()
        warm(daemon, FakeQueries(daemon, 1))
        records, _ = reader.last("trade", 10)
        assert records["trade_id"].tolist() == [1, 2, 3]
        assert reader.statistics().remapped == 1
