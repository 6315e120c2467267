"""Producers against a daemon on real sockets: results, refusals, retries, declared instruments and streams."""

import asyncio
import json
import multiprocessing
import pickle
import threading
import uuid
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fake_daemon import BTC, FakeDaemon, candles, trades
from marketd import AsyncDataIngestionPipeline, DataIngestionPipeline, Unconfirmed
from marketd.client import delivery
from marketd.ipc import protocol
from marketd.market.errors import Busy as BusyError
from marketd.market.errors import InvalidArgument, JournalFull, MarketdError, NotRunning, UnknownInstrument

T0 = 1_723_118_400_000_000_000


def batches(daemon: FakeDaemon) -> list[protocol.Ingest]:
    return [message for message in daemon.received if isinstance(message, protocol.Ingest)]


def test_a_trade_is_acknowledged_with_its_stamps(daemon: FakeDaemon, pipeline: DataIngestionPipeline) -> None:
    result = pipeline.ingest_trade("BTC/USDT", T0, "61837.63", 0.5, "sell", trade_id=17)
    assert result.ok and (result.accepted, result.seq, result.ts_known) == (1, 1_000_000, 5_000_000_000)
    record = daemon.stored["trade"][0]
    assert [int(record[name]) for name in ("trade_id", "price", "size", "side")] == [17, 6_183_763, 50_000, -1]
    assert batches(daemon)[0].instrument == BTC.id and batches(daemon)[0].source == "test"


def test_refusals_of_both_sides_come_by_the_callers_index(pipeline: DataIngestionPipeline) -> None:
    rows = {"time": [T0] * 5, "price": ["1", "1.555", "-1", "2", "0"], "size": ["1"] * 5, "trade_id": range(5)}
    result = pipeline.ingest_trades("BTC/USDT", rows)
    assert result.accepted == 2 and not result.ok
    assert [(r.index, r.rule) for r in result.refused] == [
        (1, "precision"),
        (2, "positive_price"),
        (4, "positive_price"),
    ]


def test_rows_that_are_refused_here_reach_the_quarantine_as_they_came(
    daemon: FakeDaemon, pipeline: DataIngestionPipeline
) -> None:
    rows = {"time": [T0, T0, T0], "price": ["1", "1.555", "x"], "size": ["1"] * 3, "trade_id": ["a", "b", "c"]}
    result = pipeline.ingest_trades("BTC/USDT", rows)
    assert (result.accepted, [(r.index, r.rule) for r in result.refused]) == (1, [(1, "precision"), (2, "not_finite")])
    assert [(r.kind, r.rule) for r in daemon.rejected] == [("trade", "precision"), ("trade", "not_finite")]
    assert json.loads(daemon.rejected[0].payload) == {
        "index": 1, "time": str(T0), "price": "1.555", "size": "1", "trade_id": "b"
    }  # fmt: skip
    assert "1.555" in daemon.rejected[0].detail


def test_rows_that_are_all_refused_here_need_no_daemon(tmp_path: Path, daemon: FakeDaemon) -> None:
    with DataIngestionPipeline(daemon.directory, timeout=0.3) as pipeline:
        result = pipeline.ingest_trade("BTC/USDT", "2024-08-08T12:00:00", "1", "1")
        assert (result.accepted, result.refused[0].rule, result.ts_known) == (0, "naive", None)
        assert [r.rule for r in daemon.rejected] == ["naive"]
        daemon.mute = 9
        result = pipeline.ingest_trade("BTC/USDT", "2024-08-08T12:00:00", "1", "1")
        assert (result.accepted, result.refused[0].rule, result.ts_known) == (0, "naive", None)


