"""What a reader sees of an arena: one publication (`Cut`), and copies of records that are true to it.

Here are the reader's halves of the sync points A1, A4 and A5 of `arena_words`; `arena_reader` has A2 and A3.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from marketd.ipc import arena_file
from marketd.ipc import arena_words as word
from marketd.ipc.arena import PAGE, ArenaUnreadable, Layout, Ring
from marketd.ipc.arena_header import decode
from marketd.market.errors import NotRunning
from marketd.market.records import CANDLE, Records
from marketd.market.times import ABSENT

_HEADER_BYTES = 1 << 20  # more than any header has


class Cut:
    """One publication: stamps, ring heads and the bars that were forming. A copy, immutable."""

    __slots__ = ("_descriptor", "_layout")

    def __init__(self, descriptor: bytes, layout: Layout) -> None:
        self._descriptor = descriptor
        self._layout = layout

    @property
    def number(self) -> int:
        """Publications since the file was made: greater in a later cut of the same file."""
        return self.word(word.NUMBER)

    @property
    def ts_known(self) -> int:
        """Of the newest batch in it (ns); 0 before the first."""
        return self.word(word.TS_KNOWN)

    @property
    def ts_event(self) -> int:
        """The newest time that the venue told (ns)."""
        return self.word(word.TS_EVENT)

    @property
    def seq(self) -> int:
        """Of the newest record in it."""
        return self.word(word.SEQ)

    @property
    def journal_offset(self) -> int:
        """Where the newest batch ends in the journal: on disk if not beyond the reader's `durable_offset`."""
        return self.word(word.JOURNAL_OFFSET)

    @property
    def heads(self) -> dict[str, int]:
        """Of each ring: records ever appended; the newest is at position head - 1."""
        return {ring.name: self.word(ring.head) for ring in self._layout.rings}

    @property
    def revisions(self) -> dict[str, int]:
        """Of each ring: rises with every new version of closed bars; unchanged, only records were added."""
        return {ring.name: self.word(ring.head + word.REVISION) for ring in self._layout.rings}

    @property
    def complete_since(self) -> dict[str, int]:
        """Of each ring: every record of time >= this (ns) is among its newest `capacity`."""
        return {ring.name: self.word(ring.head + word.SINCE) for ring in self._layout.rings}

    @property
    def open_bars(self) -> Records:
        """The bars still forming, CANDLE, in the writer's order; during grace two of a timeframe."""
        table: Records = np.frombuffer(self._descriptor, CANDLE, self._layout.open_slots, self._layout.open_offset)
        bars: Records = table[table["ts"] != ABSENT]
        return bars

    @property
    def words(self) -> memoryview[int]:
        """All words of the descriptor: for who reads several."""
        return memoryview(self._descriptor).cast("q")

    def word(self, index: int) -> int:
        """A word of the descriptor."""
        start = index * word.BYTES
        return int.from_bytes(self._descriptor[start : start + word.BYTES], "little", signed=True)

    def __repr__(self) -> str:
        return f"Cut(number={self.number}, seq={self.seq}, ts_known={self.ts_known}, ts_event={self.ts_event})"


class MappedArena:
    """One file, mapped for reading: what a read works on to its end, whatever is remapped meanwhile."""

    def __init__(self, path: Path) -> None:
        """Raises NotRunning (no such file), ArenaUnreadable."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotRunning(
                f"{path}: there is no arena; the daemon was never started, or does not have this instrument"
            ) from None
        try:
            self.inode = inode(descriptor)
            size = os.fstat(descriptor).st_size
            if not size or size % PAGE:
                raise ArenaUnreadable(f"{path}: {size} bytes are no arena")
            self.layout, self.identity = decode(os.pread(descriptor, _HEADER_BYTES, 0), size)
            self.memory = arena_file.map_shared(descriptor, size, writable=False)
        except ArenaUnreadable as error:
            raise ArenaUnreadable(f"{path}: {error}") from None
        finally:
            os.close(descriptor)
        self.words = memoryview(self.memory).cast("q")
        self.rings = {ring.name: ring for ring in self.layout.rings}

    def close(self) -> None:
        self.words.release()
        self.memory.close()

    def copy(self, place: Ring, offset: int, start: int, end: int) -> bytes:
        """Positions [start, end) of a ring, from its slots or before-images at `offset`, as they are now."""
        return b"".join([self.memory[a:b] for a, b in place.places(offset, start, end)])

    def newest(self, place: Ring, number: int, head: int, count: int) -> Records | None:
        """The newest `count` records as publication `number` has them, its head being `head`.

        Fewer where the ring reaches less far; None: a newer publication is to be read instead.
        """
        start = max(0, head - max(0, min(count, place.capacity)))
        data = self._mended(place, number, start, head, self.copy(place, place.offset, start, head))
        return None if data is None else np.frombuffer(data, place.dtype)

    def _mended(self, place: Ring, number: int, start: int, head: int, data: bytes) -> bytes | None:
        """A copy of slots [start, head) made true to publication `number`; None where that cannot be.

        To be called after the copy, so that the words read here tell of every store that the copy may have
        met. What is being overwritten is cut off at the old end, what has a new version is taken back.
        """
        words, live = self.words, place.live
        ready = words[live + word.READY]  # A5 images-before-rewrite
        oldest = words[live + word.INTENT] - place.slots  # A1 intent-before-slots
        if oldest > start:
            # Overtaken: a newer publication has them all. While there is none, the writer is in the middle of a
            # large append, or was killed there, and the ring reaches no further for now.
            if words[word.PUBLISHED] != number or oldest >= head > start:
                return None
            data, start = data[(oldest - start) * place.itemsize :], oldest
        if ready <= number:
            return data
        if ready > number + 1:
            return None  # new versions for a publication after the next: the next is there to be read
        low, high = max(start, words[live + word.LOW]), min(head, words[live + word.HIGH])
        if low < high:
            images = self.copy(place, place.images_offset, low, high)
            data = data[: (low - start) * place.itemsize] + images + data[(high - start) * place.itemsize :]
        if words[live + word.BEGIN] != number + 1:  # A4 begin-before-images
            return None
        return data


class Snapshot(NamedTuple):
    """Records of several rings in one cut."""

    records: dict[str, Records]
    cut: Cut


def inode(file: int | Path) -> tuple[Any, ...]:
    """What makes a file this file, whatever its name."""
    status = os.stat(file)
    return status.st_dev, status.st_ino
