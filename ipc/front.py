"""The front buffer: where a frame is kept until the disk has it.

A ring in shared memory (a tmpfs file in the runtime directory), addressed by offset % size. `append` of the journal
copies a frame in here and is done; the flusher writes from here. The file outlives the process, so a SIGKILL loses
nothing: the next opening finds in it what had not reached the disk. A place is used again only when the disk has
what was there (`durable`), so even a failed fdatasync loses nothing that the machine survives.

    page 0        magic, version, header size, uuid of the journal, ring size, crc32; then three words:
      word 8      base: the ring holds nothing before this offset
      word 9      written: the end of the newest whole frame    F1 written-after-frame
      word 10     durable: what the disk has
      words 16+   what appender and flusher tell each other, see `flush_words`
    then          the ring

F1: the bytes of a frame are in the ring before `written` covers them. A process that is killed between the two
leaves a frame that was never promised to anybody.

Without a path it is anonymous memory and dies with the process: for the import lane, which can start again.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from mmap import mmap
from pathlib import Path
from struct import Struct
from zlib import crc32

from marketd.ipc.flush_words import FlushWords
from marketd.ipc.frames import Body, encode_into
from marketd.ipc.journal_errors import JournalLocked
from marketd.ipc.segments import FILE_MODE, NO_ROOM
from marketd.market.errors import ConfigError

PAGE_BYTES = 4096
HEADER = Struct("<8sII16sqI")
MAGIC = b"MKTDFRO\n"
VERSION = 1
ORPHAN_SECONDS = 0.1
_BASE, _WRITTEN, _DURABLE = 8, 9, 10  # words of page 0


class Front:
    """One writer (the thread that appends), one reader (the flusher, a thread or a process of its own)."""

    def __init__(self, memory: mmap, size: int, uuid: bytes, fd: int | None) -> None:
        self.size = size
        self.uuid = uuid
        self._memory = memory
        self._fd = fd  # kept open for its lock
        self._view = memoryview(memory)
        self._words = self._view[:PAGE_BYTES].cast("q")
        self.words = FlushWords(self._words)
        self._scratch = mmap(-1, size)  # for frames that go round the ring's end; untouched pages cost nothing
        self._scratch_view = memoryview(self._scratch)

    @classmethod
    def create(cls, path: Path | None, size: int, uuid: bytes, offset: int) -> Front:
        """A new, empty front buffer at `offset`; it replaces a file of that name at once or not at all."""
        if path is None:
            return cls._initialise(mmap(-1, PAGE_BYTES + size), size, uuid, offset, None)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.new")
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
        try:
            _lock(fd, path)
            _allocate(fd, path, PAGE_BYTES + size)
            front = cls._initialise(mmap(fd, PAGE_BYTES + size), size, uuid, offset, fd)
            os.rename(temporary, path)
        except BaseException:
            os.close(fd)
            temporary.unlink(missing_ok=True)
            raise
        return front

    @classmethod
    def _initialise(cls, memory: mmap, size: int, uuid: bytes, offset: int, fd: int | None) -> Front:
        fields = (MAGIC, VERSION, PAGE_BYTES, uuid, size)
        packed = HEADER.pack(*fields, 0)
        HEADER.pack_into(memory, 0, *fields, crc32(packed[:-4]))
        front = cls(memory, size, uuid, fd)
        front.reset(offset)
        return front

    @classmethod
    def attach(cls, path: Path) -> Front | None:
        """The front buffer that an earlier process left, or None when there is no usable one."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            _lock(fd, path)
            found = _read_header(fd)
            if found is None:
                os.close(fd)
                return None
            uuid, size = found
            return cls(mmap(fd, PAGE_BYTES + size), size, uuid, fd)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def adopt(cls, fd: int) -> Front:
        """The front buffer behind a descriptor of another process, which has its lock."""
        found = _read_header(fd)
        assert found is not None  # whoever hands it over has made it, or has read it
        uuid, size = found
        return cls(mmap(fd, PAGE_BYTES + size), size, uuid, fd)

    @property
    def fd(self) -> int:
        """To hand it over to another process; -1 when it is the memory of this one alone."""
        return -1 if self._fd is None else self._fd

    @property
    def base(self) -> int:
        return self._words[_BASE]

    @property
    def written(self) -> int:
        return self._words[_WRITTEN]

    @property
    def durable(self) -> int:
        return self._words[_DURABLE]

    @durable.setter
    def durable(self, offset: int) -> None:
        self._words[_DURABLE] = offset

    @property
    def start(self) -> int:
        """The oldest offset that the ring still holds."""
        return max(self.base, self.written - self.size)

    def reset(self, offset: int) -> None:
        """Empty, going on at `offset`. Base first: killed in between, it holds nothing rather than too much."""
        self._words[_BASE] = offset
        self._words[_WRITTEN] = offset
        self._words[_DURABLE] = offset

    def put(
        self,
        length: int,
        offset: int,
        durable: int,
        flags: int,
        instrument: int,
        seq: int,
        ts_known: int,
        body: Body,
    ) -> None:
        """The frame at `offset` = `written`; the caller has seen to it that there is room for `length` bytes."""
        at = offset % self.size
        if at + length <= self.size:
            encode_into(
                self._memory, self._view, PAGE_BYTES + at, length,
                offset, durable, flags, instrument, seq, ts_known, body,
            )  # fmt: skip
        else:
            encode_into(
                self._scratch, self._scratch_view, 0, length,
                offset, durable, flags, instrument, seq, ts_known, body,
            )  # fmt: skip
            head = self.size - at
            self._view[PAGE_BYTES + at : PAGE_BYTES + self.size] = self._scratch_view[:head]
            self._view[PAGE_BYTES : PAGE_BYTES + length - head] = self._scratch_view[head:length]
        self._words[_WRITTEN] = offset + length  # F1 written-after-frame

    def cut(self, offset: int) -> None:
        """Forget what was written from `offset` on."""
        self._words[_WRITTEN] = offset

    def pieces(self, start: int, stop: int) -> Iterator[memoryview]:
        """The bytes of [start, stop) in one piece, or two where they go round the ring's end; not copied."""
        at, length = start % self.size, stop - start
        head = min(length, self.size - at)
        yield self._view[PAGE_BYTES + at : PAGE_BYTES + at + head]
        if length > head:
            yield self._view[PAGE_BYTES : PAGE_BYTES + length - head]

    def read(self, start: int, stop: int) -> bytes:
        """A copy of the bytes of [start, stop)."""
        return b"".join(self.pieces(start, stop))

    def close(self) -> None:
        self._words.release()
        self._view.release()
        self._memory.close()
        self._scratch_view.release()
        self._scratch.close()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _lock(fd: int, path: Path) -> None:
    """At once; but the flusher of a killed process lets go of this a moment after the journal's own lock."""
    deadline = time.monotonic() + ORPHAN_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise JournalLocked(f"front buffer {path}: another journal uses it; give each its own") from None
        time.sleep(ORPHAN_SECONDS / 50)


def _allocate(fd: int, path: Path, size: int) -> None:
    """All pages now: a store into a page that a full tmpfs cannot give would kill the process with SIGBUS."""
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise ConfigError(
            f"journal.front: {path.parent} has no room for {size} bytes; make room there, or set a smaller one",
            field="journal.front",
        ) from error


def _read_header(fd: int) -> tuple[bytes, int] | None:
    data = os.pread(fd, HEADER.size, 0)
    if len(data) < HEADER.size:
        return None
    magic, version, _, uuid, size, crc = HEADER.unpack(data)
    whole = magic == MAGIC and version == VERSION and crc == crc32(data[:-4])
    if not whole or os.fstat(fd).st_size != PAGE_BYTES + size:
        return None
    return uuid, size
