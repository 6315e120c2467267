"""What a daemon's logs said at WARNING and above, and whether the runbook (docs/operations.md) names it."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from marketd.sql.state_directory import StateDirectory

RUNBOOK = Path(__file__).resolve().parents[1] / "docs" / "operations.md"
_LOUD = {"WARNING", "ERROR", "CRITICAL"}
_POSTGRES = re.compile(r"\b(WARNING|ERROR|FATAL|PANIC): +(.*)")
_NAMED = re.compile(r"`([a-z_]+)`")
_QUOTED = re.compile(r"`([a-z]+ [a-z ]+)`")  # what PostgreSQL says


class Spoken(NamedTuple):
    """How often each action was logged; `unnamed` are those that the runbook does not name."""

    named: dict[str, int]
    unnamed: dict[str, int]


def spoken(home: Path) -> Spoken:
    """Of the daemon whose log is home/log (JSON), and of its PostgreSQL."""
    known = _runbook()
    said = Counter(_of_daemon(home / "log"))
    named = {action: count for action, count in sorted(said.items()) if action in known}
    unnamed = Counter({action: count for action, count in said.items() if action not in known})
    unnamed += Counter(_of_postgres(StateDirectory(home / "state").log))
    return Spoken(named, dict(sorted(unnamed.items())))


def _runbook() -> set[str]:
    """The actions in the first column of its tables."""
    rows = [line.split("|")[1] for line in RUNBOOK.read_text().splitlines() if line.startswith("| `")]
    return {action for cell in rows for action in _NAMED.findall(cell)}


def _of_daemon(log: Path) -> list[str]:
    found = []
    for line in log.read_text(errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            found.append(f"no event: {line[:100]}")  # a traceback, a library that writes to stderr
            continue
        if event["level"] in _LOUD:
            found.append(event.get("action") or f"no action: {event['message'][:100]}")
    return found


def _of_postgres(directory: Path) -> list[str]:
    lines = [line for path in sorted(directory.glob("*.log")) for line in path.read_text(errors="replace").splitlines()]
    said = [match for line in lines if (match := _POSTGRES.search(line))]
    harmless = _QUOTED.findall(RUNBOOK.read_text())
    return [f"postgres {m[1]}: {m[2][:100]}" for m in said if not any(words in m[2] for words in harmless)]
