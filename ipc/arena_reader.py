"""The reading side of an arena: from shared memory into numpy arrays, without a word to the daemon.

    reader = ArenaReader.open(path)
    bars, cut = reader.last("candle.1m.own", 300)      # the newest 300 closed bars, oldest first
    cut.seq, cut.ts_known, cut.open_bars               # of the same moment
    both = reader.snapshot({"trade": 1000, "candle.1s.own": 300})

Every answer belongs to one cut: what one `publish` of the writer made visible, in all rings. Records are
copies, read-only. A read that the writer overtook is made again and counted in `lapped`; after `ATTEMPTS`
times it is ArenaContended. The sync points are told in `arena_words`.

Several threads may share a reader, and a child may go on with it after a fork. It leaves a retired file by
itself; `reopen` finds a new one that took the name without a word to the old (a runtime directory that was
removed), and is worth a try whenever `stale_ns` says that the writer is silent.

A reader never crosses to another id. A finer precision gives an instrument a new one: its numbers have other scales,
and who knows the old ones would misread them by powers of ten. `is_replaced` says so: open the path anew then.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from marketd.ipc import arena_words as word
from marketd.ipc.arena import ArenaContended, ArenaState, Identity, Ring, require_x86_64
from marketd.ipc.arena_cut import Cut, MappedArena, Snapshot, inode
from marketd.market.errors import BeyondCache, NotRunning, UnknownStream
from marketd.market.records import Records
from marketd.market.times import isoformat_ns

ATTEMPTS = 1000  # each but the first saw at least one new publication
MAX_REPEATED = 64  # questions whose answers are kept until something new is published
_RETIRED = int(ArenaState.RETIRED)
_STATES = {int(state): state for state in ArenaState}  # to look one up costs a quarter of making one


class Heartbeat(NamedTuple):
    """When the writer last showed that it is alive, and who it is."""

    mono_ns: int  # CLOCK_MONOTONIC
    wall_ns: int
    writer_pid: int
    writer_start_ns: int
    attached: int  # writers that this file has had


class ArenaReaderStatistics(NamedTuple):
    """Counted over this reader's life."""

    lapped: int  # reads made again because the writer overtook them
    contended: int  # reads given up
    remapped: int


