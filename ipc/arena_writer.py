"""The writing side of an arena: one process, one thread, a few microseconds a batch.

    writer = ArenaWriter.create(path, instance=…, instrument=…, rings=[…], open_slots=14)
    writer.append(TRADES, trades)          # bytes of whole records
    writer.put(BARS_1S, bar)               # a bar into its place: appended, inserted, or a new version
    writer.publish(ts_known, ts_event, seq, journal_offset, fold.open_table)
    writer.heartbeat(monotonic_ns, wall_ns, durable_offset, committed_offset)

`publish` makes all that was written since the last time visible, at once. What was not published is
invisible, and `discard` takes it back; `attach` begins with that, so that a writer killed at any point leaves
nothing to repair. The sync points A2 and A3 of `arena_words` are here, the others in `arena_ring`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from struct import Struct
from typing import NamedTuple

from marketd.ipc import arena_file
from marketd.ipc import arena_words as word
from marketd.ipc.arena import (
    ArenaLayoutChanged,
    ArenaState,
    ArenaUnreadable,
    Identity,
    Layout,
    RingSpec,
    plan,
    require_x86_64,
)
from marketd.ipc.arena_header import check_version, encode_static, first_bytes
from marketd.ipc.arena_ring import Data, RingWriter
from marketd.market.errors import InvalidArgument
from marketd.market.instruments import Instrument

NO_JOURNAL = bytes(16)
# what each publication says anew of its moment: words of the descriptor that stand side by side
_pack_moment = Struct("<4q").pack_into
_MOMENT_AT = word.TS_KNOWN * word.BYTES
assert (word.TS_EVENT, word.SEQ, word.JOURNAL_OFFSET) == (word.TS_KNOWN + 1, word.TS_KNOWN + 2, word.TS_KNOWN + 3)


class ArenaWriterStatistics(NamedTuple):
    """`published` counts over the file's life, the others over this writer's."""

    published: int
    appended: int
    rewritten: int
    dropped: int  # moved out of the readers' reach by newer ones
    discarded: int  # times that unpublished work was taken back
    file_bytes: int
    heads: dict[str, int]


class ArenaWriter:
    """The one writer of an arena. A ring is named by its index in the list that it was created with."""

    def __init__(self, path: Path, descriptor: int, layout: Layout, identity: Identity) -> None:
        self.path, self.layout, self.identity = path, layout, identity
        self._descriptor = descriptor
        self._memory = arena_file.map_shared(descriptor, layout.file_bytes, writable=True)
        self._words = memoryview(self._memory).cast("q")
        self._stage_bytes = bytearray(layout.open_offset)  # the next descriptor, without its open bars
        self._stage = memoryview(self._stage_bytes).cast("q")
        self._descriptors, self._stride = layout.descriptors, layout.stride
        self._open_offset, self._open_bytes = layout.open_offset, layout.open_bytes
        self.rings = [RingWriter(layout, place, self._memory, self._words, self._stage) for place in layout.rings]
        self._take_back()
        self._discarded = 0
        self._words[word.WRITER_PID] = os.getpid()
        self._words[word.WRITER_START] = time.time_ns()
        self._words[word.ATTACHED] += 1

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        instance: str,
        instrument: Instrument,
        rings: Sequence[RingSpec],
        open_slots: int,
        journal: bytes = NO_JOURNAL,
    ) -> ArenaWriter:
        """A new, empty arena, WARMING; a file that bore the name is replaced and marked RETIRED.

        Raises ArenaUnsupported, ArenaOwned, ArenaNoSpace, InvalidArgument.
        """
        require_x86_64()
        layout, identity = plan(rings, open_slots), Identity.of(instance, journal, instrument)
        descriptor = arena_file.build(path, layout.file_bytes, first_bytes(layout, identity))
        return cls._opened(path, descriptor, layout, identity)

    @classmethod
    def attach(
        cls,
        path: Path,
        *,
        instance: str,
        instrument: Instrument,
        rings: Sequence[RingSpec],
        open_slots: int,
        journal: bytes = NO_JOURNAL,
    ) -> ArenaWriter:
        """Go on with an existing arena from its last publication (`journal_offset`, `seq`, …), WARMING.

        Raises FileNotFoundError, ArenaOwned, and ArenaLayoutChanged when it was made for anything else:
        `create` then puts a new one in its place.
        """
        require_x86_64()
        layout, identity = plan(rings, open_slots), Identity.of(instance, journal, instrument)
        descriptor = arena_file.own(path)
        try:
            _check_same(path, descriptor, encode_static(layout, identity), layout.file_bytes)
        except BaseException:
            os.close(descriptor)
            raise
        writer = cls._opened(path, descriptor, layout, identity)
        writer.set_state(ArenaState.WARMING)
        return writer

    def take_name(self, path: Path) -> None:
        """Be the arena of this name from now on; a file that bore it is marked RETIRED, so that its readers remap.

        Raises ArenaOwned.
        """
        arena_file.replace(self.path, path)
        self.path = path

    @classmethod
    def _opened(cls, path: Path, descriptor: int, layout: Layout, identity: Identity) -> ArenaWriter:
        try:
            return cls(path, descriptor, layout, identity)
        except BaseException:
            os.close(descriptor)
            raise

    # ---- records --------------------------------------------------------------------------------

    def append(self, ring: int, data: Data) -> None:
        """Whole records after the newest. InvalidArgument when they are not whole."""
        self.rings[ring].append(data)

    def rewrite(self, ring: int, position: int, data: Data) -> None:
        """New versions of the closed bars from `position` on; what reaches beyond the newest is appended.

        InvalidArgument when the ring does not hold the position, or is no ring of bars.
        """
        self.rings[ring].rewrite(position, data)

    def put(self, ring: int, bar: Data) -> bool:
        """One closed bar into its place by time: after the newest, as a new version, or between two others.

        False when its place is before all that the ring holds and the ring has dropped bars already.
        """
        return self.rings[ring].put(bar)

    def find(self, ring: int, ts: int) -> int | None:
        """The position of the closed bar that opens at `ts` (ns), or None."""
        return self.rings[ring].find(ts)

    def head(self, ring: int) -> int:
        """The position after the newest record, published or not."""
        return self.rings[ring].head

    def records(self, ring: int, start: int, end: int) -> bytes:
        """A copy of positions [start, end), published or not."""
        return self.rings[ring].records(start, end)

    def complete_since(self, ring: int, ts: int) -> None:
        """Warm start: the ring was given every record of time >= `ts` (ns) that there was."""
        self._stage[self.rings[ring].place.head + word.SINCE] = ts

    # ---- publishing -----------------------------------------------------------------------------

    def publish(
        self, ts_known: int, ts_event: int, seq: int, journal_offset: int, open_table: Data | None = None
    ) -> None:
        """All that was written since the last time becomes visible, at once.

        `open_table`: the bars still forming, `open_slots` candle records, ts ABSENT where there is none; None
        leaves them as they were. InvalidArgument when it has another size; then nothing was published.
        """
        stage, memory = self._stage, self._memory
        number = stage[word.NUMBER]
        _pack_moment(self._stage_bytes, _MOMENT_AT, ts_known, ts_event, seq, journal_offset)
        start = self._descriptors + (number & word.DESCRIPTOR_MASK) * self._stride
        bars = start + self._open_offset
        memory[start:bars] = self._stage_bytes
        try:
            memory[bars : bars + self._open_bytes] = (
                self._open_table(number - 1) if open_table is None else open_table  # type: ignore[assignment]
            )
        except IndexError:
            raise InvalidArgument(f"open_table: not the {self._open_bytes} bytes of the open bars") from None
        self._words[word.PUBLISHED] = number  # A2 slots-before-publish, A3 descriptor-reuse
        stage[word.NUMBER] = number + 1

    def discard(self) -> None:
        """Take back all that was written since the last publication."""
        self._take_back()
        self._discarded += 1

    def _take_back(self) -> None:
        """The stage as it was published; new versions replaced by what they were to replace.

        The intents stay: what the slots held that were written is lost to readers all the same.
        """
        number = self._words[word.PUBLISHED]
        start = self.layout.descriptor_at(number)
        self._stage_bytes[:] = self._memory[start : start + self.layout.open_offset]
        self._stage[word.NUMBER] = number + 1
        for ring in self.rings:
            ring.restore()

    def heartbeat(self, mono_ns: int, wall_ns: int, durable_offset: int, committed_offset: int) -> None:
        """The writer is alive (CLOCK_MONOTONIC, wall clock); how far the journal is on disk and committed."""
        words = self._words
        words[word.DURABLE] = durable_offset
        words[word.COMMITTED] = committed_offset
        words[word.HEARTBEAT_WALL] = wall_ns
        words[word.HEARTBEAT_MONO] = mono_ns

    def mark_durable(self, durable_offset: int) -> None:
        """The journal is on disk up to here: between two heartbeats, for readers who ask what is durable."""
        self._words[word.DURABLE] = durable_offset

    @property
    def alive_ns(self) -> int:
        """The wall clock's time of the last heartbeat; of an arena that was attached to, its last writer's."""
        return self._words[word.HEARTBEAT_WALL]

    # ---- the last publication -------------------------------------------------------------------

    @property
    def number(self) -> int:
        """Publications since the file was made."""
        return self._words[word.PUBLISHED]

    @property
    def journal_offset(self) -> int:
        """Frames of the journal from here on are not in the arena."""
        return self._published(word.JOURNAL_OFFSET)

    @property
    def seq(self) -> int:
        return self._published(word.SEQ)

    @property
    def ts_known(self) -> int:
        return self._published(word.TS_KNOWN)

    @property
    def ts_event(self) -> int:
        return self._published(word.TS_EVENT)

    def _published(self, field: int) -> int:
        return self._words[self.layout.descriptor_at(self.number) // word.BYTES + field]

    def _open_table(self, number: int) -> bytes:
        start = self.layout.descriptor_at(number) + self.layout.open_offset
        return self._memory[start : start + self._open_bytes]

    # ---- life -----------------------------------------------------------------------------------

    @property
    def state(self) -> ArenaState:
        return ArenaState(self._words[word.STATE])

    def set_state(self, state: ArenaState) -> None:
        self._words[word.STATE] = state

    @property
    def is_filling(self) -> bool:
        """Whether a warm start that had begun to publish has not come to its end."""
        return self._words[word.FILLING] != 0

    def set_filling(self, filling: bool) -> None:
        self._words[word.FILLING] = int(filling)

    def retire(self) -> None:
        """The instrument is gone: its file is removed, and readers that have it mapped see RETIRED."""
        self.path.unlink(missing_ok=True)
        self.set_state(ArenaState.RETIRED)
        self.close()

    def close(self) -> None:
        """Give the arena back; the file stays, for its readers and for the next writer."""
        if self._descriptor < 0:
            return
        self._words.release()
        self._memory.close()
        os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> ArenaWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def statistics(self) -> ArenaWriterStatistics:
        rings = self.rings
        return ArenaWriterStatistics(
            published=self.number,
            appended=sum(ring.appended for ring in rings),
            rewritten=sum(ring.rewritten for ring in rings),
            dropped=sum(ring.dropped for ring in rings),
            discarded=self._discarded,
            file_bytes=self.layout.file_bytes,
            heads={ring.place.name: ring.head for ring in rings},
        )


def _check_same(path: Path, descriptor: int, wanted: bytes, file_bytes: int) -> None:
    """Raises ArenaLayoutChanged unless the file was made from these very bytes."""
    start = os.pread(descriptor, word.STATIC_OFFSET + len(wanted), 0)
    try:
        check_version(start)
    except ArenaUnreadable as error:
        raise ArenaLayoutChanged(f"{path}: {error}; create it anew") from None
    if start[word.STATIC_OFFSET :] != wanted or os.fstat(descriptor).st_size != file_bytes:
        raise ArenaLayoutChanged(f"{path}: made for other rings, another instrument or another journal; create it anew")
