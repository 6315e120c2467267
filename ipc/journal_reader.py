"""Following a journal from another process (or the same): read frames from an offset on.

A reader holds no lock and leaves no trace; the writer does not know of it. `until` is an offset that the writer said
is durable: up to there every frame must be whole, and one that is not is damage. Without `until` a reader gets what is
written so far, whole frames only, durable or not.

A segment is over for a reader when the next one begins where it stands; the file's own end says nothing, for the
writer allocates ahead.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from marketd.ipc import frames, segments
from marketd.ipc.frames import Frame, decode
from marketd.ipc.journal_errors import FrameError, FrameTruncated, JournalMismatch, JournalMissing, damaged
from marketd.ipc.segments import HEADER_BYTES, SegmentFile
from marketd.market.errors import MarketdError

DEFAULT_READ_BYTES = 1 << 20


class JournalReader:
    """Reads one journal. `uuid`: only if it is this one, else JournalMismatch. A context manager."""

    def __init__(self, directory: Path, *, uuid: bytes | None = None) -> None:
        self._directory = directory
        self._segments: list[SegmentFile] = []
        self._open: SegmentFile | None = None
        self._fd = -1
        self._refresh()
        self.uuid = segments.read_header(self._segments[-1]).uuid
        if uuid is not None and uuid != self.uuid:
            raise JournalMismatch(
                f"journal {directory} is {self.uuid.hex()}, the offset belongs to {uuid.hex()}: use the directory of "
                "that journal, or the database of this one"
            )

    @property
    def oldest(self) -> int:
        """The first offset that is still here."""
        self._refresh()
        return self._segments[0].first

    @property
    def newest_checkpoint(self) -> int:
        """Where the newest segment begins."""
        self._refresh()
        return self._segments[-1].first

    def segment_before(self, offset: int) -> int | None:
        """Where the newest segment begins that begins before `offset`; None when there is none."""
        self._refresh()
        return max((segment.first for segment in self._segments if segment.first < offset), default=None)

    def around(self, offset: int) -> tuple[int, int]:
        """Where the frame begins that holds `offset`, and where it ends; both are the journal's end behind the last.

        Raises JournalMismatch when `offset` is before `oldest`, JournalDamaged where frames before it are not whole.
        """
        begin = self._locate(offset)[0].first
        while found := self.read(begin):
            for frame in found:
                if frame.end > offset:
                    return frame.offset, frame.end
            begin = found[-1].end
        return begin, begin

    def read(self, offset: int, until: int | None = None, max_bytes: int = DEFAULT_READ_BYTES) -> list[Frame]:
        """Frames from `offset` on, about `max_bytes` of them but at least one if there is one; across segments.

        Payloads are views of bytes of their own: they stay valid. Raises JournalMismatch when `offset` is before
        `oldest` or behind `until`, JournalDamaged when a frame before `until` is not whole.
        """
        if until is not None and offset > until:
            raise JournalMismatch(
                f"journal {self._directory} ends at offset {until}, and {offset} is asked for: it is not the journal "
                "that this offset came from, or a copy of an earlier time"
            )
        found: list[Frame] = []
        try:
            self._collect(offset, until, max_bytes, found)
        except MarketdError:
            if not found:
                raise
            # What is whole goes out first; the next call begins at the trouble and tells it.
        return found

    def _collect(self, offset: int, until: int | None, max_bytes: int, found: list[Frame]) -> None:
        stop_reading = offset + max_bytes
        while (until is None or offset < until) and offset < stop_reading:
            segment, stop = self._locate(offset)
            limit = min((x for x in (until, stop) if x is not None), default=None)
            flaw = self._read_segment(segment, offset, limit, stop_reading - offset, found)
            reached = found[-1].end if found else offset
            if reached == offset and not self._is_over(segment, offset, until, flaw):
                return
            offset = reached

    def first_frame(self, offset: int) -> Frame:
        """The one frame at `offset`, whatever comes behind it; JournalDamaged when there is none."""
        found = self.read(offset, max_bytes=1)
        if not found:
            raise damaged(self._directory, self._locate(offset)[0].name, offset, "no frame begins here")
        return found[0]

    def _read_segment(
        self, segment: SegmentFile, offset: int, limit: int | None, max_bytes: int, found: list[Frame]
    ) -> str | None:
        """Append whole frames of one segment to `found`; why the last one was none, if it was none."""
        fd = self._descriptor(segment)
        if fd is None:
            return None
        wanted = max_bytes if limit is None else min(max_bytes, limit - offset)
        position = HEADER_BYTES + offset - segment.first
        view = memoryview(os.pread(fd, max(wanted, frames.HEADER_BYTES), position))
        header = frames.peek(view)
        if header is not None and header.length > len(view):  # one frame larger than asked for
            view = memoryview(os.pread(fd, min(header.length, os.fstat(fd).st_size), position))
        return _parse(view, offset, limit, found)

    def _is_over(self, segment: SegmentFile, offset: int, until: int | None, flaw: str | None) -> bool:
        """No frame at `offset`: True if another segment begins there, False at the end; else JournalDamaged."""
        self._close_segment()  # a writer that recovered may have put another file in its place
        self._refresh()
        names = [other.first for other in self._segments]
        if offset in names and offset != segment.first:
            return True
        if segment.first not in names:
            return True  # let go meanwhile: `_locate` says so loudly; or taken back, and its predecessor goes on
        later = any(first > offset for first in names)
        if later or until is not None:
            what = flaw or "there is nothing where a frame must be"
            raise damaged(self._directory, segment.name, offset, what)
        return False

    def _locate(self, offset: int) -> tuple[SegmentFile, int | None]:
        """The segment of an offset, and where its successor begins if there is one by now."""
        for attempt in range(2):
            for index in range(len(self._segments) - 1, -1, -1):
                if self._segments[index].first <= offset:
                    following = self._segments[index + 1 : index + 2]
                    return self._segments[index], following[0].first if following else None
            if attempt == 0:
                self._refresh()
        raise JournalMismatch(
            f"journal {self._directory} begins at offset {self._segments[0].first}, and {offset} is asked for: the "
            "records between are no longer here. Use the database that has them, or go on from "
            f"{self._segments[0].first} knowing that they are missing"
        )

    def _descriptor(self, segment: SegmentFile) -> int | None:
        """The open file of a segment, or None when it was let go."""
        if self._open == segment:
            return self._fd
        self._close_segment()
        try:
            fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            header = segments.unpack_header(os.pread(fd, HEADER_BYTES, 0), segment)
            if header.uuid != self.uuid:
                raise JournalMismatch(
                    f"journal {self._directory}: segment {segment.name} belongs to journal {header.uuid.hex()}, not to "
                    f"{self.uuid.hex()}"
                )
        except BaseException:
            os.close(fd)
            raise
        self._fd, self._open = fd, segment
        return fd

    def _refresh(self) -> None:
        try:
            found = segments.list_segments(self._directory)
        except FileNotFoundError:
            found = []
        if not found:
            raise JournalMissing(f"there is no journal in {self._directory}")
        self._segments = found

    def _close_segment(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._open = -1, None

    def close(self) -> None:
        self._close_segment()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _parse(view: memoryview, offset: int, limit: int | None, found: list[Frame]) -> str | None:
    at, size = 0, len(view)
    if limit is not None:
        size = min(size, limit - offset)
    try:
        while at < size:
            frame = decode(view, at, offset + at)
            found.append(frame)
            at = frame.end - offset
    except FrameTruncated as error:
        return None if at else str(error)  # cut by the read, not by the writer: next time
    except FrameError as error:
        return str(error)
    return None
