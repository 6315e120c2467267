"""Providers, sync and async, against a daemon on real sockets."""

import asyncio
import multiprocessing
import os
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fake_daemon import BTC, FakeDaemon, candles, trades
from marketd import AsyncUnifiedDataProvider, UnifiedDataProvider
from marketd.ipc import protocol
from marketd.ipc.presence import remove_presence
from marketd.market.errors import (
    BeyondCache,
    Busy,
    InvalidArgument,
    NotRunning,
    ProtocolError,
    Timeout,
    UnknownInstrument,
)
from support import eventually

Asked = Callable[[Any], Any]
QUESTIONS: list[Asked] = [
    lambda md: md.query_trades("BTC/USDT", 0, limit=5),
    lambda md: md.query_ohlcv_data("bitcoin", "1m", fill="nan"),
    lambda md: md.query_multi_timeframe_ohlcv("BTCUSDT.BINANCE", ["1s", "1m"])["1m"],
    lambda md: md.query("trade", "BTCUSDT"),
    lambda md: md.get_latest_trades("BTC/USDT", 3),
    lambda md: md.get_latest_ohlcv("BTC/USDT", "1m", 2),
    lambda md: md.get_latest("funding", None),
]


def fill(daemon: FakeDaemon) -> None:
    daemon.store("trade", trades(range(10)))
    daemon.store("candle", candles(range(5)))


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_asyncio_twin_gives_the_same_answers(daemon: FakeDaemon, question: Asked) -> None:
    fill(daemon)

    async def ask() -> Any:
        async with AsyncUnifiedDataProvider(daemon.directory) as md:
            return await question(_Awaiting(md))

    with UnifiedDataProvider(daemon.directory) as md:
        plain = question(md)
    twin = asyncio.run(ask())
    assert twin.digest == plain.digest and twin.meta.served_from == plain.meta.served_from == "database"


class _Awaiting:
    """So that one lambda asks both: subscripting an awaitable awaits it first."""

    def __init__(self, md: AsyncUnifiedDataProvider) -> None:
        self._md = md

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._md, name)
        if name != "query_multi_timeframe_ohlcv":
            return call

        class Later:
            def __init__(self, *arguments: Any, **named: Any) -> None:
                self.arguments, self.named = arguments, named

            async def __getitem__(self, key: str) -> Any:
                return (await call(*self.arguments, **self.named))[key]

        return Later


def test_answers_have_what_was_stored(daemon: FakeDaemon, provider: UnifiedDataProvider) -> None:
    fill(daemon)
    assert provider.query_trades("BTC/USDT", limit=3)["trade_id"].tolist() == [7, 8, 9]
    assert provider.get_latest_ohlcv("BTC/USDT", limit=2)["close"].tolist() == [100.03, 100.04]
    frames = provider.query_multi_timeframe_ohlcv("BTC/USDT", ["1m", "1s"], limit=2)
    assert (len(frames["1m"]), len(frames["1s"])) == (2, 0)
    assert [i.name for i in provider.instruments()] == ["GLOBAL.MARKETD", "BTCUSDT.BINANCE"]
    assert provider.health().status == "ok"
    assert provider.query_trades("BTC/USDT").meta.latency_ns


def test_an_error_of_the_daemon_is_raised_by_its_own_class(provider: UnifiedDataProvider, daemon: FakeDaemon) -> None:
    with pytest.raises(UnknownInstrument, match="DOGE"):
        provider.query_trades("DOGE/USDT")

    def busy(*_: Any) -> Any:
        raise Busy("100 requests are queued")

    daemon.reply = busy
    with pytest.raises(Busy, match="100"):
        provider.health()


def test_a_deadline_ends_a_call_and_its_late_answer_is_not_taken_for_the_next(daemon: FakeDaemon) -> None:
    late: list[int] = []

    def reply(message: Any, payloads: list[Any]) -> Any:
        late.append(message.id)
        # the answer to the call before, although this one is asked: the client must throw it away and wait on
        return protocol.HealthReport(id=late[-2] if len(late) == 2 else 0, status=f"answer {len(late)}", report={}), []

    daemon.reply = reply
    daemon.mute = 1
    with UnifiedDataProvider(daemon.directory, timeout=0.3) as md:
        with pytest.raises(Timeout, match="no answer from ipc://"):
            md.health()
        with pytest.raises(Timeout):
            md.health()
        assert md.health().status == "answer 3"


