"""One ring of an arena, for its writer: append, new versions of closed bars, places by time.

Changes go to the slots at once and to the descriptor in preparation (`stage`); `ArenaWriter` publishes it.
Positions count records over the arena's life: position p is in slot p % slots until p + slots is written.
The sync points A1, A4 and A5 of `arena_words` are here.
"""

from __future__ import annotations

import mmap

import numpy as np

from marketd.ipc import arena_words as word
from marketd.ipc.arena import Layout, Ring
from marketd.market.errors import InvalidArgument
from marketd.market.records import Records

Data = bytes | bytearray | memoryview | Records  # whole records

_SCALAR_RECORDS = 8  # up to here a loop is quicker than numpy's first call


class RingWriter:
    """Writes one ring. `stage` is the descriptor that the next publication will be, its number included."""

    def __init__(
        self,
        layout: Layout,
        place: Ring,
        memory: mmap.mmap,
        words: memoryview[int],
        stage: memoryview[int],
    ) -> None:
        self.layout, self.place = layout, place
        self._memory, self._words, self._stage = memory, words, stage
        self._itemsize, self._slots, self._offset = place.itemsize, place.slots, place.offset
        self._capacity, self._intent, self._head = place.capacity, place.live + word.INTENT, place.head
        self._since = place.head + word.SINCE
        # Longer batches go in steps, short enough to leave whole what they move out of the readers' reach.
        self._step = min(place.capacity, place.slots - place.capacity)
        self.appended = self.rewritten = self.dropped = 0

    @property
    def head(self) -> int:
        """The position after the newest record, published or not."""
        return self._stage[self._head]

    @property
    def oldest(self) -> int:
        """The position of the oldest record that is still whole."""
        return max(0, self._words[self._intent] - self._slots)

    def append(self, data: Data) -> None:
        """Whole records after the newest; InvalidArgument when they are not whole."""
        if type(data) is not bytes:
            data = _as_bytes(data)
        if len(data) == self._itemsize:
            self._append(data, 1)
            return
        count, rest = divmod(len(data), self._itemsize)
        if rest:
            raise InvalidArgument(f"ring {self.place.name}: {len(data)} bytes are no whole records of {self._itemsize}")
        if 0 < count <= self._step:
            self._append(data, count)
            return
        for first in range(0, count, self._step):
            part = data[first * self._itemsize : (first + self._step) * self._itemsize]
            self._append(part, len(part) // self._itemsize)

    def _append(self, data: bytes, count: int) -> None:
        stage, size = self._stage, len(data)
        head = stage[self._head]
        end = head + count
        if end > self._words[self._intent]:
            self._words[self._intent] = end  # A1 intent-before-slots
        slot = head % self._slots
        if slot + count <= self._slots:
            start = self._offset + slot * self._itemsize
            self._memory[start : start + size] = data
        else:
            self._store(head, data)
        if end > self._capacity:
            self._forget(max(0, head - self._capacity), end - self._capacity)
        elif stage[self._since] == word.NEVER:
            stage[self._since] = self.time_at(head)
        stage[self._head] = end
        self.appended += count

    def _store(self, position: int, data: bytes) -> None:
        """Copy records into the slots of `position` and those after it, around the ring's end."""
        done = 0
        for start, end in self.place.places(self._offset, position, position + len(data) // self._itemsize):
            self._memory[start:end] = data[done : done + end - start]
            done += end - start

    def _forget(self, first: int, end: int) -> None:
        """Positions [first, end) leave the capacity: the ring is complete after the newest of their times."""
        if end - first <= _SCALAR_RECORDS:
            newest = max(map(self.time_at, range(first, end)))
        else:
            records = np.frombuffer(self.records(first, end), self.place.dtype)
            newest = int(records[records.dtype.names[0]].max())  # type: ignore[index]
        stage = self._stage
        if stage[self._since] <= newest or stage[self._since] == word.NEVER:
            stage[self._since] = newest + 1
        self.dropped += end - first

    # ---- closed bars ----------------------------------------------------------------------------

    def rewrite(self, position: int, data: Data) -> None:
        """New versions of the bars from `position` on; what reaches beyond the newest is appended.

        InvalidArgument when the ring does not hold the position, or takes no new versions.
        """
        data = _as_bytes(data)
        count, rest = divmod(len(data), self._itemsize)
        if rest or not self.place.images_offset or not self.oldest <= position <= self.head:
            raise InvalidArgument(
                f"ring {self.place.name}: {len(data)} bytes cannot go to {position}; it has positions "
                f"{self.oldest} to {self.head}, records of {self._itemsize} bytes, "
                f"{'' if self.place.images_offset else 'no '}new versions"
            )
        inside = min(count, self.head - position)
        if inside:
            self._keep_images(position, position + inside)
            self._store(position, data[: inside * self._itemsize])
            self._stage[self._head + word.REVISION] += 1
            self.rewritten += inside
        if inside < count:
            self.append(data[inside * self._itemsize :])

    def put(self, data: Data) -> bool:
        """One closed bar into its place by time: after the newest, as a new version, or between two others.

        False when its place is before all that the ring holds and the ring has dropped bars already.
        """
        bar = _as_bytes(data)
        position = self._lower_bound(int.from_bytes(bar[: word.BYTES], "little", signed=True))
        if position == self.head:
            self.append(bar)
        elif bar[: word.BYTES] == self.records(position, position + 1)[: word.BYTES]:
            self.rewrite(position, bar)
        elif position == self.oldest and position > 0:
            return False
        else:
            self.rewrite(position, bar + self.records(position, self.head))
        return True

    def find(self, ts: int) -> int | None:
        """The position of the bar that opens at `ts` (ns), or None."""
        position = self._lower_bound(ts)
        return position if position < self.head and self.time_at(position) == ts else None

    def records(self, start: int, end: int) -> bytes:
        """A copy of positions [start, end), published or not."""
        return b"".join([self._memory[a:b] for a, b in self.place.places(self._offset, start, end)])

    def time_at(self, position: int) -> int:
        """The time of a record: every kind begins with it."""
        return self._words[(self._offset + position % self._slots * self._itemsize) // word.BYTES]

    def _lower_bound(self, ts: int) -> int:
        """The first position whose time is not before ts (bars stand in order of their times)."""
        low, high = self.oldest, self.head
        if low < high and self.time_at(high - 1) < ts:
            return high  # nearly always: the bar after the newest
        while low < high:
            middle = (low + high) // 2
            if self.time_at(middle) < ts:
                low = middle + 1
            else:
                high = middle
        return low

    # ---- before-images --------------------------------------------------------------------------

    def _keep_images(self, low: int, high: int) -> None:
        """Before-images of what readers can see of positions [low, high)."""
        words, live, place = self._words, self.place.live, self.place
        generation = self._stage[word.NUMBER]
        published = self.layout.descriptor_at(generation - 1) // word.BYTES
        high = min(high, words[published + self._head])
        if low >= high:
            return  # not published yet: no reader can have it
        if words[live + word.READY] != generation:
            words[live + word.BEGIN] = generation  # A4 begin-before-images
            self._copy(place.offset, place.images_offset, low, high)
            words[live + word.LOW] = low
            words[live + word.HIGH] = high
            words[live + word.READY] = generation  # A5 images-before-rewrite
            return
        # The range only grows, each end by one store and after its images: a reader that sees the smaller
        # range has nothing yet of what is rewritten after it grew.
        if low < words[live + word.LOW]:
            self._copy(place.offset, place.images_offset, low, words[live + word.LOW])
            words[live + word.LOW] = low  # A5 images-before-rewrite
        if high > words[live + word.HIGH]:
            self._copy(place.offset, place.images_offset, words[live + word.HIGH], high)
            words[live + word.HIGH] = high  # A5 images-before-rewrite

    def restore(self) -> None:
        """Put the before-images back, where they were kept for a publication that never came."""
        words, live, place = self._words, self.place.live, self.place
        if place.images_offset and words[live + word.READY] == self._stage[word.NUMBER]:
            # Where an append has taken a slot of the range since, neither its old nor its new record is in reach.
            low, high = words[live + word.LOW], words[live + word.HIGH]
            self._copy(place.images_offset, place.offset, low, high)

    def _copy(self, source: int, target: int, low: int, high: int) -> None:
        places = zip(self.place.places(source, low, high), self.place.places(target, low, high), strict=True)
        for (a, b), (c, d) in places:
            self._memory[c:d] = self._memory[a:b]


def _as_bytes(data: Data) -> bytes:
    return data if isinstance(data, bytes) else data.tobytes() if isinstance(data, np.ndarray) else bytes(data)
