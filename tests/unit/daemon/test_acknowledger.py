"""Answers wait for the disk; those that nobody waits for leave together."""

from __future__ import annotations

from typing import Any

import pytest

from marketd.daemon import acknowledger
from marketd.daemon.acknowledger import MANY_ANSWERS, PATIENCE_NS, Acknowledger
from marketd.ipc.protocol import Outcome


class Journal:
    durable = 0
    uuid = bytes(16)


class Publisher:
    def __init__(self) -> None:
        self.marked: list[int] = []

    def mark_durable(self, offset: int) -> None:
        self.marked.append(offset)


class Socket:
    def __init__(self) -> None:
        self.peers: list[bytes] = []

    def send(self, frame: bytes, flags: int) -> None:
        if frame.startswith(b"peer"):
            self.peers.append(frame)


class Clock:
    now_ns = 1_000_000_000

    def monotonic_ns(self) -> int:
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(acknowledger, "time", made)
    return made


class Desk:
    """An acknowledger whose disk moves when it is told to."""

    def __init__(self) -> None:
        self.journal, self.publisher, self.socket = Journal(), Publisher(), Socket()
        stubs: Any = (self.journal, self.publisher, self.socket)
        self.acks = Acknowledger(*stubs)

    def answer(self, offset: int, *, patient: bool, peer: bytes = b"peer") -> None:
        self.acks.answer(peer, offset, Outcome(id=offset, batch=offset, accepted=1), patient=patient)

    def flushed(self, offset: int) -> list[bytes]:
        """Who was answered since the last time."""
        self.journal.durable = offset
        self.acks.acknowledge_if_due()
        answered, self.socket.peers = self.socket.peers, []
        return answered


def test_the_first_answer_to_a_feed_goes_at_once_and_the_next_after_a_moment(clock: Clock) -> None:
    desk = Desk()
    desk.answer(10, patient=True)
    assert desk.flushed(10) == [b"peer"]
    desk.answer(20, patient=True)
    desk.answer(30, patient=True)
    assert desk.flushed(30) == []
    assert desk.acks.patience_ns == PATIENCE_NS
    clock.now_ns += PATIENCE_NS
    assert desk.acks.patience_ns == 0
    assert desk.flushed(30) == [b"peer", b"peer"]
    assert desk.publisher.marked == [10, 30]


def test_while_a_producer_waits_nobody_is_patient_and_answers_stay_in_order(clock: Clock) -> None:
    desk = Desk()
    desk.answer(10, patient=True)
    desk.flushed(10)
    desk.answer(20, patient=True, peer=b"peer of a feed")
    desk.answer(30, patient=False, peer=b"peer who waits")
    assert desk.acks.patience_ns == 0
    assert desk.flushed(20) == [b"peer of a feed"]
    assert desk.acks.patience_ns == 0
    assert desk.flushed(30) == [b"peer who waits"]
    desk.answer(40, patient=True)
    assert desk.flushed(40) == []


def test_many_answers_are_not_kept_back(clock: Clock) -> None:
    desk = Desk()
    desk.answer(1, patient=True)
    desk.flushed(1)
    for offset in range(2, MANY_ANSWERS + 1):
        desk.answer(offset, patient=True)
    assert desk.flushed(MANY_ANSWERS) == []
    desk.answer(MANY_ANSWERS + 1, patient=True)
    assert len(desk.flushed(MANY_ANSWERS + 1)) == MANY_ANSWERS


def test_the_repetition_of_a_batch_that_waits_is_waited_for(clock: Clock) -> None:
    desk = Desk()
    desk.answer(10, patient=True)
    desk.flushed(10)
    for offset in (20, 30):
        desk.answer(offset, patient=True)
    desk.answer(20, patient=False, peer=b"peer who asked again")
    assert desk.flushed(20) == [b"peer", b"peer who asked again"]
    assert desk.flushed(30) == []


def test_nothing_is_answered_before_the_disk_has_it(clock: Clock) -> None:
    desk = Desk()
    desk.answer(10, patient=False)
    assert desk.flushed(9) == []
    assert desk.flushed(10) == [b"peer"]
