"""Subscriptions over real PUB sockets: order, holes, restarts, ends."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fake_daemon import BTC, TRADE, FakeDaemon, candles, trades
from marketd import AsyncUnifiedDataProvider, UnifiedDataProvider
from marketd.client.frames import Frame
from marketd.client.subscription import Subscription
from marketd.ipc import protocol
from marketd.ipc.arena import ArenaState, RingSpec
from marketd.ipc.arena_writer import ArenaWriter
from marketd.ipc.paths import arena_path
from marketd.market.errors import InvalidArgument, MarketdError, Timeout
from marketd.market.records import BY_NAME


def ids(frames: list[Frame]) -> list[int]:
    return [int(number) for frame in frames for number in frame["trade_id"]]


def take(subscription: Subscription, rows: int) -> list[Frame]:
    """Frames until there are so many rows; by seq they rise, each once."""
    frames: list[Frame] = []
    while sum(map(len, frames)) < rows:
        frames.append(subscription.next(10))
    seqs = np.concatenate([frame["seq"] for frame in frames])
    assert (np.diff(seqs) > 0).all()
    return frames


def block(first: int, count: int = 3) -> Any:
    return trades(range(first, first + count), first_seq=first + 1)


def test_frames_come_as_they_are_published(daemon: FakeDaemon, provider: UnifiedDataProvider) -> None:
    with provider.subscribe("trade", "BTC/USDT") as subscription:
        for first in (0, 3, 6):
            daemon.publish("trade", block(first))
        frames = take(subscription, 9)
        assert ids(frames) == list(range(9)) and frames[0].meta.served_from == "stream"
        assert frames[0].instrument == BTC and frames[0].meta.watermark == frames[0]["ts_known"].max()
        assert subscription.statistics()[:4] == (3, 9, 0, 0)


def test_ticks_come_and_those_that_were_missed_are_counted_only(
    daemon: FakeDaemon, provider: UnifiedDataProvider
) -> None:
    """A tick says that an instrument was silent until then: it is kept nowhere, so that none can be fetched."""
    ticks = np.zeros(2, dtype=BY_NAME["tick"].dtype)
    ticks["ts_event"], ticks["ts_known"], ticks["seq"] = (10, 20), (11, 21), (1, 2)
    with provider.subscribe("tick", "BTC/USDT") as subscription:
        daemon.publish("tick", ticks[:1])
        daemon.publish("tick", ticks[1:], skip=3)
        assert [int(frame["time"][0]) for frame in take(subscription, 2)] == [10, 20]
        assert (subscription.statistics().missed, subscription.statistics().fetched) == (3, 0)
    with pytest.raises(InvalidArgument, match="since: ticks are kept nowhere"):
        provider.subscribe("tick", "BTC/USDT", since=0)


def test_a_kind_without_a_topic_is_refused_and_not_waited_for(provider: UnifiedDataProvider) -> None:
    with pytest.raises(InvalidArgument, match="kind: instruments are not published"):
        provider.subscribe("instrument", "BTC/USDT")


def test_missed_messages_are_fetched_and_delivered_in_their_place(
    daemon: FakeDaemon, provider: UnifiedDataProvider
) -> None:
    daemon.store("trade", trades(range(20), first_seq=1))
    with provider.subscribe("trade", "BTC/USDT") as subscription:
        daemon.publish("trade", block(0))
        assert ids(take(subscription, 3)) == [0, 1, 2]
        daemon.publish("trade", block(9), skip=2)
        frames = take(subscription, 9)
        assert ids(frames) == list(range(3, 12)) and frames[0].meta.served_from == "database"
        statistics = subscription.statistics()
        assert (statistics.missed, statistics.fetched, statistics.duplicates) == (2, 6, 0)


def test_what_the_database_has_not_stored_yet_is_waited_for(daemon: FakeDaemon, provider: UnifiedDataProvider) -> None:
    asked = []

    def slow(message: Any, payloads: list[Any]) -> Any:
        if isinstance(message, protocol.Rows):
            asked.append(message)
            daemon.watermark = 0 if len(asked) < 3 else 10**18
            daemon.stored["trade"] = trades(range(len(asked) * 2), first_seq=1)
        return daemon._handle(message, payloads)

    with provider.subscribe("trade", "BTC/USDT") as subscription:
        daemon.publish("trade", block(0, 1))
        take(subscription, 1)
        daemon.reply = slow
        daemon.publish("trade", block(6, 1), skip=5)
        assert ids(take(subscription, 6)) == [1, 2, 3, 4, 5, 6]
    assert len(asked) == 3


def test_a_hole_whose_answer_stays_away_is_asked_for_again_and_ends_no_iteration(daemon: FakeDaemon) -> None:
    daemon.store("trade", trades(range(20), first_seq=1))
    with (
        UnifiedDataProvider(daemon.directory, timeout=0.3) as provider,
        provider.subscribe("trade", "BTC/USDT") as subscription,
    ):
        daemon.publish("trade", block(0))
        take(subscription, 3)
        daemon.mute = 1
        daemon.publish("trade", block(6), skip=1)
        assert ids([next(subscription), next(subscription)]) == list(range(3, 9))
        daemon.mute = 9
        daemon.publish("trade", block(12), skip=1)
        with pytest.raises(Timeout):  # whoever sets a limit is told
            subscription.next(0.1)
        daemon.mute = 0
        assert ids(take(subscription, 6)) == list(range(9, 15))


def test_a_restarted_daemon_numbers_anew_and_nothing_is_missed_or_doubled(
    daemon: FakeDaemon, provider: UnifiedDataProvider
) -> None:
    daemon.store("trade", trades(range(20), first_seq=1))
    with provider.subscribe("trade", "BTC/USDT") as subscription:
        for first in (0, 3):
            daemon.publish("trade", block(first))
        take(subscription, 6)
        daemon.restart_numbers()
        daemon.publish("trade", block(4, 6))  # two of them are known
        assert ids(take(subscription, 4)) == [6, 7, 8, 9]
        statistics = subscription.statistics()
        assert (statistics.restarts, statistics.duplicates) == (1, 2)


def test_a_finer_precision_goes_on_under_another_id_with_scales_and_numbers_of_its_own(
    daemon: FakeDaemon, provider: UnifiedDataProvider
) -> None:
    finer = msgspec.structs.replace(BTC, id=BTC.id + 1, price_scale=BTC.price_scale + 2)
    with provider.subscribe("trade", "BTC/USDT") as subscription:
        daemon.publish("trade", block(20))
        assert take(subscription, 3)[0]["price"].tolist() == [100.2, 100.21, 100.22]
        daemon.instruments[1:] = [msgspec.structs.replace(BTC, flags=1), finer]
        daemon.store("trade", trades(range(30, 40), first_seq=2))  # its records are numbered from the beginning
        daemon.publish("trade", trades(range(30, 33), first_seq=2), number=finer.id)
        daemon.publish("trade", trades(range(36, 39), first_seq=8), skip=1, number=finer.id)
        frames = take(subscription, 9)
        assert ids(frames) == list(range(30, 39)) and frames[0]["price"].tolist() == [1.003, 1.0031, 1.0032]
        assert {frame.instrument.id for frame in frames} == {finer.id}
    with provider.subscribe("trade", "BTC/USDT", since=1_000_000_000) as again:
        assert take(again, 10)[0].instrument == finer


def test_a_subscription_since_a_time_begins_with_what_is_stored(
    daemon: FakeDaemon, provider: UnifiedDataProvider
) -> None:
    daemon.store("trade", trades(range(10), first_seq=1, ts=0))
    with provider.subscribe("trade", "BTC/USDT", since=4_000_000) as subscription:
        assert ids(take(subscription, 6)) == [4, 5, 6, 7, 8, 9]
        daemon.store("trade", trades(range(10, 13), first_seq=11, ts=0))  # published before we were connected
        daemon.publish("trade", trades([13], first_seq=14, ts=0), skip=5)
        assert ids(take(subscription, 4)) == [10, 11, 12, 13]


def test_bars_of_both_sources_and_new_versions_come_on_one_topic(
    daemon: FakeDaemon, provider: UnifiedDataProvider
) -> None:
    daemon.store("candle", candles(range(3), first_seq=1))
    daemon.store("candle", candles(range(3), source=2, first_seq=4))
    with provider.subscribe("candle", "BTC/USDT", "1m", since=0) as subscription:
        (frame,) = take(subscription, 6)
        assert frame["source"].tolist() == [1, 1, 1, 2, 2, 2] and frame.timeframe == 60
        daemon.publish("candle", candles([1], first_seq=7, flags=4), timeframe="1m")
        assert take(subscription, 1)[0]["flags"].tolist() == [4]


def test_garbage_on_the_stream_is_counted_and_passed_over(daemon: FakeDaemon, provider: UnifiedDataProvider) -> None:
    with provider.subscribe("trade", "BTC/USDT") as subscription:
        topic = subscription._inbox.follower.topic
        wrong_count = protocol.encode(protocol.StreamHeader(0, "trade", 2, BTC.id, 1, 1))
        for frames in ([topic], [topic, b"\xff", b""], [topic, wrong_count, b"short"]):
            daemon.publish_raw(frames)
        daemon.publish("trade", block(0))
        assert ids(take(subscription, 3)) == [0, 1, 2]
        assert subscription.statistics().garbage == 3


def test_nothing_in_time_is_a_timeout_and_the_subscription_lives_on(
    daemon: FakeDaemon, provider: UnifiedDataProvider
) -> None:
    with provider.subscribe("trade", "BTC/USDT") as subscription:
        with pytest.raises(Timeout, match="nothing was published"):
            subscription.next(0.05)
        daemon.publish("trade", block(0))
        take(subscription, 3)


def test_closing_from_another_thread_ends_the_iteration(daemon: FakeDaemon, provider: UnifiedDataProvider) -> None:
    subscription = provider.subscribe("trade", "BTC/USDT")
    seen: list[Frame] = []
    thread = threading.Thread(target=lambda: seen.extend(subscription))
    thread.start()
    daemon.publish("trade", block(0))
    while not seen:
        assert thread.is_alive()
        thread.join(0.01)
    subscription.close()
    thread.join(10)
    assert not thread.is_alive() and ids(seen) == [0, 1, 2]
    with pytest.raises(MarketdError, match="was closed; subscribe again"):
        subscription.next(1)
    subscription.close()


def test_a_timeframe_is_needed_for_bars_and_only_for_them(provider: UnifiedDataProvider) -> None:
    for kind, timeframe in (("candle", None), ("trade", "1m")):
        with pytest.raises(InvalidArgument, match="timeframe"):
            provider.subscribe(kind, "BTC/USDT", timeframe)


@pytest.mark.parametrize(("kind", "timeframe"), [("candle", "7s"), ("candle", "1d"), ("buckets", "5m")])
def test_what_is_never_published_is_refused_and_not_waited_for(
    daemon: FakeDaemon, provider: UnifiedDataProvider, kind: str, timeframe: str
) -> None:
    with pytest.raises(InvalidArgument, match=f"{kind} is not published by {timeframe}; there are: 1s, 1m") as error:
        provider.subscribe(kind, "BTC/USDT", timeframe)
    assert error.value.field == "timeframe"


def test_the_asyncio_twin_fills_holes_too_and_ends_when_closed(daemon: FakeDaemon) -> None:
    daemon.store("trade", trades(range(20), first_seq=1))

    async def follow() -> list[Frame]:
        frames: list[Frame] = []
        async with (
            AsyncUnifiedDataProvider(daemon.directory) as provider,
            provider.subscribe("trade", "BTC/USDT", since=0) as subscription,
        ):
            daemon.publish("trade", trades([22], first_seq=23), skip=1)
            daemon.store("trade", trades(range(20, 22), first_seq=21))
            async for frame in subscription:
                frames.append(frame)
                if frame["trade_id"][-1] == 22:
                    asyncio.get_running_loop().call_soon(asyncio.ensure_future, subscription.close())
        return frames

    assert ids(asyncio.run(follow())) == list(range(23))


@pytest.fixture
def arena(daemon: FakeDaemon) -> Iterator[ArenaWriter]:
    path: Path = arena_path(daemon.directory, BTC.name)
    rings = [RingSpec("trade", TRADE.id, TRADE.dtype, 100)]
    with ArenaWriter.create(path, instance="t", instrument=BTC, rings=rings, open_slots=1) as writer:
        writer.set_state(ArenaState.LIVE)
        writer.heartbeat(time.monotonic_ns(), time.time_ns(), 0, 0)
        yield writer


def test_shared_memory_fills_holes_without_the_database(
    daemon: FakeDaemon, arena: ArenaWriter, provider: UnifiedDataProvider
) -> None:
    def append(first: int) -> None:
        records = block(first)
        arena.append(0, records.tobytes())
        arena.publish(int(records["ts_known"][-1]), int(records["ts_event"][-1]), int(records["seq"][-1]), 0)

    append(0)
    with provider.subscribe("trade", "BTC/USDT") as subscription:
        append(3)  # published in the moment before the subscription reached the daemon
        append(6)
        daemon.publish("trade", block(6), skip=2)
        frames = take(subscription, 6)
        assert ids(frames) == list(range(3, 9)) and frames[0].meta.served_from == "arena"
        append(9)
        append(12)
        daemon.publish("trade", block(12), skip=1)
        assert ids(take(subscription, 6)) == list(range(9, 15))
    assert not [message for message in daemon.received if isinstance(message, protocol.Rows)]
