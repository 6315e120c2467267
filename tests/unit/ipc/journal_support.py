"""What the tests of the journal share: small journals, frames that tell what they are, bytes that go bad."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from marketd.ipc.frames import Frame
from marketd.ipc.journal import Journal
from marketd.ipc.journal_errors import JournalBehind
from marketd.ipc.journal_settings import MIN_BYTES
from marketd.ipc.segments import HEADER_BYTES, SegmentFile, list_segments

SMALL: dict[str, Any] = {"segment_bytes": MIN_BYTES, "front_bytes": MIN_BYTES, "budget_bytes": 64 * MIN_BYTES}
KIND = 1


class Kernel:
    """Stands for the caller's state: how many frames it has folded, and their sum; `padding` bytes larger than that."""

    def __init__(self, padding: int = 0) -> None:
        self.count = 0
        self.total = 0
        self._padding = padding

    def fold(self, seq: int) -> None:
        self.count += 1
        self.total += seq

    def state(self) -> bytes:
        return struct.pack("<qq", self.count, self.total) + payload(self.count, self._padding)

    def restore(self, state: bytes) -> None:
        self.count, self.total = struct.unpack_from("<qq", state)
        assert state[16:] == payload(self.count, len(state) - 16), "a piece of another state is in it"


def open_journal(directory: Path, kernel: Kernel | None = None, **settings: Any) -> Journal:
    return Journal.open(directory, checkpoint=(kernel or Kernel()).state, **{**SMALL, **settings})


def payload(seq: int, size: int) -> bytes:
    """Bytes that only this frame has."""
    return (seq.to_bytes(8, "little") * (size // 8 + 1))[:size]


def append(journal: Journal, seq: int, size: int = 100) -> int:
    """One frame; when the disk is behind, wait as a bulk writer does."""
    while True:
        try:
            return journal.append(7, seq, seq * 1000, [(KIND, 1, size, payload(seq, size))])
        except JournalBehind:
            journal.wait_room(0.01)  # not for long: it may turn out that there is no room at all


def fill(journal: Journal, seqs: Iterable[int], size: int = 100, kernel: Kernel | None = None) -> int:
    end = journal.end
    for seq in seqs:
        if kernel is not None:
            kernel.fold(seq)
        end = append(journal, seq, size)
    return end


def restored(journal: Journal) -> tuple[int, int]:
    """Count and sum of all frames ever, from checkpoint and replay."""
    kernel = Kernel()
    kernel.restore(journal.checkpoint)
    for frame in journal.replay():
        check_frame(frame)
        kernel.fold(frame.seq)
    return kernel.count, kernel.total


def check_frame(frame: Frame) -> None:
    (section,) = frame.sections
    assert bytes(section.payload) == payload(frame.seq, section.count)


def newest(directory: Path) -> SegmentFile:
    return list_segments(directory)[-1]


def change(segment: SegmentFile, offset: int, alter: Callable[[bytes], bytes], length: int = 1) -> None:
    """Alter bytes of a segment, addressed by their logical offset."""
    position = HEADER_BYTES + offset - segment.first
    with open(segment.path, "r+b") as file:
        file.seek(position)
        data = file.read(length)
        file.seek(position)
        file.write(alter(data))


def flip(data: bytes) -> bytes:
    return bytes(byte ^ 0xFF for byte in data)


def zero(data: bytes) -> bytes:
    return bytes(len(data))
