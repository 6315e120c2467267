"""A stretch of one instrument's records as several blocks, and several blocks as one stretch again. Pure.

Blocks are cut by their number of records, so that who wants minutes of a day unpacks about as much; they are told in
the ways that suited the first of them, because finding those out takes longer than packing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.market.blocks import Block, Choices, pack, refitted
from marketd.market.errors import BlockDamaged
from marketd.market.ordering import newest_of_each_time
from marketd.market.records import CANDLE, Kind, Records
from marketd.market.times import ABSENT


class Within(NamedTuple):
    """What of a stretch is wanted: start <= time < end, known at `known`; all in ns, None is open."""

    start: int | None = None
    end: int | None = None
    known: int | None = None


EVERYTHING = Within()


def packed_parts(records: Records, time: str, block_rows: int) -> Iterator[tuple[int | None, Records, bytes]]:
    """Blocks of about `block_rows` records, between which no time is shared: where each begins (the first: where the
    stretch does), what is in it, and the block, which was decoded again and compared. BlockDamaged when it differs.
    """
    choices = Choices()
    for start_ns, part in _cut(records, time, block_rows):
        data = pack(part, choices)
        if Block(data).records().tobytes() != part.tobytes():
            raise BlockDamaged(f"{len(part)} records were packed wrongly: they stay rows")
        yield start_ns, part, data


def _cut(records: Records, time: str, block_rows: int) -> Iterator[tuple[int | None, Records]]:
    """Parts as large as each other, each in the order of `records`."""
    parts = max(1, round(len(records) / block_rows))
    if parts == 1:
        yield None, records
        return
    times = records[time]
    ordered = np.sort(times)
    cuts = np.unique(ordered[[len(records) * part // parts for part in range(1, parts)]])
    cuts = cuts[cuts > ordered[0]]
    number = np.searchsorted(cuts, times, side="right")
    order = np.argsort(number, kind="stable")
    ends = np.cumsum(np.bincount(number, minlength=len(cuts) + 1)).tolist()
    starts: list[int | None] = [None, *cuts.tolist()]
    for start_ns, first, last in zip(starts, [0, *ends[:-1]], ends, strict=True):
        yield start_ns, records[order[first:last]]


def unpacked_stretch(
    blocks: Sequence[bytes | memoryview], kind: Kind, within: Within = EVERYTHING, count: int | None = None
) -> Records:
    """What is wanted of these blocks, in the layout of `kind`, block after block; of records that replace each other
    those that count. `count`: how many there must be in them, wanted or not. BlockDamaged.
    """
    read = [Block(data) for data in blocks]
    if count is not None and count != sum(block.count for block in read):
        raise BlockDamaged(f"{len(read)} packed blocks have not {count} records together")
    wanted = [_wanted(block, kind, within) for block in read]
    lengths = [_count(block, rows) for block, rows in zip(read, wanted, strict=True)]
    found = np.empty(sum(lengths), kind.dtype)
    at = 0
    for rows, length in zip(wanted, lengths, strict=True):
        block = read.pop(0)  # its columns are let go before the next one's are made, which then lie in the same memory
        into = found[at : at + length]
        if block.dtype == kind.dtype:
            block.write(into, rows)
        else:
            into[:] = refitted(block.records(wanted=rows), kind)
        at += length
    return newest_of_each_time(found, kind.time) if has_versions(kind) else found


def unpacked_times(blocks: Sequence[bytes | memoryview], time: str, within: Within) -> npt.NDArray[np.int64]:
    """The times alone, of what is wanted by its time."""
    times = np.concatenate([Block(data).column(time) for data in blocks])
    first = ABSENT if within.start is None else within.start
    is_in = times >= first if within.end is None else (times >= first) & (times < within.end)
    found: npt.NDArray[np.int64] = times[is_in]
    return found


def _wanted(block: Block, kind: Kind, within: Within) -> slice | npt.NDArray[np.bool_]:
    wanted: Any = np.ones(block.count, np.bool_)
    if within.start is not None:
        wanted &= block.column(kind.time) >= within.start
    if within.end is not None:
        wanted &= block.column(kind.time) < within.end
    if within.known is not None:
        wanted &= block.column("ts_known") <= within.known
    places = np.flatnonzero(wanted)
    if not len(places):
        return slice(0, 0)
    # as a rule they stand side by side, and need not be picked out one by one
    first, last = int(places[0]), int(places[-1]) + 1
    return slice(first, last) if len(places) == last - first else wanted


def _count(block: Block, wanted: slice | npt.NDArray[np.bool_]) -> int:
    return len(range(*wanted.indices(block.count))) if isinstance(wanted, slice) else int(wanted.sum())


def has_versions(kind: Kind) -> bool:
    """Is there one record of each moment that counts, the newest version? Bars are told apart by their source, too."""
    return kind.time in kind.key and kind.dtype != CANDLE
