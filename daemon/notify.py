"""Tells systemd how the daemon stands (sd_notify), without libsystemd.

A no-op where NOTIFY_SOCKET is not set. Never blocks: the manager's queue may be full for ever, and a daemon
that waits for it would hang at the worst moment (MSG_DONTWAIT); a message that was not taken is False.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

logger = logging.getLogger(__name__)

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")  # not for child processes


class Notifier:
    """One socket, opened at the first message."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._watchdog_us = _watchdog_us(environment)
        self._socket: socket.socket | None = None

    @property
    def watchdog_seconds(self) -> float | None:
        """How often `watchdog` must be called: a third of the time after which systemd gives up; None for
        never."""
        return self._watchdog_us / 3e6 if self._address and self._watchdog_us else None

    def ready(self, status: str) -> bool:
        return self.send("READY=1", f"STATUS={status}")

    def status(self, status: str) -> bool:
        return self.send(f"STATUS={status}")

    def reloading(self) -> bool:
        """To be followed by `ready`."""
        return self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> bool:
        return self.send("STOPPING=1", f"STATUS={status}")

    def watchdog(self) -> bool:
        return self.send("WATCHDOG=1")

    def send(self, *assignments: str) -> bool:
        """Whether the message was taken."""
        if not self._address:
            return False
        try:
            message = "\n".join(line.replace("\n", " ") for line in assignments).encode()
            self._open().sendto(message, socket.MSG_DONTWAIT, self._path())
        except OSError as error:
            logger.debug("systemd was not told: %s", error, extra={"action": "notify_failed"})
            return False
        return True

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _open(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        return self._socket

    def _path(self) -> str:
        """An address that begins with @ is in the abstract namespace."""
        return f"\0{self._address[1:]}" if self._address.startswith("@") else self._address


def _watchdog_us(environment: Mapping[str, str]) -> int:
    """systemd's watchdog, if it is meant for this process and not for a parent of it."""
    pid = environment.get("WATCHDOG_PID", "")
    text = environment.get("WATCHDOG_USEC", "")
    if not text.isdigit() or (pid and pid != str(os.getpid())):
        return 0
    return int(text)
