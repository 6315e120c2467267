"""Buffered producers, in a thread and in a task: batches, futures, limits, failures."""

import asyncio
import logging
import multiprocessing
import threading
from typing import Any

import pytest

from fake_daemon import FakeDaemon
from marketd import AsyncDataIngestionPipeline, DataIngestionPipeline
from marketd.ipc import protocol
from marketd.market.errors import Busy, JournalFull, MarketdError, Timeout, UnknownInstrument

T0 = 1_723_118_400_000_000_000


def sizes(daemon: FakeDaemon) -> list[int]:
    """Of the batches that had rows."""
    found = [message for message in daemon.received if isinstance(message, protocol.Ingest)]
    return [message.parts[0].count for message in found if message.parts]


def test_rows_go_in_batches_and_each_call_has_its_own_result(daemon: FakeDaemon) -> None:
    with (
        DataIngestionPipeline(daemon.directory, batch_size=10, batch_timeout=60) as pipeline,
        pipeline.buffered() as buffer,
    ):
        futures = [buffer.ingest_trade("BTC/USDT", T0, n - 3, 1, trade_id=n) for n in range(25)]
        naive = buffer.ingest_trade("BTC/USDT", "2024-08-08", 1, 1)
        statistics = buffer.flush()
        assert statistics[:4] == (21, 5, 0, 0)
        # the row that the client refused may have been on its own when its turn came
        assert len(sizes(daemon)) <= statistics.batches <= len(sizes(daemon)) + 1
        results = [future.result(0) for future in futures]
    assert sum(sizes(daemon)) == 25 and len(sizes(daemon)) <= 4
    assert [result.accepted for result in results] == [0] * 4 + [1] * 21
    assert all(result.refused[0].index == 0 for result in results[:4])
    assert naive.result(0).refused[0].rule == "naive"
    assert [each.rule for each in daemon.rejected] == ["naive"]
    assert daemon.stored["trade"]["trade_id"].tolist() == list(range(4, 25))


def test_a_lone_row_is_sent_when_it_has_waited_long_enough(daemon: FakeDaemon) -> None:
    with (
        DataIngestionPipeline(daemon.directory, batch_timeout=0.02) as pipeline,
        pipeline.buffered() as buffer,
    ):
        assert buffer.ingest_trade("BTC/USDT", T0, 1, 1).result(10).accepted == 1


def test_closing_sends_what_is_left_and_takes_no_more(daemon: FakeDaemon) -> None:
    with DataIngestionPipeline(daemon.directory, batch_timeout=60) as pipeline:
        buffer = pipeline.buffered()
        future = buffer.ingest_trade("BTC/USDT", T0, 1, 1)
        assert buffer.close().accepted == 1 and future.result(0).accepted == 1
        assert buffer.close().pending == 0
        with pytest.raises(MarketdError, match="closed"):
            buffer.ingest_trade("BTC/USDT", T0, 1, 1)


def test_an_unknown_symbol_is_told_to_the_caller_at_once(daemon: FakeDaemon) -> None:
    with (
        DataIngestionPipeline(daemon.directory) as pipeline,
        pipeline.buffered() as buffer,
        pytest.raises(UnknownInstrument),
    ):
        buffer.ingest_trade("DOGE/USDT", T0, 1, 1)


def test_a_failed_batch_fails_its_futures_is_counted_and_logged(daemon: FakeDaemon, caplog: Any) -> None:
    def full(message: Any, payloads: list[Any]) -> Any:
        if isinstance(message, protocol.Ingest):
            raise JournalFull("no room")
        return daemon._handle(message, payloads)

    with (
        DataIngestionPipeline(daemon.directory, batch_timeout=60) as pipeline,
        pipeline.buffered() as buffer,
        caplog.at_level(logging.ERROR, "marketd.client"),
    ):
        daemon.reply = full
        future = buffer.ingest_trade("BTC/USDT", T0, 1, 1)
        assert buffer.flush().failed == 1
        with pytest.raises(JournalFull):
            future.result(0)
        daemon.reply = None
        assert buffer.ingest_trade("BTC/USDT", T0, 1, 1) is not future
        assert buffer.flush().accepted == 1
    assert [record.action for record in caplog.records] == ["ingest_failed"]


