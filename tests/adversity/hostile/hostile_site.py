"""A whole daemon (supervisor, ingest, writer, query, embedded PostgreSQL), and ways to speak to it."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import zmq

from marketd.ipc import paths, protocol
from marketd.ops.databases import running_embedded_dsn

CONFIG = """
instance = "hostile"
state_dir = "{state}"
runtime_dir = "{runtime}"
timeframes = ["1s", "1m", "1h"]
[cache]
trades_per_second = 1
[streams.hostile.fields]
tsunami = "f8"
level = "price"
much = "size"
number = "i8"
[journal]
segment = "8MiB"
front = "8MiB"
budget = "256MiB"
[http]
listen = "127.0.0.1:{port}"
"""
START_SECONDS = 60.0
ANSWER_MS = 20_000
STARTING_MS = 500


class Site:
    """The running daemon, and ways to speak to it."""

    def __init__(self, directory: Path, runtime: Path, port: int, process: subprocess.Popen[bytes]) -> None:
        self.directory = directory
        self.runtime = runtime
        self.port = port
        self.process = process
        self.context = zmq.Context()
        self.producer = os.urandom(16)
        self.batch = 0
        self.journal_told = b""

    def dealer(self, name: str) -> zmq.Socket[bytes]:
        dealer: zmq.Socket[bytes] = self.context.socket(zmq.DEALER)
        dealer.set(zmq.LINGER, 0)
        dealer.connect(paths.socket_url(self.runtime, name))
        return dealer

    def ask(self, dealer: zmq.Socket[bytes], *frames: Any, patience_ms: int = ANSWER_MS) -> dict[str, Any]:
        """The reply's header as a dict (of whatever message)."""
        dealer.send_multipart(frames)
        assert dealer.poll(patience_ms), "no answer"
        return dict(msgspec.msgpack.decode(dealer.recv_multipart()[0]))

    def say(self, name: str, *frames: Any, patience_ms: int = ANSWER_MS) -> dict[str, Any]:
        with self.dealer(name) as dealer:
            return self.ask(dealer, *frames, patience_ms=patience_ms)

    def status(self, patience_ms: int = ANSWER_MS) -> dict[str, Any]:
        return self.say("control", protocol.encode(protocol.Status(id=1)), patience_ms=patience_ms)

    def pids(self) -> dict[str, int]:
        return {actor["name"]: actor["pid"] for actor in self.status()["actors"]}

    def statistics(self, actor: str) -> dict[str, Any]:
        return next(dict(a["statistics"]) for a in self.status()["actors"] if a["name"] == actor)

    def declare(self, *instruments: Any) -> dict[str, Any]:
        return self.say("ingest", packed_declare(*instruments))

    def send(self, instrument: Any, *parts: tuple[str, Any], **fields: Any) -> dict[str, Any]:
        """A batch of the site's own producer."""
        self.batch += 1
        header = {
            "type": "ingest",
            "id": self.batch,
            "instrument": instrument,
            "producer": self.producer,
            "batch": self.batch,
            "parts": [[kind, len(records)] for kind, records in parts],
            **fields,
        }
        return self.say("ingest", msgspec.msgpack.encode(header), *(records.tobytes() for _, records in parts))

    def all_is_committed(self) -> bool:
        """Whether the database has what is durable now; what actors tell their supervisor is a second old."""
        told = self.say("ingest", protocol.encode(protocol.Follow(id=1, committed=0)))
        row = self.fetch("SELECT max(committed_offset) FROM journal_commits")
        return bool(row[0][0] is not None and row[0][0] >= told["offset"])

    def fetch(self, statement: str, *args: Any) -> list[Any]:
        dsn = running_embedded_dsn(self.directory / "state")
        assert dsn is not None

        async def run() -> list[Any]:
            connection = await asyncpg.connect(dsn)
            try:
                await connection.execute("SET search_path TO marketd")
                return list(await connection.fetch(statement, *args))
            finally:
                await connection.close()

        return asyncio.run(run())


def packed_declare(*instruments: Any) -> bytes:
    return msgspec.msgpack.encode({"type": "declare", "id": 7, "instruments": list(instruments)})
