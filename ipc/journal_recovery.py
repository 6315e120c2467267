"""What an opening finds, and how it is put right before anything is appended.

    nothing there                              a new journal with a new uuid
    a bad frame, whole ones behind it that      damage: JournalDamaged, nothing is touched
      were written after it was durable
    any other bad frame in the newest segment   a torn tail: cut, reported
    frames only in the front buffer             written to the segments
    a front buffer of another journal           reported, replaced
    a newest segment without a frame            taken back; its predecessor goes on

Everything is decided before anything is written.
"""

from __future__ import annotations

import uuid as uuids
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from marketd.ipc import frames, segments
from marketd.ipc.front import Front
from marketd.ipc.journal_errors import FrameError, damaged
from marketd.ipc.journal_store import SegmentStore
from marketd.ipc.segments import Scan, SegmentFile


class Recovered(NamedTuple):
    front: Front  # what it holds beyond its `durable` still has to be written
    boundaries: list[int]  # offsets in there where a segment begins that is not on disk
    repairs: list[str]  # what was found and done, in sentences


def recover(directory: Path, store: SegmentStore, front_path: Path | None, front_bytes: int) -> Recovered:
    """Bring `store` to the end of the journal. Raises JournalDamaged or JournalFull."""
    files = segments.list_segments(directory)
    uuid = segments.check_chain(files) if files else uuids.uuid4().bytes
    with ExitStack() as undo:
        front, repairs = _take_front(front_path, uuid)
        if front is not None:
            undo.callback(front.close)
        if not files:
            store.begin(uuid)
            end, boundaries = 0, None
        else:
            scan = _scan_newest(directory, files[-1])
            boundaries = _take_over(directory, files[-1], scan, front, repairs)
            if boundaries is None:
                files, scan = _take_back_empty(directory, files, scan, repairs)
            _resume(store, files, uuid, scan, repairs)
            end = scan.end
        if front is None or (boundaries is None and front.size != front_bytes):
            return Recovered(Front.create(front_path, front_bytes, uuid, end), [], repairs)
        if boundaries is None:
            front.reset(end)
        undo.pop_all()
        return Recovered(front, boundaries or [], repairs)


def _scan_newest(directory: Path, newest: SegmentFile) -> Scan:
    scan = segments.scan(segments.read_body(newest), newest.first)
    if scan.is_damaged:
        what = f"{scan.flaw}; later frames say that the disk had everything up to {scan.known_durable}"
        raise damaged(directory, newest.name, scan.end, what)
    if scan.frame_count and scan.checkpoint is None:
        raise damaged(directory, newest.name, newest.first, "it does not begin with a checkpoint")
    return scan


def _take_front(path: Path | None, uuid: bytes) -> tuple[Front | None, list[str]]:
    """The front buffer of this journal, if there is one; a sentence about any other."""
    if path is None:
        return None, []
    front = Front.attach(path)
    if front is None:
        return None, [f"{path} was no front buffer; it was replaced"] if path.exists() else []
    if front.uuid == uuid:
        return front, []
    owner, held = front.uuid.hex(), front.written - front.durable
    front.close()
    return None, [
        f"the front buffer {path} belongs to journal {owner}, not to {uuid.hex()}; it was replaced, with {held} "
        "bytes in it that the disk of that journal did not have"
    ]


def _take_over(
    directory: Path, newest: SegmentFile, scan: Scan, front: Front | None, repairs: list[str]
) -> list[int] | None:
    """Go on from what the front buffer holds: where segments begin in it; None when the disk has it all.

    Written again is everything that the disk never confirmed, also what a scan finds there: after a failed sync the
    page cache shows frames which the disk does not have.
    """
    if front is None:
        return None
    start = max(newest.first, min(scan.end, front.durable))
    end, boundaries = _walk(front, newest, start)
    if end < front.written:
        lost = front.written - end
        repairs.append(f"the front buffer cannot be read at offset {end}; {lost} bytes in it are lost")
    if max(end, scan.end) < front.durable:
        what = f"everything up to {front.durable} was on disk once, and is neither there nor in the front buffer"
        raise damaged(directory, newest.name, scan.end, what)
    if end < scan.end or end == start:
        return None
    if end > scan.end:
        repairs.append(f"{end - scan.end} bytes behind offset {scan.end} were only in the front buffer; restored")
    front.cut(end)
    front.durable = start
    return boundaries


def _walk(front: Front, newest: SegmentFile, start: int) -> tuple[int, list[int]]:
    """How far whole frames go in the front buffer from `start` on, and which of them begin a new segment."""
    at, boundaries = start, list[int]()
    if not front.start <= start < front.written:
        return at, boundaries
    view = memoryview(front.read(start, front.written))
    while at < front.written:
        try:
            frame = frames.decode(view, at - start, at)
        except FrameError:
            break
        if frame.begins_segment and at != newest.first:
            boundaries.append(at)
        at = frame.end
    return at, boundaries


def _take_back_empty(
    directory: Path, files: list[SegmentFile], scan: Scan, repairs: list[str]
) -> tuple[list[SegmentFile], Scan]:
    """A segment without its checkpoint is no place to start from: its predecessor goes on instead."""
    if scan.frame_count or len(files) == 1:
        return files, scan
    predecessor = _scan_newest(directory, files[-2])
    if predecessor.end != scan.end:
        what = f"whole frames end there, and its successor begins at {scan.end}"
        raise damaged(directory, files[-2].name, predecessor.end, what)
    files[-1].path.unlink()
    segments.sync_directory(directory)
    repairs.append(f"segment {files[-1].name} held nothing; it was taken back")
    return files[:-1], predecessor


def _resume(store: SegmentStore, files: list[SegmentFile], uuid: bytes, scan: Scan, repairs: list[str]) -> None:
    store.resume(files, uuid)
    if scan.dirty_bytes:
        store.erase(scan.end, scan.dirty_bytes)
        repairs.append(f"torn tail: {scan.dirty_bytes} bytes behind offset {scan.end} were cut ({scan.flaw})")
    else:
        store.sync()  # a killed process may have left its last frames in the page cache
