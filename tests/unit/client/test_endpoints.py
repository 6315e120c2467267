"""Finding the daemon: URLs, the environment, daemon.json."""

import os
from pathlib import Path
from typing import Any

import pytest

from marketd.client.endpoints import locate, require_running
from marketd.ipc.presence import (
    Presence,
    presence_path,
    process_is_alive,
    read_presence,
    remove_presence,
    write_presence,
)
from marketd.market.errors import ConfigError, InvalidArgument, NotRunning, ProtocolError

NOBODY = 2**22 + 1  # above the kernel's greatest pid


def test_a_directory_and_its_url_are_the_same_place(tmp_path: Path) -> None:
    assert locate(tmp_path) == locate(str(tmp_path)) == locate(f"ipc://{tmp_path}")
    assert locate(tmp_path).query == f"ipc://{tmp_path}/query.sock"


def test_the_environment_is_asked_when_there_is_no_argument(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("MARKETD_URL", f"ipc://{tmp_path}")
    assert locate().directory == tmp_path
    assert locate("/elsewhere").directory == Path("/elsewhere")
    monkeypatch.delenv("MARKETD_URL")
    assert locate().directory == Path("/dev/shm/marketd-default")


def test_a_daemon_elsewhere_has_three_ports_and_no_directory() -> None:
    found = locate("tcp://[::1]:5555")
    assert found == ("tcp://[::1]:5555", "tcp://[::1]:5556", "tcp://[::1]:5557", None)


@pytest.mark.parametrize("url", ["http://host:1", "tcp://host", "tcp://host:0", "tcp://host:99999", "tcp://:5"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument, match="url"):
        locate(url)


def test_a_directory_that_no_socket_fits_in_is_refused() -> None:
    with pytest.raises(ConfigError, match="runtime_dir"):
        locate("/" + "x" * 120)


def test_without_daemon_json_nobody_runs_and_the_way_out_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match="marketd run"):
        require_running(locate(tmp_path), "query")


def test_a_daemon_whose_process_is_gone_does_not_run(tmp_path: Path) -> None:
    write_presence(tmp_path, Presence(instance="x", pid=NOBODY, version="0"))
    with pytest.raises(NotRunning, match="is gone"):
        require_running(locate(tmp_path), "query")


def test_an_actor_that_is_being_replaced_is_waited_for(tmp_path: Path) -> None:
    write_presence(tmp_path, Presence(instance="x", pid=os.getpid(), version="0"))
    require_running(locate(tmp_path), "query")


def test_presence_is_replaced_in_one_step_and_removed(tmp_path: Path) -> None:
    for version in ("1", "2"):
        write_presence(tmp_path, Presence(instance="x", pid=1, version=version, aliases={"a": "b"}))
    found = read_presence(tmp_path)
    assert found is not None and (found.version, found.aliases) == ("2", {"a": "b"})
    assert os.listdir(tmp_path) == ["daemon.json"]
    assert presence_path(tmp_path).stat().st_mode & 0o777 == 0o640
    remove_presence(tmp_path)
    remove_presence(tmp_path)
    assert read_presence(tmp_path) is None


def test_a_newer_daemon_may_say_more_and_nonsense_is_an_error(tmp_path: Path) -> None:
    presence_path(tmp_path).write_text('{"instance": "x", "pid": 1, "version": "9", "mood": "good"}')
    assert read_presence(tmp_path) is not None
    presence_path(tmp_path).write_text('{"instance": 1')
    with pytest.raises(ProtocolError, match=r"daemon\.json"):
        read_presence(tmp_path)


def test_processes_are_told_alive_from_gone() -> None:
    assert process_is_alive(os.getpid()) and process_is_alive(1)
    assert not process_is_alive(NOBODY)
