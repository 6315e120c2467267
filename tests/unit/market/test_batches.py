"""Compressed batches, decoded. What a server makes of real ones: tests/integration/sql/test_sql_batches.py."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.market import batches, compiled
from marketd.market.batches import UnknownBatch, plain_integers, unpacked

WIDTHS = ((64, 1), (32, 2), (21, 3), (16, 4), (12, 5), (10, 6), (9, 7), (8, 8), (6, 10), (5, 12), (4, 16), (3, 21))
WIDTHS = (*WIDTHS, (2, 32), (1, 64))  # numbers in a word, bits of each; by selector from 1 on
WAYS = [plain_integers] if compiled.part is None else [plain_integers, batches.integers]
int64s = st.integers(-(2**63), 2**63 - 1)
columns = st.one_of(
    st.lists(int64s, min_size=1, max_size=40),
    st.lists(st.integers(-3, 3), min_size=1, max_size=300),
    st.builds(lambda value, times: [value] * times, int64s, st.integers(1, 500)),
    st.builds(lambda start, step: list(range(start, start + 99 * step, step)), *[st.integers(1, 2**40)] * 2),
)
way = pytest.mark.parametrize("integers", WAYS, ids=["plain", "compiled"][: len(WAYS)])


def told(values: list[int]) -> bytes:
    """A column as TimescaleDB tells it: the last word may have room for more."""
    numbers, last, delta = [], 0, 0
    for value in values:
        step = value - last
        change = (step - delta + 2**63) % 2**64 - 2**63
        numbers.append((change << 1 if change >= 0 else ~(change << 1)) % 2**64)
        last, delta = value, step
    words, selectors = [], []
    while numbers:
        run = next((n for n, number in enumerate(numbers) if number != numbers[0]), len(numbers))
        if run > 2 and numbers[0] < 2**36:
            selectors.append(15)
            words.append(run << 36 | numbers[0])
            numbers = numbers[run:]
            continue
        for selector, (count, bits) in enumerate(WIDTHS, 1):
            held = numbers[:count]
            if all(number < 2**bits for number in held):
                selectors.append(selector)
                words.append(sum(number << bits * place for place, number in enumerate(held)))
                numbers = numbers[count:]
                break
    holders = [
        sum(each << 4 * place for place, each in enumerate(selectors[first : first + 16]))
        for first in range(0, len(selectors), 16)
    ]
    head = struct.pack(">BBqqII", 4, 0, last, (delta + 2**63) % 2**64 - 2**63, len(values), len(words))
    return head + struct.pack(f">{len(holders) + len(words)}Q", *holders, *words)


@way
@given(st.lists(columns, min_size=1, max_size=5))
@settings(max_examples=40)
def test_columns_of_several_batches_are_what_was_told(integers: Callable[..., Any], held: list[list[int]]) -> None:
    found = integers([told(values) for values in held], np.array([len(values) for values in held]))
    assert found.tolist() == [value for values in held for value in values]


@way
@pytest.mark.parametrize("bits", [bits for _, bits in WIDTHS])
def test_words_of_each_width_are_read(integers: Callable[..., Any], bits: int) -> None:
    greatest = min(2 ** (bits - 1), 2**61)
    values = np.cumsum(np.cumsum([0, greatest - 1, -greatest, 0, greatest // 2, 1 if bits > 2 else 0] * 40)).tolist()
    data = told(values)
    assert integers([data, memoryview(data)], np.array([len(values)] * 2)).tolist() == values * 2


@way
def test_what_is_told_otherwise_is_not_guessed(integers: Callable[..., Any]) -> None:
    data, rows = told([5, 7, 8, 8, 8, 8, 8, 8, -900]), np.array([9])
    assert integers([data], rows).tolist() == [5, 7, 8, 8, 8, 8, 8, 8, -900]
    for wrong in (
        b"\x02" + data[1:],  # another algorithm
        data[:1] + b"\x01" + data[2:],  # with NULLs
        data[:9] + bytes([data[9] ^ 1]) + data[10:],  # ends with another value
        data[:17] + bytes([data[17] ^ 1]) + data[18:],  # and with another difference
        data[:-1] + bytes([data[-1] ^ 1]),
        data[:26] + bytes(8) + data[34:],  # selectors that mean nothing
        data[:26] + b"\x11" * 8 + data[34:],  # of wider words
        data[:-8],
        data + bytes(8),
        data[:20],
        b"",
    ):
        with pytest.raises(UnknownBatch):
            integers([wrong], rows)
    with pytest.raises(UnknownBatch):
        integers([data], np.array([8]))


@way
@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (1, [(14, 10), (14, 0)]),  # a word more than there are values
        (1, [(15, 2 << 36 | 10), (14, 0)]),  # a run of more, and a word behind it
        (2, [(13, 10), (13, 0)]),
        (3, [(13, 10), (13, 0), (14, 0)]),
    ],
)
def test_only_the_last_word_has_room_for_more(
    integers: Callable[..., Any], rows: int, words: list[tuple[int, int]]
) -> None:
    selectors = sum(selector << 4 * place for place, (selector, _) in enumerate(words))
    head = struct.pack(">BBqqII", 4, 0, 5 * rows, 5, rows, len(words))
    data = head + struct.pack(f">{1 + len(words)}Q", selectors, *(word for _, word in words))
    with pytest.raises(UnknownBatch):
        integers([data], np.array([rows]))


def copied(*batches: tuple[bytes, ...]) -> bytes:
    """Batches as a COPY stream."""
    rows = [
        struct.pack("!h", len(fields)) + b"".join(struct.pack("!i", len(field)) + field for field in fields)
        for fields in batches
    ]
    return bytes(19) + b"".join(rows) + b"\xff\xff"


def test_batches_of_another_shape_are_not_guessed() -> None:
    row = struct.pack(">i", 3), struct.pack(">q", 7), told([1, 2, 4])
    dtype = np.dtype([("source", "i8"), ("price", "i8")])

    def read(data: bytes) -> Any:
        return unpacked(data, ["source"], ["price"], (), dtype).tolist()

    data = copied(row, row)
    assert read(data) == [(7, 4), (7, 2), (7, 1)] * 2
    assert read(copied()) == []
    for wrong in (
        *(copied(row, (struct.pack(">i", rows), *row[1:])) for rows in (-1, 0, 2, 4, 65_536, 2**31 - 1)),
        copied(row, row[:2]),
        copied((*row, b"")),
        copied((row[0][:2], *row[1:])),
        copied((row[0], row[1][:4], row[2])),
        copied((row[0], row[1] + row[1], row[2]), (row[0], b"", row[2])),  # in all as many bytes
        *(data[:-cut] for cut in range(1, 90)),
        data[:-2] + bytes(3) + data[-2:],
    ):
        with pytest.raises(UnknownBatch):
            read(wrong)


@pytest.mark.skipif(compiled.part is None, reason="the compiled part is not built")
def test_the_compiled_part_writes_nowhere_else() -> None:
    part: Any = compiled.part
    data, values = told([1, 2, 4]), np.full(5, 77)
    assert part.batch_column(data, 3, values, 1) and values.tolist() == [77, 1, 2, 4, 77]
    for rows, at in ((3, 3), (3, -1), (-1, 0), (6, 0)):
        with pytest.raises(ValueError, match="no room"):
            part.batch_column(data, rows, values, at)
    for target in (np.zeros(5, np.int32), np.zeros(10, np.int64)[::2], bytes(40)):
        with pytest.raises((ValueError, BufferError)):
            part.batch_column(data, 3, target, 0)
    with pytest.raises(TypeError):
        part.batch_column(data, 3, values)
