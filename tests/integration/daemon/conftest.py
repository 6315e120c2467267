"""The fixture that starts daemons of dummy actors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import Daemon, type_start


@pytest.fixture
def start(runtime_dir: Path) -> Iterator[type_start]:
    """Starts daemons in the test's runtime directory; whatever still runs afterwards is killed."""
    daemons: list[Daemon] = []

    def begin(behaviours: dict[str, str] | None = None, *options: str, text: str = "", **environment: str) -> Daemon:
        daemon = Daemon(runtime_dir, behaviours or {}, *options, text=text, **environment)
        daemons.append(daemon)
        return daemon

    yield begin
    for daemon in daemons:
        if daemon.process.poll() is None:
            daemon.process.kill()
        daemon.process.wait()
