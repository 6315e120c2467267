"""Compressed batches of TimescaleDB's columnstore, decoded: a column of all batches at once. Pure.

A batch is a row of a compressed chunk: up to a thousand rows of one segment, each column one value of the type
`compressed_data`, as its binary send tells it. Integers and times are told by the differences of their differences,
zigzagged, in words of 64 bits (Simple-8b with runs), and behind the first two bytes that is big-endian throughout:

    u1 algorithm (4), u1 has NULLs, i8 last value, i8 last difference, u4 values, u4 words,
    selectors of 4 bits, 16 in 8 bytes from the lowest on, one a word; then the words

Selectors 1 to 14 say how many numbers of how many bits a word has, from its lowest bits on; 15 is a run: its value in
36 bits, above them how often. Whatever is told otherwise, or does not end with the value that it should, is an
UnknownBatch: whoever meets one reads rows instead.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from marketd.market import compiled
from marketd.market.errors import MarketdError
from marketd.market.records import Records
from marketd.market.rows import from_postgres_us

_DELTA_DELTA = 4
_HEAD = np.dtype(
    [("algorithm", "u1"), ("nulls", "u1"), ("last", ">i8"), ("delta", ">i8"), ("values", ">u4"), ("words", ">u4")]
)
_NUMBERS = np.array([0, 64, 32, 21, 16, 12, 10, 9, 8, 6, 5, 4, 3, 2, 1, 0])  # in a word, by selector
_BITS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 21, 32, 64, 36)
_RUN = 15
_MOST_IN_A_WORD = 64
_PLACES = tuple(np.arange(numbers) for numbers in _NUMBERS.tolist())
_SHIFTS = tuple(
    (np.arange(numbers) * bits).astype(np.uint64) for numbers, bits in zip(_NUMBERS.tolist(), _BITS, strict=True)
)
_MASKS = tuple(np.uint64((1 << bits) - 1) for bits in _BITS)
_FEW = 12  # numbers in a word, up to which they are taken one by one
_ONE = np.uint64(1)
_BATCHES_AT_ONCE = 128  # a day of seconds is 87; more of them only take more memory
_COPY_HEAD_BYTES, _COPY_END = 19, b"\xff\xff"
_WIDTH, _FIELD = struct.Struct("!h"), struct.Struct("!i")
_MOST_ROWS = 65_535  # of a batch; the server makes a thousand

type_words = npt.NDArray[np.uint64]


class UnknownBatch(MarketdError):
    """A compressed batch is told in a way that is not known here."""


def unpacked(
    data: bytes, segments: Sequence[str], columns: Sequence[str], times: Collection[str], dtype: np.dtype[Any]
) -> Records:
    """The rows of batches as records, the last row of the last batch first: in the order of time where these are the
    newest first, as the store keeps them. Fields that are no column stay 0.

    `data`: a binary COPY of an int4, how many rows a batch has; of `segments`, which all of its rows share, as int8; of
    `columns`, compressed. `times`: which columns are such.
    """
    fields = _fields(data, 1 + len(segments) + len(columns))
    view = memoryview(data)
    counts = _plain(view, fields[0], ">i4")
    if ((counts < 1) | (counts > _MOST_ROWS)).any():
        raise UnknownBatch("a batch has another number of rows than batches have")
    records = np.zeros(int(counts.sum()), dtype)
    left = len(records)
    for first in range(0, len(counts), _BATCHES_AT_ONCE):
        part = slice(first, first + _BATCHES_AT_ONCE)
        rows = counts[part]
        target = records[left - int(rows.sum()) : left]
        left -= len(target)
        for name, spots in zip(segments, fields[1:], strict=False):
            target[name] = np.repeat(_plain(view, spots[part], ">i8"), rows)[::-1]
        for name, spots in zip(columns, fields[1 + len(segments) :], strict=True):
            values = integers([view[start:end] for start, end in spots[part]], rows)
            target[name] = (from_postgres_us(values) if name in times else values)[::-1]
    return records


def _fields(data: bytes, width: int) -> list[list[tuple[int, int]]]:
    """Where the fields of a COPY stream lie, column by column. UnknownBatch when one is NULL, or there are others."""
    fields: list[list[tuple[int, int]]] = [[] for _ in range(width)]
    at, end = _COPY_HEAD_BYTES, len(data) - len(_COPY_END)
    try:
        while at < end:
            if _WIDTH.unpack_from(data, at) != (width,):
                raise UnknownBatch("a batch has another number of columns")
            at += _WIDTH.size
            for spots in fields:
                (size,) = _FIELD.unpack_from(data, at)
                if size < 0:
                    raise UnknownBatch("a batch has a column without a value")
                at += _FIELD.size
                spots.append((at, at + size))
                at += size
    except struct.error as error:
        raise UnknownBatch("batches are cut off") from error
    if at != end or not data.endswith(_COPY_END):
        raise UnknownBatch("batches are cut off")
    return fields


def _plain(view: memoryview, spots: Sequence[tuple[int, int]], dtype: str) -> npt.NDArray[np.int64]:
    """A column that is not compressed. UnknownBatch when its values are of another size."""
    size = np.dtype(dtype).itemsize
    if any(end - start != size for start, end in spots):
        raise UnknownBatch("a batch has a column of another type")
    return np.frombuffer(b"".join([view[start:end] for start, end in spots]), dtype).astype(np.int64)


def integers(values: Sequence[bytes | memoryview], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """A column of several batches, one behind the other, of which each has so many `rows`. UnknownBatch when one is
    none of differences without NULLs.
    """
    return plain_integers(values, rows) if compiled.part is None else _compiled_integers(compiled.part, values, rows)


def _compiled_integers(
    part: ModuleType, values: Sequence[bytes | memoryview], rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    found = np.empty(int(rows.sum()), np.int64)
    ends = np.cumsum(rows).tolist()
    for value, count, end in zip(values, rows.tolist(), ends, strict=True):
        if not part.batch_column(value, count, found, end - count):
            raise UnknownBatch("a batch has a column that is told in another way, or does not end with its last value")
    return found


def plain_integers(values: Sequence[bytes | memoryview], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """`integers` without the compiled part."""
    heads = _heads(values, rows)
    count = heads["words"].astype(np.int64)
    words, selectors = _words(values, count)
    numbers = _NUMBERS[selectors]
    is_run = selectors == _RUN
    numbers[is_run] = (words[is_run] >> np.uint64(_BITS[_RUN])).astype(np.int64)
    ends = np.cumsum(count)
    told = np.add.reduceat(numbers, ends - count)
    before_last = told - numbers[ends - 1]  # only the last word has room for more than there are
    wrong = (told < rows) | (told >= rows + _MOST_IN_A_WORD) | (before_last >= rows)
    if (numbers == 0).any() or wrong.any():
        raise UnknownBatch("a batch has another number of values than its words")
    deltas = _spread(words, selectors, numbers, count, int(told.max()))[:, : int(rows.max())]
    return _summed(deltas, heads, rows)


def _heads(values: Sequence[bytes | memoryview], rows: npt.NDArray[np.int64]) -> Records:
    if min(map(len, values)) < _HEAD.itemsize:
        raise UnknownBatch("a batch has a column of another algorithm")
    heads = np.frombuffer(b"".join([value[: _HEAD.itemsize] for value in values]), _HEAD)
    if (heads["algorithm"] != _DELTA_DELTA).any() or heads["nulls"].any():
        raise UnknownBatch("a batch has a column of another algorithm, or with NULLs")
    words = heads["words"].astype(np.int64)
    sizes = _HEAD.itemsize + 8 * (words + (words + 15) // 16)
    if (heads["values"] != rows).any() or (words < 1).any() or (sizes != [len(value) for value in values]).any():
        raise UnknownBatch("a batch has a column of another length")
    return heads


def _words(values: Sequence[bytes | memoryview], count: npt.NDArray[np.int64]) -> tuple[type_words, Any]:
    """The words of all batches, one behind the other, and the selector of each; `count`: how many each batch has."""
    # little-endian by itself: NumPy shifts its own order many times as fast
    both = np.frombuffer(b"".join([value[_HEAD.itemsize :] for value in values]), ">u8").astype(np.uint64)
    holders = (count + 15) // 16  # of selectors
    begins = np.repeat(np.cumsum(count + holders) - count - holders, count)
    place = np.arange(len(begins)) - np.repeat(np.cumsum(count) - count, count)
    shifts = (place & 15).astype(np.uint64) << np.uint64(2)
    selectors = (both[begins + (place >> 4)] >> shifts).astype(np.uint8) & np.uint8(15)
    return both[begins + np.repeat(holders, count) + place], selectors


def _spread(
    words: type_words,
    selectors: npt.NDArray[np.uint8],
    numbers: npt.NDArray[np.int64],
    count: npt.NDArray[np.int64],
    width: int,
) -> type_words:
    """The numbers of all words, a row of at least `width` for each batch; behind its last number it is not set."""
    first = np.cumsum(count) - count
    starts = np.cumsum(numbers) - numbers
    starts += np.repeat(np.arange(len(count)) * width - starts[first], count)
    spread = np.empty((len(count), width), np.uint64)
    flat = spread.reshape(-1)
    order = np.argsort(selectors, kind="stable")
    ends = np.cumsum(np.bincount(selectors, minlength=len(_BITS))).tolist()
    for selector in range(1, len(_BITS)):
        which = order[ends[selector - 1] : ends[selector]]
        if len(which):
            _spread_alike(flat, selector, words[which], starts[which], numbers[which])
    return spread


def _spread_alike(
    flat: type_words,
    selector: int,
    words: type_words,
    starts: npt.NDArray[np.int64],
    numbers: npt.NDArray[np.int64],
) -> None:
    """Of words of one selector."""
    mask = _MASKS[selector]
    if selector == _RUN:
        places = np.repeat(starts - np.cumsum(numbers) + numbers, numbers)
        places += np.arange(len(places))
        flat[places] = np.repeat(words & mask, numbers)
    elif len(_PLACES[selector]) > _FEW:
        flat[starts[:, None] + _PLACES[selector]] = (words[:, None] >> _SHIFTS[selector]) & mask
    else:
        for place, shift in enumerate(_SHIFTS[selector]):
            flat[starts + place] = (words >> shift) & mask


def _summed(deltas: type_words, heads: Records, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The values, of which `deltas` are the zigzagged differences of differences; all of it modulo 2**64."""
    sums = deltas & _ONE
    np.negative(sums, out=sums)
    deltas >>= _ONE
    deltas ^= sums
    np.cumsum(deltas, axis=1, out=deltas)
    np.cumsum(deltas, axis=1, out=sums)
    values = sums.view(np.int64)
    batches, last = np.arange(len(rows)), rows - 1
    if (values[batches, last] != heads["last"]).any() or (deltas.view(np.int64)[batches, last] != heads["delta"]).any():
        raise UnknownBatch("a batch does not end with its last value")
    if (rows == values.shape[1]).all():
        return values.reshape(-1)
    found: npt.NDArray[np.int64] = values[np.arange(values.shape[1]) < rows[:, None]]
    return found
