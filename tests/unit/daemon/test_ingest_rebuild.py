"""What ingest does with bars that were computed anew, and with a journal that has no room for a moment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import pytest

from lane import BTC, GRACE_NS, KINDS, MAX_SKEW_NS, SECOND, START
from marketd.daemon.clock import LiveClock
from marketd.daemon.ingest import Ingest
from marketd.daemon.instrument_state import MAX_REBUILD
from marketd.daemon.kernel import Kernel
from marketd.ipc import protocol
from marketd.ipc.journal import Journal
from marketd.ipc.journal_reader import JournalReader
from marketd.market.errors import JournalFull
from marketd.market.instruments import GLOBAL_NAME
from marketd.market.records import BY_NAME, CANDLE, COVERAGE, TRADE, Coverage, Records, Source
from small_daemon import SmallDaemon

BAR = (60, START)
ETH = msgspec.structs.replace(BTC, id=65_538, symbol="ETHUSDT", base="ETH")


@pytest.fixture
def daemon(tmp_path: Path, runtime_dir: Path) -> Iterator[SmallDaemon]:
    daemon = SmallDaemon(tmp_path / "state", runtime_dir)
    daemon.declare(BTC)
    yield daemon
    daemon.stop()


def ingest_of(daemon: SmallDaemon) -> Ingest:
    socket: Any = mock.Mock()
    return Ingest(
        registry=daemon.registry,
        kernel=daemon.kernel,
        journal=daemon.journal,
        publisher=daemon.publisher,
        clock=LiveClock(daemon.kernel.ts_known),
        socket=socket,
        live_only=True,
    )


def rebuilt() -> Records:
    bar = np.zeros(1, CANDLE)
    bar["timeframe"], bar["ts"], bar["source"] = *BAR, Source.OWN
    return bar


def test_a_rebuilt_bar_is_adopted_once(daemon: SmallDaemon) -> None:
    ingest, state = ingest_of(daemon), daemon.kernel.state(daemon.registry.by_name(BTC.name))
    state.rebuild[BAR] = ingest.acks.committed = 100
    question = ingest.rebuilds.next(ingest.acks.committed)
    assert question is not None
    ingest.rebuilds.adopt(question, rebuilt())
    assert state.rebuild == {}
    assert ingest.rebuilds.next(ingest.acks.committed) is None


@pytest.mark.parametrize("answer", [rebuilt(), rebuilt()[:0]])
def test_a_late_trade_during_the_question_is_not_forgotten(daemon: SmallDaemon, answer: Records) -> None:
    ingest, state = ingest_of(daemon), daemon.kernel.state(daemon.registry.by_name(BTC.name))
    state.rebuild[BAR] = ingest.acks.committed = 100
    question = ingest.rebuilds.next(ingest.acks.committed)
    assert question is not None
    state.rebuild[BAR] = 200  # one more, which the answer cannot have
    seq = state.seq
    ingest.rebuilds.adopt(question, answer)
    assert (state.rebuild, state.seq) == ({BAR: 200}, seq)
    ingest.acks.committed = 200
    assert ingest.rebuilds.next(ingest.acks.committed) == question


def test_an_instrument_that_found_no_room_is_still_due(daemon: SmallDaemon) -> None:
    ingest = ingest_of(daemon)
    eth = daemon.registry.declare(ETH)[0]
    with mock.patch.object(daemon.journal, "append", side_effect=JournalFull("full")), pytest.raises(JournalFull):
        ingest.lane.introduce(eth)
    state = daemon.kernel.state(eth)
    assert (state.seq, state.journaled) == (0, False)
    state.seq = 5  # something of it was kept live only meanwhile
    ingest.handle(b"peer", [protocol.encode(protocol.Declare(id=1, instruments=[ETH]))])
    assert (state.seq, state.journaled) == (6, True)
    daemon.restart()
    assert daemon.kernel.state(eth).journaled


def test_instruments_take_turns_and_a_question_that_fails_gets_smaller(daemon: SmallDaemon) -> None:
    ingest = ingest_of(daemon)
    eth = daemon.registry.declare(ETH)[0]
    states = [daemon.kernel.state(daemon.registry.by_name(BTC.name)), daemon.kernel.state(eth)]
    for state in states:
        state.rebuild = {(60, START + minute * 60 * SECOND): 1 for minute in range(150)}
    ingest.acks.committed = 100
    asked = []
    for _ in range(4):
        question = ingest.rebuilds.next(ingest.acks.committed)
        assert question is not None
        asked.append((question.instrument, len(question.bars)))
        ingest.rebuilds.failed()
    first, second = (state.instrument.id for state in states)
    assert asked == [(first, 64), (second, 32), (first, 16), (second, 8)]
    ingest.rebuilds.adopt(question, rebuilt()[:0])
    assert len(ingest.rebuilds.next(ingest.acks.committed).bars) == MAX_REBUILD  # type: ignore[union-attr]


def test_a_step_of_the_clock_that_finds_no_room_is_told_later(daemon: SmallDaemon) -> None:
    ingest = ingest_of(daemon)
    state = daemon.kernel.state(daemon.registry.by_name(GLOBAL_NAME))
    with mock.patch.object(Journal, "has_room", False):
        ingest.lane.step_of_clock(daemon.registry.by_name(GLOBAL_NAME), 5 * SECOND)
    assert state.seq == 0
    ingest.lane.tell_due_events()
    ingest.lane.tell_due_events()
    assert state.seq == 1


def test_what_was_not_stored_survives_a_restart_and_is_said_before_the_next_records(daemon: SmallDaemon) -> None:
    daemon.kernel.state(daemon.registry.by_name(BTC.name)).unstored_since = 7_000
    again = Kernel(KINDS, daemon.timeframes, grace_ns=GRACE_NS, max_skew_ns=MAX_SKEW_NS)
    again.restore(daemon.kernel.checkpoint(), daemon.registry.all_instruments)
    assert again.state(daemon.registry.by_name(BTC.name)).unstored_since == 7_000
    ingest = ingest_of(daemon)
    batch = protocol.Ingest(id=1, instrument=BTC.name, producer=bytes(16), batch=1, parts=[protocol.Part("trade", 1)])
    trade = np.zeros(1, TRADE)
    trade["ts_event"], trade["trade_id"], trade["price"], trade["size"] = START, 1, 100, 100
    begin = daemon.journal.end
    ingest.handle(b"peer", [protocol.encode(batch), trade.tobytes()])
    assert daemon.journal.wait_durable(daemon.journal.end, 30)
    with JournalReader(daemon.state / "journal") as reader:
        frames = reader.read(begin, daemon.journal.end, 1 << 20)
    event = np.frombuffer(frames[0].sections[0].payload, COVERAGE)
    assert (event["state"][0], event["ts_start"][0]) == (Coverage.UNSTORED, 7_000)
    assert next(section.kind for section in frames[1].sections) == BY_NAME["trade"].id


def test_what_was_not_stored_is_said_as_soon_as_there_is_room(daemon: SmallDaemon) -> None:
    ingest, state = ingest_of(daemon), daemon.kernel.state(daemon.registry.by_name(BTC.name))
    state.unstored_since, state.unstored_count = 7_000, 3
    with mock.patch.object(daemon.journal, "append", side_effect=JournalFull("full")):
        ingest.lane.close_unstored(state)
    assert (state.unstored_since, state.unstored_count) == (7_000, 3)
    ingest.lane.close_unstored(state)
    assert (state.unstored_since, state.unstored_count) == (0, 0)