def test_a_daemon_that_speaks_nonsense_is_a_protocol_error_and_costs_only_that_call(
    daemon: FakeDaemon, provider: UnifiedDataProvider
) -> None:
    daemon.reply = lambda message, payloads: (protocol.Pong(actor="x", state="live"), [])
    with pytest.raises(ProtocolError):
        provider.health()
    daemon.reply = None
    assert provider.health().status == "ok"


def test_no_daemon_is_told_at_once_and_a_dead_one_too(runtime_dir: Path) -> None:
    with UnifiedDataProvider(runtime_dir) as md, pytest.raises(NotRunning, match="marketd run"):
        md.health()
    with FakeDaemon(runtime_dir) as daemon:
        daemon.write_presence(pid=2**22 + 1)
    with UnifiedDataProvider(runtime_dir) as md, pytest.raises(NotRunning, match="is gone"):
        md.query_trades("BTC/USDT")


def test_a_supervisor_without_its_actor_is_waited_for_until_the_deadline(runtime_dir: Path) -> None:
    daemon = FakeDaemon(runtime_dir)
    daemon.write_presence()
    with UnifiedDataProvider(runtime_dir, timeout=0.2) as md, pytest.raises(NotRunning, match="nobody listens"):
        md.health()


def test_a_daemon_that_comes_back_is_found_again(runtime_dir: Path) -> None:
    with UnifiedDataProvider(runtime_dir) as md:
        for _ in range(2):
            with FakeDaemon(runtime_dir) as daemon:
                fill(daemon)
                assert len(md.query_trades("BTC/USDT")) == 10
        remove_presence(runtime_dir)


@pytest.mark.parametrize("provider_class", [UnifiedDataProvider, AsyncUnifiedDataProvider])
def test_what_a_daemon_took_with_it_is_asked_again_of_the_one_after_it(runtime_dir: Path, provider_class: Any) -> None:
    """The first takes the question and ends: an actor that was killed, or a message in the pipe of one that is gone."""
    first, second = FakeDaemon(runtime_dir), FakeDaemon(runtime_dir)
    first.mute, answers = 1, []

    def replace() -> None:
        eventually(lambda: first.received)
        first.__exit__()
        with second:
            fill(second)
            eventually(lambda: answers, timeout=30)

    async def ask() -> Any:
        async with AsyncUnifiedDataProvider(runtime_dir, timeout=30) as md:
            return await md.health()

    with first:
        replacing = threading.Thread(target=replace)
        replacing.start()
        if provider_class is AsyncUnifiedDataProvider:
            answers.append(asyncio.run(ask()))
        else:
            with UnifiedDataProvider(runtime_dir, timeout=30) as md:
                answers.append(md.health())
        replacing.join()
    assert answers[0].status == "ok"
    assert [type(message).__name__ for message in first.received + second.received] == ["Health", "Health"]


KNOWN: list[tuple[Asked, int]] = [  # questions as known at a moment, and how many requests each makes
    (lambda md: md.query_trades("BTC/USDT", known_at=5), 1),
    (lambda md: md.query("coverage", "BTC/USDT", known_at=5), 1),
    (lambda md: md.query_ohlcv_data("BTC/USDT", "1m", known_at=5), 1),
    (
        lambda md: md.query_ohlcv_data("BTC/USDT", "1m", 0, 60 * 10**9, fill="nan", known_at=5),
        3,
    ),  # price before, ledger
    (lambda md: md.query_multi_timeframe_ohlcv("BTC/USDT", ["1m", "1s"], known_at=5)["1m"], 1),
]


@pytest.mark.parametrize(("question", "requests"), KNOWN)
def test_what_was_known_at_a_moment_is_asked_for_in_every_request(
    daemon: FakeDaemon, question: Asked, requests: int
) -> None:
    fill(daemon)

    async def ask() -> Any:
        async with AsyncUnifiedDataProvider(daemon.directory) as md:
            return await question(_Awaiting(md))

    with UnifiedDataProvider(daemon.directory) as md:
        question(md)
    asyncio.run(ask())
    asked = [message.known_at for message in daemon.received if isinstance(message, protocol.Rows | protocol.Bars)]
    assert asked == [5] * 2 * requests


