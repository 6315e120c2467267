"""Bars by activity in shared memory and on the stream: one ring for all specs, the same after restart and reboot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from lane import BTC, frame_of, trades
from marketd.daemon.kernel import TRADE_KIND
from marketd.daemon.recovery import lot_of
from marketd.daemon.rings import ACTIVITY_CAPACITY
from marketd.ipc.protocol import StreamHeader
from marketd.market.records import BY_NAME
from small_daemon import SmallDaemon, expected_ring

ACTIVITY = BY_NAME["activity_bar"]
RING = ACTIVITY.name


@pytest.fixture
def daemon(tmp_path: Path, runtime_dir: Path) -> Iterator[SmallDaemon]:
    wanted = {BTC.name: ["tick:2", "volume:0.009"]}
    with SmallDaemon(tmp_path / "state", runtime_dir, activity_bars=wanted) as daemon:
        daemon.declare(BTC)
        yield daemon


def take(daemon: SmallDaemon, first: int, count: int) -> None:
    daemon.take((TRADE_KIND, trades([(number, number, 100 + number, 5) for number in range(first, first + count)])))


def test_bars_of_all_specs_share_a_ring_in_the_order_in_which_they_closed(daemon: SmallDaemon) -> None:
    take(daemon, 1, 5)
    take(daemon, 6, 1)
    found = daemon.ring(RING)
    assert found["measure"].tolist() == [1, 1, 2, 2, 1, 2]
    assert found.tobytes() == expected_ring(daemon.lots, RING).tobytes()
    assert daemon.publisher.board(BTC).rings[RING] == 2 * ACTIVITY_CAPACITY


def test_an_instrument_without_such_bars_has_no_ring_for_them(daemon: SmallDaemon) -> None:
    other = daemon.declare(msgspec.structs.replace(BTC, id=0, symbol="ETHUSDT", base="ETH"))
    assert RING not in daemon.publisher.board(other).rings


def test_a_batch_of_bars_is_one_message_of_its_topic(daemon: SmallDaemon) -> None:
    daemon.publisher.heard(b"\x01activity_bar")
    take(daemon, 1, 4)
    sent = [(header, payload) for topic, header, payload in daemon.stream.sent if topic.startswith(b"activity_bar")]
    assert {topic for topic, *_ in daemon.stream.sent} >= {b"activity_bar.BINANCE.BTCUSDT."}
    ((header, payload),) = sent
    assert msgspec.msgpack.decode(header, type=StreamHeader).count == len(payload) / ACTIVITY.dtype.itemsize == 4


def test_a_bar_goes_on_over_a_restart_and_a_reboot(daemon: SmallDaemon) -> None:
    take(daemon, 1, 1)
    daemon.restart()
    take(daemon, 2, 2)
    daemon.reboot()
    take(daemon, 4, 1)
    assert expected_ring(daemon.lots, RING)["trade_count"].tolist() == [2, 2, 2, 2]
    assert daemon.ring(RING)["seq"].tolist() == expected_ring(daemon.lots, RING)["seq"].tolist()[2:]  # a new arena


def test_frames_of_the_journal_show_their_bars_again(daemon: SmallDaemon) -> None:
    take(daemon, 1, 4)
    lot = lot_of(frame_of(daemon.lots[-1][0], 0), daemon.kernel, daemon.kernel.state(BTC))
    assert [(kind.name, len(records)) for kind, records in lot.rows] == [("trade", 4), (RING, 4)]


def test_other_specs_are_a_new_arena_that_has_what_the_old_one_had(daemon: SmallDaemon) -> None:
    take(daemon, 1, 4)
    before = daemon.ring("trade").tobytes()
    daemon.stop()
    daemon.activity_bars = {}
    daemon.start()
    assert RING not in daemon.publisher.board(BTC).rings
    daemon.stop()
    daemon.activity_bars = {"*": ["tick:1"]}
    daemon.start()
    take(daemon, 5, 1)
    assert daemon.ring(RING)["threshold"].tolist() == [1]
    assert daemon.ring("trade").tobytes().startswith(before)
