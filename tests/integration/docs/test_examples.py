"""The manual's examples that are marked as running run, each page as one program, against a real daemon on a synthetic
market.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from marketd.client.provider import UnifiedDataProvider
from support import REPOSITORY, eventually

MARKED = re.compile(r"^<!-- runs[^>]*-->\n```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = [path for path in sorted((REPOSITORY / "docs").glob("*.md")) if MARKED.search(path.read_text())]
MARKETD = [sys.executable, "-m", "marketd.ops"]
START_SECONDS, PAGE_SECONDS, END_SECONDS = 60.0, 90.0, 60.0
CONFIG = """
instance = "docs"
state_dir = "{state}"
runtime_dir = "{runtime}"
[http]
listen = ""
[venues.BINANCE]
symbols = ["BTCUSDT", "ETHUSDT"]
ws_url = "{ws_url}"
rest_url = "{rest_url}"
[streams.funding]
fields = {{ rate = "f8", mark = "price" }}
"""


class Daemon(NamedTuple):
    runtime_dir: Path
    state_dir: Path


@contextmanager
def process(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of marketd, asked to end in the end; its output goes to `log`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MARKETD_")}
    with log.open("wb") as output:
        child = subprocess.Popen([*MARKETD, *arguments], stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@pytest.fixture(scope="module")
def daemon(reachable_dir: Path) -> Iterator[Daemon]:
    """A daemon with its embedded PostgreSQL, that has seen some seconds of a market."""
    state = reachable_dir / "docs"
    runtime = Path(f"/dev/shm/marketd-test-{os.getpid()}-docs")
    log = reachable_dir / "docs-emulator.log"
    with process(["emulate", "--synthetic", "--symbols", "BTCUSDT,ETHUSDT", "--rate", "20", "--json"], log):
        told = json.loads(eventually(lambda: log.read_text().partition("\n")[0]))
        config = reachable_dir / "docs.toml"
        config.write_text(CONFIG.format(state=state, runtime=runtime, ws_url=told["ws_url"], rest_url=told["rest_url"]))
        daemon_log = reachable_dir / "docs-daemon.log"
        with process(["run", "--config", str(config)], daemon_log):
            try:
                with UnifiedDataProvider(runtime) as md:
                    eventually(lambda: has_bars(md), timeout=START_SECONDS)
            except AssertionError as error:
                raise AssertionError(daemon_log.read_text()[-4000:]) from error
            yield Daemon(runtime, state)
    shutil.rmtree(runtime)
    shutil.rmtree(state)


def has_bars(md: UnifiedDataProvider) -> bool:
    """Whether closed bars of a few seconds are there; a daemon that starts answers with errors."""
    try:
        return len(md.get_latest_ohlcv("BTC/USDT", "1s", limit=5)) == 5
    except Exception as error:  # NotRunning, Warming, UnknownInstrument: whatever a start goes through
        raise AssertionError(str(error)) from error


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_examples_of_a_page_run(path: Path, daemon: Daemon, tmp_path: Path) -> None:
    text = path.read_text()
    names = f"RUNTIME_DIR = {str(daemon.runtime_dir)!r}; STATE_DIR = {str(daemon.state_dir)!r}"
    program = tmp_path / f"{path.stem}.py"
    program.write_text("\n".join([names, *MARKED.findall(text)]))
    environment = {**os.environ, "MARKETD_URL": str(daemon.runtime_dir)}
    done = subprocess.run(
        [sys.executable, program], env=environment, capture_output=True, text=True, timeout=PAGE_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