def test_bars_bear_their_timeframe_and_source(daemon: FakeDaemon, pipeline: DataIngestionPipeline) -> None:
    pipeline.ingest_ohlcv_candle("BTC/USDT", "1m", T0, 1, 3, 1, 2, "9.5", trade_count=4)
    pipeline.ingest_ohlcv_candles("BTC/USDT", "1m", candles(range(3)), source="import")
    stored = daemon.stored["candle"]
    assert len(stored) == 4
    assert (int(stored[0]["timeframe"]), int(stored[0]["source"]), int(stored[0]["trade_count"])) == (60, 2, 4)
    with pytest.raises(InvalidArgument, match="own bars are made by marketd"):
        pipeline.ingest_ohlcv_candle("BTC/USDT", "1m", T0, 1, 1, 1, 1, 1, source="own")


def test_a_declared_stream_takes_single_records_and_columns(
    daemon: FakeDaemon, pipeline: DataIngestionPipeline
) -> None:
    assert pipeline.ingest("funding", "BTC/USDT", time=T0, rate=0.0001, mark="61837.63").ok
    assert pipeline.ingest("funding", None, {"time": [T0, T0 + 1_000], "rate": [0.1, 0.2]}).accepted == 2
    assert daemon.stored["funding"]["mark"][0] == 6_183_763
    assert [batch.instrument for batch in batches(daemon)] == [BTC.id, 65_536]
    for wrong in (lambda: pipeline.ingest("candle", "BTC/USDT", {}), lambda: pipeline.ingest("funding", "BTC/USDT")):
        with pytest.raises(InvalidArgument):
            wrong()


def test_an_instrument_is_declared_and_used(pipeline: DataIngestionPipeline) -> None:
    told = pipeline.declare("XYZUSD.MYVENUE", price_scale=3, size_scale=6, base="XYZ", quote="USD")
    assert told.id == 65_600 and told.quote_scale == 8
    assert pipeline.ingest_trade("XYZ/USD", T0, "1.234", 1).ok
    with pytest.raises(UnknownInstrument):
        pipeline.ingest_trade("ABC/USD", T0, "1", 1)
    for name, scale in (("NOVENUE", 2), ("A.B", 19), ("A." + "B" * 30, 2)):
        with pytest.raises(InvalidArgument):
            pipeline.declare(name, price_scale=scale, size_scale=2)


def test_rows_in_the_scales_of_before_are_refused_and_the_next_are_written_in_the_new_ones(
    daemon: FakeDaemon, pipeline: DataIngestionPipeline
) -> None:
    """By name they would be taken, and be wrong by powers of ten."""
    assert pipeline.ingest_trade("BTC/USDT", 1_000_000, "100.25", 1, trade_id=1).ok
    finer = msgspec.structs.replace(BTC, id=BTC.id + 1, price_scale=BTC.price_scale + 2)
    daemon.instruments[1:] = [msgspec.structs.replace(BTC, flags=1), finer]  # somebody else has declared it

    def take(message: Any, payloads: list[Any]) -> Any:
        if isinstance(message, protocol.Ingest) and message.instrument == BTC.id:
            raise UnknownInstrument("instrument: it has another id by now", field="instrument")
        return daemon._handle(message, payloads)

    daemon.reply = take
    with pytest.raises(UnknownInstrument):
        pipeline.ingest_trade("BTC/USDT", 2_000_000, "100.25", 1, trade_id=2)
    assert pipeline.ingest_trade("BTC/USDT", 2_000_000, "100.25", 1, trade_id=2).ok
    assert daemon.stored["trade"]["price"].tolist() == [10_025, 1_002_500]
    assert batches(daemon)[-1].instrument == finer.id


def test_a_lost_acknowledgement_is_asked_for_again_under_the_same_number(daemon: FakeDaemon, monkeypatch: Any) -> None:
    monkeypatch.setattr(delivery, "RESEND_SECONDS", 0.1)
    with DataIngestionPipeline(daemon.directory) as pipeline:
        pipeline.ingest_trade("BTC/USDT", T0, 1, 1)
        daemon.mute = 1
        result = pipeline.ingest_trades("BTC/USDT", trades(range(3)))
    assert result.accepted == 3 and result.repeated and len(daemon.stored["trade"]) == 4
    numbers = [(batch.producer, batch.batch, batch.id) for batch in batches(daemon)]
    assert len(numbers) == 3 and numbers[1] == numbers[2] and numbers[0][1] == 1 and numbers[1][1] == 2


