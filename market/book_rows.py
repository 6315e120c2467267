"""Records of books of different depths: how deep they are, and how they are cut or filled up to another depth.

The depth is a setting of a daemon (`book.depth`), a producer sends as many levels as it has, and the database keeps
what it was given: whoever puts such records together brings them to one depth first. Works on BOOK, and on any record
that has its fields of levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from marketd.market.errors import InvalidArgument
from marketd.market.records import MAX_BOOK_DEPTH, BookFlag, Kind, Records, book_dtype
from marketd.market.times import ABSENT

LEVELS = ("bid_price", "bid_size", "ask_price", "ask_size")
_COUNTS = ("bid_count", "ask_count")
_CUT_FLAGS = (int(BookFlag.BIDS_CUT), int(BookFlag.ASKS_CUT))
_LEVEL_BYTES = book_dtype(2).itemsize - book_dtype(1).itemsize
_NUMBER_BYTES = 8
_FEW = 8  # records; below, slicing bytes is quicker than assigning fields
_HEAD_BYTES = book_dtype(1).itemsize - _LEVEL_BYTES


def depth_of(records: Records) -> int:
    """Levels a side of these records."""
    return int(records.dtype["bid_price"].shape[0])


def depth_of_bytes(itemsize: int) -> int:
    """Levels a side of a BOOK record of so many bytes; InvalidArgument when there is none of that size."""
    depth, rest = divmod(itemsize - _HEAD_BYTES, _LEVEL_BYTES)
    if rest or not 1 <= depth <= MAX_BOOK_DEPTH:
        raise InvalidArgument(f"a book's record has 1 to {MAX_BOOK_DEPTH} levels a side, not {itemsize} bytes")
    return depth


@lru_cache(maxsize=64)
def is_book_dtype(dtype: np.dtype[Any]) -> bool:
    """Whether these are BOOK records, of whatever depth."""
    shape = dtype["bid_price"].shape if "bid_price" in (dtype.names or ()) else ()
    return len(shape) == 1 and dtype == book_dtype(shape[0])


@lru_cache(maxsize=64)
def with_depth(dtype: np.dtype[Any], depth: int) -> np.dtype[Any]:
    """The dtype with `depth` levels a side, all else as it was."""
    shapes = {name: dtype[name].shape for name in dtype.names or ()} | dict.fromkeys(LEVELS, (depth,))
    return np.dtype([(name, dtype[name].base.str, shape) for name, shape in shapes.items()])


def refit(records: Records, depth: int) -> Records:
    """The records with `depth` levels a side: deeper ones are cut, missing ones are ABSENT. A copy, unless they fit."""
    dtype = with_depth(records.dtype, depth)
    if dtype == records.dtype:
        return records
    if len(records) <= _FEW and depth < depth_of(records) and is_book_dtype(records.dtype):
        return _cut_few(records, depth, dtype)
    kept = min(depth, depth_of(records))
    found = np.empty(len(records), dtype)
    for name in dtype.names or ():
        if name in LEVELS:
            found[name][:, :kept] = records[name][:, :kept]
            found[name][:, kept:] = ABSENT
        elif name in _COUNTS:
            np.minimum(records[name], depth, out=found[name])
        else:
            found[name] = records[name]
    _drop_flags(found, records, depth)
    return found


def _drop_flags(found: Records, records: Records, depth: int) -> None:
    """Of a side that had more levels not all are here that the venue told."""
    for name, flag in zip(_COUNTS, _CUT_FLAGS, strict=True):
        found["flags"][records[name] > depth] &= ~flag


def _cut_few(records: Records, depth: int, dtype: np.dtype[Any]) -> Records:
    """As bytes, for a third of the time: the levels of BOOK follow its fixed fields, side by side."""
    data, size, stride = records.tobytes(), records.dtype.itemsize, depth_of(records) * _NUMBER_BYTES
    parts = []
    for start in range(0, len(data), size):
        levels = start + _HEAD_BYTES
        parts.append(data[start:levels])
        parts += [data[at : at + depth * _NUMBER_BYTES] for at in range(levels, start + size, stride)]
    found = np.frombuffer(bytearray().join(parts), dtype)
    if (found["flags"] & (_CUT_FLAGS[0] | _CUT_FLAGS[1])).any():
        _drop_flags(found, records, depth)
    for name in _COUNTS:
        np.minimum(found[name], depth, out=found[name])
    return found


def join(parts: Sequence[Records]) -> Records:
    """All the records in their order, at the depth of the deepest."""
    depth = max(depth_of(records) for records in parts)
    return np.concatenate([refit(records, depth) for records in parts])


def read_books(kind: Kind, itemsize: int, payload: bytes | memoryview) -> Records:
    """BOOK records as they were written, at the depth of `kind`: a journal's may have another than the present one."""
    if itemsize == kind.dtype.itemsize:
        return np.frombuffer(payload, dtype=kind.dtype)
    written = np.frombuffer(payload, dtype=book_dtype(depth_of_bytes(itemsize)))
    return refit(written, int(kind.dtype["bid_price"].shape[0]))


def read_records(kind: Kind, itemsize: int, payload: bytes | memoryview) -> Records:
    """The records of a section of `itemsize` bytes each; books of another depth are brought to that of `kind`."""
    if kind.name == "book" and itemsize != kind.dtype.itemsize:
        return read_books(kind, itemsize, payload)
    return np.frombuffer(payload, dtype=kind.dtype)