class ArenaReader:
    """Reads one arena. Rings are named as in its header: `trade`, `candle.1m.own`, a stream's name."""

    def __init__(self, path: Path, mapped: MappedArena) -> None:
        self.path = path
        self._mapped = mapped
        self.is_replaced = False  # another id has the name by now
        self.lapped = self._contended = self._remapped = 0
        self._repeated: dict[tuple[str, int], tuple[memoryview[int], int, tuple[Records, Cut]]] = {}

    @classmethod
    def open(cls, path: Path) -> ArenaReader:
        """Raises NotRunning (no such file), ArenaUnreadable, ArenaUnsupported."""
        require_x86_64()
        return cls(path, MappedArena(path))

    # ---- reads ----------------------------------------------------------------------------------

    def last(self, ring: str, count: int) -> tuple[Records, Cut]:
        """The newest `count` records, oldest first, shape (<= count,): fewer when the ring reaches less far.

        As long as nothing new is published the same answer is given again, without a copy.
        Raises UnknownStream (no such ring), ArenaContended.
        """
        repeated = self._repeated.get((ring, count))
        if repeated is not None:
            words, number, answer = repeated
            if words[word.PUBLISHED] == number and words[word.STATE] != _RETIRED:
                return answer
        mapped = self._current()
        words, memory, layout = mapped.words, mapped.memory, mapped.layout
        place = mapped.rings.get(ring) or self._no_ring(ring)
        asked, count = count, min(count, place.capacity)
        for _ in range(ATTEMPTS):
            number = words[word.PUBLISHED]  # A2 slots-before-publish
            at = layout.descriptors + (number & word.DESCRIPTOR_MASK) * layout.stride
            descriptor = memory[at : at + layout.stride]
            head = words[at // word.BYTES + place.head]
            if words[word.PUBLISHED] - number >= word.SAFE_MOVES:  # A3 descriptor-reuse
                self.lapped += 1
                continue
            # `newest` does it all; this is its usual case without the calls that a trading loop would notice.
            start = head - count
            slot = start % place.slots
            if 0 <= start < head and slot + count <= place.slots:
                first = place.offset + slot * place.itemsize
                data = memory[first : first + count * place.itemsize]
                # A5 images-before-rewrite, A1 intent-before-slots
                if words[place.live + word.READY] <= number and words[place.live + word.INTENT] - place.slots <= start:
                    answer = np.frombuffer(data, place.dtype), Cut(descriptor, layout)
                    if len(self._repeated) >= MAX_REPEATED:
                        self._repeated.clear()
                    self._repeated[ring, asked] = words, number, answer
                    return answer
            records = mapped.newest(place, number, head, count)
            if records is not None:
                return records, Cut(descriptor, layout)
            self.lapped += 1
        raise self._give_up(ring)

    def snapshot(self, counts: Mapping[str, int]) -> Snapshot:
        """The newest records of several rings, in one cut. Raises as `last`."""
        mapped = self._current()
        places = [(mapped.rings.get(ring) or self._no_ring(ring), count) for ring, count in counts.items()]
        for _ in range(ATTEMPTS):
            cut = self._cut(mapped)
            number = cut.number
            found = {place.name: mapped.newest(place, number, cut.word(place.head), count) for place, count in places}
            records = {ring: newest for ring, newest in found.items() if newest is not None}
            if len(records) == len(found):
                return Snapshot(records, cut)
            self.lapped += 1
        raise self._give_up(", ".join(counts))

    def cut(self) -> Cut:
        """The newest publication, without records of rings. Raises ArenaContended."""
        return self._cut(self._current())

    def _cut(self, mapped: MappedArena) -> Cut:
        words, layout = mapped.words, mapped.layout
        for _ in range(ATTEMPTS):
            number = words[word.PUBLISHED]  # A2 slots-before-publish
            at = layout.descriptors + (number & word.DESCRIPTOR_MASK) * layout.stride
            cut = Cut(mapped.memory[at : at + layout.stride], layout)
            if words[word.PUBLISHED] - number < word.SAFE_MOVES:  # A3 descriptor-reuse
                return cut
            self.lapped += 1
        raise self._give_up("the descriptor")

    def range(self, ring: str, start: int, end: int) -> tuple[Records, Cut]:
        """All records with start <= time < end (ns), in the ring's order: bars by time, others as they came.

        Raises BeyondCache when the ring does not reach back to `start`, and as `last`.
        """
        place = self._place(ring)
        records, cut = self.last(ring, place.capacity)
        since = cut.word(place.head + word.SINCE)
        if start < since:
            raise self._beyond(place, start, since)
        times = records[place.dtype.names[0]]  # type: ignore[index]
        if place.images_offset:
            first, last = np.searchsorted(times, (start, end))
            return records[first:last], cut
        return records[(times >= start) & (times < end)], cut

    def reach(self, ring: str) -> int:
        """The time (ns) since which the ring is complete; NEVER (2**63 - 1) while it is empty."""
        return self.cut().word(self._place(ring).head + word.SINCE)

    # ---- state ----------------------------------------------------------------------------------

    @property
    def state(self) -> ArenaState:
        number = self._current().words[word.STATE]
        return _STATES.get(number) or ArenaState(number)

    def stale_ns(self, now_mono_ns: int | None = None) -> int:
        """Nanoseconds since the writer last showed that it is alive."""
        now = time.monotonic_ns() if now_mono_ns is None else now_mono_ns
        return now - self._current().words[word.HEARTBEAT_MONO]

    @property
    def heartbeat(self) -> Heartbeat:
        words = self._current().words
        return Heartbeat(
            mono_ns=words[word.HEARTBEAT_MONO],
            wall_ns=words[word.HEARTBEAT_WALL],
            writer_pid=words[word.WRITER_PID],
            writer_start_ns=words[word.WRITER_START],
            attached=words[word.ATTACHED],
        )

    @property
    def durable_offset(self) -> int:
        """How far the journal is on disk."""
        return self._current().words[word.DURABLE]

    @property
    def committed_offset(self) -> int:
        """How far the journal is in the database."""
        return self._current().words[word.COMMITTED]

    @property
    def identity(self) -> Identity:
        return self._current().identity

    @property
    def live_words(self) -> memoryview[int]:
        """The words of the mapped file itself, see `arena_words`; another file, another object."""
        return self._current().words

    @property
    def rings(self) -> Mapping[str, Ring]:
        return self._current().rings

    def statistics(self) -> ArenaReaderStatistics:
        return ArenaReaderStatistics(self.lapped, self._contended, self._remapped)

    # ---- life -----------------------------------------------------------------------------------

    def reopen(self) -> bool:
        """Map the file that bears the name now; False when that is the mapped one, there is none, or it is of another
        id (`is_replaced`)."""
        try:
            if inode(self.path) == self._mapped.inode:
                return False
            found = MappedArena(self.path)
        except (FileNotFoundError, NotRunning):
            return False
        if found.identity.instrument_id != self._mapped.identity.instrument_id:
            found.close()
            self.is_replaced = True
            return False
        # The old mapping goes when the last read that uses it has ended, perhaps in another thread.
        self._mapped = found
        self._remapped += 1
        return True

    def close(self) -> None:
        self._repeated.clear()
        self._mapped.close()

    def __enter__(self) -> ArenaReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- parts ----------------------------------------------------------------------------------

    def _current(self) -> MappedArena:
        if self._mapped.words[word.STATE] == _RETIRED:
            self.reopen()
        return self._mapped

    def _place(self, ring: str) -> Ring:
        return self._current().rings.get(ring) or self._no_ring(ring)

    def _no_ring(self, ring: str) -> NoReturn:
        known = ", ".join(self._mapped.rings)
        raise UnknownStream(f"{self.path}: the arena has no ring {ring!r}; there are: {known}", field="ring")

    def _beyond(self, place: Ring, start: int, since: int) -> BeyondCache:
        reach = "is empty" if since == word.NEVER else f"reaches back to {isoformat_ns(since)}"
        setting = "cache.bars" if place.images_offset else "cache.window or cache.trades_per_second"
        return BeyondCache(
            f"start: {isoformat_ns(start)} is before what shared memory has of {self.identity.instrument}: "
            f"{place.name} {reach}; a larger {setting} keeps more, and the database has the rest",
            field="start",
        )

    def _give_up(self, what: str) -> ArenaContended:
        self._contended += 1
        return ArenaContended(
            f"{self.path}: {what}: the writer was faster in all {ATTEMPTS} attempts; ask for fewer records"
        )
