"""What goes together when a journal is opened: the repaired store, the front buffer to go on with, its flusher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from marketd.ipc.front import Front
from marketd.ipc.journal_flusher import Flusher
from marketd.ipc.journal_recovery import recover
from marketd.ipc.journal_settings import Settings
from marketd.ipc.journal_store import SegmentStore
from marketd.market.errors import JournalFull


def ignore(_: object) -> None:
    """For callers who do not want to be told."""


def flusher_of(
    front: Front,
    store: SegmentStore,
    settings: Settings,
    on_durable: Callable[[int], None],
    on_failure: Callable[[BaseException], None],
) -> Flusher:
    return Flusher(
        front,
        store,
        durability=settings.durability,
        interval_ns=settings.interval_ns,
        retry_seconds=settings.retry_seconds,
        on_durable=on_durable,
        on_failure=on_failure,
    )


def recovered(
    directory: Path,
    settings: Settings,
    store: SegmentStore,
    path: Path | None,
    on_durable: Callable[[int], None],
    on_failure: Callable[[BaseException], None],
) -> tuple[Front, Flusher, list[str]]:
    """The front buffer to go on with, and its flusher, once what it held is in the segments or there is no room."""
    front, boundaries, repairs = recover(directory, store, path, settings.front_bytes)
    try:
        flusher = flusher_of(front, store, settings, on_durable, on_failure)
        flusher.boundaries.extend(boundaries)
        flusher.flush()
        if front.size != settings.front_bytes and flusher.durable == front.written:
            end = front.written
            front.close()
            front = Front.create(path, settings.front_bytes, store.uuid, end)
            flusher = flusher_of(front, store, settings, on_durable, on_failure)
    except BaseException:
        front.close()
        raise
    return front, flusher, repairs


def flush_or_refuse(directory: Path, flusher: Flusher, front: Front) -> None:
    flusher.flush()
    if flusher.durable != front.written:
        waiting = front.written - flusher.durable
        raise JournalFull(
            f"journal {directory}: {flusher.blocked}, and {waiting} bytes in the front buffer must be written first; "
            "make room, then start again"
        )
