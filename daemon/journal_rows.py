"""From journal frames to table rows: what the writer commits in one transaction. Pure.

Payloads of one kind are joined over all frames and read as one array, so that the cost of a record is the same in a
frame of one and in a frame of thousands.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

import numpy as np

from marketd.daemon.kernel import QUARANTINE_KIND, quarantine_decoder
from marketd.daemon.pieces import stretches
from marketd.ipc.frames import Frame
from marketd.market.book_rows import depth_of_bytes
from marketd.market.errors import InvalidArgument
from marketd.market.records import COVERAGE, INSTRUMENT, Kind, KindTable, Records, book_kind
from marketd.sql.store import Commit, Ids, StoredQuarantine, TableRows, split_rows

Layout = tuple[int, int]  # a kind's number and the bytes of its records

BOOK_NAME = "book"
UNDECLARED_ITEM = 1 << 30  # numbers of such items begin here, apart from those of a frame's quarantine section


def commit_of(frames: Sequence[Frame], kinds: KindTable, journal: UUID, lane: str) -> Commit:
    """Everything that `frames` (at least one) bring to the database."""
    # by kind and size: books of another depth than now have records of another size
    payloads: defaultdict[Layout, list[memoryview]] = defaultdict(list)
    owners: defaultdict[Layout, list[int]] = defaultdict(list)
    counts: defaultdict[Layout, list[int]] = defaultdict(list)
    quarantine: list[StoredQuarantine] = []
    ts_known = 0
    for frame in frames:
        if frame.is_checkpoint:
            continue  # ingest's own state
        ts_known = max(ts_known, frame.ts_known)
        undeclared = UNDECLARED_ITEM
        for kind_id, itemsize, count, payload in frame.sections:
            layout = kind_id, itemsize
            if kind_id == QUARANTINE_KIND.id:
                quarantine += _quarantine_rows(frame, payload)
            elif layout not in payloads and not _is_known(kind_id, itemsize, kinds):
                quarantine += _undeclared_rows(frame, kind_id, itemsize, payload, undeclared)
                undeclared += count
            else:
                payloads[layout].append(payload)
                owners[layout].append(frame.instrument)
                counts[layout].append(count)
    rows: list[TableRows] = []
    instruments: Records | None = None
    coverage: list[tuple[Ids, Records]] = []
    for layout, buffers in payloads.items():
        kind = _kind_of(layout, kinds)
        if kind.table is None:
            continue
        records, ids = _join(kind, buffers, owners[layout], counts[layout])
        if kind.dtype is INSTRUMENT:
            instruments = records
        elif kind.dtype is COVERAGE:
            coverage.append((ids, records))
        else:
            for table_rows in split_rows(kind, ids, records):
                rows += stretches(table_rows)
    return Commit(journal, lane, frames[-1].end, ts_known, rows, instruments, coverage, quarantine, frames[0].offset)


def _is_known(kind_id: int, itemsize: int, kinds: KindTable) -> bool:
    """Can these records be read? Not those of a stream that is declared no more, or whose layout was another once."""
    if kind_id not in kinds:
        return False
    kind = kinds.by_id(kind_id)
    if kind.dtype.itemsize == itemsize:
        return True
    with suppress(InvalidArgument):
        return kind.name == BOOK_NAME and depth_of_bytes(itemsize) > 0
    return False


def _kind_of(layout: Layout, kinds: KindTable) -> Kind:
    kind_id, itemsize = layout
    kind = kinds.by_id(kind_id)
    if kind.dtype.itemsize != itemsize:
        return book_kind(depth_of_bytes(itemsize))  # stored as deep as they were journaled
    return kind


def _join(kind: Kind, buffers: list[memoryview], owners: list[int], counts: list[int]) -> tuple[Records, Ids]:
    data = buffers[0] if len(buffers) == 1 else b"".join(buffers)
    records = np.frombuffer(data, dtype=kind.dtype)
    return records, np.repeat(np.array(owners, dtype=np.int32), np.array(counts))


def _undeclared_rows(
    frame: Frame, kind_id: int, itemsize: int, payload: memoryview, first: int
) -> list[StoredQuarantine]:
    """Records of a stream that the configuration no longer declares: kept, where they can be found. Their items are
    numbered from `first` on.
    """
    detail = (
        f"stream number {kind_id} with records of {itemsize} bytes is not declared (any more); declare it as it was, "
        "and replay"
    )
    return [
        StoredQuarantine(
            frame.instrument,
            frame.ts_known,
            frame.offset,
            first + start // itemsize,
            f"stream {kind_id}",
            "undeclared",
            detail,
            "journal",
            bytes(payload[start : start + itemsize]),
        )
        for start in range(0, len(payload), itemsize)
    ]


def _quarantine_rows(frame: Frame, payload: memoryview) -> list[StoredQuarantine]:
    return [
        StoredQuarantine(
            frame.instrument,
            frame.ts_known,
            frame.offset,
            item,
            _text(q.kind),
            _text(q.rule),
            q.detail,
            q.source,
            q.payload,
        )
        for item, q in enumerate(quarantine_decoder.decode(payload))
    ]


def _text(words: str) -> str:
    """PostgreSQL's text holds no NUL."""
    return words.replace("\0", "\ufffd")
