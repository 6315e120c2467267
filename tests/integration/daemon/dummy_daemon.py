"""A real supervisor over dummy actors: `dummy_daemon.py FILE [--postgres]`; its exit code is the supervisor's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from marketd.daemon.config import load
from marketd.daemon.supervisor import run_supervisor

DUMMY_ACTOR = Path(__file__).with_name("dummy_actor.py")


def command(name: str, config_file: Path, overrides: Sequence[str]) -> list[str]:
    sets = [part for override in overrides for part in ("--set", override)]
    return [sys.executable, str(DUMMY_ACTOR), name, "--config", str(config_file), *sets]


class DummyPostgres:
    """A process that can be killed in PostgreSQL's place."""

    def __init__(self, events: Path) -> None:
        self._events = events
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> str:
        self._process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)  # ends when we do
        self._note(f"started {self._process.pid}")
        return "postgresql://dummy"

    async def stop(self, *, timeout_seconds: float = 60.0) -> None:
        if self._process is not None:
            self._process.communicate()
            self._note("stopped")

    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _note(self, event: str) -> None:
        with self._events.open("a") as file:
            file.write(f"postgres {event}\n")


def main(file: Path, *options: str) -> int:
    config = load(file)
    events = config.runtime_path / "events"

    async def prepare(dsn: str) -> None:
        with events.open("a") as stream:
            stream.write(f"schema applied to {dsn}\n")

    postgres = DummyPostgres(events) if "--postgres" in options else None
    return run_supervisor(config, file, postgres=postgres, prepare=prepare, command=command)


if __name__ == "__main__":
    code = main(Path(sys.argv[1]), *sys.argv[2:])
    sys.stderr.flush()
    os._exit(code)
