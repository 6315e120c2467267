"""The frames of a journal for the one who writes it: those on disk, and behind them those only the front buffer has.

A start on a full disk finds frames that nothing could write yet. They are as good as the others (a kernel is restored
from them, the disk gets them when it has room), only no other process can read them.
"""

from __future__ import annotations

from collections.abc import Sequence

from marketd.ipc import frames
from marketd.ipc.frames import Frame
from marketd.ipc.front import Front
from marketd.ipc.journal_reader import DEFAULT_READ_BYTES, JournalReader


class TailReader:
    """As a JournalReader reads, up to what was appended. Only while nothing is appended: a place in the front buffer is
    used again once the disk has what was there.
    """

    def __init__(self, reader: JournalReader, front: Front, begun: Sequence[int] = ()) -> None:
        """`begun`: where segments begin that the disk has not yet."""
        self._reader = reader
        self._front = front
        self._begun = tuple(begun)

    @property
    def oldest(self) -> int:
        return self._reader.oldest

    @property
    def newest_checkpoint(self) -> int:
        return max(self._begun, default=self._reader.newest_checkpoint)

    def segment_before(self, offset: int) -> int | None:
        earlier = [first for first in self._begun if first < offset]
        return max(earlier) if earlier else self._reader.segment_before(offset)

    def first_frame(self, offset: int) -> Frame:
        return self.read(offset, self._front.written, 1)[0]

    def read(self, offset: int, until: int | None = None, max_bytes: int = DEFAULT_READ_BYTES) -> list[Frame]:
        """As JournalReader.read; a call ends where the disk does."""
        until = self._front.written if until is None else until
        durable = self._front.durable
        if offset < durable:
            return self._reader.read(offset, min(until, durable), max_bytes)
        longest_frame = self._front.size // 4
        view = memoryview(self._front.read(offset, min(until, offset + max_bytes + longest_frame)))
        found: list[Frame] = []
        at = 0
        while at < min(len(view), max_bytes):
            found.append(frames.decode(view, at, offset + at))
            at = found[-1].end - offset
        return found
