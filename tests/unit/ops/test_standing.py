"""The page of `marketd status`, from reports as a supervisor sends them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from marketd.daemon import operator
from marketd.ipc.protocol import ActorReport, StatusReport
from marketd.market.errors import NotRunning
from marketd.ops import standing
from marketd.ops.cli import EXIT_NOT_WELL, main
from marketd.ops.standing import InstrumentLine, Standing

NOW = 1_723_161_240_000_000_000
INGEST: dict[str, dict[str, Any]] = {
    "ingest": {"records": 1200, "refused": 3, "unacknowledged": 0},
    "journal": {"end": 5000, "durable": 4096, "disk_bytes": 128 << 20, "budget_bytes": "16GiB", "blocked": None},
    "arena": {"arena_bytes": 24 << 20},
}
INGEST["journal"]["front_bytes"] = "64MiB"
WRITER = {"writer": {"committed_offset": 3072, "rows": 1234}, "database": {"state": "up", "size": 1, "reconnects": 0}}


def report(**changes: Any) -> StatusReport:
    actors = [
        ActorReport(
            name="ingest",
            state="live",
            pid=11,
            uptime_seconds=75,
            heard_seconds=0.2,
            memory_bytes=60 << 20,
            statistics=INGEST,
        ),
        ActorReport(name="writer", state="live", pid=12, restarts=2, memory_bytes=40 << 20, statistics=WRITER),
    ]
    values: dict[str, Any] = {
        "instance": "default",
        "daemon_no": 1,
        "version": "0.1.0",
        "pid": 10,
        "state": "live",
        "health": "ok",
        "started_ns": NOW - 60_000_000_000,
        "runtime_dir": "/run/marketd",
        "state_dir": "/var/lib/marketd",
        "http": "http://127.0.0.1:9464",
        "actors": actors,
    }
    return StatusReport(**{**values, **changes})


def text(found: StatusReport, instruments: list[InstrumentLine] | None = None) -> str:
    return standing.page(Standing(found, instruments or [], NOW)).text()


def test_the_page_tells_what_runs_and_how_far_it_is() -> None:
    line = InstrumentLine("BTCUSDT.BINANCE", "LIVE", 61000.5, NOW - 50_000_000, 1200, 0, "live", 61000.4, 61000.5)
    shown = text(report(), [line])
    assert "up 1 min 0 s, process 10" in shown
    assert "ingest  live    11  1 min 15 s         0" in shown
    assert "durable 4,096, committed 3,072, lag 1.0 KiB; 128 MiB on disk of 16.0 GiB" in shown
    assert "1,200 accepted, 3 refused" in shown
    assert "1,234 rows since the writer's start" in shown
    assert re.search(r"^ingest .* 60\.0 MiB$", shown, re.MULTILINE)
    assert "100 MiB in the actors' processes; shared: 24.0 MiB for readers, 64.0 MiB before the disk" in shown
    event = "2024-08-08T23:53:59.950000Z"
    assert f"BTCUSDT.BINANCE  LIVE      61000.5  live  61000.4  61000.5  {event}  50.0 ms    1,200" in shown


def test_an_instrument_without_a_live_book_shows_its_state_and_no_prices() -> None:
    lines = [
        InstrumentLine("BTCUSDT.BINANCE", "LIVE", 61000.5, NOW, 1200, 0, "stale"),
        InstrumentLine("GOLD.DESK", "LIVE", None, NOW, 3, 0),
    ]
    shown = text(report(), lines)
    assert re.search(r"BTCUSDT\.BINANCE +LIVE +61000\.5 +stale +- +- ", shown)
    assert re.search(r"GOLD\.DESK +LIVE +- +- +- +- ", shown)


def test_problems_stand_at_the_top() -> None:
    shown = text(report(health="degraded", problems=["writer is down"]))
    assert shown.splitlines()[1].strip() == "! writer is down"


def test_actors_that_have_said_nothing_yet_are_no_trouble() -> None:
    shown = text(report(actors=[ActorReport(name="ingest", state="starting")], http=None))
    assert "durable -, committed -, lag -" in shown
    assert "the writer has not said yet" in shown


def test_json_has_offsets_and_instruments() -> None:
    plain = json.loads(json.dumps(Standing(report(), [], NOW).plain()))
    assert plain["journal"] == {
        "end": 5000,
        "durable": 4096,
        "committed": 3072,
        "lag_bytes": 1024,
        "disk_bytes": 128 << 20,
        "budget_bytes": 16 << 30,
        "front_bytes": 64 << 20,
        "blocked": None,
    }
    assert plain["uptime_seconds"] == 60
    assert {"type", "v", "id"}.isdisjoint(plain)


@pytest.mark.parametrize(("health", "code"), [("ok", 0), ("degraded", EXIT_NOT_WELL), ("failed", EXIT_NOT_WELL)])
def test_the_exit_code_tells_the_health(
    health: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(operator, "status", lambda *_: report(health=health))
    assert main(["status"]) == code
    assert main(["status", "--json"]) == code
    assert health in capsys.readouterr().out


def test_a_directory_without_a_daemon_has_no_instruments(tmp_path: Path) -> None:
    assert standing.read_instruments(tmp_path) == []
    with pytest.raises(NotRunning):
        standing.gather(tmp_path, 1.0)
