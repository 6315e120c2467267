"""Daemons of dummy actors: real processes, with a supervisor as fast as it can be told to be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from marketd.daemon import operator
from marketd.daemon.runtime import read_description
from marketd.ipc.protocol import ActorReport, StatusReport
from support import eventually

DUMMY_DAEMON = Path(__file__).with_name("dummy_daemon.py")
CONFIG = """
runtime_dir = "{runtime}"
state_dir = "{runtime}/state"
[http]
listen = "127.0.0.1:0"
[supervisor]
ping_interval = "50ms"
ping_timeout = "3s"
restart_backoff = "10ms"
restart_backoff_max = "100ms"
drain_timeout = "20s"
"""
VENUE = """
[venues.BINANCE]
symbols = ["BTC/USDT"]
"""
START_SECONDS = 60.0


class Daemon:
    """One supervisor process and what can be seen of it from outside."""

    def __init__(self, runtime: Path, behaviours: dict[str, str], *options: str, text: str, **environment: str) -> None:
        self.runtime = runtime
        self.file = runtime / "source.toml"
        self.file.write_text(CONFIG.format(runtime=runtime) + text)
        self.log = runtime / "log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(DUMMY_DAEMON), str(self.file), *options],
                stderr=log,
                env={**os.environ, "MARKETD_TESTS_DUMMY": json.dumps(behaviours), **environment},
            )

    @property
    def description(self) -> dict[str, Any]:
        return read_description(self.runtime)

    @property
    def events(self) -> list[str]:
        path = self.runtime / "events"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def said(self) -> str:
        return self.log.read_text()

    def status(self) -> StatusReport:
        return operator.status(self.runtime)

    def actor(self, name: str) -> ActorReport:
        return next(actor for actor in self.status().actors if actor.name == name)

    def until_live(self) -> Daemon:
        def live() -> bool:
            assert self.process.poll() is None, self.said
            return self.description.get("pid") == self.process.pid and self.description["state"] == "live"

        eventually(live, timeout=START_SECONDS)
        return self

    def until_replaced(self, name: str, pid: int) -> ActorReport:
        """The next process of the actor, once it is live."""

        def replaced() -> ActorReport | None:
            actor = self.actor(name)
            return actor if actor.pid not in (None, pid) and actor.state == "live" else None

        found = eventually(replaced, timeout=START_SECONDS)
        assert found is not None
        return found

    def ends(self) -> int:
        return self.process.wait(timeout=START_SECONDS)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.ends()


type_start = Callable[..., Daemon]


def is_gone(pid: int) -> bool:
    """No such process, or one that only waits to be reaped."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"