def test_what_will_be_known_is_refused(provider: UnifiedDataProvider) -> None:
    with pytest.raises(InvalidArgument, match=r"known_at: .* in the future"):
        provider.query_trades("BTC/USDT", known_at=time.time_ns() + 60 * 10**9)


def test_a_slow_answer_is_asked_for_once(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marketd.client.connection.WATCH_SECONDS", 0.02)

    def slow(message: Any, payloads: Any) -> Any:
        time.sleep(0.3)
        return protocol.HealthReport(status="ok", report={}), []

    daemon.reply = slow
    with UnifiedDataProvider(daemon.directory) as md:
        assert md.health().status == "ok"
    assert len(daemon.received) == 1


def test_a_closed_provider_says_so_and_may_be_closed_again(daemon: FakeDaemon) -> None:
    md = UnifiedDataProvider(daemon.directory)
    md.health()
    md.close()
    md.close()
    with pytest.raises(NotRunning, match="closed"):
        md.health()


def test_threads_share_a_provider(daemon: FakeDaemon, provider: UnifiedDataProvider) -> None:
    fill(daemon)
    wrong: list[Any] = []

    def ask(limit: int) -> None:
        for _ in range(20):
            frame = provider.query_trades("BTC/USDT", limit=limit)
            if len(frame) != limit:
                wrong.append((limit, len(frame)))

    threads = [threading.Thread(target=ask, args=(limit,)) for limit in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def test_many_requests_of_one_event_loop_run_at_once(daemon: FakeDaemon) -> None:
    fill(daemon)

    async def ask() -> list[int]:
        async with AsyncUnifiedDataProvider(daemon.directory) as md:
            frames = await asyncio.gather(*(md.query_trades("BTC/USDT", limit=1 + n % 9) for n in range(100)))
            return [len(frame) for frame in frames]

    assert asyncio.run(ask()) == [1 + n % 9 for n in range(100)]


def test_a_cancelled_request_leaves_nothing_behind(daemon: FakeDaemon) -> None:
    async def ask() -> str:
        async with AsyncUnifiedDataProvider(daemon.directory) as md:
            daemon.mute = 1
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await md.health()
            return (await md.health()).status

    assert asyncio.run(ask()) == "ok"


def test_one_asyncio_provider_serves_several_event_loops_in_turn(daemon: FakeDaemon) -> None:
    md = AsyncUnifiedDataProvider(daemon.directory)

    async def ask() -> str:
        try:
            return (await md.health()).status
        finally:
            md._requester.pool().close()

    assert [asyncio.run(ask()) for _ in range(2)] == ["ok", "ok"]


def test_a_provider_can_be_pickled(daemon: FakeDaemon, provider: UnifiedDataProvider) -> None:
    fill(daemon)
    assert len(provider.query_trades("BTC/USDT")) == 10
    with pickle.loads(pickle.dumps(provider)) as copy:
        assert len(copy.query_trades("BTC/USDT")) == 10 and copy.timeout == provider.timeout
    twin = pickle.loads(pickle.dumps(AsyncUnifiedDataProvider("tcp://127.0.0.1:5555", timeout=3)))
    assert twin.endpoints.query == "tcp://127.0.0.1:5555" and twin.timeout == 3


# fork beside a running thread is what is tested here; Python 3.12 and later warn of it
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_a_provider_goes_on_in_both_processes_after_a_fork(daemon: FakeDaemon, provider: UnifiedDataProvider) -> None:
    fill(daemon)
    assert len(provider.query_trades("BTC/USDT")) == 10
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()

    def child() -> None:
        answers.put((os.getpid(), len(provider.query_trades("BTC/USDT", limit=4))))

    process = fork.Process(target=child)
    process.start()
    assert len(provider.query_trades("BTC/USDT", limit=7)) == 7
    process.join(30)
    assert process.exitcode == 0
    pid, count = answers.get()
    answers.close()
    assert pid == process.pid and count == 4
    process.close()
    assert len(provider.query_trades("BTC/USDT", limit=6)) == 6


def test_a_daemon_elsewhere_is_asked_over_tcp_and_has_no_cache() -> None:
    with UnifiedDataProvider("tcp://127.0.0.1:1", timeout=0.1) as md:
        assert md.cache_statistics().hits == 0
        with pytest.raises(BeyondCache, match="forming"):
            md.get_latest_ohlcv(BTC.name, forming=True)
        with pytest.raises(Timeout):
            md.health()
