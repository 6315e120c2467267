"""An actor's answers: pure, and proof against anything that arrives."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.daemon import metrics
from marketd.daemon.control import MAX_METRICS_BYTES, Answers, reload_reply
from marketd.ipc import protocol
from marketd.ipc.protocol import Done, Failure, Ping, Pong, Reload, Stop
from marketd.market.errors import ConfigError

REPLIES = protocol.Decoder(protocol.FromControl)


class Numbers(NamedTuple):
    count: int
    share: np.float64


class StubActor:
    name = "writer"
    state = "live"

    def __init__(self) -> None:
        self.stops: list[tuple[str, float | None]] = []

    def statistics(self) -> Mapping[str, Any]:
        return {"numbers": Numbers(3, np.float64(0.5)), "path": Path("/x")}

    def ask_to_stop(self, reason: str, budget_seconds: float | None = None) -> None:
        self.stops.append((reason, budget_seconds))


def reply_to(actor: StubActor, *frames: bytes) -> Pong | Done | Failure:
    answers = Answers(actor)
    request = answers.read(frames)
    assert not isinstance(request, Reload)
    reply: Pong | Done | Failure = REPLIES.decode(answers.answer(request))
    return reply


@pytest.fixture(autouse=True)
def small_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "exposition", lambda: b"m 1")


def test_a_ping_is_answered_with_state_metrics_and_statistics() -> None:
    pong = reply_to(StubActor(), protocol.encode(Ping(id=7)))
    assert isinstance(pong, Pong)
    assert (pong.id, pong.actor, pong.state) == (7, "writer", "live")
    assert pong.statistics == {"pid": os.getpid(), "numbers": {"count": 3, "share": 0.5}, "path": "/x"}
    assert pong.metrics == b"m 1"


def test_metrics_come_along_now_and_then_and_with_every_change_of_state() -> None:
    answers = Answers(StubActor())
    pongs: list[Pong] = [REPLIES.decode(answers.pong(request_id)) for request_id in (1, 2, 0, 3)]
    assert [bool(pong.metrics) for pong in pongs] == [True, False, True, False]


def test_a_stop_brings_its_budget() -> None:
    actor = StubActor()
    done = reply_to(actor, protocol.encode(Stop(id=8, timeout_ms=1500)))
    assert (done.id, actor.stops) == (8, [("the supervisor asks", 1.5)])


def test_a_message_of_several_frames_is_refused_with_its_id() -> None:
    failure = reply_to(StubActor(), protocol.encode(Ping(id=9)), b"more")
    assert isinstance(failure, Failure)
    assert (failure.id, failure.code, failure.field) == (9, "protocol_error", "frames")


def test_metrics_that_would_burst_the_message_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "exposition", lambda: b"x" * (MAX_METRICS_BYTES + 1))
    pong = reply_to(StubActor(), protocol.encode(Ping()))
    assert isinstance(pong, Pong)
    assert pong.metrics == b""


@given(st.lists(st.binary(max_size=60), max_size=3))
def test_any_bytes_are_answered(frames: list[bytes]) -> None:
    assert isinstance(reply_to(StubActor(), *frames), Failure)


@given(st.dictionaries(st.sampled_from(["v", "id", "timeout_ms", "x"]), st.none() | st.integers(-9, 9) | st.text()))
def test_any_map_is_answered_unless_it_is_a_request(fields: dict[str, Any]) -> None:
    header = msgspec.msgpack.encode({"type": "ping", **fields})
    assert isinstance(reply_to(StubActor(), header), (Failure, Pong))


def test_a_reload_that_fails_says_why() -> None:
    failure = reload_reply(4, ConfigError("a.b: no", field="a.b"))
    assert isinstance(failure, Failure)
    assert (failure.id, failure.code, failure.message, failure.field) == (4, "config_error", "a.b: no", "a.b")
    other = reload_reply(4, ZeroDivisionError("x"))
    assert isinstance(other, Failure) and other.message == "ZeroDivisionError: x"
    assert isinstance(reload_reply(4, None, "done"), Done)