def test_an_unconfirmed_batch_can_be_sent_again_and_is_stored_once(daemon: FakeDaemon) -> None:
    with DataIngestionPipeline(daemon.directory, timeout=0.3) as pipeline:
        pipeline.ingest_trade("BTC/USDT", T0, 1, 1, trade_id=1)
        daemon.mute = 1
        with pytest.raises(Unconfirmed, match=r"retry\(error.batch\)") as caught:
            pipeline.ingest_trade("BTC/USDT", T0, 2, 1, trade_id=2)
        later = pipeline.ingest_trade("BTC/USDT", T0, 3, 1, trade_id=3)
        assert caught.value.batch is not None
        again = pipeline.retry(caught.value.batch)
    assert again.accepted == 1 and again.repeated and later.accepted == 1
    assert daemon.stored["trade"]["trade_id"].tolist() == [1, 2, 3]
    producers = [batch.producer for batch in batches(daemon)]
    assert producers[0] == producers[1] == producers[3] != producers[2]


@pytest.mark.parametrize("how", ["silent", "away", "busy"])
def test_a_retry_that_gets_no_answer_leaves_the_batch_unconfirmed(daemon: FakeDaemon, tmp_path: Path, how: str) -> None:
    """It was sent before: no answer now, for whatever reason, says nothing about that."""

    def busy(message: Any, payloads: list[Any]) -> Any:
        raise BusyError("later")

    with DataIngestionPipeline(daemon.directory, timeout=0.3) as pipeline:
        pipeline.ingest_trade("BTC/USDT", T0, 1, 1, trade_id=1)
        daemon.mute = 1
        with pytest.raises(Unconfirmed) as caught:
            pipeline.ingest_trade("BTC/USDT", T0, 2, 1, trade_id=2)
        batch = caught.value.batch
        assert batch is not None
        daemon.mute, daemon.reply = (9, None) if how == "silent" else (0, busy if how == "busy" else None)
        with DataIngestionPipeline(tmp_path / "nobody", timeout=0.3) as nobody, pytest.raises(Unconfirmed) as again:
            (nobody if how == "away" else pipeline).retry(batch)
        assert again.value.batch == batch
    daemon.mute, daemon.reply = 0, None
    with DataIngestionPipeline(daemon.directory) as pipeline:
        assert pipeline.retry(batch).accepted == 1
    assert daemon.stored["trade"]["trade_id"].tolist() == [1, 2]


def test_a_large_array_goes_in_several_batches_and_indexes_stay_the_callers(
    daemon: FakeDaemon, pipeline: DataIngestionPipeline, monkeypatch: Any
) -> None:
    monkeypatch.setattr(delivery, "BATCH_RECORDS", 4)
    records = trades(range(10))
    records["price"][[1, 9]] = 0
    result = pipeline.ingest_trades("BTC/USDT", records)
    assert result.accepted == 8 and [r.index for r in result.refused] == [1, 9] and result.seq == 1_000_000
    assert [batch.batch for batch in batches(daemon)] == [1, 2, 3]


def test_an_error_in_the_middle_says_what_had_been_accepted(
    daemon: FakeDaemon, pipeline: DataIngestionPipeline, monkeypatch: Any
) -> None:
    monkeypatch.setattr(delivery, "BATCH_RECORDS", 4)

    def full_after_one(message: Any, payloads: list[Any]) -> Any:
        if isinstance(message, protocol.Ingest) and message.batch > 1:
            raise JournalFull("no room")
        return daemon._handle(message, payloads)

    daemon.reply = full_after_one
    with pytest.raises(JournalFull, match="no room") as caught:
        pipeline.ingest_trades("BTC/USDT", trades(range(10)))
    assert caught.value.__notes__ == ["4 of 10 records had been accepted before"]
    daemon.reply = None
    assert pipeline.ingest_trades("BTC/USDT", trades(range(10, 12))).accepted == 2
    assert [batch.batch for batch in batches(daemon)] == [1, 2, 2]  # a refused batch used up no number


