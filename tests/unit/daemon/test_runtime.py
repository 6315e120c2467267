"""The runtime directory: ours alone, one supervisor, described in one step."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from marketd.daemon.runtime import (
    AlreadyRunning,
    RuntimeDirectory,
    is_held,
    read_description,
)
from marketd.daemon.settings import Config
from marketd.ipc.presence import read_presence
from marketd.market.errors import ConfigError


def test_one_supervisor_holds_it_and_a_second_fails_until_the_first_lets_go(tmp_path: Path) -> None:
    first, second = RuntimeDirectory(tmp_path / "run"), RuntimeDirectory(tmp_path / "run")
    first.hold()
    assert is_held(tmp_path / "run")
    with pytest.raises(AlreadyRunning, match="marketd stop"):
        second.hold()
    first.let_go()
    assert not is_held(tmp_path / "run")
    second.hold()
    second.let_go()


def test_the_directory_is_made_for_the_group_to_read(tmp_path: Path) -> None:
    path = tmp_path / "a" / "run"
    path.mkdir(parents=True, mode=0o777)
    runtime = RuntimeDirectory(path)
    runtime.hold()
    assert stat.S_IMODE(path.stat().st_mode) == 0o750
    runtime.let_go()


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 4_000_000)
    with pytest.raises(ConfigError, match="no directory of ours"):
        RuntimeDirectory(tmp_path).hold()


def test_a_link_that_somebody_laid_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="no directory of ours"):
        RuntimeDirectory(tmp_path / "run").hold()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"runtime_dir: .* cannot be made") as caught:
        RuntimeDirectory(tmp_path / "file" / "run").hold()
    assert caught.value.field == "runtime_dir"


def test_clients_find_what_they_need_and_nothing_once_it_is_forgotten(tmp_path: Path) -> None:
    runtime = RuntimeDirectory(tmp_path)
    runtime.describe(Config(daemon_no=7, default_venue="OKX"), {"state": "live"})
    presence = read_presence(tmp_path)
    assert presence is not None
    assert (presence.daemon_no, presence.default_venue, presence.timeframes[:2]) == (7, "OKX", [1, 60])
    assert read_description(tmp_path)["state"] == "live"
    assert stat.S_IMODE((tmp_path / "daemon.json").stat().st_mode) == 0o640
    runtime.forget()
    runtime.forget()
    assert read_presence(tmp_path) is None and read_description(tmp_path) == {}


def test_the_configuration_in_force_is_for_our_eyes_only(tmp_path: Path) -> None:
    source = tmp_path / "source.toml"
    source.write_text("daemon_no = 3")
    runtime = RuntimeDirectory(tmp_path)
    runtime.keep_config(source)
    assert runtime.config_copy.read_text() == "daemon_no = 3"
    assert stat.S_IMODE(runtime.config_copy.stat().st_mode) == 0o600
    runtime.keep_config(None)
    assert runtime.config_copy.read_text().startswith("#")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["marketd.toml", "source.toml"]


def test_a_broken_description_is_no_description(tmp_path: Path) -> None:
    (tmp_path / "daemon.json").write_text("{")
    assert read_description(tmp_path) == {}
    (tmp_path / "daemon.json").write_text("[]")
    assert read_description(tmp_path) == {}
