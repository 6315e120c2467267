"""The systemd units say what the daemon relies on, and the template differs from the plain one only by its name."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from marketd.daemon.settings import Config
from marketd.daemon.supervisor import EXIT_CONFIG
from marketd.ops.cli import EXIT_USAGE
from support import REPOSITORY

UNITS = REPOSITORY / "systemd"


def settings(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def test_the_template_is_the_plain_unit_with_an_instance() -> None:
    plain, template = settings("marketd.service"), settings("marketd@.service")

    def as_template(value: str) -> str:
        value = re.sub(r"\bmarketd\.toml\b", "%i.toml", value).replace("marketd/default", "marketd/%i")
        value = value.replace("/etc/marketd/environment", "/etc/marketd/%i.environment")
        return value.replace("MARKETD_INSTANCE=default", "MARKETD_INSTANCE=%i").replace("this host", "this host (%i)")

    assert {key: [as_template(value) for value in values] for key, values in plain.items()} == template


def test_the_unit_keeps_what_must_outlive_the_daemon() -> None:
    unit = settings("marketd.service")
    assert unit["RuntimeDirectoryPreserve"] == ["yes"]
    assert unit["Environment"] == [
        "MARKETD_INSTANCE=default",
        f"MARKETD_STATE_DIR=/var/lib/{unit['StateDirectory'][0]}",
        f"MARKETD_RUNTIME_DIR=/run/{unit['RuntimeDirectory'][0]}",
    ]


def test_systemd_waits_for_longer_than_the_daemon_drains() -> None:
    unit = settings("marketd.service")
    assert unit["TimeoutStopSec"] == ["2min"]
    assert Config().supervisor.drain_timeout.seconds + 60 < 120
    assert unit["KillMode"] == ["mixed"]  # the supervisor drains; a SIGTERM to every actor would end the order
    assert unit["Type"] == ["notify"]


def test_an_unusable_configuration_is_not_tried_again() -> None:
    # the command line's own refusal, before there is a supervisor, and the supervisor's
    assert settings("marketd.service")["RestartPreventExitStatus"] == [f"{EXIT_USAGE} {EXIT_CONFIG}"]


@pytest.mark.parametrize("name", ["marketd.service", "marketd@.service"])
def test_systemd_understands_the_unit(name: str, tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not on this machine")
    unit = tmp_path / name.replace("@", "@x")
    unit.write_text((UNITS / name).read_text().replace("/opt/marketd/bin/marketd", "/bin/true"))
    done = subprocess.run([verify, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