@pytest.mark.parametrize("most", [1, 3, 10])
def test_what_the_daemon_does_not_take_at_once_goes_in_halves_and_indexes_stay_the_callers(
    daemon: FakeDaemon, pipeline: DataIngestionPipeline, most: int
) -> None:
    def too_many(message: Any, payloads: list[Any]) -> Any:
        if isinstance(message, protocol.Ingest) and message.parts[0].count > most:
            raise InvalidArgument("parts: send it in pieces", field="parts")
        return daemon._handle(message, payloads)

    daemon.reply = too_many
    records = trades(range(10))
    records["price"][[1, 9]] = 0
    result = pipeline.ingest_trades("BTC/USDT", records)
    assert result.accepted == 8 and [r.index for r in result.refused] == [1, 9]
    assert daemon.stored["trade"]["trade_id"].tolist() == [0, 2, 3, 4, 5, 6, 7, 8]


def test_a_record_that_no_batch_can_hold_is_refused(daemon: FakeDaemon, pipeline: DataIngestionPipeline) -> None:
    def never(message: Any, payloads: list[Any]) -> Any:
        if isinstance(message, protocol.Ingest):
            raise InvalidArgument("parts: send it in pieces", field="parts")
        return daemon._handle(message, payloads)

    daemon.reply = never
    with pytest.raises(InvalidArgument, match="in pieces"):
        pipeline.ingest_trades("BTC/USDT", trades([1]))


def test_busy_is_waited_out(daemon: FakeDaemon, pipeline: DataIngestionPipeline) -> None:
    left = [3]

    def busy(message: Any, payloads: list[Any]) -> Any:
        if isinstance(message, protocol.Ingest) and left[0]:
            left[0] -= 1
            raise BusyError("later")
        return daemon._handle(message, payloads)

    daemon.reply = busy
    assert pipeline.ingest_trade("BTC/USDT", T0, 1, 1).ok and left == [0]


def test_a_producer_with_an_id_of_its_own_goes_on_counting(daemon: FakeDaemon) -> None:
    producer = uuid.uuid4()
    for first in (1, 3):
        with DataIngestionPipeline(daemon.directory, producer=producer, first_batch=first) as pipeline:
            for _ in range(2):
                pipeline.ingest_trade("BTC/USDT", T0, 1, 1)
            with pytest.raises(TypeError, match="not copied"):
                pickle.dumps(pipeline)
    assert [(batch.producer, batch.batch) for batch in batches(daemon)] == [
        (producer.bytes, number) for number in (1, 2, 3, 4)
    ]
    for options in ({"producer": b"short"}, {"first_batch": 0}, {"name": ""}, {"timeout": 0}):
        with pytest.raises(InvalidArgument):
            DataIngestionPipeline(daemon.directory, **options)  # type: ignore[arg-type]


