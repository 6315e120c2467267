"""What this machine can show: a bare ZeroMQ ROUTER in ingest's place, which answers and does nothing else.

    python bench/echo.py RUNTIME_DIR

It binds ingest's socket with ingest's options, decodes each message and answers with an Outcome, but no sooner than a
commit would let it: what came is gathered for `GATHER_NS`, which is a commit's pause and a flush of this disk. Nothing
is checked, kept, or shown. Prints `ready`, and runs until it is killed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq

from marketd.ipc import paths, sockets
from marketd.ipc.protocol import Declare, Declared, Decoder, Ingest, Outcome, Resume, ToIngest, encode

GATHER_NS = 1_300_000
MESSAGES_PER_TURN = 256
_NOBLOCK = int(zmq.NOBLOCK)
_NOBLOCK_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)


class Echo:
    def __init__(self, runtime_dir: Path) -> None:
        self._socket = zmq.Context.instance().socket(zmq.ROUTER)
        sockets.configure(self._socket, high_water=sockets.HIGH_WATER_MESSAGES * 10)
        sockets.bind(self._socket, paths.socket_url(runtime_dir, "ingest"))
        self._decoder = Decoder(ToIngest)
        self._gathered: list[tuple[bytes, bytes]] = []
        self._due_ns = 0

    def run(self) -> None:
        while True:
            self._socket.poll(1 if self._gathered else 100)
            for _ in range(MESSAGES_PER_TURN):
                try:
                    peer, *frames = self._socket.recv_multipart(_NOBLOCK)
                except zmq.Again:
                    break
                self._gathered.append((peer, self._answer(frames[0])))
                self._answer_due()
            self._answer_due()

    def _answer(self, header: bytes) -> bytes:
        message = self._decoder.decode(header)
        if isinstance(message, Ingest):
            return encode(Outcome(id=message.id, batch=message.batch, accepted=message.parts[0].count))
        assert isinstance(message, Declare), message
        return encode(
            Declared(id=message.id, instruments=message.instruments, resume=[Resume() for _ in message.instruments])
        )

    def _answer_due(self) -> None:
        now = time.monotonic_ns()
        if not self._gathered or now < self._due_ns:
            return
        for peer, answer in self._gathered:
            self._socket.send(peer, _NOBLOCK_MORE)
            self._socket.send(answer, _NOBLOCK)
        self._gathered.clear()
        self._due_ns = now + GATHER_NS


@contextmanager
def echo(runtime_dir: Path) -> Iterator[int]:
    """One in a process of its own; its pid."""
    process = subprocess.Popen([sys.executable, __file__, str(runtime_dir)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError("the echo did not start; its error is above")
        yield process.pid
    finally:
        process.kill()
        process.wait()


def main() -> None:
    served = Echo(Path(sys.argv[1]))
    print("ready", flush=True)
    served.run()


if __name__ == "__main__":
    main()
