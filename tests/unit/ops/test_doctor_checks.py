"""The doctor's checks of a machine, on machines that are made up."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from marketd.daemon.quantities import Bytes
from marketd.daemon.settings import Cache, Config, Http, Journal, Venue
from marketd.market import compiled
from marketd.ops import checks, daemon_checks
from marketd.ops.cli import EXIT_NOT_WELL, main
from marketd.sql.errors import NoInstallation
from marketd.sql.installations import Installation


class Disk(NamedTuple):
    total: int
    used: int
    free: int


def test_an_old_python_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.python().level in ("ok", "warn")
    monkeypatch.setattr(sys, "version_info", (3, 10, 1))
    assert checks.python().level == "fail"


def test_another_processor_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    found = checks.processor()
    assert (found.level, "x86-64" in found.way_out) == ("fail", True)


def test_missing_and_old_packages_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=2.0", "msgspec>=99", 'asyncpg>=0.30; extra == "daemon"', 'rich>=13; extra == "cli"']
    versions = {"numpy": "2.1.0", "msgspec": "0.19.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "requires", lambda _: wanted)
    monkeypatch.setattr(importlib.metadata, "version", version)
    found = {finding.name: finding for finding in checks.packages()}
    assert found["packages"].text == "numpy 2.1.0"
    assert (found["msgspec"].level, found["asyncpg"].level, found["rich"].level) == ("fail", "fail", "ok")
    assert "marketd[daemon]" in found["asyncpg"].way_out


def test_a_clock_that_was_never_set_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "kernel_says_unsynchronised", lambda: True)
    assert checks.clock().level == "warn"
    monkeypatch.setattr(time, "time", lambda: 86_400.0)
    assert checks.clock().level == "fail"


@pytest.mark.parametrize(("soft", "level"), [(256, "fail"), (1024, "warn"), (65_536, "ok")])
def test_few_open_files_are_a_warning_and_very_few_a_failure(
    soft: int, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, 1 << 20))
    assert checks.open_files().level == level


def test_shared_memory_that_is_too_small_names_the_settings(runtime_dir: Path) -> None:
    huge = Config(runtime_dir=str(runtime_dir), cache=Cache(trades_per_second=10**12))
    (found,) = checks.shared_memory(huge)
    assert (found.level, "cache.window" in found.way_out) == ("fail", True)
    (found,) = checks.shared_memory(Config(runtime_dir=str(runtime_dir), journal=Journal(front=Bytes(1 << 20))))
    assert found.level == "ok"


def test_more_symbols_need_more_memory() -> None:
    one, two = (
        checks.memory_needed(Config(venues={"BINANCE": Venue(symbols=symbols)}))
        for symbols in (("BTC/USDT",), ("BTC/USDT", "ETH/USDT"))
    )
    assert one < two


@pytest.mark.parametrize(("free", "level"), [(1 << 20, "fail"), (1 << 30, "warn"), (1 << 40, "ok")])
def test_a_disk_is_measured_by_the_journals_budget(
    free: int, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(1 << 41, 0, free))
    monkeypatch.setattr(checks, "filesystem_of", lambda _: "ext4")
    assert checks.state_directory(Config(state_dir=str(tmp_path / "new" / "state"))).level == level


def test_the_file_system_of_a_path_is_known() -> None:
    assert checks.filesystem_of(Path("/dev/shm")) == "tmpfs"
    assert checks.filesystem_of(Path("/proc/self")) == "proc"


def test_a_taken_address_fails() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = Config(http=Http(listen=f"127.0.0.1:{taken.getsockname()[1]}"))
        assert daemon_checks.http_address(config, running=False).level == "fail"
        assert daemon_checks.http_address(config, running=True).level == "ok"
    assert daemon_checks.http_address(Config(http=Http(listen="")), running=False).text == "switched off"


def test_paths_of_sockets_may_be_too_long(tmp_path: Path) -> None:
    assert daemon_checks.sockets(Config(runtime_dir=f"/run/{'x' * 200}")).level == "fail"
    assert daemon_checks.sockets(Config(runtime_dir="/run/marketd")).level == "ok"


def test_postgresql_without_timescaledb_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(state_dir=str(tmp_path))
    plain = Installation("16.4", Path("/usr/lib/postgresql/16/bin"), False)
    timescale = Installation("18.1", Path("/opt/pg/bin"), True, "2.24.0")
    for found, level in (([plain], "warn"), ([timescale, plain], "ok"), ([], "fail")):
        monkeypatch.setattr(daemon_checks, "find_installations", lambda found=found: found)
        assert [finding.level for finding in daemon_checks.embedded_postgres(config)] == [level]


def test_a_named_postgresql_that_is_none_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> list[Installation]:
        raise NoInstallation

    monkeypatch.setattr(daemon_checks, "find_installations", nothing)
    (found,) = daemon_checks.embedded_postgres(Config(state_dir=str(tmp_path)))
    assert found.level == "fail"


def test_a_database_that_does_not_answer_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = [
        f"state_dir={tmp_path}",
        f"runtime_dir={tmp_path}",
        "http.listen=",
        "database.url=postgresql://u@127.0.0.1:1/db",
    ]
    assert main(["doctor", "--json", *(part for each in where for part in ("--set", each))]) == EXIT_NOT_WELL
    findings = {each["name"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
    assert findings["database"]["level"] == "fail"
    assert findings["daemon"]["level"] == "ok"


def test_a_configuration_that_cannot_be_used_does_not_end_the_visit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--set", "journal.budgget=1"]) == EXIT_NOT_WELL
    shown = capsys.readouterr().out
    assert "fail  config" in shown
    assert "python" in shown


def test_a_part_that_was_not_built_is_told_with_the_way_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(compiled.PURE_PYTHON, raising=False)
    monkeypatch.setattr(compiled, "part", None)
    monkeypatch.setattr(compiled, "STANDING", "not built (no such module)")
    finding = checks.compiled_part()
    assert (finding.level, "not built" in finding.text, "python3-dev" in finding.way_out) == ("warn", True, True)
    monkeypatch.setenv(compiled.PURE_PYTHON, "1")
    assert checks.compiled_part().level == "ok"


@pytest.mark.parametrize("value", ["", "0", "1"])
def test_who_wants_python_alone_has_it(value: str) -> None:
    environment = {**os.environ, compiled.PURE_PYTHON: value, "PYTHONPATH": os.pathsep.join(sys.path)}
    code = "from marketd.market import book, compiled; print(book.OrderBook.__module__, compiled.STANDING)"
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    if value == "1":
        assert told.stdout.startswith("marketd.market.plain_book not used")
    elif compiled.part is not None:
        assert told.stdout.startswith("marketd.market._compiled in use")