def _in_threads(count: int, work: Any) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize("producer", [None, uuid.UUID(int=7)])
def test_threads_share_a_pipeline_and_numbers_rise_by_one_on_each_lane(
    daemon: FakeDaemon, producer: uuid.UUID | None
) -> None:
    with DataIngestionPipeline(daemon.directory, producer=producer) as pipeline:
        _in_threads(6, lambda n: [pipeline.ingest_trade("BTC/USDT", T0, 1, 1, trade_id=n * 100 + i) for i in range(10)])
    assert sorted(daemon.stored["trade"]["trade_id"].tolist()) == [n * 100 + i for n in range(6) for i in range(10)]
    lanes: dict[bytes, list[int]] = {}
    for batch in batches(daemon):
        lanes.setdefault(batch.producer, []).append(batch.batch)
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in lanes.values())
    assert producer is None or list(lanes) == [producer.bytes]


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_a_child_process_gets_lanes_of_its_own(daemon: FakeDaemon, pipeline: DataIngestionPipeline) -> None:
    pipeline.ingest_trade("BTC/USDT", T0, 1, 1)
    owned = DataIngestionPipeline(daemon.directory, producer=uuid.uuid4())

    def child() -> None:
        assert pipeline.ingest_trade("BTC/USDT", T0, 2, 1).accepted == 1
        with pytest.raises(MarketdError, match="belongs to one process"):
            owned.ingest_trade("BTC/USDT", T0, 2, 1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(30)
    assert process.exitcode == 0
    process.close()
    assert pipeline.ingest_trade("BTC/USDT", T0, 3, 1).accepted == 1
    owned.close()
    first, childs, second = batches(daemon)
    assert first.producer == second.producer != childs.producer and second.batch == 2


def test_a_pipeline_can_be_pickled(daemon: FakeDaemon) -> None:
    with (
        DataIngestionPipeline(daemon.directory, name="mine", batch_size=7, timeout=3) as pipeline,
        pickle.loads(pickle.dumps(pipeline)) as copy,
    ):
        assert copy.ingest_trade("BTC/USDT", T0, 1, 1).ok
        assert (copy.name, copy.timeout, copy.limits) == ("mine", 3, pipeline.limits)


def test_the_asyncio_twin_has_the_same_calls(daemon: FakeDaemon) -> None:
    async def produce() -> Any:
        async with AsyncDataIngestionPipeline(daemon.directory, timeout=0.5) as pipeline:
            await pipeline.declare("XYZUSD.MYVENUE", price_scale=3, size_scale=6)
            await pipeline.ingest_ohlcv_candle("BTC/USDT", "1m", T0, 1, 1, 1, 1, 1)
            await pipeline.ingest("funding", "BTC/USDT", time=T0, rate=0.5)
            results = await asyncio.gather(
                *(pipeline.ingest_trade("XYZUSD.MYVENUE", T0, 1, 1, trade_id=n) for n in range(20))
            )
            daemon.mute = 1
            with pytest.raises(Unconfirmed) as caught:
                await pipeline.ingest_trade(BTC.name, T0, 1, 1, trade_id=99)
            assert caught.value.batch is not None
            return [*results, await pipeline.retry(caught.value.batch)]

    results = asyncio.run(produce())
    assert all(result.accepted == 1 for result in results) and results[-1].repeated
    assert sorted(np.unique(daemon.stored["trade"]["trade_id"]).tolist()) == [*range(20), 99]


def test_an_interrupted_call_leaves_its_number_unused_and_the_producer_usable(daemon: FakeDaemon) -> None:
    async def produce() -> list[int]:
        producer = uuid.uuid4()
        async with AsyncDataIngestionPipeline(daemon.directory, producer=producer) as pipeline:
            await pipeline.ingest_trade("BTC/USDT", T0, 1, 1)
            daemon.mute = 1
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await pipeline.ingest_trade("BTC/USDT", T0, 2, 1)
            await pipeline.ingest_trade("BTC/USDT", T0, 3, 1)
        return [batch.batch for batch in batches(daemon)]

    assert asyncio.run(produce()) == [1, 2, 3]


def test_a_number_is_not_used_again_after_an_answer_that_says_nothing_for_certain(
    daemon: FakeDaemon, pipeline: DataIngestionPipeline
) -> None:
    pipeline.ingest_trade("BTC/USDT", T0, 1, 1)
    daemon.reply = lambda message, payloads: (protocol.Durable(journal=b"", offset=1), [])
    with pytest.raises(MarketdError, match="durable"):
        pipeline.ingest_trade("BTC/USDT", T0, 2, 1)
    daemon.reply = None
    assert not pipeline.ingest_trade("BTC/USDT", T0, 3, 1).repeated


def test_a_daemon_that_dies_under_a_call_is_noticed_before_the_deadline(runtime_dir: Path) -> None:
    with DataIngestionPipeline(runtime_dir, timeout=60) as pipeline:
        with FakeDaemon(runtime_dir) as daemon:
            pipeline.ingest_trade("BTC/USDT", T0, 1, 1)
        daemon.write_presence(pid=2**22 + 1)
        with pytest.raises((Unconfirmed, NotRunning), match="is gone"):
            pipeline.ingest_trade("BTC/USDT", T0, 2, 1)
