"""What the arena is measured against, with the same bytes: Redis over a Unix socket, and a ZeroMQ round trip."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import zmq
from daemon_under_test import wait_for

_ECHO = """
import sys, zmq
socket = zmq.Context().socket(zmq.REP)
socket.bind(sys.argv[1])
answers = [bytes(int(size)) for size in sys.argv[2:]]
while True:
    socket.send(answers[int(socket.recv())])
"""
Read = Callable[[], object]


@contextmanager
def rivals(values: dict[str, bytes]) -> Iterator[dict[str, dict[str, Read]]]:
    """For each rival and each named value, a function without arguments that fetches it once."""
    with tempfile.TemporaryDirectory(prefix="rivals-", dir="/dev/shm") as directory, ExitStack() as stack:
        place = Path(directory)
        found: dict[str, dict[str, Read]] = {}
        if shutil.which("redis-server"):
            path = stack.enter_context(_redis_server(place))
            found |= _redis_client(path, values)
            found["Redis, bare socket"] = _redis_bare(path, values)
        found["ZeroMQ REQ/REP"] = stack.enter_context(_zeromq(place, values))
        yield found


@contextmanager
def _redis_server(place: Path) -> Iterator[Path]:
    path = place / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=place)
    try:
        wait_for(path.exists, 10.0, "redis-server")
        yield path
    finally:
        process.terminate()
        process.wait(timeout=10)


def _redis_client(path: Path, values: dict[str, bytes]) -> dict[str, dict[str, Read]]:
    """With Python's `redis` client, as people use it; empty when it is not installed."""
    try:
        import redis
    except ImportError:
        return {}
    client = redis.Redis(unix_socket_path=str(path))
    return {
        "Redis, Python client": {
            name: _redis_get(client.get, f"client {name}", client.set, value) for name, value in values.items()
        }
    }


def _redis_get(get: Callable[[str], object], key: str, put: Callable[[str, bytes], object], value: bytes) -> Read:
    put(key, value)
    return lambda: get(key)


def _redis_bare(path: Path, values: dict[str, bytes]) -> dict[str, Read]:
    """Two system calls a read and no client library at all: the most that Redis can give to Python."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    return {name: _bare_get(connection, name, value) for name, value in values.items()}


def _bare_get(connection: socket.socket, key: str, value: bytes) -> Read:
    name = key.encode()
    put = b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(name), name, len(value), value)
    connection.sendall(put)
    if connection.recv(16) != b"+OK\r\n":
        raise RuntimeError("Redis did not take a value")
    ask = b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(name), name)
    size = len(b"$%d\r\n" % len(value)) + len(value) + 2
    buffer = memoryview(bytearray(size))

    def read() -> bytes:
        connection.sendall(ask)
        at = 0
        while at < size:
            at += connection.recv_into(buffer[at:])
        return bytes(buffer)

    return read


@contextmanager
def _zeromq(place: Path, values: dict[str, bytes]) -> Iterator[dict[str, Read]]:
    url = f"ipc://{place / 'echo.sock'}"
    sizes = [str(len(value)) for value in values.values()]
    process = subprocess.Popen([sys.executable, "-c", _ECHO, url, *sizes])
    context = zmq.Context()
    asker = context.socket(zmq.REQ)
    asker.connect(url)

    def reader(number: int) -> Read:
        question = str(number).encode()

        def read() -> bytes:
            asker.send(question)
            return asker.recv()

        return read

    try:
        yield {name: reader(number) for number, name in enumerate(values)}
    finally:
        asker.close(linger=0)
        context.term()
        process.kill()
        process.wait()
