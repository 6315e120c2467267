"""Waiting for the disk at the start: a new journal needs room for its first segment, and may not find it.

An ingest that ended for it would be replaced, end again, and soon be given up as a crash loop, though all that it needs
is a file less on the disk. So it waits, answers its supervisor meanwhile (`status` and `health` say what for), and
begins once there is room, or with a configuration that wants less of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from marketd.market.errors import JournalFull

_log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two tries
T = TypeVar("T")


class RoomWait:
    """`blocked`: what is waited for, in plain words; "" while nothing is."""

    def __init__(self) -> None:
        self.blocked = ""

    def until(self, attempt: Callable[[], T], pause: Callable[[float], bool]) -> T:
        """What `attempt` makes, once it finds room. `pause` waits so many seconds; False: give up, JournalFull."""
        while True:
            try:
                made = attempt()
            except JournalFull as error:
                if not self.blocked:
                    _log.error("ingest waits: %s", error, extra={"action": "journal_no_room"})
                self.blocked = str(error)
                if not pause(LOOK_SECONDS):
                    raise
            else:
                self.blocked = ""
                return made
