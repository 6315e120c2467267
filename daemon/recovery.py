"""Ingest's start is its recovery: checkpoint, then the journal's frames after it, into kernel and arena.

The arena outlives ingest. What it has already is not shown again; what the journal has beyond it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from marketd.daemon.kernel import InstrumentState, Kernel, Lot
from marketd.daemon.publisher import Board, Publisher
from marketd.daemon.registry import Registry
from marketd.ipc.frames import Frame
from marketd.ipc.journal import Journal
from marketd.market.instruments import Instrument
from marketd.market.records import Kind, Records
from marketd.market.times import NS_PER_US

_log = logging.getLogger(__name__)


class Recovered(NamedTuple):
    frames: int
    shown: int  # frames that the arena lacked


def recover(journal: Journal, kernel: Kernel, registry: Registry, publisher: Publisher) -> Recovered:
    """Bring kernel and arena to the journal's end."""
    frames = shown = 0
    for frame, instrument in _restored(journal, kernel, registry):
        frames += 1
        if instrument.removed:
            continue  # a finer id has its name and with it the arena
        board = publisher.board(instrument)
        # an arena that is new is filled from the database first (`warming`)
        if not board.is_new and not _has(board, frame):
            board.show(lot_of(frame, kernel, board.state), frame.end)
            shown += 1
    for board in publisher.boards:
        if board.arena.journal_offset < 0:
            # what was kept live only is in no journal: the ledger will say so, and its numbers and moments are not
            # given again
            board.state.unstored_since = board.state.ts_known + NS_PER_US
            board.state.unstored_count = max(0, board.arena.seq - board.state.seq)
            board.state.seq = max(board.state.seq, board.arena.seq)
            kernel.ts_known = max(kernel.ts_known, board.arena.ts_known)
    _log.info(
        "took in %d frames of the journal after its checkpoint, %d of them new to the arena",
        frames,
        shown,
        extra={"action": "recovered", "frames": frames, "shown": shown},
    )
    return Recovered(frames, shown)


def _has(board: Board, frame: Frame) -> bool:
    offset = board.arena.journal_offset
    # -1: the newest lots were kept live only; whatever was journaled came before them
    return frame.end <= offset if offset >= 0 else frame.seq <= board.arena.seq


def restore_kernel(journal: Journal, kernel: Kernel, registry: Registry) -> None:
    """Bring a kernel that has no arena to the journal's end."""
    for _ in _restored(journal, kernel, registry):
        pass


def _restored(journal: Journal, kernel: Kernel, registry: Registry) -> Iterator[tuple[Frame, Instrument]]:
    if journal.checkpoint:
        kernel.restore(journal.checkpoint, registry.all_instruments, journal.end)
    for frame in journal.replay():
        instrument = registry.by_id(frame.instrument)
        kernel.apply(frame, instrument)
        yield frame, instrument


def lot_of(frame: Frame, kernel: Kernel, state: InstrumentState) -> Lot:
    """A frame of the journal as the lot that it was, for showing it."""
    rows: list[tuple[Kind, Records]] = []
    for section in frame.sections:
        kind = kernel.kinds.by_id(section.kind) if section.kind in kernel.kinds else None
        if kind is not None and kind.ring:
            rows.append((kind, np.frombuffer(section.payload, dtype=kind.dtype)))
    count = sum(len(records) for _, records in rows)
    return Lot(state, frame.seq, count, frame.ts_known, count, [], [], rows, [])
