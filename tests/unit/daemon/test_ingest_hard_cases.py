"""What must not end ingest, what must end it, and what must not be lost when clocks and processes fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import pytest

from lane import BTC, SECOND, START, trades
from marketd.daemon.clock import LiveClock
from marketd.daemon.ingest import MAX_RULES, OTHER_RULES, Ingest
from marketd.daemon.kernel import TRADE_KIND
from marketd.ipc import protocol
from marketd.ipc.frames import Frame
from marketd.ipc.journal import Journal
from marketd.ipc.journal_errors import JournalFailed
from marketd.ipc.journal_reader import JournalReader
from marketd.market.records import BY_NAME, CANDLE, COVERAGE, Coverage, Records, Source
from marketd.market.timeline import Seen, timeline
from marketd.market.times import ABSENT
from small_daemon import SmallDaemon

BAR = (60, START)


@pytest.fixture
def daemon(tmp_path: Path, runtime_dir: Path) -> Iterator[SmallDaemon]:
    daemon = SmallDaemon(tmp_path / "state", runtime_dir)
    daemon.declare(BTC)
    yield daemon
    daemon.stop()


def ingest_of(daemon: SmallDaemon, clock: LiveClock | None = None) -> tuple[Ingest, Any]:
    socket: Any = mock.Mock()
    made = Ingest(
        registry=daemon.registry,
        kernel=daemon.kernel,
        journal=daemon.journal,
        publisher=daemon.publisher,
        clock=clock or LiveClock(daemon.kernel.ts_known),
        socket=socket,
        live_only=True,
    )
    return made, socket


def frames_since(daemon: SmallDaemon, begin: int) -> list[Frame]:
    assert daemon.journal.wait_durable(daemon.journal.end, 30)
    with JournalReader(daemon.state / "journal") as reader:
        return reader.read(begin, daemon.journal.end, 1 << 20)


def a_bar() -> Records:
    bar = np.zeros(1, CANDLE)
    bar["timeframe"], bar["ts"], bar["source"] = *BAR, Source.OWN
    return bar


@pytest.mark.parametrize("answer", [a_bar(), a_bar()[:0]])
def test_a_bar_of_an_id_that_a_finer_precision_replaced_is_stored_and_not_shown(
    daemon: SmallDaemon, answer: Records
) -> None:
    ingest, _ = ingest_of(daemon)
    state = daemon.kernel.state(daemon.registry.by_name(BTC.name))
    state.rebuild[BAR] = ingest.acks.committed = 100
    finer = msgspec.structs.replace(BTC, price_scale=4)
    ingest.handle(b"peer", [protocol.encode(protocol.Declare(id=1, instruments=[finer]))])
    question, begin = ingest.rebuilds.next(ingest.acks.committed), daemon.journal.end
    assert question is not None
    ingest.rebuilds.adopt(question, answer)  # the arena of that name has another owner by now
    assert state.rebuild == {}
    assert [frame.instrument for frame in frames_since(daemon, begin)] == [state.instrument.id]
    with daemon.reader() as reader:
        assert reader.identity.instrument_id == daemon.registry.by_name(BTC.name).id != state.instrument.id


def test_unstored_is_said_though_the_wall_clock_stepped_back_before_the_start(daemon: SmallDaemon) -> None:
    state = daemon.kernel.state(daemon.registry.by_name(BTC.name))
    state.unstored_since, state.unstored_count = START + 5 * SECOND, 3
    ingest, _ = ingest_of(daemon, LiveClock(state.unstored_since, wall=lambda: START, monotonic=lambda: 0))
    begin = daemon.journal.end
    ingest.lane.close_unstored(state)
    (frame,) = frames_since(daemon, begin)
    assert [section.kind for section in frame.sections] == [BY_NAME["coverage"].id]  # and not the quarantine
    event = np.frombuffer(frame.sections[0].payload, COVERAGE)[0]
    assert (event["state"], event["ts_start"], event["detail"]) == (Coverage.UNSTORED, START + 5 * SECOND, 3)


def test_unstored_is_said_of_an_instrument_that_has_fallen_silent(daemon: SmallDaemon) -> None:
    ingest, _ = ingest_of(daemon)
    state, begin = daemon.kernel.state(daemon.registry.by_name(BTC.name)), daemon.journal.end
    batch = protocol.Ingest(
        id=1, instrument=BTC.name, producer=bytes(16), batch=1, parts=[protocol.Part("trade", 1)], live=True
    )
    with mock.patch.multiple(Journal, has_room=False, blocked="the budget is used up"):
        ingest.handle(b"peer", [protocol.encode(batch), trades([(0, 1, 100, 1)]).tobytes()])
        ingest.lane.tell_due_events()
    assert state.unstored_count == 1
    (told,) = daemon.ring("coverage")  # shared memory says it while it lasts
    assert (told["state"], told["ts_start"], told["ts_end"]) == (Coverage.UNSTORED, state.unstored_since, ABSENT)
    assert timeline(daemon.ring("coverage"), 1, START, 2**62)[-1].state is Seen.UNSTORED
    successor, _ = ingest_of(daemon)  # knows it from the checkpoint
    successor.lane.tell_due_events()
    assert state.unstored_count == 0
    (frame,) = frames_since(daemon, begin)
    assert np.frombuffer(frame.sections[0].payload, COVERAGE)["state"].tolist() == [Coverage.UNSTORED]
    # and what was open is over with it
    assert timeline(daemon.ring("coverage"), 1, START, 2**62)[-1].state is Seen.UNOBSERVED
    successor.lane.tell_due_events()
    assert daemon.journal.end == frame.end


@pytest.mark.parametrize(("live", "oldest", "patient"), [(True, 1, True), (False, 1, False), (True, 0, False)])
def test_only_a_feed_that_sends_on_goes_without_its_answer_for_a_moment(
    daemon: SmallDaemon, live: bool, oldest: int, patient: bool
) -> None:
    ingest, _ = ingest_of(daemon)
    batch = protocol.Ingest(
        id=1,
        instrument=BTC.name,
        producer=bytes(16),
        batch=1,
        parts=[protocol.Part("trade", 1)],
        live=live,
        oldest=oldest,
    )
    with mock.patch.object(ingest.acks, "answer") as answer:
        ingest.handle(b"peer", [protocol.encode(batch), trades([(0, 1, 100, 5)]).tobytes()])
    assert answer.call_args.kwargs == {"patient": patient}


def test_a_journal_that_failed_ends_ingest_and_gets_no_batch_given_up(daemon: SmallDaemon) -> None:
    ingest, socket = ingest_of(daemon)
    batch = protocol.Ingest(id=1, instrument=BTC.name, producer=bytes(16), batch=1, parts=[protocol.Part("trade", 1)])
    failed = mock.patch.object(daemon.journal, "append", side_effect=JournalFailed("the disk refused"))
    with failed, pytest.raises(JournalFailed):
        ingest.handle(b"peer", [protocol.encode(batch), trades([(0, 1, 100, 5)]).tobytes()])
    socket.send.assert_not_called()


def test_an_arena_whose_maker_was_killed_before_it_was_filled_is_filled_by_the_successor(daemon: SmallDaemon) -> None:
    daemon.take((TRADE_KIND, trades([(0, 1, 100, 5)])))
    daemon.reboot()
    daemon.restart()  # killed while warming
    board = daemon.publisher.board(BTC)
    assert board.is_new
    board.publish_as_is(daemon.journal.end)
    daemon.restart()
    assert not daemon.publisher.board(BTC).is_new


def test_a_replay_of_an_instruments_introduction_gives_the_same_state_bit_for_bit(daemon: SmallDaemon) -> None:
    before = daemon.kernel.checkpoint()
    daemon.restart()
    assert daemon.kernel.checkpoint() == before


def test_a_finer_precision_declared_while_records_of_the_old_id_wait_for_the_disk_ends_nothing(
    daemon: SmallDaemon,
) -> None:
    ingest, _ = ingest_of(daemon)
    daemon.take((TRADE_KIND, trades([(0, 1, 100, 5)])))
    finer = msgspec.structs.replace(BTC, price_scale=4)
    ingest.handle(b"peer", [protocol.encode(protocol.Declare(id=1, instruments=[finer]))])
    assert daemon.journal.wait_durable(daemon.journal.end, 30)
    ingest.acks.acknowledge()  # the old id's arena is closed by now
    with daemon.reader() as reader:
        assert reader.identity.instrument_id == daemon.registry.by_name(BTC.name).id


def test_an_ingest_that_was_killed_knows_since_when_nothing_was_stored(daemon: SmallDaemon) -> None:
    ingest, _ = ingest_of(daemon)
    batch = protocol.Ingest(
        id=1, instrument=BTC.name, producer=bytes(16), batch=1, parts=[protocol.Part("trade", 1)], live=True
    )
    with mock.patch.multiple(Journal, has_room=False, blocked="the budget is used up"):
        ingest.handle(b"peer", [protocol.encode(batch), trades([(0, 1, 100, 1)]).tobytes()])
    since = daemon.kernel.state(daemon.registry.by_name(BTC.name)).unstored_since
    daemon.restart()
    state = daemon.kernel.state(daemon.registry.by_name(BTC.name))
    assert (state.unstored_since, state.unstored_count) == (since, 1)


def test_a_late_trade_kept_live_only_takes_no_bar_from_those_that_wait_for_stored_ones(daemon: SmallDaemon) -> None:
    ingest, _ = ingest_of(daemon)
    state = daemon.kernel.state(daemon.registry.by_name(BTC.name))
    for first in (0, 30):  # and the first second's bar is kept no more
        daemon.take((TRADE_KIND, trades([(n * 1000, n + 1, 100, 1) for n in range(first, first + 30)])))
    waiting = daemon.take((TRADE_KIND, trades([(0, 1001, 100, 1)])))
    bar = (1, START)
    assert waiting.unknown == [bar] and state.rebuild == {bar: daemon.journal.end}
    batch = protocol.Ingest(
        id=1, instrument=BTC.name, producer=bytes(16), batch=1, parts=[protocol.Part("trade", 1)], live=True
    )
    with mock.patch.multiple(Journal, has_room=False, blocked="the budget is used up"):
        ingest.handle(b"peer", [protocol.encode(batch), trades([(0, 1002, 100, 1)]).tobytes()])
    assert state.unstored_count == 1
    assert state.rebuild == {bar: daemon.journal.end}


def test_senders_that_name_ever_new_rules_do_not_fill_the_memory(daemon: SmallDaemon) -> None:
    ingest, _ = ingest_of(daemon)
    for batch in range(1, 31):
        rejected = [protocol.Rejection("trade", f"rule {batch} {n}", "", b"") for n in range(20)]
        message = protocol.Ingest(
            id=batch, instrument=BTC.name, producer=bytes(16), batch=batch, parts=[], rejected=rejected
        )
        assert daemon.journal.wait_room(30)
        ingest.handle(b"peer", [protocol.encode(message)])
    assert len(ingest.rules) == MAX_RULES + 1 and ingest.rules.total() == 600
    assert ingest.rules[OTHER_RULES] == 600 - MAX_RULES
