"""What goes together when a journal is opened: the repaired store, the front buffer to go on with, its flusher."""

from __future__ import annotations

from pathlib import Path

from marketd.ipc.front import Front
from marketd.ipc.journal_flusher import Flusher, Pace
from marketd.ipc.journal_recovery import recover
from marketd.ipc.journal_settings import Settings
from marketd.ipc.journal_store import SegmentStore
from marketd.market.errors import JournalFull


def ignore(_: object) -> None:
    """For callers who do not want to be told."""


def recovered(
    directory: Path, settings: Settings, store: SegmentStore, path: Path | None
) -> tuple[Front, Flusher, list[str]]:
    """The front buffer to go on with, and its flusher, once what it held is in the segments or there is no room."""
    pace = Pace(settings.durability, int(settings.interval_ns), settings.retry_seconds)
    front, boundaries, repairs = recover(directory, store, path, settings.front_bytes)
    try:
        front.words.reset(settings.budget_bytes)
        flusher = Flusher(front, store, pace, boundaries=boundaries)
        flusher.flush()
        if front.size != settings.front_bytes and flusher.durable == front.written:
            end = front.written
            front.close()
            front = Front.create(path, settings.front_bytes, store.uuid, end)
            front.words.reset(settings.budget_bytes)
            flusher = Flusher(front, store, pace)
    except BaseException:
        front.close()
        raise
    return front, flusher, repairs


def flush_or_refuse(directory: Path, flusher: Flusher, front: Front) -> None:
    flusher.flush()
    if flusher.durable != front.written:
        waiting = front.written - flusher.durable
        raise JournalFull(
            f"journal {directory}: {flusher.blocked.reason}, and {waiting} bytes in the front buffer must be written "
            "first; make room, then start again"
        )
