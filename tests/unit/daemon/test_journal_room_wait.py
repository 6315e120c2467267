"""A journal that finds no room for its beginning is waited for, told, and given up only on request."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from marketd.daemon.journal_room import RoomWait
from marketd.ipc.journal import Journal
from marketd.market.errors import JournalFull

SEGMENT_BYTES = 1 << 20


def test_a_new_journal_begins_once_its_disk_has_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allocate, wait, said = os.posix_fallocate, RoomWait(), []

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def pause(_: float) -> bool:
        said.append(wait.blocked)
        if len(said) == 3:
            monkeypatch.setattr(os, "posix_fallocate", allocate)
        return True

    monkeypatch.setattr(os, "posix_fallocate", full)
    journal = wait.until(
        lambda: Journal.open(
            tmp_path / "journal",
            front_path=None,
            segment_bytes=SEGMENT_BYTES,
            budget_bytes=8 * SEGMENT_BYTES,
            checkpoint=lambda: b"",
        ),
        pause,
    )
    assert len(said) == 3 and all("the disk has no room" in words for words in said)
    assert wait.blocked == "" and journal.has_room
    journal.close()


def test_who_is_to_stop_does_not_wait_for_room() -> None:
    def attempt() -> None:
        raise JournalFull("no room")

    with pytest.raises(JournalFull, match="no room"):
        RoomWait().until(attempt, lambda _: False)
