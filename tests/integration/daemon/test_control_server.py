"""Hostile bytes on the control socket: an answer or a closed peer, a counter, and it still serves."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.daemon import metrics
from marketd.daemon.control_server import MAX_REQUESTS, ControlServer
from marketd.ipc import paths, protocol
from marketd.ipc.protocol import Done, Failure, Message, Pong, Reload, Status, Stop
from marketd.market.errors import ConfigError

FROM_SUPERVISOR = protocol.Decoder(protocol.FromSupervisor)


class Recorder:
    """Stands in for the supervisor behind the socket."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Message]] = []
        self.held = asyncio.Event()
        self.held.set()

    def hear(self, name: str, message: Pong | Done | Failure) -> None:
        self.heard.append((name, message))

    async def serve(self, request: Status | Reload | Stop) -> Message:
        await self.held.wait()
        if isinstance(request, Reload):
            raise ConfigError("a.b: no", field="a.b")
        if isinstance(request, Stop):
            raise ZeroDivisionError("a bug")
        return Done(detail="served")


async def ask(dealer: Any, *frames: bytes) -> Done | Failure:
    await dealer.send_multipart(frames)
    reply: Done | Failure = FROM_SUPERVISOR.decode(await asyncio.wait_for(dealer.recv(), 30))
    return reply


async def converse(runtime_dir: Path, talk: Any) -> Recorder:
    """Run `talk(dealer, recorder)` against a server; the socket is gone afterwards."""
    recorder = Recorder()
    server = ControlServer(runtime_dir, recorder.hear, recorder.serve)
    with zmq.asyncio.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.IDENTITY, b"writer")
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.connect(paths.socket_url(runtime_dir, "control"))
        await talk(dealer, recorder)
    await server.close()
    return recorder


async def test_requests_get_their_replies_and_errors_their_names(runtime_dir: Path) -> None:
    async def talk(dealer: Any, _recorder: Recorder) -> None:
        assert await ask(dealer, protocol.encode(Status(id=1))) == Done(id=1, detail="served")
        refused = await ask(dealer, protocol.encode(Reload(id=2)))
        assert refused == Failure(id=2, code="config_error", message="a.b: no", field="a.b")
        assert await ask(dealer, protocol.encode(Stop(id=3))) == Failure(
            id=3, code="error", message="ZeroDivisionError: a bug"
        )

    await converse(runtime_dir, talk)


async def test_an_actors_words_are_heard_under_its_name(runtime_dir: Path) -> None:
    async def talk(dealer: Any, _recorder: Recorder) -> None:
        await dealer.send(protocol.encode(Pong(actor="liar", state="live")))
        await ask(dealer, protocol.encode(Status()))

    recorder = await converse(runtime_dir, talk)
    assert [name for name, _ in recorder.heard] == ["writer"]


async def test_more_requests_than_are_served_at_once_are_told_so(runtime_dir: Path) -> None:
    async def talk(dealer: Any, recorder: Recorder) -> None:
        recorder.held.clear()
        for number in range(MAX_REQUESTS):
            await dealer.send(protocol.encode(Status(id=number)))
        busy = await ask(dealer, protocol.encode(Status(id=99)))
        assert isinstance(busy, Failure) and (busy.id, busy.code) == (99, "busy")
        recorder.held.set()
        for _ in range(MAX_REQUESTS):
            await dealer.recv()

    await converse(runtime_dir, talk)


async def test_raw_bytes_that_are_no_zeromq_close_the_peer_alone(runtime_dir: Path) -> None:
    async def talk(dealer: Any, _recorder: Recorder) -> None:
        greeting = b"\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL" + b"\0" * 48  # a right one, and then a wrong handshake
        for junk in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, greeting + b"\xff" * 99):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(str(runtime_dir / "control.sock"))
                peer.sendall(junk)
                peer.shutdown(socket.SHUT_WR)
                peer.settimeout(30)
                await asyncio.to_thread(peer.recv, 1000)
            assert isinstance(await ask(dealer, protocol.encode(Status())), Done)

    await converse(runtime_dir, talk)


async def test_a_message_beyond_the_limit_costs_its_sender_the_connection(runtime_dir: Path) -> None:
    async def talk(dealer: Any, _recorder: Recorder) -> None:
        await dealer.send(b"x" * (protocol.MAX_HEADER_BYTES + 1))
        assert isinstance(await ask(dealer, protocol.encode(Status())), Done)  # on a new one

    await converse(runtime_dir, talk)


@given(messages=st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=3), min_size=1, max_size=20))
@settings(max_examples=20)
def test_whatever_arrives_is_answered_and_counted(messages: list[list[bytes]]) -> None:
    async def talk(dealer: Any, _recorder: Recorder) -> None:
        before = metrics.REGISTRY.get_sample_value("marketd_control_refused_total") or 0.0
        for frames in messages:
            assert isinstance(await ask(dealer, *frames), Failure)
        assert metrics.REGISTRY.get_sample_value("marketd_control_refused_total") == before + len(messages)
        assert isinstance(await ask(dealer, protocol.encode(Status())), Done)

    with tempfile.TemporaryDirectory(prefix="marketd-") as directory:
        asyncio.run(converse(Path(directory), talk))
