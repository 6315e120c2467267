"""What `marketd journal check` and `marketd journal show` tell. Reads only, beside a running writer too.

A torn tail of the newest segment is no problem: the next opening cuts it, and a running writer's last write may look
like one. Everything in `problems` is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from marketd.ipc import segments
from marketd.ipc.checkpoints import Assembly
from marketd.ipc.frames import Frame
from marketd.ipc.journal_errors import JournalMissing
from marketd.ipc.journal_reader import JournalReader
from marketd.ipc.segments import HEADER_BYTES, Scan, SegmentFile
from marketd.market.errors import JournalDamaged


class SegmentReport(NamedTuple):
    name: str
    first: int
    end: int  # behind its last whole frame, before the first bad one
    frames: int
    file_bytes: int
    checkpoint_bytes: int  # of the writer's states, whole or in pieces
    problem: str | None


class Report(NamedTuple):
    directory: Path
    uuid: str  # of the oldest segment with a readable header, in hex
    segments: tuple[SegmentReport, ...]
    torn_bytes: int  # behind the end of the newest segment
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def oldest(self) -> int:
        return self.segments[0].first

    @property
    def end(self) -> int:
        return self.segments[-1].end

    @property
    def frames(self) -> int:
        return sum(segment.frames for segment in self.segments)


class FrameLine(NamedTuple):
    """One frame as `show` prints it; `sections` are (kind id, count)."""

    offset: int
    end: int
    durable: int
    checkpoint: bool
    instrument: int
    seq: int
    ts_known: int
    sections: tuple[tuple[int, int], ...]


def check(directory: Path) -> Report:
    """Read every byte of a journal. Raises JournalMissing when there is none."""
    files = segments.list_segments(directory) if directory.is_dir() else []
    if not files:
        raise JournalMissing(f"there is no journal in {directory}")
    uuid: bytes | None = None
    states = _States()
    reports: list[SegmentReport] = []
    torn_bytes = 0
    for file, successor in zip(files, [*files[1:], None], strict=True):
        try:
            uuid = segments.check_chain([file], uuid)
            body = segments.read_body(file)
            states.begin_segment()
            scan = segments.scan(body, file.first, successor.first if successor else None, states.take)
        except FileNotFoundError:
            continue  # the writer let it go meanwhile
        except JournalDamaged as error:
            reports.append(SegmentReport(file.name, file.first, file.first, 0, file.path.stat().st_size, 0, str(error)))
            continue
        reports.append(_report(file, len(body), successor, scan, states.taken_bytes))
        torn_bytes = scan.dirty_bytes
    problems = [f"{report.name}: {report.problem}" for report in reports if report.problem]
    if not states.found and states.has_records and not problems:
        problems.append("no checkpoint is whole: there is nothing that its records could be added to")
    return Report(directory, uuid.hex() if uuid else "", tuple(reports), torn_bytes, tuple(problems))


class _States:
    """What a reading of all frames says of the writer's states."""

    def __init__(self) -> None:
        self._assembly = Assembly()
        self._before = 0
        self.found = self.has_records = False

    def begin_segment(self) -> None:
        self._before = self._assembly.taken_bytes

    @property
    def taken_bytes(self) -> int:
        """Of states, in this segment."""
        return self._assembly.taken_bytes - self._before

    def take(self, frame: Frame) -> None:
        if not frame.is_checkpoint:
            self.has_records = True
        elif self._assembly.take(frame) is not None:
            self.found = True


def _report(
    file: SegmentFile, body_bytes: int, successor: SegmentFile | None, scan: Scan, checkpoint_bytes: int
) -> SegmentReport:
    return SegmentReport(
        file.name,
        file.first,
        scan.end,
        scan.frame_count,
        HEADER_BYTES + body_bytes,
        checkpoint_bytes,
        _problem(successor, scan),
    )


def _problem(successor: SegmentFile | None, scan: Scan) -> str | None:
    if scan.is_damaged:
        return f"damaged at offset {scan.end}: {scan.flaw}; later frames say that it was on disk"
    if successor is not None and scan.end != successor.first:
        why = scan.flaw or "nothing was written there"
        return f"damaged at offset {scan.end}: {why}; its successor begins at {successor.first}"
    if scan.frame_count and scan.checkpoint is None:
        return "it does not begin with a checkpoint"
    return None


def show(directory: Path, start: int | None = None) -> Iterator[FrameLine]:
    """The frames from offset `start` on (default: from the newest checkpoint), one line's worth each.

    Ends at the journal's end; raises JournalDamaged where a frame is not whole.
    """
    with JournalReader(directory) as reader:
        offset = reader.newest_checkpoint if start is None else start
        while found := reader.read(offset):
            for frame in found:
                sections = tuple((section.kind, section.count) for section in frame.sections)
                yield FrameLine(
                    frame.offset,
                    frame.end,
                    frame.durable,
                    frame.is_checkpoint,
                    frame.instrument,
                    frame.seq,
                    frame.ts_known,
                    sections,
                )
            offset = found[-1].end
