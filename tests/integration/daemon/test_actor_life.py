"""One actor as the ordinary program that it is: without a supervisor, and when the supervisor is not there any more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from daemons import CONFIG

from marketd.ipc import paths, protocol
from marketd.ipc.protocol import Done, Failure, Ping, Pong, Reload, Stop
from support import eventually

DUMMY_ACTOR = Path(__file__).with_name("dummy_actor.py")
FROM_ACTOR = protocol.Decoder(protocol.FromControl)
END_SECONDS = 30.0

type_begin = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def begin(runtime_dir: Path) -> Iterator[type_begin]:
    """Starts `dummy_actor.py NAME`; its stderr is a pipe."""
    processes: list[subprocess.Popen[str]] = []
    file = runtime_dir / "source.toml"
    file.write_text(CONFIG.format(runtime=runtime_dir))

    def start(name: str, behaviour: str = "", **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(DUMMY_ACTOR), name, "--config", str(file)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "MARKETD_TESTS_DUMMY": json.dumps({name: behaviour}), **environment},
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    """Everything it said, once it has ended."""
    return process.communicate(timeout=END_SECONDS)[1]


def events(runtime_dir: Path) -> list[str]:
    path = runtime_dir / "events"
    return path.read_text().splitlines() if path.exists() else []


BOTH = pytest.mark.parametrize("name", ["ingest", "writer"])  # a poll loop, and asyncio


@BOTH
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_actor_alone_drains_on_a_signal(
    begin: type_begin, runtime_dir: Path, name: str, number: signal.Signals
) -> None:
    process = begin(name)
    eventually(lambda: events(runtime_dir), timeout=END_SECONDS)
    process.send_signal(number)
    text = said(process)
    assert process.returncode == 0, text
    assert events(runtime_dir)[-2:] == [f"{name} drained", f"{name} ended"]
    assert f"received {number.name}" in text


@BOTH
def test_a_crash_is_a_critical_log_and_an_exit_code(begin: type_begin, runtime_dir: Path, name: str) -> None:
    process = begin(name, "crash")
    text = said(process)
    assert process.returncode == 1
    assert f"CRITICAL {name}: {name} ends: RuntimeError: this dummy was told to crash" in text
    assert "Traceback" in text
    assert events(runtime_dir) == [f"{name} started"]  # no drain, no end: the next start is the ordinary one


@BOTH
def test_an_actor_whose_supervisor_is_gone_already_does_not_begin(
    begin: type_begin, runtime_dir: Path, name: str
) -> None:
    process = begin(name, MARKETD_SUPERVISOR_PID="1")
    assert f"CRITICAL {name}: {name} ends: The supervisor that started this actor has ended" in said(process)
    assert process.returncode == 1
    assert events(runtime_dir) == []


def test_a_signal_while_an_actor_starts_ends_it(begin: type_begin, runtime_dir: Path) -> None:
    process = begin("writer", "warm")
    eventually(lambda: events(runtime_dir), timeout=END_SECONDS)
    process.send_signal(signal.SIGTERM)
    assert "writer is draining" in said(process)
    assert process.returncode == 0


@BOTH
def test_an_actor_answers_its_supervisor_and_survives_garbage(begin: type_begin, runtime_dir: Path, name: str) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.bind(paths.socket_url(runtime_dir, "control"))
        process = begin(name, MARKETD_SUPERVISOR_PID=str(os.getpid()))

        def receive() -> Pong | Done | Failure:
            assert router.poll(round(END_SECONDS * 1000)), "the actor does not answer"
            sender, header = router.recv_multipart()
            assert sender == name.encode()
            message: Pong | Done | Failure = FROM_ACTOR.decode(header)
            return message

        def ask(*frames: bytes) -> Pong | Done | Failure:
            router.send_multipart([name.encode(), *frames])
            return receive()

        unasked = [message for message in (receive(), receive()) if isinstance(message, Pong)]
        assert [pong.state for pong in unasked] == ["starting", "live"]
        assert b"marketd_dummy_starts_total 1.0" in unasked[1].metrics

        pong = ask(protocol.encode(Ping(id=5)))
        assert isinstance(pong, Pong)
        assert (pong.id, pong.state, pong.statistics["pid"]) == (5, "live", process.pid)

        for garbage in (b"", b"\xc1", b"\x81\xa4type\xa4nope", protocol.encode(Ping(v=99)), b"\xdf\xff\xff\xff\xff"):
            assert isinstance(ask(garbage), Failure)
        assert isinstance(ask(protocol.encode(Ping()), b"one more frame"), Failure)

        assert ask(protocol.encode(Reload(id=6))) == Done(id=6, detail="nothing changed")
        (runtime_dir / "source.toml").write_text("daemon_no = 9")
        refused = ask(protocol.encode(Reload(id=7)))
        assert isinstance(refused, Failure) and "daemon_no" in refused.message

        assert ask(protocol.encode(Stop(id=8, timeout_ms=5000))) == Done(id=8, detail="stopping")
        last = receive()
        assert isinstance(last, Pong) and last.state == "draining"
        text = said(process)
        assert process.returncode == 0, text