@pytest.mark.parametrize("when_full", ["refuse", "wait"])
def test_a_full_buffer_refuses_or_waits_as_was_said(daemon: FakeDaemon, when_full: Any) -> None:
    with DataIngestionPipeline(
        daemon.directory, batch_size=2, max_pending=2, when_full=when_full, timeout=1.5
    ) as pipeline:
        pipeline.ingest_trade("BTC/USDT", T0, 1, 1)
        daemon.mute = 1  # the answer comes only with the second sending, a second later
        with pipeline.buffered() as buffer:
            futures = [buffer.ingest_trade("BTC/USDT", T0, 1, 1) for _ in range(2)]
            if when_full == "refuse":
                with pytest.raises(Busy, match="max_pending is 2"):
                    buffer.ingest_trade("BTC/USDT", T0, 1, 1)
            else:
                assert buffer.ingest_trade("BTC/USDT", T0, 1, 1).result(10).accepted == 1
            assert [future.result(10).accepted for future in futures] == [1, 1]


def test_a_flush_that_is_not_answered_in_time_says_so(daemon: FakeDaemon) -> None:
    with DataIngestionPipeline(daemon.directory, timeout=5) as pipeline, pipeline.buffered() as buffer:
        pipeline.ingest_trade("BTC/USDT", T0, 1, 1)
        daemon.mute = 1
        buffer.ingest_trade("BTC/USDT", T0, 1, 1)
        with pytest.raises(Timeout, match="1 calls"):
            buffer.flush(0.1)
        assert buffer.flush().accepted == 1


def test_threads_share_a_buffer(daemon: FakeDaemon) -> None:
    with DataIngestionPipeline(daemon.directory, batch_size=50) as pipeline, pipeline.buffered() as buffer:

        def produce(first: int) -> None:
            for number in range(first, first + 50):
                buffer.ingest_trade("BTC/USDT", T0, 1, 1, trade_id=number)

        threads = [threading.Thread(target=produce, args=(n * 50,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert buffer.flush().accepted == 200
    assert sorted(daemon.stored["trade"]["trade_id"].tolist()) == list(range(200))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_a_child_process_is_told_to_make_a_buffer_of_its_own(daemon: FakeDaemon) -> None:
    with DataIngestionPipeline(daemon.directory) as pipeline, pipeline.buffered() as buffer:

        def child() -> None:
            with pytest.raises(MarketdError, match="parent process"):
                buffer.ingest_trade("BTC/USDT", T0, 1, 1)

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(30)
        assert process.exitcode == 0
        process.close()


def test_the_asyncio_buffer_gathers_too(daemon: FakeDaemon) -> None:
    async def produce() -> Any:
        async with (
            AsyncDataIngestionPipeline(daemon.directory, batch_size=10, batch_timeout=0.05) as pipeline,
            pipeline.buffered() as buffer,
        ):
            futures = [await buffer.ingest_trade("BTC/USDT", T0, n, 1, trade_id=n) for n in range(25)]
            lone = await (await buffer.ingest_trade("BTC/USDT", T0, 1, 1, trade_id=99))
            statistics = await buffer.flush()
            return [future.result() for future in futures], lone, statistics

    results, lone, statistics = asyncio.run(produce())
    assert [result.accepted for result in results] == [0] + [1] * 24 and lone.accepted == 1
    assert (statistics.accepted, statistics.refused, statistics.pending) == (25, 1, 0)
    assert max(sizes(daemon)) >= 10


def test_an_asyncio_buffer_that_is_closed_too_early_fails_what_is_left(daemon: FakeDaemon) -> None:
    async def produce() -> None:
        async with AsyncDataIngestionPipeline(daemon.directory, batch_size=1, timeout=5) as pipeline:
            await pipeline.ingest_trade("BTC/USDT", T0, 1, 1)
            buffer = pipeline.buffered()
            daemon.mute = 10
            futures = [await buffer.ingest_trade("BTC/USDT", T0, 1, 1) for _ in range(3)]
            with pytest.raises(Timeout, match="close: 3 rows"):
                await buffer.close(0.1)
            for future in futures:
                assert isinstance(future.exception(), Timeout)
            assert buffer.statistics().failed == 3
            with pytest.raises(MarketdError, match="closed"):
                await buffer.ingest_trade("BTC/USDT", T0, 1, 1)

    asyncio.run(produce())


def test_a_full_asyncio_buffer_refuses_when_told_to(daemon: FakeDaemon) -> None:
    async def produce() -> None:
        async with AsyncDataIngestionPipeline(
            daemon.directory, batch_size=1, max_pending=1, when_full="refuse", timeout=5
        ) as pipeline:
            await pipeline.ingest_trade("BTC/USDT", T0, 1, 1)
            daemon.mute = 1
            async with pipeline.buffered() as buffer:
                future = await buffer.ingest_trade("BTC/USDT", T0, 1, 1)
                with pytest.raises(Busy):
                    await buffer.ingest_trade("BTC/USDT", T0, 1, 1)
                assert (await future).accepted == 1

    asyncio.run(produce())
