"""Integers of one column as few bytes: differences or repeats, narrowed, cut into byte planes, compressed. Pure.

`encode` finds out by a sample which of four ways is shortest, `decode` undoes it bit for bit:

    plain   the values, from their smallest on, in units of their greatest common divisor
    delta   their differences; delta2: the differences of those
    repeat  0 where a value is the one before, else the value + 1: for what changes seldom and then by much

Byte k of all numbers stands together (a plane): the high ones are nearly constant and cost nothing, and what is noise
costs no time, because zstd stores it as it is. All planes of a column are one frame of zstd, each a zstd block or
several of its own. All arithmetic wraps at 64 bits, which loses nothing: any int64 pattern comes back.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.market.errors import BlockDamaged
from marketd.market.zstd import CompressionParameter, ZstdCompressor, ZstdDecompressor, compress

Ints = npt.NDArray[np.int64]
Coded = npt.NDArray[np.unsignedinteger[Any]]
Meta = list[Any]  # what the header tells of a stream, in msgpack's types
Take = Callable[[int], memoryview]  # the next bytes of a block

CONSTANT, PLAIN, DELTA, DELTA2, REPEAT = range(5)
# Levels of zstd: 12 and more take forty times as long for half a percent; 1 is for comparing ways.
_OPTIONS = {int(CompressionParameter.compression_level): 9}
_QUICK = 1
_RAW_DEFLATE = -15  # of blocks of before: without zlib's own header and sum
_SAMPLE, _SAMPLES = 2048, 3  # values in a row, and how often
_NARROW = (1, 1, 2, 4, 4, 8, 8, 8, 8)  # bytes of the integer that so many planes are read as
_UNSIGNED = 2**63


class Encoded(NamedTuple):
    """What the header tells of the stream, and its bytes."""

    meta: Meta
    data: bytes


def encode(values: Ints, way: int | None = None) -> Encoded:
    """In this way, where it can be gone, or the shortest one, judged by a sample. `values` has shape (n,), n > 0."""
    low, high = int(values.min()), int(values.max())
    if low == high:
        return Encoded([CONSTANT, low], b"")
    base, step, numbers = _in_units(values, low, high)
    ways = _ways(low, high) if len(values) > 2 else (PLAIN,)
    if way not in ways:
        sample = _sample(numbers)
        way = min(ways, key=lambda candidate: _cost(_transformed(sample, candidate)[1]))
    heads, coded = _transformed(numbers, way)
    offset, planes = _planes(coded)
    frame = _compressed(planes)
    return Encoded([way, base, step, heads, offset, len(planes), len(frame)], frame)


def estimate(values: Ints) -> float:
    """About how many bytes `values` would take: by a sample, in the quick way. For choosing between predictions."""
    sample = _sample(values)
    low, high = int(sample.min()), int(sample.max())
    if low == high:
        return 0.0
    numbers = _in_units(sample, low, high)[2]
    cost = min(_cost(_transformed(numbers, way)[1]) for way in (_ways(low, high) if len(sample) > 2 else [PLAIN]))
    return cost * len(values) / len(sample)


def decode(meta: Meta, count: int, take: Take) -> Ints:
    """The `count` values of a stream; `take` gives its next bytes."""
    if meta[0] == CONSTANT:
        return np.full(count, meta[1], np.int64)
    way, base, step, heads, offset, *told = meta
    left = count - len(heads)
    planes = _inflated_planes(told[0], left, take) if len(told) == 1 else _decompressed(told[0], told[1], left, take)
    coded = _joined(planes, offset)
    values = _restored(way, heads, coded, offset, count)
    if step != 1:
        values *= step
    if base:
        values += base
    return values


def bytes_of(meta: Meta) -> int:
    """How many bytes of the block a stream takes."""
    if meta[0] == CONSTANT:
        return 0
    length = meta[-1]
    return sum(map(abs, length)) if isinstance(length, list) else int(length)


# ---- ways ---------------------------------------------------------------------------------------------


def _ways(low: int, high: int) -> tuple[int, ...]:
    # what spans more than half of all numbers is not counted from its smallest, and then a value + 1 may be 0
    return (PLAIN, DELTA, DELTA2) if high - low >= _UNSIGNED - 1 else (PLAIN, DELTA, DELTA2, REPEAT)


def _in_units(values: Ints, low: int, high: int) -> tuple[int, int, Ints]:
    """Base, step and numbers, so that values = base + step * numbers."""
    if high - low >= _UNSIGNED - 1:
        return 0, 1, values
    numbers = values - low
    step = int(np.gcd.reduce(numbers))
    if step > 1:
        numbers //= step
    return low, step, numbers


def _sample(values: Ints) -> Ints:
    if len(values) <= _SAMPLE * _SAMPLES:
        return values
    starts = np.linspace(0, len(values) - _SAMPLE, _SAMPLES).astype(int)
    return np.concatenate([values[start : start + _SAMPLE] for start in starts])


def _cost(coded: Coded) -> int:
    return sum(len(compress(plane, _QUICK)) for plane in _planes(coded)[1])


def _transformed(numbers: Ints, way: int) -> tuple[list[int], Coded]:
    """What stands in the header, and the numbers to be written."""
    if way == DELTA:
        return [int(numbers[0])], _zigzag(np.diff(numbers))
    if way == DELTA2:
        steps = np.diff(numbers)
        return [int(numbers[0]), int(steps[0])], _zigzag(np.diff(steps))
    if way == REPEAT:
        coded = numbers + 1
        coded[1:][numbers[1:] == numbers[:-1]] = 0
        return [], coded.view(np.uint64)
    return [], numbers.view(np.uint64)


def _restored(way: int, heads: list[int], coded: Coded, offset: int, count: int) -> Ints:
    if not len(coded):  # all of them are the same
        coded = np.full(count - len(heads), offset, np.uint64)
    if way == PLAIN:
        return coded.astype(np.int64)
    if way == REPEAT:
        changed = np.flatnonzero(coded)
        values = coded[changed].astype(np.int64) - 1
        return np.repeat(values, np.diff(changed, append=count))
    values = np.empty(count, np.int64)
    values[len(heads) :] = _unzigzag(coded)
    for place in reversed(range(len(heads))):
        values[place] = heads[place]
        np.add.accumulate(values[place:], out=values[place:])
    return values


def _zigzag(numbers: Ints) -> Coded:
    """0, -1, 1, -2, … as 0, 1, 2, 3, …: small ones stay small."""
    coded: Coded = ((numbers << 1) ^ (numbers >> 63)).view(np.uint64)
    return coded


def _unzigzag(coded: Coded) -> npt.NDArray[np.signedinteger[Any]]:
    # in the narrow type in which they were read, which is several times quicker
    one = coded.dtype.type(1)
    halves = coded >> one
    halves ^= np.negative(coded & one)
    return halves.view(f"i{coded.dtype.itemsize}")


# ---- planes -------------------------------------------------------------------------------------------


def _planes(coded: Coded) -> tuple[int, list[memoryview]]:
    """What is taken off from all, and byte 0 of each, byte 1 of each, …, as far as they are not all 0."""
    low, high = int(coded.min()), int(coded.max())
    offset = low if _bytes(high - low) < _bytes(high) else 0
    if offset:
        coded = coded - np.uint64(offset)
    matrix = np.ascontiguousarray(coded.view(np.uint8).reshape(-1, 8).T)
    return offset, [matrix[k].data for k in range(_bytes(high - offset))]


def _bytes(number: int) -> int:
    return (number.bit_length() + 7) // 8


def _compressed(planes: list[memoryview]) -> bytes:
    """One frame; nothing where there are no planes."""
    if not planes:
        return b""
    compressor = ZstdCompressor(options=_OPTIONS)
    # a plane is like itself and not like the next one: each has tables of its own
    parts = [compressor.compress(plane, ZstdCompressor.FLUSH_BLOCK) for plane in planes]
    return b"".join((*parts, compressor.flush()))


def _decompressed(planes: int, length: int, count: int, take: Take) -> list[npt.NDArray[np.uint8]]:
    if not planes:
        return []
    data = ZstdDecompressor().decompress(take(length), planes * count + 1)
    return list(_checked(data, planes * count).reshape(planes, -1))


def _inflated_planes(lengths: list[int], count: int, take: Take) -> list[npt.NDArray[np.uint8]]:
    """Of blocks of before: each plane is deflated by itself, or stored as it is (its length is negative)."""
    return [_checked(_inflated(take(abs(length)), length, count), count) for length in lengths]


def _inflated(data: memoryview, length: int, count: int) -> bytes | memoryview:
    return zlib.decompressobj(_RAW_DEFLATE).decompress(data, count + 1) if length > 0 else data


def _checked(data: bytes | memoryview, count: int) -> npt.NDArray[np.uint8]:
    if len(data) != count:
        raise BlockDamaged(f"a column of a packed block has {len(data)} bytes of numbers instead of {count}")
    return np.frombuffer(data, np.uint8)


def _joined(planes: list[npt.NDArray[np.uint8]], offset: int) -> Coded:
    """The numbers of their planes; none when there are no planes."""
    if not planes:
        return np.empty(0, np.uint64)
    width = 8 if offset else _NARROW[len(planes)]
    if width == 1:
        return planes[0]
    matrix = np.zeros((len(planes[0]), width), np.uint8)
    for k, plane in enumerate(planes):
        matrix[:, k] = plane
    coded = matrix.reshape(-1).view(f"u{width}")
    if offset:
        coded += np.uint64(offset)
    return coded
