"""sd_notify against a socket that stands in for systemd."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from marketd.daemon.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """The manager's socket, and its address as NOTIFY_SOCKET has it."""
    name = f"marketd-notify-{os.getpid()}"
    address = str(tmp_path / "notify") if request.param == "path" else f"@{name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address if request.param == "path" else f"\0{name}")
        manager.settimeout(10)
        yield manager, address


def test_every_message_reaches_the_manager(systemd: tuple[socket.socket, str]) -> None:
    manager, address = systemd
    notifier = Notifier({"NOTIFY_SOCKET": address})
    assert notifier.ready("live: 4\nactors")
    assert manager.recv(1000) == b"READY=1\nSTATUS=live: 4 actors"
    assert notifier.status("x") and manager.recv(1000) == b"STATUS=x"
    assert notifier.reloading()
    assert manager.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    assert notifier.watchdog() and manager.recv(1000) == b"WATCHDOG=1"
    assert notifier.stopping("draining") and manager.recv(1000) == b"STOPPING=1\nSTATUS=draining"
    notifier.close()
    notifier.close()


def test_a_full_queue_is_told_and_never_waited_for(systemd: tuple[socket.socket, str]) -> None:
    _, address = systemd
    notifier = Notifier({"NOTIFY_SOCKET": address})
    taken = [notifier.watchdog() for _ in range(5000)]
    assert taken[0] and not taken[-1]
    notifier.close()


def test_without_systemd_nothing_happens() -> None:
    notifier = Notifier({})
    assert not notifier.ready("x")
    assert notifier.watchdog_seconds is None
    gone = Notifier({"NOTIFY_SOCKET": "/nowhere/at/all"})
    assert not gone.ready("x")
    gone.close()


def test_the_watchdog_is_petted_three_times_as_often_as_it_wants() -> None:
    environment = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "30000000"}
    assert Notifier(environment).watchdog_seconds == 10.0
    assert Notifier({**environment, "WATCHDOG_PID": str(os.getpid())}).watchdog_seconds == 10.0


@pytest.mark.parametrize("name", ["WATCHDOG_PID", "WATCHDOG_USEC", "NOTIFY_SOCKET"])
def test_a_watchdog_that_is_not_meant_for_us_is_none(name: str) -> None:
    values = {"WATCHDOG_PID": "1", "WATCHDOG_USEC": "soon", "NOTIFY_SOCKET": ""}
    environment = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "30000000", name: values[name]}
    assert Notifier(environment).watchdog_seconds is None
