"""Ingest's start is its recovery: checkpoint, then the journal's frames after it, into kernel and arena.

The arena outlives ingest. What it has already is not shown again; what the journal has beyond it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from marketd.daemon.instrument_state import InstrumentState
from marketd.daemon.kernel import Kernel, Lot
from marketd.daemon.publisher import Board, Publisher
from marketd.daemon.registry import Registry, RegistryBehind
from marketd.ipc.frames import NO_BODY, Buffer, Frame
from marketd.ipc.journal import Journal
from marketd.market.book_rows import read_records
from marketd.market.instruments import Instrument
from marketd.market.records import Coverage, Kind
from marketd.market.times import ABSENT, NS_PER_US

_log = logging.getLogger(__name__)


class _State(msgspec.Struct):
    id: int


class _Checkpoint(msgspec.Struct):
    """Of the kernel's checkpoint what is looked at before it is restored."""

    states: list[_State]

    @property
    def ids(self) -> list[int]:
        return [state.id for state in self.states]


_checkpoint_decoder = msgspec.msgpack.Decoder(_Checkpoint)


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
            told = _unstored_since(board)
            board.state.unstored_since = board.state.unstored_since or told or board.state.ts_known + NS_PER_US
            board.state.unstored_count += max(0, board.arena.seq - board.state.seq - bool(told))
            board.state.seq = max(board.state.seq, board.arena.seq)
            kernel.ts_known = max(kernel.ts_known, board.arena.ts_known)
    _log.info(
        "took in %d frames of the journal after its checkpoint, %d of them new to the arena",
        frames,
        shown,
        extra={"action": "recovered", "frames": frames, "shown": shown},
    )
    return Recovered(frames, shown)


def _unstored_since(board: Board) -> int:
    """Since when an instrument is kept live only, as its ledger in shared memory says; 0: it does not."""
    events = board.all_of("coverage") if board.has_ring("coverage") else None
    if events is None:
        return 0
    told = events["ts_start"][events["state"] == Coverage.UNSTORED]
    is_open = events["ts_end"][events["state"] == Coverage.UNSTORED] == ABSENT
    return int(told[-1]) if len(told) and is_open[-1] else 0


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
        _demand_ids(journal, registry, _checkpoint_decoder.decode(journal.checkpoint).ids)
        kernel.restore(journal.checkpoint, registry.all_instruments, journal.end)
    for frame in journal.replay():
        if frame.instrument not in registry:
            _demand_ids(journal, registry, [frame.instrument])
        instrument = registry.by_id(frame.instrument)
        kernel.apply(frame, instrument)
        yield frame, instrument


def _demand_ids(journal: Journal, registry: Registry, ids: Iterable[int]) -> None:
    """What an unknown id belongs to cannot be guessed, and it would be given to another instrument."""
    unknown = [number for number in ids if number not in registry]
    if unknown:
        named = ", ".join(map(str, unknown[:5])) + (", …" if len(unknown) > 5 else "")
        raise RegistryBehind(
            f"{registry.path} does not know {len(unknown)} of the instrument ids in the journal {journal.directory} "
            f"({named}): the file is older than the journal. Restore the one that belongs to it (a backup of "
            f"{registry.path.parent} has both; the database's table instruments has what was committed), or move the "
            "journal away to begin a new one without what the database does not have of it (marketd journal list)"
        )


def lot_of(frame: Frame, kernel: Kernel, state: InstrumentState) -> Lot:
    """A frame of the journal as the lot that it was, for showing it."""
    shown: list[tuple[Kind, Buffer]] = []
    count = 0
    for section in frame.sections:
        kind = kernel.kinds.by_id(section.kind) if section.kind in kernel.kinds else None
        if kind is not None and kind.ring:
            records = read_records(kind, section.itemsize, section.payload)
            shown.append((kind, records))
            count += len(records)
    return Lot(state, frame.seq, count, frame.ts_known, count, [], NO_BODY, shown, [])
